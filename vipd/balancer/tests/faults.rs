//! Servers and clients that fail in every way, and sessions that time ends.

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use vipd_balancer::{Balancer, CloseCause, ConnectFailure};
use vipd_core::health::PoolsState;
use vipd_core::pool::ServerKey;
use vipd_core::settings::{Host, Listener};
use vipd_core::time::Time;

fn with_idle(limit: Duration) -> Listener {
    Listener { idle_timeout: Some(limit), ..listener("main") }
}

#[test]
fn a_server_that_never_speaks_is_given_up_when_idle() {
    let silent = serving(|mut stream| {
        let _ = stream.read(&mut [0; 1]);
    });
    let balancer = start(&with_idle(Duration::from_millis(200)), &pool("pool", &[silent]));
    assert_end(&mut connect(&balancer));
    assert_closed(&balancer, CloseCause::IdleTimeout, 1);
}

#[test]
fn a_server_at_work_is_not_idle() {
    let limit = Duration::from_millis(100);
    let slow = serving(move |mut stream| {
        let _ = stream.read(&mut [0; 16]);
        std::thread::sleep(6 * limit);
        let _ = stream.write_all(b"one");
        let _ = stream.read(&mut [0; 16]);
    });
    let balancer = start(&with_idle(limit), &pool("pool", &[slow]));
    let mut client = connect(&balancer);
    client.write_all(b"a long query").expect("is taken");
    assert_eq!(name(&mut client), "one");
    assert_end(&mut client);
    assert_closed(&balancer, CloseCause::IdleTimeout, 1);
}

#[test]
fn an_old_session_ends_at_a_pause_and_not_before() {
    let age = Duration::from_secs(1);
    let (max_session_age, max_busy_session_age) = (Some(age), Some(2 * age));
    let aged = Listener { max_session_age, max_busy_session_age, ..listener("main") };
    let balancer = start(&aged, &pool("pool", &[echo()]));
    let began = Instant::now();
    let mut quiet = connect(&balancer);
    let mut busy = connect(&balancer);
    ask(&mut quiet);
    // Speaking all the time: that has an end of its own.
    let mut asked = 0;
    while busy.write_all(b"ping").is_ok() && busy.read(&mut [0; 4]).is_ok_and(|n| n > 0) {
        asked += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    let lived = began.elapsed();
    assert!(asked > 10 && lived >= 2 * age * 9 / 10 && lived < 5 * age, "{asked} in {lived:?}");
    assert_end(&mut quiet);
    until("both ended", || stats(&balancer).closed(CloseCause::SessionAge) == 2);
}

#[test]
fn a_reset_before_a_word_counts_as_a_failed_connection() {
    let resets = serving(reset);
    let balancer = balancer(&[resets]);
    let mut failures = balancer.connect_failures().expect("the first to ask");
    assert!(balancer.connect_failures().is_none());
    assert_reset(&mut connect(&balancer));
    let failure = failures.blocking_recv().expect("a failure");
    assert_eq!((&*failure.pool, &*failure.server), ("pool", "db1"));
    until("it is counted", || {
        stats(&balancer).closed(CloseCause::ServerError) + stats(&balancer).closed(CloseCause::ConnectFailed)
            > 0
    });
}

#[test]
fn failed_connections_are_told_and_do_not_pile_up() {
    let mut pool = pool("pool", &[nobody()]);
    pool.retries = 0;
    let began = Instant::now();
    let balancer = start(&listener("main"), &pool);
    for n in 1..=300 {
        assert_reset(&mut connect(&balancer));
        assert_closed(&balancer, CloseCause::ConnectFailed, n);
    }
    let mut failures = balancer.connect_failures().expect("the first to ask");
    let ConnectFailure { pool, server, reason } = failures.blocking_recv().expect("a failure");
    assert_eq!((&*pool, &*server), ("pool", "db1"));
    assert!(reason.contains("refused"), "{reason}");
    let more = std::iter::from_fn(|| failures.try_recv().ok()).count();
    let tenths = began.elapsed().as_millis() / 100;
    assert!(more as u128 <= tenths, "{more} in {tenths} tenths of a second");
}

/// A server that sends half of what it says it will.
fn halves(end: fn(TcpStream)) -> SocketAddr {
    serving(move |mut stream| {
        let _ = stream.read(&mut [0; 1]);
        let _ = stream.write_all(&[7; 100_000]);
        // The client has it all before the end comes.
        let _ = stream.read(&mut [0; 1]);
        end(stream);
    })
}

#[test]
fn a_server_that_closes_in_the_middle_is_passed_on_as_it_is() {
    for (end, cause, resets) in [
        (drop as fn(TcpStream), CloseCause::ServerClosed, 0),
        (reset as fn(TcpStream), CloseCause::ServerError, 1),
    ] {
        let balancer = balancer(&[halves(end)]);
        let mut client = connect(&balancer);
        client.write_all(b"x").expect("is taken");
        let mut half = vec![0; 100_000];
        client.read_exact(&mut half).expect("what was said");
        client.write_all(b"y").expect("is taken");
        match resets {
            0 => assert_end(&mut client),
            _ => assert_reset(&mut client),
        }
        drop(client);
        assert_closed(&balancer, cause, 1);
        assert_eq!(balancer.stats().servers[0].resets, resets);
        let mut failures = balancer.connect_failures().expect("the first to ask");
        assert!(failures.try_recv().is_err(), "it had spoken");
    }
}

#[test]
fn a_client_that_hangs_up_while_its_server_is_connected_is_let_go() {
    let (hung, held) = hung();
    let mut pool = pool("pool", &[hung]);
    pool.connect_timeout = PATIENCE;
    let balancer = start(&listener("main"), &pool);
    let clients = [connect(&balancer), connect(&balancer)];
    until("both are being connected", || balancer.stats().servers[0].sessions == 2);
    let [ends, resets] = clients;
    drop(ends);
    reset(resets);
    assert_closed(&balancer, CloseCause::Abandoned, 2);
    drop(held);
}

#[test]
fn an_address_that_is_silent_leaves_time_for_the_next() {
    let (hung, held) = hung();
    let other = SocketAddr::new(loopback(2), hung.port());
    let listening = std::net::TcpListener::bind(other).expect("binds");
    let mut pool = pool("pool", &[hung]);
    pool.servers[0].host = Host::Name("db1.internal".into());
    pool.connect_timeout = Duration::from_secs(2);
    pool.retries = 0;
    let mut state = PoolsState::new(vec![pool], Time::ZERO);
    let key = ServerKey { pool: 0, server: 0 };
    state.set_addresses(key, &[hung.ip(), other.ip()], None, Time::ZERO);
    let balancer = Balancer::start(&[listener("main")], state.build(), Some(1)).expect("starts");
    // Each picks an address by chance.
    let mut clients: Vec<_> = (0..20).map(|_| connect(&balancer)).collect();
    let serve = std::thread::spawn(move || {
        listening
            .incoming()
            .take(20)
            .map(|stream| {
                let mut stream = stream.expect("a session");
                stream.write_all(b"two").expect("is taken");
                stream
            })
            .collect::<Vec<_>>()
    });
    for client in &mut clients {
        assert_eq!(name(client), "two");
    }
    drop((serve.join().expect("has served"), held));
}

/// The seconds until the kernel asks a silent peer, of the connection that has
/// these ends on this host (proc_pid_net(5): timer 2, in hundredths of a second).
fn asked_in(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let hex = |a: SocketAddr| match a {
        SocketAddr::V4(a) => format!("{:08X}:{:04X}", a.ip().to_bits().swap_bytes(), a.port()),
        SocketAddr::V6(a) => panic!("{a}"),
    };
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let (local, remote) = (hex(local), hex(remote));
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let timer = fields.get(5).filter(|_| fields[1] == local && fields[2] == remote)?;
        u64::from_str_radix(timer.strip_prefix("02:")?, 16).ok().map(|t| t / 100)
    })
}

#[test]
fn both_connections_get_the_keepalive_of_the_settings() {
    let (told, heard) = std::sync::mpsc::channel();
    let server = serving(move |mut stream| {
        let _ = told.send(stream.peer_addr().expect("an address"));
        let _ = stream.read(&mut [0; 1]);
    });
    let pool = pool("pool", &[server]);
    let asking = |s| Listener { tcp_keepalive: Duration::from_secs(s), ..listener("main") };
    let balancer = start(&asking(1000), &pool);
    let listening = address(&balancer);
    for seconds in [1000, 5000] {
        let expected = seconds - 60..=seconds;
        let told = |s: Option<u64>| s.is_some_and(|s| expected.contains(&s));
        let mut ends = None;
        // A worker may not have heard of new settings when the first client comes.
        until("a client is asked", || {
            let client = connect(&balancer);
            let ours = heard.recv_timeout(PATIENCE).expect("a connection");
            let right = told(asked_in(listening, client.local_addr().expect("an address")));
            ends = Some((client, ours));
            right
        });
        let (_client, ours) = ends.expect("a client");
        until("its server is asked", || told(asked_in(ours, server)));
        // The next connection is made by new settings, on the old socket.
        balancer.reconfigure(&[asking(5000)], build(std::slice::from_ref(&pool))).expect("nothing to bind");
        assert_eq!(address(&balancer), listening);
    }
    until("all sessions ended", || balancer.sessions() == 0);
}

#[test]
fn a_balancer_that_ends_lets_go_of_those_that_wait() {
    let mut pool = pool("pool", &[named(b"one")]);
    pool.servers[0].max_connections = Some(1);
    let balancer = Balancer::start(&[listener("main")], build(&[pool]), Some(1)).expect("starts");
    let mut served = connect(&balancer);
    assert_eq!(name(&mut served), "one");
    let mut waits = queued(&balancer, 1);
    drop(balancer);
    assert_reset(&mut waits);
}
