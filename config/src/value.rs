//! The values that keys may have, each read from text into a type that cannot
//! hold a bad one.

use crate::duration;
use crate::report::{Problem, quote};
use crate::shape::{List, Shape};
use serde::de::SeqAccess;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use vipd_core::settings::Heartbeat;

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

/// The login name of a check, or the system's user that runs it.
#[derive(Clone, Debug)]
pub(crate) struct User(pub(crate) String);

impl Shape for User {
    const EXPECTED: &'static str = "a user's name in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        match text {
            "" => Err(Problem::new("the user's name cannot be empty")),
            _ => Plain::text(text).map(|Plain(name)| Self(name)),
        }
    }
}

/// A text on one line that goes into a protocol or a command.
#[derive(Clone, Debug)]
pub(crate) struct Plain(pub(crate) String);

impl Shape for Plain {
    const EXPECTED: &'static str = "a text in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        if let Some(c) = text.chars().find(|c| c.is_control()) {
            return Err(Problem::new(format!("{} contains {c:?}", quote(text)))
                .hint("letters, digits and signs only, on one line"));
        }
        Text::text(text).map(|Text(text)| Self(text))
    }
}

/// A text of any characters.
#[derive(Clone, Debug)]
pub(crate) struct Text(pub(crate) String);

impl Shape for Text {
    const EXPECTED: &'static str = "a text in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        match text.len() {
            0 => Err(Problem::new("the text is empty").hint("put something in, or take the key out")),
            1..=MAX_TEXT => Ok(Self(text.to_owned())),
            n => Err(Problem::new(format!("the text is too long: {n} bytes, {MAX_TEXT} are allowed"))),
        }
    }
}

/// Longer than anything a check says or looks for.
const MAX_TEXT: usize = 4096;

/// The method of a request.
#[derive(Clone, Debug)]
pub(crate) struct Method(pub(crate) String);

impl Shape for Method {
    const EXPECTED: &'static str = "a method in quotes, such as \"GET\"";

    fn text(text: &str) -> Result<Self, Problem> {
        let word =
            (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-');
        let upper = text.to_ascii_uppercase();
        if !word || upper == "CONNECT" {
            return Err(Problem::new(format!("{} is not a method for a check", quote(text)))
                .hint("\"GET\", \"HEAD\" or \"OPTIONS\" as a rule"));
        }
        if text != upper {
            return Err(Problem::new(format!("{} is not a method: letters count as they are", quote(text)))
                .hint(format!("\"{upper}\"")));
        }
        Ok(Self(upper))
    }
}

/// The path of a request.
#[derive(Clone, Debug)]
pub(crate) struct Path(pub(crate) String);

impl Shape for Path {
    const EXPECTED: &'static str = "a path in quotes, such as \"/health\"";

    fn text(text: &str) -> Result<Self, Problem> {
        if let Some((_, rest)) = text.split_once("://") {
            let path = rest.find('/').map_or("/", |i| &rest[i..]);
            return Err(Problem::new(format!("{} is a URL", quote(text)))
                .hint(format!("the path alone: {}; the servers are asked themselves", quote(path))));
        }
        if !text.starts_with('/') {
            return Err(Problem::new(format!("the path {} does not begin with a slash", quote(text)))
                .hint(quote(&format!("/{text}"))));
        }
        match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
            Some(c) => Err(Problem::new(format!("the path {} contains {c:?}", quote(text)))
                .hint("such characters are written with a percent sign: \"%20\" is a blank")),
            None => Text::text(text).map(|Text(path)| Self(path)),
        }
    }
}

/// Status codes of HTTP: one, or a range.
#[derive(Clone, Debug)]
pub(crate) struct StatusCodes(pub(crate) RangeInclusive<u16>);

impl Shape for StatusCodes {
    const EXPECTED: &'static str = "a status code or a range, such as 200 or \"200-299\"";

    fn integer(number: i128) -> Result<Self, Problem> {
        match u16::try_from(number) {
            Ok(code) if (100..=599).contains(&code) => Ok(Self(code..=code)),
            Ok(_) | Err(_) => {
                Err(Problem::new(format!("{number} is no status code: they go from 100 to 599")))
            }
        }
    }

    fn text(text: &str) -> Result<Self, Problem> {
        let bad = || Problem::new(format!("{} is not {}", quote(text), Self::EXPECTED));
        let code = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let Some((first, last)) = text.split_once('-') else {
            return Err(match (code(text), text.as_bytes()) {
                (Some(code), _) => bad().hint(format!("without quotes: {code}")),
                (None, [hundred @ b'1'..=b'5', b'x' | b'X', b'x' | b'X']) => {
                    let hundred = char::from(*hundred);
                    bad().hint(format!("\"{hundred}00-{hundred}99\""))
                }
                (None, _) if text.contains(',') => bad().hint("several stand in a list: [200, \"300-399\"]"),
                (None, _) => bad(),
            });
        };
        match (code(first), code(last)) {
            (Some(first), Some(last)) if 100 <= first && first <= last && last <= 599 => {
                Ok(Self(first..=last))
            }
            (Some(_), Some(_)) => {
                Err(bad().hint("status codes go from 100 to 599, and a range begins with the lower"))
            }
            (Some(_) | None, _) => Err(bad()),
        }
    }
}

impl Shape for Heartbeat {
    const EXPECTED: &'static str = "\"schema.table.column\"";

    fn text(text: &str) -> Result<Self, Problem> {
        let parts: Vec<_> = text.split('.').collect();
        // They are names of MySQL, which has 64 characters for each.
        let name = |part: &&str| {
            (1..=64).contains(&part.chars().count())
                && part.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '$' | '-'))
        };
        match parts.as_slice() {
            [schema, table, column] if parts.iter().all(name) => Ok(Self {
                schema: (*schema).to_owned(),
                table: (*table).to_owned(),
                column: (*column).to_owned(),
            }),
            _ => Err(Problem::new(format!("{} is not {}", quote(text), Self::EXPECTED))
                .hint("the column holds the time of the last heartbeat: \"percona.heartbeat.ts\"")),
        }
    }
}

/// A program and its arguments.
#[derive(Debug)]
pub(crate) struct Command(pub(crate) List<Argument>);

impl Shape for Command {
    const EXPECTED: &'static str = "a list of a program and its arguments";

    fn text(text: &str) -> Result<Self, Problem> {
        let words: Vec<_> = text.split_whitespace().map(quote).collect();
        Err(Problem::new(format!("expected {}, found the string {}", Self::EXPECTED, quote(text)))
            .hint(format!("no shell reads it: [{}]", words.join(", "))))
    }

    fn sequence<'de, A: SeqAccess<'de>>(list: A) -> Result<Result<Self, Problem>, A::Error> {
        Ok(List::sequence(list)?.map(Self))
    }
}

/// An argument of a program.
#[derive(Clone, Debug)]
pub(crate) struct Argument(pub(crate) String);

impl Shape for Argument {
    const EXPECTED: &'static str = "an argument in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        if text.contains('\0') {
            return Err(Problem::new("an argument cannot contain the character 0"));
        }
        Ok(Self(text.to_owned()))
    }

    fn integer(number: i128) -> Result<Self, Problem> {
        Err(Problem::new(format!("expected {}, found the number {number}", Self::EXPECTED))
            .hint(format!("in quotes: \"{number}\"")))
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

/// What the keys of etcd begin with.
#[derive(Clone, Debug)]
pub(crate) struct Prefix(pub(crate) String);

impl Shape for Prefix {
    const EXPECTED: &'static str = "the beginning of keys, such as \"/vipd\"";

    fn text(text: &str) -> Result<Self, Problem> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        let trimmed = text.trim_end_matches('/');
        if !text.starts_with('/') || trimmed.is_empty() || text.len() > 128 || !text.chars().all(allowed) {
            return Err(Problem::new(format!("{} is not {}", quote(text), Self::EXPECTED))
                .hint("a slash first, then letters, digits, dots, hyphens, underscores and slashes"));
        }
        Ok(Self(trimmed.to_owned()))
    }
}

/// The id of a hosted zone.
#[derive(Clone, Debug)]
pub(crate) struct ZoneId(pub(crate) String);

impl Shape for ZoneId {
    const EXPECTED: &'static str = "a hosted zone's id in quotes, such as \"Z0123456789\"";

    fn text(text: &str) -> Result<Self, Problem> {
        let id = text.strip_prefix("/hostedzone/").unwrap_or(text);
        let good = id.len() <= 32
            && id.starts_with('Z')
            && id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        match good {
            true => Ok(Self(id.to_owned())),
            false => Err(Problem::new(format!("{} is not a hosted zone's id", quote(text)))
                .hint("it starts with Z: `aws route53 list-hosted-zones` shows it behind /hostedzone/")),
        }
    }
}

/// Where an API is.
#[derive(Clone, Debug)]
pub(crate) struct Url(pub(crate) String);

impl Shape for Url {
    const EXPECTED: &'static str = "a URL in quotes, such as \"http://127.0.0.1:4566\"";

    fn text(text: &str) -> Result<Self, Problem> {
        let Plain(url) = Plain::text(text)?;
        let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        match host {
            Some(host) if !host.is_empty() && !url.contains(' ') => Ok(Self(url)),
            Some(_) | None => Err(Problem::new(format!("{} is not {}", quote(text), Self::EXPECTED))),
        }
    }
}
