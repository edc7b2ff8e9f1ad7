//! `make nemesis`: random faults against real daemons; with a quorum there are
//! never two owners, without one each time is listed with its cause.
#![allow(clippy::print_stdout, reason = "what happened is its result")]

use anyhow::{Result, bail};
use clap::Parser;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vipd_tests::lab;
use vipd_tests::nemesis::{Mode, Schedule, Verdict, gaps, run};

/// Runs random fault schedules against real daemons.
#[derive(Debug, Parser)]
struct Args {
    /// Replay the schedule of this seed, and tell what every daemon said.
    #[arg(long)]
    seed: Option<u64>,
    /// How many schedules.
    #[arg(long, default_value_t = 200)]
    schedules: u64,
    /// The first of their seeds; by default drawn from the clock.
    #[arg(long)]
    from: Option<u64>,
    /// Labs that run at the same time; by default one for two cores.
    #[arg(long)]
    labs: Option<usize>,
    /// Only with ("majority"), without ("none") a quorum, or with one that is kept in "etcd".
    #[arg(long, value_parser = ["majority", "none", "etcd"])]
    quorum: Option<String>,
    /// Runs of each failover whose gap is measured; 0 for none.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only the failovers whose names contain this.
    #[arg(long)]
    only: Option<String>,
}

/// What came of all schedules of a way.
#[derive(Debug, Default)]
struct Sum {
    schedules: u64,
    doubles: u64,
    longest: Duration,
    total: Duration,
    ownerless: u64,
    failed: u64,
    /// By how much a client was late at worst, and so, it must be feared, who reads what kernels tell.
    late: Duration,
}

impl Sum {
    fn add(&mut self, verdict: &Verdict) {
        self.schedules += 1;
        for double in &verdict.doubles {
            self.doubles += 1;
            self.longest = self.longest.max(double.length);
            self.total += double.length;
        }
        self.ownerless += u64::from(verdict.owner.is_none());
        self.late = self.late.max(verdict.late);
    }

    fn print(&self, mode: &str) {
        println!(
            "quorum = \"{mode}\": {} schedules, {} intervals with two owners (longest {:.1?}, in all {:.1?}), \
             {} without one owner in the end, {} that could not be run; a shorter time with two owners than {:.1?}, \
             by which a client was late at worst, may have been missed",
            self.schedules, self.doubles, self.longest, self.total, self.ownerless, self.failed, self.late
        );
    }
}

const MODES: [Mode; 3] = [Mode::Majority, Mode::None, Mode::Etcd];

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    lab::become_root()?;
    if let Some(obstacle) = lab::obstacle().or_else(lab::vipd::obstacle) {
        bail!("{obstacle}");
    }
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (first, count) = args.seed.map_or((args.from.unwrap_or(clock), args.schedules), |seed| (seed, 1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let labs = args.labs.unwrap_or(cores.div_ceil(2)).max(1);
    println!("{count} schedules from seed {first}, {labs} at a time; make nemesis SEED=n replays one");
    let (next, sums) = (AtomicU64::new(0), Mutex::new([Sum::default(), Sum::default(), Sum::default()]));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..labs.min(usize::try_from(count).unwrap_or(labs)) {
            scope.spawn(|| {
                while let Some(n) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < count) {
                    attack(first + n, &args, &sums);
                }
            });
        }
    });
    let sums = sums.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!("\n{:.0?}", begun.elapsed());
    for (mode, sum) in MODES.iter().zip(&sums).filter(|(_, s)| s.schedules + s.failed > 0) {
        sum.print(mode.word());
    }
    if args.runs > 0 && args.seed.is_none() {
        println!("\n{}", gaps(args.runs, args.only.as_deref())?);
    }
    let bad = MODES.iter().zip(&sums).map(|(mode, sum)| {
        let doubles = if *mode == Mode::None { 0 } else { sum.doubles };
        doubles + sum.ownerless + sum.failed
    });
    let good = bad.sum::<u64>() == 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a seed's schedule with and without a quorum and prints a line for each.
fn attack(seed: u64, args: &Args, sums: &Mutex<[Sum; 3]>) {
    for (number, mode) in MODES.into_iter().enumerate() {
        let unasked = mode == Mode::Etcd;
        if args.quorum.as_deref().map_or(unasked, |only| only != mode.word()) {
            continue;
        }
        let schedule = &mode.schedule(seed);
        let result = run(schedule, mode);
        let mode = mode.word();
        let mut sums = sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match result {
            Ok((verdict, lab)) => {
                sums[number].add(&verdict);
                print(schedule, mode, &verdict);
                let bad = verdict.owner.is_none() || (mode != "none" && !verdict.doubles.is_empty());
                if bad || args.seed.is_some() {
                    println!("{}", lab.report());
                }
            }
            Err(error) => {
                sums[number].failed += 1;
                println!("{schedule}: quorum {mode}: cannot be run: {error:#}");
            }
        }
    }
}

fn print(schedule: &Schedule, mode: &str, verdict: &Verdict) {
    let owner = verdict.owner.as_deref().unwrap_or("NOBODY");
    let Verdict { doubles, outage, late, .. } = verdict;
    println!(
        "{schedule}: quorum {mode}: {} times two owners, no answer for {outage:.0?} (client late by {late:.0?}), \
         in the end {owner}",
        doubles.len()
    );
    for double in doubles {
        println!("    {double}");
    }
}
