//! Gratuitous ARP: how a new owner tells switches and hosts where an IPv4
//! address lives now (RFC 826, RFC 5227 section 3, RFC 9568 section 6.4.1);
//! and who says or answers that one is theirs.

use super::{Claim, Mac};
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

/// The broadcast frame that asks who has `address`: a probe, whose sender
/// address of 0.0.0.0 changes nobody's table (RFC 5227 section 1.1).
#[must_use]
pub fn probe(mac: Mac, address: Ipv4Addr) -> [u8; FRAME_LEN] {
    let mut frame = gratuitous(mac, address, Form::Request);
    frame[28..32].fill(0);
    frame
}

/// What a frame says of whose an address is; nothing if it is no ARP message,
/// or one that claims none.
#[must_use]
pub fn claim(frame: &[u8]) -> Option<Claim> {
    let message = frame.get(14..FRAME_LEN)?;
    if frame.get(12..14)? != [0x08, 0x06] || message.get(..6)? != [0, 1, 0x08, 0, 6, 4] {
        return None;
    }
    let four = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(message.get(at..at + 4)?).ok()?));
    let (sender, target) = (four(14)?, four(24)?);
    let answer = match message.get(6..8)? {
        [0, 1] => false,
        [0, 2] => target != sender,
        _ => return None,
    };
    let mac = message.get(8..14)?.try_into().ok()?;
    (!sender.is_unspecified()).then_some(Claim { address: sender.into(), mac, answer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    #[test]
    fn who_announces_or_answers_claims_and_who_asks_does_not() {
        let vip = Ipv4Addr::new(10, 77, 0, 100);
        let said = |answer| Some(Claim { address: vip.into(), mac: MAC, answer });
        for form in Form::ALL {
            assert_eq!(claim(&gratuitous(MAC, vip, form)), said(false), "{form:?}");
        }
        let probe = probe(MAC, vip);
        assert_eq!((&probe[28..32], &probe[38..]), (&[0; 4][..], &vip.octets()[..]));
        assert_eq!(claim(&probe), None);
        // The kernel's answer to a probe: to its hardware address, and to 0.0.0.0.
        let mut answer = gratuitous(MAC, vip, Form::Reply);
        answer[38..].fill(0);
        assert_eq!(claim(&answer), said(true));
        // A host that asks for another from the address has it, too.
        let mut question = gratuitous(MAC, vip, Form::Request);
        question[38..].copy_from_slice(&[10, 77, 0, 1]);
        assert_eq!(claim(&question), said(false));
        let rows: [(usize, u8); 4] = [(13, 0), (15, 6), (19, 6), (21, 3)];
        for (at, byte) in rows {
            let mut other = answer;
            other[at] = byte;
            assert_eq!(claim(&other), None, "byte {at}");
        }
        for length in 0..FRAME_LEN {
            assert_eq!(claim(&answer[..length]), None, "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn no_frame_panics(frame in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = claim(&frame);
        }
    }
}
