//! What tests of checks against real databases share.
#![allow(dead_code, unused_imports, reason = "every test file uses its part of it")]

mod mariadb;

pub(crate) use mariadb::MariaDb;

use nix::unistd::{Uid, User};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use vipd::check::{Checker, Report};
use vipd::resolve::Resolver;
use vipd_core::probe::{Lag, Observation, ObservedRole, Probe};
use vipd_core::settings::{Check, CheckKind, Host, MysqlCheck, Own, Pool, Server};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A database's start, or a reconnecting replica, on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Numbers of servers.
pub(crate) const PRIMARY: usize = 0;
pub(crate) const REPLICA: usize = 1;

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

/// A command that runs as `user` when we are root, and dies with us.
pub(crate) fn command_as(user: &str, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if Uid::effective().is_root() {
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
    }
    command.arg("--").arg(program).stdin(Stdio::null());
    command
}

/// Gives a file or directory to `user` when we are root, and to nobody else.
pub(crate) fn hand_over(path: &Path, user: &str) -> Outcome {
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    if Uid::effective().is_root() {
        let account = User::from_name(user)?.ok_or_else(|| format!("no user {user}"))?;
        chown(path, Some(account.uid.as_raw()), Some(account.gid.as_raw()))?;
    }
    Ok(())
}

/// Waits until a server writes `ready`, and reads on for as long as it writes.
pub(crate) fn until_ready(
    child: &mut Child,
    log: impl Read + Send + 'static,
    ready: &'static str,
) -> Outcome {
    let (sender, lines) = std_mpsc::channel();
    // Ends with the server.
    drop(std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            // Only the first lines are waited for.
            let _ = sender.send(line);
        }
    }));
    let mut written = String::new();
    while let Ok(line) = lines.recv_timeout(LIMIT) {
        if line.contains(ready) {
            return Ok(());
        }
        written += &line;
        written += "\n";
    }
    let _ = child.kill();
    Err(format!("the server is not ready:\n{written}").into())
}

/// Writes `ca.pem`, and `cert.pem` with `key.pem` for a server of these names.
pub(crate) fn certificates(directory: &Path, names: &[&str]) -> Outcome {
    let mut params = CertificateParams::new(vec![])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    std::fs::write(directory.join("ca.pem"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    let params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())?;
    let key = KeyPair::generate()?;
    std::fs::write(directory.join("cert.pem"), params.signed_by(&key, &issuer)?.pem())?;
    std::fs::write(directory.join("key.pem"), key.serialize_pem())?;
    Ok(())
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
        let resolver = Resolver::start(Handle::current(), &[], Own::default(), mpsc::channel(1).0);
        let checker = Checker::start(Handle::current(), &[], &resolver, sender);
        Self { resolver, checker, reports }
    }

    /// From now on, these servers are checked in this way.
    pub(crate) fn apply(&mut self, servers: &[&MariaDb], check: MysqlCheck) {
        let ports: Vec<u16> = servers.iter().map(|db| db.port).collect();
        self.check(CheckKind::Mysql(check), &ports, None);
    }

    /// Checks what listens at `ports` from now on; positions are the servers' numbers.
    pub(crate) fn check(&mut self, kind: CheckKind, ports: &[u16], found_at: Option<&str>) {
        let server = |port: &u16| Server {
            found_at: found_at.map(str::to_owned),
            ..Server::new(format!("db{port}"), Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)), *port)
        };
        let check = Check { interval: Duration::from_millis(100), rise: 1, fall: 1, ..Check::new(kind) };
        let pool = Pool { check: Some(check), ..Pool::new("a", ports.iter().map(server).collect()) };
        self.checker.update(&[pool], &self.resolver);
    }

    pub(crate) fn hurry(&self, port: u16) {
        self.checker.hurry("a", &format!("db{port}"));
    }

    /// Forgets what was reported until now.
    pub(crate) fn flush(&mut self) {
        while self.reports.try_recv().is_ok() {}
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
            Probe::Failed(_) | Probe::Full(_) | Probe::Unable(_) => false,
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
            Some(Probe::Answered(_) | Probe::Full(_) | Probe::Unable(_)) | None => Err("no failure".into()),
        }
    }

    /// Waits until a server has no connection left, with this text.
    pub(crate) async fn until_full(&mut self, server: usize, text: &str) -> Outcome<String> {
        let full = |probe: &Probe| matches!(probe, Probe::Full(reason) if reason.contains(text));
        match self.until(server, full).await?.pop() {
            Some(Probe::Full(reason)) => Ok(reason),
            Some(Probe::Answered(_) | Probe::Failed(_) | Probe::Unable(_)) | None => Err("not full".into()),
        }
    }

    /// Waits for an answer that fits.
    pub(crate) async fn until_seen(
        &mut self,
        server: usize,
        fits: impl Fn(&Observation) -> bool,
    ) -> Outcome<Observation> {
        let fit = |probe: &Probe| matches!(probe, Probe::Answered(seen) if fits(seen));
        match self.until(server, fit).await?.pop() {
            Some(Probe::Answered(seen)) => Ok(seen),
            Some(Probe::Failed(_) | Probe::Full(_) | Probe::Unable(_)) | None => Err("no answer".into()),
        }
    }

    pub(crate) async fn until_primary(&mut self, server: usize) -> Outcome<Observation> {
        let primary = |seen: &Observation| seen.role == Some(ObservedRole::Primary) && seen.unready.is_none();
        self.until_seen(server, primary).await
    }

    /// Waits until a replica lags by so much at most, or at least.
    pub(crate) async fn until_behind(&mut self, server: usize, fits: impl Fn(Duration) -> bool) -> Outcome {
        let known = |seen: &Observation| match (&seen.role, &seen.lag) {
            (Some(ObservedRole::Replica), Some(Lag::Known(lag))) => fits(*lag) && seen.unready.is_none(),
            (Some(ObservedRole::Replica), Some(Lag::Unknown(_)) | None)
            | (Some(ObservedRole::Primary) | None, _) => false,
        };
        self.until_seen(server, known).await.map(drop)
    }

    /// Waits until a replica's lag is unknown for a reason; gives the reason.
    pub(crate) async fn until_unknown(&mut self, server: usize, text: &str) -> Outcome<String> {
        let why = |seen: &Observation| match &seen.lag {
            Some(Lag::Unknown(why)) if why.contains(text) => Some(why.clone()),
            Some(Lag::Unknown(_) | Lag::Known(_)) | None => None,
        };
        let seen = self.until_seen(server, |seen| why(seen).is_some()).await?;
        Ok(why(&seen).unwrap_or_default())
    }

    /// So many answers, and nothing else.
    pub(crate) async fn only_answers(&mut self, server: usize, number: usize) -> Outcome {
        self.flush();
        for _ in 0..number {
            let seen = self.until(server, |probe| matches!(probe, Probe::Answered(_))).await?;
            assert_eq!(seen.len(), 1, "{seen:?}");
        }
        Ok(())
    }
}
