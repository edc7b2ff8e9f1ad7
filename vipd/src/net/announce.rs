//! Tells the link where addresses live now: gratuitous ARP and unsolicited
//! neighbour advertisements, through an `AF_PACKET` socket; and asks it.
//! Answers come by [`super::neighbours`].

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use vipd_core::wire::{Mac, arp, ndp};

/// Announces addresses on one interface.
#[derive(Debug)]
pub struct Announcer {
    socket: OwnedFd,
    mac: Mac,
}

/// What became of an announcement.
#[derive(Debug)]
pub struct Announced {
    /// Frames that left.
    pub frames: usize,
    /// Addresses of which not every frame left: announce them again shortly.
    pub unsent: Vec<IpAddr>,
    /// Why: `ENOBUFS` or `WouldBlock` when the interface's queue is full,
    /// `NetworkDown` when the interface is.
    pub error: Option<io::Error>,
}

impl Announcer {
    /// Opens the socket for the interface of this index, whose own Ethernet
    /// address is `mac`.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` without CAP_NET_RAW; `NotFound` if there is no such
    /// interface.
    pub fn open(interface: u32, mac: Mac) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Protocol 0: it sends, and receives nothing.
        let socket = socket::socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        socket::bind(socket.as_raw_fd(), &link_address(interface)?)?;
        Ok(Self { socket, mac })
    }

    /// The Ethernet address that is announced.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        self.mac
    }

    /// Sends the frames of each address: both forms of gratuitous ARP, or a
    /// neighbour advertisement. Never waits; stops at the first refusal.
    pub fn announce(&self, addresses: &[IpAddr]) -> Announced {
        let mut frames = 0;
        for (done, address) in addresses.iter().enumerate() {
            match self.announce_one(*address) {
                Ok(sent) => frames += sent,
                Err(error) => {
                    let unsent = addresses.get(done..).unwrap_or_default().to_vec();
                    return Announced { frames, unsent, error: Some(error) };
                }
            }
        }
        Announced { frames, unsent: Vec::new(), error: None }
    }

    fn announce_one(&self, address: IpAddr) -> io::Result<usize> {
        match address {
            IpAddr::V4(a) => {
                for form in arp::Form::ALL {
                    self.send(&arp::gratuitous(self.mac, a, form))?;
                }
                Ok(arp::Form::ALL.len())
            }
            IpAddr::V6(a) => {
                // The address itself is the source: it is this interface's
                // now, and there may be no other.
                self.send(&ndp::unsolicited(self.mac, a, a))?;
                Ok(1)
            }
        }
    }

    /// Asks who has addresses, so that nobody takes this host for one that does:
    /// ARP probes, and neighbour solicitations from `own`. IPv6 addresses are
    /// not asked for without it. Never waits.
    ///
    /// # Errors
    ///
    /// What send(2) says, `ENOBUFS` or `WouldBlock` when the interface's queue is full.
    pub fn ask(&self, addresses: &[IpAddr], own: Option<Ipv6Addr>) -> io::Result<()> {
        for address in addresses {
            match (address, own) {
                (IpAddr::V4(a), _) => self.send(&arp::probe(self.mac, *a))?,
                (IpAddr::V6(a), Some(own)) => self.send(&ndp::solicitation(self.mac, own, *a))?,
                (IpAddr::V6(_), None) => {}
            }
        }
        Ok(())
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        let sent = socket::send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT)?;
        super::datagram::whole(sent, frame)
    }
}

/// The link-layer address of an interface, as bind(2) wants it. The list of
/// interfaces is asked for because it gives one without unsafe code.
pub(super) fn link_address(interface: u32) -> io::Result<LinkAddr> {
    let index = usize::try_from(interface).map_err(|_| Errno::ENODEV)?;
    nix::ifaddrs::getifaddrs()?
        .filter_map(|entry| entry.address?.as_link_addr().copied())
        .find(|link| link.ifindex() == index)
        .ok_or_else(|| {
            let text = format!("there is no interface of index {interface} to announce on");
            io::Error::new(io::ErrorKind::NotFound, text)
        })
}
