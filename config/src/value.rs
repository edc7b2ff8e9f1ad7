//! The values that keys may have, each read from text into a type that cannot
//! hold a bad one.

use crate::duration;
use crate::report::{Problem, did_you_mean, quote};
use crate::shape::Shape;
use std::path::PathBuf;
use std::time::Duration;
use vipd_core::settings::{Balance, Role, Transport, VrrpVersion};

/// A name that other places refer to.
#[derive(Clone, Debug)]
pub(crate) struct Name(pub(crate) String);

impl Shape for Name {
    const EXPECTED: &'static str = "a name in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        name(text, "._-").map(Self)
    }
}

/// A server's name, which may also be its address.
#[derive(Clone, Debug)]
pub(crate) struct ServerName(pub(crate) String);

impl Shape for ServerName {
    const EXPECTED: &'static str = "a name in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        name(text, "._-:[]").map(Self)
    }
}

/// Names stand in commands (`POOL/SERVER`), metrics and messages: no blanks,
/// no slashes, nothing that needs quoting.
fn name(text: &str, marks: &str) -> Result<String, Problem> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    if text.is_empty() {
        return Err(Problem::new("a name cannot be empty"));
    }
    if text.len() > 64 {
        return Err(Problem::new(format!("the name {} is longer than 64 characters", quote(text))));
    }
    match text.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(Problem::new(format!("the name {} contains {c:?}", quote(text)))
            .hint("names have letters, digits, dots, hyphens and underscores")),
        None => Ok(text.to_owned()),
    }
}

/// The name of something that is defined elsewhere in the file.
#[derive(Clone, Debug)]
pub(crate) struct Reference(pub(crate) String);

impl Shape for Reference {
    const EXPECTED: &'static str = "a name in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        Ok(Self(text.to_owned()))
    }
}

/// The login name of a check.
#[derive(Clone, Debug)]
pub(crate) struct User(pub(crate) String);

impl Shape for User {
    const EXPECTED: &'static str = "a user's name in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        match text {
            "" => Err(Problem::new("the user's name cannot be empty")),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// A whole number within bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number<const MIN: u32, const MAX: u32>(pub(crate) u32);

impl<const MIN: u32, const MAX: u32> Shape for Number<MIN, MAX> {
    const EXPECTED: &'static str = "a whole number";

    fn integer(number: i128) -> Result<Self, Problem> {
        match u32::try_from(number) {
            Ok(n) if (MIN..=MAX).contains(&n) => Ok(Self(n)),
            Ok(_) | Err(_) => {
                Err(Problem::new(format!("{number} is out of range: {MIN} to {MAX} is allowed")))
            }
        }
    }

    fn text(text: &str) -> Result<Self, Problem> {
        let problem = Problem::new(format!("expected {}, found the string {}", Self::EXPECTED, quote(text)));
        Err(match text.parse::<i64>() {
            Ok(n) => problem.hint(format!("without quotes: {n}")),
            Err(_) => problem,
        })
    }
}

/// Bounds for any port.
pub(crate) type Port = Number<1, 65_535>;
/// Bounds for a count that cannot be zero.
pub(crate) type Count = Number<1, 1_000_000>;

impl Shape for bool {
    const EXPECTED: &'static str = "true or false";

    fn boolean(boolean: bool) -> Result<Self, Problem> {
        Ok(boolean)
    }

    fn text(text: &str) -> Result<Self, Problem> {
        let problem = Problem::new(format!("expected {}, found the string {}", Self::EXPECTED, quote(text)));
        Err(match text.to_lowercase().as_str() {
            "true" | "yes" | "on" => problem.hint("without quotes: true"),
            "false" | "no" | "off" => problem.hint("without quotes: false"),
            _ => problem,
        })
    }
}

impl Shape for Duration {
    const EXPECTED: &'static str = "a duration such as \"250ms\"";

    fn text(text: &str) -> Result<Self, Problem> {
        duration::parse(text)
    }

    fn integer(number: i128) -> Result<Self, Problem> {
        Err(Problem::new(format!("{number} has no unit")).hint(format!(
            "durations have a unit and stand in quotes: \"{number}ms\" or \"{number}s\"; units are ms, s, m and h"
        )))
    }
}

/// `[election] lease`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lease {
    /// It follows from the advert interval.
    Auto,
    /// As long as the file says.
    For(Duration),
}

impl Shape for Lease {
    const EXPECTED: &'static str = "\"auto\" or a duration such as \"3s\"";

    fn text(text: &str) -> Result<Self, Problem> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => duration::parse(text).map(Self::For),
        }
    }

    fn integer(number: i128) -> Result<Self, Problem> {
        Err(Problem::new(format!("{number} has no unit"))
            .hint(format!("in quotes and seconds: \"{number}s\"")))
    }
}

/// A word of a few.
pub(crate) trait Choice: Copy + 'static {
    /// The words for people: `unicast or multicast`.
    const WHAT: &'static str;
    /// The words with their meaning.
    const WORDS: &'static [(&'static str, Self)];
    /// Words of a later version.
    const LATER: &'static [&'static str] = &[];
}

impl<T: Choice> Shape for T {
    const EXPECTED: &'static str = T::WHAT;

    fn text(text: &str) -> Result<Self, Problem> {
        if let Some((_, choice)) = T::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*choice);
        }
        if T::LATER.contains(&text) {
            return Err(Problem::new(format!("{text:?} is not supported by this version of vipd"))
                .hint(format!("allowed: {}", T::WHAT)));
        }
        Err(Problem::new(format!("{} is not one of {}", quote(text), T::WHAT))
            .maybe_hint(did_you_mean(text, T::WORDS.iter().map(|(word, _)| *word))))
    }
}

impl Choice for Transport {
    const WHAT: &'static str = "\"unicast\" or \"multicast\"";
    const WORDS: &'static [(&'static str, Self)] =
        &[("unicast", Self::Unicast), ("multicast", Self::Multicast)];
    const LATER: &'static [&'static str] = &["udp"];
}

impl Choice for Balance {
    const WHAT: &'static str =
        "\"round-robin\", \"least-connections\", \"source-hash\", \"random-two\" or \"first\"";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round-robin", Self::RoundRobin),
        ("least-connections", Self::LeastConnections),
        ("source-hash", Self::SourceHash),
        ("random-two", Self::RandomTwo),
        ("first", Self::First),
    ];
}

impl Choice for Role {
    const WHAT: &'static str = "\"primary\", \"replica\" or \"any\"";
    const WORDS: &'static [(&'static str, Self)] =
        &[("primary", Self::Primary), ("replica", Self::Replica), ("any", Self::Any)];
}

/// `[pool.check] kind`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Tcp,
    Mysql,
}

impl Choice for Kind {
    const WHAT: &'static str = "\"tcp\" or \"mysql\"";
    const WORDS: &'static [(&'static str, Self)] = &[("tcp", Self::Tcp), ("mysql", Self::Mysql)];
    const LATER: &'static [&'static str] = &["http", "postgres", "redis", "exec"];
}

/// `[election] vrrp-version`; of our own, because the numbers are the words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version(pub(crate) VrrpVersion);

impl Shape for Version {
    const EXPECTED: &'static str = "2 or 3";

    fn integer(number: i128) -> Result<Self, Problem> {
        match number {
            2 => Ok(Self(VrrpVersion::V2)),
            3 => Ok(Self(VrrpVersion::V3)),
            _ => Err(Problem::new(format!("there is no VRRP version {number}"))
                .hint("2 (RFC 3768) or 3 (RFC 9568)")),
        }
    }

    fn text(text: &str) -> Result<Self, Problem> {
        Err(Problem::new(format!("expected {}, found the string {}", Self::EXPECTED, quote(text)))
            .hint("a number, without quotes"))
    }
}

/// A network interface.
#[derive(Clone, Debug)]
pub(crate) struct Interface(pub(crate) String);

impl Shape for Interface {
    const EXPECTED: &'static str = "an interface's name in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        // What the kernel's dev_valid_name() takes (net/core/dev.c).
        let invalid = |b: u8| b == b'/' || b == b':' || b.is_ascii_whitespace() || b.is_ascii_control();
        if text.is_empty() || text.len() > 15 || text == "." || text == ".." || text.bytes().any(invalid) {
            return Err(Problem::new(format!("{} cannot be the name of an interface", quote(text)))
                .hint("1 to 15 characters without blanks, colons and slashes, as `ip link` shows it"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The path of a file.
#[derive(Clone, Debug)]
pub(crate) struct FilePath(pub(crate) PathBuf);

impl Shape for FilePath {
    const EXPECTED: &'static str = "a file's path in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        if !text.starts_with('/') || text.contains('\0') {
            return Err(Problem::new(format!("{} is not an absolute path", quote(text)))
                .hint("from the root, because a daemon has no directory of its own: \"/etc/vipd/...\""));
        }
        Ok(Self(text.into()))
    }
}
