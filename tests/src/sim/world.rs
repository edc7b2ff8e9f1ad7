//! The simulated cluster and its invariants.

mod checks;
mod daemons;
mod faults;
mod network;

pub use faults::{By, Fault};

use super::clock::{Clock, DRIFT_MAX};
use super::etcd::{Asked, Etcd};
use super::host::{Host, Power, WitnessHost};
use super::rng::Rng;
use super::settings::{digests, moving_address, second_address, settings};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;
use std::time::Duration;
use vipd_core::lease::register::{Outcome, Sight};
use vipd_core::node::{GroupStatus, Input, Link, Node, Output, Settings, Transmit};
use vipd_core::plan::{GroupPlan, Hold};
use vipd_core::publish::Records;
use vipd_core::settings::{
    Cidr, ElectionSettings, Member, OnNoQuorum, Policy, Quorum, VipGroup, VrrpVersion, WhenAllDown,
};
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
    Restored { host: usize, group: usize, addresses: Vec<IpAddr> },
    Guard { host: usize },
    Store { host: usize, start: u32, records: Records },
    Published { host: usize, start: u32, generation: u64 },
    Look { host: usize, start: u32 },
    Claim { to: usize, claim: Claim },
    Asked { host: usize, from: usize, address: IpAddr },
    Reload { host: usize },
    Restart { host: usize },
    AskEtcd(Asked),
    Etcd(Asked),
    EtcdAnswers(Asked, Outcome),
    EtcdTells { host: usize, start: u32, vrid: NonZeroU8, sight: Sight },
    WatchEtcd { host: usize, start: u32 },
}

/// What two hosts may both own.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Shared {
    Group(String),
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
    /// The newest file: what every host runs by, or will.
    pub settings: Settings,
    /// Groups that a roll-out took from it, and another may bring back.
    removed: Vec<VipGroup>,
    /// How many numbers were given anew.
    free: usize,
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
            removed: vec![],
            free: 0,
            addresses: settings.vips.iter().flat_map(|v| v.addresses.clone()).collect(),
            overlap_since: BTreeMap::new(),
            longest_overlap: Duration::ZERO,
            overlap_bound: overlap_bound(interval),
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
            Due::Restored { host, group, addresses } => {
                if !self.hosts[host].runs() {
                    return;
                }
                let h = &self.hosts[host];
                let owned = h.kernel.get(&group).is_some_and(|held| held.hold == Hold::Owned);
                if owned && h.is_over(group, self.now) {
                    self.note(format!("{host}: what somebody deleted stays out"));
                    let reason = "the lease ran out before it was renewed".to_owned();
                    self.input(host, Input::Lost { group, reason });
                } else {
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
            Due::Reload { host } => self.reload_host(host),
            Due::Restart { host } => {
                if let Some(after) = self.asleep(host) {
                    return self.schedule(after, Due::Restart { host });
                }
                self.hosts[host].file = Some(self.settings.clone());
                self.input(host, Input::Stop);
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

    /// The name of the group at a position of the newest file.
    fn name(&self, group: usize) -> &str {
        self.settings.vips.get(group).map_or("", |vip| vip.name.as_str())
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
}

/// Detection (four intervals at the most) and a round trip.
fn overlap_bound(interval: Duration) -> Duration {
    interval * 4 + Duration::from_millis(20)
}
