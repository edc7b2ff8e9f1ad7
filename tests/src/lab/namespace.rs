//! Entering namespaces from threads.
//!
//! A thread changes its namespaces for itself alone, so that the test keeps
//! its own; what the thread opens or starts stays in them. That needs neither
//! `nsenter` nor names in `/run/netns`, and the processes it starts are
//! children of the test, with the pids that the test sees.

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::OwnedFd;

/// The namespaces a process of a host runs in.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// The network namespace: all that makes a host.
    pub(crate) net: File,
    /// The mount namespace, with a `/sys` that shows the host's interfaces.
    pub(crate) mount: OwnedFd,
}

/// Runs `f` on a thread of its own, so that it may change namespaces.
pub(crate) fn on_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| match scope.spawn(f).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Moves this thread into a network namespace.
pub(crate) fn enter_net(net: &File) -> Result<()> {
    setns(net, CloneFlags::CLONE_NEWNET).context("cannot enter a host's network namespace")
}

/// Moves this thread, and the children it is going to have, into a host's
/// namespaces. Such a thread cannot start threads.
pub(crate) fn enter_all(spaces: &Namespaces, pid: &File) -> Result<()> {
    enter_net(&spaces.net)?;
    unshare(CloneFlags::CLONE_FS).context("cannot have a root directory of its own")?;
    setns(&spaces.mount, CloneFlags::CLONE_NEWNS).context("cannot enter a host's mount namespace")?;
    setns(pid, CloneFlags::CLONE_NEWPID).context("cannot enter the lab's PID namespace")
}

/// Makes a network namespace; it lives as long as the file or a process in it.
pub(crate) fn new_net() -> Result<File> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        open_own("net")
    })
}

/// Opens a namespace of this thread.
fn open_own(kind: &str) -> Result<File> {
    let path = format!("/proc/thread-self/ns/{kind}");
    File::open(&path).with_context(|| format!("cannot open {path}"))
}

/// Makes a host's mount namespace out of the lab's: the same but for `/sys`,
/// which shows the interfaces of the network namespace it was mounted from.
pub(crate) fn new_mount(lab: &File, net: &File) -> Result<OwnedFd> {
    use nix::fcntl::{OFlag, openat};
    use nix::mount::{MsFlags, mount};
    use nix::sys::stat::Mode;

    on_thread(|| {
        // The lab's /proc belongs to its PID namespace, which this thread is
        // not of: keep hold of the one that knows it.
        let own = File::open("/proc/thread-self/ns").context("cannot open /proc/thread-self/ns")?;
        enter_net(net)?;
        unshare(CloneFlags::CLONE_FS).context("cannot have a root directory of its own")?;
        setns(lab, CloneFlags::CLONE_NEWNS).context("cannot enter the lab's mount namespace")?;
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        // A container may forbid it; then /sys keeps showing the outside.
        let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>);
        openat(&own, "mnt", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .context("cannot open the new mount namespace")
    })
}
