//! A document in Markdown as a manual page.

use crate::File;
use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use std::fmt::Write as _;

/// The page of a configuration file.
pub(crate) fn page(file: &File) -> String {
    let mut roff = Roff::default();
    let _ = write!(
        roff.text,
        ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH \"{}\" 5 \"\" \"vipd\" \"vipd\"\n.SH NAME\n{} \\- {}\n\
         .SH DESCRIPTION\n",
        file.name,
        escape(file.name),
        escape(file.about)
    );
    for event in Parser::new_ext(file.document, Options::ENABLE_TABLES) {
        roff.event(event);
    }
    roff.request(".SH \"SEE ALSO\"");
    let _ = writeln!(roff.text, "{}", file.see_also.join(", "));
    roff.text
}

/// The page as it grows.
#[derive(Default)]
struct Roff {
    text: String,
    /// In the document's title, which the page's name replaces.
    title: bool,
    /// In a block of code: lines stay as they are.
    code: bool,
    cells: Vec<String>,
    /// The columns' heads of the table at hand.
    heads: Vec<String>,
    in_cell: bool,
}

impl Roff {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.code => self.raw(&text),
            Event::Text(text) => self.put(&escape(&text)),
            Event::Code(text) => self.put(&format!("\\fB{}\\fR", escape(&text))),
            Event::SoftBreak => self.put("\n"),
            Event::HardBreak => self.request(".br"),
            // The documents have none of these, and nothing of them is for readers.
            Event::Html(_)
            | Event::InlineHtml(_)
            | Event::InlineMath(_)
            | Event::DisplayMath(_)
            | Event::FootnoteReference(_)
            | Event::Rule
            | Event::TaskListMarker(_) => {}
        }
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "another crate's enum; what is not named has no form of its own"
    )]
    fn start(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::Heading { level: HeadingLevel::H1, .. } => self.title = true,
            Tag::Heading { level: HeadingLevel::H2, .. } => self.begin(".SH "),
            Tag::Heading { .. } => self.begin(".SS "),
            Tag::Paragraph => self.request(".PP"),
            Tag::Item => self.request(".IP \\(bu 2"),
            Tag::CodeBlock(_) => {
                self.code = true;
                self.request(".PP\n.RS 4\n.nf");
            }
            Tag::Table(_) => self.heads.clear(),
            Tag::TableCell => {
                self.in_cell = true;
                self.cells.push(String::new());
            }
            Tag::Strong => self.put("\\fB"),
            Tag::Emphasis => self.put("\\fI"),
            _ => {}
        }
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "another crate's enum")]
    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(HeadingLevel::H1) => self.title = false,
            TagEnd::Heading(_) | TagEnd::Paragraph | TagEnd::Item => self.line(),
            TagEnd::CodeBlock => {
                self.code = false;
                self.request(".fi\n.RE");
            }
            TagEnd::TableCell => self.in_cell = false,
            TagEnd::TableHead => self.heads = std::mem::take(&mut self.cells),
            TagEnd::TableRow => self.row(),
            TagEnd::Strong | TagEnd::Emphasis => self.put("\\fR"),
            _ => {}
        }
    }

    /// A table's row: the first cell names what the last one explains, and those
    /// between stand in brackets with the heads of their columns.
    fn row(&mut self) {
        let cells = std::mem::take(&mut self.cells);
        let Some((last, (first, between))) =
            cells.split_last().and_then(|(l, rest)| Some((l, rest.split_first()?)))
        else {
            return;
        };
        let heads = self.heads.iter().skip(1);
        let between = heads.zip(between).filter(|(_, cell)| !cell.is_empty());
        let between: Vec<_> = between
            .map(|(head, cell)| match head.to_lowercase().as_str() {
                "default" if cell != "required" => format!("default {cell}"),
                _ => cell.clone(),
            })
            .collect();
        self.request(".TP");
        let _ = write!(self.text, "{first}");
        if !between.is_empty() {
            let _ = write!(self.text, " ({})", between.join("; "));
        }
        let _ = writeln!(self.text, "\n{last}");
    }

    fn begin(&mut self, request: &str) {
        self.line();
        self.text.push_str(request);
    }

    fn request(&mut self, request: &str) {
        self.line();
        self.text.push_str(request);
        self.text.push('\n');
    }

    fn line(&mut self) {
        if !self.text.ends_with('\n') {
            self.text.push('\n');
        }
    }

    fn raw(&mut self, text: &CowStr<'_>) {
        for line in text.lines() {
            let _ = writeln!(self.text, "{}", escape_line(line));
        }
    }

    fn put(&mut self, text: &str) {
        if self.title {
            return;
        }
        if self.in_cell {
            if let Some(cell) = self.cells.last_mut() {
                cell.push_str(text);
            }
        } else if self.text.ends_with('\n') {
            self.text.push_str(text.trim_start_matches('\n'));
        } else {
            self.text.push_str(text);
        }
    }
}

/// Backslashes, and what roff would print in another form.
fn escape(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\*(Aq")
        .replace('^', "\\(ha")
        .replace('~', "\\(ti")
}

/// The same for a whole line, which may not begin like a request.
fn escape_line(line: &str) -> String {
    let line = escape(line);
    if line.starts_with('.') { format!("\\&{line}") } else { line }
}
