//! A server's state in one word, and the reason for it in a sentence.

use super::Opinion;
use crate::probe::ObservedRole;
use crate::settings::{Role, Vanished};
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
    /// It fails its checks from this node, and answers those of another.
    Unreachable,
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
            Self::Unreachable => "unreachable",
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
    Unresolved {
        /// Why the latest look-up failed, if one did.
        problem: Option<String>,
    },
    /// It is at another place or checked otherwise than before, and no check
    /// has answered since. Up if it was used and nothing else of the pool is
    /// usable, else unknown.
    Unproven {
        /// Whether it is used until then.
        kept: bool,
    },
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
    /// Up: all its connections are in use, so that its check gets none.
    Full(String),
    /// Down: its check failed.
    Failed {
        /// The last failure's text.
        error: String,
        /// Successes in a row since then.
        successes: u32,
        /// As many make it usable.
        rise: u32,
        /// What its replicas say of it.
        replicas: Opinion,
    },
    /// Unreachable: its check failed here, and other nodes reach it.
    Unreachable {
        /// The last failure's text.
        error: String,
        /// Which nodes reach it, for people.
        by: String,
    },
    /// Unknown: it is a primary, and the other nodes have not said yet which one
    /// they follow, or other servers of the pool were not checked yet.
    Undecided,
    /// Down: it says itself that it should not be used.
    Unready {
        /// Its words.
        says: String,
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
    /// Up although its lag is unknown: it was fresh when its lag was last known.
    LagHeld(String),
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
    /// Clients' connections to it failed, so many in a row, whatever its checks
    /// say. Down for a while, but up if no other server of its pool is usable.
    ClientsFail {
        /// Connections in a row, with no good one in between.
        in_a_row: u32,
        /// It takes none for as long at least.
        hold: Duration,
        /// Whether it is used all the same.
        kept: bool,
    },
    /// Down: another server of a pool that wants one primary is writable too,
    /// and was so first.
    Conflict {
        /// The incumbent.
        with: String,
    },
    /// Drain: it is not among the servers any more.
    Vanished(Vanished),
    /// Down: every server of the cluster is writable, the pool wants one
    /// primary, and another one is it.
    Standby {
        /// The incumbent.
        of: String,
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
            Self::NotChecked | Self::Unresolved { .. } | Self::Unproven { kept: false } | Self::Undecided => {
                State::Unknown
            }
            Self::Unreachable { .. } => State::Unreachable,
            Self::NoCheck
            | Self::Healthy
            | Self::Failing { .. }
            | Self::Full(_)
            | Self::LagHeld(_)
            | Self::Freshest { .. }
            | Self::ClientsFail { kept: true, .. }
            | Self::Unproven { kept: true } => State::Up,
            Self::Failed { .. }
            | Self::Unready { .. }
            | Self::WrongRole { .. }
            | Self::RoleUnknown
            | Self::NotReplicating
            | Self::LagUnknown(_)
            | Self::Lagging { .. }
            | Self::ClientsFail { kept: false, .. }
            | Self::Conflict { .. }
            | Self::Standby { .. } => State::Down,
            Self::Vanished(_) | Self::Drained => State::Drain,
            Self::Maintenance => State::Maint,
        }
    }

    /// Whether it differs from `other` in more than a number: what an event is made of.
    pub(super) fn news(&self, other: &Self) -> bool {
        let passing = |r: &Self| matches!(r, Self::Healthy | Self::Failing { .. });
        let same = std::mem::discriminant(self) == std::mem::discriminant(other);
        self.state() != other.state() || !(same || passing(self) && passing(other))
    }

    /// Whether the server is broken, by its checks or its own words: what `on-down` is about.
    /// One that its replicas still hear is alive, and what runs on it may go on.
    pub(super) const fn is_broken(&self) -> bool {
        match self {
            Self::Failed { replicas, .. } => replicas.hear.is_empty(),
            Self::Unready { .. } => true,
            Self::NotChecked
            | Self::Unresolved { .. }
            | Self::Unproven { .. }
            | Self::NoCheck
            | Self::Healthy
            | Self::Failing { .. }
            | Self::Full(_)
            | Self::Unreachable { .. }
            | Self::Undecided
            | Self::WrongRole { .. }
            | Self::RoleUnknown
            | Self::NotReplicating
            | Self::LagUnknown(_)
            | Self::LagHeld(_)
            | Self::Lagging { .. }
            | Self::Freshest { .. }
            // What runs may well go on: no check has found anything.
            | Self::ClientsFail { .. }
            | Self::Conflict { .. }
            | Self::Vanished(_)
            | Self::Standby { .. }
            | Self::Drained
            | Self::Maintenance => false,
        }
    }

    /// Whether somebody should look at it, be the server up or not.
    #[must_use]
    pub const fn is_trouble(&self) -> bool {
        !matches!(
            self,
            Self::NoCheck
                | Self::Healthy
                | Self::Standby { .. }
                | Self::Unproven { kept: true }
                | Self::Undecided
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotChecked => f.write_str("no check has answered yet"),
            Self::Unresolved { problem: None } => f.write_str("its name is not resolved yet"),
            Self::Unresolved { problem: Some(problem) } => write!(f, "its name does not resolve: {problem}"),
            Self::Unproven { kept: false } => f.write_str("no check has answered since it changed"),
            Self::Unproven { kept: true } => f.write_str(
                "no check has answered since it changed, but no other server of the pool is usable",
            ),
            Self::NoCheck => f.write_str("its pool has no check"),
            Self::Healthy => f.write_str("its check succeeds"),
            Self::Failing { failures, fall, error } => {
                write!(f, "{failures} of {fall} checks in a row failed: {error}")
            }
            Self::Full(error) => write!(f, "it lives, and is full: {error}"),
            Self::Failed { error, successes: 0, replicas, .. } => {
                write!(f, "its check failed: {error}{replicas}")
            }
            Self::Unreachable { error, by } => {
                write!(f, "unreachable from this node, its check failed: {error}; {by} reaches it")
            }
            Self::Undecided => f.write_str(
                "it is not decided yet which primary to follow: the other nodes have not said which they do, \
                 or not all servers of the pool have been checked once",
            ),
            Self::Failed { error, successes, rise, replicas: _ } => {
                write!(f, "its check failed: {error}; {successes} of {rise} succeeded since")
            }
            Self::Unready { says, successes: 0, .. } => write!(f, "it says: {says}"),
            Self::Unready { says, successes, rise } => {
                write!(f, "it said: {says}; {successes} of {rise} checks succeeded since")
            }
            Self::WrongRole { has, wanted } => write!(f, "it is {has}, its pool wants {wanted}"),
            Self::RoleUnknown => f.write_str("its check cannot tell its role"),
            Self::NotReplicating => f.write_str("it is read-only, but does not replicate"),
            Self::LagHeld(why) => {
                write!(f, "its lag is unknown ({why}), and was good when it was last known")
            }
            Self::LagUnknown(why) => write!(f, "its lag is unknown: {why}"),
            Self::Lagging { lag, max } => write!(f, "it lags {lag:?}, max-lag is {max:?}"),
            Self::Freshest { lag, max } => {
                write!(f, "it lags {lag:?}, max-lag is {max:?}, but no server of the pool is fresher")
            }
            Self::ClientsFail { in_a_row, hold, kept: false } => {
                write!(
                    f,
                    "{in_a_row} client connections in a row failed; it takes none for {hold:?} at least"
                )
            }
            Self::ClientsFail { in_a_row, hold: _, kept: true } => write!(
                f,
                "{in_a_row} client connections in a row failed, but no other server of the pool is usable"
            ),
            Self::Standby { of } => write!(f, "it stands by: {of} takes the writes"),
            Self::Conflict { with } => write!(f, "conflict: {with} is also writable, and is the one in use"),
            Self::Vanished(why) => write!(f, "{why}, and goes when its last session has ended"),
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
