//! Test hosts as network namespaces on a bridge.
//!
//! A [`Lab`] is a switch and the [`Host`]s on it. Each lab has a network, a
//! PID and a mount namespace of its own, so that labs may run at the same time
//! with the same addresses, see nothing of the machine they run on, and vanish
//! when the test ends, in whatever way it ends: namespaces without names,
//! files in memory, and an init that dies with the test (see [`init`]).

pub mod addresses;
pub mod advert;
pub mod arp;
pub mod dnsd;
pub mod etcd;
pub mod host;
pub mod init;
pub mod keepalived;
pub mod mariadb;
pub mod named;
mod namespace;
mod packet;
pub mod process;
pub mod record;
mod switch;
pub mod vipd;

pub use host::Host;
pub use process::Process;

use addresses::AddressLog;
use anyhow::{Context, Result, bail, ensure};
use namespace::on_thread;
use nix::sched::{CloneFlags, unshare};
use process::{Log, lock};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use switch::Switch;

/// A switch with hosts on it. Clones are the same lab; the last one ends it.
#[derive(Clone, Debug)]
pub struct Lab {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    init: Mutex<Child>,
    pid_ns: File,
    mount_ns: File,
    switch: Switch,
    addresses: AddressLog,
    logs: Mutex<Vec<(String, Arc<Log>)>>,
}

impl Lab {
    /// Makes a lab with nothing but a switch.
    ///
    /// # Errors
    /// If namespaces cannot be made here, or `ip` is missing.
    pub fn new() -> Result<Self> {
        let mut init = start_init()?;
        let of_init = |kind: &str| {
            let path = format!("/proc/{}/ns/{kind}", init.id());
            File::open(&path).with_context(|| format!("cannot open {path}"))
        };
        let made = (|| Ok((of_init("pid")?, of_init("mnt")?, Switch::new()?)))();
        let (pid_ns, mount_ns, switch) = made.inspect_err(|_: &anyhow::Error| {
            let _ = init.kill();
            let _ = init.wait();
        })?;
        let shared = Shared {
            start: Instant::now(),
            init: Mutex::new(init),
            pid_ns,
            mount_ns,
            switch,
            addresses: AddressLog::default(),
            logs: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Adds a host with addresses on its `eth0`, usable at once.
    ///
    /// # Errors
    /// If the name or an address is no good, or the kernel refuses.
    pub fn host(&self, name: &str, addresses: &[&str]) -> Result<Host> {
        Host::new(self.clone(), name, addresses)
    }

    /// Who holds which address, and who held it.
    #[must_use]
    pub fn addresses(&self) -> &AddressLog {
        &self.shared.addresses
    }

    /// Pulls a host's cable: it loses its carrier.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn cut(&self, host: &Host) -> Result<()> {
        self.shared.switch.set_port(host.name(), false)
    }

    /// Puts a host's cable back.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn mend(&self, host: &Host) -> Result<()> {
        self.shared.switch.set_port(host.name(), true)
    }

    /// Lets nothing through from one host to another; the other way stays open.
    ///
    /// # Errors
    /// If `nft` is missing or the kernel refuses.
    pub fn one_way(&self, from: &Host, to: &Host) -> Result<()> {
        self.shared.switch.block(from.name(), to.name())
    }

    /// Lets no VRRP through from one host to another, as a firewall between them does.
    ///
    /// # Errors
    /// If `nft` is missing or the kernel refuses.
    pub fn drop_vrrp(&self, from: &Host, to: &Host) -> Result<()> {
        self.shared.switch.block_vrrp(from.name(), to.name())
    }

    /// Lets nothing through between two hosts; each still reaches all others.
    ///
    /// # Errors
    /// If `nft` is missing or the kernel refuses.
    pub fn partition(&self, a: &Host, b: &Host) -> Result<()> {
        self.one_way(a, b)?;
        self.one_way(b, a)
    }

    /// Drops a share of the packets from one host to another, in per cent, for
    /// each of these; what was cut or dropped before and is not among them is
    /// whole again.
    ///
    /// # Errors
    /// If `nft` is missing or the kernel refuses.
    pub fn filter(&self, drops: &[(&str, &str, u8)]) -> Result<()> {
        self.shared.switch.filter(drops)
    }

    /// Takes back every [`one_way`](Self::one_way) and [`partition`](Self::partition).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn heal(&self) -> Result<()> {
        self.shared.switch.unblock()
    }

    /// The last lines of every process that ran, for a test that failed.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = String::new();
        for (name, log) in lock(&self.shared.logs).iter() {
            let tail = log.tail(self.shared.start, 40);
            if !tail.is_empty() {
                let _ = writeln!(text, "  -- {name}\n{tail}");
            }
        }
        let _ = write!(text, "  -- addresses\n{}", self.shared.addresses.report(self.shared.start));
        text
    }

    /// A file of the lab as the test can open it; `path` is what processes on
    /// its hosts call it.
    #[must_use]
    pub fn outside(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.init_pid());
        Path::new(&root).join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The pid of the lab's first process, as the test sees it.
    #[must_use]
    pub fn init_pid(&self) -> u32 {
        lock(&self.shared.init).id()
    }

    fn keep_log(&self, process: &Process) {
        lock(&self.shared.logs).push((process.name().to_owned(), Arc::clone(process.log())));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let init = self.init.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = init.kill();
        let _ = init.wait();
    }
}

/// Starts the first process of a new PID namespace.
fn start_init() -> Result<Child> {
    let tool = tool_path()?;
    let mut init = on_thread(|| {
        unshare(CloneFlags::CLONE_NEWPID).context("cannot make a PID namespace (root is needed)")?;
        Command::new(&tool)
            .arg("init")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", tool.display()))
    })?;
    let mut line = String::new();
    if let Some(out) = init.stdout.take() {
        BufReader::new(out).read_line(&mut line).context("cannot read what the lab's init says")?;
    }
    if line.trim() != "ready" {
        let _ = init.kill();
        let _ = init.wait();
        bail!("the lab's init did not start");
    }
    Ok(init)
}

/// The helper program of this crate, beside the running binary.
///
/// # Errors
/// If it has not been built.
pub fn tool_path() -> Result<PathBuf> {
    let tool = sibling("lab-tool")?;
    ensure!(tool.exists(), "{} is missing; build it: cargo build -p vipd-tests --bins", tool.display());
    Ok(tool)
}

/// A program beside the running one: `target/<profile>/<name>`.
pub(crate) fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let mut dir = own.parent().context("this program is in no directory")?;
    if dir.ends_with("deps") {
        dir = dir.parent().unwrap_or(dir);
    }
    Ok(dir.join(name))
}

/// For users other than root: runs this program again as the root of a user
/// namespace, where the kernel lets them have one, and does not come back.
/// Otherwise it does nothing; [`obstacle`] then says what is missing.
///
/// # Errors
/// If a user namespace can be had, but not by this program.
pub fn become_root() -> Result<()> {
    use std::os::unix::process::CommandExt as _;

    let unshare = ["--user", "--map-root-user", "--"];
    let tried = || {
        let mut command = Command::new("unshare");
        command.args(unshare).arg("true").stdin(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    };
    if nix::unistd::geteuid().is_root() || !tried() {
        return Ok(());
    }
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let error = Command::new("unshare").args(unshare).arg(own).args(std::env::args_os().skip(1)).exec();
    Err(error).context("cannot run this program again in a user namespace")
}

/// Why no lab can be made here, if so.
#[must_use]
pub fn obstacle() -> Option<String> {
    Lab::new().err().map(|e| format!("{e:#}"))
}

/// Waits until `done` says so, asking again every few milliseconds: for what
/// no event tells.
///
/// # Errors
/// If it does not within `patience`, or `done` fails.
pub fn poll_until(what: &str, patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !done()? {
        ensure!(Instant::now() < deadline, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
