//! Debian's keepalived on a test host: what vipd must get along with, and what
//! it is measured against.

use super::{Host, Process};
use anyhow::Result;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

/// The version of VRRP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// RFC 3768.
    V2,
    /// RFC 5798.
    V3,
}

/// A `vrrp_instance`.
#[derive(Clone, Debug)]
pub struct Instance {
    /// `virtual_router_id`.
    pub vrid: u8,
    /// `priority`.
    pub priority: u8,
    /// `virtual_ipaddress`, with prefix lengths.
    pub addresses: Vec<String>,
    /// Own address and the peers' for unicast; multicast when absent.
    pub unicast: Option<(IpAddr, Vec<IpAddr>)>,
    /// `nopreempt`.
    pub nopreempt: bool,
}

/// What stands in `keepalived.conf`.
#[derive(Clone, Debug)]
pub struct Config {
    /// `vrrp_version`.
    pub version: Version,
    /// `advert_int`: whole seconds for version 2, steps of 10 ms for version 3.
    pub interval: Duration,
    /// `unicast_ttl`; without it unicast adverts over IPv6 have a hop limit of 64.
    pub unicast_ttl: Option<u8>,
    /// The instances.
    pub instances: Vec<Instance>,
}

impl Config {
    /// The text of the configuration file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let version = match self.version {
            Version::V2 => 2,
            Version::V3 => 3,
        };
        let mut text = format!("global_defs {{\n  router_id lab\n  vrrp_version {version}\n}}\n");
        let interval = format!("{}.{:03}", self.interval.as_secs(), self.interval.subsec_millis());
        for (number, instance) in self.instances.iter().enumerate() {
            let Instance { vrid, priority, .. } = instance;
            let _ = write!(
                text,
                "vrrp_instance v{number} {{\n  state BACKUP\n  interface eth0\n  virtual_router_id {vrid}\n  \
                 priority {priority}\n  advert_int {interval}\n"
            );
            if instance.nopreempt {
                text.push_str("  nopreempt\n");
            }
            if let Some((own, peers)) = &instance.unicast {
                if let Some(ttl) = self.unicast_ttl {
                    let _ = writeln!(text, "  unicast_ttl {ttl}");
                }
                let _ = writeln!(text, "  unicast_src_ip {own}\n  unicast_peer {{");
                for peer in peers {
                    let _ = writeln!(text, "    {peer}");
                }
                text.push_str("  }\n");
            }
            text.push_str("  virtual_ipaddress {\n");
            for address in &instance.addresses {
                let _ = writeln!(text, "    {address}");
            }
            text.push_str("  }\n}\n");
        }
        text
    }
}

/// Whether keepalived is installed.
#[must_use]
pub fn is_installed() -> bool {
    Command::new("keepalived").arg("--version").output().is_ok_and(|o| o.status.success())
}

/// Starts keepalived on a host; it is a process and a child of it that does
/// the work.
///
/// # Errors
/// If it cannot be started.
pub fn start(host: &Host, config: &Config) -> Result<Process> {
    let path = host.write_file("keepalived.conf", &config.to_text())?;
    let mut command = Command::new("keepalived");
    // VRRP only, in the foreground, told to the log, pid files of its own.
    command.args(["--vrrp", "--dont-fork", "--log-console", "--no-syslog", "--log-detail"]);
    command.arg("--use-file").arg(path);
    command.arg("--pid").arg(host.dir().join("keepalived.pid"));
    command.arg("--vrrp_pid").arg(host.dir().join("keepalived-vrrp.pid"));
    host.spawn("keepalived", &mut command)
}
