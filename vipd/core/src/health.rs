//! What a probe's result means for a server, and a server's state for its pool.
//!
//! ```text
//!                    success                 failure
//!   unknown ───────────────────▶ up    unknown ─────────▶ down
//!   up      ── `fall` failures in a row ────────────────▶ down
//!   down    ── `rise` successes in a row ───────────────▶ up
//! ```
//!
//! Until its first result a server is unknown and takes nothing; the first
//! result decides at once. A server that answers is still not *usable* when
//!
//! * its role is not the one its pool wants: at once, without counting to
//!   `fall`, and its sessions are closed if it was a primary;
//! * it lags more than `max-lag`, until it lags at most four fifths of it. A
//!   lag that nobody knows changes nothing: it holds what was known before,
//!   and makes no unusable server usable. Sessions on it are never closed;
//! * its pool wants the primary, and another server is writable too: the
//!   incumbent stays, the other waits, and both are named.
//!
//! A pool never goes empty on slowness alone: when all that is left are
//! replicas that lag too much, the freshest of them is kept. Its fallback (the
//! primary, mostly) is the last resort, when not even such a replica is left.

mod pools;
#[cfg(test)]
mod tests;

pub use pools::{Admin, Change, Changes, Close, Event, PoolsState, ServerStatus, Why};

use crate::probe::{Lag, Observation, ObservedRole, Probe};
use crate::settings::{Check, Role};
use std::fmt;
use std::time::Duration;

/// The one word for a server's state.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// It takes new connections.
    Up,
    /// It does not, for what its checks say.
    Down,
    /// It would, but a person asked for no new ones.
    Drain,
    /// A person took it out of service.
    Maint,
    /// No check has answered yet.
    Unknown,
}

impl State {
    /// The word, as status and events have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Drain => "drain",
            Self::Maint => "maint",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a server is in its state. The text is for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reason {
    /// Unknown: no check has answered yet.
    NotChecked,
    /// Unknown: its name was not resolved yet.
    Unresolved,
    /// Up: its pool has no check.
    NoCheck,
    /// Up: its check succeeds.
    Healthy,
    /// Up: its check fails, but not yet often enough.
    Failing {
        /// Failures in a row.
        failures: u32,
        /// As many make it unusable.
        fall: u32,
        /// The last one's text.
        error: String,
    },
    /// Down: its check failed.
    Failed {
        /// The last failure's text.
        error: String,
        /// Successes in a row since then.
        successes: u32,
        /// As many make it usable.
        rise: u32,
    },
    /// Down: its role is not the one the pool wants.
    WrongRole {
        /// The role it has.
        has: ObservedRole,
        /// The role it should have.
        wanted: Role,
    },
    /// Down: its check could not tell its role, now or before.
    RoleUnknown,
    /// Down: the pool wants a replica, and it is read-only without replicating.
    NotReplicating,
    /// Down: its lag was never known since it became a candidate.
    LagUnknown(String),
    /// Down: it lags too much.
    Lagging {
        /// Its last known lag.
        lag: Duration,
        /// The pool's `max-lag`.
        max: Duration,
    },
    /// Up although it lags too much: no better server is left in the pool.
    Freshest {
        /// Its last known lag.
        lag: Duration,
        /// The pool's `max-lag`.
        max: Duration,
    },
    /// Down: another server of a pool that wants one primary is writable too,
    /// and was so first.
    Conflict {
        /// The incumbent.
        with: String,
    },
    /// Drain: on request.
    Drained,
    /// Maint: on request.
    Maintenance,
}

impl Reason {
    /// The state it explains.
    #[must_use]
    pub const fn state(&self) -> State {
        match self {
            Self::NotChecked | Self::Unresolved => State::Unknown,
            Self::NoCheck | Self::Healthy | Self::Failing { .. } | Self::Freshest { .. } => State::Up,
            Self::Failed { .. }
            | Self::WrongRole { .. }
            | Self::RoleUnknown
            | Self::NotReplicating
            | Self::LagUnknown(_)
            | Self::Lagging { .. }
            | Self::Conflict { .. } => State::Down,
            Self::Drained => State::Drain,
            Self::Maintenance => State::Maint,
        }
    }

    /// Whether it differs from `other` in more than a number: what an event is made of.
    fn news(&self, other: &Self) -> bool {
        let passing = |r: &Self| matches!(r, Self::Healthy | Self::Failing { .. });
        std::mem::discriminant(self) != std::mem::discriminant(other) && !(passing(self) && passing(other))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotChecked => f.write_str("no check has answered yet"),
            Self::Unresolved => f.write_str("its name is not resolved yet"),
            Self::NoCheck => f.write_str("its pool has no check"),
            Self::Healthy => f.write_str("its check succeeds"),
            Self::Failing { failures, fall, error } => {
                write!(f, "{failures} of {fall} checks in a row failed: {error}")
            }
            Self::Failed { error, successes: 0, .. } => write!(f, "its check failed: {error}"),
            Self::Failed { error, successes, rise } => {
                write!(f, "its check failed: {error}; {successes} of {rise} succeeded since")
            }
            Self::WrongRole { has, wanted } => write!(f, "it is {has}, its pool wants {wanted}"),
            Self::RoleUnknown => f.write_str("its check cannot tell its role"),
            Self::NotReplicating => f.write_str("it is read-only, but does not replicate"),
            Self::LagUnknown(why) => write!(f, "its lag is unknown: {why}"),
            Self::Lagging { lag, max } => write!(f, "it lags {lag:?}, max-lag is {max:?}"),
            Self::Freshest { lag, max } => {
                write!(f, "it lags {lag:?}, max-lag is {max:?}, but no server of the pool is fresher")
            }
            Self::Conflict { with } => write!(f, "conflict: {with} is also writable, and was first"),
            Self::Drained => f.write_str("drained on request"),
            Self::Maintenance => f.write_str("in maintenance on request"),
        }
    }
}

impl fmt::Display for ObservedRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "a primary",
            Self::Replica => "a replica",
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "a primary",
            Self::Replica => "a replica",
            Self::Any => "any",
        })
    }
}

/// What is known of one server from its checks.
#[derive(Clone, Debug, Default)]
struct Health {
    answers: Answers,
    /// The last role it told.
    role: Option<ObservedRole>,
    /// What the last answer said of its lag.
    lag: Option<Lag>,
    /// The last lag that was known.
    known_lag: Option<Duration>,
    freshness: Freshness,
}

/// Whether its checks succeed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
enum Answers {
    #[default]
    Unknown,
    Up {
        failures: u32,
        error: String,
    },
    Down {
        successes: u32,
        error: String,
    },
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
}

impl Demands {
    fn of(check: &Check) -> Self {
        let (role, max_lag) = (check.kind.role(), check.kind.max_lag());
        Self { rise: check.rise.max(1), fall: check.fall.max(1), role, max_lag }
    }
}

impl Health {
    fn observe(&mut self, probe: Probe, demands: Demands) {
        self.answers.count(&probe, demands);
        match probe {
            Probe::Answered(Observation { role, lag, unready: _, connections: _ }) => {
                // Who cannot tell its role has not said that it stopped replicating either.
                if role.is_some() || lag.is_some() || self.role.is_none() {
                    self.lag = lag;
                }
                self.role = role.or(self.role);
                if let Some(Lag::Known(lag)) = self.lag {
                    self.known_lag = Some(lag);
                }
            }
            Probe::Failed(_) => {}
        }
        self.judge_freshness(demands);
    }

    fn judge_freshness(&mut self, demands: Demands) {
        self.freshness = match (&self.answers, self.misfit(demands.role)) {
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
    fn misfit(&self, wanted: Role) -> Option<Reason> {
        match (wanted, self.role) {
            (Role::Any, _) | (Role::Primary, Some(ObservedRole::Primary)) => None,
            (Role::Primary | Role::Replica, None) => Some(Reason::RoleUnknown),
            (Role::Replica, Some(ObservedRole::Replica)) if self.lag.is_none() => {
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
            Answers::Down { successes, error } => {
                return Reason::Failed { error: error.clone(), successes: *successes, rise: demands.rise };
            }
            Answers::Up { .. } => {}
        }
        if let Some(reason) = self.misfit(demands.role) {
            return reason;
        }
        // A primary has no lag that matters to a pool which takes it.
        let lag_counts = match demands.role {
            Role::Primary => false,
            Role::Replica => true,
            Role::Any => self.role == Some(ObservedRole::Replica) && self.lag.is_some(),
        };
        if let (Some(max), true) = (demands.max_lag, lag_counts) {
            let lag = self.known_lag.unwrap_or_default();
            match (self.freshness, &self.lag) {
                (Freshness::Fresh, _) => {}
                (Freshness::Lagging, _) => return Reason::Lagging { lag, max },
                (Freshness::Unproven, Some(Lag::Unknown(why))) => return Reason::LagUnknown(why.clone()),
                (Freshness::Unproven, Some(Lag::Known(_)) | None) => {
                    return Reason::LagUnknown("its check did not tell".into());
                }
            }
        }
        match &self.answers {
            Answers::Up { failures, error } if *failures > 0 => {
                Reason::Failing { failures: *failures, fall: demands.fall, error: error.clone() }
            }
            Answers::Up { .. } | Answers::Unknown | Answers::Down { .. } => Reason::Healthy,
        }
    }
}

impl Answers {
    fn count(&mut self, probe: &Probe, demands: Demands) {
        let up = Self::Up { failures: 0, error: String::new() };
        *self = match (&*self, probe) {
            (Self::Unknown | Self::Up { .. }, Probe::Answered(_)) => up,
            (Self::Down { successes, error }, Probe::Answered(_)) => {
                let successes = successes.saturating_add(1);
                if successes >= demands.rise { up } else { Self::Down { successes, error: error.clone() } }
            }
            (Self::Up { failures, .. }, Probe::Failed(error))
                if failures.saturating_add(1) < demands.fall =>
            {
                Self::Up { failures: failures.saturating_add(1), error: error.clone() }
            }
            (Self::Unknown | Self::Up { .. } | Self::Down { .. }, Probe::Failed(error)) => {
                Self::Down { successes: 0, error: error.clone() }
            }
        };
    }
}
