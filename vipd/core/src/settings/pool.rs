//! `[[pool]]` and its servers.

use super::{Check, Role};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// How a pool chooses among its usable servers (HAProxy's words).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Balance {
    /// Smooth weighted round-robin.
    RoundRobin,
    /// The fewest sessions for its weight.
    LeastConnections,
    /// By the client's address, consistently.
    SourceHash,
    /// The less loaded of two drawn at random.
    RandomTwo,
    /// The first in the file's order that has room.
    First,
}

/// A server's host: an address, or a name that is looked up again and again.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A DNS name.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(a)) => write!(f, "[{a}]"),
            Self::Address(a) => a.fmt(f),
            Self::Name(n) => f.write_str(n),
        }
    }
}

/// A server of a pool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    /// Its name, unique in the pool.
    pub name: String,
    /// Its host.
    pub host: Host,
    /// Its TCP port.
    pub port: u16,
    /// Its share of connections, 0 to 256; 0 takes none.
    pub weight: u16,
    /// Sessions at a time; unbounded when absent.
    pub max_connections: Option<u32>,
    /// New connections to it in a second; unbounded when absent.
    pub max_rate: Option<u32>,
    /// Used only when no server that is not a backup is usable.
    pub backup: bool,
    /// What its name stands for.
    pub resolve: Resolve,
    /// The name that it was found at, if that has many addresses and this is
    /// one of them. No file says this, [`crate::discover`] does.
    pub found_at: Option<String>,
    /// It is not among the servers any more, and drains. No file says this,
    /// [`crate::discover`] does.
    pub vanished: Option<Vanished>,
}

impl Server {
    /// Where it is, as the file says: whose host and port are the same is the
    /// same server, whatever its name.
    pub(crate) const fn place(&self) -> (&Host, u16) {
        (&self.host, self.port)
    }

    /// One with the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, host: Host, port: u16) -> Self {
        Self {
            name: name.into(),
            host,
            port,
            weight: 100,
            max_connections: None,
            max_rate: None,
            backup: false,
            resolve: Resolve::One,
            found_at: None,
            vanished: None,
        }
    }
}

/// Why a server is not among those of its pool any more.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Vanished {
    /// The name it was found by does not lead to it any more.
    Name,
    /// It was removed from the file, or its pool was.
    File,
}

impl fmt::Display for Vanished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "its name does not lead to it any more",
            Self::File => "removed from the file",
        })
    }
}

/// What the name of a server stands for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Resolve {
    /// One server, whatever addresses it has.
    One,
    /// A server at each of its addresses.
    All,
    /// A server for each of its SRV records (RFC 2782), which also give the ports.
    Srv,
}

/// The source address of connections to servers.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Source {
    /// What the kernel chooses.
    Auto,
    /// The address that the client connected to, of the server's family.
    Vip,
    /// This one.
    Address(IpAddr),
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// What happens to the sessions of a server that is down.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OnDown {
    /// They are closed.
    Close,
    /// They go on.
    Drain,
}

/// What happens to the sessions of a server that has lost the role its pool wants.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OnDemote {
    /// They are closed at once.
    Close,
    /// They are closed after this time.
    Drain(Duration),
}

/// `[[pool]]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pool {
    /// Its name, unique among the pools.
    pub name: String,
    /// How it chooses.
    pub balance: Balance,
    /// Its servers, at least one.
    pub servers: Vec<Server>,
    /// The pool used when no server of this one is usable, as a position in
    /// the list of pools; chains have an end.
    pub fallback: Option<usize>,
    /// Sessions at a time that this pool sends to servers of its fallback;
    /// unbounded when absent.
    pub fallback_max_connections: Option<u32>,
    /// How its servers are checked; without a check every server counts as usable.
    pub check: Option<Check>,
    /// A connection to a server that takes longer is given up.
    pub connect_timeout: Duration,
    /// Further attempts when a connection fails: on other servers, then on the same.
    pub retries: u32,
    /// Clients that may wait for a server to have room; 0 refuses them at once.
    pub queue: u32,
    /// A client that has waited for this long is refused.
    pub queue_timeout: Duration,
    /// A server that comes up takes its full share only after this time.
    pub slow_start: Option<Duration>,
    /// Connections of a server's own limit that are left to others, where the
    /// check can read that limit.
    pub headroom: u32,
    /// The source address of connections to its servers.
    pub source: Source,
    /// The source address of its checks, other than what the kernel chooses:
    /// that of its connections, if it is given and does not float.
    pub check_source: Option<IpAddr>,
    /// The PROXY protocol header that its servers are sent.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What happens to the sessions of a server that is down.
    pub on_down: OnDown,
    /// What happens to the sessions of a server that has lost its role.
    pub on_demote: OnDemote,
}

impl Pool {
    /// Whether the file has it no more, and it is there for its sessions only.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        !self.servers.is_empty() && self.servers.iter().all(|s| s.vanished == Some(Vanished::File))
    }

    /// The role that its servers are to have.
    #[must_use]
    pub fn role(&self) -> Role {
        self.check.as_ref().map_or(Role::Any, |c| c.kind.role())
    }

    /// One with the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, servers: Vec<Server>) -> Self {
        Self {
            name: name.into(),
            balance: Balance::RoundRobin,
            servers,
            fallback: None,
            fallback_max_connections: None,
            check: None,
            connect_timeout: Duration::from_secs(2),
            retries: 3,
            queue: 1_000,
            queue_timeout: Duration::from_secs(5),
            slow_start: None,
            headroom: 0,
            source: Source::Auto,
            check_source: None,
            proxy_protocol: None,
            on_down: OnDown::Drain,
            on_demote: OnDemote::Close,
        }
    }
}
