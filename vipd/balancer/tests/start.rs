//! Clients who come before the servers' first checks.

mod common;

use common::*;
use vipd_balancer::{Balancer, CloseCause};

#[test]
fn clients_wait_until_the_first_verdict_and_not_for_that_of_other_pools() {
    let listeners = [listener("slow"), vipd_core::settings::Listener { pool: 1, ..listener("fast") }];
    let (slow, fast) = (pool("slow", &[]), pool("fast", &[echo()]));
    let with = |slow| build(&[slow, fast.clone()]);
    let (balancer, _gate) = Balancer::start_unjudged(&listeners, with(slow), Some(2)).expect("starts");
    let places: Vec<_> = balancer.stats().listeners.iter().map(|l| l.addresses[0]).collect();
    let mut early = connect_to(places[0]);
    // Both workers accept by now.
    (0..20).for_each(|_| ask(&mut connect_to(places[1])));
    assert_waits(&mut early);
    assert_eq!(stats(&balancer).total, 0);
    balancer.set_pools(with(pool("slow", &[echo()])));
    ask(&mut early);
}

#[test]
fn clients_are_refused_when_it_is_known_that_there_is_no_server() {
    let (balancer, gate) =
        Balancer::start_unjudged(&[listener("main")], build(&[pool("pool", &[])]), Some(2)).expect("starts");
    let mut early = connect(&balancer);
    assert_waits(&mut early);
    gate.open();
    assert_reset(&mut early);
    assert_closed(&balancer, CloseCause::NoServer, 1);
    assert_reset(&mut connect(&balancer));
}
