//! What one client address may have.

mod common;

use common::*;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;
use vipd_balancer::{Balancer, CloseCause};
use vipd_core::settings::Listener;

/// A client of this loopback address.
fn from(balancer: &Balancer, last: u8) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into()).expect("binds");
    socket.connect(&address(balancer).into()).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket.into()
}

#[test]
fn a_source_has_so_many_sessions_and_no_more() {
    let limited = Listener { max_per_source: Some(2), ..listener("main") };
    let pool = pool("pool", &[named(b"one")]);
    let balancer = start(&limited, &pool);
    let mut clients = vec![from(&balancer, 2), from(&balancer, 2), from(&balancer, 3)];
    assert!(clients.iter_mut().all(|c| name(c) == "one"));
    for n in 1..=3 {
        assert_reset(&mut from(&balancer, 2));
        assert_eq!(stats(&balancer).closed(CloseCause::SourceLimit), n);
    }
    assert_eq!(stats(&balancer).sources, 2);
    clients.remove(0);
    until("it is gone", || balancer.sessions() == 2);
    let mut again = from(&balancer, 2);
    assert_eq!(name(&mut again), "one");
    // Without a limit nothing is counted.
    let listeners = [Listener { max_per_source: None, ..limited }];
    balancer.reconfigure(&listeners, build(&[pool])).expect("nothing to bind");
    let mut more: Vec<_> = (0..4).map(|_| from(&balancer, 2)).collect();
    assert!(more.iter_mut().all(|c| name(c) == "one"));
    drop((clients, more, again));
    until("all sessions ended", || balancer.sessions() == 0);
}

#[test]
fn a_source_has_so_many_new_sessions_in_a_second() {
    const RATE: usize = 20;
    let limited = Listener { max_rate_per_source: Some(RATE as u32), ..listener("main") };
    let balancer = start(&limited, &pool("pool", &[named(b"one")]));
    let served = || from(&balancer, 2).read(&mut [0; 3]).is_ok();
    let began = Instant::now();
    let let_in = (0..).take_while(|_| served()).count();
    // Each further second brings new ones.
    let seconds = began.elapsed().as_secs() as usize + 1;
    assert!((RATE..=RATE * seconds).contains(&let_in), "{let_in} in {seconds} s");
    assert_eq!(stats(&balancer).closed(CloseCause::SourceRate), 1);
    assert_eq!(name(&mut from(&balancer, 3)), "one", "another source");
    // After a while it may again.
    until("a second has passed", served);
}
