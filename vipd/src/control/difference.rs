//! What a reload will change: the file in force beside the one on disk.

use std::fmt::Write as _;

/// Longer files are not compared line by line: that would take longer than an order may.
const MAX_LINES: usize = 3000;

/// The lines that go and come, each group under its table's heading; empty if
/// nothing but comments and blanks differs.
#[must_use]
pub(crate) fn difference(old: &str, new: &str) -> String {
    let (old, new) = (meaning(old), meaning(new));
    if old.len().max(new.len()) > MAX_LINES {
        return if old == new { String::new() } else { "the file is too long to show what differs\n".into() };
    }
    let mut out = String::new();
    let mut shown = None;
    for (sign, line) in changes(&old, &new) {
        if shown != Some(line.table) && line.text != line.table {
            let _ = writeln!(out, "  {}", line.table);
        }
        shown = Some(line.table);
        let _ = writeln!(out, "{sign} {}", line.text);
    }
    out
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Line<'a> {
    text: &'a str,
    table: &'a str,
}

/// The lines that say something, each with its table's heading.
fn meaning(text: &str) -> Vec<Line<'_>> {
    let mut table = "";
    let lines =
        text.lines().map(str::trim_end).filter(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#'));
    lines
        .map(|text| {
            if text.starts_with('[') {
                table = text;
            }
            Line { text, table }
        })
        .collect()
}

/// The shortest way from one to the other: the lines outside their longest common subsequence.
fn changes<'a>(old: &[Line<'a>], new: &[Line<'a>]) -> Vec<(char, Line<'a>)> {
    let width = new.len() + 1;
    // How many lines the ends from here have in common.
    let mut common = vec![0_u16; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i].text == new[j].text {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut changes) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i].text == new[j].text {
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]
        {
            changes.push(('-', old[i]));
            i += 1;
        } else {
            changes.push(('+', new[j]));
            j += 1;
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "# the file\n[cluster]\nname = \"c\"\n\n[[pool]]\nname = \"p\"\nretries = 3\n";

    #[test]
    fn what_goes_and_comes_stands_under_its_table() {
        let new = OLD.replace("retries = 3", "retries = 5") + "[status]\nhttp = \"127.0.0.1:1\"\n";
        let wanted = "  [[pool]]\n- retries = 3\n+ retries = 5\n+ [status]\n+ http = \"127.0.0.1:1\"\n";
        assert_eq!(difference(OLD, &new), wanted);
    }

    #[test]
    fn comments_and_blanks_are_no_difference() {
        assert_eq!(difference(OLD, &OLD.replace("# the file", "\n\n# another word")), "");
        assert_eq!(difference("", ""), "");
        assert_eq!(difference("", "a = 1"), "  \n+ a = 1\n");
    }

    #[test]
    fn a_long_file_is_only_said_to_differ() {
        let long = "x = 1\n".repeat(MAX_LINES + 1);
        assert_eq!(difference(&long, &long), "");
        assert!(difference(&long, OLD).contains("too long"));
    }
}
