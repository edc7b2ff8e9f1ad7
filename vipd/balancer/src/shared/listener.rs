//! Listeners, as all workers share them, and who gets in.

use super::{Shared, take};
use crate::name::Name;
use crate::sources::{Source, Sources};
use crate::stats::{CAUSES, CloseCause, ListenerStats, Tally};
use arc_swap::ArcSwap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio::sync::Notify;
use vipd_core::settings::{Cidr, Listener};

/// A listener, as all workers share it.
#[derive(Debug)]
pub(crate) struct ListenerShared {
    /// The name of the listener at its address.
    name: Name,
    /// Its position in [`View::routes`], for as long as the process lives.
    pub(crate) slot: usize,
    max: AtomicU32,
    sessions: AtomicU32,
    /// Notified when a session ended or the limit was raised.
    freed: Notify,
    pub(crate) sources: Sources,
    /// Networks of proxies whose connections begin with a PROXY protocol header.
    proxies: ArcSwap<Vec<Cidr>>,
    access_log: AtomicBool,
    /// By worker.
    pub(crate) tallies: Vec<Tally>,
}

impl ListenerShared {
    pub(crate) fn new(name: &str, slot: usize, max: u32, workers: usize) -> Self {
        Self {
            name: Name::new(name),
            slot,
            max: AtomicU32::new(max),
            sessions: AtomicU32::new(0),
            freed: Notify::new(),
            sources: Sources::new(),
            proxies: ArcSwap::default(),
            access_log: AtomicBool::new(false),
            tallies: (0..workers).map(|_| Tally::default()).collect(),
        }
    }

    pub(crate) fn name(&self) -> Arc<String> {
        self.name.get()
    }

    pub(crate) fn sessions(&self) -> u32 {
        self.sessions.load(Ordering::SeqCst)
    }

    /// Takes settings, but for those that are in its [`Route`] or its sockets'.
    pub(crate) fn follow(&self, settings: &Listener) {
        self.name.set(&settings.name);
        self.sources.set(settings.max_per_source, settings.max_rate_per_source);
        self.proxies.store(Arc::new(settings.accept_proxy.clone()));
        self.access_log.store(settings.access_log, Ordering::Relaxed);
        self.max.store(settings.max_connections, Ordering::SeqCst);
        self.freed.notify_waiters();
    }

    /// Whether connections from here begin with a PROXY protocol header.
    pub(crate) fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxies.load().iter().any(|network| network.contains(peer))
    }

    pub(crate) fn logs_access(&self) -> bool {
        self.access_log.load(Ordering::Relaxed)
    }

    /// Room for one more session, or `None` at `max-connections`.
    pub(crate) fn try_admit(self: &Arc<Self>, shared: &Arc<Shared>) -> Option<Admission> {
        if !take(&self.sessions, self.max.load(Ordering::SeqCst)) {
            return None;
        }
        shared.sessions.fetch_add(1, Ordering::SeqCst);
        Some(Admission { listener: Arc::clone(self), shared: Arc::clone(shared), source: None })
    }

    /// Resolves while there is room.
    pub(crate) async fn room(&self) {
        self.when(|| (self.sessions() < self.max.load(Ordering::SeqCst)).then_some(())).await;
    }

    /// Room for one more session; at `max-connections` that of the next that ends.
    pub(crate) async fn admit(self: &Arc<Self>, shared: &Arc<Shared>) -> Admission {
        self.when(|| self.try_admit(shared)).await
    }

    /// Asks until there is an answer, anew whenever there may be room.
    async fn when<T>(&self, answer: impl Fn() -> Option<T>) -> T {
        loop {
            if let Some(answer) = answer() {
                return answer;
            }
            // Listen first, look again then: an end in between is not missed.
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(answer) = answer() {
                return answer;
            }
            freed.await;
        }
    }

    pub(crate) fn stats(&self) -> ListenerStats {
        let sum = |of: fn(&Tally) -> u64| self.tallies.iter().map(of).fold(0, u64::wrapping_add);
        let mut closed = [0; CAUSES];
        for (i, sum) in closed.iter_mut().enumerate() {
            *sum = self.tallies.iter().map(|t| t.closed[i].get()).sum();
        }
        ListenerStats {
            name: self.name().to_string(),
            addresses: vec![],
            sessions: self.sessions(),
            total: sum(|t| t.total.get()),
            bytes_in: sum(|t| t.bytes_in.get()),
            bytes_out: sum(|t| t.bytes_out.get()),
            closed,
            accept_errors: sum(|t| t.accept_errors.get()),
            sources: self.sources.len(),
        }
    }
}

/// A session's room on its listener, given back when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    listener: Arc<ListenerShared>,
    shared: Arc<Shared>,
    /// Where its client is counted, if it is.
    source: Option<Source>,
}

impl Admission {
    pub(crate) fn listener(&self) -> &Arc<ListenerShared> {
        &self.listener
    }

    /// Counts the session as one of this client's, or tells why it may have none.
    pub(crate) fn count(&mut self, client: IpAddr) -> Result<(), CloseCause> {
        if self.listener.sources.limited() {
            self.source = self.listener.sources.enter(client, self.shared.now())?;
        }
        Ok(())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(source) = self.source {
            self.listener.sources.leave(source, self.shared.now());
        }
        // Whoever waits does so because it saw the listener full.
        let before = self.listener.sessions.fetch_sub(1, Ordering::SeqCst);
        if before >= self.listener.max.load(Ordering::SeqCst) {
            self.listener.freed.notify_waiters();
        }
        self.shared.sessions.fetch_sub(1, Ordering::SeqCst);
        if self.shared.draining.load(Ordering::SeqCst) {
            self.shared.ended.notify_waiters();
        }
    }
}
