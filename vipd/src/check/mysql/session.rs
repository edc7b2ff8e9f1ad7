//! A connection that is logged in, and the questions it is asked.

use super::login::{self, LoginError};
use super::status::{self, READ_ONLY, Version};
use super::wire::{Row, ServerError, Wire, WireError};
use super::{MysqlError, Progress};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use vipd_core::probe::{Observation, ObservedRole};
use vipd_core::settings::{MysqlCheck, Role};

const PARSE_ERROR: u16 = 1064;
const UNKNOWN_VARIABLE: u16 = 1193;
const PRIVILEGE_MISSING: u16 = 1227;
/// Errors that refuse an account: wrong password, no password, no such
/// plugin, TLS demanded, password expired (twice), account locked.
const DENIED: [u16; 7] = [1045, 1698, 1251, 3159, 1820, 1862, 3118];

/// Who logs in. Not printable: it holds the password.
pub(super) struct Account {
    pub(super) user: String,
    pub(super) password: Vec<u8>,
}

/// How long a server keeps a session of ours that asks nothing: it outlives a
/// few missed probes, and does not outlive this host for hours.
pub(super) fn idle_limit(interval: Duration) -> Duration {
    (interval * 3).max(Duration::from_secs(60))
}

/// A connection that is logged in.
pub(super) struct Session {
    wire: Wire,
    peer: SocketAddr,
    user: String,
    version: Version,
    /// Asks for the variables of [`READ_ONLY`] that the server has.
    role_question: String,
    /// Ways to ask for the replication status that the server may know.
    status_questions: &'static [&'static str],
}

impl Session {
    /// Logs in, and makes the session harmless.
    pub(super) async fn open(
        stream: TcpStream,
        peer: SocketAddr,
        account: Account,
        idle: Duration,
        progress: Progress,
    ) -> Result<Self, MysqlError> {
        let Account { user, password } = account;
        // Without it an answer may wait for an acknowledgement; the check works all the same.
        let _: std::io::Result<()> = stream.set_nodelay(true);
        let mut wire = Wire::new(stream);
        progress.set(format!("waiting for the greeting of {peer}"));
        let greeting =
            login::greeting(&mut wire).await.map_err(|source| MysqlError::Greeting { peer, source })?;
        let version = Version::parse(&greeting.version);
        progress.set(format!("logging in to {peer}"));
        login::login(&mut wire, greeting, &user, &password)
            .await
            .map_err(|source| refused(peer, user.clone(), source))?;
        let mut session = Self {
            wire,
            peer,
            user,
            version,
            role_question: String::new(),
            status_questions: version.status_statements(),
        };
        progress.set(format!("preparing the session at {peer}"));
        session.prepare(idle).await?;
        Ok(session)
    }

    async fn prepare(&mut self, idle: Duration) -> Result<(), MysqlError> {
        const WHAT: &str = "a session of its own";
        // First of all: with it on, a Galera node outside the primary
        // component would let every further question wait.
        match self.wire.query("SET SESSION wsrep_sync_wait = 0").await {
            Ok(_) | Err(WireError::Server(ServerError { code: UNKNOWN_VARIABLE, .. })) => {}
            Err(source) => return Err(self.failed(WHAT, source)),
        }
        let settings = format!("SET SESSION autocommit = 1, wait_timeout = {}", idle.as_secs());
        self.question(WHAT, &settings).await?;
        let names = READ_ONLY.map(|name| format!("'{name}'")).join(", ");
        let variables = format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names}, 'version')");
        let rows = self.question("its variables", &variables).await?;
        let known = |name: &str| {
            let named = |row: &&Row| row.get(&["Variable_name"]).flatten() == Some(name);
            rows.iter().find(named).and_then(|row| row.get(&["Value"]).flatten())
        };
        // Gateways in front of a server greet with a version of their own.
        if let Some(version) = known("version") {
            self.version = Version::parse(version);
            self.status_questions = self.version.status_statements();
        }
        let asked = READ_ONLY.iter().filter(|name| known(name).is_some());
        let asked: Vec<_> = asked.map(|name| format!("@@global.{name}")).collect();
        if asked.is_empty() {
            return Err(self.failed("read_only", WireError::Malformed("the server has no such variable")));
        }
        self.role_question = format!("SELECT {}", asked.join(", "));
        Ok(())
    }

    /// The address at the other end.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The role, and the lag if the check is about it.
    pub(super) async fn observe(
        &mut self,
        check: &MysqlCheck,
        progress: &Progress,
    ) -> Result<Observation, MysqlError> {
        progress.set(format!("asking {} for its role", self.peer));
        let question = self.role_question.clone();
        let rows = self.question("its role", &question).await?;
        let Some(row) = rows.first() else {
            return Err(self.failed("its role", WireError::Malformed("no row")));
        };
        let role = status::role(row);
        // A privilege that a pool does not need is not demanded.
        let lag_matters = match check.role {
            Role::Primary => false,
            Role::Replica => role == ObservedRole::Replica,
            Role::Any => check.max_lag.is_some(),
        };
        let lag = match lag_matters {
            true => {
                progress.set(format!("asking {} for its replication status", self.peer));
                status::lag(&self.replication_status().await?, role)
            }
            false => None,
        };
        Ok(Observation { role: Some(role), lag, ..Observation::default() })
    }

    async fn replication_status(&mut self) -> Result<Vec<Row>, MysqlError> {
        const WHAT: &str = "its replication status";
        loop {
            let Some((question, further)) = self.status_questions.split_first() else {
                return Err(self.failed(WHAT, WireError::Malformed("no known form of the question")));
            };
            match self.wire.query(question).await {
                Ok(rows) => return Ok(rows),
                Err(WireError::Server(ServerError { code: PARSE_ERROR, .. })) if !further.is_empty() => {
                    self.status_questions = further;
                }
                Err(WireError::Server(ServerError { code: PRIVILEGE_MISSING, .. })) => {
                    return Err(self.privilege().await);
                }
                Err(source) => return Err(self.failed(WHAT, source)),
            }
        }
    }

    /// The error for a missing privilege, with the account as the server
    /// knows it: the host in it is not the one that logs in.
    async fn privilege(&mut self) -> MysqlError {
        let account = match self.wire.query("SELECT CURRENT_USER()").await {
            Ok(rows) => rows.first().and_then(|row| row.values().next().flatten().map(str::to_owned)),
            Err(source) => return self.failed("its name for the account", source),
        };
        let account = account.unwrap_or_else(|| self.user.clone());
        let grant = status::grant(self.version.status_privilege(), &account);
        MysqlError::Privilege { peer: self.peer, user: self.user.clone(), grant }
    }

    async fn question(&mut self, what: &'static str, sql: &str) -> Result<Vec<Row>, MysqlError> {
        self.wire.query(sql).await.map_err(|source| self.failed(what, source))
    }

    fn failed(&self, what: &'static str, source: WireError) -> MysqlError {
        MysqlError::Question { peer: self.peer, what, source }
    }

    /// Says goodbye.
    pub(super) async fn quit(self) {
        self.wire.quit().await;
    }
}

fn refused(peer: SocketAddr, user: String, source: LoginError) -> MysqlError {
    match source.server() {
        Some(error) if DENIED.contains(&error.code) => {
            MysqlError::Denied { peer, user, error: error.clone() }
        }
        Some(_) | None => MysqlError::Login { peer, user, source },
    }
}
