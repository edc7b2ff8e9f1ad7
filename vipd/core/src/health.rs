//! What a probe's result means for a server, and a server's state for its pool.
//!
//! ```text
//!                    success                 failure
//!   unknown ───────────────────▶ up    unknown ─────────▶ down
//!   up      ── `fall` failures in a row ────────────────▶ down
//!   up      ── the server says itself that it is unready ▶ down
//!   down    ── `rise` successes in a row ───────────────▶ up
//! ```
//!
//! Until its first result a server is unknown and takes nothing; the first
//! result decides at once. With `passive`, a client's connection that failed
//! counts as one failure, once between two checks, beside checks that fail and
//! never in their place; and many in a row take a server out that its checks
//! find well (`clients`). A server that answers is still not *usable* when
//!
//! * its role is not the one its pool wants: at once, without counting to
//!   `fall`; sessions on a primary that was demoted are closed (`on-demote`);
//! * its pool wants replicas, and it tells of no replication. A member of a
//!   cluster (Galera, group replication) needs none: without a channel of its
//!   own it is as fresh as its cluster, whatever `max-lag` is;
//! * it lags more than `max-lag`, until it lags at most four fifths of it. A
//!   lag that nobody knows changes nothing: it holds what was known before,
//!   says so, and makes no unusable server usable. Sessions on it are never
//!   closed;
//! * its pool wants the primary, and another server is writable too: the
//!   incumbent stays, the other waits, and both are named. Only one that was
//!   promoted since the incumbent last answered takes over at once.
//!
//! A pool never goes empty on slowness alone: when all that is left are
//! replicas that lag too much, the freshest of them is kept. Its fallback (the
//! primary, mostly) is the last resort, when not even such a replica is left.
//!
//! A server whose name leads to another host, or that is checked otherwise
//! since a reload, is unproven: it takes nothing until its next check, unless
//! it was used and nothing else is left.
//!
//! A server that fails its checks here and answers those of another proxy is
//! *unreachable* from here, not down: it takes no connections by way of this
//! node, its sessions go on, and it stays the primary if it was. Before a
//! primary counts as dead its replicas are asked whether they hear it.
//!
//! Which server is the primary is agreed between the proxies. Each change of
//! it has an epoch: of two that differ the greater counts, but the word of
//! whoever owns an address more than that of one who does not. A node that has
//! just started waits for the others' word before it chooses one, and until
//! each server of the pool was checked once: of several that are writable then
//! the one takes the writes that replicas replicate from. Pools with the same
//! servers follow the same one (`shared`).
//!
//! What is known of a server is of the address that answered: of a name with
//! several it is the one that is used.
//!
//! A check that this host has no means for (no file descriptor, no port) says
//! nothing of the server: all stays as it was, and a person is told, once.
//!
//! A server that comes up among others grows to its weight in steps
//! (`slow-start`), unless it is the first thing the daemon learns of it.

mod asked;
mod change;
mod clients;
mod others;
mod pool;
mod pools;
mod reason;
mod server;
mod shared;
#[cfg(test)]
mod tests;

pub use change::{Admin, Change, Changes, Close, Event, Only, Room, Why};
pub use others::Opinion;
pub use pools::{PoolsState, ServerStatus};
pub use reason::{Reason, State};
pub use server::Checks;

use crate::probe::{Connections, Lag, Observation, ObservedRole, Probe, Upstream};
use crate::settings::{Check, Role};
use crate::time::Time;
use crate::wire::peer::Word;
use std::time::Duration;

/// What is known of one server from its checks.
#[derive(Clone, Debug, Default)]
struct Health {
    answers: Answers,
    /// When it last answered.
    answered_at: Option<Time>,
    /// The last role it told.
    role: Option<ObservedRole>,
    /// When it was seen to turn from a replica into the primary it still is.
    promoted_at: Option<Time>,
    /// What the last answer said of its lag.
    lag: Option<Lag>,
    /// The last lag that was known.
    known_lag: Option<Duration>,
    /// Since when its lag has not been known.
    lag_unknown_since: Option<Time>,
    freshness: Freshness,
    /// The connections it told of in its last answer.
    connections: Option<Connections>,
    /// What it said of its source in its last answer.
    upstream: Option<Upstream>,
}

/// Whether its checks succeed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
enum Answers {
    #[default]
    Unknown,
    Up {
        failures: u32,
        error: String,
        /// Whether the last check failed because the server is full.
        full: bool,
    },
    Down {
        successes: u32,
        cause: Cause,
    },
}

/// What took a server down.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Cause {
    /// Its checks failed; the last one's text.
    Failed(String),
    /// It said itself that it should not be used.
    Unready(String),
}

/// What its lag allows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Freshness {
    /// No lag was known since it became a candidate.
    #[default]
    Unproven,
    Fresh,
    Lagging,
}

/// What a check demands, beside an answer.
#[derive(Clone, Copy, Debug)]
struct Demands {
    rise: u32,
    fall: u32,
    role: Role,
    max_lag: Option<Duration>,
    passive: bool,
    clustered: bool,
    /// Between two checks.
    interval: Duration,
}

impl Demands {
    fn of(check: &Check) -> Self {
        let (role, max_lag) = (check.kind.role(), check.kind.max_lag());
        let (rise, fall) = (check.rise.max(1), check.fall.max(1));
        let clustered = check.kind.clustered();
        let (passive, interval) = (check.passive, check.interval);
        Self { rise, fall, role, max_lag, passive, clustered, interval }
    }
}

impl Health {
    fn observe(&mut self, probe: Probe, demands: Demands, now: Time) {
        self.answers.count(&probe, demands);
        match probe {
            Probe::Answered(Observation { role, lag, unready: _, connections, upstream }) => {
                self.answered_at = Some(now);
                self.connections = connections;
                self.upstream = upstream;
                // Who cannot tell its role has not said that it stopped replicating either.
                if role.is_some() || lag.is_some() || self.role.is_none() {
                    self.lag = lag;
                }
                self.promoted_at = match (self.role, role) {
                    (Some(ObservedRole::Replica), Some(ObservedRole::Primary)) => Some(now),
                    (_, Some(ObservedRole::Replica)) => None,
                    (_, Some(ObservedRole::Primary) | None) => self.promoted_at,
                };
                self.role = role.or(self.role);
                if let Some(Lag::Known(lag)) = self.lag {
                    self.known_lag = Some(lag);
                }
                self.lag_unknown_since = match self.lag {
                    Some(Lag::Unknown(_)) => self.lag_unknown_since.or(Some(now)),
                    Some(Lag::Known(_)) | None => None,
                };
            }
            Probe::Full(_) => {
                self.connections = self.connections.map(|c| Connections { used: c.used.max(c.max), ..c });
            }
            Probe::Failed(_) | Probe::Unable(_) => {}
        }
        self.judge_freshness(demands);
    }

    /// What its last check says, for other nodes.
    fn word(&self) -> Option<Word> {
        match &self.answers {
            Answers::Unknown => None,
            Answers::Up { failures: 1.., full: false, .. }
            | Answers::Down { successes: 0, cause: Cause::Failed(_) } => Some(Word::Failed),
            Answers::Up { .. } | Answers::Down { .. } => Some(match self.role {
                None => Word::Answers,
                Some(ObservedRole::Primary) => Word::Primary,
                Some(ObservedRole::Replica) => Word::Replica,
            }),
        }
    }

    fn judge_freshness(&mut self, demands: Demands) {
        self.freshness = match (&self.answers, self.misfit(demands)) {
            (Answers::Up { .. }, None) => self.judge_lag(demands.max_lag),
            (Answers::Up { .. }, Some(_)) | (Answers::Unknown | Answers::Down { .. }, _) => {
                Freshness::Unproven
            }
        };
    }

    fn judge_lag(&self, max: Option<Duration>) -> Freshness {
        let (Some(max), Some(Lag::Known(lag))) = (max, &self.lag) else { return self.freshness };
        if *lag > max {
            Freshness::Lagging
        } else if *lag <= max / 5 * 4 {
            Freshness::Fresh
        } else {
            match self.freshness {
                Freshness::Unproven | Freshness::Fresh => Freshness::Fresh,
                Freshness::Lagging => Freshness::Lagging,
            }
        }
    }

    /// What its role has against it.
    fn misfit(&self, demands: Demands) -> Option<Reason> {
        let wanted = demands.role;
        match (wanted, self.role) {
            (Role::Any, _) | (Role::Primary, Some(ObservedRole::Primary)) => None,
            (Role::Primary | Role::Replica, None) => Some(Reason::RoleUnknown),
            (Role::Replica, Some(ObservedRole::Replica)) if self.lag.is_none() && !demands.clustered => {
                Some(Reason::NotReplicating)
            }
            (Role::Replica, Some(ObservedRole::Replica)) => None,
            (Role::Primary, Some(has @ ObservedRole::Replica))
            | (Role::Replica, Some(has @ ObservedRole::Primary)) => Some(Reason::WrongRole { has, wanted }),
        }
    }

    /// The server judged by itself.
    fn judge(&self, demands: Demands) -> Reason {
        match &self.answers {
            Answers::Unknown => return Reason::NotChecked,
            Answers::Down { successes, cause } => {
                let (successes, rise) = (*successes, demands.rise);
                return match cause.clone() {
                    Cause::Failed(error) => {
                        Reason::Failed { error, successes, rise, replicas: Opinion::default() }
                    }
                    Cause::Unready(says) => Reason::Unready { says, successes, rise },
                };
            }
            Answers::Up { .. } => {}
        }
        if let Some(reason) = self.misfit(demands) {
            return reason;
        }
        // A primary has no lag that matters to a pool which takes it, and a member
        // that tells of none is as fresh as its cluster.
        let lag_counts = match demands.role {
            Role::Primary => false,
            Role::Replica => self.lag.is_some() || !demands.clustered,
            Role::Any => self.role == Some(ObservedRole::Replica) && self.lag.is_some(),
        };
        if let (Some(max), true) = (demands.max_lag, lag_counts) {
            let lag = self.known_lag.unwrap_or_default();
            match (self.freshness, &self.lag) {
                (Freshness::Fresh, Some(Lag::Unknown(why))) => return Reason::LagHeld(why.clone()),
                (Freshness::Fresh, Some(Lag::Known(_)) | None) => {}
                (Freshness::Lagging, _) => return Reason::Lagging { lag, max },
                (Freshness::Unproven, Some(Lag::Unknown(why))) => return Reason::LagUnknown(why.clone()),
                (Freshness::Unproven, Some(Lag::Known(_)) | None) => {
                    return Reason::LagUnknown("its check did not tell".into());
                }
            }
        }
        match &self.answers {
            Answers::Up { error, full: true, .. } => Reason::Full(error.clone()),
            Answers::Up { failures, error, full: false } if *failures > 0 => {
                Reason::Failing { failures: *failures, fall: demands.fall, error: error.clone() }
            }
            Answers::Up { .. } | Answers::Unknown | Answers::Down { .. } => Reason::Healthy,
        }
    }
}

impl Answers {
    fn count(&mut self, probe: &Probe, demands: Demands) {
        let up = Self::Up { failures: 0, error: String::new(), full: false };
        *self = match (&*self, probe) {
            (Self::Unknown | Self::Up { .. } | Self::Down { .. }, Probe::Unable(_)) => return,
            (
                Self::Unknown | Self::Up { .. } | Self::Down { .. },
                Probe::Answered(Observation { unready: Some(says), .. }),
            ) => Self::Down { successes: 0, cause: Cause::Unready(says.clone()) },
            (Self::Unknown | Self::Up { .. }, Probe::Answered(_)) => up,
            (Self::Down { successes, cause }, Probe::Answered(_)) => {
                let successes = successes.saturating_add(1);
                if successes >= demands.rise { up } else { Self::Down { successes, cause: cause.clone() } }
            }
            (Self::Up { failures, .. }, Probe::Failed(error))
                if failures.saturating_add(1) < demands.fall =>
            {
                Self::Up { failures: failures.saturating_add(1), error: error.clone(), full: false }
            }
            // It lives: what runs on it stays, however long it is full.
            (Self::Up { .. }, Probe::Full(error)) => {
                Self::Up { failures: 1, error: error.clone(), full: true }
            }
            (Self::Unknown | Self::Down { .. }, Probe::Full(error))
            | (Self::Unknown | Self::Up { .. } | Self::Down { .. }, Probe::Failed(error)) => {
                Self::Down { successes: 0, cause: Cause::Failed(error.clone()) }
            }
        };
    }

    /// Whether a client's connection that failed may count like a check: not
    /// if that alone took the server down, and not of one that is full.
    const fn heeds_clients(&self, fall: u32) -> bool {
        match self {
            Self::Up { failures, full: false, .. } => *failures > 0 || fall > 1,
            Self::Up { full: true, .. } | Self::Unknown | Self::Down { .. } => false,
        }
    }
}
