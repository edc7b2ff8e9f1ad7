//! A question of DNS every few milliseconds, and the addresses that come back.

use super::answers::Answers;
use crate::lab::Host;
use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longer than any answer in a lab takes.
const PATIENCE: Duration = Duration::from_millis(100);

/// Asks a server for a name again and again. Each answer is by its addresses,
/// sorted: `10.77.0.11 10.77.0.12`, or `none`.
#[derive(Debug)]
pub struct DnsProbe {
    answers: Arc<Answers>,
    stop: Arc<AtomicBool>,
}

impl DnsProbe {
    /// Asks `server` from `host` once in `every`.
    ///
    /// # Errors
    /// If a socket cannot be opened, or the name is none.
    pub fn start(host: &Host, server: SocketAddr, name: &str, every: Duration) -> Result<Self> {
        let resolver = Resolver::new(host, server, name)?;
        let probe = Self { answers: Arc::default(), stop: Arc::default() };
        let (answers, stop) = (Arc::clone(&probe.answers), Arc::clone(&probe.stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let next = Instant::now() + every;
                // No answer is a gap, as everywhere.
                if let Ok(addresses) = resolver.ask() {
                    answers.push(&text(&addresses).into());
                }
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Ok(probe)
    }
}

impl Deref for DnsProbe {
    type Target = Answers;

    fn deref(&self) -> &Answers {
        &self.answers
    }
}

impl Drop for DnsProbe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn text(addresses: &[IpAddr]) -> String {
    let sorted: BTreeSet<_> = addresses.iter().collect();
    match sorted.is_empty() {
        true => "none".to_owned(),
        false => sorted.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// Asks one server for the A records of one name.
#[derive(Debug)]
pub struct Resolver {
    socket: UdpSocket,
    name: Name,
}

impl Resolver {
    /// One on a host.
    ///
    /// # Errors
    /// If a socket cannot be opened, or the name is none.
    pub fn new(host: &Host, server: SocketAddr, name: &str) -> Result<Self> {
        let socket = host.inside(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot open a UDP socket")?;
            socket.connect(server).context("cannot reach the server")?;
            socket.set_read_timeout(Some(PATIENCE)).context("cannot set a time-out")?;
            Ok(socket)
        })?;
        Ok(Self { socket, name: Name::from_ascii(name).context("no domain name")? })
    }

    /// The addresses in the order of the answer.
    ///
    /// # Errors
    /// If none comes in time, or it makes no sense.
    pub fn ask(&self) -> Result<Vec<IpAddr>> {
        Ok(self.ask_with_ttl()?.0)
    }

    /// The same with the lowest TTL of the answer, in seconds; 0 if it is empty.
    ///
    /// # Errors
    /// If none comes in time, or it makes no sense.
    pub fn ask_with_ttl(&self) -> Result<(Vec<IpAddr>, u32)> {
        let mut query = Message::query();
        query.add_query(Query::query(self.name.clone(), RecordType::A));
        let id = query.metadata.id;
        self.socket.send(&query.to_vec().context("cannot write a query")?)?;
        let mut buffer = [0; 1232];
        let deadline = Instant::now() + PATIENCE;
        loop {
            ensure!(Instant::now() < deadline, "no answer in time");
            let length = self.socket.recv(&mut buffer)?;
            let answer = Message::from_vec(&buffer[..length]).context("cannot read an answer")?;
            // One that comes late is to a question before.
            if answer.metadata.id == id {
                let address = |data: &RData| data.ip_addr();
                let ttl = answer.answers.iter().map(|r| r.ttl).min().unwrap_or(0);
                return Ok((answer.answers.iter().filter_map(|r| address(&r.data)).collect(), ttl));
            }
        }
    }
}
