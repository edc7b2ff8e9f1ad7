//! Deadlines that need not be exact: of connecting, of waiting in a queue.
//!
//! Nearly all of them are dropped before they pass. A timer of the runtime
//! costs each of them a wake-up of the runtime's own poll (a write to an
//! eventfd, and one more `epoll_wait`); here setting and dropping one is a
//! write to a slot, and one task looks at all slots now and then.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How late an alarm may be, and the least time from one look to the next.
const TICK: Duration = Duration::from_millis(50);

/// The alarms of a worker.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    slots: RefCell<Slots>,
    /// When they are next looked at.
    look: Cell<Option<Instant>>,
    /// Notified when that is too late for a new one.
    sooner: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    /// As many as there were alarms at a time: one for each session.
    slots: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Debug)]
enum Slot {
    Free,
    Set(Instant, Waker),
    Rung,
}

impl Alarms {
    pub(crate) fn at(&self, at: Instant) -> Alarm<'_> {
        Alarm { alarms: self, at, slot: None }
    }

    /// What `work` resolves to, if it does within `limit`.
    pub(crate) async fn within<F: Future>(&self, limit: Duration, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.at(Instant::now() + limit) => None,
        }
    }

    /// Rings them, for ever.
    pub(crate) async fn ring(&self) {
        loop {
            match self.look.get() {
                None => self.sooner.notified().await,
                Some(look) => tokio::select! {
                    () = self.sooner.notified() => {}
                    () = tokio::time::sleep_until(look) => {
                        let now = Instant::now();
                        let next = self.slots.borrow_mut().ring(now);
                        self.look.set(next.map(|at| at.max(now + TICK)));
                    }
                },
            }
        }
    }

    fn set(&self, at: Instant, waker: &Waker) -> usize {
        if self.look.get().is_none_or(|look| at + TICK < look) {
            self.look.set(Some(at + TICK));
            self.sooner.notify_one();
        }
        self.slots.borrow_mut().set(at, waker.clone())
    }
}

impl Slots {
    fn set(&mut self, at: Instant, waker: Waker) -> usize {
        let slot = Slot::Set(at, waker);
        if let Some(index) = self.free.pop() {
            self.slots[index] = slot;
            return index;
        }
        self.slots.push(slot);
        self.slots.len() - 1
    }

    /// Rings those whose time has come. The time of the next, if there is one.
    fn ring(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for slot in &mut self.slots {
            let Slot::Set(at, _) = slot else { continue };
            if *at > now {
                next = Some(next.map_or(*at, |next: Instant| next.min(*at)));
            } else if let Slot::Set(_, waker) = std::mem::replace(slot, Slot::Rung) {
                waker.wake();
            }
        }
        next
    }
}

/// Resolves at its time, or up to a [`TICK`] later.
#[derive(Debug)]
pub(crate) struct Alarm<'a> {
    alarms: &'a Alarms,
    at: Instant,
    slot: Option<usize>,
}

impl Future for Alarm<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(index) = self.slot else {
            self.slot = Some(self.alarms.set(self.at, cx.waker()));
            return Poll::Pending;
        };
        let mut slots = self.alarms.slots.borrow_mut();
        match &mut slots.slots[index] {
            Slot::Set(_, waker) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            Slot::Rung | Slot::Free => Poll::Ready(()),
        }
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if let Some(index) = self.slot {
            let mut slots = self.alarms.slots.borrow_mut();
            slots.slots[index] = Slot::Free;
            slots.free.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ringing<T>(alarms: &Alarms, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = alarms.ring() => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_rings_in_time_and_leaves_nothing() {
        let alarms = Alarms::default();
        let never = || std::future::pending::<()>();
        let work = async {
            let far = alarms.within(Duration::from_secs(3600), never());
            let near = async {
                for wait in [0, 70, 1000].map(Duration::from_millis) {
                    let began = Instant::now();
                    assert_eq!(alarms.within(wait, never()).await, None);
                    let late = began.elapsed().checked_sub(wait);
                    assert!(late.is_some_and(|l| l <= 2 * TICK), "{wait:?}: {late:?}");
                }
                assert_eq!(alarms.within(TICK, std::future::ready(7)).await, Some(7));
            };
            tokio::join!(far, near).0
        };
        let began = Instant::now();
        assert_eq!(ringing(&alarms, work).await, Some(None));
        assert!(began.elapsed() <= Duration::from_secs(3600) + 2 * TICK);
        let slots = alarms.slots.borrow();
        assert_eq!((slots.slots.len(), slots.free.len()), (2, 2), "slots are used again");
    }
}
