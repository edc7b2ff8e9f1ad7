//! A client from its acceptance to its end.

use crate::bind;
use crate::relay::{Flows, Idle, Relay};
use crate::shared::{Admission, Place, ServerTally, View};
use crate::stats::CloseCause;
use crate::worker::Worker;
use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::AbortHandle;
use vipd_core::pool::{Connection, NoServer, Picked};

/// The sessions of a worker, so that they can be found and ended.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    /// The address that the client connected to.
    local: IpAddr,
    state: State,
    /// Why the session's task was aborted, if it was.
    cause: Option<CloseCause>,
    task: Option<AbortHandle>,
}

/// How far a session is.
#[derive(Debug)]
enum State {
    /// It looks for a server.
    Picking,
    /// It waits for one; `withdrawn` if that must not have sessions any more.
    Connecting { server: Arc<ServerTally>, withdrawn: bool },
    /// It has one.
    Relaying(Arc<ServerTally>),
}

impl Registry {
    fn add(&mut self, local: IpAddr) -> usize {
        let entry = Entry { local, state: State::Picking, cause: None, task: None };
        if let Some(id) = self.free.pop() {
            self.entries[id] = Some(entry);
            return id;
        }
        self.entries.push(Some(entry));
        self.entries.len() - 1
    }

    fn entry(&mut self, id: usize) -> Option<&mut Entry> {
        self.entries.get_mut(id)?.as_mut()
    }

    fn remove(&mut self, id: usize) -> Option<CloseCause> {
        let entry = self.entries.get_mut(id)?.take()?;
        self.free.push(id);
        entry.cause
    }

    /// Ends the sessions to these addresses.
    pub(crate) fn close_local(&mut self, addresses: &[IpAddr]) {
        for entry in self.entries.iter_mut().flatten() {
            if addresses.contains(&entry.local) {
                entry.close(CloseCause::AddressLost);
            }
        }
    }

    /// Ends the sessions on a server. One that is still being connected goes elsewhere.
    pub(crate) fn close_server(&mut self, gone: &Arc<ServerTally>) {
        for entry in self.entries.iter_mut().flatten() {
            match &mut entry.state {
                State::Connecting { server, withdrawn } if Arc::ptr_eq(server, gone) => *withdrawn = true,
                State::Relaying(server) if Arc::ptr_eq(server, gone) => {
                    entry.close(CloseCause::ServerWithdrawn);
                }
                State::Picking | State::Connecting { .. } | State::Relaying(_) => {}
            }
        }
    }

    /// Ends all sessions.
    pub(crate) fn close_all(&mut self, cause: CloseCause) {
        self.entries.iter_mut().flatten().for_each(|e| e.close(cause));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.len() == self.free.len()
    }
}

impl Entry {
    /// The task is dropped by its runtime, and [`Session::drop`] does the rest.
    fn close(&mut self, cause: CloseCause) {
        if self.cause.is_none() {
            self.cause = Some(cause);
            if let Some(task) = &self.task {
                task.abort();
            }
        }
    }
}

/// A session, and what must happen at its end however that comes about.
#[derive(Debug)]
struct Session {
    worker: Rc<Worker>,
    id: usize,
    server: Option<(TcpStream, Place)>,
    client: TcpStream,
    peer: SocketAddr,
    cause: Option<CloseCause>,
    /// Last, because it is dropped last: who sees that the session is not
    /// counted any more finds its sockets closed.
    admission: Admission,
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
    let session =
        Session { worker: Rc::clone(worker), id, server: None, client, peer, cause: None, admission };
    let task = tokio::task::spawn_local(run(session));
    if let Some(entry) = worker.registry.borrow_mut().entry(id) {
        entry.task = Some(task.abort_handle());
    }
    Ok(())
}

async fn run(mut session: Session) {
    // In a box, so that its memory is given back when the relaying begins.
    let connected = Box::pin(session.connect()).await;
    session.cause = Some(match connected {
        Ok((idle, stream, place)) => session.relay(idle, stream, place).await,
        Err(cause) => cause,
    });
}

impl Session {
    /// A connection to a server, by the pool's rules.
    async fn connect(&self) -> Result<(Option<Duration>, TcpStream, Place), CloseCause> {
        let slot = self.admission.listener().slot;
        let mut tried = Vec::new();
        let mut generation = None;
        let mut failures = 0;
        loop {
            let view = self.worker.shared.view.load_full();
            let route = view.route(slot).ok_or(CloseCause::NoServer)?;
            // What was tried are positions in the pools of then.
            if generation.replace(view.pools.generation()) != Some(view.pools.generation()) {
                tried.clear();
            }
            let connection =
                Connection { client: self.peer.ip(), random: self.worker.random(), tried: &tried };
            let picked = self.worker.pick(&view, route.pool, &connection).map_err(|why| match why {
                NoServer::NoneUsable => CloseCause::NoServer,
                NoServer::Full => CloseCause::ServersFull,
                NoServer::AllTried => CloseCause::ConnectFailed,
            })?;
            let Some(tally) = view.server(picked.key) else { return Err(CloseCause::NoServer) };
            let limit = view.pools.server(picked.key).and_then(|s| s.max_connections());
            // Another worker may have taken the last place since the pick.
            let Some(place) = tally.acquire(limit) else { continue };
            match self.attempt(&view, picked, tally).await {
                Ok(Some(stream)) => return Ok((route.idle, stream, place)),
                // Nobody's failure: the newest pools know better.
                Ok(None) => continue,
                Err(error) if bind::no_resources(&error) => return Err(CloseCause::NoResources),
                Err(error) => tracing::debug!(
                    listener = %self.admission.listener().name, client = %self.peer,
                    server = %tally.name, pool = %tally.pool, %error, "cannot connect"
                ),
            }
            failures += 1;
            if failures > view.pools.pools().get(route.pool).map_or(0, |p| p.settings().retries) {
                return Err(CloseCause::ConnectFailed);
            }
            tried.push(picked.key);
        }
    }

    /// One server: the picked address, then its others, all within the
    /// pool's `connect_timeout`. `None` if it was withdrawn meanwhile.
    async fn attempt(
        &self,
        view: &View,
        picked: Picked,
        tally: &Arc<ServerTally>,
    ) -> io::Result<Option<TcpStream>> {
        self.enter(State::Connecting { server: Arc::clone(tally), withdrawn: false });
        let limit =
            view.pools.pools().get(picked.key.pool).map_or(Duration::ZERO, |p| p.settings().connect_timeout);
        let others = view.pools.server(picked.key).map_or(&[][..], |s| s.addresses());
        let connecting = async {
            let mut result = connect(picked.address).await;
            for other in others.iter().filter(|a| **a != picked.address) {
                if !result.as_ref().is_err_and(|e| !bind::no_resources(e)) {
                    break;
                }
                result = connect(*other).await;
            }
            result
        };
        let result = tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within the pool's connect timeout"))
        });
        match result {
            Ok(stream) => {
                if self.withdrawn() {
                    return Ok(None);
                }
                tally.total.fetch_add(1, Ordering::Relaxed);
                self.enter(State::Relaying(Arc::clone(tally)));
                Ok(Some(stream))
            }
            Err(error) => {
                if !bind::no_resources(&error) {
                    tally.connect_errors.fetch_add(1, Ordering::Relaxed);
                }
                self.enter(State::Picking);
                Err(error)
            }
        }
    }

    fn enter(&self, state: State) {
        if let Some(entry) = self.worker.registry.borrow_mut().entry(self.id) {
            entry.state = state;
        }
    }

    fn withdrawn(&self) -> bool {
        let mut registry = self.worker.registry.borrow_mut();
        matches!(registry.entry(self.id).map(|e| &e.state), Some(State::Connecting { withdrawn: true, .. }))
    }

    async fn relay(&mut self, idle: Option<Duration>, stream: TcpStream, place: Place) -> CloseCause {
        let (server, _) = self.server.insert((stream, place));
        Relay {
            client: &mut self.client,
            server,
            flows: Flows::default(),
            idle: idle.map(Idle::new),
            buffers: &self.worker.buffers,
            tally: self.worker.tally(&self.admission),
        }
        .await
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    bind::tune(&socket2::SockRef::from(&socket))?;
    socket.connect(address).await
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
        tracing::debug!(
            listener = %self.admission.listener().name, client = %self.peer,
            server = self.server.as_ref().map(|(_, p)| p.server().name.as_str()), %cause, "session ended"
        );
    }
}

/// The registry is the worker's alone.
pub(crate) type Sessions = RefCell<Registry>;
