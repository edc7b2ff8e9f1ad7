//! Which server takes a connection.
//!
//! [`Pools`] is what every pool looks like at one moment: immutable, shared by
//! all workers, and replaced as a whole when a server's health, address or
//! setting changes. What a choice needs to remember from one connection to the
//! next (whose turn it is) is a worker's own [`PickState`].
//!
//! A pool is asked in this order: its usable servers; its usable backup
//! servers; the same of its fallback, and so on down the chain. The next step
//! is taken only when a step has no server that was not already tried for the
//! same connection. A server that is full is still usable: it does not open
//! the way to a backup or a fallback, it makes the answer [`NoServer::Full`].

mod pick;
#[cfg(test)]
mod tests;

pub use pick::PickState;

use crate::settings::{self, Balance};
use siphasher::sip::SipHasher13;
use std::fmt;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A server, as positions in the list of pools and in its pool's list of servers.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServerKey {
    /// The pool, as a position in the list of pools.
    pub pool: usize,
    /// The server, as a position in the pool's list.
    pub server: usize,
}

/// The present state of a server, beside its settings.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServerState {
    /// Whether it may take new connections.
    pub usable: bool,
    /// Where it is; without an address it takes none.
    pub addresses: Vec<IpAddr>,
    /// Its weight now; 0 takes none.
    pub weight: u16,
}

/// Every pool at one moment.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    generation: u64,
    pools: Vec<Arc<Pool>>,
    /// For each pool the steps that are not empty, in the order they are asked.
    chains: Vec<Vec<Step>>,
}

/// A pool at one moment.
#[derive(Debug)]
pub struct Pool {
    generation: u64,
    settings: Arc<settings::Pool>,
    servers: Vec<Server>,
    main: Tier,
    backup: Tier,
}

/// A server at one moment.
#[derive(Debug)]
pub struct Server {
    name: String,
    addresses: Vec<SocketAddr>,
    weight: u16,
    /// Sessions at a time; `u32::MAX` stands for no limit.
    limit: u32,
    /// Of its name: the same on every node, and whatever the order in the file.
    hash: u64,
}

/// The servers of a pool that are asked as equals.
#[derive(Debug, Default)]
struct Tier {
    /// Those that take connections, as positions in the pool's list.
    members: Vec<u32>,
    /// For each member the sum of the weights up to and with its own.
    cumulative: Vec<u32>,
    turns: Turns,
}

/// How a tier's smooth weighted round-robin is answered.
#[derive(Debug, Default)]
enum Turns {
    /// All weights are equal: one after the other.
    #[default]
    Rotate,
    /// One cycle, computed beforehand: servers, as positions in the pool's list.
    Schedule(Vec<u32>),
    /// A cycle would be too long to keep: weigh all members each time.
    Weigh,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    pool: usize,
    backup: bool,
}

/// Steps of the algorithm that a cycle computed beforehand may cost: a
/// millisecond or two for each new `Pools`.
const SCHEDULE_COST: u64 = 1 << 20;

/// The connection that a server is picked for.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// A number drawn for this pick.
    pub random: u64,
    /// Servers that were tried for this connection, in vain.
    pub tried: &'a [ServerKey],
}

/// The server that takes a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Picked {
    /// The server; its pool may be a fallback of the one that was asked.
    pub key: ServerKey,
    /// One of its addresses.
    pub address: SocketAddr,
}

/// Why no server takes a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NoServer {
    /// Neither the pool nor its fallbacks have a usable server.
    NoneUsable,
    /// Every usable server that was not tried has as many sessions as it may.
    Full,
    /// Every usable server was tried.
    AllTried,
}

impl fmt::Display for NoServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoneUsable => "no server is usable",
            Self::Full => "every usable server is full",
            Self::AllTried => "every usable server was tried",
        })
    }
}

impl Pools {
    /// The pools of a list of settings, with the state of each server (a
    /// server without a state is unusable). `generation` must differ from that of any other
    /// `Pools` which the same [`PickState`] gets to see.
    #[must_use]
    pub fn new(generation: u64, pools: &[settings::Pool], states: &[Vec<ServerState>]) -> Self {
        let pools = pools
            .iter()
            .enumerate()
            .map(|(i, p)| {
                let states = states.get(i).map_or(&[][..], Vec::as_slice);
                Arc::new(Pool::new(generation, Arc::new(p.clone()), states))
            })
            .collect();
        Self::of(generation, pools)
    }

    /// Pools of which some may be shared with an earlier generation.
    pub(crate) fn of(generation: u64, pools: Vec<Arc<Pool>>) -> Self {
        let chains = (0..pools.len()).map(|pool| chain(&pools, pool)).collect();
        Self { generation, pools, chains }
    }

    /// The number of this state of the pools.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The pools, in the order of the settings.
    #[must_use]
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// A server.
    #[must_use]
    pub fn server(&self, key: ServerKey) -> Option<&Server> {
        self.pools.get(key.pool)?.servers.get(key.server)
    }

    /// Whether the pool has a usable server, itself or through its fallbacks.
    #[must_use]
    pub fn serves(&self, pool: usize) -> bool {
        self.chains.get(pool).is_some_and(|c| !c.is_empty())
    }
}

/// The steps of a pool that have a server. Chains of checked settings have an
/// end; a circle, if there were one, is left where it closes.
fn chain(pools: &[Arc<Pool>], pool: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut next = Some(pool);
    for _ in 0..pools.len() {
        let Some((pool, at)) = next.and_then(|i| Some((pools.get(i)?, i))) else { break };
        for (tier, backup) in [(&pool.main, false), (&pool.backup, true)] {
            if !tier.members.is_empty() {
                steps.push(Step { pool: at, backup });
            }
        }
        next = pool.settings.fallback;
    }
    steps
}

impl Pool {
    pub(crate) fn new(generation: u64, settings: Arc<settings::Pool>, states: &[ServerState]) -> Self {
        let mut main = Vec::new();
        let mut backup = Vec::new();
        let mut servers = Vec::with_capacity(settings.servers.len());
        for (position, server) in (0_u32..).zip(&settings.servers) {
            let state = states.get(position as usize).cloned().unwrap_or_default();
            if state.usable && state.weight > 0 && !state.addresses.is_empty() {
                if server.backup { &mut backup } else { &mut main }.push(position);
            }
            servers.push(Server {
                name: server.name.clone(),
                addresses: state.addresses.iter().map(|a| SocketAddr::new(*a, server.port)).collect(),
                weight: state.weight,
                limit: server.max_connections.unwrap_or(u32::MAX),
                hash: hash(server.name.as_bytes()),
            });
        }
        Self {
            generation,
            main: Tier::new(main, &servers, settings.balance),
            backup: Tier::new(backup, &servers, settings.balance),
            servers,
            settings,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Its settings; those of its servers stand at the same positions as [`Self::servers`].
    #[must_use]
    pub fn settings(&self) -> &settings::Pool {
        &self.settings
    }

    /// Its servers, in the order of the settings.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Whether the server takes new connections (its own pool has it among
    /// the usable ones, be it as a backup).
    #[must_use]
    pub fn uses(&self, server: usize) -> bool {
        let has = |t: &Tier| t.members.binary_search_by(|m| (*m as usize).cmp(&server)).is_ok();
        has(&self.main) || has(&self.backup)
    }
}

impl Server {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its weight beside the other servers of its pool.
    #[must_use]
    pub fn weight(&self) -> u16 {
        self.weight
    }

    /// Sessions at a time; unbounded when absent.
    #[must_use]
    pub fn max_connections(&self) -> Option<u32> {
        (self.limit != u32::MAX).then_some(self.limit)
    }
}

impl Tier {
    fn new(members: Vec<u32>, servers: &[Server], balance: Balance) -> Self {
        let weights: Vec<u32> = members.iter().map(|m| servers[*m as usize].weight.into()).collect();
        let cumulative = weights
            .iter()
            .scan(0_u32, |sum, w| {
                *sum = sum.saturating_add(*w);
                Some(*sum)
            })
            .collect();
        let turns = match balance {
            Balance::RoundRobin => Turns::new(&members, &weights),
            Balance::LeastConnections | Balance::SourceHash | Balance::RandomTwo | Balance::First => {
                Turns::Rotate
            }
        };
        Self { members, cumulative, turns }
    }
}

impl Turns {
    fn new(members: &[u32], weights: &[u32]) -> Self {
        if weights.windows(2).all(|w| w[0] == w[1]) {
            return Self::Rotate;
        }
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        let reduced: Vec<i64> = weights.iter().map(|w| i64::from(w / divisor)).collect();
        let cycle: i64 = reduced.iter().sum();
        if cycle.unsigned_abs().saturating_mul(members.len() as u64) > SCHEDULE_COST {
            return Self::Weigh;
        }
        let mut current = vec![0; members.len()];
        let schedule = (0..cycle).filter_map(|_| {
            let turn = smooth((0..reduced.len()).map(|i| (i, reduced[i])), &mut current);
            turn.map(|i| members[i])
        });
        Self::Schedule(schedule.collect())
    }
}

/// One step of smooth weighted round-robin (nginx,
/// `ngx_http_upstream_get_peer`): everybody gains its weight, the richest is
/// taken and pays what was handed out.
fn smooth(weights: impl Iterator<Item = (usize, i64)>, current: &mut [i64]) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, i64)> = None;
    for (i, weight) in weights {
        let now = current[i] + weight;
        current[i] = now;
        total += weight;
        if best.is_none_or(|(_, most)| now > most) {
            best = Some((i, now));
        }
    }
    let (taken, _) = best?;
    current[taken] -= total;
    Some(taken)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Two proxies, of whatever version, must send a client to the same server: a
/// hash that never changes.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}
