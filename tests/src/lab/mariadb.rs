//! Real MariaDB servers on test hosts: a primary and its replicas, by GTID.

use super::{Host, Lab, Process, poll_until};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The TCP port the servers listen on.
pub const PORT: u16 = 3306;
/// The user of vipd's checks, with [`PASSWORD`].
pub const CHECK_USER: &str = "vipd";
/// The user of applications, with [`PASSWORD`]; its tables are in `app`.
pub const APP_USER: &str = "app";
/// The password of every user of the lab's servers.
pub const PASSWORD: &str = "lab-secret";

const PATIENCE: Duration = Duration::from_secs(60);

/// Whether MariaDB's server is installed.
#[must_use]
pub fn is_installed() -> bool {
    Command::new("mariadbd").arg("--version").output().is_ok_and(|o| o.status.success())
}

/// Writes the password into a file that every host of a lab sees at the same
/// place, as the same configuration file on every host wants it.
///
/// # Errors
/// If it cannot be written.
pub fn password_file(lab: &Lab) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;

    let path = Path::new(super::init::SCRATCH).join("mysql.password");
    let outside = lab.outside(&path);
    std::fs::write(&outside, PASSWORD).with_context(|| format!("cannot write {}", outside.display()))?;
    std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {}", outside.display()))?;
    Ok(path)
}

/// A running MariaDB server.
#[derive(Debug)]
pub struct Server {
    host: Host,
    process: Process,
    socket: PathBuf,
}

/// Starts a primary on the first host and replicas of it on the others, and
/// waits until they replicate.
///
/// # Errors
/// If a server does not start, or replication does not.
pub fn replicated(hosts: &[(&Host, IpAddr)]) -> Result<Vec<Server>> {
    let (first, _) = hosts.first().context("a primary needs a host")?;
    let template = install(first)?;
    let mut servers: Vec<Server> = Vec::new();
    for (number, (host, address)) in (1_u32..).zip(hosts) {
        servers.push(Server::start(host, *address, number, &template)?);
    }
    for (number, server) in servers.iter().enumerate() {
        server.wait_until_up()?;
        // Accounts are each server's own: nothing of them is in the binary log.
        let mut script = String::from("SET sql_log_bin = 0;\n");
        for (user, rights) in
            [("repl", "REPLICATION SLAVE"), (CHECK_USER, "REPLICA MONITOR"), (APP_USER, "ALL PRIVILEGES")]
        {
            let on = if user == APP_USER { "app.*" } else { "*.*" };
            let _ = writeln!(script, "CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}';");
            let _ = writeln!(script, "GRANT {rights} ON {on} TO {user}@'%';");
        }
        server.sql(&script)?;
        if number > 0 {
            server.follow(hosts[0].1)?;
        }
    }
    servers[0].sql("CREATE DATABASE app; CREATE TABLE app.t (id BIGINT PRIMARY KEY, note TEXT);")?;
    for replica in &servers[1..] {
        poll_until("the replica has the primary's table", PATIENCE, || {
            Ok(replica.sql("SELECT COUNT(*) FROM app.t").is_ok())
        })?;
    }
    Ok(servers)
}

/// Makes a data directory to copy: much faster than one anew for each server.
fn install(host: &Host) -> Result<PathBuf> {
    let template = Path::new(super::init::SCRATCH).join("mariadb-template");
    let datadir = format!("--datadir={}", template.display());
    host.run(
        "mariadb-install-db",
        &[
            "--no-defaults",
            "--user=root",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            "--innodb-log-file-size=8M",
            &datadir,
        ],
    )?;
    Ok(template)
}

impl Server {
    fn start(host: &Host, address: IpAddr, id: u32, template: &Path) -> Result<Self> {
        let datadir = host.dir().join("mariadb");
        host.run("cp", &["-a", &template.to_string_lossy(), &datadir.to_string_lossy()])?;
        let socket = host.dir().join("mariadb.sock");
        let mut command = Command::new("mariadbd");
        command.args(["--no-defaults", "--user=root", "--skip-name-resolve", "--skip-slave-start"]);
        command.arg(format!("--datadir={}", datadir.display()));
        command.arg(format!("--socket={}", socket.display()));
        command.arg(format!("--pid-file={}", host.dir().join("mariadb.pid").display()));
        command.arg(format!("--bind-address={address}")).arg(format!("--port={PORT}"));
        command.arg(format!("--server-id={id}"));
        command.args(["--log-bin=binlog", "--log-slave-updates", "--gtid-strict-mode=1"]);
        command.args(["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"]);
        // The datadir is in memory: there is nothing to flush to.
        command.args(["--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0"]);
        if id > 1 {
            command.arg("--read-only");
        }
        let process = host.spawn("mariadbd", &mut command)?;
        Ok(Self { host: host.clone(), process, socket })
    }

    /// The server's process.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// The host it runs on.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Runs SQL as root and gives the answer, tab-separated, without headings.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub fn sql(&self, script: &str) -> Result<String> {
        let socket = format!("--socket={}", self.socket.display());
        self.host.run("mariadb", &["--no-defaults", "--user=root", &socket, "-N", "-B", "-e", script])
    }

    /// Makes it a replica of the server at `primary`.
    ///
    /// # Errors
    /// If it does not replicate within a minute.
    pub fn follow(&self, primary: IpAddr) -> Result<()> {
        self.sql(&format!(
            "CHANGE MASTER TO MASTER_HOST='{primary}', MASTER_PORT={PORT}, MASTER_USER='repl', \
             MASTER_PASSWORD='{PASSWORD}', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1; \
             SET GLOBAL read_only = 1; START SLAVE;"
        ))?;
        poll_until("replication runs", PATIENCE, || {
            let status = self.sql("SHOW STATUS LIKE 'Slave_running'")?;
            Ok(status.contains("ON"))
        })
    }

    /// Makes it a primary.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn promote(&self) -> Result<()> {
        self.sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0;").map(drop)
    }

    fn wait_until_up(&self) -> Result<()> {
        poll_until(&format!("MariaDB on {} is up", self.host.name()), PATIENCE, || {
            ensure!(self.process.is_running(), "MariaDB on {} has ended", self.host.name());
            Ok(self.sql("SELECT 1").is_ok())
        })
    }
}
