//! Clients that measure what an outage costs. They run as threads of the test
//! inside a host's network namespace, so that their times and the test's are
//! of one clock.

pub mod answers;
pub mod connect;
pub mod dns;
pub mod echo;
pub mod named;
pub mod sql;

pub use answers::{Answer, Answers, Gap};
pub use connect::ConnectProbe;
pub use dns::{DnsProbe, Resolver};
pub use echo::EchoProbe;
pub use sql::SqlClient;

use nix::sys::time::TimeSpec;
use std::time::{Duration, Instant};

/// Time left until `deadline`, for ppoll(2).
fn left(deadline: Instant) -> TimeSpec {
    TimeSpec::from_duration(deadline.saturating_duration_since(Instant::now()))
}

/// Microseconds, for people and for JSON.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A duration in milliseconds with as many digits as say something.
#[must_use]
pub fn millis_text(duration: Duration) -> String {
    let us = micros(duration);
    match us {
        0..10_000 => format!("{}.{:02} ms", us / 1000, us % 1000 / 10),
        10_000..100_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        _ => format!("{} ms", us / 1000),
    }
}
