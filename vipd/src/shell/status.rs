//! The node's state as the documents of the control plane.

use crate::control::api::{Counters, ListenerDoc, PeerDoc, PeerState, PoolDoc, ServerDoc, StatusDoc, VipDoc};
use jiff::Timestamp;
use std::net::SocketAddr;
use std::time::Duration;
use vipd_balancer::Stats;
use vipd_core::health::ServerStatus;
use vipd_core::node::{GroupStatus, Node};
use vipd_core::peers::Peer;
use vipd_core::probe::Lag;
use vipd_core::settings::{Host, Member};
use vipd_core::time::Time;
use vipd_core::wire::peer::State;

/// The whole state.
#[must_use]
pub fn document(node: &Node, stats: &Stats, config_errors: Vec<String>, now: Time) -> StatusDoc {
    let settings = node.settings();
    let others = settings.cluster.nodes.iter().zip(node.peers()).enumerate().filter(|(n, _)| *n != node.me());
    StatusDoc {
        cluster: settings.cluster.name.clone(),
        node: settings.cluster.nodes.get(node.me()).map(|n| n.name.clone()).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        maintenance: node.maintenance(),
        vips: node.group_status(now).iter().map(vip).collect(),
        peers: others.map(|(_, (member, known))| peer(member, known, now)).collect(),
        listeners: listeners(node, stats),
        pools: pools(node, stats, now),
        dns: vec![],
        config_errors,
        counters: Counters { adverts_rejected: node.rejected(now).into_iter().map(Into::into).collect() },
    }
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
    }
}

fn peer(member: &Member, known: &Peer, now: Time) -> PeerDoc {
    // The state that says most: an owner of one VIP is an owner.
    let highest = known.reports.iter().map(|r| r.state).max_by_key(|s| match s {
        State::Init => 0,
        State::Fault => 1,
        State::Backup => 2,
        State::Active => 3,
    });
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
        last_heard_ms: known.heard_at.map(|at| u64::try_from((now - at).as_millis()).unwrap_or(u64::MAX)),
        config_match: known.speaks.then_some(known.differs.is_empty()),
        config_differs: known.differs.iter().map(|k| (*k).to_owned()).collect(),
    }
}

fn listeners(node: &Node, stats: &Stats) -> Vec<ListenerDoc> {
    let settings = node.settings();
    let document = |listener: &vipd_core::settings::Listener| {
        let counted = stats.listeners.iter().find(|l| l.name == listener.name);
        ListenerDoc {
            name: listener.name.clone(),
            bind: listener.bind.to_string(),
            sessions: counted.map_or(0, |c| u64::from(c.sessions)),
            total: counted.map_or(0, |c| c.total),
            bytes_in: counted.map_or(0, |c| c.bytes_in),
            bytes_out: counted.map_or(0, |c| c.bytes_out),
        }
    };
    settings.listeners.iter().map(document).collect()
}

fn pools(node: &Node, stats: &Stats, now: Time) -> Vec<PoolDoc> {
    let mut pools: Vec<PoolDoc> =
        node.settings().pools.iter().map(|p| PoolDoc { name: p.name.clone(), servers: vec![] }).collect();
    for status in node.servers().status() {
        if let Some(pool) = pools.get_mut(status.key.pool) {
            pool.servers.push(server(&status, stats, now));
        }
    }
    pools
}

fn server(status: &ServerStatus<'_>, stats: &Stats, now: Time) -> ServerDoc {
    let counted = stats.servers.iter().find(|s| s.pool == status.pool.name && s.server == status.server.name);
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
        why: format!("{}, for {}", status.reason, age(now - status.since)),
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

/// The causes for which packets were not accepted, a line each.
#[must_use]
pub fn rejected_lines(node: &Node, now: Time) -> Vec<String> {
    let line = |r: &vipd_core::rejects::Rejected| {
        let sender = r.sender.map_or_else(|| "other senders".to_owned(), |s| s.to_string());
        let (count, cause, last) = (r.count, r.cause, age(r.ago));
        format!("{count} packets of {sender} not accepted ({cause}), the last {last} ago: {}", cause.advice())
    };
    node.rejected(now).iter().map(line).collect()
}
