//! Who owned when: two owners at a time, and how long a client had no answer.

use super::schedule::Schedule;
use crate::lab::addresses::Change;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Faults that ended so long before two owned may be why, in adverts: what a
/// detection, its skew and a stall take.
const AFTERMATH: u32 = 12;

/// A time in which more than one host owned.
#[derive(Clone, Debug)]
pub struct Double {
    /// From the schedule's start.
    pub at: Duration,
    /// How long.
    pub length: Duration,
    /// The owners.
    pub owners: BTreeSet<Arc<str>>,
    /// The faults that were there when it began, or just before.
    pub causes: Vec<String>,
}

impl fmt::Display for Double {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owners: Vec<&str> = self.owners.iter().map(|o| &**o).collect();
        let (at, length, owners) = (self.at.as_millis(), self.length, owners.join(" and "));
        let causes = if self.causes.is_empty() { "no fault near".to_owned() } else { self.causes.join("; ") };
        write!(f, "two owners for {length:.1?} at {at} ms: {owners}; {causes}")
    }
}

/// What came of a schedule.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The times with two owners.
    pub doubles: Vec<Double>,
    /// The longest time without an answer for the client.
    pub outage: Duration,
    /// By how much the client itself was late at worst: what a busy machine did.
    pub late: Duration,
    /// Who owned a while after the last fault; `None` if nobody did for good.
    pub owner: Option<String>,
}

/// The times between `start` and `end` with more than one owner; the
/// schedule's times are those at which its faults really were.
pub(super) fn doubles(changes: &[Change], start: Instant, end: Instant, schedule: &Schedule) -> Vec<Double> {
    let mut owners: BTreeSet<Arc<str>> = BTreeSet::new();
    let mut found: Vec<Double> = Vec::new();
    let mut since: Option<(Instant, BTreeSet<Arc<str>>)> = None;
    let mut close = |since: &mut Option<(Instant, BTreeSet<Arc<str>>)>, at: Instant| {
        if let Some((from, owners)) = since.take() {
            let begun = from.saturating_duration_since(start);
            let length = at.saturating_duration_since(from);
            found.push(Double { at: begun, length, owners, causes: causes(schedule, begun) });
        }
    };
    for change in changes {
        if change.present {
            owners.insert(Arc::clone(&change.host));
        } else {
            owners.remove(&change.host);
        }
        match (&mut since, owners.len() > 1) {
            (None, true) => since = Some((change.at, owners.clone())),
            (Some((_, all)), true) => all.extend(owners.iter().cloned()),
            (Some(_), false) => close(&mut since, change.at),
            (None, false) => {}
        }
    }
    close(&mut since, end);
    found
}

fn causes(schedule: &Schedule, at: Duration) -> Vec<String> {
    let aftermath = schedule.interval * AFTERMATH;
    let near = schedule.steps.iter().filter(|s| s.at <= at && at <= s.at + s.lasts + aftermath);
    near.map(|s| s.fault.text(schedule.layout)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::schedule::{Fault, Layout, Step};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn two_owners_are_found_with_their_cause() {
        let start = Instant::now();
        let change = |at: u32, host: &str, present| Change {
            at: start + MS * at,
            host: host.into(),
            address: [10, 77, 0, 100].into(),
            present,
        };
        let step = |at: u32, fault| Step { at: MS * at, lasts: MS * 10, fault };
        let schedule = Schedule {
            seed: 0,
            layout: Layout::TwoAndWitness,
            interval: MS * 10,
            steps: vec![step(20, Fault::Partition(0, 1)), step(800, Fault::Kill(0))],
        };
        let changes = [
            change(0, "px1", true),
            change(50, "px2", true),
            change(57, "px1", false),
            change(90, "px2", false),
            change(91, "px1", true),
            change(500, "px2", true),
        ];
        let found = doubles(&changes, start, start + MS * 510, &schedule);
        let lengths: Vec<Duration> = found.iter().map(|d| d.length).collect();
        assert_eq!(lengths, [MS * 7, MS * 10]);
        assert_eq!(found[0].causes, ["partition px1 px2"]);
        assert!(found[1].causes.is_empty(), "{}", found[1]);
        assert_eq!(found[0].owners.len(), 2);
    }
}
