//! What may be configured, as types that cannot hold a bad value.
//!
//! `vipd-config` is the only place that makes them from text; the rest of the
//! house takes them as true.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

/// An address family.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address with the length of its subnet's prefix: `10.77.0.100/24`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// `None` if the prefix is longer than the address.
    #[must_use]
    pub const fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let longest = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        if prefix > longest {
            return None;
        }
        Some(Self { address, prefix })
    }

    /// The address itself.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// The length of the prefix in bits.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether `other` lies in this address's subnet.
    #[must_use]
    pub fn contains(self, other: IpAddr) -> bool {
        fn same(a: u128, b: u128, bits: u8, prefix: u8) -> bool {
            prefix == 0 || (a ^ b) >> (bits - prefix) == 0
        }
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                same(u128::from(a.to_bits()), u128::from(b.to_bits()), 32, self.prefix)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128, self.prefix),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A proxy host, in the order of `[cluster] nodes`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Its own addresses, at least one, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// Its VRRP priority when the file gives one; else it follows from the order.
    pub priority: Option<NonZeroU8>,
}

impl Member {
    /// Its address of a family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| Family::of(*a) == family)
    }
}

/// The VRRP version that is sent; both are understood by neither side of the
/// other, so it is one for the whole cluster.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum VrrpVersion {
    /// RFC 3768: IPv4 only, intervals of whole seconds.
    V2,
    /// RFC 9568.
    V3,
}

/// How adverts travel.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Transport {
    /// IP protocol 112, to each other node's own address.
    Unicast,
    /// IP protocol 112, to 224.0.0.18 and ff02::12.
    Multicast,
}

/// `[election]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ElectionSettings {
    /// Time between two adverts of an owner: 10 ms to 40.95 s in steps of
    /// 10 ms (v3), whole seconds (v2).
    pub advert_interval: Duration,
    /// The version on the wire.
    pub version: VrrpVersion,
    /// How adverts travel.
    pub transport: Transport,
    /// Whether a node of higher priority takes the address from a living owner.
    pub preempt: bool,
    /// How long such a node waits before it does.
    pub preempt_delay: Duration,
    /// The life the kernel gives to a floating address without renewal: whole
    /// seconds, one or more.
    pub lease: Duration,
}

/// `[[vip]]`: addresses that live on one node at a time, and move together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VipGroup {
    /// Its name, unique among the groups.
    pub name: String,
    /// Its addresses, at least one, at most 255 a family.
    pub addresses: Vec<Cidr>,
    /// The interface, when the file names one; else it is found by subnet.
    pub interface: Option<String>,
    /// The virtual router's number, of both families alike; unique among the groups.
    pub vrid: NonZeroU8,
    /// Who may own it: positions in [`ClusterSettings::nodes`], by preference.
    pub nodes: Vec<usize>,
    /// Listeners that must have a usable server, as positions in the list of
    /// listeners; else the owner steps back if another node is better off.
    pub track: Vec<usize>,
}

impl VipGroup {
    /// The group's addresses of a family.
    pub fn of_family(&self, family: Family) -> impl Iterator<Item = Cidr> + '_ {
        self.addresses.iter().copied().filter(move |a| Family::of(a.address()) == family)
    }

    /// The priority of the node at `position` in [`ClusterSettings::nodes`],
    /// or `None` if it is not of this group.
    ///
    /// The first of the group has 200 and each next one 50 less, in smaller
    /// steps where there are more than four; a priority that the file gives
    /// for the node stands above that.
    #[must_use]
    pub fn priority(&self, position: usize, nodes: &[Member]) -> Option<NonZeroU8> {
        let rank = self.nodes.iter().position(|n| *n == position)?;
        if let Some(given) = nodes.get(position).and_then(|n| n.priority) {
            return Some(given);
        }
        let steps = self.nodes.len().saturating_sub(1).max(1);
        let step = (199 / steps).clamp(1, 50);
        let below = u8::try_from(rank.saturating_mul(step)).unwrap_or(u8::MAX);
        NonZeroU8::new(200_u8.saturating_sub(below).max(1))
    }
}

/// `[cluster]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterSettings {
    /// The cluster's name; two clusters never mix.
    pub name: String,
    /// The proxy hosts, by preference; at most 64.
    pub nodes: Vec<Member>,
    /// The UDP port on which nodes tell each other their state.
    pub peer_port: u16,
}

/// Where a listener listens.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Bind {
    /// The address; all of both families when absent.
    pub address: Option<IpAddr>,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => std::net::SocketAddr::new(address, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

/// `[[listen]]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// Its name, unique among the listeners.
    pub name: String,
    /// Where it listens.
    pub bind: Bind,
    /// The pool it serves from, as a position in the list of pools.
    pub pool: usize,
    /// Sessions at a time; a further client waits in the kernel's accept queue.
    pub max_connections: u32,
    /// A session in which nobody spoke for this long is closed; never when absent.
    pub idle_timeout: Option<Duration>,
}

/// How a pool chooses among its usable servers (HAProxy's words).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Balance {
    /// Smooth weighted round-robin.
    RoundRobin,
    /// The fewest sessions for its weight.
    LeastConnections,
    /// By the client's address, consistently.
    SourceHash,
    /// The less loaded of two drawn at random.
    RandomTwo,
    /// The first in the file's order that has room.
    First,
}

/// A server's host: an address, or a name that is looked up again and again.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A DNS name.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(a)) => write!(f, "[{a}]"),
            Self::Address(a) => a.fmt(f),
            Self::Name(n) => f.write_str(n),
        }
    }
}

/// A server of a pool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    /// Its name, unique in the pool.
    pub name: String,
    /// Its host.
    pub host: Host,
    /// Its TCP port.
    pub port: u16,
    /// Its share of connections, 0 to 256; 0 takes none.
    pub weight: u16,
    /// Sessions at a time; unbounded when absent.
    pub max_connections: Option<u32>,
    /// Used only when no server that is not a backup is usable.
    pub backup: bool,
}

/// What a database must be to be used by a pool.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// Writable.
    Primary,
    /// Read-only and replicating.
    Replica,
    /// Either.
    Any,
}

/// How a check talks to a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CheckKind {
    /// The connection is accepted.
    Tcp,
    /// A login and questions in MySQL's protocol.
    Mysql(MysqlCheck),
}

/// Settings of a check of kind `mysql`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MysqlCheck {
    /// The user that logs in.
    pub user: String,
    /// The file that holds its password; no password when absent.
    pub password_file: Option<std::path::PathBuf>,
    /// The role a server must have.
    pub role: Role,
    /// The replication lag above which a replica takes no new connections.
    pub max_lag: Option<Duration>,
}

/// `[pool.check]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// Time between the starts of two checks of a server.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row that make a server usable.
    pub rise: u32,
    /// Failures in a row that make it unusable.
    pub fall: u32,
}

/// `[[pool]]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pool {
    /// Its name, unique among the pools.
    pub name: String,
    /// How it chooses.
    pub balance: Balance,
    /// Its servers, at least one.
    pub servers: Vec<Server>,
    /// The pool used when no server of this one is usable, as a position in
    /// the list of pools; chains have an end.
    pub fallback: Option<usize>,
    /// How its servers are checked; without a check every server counts as usable.
    pub check: Option<Check>,
    /// A connection to a server that takes longer is given up.
    pub connect_timeout: Duration,
    /// Further servers tried when a connection fails.
    pub retries: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_follow_the_order() {
        let group = |n: usize| VipGroup {
            name: "main".into(),
            addresses: vec![],
            interface: None,
            vrid: NonZeroU8::MIN,
            nodes: (0..n).collect(),
            track: vec![],
        };
        let of = |n: usize| {
            (0..n).map(|i| group(n).priority(i, &[]).map_or(0, NonZeroU8::get)).collect::<Vec<_>>()
        };
        assert_eq!(of(1), [200]);
        assert_eq!(of(2), [200, 150]);
        assert_eq!(of(4), [200, 150, 100, 50]);
        assert_eq!(of(5), [200, 151, 102, 53, 4]);
        let many = of(64);
        assert!(many.windows(2).all(|w| w[0] > w[1]), "{many:?}");
        assert_eq!(group(2).priority(2, &[]), None);
    }

    #[test]
    fn a_subnet_holds_its_addresses() -> Result<(), std::net::AddrParseError> {
        let net = Cidr::new("10.77.0.100".parse()?, 24);
        assert!(net.is_some_and(|n| n.contains(IpAddr::from([10, 77, 0, 11]))));
        assert!(net.is_some_and(|n| !n.contains(IpAddr::from([10, 77, 1, 11]))));
        assert_eq!(Cidr::new("10.77.0.100".parse()?, 33), None);
        let all = Cidr::new("fd77::1".parse()?, 0);
        assert!(all.is_some_and(|n| n.contains(IpAddr::from([1; 16]))));
        Ok(())
    }
}
