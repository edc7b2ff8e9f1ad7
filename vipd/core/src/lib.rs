//! The decisions of vipd, and nothing else.
//!
//! This crate knows no clock, no socket and no randomness: everything it
//! decides follows from the inputs it was handed and the `now` that came with
//! them, so that a whole cluster can be simulated in one thread.
//!
//! * [`discover`]: servers that are found by name.
//! * [`election`]: one virtual router's state machine.
//! * [`health`]: what a probe's result means for a server.
//! * [`lease`]: the quorum lease: who may own, until when.
//! * [`plan`]: the addresses a node should hold.
//! * [`pool`]: which server takes a connection.
//! * [`probe`]: what a check saw of a server.
//! * [`publish`]: the records that DNS should hold.
//! * [`settings`]: what may be configured, as types that cannot hold a bad value.
//! * [`time`]: a point on a clock that only goes forward.
//! * [`wire`]: bytes of the network, and the types they stand for.
//! * [`witness`]: a host that votes and never owns.

pub mod discover;
pub mod election;
pub mod event;
pub mod explain;
mod group;
pub mod health;
pub mod lease;
pub mod node;
pub mod peers;
pub mod plan;
pub mod pool;
pub mod probe;
pub mod publish;
pub mod rejects;
pub mod settings;
pub mod time;
pub mod wire;
pub mod witness;
