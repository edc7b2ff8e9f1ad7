//! MariaDB servers in scratch directories on 127.0.0.1.
//!
//! They are killed when dropped, and when the test's thread ends otherwise.

use super::{Outcome, command_as, free_port, hand_over};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

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

/// A command that runs as `mysql` when we are root: a joiner's rsync serves as
/// nobody else would read.
fn command(program: &str) -> Command {
    let mut command = command_as("mysql", Path::new(program));
    command.arg("--no-defaults");
    command
}

impl MariaDb {
    /// An empty home, for a server that is started later.
    pub(crate) fn homeless(id: u32) -> Outcome<Self> {
        let home = tempfile::tempdir()?;
        hand_over(home.path(), "mysql")?;
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
