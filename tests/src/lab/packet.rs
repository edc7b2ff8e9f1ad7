//! Packet sockets: the one place of this crate with `unsafe`, since no safe
//! wrapper makes the address such a socket is bound to (packet(7)).
#![allow(unsafe_code)]

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::os::fd::{AsRawFd, OwnedFd};

/// An interface of the calling thread's network namespace.
pub(crate) struct Interface {
    pub(crate) index: i32,
    pub(crate) mac: [u8; 6],
}

/// Finds an interface by name.
pub(crate) fn interface(name: &str) -> Result<Interface> {
    let index = nix::net::if_::if_nametoindex(name).with_context(|| format!("no interface {name}"))?;
    let all = nix::ifaddrs::getifaddrs().context("cannot list interfaces")?;
    let mac = all
        .filter(|i| i.interface_name == name)
        .find_map(|i| i.address?.as_link_addr()?.addr())
        .with_context(|| format!("{name} has no Ethernet address"))?;
    Ok(Interface { index: i32::try_from(index).context("an index is no i32")?, mac })
}

/// Every frame of an interface that has an EtherType, in and out.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens one in the calling thread's network namespace; a receive that
    /// meets nothing gives up after 100 ms.
    pub(crate) fn open(interface: &Interface, ethertype: u16) -> Result<Self> {
        // Protocol 0 hears nothing until it is bound: no frame of another interface slips in.
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .context("cannot open a packet socket")?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(0, 100_000))
            .context("cannot set a packet socket's time-out")?;
        // Only the machine's own root may; others make do with less.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &(8 << 20));
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).context("AF_PACKET is no u16")?,
            sll_protocol: ethertype.to_be(),
            sll_ifindex: interface.index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).context("a length")?;
        // SAFETY: the pointer is to a sockaddr_ll that outlives the call, its
        // family says so, and the length is its own; from_raw copies it.
        let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
        let address = address.context("a packet socket's address is refused")?;
        bind(fd.as_raw_fd(), &address).context("cannot bind a packet socket")?;
        Ok(Self { fd })
    }

    pub(crate) fn send(&self, frame: &[u8]) -> nix::Result<usize> {
        send(self.fd.as_raw_fd(), frame, MsgFlags::empty())
    }

    pub(crate) fn receive(&self, buffer: &mut [u8]) -> nix::Result<usize> {
        recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty())
    }
}
