//! The connections that are served, the oldest first, so that one can be
//! closed for one that comes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;

/// How far a connection is.
#[derive(Debug, Default)]
pub(super) struct Visit {
    asked: AtomicBool,
    /// A watcher's, kept as long as the connection lives.
    place: OnceLock<OwnedSemaphorePermit>,
}

impl Visit {
    /// Its request is there as a whole.
    pub(super) fn asks(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// It watches, on this place. A connection has one request.
    pub(super) fn watch(&self, place: OwnedSemaphorePermit) {
        let _ = self.place.set(place);
    }

    pub(super) fn watches(&self) -> bool {
        self.place.get().is_some()
    }
}

/// The connections that are served, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Guests(VecDeque<(Arc<Visit>, AbortHandle)>);

impl Guests {
    pub(super) fn add(&mut self, visit: Arc<Visit>, task: AbortHandle) {
        self.0.retain(|(_, task)| !task.is_finished());
        self.0.push_back((visit, task));
    }

    /// Closes the oldest that has not asked; if all have, the oldest that does
    /// not watch: it had the most time to take its answer. Of watchers there
    /// are always fewer than connections.
    pub(super) fn close_one(&mut self) {
        self.0.retain(|(_, task)| !task.is_finished());
        let silent = self.0.iter().position(|(visit, _)| !visit.asked.load(Ordering::Relaxed));
        let oldest = silent.or_else(|| self.0.iter().position(|(visit, _)| !visit.watches()));
        if let Some((_, task)) = oldest.and_then(|at| self.0.remove(at)) {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn who_has_not_asked_goes_first_and_watchers_stay() {
        let mut guests = Guests::default();
        let tasks: Vec<_> = (0..5).map(|_| tokio::spawn(std::future::pending::<()>())).collect();
        let visits: Vec<_> = tasks.iter().map(|_| Arc::new(Visit::default())).collect();
        for (visit, task) in visits.iter().zip(&tasks) {
            guests.add(Arc::clone(visit), task.abort_handle());
        }
        let places = Arc::new(Semaphore::new(1));
        visits[0].asks();
        visits[0].watch(places.try_acquire_owned().expect("a place"));
        visits[1].asks();
        visits[3].asks();
        let mut closed = vec![];
        for _ in 0..6 {
            guests.close_one();
            tokio::task::yield_now().await;
            let ended = tasks.iter().enumerate().filter(|(_, task)| task.is_finished()).map(|(n, _)| n);
            closed.extend(ended.filter(|n| !closed.contains(n)).collect::<Vec<_>>());
        }
        assert_eq!(closed, [2, 4, 1, 3], "the watcher stays");
    }
}
