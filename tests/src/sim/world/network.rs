//! The network of the simulation: packets, messages of the peer link, and who
//! answers for an address on the link.

use super::*;

impl World {
    pub(super) fn send_peer(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        let copies = if self.rng.chance(5) { 2 } else { 1 };
        for _ in 0..copies {
            if let Some(after) = self.path(from, to) {
                self.schedule(after, Due::Peer { to, from, bytes: bytes.clone() });
            }
        }
    }

    pub(super) fn send(&mut self, from: usize, transmit: Transmit) {
        for to in 0..self.hosts.len() {
            let meant = transmit.destination == MULTICAST || transmit.destination == Self::address(to);
            if to == from || !meant {
                continue;
            }
            let copies = if self.rng.chance(5) { 2 } else { 1 };
            for _ in 0..copies {
                if let Some(after) = self.path(from, to) {
                    self.schedule(after, Due::Packet { to, from, transmit: transmit.clone() });
                }
            }
        }
    }

    /// A node's Ethernet address.
    #[must_use]
    pub fn mac(node: usize) -> Mac {
        [2, 0, 0, 0, 0, u8::try_from(node).unwrap_or(0)]
    }

    /// Somebody asks the link who has addresses.
    pub(super) fn ask(&mut self, from: usize, addresses: &[IpAddr]) {
        for address in addresses.iter().copied() {
            for host in (0..self.hosts.len()).filter(|h| *h != from) {
                if let Some(after) = self.path(from, host) {
                    self.schedule(after, Due::Asked { host, from, address });
                }
            }
            if self.squatted.contains(&address) {
                let claim = Claim { address, mac: STRANGER, answer: true };
                self.schedule(Duration::from_micros(80), Due::Claim { to: from, claim });
            }
        }
    }

    /// A host's kernel answers who asks for an address that it has.
    pub(super) fn answer(&mut self, host: usize, to: usize, address: IpAddr) {
        let has = |a: &Cidr| a.address() == address && self.hosts[host].answers_for(*a);
        if !self.addresses.iter().any(has) {
            return;
        }
        if let Some(after) = self.path(host, to) {
            let claim = Claim { address, mac: Self::mac(host), answer: true };
            self.schedule(after, Due::Claim { to, claim });
        }
    }

    /// A host announces an address to everybody.
    pub(super) fn claim(&mut self, from: usize, claim: Claim) {
        for to in (0..self.hosts.len()).filter(|h| *h != from) {
            if let Some(after) = self.path(from, to) {
                self.schedule(after, Due::Claim { to, claim });
            }
        }
    }

    /// A host that is none of the cluster's announces an address.
    pub fn spoof(&mut self, address: IpAddr) {
        self.note(format!("a stranger claims {address}"));
        for to in 0..self.hosts.len() {
            let claim = Claim { address, mac: STRANGER, answer: false };
            self.schedule(Duration::from_micros(50), Due::Claim { to, claim });
        }
    }

    /// How long a packet takes, unless it is lost.
    pub(in crate::sim) fn path(&mut self, from: usize, to: usize) -> Option<Duration> {
        let carrier = |n: usize| self.hosts.get(n).is_none_or(|h| h.carrier);
        let whole = carrier(from) && carrier(to) && !self.cuts.contains(&(from, to));
        let arrives = whole && !self.rng.chance(self.loss);
        arrives.then(|| Duration::from_micros(self.rng.between(30, 500)))
    }
}
