//! A test host: a network namespace with an `eth0` on the lab's switch.

use super::addresses;
use super::namespace::{Namespaces, enter_all, enter_net, new_mount, new_net, on_thread};
use super::process::Process;
use super::switch::feed;
use super::{Lab, init};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

/// A host of a [`Lab`]. Clones are the same host.
#[derive(Clone, Debug)]
pub struct Host {
    lab: Lab,
    name: Arc<str>,
    spaces: Arc<Namespaces>,
}

impl Host {
    pub(super) fn new(lab: Lab, name: &str, own: &[&str]) -> Result<Self> {
        // An interface's name has 15 characters at most.
        let fits = !name.is_empty() && name.len() <= 15 && name.bytes().all(|b| b.is_ascii_alphanumeric());
        ensure!(fits, "'{name}' is no name for a host: 1 to 15 letters and digits");
        let net = new_net()?;
        lab.shared.switch.connect(name, &net)?;
        let mount = new_mount(&lab.shared.mount_ns, &net)?;
        let host = Self { lab, name: name.into(), spaces: Arc::new(Namespaces { net, mount }) };
        host.configure(own)?;
        addresses::watch(&host, &host.lab.shared.addresses)?;
        for dir in ["runtime", "state"] {
            let dir = host.lab.outside(&host.dir()).join(dir);
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(host)
    }

    fn configure(&self, own: &[&str]) -> Result<()> {
        // Duplicate address detection would keep addresses from use for seconds.
        for interface in ["all", "default", "eth0"] {
            self.sysctl(&format!("net/ipv6/conf/{interface}/accept_dad"), "0")?;
            self.sysctl(&format!("net/ipv6/conf/{interface}/accept_ra"), "0")?;
        }
        let mut script = String::from("link set lo up\nlink set eth0 up\n");
        for address in own {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            let _ = writeln!(script, "addr add {address} dev eth0{nodad}");
        }
        feed_in(self, &script)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab it belongs to.
    #[must_use]
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Its directory, as its own processes call it; it has the directories
    /// `runtime` and `state`.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        Path::new(init::SCRATCH).join(&*self.name)
    }

    /// Writes a file into its directory and gives the path as its own
    /// processes call it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir().join(name);
        let outside = self.lab.outside(&path);
        std::fs::write(&outside, text).with_context(|| format!("cannot write {}", outside.display()))?;
        Ok(path)
    }

    /// Sets a kernel setting below `/proc/sys`.
    ///
    /// # Errors
    /// If there is none of that name, or the kernel refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        // Settings of the network are those of the reader's own namespace.
        self.inside(|| {
            let path = format!("/proc/sys/{name}");
            std::fs::write(&path, value).with_context(|| format!("cannot write {path}"))
        })
    }

    /// Runs `f` in its network namespace and waits for it.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_thread(|| {
            enter_net(&self.spaces.net)?;
            f()
        })
    }

    /// Runs `f` on a thread in its network namespace.
    pub fn thread<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let spaces = Arc::clone(&self.spaces);
        std::thread::spawn(move || {
            enter_net(&spaces.net)?;
            f()
        })
    }

    /// Starts a process. Its output is kept, and shown when the test fails.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Process> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: Ctrl-C is for the test alone.
        command.process_group(0);
        let child = on_thread(|| {
            enter_all(&self.spaces, &self.lab.shared.pid_ns)?;
            let program = command.get_program().to_string_lossy().into_owned();
            command.spawn().with_context(|| format!("cannot run {program}"))
        })?;
        let process = Process::adopt(&format!("{name}@{}", self.name), child)?;
        self.lab.keep_log(&process);
        Ok(process)
    }

    /// Runs a program to its end and gives what it wrote.
    ///
    /// # Errors
    /// If it cannot be run, or says that it failed.
    pub fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Result<String> {
        let output = self.try_run(program.as_ref(), arguments)?;
        ensure!(
            output.status.success(),
            "{} {} on {}: {}: {}",
            program.as_ref().display(),
            arguments.join(" "),
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a program to its end, whatever that is.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn try_run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Result<std::process::Output> {
        let mut command = Command::new(program.as_ref());
        command.args(arguments);
        self.output(command)
    }

    /// The same, with what else the command is to have.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn output(&self, mut command: Command) -> Result<std::process::Output> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = on_thread(|| {
            enter_all(&self.spaces, &self.lab.shared.pid_ns)?;
            command.spawn().with_context(|| format!("cannot run {program}"))
        })?;
        child.wait_with_output().with_context(|| format!("cannot wait for {program}"))
    }

    /// Starts `lab-tool` with these arguments and waits until it is ready.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn tool(&self, arguments: &[&str]) -> Result<Process> {
        let name = arguments.first().copied().unwrap_or("lab-tool");
        let process = self.spawn(name, Command::new(super::tool_path()?).args(arguments))?;
        process.wait_for_line("ready", std::time::Duration::from_secs(10))?;
        Ok(process)
    }

    /// Its Ethernet address.
    ///
    /// # Errors
    /// If its `eth0` is gone.
    pub fn mac(&self) -> Result<[u8; 6]> {
        self.inside(|| Ok(super::packet::interface("eth0")?.mac))
    }
}

fn feed_in(host: &Host, script: &str) -> Result<()> {
    host.inside(|| feed(Command::new("ip").args(["-batch", "-"]), script))
}
