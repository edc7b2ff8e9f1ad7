//! Judging: from what is written to what is meant.

use super::spec::{GrantSpec, KeySpec, RateLimitSpec, Spec, StatusSpec, ZoneSpec};
use super::value::{PeerText, RrType};
use super::{Config, Grant, Key, Names, Peer, RateLimit, Zone};
use crate::address::Socket;
use crate::check::{empty_list, open};
use crate::duration::show;
use crate::report::{At, Problem, Report, did_you_mean, quote, quoted};
use crate::shape::{Field, List, Table};
use crate::value::Number;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use vipd_core::settings::KeyAlgorithm;

const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn config(spec: Spec, report: &mut Report<'_>) -> Config {
    let Spec { listen, state_dir, zone, key, rate_limit, status } = spec;
    let whole = 0..0;
    let listen = listen.need("listen", "the addresses to serve: [\"10.77.0.11:53\"]", &whole, report);
    let listen = listen.map(|list| self::listen(list, report)).unwrap_or_default();
    let state_dir = state_dir.or("state-dir", crate::value::FilePath("/var/lib/dnsd".into()), report).0;
    let keys: Vec<_> = open(key, "key", report).into_iter().flatten().map(|k| self::key(k, report)).collect();
    let drafts = open(zone, "zone", report);
    if drafts.is_empty() {
        let problem = Problem::new("nothing to serve: there is no [[zone]]");
        report.error(&whole, problem.hint("a [[zone]] has a name, a primary-ns and a contact"));
    }
    let unread = drafts.iter().any(Option::is_none);
    let zones: Vec<_> = drafts.into_iter().flatten().map(|z| self::zone(z, &keys, report)).collect();
    twice("zone", zones.iter().map(|z| (&z.0, z.1.name.as_str())), report);
    twice("key", keys.iter().map(|k| (&k.span, k.key.name.as_str())), report);
    if !unread {
        homeless(&keys, &zones, report);
    }
    Config {
        listen,
        state_dir,
        zones: zones.into_iter().map(|(_, zone)| zone).collect(),
        keys: keys.into_iter().map(|draft| draft.key).collect(),
        rate_limit: self::rate_limit(rate_limit, report),
        status: self::status(status, report),
        warnings: vec![],
    }
}

/// Things of a kind with the same name.
fn twice<'a>(
    what: &str,
    names: impl Iterator<Item = (&'a Range<usize>, &'a str)> + Clone,
    report: &mut Report<'_>,
) {
    for (i, (span, name)) in names.clone().enumerate() {
        if !name.is_empty() && names.clone().take(i).any(|(_, other)| other == name) {
            report.error(span, Problem::new(format!("there is a {what} {} already", quote(name))));
        }
    }
}

fn listen(list: At<List<Socket>>, report: &mut Report<'_>) -> Vec<SocketAddr> {
    let At { value, span } = list;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let sockets = value.open("listen", report);
    if sockets.is_empty() {
        empty_list("listen", &span, report);
    }
    for At { value: Socket(address), span } in sockets.into_iter().flatten() {
        if address.ip().is_unspecified() {
            let problem = Problem::new(format!("listen: {address} stands for every address of the host"));
            report.error(
                &span,
                problem.hint("a UDP answer must leave from the address that was asked: list each address"),
            );
        } else if addresses.contains(&address) {
            report.error(&span, Problem::new(format!("listen: {address} stands here twice")));
        } else {
            addresses.push(address);
        }
    }
    addresses
}

/// A key, with the place of its table and of its grants.
struct KeyDraft {
    key: Key,
    span: Range<usize>,
    grants: Vec<Range<usize>>,
}

fn key(table: At<KeySpec>, report: &mut Report<'_>) -> KeyDraft {
    let At { value: spec, span } = table;
    let name = spec.name.need("name", "the key's name, the same on both sides: \"vipd.\"", &span, report);
    let algorithm = spec.algorithm.or("algorithm", KeyAlgorithm::HmacSha256, report);
    let hint = "`dnsd keygen NAME` prints a secret for it";
    let secret_file = spec.secret_file.need("secret-file", hint, &span, report);
    let (mut grants, mut places) = (Vec::new(), Vec::new());
    for At { value, span } in open(spec.grant, "grant", report).into_iter().flatten() {
        let GrantSpec { name, types } = value;
        let hint = "the name that may be changed, or \"*.NAME\" for all below it";
        let name = name.need("name", hint, &span, report);
        let hint = "the types that may be changed, such as [\"A\", \"AAAA\", \"TXT\"]";
        let types = types.need("types", hint, &span, report).map(|types| self::types(types, report));
        if let (Ok(name), Ok(types)) = (name, types) {
            grants.push(Grant { names: name.value.0, types });
            places.push(name.span);
        }
    }
    let key = Key {
        name: name.map_or_else(|_| String::new(), |name| name.value.0),
        algorithm,
        secret_file: secret_file.map_or_else(|_| PathBuf::new(), |file| file.value.0),
        grants,
    };
    KeyDraft { key, span, grants: places }
}

fn types(list: At<List<RrType>>, report: &mut Report<'_>) -> Vec<u16> {
    let At { value, span } = list;
    let types = value.open("types", report);
    if types.is_empty() {
        empty_list("types", &span, report);
    }
    let one = |at: At<RrType>| match at.value {
        RrType::Every => None,
        RrType::One(number) => Some(number),
    };
    // ANY beside others is still all.
    types.into_iter().flatten().map(one).collect::<Option<Vec<_>>>().unwrap_or_default()
}

/// Grants for names that no zone holds are mistyped.
fn homeless(keys: &[KeyDraft], zones: &[(Range<usize>, Zone)], report: &mut Report<'_>) {
    for draft in keys {
        for (grant, span) in draft.key.grants.iter().zip(&draft.grants) {
            let (Names::One(name) | Names::Below(name)) = &grant.names;
            let inside = |zone: &str| name == zone || name.ends_with(&format!(".{zone}"));
            if !zones.iter().any(|(_, zone)| inside(&zone.name)) {
                let served = quoted(zones.iter().map(|(_, zone)| zone.name.as_str()));
                let problem = Problem::new(format!("grant: {} is in no zone of this file", quote(name)));
                report.error(span, problem.hint(format!("there is {served}")));
            }
        }
    }
}

fn zone(table: At<ZoneSpec>, keys: &[KeyDraft], report: &mut Report<'_>) -> (Range<usize>, Zone) {
    let At { value: spec, span } = table;
    let name = spec.name.need("name", "the zone's apex: \"corp.example.\"", &span, report);
    let hint = "the name of this server: \"ns1.corp.example.\"";
    let primary_ns = spec.primary_ns.need("primary-ns", hint, &span, report);
    let hint = "the mailbox of whom to ask, its @ a dot: \"hostmaster.corp.example.\"";
    let contact = spec.contact.need("contact", hint, &span, report);
    let text = |name: Result<At<super::value::DnsName>, _>| name.map(|n| n.value.0).unwrap_or_default();
    let five = Duration::from_secs(5);
    let negative_ttl = seconds("negative-ttl", spec.negative_ttl, five, Duration::ZERO, DAY, report);
    let second = Duration::from_secs(1);
    let min_lease = seconds("min-lease", spec.min_lease, 30 * second, second, DAY, report);
    let max_lease = seconds("max-lease", spec.max_lease, DAY, min_lease, 30 * DAY, report);
    let zone = Zone {
        name: text(name),
        primary_ns: text(primary_ns),
        contact: text(contact),
        negative_ttl: u32::try_from(negative_ttl.as_secs()).unwrap_or(u32::MAX),
        file: spec.file.ok("file", report).map(|file| file.value.0),
        allow_transfer: peers(spec.allow_transfer, keys, report),
        notify: addresses(spec.notify, report),
        min_lease,
        max_lease,
        expire_last: spec.expire_last.or("expire-last", false, report),
    };
    (span, zone)
}

/// A duration that DNS counts in seconds.
fn seconds(
    key: &str,
    field: Field<Duration>,
    default: Duration,
    least: Duration,
    most: Duration,
    report: &mut Report<'_>,
) -> Duration {
    let Some(At { value, span }) = field.ok(key, report) else { return default.max(least) };
    if value.subsec_nanos() != 0 {
        let problem = Problem::new(format!("{key}: {} is not a whole number of seconds", show(value)));
        report.error(&span, problem.hint("DNS counts in seconds"));
    } else if value < least || value > most {
        let range = format!("{} to {}", show(least), show(most));
        report.error(
            &span,
            Problem::new(format!("{key}: {} is out of range: {range} is allowed", show(value))),
        );
    }
    value
}

fn peers(field: Field<List<PeerText>>, keys: &[KeyDraft], report: &mut Report<'_>) -> Vec<Peer> {
    let Some(At { value, .. }) = field.ok("allow-transfer", report) else { return vec![] };
    let names = || keys.iter().map(|draft| draft.key.name.as_str());
    let mut peers = Vec::new();
    for At { value, span } in value.open("allow-transfer", report).into_iter().flatten() {
        match value {
            PeerText::Network(network) => peers.push(Peer::Network(network)),
            PeerText::Key(name) if names().any(|known| known == name) => peers.push(Peer::Key(name)),
            PeerText::Key(name) => {
                let hint = did_you_mean(&name, names()).unwrap_or_else(|| {
                    "a [[key]] with this name, or a network such as \"10.77.0.0/24\"".into()
                });
                let problem = Problem::new(format!("allow-transfer: there is no key {}", quote(&name)));
                report.error(&span, problem.hint(hint));
            }
        }
    }
    peers
}

fn addresses(field: Field<List<Socket>>, report: &mut Report<'_>) -> Vec<SocketAddr> {
    let Some(At { value, .. }) = field.ok("notify", report) else { return vec![] };
    value.open("notify", report).into_iter().flatten().map(|at| at.value.0).collect()
}

fn rate_limit(field: Field<Table<RateLimitSpec>>, report: &mut Report<'_>) -> RateLimit {
    let spec = field.ok("[rate-limit]", report).map(|at| at.value.open(report)).unwrap_or_default();
    let exempt = spec.exempt.ok("exempt", report).map(|at| at.value.open("exempt", report));
    RateLimit {
        responses_per_second: spec.responses_per_second.or("responses-per-second", Number(1_000), report).0,
        slip: spec.slip.or("slip", Number(2), report).0,
        exempt: exempt.unwrap_or_default().into_iter().flatten().map(|at| at.value.0).collect(),
    }
}

fn status(field: Field<Table<StatusSpec>>, report: &mut Report<'_>) -> Option<SocketAddr> {
    let At { value, span } = field.ok("[status]", report)?;
    let StatusSpec { http } = value.open(report);
    let http = http.need("http", "where metrics are served: http = \"127.0.0.1:9153\"", &span, report);
    http.ok().map(|at| at.value.0)
}
