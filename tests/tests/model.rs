//! Every state of the election and the lease within small bounds; `make model`
//! has the larger ones.

use vipd_tests::model::{Bounds, Drift, explore};

#[test]
fn two_nodes_and_a_witness_never_have_two_owners() {
    let explored = explore(&Bounds::smallest(), 2_000_000);
    assert!(explored.broken.is_none(), "{:#?}", explored.broken);
    assert!(explored.complete, "more than {} states", explored.states);
}

#[test]
fn without_a_quorum_a_lost_advert_is_enough() {
    let explored = explore(&Bounds { quorum: false, ..Bounds::smallest() }, 100_000);
    let trace = explored.broken.expect("plain VRRP has two owners");
    assert!(trace.last().is_some_and(|line| line.contains("owners: [1, 2]")), "{trace:#?}");
}

/// The search finds what there is to find: clocks beyond the bound break the lease.
#[test]
fn clocks_beyond_the_bound_break_the_lease() {
    let explored = explore(&Bounds { drift: Drift::Beyond, ..Bounds::smallest() }, 2_000_000);
    assert!(explored.broken.is_some(), "{} states", explored.states);
}

/// From an owner on; `make model` goes further.
fn in_etcd() -> Bounds {
    Bounds { etcd: true, witnesses: 0, settled: true, ..Bounds::smallest() }
}

/// Each fault alone, for as far as so many states go.
#[test]
fn no_fault_makes_two_owners_by_a_key_in_etcd() {
    let etcd = in_etcd();
    for bounds in [
        etcd.clone(),
        Bounds { deletions: 1, ..etcd.clone() },
        Bounds { strays: 1, ..etcd.clone() },
        Bounds { crashes: 1, ..etcd.clone() },
        Bounds { pauses: 1, ..etcd },
    ] {
        let explored = explore(&bounds, 30_000);
        assert!(explored.broken.is_none(), "{bounds}: {:#?}", explored.broken);
        assert!(explored.states > 1_000, "{bounds}: {} states", explored.states);
    }
}

#[test]
fn clocks_beyond_the_bound_break_the_lease_in_etcd_too() {
    let explored = explore(&Bounds { drift: Drift::Beyond, ..in_etcd() }, 300_000);
    assert!(explored.broken.is_some(), "{} states", explored.states);
}
