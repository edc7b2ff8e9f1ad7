//! What the workers and the handle have in common.

use crate::load::{Load, PoolLoads};
use crate::stats::{ListenerStats, ServerStats, Tally};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use vipd_core::pool::{Loads, Pools, ServerKey};

/// Everything that workers look at.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) view: ArcSwap<View>,
    /// Sessions of all listeners.
    pub(crate) sessions: AtomicU32,
    /// Set while somebody waits for the last session to end.
    pub(crate) draining: AtomicBool,
    /// Notified at the end of each session while `draining`.
    pub(crate) ended: Notify,
}

/// Pools, and what positions in them stand for: swapped as one, so that no
/// session ever reads a position of one configuration in the list of another.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) pools: Arc<Pools>,
    /// By pool and server.
    pub(crate) servers: Vec<Vec<Arc<ServerTally>>>,
    /// By pool: the sessions of those servers, where a pick reads them fast.
    pub(crate) loads: Vec<PoolLoads>,
    /// By [`ListenerShared::slot`].
    pub(crate) routes: Vec<Option<Route>>,
}

/// What a listener's sessions are to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) pool: usize,
    pub(crate) idle: Option<Duration>,
}

impl View {
    pub(crate) fn route(&self, slot: usize) -> Option<Route> {
        self.routes.get(slot).copied().flatten()
    }

    pub(crate) fn server(&self, key: ServerKey) -> Option<&Arc<ServerTally>> {
        self.servers.get(key.pool)?.get(key.server)
    }
}

impl Loads for View {
    fn load(&self, key: ServerKey) -> u32 {
        self.loads.get(key.pool).map_or(0, |pool| pool.load(key.server))
    }

    fn changes(&self, pool: usize, block: usize) -> Option<u64> {
        self.loads.get(pool)?.changes(block)
    }
}

/// One server's numbers, which outlive a change of its position.
#[derive(Debug)]
pub(crate) struct ServerTally {
    pub(crate) pool: String,
    pub(crate) name: String,
    pub(crate) sessions: Load,
    pub(crate) total: AtomicU64,
    pub(crate) connect_errors: AtomicU64,
}

impl ServerTally {
    pub(crate) fn new(pool: &str, name: &str, sessions: Load) -> Self {
        Self {
            pool: pool.to_owned(),
            name: name.to_owned(),
            sessions,
            total: AtomicU64::new(0),
            connect_errors: AtomicU64::new(0),
        }
    }

    /// A place on the server, unless it has `limit` sessions already: workers
    /// that picked it at the same time must not overfill it.
    pub(crate) fn acquire(self: &Arc<Self>, limit: Option<u32>) -> Option<Place> {
        self.sessions.take(limit.unwrap_or(u32::MAX)).then(|| Place(Arc::clone(self)))
    }

    pub(crate) fn stats(&self) -> ServerStats {
        ServerStats {
            pool: self.pool.clone(),
            server: self.name.clone(),
            sessions: self.sessions.get(),
            total: self.total.load(Ordering::Relaxed),
            connect_errors: self.connect_errors.load(Ordering::Relaxed),
        }
    }
}

/// Counts one more, if there are fewer than `limit`. The count never goes above
/// it, not even for a moment: another worker would take the listener for full,
/// and wait for an end that nobody tells it of.
pub(crate) fn take(count: &AtomicU32, limit: u32) -> bool {
    let more = |n: u32| (n < limit).then_some(n + 1);
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
}

/// A session's place on a server, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<ServerTally>);

impl Place {
    pub(crate) fn server(&self) -> &Arc<ServerTally> {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.sessions.leave();
    }
}

/// A listener, as all workers share it.
#[derive(Debug)]
pub(crate) struct ListenerShared {
    pub(crate) name: String,
    /// Its position in [`View::routes`], for as long as the process lives.
    pub(crate) slot: usize,
    max: AtomicU32,
    sessions: AtomicU32,
    /// Notified when a session ended or the limit was raised.
    freed: Notify,
    /// By worker.
    pub(crate) tallies: Vec<Tally>,
}

impl ListenerShared {
    pub(crate) fn new(name: &str, slot: usize, max: u32, workers: usize) -> Self {
        Self {
            name: name.to_owned(),
            slot,
            max: AtomicU32::new(max),
            sessions: AtomicU32::new(0),
            freed: Notify::new(),
            tallies: (0..workers).map(|_| Tally::default()).collect(),
        }
    }

    pub(crate) fn sessions(&self) -> u32 {
        self.sessions.load(Ordering::SeqCst)
    }

    pub(crate) fn set_max(&self, max: u32) {
        self.max.store(max, Ordering::SeqCst);
        self.freed.notify_waiters();
    }

    /// Room for one more session, or `None` at `max-connections`.
    pub(crate) fn try_admit(self: &Arc<Self>, shared: &Arc<Shared>) -> Option<Admission> {
        if !take(&self.sessions, self.max.load(Ordering::SeqCst)) {
            return None;
        }
        shared.sessions.fetch_add(1, Ordering::SeqCst);
        Some(Admission { listener: Arc::clone(self), shared: Arc::clone(shared) })
    }

    /// Resolves while there is room.
    pub(crate) async fn room(&self) {
        self.when(|| (self.sessions() < self.max.load(Ordering::SeqCst)).then_some(())).await;
    }

    /// Room for one more session; at `max-connections` that of the next that ends.
    pub(crate) async fn admit(self: &Arc<Self>, shared: &Arc<Shared>) -> Admission {
        self.when(|| self.try_admit(shared)).await
    }

    /// Asks until there is an answer, anew whenever there may be room.
    async fn when<T>(&self, answer: impl Fn() -> Option<T>) -> T {
        loop {
            if let Some(answer) = answer() {
                return answer;
            }
            // Listen first, look again then: an end in between is not missed.
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(answer) = answer() {
                return answer;
            }
            freed.await;
        }
    }

    pub(crate) fn stats(&self) -> ListenerStats {
        let sum = |of: fn(&Tally) -> u64| self.tallies.iter().map(of).fold(0, u64::wrapping_add);
        let mut closed = [0; crate::stats::CAUSES];
        for (i, sum) in closed.iter_mut().enumerate() {
            *sum = self.tallies.iter().map(|t| t.closed[i].get()).sum();
        }
        ListenerStats {
            name: self.name.clone(),
            addresses: vec![],
            sessions: self.sessions(),
            total: sum(|t| t.total.get()),
            bytes_in: sum(|t| t.bytes_in.get()),
            bytes_out: sum(|t| t.bytes_out.get()),
            closed,
            accept_errors: sum(|t| t.accept_errors.get()),
        }
    }
}

/// A session's room on its listener, given back when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    listener: Arc<ListenerShared>,
    shared: Arc<Shared>,
}

impl Admission {
    pub(crate) fn listener(&self) -> &Arc<ListenerShared> {
        &self.listener
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        // Whoever waits does so because it saw the listener full.
        let before = self.listener.sessions.fetch_sub(1, Ordering::SeqCst);
        if before >= self.listener.max.load(Ordering::SeqCst) {
            self.listener.freed.notify_waiters();
        }
        self.shared.sessions.fetch_sub(1, Ordering::SeqCst);
        if self.shared.draining.load(Ordering::SeqCst) {
            self.shared.ended.notify_waiters();
        }
    }
}
