//! The parts of the daemon.
//!
//! * [`kernel`]: the owner of the addresses.
//! * [`net`]: adverts, messages between nodes, announcements, the clock.

pub mod kernel;
pub mod net;
