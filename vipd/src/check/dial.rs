//! Connecting to a server that may have several addresses.

use super::Progress;
use crate::words;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::{fmt, io};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use vipd_balancer::{bind_source, proxy_header_of_own};
use vipd_core::settings::ProxyProtocol;

/// No address took a connection.
#[derive(Debug)]
pub(crate) struct DialError(Vec<(SocketAddr, io::Error)>);

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = self.0.iter().map(|(a, e)| format!("connecting to {a}: {}", words(e)));
        f.write_str(&texts.collect::<Vec<_>>().join("; "))
    }
}

impl Error for DialError {
    /// What this host lacked, if that is all that went wrong: an address that
    /// did refuse tells of the server, whatever became of the others.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let (_, first) = self.0.first()?;
        self.0.iter().all(|(_, error)| is_ours(error)).then_some(first)
    }
}

impl DialError {
    /// Whether this host lacks what connecting takes.
    pub(super) fn is_ours(&self) -> bool {
        self.source().is_some()
    }
}

/// What stands in the way of a probe.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// The server, or what leads to it.
    Server(String),
    /// The server has no connection left, for nobody.
    Full(String),
    /// This host, which lacks what a probe takes.
    Host(String),
}

impl<E: Error + 'static> From<E> for Obstacle {
    fn from(error: E) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(here) = cause {
            if is_full(here) {
                return Self::Full(error.to_string());
            }
            let nix = || here.downcast_ref::<nix::Error>().map(|e| io::Error::from(*e));
            if here.downcast_ref().is_some_and(is_ours) || nix().as_ref().is_some_and(is_ours) {
                return Self::Host(error.to_string());
            }
            cause = here.source();
        }
        Self::Server(error.to_string())
    }
}

/// Whether a server says that all its connections are in use.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    use super::{mysql, postgres, redis};
    mysql::is_full(error) || postgres::is_full(error) || redis::is_full(error)
}

/// Whether it is this host that has nothing left: descriptors, ports, memory,
/// processes; or nothing of the address's family.
fn is_ours(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(
        error.raw_os_error(),
        Some(EMFILE | ENFILE | ENOBUFS | ENOMEM | EADDRNOTAVAIL | EAFNOSUPPORT | EAGAIN)
    )
}

/// The way to a server, for one probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    /// Where it is; the first is preferred.
    pub(super) addresses: &'a [SocketAddr],
    /// When the probe's time is over.
    pub(super) deadline: Instant,
    /// What every connection to it begins with: it closes others.
    pub(super) proxy: Option<ProxyProtocol>,
    /// Where clients' connections to it come from, if that is given and does not float.
    pub(super) source: Option<IpAddr>,
}

impl Way<'_> {
    /// The addresses for a new login: that of the connection which is kept
    /// comes first, so that a name's other addresses are no reason to move.
    pub(super) fn beside(&self, kept: Option<SocketAddr>) -> Vec<SocketAddr> {
        let others = self.addresses.iter().copied().filter(|address| Some(*address) != kept);
        kept.into_iter().chain(others).collect()
    }

    /// A socket that is where a client's connection would be, so that what is
    /// open to one (a firewall, an account) is open to the other. From an
    /// address that this host has not, nothing can be asked.
    fn socket(&self, address: &SocketAddr) -> io::Result<TcpSocket> {
        let new = || if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = new()?;
        let Some(from) = self.source else { return Ok(socket) };
        if from.is_ipv4() != address.is_ipv4() {
            return Ok(socket);
        }
        match bind_source(&socket, from) {
            Ok(()) => Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => new(),
            Err(error) => Err(error),
        }
    }

    /// A connection to one of the addresses, at which the server may speak.
    async fn connect(&self, address: &SocketAddr) -> io::Result<TcpStream> {
        let mut stream = self.socket(address)?.connect(*address).await?;
        if let Some(version) = self.proxy {
            stream.write_all(proxy_header_of_own(version)).await?;
        }
        Ok(stream)
    }
}

/// Connects to the first address that takes it, in order. The time left is
/// shared fairly among the addresses left, so that one that does not answer
/// leaves time for the next.
pub(super) async fn dial(way: Way<'_>, progress: &Progress) -> Result<(TcpStream, SocketAddr), DialError> {
    let Way { addresses, deadline, .. } = way;
    let mut failed = DialError(Vec::new());
    for (at, address) in addresses.iter().enumerate() {
        match at {
            0 => progress.set(format!("connecting to {address}")),
            _ => progress.set(format!("connecting to {address} (before that, {failed})")),
        }
        let outcome = match addresses.len() - at {
            // The caller's time limit is the last one's.
            1 => way.connect(address).await,
            left => {
                let left = u32::try_from(left).unwrap_or(u32::MAX);
                let share = deadline.saturating_duration_since(Instant::now()) / left;
                let connect = tokio::time::timeout(share, way.connect(address)).await;
                connect.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")))
            }
        };
        match outcome {
            Ok(stream) => return Ok((stream, *address)),
            Err(error) => failed.0.push((*address, error)),
        }
    }
    Err(failed)
}
