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
