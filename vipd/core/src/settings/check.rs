//! `[pool.check]`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// What a database must be to be used by a pool.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// Writable.
    Primary,
    /// Read-only and replicating.
    Replica,
    /// Either.
    Any,
}

/// How a check talks to a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CheckKind {
    /// The connection is accepted, and says what it should.
    Tcp(TcpCheck),
    /// A request over HTTP/1.1, in the clear or over TLS.
    Http(HttpCheck),
    /// A login and questions in MySQL's protocol.
    Mysql(MysqlCheck),
    /// A login and questions in PostgreSQL's protocol.
    Postgres(PostgresCheck),
    /// A login and questions in Redis' protocol.
    Redis(RedisCheck),
    /// A command's exit status.
    Exec(ExecCheck),
}

impl CheckKind {
    /// The role a server must have.
    #[must_use]
    pub const fn role(&self) -> Role {
        match self {
            Self::Tcp(_) | Self::Http(_) | Self::Exec(_) => Role::Any,
            Self::Mysql(check) => check.role,
            Self::Postgres(check) => check.role,
            Self::Redis(check) => check.role,
        }
    }

    /// Whether a server must be a member of a cluster (Galera, group
    /// replication) to be well. Then several writable ones are no accident, and
    /// one that has no channel of its own is kept up to date by the others.
    #[must_use]
    pub const fn clustered(&self) -> bool {
        match self {
            Self::Mysql(check) => check.galera.is_some() || check.group_replication,
            Self::Tcp(_) | Self::Http(_) | Self::Postgres(_) | Self::Redis(_) | Self::Exec(_) => false,
        }
    }

    /// The replication lag above which a replica takes no new connections.
    #[must_use]
    pub const fn max_lag(&self) -> Option<Duration> {
        match self {
            Self::Tcp(_) | Self::Http(_) | Self::Exec(_) => None,
            Self::Mysql(check) => check.max_lag,
            Self::Postgres(check) => check.max_lag,
            Self::Redis(check) => check.max_lag,
        }
    }
}

/// TLS of a check's connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    /// Whether the server's certificate must be valid for its name.
    pub verify: bool,
    /// The certificates it must stem from; those of the system when absent.
    pub ca_file: Option<PathBuf>,
    /// The name it must have; when absent the server's host, or the name that
    /// it was found at ([`Server::found_at`]).
    pub server_name: Option<String>,
}

/// Settings of a check of kind `tcp`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TcpCheck {
    /// What is said to the server; nothing when absent.
    pub send: Option<String>,
    /// What its answer must contain; no answer is waited for when absent.
    pub expect: Option<String>,
}

/// Settings of a check of kind `http`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpCheck {
    /// TLS, if the request goes over it.
    pub tls: Option<Tls>,
    /// The method.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// The `Host` field; the server's host and port when absent.
    pub host: Option<String>,
    /// The status codes that are good.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the body must contain; anything when absent.
    pub expect: Option<String>,
}

/// Settings of a check of kind `mysql`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MysqlCheck {
    /// The user that logs in.
    pub user: String,
    /// The file that holds its password; no password when absent.
    pub password_file: Option<PathBuf>,
    /// TLS, if the login goes over it.
    pub tls: Option<Tls>,
    /// The role a server must have.
    pub role: Role,
    /// The replication lag above which a replica takes no new connections.
    pub max_lag: Option<Duration>,
    /// A table that tells the lag, written by a tool such as pt-heartbeat;
    /// the server's own figure when absent.
    pub heartbeat: Option<Heartbeat>,
    /// The Galera state a server must have; not asked when absent.
    pub galera: Option<Galera>,
    /// Whether a server must be an online member of a group (group
    /// replication) that has its majority.
    pub group_replication: bool,
}

impl MysqlCheck {
    /// One with the defaults.
    #[must_use]
    pub fn new(user: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            password_file: None,
            tls: None,
            role: Role::Any,
            max_lag: None,
            heartbeat: None,
            galera: None,
            group_replication: false,
        }
    }
}

/// A column that holds the time of the primary's last heartbeat.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Heartbeat {
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The column, a time stamp.
    pub column: String,
}

/// What is asked of a Galera node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Galera {
    /// Whether one that gives a joiner its data (state 2) may be used.
    pub donors: bool,
}

/// Settings of a check of kind `postgres`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PostgresCheck {
    /// The role that logs in.
    pub user: String,
    /// The file that holds its password; no password when absent.
    pub password_file: Option<PathBuf>,
    /// The database it logs in to.
    pub database: String,
    /// TLS, if the login goes over it.
    pub tls: Option<Tls>,
    /// The role a server must have.
    pub role: Role,
    /// The replication lag above which a replica takes no new connections.
    pub max_lag: Option<Duration>,
}

/// Settings of a check of kind `redis`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RedisCheck {
    /// The user that logs in; `default` when absent.
    pub user: Option<String>,
    /// The file that holds its password; no login when absent.
    pub password_file: Option<PathBuf>,
    /// TLS, if the connection goes over it.
    pub tls: Option<Tls>,
    /// The role a server must have.
    pub role: Role,
    /// The silence of its primary above which a replica takes no new connections.
    pub max_lag: Option<Duration>,
}

/// Settings of a check of kind `exec`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExecCheck {
    /// The program, by its absolute path, and its arguments. No shell reads them.
    pub command: Vec<String>,
    /// The system's user that runs it; when absent the daemon's own, or `nobody` where that is root.
    pub user: Option<String>,
}

/// `[pool.check]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// The port that is asked; the server's own when absent.
    pub port: Option<u16>,
    /// Time between the starts of two checks of a server.
    pub interval: Duration,
    /// The same while a verdict changes: after a first failure or a first
    /// success; `interval` when absent.
    pub fast_interval: Option<Duration>,
    /// The same of a server that is down; `interval` when absent.
    pub down_interval: Option<Duration>,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row that make a server usable.
    pub rise: u32,
    /// Failures in a row that make it unusable.
    pub fall: u32,
    /// Whether connections of clients that fail count: one beside a check that
    /// failed, many in a row by themselves.
    pub passive: bool,
}

impl Check {
    /// One with the defaults.
    #[must_use]
    pub const fn new(kind: CheckKind) -> Self {
        let second = Duration::from_secs(1);
        Self {
            kind,
            port: None,
            interval: second,
            fast_interval: None,
            down_interval: None,
            timeout: second,
            rise: 2,
            fall: 3,
            passive: true,
        }
    }
}
