//! What the workers and the handle have in common.

use crate::bind::Tcp;
use crate::load::Load;
use crate::name::Name;
use crate::patience::Limits;
use crate::queue::Queue;
use crate::rate::Rate;
use crate::registry::Traffic;
use crate::seldom::Seldom;
use crate::sources::{Source, Sources};
use crate::stats::{CAUSES, CloseCause, ListenerStats, PoolStats, ServerStats, Tally};
use crate::{Met, Outcome, descriptors};
use arc_swap::ArcSwap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::{Notify, mpsc};
use vipd_core::pool::{Changes, Loads, Pools, ServerKey};
use vipd_core::settings::{Cidr, Listener};

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
    began: Instant,
    /// For tests, instead of the time since then: what the clock shows, and how
    /// far it goes on whenever somebody reads it.
    #[cfg(test)]
    pub(crate) clock: Option<(AtomicU64, u64)>,
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
            began: Instant::now(),
            #[cfg(test)]
            clock: None,
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
    failed_in_a_row: AtomicU32,
    /// One that failed was told, and no good one since.
    owes_good: AtomicBool,
    usable: AtomicBool,
    /// When a failed connection was last told.
    told: AtomicU64,
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

/// Counts one more, if there are fewer than `limit`. The count never goes above
/// it, not even for a moment: another worker would take the listener for full,
/// and wait for an end that nobody tells it of.
pub(crate) fn take(count: &AtomicU32, limit: u32) -> bool {
    let more = |n: u32| (n < limit).then_some(n + 1);
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
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

/// A listener, as all workers share it.
#[derive(Debug)]
pub(crate) struct ListenerShared {
    /// The name of the listener at its address.
    name: Name,
    /// Its position in [`View::routes`], for as long as the process lives.
    pub(crate) slot: usize,
    max: AtomicU32,
    sessions: AtomicU32,
    /// Notified when a session ended or the limit was raised.
    freed: Notify,
    pub(crate) sources: Sources,
    /// Networks of proxies whose connections begin with a PROXY protocol header.
    proxies: ArcSwap<Vec<Cidr>>,
    access_log: AtomicBool,
    /// By worker.
    pub(crate) tallies: Vec<Tally>,
}

impl ListenerShared {
    pub(crate) fn new(name: &str, slot: usize, max: u32, workers: usize) -> Self {
        Self {
            name: Name::new(name),
            slot,
            max: AtomicU32::new(max),
            sessions: AtomicU32::new(0),
            freed: Notify::new(),
            sources: Sources::new(),
            proxies: ArcSwap::default(),
            access_log: AtomicBool::new(false),
            tallies: (0..workers).map(|_| Tally::default()).collect(),
        }
    }

    pub(crate) fn name(&self) -> Arc<String> {
        self.name.get()
    }

    pub(crate) fn sessions(&self) -> u32 {
        self.sessions.load(Ordering::SeqCst)
    }

    /// Takes settings, but for those that are in its [`Route`] or its sockets'.
    pub(crate) fn follow(&self, settings: &Listener) {
        self.name.set(&settings.name);
        self.sources.set(settings.max_per_source, settings.max_rate_per_source);
        self.proxies.store(Arc::new(settings.accept_proxy.clone()));
        self.access_log.store(settings.access_log, Ordering::Relaxed);
        self.max.store(settings.max_connections, Ordering::SeqCst);
        self.freed.notify_waiters();
    }

    /// Whether connections from here begin with a PROXY protocol header.
    pub(crate) fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxies.load().iter().any(|network| network.contains(peer))
    }

    pub(crate) fn logs_access(&self) -> bool {
        self.access_log.load(Ordering::Relaxed)
    }

    /// Room for one more session, or `None` at `max-connections`.
    pub(crate) fn try_admit(self: &Arc<Self>, shared: &Arc<Shared>) -> Option<Admission> {
        if !take(&self.sessions, self.max.load(Ordering::SeqCst)) {
            return None;
        }
        shared.sessions.fetch_add(1, Ordering::SeqCst);
        Some(Admission { listener: Arc::clone(self), shared: Arc::clone(shared), source: None })
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
        let mut closed = [0; CAUSES];
        for (i, sum) in closed.iter_mut().enumerate() {
            *sum = self.tallies.iter().map(|t| t.closed[i].get()).sum();
        }
        ListenerStats {
            name: self.name().to_string(),
            addresses: vec![],
            sessions: self.sessions(),
            total: sum(|t| t.total.get()),
            bytes_in: sum(|t| t.bytes_in.get()),
            bytes_out: sum(|t| t.bytes_out.get()),
            closed,
            accept_errors: sum(|t| t.accept_errors.get()),
            sources: self.sources.len(),
        }
    }
}

/// A session's room on its listener, given back when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    listener: Arc<ListenerShared>,
    shared: Arc<Shared>,
    /// Where its client is counted, if it is.
    source: Option<Source>,
}

impl Admission {
    pub(crate) fn listener(&self) -> &Arc<ListenerShared> {
        &self.listener
    }

    /// Counts the session as one of this client's, or tells why it may have none.
    pub(crate) fn count(&mut self, client: IpAddr) -> Result<(), CloseCause> {
        if self.listener.sources.limited() {
            self.source = self.listener.sources.enter(client, self.shared.now())?;
        }
        Ok(())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(source) = self.source {
            self.listener.sources.leave(source, self.shared.now());
        }
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
