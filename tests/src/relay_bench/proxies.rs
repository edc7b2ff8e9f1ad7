//! The proxies that are compared, each configured for the same task.

use crate::lab::vipd::program;
use crate::lab::{Host, Process, mariadb, poll_until};
use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Where each proxy listens.
pub const FRONT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 3306);

/// Connections that each is configured for; with pipes for splicing, their descriptors fit
/// into the 20,000 that the test machines have.
const CONNECTIONS: u32 = 6_000;

/// The account without a password that HAProxy's check of MySQL logs in as.
pub const HAPROXY_USER: &str = "haproxy";

/// How the proxies look after their servers.
#[derive(Debug)]
pub enum Check {
    /// By connecting.
    Connect {
        /// From one check of a server to the next.
        every: Duration,
    },
    /// As a MySQL client.
    Mysql {
        /// From one check of a server to the next.
        every: Duration,
        /// The file with the password of vipd's own account.
        password: PathBuf,
    },
}

impl Check {
    const fn every(&self) -> Duration {
        match self {
            Self::Connect { every } | Self::Mysql { every, .. } => *every,
        }
    }
}

/// A proxy.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// HAProxy as it is.
    Haproxy,
    /// HAProxy, made to splice both ways.
    HaproxySplice,
    /// nginx's stream module.
    Nginx,
    /// Ours.
    Vipd,
}

impl Kind {
    /// All, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Haproxy, Self::HaproxySplice, Self::Nginx, Self::Vipd];

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "HAProxy",
            Self::HaproxySplice => "HAProxy, splice",
            Self::Nginx => "nginx",
            Self::Vipd => "vipd",
        }
    }

    /// Its version, or why it is not there.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn version(self) -> Result<String> {
        let (path, argument) = match self {
            Self::Haproxy | Self::HaproxySplice => ("/usr/sbin/haproxy".into(), "-v"),
            Self::Nginx => ("/usr/sbin/nginx".into(), "-v"),
            Self::Vipd => (program("vipd")?, "--version"),
        };
        let output = Command::new(&path).arg(argument).output();
        let output = output.with_context(|| format!("cannot run {}", path.display()))?;
        // nginx tells its version on standard error.
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
    }

    fn config(self, servers: &[SocketAddr], check: Option<&Check>) -> String {
        match self {
            Self::Haproxy => haproxy("", servers, check),
            Self::HaproxySplice => {
                haproxy("    option splice-request\n    option splice-response\n", servers, check)
            }
            Self::Nginx => nginx(servers),
            Self::Vipd => vipd(servers, check),
        }
    }

    fn command(self, host: &Host, config: &str) -> Result<Command> {
        let path = host.write_file("proxy.conf", config)?;
        let mut command = match self {
            Self::Haproxy | Self::HaproxySplice => Command::new("/usr/sbin/haproxy"),
            Self::Nginx => Command::new("/usr/sbin/nginx"),
            Self::Vipd => Command::new(program("vipd")?),
        };
        match self {
            Self::Haproxy | Self::HaproxySplice => command.args(["-db", "-f"]).arg(path),
            Self::Nginx => command.arg("-c").arg(path),
            Self::Vipd => {
                command.args(["run", "--node", "bench", "--runtime-dir"]).arg(host.dir().join("runtime"));
                command.arg("--config").arg(path)
            }
        };
        Ok(command)
    }
}

fn haproxy(options: &str, servers: &[SocketAddr], check: Option<&Check>) -> String {
    let mysql = match check {
        Some(Check::Mysql { .. }) => format!("    option mysql-check user {HAPROXY_USER}\n"),
        Some(Check::Connect { .. }) | None => String::new(),
    };
    let mut text = format!(
        "global\n    nbthread 1\n    maxconn {CONNECTIONS}\ndefaults\n    mode tcp\n    timeout connect 5s\n    \
         timeout client 1h\n    timeout server 1h\n{options}listen bench\n    bind {FRONT} backlog 4096\n    \
         balance roundrobin\n{mysql}"
    );
    let check = check.map_or_else(String::new, |c| format!(" check inter {}ms", c.every().as_millis()));
    for (n, server) in servers.iter().enumerate() {
        let _ = writeln!(text, "    server s{n} {server}{check}");
    }
    text
}

fn nginx(servers: &[SocketAddr]) -> String {
    let mut text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nworker_processes 1;\n\
         pid /run/nginx-bench.pid;\nerror_log stderr error;\nevents {{ worker_connections {}; }}\n\
         stream {{\n    access_log off;\n    upstream servers {{\n",
        2 * CONNECTIONS
    );
    for server in servers {
        let _ = writeln!(text, "        server {server};");
    }
    let _ = write!(
        text,
        "    }}\n    server {{\n        listen {FRONT} backlog=4096;\n        proxy_timeout 1h;\n        \
         proxy_pass servers;\n    }}\n}}\n"
    );
    text
}

fn vipd(servers: &[SocketAddr], check: Option<&Check>) -> String {
    let mut text = format!(
        "[cluster]\nname = \"bench\"\nnodes = [{{ name = \"bench\", address = \"127.0.0.1\" }}]\n[[listen]]\n\
         name = \"bench\"\nbind = \"{FRONT}\"\npool = \"servers\"\nmax-connections = {CONNECTIONS}\n\
         [[pool]]\nname = \"servers\"\nservers = [\n"
    );
    for (n, server) in servers.iter().enumerate() {
        let _ = writeln!(text, "  {{ name = \"s{n}\", address = \"{server}\" }},");
    }
    text.push_str("]\n");
    let kind = match check {
        None => return text,
        Some(Check::Connect { .. }) => "kind = \"tcp\"".to_owned(),
        Some(Check::Mysql { password, .. }) => {
            format!("kind = \"mysql\"\nuser = \"{}\"\npassword-file = {password:?}", mariadb::CHECK_USER)
        }
    };
    let every = check.map(Check::every).unwrap_or_default().as_millis();
    let _ = write!(text, "[pool.check]\n{kind}\ninterval = \"{every}ms\"\n");
    text
}

/// A running proxy, on a core of its own.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
}

impl Proxy {
    /// Starts it on core 1, and leaves core 0 to this thread. It needs no
    /// servers to start.
    ///
    /// # Errors
    /// If it does not listen within some seconds.
    pub fn start(kind: Kind, host: &Host, servers: &[SocketAddr], check: Option<&Check>) -> Result<Self> {
        let mut command = kind.command(host, &kind.config(servers, check))?;
        // Its processes and threads inherit it.
        pin(1)?;
        let process = host.spawn(kind.name(), &mut command);
        pin(0)?;
        let process = process?;
        let connects = || host.inside(|| Ok(TcpStream::connect(FRONT).is_ok()));
        poll_until("the proxy listens", Duration::from_secs(10), || {
            ensure!(process.is_running(), "{} has ended: {:?}", kind.name(), process.output());
            connects()
        })?;
        Ok(Self { process })
    }

    /// CPU time of all its processes and threads so far, in nanoseconds.
    ///
    /// # Errors
    /// If one has ended.
    pub fn cpu(&self) -> Result<u64> {
        self.process.tree().into_iter().map(cpu_of).sum()
    }

    /// Bytes of memory of all its processes.
    ///
    /// # Errors
    /// If one has ended.
    pub fn memory(&self) -> Result<u64> {
        self.process.tree().into_iter().map(rss_of).sum()
    }
}

/// Binds this thread, and what it starts from now on, to a core.
///
/// # Errors
/// If there is no such core.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot run on core {core}"))
}

/// utime and stime of all threads of a process, finer than the ticks of proc(5) `stat`.
pub(crate) fn cpu_of(pid: i32) -> Result<u64> {
    let clock: ClockId = clock_getcpuclockid(Pid::from_raw(pid)).context("a process has ended")?;
    let time = clock_gettime(clock)?;
    Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
}

pub(crate) fn rss_of(pid: i32) -> Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|l| l.strip_prefix("Rss:")).context("smaps_rollup tells no Rss")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
