//! The simulated cluster and its invariants.

mod checks;
mod faults;

pub use faults::Fault;

use super::clock::{Clock, DRIFT_MAX};
use super::etcd::{Asked, Etcd};
use super::host::{Host, Power, WitnessHost};
use super::rng::Rng;
use super::settings::{digest, moving_address, second_address, settings};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;
use std::time::Duration;
use vipd_core::lease::register::{Outcome, Sight};
use vipd_core::node::{Input, Link, Node, Output, Settings, Transmit};
use vipd_core::plan::{GroupPlan, Hold};
use vipd_core::publish::Records;
use vipd_core::settings::{Cidr, ElectionSettings, Member, OnNoQuorum, Policy, Quorum, WhenAllDown};
use vipd_core::time::Time;
use vipd_core::wire::peer::State;
use vipd_core::wire::{Claim, Mac};
use vipd_core::witness::Witness;

const INTERFACE: u32 = 2;
/// The daemon reads a place of records this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The Ethernet address of a host that is none of the cluster's.
pub const STRANGER: Mac = [2, 0, 0, 0, 0xee, 0xee];
const MULTICAST: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));

pub(super) enum Due {
    Packet { to: usize, from: usize, transmit: Transmit },
    Peer { to: usize, from: usize, bytes: Vec<u8> },
    Apply { host: usize, start: u32, plan: GroupPlan },
    Applied { host: usize, start: u32, group: usize, generation: u64, refused: bool },
    Restored { host: usize, group: usize },
    Guard { host: usize },
    Store { host: usize, start: u32, records: Records },
    Published { host: usize, start: u32, generation: u64 },
    Look { host: usize, start: u32 },
    Claim { to: usize, claim: Claim },
    Asked { host: usize, from: usize, address: IpAddr },
    Reload { host: usize, start: u32 },
    AskEtcd(Asked),
    Etcd(Asked),
    EtcdAnswers(Asked, Outcome),
    EtcdTells { host: usize, start: u32, vrid: NonZeroU8, sight: Sight },
    WatchEtcd { host: usize, start: u32 },
}

/// What two hosts may both own.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Shared {
    Group(usize),
    Address(Cidr),
}

/// The cluster.
pub struct World {
    /// The virtual clock.
    pub now: Time,
    /// The hosts, in the order of preference.
    pub hosts: Vec<Host>,
    /// The witnesses: their numbers in messages follow the hosts'.
    pub witnesses: Vec<WitnessHost>,
    /// Where the quorum is kept, if it is etcd.
    pub etcd: Etcd,
    /// What every host runs by.
    pub settings: Settings,
    /// Where all chance comes from.
    pub rng: Rng,
    /// Packets lost in a thousand.
    pub loss: u64,
    /// Plans the kernel refuses in a thousand.
    pub refusals: u64,
    /// What happened, for people, the last lines of it.
    pub log: Vec<String>,
    due: BTreeMap<(Time, u64), Due>,
    order: u64,
    cuts: BTreeSet<(usize, usize)>,
    /// Every address that any group has had.
    addresses: BTreeSet<Cidr>,
    /// Since when two hosts that can hear each other have owned something.
    overlap_since: BTreeMap<Shared, Time>,
    /// The longest time for which two hosts that could hear each other owned one group.
    pub longest_overlap: Duration,
    /// How long two owners that hear each other may last.
    pub overlap_bound: Duration,
    /// What the store of the name's records holds.
    pub records: BTreeSet<IpAddr>,
    /// Addresses that a host which is none of the cluster's answers for, too.
    pub squatted: BTreeSet<IpAddr>,
    /// How long nobody answered for the first group.
    pub unowned: Duration,
    /// How long two hosts answered for the first group.
    pub doubly_owned: Duration,
}

impl World {
    /// A cluster of `nodes` hosts and `groups` VIP groups, none started.
    #[must_use]
    pub fn new(seed: u64, nodes: usize, groups: usize, election: ElectionSettings) -> Self {
        let settings = settings(nodes, groups, election);
        let interval = settings.election.advert_interval;
        Self {
            now: Time::ZERO + Duration::from_secs(1),
            hosts: (0..nodes).map(|_| Host::new()).collect(),
            witnesses: vec![],
            etcd: Etcd::default(),
            rng: Rng::new(seed),
            loss: 0,
            refusals: 0,
            log: vec![],
            due: BTreeMap::new(),
            order: 0,
            cuts: BTreeSet::new(),
            addresses: settings.vips.iter().flat_map(|v| v.addresses.clone()).collect(),
            overlap_since: BTreeMap::new(),
            longest_overlap: Duration::ZERO,
            // Detection (four intervals at the most) and a round trip.
            overlap_bound: interval * 4 + Duration::from_millis(20),
            records: BTreeSet::new(),
            squatted: BTreeSet::new(),
            unowned: Duration::ZERO,
            doubly_owned: Duration::ZERO,
            settings,
        }
    }

    /// The same, with a quorum lease, witnesses, and clocks that drift as far
    /// as the lease allows for.
    #[must_use]
    pub fn with_quorum(
        seed: u64,
        nodes: usize,
        witnesses: usize,
        groups: usize,
        election: ElectionSettings,
    ) -> Self {
        let mut world =
            Self::new(seed, nodes, groups, ElectionSettings { quorum: Quorum::Majority, ..election });
        world.let_clocks_drift();
        world.witnesses = (0..witnesses)
            .map(|_| WitnessHost {
                witness: None,
                power: Power::Dead(Time::ZERO),
                clock: world.drifting_clock(),
            })
            .collect();
        world.settings.cluster.witnesses = (nodes..nodes + witnesses)
            .map(|n| Member {
                name: format!("w{}", n + 1 - nodes),
                addresses: vec![Self::address(n)],
                priority: None,
            })
            .collect();
        world
    }

    /// The same, with the quorum in etcd.
    #[must_use]
    pub fn with_etcd(seed: u64, nodes: usize, groups: usize, election: ElectionSettings) -> Self {
        let election = ElectionSettings {
            quorum: Quorum::Etcd,
            etcd_lease: Duration::from_secs(3).max(election.advert_interval * 3),
            ..election
        };
        let mut world = Self::new(seed, nodes, groups, election);
        world.let_clocks_drift();
        world
    }

    fn let_clocks_drift(&mut self) {
        for host in 0..self.hosts.len() {
            self.hosts[host].clock = self.drifting_clock();
        }
    }

    fn drifting_clock(&mut self) -> Clock {
        // The ends of the bound often: that is where a fault would show.
        let drift = match self.rng.below(4) {
            0 => 0,
            1 => 2 * DRIFT_MAX,
            _ => self.rng.below(2 * DRIFT_MAX + 1),
        };
        Clock::new(1_000_000 - DRIFT_MAX + drift, self.rng.below(1 << 40))
    }

    /// A node's own address.
    #[must_use]
    pub fn address(node: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, 11 + u8::try_from(node).unwrap_or(0)))
    }

    /// Notes what happened.
    pub fn note(&mut self, line: impl Into<String>) {
        let line = format!("{} {}", self.now, line.into());
        self.log.push(line);
    }

    pub(super) fn schedule(&mut self, after: Duration, due: Due) {
        self.order += 1;
        self.due.insert((self.now + after, self.order), due);
    }

    /// Runs for a while.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.next_time().filter(|at| *at <= end) {
            self.advance(next);
            self.step();
            self.check();
        }
        self.advance(end);
        self.check();
    }

    fn advance(&mut self, to: Time) {
        match self.owners(0).len() {
            0 => self.unowned += to - self.now,
            1 => {}
            _ => self.doubly_owned += to - self.now,
        }
        self.now = self.now.max(to);
    }

    fn next_time(&self) -> Option<Time> {
        let due = self.due.keys().next().map(|(at, _)| *at);
        let hosts = self.hosts.iter().flat_map(|h| {
            let daemon = match h.power {
                Power::Running => h.node.as_ref().and_then(Node::next_deadline).map(|at| h.clock.when(at)),
                Power::Frozen(until) | Power::Stalled(until) | Power::Dead(until) => Some(until),
            };
            let kernel = h.kernel.values().map(|held| held.until).min();
            let stalled = matches!(h.power, Power::Stalled(_));
            let guard = h.guard.watched.iter().map(|w| h.clock.when(w.until)).min();
            [daemon, kernel.filter(|_| !stalled), guard.filter(|_| !stalled)].into_iter().flatten()
        });
        let witnesses = self.witnesses.iter().filter_map(|w| match w.power {
            Power::Running => None,
            Power::Frozen(until) | Power::Stalled(until) | Power::Dead(until) => Some(until),
        });
        hosts.chain(witnesses).chain(due).min()
    }

    fn step(&mut self) {
        for host in 0..self.hosts.len() {
            if !matches!(self.hosts[host].power, Power::Stalled(until) if until > self.now) {
                self.hosts[host].expire(self.now);
            }
            match self.hosts[host].power {
                Power::Dead(until) if until <= self.now => self.start(host),
                Power::Frozen(until) | Power::Stalled(until) if until <= self.now => {
                    self.hosts[host].power = Power::Running;
                    self.note(format!("{host} thaws"));
                    self.tell_links(host);
                }
                Power::Dead(_) | Power::Frozen(_) | Power::Stalled(_) | Power::Running => {}
            }
        }
        for witness in 0..self.witnesses.len() {
            if matches!(self.witnesses[witness].power, Power::Dead(until) if until <= self.now) {
                self.start_witness(witness);
            }
        }
        while let Some(((_, _), due)) = self.pop_due() {
            self.deliver(due);
        }
        for host in 0..self.hosts.len() {
            let ticks = self.hosts[host].node.as_ref().and_then(Node::next_deadline);
            let shown = self.shown(host);
            if self.hosts[host].runs() && ticks.is_some_and(|at| at <= shown) {
                self.input(host, Input::Tick);
                let next = self.hosts[host].node.as_ref().and_then(Node::next_deadline);
                assert!(next.is_none_or(|at| at > shown), "host {host}: a deadline lies in the past");
            }
        }
    }

    fn pop_due(&mut self) -> Option<((Time, u64), Due)> {
        let key = self.due.keys().next().copied().filter(|(at, _)| *at <= self.now)?;
        self.due.remove(&key).map(|due| (key, due))
    }

    fn deliver(&mut self, due: Due) {
        match due {
            Due::Packet { to, from, transmit } => {
                // A frozen daemon's packets wait in its socket.
                if let Some(after) = self.asleep(to) {
                    return self.schedule(after, Due::Packet { to, from, transmit });
                }
                let input = Input::Packet {
                    interface: INTERFACE,
                    source: transmit.source,
                    destination: transmit.destination,
                    ttl: 255,
                    payload: &transmit.bytes,
                };
                self.input(to, input);
            }
            Due::Peer { to, from, bytes } if to >= self.hosts.len() => {
                self.ask_witness(to - self.hosts.len(), from, &bytes);
            }
            Due::Peer { to, from, bytes } => {
                if let Some(after) = self.asleep(to) {
                    return self.schedule(after, Due::Peer { to, from, bytes });
                }
                self.input(to, Input::PeerPacket { source: Self::address(from), ttl: 255, payload: &bytes });
            }
            Due::Apply { host, start, plan } => self.apply(host, start, &plan),
            Due::Applied { host, start, group, generation, refused } => {
                if let Some(after) = self.asleep(host) {
                    return self.schedule(after, Due::Applied { host, start, group, generation, refused });
                }
                if self.hosts[host].starts == start {
                    let result = if refused { Err("refused by the simulation".to_owned()) } else { Ok(()) };
                    self.input(host, Input::Applied { group, generation, result });
                }
            }
            Due::Restored { host, group } => {
                if self.hosts[host].runs() {
                    let addresses = self.settings.vips[group].addresses.iter().map(|a| a.address()).collect();
                    self.input(host, Input::Restored { group, addresses });
                }
            }
            Due::Claim { to, claim } => {
                if let Some(after) = self.asleep(to) {
                    return self.schedule(after, Due::Claim { to, claim });
                }
                self.input(to, Input::Claim { interface: INTERFACE, claim });
            }
            Due::Asked { host, from, address } => self.answer(host, from, address),
            Due::Reload { host, start } => {
                let now = self.shown(host);
                if let Some(after) = self.asleep(host) {
                    return self.schedule(after, Due::Reload { host, start });
                }
                // One that was started since has read the new file.
                if self.hosts[host].starts == start
                    && let Some(node) = &mut self.hosts[host].node
                {
                    node.reconfigure(self.settings.clone(), now);
                    self.drain(host);
                }
            }
            Due::Store { host, start, records } => {
                // What was sent arrives, also of a daemon that has died since.
                if let Some(set) = &records.wanted {
                    self.records.clone_from(set);
                }
                let after = Duration::from_micros(self.rng.between(100, 3000));
                let generation = records.generation;
                self.schedule(after, Due::Published { host, start, generation });
            }
            Due::Published { host, start, generation } => {
                if self.hosts[host].starts == start {
                    self.input(host, Input::Published { generation, result: Ok(()) });
                }
            }
            Due::Look { host, start } => {
                // Who writes looks now and then whether somebody else has written since.
                if self.hosts[host].starts == start {
                    let node = self.hosts[host].node.as_ref().filter(|_| self.hosts[host].runs());
                    let set = node.and_then(Node::records).filter(|r| r.write).and_then(|r| r.wanted.clone());
                    if let Some(set) = set {
                        self.records = set;
                    }
                    self.schedule(LOOK_EVERY, Due::Look { host, start });
                }
            }
            Due::AskEtcd(asked) => {
                if let Some(after) = self.asleep(asked.host()) {
                    return self.schedule(after, Due::AskEtcd(asked));
                }
                self.try_etcd(asked);
            }
            Due::Etcd(asked) => self.etcd_serves(asked),
            Due::EtcdAnswers(asked, outcome) => self.etcd_answers(asked, outcome),
            Due::EtcdTells { host, start, vrid, sight } => self.etcd_tells(host, start, vrid, sight),
            Due::WatchEtcd { host, start } => self.watch_etcd(host, start),
            Due::Guard { host } => {
                let guard = std::mem::take(&mut self.hosts[host].guard);
                let deleted = |a: &Cidr| guard.addresses.iter().any(|(_, known)| known == a);
                for held in self.hosts[host].kernel.values_mut() {
                    held.addresses.retain(|a| !deleted(a));
                }
                self.hosts[host].kernel.retain(|_, held| !held.addresses.is_empty());
                for farewell in guard.farewells {
                    self.send(host, farewell);
                }
                for (voter, bytes) in guard.releases {
                    self.send_peer(host, voter, bytes);
                }
            }
        }
    }

    fn apply(&mut self, host: usize, start: u32, plan: &GroupPlan) {
        let stale = self.hosts[host].applied.get(&plan.group).is_some_and(|g| *g > plan.generation);
        if self.hosts[host].starts != start || stale || matches!(self.hosts[host].power, Power::Dead(_)) {
            return;
        }
        if let Power::Frozen(until) = self.hosts[host].power {
            // The kernel actor is of the same process.
            let after = (until - self.now) + Duration::from_nanos(1);
            return self.schedule(after, Due::Apply { host, start, plan: plan.clone() });
        }
        let over = plan.until.is_some_and(|until| until <= self.shown(host));
        let refused = over || plan.hold != Hold::Absent && self.rng.chance(self.refusals);
        if !refused {
            self.hosts[host].apply(plan, self.now);
        }
        let (group, generation) = (plan.group, plan.generation);
        self.schedule(Duration::from_micros(50), Due::Applied { host, start, group, generation, refused });
    }

    /// What a host's clock shows.
    fn shown(&self, host: usize) -> Time {
        self.hosts[host].clock.show(self.now)
    }

    /// Until when a host does nothing: its packets wait in the socket.
    pub(super) fn asleep(&self, host: usize) -> Option<Duration> {
        match self.hosts[host].power {
            Power::Frozen(until) | Power::Stalled(until) => {
                Some((until - self.now) + Duration::from_nanos(1))
            }
            Power::Running | Power::Dead(_) => None,
        }
    }

    fn start_witness(&mut self, witness: usize) {
        self.note(format!("witness {witness} starts"));
        let (cluster, me) = (self.settings.cluster.clone(), self.hosts.len() + witness);
        let w = &mut self.witnesses[witness];
        let now = w.clock.show(self.now);
        w.witness = Some(Witness::new(cluster, &self.settings.election, &self.settings.digests, me, now));
        w.power = Power::Running;
    }

    /// A datagram for a witness, and its answer.
    fn ask_witness(&mut self, witness: usize, from: usize, bytes: &[u8]) {
        let w = &mut self.witnesses[witness];
        let now = w.clock.show(self.now);
        let Some(voter) = &mut w.witness else { return };
        match voter.packet(Self::address(from), 255, bytes, now) {
            Ok(Some((to, bytes))) => self.send_peer(self.hosts.len() + witness, to, bytes),
            Ok(None) => {}
            Err(cause) => panic!("a witness rejects a message of node {from}: {cause}"),
        }
    }

    fn send_peer(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        let copies = if self.rng.chance(5) { 2 } else { 1 };
        for _ in 0..copies {
            if let Some(after) = self.path(from, to) {
                self.schedule(after, Due::Peer { to, from, bytes: bytes.clone() });
            }
        }
    }

    /// Starts a host's daemon; what an earlier run left is deleted first.
    pub fn start(&mut self, host: usize) {
        self.note(format!("{host} starts"));
        let seed = u32::try_from(self.rng.below(1 << 30)).unwrap_or(0);
        let node = Node::new(self.settings.clone(), host, seed, self.shown(host));
        let h = &mut self.hosts[host];
        h.starts += 1;
        h.node = Some(node);
        h.power = Power::Running;
        h.kernel.clear();
        h.applied.clear();
        h.open.clear();
        h.sessions.clear();
        h.ordered = None;
        if self.settings.dns.is_some() {
            let start = self.hosts[host].starts;
            self.schedule(LOOK_EVERY, Due::Look { host, start });
        }
        if self.settings.election.quorum == Quorum::Etcd {
            let start = self.hosts[host].starts;
            self.watch_etcd(host, start);
        }
        self.tell_links(host);
    }

    fn tell_links(&mut self, host: usize) {
        for group in 0..self.settings.vips.len() {
            let link = if self.hosts[host].carrier {
                Link::Up {
                    interface: INTERFACE,
                    sources: vec![Self::address(host)],
                    mac: Some(Self::mac(host)),
                    subnets: Cidr::new(Self::address(host), 24).into_iter().collect(),
                }
            } else {
                Link::Down { reason: "eth0 has no carrier".to_owned() }
            };
            self.input(host, Input::Link { group, link });
        }
    }

    pub(super) fn input(&mut self, host: usize, input: Input<'_>) {
        let now = self.shown(host);
        if !self.hosts[host].runs() {
            return;
        }
        if let Some(node) = &mut self.hosts[host].node {
            node.handle(input, now);
        }
        self.drain(host);
    }

    fn drain(&mut self, host: usize) {
        let start = self.hosts[host].starts;
        while let Some(output) = self.hosts[host].node.as_mut().and_then(Node::next_output) {
            match output {
                Output::Advert(transmit) => self.send(host, transmit),
                Output::Peer { node, bytes } => self.send_peer(host, node, bytes),
                Output::Addresses(plan) => {
                    let after = Duration::from_micros(self.rng.between(20, 400));
                    if plan.hold != Hold::Absent {
                        self.hosts[host]
                            .open
                            .extend(plan.addresses.iter().map(|a| (a.address(), plan.group)));
                    }
                    self.schedule(after, Due::Apply { host, start, plan });
                }
                Output::Announce(announcement) => {
                    let held = self.hosts[host].kernel.get(&announcement.group);
                    let owned = held.is_some_and(|h| h.hold == Hold::Owned);
                    assert!(owned, "host {host} announces what its kernel does not hold");
                    for address in announcement.addresses {
                        let claim = Claim { address, mac: Self::mac(host), answer: false };
                        self.claim(host, claim);
                    }
                    let (group, now) = (announcement.group, self.shown(host));
                    if let Some(node) = &mut self.hosts[host].node {
                        node.handle(Input::Announced { group }, now);
                    }
                }
                Output::Register { vrid, number, operation } => {
                    self.ask_etcd(host, vrid, number, operation);
                }
                Output::Ask(inquiry) => self.ask(host, &inquiry.addresses),
                Output::Guard(state) => self.hosts[host].guard = state,
                Output::Event(event) => self.note(format!("{host}: {}", event.message)),
                Output::Forget { .. } => {}
                Output::Stopped { .. } => {
                    self.note(format!("{host} has stopped"));
                    assert!(
                        self.hosts[host].kernel.is_empty(),
                        "host {host} stopped and still holds addresses"
                    );
                    self.hosts[host].guard = vipd_core::node::GuardState::default();
                    self.hosts[host].node = None;
                    let until = self.now + Duration::from_secs(3);
                    self.hosts[host].power = Power::Dead(until);
                    return;
                }
                Output::CloseSessions { addresses } => {
                    self.hosts[host].sessions.retain(|a| !addresses.contains(a));
                    self.hosts[host].open.retain(|a, _| !addresses.contains(a));
                }
                Output::Records(records) => self.order(host, start, records),
                Output::Pools(_)
                | Output::CloseElsewhere(_)
                | Output::CloseServer { .. }
                | Output::Room { .. }
                | Output::Hurry { .. } => {}
            }
        }
    }

    /// An order for the store of records, which must be one that may be given.
    fn order(&mut self, host: usize, start: u32, records: Records) {
        let Some(set) = records.wanted.clone().filter(|_| records.write) else { return };
        let Some(dns) = &self.settings.dns else { unreachable!("records without a name") };
        assert!(
            !set.is_empty() || dns.when_all_down == WhenAllDown::Empty,
            "host {host} empties the name against its policy"
        );
        assert!(
            dns.policy == Policy::Multi || set.len() <= 1,
            "host {host} publishes {set:?}, not one owner"
        );
        let hold_down = dns.hold_down;
        let ordered = &mut self.hosts[host].ordered;
        if ordered.as_ref().is_none_or(|(before, _)| *before != set) {
            let since = ordered.replace((set.clone(), self.now)).map(|(_, at)| self.now - at);
            assert!(since.is_none_or(|s| s >= hold_down), "host {host} changes the records after {since:?}");
        }
        self.note(format!("{host} orders the records {set:?}"));
        let after = Duration::from_micros(self.rng.between(100, 5000));
        self.schedule(after, Due::Store { host, start, records });
    }

    fn send(&mut self, from: usize, transmit: Transmit) {
        for to in 0..self.hosts.len() {
            let meant = transmit.destination == MULTICAST || transmit.destination == Self::address(to);
            if to == from || !meant {
                continue;
            }
            let copies = if self.rng.chance(5) { 2 } else { 1 };
            for _ in 0..copies {
                if let Some(after) = self.path(from, to) {
                    self.schedule(after, Due::Packet { to, from, transmit: transmit.clone() });
                }
            }
        }
    }

    /// A node's Ethernet address.
    #[must_use]
    pub fn mac(node: usize) -> Mac {
        [2, 0, 0, 0, 0, u8::try_from(node).unwrap_or(0)]
    }

    /// Somebody asks the link who has addresses.
    fn ask(&mut self, from: usize, addresses: &[IpAddr]) {
        for address in addresses.iter().copied() {
            for host in (0..self.hosts.len()).filter(|h| *h != from) {
                if let Some(after) = self.path(from, host) {
                    self.schedule(after, Due::Asked { host, from, address });
                }
            }
            if self.squatted.contains(&address) {
                let claim = Claim { address, mac: STRANGER, answer: true };
                self.schedule(Duration::from_micros(80), Due::Claim { to: from, claim });
            }
        }
    }

    /// A host's kernel answers who asks for an address that it has.
    fn answer(&mut self, host: usize, to: usize, address: IpAddr) {
        let has = |a: &Cidr| a.address() == address && self.hosts[host].answers_for(*a);
        if !self.addresses.iter().any(has) {
            return;
        }
        if let Some(after) = self.path(host, to) {
            let claim = Claim { address, mac: Self::mac(host), answer: true };
            self.schedule(after, Due::Claim { to, claim });
        }
    }

    /// A host announces an address to everybody.
    fn claim(&mut self, from: usize, claim: Claim) {
        for to in (0..self.hosts.len()).filter(|h| *h != from) {
            if let Some(after) = self.path(from, to) {
                self.schedule(after, Due::Claim { to, claim });
            }
        }
    }

    /// A host that is none of the cluster's announces an address.
    pub fn spoof(&mut self, address: IpAddr) {
        self.note(format!("a stranger claims {address}"));
        for to in 0..self.hosts.len() {
            let claim = Claim { address, mac: STRANGER, answer: false };
            self.schedule(Duration::from_micros(50), Due::Claim { to, claim });
        }
    }

    /// How long a packet takes, unless it is lost.
    pub(super) fn path(&mut self, from: usize, to: usize) -> Option<Duration> {
        let carrier = |n: usize| self.hosts.get(n).is_none_or(|h| h.carrier);
        let whole = carrier(from) && carrier(to) && !self.cuts.contains(&(from, to));
        let arrives = whole && !self.rng.chance(self.loss);
        arrives.then(|| Duration::from_micros(self.rng.between(30, 500)))
    }

    fn owns(&self, host: usize, group: usize) -> bool {
        let status = self.hosts[host].node.as_ref().map(|n| n.group_status(self.shown(host)));
        status.is_some_and(|s| s.iter().any(|g| g.id == group && g.state == State::Active))
    }

    /// Why a group is in the state it is in, as a host tells it.
    #[must_use]
    pub fn why(&self, host: usize, group: usize) -> String {
        let status = self.hosts[host].node.as_ref().map(|n| n.group_status(self.shown(host)));
        status.into_iter().flatten().find(|g| g.id == group).map(|g| g.why).unwrap_or_default()
    }
}
