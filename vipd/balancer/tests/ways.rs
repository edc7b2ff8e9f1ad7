//! What becomes of sessions when this host has no way to a server's address,
//! in a network namespace of its own (needs root).

mod common;

use common::*;
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use vipd_balancer::{Balancer, CloseCause};
use vipd_core::health::PoolsState;
use vipd_core::pool::ServerKey;
use vipd_core::settings::{Host, Listener, Pool};
use vipd_core::time::Time;

/// Runs a test on a thread with a network of its own, which goes with it and
/// with the threads that it has started.
fn alone(test: impl FnOnce() + Send) {
    let body = || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            assert!(std::env::var_os("LAB_NEEDS_ARE_MET").is_none(), "a network namespace: {error}");
            eprintln!("skipped: a network namespace needs root ({error})");
            return;
        }
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip of iproute2");
        assert!(up.success(), "{up}");
        test();
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(body).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn set(file: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{file}"), value).expect("a setting of this network");
}

/// Ports for all connections to one place whose own port nobody gave.
fn ports(range: &str) {
    set("ipv4/ip_local_port_range", range);
}
const FEW: &str = "40000 40001";
const MANY: &str = "32768 60999";

/// A client whose port is not one of those few.
fn client(balancer: &Balancer, port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).expect("binds");
    socket.connect(&address(balancer).into()).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket.into()
}

#[test]
fn when_no_port_to_a_server_is_left_the_others_serve() {
    alone(|| {
        let pool = pool("pool", &[named(b"one"), named(b"two")]);
        let balancer = start(&listener("main"), &Pool { retries: 0, ..pool });
        ports(FEW);
        let mut clients: Vec<_> = (0..4).map(|n| client(&balancer, 50_000 + n)).collect();
        let mut names: Vec<_> = clients.iter_mut().map(name).collect();
        // Two workers accept them, in no order between them.
        names.sort_unstable();
        assert_eq!(names, ["one", "one", "two", "two"]);
        // Nobody has a port to either.
        assert_reset(&mut client(&balancer, 50_004));
        until("it is counted", || stats(&balancer).closed(CloseCause::NoResources) == 1);
        let errors: u64 = balancer.stats().servers.iter().map(|s| s.connect_errors).sum();
        assert_eq!(errors, 0, "no server did anything wrong");
        // A server that is full and one without a port: it waits for the one that may change.
        drop(clients);
        drop(balancer);
        ports(MANY);
        let mut pool = common::pool("pool", &[named(b"one"), named(b"two")]);
        pool.servers[1].max_connections = Some(1);
        let balancer = start(&listener("main"), &pool);
        ports(FEW);
        let mut clients: Vec<_> = (0..3).map(|n| client(&balancer, 50_010 + n)).collect();
        let mut names: Vec<_> = clients.iter_mut().map(name).collect();
        let two = names.iter().position(|n| n == "two").expect("one goes there");
        names.sort_unstable();
        assert_eq!(names, ["one", "one", "two"]);
        let mut waits = client(&balancer, 50_013);
        until("it waits", || pool_stats(&balancer, 0).queued == 1);
        assert_eq!(pool_stats(&balancer, 0).queued_total, 1, "once, and not again and again");
        drop(clients.remove(two));
        assert_eq!(name(&mut waits), "two");
    });
}

#[test]
fn an_address_of_a_family_that_this_host_has_not_costs_no_session() {
    alone(|| {
        set("ipv6/conf/all/disable_ipv6", "1");
        let place = named(b"one");
        let mut pool = pool("pool", &[place]);
        pool.servers[0].host = Host::Name("db1.internal".into());
        let mut state = PoolsState::new(vec![pool], Time::ZERO);
        let addresses = [place.ip(), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        state.set_addresses(ServerKey { pool: 0, server: 0 }, &addresses, None, Time::ZERO);
        let listener = Listener { max_connections: 100, ..listener("main") };
        let balancer = Balancer::start(&[listener], state.build(), Some(1)).expect("starts");
        for _ in 0..16 {
            assert_eq!(name(&mut connect(&balancer)), "one");
        }
        assert_closed(&balancer, CloseCause::ClientClosed, 16);
        assert_eq!(balancer.stats().servers[0].connect_errors, 0);
    });
}
