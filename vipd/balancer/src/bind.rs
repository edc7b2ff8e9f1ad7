//! Sockets: those that listen, and how those that carry data behave.

use crate::{Error, holder};
use nix::errno::Errno;
use nix::sys::socket::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;
use tokio::net::TcpSocket;
use vipd_core::settings::{Bind, Listener};

/// Connections that wait to be accepted, on each worker's socket. The kernel
/// caps it at net.core.somaxconn, which is 4096 since Linux 5.4.
const BACKLOG: i32 = 4096;

/// A silent peer is asked again this often, or as often as it was asked at
/// first if that is more often. The kernel's
/// count of questions (net.ipv4.tcp_keepalive_probes, 9) says when it is gone.
/// (With a user time-out Linux counts no questions: the peer is gone when that
/// time has passed since its last word and one question is unanswered;
/// tcp_keepalive_timer, net/ipv4/tcp_timer.c.)
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long both legs of a session trust in a silent peer. With a
/// `user_timeout`, one that leaves data unacknowledged for as long is gone, and
/// so is one that lives but has not read: Linux counts the probes of a closed
/// window too, answered or not (tcp_probe_timer).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tcp {
    pub(crate) keepalive: Duration,
    pub(crate) user_timeout: Option<Duration>,
}

impl From<&Listener> for Tcp {
    fn from(listener: &Listener) -> Self {
        Self { keepalive: listener.tcp_keepalive, user_timeout: listener.tcp_user_timeout }
    }
}

/// What a socket has that listens, so that those it accepts inherit it.
pub(crate) fn tune(socket: &SockRef<'_>, tcp: Tcp) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    keep(socket, tcp)
}

/// What a connection has that lives.
pub(crate) fn keep(socket: &SockRef<'_>, tcp: Tcp) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(tcp.keepalive).with_interval(KEEPALIVE_INTERVAL.min(tcp.keepalive));
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(tcp.user_timeout)
}

/// A listener's sockets, for each worker one an address. They listen already:
/// whoever connects waits for the worker.
///
/// `shared` says that another listener of ours is on the same port, so that
/// "in use" means nothing.
pub(crate) fn listen(
    listener: &Listener,
    workers: usize,
    shared: bool,
) -> Result<Vec<Vec<TcpListener>>, Error> {
    let mut sockets: Vec<Vec<_>> = (0..workers).map(|_| vec![]).collect();
    for mut address in addresses(listener.bind) {
        if address.port() != 0 && !shared {
            exclusive(listener, address)?;
        }
        for of_worker in &mut sockets {
            let socket = match open(address, true).and_then(|s| start(s, listener.into())) {
                Ok(socket) => socket,
                // The host has no IPv6: all addresses are those of IPv4.
                Err(e) if listener.bind.address.is_none() && address.is_ipv6() && no_family(&e) => break,
                Err(e) => return Err(error(listener, address, e)),
            };
            if address.port() == 0 {
                address = socket.local_addr().map_err(|e| error(listener, address, e))?;
            }
            of_worker.push(socket);
        }
    }
    Ok(sockets)
}

fn addresses(bind: Bind) -> Vec<SocketAddr> {
    let ips = match bind.address {
        Some(address) => vec![address],
        None => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
    };
    ips.into_iter().map(|ip| SocketAddr::new(ip, bind.port)).collect()
}

/// Several sockets of one user may share a port if all of them say so; another
/// daemon that does would silently take half of our clients. So the port is
/// first taken without sharing.
fn exclusive(listener: &Listener, address: SocketAddr) -> Result<(), Error> {
    match open(address, false) {
        Ok(_) => Ok(()),
        Err(e) if no_family(&e) => Ok(()),
        Err(e) => Err(error(listener, address, e)),
    }
}

fn open(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A VIP is listened on before it is this node's.
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn start(socket: Socket, tcp: Tcp) -> io::Result<TcpListener> {
    tune(&SockRef::from(&socket), tcp)?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Gives a socket the address that its connection comes from. The port is
/// chosen with the connection: ports run out for each server by itself, and
/// not for all of them together.
///
/// # Errors
/// The system's word: `EADDRNOTAVAIL` if the address is none of this host's.
pub fn source(socket: &TcpSocket, from: IpAddr) -> io::Result<()> {
    // Of both families (inet_bind_hash and inet6_bind read the same flag).
    nix::sys::socket::setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(SocketAddr::new(from, 0))
}

fn no_family(error: &io::Error) -> bool {
    matches!(errno(error), Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)
}

pub(crate) fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// Whether it is this host that has nothing left, and not the other that is away.
pub(crate) fn no_resources(error: &io::Error) -> bool {
    matches!(errno(error), Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
}

/// Whether this host has no way to one address, be the server there or not: all
/// its ports to it are in use, or it has no address of its family (Linux says
/// `EADDRNOTAVAIL` to both), or knows none such at all. (No route is not among
/// these: a router on the way may have said that.)
pub(crate) fn no_way(error: &io::Error) -> bool {
    no_family(error)
}

fn error(listener: &Listener, address: SocketAddr, source: io::Error) -> Error {
    let errno = errno(&source);
    let hint = if errno == Errno::EADDRINUSE {
        match holder::of(address) {
            Some(holder) => format!(": held by {holder}"),
            None => ": see who holds it with `ss -ltnp`".to_owned(),
        }
    } else if errno == Errno::EACCES {
        ": ports below 1024 need the capability CAP_NET_BIND_SERVICE".to_owned()
    } else {
        String::new()
    };
    Error::Bind { listener: listener.name.clone(), address, hint, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> Listener {
        Listener::new("l", Bind { address: Some(Ipv4Addr::LOCALHOST.into()), port: 0 }, 0)
    }

    /// Tuning each accepted socket by itself would cost six system calls a session.
    #[test]
    fn accepted_sockets_inherit_what_their_listener_has() -> Result<(), Box<dyn std::error::Error>> {
        // Off by default: it ends also those who live and do not read.
        assert_eq!(loopback().tcp_user_timeout, None);
        let timeout = Some(Duration::from_secs(9));
        let sockets = listen(&Listener { tcp_user_timeout: timeout, ..loopback() }, 1, false)?;
        let listener = &sockets[0][0];
        let _client = std::net::TcpStream::connect(listener.local_addr()?)?;
        listener.set_nonblocking(false)?;
        let (accepted, _) = listener.accept()?;
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay()? && socket.keepalive()?);
        assert_eq!(socket.tcp_keepalive_time()?, loopback().tcp_keepalive);
        assert_eq!(socket.tcp_keepalive_interval()?, KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_user_timeout()?, timeout);
        Ok(())
    }

    /// A port that is chosen at once is gone for all servers.
    #[test]
    fn a_source_leaves_the_port_to_the_connection() -> Result<(), Box<dyn std::error::Error>> {
        for (socket, from) in [
            (TcpSocket::new_v4()?, IpAddr::from(Ipv4Addr::LOCALHOST)),
            (TcpSocket::new_v6()?, Ipv6Addr::LOCALHOST.into()),
        ] {
            source(&socket, from)?;
            let local = SockRef::from(&socket).local_addr()?.as_socket();
            assert_eq!(local.map(|a| (a.ip(), a.port())), Some((from, 0)));
        }
        Ok(())
    }

    #[test]
    fn workers_share_an_address() -> Result<(), Box<dyn std::error::Error>> {
        let sockets = listen(&loopback(), 3, false)?;
        let addresses: Vec<_> = sockets.iter().flatten().map(|s| s.local_addr()).collect::<Result<_, _>>()?;
        assert_eq!(addresses.len(), 3);
        assert!(addresses.iter().all(|a| *a == addresses[0]), "{addresses:?}");
        Ok(())
    }
}
