//! The new file while it is put together, and its text.

use super::ledger::{Ledger, SectionId};
use std::fmt::Write as _;

/// A table of the new file.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// `[[pool]]`.
    pub(super) heading: String,
    /// Sections of the old files that became this table.
    pub(super) from: Vec<SectionId>,
    rows: Vec<(String, String)>,
    /// What a person should think of; comments at the table's end.
    advice: Vec<String>,
}

/// A value as TOML writes it.
pub(super) fn text(value: &str) -> String {
    let mut out = "\"".to_owned();
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list of texts.
pub(super) fn list<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    let values: Vec<String> = values.into_iter().map(text).collect();
    format!("[{}]", values.join(", "))
}

/// A list with an element on each line.
pub(super) fn lines(values: &[String]) -> String {
    match values {
        [one] => format!("[{one}]"),
        several => several.iter().fold("[\n".to_owned(), |all, one| all + "  " + one + ",\n") + "]",
    }
}

/// Milliseconds as a duration of the file.
pub(super) fn duration(ms: u64) -> String {
    match ms {
        0 => text("0s"),
        ms if ms % 3_600_000 == 0 => text(&format!("{}h", ms / 3_600_000)),
        ms if ms % 60_000 == 0 => text(&format!("{}m", ms / 60_000)),
        ms if ms % 1000 == 0 => text(&format!("{}s", ms / 1000)),
        ms => text(&format!("{ms}ms")),
    }
}

impl Table {
    pub(super) fn new(heading: &str, from: Vec<SectionId>) -> Self {
        Self { heading: heading.to_owned(), from, rows: vec![], advice: vec![] }
    }

    /// Adds a key with a value as TOML writes it.
    pub(super) fn key(&mut self, key: &str, value: impl Into<String>) {
        self.rows.push((key.to_owned(), value.into()));
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.key(key, text(value));
    }

    pub(super) fn number(&mut self, key: &str, value: impl Into<u64>) {
        self.key(key, value.into().to_string());
    }

    pub(super) fn duration(&mut self, key: &str, ms: u64) {
        self.key(key, duration(ms));
    }

    pub(super) fn yes(&mut self, key: &str) {
        self.key(key, "true");
    }

    pub(super) fn advise(&mut self, what: impl Into<String>) {
        self.advice.push(what.into());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn write(&self, out: &mut String) {
        let _ = writeln!(out, "{}", self.heading);
        for (key, value) in &self.rows {
            let _ = writeln!(out, "{key} = {value}");
        }
        for advice in &self.advice {
            comment(out, advice);
        }
    }
}

/// A comment, wrapped at 100 columns.
fn comment(out: &mut String, what: &str) {
    let mut line = "#".to_owned();
    for word in what.split(' ') {
        if line.len() + word.len() > 100 && line.len() > 1 {
            let _ = writeln!(out, "{line}");
            line = "#  ".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "{line}");
}

/// The text of the new file.
pub(super) fn render(title: &[String], tables: &[Table], ledger: &Ledger) -> String {
    let mut out = String::new();
    for line in title {
        comment(&mut out, line);
    }
    let mut told: Vec<SectionId> = Vec::new();
    for table in tables {
        out.push('\n');
        for section in &table.from {
            if !told.contains(section) {
                told.push(*section);
                section_comments(&mut out, *section, ledger, true);
            }
        }
        table.write(&mut out);
    }
    let rest: Vec<SectionId> = ledger.sections().map(|(id, _)| id).filter(|id| !told.contains(id)).collect();
    if rest.iter().any(|id| !ledger.comments(*id).is_empty()) {
        out.push_str("\n# ---- What became no table of its own ----\n");
        for id in rest {
            section_comments(&mut out, id, ledger, false);
        }
    }
    out
}

fn section_comments(out: &mut String, id: SectionId, ledger: &Ledger, always: bool) {
    let comments = ledger.comments(id);
    if comments.is_empty() && !always {
        return;
    }
    if let Some((_, section)) = ledger.sections().find(|(i, _)| *i == id) {
        comment(out, &format!("{}:{}: {}", section.file, section.number, section.title));
    }
    for what in comments {
        comment(out, &what);
    }
}

/// Makes a name that the file may hold, and that is not taken yet.
pub(super) fn name(wanted: &str, taken: &mut Vec<String>) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let base: String = wanted.chars().map(allowed).take(58).collect();
    let base = if base.is_empty() { "unnamed".to_owned() } else { base };
    let mut name = base.clone();
    let mut number = 2;
    while taken.contains(&name) {
        name = format!("{base}-{number}");
        number += 1;
    }
    taken.push(name.clone());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_largest_unit_that_fits() {
        for (ms, shown) in [(0, "0s"), (250, "250ms"), (2000, "2s"), (90_000, "90s"), (3_600_000, "1h")] {
            assert_eq!(duration(ms), format!("\"{shown}\""));
        }
    }

    #[test]
    fn names_are_allowed_and_unique() {
        let mut taken = vec![];
        assert_eq!(name("VI 1/a", &mut taken), "VI-1-a");
        assert_eq!(name("VI 1/a", &mut taken), "VI-1-a-2");
        assert_eq!(name("", &mut taken), "unnamed");
        assert!(name(&"x".repeat(200), &mut taken).len() <= 64);
    }
}
