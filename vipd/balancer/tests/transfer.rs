//! What goes in comes out: bytes, ends and resets, both ways.

mod common;

use common::bytes::both;
use common::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use vipd_balancer::CloseCause;

#[test]
fn every_byte_arrives_once_and_in_order() {
    // Both paths of the relay: pieces are small and large.
    const UP: usize = 12_000_000;
    const DOWN: usize = 19_000_001;
    let server = serving(|stream| both(&stream, (77, DOWN), (33, UP)));
    let balancer = balancer(&[server]);
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| both(&connect(&balancer), (33, UP), (77, DOWN)));
        }
    });
    until("all sessions ended", || balancer.sessions() == 0);
    let stats = stats(&balancer);
    assert_eq!((stats.bytes_in, stats.bytes_out), (3 * UP as u64, 3 * DOWN as u64));
    assert_eq!(stats.closed(CloseCause::ClientClosed) + stats.closed(CloseCause::ServerClosed), 3);
}

#[test]
fn a_side_that_has_ended_still_hears() {
    // The server answers only when it knows that the question is complete.
    let server = serving(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).expect("a question");
        stream.write_all(&question).expect("is taken");
    });
    let balancer = balancer(&[server]);
    let mut client = connect(&balancer);
    client.write_all(b"how much").expect("is taken");
    client.shutdown(Shutdown::Write).expect("an open connection");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("an answer");
    assert_eq!(answer, b"how much");
    assert_closed(&balancer, CloseCause::ClientClosed, 1);
}

#[test]
fn a_server_that_has_ended_still_hears() {
    let (told, heard) = std::sync::mpsc::channel();
    let server = serving(move |mut stream| {
        stream.shutdown(Shutdown::Write).expect("an open connection");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("more");
        let _ = told.send(all);
    });
    let balancer = balancer(&[server]);
    let mut client = connect(&balancer);
    assert_end(&mut client);
    client.write_all(b"still here").expect("is taken");
    client.shutdown(Shutdown::Write).expect("an open connection");
    assert_eq!(heard.recv_timeout(PATIENCE).expect("the bytes"), b"still here");
    assert_closed(&balancer, CloseCause::ServerClosed, 1);
}

#[test]
fn a_reset_of_the_server_resets_the_client() {
    let server = serving(|mut stream| {
        let _ = stream.read(&mut [0; 1]);
        reset(stream);
    });
    let balancer = balancer(&[server]);
    let mut client = connect(&balancer);
    client.write_all(b"x").expect("is taken");
    assert_reset(&mut client);
    assert_closed(&balancer, CloseCause::ServerError, 1);
}

#[test]
fn a_reset_of_the_client_resets_the_server() {
    let (told, heard) = std::sync::mpsc::channel();
    let server = serving(move |mut stream| {
        let _ = stream.read_exact(&mut [0; 1]);
        let _ = stream.write_all(b"y");
        let _ = told.send(stream.read(&mut [0; 1]).map_err(|e| e.kind()));
    });
    let balancer = balancer(&[server]);
    let mut client = connect(&balancer);
    client.write_all(b"x").expect("is taken");
    client.read_exact(&mut [0; 1]).expect("an answer");
    reset(client);
    let end = heard.recv_timeout(PATIENCE).expect("an end");
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
    assert_closed(&balancer, CloseCause::ClientError, 1);
}

/// A server that sends bulk until it may not any more, `then` on its connection
/// once `after` bytes are sent.
fn pouring(after: usize, then: impl Fn(TcpStream) + Clone + Send + 'static) -> std::net::SocketAddr {
    serving(move |mut stream| {
        let block = vec![7; 1 << 20];
        let mut sent = 0;
        while sent < after && stream.write_all(&block).is_ok() {
            sent += block.len();
        }
        then(stream);
    })
}

/// Reads until the connection ends: how much it was, and how it ended.
fn read_out(mut stream: &TcpStream) -> (usize, std::io::Result<()>) {
    let (mut heard, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (heard, Ok(())),
            Ok(n) => heard += n,
            Err(e) => return (heard, Err(e)),
        }
    }
}

#[test]
fn a_server_that_closes_in_full_flow_is_heard_to_its_end() {
    const SENT: usize = 64 << 20;
    let balancer = balancer(&[pouring(SENT, drop)]);
    let client = connect(&balancer);
    let (heard, end) = read_out(&client);
    end.expect("an end, and no reset");
    assert_eq!(heard, SENT);
    drop(client);
    assert_closed(&balancer, CloseCause::ServerClosed, 1);
    assert_eq!(stats(&balancer).bytes_out, SENT as u64);
}

#[test]
fn a_server_that_resets_in_full_flow_resets_the_client() {
    let balancer = balancer(&[pouring(64 << 20, reset)]);
    let (_, end) = read_out(&connect(&balancer));
    assert_eq!(end.expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
    assert_closed(&balancer, CloseCause::ServerError, 1);
}

#[test]
fn a_client_that_resets_in_full_flow_ends_its_session_alone() {
    let balancer = balancer(&[pouring(usize::MAX, drop)]);
    let (mut stays, mut goes) = (connect(&balancer), connect(&balancer));
    let mut block = vec![0; 4 << 20];
    for client in [&mut stays, &mut goes] {
        client.read_exact(&mut block).expect("bulk");
    }
    reset(goes);
    until("it ended", || stats(&balancer).closed(CloseCause::ClientError) == 1);
    for _ in 0..8 {
        stays.read_exact(&mut block).expect("more bulk");
        assert!(block.iter().all(|b| *b == 7));
    }
    drop(stays);
    until("all sessions ended", || balancer.sessions() == 0);
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let flood = serving(|mut stream| {
        let block = [0; 65536];
        while stream.write_all(&block).is_ok() {}
    });
    let listeners = [listener("main"), vipd_core::settings::Listener { pool: 1, ..listener("other") }];
    let pools = build(&[pool("flood", &[flood]), pool("echo", &[echo()])]);
    let balancer = vipd_balancer::Balancer::start(&listeners, pools, Some(1)).expect("starts");
    let deaf = connect(&balancer);
    let (mut before, mut quiet) = (0, 0);
    until("the sockets' buffers are full", || {
        let now = stats(&balancer).bytes_out;
        quiet = if now > 0 && now == before { quiet + 1 } else { 0 };
        before = now;
        quiet > 50
    });
    let mut other = connect_to(balancer.stats().listeners[1].addresses[0]);
    ask(&mut other);
    drop((deaf, other));
    until("all sessions ended", || balancer.sessions() == 0);
}

#[test]
fn a_thousand_short_connections_leave_nothing_behind() {
    let balancer = balancer(&[echo()]);
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| (0..250).for_each(|_| ask(&mut connect(&balancer))));
        }
    });
    assert_closed(&balancer, CloseCause::ClientClosed, 1000);
    let stats = stats(&balancer);
    assert_eq!((stats.total, stats.bytes_in, stats.bytes_out), (1000, 4000, 4000));
    let servers = balancer.stats().servers;
    assert_eq!((servers[0].total, servers[0].connect_errors), (1000, 0));
}
