//! What goes wrong with a check, in words that say what to do.

use super::super::dial::DialError;
use super::super::password::PasswordError;
use super::super::tls::TlsError;
use super::login::LoginError;
use super::wire::{ServerError, WireError};
use std::net::SocketAddr;
use thiserror::Error;

/// Numbers of MySQL's error reference that mean something here.
pub(super) mod code {
    pub(in super::super) const TOO_MANY_CONNECTIONS: u16 = 1040;
    pub(in super::super) const DATABASE_DENIED: u16 = 1044;
    pub(in super::super) const ACCESS_DENIED: u16 = 1045;
    /// An unknown command; said by a Galera node to every query while it is
    /// not ready ("WSREP has not yet prepared node for application use").
    pub(in super::super) const NOT_READY: u16 = 1047;
    pub(in super::super) const UNKNOWN_DATABASE: u16 = 1049;
    pub(in super::super) const UNKNOWN_COLUMN: u16 = 1054;
    pub(in super::super) const PARSE: u16 = 1064;
    pub(in super::super) const HOST_BLOCKED: u16 = 1129;
    pub(in super::super) const HOST_NOT_ALLOWED: u16 = 1130;
    pub(in super::super) const TABLE_DENIED: u16 = 1142;
    pub(in super::super) const COLUMN_DENIED: u16 = 1143;
    pub(in super::super) const UNKNOWN_TABLE: u16 = 1146;
    pub(in super::super) const UNKNOWN_VARIABLE: u16 = 1193;
    /// An account's own limits on its connections: `max_user_connections` of
    /// the server, and what its `GRANT`s say.
    pub(in super::super) const USER_IS_FULL: [u16; 2] = [1203, 1226];
    pub(in super::super) const PRIVILEGE_MISSING: u16 = 1227;
    pub(in super::super) const PLUGIN_NOT_SUPPORTED: u16 = 1251;
    pub(in super::super) const ACCESS_DENIED_NO_PASSWORD: u16 = 1698;
    pub(in super::super) const MUST_CHANGE_PASSWORD: u16 = 1820;
    pub(in super::super) const PASSWORD_EXPIRED: u16 = 1862;
    pub(in super::super) const ACCOUNT_LOCKED: u16 = 3118;
    pub(in super::super) const LOCKED_BY_FAILURES: u16 = 3955;
    pub(in super::super) const LOCKED_BY_FAILURES_MARIADB: u16 = 4150;
    pub(in super::super) const ACCOUNT_LOCKED_MARIADB: u16 = 4151;
    pub(in super::super) const TLS_DEMANDED: u16 = 3159;
    /// Errors with which a server ends a session: shutdown, network
    /// time-outs, killed (MariaDB, MySQL), idle for too long.
    pub(in super::super) const ENDED: [u16; 8] = [1053, 1158, 1159, 1160, 1161, 1927, 3169, 4031];
}

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
    /// TLS is wanted here, and the server has none.
    #[error("{peer} offers no TLS: give that server a certificate (ssl_cert, ssl_key), or switch tls off")]
    NoTls { peer: SocketAddr },
    /// TLS failed, or the certificate is no good.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The login failed for another reason than the account.
    #[error("logging in to {peer} as '{user}': {}", login(.source, .peer))]
    Login { peer: SocketAddr, user: String, source: LoginError },
    /// The server refused the account.
    #[error("access denied for user '{user}' at {peer}: {} (ERROR {}): {hint}", .error.message, .error.code)]
    Denied { peer: SocketAddr, user: String, error: ServerError, hint: &'static str },
    /// A question failed.
    #[error("asking {peer} for {what}: {}", plain(.source, .peer))]
    Question { peer: SocketAddr, what: &'static str, source: WireError },
    /// A question may not be asked.
    #[error(
        "user '{user}' may not ask {peer} for {what} (ERROR {}: {}); type there: {grant}",
        .error.code, .error.message
    )]
    Privilege { peer: SocketAddr, user: String, what: &'static str, error: Box<ServerError>, grant: String },
}

/// The commonest refusals, with what to do about them.
fn plain(error: &WireError, peer: &SocketAddr) -> String {
    let hint = match error {
        WireError::Server(ServerError { code: code::TOO_MANY_CONNECTIONS, .. }) => {
            "all of its max_connections are in use: raise them there, \
             or leave some to others with headroom in the pool"
                .to_owned()
        }
        WireError::Server(ServerError { code: code::HOST_BLOCKED, .. }) => {
            format!(
                "too many logins from this host broke off: type on {} FLUSH HOSTS, \
                 or from MySQL 8.4 on TRUNCATE TABLE performance_schema.host_cache",
                peer.ip()
            )
        }
        WireError::Server(ServerError { code: code::HOST_NOT_ALLOWED, .. }) => {
            "no account there may log in from this host: create one for its address".to_owned()
        }
        WireError::Server(_) | WireError::Closed | WireError::Io(_) | WireError::Malformed(_) => {
            return error.to_string();
        }
    };
    format!("{error} ({hint})")
}

/// MySQL checks its limits only after the login.
fn login(error: &LoginError, peer: &SocketAddr) -> String {
    match error {
        LoginError::Wire(error) => plain(error, peer),
        LoginError::Plugin(_) | LoginError::PublicKey => error.to_string(),
    }
}

/// What to do about an account that is refused with this error; `None` for an
/// error that does not refuse one.
fn denied(code: u16) -> Option<&'static str> {
    Some(match code {
        code::ACCESS_DENIED | code::ACCESS_DENIED_NO_PASSWORD => {
            "compare user, password-file and tls with that server's account for this host"
        }
        code::PLUGIN_NOT_SUPPORTED => "give the account mysql_native_password or caching_sha2_password",
        code::TLS_DEMANDED => "the account may log in over TLS only: set tls = true",
        code::MUST_CHANGE_PASSWORD | code::PASSWORD_EXPIRED => {
            "its password has expired: ALTER USER ... PASSWORD EXPIRE NEVER there"
        }
        code::LOCKED_BY_FAILURES | code::LOCKED_BY_FAILURES_MARIADB => {
            "the account is locked after failed logins: ALTER USER ... ACCOUNT UNLOCK there (MariaDB: FLUSH \
             PRIVILEGES), once password-file is right"
        }
        code::ACCOUNT_LOCKED | code::ACCOUNT_LOCKED_MARIADB => {
            "the account is locked: ALTER USER ... ACCOUNT UNLOCK there"
        }
        _ => return None,
    })
}

impl MysqlError {
    /// The error of a login that failed.
    pub(super) fn refused(peer: SocketAddr, user: String, source: LoginError) -> Self {
        let said = source.server().and_then(|error| Some((error.clone(), denied(error.code)?)));
        match said {
            Some((error, hint)) => Self::Denied { peer, user, error, hint },
            None => Self::Login { peer, user, source },
        }
    }

    /// What a server says that refuses every query, being a Galera node
    /// outside the primary component or one that is told to: this is no fault
    /// of the check's, it is the server's state.
    pub(super) fn not_ready(&self) -> Option<(SocketAddr, String)> {
        match self {
            Self::Question { peer, source: source @ WireError::Server(error), .. }
                if error.code == code::NOT_READY =>
            {
                Some((*peer, source.to_string()))
            }
            Self::Question { .. }
            | Self::Dial(_)
            | Self::Password(_)
            | Self::Greeting { .. }
            | Self::NoTls { .. }
            | Self::Tls(_)
            | Self::Login { .. }
            | Self::Denied { .. }
            | Self::Privilege { .. } => None,
        }
    }

    /// Whether the server has no connection left, which it says before the
    /// login (MariaDB, MySQL) or after it (MySQL).
    pub(super) fn is_full(&self) -> bool {
        let full = |error: &ServerError| error.code == code::TOO_MANY_CONNECTIONS;
        match self {
            Self::Greeting { source: WireError::Server(error), .. } => full(error),
            Self::Login { source, .. } => source.server().is_some_and(full),
            Self::Greeting { .. }
            | Self::Question { .. }
            | Self::Dial(_)
            | Self::Password(_)
            | Self::NoTls { .. }
            | Self::Tls(_)
            | Self::Denied { .. }
            | Self::Privilege { .. } => false,
        }
    }

    /// Whether it is the check that is kept out, by its account or by what it
    /// lacks, and nobody else.
    pub(super) fn is_ours(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_ours(),
            Self::Tls(error) => error.is_ours(),
            Self::Password(_) | Self::NoTls { .. } | Self::Denied { .. } | Self::Privilege { .. } => true,
            Self::Login { source: LoginError::Plugin(_), .. } => true,
            Self::Login { source: source @ (LoginError::Wire(_) | LoginError::PublicKey), .. } => {
                source.server().is_some_and(|error| code::USER_IS_FULL.contains(&error.code))
            }
            // Who logs in with an expired password may do nothing but change it.
            Self::Question { source, .. } => {
                matches!(source, WireError::Server(error) if error.code == code::MUST_CHANGE_PASSWORD)
            }
            Self::Greeting { .. } => false,
        }
    }

    /// Whether the connection is of no more use, so that a kept one may have
    /// been at fault rather than the server.
    pub(super) fn is_broken(&self) -> bool {
        match self {
            Self::Greeting { source, .. }
            | Self::Login { source: LoginError::Wire(source), .. }
            | Self::Question { source, .. } => match source {
                WireError::Closed | WireError::Io(_) | WireError::Malformed(_) => true,
                WireError::Server(error) => code::ENDED.contains(&error.code),
            },
            Self::Dial(_)
            | Self::Password(_)
            | Self::NoTls { .. }
            | Self::Tls(_)
            | Self::Login { source: LoginError::Plugin(_) | LoginError::PublicKey, .. }
            | Self::Denied { .. }
            | Self::Privilege { .. } => false,
        }
    }
}
