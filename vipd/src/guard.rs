//! The crash guard: a tiny process that outlives the daemon by milliseconds.
//!
//! The daemon starts it before anything else and keeps it informed of what it
//! holds through a socket. When the daemon dies without a goodbye (SIGKILL, the
//! OOM killer, an abort), the kernel closes the socket; the guard then deletes
//! the floating addresses and sends the releases that the daemon could not
//! send, so that the next owner takes over at once instead of after a silence.
//!
//! ```text
//!  daemon ── update (whole state) ──► guard: remembers the newest
//!  daemon ── a lease lasts longer ──► guard: deletes what it is for no sooner
//!  daemon ── end of file ───────────► guard: waits until the process is gone,
//!                                     deletes the addresses, and only then
//!                                     sends the releases and gives votes and
//!                                     ARP switches back
//!  daemon ── SIGKILL ───────────────► guard: ends, does nothing
//! ```
//! A guard that was frozen meanwhile may wake when the next daemon owns the
//! addresses already: that one has written its process id into the lock's file.
//!
//! Until the daemon is really gone the guard waits: while its sockets are being
//! closed the addresses must still be there, so that clients get their FIN or RST.

mod daemon;
mod process;

pub use daemon::Guard;
pub use process::main;

use crate::control::instance::Instance;
use crate::kernel::{LOOPBACK, Spot};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use vipd_core::node::{GuardState, Transmit, Watch};
use vipd_core::settings::Cidr;
use vipd_core::time::Time;

/// Interface, address and prefix length.
type Held = (u32, IpAddr, u8);

/// What the daemon tells its guard; each replaces what was told before.
#[derive(Debug, Default, Deserialize, Serialize)]
struct State {
    runtime_dir: PathBuf,
    /// The daemon's process id.
    daemon: u32,
    addresses: Vec<Held>,
    farewells: Vec<Farewell>,
    /// What is said to voters: where to, and the datagram.
    #[serde(default)]
    releases: Vec<(SocketAddr, Vec<u8>)>,
    /// What to delete at a time of `CLOCK_BOOTTIME` in nanoseconds, while the
    /// daemon still lives: it is frozen.
    #[serde(default)]
    watched: Vec<(u64, Vec<Held>)>,
}

/// A message to the guard.
#[derive(Debug, Deserialize, Serialize)]
enum Message {
    /// It replaces what was told before.
    State(State),
    /// The lease of these addresses ends then, of what was told of them before.
    Longer(u64, Vec<Held>),
}

#[derive(Debug, Deserialize, Serialize)]
struct Farewell {
    interface: u32,
    source: IpAddr,
    destination: IpAddr,
    /// Over UDP to this port, if not as protocol 112.
    port: Option<u16>,
    bytes: Vec<u8>,
}

impl State {
    fn new(
        state: &GuardState,
        port: Option<u16>,
        releases: Vec<(SocketAddr, Vec<u8>)>,
        runtime_dir: &Path,
    ) -> Self {
        let farewell = |packet: &Transmit| Farewell {
            interface: packet.interface,
            source: packet.source,
            destination: packet.destination,
            port,
            bytes: packet.bytes.clone(),
        };
        Self {
            runtime_dir: runtime_dir.to_owned(),
            daemon: std::process::id(),
            addresses: plain(&state.addresses),
            farewells: state.farewells.iter().map(farewell).collect(),
            releases,
            watched: state.watched.iter().map(end_of).collect(),
        }
    }

    /// A lease lasts longer.
    fn extend(&mut self, until: u64, addresses: &[Held]) {
        for (end, _) in self.watched.iter_mut().filter(|(_, watched)| watched == addresses) {
            *end = until;
        }
    }

    /// Whether another daemon has started since, which looks after what it found.
    fn is_superseded(&self) -> bool {
        Instance::claimant(&self.runtime_dir).is_some_and(|claimant| claimant != self.daemon)
    }

    /// Where the addresses may be: on their interface, or silently on loopback.
    fn spots(&self) -> Vec<Spot> {
        spots(&self.addresses)
    }

    /// When the next lease ends.
    fn next_end(&self) -> Option<Time> {
        self.watched.iter().map(|(until, _)| Time::from_nanos(*until)).min()
    }

    /// The addresses whose lease is over; as long as they are not deleted.
    fn over(&self, now: Time) -> Vec<Held> {
        let over = self.watched.iter().filter(|(until, _)| *until <= now.as_nanos());
        over.flat_map(|(_, addresses)| addresses.clone()).collect()
    }

    /// What was over by then is deleted, or is looked at again at a later time.
    fn settle(&mut self, now: Time, again: Option<Time>) {
        match again {
            None => self.watched.retain(|(until, _)| *until > now.as_nanos()),
            Some(again) => {
                for (until, _) in self.watched.iter_mut().filter(|(until, _)| *until <= now.as_nanos()) {
                    *until = again.as_nanos();
                }
            }
        }
    }
}

fn plain(addresses: &[(u32, Cidr)]) -> Vec<Held> {
    addresses.iter().map(|(interface, a)| (*interface, a.address(), a.prefix())).collect()
}

fn end_of(watch: &Watch) -> (u64, Vec<Held>) {
    (watch.until.as_nanos(), plain(&watch.addresses))
}

fn spots(addresses: &[Held]) -> Vec<Spot> {
    let mut spots = vec![];
    for (interface, address, prefix) in addresses {
        let host = if address.is_ipv4() { 32 } else { 128 };
        let on_link = Cidr::new(*address, *prefix).map(|address| Spot { interface: *interface, address });
        let silent = Cidr::new(*address, host).map(|address| Spot { interface: LOOPBACK, address });
        spots.extend(on_link.into_iter().chain(silent));
    }
    spots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_understood_and_a_torn_message_is_not() -> std::io::Result<()> {
        let state = GuardState {
            addresses: Cidr::new(IpAddr::from([10, 77, 0, 100]), 24).map(|a| (2, a)).into_iter().collect(),
            farewells: vec![Transmit {
                interface: 2,
                source: IpAddr::from([10, 77, 0, 11]),
                destination: IpAddr::from([10, 77, 0, 12]),
                bytes: vec![1, 2, 3],
            }],
            ..GuardState::default()
        };
        let bytes = serde_json::to_vec(&State::new(&state, None, vec![], Path::new("/run/vipd")))?;
        let read: State = serde_json::from_slice(&bytes)?;
        assert_eq!(read.farewells.len(), 1);
        let spots = read.spots();
        assert_eq!(spots.len(), 2, "on the link, and silently on loopback");
        assert_eq!(spots[1].interface, LOOPBACK);
        assert!(serde_json::from_slice::<State>(&bytes[..bytes.len() - 1]).is_err());
        Ok(())
    }
}
