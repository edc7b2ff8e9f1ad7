//! The crash guard: a tiny process that outlives the daemon by milliseconds.
//!
//! The daemon starts it before anything else and keeps it informed of what it
//! holds through a pipe. When the daemon dies without a goodbye (SIGKILL, the
//! OOM killer, an abort), the kernel closes the pipe; the guard then deletes
//! the floating addresses and sends the releases that the daemon could not
//! send, so that the next owner takes over at once instead of after a silence.
//!
//! Until the daemon is really gone the guard waits: while its sockets are being
//! closed the addresses must still be there, so that clients get their FIN or RST.

use crate::kernel::request::Requester;
use crate::kernel::{self, LOOPBACK, Spot};
use crate::net::advert::send_once;
use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::warn;
use vipd_core::node::{GuardState, Transmit};
use vipd_core::settings::Cidr;

/// How long the guard waits for the kernel to close a dead daemon's sockets.
const LAST_WORDS: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// A guard that cannot be started is tried again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// Longest message: thousands of addresses; more is not ours.
const MAX_MESSAGE: u32 = 8 << 20;

/// What the daemon tells its guard; each replaces what was told before.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Message {
    goodbye: bool,
    runtime_dir: PathBuf,
    /// Interface, address and prefix length.
    addresses: Vec<(u32, IpAddr, u8)>,
    farewells: Vec<Farewell>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Farewell {
    interface: u32,
    source: IpAddr,
    destination: IpAddr,
    bytes: Vec<u8>,
}

impl Message {
    fn new(state: &GuardState, runtime_dir: &Path) -> Self {
        let farewell = |packet: &Transmit| Farewell {
            interface: packet.interface,
            source: packet.source,
            destination: packet.destination,
            bytes: packet.bytes.clone(),
        };
        Self {
            goodbye: false,
            runtime_dir: runtime_dir.to_owned(),
            addresses: state.addresses.iter().map(|(i, a)| (*i, a.address(), a.prefix())).collect(),
            farewells: state.farewells.iter().map(farewell).collect(),
        }
    }

    /// Where the addresses may be: on their interface, or silently on loopback.
    fn spots(&self) -> Vec<Spot> {
        let mut spots = vec![];
        for (interface, address, prefix) in &self.addresses {
            let host = if address.is_ipv4() { 32 } else { 128 };
            let on_link = Cidr::new(*address, *prefix).map(|address| Spot { interface: *interface, address });
            let silent = Cidr::new(*address, host).map(|address| Spot { interface: LOOPBACK, address });
            spots.extend(on_link.into_iter().chain(silent));
        }
        spots
    }

    fn write(&self, pipe: &mut impl Write) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        pipe.write_all(&[&length.to_le_bytes()[..], &bytes].concat())
    }

    /// The next message; `None` when the pipe is closed, also in mid-message:
    /// what was told before holds then.
    fn read(pipe: &mut impl Read) -> Option<Self> {
        let mut length = [0; 4];
        pipe.read_exact(&mut length).ok()?;
        let length = u32::from_le_bytes(length);
        if length > MAX_MESSAGE {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        pipe.read_exact(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

// ---- the daemon's side ------------------------------------------------------

/// The daemon's end. A thread writes, so that a guard that does not read
/// cannot hold the daemon up; of several states only the newest is written.
#[derive(Debug)]
pub struct Guard {
    runtime_dir: PathBuf,
    post: Arc<Post>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Post {
    newest: Mutex<Option<Message>>,
    news: Condvar,
}

impl Guard {
    /// Starts the guard.
    ///
    /// # Errors
    /// If this program cannot be started a second time.
    pub fn spawn(runtime_dir: &Path) -> io::Result<Self> {
        let child = start()?;
        let post = Arc::new(Post::default());
        let thread = std::thread::Builder::new().name("guard".to_owned()).spawn({
            let post = Arc::clone(&post);
            move || inform(&post, child)
        })?;
        Ok(Self { runtime_dir: runtime_dir.to_owned(), post, thread: Some(thread) })
    }

    /// Tells the guard what is held now. Never waits.
    pub fn update(&self, state: &GuardState) {
        self.post(Message::new(state, &self.runtime_dir));
    }

    /// An orderly end: the guard has nothing to do.
    pub fn goodbye(mut self) {
        self.post(Message { goodbye: true, ..Message::default() });
        if let Some(thread) = self.thread.take() {
            // It ends with the word that was just given.
            let _ = thread.join();
        }
    }

    fn post(&self, message: Message) {
        *self.post.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
        self.post.news.notify_one();
    }
}

fn start() -> io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg0("vipd")
        .arg("guard")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // A terminal's Ctrl-C is for the daemon.
        .process_group(0)
        .spawn()
}

/// Writes the newest state to the guard, and starts another if it has died.
fn inform(post: &Post, mut child: Child) {
    let mut last = Message::default();
    loop {
        let mut newest = post.newest.lock().unwrap_or_else(PoisonError::into_inner);
        while newest.is_none() {
            newest = post.news.wait(newest).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(message) = newest.take() {
            last = message;
        }
        drop(newest);
        while let Err(error) = tell(&mut child, &last) {
            if last.goodbye {
                break;
            }
            warn!(%error, "the crash guard is gone; starting another");
            let _ = child.wait();
            match start() {
                Ok(another) => child = another,
                Err(error) => {
                    warn!(%error, "cannot start the crash guard: a crash would cost a detection time");
                    std::thread::sleep(RESTART_AFTER);
                }
            }
        }
        if last.goodbye {
            // Closes the pipe, too.
            let _ = child.wait();
            return;
        }
    }
}

fn tell(child: &mut Child, message: &Message) -> io::Result<()> {
    let pipe = child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
    message.write(pipe)
}

// ---- the guard's side -------------------------------------------------------

/// The guard process: listens to the daemon until it is gone.
#[must_use]
pub fn main() -> ExitCode {
    // Whoever stops the daemon means the daemon; the guard ends with it.
    let mut ignored = SigSet::empty();
    ignored.extend([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]);
    let daemon = rustix::process::getppid();
    // Opened now: a process that dies may leave no descriptors to open.
    let requester = Requester::open();
    if let Err(error) = ignored.thread_block() {
        eprintln!("vipd guard: cannot ignore signals: {error}");
    }
    let gone = daemon.map(|daemon| pidfd_open(daemon, PidfdFlags::empty()));
    let mut pipe = io::stdin().lock();
    let mut last = Message::default();
    while let Some(message) = Message::read(&mut pipe) {
        last = message;
        if last.goodbye {
            return ExitCode::SUCCESS;
        }
    }
    if let Some(Ok(pidfd)) = gone {
        // A time-out is as good: the sockets are closed in a moment.
        let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&LAST_WORDS));
    }
    clean_up(&last, requester)
}

/// Deletes first, then tells: two never answer for an address.
fn clean_up(last: &Message, requester: io::Result<Requester>) -> ExitCode {
    let mut clean = true;
    let mut complain = |what: &str, error: io::Error| {
        clean = false;
        eprintln!("vipd guard: cannot {what}: {error}");
    };
    let deleted = requester.or_else(|_| Requester::open()).and_then(|mut r| r.delete(&last.spots()));
    if let Err(error) = deleted {
        complain("delete the floating addresses of a dead daemon", error);
    }
    for farewell in &last.farewells {
        let sent = send_once(farewell.interface, farewell.source, farewell.destination, &farewell.bytes);
        if let Err(error) = sent {
            complain("release for a dead daemon", error);
        }
    }
    if let Err(error) = kernel::restore_switches(&last.runtime_dir) {
        complain("restore ARP settings for a dead daemon", error);
    }
    eprintln!(
        "vipd guard: the daemon died; {} floating addresses deleted, {} releases sent",
        last.addresses.len(),
        last.farewells.len()
    );
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_understood_and_a_torn_message_is_not() -> io::Result<()> {
        let state = GuardState {
            addresses: Cidr::new(IpAddr::from([10, 77, 0, 100]), 24).map(|a| (2, a)).into_iter().collect(),
            farewells: vec![Transmit {
                interface: 2,
                source: IpAddr::from([10, 77, 0, 11]),
                destination: IpAddr::from([10, 77, 0, 12]),
                bytes: vec![1, 2, 3],
            }],
        };
        let mut pipe = vec![];
        Message::new(&state, Path::new("/run/vipd")).write(&mut pipe)?;
        let read = Message::read(&mut pipe.as_slice()).ok_or(io::ErrorKind::InvalidData)?;
        assert_eq!(read.farewells.len(), 1);
        let spots = read.spots();
        assert_eq!(spots.len(), 2, "on the link, and silently on loopback");
        assert_eq!(spots[1].interface, LOOPBACK);
        assert!(Message::read(&mut &pipe[..pipe.len() - 1]).is_none());
        assert!(Message::read(&mut &[0xff; 4][..]).is_none(), "longer than any message");
        Ok(())
    }
}
