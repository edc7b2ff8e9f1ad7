//! `[[listen]]`.

use super::cluster::Cluster;
use super::election::within;
use super::pool::optional;
use super::{Names, clash, empty_list};
use crate::address::Network;
use crate::duration::show;
use crate::report::{At, Problem, Report};
use crate::shape::{Field, List};
use crate::spec::ListenSpec;
use crate::value::{Count, Number};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use vipd_core::settings::{Bind, Cidr, Listener, VipGroup};

const SECOND: Duration = Duration::from_secs(1);
const THIRTY_DAYS: Duration = Duration::from_secs(30 * 86_400);
/// As long as Linux waits by itself (tcp_keepalive_time).
const MAX_KEEPALIVE: Duration = Duration::from_secs(7_200);
const MIN_USER_TIMEOUT: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_secs(3_600);
/// Each is compared with the address of every connection.
const MAX_NETWORKS: usize = 256;

/// The listeners, and what the rest of the file is held against.
pub(super) struct Listeners {
    pub(super) settings: Vec<Listener>,
    pub(super) names: Names,
    /// The binds that could be read, with the position of their listener.
    pub(super) binds: Vec<(usize, At<Bind>)>,
    /// The pools that listeners serve from, as positions; `None` when one
    /// could not be told.
    pub(super) pools: Vec<Option<usize>>,
}

pub(super) fn judge(
    tables: Vec<Option<At<ListenSpec>>>,
    pools: &Names,
    status: Option<&At<SocketAddr>>,
    report: &mut Report<'_>,
) -> Listeners {
    let mut names = Vec::new();
    let mut listeners = Listeners {
        settings: vec![],
        names: Names { what: "listener", names: vec![] },
        binds: vec![],
        pools: vec![],
    };
    for (position, table) in tables.into_iter().enumerate() {
        let Some(At { value: spec, span }) = table else {
            names.push(None);
            listeners.pools.push(None);
            continue;
        };
        let name = spec.name.need("name", "each listener has a name: name = \"write\"", &span, report).ok();
        names.push(name.map(|At { value, span }| At { value: value.0, span }));
        let missing = "where it listens: bind = \"10.77.0.100:3306\", or \":3306\" for every address";
        let bind = spec.bind.need("bind", missing, &span, report).ok();
        let missing = "the [[pool]] it serves from: pool = \"primary\"";
        let pool = spec.pool.need("pool", missing, &span, report).ok();
        let pool =
            pool.and_then(|At { value, span }| pools.find("pool", &At { value: value.0, span }, report));
        listeners.pools.push(pool);
        let name = names.last().and_then(Option::as_ref).map(|n| n.value.clone()).unwrap_or_default();
        let bound = bind.as_ref().map_or(Bind { address: None, port: 0 }, |b| b.value);
        let defaults = Listener::new(name, bound, pool.unwrap_or(0));
        let max_connections =
            spec.max_connections.or("max-connections", Number(defaults.max_connections), report).0;
        listeners.settings.push(Listener {
            max_connections,
            max_per_source: per_source(spec.max_connections_per_source, max_connections, report),
            max_rate_per_source: spec
                .max_rate_per_source
                .ok("max-rate-per-source", report)
                .map(|r| r.value.0),
            idle_timeout: optional(spec.idle_timeout, "idle-timeout", SECOND..=THIRTY_DAYS, report),
            max_session_age: optional(spec.max_session_age, "max-session-age", SECOND..=THIRTY_DAYS, report),
            max_busy_session_age: optional(
                spec.max_busy_session_age,
                "max-busy-session-age",
                SECOND..=THIRTY_DAYS,
                report,
            ),
            stall_timeout: stall(spec.stall_timeout, defaults.stall_timeout, report),
            tcp_keepalive: keepalive(spec.tcp_keepalive, defaults.tcp_keepalive, report),
            tcp_user_timeout: optional(
                spec.tcp_user_timeout,
                "tcp-user-timeout",
                MIN_USER_TIMEOUT..=HOUR,
                report,
            ),
            accept_proxy: networks(spec.accept_proxy, report),
            access_log: spec.access_log.or("access-log", defaults.access_log, report),
            ..defaults
        });
        listeners.binds.extend(bind.map(|b| (position, b)));
    }
    listeners.names = Names::new("listener", names, report);
    clashes(&listeners, status, report);
    listeners
}

fn per_source(field: Field<Count>, all: u32, report: &mut Report<'_>) -> Option<u32> {
    let At { value: Number(limit), span } = field.ok("max-connections-per-source", report)?;
    if limit > all {
        report.warning(
            &span,
            Problem::new(format!(
                "max-connections-per-source ({limit}) has no effect: the listener takes {all} of all clients"
            ))
            .hint("less than max-connections, so that one client leaves room for others"),
        );
    }
    Some(limit)
}

/// The kernel counts it in seconds (TCP_KEEPIDLE).
/// `"0s"` stands for never.
fn stall(field: Field<Duration>, default: Option<Duration>, report: &mut Report<'_>) -> Option<Duration> {
    let Some(At { value, span }) = field.ok("stall-timeout", report) else { return default };
    if value.is_zero() {
        return None;
    }
    within("stall-timeout", value, SECOND, THIRTY_DAYS, &span, report);
    Some(value)
}

fn keepalive(field: Field<Duration>, default: Duration, report: &mut Report<'_>) -> Duration {
    let Some(At { value, span }) = field.ok("tcp-keepalive", report) else { return default };
    within("tcp-keepalive", value, SECOND, MAX_KEEPALIVE, &span, report);
    if value.subsec_nanos() != 0 && value > SECOND {
        report.error(
            &span,
            Problem::new(format!("tcp-keepalive: {} is not a number of whole seconds", show(value)))
                .hint("the kernel counts it in seconds: \"30s\""),
        );
    }
    value
}

fn networks(field: Field<List<Network>>, report: &mut Report<'_>) -> Vec<Cidr> {
    let Some(At { value, span }) = field.ok("accept-proxy", report) else { return vec![] };
    let networks = value.open("accept-proxy", report);
    if networks.is_empty() {
        empty_list("accept-proxy", &span, report);
    }
    if networks.len() > MAX_NETWORKS {
        report.error(
            &span,
            Problem::new(format!(
                "accept-proxy: {} networks are too many, {MAX_NETWORKS} are allowed",
                networks.len()
            ))
            .hint("a shorter prefix holds several"),
        );
    }
    for At { value: Network(network), span } in networks.iter().flatten() {
        if network.prefix() == 0 {
            report.warning(
                span,
                Problem::new(format!(
                    "accept-proxy: {network} trusts everybody: any client may say it is another"
                ))
                .hint("list the proxies in front of this one, and nobody else"),
            );
        }
    }
    networks.into_iter().flatten().map(|n| n.value.0).collect()
}

fn clashes(listeners: &Listeners, status: Option<&At<SocketAddr>>, report: &mut Report<'_>) {
    for (i, (_, bind)) in listeners.binds.iter().enumerate() {
        let earlier = listeners.binds[..i].iter().find(|(_, other)| clash(bind.value, other.value));
        if let Some((position, other)) = earlier {
            let (name, line) = (listeners.names.show(*position), report.line(&other.span));
            let problem = if bind.value == other.value {
                Problem::new(format!("{} is taken by listener {name} already (line {line})", bind.value))
            } else {
                Problem::new(format!(
                    "{} and {} of listener {name} (line {line}) are in each other's way",
                    bind.value, other.value
                ))
            };
            report.error(&bind.span, problem.hint("another port, or an address for each"));
        }
    }
    let Some(http) = status else { return };
    let bind = Bind { address: Some(http.value.ip()), port: http.value.port() };
    if let Some((position, other)) = listeners.binds.iter().find(|(_, b)| clash(b.value, bind)) {
        let (name, line) = (listeners.names.show(*position), report.line(&other.span));
        report.error(
            &http.span,
            Problem::new(format!(
                "http: {bind} and {} of listener {name} (line {line}) are in each other's way",
                other.value
            ))
            .hint("another port, or an address for each"),
        );
    }
}

/// A listener on an address of a VIP's subnet that is nobody's: binding works
/// (the address may come later), and nobody ever reaches it.
pub(super) fn nowhere(listeners: &Listeners, cluster: &Cluster, vips: &[VipGroup], report: &mut Report<'_>) {
    let all = || vips.iter().flat_map(|v| v.addresses.iter());
    let of_node = |a: IpAddr| cluster.settings.nodes.iter().any(|n| n.addresses.contains(&a));
    for (_, bind) in &listeners.binds {
        let Some(address) = bind.value.address else { continue };
        let known = all().any(|vip| vip.address() == address) || of_node(address);
        let Some(near) = all().find(|vip| vip.contains(address)).filter(|_| !known) else { continue };
        report.warning(
            &bind.span,
            Problem::new(format!(
                "{address} is neither a VIP nor a node's address, so nobody may reach this listener"
            ))
            .hint(format!("the VIP of this subnet is {}", near.address())),
        );
    }
}
