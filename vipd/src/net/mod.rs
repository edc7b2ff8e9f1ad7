//! The daemon's sockets on the wire: adverts, messages between nodes and
//! announcements; and its clock.
//!
//! * [`advert`]: raw sockets of IP protocol 112.
//! * [`announce`]: gratuitous ARP and neighbour advertisements.
//! * [`clock`]: the time, and a timer exact to the microsecond.
//! * [`neighbours`]: who else says that an address is theirs.
//! * [`peer`]: UDP between nodes.

pub mod advert;
pub mod announce;
pub mod clock;
mod datagram;
pub mod neighbours;
pub mod peer;
pub(crate) mod readable;

pub use advert::AdvertSocket;
pub use announce::Announcer;
pub use clock::Timer;
pub use neighbours::ClaimSocket;
pub use peer::PeerSocket;

use std::net::IpAddr;

/// The TTL or hop limit of everything a node sends to a node: a receiver that
/// demands it knows that no router lies between (GTSM, RFC 5082).
pub const HOP_LIMIT: u8 = 255;

/// Whether an address is of one link only, as those are that IPv6 adverts come from.
#[must_use]
pub const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(six) => six.is_unicast_link_local(),
    }
}
