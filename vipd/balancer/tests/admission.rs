//! Who gets in, and to which server.

mod common;

use common::*;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use vipd_balancer::{Balancer, CloseCause, Error, Which};
use vipd_core::health::PoolsState;
use vipd_core::pool::ServerKey;
use vipd_core::settings::{Balance, Bind, Host, Listener};
use vipd_core::time::Time;

#[test]
fn a_refused_connection_is_made_elsewhere() {
    let balancer = balancer(&[nobody(), nobody(), named(b"one")]);
    assert_eq!(name(&mut connect(&balancer)), "one");
    let errors: Vec<_> = balancer.stats().servers.iter().map(|s| s.connect_errors).collect();
    assert_eq!(errors, [1, 1, 0]);
    assert_closed(&balancer, CloseCause::ClientClosed, 1);
}

#[test]
fn retries_have_an_end() {
    let mut pool = pool("pool", &[nobody(), nobody(), echo()]);
    pool.retries = 1;
    let balancer = start(&listener("main"), &pool);
    assert_reset(&mut connect(&balancer));
    assert_closed(&balancer, CloseCause::ConnectFailed, 1);
    // Of a few that were all tried, each once more.
    let few = common::balancer(&[nobody(), nobody()]);
    assert_reset(&mut connect(&few));
    assert_closed(&few, CloseCause::ConnectFailed, 1);
    assert_eq!(few.stats().servers.iter().map(|s| s.connect_errors).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn a_server_that_starts_again_is_worth_a_second_try() {
    let place = nobody();
    let balancer = balancer(&[place]);
    let mut client = connect(&balancer);
    until("it was refused", || balancer.stats().servers[0].connect_errors == 1);
    serving_on(TcpListener::bind(place).expect("is free"), |mut stream| {
        let _ = stream.write_all(b"two");
        let _ = stream.read(&mut [0; 1]);
    });
    assert_eq!(name(&mut client), "two");
}

#[test]
fn a_retry_goes_as_far_as_the_fallback() {
    let mut main = pool("main", &[nobody()]);
    main.fallback = Some(1);
    let pools = build(&[main, pool("fallback", &[named(b"two")])]);
    let balancer = Balancer::start(&[listener("main")], pools, Some(1)).expect("starts");
    assert_eq!(name(&mut connect(&balancer)), "two");
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let (hung, held) = hung();
    let mut pool = pool("pool", &[hung, named(b"two")]);
    pool.connect_timeout = Duration::from_millis(100);
    let balancer = start(&listener("main"), &pool);
    assert_eq!(name(&mut connect(&balancer)), "two");
    assert_eq!(balancer.stats().servers[0].connect_errors, 1);
    drop(held);
}

#[test]
fn without_a_server_clients_are_reset() {
    let mut pool = pool("pool", &[nobody()]);
    pool.servers[0].weight = 0;
    let balancer = start(&listener("main"), &pool);
    for n in 1..=3 {
        assert_reset(&mut connect(&balancer));
        assert_closed(&balancer, CloseCause::NoServer, n);
    }
}

#[test]
fn a_full_server_takes_no_more() {
    let mut pool = pool("pool", &[named(b"one"), named(b"two")]);
    pool.servers[0].max_connections = Some(1);
    pool.servers[1].max_connections = Some(2);
    pool.queue = 0;
    let balancer = start(&listener("main"), &pool);
    let mut clients: Vec<_> = (0..3)
        .map(|_| {
            let mut client = connect(&balancer);
            (name(&mut client), client)
        })
        .collect();
    assert_eq!(clients.iter().map(|c| c.0.as_str()).collect::<Vec<_>>(), ["one", "two", "two"]);
    assert_reset(&mut connect(&balancer));
    assert_eq!(stats(&balancer).closed(CloseCause::ServersFull), 1);
    clients.remove(0);
    until("it has room", || balancer.stats().servers[0].sessions == 0);
    assert_eq!(name(&mut connect(&balancer)), "one");
}

#[test]
fn connections_spread_over_servers_and_workers() {
    let mut pool = pool("pool", &[named(b"one"), named(b"two"), named(b"six")]);
    pool.balance = Balance::LeastConnections;
    pool.servers[2].weight = 2;
    let balancer = start(&listener("main"), &pool);
    let mut seen = BTreeMap::new();
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let mut client = connect(&balancer);
            *seen.entry(name(&mut client)).or_insert(0) += 1;
            client
        })
        .collect();
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        [("one".into(), 10), ("six".into(), 20), ("two".into(), 10)]
    );
    drop(clients);
    assert_closed(&balancer, CloseCause::ClientClosed, 40);
}

#[test]
fn more_clients_than_the_limit_wait_for_their_turn() {
    const LIMIT: u32 = 3;
    let balancer =
        start(&Listener { max_connections: LIMIT, ..listener("main") }, &pool("pool", &[named(b"one")]));
    let mut clients: Vec<_> = (0..30).map(|_| connect(&balancer)).collect();
    let mut served = 0;
    while !clients.is_empty() {
        // Whoever has a session hears the server's name; it then leaves.
        clients.retain_mut(|client| {
            client.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
            assert!(stats(&balancer).sessions <= LIMIT);
            match client.read(&mut [0; 3]) {
                Ok(n) => {
                    assert_eq!(n, 3);
                    served += 1;
                    false
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::WouldBlock, "{e}");
                    true
                }
            }
        });
    }
    assert_eq!(served, 30);
    assert_closed(&balancer, CloseCause::ClientClosed, 30);
}

#[test]
fn raising_the_limit_lets_the_waiting_in() {
    let limited = Listener { max_connections: 1, ..listener("main") };
    let pool = pool("pool", &[named(b"one")]);
    let balancer = start(&limited, &pool);
    let mut first = connect(&balancer);
    assert_eq!(name(&mut first), "one");
    let mut second = connect(&balancer);
    balancer
        .reconfigure(&[Listener { max_connections: 2, ..limited }], build(&[pool]))
        .expect("nothing to bind");
    assert_eq!(name(&mut second), "one");
}

#[test]
fn an_address_that_is_not_here_yet_is_listened_on() {
    let vip = [IpAddr::from([192, 0, 2, 1]), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
    for address in vip {
        let bind = Bind { address: Some(address), port: 0 };
        let balancer = start(&Listener { bind, ..listener("vip") }, &pool("pool", &[nobody()]));
        assert_eq!(common::address(&balancer).ip(), address);
    }
}

#[test]
fn a_listener_without_address_listens_on_both_families() {
    let bind = Bind { address: None, port: 0 };
    let balancer = start(&Listener { bind, ..listener("all") }, &pool("pool", &[named(b"one")]));
    let addresses = stats(&balancer).addresses;
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for local in [loopback(1), Ipv6Addr::LOCALHOST.into()] {
        let port = addresses.iter().find(|a| a.is_ipv6() == local.is_ipv6()).map_or(0, SocketAddr::port);
        assert_eq!(name(&mut connect_to((local, port).into())), "one");
    }
}

#[test]
fn a_port_that_is_held_is_refused_with_its_holder() {
    let holder = listen();
    // Even one that would share it: half of the clients would be its own.
    let sharing = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    sharing.set_reuse_port(true).expect("a socket");
    sharing.bind(&SocketAddr::from((loopback(1), 0)).into()).expect("binds");
    sharing.listen(1).expect("listens");
    let sharing_at = sharing.local_addr().expect("an address").as_socket().expect("of IPv4");
    for held in [holder.local_addr().expect("an address"), sharing_at] {
        let bind = Bind { address: Some(held.ip()), port: held.port() };
        let error = Balancer::start(&[Listener { bind, ..listener("write") }], build(&[]), Some(1));
        let text = match error {
            Err(e @ Error::Bind { .. }) => e.to_string(),
            other => panic!("{other:?}"),
        };
        let pid = format!("(pid {})", std::process::id());
        assert!(text.starts_with(&format!("listener write: cannot listen on {held}: ")), "{text}");
        assert!(text.contains("held by ") && text.ends_with(&pid), "{text}");
    }
}

#[test]
fn a_reload_touches_only_what_changed() {
    let (one, two) = (pool("one", &[named(b"one")]), pool("two", &[named(b"two")]));
    let (stays, goes) = (listener("stays"), listener("goes"));
    let listeners = [stays.clone(), Listener { pool: 1, ..goes }];
    let balancer = Balancer::start(&listeners, build(&[one.clone(), two.clone()]), Some(2)).expect("starts");
    let at = |i: usize| balancer.stats().listeners[i].addresses[0];
    let (staying, going) = (at(0), at(1));
    let mut sessions = [connect_to(staying), connect_to(going)];
    assert_eq!(sessions.each_mut().map(name), ["one", "two"]);

    // A change that cannot be made changes nothing.
    let held = listen().local_addr().expect("an address");
    let holder = TcpListener::bind(held).expect("binds");
    let bind = Bind { address: Some(held.ip()), port: held.port() };
    let refused = balancer.reconfigure(&[Listener { bind, ..listener("new") }], build(&[]));
    assert!(matches!(refused, Err(Error::Bind { .. })), "{refused:?}");
    assert_eq!(name(&mut connect_to(going)), "two");
    drop(holder);

    // Pools change places, one listener goes, one comes.
    let next = [Listener { pool: 1, ..stays }, Listener { pool: 0, bind, ..listener("new") }];
    balancer.reconfigure(&next, build(&[two, one])).expect("binds");
    assert_eq!(at(0), staying);
    assert_eq!(name(&mut connect_to(staying)), "one");
    assert_eq!(name(&mut connect_to(held)), "two");
    until("nobody listens", || TcpStream::connect(going).is_err());
    let old = balancer.stats().listeners;
    assert_eq!(old.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["stays", "new", "goes"]);
    for mut session in sessions {
        session.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket");
        let quiet = session.read(&mut [0; 1]).map_err(|e| e.kind());
        assert_eq!(quiet, Err(ErrorKind::WouldBlock), "the session goes on");
    }
    until("all sessions ended", || balancer.sessions() == 0);
    assert_eq!(balancer.stats().listeners.len(), 2, "its last session has ended");
}

/// A reload that gives listeners other names touches no socket: who waits in
/// its queue waits on, and is served by the pool of that address.
#[test]
fn a_listener_of_another_name_has_the_sockets_at_its_address() {
    let pools = || build(&[pool("one", &[named(b"one")]), pool("two", &[named(b"two")])]);
    let places = [(); 2].map(|()| listen().local_addr().expect("an address"));
    let with = |names: [&str; 2]| -> Vec<Listener> {
        let at = |i: usize| Bind { address: Some(places[i].ip()), port: places[i].port() };
        let listener = |i: usize| Listener { bind: at(i), pool: i, max_connections: 1, ..listener(names[i]) };
        vec![listener(0), listener(1)]
    };
    // Of one worker, so that clients wait in one queue.
    let balancer = Balancer::start(&with(["a", "b"]), pools(), Some(1)).expect("starts");
    let mut served = places.map(connect_to);
    assert_eq!(served.each_mut().map(name), ["one", "two"]);
    // Both are full: these wait in the kernel's queues.
    let mut waiting: Vec<TcpStream> = (0..10).map(|i| connect_to(places[i % 2])).collect();
    for names in [["b", "a"], ["c", "d"], ["c", "a"]] {
        balancer.reconfigure(&with(names), pools()).expect("nothing to bind");
        let listeners = balancer.stats().listeners;
        let told: Vec<_> =
            listeners.iter().map(|l| (l.name.as_str(), l.addresses[0], l.sessions, l.total)).collect();
        assert_eq!(told, [(names[0], places[0], 1, 1), (names[1], places[1], 1, 1)]);
        assert_eq!(list(&balancer, Which::Named(names[0].into())).len(), 1);
    }
    waiting.iter_mut().for_each(assert_waits);
    drop(served);
    for (mut client, expected) in waiting.into_iter().zip(["one", "two"].into_iter().cycle()) {
        assert_eq!(name(&mut client), expected);
    }
}

/// One that goes lets those in who are in its queue.
#[test]
fn a_listener_that_goes_serves_those_that_wait_there() {
    let place = listen().local_addr().expect("an address");
    let bind = Bind { address: Some(place.ip()), port: place.port() };
    let pools = build(&[pool("pool", &[named(b"one")])]);
    let balancer = Balancer::start(&[Listener { bind, ..listener("goes") }], Arc::clone(&pools), Some(1))
        .expect("starts");
    for n in 0..20 {
        // Connected, if by the kernel alone, before it goes.
        let mut client = connect_to(place);
        balancer.reconfigure(&[], Arc::clone(&pools)).expect("nothing to bind");
        assert_eq!(name(&mut client), "one", "round {n}");
        drop(client);
        until("it is not there", || balancer.stats().listeners.is_empty());
        until("nobody listens", || TcpStream::connect(place).is_err());
        balancer.reconfigure(&[Listener { bind, ..listener("goes") }], Arc::clone(&pools)).expect("binds");
    }
}

/// `max-connections` is of the server that is there, and so is what is counted.
#[test]
fn a_server_of_another_name_has_the_sessions_at_its_place() {
    let (one, two) = (named(b"one"), named(b"two"));
    let with = |names: [&str; 2]| {
        let mut pool = pool("pool", &[one, two]);
        for (server, name) in pool.servers.iter_mut().zip(names) {
            (server.name, server.max_connections) = (name.into(), Some(2));
        }
        build(&[pool])
    };
    let balancer = Balancer::start(&[listener("main")], with(["db1", "db2"]), Some(2)).expect("starts");
    let mut sessions = vec![];
    for expected in ["one", "one", "two"] {
        let mut client = connect(&balancer);
        assert_eq!(name(&mut client), expected);
        sessions.push(client);
    }
    // They change places, and get names that were never there.
    for names in [["db2", "db1"], ["a", "b"]] {
        balancer.set_pools(with(names));
        let counted: Vec<_> =
            balancer.stats().servers.into_iter().map(|s| (s.server, s.sessions, s.total, s.former)).collect();
        let [first, second] = names.map(str::to_owned);
        assert_eq!(counted, [(first, 2, 2, 0), (second, 1, 1, 0)]);
    }
    let mut last = connect(&balancer);
    assert_eq!(name(&mut last), "two", "the first place is full");
    let mut waits = queued(&balancer, 1);
    drop(sessions.remove(0));
    assert_eq!(name(&mut waits), "one");
}

/// A server with a name is where that leads: what is there has a count of its
/// own, and so has each pool that has the name.
#[test]
fn a_name_that_leads_elsewhere_has_the_count_of_that_place() {
    let first = named(b"one");
    let there = TcpListener::bind((loopback(2), first.port())).expect("binds");
    serving_on(there, |mut stream| {
        let _ = stream.write_all(b"two");
        let _ = stream.read(&mut [0; 1]);
    });
    let by_name = |name: &str| {
        let mut pool = pool(name, &[first]);
        pool.servers[0].host = Host::Name("db1.internal".into());
        pool.servers[0].max_connections = Some(1);
        pool.queue_timeout = PATIENCE;
        pool
    };
    let mut state = PoolsState::new(vec![by_name("pool"), by_name("other")], Time::ZERO);
    let key = |pool| ServerKey { pool, server: 0 };
    (0..2).for_each(|pool| drop(state.set_addresses(key(pool), &[loopback(1)], None, Time::ZERO)));
    let listeners = [listener("main"), Listener { pool: 1, ..listener("aside") }];
    let balancer = Balancer::start(&listeners, state.build(), Some(2)).expect("starts");
    let counts = || {
        let servers = balancer.stats().servers;
        servers.iter().map(|s| (s.sessions, s.former)).collect::<Vec<_>>()
    };
    let mut stays = connect(&balancer);
    let mut aside = connect_to(balancer.stats().listeners[1].addresses[0]);
    assert_eq!((name(&mut stays), name(&mut aside)), ("one".into(), "one".into()));
    let mut waits = queued(&balancer, 1);
    state.set_addresses(key(0), &[loopback(2)], None, Time::ZERO);
    balancer.set_pools(state.build());
    assert_eq!(name(&mut waits), "two");
    assert_eq!(counts(), [(1, 1), (1, 0)]);
    // The other address comes along, and then stays alone: all the same place.
    let _full = queued(&balancer, 1);
    for addresses in [&[loopback(1), loopback(2)][..], &[loopback(2)]] {
        state.set_addresses(key(0), addresses, None, Time::ZERO);
        balancer.set_pools(state.build());
        assert_eq!(counts(), [(1, 1), (1, 0)], "{addresses:?}");
    }
    state.set_addresses(key(0), &[loopback(1)], None, Time::ZERO);
    balancer.set_pools(state.build());
    drop(waits);
    until("what is left elsewhere has ended", || counts() == [(1, 0), (1, 0)]);
    assert_eq!(pool_stats(&balancer, 0).queued, 1, "the place is full");
}
