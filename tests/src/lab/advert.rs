//! VRRP adverts on the wire: hearing them, and sending whatever bytes a test
//! wants to.

use super::Host;
use super::packet::{PacketSocket, interface};
use super::process::lock;
use anyhow::{Context, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The IP protocol of VRRP.
const PROTOCOL: u8 = 112;

/// An advert that came by.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// What follows the IP header.
    pub payload: Vec<u8>,
}

/// Hears every advert on a host's `eth0`; it stops when dropped.
#[derive(Debug)]
pub struct Listener {
    heard: Arc<(Mutex<Vec<Seen>>, Condvar)>,
    stop: Arc<AtomicBool>,
}

impl Listener {
    /// Starts to listen on a host.
    ///
    /// # Errors
    /// If packet sockets cannot be opened.
    pub fn start(host: &Host) -> Result<Self> {
        let heard = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let stop = Arc::new(AtomicBool::new(false));
        for ethertype in [0x0800, 0x86dd] {
            let socket = host.inside(|| PacketSocket::open(&interface("eth0")?, ethertype))?;
            let (heard, stop) = (Arc::clone(&heard), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut buffer = [0; 9216];
                while !stop.load(Ordering::Relaxed) {
                    let Ok(length) = socket.receive(&mut buffer) else { continue };
                    if let Some(seen) = buffer[..length].get(14..).and_then(parse) {
                        lock(&heard.0).push(seen);
                        heard.1.notify_all();
                    }
                }
            });
        }
        Ok(Self { heard, stop })
    }

    /// Waits for an advert of a virtual router, of those heard since the start.
    ///
    /// # Errors
    /// If none comes within `patience`.
    pub fn wait_for(&self, vrid: u8, wanted: impl Fn(&[u8]) -> bool, patience: Duration) -> Result<Seen> {
        let fits = |s: &&Seen| s.payload.len() >= 8 && s.payload[1] == vrid && wanted(&s.payload);
        let heard = lock(&self.heard.0);
        let waited = self.heard.1.wait_timeout_while(heard, patience, |all| !all.iter().any(|s| fits(&s)));
        let (heard, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = heard.iter().find(fits).cloned();
        found.with_context(|| format!("no such advert of virtual router {vrid} within {patience:?}"))
    }

    /// Every advert heard since a point in time.
    #[must_use]
    pub fn heard(&self, since: Instant) -> Vec<Seen> {
        lock(&self.heard.0).iter().filter(|s| s.at >= since).cloned().collect()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// An advert in an IP packet, without the padding Ethernet may have added.
fn parse(packet: &[u8]) -> Option<Seen> {
    let at = Instant::now();
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
            let source = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?);
            let destination = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
            (packet[9] == PROTOCOL).then_some(())?;
            let payload = packet.get(header..total)?.to_vec();
            Some(Seen { at, source: source.into(), destination: destination.into(), ttl: packet[8], payload })
        }
        6 => {
            let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
            let source = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?);
            let destination = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?);
            (packet[6] == PROTOCOL).then_some(())?;
            let payload = packet.get(40..40 + length)?.to_vec();
            Some(Seen { at, source: source.into(), destination: destination.into(), ttl: packet[7], payload })
        }
        _ => None,
    }
}

/// Sends IPv4 packets from a host's `eth0`, with whatever source they claim.
#[derive(Debug)]
pub struct Sender {
    socket: PacketSocket,
    header: [u8; 14],
}

impl Sender {
    /// Sends from `host` to the host whose Ethernet address is `to`.
    ///
    /// # Errors
    /// If a packet socket cannot be opened.
    pub fn new(host: &Host, to: [u8; 6]) -> Result<Self> {
        host.inside(|| {
            let eth0 = interface("eth0")?;
            let mut header = [0; 14];
            header[..6].copy_from_slice(&to);
            header[6..12].copy_from_slice(&eth0.mac);
            header[12..].copy_from_slice(&[8, 0]);
            Ok(Self { socket: PacketSocket::open(&eth0, 0)?, header })
        })
    }

    /// Sends one IPv4 packet.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        let frame = [&self.header, packet].concat();
        self.socket.send(&frame).context("cannot send a forged advert")?;
        Ok(())
    }
}
