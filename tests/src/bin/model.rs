//! `make model`: explores every state of election and lease within bounds, and
//! says how many there are. Without a quorum it prints a shortest way to two
//! owners.
#![allow(clippy::print_stdout, reason = "what it explored is its result")]

use clap::Parser;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;
use vipd_tests::model::{Bounds, Drift, explore};

/// Explores the election and the lease.
#[derive(Debug, Parser)]
struct Args {
    /// End a run after so many states.
    #[arg(long, default_value_t = 5_000_000)]
    limit: usize,
    /// Steps of time of the larger runs.
    #[arg(long, default_value_t = 5)]
    steps: u8,
    /// Only the run of this number.
    #[arg(long)]
    only: Option<usize>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let mut out = std::io::stdout().lock();
    let two = Bounds::smallest();
    // With these the search would go on for hours: a takeover takes five steps.
    let bounded = Bounds { settled: true, steps: Some(args.steps), ..two.clone() };
    let three = Bounds { nodes: 3, witnesses: 0, ..bounded.clone() };
    let etcd = Bounds { etcd: true, witnesses: 0, ..two.clone() };
    let etcd_bounded = Bounds { settled: true, steps: Some(args.steps), ..etcd.clone() };
    let runs = [
        two.clone(),
        Bounds { drift: Drift::None, ..two.clone() },
        Bounds { pauses: 1, ..two.clone() },
        Bounds { crashes: 1, ..bounded.clone() },
        Bounds { switchovers: 1, ..bounded.clone() },
        Bounds { strays: 1, ..bounded.clone() },
        Bounds { pauses: 1, crashes: 1, switchovers: 1, ..bounded },
        three.clone(),
        Bounds { pauses: 1, ..three.clone() },
        etcd,
        etcd_bounded.clone(),
        Bounds { deletions: 1, ..etcd_bounded.clone() },
        Bounds { strays: 1, ..etcd_bounded.clone() },
        Bounds { pauses: 1, crashes: 1, switchovers: 1, deletions: 1, ..etcd_bounded.clone() },
        Bounds { nodes: 3, ..etcd_bounded },
        Bounds { quorum: false, ..two },
        Bounds { quorum: false, ..three },
    ];
    let (mut as_expected, mut sum) = (true, 0);
    for (number, bounds) in runs.iter().enumerate().filter(|(n, _)| args.only.is_none_or(|only| only == *n)) {
        let begun = Instant::now();
        // A state with the key and its operations takes several times the memory.
        let limit = if bounds.etcd { args.limit / 5 } else { args.limit };
        let explored = explore(bounds, limit);
        let (states, took) = (explored.states, begun.elapsed());
        let how = match explored.complete {
            true => "all there are".to_owned(),
            false => format!("all that {} events lead to, not all there are", explored.depth),
        };
        let verdict = if explored.broken.is_some() { "TWO OWNERS" } else { "never two owners" };
        writeln!(out, "{number}: {bounds}: {verdict}, {states} states ({how}), {took:.1?}")?;
        for line in explored.broken.iter().flatten() {
            writeln!(out, "    {line}")?;
        }
        sum += states;
        as_expected &= explored.broken.is_none() == bounds.quorum;
    }
    writeln!(out, "{sum} states explored")?;
    Ok(if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
