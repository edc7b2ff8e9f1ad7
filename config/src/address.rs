//! Addresses of every kind, as people write them.

use crate::report::{Problem, quote};
use crate::shape::Shape;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use vipd_core::settings::{Bind, Cidr, Host};

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
