//! Checks against a real Redis, a primary and a replica of it.
//!
//! Needs Debian's `redis-server`; its servers run from scratch directories on
//! 127.0.0.1 and are killed at the end.

mod databases;

use databases::{
    Checks, LIMIT, Outcome, PRIMARY, REPLICA, certificates, command_as, free_port, hand_over, is_possible,
    until_ready,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use vipd_core::settings::{CheckKind, RedisCheck, Role, Tls};

const PROGRAM: &str = "redis-server";
const USER: &str = "redis";
const CERTIFIED: &str = "db1.internal";

/// A Redis server; killed when dropped.
struct Redis {
    home: TempDir,
    port: u16,
    tls_port: u16,
    process: Child,
}

impl Drop for Redis {
    fn drop(&mut self) {
        // A server that has already ended is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Redis {
    fn new(password: &str) -> Outcome<Self> {
        let home = tempfile::tempdir()?;
        certificates(home.path(), &[CERTIFIED])?;
        hand_over(home.path(), USER)?;
        hand_over(&home.path().join("key.pem"), USER)?;
        let (port, tls_port) = (free_port()?, free_port()?);
        let process = launch(home.path(), port, tls_port, password)?;
        Ok(Self { home, port, tls_port, process })
    }

    fn stop(&mut self) -> Outcome {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    fn restart(&mut self, password: &str) -> Outcome {
        self.process = launch(self.home.path(), self.port, self.tls_port, password)?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Outcome {
        Ok(kill(Pid::from_raw(i32::try_from(self.process.id())?), signal)?)
    }

    fn admin(&self, password: &str) -> Outcome<Admin> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut admin = Admin(BufReader::new(stream));
        admin.tell(&format!("AUTH {password}"))?;
        Ok(admin)
    }
}

fn launch(home: &Path, port: u16, tls_port: u16, password: &str) -> Outcome<Child> {
    let mut process = command_as(USER, Path::new(PROGRAM))
        .args(["--bind", "127.0.0.1", "--daemonize", "no", "--save", "", "--repl-ping-replica-period", "1"])
        .args(["--port", &port.to_string(), "--tls-port", &tls_port.to_string()])
        .args(["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-ca-cert-file", "ca.pem"])
        .args(["--tls-auth-clients", "no", "--repl-diskless-sync-delay", "0"])
        .args(["--requirepass", password, "--masterauth", password])
        .current_dir(home)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let log = process.stdout.take().ok_or("no log")?;
    until_ready(&mut process, log, "Ready to accept connections")?;
    Ok(process)
}

/// An administrator's connection.
struct Admin(BufReader<TcpStream>);

impl Admin {
    /// Gives a command that is answered with a line or with a text.
    fn ask(&mut self, command: &str) -> Outcome<String> {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let Some(length) = line.trim_end().strip_prefix('$') else { return Ok(line.trim_end().to_owned()) };
        let mut text = vec![0; length.parse::<usize>()? + 2];
        self.0.read_exact(&mut text)?;
        Ok(String::from_utf8(text)?.trim_end().to_owned())
    }

    /// Gives a command that must succeed.
    fn tell(&mut self, command: &str) -> Outcome {
        let answer = self.ask(command)?;
        if answer.starts_with(['+', ':']) { Ok(()) } else { Err(format!("{command}: {answer}").into()) }
    }

    /// The numbers of the connections of checks.
    fn checks(&mut self) -> Outcome<Vec<String>> {
        let clients = self.ask("CLIENT LIST TYPE normal")?;
        let ours = clients.lines().filter(|line| line.contains(" cmd=ping "));
        Ok(ours.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
    }
}

/// A primary with a replica, and checks of both.
struct Lab {
    primary: Redis,
    replica: Redis,
    password: tempfile::NamedTempFile,
    checks: Checks,
}

impl Lab {
    fn start() -> Outcome<Self> {
        let (primary, replica) = (Redis::new("first")?, Redis::new("first")?);
        replica.admin("first")?.tell(&format!("REPLICAOF 127.0.0.1 {}", primary.port))?;
        let password = tempfile::NamedTempFile::new()?;
        std::fs::write(password.path(), "first\n")?;
        let mut lab = Self { primary, replica, password, checks: Checks::start() };
        lab.check_with(|_| {});
        Ok(lab)
    }

    fn check_with(&mut self, change: impl FnOnce(&mut RedisCheck)) {
        let check = self.check_of(change);
        self.checks.check(check, &[self.primary.port, self.replica.port], None);
    }

    fn check_of(&self, change: impl FnOnce(&mut RedisCheck)) -> CheckKind {
        let mut check = RedisCheck {
            user: None,
            password_file: Some(self.password.path().to_owned()),
            tls: None,
            role: Role::Any,
            max_lag: Some(Duration::from_secs(10)),
        };
        change(&mut check);
        CheckKind::Redis(check)
    }

    async fn until_fresh(&mut self) -> Outcome {
        self.checks.until_behind(REPLICA, |lag| lag < Duration::from_secs(10)).await
    }
}

#[tokio::test]
async fn a_primary_and_its_replica() -> Outcome {
    if !is_possible(&[PROGRAM], PROGRAM)? {
        return Ok(());
    }
    let mut lab = Lab::start()?;
    roles(&mut lab).await?;
    one_connection(&mut lab).await?;
    a_password_is_changed(&mut lab).await?;
    refusals(&mut lab).await?;
    tls(&mut lab).await?;
    a_frozen_server(&mut lab).await?;
    a_primary_that_is_gone(&mut lab).await?;
    a_promotion(&mut lab).await
}

async fn roles(lab: &mut Lab) -> Outcome {
    let seen = lab.checks.until_primary(PRIMARY).await?;
    assert_eq!(seen.lag, None);
    lab.until_fresh().await?;
    let mut admin = lab.primary.admin("first")?;
    admin.tell("CONFIG SET maxclients 50")?;
    let others: Vec<_> = (0..5).map(|_| lab.primary.admin("first")).collect::<Outcome<_>>()?;
    // Five, the administrator, the check and the replica.
    let eight =
        |seen: &vipd_core::probe::Observation| seen.connections.is_some_and(|c| (c.used, c.max) == (8, 50));
    lab.checks.until_seen(PRIMARY, eight).await?;
    drop(others);
    Ok(())
}

async fn one_connection(lab: &mut Lab) -> Outcome {
    lab.checks.until_primary(PRIMARY).await?;
    let mut admin = lab.primary.admin("first")?;
    lab.checks.only_answers(PRIMARY, 20).await?;
    // One that was logged in anew may meet the one before it.
    let before = admin.checks()?;
    assert!((1..=2).contains(&before.len()), "{before:?}");
    admin.tell("CLIENT KILL TYPE normal SKIPME yes")?;
    lab.checks.only_answers(PRIMARY, 5).await?;
    assert_ne!(admin.checks()?, before);
    Ok(())
}

/// The new password counts from the next login on, without a failure.
async fn a_password_is_changed(lab: &mut Lab) -> Outcome {
    std::fs::write(lab.password.path(), "second\n")?;
    for server in [&lab.primary, &lab.replica] {
        let mut admin = server.admin("first")?;
        for command in [
            "CONFIG SET masterauth second",
            "CONFIG SET requirepass second",
            "CLIENT KILL TYPE normal SKIPME yes",
        ] {
            admin.tell(command)?;
        }
    }
    lab.checks.only_answers(PRIMARY, 5).await?;
    lab.until_fresh().await
}

async fn refusals(lab: &mut Lab) -> Outcome {
    let port = lab.primary.port;
    let mut admin = lab.primary.admin("second")?;
    admin.tell("ACL SETUSER poor on >second")?;
    lab.check_with(|check| check.password_file = None);
    let text = lab.checks.until_failed(PRIMARY, "NOAUTH").await?;
    assert!(text.starts_with(&format!("asking 127.0.0.1:{port} for its role: NOAUTH")), "{text}");
    assert!(text.ends_with("; set password-file, and user if it is not the default one"), "{text}");
    lab.check_with(|check| check.user = Some("nobody".to_owned()));
    let text = lab.checks.until_failed(PRIMARY, "WRONGPASS").await?;
    assert!(text.starts_with(&format!("logging in to 127.0.0.1:{port} as 'nobody': WRONGPASS")), "{text}");
    assert!(text.contains("compare user and password-file") && !text.contains("second"), "{text}");
    // The advice helps.
    lab.check_with(|check| check.user = Some("poor".to_owned()));
    let text = lab.checks.until_failed(PRIMARY, "NOPERM").await?;
    admin.tell(text.split_once("type there: ").ok_or("no advice")?.1)?;
    lab.checks.until_primary(PRIMARY).await?;
    // Who may not ping is told enough all the same.
    admin.tell("ACL SETUSER poor -ping")?;
    lab.checks.only_answers(PRIMARY, 3).await?;
    lab.check_with(|_| {});
    lab.checks.until_primary(PRIMARY).await?;
    // Two are there, the administrator and the replica, and the check's goes.
    admin.tell("CONFIG SET maxclients 2")?;
    admin.tell("CLIENT KILL TYPE normal SKIPME yes")?;
    lab.checks.until_full(PRIMARY, "max number of clients reached; all of its maxclients are in use").await?;
    admin.tell("CONFIG SET maxclients 50")?;
    lab.checks.until_primary(PRIMARY).await?;
    Ok(())
}

async fn tls(lab: &mut Lab) -> Outcome {
    let trusting = |name: Option<&str>| {
        let ca_file = lab.primary.home.path().join("ca.pem");
        Some(Tls { verify: true, ca_file: Some(ca_file), server_name: name.map(str::to_owned) })
    };
    let port = lab.primary.tls_port;
    let [named, unnamed] = [trusting(Some(CERTIFIED)), trusting(None)];
    let check = lab.check_of(|check| check.tls = named);
    lab.checks.check(check, &[port], None);
    lab.checks.until_primary(PRIMARY).await?;
    let check = lab.check_of(|check| check.tls = unnamed);
    lab.checks.check(check.clone(), &[port], None);
    lab.checks.until_failed(PRIMARY, "is for db1.internal, not for '127.0.0.1'").await?;
    lab.checks.check(check, &[port], Some(CERTIFIED));
    lab.checks.until_primary(PRIMARY).await?;
    lab.check_with(|_| {});
    lab.until_fresh().await
}

async fn a_frozen_server(lab: &mut Lab) -> Outcome {
    lab.primary.signal(Signal::SIGSTOP)?;
    let frozen = lab.checks.until_failed(PRIMARY, "timed out after 1s while asking").await;
    lab.primary.signal(Signal::SIGCONT)?;
    frozen?;
    lab.checks.until_primary(PRIMARY).await?;
    Ok(())
}

async fn a_primary_that_is_gone(lab: &mut Lab) -> Outcome {
    lab.primary.stop()?;
    lab.checks.until_failed(PRIMARY, "connection refused").await?;
    let gone = format!("its link to its primary 127.0.0.1:{} is down for", lab.primary.port);
    lab.checks.until_unknown(REPLICA, &gone).await?;
    let mut admin = lab.replica.admin("second")?;
    admin.tell("CONFIG SET replica-serve-stale-data no")?;
    let refuses =
        |says: &str| says.starts_with("its link to its primary is down, and it refuses commands then");
    lab.checks.until_seen(REPLICA, |seen| seen.unready.as_deref().is_some_and(refuses)).await?;
    admin.tell("CONFIG SET replica-serve-stale-data yes")?;
    lab.checks.until_unknown(REPLICA, &gone).await?;
    lab.primary.restart("second")?;
    lab.checks.until_primary(PRIMARY).await?;
    lab.until_fresh().await
}

async fn a_promotion(lab: &mut Lab) -> Outcome {
    lab.replica.admin("second")?.tell("REPLICAOF NO ONE")?;
    let seen = lab.checks.until_primary(REPLICA).await?;
    assert_eq!(seen.lag, None);
    Ok(())
}
