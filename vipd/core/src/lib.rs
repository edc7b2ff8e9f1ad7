//! The decisions of vipd, and nothing else.
//!
//! This crate knows no clock, no socket and no randomness: everything it
//! decides follows from the inputs it was handed and the `now` that came with
//! them, so that a whole cluster can be simulated in one thread.
//!
//! * [`election`]: one virtual router's state machine.
//! * [`plan`]: the addresses a node should hold.
//! * [`probe`]: what a check saw of a server.
//! * [`settings`]: what may be configured, as types that cannot hold a bad value.
//! * [`time`]: a point on a clock that only goes forward.
//! * [`wire`]: bytes of the network, and the types they stand for.

pub mod election;
pub mod event;
mod explain;
mod group;
pub mod node;
pub mod peers;
pub mod plan;
pub mod probe;
pub mod rejects;
pub mod settings;
pub mod time;
pub mod wire;
