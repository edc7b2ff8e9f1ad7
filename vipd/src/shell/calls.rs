//! What operators ask of the running daemon, and what they are told.

use super::status::{rejected_lines, server_why};
use crate::control::api::{Moved, ServerOrder, SessionsDoc, Which};
use crate::control::call::{Refusal, Reply};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::runtime::Handle;
use vipd_balancer::Balancer;
use vipd_core::explain::count;
use vipd_core::node::{GroupStatus, Node};
use vipd_core::time::Time;
use vipd_core::wire::peer::State;

/// A switchover that nobody has completed by then has failed.
const SWITCHOVER_FOR: Duration = Duration::from_secs(5);

/// Why things are as they are: of a VIP, of a server, or of everything.
/// `config_errors` are those of a reload that was refused.
///
/// # Errors
/// There is no such VIP or server.
pub fn why(
    node: &Node,
    config_errors: &[String],
    subject: Option<&str>,
    now: Time,
) -> Result<String, Refusal> {
    let groups = node.group_status(now);
    let me = node.settings().cluster.nodes.get(node.me()).map_or("?", |n| n.name.as_str());
    let group_line = |g: &GroupStatus| format!("{}: {me} is {} because {}", g.name, g.state.as_str(), g.why);
    let server_lines = |wanted: Option<(&str, &str)>| -> Vec<String> {
        let all = node.servers().status();
        let asked = all.filter(|s| wanted.is_none_or(|(p, n)| s.pool.name == p && s.server.name == n));
        asked
            .map(|s| {
                let state = s.reason.state();
                format!("{}/{}: {state} because {}", s.pool.name, s.server.name, server_why(&s, now))
            })
            .collect()
    };
    let mut lines = match subject {
        None => {
            let mut lines: Vec<String> = config_lines(config_errors);
            lines.extend(groups.iter().map(group_line));
            lines.extend(peer_lines(node));
            lines.extend(server_lines(None));
            lines.extend(rejected_lines(node, now));
            lines
        }
        Some(subject) => match (groups.iter().find(|g| g.name == subject), subject.split_once('/')) {
            (Some(group), _) => {
                let mut lines = vec![group_line(group)];
                lines.extend(peer_lines(node));
                lines.extend(rejected_lines(node, now));
                lines
            }
            (None, Some((pool, server))) => server_lines(Some((pool, server))),
            (None, None) => vec![],
        },
    };
    if lines.is_empty() {
        let Some(subject) = subject else { return Ok("nothing is configured".to_owned()) };
        let vips = groups.iter().map(|g| g.name.clone());
        let servers = node.servers().status().map(|s| format!("{}/{}", s.pool.name, s.server.name));
        let known: Vec<String> = vips.chain(servers).collect();
        return Err(Refusal(format!("there is no VIP or server `{subject}`; there is {}", known.join(", "))));
    }
    lines.dedup();
    Ok(lines.join("\n"))
}

/// That the newest configuration was refused, and why.
fn config_lines(errors: &[String]) -> Vec<String> {
    let title = "the newest configuration was refused, the one before is in force:".to_owned();
    let lines = errors.iter().map(|error| format!("  {error}"));
    std::iter::once(title).filter(|_| !errors.is_empty()).chain(lines).collect()
}

/// What is wrong with peers: one that is silent, or has other settings.
fn peer_lines(node: &Node) -> Vec<String> {
    let nodes = node.settings().cluster.nodes.iter().zip(node.peers()).enumerate();
    let others = nodes.filter(|(n, _)| *n != node.me());
    others
        .filter_map(|(_, (member, peer))| {
            let name = &member.name;
            if !peer.alive {
                return Some(format!("{name} is not heard"));
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

/// A switchover that an operator waits for.
#[derive(Debug)]
pub struct Switchover {
    reply: Reply<Result<Vec<Moved>, Refusal>>,
    from: String,
    waiting: Vec<String>,
    moved: Vec<Moved>,
    began: Time,
}

impl Switchover {
    /// Begins to hand over a VIP, or all that this node owns; answers at once
    /// if that cannot begin.
    pub fn begin(
        node: &mut Node,
        vip: Option<String>,
        to: Option<&str>,
        reply: Reply<Result<Vec<Moved>, Refusal>>,
        now: Time,
    ) -> Option<Self> {
        let owned =
            || node.group_status(now).into_iter().filter(|g| g.state == State::Active).map(|g| g.name);
        let vips: Vec<String> = vip.map_or_else(|| owned().collect(), |vip| vec![vip]);
        let refuse = |reply: Reply<_>, why: String| {
            // Nobody waits any more if this fails.
            let _ = reply.send(Err(Refusal(why)));
            None
        };
        if vips.is_empty() {
            let elsewhere: Vec<String> = node
                .group_status(now)
                .into_iter()
                .map(|g| format!("{} is on {}", g.name, g.owner.unwrap_or_else(|| "no node".to_owned())))
                .collect();
            return refuse(reply, format!("this node owns no VIP: {}", elsewhere.join(", ")));
        }
        for vip in &vips {
            if let Err(why) = node.switchover(vip, to, now) {
                return refuse(reply, why);
            }
        }
        let from = node.settings().cluster.nodes.get(node.me()).map(|n| n.name.clone()).unwrap_or_default();
        Some(Self { reply, from, waiting: vips, moved: vec![], began: now })
    }

    /// Looks how far it is; answers and is gone when it is at its end.
    #[must_use]
    pub fn look(mut self, node: &Node, now: Time) -> Option<Self> {
        let took_us = u64::try_from((now - self.began).as_micros()).unwrap_or(u64::MAX);
        let groups = node.group_status(now);
        for vip in std::mem::take(&mut self.waiting) {
            let Some(group) = groups.iter().find(|g| g.name == vip) else { continue };
            match (group.state, &group.owner) {
                (State::Backup, Some(owner)) => {
                    let (from, owner) = (self.from.clone(), owner.clone());
                    self.moved.push(Moved { vip, from, owner, took_us });
                }
                (State::Active, _) if !group.switching => {
                    let why = format!("{vip} stays here: the other node did not answer; see `vipctl events`");
                    let _ = self.reply.send(Err(Refusal(why)));
                    return None;
                }
                (State::Active | State::Backup | State::Init | State::Fault, _) => self.waiting.push(vip),
            }
        }
        if self.waiting.is_empty() {
            let _ = self.reply.send(Ok(self.moved));
            return None;
        }
        if now - self.began > SWITCHOVER_FOR {
            let why = format!("{} was given up here and nobody has taken it yet", self.waiting.join(", "));
            let _ = self.reply.send(Err(Refusal(why)));
            return None;
        }
        Some(self)
    }
}
