//! etcd as the hosts see it: keys that change by compare-and-swap, one after
//! the other, for as long as it answers. It has no clock.

use super::world::{Due, World};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU8;
use std::time::Duration;
use vipd_core::lease::register::{Operation, Outcome, Record, Sight};
use vipd_core::node::Input;
use vipd_core::time::Time;

/// A client repeats what was not answered after so long, a second at the most.
const AGAIN: Duration = Duration::from_millis(1000);
/// A watch on which nothing comes is begun anew, with all keys.
const WATCH_AGAIN: Duration = Duration::from_secs(3);

/// The keys.
#[derive(Debug, Default)]
pub struct Etcd {
    revision: u64,
    keys: BTreeMap<NonZeroU8, (u64, Record)>,
    /// What clients wait for: host, its run, group, number.
    waiting: BTreeSet<(usize, u32, NonZeroU8, u64)>,
    /// Nobody gets an answer before.
    pub down_until: Time,
}

/// An operation of a host's run, under way.
#[derive(Clone, Debug)]
pub struct Asked {
    host: usize,
    start: u32,
    vrid: NonZeroU8,
    number: u64,
    operation: Operation,
}

impl Asked {
    pub(super) const fn host(&self) -> usize {
        self.host
    }

    const fn id(&self) -> (usize, u32, NonZeroU8, u64) {
        (self.host, self.start, self.vrid, self.number)
    }
}

impl Etcd {
    fn sight(&self, vrid: NonZeroU8) -> Sight {
        match self.keys.get(&vrid) {
            None => Sight { revision: 0, record: None },
            Some((revision, record)) => Sight { revision: *revision, record: Some(record.clone()) },
        }
    }

    fn carry_out(&mut self, vrid: NonZeroU8, operation: &Operation) -> Outcome {
        let sight = self.sight(vrid);
        match operation {
            Operation::Swap { expected, record } if *expected == sight.revision => {
                self.revision += 1;
                self.keys.insert(vrid, (self.revision, record.clone()));
                Outcome::Swapped(self.revision)
            }
            Operation::Swap { .. } | Operation::Read => Outcome::Seen(sight),
        }
    }

    /// Somebody deletes a key.
    pub fn delete(&mut self, vrid: NonZeroU8) {
        self.keys.remove(&vrid);
    }
}

impl World {
    /// Its number among those between whom paths are cut.
    #[must_use]
    pub fn etcd_place(&self) -> usize {
        self.hosts.len() + self.witnesses.len()
    }

    /// A host orders an operation.
    pub(super) fn ask_etcd(&mut self, host: usize, vrid: NonZeroU8, number: u64, operation: Operation) {
        let asked = Asked { host, start: self.hosts[host].starts, vrid, number, operation };
        self.etcd.waiting.insert(asked.id());
        self.try_etcd(asked);
    }

    /// The client asks, and asks another member beside it now and then.
    pub(super) fn try_etcd(&mut self, asked: Asked) {
        let ended = self.hosts[asked.host].starts != asked.start || self.hosts[asked.host].node.is_none();
        if ended || !self.etcd.waiting.contains(&asked.id()) {
            return;
        }
        let tries = if self.rng.chance(50) { 2 } else { 1 };
        for _ in 0..tries {
            if let Some(after) = self.etcd_path(asked.host, self.etcd_place()) {
                self.schedule(after, Due::Etcd(asked.clone()));
            }
        }
        let again = self.rng.between(100, 1000);
        self.schedule(AGAIN.min(Duration::from_millis(again)), Due::AskEtcd(asked));
    }

    fn etcd_path(&mut self, from: usize, to: usize) -> Option<Duration> {
        let slow = Duration::from_micros(self.rng.between(0, 4000));
        self.path(from, to).map(|after| after + slow)
    }

    /// A request arrives there.
    pub(super) fn etcd_serves(&mut self, asked: Asked) {
        if self.etcd.down_until > self.now {
            return;
        }
        let before = self.etcd.sight(asked.vrid);
        let outcome = self.etcd.carry_out(asked.vrid, &asked.operation);
        if self.etcd.sight(asked.vrid) != before {
            self.tell_watchers(asked.vrid);
        }
        if let Some(after) = self.etcd_path(self.etcd_place(), asked.host) {
            self.schedule(after, Due::EtcdAnswers(asked, outcome));
        }
    }

    pub(super) fn tell_watchers(&mut self, vrid: NonZeroU8) {
        let sight = self.etcd.sight(vrid);
        for host in 0..self.hosts.len() {
            let start = self.hosts[host].starts;
            if let Some(after) = self.etcd_path(self.etcd_place(), host) {
                self.schedule(after, Due::EtcdTells { host, start, vrid, sight: sight.clone() });
            }
        }
    }

    /// A host begins its watch anew.
    pub(super) fn watch_etcd(&mut self, host: usize, start: u32) {
        if self.hosts[host].starts != start {
            return;
        }
        let keys: Vec<NonZeroU8> = self.etcd.keys.keys().copied().collect();
        if self.etcd.down_until <= self.now {
            for vrid in keys {
                let sight = self.etcd.sight(vrid);
                if let Some(after) = self.etcd_path(self.etcd_place(), host) {
                    self.schedule(after, Due::EtcdTells { host, start, vrid, sight });
                }
            }
        }
        self.schedule(WATCH_AGAIN, Due::WatchEtcd { host, start });
    }

    pub(super) fn etcd_answers(&mut self, asked: Asked, outcome: Outcome) {
        if let Some(after) = self.asleep(asked.host) {
            return self.schedule(after, Due::EtcdAnswers(asked, outcome));
        }
        self.etcd.waiting.remove(&asked.id());
        if self.hosts[asked.host].starts == asked.start {
            let Asked { host, vrid, number, .. } = asked;
            self.input(host, Input::Registered { vrid, number, outcome });
        }
    }

    pub(super) fn etcd_tells(&mut self, host: usize, start: u32, vrid: NonZeroU8, sight: Sight) {
        if let Some(after) = self.asleep(host) {
            return self.schedule(after, Due::EtcdTells { host, start, vrid, sight });
        }
        if self.hosts[host].starts == start {
            self.input(host, Input::RegisterNews { vrid, sight });
        }
    }
}
