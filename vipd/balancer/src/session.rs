//! A client from its acceptance to its end.

use crate::access::{self, Times};
use crate::connect::{self, Connected};
use crate::patience::Patience;
use crate::proxy_protocol::{self, Ends};
use crate::registry::{Meter, Remains, State};
use crate::relay::{Flows, Relay};
use crate::shared::{Admission, Place, ServerTally};
use crate::stats::CloseCause;
use crate::worker::Worker;
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A session, and what must happen at its end however that comes about.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) worker: Rc<Worker>,
    /// Its place in the worker's registry.
    pub(crate) place: usize,
    server: Option<(TcpStream, Place)>,
    pub(crate) client: TcpStream,
    /// The other end of that.
    pub(crate) peer: SocketAddr,
    /// The address that the peer connected to.
    pub(crate) local: SocketAddr,
    /// The ends of the client's own connection, where a PROXY protocol header
    /// tells of another. Few do, so that only those have the memory.
    told: Option<Box<Ends>>,
    pub(crate) began: Instant,
    pub(crate) times: Cell<Times>,
    cause: Option<CloseCause>,
    /// Something that one side said is lost to the other.
    cut: bool,
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
    local: Option<SocketAddr>,
) -> io::Result<()> {
    let local = match local {
        Some(local) => local,
        None => client.local_addr()?,
    };
    worker.tally(&admission).total.add(1);
    let from_proxy = admission.listener().is_proxy(peer.ip());
    let place = worker.registry.borrow_mut().add(admission.listener().slot, peer, local.ip());
    let mut session = Session {
        worker: Rc::clone(worker),
        place,
        server: None,
        client,
        peer,
        local,
        told: None,
        began: Instant::now(),
        times: Cell::default(),
        cause: None,
        cut: false,
        admission,
    };
    if let Err(cause) = session.admit(from_proxy) {
        session.cause = Some(cause);
        return Ok(());
    }
    let task = tokio::task::spawn_local(async move { session.run(from_proxy).await });
    if let Some(entry) = worker.registry.borrow_mut().entry(place) {
        entry.task = Some(task.abort_handle());
    }
    Ok(())
}

impl Session {
    async fn run(&mut self, from_proxy: bool) {
        // In boxes, so that their memory is given back when the relaying begins;
        // and nothing but the relay itself is kept while that lasts.
        if from_proxy && let Err(cause) = Box::pin(self.hear_of_client()).await {
            self.cause = Some(cause);
            return;
        }
        let connected = Box::pin(connect::connect(self)).await;
        let mut relay = connected.map(|connected| self.relay(connected));
        let cause = match &mut relay {
            Ok(relay) => relay.await,
            Err(cause) => *cause,
        };
        let told = relay.ok().map(|relay| (relay.patience.silent(), relay.flows.hold()));
        let (silent, cut) = told.unwrap_or_default();
        self.cut = cut;
        self.end(cause, silent);
    }

    /// Whether this client, and any client, may have a session. Who comes
    /// through a proxy is not known yet.
    fn admit(&mut self, from_proxy: bool) -> Result<(), CloseCause> {
        if self.worker.shared.descriptors.holds(&self.client) {
            return Err(CloseCause::NoResources);
        }
        if self.worker.shared.is_leaving(self.local.ip()) {
            return Err(CloseCause::AddressLost);
        }
        if from_proxy { Ok(()) } else { self.admission.count(self.peer.ip()) }
    }

    /// Reads the header by which a proxy tells who the client is.
    async fn hear_of_client(&mut self) -> Result<(), CloseCause> {
        self.enter(State::Header);
        match proxy_protocol::accept(&self.client, &self.worker.alarms).await {
            // A connection of the proxy itself.
            Ok(None) => {}
            Ok(Some(ends)) => self.told = Some(Box::new(ends)),
            Err(error) => {
                let listener = self.admission.listener().name();
                tracing::debug!(%listener, proxy = %self.peer, %error, "no PROXY protocol header");
                return Err(CloseCause::ProxyHeader);
            }
        }
        let client = self.ends().source;
        if let Some(entry) = self.worker.registry.borrow_mut().entry(self.place) {
            entry.client = client;
            entry.state = State::Picking;
        }
        self.admission.count(client.ip())
    }

    /// The ends of the client's own connection.
    pub(crate) fn ends(&self) -> Ends {
        let this = || Ends { source: self.peer, destination: self.local };
        self.told.as_deref().copied().unwrap_or_else(this)
    }

    pub(crate) fn enter(&self, state: State) {
        if let Some(entry) = self.worker.registry.borrow_mut().entry(self.place) {
            entry.state = state;
        }
    }

    pub(crate) fn server(&self) -> Option<&ServerTally> {
        self.server.as_ref().map(|(_, place)| &**place.server())
    }

    fn relay(&mut self, connected: Connected) -> Relay<'_> {
        let Connected { stream, place, route } = connected;
        let worker = &self.worker;
        let (server, _) = self.server.insert((stream, place));
        let random = worker.random();
        let patience = Patience::new(route.limits.spread(random), route.tcp, &worker.alarms);
        Relay {
            client: &mut self.client,
            server,
            flows: Flows::default(),
            patience: patience.following(&worker.shared, self.admission.listener().slot, random),
            buffers: &worker.buffers,
            meter: Meter {
                shared: &worker.shared,
                tally: worker.tally(&self.admission),
                registry: &worker.registry,
                place: self.place,
            },
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
        let at = match self.worker.registry.borrow_mut().entry(self.place).map(|e| &e.state) {
            Some(State::Relaying(_, at)) => Some(*at),
            Some(State::Header | State::Picking | State::Queued | State::Connecting { .. }) | None => None,
        };
        if let Some(at) = at.filter(|_| silent) {
            let reason = "it reset a connection before anybody spoke";
            self.worker.shared.failed(place.server(), at, &reason);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let remains = self.worker.registry.borrow_mut().remove(self.place);
        let cause = self.cause.or(remains.and_then(|r| r.cause)).unwrap_or(CloseCause::Stopped);
        if cause.resets() || self.cut {
            let server = self.server.as_ref().map(|(stream, _)| stream);
            for stream in [Some(&self.client), server].into_iter().flatten() {
                // It fails only if the kernel has given the connection up already.
                let _ = stream.set_zero_linger();
            }
        }
        self.worker.tally(&self.admission).closed[cause as usize].add(1);
        if let Some(server) = self.server() {
            server.ended(cause, remains.map(|r| r.traffic).unwrap_or_default());
        }
        let listener = self.admission.listener();
        if cause == CloseCause::NoResources {
            self.worker.shared.descriptors.tell(&listener.name(), self.worker.shared.now());
        }
        if let (true, Some(Remains { id, traffic, .. })) = (listener.logs_access(), remains) {
            access::tell(self, id, traffic, cause);
        }
        tracing::debug!(
            listener = %listener.name(), client = %self.ends().source,
            server = self.server().map(ServerTally::name).as_ref().map(|n| n.as_str()), %cause, "session ended"
        );
    }
}
