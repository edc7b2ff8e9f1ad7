//! The messages of the control socket: JSON, one object a line.
//!
//! A client sends one [`Request`] and reads one [`Response`], or many where it
//! asked for events. Every line carries `"v"`, the version of this protocol.
//! Fields and variants are added without a new version; the version grows when
//! an old meaning changes.

use serde::{Deserialize, Serialize};
use std::fmt;

mod event;
mod sessions;
mod status;

pub use event::{Event, EventDoc, EventKind, Level};
pub use sessions::{SessionDoc, SessionState, SessionsDoc, Which};
pub use status::{
    CheckDoc, ConflictDoc, Counters, DnsDoc, DnsSteps, DnsStoreDoc, EtcdDoc, LinkDoc, ListenerDoc, PeerDoc,
    PeerState, PoolDoc, ProofDoc, QueueDoc, Rejected, Sees, ServerDoc, ServerRole, ServerState, StatusDoc,
    Steps, VipDoc, VipState, WitnessDoc,
};

/// The version of the protocol spoken here.
pub const VERSION: u32 = 1;

/// The socket's name in the runtime directory.
pub const SOCKET: &str = "vipd.sock";

/// The largest weight of a server (HAProxy's).
pub const MAX_WEIGHT: u16 = 256;

/// What a client may ask.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "request", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The whole state.
    Status {},
    /// Why things are as they are, in sentences.
    Why {
        /// A VIP, `POOL/SERVER`, or everything.
        subject: Option<String>,
    },
    /// Hands a VIP to another node.
    Switchover {
        /// The VIP; every VIP this node owns when absent.
        vip: Option<String>,
        /// The node that takes it; the next by preference when absent.
        to: Option<String>,
    },
    /// The newest events, oldest first.
    Events {
        /// Whether to go on with those that are still to come.
        follow: bool,
        /// Leaves out kept events up to this number.
        since: Option<u64>,
    },
    /// Reads the configuration file again.
    Reload {
        /// Changes nothing, and tells what would change.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        dry_run: bool,
    },
    /// Takes this node out of the election, or puts it back.
    Maintenance {
        /// Out, or back.
        on: bool,
    },
    /// Takes a server out of its pool, or puts it back.
    Server {
        /// The pool.
        pool: String,
        /// The server in it.
        server: String,
        /// What it is to be.
        state: ServerOrder,
    },
    /// Lists sessions.
    Sessions {
        /// Those that are wanted.
        which: Which,
    },
    /// Ends sessions.
    Kill {
        /// Those that end.
        which: Which,
    },
    /// Gives a server another weight.
    Weight {
        /// The pool.
        pool: String,
        /// The server in it.
        server: String,
        /// The weight, 0 to 256; that of the file again when absent.
        weight: Option<u16>,
    },
}

/// What an operator wants of a server (HAProxy's words).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerOrder {
    /// What its check says of it counts.
    Ready,
    /// No new connections; those that are there go on.
    Drain,
    /// No connections at all; those that are there are closed.
    Maint,
}

impl fmt::Display for ServerOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        })
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "response", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Response {
    /// To `status`.
    Status {
        /// The state.
        status: Box<StatusDoc>,
    },
    /// To `why`.
    Why {
        /// Sentences, one a line.
        text: String,
    },
    /// To `switchover`: it is done.
    Switched {
        /// What moved.
        moves: Vec<Moved>,
    },
    /// To `sessions`.
    Sessions(SessionsDoc),
    /// To `reload`, `maintenance`, `server`, `weight` and `kill`: it is done.
    Done {
        /// What was done, and in a second line what should be known of it.
        message: String,
    },
    /// To `events`: one of them.
    Event {
        /// The event.
        event: Box<EventDoc>,
    },
    /// To `events`: there are no more.
    End {},
    /// The request was understood, and the daemon will not do it.
    Refused {
        /// Why not.
        reason: String,
    },
    /// The request could not be answered.
    Error {
        /// What kind of error, for programs.
        code: ErrorCode,
        /// The same, for people.
        message: String,
    },
}

/// Why a request could not be answered.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The client speaks a newer protocol than the daemon.
    Version,
    /// The line is no request.
    Malformed,
    /// The line is longer than any request.
    TooLong,
    /// Too many clients follow the events.
    Busy,
    /// The daemon's loop did not answer, or the client did not speak, in time.
    Timeout,
    /// The daemon is about to end.
    Stopping,
    /// The client read events more slowly than they came, and missed some.
    Lagged,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

/// A line: a message with its version.
#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u32,
    #[serde(flatten)]
    message: &'a T,
}

/// A message as a line, with the newline at its end.
fn line<T: Serialize>(message: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(&Versioned { v: VERSION, message })?;
    line.push(b'\n');
    Ok(line)
}

impl Request {
    /// The request as a line, with the newline at its end.
    ///
    /// # Errors
    /// None that a request can cause; serde's signature has one.
    pub fn to_line(&self) -> Result<Vec<u8>, serde_json::Error> {
        line(self)
    }

    /// Reads a line.
    ///
    /// # Errors
    /// The response to send instead: the line is of a newer protocol, or no request.
    pub fn from_line(line: &[u8]) -> Result<Self, Response> {
        let malformed = |what: String| Response::Error {
            code: ErrorCode::Malformed,
            message: format!("no request: {what}"),
        };
        let mut object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(line).map_err(|e| malformed(e.to_string()))?;
        let version = object.remove("v").and_then(|v| v.as_u64());
        match version {
            None => {
                return Err(malformed(format!("\"v\", the protocol's version (here {VERSION}), is missing")));
            }
            Some(v) if v > u64::from(VERSION) => {
                return Err(Response::Error {
                    code: ErrorCode::Version,
                    message: format!(
                        "the client speaks version {v} of the control protocol and this vipd ({}) only version \
                         {VERSION}: use the vipctl that came with it, or restart vipd if it was just updated",
                        env!("CARGO_PKG_VERSION")
                    ),
                });
            }
            Some(_) => {}
        }
        serde_json::from_value(serde_json::Value::Object(object)).map_err(|e| malformed(e.to_string()))
    }

    /// Whether it changes anything.
    #[must_use]
    pub const fn is_order(&self) -> bool {
        match self {
            Self::Status {} | Self::Why { .. } | Self::Events { .. } | Self::Sessions { .. } => false,
            Self::Switchover { .. }
            | Self::Reload { .. }
            | Self::Maintenance { .. }
            | Self::Server { .. }
            | Self::Kill { .. }
            | Self::Weight { .. } => true,
        }
    }
}

impl Response {
    /// The response as a line, with the newline at its end.
    ///
    /// # Errors
    /// None that a response can cause; serde's signature has one.
    pub fn to_line(&self) -> Result<Vec<u8>, serde_json::Error> {
        line(self)
    }

    /// Reads a line.
    ///
    /// # Errors
    /// The line is no response of this protocol.
    pub fn from_line(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }
}

/// A VIP that a switchover moved.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Moved {
    /// The VIP.
    pub vip: String,
    /// Who owned it before.
    pub from: String,
    /// Who owns it now.
    pub owner: String,
    /// Microseconds from the request until the new owner had it.
    pub took_us: u64,
}

#[cfg(test)]
mod tests;
