//! A few of the schedules of `make nemesis`.

use crate::{Case, Need};
use anyhow::{Result, ensure};
use std::time::Duration;
use vipd_tests::lab::Lab;
use vipd_tests::nemesis::{Fault, Layout, Mode, Schedule, Step, run};

const VIPD: &[Need] = &[Need::Vipd];
const ETCD: &[Need] = &[Need::Vipd, Need::Etcd];

pub(crate) const CASES: &[Case] = &[
    Case { name: "nemesis::never_two_with_a_quorum", needs: VIPD, run: never_two_with_a_quorum },
    Case { name: "nemesis::never_two_with_etcd", needs: ETCD, run: never_two_with_etcd },
    Case { name: "nemesis::two_are_seen_without", needs: VIPD, run: two_are_seen_without },
];

/// Schedules with adverts of 50 or 100 ms: beside other tests a machine
/// may stand still for longer than shorter ones forgive.
fn short() -> impl Iterator<Item = Schedule> {
    (0..).map(Schedule::draw).filter(|s| (50..=100).contains(&s.interval.as_millis()))
}

fn never_two_with_a_quorum(_: &Lab) -> Result<()> {
    never_two(short().take(4), Mode::Majority)
}

/// One of each layout, so that etcd has one member in the one and three in the other.
fn never_two_with_etcd(_: &Lab) -> Result<()> {
    let of = |layout| short().find(move |s| s.layout == layout).map(Schedule::against_etcd);
    never_two([Layout::TwoAndWitness, Layout::Three].into_iter().filter_map(of), Mode::Etcd)
}

fn never_two(schedules: impl Iterator<Item = Schedule>, mode: Mode) -> Result<()> {
    for schedule in schedules {
        let (verdict, lab) = run(&schedule, mode)?;
        let report = || format!("{schedule}\n{}", lab.report());
        ensure!(verdict.doubles.is_empty(), "{:?}: {}", verdict.doubles, report());
        ensure!(verdict.owner.is_some(), "nobody owns in the end: {}", report());
    }
    Ok(())
}

/// The sampler sees what a quorum prevents.
fn two_are_seen_without(_: &Lab) -> Result<()> {
    let interval = Duration::from_millis(50);
    let step = Step { at: interval, lasts: interval * 10, fault: Fault::Partition(0, 1) };
    let schedule = Schedule { seed: 0, layout: Layout::TwoAndWitness, interval, steps: vec![step] };
    let (verdict, lab) = run(&schedule, Mode::None)?;
    let found = verdict.doubles.first();
    ensure!(found.is_some_and(|d| d.length > Duration::from_millis(50)), "{:?}\n{}", verdict, lab.report());
    ensure!(verdict.owner.is_some(), "nobody owns in the end\n{}", lab.report());
    Ok(())
}
