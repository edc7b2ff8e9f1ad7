//! Clocks that run at their own speed.

use vipd_core::time::Time;

const MILLION: u128 = 1_000_000;
/// The bound that the quorum lease is padded for: a tenth.
pub const DRIFT_MAX: u64 = 100_000;

/// A host's clock: so many millionths of the true time, and an offset.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Clock {
    speed: u64,
    offset: u64,
}

impl Clock {
    /// A clock that is right.
    pub const TRUE: Self = Self { speed: 1_000_000, offset: 0 };

    /// A clock that runs `speed` millionths as fast as time does.
    #[must_use]
    pub const fn new(speed: u64, offset: u64) -> Self {
        Self { speed, offset }
    }

    /// What it shows.
    #[must_use]
    pub fn show(self, now: Time) -> Time {
        let own = u128::from(now.as_nanos()) * u128::from(self.speed) / MILLION + u128::from(self.offset);
        Time::from_nanos(u64::try_from(own).unwrap_or(u64::MAX))
    }

    /// The first moment at which it shows this or more.
    #[must_use]
    pub fn when(self, shown: Time) -> Time {
        let own = u128::from(shown.as_nanos().saturating_sub(self.offset));
        let true_time = (own * MILLION).div_ceil(u128::from(self.speed));
        Time::from_nanos(u64::try_from(true_time).unwrap_or(u64::MAX))
    }
}
