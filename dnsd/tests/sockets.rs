//! Several addresses, both families, and connections that end before they begin.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Dnsd, PATIENCE};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

const ZONE: &str = "$TTL 60\n@ NS ns1\nns1 A 10.77.0.11\n";
const QUERY: &[u8] = b"\0\x07\0\0\0\x01\0\0\0\0\0\0\x04corp\x07example\0\0\x06\0\x01";

fn listen(dnsd: &Dnsd, addresses: &[SocketAddr]) {
    let path = dnsd.path("dnsd.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let rest = text.split_once('\n').unwrap().1;
    let list: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    std::fs::write(path, format!("listen = [{}]\n{rest}", list.join(", "))).unwrap();
}

fn asked_over_udp(address: SocketAddr) {
    // Not connected: it would take an answer from anywhere.
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(QUERY, address).unwrap();
    let mut answer = [0; 512];
    let (_, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!((from, answer[7]), (address, 1), "an answer comes from the address that was asked");
}

fn asked_over_tcp(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = u16::try_from(QUERY.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, QUERY].concat()).unwrap();
    let mut answer = [0; 14];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[9], 1, "{address}");
}

#[test]
fn each_address_answers_for_itself_also_after_a_reload() {
    let mut dnsd = Dnsd::new(ZONE, "", "");
    let port = dnsd.port;
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
    let mut addresses = vec![at("127.0.0.1"), at("127.0.0.2"), at("::1")];
    listen(&dnsd, &addresses);
    dnsd.start();
    let all = |addresses: &[SocketAddr]| {
        for address in addresses {
            asked_over_udp(*address);
            asked_over_tcp(*address);
        }
    };
    all(&addresses);
    // One comes, one goes.
    addresses.remove(1);
    addresses.push(at("127.0.0.3"));
    listen(&dnsd, &addresses);
    dnsd.log().signal("-HUP");
    dnsd.log().wait_for(&["reloaded"]);
    all(&addresses);
    assert!(TcpStream::connect(at("127.0.0.2")).is_err(), "not served any more");
    // An address that this host has not: all of the old ones go on.
    listen(&dnsd, &[at("127.0.0.1"), at("192.0.2.1")]);
    dnsd.log().signal("-HUP");
    dnsd.log().wait_for(&["not reloaded", "192.0.2.1", "does this host have the address"]);
    all(&addresses);
}

/// Clients that go away while they wait to be accepted.
#[test]
fn connections_that_are_reset_before_they_are_accepted_do_no_harm() {
    let dnsd = Dnsd::running(ZONE);
    for _ in 0..20 {
        // Fewer than one client may have at a time.
        for _ in 0..20 {
            let stream = TcpStream::connect(dnsd.address()).unwrap();
            // With no time to linger, closing resets.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        asked_over_tcp(dnsd.address());
    }
}
