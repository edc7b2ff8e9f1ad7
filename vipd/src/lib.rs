//! The parts of the daemon.
//!
//! * [`net`]: adverts, messages between nodes, announcements, the clock.

pub mod net;
