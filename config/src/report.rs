//! What is wrong with a file, where, and what to do about it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Something in the file that is refused.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Error {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line, from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// The column in characters, from 1; 0 when the file as a whole is meant.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Something in the file that is allowed, and probably not meant.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Warning {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is odd.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// An error and what caused it, in one text.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| (*e).source());
    let mut texts: Vec<String> = Vec::new();
    for text in causes.map(ToString::to_string) {
        // Some say their cause themselves.
        if !texts.last().is_some_and(|t| t.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

/// `F:line:column: severity: message`, and the hint on a line of its own.
fn line(
    f: &mut fmt::Formatter<'_>,
    (file, line, column): (&str, usize, usize),
    severity: &str,
    (message, hint): (&str, Option<&str>),
) -> fmt::Result {
    match line {
        0 => write!(f, "{file}: {severity}: {message}")?,
        _ => write!(f, "{file}:{line}:{column}: {severity}: {message}")?,
    }
    match hint {
        Some(hint) => write!(f, "\n    hint: {hint}"),
        None => Ok(()),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, (&self.file, self.line, self.column), "error", (&self.message, self.hint.as_deref()))
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, (&self.file, self.line, self.column), "warning", (&self.message, self.hint.as_deref()))
    }
}

impl std::error::Error for Error {}

/// Everything that is wrong with a file, sorted by place; at least one error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Errors(Vec<Error>);

impl Errors {
    /// One error about the file as a whole.
    pub(crate) fn whole_file(file: &str, problem: Problem) -> Self {
        Self(vec![Error {
            file: file.into(),
            line: 0,
            column: 0,
            message: problem.message,
            hint: problem.hint,
        }])
    }

    /// The errors, sorted by place; never empty.
    #[must_use]
    pub fn as_slice(&self) -> &[Error] {
        &self.0
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl IntoIterator for Errors {
    type Item = Error;
    type IntoIter = std::vec::IntoIter<Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Error;
    type IntoIter = std::slice::Iter<'a, Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// What is wrong, before its place is known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Problem {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A hint, if there is one to give.
    pub(crate) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// The same, said of a key.
    pub(crate) fn of(mut self, key: &str) -> Self {
        self.message = format!("{key}: {}", self.message);
        self
    }
}

/// A value and the bytes of the file it stands in.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// The findings about one file, gathered while it is judged.
pub(crate) struct Report<'t> {
    file: Arc<str>,
    text: &'t str,
    /// The byte at which each line starts.
    lines: Vec<usize>,
    errors: Vec<Error>,
    warnings: Vec<Warning>,
}

impl<'t> Report<'t> {
    pub(crate) fn new(file: &str, text: &'t str) -> Self {
        let lines = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1));
        Self { file: file.into(), text, lines: lines.collect(), errors: vec![], warnings: vec![] }
    }

    pub(crate) fn error(&mut self, span: &Range<usize>, problem: Problem) {
        let (line, column) = self.place(span.start);
        let Problem { message, hint } = problem;
        self.errors.push(Error { file: self.file.clone(), line, column, message, hint });
    }

    pub(crate) fn warning(&mut self, span: &Range<usize>, problem: Problem) {
        let (line, column) = self.place(span.start);
        let Problem { message, hint } = problem;
        self.warnings.push(Warning { file: self.file.clone(), line, column, message, hint });
    }

    /// The line a span starts on, from 1.
    pub(crate) fn line(&self, span: &Range<usize>) -> usize {
        self.place(span.start).0
    }

    /// Line and column, from 1, of a byte of the text.
    fn place(&self, byte: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= byte).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let before = self.text.as_bytes().get(start..byte.min(self.text.len())).unwrap_or_default();
        // A character of UTF-8 has one byte that does not continue another.
        let column = before.iter().filter(|b| **b & 0xc0 != 0x80).count() + 1;
        (line, column)
    }

    /// The warnings if there is no error, else every error; each sorted by place.
    pub(crate) fn finish(mut self) -> Result<Vec<Warning>, Errors> {
        if self.errors.is_empty() {
            self.warnings.sort();
            self.warnings.dedup();
            return Ok(self.warnings);
        }
        self.errors.sort();
        self.errors.dedup();
        Err(Errors(self.errors))
    }
}

/// `did you mean "X"?`, when one of the words is near enough.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, known).map(|near| format!("did you mean \"{near}\"?"))
}

/// The nearest of the words, when it is near enough to be what was meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Also bounds the work: the distance costs the product of both lengths.
    if word.len() > 100 {
        return None;
    }
    let plain = |w: &str| w.to_lowercase().replace(['_', '-'], "");
    let typed = plain(word);
    let distance = |k: &str| {
        let k = plain(k);
        let distance = strsim::damerau_levenshtein(&typed, &k);
        let allowed = (k.chars().count().max(typed.chars().count()) / 3).max(1);
        let begun = typed.len() >= 3 && k.starts_with(&typed);
        (begun || distance <= allowed).then_some(distance)
    };
    known.into_iter().filter_map(|k| distance(k).map(|d| (d, k))).min_by_key(|(d, _)| *d).map(|(_, k)| k)
}

/// Names joined for a sentence: `"a", "b" and "c"`.
pub(crate) fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().map(quote).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A text of the file in quotation marks, shortened when it is long.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = "a = 1\nnäme = 2\n";
        let report = Report::new("f", text);
        assert_eq!(report.place(0), (1, 1));
        assert_eq!(report.place(4), (1, 5));
        assert_eq!(report.place(6), (2, 1));
        assert_eq!(text.find("me"), Some(9));
        assert_eq!(report.place(9), (2, 3), "ä is one character of two bytes");
        assert_eq!(report.place(1000), (3, 1), "beyond the end is the end");
        assert_eq!(Report::new("f", "").place(0), (1, 1));
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        let known = ["advert-interval", "vrrp-version", "lease"];
        assert_eq!(nearest("advert_interval", known), Some("advert-interval"));
        assert_eq!(nearest("leese", known), Some("lease"));
        assert_eq!(nearest("advert", known), Some("advert-interval"), "the beginning of it");
        assert_eq!(nearest("timeout", known), None);
        assert_eq!(nearest("pool2", ["pool1"]), Some("pool1"));
        assert_eq!(nearest("x", ["y"]), Some("y"));
    }
}
