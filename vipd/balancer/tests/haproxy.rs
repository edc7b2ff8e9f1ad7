//! The PROXY protocol with a real HAProxy before and behind the balancer.
//!
//! Needs Debian's `haproxy`; its processes run on loopback and are killed at the end.

mod common;

use common::*;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use vipd_balancer::{Balancer, CloseCause, Which};
use vipd_core::settings::{Bind, Cidr, Listener, Pool, ProxyProtocol};

/// Why there is nothing to test with; a failure where all is said to be installed.
fn missing() -> bool {
    let found = Command::new("haproxy").arg("-v").output().is_ok_and(|o| o.status.success());
    assert!(found || std::env::var_os("LAB_NEEDS_ARE_MET").is_none(), "haproxy is not installed");
    if !found {
        eprintln!("skipped: haproxy is not installed");
    }
    !found
}

/// A running HAProxy with one place where it listens.
struct Haproxy {
    process: Child,
    address: SocketAddr,
    config: PathBuf,
}

impl Haproxy {
    /// Of a frontend with these lines; `BIND` stands for where it listens.
    fn start(lines: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // It listens before HAProxy runs: a client that comes early waits.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let address = listener.local_addr().expect("an address");
        fcntl(listener.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).expect("a descriptor");
        let bind = format!("bind fd@{}", listener.as_raw_fd());
        let config = format!(
            "global\n  nbthread 1\ndefaults\n  timeout connect 20s\n  timeout client 20s\n  timeout server 20s\n\
             {}\n",
            lines.replace("BIND", &bind)
        );
        let name = format!("haproxy-{}-{}.cfg", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, config).expect("a file");
        let process = Command::new("haproxy").args(["-q", "-db", "-f"]).arg(&path).spawn().expect("it runs");
        Self { process, address, config: path }
    }

    /// One that hands all it gets to `server`, with a header of this kind.
    fn before(server: SocketAddr, send: &str) -> Self {
        Self::start(&format!("listen in\n  mode tcp\n  BIND\n  server vipd {server} {send}"))
    }

    /// One that expects headers, and answers whoever asks with both ends of the connection.
    fn behind() -> Self {
        Self::start(
            "frontend who\n  mode http\n  BIND accept-proxy\n  http-request return status 200 \
             content-type text/plain lf-string \"%[src] %[src_port] %[dst] %[dst_port]\"",
        )
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.config);
    }
}

fn behind_haproxy() -> Listener {
    let here = Cidr::new(loopback(1), 32).expect("a network");
    Listener { accept_proxy: vec![here], ..listener("main") }
}

fn telling(version: ProxyProtocol, server: SocketAddr) -> Pool {
    Pool { proxy_protocol: Some(version), ..pool("pool", &[server]) }
}

/// Asks HAProxy who is there.
fn who(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.rsplit("\r\n").next().unwrap_or_default().to_owned()
}

fn ends(client: SocketAddr, to: SocketAddr) -> String {
    format!("{} {} {} {}", client.ip(), client.port(), to.ip(), to.port())
}

#[test]
fn haproxy_before_tells_who_the_client_is() {
    if missing() {
        return;
    }
    let balancer = start(&behind_haproxy(), &pool("pool", &[echo()]));
    for send in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,crc32c"] {
        let haproxy = Haproxy::before(address(&balancer), send);
        let mut client = connect_to(haproxy.address);
        ask(&mut client);
        let clients: Vec<_> = list(&balancer, Which::All).iter().map(|s| s.client).collect();
        assert_eq!(clients, [client.local_addr().expect("an address")], "{send}");
        drop(client);
        until("it is gone", || balancer.sessions() == 0);
    }
    assert_eq!(stats(&balancer).closed(CloseCause::ProxyHeader), 0);
}

/// Its checks send a header that tells of no client.
#[test]
fn checks_of_a_haproxy_before_are_no_malformed_headers() {
    if missing() {
        return;
    }
    for version in ["send-proxy", "send-proxy-v2"] {
        let balancer = start(&behind_haproxy(), &pool("pool", &[echo()]));
        let send = format!("{version} check check-send-proxy inter 50ms");
        let _haproxy = Haproxy::before(address(&balancer), &send);
        until("it has checked", || stats(&balancer).total >= 3 && balancer.sessions() == 0);
        assert_eq!(stats(&balancer).closed(CloseCause::ProxyHeader), 0, "{version}");
    }
}

#[test]
fn haproxy_behind_is_told_who_the_client_is() {
    if missing() {
        return;
    }
    let haproxy = Haproxy::behind();
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        for here in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let bind = Bind { address: Some(here), port: 0 };
            let listener = Listener { bind, ..listener("main") };
            let balancer = start(&listener, &telling(version, haproxy.address));
            let mut client = connect(&balancer);
            let expected = ends(client.local_addr().expect("an address"), address(&balancer));
            assert_eq!(who(&mut client), expected, "{version:?}");
        }
    }
}

/// As checks do.
#[test]
fn haproxy_behind_takes_a_connection_of_no_client() {
    if missing() {
        return;
    }
    let haproxy = Haproxy::behind();
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let mut check = connect_to(haproxy.address);
        check.write_all(vipd_balancer::proxy_header_of_own(version)).expect("is taken");
        let expected = ends(check.local_addr().expect("an address"), haproxy.address);
        assert_eq!(who(&mut check), expected, "{version:?}");
    }
}

#[test]
fn what_haproxy_before_tells_comes_to_haproxy_behind() {
    if missing() {
        return;
    }
    let behind = Haproxy::behind();
    for (send, version) in [("send-proxy", ProxyProtocol::V2), ("send-proxy-v2", ProxyProtocol::V1)] {
        let pools = build(&[telling(version, behind.address)]);
        let balancer = Balancer::start(&[behind_haproxy()], pools, Some(2)).expect("starts");
        let before = Haproxy::before(address(&balancer), send);
        let mut client = connect_to(before.address);
        let expected = ends(client.local_addr().expect("an address"), before.address);
        assert_eq!(who(&mut client), expected, "{send}");
    }
}
