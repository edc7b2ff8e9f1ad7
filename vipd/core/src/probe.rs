//! What a check saw of a server: the words between `vipd/src/check`, which
//! asks, and [`crate::health`], which judges.

use crate::time::Time;
use std::net::IpAddr;
use std::time::Duration;

/// The result of one check of one server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Probe {
    /// The server answered every question that was put to it.
    Answered(Observation),
    /// It did not; the text says what went wrong, for people.
    Failed(String),
    /// It refused the check as it refuses everybody now, since all connections
    /// that it takes are in use. So it lives, and tells nothing of its role.
    Full(String),
    /// It could not be asked, since this host lacks what that takes: file
    /// descriptors, ports, memory. That says nothing of the server.
    Unable(String),
}

/// When and where a check asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Checked {
    /// When it began: what a server became since is not what it saw.
    pub began: Time,
    /// How long it took.
    pub took: Duration,
    /// The address that answered, if one did.
    pub address: Option<IpAddr>,
}

impl Checked {
    /// One that began at this time, took none, and does not tell where.
    #[must_use]
    pub const fn at(began: Time) -> Self {
        Self { began, took: Duration::ZERO, address: None }
    }
}

/// What a server that answered said of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Observation {
    /// Its role, where the check can ask for one.
    pub role: Option<ObservedRole>,
    /// Its replication lag, where it replicates: a member of a cluster may be
    /// kept up to date without, and has none then.
    pub lag: Option<Lag>,
    /// Why it should not be used, in its own words: a Galera node that gives
    /// a joiner its data, a member that left its group. Nothing is wrong with
    /// the check, so this counts at once, without waiting for `fall`.
    pub unready: Option<String>,
    /// The connections it has, where the check can ask.
    pub connections: Option<Connections>,
    /// Where it replicates from, where the check asked for that.
    pub upstream: Option<Upstream>,
}

/// What a replica says of its source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upstream {
    /// The source's host, as the replica was told it: a name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether the replica is connected to it. One whose source has vanished
    /// without a word notices that by a time-out of its own.
    pub hears: bool,
}

/// Connections of a server, of everybody.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connections {
    /// Those that are open.
    pub used: u32,
    /// Those that it takes at most.
    pub max: u32,
}

/// The role a database has now.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ObservedRole {
    /// It takes writes.
    Primary,
    /// It is read-only.
    Replica,
}

/// How far a replica is behind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lag {
    /// By this much; of several channels the worst.
    Known(Duration),
    /// Nobody knows (replication is stopped or connecting), with the reason.
    /// Unknown is never zero, and never makes an unusable server usable.
    Unknown(String),
}
