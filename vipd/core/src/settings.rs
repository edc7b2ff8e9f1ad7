//! What may be configured, as types that cannot hold a bad value.
//!
//! `vipd-config` is the only place that makes them from text; the rest of the
//! house takes them as true.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::ops::RangeInclusive;
use std::path::PathBuf;
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

    /// The group's nodes by priority, the highest first: who comes next.
    #[must_use]
    pub fn ranking(&self, nodes: &[Member]) -> Vec<usize> {
        let mut ranking = self.nodes.clone();
        ranking.sort_by_key(|n| std::cmp::Reverse(self.priority(*n, nodes)));
        ranking
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
    /// Sessions of one client address at a time; unbounded when absent.
    pub max_per_source: Option<u32>,
    /// New sessions of one client address in a second; unbounded when absent.
    pub max_rate_per_source: Option<u32>,
    /// A session whose turn it is to speak is not the server's, and in which
    /// nobody spoke for this long, is closed; never when absent.
    pub idle_timeout: Option<Duration>,
    /// A session that is older is closed at its next pause; never when absent.
    pub max_session_age: Option<Duration>,
    /// Silence on a connection, of client or server, after which the kernel
    /// asks whether the other end is still there.
    pub tcp_keepalive: Duration,
    /// What was sent and is not acknowledged for this long ends a connection.
    /// This includes what cannot be sent because the other end does not read
    /// (tcp(7), TCP_USER_TIMEOUT).
    pub tcp_user_timeout: Duration,
    /// Networks of proxies whose connections begin with a PROXY protocol header.
    pub accept_proxy: Vec<Cidr>,
    /// Whether each session is a line in the log when it ends.
    pub access_log: bool,
}

impl Listener {
    /// One with the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, bind: Bind, pool: usize) -> Self {
        Self {
            name: name.into(),
            bind,
            pool,
            max_connections: 2_000,
            max_per_source: None,
            max_rate_per_source: None,
            idle_timeout: None,
            max_session_age: None,
            tcp_keepalive: Duration::from_secs(30),
            tcp_user_timeout: Duration::from_secs(120),
            accept_proxy: vec![],
            access_log: false,
        }
    }
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
    /// New connections to it in a second; unbounded when absent.
    pub max_rate: Option<u32>,
    /// Used only when no server that is not a backup is usable.
    pub backup: bool,
    /// What its name stands for.
    pub resolve: Resolve,
    /// The name that it was found at, if that has many addresses and this is
    /// one of them. No file says this, [`crate::discover`] does.
    pub found_at: Option<String>,
    /// The name it was found by does not lead to it any more: it drains. No
    /// file says this, [`crate::discover`] does.
    pub vanished: bool,
}

impl Server {
    /// One with the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, host: Host, port: u16) -> Self {
        Self {
            name: name.into(),
            host,
            port,
            weight: 100,
            max_connections: None,
            max_rate: None,
            backup: false,
            resolve: Resolve::One,
            found_at: None,
            vanished: false,
        }
    }
}

/// What the name of a server stands for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Resolve {
    /// One server, whatever addresses it has.
    One,
    /// A server at each of its addresses.
    All,
    /// A server for each of its SRV records (RFC 2782), which also give the ports.
    Srv,
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
    /// The connection is accepted, and says what it should.
    Tcp(TcpCheck),
    /// A request over HTTP/1.1, in the clear or over TLS.
    Http(HttpCheck),
    /// A login and questions in MySQL's protocol.
    Mysql(MysqlCheck),
    /// A login and questions in PostgreSQL's protocol.
    Postgres(PostgresCheck),
    /// A login and questions in Redis' protocol.
    Redis(RedisCheck),
    /// A command's exit status.
    Exec(ExecCheck),
}

impl CheckKind {
    /// The role a server must have.
    #[must_use]
    pub const fn role(&self) -> Role {
        match self {
            Self::Tcp(_) | Self::Http(_) | Self::Exec(_) => Role::Any,
            Self::Mysql(check) => check.role,
            Self::Postgres(check) => check.role,
            Self::Redis(check) => check.role,
        }
    }

    /// Whether every server of its kind of cluster takes writes, so that several
    /// writable ones are no accident.
    #[must_use]
    pub const fn writes_anywhere(&self) -> bool {
        match self {
            Self::Mysql(check) => check.galera.is_some() || check.group_replication,
            Self::Tcp(_) | Self::Http(_) | Self::Postgres(_) | Self::Redis(_) | Self::Exec(_) => false,
        }
    }

    /// The replication lag above which a replica takes no new connections.
    #[must_use]
    pub const fn max_lag(&self) -> Option<Duration> {
        match self {
            Self::Tcp(_) | Self::Http(_) | Self::Exec(_) => None,
            Self::Mysql(check) => check.max_lag,
            Self::Postgres(check) => check.max_lag,
            Self::Redis(check) => check.max_lag,
        }
    }
}

/// TLS of a check's connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    /// Whether the server's certificate must be valid for its name.
    pub verify: bool,
    /// The certificates it must stem from; those of the system when absent.
    pub ca_file: Option<PathBuf>,
    /// The name it must have; when absent the server's host, or the name that
    /// it was found at ([`Server::found_at`]).
    pub server_name: Option<String>,
}

/// Settings of a check of kind `tcp`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TcpCheck {
    /// What is said to the server; nothing when absent.
    pub send: Option<String>,
    /// What its answer must contain; no answer is waited for when absent.
    pub expect: Option<String>,
}

/// Settings of a check of kind `http`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpCheck {
    /// TLS, if the request goes over it.
    pub tls: Option<Tls>,
    /// The method.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// The `Host` field; the server's host and port when absent.
    pub host: Option<String>,
    /// The status codes that are good.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the body must contain; anything when absent.
    pub expect: Option<String>,
}

/// Settings of a check of kind `mysql`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MysqlCheck {
    /// The user that logs in.
    pub user: String,
    /// The file that holds its password; no password when absent.
    pub password_file: Option<PathBuf>,
    /// TLS, if the login goes over it.
    pub tls: Option<Tls>,
    /// The role a server must have.
    pub role: Role,
    /// The replication lag above which a replica takes no new connections.
    pub max_lag: Option<Duration>,
    /// A table that tells the lag, written by a tool such as pt-heartbeat;
    /// the server's own figure when absent.
    pub heartbeat: Option<Heartbeat>,
    /// The Galera state a server must have; not asked when absent.
    pub galera: Option<Galera>,
    /// Whether a server must be an online member of a group (group
    /// replication) that has its majority.
    pub group_replication: bool,
}

impl MysqlCheck {
    /// One with the defaults.
    #[must_use]
    pub fn new(user: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            password_file: None,
            tls: None,
            role: Role::Any,
            max_lag: None,
            heartbeat: None,
            galera: None,
            group_replication: false,
        }
    }
}

/// A column that holds the time of the primary's last heartbeat.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Heartbeat {
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The column, a time stamp.
    pub column: String,
}

/// What is asked of a Galera node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Galera {
    /// Whether one that gives a joiner its data (state 2) may be used.
    pub donors: bool,
}

/// Settings of a check of kind `postgres`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PostgresCheck {
    /// The role that logs in.
    pub user: String,
    /// The file that holds its password; no password when absent.
    pub password_file: Option<PathBuf>,
    /// The database it logs in to.
    pub database: String,
    /// TLS, if the login goes over it.
    pub tls: Option<Tls>,
    /// The role a server must have.
    pub role: Role,
    /// The replication lag above which a replica takes no new connections.
    pub max_lag: Option<Duration>,
}

/// Settings of a check of kind `redis`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RedisCheck {
    /// The user that logs in; `default` when absent.
    pub user: Option<String>,
    /// The file that holds its password; no login when absent.
    pub password_file: Option<PathBuf>,
    /// TLS, if the connection goes over it.
    pub tls: Option<Tls>,
    /// The role a server must have.
    pub role: Role,
    /// The silence of its primary above which a replica takes no new connections.
    pub max_lag: Option<Duration>,
}

/// Settings of a check of kind `exec`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExecCheck {
    /// The program, by its absolute path, and its arguments. No shell reads them.
    pub command: Vec<String>,
    /// The system's user that runs it; `nobody` when absent.
    pub user: Option<String>,
}

/// `[pool.check]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// The port that is asked; the server's own when absent.
    pub port: Option<u16>,
    /// Time between the starts of two checks of a server.
    pub interval: Duration,
    /// The same while a verdict changes: after a first failure or a first
    /// success; `interval` when absent.
    pub fast_interval: Option<Duration>,
    /// The same of a server that is down; `interval` when absent.
    pub down_interval: Option<Duration>,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row that make a server usable.
    pub rise: u32,
    /// Failures in a row that make it unusable.
    pub fall: u32,
    /// Whether a connection that fails counts as a check that failed.
    pub passive: bool,
}

impl Check {
    /// One with the defaults.
    #[must_use]
    pub const fn new(kind: CheckKind) -> Self {
        let second = Duration::from_secs(1);
        Self {
            kind,
            port: None,
            interval: second,
            fast_interval: None,
            down_interval: None,
            timeout: second,
            rise: 2,
            fall: 3,
            passive: true,
        }
    }
}

/// The source address of connections to servers.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Source {
    /// What the kernel chooses.
    Auto,
    /// The address that the client connected to, of the server's family.
    Vip,
    /// This one.
    Address(IpAddr),
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// What happens to the sessions of a server that is down.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OnDown {
    /// They are closed.
    Close,
    /// They go on.
    Drain,
}

/// What happens to the sessions of a server that has lost the role its pool wants.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OnDemote {
    /// They are closed at once.
    Close,
    /// They are closed after this time.
    Drain(Duration),
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
    /// Sessions at a time that this pool sends to servers of its fallback;
    /// unbounded when absent.
    pub fallback_max_connections: Option<u32>,
    /// How its servers are checked; without a check every server counts as usable.
    pub check: Option<Check>,
    /// A connection to a server that takes longer is given up.
    pub connect_timeout: Duration,
    /// Further servers tried when a connection fails.
    pub retries: u32,
    /// Clients that may wait for a server to have room; 0 refuses them at once.
    pub queue: u32,
    /// A client that has waited for this long is refused.
    pub queue_timeout: Duration,
    /// A server that comes up takes its full share only after this time.
    pub slow_start: Option<Duration>,
    /// Connections of a server's own limit that are left to others, where the
    /// check can read that limit.
    pub headroom: u32,
    /// The source address of connections to its servers.
    pub source: Source,
    /// The PROXY protocol header that its servers are sent.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What happens to the sessions of a server that is down.
    pub on_down: OnDown,
    /// What happens to the sessions of a server that has lost its role.
    pub on_demote: OnDemote,
}

impl Pool {
    /// One with the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, servers: Vec<Server>) -> Self {
        Self {
            name: name.into(),
            balance: Balance::RoundRobin,
            servers,
            fallback: None,
            fallback_max_connections: None,
            check: None,
            connect_timeout: Duration::from_secs(2),
            retries: 3,
            queue: 1_000,
            queue_timeout: Duration::from_secs(5),
            slow_start: None,
            headroom: 0,
            source: Source::Auto,
            proxy_protocol: None,
            on_down: OnDown::Drain,
            on_demote: OnDemote::Close,
        }
    }
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

        let member = |priority| Member { name: String::new(), addresses: vec![], priority };
        let given = [None, NonZeroU8::new(10), NonZeroU8::new(220)].map(member);
        assert_eq!(group(3).ranking(&given), [2, 0, 1]);
        assert_eq!(group(3).ranking(&[]), [0, 1, 2]);
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
