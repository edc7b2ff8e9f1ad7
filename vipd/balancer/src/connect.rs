//! How a session gets its server: by the pool's rules, in the pool's queue
//! when no server has room, elsewhere when a connection fails.

use crate::access::Times;
use crate::bind;
use crate::proxy_protocol;
use crate::queue::Ticket;
use crate::registry::State;
use crate::session::Session;
use crate::shared::{Place, Route, ServerTally, View};
use crate::stats::CloseCause;
use nix::errno::Errno;
use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use vipd_core::pool::{Connection, NoServer, Picked, ServerKey};
use vipd_core::settings::{Pool, Source};

/// Picks in a row in which others may be faster before a session waits for its turn.
const RACES: usize = 16;

/// A server is tried again no sooner than this after the last try, or after the
/// connect time-out if that is shorter: it may be just starting again.
const AGAIN: Duration = Duration::from_secs(1);

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) stream: TcpStream,
    pub(crate) place: Place,
    pub(crate) route: Route,
}

/// Why a server could not be connected.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot connect from {from}: {error}")]
    Source { from: IpAddr, error: io::Error },
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Failure {
    /// The cause, if it is this host's: another server would fail likewise.
    fn of_this_host(&self) -> Option<CloseCause> {
        match self {
            Self::Source { .. } => Some(CloseCause::NoSourceAddress),
            Self::Io(error) => bind::no_resources(error).then_some(CloseCause::NoResources),
        }
    }
}

/// The address from which a server is connected, if it is not the kernel's
/// choice. A server of the other family than `local`, to which the client
/// connected, has the choice of the kernel; so has one that is not on this
/// host, when `local` is only there.
fn source(source: Source, local: IpAddr, server: IpAddr) -> Option<IpAddr> {
    match source {
        Source::Auto => None,
        Source::Address(address) => Some(address),
        Source::Vip => {
            let reaches = server.is_loopback() || !local.is_loopback();
            (reaches && local.is_ipv4() == server.is_ipv4()).then_some(local)
        }
    }
}

/// Adds the time of its life to a session's time in queues.
struct Waited<'a> {
    times: &'a Cell<Times>,
    since: Instant,
}

impl<'a> Waited<'a> {
    fn new(times: &'a Cell<Times>) -> Self {
        Self { times, since: Instant::now() }
    }
}

impl Drop for Waited<'_> {
    fn drop(&mut self) {
        let times = self.times.get();
        self.times.set(Times { queued: times.queued + self.since.elapsed(), ..times });
    }
}

/// Connects a session, unless its client hangs up before.
pub(crate) async fn connect(session: &Session) -> Result<Connected, CloseCause> {
    let began = Instant::now();
    let mut search =
        Search { session, tried: vec![], generation: None, failures: 0, tried_at: began, waiting: None };
    tokio::select! {
        biased;
        connected = search.run() => {
            let times = session.times.get();
            let connected_in = connected.is_ok().then(|| began.elapsed().saturating_sub(times.queued));
            session.times.set(Times { connected: connected_in, ..times });
            connected
        }
        () = hung_up(&session.client) => Err(CloseCause::Abandoned),
    }
}

/// Resolves when the client resets its connection, or ends it without having
/// said anything. One that has asked something and ended may still hear the answer.
async fn hung_up(client: &TcpStream) {
    // PRIORITY stands for "ended" as well, but not for "can be read", which
    // would say nothing new as long as nobody reads. It fails with the runtime.
    let ended = client.ready(Interest::PRIORITY | Interest::ERROR).await;
    if ended.is_ok() && client.peek(&mut [0]).await.is_ok_and(|said| said > 0) {
        let _ = client.ready(Interest::ERROR).await;
    }
}

/// What a session does next.
enum Next {
    /// It connects to this server.
    Connect(Picked, Place),
    /// It waits for one that has room.
    Queue,
    /// All were tried, in vain: they are tried once more.
    Again,
}

/// One session's search for a server.
struct Search<'a> {
    session: &'a Session,
    tried: Vec<ServerKey>,
    /// The pools in which `tried` are positions.
    generation: Option<u64>,
    failures: u32,
    /// When it last tried one.
    tried_at: Instant,
    /// Its place in a queue, while it has to wait.
    waiting: Option<Ticket>,
}

impl Search<'_> {
    async fn run(&mut self) -> Result<Connected, CloseCause> {
        let Session { worker, admission, .. } = self.session;
        let mut deadline = None;
        loop {
            let view = worker.shared.view.load_full();
            let route = view.route(admission.listener().slot).ok_or(CloseCause::NoServer)?;
            let pool = view.pools.pools().get(route.pool).ok_or(CloseCause::NoServer)?.settings();
            if self.generation.replace(view.pools.generation()) != Some(view.pools.generation()) {
                self.tried.clear();
            }
            let (picked, place) = match self.look(&view, route, pool)? {
                Next::Connect(picked, place) => (picked, place),
                Next::Queue => {
                    let limit = *deadline.get_or_insert_with(|| Instant::now() + pool.queue_timeout);
                    self.wait(&view, route, pool, limit).await?;
                    continue;
                }
                Next::Again => {
                    self.tried.clear();
                    tokio::time::sleep_until(self.tried_at + pool.connect_timeout.min(AGAIN)).await;
                    continue;
                }
            };
            self.waiting = None;
            self.tried_at = Instant::now();
            match self.attempt(&view, picked, place.server()).await {
                Ok(Some(stream)) => return Ok(Connected { stream, place, route }),
                // Nobody's failure: the newest pools know better.
                Ok(None) => continue,
                Err((failure, at)) => {
                    self.tell(place.server(), &failure);
                    if let Some(cause) = failure.of_this_host() {
                        return Err(cause);
                    }
                    worker.shared.failed(place.server(), at, &failure);
                }
            }
            self.failures += 1;
            if self.failures > pool.retries {
                return Err(CloseCause::ConnectFailed);
            }
            self.tried.push(picked.key);
        }
    }

    fn tell(&self, server: &ServerTally, error: &Failure) {
        let Session { worker, admission, .. } = self.session;
        let (listener, client, pool) =
            (admission.listener().name(), self.session.ends().source, &server.pool);
        tracing::debug!(%listener, %client, %pool, server = %server.name(), %error, "cannot connect");
        if matches!(error, Failure::Source { .. }) && worker.shared.no_source.due(worker.shared.now()) {
            tracing::warn!(
                %listener, %pool, %error,
                "sessions are refused: check the pool's `source`, it must be an address of this host"
            );
        }
    }

    /// A server and a place on it, or what to wait for.
    fn look(&mut self, view: &View, route: Route, pool: &Pool) -> Result<Next, CloseCause> {
        let queue = &view.tallies[route.pool].queue;
        // A reload may have given it another pool.
        if self.waiting.as_ref().is_some_and(|ticket| !ticket.is_of(queue)) {
            self.waiting = None;
        }
        // Whoever comes does not overtake those that wait.
        if self.waiting.is_none() && self.failures == 0 && queue.waiting() > 0 {
            return Ok(Next::Queue);
        }
        match self.claim(view, route, pool) {
            Ok((picked, place)) => Ok(Next::Connect(picked, place)),
            Err(NoServer::NoneUsable) => Err(CloseCause::NoServer),
            Err(NoServer::AllTried) => Ok(Next::Again),
            Err(NoServer::Full) => Ok(Next::Queue),
        }
    }

    fn claim(&self, view: &View, route: Route, pool: &Pool) -> Result<(Picked, Place), NoServer> {
        let worker = &self.session.worker;
        let now = if view.rated(route.pool) { worker.shared.now() } else { 0 };
        for _ in 0..RACES {
            let client = self.session.ends().source.ip();
            let connection = Connection { client, random: worker.random(), tried: &self.tried };
            let picked = worker.pick(view, route.pool, &connection, now)?;
            let server = view.server(picked.key).ok_or(NoServer::NoneUsable)?;
            let borrowed = if picked.key.pool == route.pool {
                None
            } else {
                let tally = &view.tallies[route.pool];
                Some(tally.borrow(pool.fallback_max_connections).ok_or(NoServer::Full)?)
            };
            let limit = view.pools.server(picked.key).and_then(|s| s.max_connections());
            // Another worker may have taken the last place, or the last token,
            // since the pick: the next pick sees that, unless it is of a view
            // that is just being replaced.
            let Some(place) = server.acquire(limit, borrowed, &worker.shared) else { continue };
            if server.rate.take(now) {
                return Ok((picked, place));
            }
        }
        Err(NoServer::Full)
    }

    /// Waits for its turn to look for a server.
    async fn wait(
        &mut self,
        view: &View,
        route: Route,
        pool: &Pool,
        limit: Instant,
    ) -> Result<(), CloseCause> {
        let worker = &self.session.worker;
        // What failed before may do now.
        self.tried.clear();
        self.session.enter(State::Queued);
        let _waited = Waited::new(&self.session.times);
        let first = self.waiting.is_some();
        let ticket = match &mut self.waiting {
            Some(ticket) => ticket,
            None if pool.queue == 0 => return Err(CloseCause::ServersFull),
            waiting => {
                let ticket = view.tallies[route.pool].queue.join(pool.queue, &worker.shared.waiting);
                waiting.insert(ticket.ok_or(CloseCause::QueueFull)?)
            }
        };
        // Only the first looks; only it has to know when a rate allows one more.
        let token = first.then(|| view.next_token(route.pool, worker.shared.now())).flatten();
        let token = token.map(|(wait, interval)| {
            // Not with the other proxies' waiters at the same instant.
            Duration::from_nanos(wait + worker.random() % (interval / 2).max(1))
        });
        tokio::select! {
            biased;
            () = ticket.called() => Ok(()),
            () = tokio::time::sleep(token.unwrap_or_default()), if token.is_some() => Ok(()),
            () = worker.alarms.at(limit) => {
                ticket.queue().timeouts.fetch_add(1, Ordering::Relaxed);
                Err(CloseCause::QueueTimeout)
            }
        }
    }

    /// One server: the picked address, then its others, all within its
    /// pool's `connect_timeout`, of which each has its share, so that one that
    /// does not answer leaves time for the next. `None` if it was withdrawn
    /// meanwhile; an error with the place that was tried last.
    async fn attempt(
        &self,
        view: &View,
        picked: Picked,
        tally: &Arc<ServerTally>,
    ) -> Result<Option<TcpStream>, (Failure, SocketAddr)> {
        let Some(pool) = view.pools.pools().get(picked.key.pool).map(|p| p.settings()) else {
            return Ok(None);
        };
        self.session.enter(State::Connecting { server: Arc::clone(tally), withdrawn: false });
        let others = view.pools.server(picked.key).map_or(&[][..], |s| s.addresses());
        let others = || others.iter().filter(|a| **a != picked.address);
        let alarms = &self.session.worker.alarms;
        let late = || {
            let late = "no answer within the pool's connect timeout";
            Err(io::Error::new(io::ErrorKind::TimedOut, late).into())
        };
        let end = Instant::now() + pool.connect_timeout;
        let mut left = u32::try_from(others().count()).unwrap_or(u32::MAX).saturating_add(1);
        let mut address = picked.address;
        let mut rest = others();
        let result = loop {
            let share = end.saturating_duration_since(Instant::now()) / left;
            let result = alarms.within(share, self.open(address, pool)).await.unwrap_or_else(late);
            let elsewhere = result.as_ref().is_err_and(|e: &Failure| e.of_this_host().is_none());
            match rest.next() {
                Some(next) if elsewhere => address = *next,
                Some(_) | None => break result,
            }
            left = left.saturating_sub(1).max(1);
        };
        match result {
            Ok((stream, at)) => {
                if self.withdrawn() {
                    return Ok(None);
                }
                tally.total.fetch_add(1, Ordering::Relaxed);
                self.session.enter(State::Relaying(Arc::clone(tally), at));
                Ok(Some(stream))
            }
            Err(failure) => {
                if failure.of_this_host().is_none() {
                    tally.connect_errors.fetch_add(1, Ordering::Relaxed);
                }
                self.session.enter(State::Picking);
                Err((failure, address))
            }
        }
    }

    /// A connection to an address, whose other end knows who the client is if
    /// the pool says so.
    async fn open(&self, address: SocketAddr, pool: &Pool) -> Result<(TcpStream, SocketAddr), Failure> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        if self.session.worker.shared.descriptors.holds(&socket) {
            return Err(io::Error::from(Errno::EMFILE).into());
        }
        socket.set_nodelay(true)?;
        let from = source(pool.source, self.session.local.ip(), address.ip());
        if let Some(from) = from {
            bind::source(&socket, from).map_err(|error| Failure::Source { from, error })?;
        }
        let mut stream = match (socket.connect(address).await, from) {
            (Ok(stream), _) => stream,
            // What the kernel says of a source that went in between, or from
            // which there is no way to the server.
            (Err(error), Some(from)) if bind::errno(&error) == Errno::EINVAL => {
                return Err(Failure::Source { from, error });
            }
            (Err(error), _) => return Err(error.into()),
        };
        if let Some(version) = pool.proxy_protocol {
            stream.write_all(&proxy_protocol::header(version, self.session.ends())).await?;
        }
        Ok((stream, address))
    }

    fn withdrawn(&self) -> bool {
        let mut registry = self.session.worker.registry.borrow_mut();
        let state = registry.entry(self.session.place).map(|e| &e.state);
        matches!(state, Some(State::Connecting { withdrawn: true, .. }))
    }
}
