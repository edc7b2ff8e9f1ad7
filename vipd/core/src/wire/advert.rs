//! VRRP adverts: version 3 (RFC 9568 section 5) and version 2 (RFC 3768 section 5).
//!
//! ```text
//! v3   0                   1                   2                   3
//!     |  3  |  type |      VRID     |   priority    |     count     |
//!     |  0  | interval (12 bits, centiseconds)      |    checksum   |
//!     |                   addresses, 4 or 16 bytes each             |
//!
//! v2  |  2  |  type |      VRID     |   priority    |     count     |
//!     |   auth type   | interval (s)  |           checksum          |
//!     |                   addresses, 4 bytes each                   |
//!     |                8 bytes of authentication data               |
//! ```

use super::{Checksum, PROTOCOL};
use crate::settings::{Family, VrrpVersion};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;
use std::time::Duration;

/// The only type of packet that VRRP knows.
const TYPE_ADVERTISEMENT: u8 = 1;
/// Fixed bytes in front of the addresses.
const HEADER: usize = 8;
/// Bytes of authentication data behind a v2 packet's addresses.
const V2_AUTHENTICATION: usize = 8;
/// Ethernet's padding may follow a packet: zeros, fewer than a smallest frame.
const PADDING_MAX: usize = 46;
/// keepalived 2.4 and later can add an HMAC of this length.
const HMAC_TRAILER: usize = 28;
/// The longest interval that version 3 can say.
const V3_INTERVAL_MAX_CENTISECONDS: u16 = 0x0fff;

/// The priority that says "I am going, take over".
pub const PRIORITY_RELEASE: u8 = 0;
/// The priority of a router whose own address is the virtual one.
pub const PRIORITY_OWNER: u8 = 255;

/// One VRRP advert.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Advert {
    /// The version it is written in.
    pub version: VrrpVersion,
    /// The virtual router.
    pub vrid: NonZeroU8,
    /// The sender's priority; 0 releases, 255 is the addresses' owner.
    pub priority: u8,
    /// The sender's advert interval: centiseconds in version 3, seconds in version 2.
    pub interval: Duration,
    /// The virtual addresses, all of one family.
    pub addresses: Vec<IpAddr>,
}

/// Why bytes are no advert.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, thiserror::Error)]
pub enum Malformed {
    /// Shorter than its header or the addresses it announces.
    #[error("truncated")]
    Truncated,
    /// Longer than the addresses it announces, and what follows is neither
    /// padding nor keepalived's trailer.
    #[error("oversized")]
    Oversized,
    /// Neither version 2 nor 3, or version 2 over IPv6.
    #[error("unknown-version")]
    Version,
    /// Not an advertisement.
    #[error("unknown-type")]
    Type,
    /// A VRID of zero.
    #[error("vrid-zero")]
    VridZero,
    /// No address (RFC 9568, erratum 8299).
    #[error("no-address")]
    CountZero,
    /// An interval of zero (RFC 9568, erratum 8301).
    #[error("interval-zero")]
    IntervalZero,
    /// A version 2 packet that asks for authentication (removed by RFC 3768).
    #[error("authentication")]
    Authentication,
    /// The checksum is wrong.
    #[error("wrong-checksum")]
    Checksum,
}

impl Advert {
    /// Reads an advert from an IP packet's payload.
    ///
    /// An IPv4 packet of version 3 may carry its checksum with or without a
    /// pseudo-header: RFC 9568 takes the message only, keepalived and FRR add one.
    ///
    /// # Errors
    /// [`Malformed`] names the first thing that is wrong.
    pub fn parse(payload: &[u8], source: IpAddr, destination: IpAddr) -> Result<Self, Malformed> {
        let header: &[u8; HEADER] = payload.first_chunk().ok_or(Malformed::Truncated)?;
        let family = Family::of(source);
        let version = match (header[0] >> 4, family) {
            (2, Family::V4) => VrrpVersion::V2,
            (3, _) => VrrpVersion::V3,
            _ => return Err(Malformed::Version),
        };
        if header[0] & 0x0f != TYPE_ADVERTISEMENT {
            return Err(Malformed::Type);
        }
        let vrid = NonZeroU8::new(header[1]).ok_or(Malformed::VridZero)?;
        let count = usize::from(header[3]);
        if count == 0 {
            return Err(Malformed::CountZero);
        }
        let message = message_of(payload, version, family, count)?;
        if !checksum_is_right(message, payload, version, source, destination) {
            return Err(Malformed::Checksum);
        }
        let interval = match version {
            VrrpVersion::V2 if header[4] != 0 => return Err(Malformed::Authentication),
            VrrpVersion::V2 => Duration::from_secs(u64::from(header[5])),
            VrrpVersion::V3 => {
                let centiseconds = u16::from_be_bytes([header[4], header[5]]) & V3_INTERVAL_MAX_CENTISECONDS;
                Duration::from_millis(u64::from(centiseconds) * 10)
            }
        };
        if interval.is_zero() {
            return Err(Malformed::IntervalZero);
        }
        let addresses = read_addresses(&message[HEADER..], family, count);
        Ok(Self { version, vrid, priority: header[2], interval, addresses })
    }

    /// Writes the advert as the payload of a packet from `source` to `destination`.
    ///
    /// Addresses past the 255th and of another family than `source` are left
    /// out, and an interval the version cannot say is rounded to one it can:
    /// checked settings hold neither.
    #[must_use]
    pub fn write(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let family = Family::of(source);
        let of_family = self.addresses.iter().filter(|a| Family::of(**a) == family);
        let addresses: Vec<&IpAddr> = of_family.take(usize::from(u8::MAX)).collect();
        let count = u8::try_from(addresses.len()).unwrap_or(u8::MAX);
        let (first, interval) = match self.version {
            VrrpVersion::V2 => {
                let seconds = self.interval.as_secs().clamp(1, 255);
                (0x20, [0, u8::try_from(seconds).unwrap_or(u8::MAX)])
            }
            VrrpVersion::V3 => {
                let centiseconds = u16::try_from(self.interval.as_millis() / 10).unwrap_or(u16::MAX);
                (0x30, centiseconds.clamp(1, V3_INTERVAL_MAX_CENTISECONDS).to_be_bytes())
            }
        };
        let mut bytes = Vec::with_capacity(HEADER + 16 * addresses.len() + V2_AUTHENTICATION);
        bytes.extend([first | TYPE_ADVERTISEMENT, self.vrid.get(), self.priority, count]);
        bytes.extend(interval);
        bytes.extend([0, 0]);
        for address in addresses {
            match address {
                IpAddr::V4(a) => bytes.extend(a.octets()),
                IpAddr::V6(a) => bytes.extend(a.octets()),
            }
        }
        if self.version == VrrpVersion::V2 {
            bytes.extend([0; V2_AUTHENTICATION]);
        }
        let sum = match self.version {
            VrrpVersion::V2 => Checksum::default().add(&bytes).finish(),
            VrrpVersion::V3 => with_pseudo_header(&bytes, source, destination),
        };
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// The part of the payload that is the message itself.
fn message_of(
    payload: &[u8],
    version: VrrpVersion,
    family: Family,
    count: usize,
) -> Result<&[u8], Malformed> {
    let each = match family {
        Family::V4 => 4,
        Family::V6 => 16,
    };
    let authentication = match version {
        VrrpVersion::V2 => V2_AUTHENTICATION,
        VrrpVersion::V3 => 0,
    };
    let length = HEADER + each * count + authentication;
    let (message, trailer) = payload.split_at_checked(length).ok_or(Malformed::Truncated)?;
    let padding = trailer.len() <= PADDING_MAX && trailer.iter().all(|b| *b == 0);
    if padding || trailer.len() == HMAC_TRAILER { Ok(message) } else { Err(Malformed::Oversized) }
}

/// Whether the checksum holds over the message, or over all that came (a
/// sender that adds a trailer may have summed it too).
fn checksum_is_right(
    message: &[u8],
    all: &[u8],
    version: VrrpVersion,
    source: IpAddr,
    destination: IpAddr,
) -> bool {
    let plain = |bytes: &[u8]| Checksum::default().add(bytes).finish() == 0;
    let pseudo = |bytes: &[u8]| with_pseudo_header(bytes, source, destination) == 0;
    let right = |bytes: &[u8]| match (version, Family::of(source)) {
        (VrrpVersion::V2, _) => plain(bytes),
        (VrrpVersion::V3, Family::V4) => pseudo(bytes) || plain(bytes),
        (VrrpVersion::V3, Family::V6) => pseudo(bytes),
    };
    right(message) || (all.len() > message.len() && right(all))
}

fn with_pseudo_header(message: &[u8], source: IpAddr, destination: IpAddr) -> u16 {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    Checksum::default().add_pseudo_header(source, destination, PROTOCOL, length).add(message).finish()
}

fn read_addresses(bytes: &[u8], family: Family, count: usize) -> Vec<IpAddr> {
    match family {
        Family::V4 => {
            bytes.as_chunks::<4>().0.iter().take(count).map(|b| IpAddr::V4(Ipv4Addr::from(*b))).collect()
        }
        Family::V6 => {
            bytes.as_chunks::<16>().0.iter().take(count).map(|b| IpAddr::V6(Ipv6Addr::from(*b))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 11));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 12));
    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100));
    const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));

    fn advert(version: VrrpVersion) -> Advert {
        Advert {
            version,
            vrid: NonZeroU8::new(51).unwrap_or(NonZeroU8::MIN),
            priority: 200,
            interval: Duration::from_secs(1),
            addresses: vec![VIP],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for version in [VrrpVersion::V2, VrrpVersion::V3] {
            let sent = advert(version);
            assert_eq!(Advert::parse(&sent.write(A, GROUP), A, GROUP), Ok(sent));
        }
        let six = |n: u16| IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n));
        let sent = Advert { addresses: vec![six(1), six(2)], ..advert(VrrpVersion::V3) };
        assert_eq!(Advert::parse(&sent.write(six(9), six(8)), six(9), six(8)), Ok(sent.clone()));
        assert_eq!(Advert::parse(&sent.write(six(9), six(8)), six(9), six(7)), Err(Malformed::Checksum));
    }

    #[test]
    fn golden_bytes() {
        let v3 = [0x31, 51, 200, 1, 0x00, 0x64, 0x00, 0x00, 10, 77, 0, 100];
        let mut written = advert(VrrpVersion::V3).write(A, GROUP);
        written[6..8].fill(0);
        assert_eq!(written, v3);
        let v2 = [0x21, 51, 200, 1, 0, 1, 0, 0, 10, 77, 0, 100, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut written = advert(VrrpVersion::V2).write(A, GROUP);
        written[6..8].fill(0);
        assert_eq!(written, v2);
    }

    #[test]
    fn both_forms_of_the_ipv4_checksum_are_taken() {
        let mut bytes = advert(VrrpVersion::V3).write(A, B);
        assert!(Advert::parse(&bytes, A, B).is_ok());
        bytes[6..8].fill(0);
        let plain = Checksum::default().add(&bytes).finish();
        bytes[6..8].copy_from_slice(&plain.to_be_bytes());
        assert!(Advert::parse(&bytes, A, B).is_ok());
        bytes[7] ^= 1;
        assert_eq!(Advert::parse(&bytes, A, B), Err(Malformed::Checksum));
    }

    #[test]
    fn padding_is_tolerated_and_more_is_not() {
        let mut bytes = advert(VrrpVersion::V3).write(A, GROUP);
        bytes.extend([0; 18]);
        assert!(Advert::parse(&bytes, A, GROUP).is_ok());
        bytes.push(1);
        assert_eq!(Advert::parse(&bytes, A, GROUP), Err(Malformed::Oversized));
        bytes.extend([7; 9]);
        assert!(Advert::parse(&bytes, A, GROUP).is_ok(), "28 bytes are keepalived's trailer");
        bytes.truncate(12);
        bytes.extend([0; 1400]);
        assert_eq!(Advert::parse(&bytes, A, GROUP), Err(Malformed::Oversized));
    }

    #[test]
    fn every_fault_has_its_name() {
        let broken = |change: fn(&mut Vec<u8>)| {
            let mut bytes = advert(VrrpVersion::V3).write(A, GROUP);
            change(&mut bytes);
            Advert::parse(&bytes, A, GROUP)
        };
        assert_eq!(broken(|b| b.truncate(7)), Err(Malformed::Truncated));
        assert_eq!(broken(|b| b.truncate(11)), Err(Malformed::Truncated));
        assert_eq!(broken(|b| b[0] = 0x41), Err(Malformed::Version));
        assert_eq!(broken(|b| b[0] = 0x32), Err(Malformed::Type));
        assert_eq!(broken(|b| b[1] = 0), Err(Malformed::VridZero));
        assert_eq!(broken(|b| b[3] = 0), Err(Malformed::CountZero));
        assert_eq!(broken(|b| b[3] = 2), Err(Malformed::Truncated));
        assert_eq!(broken(|b| b[2] = 201), Err(Malformed::Checksum));
        let resummed = |change: fn(&mut Vec<u8>)| broken(change).err().filter(|e| *e != Malformed::Checksum);
        assert_eq!(
            resummed(|b| {
                b[5] = 0;
                b[6..8].fill(0);
                let s = Checksum::default().add(b).finish();
                b[6..8].copy_from_slice(&s.to_be_bytes());
            }),
            Some(Malformed::IntervalZero)
        );
        let mut v2 = advert(VrrpVersion::V2).write(A, GROUP);
        v2[4] = 1;
        v2[6..8].fill(0);
        let sum = Checksum::default().add(&v2).finish();
        v2[6..8].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(Advert::parse(&v2, A, GROUP), Err(Malformed::Authentication));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), six in any::<bool>()) {
            let (source, destination) = if six {
                (IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST))
            } else {
                (A, B)
            };
            if let Ok(advert) = Advert::parse(&bytes, source, destination) {
                prop_assert!(!advert.addresses.is_empty());
            }
        }

        #[test]
        fn a_changed_bit_never_passes_as_another_advert(bit in 0_usize..96) {
            let sent = advert(VrrpVersion::V3);
            let mut bytes = sent.write(A, B);
            bytes[bit / 8] ^= 1 << (bit % 8);
            // Reserved bits are the only ones a reader may not look at; they are summed too.
            prop_assert!(Advert::parse(&bytes, A, B).is_err());
        }
    }
}
