//! Each number once: what is left of a replay.

/// How far a message may be overtaken by others; networks seldom reorder more than a few.
const WIDTH: u64 = 128;

/// Remembers the newest number and which of the [`WIDTH`] before it were seen
/// (RFC 4303 section 3.4.3 describes the same).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// One more than the newest number; zero before any.
    next: u64,
    /// Bit `n` stands for the number `next - 1 - n`.
    seen: u128,
}

impl Window {
    /// Whether a number is new, without noting it.
    pub(super) const fn is_new(&self, number: u64) -> bool {
        if number >= self.next {
            return true;
        }
        let age = self.next - 1 - number;
        age < WIDTH && self.seen & (1 << age) == 0
    }

    /// Notes a number; false if it was seen or is too old to tell.
    pub(super) const fn note(&mut self, number: u64) -> bool {
        if !self.is_new(number) || number == u64::MAX {
            return false;
        }
        if number >= self.next {
            let ahead = number - self.next + 1;
            self.seen = if ahead < WIDTH { self.seen << ahead } else { 0 };
            self.next = number + 1;
        }
        self.seen |= 1 << (self.next - 1 - number);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_number_once_and_none_too_old() {
        let mut window = Window::default();
        assert!(window.note(0) && !window.note(0));
        assert!(window.note(200));
        assert!(window.note(73) && !window.note(73), "127 before the newest");
        assert!(!window.note(72), "128 before the newest");
        assert!(window.note(199) && window.note(201) && !window.note(199));
        assert!(!window.note(u64::MAX), "no number follows it");
        assert!(window.note(u64::MAX - 1) && !window.note(u64::MAX - 1));
    }

    proptest! {
        #[test]
        fn as_a_set_does(numbers in proptest::collection::vec(0_u64..400, 1..500)) {
            let (mut window, mut seen, mut newest) = (Window::default(), BTreeSet::new(), 0);
            for number in numbers {
                let expected = number + WIDTH > newest && seen.insert(number);
                prop_assert_eq!(window.note(number), expected, "{}", number);
                newest = newest.max(number);
            }
        }
    }
}
