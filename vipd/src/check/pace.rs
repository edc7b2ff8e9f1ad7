//! When a server is probed.
//!
//! ```text
//!  up, all is well            interval
//!  a verdict is changing      fast-interval    after a first failure or a first success
//!  down                       down-interval
//!  up or down, and asked for  at once          a connection to it has failed; but no probe
//!                                              comes sooner after another than fast-interval,
//!                                              or a second, if that is shorter
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
/// Probes that are asked for need not be further apart than this: one a second
/// costs a server little, and clients should not wait longer.
const ASKED_FOR: Duration = Duration::from_secs(1);
/// A check that keeps its connection makes a complete new login within this
/// time, and not before half of it; each wait is drawn, so that logins to many
/// servers spread. So long may a server let nobody in and look well, unless
/// clients tell sooner. HAProxy's checks log in each time, every 2 s; the
/// questions in between are what our checks are for, and cost far less.
const LOGIN_WITHIN: Duration = Duration::from_secs(10);
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
    /// When the next complete login is due.
    login_at: Instant,
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
            login_at: Instant::now(),
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
        self.varied(gap)
    }

    /// No two probes start closer to each other, even if asked for.
    pub(super) fn shortest(&mut self) -> Duration {
        self.varied(self.fast_interval.min(ASKED_FOR))
    }

    /// Whether the probe that starts now is to be a complete login; if so, the
    /// next one is arranged.
    pub(super) fn wants_login(&mut self, now: Instant) -> bool {
        if now < self.login_at {
            return false;
        }
        self.login_at = now + LOGIN_WITHIN * (500 + self.draw(501)) / 1000;
        true
    }

    fn varied(&mut self, gap: Duration) -> Duration {
        gap * (1000 - JITTER + self.draw(2 * JITTER + 1)) / 1000
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};
    use vipd_core::settings::{CheckKind, Host, Source, TcpCheck};

    fn pace(change: impl FnOnce(&mut Check)) -> Pace {
        let mut check = Check {
            interval: Duration::from_secs(4),
            fast_interval: Some(Duration::from_secs(1)),
            down_interval: Some(Duration::from_secs(9)),
            rise: 2,
            fall: 3,
            ..Check::new(CheckKind::Tcp(TcpCheck::default()))
        };
        change(&mut check);
        let host = Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let (pool, server) = ("a".into(), "db1".into());
        Pace::new(
            &check,
            &Endpoint {
                pool,
                server,
                host,
                found_at: None,
                port: 1,
                proxy: None,
                source: Source::Auto,
                from: None,
            },
        )
    }

    /// The gap without its jitter.
    fn seconds(pace: &mut Pace, now: Instant) -> u64 {
        let gap = pace.gap(now) + Duration::from_millis(499);
        gap.as_secs()
    }

    #[test]
    fn the_interval_follows_the_verdict() {
        let mut pace = pace(|_| {});
        let now = Instant::now();
        let script = [
            (false, 9), // the first result decides
            (true, 1),
            (false, 9),
            (true, 1),
            (true, 4), // rise
            (false, 1),
            (true, 4),
            (false, 1),
            (false, 1),
            (false, 9), // fall
            (false, 9),
        ];
        assert_eq!(seconds(&mut pace, now), 4, "before the first");
        for (step, (success, wanted)) in script.into_iter().enumerate() {
            pace.saw(success, now);
            assert_eq!(seconds(&mut pace, now), wanted, "step {step}");
        }
    }

    #[test]
    fn what_is_not_given_is_the_interval() {
        let mut pace = pace(|check| (check.fast_interval, check.down_interval) = (None, None));
        let now = Instant::now();
        for success in [true, false, false, false, true, true] {
            pace.saw(success, now);
            assert_eq!(seconds(&mut pace, now), 4);
        }
    }

    #[test]
    fn a_long_outage_is_probed_less_often_unless_an_interval_is_given() {
        let mut grows = pace(|check| (check.interval, check.down_interval) = (Duration::from_secs(1), None));
        let mut given = pace(|check| check.down_interval = Some(Duration::from_secs(1)));
        let start = Instant::now();
        for pace in [&mut grows, &mut given] {
            pace.saw(false, start);
        }
        for (outage, wanted) in [(0, 1), (30, 1), (60, 2), (120, 4), (150, 5), (100_000, 5)] {
            let now = start + Duration::from_secs(outage);
            grows.saw(false, now);
            assert_eq!(seconds(&mut grows, now), wanted, "after {outage} s");
            assert_eq!(seconds(&mut given, now), 1, "after {outage} s");
        }
        // It came back, for a moment: the outage begins anew.
        let now = start + Duration::from_secs(100_000);
        grows.saw(true, now);
        grows.saw(false, now);
        assert_eq!(seconds(&mut grows, now), 1);
    }

    #[test]
    fn whoever_is_asked_for_waits_a_second_at_most() {
        for (interval, fast, most) in [(4, Some(2_000), 1_000), (4, Some(200), 200), (60, None, 1_000)] {
            let mut pace = pace(|check| {
                check.interval = Duration::from_secs(interval);
                check.fast_interval = fast.map(Duration::from_millis);
            });
            let most = Duration::from_millis(most);
            let shortest = pace.shortest();
            assert!(shortest.abs_diff(most) <= most / 20, "{shortest:?} for {most:?}");
        }
    }

    /// Logins come in time, and those of many servers not together, though all
    /// began in the same moment.
    #[test]
    fn a_login_comes_in_time_and_alone() {
        let start = Instant::now();
        let logins = |mut pace: Pace| {
            let ticks = (0..100_000).map(|ms| start + Duration::from_millis(ms));
            ticks.filter(|now| pace.wants_login(*now)).collect::<Vec<_>>()
        };
        let mut seconds = [0; 20];
        for _ in 0..100 {
            let mut pace = pace(|_| {});
            pace.login_at = start;
            let logins = logins(pace);
            assert_eq!(logins.first(), Some(&start), "the first is one");
            for pair in logins.windows(2) {
                let gap = pair[1] - pair[0];
                assert!(gap >= LOGIN_WITHIN / 2 && gap <= LOGIN_WITHIN, "{gap:?}");
            }
            for second in logins.iter().skip(1).map(|at| (*at - start).as_secs()) {
                seconds[usize::try_from(second.min(19)).unwrap_or(0)] += 1;
            }
        }
        // The second ones fall into five seconds.
        assert!(seconds[5..10].iter().all(|n| (5..40).contains(n)), "{seconds:?}");
    }

    #[test]
    fn two_servers_do_not_march_in_step() {
        let (mut one, mut other) = (pace(|_| {}), pace(|_| {}));
        let now = Instant::now();
        let mut seen = Vec::new();
        for _ in 0..1_000 {
            assert!(one.first() < FIRST_WITHIN);
            let gaps = [one.gap(now), other.gap(now)];
            for gap in gaps {
                assert!(gap.abs_diff(Duration::from_secs(4)) <= Duration::from_millis(200), "{gap:?}");
            }
            seen.push(gaps);
        }
        let same = seen.iter().filter(|[a, b]| a == b).count();
        assert!(same < 50, "{same} of 1000 gaps are the same");
        let mean = seen.iter().map(|[gap, _]| *gap).sum::<Duration>() / 1_000;
        assert!(mean.abs_diff(Duration::from_secs(4)) < Duration::from_millis(20), "{mean:?}");
    }
}
