//! Clients that wait for a server to have room.

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};
use vipd_balancer::{Balancer, CloseCause};
use vipd_core::pool::ServerKey;
use vipd_core::settings::{Listener, Pool};

/// A pool of one server that has room for so many.
fn narrow(server: SocketAddr, room: u32) -> Pool {
    let mut pool = pool("pool", &[server]);
    pool.servers[0].max_connections = Some(room);
    pool.queue_timeout = PATIENCE;
    pool
}

#[test]
fn those_that_wait_are_served_in_the_order_they_came() {
    let balancer = start(&listener("main"), &narrow(named(b"one"), 1));
    let mut served = connect(&balancer);
    assert_eq!(name(&mut served), "one");
    // They fall on both workers.
    let waiting: Vec<_> = (1..=12).map(|n| queued(&balancer, n)).collect();
    for (before, mut next) in (0..12).rev().zip(waiting) {
        assert_waits(&mut next);
        assert_eq!(stats(&balancer).closed(CloseCause::ClientClosed), 11 - before);
        drop(std::mem::replace(&mut served, next));
        assert_eq!(name(&mut served), "one");
        assert_eq!(pool_stats(&balancer, 0).queued, before as u32);
        assert_eq!(balancer.stats().servers[0].sessions, 1);
    }
    drop(served);
    assert_closed(&balancer, CloseCause::ClientClosed, 13);
    let stats = pool_stats(&balancer, 0);
    assert_eq!((stats.queued_total, stats.queue_timeouts, stats.queue_full), (12, 0, 0));
}

#[test]
fn nobody_who_waits_is_forgotten() {
    let balancer = start(&listener("main"), &narrow(echo(), 2));
    thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| (0..100).for_each(|_| ask(&mut connect(&balancer))));
        }
    });
    assert_closed(&balancer, CloseCause::ClientClosed, 800);
    assert!(pool_stats(&balancer, 0).queued_total > 100, "{:?}", pool_stats(&balancer, 0));
    assert_eq!(pool_stats(&balancer, 0).queued, 0);
}

#[test]
fn a_full_queue_refuses_and_time_ends_the_wait() {
    let mut pool = narrow(named(b"one"), 1);
    pool.queue = 2;
    pool.queue_timeout = Duration::from_millis(400);
    let balancer = start(&listener("main"), &pool);
    let mut served = connect(&balancer);
    assert_eq!(name(&mut served), "one");
    let began = Instant::now();
    let mut waiting = [queued(&balancer, 1), queued(&balancer, 2)];
    assert_reset(&mut connect(&balancer));
    assert_eq!(stats(&balancer).closed(CloseCause::QueueFull), 1);
    waiting.iter_mut().for_each(assert_reset);
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(400) && waited < Duration::from_secs(4), "{waited:?}");
    assert_eq!(stats(&balancer).closed(CloseCause::QueueTimeout), 2);
    let stats = pool_stats(&balancer, 0);
    assert_eq!((stats.queued, stats.queue_timeouts, stats.queue_full), (0, 2, 1));
}

#[test]
fn who_hangs_up_leaves_the_queue_at_once() {
    let balancer = start(&listener("main"), &narrow(named(b"one"), 1));
    let mut served = connect(&balancer);
    assert_eq!(name(&mut served), "one");
    let ends = queued(&balancer, 1);
    let mut speaks = queued(&balancer, 2);
    let mut stays = queued(&balancer, 3);
    drop(ends);
    until("it has left", || pool_stats(&balancer, 0).queued == 2);
    speaks.write_all(b"hello").expect("is taken");
    reset(speaks);
    until("it has left", || pool_stats(&balancer, 0).queued == 1);
    assert_eq!(stats(&balancer).closed(CloseCause::Abandoned), 2);
    assert_waits(&mut stays);
    drop(served);
    assert_eq!(name(&mut stays), "one");
}

#[test]
fn who_has_asked_and_ended_still_gets_its_answer() {
    let balancer = start(&listener("main"), &narrow(echo(), 1));
    let mut served = connect(&balancer);
    ask(&mut served);
    let mut waits = queued(&balancer, 1);
    waits.write_all(b"how much").expect("is taken");
    waits.shutdown(Shutdown::Write).expect("an open connection");
    assert_waits(&mut waits);
    drop(served);
    let mut answer = Vec::new();
    waits.read_to_end(&mut answer).expect("an answer");
    assert_eq!(answer, b"how much");
}

#[test]
fn new_pools_serve_those_that_wait() {
    let (one, two) = (named(b"one"), named(b"two"));
    let balancer = start(&listener("main"), &narrow(one, 1));
    let mut served = connect(&balancer);
    assert_eq!(name(&mut served), "one");
    let mut waiting: Vec<_> = (1..=6).map(|n| queued(&balancer, n)).collect();
    // Room for three more: one word, three turns.
    balancer.set_pools(build(&[narrow(one, 4)]));
    for next in waiting.drain(..3) {
        let mut next = next;
        assert_eq!(name(&mut next), "one");
        next.write_all(b"x").expect("is taken");
        std::mem::forget(next);
    }
    until("they are gone", || balancer.stats().servers[0].total >= 4);
    // Another pool: they leave the queue of the old one.
    let other = Pool { name: "other".into(), ..narrow(two, 8) };
    balancer.reconfigure(&[listener("main")], build(&[other])).expect("nothing to bind");
    waiting.iter_mut().for_each(|c| assert_eq!(name(c), "two"));
    assert_eq!(pool_stats(&balancer, 0).queued, 0);
}

#[test]
fn one_place_that_two_pools_share_serves_both() {
    let server = named(b"one");
    let mut shared = narrow(server, 1);
    shared.name = "shared".into();
    let mut down = pool("down", &[nobody()]);
    down.servers[0].weight = 0;
    down.fallback = Some(1);
    down.queue_timeout = PATIENCE;
    let listeners = [listener("main"), Listener { pool: 1, ..listener("other") }];
    let balancer = Balancer::start(&listeners, build(&[down, shared]), Some(2)).expect("starts");
    let other = balancer.stats().listeners[1].addresses[0];
    let mut served = connect_to(other);
    assert_eq!(name(&mut served), "one");
    let mut waiting = vec![queued(&balancer, 1), connect_to(other), connect_to(other)];
    until("all wait", || pool_stats(&balancer, 1).queued == 2);
    drop(served);
    // Whoever is served goes, and another is served.
    until("all were served", || {
        waiting.retain_mut(|client| {
            client.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
            client.read(&mut [0; 3]).is_err()
        });
        waiting.is_empty()
    });
}

const DB1: ServerKey = ServerKey { pool: 0, server: 0 };

#[test]
fn the_room_that_a_server_has_of_its_own_is_for_sessions_at_a_time() {
    let mut pool = pool("pool", &[named(b"one")]);
    pool.queue_timeout = PATIENCE;
    let balancer = start(&listener("main"), &pool);
    let mut first = connect(&balancer);
    assert_eq!(name(&mut first), "one");
    // One beside the one that it has.
    balancer.set_room(DB1, Some(1));
    let mut second = connect(&balancer);
    assert_eq!(name(&mut second), "one");
    let mut waiting = [queued(&balancer, 1), queued(&balancer, 2), queued(&balancer, 3)];
    assert_eq!(balancer.stats().servers[0].room, Some(0));
    waiting.iter_mut().for_each(assert_waits);
    // The end of a session is room for another, at once.
    drop(first);
    assert_eq!(name(&mut waiting[0]), "one");
    waiting[1..].iter_mut().for_each(assert_waits);
    balancer.set_room(DB1, Some(1));
    assert_eq!(name(&mut waiting[1]), "one");
    assert_waits(&mut waiting[2]);
    balancer.set_room(DB1, None);
    assert_eq!(name(&mut waiting[2]), "one");
    assert_eq!(balancer.stats().servers[0].room, None);
}

/// Short sessions, as of a program without a pool of connections: many more
/// than the server's own limit, one after the other, between two checks.
#[test]
fn the_room_that_a_server_has_of_its_own_does_not_limit_how_fast_sessions_come() {
    let balancer = start(&listener("main"), &pool("pool", &[echo()]));
    balancer.set_room(DB1, Some(20));
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| (0..50).for_each(|_| ask(&mut connect(&balancer))));
        }
    });
    assert_closed(&balancer, CloseCause::ClientClosed, 200);
    assert_eq!(pool_stats(&balancer, 0).queued_total, 0);
    assert_eq!(balancer.stats().servers[0].room, Some(20));
}

#[test]
fn a_server_without_room_does_not_open_the_way_to_the_fallback() {
    let mut main = pool("main", &[named(b"one")]);
    main.fallback = Some(1);
    let fallback = pool("fallback", &[named(b"two")]);
    let balancer = Balancer::start(&[listener("main")], build(&[main, fallback]), Some(1)).expect("starts");
    balancer.set_room(DB1, Some(0));
    let mut client = queued(&balancer, 1);
    balancer.set_room(DB1, Some(1));
    assert_eq!(name(&mut client), "one");
}

#[test]
fn what_a_pool_sends_to_its_fallback_is_limited() {
    let mut main = pool("main", &[nobody()]);
    main.servers[0].weight = 0;
    main.fallback = Some(1);
    main.fallback_max_connections = Some(2);
    main.queue_timeout = PATIENCE;
    let pools = build(&[main, pool("fallback", &[named(b"two")])]);
    let listeners = [listener("main"), Listener { pool: 1, ..listener("own") }];
    let balancer = Balancer::start(&listeners, pools, Some(2)).expect("starts");
    let mut borrowing = [connect(&balancer), connect(&balancer)];
    assert!(borrowing.iter_mut().all(|c| name(c) == "two"));
    assert_eq!(pool_stats(&balancer, 0).fallback_sessions, 2);
    let mut waits = queued(&balancer, 1);
    // Those that ask the other pool itself are its own.
    let mut own: Vec<_> = (0..3).map(|_| connect_to(balancer.stats().listeners[1].addresses[0])).collect();
    assert!(own.iter_mut().all(|c| name(c) == "two"));
    drop(own);
    assert_waits(&mut waits);
    drop(borrowing);
    assert_eq!(name(&mut waits), "two");
    drop(waits);
    until("all sessions ended", || balancer.sessions() == 0);
    assert_eq!(pool_stats(&balancer, 0).fallback_sessions, 0);
}

/// Its numbers go on, and none of them comes twice.
#[test]
fn a_listener_that_is_back_has_its_sessions_again() {
    let pools = build(&[pool("pool", &[echo()])]);
    let balancer = Balancer::start(&[listener("main")], pools.clone(), Some(2)).expect("starts");
    let mut client = connect(&balancer);
    ask(&mut client);
    balancer.reconfigure(&[], pools.clone()).expect("nothing to bind");
    assert_eq!(stats(&balancer).addresses, []);
    balancer.reconfigure(&[listener("main")], pools).expect("binds");
    let listeners = balancer.stats().listeners;
    assert_eq!((listeners.len(), listeners[0].sessions), (1, 1), "{listeners:?}");
    ask(&mut client);
    ask(&mut connect(&balancer));
    drop(client);
    assert_closed(&balancer, CloseCause::ClientClosed, 2);
}

/// What is given back may be what a pool waits for that draws on other servers by now.
#[test]
fn a_pool_that_gets_another_fallback_hears_of_places_on_the_former_one() {
    let mut main = pool("main", &[nobody()]);
    main.servers[0].weight = 0;
    main.fallback_max_connections = Some(1);
    main.queue_timeout = PATIENCE;
    let (former, later) = (named(b"one"), named(b"two"));
    let with = |fallback| {
        let main = Pool { fallback: Some(fallback), ..main.clone() };
        build(&[main, pool("former", &[former]), pool("later", &[later])])
    };
    let balancer = Balancer::start(&[listener("main")], with(1), Some(2)).expect("starts");
    let mut borrows = connect(&balancer);
    assert_eq!(name(&mut borrows), "one");
    let mut waits = queued(&balancer, 1);
    balancer.set_pools(with(2));
    assert_waits(&mut waits);
    drop(borrows);
    assert_eq!(name(&mut waits), "two");
}

#[test]
fn connections_to_a_server_come_evenly() {
    let (told, heard) = std::sync::mpsc::channel();
    let server = serving(move |mut stream| {
        let _ = told.send(Instant::now());
        let _ = stream.write_all(b"one");
        let _ = stream.read(&mut [0; 1]);
    });
    let mut pool = pool("pool", &[server]);
    pool.servers[0].max_rate = Some(50);
    pool.queue_timeout = PATIENCE;
    let balancer = start(&listener("main"), &pool);
    // All come at once, as after a failover.
    let mut clients: Vec<_> = (0..56).map(|_| connect(&balancer)).collect();
    until("the rate is used up", || balancer.stats().servers[0].rate_used_up);
    assert!(clients.iter_mut().all(|c| name(c) == "one"));
    let mut times: Vec<Instant> = heard.try_iter().collect();
    times.sort();
    assert_eq!(times.len(), 56);
    // Six at once, and then fifty in a second.
    let took = times[55] - times[0];
    assert!(took > Duration::from_millis(900), "{took:?}");
    let second = Duration::from_secs(1);
    for (i, from) in times.iter().enumerate() {
        let within = times[i..].iter().take_while(|t| **t - *from < second / 5).count();
        assert!(within <= 6 + 10 + 2, "{within} within a fifth of a second");
    }
    assert_eq!(stats(&balancer).closed.iter().sum::<u64>(), 0);
}
