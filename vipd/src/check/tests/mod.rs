//! Checks against servers made by hand on 127.0.0.1.

mod exec;
mod http;
mod mysql;
mod postgres;
mod redis;
mod schedule;
mod tcp;
mod tls;

use super::*;
use crate::resolve::Resolver;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use vipd_core::probe::Observation;
use vipd_core::settings::{CheckKind, Own, Role, Server, TcpCheck};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const LIMIT: Duration = Duration::from_secs(20);

fn pool(name: &str, kind: CheckKind, ports: &[u16]) -> Pool {
    let host = Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let server = |port: &u16| Server::new(format!("db{port}"), host.clone(), *port);
    let interval = Duration::from_millis(50);
    let check = Check { interval, timeout: LIMIT, rise: 1, fall: 1, ..Check::new(kind) };
    Pool { check: Some(check), ..Pool::new(name, ports.iter().map(server).collect()) }
}

/// A pool whose checks give up soon.
fn hasty(kind: CheckKind, port: u16) -> Pool {
    let mut pool = pool("a", kind, &[port]);
    if let Some(check) = &mut pool.check {
        check.timeout = Duration::from_millis(150);
    }
    pool
}

fn way(addresses: &[SocketAddr], deadline: Instant) -> dial::Way<'_> {
    dial::Way { addresses, deadline, proxy: None, source: None }
}

struct Lab {
    checker: Checker,
    resolver: Resolver,
    reports: mpsc::Receiver<Report>,
}

impl Lab {
    fn start(pools: &[Pool]) -> Self {
        let (sender, reports) = mpsc::channel(64);
        let resolver = Resolver::start(Handle::current(), pools, Own::default(), mpsc::channel(64).0);
        let checker = Checker::start(Handle::current(), pools, &resolver, sender);
        Self { checker, resolver, reports }
    }

    fn update(&mut self, pools: &[Pool]) {
        self.resolver.update(pools, Own::default());
        self.checker.update(pools, &self.resolver);
    }

    async fn report(&mut self) -> Result<Report, Box<dyn std::error::Error>> {
        Ok(tokio::time::timeout(LIMIT, self.reports.recv()).await?.ok_or("the checker has ended")?)
    }

    /// Waits for a failure, whatever a busy machine makes of earlier probes.
    async fn until_failed(&mut self, text: &str) -> Outcome {
        while self.report().await?.probe != Probe::Failed(text.to_owned()) {}
        Ok(())
    }

    async fn failure(&mut self) -> Result<String, Box<dyn std::error::Error>> {
        match self.report().await?.probe {
            Probe::Failed(text) => Ok(text),
            other @ (Probe::Answered(_) | Probe::Full(_) | Probe::Unable(_)) => {
                Err(format!("{other:?}").into())
            }
        }
    }
}

/// A listener that hands every connection to `serve`, and counts them.
async fn server<F, S>(serve: F) -> Result<(u16, Arc<AtomicUsize>), std::io::Error>
where
    F: Fn(TcpStream) -> S + Send + 'static,
    S: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    drop(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            drop(tokio::spawn(serve(stream)));
        }
    }));
    Ok((port, taken))
}

/// What a check makes of a server that says this, whatever it is asked, and
/// hangs up when the check does.
async fn said(kind: CheckKind, bytes: &'static [u8]) -> Result<Probe, Box<dyn std::error::Error>> {
    let serve = move |mut stream: TcpStream| async move {
        stream.write_all(bytes).await?;
        stream.read_to_end(&mut Vec::new()).await.map(drop)
    };
    let (port, _) = server(serve).await?;
    let mut lab = Lab::start(&[pool("a", kind, &[port])]);
    let probe = lab.report().await?.probe;
    let of_peer = |text: String| text.replace(&format!("127.0.0.1:{port}"), "PEER");
    Ok(match probe {
        Probe::Failed(text) => Probe::Failed(of_peer(text)),
        Probe::Full(text) => Probe::Full(of_peer(text)),
        other @ (Probe::Answered(_) | Probe::Unable(_)) => other,
    })
}

/// A check that was told to connect anew, and finds the server full or itself
/// refused, goes on over its connection. A full one is tried `again` each time
/// that clients fail, but no account until it is locked.
async fn stays_with_what_it_has<F, S>(kind: CheckKind, again: bool, serve: F) -> Outcome
where
    F: Fn(TcpStream) -> S + Send + 'static,
    S: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let (port, taken) = server(serve).await?;
    let mut lab = Lab::start(&[pool("a", kind, &[port])]);
    let good = |probe: &Probe| matches!(probe, Probe::Answered(Observation { unready: None, .. }));
    let probe = lab.report().await?.probe;
    assert!(good(&probe), "{probe:?}");
    goes_on(&mut lab, port, &taken, again, good).await
}

async fn goes_on(
    lab: &mut Lab,
    port: u16,
    taken: &AtomicUsize,
    again: bool,
    good: impl Fn(&Probe) -> bool,
) -> Outcome {
    for tries in 2..5 {
        lab.checker.hurry("a", &format!("db{port}"));
        while taken.load(Ordering::SeqCst) < if again { tries } else { 2 } {
            let probe = lab.report().await?.probe;
            assert!(good(&probe), "{probe:?}");
        }
        // That of the refused login comes after it was taken.
        let probe = lab.report().await?.probe;
        assert!(good(&probe), "{probe:?}");
    }
    assert!(again || taken.load(Ordering::SeqCst) == 2, "{taken:?} logins");
    Ok(())
}

/// A server that hangs up on everybody, with or without a reset.
async fn hangs_up(reset: bool) -> Result<u16, std::io::Error> {
    let serve = move |mut stream: TcpStream| async move {
        // So that it is not the connecting that fails.
        stream.read_u8().await?;
        if reset {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        } else {
            while !matches!(stream.try_read(&mut [0; 512]), Ok(0) | Err(_)) {}
        }
        drop(stream);
        Ok(())
    };
    Ok(server(serve).await?.0)
}
