//! The circuit breaker of a store: after a failure it lets nothing through for
//! a time that doubles with each failure that follows, so that a store in
//! trouble, or an account that is throttled, is not kept there by us.

use crate::error::Problem;
use std::time::Duration;
use tokio::time::Instant;

/// How long a store is left alone after failures.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// The pause after the first failure.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

/// Pure: time and chance are passed in.
#[derive(Debug)]
pub(crate) struct Breaker {
    pace: Pace,
    failures: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, failures: 0, open_until: None }
    }

    /// Whether a request may go out now. The one that may after a pause is the
    /// trial that closes the circuit, or opens it for longer.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Problem> {
        match self.open_until {
            Some(until) if now < until => Err(Problem::Paused { wait: until - now, failures: self.failures }),
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn open_until(&self) -> Option<Instant> {
        self.open_until
    }

    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        self.open_until = None;
    }

    /// Opens the circuit. `jitter` is a random number: it takes away up to half
    /// of the pause, so that nodes do not come back all at once.
    pub(crate) fn failed(&mut self, now: Instant, jitter: u16) {
        let doubled = self.pace.first.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        let pause = doubled.min(self.pace.longest);
        self.failures = self.failures.saturating_add(1);
        self.open_until = Some(now + pause - pause / 2 * u32::from(jitter) / (u32::from(u16::MAX) + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { first: Duration::from_millis(100), longest: Duration::from_secs(5) };

    #[test]
    fn pauses_double_up_to_the_longest_and_end_with_a_success() {
        let now = Instant::now();
        let mut breaker = Breaker::new(PACE);
        breaker.admit(now).unwrap();
        for expected in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            breaker.failed(now, 0);
            let end = now + Duration::from_millis(expected);
            assert_eq!(breaker.open_until(), Some(end));
            assert!(breaker.admit(end - Duration::from_nanos(1)).is_err());
            breaker.admit(end).unwrap();
        }
        for _ in 0..100 {
            breaker.failed(now, 0);
        }
        assert_eq!(breaker.open_until(), Some(now + PACE.longest));
        breaker.succeeded();
        breaker.admit(now).unwrap();
        breaker.failed(now, 0);
        assert_eq!(breaker.open_until(), Some(now + PACE.first));
    }

    #[test]
    fn jitter_takes_away_half_at_most() {
        let now = Instant::now();
        let mut breaker = Breaker::new(PACE);
        breaker.failed(now, u16::MAX);
        let until = breaker.open_until().unwrap();
        assert!(
            until > now + Duration::from_millis(49) && until < now + Duration::from_millis(51),
            "{until:?}"
        );
    }
}
