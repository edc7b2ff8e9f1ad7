//! `make bench-witness`: what a witness costs its host at different loads.
#![allow(clippy::print_stdout, reason = "a table on the terminal is its result")]

use anyhow::{Result, bail};
use clap::Parser;
use std::time::Duration;
use vipd_tests::lab;
use vipd_tests::nemesis::witnesses;

/// Measures votes, CPU and memory of a witness.
#[derive(Debug, Parser)]
struct Args {
    /// For how long the witness is watched at each load.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    lab::become_root()?;
    if let Some(obstacle) = lab::obstacle().or_else(lab::vipd::obstacle) {
        bail!("{obstacle}");
    }
    println!("{}", witnesses(Duration::from_secs(args.seconds.max(1))));
    Ok(())
}
