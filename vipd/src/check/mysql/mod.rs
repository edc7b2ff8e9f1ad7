//! `kind = "mysql"`: role, replication lag, and the state of a cluster's node,
//! of MySQL, MariaDB and what speaks like them.
//!
//! One connection a server, kept from probe to probe; that others get in as
//! well is seen by a new login now and then ([`super::renewal`]). Servers count
//! logins that break off, until a complete one, and block the host after
//! `max_connect_errors` of them. So a login that outlives its probe is not
//! broken off; the next probe waits on for it, and only patience
//! ([`PATIENCE`]) ends it.
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
use super::renewal::Renewal;
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

/// A login that goes on, over several probes if need be.
struct Login {
    peer: SocketAddr,
    since: Instant,
    session: LoggingIn,
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
    /// The connection that is kept.
    session: Option<Box<Session>>,
    login: Option<Login>,
    renewal: Renewal,
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
            session: None,
            login: None,
            renewal: Renewal::default(),
        }
    }

    /// Asks the server once, over the kept connection if there is one.
    pub(super) async fn probe(
        &mut self,
        way: Way<'_>,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), MysqlError> {
        // The name has moved: what answers at the old address is another server.
        let there = |peer| way.addresses.contains(&peer);
        self.session = self.session.take().filter(|session| there(session.peer()));
        self.login = self.login.take().filter(|l| there(l.peer) && l.since.elapsed() <= self.patience);
        let renews = self.renewal.is_due() || self.login.is_some();
        // Out of `self`: a conversation that is broken off cannot be resumed.
        let asked = match self.session.take_if(|_| !renews) {
            Some(session) => match self.ask(session, progress).await {
                // A connection breaks between probes when the server restarts or
                // tires of it; that says nothing of how the server is now.
                Err(error) if error.is_broken() => self.ask_anew(way, progress).await,
                result => result,
            },
            None => self.ask_anew(way, progress).await,
        };
        asked.or_else(|error| match error.not_ready() {
            Some((peer, said)) => Ok((peer, Observation { unready: Some(said), ..Observation::default() })),
            None => Err(error),
        })
    }

    /// Asks over a new connection, which is kept from then on.
    async fn ask_anew(
        &mut self,
        way: Way<'_>,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), MysqlError> {
        let addresses = way.beside(self.session.as_ref().map(|session| session.peer()));
        let way = Way { addresses: &addresses, ..way };
        let waited = self.login.is_some();
        let login = match self.log_in(way, progress).await {
            // As a kept connection does.
            Err(error) if waited && error.is_broken() => self.log_in(way, progress).await,
            result => result,
        };
        let error = match login {
            Ok(session) => match self.ask(session, progress).await {
                Err(error) if error.is_ours() => error,
                result => {
                    self.renewal.done();
                    return result;
                }
            },
            Err(error) => error,
        };
        let (full, ours) = (error.is_full(), error.is_ours());
        match self.session.take() {
            Some(session) if full || ours => {
                match full {
                    true => self.renewal.full(),
                    false => self.renewal.kept_out(session.peer(), &error),
                }
                // What it says of its state counts more than that it takes nobody else.
                let says = |own: MysqlError| if own.not_ready().is_some() { own } else { error };
                self.ask(session, progress).await.map_err(says)
            }
            kept => {
                if let Some(session) = kept {
                    session.quit().await;
                }
                Err(error)
            }
        }
    }

    async fn ask(
        &mut self,
        mut session: Box<Session>,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), MysqlError> {
        let peer = session.peer();
        let observation = session.observe(&self.check, &mut self.clock, progress).await;
        match &observation {
            // A privilege that is granted, or a password that is set, counts from
            // the next login on.
            Err(error) if error.is_ours() => session.quit().await,
            Err(error) if error.is_broken() => {}
            Ok(_) | Err(_) => {
                if let Some(before) = self.session.replace(session) {
                    before.quit().await;
                }
            }
        }
        Ok((peer, observation?))
    }

    /// A new session, by the login that is under way if there is one.
    async fn log_in(&mut self, way: Way<'_>, progress: &Progress) -> Result<Box<Session>, MysqlError> {
        let login = match &mut self.login {
            Some(login) => login,
            None => {
                // Before connecting: without a password no login is begun.
                let account =
                    Account { user: self.check.user.clone(), password: self.password.read().await? };
                let (stream, peer) = dial(way, progress).await?;
                let (tls, progress) = (self.tls.clone(), progress.clone());
                let session = Box::pin(Session::open(stream, peer, tls, account, self.idle, progress));
                self.login.insert(Login { peer, since: Instant::now(), session })
            }
        };
        // The login itself says what it is at, also to a later probe.
        let session = (&mut login.session).await;
        self.login = None;
        Ok(Box::new(session?))
    }

    /// Lets the next probe log in anew.
    pub(super) fn renew(&mut self) {
        self.renewal.ask();
    }

    /// Says goodbye to the server.
    pub(super) async fn close(self) {
        if let Some(session) = self.session {
            session.quit().await;
        }
    }
}
