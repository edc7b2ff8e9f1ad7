//! Who holds which address: every change on every host, as its kernel tells it.
//!
//! A host holds an address that is on an interface of its network: it answers
//! for it. One that is on loopback only is held silently, as vipd does for a
//! moment during a switchover; that is kept apart.

use super::Host;
use super::process::lock;
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

/// An address that came to a host or went from it.
#[derive(Clone, Debug)]
pub struct Change {
    /// When the test heard of it.
    pub at: Instant,
    /// The host.
    pub host: Arc<str>,
    /// The address.
    pub address: IpAddr,
    /// Whether the host has it now.
    pub present: bool,
}

#[derive(Debug, Default)]
struct State {
    holders: BTreeMap<IpAddr, BTreeSet<Arc<str>>>,
    silent: BTreeMap<IpAddr, BTreeSet<Arc<str>>>,
    changes: Vec<Change>,
}

#[derive(Debug, Default)]
struct Board {
    state: Mutex<State>,
    sources: Mutex<Vec<Source>>,
    changed: Condvar,
}

/// What became of addresses on all hosts of a lab.
#[derive(Clone, Debug, Default)]
pub struct AddressLog {
    board: Arc<Board>,
}

impl AddressLog {
    /// The hosts that hold an address now, in order of their names.
    #[must_use]
    pub fn holders(&self, address: IpAddr) -> Vec<String> {
        lock(&self.board.state).holders_of(address)
    }

    /// Waits until no host holds an address silently.
    ///
    /// # Errors
    /// If one does for all of `patience`.
    pub fn wait_for_silence_to_end(&self, address: IpAddr, patience: Duration) -> Result<()> {
        let silent = |s: &mut State| s.silent.get(&address).is_some_and(|hosts| !hosts.is_empty());
        let state = lock(&self.board.state);
        let (mut state, _) = self
            .board
            .changed
            .wait_timeout_while(state, patience, silent)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        ensure!(
            !silent(&mut state),
            "{address} is held silently by {:?} after {patience:?}",
            state.silent.get(&address)
        );
        Ok(())
    }

    /// How many of these addresses each host holds now.
    #[must_use]
    pub fn count(&self, addresses: &[IpAddr], host: &str) -> usize {
        let state = lock(&self.board.state);
        addresses.iter().filter(|a| state.holders.get(a).is_some_and(|h| h.contains(host))).count()
    }

    /// Waits until exactly `hosts` hold an address; gives the time at which
    /// that was known.
    ///
    /// # Errors
    /// If it does not come about within `patience`.
    pub fn wait_for(&self, address: IpAddr, hosts: &[&str], patience: Duration) -> Result<Instant> {
        let mut wanted: Vec<&str> = hosts.to_vec();
        wanted.sort_unstable();
        let state = lock(&self.board.state);
        let (state, _) = self
            .board
            .changed
            .wait_timeout_while(state, patience, |s| s.holders_of(address) != wanted)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let held = state.holders_of(address);
        ensure!(held == wanted, "{address} is held by {held:?} after {patience:?}, not by {hosts:?}");
        let last = state.changes.iter().rev().find(|c| c.address == address).map(|c| c.at);
        Ok(last.unwrap_or_else(Instant::now))
    }

    /// Waits until one host holds an address, and gives its name.
    ///
    /// # Errors
    /// If none does, or several do, for all of `patience`.
    pub fn wait_for_one(&self, address: IpAddr, patience: Duration) -> Result<String> {
        let state = lock(&self.board.state);
        let (state, _) = self
            .board
            .changed
            .wait_timeout_while(state, patience, |s| s.holders_of(address).len() != 1)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut held = state.holders_of(address);
        ensure!(held.len() == 1, "{address} is held by {held:?} after {patience:?}, not by one host");
        Ok(held.remove(0))
    }

    /// A log with a hole proves nothing.
    fn assert_whole(&self) {
        let sources = lock(&self.board.sources);
        let overrun = sources.iter().find(|s| s.overrun).map(|s| Arc::clone(&s.host));
        drop(sources);
        assert!(overrun.is_none(), "the kernel of {overrun:?} told more than was read in time");
    }

    /// What became of an address since a point in time.
    ///
    /// # Panics
    /// If the kernel dropped what it had to tell.
    #[must_use]
    pub fn changes(&self, address: IpAddr, since: Instant) -> Vec<Change> {
        self.assert_whole();
        let state = lock(&self.board.state);
        state.changes.iter().filter(|c| c.address == address && c.at >= since).cloned().collect()
    }

    /// How long, in all, more than one host held an address since a point in
    /// time.
    ///
    /// # Panics
    /// If the kernel dropped what it had to tell.
    #[must_use]
    pub fn overlap(&self, address: IpAddr, since: Instant) -> Duration {
        self.assert_whole();
        let state = lock(&self.board.state);
        let mut holders = BTreeSet::new();
        let mut total = Duration::ZERO;
        let mut double_since: Option<Instant> = None;
        for change in state.changes.iter().filter(|c| c.address == address) {
            if change.present {
                holders.insert(&change.host);
            } else {
                holders.remove(&change.host);
            }
            match (double_since, holders.len() > 1) {
                (None, true) => double_since = Some(change.at),
                (Some(from), false) => {
                    total += change.at.saturating_duration_since(from.max(since));
                    double_since = None;
                }
                (None, false) | (Some(_), true) => {}
            }
        }
        total + double_since.map_or(Duration::ZERO, |from| from.max(since).elapsed())
    }

    /// Every change, for a test that failed.
    pub(crate) fn report(&self, start: Instant) -> String {
        let mut text = String::new();
        for change in &lock(&self.board.state).changes {
            let at = change.at.saturating_duration_since(start);
            let sign = if change.present { '+' } else { '-' };
            let Change { host, address, .. } = change;
            let _ = writeln!(text, "    {:3}.{:06} {sign}{address} {host}", at.as_secs(), at.subsec_micros());
        }
        text
    }

    fn record(&self, host: &Arc<str>, address: IpAddr, interface: u32, present: bool) {
        let mut state = lock(&self.board.state);
        if interface == LOOPBACK {
            let silent = state.silent.entry(address).or_default();
            if present {
                silent.insert(Arc::clone(host));
            } else {
                silent.remove(host);
            }
            self.board.changed.notify_all();
            return;
        }
        let holders = state.holders.entry(address).or_default();
        let changed = if present { holders.insert(Arc::clone(host)) } else { holders.remove(host) };
        // A renewed lifetime is told as a new address.
        if changed {
            state.changes.push(Change { at: Instant::now(), host: Arc::clone(host), address, present });
            self.board.changed.notify_all();
        }
    }
}

impl State {
    fn holders_of(&self, address: IpAddr) -> Vec<String> {
        self.holders.get(&address).into_iter().flatten().map(ToString::to_string).collect()
    }
}

/// Starts to watch a host; that ends with the lab.
pub(super) fn watch(host: &Host, log: &AddressLog) -> Result<()> {
    let socket = Arc::new(host.inside(subscribe)?);
    let name: Arc<str> = host.name().into();
    lock(&log.board.sources).push(Source {
        host: name,
        socket: Arc::clone(&socket),
        pending: VecDeque::new(),
        overrun: false,
    });
    let board: Weak<Board> = Arc::downgrade(&log.board);
    std::thread::spawn(move || {
        loop {
            let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, 200_u16);
            let Some(board) = board.upgrade() else { return };
            AddressLog { board }.gather();
        }
    });
    Ok(())
}

/// A host's kernel, and what it has told and is not in the log yet.
#[derive(Debug)]
struct Source {
    host: Arc<str>,
    socket: Arc<OwnedFd>,
    /// Address, interface, and whether it is there now.
    pending: VecDeque<(IpAddr, u32, bool)>,
    /// The kernel dropped what was not read in time.
    overrun: bool,
}

impl Source {
    fn read(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    let add =
                        |address, interface, present| self.pending.push_back((address, interface, present));
                    for_each_address(&buffer[..length], add);
                }
                // From now on nobody could say who held what.
                Err(Errno::ENOBUFS) => self.overrun = true,
                Err(_) => return,
            }
        }
    }
}

impl AddressLog {
    /// Takes in what the kernels have told so far. A test that is late must not
    /// see two hosts hold what one handed to the other: all are read twice, so
    /// that whatever went before an address came is known with it, and of what
    /// is then pending the goings are taken first.
    fn gather(&self) {
        let mut sources = lock(&self.board.sources);
        for _ in 0..2 {
            sources.iter_mut().for_each(Source::read);
        }
        loop {
            let gone = sources.iter().position(|s| s.pending.front().is_some_and(|(.., present)| !present));
            let next = gone.or_else(|| sources.iter().position(|s| !s.pending.is_empty()));
            let Some(source) = next.and_then(|n| sources.get_mut(n)) else { return };
            if let Some((address, interface, present)) = source.pending.pop_front() {
                self.record(&source.host, address, interface, present);
            }
        }
    }
}

/// The index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;
const RTM_NEWADDR: u16 = nix::libc::RTM_NEWADDR;
const RTM_DELADDR: u16 = nix::libc::RTM_DELADDR;

/// A socket that hears of every change, and first of what there is already.
fn subscribe() -> Result<OwnedFd> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
            .context("cannot open a netlink socket")?;
    // A burst of some hundred addresses must not overflow it. Only the
    // machine's own root may; others make do with less.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20));
    let groups = nix::libc::RTMGRP_IPV4_IFADDR | nix::libc::RTMGRP_IPV6_IFADDR;
    let groups = u32::try_from(groups).context("netlink groups are positive")?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups)).context("cannot bind a netlink socket")?;
    let mut request = Vec::new();
    request.extend(24_u32.to_ne_bytes()); // length
    request.extend(nix::libc::RTM_GETADDR.to_ne_bytes());
    let flags = u16::try_from(nix::libc::NLM_F_REQUEST | nix::libc::NLM_F_DUMP).context("16 bits")?;
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]); // sequence number, sender
    request.extend([0; 8]); // ifaddrmsg: every family, every interface
    send(socket.as_raw_fd(), &request, MsgFlags::empty()).context("cannot ask for addresses")?;
    Ok(socket)
}

/// Calls `f` for each address in a buffer of rtnetlink messages (rtnetlink(7)).
fn for_each_address(mut buffer: &[u8], mut f: impl FnMut(IpAddr, u32, bool)) {
    while let Some((length, kind)) = header(buffer) {
        let Some(message) = buffer.get(16..length) else { return };
        if (kind == RTM_NEWADDR || kind == RTM_DELADDR)
            && let Some(address) = address_of(message)
            && let Some(index) = message.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes)
        {
            f(address, index, kind == RTM_NEWADDR);
        }
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn header(buffer: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(buffer.get(..4)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(buffer.get(4..6)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    (length >= 16).then_some((length, kind))
}

/// `IFA_LOCAL`, or `IFA_ADDRESS` where there is none (IPv6).
fn address_of(message: &[u8]) -> Option<IpAddr> {
    let mut attributes = message.get(8..)?;
    let mut found = None;
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]);
        let value = attributes.get(4..length)?;
        let address = if let Ok(v4) = <[u8; 4]>::try_from(value) {
            Some(IpAddr::from(v4))
        } else {
            <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
        };
        if kind == nix::libc::IFA_LOCAL {
            return address;
        }
        if kind == nix::libc::IFA_ADDRESS {
            found = address;
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}
