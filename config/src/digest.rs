//! Hashes of the settings that must agree between nodes.

use crate::Config;
use siphasher::sip::SipHasher13;
use std::fmt::Write as _;
use std::hash::Hasher as _;
use vipd_core::settings::{
    Balance, CheckKind, ClusterSettings, Listener, Pool, Role, Transport, VipGroup, VrrpVersion,
};

/// The digest of each key, in an order that never changes; see [`Config::digests`].
pub(crate) fn digests(config: &Config) -> Vec<(&'static str, u32)> {
    let Config { cluster, election, vips, listeners, pools, .. } = config;
    let text = [
        ("cluster.nodes", nodes(cluster)),
        ("election.advert-interval", election.advert_interval.as_nanos().to_string()),
        (
            "election.vrrp-version",
            match election.version {
                VrrpVersion::V2 => "2".into(),
                VrrpVersion::V3 => "3".into(),
            },
        ),
        (
            "election.transport",
            match election.transport {
                Transport::Unicast => "unicast".into(),
                Transport::Multicast => "multicast".into(),
            },
        ),
        ("election.preempt", election.preempt.to_string()),
        ("vip", sorted(vips, |v| vip(v, config))),
        ("listen", sorted(listeners, |l| listener(l, pools))),
        ("pool", sorted(pools, |p| pool(p, pools))),
    ];
    text.into_iter().map(|(key, text)| (key, hash(key, &text))).collect()
}

/// 32 bits of SipHash-1-3 with a zero key: stable over versions and machines.
fn hash(key: &str, text: &str) -> u32 {
    let mut hasher = SipHasher13::new();
    hasher.write(key.as_bytes());
    hasher.write(b"=");
    hasher.write(text.as_bytes());
    let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// One line a thing. The order in which things of different names stand in
/// the file means nothing.
fn sorted<T>(things: &[T], line: impl Fn(&T) -> String) -> String {
    let mut lines: Vec<_> = things.iter().map(line).collect();
    lines.sort();
    lines.join("\n")
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |v| v.to_string())
}

fn nodes(cluster: &ClusterSettings) -> String {
    joined(cluster.nodes.iter().map(|n| {
        let mut addresses = n.addresses.clone();
        addresses.sort();
        let addresses = joined(addresses.iter().map(ToString::to_string));
        format!("{} [{addresses}] {}\n", n.name, optional(n.priority))
    }))
}

/// Not the interface: hosts may differ in what they call it.
fn vip(vip: &VipGroup, config: &Config) -> String {
    let mut addresses = vip.addresses.clone();
    addresses.sort();
    let addresses = joined(addresses.iter().map(ToString::to_string));
    let nodes = joined(vip.nodes.iter().filter_map(|n| config.cluster.nodes.get(*n)).map(|n| n.name.clone()));
    let mut track: Vec<_> =
        vip.track.iter().filter_map(|l| config.listeners.get(*l)).map(|l| l.name.clone()).collect();
    track.sort();
    format!("{} [{addresses}] {} [{nodes}] [{}]", vip.name, vip.vrid, track.join(","))
}

fn pool_name(pools: &[Pool], position: Option<usize>) -> String {
    optional(position.and_then(|p| pools.get(p)).map(|p| p.name.as_str()))
}

fn listener(listener: &Listener, pools: &[Pool]) -> String {
    let idle = optional(listener.idle_timeout.map(|t| t.as_nanos()));
    let pool = pool_name(pools, Some(listener.pool));
    format!("{} {} {pool} {} {idle}", listener.name, listener.bind, listener.max_connections)
}

/// Not the password's file: hosts may keep it elsewhere.
fn pool(pool: &Pool, pools: &[Pool]) -> String {
    let balance = match pool.balance {
        Balance::RoundRobin => "round-robin",
        Balance::LeastConnections => "least-connections",
        Balance::SourceHash => "source-hash",
        Balance::RandomTwo => "random-two",
        Balance::First => "first",
    };
    let fallback = pool_name(pools, pool.fallback);
    let (timeout, retries) = (pool.connect_timeout.as_nanos(), pool.retries);
    let mut text = format!("{} {balance} {fallback} {timeout} {retries}", pool.name);
    for s in &pool.servers {
        let limit = optional(s.max_connections);
        // Writing to a String cannot fail.
        let _ = write!(text, " [{} {} {} {} {limit} {}]", s.name, s.host, s.port, s.weight, s.backup);
    }
    if let Some(check) = &pool.check {
        let (interval, timeout) = (check.interval.as_nanos(), check.timeout.as_nanos());
        let _ = write!(text, " check {interval} {timeout} {} {} ", check.rise, check.fall);
        match &check.kind {
            CheckKind::Tcp(_) => text.push_str("tcp"),
            CheckKind::Http(_) | CheckKind::Postgres(_) | CheckKind::Redis(_) | CheckKind::Exec(_) => {}
            CheckKind::Mysql(mysql) => {
                let role = match mysql.role {
                    Role::Primary => "primary",
                    Role::Replica => "replica",
                    Role::Any => "any",
                };
                let lag = optional(mysql.max_lag.map(|l| l.as_nanos()));
                let _ = write!(text, "mysql \"{}\" {role} {lag}", mysql.user.escape_default());
            }
        }
    }
    text
}
