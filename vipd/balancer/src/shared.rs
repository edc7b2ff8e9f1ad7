//! What the workers and the handle have in common.

mod listener;
mod server;

use crate::bind::Tcp;
use crate::patience::Limits;
use crate::seldom::Seldom;
use crate::{Met, Outcome, descriptors};
use arc_swap::ArcSwap;
pub(crate) use listener::{Admission, ListenerShared};
pub(crate) use server::{Place, PoolTally, ServerTally};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;
use tokio::sync::{Notify, mpsc};
use vipd_core::pool::{Changes, Loads, Pools, ServerKey};

/// Between two failed connections of one server that are told. Health counts
/// one for each check, and whoever listens has elections to hold.
const TELL_AFTER: u64 = 100_000_000;

/// An address is gone this long after its sessions were closed, or it stays.
const LEAVES_WITHIN: u64 = 1_000_000_000;

/// Everything that workers look at.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) view: ArcSwap<View>,
    /// Sessions of all listeners.
    pub(crate) sessions: AtomicU32,
    /// Clients in the queues of all pools.
    pub(crate) waiting: Arc<AtomicU32>,
    pub(crate) descriptors: Arc<descriptors::Reserve>,
    pub(crate) met: mpsc::Sender<Met>,
    /// Addresses that go: until when nobody gets a session on them.
    leaving: ArcSwap<Vec<(IpAddr, u64)>>,
    /// Of pools whose `source` is no address of this host.
    pub(crate) no_source: Seldom,
    /// Of servers to which this host has no way.
    pub(crate) no_way: Seldom,
    /// Set while somebody waits for the last session to end.
    pub(crate) draining: AtomicBool,
    /// Notified at the end of each session while `draining`.
    pub(crate) ended: Notify,
    /// Whether clients are told that their pool has no server: not before the
    /// servers' first checks.
    judged: AtomicBool,
    /// Notified when that changes, or the pools do.
    news: Notify,
    began: Instant,
    /// For tests, instead of the time since then: what the clock shows, and how
    /// far it goes on whenever somebody reads it.
    #[cfg(test)]
    pub(crate) clock: Option<(std::sync::atomic::AtomicU64, u64)>,
}

impl Shared {
    pub(crate) fn new(met: mpsc::Sender<Met>) -> Self {
        Self {
            view: ArcSwap::default(),
            sessions: AtomicU32::new(0),
            waiting: Arc::default(),
            descriptors: Arc::default(),
            met,
            leaving: ArcSwap::default(),
            no_source: Seldom::default(),
            no_way: Seldom::default(),
            draining: AtomicBool::new(false),
            ended: Notify::new(),
            judged: AtomicBool::new(true),
            news: Notify::new(),
            began: Instant::now(),
            #[cfg(test)]
            clock: None,
        }
    }

    /// Clients are told from now on that their pool has no server, or not yet.
    pub(crate) fn set_judged(&self, judged: bool) {
        self.judged.store(judged, Ordering::SeqCst);
        self.news.notify_waiters();
    }

    /// Puts pools in use.
    pub(crate) fn set_view(&self, view: View) {
        self.view.store(Arc::new(view));
        self.news.notify_waiters();
    }

    /// Resolves when clients of a listener may come.
    pub(crate) async fn opened(&self, slot: usize) {
        let is_open = || {
            let view = self.view.load();
            let serves = || view.route(slot).is_some_and(|route| view.pools.serves(route.pool));
            self.judged.load(Ordering::SeqCst) || serves()
        };
        while !is_open() {
            // Listen first, look again then: what comes in between is not missed.
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            if is_open() {
                return;
            }
            news.await;
        }
    }

    /// Gives nobody a session on these addresses, for as long as they may take to go.
    pub(crate) fn leave(&self, addresses: &[IpAddr]) {
        let now = self.now();
        self.leaving.rcu(|before| {
            let others = before.iter().filter(|(a, until)| *until > now && !addresses.contains(a)).copied();
            others
                .chain(addresses.iter().map(|a| (*a, now.saturating_add(LEAVES_WITHIN))))
                .collect::<Vec<_>>()
        });
    }

    /// Takes that back.
    pub(crate) fn stay(&self, addresses: impl FnOnce() -> Vec<IpAddr>) {
        if !self.leaving.load().is_empty() {
            let addresses = addresses();
            self.leaving.rcu(|before| {
                before.iter().filter(|(a, _)| !addresses.contains(a)).copied().collect::<Vec<_>>()
            });
        }
    }

    pub(crate) fn is_leaving(&self, address: IpAddr) -> bool {
        let leaving = self.leaving.load();
        !leaving.is_empty() && {
            let now = self.now();
            leaving.iter().any(|(a, until)| *a == address && now < *until)
        }
    }

    /// Nanoseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        #[cfg(test)]
        if let Some((shown, step)) = &self.clock {
            return shown.fetch_add(*step, Ordering::Relaxed);
        }
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A server of this pool can be had, perhaps: those that wait for it look again.
    pub(crate) fn freed(&self, pool: &str) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let view = self.view.load();
        for (asked, tally) in view.tallies.iter().enumerate() {
            let draws = |at: usize| view.tallies.get(at).is_some_and(|t| t.name == pool);
            if tally.queue.waiting() > 0 && view.chain(asked).any(draws) {
                tally.queue.call_first();
            }
        }
    }

    /// A connection to a server at this place failed. What does not fit is lost.
    pub(crate) fn failed(&self, server: &ServerTally, place: SocketAddr, reason: &dyn std::fmt::Display) {
        let in_a_row = server.failed_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let (now, told) = (self.now(), server.told.load(Ordering::Relaxed));
        if told != 0 && now.saturating_sub(told) < TELL_AFTER {
            return;
        }
        server.told.store(now.max(1), Ordering::Relaxed);
        if self.tell(server, place, Outcome::Failed { reason: reason.to_string(), in_a_row }) {
            server.owes_good.store(true, Ordering::Relaxed);
        }
    }

    /// A connection to a server at this place is good: somebody said something
    /// over it. What does not fit is told by the next.
    pub(crate) fn worked(&self, server: &ServerTally, place: SocketAddr) {
        // Mostly there is nothing to write, and the line stays shared.
        if server.failed_in_a_row.load(Ordering::Relaxed) != 0 {
            server.failed_in_a_row.store(0, Ordering::Relaxed);
        }
        if server.owes_good.load(Ordering::Relaxed) && self.tell(server, place, Outcome::Good) {
            server.owes_good.store(false, Ordering::Relaxed);
        }
    }

    /// False if it does not fit.
    fn tell(&self, server: &ServerTally, place: SocketAddr, outcome: Outcome) -> bool {
        let (pool, server) = (server.pool.clone(), server.name().to_string());
        self.met.try_send(Met { pool, server, place, outcome }).is_ok()
    }
}

/// Pools, and what positions in them stand for: swapped as one, so that no
/// session ever reads a position of one configuration in the list of another.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) pools: Arc<Pools>,
    /// By pool and server.
    pub(crate) servers: Vec<Vec<Arc<ServerTally>>>,
    /// By pool.
    pub(crate) tallies: Vec<Arc<PoolTally>>,
    /// By [`ListenerShared::slot`].
    pub(crate) routes: Vec<Option<Route>>,
    /// By pool: whether any of its servers has a connect rate.
    pub(crate) rated: Vec<bool>,
}

/// What a listener's sessions are to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) pool: usize,
    pub(crate) limits: Limits,
    pub(crate) tcp: Tcp,
}

impl View {
    pub(crate) fn route(&self, slot: usize) -> Option<Route> {
        self.routes.get(slot).copied().flatten()
    }

    pub(crate) fn server(&self, key: ServerKey) -> Option<&Arc<ServerTally>> {
        self.servers.get(key.pool)?.get(key.server)
    }

    /// How full servers are at this time.
    pub(crate) fn at(&self, now: u64) -> Now<'_> {
        Now { view: self, now }
    }

    /// Whether any server of the pool or its fallbacks has a connect rate.
    pub(crate) fn rated(&self, pool: usize) -> bool {
        self.chain(pool).any(|p| self.rated.get(p) == Some(&true))
    }

    /// A pool and its fallbacks. (Chains of checked settings have an end.)
    fn chain(&self, pool: usize) -> impl Iterator<Item = usize> {
        let pools = self.pools.pools();
        std::iter::successors(Some(pool), |p| pools.get(*p)?.settings().fallback).take(pools.len())
    }

    /// The time until a connect rate allows a connection to a server of the
    /// pool, and the time between two of them; `None` if no rate is in the way.
    pub(crate) fn next_token(&self, pool: usize, now: u64) -> Option<(u64, u64)> {
        let servers = self.chain(pool).filter_map(|p| self.servers.get(p)).flatten();
        servers.map(|s| (s.rate.wait(now), s.rate.interval())).filter(|(wait, _)| *wait > 0).min()
    }
}

/// A view at one time, which decides what connect rates allow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now<'a> {
    view: &'a View,
    now: u64,
}

impl Now<'_> {
    fn rated(&self, pool: usize) -> bool {
        self.view.rated.get(pool) == Some(&true)
    }
}

impl Loads for Now<'_> {
    /// A server's sessions; as many as can be if it takes no more now for
    /// another reason, so that [`Pools::pick`] takes it for full.
    fn load(&self, key: ServerKey) -> u32 {
        let Some(server) = self.view.server(key) else { return 0 };
        if self.rated(key.pool) && server.rate.wait(self.now) > 0 {
            return u32::MAX;
        }
        server.sessions.seen()
    }

    /// What time alone changes is not followed.
    fn changes(&self, pool: usize) -> Option<&Changes> {
        if self.rated(pool) { None } else { self.view.tallies.get(pool).map(|t| t.changes.as_ref()) }
    }
}

/// Counts one more, if there are fewer than `limit`. The count never goes above
/// it, not even for a moment: another worker would take the listener for full,
/// and wait for an end that nobody tells it of.
pub(crate) fn take(count: &AtomicU32, limit: u32) -> bool {
    let more = |n: u32| (n < limit).then_some(n + 1);
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use vipd_core::settings::Pool;

    #[test]
    fn a_loan_that_came_to_nothing_is_told_to_those_that_wait_for_it() {
        let shared = Arc::new(Shared::new(mpsc::channel(1).0));
        let (asked, drawn) = (Arc::new(PoolTally::new("asked")), Arc::new(PoolTally::new("drawn")));
        let server = Arc::new(ServerTally::new(&drawn, "db1"));
        // The pool draws on another one by now than the one that lent.
        let settings = [Pool::new("asked", vec![]), Pool::new("drawn", vec![])];
        let pools = Arc::new(Pools::new(1, &settings, &[]));
        let tallies = vec![Arc::clone(&asked), drawn];
        shared.view.store(Arc::new(View { pools, tallies, ..View::default() }));
        let borrowed = asked.borrow(Some(1));
        let ticket = asked.queue.join(1, &shared.waiting).expect("room");
        let called =
            || pin!(ticket.called()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(());
        assert!(called() && asked.borrow(Some(1)).is_none(), "it looks, and the loan is gone");
        assert!(server.acquire(Some(0), borrowed, &shared).is_none(), "the server is full");
        assert!(called() && asked.borrow(Some(1)).is_some());
    }
}
