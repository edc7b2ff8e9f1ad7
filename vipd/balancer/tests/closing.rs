//! Sessions that are ended: by time, by address, by server, by drain.

mod common;

use common::*;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use vipd_balancer::{Balancer, CloseCause};
use vipd_core::health::{Only, Why};
use vipd_core::pool::{Pools, ServerKey};
use vipd_core::settings::{Bind, Listener, Pool, Server, Vanished};

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

/// The names of servers at these places, in this order.
fn names(pool: &mut Pool, names: [&str; 2]) {
    pool.servers.iter_mut().zip(names).for_each(|(server, name)| server.name = name.into());
}

#[test]
fn what_a_check_found_of_a_server_is_not_held_against_its_name_elsewhere() {
    let (one, two) = (named(b"one"), named(b"two"));
    let mut before = pool("pool", &[one, two]);
    before.servers[1].weight = 0;
    let balancer = start(&listener("main"), &before);
    let mut first = connect(&balancer);
    assert_eq!(name(&mut first), "one");
    // The name goes to the other place; where it was there is another name, or none.
    let mut swapped = pool("pool", &[one, two]);
    names(&mut swapped, ["db2", "db1"]);
    swapped.servers[0].weight = 0;
    let moved = pool("pool", &[two]);
    for pools in [swapped, before.clone(), moved] {
        if pools == before {
            // The names are where they were: so is what it has.
            balancer.set_pools(build(&[pools]));
            continue;
        }
        let db1 = ServerKey { pool: 0, server: pools.servers.len() - 1 };
        balancer.set_pools(build(&[pools]));
        let mut second = connect(&balancer);
        assert_eq!(name(&mut second), "two");
        balancer.close_server(db1, Why::Demoted).expect("workers answer");
        assert_reset(&mut second);
        assert_waits(&mut first);
    }
    // Whoever takes the name out of service means all of it.
    balancer.close_server(DB1, Why::Maintenance).expect("workers answer");
    assert_reset(&mut first);
}

#[test]
fn sessions_are_where_the_primary_is_also_those_of_the_pool_before() {
    let (old, new) = (named(b"old"), named(b"new"));
    let gone = |pool: Pool| {
        let gone = |s: &Server| Server { vanished: Some(Vanished::File), ..s.clone() };
        Pool { servers: pool.servers.iter().map(gone).collect(), ..pool }
    };
    let (before, other) = (pool("before", &[old]), pool("other", &[old]));
    let listeners = [listener("write"), Listener { pool: 1, ..listener("aside") }];
    let balancer =
        Balancer::start(&listeners, build(&[before.clone(), other.clone()]), Some(2)).expect("starts");
    let at = |listener: usize| balancer.stats().listeners[listener].addresses[0];
    let (mut loses, mut keeps) = (connect_to(at(0)), connect_to(at(1)));
    assert_eq!((name(&mut loses), name(&mut keeps)), ("old".into(), "old".into()));
    // One reload: another pool at another place, the listener of the same name.
    let after = pool("after", &[new]);
    let listeners = [listener("write"), Listener { pool: 1, ..listener("aside") }];
    let after = [after, other, gone(before)];
    balancer.reconfigure(&listeners, build(&after)).expect("binds");
    let mut stays = connect_to(at(0));
    assert_eq!(name(&mut stays), "new");
    balancer.close_elsewhere(&Only { pool: 0, before: vec![], places: vec![new] }).expect("workers answer");
    assert_reset(&mut loses);
    for kept in [&mut keeps, &mut stays] {
        assert_waits(kept);
    }
    assert_eq!(balancer.stats().listeners[0].closed(CloseCause::ServerSuperseded), 1);
}

#[test]
fn sessions_of_a_pool_that_is_gone_end_by_its_heir_and_not_by_their_listener_alone() {
    let (old, new) = (named(b"old"), named(b"new"));
    let mut before = pool("before", &[old]);
    let balancer = start(&listener("write"), &before);
    let mut client = connect(&balancer);
    assert_eq!(name(&mut client), "old");
    before.servers[0].vanished = Some(Vanished::File);
    let bind = Bind { address: Some(Ipv4Addr::LOCALHOST.into()), port: 0 };
    let other = Listener { bind, ..listener("other") };
    balancer.reconfigure(&[other], build(&[pool("after", &[new]), before])).expect("binds");
    let only = |before| Only { pool: 0, before, places: vec![new] };
    balancer.close_elsewhere(&only(vec![])).expect("workers answer");
    assert_waits(&mut client);
    balancer.close_elsewhere(&only(vec![1])).expect("workers answer");
    assert_reset(&mut client);
}
