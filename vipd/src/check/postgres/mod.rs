//! `kind = "postgres"`: role, replication lag and connections of PostgreSQL.
//!
//! One connection a server, kept from probe to probe, and one question in one
//! round trip.
//!
//! The messages and the proofs of a login are postgres-protocol's, the client
//! around them is ours. tokio-postgres has one, but with no limit to what a
//! server may send, and with the connection as a task beside the questions,
//! where a check is one future that ends at its time limit.

mod login;
mod status;
mod wire;

use super::Progress;
use super::dial::{DialError, Way, dial};
use super::password::{PasswordError, PasswordFile};
use super::tls::{self, TlsError};
use login::LoginError;
use status::Replay;
use std::net::SocketAddr;
use thiserror::Error;
use tokio::time::Instant;
use vipd_core::probe::Observation;
use vipd_core::settings::PostgresCheck;
use wire::{ServerError, Wire, WireError};

/// Why a probe failed.
#[derive(Debug, Error)]
pub(crate) enum PostgresError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error("{peer} has no TLS: set ssl = on there, or switch tls off here")]
    NoTls { peer: SocketAddr },
    #[error("logging in to {peer} as '{user}': {source}")]
    Login { peer: SocketAddr, user: String, source: LoginError },
    #[error("asking {peer} for {what}: {}", plain(.source))]
    Question { peer: SocketAddr, what: &'static str, source: WireError },
}

/// The commonest refusals, with what to do about them.
fn plain(error: &WireError) -> String {
    let WireError::Server(refusal) = error else { return error.to_string() };
    let hint = match (&*refusal.code, &*refusal.routine) {
        ("28P01", _) => "compare password-file with the password of that role",
        ("28000", "ClientAuthentication") => {
            "add a line for that role and this host to its pg_hba.conf, and reload it"
        }
        ("28000", _) => "type there: CREATE ROLE ... LOGIN",
        ("3D000", _) => "set database to one that it has",
        ("53300", _) => "all connections that it has for such roles are in use: raise its max_connections",
        ("42501", _) => "grant that role the privilege",
        _ => return error.to_string(),
    };
    format!("{error}; {hint}")
}

impl PostgresError {
    fn wire(&self) -> Option<&WireError> {
        match self {
            Self::Login { source: LoginError::Wire(wire), .. } | Self::Question { source: wire, .. } => {
                Some(wire)
            }
            Self::Login {
                source:
                    LoginError::NoPassword | LoginError::Clear | LoginError::Method(_) | LoginError::Scram(_),
                ..
            }
            | Self::Dial(_)
            | Self::Tls(_)
            | Self::Password(_)
            | Self::NoTls { .. } => None,
        }
    }

    /// Whether the connection is of no more use, so that a kept one may have
    /// been at fault rather than the server.
    fn is_broken(&self) -> bool {
        match self.wire() {
            Some(WireError::Closed | WireError::Io(_) | WireError::Malformed(_)) => true,
            Some(WireError::Server(error)) => error.fatal,
            None => false,
        }
    }

    /// Whether the server has no connection left for such as us.
    fn is_full(&self) -> bool {
        /// `too_many_connections`
        const FULL: &str = "53300";
        matches!(self.wire(), Some(WireError::Server(error)) if error.code == FULL)
    }

    /// The words of a server that is alive and takes nobody: it starts, stops,
    /// recovers, or was told to be no hot standby.
    fn unready(&self) -> Option<String> {
        /// `admin_shutdown`, `crash_shutdown`, `cannot_connect_now`.
        const CODES: [&str; 3] = ["57P01", "57P02", "57P03"];
        match self.wire() {
            Some(WireError::Server(ServerError { code, message, .. })) if CODES.contains(&&**code) => {
                Some(message.clone())
            }
            Some(WireError::Server(_) | WireError::Closed | WireError::Io(_) | WireError::Malformed(_))
            | None => None,
        }
    }
}

/// Whether a probe failed since all the server's connections are in use.
pub(super) fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref().is_some_and(PostgresError::is_full)
}

/// A connection that is logged in.
struct Session {
    wire: Wire,
    peer: SocketAddr,
    replay: Replay,
}

/// The check of one server.
pub(super) struct Prober {
    check: PostgresCheck,
    tls: Option<tls::Client>,
    password: PasswordFile,
    session: Option<Session>,
    /// Whether the next probe is to log in anew. Until that has ended the kept
    /// connection stays: a full server has no other for us.
    renew: bool,
}

impl Prober {
    pub(super) fn new(check: PostgresCheck, tls: Option<tls::Client>) -> Self {
        let password = PasswordFile::new(check.password_file.clone());
        Self { check, tls, password, session: None, renew: false }
    }

    /// Asks the server once, over the kept connection if there is one.
    pub(super) async fn probe(
        &mut self,
        way: Way<'_>,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), PostgresError> {
        // Out of `self`: a conversation that is broken off cannot be resumed.
        // One at an address that the name has left is with another server.
        let mut kept = self.session.take().filter(|s| way.addresses.contains(&s.peer));
        if self.renew {
            self.session = kept.take();
        }
        if let Some(session) = kept {
            match self.ask(session, progress).await {
                // A connection breaks between probes when the server restarts or
                // tires of it; that says nothing of how the server is now.
                Err(error) if error.is_broken() => {}
                result => return result,
            }
        }
        let password = self.password.read().await?;
        let (stream, peer) = dial(way, progress).await?;
        let answered = async {
            let mut wire = login::open(stream, self.tls.as_ref(), peer, progress).await?;
            progress.set(format!("logging in to {peer}"));
            let user = || self.check.user.clone();
            let failed = |source| PostgresError::Login { peer, user: user(), source };
            login::login(&mut wire, &self.check, &password).await.map_err(failed)?;
            self.ask(Session { wire, peer, replay: Replay::default() }, progress).await
        };
        match answered.await {
            Ok(answered) => {
                self.renew = false;
                Ok(answered)
            }
            // What is kept has its connection all the same.
            Err(error) if error.is_full() => match self.session.take() {
                Some(session) => {
                    self.renew = false;
                    self.ask(session, progress).await.map_err(|_| error)
                }
                None => Err(error),
            },
            Err(error) => {
                // Where nobody else gets in, the server may wait for its end to shut down.
                self.session = None;
                match error.unready() {
                    Some(says) => Ok((peer, Observation { unready: Some(says), ..Observation::default() })),
                    None => Err(error),
                }
            }
        }
    }

    /// Asks, and keeps the connection if that went well.
    async fn ask(
        &mut self,
        mut session: Session,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), PostgresError> {
        const WHAT: &str = "its role";
        let peer = session.peer;
        progress.set(format!("asking {peer} for {WHAT}"));
        let failed = |source| PostgresError::Question { peer, what: WHAT, source };
        let asked = Instant::now();
        let row = session.wire.query(status::question(&self.check)).await.map_err(failed)?;
        let observation = status::observe(&row, &self.check.user, &mut session.replay, asked)
            .map_err(|nonsense| failed(WireError::malformed(nonsense.0)))?;
        self.session = Some(session);
        Ok((peer, observation))
    }

    /// Lets the next probe connect anew.
    pub(super) fn renew(&mut self) {
        self.renew = true;
    }

    /// Says goodbye to the server.
    pub(super) async fn close(self) {
        if let Some(session) = self.session {
            session.wire.quit().await;
        }
    }
}
