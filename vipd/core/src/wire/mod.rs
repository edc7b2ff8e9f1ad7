//! Bytes of the network, and the types they stand for.
//!
//! * [`advert`]: VRRP adverts, versions 2 and 3.
//! * [`arp`]: gratuitous ARP, and whose an IPv4 address is.
//! * [`ndp`]: neighbour advertisements, and whose an IPv6 address is.
//! * [`peer`]: what nodes tell each other beside VRRP.

pub mod advert;
pub mod arp;
pub mod ndp;
pub mod peer;

use std::net::IpAddr;

/// The IP protocol number of VRRP, also the next header of its pseudo-header.
pub const PROTOCOL: u8 = 112;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Somebody on the link says that an address is theirs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// Whose: not authenticated by anything.
    pub mac: Mac,
    /// Whether it answers a question; else it was said unasked.
    pub answer: bool,
}

/// An Ethernet address as people write it.
#[must_use]
pub fn show_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A running Internet checksum (RFC 1071).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checksum(u32);

impl Checksum {
    /// Adds bytes; an odd last one counts as the high half of a word.
    pub(crate) fn add(mut self, bytes: &[u8]) -> Self {
        for pair in bytes.chunks(2) {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            self.0 += u32::from(word);
            self.0 = (self.0 & 0xffff) + (self.0 >> 16);
        }
        self
    }

    /// Adds the pseudo-header of an upper-layer packet (RFC 768, RFC 8200 section 8.1).
    pub(crate) fn add_pseudo_header(
        self,
        source: IpAddr,
        destination: IpAddr,
        next: u8,
        length: u16,
    ) -> Self {
        let with_address = |sum: Self, address: IpAddr| match address {
            IpAddr::V4(a) => sum.add(&a.octets()),
            IpAddr::V6(a) => sum.add(&a.octets()),
        };
        with_address(with_address(self, source), destination).add(&[0, next]).add(&length.to_be_bytes())
    }

    /// The value for the checksum's field; zero over data that holds a right one.
    pub(crate) fn finish(self) -> u16 {
        let folded = (self.0 & 0xffff) + (self.0 >> 16);
        !u16::try_from(folded & 0xffff).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Checksum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), !0xddf2);
    }
}
