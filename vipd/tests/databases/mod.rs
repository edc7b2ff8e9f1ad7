//! MariaDB servers in scratch directories on 127.0.0.1, and checks of them.
//!
//! They are killed when dropped, and when the test's thread ends otherwise.
#![allow(dead_code, reason = "every test file uses its part of it")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use std::ffi::OsStr;
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
use vipd_core::settings::{Check, CheckKind, Host, MysqlCheck, Pool, Server};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A database's start, or a reconnecting replica, on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Whether a test runs that needs these programs, or files by their paths.
/// Where `make test` has installed them, one that is missing is a failure.
pub(crate) fn is_possible(needs: &[&str], packages: &str) -> Outcome<bool> {
    let there = |need: &&str| match need.starts_with('/') {
        true => Path::new(need).exists(),
        false => Command::new(need).arg("--version").output().is_ok(),
    };
    let Some(missing) = needs.iter().find(|need| !there(need)) else { return Ok(true) };
    if std::env::var_os("LAB_NEEDS_ARE_MET").is_some() {
        return Err(format!("{missing} is missing (apt-get install {packages})").into());
    }
    #[allow(clippy::print_stderr)]
    {
        eprintln!("skipped: {missing} is missing (apt-get install {packages})");
    }
    Ok(false)
}

/// A port that nobody has at the moment.
pub(crate) fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Where a server lives, and what it is started with.
pub(crate) struct MariaDb {
    pub(crate) port: u16,
    pub(crate) id: u32,
    home: TempDir,
    options: Vec<String>,
    /// Where the server finds programs before it looks elsewhere.
    pub(crate) programs: Option<PathBuf>,
    process: Option<Child>,
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A command that runs as `mysql` when we are root (a joiner's rsync serves as
/// nobody else would read), and dies with us.
fn command(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if Uid::effective().is_root() {
        command.args(["--reuid", "mysql", "--regid", "mysql", "--clear-groups"]);
    }
    command.arg(program).arg("--no-defaults").stdin(Stdio::null());
    command
}

impl MariaDb {
    /// An empty home, for a server that is started later.
    pub(crate) fn homeless(id: u32) -> Outcome<Self> {
        let home = tempfile::tempdir()?;
        if Uid::effective().is_root() {
            let mysql = User::from_name("mysql")?.ok_or("mariadb-server has made no user mysql")?;
            std::os::unix::fs::chown(home.path(), Some(mysql.uid.as_raw()), Some(mysql.gid.as_raw()))?;
        }
        Ok(Self { port: free_port()?, id, home, options: Vec::new(), programs: None, process: None })
    }

    /// A copy of the home of a server that does not run.
    pub(crate) fn copy(of: &Self, id: u32) -> Outcome<Self> {
        let server = Self::homeless(id)?;
        let status =
            Command::new("cp").args(["-a", "--"]).arg(of.home().join(".")).arg(server.home()).status()?;
        match status.success() {
            true => Ok(server),
            false => Err("cp failed".into()),
        }
    }

    /// A home with a database, for a server that is started later.
    pub(crate) fn install(id: u32) -> Outcome<Self> {
        let server = Self::homeless(id)?;
        let output = command("mariadb-install-db")
            .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"])
            .args(["--innodb-log-file-size=8M"])
            .arg(option("datadir", server.home()))
            .output()?;
        match output.status.success() {
            true => Ok(server),
            false => Err(format!("mariadb-install-db: {}", String::from_utf8_lossy(&output.stdout)).into()),
        }
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn start(&mut self, options: Vec<String>) -> Outcome {
        self.launch(options)?;
        self.wait_until_ready()
    }

    /// Starts it as before.
    pub(crate) fn restart(&mut self) -> Outcome {
        self.start(self.options.clone())
    }

    /// Starts it.
    pub(crate) fn launch(&mut self, options: Vec<String>) -> Outcome {
        self.stop();
        self.options = options;
        let mut command = command("mariadbd");
        if let Some(programs) = &self.programs {
            let others = std::env::var("PATH")?;
            command.env("PATH", format!("{}:{others}", programs.display()));
        }
        let process = command
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args(["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M"])
            .args(["--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0"])
            .args([format!("--port={}", self.port), format!("--server-id={}", self.id)])
            .args([option("datadir", self.home()), option("socket", &self.socket())])
            .args([option("log-error", &self.log()), option("pid-file", &self.home().join("pid"))])
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.process = Some(process);
        Ok(())
    }

    pub(crate) fn wait_until_ready(&self) -> Outcome {
        let status = Command::new("mariadb-admin")
            .args(["--no-defaults", "--user=root", "--wait=60", "--silent", "ping"])
            .arg(option("socket", &self.socket()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("db{}: {}", self.id, std::fs::read_to_string(self.log())?).into()),
        }
    }

    /// Ends it as a crash would.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // A server that has already ended is what is wanted.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Ends it in good order.
    pub(crate) fn shut_down(&mut self) -> Outcome {
        self.signal(Signal::SIGTERM)?;
        self.process.take().ok_or("it does not run")?.wait()?;
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Outcome {
        let process = self.process.as_ref().ok_or("it does not run")?;
        Ok(kill(Pid::from_raw(i32::try_from(process.id())?), signal)?)
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    fn socket(&self) -> PathBuf {
        self.home().join("s")
    }

    fn log(&self) -> PathBuf {
        // With a name that has a dot: another one would get `.err` put after it.
        self.home().join("log.err")
    }

    /// Runs statements as root; gives back what they print.
    pub(crate) fn sql(&self, statements: &str) -> Outcome<String> {
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

    pub(crate) fn counter(&self, name: &str) -> Outcome<u64> {
        let row = self.sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'"))?;
        Ok(row.rsplit('\t').next().unwrap_or_default().parse()?)
    }
}

fn option(name: &str, path: &Path) -> impl AsRef<OsStr> {
    format!("--{name}={}", path.display())
}

/// Checks of servers, and their results.
pub(crate) struct Checks {
    resolver: Resolver,
    checker: Checker,
    pub(crate) reports: mpsc::Receiver<Report>,
}

impl Checks {
    pub(crate) fn start() -> Self {
        let (sender, reports) = mpsc::channel(16);
        let resolver = Resolver::start(Handle::current(), &[], mpsc::channel(1).0);
        let checker = Checker::start(Handle::current(), &[], &resolver, sender);
        Self { resolver, checker, reports }
    }

    /// From now on, these servers are checked in this way.
    pub(crate) fn apply(&mut self, servers: &[&MariaDb], check: MysqlCheck) {
        let host = Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let server = |db: &&MariaDb| Server::new(format!("db{}", db.id), host.clone(), db.port);
        let check = Check {
            interval: Duration::from_millis(100),
            rise: 1,
            fall: 1,
            ..Check::new(CheckKind::Mysql(check))
        };
        let servers = servers.iter().map(server).collect();
        let pool = Pool { check: Some(check), ..Pool::new("a", servers) };
        self.checker.update(&[pool], &self.resolver);
    }

    /// Waits for a result of a server that fits, and gives the ones before it too.
    pub(crate) async fn until(
        &mut self,
        server: usize,
        fits: impl Fn(&Probe) -> bool,
    ) -> Outcome<Vec<Probe>> {
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

    /// Waits for a server that is ready and has this role and lag.
    pub(crate) async fn until_is(
        &mut self,
        server: usize,
        role: ObservedRole,
        lag: Option<Lag>,
    ) -> Outcome<Vec<Probe>> {
        let fits = |probe: &Probe| match probe {
            Probe::Answered(seen) => {
                seen.role == Some(role)
                    && seen.lag == lag
                    && seen.unready.is_none()
                    && seen.connections.is_some()
            }
            Probe::Failed(_) | Probe::Unable(_) => false,
        };
        self.until(server, fits).await
    }

    /// Waits for a server that says this of itself.
    pub(crate) async fn until_unready(&mut self, server: usize, why: &str) -> Outcome<Vec<Probe>> {
        let fits = |probe: &Probe| matches!(probe, Probe::Answered(Observation { unready: Some(said), .. }) if said == why);
        self.until(server, fits).await
    }

    /// Waits for a lag that fits.
    pub(crate) async fn until_lag(
        &mut self,
        server: usize,
        fits: impl Fn(&Lag) -> bool,
    ) -> Outcome<Vec<Probe>> {
        let fits =
            |probe: &Probe| matches!(probe, Probe::Answered(Observation { lag: Some(lag), .. }) if fits(lag));
        self.until(server, fits).await
    }

    /// Waits for a probe that failed with these words, and gives all of them.
    pub(crate) async fn until_failed(&mut self, server: usize, text: &str) -> Outcome<String> {
        let failed = |probe: &Probe| matches!(probe, Probe::Failed(reason) if reason.contains(text));
        match self.until(server, failed).await?.pop() {
            Some(Probe::Failed(reason)) => Ok(reason),
            Some(Probe::Answered(_) | Probe::Unable(_)) | None => Err("no failure".into()),
        }
    }
}
