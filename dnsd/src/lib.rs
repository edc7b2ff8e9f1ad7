//! dnsd: the internal authoritative DNS server of vipd.
//!
//! Built on hickory-server, which was called trust-dns-server before it was
//! renamed. hickory parses and encodes messages, master files and TSIG, and
//! puts together the answers that are more than a copy of one set; sockets,
//! dynamic updates, transfers and the journal are this crate's.

pub mod answer;
pub mod cli;
pub mod cookie;
pub mod daemon;
mod handler;
pub mod http;
pub mod journal;
pub mod lease;
pub mod limit;
mod log;
pub mod message;
pub mod metrics;
pub mod name;
pub mod notify;
pub mod replay;
pub mod served;
pub mod state;
pub mod status;
pub mod tcp;
pub mod tools;
pub mod transfer;
pub mod tsig;
pub mod udp;
pub mod update;
pub mod writer;
pub mod zone;
