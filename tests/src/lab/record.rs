//! What an eavesdropper has: every packet of the election and the peer link as
//! it was, to be sent again.

use super::Host;
use super::advert::Sender;
use super::packet::{PacketSocket, interface};
use super::process::lock;
use anyhow::Result;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// IP protocols that are recorded: VRRP and UDP.
const PROTOCOLS: [u8; 2] = [112, 17];
/// Packets that are kept: some minutes of two nodes.
const KEPT: usize = 10_000;

/// Records IPv4 packets of a host's `eth0` that come from these addresses; it stops when dropped.
#[derive(Debug)]
pub struct Recorder {
    packets: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
}

impl Recorder {
    /// Starts to record.
    ///
    /// # Errors
    /// If a packet socket cannot be opened.
    pub fn start(host: &Host, sources: &[Ipv4Addr]) -> Result<Self> {
        let socket = host.inside(|| PacketSocket::open(&interface("eth0")?, 0x0800))?;
        let recorder = Self { packets: Arc::default(), stop: Arc::default() };
        let (packets, stop) = (Arc::clone(&recorder.packets), Arc::clone(&recorder.stop));
        let sources: Vec<[u8; 4]> = sources.iter().map(Ipv4Addr::octets).collect();
        std::thread::spawn(move || {
            let mut buffer = [0; 9216];
            while !stop.load(Ordering::Relaxed) {
                let Ok(length) = socket.receive(&mut buffer) else { continue };
                let Some(packet) = buffer[..length].get(14..).and_then(whole) else { continue };
                let wanted = PROTOCOLS.contains(&packet[9]) && sources.iter().any(|s| packet[12..16] == *s);
                let mut packets = lock(&packets);
                if wanted && packets.len() < KEPT {
                    packets.push(packet.to_vec());
                }
            }
        });
        Ok(recorder)
    }

    /// What was recorded so far, in order.
    #[must_use]
    pub fn packets(&self) -> Vec<Vec<u8>> {
        lock(&self.packets).clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The IPv4 packet in a frame, without Ethernet's padding.
fn whole(packet: &[u8]) -> Option<&[u8]> {
    let length = u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]);
    packet.get(..usize::from(length)).filter(|p| p.len() >= 20)
}

/// Sends recorded packets again from `host`, each to the host it was for.
///
/// # Errors
/// If a packet socket cannot be opened, or takes nothing.
pub fn replay(host: &Host, packets: &[Vec<u8>], hosts: &[(Ipv4Addr, &Host)]) -> Result<()> {
    for (address, to) in hosts {
        let sender = Sender::new(host, to.mac()?)?;
        for packet in packets.iter().filter(|p| p.get(16..20) == Some(&address.octets())) {
            sender.send(packet)?;
        }
    }
    Ok(())
}
