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

/// The text of every Rust file below a directory.
fn sources(dir: &Path, out: &mut String) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, out);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            out.push_str(&std::fs::read_to_string(&path).expect("text"));
        }
    }
}

#[test]
fn what_is_said_to_happen_is_tested() {
    let page = read("docs/operators.md");
    let table = page.split("## What happens when").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows = table.expect("the table").lines().filter(|line| line.starts_with("| ")).skip(1);
    let mut all = String::new();
    for dir in ["cloud", "config", "dnsd", "packaging", "tests", "vipd"] {
        sources(&root().join(dir), &mut all);
    }
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [when, .., tests] = cells.as_slice() else { panic!("{row}") };
        assert_eq!(cells.len(), 5, "{row}");
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{when} is shown by no test");
        for name in names {
            // Cases of the lab have their module before them, and stand as texts.
            let known = all.contains(&format!("\"{name}\"")) || all.contains(&format!("fn {name}("));
            assert!(known, "{when}: there is no test {name}");
        }
        count += 1;
    }
    assert!(count > 20, "{count} rows are found");
}
