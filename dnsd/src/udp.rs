//! The sockets of UDP: a thread each, many messages to a system call.

use crate::answer::{Answerer, Outcome, Source};
use crate::served::Shared;
use crate::tsig;
use crate::writer::{Reply, Writer};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracing::warn;

/// Messages to a system call. More are seldom there at once, and each place costs
/// a little also when it stays empty.
const BATCH: usize = 32;
/// Bytes of a request over UDP: updates of more come over TCP.
const MAX_REQUEST: usize = 4096;
/// A thread looks this often whether it is to end.
const LOOK_UP: Duration = Duration::from_millis(500);
/// Room for what comes while a thread waits for the processor.
const RECEIVE_BUFFER: usize = 4 << 20;
/// What a system call's error costs, lest a lasting one take the processor.
const PAUSE: Duration = Duration::from_millis(10);

/// Binds the socket of an address.
///
/// # Errors
///
/// When the system refuses it.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // As much of it as the system allows.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.set_read_timeout(Some(LOOK_UP))?;
    // Never fragmented, and whatever somebody says of the path: fragments can be
    // replaced by others (RFC 9715), and answers fit everywhere anyway.
    if address.is_ipv6() {
        sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?;
    } else {
        sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Serves a socket until `stop` is set.
pub fn serve(
    socket: &Arc<UdpSocket>,
    shared: &Shared,
    writer: &Writer,
    mut answerer: Answerer,
    stop: &AtomicBool,
) {
    let mut requests = vec![[0_u8; MAX_REQUEST]; BATCH];
    let mut answers: Vec<Vec<u8>> = (0..BATCH).map(|_| Vec::with_capacity(512)).collect();
    let mut clients: Vec<Option<SockaddrStorage>> = Vec::with_capacity(BATCH);
    let mut lengths: Vec<Option<(usize, SockaddrStorage)>> = Vec::with_capacity(BATCH);
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let mut sending = MultiHeaders::preallocate(BATCH, None);
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = receive(socket, &mut requests, &mut headers, &mut lengths) {
            use io::ErrorKind::{ConnectionRefused, Interrupted, TimedOut, WouldBlock};
            // Nothing came; or an answer to somebody who is gone came back.
            if !matches!(error.kind(), WouldBlock | TimedOut | Interrupted | ConnectionRefused) {
                warn!(%error, "cannot receive");
                std::thread::sleep(PAUSE);
            }
            continue;
        }
        let served = shared.served.load();
        let now = tsig::seconds();
        clients.clear();
        for (raw, received) in requests.iter().zip(&lengths) {
            let Some((length, client)) = received else { continue };
            let Some(address) = ip(client) else { continue };
            let raw = &raw[..*length];
            shared.metrics.udp.add();
            let out = &mut answers[clients.len()];
            let source = Source { address, udp: true, now };
            match answerer.answer(shared, &served, raw, source, out) {
                Outcome::Answer => clients.push(Some(*client)),
                Outcome::Silence | Outcome::Transfer => {}
                Outcome::Update(signed) => {
                    let Some(to) = socket_address(client) else { continue };
                    let reply = Reply::Udp(Arc::clone(socket), to);
                    writer.update(raw.to_vec(), signed, address, reply);
                }
            }
        }
        send(socket, &answers[..clients.len()], &clients, &mut sending);
    }
}

type Received = Vec<Option<(usize, SockaddrStorage)>>;

/// Waits for messages and takes those that are there.
fn receive(
    socket: &UdpSocket,
    buffers: &mut [[u8; MAX_REQUEST]],
    headers: &mut MultiHeaders<SockaddrStorage>,
    received: &mut Received,
) -> io::Result<()> {
    received.clear();
    let mut slices: Vec<[IoSliceMut<'_>; 1]> =
        buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
    let messages = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None)?;
    for message in messages {
        let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
        received.push(message.address.filter(|_| whole).map(|client| (message.bytes, client)));
    }
    Ok(())
}

/// Sends answers; those that cannot be sent are lost, as datagrams may be.
fn send(
    socket: &UdpSocket,
    answers: &[Vec<u8>],
    clients: &[Option<SockaddrStorage>],
    headers: &mut MultiHeaders<SockaddrStorage>,
) {
    let mut first = 0;
    while first < answers.len() {
        let slices: Vec<[IoSlice<'_>; 1]> =
            answers[first..].iter().map(|answer| [IoSlice::new(answer)]).collect();
        let sent = sendmmsg(socket.as_raw_fd(), headers, &slices, &clients[first..], [], MsgFlags::empty());
        // An error is the first message's: the others are tried.
        first += sent.map_or(1, |sent| sent.count().max(1));
    }
}

fn ip(client: &SockaddrStorage) -> Option<IpAddr> {
    socket_address(client).map(|address| address.ip())
}

fn socket_address(client: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = client.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| client.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}
