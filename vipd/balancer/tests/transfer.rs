//! What goes in comes out: bytes, ends and resets, both ways.

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;
use vipd_balancer::CloseCause;

/// Bytes that differ at every place, from a seed.
struct Bytes(u64);

impl Bytes {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn chunk(&mut self, size: usize) -> Vec<u8> {
        (0..size).map(|_| self.next() as u8).collect()
    }
}

/// Says `total` bytes in pieces of any size, sometimes after a pause, and then that it is all.
fn say(mut to: &TcpStream, seed: u64, total: usize) {
    let (mut bytes, mut sizes) = (Bytes(seed), Bytes(!seed));
    let mut left = total;
    while left > 0 {
        let largest = if sizes.next().is_multiple_of(3) { 300_000 } else { 1500 };
        let size = (sizes.next() as usize % largest + 1).min(left);
        to.write_all(&bytes.chunk(size)).expect("is taken");
        left -= size;
        if sizes.next().is_multiple_of(64) {
            thread::sleep(Duration::from_micros(sizes.next() % 3000));
        }
    }
    to.shutdown(Shutdown::Write).expect("an open connection");
}

/// Hears the same until the end.
fn hear(mut from: &TcpStream, seed: u64, total: usize) {
    let (mut bytes, mut sizes) = (Bytes(seed), Bytes(seed ^ 0xffff));
    let mut heard = 0;
    let mut buffer = vec![0; 200_000];
    loop {
        let size = sizes.next() as usize % buffer.len() + 1;
        let n = from.read(&mut buffer[..size]).expect("more");
        if n == 0 {
            break;
        }
        assert_eq!(buffer[..n], bytes.chunk(n), "within {n} bytes from {heard} on");
        heard += n;
        if sizes.next().is_multiple_of(64) {
            thread::sleep(Duration::from_micros(sizes.next() % 3000));
        }
    }
    assert_eq!(heard, total);
}

fn both(stream: &TcpStream, mine: (u64, usize), theirs: (u64, usize)) {
    thread::scope(|s| {
        s.spawn(|| say(stream, mine.0, mine.1));
        hear(stream, theirs.0, theirs.1);
    });
}

#[test]
fn every_byte_arrives_once_and_in_order() {
    const UP: usize = 6_000_000;
    const DOWN: usize = 9_000_001;
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
