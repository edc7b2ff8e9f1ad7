//! Columns of text, aligned, with colours where a terminal takes them.

use std::fmt::Write;

/// What a colour means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tone {
    /// Nothing.
    Plain,
    /// As it should be.
    Good,
    /// Look at it.
    Odd,
    /// It does not work.
    Bad,
    /// Less important.
    Faint,
}

impl Tone {
    /// Its ANSI escape sequence (ECMA-48, SGR).
    const fn sgr(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("\x1b[32m"),
            Self::Odd => Some("\x1b[33m"),
            Self::Bad => Some("\x1b[31m"),
            Self::Faint => Some("\x1b[2m"),
        }
    }
}

/// A cell of a table.
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn new(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: clean(text.as_ref()).replace('\n', " "), tone }
    }

    pub(super) fn plain(text: impl AsRef<str>) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Text that may be written to a terminal: what servers and other nodes say
/// ends up in sentences, and must not move anybody's cursor.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Paints a text.
pub(crate) fn paint(text: &str, tone: Tone, colour: bool) -> String {
    match tone.sgr() {
        Some(sgr) if colour => format!("{sgr}{text}\x1b[0m"),
        Some(_) | None => text.to_owned(),
    }
}

/// Writes a table under its heads; columns are as wide as their widest cell.
pub(super) fn write(out: &mut String, heads: &[&str], rows: Vec<Vec<Cell>>, colour: bool) {
    let heads = heads.iter().map(|h| Cell::new(h, Tone::Faint)).collect();
    let rows: Vec<Vec<Cell>> = std::iter::once(heads).chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &rows {
        let mut gap = 0;
        for (cell, width) in row.iter().zip(&widths) {
            if !cell.text.is_empty() {
                let _ = write!(out, "{:gap$}{}", "", paint(&cell.text, cell.tone, colour));
                gap = 0;
            }
            // Blanks are written when something follows them: lines have none at their end.
            let used = cell.text.chars().count();
            gap = gap.saturating_add(width.saturating_sub(used)).saturating_add(2);
        }
        out.push('\n');
    }
}
