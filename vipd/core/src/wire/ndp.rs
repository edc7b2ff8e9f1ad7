//! Unsolicited neighbour advertisements: gratuitous ARP's counterpart for IPv6
//! (RFC 4861 sections 4.4 and 7.2.6, RFC 9568 section 6.4.1); and who says or
//! answers that an address is theirs.

use super::{Checksum, Claim, Mac};
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
const ADVERTISEMENT: u8 = 136;
/// Target link-layer address, one unit of eight bytes.
const TARGET_OPTION: [u8; 2] = [2, 1];

/// The frame to all nodes that says `target` lives at `mac`: flags R and O
/// set, S clear. `source` is an address of the sending interface.
#[must_use]
pub fn unsolicited(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> [u8; FRAME_LEN] {
    let mut message = [0; MESSAGE_LEN];
    message[0] = ADVERTISEMENT;
    message[4] = 0b1010_0000;
    message[8..24].copy_from_slice(&target.octets());
    // Option: target link-layer address, one unit of eight bytes.
    message[24..26].copy_from_slice(&TARGET_OPTION);
    message[26..32].copy_from_slice(&mac);
    frame(mac, source, (ALL_NODES, ALL_NODES_MAC), message)
}

/// The frame that asks who has `target`: a neighbour solicitation to its
/// solicited-node group (RFC 4861 section 4.3). `source` is an address of the
/// sending interface that does not float: the answer comes to it alone.
#[must_use]
pub fn solicitation(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> [u8; FRAME_LEN] {
    let mut message = [0; MESSAGE_LEN];
    message[0] = 135;
    message[8..24].copy_from_slice(&target.octets());
    // Option: source link-layer address.
    message[24..26].copy_from_slice(&[1, 1]);
    message[26..32].copy_from_slice(&mac);
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    frame(mac, source, (group, [0x33, 0x33, 0xff, a, b, c]), message)
}

fn frame(mac: Mac, source: Ipv6Addr, to: (Ipv6Addr, Mac), mut message: [u8; MESSAGE_LEN]) -> [u8; FRAME_LEN] {
    let checksum = checksum(source, to.0, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = [0; FRAME_LEN];
    frame[0..6].copy_from_slice(&to.1);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    // Payload length 32, ICMPv6, hop limit 255: receivers drop anything less.
    frame[18..22].copy_from_slice(&[0, 32, ICMPV6, 255]);
    frame[22..38].copy_from_slice(&source.octets());
    frame[38..54].copy_from_slice(&to.0.octets());
    frame[54..].copy_from_slice(&message);
    frame
}

/// What an ICMPv6 message that came with this hop limit says of whose an
/// address is; nothing if it is no neighbour advertisement of this link, or
/// one without a hardware address. The kernel has looked at its checksum.
#[must_use]
pub fn claim(message: &[u8], hop_limit: u8) -> Option<Claim> {
    // Only what has passed no router (RFC 4861 section 7.1.2).
    if hop_limit != 255 || message.get(..2)? != [ADVERTISEMENT, 0] {
        return None;
    }
    let answer = message.get(4)? & 0b0100_0000 != 0;
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(message.get(8..24)?).ok()?);
    let mut options = message.get(24..)?;
    loop {
        let length = usize::from(*options.get(1)?) * 8;
        let option = options.get(..length).filter(|o| !o.is_empty())?;
        if option.get(..2)? == TARGET_OPTION {
            let mac = option.get(2..8)?.try_into().ok()?;
            return Some(Claim { address: target.into(), mac, answer });
        }
        options = options.get(length..)?;
    }
}

/// The ICMPv6 checksum of a message (RFC 4443 section 2.3).
fn checksum(source: Ipv6Addr, to: Ipv6Addr, message: &[u8; MESSAGE_LEN]) -> u16 {
    let sum = Checksum::default();
    sum.add_pseudo_header(source.into(), to.into(), ICMPV6, LENGTH).add(message).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        assert_eq!(checksum(Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, 4), ALL_NODES, &message), 0);
    }

    #[test]
    fn a_question_goes_to_the_group_of_the_address() {
        let own = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x12);
        let frame = solicitation(MAC, own, VIP);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0, 1, 0]);
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x100);
        assert_eq!(frame[38..54], group.octets());
        let mut message = [0; MESSAGE_LEN];
        message.copy_from_slice(&frame[54..]);
        assert_eq!(message[..2], [135, 0]);
        assert_eq!(checksum(own, group, &message), 0);
        assert_eq!(claim(&message, 255), None, "who asks claims nothing");
    }

    #[test]
    fn who_announces_or_answers_claims() {
        let announced = &unsolicited(MAC, VIP, VIP)[54..];
        let said = |answer| Some(Claim { address: VIP.into(), mac: MAC, answer });
        assert_eq!(claim(announced, 255), said(false));
        assert_eq!(claim(announced, 254), None, "it may have come through a router");
        let mut answered = announced.to_vec();
        answered[4] |= 0b0100_0000;
        assert_eq!(claim(&answered, 255), said(true));
        // A nonce (RFC 3971) before the hardware address.
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        let longer = [&answered[..24], &nonce, &answered[24..]].concat();
        assert_eq!(claim(&longer, 255), said(true));
        for length in 0..announced.len() {
            assert_eq!(claim(&announced[..length], 255), None, "{length} bytes");
        }
        let endless = [&answered[..24], &[14, 0, 2, 1, 0, 0, 0, 0]].concat();
        assert_eq!(claim(&endless, 255), None);
    }

    proptest! {
        #[test]
        fn no_message_panics(mut message in proptest::collection::vec(any::<u8>(), 0..90), real in any::<bool>()) {
            if real && message.len() > 2 {
                message[..2].copy_from_slice(&[ADVERTISEMENT, 0]);
            }
            let _ = claim(&message, 255);
        }
    }
}
