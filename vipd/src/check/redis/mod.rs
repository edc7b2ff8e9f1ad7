//! `kind = "redis"`: role, silence of the primary, and connections of Redis,
//! Valkey and KeyDB.
//!
//! One connection a server, kept from probe to probe, and one round trip a
//! probe. `PING` is sent along since `INFO` is answered by servers that refuse
//! everything else.

mod status;
mod wire;

use super::dial::{DialError, Way, dial};
use super::password::{PasswordError, PasswordFile};
use super::renewal::Renewal;
use super::tls::{self, TlsError};
use super::{Progress, stream};
use status::{Info, SECTIONS};
use std::net::SocketAddr;
use thiserror::Error;
use vipd_core::probe::Observation;
use vipd_core::settings::RedisCheck;
use wire::{Wire, WireError};

/// Why a probe failed.
#[derive(Debug, Error)]
pub(crate) enum RedisError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error("logging in to {peer} as '{user}': {}", plain(.source, .user))]
    Login { peer: SocketAddr, user: String, source: WireError },
    #[error("asking {peer} for its role: {}", plain(.source, .user))]
    Question { peer: SocketAddr, user: String, source: WireError },
    #[error("asking {peer} for its role: it is '{role}'; only a server that holds data can be in a pool")]
    Role { peer: SocketAddr, role: String },
}

/// The user of those who name none.
const DEFAULT: &str = "default";

/// In the words of a server that has no connection left.
const FULL: &str = "max number of clients";

/// The commonest refusals, with what to do about them.
fn plain(error: &WireError, user: &str) -> String {
    let WireError::Server(said) = error else { return error.to_string() };
    let said = said.to_string();
    let hint = match said.split(' ').next() {
        Some("NOAUTH") => "set password-file, and user if it is not the default one".to_owned(),
        Some("WRONGPASS") => {
            "compare user and password-file with the server's ACL LIST or requirepass".to_owned()
        }
        Some("NOPERM") => format!("type there: ACL SETUSER {user} +info +ping"),
        Some("DENIED") => {
            // Its own text is a page long.
            return "DENIED: it runs in protected mode and takes nobody from elsewhere; \
                    give it a password (requirepass), or set protected-mode no"
                .to_owned();
        }
        Some("BUSY") => "a script blocks it: end it with SCRIPT KILL".to_owned(),
        _ if said.contains(FULL) => "all of its maxclients are in use".to_owned(),
        _ if said.contains("invalid password") => "compare password-file with its requirepass".to_owned(),
        _ => return said,
    };
    format!("{said}; {hint}")
}

/// Why a server refuses commands for now, if that is what the error says.
fn unready(error: WireError) -> Result<String, WireError> {
    let said = if let WireError::Server(said) = &error { said.to_string() } else { String::new() };
    let why = match said.split(' ').next() {
        Some("LOADING") => "it loads its data",
        Some("MASTERDOWN") => {
            "its link to its primary is down, and it refuses commands then (replica-serve-stale-data no)"
        }
        _ => return Err(error),
    };
    Ok(why.to_owned())
}

impl RedisError {
    /// Whether the server has no connection left.
    fn is_full(&self) -> bool {
        match self {
            Self::Login { source: WireError::Server(said), .. }
            | Self::Question { source: WireError::Server(said), .. } => said.to_string().contains(FULL),
            Self::Login {
                source: WireError::Closed | WireError::Io(_) | WireError::Malformed(_), ..
            }
            | Self::Question {
                source: WireError::Closed | WireError::Io(_) | WireError::Malformed(_), ..
            }
            | Self::Dial(_)
            | Self::Tls(_)
            | Self::Password(_)
            | Self::Role { .. } => false,
        }
    }

    /// Whether it is the check that is kept out, by its password or by what it
    /// lacks, and nobody else.
    fn is_ours(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_ours(),
            Self::Tls(error) => error.is_ours(),
            Self::Password(_) => true,
            Self::Login { source: WireError::Server(said), .. }
            | Self::Question { source: WireError::Server(said), .. } => {
                let said = said.to_string();
                let word = said.split(' ').next().unwrap_or_default();
                matches!(word, "NOAUTH" | "WRONGPASS" | "NOPERM") || said.contains("invalid password")
            }
            Self::Login {
                source: WireError::Closed | WireError::Io(_) | WireError::Malformed(_), ..
            }
            | Self::Question {
                source: WireError::Closed | WireError::Io(_) | WireError::Malformed(_), ..
            }
            | Self::Role { .. } => false,
        }
    }

    /// Whether the connection is of no more use, so that a kept one may have
    /// been at fault rather than the server.
    fn is_broken(&self) -> bool {
        match self {
            Self::Login { source, .. } | Self::Question { source, .. } => match source {
                WireError::Closed | WireError::Io(_) | WireError::Malformed(_) => true,
                // A user may have been deleted, or its password changed.
                WireError::Server(said) => said.to_string().starts_with("NOAUTH"),
            },
            Self::Dial(_) | Self::Tls(_) | Self::Password(_) | Self::Role { .. } => false,
        }
    }
}

/// Whether a probe failed since all the server's connections are in use.
pub(super) fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref().is_some_and(RedisError::is_full)
}

/// A connection.
struct Session {
    wire: Wire,
    peer: SocketAddr,
}

/// The check of one server.
pub(super) struct Prober {
    check: RedisCheck,
    tls: Option<tls::Client>,
    password: PasswordFile,
    session: Option<Session>,
    renewal: Renewal,
}

impl Prober {
    pub(super) fn new(check: RedisCheck, tls: Option<tls::Client>) -> Self {
        let password = PasswordFile::new(check.password_file.clone());
        Self { check, tls, password, session: None, renewal: Renewal::default() }
    }

    /// Asks the server once, over the kept connection if there is one.
    pub(super) async fn probe(
        &mut self,
        way: Way<'_>,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), RedisError> {
        // One at an address that the name has left is with another server.
        self.session = self.session.take().filter(|s| way.addresses.contains(&s.peer));
        // Out of `self`: a conversation that is broken off cannot be resumed.
        if let Some(session) = self.session.take_if(|_| !self.renewal.is_due()) {
            match self.ask(session, None, progress).await {
                // A connection breaks between probes when the server restarts or
                // tires of it; that says nothing of how the server is now.
                Err(error) if error.is_broken() => {}
                result => return result,
            }
        }
        let addresses = way.beside(self.session.as_ref().map(|s| s.peer));
        let error = match self.log_in_and_ask(Way { addresses: &addresses, ..way }, progress).await {
            Ok(answered) => {
                self.renewal.done();
                return Ok(answered);
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
                self.ask(session, None, progress).await.map_err(|_| error)
            }
            kept => {
                if let Some(session) = kept {
                    session.wire.quit().await;
                }
                Err(error)
            }
        }
    }

    async fn log_in_and_ask(
        &mut self,
        way: Way<'_>,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), RedisError> {
        let password = match self.check.password_file {
            Some(_) => Some(self.password.read().await?),
            None => None,
        };
        let (stream, peer) = dial(way, progress).await?;
        let stream = stream::open(stream, self.tls.as_ref(), peer, progress).await?;
        self.ask(Session { wire: Wire::new(stream), peer }, password.as_deref(), progress).await
    }

    /// Logs in with a password, if one is given, asks, and keeps the
    /// connection if that went well.
    async fn ask(
        &mut self,
        mut session: Session,
        password: Option<&[u8]>,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), RedisError> {
        let (peer, wire) = (session.peer, &mut session.wire);
        let user = self.check.user.as_deref();
        let name = || user.unwrap_or(DEFAULT).to_owned();
        let question = |source| RedisError::Question { peer, user: name(), source };
        let login = |source| RedisError::Login { peer, user: name(), source };
        let infos = SECTIONS.map(|section| [&b"INFO"[..], section.as_bytes()]);
        let auth: Option<Vec<&[u8]>> = password.map(|password| {
            let words = [Some(&b"AUTH"[..]), user.map(str::as_bytes), Some(password)];
            words.into_iter().flatten().collect()
        });
        let mut commands: Vec<&[&[u8]]> = auth.iter().map(Vec::as_slice).collect();
        commands.extend(infos.iter().map(|info| &info[..]));
        commands.push(&[b"PING"]);
        progress.set(format!("asking {peer} for its role"));
        wire.send(&commands).await.map_err(question)?;
        if auth.is_some() {
            match wire.reply().await {
                Ok(_) => {}
                // Passwords are brought in somewhere first: here, rather than there.
                Err(WireError::Server(said)) if needs_none(&said.to_string()) => {}
                Err(error) => return Err(login(error)),
            }
        }
        let (info, refusal) = replies(wire).await.map_err(question)?;
        let mut observation = match (info.observe(), &refusal) {
            (Ok(observation), _) => observation,
            (Err(_), Some(_)) => Observation::default(),
            (Err(role), None) => return Err(RedisError::Role { peer, role }),
        };
        observation.unready = observation.unready.or(refusal);
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

/// The replies to all that was asked, and why the server refuses commands for
/// now, if it does.
async fn replies(wire: &mut Wire) -> Result<(Info, Option<String>), WireError> {
    let mut told = String::new();
    let mut refusal = None;
    for _ in SECTIONS {
        match wire.reply().await {
            Ok(section) => told.extend([&*section, "\n"]),
            Err(error) => refusal = Some(unready(error)?),
        }
    }
    match wire.reply().await {
        Ok(_) => {}
        // Who may not ping is told enough by the rest.
        Err(WireError::Server(said)) if said.to_string().starts_with("NOPERM") => {}
        Err(error) => refusal = Some(unready(error)?),
    }
    Ok((Info(told), refusal))
}

/// Whether a server refuses a password since it wants none.
fn needs_none(said: &str) -> bool {
    said.contains("without any password configured") || said.contains("no password is set")
}
