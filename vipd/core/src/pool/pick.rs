//! The choice itself: no walk over all servers, and no allocation but by the
//! first pick after a pool has changed.

use super::index::Index;
use super::turns::{TurnState, Turns};
use super::{Algorithm, Buckets, Connection, Loads, NoServer, Picked, Pool, Pools, ServerKey, Tier, hash};
use std::net::IpAddr;

/// Servers without room that are passed over one by one. Where there are more,
/// most are full, and the index of loads finds the next that is not.
const HOPS: usize = 8;

/// What a worker remembers from one pick to the next: whose turn it is, and
/// the loads it has seen.
///
/// It follows the [`Pools`] it is used with: when a pool changes, the turns go
/// on where they were, so that a swap does not send every worker back to the
/// first server.
#[derive(Debug, Default)]
pub struct PickState {
    generation: Option<u64>,
    pools: Vec<PoolState>,
}

#[derive(Debug)]
struct PoolState {
    generation: u64,
    main: TierState,
    backup: TierState,
}

#[derive(Debug)]
struct TierState {
    turns: TurnState,
    /// Where the search for the least loaded begins, as a position in the
    /// pool's list: of equals the next one comes first.
    next: usize,
    index: Index,
}

impl PickState {
    fn follow(&mut self, pools: &Pools, random: u64) {
        self.pools.truncate(pools.pools.len());
        for (i, pool) in pools.pools.iter().enumerate() {
            let state = match self.pools.get_mut(i) {
                Some(state) if state.generation == pool.generation => continue,
                Some(state) => state,
                None => {
                    self.pools.push(PoolState {
                        generation: pool.generation,
                        main: TierState::at(random),
                        backup: TierState::at(random),
                    });
                    &mut self.pools[i]
                }
            };
            state.generation = pool.generation;
            state.main.fit(&pool.main);
            state.backup.fit(&pool.backup);
        }
        self.generation = Some(pools.generation);
    }
}

impl TierState {
    /// Workers start at places of their own, see [`TurnState::at`].
    fn at(random: u64) -> Self {
        Self { turns: TurnState::at(random), next: (random >> 33) as usize, index: Index::default() }
    }

    fn fit(&mut self, tier: &Tier) {
        if let Algorithm::RoundRobin(turns) = &tier.algorithm {
            self.turns.fit(turns);
        }
        self.next = self.next.checked_rem(tier.seats.len()).unwrap_or(0);
        self.index.clear();
    }
}

impl Pools {
    /// The server that takes a connection to `pool`.
    ///
    /// # Errors
    ///
    /// [`NoServer`], when there is none. As long as the pool [`serves`](Self::serves)
    /// and nothing was tried, the only error is [`NoServer::Full`].
    pub fn pick(
        &self,
        pool: usize,
        state: &mut PickState,
        connection: &Connection<'_>,
        loads: &impl Loads,
    ) -> Result<Picked, NoServer> {
        if state.generation != Some(self.generation) {
            state.follow(self, connection.random);
        }
        let steps = self.chains.get(pool).map_or(&[][..], Vec::as_slice);
        for step in steps {
            let at = (self.pools.get(step.pool), state.pools.get_mut(step.pool));
            let (Some(pool), Some(state)) = at else { return Err(NoServer::NoneUsable) };
            let (tier, state) =
                if step.backup { (&pool.backup, &mut state.backup) } else { (&pool.main, &mut state.main) };
            let ask = Ask { at: step.pool, pool, tier, connection, loads };
            if let Some(server) = ask.choose(state) {
                let key = ServerKey { pool: step.pool, server: server as usize };
                let addresses = &pool.servers[key.server].addresses;
                let which = match addresses.len() {
                    1 => 0,
                    n => (connection.random >> 32) as usize % n,
                };
                return Ok(Picked { key, address: addresses[which] });
            }
            if !ask.all_tried() {
                return Err(NoServer::Full);
            }
        }
        Err(if steps.is_empty() { NoServer::NoneUsable } else { NoServer::AllTried })
    }
}

/// One tier asked for one connection.
struct Ask<'a, L> {
    at: usize,
    pool: &'a Pool,
    tier: &'a Tier,
    connection: &'a Connection<'a>,
    loads: &'a L,
}

impl<L: Loads> Ask<'_, L> {
    fn choose(&self, state: &mut TierState) -> Option<u32> {
        match &self.tier.algorithm {
            Algorithm::RoundRobin(turns) => self.round_robin(turns, state),
            Algorithm::LeastConnections => self.least(state),
            Algorithm::SourceHash(buckets) => self.hashed(buckets, state),
            Algorithm::RandomTwo(sums) => self.random_two(sums, state),
            Algorithm::First => self.first(state),
        }
    }

    fn key(&self, server: u32) -> ServerKey {
        ServerKey { pool: self.at, server: server as usize }
    }

    fn tried(&self, server: u32) -> bool {
        self.connection.tried.contains(&self.key(server))
    }

    fn all_tried(&self) -> bool {
        self.tier.members.iter().all(|m| self.tried(*m))
    }

    /// Whether a server may take the connection.
    fn room(&self, server: u32) -> bool {
        !self.tried(server) && self.loads.load(self.key(server)) < self.tier.seats[server as usize].limit
    }

    /// The next turn's. Who has no room then has lost the turn.
    fn round_robin(&self, turns: &Turns, state: &mut TierState) -> Option<u32> {
        let mut last = 0;
        for _ in 0..HOPS {
            last = state.turns.take(turns)?;
            if self.room(last) {
                return Some(last);
            }
        }
        self.open(state, last)
    }

    fn first(&self, state: &mut TierState) -> Option<u32> {
        let first = self.tier.members.iter().take(HOPS).find(|m| self.room(**m));
        first.copied().or_else(|| self.open(state, 0))
    }

    /// The owner of the client's bucket. If that one has no room the client is
    /// hashed again, so that the clients of one server spread over all others.
    fn hashed(&self, buckets: &Buckets, state: &mut TierState) -> Option<u32> {
        let mut hash = client_hash(self.connection.client);
        let mut owner = 0;
        for _ in 0..HOPS {
            owner = buckets.owner(hash)?;
            if self.room(owner) {
                return Some(owner);
            }
            hash = mix(hash);
        }
        self.open(state, owner)
    }

    /// The less loaded of two that are drawn by weight; if neither has room,
    /// the least loaded of all.
    fn random_two(&self, sums: &[u32], state: &mut TierState) -> Option<u32> {
        let members = &self.tier.members;
        if let [one] = members[..] {
            return self.room(one).then_some(one);
        }
        let (high, low) = (self.connection.random >> 32, self.connection.random & u64::from(u32::MAX));
        let below = |bound: u32, drawn: u64| ((drawn * u64::from(bound)) >> 32) as u32;
        let find = |ticket: u32| sums.partition_point(|s| *s <= ticket);
        let total = *sums.last()?;
        let first = find(below(total, high));
        // The second ticket is drawn from those that the first server does not hold.
        let held: u32 = self.pool.servers[members[first] as usize].weight.into();
        let start = sums[first] - held;
        let ticket = below(total - held, low);
        let second = find(if ticket < start { ticket } else { ticket + held });
        let (first, second) = (members[first], members[second]);
        match (self.room(first), self.room(second)) {
            (true, true) => Some(if self.score(second) < self.score(first) { second } else { first }),
            (true, false) => Some(first),
            (false, true) => Some(second),
            (false, false) => self.least(state),
        }
    }

    fn score(&self, server: u32) -> u64 {
        self.tier.seats[server as usize].score(self.loads.load(self.key(server)))
    }

    /// The least loaded; equals take turns.
    fn least(&self, state: &mut TierState) -> Option<u32> {
        let server = self.look(&mut state.index, |index| index.least(state.next))?;
        state.next = server as usize + 1;
        Some(server)
    }

    /// The next that has room, from a server on.
    fn open(&self, state: &mut TierState, from: u32) -> Option<u32> {
        self.look(&mut state.index, |index| index.open(from as usize))
    }

    /// Looks into the index as of now, without the servers that were tried.
    fn look(&self, index: &mut Index, choose: impl Fn(&Index) -> Option<usize>) -> Option<u32> {
        let seats = &self.tier.seats;
        index.update(self.at, seats, self.loads);
        let tried = self.connection.tried.iter().filter(|k| k.pool == self.at);
        tried.clone().for_each(|key| index.hide(key.server));
        let chosen = choose(index);
        tried.for_each(|key| index.read(*key, seats, self.loads));
        chosen.and_then(|server| u32::try_from(server).ok())
    }
}

/// An IPv4 client is the same client on an IPv6 socket.
fn client_hash(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(a) => hash(&a.octets()),
        IpAddr::V6(a) => hash(&a.octets()),
    }
}

/// The finalizer of SplitMix64: every bit of the input moves half the output's.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
