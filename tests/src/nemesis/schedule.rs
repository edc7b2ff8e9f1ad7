//! What is done to a cluster, and when: the same for a seed on every machine.

use crate::sim::rng::Rng;
use std::fmt;
use std::time::Duration;

/// Who votes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layout {
    /// Two proxies and a witness.
    TwoAndWitness,
    /// Three proxies.
    Three,
}

impl Layout {
    /// The voters, proxies first.
    #[must_use]
    pub const fn voters(self) -> [&'static str; 3] {
        match self {
            Self::TwoAndWitness => ["px1", "px2", "w1"],
            Self::Three => ["px1", "px2", "px3"],
        }
    }

    /// Every host that faults may strike: the voters, or etcd in the place of the
    /// witness; beside three proxies it has hosts of its own.
    #[must_use]
    pub const fn hosts(self) -> &'static [&'static str] {
        match self {
            Self::TwoAndWitness => &["px1", "px2", "w1"],
            Self::Three => &["px1", "px2", "px3", "e1", "e2", "e3"],
        }
    }

    /// Where the members of etcd are among them, if it keeps the quorum.
    #[must_use]
    pub const fn etcd(self) -> std::ops::Range<usize> {
        self.proxies()..self.hosts().len()
    }

    /// How many of the voters are proxies.
    #[must_use]
    pub const fn proxies(self) -> usize {
        match self {
            Self::TwoAndWitness => 2,
            Self::Three => 3,
        }
    }
}

/// A fault; hosts are positions in [`Layout::hosts`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Two hosts do not hear each other.
    Partition(usize, usize),
    /// A host hears no other, and none hears it.
    Isolate(usize),
    /// Nothing comes from the first to the second.
    OneWay(usize, usize),
    /// So many per cent of the packets between two hosts are lost.
    Loss(usize, usize, u8),
    /// A host's cable is pulled and put back.
    LinkFlap(usize),
    /// SIGKILL of the daemon; started again when the fault ends.
    Kill(usize),
    /// SIGTERM of the daemon; started again when the fault ends.
    Restart(usize),
    /// SIGSTOP of the daemon, and SIGCONT.
    Freeze(usize),
    /// The same of daemon and guard: of all that could withdraw but the kernel.
    FreezeAll(usize),
    /// Somebody deletes the VIP on a proxy.
    DeleteVip(usize),
    /// The operator asks for a planned switchover on a proxy.
    Switchover(usize),
}

/// A fault and its time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Step {
    /// From the start.
    pub at: Duration,
    /// For how long.
    pub lasts: Duration,
    /// What.
    pub fault: Fault,
}

/// What is done to one cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Schedule {
    /// What it was drawn from.
    pub seed: u64,
    /// Who votes.
    pub layout: Layout,
    /// Time between adverts.
    pub interval: Duration,
    /// The faults, by time; they may overlap.
    pub steps: Vec<Step>,
}

/// Times between adverts, in milliseconds. The longest is for
/// [`Fault::FreezeAll`]: the kernel's lifetime, a second at least, ends before
/// the promises do only from 340 ms on (docs/safety.md).
const INTERVALS: [u64; 6] = [10, 20, 30, 50, 100, 400];

impl Schedule {
    /// The schedule of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let layout = if rng.chance(600) { Layout::TwoAndWitness } else { Layout::Three };
        let ms = INTERVALS[rng.index(INTERVALS.len())];
        let interval = Duration::from_millis(ms);
        let mut at = Duration::ZERO;
        let mut steps = Vec::new();
        for _ in 0..rng.between(3, 7) {
            // Some follow at once, some when the cluster has settled.
            at += Duration::from_millis(rng.between(0, ms * 6));
            let lasts = Duration::from_millis(rng.between(1, ms * 10));
            steps.push(Step { at, lasts, fault: fault(&mut rng, layout, ms >= 340) });
        }
        Self { seed, layout, interval, steps }
    }

    /// The same, with faults that strike etcd's members beside the others.
    #[must_use]
    pub fn against_etcd(mut self) -> Self {
        // Of its own, so that what is drawn here changes no other schedule.
        let mut rng = Rng::new(!self.seed);
        let ms = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX);
        let end = self.steps.iter().map(|s| s.at).max().unwrap_or_default();
        let end = u64::try_from(end.as_millis()).unwrap_or(u64::MAX);
        for _ in 0..rng.between(1, 3) {
            let at = Duration::from_millis(rng.between(0, end));
            let lasts = Duration::from_millis(rng.between(ms, ms * 10));
            self.steps.push(Step { at, lasts, fault: fault_of_etcd(&mut rng, self.layout) });
        }
        self.steps.sort_by_key(|step| step.at);
        self
    }
}

/// A member is cut off, hangs, or dies.
fn fault_of_etcd(rng: &mut Rng, layout: Layout) -> Fault {
    let members = layout.etcd();
    let member = members.start + rng.index(members.len());
    let proxy = rng.index(layout.proxies());
    match rng.below(8) {
        0 => Fault::Isolate(member),
        1 => Fault::Partition(proxy, member),
        2 => Fault::OneWay(member, proxy),
        3 => Fault::LinkFlap(member),
        4 | 5 => Fault::Freeze(member),
        _ => Fault::Kill(member),
    }
}

fn fault(rng: &mut Rng, layout: Layout, kernel_is_in_time: bool) -> Fault {
    let voter = rng.index(3);
    let other = (voter + 1 + rng.index(2)) % 3;
    let proxy = rng.index(layout.proxies());
    match rng.below(12) {
        0 => Fault::Partition(voter, other),
        1 | 2 => Fault::Isolate(voter),
        3 => Fault::OneWay(voter, other),
        4 => Fault::Loss(voter, other, u8::try_from(rng.between(10, 80)).unwrap_or(50)),
        5 => Fault::LinkFlap(voter),
        6 => Fault::Kill(voter),
        7 => Fault::Restart(voter),
        8 => Fault::Freeze(voter),
        9 if kernel_is_in_time => Fault::FreezeAll(voter),
        9 => Fault::Freeze(proxy),
        10 => Fault::DeleteVip(proxy),
        _ => Fault::Switchover(proxy),
    }
}

impl Fault {
    /// What it is called, with the hosts' names.
    #[must_use]
    pub fn text(self, layout: Layout) -> String {
        let name = |n: usize| layout.hosts().get(n).copied().unwrap_or("?");
        match self {
            Self::Partition(a, b) => format!("partition {} {}", name(a), name(b)),
            Self::Isolate(a) => format!("isolate {}", name(a)),
            Self::OneWay(a, b) => format!("cut {} to {}", name(a), name(b)),
            Self::Loss(a, b, share) => format!("lose {share}% {} {}", name(a), name(b)),
            Self::LinkFlap(a) => format!("link {}", name(a)),
            Self::Kill(a) => format!("SIGKILL {}", name(a)),
            Self::Restart(a) => format!("SIGTERM {}", name(a)),
            Self::Freeze(a) => format!("SIGSTOP {}", name(a)),
            Self::FreezeAll(a) => format!("SIGSTOP with guard {}", name(a)),
            Self::DeleteVip(a) => format!("delete VIP {}", name(a)),
            Self::Switchover(a) => format!("switchover {}", name(a)),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layout = match self.layout {
            Layout::TwoAndWitness => "2+w",
            Layout::Three => "3",
        };
        write!(f, "seed {} {layout} {} ms", self.seed, self.interval.as_millis())?;
        for step in &self.steps {
            let (at, lasts) = (step.at.as_millis(), step.lasts.as_millis());
            write!(f, ", {} @{at}+{lasts}", step.fault.text(self.layout))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_schedule_and_all_faults_are_drawn() {
        assert_eq!(Schedule::draw(7), Schedule::draw(7));
        let all: String = (0..500).map(|seed| Schedule::draw(seed).to_string()).collect();
        let kinds = [
            "partition",
            "isolate",
            "cut",
            "lose",
            "link",
            "SIGKILL",
            "SIGTERM",
            "SIGSTOP px",
            "with guard",
            "delete VIP",
            "switchover",
            "w1",
            "px3",
        ];
        for kind in kinds {
            assert!(all.contains(kind), "{kind} is never drawn");
        }
    }

    #[test]
    fn etcd_is_struck_in_every_way_and_the_rest_is_as_without() {
        let all: String = (0..500).map(|seed| Schedule::draw(seed).against_etcd().to_string()).collect();
        for kind in ["isolate", "partition px2", "link", "SIGSTOP", "SIGKILL"] {
            for member in ["w1", "e1", "e3"] {
                assert!(all.contains(&format!("{kind} {member}")), "{kind} {member} is never drawn");
            }
        }
        assert!(all.contains("cut e2 to px3"));
        for seed in 0..500 {
            let (plain, more) = (Schedule::draw(seed), Schedule::draw(seed).against_etcd());
            assert!(plain.steps.iter().all(|s| more.steps.contains(s)), "{more}");
            assert!(more.steps.len() > plain.steps.len(), "{more}");
        }
    }

    #[test]
    fn nobody_is_frozen_with_its_guard_where_the_kernel_is_too_late() {
        for seed in 0..500 {
            let schedule = Schedule::draw(seed);
            let frozen = schedule.steps.iter().any(|s| matches!(s.fault, Fault::FreezeAll(_)));
            assert!(!frozen || schedule.interval.as_millis() >= 340, "{schedule}");
        }
    }
}
