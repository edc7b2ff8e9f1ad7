//! keepalived.conf as a tree of blocks (keepalived.conf(5)).

use super::super::ledger::{Ledger, LineId, SectionId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Blocks within blocks; more is no configuration.
const MAX_DEPTH: usize = 16;

/// A line, with the block that it opens.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: LineId,
    pub(super) section: SectionId,
    pub(super) words: Vec<String>,
    pub(super) children: Vec<Node>,
}

impl Node {
    pub(super) fn word(&self, n: usize) -> &str {
        self.words.get(n).map_or("", String::as_str)
    }

    /// The lines of a child block of this name.
    pub(super) fn block(&self, name: &str) -> impl Iterator<Item = &Self> {
        self.children.iter().filter(move |c| c.word(0) == name).flat_map(|c| &c.children)
    }

    /// This and all that is in it.
    pub(super) fn lose(&self, why: &str, ledger: &mut Ledger) {
        ledger.lose(self.line, why);
        self.children.iter().for_each(|c| c.lose(why, ledger));
    }

    /// This and all that is in it.
    pub(super) fn carry(&self, ledger: &mut Ledger) {
        ledger.carry(self.line);
        self.children.iter().for_each(|c| c.carry(ledger));
    }
}

/// The words of a line, without its comment; braces stand alone.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#' | '!') if word.is_none() => break,
            (None, '{' | '}') if word.as_ref().is_none_or(|w| !w.ends_with('$') && !w.contains("${")) => {
                words.extend(word.take());
                words.push(c.to_string());
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Reads a text; every block at the top is a section of its own.
pub(super) fn parse(name: &Arc<str>, text: &str, ledger: &mut Ledger) -> Vec<Node> {
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    let mut stack: Vec<Vec<Node>> = vec![vec![]];
    let mut section = None;
    for (i, line) in text.lines().enumerate() {
        let words: Vec<String> = words(line).into_iter().map(|w| substitute(&w, &variables)).collect();
        if let Some((variable, value)) =
            words.first().and_then(|w| w.strip_prefix('$')).and_then(|w| w.split_once('='))
        {
            let rest = words.get(1..).unwrap_or_default().join(" ");
            variables.insert(variable.to_owned(), format!("{value} {rest}").trim().to_owned());
            continue;
        }
        let mut rest = words.as_slice();
        while !rest.is_empty() {
            let end = rest.iter().position(|w| w == "{" || w == "}").unwrap_or(rest.len());
            let (said, more) = rest.split_at(end);
            let id = match section {
                Some(id) if stack.len() > 1 => id,
                Some(_) | None if said.is_empty() => {
                    section.unwrap_or_else(|| ledger.section(name, i + 1, "before the first block"))
                }
                Some(_) | None => ledger.section(name, i + 1, &said[..said.len().min(2)].join(" ")),
            };
            section = Some(id);
            if !said.is_empty() {
                let line = ledger.line(name, i + 1, said, id);
                let node = Node { line, section: id, words: said.to_vec(), children: vec![] };
                if let Some(top) = stack.last_mut() {
                    top.push(node);
                }
            }
            match more.first().map(String::as_str) {
                Some("{") if stack.len() < MAX_DEPTH => stack.push(vec![]),
                Some("}") if stack.len() > 1 => close(&mut stack),
                // A brace too many or too deep: what follows belongs where it is.
                Some(_) | None => {}
            }
            rest = more.get(1..).unwrap_or_default();
        }
    }
    while stack.len() > 1 {
        close(&mut stack);
    }
    stack.pop().unwrap_or_default()
}

fn close(stack: &mut Vec<Vec<Node>>) {
    let children = stack.pop().unwrap_or_default();
    if let Some(last) = stack.last_mut().and_then(|top| top.last_mut()) {
        last.children.extend(children);
    }
}

/// Puts variables in; what is not defined stays as it is.
fn substitute(word: &str, variables: &BTreeMap<String, String>) -> String {
    let mut word = word.to_owned();
    // The longest names first, so that $A does not eat into $AB.
    let mut names: Vec<&String> = variables.keys().collect();
    names.sort_by_key(|n| std::cmp::Reverse(n.len()));
    for name in names {
        let Some(value) = variables.get(name) else { continue };
        if value.contains('$') {
            continue;
        }
        word = word.replace(&format!("${{{name}}}"), value);
        if word.strip_prefix('$').is_some_and(|w| w == name) {
            word.clone_from(value);
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_variables_and_comments() {
        let mut ledger = Ledger::default();
        let text = "$IF=eth0\nvrrp_instance VI_1 {\n  interface $IF ! where\n  virtual_ipaddress { 10.0.0.1/24 }\n  \
                    unicast_peer\n  {\n    10.0.0.2 # x\n  }\n}\nglobal_defs { router_id a }\n}\n";
        let nodes = parse(&"k".into(), text, &mut ledger);
        let [instance, defs] = nodes.as_slice() else { panic!("{nodes:?}") };
        assert_eq!(instance.words, ["vrrp_instance", "VI_1"]);
        assert_eq!(instance.children[0].words, ["interface", "eth0"]);
        assert_eq!(instance.block("virtual_ipaddress").next().map(|n| n.word(0)), Some("10.0.0.1/24"));
        assert_eq!(instance.block("unicast_peer").next().map(|n| n.word(0)), Some("10.0.0.2"));
        assert_eq!(defs.children[0].words, ["router_id", "a"]);
        assert_eq!(ledger.sum().1, 7);
    }

    #[test]
    fn braces_without_end_do_no_harm() {
        let mut ledger = Ledger::default();
        parse(&"k".into(), &"x {\n".repeat(1000), &mut ledger);
        parse(&"k".into(), &"}\n".repeat(1000), &mut ledger);
        assert_eq!(ledger.sum().1, 1000);
    }
}
