//! The file as it is written: a struct for each table, a field for each key.
//!
//! Nothing is missing or wrong at this level; [`crate::check`] judges.

use crate::On;
use crate::address::{Endpoint, EtcdUrl, HostField, HostName, Network, NodeAddress, Socket};
use crate::choice::{Kind, Unsealed, Version};
use crate::dnsd::DnsName;
use crate::report::{Problem, quote};
use crate::shape::{Field, List, OneOrMore, Section, Shape, Table, keys_of};
use crate::value::{
    Command, Count, FilePath, Interface, Lease, Method, Name, Number, Path, Plain, Port, Prefix, Reference,
    ServerName, StatusCodes, Text, Url, User, ZoneId,
};
use serde::Deserialize;
use serde::de::MapAccess;
use std::time::Duration;
use vipd_core::settings::{
    Balance, Bind, Cidr, Heartbeat, KeyAlgorithm, OnDown, OnNoQuorum, Policy, ProxyProtocol, Quorum,
    RecordForm, Resolve, Role, Source, Transport, WhenAllDown,
};

macro_rules! sections {
    ($($section:ident = $name:literal, later $later:expr;)*) => {
        $(impl Section for $section {
            const NAME: &'static str = $name;
            const LATER: &'static [(&'static str, Option<&'static str>)] = $later;
        })*

        /// Every section with its keys.
        pub(crate) fn sections() -> Vec<(&'static str, &'static [&'static str])> {
            vec![$(($name, keys_of::<$section>())),*]
        }
    };
}

sections! {
    Spec = "the file", later &[];
    ClusterSpec = "[cluster]", later &[];
    NodeSpec = "a node of [cluster]", later &[];
    WitnessSpec = "a witness of [cluster]", later &[];
    ElectionSpec = "[election]", later &[];
    EtcdSpec = "[etcd]", later &[];
    VipSpec = "[[vip]]", later &[];
    ListenSpec = "[[listen]]", later &[];
    PoolSpec = "[[pool]]", later &[];
    DemoteSpec = "on-demote of [[pool]]", later &[];
    ServerSpec = "a server of [[pool]]", later &[];
    CheckSpec = "[pool.check]", later &[];
    DnsSpec = "[dns]", later &[];
    Rfc2136Spec = "[dns.rfc2136]", later &[];
    Route53Spec = "[dns.route53]", later &[];
    PublicAddressesSpec = "public addresses of [dns]", later &[];
    HealthCheckSpec = "a health check of [dns.route53]", later &[];
    StatusSpec = "[status]", later &[];
    NotifySpec = "[[notify]]", later &[];
}

/// The sections that know a key.
pub(crate) fn homes(key: &str) -> impl Iterator<Item = &'static str> {
    sections().into_iter().filter(move |(_, keys)| keys.contains(&key)).map(|(name, _)| name)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Spec {
    pub(crate) cluster: Field<Table<ClusterSpec>>,
    pub(crate) election: Field<Table<ElectionSpec>>,
    pub(crate) etcd: Field<Table<EtcdSpec>>,
    pub(crate) vip: Field<List<Table<VipSpec>>>,
    pub(crate) listen: Field<List<Table<ListenSpec>>>,
    pub(crate) pool: Field<List<Table<PoolSpec>>>,
    pub(crate) dns: Field<Table<DnsSpec>>,
    pub(crate) status: Field<Table<StatusSpec>>,
    pub(crate) notify: Field<List<Table<NotifySpec>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct ClusterSpec {
    pub(crate) name: Field<Name>,
    pub(crate) nodes: Field<List<Table<NodeSpec>>>,
    pub(crate) witnesses: Field<List<Table<WitnessSpec>>>,
    pub(crate) peer_port: Field<Port>,
    pub(crate) key_file: Field<FilePath>,
    pub(crate) unsealed: Field<Unsealed>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct NodeSpec {
    pub(crate) name: Field<Name>,
    pub(crate) address: Field<NodeAddress>,
    pub(crate) addresses: Field<List<NodeAddress>>,
    pub(crate) priority: Field<Number<1, 255>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct WitnessSpec {
    pub(crate) name: Field<Name>,
    pub(crate) address: Field<NodeAddress>,
    pub(crate) addresses: Field<List<NodeAddress>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct ElectionSpec {
    pub(crate) advert_interval: Field<Duration>,
    pub(crate) vrrp_version: Field<Version>,
    pub(crate) transport: Field<Transport>,
    pub(crate) preempt: Field<bool>,
    pub(crate) preempt_delay: Field<Duration>,
    pub(crate) start_delay: Field<Duration>,
    pub(crate) lease: Field<Lease>,
    pub(crate) quorum: Field<Quorum>,
    pub(crate) on_no_quorum: Field<OnNoQuorum>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct EtcdSpec {
    pub(crate) endpoints: Field<List<EtcdUrl>>,
    pub(crate) prefix: Field<Prefix>,
    pub(crate) lease: Field<Lease>,
    pub(crate) user: Field<User>,
    pub(crate) password_file: Field<FilePath>,
    pub(crate) tls_ca_file: Field<FilePath>,
    pub(crate) tls_name: Field<HostName>,
    pub(crate) tls_cert_file: Field<FilePath>,
    pub(crate) tls_key_file: Field<FilePath>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct VipSpec {
    pub(crate) name: Field<Name>,
    pub(crate) addresses: Field<List<Cidr>>,
    pub(crate) interface: Field<Interface>,
    pub(crate) vrid: Field<Number<1, 255>>,
    pub(crate) nodes: Field<List<Reference>>,
    pub(crate) track: Field<List<Reference>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct ListenSpec {
    pub(crate) name: Field<Name>,
    pub(crate) bind: Field<Bind>,
    pub(crate) pool: Field<Reference>,
    pub(crate) max_connections: Field<Count>,
    pub(crate) max_connections_per_source: Field<Count>,
    pub(crate) max_rate_per_source: Field<Count>,
    pub(crate) idle_timeout: Field<Duration>,
    pub(crate) max_session_age: Field<Duration>,
    pub(crate) max_busy_session_age: Field<Duration>,
    pub(crate) stall_timeout: Field<Duration>,
    pub(crate) tcp_keepalive: Field<Duration>,
    pub(crate) tcp_user_timeout: Field<Duration>,
    pub(crate) accept_proxy: Field<List<Network>>,
    pub(crate) access_log: Field<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct PoolSpec {
    pub(crate) name: Field<Name>,
    pub(crate) balance: Field<Balance>,
    pub(crate) servers: Field<List<ServerEntry>>,
    pub(crate) fallback: Field<Reference>,
    pub(crate) fallback_max_connections: Field<Count>,
    pub(crate) connect_timeout: Field<Duration>,
    pub(crate) retries: Field<Number<0, 100>>,
    pub(crate) queue: Field<Number<0, 1_000_000>>,
    pub(crate) queue_timeout: Field<Duration>,
    pub(crate) slow_start: Field<Duration>,
    pub(crate) headroom: Field<Number<0, 1_000_000>>,
    pub(crate) max_rate: Field<Count>,
    pub(crate) source: Field<Source>,
    pub(crate) proxy_protocol: Field<Option<ProxyProtocol>>,
    pub(crate) on_down: Field<OnDown>,
    pub(crate) on_demote: Field<DemoteEntry>,
    pub(crate) check: Field<Table<CheckSpec>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct DemoteSpec {
    pub(crate) drain: Field<Duration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct ServerSpec {
    pub(crate) name: Field<ServerName>,
    pub(crate) address: Field<Text>,
    pub(crate) resolve: Field<Resolve>,
    pub(crate) weight: Field<Number<0, 256>>,
    pub(crate) max_connections: Field<Count>,
    pub(crate) max_rate: Field<Count>,
    pub(crate) backup: Field<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct CheckSpec {
    pub(crate) kind: Field<Kind>,
    pub(crate) port: Field<Port>,
    pub(crate) interval: Field<Duration>,
    pub(crate) fast_interval: Field<Duration>,
    pub(crate) down_interval: Field<Duration>,
    pub(crate) timeout: Field<Duration>,
    pub(crate) rise: Field<Number<1, 1000>>,
    pub(crate) fall: Field<Number<1, 1000>>,
    pub(crate) passive: Field<bool>,
    pub(crate) send: Field<Text>,
    pub(crate) expect: Field<Text>,
    pub(crate) method: Field<Method>,
    pub(crate) path: Field<Path>,
    pub(crate) host: Field<HostField>,
    pub(crate) status: Field<OneOrMore<StatusCodes>>,
    pub(crate) user: Field<User>,
    pub(crate) password_file: Field<FilePath>,
    pub(crate) database: Field<Plain>,
    pub(crate) role: Field<Role>,
    pub(crate) max_lag: Field<Duration>,
    pub(crate) heartbeat: Field<Heartbeat>,
    pub(crate) galera: Field<bool>,
    pub(crate) galera_donors: Field<bool>,
    pub(crate) group_replication: Field<bool>,
    pub(crate) command: Field<Command>,
    pub(crate) tls: Field<bool>,
    pub(crate) tls_verify: Field<bool>,
    pub(crate) tls_ca_file: Field<FilePath>,
    pub(crate) tls_name: Field<HostName>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct DnsSpec {
    pub(crate) name: Field<DnsName>,
    pub(crate) ttl: Field<Duration>,
    pub(crate) policy: Field<Policy>,
    pub(crate) vip: Field<Reference>,
    pub(crate) vrid: Field<Number<1, 255>>,
    pub(crate) track: Field<List<Reference>>,
    pub(crate) when_all_down: Field<WhenAllDown>,
    pub(crate) hold_down: Field<Duration>,
    pub(crate) repair: Field<bool>,
    pub(crate) public_addresses: Field<List<Table<PublicAddressesSpec>>>,
    pub(crate) rfc2136: Field<Table<Rfc2136Spec>>,
    pub(crate) route53: Field<Table<Route53Spec>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct PublicAddressesSpec {
    pub(crate) node: Field<Reference>,
    pub(crate) addresses: Field<List<NodeAddress>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Rfc2136Spec {
    pub(crate) servers: Field<List<Socket>>,
    pub(crate) zone: Field<DnsName>,
    pub(crate) key_name: Field<DnsName>,
    pub(crate) key_algorithm: Field<KeyAlgorithm>,
    pub(crate) key_file: Field<FilePath>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Route53Spec {
    pub(crate) zone_id: Field<ZoneId>,
    pub(crate) records: Field<RecordForm>,
    pub(crate) health_checks: Field<List<Table<HealthCheckSpec>>>,
    pub(crate) endpoint_url: Field<Url>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct HealthCheckSpec {
    pub(crate) node: Field<Reference>,
    pub(crate) id: Field<Plain>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct StatusSpec {
    pub(crate) http: Field<Socket>,
    pub(crate) token_file: Field<FilePath>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct NotifySpec {
    pub(crate) name: Field<Name>,
    pub(crate) command: Field<Command>,
    pub(crate) on: Field<List<On>>,
    pub(crate) user: Field<User>,
    pub(crate) timeout: Field<Duration>,
}

/// A server: `"host:port"` or a table.
#[derive(Debug)]
pub(crate) enum ServerEntry {
    Short(Endpoint),
    Long(Box<Table<ServerSpec>>),
}

impl Shape for ServerEntry {
    const EXPECTED: &'static str = "\"host:port\" or { name = ..., address = \"host:port\" }";

    fn text(text: &str) -> Result<Self, Problem> {
        Endpoint::text(text).map(Self::Short)
    }

    fn table<'de, A: MapAccess<'de>>(table: A) -> Result<Result<Self, Problem>, A::Error> {
        Ok(<Table<ServerSpec> as Shape>::table(table)?.map(|table| Self::Long(Box::new(table))))
    }
}

/// What happens to the sessions of a demoted server: `"close"` or a table.
#[derive(Debug)]
pub(crate) enum DemoteEntry {
    Close,
    Drain(Table<DemoteSpec>),
}

impl Shape for DemoteEntry {
    const EXPECTED: &'static str = "\"close\" or { drain = \"30s\" }";

    fn text(text: &str) -> Result<Self, Problem> {
        match text {
            "close" => Ok(Self::Close),
            _ => Err(Problem::new(format!("{} is not {}", quote(text), Self::EXPECTED))),
        }
    }

    fn table<'de, A: MapAccess<'de>>(table: A) -> Result<Result<Self, Problem>, A::Error> {
        Ok(<Table<DemoteSpec> as Shape>::table(table)?.map(Self::Drain))
    }
}
