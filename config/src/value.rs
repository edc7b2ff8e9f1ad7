//! The values that keys may have, each read from text into a type that cannot
//! hold a bad one.

use crate::duration;
use crate::report::{Problem, did_you_mean, quote};
use crate::shape::Shape;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use vipd_core::settings::{Balance, Bind, Cidr, Host, Role, Transport, VrrpVersion};

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

/// An IP address without more.
fn ip(text: &str) -> Result<IpAddr, Problem> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => match v6.to_ipv4_mapped() {
            Some(v4) => Err(Problem::new(format!("{text} is an IPv4 address in IPv6's clothes"))
                .hint(format!("write {v4}"))),
            None => Ok(v6.into()),
        },
        Ok(v4 @ IpAddr::V4(_)) => Ok(v4),
        Err(_) => {
            let problem = Problem::new(format!("{} is not an IP address", quote(text)));
            Err(match text.split_once('%') {
                Some((plain, _)) if plain.parse::<Ipv6Addr>().is_ok() => problem.hint(
                    "an address stands without a zone (%eth0); a VIP's interface is named by its key \"interface\"",
                ),
                Some(_) | None => problem,
            })
        }
    }
}

/// Addresses that no host can own, with the reason.
fn unownable(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if matches!(address, IpAddr::V4(v4) if v4.is_broadcast()) {
        Some("the broadcast address")
    } else {
        None
    }
}

/// A node's own address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeAddress(pub(crate) IpAddr);

impl Shape for NodeAddress {
    const EXPECTED: &'static str = "an IP address in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        if let Some((plain, _)) = text.split_once('/')
            && plain.parse::<IpAddr>().is_ok()
        {
            return Err(Problem::new(format!("{} has a prefix length", quote(text)))
                .hint(format!("a node's address stands alone: \"{plain}\"")));
        }
        let address = ip(text)?;
        if let Some(what) = unownable(address) {
            return Err(Problem::new(format!("{address} is {what}, no host can have it")));
        }
        if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return Err(Problem::new(format!(
                "{address} is link-local: it means something else on every link"
            ))
            .hint("give the node's global or unique local (fd..) address"));
        }
        Ok(Self(address))
    }
}

impl Shape for Cidr {
    const EXPECTED: &'static str = "an address with its prefix length, such as \"10.77.0.100/24\"";

    fn text(text: &str) -> Result<Self, Problem> {
        let Some((address, prefix)) = text.split_once('/') else {
            let address = ip(text)?;
            let length = if address.is_ipv4() { 24 } else { 64 };
            return Err(Problem::new(format!("{address} has no prefix length")).hint(format!(
                "the length of its subnet's prefix belongs to it, for example \"{address}/{length}\""
            )));
        };
        let address = ip(address)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        // `parse` alone would take a sign.
        let digits = prefix.bytes().all(|b| b.is_ascii_digit());
        let cidr = prefix.parse().ok().filter(|_| digits).and_then(|prefix| Self::new(address, prefix));
        let Some(cidr) = cidr else {
            return Err(Problem::new(format!("{} is not a prefix length", quote(prefix)))
                .hint(format!("1 to {longest}, as in \"{address}/{}\"", longest / 4 * 3)));
        };
        floatable(cidr)?;
        Ok(cidr)
    }
}

/// Refuses addresses that cannot float from host to host.
fn floatable(cidr: Cidr) -> Result<(), Problem> {
    let address = cidr.address();
    if cidr.prefix() == 0 {
        return Err(Problem::new(format!("{cidr} takes the whole address space for its subnet"))
            .hint("the prefix length is that of the subnet the address lives in"));
    }
    if let Some(what) = unownable(address) {
        return Err(Problem::new(format!("{address} is {what}, no host can own it")));
    }
    if address.is_loopback() {
        return Err(Problem::new(format!("{address} is a loopback address: every host has its own")));
    }
    let (bits, host) = match address {
        IpAddr::V4(v4) => (32, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (128, v6.to_bits()),
    };
    let host_bits = u32::from(bits - cidr.prefix());
    if host_bits < 2 {
        return Ok(());
    }
    let mask = (1_u128 << host_bits) - 1;
    if host & mask == 0 {
        return Err(Problem::new(format!("{cidr} is the subnet itself, not an address in it"))
            .hint("a VIP is one address: say which"));
    }
    if address.is_ipv4() && host & mask == mask {
        return Err(Problem::new(format!("{cidr} is the broadcast address of its subnet")));
    }
    Ok(())
}

/// Splits `host:port` or `[v6]:port`; the host may be empty.
fn host_and_port(text: &str) -> Result<(&str, u16), Problem> {
    let bad = || Problem::new(format!("{} has no port", quote(text)));
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => {
            host.parse::<Ipv6Addr>()
                .map_err(|_| Problem::new(format!("{} is not an IPv6 address", quote(host))))?;
            (host, rest.strip_prefix(':').ok_or_else(|| bad().hint(format!("as in \"[{host}]:3306\"")))?)
        }
        None => {
            let (host, port) =
                text.rsplit_once(':').ok_or_else(|| bad().hint(format!("as in \"{text}:3306\"")))?;
            if host.contains(':') {
                let problem = Problem::new(format!("{} leaves open where the address ends", quote(text)));
                let bracketed = if host.parse::<Ipv6Addr>().is_ok() {
                    format!("\"[{host}]:{port}\"")
                } else {
                    format!("\"[{text}]:3306\"")
                };
                return Err(
                    problem.hint(format!("an IPv6 address with a port stands in brackets: {bracketed}"))
                );
            }
            (host, port)
        }
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok((host, port)),
        Ok(_) | Err(_) => Err(Problem::new(format!("{} is not a port: 1 to 65535 is allowed", quote(port)))),
    }
}

impl Shape for Bind {
    const EXPECTED: &'static str = "an address with a port, such as \"10.77.0.100:3306\" or \":3306\"";

    fn text(text: &str) -> Result<Self, Problem> {
        let (host, port) = host_and_port(text)?;
        let address = match host {
            "" => None,
            "*" => {
                return Err(
                    Problem::new("\"*\" is not an address").hint(format!("all addresses: \":{port}\""))
                );
            }
            host => Some(ip(host).map_err(|p| p.hint("a listener is bound to an address, not to a name"))?),
        };
        if address.is_some_and(|a| a.is_multicast()) {
            return Err(Problem::new(format!("{host} is a multicast address: TCP cannot listen on it")));
        }
        Ok(Self { address, port })
    }
}

/// Where the status page listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Socket(pub(crate) SocketAddr);

impl Shape for Socket {
    const EXPECTED: &'static str = "an address with a port, such as \"127.0.0.1:9112\"";

    fn text(text: &str) -> Result<Self, Problem> {
        let Bind { address, port } = Bind::text(text)?;
        match address {
            Some(address) => Ok(Self(SocketAddr::new(address, port))),
            None => Err(Problem::new(format!("{} has no address", quote(text))).hint(format!(
                "\"127.0.0.1:{port}\" for this host only, \"0.0.0.0:{port}\" or \"[::]:{port}\" for everybody"
            ))),
        }
    }
}

/// A server's host and port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Endpoint {
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl Shape for Endpoint {
    const EXPECTED: &'static str = "a host with a port, such as \"db1.internal:3306\"";

    fn text(text: &str) -> Result<Self, Problem> {
        let (host, port) = host_and_port(text)?;
        Ok(Self { host: parse_host(host)?, port })
    }
}

fn parse_host(host: &str) -> Result<Host, Problem> {
    if host.is_empty() {
        return Err(Problem::new("the host is missing before the port"));
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        ip(host)?;
        return match unownable(address) {
            Some(what) => Err(Problem::new(format!("{address} is {what}, no server can have it"))),
            None => Ok(Host::Address(address)),
        };
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let bad = || Problem::new(format!("{} is neither an IP address nor a host name", quote(host)));
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    // A last label of digits only is a mistyped IPv4 address (RFC 3696, section 2).
    let numeric = name.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > 253 || numeric || !name.split('.').all(label) {
        return Err(bad());
    }
    Ok(Host::Name(host.to_ascii_lowercase()))
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
