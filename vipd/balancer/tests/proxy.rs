//! The PROXY protocol, from clients and to servers, and the source of
//! connections to servers.

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use vipd_balancer::{Balancer, CloseCause, Which};
use vipd_core::settings::{Balance, Bind, Cidr, Listener, Pool, ProxyProtocol, Source};

/// A listener that takes headers from 127.0.0.8 to 127.0.0.15.
fn behind_proxies() -> Listener {
    let proxies = Cidr::new(loopback(8), 29).expect("a network");
    Listener { accept_proxy: vec![proxies], ..listener("main") }
}

fn header(client: &str) -> String {
    format!("PROXY TCP4 {client} 192.0.2.100 4711 3306\r\n")
}

/// A version 2 header of the client 198.51.100.`last`, port 4711, to 192.0.2.100, port 3306.
fn binary(last: u8) -> Vec<u8> {
    let ends = [198, 51, 100, last, 192, 0, 2, 100, 0x12, 0x67, 0x0c, 0xea];
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(), &ends].concat()
}

fn send(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).expect("is taken");
}

/// A server that tells all it hears of each connection, at its end, and from where it came.
fn hearing() -> (SocketAddr, mpsc::Receiver<(SocketAddr, Vec<u8>)>) {
    let (told, heard) = mpsc::channel();
    let address = serving(move |mut stream| {
        let (from, mut all) = (stream.peer_addr().expect("an address"), vec![]);
        let _ = stream.read_to_end(&mut all);
        let _ = told.send((from, all));
    });
    (address, heard)
}

#[test]
fn the_client_is_who_the_header_says() {
    let balancer = start(&behind_proxies(), &pool("pool", &[echo()]));
    let mut text = connect_from(&balancer, 8);
    send(&mut text, header("198.51.100.7"));
    ask(&mut text);
    // In one packet with the first words, and in pieces.
    let mut both = connect_from(&balancer, 15);
    send(&mut both, [binary(8), b"ping".to_vec()].concat());
    let mut answer = [0; 4];
    both.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"ping");
    let mut pieces = connect_from(&balancer, 9);
    for byte in binary(9) {
        send(&mut pieces, [byte]);
    }
    ask(&mut pieces);
    let clients: Vec<_> = list(&balancer, Which::All).iter().map(|s| s.client.to_string()).collect();
    let mut sorted = clients.clone();
    sorted.sort();
    assert_eq!(sorted, ["198.51.100.7:4711", "198.51.100.8:4711", "198.51.100.9:4711"]);
    assert_eq!(list(&balancer, Which::Client("198.51.100.8".parse().expect("an address"))).len(), 1);
}

#[test]
fn a_proxys_own_connection_keeps_its_address() {
    let balancer = start(&behind_proxies(), &pool("pool", &[echo()]));
    for own in [b"PROXY UNKNOWN\r\n".as_slice(), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let mut check = connect_from(&balancer, 8);
        send(&mut check, own);
        ask(&mut check);
        let clients: Vec<_> = list(&balancer, Which::All).iter().map(|s| s.client).collect();
        assert_eq!(clients, [check.local_addr().expect("an address")]);
        drop(check);
        until("it is gone", || balancer.sessions() == 0);
    }
}

#[test]
fn from_other_networks_no_header_is_read() {
    let (server, heard) = hearing();
    let balancer = start(&behind_proxies(), &pool("pool", &[server]));
    let mut liar = connect_from(&balancer, 16);
    send(&mut liar, header("198.51.100.7"));
    until("it has a server", || list(&balancer, Which::Client(loopback(16))).len() == 1);
    liar.shutdown(Shutdown::Both).expect("a socket");
    let (_, all) = heard.recv_timeout(PATIENCE).expect("a connection");
    assert_eq!(all, header("198.51.100.7").as_bytes(), "bytes like any others");
    // A reload may change who is a proxy.
    let none = [Listener { accept_proxy: vec![], ..behind_proxies() }];
    balancer.reconfigure(&none, build(&[pool("pool", &[server])])).expect("nothing to bind");
    let mut former = connect_from(&balancer, 8);
    send(&mut former, b"words");
    former.shutdown(Shutdown::Write).expect("a socket");
    assert_eq!(heard.recv_timeout(PATIENCE).expect("a connection").1, b"words");
}

#[test]
fn without_a_whole_header_there_is_no_session() {
    let (server, heard) = hearing();
    let balancer = start(&behind_proxies(), &pool("pool", &[server]));
    let refused = |n| until("it is counted", || stats(&balancer).closed(CloseCause::ProxyHeader) == n);
    let mut garbage = connect_from(&balancer, 8);
    send(&mut garbage, b"SELECT 1");
    assert_reset(&mut garbage);
    refused(1);
    let mut half = connect_from(&balancer, 8);
    send(&mut half, b"PROXY TCP4 198.51.100.7 19");
    half.shutdown(Shutdown::Write).expect("a socket");
    assert_reset(&mut half);
    refused(2);
    let mut silent = connect_from(&balancer, 8);
    let began = Instant::now();
    assert_reset(&mut silent);
    assert!(began.elapsed() > Duration::from_secs(4), "{:?}", began.elapsed());
    assert_closed(&balancer, CloseCause::ProxyHeader, 3);
    assert_eq!(balancer.stats().servers[0].total, 0);
    assert!(heard.try_recv().is_err(), "a server heard of it");
}

#[test]
fn limits_and_balance_go_by_the_client_of_the_header() {
    let limited = Listener { max_per_source: Some(1), ..behind_proxies() };
    let hashed = Pool { balance: Balance::SourceHash, ..pool("pool", &[named(b"one"), named(b"two")]) };
    let balancer = start(&limited, &hashed);
    let mut clients = vec![];
    let mut servers = std::collections::BTreeSet::new();
    for n in 1..=32 {
        let mut client = connect_from(&balancer, 8);
        send(&mut client, header(&format!("198.51.100.{n}")));
        servers.insert(name(&mut client));
        clients.push(client);
    }
    assert_eq!(servers.len(), 2, "all on one server: by the proxy's address");
    let mut second = connect_from(&balancer, 9);
    send(&mut second, header("198.51.100.3"));
    assert_reset(&mut second);
    assert_eq!(stats(&balancer).closed(CloseCause::SourceLimit), 1);
    assert_eq!(stats(&balancer).sources, 32);
}

#[test]
fn servers_are_told_the_ends_of_the_clients_connection() {
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let (server, heard) = hearing();
        let telling = Pool { proxy_protocol: Some(version), ..pool("pool", &[server]) };
        let balancer = start(&behind_proxies(), &telling);
        let hear = || heard.recv_timeout(PATIENCE).expect("a connection").1;

        let mut plain = connect(&balancer);
        let (source, to) = (plain.local_addr().expect("an address"), address(&balancer));
        send(&mut plain, b"words");
        drop(plain);
        let (ports, text) = (
            [source.port().to_be_bytes(), to.port().to_be_bytes()].concat(),
            format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nwords", source.port(), to.port()),
        );
        let bytes = [
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(),
            &[127, 0, 0, 1, 127, 0, 0, 1],
            &ports,
            b"words",
        ];
        match version {
            ProxyProtocol::V1 => assert_eq!(hear(), text.as_bytes()),
            ProxyProtocol::V2 => assert_eq!(hear(), bytes.concat()),
        }

        // What a proxy before this one has said is passed on, in the other form too.
        let mut proxied = connect_from(&balancer, 8);
        send(&mut proxied, binary(7));
        send(&mut proxied, b"words");
        drop(proxied);
        match version {
            ProxyProtocol::V1 => assert_eq!(hear(), (header("198.51.100.7") + "words").as_bytes()),
            ProxyProtocol::V2 => assert_eq!(hear(), [binary(7), b"words".to_vec()].concat()),
        }
    }
}

/// A server that speaks first is told first: the header does not wait for the client's words.
#[test]
fn a_header_does_not_wait_for_the_client() {
    let polite = serving(|mut stream| {
        let mut header = [0; 28];
        if stream.read_exact(&mut header).is_ok() {
            let _ = stream.write_all(b"one");
            let _ = stream.read(&mut [0; 1]);
        }
    });
    let telling = Pool { proxy_protocol: Some(ProxyProtocol::V2), ..pool("pool", &[polite]) };
    let balancer = start(&listener("main"), &telling);
    assert_eq!(name(&mut connect(&balancer)), "one");
}

/// The header is of the pool whose server it is.
#[test]
fn a_fallbacks_servers_get_what_their_own_pool_says() {
    let (server, heard) = hearing();
    let first = Pool {
        fallback: Some(1),
        retries: 0,
        proxy_protocol: Some(ProxyProtocol::V1),
        ..pool("first", &[nobody()])
    };
    let mut unusable = first;
    unusable.servers[0].weight = 0;
    let pools = build(&[unusable, pool("second", &[server])]);
    let balancer = Balancer::start(&[listener("main")], pools, Some(1)).expect("starts");
    let mut client = connect(&balancer);
    send(&mut client, b"words");
    drop(client);
    assert_eq!(heard.recv_timeout(PATIENCE).expect("a connection").1, b"words");
}

fn from(source: Source, servers: &[SocketAddr]) -> Balancer {
    let everywhere = Bind { address: Some(Ipv4Addr::UNSPECIFIED.into()), port: 0 };
    start(&Listener { bind: everywhere, ..listener("main") }, &Pool { source, ..pool("pool", servers) })
}

#[test]
fn servers_are_connected_from_the_source() {
    let (server, heard) = hearing();
    for (source, seen) in [(Source::Auto, 1), (Source::Vip, 5), (Source::Address(loopback(9)), 9)] {
        let balancer = from(source, &[server]);
        drop(connect_to(SocketAddr::new(loopback(5), address(&balancer).port())));
        let (from, _) = heard.recv_timeout(PATIENCE).expect("a connection");
        assert_eq!(from.ip(), loopback(seen), "{source:?}");
    }
}

/// A client of IPv4 on a server of IPv6: the floating address is of no use as source.
#[test]
fn a_source_of_the_other_family_is_the_kernels_choice() {
    let listener = std::net::TcpListener::bind("[::1]:0").expect("binds");
    let server = listener.local_addr().expect("an address");
    let balancer = from(Source::Vip, &[server]);
    let mut client = connect_to(SocketAddr::new(loopback(5), address(&balancer).port()));
    let (mut accepted, _) = listener.accept().expect("a connection");
    send(&mut accepted, b"one");
    assert_eq!(name(&mut client), "one");
}

#[test]
fn a_source_that_is_not_here_fails_once_and_says_so() {
    let servers = [named(b"one"), named(b"two")];
    // A documentation address: on no host (RFC 5737).
    let balancer = from(Source::Address(Ipv4Addr::new(192, 0, 2, 1).into()), &servers);
    let mut failures = balancer.met().expect("the first to ask");
    assert_reset(&mut connect(&balancer));
    assert_closed(&balancer, CloseCause::NoSourceAddress, 1);
    let servers = balancer.stats().servers;
    assert!(servers.iter().all(|s| s.connect_errors == 0 && s.total == 0), "{servers:?}");
    assert!(failures.try_recv().is_err(), "no server is to blame");
}

/// Sessions from one source to several servers may share its ports.
#[test]
fn a_source_serves_many_sessions() {
    let (one, two) = (named(b"one"), named(b"two"));
    let balanced = Pool { balance: Balance::RoundRobin, ..pool("pool", &[one, two]) };
    let balancer = start(&listener("main"), &Pool { source: Source::Address(loopback(9)), ..balanced });
    let mut clients: Vec<_> = (0..200).map(|_| connect(&balancer)).collect();
    assert!(clients.iter_mut().all(|c| ["one", "two"].contains(&&*name(c))));
    assert_eq!(list(&balancer, Which::All).len(), 200);
}
