//! `[[listen]]`.

use super::Cidr;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Where a listener listens.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Bind {
    /// The address; all of both families when absent.
    pub address: Option<IpAddr>,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => std::net::SocketAddr::new(address, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

/// `[[listen]]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// Its name, unique among the listeners.
    pub name: String,
    /// Where it listens.
    pub bind: Bind,
    /// The pool it serves from, as a position in the list of pools.
    pub pool: usize,
    /// Sessions at a time; a further client waits in the kernel's accept queue.
    pub max_connections: u32,
    /// Sessions of one client address at a time; unbounded when absent.
    pub max_per_source: Option<u32>,
    /// New sessions of one client address in a second; unbounded when absent.
    pub max_rate_per_source: Option<u32>,
    /// A session whose turn it is to speak is not the server's, and in which
    /// nobody spoke for this long, is closed; never when absent.
    pub idle_timeout: Option<Duration>,
    /// A session that is older is closed at its next pause; never when absent.
    pub max_session_age: Option<Duration>,
    /// A session that is older is closed whatever runs in it; never when absent.
    pub max_busy_session_age: Option<Duration>,
    /// A session in which one side has for this long taken nothing of what
    /// waits for it is closed; never when absent.
    pub stall_timeout: Option<Duration>,
    /// Silence on a connection, of client or server, after which the kernel
    /// asks whether the other end is still there.
    pub tcp_keepalive: Duration,
    /// What was sent and is not acknowledged for this long ends a connection;
    /// when absent the kernel's own limit does. This includes what cannot be
    /// sent because the other end lives but does not read (tcp(7),
    /// TCP_USER_TIMEOUT), which ends healthy sessions: hence no default.
    pub tcp_user_timeout: Option<Duration>,
    /// Networks of proxies whose connections begin with a PROXY protocol header.
    pub accept_proxy: Vec<Cidr>,
    /// Whether each session is a line in the log when it ends.
    pub access_log: bool,
}

impl Listener {
    /// One with the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, bind: Bind, pool: usize) -> Self {
        Self {
            name: name.into(),
            bind,
            pool,
            max_connections: 2_000,
            max_per_source: None,
            max_rate_per_source: None,
            idle_timeout: None,
            max_session_age: None,
            max_busy_session_age: None,
            stall_timeout: Some(Duration::from_secs(3_600)),
            tcp_keepalive: Duration::from_secs(30),
            tcp_user_timeout: None,
            accept_proxy: vec![],
            access_log: false,
        }
    }
}
