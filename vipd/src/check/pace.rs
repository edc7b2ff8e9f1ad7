//! When a server is probed.
//!
//! ```text
//!  up, all is well            interval
//!  a verdict is changing      fast-interval    after a first failure or a first success
//!  down                       down-interval
//!  up or down, and asked for  fast-interval    a connection to it has failed
//! ```
//!
//! Each is `interval` where the settings give none, save that a server which
//! has long been down is asked a little less often. All are varied by a few
//! per cent, so that many servers, and many proxies, do not march in step.

use super::Endpoint;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;
use tokio::time::Instant;
use vipd_core::settings::Check;

/// First probes are spread over the interval, but come within this time, so
/// that a long interval does not leave a server unknown for as long.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// An interval is longer or shorter by up to this much, in thousandths.
const JITTER: u32 = 50;
/// The wait for a server that is down grows with its outage, to this part of it ...
const PART_OF_OUTAGE: u32 = 30;
/// ... and no further than to this, so that its return is seen soon enough.
const LONGEST_GROWN: Duration = Duration::from_secs(5);

/// When the next probe comes.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    fast_interval: Duration,
    down_interval: Option<Duration>,
    rise: u32,
    fall: u32,
    verdict: Verdict,
    /// Seed of the jitter.
    random: u64,
}

/// What the results so far amount to, as `vipd_core::health` counts them.
#[derive(Debug)]
enum Verdict {
    Unknown,
    Up { failures: u32 },
    Down { successes: u32, since: Instant },
}

impl Pace {
    pub(super) fn new(check: &Check, endpoint: &Endpoint) -> Self {
        Self {
            interval: check.interval,
            fast_interval: check.fast_interval.unwrap_or(check.interval),
            down_interval: check.down_interval,
            rise: check.rise,
            fall: check.fall,
            verdict: Verdict::Unknown,
            // Differs from server to server, and from proxy to proxy.
            random: RandomState::new().hash_one(endpoint),
        }
    }

    /// The wait before the first probe.
    pub(super) fn first(&mut self) -> Duration {
        self.interval.min(FIRST_WITHIN) * self.draw(1000) / 1000
    }

    /// Takes in a result.
    pub(super) fn saw(&mut self, success: bool, now: Instant) {
        let down = Verdict::Down { successes: 0, since: now };
        self.verdict = match (&self.verdict, success) {
            (Verdict::Unknown | Verdict::Up { .. }, true) => Verdict::Up { failures: 0 },
            (Verdict::Unknown, false) => down,
            (Verdict::Up { failures }, false) if failures + 1 < self.fall => {
                Verdict::Up { failures: failures + 1 }
            }
            (Verdict::Up { .. }, false) => down,
            (Verdict::Down { successes, since }, true) if successes + 1 < self.rise => {
                Verdict::Down { successes: successes + 1, since: *since }
            }
            (Verdict::Down { .. }, true) => Verdict::Up { failures: 0 },
            (Verdict::Down { successes: 0, since }, false) => Verdict::Down { successes: 0, since: *since },
            (Verdict::Down { .. }, false) => down,
        };
    }

    /// The time from the turn of one probe to that of the next.
    pub(super) fn gap(&mut self, now: Instant) -> Duration {
        let gap = match self.verdict {
            Verdict::Unknown | Verdict::Up { failures: 0 } => self.interval,
            Verdict::Up { .. } | Verdict::Down { successes: 1.., .. } => self.fast_interval,
            Verdict::Down { successes: 0, since } => self.down_interval.unwrap_or_else(|| {
                let outage = now.saturating_duration_since(since);
                (outage / PART_OF_OUTAGE).min(LONGEST_GROWN).max(self.interval)
            }),
        };
        gap * (1000 - JITTER + self.draw(2 * JITTER + 1)) / 1000
    }

    /// No two probes start closer to each other, even if asked for.
    pub(super) fn shortest(&self) -> Duration {
        self.fast_interval
    }

    /// A number below `bound` (splitmix64: nothing here must be unpredictable).
    fn draw(&mut self, bound: u32) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % u64::from(bound.max(1))).unwrap_or(0)
    }
}
