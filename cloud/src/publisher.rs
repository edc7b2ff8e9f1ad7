//! Keeps one name in one store as it should be: reads, plans, writes by
//! compare-and-swap, and finds out what became of a write whose answer was lost.

use crate::breaker::{Breaker, Pace};
use crate::error::{Error, Problem};
use crate::lease::Lease;
use crate::plan::{Desired, Drift, LeaseRecord, Plan, plan};
use crate::store::{Failure, Observed, RecordStore};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// A server may refuse a write because of another one that it does not answer
/// by yet (Knot, PowerDNS): after these pauses it is asked again.
const CONFLICT_PAUSES: &[Duration] =
    &[Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(250)];

/// One name in one store. It has no task of its own: the caller calls
/// [`publish`](Self::publish) when what is wanted changes, and again at
/// [`Status::paused_until`] after an error; and [`check`](Self::check) now and
/// then, which notices edits and keeps the state warm from which a write starts
/// without reading first.
#[derive(Debug)]
pub struct Publisher<S: RecordStore> {
    store: S,
    /// For errors that the store itself does not tell.
    place: String,
    breaker: Breaker,
    /// What the store holds as far as known; none while in doubt.
    observed: Option<Observed<S::Raw>>,
    /// The lease as it was seen last, also while in doubt.
    base: Option<LeaseRecord>,
    status: Status,
}

/// What became of a call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The store holds what it should; nothing was written.
    InSync,
    /// Only of a check: publishing would write this.
    Due(Lease),
    /// It was written.
    Written {
        /// As this epoch.
        epoch: u64,
        /// What to ask the store for until it answers by it; none if it does already.
        pending: Option<String>,
    },
    /// Somebody edited the records; nothing was written.
    Drift(Drift),
    /// Another node has written this meanwhile, and it is not what is wanted
    /// here; nothing was written. Whoever is still elected publishes again.
    Lost(Lease),
    /// No address is wanted, and the policy keeps what is there.
    KeepLast,
}

/// The state of a name in a store, for `vipctl status`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Status {
    /// The addresses that the store held when it was last read or written.
    pub published: BTreeSet<IpAddr>,
    /// The epoch of its lease then.
    pub epoch: Option<u64>,
    /// It held what was wanted.
    pub in_sync: bool,
    /// Why nothing is written though it differs.
    pub drift: Option<Drift>,
    /// The last error, and since when there was no success.
    pub error: Option<(String, Instant)>,
    /// No request is made before.
    pub paused_until: Option<Instant>,
}

impl<S: RecordStore> Publisher<S> {
    /// A name in a store that was not read yet. `place` names both in errors.
    pub fn new(store: S, place: String, pace: Pace) -> Self {
        let breaker = Breaker::new(pace);
        Self { store, place, breaker, observed: None, base: None, status: Status::default() }
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The state after the last call.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Writes what is wanted if the store does not hold it. At most half of the
    /// time until the deadline goes into the write: what is left is for finding
    /// out what became of it. `jitter` is a random number.
    ///
    /// # Errors
    /// The store cannot be asked or refuses, the write is in doubt, or earlier
    /// errors have paused it. The next call starts by reading.
    pub async fn publish(
        &mut self,
        desired: &Desired,
        deadline: Instant,
        jitter: u16,
    ) -> Result<Outcome, Error> {
        self.admit()?;
        let result = self.try_publish(desired, deadline).await;
        self.note(result, jitter)
    }

    /// Reads the store and tells what publishing would do, without doing it.
    ///
    /// # Errors
    /// The store cannot be asked or refuses, or earlier errors have paused it.
    pub async fn check(
        &mut self,
        desired: &Desired,
        deadline: Instant,
        jitter: u16,
    ) -> Result<Outcome, Error> {
        self.admit()?;
        let looked = self.look(desired, deadline).await;
        let result = looked.map(|plan| without_write(plan).unwrap_or_else(Outcome::Due));
        self.note(result, jitter)
    }

    fn admit(&self) -> Result<(), Error> {
        self.breaker.admit(Instant::now()).map_err(|problem| self.error(problem))
    }

    fn error(&self, problem: Problem) -> Error {
        Error { place: self.place.clone(), problem }
    }

    async fn try_publish(&mut self, desired: &Desired, deadline: Instant) -> Result<Outcome, Error> {
        let known = self.observed.as_ref().map(|o| plan(&o.current, desired, self.base.as_ref()));
        let planned = match known {
            Some(plan @ (Plan::InSync | Plan::Write(_) | Plan::KeepLast)) => plan,
            // What keeps us from writing may have gone since.
            Some(Plan::Drift(_) | Plan::Lost(_)) | None => self.look(desired, deadline).await?,
        };
        match without_write(planned) {
            Ok(outcome) => Ok(outcome),
            Err(lease) => self.write(desired, &lease, deadline).await,
        }
    }

    /// Reads and plans. The store is asked several questions: a write between
    /// them looks like an edit, so an edit is believed when it is seen twice.
    async fn look(&mut self, desired: &Desired, deadline: Instant) -> Result<Plan, Error> {
        let base = self.base.clone();
        let mut planned = Plan::InSync;
        for _ in 0..2 {
            self.observed = None;
            let observed = self.store.read(deadline).await?;
            planned = plan(&observed.current, desired, base.as_ref());
            self.remember(observed);
            if !matches!(planned, Plan::Drift(_)) {
                break;
            }
        }
        Ok(planned)
    }

    fn remember(&mut self, observed: Observed<S::Raw>) {
        self.status.published.clone_from(&observed.current.addresses);
        let lease = &observed.current.lease;
        self.status.epoch = match lease {
            LeaseRecord::Held(lease) => Some(lease.epoch),
            LeaseRecord::Absent | LeaseRecord::Unreadable(_) => None,
        };
        self.base = Some(lease.clone().after(self.base.take()));
        self.observed = Some(observed);
    }

    async fn write(&mut self, desired: &Desired, lease: &Lease, deadline: Instant) -> Result<Outcome, Error> {
        let observed = self.observed.take().expect("a write is planned from what was observed");
        let now = Instant::now();
        let write_by = now + deadline.saturating_duration_since(now) / 2;
        let written = |pending| Ok(Outcome::Written { epoch: lease.epoch, pending });
        let (doubt, pauses) = match self.store.apply(&observed, lease, write_by).await {
            Ok(applied) => {
                self.remember(applied.observed);
                return written(applied.pending);
            }
            Err(Failure::Refused(e)) => return Err(e),
            Err(Failure::Unknown(e)) => (e, &[][..]),
            Err(Failure::Conflict) => (self.error(Problem::Contended), CONFLICT_PAUSES),
        };
        let mut planned = self.look(desired, deadline).await?;
        for pause in pauses {
            if !matches!(planned, Plan::Write(_)) {
                break;
            }
            tokio::time::sleep(*pause).await;
            planned = self.look(desired, deadline).await?;
        }
        if planned == Plan::InSync && self.base == Some(LeaseRecord::Held(lease.clone())) {
            return written(None);
        }
        without_write(planned).map_err(|_| doubt)
    }

    fn note(&mut self, result: Result<Outcome, Error>, jitter: u16) -> Result<Outcome, Error> {
        match &result {
            Ok(outcome) => {
                self.breaker.succeeded();
                self.status.error = None;
                self.status.in_sync = matches!(outcome, Outcome::InSync | Outcome::Written { .. });
                self.status.drift = match outcome {
                    Outcome::Drift(drift) => Some(drift.clone()),
                    Outcome::InSync
                    | Outcome::Due(_)
                    | Outcome::Written { .. }
                    | Outcome::Lost(_)
                    | Outcome::KeepLast => None,
                };
            }
            Err(e) => {
                let now = Instant::now();
                self.breaker.failed(now, jitter);
                let since = self.status.error.as_ref().map_or(now, |(_, since)| *since);
                self.status.error = Some((e.to_string(), since));
                self.status.in_sync = false;
            }
        }
        self.status.paused_until = self.breaker.open_until();
        result
    }
}

/// What a plan means as long as nothing is written; the lease if it is to write.
fn without_write(plan: Plan) -> Result<Outcome, Lease> {
    match plan {
        Plan::InSync => Ok(Outcome::InSync),
        Plan::Drift(drift) => Ok(Outcome::Drift(drift)),
        Plan::Lost(lease) => Ok(Outcome::Lost(lease)),
        Plan::KeepLast => Ok(Outcome::KeepLast),
        Plan::Write(lease) => Err(lease),
    }
}
