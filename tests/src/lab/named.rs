//! A real BIND on a test host, with one zone that tests rewrite.

use super::{Host, Process};
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// Whether BIND's server is installed.
#[must_use]
pub fn is_installed() -> bool {
    Command::new("/usr/sbin/named").arg("-v").output().is_ok_and(|o| o.status.success())
}

/// A running name server.
#[derive(Debug)]
pub struct Named {
    host: Host,
    process: Process,
    serial: u32,
}

impl Named {
    /// Starts it on a host, on port 53 of `address`, with the zone `internal.`
    /// of these records; all have a time to live of a second.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(host: &Host, address: &str, records: &[&str]) -> Result<Self> {
        write_zone(host, 1, records)?;
        let dir = host.dir();
        let config = format!(
            "options {{ directory {dir:?}; listen-on {{ {address}; }}; listen-on-v6 {{ none; }}; recursion no;\n\
             pid-file none; session-keyfile {:?}; dnssec-validation no; notify no; }};\ncontrols {{ }};\n\
             zone \"internal\" {{ type primary; file \"zone\"; }};\n",
            dir.join("session.key")
        );
        let path = host.write_file("named.conf", &config)?;
        let mut command = Command::new("/usr/sbin/named");
        let process = host.spawn("named", command.args(["-g", "-4", "-n", "1", "-c"]).arg(path))?;
        process.wait_for_line("running", PATIENCE).context("BIND does not serve")?;
        Ok(Self { host: host.clone(), process, serial: 1 })
    }

    /// Its process.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// Gives it other records.
    ///
    /// # Errors
    /// If it does not take them.
    pub fn set(&mut self, records: &[&str]) -> Result<()> {
        self.serial += 1;
        write_zone(&self.host, self.serial, records)?;
        self.process.signal(Signal::SIGHUP)?;
        self.process.wait_for_line(&format!("loaded serial {}", self.serial), PATIENCE)?;
        Ok(())
    }
}

fn write_zone(host: &Host, serial: u32, records: &[&str]) -> Result<PathBuf> {
    let mut zone = format!("$TTL 1\n@ SOA ns1 hostmaster {serial} 1 1 60 1\n@ NS ns1\nns1 A 10.77.0.53\n");
    for record in records {
        let _ = writeln!(zone, "{record}");
    }
    host.write_file("zone", &zone)
}

/// Makes a host ask the server at `address`.
///
/// # Errors
/// If the host's `/etc/resolv.conf` cannot be replaced.
pub fn ask(host: &Host, address: &str) -> Result<()> {
    let text = format!("nameserver {address}\noptions timeout:1 attempts:1\n");
    let path = host.write_file("resolv.conf", &text)?;
    // In the host's own mount namespace: nobody else sees it.
    host.run("mount", &["--bind", &path.to_string_lossy(), "/etc/resolv.conf"]).map(drop)
}
