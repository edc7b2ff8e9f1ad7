//! The commands that the documents show.

use anyhow::{Context, Result};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use std::path::{Path, PathBuf};

/// A command, and the page that shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shown {
    /// The page, from the repository's root.
    pub page: String,
    /// What a reader types.
    pub command: String,
}

/// The repository's root.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Every command of README.md and docs/, in the pages' order.
///
/// In a text between backquotes a command begins with one of `programs` and
/// has another word; `others` are first words of what is none.
///
/// # Errors
/// A page cannot be read, or has a text between backquotes that may be a
/// command and begins with none of these words.
pub fn commands(programs: &[&str], others: &[&str]) -> Result<Vec<Shown>> {
    let mut pages = vec![PathBuf::from("README.md")];
    let docs = std::fs::read_dir(root().join("docs")).context("cannot read docs/")?;
    let mut names: Vec<_> = docs.map(|d| Ok(d?.file_name())).collect::<std::io::Result<_>>()?;
    names.sort();
    pages.extend(
        names.iter().map(|n| Path::new("docs").join(n)).filter(|p| p.extension() == Some("md".as_ref())),
    );
    let mut all = Vec::new();
    for path in pages {
        let page = path.display().to_string();
        let text = std::fs::read_to_string(root().join(&path)).with_context(|| page.clone())?;
        let found = of_page(&text, programs, others).with_context(|| page.clone())?;
        all.extend(found.into_iter().map(|command| Shown { page: page.clone(), command }));
    }
    Ok(all)
}

fn of_page(text: &str, programs: &[&str], others: &[&str]) -> Result<Vec<String>> {
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    let mut block: Option<(String, String)> = None;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match (event, &mut block) {
            (Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))), _) => {
                block = Some((language.to_string(), String::new()));
            }
            (Event::Text(line), Some((_, lines))) => lines.push_str(&line),
            (Event::End(TagEnd::CodeBlock), _) => {
                let (language, lines) = block.take().unwrap_or_default();
                match language.as_str() {
                    "sh" => found.extend(of_script(&lines)),
                    // A terminal: what is typed, and what comes.
                    "console" => {
                        found.extend(lines.lines().filter_map(|l| l.strip_prefix("# ")).map(str::to_owned))
                    }
                    _ => anyhow::ensure!(
                        !lines.lines().any(|l| is_command(l, programs)),
                        "a block that is not marked `sh` has a command: {lines}"
                    ),
                }
            }
            (Event::Code(code), None) => {
                let first = code.split(' ').next().unwrap_or_default();
                if is_command(&code, programs) {
                    found.push(code.to_string());
                } else if may_be_command(&code) && !others.contains(&first) {
                    unknown.push(code.to_string());
                }
            }
            _ => {}
        }
    }
    anyhow::ensure!(
        unknown.is_empty(),
        "do these begin with a program? Name it in the test, in one list or the other: {unknown:?}"
    );
    Ok(found)
}

fn is_command(code: &str, programs: &[&str]) -> bool {
    let mut words =
        code.split_whitespace().skip_while(|w| w.split_once('=').is_some_and(|(name, _)| is_variable(name)));
    words.next().is_some_and(|first| programs.contains(&first)) && words.next().is_some()
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
}

/// Several words, of which the first may be a program's name.
fn may_be_command(code: &str) -> bool {
    let mut words = code.split(' ');
    let first = words.next().unwrap_or_default();
    let named = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let assigns = words.next().is_none_or(|second| second.starts_with(['=', '<', '>']));
    !assigns && first.starts_with(|c: char| c.is_ascii_lowercase()) && first.bytes().all(named)
}

/// The commands of a script, without comments; lines that go on are one.
fn of_script(script: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = String::new();
    for line in script.lines() {
        let line = without_comment(line);
        if let Some(begun) = line.strip_suffix('\\') {
            open.push_str(begun.trim_end());
            open.push(' ');
            continue;
        }
        open.push_str(line.trim());
        let whole = std::mem::take(&mut open);
        if !whole.is_empty() {
            found.push(whole);
        }
    }
    found
}

/// A line up to a number sign that stands outside quotes, at the beginning of a word.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before.is_whitespace() => return line[..at].trim_end(),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None | Some(_), _) => {}
        }
        before = c;
    }
    line.trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_where_readers_see_them() -> Result<()> {
        let page = "Type `vipctl status` or `FOO=1 make x`, not `vipctl`; `key = \"v\"` is none.\n\n\
                    | a |\n|---|\n| `vipctl a\\|b` |\n\n\
                    ```sh\nmake demo   # shows it\n# a comment\naws x \\\n  '{\"#\": 1}'\n```\n\n\
                    ```console\n# vipd keygen\nabc\n```\n\n```toml\na = 1\n```\n\n`balance first`\n";
        let found = of_page(page, &["vipctl", "vipd", "make"], &["balance"])?;
        let wanted =
            ["vipctl status", "FOO=1 make x", "vipctl a|b", "make demo", "aws x '{\"#\": 1}'", "vipd keygen"];
        assert_eq!(found, wanted);
        Ok(())
    }

    #[test]
    fn what_is_new_is_asked_about() {
        for page in ["Use `rsync a b`.", "```\nvipd run\n```\n", "```bash\nvipd run\n```\n"] {
            assert!(of_page(page, &["vipd"], &[]).is_err(), "{page}");
        }
    }
}
