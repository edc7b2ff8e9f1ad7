//! What both clusters do alike: they play elections as the node does, and take
//! messages off their way.

use super::cluster::{Bounds, NOW, name};
use std::collections::BTreeSet;
use std::time::Duration;
use vipd_core::election::{Election, Event, Outcome};
use vipd_core::time::Time;

/// Hosts with elections.
pub(super) trait Play {
    /// A host's election; none on a witness.
    fn election(&mut self, host: usize) -> &mut Option<Election>;

    /// Does what an election wants done.
    fn follow(&mut self, host: usize, election: &mut Election, outcome: Outcome, now: Time, bounds: &Bounds);

    /// An event, as the node hands it to the election, and what follows.
    fn happen(&mut self, host: usize, event: Event, now: Time, bounds: &Bounds) {
        let Some(mut election) = self.election(host).take() else { return };
        let late = election.deadline().map_or(Duration::ZERO, |at| now - at);
        for event in [Event::Wake(late), event] {
            let outcome = election.handle(event, now);
            self.follow(host, &mut election, outcome, now, bounds);
        }
        *self.election(host) = Some(election);
    }

    /// Timers go off at their time; a daemon that was stopped is late.
    fn timers(&mut self, host: usize, end: Time, bounds: &Bounds) {
        // As the node does, which never leaves a deadline in the past.
        for _ in 0..64 {
            let due = self.election(host).as_ref().and_then(Election::deadline);
            let Some(at) = due.filter(|at| *at <= end) else { return };
            self.happen(host, Event::Timer, at.max(NOW), bounds);
        }
        panic!("{}: a timer stays due: {:?}", name(host), self.election(host));
    }
}

/// A message arrives: one that went astray stays on its way.
pub(super) fn take<M: Clone + Ord>(messages: &mut BTreeSet<M>, n: usize, is_stray: impl Fn(&M) -> bool) -> M {
    let message = messages.iter().nth(n).cloned().unwrap_or_else(|| unreachable!("it is on its way"));
    if !is_stray(&message) {
        messages.remove(&message);
    }
    message
}

/// The same, without anything that goes wrong.
pub(super) fn calm(bounds: &Bounds) -> Bounds {
    Bounds { deletions: 0, strays: 0, crashes: 0, pauses: 0, switchovers: 0, steps: None, ..bounds.clone() }
}
