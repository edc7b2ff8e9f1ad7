//! A client from its acceptance to its end.

use crate::connect::{self, Connected};
use crate::patience::{Limits, Patience};
use crate::relay::{Flows, Relay};
use crate::shared::{Admission, Place};
use crate::stats::CloseCause;
use crate::worker::Worker;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;

/// A session, and what must happen at its end however that comes about.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) worker: Rc<Worker>,
    /// Its place in the worker's registry.
    pub(crate) id: usize,
    server: Option<(TcpStream, Place)>,
    pub(crate) client: TcpStream,
    pub(crate) peer: SocketAddr,
    cause: Option<CloseCause>,
    /// Last, because it is dropped last: who sees that the session is not
    /// counted any more finds its sockets closed.
    pub(crate) admission: Admission,
}

/// Takes a client over from its acceptor, which may know the address that the
/// client connected to.
pub(crate) fn start(
    worker: &Rc<Worker>,
    admission: Admission,
    client: TcpStream,
    peer: SocketAddr,
    local: Option<IpAddr>,
) -> io::Result<()> {
    let local = match local {
        Some(local) => local,
        None => client.local_addr()?.ip(),
    };
    worker.tally(&admission).total.add(1);
    let id = worker.registry.borrow_mut().add(local);
    let mut session =
        Session { worker: Rc::clone(worker), id, server: None, client, peer, cause: None, admission };
    if let Err(cause) = session.admit() {
        session.cause = Some(cause);
        return Ok(());
    }
    let task = tokio::task::spawn_local(async move { session.run().await });
    if let Some(entry) = worker.registry.borrow_mut().entry(id) {
        entry.task = Some(task.abort_handle());
    }
    Ok(())
}

impl Session {
    async fn run(&mut self) {
        // In a box, so that its memory is given back when the relaying begins; and
        // nothing but the relay itself is kept while that lasts.
        let connected = Box::pin(connect::connect(self)).await;
        let mut relay = connected.map(|connected| self.relay(connected));
        let cause = match &mut relay {
            Ok(relay) => relay.await,
            Err(cause) => *cause,
        };
        let silent = relay.is_ok_and(|relay| relay.patience.silent());
        self.end(cause, silent);
    }

    /// Whether this client, and any client, may have a session.
    fn admit(&mut self) -> Result<(), CloseCause> {
        if self.worker.shared.descriptors.holds(&self.client) {
            return Err(CloseCause::NoResources);
        }
        self.admission.count(self.peer.ip())
    }

    fn relay(&mut self, connected: Connected) -> Relay<'_> {
        let Connected { stream, place, route } = connected;
        let worker = &self.worker;
        let (server, _) = self.server.insert((stream, place));
        let limits = Limits { age: route.limits.age.map(|age| spread(age, worker.random())), ..route.limits };
        Relay {
            client: &mut self.client,
            server,
            flows: Flows::default(),
            patience: Patience::new(limits, route.tcp, &worker.alarms),
            buffers: &worker.buffers,
            tally: worker.tally(&self.admission),
        }
    }

    /// With the cause of its end, and whether neither side had said anything.
    fn end(&mut self, cause: CloseCause, silent: bool) {
        self.cause = Some(cause);
        let Some((_, place)) = self.server.as_ref().filter(|_| cause == CloseCause::ServerError) else {
            return;
        };
        place.server().resets.fetch_add(1, Ordering::Relaxed);
        // A client's own words may make a server do that; here were none.
        if silent {
            self.worker.shared.failed(place.server(), &"it reset a connection before anybody spoke");
        }
    }
}

/// Nine to eleven tenths of an age, so that sessions which began together do
/// not end together.
fn spread(age: Duration, random: u64) -> Duration {
    let thousandths = u32::try_from(900 + random % 201).unwrap_or(1000);
    (age / 1000).saturating_mul(thousandths)
}

impl Drop for Session {
    fn drop(&mut self) {
        let asked = self.worker.registry.borrow_mut().remove(self.id);
        let cause = self.cause.or(asked).unwrap_or(CloseCause::Stopped);
        if cause.resets() {
            let server = self.server.as_ref().map(|(stream, _)| stream);
            for stream in [Some(&self.client), server].into_iter().flatten() {
                // It fails only if the kernel has given the connection up already.
                let _ = stream.set_zero_linger();
            }
        }
        self.worker.tally(&self.admission).closed[cause as usize].add(1);
        let listener = &self.admission.listener().name;
        if cause == CloseCause::NoResources {
            self.worker.shared.descriptors.tell(listener, self.worker.shared.now());
        }
        tracing::debug!(
            %listener, client = %self.peer,
            server = self.server.as_ref().map(|(_, p)| p.server().name.as_str()), %cause, "session ended"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_spread_by_a_tenth() {
        let age = Duration::from_secs(1000);
        let spread: Vec<_> = (0..10_000).map(|n| spread(age, n * 7919)).collect();
        assert_eq!(spread.iter().min(), Some(&Duration::from_secs(900)));
        assert_eq!(spread.iter().max(), Some(&Duration::from_secs(1100)));
        assert_eq!(super::spread(Duration::MAX, 200), Duration::MAX);
    }
}
