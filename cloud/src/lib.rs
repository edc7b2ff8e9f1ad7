//! Where no IP floats: the records of a name, kept in servers that take
//! RFC 2136 updates or in Amazon Route 53.
//!
//! [`plan`] is pure and decides; a [`RecordStore`] reads and changes records by
//! compare-and-swap; a [`Publisher`] brings both together for one name in one
//! store, and never writes blind.

mod breaker;
mod error;
mod lease;
mod names;
mod plan;
mod publisher;
pub mod rfc2136;
pub mod route53;
mod store;

pub use breaker::Pace;
pub use error::{Error, Problem, Skew};
pub use lease::{BadLease, BadOwner, LEASE_LABEL, Lease, Owner};
pub use names::BadName;
pub use plan::{Current, Desired, Drift, LeaseRecord, NEAR_TTL, Plan, Shape, plan};
pub use publisher::{Outcome, Publisher, Status};
pub use store::{Applied, Failure, Observed, RecordStore};
