//! Warnings that sessions cause, and that would come by the thousand.

use std::sync::atomic::{AtomicU64, Ordering};

/// Between two of the same warning.
const TELL_AFTER: u64 = 60_000_000_000;

/// Lets one of many warnings through, once a minute.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    /// When the log was last told, in nanoseconds.
    told: AtomicU64,
}

impl Seldom {
    /// Whether it is this caller's turn to tell.
    pub(crate) fn due(&self, now: u64) -> bool {
        let told = self.told.load(Ordering::Relaxed);
        let due = told == 0 || now.saturating_sub(told) >= TELL_AFTER;
        due && self.told.compare_exchange(told, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_is_told_each_minute() {
        let seldom = Seldom::default();
        let due: Vec<u64> = (0..120).filter(|s| seldom.due(s * 1_000_000_000)).collect();
        assert_eq!(due, [0, 61]);
    }
}
