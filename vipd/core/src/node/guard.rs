//! What the crash guard is told, and when.

use super::{GuardState, Node, Output};
use crate::time::Time;

/// Each time the guard is told of every group. What it says for a dead node is
/// made anew at each grant, since the voters forget it soon, but not before this
/// part of an interval is over, so that the grants of many groups go in one.
/// How long each lasts it is told at once ([`Output::Extended`]).
const WAITS: u32 = 4;

/// What is said to the guard, and what is not yet.
#[derive(Debug, Default)]
pub(super) struct Telling {
    told_at: Option<Time>,
    /// When it is told anew, though nothing but leases has changed.
    pub(super) due: Option<Time>,
}

impl Node {
    /// Tells the guard what this node holds.
    pub(super) fn tell_guard(&mut self, now: Time) {
        self.telling = Telling { told_at: Some(now), due: None };
        let mut state = GuardState::default();
        self.read_groups(now, |group, scope| {
            state.addresses.extend(group.held());
            state.farewells.extend(group.farewells(scope));
            state.watched.extend(group.watched());
            state.releases.extend(group.last_releases(scope));
        });
        self.out.push_back(Output::Guard(state));
    }

    /// The same after a grant, together with those of the next moment.
    pub(super) fn tell_guard_soon(&mut self, now: Time) {
        let wait = self.settings.election.advert_interval / WAITS;
        match self.telling.told_at.map(|at| at + wait).filter(|due| *due > now) {
            Some(due) => self.telling.due = Some(due),
            None => self.tell_guard(now),
        }
    }
}
