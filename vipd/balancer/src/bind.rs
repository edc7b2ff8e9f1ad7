//! Sockets: those that listen, and how those that carry data behave.

use crate::{Error, holder};
use nix::errno::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;
use vipd_core::settings::{Bind, Listener};

/// Connections that wait to be accepted, on each worker's socket. The kernel
/// caps it at net.core.somaxconn, which is 4096 since Linux 5.4.
const BACKLOG: i32 = 4096;

/// A peer that is silent for a minute is asked, then every 10 s; after three
/// questions without an answer it is gone: a dead peer is found after 90 s.
/// Firewalls forget idle connections after minutes, so this keeps those, too.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// A peer that leaves data unacknowledged for this long is gone (the kernel's
/// own patience is 15 minutes). It also ends a connection whose peer lives but
/// does not read for as long, so it is twice what a MySQL server has patience
/// for itself (`net_write_timeout`, 60 s).
const USER_TIMEOUT: Duration = Duration::from_secs(120);

/// What both legs of a session have. Accepted sockets inherit it from their listener.
pub(crate) fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
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
            let socket = match open(address, true).and_then(start) {
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

fn start(socket: Socket) -> io::Result<TcpListener> {
    tune(&SockRef::from(&socket))?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn no_family(error: &io::Error) -> bool {
    matches!(errno(error), Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)
}

pub(crate) fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// Whether it is this host that has nothing left, and not the other that is away.
pub(crate) fn no_resources(error: &io::Error) -> bool {
    matches!(
        errno(error),
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::EADDRNOTAVAIL
    )
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
        let sockets = listen(&loopback(), 1, false)?;
        let listener = &sockets[0][0];
        let _client = std::net::TcpStream::connect(listener.local_addr()?)?;
        listener.set_nonblocking(false)?;
        let (accepted, _) = listener.accept()?;
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay()? && socket.keepalive()?);
        assert_eq!(socket.tcp_keepalive_time()?, KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval()?, KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries()?, KEEPALIVE_PROBES);
        assert_eq!(socket.tcp_user_timeout()?, Some(USER_TIMEOUT));
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
