//! Which addresses DNS should hold for the cluster's name, who writes them,
//! and not too often.
//!
//! Every node comes to a view of its own, and only the elected one writes. A
//! set is an order with a generation: of several only the newest counts.

use crate::settings::{Policy, WhenAllDown};
use crate::time::Time;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// A node, as far as records are concerned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Candidate<'a> {
    /// Its own addresses.
    pub addresses: &'a [IpAddr],
    /// Whether clients are served there.
    pub healthy: bool,
    /// Whether it owns what [`Policy::Owner`] asks for.
    pub owner: bool,
}

/// The addresses that a name should have; none to leave what is there.
pub type Wanted = Option<BTreeSet<IpAddr>>;

/// The addresses that follow from the policy. Nobody's are published while
/// that is not what the policy says in so many words.
#[must_use]
pub fn wanted(policy: Policy, when_all_down: WhenAllDown, nodes: &[Candidate<'_>]) -> Wanted {
    let meant = |n: &&Candidate<'_>| match policy {
        Policy::Multi => true,
        Policy::Owner => n.owner,
    };
    let all = |healthy: bool| -> BTreeSet<IpAddr> {
        let chosen = nodes.iter().filter(meant).filter(|n| n.healthy || !healthy);
        chosen.flat_map(|n| n.addresses).copied().collect()
    };
    let good = all(true);
    if !good.is_empty() {
        return Some(good);
    }
    if nodes.iter().any(|n| n.healthy) {
        // There is one that could own: what it owns is about to move there.
        return None;
    }
    match when_all_down {
        WhenAllDown::LastGood => None,
        WhenAllDown::All => Some(all(false)).filter(|set| !set.is_empty()),
        WhenAllDown::Empty => Some(BTreeSet::new()),
    }
}

/// An order for the stores of records.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Records {
    /// Grows with every order.
    pub generation: u64,
    /// Whether this node is the one to write; else it only looks.
    pub write: bool,
    /// What the name should have.
    pub wanted: Wanted,
}

/// Turns views into orders, at most one change of the set in each hold-down.
#[derive(Debug, Default)]
pub struct Publish {
    last: Option<Records>,
    generation: u64,
    /// The set that this node ordered to be written last, and when.
    written: Option<(BTreeSet<IpAddr>, Time)>,
    due: Option<Time>,
}

impl Publish {
    /// Takes the present view; gives an order if it follows from it now.
    pub fn observe(
        &mut self,
        wanted: Wanted,
        write: bool,
        hold_down: Duration,
        now: Time,
    ) -> Option<Records> {
        self.due = None;
        if self.last.as_ref().is_some_and(|l| l.write == write && l.wanted == wanted) {
            return None;
        }
        if let (true, Some(set)) = (write, &wanted)
            && self.written.as_ref().is_none_or(|(before, _)| before != set)
        {
            let ready = self.written.as_ref().map(|(_, at)| *at + hold_down);
            if let Some(ready) = ready.filter(|at| *at > now) {
                self.due = Some(ready);
                return None;
            }
            self.written = Some((set.clone(), now));
        }
        self.generation += 1;
        let order = Records { generation: self.generation, write, wanted };
        self.last = Some(order.clone());
        Some(order)
    }

    /// When [`Publish::observe`] has something to say though nothing changed.
    #[must_use]
    pub const fn deadline(&self) -> Option<Time> {
        self.due
    }

    /// The newest order.
    #[must_use]
    pub const fn last(&self) -> Option<&Records> {
        self.last.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn address(n: u8) -> [IpAddr; 1] {
        [IpAddr::from([10, 0, 0, n])]
    }

    fn set(last: &[u8]) -> BTreeSet<IpAddr> {
        last.iter().flat_map(|n| address(*n)).collect()
    }

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    /// Three nodes: which are healthy, and which owns.
    fn ask(policy: Policy, down: WhenAllDown, healthy: &[u8], owner: Option<u8>) -> Wanted {
        let all = [address(1), address(2), address(3)];
        let nodes: Vec<_> = (1..=3_u8)
            .zip(&all)
            .map(|(n, addresses)| Candidate {
                addresses,
                healthy: healthy.contains(&n),
                owner: owner == Some(n),
            })
            .collect();
        wanted(policy, down, &nodes)
    }

    #[test]
    fn every_healthy_node_or_the_owner_is_published() {
        use WhenAllDown::{All, Empty, LastGood};
        for down in [LastGood, All, Empty] {
            assert_eq!(ask(Policy::Multi, down, &[1, 3], Some(1)), Some(set(&[1, 3])));
            assert_eq!(ask(Policy::Owner, down, &[1, 3], Some(3)), Some(set(&[3])));
            // The owner serves nobody, and another could: it is about to move.
            assert_eq!(ask(Policy::Owner, down, &[1], Some(3)), None);
            assert_eq!(ask(Policy::Owner, down, &[1, 3], None), None);
        }
    }

    #[test]
    fn when_all_are_down_the_policy_decides() {
        use WhenAllDown::{All, Empty, LastGood};
        for policy in [Policy::Multi, Policy::Owner] {
            assert_eq!(ask(policy, LastGood, &[], Some(2)), None);
            assert_eq!(ask(policy, Empty, &[], Some(2)), Some(BTreeSet::new()));
        }
        assert_eq!(ask(Policy::Multi, All, &[], Some(2)), Some(set(&[1, 2, 3])));
        assert_eq!(ask(Policy::Owner, All, &[], Some(2)), Some(set(&[2])));
        assert_eq!(ask(Policy::Owner, All, &[], None), None);
    }

    #[test]
    fn the_first_change_goes_at_once_and_the_next_waits() {
        let mut publish = Publish::default();
        let hold = Duration::from_secs(1);
        let order = |publish: &mut Publish, last: &[u8], write, now| {
            publish.observe(Some(set(last)), write, hold, at(now)).map(|r| r.generation)
        };
        assert_eq!(order(&mut publish, &[1, 2], false, 0), Some(1));
        assert_eq!(order(&mut publish, &[2], true, 10), Some(2));
        assert_eq!(order(&mut publish, &[2], true, 11), None);
        assert_eq!(order(&mut publish, &[1, 2], true, 20), None);
        assert_eq!(publish.deadline(), Some(at(1010)));
        // It goes back before it was told: nothing happened.
        assert_eq!(order(&mut publish, &[2], true, 30), None);
        assert_eq!(publish.deadline(), None);
        // To leave things as they are is no change, and neither is what is there.
        assert_eq!(publish.observe(None, true, hold, at(40)).map(|r| r.generation), Some(3));
        assert_eq!(order(&mut publish, &[2], true, 50), Some(4));
        assert_eq!(order(&mut publish, &[1, 2], true, 1009), None);
        assert_eq!(order(&mut publish, &[1, 2], true, 1010), Some(5));
        // Another node writes, and this one again: it has to wait all the same.
        assert_eq!(order(&mut publish, &[1, 2], false, 1020), Some(6));
        assert_eq!(order(&mut publish, &[2], true, 1030), None);
        assert_eq!(publish.deadline(), Some(at(2010)));
    }

    proptest! {
        /// Whatever happens: no empty set unless the policy says so, no set of
        /// an unhealthy node while there is a healthy one, no two changes
        /// within the hold-down, and what is wanted is ordered in the end.
        #[test]
        fn never_empty_never_too_fast(
            policy in prop::sample::select(vec![Policy::Multi, Policy::Owner]),
            down in prop::sample::select(vec![WhenAllDown::LastGood, WhenAllDown::All, WhenAllDown::Empty]),
            steps in prop::collection::vec(
                (0_u64..1500, prop::collection::vec(1_u8..=3, 0..4), prop::option::of(1_u8..=3), any::<bool>()),
                1..40,
            ),
        ) {
            let mut publish = Publish::default();
            let hold = Duration::from_secs(1);
            let mut now = 0;
            let mut changes: BTreeMap<u64, BTreeSet<IpAddr>> = BTreeMap::new();
            let mut note = |order: Option<Records>, now: u64| {
                if let Some(Records { write: true, wanted: Some(set), .. }) = order
                    && changes.last_key_value().is_none_or(|(_, last)| *last != set)
                {
                    changes.insert(now, set);
                }
            };
            for (wait, healthy, owner, write) in steps {
                now += wait;
                let wanted = ask(policy, down, &healthy, owner);
                if let Some(wanted) = &wanted {
                    prop_assert!(!wanted.is_empty() || (down == WhenAllDown::Empty && healthy.is_empty()));
                    prop_assert!(healthy.is_empty() || wanted.is_subset(&set(&healthy)));
                }
                note(publish.observe(wanted.clone(), write, hold, at(now)), now);
                if let Some(due) = publish.deadline() {
                    prop_assert!(due > at(now));
                    let then = now + u64::try_from((due - at(now)).as_millis()).unwrap();
                    if wait % 2 == 0 {
                        now = then;
                        note(publish.observe(wanted.clone(), write, hold, at(now)), now);
                        let last = publish.last().cloned();
                        prop_assert_eq!(last.map(|l| (l.write, l.wanted)), Some((write, wanted)));
                    }
                }
            }
            let times: Vec<u64> = changes.keys().copied().collect();
            prop_assert!(times.windows(2).all(|w| w[1] - w[0] >= 1000), "{:?}", times);
        }
    }
}
