//! From proxies to listeners and pools.

use super::super::draft::{self, Table, list, text};
use super::super::ledger::{Ledger, LineId};
use super::bind::Bind;
use super::proxy::Proxy;
use super::server::Server;
use super::{Balanced, Known};
use std::net::IpAddr;

/// A listener's default limit in the new file.
const MAX_CONNECTIONS: u64 = 1_000_000;
/// Bounds of `idle-timeout`.
const IDLE: (u64, u64) = (1000, 720 * 3_600_000);
const TEN_MINUTES: u64 = 600_000;
/// Where the status page is when nothing says it.
const STATUS_PORT: u16 = 9112;

/// Puts the tables together; what has no place is lost in the ledger.
pub(super) fn tables(
    proxies: Vec<Proxy>,
    global_maxconn: Option<(u64, LineId)>,
    known: &Known,
    ledger: &mut Ledger,
) -> Balanced {
    let mut out = Balanced::default();
    let mut bound: Vec<Bind> = Vec::new();
    let mut names = Vec::new();
    let (pages, proxies): (Vec<Proxy>, Vec<Proxy>) =
        proxies.into_iter().partition(|p| p.stats && p.servers.is_empty() && p.backend.is_none());
    for page in &pages {
        status(page, &mut out, &mut bound, ledger);
    }
    let mut pools: Vec<Pool> =
        proxies.iter().filter(|p| p.side.back()).filter_map(|p| pool(p, &proxies, known, ledger)).collect();
    for front in proxies.iter().filter(|p| p.side.front()) {
        let Some(name) = pool_of(front, &pools, ledger) else { continue };
        let back = proxies.iter().find(|p| p.side.back() && p.name == name);
        let mut listened = false;
        for bind in &front.binds {
            if let Some(other) = bound.iter().find(|b| b.clashes(bind)) {
                ledger.drop(
                    bind.line,
                    format!("{} is in the way of {}, which is taken already", bind.show(), other.show()),
                );
                continue;
            }
            let Some(pool) = pools.iter_mut().find(|p| p.old == name) else { continue };
            pool.used = true;
            bound.push(bind.clone());
            let table = listener(front, back, bind, (&pool.name, &mut names), global_maxconn, ledger);
            out.listeners.push(table);
            listened = true;
        }
        if !listened {
            ledger.lose_section(front.section, "there is no port left that it listens on");
        }
        fallbacks(front, &name, &mut pools, ledger);
    }
    unused(&mut pools, ledger);
    out.pools = pools.into_iter().flat_map(|p| std::iter::once(p.table).chain(p.check)).collect();
    out
}

/// A pool before it is written.
struct Pool {
    /// Its name in the old file.
    old: String,
    name: String,
    table: Table,
    check: Option<Table>,
    used: bool,
    fallback: bool,
}

fn status(page: &Proxy, out: &mut Balanced, bound: &mut Vec<Bind>, ledger: &mut Ledger) {
    let Some(bind) = page.binds.first().filter(|_| out.status.is_none()) else {
        ledger.lose_section(page.section, "vipd has one status page");
        return;
    };
    let mut table = Table::new("[status]", vec![page.section]);
    let local = bind.address.filter(IpAddr::is_loopback);
    table.text(
        "http",
        &std::net::SocketAddr::new(local.unwrap_or(IpAddr::from([127, 0, 0, 1])), bind.port).to_string(),
    );
    if local.is_none() {
        ledger.note(bind.line, "the page is on loopback here; for another address, and a token that protects it, see [status] in docs/configuration.md");
    }
    bound.push(bind.clone());
    out.status = Some(table);
}

/// The page of a file that says nothing of one.
pub(in crate::import) fn default_status() -> Table {
    let mut table = Table::new("[status]", vec![]);
    table.text("http", &format!("127.0.0.1:{STATUS_PORT}"));
    table
}

/// The backend of a frontend, if there is a pool of it.
fn pool_of(front: &Proxy, pools: &[Pool], ledger: &mut Ledger) -> Option<String> {
    let name = match (&front.backend, front.side.back()) {
        (Some((name, _)), _) => name.clone(),
        (None, true) => front.name.clone(),
        (None, false) => {
            ledger.lose_section(
                front.section,
                "it has no default_backend: vipd cannot tell where its connections go",
            );
            return None;
        }
    };
    if pools.iter().all(|p| p.old != name) {
        ledger.lose_section(front.section, &format!("there is no backend {name} that was carried over"));
        return None;
    }
    Some(name)
}

fn listener(
    front: &Proxy,
    back: Option<&Proxy>,
    bind: &Bind,
    (pool, names): (&str, &mut Vec<String>),
    global_maxconn: Option<(u64, LineId)>,
    ledger: &mut Ledger,
) -> Table {
    let mut table = Table::new("[[listen]]", vec![front.section]);
    table.text("name", &draft::name(&front.name, names));
    table.text("bind", &bind.show());
    table.text("pool", pool);
    let limit = bind.maxconn.map(|n| (n, bind.line)).or(front.maxconn).or(global_maxconn);
    if let Some((n, line)) = limit {
        table.number("max-connections", n.clamp(1, MAX_CONNECTIONS));
        ledger.carry(line);
        if Some((n, line)) == global_maxconn {
            ledger.note(line, "each listener has this limit of its own, all of them together have none");
        }
    }
    let all = limit.map_or(2000, |(n, _)| n);
    if let Some((n, _)) = front.per_source {
        table.number("max-connections-per-source", n.min(all));
    }
    if let Some((n, _)) = front.rate_per_source {
        table.number("max-rate-per-source", n.min(MAX_CONNECTIONS));
    }
    idle(&mut table, front, back, ledger);
    if bind.accept_proxy || !front.proxies.is_empty() {
        let all = ["0.0.0.0/0".to_owned(), "::/0".to_owned()];
        let networks: &[String] = if front.proxies.is_empty() { &all } else { &front.proxies };
        table.key("accept-proxy", list(networks.iter().map(String::as_str)));
        if front.proxies.is_empty() {
            table.advise("accept-proxy: name the proxies in front instead of the whole world; whoever is in this list may say that it is another client.");
        }
    }
    if front.log {
        table.yes("access-log");
    }
    table
}

/// One time-out for both sides, which knows who spoke last.
fn idle(table: &mut Table, front: &Proxy, back: Option<&Proxy>, ledger: &mut Ledger) {
    let server = back.and_then(|b| b.server_timeout);
    let sides = [front.client, server];
    let tunnel = front.tunnel.or(back.and_then(|b| b.tunnel));
    let shorter = sides.iter().flatten().min_by_key(|(ms, _)| *ms).copied();
    let Some((ms, _)) = tunnel.or(shorter) else { return };
    for (_, line) in sides.into_iter().flatten().chain(tunnel) {
        ledger.remark(
            line,
            "idle-timeout has one value for both sides, and ends no session whose client waits for an answer",
        );
    }
    if ms > 0 {
        table.duration("idle-timeout", ms.clamp(IDLE.0, IDLE.1) / 1000 * 1000);
    }
}

fn pool(back: &Proxy, proxies: &[Proxy], known: &Known, ledger: &mut Ledger) -> Option<Pool> {
    let port = port_of(back, proxies);
    let servers: Vec<&Server> = back.servers.iter().collect();
    let mut names: Vec<String> = Vec::new();
    let mut entries: Vec<String> = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    let mut kept: Vec<Server> = Vec::new();
    let weights = servers.iter().any(|s| s.params.weight.is_some_and(|w| w != 1));
    for server in servers {
        let address = match reach(server, port, known) {
            Ok(address) => address,
            Err(why) => {
                ledger.drop(server.line, why);
                continue;
            }
        };
        if seen.contains(&address) {
            ledger.drop(
                server.line,
                format!("{address} is in this pool already; a weight gives it a greater share"),
            );
            continue;
        }
        if server.params.tls.relay {
            ledger.drop(server.line, "ssl: vipd does not wrap clients' connections in TLS; clients that speak it themselves need no `ssl` here");
            continue;
        }
        entries.push(entry(server, &address, weights, &mut names));
        seen.push(address);
        kept.push(server.clone());
    }
    let Some(first) = kept.first().cloned() else {
        ledger.lose_section(back.section, "it has no server that could be carried over");
        return None;
    };
    let mut table = Table::new("[[pool]]", vec![back.section]);
    let mut taken: Vec<String> = vec![];
    let name = draft::name(&back.name, &mut taken);
    table.text("name", &name);
    if let Some(balance) = back.balance {
        table.text("balance", balance);
    }
    table.key("servers", draft::lines(&entries));
    limits(&mut table, back, &kept, known, ledger);
    if let Some(proxy) = first.params.proxy {
        table.text("proxy-protocol", proxy);
    }
    for server in kept.iter().filter(|s| s.params.proxy != first.params.proxy) {
        ledger.note(
            server.line,
            format!(
                "a pool speaks the PROXY protocol to all of its servers or to none: as to {}",
                first.name
            ),
        );
    }
    // HAProxy keeps the sessions of a server that is down unless told otherwise, and so does vipd.
    if kept.iter().any(|s| s.params.close_on_down) {
        table.text("on-down", "close");
    }
    let check = back.checks.table(&kept, ledger);
    Some(Pool { old: back.name.clone(), name, table, check, used: false, fallback: false })
}

/// The port that servers without one have: that of the only port clients come to.
fn port_of(back: &Proxy, proxies: &[Proxy]) -> Option<u16> {
    let leads = |p: &&Proxy| {
        p.side.front() && (p.name == back.name || p.backend.as_ref().is_some_and(|(b, _)| *b == back.name))
    };
    let mut ports: Vec<u16> =
        proxies.iter().filter(leads).flat_map(|p| p.binds.iter().map(|b| b.port)).collect();
    ports.dedup();
    match ports.as_slice() {
        [one] => Some(*one),
        _ => None,
    }
}

/// The address of a server in the new file.
fn reach(server: &Server, port: Option<u16>, known: &Known) -> Result<String, String> {
    if server.resolve == Some("srv") {
        return Ok(server.host.clone());
    }
    let port = server.port.or(port).ok_or("it has no port, and its clients come to several")?;
    let bare = server.host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        if known.vips.contains(&ip) {
            return Err("it is on a VIP, which leads to whichever node owns it".into());
        }
        if ip.is_unspecified() || ip.is_multicast() {
            return Err("no server can have this address".into());
        }
    }
    Ok(format!("{}:{port}", server.host))
}

/// A server as a table in one line.
fn entry(server: &Server, address: &str, weights: bool, names: &mut Vec<String>) -> String {
    let params = &server.params;
    let mut keys = vec![
        format!("name = {}", text(&draft::name(&server.name, names))),
        format!("address = {}", text(address)),
    ];
    if let Some(resolve) = server.resolve {
        keys.push(format!("resolve = {}", text(resolve)));
    }
    if weights {
        // HAProxy's default weight is 1, vipd's is 100.
        keys.push(format!("weight = {}", params.weight.unwrap_or(1).min(256)));
    }
    if let Some(n) = params.maxconn {
        keys.push(format!("max-connections = {}", n.min(MAX_CONNECTIONS)));
    }
    if params.backup {
        keys.push("backup = true".into());
    }
    format!("{{ {} }}", keys.join(", "))
}

fn limits(table: &mut Table, back: &Proxy, servers: &[Server], known: &Known, ledger: &mut Ledger) {
    let mut within = |key: &str, value: Option<(u64, LineId)>| {
        if let Some((ms, line)) = value {
            table.duration(key, ms.clamp(1, TEN_MINUTES));
            ledger.carry(line);
        }
    };
    within("connect-timeout", back.connect);
    within("queue-timeout", back.queue);
    if let Some((n, _)) = back.retries {
        table.number("retries", n);
    }
    let queues: u64 = servers.iter().filter_map(|s| s.params.maxqueue).sum();
    if queues > 0 {
        table.number("queue", queues.min(MAX_CONNECTIONS));
    }
    if let Some(ms) = servers.iter().filter_map(|s| s.params.slowstart).max().filter(|ms| *ms > 0) {
        table.duration("slow-start", ms.min(86_400_000));
    }
    let own = servers.iter().find_map(|s| s.params.source.clone().map(|source| (source, s.line)));
    let Some((source, line)) = back.source.clone().or(own) else { return };
    let host = source.split(':').next().unwrap_or_default().parse::<IpAddr>();
    match host {
        Ok(ip) if known.vips.contains(&ip) => {
            table.text("source", "vip");
            ledger.note(line, "source: sessions come from the floating address, checks from each host's own");
        }
        Ok(ip) if known.nodes.contains(&ip) => {
            ledger.note(line, "source: every node connects from its own address by itself");
        }
        Ok(ip) if !ip.is_unspecified() => {
            table.text("source", &ip.to_string());
            ledger.note(line, "source: checks come from it too, unless it becomes an address of a [[vip]]");
        }
        Ok(_) | Err(_) => ledger.note(line, "source: this address could not be carried over"),
    }
}

/// `use_backend b if { nbsrv(a) lt 1 }`: b is the fallback of a.
fn fallbacks(front: &Proxy, default: &str, pools: &mut [Pool], ledger: &mut Ledger) {
    for (to, of, line) in &front.fallbacks {
        let target = pools.iter().find(|p| p.old == *to).map(|p| p.name.clone());
        let fits = of == default && to != of;
        let pool = pools.iter_mut().find(|p| p.old == *of && !p.fallback);
        match (target, pool) {
            (Some(name), Some(pool)) if fits => {
                pool.table.text("fallback", &name);
                pool.fallback = true;
                ledger.carry(*line);
                if let Some(target) = pools.iter_mut().find(|p| p.old == *to) {
                    target.used = true;
                }
            }
            (_, _) => ledger.lose(*line, "a pool has one fallback, for when it has no usable server itself"),
        }
    }
}

/// Pools that nothing leads to are left out: they would only be warned of.
fn unused(pools: &mut Vec<Pool>, ledger: &mut Ledger) {
    pools.retain(|pool| {
        if !pool.used {
            for section in &pool.table.from {
                ledger.lose_section(*section, "no listener that was carried over leads to it");
            }
        }
        pool.used
    });
}
