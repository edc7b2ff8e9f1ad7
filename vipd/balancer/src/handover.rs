//! The end of one process and the beginning of the next: whoever connects in
//! between is not refused, and sessions end where nothing is under way.
//!
//! The sockets that listen are given to whoever keeps them over the restart
//! (systemd's store of descriptors), and taken from there by the next process.
//! Connections that come meanwhile wait in the kernel's queue.

use crate::worker::Command;
use crate::{Balancer, Error};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A session is at rest if its server spoke last, and that was so long ago:
/// a client that still wants something asks within it, as a rule.
pub(crate) const AT_REST: Duration = Duration::from_millis(250);
/// How often sessions are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Sockets of the process before this one that nobody has taken yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited(pub(crate) Vec<TcpListener>);

impl Inherited {
    /// Whether one of them listens there.
    pub(crate) fn has(&self, address: SocketAddr) -> bool {
        self.0.iter().any(|s| listens(s, address))
    }

    /// One that listens there.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.0.iter().position(|s| listens(s, address))?;
        Some(self.0.swap_remove(at))
    }
}

fn listens(socket: &TcpListener, address: SocketAddr) -> bool {
    socket.local_addr().is_ok_and(|own| own == address)
}

impl Balancer {
    /// The sockets that listen, to be kept for the next process: they listen
    /// for as long as somebody has them.
    ///
    /// # Errors
    ///
    /// [`Error::Stalled`] when a worker hangs.
    pub async fn listening(&self) -> Result<Vec<TcpListener>, Error> {
        let mut all = Vec::new();
        for answer in self.ask(Command::Share)? {
            // A worker that has ended listens no more.
            all.extend(answer.await.unwrap_or_default());
        }
        Ok(all)
    }

    /// As [`drain`](Self::drain), but a session ends as soon as nothing is
    /// under way on it: its server spoke last, a quarter of a second ago.
    ///
    /// # Errors
    ///
    /// [`Error::Stalled`] when a worker hangs.
    pub async fn drain_at_rest(&self, limit: Duration) -> Result<u32, Error> {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.stop_accepting()?;
        let looks = async {
            loop {
                tokio::time::sleep(LOOK).await;
                // A worker that does not take it is told of by whoever gives it an order.
                let _ = self.tell(|| Command::CloseAtRest);
            }
        };
        tokio::select! {
            left = self.drain(limit) => left,
            () = looks => Ok(0),
        }
    }
}
