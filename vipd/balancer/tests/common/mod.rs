//! What the tests of the balancer share: loopback servers, clients, waiting.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod bytes;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vipd_balancer::{Balancer, CloseCause, ListenerStats, PoolStats, SessionInfo, Which};
use vipd_core::health::PoolsState;
use vipd_core::pool::Pools;
use vipd_core::settings::{Balance, Bind, Host, Listener, Pool, Server};
use vipd_core::time::Time;

/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn server(name: &str, address: SocketAddr) -> Server {
    Server { weight: 1, ..Server::new(name, Host::Address(address.ip()), address.port()) }
}

pub(crate) fn pool(name: &str, addresses: &[SocketAddr]) -> Pool {
    let servers = addresses.iter().enumerate().map(|(i, a)| server(&format!("db{}", i + 1), *a)).collect();
    let connect_timeout = Duration::from_secs(5);
    Pool { balance: Balance::First, connect_timeout, retries: 2, ..Pool::new(name, servers) }
}

pub(crate) fn build(pools: &[Pool]) -> Arc<Pools> {
    PoolsState::new(pools.to_vec(), Time::ZERO).build()
}

pub(crate) fn listener(name: &str) -> Listener {
    let bind = Bind { address: Some(Ipv4Addr::LOCALHOST.into()), port: 0 };
    Listener { max_connections: 10_000, ..Listener::new(name, bind, 0) }
}

/// A balancer of two workers with one listener on one pool of these servers.
pub(crate) fn balancer(servers: &[SocketAddr]) -> Balancer {
    start(&listener("main"), &pool("pool", servers))
}

pub(crate) fn start(listener: &Listener, pool: &Pool) -> Balancer {
    let pools = build(std::slice::from_ref(pool));
    Balancer::start(std::slice::from_ref(listener), pools, Some(2)).expect("starts")
}

pub(crate) fn stats(balancer: &Balancer) -> ListenerStats {
    balancer.stats().listeners.first().cloned().expect("a listener")
}

/// The numbers of a pool.
pub(crate) fn pool_stats(balancer: &Balancer, pool: usize) -> PoolStats {
    balancer.stats().pools.get(pool).cloned().expect("a pool")
}

/// A client that waits in the first pool's queue as its `n`th.
pub(crate) fn queued(balancer: &Balancer, n: u32) -> TcpStream {
    let client = connect(balancer);
    until("it waits", || pool_stats(balancer, 0).queued == n);
    client
}

/// Nothing comes.
pub(crate) fn assert_waits(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
    let kind = stream.read(&mut [0; 1]).map_err(|e| e.kind());
    assert_eq!(kind, Err(ErrorKind::WouldBlock));
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
}

/// Ends with a reset.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(stream);
}

pub(crate) fn address(balancer: &Balancer) -> SocketAddr {
    stats(balancer).addresses[0]
}

pub(crate) fn connect(balancer: &Balancer) -> TcpStream {
    connect_to(address(balancer))
}

pub(crate) fn connect_to(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// A place where nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    listen().local_addr().expect("an address")
}

pub(crate) fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds")
}

/// A server that answers everything with itself, and its place.
pub(crate) fn echo() -> SocketAddr {
    serving(|mut stream| {
        let mut buffer = [0; 4096];
        while let Ok(n) = stream.read(&mut buffer) {
            if n == 0 || stream.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
    })
}

/// A server that gives each connection to `serve`, on a thread of its own.
pub(crate) fn serving(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    serving_on(listen(), serve)
}

/// Likewise, at a place of the caller's choice.
pub(crate) fn serving_on(
    listener: TcpListener,
    serve: impl Fn(TcpStream) + Clone + Send + 'static,
) -> SocketAddr {
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// One question, one answer.
pub(crate) fn ask(stream: &mut TcpStream) {
    stream.write_all(b"ping").expect("is taken");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"ping");
}

/// The connection ends in a reset.
pub(crate) fn assert_reset(stream: &mut TcpStream) {
    let error = stream.read(&mut [0; 16]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// The connection ends, all being said.
pub(crate) fn assert_end(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0; 16]).expect("an end"), 0);
}

/// Waits for what no event tells of: the balancer's numbers.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `n` sessions have ended for this cause, and none is left.
pub(crate) fn assert_closed(balancer: &Balancer, cause: CloseCause, n: u64) {
    until(cause.as_str(), || stats(balancer).closed(cause) == n && balancer.sessions() == 0);
    assert_eq!(stats(balancer).closed.iter().sum::<u64>(), stats(balancer).total);
    let servers = balancer.stats().servers;
    assert!(servers.iter().all(|s| s.sessions == 0), "{servers:?}");
}

/// The name of the server at each of these places, told to whoever connects.
pub(crate) fn named(name: &'static [u8]) -> SocketAddr {
    serving(move |mut stream| {
        let _ = stream.write_all(name);
        let _ = stream.read(&mut [0; 1]);
    })
}

/// The name that the server tells.
pub(crate) fn name(stream: &mut TcpStream) -> String {
    let mut name = [0; 3];
    stream.read_exact(&mut name).expect("a name");
    String::from_utf8_lossy(&name).into_owned()
}

/// A server whose queue is full: connections to it neither succeed nor fail.
/// It holds what it returns.
pub(crate) fn hung() -> (SocketAddr, impl Drop) {
    struct Held(#[expect(dead_code, reason = "kept open")] (socket2::Socket, Vec<socket2::Socket>));
    impl Drop for Held {
        fn drop(&mut self) {}
    }
    let socket =
        || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let server = socket();
    server.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("binds");
    server.listen(0).expect("listens");
    let address = server.local_addr().expect("an address").as_socket().expect("of IPv4");
    let fill = (0..4).map(|_| {
        let client = socket();
        client.set_nonblocking(true).expect("a socket");
        let _ = client.connect(&address.into());
        client
    });
    let fill = fill.collect();
    (address, Held((server, fill)))
}

pub(crate) fn loopback(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

/// A client of this loopback address.
pub(crate) fn connect_from(balancer: &Balancer, last: u8) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(loopback(last), 0).into()).expect("binds");
    socket.connect(&address(balancer).into()).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket.into()
}

/// Waits for something on a runtime of its own.
pub(crate) fn wait_for<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// The sessions of this kind, none left out.
pub(crate) fn list(balancer: &Balancer, which: Which) -> Vec<SessionInfo> {
    let sessions = wait_for(balancer.list(which).expect("workers answer"));
    assert_eq!(sessions.left_out, 0);
    sessions.list
}
