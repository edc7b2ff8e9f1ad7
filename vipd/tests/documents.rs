//! What the documents say is so.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The targets of a page's links that are files of this repository.
fn links(page: &str) -> Vec<String> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|t| !t.contains("://") && !t.starts_with('#')).map(ToOwned::to_owned).collect()
}

#[test]
fn the_configuration_in_the_readme_is_the_shortest_example() {
    let example = read("config/examples/minimal.toml");
    let example: String = example.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect();
    let readme = read("README.md");
    let shown = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(shown, Some(example.as_str()));
}

#[test]
fn links_lead_somewhere() {
    let mut count = 0;
    for page in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        for link in links(&read(page)) {
            assert!(root().join(&link).exists(), "{page} links to {link}");
            count += 1;
        }
    }
    assert!(count > 5, "links are found at all");
}
