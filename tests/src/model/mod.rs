//! Every state that the election and the lease can reach, by breadth-first
//! search over the real code of `vipd_core`.
//!
//! A [`Cluster`] is nodes (each with its [`Election`], the [`Voter`] in it, and
//! whether it answers for the address) and witnesses, and the messages that
//! are on their way. Time goes in steps. Between two steps anything may happen:
//! any message of the last steps arrives, once, more than once, in any order,
//! or never; a node is stopped or goes on; it crashes and starts anew; it hands
//! over. All clocks run alike, and the drift is put where it matters: in how
//! long a voter's promise lasts when the holder has counted a lease.
//!
//! [`Keyed`](keyed::Keyed) is the same with the quorum in etcd: nodes, each with
//! what it knows of the key (`Registers`), the key, and the operations that are
//! on their way to it, which may be carried out at any time, and twice.
//!
//! States are compared by what is left of each time and number, so the search
//! ends: what it has seen then is everything, however long a cluster runs.

mod cluster;
mod keyed;
mod play;
mod search;

pub use cluster::{Bounds, Drift};
pub use search::{Explored, Trace, explore};
