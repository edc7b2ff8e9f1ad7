//! A datagram every millisecond, and who answers it.

use super::answers::Answers;
use super::left;
use crate::lab::Host;
use crate::lab::process::lock;
use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, ppoll};
use std::net::{SocketAddr, UdpSocket};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Asks an echo responder (`lab-tool echo`) again and again; it stops when
/// dropped.
#[derive(Debug)]
pub struct EchoProbe {
    answers: Arc<Answers>,
    /// The longest time by which the probe itself was late.
    late: Arc<Mutex<Duration>>,
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
        let probe = Self { answers: Arc::default(), late: Arc::default(), stop: Arc::default() };
        let (answers, late, stop) =
            (Arc::clone(&probe.answers), Arc::clone(&probe.late), Arc::clone(&probe.stop));
        std::thread::spawn(move || ask(&socket, target, every, &answers, &late, &stop));
        Ok(probe)
    }

    /// By how much the probe itself was late at worst, since the last call:
    /// what it cannot tell from an outage.
    #[must_use]
    pub fn take_lateness(&self) -> Duration {
        std::mem::take(&mut *lock(&self.late))
    }
}

impl Deref for EchoProbe {
    type Target = Answers;

    fn deref(&self) -> &Answers {
        &self.answers
    }
}

impl Drop for EchoProbe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn ask(
    socket: &UdpSocket,
    target: SocketAddr,
    every: Duration,
    answers: &Answers,
    worst: &Mutex<Duration>,
    stop: &AtomicBool,
) {
    let mut buffer = [0; 128];
    let mut names: Vec<Arc<str>> = Vec::new();
    let mut next = Instant::now();
    let mut number: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            let late = now - next;
            if late > Duration::from_millis(1) {
                let mut worst = lock(worst);
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
            let known = names.iter().find(|n| ***n == *name).cloned();
            let by = known.unwrap_or_else(|| {
                let new: Arc<str> = name.as_ref().into();
                names.push(Arc::clone(&new));
                new
            });
            answers.push(&by);
        }
    }
}
