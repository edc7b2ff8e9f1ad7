//! The crash guard: a tiny process that outlives the daemon by milliseconds.
//!
//! The daemon starts it before anything else and keeps it informed of what it
//! holds through a socket. When the daemon dies without a goodbye (SIGKILL, the
//! OOM killer, an abort), the kernel closes the socket; the guard then deletes
//! the floating addresses and sends the releases that the daemon could not
//! send, so that the next owner takes over at once instead of after a silence.
//!
//! ```text
//!  daemon ── update (whole state) ──► guard: remembers the newest
//!  daemon ── end of file ───────────► guard: waits until the process is gone,
//!                                     deletes the addresses, and only then
//!                                     sends the releases and gives votes and
//!                                     ARP switches back
//!  daemon ── SIGKILL ───────────────► guard: ends, does nothing
//! ```
//! A guard that was frozen meanwhile may wake when the next daemon owns the
//! addresses already: that one has written its process id into the lock's file.
//!
//! Until the daemon is really gone the guard waits: while its sockets are being
//! closed the addresses must still be there, so that clients get their FIN or RST.

use crate::control::instance::Instance;
use crate::kernel::request::Requester;
use crate::kernel::{self, LOOPBACK, Spot};
use crate::net::advert::send_once;
use crate::net::clock;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, setsockopt, shutdown, socketpair,
    sockopt,
};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::warn;
use vipd_core::node::{GuardState, Transmit, Watch};
use vipd_core::settings::Cidr;
use vipd_core::time::Time;

/// How long the guard waits, in milliseconds, for the end of a process whose
/// sockets are being closed; measured well under 1 ms.
const LAST_WORDS: u8 = 10;
/// A guard that cannot be started is tried again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// A guard that did not take the newest state is told it again after this.
const TELL_AFTER: u16 = 1_000;
/// A deletion that failed is tried again after this.
const DELETE_AGAIN: Duration = Duration::from_millis(100);
/// And given up after this: systemd starts no other daemon before the guard has
/// ended, and that one removes what is left, or says why it cannot. The kernel
/// ends the addresses' own lifetime meanwhile, where it can do that much.
const DELETE_FOR: Duration = Duration::from_secs(2);
/// Room for the largest state: 64 groups of 255 addresses in two families.
const SEND_BUFFER: usize = 8 << 20;

/// Interface, address and prefix length.
type Held = (u32, IpAddr, u8);

/// What the daemon tells its guard; each replaces what was told before.
#[derive(Debug, Default, Deserialize, Serialize)]
struct State {
    runtime_dir: PathBuf,
    /// The daemon's process id.
    daemon: u32,
    addresses: Vec<Held>,
    farewells: Vec<Farewell>,
    /// What is said to voters: where to, and the datagram.
    #[serde(default)]
    releases: Vec<(SocketAddr, Vec<u8>)>,
    /// What to delete at a time of `CLOCK_BOOTTIME` in nanoseconds, while the
    /// daemon still lives: it is frozen.
    #[serde(default)]
    watched: Vec<(u64, Vec<Held>)>,
}

/// A message to the guard.
#[derive(Debug, Deserialize, Serialize)]
enum Message {
    /// It replaces what was told before.
    State(State),
    /// The lease of these addresses ends then, of what was told of them before.
    Longer(u64, Vec<Held>),
}

#[derive(Debug, Deserialize, Serialize)]
struct Farewell {
    interface: u32,
    source: IpAddr,
    destination: IpAddr,
    /// Over UDP to this port, if not as protocol 112.
    port: Option<u16>,
    bytes: Vec<u8>,
}

impl State {
    fn new(
        state: &GuardState,
        port: Option<u16>,
        releases: Vec<(SocketAddr, Vec<u8>)>,
        runtime_dir: &Path,
    ) -> Self {
        let plain = |(interface, a): &(u32, Cidr)| (*interface, a.address(), a.prefix());
        let farewell = |packet: &Transmit| Farewell {
            interface: packet.interface,
            source: packet.source,
            destination: packet.destination,
            port,
            bytes: packet.bytes.clone(),
        };
        Self {
            runtime_dir: runtime_dir.to_owned(),
            daemon: std::process::id(),
            addresses: state.addresses.iter().map(plain).collect(),
            farewells: state.farewells.iter().map(farewell).collect(),
            releases,
            watched: state.watched.iter().map(end_of).collect(),
        }
    }

    /// A lease lasts longer.
    fn extend(&mut self, until: u64, addresses: &[Held]) {
        for (end, _) in self.watched.iter_mut().filter(|(_, watched)| watched == addresses) {
            *end = until;
        }
    }

    /// Whether another daemon has started since, which looks after what it found.
    fn is_superseded(&self) -> bool {
        Instance::claimant(&self.runtime_dir).is_some_and(|claimant| claimant != self.daemon)
    }

    /// Where the addresses may be: on their interface, or silently on loopback.
    fn spots(&self) -> Vec<Spot> {
        spots(&self.addresses)
    }

    /// When the next lease ends.
    fn next_end(&self) -> Option<Time> {
        self.watched.iter().map(|(until, _)| Time::from_nanos(*until)).min()
    }

    /// The addresses whose lease is over; as long as they are not deleted.
    fn over(&self, now: Time) -> Vec<Held> {
        let over = self.watched.iter().filter(|(until, _)| *until <= now.as_nanos());
        over.flat_map(|(_, addresses)| addresses.clone()).collect()
    }

    /// What was over by then is deleted, or is looked at again at a later time.
    fn settle(&mut self, now: Time, again: Option<Time>) {
        match again {
            None => self.watched.retain(|(until, _)| *until > now.as_nanos()),
            Some(again) => {
                for (until, _) in self.watched.iter_mut().filter(|(until, _)| *until <= now.as_nanos()) {
                    *until = again.as_nanos();
                }
            }
        }
    }
}

fn end_of(watch: &Watch) -> (u64, Vec<Held>) {
    let plain = |(interface, a): &(u32, Cidr)| (*interface, a.address(), a.prefix());
    (watch.until.as_nanos(), watch.addresses.iter().map(plain).collect())
}

fn spots(addresses: &[Held]) -> Vec<Spot> {
    let mut spots = vec![];
    for (interface, address, prefix) in addresses {
        let host = if address.is_ipv4() { 32 } else { 128 };
        let on_link = Cidr::new(*address, *prefix).map(|address| Spot { interface: *interface, address });
        let silent = Cidr::new(*address, host).map(|address| Spot { interface: LOOPBACK, address });
        spots.extend(on_link.into_iter().chain(silent));
    }
    spots
}

// ---- the daemon's side ------------------------------------------------------

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
            // With the next whole state it is.
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

// ---- the guard's side -------------------------------------------------------

/// The guard process: listens to the daemon until it is gone.
#[must_use]
pub fn main() -> ExitCode {
    // Whoever stops the daemon means the daemon; the guard ends with it.
    if let Err(error) = SigSet::all().thread_block() {
        eprintln!("vipd guard: cannot ignore signals: {error}");
    }
    let _ = nix::sys::prctl::set_name(c"vipd-guard");
    // The last to go when memory is short, where that may be asked for.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let daemon = rustix::process::getppid();
    let daemon =
        daemon.and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
    // Opened now: later there may be no memory for it.
    let mut requester = Requester::open();
    let mut last: Option<State> = None;
    loop {
        wait_for_word(last.as_mut(), &mut requester);
        match next_message() {
            Ok(Some(Message::State(state))) => last = Some(state),
            Ok(Some(Message::Longer(until, addresses))) => {
                last.iter_mut().for_each(|last| last.extend(until, &addresses));
            }
            Ok(None) => break,
            Err(error) => {
                eprintln!("vipd guard: cannot hear the daemon, which must start me itself: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    let Some(last) = last else { return ExitCode::SUCCESS };
    if let Some(daemon) = &daemon {
        let mut gone = [PollFd::new(daemon.as_fd(), PollFlags::POLLIN)];
        // A time-out is as good: the sockets are closed in a moment.
        let _ = poll(&mut gone, PollTimeout::from(LAST_WORDS));
    }
    clean_up(&last, &mut |spots| delete(&mut requester, spots))
}

/// Waits until the daemon says something or ends. What a frozen daemon owns by
/// a lease that is over is deleted meanwhile: another node may own it soon.
fn wait_for_word(mut last: Option<&mut State>, requester: &mut io::Result<Requester>) {
    let stdin = io::stdin();
    let mut failed = false;
    loop {
        let wait = match last.as_ref().and_then(|l| l.next_end()) {
            // It counts whole milliseconds: late by one at most.
            Some(end) => {
                let wait = end.since(clock::now()) + Duration::from_millis(1);
                PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let mut word = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut word, wait) {
            Err(Errno::EINTR) | Ok(0) => {}
            Ok(_) | Err(_) => return,
        }
        let Some(last) = &mut last else { continue };
        delete_what_is_over(last, &mut failed, clock::now(), &mut |spots| delete(requester, spots));
    }
}

/// `failed`: it did not work the last time, and that was told.
fn delete_what_is_over(last: &mut State, failed: &mut bool, now: Time, delete: Delete<'_>) {
    let over = last.over(now);
    if over.is_empty() {
        // Nothing is held by what has ended: it is not to be looked at again at once, and again.
        return last.settle(now, None);
    }
    match delete(&spots(&over)) {
        Ok(()) => {
            last.settle(now, None);
            *failed = false;
            eprintln!(
                "vipd guard: the daemon stands still and its lease is over: {} floating addresses deleted",
                over.len()
            );
        }
        Err(error) => {
            last.settle(now, Some(now + DELETE_AGAIN));
            if !std::mem::replace(failed, true) {
                eprintln!(
                    "vipd guard: cannot delete what a frozen daemon owns, trying again: {error}; until then \
                     this host may answer beside the next owner"
                );
            }
        }
    }
}

/// How addresses are deleted: those that are not there are as good as deleted.
type Delete<'d> = &'d mut dyn FnMut(&[Spot]) -> io::Result<()>;

fn delete(requester: &mut io::Result<Requester>, spots: &[Spot]) -> io::Result<()> {
    if requester.is_err() {
        *requester = Requester::open();
    }
    match requester {
        Ok(requester) => requester.delete(spots),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

/// The next message that is understood; `None` at the end.
fn next_message() -> io::Result<Option<Message>> {
    let stdin = io::stdin();
    let socket = stdin.as_raw_fd();
    loop {
        let size = match recv(socket, &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            Ok(0) | Err(Errno::ECONNRESET) => return Ok(None),
            size => size?,
        };
        let mut bytes = vec![0; size];
        recv(socket, &mut bytes, MsgFlags::empty())?;
        match serde_json::from_slice(&bytes) {
            Ok(message) => return Ok(Some(message)),
            // What was told before holds.
            Err(error) => eprintln!("vipd guard: not understood: {error}"),
        }
    }
}

/// What became of a dead daemon's addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Addresses {
    /// They are not there any more.
    Deleted,
    /// Another daemon looks after them.
    Superseded,
    /// They may still be there.
    Left,
}

/// Deletes the addresses, for as long as that takes.
fn delete_all(last: &State, patience: Duration, delete: Delete<'_>) -> Addresses {
    let (start, spots) = (clock::now(), last.spots());
    let mut told = false;
    loop {
        if last.is_superseded() {
            eprintln!("vipd guard: another daemon looks after the addresses by now");
            return Addresses::Superseded;
        }
        let Err(error) = delete(&spots) else { break };
        if !std::mem::replace(&mut told, true) {
            eprintln!(
                "vipd guard: cannot delete the floating addresses of a dead daemon, trying again: {error}; nobody is \
                 told that they are free"
            );
        }
        if clock::now() - start >= patience {
            eprintln!(
                "vipd guard: given up after {patience:?}: {error}; the next start of vipd deletes {}, or you do \
                 (`vipctl release`). Nobody was told that they are free, and no vote was given back: those end by \
                 themselves",
                last.addresses.iter().map(|(_, a, _)| a.to_string()).collect::<Vec<_>>().join(", ")
            );
            return Addresses::Left;
        }
        std::thread::sleep(DELETE_AGAIN);
    }
    // It may have started meanwhile, and own.
    if last.is_superseded() { Addresses::Superseded } else { Addresses::Deleted }
}

/// Deletes first, then tells: two never answer for an address. While it is not
/// deleted nobody is told anything, and the promises last as long as they last.
fn clean_up(last: &State, delete: Delete<'_>) -> ExitCode {
    let start = clock::now();
    let addresses = delete_all(last, DELETE_FOR, delete);
    let mut clean = true;
    let mut complain = |what: &str, error: io::Error| {
        clean = false;
        eprintln!("vipd guard: cannot {what}: {error}");
    };
    match addresses {
        Addresses::Superseded => return ExitCode::SUCCESS,
        Addresses::Deleted => tell_others(last, start, &mut complain),
        // One that is held silently must not answer for it now.
        Addresses::Left => return ExitCode::FAILURE,
    }
    if let Err(error) = kernel::restore_switches(&last.runtime_dir) {
        complain("restore ARP settings for a dead daemon", error);
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tells the other nodes and the voters that the addresses are free.
fn tell_others(last: &State, start: Time, complain: &mut dyn FnMut(&str, io::Error)) {
    for farewell in &last.farewells {
        let Farewell { interface, source, destination, port, bytes } = farewell;
        let sent = match port {
            Some(port) => send_datagram(*source, SocketAddr::new(*destination, *port), bytes),
            None => send_once(*interface, *source, *destination, bytes),
        };
        if let Err(error) = sent {
            complain("release for a dead daemon", error);
        }
    }
    for (voter, bytes) in &last.releases {
        let any: IpAddr = if voter.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
        if let Err(error) = send_datagram(any, *voter, bytes) {
            complain("give a dead daemon's votes back", error);
        }
    }
    let took = clock::now() - start;
    eprintln!(
        "vipd guard: the daemon died; {} floating addresses deleted, {} releases sent within {took:?}",
        last.addresses.len(),
        last.farewells.len()
    );
}

/// The port it leaves from does not matter: the address and the seal say whose it is.
fn send_datagram(source: IpAddr, destination: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    std::net::UdpSocket::bind(SocketAddr::new(source, 0))?.send_to(bytes, destination).map(|_| ())
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
            ..GuardState::default()
        };
        let bytes = serde_json::to_vec(&State::new(&state, None, vec![], Path::new("/run/vipd")))?;
        let read: State = serde_json::from_slice(&bytes)?;
        assert_eq!(read.farewells.len(), 1);
        let spots = read.spots();
        assert_eq!(spots.len(), 2, "on the link, and silently on loopback");
        assert_eq!(spots[1].interface, LOOPBACK);
        assert!(serde_json::from_slice::<State>(&bytes[..bytes.len() - 1]).is_err());
        Ok(())
    }

    /// A state with an address, and a voter who listens.
    fn owning(dir: &Path) -> io::Result<(State, std::net::UdpSocket)> {
        let voter = std::net::UdpSocket::bind(("127.0.0.1", 0))?;
        voter.set_nonblocking(true)?;
        let address = Cidr::new(IpAddr::from([192, 0, 2, 100]), 24);
        let state = GuardState {
            addresses: address.map(|a| (2, a)).into_iter().collect(),
            watched: vec![Watch {
                until: Time::ZERO + Duration::from_secs(1),
                addresses: address.map(|a| (2, a)).into_iter().collect(),
            }],
            ..GuardState::default()
        };
        Ok((State::new(&state, None, vec![(voter.local_addr()?, vec![9])], dir), voter))
    }

    #[test]
    fn an_election_without_addresses_does_not_keep_the_guard_busy() {
        let mut state = State { watched: vec![(1_000, vec![])], ..State::default() };
        let now = Time::from_nanos(2_000);
        delete_what_is_over(&mut state, &mut false, now, &mut |_| panic!("there is nothing to delete"));
        assert_eq!(state.next_end(), None);
    }

    fn is_told(voter: &std::net::UdpSocket) -> bool {
        voter.recv(&mut [0; 8]).is_ok()
    }

    #[test]
    fn the_votes_are_given_back_when_the_addresses_are_deleted_and_not_before() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (state, voter) = owning(dir.path())?;
        let mut attempts = 0;
        let _ = clean_up(&state, &mut |spots| {
            attempts += 1;
            assert_eq!(spots.len(), 2);
            assert!(!is_told(&voter), "the voters may grant it to another while it is here");
            if attempts < 3 { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
        });
        assert_eq!(attempts, 3);
        assert!(is_told(&voter));
        Ok(())
    }

    #[test]
    fn addresses_that_cannot_be_deleted_are_told_to_nobody() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (state, voter) = owning(dir.path())?;
        let mut attempts = 0;
        let left = delete_all(&state, DELETE_AGAIN * 2, &mut |_| {
            attempts += 1;
            Err(io::ErrorKind::PermissionDenied.into())
        });
        assert_eq!((left, attempts > 1), (Addresses::Left, true));
        assert!(!is_told(&voter));
        Ok(())
    }

    #[test]
    fn what_a_frozen_daemon_owns_is_deleted_again_until_it_is() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (mut state, _) = owning(dir.path())?;
        let (mut failed, mut attempts) = (false, 0);
        let mut at = |state: &mut State, now: Time| {
            let answers = [Err(io::ErrorKind::OutOfMemory.into()), Ok(())];
            let mut answers = answers.into_iter().skip(attempts);
            delete_what_is_over(state, &mut failed, now, &mut |_| {
                attempts += 1;
                answers.next().unwrap_or(Ok(()))
            });
            attempts
        };
        let (end, other) = (Time::ZERO + Duration::from_secs(2), (9, IpAddr::from([192, 0, 2, 9]), 24));
        // It lasted longer than was told first; what is said of others changes nothing.
        let addresses = state.addresses.clone();
        state.extend(end.as_nanos(), &addresses);
        state.extend(end.as_nanos() * 2, &[other]);
        assert_eq!(at(&mut state, end.before(Duration::from_nanos(1))), 0, "its lease is not over");
        assert_eq!(at(&mut state, end), 1);
        assert_eq!(state.next_end(), Some(end + DELETE_AGAIN), "it has failed");
        assert_eq!(at(&mut state, end), 1);
        assert_eq!(at(&mut state, end + DELETE_AGAIN), 2);
        assert_eq!(state.next_end(), None, "it is done");
        Ok(())
    }
}
