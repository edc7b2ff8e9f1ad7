//! The sockets of the election, and the tasks that read them.

use crate::net::{AdvertSocket, ClaimSocket, PeerSocket, advert, clock, is_link_local};
use crate::peer::{Bucket, OVERHEAD};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{debug, trace};
use vipd_core::node::Transmit;
use vipd_core::settings::{Family, Transport};
use vipd_core::wire::{Claim, peer};

/// Packets that wait for the loop. It reads them in microseconds; a flood
/// beyond that is dropped here instead of growing memory.
pub const WAITING: usize = 4096;

/// Room for the longest message or advert, sealed.
const BUFFER: usize =
    OVERHEAD + if peer::MAX_LENGTH > advert::BUFFER { peer::MAX_LENGTH } else { advert::BUFFER };

/// Packets of strangers that are counted, a second and at once: others would
/// push out what nodes say.
const STRANGERS: (u32, u32) = (100, 100);

/// Claims of watched addresses that are looked at, a second and at once: an
/// announcement is four frames or fewer, and a flood shall not delay an advert.
const CLAIMS: (u32, u32) = (100, 400);
/// What comes beyond that is thrown away.
const PAUSE: Duration = Duration::from_millis(20);

/// Packets after which whoever reads or handles them lets all else have its turn:
/// in a flood there is always one more, and the owner's own adverts, the renewal
/// of its addresses and the kernel's answers are due all the same.
pub const IN_A_ROW: usize = 64;

/// A packet for the loop.
#[derive(Debug)]
pub enum Packet {
    /// Of IP protocol 112.
    Advert {
        /// The interface it came in by.
        interface: u32,
        /// Its source.
        source: IpAddr,
        /// Its destination.
        destination: IpAddr,
        /// Its TTL or hop limit.
        ttl: u8,
        /// What follows the IP header.
        payload: Vec<u8>,
    },
    /// Of ARP or neighbour discovery.
    Claim {
        /// The interface it came in by.
        interface: u32,
        /// What it says.
        claim: Claim,
    },
    /// Of the peer port.
    Peer {
        /// Its source.
        source: IpAddr,
        /// The address of this node that it came to.
        own: IpAddr,
        /// Its TTL or hop limit.
        ttl: u8,
        /// Its bytes.
        payload: Vec<u8>,
    },
}

#[derive(Debug)]
struct Reading<S> {
    socket: Arc<S>,
    task: JoinHandle<()>,
}

impl<S> Drop for Reading<S> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The open sockets.
#[derive(Debug)]
pub struct Sockets {
    transport: Transport,
    packets: mpsc::Sender<Packet>,
    members: Arc<BTreeSet<IpAddr>>,
    adverts: BTreeMap<(u32, Family), Reading<AdvertSocket>>,
    peers: BTreeMap<IpAddr, Reading<PeerSocket>>,
    /// By interface and family, with what each watches.
    claims: BTreeMap<(u32, Family), (BTreeSet<IpAddr>, Reading<ClaimSocket>)>,
}

impl Sockets {
    /// No sockets yet; what they read goes to `packets`. Of packets that are
    /// not from `members` only a few are let through, to be counted.
    #[must_use]
    pub fn new(transport: Transport, members: BTreeSet<IpAddr>, packets: mpsc::Sender<Packet>) -> Self {
        Self {
            transport,
            packets,
            members: Arc::new(members),
            adverts: BTreeMap::new(),
            peers: BTreeMap::new(),
            claims: BTreeMap::new(),
        }
    }

    /// Opens the socket of an interface and family unless it is open.
    ///
    /// # Errors
    /// What [`AdvertSocket::open`] says.
    pub fn open_advert(&mut self, interface: u32, family: Family) -> io::Result<()> {
        if self.adverts.contains_key(&(interface, family)) {
            return Ok(());
        }
        let socket = Arc::new(AdvertSocket::open(interface, family, self.transport)?);
        let gate = Gate::new(Arc::clone(&self.members), self.packets.clone()).of_adverts(self.transport);
        let task = tokio::spawn(read_adverts(Arc::clone(&socket), gate));
        self.adverts.insert((interface, family), Reading { socket, task });
        Ok(())
    }

    /// Opens the peer socket of one of this node's own addresses unless it is open.
    ///
    /// # Errors
    /// What [`PeerSocket::bind`] says.
    pub fn open_peer(&mut self, local: SocketAddr) -> io::Result<()> {
        if self.peers.contains_key(&local.ip()) {
            return Ok(());
        }
        let socket = Arc::new(PeerSocket::bind(local)?);
        let gate = Gate::new(Arc::clone(&self.members), self.packets.clone());
        let task = tokio::spawn(read_peers(Arc::clone(&socket), local.ip(), gate));
        self.peers.insert(local.ip(), Reading { socket, task });
        Ok(())
    }

    /// Watches who claims addresses on interfaces, those of `wanted` and no others.
    ///
    /// # Errors
    /// What [`ClaimSocket::open`] says; the others are watched all the same.
    pub fn watch_claims(&mut self, wanted: &BTreeMap<(u32, Family), BTreeSet<IpAddr>>) -> io::Result<()> {
        self.claims.retain(|key, (addresses, _)| wanted.get(key) == Some(addresses));
        let mut result = Ok(());
        for (key, addresses) in wanted {
            if self.claims.contains_key(key) {
                continue;
            }
            let (interface, family) = *key;
            match ClaimSocket::open(interface, family, addresses) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let read = read_claims(Arc::clone(&socket), interface, self.packets.clone());
                    let reading = Reading { socket, task: tokio::spawn(read) };
                    self.claims.insert(*key, (addresses.clone(), reading));
                }
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// The interface is gone, and its sockets with it.
    pub fn close(&mut self, interface: u32) {
        self.adverts.retain(|(index, _), _| *index != interface);
        self.claims.retain(|(index, _), _| *index != interface);
    }

    /// Sends an advert. One that cannot be sent is as one that was lost.
    pub fn send(&self, packet: &Transmit) {
        let key = (packet.interface, Family::of(packet.source));
        let Some(reading) = self.adverts.get(&key) else { return };
        match reading.socket.send(packet.source, packet.destination, &packet.bytes) {
            Ok(()) => trace!(destination = %packet.destination, "advert sent"),
            Err(error) => debug!(destination = %packet.destination, %error, "advert not sent"),
        }
    }

    /// Sends a datagram from one of this node's own addresses.
    pub fn send_from(&self, own: IpAddr, to: SocketAddr, bytes: &[u8]) {
        let Some(reading) = self.peers.get(&own) else { return };
        if let Err(error) = reading.socket.send(to, bytes) {
            debug!(%to, %error, "advert not sent");
        }
    }

    /// Sends a datagram to a node, by the first family both have.
    pub fn send_peer(&self, addresses: &[IpAddr], port: u16, bytes: &[u8]) {
        for address in addresses {
            let family = Family::of(*address);
            let Some((_, reading)) = self.peers.iter().find(|(own, _)| Family::of(**own) == family) else {
                continue;
            };
            if let Err(error) = reading.socket.send(SocketAddr::new(*address, port), bytes) {
                debug!(%address, %error, "peer message not sent");
            }
            return;
        }
    }
}

/// What lies between a socket and the loop.
struct Gate {
    members: Arc<BTreeSet<IpAddr>>,
    /// Absent where strangers may have something to say.
    strangers: Option<Bucket>,
    packets: mpsc::Sender<Packet>,
    in_a_row: usize,
}

impl Gate {
    fn new(members: Arc<BTreeSet<IpAddr>>, packets: mpsc::Sender<Packet>) -> Self {
        Self { members, strangers: Some(Bucket::new(STRANGERS)), packets, in_a_row: 0 }
    }

    /// By multicast also an owner that is none of the nodes is heard, however
    /// many groups it has.
    fn of_adverts(self, transport: Transport) -> Self {
        match transport {
            Transport::Multicast => Self { strangers: None, ..self },
            Transport::Unicast | Transport::Udp => self,
        }
    }

    /// Whether a packet is let through. A node may advertise from a link-local
    /// address that it has yet to tell of.
    fn takes(&mut self, source: IpAddr) -> bool {
        let Some(strangers) = &mut self.strangers else { return true };
        self.members.contains(&source) || is_link_local(source) || strangers.take(clock::now())
    }

    fn pass(&self, packet: Packet) {
        // A full queue loses the packet, as the network may.
        let _ = self.packets.try_send(packet);
    }

    /// After each packet, taken or not.
    async fn rest(&mut self) {
        self.in_a_row += 1;
        if self.in_a_row >= IN_A_ROW {
            self.in_a_row = 0;
            tokio::task::yield_now().await;
        }
    }
}

async fn read_adverts(socket: Arc<AdvertSocket>, mut gate: Gate) {
    let mut buffer = vec![0; advert::BUFFER];
    loop {
        match socket.receive(&mut buffer).await {
            Ok(received) if gate.takes(received.source) => gate.pass(Packet::Advert {
                interface: received.interface,
                source: received.source,
                destination: received.destination,
                ttl: received.hop_limit,
                payload: received.payload.to_vec(),
            }),
            Ok(_) => {}
            Err(error) => {
                // The interface went down; the socket is good once it is up again.
                debug!(%error, "reading adverts");
                tokio::task::yield_now().await;
            }
        }
        gate.rest().await;
    }
}

async fn read_claims(socket: Arc<ClaimSocket>, interface: u32, packets: mpsc::Sender<Packet>) {
    let mut bucket = Bucket::new(CLAIMS);
    loop {
        match socket.receive().await {
            Ok(claim) => {
                let _ = packets.try_send(Packet::Claim { interface, claim });
            }
            Err(error) => {
                debug!(%error, "reading who claims addresses");
                tokio::time::sleep(PAUSE).await;
            }
        }
        if !bucket.take(clock::now()) {
            while !bucket.take(clock::now()) {
                tokio::time::sleep(PAUSE).await;
            }
            // A former owner's last announcement, read when another owns, would
            // be a duplicate address that is not there.
            socket.forget();
        }
    }
}

async fn read_peers(socket: Arc<PeerSocket>, own: IpAddr, mut gate: Gate) {
    let mut buffer = vec![0; BUFFER];
    loop {
        match socket.receive(&mut buffer).await {
            Ok(received) if gate.takes(received.source.ip()) => gate.pass(Packet::Peer {
                source: received.source.ip(),
                own,
                ttl: received.hop_limit,
                payload: received.payload.to_vec(),
            }),
            Ok(_) => {}
            Err(error) => {
                debug!(%error, "reading peer messages");
                tokio::task::yield_now().await;
            }
        }
        gate.rest().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in a socket's buffer is not read in one go, whoever it is from.
    #[tokio::test]
    async fn a_flood_leaves_others_their_turn() -> io::Result<()> {
        for is_member in [true, false] {
            let local = SocketAddr::from(([127, 0, 0, 1], 0));
            let (here, there) = (Arc::new(PeerSocket::bind(local)?), PeerSocket::bind(local)?);
            for _ in 0..3 * IN_A_ROW {
                there.send(here.local_address()?, b"x")?;
            }
            let members = if is_member { [local.ip()].into() } else { BTreeSet::new() };
            let (packets, mut queue) = mpsc::channel(WAITING);
            let task = tokio::spawn(read_peers(here, local.ip(), Gate::new(Arc::new(members), packets)));
            assert!(queue.recv().await.is_some());
            assert_eq!(queue.len() + 1, IN_A_ROW);
            task.abort();
            queue.close();
        }
        Ok(())
    }
}
