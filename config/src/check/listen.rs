//! `[[listen]]`.

use super::cluster::Cluster;
use super::election::within;
use super::{Names, clash};
use crate::report::{At, Problem, Report};
use crate::spec::ListenSpec;
use crate::value::Number;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use vipd_core::settings::{Bind, Listener, VipGroup};

const DEFAULT_MAX_CONNECTIONS: u32 = 2000;
const MIN_IDLE: Duration = Duration::from_secs(1);
/// Thirty days.
const MAX_IDLE: Duration = Duration::from_secs(30 * 86_400);

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
        let Some(At { value, span }) = table else {
            names.push(None);
            listeners.pools.push(None);
            continue;
        };
        let ListenSpec { name, bind, pool, max_connections, idle_timeout } = value;
        let name = name.need("name", "each listener has a name: name = \"write\"", &span, report).ok();
        names.push(name.map(|At { value, span }| At { value: value.0, span }));
        let missing = "where it listens: bind = \"10.77.0.100:3306\", or \":3306\" for every address";
        let bind = bind.need("bind", missing, &span, report).ok();
        let missing = "the [[pool]] it serves from: pool = \"primary\"";
        let pool = pool.need("pool", missing, &span, report).ok();
        let pool =
            pool.and_then(|At { value, span }| pools.find("pool", &At { value: value.0, span }, report));
        let Number(max_connections) =
            max_connections.or("max-connections", Number(DEFAULT_MAX_CONNECTIONS), report);
        let idle_timeout = idle_timeout.ok("idle-timeout", report);
        if let Some(At { value, span }) = &idle_timeout {
            within("idle-timeout", *value, MIN_IDLE, MAX_IDLE, span, report);
        }
        listeners.pools.push(pool);
        let name = names.last().and_then(Option::as_ref).map(|n| n.value.clone()).unwrap_or_default();
        let bound = bind.as_ref().map_or(Bind { address: None, port: 0 }, |b| b.value);
        listeners.settings.push(Listener {
            max_connections,
            idle_timeout: idle_timeout.map(|t| t.value),
            ..Listener::new(name, bound, pool.unwrap_or(0))
        });
        listeners.binds.extend(bind.map(|b| (position, b)));
    }
    listeners.names = Names::new("listener", names, report);
    clashes(&listeners, status, report);
    listeners
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
