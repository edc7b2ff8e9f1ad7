//! Descriptors: as many as the system gives, and some of them not for sessions.

use crate::seldom::Seldom;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// Descriptors that sessions leave to the rest of the daemon, beside two for
/// each server (its check, and a look-up of its name): sockets of the election
/// and the kernel, operators, the status page. Of a very low limit it is half.
const RESERVE: u64 = 128;

/// Raises this process's limit to the highest that it may give itself. The limit then.
///
/// # Errors
///
/// The system's word; nothing was changed then.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Keeps sessions from the last descriptors. The kernel always gives the
/// lowest that is free, so one near the limit says that nearly all are in use.
#[derive(Debug)]
pub(crate) struct Reserve {
    first: AtomicI32,
    refused: Seldom,
}

impl Default for Reserve {
    fn default() -> Self {
        Self { first: AtomicI32::new(RawFd::MAX), refused: Seldom::default() }
    }
}

impl Reserve {
    /// One of all descriptors from `first` on.
    #[cfg(test)]
    pub(crate) fn from_descriptor(first: RawFd) -> Self {
        Self { first: AtomicI32::new(first), ..Self::default() }
    }

    /// Follows the process's limit and the number of servers.
    pub(crate) fn follow(&self, servers: usize) {
        let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
        let reserve = RESERVE.saturating_add(2 * servers as u64).min(limit / 2);
        self.first.store(RawFd::try_from(limit - reserve).unwrap_or(RawFd::MAX), Ordering::Relaxed);
    }

    /// Whether a session's descriptor is one of those that it must leave.
    pub(crate) fn holds(&self, fd: &impl AsRawFd) -> bool {
        fd.as_raw_fd() >= self.first.load(Ordering::Relaxed)
    }

    /// A session was refused for want of resources: told once a minute.
    pub(crate) fn tell(&self, listener: &str, now: u64) {
        if self.refused.due(now) {
            let sessions_below = self.first.load(Ordering::Relaxed);
            tracing::warn!(
                listener,
                sessions_below,
                "sessions are refused: this process has no descriptors or memory left for them, or no ports to any \
                 server; raise LimitNOFILE= of its unit, or lower max-connections (for ports widen \
                 net.ipv4.ip_local_port_range)"
            );
        }
    }
}
