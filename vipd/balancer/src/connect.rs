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
use std::iter;
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

/// What follows from a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Blame {
    /// It is the server's.
    Server,
    /// It is this host's, which has no port left for this address, or nothing
    /// of its family; other addresses and servers may be reached all the same.
    NoWay,
    /// It is this host's, and would be the same with any server.
    Host(CloseCause),
}

impl Failure {
    fn blame(&self) -> Blame {
        match self {
            Self::Source { .. } => Blame::Host(CloseCause::NoSourceAddress),
            Self::Io(error) if bind::no_resources(error) => Blame::Host(CloseCause::NoResources),
            Self::Io(error) if bind::no_way(error) => Blame::NoWay,
            Self::Io(_) => Blame::Server,
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
    let mut search = Search {
        session,
        tried: vec![],
        no_way: vec![],
        generation: None,
        failures: 0,
        tried_at: began,
        looked_at: None,
        waiting: None,
    };
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
    /// Those of them to which this host has no way.
    no_way: Vec<ServerKey>,
    /// The pools in which both are positions.
    generation: Option<u64>,
    failures: u32,
    /// When it last tried one.
    tried_at: Instant,
    /// The time of the last look at servers, if a connect rate counts.
    looked_at: Option<u64>,
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
                self.no_way.clear();
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
                    self.no_way.clear();
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
                    match failure.blame() {
                        Blame::Host(cause) => return Err(cause),
                        // No retry: it costs nothing, and the servers have an end.
                        Blame::NoWay => self.no_way.push(picked.key),
                        Blame::Server => {
                            worker.shared.failed(place.server(), at, &failure);
                            self.failures += 1;
                            if self.failures > pool.retries {
                                return Err(CloseCause::ConnectFailed);
                            }
                        }
                    }
                }
            }
            self.tried.push(picked.key);
        }
    }

    fn tell(&self, server: &ServerTally, error: &Failure) {
        let Session { worker, admission, .. } = self.session;
        let (listener, client, pool) =
            (admission.listener().name(), self.session.ends().source, &server.pool);
        tracing::debug!(%listener, %client, %pool, server = %server.name(), %error, "cannot connect");
        if error.blame() == Blame::NoWay && worker.shared.no_way.due(worker.shared.now()) {
            tracing::warn!(
                %listener, %pool, server = %server.name(), %error,
                "this host has no way to a server, and sessions go elsewhere: either it has no address of that \
                 family, or all ports to that place are in use (widen net.ipv4.ip_local_port_range)"
            );
        }
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
        if self.waiting.is_none() && self.tried.is_empty() && self.failures == 0 && queue.waiting() > 0 {
            return Ok(Next::Queue);
        }
        self.looked_at = view.rated(route.pool).then(|| self.session.worker.shared.now());
        match self.claim(view, route, pool) {
            Ok((picked, place)) => Ok(Next::Connect(picked, place)),
            Err(NoServer::NoneUsable) => Err(CloseCause::NoServer),
            // It would be no other in a second.
            Err(NoServer::AllTried) if self.no_way.len() == self.tried.len() => Err(CloseCause::NoResources),
            Err(NoServer::AllTried) => Ok(Next::Again),
            Err(NoServer::Full) => Ok(Next::Queue),
        }
    }

    fn claim(&self, view: &View, route: Route, pool: &Pool) -> Result<(Picked, Place), NoServer> {
        let worker = &self.session.worker;
        let now = self.looked_at.unwrap_or(0);
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
        // What failed before may do now; what this host has no way to waits for no server.
        self.tried.clone_from(&self.no_way);
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
        // Only the first looks; only it has to know when a rate allows one more,
        // from when it looked: by now one may have come that it has not seen.
        let looked_at = self.looked_at.filter(|_| first);
        let token = looked_at.and_then(|at| view.next_token(route.pool, at));
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
        let mut failed: Option<(Failure, SocketAddr)> = None;
        for address in iter::once(&picked.address).chain(others()) {
            let share = end.saturating_duration_since(Instant::now()) / left;
            left = left.saturating_sub(1).max(1);
            match alarms.within(share, self.open(*address, pool)).await.unwrap_or_else(late) {
                Ok((stream, at)) => {
                    if self.withdrawn() {
                        return Ok(None);
                    }
                    tally.total.fetch_add(1, Ordering::Relaxed);
                    self.session.enter(State::Relaying(Arc::clone(tally), at));
                    return Ok(Some(stream));
                }
                Err(failure) => {
                    let blame = failure.blame();
                    // What the server did tells more than what there is no way to.
                    if blame != Blame::NoWay || failed.is_none() {
                        failed = Some((failure, *address));
                    }
                    if matches!(blame, Blame::Host(_)) {
                        break;
                    }
                }
            }
        }
        let Some((failure, address)) = failed else { return Ok(None) };
        if failure.blame() == Blame::Server {
            tally.connect_errors.fetch_add(1, Ordering::Relaxed);
        }
        self.session.enter(State::Picking);
        Err((failure, address))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patience::Limits;
    use crate::session;
    use crate::shared::{ListenerShared, PoolTally, Shared, View};
    use crate::worker::{self, Worker};
    use std::rc::Rc;
    use std::sync::atomic::AtomicU64;
    use tokio::net::TcpListener;
    use vipd_core::health::PoolsState;
    use vipd_core::settings::{self, Host};
    use vipd_core::time::Time;

    /// A worker whose one server's next token comes `early` nanoseconds after
    /// what the clock shows; each look at the clock takes `step`.
    fn rated(server: SocketAddr, early: u64, step: u64) -> Rc<Worker> {
        let of_pool = settings::Server::new("db1", Host::Address(server.ip()), server.port());
        let servers = vec![settings::Server { weight: 1, ..of_pool }];
        let queue_timeout = Duration::from_secs(2);
        let pool = Pool { queue: 1, queue_timeout, ..Pool::new("pool", servers) };
        let pools = PoolsState::new(vec![pool], Time::ZERO).build();
        let of_pool = Arc::new(PoolTally::new("pool"));
        let tally = Arc::new(ServerTally::new(&of_pool, "db1"));
        tally.rate.set(Some(10));
        let start = 1_000_000_000;
        while tally.rate.take(start) {}
        let token = start + tally.rate.wait(start);
        let mut shared = Shared::new(tokio::sync::mpsc::channel(1).0);
        shared.clock = Some((AtomicU64::new(token - early), step));
        let tcp = bind::Tcp { keepalive: Duration::from_secs(60), user_timeout: None };
        shared.view.store(Arc::new(View {
            pools,
            servers: vec![vec![tally]],
            tallies: vec![of_pool],
            routes: vec![Some(Route { pool: 0, limits: Limits::default(), tcp })],
            rated: vec![true],
        }));
        Rc::new(Worker::new(0, 1, Arc::new(shared)))
    }

    /// The token comes after the look that found none and before the wait for it.
    #[test]
    fn a_token_that_comes_between_the_look_and_the_wait_is_not_slept_through() {
        let runtime = worker::runtime().expect("a runtime");
        runtime.block_on(async {
            let here = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            let server = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            // Of two looks the second is a half step early; what was a third one is late.
            let step = 10_000_000;
            let worker = rated(server.local_addr().expect("an address"), step + step / 2, step);
            let _client = TcpStream::connect(here.local_addr().expect("an address")).await.expect("connects");
            let (accepted, peer) = here.accept().await.expect("a client");
            let ringing = Rc::clone(&worker);
            let ringer = tokio::task::spawn_local(async move { ringing.alarms.ring().await });
            let listener = Arc::new(ListenerShared::new("main", 0, 1, 1));
            let admission = listener.try_admit(&worker.shared).expect("room");
            session::start(&worker, admission, accepted, peer, None).expect("a session");
            let served = tokio::time::timeout(Duration::from_secs(1), server.accept()).await;
            assert!(served.is_ok(), "it waits for a word that nobody says");
            worker.registry.borrow_mut().close_all(CloseCause::Stopped);
            ringer.abort();
        });
    }
}
