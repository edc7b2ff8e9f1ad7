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

/// A change counts as near for so long after the last sign of it: a link that
/// loses hellos now and then shall not have the TTL written down and up again.
pub const CALM_AFTER: Duration = Duration::from_secs(10);

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
    /// The next change is suspected, planned or waited for: clients should ask
    /// again soon. Only of the node that writes.
    pub near: bool,
}

/// Turns views into orders, at most one change of the set in each hold-down.
#[derive(Debug, Default)]
pub struct Publish {
    last: Option<Records>,
    generation: u64,
    /// The set that this node ordered to be written last, and when.
    written: Option<(BTreeSet<IpAddr>, Time)>,
    due: Option<Time>,
    /// Until then the next change counts as near.
    calm_at: Option<Time>,
}

impl Publish {
    /// Takes the present view, and whether there is a sign that it is about to
    /// change; gives an order if it follows from that now.
    pub fn observe(
        &mut self,
        wanted: Wanted,
        write: bool,
        sign: bool,
        hold_down: Duration,
        now: Time,
    ) -> Option<Records> {
        self.due = self.held_until(&wanted, write, hold_down, now);
        let wanted = match (self.due, &self.last) {
            (None, _) => wanted,
            (Some(_), Some(last)) if last.write => last.wanted.clone(),
            (Some(_), Some(_) | None) => return None,
        };
        if sign || self.due.is_some() {
            self.calm_at = Some(now + CALM_AFTER);
        }
        // What another node suspects is its own to say.
        self.calm_at = self.calm_at.filter(|at| write && *at > now);
        let near = self.calm_at.is_some();
        if self.last.as_ref().is_some_and(|l| l.write == write && l.wanted == wanted && l.near == near) {
            return None;
        }
        if let (true, Some(set)) = (write, &wanted)
            && self.written.as_ref().is_none_or(|(before, _)| before != set)
        {
            self.written = Some((set.clone(), now));
        }
        self.generation += 1;
        let order = Records { generation: self.generation, write, wanted, near };
        self.last = Some(order.clone());
        Some(order)
    }

    /// When a change may be ordered that comes too soon after the last one.
    fn held_until(&self, wanted: &Wanted, write: bool, hold_down: Duration, now: Time) -> Option<Time> {
        let (set, (before, at)) = (wanted.as_ref()?, self.written.as_ref()?);
        Some(*at + hold_down).filter(|ready| write && before != set && *ready > now)
    }

    /// When [`Publish::observe`] has something to say though nothing changed.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        [self.due, self.calm_at].into_iter().flatten().min()
    }

    /// Whether a change waits for the hold-down.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.due.is_some()
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
            let order = publish.observe(Some(set(last)), write, false, hold, at(now))?;
            Some((order.generation, order.wanted?, order.near))
        };
        assert_eq!(order(&mut publish, &[1, 2], false, 0), Some((1, set(&[1, 2]), false)));
        assert_eq!(order(&mut publish, &[2], true, 10), Some((2, set(&[2]), false)));
        assert_eq!(order(&mut publish, &[2], true, 11), None);
        // What waits is a change that is near.
        assert_eq!(order(&mut publish, &[1, 2], true, 20), Some((3, set(&[2]), true)));
        assert_eq!((publish.deadline(), publish.is_held()), (Some(at(1010)), true));
        // It goes back before it was told: nothing happened.
        assert_eq!(order(&mut publish, &[2], true, 30), None);
        assert_eq!((publish.deadline(), publish.is_held()), (Some(at(10_020)), false));
        // To leave things as they are is no change, and neither is what is there.
        let leave = publish.observe(None, true, false, hold, at(40));
        assert_eq!(leave, Some(Records { generation: 4, write: true, wanted: None, near: true }));
        assert_eq!(order(&mut publish, &[2], true, 50), Some((5, set(&[2]), true)));
        assert_eq!(order(&mut publish, &[1, 2], true, 1009), None);
        assert_eq!(order(&mut publish, &[1, 2], true, 1010), Some((6, set(&[1, 2]), true)));
        // Another node writes, and this one again: it has to wait all the same,
        // and does not know what it would lower the TTL of.
        assert_eq!(order(&mut publish, &[1, 2], false, 1020), Some((7, set(&[1, 2]), false)));
        assert_eq!(order(&mut publish, &[2], true, 1030), None);
        assert_eq!(publish.deadline(), Some(at(2010)));
    }

    #[test]
    fn a_change_counts_as_near_until_its_signs_have_been_gone_for_a_while() {
        let mut publish = Publish::default();
        let mut see = |write, sign, now| {
            let order = publish.observe(Some(set(&[1, 2])), write, sign, Duration::ZERO, at(now));
            (order.map(|o| o.near), publish.deadline())
        };
        // Who does not write only looks, whatever it suspects.
        assert_eq!(see(false, true, 0), (Some(false), None));
        assert_eq!(see(true, false, 100), (Some(false), None));
        assert_eq!(see(true, true, 200), (Some(true), Some(at(10_200))));
        // Signs that come and go are one suspicion.
        assert_eq!(see(true, false, 5_000), (None, Some(at(10_200))));
        assert_eq!(see(true, true, 10_199), (None, Some(at(20_199))));
        assert_eq!(see(true, false, 20_198), (None, Some(at(20_199))));
        assert_eq!(see(true, false, 20_199), (Some(false), None));
        // It ends with the right to write.
        assert_eq!(see(true, true, 30_000).0, Some(true));
        assert_eq!(see(false, true, 30_100), (Some(false), None));
        assert_eq!(see(true, false, 30_200), (Some(false), None));
    }

    proptest! {
        /// Whatever happens: no empty set unless the policy says so, no set of
        /// an unhealthy node while there is a healthy one, no two changes
        /// within the hold-down, no TTL that is raised while there are signs or
        /// sooner than they have calmed down, and what is wanted is ordered in the end.
        #[test]
        fn never_empty_never_too_fast(
            policy in prop::sample::select(vec![Policy::Multi, Policy::Owner]),
            down in prop::sample::select(vec![WhenAllDown::LastGood, WhenAllDown::All, WhenAllDown::Empty]),
            steps in prop::collection::vec(
                (0_u64..1500, prop::collection::vec(1_u8..=3, 0..4), prop::option::of(1_u8..=3), any::<bool>(), any::<bool>()),
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
            let (mut lowered, mut signed) = (false, None);
            for (wait, healthy, owner, write, sign) in steps {
                now += wait;
                let wanted = ask(policy, down, &healthy, owner);
                if let Some(wanted) = &wanted {
                    prop_assert!(!wanted.is_empty() || (down == WhenAllDown::Empty && healthy.is_empty()));
                    prop_assert!(healthy.is_empty() || wanted.is_subset(&set(&healthy)));
                }
                note(publish.observe(wanted.clone(), write, sign, hold, at(now)), now);
                signed = if sign { Some(now) } else { signed };
                let near = publish.last().is_some_and(|l| l.near);
                prop_assert!(!near || write);
                prop_assert!(!(sign && write) || near || publish.is_held());
                let calm = signed.is_none_or(|then| at(now) - at(then) >= CALM_AFTER);
                prop_assert!(!(lowered && write && !near) || calm || publish.is_held());
                lowered = near;
                if let Some(due) = publish.deadline() {
                    prop_assert!(due > at(now));
                    let then = now + u64::try_from((due - at(now)).as_millis()).unwrap();
                    if wait % 2 == 0 {
                        now = then;
                        note(publish.observe(wanted.clone(), write, false, hold, at(now)), now);
                        lowered = publish.last().is_some_and(|l| l.near);
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
