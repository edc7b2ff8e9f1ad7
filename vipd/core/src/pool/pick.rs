//! The choice itself: no allocation, and no walk over all servers where the
//! way of balancing does not ask for one.

use super::{Connection, NoServer, Picked, Pool, Pools, Server, ServerKey, Tier, Turns, hash, smooth};
use crate::settings::Balance;
use std::net::IpAddr;

/// What a worker remembers from one pick to the next: whose turn it is.
///
/// It follows the [`Pools`] it is used with: when a pool changes, its weighing
/// starts anew while its place in the rotation stays, so that a swap does not
/// send every worker back to the first server.
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

#[derive(Debug, Default)]
struct TierState {
    /// The next turn, as a position in the schedule or the list of members.
    next: usize,
    /// The weighing of [`Turns::Weigh`], by member.
    current: Vec<i64>,
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
    /// Workers start at places of their own, or the first few connections of
    /// all of them would meet at the first server.
    fn at(random: u64) -> Self {
        Self { next: (random >> 33) as usize, current: Vec::new() }
    }

    fn fit(&mut self, tier: &Tier) {
        let (turns, weighed) = match &tier.turns {
            Turns::Rotate => (tier.members.len(), 0),
            Turns::Schedule(schedule) => (schedule.len(), 0),
            Turns::Weigh => (tier.members.len(), tier.members.len()),
        };
        self.next = self.next.checked_rem(turns).unwrap_or(0);
        self.current.clear();
        self.current.resize(weighed, 0);
    }
}

impl Pools {
    /// The server that takes a connection to `pool`.
    ///
    /// `load` tells the sessions that a server has now: `u32::MAX` if it takes
    /// no more for another reason than its `max_connections`, so that it counts
    /// as full.
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
        load: impl Fn(ServerKey) -> u32,
    ) -> Result<Picked, NoServer> {
        if state.generation != Some(self.generation) {
            state.follow(self, connection.random);
        }
        let steps = self.chains.get(pool).map_or(&[][..], Vec::as_slice);
        for step in steps {
            let (pool, state) = (&self.pools[step.pool], &mut state.pools[step.pool]);
            let (tier, state) =
                if step.backup { (&pool.backup, &mut state.backup) } else { (&pool.main, &mut state.main) };
            let ask = Ask { at: step.pool, pool, tier, connection, load: &load };
            match ask.choose(state) {
                Ok(server) => {
                    let key = ServerKey { pool: step.pool, server: server as usize };
                    let addresses = &pool.servers[key.server].addresses;
                    let which = (connection.random >> 32) as usize % addresses.len();
                    return Ok(Picked { key, address: addresses[which] });
                }
                Err(Miss::Full) => return Err(NoServer::Full),
                Err(Miss::Tried) => {}
            }
        }
        Err(if steps.is_empty() { NoServer::NoneUsable } else { NoServer::AllTried })
    }
}

/// Why a server, or a whole tier, is passed over.
#[derive(Clone, Copy)]
enum Miss {
    Tried,
    Full,
}

impl Miss {
    /// A tier in which one server is only full is full.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Tried, Self::Tried) => Self::Tried,
            (Self::Full, _) | (_, Self::Full) => Self::Full,
        }
    }
}

/// One tier asked for one connection.
struct Ask<'a, L> {
    at: usize,
    pool: &'a Pool,
    tier: &'a Tier,
    connection: &'a Connection<'a>,
    load: &'a L,
}

impl<L: Fn(ServerKey) -> u32> Ask<'_, L> {
    fn choose(&self, state: &mut TierState) -> Result<u32, Miss> {
        match self.pool.settings.balance {
            Balance::RoundRobin => match &self.tier.turns {
                Turns::Rotate => self.rotate(&mut state.next),
                Turns::Schedule(schedule) => self.scheduled(schedule, &mut state.next),
                Turns::Weigh => self.weigh(&mut state.current),
            },
            Balance::LeastConnections => self.least(&mut state.next),
            Balance::SourceHash => self.hashed(),
            Balance::RandomTwo => self.random_two(&mut state.next),
            Balance::First => self.rotate(&mut 0),
        }
    }

    fn server(&self, server: u32) -> &Server {
        &self.pool.servers[server as usize]
    }

    fn load(&self, server: u32) -> u32 {
        (self.load)(ServerKey { pool: self.at, server: server as usize })
    }

    /// Whether a server may take the connection.
    fn room(&self, server: u32) -> Result<(), Miss> {
        let key = ServerKey { pool: self.at, server: server as usize };
        if self.connection.tried.contains(&key) {
            return Err(Miss::Tried);
        }
        if self.load(server) >= self.server(server).limit { Err(Miss::Full) } else { Ok(()) }
    }

    /// The first with room from `next` on, once around.
    fn rotate(&self, next: &mut usize) -> Result<u32, Miss> {
        let members = &self.tier.members;
        let mut miss = Miss::Tried;
        let mut at = *next;
        for _ in 0..members.len() {
            let server = members[at];
            at = if at + 1 == members.len() { 0 } else { at + 1 };
            match self.room(server) {
                Ok(()) => {
                    *next = at;
                    return Ok(server);
                }
                Err(why) => miss = miss.and(why),
            }
        }
        Err(miss)
    }

    /// The next of the cycle that has room. Where most servers have none, the
    /// cycle (which may be far longer than the list) is not walked to its end.
    fn scheduled(&self, schedule: &[u32], next: &mut usize) -> Result<u32, Miss> {
        for _ in 0..schedule.len().min(2 * self.tier.members.len()) {
            let server = schedule[*next];
            *next = if *next + 1 == schedule.len() { 0 } else { *next + 1 };
            if self.room(server).is_ok() {
                return Ok(server);
            }
        }
        self.rotate(&mut (*next % self.tier.members.len()))
    }

    /// A step of the weighing itself, among those with room.
    fn weigh(&self, current: &mut [i64]) -> Result<u32, Miss> {
        let members = &self.tier.members;
        let mut miss = Miss::Tried;
        let weights = (0..members.len()).filter_map(|i| match self.room(members[i]) {
            Ok(()) => Some((i, i64::from(self.server(members[i]).weight))),
            Err(why) => {
                miss = miss.and(why);
                None
            }
        });
        smooth(weights, current).map(|i| members[i]).ok_or(miss)
    }

    /// Whether `a` would be less loaded for its weight than `b`, were the
    /// connection its own. (Counting the connection itself is what makes the
    /// heavier of two idle servers come first.)
    fn lighter(&self, a: u32, b: u32) -> bool {
        let next = |s| u64::from(self.load(s)) + 1;
        next(a) * u64::from(self.server(b).weight) < next(b) * u64::from(self.server(a).weight)
    }

    /// The least loaded; of equals the first from `next` on, so that they take turns.
    fn least(&self, next: &mut usize) -> Result<u32, Miss> {
        let members = &self.tier.members;
        let mut miss = Miss::Tried;
        let mut best: Option<(usize, u32)> = None;
        let start = *next % members.len();
        for at in (start..members.len()).chain(0..start) {
            match self.room(members[at]) {
                Ok(()) if best.is_none_or(|(_, b)| self.lighter(members[at], b)) => {
                    best = Some((at, members[at]));
                }
                Ok(()) => {}
                Err(why) => miss = miss.and(why),
            }
        }
        let (at, server) = best.ok_or(miss)?;
        *next = (at + 1) % members.len();
        Ok(server)
    }

    /// The less loaded of two that are drawn by weight; if neither has room,
    /// the least loaded of all.
    fn random_two(&self, next: &mut usize) -> Result<u32, Miss> {
        let (members, cumulative) = (&self.tier.members, &self.tier.cumulative);
        if members.len() < 2 {
            return self.rotate(&mut 0);
        }
        let (high, low) = (self.connection.random >> 32, self.connection.random & u64::from(u32::MAX));
        let below = |bound: u32, drawn: u64| ((drawn * u64::from(bound)) >> 32) as u32;
        let find = |ticket: u32| cumulative.partition_point(|c| *c <= ticket);
        let total = cumulative[members.len() - 1];
        let first = find(below(total, high));
        // The second ticket is drawn from those that the first server does not hold.
        let end = cumulative[first];
        let held = u32::from(self.server(members[first]).weight);
        let ticket = below(total - held, low);
        let second = find(if ticket < end - held { ticket } else { ticket + held });
        let (first, second) = (members[first], members[second]);
        match (self.room(first), self.room(second)) {
            (Ok(()), Ok(())) => Ok(if self.lighter(second, first) { second } else { first }),
            (Ok(()), Err(_)) => Ok(first),
            (Err(_), Ok(())) => Ok(second),
            (Err(_), Err(_)) => self.least(next),
        }
    }

    /// Rendezvous hashing: each server draws a number from the client's
    /// address and its own name, the highest wins. When a server goes, only
    /// its own clients move.
    fn hashed(&self) -> Result<u32, Miss> {
        let client = client_hash(self.connection.client);
        let mut miss = Miss::Tried;
        let mut best: Option<(f64, u64, u32)> = None;
        for &member in &self.tier.members {
            if let Err(why) = self.room(member) {
                miss = miss.and(why);
                continue;
            }
            let server = self.server(member);
            let drawn = mix(client ^ server.hash);
            let score = score(drawn, server.weight);
            if best.is_none_or(|(s, d, _)| score.total_cmp(&s).then(drawn.cmp(&d)).is_gt()) {
                best = Some((score, drawn, member));
            }
        }
        best.map(|(_, _, server)| server).ok_or(miss)
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

/// Weighted rendezvous hashing (Schindelhauer and Schomaker 2005): with
/// `-weight / ln(draw)` a server wins in proportion to its weight, whatever
/// the others are.
#[expect(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "a logarithm, not a time or a sum")]
pub(super) fn score(drawn: u64, weight: u16) -> f64 {
    const STEP: f64 = 1.0 / (1_u64 << 52) as f64;
    // Strictly between 0 and 1: 52 bits and a half fill the 53 of the mantissa.
    let draw = ((drawn >> 12) as f64 + 0.5) * STEP;
    -f64::from(weight) / draw.ln()
}
