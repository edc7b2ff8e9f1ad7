//! Signed updates that were seen: a copy of one does nothing.
//!
//! A client whose answer was lost sends the same bytes again: it gets the same
//! answer. Somebody who recorded them gets no further. What is remembered of an
//! update stands in the journal before it is answered, so that a restart
//! forgets nothing. Each zone has a memory of its own, as it has a journal of
//! its own: what one zone does not know locks nobody out of another.
//!
//! It is bounded. Whatever is forgotten, for want of room or since its time is
//! no good any more, is refused from then on by its time, for a clock that jumps
//! ahead and back makes it good again. So clocks cannot let a copy in, but for
//! one thing: nobody is locked out for longer than the fudge, so a time of a
//! clock that was hours ahead counts only up to what the clock says now.

use crate::tsig::{FUDGE, Signed};
use std::collections::{BTreeSet, HashMap};

/// Signatures of one key in one zone that are remembered, and as many again of
/// a time that is yet to come, after a clock was set back: 109 updates a second
/// for the 10 minutes in which a signature can be good. Keys and zones are as
/// many as the configuration has.
const MEMORY: usize = 1 << 16;

/// The beginning of a signature: nobody finds two that are alike in so much.
pub type Mac = [u8; 16];

/// A piece of the memory, as the journal keeps it. Times are seconds since 1970.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mark {
    /// An update was seen.
    Seen {
        /// The key's name.
        key: String,
        /// When it was signed.
        time: u64,
        /// How its signature begins.
        mac: Mac,
        /// What it was answered.
        code: u8,
    },
    /// What was signed earlier may have been seen.
    Since {
        /// By this key; by any, without one.
        key: Option<String>,
        /// The time.
        time: u64,
    },
}

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

/// What is known of one key's updates of the zone.
#[derive(Debug, Default)]
struct OfKey {
    /// What each was answered; `None` as long as it waits for the disk.
    codes: HashMap<Mac, Option<u8>>,
    times: BTreeSet<(u64, Mac)>,
    /// Signed earlier than this: refused, for it may be one that was forgotten.
    begin: u64,
}

impl OfKey {
    fn insert(&mut self, time: u64, mac: Mac, code: Option<u8>, now: u64) {
        if self.codes.insert(mac, code).is_none() {
            self.times.insert((time, mac));
        }
        while self.times.len() > MEMORY && self.times.len() - self.yet_to_come(now) > MEMORY {
            self.forget_first();
        }
        // A clock that was set ahead and back again and again.
        while self.times.len() > 2 * MEMORY {
            self.forget_first();
        }
    }

    /// How many were signed later than anything that can be taken now: by a clock
    /// that was ahead, as the server's was. They take no room from what comes now,
    /// which would be forgotten before them; none are added while they are ahead.
    fn yet_to_come(&self, now: u64) -> usize {
        self.times.range((now + u64::from(FUDGE) + 1, Mac::default())..).count()
    }

    fn forget_first(&mut self) {
        if let Some((time, mac)) = self.times.pop_first() {
            self.codes.remove(&mac);
            self.begin = self.begin.max(time.saturating_add(1));
        }
    }

    /// Forgets what no clock that is right can have signed, and says whether a
    /// clock that was ahead had set a time too late.
    fn tidy(&mut self, now: u64) -> bool {
        while self.times.first().is_some_and(|(time, _)| *time < old(now)) {
            self.forget_first();
        }
        // Later than this is nothing that can be taken now.
        lower(&mut self.begin, now + u64::from(FUDGE) + 1)
    }
}

fn lower(begin: &mut u64, to: u64) -> bool {
    let late = *begin > to;
    *begin = to.min(*begin);
    late
}

/// The memory of one zone.
#[derive(Debug, Default)]
pub struct Replay {
    keys: HashMap<String, OfKey>,
    /// Signed earlier than this, by whatever key: refused.
    begin: u64,
}

impl Replay {
    /// Takes up what the zone's journal remembers; `true` if it says times that
    /// are yet to come, of a clock that was ahead: it should be written anew.
    pub fn restore(&mut self, marks: impl IntoIterator<Item = Mark>, now: u64) -> bool {
        for mark in marks {
            match mark {
                Mark::Seen { key, time, mac, code } => {
                    self.keys.entry(key).or_default().insert(time, mac, Some(code), now);
                }
                Mark::Since { key: Some(key), time } => {
                    let of_key = self.keys.entry(key).or_default();
                    of_key.begin = of_key.begin.max(time);
                }
                Mark::Since { key: None, time } => self.begin = self.begin.max(time),
            }
        }
        self.tidy(now)
    }

    fn tidy(&mut self, now: u64) -> bool {
        let late = lower(&mut self.begin, now);
        self.keys.values_mut().fold(late, |late, of_key| of_key.tidy(now) || late)
    }

    /// All that a journal needs to know, for one that is written anew. What
    /// waits for the disk is not of it: it gets there with its batch.
    #[must_use]
    pub fn marks(&mut self, now: u64) -> Vec<Mark> {
        self.tidy(now);
        let since = |key, time| (time > 0).then_some(Mark::Since { key, time });
        let mut marks: Vec<_> = since(None, self.begin).into_iter().collect();
        for (key, of_key) in &self.keys {
            marks.extend(since(Some(key.clone()), of_key.begin));
            marks.extend(of_key.times.iter().filter_map(|(time, mac)| {
                let code = of_key.codes.get(mac).copied().flatten()?;
                Some(Mark::Seen { key: key.clone(), time: *time, mac: *mac, code })
            }));
        }
        marks
    }

    /// Looks an update up.
    pub fn look(&mut self, signed: &Signed, now: u64) -> Seen {
        lower(&mut self.begin, now);
        let mut begin = self.begin;
        if let Some(of_key) = self.keys.get_mut(&signed.key.name) {
            of_key.tidy(now);
            if let Some(code) = of_key.codes.get(&beginning(signed)) {
                return code.map_or(Seen::Waiting, Seen::Before);
            }
            begin = begin.max(of_key.begin);
        }
        if signed.time < begin {
            let ago = begin - signed.time;
            return Seen::TooOld(format!(
                "it was signed {ago} s before this server's memory of the key's updates begins; it may be a copy"
            ));
        }
        Seen::New
    }

    /// Remembers an update and its answer, or that it waits for the disk.
    pub fn remember(&mut self, signed: &Signed, code: Option<u8>, now: u64) {
        let of_key = match self.keys.get_mut(&signed.key.name) {
            Some(of_key) => of_key,
            None => self.keys.entry(signed.key.name.clone()).or_default(),
        };
        of_key.insert(signed.time, beginning(signed), code, now);
    }

    /// Forgets one that was not done: it may be tried again as it is.
    pub fn forget(&mut self, signed: &Signed) {
        if let Some(of_key) = self.keys.get_mut(&signed.key.name) {
            of_key.codes.remove(&beginning(signed));
            of_key.times.remove(&(signed.time, beginning(signed)));
        }
    }
}

/// The mark of an update with its answer.
#[must_use]
pub fn mark(signed: &Signed, code: u8) -> Mark {
    Mark::Seen { key: signed.key.name.clone(), time: signed.time, mac: beginning(signed), code }
}

fn beginning(signed: &Signed) -> Mac {
    let mut mac = Mac::default();
    mac.iter_mut().zip(&signed.mac).for_each(|(to, from)| *to = *from);
    mac
}

/// What was signed before this is no good any more, even by a clock that was set
/// back meanwhile.
fn old(now: u64) -> u64 {
    now.saturating_sub(2 * u64::from(FUDGE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tsig::tests::{key, named, signed};
    use std::sync::Arc;

    #[test]
    fn a_copy_gets_the_first_answer_for_as_long_as_its_time_is_good() {
        let key = Arc::new(key(vec![]));
        let mut replay = Replay::default();
        replay.restore([Mark::Since { key: None, time: 1000 }], 1000);
        let first = signed(&key, 1001, b"one");
        assert_eq!(replay.look(&first, 1001), Seen::New);
        replay.remember(&first, None, 1001);
        assert_eq!(replay.look(&first, 1001), Seen::Waiting);
        replay.remember(&first, Some(8), 1001);
        assert_eq!(replay.look(&first, 1600), Seen::Before(8));
        assert_eq!(replay.look(&signed(&key, 1001, b"two"), 1001), Seen::New);
        assert!(matches!(replay.look(&signed(&key, 999, b"old"), 1001), Seen::TooOld(_)), "before the start");
        let failed = signed(&key, 1002, b"failed");
        replay.remember(&failed, None, 1002);
        replay.forget(&failed);
        assert_eq!(replay.look(&failed, 1600), Seen::New);
        assert!(matches!(replay.look(&first, 1602), Seen::TooOld(_)), "forgotten, and not taken again");
    }

    #[test]
    fn what_one_key_fills_is_its_own_memory() {
        let (busy, other) = (Arc::new(key(vec![])), Arc::new(named("other.")));
        let mut replay = Replay::default();
        let theirs = signed(&other, 1000, b"theirs");
        replay.remember(&theirs, Some(0), 1000);
        let all = MEMORY + 10;
        for i in 0..all {
            let time = 1000 + u64::try_from(i / 1000).unwrap();
            replay.remember(&signed(&busy, time, &i.to_be_bytes()), Some(0), time);
        }
        assert_eq!(replay.keys["vipd."].times.len(), MEMORY);
        assert!(matches!(replay.look(&signed(&busy, 1000, &0_usize.to_be_bytes()), 1066), Seen::TooOld(_)));
        assert_eq!(replay.look(&signed(&busy, 1065, b"new"), 1066), Seen::New);
        assert_eq!(replay.look(&theirs, 1066), Seen::Before(0), "another key's is not forgotten");
        assert_eq!(replay.look(&signed(&other, 990, b"slow"), 1066), Seen::New, "nor locked out");
        // Also by whoever takes it up again.
        let mut again = Replay::default();
        again.restore(replay.marks(1066), 1066);
        assert!(matches!(again.look(&signed(&busy, 1000, &0_usize.to_be_bytes()), 1066), Seen::TooOld(_)));
        assert_eq!(again.look(&theirs, 1066), Seen::Before(0));
    }

    #[test]
    fn a_restart_forgets_nothing_but_what_waited_for_the_disk() {
        let key = Arc::new(key(vec![]));
        let mut replay = Replay::default();
        let (ahead, behind, waits) =
            (signed(&key, 1200, b"ahead"), signed(&key, 800, b"behind"), signed(&key, 1000, b"waits"));
        replay.remember(&ahead, Some(0), 1000);
        replay.remember(&behind, Some(8), 1000);
        replay.remember(&waits, None, 1000);
        let mut again = Replay::default();
        again.restore(replay.marks(1000), 1000);
        assert_eq!(again.look(&ahead, 1000), Seen::Before(0), "signed by a clock that is ahead");
        assert_eq!(again.look(&behind, 1000), Seen::Before(8));
        assert_eq!(again.look(&waits, 1000), Seen::New, "nobody was told that it was done");
        assert_eq!(
            again.look(&signed(&key, 801, b"next"), 1000),
            Seen::New,
            "a clock that is behind may go on"
        );
        let seen = |mark: &Mark| matches!(mark, Mark::Seen { .. });
        let mut kept = |now| again.marks(now).iter().filter(|mark| seen(mark)).count();
        assert_eq!((kept(1800), kept(1801)), (1, 0), "what is too old is not kept");
    }

    /// The server's clock was hours ahead when it began, and was then set right.
    #[test]
    fn a_clock_that_was_ahead_locks_nobody_out_for_longer_than_the_fudge() {
        let key = Arc::new(key(vec![]));
        let (ahead, right) = (20_000, 10_000);
        let marks = [
            Mark::Since { key: None, time: ahead },
            Mark::Since { key: Some("vipd.".into()), time: ahead },
            Mark::Seen { key: "vipd.".into(), time: ahead, mac: [7; 16], code: 0 },
        ];
        // Set right while it runs, and before the next start.
        let (mut running, mut restarted) = (Replay::default(), Replay::default());
        assert!(!running.restore(marks.clone(), ahead), "nothing was late then");
        assert!(running.restore([], right), "the clock was set back");
        assert!(restarted.restore(marks, right));
        let fudge = u64::from(FUDGE);
        for replay in [&mut running, &mut restarted] {
            assert!(matches!(replay.look(&signed(&key, right - 1, b"copy"), right), Seen::TooOld(_)));
            let (behind, now) = (signed(&key, right + fudge + 1, b"behind"), right + 2 * fudge);
            assert_eq!(replay.look(&behind, now), Seen::New);
            // The next start does not begin again with it.
            let mut next = Replay::default();
            assert!(!next.restore(replay.marks(now), now));
            assert_eq!(next.look(&behind, now), Seen::New);
            assert_eq!(
                next.look(&signed(&key, ahead, &[7; 16]), now),
                Seen::Before(0),
                "nor is it forgotten"
            );
        }
    }

    /// As many updates as are remembered came while the clock was ahead.
    #[test]
    fn a_memory_full_of_times_to_come_leaves_room_for_now() {
        let key = Arc::new(key(vec![]));
        let (ahead, right) = (20_000, 10_000);
        let mut replay = Replay::default();
        for i in 0..MEMORY + 10 {
            let time = ahead + u64::try_from(i / 1000).unwrap();
            replay.remember(&signed(&key, time, &i.to_be_bytes()), Some(0), time);
        }
        let fudge = u64::from(FUDGE);
        let mut again = Replay::default();
        again.restore(replay.marks(right), right);
        for replay in [&mut replay, &mut again] {
            // Up to the fudge what was forgotten then may be a copy.
            replay.look(&signed(&key, right, b"early"), right);
            let now = right + fudge + 1;
            let one = |i: u8| signed(&key, now, &[i; 16]);
            for i in 0..100 {
                assert_eq!(replay.look(&one(i), now), Seen::New, "{i}");
                replay.remember(&one(i), Some(0), now);
            }
            assert!((0..100).all(|i| replay.look(&one(i), now) == Seen::Before(0)), "all are remembered");
            let copy = signed(&key, ahead + 65, &(MEMORY - 1).to_be_bytes());
            assert_eq!(replay.look(&copy, now), Seen::Before(0), "and what is yet to come");
            assert!(replay.keys["vipd."].times.len() <= 2 * MEMORY);
        }
    }

    /// The clock jumps ahead, and what was seen is too old; then it is set right.
    #[test]
    fn a_clock_that_jumps_lets_no_copy_in() {
        let key = Arc::new(key(vec![]));
        let first = signed(&key, 1000, b"first");
        let mut replay = Replay::default();
        replay.remember(&first, Some(0), 1000);
        let other = signed(&key, 20_000, b"other");
        assert_eq!(replay.look(&other, 20_000), Seen::New);
        let mut again = Replay::default();
        again.restore(replay.marks(20_000), 20_000);
        for replay in [&mut replay, &mut again] {
            assert!(matches!(replay.look(&first, 1001), Seen::TooOld(_)));
            assert_eq!(replay.look(&signed(&key, 1001, b"next"), 1001), Seen::New);
        }
    }
}
