//! The sessions of servers, counted by all workers and read by each pick.
//!
//! The counters of a pool lie side by side, some to a block, and each block
//! tells when one of its counters changed: so a worker that looks for the
//! least loaded server reads again only what it does not know.

use crate::shared;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vipd_core::pool;

/// As many as a pick reads at once: the servers of a pool that was never
/// reconfigured lie in blocks just as they stand in its list.
const SLOTS: usize = pool::BLOCK;

/// Counters side by side, in cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Block {
    /// One bit for each slot that is in use.
    taken: AtomicU32,
    /// One bit for each slot whose server takes no more, whatever its number.
    closed: AtomicU32,
    /// Changes of the counters so far.
    changes: AtomicU64,
    sessions: [AtomicU32; SLOTS],
}

/// The number of a server's sessions.
#[derive(Debug)]
pub(crate) struct Load {
    block: Arc<Block>,
    slot: usize,
}

impl Load {
    /// The sessions now.
    pub(crate) fn get(&self) -> u32 {
        self.block.sessions[self.slot].load(Ordering::SeqCst)
    }

    /// Counts one more, if there are fewer than `limit`. The count never goes
    /// above it, not even for a moment.
    pub(crate) fn take(&self, limit: u32) -> bool {
        let taken = shared::take(&self.block.sessions[self.slot], limit);
        if taken {
            self.changed();
        }
        taken
    }

    /// Counts one less.
    pub(crate) fn leave(&self) {
        self.block.sessions[self.slot].fetch_sub(1, Ordering::SeqCst);
        self.changed();
    }

    /// Makes the server one that takes no more, or no longer.
    pub(crate) fn close(&self, closed: bool) {
        if closed {
            self.block.closed.fetch_or(1 << self.slot, Ordering::SeqCst);
        } else {
            self.block.closed.fetch_and(!(1 << self.slot), Ordering::SeqCst);
        }
        self.changed();
    }

    /// After the change itself: who reads this number sees the change, and who
    /// does not will read another number later.
    fn changed(&self) {
        // In one order with those that look whether anybody waits for the change.
        self.block.changes.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Load {
    /// Nobody is left who counts: the slot is at 0.
    fn drop(&mut self) {
        self.close(false);
        self.block.taken.fetch_and(!(1 << self.slot), Ordering::SeqCst);
    }
}

/// The blocks of a pool, for as long as the pool is configured.
#[derive(Debug, Default)]
pub(crate) struct Blocks(Vec<Arc<Block>>);

impl Blocks {
    /// A load of 0, in the first slot that is free.
    pub(crate) fn load(&mut self) -> Load {
        let free = |b: &Block| b.taken.load(Ordering::SeqCst).trailing_ones() as usize;
        let at = self.0.iter().position(|b| free(b) < SLOTS).unwrap_or_else(|| {
            self.0.push(Arc::default());
            self.0.len() - 1
        });
        let block = Arc::clone(&self.0[at]);
        let slot = free(&block);
        block.taken.fetch_or(1 << slot, Ordering::SeqCst);
        Load { block, slot }
    }
}

/// The loads of a pool's servers, by their positions in its list.
#[derive(Debug, Default)]
pub(crate) struct PoolLoads {
    places: Vec<(Arc<Block>, usize)>,
    /// For each [`SLOTS`] servers the blocks that hold their loads: one, as
    /// long as the list was not changed.
    blocks: Vec<Vec<Arc<Block>>>,
}

impl PoolLoads {
    pub(crate) fn new<'a>(loads: impl Iterator<Item = &'a Load>) -> Self {
        let places: Vec<_> = loads.map(|l| (Arc::clone(&l.block), l.slot)).collect();
        let blocks = places.chunks(SLOTS).map(|places| {
            let mut blocks: Vec<Arc<Block>> = vec![];
            for (block, _) in places {
                if !blocks.iter().any(|b| Arc::ptr_eq(b, block)) {
                    blocks.push(Arc::clone(block));
                }
            }
            blocks
        });
        Self { blocks: blocks.collect(), places }
    }

    /// A server's sessions, or `u32::MAX` if it takes no more.
    pub(crate) fn load(&self, server: usize) -> u32 {
        self.places.get(server).map_or(0, |(block, slot)| {
            if block.closed.load(Ordering::Relaxed) & (1 << slot) == 0 {
                block.sessions[*slot].load(Ordering::Relaxed)
            } else {
                u32::MAX
            }
        })
    }

    /// Each number only grows, so their sum tells of any change.
    pub(crate) fn changes(&self, block: usize) -> Option<u64> {
        let blocks = self.blocks.get(block)?.iter();
        Some(blocks.map(|b| b.changes.load(Ordering::Acquire)).fold(0, u64::wrapping_add))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::{Place, ServerTally, Shared, View};
    use std::net::IpAddr;
    use std::sync::Barrier;
    use vipd_core::pool::{Connection, PickState, Pools, ServerKey, ServerState};
    use vipd_core::settings::{Balance, Host, Pool, Server};

    fn pools(weights: &[u16], limit: Option<u32>) -> Pools {
        let address = IpAddr::from([127, 0, 0, 1]);
        let server = |(i, weight): (usize, &u16)| Server {
            weight: *weight,
            max_connections: limit,
            ..Server::new(format!("db{i}"), Host::Address(address), 3306)
        };
        let servers = weights.iter().enumerate().map(server).collect();
        let pool = Pool { balance: Balance::LeastConnections, ..Pool::new("pool", servers) };
        let state = |weight: &u16| ServerState { usable: true, addresses: vec![address], weight: *weight };
        Pools::new(1, &[pool], &[weights.iter().map(state).collect()])
    }

    fn view(pools: Pools, tallies: Vec<Arc<ServerTally>>) -> View {
        let loads = vec![PoolLoads::new(tallies.iter().map(|t| &t.sessions))];
        View { pools: Arc::new(pools), servers: vec![tallies], loads, ..View::default() }
    }

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::new(tokio::sync::mpsc::channel(1).0))
    }

    fn acquire(tally: &Arc<ServerTally>, limit: Option<u32>, shared: &Arc<Shared>) -> Option<Place> {
        tally.acquire(limit, None, shared)
    }

    fn tally(blocks: &mut Blocks, name: usize) -> Arc<ServerTally> {
        Arc::new(ServerTally::new("pool", &format!("db{name}"), blocks.load()))
    }

    fn pick(view: &View, state: &mut PickState, random: u64) -> Option<ServerKey> {
        let client = IpAddr::from([10, 0, 0, 1]);
        let connection = Connection { client, random, tried: &[] };
        view.pools.pick(0, state, &connection, &view.at(0)).ok().map(|p| p.key)
    }

    #[test]
    fn a_slot_is_given_to_one_and_used_again() {
        let mut blocks = Blocks::default();
        let mut loads: Vec<_> = (0..3 * SLOTS).map(|_| blocks.load()).collect();
        assert_eq!(blocks.0.len(), 3);
        assert!(loads[SLOTS + 3].take(1));
        assert_eq!(loads.iter().map(Load::get).sum::<u32>(), 1, "no two share a number");
        loads.remove(5);
        loads.push(blocks.load());
        assert_eq!(blocks.0.len(), 3);
        assert_eq!(loads.last().map(|l| l.slot), Some(5));
    }

    /// The loads of a list that was changed lie in other blocks than the list
    /// has them in, and are followed all the same.
    #[test]
    fn loads_are_followed_wherever_they_lie() {
        let mut blocks = Blocks::default();
        let count = 3 * SLOTS;
        let mut tallies: Vec<_> = (0..count).map(|i| tally(&mut blocks, i)).collect();
        tallies.reverse();
        tallies.swap(0, SLOTS);
        let view = view(pools(&vec![1; count], None), tallies);
        let (mut state, shared) = (PickState::default(), shared());
        let mut places = Vec::new();
        for _ in 0..3 {
            for _ in 0..count {
                let key = pick(&view, &mut state, 1);
                places.extend(key.and_then(|k| view.server(k)).and_then(|t| acquire(t, None, &shared)));
            }
            let loads: Vec<_> = view.servers[0].iter().map(|t| t.sessions.get()).collect();
            assert!(loads.windows(2).all(|w| w[0] == w[1]), "{loads:?}");
        }
    }

    /// A server without room of its own is found neither by its number nor in
    /// the index, and is found again when it has some.
    #[test]
    fn a_server_that_takes_no_more_is_passed_over() {
        let mut blocks = Blocks::default();
        let tallies: Vec<_> = (0..2 * SLOTS).map(|i| tally(&mut blocks, i)).collect();
        let (view, mut state) = (view(pools(&vec![1; 2 * SLOTS], None), tallies), PickState::default());
        let mut picked = |view: &View| {
            let picked: std::collections::BTreeSet<usize> =
                (0..2 * SLOTS).filter_map(|_| pick(view, &mut state, 1)).map(|k| k.server).collect();
            picked.len()
        };
        assert_eq!(picked(&view), 2 * SLOTS);
        for (i, server) in view.servers[0].iter().enumerate() {
            server.set_room(Some(1));
            assert!(server.use_up(0) && !server.use_up(0));
            assert_eq!(picked(&view), 2 * SLOTS - 1 - i);
        }
        view.servers[0][SLOTS].set_room(Some(1));
        view.servers[0][3].set_room(None);
        assert_eq!(picked(&view), 2);
    }

    /// Workers that count at the same time lose no count, overfill no server,
    /// and each sees in the end what all have done.
    #[test]
    fn workers_that_count_at_once_agree() {
        const WORKERS: u64 = 4;
        const LIMIT: u32 = 3;
        let weights: Vec<u16> = (0..100).map(|i| i % 7 + 1).collect();
        let mut blocks = Blocks::default();
        let tallies = (0..weights.len()).map(|i| tally(&mut blocks, i)).collect();
        let view = view(pools(&weights, Some(LIMIT)), tallies);
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
                places.extend(acquire(tally, Some(LIMIT), shared));
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
