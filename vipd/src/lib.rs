//! The daemon's parts that touch the world.
//!
//! * [`check`]: probes of servers.
//! * [`cli`]: the command line.
//! * [`control`]: what operators ask and are told.
//! * [`ctl`]: the operators' command.
//! * [`daemon`]: puts the parts together.
//! * [`guard`]: cleans up after a daemon that was killed.
//! * [`kernel`]: the addresses the kernel holds.
//! * `log`: whoever logs does not wait for whoever reads.
//! * [`net`]: adverts, messages between nodes, announcements, the clock.
//! * [`peer`]: the sealed link between nodes, and sealed adverts.
//! * [`publish`]: the records of the cluster's name.
//! * [`resolve`]: names of servers.
//! * [`shell`]: the one loop that drives the decisions.
//! * [`witness`]: a host that only votes.

pub mod check;
pub mod cli;
pub mod control;
pub mod ctl;
pub mod daemon;
pub mod guard;
pub mod kernel;
pub mod log;
pub mod net;
pub mod peer;
pub mod publish;
pub mod resolve;
pub mod shell;
pub mod witness;

use std::io;

/// An error of the operating system, without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words);
    words.to_lowercase()
}
