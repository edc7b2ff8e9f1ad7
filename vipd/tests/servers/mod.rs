//! What tests of checks against real databases share.

#![allow(dead_code, reason = "each test program uses some of it")]

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use vipd::check::{Checker, Report};
use vipd::resolve::Resolver;
use vipd_core::probe::{Lag, Observation, ObservedRole, Probe};
use vipd_core::settings::{Check, CheckKind, Host, Pool, Server};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A database's start, or a reconnecting replica, on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const PRIMARY: usize = 0;
pub(crate) const REPLICA: usize = 1;

/// Whether a test can run: its program is there. Where it must be, its lack is an error.
pub(crate) fn present(program: &Path, package: &str) -> Outcome<bool> {
    if Command::new(program).arg("--version").output().is_ok() {
        return Ok(true);
    }
    let text = format!("{} is not installed (apt-get install {package})", program.display());
    if std::env::var_os("LAB_NEEDS_ARE_MET").is_some() {
        return Err(text.into());
    }
    #[allow(clippy::print_stderr)]
    {
        eprintln!("skipped: {text}");
    }
    Ok(false)
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
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

/// Checks of servers on 127.0.0.1.
pub(crate) struct Watch {
    resolver: Resolver,
    checker: Checker,
    reports: mpsc::Receiver<Report>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        let (sender, reports) = mpsc::channel(16);
        let resolver = Resolver::start(Handle::current(), &[], mpsc::channel(1).0);
        let checker = Checker::start(Handle::current(), &[], &resolver, sender);
        Self { resolver, checker, reports }
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

    /// Waits for an answer that fits.
    pub(crate) async fn until_seen(
        &mut self,
        server: usize,
        fits: impl Fn(&Observation) -> bool,
    ) -> Outcome<Observation> {
        let fit = |probe: &Probe| matches!(probe, Probe::Answered(seen) if fits(seen));
        match self.until(server, fit).await?.pop() {
            Some(Probe::Answered(seen)) => Ok(seen),
            Some(Probe::Failed(_) | Probe::Unable(_)) | None => Err("no answer".into()),
        }
    }

    pub(crate) async fn until_primary(&mut self, server: usize) -> Outcome<Observation> {
        let primary = |seen: &Observation| seen.role == Some(ObservedRole::Primary) && seen.unready.is_none();
        self.until_seen(server, primary).await
    }

    /// Waits until a replica lags by so much at most, or at least.
    pub(crate) async fn until_lag(&mut self, server: usize, fits: impl Fn(Duration) -> bool) -> Outcome {
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

    /// Waits for a failure with a text in it; gives the whole.
    pub(crate) async fn until_failed(&mut self, server: usize, text: &str) -> Outcome<String> {
        let failed = |probe: &Probe| matches!(probe, Probe::Failed(reason) if reason.contains(text));
        match self.until(server, failed).await?.pop() {
            Some(Probe::Failed(reason)) => Ok(reason),
            Some(Probe::Answered(_) | Probe::Unable(_)) | None => Err("no failure".into()),
        }
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
