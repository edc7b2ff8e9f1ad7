//! Checks: what each server of each pool says of itself, again and again.
//!
//! One task a server: it probes, reports, and waits for the next turn. A
//! probe ends by its time limit and two never overlap, so an unreachable
//! server costs one socket and next to no CPU. What a result means is not
//! decided here but in `vipd_core::health`.
//!
//! ```text
//!  Checker ── a task a server: Run ── when: Pace
//!                                  └─ what: Prober ── tcp, http, mysql, ...
//! ```
//!
//! A kind of check is a file (or directory) here and a variant of `Prober`.
//! Everything runs on the runtime given to [`Checker::start`], which must not
//! be the election's.

mod dial;
pub(crate) mod exec;
mod http;
mod mysql;
mod pace;
pub(crate) mod password;
mod postgres;
mod prober;
mod redis;
mod renewal;
mod run;
mod stream;
mod tcp;
mod text;
pub(crate) mod tls;

use crate::resolve::Resolver;
use run::{Progress, Run};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use vipd_core::probe::Probe;
use vipd_core::settings::{Check, Host, Pool, ProxyProtocol, Resolve, Source};
use vipd_core::time::Time;

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
    /// When the probe began.
    pub began: Time,
    /// How long it took.
    pub took: Duration,
}

/// Runs the checks of all pools; they end when it is dropped.
#[derive(Debug)]
pub struct Checker {
    runtime: Handle,
    reports: mpsc::Sender<Report>,
    /// By the names of pool and server.
    tasks: HashMap<String, HashMap<String, Task>>,
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
    hurry: Arc<Notify>,
}

/// All that a check depends on: one that differs is another check.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Target {
    endpoint: Endpoint,
    /// Of the server itself.
    port: u16,
    check: Check,
}

/// What is asked: the server, at the port that the check wants.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Endpoint {
    pool: String,
    server: String,
    host: Host,
    /// The name that `host` was found at, as one of its addresses.
    found_at: Option<String>,
    port: u16,
    /// What its connections begin with.
    proxy: Option<ProxyProtocol>,
    /// Where clients' connections come from: its addresses are of that one's family.
    source: Source,
    /// Where its own come from, if not from where the kernel chooses.
    from: Option<IpAddr>,
}

impl Endpoint {
    /// The name that the server's certificate must have: what people call it.
    fn certified(&self) -> String {
        match (&self.host, &self.found_at) {
            (Host::Name(name), _) | (Host::Address(_), Some(name)) => name.clone(),
            (Host::Address(address), None) => address.to_string(),
        }
    }
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

    /// Probes a server now, with a new login, since it fails others: a
    /// connection to it did.
    ///
    /// Costs next to nothing, however often it is called: probes are no closer
    /// to each other than the fast interval, or a second. A server that is not
    /// checked is not probed.
    pub fn hurry(&self, pool: &str, server: &str) {
        if let Some(task) = self.tasks.get(pool).and_then(|servers| servers.get(server)) {
            task.hurry.notify_one();
        }
    }

    fn apply(&mut self, pools: &[Pool], resolver: &Resolver) {
        let mut before = std::mem::take(&mut self.tasks);
        for (pool_at, pool) in pools.iter().enumerate() {
            let Some(check) = &pool.check else { continue };
            let mut before = before.remove(&pool.name).unwrap_or_default();
            let mut tasks = HashMap::with_capacity(pool.servers.len());
            for (server_at, server) in pool.servers.iter().enumerate() {
                // One that stands for many is checked once they are found.
                if matches!(server.resolve, Resolve::All | Resolve::Srv) {
                    continue;
                }
                let place = Place { generation: self.generation, pool: pool_at, server: server_at };
                let endpoint = Endpoint {
                    pool: pool.name.clone(),
                    server: server.name.clone(),
                    host: server.host.clone(),
                    found_at: server.found_at.clone(),
                    port: check.port.unwrap_or(server.port),
                    // As HAProxy does: what listens at another port takes others than clients.
                    proxy: pool.proxy_protocol.filter(|_| check.port.is_none()),
                    source: pool.source,
                    from: pool.check_source,
                };
                let target = Target { endpoint, port: server.port, check: check.clone() };
                let task = match before.remove(&server.name).filter(|task| task.target == target) {
                    Some(task) => {
                        task.place.send_replace(place);
                        task
                    }
                    None => self.spawn(target, place, resolver),
                };
                tasks.insert(server.name.clone(), task);
            }
            self.tasks.insert(pool.name.clone(), tasks);
        }
    }

    fn spawn(&self, target: Target, place: Place, resolver: &Resolver) -> Task {
        let (place, receiver) = watch::channel(place);
        let hurry = Arc::new(Notify::new());
        let lookup = resolver.lookup(&target.endpoint.pool, &target.endpoint.host, target.port);
        let run = Run::new(&target, lookup, receiver, Arc::clone(&hurry), self.reports.clone());
        // Ends by itself when the sender of `place` is dropped.
        drop(self.runtime.spawn(run.run()));
        Task { target, place, hurry }
    }
}

#[cfg(test)]
mod tests;
