//! The real `vipd` on a test host, and what its operator sees of it.

use super::{Host, Process, poll_until, sibling};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

/// Where `vipd` and `vipctl` are: in `VIPD_BIN_DIR`, or beside this program.
///
/// # Errors
/// If they are not there, with what to do about it.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = match std::env::var_os("VIPD_BIN_DIR") {
        Some(dir) => std::path::absolute(dir).context("VIPD_BIN_DIR is no path")?.join(name),
        None => sibling(name)?,
    };
    let said = Command::new(&path).arg("--version").output().map(|o| o.stdout).unwrap_or_default();
    ensure!(
        said.starts_with(name.as_bytes()),
        "{name} not found: {} is no program that knows --version; build it (cargo build --workspace, with \
         --release for the benchmarks) or set VIPD_BIN_DIR",
        path.display()
    );
    Ok(path)
}

/// Why `vipd` cannot be run here, if so.
#[must_use]
pub fn obstacle() -> Option<String> {
    ["vipd", "vipctl"].into_iter().find_map(|name| program(name).err()).map(|e| format!("{e:#}"))
}

/// The parts of a configuration file that tests vary. What is not here, a test
/// appends.
#[derive(Clone, Debug)]
pub struct Config {
    /// Nodes in order of preference: name and addresses.
    pub nodes: Vec<(String, Vec<String>)>,
    /// Further lines of `[cluster]`.
    pub cluster: Vec<String>,
    /// `advert-interval`.
    pub interval: Duration,
    /// Further lines of `[election]`.
    pub election: Vec<String>,
    /// Each `[[vip]]`: name, VRID and addresses.
    pub vips: Vec<(String, u8, Vec<String>)>,
    /// `interface` of each `[[vip]]`, where it cannot be found by subnet.
    pub interface: Option<String>,
    /// Listeners, pools and the rest, as text.
    pub rest: String,
}

impl Config {
    /// One group "main" with VRID 51.
    #[must_use]
    pub fn new(nodes: &[(&str, &str)], interval: Duration, addresses: &[&str]) -> Self {
        Self {
            nodes: nodes.iter().map(|(n, a)| ((*n).to_owned(), vec![(*a).to_owned()])).collect(),
            cluster: Vec::new(),
            interval,
            election: Vec::new(),
            vips: vec![("main".to_owned(), 51, addresses.iter().map(ToString::to_string).collect())],
            interface: None,
            rest: String::new(),
        }
    }

    /// The text of the configuration file, the same for every node.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::from("[cluster]\nname = \"lab\"\nnodes = [\n");
        for (name, addresses) in &self.nodes {
            let _ = writeln!(text, "  {{ name = \"{name}\", addresses = {addresses:?} }},");
        }
        let _ = writeln!(text, "]");
        for line in &self.cluster {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "\n[election]\nadvert-interval = \"{}ms\"", self.interval.as_millis());
        for line in &self.election {
            let _ = writeln!(text, "{line}");
        }
        for (name, vrid, addresses) in &self.vips {
            let _ = writeln!(text, "\n[[vip]]\nname = \"{name}\"\nvrid = {vrid}\naddresses = {addresses:?}");
            if let Some(interface) = &self.interface {
                let _ = writeln!(text, "interface = \"{interface}\"");
            }
        }
        text.push('\n');
        text.push_str(&self.rest);
        text
    }
}

/// A running `vipd`.
#[derive(Debug)]
pub struct Vipd {
    host: Host,
    process: Process,
}

impl Vipd {
    /// Starts `vipd` on a host with a configuration file of this text, as the
    /// node of the host's name.
    ///
    /// # Errors
    /// If it cannot be started. That it runs is another question.
    pub fn start(host: &Host, config: &str) -> Result<Self> {
        Self::spawn(host, config, Command::new(program("vipd")?))
    }

    /// The same, with so many descriptors and no more.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_with_descriptors(host: &Host, config: &str, descriptors: u32) -> Result<Self> {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={descriptors}:{descriptors}")).arg(program("vipd")?);
        Self::spawn(host, config, command)
    }

    fn spawn(host: &Host, config: &str, mut command: Command) -> Result<Self> {
        let path = host.write_file("vipd.toml", config)?;
        command.arg("run").arg("--config").arg(path).args(["--node", host.name()]);
        command.arg("--runtime-dir").arg(host.dir().join("runtime"));
        command.arg("--state-dir").arg(host.dir().join("state"));
        let process = host.spawn("vipd", &mut command)?;
        Ok(Self { host: host.clone(), process })
    }

    /// The daemon's process.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// The host it runs on.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Runs `vipctl`, whatever it answers.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn try_ctl(&self, arguments: &[&str]) -> Result<Output> {
        let runtime = self.host.dir().join("runtime");
        let runtime = runtime.to_string_lossy();
        let all = [&["--runtime-dir", &*runtime], arguments].concat();
        self.host.try_run(program("vipctl")?, &all)
    }

    /// Runs `vipctl` and gives what it wrote.
    ///
    /// # Errors
    /// If it cannot be run or does not exit with 0.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_ctl(arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("vipctl {} on {}: {}: {error}", arguments.join(" "), self.host.name(), output.status);
        }
        Ok(text)
    }

    /// `vipctl status --json`.
    ///
    /// # Errors
    /// If the daemon does not answer, or not in JSON.
    pub fn status(&self) -> Result<Value> {
        let text = self.ctl(&["status", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("the status is no JSON: {text}"))
    }

    /// Waits until every VIP group has this state on this node.
    ///
    /// # Errors
    /// If it does not within `patience`, or the daemon has ended.
    pub fn wait_for_state(&self, state: &str, patience: Duration) -> Result<()> {
        let mut last = String::new();
        let what = format!("vipd on {} is {state}", self.host.name());
        let reached = poll_until(&what, patience, || {
            ensure!(self.process.is_running(), "vipd on {} has ended", self.host.name());
            let status = self.status();
            last = status.as_ref().map_or_else(|e| format!("{e:#}"), Value::to_string);
            let vips = status.ok().and_then(|s| s["vips"].as_array().cloned()).unwrap_or_default();
            Ok(!vips.is_empty() && vips.iter().all(|v| v["state"] == state))
        });
        reached.with_context(|| format!("the last status: {last}"))
    }

    /// Waits until this node sees every other node as backup.
    ///
    /// # Errors
    /// If it does not within `patience`.
    pub fn wait_for_peers(&self, patience: Duration) -> Result<()> {
        poll_until(&format!("{} sees its peers as backup", self.host.name()), patience, || {
            let peers = self.status()?["peers"].as_array().cloned().unwrap_or_default();
            Ok(!peers.is_empty() && peers.iter().all(|p| p["state"] == "backup"))
        })
    }

    /// Waits until each of these servers has this state in one of its pools: a
    /// replica is up among the replicas and down among the primaries.
    ///
    /// # Errors
    /// If it does not within `patience`.
    pub fn wait_for_servers(&self, names: &[&str], state: &str, patience: Duration) -> Result<()> {
        poll_until(&format!("servers {names:?} are {state}"), patience, || {
            let status = self.status()?;
            let pools = status["pools"].as_array().cloned().unwrap_or_default();
            let servers: Vec<Value> =
                pools.iter().flat_map(|p| p["servers"].as_array().cloned().unwrap_or_default()).collect();
            Ok(names.iter().all(|n| servers.iter().any(|s| s["name"] == *n && s["state"] == state)))
        })
    }
}
