//! `make model`: explores every state of election and lease within bounds, and
//! says how many there are. Without a quorum it prints a shortest way to two
//! owners.
#![allow(clippy::print_stdout, reason = "what it explored is its result")]

use clap::Parser;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use vipd_tests::model::{Bounds, Drift, explore};

/// Explores the election and the lease.
#[derive(Debug, Parser)]
struct Args {
    /// Stop after so many states.
    #[arg(long, default_value_t = 20_000_000)]
    limit: usize,
    /// Only the run of this number.
    #[arg(long)]
    only: Option<usize>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let half = Duration::from_millis(500);
    let two = Bounds {
        nodes: 2,
        witnesses: 1,
        quorum: true,
        drift: Drift::Worst,
        step: half * 2,
        delays: 0,
        crashes: 0,
        pauses: 0,
        switchovers: 0,
    };
    let three = Bounds { nodes: 3, witnesses: 0, ..two.clone() };
    let runs = [
        two.clone(),
        Bounds { pauses: 1, ..two.clone() },
        Bounds { crashes: 1, ..two.clone() },
        Bounds { switchovers: 1, ..two.clone() },
        Bounds { drift: Drift::None, pauses: 1, ..two.clone() },
        three.clone(),
        Bounds { quorum: false, ..two.clone() },
        Bounds { quorum: false, ..three },
    ];
    let mut as_expected = true;
    for (number, bounds) in runs.iter().enumerate().filter(|(n, _)| args.only.is_none_or(|only| only == *n)) {
        let begun = Instant::now();
        let explored = explore(bounds, args.limit);
        let how = if explored.complete { "all" } else { "not all" };
        println!(
            "{number}: {bounds}: {} states ({how}), {} transitions, {:?}",
            explored.states,
            explored.transitions,
            begun.elapsed()
        );
        if let Some(trace) = &explored.broken {
            println!("  two owners after:");
            for line in trace {
                println!("    {line}");
            }
        }
        as_expected &= explored.broken.is_none() == bounds.quorum && (explored.complete || !bounds.quorum);
    }
    if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
