//! `kind = "mysql"`: role and replication lag of MySQL, MariaDB and what
//! speaks like them.
//!
//! One connection a server, kept from probe to probe: servers count logins
//! that break off and block the host after `max_connect_errors` of them. For
//! the same reason a login that outlives its probe is not broken off; the next
//! probe waits on for it, and only patience ([`PATIENCE`]) ends it.
//!
//! The protocol is spoken by our own small client. `mysql_async` panics on
//! what a server may send (an RSA public key that is none, an empty packet in
//! the place of a row), and a panic ends this daemon.

mod login;
mod scramble;
mod session;
mod status;
mod wire;

use super::Progress;
use super::dial::{DialError, dial};
use super::password::{PasswordError, PasswordFile};
use login::LoginError;
use session::{Account, Session};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;
use vipd_core::probe::Observation;
use vipd_core::settings::MysqlCheck;
use wire::{ServerError, WireError};

/// How long a login that does not end is waited for, over several probes. A
/// frozen server holds one of our connections in this time, not one a probe,
/// and counts one broken login when it wakes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a probe failed.
#[derive(Debug, Error)]
pub(crate) enum MysqlError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The greeting did not come, or was no greeting, or a refusal.
    #[error("waiting for the greeting of {peer}: {}", plain(.source, .peer))]
    Greeting { peer: SocketAddr, source: WireError },
    /// The login failed for another reason than the account.
    #[error("logging in to {peer} as '{user}': {source}")]
    Login { peer: SocketAddr, user: String, source: LoginError },
    /// The server refused the account.
    #[error("access denied for user '{user}' at {peer}: {} (ERROR {})", .error.message, .error.code)]
    Denied { peer: SocketAddr, user: String, error: ServerError },
    /// A question failed.
    #[error("asking {peer} for {what}: {}", plain(.source, .peer))]
    Question { peer: SocketAddr, what: &'static str, source: WireError },
    /// A question may not be asked.
    #[error("user '{user}' may not ask {peer} for its replication status; type there: {grant}")]
    Privilege { peer: SocketAddr, user: String, grant: String },
}

/// The commonest refusals, with what to do about them.
fn plain(error: &WireError, peer: &SocketAddr) -> String {
    const TOO_MANY_CONNECTIONS: u16 = 1040;
    const NOT_READY: u16 = 1047;
    const HOST_BLOCKED: u16 = 1129;
    const HOST_NOT_ALLOWED: u16 = 1130;
    let hint = match error {
        WireError::Server(ServerError { code: TOO_MANY_CONNECTIONS, .. }) => {
            "all of its max_connections are in use".to_owned()
        }
        WireError::Server(ServerError { code: NOT_READY, .. }) => {
            "the Galera node is not part of a primary component".to_owned()
        }
        WireError::Server(ServerError { code: HOST_BLOCKED, .. }) => {
            format!("unblock this host with FLUSH HOSTS, typed on {}", peer.ip())
        }
        WireError::Server(ServerError { code: HOST_NOT_ALLOWED, .. }) => {
            "no account there may log in from this host".to_owned()
        }
        WireError::Server(_) | WireError::Closed | WireError::Io(_) | WireError::Malformed(_) => {
            return error.to_string();
        }
    };
    format!("{error} ({hint})")
}

impl MysqlError {
    /// Whether the connection is of no more use, so that a kept one may have
    /// been at fault rather than the server.
    fn is_broken(&self) -> bool {
        /// Errors with which a server ends a session: shutdown, network
        /// time-outs, killed (MariaDB, MySQL), idle for too long.
        const ENDED: [u16; 8] = [1053, 1158, 1159, 1160, 1161, 1927, 3169, 4031];
        match self {
            Self::Greeting { source, .. }
            | Self::Login { source: LoginError::Wire(source), .. }
            | Self::Question { source, .. } => match source {
                WireError::Closed | WireError::Io(_) | WireError::Malformed(_) => true,
                WireError::Server(error) => ENDED.contains(&error.code),
            },
            Self::Dial(_)
            | Self::Password(_)
            | Self::Login { source: LoginError::Plugin(_) | LoginError::PublicKey, .. }
            | Self::Denied { .. }
            | Self::Privilege { .. } => false,
        }
    }
}

type LoggingIn = Pin<Box<dyn Future<Output = Result<Session, MysqlError>> + Send>>;

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
    password: PasswordFile,
    /// The server ends a session of ours that was silent for this long.
    idle: Duration,
    patience: Duration,
    link: Link,
}

impl Prober {
    pub(super) fn new(check: MysqlCheck, interval: Duration, timeout: Duration) -> Self {
        Self {
            password: PasswordFile::new(check.password_file.clone()),
            check,
            idle: session::idle_limit(interval),
            patience: PATIENCE.max(timeout),
            link: Link::Down,
        }
    }

    /// Asks the server once, over the kept connection if there is one.
    pub(super) async fn probe(
        &mut self,
        addresses: &[SocketAddr],
        deadline: Instant,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), MysqlError> {
        // The name has moved: what answers at the old address is another server.
        if self.link.peer().is_some_and(|peer| !addresses.contains(&peer)) {
            self.link = Link::Down;
        }
        if matches!(&self.link, Link::LoggingIn { since, .. } if since.elapsed() > self.patience) {
            self.link = Link::Down;
        }
        let kept = !matches!(self.link, Link::Down);
        match self.ask(addresses, deadline, progress).await {
            // A connection breaks between probes when the server restarts or
            // tires of it; that says nothing of how the server is now.
            Err(error) if kept && error.is_broken() => self.ask(addresses, deadline, progress).await,
            result => result,
        }
    }

    async fn ask(
        &mut self,
        addresses: &[SocketAddr],
        deadline: Instant,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), MysqlError> {
        // Out of `self`: a conversation that is broken off cannot be resumed.
        let mut session = self.session(addresses, deadline, progress).await?;
        let peer = session.peer();
        match session.observe(&self.check, progress).await {
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
    async fn session(
        &mut self,
        addresses: &[SocketAddr],
        deadline: Instant,
        progress: &Progress,
    ) -> Result<Box<Session>, MysqlError> {
        match std::mem::replace(&mut self.link, Link::Down) {
            Link::Up(session) => return Ok(session),
            link @ Link::LoggingIn { .. } => self.link = link,
            Link::Down => {
                // Before connecting: without a password no login is begun.
                let account =
                    Account { user: self.check.user.clone(), password: self.password.read().await? };
                let (stream, peer) = dial(addresses, deadline, progress).await?;
                let login = Box::pin(Session::open(stream, peer, account, self.idle, progress.clone()));
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
