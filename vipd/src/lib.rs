

/// An error of the operating system, without its number.
fn words(error: &io::Error) -> String {
pub mod check;
pub mod cli;
pub mod control;
pub mod ctl;
pub mod resolve;
use std::io;
    let text = error.to_string();
    let words = text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words);
    words.to_lowercase()
//!
//! * [`net`]: adverts, messages between nodes, announcements, the clock.
//! The daemon's parts that touch the world.
//! The parts of the daemon.
/// An error of the operating system, without its number.
fn words(error: &io::Error) -> String {
pub mod check;
pub mod control;
pub mod net;
pub mod resolve;
use std::io;
}
