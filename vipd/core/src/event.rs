//! What happened, in words for people: the source of the log, of
//! `vipctl events` and of the history.

use std::time::Duration;

/// How much an event matters.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// Something changed, as it should.
    Info,
    /// Something is not as it should be; the service goes on.
    Warn,
    /// The service suffers.
    Error,
}

/// The kinds of event, the same words in every release.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// A VIP group changed its state on this node.
    Vip,
    /// This node took a group over and announced it; the event carries its steps.
    Takeover,
    /// A planned switchover began or did not come about.
    Switchover,
    /// The kernel refused an address, or somebody deleted one and it was put back.
    Address,
    /// A packet was not accepted.
    Advert,
    /// A peer appeared, vanished or differs in its settings.
    Peer,
    /// A server's state or role changed.
    Server,
    /// Maintenance began or ended.
    Maintenance,
    /// The name's records.
    Dns,
}

/// The steps of a takeover, each as time since the former owner's last sign
/// of life (its last advert, or its release).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Steps {
    /// The silence was long enough, or the release arrived; absent where there
    /// was no owner before, as at a start.
    pub detected: Option<Duration>,
    /// This node decided to own.
    pub decided: Duration,
    /// The kernel acknowledged the last address.
    pub address_in: Duration,
    /// The first announcement of every address was sent.
    pub announced: Duration,
}

/// One thing that happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// How much it matters.
    pub level: Level,
    /// What kind it is.
    pub kind: Kind,
    /// The VIP group it is about.
    pub vip: Option<String>,
    /// The node it is about.
    pub peer: Option<String>,
    /// The pool and the server it is about.
    pub server: Option<(String, String)>,
    /// What happened and why, one sentence.
    pub message: String,
    /// A takeover's steps.
    pub steps: Option<Steps>,
}

impl Event {
    /// An event about nothing in particular.
    #[must_use]
    pub fn new(level: Level, kind: Kind, message: impl Into<String>) -> Self {
        Self { level, kind, vip: None, peer: None, server: None, message: message.into(), steps: None }
    }

    /// The same, about a VIP group.
    #[must_use]
    pub fn of_vip(mut self, vip: &str) -> Self {
        self.vip = Some(vip.to_owned());
        self
    }

    /// The same, about a node.
    #[must_use]
    pub fn of_peer(mut self, peer: &str) -> Self {
        self.peer = Some(peer.to_owned());
        self
    }
}
