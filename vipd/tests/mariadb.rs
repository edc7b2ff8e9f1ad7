//! Checks against a real MariaDB, a primary and a replica of it.
//!
//! Needs Debian's `mariadb-server`; its servers run from scratch directories
//! on 127.0.0.1 and are killed at the end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use std::ffi::OsStr;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use vipd::check::{Checker, Report};
use vipd::resolve::Resolver;
use vipd_core::probe::{Lag, Observation, ObservedRole, Probe};
use vipd_core::settings::{Check, CheckKind, Host, MysqlCheck, Pool, Role, Server};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A database's start, or a reconnecting replica, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const PRIMARY: usize = 0;
const REPLICA: usize = 1;

/// A MariaDB server; killed when dropped.
struct MariaDb {
    home: TempDir,
    port: u16,
    id: u32,
    process: Child,
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        // A server that has already ended is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl MariaDb {
    fn new(id: u32) -> Outcome<Self> {
        let home = tempfile::tempdir()?;
        let output = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(option("datadir", home.path()))
            .args(Uid::effective().is_root().then_some("--user=root"))
            .output()?;
        if !output.status.success() {
            return Err(format!("mariadb-install-db: {}", String::from_utf8_lossy(&output.stdout)).into());
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let process = launch(home.path(), port, id)?;
        let server = Self { home, port, id, process };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("s")
    }

    fn wait_until_ready(&self) -> Outcome {
        let status = Command::new("mariadb-admin")
            .args(["--no-defaults", "--user=root", "--wait=60", "--silent", "ping"])
            .arg(option("socket", &self.socket()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        match status.success() {
            true => Ok(()),
            false => Err(std::fs::read_to_string(self.home.path().join("log"))?.into()),
        }
    }

    fn stop(&mut self) -> Outcome {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    fn start(&mut self) -> Outcome {
        self.process = launch(self.home.path(), self.port, self.id)?;
        self.wait_until_ready()
    }

    fn signal(&self, signal: Signal) -> Outcome {
        Ok(kill(Pid::from_raw(i32::try_from(self.process.id())?), signal)?)
    }

    /// Runs statements as root; gives back what they print.
    fn sql(&self, statements: &str) -> Outcome<String> {
        let output = Command::new("mariadb")
            .args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"])
            .arg(option("socket", &self.socket()))
            .args(["--execute", statements])
            .output()?;
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout)?.trim().to_owned()),
            false => Err(format!("{statements}: {}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }

    fn counter(&self, name: &str) -> Outcome<u64> {
        let row = self.sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'"))?;
        Ok(row.rsplit('\t').next().unwrap_or_default().parse()?)
    }
}

fn option(name: &str, path: &Path) -> impl AsRef<OsStr> {
    format!("--{name}={}", path.display())
}

fn launch(home: &Path, port: u16, id: u32) -> std::io::Result<Child> {
    Command::new("mariadbd")
        .args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", "--log-bin=b"])
        .args(["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M", "--slave-net-timeout=4"])
        .args([format!("--port={port}"), format!("--server-id={id}")])
        .args([option("datadir", home), option("socket", &home.join("s"))])
        .args([option("log-error", &home.join("log")), option("pid-file", &home.join("pid"))])
        .args(Uid::effective().is_root().then_some("--user=root"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// A primary with a replica, and checks of both.
struct Lab {
    primary: MariaDb,
    replica: MariaDb,
    password: tempfile::NamedTempFile,
    resolver: Resolver,
    checker: Checker,
    reports: mpsc::Receiver<Report>,
}

impl Lab {
    fn start() -> Outcome<Self> {
        let (primary, replica) = (MariaDb::new(1)?, MariaDb::new(2)?);
        let accounts = "CREATE USER vipd@'127.%' IDENTIFIED BY 'first';
            GRANT REPLICA MONITOR ON *.* TO vipd@'127.%';
            CREATE USER poor@'%' IDENTIFIED BY 'first';
            CREATE USER copy@'127.%' IDENTIFIED BY 'copy';
            GRANT REPLICATION SLAVE ON *.* TO copy@'127.%'";
        primary.sql(&format!("RESET MASTER; {accounts}"))?;
        let port = primary.port;
        replica.sql(&format!(
            "RESET MASTER; CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='copy',
                MASTER_PASSWORD='copy', MASTER_CONNECT_RETRY=1, MASTER_USE_GTID=slave_pos;
            SET GLOBAL read_only = 1; START SLAVE"
        ))?;
        let mut password = tempfile::NamedTempFile::new()?;
        password.write_all(b"first\n")?;
        let (sender, reports) = mpsc::channel(16);
        let resolver = Resolver::start(Handle::current(), &[], mpsc::channel(1).0);
        let checker = Checker::start(Handle::current(), &[], &resolver, sender);
        let mut lab = Self { primary, replica, password, resolver, checker, reports };
        lab.check_as("vipd");
        Ok(lab)
    }

    fn check_as(&mut self, user: &str) {
        let host = Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let server = |db: &MariaDb| Server::new(format!("db{}", db.id), host.clone(), db.port);
        let check = MysqlCheck {
            password_file: Some(self.password.path().to_owned()),
            role: Role::Any,
            max_lag: Some(Duration::from_secs(10)),
            ..MysqlCheck::new(user)
        };
        let check = Check {
            interval: Duration::from_millis(100),
            rise: 1,
            fall: 1,
            ..Check::new(CheckKind::Mysql(check))
        };
        let servers = vec![server(&self.primary), server(&self.replica)];
        let pool = Pool { check: Some(check), ..Pool::new("a", servers) };
        self.checker.update(&[pool], &self.resolver);
    }

    /// Waits for a result of a server that fits, and gives the ones before it too.
    async fn until(&mut self, server: usize, fits: impl Fn(&Probe) -> bool) -> Outcome<Vec<Probe>> {
        let mut seen = Vec::new();
        let search = async {
            while let Some(report) = self.reports.recv().await {
                if report.server == server && report.generation == self.checker.generation() {
                    seen.push(report.probe);
                    if seen.last().is_some_and(&fits) {
                        return true;
                    }
                }
            }
            false
        };
        let found = tokio::time::timeout(LIMIT, search).await;
        match found {
            Ok(true) => Ok(seen),
            Ok(false) | Err(_) => Err(format!("not seen; the last was {:?}", seen.last()).into()),
        }
    }

    async fn until_is(&mut self, server: usize, role: ObservedRole, lag: Option<Lag>) -> Outcome<Vec<Probe>> {
        let expected = Probe::Answered(Observation { role: Some(role), lag, ..Observation::default() });
        self.until(server, |probe| *probe == expected).await
    }

    async fn until_fresh(&mut self) -> Outcome<Vec<Probe>> {
        self.until_is(REPLICA, ObservedRole::Replica, Some(Lag::Known(Duration::ZERO))).await
    }

    async fn until_unknown(&mut self, text: &str) -> Outcome<Vec<Probe>> {
        let unknown = Some(Lag::Unknown(text.to_owned()));
        self.until_is(REPLICA, ObservedRole::Replica, unknown).await
    }

    async fn until_failed(&mut self, server: usize, text: &str) -> Outcome<String> {
        let failed = |probe: &Probe| matches!(probe, Probe::Failed(reason) if reason.contains(text));
        match self.until(server, failed).await?.pop() {
            Some(Probe::Failed(reason)) => Ok(reason),
            Some(Probe::Answered(_) | Probe::Unable(_)) | None => Err("no failure".into()),
        }
    }
}

#[tokio::test]
async fn a_primary_and_its_replica() -> Outcome {
    if Command::new("mariadbd").arg("--version").output().is_err() {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("skipped: mariadbd not installed (apt-get install mariadb-server)");
        }
        return Ok(());
    }
    let mut lab = Lab::start()?;
    roles(&mut lab).await?;
    lag(&mut lab).await?;
    one_connection(&mut lab).await?;
    a_password_is_changed(&mut lab).await?;
    a_frozen_server(&mut lab).await?;
    refusals(&mut lab).await?;
    a_primary_restarts(&mut lab).await
}

async fn roles(lab: &mut Lab) -> Outcome {
    lab.until_is(PRIMARY, ObservedRole::Primary, None).await?;
    lab.until_fresh().await?;
    lab.primary.sql("SET GLOBAL read_only = 1")?;
    let orphan = Lag::Unknown("read-only, but no replication is configured".to_owned());
    lab.until_is(PRIMARY, ObservedRole::Replica, Some(orphan)).await?;
    lab.primary.sql("SET GLOBAL read_only = 0")?;
    lab.until_is(PRIMARY, ObservedRole::Primary, None).await?;
    Ok(())
}

async fn lag(lab: &mut Lab) -> Outcome {
    lab.replica.sql("STOP SLAVE SQL_THREAD")?;
    lab.until_unknown("replication SQL thread No").await?;
    lab.replica.sql("START SLAVE SQL_THREAD; STOP SLAVE IO_THREAD")?;
    lab.until_unknown("replication IO thread No").await?;
    lab.replica.sql("START SLAVE")?;
    lab.until_fresh().await?;
    // A named channel, which the plain form of the question leaves out.
    lab.replica.sql("CHANGE MASTER 'second' TO MASTER_HOST='127.0.0.1', MASTER_USER='copy'")?;
    lab.until_unknown("channel 'second': replication IO thread No").await?;
    lab.replica.sql("RESET SLAVE 'second' ALL")?;
    lab.until_fresh().await?;
    // A replica that is told to wait falls behind.
    lab.replica.sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 600; START SLAVE")?;
    lab.primary.sql("CREATE DATABASE d")?;
    let behind = |probe: &Probe| {
        matches!(probe, Probe::Answered(Observation { lag: Some(Lag::Known(lag)), .. })
            if (1..LIMIT.as_secs()).contains(&lag.as_secs()))
    };
    lab.until(REPLICA, behind).await?;
    lab.replica.sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 0; START SLAVE")?;
    lab.until_fresh().await?;
    Ok(())
}

/// Many probes, one login, and nothing that the server counts against us.
async fn one_connection(lab: &mut Lab) -> Outcome {
    lab.until_fresh().await?;
    let logins = "SELECT COUNT(*), MAX(ID) FROM information_schema.PROCESSLIST WHERE USER = 'vipd'";
    let before = lab.primary.sql(logins)?;
    assert!(before.starts_with("1\t"), "{before}");
    for _ in 0..20 {
        lab.until_is(PRIMARY, ObservedRole::Primary, None).await?;
    }
    assert_eq!(lab.primary.sql(logins)?, before);
    assert_eq!(lab.primary.counter("Aborted_connects")?, 0);
    Ok(())
}

/// The new password counts from the next login on, without a failure.
async fn a_password_is_changed(lab: &mut Lab) -> Outcome {
    std::fs::write(lab.password.path(), "second\n")?;
    lab.primary.sql(
        "SET PASSWORD FOR vipd@'127.%' = PASSWORD('second');
        SET PASSWORD FOR poor@'%' = PASSWORD('second')",
    )?;
    lab.until_fresh().await?;
    let ids = "SELECT MAX(ID) FROM information_schema.PROCESSLIST WHERE USER = 'vipd'";
    let old = lab.primary.sql(ids)?;
    while lab.reports.try_recv().is_ok() {}
    lab.primary.sql(&format!("KILL {old}"))?;
    for _ in 0..5 {
        let seen = lab.until_is(PRIMARY, ObservedRole::Primary, None).await?;
        assert_eq!(seen.len(), 1, "a kept connection that was killed is no failure: {seen:?}");
    }
    assert_ne!(lab.primary.sql(ids)?, old);
    Ok(())
}

/// While a server is frozen one login waits for it; when it wakes, it has
/// nothing to count.
async fn a_frozen_server(lab: &mut Lab) -> Outcome {
    lab.primary.signal(Signal::SIGSTOP)?;
    let frozen = lab.until_failed(PRIMARY, "waiting for the greeting").await;
    let still_frozen = lab.until_failed(PRIMARY, "waiting for the greeting").await;
    lab.primary.signal(Signal::SIGCONT)?;
    assert!(frozen?.starts_with("timed out after 1s while"));
    still_frozen?;
    lab.until_is(PRIMARY, ObservedRole::Primary, None).await?;
    assert_eq!(lab.primary.counter("Aborted_connects")?, 0);
    Ok(())
}

async fn refusals(lab: &mut Lab) -> Outcome {
    lab.check_as("poor");
    let text = lab.until_failed(REPLICA, "may not ask").await?;
    let grant = text.split_once("type there: ").map(|(_, grant)| grant).ok_or("no GRANT")?;
    assert_eq!(grant, "GRANT REPLICA MONITOR ON *.* TO 'poor'@'%';");
    lab.primary.sql(grant)?;
    lab.until_fresh().await?;

    lab.check_as("nobody");
    let text = lab.until_failed(PRIMARY, "denied").await?;
    let port = lab.primary.port;
    assert!(text.starts_with(&format!("access denied for user 'nobody' at 127.0.0.1:{port}: ")), "{text}");
    assert!(!text.contains("second"), "{text}");

    lab.primary.sql(
        "SET sql_log_bin = 0; INSTALL SONAME 'auth_ed25519'; CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('x')",
    )?;
    lab.check_as("ed");
    lab.until_failed(PRIMARY, "authentication plugin 'client_ed25519'").await?;
    lab.check_as("vipd");
    lab.until_fresh().await?;
    Ok(())
}

async fn a_primary_restarts(lab: &mut Lab) -> Outcome {
    lab.primary.stop()?;
    lab.until_failed(PRIMARY, "connection refused").await?;
    let connecting = |probe: &Probe| {
        matches!(probe, Probe::Answered(Observation { lag: Some(Lag::Unknown(reason)), .. })
            if reason.starts_with("replication IO thread Connecting: "))
    };
    lab.until(REPLICA, connecting).await?;
    lab.primary.start()?;
    lab.until_is(PRIMARY, ObservedRole::Primary, None).await?;
    lab.until_fresh().await?;
    Ok(())
}
