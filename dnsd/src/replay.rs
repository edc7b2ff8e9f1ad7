//! Signed updates that were seen: a copy of one does nothing.
//!
//! A client whose answer was lost sends the same bytes again: it gets the same
//! answer. Somebody who recorded them gets no further. The memory is bounded:
//! what is forgotten before its time is refused from then on by its time.

use crate::tsig::{FUDGE, Signed};
use std::collections::{BTreeSet, HashMap};

/// Signatures that are remembered: 109 updates a second for the 10 minutes in
/// which a signature can be good.
const MEMORY: usize = 1 << 16;

/// What is known of a signed update.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Seen {
    /// Nothing: it is a new one.
    New,
    /// It was answered with this code.
    Before(u8),
    /// It waits for the disk: its answer is on the way.
    Waiting,
    /// It may have been seen: it was signed before the memory begins.
    TooOld(String),
}

/// The memory.
#[derive(Debug)]
pub struct Replay {
    /// What each was answered; `None` as long as it waits for the disk.
    codes: HashMap<Vec<u8>, Option<u8>>,
    times: BTreeSet<(u64, Vec<u8>)>,
    /// Signed earlier than this: refused.
    begin: u64,
}

impl Replay {
    /// Remembers from a time in seconds since 1970: what was signed before a
    /// restart may have been used already.
    #[must_use]
    pub fn new(begin: u64) -> Self {
        Self { codes: HashMap::new(), times: BTreeSet::new(), begin }
    }

    /// Looks an update up.
    pub fn look(&mut self, signed: &Signed, now: u64) -> Seen {
        let old = now.saturating_sub(2 * u64::from(FUDGE));
        while let Some((time, _)) = self.times.first()
            && *time < old
        {
            self.forget_first();
        }
        if let Some(code) = self.codes.get(&signed.mac) {
            return code.map_or(Seen::Waiting, Seen::Before);
        }
        if signed.time < self.begin {
            let ago = self.begin - signed.time;
            return Seen::TooOld(format!(
                "it was signed {ago} s before this server began to remember signatures; it may be a copy"
            ));
        }
        Seen::New
    }

    /// Remembers an update and its answer, or that it waits for the disk.
    pub fn remember(&mut self, signed: &Signed, code: Option<u8>) {
        if self.times.len() >= MEMORY
            && let Some(time) = self.forget_first()
        {
            self.begin = self.begin.max(time + 1);
        }
        self.codes.insert(signed.mac.clone(), code);
        self.times.insert((signed.time, signed.mac.clone()));
    }

    /// Forgets one that was not done: it may be tried again as it is.
    pub fn forget(&mut self, signed: &Signed) {
        self.codes.remove(&signed.mac);
        self.times.remove(&(signed.time, signed.mac.clone()));
    }

    fn forget_first(&mut self) -> Option<u64> {
        let (time, mac) = self.times.pop_first()?;
        self.codes.remove(&mac);
        Some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tsig::tests::{key, signed};

    #[test]
    fn a_copy_gets_the_first_answer_for_as_long_as_its_time_is_good() {
        let key = std::sync::Arc::new(key(vec![]));
        let mut replay = Replay::new(1000);
        let first = signed(&key, 1001, b"one");
        assert_eq!(replay.look(&first, 1001), Seen::New);
        replay.remember(&first, None);
        assert_eq!(replay.look(&first, 1001), Seen::Waiting);
        replay.remember(&first, Some(8));
        assert_eq!(replay.look(&first, 1600), Seen::Before(8));
        assert_eq!(replay.look(&signed(&key, 1001, b"two"), 1001), Seen::New);
        assert!(matches!(replay.look(&signed(&key, 999, b"old"), 1001), Seen::TooOld(_)), "before the start");
        let failed = signed(&key, 1002, b"failed");
        replay.remember(&failed, None);
        replay.forget(&failed);
        assert_eq!(replay.look(&failed, 1600), Seen::New);
        assert_eq!(replay.look(&first, 1602), Seen::New, "its time is no good any more: BADTIME");
    }

    #[test]
    fn the_memory_is_bounded_and_lets_nothing_through() {
        let key = std::sync::Arc::new(key(vec![]));
        let mut replay = Replay::new(0);
        let all = MEMORY + 10;
        for i in 0..all {
            let time = 1000 + u64::try_from(i / 1000).unwrap();
            replay.remember(&signed(&key, time, &i.to_be_bytes()), Some(0));
        }
        assert_eq!(replay.times.len(), MEMORY);
        assert!(matches!(replay.look(&signed(&key, 1000, &0_usize.to_be_bytes()), 1066), Seen::TooOld(_)));
        assert_eq!(replay.look(&signed(&key, 1065, b"new"), 1066), Seen::New);
    }
}
