//! Sessions that are ended: by time, by address, by server, by drain.

mod common;

use common::*;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use vipd_balancer::{Balancer, CloseCause};
use vipd_core::health::Why;
use vipd_core::pool::{Pools, ServerKey};
use vipd_core::settings::{Bind, Listener};

const DB1: ServerKey = ServerKey { pool: 0, server: 0 };

#[test]
fn a_session_in_which_nobody_speaks_is_closed() {
    let limit = Duration::from_millis(300);
    let listener = Listener { idle_timeout: Some(limit), ..listener("main") };
    let balancer = start(&listener, &pool("pool", &[echo()]));
    let mut client = connect(&balancer);
    let began = Instant::now();
    // Speaking for longer than the limit, never silent for as long.
    while began.elapsed() < 2 * limit {
        ask(&mut client);
    }
    let silent = Instant::now();
    assert_end(&mut client);
    assert!(silent.elapsed() > limit / 2, "{:?}", silent.elapsed());
    assert_closed(&balancer, CloseCause::IdleTimeout, 1);
}

#[test]
fn sessions_of_a_lost_address_are_reset_and_no_others() {
    let everywhere = Bind { address: Some(Ipv4Addr::UNSPECIFIED.into()), port: 0 };
    let balancer = start(&Listener { bind: everywhere, ..listener("main") }, &pool("pool", &[echo()]));
    let port = address(&balancer).port();
    let mut lost: Vec<_> = (0..8).map(|_| connect_to((loopback(2), port).into())).collect();
    let mut kept: Vec<_> = (0..8).map(|_| connect_to((loopback(3), port).into())).collect();
    lost.iter_mut().chain(&mut kept).for_each(ask);
    balancer.close_local(&[loopback(2), loopback(4)]).expect("workers answer");
    lost.iter_mut().for_each(assert_reset);
    kept.iter_mut().for_each(ask);
    assert_eq!(stats(&balancer).closed(CloseCause::AddressLost), 8);
    // Who comes again before the address is gone is reset, too; unless it stays.
    assert_reset(&mut connect_to((loopback(2), port).into()));
    ask(&mut connect_to((loopback(3), port).into()));
    balancer.open_local(|| vec![loopback(2)]);
    ask(&mut connect_to((loopback(2), port).into()));
}

/// The same two servers, of which the first is or is not usable.
fn two(first: std::net::SocketAddr, second: std::net::SocketAddr, usable: bool) -> std::sync::Arc<Pools> {
    let mut pool = pool("pool", &[first, second]);
    if !usable {
        pool.servers[0].weight = 0;
    }
    build(&[pool])
}

#[test]
fn sessions_on_a_withdrawn_server_are_reset_and_no_others() {
    let (one, other) = (named(b"one"), named(b"two"));
    let balancer = Balancer::start(&[listener("main")], two(one, other, true), Some(2)).expect("starts");
    let mut demoted: Vec<_> = (0..4).map(|_| connect(&balancer)).collect();
    assert!(demoted.iter_mut().all(|c| name(c) == "one"));
    balancer.set_pools(two(one, other, false));
    let mut kept = connect(&balancer);
    assert_eq!(name(&mut kept), "two");
    balancer.close_server(DB1, Why::Demoted).expect("workers answer");
    demoted.iter_mut().for_each(assert_reset);
    drop(demoted);
    until("they are gone", || balancer.sessions() == 1);
    assert_eq!(stats(&balancer).closed(CloseCause::ServerDemoted), 4);
    drop(kept);
    until("all sessions ended", || balancer.sessions() == 0);
}

#[test]
fn the_cause_tells_why_a_server_has_no_sessions_any_more() {
    let balancer = balancer(&[named(b"one")]);
    for (n, why) in [Why::Demoted, Why::Superseded, Why::Down, Why::Maintenance].into_iter().enumerate() {
        let mut client = connect(&balancer);
        assert_eq!(name(&mut client), "one");
        balancer.close_server(DB1, why).expect("workers answer");
        assert_reset(&mut client);
        assert_closed(&balancer, why.into(), 1);
        assert_eq!(stats(&balancer).total, n as u64 + 1);
    }
}

#[test]
fn a_client_on_its_way_to_a_withdrawn_server_goes_elsewhere() {
    let (hung, held) = hung();
    let other = named(b"two");
    let mut pool = pool("pool", &[hung, other]);
    pool.connect_timeout = Duration::from_secs(2);
    let balancer = start(&listener("main"), &pool);
    let mut client = connect(&balancer);
    until("it is connecting", || balancer.stats().servers[0].sessions == 1);
    balancer.set_pools(two(hung, other, false));
    balancer.close_server(DB1, Why::Down).expect("workers answer");
    assert_eq!(name(&mut client), "two");
    drop(held);
}

#[test]
fn a_drain_waits_for_sessions_and_then_ends_them() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let balancer = balancer(&[echo()]);
    let address = address(&balancer);
    let mut client = connect(&balancer);
    ask(&mut client);
    let drained = runtime.block_on(async {
        let drain = balancer.drain(PATIENCE);
        let end = async {
            ask(&mut client);
            drop(client);
        };
        tokio::join!(drain, end).0
    });
    assert_eq!(drained.expect("workers answer"), 0);
    until("nobody listens", || std::net::TcpStream::connect(address).is_err());

    let balancer = common::balancer(&[echo()]);
    let mut client = connect(&balancer);
    ask(&mut client);
    let drained = runtime.block_on(balancer.drain(Duration::from_millis(10)));
    assert_eq!(drained.expect("workers answer"), 1);
    assert_reset(&mut client);
    assert_closed(&balancer, CloseCause::Stopped, 1);
}

#[test]
fn dropping_it_ends_everything() {
    let balancer = balancer(&[echo()]);
    let address = address(&balancer);
    let mut client = connect(&balancer);
    ask(&mut client);
    drop(balancer);
    assert_reset(&mut client);
    assert!(std::net::TcpStream::connect(address).is_err());
}
