//! The daemon's side: starts the guard, and tells it what is held.

use super::{Message, State, end_of};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, send, setsockopt, shutdown, socketpair, sockopt,
};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::warn;
use vipd_core::node::{GuardState, Watch};

/// A guard that cannot be started is tried again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// A guard that did not take the newest state is told it again after this.
const TELL_AFTER: u16 = 1_000;
/// Room for the largest state: 64 groups of 255 addresses in two families.
const SEND_BUFFER: usize = 8 << 20;

/// The daemon's end. It never waits for the guard; a thread waits for the
/// guard's own end, and starts another.
#[derive(Debug)]
pub struct Guard {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    program: PathBuf,
    runtime_dir: PathBuf,
    link: Mutex<Link>,
}

#[derive(Debug)]
struct Link {
    socket: OwnedFd,
    child: Child,
    /// The newest state as it is told.
    newest: Option<Vec<u8>>,
    /// The guard has it.
    told: bool,
    /// The guard is to end: no other takes its place.
    over: bool,
}

impl Guard {
    /// Starts the guard.
    ///
    /// # Errors
    /// If this program cannot be started a second time.
    pub fn spawn(runtime_dir: &Path) -> io::Result<Self> {
        // Not the path of the program: a new package may have replaced it.
        Self::spawn_program(Path::new("/proc/self/exe"), runtime_dir)
    }

    /// Starts the guard from another program whose argument `guard` calls [`main`].
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn spawn_program(program: &Path, runtime_dir: &Path) -> io::Result<Self> {
        let (socket, child) = start(program)?;
        let link = Link { socket, child, newest: None, told: true, over: false };
        let (program, runtime_dir) = (program.to_owned(), runtime_dir.to_owned());
        let shared = Arc::new(Shared { program, runtime_dir, link: Mutex::new(link) });
        let thread = std::thread::Builder::new().name("guard".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.replace_dead_guards()
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Tells the guard what is held now. Never waits; should the guard not
    /// take it now, it is told again later. Farewells go to a UDP port if one is
    /// given; `releases` are the state's, as they are sent.
    pub fn update(&self, state: &GuardState, port: Option<u16>, releases: Vec<(SocketAddr, Vec<u8>)>) {
        let state = State::new(state, port, releases, &self.shared.runtime_dir);
        let Ok(bytes) = serde_json::to_vec(&Message::State(state)) else { return };
        let mut link = self.shared.link();
        if link.newest.as_ref() == Some(&bytes) && link.told {
            return;
        }
        link.newest = Some(bytes);
        link.tell_newest();
    }

    /// Tells the guard that a lease lasts longer. Never waits.
    pub fn extend(&self, watch: &Watch) {
        let (until, addresses) = end_of(watch);
        let Ok(bytes) = serde_json::to_vec(&Message::Longer(until, addresses)) else { return };
        let mut link = self.shared.link();
        if tell(&link.socket, &bytes).is_err() {
            // It is with the next whole state.
            link.told = false;
        }
    }

    /// Whether the guard has been told what was last held.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.shared.link().told
    }

    /// The guard's process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.shared.link().child.id()
    }

    /// Makes a panic the guard's business at once, and then abort the process:
    /// writing its core file may take longer than a lease lasts.
    pub fn on_panic(&self) {
        let shared = Arc::clone(&self.shared);
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            earlier(panic);
            // If this very thread holds the lock, the guard notices later.
            if let Ok(mut link) = shared.link.try_lock() {
                link.hang_up();
            }
            std::process::abort();
        }));
    }

    /// An orderly end: the guard has nothing to do. It is killed, not asked:
    /// somebody may have stopped it, and it would not hear.
    pub fn goodbye(mut self) {
        let mut link = self.shared.link();
        link.over = true;
        if let Err(error) = link.child.kill() {
            warn!(%error, "cannot dismiss the crash guard");
            return;
        }
        drop(link);
        if let Some(thread) = self.thread.take() {
            // It ends with the guard.
            let _ = thread.join();
        }
    }

    /// Makes what is held the guard's business now, while this process goes on.
    pub fn take_over(self) {
        self.shared.link().hang_up();
    }
}

impl Shared {
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace_dead_guards(&self) {
        // A copy, so that waiting needs no lock; only this thread makes new ones.
        let copy = || self.link().socket.try_clone();
        let mut socket = copy();
        while let Ok(waiting) = &socket {
            while !wait_for_end(waiting) {
                let mut link = self.link();
                if !link.told {
                    link.tell_newest();
                }
            }
            // It may hang up long before it ends, and adverts do not wait for that.
            let child = self.link().child.id();
            wait_for_zombie(child);
            let mut link = self.link();
            let ended = link.child.wait();
            if link.over {
                return;
            }
            let ended = ended.map_or_else(|e| e.to_string(), |status| status.to_string());
            warn!(%ended, "the crash guard is gone; starting another");
            link.told = false;
            drop(link);
            self.start_another();
            socket = copy();
        }
        warn!("no descriptor left to watch the crash guard with; one that dies is not replaced");
    }

    fn start_another(&self) {
        loop {
            match start(&self.program) {
                Ok((socket, child)) => {
                    let mut link = self.link();
                    (link.socket, link.child) = (socket, child);
                    return link.tell_newest();
                }
                Err(error) => {
                    warn!(%error, "cannot start the crash guard: a crash would cost a detection time");
                }
            }
            std::thread::sleep(RESTART_AFTER);
            if self.link().over {
                return;
            }
        }
    }
}

impl Link {
    fn tell_newest(&mut self) {
        let Some(bytes) = &self.newest else { return };
        match tell(&self.socket, bytes) {
            Ok(()) => self.told = true,
            // The thread sees that it is gone, starts another and tells that.
            Err(Errno::EPIPE | Errno::ECONNRESET) => self.told = false,
            Err(error) => {
                self.told = false;
                warn!(%error, "the crash guard does not listen; telling it again later");
            }
        }
    }

    /// The guard takes it for the daemon's end.
    fn hang_up(&mut self) {
        self.over = true;
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }
}

/// One message, whole or not at all.
fn tell(socket: &OwnedFd, bytes: &[u8]) -> Result<(), Errno> {
    send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).map(|_| ())
}

/// The guard never says anything: that its socket hangs up is all there is.
/// False after [`TELL_AFTER`] milliseconds without that.
fn wait_for_end(socket: &OwnedFd) -> bool {
    let mut end = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    !matches!(poll(&mut end, PollTimeout::from(TELL_AFTER)), Err(Errno::EINTR) | Ok(0))
}

/// Waits until a child has ended; it is not reaped yet, so that its number
/// stays its own.
fn wait_for_zombie(child: u32) {
    let Ok(child) = i32::try_from(child) else { return };
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(Pid::from_raw(child)), ended) == Err(Errno::EINTR) {}
}

fn start(program: &Path) -> io::Result<(OwnedFd, Child)> {
    // Messages arrive whole, and only the last end to close ends it.
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    if setsockopt(&ours, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        setsockopt(&ours, sockopt::SndBuf, &SEND_BUFFER)?;
    }
    let child = Command::new(program)
        .arg0("vipd")
        .arg("guard")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        // A terminal's Ctrl-C is for the daemon.
        .process_group(0)
        .spawn()?;
    Ok((ours, child))
}
