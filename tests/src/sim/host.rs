//! One simulated host: a node, its kernel, its guard.

use std::collections::BTreeMap;
use std::time::Duration;
use vipd_core::node::{GuardState, Node};
use vipd_core::plan::{GroupPlan, Hold};
use vipd_core::time::Time;

/// Whether the daemon runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Power {
    /// It runs.
    Running,
    /// It is stopped (SIGSTOP, a stalled machine) until then.
    Frozen(Time),
    /// It is dead; started again then.
    Dead(Time),
}

/// An address group as the kernel holds it.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// How.
    pub hold: Hold,
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
    /// What the guard knows.
    pub guard: GuardState,
    /// How often the daemon was started.
    pub starts: u32,
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
            guard: GuardState::default(),
            starts: 0,
        }
    }

    /// The kernel takes a plan.
    pub fn apply(&mut self, plan: &GroupPlan, now: Time) {
        self.applied.insert(plan.group, plan.generation);
        match plan.hold {
            Hold::Absent => {
                self.kernel.remove(&plan.group);
            }
            Hold::Silent | Hold::Owned => {
                // Lifetimes end up to a fifth of a second late.
                let until = now + plan.lease + Duration::from_millis(200);
                self.kernel.insert(plan.group, Held { hold: plan.hold, until });
            }
        }
    }

    /// The kernel deletes what was not renewed.
    pub fn expire(&mut self, now: Time) {
        self.kernel.retain(|_, held| held.until > now);
    }

    /// Whether it answers ARP for a group.
    #[must_use]
    pub fn answers(&self, group: usize) -> bool {
        self.carrier && self.kernel.get(&group).is_some_and(|h| h.hold == Hold::Owned)
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
