//! What servers say, in texts for people.

use std::fmt;

/// The start of what a server said: one line, and printable, for it may be anything.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Sample(String);

impl Sample {
    /// Characters that are kept.
    const LENGTH: usize = 120;

    pub(super) fn new(said: &[u8]) -> Self {
        // No character is longer than four bytes.
        let start = said.get(..4 * Self::LENGTH + 4).unwrap_or(said);
        let text = String::from_utf8_lossy(start);
        let mut words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty());
        let mut line = words.next().unwrap_or_default().to_owned();
        for word in words {
            line.push(' ');
            line.push_str(word);
        }
        if let Some((end, _)) = line.char_indices().nth(Self::LENGTH) {
            line.truncate(end);
            line.push('…');
        }
        Self(line)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `part` is somewhere in `whole`.
pub(super) fn contains(whole: &[u8], part: &[u8]) -> bool {
    part.is_empty() || whole.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_one_short_printable_line() {
        assert_eq!(Sample::new(b" +OK\r\n ready\x00now\n").to_string(), "+OK ready now");
        assert_eq!(Sample::new(b"\xff\x1b[31m").to_string(), "\u{fffd} [31m");
        let long = "é".repeat(1_000);
        assert_eq!(Sample::new(long.as_bytes()).to_string().chars().count(), Sample::LENGTH + 1);
    }

    #[test]
    fn a_part_is_found() {
        assert!(contains(b"abc", b"bc") && contains(b"abc", b"") && contains(b"", b""));
        assert!(!contains(b"abc", b"cb") && !contains(b"", b"a") && !contains(b"a", b"aa"));
    }
}
