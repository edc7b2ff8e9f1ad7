//! Between the node and the network: what goes out is sealed, what comes in is
//! opened, where there is a cluster key.

use super::Shell;
use super::sockets::Packet;
use crate::net::{HOP_LIMIT, clock};
use crate::peer::{Links, Received};
use std::net::{IpAddr, SocketAddr};
use vipd_core::node::{GuardState, Input, Transmit};
use vipd_core::settings::Transport;
use vipd_core::time::Time;

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
        match &mut self.sealing {
            Some(links) => {
                links.send(node, bytes, clock::now());
                self.send_sealed();
            }
            None => self.send_datagram(node, bytes),
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
        if let Some(member) = cluster.nodes.get(node) {
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
    pub(super) fn tell_guard(&self, mut state: GuardState) {
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
        self.guard.update(&state, port);
    }

    // ---- in ---------------------------------------------------------------------

    pub(super) fn packet(&mut self, packet: &Packet) {
        match packet {
            Packet::Advert { interface, source, destination, ttl, payload } => {
                let (source, destination) = (*source, *destination);
                let now = clock::now();
                let opened = self.sealing.as_mut().map(|l| l.open_advert(source, destination, payload, now));
                let payload = match &opened {
                    None => payload,
                    Some(Ok(advert)) => advert,
                    Some(Err(cause)) => return self.handle(Input::Refused { source, cause: *cause }),
                };
                self.handle(Input::Packet { interface: *interface, source, destination, ttl: *ttl, payload });
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
            Received::Refused(cause) => self.handle(Input::Refused { source, cause }),
        }
    }
}
