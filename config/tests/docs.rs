//! `docs/configuration.md` tells every key, and its examples are good.

use vipd_config::Config;

const PAGE: &str = include_str!("../../docs/configuration.md");

/// The part of the page under the heading of a table.
fn chapter(section: &str) -> &'static str {
    let start = PAGE.match_indices("\n## ").map(|(i, _)| i).find(|i| {
        let heading = PAGE[i + 4..].lines().next().unwrap_or_default();
        heading.replace('`', "").eq_ignore_ascii_case(section)
    });
    let text = start.map_or("", |i| &PAGE[i + 4..]);
    text.find("\n## ").map_or(text, |end| &text[..end])
}

#[test]
fn every_key_stands_in_the_page() {
    for (section, keys) in vipd_config::keys() {
        let chapter = chapter(section);
        assert!(!chapter.is_empty(), "no chapter {section:?}");
        assert!(!keys.is_empty(), "{section}");
        for key in keys {
            assert!(chapter.contains(&format!("\n| `{key}` | ")), "{key} of {section} is not in the page");
        }
        let rows = chapter.lines().filter(|l| l.starts_with("| `")).count();
        assert_eq!(rows, keys.len(), "{section} has rows for keys that do not exist");
    }
}

#[test]
fn every_file_in_the_page_is_good() -> Result<(), vipd_config::Errors> {
    let files: Vec<&str> = PAGE.split("```toml\n").skip(1).filter_map(|b| b.split("```").next()).collect();
    assert!(!files.is_empty());
    for file in files {
        assert_eq!(Config::parse(file, "docs/configuration.md")?.warnings, [], "{file}");
    }
    Ok(())
}
