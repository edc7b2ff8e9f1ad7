//! What happened, as documents.

use super::{DnsSteps, Steps};
use crate::control::stamp;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An event as it is kept and sent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EventDoc {
    /// Counts from 1 at the daemon's start; a gap is an event that was lost.
    pub seq: u64,
    /// When it happened, by the wall clock.
    #[serde(with = "stamp::millis")]
    pub time: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Event {
    /// How much it matters.
    pub level: Level,
    /// What kind of thing it is, for programs.
    pub kind: EventKind,
    /// The VIP it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<String>,
    /// The pool it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The server of that pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The other node it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The same, for people, in a sentence.
    pub message: String,
    /// The steps, if it is a takeover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Steps>,
    /// The steps, if records were written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsSteps>,
}

impl Event {
    /// An event about nothing in particular.
    #[must_use]
    pub fn new(level: Level, kind: EventKind, message: impl Into<String>) -> Self {
        Self {
            level,
            kind,
            vip: None,
            pool: None,
            server: None,
            peer: None,
            message: message.into(),
            steps: None,
            dns: None,
        }
    }

    /// The same, about a VIP.
    #[must_use]
    pub fn vip(mut self, name: impl Into<String>) -> Self {
        self.vip = Some(name.into());
        self
    }

    /// The same, about a server of a pool.
    #[must_use]
    pub fn server(mut self, pool: impl Into<String>, server: impl Into<String>) -> Self {
        self.pool = Some(pool.into());
        self.server = Some(server.into());
        self
    }

    /// The same, about another node.
    #[must_use]
    pub fn peer(mut self, name: impl Into<String>) -> Self {
        self.peer = Some(name.into());
        self
    }

    /// The same, with the steps of a takeover.
    #[must_use]
    pub const fn steps(mut self, steps: Steps) -> Self {
        self.steps = Some(steps);
        self
    }
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Info,
    /// Somebody should look at it.
    Warning,
    /// Something does not work.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The daemon started.
    Start,
    /// The daemon is stopping.
    Stop,
    /// A VIP's state changed, other than by a takeover.
    Vip,
    /// This node took over a VIP.
    Takeover,
    /// An operator moved a VIP.
    Switchover,
    /// Something keeps this node from owning a VIP, or does no longer.
    Fault,
    /// A VIP's address was put back, or left over and removed.
    Address,
    /// Another node was heard, lost, or differs in its settings.
    Peer,
    /// Adverts were not acted on.
    Advert,
    /// A server's state or role changed.
    Server,
    /// A pool lost its last usable server, or has one again.
    Pool,
    /// A listener opened or closed.
    Listener,
    /// The configuration was read again.
    Config,
    /// An operator took this node out of the election, or put it back.
    Maintenance,
    /// The name's records were written, edited or could not be kept.
    Dns,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}
