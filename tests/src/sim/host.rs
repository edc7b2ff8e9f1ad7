//! One simulated host: a node, its kernel, its guard.

use super::clock::Clock;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use vipd_core::node::{GuardState, Node, Settings};
use vipd_core::plan::{GroupPlan, Hold};
use vipd_core::settings::Cidr;
use vipd_core::time::Time;
use vipd_core::witness::Witness;

/// Whether the daemon runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Power {
    /// It runs.
    Running,
    /// It is stopped (SIGSTOP, a stalled machine) until then.
    Frozen(Time),
    /// The whole machine stands still until then: it answers nothing.
    Stalled(Time),
    /// It is dead; started again then.
    Dead(Time),
}

/// A simulated witness.
#[derive(Debug)]
pub struct WitnessHost {
    /// It runs, or else is started again at the time of `power`.
    pub witness: Option<Witness>,
    /// Whether it runs.
    pub power: Power,
    /// Its clock.
    pub clock: Clock,
}

/// An address group as the kernel holds it.
#[derive(Clone, Debug)]
pub struct Held {
    /// How.
    pub hold: Hold,
    /// What.
    pub addresses: Vec<Cidr>,
    /// When the kernel deletes it by itself.
    pub until: Time,
}

/// A simulated host.
#[derive(Debug)]
pub struct Host {
    /// The daemon's core, while the daemon lives.
    pub node: Option<Node>,
    /// Whether the daemon runs.
    pub power: Power,
    /// Whether the cable is in.
    pub carrier: bool,
    /// What the kernel holds, by group.
    pub kernel: BTreeMap<usize, Held>,
    /// The newest generation the kernel has applied, by group.
    pub applied: BTreeMap<usize, u64>,
    /// Until when a group's plan may be put there by now, by its clock.
    pub leases: BTreeMap<usize, Time>,
    /// Addresses that the balancer takes connections on, and the group that has each.
    pub open: BTreeMap<IpAddr, usize>,
    /// Addresses that clients may be connected to.
    pub sessions: BTreeSet<IpAddr>,
    /// What the guard knows.
    pub guard: GuardState,
    /// How often it was told.
    pub guard_told: u64,
    /// The records that the daemon ordered last, and since when.
    pub ordered: Option<(BTreeSet<IpAddr>, Time)>,
    /// The file that it has, once a roll-out began; before that, the cluster's.
    pub file: Option<Settings>,
    /// The names of the groups of this run, those that a reload ended included.
    pub names: BTreeMap<usize, String>,
    /// How often the daemon was started.
    pub starts: u32,
    /// Its clock.
    pub clock: Clock,
}

impl Host {
    /// A host whose daemon is not started yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            node: None,
            power: Power::Dead(Time::ZERO),
            carrier: true,
            kernel: BTreeMap::new(),
            applied: BTreeMap::new(),
            leases: BTreeMap::new(),
            open: BTreeMap::new(),
            sessions: BTreeSet::new(),
            guard: GuardState::default(),
            guard_told: 0,
            ordered: None,
            file: None,
            names: BTreeMap::new(),
            starts: 0,
            clock: Clock::TRUE,
        }
    }

    /// The kernel takes a plan.
    ///
    /// # Panics
    /// If an owner lets an address go to which clients are connected still.
    pub fn apply(&mut self, plan: &GroupPlan, now: Time) {
        self.applied.insert(plan.group, plan.generation);
        let before = self.kernel.get(&plan.group).filter(|held| held.hold == Hold::Owned);
        let before = before.map(|held| held.addresses.clone()).unwrap_or_default();
        if plan.hold == Hold::Owned {
            let elsewhere =
                |a: &Cidr| self.kernel.iter().any(|(g, h)| *g != plan.group && h.addresses.contains(a));
            for gone in before.iter().filter(|a| !plan.addresses.contains(a) && !elsewhere(a)) {
                assert!(!self.sessions.contains(&gone.address()), "{gone} goes, and its sessions are open");
            }
            let new = plan.addresses.iter().filter(|a| !before.contains(a)).map(|a| a.address());
            self.sessions.extend(new.filter(|a| self.open.get(a) == Some(&plan.group)));
        }
        match plan.hold {
            Hold::Absent => {
                self.kernel.remove(&plan.group);
            }
            Hold::Silent | Hold::Owned => {
                // Lifetimes end up to a fifth of a second late.
                let until = now + plan.lease + Duration::from_millis(200);
                self.kernel
                    .insert(plan.group, Held { hold: plan.hold, addresses: plan.addresses.clone(), until });
            }
        }
    }

    /// Whether another node may own a group by now that was planned to be owned.
    #[must_use]
    pub fn is_over(&self, group: usize, now: Time) -> bool {
        self.leases.get(&group).is_some_and(|until| *until <= self.clock.show(now))
    }

    /// The kernel deletes what was not renewed, and the guard what a frozen
    /// daemon should have given up.
    pub fn expire(&mut self, now: Time) {
        self.kernel.retain(|_, held| held.until > now);
        let shown = self.clock.show(now);
        let late = |held: &Held| {
            let over = self.guard.watched.iter().filter(|w| w.until <= shown);
            over.flat_map(|w| &w.addresses).any(|(_, a)| held.addresses.contains(a))
        };
        self.kernel.retain(|_, held| !late(held));
        self.guard.watched.retain(|w| w.until > shown);
    }

    /// Whether it answers ARP for a group.
    #[must_use]
    pub fn answers(&self, group: &str) -> bool {
        let owned = |held: &Held| held.hold == Hold::Owned && !held.addresses.is_empty();
        self.carrier && !self.is_stalled() && self.held(group).any(owned)
    }

    /// What the kernel holds of a group: while a reload gives it another number,
    /// of what it was, too.
    pub fn held<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a Held> {
        let of = move |id: &usize| self.names.get(id).is_some_and(|name| name == group);
        self.kernel.iter().filter(move |(id, _)| of(id)).map(|(_, held)| held)
    }

    /// Whether it answers ARP for an address, in whatever group.
    #[must_use]
    pub fn answers_for(&self, address: Cidr) -> bool {
        self.carrier
            && !self.is_stalled()
            && self.kernel.values().any(|h| h.hold == Hold::Owned && h.addresses.contains(&address))
    }

    /// Whether the whole machine stands still, its kernel with it.
    const fn is_stalled(&self) -> bool {
        matches!(self.power, Power::Stalled(_))
    }

    /// Whether the daemon runs now.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.power == Power::Running && self.node.is_some()
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}
