//! Between the node and the network: what goes out is sealed, what comes in is
//! opened, where there is a cluster key.

use super::Shell;
use super::sockets::Packet;
use crate::net::{HOP_LIMIT, clock};
use crate::peer::{Links, Received};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use vipd_core::node::{GuardState, Input, Transmit};
use vipd_core::rejects::Reject;
use vipd_core::settings::Transport;
use vipd_core::time::Time;
use vipd_core::wire::advert::{Advert, PRIORITY_RELEASE};

/// Whether it is of a version of VRRP; of no other is anything believed, sealed or not.
fn is_vrrp(payload: &[u8]) -> bool {
    payload.first().is_none_or(|first| matches!(first >> 4, 2 | 3))
}

impl Shell {
    /// When the node or a link has something to do.
    pub(super) fn deadline(&self) -> Time {
        let node = self.node.next_deadline().unwrap_or(Time::MAX);
        self.sealing.as_ref().map_or(node, |links| links.deadline().min(node))
    }

    /// Does what is due.
    pub(super) fn due(&mut self) {
        let now = clock::now();
        if let Some(links) = self.sealing.as_mut().filter(|l| l.deadline() <= now) {
            links.tick(now);
            self.send_sealed();
        }
        if self.node.next_deadline().is_some_and(|at| at <= now) {
            self.handle(Input::Tick);
        }
    }

    // ---- out --------------------------------------------------------------------

    pub(super) fn send_message(&mut self, node: usize, bytes: &[u8]) {
        let now = clock::now();
        match &mut self.sealing {
            Some(links) if !links.speaks_plainly(node, now) => {
                links.send(node, bytes, now);
                self.send_sealed();
            }
            Some(_) | None => self.send_datagram(node, bytes),
        }
    }

    /// Sends what the links have to say.
    fn send_sealed(&mut self) {
        while let Some((node, bytes)) = self.sealing.as_mut().and_then(Links::next_datagram) {
            self.send_datagram(node, &bytes);
        }
    }

    fn send_datagram(&self, node: usize, bytes: &[u8]) {
        let cluster = &self.node.settings().cluster;
        if let Some(member) = cluster.voter(node) {
            self.sockets.send_peer(&member.addresses, cluster.peer_port, bytes);
        }
    }

    pub(super) fn send_advert(&mut self, mut packet: Transmit) {
        if let Some(links) = &mut self.sealing {
            packet.bytes = links.seal_advert(packet.source, packet.destination, &packet.bytes);
        }
        match self.port_of_adverts() {
            Some(port) => {
                let datagram = Links::advert_datagram(&packet.bytes);
                self.sockets.send_from(packet.source, SocketAddr::new(packet.destination, port), &datagram);
            }
            None => self.sockets.send(&packet),
        }
    }

    /// The UDP port that adverts go to, if they do not go by protocol 112.
    fn port_of_adverts(&self) -> Option<u16> {
        let settings = self.node.settings();
        (settings.election.transport == Transport::Udp).then_some(settings.cluster.peer_port)
    }

    /// The guard has no key: its farewells are sealed beforehand.
    pub(super) fn tell_guard(&mut self, mut state: GuardState) {
        let port = self.port_of_adverts();
        for (position, packet) in state.farewells.iter_mut().enumerate() {
            if let Some(links) = &self.sealing {
                packet.bytes =
                    links.seal_farewell(position, packet.source, packet.destination, &packet.bytes);
            }
            if port.is_some() {
                packet.bytes = Links::advert_datagram(&packet.bytes);
            }
        }
        let releases = std::mem::take(&mut state.releases);
        let releases =
            releases.iter().filter_map(|(voter, bytes)| self.last_release(*voter, bytes)).collect();
        self.guard.update(&state, port, releases);
    }

    /// What the guard says to a voter, and where to.
    fn last_release(&mut self, voter: usize, bytes: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        let now = clock::now();
        let bytes = match &mut self.sealing {
            Some(links) if !links.speaks_plainly(voter, now) => links.seal_for_later(voter, bytes, now)?,
            Some(_) | None => bytes.to_vec(),
        };
        let cluster = &self.node.settings().cluster;
        let address = cluster.voter(voter)?.addresses.first()?;
        Some((SocketAddr::new(*address, cluster.peer_port), bytes))
    }

    // ---- in ---------------------------------------------------------------------

    pub(super) fn packet(&mut self, packet: &Packet) {
        match packet {
            Packet::Advert { interface, source, destination, ttl, payload } => {
                let (source, destination) = (*source, *destination);
                let now = clock::now();
                // What is no advert at all is told as that: the doctor's probes are, and seal nothing.
                let sealing = self.sealing.as_mut().filter(|_| is_vrrp(payload));
                let opened = sealing.map(|l| l.open_advert(source, destination, payload, now));
                let payload = match &opened {
                    None => payload,
                    Some(Ok(advert)) => advert,
                    Some(Err(cause)) => {
                        // By the wire only what cannot have come through a router.
                        let owner = if *ttl == HOP_LIMIT {
                            self.unproven_owner(source, destination, payload, *cause)
                        } else {
                            None
                        };
                        let interface = Some(*interface);
                        return self.handle(Input::Refused { source, cause: *cause, owns: owner, interface });
                    }
                };
                self.handle(Input::Packet { interface: *interface, source, destination, ttl: *ttl, payload });
            }
            Packet::Claim { interface, claim } => {
                self.handle(Input::Claim { interface: *interface, claim: *claim });
            }
            Packet::Peer { source, own, ttl, payload } => self.datagram(*source, *own, *ttl, payload),
        }
    }

    fn datagram(&mut self, source: IpAddr, own: IpAddr, ttl: u8, payload: &[u8]) {
        let Some(links) = &mut self.sealing else {
            return self.handle(Input::PeerPacket { source, ttl, payload });
        };
        let received = links.receive(source, own, payload, clock::now());
        self.send_sealed();
        if received == Received::Plain {
            return self.handle(Input::PeerPacket { source, ttl, payload });
        }
        // A seal proves more than a TTL does, and crosses routers.
        let ttl = HOP_LIMIT;
        match received {
            Received::Nothing | Received::Plain => {}
            Received::Message(payload) => self.handle(Input::PeerPacket { source, ttl, payload: &payload }),
            Received::Advert(payload) => {
                let input = Input::Packet { interface: 0, source, destination: own, ttl, payload: &payload };
                self.handle(input);
            }
            Received::Refused(cause) => {
                self.handle(Input::Refused { source, cause, owns: None, interface: None })
            }
            Received::RefusedAdvert(cause, payload) => {
                let owns = self.unproven_owner(source, own, &payload, cause);
                self.handle(Input::Refused { source, cause, owns, interface: None });
            }
        }
    }

    /// The VRID of an advert whose seal is not good. Two hosts that were given different
    /// keys would both own: until a node has proven that it has this host's, what it
    /// seems to own is not taken over. Later only its seal counts.
    fn unproven_owner(
        &self,
        source: IpAddr,
        destination: IpAddr,
        advert: &[u8],
        cause: Reject,
    ) -> Option<NonZeroU8> {
        let strange = cause == Reject::Unsealed || cause == Reject::WrongKey;
        let unproven = self.sealing.as_ref().is_some_and(|links| links.is_unproven(source));
        let advert = Advert::parse(advert, source, destination).ok()?;
        (strange && unproven && advert.priority != PRIORITY_RELEASE).then_some(advert.vrid)
    }
}
