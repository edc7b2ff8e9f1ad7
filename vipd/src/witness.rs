//! `vipd run` on a witness: it votes, and does nothing else. One thread, no
//! address, no listener, no right beyond its own port.

use crate::control::notify;
use crate::net::{HOP_LIMIT, clock};
use crate::peer::{Links, Received};
use crate::shell::sockets::{Packet, Sockets, WAITING};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};
use vipd_core::rejects::{Reject, Rejects};
use vipd_core::settings::Transport;
use vipd_core::time::Time;
use vipd_core::witness::Witness;

/// How often it says that it is there, and looks for its own addresses.
const HELLO: Duration = Duration::from_secs(1);

struct Loop {
    witness: Witness,
    links: Option<Links>,
    sockets: Sockets,
    own: Vec<IpAddr>,
    rejects: Rejects,
}

/// Votes until a signal asks for the end.
///
/// # Errors
/// The system has no signals for it.
pub async fn run(witness: Witness, links: Option<Links>, own: Vec<IpAddr>) -> io::Result<()> {
    let (packets, mut packets_in) = mpsc::channel(WAITING);
    let members = witness.cluster().voters().flat_map(|v| v.addresses.clone()).collect();
    let sockets = Sockets::new(Transport::Unicast, members, packets);
    let mut this = Loop { witness, links, sockets, own, rejects: Rejects::default() };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // Whoever reloads every host of the cluster must not end this one.
    let mut hangup = signal(SignalKind::hangup())?;
    let mut hello = interval(HELLO);
    hello.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = this.links.as_ref().map(|l| Instant::now() + l.deadline().since(clock::now()));
        tokio::select! {
            biased;
            Some(packet) = packets_in.recv() => this.packet(&packet),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => warn!("a witness takes over no change while it runs: restart it"),
            _ = hello.tick() => {
                this.say_hello();
                // By the loop itself: if it hangs, the watchdog starves.
                notify::alive();
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => this.tick_links(),
        }
    }
}

impl Loop {
    fn say_hello(&mut self) {
        for address in &self.own {
            let local = SocketAddr::new(*address, self.witness.cluster().peer_port);
            if let Err(error) = self.sockets.open_peer(local) {
                warn!(%local, %error, "cannot open the peer port: this witness has no voice");
            }
        }
        let hello = self.witness.hello();
        for node in 0..self.witness.cluster().nodes.len() {
            self.send(node, &hello, clock::now());
        }
    }

    fn tick_links(&mut self) {
        if let Some(links) = &mut self.links {
            links.tick(clock::now());
            self.send_sealed();
        }
    }

    fn send(&mut self, node: usize, bytes: &[u8], now: Time) {
        match &mut self.links {
            Some(links) if !links.speaks_plainly(node, now) => {
                links.send(node, bytes, now);
                self.send_sealed();
            }
            Some(_) | None => self.send_datagram(node, bytes),
        }
    }

    fn send_sealed(&mut self) {
        while let Some((node, bytes)) = self.links.as_mut().and_then(Links::next_datagram) {
            self.send_datagram(node, &bytes);
        }
    }

    fn send_datagram(&self, node: usize, bytes: &[u8]) {
        let cluster = self.witness.cluster();
        if let Some(member) = cluster.voter(node) {
            self.sockets.send_peer(&member.addresses, cluster.peer_port, bytes);
        }
    }

    fn packet(&mut self, packet: &Packet) {
        // Adverts go to nodes only.
        let Packet::Peer { source, own, ttl, payload } = packet else { return };
        let Some(links) = &mut self.links else { return self.message(*source, *ttl, payload) };
        let received = links.receive(*source, *own, payload, clock::now());
        self.send_sealed();
        match received {
            Received::Nothing | Received::Advert(_) | Received::RefusedAdvert(..) => {}
            Received::Plain => self.message(*source, *ttl, payload),
            // A seal proves more than a TTL does, and crosses routers.
            Received::Message(message) => self.message(*source, HOP_LIMIT, &message),
            Received::Refused(cause) => self.reject(cause, *source),
        }
    }

    fn message(&mut self, source: IpAddr, ttl: u8, payload: &[u8]) {
        let now = clock::now();
        match self.witness.packet(source, ttl, payload, now) {
            Ok(Some((node, answer))) => self.send(node, &answer, now),
            Ok(None) => {}
            Err(cause) => self.reject(cause, source),
        }
    }

    fn reject(&mut self, cause: Reject, sender: IpAddr) {
        if let Some(told) = self.rejects.count(cause, sender, clock::now()) {
            warn!(%sender, count = told.count, "packets not accepted ({cause}): {}", cause.advice());
        }
    }
}

/// Says who starts.
pub fn announce(witness: &Witness, name: &str) {
    let version = env!("CARGO_PKG_VERSION");
    info!(
        witness = name,
        cluster = witness.cluster().name,
        version,
        "vipd starts: it votes and owns nothing"
    );
}
