//! Addresses of every kind, as people write them.

use crate::report::{Problem, quote};
use crate::shape::Shape;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use vipd_core::settings::{Bind, Cidr, Host, Source};

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
    if let Some((_, rest)) = text.split_once("://") {
        let authority = rest.split_once('/').map_or(rest, |(authority, _)| authority);
        let bare = authority.rsplit_once('@').map_or(authority, |(_, bare)| bare);
        return Err(Problem::new(format!("{} is a URL", quote(text)))
            .hint(format!("host and port alone: {}", quote(bare))));
    }
    if text.starts_with('[') && !text.contains(']') {
        let problem = Problem::new(format!("the bracket of {} is not closed", quote(text)));
        let inside = &text[1..];
        let closed = inside
            .rsplit_once(':')
            .filter(|(host, _)| host.parse::<Ipv6Addr>().is_ok())
            .map_or(format!("[{inside}]:3306"), |(host, port)| format!("[{host}]:{port}"));
        return Err(problem.hint(format!("as in {}", quote(&closed))));
    }
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => {
            host.parse::<Ipv6Addr>()
                .map_err(|_| Problem::new(format!("{} is not an IPv6 address", quote(host))))?;
            (host, rest.strip_prefix(':').ok_or_else(|| bad().hint(format!("as in \"[{host}]:3306\"")))?)
        }
        None => {
            let (host, port) = text.rsplit_once(':').ok_or_else(|| {
                bad().hint(match text.starts_with('_') {
                    true => format!("SRV records give it: {{ address = \"{text}\", resolve = \"srv\" }}"),
                    false => format!("as in \"{text}:3306\""),
                })
            })?;
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

/// Where a member of an etcd cluster serves its clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct EtcdUrl {
    pub(crate) tls: bool,
    pub(crate) at: Endpoint,
}

impl Shape for EtcdUrl {
    const EXPECTED: &'static str = "a URL such as \"https://10.77.0.31:2379\"";

    fn text(text: &str) -> Result<Self, Problem> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Problem::new(format!("{} is not {}", quote(text), Self::EXPECTED))
                .hint(format!("\"https://{text}\", or http:// where etcd serves without TLS")));
        };
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(Problem::new(format!("{} is neither http:// nor https://", quote(text)))),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '@']) {
            return Err(Problem::new(format!("{} has more than a host and a port", quote(text)))
                .hint("user, password-file and prefix are keys of their own"));
        }
        if !rest.contains(':') {
            return Err(Problem::new(format!("{} has no port", quote(text)))
                .hint(format!("etcd serves its clients on 2379 as a rule: \"{scheme}://{rest}:2379\"")));
        }
        Endpoint::text(rest).map(|at| Self { tls, at })
    }
}

/// The name of a server that is looked up for SRV records, which give the port.
pub(crate) fn srv_name(text: &str) -> Result<Host, Problem> {
    let alone = match text.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => Some(name),
        Some(_) | None => None,
    };
    match alone {
        Some(name) => Err(Problem::new(format!("{} has a port: SRV records give the ports", quote(text)))
            .hint(format!("the name alone: {}", quote(name)))),
        None => parse_host(text),
    }
}

/// A network, or one address, of peers that are trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network(pub(crate) Cidr);

impl Shape for Network {
    const EXPECTED: &'static str = "a network in quotes, such as \"10.0.0.0/8\"";

    fn text(text: &str) -> Result<Self, Problem> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (ip(address)?, Some(prefix)),
            None => (ip(text)?, None),
        };
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match prefix {
            None => Some(longest),
            Some(prefix) if prefix.bytes().all(|b| b.is_ascii_digit()) => prefix.parse().ok(),
            Some(_) => None,
        };
        let Some(cidr) = length.and_then(|length| Cidr::new(address, length)) else {
            return Err(Problem::new(format!(
                "{} is not a prefix length",
                quote(prefix.unwrap_or_default())
            ))
            .hint(format!("0 to {longest}, or the address alone for one host")));
        };
        let first = first_of(cidr);
        if first != address {
            return Err(Problem::new(format!("{cidr} is an address in a network, not the network"))
                .hint(format!("\"{first}/{}\", or \"{address}\" for that host alone", cidr.prefix())));
        }
        Ok(Self(cidr))
    }
}

/// The first address of a network.
fn first_of(cidr: Cidr) -> IpAddr {
    let prefix = u32::from(cidr.prefix());
    match cidr.address() {
        IpAddr::V4(v4) => {
            IpAddr::from((v4.to_bits() & u32::MAX.checked_shl(32 - prefix).unwrap_or(0)).to_be_bytes())
        }
        IpAddr::V6(v6) => {
            IpAddr::from((v6.to_bits() & u128::MAX.checked_shl(128 - prefix).unwrap_or(0)).to_be_bytes())
        }
    }
}

impl Shape for Source {
    const EXPECTED: &'static str = "\"auto\", \"vip\" or an IP address in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        match text {
            "auto" => return Ok(Self::Auto),
            "vip" => return Ok(Self::Vip),
            _ => {}
        }
        let Ok(address) = ip(text) else {
            return Err(Problem::new(format!("{} is not {}", quote(text), Self::EXPECTED)));
        };
        match unownable(address) {
            Some(what) => Err(Problem::new(format!("{address} is {what}, nothing can come from it"))),
            None => Ok(Self::Address(address)),
        }
    }
}

/// The name that a certificate is valid for: a host's, or an address.
#[derive(Clone, Debug)]
pub(crate) struct HostName(pub(crate) String);

impl Shape for HostName {
    const EXPECTED: &'static str = "a host's name in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        Ok(Self(match parse_host(text)? {
            Host::Address(address) => address.to_string(),
            // Certificates know no dot at the end.
            Host::Name(name) => name.trim_end_matches('.').to_owned(),
        }))
    }
}

/// The `Host` field of a request: a host, with or without a port.
#[derive(Clone, Debug)]
pub(crate) struct HostField(pub(crate) String);

impl Shape for HostField {
    const EXPECTED: &'static str = "a host's name in quotes";

    fn text(text: &str) -> Result<Self, Problem> {
        if text.contains(':') {
            host_and_port(text).and_then(|(host, _)| parse_host(host))?;
        } else {
            parse_host(text)?;
        }
        Ok(Self(text.to_owned()))
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
