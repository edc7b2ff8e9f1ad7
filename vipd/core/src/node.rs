//! A whole node: every VIP group, what is known of the peers, and the pools.
//!
//! [`Node::handle`] takes what happened and the time; what must be done about
//! it is then drained with [`Node::next_output`]. Nothing else goes in or out.

mod commands;
mod packets;
mod servers;
#[cfg(test)]
mod tests;

use crate::election::Event as Happening;
use crate::event::{Event, Kind, Level};
use crate::explain;
use crate::group::{self, Group};
use crate::health::{PoolsState, Why};
use crate::peers::Peer;
use crate::plan::GroupPlan;
use crate::pool::{Pools, ServerKey};
use crate::probe::Probe;
use crate::rejects::{Reject, Rejected, Rejects};
use crate::settings::{Cidr, ClusterSettings, ElectionSettings, Listener, Pool, VipGroup};
use crate::time::Time;
use crate::wire::peer::{self, Envelope, Message, State};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

/// The only TTL or hop limit that is taken (RFC 9568 section 7.1, RFC 5082).
const TTL: u8 = 255;
/// Bounds of the rhythm of hellos, which otherwise follows the adverts.
const HELLO_MIN: Duration = Duration::from_millis(250);
const HELLO_MAX: Duration = Duration::from_secs(1);
/// Servers that have not been judged by then are not waited for: a name may
/// never resolve.
const WARM_WITHIN: Duration = Duration::from_secs(5);
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
        /// Its TTL or hop limit; 255 for what a seal has proven, which may have come through routers.
        ttl: u8,
        /// Its bytes; if it was sealed, what was inside.
        payload: &'a [u8],
    },
    /// A packet counts for nothing by what the cluster key says of it, or was
    /// not even looked at.
    Refused {
        /// Its IP source.
        source: IpAddr,
        /// Why.
        cause: Reject,
        /// The virtual router that it says to own, where its sender may yet be
        /// a node of ours with another key: this node does not take that over
        /// for as long as it hears so.
        owns: Option<NonZeroU8>,
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
    /// Planned addresses are gone and cannot be put back.
    Lost {
        /// The group's number.
        group: usize,
        /// Why not.
        reason: String,
    },
    /// Somebody put a group's addresses here although this node does not hold
    /// them; they are removed.
    Evicted {
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
    /// A check answered.
    Probe {
        /// The server.
        server: ServerKey,
        /// What the check saw.
        probe: Probe,
        /// How long it took.
        took: Duration,
    },
    /// A client's connection to a server failed.
    ConnectFailed {
        /// The server's pool.
        pool: &'a str,
        /// The server.
        server: &'a str,
    },
    /// A server's name was looked up.
    Resolved {
        /// The server.
        server: ServerKey,
        /// Where it leads; nowhere if it never resolved.
        addresses: Vec<IpAddr>,
        /// Why the latest look-up failed, if it did.
        problem: Option<String>,
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
#[derive(Clone, Debug)]
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
    /// Balance over these from now on.
    Pools(Arc<Pools>),
    /// Close the sessions on a server; comes after the pools without it.
    CloseServer {
        /// The server.
        server: ServerKey,
        /// Why.
        why: Why,
    },
    /// Give a server no more new sessions than this until its next check.
    Room {
        /// The server.
        server: ServerKey,
        /// New sessions; unbounded when absent.
        free: Option<u32>,
    },
    /// Check a server now rather than at its turn.
    Hurry {
        /// The server.
        server: ServerKey,
    },
    /// Tell the crash guard.
    Guard(GuardState),
    /// Tell people.
    Event(Event),
    /// This group is no more; no plan for it follows.
    Forget {
        /// The group's number.
        group: usize,
    },
    /// Everything is handed over and released: the program may end.
    Stopped {
        /// The kernel has said so; else time ran out, and the guard has to look.
        clean: bool,
    },
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
    pools: PoolsState,
    hello_at: Time,
    /// When waiting for the first verdict on every server ends.
    warm_at: Option<Time>,
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
            pools: PoolsState::new(settings.pools.clone(), now),
            hello_at: now,
            warm_at: Some(now + WARM_WITHIN),
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
        node.pools_changed(now);
        node.warm_up(now);
        node
    }

    fn add_group(&mut self, vip: VipGroup, now: Time) {
        let params = group::params(&vip, self.me, &self.settings);
        if let Some(params) = params {
            let mut group = Group::new(self.next_group, vip, params, now);
            group.warm = self.warm_at.is_none();
            group.taking_part = !self.maintenance && self.stopping.is_none();
            self.groups.push(group);
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
        groups
            .chain(peers)
            .chain(self.stopping)
            .chain(self.warm_at)
            .chain(self.pools.deadline())
            .chain([self.hello_at])
            .min()
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
        self.wake(now);
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
            Input::Refused { source, cause, owns } => {
                if let Some(vrid) = owns {
                    self.with_vrid(vrid, now, |g, scope| g.postpone(scope.now));
                }
                self.reject(cause, source, now);
            }
            Input::Applied { group, generation, result } => {
                self.with_group(group, now, |g, scope| g.applied(generation, result, scope));
            }
            Input::Restored { group, addresses } => {
                self.with_group(group, now, |g, scope| g.restored(&addresses, scope));
            }
            Input::Lost { group, reason } => self.with_group(group, now, |g, scope| g.lost(&reason, scope)),
            Input::Evicted { group, addresses } => {
                self.with_group(group, now, |g, scope| g.evicted(&addresses, scope));
            }
            Input::Announced { group } => self.with_group(group, now, |g, scope| g.announced(scope)),
            Input::Probe { server, probe, took } => {
                let changes = self.pools.observe(server, probe, took, now);
                self.servers_changed(changes, now);
            }
            Input::ConnectFailed { pool, server } => {
                // A reload may have removed it since.
                let key = self.pools.find(pool, server);
                let changes = key.and_then(|key| self.pools.connect_failed(key, now));
                self.servers_changed(changes, now);
            }
            Input::Resolved { server, addresses, problem } => {
                let changes = self.pools.set_addresses(server, &addresses, problem, now);
                self.servers_changed(changes, now);
            }
            Input::Stop => self.stop(now),
        }
        self.settle(now);
    }

    /// Owners that slept too long step down; backups that slept note it.
    fn wake(&mut self, now: Time) {
        let late = self.next_deadline().map_or(Duration::ZERO, |at| now - at);
        self.with_groups(now, |group, scope| group.happen(Happening::Wake(late), scope));
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
        if self.pools.deadline().is_some_and(|at| now >= at) {
            let changes = self.pools.tick(now);
            self.servers_changed(Some(changes), now);
        }
        self.warm_up(now);
        if now >= self.hello_at {
            self.say_hello(now);
        }
        self.step_back(now);
    }

    /// What follows from any input.
    fn settle(&mut self, now: Time) {
        for gone in self.leaving.extract_if(.., |g| g.is_gone()) {
            self.out.push_back(Output::Forget { group: gone.id });
        }
        if self.stopping.is_some() && !self.stopped {
            let gone = self.groups.iter().chain(&self.leaving).all(Group::is_gone);
            if gone || self.stopping.is_some_and(|at| now >= at) {
                self.stopped = true;
                self.out.push_back(Output::Stopped { clean: gone });
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

    /// Packets that were not accepted: of the last hour's senders, those with the most first.
    #[must_use]
    pub fn rejected(&self, now: Time) -> Vec<Rejected> {
        self.rejects.list(now)
    }

    /// Packets that were not accepted since the start, by cause.
    #[must_use]
    pub const fn rejected_totals(&self) -> &BTreeMap<&'static str, u64> {
        self.rejects.totals()
    }
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
    /// Whether a planned switchover of it is under way here.
    pub switching: bool,
    /// The last takeover's steps.
    pub steps: Option<crate::event::Steps>,
}
