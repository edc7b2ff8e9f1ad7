//! What a place that keeps records must be able to do.

use crate::error::Error;
use crate::lease::Lease;
use crate::plan::Current;
use std::future::Future;
use tokio::time::Instant;

/// A place that keeps the records of one name, and changes them only from the
/// exact state that was read.
pub trait RecordStore {
    /// The records as the store told them, as far as a change must repeat it.
    type Raw: Send + Sync;

    /// Reads the name's records and lease.
    ///
    /// # Errors
    /// The store cannot be asked, refuses, or gives no answer by the deadline.
    fn read(&self, deadline: Instant) -> impl Future<Output = Result<Observed<Self::Raw>, Error>> + Send;

    /// Replaces what was observed, all of it, by what `lease` says, or nothing at all.
    ///
    /// # Errors
    /// See [`Failure`].
    fn apply(
        &self,
        observed: &Observed<Self::Raw>,
        lease: &Lease,
        deadline: Instant,
    ) -> impl Future<Output = Result<Applied<Self::Raw>, Failure>> + Send;
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Observed<R> {
    /// What it means.
    pub current: Current,
    /// How the store told it.
    pub raw: R,
}

/// What was written.
#[derive(Debug)]
pub struct Applied<R> {
    /// What the store holds now.
    pub observed: Observed<R>,
    /// The store will answer by it only later: what to ask for.
    pub pending: Option<String>,
}

/// Why a change was not made, as far as that is known.
#[derive(Debug)]
pub enum Failure {
    /// The store does not hold what was observed: nothing was changed.
    Conflict,
    /// The request was sent, and its answer did not come or cannot be trusted:
    /// it may have been carried out, now or a little later.
    Unknown(Error),
    /// Nothing was changed.
    Refused(Error),
}
