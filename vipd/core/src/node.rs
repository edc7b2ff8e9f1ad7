//! A whole node: every VIP group, what is known of the peers, and the pools.
//!
//! [`Node::handle`] takes what happened and the time; what must be done about
//! it is then drained with [`Node::next_output`]. Nothing else goes in or out.

mod claims;
mod commands;
mod guard;
mod io;
mod packets;
mod records;
mod registers;
mod servers;
#[cfg(test)]
mod tests;

pub use io::{
    Announcement, ConflictStatus, GroupStatus, GuardState, Input, Inquiry, Link, Output, Proof, ProofStatus,
    Transmit, Watch,
};

pub(crate) use claims::{ADVERT_INTERVAL, Elsewhere, Own, RANK};

use claims::Claims;
use guard::Telling;

use crate::election::Event as Happening;
use crate::event::{Event, Kind, Level};
use crate::explain;
use crate::group::{self, Group};
use crate::health::PoolsState;
use crate::lease::Votes;
use crate::lease::register::Registers;
use crate::peers::{Peer, WitnessFile};
use crate::rejects::{Rejected, Rejects};
use crate::settings::{ClusterSettings, Dns, ElectionSettings, Listener, Pool, VipGroup};
use crate::time::Time;
use crate::wire::Mac;
use crate::wire::peer::{self, Envelope, Message};
use records::Publishing;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

pub use records::{DnsStatus, Relay};

/// The only TTL or hop limit that is taken (RFC 9568 section 7.1, RFC 5082).
pub(crate) const TTL: u8 = 255;
/// Bounds of the rhythm of hellos, which otherwise follows the adverts.
const HELLO_MIN: Duration = Duration::from_millis(250);
const HELLO_MAX: Duration = Duration::from_secs(1);
/// With a name every node is published, and of one that does not own, its
/// hellos alone tell that it is there: they keep up with the adverts. At the
/// shortest interval of those, 10 ms, its death shows 71 ms after an owner's.
const HELLO_MIN_OF_NAMES: Duration = Duration::from_millis(30);
/// A peer that was not heard for so many quarters of a hello interval is gone:
/// it has missed three.
const SILENT_QUARTERS: u32 = 14;
/// The same of one whose file may give its hellos another rhythm.
pub(crate) const PATIENCE_AT_MOST: Duration = Duration::from_millis(3_500);
/// A node that starts has heard those that are there by then: before the first
/// hello comes a session of the peer link.
const FIRST_HELLO: Duration = Duration::from_millis(875);
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
    /// `[dns]`.
    pub dns: Option<Dns>,
    /// A digest for each key that must agree between nodes.
    pub digests: Vec<(&'static str, u32)>,
}

/// What a part of a node needs of the whole while it handles an input.
pub(crate) struct Scope<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) me: usize,
    pub(crate) now: Time,
    pub(crate) out: &'a mut VecDeque<Output>,
    pub(crate) hello_soon: bool,
    pub(crate) guard_changed: bool,
    /// Nothing but a lease has changed.
    pub(crate) guard_may_wait: bool,
    /// A peer that owned was silent or let go unasked: until it is heard again
    /// it is gone.
    pub(crate) gone: Option<usize>,
    /// For so long this node has listened too short to know what the others own
    /// by a file that may differ.
    pub(crate) unsure_for: Duration,
    pub(crate) votes: &'a mut Votes,
    /// What is known of the groups' keys, where the quorum is kept in etcd.
    pub(crate) registers: &'a mut Registers,
    pub(crate) peers: &'a [Peer],
    pub(crate) witnesses: &'a [WitnessFile],
    pub(crate) run: u32,
    /// When the daemon began.
    pub(crate) started: Time,
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

    /// The node that said to have an Ethernet address.
    pub(crate) fn node_of(&self, mac: Mac) -> Option<usize> {
        self.peers.iter().position(|p| p.macs.contains(&mac))
    }

    pub(crate) fn nonce(&mut self) -> u32 {
        *self.nonce = self.nonce.wrapping_add(1);
        *self.nonce
    }

    /// Sends a message to a node.
    pub(crate) fn send(&mut self, node: usize, message: Message) {
        let bytes = self.envelope(message);
        self.out.push_back(Output::Peer { node, bytes });
    }

    /// A message as it is sent.
    pub(crate) fn envelope(&self, message: Message) -> Vec<u8> {
        let cluster = peer::cluster_id(&self.settings.cluster.name);
        Envelope { cluster, sender: self.id_of(self.me), message }.write()
    }

    /// Sends a message to every other voter.
    pub(crate) fn send_voters(&mut self, message: &Message) {
        let me = self.me;
        for voter in (0..self.settings.cluster.voters().count()).filter(|v| *v != me) {
            self.send(voter, message.clone());
        }
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
    witnesses: Vec<WitnessFile>,
    rejects: Rejects,
    claims: Claims,
    /// The group that has an address, as a position in the settings.
    homes: BTreeMap<IpAddr, usize>,
    pools: PoolsState,
    hello_at: Time,
    started: Time,
    /// Since it started, or slept for longer than owners are silent.
    listening_since: Time,
    /// When waiting for the first verdict on every server ends.
    warm_at: Option<Time>,
    /// When waiting for the others' word on who is primary ends.
    decide_at: Option<Time>,
    publishing: Publishing,
    nonce: u32,
    /// With which of its sightings the next hello begins, where they do not all fit.
    next_sighting: usize,
    /// The same of its words on servers: a pool's number, and a server's.
    next_verdict: (u32, u32),
    /// Tells this run's hellos and requests for votes from those of others.
    run: u32,
    /// How often the settings were changed in this run.
    reloads: u64,
    /// What this node promised to others, and to itself.
    votes: Votes,
    registers: Registers,
    telling: Telling,
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
            witnesses: vec![WitnessFile::default(); settings.cluster.witnesses.len()],
            rejects: Rejects::default(),
            claims: Claims::default(),
            homes: claims::homes(&settings.vips),
            pools: PoolsState::new(settings.pools.clone(), now),
            hello_at: now,
            started: now,
            listening_since: now,
            warm_at: Some(now + WARM_WITHIN),
            decide_at: None,
            publishing: Publishing::default(),
            nonce: seed,
            next_sighting: 0,
            next_verdict: (0, 0),
            run: seed.max(1),
            reloads: 0,
            votes: Votes::new(&settings.election, now),
            registers: Registers::new(
                settings.cluster.nodes.get(me).map(|n| n.name.clone()).unwrap_or_default(),
                seed.max(1),
                settings.cluster.nodes.iter().map(|n| n.name.clone()).collect(),
            ),
            telling: Telling::default(),
            maintenance: false,
            stopping: None,
            stopped: false,
            out: VecDeque::new(),
            settings,
        };
        node.publishing.settling = Some(now + node.patience().max(FIRST_HELLO));
        node.pools.survey(now);
        if node.peers.len() > 1 {
            node.decide_at = Some(now + node.patience().max(FIRST_HELLO));
            node.pools.listen();
        }
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
            let lease = group::quorum::lease(&self.settings, self.reloads);
            let mut group = Group::new(self.next_group, vip, params, lease, now);
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
        let peers = self.peers.iter().enumerate().filter_map(|(n, p)| p.deadline(self.patience_with(n)));
        groups
            .chain(peers)
            .chain(self.stopping)
            .chain(self.warm_at)
            .chain(self.decide_at)
            .chain(self.claims_deadline())
            .chain(self.telling.due)
            .chain(self.pools.deadline())
            .chain(self.publishing.deadline())
            .chain([self.hello_at])
            .min()
    }

    fn hello_interval(&self) -> Duration {
        let least = if self.settings.dns.is_some() { HELLO_MIN_OF_NAMES } else { HELLO_MIN };
        self.settings.election.advert_interval.clamp(least, HELLO_MAX)
    }

    /// How often a peer is heard, as far as known: another file may give its
    /// hellos another rhythm, as while a new one is rolled out.
    fn interval_of(&self, node: usize) -> Duration {
        let Some(peer) = self.peers.get(node) else { return self.hello_interval() };
        let by = [ADVERT_INTERVAL, claims::DNS];
        let differs = peer.differs.iter().any(|key| by.contains(key));
        let hellos = if differs { HELLO_MAX } else { self.hello_interval() };
        if peer.only_advertises() { hellos.max(peer.advert_interval) } else { hellos }
    }

    /// Peers that are silent for longer are gone.
    fn patience(&self) -> Duration {
        self.hello_interval() * SILENT_QUARTERS / 4
    }

    /// A peer that is silent for longer is gone.
    fn patience_with(&self, node: usize) -> Duration {
        self.interval_of(node) * SILENT_QUARTERS / 4
    }

    /// Takes an input. Whatever it is, owners that slept too long step down first.
    pub fn handle(&mut self, input: Input<'_>, now: Time) {
        self.wake(now);
        match input {
            Input::Tick => self.tick(now),
            Input::Link { group, link } => {
                self.with_group(group, now, |g, scope| g.set_link(link, scope));
                // What counts for it is what comes by its interface.
                self.look_at_claims(now);
            }
            Input::Packet { interface, source, destination, ttl, payload } => {
                if let Err(cause) = self.packet(interface, source, destination, ttl, payload, now) {
                    self.reject(cause, source, now);
                }
            }
            Input::PeerPacket { source, ttl, payload } => {
                if let Err(cause) = self.peer_packet(source, ttl, payload, now) {
                    self.reject(cause, source, now);
                }
            }
            Input::Refused { source, cause, owns, interface } => {
                if let Some(vrid) = owns {
                    self.postpone(vrid, source, interface, now);
                }
                self.reject(cause, source, now);
            }
            Input::Claim { interface, claim } => self.claimed(interface, claim, now),
            Input::Applied { group, generation, result } => {
                self.with_group(group, now, |g, scope| g.applied(generation, result, scope));
            }
            Input::Stale { group, generation, waited } => {
                self.with_group(group, now, |g, scope| g.stale(generation, waited, scope));
            }
            Input::Restored { group, addresses } => {
                self.with_group(group, now, |g, scope| g.restored(&addresses, scope));
            }
            Input::Lost { group, reason } => self.with_group(group, now, |g, scope| g.lost(&reason, scope)),
            Input::Evicted { group, copies } => {
                self.with_group(group, now, |g, scope| g.evicted(&copies, scope));
            }
            Input::Announced { group } => self.with_group(group, now, |g, scope| g.announced(scope)),
            Input::Probe { server, probe, checked } => {
                let changes = self.pools.observe(server, probe, checked, now);
                self.servers_changed(changes, now);
            }
            Input::ConnectFailed { pool, server, place, in_a_row } => {
                // A reload may have removed it since, or its name may have left the place.
                let key = self.pools.find_at(pool, server, place);
                let changes = key.and_then(|key| self.pools.connect_failed(key, in_a_row, now));
                self.servers_changed(changes, now);
            }
            Input::ConnectWorked { pool, server, place } => {
                let key = self.pools.find_at(pool, server, place);
                let changes = key.and_then(|key| self.pools.connect_worked(key, now));
                self.servers_changed(changes, now);
            }
            Input::Resolved { server, addresses, unfit, problem } => {
                let changes = self.pools.set_addresses(server, &addresses, problem, now);
                self.servers_changed(changes, now);
                if !unfit.is_empty() {
                    let changes = self.pools.withdraw(server, &unfit, now);
                    self.servers_changed(changes, now);
                }
            }
            Input::Published { generation, result } => self.published(generation, result),
            Input::Registered { vrid, number, outcome } => {
                let step = self.registers.answered(vrid, number, outcome, now);
                self.registered(vrid, step, now);
            }
            Input::RegisterNews { vrid, sight } => {
                let step = self.registers.news(vrid, sight, now);
                self.registered(vrid, step, now);
            }
            Input::RegisterTrouble { why } => self.register_trouble(why, now),
            Input::Stop => self.stop(now),
        }
        self.settle(now);
    }

    /// Owners that slept too long step down; backups that slept note it.
    fn wake(&mut self, now: Time) {
        let late = self.next_deadline().map_or(Duration::ZERO, |at| now - at);
        if late >= self.settings.election.advert_interval * (claims::SILENT_INTERVALS - 1) {
            self.listening_since = now;
        }
        if late >= self.hello_interval() {
            // Whom it did not hear meanwhile may have spoken all the same.
            self.publishing.settling = Some(now + self.patience());
        }
        self.with_groups(now, |group, scope| group.happen(Happening::Wake(late), scope));
    }

    /// What must be done next; `None` when nothing is left.
    pub fn next_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn tick(&mut self, now: Time) {
        // Before the elections: what is claimed no more can be taken.
        if self.claims_deadline().is_some_and(|at| now >= at) {
            self.look_at_claims(now);
        }
        self.call_off_maintenance(now);
        if self.telling.due.is_some_and(|at| now >= at) {
            self.tell_guard(now);
        }
        self.with_groups(now, |group, scope| {
            if group.deadline().is_some_and(|at| at <= scope.now) {
                group.tick(scope);
            }
        });
        for node in 0..self.peers.len() {
            let patience = self.patience_with(node);
            if self.peers[node].watch(now, patience) {
                let name = self.settings.cluster.nodes[node].name.clone();
                let message = format!("{name} is silent for {}", explain::seconds(patience));
                self.tell(Event::new(Level::Warn, Kind::Peer, message).of_peer(&name));
                self.forget_node(node, now);
            }
        }
        if self.pools.deadline().is_some_and(|at| now >= at) {
            let changes = self.pools.tick(now);
            self.servers_changed(Some(changes), now);
        }
        self.decide(now);
        self.warm_up(now);
        if now >= self.hello_at {
            self.say_hello(now);
        }
        self.step_back(now);
    }

    /// A node is gone, and what it said counts for nothing any more.
    fn forget_node(&mut self, node: usize, now: Time) {
        for group in self.groups.iter_mut().chain(&mut self.leaving) {
            group.forget_node(node);
        }
        let changes = self.pools.forget(node, now);
        self.servers_changed(Some(changes), now);
    }

    /// What follows from any input.
    fn settle(&mut self, now: Time) {
        self.publish(now);
        let gone: Vec<usize> = self.leaving.extract_if(.., |g| g.is_gone()).map(|g| g.id).collect();
        for id in gone {
            self.out.push_back(Output::Forget { group: id });
            self.with_groups(now, |group, scope| group.wait_no_more_for(id, scope));
        }
        if self.stopping.is_some() && !self.stopped {
            let gone = self.groups.iter().chain(&self.leaving).all(Group::is_gone);
            // A key that is given back spares the next run of this node the wait.
            let all = gone && self.registers.is_idle(now);
            if all || self.stopping.is_some_and(|at| now >= at) {
                self.stopped = true;
                self.out.push_back(Output::Stopped { clean: gone });
            }
        }
    }

    /// Runs `with` on every group, then does what they asked for in common.
    fn with_groups(&mut self, now: Time, mut with: impl FnMut(&mut Group, &mut Scope<'_>)) {
        let unsure_for = self.unsure_for(now);
        let mut scope = Scope {
            settings: &self.settings,
            me: self.me,
            now,
            out: &mut self.out,
            hello_soon: false,
            guard_changed: false,
            guard_may_wait: false,
            gone: None,
            unsure_for,
            votes: &mut self.votes,
            registers: &mut self.registers,
            peers: &self.peers,
            witnesses: &self.witnesses,
            run: self.run,
            started: self.started,
            nonce: &mut self.nonce,
        };
        for group in self.groups.iter_mut().chain(&mut self.leaving) {
            with(group, &mut scope);
        }
        let (hello_soon, gone) = (scope.hello_soon, scope.gone);
        let (guard_changed, guard_may_wait) = (scope.guard_changed, scope.guard_may_wait);
        if let Some(peer) = gone.and_then(|n| self.peers.get_mut(n)) {
            peer.lose();
        }
        if let Some(node) = gone {
            self.forget_node(node, now);
        }
        if guard_changed {
            self.tell_guard(now);
        } else if guard_may_wait {
            self.tell_guard_soon(now);
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

    /// Looks at every group with what it needs of the whole.
    fn read_groups(&self, now: Time, mut with: impl FnMut(&Group, &Scope<'_>)) {
        let (mut out, mut nonce, mut votes) = (VecDeque::new(), 0, self.votes.clone());
        let mut registers = self.registers.clone();
        let scope = Scope {
            settings: &self.settings,
            me: self.me,
            now,
            out: &mut out,
            hello_soon: false,
            guard_changed: false,
            guard_may_wait: false,
            gone: None,
            unsure_for: self.unsure_for(now),
            votes: &mut votes,
            registers: &mut registers,
            peers: &self.peers,
            witnesses: &self.witnesses,
            run: self.run,
            started: self.started,
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
        for status in &mut list {
            status.switching |= self.is_moving(status.id);
        }
        list
    }

    /// What is known of every node, in the cluster's order; this node's own entry is empty.
    #[must_use]
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// What is known of every witness, in the cluster's order.
    #[must_use]
    pub fn witnesses(&self) -> &[WitnessFile] {
        &self.witnesses
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
