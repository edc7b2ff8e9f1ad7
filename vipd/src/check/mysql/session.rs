//! A connection that is logged in, and the questions it is asked.
//!
//! A probe takes one round trip, and a second one for what a replica says of
//! its lag or its source.

use super::super::tls;
use super::error::{MysqlError, code};
use super::facts::{self, Facts};
use super::login::{self, LoginError, Over};
use super::status::{self, Dialect, Version};
use super::wire::{Row, ServerError, Wire, WireError};
use super::{Progress, galera, group, heartbeat};
use socket2::{SockRef, TcpKeepalive};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use vipd_core::probe::{Lag, Observation, ObservedRole, Upstream};
use vipd_core::settings::{Heartbeat, MysqlCheck, Role};

/// A server that is silent for so long is asked by the kernel whether its host
/// is there, this often and so many times. A frozen server's kernel answers.
const SILENCE: Duration = Duration::from_secs(5);
const QUESTIONS: (Duration, u32) = (Duration::from_secs(1), 3);

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
    /// Asks for the [`Facts`] that the server has.
    question: String,
    /// Ways to ask for the replication status that the server may know.
    status_questions: &'static [&'static str],
    /// It does not tell this account where it replicates from.
    hides_its_source: bool,
}

impl Session {
    /// Logs in, over TLS if there is a client for it, and makes the session
    /// harmless.
    pub(super) async fn open(
        stream: TcpStream,
        peer: SocketAddr,
        tls: Option<tls::Client>,
        account: Account,
        idle: Duration,
        progress: Progress,
    ) -> Result<Self, MysqlError> {
        let Account { user, password } = account;
        // Without it an answer may wait for an acknowledgement; the check works all the same.
        let _: std::io::Result<()> = stream.set_nodelay(true);
        // Nothing is said to a server that has not greeted: without these questions a host that
        // is gone would be waited for as long as one that is frozen.
        let asking =
            TcpKeepalive::new().with_time(SILENCE).with_interval(QUESTIONS.0).with_retries(QUESTIONS.1);
        let _: std::io::Result<()> = SockRef::from(&stream).set_tcp_keepalive(&asking);
        let mut wire = Wire::new(stream);
        progress.set(format!("waiting for the greeting of {peer}"));
        let greeting =
            login::greeting(&mut wire).await.map_err(|source| MysqlError::Greeting { peer, source })?;
        let version = Version::parse(&greeting.version);
        let mut over = Over::Tcp;
        if let Some(tls) = tls {
            if !greeting.tls {
                // A login with an empty password: one that is denied counts
                // less there than one that is broken off.
                let _: Result<(), LoginError> = login::login(&mut wire, over, greeting, &user, b"").await;
                return Err(MysqlError::NoTls { peer });
            }
            wire = encrypt(wire, &tls, peer, &progress).await?;
            over = Over::Tls;
        }
        progress.set(format!("logging in to {peer}"));
        login::login(&mut wire, over, greeting, &user, &password)
            .await
            .map_err(|source| MysqlError::refused(peer, user.clone(), source))?;
        let mut session = Self {
            wire,
            peer,
            user,
            version,
            question: String::new(),
            status_questions: version.status_statements(),
            hides_its_source: false,
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
            Ok(_) | Err(WireError::Server(ServerError { code: code::UNKNOWN_VARIABLE, .. })) => {}
            Err(source) => return Err(self.failed(WHAT, source)),
        }
        let settings = format!("SET SESSION autocommit = 1, wait_timeout = {}", idle.as_secs());
        self.asked(WHAT, &settings).await?;
        let known = Facts::named(&self.asked("its variables", &facts::which()).await?);
        // Gateways in front of a server greet with a version of their own.
        if let Some(version) = known.get("version") {
            self.version = Version::parse(version);
            self.status_questions = self.version.status_statements();
        }
        match facts::question(&known) {
            Some(question) => self.question = question,
            None => {
                let source = WireError::Malformed("the server has no such variable");
                return Err(self.failed("read_only", source));
            }
        }
        Ok(())
    }

    /// The address at the other end.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// All that the check is about. `clock` is what the server's heartbeats
    /// have told so far.
    pub(super) async fn observe(
        &mut self,
        check: &MysqlCheck,
        clock: &mut heartbeat::Clock,
        progress: &Progress,
    ) -> Result<Observation, MysqlError> {
        progress.set(format!("asking {} for its role", self.peer));
        let (facts, group) = self.facts(check.group_replication).await?;
        let role = facts.role();
        let mut seen =
            Observation { role: Some(role), connections: facts.connections(), ..Observation::default() };
        seen.unready = galera::unready(&facts, check.galera).or(group);
        // A privilege that a pool does not need is not demanded.
        let lag_matters = match check.role {
            Role::Primary => false,
            Role::Replica => role == ObservedRole::Replica,
            Role::Any => check.max_lag.is_some(),
        };
        let member = check.galera.is_some() || check.group_replication;
        if check.role == Role::Primary && role == ObservedRole::Replica && !member {
            progress.set(format!("asking {} for its source", self.peer));
            seen.upstream = self.upstream().await?;
        }
        if lag_matters && seen.unready.is_none() {
            seen.lag = match &check.heartbeat {
                Some(heartbeat) if role == ObservedRole::Replica => {
                    progress.set(format!("asking {} for its heartbeat", self.peer));
                    Some(self.heartbeat(heartbeat, clock).await?)
                }
                Some(_) => None,
                None => {
                    progress.set(format!("asking {} for its replication status", self.peer));
                    status::lag(&self.replication_status().await?, role, member)
                }
            };
        }
        Ok(seen)
    }

    /// The variables and the status, and what its group makes of it.
    async fn facts(&mut self, group: bool) -> Result<(Facts, Option<String>), MysqlError> {
        const WHAT: &str = "its role";
        let mut question = self.question.clone();
        let knows_groups = match self.version.dialect {
            Dialect::MySql => true,
            Dialect::MariaDb => false,
        };
        if group && knows_groups {
            question = format!("{question}; {}", group::QUESTION);
        }
        let mut answers = match self.wire.queries(&question).await {
            Ok(answers) => answers.into_iter(),
            // Nothing else that is asked here needs a privilege, or a table.
            Err(WireError::Server(error)) if group && error.code == code::TABLE_DENIED => {
                return Err(self.privilege("its group", error, group::PRIVILEGE).await);
            }
            Err(source) => return Err(self.failed(WHAT, source)),
        };
        let variables = answers.next().and_then(|rows| rows.into_iter().next());
        let Some(variables) = variables else {
            return Err(self.failed(WHAT, WireError::Malformed("no row")));
        };
        let facts = Facts::of(&variables, &answers.next().unwrap_or_default());
        let unready = match (group, knows_groups) {
            (true, true) => group::unready(&answers.next().unwrap_or_default(), facts.get("server_uuid")),
            (true, false) => Some(group::UNKNOWN.to_owned()),
            (false, _) => None,
        };
        Ok((facts, unready))
    }

    /// Where it replicates from, for the day on which that cannot be reached: a
    /// server that does not tell, for want of a privilege, is as good as any.
    async fn upstream(&mut self) -> Result<Option<Upstream>, MysqlError> {
        if self.hides_its_source {
            return Ok(None);
        }
        match self.replication_status().await {
            Ok(rows) => Ok(status::upstream(&rows)),
            Err(MysqlError::Privilege { .. }) => {
                self.hides_its_source = true;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn replication_status(&mut self) -> Result<Vec<Row>, MysqlError> {
        const WHAT: &str = "its replication status";
        loop {
            let Some((question, further)) = self.status_questions.split_first() else {
                return Err(self.failed(WHAT, WireError::Malformed("no known form of the question")));
            };
            match self.wire.query(question).await {
                Ok(rows) => return Ok(rows),
                Err(WireError::Server(error)) if error.code == code::PARSE && !further.is_empty() => {
                    self.status_questions = further;
                }
                Err(WireError::Server(error)) if error.code == code::PRIVILEGE_MISSING => {
                    return Err(self.privilege(WHAT, error, self.version.status_privilege()).await);
                }
                Err(source) => return Err(self.failed(WHAT, source)),
            }
        }
    }

    /// The lag by the heartbeat table. One that is not there (yet) leaves the
    /// lag unknown: nothing is wrong with the server.
    async fn heartbeat(
        &mut self,
        heartbeat: &Heartbeat,
        clock: &mut heartbeat::Clock,
    ) -> Result<Lag, MysqlError> {
        const WHAT: &str = "its heartbeat";
        match self.wire.query(&heartbeat::question(heartbeat)).await {
            Ok(rows) => Ok(clock.lag(rows.first())),
            Err(WireError::Server(error)) => match error.code {
                code::UNKNOWN_DATABASE | code::UNKNOWN_TABLE | code::UNKNOWN_COLUMN => {
                    Ok(Lag::Unknown(format!("no heartbeat: {}", WireError::Server(error))))
                }
                code::DATABASE_DENIED | code::TABLE_DENIED | code::COLUMN_DENIED => {
                    Err(self.privilege(WHAT, error, &heartbeat::privilege(heartbeat)).await)
                }
                _ => Err(self.failed(WHAT, WireError::Server(error))),
            },
            Err(source) => Err(self.failed(WHAT, source)),
        }
    }

    /// The error for a missing privilege, with the account as the server
    /// knows it: the host in it is not the one that logs in.
    async fn privilege(&mut self, what: &'static str, error: ServerError, privilege: &str) -> MysqlError {
        let account = match self.wire.query("SELECT CURRENT_USER()").await {
            Ok(rows) => rows.first().and_then(|row| row.values().next().flatten().map(str::to_owned)),
            Err(source) => return self.failed("its name for the account", source),
        };
        let account = account.unwrap_or_else(|| self.user.clone());
        let grant = status::grant(privilege, &account);
        MysqlError::Privilege {
            peer: self.peer,
            user: self.user.clone(),
            what,
            error: Box::new(error),
            grant,
        }
    }

    async fn asked(&mut self, what: &'static str, sql: &str) -> Result<Vec<Row>, MysqlError> {
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

async fn encrypt(
    mut wire: Wire,
    tls: &tls::Client,
    peer: SocketAddr,
    progress: &Progress,
) -> Result<Wire, MysqlError> {
    let failed = |source| MysqlError::Greeting { peer, source };
    login::request_tls(&mut wire).await.map_err(failed)?;
    let (stream, sequence) = wire.into_stream().map_err(failed)?;
    Ok(Wire::resume(tls.connect(stream, peer, progress).await?, sequence))
}
