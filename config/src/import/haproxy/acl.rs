//! Conditions, as far as vipd has a word for them: how many connections a
//! client has, how fast it opens them, which network it is in, whether a
//! backend has a server.

use super::super::ledger::LineId;
use super::words::time;
use std::collections::BTreeMap;

/// What a condition asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Condition {
    /// The client has this many connections or more.
    Connections(u64),
    /// The client opened this many or more in the table's period.
    Rate(u64),
    /// The client is in one of these networks.
    Source(Vec<String>),
    /// The backend has no server.
    NoServer(String),
}

/// The `acl` lines of a proxy, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Acls(BTreeMap<String, Vec<(Vec<String>, LineId)>>);

impl Acls {
    pub(super) fn add(&mut self, words: &[String], line: LineId) {
        if let [_, name, rest @ ..] = words {
            self.0.entry(name.clone()).or_default().push((rest.to_vec(), line));
        }
    }

    /// The only condition of a rule, with the `acl` lines it is made of;
    /// nothing if vipd cannot ask it.
    pub(super) fn condition(&self, words: &[String]) -> Option<(Condition, Vec<LineId>)> {
        let at = words.iter().position(|w| w == "if")?;
        match words.get(at + 1..)? {
            [open, inner @ .., close]
                if open == "{" && close == "}" && !inner.contains(&close.to_owned()) =>
            {
                Some((condition(inner)?, vec![]))
            }
            [name] => match self.0.get(name)?.as_slice() {
                [(one, line)] => Some((condition(one)?, vec![*line])),
                several => {
                    let mut networks = Vec::new();
                    for (words, _) in several {
                        match condition(words)? {
                            Condition::Source(more) => networks.extend(more),
                            Condition::Connections(_) | Condition::Rate(_) | Condition::NoServer(_) => {
                                return None;
                            }
                        }
                    }
                    Some((Condition::Source(networks), several.iter().map(|(_, l)| *l).collect()))
                }
            },
            _ => None,
        }
    }
}

fn condition(words: &[String]) -> Option<Condition> {
    let (fetch, rest) = words.split_first()?;
    let mut rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let bare = fetch.split_once('(').map_or(fetch.as_str(), |(name, _)| name);
    let argument = fetch.split_once('(').and_then(|(_, a)| a.strip_suffix(')'));
    match bare {
        "src_conn_cur" | "sc0_conn_cur" | "sc1_conn_cur" | "sc2_conn_cur" | "sc_conn_cur" => {
            at_least(&rest).map(Condition::Connections)
        }
        "src_conn_rate" | "sc0_conn_rate" | "sc1_conn_rate" | "sc2_conn_rate" | "sc_conn_rate" => {
            at_least(&rest).map(Condition::Rate)
        }
        "src" => {
            rest.retain(|w| *w != "-i" && *w != "--");
            let plain = !rest.is_empty() && rest.iter().all(|w| !w.starts_with('-') && !w.contains('$'));
            plain.then(|| Condition::Source(rest.iter().map(|w| (*w).to_owned()).collect()))
        }
        "nbsrv" => {
            let backend = argument?.to_owned();
            match rest.as_slice() {
                ["lt", "1"] | ["eq", "0"] | ["le", "0"] | ["0"] => Some(Condition::NoServer(backend)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// `gt 10` is eleven or more.
fn at_least(words: &[&str]) -> Option<u64> {
    match words {
        ["gt", n] => n.parse::<u64>().ok()?.checked_add(1),
        ["ge", n] => n.parse().ok(),
        _ => None,
    }
}

/// The period of `conn_rate` in a `stick-table` line, in milliseconds.
pub(super) fn rate_period(words: &[String]) -> Option<u64> {
    let inside = |w: &String| {
        let (_, rest) = w.split_once("conn_rate(")?;
        time(rest.split_once(')')?.0)
    };
    words.iter().find_map(inside).filter(|ms| *ms > 0)
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    #[test]
    fn conditions() {
        let mut acls = Acls::default();
        acls.add(&words("acl many src_conn_cur gt 10"), 7);
        acls.add(&words("acl dead nbsrv(primary) lt 1"), 8);
        acls.add(&words("acl app hdr(host) x"), 9);
        let ask = |text: &str| acls.condition(&words(text));
        assert_eq!(ask("reject if many"), Some((Condition::Connections(11), vec![7])));
        assert_eq!(ask("use_backend x if dead"), Some((Condition::NoServer("primary".into()), vec![8])));
        assert_eq!(ask("reject if { sc0_conn_rate ge 20 }"), Some((Condition::Rate(20), vec![])));
        let networks = vec!["10.0.0.0/8".to_owned(), "192.0.2.1".to_owned()];
        assert_eq!(ask("x if { src 10.0.0.0/8 192.0.2.1 }"), Some((Condition::Source(networks), vec![])));
        for other in
            ["x", "x if app", "x if many dead", "x unless many", "x if { src -f /list }", "x if !many"]
        {
            assert_eq!(ask(other), None, "{other}");
        }
        assert_eq!(
            rate_period(&words("stick-table type ip size 1m store conn_cur,conn_rate(10s)")),
            Some(10_000)
        );
    }
}
