//! What is counted, and why sessions end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use vipd_core::health::Why;

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a session ended.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum CloseCause {
            $($(#[$doc])* $name,)*
        }

        impl CloseCause {
            /// All causes, in the order of [`ListenerStats::closed`].
            pub const ALL: [Self; CAUSES] = [$(Self::$name),*];

            /// The cause in a log or a metric's label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

/// How many causes there are.
pub(crate) const CAUSES: usize = 25;

causes! {
    /// The client ended first; everything was delivered.
    ClientClosed = "client-closed",
    /// The server ended first; everything was delivered.
    ServerClosed = "server-closed",
    /// The client reset the connection, or stopped answering.
    ClientError = "client-error",
    /// The server reset the connection, or stopped answering.
    ServerError = "server-error",
    /// Nobody spoke for the listener's `idle-timeout`.
    IdleTimeout = "idle-timeout",
    /// A side took nothing of what waited for it for the listener's `stall-timeout`.
    StallTimeout = "stall-timeout",
    /// It was older than the listener's `max-session-age`.
    SessionAge = "session-age",
    /// The address that the client had connected to is no longer this node's.
    AddressLost = "address-lost",
    /// The server was the primary, and is a replica now.
    ServerDemoted = "server-demoted",
    /// The server was the primary and stopped answering, and another one is
    /// the primary now.
    ServerSuperseded = "server-superseded",
    /// The server is down, and its pool says `on-down = "close"`.
    ServerDown = "server-down",
    /// The server was taken out of service.
    ServerMaintenance = "server-maintenance",
    /// An operator ended it.
    Killed = "killed",
    /// The balancer stops.
    Stopped = "stopped",
    /// No server was usable.
    NoServer = "no-server",
    /// Every usable server had as many sessions as it may, and the pool has no queue.
    ServersFull = "servers-full",
    /// As many clients as may already waited for a server to have room.
    QueueFull = "queue-full",
    /// No server had room within the pool's `queue-timeout`.
    QueueTimeout = "queue-timeout",
    /// The client hung up before it had a server.
    Abandoned = "abandoned",
    /// The client's address had `max-connections-per-source` sessions.
    SourceLimit = "source-limit",
    /// The client's address had `max-rate-per-source` new sessions within a second.
    SourceRate = "source-rate",
    /// A PROXY protocol header was expected and did not come, or was malformed.
    ProxyHeader = "proxy-header",
    /// No connection to a server could be made.
    ConnectFailed = "connect-failed",
    /// The pool's `source` is no address of this host.
    NoSourceAddress = "no-source-address",
    /// This host has no descriptors or memory left for another connection, or
    /// no way to any server: no port, or no address of its family.
    NoResources = "no-resources",
}

impl CloseCause {
    /// Whether the client never got as far as a server.
    #[must_use]
    pub const fn refused(self) -> bool {
        match self {
            Self::NoServer
            | Self::ServersFull
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::Abandoned
            | Self::SourceLimit
            | Self::SourceRate
            | Self::ProxyHeader
            | Self::ConnectFailed
            | Self::NoSourceAddress
            | Self::NoResources => true,
            Self::ClientClosed
            | Self::ServerClosed
            | Self::ClientError
            | Self::ServerError
            | Self::IdleTimeout
            | Self::StallTimeout
            | Self::SessionAge
            | Self::AddressLost
            | Self::ServerDemoted
            | Self::ServerSuperseded
            | Self::ServerDown
            | Self::ServerMaintenance
            | Self::Killed
            | Self::Stopped => false,
        }
    }

    /// Whether whoever is still there is told by a reset: a plain end could be
    /// taken for the whole of what the other side had to say.
    pub(crate) const fn resets(self) -> bool {
        match self {
            Self::ClientClosed | Self::ServerClosed | Self::IdleTimeout | Self::SessionAge => false,
            Self::ClientError
            | Self::ServerError
            | Self::StallTimeout
            | Self::AddressLost
            | Self::ServerDemoted
            | Self::ServerSuperseded
            | Self::ServerDown
            | Self::ServerMaintenance
            | Self::Killed
            | Self::Stopped
            | Self::NoServer
            | Self::ServersFull
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::Abandoned
            | Self::SourceLimit
            | Self::SourceRate
            | Self::ProxyHeader
            | Self::ConnectFailed
            | Self::NoSourceAddress
            | Self::NoResources => true,
        }
    }
}

impl From<Why> for CloseCause {
    fn from(why: Why) -> Self {
        match why {
            Why::Demoted => Self::ServerDemoted,
            Why::Superseded => Self::ServerSuperseded,
            Why::Maintenance => Self::ServerMaintenance,
            Why::Down => Self::ServerDown,
        }
    }
}

impl std::fmt::Display for CloseCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The balancer's numbers at one moment.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Those of each listener; one that was removed stays until its last
    /// session has ended.
    pub listeners: Vec<ListenerStats>,
    /// Those of each pool, in the order of the settings.
    pub pools: Vec<PoolStats>,
    /// Those of each server, in the order of the settings.
    pub servers: Vec<ServerStats>,
}

/// A listener's numbers.
#[derive(Clone, Debug)]
pub struct ListenerStats {
    /// Its name.
    pub name: String,
    /// Where it listens; nowhere if it was removed, or drains.
    pub addresses: Vec<SocketAddr>,
    /// Sessions now, those that still wait for a server included.
    pub sessions: u32,
    /// Sessions since its start.
    pub total: u64,
    /// Bytes delivered to servers.
    pub bytes_in: u64,
    /// Bytes delivered to clients.
    pub bytes_out: u64,
    /// Sessions ended, by cause, in the order of [`CloseCause::ALL`].
    pub closed: [u64; CAUSES],
    /// Connections that could not be accepted: most often for want of descriptors.
    pub accept_errors: u64,
    /// Client addresses that are counted; none unless the listener limits them.
    pub sources: usize,
}

impl ListenerStats {
    /// Sessions that ended for a cause.
    #[must_use]
    pub fn closed(&self, cause: CloseCause) -> u64 {
        self.closed[cause as usize]
    }
}

/// A pool's numbers, as that which clients asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolStats {
    /// Its name.
    pub pool: String,
    /// Clients that wait for a server now.
    pub queued: u32,
    /// Clients that had to wait, since it was first configured.
    pub queued_total: u64,
    /// Of them those that waited in vain.
    pub queue_timeouts: u64,
    /// Clients that were refused because as many as may waited already.
    pub queue_full: u64,
    /// Its sessions on servers of other pools, its fallbacks.
    pub fallback_sessions: u32,
}

/// A server's numbers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServerStats {
    /// Its pool's name.
    pub pool: String,
    /// Its name.
    pub server: String,
    /// Sessions now, those that are being connected included.
    pub sessions: u32,
    /// Sessions since it was first configured.
    pub total: u64,
    /// Connections to it that failed.
    pub connect_errors: u64,
    /// Sessions that it reset, or in which it stopped answering.
    pub resets: u64,
    /// Bytes delivered to it by sessions that have ended.
    pub bytes_in: u64,
    /// Bytes delivered to clients from it by sessions that have ended.
    pub bytes_out: u64,
    /// Sessions that ended on it, by cause, in the order of [`CloseCause::ALL`].
    pub closed: [u64; CAUSES],
    /// Sessions it may have beside these until the next word on its own limit;
    /// absent while that is not known.
    pub room: Option<u32>,
    /// Whether its connect rate allows no connection at this moment.
    pub rate_used_up: bool,
    /// Sessions beside these, where it was before a reload gave it another place.
    pub former: u32,
}

impl ServerStats {
    /// Sessions that ended for a cause.
    #[must_use]
    pub fn closed(&self, cause: CloseCause) -> u64 {
        self.closed[cause as usize]
    }
}

/// A number that one thread writes and others read: no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker counts of one listener, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Tally {
    pub(crate) total: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) closed: [Counter; CAUSES],
    pub(crate) accept_errors: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The words of the first column are the causes, all of them and nothing else.
    #[test]
    fn the_manual_lists_every_cause() {
        let page = include_str!("../../../docs/balancer.md");
        let section = page.split("## What ends a session").nth(1).and_then(|s| s.split("\n## ").next());
        let rows = section.unwrap_or_default().lines().filter_map(|l| l.strip_prefix("| `"));
        let words = rows.filter_map(|row| row.split(" | ").next()).flat_map(|cell| cell.split(", "));
        let told: BTreeSet<_> = words.map(|word| word.trim_matches('`')).collect();
        let all: BTreeSet<_> = CloseCause::ALL.into_iter().map(CloseCause::as_str).collect();
        assert_eq!(told, all);
    }
}
