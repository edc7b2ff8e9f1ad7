//! A command at work: a process group that ends with its leader.
#![allow(unsafe_code)] // what is done between fork and exec

use super::account::Account;
use crate::net::readable::Readable;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, setgid, setgroups, setuid};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use tokio::net::unix::pipe;
use tokio::process::Child;

/// Read from a command's output at a time.
const CHUNK: usize = 4 << 10;

/// A running command. Dropped, it is killed with all of its group; the runtime
/// reaps it.
pub(crate) struct Process {
    child: Child,
    /// The group's number, until its leader is reaped: then it may be another's.
    group: Option<Pid>,
    /// Readable when the leader has ended; that does not reap it.
    ended: Readable<OwnedFd>,
    /// Its standard output and error, until their end.
    output: Option<pipe::Receiver>,
}

impl Process {
    /// Starts a command as a user.
    pub(crate) fn start(mut command: Command, stdin: Stdio, account: Account) -> io::Result<Self> {
        let (output, input) = io::pipe()?;
        command.stdin(stdin).stdout(input.try_clone()?).stderr(input).process_group(0);
        let change = !account.is_ours();
        let prepare = move || prepare(change.then_some(&account));
        // SAFETY: between fork and exec only system calls are made, and memory
        // that exists already is read; see `prepare`.
        unsafe { command.pre_exec(prepare) };
        // With the command goes our end of the pipe to write to.
        let mut child = tokio::process::Command::from(command).spawn()?;
        let number = child.id().and_then(|id| i32::try_from(id).ok());
        let watched = (|| {
            let pid = number.and_then(rustix::process::Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
            let ended = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK)?;
            let ended = Readable::new(ended)?;
            Ok((ended, pipe::Receiver::from_owned_fd(output.into())?))
        })();
        let group = number.map(Pid::from_raw);
        match watched {
            Ok((ended, output)) => Ok(Self { child, group, ended, output: Some(output) }),
            Err(error) => {
                let _ = child.start_kill();
                Err(error)
            }
        }
    }

    /// Waits for more output, which is added to `output`, or for the end.
    pub(crate) async fn next(&mut self, output: &mut Vec<u8>) -> io::Result<Option<ExitStatus>> {
        if let Some(pipe) = &self.output {
            tokio::select! {
                biased;
                ready = pipe.readable() => {
                    ready?;
                    if read(pipe, output)? == Some(0) {
                        self.output = None;
                    }
                    return Ok(None);
                }
                ended = self.ended.ready() => { ended?; }
            }
        } else {
            self.ended.ready().await?;
        }
        // Before it is reaped: until then the number is the group's own.
        self.kill();
        if let Some(pipe) = self.output.take() {
            // What it wrote last. A process that has left the group may still
            // hold the pipe, and is neither waited for nor heard for long.
            while output.len() <= super::MAX_OUTPUT && matches!(read(&pipe, output)?, Some(1..)) {}
        }
        self.child.wait().await.map(Some)
    }

    fn kill(&mut self) {
        if let Some(group) = self.group.take() {
            // It fails if all have ended, which is as good.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads what is there, once: 0 is the end, and `None` that there is nothing.
fn read(pipe: &pipe::Receiver, output: &mut Vec<u8>) -> io::Result<Option<usize>> {
    let mut chunk = [0; CHUNK];
    match pipe.try_read(&mut chunk) {
        Ok(count) => {
            output.extend_from_slice(chunk.get(..count).unwrap_or_default());
            Ok(Some(count))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Runs in the new process before it becomes the command. Here it is a copy of
/// one thread of the daemon, other threads' locks are held for ever, and only
/// system calls are safe: nothing is allocated or freed, also not for errors.
fn prepare(account: Option<&Account>) -> io::Result<()> {
    if let Some(account) = account {
        setgroups(&account.groups)?;
        setgid(account.gid)?;
        setuid(account.uid)?;
    }
    // What the daemon may do is none of the command's business.
    match rustix::thread::clear_ambient_capability_set() {
        // Kernels before 4.3 have none.
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    // If the daemon is killed there is nobody to end it in time. The thread
    // that starts commands lives as long as the daemon.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // Ours are all closed by exec, but whoever started the daemon may have left
    // it others. Kernels before 5.11 do not know the call, and keep those.
    // SAFETY: it takes no pointers, and closes nothing before exec.
    let _: i64 = unsafe {
        nix::libc::syscall(nix::libc::SYS_close_range, 3_u32, u32::MAX, nix::libc::CLOSE_RANGE_CLOEXEC)
    };
    Ok(())
}
