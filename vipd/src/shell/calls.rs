//! What operators ask of the running daemon, and what they are told.

use super::status::{self, Known, counted, rejected_lines, server_why};
use crate::control::api::{DnsDoc, Moved, ServerOrder, SessionsDoc, Which};
use crate::control::call::{Refusal, Reply};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::runtime::Handle;
use vipd_balancer::Balancer;
use vipd_core::explain::{count, deaf};
use vipd_core::node::{GroupStatus, Node};
use vipd_core::peers::TWINS;
use vipd_core::time::Time;
use vipd_core::wire::peer::State;

/// Servers that are named to somebody who asks for one that is not there.
const NAMED: usize = 30;
/// A switchover that nobody has completed by then has failed.
const SWITCHOVER_FOR: Duration = Duration::from_secs(5);

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

/// A switchover that an operator waits for.
#[derive(Debug)]
pub struct Switchover {
    reply: Reply<Result<Vec<Moved>, Refusal>>,
    from: String,
    waiting: Vec<Waiting>,
    moved: Vec<Moved>,
    /// What did not go, and why.
    failed: Vec<String>,
    began: Time,
}

/// A VIP on its way.
#[derive(Debug)]
struct Waiting {
    vip: String,
    /// This node has let it go.
    let_go: bool,
}

impl Switchover {
    /// Begins to hand over a VIP, or all that this node owns; answers at once
    /// if nothing of that can begin.
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
        if vips.is_empty() {
            let elsewhere: Vec<String> = node
                .group_status(now)
                .into_iter()
                .map(|g| format!("{} is on {}", g.name, g.owner.unwrap_or_else(|| "no node".to_owned())))
                .collect();
            let why = format!("this node owns no VIP: {}", elsewhere.join(", "));
            // Nobody waits any more if this fails.
            let _ = reply.send(Err(Refusal(why)));
            return None;
        }
        let from = node.settings().cluster.nodes.get(node.me()).map(|n| n.name.clone()).unwrap_or_default();
        let mut order = Self { reply, from, waiting: vec![], moved: vec![], failed: vec![], began: now };
        let several = vips.len() > 1;
        for vip in vips {
            match node.switchover(&vip, to, now) {
                Ok(_) => order.waiting.push(Waiting { vip, let_go: false }),
                Err(why) if several => order.failed.push(format!("{vip}: {why}")),
                Err(why) => order.failed.push(why),
            }
        }
        order.answer_at_the_end()
    }

    /// Looks how far it is; answers and is gone when it is at its end.
    #[must_use]
    pub fn look(mut self, node: &Node, now: Time) -> Option<Self> {
        let took = now - self.began;
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let groups = node.group_status(now);
        for Waiting { vip, mut let_go } in std::mem::take(&mut self.waiting) {
            let Some(group) = groups.iter().find(|g| g.name == vip) else { continue };
            match (group.state, &group.owner) {
                (State::Backup, Some(owner)) => {
                    let (from, owner) = (self.from.clone(), owner.clone());
                    self.moved.push(Moved { vip, from, owner, took_us });
                    continue;
                }
                (State::Active, _) if !group.switching && let_go => {
                    let why = format!(
                        "{vip} went and is here again after {} ms, because {}: what the other node advertises \
                         may not arrive here; see `vipctl events` on both",
                        took.as_millis(),
                        group.why
                    );
                    self.failed.push(why);
                    continue;
                }
                (State::Active, _) if !group.switching => {
                    let why = format!("{vip} stays here: the other node did not answer; see `vipctl events`");
                    self.failed.push(why);
                    continue;
                }
                (State::Active, _) => {}
                (State::Backup | State::Init | State::Fault, _) => let_go = true,
            }
            if took > SWITCHOVER_FOR {
                let why = format!("{vip} was given up here and nobody has taken it yet");
                self.failed.push(why);
            } else {
                self.waiting.push(Waiting { vip, let_go });
            }
        }
        self.answer_at_the_end()
    }

    /// Says of each what became of it, when nothing is on its way any more.
    fn answer_at_the_end(self) -> Option<Self> {
        if !self.waiting.is_empty() {
            return Some(self);
        }
        let answer = if self.failed.is_empty() {
            Ok(self.moved)
        } else {
            let gone = self.moved.iter().map(|m| format!("{} is on {} now", m.vip, m.owner));
            Err(Refusal(gone.chain(self.failed).collect::<Vec<_>>().join("\n")))
        };
        // Nobody waits any more if this fails.
        let _ = self.reply.send(answer);
        None
    }
}

/// Maintenance that an operator waits for.
#[derive(Debug)]
pub struct Maintenance {
    reply: Reply<Result<String, Refusal>>,
    /// What this node owned.
    handed_over: Vec<usize>,
    began: Time,
}

impl Maintenance {
    /// Begins to hand over all that this node owns; answers at once if nobody
    /// could take it.
    pub fn begin(node: &mut Node, reply: Reply<Result<String, Refusal>>, now: Time) -> Option<Self> {
        if let Some(why) = obstacle(node) {
            // Nobody waits any more if this fails.
            let _ = reply.send(Err(why));
            return None;
        }
        let owned = node.group_status(now).into_iter().filter(|g| g.state == State::Active);
        let handed_over = owned.map(|g| g.id).collect();
        node.set_maintenance(true, now);
        Some(Self { reply, handed_over, began: now })
    }

    /// Looks how far it is; answers and is gone when it is at its end.
    #[must_use]
    pub fn look(self, node: &Node, now: Time) -> Option<Self> {
        let groups = node.group_status(now);
        let owned: Vec<&str> =
            groups.iter().filter(|g| g.state == State::Active).map(|g| g.name.as_str()).collect();
        let given = node.groups().filter(|(id, _)| self.handed_over.contains(id));
        let untaken: Vec<&str> = given
            .filter(|(_, vip)| !node.is_owned_elsewhere(vip.vrid))
            .map(|(_, vip)| vip.name.as_str())
            .collect();
        let late = now - self.began > SWITCHOVER_FOR;
        let answer = if !node.maintenance() {
            Err(obstacle(node).unwrap_or_else(|| {
                Refusal("maintenance was ended before everything was handed over".to_owned())
            }))
        } else if owned.is_empty() && untaken.is_empty() {
            Ok("this node owns nothing now".to_owned())
        } else if !late {
            return Some(self);
        } else if owned.is_empty() {
            let untaken = untaken.join(", ");
            let end = "`vipctl maintenance off`, here or on another node, ends that";
            Err(Refusal(format!("maintenance is on, but nobody has taken {untaken}: {end}")))
        } else {
            let owned = owned.join(", ");
            Err(Refusal(format!("maintenance is on, but {owned} is still here; see `vipctl events`")))
        };
        let _ = self.reply.send(answer);
        None
    }
}

/// Why this node cannot go into maintenance.
fn obstacle(node: &Node) -> Option<Refusal> {
    let why = node.maintenance_obstacle()?;
    Some(Refusal(format!("{why}; stop vipd here if the address shall go from everywhere")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::net::IpAddr;
    use std::num::NonZeroU8;
    use tokio::sync::oneshot;
    use vipd_core::node::{Input, Link, Output, Settings};
    use vipd_core::settings::{
        Cidr, ClusterSettings, ElectionSettings, Member, OnNoQuorum, Quorum, Transport, VipGroup, VrrpVersion,
    };
    use vipd_core::wire::peer::{Envelope, GroupReport, Hello, Message, cluster_id, node_id};

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 77, 0, last])
    }

    pub(in crate::shell) fn settings() -> Settings {
        let member =
            |n: u8| Member { name: format!("px{n}"), addresses: vec![address(10 + n)], priority: None };
        let vip = VipGroup {
            name: "main".into(),
            addresses: Cidr::new(address(100), 24).into_iter().collect(),
            interface: None,
            vrid: NonZeroU8::MIN,
            nodes: vec![0, 1],
            track: vec![],
        };
        Settings {
            cluster: ClusterSettings {
                name: "orders".into(),
                nodes: vec![member(1), member(2)],
                witnesses: vec![],
                peer_port: 7112,
            },
            election: ElectionSettings {
                advert_interval: Duration::from_secs(1),
                version: VrrpVersion::V3,
                transport: Transport::Unicast,
                preempt: false,
                preempt_delay: Duration::ZERO,
                lease: Duration::from_secs(3),
                quorum: Quorum::None,
                on_no_quorum: OnNoQuorum::Withdraw,
                etcd_lease: Duration::from_secs(3),
            },
            vips: vec![vip],
            listeners: vec![],
            pools: vec![],
            dns: None,
            digests: vec![],
        }
    }

    /// Lets the kernel obey.
    fn obey(node: &mut Node, now: Time) {
        while let Some(output) = node.next_output() {
            if let Output::Addresses(plan) = output {
                let (group, generation) = (plan.group, plan.generation);
                node.handle(Input::Applied { group, generation, result: Ok(()) }, now);
            }
        }
    }

    /// The first of two nodes, which owns the VIP.
    fn owner() -> Node {
        let mut node = Node::new(settings(), 0, 0, at(0));
        let link = Link::Up { interface: 2, sources: vec![address(11)], mac: None, subnets: vec![] };
        node.handle(Input::Link { group: 0, link }, at(0));
        node.handle(Input::Tick, at(3_300));
        obey(&mut node, at(3_300));
        node
    }

    fn px2_is(state: State, node: &mut Node, now: Time) {
        let report = GroupReport { vrid: NonZeroU8::MIN, state, priority: 150, serving: true };
        let message = Message::Hello(Hello { groups: vec![report], ..Hello::default() });
        let envelope = Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message };
        node.handle(Input::PeerPacket { source: address(12), ttl: 255, payload: &envelope.write() }, now);
    }

    #[test]
    fn maintenance_is_answered_when_nothing_is_owned_any_more() {
        let mut node = owner();
        let (reply, mut answer) = oneshot::channel();
        assert!(Maintenance::begin(&mut node, reply, at(3_400)).is_none(), "nobody could take it");
        assert!(answer.try_recv().is_ok_and(|a| a.is_err_and(|e| e.0.contains("px2 does not answer"))));

        px2_is(State::Backup, &mut node, at(3_400));
        let (reply, mut answer) = oneshot::channel();
        let mut waits = Maintenance::begin(&mut node, reply, at(3_400));
        let mut now = 3_400;
        while let Some(waiting) = waits.take() {
            assert!(answer.try_recv().is_err(), "answered at {now} ms");
            node.handle(Input::Tick, at(now));
            obey(&mut node, at(now));
            let owns = node.group_status(at(now))[0].state == State::Active;
            waits = waiting.look(&node, at(now));
            assert!(waits.is_some(), "nobody has taken it at {now} ms");
            if !owns {
                px2_is(State::Active, &mut node, at(now));
                waits = waits.and_then(|w| w.look(&node, at(now)));
            }
            now += 10;
        }
        assert!(now > 3_500, "it asks px2 first, which does not answer");
        assert_eq!(answer.try_recv(), Ok(Ok("this node owns nothing now".to_owned())));
    }

    /// The answer tells nobody's successor from one that owns.
    #[test]
    fn maintenance_that_nobody_took_over_from_says_so() {
        let mut node = owner();
        px2_is(State::Backup, &mut node, at(3_400));
        let (reply, mut answer) = oneshot::channel();
        let mut waits = Maintenance::begin(&mut node, reply, at(3_400));
        for now in (3_400..10_000).step_by(10) {
            node.handle(Input::Tick, at(now));
            obey(&mut node, at(now));
            waits = waits.and_then(|w| w.look(&node, at(now)));
        }
        let said = answer.try_recv().expect("an answer").expect_err("nobody has it").0;
        assert!(said.contains("nobody has taken main") && said.contains("vipctl maintenance off"), "{said}");
    }

    #[test]
    fn maintenance_that_the_successor_escapes_is_refused_with_its_reason() {
        let mut node = owner();
        px2_is(State::Backup, &mut node, at(3_400));
        let (reply, mut answer) = oneshot::channel();
        let waiting = Maintenance::begin(&mut node, reply, at(3_400)).expect("begins");
        px2_is(State::Init, &mut node, at(3_401));
        node.handle(Input::Tick, at(3_420));
        assert!(waiting.look(&node, at(3_420)).is_none());
        let said = answer.try_recv().expect("an answer").expect_err("refused").0;
        assert!(said.contains("no other node can take main") && said.contains("state init"), "{said}");
    }

    /// Two VIPs, of which px2 can take one: the order says what became of each.
    #[test]
    fn a_switchover_says_of_each_vip_what_became_of_it() {
        let mut settings = settings();
        let web = Cidr::new(address(101), 24).into_iter().collect();
        let vrid = NonZeroU8::new(2).expect("a number");
        settings.vips.push(VipGroup { name: "web".into(), addresses: web, vrid, ..settings.vips[0].clone() });
        let mut node = Node::new(settings, 0, 0, at(0));
        for group in [0, 1] {
            let link = Link::Up { interface: 2, sources: vec![address(11)], mac: None, subnets: vec![] };
            node.handle(Input::Link { group, link }, at(0));
        }
        node.handle(Input::Tick, at(3_300));
        obey(&mut node, at(3_300));
        px2_is(State::Backup, &mut node, at(3_400));
        let (reply, mut answer) = oneshot::channel();
        let mut waits = Switchover::begin(&mut node, None, None, reply, at(3_400));
        assert!(waits.is_some() && answer.try_recv().is_err(), "main goes on");
        for now in (3_400..4_000).step_by(10) {
            node.handle(Input::Tick, at(now));
            obey(&mut node, at(now));
            waits = waits.and_then(|w| w.look(&node, at(now)));
        }
        let said = answer.try_recv().expect("an answer").expect_err("neither went").0;
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 2, "{said}");
        assert!(lines[0].starts_with("web: no other node can take web"), "{said}");
        assert!(lines[1].starts_with("main stays here"), "{said}");
    }

    /// Nothing that px2 advertises arrives here: the VIP goes, and comes back.
    #[test]
    fn a_switchover_that_comes_back_says_so() {
        let mut node = owner();
        px2_is(State::Backup, &mut node, at(3_400));
        let (reply, mut answer) = oneshot::channel();
        let mut waits = Switchover::begin(&mut node, Some("main".into()), None, reply, at(3_400));
        for now in (3_400..8_000).step_by(10) {
            node.handle(Input::Tick, at(now));
            while let Some(output) = node.next_output() {
                if let Output::Addresses(plan) = output {
                    let (group, generation) = (plan.group, plan.generation);
                    node.handle(Input::Applied { group, generation, result: Ok(()) }, at(now));
                } else if let Output::Peer { bytes, .. } = output
                    && let Ok(Envelope { message: Message::Prepare { vrid, nonce, .. }, .. }) =
                        Envelope::parse(&bytes)
                {
                    let message = Message::Ready { vrid, nonce };
                    let ready =
                        Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message }.write();
                    let packet = Input::PeerPacket { source: address(12), ttl: 255, payload: &ready };
                    node.handle(packet, at(now));
                }
            }
            waits = waits.and_then(|w| w.look(&node, at(now)));
        }
        let said = answer.try_recv().expect("an answer").expect_err("it is here").0;
        assert!(
            said.contains("main went and is here again after") && said.contains("may not arrive"),
            "{said}"
        );
    }

    #[test]
    fn maintenance_that_ends_early_or_gets_nowhere_is_said() {
        let begin = |node: &mut Node| {
            px2_is(State::Backup, node, at(3_400));
            let (reply, answer) = oneshot::channel();
            (Maintenance::begin(node, reply, at(3_400)).expect("begins"), answer)
        };
        let mut node = owner();
        let (waiting, mut answer) = begin(&mut node);
        node.set_maintenance(false, at(3_410));
        assert!(waiting.look(&node, at(3_410)).is_none());
        assert!(answer.try_recv().is_ok_and(|a| a.is_err_and(|e| e.0.contains("was ended"))));

        let mut node = owner();
        let (waiting, mut answer) = begin(&mut node);
        let waiting = waiting.look(&node, at(8_400)).expect("it is not late yet");
        assert!(waiting.look(&node, at(8_401)).is_none());
        assert!(answer.try_recv().is_ok_and(|a| a.is_err_and(|e| e.0.contains("main is still here"))));
    }
}
