//! UDP between nodes: small datagrams, from a node's own address to another's.

use super::datagram;
use super::readable::Readable;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;

/// A datagram from a node, or from whoever says so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received<'a> {
    /// Its source.
    pub source: SocketAddr,
    /// The TTL or hop limit it arrived with.
    pub hop_limit: u8,
    /// Its bytes: the beginning, if the buffer is too short.
    pub payload: &'a [u8],
}

/// Sends and receives on one of the node's own addresses.
#[derive(Debug)]
pub struct PeerSocket {
    socket: Readable<Socket>,
}

impl PeerSocket {
    /// Binds to the node's own address and port, on the caller's runtime. The
    /// address need not be there yet.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if another process has the port.
    pub fn bind(local: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        datagram::prepare(&socket, local.is_ipv6())?;
        // At boot a daemon may be earlier than the host's own addresses.
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        } else {
            socket.set_freebind_v4(true)?;
        }
        socket.bind(&local.into())?;
        Ok(Self { socket: Readable::new(socket)? })
    }

    /// Waits for a datagram. Dropping the future loses none.
    ///
    /// # Errors
    ///
    /// What recvmsg(2) says, `ConnectionRefused` for an earlier send included:
    /// the socket stays usable.
    pub async fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Received<'b>> {
        loop {
            let facts = self.socket.read(|socket| datagram::receive(socket, buffer)).await?;
            let Some(hop_limit) = facts.hop_limit else { continue };
            let payload = buffer.get(..facts.length).unwrap_or_default();
            return Ok(Received { source: facts.source, hop_limit, payload });
        }
    }

    /// Sends a datagram. Never waits.
    ///
    /// # Errors
    ///
    /// What sendto(2) says, `WouldBlock` and `ENOBUFS` when the interface
    /// takes no more.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let sent = self.socket.get().send_to(bytes, &to.into())?;
        datagram::whole(sent, bytes)
    }

    /// The address it is bound to.
    ///
    /// # Errors
    ///
    /// What getsockname(2) says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        let address = self.socket.get().local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::HOP_LIMIT;

    #[tokio::test]
    async fn a_datagram_arrives_with_its_hop_limit() -> io::Result<()> {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let any: SocketAddr = any.parse().map_err(io::Error::other)?;
            let (a, b) = (PeerSocket::bind(any)?, PeerSocket::bind(any)?);
            a.send(b.local_address()?, b"hello")?;
            let mut buffer = [0; 4];
            let got = b.receive(&mut buffer).await?;
            assert_eq!((got.source, got.hop_limit), (a.local_address()?, HOP_LIMIT));
            assert_eq!(got.payload, &b"hell"[..]);
        }
        Ok(())
    }
}
