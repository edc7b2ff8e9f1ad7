//! The same state with other numbers and times, so that two that differ in
//! nothing else are one.

use super::super::cluster::{NOW, NUMBER, PAST};
use super::{Host, Keyed, Message, Said, VRID, node_name};
use std::collections::BTreeSet;
use std::time::Duration;
use vipd_core::election::Election;
use vipd_core::lease::Lease;
use vipd_core::lease::register::{self, Operation, Rebase, Record, Sight};
use vipd_core::time::Time;

/// The number of a run's operation under way in every state.
const OPERATION: u64 = 1;

/// Longer than anybody waits for a lease that is written in the key.
const WAITED: Duration = Duration::from_secs(4);

impl Keyed {
    /// Brings the clock back to where it was, and numbers with it: only
    /// differences count.
    pub(super) fn rebase(&mut self, passed: Duration) {
        let oldest = NOW.before(PAST);
        let time = |at: Time| if at == Time::MAX { at } else { at.before(passed).max(oldest) };
        // What somebody waits for is over by then.
        let since = |at: Time| at.before(passed).max(NOW.before(WAITED));
        let newest = |h: &Host| h.election.as_ref().and_then(Election::lease).map_or(NUMBER, Lease::number);
        let last: Vec<(u32, u64, u64)> = self
            .hosts
            .iter()
            .map(|h| (h.run, newest(h), h.registers.flying(VRID).map_or(0, |(id, _)| id)))
            .collect();
        let number = |node: usize, run: u32, n: u64| match last[node] {
            _ if n == u64::MAX => n,
            (of, newest, _) if of == run => (n + NUMBER).saturating_sub(newest),
            _ => n,
        };
        let named = |node: &str, run: u32, n: u64| {
            let at = (0..last.len()).find(|at| node_name(*at) == node);
            at.map_or(n, |at| number(at, run, n))
        };
        let ranks: Vec<u64> = self.revisions().into_iter().collect();
        let revision = |r: u64| {
            ranks.iter().position(|known| *known == r).map_or(0, |at| at as u64 + u64::from(ranks[0] != 0))
        };
        for (node, host) in self.hosts.iter_mut().enumerate() {
            host.owns_until = host.owns_until.map(time);
            let run = host.run;
            if let Some(election) = &mut host.election {
                election.rebase(NOW, time, |n| number(node, run, n));
            }
            host.registers.rebase(&Rebase {
                own: (&node_name(node), run),
                time: &since,
                number: &named,
                revision: &revision,
                operation: OPERATION,
            });
        }
        let with =
            Rebase { own: ("", 0), time: &since, number: &named, revision: &revision, operation: OPERATION };
        let record = |mut record: Record| {
            record.number = with.number_of(&record);
            record
        };
        self.key = self.key.take().map(|(r, of)| (revision(r), record(of)));
        let messages = std::mem::take(&mut self.messages);
        self.messages = messages
            .into_iter()
            .filter_map(|Message { node, said, stray }| {
                let (own_run, _, flying) = last[node];
                let is_under_way = |run, id| run == own_run && id == flying && flying > 0;
                let id_of = |run, id| if is_under_way(run, id) { OPERATION } else { 0 };
                let said = match said {
                    Said::Advert { to, priority } => Said::Advert { to, priority },
                    Said::Release { to, run, number: n } => {
                        Said::Release { to, run, number: number(node, run, n) }
                    }
                    Said::Ask { run, id, operation } => {
                        let operation = match operation {
                            Operation::Read => Operation::Read,
                            Operation::Swap { expected, record: of } => {
                                Operation::Swap { expected: revision(expected), record: record(of) }
                            }
                        };
                        Said::Ask { run, id: id_of(run, id), operation }
                    }
                    // To an operation that is over: it counts for nothing.
                    Said::Answer { run, id, .. } if id_of(run, id) == 0 => return None,
                    Said::Answer { run, outcome, .. } => {
                        let outcome = match outcome {
                            register::Outcome::Swapped(r) => register::Outcome::Swapped(revision(r)),
                            register::Outcome::Seen(Sight { revision: r, record: of }) => {
                                register::Outcome::Seen(Sight {
                                    revision: revision(r),
                                    record: of.map(record),
                                })
                            }
                        };
                        Said::Answer { run, id: OPERATION, outcome }
                    }
                };
                Some(Message { node, said, stray })
            })
            .collect();
        self.revision = self.revisions().last().copied().unwrap_or(0);
    }

    /// Every revision that somebody knows.
    fn revisions(&self) -> BTreeSet<u64> {
        let mut all: BTreeSet<u64> = self.hosts.iter().flat_map(|h| h.registers.revisions()).collect();
        all.extend(self.key.iter().map(|(revision, _)| *revision));
        all.extend(self.messages.iter().filter_map(|m| match &m.said {
            Said::Ask { operation: Operation::Swap { expected, .. }, .. } => Some(*expected),
            Said::Answer { outcome: register::Outcome::Swapped(revision), .. } => Some(*revision),
            Said::Answer { outcome: register::Outcome::Seen(sight), .. } => Some(sight.revision),
            Said::Ask { operation: Operation::Read, .. } | Said::Advert { .. } | Said::Release { .. } => None,
        }));
        all
    }
}
