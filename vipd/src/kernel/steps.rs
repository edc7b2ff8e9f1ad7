//! From a plan to the changes that make it so. Pure.

use super::{LOOPBACK, Spot};
use std::collections::BTreeSet;
use vipd_core::plan::{GroupPlan, Hold};
use vipd_core::settings::{Cidr, Family};

/// Where the addresses of a group are once its plan was carried out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Placed {
    hold: Hold,
    interface: u32,
    spots: BTreeSet<Spot>,
}

impl Placed {
    pub(super) fn of(plan: &GroupPlan) -> Self {
        let spots = plan.addresses.iter().filter_map(|a| wanted(plan, *a)).collect();
        Self { hold: plan.hold, interface: plan.interface, spots }
    }

    pub(super) fn spots(&self) -> &BTreeSet<Spot> {
        &self.spots
    }
}

/// The changes, in order: the deletions follow when everything is put, so
/// that an address that moves between interface and loopback is local all the
/// time and its connections live.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Steps {
    /// Delete before anything is put: IPv6 addresses with another prefix
    /// length. For the kernel they are the same address: it would renew them
    /// with the length they have.
    pub(super) clear: Vec<Spot>,
    /// Put there, or renew.
    pub(super) put: Vec<Spot>,
    /// Then delete.
    pub(super) delete: Vec<Spot>,
}

/// The steps from what the group's earlier plan left (`None`: unknown) to
/// `plan`. `strays` gives all places that hold the group's addresses: at those
/// that the plan does not name they would outlive it. A mere renewal does not
/// ask for them.
pub(super) fn steps(plan: &GroupPlan, before: Option<&Placed>, strays: impl FnOnce() -> Vec<Spot>) -> Steps {
    let after = Placed::of(plan);
    let put: Vec<Spot> = after.spots.iter().copied().collect();
    if before == Some(&after) && plan.hold != Hold::Absent {
        return Steps { put, ..Steps::default() };
    }
    let mut delete = BTreeSet::new();
    for address in &plan.addresses {
        delete.insert(Spot { interface: plan.interface, address: *address });
        delete.insert(Spot { interface: LOOPBACK, address: alone(*address) });
    }
    delete.extend(before.iter().flat_map(|b| b.spots.iter().copied()));
    // IPv6 addresses of an interface must differ in more than their prefix
    // length (`inet6_addr_add` in net/ipv6/addrconf.c).
    let unique =
        |spot: &Spot| spot.address.address().is_ipv6().then(|| (spot.interface, spot.address.address()));
    let puts: BTreeSet<_> = put.iter().filter_map(unique).collect();
    let is_put = |spot: &Spot| unique(spot).is_some_and(|u| puts.contains(&u));
    delete.extend(strays());
    let delete = delete.into_iter().filter(|spot| !after.spots.contains(spot));
    let (clear, delete) = delete.partition(is_put);
    Steps { clear, put, delete }
}

fn wanted(plan: &GroupPlan, address: Cidr) -> Option<Spot> {
    match plan.hold {
        Hold::Absent => None,
        // Neither ARP (with arp_ignore) nor neighbour discovery answers on an
        // interface for an address of another one.
        Hold::Silent => Some(Spot { interface: LOOPBACK, address: alone(address) }),
        Hold::Owned => Some(Spot { interface: plan.interface, address }),
    }
}

/// The address without its subnet, which is not on the loopback interface.
fn alone(address: Cidr) -> Cidr {
    let longest = match Family::of(address.address()) {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    // The longest prefix is never too long.
    Cidr::new(address.address(), longest).unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn cidr(address: &str, prefix: u8) -> Cidr {
        let cidr = address.parse().ok().and_then(|a| Cidr::new(a, prefix));
        cidr.unwrap_or_else(|| unreachable!("a valid address"))
    }

    fn plan(hold: Hold) -> GroupPlan {
        let addresses = vec![cidr("10.77.0.100", 24), cidr("fd77::100", 64)];
        GroupPlan {
            group: 0,
            generation: 1,
            interface: 7,
            addresses,
            hold,
            lease: Duration::from_secs(3),
            until: None,
            former: vec![],
        }
    }

    fn on_interface() -> Vec<Spot> {
        plan(Hold::Owned).addresses.into_iter().map(|address| Spot { interface: 7, address }).collect()
    }

    fn on_loopback() -> Vec<Spot> {
        let addresses = [cidr("10.77.0.100", 32), cidr("fd77::100", 128)];
        addresses.into_iter().map(|address| Spot { interface: LOOPBACK, address }).collect()
    }

    #[test]
    fn every_change_of_hold() {
        let both = || {
            let mut all = [on_loopback(), on_interface()].concat();
            all.sort();
            all
        };
        let none = Vec::new;
        // (before, after, put, delete)
        let rows = [
            (None, Hold::Absent, none(), both()),
            (None, Hold::Silent, on_loopback(), on_interface()),
            (None, Hold::Owned, on_interface(), on_loopback()),
            (Some(Hold::Absent), Hold::Absent, none(), both()),
            (Some(Hold::Absent), Hold::Silent, on_loopback(), on_interface()),
            (Some(Hold::Absent), Hold::Owned, on_interface(), on_loopback()),
            (Some(Hold::Silent), Hold::Absent, none(), both()),
            (Some(Hold::Silent), Hold::Silent, on_loopback(), none()),
            (Some(Hold::Silent), Hold::Owned, on_interface(), on_loopback()),
            (Some(Hold::Owned), Hold::Absent, none(), both()),
            (Some(Hold::Owned), Hold::Silent, on_loopback(), on_interface()),
            (Some(Hold::Owned), Hold::Owned, on_interface(), none()),
        ];
        for (before, after, put, delete) in rows {
            let placed = before.map(|hold| Placed::of(&plan(hold)));
            let steps = steps(&plan(after), placed.as_ref(), Vec::new);
            assert_eq!(steps, Steps { clear: none(), put, delete }, "{before:?} -> {after:?}");
        }
    }

    #[test]
    fn what_a_group_gave_up_is_deleted() {
        let before = Placed::of(&plan(Hold::Owned));
        let mut after = plan(Hold::Owned);
        after.addresses.remove(0);
        after.interface = 8;
        let steps = steps(&after, Some(&before), Vec::new);
        assert_eq!(steps.put, [Spot { interface: 8, address: cidr("fd77::100", 64) }]);
        assert!(on_interface().iter().all(|spot| steps.delete.contains(spot)), "{steps:?}");
    }

    #[test]
    fn strays_go_with_every_change_of_hold() {
        let strays = [
            Spot { interface: 9, address: cidr("10.77.0.100", 16) },
            Spot { interface: 9, address: cidr("fd77::100", 64) },
            Spot { interface: 7, address: cidr("10.77.0.100", 32) },
            Spot { interface: LOOPBACK, address: cidr("10.77.0.100", 24) },
        ];
        // They stand among what is held, as the kernel lists them.
        let found = || [on_interface(), on_loopback(), strays.to_vec()].concat();
        for hold in [Hold::Absent, Hold::Silent, Hold::Owned] {
            let steps = steps(
                &plan(hold),
                Some(&Placed::of(&plan(Hold::Owned))).filter(|_| hold != Hold::Owned),
                found,
            );
            assert!(strays.iter().all(|stray| steps.delete.contains(stray)), "{hold:?}: {steps:?}");
            assert!(!steps.put.iter().any(|spot| steps.delete.contains(spot)), "{hold:?}: {steps:?}");
        }
        let renewal =
            steps(&plan(Hold::Owned), Some(&Placed::of(&plan(Hold::Owned))), || unreachable!("not asked"));
        assert_eq!(renewal, Steps { put: on_interface(), ..Steps::default() });
    }

    #[test]
    fn an_ipv6_address_of_the_place_with_another_length_goes_before_it_is_silent() {
        let stray = |interface, prefix| Spot { interface, address: cidr("fd77::100", prefix) };
        let steps = steps(&plan(Hold::Silent), None, || vec![stray(LOOPBACK, 64), stray(7, 128)]);
        assert_eq!(steps.clear, [stray(LOOPBACK, 64)]);
        assert!(steps.delete.contains(&stray(7, 128)), "{steps:?}");
    }

    #[test]
    fn an_ipv6_address_with_another_prefix_length_goes_first() {
        let before = Placed::of(&plan(Hold::Owned));
        let mut after = plan(Hold::Owned);
        after.addresses = vec![cidr("10.77.0.100", 32), cidr("fd77::100", 128)];
        let steps = steps(&after, Some(&before), Vec::new);
        let spot = |address| Spot { interface: 7, address };
        assert_eq!(steps.clear, [spot(cidr("fd77::100", 64))]);
        // Of IPv4 the kernel holds both.
        assert_eq!(steps.delete.last(), Some(&spot(cidr("10.77.0.100", 24))), "{steps:?}");
        assert!(!steps.delete.contains(&spot(cidr("fd77::100", 64))));
        // Also one that somebody else has put there.
        let stray = spot(cidr("fd77::100", 96));
        assert_eq!(super::steps(&plan(Hold::Owned), None, || vec![stray]).clear, [stray]);
    }
}
