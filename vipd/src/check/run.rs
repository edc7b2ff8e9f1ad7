//! The task of one server: it probes, reports, and waits for the next turn.

use super::dial::{Obstacle, Way};
use super::pace::Pace;
use super::prober::Prober;
use super::{Place, Report, Target};
use crate::net::clock;
use crate::resolve::Lookup;
use futures_util::FutureExt as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use vipd_core::pool::reached;
use vipd_core::probe::Probe;
use vipd_core::settings::{Host, ProxyProtocol, Source};

/// How long a check that is no longer wanted may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(200);

/// What a probe is doing at the moment, for the text of a time-out.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<Mutex<String>>);

impl Progress {
    pub(super) fn set(&self, step: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    pub(super) fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The task.
pub(super) struct Run {
    host: Host,
    port: u16,
    proxy: Option<ProxyProtocol>,
    source: Source,
    from: Option<IpAddr>,
    timeout: Duration,
    pace: Pace,
    prober: Prober,
    lookup: Lookup,
    place: watch::Receiver<Place>,
    hurry: Arc<Notify>,
    reports: mpsc::Sender<Report>,
    progress: Progress,
}

impl Run {
    pub(super) fn new(
        target: &Target,
        lookup: Lookup,
        place: watch::Receiver<Place>,
        hurry: Arc<Notify>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            host: target.endpoint.host.clone(),
            port: target.endpoint.port,
            proxy: target.endpoint.proxy,
            source: target.endpoint.source,
            from: target.endpoint.from,
            timeout: target.check.timeout,
            pace: Pace::new(&target.check, &target.endpoint),
            prober: Prober::new(target),
            lookup,
            place,
            hurry,
            reports,
            progress: Progress::default(),
        }
    }

    /// Runs until the sender of `place` is dropped.
    pub(super) async fn run(mut self) {
        let mut wanted = self.place.clone();
        tokio::select! {
            () = self.turns() => {}
            // Changes of the place are read with each report; only the end matters.
            () = async { while wanted.changed().await.is_ok() {} } => {}
        }
        // A server that does not listen is not waited for.
        let _: Result<(), tokio::time::error::Elapsed> =
            tokio::time::timeout(GOODBYE, self.prober.close()).await;
    }

    /// Probes until nobody takes the reports.
    async fn turns(&mut self) {
        let mut turn = Instant::now() + self.pace.first();
        tokio::time::sleep_until(turn).await;
        loop {
            let (start, began) = (Instant::now(), clock::now());
            // Who asked for a probe until now is served by this one.
            let asked_for = self.hurry.notified().now_or_never().is_some();
            if self.pace.wants_login(start) || asked_for {
                self.prober.renew();
            }
            let (probe, address) = self.probe(start + self.timeout).await;
            if matches!(probe, Probe::Failed(_)) {
                // The name may have moved on: ask before its time to live is over.
                self.lookup.refresh();
            }
            match probe {
                Probe::Answered(_) | Probe::Full(_) => self.pace.saw(true, Instant::now()),
                Probe::Failed(_) => self.pace.saw(false, Instant::now()),
                Probe::Unable(_) => {}
            }
            let Place { generation, pool, server } = *self.place.borrow();
            let report = Report { generation, pool, server, probe, address, began, took: start.elapsed() };
            if self.reports.send(report).await.is_err() {
                return;
            }
            // A probe that ran over its turn is followed by the next at once,
            // but by one only: turns that were missed are not made up for.
            turn = (turn + self.pace.gap(Instant::now())).max(Instant::now());
            tokio::select! {
                () = tokio::time::sleep_until(turn) => {}
                () = self.hurry.notified() => {
                    self.prober.renew();
                    turn = turn.min((start + self.pace.shortest()).max(Instant::now()));
                    tokio::time::sleep_until(turn).await;
                }
            }
        }
    }

    async fn probe(&mut self, deadline: Instant) -> (Probe, Option<SocketAddr>) {
        let progress = self.progress.clone();
        if !self.lookup.is_answered() {
            progress.set(format!("resolving {}", self.host));
        }
        let asked = async {
            let known = self.lookup.addresses().await.map_err(Obstacle::Server)?;
            // Those that clients' connections go to.
            let known = reached(self.source, &known);
            let addresses: Vec<_> = known.map(|a| SocketAddr::new(a, self.port)).collect();
            let way = Way { addresses: &addresses, deadline, proxy: self.proxy, source: self.from };
            self.prober.probe(way, &progress).await
        };
        match tokio::time::timeout_at(deadline, asked).await {
            Ok(Ok((address, observation))) => (Probe::Answered(observation), Some(address)),
            Ok(Err(Obstacle::Server(reason))) => (Probe::Failed(reason), None),
            Ok(Err(Obstacle::Full(reason))) => (Probe::Full(reason), None),
            Ok(Err(Obstacle::Host(reason))) => (Probe::Unable(reason), None),
            Err(_) => {
                let text = format!("timed out after {:?} while {}", self.timeout, progress.get());
                (Probe::Failed(text), None)
            }
        }
    }
}
