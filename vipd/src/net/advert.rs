//! Raw sockets of IP protocol 112: one for each interface and family.

use super::datagram::{self, Facts};
use super::readable::Readable;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::ops::Range;
use vipd_core::settings::{Family, Transport};

/// Where multicast adverts over IPv4 go (RFC 9568 section 5.1.1.2).
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where multicast adverts over IPv6 go (RFC 9568 section 5.1.2.2).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// A buffer of this size holds every valid advert with its IPv4 header: 255
/// IPv6 addresses and their eight bytes, or 255 IPv4 ones.
pub const BUFFER: usize = 8 + 255 * 16 + 64;

/// The group adverts of a family go to.
#[must_use]
pub const fn multicast_group(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(GROUP_V4),
        Family::V6 => IpAddr::V6(GROUP_V6),
    }
}

/// A packet of protocol 112, from whomever.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received<'a> {
    /// The kernel's index of the interface it came in on.
    pub interface: u32,
    /// Its source.
    pub source: IpAddr,
    /// Its destination: this host, or a multicast group.
    pub destination: IpAddr,
    /// The TTL or hop limit it arrived with.
    pub hop_limit: u8,
    /// What follows the IP header: the beginning, if the buffer is too short.
    pub payload: &'a [u8],
}

/// Sends and receives adverts on one interface, over one family.
#[derive(Debug)]
pub struct AdvertSocket {
    socket: Readable<Socket>,
    interface: u32,
    family: Family,
}

impl AdvertSocket {
    /// Opens the socket, bound to the interface of this index, on the
    /// caller's runtime.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` without CAP_NET_RAW; `ENODEV` if there is no such
    /// interface.
    pub fn open(interface: u32, family: Family, transport: Transport) -> io::Result<Self> {
        let socket = open_raw(interface, family)?;
        match (transport, family) {
            (Transport::Unicast | Transport::Udp, _) => {}
            (Transport::Multicast, Family::V4) => {
                socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(interface))?;
            }
            (Transport::Multicast, Family::V6) => socket.join_multicast_v6(&GROUP_V6, interface)?,
        }
        let socket = Readable::new(socket)?;
        Ok(Self { socket, interface, family })
    }

    /// The kernel's index of the interface.
    #[must_use]
    pub const fn interface(&self) -> u32 {
        self.interface
    }

    /// The socket's family.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Waits for a packet. Dropping the future loses none.
    ///
    /// # Errors
    ///
    /// What recvmsg(2) says; `NetworkDown` when the interface has gone down:
    /// the socket stays usable.
    pub async fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Received<'b>> {
        loop {
            let facts = self.socket.read(|socket| datagram::receive(socket, buffer)).await?;
            let Some((packet, payload)) = self.read(&facts, buffer) else { continue };
            return Ok(Received { payload: buffer.get(payload).unwrap_or_default(), ..packet });
        }
    }

    /// The packet without its payload, and where in the buffer that is;
    /// `None` if it is not even an IP packet.
    fn read(&self, facts: &Facts, buffer: &[u8]) -> Option<(Received<'static>, Range<usize>)> {
        let source = facts.source.ip();
        let bytes = buffer.get(..facts.length)?;
        let (destination, hop_limit, start) = match self.family {
            Family::V4 => ipv4_header(bytes)?,
            Family::V6 => (facts.destination?, facts.hop_limit?, 0),
        };
        let packet = Received { interface: self.interface, source, destination, hop_limit, payload: &[] };
        Some((packet, start..facts.length))
    }

    /// Sends an advert from `source`, an address of this interface, to a
    /// node's address or to [`multicast_group`]. Never waits.
    ///
    /// # Errors
    ///
    /// What sendmsg(2) says, `EINVAL` for a source that is not this host's,
    /// `WouldBlock` and `ENOBUFS` when the interface takes no more.
    pub fn send(&self, source: IpAddr, destination: IpAddr, bytes: &[u8]) -> io::Result<()> {
        datagram::send_from(self.socket.get(), self.interface, source, destination, bytes)
    }
}

/// Sends one advert without a runtime and without an [`AdvertSocket`]: the
/// crash guard's way.
///
/// # Errors
///
/// As [`AdvertSocket::open`] and [`AdvertSocket::send`].
pub fn send_once(interface: u32, source: IpAddr, destination: IpAddr, bytes: &[u8]) -> io::Result<()> {
    let socket = open_raw(interface, Family::of(source))?;
    datagram::send_from(&socket, interface, source, destination, bytes)
}

fn open_raw(interface: u32, family: Family) -> io::Result<Socket> {
    let (domain, ipv6) = match family {
        Family::V4 => (Domain::IPV4, false),
        Family::V6 => (Domain::IPV6, true),
    };
    // The kernel would bind to an index that nobody has, and nix gives an
    // empty name for it.
    let known = !nix::net::if_::if_indextoname(interface)?.is_empty();
    let index = NonZeroU32::new(interface).filter(|_| known).ok_or(Errno::ENODEV)?;
    let protocol = Protocol::from(i32::from(vipd_core::wire::PROTOCOL));
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.bind_device_by_index_v4(Some(index))?;
    datagram::prepare(&socket, ipv6)?;
    if ipv6 {
        socket.set_multicast_loop_v6(false)?;
        socket.set_multicast_if_v6(interface)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        socket.set_multicast_loop_v4(false)?;
    }
    Ok(socket)
}

/// Destination, TTL and length of the IPv4 header that a raw socket delivers
/// with the packet.
fn ipv4_header(packet: &[u8]) -> Option<(IpAddr, u8, usize)> {
    let length = usize::from(packet.first()? & 0x0f) * 4;
    if length < 20 || packet.len() < length {
        return None;
    }
    let destination: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    Some((IpAddr::from(destination), *packet.get(8)?, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_with_options_are_stripped_whole_and_broken_ones_refused() {
        let mut packet = [0_u8; 28];
        packet[0] = 0x46;
        packet[8] = 254;
        packet[16..20].copy_from_slice(&[224, 0, 0, 18]);
        assert_eq!(ipv4_header(&packet), Some((IpAddr::V4(GROUP_V4), 254, 24)));
        assert_eq!(ipv4_header(&packet[..23]), None);
        packet[0] = 0x44;
        assert_eq!(ipv4_header(&packet), None);
        assert_eq!(ipv4_header(&[]), None);
    }
}
