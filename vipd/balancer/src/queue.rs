//! Clients that wait for a server to have room.
//!
//! Each pool has one queue for all workers. Only its first looks for a server:
//! whatever the first cannot have, nobody behind it can. It looks
//!
//! * when it becomes the first,
//! * when something it could use was given back or added: a place on a server
//!   that its pool draws from, a server's headroom, new pools,
//! * at the time at which a connect rate allows one more.
//!
//! When it leaves, served or not, the next one becomes the first and looks at
//! once: so one free place wakes one client, and two places that come as one
//! word still serve two. A word that comes before the first listens is kept
//! for it ([`Notify`]), and whoever joins looks again after it has joined: a
//! place that was given back in between is not missed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The clients that wait for a pool, and what was counted of them.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    line: Mutex<Line>,
    waiting: AtomicU32,
    total: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    refused: AtomicU64,
}

/// By the order in which they came; not more than the pool's `queue`.
#[derive(Debug, Default)]
struct Line {
    next: u64,
    waiters: BTreeMap<u64, Arc<Notify>>,
}

impl Line {
    fn call_first(&self) {
        if let Some((_, first)) = self.waiters.first_key_value() {
            first.notify_one();
        }
    }
}

impl Queue {
    fn line(&self) -> MutexGuard<'_, Line> {
        // Nothing that holds the lock can panic half-way through a change.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clients that wait.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Clients that ever waited.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Clients that found it full.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The last place in it, unless `limit` clients wait already. `everywhere`
    /// counts the waiting of all queues.
    pub(crate) fn join(self: &Arc<Self>, limit: u32, everywhere: &Arc<AtomicU32>) -> Option<Ticket> {
        let mut line = self.line();
        if line.waiters.len() >= limit as usize {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let number = line.next;
        line.next += 1;
        let called = Arc::new(Notify::new());
        line.waiters.insert(number, Arc::clone(&called));
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
        everywhere.fetch_add(1, Ordering::SeqCst);
        if line.waiters.len() == 1 {
            line.call_first();
        }
        drop(line);
        // Whoever gives something back does that, and then looks whether
        // anybody waits; this is the other way round. One of both sees the other.
        fence(Ordering::SeqCst);
        Some(Ticket { queue: Arc::clone(self), number, called, everywhere: Arc::clone(everywhere) })
    }

    /// Lets the first look for a server.
    pub(crate) fn call_first(&self) {
        if self.waiting() > 0 {
            self.line().call_first();
        }
    }
}

/// A place in a queue, left when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    queue: Arc<Queue>,
    number: u64,
    called: Arc<Notify>,
    everywhere: Arc<AtomicU32>,
}

impl Ticket {
    pub(crate) fn is_of(&self, queue: &Arc<Queue>) -> bool {
        Arc::ptr_eq(&self.queue, queue)
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Resolves when it is the first and may look for a server.
    pub(crate) async fn called(&self) {
        self.called.notified().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut line = self.queue.line();
        let first = line.waiters.first_key_value().is_some_and(|(n, _)| *n == self.number);
        line.waiters.remove(&self.number);
        self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
        self.everywhere.fetch_sub(1, Ordering::SeqCst);
        if first {
            line.call_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn called(ticket: &Ticket) -> bool {
        pin!(ticket.called()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn one_word_wakes_the_first_and_nobody_else() {
        let (queue, everywhere) = (Arc::new(Queue::default()), Arc::default());
        let join = || queue.join(3, &everywhere);
        let (first, second, third) = (join().unwrap(), join().unwrap(), join().unwrap());
        assert!(join().is_none());
        assert_eq!((queue.waiting(), queue.total(), queue.refused()), (3, 3, 1));
        assert!(called(&first), "it looks again after it has joined");
        assert!(!called(&first) && !called(&second) && !called(&third));
        // Before anybody listens, and twice.
        queue.call_first();
        queue.call_first();
        assert!(called(&first) && !called(&first));
        // One from the middle leaves: nobody's turn.
        drop(second);
        assert!(!called(&first) && !called(&third));
        drop(first);
        assert!(called(&third) && !called(&third));
        drop(third);
        assert_eq!((queue.waiting(), everywhere.load(Ordering::SeqCst)), (0, 0));
        queue.call_first();
        assert!(called(&join().unwrap()));
    }
}
