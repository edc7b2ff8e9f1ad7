//! Applications that know a name: each resolves it, connects to the first
//! address that lets it, asks and is answered, again and again.

use super::answers::Answers;
use super::dns::Resolver;
use crate::lab::Host;
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A host that does not answer by then is not waited for: the next address.
const CONNECT_WITHIN: Duration = Duration::from_millis(250);

/// So many applications; they stop when dropped. Each answer is by the address
/// that gave it.
#[derive(Debug)]
pub struct NamedProbe {
    answers: Arc<Answers>,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    second_choice: AtomicU64,
    failed: AtomicU64,
}

impl NamedProbe {
    /// Starts `count` of them on `host`; each asks once in `every`.
    ///
    /// # Errors
    /// If a socket cannot be opened, or the name is none.
    pub fn start(
        host: &Host,
        (server, name): (SocketAddr, &str),
        port: u16,
        count: usize,
        every: Duration,
    ) -> Result<Self> {
        // Hundreds of connections a second would use up the ports otherwise.
        host.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        let probe = Self { answers: Arc::default(), tally: Arc::default(), stop: Arc::default() };
        for _ in 0..count {
            let resolver = Resolver::new(host, server, name)?;
            let (answers, tally) = (Arc::clone(&probe.answers), Arc::clone(&probe.tally));
            let stop = Arc::clone(&probe.stop);
            // Nobody joins them: they end when told.
            let _thread = host.thread(move || {
                while !stop.load(Ordering::Relaxed) {
                    let next = Instant::now() + every;
                    tally.once(&resolver, port, &answers);
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                Ok(())
            });
        }
        Ok(probe)
    }

    /// How many asked and were answered, how many of those by another than the
    /// first address, and how many got no answer at all.
    #[must_use]
    pub fn totals(&self) -> (u64, u64, u64) {
        let Tally { answered, second_choice, failed } = &*self.tally;
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (get(answered), get(second_choice), get(failed))
    }
}

impl Tally {
    fn once(&self, resolver: &Resolver, port: u16, answers: &Answers) {
        let addresses = resolver.ask().unwrap_or_default();
        for (choice, address) in addresses.into_iter().enumerate() {
            if converse(address, port).is_ok() {
                answers.push(&address.to_string().into());
                self.answered.fetch_add(1, Ordering::Relaxed);
                if choice > 0 {
                    self.second_choice.fetch_add(1, Ordering::Relaxed);
                }
                return;
            }
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// A line there and a line back.
fn converse(address: IpAddr, port: u16) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT_WITHIN)?;
    stream.set_read_timeout(Some(CONNECT_WITHIN))?;
    stream.write_all(b"hello\n")?;
    let mut byte = [0];
    stream.read_exact(&mut byte).context("no answer")
}

impl Deref for NamedProbe {
    type Target = Answers;

    fn deref(&self) -> &Answers {
        &self.answers
    }
}

impl Drop for NamedProbe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
