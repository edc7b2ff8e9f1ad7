//! What operators ask of the running daemon, and what they are told.

use super::status::{self, Known, counted, rejected_lines, server_why};
use crate::control::api::{DnsDoc, ServerOrder, SessionsDoc, Which};
use crate::control::call::{Refusal, Reply};
use std::collections::BTreeSet;
use tokio::runtime::Handle;
use vipd_balancer::Balancer;
use vipd_core::explain::{count, deaf};
use vipd_core::node::{GroupStatus, Node};
use vipd_core::peers::TWINS;
use vipd_core::time::Time;
/// Servers that are named to somebody who asks for one that is not there.
const NAMED: usize = 30;

/// Why things are as they are: of a VIP, of a published name, of a pool, of a
/// server, or of everything.
///
/// # Errors
/// There is no such VIP, name, pool or server.
pub fn why(known: &Known<'_>, subject: Option<&str>) -> Result<String, Refusal> {
    let Known { node, stores, links, config_errors, now, .. } = *known;
    let dns = status::dns(node, stores.to_vec(), now);
    let dns = dns.as_ref();
    let link_lines = || links.map(|l| status::link_lines(node, l, now)).unwrap_or_default();
    let groups = node.group_status(now);
    let me = node.settings().cluster.nodes.get(node.me()).map_or("?", |n| n.name.as_str());
    let group_line = |g: &GroupStatus| format!("{}: {me} is {} because {}", g.name, g.state.as_str(), g.why);
    let mut lines = match subject {
        None => {
            let mut lines: Vec<String> = config_lines(config_errors);
            lines.extend(groups.iter().map(group_line));
            lines.extend(dns.into_iter().flat_map(dns_lines));
            lines.extend(peer_lines(node, now));
            lines.extend(link_lines());
            lines.extend(server_lines(known, |_, _| true));
            lines.extend(rejected_lines(node, now));
            lines
        }
        Some(subject) => match (groups.iter().find(|g| g.name == subject), subject.split_once('/')) {
            (Some(group), _) => {
                let mut lines = vec![group_line(group)];
                lines.extend(peer_lines(node, now));
                lines.extend(link_lines());
                lines.extend(rejected_lines(node, now));
                lines
            }
            (None, _) if dns.is_some_and(|d| is_name(&d.name, subject)) => {
                dns.into_iter().flat_map(dns_lines).collect()
            }
            (None, Some((pool, server))) => server_lines(known, |p, s| (p, s) == (pool, server)),
            (None, None) => {
                let queue = pool_line(known, subject);
                queue.into_iter().chain(server_lines(known, |p, _| p == subject)).collect()
            }
        },
    };
    if lines.is_empty() {
        let Some(subject) = subject else { return Ok("nothing is configured".to_owned()) };
        let vips = groups.iter().map(|g| g.name.clone());
        let names = dns.into_iter().map(|d| d.name.clone());
        let all: Vec<String> = vips.chain(names).chain(names_of_servers(node, subject)).collect();
        let text = format!("there is no VIP, name, pool or server `{subject}`; there is {}", all.join(", "));
        return Err(Refusal(text));
    }
    lines.dedup();
    Ok(lines.join("\n"))
}

/// The pools, and the servers that somebody may mean who asked for this: those
/// of the pool in it, or a few of all.
fn names_of_servers(node: &Node, asked: &str) -> Vec<String> {
    let pools = node.settings().pools.iter().map(|p| p.name.clone());
    let of = asked.split_once('/').map(|(pool, _)| pool);
    let of = of.filter(|pool| node.settings().pools.iter().any(|p| p.name == *pool));
    let servers = node.servers().status().filter(|s| of.is_none_or(|pool| s.pool.name == pool));
    let mut servers = servers.map(|s| format!("{}/{}", s.pool.name, s.server.name));
    let mut names: Vec<String> = pools.chain(servers.by_ref().take(NAMED)).collect();
    let more = servers.count();
    names.extend((more > 0).then(|| format!("and {more} more servers")));
    names
}

/// Why servers are as they are, of those that `wanted` accepts by pool and name.
fn server_lines(known: &Known<'_>, wanted: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let counted = counted(known.stats);
    let asked = known.node.servers().status().filter(|s| wanted(&s.pool.name, &s.server.name));
    asked
        .map(|s| {
            let (pool, server, state) = (&s.pool.name, &s.server.name, s.reason.state());
            let counted = counted.get(&(&**pool, &**server)).copied();
            format!("{pool}/{server}: {state} because {}", server_why(&s, counted, known))
        })
        .collect()
}

/// What a pool's clients wait for, and what it borrows.
fn pool_line(known: &Known<'_>, pool: &str) -> Option<String> {
    let counted = known.stats.pools.iter().find(|p| p.pool == pool)?;
    let settings = known.node.settings().pools.iter().find(|p| p.name == pool)?;
    let waiting = count(counted.queued.into(), "client");
    let most = settings.fallback_max_connections;
    let most = most.map_or_else(String::new, |most| format!(" (fallback-max-connections is {most})"));
    let borrowed = count(counted.fallback_sessions.into(), "session");
    let primary = primary(known.node, pool);
    Some(format!("{pool}: {waiting} in its queue, {borrowed} on servers of its fallback{most}{primary}"))
}

/// Which primary a pool follows, and who follows another.
fn primary(node: &Node, pool: &str) -> String {
    let Some(at) = node.settings().pools.iter().position(|p| p.name == pool) else { return String::new() };
    let epoch = node.servers().epoch(at);
    if epoch == 0 {
        return String::new();
    }
    let status = node.servers().status().find(|s| s.key.pool == at && s.incumbent);
    let here = status.map_or("none that is reached from here", |s| s.server.name.as_str());
    let others = node.disagreeing(at);
    let others = others.iter().map(|(node, server)| format!("; {node} follows {server}")).collect::<String>();
    format!("; its primary is {here} (epoch {epoch}){others}")
}

/// Whether somebody means this name, with or without its last dot.
fn is_name(name: &str, asked: &str) -> bool {
    name.trim_end_matches('.').eq_ignore_ascii_case(asked.trim_end_matches('.'))
}

/// Who is in the records and who is not, and how the servers are that keep them.
fn dns_lines(dns: &DnsDoc) -> Vec<String> {
    let name = &dns.name;
    let mut lines = vec![match &dns.writer {
        Some(writer) => format!("{name}: {writer} writes; {}", dns.why.join("; ")),
        None => format!("{name}: nobody writes; {}", dns.why.join("; ")),
    }];
    for store in &dns.stores {
        let has = match store.published.as_slice() {
            [] => "nothing".to_owned(),
            published => published.join(", "),
        };
        let trouble = store.error.iter().chain(&store.drift).map(|t| format!("; {t}")).collect::<String>();
        let state = if store.in_sync { "as it should be" } else { "not as it should be" };
        lines.push(format!("{name} at {}: {has} (epoch {}), {state}{trouble}", store.place, store.epoch));
    }
    lines
}

/// That the newest configuration was refused, and why.
fn config_lines(errors: &[String]) -> Vec<String> {
    let title = "the newest configuration was refused, the one before is in force:".to_owned();
    let lines = errors.iter().map(|error| format!("  {error}"));
    std::iter::once(title).filter(|_| !errors.is_empty()).chain(lines).collect()
}

/// What is wrong with peers: one that is silent, is two, or has other settings.
fn peer_lines(node: &Node, now: Time) -> Vec<String> {
    let nodes = node.settings().cluster.nodes.iter().zip(node.peers()).enumerate();
    let others = nodes.filter(|(n, _)| *n != node.me());
    others
        .filter_map(|(_, (member, peer))| {
            let name = &member.name;
            if !peer.alive {
                return Some(format!("{name} is not heard"));
            }
            if peer.has_twin(now) {
                return Some(format!("{name}: {TWINS}"));
            }
            if peer.is_deaf() {
                return Some(deaf(name));
            }
            if !peer.differs.is_empty() {
                let keys = peer.differs.join(", ");
                return Some(format!("{name} has other settings than this node: {keys}"));
            }
            None
        })
        .collect()
}

/// Asks something of a server.
///
/// # Errors
/// There is no such server.
pub fn server(
    node: &mut Node,
    pool: &str,
    server: &str,
    order: ServerOrder,
    now: Time,
) -> Result<String, Refusal> {
    let warning = node.set_admin(pool, server, order.into(), now).map_err(Refusal)?;
    Ok(with_warning(format!("{pool}/{server}: {order}"), warning))
}

/// Gives a server a weight, or that of the file again.
///
/// # Errors
/// There is no such server.
pub fn weight(
    node: &mut Node,
    pool: &str,
    server: &str,
    weight: Option<u16>,
    now: Time,
) -> Result<String, Refusal> {
    let warning = node.set_weight(pool, server, weight, now).map_err(Refusal)?;
    let weight = weight.map_or_else(|| "that of the file".to_owned(), |w| w.to_string());
    Ok(with_warning(format!("{pool}/{server}: weight {weight}"), warning))
}

fn with_warning(done: String, warning: Option<String>) -> String {
    match warning {
        Some(warning) => format!("{done}\nwarning: {warning}"),
        None => done,
    }
}

/// Lists sessions; the workers' answers are waited for elsewhere.
pub fn sessions(
    balancer: &Balancer,
    elsewhere: &Handle,
    which: Which,
    reply: Reply<Result<SessionsDoc, Refusal>>,
) {
    let unknown = unknown(balancer, &which);
    let listing = balancer.list(which.into());
    elsewhere.spawn(async move {
        let answer = match listing {
            Err(error) => Err(Refusal(error.to_string())),
            Ok(listing) => match (SessionsDoc::from(listing.await), unknown) {
                (doc, Some(unknown)) if doc.sessions.is_empty() => Err(unknown),
                (doc, _) => Ok(doc),
            },
        };
        // Nobody waits any more if this fails.
        let _ = reply.send(answer);
    });
}

/// Ends sessions; the workers' answers are waited for elsewhere.
pub fn kill(balancer: &Balancer, elsewhere: &Handle, which: Which, reply: Reply<Result<String, Refusal>>) {
    let unknown = unknown(balancer, &which);
    let nothing = match &which {
        Which::Id(id) => Some(Refusal(format!("there is no session {id}"))),
        Which::All | Which::Named(_) | Which::Server { .. } | Which::Client(_) => unknown,
    };
    let killing = balancer.kill(which.into());
    elsewhere.spawn(async move {
        let answer = match killing {
            Err(error) => Err(Refusal(error.to_string())),
            Ok(killing) => match (killing.await, nothing) {
                (0, Some(nothing)) => Err(nothing),
                (killed, _) => Ok(format!("reset {}", count(killed, "session"))),
            },
        };
        let _ = reply.send(answer);
    });
}

/// The refusal of a name that nothing has any more, if no session has it either.
fn unknown(balancer: &Balancer, which: &Which) -> Option<Refusal> {
    let stats = balancer.stats();
    let (what, known): (_, BTreeSet<String>) = match which {
        Which::Named(_) => {
            let listeners = stats.listeners.into_iter().map(|l| l.name);
            ("listener or pool", listeners.chain(stats.pools.into_iter().map(|p| p.pool)).collect())
        }
        Which::Server { .. } => {
            let servers = stats.servers.into_iter();
            ("server", servers.map(|s| format!("{}/{}", s.pool, s.server)).collect())
        }
        Which::All | Which::Client(_) | Which::Id(_) => return None,
    };
    let asked = which.to_string();
    if known.contains(&asked) {
        return None;
    }
    let known: Vec<String> = known.into_iter().collect();
    Some(Refusal(format!("there is no {what} `{asked}`; there is {}", known.join(", "))))
}
