//! The decisions of vipd, and nothing else.
//!
//! This crate knows no clock, no socket and no randomness: everything it
//! decides follows from the inputs it was handed and the `now` that came with
//! them, so that a whole cluster can be simulated in one thread.
//!
//! * [`health`]: what a probe's result means for a server.
//! * [`plan`]: the addresses a node should hold.
//! * [`pool`]: which server takes a connection.
//! * [`probe`]: what a check saw of a server.
//! * [`settings`]: what may be configured, as types that cannot hold a bad value.
//! * [`time`]: a point on a clock that only goes forward.

pub mod health;
pub mod plan;
pub mod pool;
pub mod probe;
pub mod settings;
pub mod time;
