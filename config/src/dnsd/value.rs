//! The values that keys may have.

use super::Names;
use crate::address::Network;
use crate::report::{Problem, quote};
use crate::shape::Shape;
use vipd_core::settings::Cidr;

/// A domain name: in lower case, with a dot at the end.
#[derive(Clone, Debug)]
pub(crate) struct DnsName(pub(crate) String);

impl Shape for DnsName {
    const EXPECTED: &'static str = "a domain name in quotes, such as \"corp.example.\"";

    fn text(text: &str) -> Result<Self, Problem> {
        if let Some((user, domain)) = text.split_once('@') {
            return Err(Problem::new(format!("{} is a mail address", quote(text)))
                .hint(format!("as a name, the @ is a dot: \"{}.{domain}.\"", user.replace('.', "-"))));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let bad = |why: &str| Err(Problem::new(format!("{} is not a domain name: {why}", quote(text))));
        if name.len() > 253 {
            return bad("it is longer than 253 characters");
        }
        for label in name.split('.') {
            if label.is_empty() {
                return bad("a label is empty");
            }
            if label.len() > 63 {
                return bad("a label is longer than 63 characters");
            }
            if let Some(c) = label.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_/".contains(*c)) {
                return bad(&format!("it contains {c:?}"));
            }
        }
        Ok(Self(format!("{}.", name.to_ascii_lowercase())))
    }
}

/// The names of a grant: one, or `*.NAME`.
#[derive(Clone, Debug)]
pub(super) struct GrantNames(pub(super) Names);

impl Shape for GrantNames {
    const EXPECTED: &'static str = "a domain name, or \"*.\" and one";

    fn text(text: &str) -> Result<Self, Problem> {
        Ok(Self(match text.strip_prefix("*.") {
            Some(below) => Names::Below(DnsName::text(below)?.0),
            None => Names::One(DnsName::text(text)?.0),
        }))
    }
}

/// Who may transfer: the name of a key, or a network.
#[derive(Clone, Debug)]
pub(super) enum PeerText {
    Key(String),
    Network(Cidr),
}

impl Shape for PeerText {
    const EXPECTED: &'static str = "a key's name or a network";

    fn text(text: &str) -> Result<Self, Problem> {
        let address = text.split('/').next().unwrap_or(text);
        if address.parse::<std::net::IpAddr>().is_ok() || text.contains('/') {
            return Network::text(text).map(|network| Self::Network(network.0));
        }
        DnsName::text(text).map(|name| Self::Key(name.0))
    }
}

/// The types that people write as words, with their numbers
/// (<https://www.iana.org/assignments/dns-parameters>).
const TYPES: [(&str, u16); 16] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("HINFO", 13),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("NAPTR", 35),
    ("SSHFP", 44),
    ("TLSA", 52),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("CAA", 257),
];

/// The number of a type that is written as a word, or as `TYPE65` (RFC 3597, section 5).
fn type_number(word: &str) -> Option<u16> {
    let known = TYPES.iter().find(|(name, _)| *name == word).map(|(_, number)| *number);
    known.or_else(|| word.strip_prefix("TYPE").and_then(|number| number.parse().ok()))
}

/// A record type, or all of them.
#[derive(Clone, Copy, Debug)]
pub(super) enum RrType {
    Every,
    One(u16),
}

impl Shape for RrType {
    const EXPECTED: &'static str = "a record type in quotes, such as \"A\"";

    fn text(text: &str) -> Result<Self, Problem> {
        if text == "ANY" {
            return Ok(Self::Every);
        }
        if let Some(number) = type_number(text) {
            return Ok(Self::One(number));
        }
        let problem = Problem::new(format!("{} is not a record type that dnsd knows", quote(text)));
        let upper = text.to_ascii_uppercase();
        Err(match type_number(&upper) {
            Some(_) => problem.hint(format!("\"{upper}\"")),
            None => problem.hint("\"A\", \"AAAA\", \"TXT\", ..., \"TYPE\" and a number, or \"ANY\" for all"),
        })
    }
}
