//! Every line that was read, and what became of it.

use std::sync::Arc;

/// A line's position in the [`Ledger`].
pub(super) type LineId = usize;
/// A section's position in the [`Ledger`].
pub(super) type SectionId = usize;

/// The lines of all files, in the order in which they were read.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    lines: Vec<Entry>,
    sections: Vec<Section>,
}

/// What stands together in a file: what becomes of it stands together too.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) file: Arc<str>,
    pub(super) number: usize,
    pub(super) title: String,
}

#[derive(Debug)]
struct Entry {
    file: Arc<str>,
    number: usize,
    text: String,
    section: SectionId,
    fate: Fate,
    remarks: Vec<String>,
}

/// What became of a line.
#[derive(Debug, Eq, PartialEq)]
enum Fate {
    /// Nothing asked for it yet.
    Untold,
    /// Its meaning is in the new file, or vipd does it anyway.
    Carried,
    /// Its meaning is lost, for this reason.
    Lost(String),
}

impl Ledger {
    /// Opens a section; lines are put into it.
    pub(super) fn section(&mut self, file: &Arc<str>, number: usize, title: &str) -> SectionId {
        self.sections.push(Section { file: Arc::clone(file), number, title: title.to_owned() });
        self.sections.len() - 1
    }

    pub(super) fn line(
        &mut self,
        file: &Arc<str>,
        number: usize,
        words: &[String],
        section: SectionId,
    ) -> LineId {
        let entry = Entry {
            file: Arc::clone(file),
            number,
            text: without_secrets(words),
            section,
            fate: Fate::Untold,
            remarks: vec![],
        };
        self.lines.push(entry);
        self.lines.len() - 1
    }

    /// The line is carried over; whatever else is said of it, this counts.
    pub(super) fn carry(&mut self, line: LineId) {
        if let Some(entry) = self.lines.get_mut(line) {
            entry.fate = Fate::Carried;
        }
    }

    /// The line is carried over, and something is to be known about it.
    pub(super) fn remark(&mut self, line: LineId, what: impl Into<String>) {
        self.carry(line);
        self.note(line, what);
    }

    /// Something is to be known about a line, whatever becomes of it.
    pub(super) fn note(&mut self, line: LineId, what: impl Into<String>) {
        let what = what.into();
        if let Some(entry) = self.lines.get_mut(line).filter(|e| !e.remarks.contains(&what)) {
            entry.remarks.push(what);
        }
    }

    /// The line is not carried over, unless another use of it is.
    pub(super) fn lose(&mut self, line: LineId, why: impl Into<String>) {
        if let Some(entry) = self.lines.get_mut(line).filter(|e| e.fate == Fate::Untold) {
            entry.fate = Fate::Lost(why.into());
        }
    }

    /// The line is not carried over, whatever was said of it before.
    pub(super) fn drop(&mut self, line: LineId, why: impl Into<String>) {
        if let Some(entry) = self.lines.get_mut(line) {
            entry.fate = Fate::Lost(why.into());
            entry.remarks.clear();
        }
    }

    /// Takes back that the lines of a section were carried over.
    pub(super) fn lose_section(&mut self, section: SectionId, why: &str) {
        for entry in self.lines.iter_mut().filter(|e| e.section == section) {
            if entry.fate == Fate::Carried || entry.fate == Fate::Untold {
                entry.fate = Fate::Lost(why.to_owned());
                entry.remarks.clear();
            }
        }
    }

    /// What nothing asked for is lost.
    pub(super) fn close(&mut self) {
        for entry in self.lines.iter_mut().filter(|e| e.fate == Fate::Untold) {
            entry.fate = Fate::Lost("nothing that was carried over uses it".into());
        }
    }

    /// Lines carried over, and lines read.
    pub(super) fn sum(&self) -> (usize, usize) {
        let carried = self.lines.iter().filter(|e| e.fate == Fate::Carried).count();
        (carried, self.lines.len())
    }

    /// The lines of a section of which something is to be told, one comment each.
    pub(super) fn comments(&self, section: SectionId) -> Vec<String> {
        let mut comments = Vec::new();
        for entry in self.lines.iter().filter(|e| e.section == section) {
            let place = format!("{}:{}: `{}`", entry.file, entry.number, entry.text);
            if let Fate::Lost(why) = &entry.fate {
                comments.push(format!("NOT CARRIED OVER: {place}: {why}"));
            }
            comments.extend(entry.remarks.iter().map(|what| format!("{place}: {what}")));
        }
        comments
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = (SectionId, &Section)> {
        self.sections.iter().enumerate()
    }
}

/// A line for a comment: passwords stay where they are, control characters too.
fn without_secrets(words: &[String]) -> String {
    const BEFORE: [&str; 6] = ["auth_pass", "auth", "password", "insecure-password", "AUTH", "key"];
    let mut shown: Vec<String> = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let secret =
            i.checked_sub(1).and_then(|p| words.get(p)).is_some_and(|p| BEFORE.contains(&p.as_str()));
        // `tcp-check send` has it in one word: "AUTH secret\r\n".
        let word = match word.split_once(' ') {
            Some(("AUTH" | "auth", _)) => "AUTH ***",
            Some(_) | None if secret => "***",
            Some(_) | None => word,
        };
        let plain =
            word.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] });
        let plain: String = plain.collect();
        shown.push(if plain.contains(' ') || plain.is_empty() { format!("\"{plain}\"") } else { plain });
    }
    let text = shown.join(" ");
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &[&str]) -> String {
        without_secrets(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn no_secret_is_told() {
        assert_eq!(shown(&["auth_pass", "s3cret"]), "auth_pass ***");
        assert_eq!(shown(&["stats", "auth", "admin:pw"]), "stats auth ***");
        assert_eq!(shown(&["tcp-check", "send", "AUTH pw\r\n"]), "tcp-check send \"AUTH ***\"");
        assert_eq!(shown(&["user", "joe", "insecure-password", "pw"]), "user joe insecure-password ***");
    }
}
