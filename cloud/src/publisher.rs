//! Keeps one name in one store as it should be: reads, plans, writes by
//! compare-and-swap, and finds out what became of a write whose answer was lost.

use crate::breaker::{Breaker, Pace};
use crate::error::{Error, Problem};
use crate::lease::Lease;
use crate::plan::{Current, Desired, Drift, LeaseRecord, Plan, plan};
use crate::store::{Failure, Observed, RecordStore};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
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
    clock: fn() -> SystemTime,
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
    /// When the last write was sent.
    pub sent_at: Option<Instant>,
    /// It was of a name that was gone, lease and all, since a node had written it.
    pub was_gone: bool,
    /// No request is made before.
    pub paused_until: Option<Instant>,
}

impl<S: RecordStore> Publisher<S> {
    /// A name in a store that was not read yet. `place` names both in errors.
    pub fn new(store: S, place: String, pace: Pace) -> Self {
        let breaker = Breaker::new(pace);
        let clock = SystemTime::now as fn() -> SystemTime;
        Self { store, place, breaker, observed: None, base: None, clock, status: Status::default() }
    }

    /// The same with another clock for the first epoch.
    #[must_use]
    pub fn with_clock(self, clock: fn() -> SystemTime) -> Self {
        Self { clock, ..self }
    }

    fn plan(&self, observed: &Observed<S::Raw>, desired: &Desired, base: Option<&LeaseRecord>) -> Plan {
        let now = (self.clock)().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        plan(&observed.current, desired, base, now)
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
        let known = self.observed.as_ref().map(|o| self.plan(o, desired, self.base.as_ref()));
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
            planned = self.plan(&observed, desired, base.as_ref());
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
        self.status.sent_at = Some(now);
        let was_written = matches!(self.base, Some(LeaseRecord::Held(_)));
        let Current { lease: found, addresses, .. } = &observed.current;
        self.status.was_gone = was_written && *found == LeaseRecord::Absent && addresses.is_empty();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Owner;
    use crate::plan::Shape;
    use crate::store::Applied;
    use std::collections::VecDeque;
    use std::sync::Mutex;

    /// A store whose answers are written down before.
    #[derive(Debug, Default)]
    struct Script {
        reads: Mutex<VecDeque<Result<Current, Problem>>>,
        writes: Mutex<VecDeque<Option<Failure>>>,
    }

    impl Script {
        fn error(problem: Problem) -> Error {
            Error { place: "script".to_owned(), problem }
        }
    }

    impl RecordStore for Script {
        type Raw = ();

        async fn read(&self, _: Instant) -> Result<Observed<()>, Error> {
            let next = self.reads.lock().unwrap().pop_front().expect("a read too many");
            next.map(|current| Observed { current, raw: () }).map_err(Self::error)
        }

        async fn apply(&self, _: &Observed<()>, lease: &Lease, _: Instant) -> Result<Applied<()>, Failure> {
            match self.writes.lock().unwrap().pop_front().expect("a write too many") {
                Some(failure) => Err(failure),
                None => Ok(Applied { observed: Observed { current: held(lease), raw: () }, pending: None }),
            }
        }
    }

    fn set(last: &[u8]) -> BTreeSet<IpAddr> {
        last.iter().map(|n| IpAddr::from([10, 0, 0, *n])).collect()
    }

    fn lease(epoch: u64, owner: &str, last: &[u8]) -> Lease {
        Lease { epoch, owner: Owner::new(owner).unwrap(), ttl: 5, addresses: set(last) }
    }

    fn held(lease: &Lease) -> Current {
        let addresses = lease.addresses.clone();
        Current { lease: LeaseRecord::Held(lease.clone()), addresses, shape: Shape::Asked }
    }

    fn desired(last: &[u8]) -> Desired {
        let owner = Owner::new("px1").unwrap();
        let (may_be_empty, repair, restore) = (false, false, true);
        Desired { addresses: set(last), ttl: 5, owner, may_be_empty, repair, restore }
    }

    fn publisher(reads: Vec<Result<Current, Problem>>, writes: Vec<Option<Failure>>) -> Publisher<Script> {
        let script = Script { reads: Mutex::new(reads.into()), writes: Mutex::new(writes.into()) };
        let pace = Pace { first: Duration::from_secs(1), longest: Duration::from_secs(8) };
        Publisher::new(script, "script".to_owned(), pace)
    }

    async fn publish(publisher: &mut Publisher<Script>, last: &[u8]) -> Result<Outcome, Error> {
        publisher.publish(&desired(last), Instant::now() + Duration::from_secs(10), 0).await
    }

    fn is_done(publisher: &Publisher<Script>) -> bool {
        publisher.store.reads.lock().unwrap().is_empty() && publisher.store.writes.lock().unwrap().is_empty()
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_between_two_questions_is_no_edit() {
        let torn = Current { addresses: set(&[2]), ..held(&lease(7, "px2", &[1])) };
        let whole = held(&lease(8, "px2", &[9]));
        let mut px1 = publisher(vec![Ok(torn), Ok(whole)], vec![]);
        assert_eq!(publish(&mut px1, &[9]).await.unwrap(), Outcome::InSync);
        assert!(is_done(&px1) && px1.status().in_sync && px1.status().drift.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_winner_of_a_conflict_may_show_late() {
        let old = || Ok(held(&lease(7, "px2", &[1])));
        let theirs = lease(8, "px3", &[3]);
        let mut px1 = publisher(vec![old(), old(), old(), Ok(held(&theirs))], vec![Some(Failure::Conflict)]);
        assert_eq!(publish(&mut px1, &[9]).await.unwrap(), Outcome::Lost(theirs));
        // A conflict that nothing explains is an error, and not for ever.
        let mut px1 = publisher((0..5).map(|_| old()).collect(), vec![Some(Failure::Conflict)]);
        let error = publish(&mut px1, &[9]).await.unwrap_err();
        assert!(matches!(error.problem, Problem::Contended) && is_done(&px1), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_was_gone_is_told_as_such() {
        let nothing = || Ok(Current { lease: LeaseRecord::Absent, addresses: set(&[]), shape: Shape::Asked });
        let ours = || Ok(held(&lease(7, "px1", &[9])));
        let mut px1 = publisher(vec![ours(), nothing()], vec![None, None]);
        assert_eq!(publish(&mut px1, &[9]).await.unwrap(), Outcome::InSync);
        let by = Instant::now() + Duration::from_secs(10);
        assert!(matches!(px1.check(&desired(&[9]), by, 0).await.unwrap(), Outcome::Due(_)));
        let Outcome::Written { epoch, .. } = publish(&mut px1, &[9]).await.unwrap() else { panic!() };
        assert!(epoch > 1_700_000_000 && px1.status().was_gone);
        let next = Outcome::Written { epoch: epoch + 1, pending: None };
        assert_eq!(publish(&mut px1, &[8]).await.unwrap(), next);
        assert!(is_done(&px1) && !px1.status().was_gone, "that one was a change");
        // A first write is none, and begins by the clock.
        let mut px1 = publisher(vec![nothing()], vec![None]);
        let Outcome::Written { epoch, .. } = publish(&mut px1, &[9]).await.unwrap() else { panic!() };
        assert!(epoch > 1_700_000_000 && !px1.status().was_gone);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_in_doubt_is_settled_by_reading_also_later() {
        let old = held(&lease(7, "px2", &[1]));
        let ours = held(&lease(8, "px1", &[9]));
        let unknown = || Some(Failure::Unknown(Script::error(Problem::TimedOut)));
        // The store is gone after the write; once it is back, the write is found done.
        let reads = vec![Ok(old.clone()), Err(Problem::TimedOut), Ok(ours.clone())];
        let mut px1 = publisher(reads, vec![unknown()]);
        assert!(publish(&mut px1, &[9]).await.is_err());
        let (_, since) = px1.status().error.clone().unwrap();
        assert_eq!(since, Instant::now());
        assert!(matches!(publish(&mut px1, &[9]).await.unwrap_err().problem, Problem::Paused { .. }));
        tokio::time::sleep_until(px1.status().paused_until.unwrap()).await;
        assert_eq!(publish(&mut px1, &[9]).await.unwrap(), Outcome::InSync);
        assert!(is_done(&px1) && px1.status().error.is_none());
        assert_eq!(px1.status().epoch, Some(8));

        // It is carried out only after the look: the next write meets a conflict.
        let mut px1 = publisher(
            vec![Ok(old.clone()), Ok(old.clone()), Ok(old), Ok(ours)],
            vec![unknown(), Some(Failure::Conflict)],
        );
        assert!(publish(&mut px1, &[9]).await.is_err());
        tokio::time::sleep_until(px1.status().paused_until.unwrap()).await;
        assert_eq!(publish(&mut px1, &[9]).await.unwrap(), Outcome::Written { epoch: 8, pending: None });
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_keeps_what_was_known_and_since_when() {
        let refused = || Some(Failure::Refused(Script::error(Problem::NoUpdates)));
        let old = || Ok(held(&lease(7, "px2", &[1])));
        let mut px1 = publisher(vec![old(), old()], vec![refused(), refused()]);
        let began = Instant::now();
        for _ in 0..2 {
            assert!(publish(&mut px1, &[9]).await.is_err());
            let status = px1.status();
            assert_eq!((&status.published, status.epoch, status.in_sync), (&set(&[1]), Some(7), false));
            assert!(
                status.error.as_ref().is_some_and(|(text, since)| text.contains("NOTIMP") && *since == began)
            );
            tokio::time::sleep_until(status.paused_until.unwrap()).await;
        }
        assert!(is_done(&px1));
    }
}
