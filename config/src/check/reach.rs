//! What pools lead to: each other, the listeners, the VIPs, the nodes.

use super::cluster::Cluster;
use super::listen::Listeners;
use super::pool::Pools;
use super::vip::Vips;
use crate::report::{At, Problem, Report};
use std::net::IpAddr;
use std::ops::Range;
use vipd_core::settings::{Bind, Host, Source};

/// Refuses fallbacks that come back to where they started, each circle once.
pub(super) fn circles(pools: &Pools, report: &mut Report<'_>) {
    let mut done = vec![false; pools.places.len()];
    for start in 0..pools.places.len() {
        let mut path = vec![start];
        let mut here = start;
        while !done[here]
            && let Some(next) = pools.settings[here].fallback
        {
            if let Some(entry) = path.iter().position(|p| *p == next) {
                circle(pools, &path[entry..], report);
                break;
            }
            path.push(next);
            here = next;
        }
        for pool in path {
            done[pool] = true;
        }
    }
}

fn circle(pools: &Pools, path: &[usize], report: &mut Report<'_>) {
    // The first of the file stands for the circle.
    let Some(start) = (0..path.len()).min_by_key(|i| path[*i]) else { return };
    let Some(At { span, .. }) = &pools.places[path[start]].1 else { return };
    let problem = match path {
        [only] => Problem::new(format!("fallback: pool {} falls back to itself", pools.names.show(*only))),
        _ => {
            let round = path[start..].iter().chain(&path[..=start]).map(|p| pools.names.show(*p));
            let round = round.collect::<Vec<_>>().join(" -> ");
            Problem::new(format!("fallback: the pools fall back in a circle: {round}"))
        }
    };
    report.error(span, problem.hint("a chain of fallbacks has an end"));
}

/// Warns of pools that no listener reaches.
pub(super) fn unused(pools: &Pools, listeners: &Listeners, report: &mut Report<'_>) {
    if listeners.pools.iter().any(Option::is_none) {
        return;
    }
    let mut reached = vec![false; pools.settings.len()];
    for pool in listeners.pools.iter().flatten() {
        for p in chain(pools, *pool) {
            reached[p] = true;
        }
    }
    for (i, (place, _)) in pools.places.iter().enumerate().filter(|(i, _)| !reached[*i]) {
        report.warning(
            place,
            Problem::new(format!("pool {} is used by no listener", pools.names.show(i)))
                .hint("name it as the pool of a [[listen]] or as the fallback of a pool"),
        );
    }
}

/// A pool with those it falls back to.
fn chain(pools: &Pools, start: usize) -> Vec<usize> {
    let mut chain = vec![start];
    let mut here = start;
    while let Some(next) = pools.settings.get(here).and_then(|p| p.fallback)
        && !chain.contains(&next)
    {
        chain.push(next);
        here = next;
    }
    chain
}

/// The servers of a pool that the file gives by address, each with its place.
fn addressed(pools: &Pools, pool: usize) -> impl Iterator<Item = (IpAddr, u16, &Range<usize>)> {
    let servers = pools.settings[pool].servers.iter().zip(&pools.servers[pool]);
    servers.filter_map(|(server, place)| match server.host {
        Host::Address(address) => Some((address, server.port, place)),
        Host::Name(_) => None,
    })
}

/// Refuses servers on a VIP: it leads to whichever node owns it, not to a database.
pub(super) fn vips(pools: &Pools, vips: &Vips, report: &mut Report<'_>) {
    for pool in 0..pools.settings.len() {
        for (address, port, place) in addressed(pools, pool) {
            let Some((group, vip)) = vips.places.iter().find(|(_, vip)| vip.value.address() == address)
            else {
                continue;
            };
            let line = report.line(&vip.span);
            let server = Bind { address: Some(address), port };
            report.error(
                place,
                Problem::new(format!("server {server} is on a VIP: {address} is of {group} (line {line})"))
                    .hint("a server's own address, not one that floats between the proxies"),
            );
        }
    }
}

/// Refuses servers that are the very listener they serve.
pub(super) fn loops(
    pools: &Pools,
    listeners: &Listeners,
    cluster: &Cluster,
    vips: &Vips,
    report: &mut Report<'_>,
) {
    let ours = |a: IpAddr| a.is_loopback() || cluster.addresses.iter().any(|(_, own)| own.value == a);
    let vip = |a: IpAddr| vips.places.iter().any(|(_, vip)| vip.value.address() == a);
    for (position, bind) in &listeners.binds {
        let Some(Some(pool)) = listeners.pools.get(*position) else { continue };
        for p in chain(pools, *pool) {
            // Those on a VIP are refused anyway.
            for (address, port, place) in addressed(pools, p).filter(|(a, ..)| !vip(*a)) {
                let same = match bind.value.address {
                    None => ours(address),
                    Some(b) if b.is_unspecified() => b.is_ipv4() == address.is_ipv4() && ours(address),
                    Some(b) => b == address,
                };
                if same && port == bind.value.port {
                    let (name, line) = (listeners.names.show(*position), report.line(&bind.span));
                    let server = Bind { address: Some(address), port };
                    report.error(
                        place,
                        Problem::new(format!(
                            "{server} is where listener {name} listens (line {line}): connections would come back for ever"
                        ))
                        .hint("a server's own address and port, not those of the proxies"),
                    );
                }
            }
        }
    }
}

/// Checks come from a given source address, too, but not from one that floats:
/// every node checks, and after a switchover the answers would go to its new owner.
pub(super) fn check_sources(pools: &mut Pools, vips: &Vips) {
    let floats = |a: &IpAddr| vips.places.iter().any(|(_, vip)| vip.value.address() == *a);
    for pool in &mut pools.settings {
        pool.check_source = match pool.source {
            Source::Address(address) => Some(address).filter(|a| !floats(a)),
            Source::Auto | Source::Vip => None,
        };
    }
}

/// Refuses a source address that one node alone has: the file is that of all.
pub(super) fn sources(pools: &Pools, cluster: &Cluster, report: &mut Report<'_>) {
    if cluster.settings.nodes.len() < 2 {
        return;
    }
    for (pool, place) in pools.settings.iter().zip(&pools.sources) {
        let (Source::Address(address), Some(place)) = (pool.source, place) else { continue };
        if let Some((node, own)) = cluster.addresses.iter().find(|(_, own)| own.value == address) {
            let (name, line) = (cluster.names.show(*node), report.line(&own.span));
            report.error(
                place,
                Problem::new(format!(
                    "source: {address} is the own address of node {name} (line {line}): no other can connect from it"
                ))
                .hint("\"auto\" is each node's own address, \"vip\" the one that the client connected to"),
            );
        }
    }
}
