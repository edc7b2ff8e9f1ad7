//! A datagram every millisecond, and who answers it.

use super::left;
use crate::lab::Host;
use crate::lab::process::lock;
use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, ppoll};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When it arrived.
    pub at: Instant,
    /// Who gave it.
    pub by: Arc<str>,
}

/// Two answers that followed each other.
#[derive(Clone, Debug)]
pub struct Gap {
    /// When the last answer before it arrived.
    pub from: Instant,
    /// How long no answer came.
    pub length: Duration,
    /// Who answered last.
    pub before: Arc<str>,
    /// Who answered then; nobody yet when absent.
    pub after: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Record {
    answers: Mutex<Vec<Answer>>,
    arrived: Condvar,
    /// The longest time by which the probe itself was late.
    late: Mutex<Duration>,
}

/// Asks an echo responder (`lab-tool echo`) again and again; it stops when
/// dropped.
#[derive(Debug)]
pub struct EchoProbe {
    record: Arc<Record>,
    stop: Arc<AtomicBool>,
}

impl EchoProbe {
    /// Asks `target` from `host` once in `every`.
    ///
    /// # Errors
    /// If a socket cannot be opened.
    pub fn start(host: &Host, target: SocketAddr, every: Duration) -> Result<Self> {
        let socket = host.inside(|| {
            let any: SocketAddr =
                if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
            let socket = UdpSocket::bind(any).context("cannot open a UDP socket")?;
            socket.set_nonblocking(true).context("cannot make a socket non-blocking")?;
            Ok(socket)
        })?;
        let record = Arc::new(Record::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (Arc::clone(&record), Arc::clone(&stop));
        std::thread::spawn(move || ask(&socket, target, every, &kept, &stopped));
        Ok(Self { record, stop })
    }

    /// Waits for an answer by `name` to a question asked from now on.
    ///
    /// # Errors
    /// If none comes within `patience`.
    pub fn wait_for(&self, name: &str, patience: Duration) -> Result<Answer> {
        self.wait_until(patience, |answer| &*answer.by == name)
            .with_context(|| format!("no answer by {name} within {patience:?}"))
    }

    /// Waits for an answer by anybody to a question asked from now on.
    ///
    /// # Errors
    /// If none comes within `patience`.
    pub fn wait_for_any(&self, patience: Duration) -> Result<Answer> {
        self.wait_until(patience, |_| true).with_context(|| format!("no answer within {patience:?}"))
    }

    fn wait_until(&self, patience: Duration, wanted: impl Fn(&Answer) -> bool) -> Result<Answer> {
        let deadline = Instant::now() + patience;
        let mut answers = lock(&self.record.answers);
        let mut seen = answers.len();
        loop {
            if let Some(found) = answers[seen..].iter().find(|a| wanted(a)) {
                return Ok(found.clone());
            }
            seen = answers.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the last answer was {:?}", answers.last().map(|a| (a.at.elapsed(), &a.by)));
            }
            let waited = self.record.arrived.wait_timeout(answers, left);
            answers = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// The answers since a point in time.
    #[must_use]
    pub fn answers(&self, since: Instant) -> Vec<Answer> {
        lock(&self.record.answers).iter().filter(|a| a.at >= since).cloned().collect()
    }

    /// The longest time without an answer that ended after `since` or has not
    /// ended; nothing if there never was an answer.
    #[must_use]
    pub fn longest_gap(&self, since: Instant) -> Option<Gap> {
        let answers = lock(&self.record.answers);
        let last = answers.last()?;
        let open =
            Gap { from: last.at, length: last.at.elapsed(), before: Arc::clone(&last.by), after: None };
        let gaps = answers.windows(2).filter(|w| w[1].at >= since).map(|w| Gap {
            from: w[0].at,
            length: w[1].at.saturating_duration_since(w[0].at),
            before: Arc::clone(&w[0].by),
            after: Some(Arc::clone(&w[1].by)),
        });
        gaps.chain([open]).max_by_key(|g| g.length)
    }

    /// By how much the probe itself was late at worst, since the last call:
    /// what it cannot tell from an outage.
    #[must_use]
    pub fn take_lateness(&self) -> Duration {
        std::mem::take(&mut *lock(&self.record.late))
    }
}

impl Drop for EchoProbe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn ask(socket: &UdpSocket, target: SocketAddr, every: Duration, record: &Record, stop: &AtomicBool) {
    let mut buffer = [0; 128];
    let mut names: Vec<Arc<str>> = Vec::new();
    let mut next = Instant::now();
    let mut number: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            let late = now - next;
            if late > Duration::from_millis(1) {
                let mut worst = lock(&record.late);
                *worst = late.max(*worst);
            }
            number += 1;
            // Refusals (nobody there, cable out) are what is being measured.
            let _ = socket.send_to(&number.to_be_bytes(), target);
            next = (next + every).max(now);
        }
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let _ = ppoll(&mut fds, Some(left(next)), None);
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // An answer from another address than the one asked is none.
            let Some(name) = buffer[..length].get(8..).filter(|_| from == target) else { continue };
            let name = String::from_utf8_lossy(name);
            let by = names.iter().find(|n| ***n == *name).cloned().unwrap_or_else(|| {
                names.push(name.as_ref().into());
                name.as_ref().into()
            });
            lock(&record.answers).push(Answer { at: Instant::now(), by });
            record.arrived.notify_all();
        }
    }
}
