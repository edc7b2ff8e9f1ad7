//! Hashes of the settings that must agree between nodes.

use crate::Config;
use siphasher::sip::SipHasher13;
use std::fmt::Write as _;
use std::hash::Hasher as _;
use std::ops::RangeInclusive;
use std::time::Duration;
use vipd_core::settings::{
    Balance, Check, CheckKind, Cidr, ClusterSettings, Dns, Galera, Heartbeat, Listener, Member, MysqlCheck,
    OnDemote, OnDown, OnNoQuorum, Policy, Pool, ProxyProtocol, Quorum, RecordForm, Resolve, Rfc2136, Role,
    Route53, Server, Source, TcpCheck, Tls, Transport, VipGroup, VrrpVersion, WhenAllDown,
};

/// The digest of each key, in an order that never changes; see [`Config::digests`].
pub(crate) fn digests(config: &Config) -> Vec<(&'static str, u32)> {
    let Config { cluster, election, vips, listeners, pools, dns, .. } = config;
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
                Transport::Udp => "udp".into(),
            },
        ),
        ("election.preempt", election.preempt.to_string()),
        ("vip", sorted(vips, |v| vip(v, config))),
        ("listen", sorted(listeners, |l| listener(l, pools))),
        ("pool", sorted(pools, |p| pool(p, pools))),
        ("dns", dns.as_ref().map(|d| self::dns(d, config)).unwrap_or_default()),
        ("election.quorum", quorum(config)),
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

/// Who votes, and what for.
fn quorum(config: &Config) -> String {
    let election = &config.election;
    match (election.quorum, election.on_no_quorum) {
        (Quorum::None, _) => "none".into(),
        (Quorum::Majority, OnNoQuorum::Withdraw) => {
            format!("majority {}", members(&config.cluster.witnesses))
        }
        (Quorum::Majority, OnNoQuorum::Keep) => format!("keep {}", members(&config.cluster.witnesses)),
        (Quorum::Etcd, on_no_quorum) => {
            let keep = on_no_quorum == OnNoQuorum::Keep;
            // By which of its members a host asks is its own affair.
            let prefix = config.etcd.as_ref().map_or("", |e| e.prefix.as_str());
            format!("etcd {prefix} {} {keep}", election.etcd_lease.as_nanos())
        }
    }
}

fn nodes(cluster: &ClusterSettings) -> String {
    members(&cluster.nodes)
}

fn members(members: &[Member]) -> String {
    joined(members.iter().map(|n| {
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

/// Not where a host keeps the key, nor where tests find the API.
fn dns(dns: &Dns, config: &Config) -> String {
    let Dns { name, ttl, policy, when_all_down, hold_down, repair, .. } = dns;
    let policy = match policy {
        Policy::Multi => "multi",
        Policy::Owner => "owner",
    };
    let down = match when_all_down {
        WhenAllDown::LastGood => "last-good",
        WhenAllDown::All => "all",
        WhenAllDown::Empty => "empty",
    };
    let owner = optional(config.vips.get(dns.owner).map(|v| v.name.as_str()));
    let mut text =
        format!("{name} {} {policy} {down} {} {repair} {owner}", ttl.as_secs(), hold_down.as_nanos());
    for (node, addresses) in &dns.public_addresses {
        let name = config.cluster.nodes.get(*node).map_or("-", |m| m.name.as_str());
        let mut addresses = addresses.clone();
        addresses.sort();
        let _ = write!(text, " {name} [{}]", joined(addresses.iter().map(ToString::to_string)));
    }
    if let Some(Rfc2136 { servers, zone, key_name, key_algorithm, .. }) = &dns.rfc2136 {
        let mut servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        servers.sort();
        let algorithm = key_algorithm.name();
        let _ = write!(text, " rfc2136 [{}] {zone} {key_name} {algorithm}", servers.join(","));
    }
    if let Some(Route53 { zone_id, records, health_checks, .. }) = &dns.route53 {
        let form = match records {
            RecordForm::Multivalue => "multivalue",
            RecordForm::Simple => "simple",
        };
        let name = |n: usize| config.cluster.nodes.get(n).map_or("-", |m| m.name.as_str());
        let mut checks: Vec<_> = health_checks.iter().map(|(n, id)| format!("{}={id}", name(*n))).collect();
        checks.sort();
        let _ = write!(text, " route53 {zone_id} {form} [{}]", checks.join(","));
    }
    text
}

fn pool_name(pools: &[Pool], position: Option<usize>) -> String {
    optional(position.and_then(|p| pools.get(p)).map(|p| p.name.as_str()))
}

fn listener(listener: &Listener, pools: &[Pool]) -> String {
    let idle = optional(listener.idle_timeout.map(|t| t.as_nanos()));
    let pool = pool_name(pools, Some(listener.pool));
    let mut text = format!("{} {} {pool} {} {idle}", listener.name, listener.bind, listener.max_connections);
    let Listener {
        max_per_source,
        max_rate_per_source,
        max_session_age,
        max_busy_session_age,
        stall_timeout,
        tcp_keepalive,
        tcp_user_timeout,
        accept_proxy,
        access_log,
        ..
    } = listener;
    let defaults = Listener::new("", listener.bind, 0);
    let mut differs = Differs(&mut text);
    differs.key("per-source", max_per_source, &defaults.max_per_source);
    differs.key("rate-per-source", max_rate_per_source, &defaults.max_rate_per_source);
    differs.key("age", max_session_age, &defaults.max_session_age);
    differs.key("busy-age", max_busy_session_age, &defaults.max_busy_session_age);
    differs.key("stall-timeout", stall_timeout, &defaults.stall_timeout);
    differs.key("keepalive", tcp_keepalive, &defaults.tcp_keepalive);
    differs.key("user-timeout", tcp_user_timeout, &defaults.tcp_user_timeout);
    differs.key("accept-proxy", accept_proxy, &defaults.accept_proxy);
    differs.key("access-log", access_log, &defaults.access_log);
    text
}

/// Settings that came after the first digests are told only where they differ
/// from their defaults: a file that does not name them keeps the digest it
/// always had, and agrees with a node whose version does not know them. A
/// default may therefore never change.
struct Differs<'t>(&'t mut String);

impl Differs<'_> {
    fn key<T: Tell + PartialEq>(&mut self, key: &str, value: &T, default: &T) {
        if value != default {
            // Quotes within are escaped, so that no value reads like another key.
            let _ = write!(self.0, " {key}=\"{}\"", value.tell().escape_default());
        }
    }
}

/// A value as digests know it; what it says may never change.
trait Tell {
    fn tell(&self) -> String;
}

macro_rules! tell_as_displayed {
    ($($type:ty),*) => {
        $(impl Tell for $type {
            fn tell(&self) -> String {
                self.to_string()
            }
        })*
    };
}

tell_as_displayed!(bool, u16, u32, String, Cidr);

impl Tell for Duration {
    fn tell(&self) -> String {
        self.as_nanos().to_string()
    }
}

impl<T: Tell> Tell for Option<T> {
    fn tell(&self) -> String {
        self.as_ref().map_or_else(|| "-".into(), T::tell)
    }
}

impl<T: Tell> Tell for Vec<T> {
    fn tell(&self) -> String {
        joined(self.iter().map(|item| format!("\"{}\"", item.tell().escape_default())))
    }
}

impl Tell for RangeInclusive<u16> {
    fn tell(&self) -> String {
        format!("{}-{}", self.start(), self.end())
    }
}

impl Tell for Source {
    fn tell(&self) -> String {
        match self {
            Self::Auto => "auto".into(),
            Self::Vip => "vip".into(),
            Self::Address(address) => address.to_string(),
        }
    }
}

impl Tell for ProxyProtocol {
    fn tell(&self) -> String {
        match self {
            Self::V1 => "v1".into(),
            Self::V2 => "v2".into(),
        }
    }
}

impl Tell for OnDown {
    fn tell(&self) -> String {
        match self {
            Self::Close => "close".into(),
            Self::Drain => "drain".into(),
        }
    }
}

impl Tell for OnDemote {
    fn tell(&self) -> String {
        match self {
            Self::Close => "close".into(),
            Self::Drain(time) => format!("drain {}", time.tell()),
        }
    }
}

impl Tell for Resolve {
    fn tell(&self) -> String {
        match self {
            Self::One => "one".into(),
            Self::All => "all".into(),
            Self::Srv => "srv".into(),
        }
    }
}

impl Tell for Role {
    fn tell(&self) -> String {
        match self {
            Self::Primary => "primary".into(),
            Self::Replica => "replica".into(),
            Self::Any => "any".into(),
        }
    }
}

/// Not the certificates' file: hosts may keep it elsewhere.
impl Tell for Tls {
    fn tell(&self) -> String {
        format!("{} {}", self.verify, self.server_name.tell())
    }
}

impl Tell for Heartbeat {
    fn tell(&self) -> String {
        format!("{}.{}.{}", self.schema, self.table, self.column)
    }
}

impl Tell for Galera {
    fn tell(&self) -> String {
        if self.donors { "donors".into() } else { "synced".into() }
    }
}

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
        server(s, &mut text);
    }
    if let Some(check) = &pool.check {
        self::check(check, &mut text);
    }
    let defaults = Pool::new("", vec![]);
    let mut differs = Differs(&mut text);
    differs.key("share", &pool.fallback_max_connections, &defaults.fallback_max_connections);
    differs.key("queue", &pool.queue, &defaults.queue);
    differs.key("queue-timeout", &pool.queue_timeout, &defaults.queue_timeout);
    differs.key("slow-start", &pool.slow_start, &defaults.slow_start);
    differs.key("headroom", &pool.headroom, &defaults.headroom);
    differs.key("source", &pool.source, &defaults.source);
    differs.key("proxy-protocol", &pool.proxy_protocol, &defaults.proxy_protocol);
    differs.key("on-down", &pool.on_down, &defaults.on_down);
    differs.key("on-demote", &pool.on_demote, &defaults.on_demote);
    text
}

fn server(s: &Server, text: &mut String) {
    let limit = optional(s.max_connections);
    // Writing to a String cannot fail.
    let _ = write!(text, " [{} {} {} {} {limit} {}", s.name, s.host, s.port, s.weight, s.backup);
    let defaults = Server::new("", s.host.clone(), s.port);
    let mut differs = Differs(text);
    differs.key("rate", &s.max_rate, &defaults.max_rate);
    differs.key("resolve", &s.resolve, &defaults.resolve);
    text.push(']');
}

/// Not the password's file: hosts may keep it elsewhere.
fn check(check: &Check, text: &mut String) {
    let (interval, timeout) = (check.interval.as_nanos(), check.timeout.as_nanos());
    let _ = write!(text, " check {interval} {timeout} {} {} ", check.rise, check.fall);
    match &check.kind {
        CheckKind::Tcp(tcp) => {
            text.push_str("tcp");
            let mut differs = Differs(text);
            differs.key("send", &tcp.send, &None);
            differs.key("expect", &tcp.expect, &None);
        }
        CheckKind::Http(http) => {
            text.push_str("http");
            let mut differs = Differs(text);
            differs.key("tls", &http.tls, &None);
            differs.key("method", &http.method, &String::new());
            differs.key("path", &http.path, &String::new());
            differs.key("host", &http.host, &None);
            differs.key("status", &http.status, &vec![]);
            differs.key("expect", &http.expect, &None);
        }
        CheckKind::Mysql(mysql) => self::mysql(mysql, text),
        CheckKind::Postgres(postgres) => {
            text.push_str("postgres");
            let mut differs = Differs(text);
            differs.key("user", &postgres.user, &String::new());
            differs.key("database", &postgres.database, &String::new());
            differs.key("tls", &postgres.tls, &None);
            differs.key("role", &postgres.role, &Role::Any);
            differs.key("lag", &postgres.max_lag, &None);
        }
        CheckKind::Redis(redis) => {
            text.push_str("redis");
            let mut differs = Differs(text);
            differs.key("user", &redis.user, &None);
            differs.key("tls", &redis.tls, &None);
            differs.key("role", &redis.role, &Role::Any);
            differs.key("lag", &redis.max_lag, &None);
        }
        CheckKind::Exec(exec) => {
            text.push_str("exec");
            let mut differs = Differs(text);
            differs.key("command", &exec.command, &vec![]);
            differs.key("user", &exec.user, &None);
        }
    }
    let defaults = Check::new(CheckKind::Tcp(TcpCheck::default()));
    let mut differs = Differs(text);
    differs.key("port", &check.port, &defaults.port);
    differs.key("fast", &check.fast_interval, &defaults.fast_interval);
    differs.key("down", &check.down_interval, &defaults.down_interval);
    differs.key("passive", &check.passive, &defaults.passive);
}

fn mysql(mysql: &MysqlCheck, text: &mut String) {
    let lag = optional(mysql.max_lag.map(|l| l.as_nanos()));
    let _ = write!(text, "mysql \"{}\" {} {lag}", mysql.user.escape_default(), mysql.role.tell());
    let mut differs = Differs(text);
    differs.key("tls", &mysql.tls, &None);
    differs.key("heartbeat", &mysql.heartbeat, &None);
    differs.key("galera", &mysql.galera, &None);
    differs.key("group", &mysql.group_replication, &false);
}
