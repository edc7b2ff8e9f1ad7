//! The sessions of servers, counted by all workers and followed by each pick.

use crate::shared;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vipd_core::pool::Changes;

/// Stands for no limit in [`Load::limit`].
const NO_LIMIT: u32 = u32::MAX;

/// The number of a server's sessions.
#[derive(Debug)]
pub(crate) struct Load {
    sessions: AtomicU32,
    /// Sessions that the server's own limit allows, as of the last word on that.
    limit: AtomicU32,
    /// Its position in the pool's list, in the newest view.
    position: AtomicU32,
    /// Of all servers of the pool.
    changes: Arc<Changes>,
}

impl Load {
    pub(crate) fn new(changes: Arc<Changes>) -> Self {
        let (sessions, limit, position) =
            (AtomicU32::new(0), AtomicU32::new(NO_LIMIT), AtomicU32::new(u32::MAX));
        Self { sessions, limit, position, changes }
    }

    /// The sessions now.
    pub(crate) fn get(&self) -> u32 {
        self.sessions.load(Ordering::SeqCst)
    }

    /// The sessions now, or `u32::MAX` if the server takes no more.
    pub(crate) fn seen(&self) -> u32 {
        let sessions = self.sessions.load(Ordering::Relaxed);
        if sessions < self.limit.load(Ordering::Relaxed) { sessions } else { u32::MAX }
    }

    /// Counts one more, if there are fewer than `limit` and than the server's
    /// own limit allows. The count never goes above it, not even for a moment.
    pub(crate) fn take(&self, limit: u32) -> bool {
        let taken = shared::take(&self.sessions, limit.min(self.limit.load(Ordering::SeqCst)));
        if taken {
            self.changed();
        }
        taken
    }

    /// Counts one less.
    pub(crate) fn leave(&self) {
        self.sessions.fetch_sub(1, Ordering::SeqCst);
        self.changed();
    }

    /// The server's own limit leaves this many sessions beside those it has
    /// now. One that ends makes room for another: a limit on how many there are
    /// at a time must not become one on how fast they come and go.
    pub(crate) fn set_room(&self, free: Option<u32>) {
        let limit = free.map_or(NO_LIMIT, |free| self.get().saturating_add(free).min(NO_LIMIT - 1));
        self.limit.store(limit, Ordering::SeqCst);
        self.changed();
    }

    /// What the server's own limit allows now, if there is one.
    pub(crate) fn room(&self) -> Option<u32> {
        let limit = self.limit.load(Ordering::SeqCst);
        (limit != NO_LIMIT).then(|| limit.saturating_sub(self.get()))
    }

    /// Tells the server's place in a view that is about to be used. A change
    /// that is noted by the old place was made before that, and whoever finds
    /// another list in the new view begins with reading all its loads.
    pub(crate) fn place(&self, position: u32) {
        self.position.store(position, Ordering::SeqCst);
    }

    fn changed(&self) {
        self.changes.note(self.position.load(Ordering::SeqCst));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::{Place, PoolTally, ServerTally, Shared, View};
    use std::collections::BTreeSet;
    use std::net::IpAddr;
    use std::sync::Barrier;
    use vipd_core::pool::{Connection, PickState, Pools, ServerKey, ServerState};
    use vipd_core::settings::{Balance, Host, Pool, Server};

    fn pools(generation: u64, weights: &[u16], limit: Option<u32>) -> Pools {
        let address = IpAddr::from([127, 0, 0, 1]);
        let server = |(i, weight): (usize, &u16)| Server {
            weight: *weight,
            max_connections: limit,
            ..Server::new(format!("db{i}"), Host::Address(address), 3306)
        };
        let servers = weights.iter().enumerate().map(server).collect();
        let pool = Pool { balance: Balance::LeastConnections, ..Pool::new("pool", servers) };
        let state = |weight: &u16| ServerState { usable: true, addresses: vec![address], weight: *weight };
        Pools::new(generation, &[pool], &[weights.iter().map(state).collect()])
    }

    fn tallies(pool: &PoolTally, count: usize) -> Vec<Arc<ServerTally>> {
        (0..count).map(|i| Arc::new(ServerTally::new(pool, &format!("db{i}")))).collect()
    }

    fn view(pools: Pools, pool: &Arc<PoolTally>, tallies: Vec<Arc<ServerTally>>) -> View {
        (0..).zip(&tallies).for_each(|(position, tally)| tally.sessions.place(position));
        let (servers, tallies) = (vec![tallies], vec![Arc::clone(pool)]);
        View { pools: Arc::new(pools), servers, tallies, ..View::default() }
    }

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::new(tokio::sync::mpsc::channel(1).0))
    }

    fn pick(view: &View, state: &mut PickState, random: u64) -> Option<ServerKey> {
        let client = IpAddr::from([10, 0, 0, 1]);
        let connection = Connection { client, random, tried: &[] };
        view.pools.pick(0, state, &connection, &view.at(0)).ok().map(|p| p.key)
    }

    /// Begins `n` sessions.
    fn begin(view: &View, state: &mut PickState, n: usize, shared: &Arc<Shared>) -> Vec<Place> {
        let mut places = Vec::new();
        for _ in 0..n {
            let tally = pick(view, state, 1).and_then(|k| view.server(k));
            places.extend(tally.and_then(|t| t.acquire(None, None, shared)));
        }
        places
    }

    /// Sessions go on while their server's place in the list changes.
    #[test]
    fn loads_are_followed_through_a_change_of_the_list() {
        const SERVERS: usize = 50;
        let pool = Arc::new(PoolTally::new("pool"));
        let mut list = tallies(&pool, SERVERS);
        let (mut state, shared) = (PickState::default(), shared());
        let mut places = Vec::new();
        for generation in 0..4 {
            let view = view(pools(generation, &[1; SERVERS], None), &pool, list.clone());
            let even = || {
                let loads: Vec<_> = list.iter().map(|t| t.sessions.get()).collect();
                assert!(loads.windows(2).all(|w| w[0] == w[1]), "{loads:?}");
            };
            places.extend(begin(&view, &mut state, SERVERS, &shared));
            even();
            // Some end while the view is used, and make room for as many.
            places.drain(..SERVERS / 2);
            places.extend(begin(&view, &mut state, SERVERS / 2, &shared));
            even();
            list.reverse();
            list.swap(0, 7);
        }
    }

    /// A server without room of its own is found neither by its number nor in
    /// the index, and is found again when it has some.
    #[test]
    fn a_server_that_takes_no_more_is_passed_over() {
        const SERVERS: usize = 50;
        let pool = Arc::new(PoolTally::new("pool"));
        let view = view(pools(1, &[1; SERVERS], None), &pool, tallies(&pool, SERVERS));
        let (mut state, shared) = (PickState::default(), shared());
        let mut picked = |view: &View| {
            let picked = (0..SERVERS).filter_map(|_| pick(view, &mut state, 1)).map(|k| k.server);
            picked.collect::<BTreeSet<_>>().len()
        };
        assert_eq!(picked(&view), SERVERS);
        let mut places = vec![];
        for (i, server) in view.servers[0].iter().enumerate() {
            server.sessions.set_room(Some(1));
            places.extend(server.acquire(None, None, &shared));
            assert!(server.acquire(None, None, &shared).is_none());
            assert_eq!(picked(&view), SERVERS - 1 - i);
        }
        view.servers[0][40].sessions.set_room(Some(1));
        view.servers[0][3].sessions.set_room(None);
        assert_eq!((places.len(), picked(&view)), (SERVERS, 2));
        places.remove(17);
        let next = pick(&view, &mut state, 1).map(|k| k.server);
        assert_eq!(next, Some(17), "the end of a session makes room");
    }

    /// Workers that count at the same time lose no count, overfill no server,
    /// and each sees in the end what all have done.
    #[test]
    fn workers_that_count_at_once_agree() {
        const WORKERS: u64 = 4;
        const LIMIT: u32 = 3;
        let weights: Vec<u16> = (0..100).map(|i| i % 7 + 1).collect();
        let pool = Arc::new(PoolTally::new("pool"));
        let view = view(pools(1, &weights, Some(LIMIT)), &pool, tallies(&pool, weights.len()));
        let quiet = Barrier::new(WORKERS as usize);
        let shared = &shared();
        let work = &|worker: u64| {
            let mut state = PickState::default();
            let mut places = Vec::new();
            for i in 0..20_000 {
                let Some(key) = pick(&view, &mut state, worker << 40) else {
                    places.clear();
                    continue;
                };
                let tally = view.server(key).expect("a picked server is there");
                places.extend(tally.acquire(Some(LIMIT), None, shared));
                assert!(tally.sessions.get() <= LIMIT);
                if i % 3 == 0 && !places.is_empty() {
                    places.swap_remove(i % places.len());
                }
            }
            places.truncate(30);
            quiet.wait();
            let loads: Vec<u32> = view.servers[0].iter().map(|t| t.sessions.get()).collect();
            let open = (0..loads.len()).filter(|i| loads[*i] < LIMIT);
            let least = open.map(|i| f64::from(loads[i] + 1) / f64::from(weights[i])).reduce(f64::min);
            let picked = pick(&view, &mut state, 0).map(|k| k.server);
            let picked = picked.map(|i| f64::from(loads[i] + 1) / f64::from(weights[i]));
            assert_eq!(picked, least);
            quiet.wait();
        };
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                scope.spawn(move || work(worker));
            }
        });
        assert!(view.servers[0].iter().all(|t| t.sessions.get() == 0), "every place was given back");
    }
}
