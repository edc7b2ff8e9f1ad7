//! The datagrams of the peer port, when a cluster key is set.
//!
//! ```text
//! "VIPD" | version 2 | kind | 0 0 | ...
//! ask     kind 1: sender, index | first message of the handshake  | check
//! answer  kind 2: to, index     | second message of the handshake | check
//! data    kind 3: to, number    | sealed message
//! advert  kind 4: VRRP advert   | its seal
//! ```
//! Numbers are big-endian. `sender` is a node's number, `index` the number its
//! sender gave to the session, `to` the one its receiver did; 4 bytes each, and
//! the number of a data message 8. `check` is an HMAC over all before it: what
//! was not sent by a node costs no handshake. Version 1 are messages without a seal
//! ([`vipd_core::wire::peer`]).

use ring::hmac;

const MAGIC: [u8; 4] = *b"VIPD";
/// The version of sealed datagrams.
pub(super) const VERSION: u8 = 2;
const PLAIN: u8 = 1;
const HEADER: usize = 8;
/// HMAC-SHA-256 cut to 128 bits (RFC 2104 section 5).
pub(super) const CHECK: usize = 16;

/// A datagram's parts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Frame<'a> {
    Ask(Handshake<'a>),
    Answer(Handshake<'a>),
    Data { to: u32, number: u64, sealed: &'a [u8] },
    Advert(&'a [u8]),
}

/// A message of the handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Handshake<'a> {
    /// Who asks, or whom the answer is to.
    pub(super) party: u32,
    /// What the sender calls the session.
    pub(super) index: u32,
    pub(super) noise: &'a [u8],
    covered: &'a [u8],
    check: &'a [u8; CHECK],
}

impl Handshake<'_> {
    /// Whether somebody with the key wrote it.
    pub(super) fn is_of(&self, key: &hmac::Key) -> bool {
        let tag = hmac::sign(key, self.covered);
        let Some(own) = tag.as_ref().first_chunk::<CHECK>() else { return false };
        // Not in constant time: it guards against floods, the handshake itself against forgers.
        own == self.check
    }
}

/// Why a datagram has no parts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unreadable {
    /// It is a message without a seal.
    Plain,
    /// It is of a version this program does not speak.
    Version(u8),
    /// Anything else.
    Garbage,
}

impl<'a> Frame<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let (header, body) = bytes.split_first_chunk::<HEADER>().ok_or(Unreadable::Garbage)?;
        let [a, b, c, d, version, kind, zero, nil] = *header;
        if [a, b, c, d] != MAGIC {
            return Err(Unreadable::Garbage);
        }
        match version {
            PLAIN => return Err(Unreadable::Plain),
            VERSION => {}
            other => return Err(Unreadable::Version(other)),
        }
        if (zero, nil) != (0, 0) {
            return Err(Unreadable::Garbage);
        }
        let frame = match kind {
            1 => handshake(bytes, body).map(Self::Ask),
            2 => handshake(bytes, body).map(Self::Answer),
            3 => data(body),
            4 => Some(Self::Advert(body)),
            _ => None,
        };
        frame.ok_or(Unreadable::Garbage)
    }
}

fn handshake<'a>(all: &'a [u8], body: &'a [u8]) -> Option<Handshake<'a>> {
    let (party, rest) = body.split_first_chunk()?;
    let (index, rest) = rest.split_first_chunk()?;
    let (noise, check) = rest.split_last_chunk()?;
    let covered = &all[..all.len() - CHECK];
    Some(Handshake {
        party: u32::from_be_bytes(*party),
        index: u32::from_be_bytes(*index),
        noise,
        covered,
        check,
    })
}

fn data(body: &[u8]) -> Option<Frame<'_>> {
    let (to, rest) = body.split_first_chunk()?;
    let (number, sealed) = rest.split_first_chunk()?;
    Some(Frame::Data { to: u32::from_be_bytes(*to), number: u64::from_be_bytes(*number), sealed })
}

fn header(kind: u8, room: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + room);
    bytes.extend(MAGIC);
    bytes.extend([VERSION, kind, 0, 0]);
    bytes
}

pub(super) fn ask(sender: u32, index: u32, noise: &[u8], key: &hmac::Key) -> Vec<u8> {
    checked(header(1, 8 + noise.len() + CHECK), sender, index, noise, key)
}

pub(super) fn answer(to: u32, index: u32, noise: &[u8], key: &hmac::Key) -> Vec<u8> {
    checked(header(2, 8 + noise.len() + CHECK), to, index, noise, key)
}

fn checked(mut bytes: Vec<u8>, party: u32, index: u32, noise: &[u8], key: &hmac::Key) -> Vec<u8> {
    bytes.extend(party.to_be_bytes());
    bytes.extend(index.to_be_bytes());
    bytes.extend(noise);
    let tag = hmac::sign(key, &bytes);
    bytes.extend(tag.as_ref().iter().take(CHECK));
    bytes
}

/// A data message whose sealed part follows.
pub(super) fn data_header(to: u32, number: u64, room: usize) -> Vec<u8> {
    let mut bytes = header(3, 12 + room);
    bytes.extend(to.to_be_bytes());
    bytes.extend(number.to_be_bytes());
    bytes
}

/// A sealed advert in a datagram of its own.
pub(super) fn advert(sealed: &[u8]) -> Vec<u8> {
    let mut bytes = header(4, sealed.len());
    bytes.extend(sealed);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = ask(1, 2, b"noise", &key(1));
        let Ok(Frame::Ask(read)) = Frame::parse(&bytes) else { panic!("no ask") };
        assert_eq!((read.party, read.index, read.noise), (1, 2, &b"noise"[..]));
        assert!(read.is_of(&key(1)) && !read.is_of(&key(2)));
        let bytes = answer(u32::MAX, 0, b"", &key(1));
        let Ok(Frame::Answer(read)) = Frame::parse(&bytes) else { panic!("no answer") };
        assert_eq!((read.party, read.index, read.noise), (u32::MAX, 0, &b""[..]));
        assert!(read.is_of(&key(1)));
        let mut bytes = data_header(7, 1 << 40, 3);
        bytes.extend(b"abc");
        assert_eq!(Frame::parse(&bytes), Ok(Frame::Data { to: 7, number: 1 << 40, sealed: b"abc" }));
        assert_eq!(Frame::parse(&advert(b"vrrp")), Ok(Frame::Advert(b"vrrp")));
    }

    #[test]
    fn versions_are_told_apart() {
        let mut bytes = advert(b"");
        for (version, expected) in
            [(1, Unreadable::Plain), (0, Unreadable::Version(0)), (3, Unreadable::Version(3))]
        {
            bytes[4] = version;
            assert_eq!(Frame::parse(&bytes), Err(expected));
        }
        assert_eq!(Frame::parse(b"VIPD"), Err(Unreadable::Garbage));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), real in any::<bool>()) {
            if real && bytes.len() >= HEADER {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4] = VERSION;
                bytes[5] %= 6;
                bytes[6..8].fill(0);
            }
            if let Ok(Frame::Ask(read) | Frame::Answer(read)) = Frame::parse(&bytes) {
                prop_assert!(!read.is_of(&key(1)));
            }
        }
    }
}
