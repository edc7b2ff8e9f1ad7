//! What to write, if anything: a pure comparison of what a store holds with
//! what it should hold.

use crate::lease::{Lease, Owner};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// What a store holds for a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Current {
    /// The lease beside the records.
    pub lease: LeaseRecord,
    /// The addresses of the A and AAAA records.
    pub addresses: BTreeSet<IpAddr>,
    /// How the records are built, where the addresses are those of the lease.
    pub shape: Shape,
}

/// How records are built: their TTL, one for all addresses or one for each node,
/// with which health checks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// As the settings ask.
    Asked,
    /// As a node wrote them last, by settings that were others.
    Former,
    /// As no node wrote them.
    Foreign,
}

/// The TXT record of a name's lease.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LeaseRecord {
    /// There is none.
    Absent,
    /// It was written by a node.
    Held(Lease),
    /// There is something else, told in its words: several records, or a text
    /// that no node writes.
    Unreadable(String),
}

/// What a store should hold for a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Desired {
    /// The addresses to publish.
    pub addresses: BTreeSet<IpAddr>,
    /// The records' time to live, in seconds.
    pub ttl: u32,
    /// The node that asks.
    pub owner: Owner,
    /// The name's policy lets it become empty; otherwise no addresses mean "leave what is there".
    pub may_be_empty: bool,
    /// A person's edit is to be overwritten.
    pub repair: bool,
    /// A name that is gone, lease and all, is written again: the server may have
    /// lost its disk. Where that cannot be, a person has removed it.
    pub restore: bool,
}

/// The records' time to live while a change is near, in seconds: caches ask again
/// soon after it has come. Less would have some of them keep nothing at all.
pub const NEAR_TTL: u32 = 1;

impl Desired {
    /// The same records while the next change is suspected or planned.
    ///
    /// It is a write like any other, with an epoch of its own, and taken back by
    /// publishing without it. For servers of one's own ([`crate::rfc2136`]); in
    /// Route 53 it would come too late and use up its few requests.
    #[must_use]
    pub fn while_a_change_is_near(self) -> Self {
        Self { ttl: self.ttl.min(NEAR_TTL), ..self }
    }
}

/// What follows from a comparison.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Plan {
    /// The store holds what it should: nothing to write.
    InSync,
    /// These are the new lease and records.
    Write(Lease),
    /// Somebody edited the records, and `repair` is off: nothing to write.
    Drift(Drift),
    /// Another node has written since: nothing to write before the election was asked again.
    Lost(Lease),
    /// No address is to be published, and the policy keeps what is there.
    KeepLast,
}

/// How the records differ from what was last written by a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Drift {
    /// The name had records before vipd wrote any.
    Unclaimed {
        /// What it has.
        found: BTreeSet<IpAddr>,
    },
    /// The addresses were changed.
    Edited {
        /// What was written.
        written: BTreeSet<IpAddr>,
        /// What is there.
        found: BTreeSet<IpAddr>,
    },
    /// The addresses are right, their records were rebuilt.
    Rebuilt,
    /// The lease record is gone, and the name has addresses.
    LeaseRemoved,
    /// The name is gone, lease and all, and is not to be restored unasked.
    Gone,
    /// The lease record is none.
    LeaseUnreadable(String),
    /// The store went back to an older state.
    RolledBack {
        /// The epoch that was last seen.
        from: u64,
        /// The epoch that is there.
        to: u64,
    },
}

impl LeaseRecord {
    /// The epoch; 0 where there is none.
    fn epoch(&self) -> u64 {
        match self {
            Self::Held(lease) => lease.epoch,
            Self::Absent | Self::Unreadable(_) => 0,
        }
    }

    /// What is remembered of the lease when this one is read after `before`: the
    /// highest epoch, since after a zone went back only that tells which were used.
    #[must_use]
    pub(crate) fn after(self, before: Option<Self>) -> Self {
        match before {
            Some(before) if before.epoch() > self.epoch() => before,
            Some(_) | None => self,
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclaimed { found } => {
                write!(f, "the name has records that vipd did not write ({})", List(found))
            }
            Self::Edited { written, found } => {
                write!(f, "the records were edited: {} was written, {} is there", List(written), List(found))
            }
            Self::Rebuilt => {
                f.write_str("the records were rebuilt by hand: another TTL, set identifier or health check")
            }
            Self::LeaseRemoved => f.write_str("the lease record was removed"),
            Self::Gone => {
                return f.write_str(
                    "the name and its lease record were deleted, and clients find nothing: set `repair = true` to \
                     have them written again",
                );
            }
            Self::LeaseUnreadable(text) => write!(f, "the lease record was edited: {text:?}"),
            Self::RolledBack { from, to } => write!(f, "the zone went back from epoch {from} to {to}"),
        }?;
        f.write_str("; they are left alone: set `repair = true` to have them overwritten")
    }
}

/// Addresses for a sentence.
struct List<'a>(&'a BTreeSet<IpAddr>);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (i, address) in self.0.iter().enumerate() {
            write!(f, "{}{address}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Compares what a store holds with what it should hold. `base` is the lease as
/// this node saw it last; none if it has not looked yet. `now` is the time in
/// seconds since 1970: where there is no lease, the epoch is above those that another
/// node may remember of a server that lost them.
#[must_use]
pub fn plan(current: &Current, desired: &Desired, base: Option<&LeaseRecord>, now: u64) -> Plan {
    if let (LeaseRecord::Held(lease), Some(base)) = (&current.lease, base)
        && current.lease != *base
        && lease.owner != desired.owner
        && lease.epoch >= base.epoch()
    {
        return Plan::Lost(lease.clone());
    }
    let drift = drift(current, desired, base);
    if let (Some(drift), false) = (&drift, desired.repair) {
        return Plan::Drift(drift.clone());
    }
    if desired.addresses.is_empty() && !desired.may_be_empty {
        return Plan::KeepLast;
    }
    if drift.is_none() && is_in_sync(current, desired) {
        return Plan::InSync;
    }
    let known = current.lease.epoch().max(base.map_or(0, LeaseRecord::epoch));
    let least = if current.lease == LeaseRecord::Absent { now } else { 0 };
    Plan::Write(Lease {
        // More than any epoch known, also after the zone went back. Far
        // below u64::MAX by the type's promise.
        epoch: (known + 1).max(least),
        owner: desired.owner.clone(),
        ttl: desired.ttl,
        addresses: desired.addresses.clone(),
    })
}

fn is_in_sync(current: &Current, desired: &Desired) -> bool {
    match &current.lease {
        LeaseRecord::Held(lease) => {
            current.addresses == desired.addresses
                && lease.addresses == desired.addresses
                && lease.ttl == desired.ttl
                && current.shape == Shape::Asked
        }
        // Nothing is there, and nothing is wanted: a lease would say no more.
        LeaseRecord::Absent => current.addresses.is_empty() && desired.addresses.is_empty(),
        LeaseRecord::Unreadable(_) => false,
    }
}

fn drift(current: &Current, desired: &Desired, base: Option<&LeaseRecord>) -> Option<Drift> {
    let found = &current.addresses;
    let highest = base.map_or(0, LeaseRecord::epoch);
    match &current.lease {
        LeaseRecord::Unreadable(text) => Some(Drift::LeaseUnreadable(text.clone())),
        // A server that lost what it had on disk (or a person who took everything
        // away): a name without addresses serves nobody, and the write asks for
        // nothing to be there.
        LeaseRecord::Absent if found.is_empty() && (desired.restore || highest == 0) => None,
        LeaseRecord::Absent if found.is_empty() => Some(Drift::Gone),
        LeaseRecord::Absent if highest > 0 => Some(Drift::LeaseRemoved),
        LeaseRecord::Absent if *found == desired.addresses => None,
        LeaseRecord::Absent => Some(Drift::Unclaimed { found: found.clone() }),
        LeaseRecord::Held(lease) if lease.epoch < highest => {
            Some(Drift::RolledBack { from: highest, to: lease.epoch })
        }
        // Whoever edited it has made it what it should be.
        LeaseRecord::Held(lease) if lease.addresses != *found && *found != desired.addresses => {
            Some(Drift::Edited { written: lease.addresses.clone(), found: found.clone() })
        }
        // New addresses are written in the right form anyway.
        LeaseRecord::Held(lease)
            if current.shape == Shape::Foreign && *found == desired.addresses && lease.ttl == desired.ttl =>
        {
            Some(Drift::Rebuilt)
        }
        LeaseRecord::Held(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::tests::{any_address, any_lease};
    use proptest::prelude::*;

    fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|a| a.parse().unwrap()).collect()
    }

    fn desired(addresses: &[&str]) -> Desired {
        let owner = Owner::new("px1").unwrap();
        let (may_be_empty, repair, restore) = (false, false, true);
        Desired { addresses: set(addresses), ttl: 5, owner, may_be_empty, repair, restore }
    }

    /// With a clock that says nothing.
    fn plan(current: &Current, desired: &Desired, base: Option<&LeaseRecord>) -> Plan {
        super::plan(current, desired, base, 0)
    }

    fn lease(epoch: u64, owner: &str, addresses: &[&str]) -> Lease {
        Lease { epoch, owner: Owner::new(owner).unwrap(), ttl: 5, addresses: set(addresses) }
    }

    fn record(lease: &Lease) -> LeaseRecord {
        LeaseRecord::Held(lease.clone())
    }

    fn held(lease: &Lease) -> Current {
        Current { lease: record(lease), addresses: lease.addresses.clone(), shape: Shape::Asked }
    }

    fn absent(addresses: &[&str]) -> Current {
        Current { lease: LeaseRecord::Absent, addresses: set(addresses), shape: Shape::Asked }
    }

    const ONE: &[&str] = &["10.0.0.1"];
    const TWO: &[&str] = &["10.0.0.1", "10.0.0.2"];

    #[test]
    fn the_first_write_creates() {
        assert_eq!(plan(&absent(&[]), &desired(TWO), None), Plan::Write(lease(1, "px1", TWO)));
    }

    /// A server has lost its disk. One node has started since and knows nothing,
    /// another one remembers.
    #[test]
    fn a_first_epoch_is_above_those_that_others_remember() {
        let (now, base) = (1_800_000_000, lease(7, "px2", TWO));
        let Plan::Write(first) = super::plan(&absent(&[]), &desired(TWO), None, now) else { panic!() };
        assert_eq!(first, lease(now, "px1", TWO));
        let theirs = Desired { owner: Owner::new("px2").unwrap(), ..desired(TWO) };
        let remembers = record(&base);
        assert_eq!(super::plan(&held(&first), &theirs, Some(&remembers), now), Plan::Lost(first.clone()));
        assert_eq!(super::plan(&held(&first), &theirs, Some(&record(&first)), now), Plan::InSync);
        // The one who remembers may not remember the last.
        let next = |now| super::plan(&absent(&[]), &theirs, Some(&remembers), now);
        assert_eq!(next(now), Plan::Write(lease(now, "px2", TWO)));
        assert_eq!(next(0), Plan::Write(lease(8, "px2", TWO)), "with a clock that went back");
    }

    #[test]
    fn records_from_before_vipd_are_adopted_only_if_they_are_right() {
        assert_eq!(plan(&absent(ONE), &desired(ONE), None), Plan::Write(lease(1, "px1", ONE)));
        let found = set(ONE);
        assert_eq!(plan(&absent(ONE), &desired(TWO), None), Plan::Drift(Drift::Unclaimed { found }));
        let repair = Desired { repair: true, ..desired(TWO) };
        assert_eq!(plan(&absent(ONE), &repair, None), Plan::Write(lease(1, "px1", TWO)));
    }

    #[test]
    fn what_is_right_is_not_written_whoever_wrote_it() {
        let theirs = lease(7, "px2", TWO);
        assert_eq!(plan(&held(&theirs), &desired(TWO), None), Plan::InSync);
        assert_eq!(plan(&held(&theirs), &desired(TWO), Some(&record(&theirs))), Plan::InSync);
    }

    #[test]
    fn a_change_takes_the_next_epoch() {
        let theirs = lease(7, "px2", TWO);
        assert_eq!(
            plan(&held(&theirs), &desired(ONE), Some(&record(&theirs))),
            Plan::Write(lease(8, "px1", ONE))
        );
        let other_ttl = Desired { ttl: 9, ..desired(TWO) };
        let expected = Lease { ttl: 9, ..lease(8, "px1", TWO) };
        assert_eq!(plan(&held(&theirs), &other_ttl, Some(&record(&theirs))), Plan::Write(expected));
        let near = desired(TWO).while_a_change_is_near();
        let expected = Lease { ttl: NEAR_TTL, ..lease(8, "px1", TWO) };
        assert_eq!(plan(&held(&theirs), &near, Some(&record(&theirs))), Plan::Write(expected));
        let never_kept = Desired { ttl: 0, ..desired(TWO) };
        assert_eq!(never_kept.while_a_change_is_near().ttl, 0, "it only falls");
    }

    #[test]
    fn an_edit_is_drift_until_repair_is_asked_for() {
        let ours = lease(7, "px1", TWO);
        let edited = Current { addresses: set(&["192.0.2.1"]), ..held(&ours) };
        let drift = Drift::Edited { written: set(TWO), found: set(&["192.0.2.1"]) };
        assert_eq!(plan(&edited, &desired(TWO), Some(&record(&ours))), Plan::Drift(drift.clone()));
        assert_eq!(plan(&edited, &desired(ONE), Some(&record(&ours))), Plan::Drift(drift));
        let repair = Desired { repair: true, ..desired(ONE) };
        assert_eq!(plan(&edited, &repair, Some(&record(&ours))), Plan::Write(lease(8, "px1", ONE)));
        // An edit that says what is wanted is taken over.
        let right = Current { addresses: set(ONE), ..held(&ours) };
        assert_eq!(plan(&right, &desired(ONE), Some(&record(&ours))), Plan::Write(lease(8, "px1", ONE)));
    }

    #[test]
    fn another_shape_is_drift_but_does_not_stop_a_change() {
        let ours = lease(7, "px1", TWO);
        let rebuilt = Current { shape: Shape::Foreign, ..held(&ours) };
        assert_eq!(plan(&rebuilt, &desired(TWO), Some(&record(&ours))), Plan::Drift(Drift::Rebuilt));
        assert_eq!(plan(&rebuilt, &desired(ONE), Some(&record(&ours))), Plan::Write(lease(8, "px1", ONE)));
        let repair = Desired { repair: true, ..desired(TWO) };
        assert_eq!(plan(&rebuilt, &repair, Some(&record(&ours))), Plan::Write(lease(8, "px1", TWO)));
        // What a node built by former settings is nobody's edit.
        let former = Current { shape: Shape::Former, ..held(&ours) };
        assert_eq!(plan(&former, &desired(TWO), Some(&record(&ours))), Plan::Write(lease(8, "px1", TWO)));
        assert_eq!(plan(&former, &desired(TWO), None), Plan::Write(lease(8, "px1", TWO)), "after a restart");
    }

    #[test]
    fn another_writer_is_lost_to() {
        let base = lease(7, "px1", TWO);
        for epoch in [7, 8, 100] {
            let theirs = lease(epoch, "px2", ONE);
            assert_eq!(plan(&held(&theirs), &desired(TWO), Some(&record(&base))), Plan::Lost(theirs.clone()));
            let repair = Desired { repair: true, ..desired(TWO) };
            assert_eq!(plan(&held(&theirs), &repair, Some(&record(&base))), Plan::Lost(theirs));
        }
        // There was no lease when this node looked.
        let theirs = lease(1, "px2", ONE);
        assert_eq!(plan(&held(&theirs), &desired(TWO), Some(&LeaseRecord::Absent)), Plan::Lost(theirs));
        // Our own write, whose answer was lost.
        assert_eq!(plan(&held(&lease(8, "px1", ONE)), &desired(ONE), Some(&record(&base))), Plan::InSync);
    }

    #[test]
    fn a_lease_that_went_away_or_back_is_drift_and_its_epoch_is_not_used_again() {
        let base = lease(7, "px1", TWO);
        let repair = Desired { repair: true, ..desired(TWO) };
        let old = held(&lease(3, "px2", ONE));
        assert_eq!(
            plan(&old, &desired(TWO), Some(&record(&base))),
            Plan::Drift(Drift::RolledBack { from: 7, to: 3 })
        );
        assert_eq!(plan(&old, &repair, Some(&record(&base))), Plan::Write(lease(8, "px1", TWO)));
        assert_eq!(plan(&absent(TWO), &desired(TWO), Some(&record(&base))), Plan::Drift(Drift::LeaseRemoved));
        assert_eq!(plan(&absent(TWO), &repair, Some(&record(&base))), Plan::Write(lease(8, "px1", TWO)));
        // Nothing is left: a server that lost its disk gets the name back.
        assert_eq!(
            plan(&absent(&[]), &desired(TWO), Some(&record(&base))),
            Plan::Write(lease(8, "px1", TWO))
        );
        assert_eq!(plan(&absent(&[]), &desired(&[]), Some(&record(&base))), Plan::KeepLast);
        // A service loses no disk: a person has removed it.
        let kept = Desired { restore: false, ..desired(TWO) };
        let drift = Plan::Drift(Drift::Gone);
        assert_eq!(plan(&absent(&[]), &kept, Some(&record(&base))), drift);
        assert_eq!(plan(&absent(&[]), &kept, None), Plan::Write(lease(1, "px1", TWO)), "nobody knows of it");
        let text = "v=spf1".to_owned();
        let foreign = Current { lease: LeaseRecord::Unreadable(text.clone()), ..absent(TWO) };
        assert_eq!(plan(&foreign, &desired(TWO), None), Plan::Drift(Drift::LeaseUnreadable(text)));
        assert_eq!(plan(&foreign, &repair, None), Plan::Write(lease(1, "px1", TWO)));
    }

    #[test]
    fn a_name_is_emptied_only_by_its_policy() {
        let ours = lease(7, "px1", TWO);
        assert_eq!(plan(&held(&ours), &desired(&[]), Some(&record(&ours))), Plan::KeepLast);
        assert_eq!(plan(&absent(&[]), &desired(&[]), None), Plan::KeepLast);
        let empty = Desired { may_be_empty: true, ..desired(&[]) };
        assert_eq!(plan(&held(&ours), &empty, Some(&record(&ours))), Plan::Write(lease(8, "px1", &[])));
        assert_eq!(plan(&absent(&[]), &empty, None), Plan::InSync);
    }

    fn any_set() -> impl Strategy<Value = BTreeSet<IpAddr>> {
        // Few addresses, so that sets are often the same.
        let few = prop::sample::subsequence(set(TWO).into_iter().collect::<Vec<_>>(), 0..=2);
        prop_oneof![
            4 => few.prop_map(|v| v.into_iter().collect()),
            1 => prop::collection::btree_set(any_address(), 0..3)
        ]
    }

    fn few_leases() -> impl Strategy<Value = Lease> {
        let near = (0..4u64, prop_oneof!["px1", "px2"], 5..7u32, any_set()).prop_map(
            |(epoch, owner, ttl, addresses)| Lease {
                epoch,
                owner: Owner::new(&owner).unwrap(),
                ttl,
                addresses,
            },
        );
        prop_oneof![4 => near, 1 => any_lease()]
    }

    fn any_record() -> impl Strategy<Value = LeaseRecord> {
        prop_oneof![
            1 => Just(LeaseRecord::Absent),
            4 => few_leases().prop_map(LeaseRecord::Held),
            1 => any::<String>().prop_map(LeaseRecord::Unreadable),
        ]
    }

    fn any_base() -> impl Strategy<Value = Option<LeaseRecord>> {
        prop::option::of(any_record())
    }

    fn any_current() -> impl Strategy<Value = Current> {
        let shape = prop::sample::select(vec![Shape::Asked, Shape::Former, Shape::Foreign]);
        (any_record(), any_set(), any::<bool>(), shape).prop_map(|(lease, mut addresses, same, shape)| {
            if let (LeaseRecord::Held(l), true) = (&lease, same) {
                addresses = l.addresses.clone();
            }
            Current { lease, addresses, shape }
        })
    }

    fn any_desired() -> impl Strategy<Value = Desired> {
        let flags = any::<(bool, bool, bool)>();
        (any_set(), 5..7u32, prop_oneof!["px1", "px2"], flags).prop_map(
            |(addresses, ttl, owner, (may_be_empty, repair, restore))| Desired {
                addresses,
                ttl,
                owner: Owner::new(&owner).unwrap(),
                may_be_empty,
                repair,
                restore,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn what_is_written_is_what_was_asked_with_a_new_epoch(
            current in any_current(), desired in any_desired(), base in any_base()
        ) {
            let Plan::Write(new) = plan(&current, &desired, base.as_ref()) else { return Ok(()) };
            prop_assert_eq!(&new.addresses, &desired.addresses);
            prop_assert_eq!((new.ttl, &new.owner), (desired.ttl, &desired.owner));
            prop_assert!(!new.addresses.is_empty() || desired.may_be_empty);
            prop_assert!(base.is_none_or(|b| b.epoch() < new.epoch));
            if let LeaseRecord::Held(old) = &current.lease {
                prop_assert!(old.epoch < new.epoch);
            }
        }

        #[test]
        fn one_write_is_enough(
            current in any_current(), desired in any_desired(), base in any_base()
        ) {
            let Plan::Write(new) = plan(&current, &desired, base.as_ref()) else { return Ok(()) };
            prop_assert_eq!(plan(&held(&new), &desired, Some(&record(&new))), Plan::InSync);
        }

        #[test]
        fn a_persons_edit_is_overwritten_only_on_demand(
            current in any_current(), desired in any_desired(), base in any_base()
        ) {
            let Plan::Write(_) = plan(&current, &desired, base.as_ref()) else { return Ok(()) };
            let by_a_node = match &current.lease {
                LeaseRecord::Absent => current.addresses.is_empty(),
                LeaseRecord::Held(lease) => lease.addresses == current.addresses,
                LeaseRecord::Unreadable(_) => false,
            };
            prop_assert!(by_a_node || desired.repair || current.addresses == desired.addresses);
        }

        #[test]
        fn in_sync_is_never_said_of_other_addresses(
            current in any_current(), desired in any_desired(), base in any_base()
        ) {
            if plan(&current, &desired, base.as_ref()) == Plan::InSync {
                prop_assert_eq!(&current.addresses, &desired.addresses);
            }
        }

        /// Two nodes with stale views of one store: each epoch is written once.
        #[test]
        fn no_epoch_is_written_twice(steps in prop::collection::vec((0..2usize, any_set(), any::<bool>()), 1..40)) {
            let mut store = absent(&[]);
            let mut views = [store.clone(), store.clone()];
            let mut written = Vec::new();
            for (node, addresses, look) in steps {
                let owner = Owner::new(["px1", "px2"][node]).unwrap();
                if look {
                    views[node] = store.clone();
                }
                let wanted = Desired { addresses, owner, ..desired(&[]) };
                if let Plan::Write(new) = plan(&views[node], &wanted, Some(&views[node].lease)) {
                    // The store's compare-and-swap.
                    if views[node] == store {
                        written.push(new.epoch);
                        store = held(&new);
                        views[node] = store.clone();
                    }
                }
            }
            let expected: Vec<u64> = (1..=written.len() as u64).collect();
            prop_assert_eq!(written, expected);
        }
    }
}
