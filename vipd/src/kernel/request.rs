//! Requests to the kernel to put and delete addresses, many in one system call.
//!
//! rtnetlink sends one request at a time and passes each through two channels
//! and a task: 2.5 ms for 200 IPv4 addresses that are there already. Here many
//! travel in one message (0.75 ms); the kernel has carried them out when `send`
//! returns, and says only what went wrong and that the last one is done.

use super::{LOOPBACK, Spot, TAG, table};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NLMSG_ERROR, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
    CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// Requests in one system call: it takes 2 ms at most (200 IPv6 addresses on an
/// interface, 60 us each), and the answers, should every one be an error, fit
/// into the receive buffer many times.
pub(super) const BATCH: usize = 32;
/// Bytes of receive buffer.
const RECEIVE_BUFFER: usize = 1 << 20;
/// The longest answer: an error, the request's header and a text.
const ANSWER: usize = 8192;

/// A change to one address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Request {
    /// Put it there, for so long; if it is there, renew it and make it ours.
    Put { spot: Spot, life: Life },
    /// Put it there only if it is not: else the answer is `EEXIST`.
    PutBack { spot: Spot, life: Life },
    /// Take it away.
    Delete { spot: Spot },
}

impl Request {
    /// The address it is about.
    pub(super) fn spot(&self) -> Spot {
        match self {
            Self::Put { spot, .. } | Self::PutBack { spot, .. } | Self::Delete { spot } => *spot,
        }
    }
}

/// How long an address lives, and whether it makes a route to its subnet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Life {
    /// Seconds, one or more.
    pub(super) seconds: u32,
    /// Whether the kernel adds a route to the subnet, with the address's life.
    pub(super) subnet_route: bool,
}

impl Life {
    /// Whole seconds, rounded up: the kernel counts no finer.
    pub(super) fn of(lease: Duration, subnet_route: bool) -> Self {
        let up = lease.as_secs().saturating_add(u64::from(lease.subsec_nanos() > 0));
        // The largest number stands for "forever".
        let seconds = u32::try_from(up).unwrap_or(u32::MAX).clamp(1, u32::MAX - 1);
        Self { seconds, subnet_route }
    }
}

/// Why the kernel refused a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    /// The kernel's own words, where it gives some.
    text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "{text} ({})", self.errno.desc()),
            None => f.write_str(self.errno.desc()),
        }
    }
}

/// The netlink socket that requests go through.
#[derive(Debug)]
pub(crate) struct Requester {
    socket: Socket,
    sequence: u32,
    port: u32,
}

impl Requester {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        // Shorter answers, and the kernel's own words in them; old kernels do without.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        Ok(Self { socket, sequence: 0, port })
    }

    /// The netlink port that notifications of our own IPv4 changes carry.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Carries out all requests, in order, the ones after a refused one too.
    /// Gives the refusals, with the position of the request.
    pub(super) fn apply(&mut self, requests: &[Request]) -> io::Result<Vec<(usize, Refusal)>> {
        let mut refusals = Vec::new();
        for (number, batch) in requests.chunks(BATCH).enumerate() {
            self.apply_batch(batch, number * BATCH, &mut refusals)?;
        }
        Ok(refusals)
    }

    /// Deletes addresses; one that is not there is as good as deleted.
    pub(crate) fn delete(&mut self, spots: &[Spot]) -> io::Result<()> {
        match self.apply(&deletions(spots))?.into_iter().find(|(_, refusal)| !is_gone(refusal.errno)) {
            Some((_, refusal)) => Err(refusal.errno.into()),
            None => Ok(()),
        }
    }

    /// Every place of the addresses of these, with whatever prefix length.
    pub(crate) fn copies(&mut self, of: &[Spot]) -> io::Result<Vec<Spot>> {
        let known: BTreeSet<(IpAddr, u32)> = of.iter().map(|s| (s.address.address(), s.interface)).collect();
        let is_copy = |spot: &Spot| {
            let address = spot.address.address();
            let mut places = known.range((address, 0)..=(address, u32::MAX));
            places.any(|(_, interface)| spot.is_near(*interface))
        };
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetAddress(AddressMessage::default()));
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut copies = Vec::new();
        loop {
            let mut answer = [0; ANSWER];
            let length = self.socket.recv(&mut &mut answer[..], libc::MSG_DONTWAIT)?;
            let mut rest = answer.get(..length).unwrap_or(&answer);
            while let Some(bytes) = first(rest) {
                rest = rest.get(bytes.len().next_multiple_of(4)..).unwrap_or_default();
                let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else { continue };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(found)) => {
                        let spot = table::read(&found).map(|(spot, _)| spot);
                        copies.extend(spot.filter(is_copy));
                    }
                    NetlinkPayload::Done(_) => return Ok(copies),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    // Foreign, open-ended: no part of a list of addresses.
                    NetlinkPayload::InnerMessage(_)
                    | NetlinkPayload::Noop
                    | NetlinkPayload::Overrun(_)
                    | _ => {}
                }
            }
        }
    }

    fn apply_batch(
        &mut self,
        batch: &[Request],
        offset: usize,
        refusals: &mut Vec<(usize, Refusal)>,
    ) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(batch.len() * 104);
        for (position, request) in batch.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            append(&mut bytes, *request, self.sequence, position + 1 == batch.len());
        }
        self.socket.send(&bytes, 0)?;
        loop {
            let mut answer = [0; ANSWER];
            let length = self.socket.recv(&mut &mut answer[..], libc::MSG_DONTWAIT)?;
            for (sequence, result) in answers(answer.get(..length).unwrap_or(&answer)) {
                // What an earlier batch, given up after an error, left behind.
                let position = sequence.wrapping_sub(first) as usize;
                if position >= batch.len() {
                    continue;
                }
                if let Err(refusal) = result {
                    refusals.push((offset + position, refusal));
                }
                if position + 1 == batch.len() {
                    return Ok(());
                }
            }
        }
    }
}

/// The requests that delete addresses, the last first: were the first of a
/// subnet deleted first, the kernel would promote the next one and put all
/// the others anew, each time (200 addresses: 60 ms instead of 2).
pub(super) fn deletions(spots: &[Spot]) -> Vec<Request> {
    spots.iter().rev().map(|spot| Request::Delete { spot: *spot }).collect()
}

/// Whether a refused deletion means that there is nothing to delete.
pub(super) fn is_gone(errno: Errno) -> bool {
    errno == Errno::EADDRNOTAVAIL || errno == Errno::ENODEV
}

fn append(bytes: &mut Vec<u8>, request: Request, sequence: u32, last: bool) {
    let (mut flags, payload) = match request {
        Request::Put { spot, life } => {
            (NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewAddress(put(spot, life)))
        }
        Request::PutBack { spot, life } => {
            (NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewAddress(put(spot, life)))
        }
        Request::Delete { spot } => (0, RouteNetlinkMessage::DelAddress(message(spot))),
    };
    flags |= NLM_F_REQUEST;
    if last {
        flags |= NLM_F_ACK;
    }
    let mut message = NetlinkMessage::from(payload);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = bytes.len();
    // Every part of these messages is a multiple of four bytes long but the tag.
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}

fn message(spot: Spot) -> AddressMessage {
    let address = spot.address.address();
    let mut message = AddressMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = spot.address.prefix();
    message.header.index = spot.interface;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

/// An address with a life: an IPv6 one deprecated from the start, so that the
/// host never chooses it as a source, and without duplicate address detection,
/// which would take a second and ask the owner before.
fn put(spot: Spot, life: Life) -> AddressMessage {
    let mut message = message(spot);
    let ipv6 = spot.address.address().is_ipv6();
    let mut lifetimes = CacheInfo::default();
    lifetimes.ifa_valid = life.seconds;
    lifetimes.ifa_preferred = if ipv6 { 0 } else { life.seconds };
    let mut flags = AddressFlags::empty();
    if ipv6 {
        flags |= AddressFlags::Nodad;
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    if !life.subnet_route {
        flags |= AddressFlags::Noprefixroute;
    }
    if spot.interface == LOOPBACK && !ipv6 {
        // Else an interface without an address of its own would use it as source.
        message.header.scope = AddressScope::Host;
    }
    message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    message.attributes.push(AddressAttribute::Flags(flags));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(TAG)));
    message
}

/// The first message of a datagram.
fn first(bytes: &[u8]) -> Option<&[u8]> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    bytes.get(..length).filter(|message| message.len() >= 16)
}

/// The answers in a datagram: sequence number and result of each.
fn answers(mut bytes: &[u8]) -> Vec<(u32, Result<(), Refusal>)> {
    let mut answers = Vec::new();
    while let Some(header) = bytes.first_chunk::<16>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let flags = u16::from_ne_bytes([header[6], header[7]]);
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let Some(body) = bytes.get(16..length) else { break };
        if let (NLMSG_ERROR, Some(code)) = (kind, body.first_chunk::<4>()) {
            let result = match i32::from_ne_bytes(*code) {
                0 => Ok(()),
                code => Err(Refusal { errno: Errno::from_raw(-code), text: words(flags, body) }),
            };
            answers.push((sequence, result));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

/// The kernel's words in an error: they follow the code and the header of the
/// request, whose payload is left out by `NETLINK_CAP_ACK`.
fn words(flags: u16, body: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let text = NlasIterator::new(body.get(20..)?).flatten().find(|a| a.kind() == NLMSGERR_ATTR_MSG)?;
    let text = String::from_utf8_lossy(text.value());
    Some(text.trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vipd_core::settings::Cidr;

    fn spot(address: &str, prefix: u8) -> Spot {
        let address = address.parse().ok().and_then(|a| Cidr::new(a, prefix));
        Spot { interface: 7, address: address.unwrap_or_else(|| unreachable!("a valid address")) }
    }

    #[test]
    fn a_request_byte_by_byte() {
        let mut bytes = Vec::new();
        let life = Life::of(Duration::from_secs(3), true);
        append(&mut bytes, Request::Put { spot: spot("10.77.0.100", 24), life }, 5, true);
        let golden = [
            &[76, 0, 0, 0, 20, 0, 0x05, 0x05, 5, 0, 0, 0, 0, 0, 0, 0][..], // length, RTM_NEWADDR, flags, 5
            &[2, 24, 0, 0, 7, 0, 0, 0],                                    // AF_INET, prefix, interface
            &[8, 0, 2, 0, 10, 77, 0, 100],                                 // IFA_LOCAL
            &[8, 0, 1, 0, 10, 77, 0, 100],                                 // IFA_ADDRESS
            &[20, 0, 6, 0, 3, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // preferred, valid
            &[8, 0, 8, 0, 0, 0, 0, 0],                                     // IFA_FLAGS
            &[5, 0, 11, 0, 112, 0, 0, 0],                                  // IFA_PROTO
        ]
        .concat();
        assert_eq!(bytes, golden);
    }

    #[test]
    fn leases_are_rounded_up_and_never_endless() {
        let seconds = |lease| Life::of(lease, false).seconds;
        assert_eq!(seconds(Duration::ZERO), 1);
        assert_eq!(seconds(Duration::from_millis(1_001)), 2);
        assert_eq!(seconds(Duration::from_secs(3)), 3);
        assert_eq!(seconds(Duration::MAX), u32::MAX - 1);
    }

    #[test]
    fn broken_answers_are_passed_over() {
        assert_eq!(answers(&[]), []);
        assert_eq!(answers(&[0; 16]), []);
        let mut answer = [0_u8; 36];
        answer[0] = 36;
        answer[4] = 2;
        answer[8] = 9;
        answer[16..20].copy_from_slice(&(-19_i32).to_ne_bytes());
        let expected = Refusal { errno: Errno::ENODEV, text: None };
        assert_eq!(answers(&answer), [(9, Err(expected))]);
        answer[0] = 37;
        assert_eq!(answers(&answer), []);
    }
}
