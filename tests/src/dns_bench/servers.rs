//! The DNS servers that are compared, each configured for the same task: one
//! zone, one thread for queries, no rate limit, nothing logged a query.

use crate::lab::vipd::program;
use crate::lab::{Host, Process, poll_until};
use crate::relay_bench::proxies::{cpu_of, pin, rss_of};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Where each server listens.
pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
/// The zone that each has.
pub const ZONE: &str = "corp.example.";
/// The key that may update it.
pub const KEY: &str = "vipd.";
/// Its secret.
pub const SECRET: &[u8] = b"01234567890123456789012345678901";
const SECRET_BASE64: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// A server.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// BIND 9.
    Bind,
    /// Knot DNS.
    Knot,
    /// PowerDNS with its backend that holds zone files in memory.
    PowerDns,
    /// Ours.
    Dnsd,
}

impl Kind {
    /// All, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Bind, Self::Knot, Self::PowerDns, Self::Dnsd];

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bind => "BIND",
            Self::Knot => "Knot",
            Self::PowerDns => "PowerDNS",
            Self::Dnsd => "dnsd",
        }
    }

    /// Its version, or why it is not there.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn version(self) -> Result<String> {
        let (path, argument) = match self {
            Self::Bind => ("/usr/sbin/named".into(), "-v"),
            Self::Knot => ("/usr/sbin/knotd".into(), "-V"),
            Self::PowerDns => ("/usr/sbin/pdns_server".into(), "--version"),
            Self::Dnsd => (program("dnsd")?, "--version"),
        };
        let output = Command::new(&path).arg(argument).output();
        let output = output.with_context(|| format!("cannot run {}", path.display()))?;
        // PowerDNS logs its version.
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    fn command(self, dir: &Path) -> Result<Command> {
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            Ok::<_, anyhow::Error>(path)
        };
        Ok(match self {
            Self::Bind => {
                let mut command = Command::new("/usr/sbin/named");
                command.args(["-g", "-4", "-n", "1", "-c"]).arg(write("named.conf", bind(dir))?);
                command
            }
            Self::Knot => {
                let mut command = Command::new("/usr/sbin/knotd");
                command.arg("-c").arg(write("knot.conf", knot(dir))?);
                command
            }
            Self::PowerDns => {
                let zone = format!("zone \"{ZONE}\" {{ type native; file \"{}/zone\"; }};\n", dir.display());
                write("zones.conf", zone)?;
                write("pdns.conf", powerdns(dir))?;
                let mut command = Command::new("/usr/sbin/pdns_server");
                command.arg(format!("--config-dir={}", dir.display()));
                command
            }
            Self::Dnsd => {
                write("key", SECRET_BASE64.to_owned())?;
                let mut command = Command::new(program("dnsd")?);
                command.args(["run", "--config"]).arg(write("dnsd.toml", dnsd(dir))?);
                command
            }
        })
    }
}

fn bind(dir: &Path) -> String {
    format!(
        "options {{ directory \"{}\"; listen-on port {} {{ {}; }}; listen-on-v6 {{ none; }}; recursion no; \
         notify no; pid-file none; session-keyfile none; minimal-responses yes; }};\ncontrols {{ }};\n\
         key \"{KEY}\" {{ algorithm hmac-sha256; secret \"{SECRET_BASE64}\"; }};\n\
         zone \"{ZONE}\" {{ type primary; file \"zone\"; allow-update {{ key \"{KEY}\"; }}; }};\n",
        dir.display(),
        ADDRESS.port(),
        ADDRESS.ip()
    )
}

fn knot(dir: &Path) -> String {
    format!(
        "server:\n  listen: {}@{}\n  rundir: {dir}\n  udp-workers: 1\n  tcp-workers: 1\n  \
         background-workers: 1\nlog:\n- target: stderr\n  any: warning\ndatabase:\n  storage: {dir}\n\
         key:\n- id: {KEY}\n  algorithm: hmac-sha256\n  secret: {SECRET_BASE64}\n\
         acl:\n- id: update\n  key: {KEY}\n  action: update\n\
         zone:\n- domain: {ZONE}\n  storage: {dir}\n  file: zone\n  zonefile-sync: -1\n  acl: update\n",
        ADDRESS.ip(),
        ADDRESS.port(),
        dir = dir.display()
    )
}

/// Its answers are kept for the whole measurement: that is its best.
fn powerdns(dir: &Path) -> String {
    let mut text = String::from("launch=bind\nbind-check-interval=0\nsecurity-poll-suffix=\ndaemon=no\n");
    text.push_str("guardian=no\ncache-ttl=3600\nquery-cache-ttl=3600\nnegquery-cache-ttl=3600\n");
    text.push_str("receiver-threads=1\ndistributor-threads=1\nloglevel=3\n");
    let _ = writeln!(text, "bind-config={dir}/zones.conf\nsocket-dir={dir}", dir = dir.display());
    let _ = writeln!(text, "local-address={}\nlocal-port={}", ADDRESS.ip(), ADDRESS.port());
    text
}

fn dnsd(dir: &Path) -> String {
    format!(
        "listen = [\"{ADDRESS}\"]\nstate-dir = \"{dir}/state\"\n[[zone]]\nname = \"{ZONE}\"\n\
         primary-ns = \"ns1.{ZONE}\"\ncontact = \"hostmaster.{ZONE}\"\nfile = \"{dir}/zone\"\n\
         [[key]]\nname = \"{KEY}\"\nsecret-file = \"{dir}/key\"\n\
         grant = [ {{ name = \"*.{ZONE}\", types = [\"A\"] }} ]\n\
         [rate-limit]\nresponses-per-second = 0\n",
        dir = dir.display()
    )
}

/// A zone with this many names, two addresses each.
fn zone(names: u32) -> String {
    let mut text =
        String::from("$TTL 60\n@ SOA ns1 hostmaster 1 3600 600 86400 5\n@ NS ns1\nns1 A 10.0.0.1\n");
    for name in 0..names {
        let [_, b, c, d] = name.to_be_bytes();
        let _ = write!(text, "n{name} A 10.{b}.{c}.{d}\nn{name} A 11.{b}.{c}.{d}\n");
    }
    text
}

/// A running server, on a core of its own.
#[derive(Debug)]
pub struct Server {
    process: Process,
}

impl Server {
    /// Starts it on core 1 with its files in an empty directory, and waits until
    /// it answers for its zone.
    ///
    /// # Errors
    /// If it does not within a minute.
    pub fn start(kind: Kind, host: &Host, dir: &Path, names: u32) -> Result<Self> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::write(dir.join("zone"), zone(names))?;
        let mut command = kind.command(dir)?;
        // Its threads inherit it.
        pin(1)?;
        let process = host.spawn(kind.name(), &mut command);
        pin(0)?;
        let process = process?;
        poll_until("the server answers", Duration::from_secs(60), || {
            ensure!(process.is_running(), "{} has ended: {:?}", kind.name(), process.output());
            host.inside(|| Ok(answers()))
        })?;
        Ok(Self { process })
    }

    /// CPU time so far, in nanoseconds.
    ///
    /// # Errors
    /// If it has ended.
    pub fn cpu(&self) -> Result<u64> {
        self.process.tree().into_iter().map(cpu_of).sum()
    }

    /// Bytes of memory.
    ///
    /// # Errors
    /// If it has ended.
    pub fn memory(&self) -> Result<u64> {
        self.process.tree().into_iter().map(rss_of).sum()
    }
}

/// Whether there is an answer for `ns1`, which has one address in each zone.
fn answers() -> bool {
    const QUESTION: &[u8] = b"\0\x07\0\0\0\x01\0\0\0\0\0\0\x03ns1\x04corp\x07example\0\0\x01\0\x01";
    let ask = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        socket.connect(ADDRESS)?;
        socket.send(QUESTION)?;
        let mut answer = [0; 512];
        socket.recv(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    ask().is_ok_and(|answer| answer[3] & 15 == 0 && answer[7] == 1)
}
