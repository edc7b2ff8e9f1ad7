//! A worker: a thread with a runtime of its own, its acceptors, and the
//! commands that the handle sends.

use crate::alarm::Alarms;
use crate::bind::{self, Tcp};
use crate::registry::{Closed, Registry};
use crate::relay::Buffers;
use crate::session;
use crate::sessions::{self, Found, Wanted};
use crate::shared::{Admission, ListenerShared, Shared, View};
use crate::stats::{CloseCause, Tally};
use nix::errno::Errno;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot};
use vipd_core::pool::{Connection, NoServer, PickState, Picked};

/// The pause after an accept that failed for want of descriptors or memory:
/// trying at once would only burn the processor that could free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a worker can be told.
#[derive(Debug)]
pub(crate) enum Command {
    /// To listen on some sockets, and no longer on others (by number); those
    /// that stay may have new settings.
    Listen { add: Vec<Listening>, remove: Vec<u64>, tune: Vec<(u64, Tcp)> },
    /// To look at what it is [`Owed`].
    Close,
    /// To list sessions.
    List(Arc<Wanted>, oneshot::Sender<Found>),
    /// To end sessions, and tell how many.
    Kill(Arc<Wanted>, oneshot::Sender<u64>),
    /// To accept nothing more.
    StopAccepting,
    /// To end all sessions.
    CloseAll,
    /// To end itself.
    Stop,
}

/// The sessions that a worker has to end. They are no commands, since a queue
/// may be full: what is asked for here is done, be it late. Bounded by the
/// addresses and servers there are.
#[derive(Debug, Default)]
pub(crate) struct Owed(Mutex<Closing>);

#[derive(Debug, Default)]
struct Closing {
    addresses: BTreeSet<IpAddr>,
    servers: Vec<(Closed, CloseCause)>,
}

impl Owed {
    fn closing(&self) -> MutexGuard<'_, Closing> {
        // Nothing that holds the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the end of the sessions to these addresses. True if the worker
    /// has to be told: else it was, and has not looked since.
    pub(crate) fn close_local(&self, addresses: &[IpAddr]) -> bool {
        let mut closing = self.closing();
        let first = closing.is_empty();
        closing.addresses.extend(addresses);
        first && !closing.is_empty()
    }

    /// Asks for the end of sessions by their servers; true as above.
    pub(crate) fn close_servers(&self, which: &Closed, cause: CloseCause) -> bool {
        let mut closing = self.closing();
        let first = closing.is_empty();
        if !closing.servers.iter().any(|(c, _)| c.is(which)) {
            closing.servers.push((which.clone(), cause));
        }
        first
    }

    fn pay(&self, registry: &mut Registry) {
        let Closing { addresses, servers } = std::mem::take(&mut *self.closing());
        if !addresses.is_empty() {
            registry.close_local(&addresses);
        }
        servers.iter().for_each(|(which, cause)| registry.close_servers(which, *cause));
    }
}

impl Closing {
    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.servers.is_empty()
    }
}

/// A listener's sockets on one worker.
#[derive(Debug)]
pub(crate) struct Listening {
    /// The number by which they are removed again.
    pub(crate) number: u64,
    pub(crate) listener: Arc<ListenerShared>,
    pub(crate) sockets: Vec<StdListener>,
}

/// What the sessions of a worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: RefCell<Registry>,
    pub(crate) buffers: Buffers,
    pub(crate) alarms: Alarms,
    picks: RefCell<PickState>,
    random: Cell<u64>,
}

impl Worker {
    pub(crate) fn new(index: usize, workers: usize, shared: Arc<Shared>) -> Self {
        Self {
            index,
            buffers: Buffers::new(Arc::clone(&shared.descriptors)),
            shared,
            registry: RefCell::new(Registry::new(index, workers)),
            alarms: Alarms::default(),
            picks: RefCell::default(),
            random: Cell::new(RandomState::new().build_hasher().finish() | 1),
        }
    }

    /// This worker's numbers of a session's listener.
    pub(crate) fn tally<'a>(&self, admission: &'a Admission) -> &'a Tally {
        &admission.listener().tallies[self.index]
    }

    /// A number for balancing (xorshift64*, Vigna 2016), not for secrets.
    pub(crate) fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn pick(
        &self,
        view: &View,
        pool: usize,
        connection: &Connection<'_>,
        now: u64,
    ) -> Result<Picked, NoServer> {
        view.pools.pick(pool, &mut self.picks.borrow_mut(), connection, &view.at(now))
    }
}

/// Makes the runtime of a worker's thread.
pub(crate) fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

/// The life of a worker, on its own thread.
pub(crate) fn run(
    runtime: &LocalRuntime,
    (index, workers): (usize, usize),
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    owed: &Owed,
) {
    runtime.block_on(obey(Rc::new(Worker::new(index, workers, shared)), commands, owed));
}

async fn obey(worker: Rc<Worker>, mut commands: mpsc::Receiver<Command>, owed: &Owed) {
    let ringing = Rc::clone(&worker);
    let ringer = tokio::task::spawn_local(async move { ringing.alarms.ring().await });
    let mut acceptors: BTreeMap<u64, Vec<Accepting>> = BTreeMap::new();
    loop {
        match commands.recv().await {
            Some(Command::Listen { add, remove, tune }) => {
                for Listening { number, listener, sockets } in add {
                    let all = acceptors.entry(number).or_default();
                    all.extend(sockets.into_iter().filter_map(|s| accept(&worker, &listener, s)));
                }
                for number in remove {
                    acceptors.remove(&number);
                }
                for (number, tcp) in tune {
                    for accepting in acceptors.get(&number).into_iter().flatten() {
                        accepting.tune(tcp);
                    }
                }
            }
            // As after every command, below.
            Some(Command::Close) => {}
            Some(Command::List(wanted, answer)) => {
                tokio::task::spawn_local(sessions::look(Rc::clone(&worker), wanted, answer));
            }
            Some(Command::Kill(wanted, answer)) => {
                let killed = worker.registry.borrow_mut().kill(&wanted);
                // Whoever asked may not wait any more.
                let _ = answer.send(killed);
            }
            Some(Command::StopAccepting) => acceptors.clear(),
            Some(Command::CloseAll) => worker.registry.borrow_mut().close_all(CloseCause::Stopped),
            Some(Command::Stop) | None => break,
        }
        owed.pay(&mut worker.registry.borrow_mut());
    }
    drop(acceptors);
    worker.registry.borrow_mut().close_all(CloseCause::Stopped);
    while !worker.registry.borrow().is_empty() {
        tokio::task::yield_now().await;
    }
    ringer.abort();
}

/// An acceptor at work.
struct Accepting {
    socket: Rc<TcpListener>,
    /// Dropping it ends the acceptor.
    _end: oneshot::Sender<()>,
}

impl Accepting {
    fn tune(&self, tcp: Tcp) {
        if let Err(error) = bind::tune(&socket2::SockRef::from(&*self.socket), tcp) {
            tracing::warn!(%error, "a listening socket keeps its old tcp-keepalive and tcp-user-timeout");
        }
    }
}

fn accept(worker: &Rc<Worker>, listener: &Arc<ListenerShared>, socket: StdListener) -> Option<Accepting> {
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => Rc::new(socket),
        Err(error) => {
            tracing::error!(listener = %listener.name(), %error, "a worker cannot watch its socket");
            return None;
        }
    };
    let (end, ended) = oneshot::channel();
    let acceptor = Acceptor::new(Rc::clone(worker), Arc::clone(listener));
    tokio::task::spawn_local(acceptor.run(Rc::clone(&socket), ended));
    Some(Accepting { socket, _end: end })
}

/// Accepts on one socket.
struct Acceptor {
    worker: Rc<Worker>,
    listener: Arc<ListenerShared>,
    /// The address that clients connect to, when it is only one.
    local: Option<SocketAddr>,
    /// A client that was accepted in the moment in which another worker took
    /// the last room. All others wait in the kernel's queue.
    waiting: Option<(TcpStream, SocketAddr)>,
}

impl Acceptor {
    fn new(worker: Rc<Worker>, listener: Arc<ListenerShared>) -> Self {
        Self { worker, listener, local: None, waiting: None }
    }

    async fn run(mut self, socket: Rc<TcpListener>, ended: oneshot::Receiver<()>) {
        self.local = socket.local_addr().ok().filter(|a| !a.ip().is_unspecified());
        tokio::select! {
            _ = ended => {}
            () = self.accept(&socket) => {}
        }
        // Whoever is connected already was promised a session: also those of
        // whom the runtime has not heard yet, as it has after a turn.
        tokio::task::yield_now().await;
        while let Some(admission) = self.listener.try_admit(&self.worker.shared) {
            let next = match self.waiting.take() {
                Some(client) => Poll::Ready(Ok(client)),
                None => poll_fn(|cx| Poll::Ready(socket.poll_accept(cx))).await,
            };
            let Poll::Ready(Ok((client, peer))) = next else { break };
            self.start(admission, client, peer);
        }
        if let Some((client, _)) = self.waiting.take() {
            let _ = client.set_zero_linger();
        }
    }

    /// Accepts for ever. No error ends it: a listener that is gone without a
    /// word is worse than any.
    async fn accept(&mut self, socket: &TcpListener) {
        self.worker.shared.opened(self.listener.slot).await;
        loop {
            self.listener.room().await;
            match socket.accept().await {
                Ok(client) => self.waiting = Some(client),
                Err(error) => {
                    self.failed(&error).await;
                    continue;
                }
            }
            let admission = self.listener.admit(&self.worker.shared).await;
            if let Some((client, peer)) = self.waiting.take() {
                self.start(admission, client, peer);
            }
        }
    }

    fn start(&self, admission: Admission, client: TcpStream, peer: SocketAddr) {
        if let Err(error) = session::start(&self.worker, admission, client, peer, self.local) {
            self.count();
            tracing::debug!(listener = %self.listener.name(), client = %peer, %error, "cannot take a client");
        }
    }

    async fn failed(&self, error: &io::Error) {
        self.count();
        let errno = bind::errno(error);
        tracing::debug!(listener = %self.listener.name(), %error, "cannot accept");
        // The client's own faults (accept(2) passes on what happened to its
        // connection meanwhile) are no reason to wait.
        let its_own = [
            Errno::ECONNABORTED,
            Errno::EINTR,
            Errno::EPROTO,
            Errno::ENETDOWN,
            Errno::ENETUNREACH,
            Errno::EHOSTDOWN,
            Errno::EHOSTUNREACH,
            Errno::ENOPROTOOPT,
            Errno::ENONET,
            Errno::EOPNOTSUPP,
            Errno::EPERM,
        ];
        if !its_own.contains(&errno) {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    fn count(&self) {
        self.listener.tallies[self.worker.index].accept_errors.add(1);
    }
}
