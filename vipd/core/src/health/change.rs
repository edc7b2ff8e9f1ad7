//! What followed from an input, and what people may ask of a server.

use super::{Reason, State};
use crate::pool::ServerKey;
use crate::probe::ObservedRole;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// What a person asked of a server.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Admin {
    /// To do its work.
    #[default]
    Ready,
    /// To take no new connections; those it has go on.
    Drain,
    /// To be out of service: its sessions are closed.
    Maint,
}

/// What followed from an input. Nothing of it is done yet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// What a person should be told, in order.
    pub events: Vec<Event>,
    /// Servers whose sessions must be closed, once the new pools are in use.
    pub close: Vec<Close>,
    /// Pools whose sessions may be at some places only, likewise.
    pub only: Vec<Only>,
    /// How many new sessions servers may get until their next check.
    pub rooms: Vec<Room>,
    /// Servers that should be checked now rather than at their turn.
    pub hurry: Vec<ServerKey>,
    /// Whether [`PoolsState::build`] gives new pools.
    pub pools: bool,
    /// Whether [`PoolsState::verdicts`] may differ: other nodes should be told.
    pub words: bool,
}

impl Changes {
    pub(super) const fn is_empty(&self) -> bool {
        let Self { events, close, only, rooms, hurry, pools, words } = self;
        events.is_empty()
            && close.is_empty()
            && only.is_empty()
            && rooms.is_empty()
            && hurry.is_empty()
            && !*pools
            && !*words
    }

    /// These, and then others.
    pub(super) fn extend(&mut self, others: Self) {
        let Self { events, close, only, rooms, hurry, pools, words } = others;
        self.events.extend(events);
        self.close.extend(close);
        self.only.extend(only);
        self.rooms.extend(rooms);
        self.hurry.extend(hurry);
        self.pools |= pools;
        self.words |= words;
    }
}

/// The room a server has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Room {
    /// The server.
    pub key: ServerKey,
    /// Sessions it may have beside those that it has, until its next check;
    /// unbounded when absent.
    pub free: Option<u32>,
}

/// Something that happened to a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// The server.
    pub key: ServerKey,
    /// Its pool's name.
    pub pool: String,
    /// Its name.
    pub server: String,
    /// What happened.
    pub change: Change,
}

/// What happened to a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Its state changed, or the reason for it.
    State {
        /// The state it was in.
        from: State,
        /// The state it is in.
        to: State,
        /// Why.
        reason: Reason,
    },
    /// Its role changed.
    Role {
        /// The role it had.
        from: ObservedRole,
        /// The role it has.
        to: ObservedRole,
    },
    /// Its name leads elsewhere.
    Addresses(Vec<IpAddr>),
    /// It is the primary from now on, though others are writable too.
    Chosen {
        /// Those that are, with this one.
        among: Vec<String>,
        /// Its replicas, by their own word: if there are none, it is only the
        /// first in the file.
        replicas: Vec<String>,
        /// Others of them that have as many: then it is that, too.
        equals: Vec<String>,
    },
    /// Its pool follows it, and another one with the same servers follows another.
    Apart {
        /// The other pool.
        with: String,
        /// The server that it follows, by its name in this pool.
        other: String,
    },
    /// Its name has several addresses, and its check is answered at another one
    /// than before.
    Answers(IpAddr),
    /// This host has not what it takes to check it: why; or has it again.
    Unable(Option<String>),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server {}/{}: ", self.pool, self.server)?;
        match &self.change {
            Change::State { from, to, reason } if from == to => write!(f, "still {to}: {reason}"),
            Change::State { from, to, reason } => write!(f, "{from} -> {to}: {reason}"),
            Change::Role { from, to } => write!(f, "was {from}, is {to}"),
            Change::Addresses(addresses) => write!(f, "its name leads to {addresses:?} now"),
            Change::Chosen { among, replicas, equals } => {
                write!(f, "of the writable servers {} it takes the writes, since ", among.join(", "))?;
                match replicas.as_slice() {
                    [_, ..] if !equals.is_empty() => write!(
                        f,
                        "it is the first in the file, and as many replicas follow {}; make sure that it is \
                         the right one",
                        equals.join(", ")
                    ),
                    [] => f.write_str(
                        "it is the first in the file, and no replica says that it follows one of them; \
                         make sure that it is the right one",
                    ),
                    [one] => write!(f, "{one} replicates from it"),
                    several => write!(f, "{} replicate from it", several.join(", ")),
                }
            }
            Change::Apart { with, other } => write!(
                f,
                "it takes the writes of its pool, and {other} those of pool {with}, which has the same servers: \
                 writes are split; by this pool's checks {other} cannot take them (vipctl why {}/{other})",
                self.pool
            ),
            Change::Answers(address) => {
                write!(f, "its check is answered at {address} now, and new sessions go there")
            }
            Change::Unable(Some(why)) => write!(f, "this host cannot check it: {why}"),
            Change::Unable(None) => f.write_str("this host can check it again"),
        }
    }
}

/// A server whose sessions must be closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Close {
    /// The server.
    pub key: ServerKey,
    /// Why.
    pub why: Why,
}

/// A pool that wants the primary, which has proven where it is: sessions at
/// another place are closed as [`Why::Superseded`], whatever the name of the
/// server there is or was. A place is an address and a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Only {
    /// The pool.
    pub pool: usize,
    /// Pools that the file has no more and that it came in the place of:
    /// the same holds for their sessions.
    pub before: Vec<usize>,
    /// The places of the primary, and of servers that cannot be written to:
    /// what runs there splits no writes, and other rules end it. In order.
    pub places: Vec<SocketAddr>,
}

/// Why the sessions of a server must be closed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Why {
    /// It was the primary, and is a replica now.
    Demoted,
    /// It was the primary and stopped answering, and another server is the
    /// primary now.
    Superseded,
    /// It was taken out of service.
    Maintenance,
    /// It is down, and its pool says `on-down = "close"`.
    Down,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Demoted => "it was demoted",
            Self::Superseded => "another server is the primary now",
            Self::Maintenance => "it is in maintenance",
            Self::Down => "it is down",
        })
    }
}
