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
//!
//! A choice costs about the same for a thousand servers as for three. Where it
//! needs the sessions of servers it asks [`Loads`], which whoever counts them implements.

mod buckets;
mod changes;
mod index;
mod pick;
#[cfg(test)]
mod tests;
mod turns;

pub use changes::Changes;
pub use index::Loads;
pub use pick::PickState;

use buckets::Buckets;
use turns::Turns;

use crate::settings::{self, Balance, Source};
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
#[derive(Debug)]
struct Tier {
    /// Those that take connections, as positions in the pool's list.
    members: Vec<u32>,
    /// By position in the pool's list.
    seats: Vec<Seat>,
    algorithm: Algorithm,
}

/// What of a server is needed to choose by loads.
#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    /// What a session counts, in inverse proportion to the weight; 0 for a
    /// server that is not a member.
    cost: u32,
    /// Sessions at a time; `u32::MAX` stands for no limit.
    limit: u32,
}

/// A way of balancing, with what is computed for it beforehand.
#[derive(Debug)]
enum Algorithm {
    RoundRobin(Turns),
    LeastConnections,
    SourceHash(Buckets),
    /// For each member the sum of the weights up to and with its own.
    RandomTwo(Vec<u32>),
    First,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    pool: usize,
    backup: bool,
}

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
    /// The server. When its pool is not the one that was asked, it is a server
    /// of a fallback: such sessions are those that
    /// [`fallback_max_connections`](settings::Pool::fallback_max_connections)
    /// of the pool that was asked bounds. Who counts sessions counts these, and takes the
    /// answer for [`NoServer::Full`] when there are as many as there may be.
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

/// The addresses that can be connected from `source`: of a name with both
/// families, those of a given source's. Where that leaves none, all of them:
/// the sessions then fail for the source, and are told as such.
pub fn reached(source: Source, all: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let fits = move |a: &IpAddr| match source {
        Source::Address(source) => source.is_ipv4() == a.is_ipv4(),
        Source::Auto | Source::Vip => true,
    };
    let none = !all.iter().any(fits);
    all.iter().copied().filter(move |a| none || fits(a))
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
                addresses: reached(settings.source, &state.addresses)
                    .map(|a| SocketAddr::new(a, server.port))
                    .collect(),
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
        let weight = |m: u32| servers[m as usize].weight;
        let mut seats = vec![Seat::default(); servers.len()];
        for &m in &members {
            let limit = servers[m as usize].limit;
            seats[m as usize] = Seat { cost: u32::MAX / u32::from(weight(m).max(1)), limit };
        }
        let algorithm = match balance {
            Balance::RoundRobin => Algorithm::RoundRobin(Turns::new(&members, weight)),
            Balance::LeastConnections => Algorithm::LeastConnections,
            Balance::SourceHash => {
                Algorithm::SourceHash(Buckets::new(&members, |m| (weight(m), servers[m as usize].hash)))
            }
            Balance::RandomTwo => Algorithm::RandomTwo(sums(members.iter().map(|m| weight(*m).into()))),
            Balance::First => Algorithm::First,
        };
        Self { members, seats, algorithm }
    }
}

fn sums(weights: impl Iterator<Item = u32>) -> Vec<u32> {
    let add = |sum: &mut u32, weight| {
        *sum = sum.saturating_add(weight);
        Some(*sum)
    };
    weights.scan(0, add).collect()
}

/// Two proxies, of whatever version, must send a client to the same server: a
/// hash that never changes.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}
