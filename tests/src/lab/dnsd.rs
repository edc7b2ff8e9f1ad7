//! The real `dnsd` on a test host.

use super::vipd::program;
use super::{Host, Process};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The zone that it serves.
pub const ZONE: &str = "corp.example.";
/// The name that vipd publishes.
pub const NAME: &str = "db.corp.example.";
/// The secret of the key `vipd.`, which may change the name.
pub const SECRET: &str = "bm90IGEgc2VjcmV0LCBidXQgYXMgbG9uZyBhcyBvbmU=";

/// Why `dnsd` cannot be run here, if so.
#[must_use]
pub fn obstacle() -> Option<String> {
    program("dnsd").err().map(|e| format!("{e:#}"))
}

/// Starts it on a host, on port 53 of `address`, and waits until it serves.
///
/// # Errors
/// If it does not start.
pub fn start(host: &Host, address: &str) -> Result<Process> {
    start_with(host, address, SECRET)
}

/// The same with another secret.
///
/// # Errors
/// If it does not start.
pub fn start_with(host: &Host, address: &str, secret: &str) -> Result<Process> {
    host.write_file("vipd.key", secret)?;
    let dir = host.dir();
    let config = format!(
        "listen = [\"{address}:53\"]\nstate-dir = {:?}\n\
         [[zone]]\nname = \"{ZONE}\"\nprimary-ns = \"ns1.{ZONE}\"\ncontact = \"hostmaster.{ZONE}\"\n\
         [[key]]\nname = \"vipd.\"\nalgorithm = \"hmac-sha256\"\nsecret-file = {:?}\n\
         grant = [ {{ name = \"{NAME}\", types = [\"A\", \"AAAA\", \"TXT\"] }}, \
         {{ name = \"_vipd.{NAME}\", types = [\"TXT\"] }} ]\n\
         [rate-limit]\nexempt = [\"10.77.0.0/16\"]\n",
        dir.join("state"),
        dir.join("vipd.key"),
    );
    let path = host.write_file("dnsd.toml", &config)?;
    let process = host.spawn("dnsd", Command::new(program("dnsd")?).arg("run").arg("--config").arg(path))?;
    process.wait_for_line("ready", Duration::from_secs(10)).context("dnsd does not serve")?;
    Ok(process)
}

/// vipd's `[dns]` with these servers, and the file of the key on a host.
///
/// # Errors
/// If the file cannot be written.
pub fn settings(host: &Host, servers: &[&str], more: &str) -> Result<String> {
    let key: PathBuf = host.write_file("tsig.key", SECRET)?;
    let mut text = format!("[dns]\nname = \"{NAME}\"\nttl = \"1s\"\n{more}\n");
    let servers: Vec<String> = servers.iter().map(|s| format!("{s}:53")).collect();
    let _ = writeln!(
        text,
        "[dns.rfc2136]\nservers = {servers:?}\nzone = \"{ZONE}\"\nkey-name = \"vipd.\"\nkey-file = {key:?}"
    );
    Ok(text)
}

/// Whether BIND's nsupdate is installed.
#[must_use]
pub fn has_nsupdate() -> bool {
    Command::new("nsupdate").arg("-V").output().is_ok_and(|o| o.status.success())
}
