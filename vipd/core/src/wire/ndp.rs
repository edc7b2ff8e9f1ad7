//! Unsolicited neighbour advertisements: gratuitous ARP's counterpart for IPv6
//! (RFC 4861 sections 4.4 and 7.2.6, RFC 9568 section 6.4.1).

use super::{Checksum, Mac};
use std::net::Ipv6Addr;

/// The length of a frame: Ethernet header, IPv6 header, advertisement with one
/// target link-layer address option.
pub const FRAME_LEN: usize = 14 + 40 + MESSAGE_LEN;

/// The advertisement's length, as the headers say it.
const LENGTH: u16 = 32;
const MESSAGE_LEN: usize = LENGTH as usize;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ICMPV6: u8 = 58;

/// The frame to all nodes that says `target` lives at `mac`: flags R and O
/// set, S clear. `source` is an address of the sending interface.
#[must_use]
pub fn unsolicited(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> [u8; FRAME_LEN] {
    let mut message = [0; MESSAGE_LEN];
    message[0] = 136;
    message[4] = 0b1010_0000;
    message[8..24].copy_from_slice(&target.octets());
    // Option: target link-layer address, one unit of eight bytes.
    message[24..26].copy_from_slice(&[2, 1]);
    message[26..32].copy_from_slice(&mac);
    let checksum = checksum(source, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = [0; FRAME_LEN];
    frame[0..6].copy_from_slice(&ALL_NODES_MAC);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    // Payload length 32, ICMPv6, hop limit 255: receivers drop anything less.
    frame[18..22].copy_from_slice(&[0, 32, ICMPV6, 255]);
    frame[22..38].copy_from_slice(&source.octets());
    frame[38..54].copy_from_slice(&ALL_NODES.octets());
    frame[54..].copy_from_slice(&message);
    frame
}

/// The ICMPv6 checksum of a message to all nodes (RFC 4443 section 2.3).
fn checksum(source: Ipv6Addr, message: &[u8; MESSAGE_LEN]) -> u16 {
    let sum = Checksum::default();
    sum.add_pseudo_header(source.into(), ALL_NODES.into(), ICMPV6, LENGTH).add(message).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [0x02, 0x42, 0x0a, 0x4d, 0x00, 0x0b];
    const VIP: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);

    #[test]
    fn the_frame_byte_by_byte() {
        let golden: [u8; FRAME_LEN] = [
            0x33, 0x33, 0x00, 0x00, 0x00, 0x01, 0x02, 0x42, 0x0a, 0x4d, 0x00, 0x0b, 0x86,
            0xdd, // Ethernet
            0x60, 0x00, 0x00, 0x00, 0x00, 0x20, 0x3a, 0xff, // IPv6
            0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x00, // source
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // destination
            0x88, 0x00, 0xcd, 0x15, 0xa0, 0x00, 0x00, 0x00, // advertisement: R and O
            0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x00, // target
            0x02, 0x01, 0x02, 0x42, 0x0a, 0x4d, 0x00, 0x0b, // its link-layer address
        ];
        assert_eq!(unsolicited(MAC, VIP, VIP), golden);
    }

    #[test]
    fn a_receiver_finds_the_checksum_right() {
        let frame = unsolicited(MAC, Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, 4), VIP);
        let mut message = [0; MESSAGE_LEN];
        message.copy_from_slice(&frame[54..]);
        // Over a message that holds its checksum the sum is all ones.
        assert_eq!(checksum(Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, 4), &message), 0);
    }
}
