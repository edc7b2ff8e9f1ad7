//! Servers and pools, as all workers share them.

use super::{Shared, take};
use crate::load::Load;
use crate::name::Name;
use crate::queue::Queue;
use crate::rate::Rate;
use crate::registry::Traffic;
use crate::stats::{CAUSES, CloseCause, PoolStats, ServerStats};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use vipd_core::pool::Changes;

/// One pool's numbers, which outlive a change of its position.
#[derive(Debug)]
pub(crate) struct PoolTally {
    pub(crate) name: String,
    pub(crate) queue: Arc<Queue>,
    /// Which of its servers' sessions changed last.
    pub(crate) changes: Arc<Changes>,
    /// Its sessions on servers of its fallbacks.
    fallback: AtomicU32,
}

impl PoolTally {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            queue: Arc::default(),
            changes: Arc::default(),
            fallback: AtomicU32::new(0),
        }
    }

    /// Room for one more session on a server of a fallback.
    pub(crate) fn borrow(self: &Arc<Self>, limit: Option<u32>) -> Option<Borrowed> {
        take(&self.fallback, limit.unwrap_or(u32::MAX)).then(|| Borrowed(Arc::clone(self)))
    }

    pub(crate) fn stats(&self) -> PoolStats {
        PoolStats {
            pool: self.name.clone(),
            queued: self.queue.waiting(),
            queued_total: self.queue.total(),
            queue_timeouts: self.queue.timeouts.load(Ordering::Relaxed),
            queue_full: self.queue.refused(),
            fallback_sessions: self.fallback.load(Ordering::Relaxed),
        }
    }
}

/// A session's place among those of its pool on other pools' servers, given
/// back when dropped. Those that wait are told when its [`Place`] is given back.
#[derive(Debug)]
pub(crate) struct Borrowed(Arc<PoolTally>);

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.0.fallback.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One server's numbers, which outlive a change of its position.
#[derive(Debug)]
pub(crate) struct ServerTally {
    pub(crate) pool: String,
    /// The name of the server at its place.
    name: Name,
    pub(crate) sessions: Load,
    pub(crate) rate: Rate,
    pub(crate) total: AtomicU64,
    pub(crate) connect_errors: AtomicU64,
    pub(crate) resets: AtomicU64,
    /// Of sessions that ended, as are the next two.
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    closed: [AtomicU64; CAUSES],
    /// Connections that failed since the last good one, or since it became usable.
    pub(super) failed_in_a_row: AtomicU32,
    /// One that failed was told, and no good one since.
    pub(super) owes_good: AtomicBool,
    usable: AtomicBool,
    /// When a failed connection was last told.
    pub(super) told: AtomicU64,
}

impl ServerTally {
    pub(crate) fn new(pool: &PoolTally, name: &str) -> Self {
        Self {
            pool: pool.name.clone(),
            name: Name::new(name),
            sessions: Load::new(Arc::clone(&pool.changes)),
            rate: Rate::default(),
            total: AtomicU64::new(0),
            connect_errors: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            closed: Default::default(),
            failed_in_a_row: AtomicU32::new(0),
            owes_good: AtomicBool::new(false),
            usable: AtomicBool::new(false),
            told: AtomicU64::new(0),
        }
    }

    pub(crate) fn name(&self) -> Arc<String> {
        self.name.get()
    }

    /// Gives it the name that its server has now.
    pub(crate) fn call(&self, name: &str) {
        self.name.set(name);
    }

    /// A session on it has ended. Counted only then, since workers share this:
    /// what is counted at each wake-up is the listener's, by worker.
    pub(crate) fn ended(&self, cause: CloseCause, traffic: Traffic) {
        self.closed[cause as usize].fetch_add(1, Ordering::Relaxed);
        self.bytes_in.fetch_add(traffic.bytes_in, Ordering::Relaxed);
        self.bytes_out.fetch_add(traffic.bytes_out, Ordering::Relaxed);
    }

    /// Whether it takes new connections. What clients met before it did says
    /// nothing of what they will meet.
    pub(crate) fn set_usable(&self, usable: bool) {
        if !self.usable.swap(usable, Ordering::Relaxed) && usable {
            self.failed_in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// A place on the server, unless it has `limit` sessions already, or as many
    /// as its own limit allows: workers that picked it at the same time must not
    /// overfill it.
    pub(crate) fn acquire(
        self: &Arc<Self>,
        limit: Option<u32>,
        borrowed: Option<Borrowed>,
        shared: &Arc<Shared>,
    ) -> Option<Place> {
        if !self.sessions.take(limit.unwrap_or(u32::MAX)) {
            // Somebody may have seen what is given back here as taken.
            if let Some(borrowed) = borrowed {
                let asked = Arc::clone(&borrowed.0);
                drop(borrowed);
                shared.freed(&asked.name);
            }
            return None;
        }
        Some(Place { server: Arc::clone(self), borrowed, shared: Arc::clone(shared) })
    }

    pub(crate) fn stats(&self, now: u64) -> ServerStats {
        ServerStats {
            pool: self.pool.clone(),
            server: self.name().to_string(),
            sessions: self.sessions.get(),
            total: self.total.load(Ordering::Relaxed),
            connect_errors: self.connect_errors.load(Ordering::Relaxed),
            resets: self.resets.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            closed: std::array::from_fn(|i| self.closed[i].load(Ordering::Relaxed)),
            room: self.sessions.room(),
            rate_used_up: self.rate.wait(now) > 0,
            former: 0,
        }
    }
}

/// A session's place on a server, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    server: Arc<ServerTally>,
    borrowed: Option<Borrowed>,
    shared: Arc<Shared>,
}

impl Place {
    pub(crate) fn server(&self) -> &Arc<ServerTally> {
        &self.server
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Whoever waits in the pool that borrowed it: after a reload that one may
        // have another fallback, and not draw on this server's pool any more.
        let asked = self.borrowed.take().map(|borrowed| Arc::clone(&borrowed.0));
        self.server.sessions.leave();
        self.shared.freed(&self.server.pool);
        if let Some(asked) = asked {
            self.shared.freed(&asked.name);
        }
    }
}
