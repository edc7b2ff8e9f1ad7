//! Servers and clients that fail in every way, and sessions that time ends.

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vipd_balancer::{Balancer, CloseCause, Met, Outcome};
use vipd_core::health::{Admin, PoolsState};
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
    let mut failures = balancer.met().expect("the first to ask");
    assert!(balancer.met().is_none());
    assert_reset(&mut connect(&balancer));
    let failure = failures.blocking_recv().expect("a failure");
    assert_eq!((&*failure.pool, &*failure.server), ("pool", "db1"));
    until("it is counted", || {
        stats(&balancer).closed(CloseCause::ServerError) + stats(&balancer).closed(CloseCause::ConnectFailed)
            > 0
    });
}

/// A client that pauses within a large result is at work; and one that is cut off
/// in it must not take what it has for the whole.
#[test]
fn what_a_client_has_yet_to_take_keeps_its_session_and_is_never_cut_off_unnoticed() {
    let age = Duration::from_secs(1);
    let (max_session_age, max_busy_session_age) = (Some(age), Some(4 * age));
    let idle_timeout = Some(age);
    let aged = Listener { max_session_age, max_busy_session_age, idle_timeout, ..listener("main") };
    let large = serving(|mut stream| {
        let _ = stream.read(&mut [0; 16]);
        // More than the kernel's buffers take, and an end that never comes.
        let _ = stream.write_all(&vec![7; 64 << 20]);
        let _ = stream.read(&mut [0; 1]);
    });
    let balancer = start(&aged, &pool("pool", &[large]));
    let began = Instant::now();
    let mut client = connect(&balancer);
    client.write_all(b"a large one").expect("is taken");
    assert_closed(&balancer, CloseCause::SessionAge, 1);
    let lived = began.elapsed();
    assert!(lived >= age * 36 / 10, "it ended after {lived:?}: neither idle nor at a pause");
    let ended = std::io::copy(&mut client, &mut std::io::sink()).map_err(|e| e.kind());
    assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn failed_connections_are_told_and_do_not_pile_up() {
    let at = nobody();
    let mut pool = pool("pool", &[at]);
    pool.retries = 0;
    let began = Instant::now();
    let balancer = start(&listener("main"), &pool);
    for n in 1..=300 {
        assert_reset(&mut connect(&balancer));
        assert_closed(&balancer, CloseCause::ConnectFailed, n);
    }
    let mut failures = balancer.met().expect("the first to ask");
    let Met { pool, server, place, outcome } = failures.blocking_recv().expect("a failure");
    assert_eq!((&*pool, &*server, place), ("pool", "db1", at));
    let Outcome::Failed { reason, in_a_row: 1 } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("refused"), "{reason}");
    let more = std::iter::from_fn(|| failures.try_recv().ok()).count();
    let tenths = began.elapsed().as_millis() / 100;
    assert!(more as u128 <= tenths, "{more} in {tenths} tenths of a second");
}

/// So that whoever listens knows whether good ones were between two failures.
#[test]
fn failures_in_a_row_are_counted_until_somebody_says_something() {
    let speaks = Arc::new(AtomicBool::new(false));
    let does = Arc::clone(&speaks);
    let mut one = pool(
        "pool",
        &[serving(move |mut stream| {
            if does.load(Ordering::SeqCst) {
                let _ = stream.write_all(b"one");
                let _ = stream.read(&mut [0; 1]);
            } else {
                reset(stream);
            }
        })],
    );
    // Some of these connections end before they are made, and would be tried again.
    one.retries = 0;
    let balancer = start(&listener("main"), &one);
    let mut failures = balancer.met().expect("the first to ask");
    let told_good = std::cell::Cell::new(0);
    // The next that is told, and how many failed since the last good one by then.
    let mut next = |failed: &mut u32| loop {
        assert_reset(&mut connect(&balancer));
        *failed += 1;
        match failures.try_recv().map(|met| met.outcome) {
            Ok(Outcome::Failed { in_a_row, .. }) => break in_a_row,
            Ok(Outcome::Good) => told_good.set(told_good.get() + 1),
            Err(_) => {}
        }
    };
    let mut failed = 0;
    assert_eq!(next(&mut failed), 1);
    for _ in 0..3 {
        assert_eq!(next(&mut failed), failed);
    }
    assert_eq!(told_good.get(), 0);
    speaks.store(true, Ordering::SeqCst);
    for n in 1..=2 {
        let mut good = connect(&balancer);
        assert_eq!(name(&mut good), "one");
        drop(good);
        assert_closed(&balancer, CloseCause::ClientClosed, n);
    }
    speaks.store(false, Ordering::SeqCst);
    let mut failed = 0;
    assert_eq!(next(&mut failed), failed);
    assert_eq!(told_good.get(), 1, "the first good one is told, and no other");
}

/// What clients met before a server was down says nothing of it when it is back.
#[test]
fn failures_in_a_row_begin_anew_when_a_server_becomes_usable() {
    let mut one = pool("pool", &[nobody()]);
    one.retries = 0;
    let mut state = PoolsState::new(vec![one], Time::ZERO);
    let balancer = Balancer::start(&[listener("main")], state.build(), Some(1)).expect("starts");
    let mut failures = balancer.met().expect("the first to ask");
    let mut n = 0;
    let mut next = || loop {
        n += 1;
        assert_reset(&mut connect(&balancer));
        assert_closed(&balancer, CloseCause::ConnectFailed, n);
        if let Ok(Outcome::Failed { in_a_row, .. }) = failures.try_recv().map(|met| met.outcome) {
            break (n, in_a_row);
        }
    };
    let mut before = next();
    while before.1 < 2 {
        before = next();
    }
    let db1 = ServerKey { pool: 0, server: 0 };
    for admin in [Admin::Maint, Admin::Ready] {
        state.set_admin(db1, admin, Time::ZERO);
        balancer.set_pools(state.build());
    }
    let (n, in_a_row) = next();
    assert_eq!(u64::from(in_a_row), n - before.0);
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
        let mut failures = balancer.met().expect("the first to ask");
        assert!(failures.try_recv().is_err(), "it had spoken");
    }
}

/// MySQL's "Host is blocked", say: the client hears it to its end, and a server
/// that speaks is no failed connection.
#[test]
fn an_error_packet_reaches_the_client_whole() {
    const ERROR: &[u8] = b"\x1e\0\0\0\xff\x69\x04Host '127.0.0.1' is blocked";
    let balancer = balancer(&[serving(|mut stream| {
        let _ = stream.write_all(ERROR);
    })]);
    let mut failures = balancer.met().expect("the first to ask");
    let mut heard = Vec::new();
    connect(&balancer).read_to_end(&mut heard).expect("an end");
    assert_eq!(heard, ERROR);
    assert_closed(&balancer, CloseCause::ServerClosed, 1);
    let server = &balancer.stats().servers[0];
    assert_eq!((server.connect_errors, server.resets, failures.try_recv().ok()), (0, 0, None));
    // What the listener counts is counted of the server, too.
    let bytes = (0, ERROR.len() as u64);
    assert_eq!((server.bytes_in, server.bytes_out), bytes);
    assert_eq!((server.closed(CloseCause::ServerClosed), server.closed.iter().sum()), (1, 1_u64));
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
