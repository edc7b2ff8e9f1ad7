//! The guard's side: what it does when the daemon is gone, or stands still.

use super::{Farewell, Message, State, spots};
use crate::kernel::request::Requester;
use crate::kernel::{self, Spot};
use crate::net::advert::send_once;
use crate::net::clock;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::time::Duration;
use vipd_core::time::Time;

/// How long the guard waits, in milliseconds, for the end of a process whose
/// sockets are being closed; measured well under 1 ms.
const LAST_WORDS: u8 = 10;
/// A deletion that failed is tried again after this.
const DELETE_AGAIN: Duration = Duration::from_millis(100);
/// And given up after this: systemd starts no other daemon before the guard has
/// ended, and that one removes what is left, or says why it cannot. The kernel
/// ends the addresses' own lifetime meanwhile, where it can do that much.
const DELETE_FOR: Duration = Duration::from_secs(2);

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
    let requester = match requester {
        Ok(requester) => requester,
        Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
    };
    requester.delete(spots)?;
    // What somebody put elsewhere: the daemon evicts that at once, unless it stood
    // still. So there is hardly any, and who has no memory to look for it goes on.
    let copies = requester.copies(spots).unwrap_or_default();
    requester.delete(&copies)
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
    if let Err(error) = kernel::forget_held(&last.runtime_dir) {
        complain("note that a dead daemon holds nothing any more", error);
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
    use std::path::Path;
    use vipd_core::node::{GuardState, Watch};
    use vipd_core::settings::Cidr;

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
