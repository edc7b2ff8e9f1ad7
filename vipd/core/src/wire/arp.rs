//! Gratuitous ARP: how a new owner tells switches and hosts where an IPv4
//! address lives now (RFC 826, RFC 5227 section 3, RFC 9568 section 6.4.1).

use super::Mac;
use std::net::Ipv4Addr;

/// The length of a frame: Ethernet header and ARP message, unpadded (the
/// interface's driver pads).
pub const FRAME_LEN: usize = 14 + 28;

/// Hosts and switches differ in which form they believe, so both are sent.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Form {
    /// An ARP request for the sender's own address (an "ARP announcement").
    Request,
    /// An ARP reply that nobody asked for.
    Reply,
}

impl Form {
    /// Both forms, in the order in which they are sent.
    pub const ALL: [Self; 2] = [Self::Request, Self::Reply];
}

/// The broadcast frame that says `address` lives at `mac`: sender and target
/// address are both `address`.
#[must_use]
pub fn gratuitous(mac: Mac, address: Ipv4Addr, form: Form) -> [u8; FRAME_LEN] {
    let (operation, target) = match form {
        // RFC 5227: the target hardware address of an announcement is zero.
        Form::Request => (1, [0; 6]),
        Form::Reply => (2, mac),
    };
    let mut frame = [0; FRAME_LEN];
    frame[0..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    // Hardware type Ethernet, protocol type IPv4, their address lengths.
    frame[14..20].copy_from_slice(&[0, 1, 0x08, 0, 6, 4]);
    frame[21] = operation;
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.octets());
    frame[32..38].copy_from_slice(&target);
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [0x02, 0x42, 0x0a, 0x4d, 0x00, 0x0b];

    #[test]
    fn the_request_form_byte_by_byte() {
        let golden = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x42, 0x0a, 0x4d, 0x00, 0x0b, 0x08,
            0x06, // Ethernet
            0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01, // ARP request
            0x02, 0x42, 0x0a, 0x4d, 0x00, 0x0b, 10, 77, 0, 100, // sender
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 10, 77, 0, 100, // target
        ];
        assert_eq!(gratuitous(MAC, Ipv4Addr::new(10, 77, 0, 100), Form::Request), golden);
    }

    #[test]
    fn the_reply_form_byte_by_byte() {
        let golden = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x42, 0x0a, 0x4d, 0x00, 0x0b, 0x08,
            0x06, // Ethernet
            0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x02, // ARP reply
            0x02, 0x42, 0x0a, 0x4d, 0x00, 0x0b, 10, 77, 0, 100, // sender
            0x02, 0x42, 0x0a, 0x4d, 0x00, 0x0b, 10, 77, 0, 100, // target
        ];
        assert_eq!(gratuitous(MAC, Ipv4Addr::new(10, 77, 0, 100), Form::Reply), golden);
    }
}
