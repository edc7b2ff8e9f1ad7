//! A hosted zone of Amazon Route 53, public or private.
//!
//! The compare-and-swap is one change batch: Route 53 deletes only what matches
//! exactly, creates only what is not there, and does all of a batch or nothing.
//! `UPSERT` is never used.

mod client;
mod problem;
mod proof;
mod sets;

use crate::breaker::Pace;
use crate::error::{Error, Problem};
use crate::lease::Lease;
use crate::names::{self, BadName};
use crate::plan::{Current, LeaseRecord, Shape};
use crate::store::{Applied, Failure, Observed, RecordStore};
use aws_sdk_route53::Client;
use aws_sdk_route53::config::http::HttpResponse;
use aws_sdk_route53::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_route53::operation::list_resource_record_sets::ListResourceRecordSetsOutput;
use aws_sdk_route53::types::{ChangeBatch, ChangeStatus, RrType};
use hickory_proto::rr::Name;
use problem::{Trouble, trouble};
use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

pub use sets::Sets;

/// The account's limit is 5 requests a second: in trouble we take a small part of it.
pub const PACE: Pace = Pace { first: Duration::from_millis(500), longest: Duration::from_secs(60) };

/// Enough for a name, its lease and what sorts between them, as a rule.
const PAGE: i32 = 100;

/// How addresses become records.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Form {
    /// One record with several values: clients get all of them.
    Simple,
    /// One multivalue answer record for each node: clients get up to eight, and
    /// health checks of Route 53 may take some away. An address of none of the
    /// members gets a record of its own.
    Multivalue(Vec<Member>),
}

/// A node, for multivalue answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// The set identifier of its records.
    pub name: String,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// A health check of Route 53.
    pub health_check: Option<String>,
}

/// A change that is followed until all of Route 53's servers answer by it: asked
/// for every so often, and half as often after each time that it is throttled or
/// cannot be asked.
#[derive(Debug)]
pub struct Following {
    change: String,
    every: Duration,
    until: Instant,
    /// The time between two questions now.
    pause: Duration,
    /// When the next one may be put.
    next: Instant,
}

impl Following {
    /// Follows a change, by its id, until a deadline; the first question is put at once.
    #[must_use]
    pub fn new(change: &str, every: Duration, until: Instant) -> Self {
        Self { change: change.to_owned(), every, until, pause: every, next: Instant::now() }
    }

    fn rest(&mut self) {
        self.next = Instant::now() + self.pause;
    }
}

/// One name in a hosted zone.
#[derive(Debug)]
pub struct Route53 {
    client: Client,
    zone_id: String,
    name: Name,
    lease_name: Name,
    form: Form,
}

impl Route53 {
    /// The name `name` in the hosted zone `zone_id`. Credentials are those of
    /// the SDK's default chain; on an instance, its role (IMDSv2). Nothing is
    /// asked yet. `endpoint_url` is for tests.
    ///
    /// # Errors
    /// The name is malformed.
    pub async fn new(
        zone_id: &str,
        name: &str,
        form: Form,
        endpoint_url: Option<&str>,
    ) -> Result<Self, BadName> {
        let name = names::parse(name)?;
        let lease_name = names::lease_name(&name)?;
        let client = client::connect(endpoint_url).await;
        Ok(Self { client, zone_id: zone_id.to_owned(), name, lease_name, form })
    }

    /// The zone and name, for errors.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{} in the Route 53 zone {}", self.name, self.zone_id)
    }

    /// Waits until all of Route 53's servers answer by a change. Given up and
    /// called again, it goes on where it was; each question counts towards the
    /// account's limit.
    ///
    /// # Errors
    /// It is not so by the deadline, or the question is refused. The change is
    /// made in any case.
    pub async fn follow(&self, following: &mut Following) -> Result<(), Error> {
        loop {
            tokio::time::sleep_until(following.next.min(following.until)).await;
            // If this is given up meanwhile, the question has been put all the same.
            following.rest();
            let Following { change, every, until, .. } = &*following;
            let asked = self.request(self.client.get_change().id(change).send(), "route53:GetChange", *until);
            let (last, pause) = match asked.await {
                Ok(answer) if answer.change_info().is_some_and(|c| c.status == ChangeStatus::Insync) => {
                    return Ok(());
                }
                Ok(_) => (Problem::TimedOut, *every),
                Err(t) if t.is_unknown || matches!(t.problem, Problem::Throttled(_)) => {
                    (t.problem, (following.pause * 2).min(PACE.longest))
                }
                Err(t) => return Err(self.explain(t.problem, *until).await),
            };
            if until.saturating_duration_since(Instant::now()) < *every {
                return Err(self.error(last));
            }
            following.pause = pause;
            following.rest();
        }
    }

    fn error(&self, problem: Problem) -> Error {
        Error { place: self.place(), problem }
    }

    /// The same with the reason for missing credentials, which needs a look at IMDS.
    async fn explain(&self, problem: Problem, deadline: Instant) -> Error {
        if let Problem::NoCredentials(chain) = &problem {
            let why = timeout_at(deadline, client::why_no_credentials(chain)).await;
            return self.error(Problem::NoCredentials(why.unwrap_or_else(|_| chain.clone())));
        }
        self.error(problem)
    }

    async fn request<T, E>(
        &self,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        action: &'static str,
        deadline: Instant,
    ) -> Result<T, Trouble>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match timeout_at(deadline, request).await {
            Ok(answer) => answer.map_err(|e| trouble(&e, action)),
            Err(_) => Err(Trouble { is_unknown: true, problem: Problem::TimedOut }),
        }
    }

    async fn list(
        &self,
        name: &Name,
        record_type: RrType,
        identifier: Option<String>,
        deadline: Instant,
    ) -> Result<ListResourceRecordSetsOutput, Trouble> {
        let list = self
            .client
            .list_resource_record_sets()
            .hosted_zone_id(&self.zone_id)
            .start_record_name(name.to_string())
            .start_record_type(record_type)
            .set_start_record_identifier(identifier)
            .max_items(PAGE);
        self.request(list.send(), "route53:ListResourceRecordSets", deadline).await
    }

    async fn read_sets(&self, deadline: Instant) -> Result<Sets, Trouble> {
        let certain = |problem| Trouble { is_unknown: false, problem };
        let mut sets = Sets::default();
        let mut start = (self.name.clone(), RrType::A, None);
        loop {
            let (name, record_type, identifier) = start;
            let page = self.list(&name, record_type, identifier, deadline).await?;
            let last_is_ours =
                page.resource_record_sets.last().is_some_and(|s| sets::is_named(s, &self.name));
            sets::take(&mut sets, page.resource_record_sets, &self.name, &self.lease_name)
                .map_err(certain)?;
            start = match page.next_record_type {
                // More sets of the name.
                Some(next) if page.is_truncated && last_is_ours => {
                    (self.name.clone(), next, page.next_record_identifier)
                }
                // Many names sort between: the lease is somewhere behind.
                Some(_) if page.is_truncated && sets.lease.is_empty() && name == self.name => {
                    (self.lease_name.clone(), RrType::Txt, None)
                }
                Some(_) | None => return Ok(sets),
            };
        }
    }
}

impl RecordStore for Route53 {
    type Raw = Sets;

    async fn read(&self, deadline: Instant) -> Result<Observed<Sets>, Error> {
        let raw = match self.read_sets(deadline).await {
            Ok(raw) => raw,
            Err(t) => return Err(self.explain(t.problem, deadline).await),
        };
        let current = sets::current(&raw, &self.name, &self.lease_name, &self.form);
        Ok(Observed { current: current.map_err(|problem| self.error(problem))?, raw })
    }

    async fn apply(
        &self,
        observed: &Observed<Sets>,
        lease: &Lease,
        deadline: Instant,
    ) -> Result<Applied<Sets>, Failure> {
        let unbuilt = |problem| Failure::Refused(self.error(problem));
        let new = sets::build(lease, &self.name, &self.lease_name, &self.form).map_err(unbuilt)?;
        let changes = sets::swap(&observed.raw, &new).map_err(unbuilt)?;
        let batch = ChangeBatch::builder()
            .comment(format!("vipd: {} writes epoch {}", lease.owner, lease.epoch))
            .set_changes(Some(changes))
            .build()
            .map_err(|e| unbuilt(Problem::BadAnswer(format!("cannot build the change: {e}"))))?;
        let change =
            self.client.change_resource_record_sets().hosted_zone_id(&self.zone_id).change_batch(batch);
        match self.request(change.send(), "route53:ChangeResourceRecordSets", deadline).await {
            Ok(answer) => {
                let current = Current {
                    lease: LeaseRecord::Held(lease.clone()),
                    addresses: lease.addresses.clone(),
                    shape: Shape::Asked,
                };
                let pending = answer.change_info.filter(|c| c.status != ChangeStatus::Insync).map(|c| c.id);
                Ok(Applied { observed: Observed { current, raw: new }, pending })
            }
            Err(t) if t.is_unknown => Err(Failure::Unknown(self.error(t.problem))),
            Err(t) => Err(Failure::Refused(self.explain(t.problem, deadline).await)),
        }
    }
}
