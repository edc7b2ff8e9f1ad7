//! How many connections a second a server gets.

use std::sync::atomic::{AtomicU64, Ordering};

/// A token bucket that all workers draw from, kept as one number: the time
/// at which it will be full again (the generic cell rate algorithm, ITU-T
/// I.371). Times are nanoseconds of [`Shared::now`](crate::shared::Shared::now).
#[derive(Debug, Default)]
pub(crate) struct Rate {
    /// The time in which one token comes; 0 stands for no limit.
    interval: AtomicU64,
    full: AtomicU64,
}

impl Rate {
    /// `max` tokens a second.
    pub(crate) fn set(&self, max: Option<u32>) {
        let interval = max.map_or(0, |max| 1_000_000_000 / u64::from(max.max(1)));
        self.interval.store(interval, Ordering::Relaxed);
    }

    pub(crate) fn limited(&self) -> bool {
        self.interval.load(Ordering::Relaxed) != 0
    }

    /// The time in which one token comes.
    pub(crate) fn interval(&self) -> u64 {
        self.interval.load(Ordering::Relaxed)
    }

    /// What the bucket holds beyond the next token: those of a tenth of a
    /// second, and one at least, so that a waiter that comes a little late
    /// costs nothing.
    fn spare(interval: u64) -> u64 {
        interval.max(100_000_000)
    }

    /// The time until there is a token.
    pub(crate) fn wait(&self, now: u64) -> u64 {
        match self.interval() {
            0 => 0,
            interval => {
                self.full.load(Ordering::Relaxed).saturating_sub(Self::spare(interval)).saturating_sub(now)
            }
        }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&self, now: u64) -> bool {
        let interval = self.interval();
        let taken = |full: u64| {
            (full.saturating_sub(Self::spare(interval)) <= now)
                .then(|| full.max(now).saturating_add(interval))
        };
        interval == 0 || self.full.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn tokens_come_evenly_after_a_small_burst() {
        let rate = Rate::default();
        assert!(!rate.limited() && rate.take(0) && rate.wait(0) == 0);
        for (max, burst) in [(1, 2), (10, 2), (100, 11), (1000, 101)] {
            let rate = Rate::default();
            rate.set(Some(max));
            let mut now = 7 * SECOND;
            let mut taken = 0;
            while rate.take(now) {
                taken += 1;
            }
            assert_eq!(taken, burst, "at once, of {max} a second");
            let began = now;
            for _ in 0..max {
                let wait = rate.wait(now);
                assert!(wait > 0 && !rate.take(now + wait - 1));
                now += wait;
                assert!(rate.take(now));
            }
            assert_eq!(now - began, SECOND, "{max} a second");
            // Lateness is made up for.
            now += 2 * rate.interval();
            assert!(rate.take(now) && rate.take(now));
        }
    }
}
