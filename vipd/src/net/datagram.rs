//! What the sockets have in common: buffers, and datagrams with the facts the
//! kernel knows of them.

use super::HOP_LIMIT;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::Socket;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

/// Room for bursts while the thread does something else: at 64 groups and
/// 10 ms adverts more than a second's.
const RECEIVE_BUFFER: usize = 4 << 20;

/// DSCP CS6 ("internetwork control") in the place of the TOS and traffic
/// class bytes: switches that know priorities put adverts first.
const CS6: u32 = 48 << 2;

/// A datagram's facts; its bytes are in the buffer that was handed in.
pub(super) struct Facts {
    pub(super) source: SocketAddr,
    /// Only where the socket asks for it.
    pub(super) destination: Option<IpAddr>,
    /// Only where the socket asks for it.
    pub(super) hop_limit: Option<u8>,
    pub(super) length: usize,
}

/// TTL or hop limit, DSCP and buffer of a socket that talks to nodes.
pub(super) fn prepare(socket: &Socket, ipv6: bool) -> io::Result<()> {
    let hops = u32::from(HOP_LIMIT);
    if ipv6 {
        socket.set_unicast_hops_v6(hops)?;
        socket.set_multicast_hops_v6(hops)?;
        socket.set_tclass_v6(CS6)?;
        socket.set_recv_hoplimit_v6(true)?;
    } else {
        socket.set_ttl_v4(hops)?;
        socket.set_multicast_ttl_v4(hops)?;
        socket.set_tos_v4(CS6)?;
        setsockopt(socket, sockopt::Ipv4RecvTtl, &true)?;
    }
    // Above the system's limit with CAP_NET_ADMIN, else as much as it allows.
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    socket.set_nonblocking(true)
}

/// Takes one datagram.
pub(super) fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Facts> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::c_int);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let source = message.address.as_ref().and_then(socket_address).ok_or(Errno::EAFNOSUPPORT)?;
    let (mut destination, mut hop_limit) = (None, None);
    for fact in message.cmsgs()? {
        if let ControlMessageOwned::Ipv4Ttl(hops) | ControlMessageOwned::Ipv6HopLimit(hops) = fact {
            hop_limit = u8::try_from(hops).ok();
        } else if let ControlMessageOwned::Ipv6PacketInfo(info) = fact {
            destination = Some(IpAddr::from(info.ipi6_addr.s6_addr));
        }
    }
    Ok(Facts { source, destination, hop_limit, length: message.bytes })
}

/// Sends one datagram from a chosen source address of this host.
pub(super) fn send_from(
    socket: &Socket,
    interface: u32,
    source: IpAddr,
    destination: IpAddr,
    bytes: &[u8],
) -> io::Result<()> {
    let to = match destination {
        IpAddr::V4(a) => SocketAddr::V4(SocketAddrV4::new(a, 0)),
        // A link-local destination says nothing without its interface.
        IpAddr::V6(a) => SocketAddr::V6(SocketAddrV6::new(a, 0, 0, interface)),
    };
    let index = i32::try_from(interface).map_err(|_| Errno::ENODEV)?;
    let parts = [IoSlice::new(bytes)];
    let send = |control: ControlMessage<'_>| {
        let to = SockaddrStorage::from(to);
        sendmsg(socket.as_raw_fd(), &parts, &[control], MsgFlags::MSG_DONTWAIT, Some(&to))
    };
    let sent = match source {
        IpAddr::V4(a) => send(ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
            ipi_ifindex: index,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(a.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        }))?,
        IpAddr::V6(a) => send(ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr { s6_addr: a.octets() },
            ipi6_ifindex: interface,
        }))?,
    };
    whole(sent, bytes)
}

/// Datagrams leave whole; anything else is a fault of the kernel's answer.
pub(super) fn whole(sent: usize, bytes: &[u8]) -> io::Result<()> {
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::V4(SocketAddrV4::from(*v4)));
    }
    storage.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6)))
}
