//! A place that keeps records, whichever kind it is.

use crate::control::api::DnsStoreDoc;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;
use vipd_cloud::rfc2136::{self, Key, Rfc2136};
use vipd_cloud::route53::{self, Following, Form, Route53};
use vipd_cloud::{Desired, Error, Outcome, Owner, Publisher, Status};
use vipd_core::publish::Records;
use vipd_core::settings::{Dns, Member, RecordForm};

/// Route 53 tells this often whether all of its servers know a change; it takes
/// "generally within 60 seconds", and each question counts for the account.
pub(super) const FOLLOW_EVERY: Duration = Duration::from_secs(5);
/// It is asked for so long from the write on, and not any more.
pub(super) const FOLLOW_FOR: Duration = Duration::from_secs(300);

/// A place of the settings.
#[derive(Clone, Copy, Debug)]
pub(super) enum Where {
    /// A server that takes updates.
    Server(SocketAddr),
    /// The hosted zone.
    Route53,
}

impl Where {
    /// The places of the settings, in the file's order.
    pub(super) fn all(dns: &Dns) -> impl Iterator<Item = Self> {
        let servers = dns.rfc2136.iter().flat_map(|r| r.servers.iter().map(|s| Self::Server(*s)));
        servers.chain(dns.route53.iter().map(|_| Self::Route53))
    }

    /// What it is called in status and events.
    pub(super) fn name(self, dns: &Dns) -> String {
        match (self, &dns.route53) {
            (Self::Server(address), _) => address.to_string(),
            (Self::Route53, Some(zone)) => format!("route53/{}", zone.zone_id),
            (Self::Route53, None) => "route53".to_owned(),
        }
    }

    /// The state of one that was not asked yet.
    pub(super) fn unread(self, dns: &Dns) -> DnsStoreDoc {
        DnsStoreDoc { place: self.name(dns), ..DnsStoreDoc::default() }
    }

    /// How long an attempt may take, with finding out what became of it.
    pub(super) fn patience(self) -> Duration {
        match self {
            Self::Server(_) => Duration::from_secs(2),
            Self::Route53 => Duration::from_secs(10),
        }
    }

    /// How often it is read: what somebody edits is noticed by then, and a
    /// write starts from a state that is not older.
    pub(super) fn look_every(self) -> Duration {
        match self {
            Self::Server(_) => Duration::from_secs(5),
            Self::Route53 => Duration::from_secs(60),
        }
    }

    /// The same while it does not hold what this node would write.
    pub(super) fn look_soon(self) -> Duration {
        match self {
            Self::Server(_) => Duration::from_millis(500),
            Self::Route53 => Duration::from_secs(5),
        }
    }
}

/// What is needed to open a place.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) dns: Dns,
    members: Vec<Member>,
    me: String,
}

impl Opening {
    pub(super) fn new(dns: Dns, members: &[Member], me: usize) -> Self {
        let name = members.get(me).map(|m| m.name.clone()).unwrap_or_default();
        Self { dns, members: members.to_vec(), me: name }
    }

    /// Opens a place. Nothing is asked of it yet.
    pub(super) async fn open(&self, place: Where) -> Result<Store, String> {
        let name = &self.dns.name;
        match (place, &self.dns.rfc2136, &self.dns.route53) {
            (Where::Server(server), Some(settings), _) => {
                let file = &settings.key_file;
                let secret = tokio::fs::read_to_string(file).await;
                let secret = secret.map_err(|e| format!("key-file {}: {e}", file.display()))?;
                let key = Key::new(&settings.key_name, settings.key_algorithm, &secret)
                    .map_err(|e| format!("key-file {}: {e}", file.display()))?;
                let store = Rfc2136::new(server, &settings.zone, name, key).map_err(|e| e.to_string())?;
                let called = store.place();
                Ok(Store::Rfc2136(Box::new(Publisher::new(store, called, rfc2136::PACE))))
            }
            (Where::Route53, _, Some(settings)) => {
                let form = match settings.records {
                    RecordForm::Simple => Form::Simple,
                    RecordForm::Multivalue => Form::Multivalue(self.sets(&settings.health_checks)),
                };
                let url = settings.endpoint_url.as_deref();
                let store =
                    Route53::new(&settings.zone_id, name, form, url).await.map_err(|e| e.to_string())?;
                let called = store.place();
                Ok(Store::Route53(Box::new(Publisher::new(store, called, route53::PACE))))
            }
            (Where::Server(_), None, _) | (Where::Route53, _, None) => {
                Err("the settings have no such place".to_owned())
            }
        }
    }

    fn sets(&self, health_checks: &[(usize, String)]) -> Vec<route53::Member> {
        let check = |n| health_checks.iter().find(|(node, _)| *node == n).map(|(_, id)| id.clone());
        let one = |(n, member): (usize, &Member)| route53::Member {
            name: member.name.clone(),
            addresses: self.dns.addresses_of(n, &self.members).iter().copied().collect(),
            health_check: check(n),
        };
        self.members.iter().enumerate().map(one).collect()
    }

    /// An order in the words of a place. While a change is near the TTL falls,
    /// but not in Route 53, where that would come too late.
    pub(super) fn desired(&self, place: Where, records: &Records) -> Result<Desired, String> {
        let desired = Desired {
            addresses: records.wanted.clone().unwrap_or_default(),
            ttl: u32::try_from(self.dns.ttl.as_secs()).unwrap_or(u32::MAX),
            owner: Owner::new(&self.me).map_err(|e| e.to_string())?,
            // An empty set is ordered only where the policy says so.
            may_be_empty: records.wanted.is_some(),
            repair: self.dns.repair,
            // Route 53 loses no name: if it is gone, a person has removed it.
            restore: match place {
                Where::Server(_) => true,
                Where::Route53 => false,
            },
        };
        Ok(match place {
            Where::Server(_) if records.near => desired.while_a_change_is_near(),
            Where::Server(_) | Where::Route53 => desired,
        })
    }
}

/// An open place.
#[derive(Debug)]
pub(super) enum Store {
    /// A server that takes updates.
    Rfc2136(Box<Publisher<Rfc2136>>),
    /// A hosted zone.
    Route53(Box<Publisher<Route53>>),
}

impl Store {
    pub(super) fn status(&self) -> &Status {
        match self {
            Self::Rfc2136(publisher) => publisher.status(),
            Self::Route53(publisher) => publisher.status(),
        }
    }

    pub(super) async fn publish(&mut self, desired: &Desired, by: Instant) -> Result<Outcome, Error> {
        match self {
            Self::Rfc2136(publisher) => publisher.publish(desired, by, chance()).await,
            Self::Route53(publisher) => publisher.publish(desired, by, chance()).await,
        }
    }

    pub(super) async fn check(&mut self, desired: &Desired, by: Instant) -> Result<Outcome, Error> {
        match self {
            Self::Rfc2136(publisher) => publisher.check(desired, by, chance()).await,
            Self::Route53(publisher) => publisher.check(desired, by, chance()).await,
        }
    }

    /// Waits until a change is known to all that answer, until its time is over;
    /// for ever if there is none.
    pub(super) async fn follow(&self, change: Option<&mut Following>) -> Result<(), Error> {
        match (self, change) {
            (Self::Route53(publisher), Some(following)) => publisher.store().follow(following).await,
            (Self::Rfc2136(_), _) | (Self::Route53(_), None) => std::future::pending().await,
        }
    }
}

/// A random number, so that nodes do not ask all at once.
pub(super) fn chance() -> u16 {
    use std::hash::BuildHasher as _;
    let [low, high, ..] = std::hash::RandomState::new().hash_one(0_u8).to_le_bytes();
    u16::from_le_bytes([low, high])
}
