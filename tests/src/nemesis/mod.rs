//! The nemesis: random faults against real daemons, drawn from a seed, and who
//! owned the floating IP meanwhile.
//!
//! An owner is a host that has the address on its network's interface, so that
//! it answers ARP; one that keeps it silently on loopback is none. What the
//! kernels of all hosts told, and the answers that a client got, are judged
//! when a schedule has run.

mod figures;
mod run;
mod schedule;
mod verdict;

pub use figures::{Figures, gaps, witnesses};
pub use run::{Mode, run};
pub use schedule::{Fault, Layout, Schedule, Step};
pub use verdict::{Double, Verdict};
