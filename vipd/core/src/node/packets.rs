//! What arrives from the network, and what is told to the peers.

use super::{Node, Output, Scope, TTL};
use crate::election::{Heard, Who};
use crate::event::{Event, Kind, Level};
use crate::explain;
use crate::group::{self, Group};
use crate::lease::{self, Answer};
use crate::peers;
use crate::rejects::Reject;
use crate::settings::{Family, Quorum, Transport, VipGroup};
use crate::time::Time;
use crate::wire::Claim;
use crate::wire::advert::{Advert, PRIORITY_OWNER};
use crate::wire::peer::{self, Ballot, Envelope, GroupReport, Hello, MAX_SIGHTINGS, Message, State};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

/// The keys by which a witness votes: who votes, for how long, and for whom.
const OF_VOTES: [&str; 3] = ["cluster.nodes", "election.advert-interval", "election.quorum"];

impl Node {
    /// A packet of IP protocol 112 arrived.
    pub(super) fn packet(
        &mut self,
        interface: u32,
        source: IpAddr,
        destination: IpAddr,
        ttl: u8,
        payload: &[u8],
        now: Time,
    ) -> Result<(), Reject> {
        if ttl != TTL {
            return Err(Reject::Ttl);
        }
        let advert = Advert::parse(payload, source, destination).map_err(Reject::Advert)?;
        let node = self.node_at(source).filter(|n| *n != self.me);
        // A group that leaves and one that waits for that may have the same number.
        let groups = self.leaving.iter().chain(&self.groups);
        let group = groups.into_iter().find(|g| g.vip.vrid == advert.vrid && self.is_of(g, interface));
        let heard = match group {
            Some(group) => self.accept(group, source, &advert).map(|heard| Some((group.id, heard))),
            None => self.accept_of_others(node, interface, source, &advert).map(|()| None),
        };
        let heard = match (heard, node) {
            (Err(Reject::UnknownVrid | Reject::OtherVrid | Reject::UnknownSender), Some(node))
                if self.claims_elsewhere(node, interface)
                    || self.claims.has(advert.vrid, node, interface, now) =>
            {
                None
            }
            (heard, _) => heard?,
        };
        if let Some(node) = node {
            self.hear_advert(node, advert.interval, now);
            if let (Err(cause), false) = (self.fits(&advert), self.peers[node].speaks) {
                // One that says hello is told of by what differs in its file.
                self.reject(cause, source, now);
            }
            self.note_claim(node, interface, source, &advert, now);
        }
        if let Some((id, heard)) = heard {
            self.hear(id, heard, now);
        }
        Ok(())
    }

    /// What an advert says to its group; or why it counts for nothing.
    fn accept(&self, group: &Group, source: IpAddr, advert: &Advert) -> Result<Heard, Reject> {
        let who = self.sender(group, source, advert)?;
        match who {
            // In another version too: a cluster that changes it, one node after the
            // other, has one owner. That they differ is told, here or by its hello.
            Who::Node(_) => {}
            Who::Stranger(_) => self.fits(advert)?,
        }
        Ok(Heard {
            who,
            priority: advert.priority,
            interval: advert.interval,
            source_is_greater: group.source(Family::of(source)).is_some_and(|own| source > own),
            wait: None,
        })
    }

    /// Whether an advert is as this node's are.
    fn fits(&self, advert: &Advert) -> Result<(), Reject> {
        if advert.version != self.settings.election.version {
            return Err(Reject::VersionMismatch);
        }
        if group::interval_disagrees(advert, &self.settings.election) {
            return Err(Reject::IntervalMismatch);
        }
        Ok(())
    }

    /// Whether an advert is of a group in which this node has no part, or none
    /// for want of an interface.
    fn accept_of_others(
        &self,
        node: Option<usize>,
        interface: u32,
        source: IpAddr,
        advert: &Advert,
    ) -> Result<(), Reject> {
        let has_part = self.groups.iter().any(|g| g.vip.vrid == advert.vrid && !g.has_no_link());
        let others = self.settings.vips.iter().find(|v| v.vrid == advert.vrid && !has_part);
        match (others, node) {
            (Some(vip), Some(node)) if vip.nodes.contains(&node) => Ok(()),
            (Some(_), Some(_)) => Err(Reject::UnknownSender),
            (_, Some(_) | None) => Err(self.other_number(interface, source, advert)),
        }
    }

    /// Whether an advert that no group of this file takes is one by another file: that
    /// node said that its own differs, and it comes by an interface of ours.
    fn claims_elsewhere(&self, node: usize, interface: u32) -> bool {
        self.peers.get(node).is_some_and(|p| !p.differs.is_empty())
            && self.groups.iter().any(|g| self.may_hear(g, interface))
    }

    /// Whether what comes in by an interface may be of a group's addresses: until
    /// its own interface is known, any may.
    pub(super) fn may_hear(&self, group: &Group, interface: u32) -> bool {
        group.has_no_link() || self.is_of(group, interface)
    }

    /// Whether a group's adverts come in by an interface. Those of UDP take any
    /// way: their seal says where they are from.
    fn is_of(&self, group: &Group, interface: u32) -> bool {
        match self.settings.election.transport {
            Transport::Unicast | Transport::Multicast => group.is_on(interface),
            Transport::Udp => true,
        }
    }

    /// Why no group has an advert's VRID: if a node of ours advertises an address
    /// of ours under it, the files differ.
    fn other_number(&self, interface: u32, source: IpAddr, advert: &Advert) -> Reject {
        let ours = |g: &Group| {
            self.is_of(g, interface)
                && g.vip.addresses.iter().any(|a| advert.addresses.contains(&a.address()))
        };
        if self.groups.iter().any(ours) && self.node_at(source).is_some() {
            Reject::OtherVrid
        } else {
            Reject::UnknownVrid
        }
    }

    /// The node that has an address, or that says it advertises from it.
    fn node_at(&self, source: IpAddr) -> Option<usize> {
        let nodes = &self.settings.cluster.nodes;
        nodes
            .iter()
            .position(|n| n.addresses.contains(&source))
            .or_else(|| self.peers.iter().position(|p| p.sources.contains(&source)))
    }

    /// Who sent an advert, if it may speak for this group.
    fn sender(&self, group: &Group, source: IpAddr, advert: &Advert) -> Result<Who, Reject> {
        if group.source(Family::of(source)) == Some(source) {
            return Err(Reject::OwnAddress);
        }
        match (self.node_at(source), self.settings.election.transport) {
            (Some(node), _) if node == self.me => Err(Reject::OwnAddress),
            (Some(node), _) if group.vip.nodes.contains(&node) => Ok(Who::Node(node)),
            (_, Transport::Unicast | Transport::Udp) => Err(Reject::UnknownSender),
            (_, Transport::Multicast) => {
                let ours = |a: &IpAddr| group.vip.addresses.iter().any(|own| own.address() == *a);
                if advert.addresses.iter().any(ours) {
                    Ok(Who::Stranger(source))
                } else {
                    Err(Reject::ForeignCluster)
                }
            }
        }
    }

    pub(super) fn hear(&mut self, group: usize, heard: Heard, now: Time) {
        if let Who::Node(node) = heard.who {
            self.hear_advert(node, heard.interval, now);
        }
        self.with_group(group, now, |g, scope| g.hear(heard, scope));
    }

    /// A node that the cluster key does not prove yet, or somebody at a link-local
    /// address, who may be one, says to own a group.
    pub(super) fn postpone(&mut self, vrid: NonZeroU8, source: IpAddr, interface: Option<u32>, now: Time) {
        let node = self.node_at(source).filter(|n| *n != self.me);
        let group = self.groups.iter().find(|g| {
            g.vip.vrid == vrid
                && interface.is_none_or(|i| self.is_of(g, i))
                && node.is_none_or(|n| g.vip.nodes.contains(&n))
        });
        if let Some(id) = group.map(|g| g.id) {
            let who = node.map_or(Who::Stranger(source), Who::Node);
            self.with_group(id, now, |g, scope| g.postpone(who, scope.now));
        }
    }

    fn hear_advert(&mut self, node: usize, interval: Duration, now: Time) {
        self.hear_peer(node, now);
        if let Some(peer) = self.peers.get_mut(node) {
            (peer.advert_at, peer.advert_interval) = (Some(now), interval);
        }
    }

    fn hear_peer(&mut self, node: usize, now: Time) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        if peer.hear(now) {
            let name = self.settings.cluster.nodes[node].name.clone();
            let message = format!("{name} is there");
            self.tell(Event::new(Level::Info, Kind::Peer, message).of_peer(&name));
        }
    }

    pub(super) fn reject(&mut self, cause: Reject, sender: IpAddr, now: Time) {
        if let Some(told) = self.rejects.count(cause, sender, now) {
            let packets = explain::count(told.count, "packet");
            let of = match told.sender {
                Some(sender) => sender.to_string(),
                None => format!("several senders, the last {sender},"),
            };
            let of = match self.node_at(sender) {
                Some(node) => format!("{of} ({})", self.settings.cluster.nodes[node].name),
                None => of,
            };
            let message = format!("{packets} of {of} not accepted ({cause}): {}", cause.advice());
            self.tell(Event::new(Level::Warn, Kind::Advert, message));
        }
    }

    pub(super) fn peer_packet(
        &mut self,
        source: IpAddr,
        ttl: u8,
        payload: &[u8],
        now: Time,
    ) -> Result<(), Reject> {
        if ttl != TTL {
            return Err(Reject::Ttl);
        }
        let envelope = Envelope::parse(payload).map_err(Reject::Peer)?;
        if envelope.cluster != peer::cluster_id(&self.settings.cluster.name) {
            return Err(Reject::ForeignCluster);
        }
        let cluster = &self.settings.cluster;
        let from =
            cluster.voters().position(|n| n.addresses.contains(&source)).ok_or(Reject::UnknownSender)?;
        if from == self.me {
            return Err(Reject::OwnAddress);
        }
        if cluster.voter(from).is_none_or(|n| envelope.sender != peer::node_id(&n.name)) {
            return Err(Reject::NodeName);
        }
        let own_id = peer::node_id(&cluster.nodes[self.me].name);
        if from >= cluster.nodes.len() {
            return self.witness_says(from, envelope.message, now);
        }
        self.hear_peer(from, now);
        match envelope.message {
            Message::Hello(hello) => self.hear_hello(from, hello, now),
            Message::Prepare { vrid, nonce, to } => {
                let me = to == own_id;
                self.with_vrid(vrid, now, |g, scope| g.asked_to_prepare(from, nonce, me, scope));
            }
            Message::Ready { vrid, nonce } => {
                self.with_vrid(vrid, now, |g, scope| g.peer_ready(from, nonce, scope));
            }
            Message::Request { ballot, lease, preempt } => {
                // Where etcd is the voter, the owner alone is meant.
                let votes = self.settings.election.quorum != Quorum::Etcd;
                let answer = votes.then(|| self.votes.request(from, ballot, lease, now));
                let preempts = preempt && self.may_preempt(from, ballot.vrid);
                self.with_vrid(ballot.vrid, now, |g, scope| {
                    if preempts {
                        g.asked_to_yield(from, scope);
                    }
                });
                if let Some(answer) = answer {
                    self.send(from, lease::reply(ballot, answer, &self.settings.cluster));
                }
            }
            Message::Release(ballot) => {
                self.votes.release(from, ballot);
                let name = &self.settings.cluster.nodes[from].name;
                self.registers.released(ballot.vrid, name, ballot.run, ballot.number);
                self.with_vrid(ballot.vrid, now, Group::given_back);
            }
            Message::Grant(ballot) => self.answered(from, ballot, Answer::Granted, now),
            Message::Refuse { ballot, holder, left } => {
                let answer = lease::refusal(holder, left, &self.settings.cluster);
                self.answered(from, ballot, answer, now);
            }
        }
        Ok(())
    }

    /// Whether a node that asks an owner to yield may have it, by this node's file.
    fn may_preempt(&self, node: usize, vrid: NonZeroU8) -> bool {
        let (election, nodes) = (&self.settings.election, &self.settings.cluster.nodes);
        let of = |v: &&VipGroup| v.vrid == vrid;
        let priority = self.settings.vips.iter().find(of).and_then(|v| v.priority(node, nodes));
        let owns_address = priority.is_some_and(|p| p.get() == PRIORITY_OWNER);
        election.quorum != Quorum::None && (election.preempt || owns_address)
    }

    /// A witness votes, and says nothing else.
    fn witness_says(&mut self, from: usize, message: Message, now: Time) -> Result<(), Reject> {
        match message {
            Message::Grant(ballot) => self.answered(from, ballot, Answer::Granted, now),
            Message::Refuse { ballot, holder, left } => {
                let answer = lease::refusal(holder, left, &self.settings.cluster);
                self.answered(from, ballot, answer, now);
            }
            Message::Hello(hello) => {
                let witness = from - self.settings.cluster.nodes.len();
                if let Some(known) = self.witnesses.get_mut(witness) {
                    (known.heard_at, known.digests) = (Some(now), hello.digests);
                }
                self.compare_witness(witness);
            }
            Message::Prepare { .. }
            | Message::Ready { .. }
            | Message::Request { .. }
            | Message::Release(_) => return Err(Reject::UnknownSender),
        }
        Ok(())
    }

    /// A voter answers this run, or an earlier one.
    fn answered(&mut self, voter: usize, ballot: Ballot, answer: Answer, now: Time) {
        if ballot.run == self.run {
            self.with_vrid(ballot.vrid, now, |g, scope| g.answered(voter, ballot.number, answer, scope));
        }
    }

    pub(super) fn with_vrid(
        &mut self,
        vrid: NonZeroU8,
        now: Time,
        with: impl FnOnce(&mut Group, &mut Scope<'_>),
    ) {
        let mut groups = self.leaving.iter().chain(&self.groups);
        if let Some(id) = groups.find(|g| g.vip.vrid == vrid).map(|g| g.id) {
            self.with_group(id, now, with);
        }
    }

    fn hear_hello(&mut self, from: usize, hello: Hello, now: Time) {
        let Hello { groups, digests, sources, incumbents, run, hears, macs, sightings, verdicts, among } =
            hello;
        self.hear_run(from, run, now);
        let peer = &mut self.peers[from];
        (peer.sources, peer.macs) = (sources, macs);
        let gave_way = |r: &&GroupReport| r.deposed && peer.report(r.vrid).is_none_or(|b| !b.deposed);
        let deposed: Vec<NonZeroU8> = groups.iter().filter(gave_way).map(|r| r.vrid).collect();
        peer.reports = groups;
        peer.digests = digests;
        let newcomer = !std::mem::replace(&mut peer.speaks, true);
        let same = self.peers[from].differs.is_empty();
        self.compare_settings(from);
        let peer = &mut self.peers[from];
        if peer.differs.is_empty() {
            peer.differs_since = None;
        } else if same {
            peer.differs_since = Some(now);
        }
        if newcomer {
            // Let it know at once whom it may count on.
            self.say_hello(now);
        }
        self.step_back(now);
        self.hear_hears(from, hears.as_deref(), now);
        self.hear_states(from, now);
        for vrid in deposed {
            self.with_vrid(vrid, now, Group::announce_to_theirs);
        }
        for sighting in sightings {
            self.with_vrid(sighting.vrid, now, |g, scope| g.hear_sighting(from, sighting, scope));
        }
        let name = self.settings.cluster.nodes[from].name.clone();
        let changes = self.pools.hear(from, &name, &verdicts, among, now);
        self.servers_changed(Some(changes), now);
        self.agree(from, incumbents, hears.is_some(), now);
        self.decide(now);
    }

    /// Notes whether a node hears this one.
    fn hear_hears(&mut self, from: usize, hears: Option<&[u32]>, now: Time) {
        let me = peer::node_id(&self.settings.cluster.nodes[self.me].name);
        let patience = self.patience();
        let hears = hears.map(|ids| ids.contains(&me));
        let Some(deaf) = self.peers[from].hear_hears(hears, now, patience) else { return };
        let name = self.settings.cluster.nodes[from].name.clone();
        let event = match deaf {
            true => Event::new(Level::Error, Kind::Peer, explain::deaf(&name)),
            false => Event::new(Level::Info, Kind::Peer, format!("{name} hears this node again")),
        };
        self.tell(event.of_peer(&name));
    }

    /// What a node is in each group, for those who should hear it otherwise.
    fn hear_states(&mut self, from: usize, now: Time) {
        let patience = self.patience().max(self.settings.election.advert_interval * 4);
        self.with_groups(now, |group, scope| {
            let report = scope.peers.get(from).and_then(|p| p.report(group.vip.vrid));
            let state = report.map_or(State::Init, |r| r.state);
            group.hear_state(from, state, patience, scope);
        });
    }

    /// Somebody on a link says that an address is theirs.
    pub(super) fn claimed(&mut self, interface: u32, claim: Claim, now: Time) {
        self.with_groups(now, |group, scope| {
            if group.is_on(interface) {
                group.claimed(claim, scope);
            }
        });
    }

    /// Notes in which keys a node's file differs from this node's.
    pub(super) fn compare_settings(&mut self, node: usize) {
        let Some(peer) = self.peers.get_mut(node).filter(|p| p.speaks) else { return };
        let differs = differing(&self.settings.digests, &peer.digests);
        if peer.differs == differs {
            return;
        }
        peer.differs.clone_from(&differs);
        if differs.is_empty() {
            peer.differs_since = None;
        }
        let name = self.settings.cluster.nodes[node].name.clone();
        let event = if differs.is_empty() {
            Event::new(Level::Info, Kind::Peer, format!("{name} has the same settings again"))
        } else {
            let keys = differs.join(", ");
            let message =
                format!("{name} has other settings than this node: {keys}; give both the same file");
            Event::new(Level::Warn, Kind::Peer, message)
        };
        self.tell(event.of_peer(&name));
    }

    /// Notes in which keys, of those that its votes hang by, a witness's file
    /// differs from this node's. Of the others it takes no notice, and nobody
    /// need restart it when one of them changes.
    pub(super) fn compare_witness(&mut self, witness: usize) {
        let (Some(known), Some(member)) =
            (self.witnesses.get_mut(witness), self.settings.cluster.witnesses.get(witness))
        else {
            return;
        };
        if known.digests.is_empty() {
            // It has not said, or is of a release that does not.
            return;
        }
        let mut differs = differing(&self.settings.digests, &known.digests);
        differs.retain(|key| OF_VOTES.contains(key));
        if known.differs == differs {
            return;
        }
        known.differs.clone_from(&differs);
        let name = member.name.clone();
        let event = if differs.is_empty() {
            Event::new(Level::Info, Kind::Peer, format!("{name} votes by the same settings again"))
        } else {
            let keys = differs.join(", ");
            let message = format!(
                "{name} votes by other settings than this node's: {keys}; give it the same file and restart it"
            );
            Event::new(Level::Warn, Kind::Peer, message)
        };
        self.tell(event.of_peer(&name));
    }

    /// Over unicast two hosts with the same name and address hear nothing of
    /// each other; the others hear both.
    fn hear_run(&mut self, from: usize, run: u32, now: Time) {
        if self.peers[from].hear_run(run, now) {
            let name = self.settings.cluster.nodes[from].name.clone();
            let message = format!("{}: {}", name, peers::TWINS);
            self.tell(Event::new(Level::Error, Kind::Peer, message).of_peer(&name));
        }
    }

    pub(super) fn say_hello(&mut self, now: Time) {
        self.hello_at = now + self.hello_interval();
        let (mut groups, mut sightings) = (vec![], vec![]);
        let (mut sources, mut macs) = (BTreeSet::new(), BTreeSet::new());
        self.read_groups(now, |group, scope| {
            if !group.waits() {
                groups.push(group.report(scope.now));
            }
            sources.extend(Family::ALL.into_iter().filter_map(|f| group.source(f)));
            macs.extend(group.mac());
            sightings.extend(group.sighting(scope));
        });
        let sightings = in_turn(sightings, MAX_SIGHTINGS, &mut self.next_sighting);
        let (verdicts, among) = self.pools.verdicts(&mut self.next_verdict, now);
        let heard = self.settings.cluster.nodes.iter().zip(&self.peers).filter(|(_, p)| p.alive);
        let message = Message::Hello(Hello {
            groups,
            digests: self.settings.digests.iter().map(|(_, digest)| *digest).collect(),
            sources: sources.into_iter().collect(),
            incumbents: self.pools.incumbents().collect(),
            run: self.run,
            hears: Some(heard.map(|(n, _)| peer::node_id(&n.name)).collect()),
            macs: macs.into_iter().collect(),
            sightings,
            verdicts,
            among,
        });
        let me = self.me;
        for node in (0..self.settings.cluster.voters().count()).filter(|n| *n != me) {
            self.send(node, message.clone());
        }
    }

    fn send(&mut self, node: usize, message: Message) {
        let cluster = peer::cluster_id(&self.settings.cluster.name);
        let sender = peer::node_id(&self.settings.cluster.nodes[self.me].name);
        let bytes = Envelope { cluster, sender, message }.write();
        self.out.push_back(Output::Peer { node, bytes });
    }
}

/// The keys whose digests differ.
fn differing(own: &[(&'static str, u32)], theirs: &[u32]) -> Vec<&'static str> {
    let own = own.iter().enumerate();
    own.filter(|(i, (_, d))| theirs.get(*i) != Some(d)).map(|(_, (key, _))| *key).collect()
}

/// Of more than fit into a message, the next ones with each.
fn in_turn<T>(mut items: Vec<T>, most: usize, next: &mut usize) -> Vec<T> {
    if items.len() > most {
        let first = *next % items.len();
        items.rotate_left(first);
        items.truncate(most);
        *next = first + most;
    }
    items
}
