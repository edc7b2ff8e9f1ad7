//! The decisions' words as those of the interface. Both sides are spelt out:
//! a new word over there is a compile error here, never a silent change of
//! what programs read.

use super::api::{
    CheckDoc, ConflictDoc, EtcdDoc, Event, EventKind, Level, ProofDoc, Rejected, Sees, ServerOrder,
    ServerRole, ServerState, SessionDoc, SessionState, SessionsDoc, Steps, VipState, Which,
};
use crate::etcd::MemberStatus;
use std::time::Duration;
use vipd_balancer as balancer;
use vipd_core::node::{ConflictStatus, Proof, ProofStatus};
use vipd_core::probe::ObservedRole;
use vipd_core::wire::{peer, show_mac};
use vipd_core::{event, health, rejects};

/// Whole microseconds, at most 584,000 years of them.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl From<event::Event> for Event {
    fn from(from: event::Event) -> Self {
        let event::Event { level, kind, vip, peer, server, message, state, steps } = from;
        let (pool, server) = server.unzip();
        Self {
            level: level.into(),
            kind: kind.into(),
            vip,
            pool,
            server,
            peer,
            message,
            state: state.map(Into::into),
            steps: steps.map(Into::into),
            dns: None,
        }
    }
}

impl From<ConflictStatus> for ConflictDoc {
    fn from(from: ConflictStatus) -> Self {
        let ConflictStatus { address, mac, node, count, ago } = from;
        let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        Self { address: address.to_string(), mac: show_mac(mac), node, count, ago_ms }
    }
}

impl From<ProofStatus> for ProofDoc {
    fn from(from: ProofStatus) -> Self {
        let ProofStatus { seer, proof } = from;
        let (sees, address, mac, took) = match proof {
            Proof::Owner { mac, took } => (Sees::Owner, None, Some(mac), Some(took)),
            Proof::Other { address, mac } => (Sees::Other, Some(address), Some(mac), None),
            Proof::Nobody { address } => (Sees::Nobody, Some(address), None, None),
        };
        let address = address.map(|a| a.to_string());
        Self { seer, sees, address, mac: mac.map(show_mac), took_us: took.map(micros) }
    }
}

impl From<MemberStatus> for EtcdDoc {
    fn from(from: MemberStatus) -> Self {
        let MemberStatus { endpoint, answers, failures, round_trip, problem } = from;
        Self { endpoint, answers, failures, round_trip_us: round_trip.map(micros), problem }
    }
}

impl From<event::Level> for Level {
    fn from(from: event::Level) -> Self {
        match from {
            event::Level::Info => Self::Info,
            event::Level::Warn => Self::Warning,
            event::Level::Error => Self::Error,
        }
    }
}

impl From<event::Kind> for EventKind {
    fn from(from: event::Kind) -> Self {
        match from {
            event::Kind::Vip => Self::Vip,
            event::Kind::Takeover => Self::Takeover,
            event::Kind::Switchover => Self::Switchover,
            event::Kind::Address => Self::Address,
            event::Kind::Advert => Self::Advert,
            event::Kind::Peer => Self::Peer,
            event::Kind::Server => Self::Server,
            event::Kind::Maintenance => Self::Maintenance,
            event::Kind::Dns => Self::Dns,
        }
    }
}

impl From<event::Steps> for Steps {
    fn from(from: event::Steps) -> Self {
        Self {
            detected_us: from.detected.map(micros),
            decided_us: micros(from.decided),
            address_in_us: micros(from.address_in),
            announced_us: micros(from.announced),
        }
    }
}

impl From<peer::State> for VipState {
    fn from(from: peer::State) -> Self {
        match from {
            peer::State::Init => Self::Init,
            peer::State::Backup => Self::Backup,
            peer::State::Active => Self::Active,
            peer::State::Fault => Self::Fault,
        }
    }
}

impl From<health::State> for ServerState {
    fn from(from: health::State) -> Self {
        match from {
            health::State::Up => Self::Up,
            health::State::Down => Self::Down,
            health::State::Drain => Self::Drain,
            health::State::Maint => Self::Maint,
            health::State::Unknown => Self::Unknown,
            health::State::Unreachable => Self::Unreachable,
        }
    }
}

impl From<ObservedRole> for ServerRole {
    fn from(from: ObservedRole) -> Self {
        match from {
            ObservedRole::Primary => Self::Primary,
            ObservedRole::Replica => Self::Replica,
        }
    }
}

impl From<health::Checks> for CheckDoc {
    fn from(from: health::Checks) -> Self {
        let health::Checks { total, failed, passive, took } = from;
        Self { total, failed, passive, took_us: micros(took) }
    }
}

impl From<ServerOrder> for health::Admin {
    fn from(from: ServerOrder) -> Self {
        match from {
            ServerOrder::Ready => Self::Ready,
            ServerOrder::Drain => Self::Drain,
            ServerOrder::Maint => Self::Maint,
        }
    }
}

impl From<rejects::Rejected> for Rejected {
    fn from(from: rejects::Rejected) -> Self {
        Self {
            cause: from.cause.as_str().to_owned(),
            sender: from.sender.map_or_else(|| "others".to_owned(), |s| s.to_string()),
            count: from.count,
            ago_ms: u64::try_from(from.ago.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl From<Which> for balancer::Which {
    fn from(from: Which) -> Self {
        match from {
            Which::All => Self::All,
            Which::Named(name) => Self::Named(name),
            Which::Server { pool, server } => Self::Server { pool, server },
            Which::Client(client) => Self::Client(client),
            Which::Id(id) => Self::Id(id),
        }
    }
}

impl From<balancer::Sessions> for SessionsDoc {
    fn from(from: balancer::Sessions) -> Self {
        let balancer::Sessions { list, left_out } = from;
        Self { sessions: list.into_iter().map(Into::into).collect(), left_out }
    }
}

impl From<balancer::SessionInfo> for SessionDoc {
    fn from(from: balancer::SessionInfo) -> Self {
        let balancer::SessionInfo { id, listener, client, server, state, age, idle, bytes_in, bytes_out } =
            from;
        let (pool, server) = server.unzip();
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            id,
            listener,
            client: client.to_string(),
            pool,
            server,
            state: state.into(),
            age_ms: millis(age),
            idle_ms: millis(idle),
            bytes_in,
            bytes_out,
        }
    }
}

impl From<balancer::SessionState> for SessionState {
    fn from(from: balancer::SessionState) -> Self {
        match from {
            balancer::SessionState::Header => Self::Header,
            balancer::SessionState::Queued => Self::Queued,
            balancer::SessionState::Connecting => Self::Connecting,
            balancer::SessionState::Relaying => Self::Relaying,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_are_the_same_on_both_sides() {
        for state in peer::State::ALL {
            assert_eq!(VipState::from(state).to_string(), state.as_str());
            assert_eq!(json!(VipState::from(state)), json!(state.as_str()));
        }
        use health::State::{Down, Drain, Maint, Unknown, Unreachable, Up};
        for state in [Up, Down, Drain, Maint, Unknown, Unreachable] {
            assert_eq!(ServerState::from(state).to_string(), state.as_str());
            assert_eq!(json!(ServerState::from(state)), json!(state.as_str()));
        }
    }

    #[test]
    fn an_event_keeps_all_it_has() {
        let mut from =
            event::Event::new(event::Level::Warn, event::Kind::Takeover, "x").of_vip("main").of_peer("px2");
        from.server = Some(("pool".into(), "db1".into()));
        from.steps = Some(event::Steps {
            detected: Some(Duration::from_micros(1)),
            decided: Duration::from_nanos(2_999),
            address_in: Duration::from_millis(3),
            announced: Duration::MAX,
        });
        let steps =
            Steps { detected_us: Some(1), decided_us: 2, address_in_us: 3000, announced_us: u64::MAX };
        let expected = Event::new(Level::Warning, EventKind::Takeover, "x")
            .vip("main")
            .peer("px2")
            .server("pool", "db1")
            .steps(steps);
        assert_eq!(Event::from(from), expected);
    }
}
