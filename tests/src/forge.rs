//! Adverts as an attacker, a broken router or a stranger's cluster would send
//! them. None of them may change anything.

use crate::lab::arp::checksum;
use std::net::Ipv4Addr;

/// The IP protocol of VRRP.
const PROTOCOL: u8 = 112;

/// What a good advert of the virtual router under attack looks like.
#[derive(Clone, Copy, Debug)]
pub struct Template<'a> {
    /// The address it claims to come from.
    pub source: Ipv4Addr,
    /// The address it is sent to.
    pub destination: Ipv4Addr,
    /// The virtual router's number.
    pub vrid: u8,
    /// The advert interval in units of 10 ms.
    pub centiseconds: u16,
    /// The virtual router's addresses.
    pub addresses: &'a [Ipv4Addr],
}

impl Template<'_> {
    /// A sound VRRPv3 advert.
    #[must_use]
    pub fn advert(&self, priority: u8) -> Vec<u8> {
        let count = u8::try_from(self.addresses.len()).unwrap_or(u8::MAX);
        let mut message = vec![0x31, self.vrid, priority, count];
        message.extend(self.centiseconds.to_be_bytes());
        message.extend([0, 0]);
        message.extend(self.addresses.iter().flat_map(Ipv4Addr::octets));
        self.sealed(message)
    }

    /// A message with its checksum put right, the pseudo-header included.
    fn sealed(&self, mut message: Vec<u8>) -> Vec<u8> {
        if message.len() < 8 {
            return message;
        }
        message[6..8].fill(0);
        let mut covered = Vec::new();
        covered.extend(self.source.octets());
        covered.extend(self.destination.octets());
        covered.extend([0, PROTOCOL]);
        covered.extend(u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes());
        covered.extend(&message);
        message[6..8].copy_from_slice(&checksum(&covered).to_be_bytes());
        message
    }

    /// An IPv4 packet that carries a message.
    #[must_use]
    pub fn packet(&self, ttl: u8, message: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + message.len()).unwrap_or(u16::MAX);
        let mut packet = vec![0x45, 0xc0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 1, 0, 0, ttl, PROTOCOL, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(message);
        packet
    }

    /// Packets that are each wrong in one way, named by it. All claim a
    /// priority that would win, or 0, the owner's farewell.
    #[must_use]
    pub fn bad(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut packets = Vec::new();
        for priority in [254, 0] {
            let good = self.advert(priority);
            let mut add = |name, message: Vec<u8>| packets.push((name, self.packet(255, &message)));
            add("empty", Vec::new());
            add("seven bytes", good[..7].to_vec());
            add("truncated addresses", self.sealed(good[..good.len() - 2].to_vec()));
            add("more addresses than told", self.sealed([&good[..], &[10, 9, 8, 7]].concat()));
            add("oversized", self.sealed([&good[..], &[0; 1400]].concat()));
            add("count of 255", self.sealed(with(&good, 3, 255)));
            add("no addresses", self.sealed([&with(&good, 3, 0)[..8]].concat()));
            add("wrong checksum", with(&good, 6, good[6] ^ 0x55));
            add("another virtual router", self.sealed(with(&good, 1, self.vrid ^ 0x80)));
            add("virtual router 0", self.sealed(with(&good, 1, 0)));
            add("version 1", self.sealed(with(&good, 0, 0x11)));
            add("version 7", self.sealed(with(&good, 0, 0x71)));
            add("type 2", self.sealed(with(&good, 0, 0x32)));
            add("interval 0", self.sealed(with(&with(&good, 4, 0), 5, 0)));
            packets.push(("TTL 254", self.packet(254, &good)));
            packets.push(("TTL 1", self.packet(1, &good)));
        }
        packets
    }
}

/// A copy with one byte changed.
fn with(message: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut changed = message.to_vec();
    changed[at] = byte;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The template makes, to the byte, what keepalived sent (tests/vectors).
    #[test]
    fn a_sound_advert_is_keepalives() {
        let template = Template {
            source: [10, 77, 0, 13].into(),
            destination: [10, 77, 0, 43].into(),
            vrid: 54,
            centiseconds: 25,
            addresses: &[[10, 77, 0, 100].into(), [10, 77, 0, 101].into()],
        };
        let hex: String = template.advert(255).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "3136ff020019a4f80a4d00640a4d0065");
    }

    #[test]
    fn no_bad_packet_is_a_good_one() {
        let template = Template {
            source: [10, 77, 0, 12].into(),
            destination: [10, 77, 0, 11].into(),
            vrid: 51,
            centiseconds: 100,
            addresses: &[[10, 77, 0, 100].into()],
        };
        let good = [254, 0].map(|p| template.packet(255, &template.advert(p)));
        for (name, packet) in template.bad() {
            assert!(!good.contains(&packet), "'{name}' is a good advert");
        }
    }
}
