//! What changed lately, so that a secondary can follow step by step (RFC 1995).

use super::rrset::RrSet;
use std::collections::VecDeque;

/// Bytes of steps that are kept: a secondary that missed more takes the zone whole.
const ROOM: usize = 1 << 20;

/// From one serial to the next: records in the order of RFC 1995, section 4,
/// each with its whole owner.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// The serial before.
    pub from: u32,
    /// The serial after.
    pub to: u32,
    /// What went, the old SOA record first.
    pub removed: Vec<Vec<u8>>,
    /// What came, the new SOA record first.
    pub added: Vec<Vec<u8>>,
}

impl Step {
    pub(super) fn new(from: u32, to: u32) -> Self {
        Self { from, to, removed: vec![], added: vec![] }
    }

    /// A set became another one.
    pub(super) fn change(&mut self, name: &[u8], old: Option<&RrSet>, new: Option<&RrSet>) {
        fn only(name: &[u8], a: Option<&RrSet>, b: Option<&RrSet>) -> Vec<Vec<u8>> {
            let all = a.into_iter().flat_map(RrSet::records);
            let other = |record: &&[u8]| !b.is_some_and(|b| b.records().any(|r| r == *record));
            all.filter(other).map(|record| [name, &record[2..]].concat()).collect()
        }
        self.removed.extend(only(name, old, new));
        self.added.extend(only(name, new, old));
    }

    /// The SOA records before and after, without their owner.
    pub(super) fn soa(&mut self, origin: &[u8], old: &[u8], new: &[u8]) {
        self.removed.insert(0, [origin, old].concat());
        self.added.insert(0, [origin, new].concat());
    }

    fn size(&self) -> usize {
        self.removed.iter().chain(&self.added).map(|r| r.len() + size_of::<Vec<u8>>()).sum()
    }
}

/// The last steps.
#[derive(Clone, Debug, Default)]
pub struct History {
    steps: VecDeque<Step>,
    size: usize,
}

impl History {
    pub(super) fn push(&mut self, step: Step) {
        // A zone that was read anew may begin another line of serials.
        if self.steps.back().is_some_and(|last| last.to != step.from) {
            self.clear();
        }
        self.size += step.size();
        self.steps.push_back(step);
        while self.size > ROOM
            && let Some(old) = self.steps.pop_front()
        {
            self.size -= old.size();
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The steps since a serial; `None` when they are not known any more.
    #[must_use]
    pub fn since(&self, serial: u32) -> Option<Vec<Step>> {
        let first = self.steps.iter().position(|step| step.from == serial)?;
        Some(self.steps.range(first..).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_goes_and_comes() {
        let old = RrSet::new(16, 5, [b"\x01a", b"\x01b"]);
        let new = RrSet::new(16, 5, [b"\x01b", b"\x01c"]);
        let mut step = Step::new(1, 2);
        step.change(b"\0", old.as_ref(), new.as_ref());
        assert_eq!((step.removed.len(), step.added.len()), (1, 1));
        assert!(step.removed[0].ends_with(b"\x01a") && step.removed[0].starts_with(b"\0\0\x10"));
        assert!(step.added[0].ends_with(b"\x01c"));
    }

    #[test]
    fn old_steps_go_when_there_is_no_room() {
        let mut history = History::default();
        for serial in 1..=100 {
            let mut step = Step::new(serial, serial + 1);
            step.added.push(vec![0; ROOM / 50]);
            history.push(step);
        }
        assert!(history.since(1).is_none());
        assert_eq!(history.since(100).map(|steps| steps.len()), Some(1));
        assert!(history.since(101).is_none());
        assert!(history.size <= ROOM);
        history.push(Step::new(500, 501));
        assert!(history.since(100).is_none(), "a gap ends what was before it");
    }
}
