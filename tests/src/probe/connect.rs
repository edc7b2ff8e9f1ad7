//! A TCP connection every millisecond, with one request and one answer each,
//! and what became of it.

use super::answers::Answers;
use super::{left, micros};
use crate::lab::Host;
use crate::lab::process::lock;
use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use serde::Serialize;
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections under way at once; beyond that the probe skips its turn, so as
/// to stay below the limit of file descriptors.
const UNDER_WAY: usize = 8_000;

/// What became of an attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The answer came.
    Answered,
    /// Nobody listens.
    Refused,
    /// Somebody cut it off.
    Reset,
    /// It was closed before the answer came.
    Closed,
    /// Nobody there.
    Unreachable,
    /// Nothing for too long.
    TimedOut,
}

/// One attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it began.
    pub at: Instant,
    /// How long the connection took to be made, if it was.
    pub connect: Option<Duration>,
    /// How long it took as a whole.
    pub total: Duration,
    /// What became of it.
    pub outcome: Outcome,
    /// The first word of the answer: the server's name.
    pub by: Option<Arc<str>>,
}

/// What became of all attempts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// How many there were.
    pub attempts: usize,
    /// How many were answered.
    pub answered: usize,
    /// How many met a closed port.
    pub refused: usize,
    /// How many were cut off or closed early.
    pub broken: usize,
    /// How many led nowhere.
    pub lost: usize,
    /// The slowest answered one, in microseconds.
    pub slowest_us: u64,
    /// The slowest connection made, in microseconds.
    pub slowest_connect_us: u64,
}

/// Connects again and again; it stops when dropped.
#[derive(Debug)]
pub struct ConnectProbe {
    finished: Arc<(Mutex<Vec<Attempt>>, Condvar)>,
    answers: Arc<Answers>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl ConnectProbe {
    /// Connects from `host` to `target` once in `every`; an attempt without an
    /// answer after `patience` has timed out.
    ///
    /// # Errors
    /// If the kernel has no epoll for it.
    pub fn start(host: &Host, target: SocketAddr, every: Duration, patience: Duration) -> Result<Self> {
        // A thousand connections a second would use up the ports otherwise.
        host.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        host.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        let finished = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot open an epoll")?;
        let answers = Arc::new(Answers::default());
        let mut run = Run {
            answers: Arc::clone(&answers),
            epoll,
            target,
            under_way: BTreeMap::new(),
            next_id: 0,
            finished: finished.clone(),
        };
        let stopped = Arc::clone(&stop);
        let thread = host.thread(move || {
            run.until_stopped(every, patience, &stopped);
            Ok(())
        });
        Ok(Self { finished, answers, stop, thread: Some(thread) })
    }

    /// Waits until an attempt that begins from now on is answered.
    ///
    /// # Errors
    /// If none is within `patience`.
    pub fn wait_answered(&self, patience: Duration) -> Result<Attempt> {
        let now = Instant::now();
        let wanted = |a: &&Attempt| a.at >= now && a.outcome == Outcome::Answered;
        let (finished, arrived) = &*self.finished;
        let guard = lock(finished);
        let (guard, _) = arrived
            .wait_timeout_while(guard, patience, |all| !all.iter().rev().take(64).any(|a| wanted(&a)))
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = guard.iter().find(wanted).cloned();
        found.with_context(|| format!("no connection is answered within {patience:?}"))
    }

    /// The answers as they came, of all connections together.
    #[must_use]
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// The finished attempts that began since a point in time, in the order of
    /// their beginnings.
    #[must_use]
    pub fn attempts(&self, since: Instant) -> Vec<Attempt> {
        let mut all: Vec<Attempt> =
            lock(&self.finished.0).iter().filter(|a| a.at >= since).cloned().collect();
        all.sort_by_key(|a| a.at);
        all
    }

    /// Stops, waits for the attempts under way, and gives all that began
    /// since a point in time.
    ///
    /// # Errors
    /// If the probe itself failed.
    pub fn finish(mut self, since: Instant) -> Result<Vec<Attempt>> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(self.attempts(since))
    }
}

impl Drop for ConnectProbe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Summary {
    /// Counts attempts.
    #[must_use]
    pub fn of(attempts: &[Attempt]) -> Self {
        let mut summary = Self { attempts: attempts.len(), ..Self::default() };
        for attempt in attempts {
            match attempt.outcome {
                Outcome::Answered => {
                    summary.answered += 1;
                    summary.slowest_us = summary.slowest_us.max(micros(attempt.total));
                }
                Outcome::Refused => summary.refused += 1,
                Outcome::Reset | Outcome::Closed => summary.broken += 1,
                Outcome::Unreachable | Outcome::TimedOut => summary.lost += 1,
            }
            let connect = attempt.connect.map_or(0, micros);
            summary.slowest_connect_us = summary.slowest_connect_us.max(connect);
        }
        summary
    }

    /// How many were not answered.
    #[must_use]
    pub const fn failed(&self) -> usize {
        self.attempts - self.answered
    }
}

/// A connection under way.
struct Pending {
    socket: Socket,
    at: Instant,
    connect: Option<Duration>,
    answer: Vec<u8>,
}

struct Run {
    epoll: Epoll,
    target: SocketAddr,
    /// By number, which is the order of their beginnings.
    under_way: BTreeMap<u64, Pending>,
    next_id: u64,
    finished: Arc<(Mutex<Vec<Attempt>>, Condvar)>,
    answers: Arc<Answers>,
}

impl Run {
    fn until_stopped(&mut self, every: Duration, patience: Duration, stop: &AtomicBool) {
        let mut events = vec![EpollEvent::empty(); 256];
        let mut next = Instant::now();
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            if stopping && self.under_way.is_empty() {
                return;
            }
            let now = Instant::now();
            if !stopping && now >= next {
                if self.under_way.len() < UNDER_WAY {
                    self.begin();
                }
                next = (next + every).max(now);
            }
            let deadline = if stopping { now + every } else { next };
            let mut fds = [nix::poll::PollFd::new(self.epoll.0.as_fd(), nix::poll::PollFlags::POLLIN)];
            // epoll_wait(2) counts in milliseconds; ppoll(2) on it does not.
            let _ = nix::poll::ppoll(&mut fds, Some(left(deadline)), None);
            let count = self.epoll.wait(&mut events, nix::sys::epoll::EpollTimeout::ZERO).unwrap_or(0);
            for event in &events[..count] {
                self.advance(event.data());
            }
            while let Some(first) = self.under_way.first_entry() {
                if first.get().at.elapsed() < patience {
                    break;
                }
                let pending = first.remove();
                self.finish(pending, Outcome::TimedOut);
            }
        }
    }

    fn begin(&mut self) {
        let at = Instant::now();
        let opened = Socket::new(Domain::for_address(self.target), Type::STREAM, None)
            .and_then(|s| s.set_nonblocking(true).and_then(|()| s.set_tcp_nodelay(true)).map(|()| s));
        let Ok(socket) = opened else { return };
        let started = socket.connect(&self.target.into());
        let pending = Pending { socket, at, connect: None, answer: Vec::new() };
        if let Err(e) = started
            && e.raw_os_error() != Some(nix::libc::EINPROGRESS)
        {
            self.finish(pending, outcome_of(&e));
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        if self.epoll.add(&pending.socket, EpollEvent::new(interest, id)).is_ok() {
            self.under_way.insert(id, pending);
        }
    }

    /// Takes an attempt as far as it gets.
    fn advance(&mut self, id: u64) {
        let Some(mut pending) = self.under_way.remove(&id) else { return };
        match pending.step() {
            Ok(None) => {
                self.under_way.insert(id, pending);
            }
            Ok(Some(outcome)) => self.finish(pending, outcome),
            Err(e) => self.finish(pending, outcome_of(&e)),
        }
    }

    fn finish(&self, pending: Pending, outcome: Outcome) {
        let text = String::from_utf8_lossy(&pending.answer);
        let attempt = Attempt {
            at: pending.at,
            connect: pending.connect,
            total: pending.at.elapsed(),
            outcome,
            by: text.split_whitespace().next().map(Into::into),
        };
        if let (Outcome::Answered, Some(by)) = (attempt.outcome, &attempt.by) {
            self.answers.push(by);
        }
        lock(&self.finished.0).push(attempt);
        self.finished.1.notify_all();
    }
}

impl Pending {
    fn step(&mut self) -> std::io::Result<Option<Outcome>> {
        if let Some(e) = self.socket.take_error()? {
            return Err(e);
        }
        if self.connect.is_none() {
            if self.socket.peer_addr().is_err() {
                return Ok(None);
            }
            self.connect = Some(self.at.elapsed());
            // A fresh socket has room for a few bytes.
            (&self.socket).write_all(b"ping\n")?;
        }
        let mut buffer = [0; 256];
        loop {
            match (&self.socket).read(&mut buffer) {
                Ok(0) => return Ok(Some(Outcome::Closed)),
                Ok(length) => self.answer.extend(&buffer[..length]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
            if self.answer.ends_with(b"\n") {
                return Ok(Some(Outcome::Answered));
            }
        }
    }
}

fn outcome_of(error: &std::io::Error) -> Outcome {
    if error.kind() == ErrorKind::ConnectionRefused {
        Outcome::Refused
    } else if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) {
        Outcome::Reset
    } else if error.kind() == ErrorKind::TimedOut {
        Outcome::TimedOut
    } else {
        Outcome::Unreachable
    }
}
