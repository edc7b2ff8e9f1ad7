//! Checks against a real MariaDB, a primary and two replicas of it.
//!
//! Needs Debian's `mariadb-server`.

mod databases;

use databases::{Checks, LIMIT, MariaDb, Outcome, is_possible};
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::io::Write;
use std::time::Duration;
use vipd_core::probe::{Connections, Lag, Observation, ObservedRole, Probe};
use vipd_core::settings::{Galera, Heartbeat, MysqlCheck, Role, Tls};

const PRIMARY: usize = 0;
const REPLICA: usize = 1;
const SECOND: usize = 2;

/// The name in the primary's certificate.
const NAME: &str = "db1.internal";

/// A primary with two replicas, and checks of all three.
struct Lab {
    primary: MariaDb,
    replica: MariaDb,
    second: MariaDb,
    password: tempfile::NamedTempFile,
    certificates: tempfile::TempDir,
    checks: Checks,
}

impl Lab {
    fn start() -> Outcome<Self> {
        let (mut primary, mut replica, mut second) =
            (MariaDb::install(1)?, MariaDb::install(2)?, MariaDb::install(3)?);
        let certificates = certificates()?;
        let file = |name: &str| certificates.path().join(name).display().to_string();
        let logs = ["--log-bin=b", "--log-slave-updates", "--slave-net-timeout=4"].map(str::to_owned);
        let tls = [format!("--ssl-cert={}", file("cert.pem")), format!("--ssl-key={}", file("key.pem"))];
        primary.launch(logs.iter().chain(&tls).cloned().collect())?;
        replica.launch(logs.to_vec())?;
        second.launch(logs.to_vec())?;
        for server in [&primary, &replica, &second] {
            server.wait_until_ready()?;
            server.sql("RESET MASTER")?;
        }
        primary.sql(
            "CREATE USER vipd@'127.%' IDENTIFIED BY 'first';
            GRANT REPLICA MONITOR ON *.* TO vipd@'127.%';
            CREATE USER poor@'%' IDENTIFIED BY 'first';
            CREATE USER copy@'127.%' IDENTIFIED BY 'copy';
            GRANT REPLICATION SLAVE ON *.* TO copy@'127.%'",
        )?;
        follow(&replica, &primary)?;
        follow(&second, &primary)?;
        let mut password = tempfile::NamedTempFile::new()?;
        password.write_all(b"first\n")?;
        let mut lab = Self { primary, replica, second, password, certificates, checks: Checks::start() };
        lab.check_as("vipd");
        Ok(lab)
    }

    fn settings(&self, user: &str) -> MysqlCheck {
        MysqlCheck {
            password_file: Some(self.password.path().to_owned()),
            role: Role::Any,
            max_lag: Some(Duration::from_secs(10)),
            ..MysqlCheck::new(user)
        }
    }

    fn check(&mut self, check: MysqlCheck) {
        self.checks.apply(&[&self.primary, &self.replica, &self.second], check);
    }

    fn check_as(&mut self, user: &str) {
        self.check(self.settings(user));
    }

    async fn until_primary(&mut self, server: usize) -> Outcome<Vec<Probe>> {
        self.checks.until_is(server, ObservedRole::Primary, None).await
    }

    async fn until_fresh(&mut self, server: usize) -> Outcome<Vec<Probe>> {
        self.checks.until_is(server, ObservedRole::Replica, Some(Lag::Known(Duration::ZERO))).await
    }

    async fn until_unknown(&mut self, text: &str) -> Outcome<Vec<Probe>> {
        let unknown = Some(Lag::Unknown(text.to_owned()));
        self.checks.until_is(REPLICA, ObservedRole::Replica, unknown).await
    }
}

/// Makes `replica` a replica of `primary`.
fn follow(replica: &MariaDb, primary: &MariaDb) -> Outcome {
    let port = primary.port;
    replica.sql(&format!(
        "STOP SLAVE; CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='copy',
            MASTER_PASSWORD='copy', MASTER_CONNECT_RETRY=1, MASTER_USE_GTID=current_pos;
        SET GLOBAL read_only = 1; START SLAVE"
    ))?;
    Ok(())
}

/// A server's certificate with its key, and the authority's that it stems from.
fn certificates() -> Outcome<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    // The server reads them as another user.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut authority = CertificateParams::new(vec![])?;
    authority.distinguished_name.push(DnType::CommonName, "a test's authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    std::fs::write(dir.path().join("ca.pem"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&key, &issuer)?;
    std::fs::write(dir.path().join("cert.pem"), certificate.pem())?;
    std::fs::write(dir.path().join("key.pem"), key.serialize_pem())?;
    Ok(dir)
}

#[tokio::test]
async fn a_primary_and_its_replicas() -> Outcome {
    if !is_possible(&["mariadbd"], "mariadb-server")? {
        return Ok(());
    }
    let mut lab = Lab::start()?;
    roles(&mut lab).await?;
    no_galera(&mut lab).await?;
    lag(&mut lab).await?;
    connections(&mut lab).await?;
    one_connection(&mut lab).await?;
    heartbeats(&mut lab).await?;
    tls(&mut lab).await?;
    a_password_is_changed(&mut lab).await?;
    a_frozen_server(&mut lab).await?;
    refusals(&mut lab).await?;
    a_primary_restarts(&mut lab).await?;
    the_primary_moves(&mut lab).await
}

async fn roles(lab: &mut Lab) -> Outcome {
    lab.until_primary(PRIMARY).await?;
    lab.until_fresh(REPLICA).await?;
    lab.until_fresh(SECOND).await?;
    lab.primary.sql("SET GLOBAL read_only = 1")?;
    let orphan = Lag::Unknown("read-only, but no replication is configured".to_owned());
    lab.checks.until_is(PRIMARY, ObservedRole::Replica, Some(orphan)).await?;
    lab.primary.sql("SET GLOBAL read_only = 0")?;
    lab.until_primary(PRIMARY).await?;
    Ok(())
}

async fn no_galera(lab: &mut Lab) -> Outcome {
    lab.check(MysqlCheck { galera: Some(Galera { donors: true }), ..lab.settings("vipd") });
    let why = "no Galera node, and galera = true asks for one (wsrep_provider: none)";
    lab.checks.until_unready(PRIMARY, why).await?;
    lab.check_as("vipd");
    lab.until_primary(PRIMARY).await?;
    Ok(())
}

async fn lag(lab: &mut Lab) -> Outcome {
    lab.replica.sql("STOP SLAVE SQL_THREAD")?;
    lab.until_unknown("replication SQL thread No").await?;
    lab.until_fresh(SECOND).await?;
    lab.replica.sql("START SLAVE SQL_THREAD; STOP SLAVE IO_THREAD")?;
    lab.until_unknown("replication IO thread No").await?;
    lab.replica.sql("START SLAVE")?;
    lab.until_fresh(REPLICA).await?;
    // A named channel, which the plain form of the question leaves out.
    lab.replica.sql("CHANGE MASTER 'second' TO MASTER_HOST='127.0.0.1', MASTER_USER='copy'")?;
    lab.until_unknown("channel 'second': replication IO thread No").await?;
    lab.replica.sql("RESET SLAVE 'second' ALL")?;
    lab.until_fresh(REPLICA).await?;
    // A replica that is told to wait falls behind.
    lab.replica.sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 600; START SLAVE")?;
    lab.primary.sql("CREATE DATABASE d")?;
    let behind = |lag: &Lag| matches!(lag, Lag::Known(lag) if (1..LIMIT.as_secs()).contains(&lag.as_secs()));
    lab.checks.until_lag(REPLICA, behind).await?;
    lab.replica.sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 0; START SLAVE")?;
    lab.until_fresh(REPLICA).await?;
    Ok(())
}

async fn connections(lab: &mut Lab) -> Outcome {
    lab.primary.sql("SET GLOBAL max_connections = 77")?;
    let told = |probe: &Probe| {
        matches!(
            probe,
            Probe::Answered(Observation { connections: Some(Connections { used: 1.., max: 77 }), .. })
        )
    };
    lab.checks.until(PRIMARY, told).await?;
    Ok(())
}

/// Many probes, few logins, and nothing that the server counts against us.
async fn one_connection(lab: &mut Lab) -> Outcome {
    lab.until_fresh(REPLICA).await?;
    let (before, aborted) = (lab.primary.counter("Connections")?, lab.primary.counter("Aborted_clients")?);
    // Longer than a login is away.
    for _ in 0..110 {
        lab.until_primary(PRIMARY).await?;
    }
    let logins = lab.primary.counter("Connections")? - before;
    // The second counting is one, too.
    assert!((2..12).contains(&logins), "{logins} logins for 110 probes");
    assert_eq!(lab.primary.counter("Aborted_clients")?, aborted);
    assert_eq!(lab.primary.counter("Aborted_connects")?, 0);
    Ok(())
}

/// Heartbeats of each type that a column may have, written in the zone of the
/// servers and in UTC.
async fn heartbeats(lab: &mut Lab) -> Outcome {
    let check = |lab: &Lab, column: &str| MysqlCheck {
        heartbeat: Some(Heartbeat { schema: "d".into(), table: "heartbeat".into(), column: column.into() }),
        ..lab.settings("vipd")
    };
    lab.check(check(lab, "stamp"));
    let text = lab.checks.until_failed(REPLICA, "may not ask").await?;
    let grant = text.split_once("type there: ").map(|(_, grant)| grant).ok_or("no GRANT")?;
    assert_eq!(grant, "GRANT SELECT ON `d`.`heartbeat` TO 'vipd'@'127.%';");
    lab.primary.sql("GRANT SELECT ON d.* TO vipd@'127.%'")?;
    let absent = "no heartbeat: ERROR 1146: Table 'd.heartbeat' doesn't exist";
    lab.until_unknown(absent).await?;
    lab.until_primary(PRIMARY).await?;
    lab.primary.sql(
        "CREATE TABLE d.heartbeat (id INT PRIMARY KEY, stamp TIMESTAMP(6) NULL, own DATETIME(6), utc DATETIME(6),
            own_text VARCHAR(26), utc_text VARCHAR(26))",
    )?;
    lab.until_unknown("the heartbeat table holds no time").await?;
    lab.check(check(lab, "absent"));
    lab.checks
        .until_lag(REPLICA, |lag| matches!(lag, Lag::Unknown(why) if why.contains("ERROR 1054")))
        .await?;

    for server in [&lab.primary, &lab.replica] {
        server.sql("SET GLOBAL time_zone = '-05:00'")?;
    }
    // The text is as pt-heartbeat writes it.
    let beat = "SET @f = '%Y-%m-%dT%H:%i:%s.%f'; REPLACE INTO d.heartbeat VALUES (1, NOW(6), NOW(6), UTC_TIMESTAMP(6),
        DATE_FORMAT(NOW(6), @f), DATE_FORMAT(UTC_TIMESTAMP(6), @f))";
    let fresh = |lag: &Lag| matches!(lag, Lag::Known(lag) if *lag < LIMIT);
    let aged = |lag: &Lag| matches!(lag, Lag::Known(lag) if (1..LIMIT.as_secs()).contains(&lag.as_secs()));
    for column in ["stamp", "own", "utc", "own_text", "utc_text"] {
        lab.primary.sql(beat)?;
        lab.check(check(lab, column));
        lab.checks.until_lag(REPLICA, fresh).await?;
        lab.until_primary(PRIMARY).await?;
        // It goes on to be known, and grows, when replication stands still.
        lab.replica.sql("STOP SLAVE SQL_THREAD")?;
        lab.checks.until_lag(REPLICA, aged).await?;
        lab.replica.sql("START SLAVE SQL_THREAD")?;
    }
    for server in [&lab.primary, &lab.replica] {
        server.sql("SET GLOBAL time_zone = 'SYSTEM'")?;
    }
    lab.check_as("vipd");
    lab.until_fresh(REPLICA).await?;
    Ok(())
}

async fn tls(lab: &mut Lab) -> Outcome {
    lab.primary.sql("ALTER USER vipd@'127.%' REQUIRE SSL")?;
    let file = |name: &str| Some(lab.certificates.path().join(name));
    let named = |name: &str| Some(name.to_owned());
    let good = Tls { verify: true, ca_file: file("ca.pem"), server_name: named(NAME) };
    let blind = Tls { verify: false, ca_file: None, server_name: None };
    let misnamed = Tls { server_name: None, ..good.clone() };
    let wrong_ca = Tls { ca_file: file("cert.pem"), ..good.clone() };
    for tls in [good, blind] {
        lab.check(MysqlCheck { tls: Some(tls), ..lab.settings("vipd") });
        lab.until_primary(PRIMARY).await?;
        let text = lab.checks.until_failed(REPLICA, "offers no TLS").await?;
        assert_eq!(
            text,
            format!(
                "127.0.0.1:{} offers no TLS: give that server a certificate (ssl_cert, ssl_key), or switch tls off",
                lab.replica.port
            )
        );
    }
    let prefix = format!("TLS with 127.0.0.1:{}: the server's certificate ", lab.primary.port);
    for (tls, expected) in [
        (misnamed, format!("is for {NAME}, not for '127.0.0.1': set tls-name to a name it has")),
        (wrong_ca, "stems from none in ".to_owned()),
    ] {
        lab.check(MysqlCheck { tls: Some(tls), ..lab.settings("vipd") });
        let text = lab.checks.until_failed(PRIMARY, &expected).await?;
        assert!(text.starts_with(&prefix), "{text}");
    }
    lab.check_as("vipd");
    lab.checks.until_failed(PRIMARY, "compare user, password-file and tls with").await?;
    lab.primary.sql("ALTER USER vipd@'127.%' REQUIRE NONE")?;
    lab.until_primary(PRIMARY).await?;
    lab.until_fresh(REPLICA).await?;
    Ok(())
}

/// The new password counts from the next login on, without a failure.
async fn a_password_is_changed(lab: &mut Lab) -> Outcome {
    std::fs::write(lab.password.path(), "second\n")?;
    lab.primary.sql(
        "SET PASSWORD FOR vipd@'127.%' = PASSWORD('second');
        SET PASSWORD FOR poor@'%' = PASSWORD('second')",
    )?;
    lab.until_fresh(REPLICA).await?;
    let ids = "SELECT MAX(ID) FROM information_schema.PROCESSLIST WHERE USER = 'vipd'";
    let old = lab.primary.sql(ids)?;
    while lab.checks.reports.try_recv().is_ok() {}
    lab.primary.sql("KILL USER vipd")?;
    for _ in 0..5 {
        let seen = lab.until_primary(PRIMARY).await?;
        assert_eq!(seen.len(), 1, "a kept connection that was killed is no failure: {seen:?}");
    }
    assert_ne!(lab.primary.sql(ids)?, old);
    Ok(())
}

/// While a server is frozen one login waits for it; when it wakes, it has
/// nothing to count.
async fn a_frozen_server(lab: &mut Lab) -> Outcome {
    let aborted = lab.primary.counter("Aborted_connects")?;
    lab.primary.signal(Signal::SIGSTOP)?;
    let frozen = lab.checks.until_failed(PRIMARY, "waiting for the greeting").await;
    let still_frozen = lab.checks.until_failed(PRIMARY, "waiting for the greeting").await;
    lab.primary.signal(Signal::SIGCONT)?;
    assert!(frozen?.starts_with("timed out after 1s while"));
    still_frozen?;
    lab.until_primary(PRIMARY).await?;
    assert_eq!(lab.primary.counter("Aborted_connects")?, aborted);
    Ok(())
}

async fn refusals(lab: &mut Lab) -> Outcome {
    lab.check_as("poor");
    let text = lab.checks.until_failed(REPLICA, "may not ask").await?;
    let grant = text.split_once("type there: ").map(|(_, grant)| grant).ok_or("no GRANT")?;
    assert_eq!(grant, "GRANT REPLICA MONITOR ON *.* TO 'poor'@'%';");
    lab.primary.sql(grant)?;
    lab.until_fresh(REPLICA).await?;

    lab.check_as("nobody");
    let text = lab.checks.until_failed(PRIMARY, "denied").await?;
    let port = lab.primary.port;
    assert!(text.starts_with(&format!("access denied for user 'nobody' at 127.0.0.1:{port}: ")), "{text}");
    assert!(!text.contains("second"), "{text}");

    lab.primary.sql(
        "SET sql_log_bin = 0; INSTALL SONAME 'auth_ed25519'; CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('x')",
    )?;
    lab.check_as("ed");
    lab.checks.until_failed(PRIMARY, "authentication plugin 'client_ed25519'").await?;
    lab.check_as("vipd");
    lab.until_fresh(REPLICA).await?;
    Ok(())
}

async fn a_primary_restarts(lab: &mut Lab) -> Outcome {
    lab.primary.stop();
    lab.checks.until_failed(PRIMARY, "connection refused").await?;
    let connecting =
        |lag: &Lag| matches!(lag, Lag::Unknown(why) if why.starts_with("replication IO thread Connecting: "));
    lab.checks.until_lag(REPLICA, connecting).await?;
    lab.primary.restart()?;
    lab.until_primary(PRIMARY).await?;
    lab.until_fresh(REPLICA).await?;
    Ok(())
}

/// The second replica becomes the primary, and the others follow it.
async fn the_primary_moves(lab: &mut Lab) -> Outcome {
    lab.until_fresh(SECOND).await?;
    lab.primary.sql("SET GLOBAL read_only = 1")?;
    lab.second.sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0")?;
    lab.until_primary(SECOND).await?;
    follow(&lab.primary, &lab.second)?;
    follow(&lab.replica, &lab.second)?;
    lab.until_fresh(PRIMARY).await?;
    lab.until_fresh(REPLICA).await?;
    Ok(())
}
