//! The sessions of a node's clients.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// Sessions that are asked for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// All of them.
    All,
    /// Those that came by the listener of this name; those that want a server
    /// of the pool of this name, or have one.
    Named(String),
    /// Those on a server, or on their way to it.
    Server {
        /// Its pool.
        pool: String,
        /// The server in it.
        server: String,
    },
    /// Those of a client's address.
    Client(IpAddr),
    /// The one of this number.
    Id(u64),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Named(name) => f.write_str(name),
            Self::Server { pool, server } => write!(f, "{pool}/{server}"),
            Self::Client(client) => client.fmt(f),
            Self::Id(id) => id.fmt(f),
        }
    }
}

/// Sessions: `vipctl sessions --json`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SessionsDoc {
    /// The oldest first; at most 10,000.
    pub sessions: Vec<SessionDoc>,
    /// How many more there are.
    pub left_out: u64,
}

/// A session.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SessionDoc {
    /// Its number, which no other session has as long as the daemon lives.
    pub id: u64,
    /// Its listener.
    pub listener: String,
    /// Its client's address and port: by the PROXY protocol header, if there was one.
    pub client: String,
    /// The pool of its server, if it has one yet.
    pub pool: Option<String>,
    /// Its server in that pool.
    pub server: Option<String>,
    /// How far it is.
    pub state: SessionState,
    /// Milliseconds since it was accepted.
    pub age_ms: u64,
    /// Milliseconds since a byte went through it.
    pub idle_ms: u64,
    /// Bytes given to the server.
    pub bytes_in: u64,
    /// Bytes given to the client.
    pub bytes_out: u64,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionState {
    /// It waits for its client's PROXY protocol header.
    Header,
    /// It waits until a server has room.
    Queued,
    /// It is being connected to a server.
    Connecting,
    /// It has a server.
    Relaying,
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Queued => "queued",
            Self::Connecting => "connecting",
            Self::Relaying => "relaying",
        })
    }
}
