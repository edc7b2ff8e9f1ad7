//! Which servers' loads changed last.

use std::sync::atomic::{AtomicU64, Ordering};

/// Changes that are remembered. Who has missed more reads all loads of the
/// pool, which for a thousand servers costs about as much as so many changes.
const REMEMBERED: u64 = 256;

/// The last changes of the loads of a pool, numbered from 0. Any number of
/// threads write and read at the same time, and none waits.
#[derive(Debug)]
pub struct Changes {
    count: AtomicU64,
    /// The server of each of the last changes, with the lower half of the
    /// change's number before it.
    last: Box<[AtomicU64]>,
}

impl Default for Changes {
    fn default() -> Self {
        // What was never written has a number that comes much later.
        let last = (0..REMEMBERED).map(|_| AtomicU64::new(u64::MAX)).collect();
        Self { count: AtomicU64::new(0), last }
    }
}

impl Changes {
    /// Notes that the load of the server at a position of the pool's list has
    /// changed. To be called after the change: so who does not see the change
    /// yet will see the note later. All notes and looks at them are in one order:
    /// who waits for a change and then looks does not miss it.
    pub fn note(&self, server: u32) {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        self.slot(number).store(number << 32 | u64::from(server), Ordering::Release);
    }

    /// How many there were so far.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// The server of a change. `None` if others came since in its place, or
    /// if it is counted, but not noted yet.
    pub(super) fn get(&self, number: u64) -> Option<usize> {
        let noted = self.slot(number).load(Ordering::Acquire);
        (noted >> 32 == number & u64::from(u32::MAX)).then_some((noted & u64::from(u32::MAX)) as usize)
    }

    fn slot(&self, number: u64) -> &AtomicU64 {
        &self.last[(number % REMEMBERED) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_changes_are_remembered() {
        let changes = Changes::default();
        assert_eq!((changes.count(), changes.get(0)), (0, None));
        (0..REMEMBERED as u32 + 2).for_each(|server| changes.note(server));
        assert_eq!(changes.count(), REMEMBERED + 2);
        assert_eq!(changes.get(1), None, "forgotten");
        assert_eq!(changes.get(2), Some(2));
        assert_eq!(changes.get(REMEMBERED + 1), Some(REMEMBERED as usize + 1));
        assert_eq!(changes.get(REMEMBERED + 2), None, "not there yet");
    }
}
