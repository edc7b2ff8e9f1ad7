//! `kind = "mysql"`: role, replication lag, and the state of a cluster's node,
//! of MySQL, MariaDB and what speaks like them.
//!
//! One connection a server, kept from probe to probe: servers count logins
//! that break off and block the host after `max_connect_errors` of them. For
//! the same reason a login that outlives its probe is not broken off; the next
//! probe waits on for it, and only patience ([`PATIENCE`]) ends it.
//!
//! The protocol is spoken by our own small client. `mysql_async` panics on
//! what a server may send (an RSA public key that is none, an empty packet in
//! the place of a row), and a panic ends this daemon.

mod error;
mod facts;
mod galera;
mod group;
mod heartbeat;
mod login;
mod scramble;
mod session;
mod status;
mod wire;

use super::dial::{Way, dial};
use super::password::PasswordFile;
use super::{Progress, tls};
use error::MysqlError;
use session::{Account, Session};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;
use vipd_core::probe::Observation;
use vipd_core::settings::MysqlCheck;

/// How long a login that does not end is waited for, over several probes. A
/// frozen server holds one of our connections in this time, not one a probe,
/// and counts one broken login when it wakes. (Each probe has failed at its
/// own time-out all the same; and a host that is gone is noticed sooner.)
const PATIENCE: Duration = Duration::from_secs(30);

type LoggingIn = Pin<Box<dyn Future<Output = Result<Session, MysqlError>> + Send>>;

/// Whether a probe failed since all the server's connections are in use.
pub(super) fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref().is_some_and(MysqlError::is_full)
}

/// The connection to a server.
enum Link {
    Down,
    /// A login that goes on, over several probes if need be.
    LoggingIn {
        peer: SocketAddr,
        since: Instant,
        login: LoggingIn,
    },
    Up(Box<Session>),
}

impl Link {
    fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Down => None,
            Self::LoggingIn { peer, .. } => Some(*peer),
            Self::Up(session) => Some(session.peer()),
        }
    }
}

/// The check of one server.
pub(super) struct Prober {
    check: MysqlCheck,
    tls: Option<tls::Client>,
    password: PasswordFile,
    /// What heartbeats have told so far; it outlives a connection.
    clock: heartbeat::Clock,
    /// The server ends a session of ours that was silent for this long.
    idle: Duration,
    patience: Duration,
    link: Link,
}

impl Prober {
    pub(super) fn new(
        check: MysqlCheck,
        tls: Option<tls::Client>,
        interval: Duration,
        timeout: Duration,
    ) -> Self {
        Self {
            password: PasswordFile::new(check.password_file.clone()),
            check,
            tls,
            clock: heartbeat::Clock::default(),
            idle: session::idle_limit(interval),
            patience: PATIENCE.max(timeout),
            link: Link::Down,
        }
    }

    /// Asks the server once, over the kept connection if there is one.
    pub(super) async fn probe(
        &mut self,
        way: Way<'_>,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), MysqlError> {
        // The name has moved: what answers at the old address is another server.
        if self.link.peer().is_some_and(|peer| !way.addresses.contains(&peer)) {
            self.link = Link::Down;
        }
        if matches!(&self.link, Link::LoggingIn { since, .. } if since.elapsed() > self.patience) {
            self.link = Link::Down;
        }
        let kept = !matches!(self.link, Link::Down);
        let asked = match self.ask(way, progress).await {
            // A connection breaks between probes when the server restarts or
            // tires of it; that says nothing of how the server is now.
            Err(error) if kept && error.is_broken() => self.ask(way, progress).await,
            result => result,
        };
        asked.or_else(|error| match error.not_ready() {
            Some((peer, said)) => Ok((peer, Observation { unready: Some(said), ..Observation::default() })),
            None => Err(error),
        })
    }

    async fn ask(
        &mut self,
        way: Way<'_>,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), MysqlError> {
        // Out of `self`: a conversation that is broken off cannot be resumed.
        let mut session = self.session(way, progress).await?;
        let peer = session.peer();
        match session.observe(&self.check, &mut self.clock, progress).await {
            Ok(observation) => {
                self.link = Link::Up(session);
                Ok((peer, observation))
            }
            // A privilege that is granted counts from the next login on.
            Err(error @ MysqlError::Privilege { .. }) => {
                session.quit().await;
                Err(error)
            }
            Err(error) => {
                if !error.is_broken() {
                    self.link = Link::Up(session);
                }
                Err(error)
            }
        }
    }

    /// The kept session, or a new one.
    async fn session(&mut self, way: Way<'_>, progress: &Progress) -> Result<Box<Session>, MysqlError> {
        match std::mem::replace(&mut self.link, Link::Down) {
            Link::Up(session) => return Ok(session),
            link @ Link::LoggingIn { .. } => self.link = link,
            Link::Down => {
                // Before connecting: without a password no login is begun.
                let account =
                    Account { user: self.check.user.clone(), password: self.password.read().await? };
                let (stream, peer) = dial(way, progress).await?;
                let (tls, progress) = (self.tls.clone(), progress.clone());
                let login = Box::pin(Session::open(stream, peer, tls, account, self.idle, progress));
                self.link = Link::LoggingIn { peer, since: Instant::now(), login };
            }
        }
        let Link::LoggingIn { login, .. } = &mut self.link else {
            unreachable!("both other arms above leave a login");
        };
        // The login itself says what it is at, also to a later probe.
        let session = login.await;
        self.link = Link::Down;
        Ok(Box::new(session?))
    }

    /// Says goodbye to the server.
    pub(super) async fn close(self) {
        match self.link {
            Link::Up(session) => session.quit().await,
            Link::Down | Link::LoggingIn { .. } => {}
        }
    }
}
