//! `bind`: where a proxy listens.

use super::super::ledger::{Ledger, LineId};
use std::net::IpAddr;

/// Ports of a range that become listeners; more are a mistake, or not vipd's business.
const MAX_PORTS: u16 = 16;

/// A place where a proxy listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Bind {
    pub(super) line: LineId,
    /// `None` for every address.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) accept_proxy: bool,
    pub(super) maxconn: Option<u64>,
}

impl Bind {
    /// As the new file writes it.
    pub(super) fn show(&self) -> String {
        match self.address {
            None => format!(":{}", self.port),
            Some(IpAddr::V4(v4)) => format!("{v4}:{}", self.port),
            Some(IpAddr::V6(v6)) => format!("[{v6}]:{}", self.port),
        }
    }

    /// Whether two would be in each other's way.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        self.port == other.port
            && match (self.address, other.address) {
                (None, _) | (_, None) => true,
                (Some(a), Some(b)) => a == b,
            }
    }
}

/// The places of a `bind` line.
pub(super) fn binds(words: &[String], line: LineId, ledger: &mut Ledger) -> Vec<Bind> {
    let Some(places) = words.get(1) else {
        ledger.lose(line, "it has no address");
        return vec![];
    };
    let Some(options) = options(words.get(2..).unwrap_or_default(), line, ledger) else { return vec![] };
    let mut binds = Vec::new();
    for place in places.split(',') {
        match one(place) {
            Ok((address, ports)) => {
                ledger.carry(line);
                let bind = |port| Bind { line, address, port, accept_proxy: options.0, maxconn: options.1 };
                binds.extend(ports.map(bind));
            }
            Err(why) => {
                ledger.lose(line, format!("{place}: {why}"));
            }
        }
    }
    binds
}

/// Whether a PROXY header comes first, and a limit; nothing if the line cannot be carried over.
fn options(words: &[String], line: LineId, ledger: &mut Ledger) -> Option<(bool, Option<u64>)> {
    let (mut proxy, mut maxconn) = (false, None);
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "accept-proxy" => proxy = true,
            "maxconn" => maxconn = words.next().and_then(|n| n.parse().ok()),
            "ssl" | "crt" | "crt-list" | "ca-file" | "alpn" | "verify" => {
                ledger.lose(line, "vipd ends no TLS: it relays it as it is, so the servers must speak it themselves; then listen here without `ssl`");
                return None;
            }
            // Needless here, or of no weight.
            "transparent" | "v4v6" | "v6only" | "defer-accept" | "tfo" | "quic-force-retry" => {}
            "backlog" | "name" | "id" | "process" | "thread" | "mss" | "nice" | "shards" | "tcp-ut"
            | "level" | "interface" => {
                let value = words.next().unwrap_or_default();
                if word == "interface" {
                    ledger.note(
                        line,
                        format!("interface {value}: vipd listens on the address, whichever interface has it"),
                    );
                }
            }
            other => ledger.note(line, format!("{other} has no counterpart")),
        }
    }
    Some((proxy, maxconn))
}

type Place = (Option<IpAddr>, std::ops::RangeInclusive<u16>);

fn one(place: &str) -> Result<Place, String> {
    let v6 = place.starts_with("ipv6@");
    let place = ["ipv4@", "ipv6@"].iter().find_map(|p| place.strip_prefix(p)).unwrap_or(place);
    if place.contains(['$', '@', '/']) {
        return Err("it is no TCP address that stands here as it is".into());
    }
    let (host, ports) = place.rsplit_once(':').ok_or("it has no port")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = match host {
        "" | "*" | "0.0.0.0" if !v6 => None,
        "" | "::" | "*" => None,
        host => Some(host.parse().map_err(|_| "vipd listens on an address, not on a name")?),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port = |text: &str| text.parse::<u16>().ok().filter(|p| *p > 0).ok_or("it has no port");
    let (first, last) = (port(first)?, port(last)?);
    if last < first || last - first >= MAX_PORTS {
        return Err(format!(
            "a listener has one port, and more than {MAX_PORTS} of them are not spelled out here"
        ));
    }
    Ok((address, first..=last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let at = |text: &str| one(text).map(|(a, p)| (a.map(|a| a.to_string()), *p.start(), *p.end()));
        assert_eq!(at("*:3306"), Ok((None, 3306, 3306)));
        assert_eq!(at(":::3306"), Ok((None, 3306, 3306)));
        assert_eq!(at("10.0.0.1:10-12"), Ok((Some("10.0.0.1".into()), 10, 12)));
        assert_eq!(at("[fd77::1]:5"), Ok((Some("fd77::1".into()), 5, 5)));
        for bad in ["10.0.0.1", "/run/x.sock", "abns@x", "${IP}:1", "10.0.0.1:1-9999", "host:1", ":0"] {
            assert!(one(bad).is_err(), "{bad}");
        }
    }
}
