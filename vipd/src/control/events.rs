//! The newest events, and who follows them.
//!
//! The loop pushes into a bounded queue and never waits; a task of the control
//! plane moves events from there into a ring of the newest and to the
//! followers. A follower that cannot keep up is cut off and told so: it may
//! cost neither memory nor the others' time.

use super::api::{Event, EventDoc};
use super::history::{self, Keeper};
use jiff::Timestamp;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{broadcast, mpsc};

/// Events that are kept for `vipctl events`: days of a quiet cluster, the last
/// minutes of a troubled one.
pub const KEPT: usize = 1000;

/// Events on their way into the ring. A burst (every server of every pool goes
/// down at once) fits in; beyond it events are lost, which a gap in the
/// numbers shows.
const QUEUED: usize = 4096;

/// Events a follower may be behind.
const BEHIND: usize = 1024;

/// The writing end, for the daemon's loop.
#[derive(Clone, Debug)]
pub struct EventLog {
    queue: mpsc::Sender<EventDoc>,
    last: Arc<AtomicU64>,
}

impl EventLog {
    /// A log, and what the control server needs of it.
    #[must_use]
    pub fn new() -> (Self, EventStore) {
        let (queue, incoming) = mpsc::channel(QUEUED);
        let ring = Ring { kept: VecDeque::with_capacity(KEPT), live: Some(broadcast::channel(BEHIND).0) };
        let log = Self { queue, last: Arc::new(AtomicU64::new(0)) };
        (log, EventStore { incoming, shared: Subscriptions(Arc::new(Mutex::new(ring))), keeper: None })
    }

    /// The same with the events of earlier runs, which are kept in a directory
    /// from now on; numbers go on where they ended.
    ///
    /// # Errors
    /// The directory cannot be made, or its file cannot be opened.
    pub fn kept_in(dir: &Path) -> io::Result<(Self, EventStore)> {
        let (before, keeper) = history::open(dir)?;
        let (log, mut store) = Self::new();
        log.last.store(before.iter().map(|e| e.seq).max().unwrap_or(0), Ordering::Relaxed);
        for event in before {
            store.shared.add(Arc::new(event));
        }
        store.keeper = Some(keeper);
        Ok((log, store))
    }

    /// The number of the newest event.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// Numbers an event, stamps it with the wall clock's time and queues it.
    /// Never waits.
    pub fn push(&self, event: Event) {
        let seq = self.last.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        // A full queue or an ended control plane loses the event; its number stays a gap.
        let _ = self.queue.try_send(EventDoc { seq, time: Timestamp::now(), event });
    }
}

/// The reading end, for the control server.
#[derive(Debug)]
pub struct EventStore {
    incoming: mpsc::Receiver<EventDoc>,
    shared: Subscriptions,
    keeper: Option<Keeper>,
}

impl EventStore {
    /// Where followers subscribe.
    #[must_use]
    pub fn subscriptions(&self) -> Subscriptions {
        self.shared.clone()
    }

    /// Keeps and hands on every event; ends when the last [`EventLog`] is gone.
    pub(super) async fn collect(&mut self) {
        while let Some(event) = self.incoming.recv().await {
            let event = Arc::new(event);
            if let Some(keeper) = &self.keeper {
                keeper.keep(&event);
            }
            self.shared.add(event);
        }
        self.shared.lock().live = None;
    }
}

/// The newest events, and a place to wait for the next.
#[derive(Clone, Debug)]
pub struct Subscriptions(Arc<Mutex<Ring>>);

#[derive(Debug)]
struct Ring {
    kept: VecDeque<Arc<EventDoc>>,
    /// Gone when no more events will come.
    live: Option<broadcast::Sender<Arc<EventDoc>>>,
}

/// What a follower starts with.
pub(super) struct Subscription {
    /// Events that were kept, oldest first.
    pub(super) kept: Vec<Arc<EventDoc>>,
    /// Those that are still to come; absent when none will.
    pub(super) live: Option<broadcast::Receiver<Arc<EventDoc>>>,
}

impl Subscriptions {
    /// Only tasks of the control plane take this lock, and none waits while it holds it.
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, event: Arc<EventDoc>) {
        let mut ring = self.lock();
        if ring.kept.len() == KEPT {
            ring.kept.pop_front();
        }
        ring.kept.push_back(Arc::clone(&event));
        if let Some(live) = &ring.live {
            // An error only says that nobody follows.
            let _ = live.send(event);
        }
    }

    /// The kept events, oldest first.
    pub(super) fn kept(&self) -> Vec<Arc<EventDoc>> {
        self.lock().kept.iter().map(Arc::clone).collect()
    }

    /// The kept events after number `since`, and those to come: none is in both, none in neither.
    pub(super) fn subscribe(&self, since: u64) -> Subscription {
        let ring = self.lock();
        Subscription {
            kept: ring.kept.iter().filter(|e| e.seq > since).map(Arc::clone).collect(),
            live: ring.live.as_ref().map(broadcast::Sender::subscribe),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::{EventKind, Level};
    use super::*;

    fn event(message: &str) -> Event {
        Event::new(Level::Info, EventKind::Vip, message)
    }

    #[tokio::test]
    async fn the_ring_keeps_the_newest() {
        let (log, mut store) = EventLog::new();
        for _ in 0..KEPT + 3 {
            log.push(event("x"));
        }
        drop(log);
        store.collect().await;
        let Subscription { kept, live } = store.subscriptions().subscribe(0);
        let seqs: Vec<u64> = kept.iter().map(|e| e.seq).collect();
        assert_eq!(seqs, (4..=KEPT as u64 + 3).collect::<Vec<_>>());
        assert!(live.is_none(), "the log has ended");
        let last = store.subscriptions().subscribe(KEPT as u64 + 2).kept;
        assert_eq!(last.len(), 1);
    }

    #[tokio::test]
    async fn a_full_queue_loses_events_and_shows_a_gap() {
        let (log, mut store) = EventLog::new();
        for _ in 0..QUEUED + 5 {
            log.push(event("x"));
        }
        let shared = store.subscriptions();
        let mut live = shared.subscribe(0).live.expect("open");
        let collector = tokio::spawn(async move { store.collect().await });
        let newest = QUEUED as u64;
        while live.recv().await.expect("a follower that keeps up").seq != newest {}
        log.push(event("after"));
        drop(log);
        collector.await.expect("it ends with the log");
        let kept = shared.subscribe(0).kept;
        let seqs: Vec<u64> = kept.iter().rev().take(2).map(|e| e.seq).collect();
        assert_eq!(seqs, [newest + 6, newest], "five were lost between");
    }

    #[tokio::test]
    async fn a_slow_follower_learns_that_it_missed_events() {
        let (_log, store) = EventLog::new();
        let shared = store.subscriptions();
        let mut live = shared.subscribe(0).live.expect("open");
        for seq in 1..=BEHIND as u64 + 2 {
            let doc = EventDoc { seq, time: Timestamp::UNIX_EPOCH, event: event("x") };
            shared.add(Arc::new(doc));
        }
        let first = live.recv().await;
        assert!(matches!(first, Err(broadcast::error::RecvError::Lagged(2))), "{first:?}");
    }
}
