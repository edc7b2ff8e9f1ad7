//! The daemon's clock, and a timer exact to the microsecond: tokio's own
//! wakes on whole milliseconds, and on a clock that stands still in suspend.

use super::readable::Readable;
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use std::io;

use vipd_core::time::Time;

/// The present, on `CLOCK_BOOTTIME`.
///
/// # Panics
///
/// If the kernel has no `CLOCK_BOOTTIME`; Linux has it since 2.6.39.
#[must_use]
pub fn now() -> Time {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    #[allow(clippy::expect_used)]
    let now = now.expect("invariant: clock_gettime(CLOCK_BOOTTIME) cannot fail on Linux");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
    Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// One deadline at a time, on the clock of [`now`].
#[derive(Debug)]
pub struct Timer {
    fd: Readable<TimerFd>,
    armed: Option<Time>,
}

impl Timer {
    /// Makes a timer on the runtime of the caller.
    ///
    /// # Errors
    ///
    /// If the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
        Ok(Self { fd: Readable::new(timer)?, armed: None })
    }

    /// Waits until `deadline` has come; at once if it has. Dropping the future
    /// loses nothing, and waiting again for the same deadline costs no system call.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to arm the timer.
    pub async fn sleep_until(&mut self, deadline: Time) -> io::Result<()> {
        while now() < deadline {
            if self.armed != Some(deadline) {
                self.arm(deadline)?;
            }
            // A wake-up may be that of an earlier deadline: look at the clock again.
            self.fd.ready().await?.clear();
            if now() < deadline {
                self.armed = None;
            }
        }
        Ok(())
    }

    fn arm(&mut self, deadline: Time) -> io::Result<()> {
        let nanos = deadline.as_nanos();
        // Quotient and remainder by 10^9 fit: u64 nanoseconds are 1.8e10 seconds.
        let seconds = i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX);
        let rest = i64::try_from(nanos % 1_000_000_000).unwrap_or(0);
        let at = Expiration::OneShot(TimeSpec::new(seconds, rest));
        self.fd.get().set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        self.armed = Some(deadline);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn wakes_at_the_deadline_and_not_before() -> io::Result<()> {
        let mut timer = Timer::new()?;
        let mut late = Vec::new();
        for _ in 0..20 {
            let deadline = now() + Duration::from_micros(1_300);
            timer.sleep_until(deadline).await?;
            let woke = now();
            assert!(woke >= deadline);
            late.push(woke - deadline);
        }
        late.sort();
        eprintln!("timer late by: median {:?}, worst {:?}", late[10], late[19]);
        assert!(late[0] < Duration::from_millis(1), "never within a millisecond: {late:?}");
        Ok(())
    }

    #[tokio::test]
    async fn an_earlier_deadline_replaces_a_later_one() -> io::Result<()> {
        let mut timer = Timer::new()?;
        let start = now();
        let far = timer.sleep_until(start + Duration::from_secs(3600));
        assert!(tokio::time::timeout(Duration::from_millis(5), far).await.is_err());
        timer.sleep_until(start + Duration::from_millis(10)).await?;
        assert!(now() - start < Duration::from_secs(60));
        timer.sleep_until(start).await
    }
}
