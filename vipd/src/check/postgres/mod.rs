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
use super::renewal::Renewal;
use super::tls::{self, TlsError};
use login::LoginError;
use status::Replay;
use std::net::SocketAddr;
use thiserror::Error;
use tokio::time::Instant;
use vipd_core::probe::Observation;
use vipd_core::settings::PostgresCheck;
use wire::{Wire, WireError};

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

    /// Whether it is the check that is kept out, by its password or by what it
    /// lacks, and nobody else.
    fn is_ours(&self) -> bool {
        /// `invalid_password`, `insufficient_privilege` (no right to connect to the
        /// database), `invalid_catalog_name` (there is none), and a database that
        /// takes nobody.
        const OURS: [&str; 4] = ["28P01", "42501", "3D000", "55000"];
        /// `invalid_authorization_specification`: of the role, or by `pg_hba.conf`,
        /// which may mean clients, too.
        const ROLE: &str = "28000";
        const BY_HBA: &str = "ClientAuthentication";
        match self {
            Self::Dial(error) => error.is_ours(),
            Self::Tls(error) => error.is_ours(),
            Self::Password(_) | Self::NoTls { .. } => true,
            Self::Login { source: LoginError::Wire(WireError::Server(error)), .. } => {
                OURS.contains(&&*error.code) || error.code == ROLE && error.routine != BY_HBA
            }
            // It wants another proof than it did.
            Self::Login {
                source: LoginError::NoPassword | LoginError::Clear | LoginError::Method(_),
                ..
            } => true,
            Self::Login {
                source:
                    LoginError::Wire(WireError::Closed | WireError::Io(_) | WireError::Malformed(_))
                    | LoginError::Scram(_),
                ..
            }
            | Self::Question { .. } => false,
        }
    }

    /// The words of a server that is alive and takes nobody: it starts, stops,
    /// recovers, or was told to be no hot standby.
    fn unready(&self) -> Option<(SocketAddr, String)> {
        /// `admin_shutdown`, `crash_shutdown`, `cannot_connect_now`.
        const CODES: [&str; 3] = ["57P01", "57P02", "57P03"];
        match self {
            Self::Login { peer, source: LoginError::Wire(WireError::Server(said)), .. }
            | Self::Question { peer, source: WireError::Server(said), .. }
                if CODES.contains(&&*said.code) =>
            {
                Some((*peer, said.message.clone()))
            }
            Self::Login { .. }
            | Self::Question { .. }
            | Self::Dial(_)
            | Self::Tls(_)
            | Self::Password(_)
            | Self::NoTls { .. } => None,
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
    renewal: Renewal,
}

impl Prober {
    pub(super) fn new(check: PostgresCheck, tls: Option<tls::Client>) -> Self {
        let password = PasswordFile::new(check.password_file.clone());
        Self { check, tls, password, session: None, renewal: Renewal::default() }
    }

    /// Asks the server once, over the kept connection if there is one.
    pub(super) async fn probe(
        &mut self,
        way: Way<'_>,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), PostgresError> {
        // One at an address that the name has left is with another server.
        self.session = self.session.take().filter(|s| way.addresses.contains(&s.peer));
        // Out of `self`: a conversation that is broken off cannot be resumed.
        if let Some(session) = self.session.take_if(|_| !self.renewal.is_due()) {
            match self.ask(session, progress).await {
                // A connection breaks between probes when the server restarts or
                // tires of it; that says nothing of how the server is now.
                Err(error) if error.is_broken() => {}
                result => return result,
            }
        }
        let addresses = way.beside(self.session.as_ref().map(|s| s.peer));
        let error = match self.log_in(Way { addresses: &addresses, ..way }, progress).await {
            Ok(session) => {
                self.renewal.done();
                match self.ask(session, progress).await {
                    Ok(answered) => return Ok(answered),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        let (full, ours) = (error.is_full(), error.is_ours());
        match self.session.take() {
            Some(session) if full || ours => {
                match full {
                    true => self.renewal.full(),
                    false => self.renewal.kept_out(session.peer, &error),
                }
                self.ask(session, progress).await.map_err(|_| error)
            }
            kept => {
                if let Some(session) = kept {
                    session.wire.quit().await;
                }
                match error.unready() {
                    Some((peer, says)) => {
                        Ok((peer, Observation { unready: Some(says), ..Observation::default() }))
                    }
                    None => Err(error),
                }
            }
        }
    }

    /// A connection that is logged in.
    async fn log_in(&mut self, way: Way<'_>, progress: &Progress) -> Result<Session, PostgresError> {
        let password = self.password.read().await?;
        let (stream, peer) = dial(way, progress).await?;
        let mut wire = login::open(stream, self.tls.as_ref(), peer, progress).await?;
        progress.set(format!("logging in to {peer}"));
        let user = || self.check.user.clone();
        let failed = |source| PostgresError::Login { peer, user: user(), source };
        login::login(&mut wire, &self.check, &password).await.map_err(failed)?;
        // What is known of its replay is of the server, and not of a connection.
        let kept = self.session.as_mut().filter(|session| session.peer == peer);
        let replay = kept.map(|session| std::mem::take(&mut session.replay)).unwrap_or_default();
        Ok(Session { wire, peer, replay })
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
        if let Some(before) = self.session.replace(session) {
            before.wire.quit().await;
        }
        Ok((peer, observation))
    }

    /// Lets the next probe log in anew.
    pub(super) fn renew(&mut self) {
        self.renewal.ask();
    }

    /// Says goodbye to the server.
    pub(super) async fn close(self) {
        if let Some(session) = self.session {
            session.wire.quit().await;
        }
    }
}
