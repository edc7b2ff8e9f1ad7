//! Checks: what each server of each pool says of itself, again and again.
//!
//! One task a server: it probes, reports, and waits for the next turn. A
//! probe ends by its time limit and two never overlap, so an unreachable
//! server costs one socket and next to no CPU. What a result means is not
//! decided here but in `vipd_core::health`.
//!
//! A kind of check is a file (or directory) here and an arm of [`Prober`].
//! Everything runs on the runtime given to [`Checker::start`], which must not
//! be the election's.

mod dial;
mod mysql;
mod tcp;

use crate::resolve::{Lookup, Resolver};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use vipd_core::probe::{Observation, Probe};
use vipd_core::settings::{Check, CheckKind, Pool, Resolve};

/// First probes are spread over the interval, but come within this time, so
/// that a long interval does not leave a server unknown for as long.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// How long a check that is no longer wanted may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(200);

/// The result of one probe.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The generation of the settings in which `pool` and `server` are
    /// positions; a report of an older one waited in the queue during a
    /// reload and is to be dropped.
    pub generation: u64,
    /// The pool, as a position in the list of pools.
    pub pool: usize,
    /// The server, as a position in the pool.
    pub server: usize,
    /// What was seen.
    pub probe: Probe,
    /// The address that answered.
    pub address: Option<SocketAddr>,
    /// How long the probe took.
    pub took: Duration,
}

/// Runs the checks of all pools; they end when it is dropped.
#[derive(Debug)]
pub struct Checker {
    runtime: Handle,
    reports: mpsc::Sender<Report>,
    tasks: HashMap<(String, String), Task>,
    generation: u64,
}

/// Where a check's reports belong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Place {
    generation: u64,
    pool: usize,
    server: usize,
}

/// A running check; it ends when `place` is dropped.
#[derive(Debug)]
struct Task {
    target: Target,
    place: watch::Sender<Place>,
}

/// All that a check depends on: one that differs is another check.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Target {
    host: vipd_core::settings::Host,
    port: u16,
    kind: CheckKind,
    interval: Duration,
    timeout: Duration,
}

impl Checker {
    /// Starts the checks of all servers of `pools` that have one, on `runtime`.
    ///
    /// Addresses come from `resolver`, which must know the same pools. Results
    /// go to `reports`; a full channel delays the next probe, it loses nothing.
    #[must_use]
    pub fn start(
        runtime: Handle,
        pools: &[Pool],
        resolver: &Resolver,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let mut checker = Self { runtime, reports, tasks: HashMap::new(), generation: 0 };
        checker.apply(pools, resolver);
        checker
    }

    /// Takes over changed settings: checks that did not change go on, with
    /// their connections; reports carry the new generation, which is returned.
    /// Update `resolver` first.
    pub fn update(&mut self, pools: &[Pool], resolver: &Resolver) -> u64 {
        self.generation += 1;
        self.apply(pools, resolver);
        self.generation
    }

    /// The generation of the settings, as in [`Report::generation`]; starts at 0.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn apply(&mut self, pools: &[Pool], resolver: &Resolver) {
        let mut before = std::mem::take(&mut self.tasks);
        for (pool_at, pool) in pools.iter().enumerate() {
            let Some(Check { kind, interval, timeout, .. }) = &pool.check else { continue };
            for (server_at, server) in pool.servers.iter().enumerate() {
                // One that stands for many is checked once they are found.
                if matches!(server.resolve, Resolve::All | Resolve::Srv) {
                    continue;
                }
                let place = Place { generation: self.generation, pool: pool_at, server: server_at };
                let target = Target {
                    host: server.host.clone(),
                    port: server.port,
                    kind: kind.clone(),
                    interval: *interval,
                    timeout: *timeout,
                };
                let key = (pool.name.clone(), server.name.clone());
                let task = match before.remove(&key).filter(|task| task.target == target) {
                    Some(task) => {
                        task.place.send_replace(place);
                        task
                    }
                    None => self.spawn(&key, target, place, resolver),
                };
                self.tasks.insert(key, task);
            }
        }
    }

    fn spawn(&self, key: &(String, String), target: Target, place: Place, resolver: &Resolver) -> Task {
        let (sender, receiver) = watch::channel(place);
        let prober = match &target.kind {
            CheckKind::Tcp(_)
            | CheckKind::Http(_)
            | CheckKind::Postgres(_)
            | CheckKind::Redis(_)
            | CheckKind::Exec(_) => Prober::Tcp,
            CheckKind::Mysql(check) => {
                Prober::Mysql(Box::new(mysql::Prober::new(check.clone(), target.interval, target.timeout)))
            }
        };
        let run = Run {
            lookup: resolver.lookup(&target.host),
            target: target.clone(),
            prober,
            place: receiver,
            reports: self.reports.clone(),
            progress: Progress::default(),
        };
        let first = first_turn(key, target.interval);
        // Ends by itself when the sender of `place` is dropped.
        drop(self.runtime.spawn(run.run(first)));
        Task { target, place: sender }
    }
}

/// When a server's first probe comes: servers are spread by their names, so
/// that they are not all asked at once.
fn first_turn(key: &(String, String), interval: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let spread = u64::try_from(interval.min(FIRST_WITHIN).as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(hasher.finish() % spread)
}

/// What a probe is doing at the moment, for the text of a time-out.
#[derive(Clone, Debug, Default)]
struct Progress(Arc<Mutex<String>>);

impl Progress {
    fn set(&self, step: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A kind of check at work, with what it keeps from one probe to the next.
enum Prober {
    Tcp,
    Mysql(Box<mysql::Prober>),
}

impl Prober {
    /// Asks the server once. The future may be dropped at any point, at the
    /// end of the time limit.
    async fn probe(
        &mut self,
        addresses: &[SocketAddr],
        deadline: Instant,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), String> {
        match self {
            Self::Tcp => tcp::probe(addresses, deadline, progress).await.map_err(|e| e.to_string()),
            Self::Mysql(mysql) => mysql.probe(addresses, deadline, progress).await.map_err(|e| e.to_string()),
        }
    }

    /// Gives back what is kept.
    async fn close(self) {
        match self {
            Self::Tcp => {}
            Self::Mysql(mysql) => mysql.close().await,
        }
    }
}

/// The task of one server.
struct Run {
    target: Target,
    prober: Prober,
    lookup: Lookup,
    place: watch::Receiver<Place>,
    reports: mpsc::Sender<Report>,
    progress: Progress,
}

impl Run {
    async fn run(mut self, first: Duration) {
        let mut wanted = self.place.clone();
        tokio::select! {
            () = self.turns(first) => {}
            // Changes of the place are read with each report; only the end matters.
            () = async { while wanted.changed().await.is_ok() {} } => {}
        }
        // A server that does not listen is not waited for.
        let _: Result<(), tokio::time::error::Elapsed> =
            tokio::time::timeout(GOODBYE, self.prober.close()).await;
    }

    /// Probes until nobody takes the reports.
    async fn turns(&mut self, first: Duration) {
        let mut turn = tokio::time::interval_at(Instant::now() + first, self.target.interval);
        // A probe that ran over its turn is followed by the next at once, but
        // by one only: turns that were missed are not made up for.
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            let start = Instant::now();
            let (probe, address) = self.probe(start + self.target.timeout).await;
            if matches!(probe, Probe::Failed(_)) {
                // The name may have moved on: ask before its time to live is over.
                self.lookup.refresh();
            }
            let Place { generation, pool, server } = *self.place.borrow();
            let report = Report { generation, pool, server, probe, address, took: start.elapsed() };
            if self.reports.send(report).await.is_err() {
                return;
            }
        }
    }

    async fn probe(&mut self, deadline: Instant) -> (Probe, Option<SocketAddr>) {
        let progress = self.progress.clone();
        if !self.lookup.is_answered() {
            progress.set(format!("resolving {}", self.target.host));
        }
        let asked = async {
            let port = self.target.port;
            let known = self.lookup.addresses().await?;
            let addresses: Vec<_> = known.iter().map(|a| SocketAddr::new(*a, port)).collect();
            self.prober.probe(&addresses, deadline, &progress).await
        };
        match tokio::time::timeout_at(deadline, asked).await {
            Ok(Ok((address, observation))) => (Probe::Answered(observation), Some(address)),
            Ok(Err(reason)) => (Probe::Failed(reason), None),
            Err(_) => {
                let text = format!("timed out after {:?} while {}", self.target.timeout, progress.get());
                (Probe::Failed(text), None)
            }
        }
    }
}

#[cfg(test)]
mod tests;
