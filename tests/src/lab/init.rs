//! The first process of a lab's PID namespace.
//!
//! Everything that runs in the lab dies with it, daemonised or not, and it
//! dies when the test does: the test holds the other end of its standard
//! input and nobody else does, so that even SIGKILL of the test ends the lab.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::io::Write;
use std::os::fd::AsFd;

/// Where a lab keeps its files: memory, which goes with the lab.
pub const SCRATCH: &str = "/run";

/// Prepares the lab's mount namespace, says `ready` on standard output, and
/// stays until standard input ends.
///
/// # Errors
/// If the kernel refuses a mount that the lab cannot do without.
pub fn run() -> Result<()> {
    mount_lab()?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None).context("cannot block SIGCHLD")?;
    let children = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("cannot watch for SIGCHLD")?;
    let mut out = std::io::stdout();
    writeln!(out, "ready").and_then(|()| out.flush()).context("nobody reads what the lab's init says")?;

    let stdin = std::io::stdin();
    loop {
        let mut fds =
            [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(children.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e).context("cannot wait for events"),
        }
        if fds[0].revents().is_some_and(|r| !r.is_empty()) {
            return Ok(());
        }
        while let Ok(Some(_)) = children.read_signal() {}
        // Orphans come to the first process of their PID namespace.
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|s| s != WaitStatus::StillAlive) {}
    }
}

/// A mount namespace with a `/proc` of the lab's processes and an empty `/run`.
fn mount_lab() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("cannot make mounts private")?;
    // A container may forbid it; then programs see the pids of the outside.
    let _ = mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>);
    mount(Some("tmpfs"), SCRATCH, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
        .context("cannot mount a tmpfs on /run")
}
