//! The quorum lease, kept in a register beside the cluster: a key of etcd.
//!
//! The cluster then has one voter, and its memory is the key: who holds the
//! group, by which request, for how long. It is only ever changed by a
//! compare-and-swap on the key's revision, so what the nodes write stands in
//! one order. A [`Register`] is what a node knows of one group's key; it says
//! what to ask next, one operation at a time, and gives the answers that a
//! [`Lease`](super::Lease) counts by.
//!
//! Nothing is asked of the register's own clock, nor of its leases: a node
//! that finds another's name in the key waits, by its own clock and from when
//! it *saw* that revision, for as long as a voter keeps a promise
//! ([`promised_for`]). It saw it after it was written, and the holder counts
//! from before it was: so the holder has withdrawn by then, or has written
//! another revision, on which the swap fails.
//!
//! A key that is not there may have been deleted under its holder: it is made
//! anew as a *claim*, which holds nothing, and waited for like anybody's.
//!
//! ```text
//!               nobody's, its own, given back,          swapped: granted
//!   +------+    or unchanged for long enough  +------+
//!   | Seen | -------------------------------> | Swap | ----------------+
//!   +------+ <------------------------------- +------+                 v
//!      |  ^      the key has another revision                   +-----------+
//!      |  |                                                     | Seen: own |
//!      +--+ somebody's: refused, for as long as is left         +-----------+
//! ```

use super::{Answer, LONGEST, promised_for};
use crate::time::Time;
use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::time::Duration;

/// What stands in a group's key.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Record {
    /// The node that wrote it.
    pub node: String,
    /// Tells its runs apart.
    pub run: u32,
    /// Its request; 0 if it only made the key, because there was none.
    pub number: u64,
    /// For how long it holds the group, by its own clock, from when it asked.
    pub lease: Duration,
    /// Whether it has given it back: nobody holds the group.
    pub released: bool,
}

impl Record {
    /// Whether it only stands for a key that was missing.
    const fn is_claim(&self) -> bool {
        self.number == 0
    }
}

/// A key as it was seen.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Sight {
    /// Grows with every change of the key; 0 if there is no such key.
    pub revision: u64,
    /// What stands in it.
    pub record: Option<Record>,
}

/// What to do with a key.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Operation {
    /// Read it, as it is after everything that was written before this began.
    Read,
    /// Write it if it still has a revision (0: if there is none); else read it.
    Swap {
        /// The revision.
        expected: u64,
        /// What is to stand in it.
        record: Record,
    },
}

/// What came of an operation. An operation that was repeated, because its
/// answer got lost, may find what it wrote itself.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Outcome {
    /// The swap was done; the key's revision by it.
    Swapped(u64),
    /// This stands in the key.
    Seen(Sight),
}

/// What a register wants done, and what it says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Step {
    /// An operation, and the number that its outcome is to name.
    pub operation: Option<(u64, Operation)>,
    /// To a request of this number.
    pub answer: Option<(u64, Answer)>,
    /// The group can be had from now on.
    pub opened: bool,
}

/// One group's key, as far as this node knows it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Register {
    seen: Option<(Sight, Time)>,
    /// The newest request that waits, and its lease.
    wanted: Option<(u64, Duration)>,
    /// Whether the key was looked at for it.
    looked: bool,
    /// This run's requests up to this number are given back.
    given_back: u64,
    /// What others said to have given back, of which run; at most one a node.
    released: BTreeMap<String, (u32, u64)>,
    /// The operation under way.
    flying: Option<(u64, Operation)>,
    operations: u64,
}

/// A key's holder other than this run, and how long to wait for its end.
struct Taken<'a> {
    by: &'a str,
    left: Duration,
}

impl Register {
    const fn new() -> Self {
        Self {
            seen: None,
            wanted: None,
            looked: false,
            given_back: 0,
            released: BTreeMap::new(),
            flying: None,
            operations: 0,
        }
    }

    /// Why this node cannot have the group now.
    fn taken<'a>(&self, record: &'a Record, since: Time, run: &Run<'_>) -> Option<Taken<'a>> {
        let known = self.released.get(&record.node);
        let given_back = known.is_some_and(|(r, last)| *r == record.run && record.number <= *last);
        if !record.is_claim() && (record.released || given_back || run.wrote(record)) {
            return None;
        }
        let end = since + promised_for(record.lease.min(LONGEST));
        (run.now < end).then(|| Taken { by: &record.node, left: end - run.now })
    }

    /// What comes next, if nothing is under way.
    fn next(&mut self, run: &Run<'_>) -> Step {
        if self.flying.is_some() {
            return Step::default();
        }
        self.wanted = self.wanted.filter(|(number, _)| *number > self.given_back);
        let Some((number, lease)) = self.wanted else { return self.give_up(run) };
        let own = Record { node: run.name.to_owned(), run: run.run, number, lease, released: false };
        let (expected, record, since) = match &self.seen {
            None => return self.fly(Operation::Read),
            Some((Sight { record: None, .. }, _)) => {
                let claim = Record { number: 0, ..own };
                return self.fly(Operation::Swap { expected: 0, record: claim });
            }
            Some((Sight { revision, record: Some(record) }, since)) => (*revision, record, *since),
        };
        let Some(taken) = self.taken(record, since, run) else {
            return self.fly(Operation::Swap { expected, record: own });
        };
        if !self.looked {
            return self.fly(Operation::Read);
        }
        let answer = Answer::Refused { holder: (run.position)(taken.by), left: taken.left };
        self.wanted = None;
        Step { answer: Some((number, answer)), ..Step::default() }
    }

    /// Gives back what stands in the key of this run's, if it is to be.
    fn give_up(&mut self, run: &Run<'_>) -> Step {
        let Some((Sight { revision, record: Some(record) }, _)) = &self.seen else {
            return Step::default();
        };
        if !run.holds(record) || record.number > self.given_back {
            return Step::default();
        }
        let record = Record { released: true, ..record.clone() };
        self.fly(Operation::Swap { expected: *revision, record })
    }

    fn fly(&mut self, operation: Operation) -> Step {
        self.operations += 1;
        self.flying = Some((self.operations, operation.clone()));
        Step { operation: Some((self.operations, operation)), ..Step::default() }
    }

    fn note(&mut self, sight: Sight, now: Time) {
        let same = |(seen, _): &(Sight, Time)| *seen == sight;
        if !self.seen.as_ref().is_some_and(same) {
            self.seen = Some((sight, now));
        }
    }

    /// An operation has come to something.
    fn answered(&mut self, operation: u64, outcome: Outcome, run: &Run<'_>) -> Step {
        let Some((_, done)) = self.flying.take_if(|(id, _)| *id == operation) else {
            return Step::default();
        };
        self.looked = true;
        match (outcome, done) {
            (Outcome::Swapped(revision), Operation::Swap { record, .. }) => {
                self.note(Sight { revision, record: Some(record) }, run.now);
            }
            // Nothing was to be swapped.
            (Outcome::Swapped(_), Operation::Read) => {}
            (Outcome::Seen(sight), _) => self.note(sight, run.now),
        }
        let own = self.seen.as_ref().and_then(|(s, _)| s.record.as_ref());
        let granted = own.filter(|r| run.holds(r)).map(|r| r.number);
        if let Some(number) = granted {
            self.wanted = self.wanted.filter(|(wanted, _)| *wanted > number);
        }
        let next = self.next(run);
        let answer = granted.map(|number| (number, Answer::Granted));
        Step { answer: answer.or(next.answer), ..next }
    }

    fn rebase(&mut self, with: &Rebase<'_>) {
        let own = |n: u64| (with.number)(with.own.0, with.own.1, n);
        if let Some((sight, since)) = &mut self.seen {
            sight.revision = (with.revision)(sight.revision);
            let wrote = |r: &Record| (r.node.as_str(), r.run) == with.own;
            let waits = |r: &Record| r.is_claim() || !r.released && !wrote(r);
            // Of what nobody waits for, it does not matter since when.
            let waits = sight.record.as_ref().is_some_and(waits);
            *since = (with.time)(if waits { *since } else { Time::ZERO });
            if let Some(record) = &mut sight.record {
                record.number = with.number_of(record);
            }
        }
        self.wanted = self.wanted.map(|(n, lease)| (own(n), lease));
        self.looked &= self.wanted.is_some();
        self.given_back = own(self.given_back);
        for (node, (run, last)) in &mut self.released {
            *last = (with.number)(node, *run, *last);
        }
        if let Some((_, Operation::Swap { expected, record })) = &mut self.flying {
            *expected = (with.revision)(*expected);
            record.number = with.number_of(record);
        }
        self.operations = with.operation;
        self.flying = self.flying.take().map(|(_, operation)| (with.operation, operation));
    }

    /// Whether nothing is left to be given back.
    fn is_idle(&self, run: &Run<'_>) -> bool {
        let flying = matches!(self.flying, Some((_, Operation::Swap { .. })));
        let own = self.seen.as_ref().and_then(|(s, _)| s.record.as_ref());
        !flying && !own.is_some_and(|r| run.holds(r) && r.number <= self.given_back)
    }
}

/// The same knowledge in other numbers and times, of which only differences
/// count: for the exploration of all states.
pub struct Rebase<'a> {
    /// The node and run whose knowledge it is.
    pub own: (&'a str, u32),
    /// A time's new value.
    pub time: &'a dyn Fn(Time) -> Time,
    /// That of a request's number, of which node and run; 0 stays what it is.
    pub number: &'a dyn Fn(&str, u32, u64) -> u64,
    /// That of a revision; 0 stays what it is.
    pub revision: &'a dyn Fn(u64) -> u64,
    /// That of the last operation's number.
    pub operation: u64,
}

impl Rebase<'_> {
    /// A record's new number: that of a claim stays 0.
    #[must_use]
    pub fn number_of(&self, record: &Record) -> u64 {
        if record.is_claim() { 0 } else { (self.number)(&record.node, record.run, record.number).max(1) }
    }
}

impl std::fmt::Debug for Rebase<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rebase").field("own", &self.own).finish_non_exhaustive()
    }
}

/// This node, now.
struct Run<'a> {
    name: &'a str,
    run: u32,
    now: Time,
    position: &'a dyn Fn(&str) -> Option<usize>,
}

impl Run<'_> {
    fn wrote(&self, record: &Record) -> bool {
        record.node == self.name && record.run == self.run
    }

    /// Whether by this record this run holds the group.
    fn holds(&self, record: &Record) -> bool {
        self.wrote(record) && !record.released && !record.is_claim()
    }
}

/// Why the register does not answer, for people.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Trouble {
    /// Since when.
    pub since: Time,
    /// By endpoint: "http://10.0.0.5:2379: connection refused".
    pub why: String,
}

/// What a node knows of every group's key, at most one a VRID: 255.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Registers {
    name: String,
    run: u32,
    /// The names of the cluster's nodes.
    nodes: Vec<String>,
    keys: BTreeMap<NonZeroU8, Register>,
    answered_at: Option<Time>,
    trouble: Option<Trouble>,
}

impl Registers {
    /// Nothing is known yet. `run` tells this run of the node `name` apart.
    #[must_use]
    pub const fn new(name: String, run: u32, nodes: Vec<String>) -> Self {
        Self { name, run, nodes, keys: BTreeMap::new(), answered_at: None, trouble: None }
    }

    fn with(
        &mut self,
        vrid: NonZeroU8,
        now: Time,
        with: impl FnOnce(&mut Register, &Run<'_>) -> Step,
    ) -> Step {
        let position = |name: &str| self.nodes.iter().position(|n| n == name);
        let run = Run { name: &self.name, run: self.run, now, position: &position };
        with(self.keys.entry(vrid).or_insert_with(Register::new), &run)
    }

    /// This node asks for a group, or asks to keep it.
    pub fn take(&mut self, vrid: NonZeroU8, number: u64, lease: Duration, now: Time) -> Step {
        self.with(vrid, now, |key, run| {
            (key.wanted, key.looked) = (Some((number, lease)), false);
            key.next(run)
        })
    }

    /// This node owns nothing by its requests up to a number.
    pub fn give_back(&mut self, vrid: NonZeroU8, number: u64, now: Time) -> Step {
        self.with(vrid, now, |key, run| {
            key.given_back = number.max(key.given_back);
            key.next(run)
        })
    }

    /// Another node owns nothing by its requests up to a number: its word is
    /// as good as the key's, and sooner here.
    pub fn released(&mut self, vrid: NonZeroU8, node: &str, run: u32, number: u64) {
        if !self.nodes.iter().any(|n| n == node) {
            return;
        }
        let key = self.keys.entry(vrid).or_insert_with(Register::new);
        let last = key.released.entry(node.to_owned()).or_insert((run, number));
        *last = if last.0 == run { (run, number.max(last.1)) } else { (run, number) };
    }

    /// An operation has come to something.
    pub fn answered(&mut self, vrid: NonZeroU8, operation: u64, outcome: Outcome, now: Time) -> Step {
        self.answered_at = Some(now);
        self.with(vrid, now, |key, run| key.answered(operation, outcome, run))
    }

    /// A key has changed.
    pub fn news(&mut self, vrid: NonZeroU8, sight: Sight, now: Time) -> Step {
        self.answered_at = Some(now);
        self.with(vrid, now, |key, run| {
            // What was read meanwhile may be newer.
            let newer = |(seen, _): &(Sight, Time)| sight.revision == 0 || sight.revision > seen.revision;
            if key.seen.as_ref().is_none_or(newer) {
                key.note(sight, now);
            }
            let seen = key.seen.as_ref();
            let open = |record: &Record, since| key.taken(record, since, run).is_none();
            let opened = seen.is_some_and(|(s, since)| s.record.as_ref().is_none_or(|r| open(r, *since)));
            Step { opened, ..key.next(run) }
        })
    }

    /// The register does not answer, or does so again.
    pub fn set_trouble(&mut self, why: Option<String>, now: Time) {
        let since = self.trouble.as_ref().map_or(now, |t| t.since);
        self.trouble = why.map(|why| Trouble { since, why });
    }

    /// Why it does not answer.
    #[must_use]
    pub const fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// When it last answered, or told news.
    #[must_use]
    pub const fn answered_at(&self) -> Option<Time> {
        self.answered_at
    }

    /// What stands in a group's key, and since when it was seen here.
    #[must_use]
    pub fn seen(&self, vrid: NonZeroU8) -> Option<(&Record, Time)> {
        let (sight, since) = self.keys.get(&vrid)?.seen.as_ref()?;
        Some((sight.record.as_ref()?, *since))
    }

    /// The same knowledge, as [`Rebase`] has it. What is only told to people is
    /// forgotten.
    pub fn rebase(&mut self, with: &Rebase<'_>) {
        self.keys.values_mut().for_each(|key| key.rebase(with));
        (self.answered_at, self.trouble) = (None, None);
    }

    /// The revisions that this node knows, or has written under.
    pub fn revisions(&self) -> impl Iterator<Item = u64> + '_ {
        let expected = |key: &Register| match key.flying {
            Some((_, Operation::Swap { expected, .. })) => Some(expected),
            Some((_, Operation::Read)) | None => None,
        };
        let of = move |key: &Register| [key.seen.as_ref().map(|(s, _)| s.revision), expected(key)];
        self.keys.values().flat_map(of).flatten()
    }

    /// The operation on a group's key that is under way.
    #[must_use]
    pub fn flying(&self, vrid: NonZeroU8) -> Option<(u64, &Operation)> {
        self.keys.get(&vrid)?.flying.as_ref().map(|(number, operation)| (*number, operation))
    }

    /// Whether this node has nothing left to give back.
    #[must_use]
    pub fn is_idle(&self, now: Time) -> bool {
        let run = Run { name: &self.name, run: self.run, now, position: &|_| None };
        self.keys.values().all(|key| key.is_idle(&run))
    }
}

#[cfg(test)]
mod tests;
