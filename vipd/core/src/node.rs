//! A whole node: every VIP group, what is known of the peers, and the pools.
//!
//! [`Node::handle`] takes what happened and the time; what must be done about
//! it is then drained with [`Node::next_output`]. Nothing else goes in or out.

use crate::election::{Event as Happening, Heard, Who};
use crate::event::{Event, Kind, Level};
use crate::explain;
use crate::group::{self, Group, Purpose};
use crate::peers::Peer;
use crate::plan::GroupPlan;
use crate::rejects::{Reject, Rejected, Rejects};
use crate::settings::{Cidr, ClusterSettings, ElectionSettings, Family, Listener, Pool, Transport, VipGroup};
use crate::time::Time;
use crate::wire::advert::Advert;
use crate::wire::peer::{self, Envelope, GroupReport, Message, State};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

/// The only TTL or hop limit that is taken (RFC 9568 section 7.1, RFC 5082).
const TTL: u8 = 255;
/// Bounds of the rhythm of hellos, which otherwise follows the adverts.
const HELLO_MIN: Duration = Duration::from_millis(250);
const HELLO_MAX: Duration = Duration::from_secs(1);
/// A stopping node waits this long for the kernel and its successors.
const STOP_FOR: Duration = Duration::from_secs(3);

/// Everything a node runs by; the same on every node of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// `[cluster]`.
    pub cluster: ClusterSettings,
    /// `[election]`.
    pub election: ElectionSettings,
    /// `[[vip]]`.
    pub vips: Vec<VipGroup>,
    /// `[[listen]]`.
    pub listeners: Vec<Listener>,
    /// `[[pool]]`.
    pub pools: Vec<Pool>,
    /// A digest for each key that must agree between nodes.
    pub digests: Vec<(&'static str, u32)>,
}

/// The interface that carries a group.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Link {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// It cannot be used.
    Down {
        /// Why, for people: "eth0 has no carrier".
        reason: String,
    },
    /// It can.
    Up {
        /// The kernel's index of the interface.
        interface: u32,
        /// This node's own addresses to advertise from, at most one a family.
        sources: Vec<IpAddr>,
    },
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A deadline passed.
    Tick,
    /// A group's interface came, went or changed.
    Link {
        /// The group's number.
        group: usize,
        /// What it is now.
        link: Link,
    },
    /// A packet of IP protocol 112 arrived.
    Packet {
        /// The interface it came in by.
        interface: u32,
        /// Its IP source.
        source: IpAddr,
        /// Its IP destination.
        destination: IpAddr,
        /// Its TTL or hop limit.
        ttl: u8,
        /// What follows the IP header.
        payload: &'a [u8],
    },
    /// A datagram arrived on the peer port.
    PeerPacket {
        /// Its IP source.
        source: IpAddr,
        /// Its TTL or hop limit.
        ttl: u8,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// The kernel answered a plan.
    Applied {
        /// The group's number.
        group: usize,
        /// The plan's generation.
        generation: u64,
        /// Done, or why not.
        result: Result<(), String>,
    },
    /// Somebody deleted planned addresses, and they were put back.
    Restored {
        /// The group's number.
        group: usize,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// An announcement was sent.
    Announced {
        /// The group's number.
        group: usize,
    },
    /// Stop: hand over, release, and say when it is done.
    Stop,
}

/// A VRRP packet to send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transmit {
    /// The interface to send it by.
    pub interface: u32,
    /// Its IP source.
    pub source: IpAddr,
    /// Its IP destination.
    pub destination: IpAddr,
    /// What follows the IP header.
    pub bytes: Vec<u8>,
}

/// Addresses to announce: gratuitous ARP, unsolicited neighbour advertisements.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Announcement {
    /// The group's number.
    pub group: usize,
    /// The interface to send them by.
    pub interface: u32,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
}

/// What the crash guard must know: it replaces what it knew before.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GuardState {
    /// The addresses to delete, with the interface of each.
    pub addresses: Vec<(u32, Cidr)>,
    /// The packets to send then.
    pub farewells: Vec<Transmit>,
}

/// What must be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a VRRP packet.
    Advert(Transmit),
    /// Send a datagram to a node's peer port.
    Peer {
        /// The node, as a position in the cluster's list.
        node: usize,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// Make the kernel hold this, and answer with [`Input::Applied`].
    Addresses(GroupPlan),
    /// Announce addresses, and answer with [`Input::Announced`].
    Announce(Announcement),
    /// Close the sessions of clients that came by these addresses.
    CloseSessions {
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// Tell the crash guard.
    Guard(GuardState),
    /// Tell people.
    Event(Event),
    /// Everything is handed over and released: the program may end.
    Stopped,
}

/// What a part of a node needs of the whole while it handles an input.
pub(crate) struct Scope<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) me: usize,
    pub(crate) now: Time,
    pub(crate) out: &'a mut VecDeque<Output>,
    pub(crate) hello_soon: bool,
    pub(crate) guard_changed: bool,
    nonce: &'a mut u32,
}

impl Scope<'_> {
    /// A node's name.
    pub(crate) fn name(&self, node: usize) -> &str {
        self.settings.cluster.nodes.get(node).map_or("?", |n| n.name.as_str())
    }

    /// A node's number in messages.
    pub(crate) fn id_of(&self, node: usize) -> u32 {
        peer::node_id(self.name(node))
    }

    pub(crate) fn nonce(&mut self) -> u32 {
        *self.nonce = self.nonce.wrapping_add(1);
        *self.nonce
    }

    /// Sends a message to a node.
    pub(crate) fn send(&mut self, node: usize, message: Message) {
        let cluster = peer::cluster_id(&self.settings.cluster.name);
        let bytes = Envelope { cluster, sender: self.id_of(self.me), message }.write();
        self.out.push_back(Output::Peer { node, bytes });
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }
}

/// A node of the cluster.
#[derive(Debug)]
pub struct Node {
    settings: Settings,
    me: usize,
    groups: Vec<Group>,
    /// Groups that a reload removed and that are not gone yet.
    leaving: Vec<Group>,
    next_group: usize,
    peers: Vec<Peer>,
    rejects: Rejects,
    hello_at: Time,
    nonce: u32,
    maintenance: bool,
    stopping: Option<Time>,
    stopped: bool,
    out: VecDeque<Output>,
}

impl Node {
    /// A node that has heard nothing yet. `me` is its position among the
    /// cluster's nodes; `seed` makes its messages differ from those of its
    /// former run.
    #[must_use]
    pub fn new(settings: Settings, me: usize, seed: u32, now: Time) -> Self {
        let mut node = Self {
            me,
            groups: vec![],
            leaving: vec![],
            next_group: 0,
            peers: vec![Peer::default(); settings.cluster.nodes.len()],
            rejects: Rejects::default(),
            hello_at: now,
            nonce: seed,
            maintenance: false,
            stopping: None,
            stopped: false,
            out: VecDeque::new(),
            settings,
        };
        for vip in node.settings.vips.clone() {
            node.add_group(vip, now);
        }
        node
    }

    fn add_group(&mut self, vip: VipGroup, now: Time) {
        let params = group::params(&vip, self.me, &self.settings);
        if let Some(params) = params {
            self.groups.push(Group::new(self.next_group, vip, params, now));
            self.next_group += 1;
        }
    }

    // ---- time -----------------------------------------------------------

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        if self.stopped {
            return None;
        }
        let groups = self.groups.iter().chain(&self.leaving).filter_map(Group::deadline);
        let patience = self.patience();
        let peers = self.peers.iter().filter_map(|p| p.deadline(patience));
        groups.chain(peers).chain(self.stopping).chain([self.hello_at]).min()
    }

    fn hello_interval(&self) -> Duration {
        self.settings.election.advert_interval.clamp(HELLO_MIN, HELLO_MAX)
    }

    /// A peer that is silent for longer is gone.
    fn patience(&self) -> Duration {
        self.hello_interval() * 7 / 2
    }

    /// Takes an input. Whatever it is, owners that slept too long step down first.
    pub fn handle(&mut self, input: Input<'_>, now: Time) {
        self.with_groups(now, |group, scope| group.happen(Happening::Wake, scope));
        match input {
            Input::Tick => self.tick(now),
            Input::Link { group, link } => self.with_group(group, now, |g, scope| g.set_link(link, scope)),
            Input::Packet { interface, source, destination, ttl, payload } => {
                match self.accept(interface, source, destination, ttl, payload) {
                    Ok((group, heard)) => self.hear(group, heard, now),
                    Err(cause) => self.reject(cause, source, now),
                }
            }
            Input::PeerPacket { source, ttl, payload } => {
                if let Err(cause) = self.peer_packet(source, ttl, payload, now) {
                    self.reject(cause, source, now);
                }
            }
            Input::Applied { group, generation, result } => {
                self.with_group(group, now, |g, scope| g.applied(generation, result, scope));
            }
            Input::Restored { group, addresses } => {
                self.with_group(group, now, |g, scope| g.restored(&addresses, scope));
            }
            Input::Announced { group } => self.with_group(group, now, |g, scope| g.announced(scope)),
            Input::Stop => self.stop(now),
        }
        self.settle(now);
    }

    /// What must be done next; `None` when nothing is left.
    pub fn next_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn tick(&mut self, now: Time) {
        self.with_groups(now, |group, scope| {
            if group.deadline().is_some_and(|at| at <= scope.now) {
                group.tick(scope);
            }
        });
        let patience = self.patience();
        for node in 0..self.peers.len() {
            if self.peers[node].watch(now, patience) {
                let name = self.settings.cluster.nodes[node].name.clone();
                let message = format!("{name} is silent for {}", explain::seconds(patience));
                self.tell(Event::new(Level::Warn, Kind::Peer, message).of_peer(&name));
            }
        }
        if now >= self.hello_at {
            self.say_hello(now);
        }
        self.step_back(now);
    }

    /// What follows from any input.
    fn settle(&mut self, now: Time) {
        self.leaving.retain(|g| !g.is_gone());
        if self.stopping.is_some() && !self.stopped {
            let gone = self.groups.iter().chain(&self.leaving).all(Group::is_gone);
            if gone || self.stopping.is_some_and(|at| now >= at) {
                self.stopped = true;
                self.out.push_back(Output::Stopped);
            }
        }
    }

    /// Runs `with` on every group, then does what they asked for in common.
    fn with_groups(&mut self, now: Time, mut with: impl FnMut(&mut Group, &mut Scope<'_>)) {
        let mut scope = Scope {
            settings: &self.settings,
            me: self.me,
            now,
            out: &mut self.out,
            hello_soon: false,
            guard_changed: false,
            nonce: &mut self.nonce,
        };
        for group in self.groups.iter_mut().chain(&mut self.leaving) {
            with(group, &mut scope);
        }
        let (hello_soon, guard_changed) = (scope.hello_soon, scope.guard_changed);
        if guard_changed {
            self.tell_guard(now);
        }
        if hello_soon && self.stopping.is_none() {
            self.say_hello(now);
        }
    }

    fn with_group(&mut self, id: usize, now: Time, with: impl FnOnce(&mut Group, &mut Scope<'_>)) {
        let mut with = Some(with);
        self.with_groups(now, |group, scope| {
            if group.id == id
                && let Some(with) = with.take()
            {
                with(group, scope);
            }
        });
    }

    fn tell(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }

    fn tell_guard(&mut self, now: Time) {
        let mut state = GuardState::default();
        self.read_groups(now, |group, scope| {
            state.addresses.extend(group.held());
            state.farewells.extend(group.farewells(scope));
        });
        self.out.push_back(Output::Guard(state));
    }

    /// Looks at every group with what it needs of the whole.
    fn read_groups(&self, now: Time, mut with: impl FnMut(&Group, &Scope<'_>)) {
        let (mut out, mut nonce) = (VecDeque::new(), 0);
        let scope = Scope {
            settings: &self.settings,
            me: self.me,
            now,
            out: &mut out,
            hello_soon: false,
            guard_changed: false,
            nonce: &mut nonce,
        };
        for group in self.groups.iter().chain(&self.leaving) {
            with(group, &scope);
        }
    }

    // ---- packets ----------------------------------------------------------

    /// Which group an advert is for, and what it says; or why it counts for nothing.
    fn accept(
        &self,
        interface: u32,
        source: IpAddr,
        destination: IpAddr,
        ttl: u8,
        payload: &[u8],
    ) -> Result<(usize, Heard), Reject> {
        if ttl != TTL {
            return Err(Reject::Ttl);
        }
        let advert = Advert::parse(payload, source, destination).map_err(Reject::Advert)?;
        let group = self
            .groups
            .iter()
            .find(|g| g.vip.vrid == advert.vrid && g.is_on(interface))
            .ok_or(Reject::UnknownVrid)?;
        let who = self.sender(group, source, &advert)?;
        if advert.version != self.settings.election.version {
            return Err(Reject::VersionMismatch);
        }
        if group::interval_disagrees(&advert, &self.settings.election) {
            return Err(Reject::IntervalMismatch);
        }
        let heard = Heard {
            who,
            priority: advert.priority,
            interval: advert.interval,
            source_is_greater: group.source(Family::of(source)).is_some_and(|own| source > own),
            wait: None,
        };
        Ok((group.id, heard))
    }

    /// Who sent an advert, if it may speak for this group.
    fn sender(&self, group: &Group, source: IpAddr, advert: &Advert) -> Result<Who, Reject> {
        if group.source(Family::of(source)) == Some(source) {
            return Err(Reject::OwnAddress);
        }
        let node = self.settings.cluster.nodes.iter().position(|n| n.addresses.contains(&source));
        match (node, self.settings.election.transport) {
            (Some(node), _) if node == self.me => Err(Reject::OwnAddress),
            (Some(node), _) if group.vip.nodes.contains(&node) => Ok(Who::Node(node)),
            (_, Transport::Unicast) => Err(Reject::UnknownSender),
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

    fn hear(&mut self, group: usize, heard: Heard, now: Time) {
        if let Who::Node(node) = heard.who {
            self.hear_peer(node, now);
        }
        self.with_group(group, now, |g, scope| g.hear(heard, scope));
    }

    fn hear_peer(&mut self, node: usize, now: Time) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        if peer.hear(now) {
            let name = self.settings.cluster.nodes[node].name.clone();
            let message = format!("{name} is there");
            self.tell(Event::new(Level::Info, Kind::Peer, message).of_peer(&name));
        }
    }

    fn reject(&mut self, cause: Reject, sender: IpAddr, now: Time) {
        if let Some(count) = self.rejects.count(cause, sender, now) {
            let message = format!("{count} packets of {sender} not accepted ({cause}): {}", cause.advice());
            self.tell(Event::new(Level::Warn, Kind::PacketRejected, message));
        }
    }

    fn peer_packet(&mut self, source: IpAddr, ttl: u8, payload: &[u8], now: Time) -> Result<(), Reject> {
        if ttl != TTL {
            return Err(Reject::Ttl);
        }
        let envelope = Envelope::parse(payload).map_err(Reject::Peer)?;
        if envelope.cluster != peer::cluster_id(&self.settings.cluster.name) {
            return Err(Reject::ForeignCluster);
        }
        let nodes = &self.settings.cluster.nodes;
        let from = nodes.iter().position(|n| n.addresses.contains(&source)).ok_or(Reject::UnknownSender)?;
        if from == self.me {
            return Err(Reject::OwnAddress);
        }
        if envelope.sender != peer::node_id(&nodes[from].name) {
            return Err(Reject::NodeName);
        }
        let own_id = peer::node_id(&nodes[self.me].name);
        self.hear_peer(from, now);
        match envelope.message {
            Message::Hello { groups, digests } => self.hear_hello(from, groups, &digests, now),
            Message::Prepare { vrid, nonce, to } => {
                let me = to == own_id;
                self.with_vrid(vrid, now, |g, scope| g.asked_to_prepare(from, nonce, me, scope));
            }
            Message::Ready { vrid, nonce } => {
                self.with_vrid(vrid, now, |g, scope| g.peer_ready(from, nonce, scope));
            }
        }
        Ok(())
    }

    fn with_vrid(
        &mut self,
        vrid: std::num::NonZeroU8,
        now: Time,
        with: impl FnOnce(&mut Group, &mut Scope<'_>),
    ) {
        if let Some(id) = self.groups.iter().find(|g| g.vip.vrid == vrid).map(|g| g.id) {
            self.with_group(id, now, with);
        }
    }

    fn hear_hello(&mut self, from: usize, groups: Vec<GroupReport>, digests: &[u32], now: Time) {
        let own = &self.settings.digests;
        let differs: Vec<&'static str> = own
            .iter()
            .enumerate()
            .filter(|(i, (_, digest))| digests.get(*i) != Some(digest))
            .map(|(_, (key, _))| *key)
            .collect();
        let name = self.settings.cluster.nodes[from].name.clone();
        let peer = &mut self.peers[from];
        peer.reports = groups;
        let newcomer = !std::mem::replace(&mut peer.speaks, true);
        if peer.differs != differs {
            peer.differs.clone_from(&differs);
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
        if newcomer {
            // Let it know at once whom it may count on.
            self.say_hello(now);
        }
        self.step_back(now);
    }

    fn say_hello(&mut self, now: Time) {
        self.hello_at = now + self.hello_interval();
        let mut groups = vec![];
        self.read_groups(now, |group, _| groups.push(group.report()));
        let digests = self.settings.digests.iter().map(|(_, digest)| *digest).collect();
        let message = Message::Hello { groups, digests };
        let cluster = peer::cluster_id(&self.settings.cluster.name);
        let sender = peer::node_id(&self.settings.cluster.nodes[self.me].name);
        let bytes = Envelope { cluster, sender, message }.write();
        for node in (0..self.peers.len()).filter(|n| *n != self.me) {
            self.out.push_back(Output::Peer { node, bytes: bytes.clone() });
        }
    }

    // ---- commands -----------------------------------------------------------

    /// The peer that should own a group next: able, serving if possible, by preference.
    fn successor(&self, group: &Group) -> Option<usize> {
        let others = || group.vip.nodes.iter().copied().filter(|n| *n != self.me);
        let able = |n: &usize| self.peers[*n].can_take(group.vip.vrid);
        let serving = |n: &usize| able(n) && self.peers[*n].serves(group.vip.vrid);
        others().find(serving).or_else(|| others().find(able))
    }

    /// Owners none of whose tracked listeners has a server step back where
    /// another node is better off.
    fn step_back(&mut self, now: Time) {
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
        if group.in_transition() {
            return Err(format!("a switchover of {vip} is under way already"));
        }
        let to = match to {
            None => self.successor(group).ok_or_else(|| self.nobody_can_take(group))?,
            Some(name) => self.named_successor(group, name)?,
        };
        let (id, name) = (group.id, self.settings.cluster.nodes[to].name.clone());
        self.with_group(id, now, |g, scope| {
            let message = format!("{vip}: planned switchover to {name} begins");
            scope.event(Event::new(Level::Info, Kind::Switchover, message).of_vip(vip).of_peer(&name));
            g.hand_over(Some(to), Purpose::Switchover, scope);
        });
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

    /// Maintenance: this node hands over what it owns and takes nothing, until told otherwise.
    pub fn set_maintenance(&mut self, on: bool, now: Time) {
        if self.maintenance == on || self.stopping.is_some() {
            return;
        }
        self.maintenance = on;
        let message = if on { "maintenance begins: this node owns nothing" } else { "maintenance is over" };
        self.tell(Event::new(Level::Warn, Kind::Daemon, message));
        if on {
            self.leave_all(now);
        } else {
            self.with_groups(now, |group, scope| {
                group.taking_part = true;
                group.start_if_able(scope);
            });
        }
        self.say_hello(now);
        self.settle(now);
    }

    fn leave_all(&mut self, now: Time) {
        let successors: Vec<_> = self.groups.iter().map(|g| (g.id, self.successor(g))).collect();
        for (id, to) in successors {
            self.with_group(id, now, |group, scope| group.leave(to, scope));
        }
    }

    fn stop(&mut self, now: Time) {
        if self.stopping.is_none() {
            self.stopping = Some(now + STOP_FOR);
            self.leave_all(now);
            self.say_hello(now);
        }
    }

    /// Takes over changed settings; elections, addresses and sessions that did
    /// not change are not touched.
    ///
    /// # Errors
    /// The keys that need a restart; nothing is changed then.
    pub fn reconfigure(&mut self, settings: Settings, now: Time) -> Result<(), Vec<&'static str>> {
        let keys = needs_restart(&self.settings, &settings);
        if !keys.is_empty() {
            return Err(keys);
        }
        self.settings = settings;
        let vips = self.settings.vips.clone();
        let (stay, go): (Vec<Group>, Vec<Group>) = std::mem::take(&mut self.groups)
            .into_iter()
            .partition(|g| vips.iter().any(|v| v.name == g.vip.name && v.nodes.contains(&self.me)));
        self.groups = stay;
        for group in go {
            let (id, to) = (group.id, self.successor(&group));
            self.leaving.push(group);
            self.with_group(id, now, |group, scope| group.leave(to, scope));
        }
        for vip in vips {
            let Some(params) = group::params(&vip, self.me, &self.settings) else { continue };
            match self.groups.iter().find(|g| g.vip.name == vip.name).map(|g| g.id) {
                Some(id) => self.with_group(id, now, |g, scope| g.reconfigure(vip, params, scope)),
                None => self.add_group(vip, now),
            }
        }
        self.say_hello(now);
        self.settle(now);
        Ok(())
    }

    // ---- what can be asked ----------------------------------------------------

    /// The settings in force.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// This node's position among the cluster's nodes.
    #[must_use]
    pub const fn me(&self) -> usize {
        self.me
    }

    /// Whether this node is in maintenance.
    #[must_use]
    pub const fn maintenance(&self) -> bool {
        self.maintenance
    }

    /// The groups of this node, with the number each has in inputs and outputs.
    pub fn groups(&self) -> impl Iterator<Item = (usize, &VipGroup)> + '_ {
        self.groups.iter().map(|g| (g.id, &g.vip))
    }

    /// The state of every group.
    #[must_use]
    pub fn group_status(&self, now: Time) -> Vec<GroupStatus> {
        let mut list = vec![];
        self.read_groups(now, |group, scope| list.push(group.status(scope)));
        list
    }

    /// What is known of every node, in the cluster's order; this node's own entry is empty.
    #[must_use]
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// Packets that were not accepted.
    #[must_use]
    pub fn rejected(&self, now: Time) -> Vec<Rejected> {
        self.rejects.list(now).collect()
    }
}

/// The keys in which two settings differ that cannot change while running.
fn needs_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
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
    keys
}

/// A group as users see it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupStatus {
    /// Its number.
    pub id: usize,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<Cidr>,
    /// This node's state.
    pub state: State,
    /// Who owns it, as far as this node knows.
    pub owner: Option<String>,
    /// This node's priority.
    pub priority: u8,
    /// How long the state has lasted.
    pub since: Duration,
    /// Why it is what it is.
    pub why: String,
    /// The last takeover's steps.
    pub steps: Option<crate::event::Steps>,
}
