//! The manual pages tell everything, and the example configurations are right.

use clap::Command;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

type Result = std::result::Result<(), Box<dyn Error>>;

fn pages() -> std::result::Result<BTreeMap<String, String>, Box<dyn Error>> {
    let mut all = BTreeMap::new();
    for package in vipd_packaging::packages() {
        for (name, text) in package.pages()? {
            all.insert(name, String::from_utf8(text)?.replace("\\-", "-"));
        }
    }
    Ok(all)
}

/// Every command that is not hidden, with the name of its page.
fn commands(command: &Command, name: &str, section: &str, found: &mut Vec<(String, Command)>) {
    found.push((format!("{name}.{section}"), command.clone()));
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "help") {
        commands(sub, &format!("{name}-{}", sub.get_name()), section, found);
    }
}

#[test]
fn every_command_has_a_page_with_every_option() -> Result {
    let pages = pages()?;
    let mut found = Vec::new();
    for package in vipd_packaging::packages() {
        for (command, section) in package.commands {
            commands(&command, command.get_name(), section, &mut found);
        }
    }
    assert!(found.len() > 15, "{found:?}");
    for (page, command) in found {
        let text = pages.get(&page).ok_or_else(|| format!("there is no page {page}"))?;
        for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
            let flag = argument.get_long().map(|long| format!("--{long}"));
            let values = argument.get_value_names().unwrap_or_default();
            let name = flag.unwrap_or_else(|| values.first().map(ToString::to_string).unwrap_or_default());
            assert!(text.contains(&name), "{page} does not tell of {name}");
        }
    }
    Ok(())
}

#[test]
fn the_hidden_command_has_no_page() -> Result {
    let pages = pages()?;
    assert!(!pages.keys().any(|name| name.contains("guard") || name.contains("help")), "{:?}", pages.keys());
    Ok(())
}

#[test]
fn the_files_pages_have_every_key_and_heading_of_their_documents() -> Result {
    let pages = pages()?;
    for package in vipd_packaging::packages() {
        let page = pages.get(&format!("{}.5", package.file.name)).ok_or("no page")?;
        let mut keys = 0;
        for line in package.file.document.lines() {
            if let Some(heading) = line.strip_prefix("## ") {
                assert!(
                    page.contains(&format!(".SH {}", heading.replace('`', "").replace('\'', "\\*(Aq"))),
                    "{heading}"
                );
            }
            if let Some(key) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) {
                keys += 1;
                assert!(
                    page.contains(&format!(".TP\n\\fB{key}\\fR")),
                    "{} does not tell of {key}",
                    package.file.name
                );
            }
        }
        assert!(keys > 10, "{}: {keys} keys", package.file.name);
    }
    Ok(())
}

#[test]
fn what_the_documents_write_is_no_request_of_roff() -> Result {
    for (name, page) in pages()? {
        let known = ["TH", "SH", "SS", "PP", "TP", "IP", "RS", "RE", "nf", "fi", "br", "ie", "el", "sp"];
        for line in page.lines().filter_map(|line| line.strip_prefix('.')) {
            let request = line.split(' ').next().unwrap_or_default();
            assert!(known.contains(&request), "{name}: .{line}");
        }
    }
    Ok(())
}

#[test]
fn the_examples_are_right_also_what_they_comment_out() -> Result {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    vipd_config::Config::load(examples.join("vipd.toml"))?;
    vipd_config::dnsd::Config::load(examples.join("dnsd.toml"))?;
    // What is commented out is right, too, once it is not.
    for name in ["vipd.toml", "dnsd.toml"] {
        let text = std::fs::read_to_string(examples.join(name))?;
        let on = |line: &str| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest.to_owned(),
            Some(_) | None => line.to_owned(),
        };
        let text: Vec<_> = text.lines().map(on).collect();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, text.join("\n"))?;
        if name == "vipd.toml" {
            vipd_config::Config::load(&path)?;
        } else {
            vipd_config::dnsd::Config::load(&path)?;
        }
    }
    Ok(())
}
