//! At the limit of descriptors (a test binary of its own: the limit is the process's).

mod common;

use common::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::os::fd::AsRawFd;
use vipd_balancer::CloseCause;

#[test]
fn without_descriptors_listeners_pause_and_go_on() {
    let balancer = balancer(&[named(b"one")]);
    let address = address(&balancer);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let clients: Vec<_> = (0..4)
        .map(|_| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket"))
        .collect();
    // The next descriptor is one too many.
    let next = clients.iter().map(|c| c.as_raw_fd()).max().expect("clients") + 1;
    setrlimit(Resource::RLIMIT_NOFILE, next.unsigned_abs().into(), hard).expect("lower");
    for client in &clients {
        client.connect(&address.into()).expect("the kernel accepts");
    }
    until("accepts failed", || stats(&balancer).accept_errors > 0);
    assert_eq!(stats(&balancer).total, 0);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as before");
    for client in clients {
        let mut client = std::net::TcpStream::from(client);
        client.set_read_timeout(Some(PATIENCE)).expect("a socket");
        assert_eq!(name(&mut client), "one");
    }
    assert_closed(&balancer, CloseCause::ClientClosed, 4);
}
