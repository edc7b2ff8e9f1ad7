//! What may be configured, as types that cannot hold a bad value.
//!
//! `vipd-config` is the only place that makes them from text; the rest of the
//! house takes them as true.

mod address;
mod check;
mod cluster;
mod dns;
mod listen;
mod own;
mod pool;

pub use address::{Cidr, Family};
pub use check::*;
pub use cluster::*;
pub use dns::*;
pub use listen::*;
pub use own::Own;
pub use pool::*;
