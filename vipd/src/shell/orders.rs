//! What takes its time: a switchover, and going into maintenance. Whoever asked
//! is answered when it is done, or cannot be.

use crate::control::api::Moved;
use crate::control::call::{Refusal, Reply};
use std::time::Duration;
use vipd_core::node::Node;
use vipd_core::time::Time;
use vipd_core::wire::peer::State;

/// A switchover that nobody has completed by then has failed.
const SWITCHOVER_FOR: Duration = Duration::from_secs(5);

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
    use vipd_core::settings::{Cidr, VipGroup};
    use vipd_core::wire::peer::{Envelope, GroupReport, Hello, Message, cluster_id, node_id};

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 77, 0, last])
    }

    /// Two nodes and a VIP, as a file gives them.
    pub(in crate::shell) fn settings() -> Settings {
        let file = "[cluster]\nname = \"orders\"\nnodes = [{ name = \"px1\", address = \"10.77.0.11\" }, \
                    { name = \"px2\", address = \"10.77.0.12\" }]\n\
                    [[vip]]\nname = \"main\"\nvrid = 1\naddresses = [\"10.77.0.100/24\"]\n";
        let config = vipd_config::Config::parse(file, "vipd.toml").expect("a good file");
        Settings { digests: vec![], ..crate::shell::settings(config) }
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
        let report =
            GroupReport { vrid: NonZeroU8::MIN, state, priority: 150, serving: true, deposed: false };
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
