//! Hears on a link who says that certain addresses are theirs: ARP, and
//! neighbour advertisements.
//!
//! The kernel drops whatever is of other addresses, so that a busy link costs
//! this process nothing.

use super::announce::link_address;
use super::datagram;
use super::readable::Readable;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{self, MsgFlags};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use vipd_core::settings::Family;
use vipd_core::wire::{Claim, arp, ndp};

/// EtherType of ARP.
const ARP: u16 = 0x0806;
const ADVERTISEMENT: u32 = 136;
/// Addresses that one socket watches: a filter has at most 4096 instructions
/// (BPF_MAXINSNS), two for each address.
pub const WATCHED: usize = 2000;
/// An ARP frame, or a neighbour advertisement with some options; of a longer
/// one the beginning is enough.
const BUFFER: usize = 128;
/// More than a socket's buffer holds.
const FORGOTTEN: usize = 1024;

/// Hears claims of some addresses of one family on one interface.
#[derive(Debug)]
pub struct ClaimSocket {
    socket: Readable<Socket>,
    family: Family,
}

impl ClaimSocket {
    /// Opens the socket for the interface of this index, on the caller's
    /// runtime. Of more than [`WATCHED`] addresses it hears the first.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` without CAP_NET_RAW; `NotFound` if there is no such
    /// interface.
    pub fn open(interface: u32, family: Family, addresses: &BTreeSet<IpAddr>) -> io::Result<Self> {
        let socket = match family {
            Family::V4 => {
                let protocol = Protocol::from(i32::from(ARP.to_be()));
                let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
                // Until it is bound it hears every interface.
                socket.attach_filter(&[accept(0)])?;
                socket::bind(socket.as_raw_fd(), &link_address(interface)?)?;
                socket
            }
            Family::V6 => {
                let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
                socket.attach_filter(&[accept(0)])?;
                let index = NonZeroU32::new(interface).ok_or(Errno::ENODEV)?;
                socket.bind_device_by_index_v4(Some(index))?;
                socket.set_recv_hoplimit_v6(true)?;
                socket
            }
        };
        socket.attach_filter(&filter(family, addresses))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Readable::new(socket)?, family })
    }

    /// Waits for a claim. Dropping the future loses none.
    ///
    /// # Errors
    ///
    /// What recv(2) says; `NetworkDown` when the interface has gone down: the
    /// socket stays usable.
    pub async fn receive(&self) -> io::Result<Claim> {
        let mut buffer = [0; BUFFER];
        loop {
            let claim = self.socket.read(|socket| self.take(socket, &mut buffer)).await?;
            if let Some(claim) = claim {
                return Ok(claim);
            }
        }
    }

    /// Throws away what waits to be read: whoever was too slow to look at it
    /// would take for true what may have ended since.
    pub fn forget(&self) {
        let mut buffer = [0; BUFFER];
        for _ in 0..FORGOTTEN {
            if self.take(self.socket.get(), &mut buffer).is_err() {
                return;
            }
        }
    }

    fn take(&self, socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<Claim>> {
        Ok(match self.family {
            Family::V4 => {
                let length = socket::recv(socket.as_raw_fd(), buffer, MsgFlags::empty())?;
                buffer.get(..length).and_then(arp::claim)
            }
            Family::V6 => {
                let facts = datagram::receive(socket, buffer)?;
                let message = buffer.get(..facts.length);
                message.and_then(|m| ndp::claim(m, facts.hop_limit?))
            }
        })
    }
}

/// The end of a filter: so many bytes of the packet are taken.
fn accept(bytes: u32) -> SockFilter {
    statement(libc::BPF_RET | libc::BPF_K, bytes)
}

fn statement(code: u32, k: u32) -> SockFilter {
    jump(code, k, 0, 0)
}

fn jump(code: u32, k: u32, yes: u8, no: u8) -> SockFilter {
    // Codes of the classic language fit in a byte.
    SockFilter::new(u16::try_from(code).unwrap_or(0), yes, no, k)
}

/// Lets pass what may be a claim of one of the addresses: ARP by its sender's
/// address, neighbour advertisements by the end of their target.
fn filter(family: Family, addresses: &BTreeSet<IpAddr>) -> Vec<SockFilter> {
    const VLAN_TAG_PRESENT: i32 = libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG_PRESENT;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let byte = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let word = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let mut program = match family {
        // A frame of another VLAN is of another link. The frame's bytes 28 to 31 are the sender's address.
        Family::V4 => vec![
            statement(byte, VLAN_TAG_PRESENT.cast_unsigned()),
            jump(equal, 0, 1, 0),
            accept(0),
            statement(word, 28),
        ],
        // The message's first byte is its type, its bytes 8 to 23 are the target.
        Family::V6 => {
            vec![statement(byte, 0), jump(equal, ADVERTISEMENT, 1, 0), accept(0), statement(word, 20)]
        }
    };
    let ends = addresses.iter().filter(|a| Family::of(**a) == family).map(|a| match a {
        IpAddr::V4(four) => four.to_bits(),
        IpAddr::V6(six) => u32::try_from(six.to_bits() & u128::from(u32::MAX)).unwrap_or(0),
    });
    for end in ends.take(WATCHED) {
        program.extend([jump(equal, end, 0, 1), accept(u32::MAX)]);
    }
    program.push(accept(0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_no_more_instructions_than_the_kernel_takes() {
        let many = |at: u32| [IpAddr::V4(at.into()), IpAddr::V6(u128::from(at).into())];
        let addresses: BTreeSet<IpAddr> = (0..3000).flat_map(many).collect();
        for family in Family::ALL {
            assert_eq!(filter(family, &addresses).len(), 4 + 2 * WATCHED + 1);
        }
        assert_eq!(filter(Family::V4, &BTreeSet::new()).len(), 5);
    }
}
