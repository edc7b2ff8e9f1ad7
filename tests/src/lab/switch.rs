//! The switch of a lab: a bridge in a namespace of its own, a port a host.

use super::namespace::{enter_net, new_net, on_thread};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

#[derive(Debug)]
pub(crate) struct Switch {
    net: File,
}

impl Switch {
    pub(crate) fn new() -> Result<Self> {
        let switch = Self { net: new_net()? };
        // Without snooping multicast goes everywhere at once, as on a plain switch.
        switch
            .ip("link add sw type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set sw up\n")?;
        Ok(switch)
    }

    /// Lays a cable from a new port to the `eth0` of a host's namespace.
    pub(crate) fn connect(&self, port: &str, host: &File) -> Result<()> {
        let host = format!("/proc/{}/fd/{}", std::process::id(), host.as_raw_fd());
        self.ip(&format!(
            "link add name {port} type veth peer name eth0 netns {host}\nlink set dev {port} master sw\nlink set dev {port} up\n"
        ))
    }

    pub(crate) fn set_port(&self, port: &str, up: bool) -> Result<()> {
        self.ip(&format!("link set dev {port} {}\n", if up { "up" } else { "down" }))
    }

    pub(crate) fn block(&self, from: &str, to: &str) -> Result<()> {
        self.nft(&format!(
            "add table bridge lab\n\
             add chain bridge lab cuts {{ type filter hook forward priority 0; }}\n\
             add rule bridge lab cuts iifname {from} oifname {to} drop\n"
        ))
    }

    /// Drops so many per cent of the packets from one port to another, for each
    /// of these and nothing else, from one moment to the next.
    pub(crate) fn filter(&self, drops: &[(&str, &str, u8)]) -> Result<()> {
        let mut script =
            String::from("add table bridge lab\ndelete table bridge lab\nadd table bridge lab\n");
        script.push_str("add chain bridge lab cuts { type filter hook forward priority 0; }\n");
        for (from, to, percent) in drops {
            let share =
                if *percent < 100 { format!("numgen random mod 100 < {percent} ") } else { String::new() };
            let _ = writeln!(script, "add rule bridge lab cuts iifname {from} oifname {to} {share}drop");
        }
        self.nft(&script)
    }

    /// Drops IP protocol 112 from one port to another, and nothing else.
    pub(crate) fn block_vrrp(&self, from: &str, to: &str) -> Result<()> {
        self.nft(&format!(
            "add table bridge lab\n\
             add chain bridge lab cuts {{ type filter hook forward priority 0; }}\n\
             add rule bridge lab cuts iifname {from} oifname {to} ip protocol 112 drop\n"
        ))
    }

    pub(crate) fn unblock(&self) -> Result<()> {
        self.nft("add table bridge lab\ndelete table bridge lab\n")
    }

    fn ip(&self, script: &str) -> Result<()> {
        self.feed("ip", &["-batch", "-"], script)
    }

    fn nft(&self, script: &str) -> Result<()> {
        self.feed("nft", &["-f", "-"], script)
    }

    fn feed(&self, program: &str, arguments: &[&str], script: &str) -> Result<()> {
        on_thread(|| {
            enter_net(&self.net)?;
            feed(Command::new(program).args(arguments), script)
        })
    }
}

/// Runs a command with `script` on its standard input.
pub(crate) fn feed(command: &mut Command, script: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).with_context(|| format!("{program} does not read its input"))?;
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {program}"))?;
    if !output.status.success() {
        bail!("{program} refuses ({}): {}", script.trim(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
