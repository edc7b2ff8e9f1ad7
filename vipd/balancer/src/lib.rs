//! The data path of vipd: listeners, and the sessions between clients and
//! the servers that [`vipd_core::pool`] picks for them.
//!
//! ```text
//!            one worker per core: a thread, a current-thread runtime; locks only
//!            where clients wait or are counted by address
//!   client ──▶ its own SO_REUSEPORT socket ──▶ pick ──▶ connect, elsewhere if it fails ──▶ relay
//!                                               ▲
//!                            View: pools, routes, counters (one ArcSwap)
//! ```
//!
//! * [`Balancer`] is the handle: it binds, swaps pools, closes sessions, counts.
//! * `bind` makes listening sockets; `holder` finds who holds a port.
//! * `shared` is what workers and handle have in common; `stats` what is counted,
//!   `tallies` of which server; `name` is one that a reload may change.
//! * `worker` is a worker's thread, its acceptors, and the commands it takes.
//! * `session` is a client from its acceptance to its end: `connect` finds it a
//!   server, `relay` is its middle (two directions, each a `flow`, with a `pipe` for
//!   bulk), `patience` what time alone does to it;
//!   `registry` finds sessions again, for `sessions`, which lists them;
//!   `proxy_protocol` tells who the client is, `access` writes of its end.
//! * Who gets in: `sources` counts by client address, `queue` lets clients wait
//!   for room, `rate` spreads connections to a server over time, `descriptors`
//!   leaves some to the rest of the daemon.
//! * `alarm` keeps the many deadlines that hardly ever pass, `seldom` the log
//!   from being flooded.
//!
//! A client that cannot be served is reset, never left waiting for longer than
//! its pool says; so is one whose address or server was taken from under it:
//! it notices at once.

mod access;
mod alarm;
mod balancer;
mod bind;
mod connect;
mod descriptors;
mod flow;
mod holder;
mod load;
mod name;
mod patience;
mod pipe;
mod proxy_protocol;
mod queue;
mod rate;
mod registry;
mod relay;
mod seldom;
mod session;
mod sessions;
mod shared;
mod sources;
mod stats;
mod tallies;
mod worker;

pub use access::ACCESS_LOG;
pub use balancer::{Balancer, Gate};
pub use bind::source as bind_source;
pub use descriptors::raise_descriptor_limit;
pub use proxy_protocol::header_of_own as proxy_header_of_own;
pub use sessions::{LISTED, SessionInfo, SessionState, Sessions, Which};
pub use stats::{CloseCause, ListenerStats, PoolStats, ServerStats, Stats};

use std::io;
use std::net::SocketAddr;

/// What clients met at a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Met {
    /// The name of the server's pool.
    pub pool: String,
    /// The server's name.
    pub server: String,
    /// Where it was: by now the name may be that of another place.
    pub place: SocketAddr,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a client's connection to a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It failed, or the server reset it before anybody said anything.
    Failed {
        /// The error.
        reason: String,
        /// So many have failed in a row by now, with none in between over which
        /// anybody said anything, since the server became usable.
        in_a_row: u32,
    },
    /// Somebody said something over it; told of the first after one that failed was told.
    Good,
}

/// What can go wrong with the balancer as a whole. What goes wrong with one
/// session is a [`CloseCause`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A listener's address cannot be had.
    #[error("listener {listener}: cannot listen on {address}: {source}{hint}")]
    Bind {
        /// The listener's name.
        listener: String,
        /// The address and port.
        address: SocketAddr,
        /// What can be said beyond the kernel's word: who holds the port, what is missing.
        hint: String,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// A worker cannot be started.
    #[error("cannot start worker {worker} of the balancer: {source}")]
    Worker {
        /// The worker's number.
        worker: usize,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// A worker does not take commands any more; nothing was changed on it.
    #[error(
        "worker {worker} of the balancer does not answer: it has {} commands to carry out",
        balancer::COMMANDS
    )]
    Stalled {
        /// The worker's number.
        worker: usize,
    },
}
