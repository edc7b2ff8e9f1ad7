//! Sessions as operators see them, and end them.

mod common;

use common::*;
use std::time::Duration;
use vipd_balancer::{Balancer, CloseCause, SessionState, Which};
use vipd_core::settings::{Cidr, Listener};

fn on(pool: &str, server: &str) -> Which {
    Which::Server { pool: pool.into(), server: server.into() }
}

fn called(name: &str) -> Which {
    Which::Named(name.into())
}

fn kill(balancer: &Balancer, which: Which) -> u64 {
    wait_for(balancer.kill(which).expect("workers answer"))
}

#[test]
fn a_session_is_found_by_all_its_names() {
    let pools = build(&[pool("one", &[echo()]), pool("two", &[echo()])]);
    let listeners = [listener("a"), Listener { pool: 1, ..listener("b") }];
    let balancer = Balancer::start(&listeners, pools, Some(2)).expect("starts");
    let other = balancer.stats().listeners[1].addresses[0];
    let (mut first, mut second) = (connect_from(&balancer, 5), connect_to(other));
    ask(&mut first);
    ask(&mut first);
    ask(&mut second);
    let all = list(&balancer, Which::All);
    assert_eq!(all.len(), 2);
    assert!(all[0].id < all[1].id);
    let session = all.iter().find(|s| s.listener == "a").expect("that of the first listener");
    assert_eq!(session.client, first.local_addr().expect("an address"));
    assert_eq!(session.server, Some(("one".to_owned(), "db1".to_owned())));
    assert_eq!((session.state, session.bytes_in, session.bytes_out), (SessionState::Relaying, 8, 8));
    assert!(session.idle <= session.age && session.age < PATIENCE);
    for which in
        [called("a"), called("one"), on("one", "db1"), Which::Client(loopback(5)), Which::Id(session.id)]
    {
        let ids: Vec<_> = list(&balancer, which.clone()).iter().map(|s| s.id).collect();
        assert_eq!(ids, [session.id], "{which:?}");
    }
    for which in
        [called("c"), on("one", "db2"), on("three", "db1"), Which::Client(loopback(6)), Which::Id(1_000_000)]
    {
        assert_eq!(list(&balancer, which.clone()), [], "{which:?}");
    }
}

#[test]
fn a_list_tells_how_far_each_session_is() {
    let (hung, held) = hung();
    let mut pool = pool("pool", &[hung]);
    pool.connect_timeout = PATIENCE;
    pool.servers[0].max_connections = Some(1);
    let proxies =
        Listener { accept_proxy: Cidr::new(loopback(9), 32).into_iter().collect(), ..listener("main") };
    let balancer = start(&proxies, &pool);
    let _connecting = connect(&balancer);
    until("it is connecting", || balancer.stats().servers[0].sessions == 1);
    let _waits = queued(&balancer, 1);
    let _silent = connect_from(&balancer, 9);
    until("all are there", || balancer.sessions() == 3);
    let states: Vec<_> = list(&balancer, called("main")).iter().map(|s| (s.client.ip(), s.state)).collect();
    assert_eq!(states.len(), 3, "those without a server too");
    assert!(states.contains(&(loopback(1), SessionState::Connecting)));
    assert!(states.contains(&(loopback(1), SessionState::Queued)));
    assert!(states.contains(&(loopback(9), SessionState::Header)));
    assert_eq!(list(&balancer, on("pool", "db1")).len(), 1, "the one on its way to it");
    // Each of them can be ended.
    assert_eq!(kill(&balancer, called("pool")), 3);
    assert_closed(&balancer, CloseCause::Killed, 3);
    drop(held);
}

#[test]
fn a_silent_session_is_idle_for_as_long() {
    let balancer = balancer(&[echo()]);
    let mut client = connect(&balancer);
    ask(&mut client);
    let idle = || list(&balancer, Which::All)[0].idle;
    until("time goes on", || idle() > Duration::from_millis(100));
    let silent = idle();
    ask(&mut client);
    assert!(idle() < silent);
}

#[test]
fn one_session_is_killed_and_no_other() {
    let balancer = balancer(&[echo()]);
    let mut clients: Vec<_> = (0..8).map(|_| connect(&balancer)).collect();
    clients.iter_mut().for_each(ask);
    let victim = clients[3].local_addr().expect("an address");
    let all = list(&balancer, Which::All);
    let id = all.iter().find(|s| s.client == victim).expect("it is listed").id;
    assert_eq!(kill(&balancer, Which::Id(id)), 1);
    assert_reset(&mut clients.remove(3));
    until("it is gone", || balancer.sessions() == 7);
    assert_eq!(stats(&balancer).closed(CloseCause::Killed), 1);
    assert_eq!(kill(&balancer, Which::Id(id)), 0, "its number is not used again");
    clients.iter_mut().for_each(ask);
}

#[test]
fn sessions_of_a_server_or_a_client_are_killed() {
    let balancer = balancer(&[echo()]);
    let mut kept = connect_from(&balancer, 6);
    let mut clients: Vec<_> = (0..4).map(|_| connect_from(&balancer, 5)).collect();
    clients.iter_mut().chain([&mut kept]).for_each(ask);
    assert_eq!(kill(&balancer, Which::Client(loopback(5))), 4);
    clients.iter_mut().for_each(assert_reset);
    ask(&mut kept);
    assert_eq!(kill(&balancer, on("pool", "db2")), 0);
    assert_eq!(kill(&balancer, on("pool", "db1")), 1);
    assert_reset(&mut kept);
    assert_closed(&balancer, CloseCause::Killed, 5);
}
