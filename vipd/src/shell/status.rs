//! The node's state as the documents of the control plane.

use super::NAME_PROBLEM;
use crate::control::api::{
    Counters, DnsDoc, DnsStoreDoc, EtcdDoc, LinkDoc, ListenerDoc, PeerDoc, PeerState, PoolDoc, QueueDoc,
    ServerDoc, StatusDoc, VipDoc, WitnessDoc,
};
use crate::etcd::Etcd;
use crate::peer::{self, Links};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;
use vipd_balancer::{CloseCause, ListenerStats, PoolStats, ServerStats, Stats};
use vipd_core::discover::Found;
use vipd_core::explain::count;
use vipd_core::health::{Admin, Reason, ServerStatus};
use vipd_core::node::{GroupStatus, Node};
use vipd_core::peers::{Peer, WitnessFile};
use vipd_core::probe::{Connections, Lag};
use vipd_core::rejects::Rejected;
use vipd_core::settings::{Host, Member};
use vipd_core::time::Time;
use vipd_core::wire::peer::State;

/// All that is known, and when.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The decisions.
    pub node: &'a Node,
    /// The balancer's numbers.
    pub stats: &'a Stats,
    /// What names of servers stand for.
    pub found: &'a Found,
    /// The stores of published names.
    pub stores: &'a [DnsStoreDoc],
    /// The sealed links to other nodes, where there are any.
    pub links: Option<&'a Links>,
    /// The way to etcd, where the quorum is kept there.
    pub etcd: Option<&'a Etcd>,
    /// Why the newest configuration was refused, if it was.
    pub config_errors: &'a [String],
    /// Now.
    pub now: Time,
}

/// The whole state.
#[must_use]
pub fn document(known: &Known<'_>) -> StatusDoc {
    let Known { node, stats, stores, links, etcd, config_errors, now, .. } = *known;
    let settings = node.settings();
    let others = settings.cluster.nodes.iter().zip(node.peers()).enumerate().filter(|(n, _)| *n != node.me());
    let mut document = StatusDoc {
        cluster: settings.cluster.name.clone(),
        node: settings.cluster.nodes.get(node.me()).map(|n| n.name.clone()).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        maintenance: node.maintenance(),
        vips: node.group_status(now).iter().map(vip).collect(),
        peers: others.map(|(_, (member, known))| peer(member, known, now)).collect(),
        witnesses: witnesses(node, now),
        listeners: listeners(node, stats),
        pools: pools(known),
        dns: dns(node, stores.to_vec(), now).into_iter().collect(),
        etcd: etcd.map(Etcd::members).unwrap_or_default().into_iter().map(EtcdDoc::from).collect(),
        config_errors: config_errors.to_vec(),
        counters: Counters {
            adverts_rejected: node.rejected(now).into_iter().map(Into::into).collect(),
            adverts_rejected_total: node
                .rejected_totals()
                .iter()
                .map(|(cause, n)| ((*cause).to_owned(), *n))
                .collect(),
        },
    };
    if let Some(links) = links {
        add_links(&mut document, links, node.me(), now);
    }
    document
}

/// The name that leads to the nodes, if the settings have one.
#[must_use]
pub fn dns(node: &Node, stores: Vec<DnsStoreDoc>, now: Time) -> Option<DnsDoc> {
    let status = node.dns_status(now)?;
    let published: BTreeSet<&String> = stores.iter().flat_map(|s| &s.published).collect();
    let published: Vec<String> = published.into_iter().cloned().collect();
    let desired = match status.desired {
        Some(set) => set.iter().map(ToString::to_string).collect(),
        None => published.clone(),
    };
    Some(DnsDoc {
        name: status.name,
        desired,
        published,
        in_sync: stores.iter().all(|s| s.in_sync),
        epoch: stores.iter().map(|s| s.epoch).max().unwrap_or(0),
        writer: status.writer,
        why: status.why,
        stores,
    })
}

/// The wall clock's time so long ago; for people, never for decisions.
fn ago(duration: Duration) -> Timestamp {
    Timestamp::now().saturating_sub(duration).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn vip(group: &GroupStatus) -> VipDoc {
    VipDoc {
        name: group.name.clone(),
        addresses: group.addresses.iter().map(ToString::to_string).collect(),
        state: group.state.into(),
        owner: group.owner.clone(),
        priority: group.priority,
        since: ago(group.since),
        why: group.why.clone(),
        steps: group.steps.map(Into::into),
        conflicts: group.conflicts.iter().cloned().map(Into::into).collect(),
        claims_total: group.claims,
        proofs: group.proofs.iter().cloned().map(Into::into).collect(),
        lease_ms: group.lease_left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
    }
}

fn witnesses(node: &Node, now: Time) -> Vec<WitnessDoc> {
    let all = node.settings().cluster.witnesses.iter().zip(node.witnesses());
    let witness = |(member, known): (&Member, &WitnessFile)| WitnessDoc {
        name: member.name.clone(),
        address: member.addresses.first().map(ToString::to_string).unwrap_or_default(),
        last_heard_ms: known.heard_at.map(|at| u64::try_from((now - at).as_millis()).unwrap_or(u64::MAX)),
        config_match: (!known.digests.is_empty()).then_some(known.differs.is_empty()),
        config_differs: known.differs.iter().map(|k| (*k).to_owned()).collect(),
    };
    all.map(witness).collect()
}

fn peer(member: &Member, known: &Peer, now: Time) -> PeerDoc {
    // The state that says most: an owner of one VIP is an owner.
    let highest = known.reports.iter().map(|r| r.state).max_by_key(|s| match s {
        State::Init => 0,
        State::Fault => 1,
        State::Backup => 2,
        State::Active => 3,
    });
    let since = |at: Time| u64::try_from((now - at).as_millis()).unwrap_or(u64::MAX);
    PeerDoc {
        name: member.name.clone(),
        address: member.addresses.first().map(ToString::to_string).unwrap_or_default(),
        state: match highest.filter(|_| known.alive) {
            None => PeerState::Unknown,
            Some(State::Init) => PeerState::Init,
            Some(State::Backup) => PeerState::Backup,
            Some(State::Active) => PeerState::Active,
            Some(State::Fault) => PeerState::Fault,
        },
        last_heard_ms: known.heard_at.map(since),
        last_advert_ms: known.advert_at.map(since),
        config_match: known.speaks.then_some(known.differs.is_empty()),
        link: None,
        hears_this: known.hears(),
        config_differs: known.differs.iter().map(|k| (*k).to_owned()).collect(),
    }
}

/// Adds what the daemon knows of the sealed links.
fn add_links(document: &mut StatusDoc, links: &Links, me: usize, now: Time) {
    let others = (0..).filter(|n| *n != me);
    for (peer, number) in document.peers.iter_mut().zip(others) {
        let status = links.status(number, now);
        let (problem, problem_ago) = status.problem.unzip();
        peer.link = Some(LinkDoc {
            sealed_since: status.sealed_for.map(ago),
            cipher: peer::CIPHER.to_owned(),
            problem,
            problem_ago_ms: problem_ago.map(|a| u64::try_from(a.as_millis()).unwrap_or(u64::MAX)),
        });
    }
}

/// What is wrong with the sealed links: a line each.
#[must_use]
pub fn link_lines(node: &Node, links: &Links, now: Time) -> Vec<String> {
    let others = node.settings().cluster.nodes.iter().enumerate().filter(|(n, _)| *n != node.me());
    others
        .filter_map(|(n, member)| {
            let status = links.status(n, now);
            let problem =
                status.problem.map(|(what, ago)| format!("{what} (the last time {} ago)", age(ago)));
            match (status.sealed_for, problem) {
                (Some(_), problem) => problem,
                (None, None) => Some(format!("there is no sealed link to {}", member.name)),
                (None, Some(problem)) => {
                    Some(format!("there is no sealed link to {}: {problem}", member.name))
                }
            }
        })
        .collect()
}

fn listeners(node: &Node, stats: &Stats) -> Vec<ListenerDoc> {
    let settings = &node.settings().listeners;
    let here = settings.iter().map(|s| {
        let counted = stats.listeners.iter().find(|l| l.name == s.name);
        ListenerDoc { bind: s.bind.to_string(), removed: false, ..listener(&s.name, counted) }
    });
    let removed = stats.listeners.iter().filter(|l| settings.iter().all(|s| s.name != l.name));
    here.chain(removed.map(|l| listener(&l.name, Some(l)))).collect()
}

/// One that was removed, unless the settings have it.
fn listener(name: &str, counted: Option<&ListenerStats>) -> ListenerDoc {
    ListenerDoc {
        name: name.to_owned(),
        bind: String::new(),
        removed: true,
        sessions: counted.map_or(0, |c| u64::from(c.sessions)),
        total: counted.map_or(0, |c| c.total),
        bytes_in: counted.map_or(0, |c| c.bytes_in),
        bytes_out: counted.map_or(0, |c| c.bytes_out),
        closed: counted.map(closed).unwrap_or_default(),
        accept_errors: counted.map_or(0, |c| c.accept_errors),
        sources: counted.map_or(0, |c| c.sources as u64),
    }
}

/// Sessions that ended, by cause.
fn closed_on(counted: &ServerStats) -> BTreeMap<String, u64> {
    let all = CloseCause::ALL.into_iter().zip(counted.closed);
    all.filter(|(_, n)| *n > 0).map(|(cause, n)| (cause.to_string(), n)).collect()
}

fn closed(counted: &ListenerStats) -> BTreeMap<String, u64> {
    CloseCause::ALL.into_iter().map(|cause| (cause.to_string(), counted.closed(cause))).collect()
}

fn pools(known: &Known<'_>) -> Vec<PoolDoc> {
    let Known { node, stats, found, .. } = *known;
    let queues: BTreeMap<&str, &PoolStats> = stats.pools.iter().map(|p| (&*p.pool, p)).collect();
    let empty = |name: &String| {
        let counted = queues.get(&**name);
        PoolDoc {
            name: name.clone(),
            servers: vec![],
            incumbent: None,
            conflict: vec![],
            epoch: 0,
            disagreeing: vec![],
            queue: counted.map(|c| queue(c)).unwrap_or_default(),
            fallback_sessions: counted.map_or(0, |c| c.fallback_sessions),
            unresolved: found.problems_in(name).map(str::to_owned).collect(),
        }
    };
    let mut pools: Vec<PoolDoc> = node.settings().pools.iter().map(|p| empty(&p.name)).collect();
    let counted = counted(stats);
    for (at, pool) in pools.iter_mut().enumerate() {
        pool.epoch = node.servers().epoch(at);
        let others = node.disagreeing(at).into_iter();
        pool.disagreeing = others.map(|(node, server)| format!("{node}: {server}")).collect();
    }
    for status in node.servers().status() {
        let Some(pool) = pools.get_mut(status.key.pool) else { continue };
        let name = &status.server.name;
        if status.incumbent {
            pool.incumbent = Some(name.clone());
        }
        if matches!(status.reason, Reason::Conflict { .. }) {
            pool.conflict.push(name.clone());
        }
        if status.problem.is_some() {
            pool.unresolved.push(name.clone());
        }
        let counted = counted.get(&(&*status.pool.name, &**name)).copied();
        pool.servers.push(server(&status, counted, known));
    }
    pools
}

/// What was counted of servers, by pool and name: a walk over a thousand
/// servers for each of them takes too long.
pub(super) fn counted(stats: &Stats) -> BTreeMap<(&str, &str), &ServerStats> {
    stats.servers.iter().map(|s| ((&*s.pool, &*s.server), s)).collect()
}

fn queue(counted: &PoolStats) -> QueueDoc {
    QueueDoc {
        waiting: counted.queued,
        total: counted.queued_total,
        timeouts: counted.queue_timeouts,
        full: counted.queue_full,
    }
}

fn server(status: &ServerStatus<'_>, counted: Option<&ServerStats>, known: &Known<'_>) -> ServerDoc {
    ServerDoc {
        name: status.server.name.clone(),
        address: address(status),
        state: status.reason.state().into(),
        role: status.role.map(Into::into),
        lag_ms: match status.lag {
            Some(Lag::Known(lag)) => Some(u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
            Some(Lag::Unknown(_)) | None => None,
        },
        sessions: counted.map_or(0, |c| u64::from(c.sessions)),
        why: server_why(status, counted, known),
        since: Some(ago(known.now - status.since)),
        weight: status.weight,
        weight_given: status.weight_given,
        slow_start_percent: status.slow_start,
        check: status.pool.check.as_ref().map(|_| status.checks.into()),
        connections_used: status.connections.map(|c| c.used),
        connections_max: status.connections.map(|c| c.max),
        total: counted.map_or(0, |c| c.total),
        connect_errors: counted.map_or(0, |c| c.connect_errors),
        resets: counted.map_or(0, |c| c.resets),
        bytes_in: counted.map_or(0, |c| c.bytes_in),
        bytes_out: counted.map_or(0, |c| c.bytes_out),
        closed: counted.map(closed_on).unwrap_or_default(),
        room: counted.and_then(|c| c.room),
    }
}

/// Why a server is in its state, for how long, and what else is to be known of it.
#[must_use]
pub fn server_why(status: &ServerStatus<'_>, counted: Option<&ServerStats>, known: &Known<'_>) -> String {
    let now = known.now;
    let mut why = format!("{}, for {}", status.reason, age(now - status.since));
    if let (Some(vanished), false) = (status.server.vanished, matches!(status.reason, Reason::Vanished(_))) {
        let _ = write!(why, "; {vanished}");
    }
    if !status.fails_from.is_empty() && !matches!(status.reason, Reason::Failed { .. }) {
        let _ = write!(why, "; unreachable from {}", status.fails_from.join(", "));
    }
    if let Some(unable) = status.unable {
        let _ = write!(why, "; this host cannot check it: {unable}");
    }
    if status.incumbent && (status.admin == Admin::Drain || status.weight == 0) {
        why.push_str("; it stays the primary, and no other server gets new sessions until it is in maint");
    }
    if let Some(counted) = counted {
        full(&mut why, status, counted);
        if counted.former > 0 {
            let left = if counted.former == 1 { "is" } else { "are" };
            let _ =
                write!(why, "; {} {left} left where it was before", count(counted.former.into(), "session"));
        }
    }
    if let Some(percent) = status.slow_start {
        let _ = write!(why, "; slow start: {percent} %");
    }
    if status.weight_given {
        let _ = write!(why, "; weight {} on request", status.weight);
    }
    if let Some(since) = status.lag_unknown_since {
        let _ = write!(why, "; its lag is unknown for {}", age(now - since));
    }
    let unresolved = status.problem.filter(|_| !status.addresses.is_empty());
    let entry = known.found.problem_of(&status.pool.name, &status.server.name);
    if let Some(problem) = unresolved.or(entry) {
        let _ = write!(why, "; {NAME_PROBLEM}: {problem}");
    }
    if let Some(at) = status.close_at {
        let _ = write!(why, "; its sessions are closed in {}", age(at - now));
    }
    why
}

/// What a server that is up has not to give at the moment.
fn full(why: &mut String, status: &ServerStatus<'_>, counted: &ServerStats) {
    if status.reason.state() != vipd_core::health::State::Up {
        return;
    }
    let sessions = counted.sessions;
    if let Some(most) = status.server.max_connections.filter(|most| sessions >= *most) {
        let _ = write!(why, "; full: {sessions} sessions, max-connections is {most}");
    }
    if counted.room == Some(0) {
        let _ = match status.connections {
            Some(Connections { used, max }) => write!(
                why,
                "; full: of its own {max} connections it had {used} in use at its last check, \
                 and headroom is {}",
                status.pool.headroom
            ),
            None => write!(why, "; full: its own limit, as of its last word on that"),
        };
    }
    if let (true, Some(rate)) = (counted.rate_used_up, status.server.max_rate) {
        let _ = write!(why, "; new sessions wait: max-rate is {rate} a second, and used up");
    }
}

fn address(status: &ServerStatus<'_>) -> String {
    match (&status.server.host, status.addresses.first()) {
        (Host::Address(address), _) => SocketAddr::new(*address, status.server.port).to_string(),
        (Host::Name(_), Some(address)) => SocketAddr::new(*address, status.server.port).to_string(),
        (Host::Name(name), None) => format!("{name}:{}", status.server.port),
    }
}

/// A duration in its largest unit.
fn age(duration: Duration) -> String {
    match duration.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..86400 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86400),
    }
}

/// Senders that are named for each cause.
const SENDERS: usize = 3;

/// The causes for which packets were not accepted: a line each, with the
/// senders of the most.
#[must_use]
pub fn rejected_lines(node: &Node, now: Time) -> Vec<String> {
    rejected(&node.rejected(now))
}

/// `list` has the senders of the most packets first.
fn rejected(list: &[Rejected]) -> Vec<String> {
    let mut causes: Vec<(&Rejected, Vec<&Rejected>)> = Vec::new();
    for r in list {
        match causes.iter_mut().find(|(first, _)| first.cause == r.cause) {
            Some((_, of_cause)) => of_cause.push(r),
            None => causes.push((r, vec![r])),
        }
    }
    causes.into_iter().map(|(first, of_cause)| cause_line(first, &of_cause)).collect()
}

fn cause_line(first: &Rejected, of_cause: &[&Rejected]) -> String {
    let cause = first.cause;
    let packets = count(of_cause.iter().map(|r| r.count).sum(), "packet");
    let last = age(of_cause.iter().map(|r| r.ago).min().unwrap_or_default());
    let named = of_cause.iter().filter_map(|r| Some((r.sender?, r.count))).take(SENDERS);
    let mut senders: Vec<String> = match of_cause {
        [_] => named.map(|(sender, _)| sender.to_string()).collect(),
        _ => named.map(|(sender, count)| format!("{sender} ({count})")).collect(),
    };
    if of_cause.len() > senders.len() {
        senders.push("others".to_owned());
    }
    let senders = senders.join(", ");
    format!("{packets} not accepted ({cause}) of {senders}, the last {last} ago: {}", cause.advice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::calls::why;
    use std::net::{IpAddr, Ipv4Addr};
    use vipd_core::discover::Entry;
    use vipd_core::node::{Input, Settings};
    use vipd_core::pool::ServerKey;
    use vipd_core::probe::{Checked, Observation, ObservedRole, Probe};
    use vipd_core::rejects::{Reject, Rejects};
    use vipd_core::settings::{Check, CheckKind, MysqlCheck, Pool, Role, Server, TcpCheck};

    /// A node with a pool of one server, which has limits of every kind, and
    /// what was counted of that.
    fn limited() -> (Node, Stats) {
        let settings = Settings {
            pools: vec![Pool {
                headroom: 10,
                servers: vec![Server {
                    max_connections: Some(200),
                    max_rate: Some(50),
                    ..Server::new("db1", Host::Address([10, 77, 0, 21].into()), 3306)
                }],
                check: Some(Check::new(CheckKind::Tcp(TcpCheck::default()))),
                ..Pool::new("primary", vec![])
            }],
            ..crate::shell::orders::tests::settings()
        };
        let mut node = Node::new(settings, 0, 0, Time::ZERO);
        let connections = Some(Connections { used: 141, max: 151 });
        let probe = Probe::Answered(Observation { connections, ..Observation::default() });
        let server = ServerKey { pool: 0, server: 0 };
        node.handle(Input::Probe { server, probe, checked: Checked::at(Time::ZERO) }, Time::ZERO);
        let counted = ServerStats {
            pool: "primary".into(),
            server: "db1".into(),
            sessions: 199,
            room: Some(1),
            ..ServerStats::default()
        };
        (node, Stats { listeners: vec![], pools: vec![], servers: vec![counted] })
    }

    fn known<'a>(node: &'a Node, stats: &'a Stats, found: &'a Found) -> Known<'a> {
        Known {
            node,
            stats,
            found,
            stores: &[],
            links: None,
            etcd: None,
            config_errors: &[],
            now: Time::ZERO,
        }
    }

    #[test]
    fn a_server_that_is_full_says_of_what() {
        let found = Found::default();
        let (node, mut stats) = limited();
        let why =
            |stats: &Stats| document(&known(&node, stats, &found)).pools.remove(0).servers.remove(0).why;
        assert_eq!(why(&stats), "its check succeeds, for 0 s");
        stats.servers[0].sessions = 200;
        assert_eq!(why(&stats), "its check succeeds, for 0 s; full: 200 sessions, max-connections is 200");
        stats.servers[0] =
            ServerStats { sessions: 9, room: Some(0), rate_used_up: true, ..stats.servers[0].clone() };
        let expected = "its check succeeds, for 0 s; full: of its own 151 connections it had \
                        141 in use at its last check, and headroom is 10; new sessions wait: max-rate is 50 a second, \
                        and used up";
        assert_eq!(why(&stats), expected);
        stats.servers[0] =
            ServerStats { room: None, rate_used_up: false, former: 2, ..stats.servers[0].clone() };
        assert_eq!(why(&stats), "its check succeeds, for 0 s; 2 sessions are left where it was before");
    }

    #[test]
    fn a_primary_that_drains_says_that_it_stays_the_primary() {
        let found = Found::default();
        let check = MysqlCheck { role: Role::Primary, ..MysqlCheck::new("vipd") };
        let server = Server::new("db1", Host::Address([10, 77, 0, 21].into()), 3306);
        let pool = Pool::new("primary", vec![server]);
        let pools = vec![Pool { check: Some(Check::new(CheckKind::Mysql(check))), ..pool }];
        let settings = Settings { pools, ..crate::shell::orders::tests::settings() };
        let mut node = Node::new(settings, 0, 0, Time::ZERO);
        let probe =
            Probe::Answered(Observation { role: Some(ObservedRole::Primary), ..Observation::default() });
        let server = ServerKey { pool: 0, server: 0 };
        node.handle(Input::Probe { server, probe, checked: Checked::at(Time::ZERO) }, Time::ZERO);
        // The other node says nothing of the primary by then.
        let alone = Time::ZERO + Duration::from_secs(4);
        node.handle(Input::Tick, alone);
        let stays = |node: &Node| {
            let why = why(&known(node, &Stats::default(), &found), Some("primary/db1"));
            why.is_ok_and(|why| why.contains("it stays the primary"))
        };
        assert!(!stays(&node));
        assert!(node.set_admin("primary", "db1", Admin::Drain, alone).is_ok());
        assert!(stays(&node));
        assert!(node.set_admin("primary", "db1", Admin::Maint, alone).is_ok());
        assert!(!stays(&node));
    }

    #[test]
    fn a_name_that_fails_is_told_of_its_pool_and_servers() {
        let (node, stats) = limited();
        let mut found = Found::default();
        let entry = Entry { pool: "primary".into(), server: "db1".into() };
        found.set_problem(&entry, Some("there is no such name (NXDOMAIN)".into()));
        let known = known(&node, &stats, &found);
        let pool = document(&known).pools.remove(0);
        assert_eq!(pool.unresolved, ["db1"]);
        let said = ": there is no such name (NXDOMAIN)";
        assert!(pool.servers[0].why.ends_with(said), "{}", pool.servers[0].why);
        let said_too = why(&known, Some("primary")).map_err(|e| e.0);
        assert!(said_too.as_ref().is_ok_and(|w| w.ends_with(said)), "{said_too:?}");
        for asked in ["secondary", "primary/db9", "other/db1"] {
            let refused = why(&known, Some(asked)).map_err(|e| e.0);
            let all = format!(
                "there is no VIP, name, pool or server `{asked}`; there is main, primary, primary/db1"
            );
            assert_eq!(refused, Err(all));
        }
    }

    #[test]
    fn a_flood_of_senders_is_a_few_lines() {
        let mut rejects = Rejects::default();
        let at = |s| Time::ZERO + Duration::from_secs(s);
        for n in 1..=60_u8 {
            for _ in 0..n {
                rejects.count(Reject::Ttl, IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)), at(u64::from(n)));
            }
        }
        rejects.count(Reject::UnknownVrid, IpAddr::V4(Ipv4Addr::LOCALHOST), at(63));
        let lines = rejected(&rejects.list(at(63)));
        assert_eq!(lines.len(), 2, "{lines:?}");
        let first = "1830 packets not accepted (ttl) of 192.0.2.60 (60), 192.0.2.59 (59), 192.0.2.58 (58), others, \
                     the last 3 s ago: ";
        assert!(lines[0].starts_with(first), "{}", lines[0]);
        let second = "1 packet not accepted (unknown-vrid) of 127.0.0.1, the last 0 s ago: ";
        assert!(lines[1].starts_with(second), "{}", lines[1]);
    }
}
