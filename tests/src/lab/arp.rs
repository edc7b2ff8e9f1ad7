//! Who answers for an address: ARP and neighbour discovery as a client on the
//! same network sees them.
//!
//! Holding an address and answering for it are two things; "owner" means the
//! host that answers.

use super::Host;
use super::packet::{Interface, PacketSocket, interface};
use super::process::lock;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// An Ethernet address.
pub type Mac = [u8; 6];

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// How somebody said that an address is theirs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Asked.
    Answer,
    /// Unasked: gratuitous ARP, unsolicited neighbour advertisement.
    Announcement,
}

/// Somebody said that an address is theirs.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// When.
    pub at: Instant,
    /// Which address.
    pub address: IpAddr,
    /// Whose.
    pub mac: Mac,
    /// How.
    pub kind: Kind,
}

/// Watches, and asks for, some addresses; it stops when dropped.
#[derive(Debug)]
pub struct ArpWatch {
    seen: Arc<Mutex<Vec<Sighting>>>,
    stop: Arc<AtomicBool>,
}

impl ArpWatch {
    /// Watches from `host`; asks for one of `targets` after the other, so that
    /// each is asked for once in `every`. Without targets it only listens.
    ///
    /// # Errors
    /// If packet sockets cannot be opened.
    pub fn start(host: &Host, targets: &[IpAddr], every: Duration) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        for ethertype in [ETHERTYPE_ARP, ETHERTYPE_IPV6] {
            let wanted = |a: &&IpAddr| a.is_ipv4() == (ethertype == ETHERTYPE_ARP);
            let targets: Vec<IpAddr> = targets.iter().filter(wanted).copied().collect();
            let (eth0, socket) = host.inside(|| {
                let eth0 = interface("eth0")?;
                let socket = PacketSocket::open(&eth0, ethertype)?;
                Ok((eth0, Arc::new(socket)))
            })?;
            let own = own_address(host, ethertype == ETHERTYPE_ARP)?;
            listen(Arc::clone(&socket), ethertype, &seen, &stop);
            if let (Some(own), false) = (own, targets.is_empty()) {
                ask(socket, eth0, own, targets, every, &stop);
            }
        }
        Ok(Self { seen, stop })
    }

    /// Everything seen of an address since a point in time.
    #[must_use]
    pub fn sightings(&self, address: IpAddr, since: Instant) -> Vec<Sighting> {
        lock(&self.seen).iter().filter(|s| s.address == address && s.at >= since).copied().collect()
    }

    /// Who answered for an address since a point in time, and how often.
    #[must_use]
    pub fn answerers(&self, address: IpAddr, since: Instant) -> BTreeMap<Mac, usize> {
        let mut answerers = BTreeMap::new();
        for sighting in self.sightings(address, since).iter().filter(|s| s.kind == Kind::Answer) {
            *answerers.entry(sighting.mac).or_default() += 1;
        }
        answerers
    }

    /// For each address the first time since `since` at which `mac` announced
    /// it.
    #[must_use]
    pub fn announced(&self, mac: Mac, since: Instant) -> BTreeMap<IpAddr, Instant> {
        let mut first = BTreeMap::new();
        for sighting in lock(&self.seen).iter() {
            if sighting.mac == mac && sighting.at >= since && sighting.kind == Kind::Announcement {
                first.entry(sighting.address).or_insert(sighting.at);
            }
        }
        first
    }

    /// How long two hosts answered for an address at the same time since a
    /// point in time: from a host's first answer to the last one of a host that
    /// had answered before it.
    #[must_use]
    pub fn double(&self, address: IpAddr, since: Instant) -> Duration {
        let mut answered: Vec<(Mac, Instant, Instant)> = Vec::new();
        for sighting in self.sightings(address, since).iter().filter(|s| s.kind == Kind::Answer) {
            match answered.iter_mut().find(|(mac, ..)| *mac == sighting.mac) {
                Some((_, _, last)) => *last = sighting.at,
                None => answered.push((sighting.mac, sighting.at, sighting.at)),
            }
        }
        let overlap = |pair: &[(Mac, Instant, Instant)]| pair[0].2.saturating_duration_since(pair[1].1);
        answered.windows(2).map(overlap).sum()
    }
}

impl Drop for ArpWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn listen(
    socket: Arc<PacketSocket>,
    ethertype: u16,
    seen: &Arc<Mutex<Vec<Sighting>>>,
    stop: &Arc<AtomicBool>,
) {
    let (seen, stop) = (Arc::clone(seen), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            let Ok(length) = socket.receive(&mut buffer) else { continue };
            let frame = &buffer[..length];
            let claim = if ethertype == ETHERTYPE_ARP { arp_claim(frame) } else { nd_claim(frame) };
            if let Some((address, mac, kind)) = claim {
                lock(&seen).push(Sighting { at: Instant::now(), address, mac, kind });
            }
        }
    });
}

fn ask(
    socket: Arc<PacketSocket>,
    eth0: Interface,
    own: IpAddr,
    targets: Vec<IpAddr>,
    every: Duration,
    stop: &Arc<AtomicBool>,
) {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let step = every / u32::try_from(targets.len()).unwrap_or(u32::MAX);
        let mut next = Instant::now();
        for target in targets.iter().cycle() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let question = match (own, target) {
                (IpAddr::V4(own), IpAddr::V4(target)) => arp_question(eth0.mac, own, *target),
                (IpAddr::V6(own), IpAddr::V6(target)) => nd_question(eth0.mac, own, *target),
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => continue,
            };
            // With the cable out there is nobody to ask.
            let _ = socket.send(&question);
            next += step;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
}

/// A host's own address of a family, link-local ones left out.
fn own_address(host: &Host, v4: bool) -> Result<Option<IpAddr>> {
    host.inside(|| {
        let all = nix::ifaddrs::getifaddrs().context("cannot list interfaces")?;
        Ok(all.filter(|i| i.interface_name == "eth0").filter_map(|i| i.address).find_map(|a| {
            if v4 {
                a.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()))
            } else {
                a.as_sockaddr_in6().filter(|a| !a.ip().is_unicast_link_local()).map(|a| IpAddr::V6(a.ip()))
            }
        }))
    })
}

/// A host that says of an address that is not its own that it is.
#[derive(Debug)]
pub struct Claimer {
    socket: PacketSocket,
    frame: Vec<u8>,
}

impl Claimer {
    /// Of this address, from a host's `eth0`.
    ///
    /// # Errors
    /// If packet sockets cannot be opened.
    pub fn new(host: &Host, address: IpAddr) -> Result<Self> {
        host.inside(|| {
            let eth0 = interface("eth0")?;
            let (ethertype, frame) = match address {
                IpAddr::V4(address) => (ETHERTYPE_ARP, arp_question(eth0.mac, address, address)),
                IpAddr::V6(address) => (ETHERTYPE_IPV6, nd_answer(eth0.mac, address)),
            };
            Ok(Self { socket: PacketSocket::open(&eth0, ethertype)?, frame })
        })
    }

    /// Says so once.
    ///
    /// # Errors
    /// If the frame cannot be sent.
    pub fn claim(&self) -> Result<()> {
        self.socket.send(&self.frame).map(drop).context("cannot send a frame")
    }
}

/// An unsolicited neighbour advertisement (RFC 4861, 4.4).
fn nd_answer(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]);
    message.extend(mac);
    let sum = checksum_v6(address, all, 58, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac);
    frame.extend(ETHERTYPE_IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(address.octets());
    frame.extend(all.octets());
    frame.extend(message);
    frame
}

/// An ARP request (RFC 826).
fn arp_question(mac: Mac, own: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend([0xff; 6]);
    frame.extend(mac);
    frame.extend(ETHERTYPE_ARP.to_be_bytes());
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(own.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// Whose address an ARP message says is whose.
fn arp_claim(frame: &[u8]) -> Option<(IpAddr, Mac, Kind)> {
    let message = frame.get(14..42)?;
    let operation = u16::from_be_bytes([message[6], message[7]]);
    let mac: Mac = message[8..14].try_into().ok()?;
    let sender = Ipv4Addr::from(<[u8; 4]>::try_from(&message[14..18]).ok()?);
    let target = Ipv4Addr::from(<[u8; 4]>::try_from(&message[24..28]).ok()?);
    let kind = match (operation, sender == target) {
        (1 | 2, true) => Kind::Announcement,
        (2, false) => Kind::Answer,
        _ => return None,
    };
    Some((sender.into(), mac, kind))
}

/// A neighbour solicitation (RFC 4861, 4.3).
fn nd_question(mac: Mac, own: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let low = &target.octets()[13..];
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, low[0], low[1], low[2]]);
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([1, 1]);
    message.extend(mac);
    let sum = checksum_v6(own, group, 58, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = vec![0x33, 0x33, 0xff, low[0], low[1], low[2]];
    frame.extend(mac);
    frame.extend(ETHERTYPE_IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(own.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
}

/// Whose address a neighbour advertisement (RFC 4861, 4.4) says is whose.
fn nd_claim(frame: &[u8]) -> Option<(IpAddr, Mac, Kind)> {
    let message = frame.get(54..)?;
    if frame.get(20) != Some(&58) || message.first() != Some(&136) {
        return None;
    }
    let solicited = message.get(4)? & 0x40 != 0;
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(message.get(8..24)?).ok()?);
    // The target link-layer option; without one the frame's sender says it.
    let option = message.get(24..32).filter(|o| o[..2] == [2, 1]).map(|o| &o[2..]);
    let mac: Mac = option.or_else(|| frame.get(6..12))?.try_into().ok()?;
    let kind = if solicited { Kind::Answer } else { Kind::Announcement };
    Some((target.into(), mac, kind))
}

/// The Internet checksum of a message with IPv6's pseudo-header (RFC 8200, 8.1).
pub(crate) fn checksum_v6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, message: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(message);
    checksum(&bytes)
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}
