//! What people ask of a node: switchover, maintenance, stop, new settings.

use super::{Node, STOP_FOR, Settings, claims};
use crate::election::Who;
use crate::event::{Event, Kind, Level};
use crate::group::{self, Group, Purpose};
use crate::settings::{Cidr, Quorum, VipGroup};
use crate::time::Time;
use crate::wire::advert::PRIORITY_OWNER;
use crate::wire::peer::State;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU8;

impl Node {
    /// The peer that should own a group next: able, serving if possible, by preference.
    pub(super) fn successor(&self, group: &Group) -> Option<usize> {
        let ranking = group.vip.ranking(&self.settings.cluster.nodes);
        let others = || ranking.iter().copied().filter(|n| *n != self.me);
        let able = |n: &usize| self.peers[*n].can_take(group.vip.vrid);
        let serving = |n: &usize| able(n) && self.peers[*n].serves(group.vip.vrid);
        others().find(serving).or_else(|| others().find(able))
    }

    /// Owners none of whose tracked listeners has a server step back where
    /// another node is better off.
    pub(super) fn step_back(&mut self, now: Time) {
        let better_off = |group: &Group| {
            let next = self.successor(group).filter(|n| self.peers[*n].serves(group.vip.vrid))?;
            group.would_step_back(now).then_some((group.id, next))
        };
        let moves: Vec<(usize, usize)> = self.groups.iter().filter_map(better_off).collect();
        for (id, to) in moves {
            let name = self.settings.cluster.nodes[to].name.clone();
            self.with_group(id, now, |g, scope| {
                let message =
                    format!("{} goes to {name}: a listener it tracks has no usable server here", g.vip.name);
                scope.event(
                    Event::new(Level::Warn, Kind::Switchover, message).of_vip(&g.vip.name).of_peer(&name),
                );
                g.hand_over(Some(to), Purpose::StepBack, scope);
            });
        }
    }

    /// Begins a planned switchover of a group; how it ends is told by events.
    /// Without a target the next able node by preference is taken.
    ///
    /// # Errors
    /// Why it cannot begin, for people.
    pub fn switchover(&mut self, vip: &str, to: Option<&str>, now: Time) -> Result<String, String> {
        let group = self.groups.iter().find(|g| g.vip.name == vip).ok_or_else(|| {
            let known: Vec<&str> = self.groups.iter().map(|g| g.vip.name.as_str()).collect();
            format!("there is no VIP `{vip}`; there is {}", known.join(", "))
        })?;
        if group.election.word() != State::Active {
            return Err(match group.election.following() {
                Some(owner) => {
                    format!("{vip} is not here but on {}: run the command there", self.who(owner.who))
                }
                None => format!("{vip} is not here ({})", group.election.word().as_str()),
            });
        }
        if group.in_transition() || self.is_moving(group.id) {
            return Err(format!("a switchover of {vip} is under way already"));
        }
        if group.election.params().priority == PRIORITY_OWNER {
            return Err(format!(
                "this node has priority 255, the address owner's, and would take {vip} back at once: \
                 `vipctl maintenance on` hands it over until it is off again"
            ));
        }
        let to = match to {
            None => self.successor(group).ok_or_else(|| self.nobody_can_take(group))?,
            Some(name) => self.named_successor(group, name)?,
        };
        let (id, name) = (group.id, self.settings.cluster.nodes[to].name.clone());
        let message = format!("{vip}: planned switchover to {name} begins");
        self.tell(Event::new(Level::Info, Kind::Switchover, message).of_vip(vip).of_peer(&name));
        if !self.begin_move(id, to, now) {
            self.with_group(id, now, |g, scope| g.hand_over(Some(to), Purpose::Switchover, scope));
        }
        self.settle(now);
        Ok(name)
    }

    fn named_successor(&self, group: &Group, name: &str) -> Result<usize, String> {
        let vip = &group.vip.name;
        let node = self.settings.cluster.nodes.iter().position(|n| n.name == name);
        let node = node.filter(|n| group.vip.nodes.contains(n)).ok_or_else(|| {
            let known: Vec<&str> =
                group.vip.nodes.iter().map(|n| self.settings.cluster.nodes[*n].name.as_str()).collect();
            format!("`{name}` is no node of {vip}; its nodes are {}", known.join(", "))
        })?;
        if node == self.me {
            return Err(format!("{vip} is on {name} already"));
        }
        let peer = &self.peers[node];
        if peer.can_take(group.vip.vrid) {
            return Ok(node);
        }
        Err(match peer.report(group.vip.vrid) {
            _ if !peer.alive => format!("{name} does not answer"),
            None => format!("{name} does not speak vipd's peer protocol, so nothing can be prepared there"),
            Some(report) => format!("{name} cannot take {vip} now: it is in state {}", report.state.as_str()),
        })
    }

    fn nobody_can_take(&self, group: &Group) -> String {
        let others = group.vip.nodes.iter().filter(|n| **n != self.me);
        let why: Vec<String> = others
            .filter_map(|n| self.named_successor(group, &self.settings.cluster.nodes[*n].name).err())
            .collect();
        format!("no other node can take {}: {}", group.vip.name, why.join("; "))
    }

    fn who(&self, who: Who) -> String {
        match who {
            Who::Node(node) => self.settings.cluster.nodes[node].name.clone(),
            Who::Stranger(address) => address.to_string(),
        }
    }

    /// Why maintenance would take a VIP from everybody: nobody else can own it.
    #[must_use]
    pub fn maintenance_obstacle(&self) -> Option<String> {
        let alone = |g: &&Group| g.election.word() == State::Active && self.successor(g).is_none();
        self.groups.iter().find(alone).map(|g| self.nobody_can_take(g))
    }

    /// Whether another node says to own a group.
    #[must_use]
    pub fn is_owned_elsewhere(&self, vrid: NonZeroU8) -> bool {
        self.peers.iter().any(|p| p.report(vrid).is_some_and(|r| r.state == State::Active))
    }

    /// Maintenance: this node hands over what it owns and takes nothing, until told otherwise.
    pub fn set_maintenance(&mut self, on: bool, now: Time) {
        if self.maintenance == on || self.stopping.is_some() {
            return;
        }
        self.maintenance = on;
        let message = if on { "maintenance begins: this node owns nothing" } else { "maintenance is over" };
        self.tell(Event::new(Level::Warn, Kind::Maintenance, message));
        if on {
            self.leave_all(now);
        } else {
            let leaving: Vec<usize> = self.leaving.iter().map(|g| g.id).collect();
            self.with_groups(now, |group, scope| {
                if leaving.contains(&group.id) {
                    return;
                }
                group.taking_part = true;
                group.ask_no_more();
                group.start_if_able(scope);
            });
        }
        self.say_hello(now);
        self.settle(now);
    }

    /// Whoever was to take over may have left while it was asked to, as where
    /// every node is sent into maintenance at once: then this one stays.
    pub(super) fn call_off_maintenance(&mut self, now: Time) {
        if !self.maintenance || self.stopping.is_some() {
            return;
        }
        let alone = |g: &&Group| {
            g.asks_to_leave() && self.successor(g).is_none() && !self.is_owned_elsewhere(g.vip.vrid)
        };
        let Some(group) = self.groups.iter().find(alone) else { return };
        let message = format!("maintenance is called off: {}", self.nobody_can_take(group));
        self.tell(Event::new(Level::Error, Kind::Maintenance, message));
        self.set_maintenance(false, now);
    }

    fn leave_all(&mut self, now: Time) {
        let later = self.writing_group();
        let groups = self.groups.iter().filter(|g| Some(g.id) != later);
        let successors: Vec<_> = groups.map(|g| (g.id, self.successor(g))).collect();
        for (id, to) in successors {
            self.with_group(id, now, |group, scope| group.leave(to, scope));
        }
    }

    pub(super) fn stop(&mut self, now: Time) {
        if self.stopping.is_none() {
            self.stopping = Some(now + STOP_FOR);
            self.begin_removal(now);
            self.leave_all(now);
            self.say_hello(now);
        }
    }

    /// Takes over changed settings; elections, addresses and sessions that did
    /// not change are not touched. What [`Node::needs_restart`] names must not differ.
    pub fn reconfigure(&mut self, settings: Settings, now: Time) {
        self.wake(now);
        self.presume_claims(now);
        self.reloads += 1;
        self.settings = settings;
        self.votes.reload(&self.settings.election);
        self.homes = claims::homes(&self.settings.vips);
        for node in 0..self.peers.len() {
            // Their files are what they were; this one is not.
            self.compare_settings(node);
        }
        for witness in 0..self.witnesses.len() {
            self.compare_witness(witness);
        }
        let changes = self.pools.reconfigure(self.settings.pools.clone(), now);
        self.pools.survey(now);
        let vips = self.settings.vips.clone();
        let running = pairs(&vips, &self.groups);
        let mut kept = vips.iter().zip(&running).filter(|(v, _)| v.nodes.contains(&self.me));
        let kept: BTreeSet<usize> = kept.by_ref().filter_map(|(_, id)| *id).collect();
        let (stay, go): (Vec<Group>, Vec<Group>) =
            std::mem::take(&mut self.groups).into_iter().partition(|g| kept.contains(&g.id));
        self.groups = stay;
        // What a group that stays has from now on is not a leaving one's to hand over;
        // of one that waits for a leaving one, it is.
        let takes: BTreeSet<usize> = self.groups.iter().filter(|g| !g.waits()).map(|g| g.id).collect();
        let of_staying: BTreeSet<IpAddr> = vips
            .iter()
            .zip(&running)
            .filter(|(_, id)| id.is_some_and(|id| takes.contains(&id)))
            .flat_map(|(v, _)| v.addresses.iter().map(|a| a.address()))
            .collect();
        // One that leaves already, by the reload before, neither.
        let leaving: Vec<usize> = self.leaving.iter().map(|g| g.id).collect();
        for id in leaving {
            self.with_group(id, now, |g, scope| g.give(|a| of_staying.contains(&a), scope));
        }
        for group in go {
            let (id, to) = (group.id, self.successor(&group));
            self.leaving.push(group);
            self.with_group(id, now, |group, scope| {
                group.give(|a| of_staying.contains(&a), scope);
                group.leave_by_reload(to, scope);
            });
        }
        let first_new = self.next_group;
        for (vip, id) in vips.into_iter().zip(running) {
            let Some(params) = group::params(&vip, self.me, &self.settings) else { continue };
            match id.filter(|id| kept.contains(id)) {
                Some(id) => {
                    let own = self.groups.iter().find(|g| g.id == id);
                    let elsewhere = own.map(|g| self.elsewhere(g, &vip, now)).unwrap_or_default();
                    self.with_group(id, now, |g, scope| g.reconfigure(vip, params, elsewhere, scope));
                }
                None => self.add_group(vip, now),
            }
        }
        self.wait_for_leaving(first_new, now);
        self.look_at_claims(now);
        self.servers_changed(Some(changes), now);
        self.say_hello(now);
        self.settle(now);
    }

    /// A new group may have the number of one that leaves, or its addresses under
    /// another number: as long as that one lets go of them, this one is no part of
    /// the election.
    fn wait_for_leaving(&mut self, first_new: usize, now: Time) {
        let waited: Vec<usize> = self.groups.iter().filter(|g| g.waits()).map(|g| g.id).collect();
        for group in self.groups.iter_mut().filter(|g| g.id >= first_new || g.waits()) {
            let has = |a: &Cidr| group.vip.addresses.iter().any(|own| own.address() == a.address());
            let shares = |l: &&Group| l.vip.vrid == group.vip.vrid || l.vip.addresses.iter().any(has);
            group.waits_for = self.leaving.iter().filter(shares).map(|l| l.id).collect();
        }
        for id in waited {
            self.with_group(id, now, |group, scope| group.start_if_able(scope));
        }
    }

    /// The keys in which two settings differ that cannot change while running.
    #[must_use]
    pub fn needs_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
        let mut keys = vec![];
        if old.cluster != new.cluster {
            keys.push("cluster");
        }
        if old.election.version != new.election.version {
            keys.push("election.vrrp-version");
        }
        if old.election.transport != new.election.transport {
            keys.push("election.transport");
        }
        if old.election.quorum != new.election.quorum {
            keys.push("election.quorum");
        }
        if old.election.on_no_quorum != new.election.on_no_quorum {
            keys.push("election.on-no-quorum");
        }
        // Without etcd it is only what would be by default.
        if new.election.quorum == Quorum::Etcd && old.election.etcd_lease != new.election.etcd_lease {
            keys.push("etcd.lease");
        }
        keys
    }
}

/// For each group of a new file the one that runs, if there is one. The VRID says
/// which: it is what the other nodes elect by, and promise, whatever the group is
/// called. With another number it is another group.
fn pairs(new: &[VipGroup], running: &[Group]) -> Vec<Option<usize>> {
    let same = |v: &VipGroup| running.iter().find(|g| g.vip.vrid == v.vrid);
    new.iter().map(|v| same(v).map(|g| g.id)).collect()
}
