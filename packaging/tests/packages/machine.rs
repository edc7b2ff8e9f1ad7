//! Test hosts with a real systemd: containers of Debian's packages, booted by
//! systemd-nspawn on one bridge.
//!
//! All of it lives in a network and a mount namespace of this process's own,
//! and the containers die with it, however it ends.

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a container is made of beside the least of Debian.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,nftables";
/// The release of Debian in the containers.
const RELEASE: &str = "bookworm";
/// Files of containers, in memory.
const SCRATCH: &str = "/mnt";
/// Measured: 5 to 12 s.
const BOOT: Duration = Duration::from_secs(60);

/// Why there can be no containers here, if so.
pub(crate) fn obstacle() -> Option<String> {
    if !geteuid().is_root() {
        return Some("containers take root".into());
    }
    let missing = ["debootstrap", "systemd-nspawn", "dpkg-buildpackage", "dh", "lintian", "ip"];
    let missing = missing.into_iter().find(|p| !on_path(p))?;
    Some(format!("{missing} is not installed: see TEST_PACKAGES in the Makefile"))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

/// The tree that all containers share and none changes; made once, in `target`.
pub(crate) fn base(target: &Path) -> Result<PathBuf> {
    let dir = target.join("nspawn");
    // Its name tells what is in it: one of other packages is made anew.
    let base = dir.join(format!("{RELEASE}-{}", PACKAGES.replace(',', "-")));
    if base.join("sbin/init").exists() {
        return Ok(base);
    }
    fs::create_dir_all(&dir)?;
    let making = dir.join(format!("{RELEASE}.{}", std::process::id()));
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), RELEASE]).arg(&making);
    let made = run(&mut debootstrap);
    if made.is_ok() && fs::rename(&making, &base).is_ok() {
        return Ok(base);
    }
    let _ = fs::remove_dir_all(&making);
    // Another run may have been faster.
    ensure!(base.join("sbin/init").exists(), "cannot make {}: {:#?}", base.display(), made.err());
    Ok(base)
}

/// A network of our own, with a bridge that has the address 10.77.0.1, and a
/// place for files that vanishes with us.
pub(crate) fn own_world() -> Result<()> {
    for left in cgroups("px1").iter().filter_map(|c| c.parent()).flat_map(fs::read_dir).flatten().flatten() {
        // Of a test that was killed.
        let name = left.file_name().to_string_lossy().into_owned();
        let of = name.strip_prefix("vipd-test-").and_then(|rest| rest.split('-').next());
        if of.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove_cgroup(&left.path());
        }
    }
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("cannot make namespaces")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("cannot keep mounts here")?;
    mount(Some("scratch"), SCRATCH, Some("tmpfs"), MsFlags::empty(), none).context("cannot mount a tmpfs")?;
    for line in [
        "link set lo up",
        // A bridge without an address of its own takes the lowest of its ports', and
        // another one when that host goes: its neighbours would talk to nobody.
        "link add br0 address 02:00:00:00:77:01 type bridge",
        "link set br0 up",
        "address add 10.77.0.1/24 dev br0",
    ] {
        run(Command::new("ip").args(line.split(' ')))?;
    }
    Ok(())
}

/// A container.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    root: PathBuf,
    nspawn: Child,
    leader: i32,
    cgroups: Vec<PathBuf>,
}

impl Machine {
    /// Boots a container with the last number of its address on a fresh tree.
    pub(crate) fn start(name: &'static str, number: u8, base: &Path, debs: &Path) -> Result<Self> {
        let dir = Path::new(SCRATCH).join(name);
        let root = dir.join("root");
        for part in ["root", "upper", "work"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let options =
            format!("lowerdir={},upperdir={1}/upper,workdir={1}/work", base.display(), dir.display());
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .context("cannot mount an overlay")?;
        let network = format!(
            "[Match]\nName=host0\n[Network]\nAddress=10.77.0.{number}/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        );
        fs::write(root.join("etc/systemd/network/10-lan.network"), network)?;
        let wants = root.join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants)?;
        std::os::unix::fs::symlink(
            "/lib/systemd/system/systemd-networkd.service",
            wants.join("systemd-networkd.service"),
        )?;
        let packages = root.join("debs");
        fs::create_dir_all(&packages)?;
        for deb in fs::read_dir(debs)? {
            let deb = deb?;
            fs::copy(deb.path(), packages.join(deb.file_name()))?;
        }
        Self::boot(name, root)
    }

    fn boot(name: &'static str, root: PathBuf) -> Result<Self> {
        let cgroups = cgroups(name);
        for cgroup in &cgroups {
            fs::create_dir_all(cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
        }
        let mut command = Command::new("systemd-nspawn");
        command.args([
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--boot",
            "--console=pipe",
            "--network-bridge=br0",
        ]);
        command
            .arg("--directory")
            .arg(&root)
            .arg(format!("--machine={name}"))
            .arg(format!("--hostname={name}"));
        let entries: Vec<_> = cgroups.iter().map(|c| c.join("cgroup.procs")).collect();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let prepare = move || {
            // Asked to end, it powers the container off.
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
            // Without cgroups of its own it would see the other's processes.
            entries.iter().try_for_each(|procs| fs::write(procs, "0"))
        };
        #[allow(unsafe_code)] // between fork and exec of a process with one thread at work
        // SAFETY: the test runs on one thread when it boots a machine.
        let nspawn = unsafe { command.pre_exec(prepare) }.spawn().context("cannot start systemd-nspawn")?;
        let mut machine = Self { name, root, nspawn, leader: 0, cgroups };
        machine.leader = wait_for(BOOT, || format!("{name} to boot"), || machine.find_leader())?;
        wait_for(
            BOOT,
            || format!("{name} to be up"),
            || {
                let state = machine.try_sh("systemctl is-system-running").unwrap_or_default();
                Ok(matches!(state.as_str(), "running" | "degraded").then_some(()))
            },
        )?;
        Ok(machine)
    }

    fn find_leader(&mut self) -> Result<Option<i32>> {
        if let Some(status) = self.nspawn.try_wait()? {
            bail!("systemd-nspawn ended with {status}");
        }
        let id = self.nspawn.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        // One that comes first sets the container up, and is none of its processes.
        let first =
            |child: &&str| numbers(child).is_some_and(|n| n.len() > 1 && n.ends_with(&["1".to_owned()]));
        Ok(children.split_whitespace().find(first).and_then(|child| child.parse().ok()))
    }

    /// Runs shell commands in the container; gives what they print.
    pub(crate) fn sh(&self, script: &str) -> Result<String> {
        run(&mut self.command(script)).with_context(|| format!("on {}: {script}", self.name))
    }

    /// The same, whatever the exit status.
    pub(crate) fn try_sh(&self, script: &str) -> Result<String> {
        let output = self.command(script).output().context("cannot start nsenter")?;
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--all").arg("--target").arg(self.leader.to_string()).arg("--");
        command.args([
            "/usr/bin/env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "TERM=dumb",
            "LC_ALL=C.UTF-8",
        ]);
        command.args(["/bin/sh", "-c", script]).stdin(Stdio::null());
        command
    }

    /// A path of the container, from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// The number that a process of the container has outside.
    pub(crate) fn outside(&self, inside: &str) -> Result<i32> {
        let here = fs::read_link(format!("/proc/{}/ns/pid", self.leader))?;
        for process in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let same = fs::read_link(process.path().join("ns/pid")).is_ok_and(|ns| ns == here);
            let number = numbers(&pid.to_string()).and_then(|numbers| numbers.last().cloned());
            if same && number.as_deref() == Some(inside) {
                return Ok(pid);
            }
        }
        bail!("{} has no process {inside}", self.name)
    }

    /// Switches the machine off as its button does, and waits until it is.
    pub(crate) fn power_off(&mut self) -> Result<()> {
        // The connection may end before the answer.
        let _ = self.try_sh("systemctl poweroff");
        wait_for(BOOT, || format!("{} to be off", self.name), || Ok(self.nspawn.try_wait()?))?;
        self.leader = 0;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With its first process the container dies; without it, nspawn ends.
        if self.leader != 0 {
            let _ = nix::sys::signal::kill(Pid::from_raw(self.leader), Signal::SIGKILL);
        } else {
            let _ = self.nspawn.kill();
        }
        let _ = self.nspawn.wait();
        // The last processes may take a moment.
        let _ = wait_for(
            BOOT,
            || "cgroups".into(),
            || Ok(self.cgroups.iter().all(|c| remove_cgroup(c)).then_some(())),
        );
    }
}

/// The numbers of a process in its PID namespaces, ours first.
fn numbers(process: &str) -> Option<Vec<String>> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    Some(line.split_whitespace().map(str::to_owned).collect())
}

/// Places for a container in the hierarchies that a systemd uses.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let place = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let hierarchy = match controllers {
            "" if Path::new("/sys/fs/cgroup/cgroup.procs").exists() => "/sys/fs/cgroup",
            "" => "/sys/fs/cgroup/unified",
            "name=systemd" => "/sys/fs/cgroup/systemd",
            _ => return None,
        };
        let own = Path::new(hierarchy).join(path.trim_start_matches('/'));
        own.exists().then(|| own.join(format!("vipd-test-{}-{name}", std::process::id())))
    };
    own.lines().filter_map(place).collect()
}

fn remove_cgroup(cgroup: &Path) -> bool {
    for inner in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if inner.path().is_dir() {
            remove_cgroup(&inner.path());
        }
    }
    !cgroup.exists() || fs::remove_dir(cgroup).is_ok()
}

/// Runs a command to its end; gives what it prints.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.success(), "{}: {out}\n{err}", output.status);
    Ok(out)
}

/// Looks again and again until there is something, and for how long that took.
pub(crate) fn wait_for<T>(
    limit: Duration,
    what: impl Fn() -> String,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(start.elapsed() < limit, "waited {limit:?} for {}", what());
        std::thread::sleep(Duration::from_millis(10));
    }
}
