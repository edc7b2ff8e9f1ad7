//! Checks against a real PostgreSQL, a primary and a replica of it.
//!
//! Needs Debian's `postgresql-15`; its servers run from scratch directories on
//! 127.0.0.1, as the user `postgres` where the tests run as root, and are
//! killed at the end.

mod databases;

use databases::{
    Checks, LIMIT, Outcome, PRIMARY, REPLICA, certificates, command_as, free_port, hand_over, is_possible,
    until_ready,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use vipd_core::probe::Probe;
use vipd_core::settings::{CheckKind, PostgresCheck, Role, Tls};

/// Where Debian has them, out of everybody's PATH.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// Who may run it: not root.
const USER: &str = "postgres";
const CERTIFIED: &str = "db1.internal";
/// Roles that are not here may not log in from anywhere.
const HBA: &str = "local all all trust
    host replication copy 127.0.0.1/32 trust
    host all open 127.0.0.1/32 trust
    host all clear 127.0.0.1/32 password
    host all old 127.0.0.1/32 md5
    hostssl all secure 127.0.0.1/32 scram-sha-256
    host all vipd,poor,limited,nobody 127.0.0.1/32 scram-sha-256
";

/// A command of PostgreSQL's, which refuses to run as root.
fn program(name: &str) -> Command {
    let mut command = command_as(USER, &Path::new(PROGRAMS).join(name));
    command.current_dir("/").env("LC_ALL", "C");
    command
}

fn run(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?.trim().to_owned()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// A PostgreSQL server; ended when dropped.
struct Postgres {
    home: TempDir,
    port: u16,
    process: Child,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, with all its processes; nothing can be done about an error.
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::SIGQUIT);
            let _ = self.process.wait();
        }
    }
}

impl Postgres {
    fn primary() -> Outcome<Self> {
        let home = tempfile::tempdir()?;
        hand_over(home.path(), USER)?;
        let data = home.path().join("data");
        let options = ["--username=postgres", "--auth=trust", "--no-sync", "--no-instructions"];
        run(program("initdb").args(options).arg("--pgdata").arg(&data))?;
        std::fs::write(data.join("pg_hba.conf"), HBA)?;
        certificates(&data, &[CERTIFIED])?;
        hand_over(&data.join("cert.pem"), USER)?;
        hand_over(&data.join("key.pem"), USER)?;
        Self::start(home)
    }

    fn replica_of(primary: &Self) -> Outcome<Self> {
        let home = tempfile::tempdir()?;
        hand_over(home.path(), USER)?;
        run(program("pg_basebackup")
            .args(["--host=127.0.0.1", "--username=copy", "--write-recovery-conf", "--no-sync"])
            .args(["--checkpoint=fast", "--wal-method=stream", &format!("--port={}", primary.port)])
            .arg("--pgdata")
            .arg(home.path().join("data")))?;
        Self::start(home)
    }

    fn start(home: TempDir) -> Outcome<Self> {
        let port = free_port()?;
        let process = launch(home.path(), port)?;
        Ok(Self { home, port, process })
    }

    fn restart(&mut self) -> Outcome {
        self.process = launch(self.home.path(), self.port)?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Outcome {
        Ok(kill(Pid::from_raw(i32::try_from(self.process.id())?), signal)?)
    }

    /// Ends it in an orderly way ("fast").
    fn stop(&mut self) -> Outcome {
        self.signal(Signal::SIGINT)?;
        self.process.wait()?;
        Ok(())
    }

    /// Runs statements as the superuser; gives back what they print.
    fn sql(&self, statements: &str) -> Outcome<String> {
        run(program("psql")
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"])
            .args(["--username=postgres", "--dbname=postgres", &format!("--port={}", self.port)])
            .arg("--host")
            .arg(self.home.path())
            .args(["--command", statements]))
    }
}

fn launch(home: &Path, port: u16) -> Outcome<Child> {
    let setting = |name: &str, value: &str| format!("--{name}={value}");
    let mut process = program("postgres")
        .arg("-D")
        .arg(home.join("data"))
        .args([setting("port", &port.to_string()), setting("listen_addresses", "127.0.0.1")])
        .args([setting("unix_socket_directories", &home.display().to_string())])
        .args(["--fsync=off", "--max_connections=20", "--shared_buffers=16MB", "--logging_collector=off"])
        .args(["--wal_retrieve_retry_interval=100ms", "--log_destination=stderr"])
        .args(["--ssl=on", "--ssl_cert_file=cert.pem", "--ssl_key_file=key.pem"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let log = process.stderr.take().ok_or("no log")?;
    until_ready(&mut process, log, "ready to accept")?;
    Ok(process)
}

/// A primary with a replica, and checks of both.
struct Lab {
    primary: Postgres,
    replica: Postgres,
    password: tempfile::NamedTempFile,
    checks: Checks,
}

impl Lab {
    fn start() -> Outcome<Self> {
        let primary = Postgres::primary()?;
        primary.sql(
            "CREATE ROLE vipd LOGIN PASSWORD 'first' IN ROLE pg_read_all_stats;
             CREATE ROLE poor LOGIN PASSWORD 'first';
             CREATE ROLE secure LOGIN PASSWORD 'first';
             CREATE ROLE clear LOGIN PASSWORD 'first';
             CREATE ROLE limited LOGIN PASSWORD 'first' CONNECTION LIMIT 0;
             CREATE ROLE open LOGIN;
             CREATE ROLE copy LOGIN REPLICATION;
             SET password_encryption = 'md5';
             CREATE ROLE old LOGIN PASSWORD 'first'",
        )?;
        let replica = Postgres::replica_of(&primary)?;
        let password = tempfile::NamedTempFile::new()?;
        std::fs::write(password.path(), "first\n")?;
        let mut lab = Self { primary, replica, password, checks: Checks::start() };
        lab.check_as("vipd", |_| {});
        Ok(lab)
    }

    fn check_as(&mut self, user: &str, change: impl FnOnce(&mut PostgresCheck)) {
        self.check_found(user, None, change);
    }

    fn check_found(&mut self, user: &str, found_at: Option<&str>, change: impl FnOnce(&mut PostgresCheck)) {
        let mut check = PostgresCheck {
            user: user.to_owned(),
            password_file: Some(self.password.path().to_owned()),
            database: "postgres".to_owned(),
            tls: None,
            role: Role::Any,
            max_lag: Some(Duration::from_secs(10)),
        };
        change(&mut check);
        let ports = [self.primary.port, self.replica.port];
        self.checks.check(CheckKind::Postgres(check), &ports, found_at);
    }

    fn tls(&self, name: Option<&str>) -> Option<Tls> {
        let ca_file: PathBuf = self.primary.home.path().join("data/ca.pem");
        Some(Tls { verify: true, ca_file: Some(ca_file), server_name: name.map(str::to_owned) })
    }

    async fn until_fresh(&mut self) -> Outcome {
        self.checks.until_behind(REPLICA, |lag| lag.is_zero()).await
    }

    /// The process that serves our check at the primary.
    fn session(&self) -> Outcome<String> {
        self.primary
            .sql("SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE application_name = 'vipd'")
    }
}

#[tokio::test]
async fn a_primary_and_its_replica() -> Outcome {
    if !is_possible(&[&format!("{PROGRAMS}/postgres")], "postgresql-15")? {
        return Ok(());
    }
    let mut lab = Lab::start()?;
    roles(&mut lab).await?;
    lag(&mut lab).await?;
    one_connection(&mut lab).await?;
    a_password_is_changed(&mut lab).await?;
    logins(&mut lab).await?;
    tls(&mut lab).await?;
    refusals(&mut lab).await?;
    a_shutdown_that_waits_for_its_clients(&mut lab).await?;
    a_promotion(&mut lab).await
}

async fn roles(lab: &mut Lab) -> Outcome {
    let seen = lab.checks.until_primary(PRIMARY).await?;
    assert_eq!(seen.lag, None);
    let connections = seen.connections.ok_or("no connections")?;
    assert_eq!(connections.max, 17, "three are the superuser's");
    let mut others = vec![];
    for _ in 0..5 {
        let mut psql = program("psql");
        psql.args(["--username=open", "--dbname=postgres", "--host=127.0.0.1"]);
        let child =
            psql.arg(format!("--port={}", lab.primary.port)).args(["-c", "SELECT pg_sleep(600)"]).spawn()?;
        others.push(Client(child));
    }
    lab.checks.until_seen(PRIMARY, |seen| seen.connections.is_some_and(|c| c.used >= 6)).await?;
    drop(others);
    lab.primary.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'open'")?;
    lab.until_fresh().await
}

/// A client; killed when dropped.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn lag(lab: &mut Lab) -> Outcome {
    lab.replica.sql("SELECT pg_wal_replay_pause()")?;
    lab.primary.sql("CREATE TABLE t (n int)")?;
    lab.checks.until_behind(REPLICA, |lag| lag > Duration::from_millis(700) && lag < LIMIT).await?;
    lab.replica.sql("SELECT pg_wal_replay_resume()")?;
    lab.until_fresh().await?;
    // Without a way to its primary.
    let conninfo = lab.replica.sql("SHOW primary_conninfo")?;
    let set = |to: &str| ["ALTER SYSTEM SET primary_conninfo = '", to, "'"].concat();
    lab.replica.sql(&set(""))?;
    lab.replica.sql("SELECT pg_reload_conf()")?;
    lab.checks.until_unknown(REPLICA, "no WAL receiver is running").await?;
    lab.replica.sql(&set(&conninfo.replace('\'', "''")))?;
    lab.replica.sql("SELECT pg_reload_conf()")?;
    lab.until_fresh().await?;
    // Without the privilege to see it; the advice helps.
    lab.check_as("poor", |_| {});
    let why = lab.checks.until_unknown(REPLICA, "type on the primary").await?;
    let grant = why.split_once("primary: ").ok_or("no GRANT")?.1;
    lab.primary.sql(grant)?;
    lab.until_fresh().await?;
    lab.primary.sql("REVOKE pg_read_all_stats FROM poor")?;
    // A pool of primaries does not need it.
    lab.check_as("poor", |check| check.role = Role::Primary);
    assert_eq!(lab.checks.until_seen(REPLICA, |_| true).await?.lag, None);
    lab.check_as("vipd", |_| {});
    lab.until_fresh().await
}

async fn one_connection(lab: &mut Lab) -> Outcome {
    lab.checks.until_primary(PRIMARY).await?;
    // A login takes the place of what was kept, and that seldom.
    let logins = "SELECT sessions FROM pg_stat_database WHERE datname = 'postgres'";
    let before = lab.primary.sql(logins)?.parse::<u32>()?;
    lab.checks.only_answers(PRIMARY, 100).await?;
    let after = lab.primary.sql(logins)?.parse::<u32>()?;
    assert!(after - before < 10, "{before} sessions, and {after} after 100 answers");
    Ok(())
}

/// The new password counts from the next login on, without a failure.
async fn a_password_is_changed(lab: &mut Lab) -> Outcome {
    std::fs::write(lab.password.path(), "second\n")?;
    for role in ["vipd", "poor", "secure", "clear", "limited"] {
        lab.primary.sql(&format!("ALTER ROLE {role} PASSWORD 'second'"))?;
    }
    lab.primary.sql("SET password_encryption = 'md5'; ALTER ROLE old PASSWORD 'second'")?;
    lab.until_fresh().await?;
    let old = lab.session()?;
    lab.checks.flush();
    lab.primary
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vipd'")?;
    lab.checks.only_answers(PRIMARY, 5).await?;
    assert_ne!(lab.session()?, old);
    Ok(())
}

async fn logins(lab: &mut Lab) -> Outcome {
    lab.check_as("old", |_| {});
    lab.checks.until_primary(PRIMARY).await?;
    lab.check_as("open", |check| check.password_file = None);
    lab.checks.until_primary(PRIMARY).await?;
    lab.check_as("clear", |_| {});
    lab.checks.until_failed(PRIMARY, "it is only sent over TLS: set tls, or").await?;
    let tls = lab.tls(Some(CERTIFIED));
    lab.check_as("clear", |check| check.tls = tls);
    lab.checks.until_primary(PRIMARY).await?;
    Ok(())
}

async fn tls(lab: &mut Lab) -> Outcome {
    lab.check_as("secure", |_| {});
    let text = lab.checks.until_failed(PRIMARY, "pg_hba.conf").await?;
    assert!(text.contains("no encryption") && text.contains("add a line for that role"), "{text}");
    let tls = lab.tls(Some(CERTIFIED));
    lab.check_as("secure", |check| check.tls = tls);
    lab.checks.until_primary(PRIMARY).await?;
    assert_eq!(
        lab.primary.sql(
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'secure'"
        )?,
        "t"
    );
    // By its address it has no certificate, by the name it was found at it has.
    let tls = lab.tls(None);
    lab.check_as("secure", |check| check.tls = tls);
    lab.checks.until_failed(PRIMARY, "is for db1.internal, not for '127.0.0.1'").await?;
    let tls = lab.tls(None);
    lab.check_found("secure", Some(CERTIFIED), |check| check.tls = tls);
    lab.checks.until_primary(PRIMARY).await?;
    Ok(())
}

async fn refusals(lab: &mut Lab) -> Outcome {
    let no_database = |check: &mut PostgresCheck| check.database = "nowhere".into();
    let no_password = |check: &mut PostgresCheck| check.password_file = None;
    let port = lab.primary.port;
    let login = |user: &str, text: &str| format!("logging in to 127.0.0.1:{port} as '{user}': {text}");
    type Change = fn(&mut PostgresCheck);
    let cases: [(&str, Change, &str); 4] = [
        (
            "nobody",
            |_| {},
            "password authentication failed for user \"nobody\" (SQLSTATE 28P01); compare password-file",
        ),
        ("stranger", |_| {}, "no pg_hba.conf entry for host \"127.0.0.1\", user \"stranger\""),
        ("vipd", no_database, "database \"nowhere\" does not exist (SQLSTATE 3D000); set database to"),
        ("vipd", no_password, "the server wants a password: set password-file"),
    ];
    for (user, change, text) in cases {
        lab.check_as(user, change);
        let said = lab.checks.until_failed(PRIMARY, text).await?;
        assert!(said.starts_with(&login(user, text)) && !said.contains("second"), "{said}");
    }
    // It lives, and has no connection left for such as the check.
    lab.check_as("limited", |_| {});
    let text = "too many connections for role \"limited\" (SQLSTATE 53300); all connections";
    let said = lab.checks.until_full(PRIMARY, text).await?;
    assert!(said.starts_with(&login("limited", text)), "{said}");
    Ok(())
}

/// "Smart": those that are connected may stay, our check among them, and
/// nobody else gets in. The check's next login sees that.
async fn a_shutdown_that_waits_for_its_clients(lab: &mut Lab) -> Outcome {
    lab.check_as("vipd", |_| {});
    lab.checks.until_primary(PRIMARY).await?;
    let open = Client(
        program("psql")
            .args(["--username=open", "--dbname=postgres", "--host=127.0.0.1"])
            .arg(format!("--port={}", lab.primary.port))
            .args(["-c", "SELECT pg_sleep(600)"])
            .spawn()?,
    );
    let counted = |seen: &vipd_core::probe::Observation| seen.connections.is_some_and(|c| c.used >= 2);
    lab.checks.until_seen(PRIMARY, counted).await?;
    lab.primary.signal(Signal::SIGTERM)?;
    let mut shutting_down = false;
    let waited = async {
        while !shutting_down {
            let seen = lab.checks.until_seen(PRIMARY, |_| true).await?;
            shutting_down = seen.unready.as_deref() == Some("the database system is shutting down");
        }
        Outcome::Ok(())
    };
    tokio::time::timeout(LIMIT, waited).await??;
    drop(open);
    lab.primary.signal(Signal::SIGINT)?;
    lab.primary.process.wait()?;
    lab.checks.until_failed(PRIMARY, "connection refused").await?;
    lab.checks.until_unknown(REPLICA, "no WAL receiver is running").await?;
    lab.primary.restart()?;
    lab.checks.until_primary(PRIMARY).await?;
    lab.until_fresh().await
}

async fn a_promotion(lab: &mut Lab) -> Outcome {
    lab.primary.stop()?;
    lab.checks.until(PRIMARY, |probe| matches!(probe, Probe::Failed(_))).await?;
    lab.replica.sql("SELECT pg_promote()")?;
    let seen = lab.checks.until_primary(REPLICA).await?;
    assert_eq!(seen.lag, None);
    Ok(())
}
