//! A server that takes dynamic updates (RFC 2136) signed with TSIG: dnsd, BIND,
//! Knot, PowerDNS. Each server of a list is a store of its own.
//!
//! The compare-and-swap is the update's prerequisites: lease and records must be
//! exactly as they were read, or the server changes nothing.

mod exchange;
mod key;
mod proof;

use crate::breaker::Pace;
use crate::error::{Error, Problem};
use crate::lease::Lease;
use crate::names::{self, BadName};
use crate::plan::{Current, LeaseRecord, Shape};
use crate::store::{Applied, Failure, Observed, RecordStore};
use exchange::{Answer, NoAnswer, exchange};
use hickory_proto::op::{Message, OpCode, Query, ResponseCode, UpdateMessage};
use hickory_proto::rr::rdata::{A, AAAA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

pub use key::{BadKey, Key};
pub use vipd_core::settings::KeyAlgorithm;

/// A server in the next rack is asked again soon; it takes more than 5 s for
/// nobody to notice that it is back.
pub const PACE: Pace = Pace { first: Duration::from_millis(100), longest: Duration::from_secs(5) };

/// A server is believed for so long that a name is in use: somebody may take away
/// what is there, as vipd asks, and what is read then looks the same where a
/// wildcard says it, too.
const BELIEVED: Duration = Duration::from_secs(60);

/// One name on one server.
#[derive(Debug)]
pub struct Rfc2136 {
    server: SocketAddr,
    zone: Name,
    name: Name,
    lease_name: Name,
    key: Key,
    clock: fn() -> SystemTime,
    /// What was read that is nobody's lease, and is the name's own: the server
    /// said then that the name is in use.
    foreign: Mutex<Option<(Foreign, Instant)>>,
}

/// How the server told what it holds.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The data of the lease's TXT records.
    lease: Vec<RData>,
    /// The name and its lease's are not in use: what is answered for them is a wildcard's.
    unused: bool,
}

/// What may be a wildcard's, by what was answered: that looks the same.
#[derive(Debug, Eq, PartialEq)]
enum Foreign {
    Alias,
    Records(Current),
}

impl Rfc2136 {
    /// The name `name` in the zone `zone` of a server.
    ///
    /// # Errors
    /// A name is malformed, or the name does not lie in the zone.
    pub fn new(server: SocketAddr, zone: &str, name: &str, key: Key) -> Result<Self, BadName> {
        let (zone, name) = (names::parse(zone)?, names::parse(name)?);
        if !zone.zone_of(&name) {
            return Err(BadName::OutsideZone { name: name.to_string(), zone: zone.to_string() });
        }
        let lease_name = names::lease_name(&name)?;
        let (clock, foreign) = (SystemTime::now as fn() -> SystemTime, Mutex::new(None));
        Ok(Self { server, zone, name, lease_name, key, clock, foreign })
    }

    /// The same with another clock for the signatures.
    #[must_use]
    pub fn with_clock(self, clock: fn() -> SystemTime) -> Self {
        Self { clock, ..self }
    }

    /// The server and name, for errors.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{} at {}", self.name, self.server)
    }

    fn error(&self, problem: Problem) -> Error {
        Error { place: self.place(), problem }
    }

    async fn ask(&self, questions: Vec<Message>, deadline: Instant) -> Result<Vec<Answer>, NoAnswer> {
        let now = (self.clock)().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        exchange(self.server, &self.key, questions, now, deadline).await
    }

    fn question(&self, name: &Name, record_type: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = false;
        message.add_query(Query::query(name.clone(), record_type));
        message
    }

    /// The data of a name's records in an answer.
    ///
    /// An answer without a signature is taken here: not every server signs
    /// answers to questions, and the update that follows is refused if it lied.
    fn records(&self, answer: &Answer, name: &Name, record_type: RecordType) -> Result<Vec<RData>, Problem> {
        let message = &answer.message;
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "not ours to match to the last: the registry of codes grows"
        )]
        match message.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {}
            // To a question, it is about the signature alone: PowerDNS says no more.
            ResponseCode::NotAuth => return Err(Problem::BadTsig { key: self.key.name() }),
            other => {
                return Err(self.problem_of(other, "read the zone (`allow-query`, its views or its ACL)"));
            }
        }
        let records = || message.answers.iter().filter(|r| r.name == *name);
        if records().any(|r| r.record_type() == RecordType::CNAME) {
            return Err(Problem::Alias(name.to_string()));
        }
        // Without authority the answer is a cache's, or points to a subzone.
        if !message.authoritative {
            return Err(Problem::NotAuthoritative(self.zone.to_string()));
        }
        Ok(records().filter(|r| r.record_type() == record_type).map(|r| r.data.clone()).collect())
    }

    fn problem_of(&self, code: ResponseCode, what: &'static str) -> Problem {
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "not ours to match to the last: the registry of codes grows"
        )]
        match code {
            ResponseCode::Refused => Problem::Refused { key: self.key.name(), what },
            ResponseCode::NotAuth => Problem::NotAuthoritative(self.zone.to_string()),
            ResponseCode::NotZone => Problem::NotZone(self.zone.to_string()),
            ResponseCode::NotImp => Problem::NoUpdates,
            other => Problem::ResponseCode(other.to_string()),
        }
    }

    /// An update of the zone that says nothing yet.
    fn empty_update(&self) -> Message {
        let mut zone = Query::query(self.zone.clone(), RecordType::SOA);
        zone.set_query_class(DNSClass::IN);
        let mut message = Message::query();
        message.metadata.op_code = OpCode::Update;
        message.metadata.recursion_desired = false;
        message.add_zone(zone);
        message
    }

    /// A prerequisite: the set is exactly as it was read.
    fn require(&self, message: &mut Message, name: &Name, record_type: RecordType, present: Vec<RData>) {
        if present.is_empty() {
            message.add_pre_requisite(no_data(name, record_type, DNSClass::NONE));
        }
        for data in present {
            message.add_pre_requisite(Record::from_rdata(name.clone(), 0, data));
        }
    }

    /// Prerequisites: neither name has records of its own (RFC 2136, section 2.4.5).
    fn require_unused(&self, message: &mut Message) {
        for name in [&self.name, &self.lease_name] {
            message.add_pre_requisite(no_data(name, RecordType::ANY, DNSClass::NONE));
        }
    }

    /// Prerequisites: all is as it was observed.
    fn require_observed(&self, message: &mut Message, observed: &Observed<Told>) {
        if observed.raw.unused {
            return self.require_unused(message);
        }
        let [a, aaaa] = by_family(&observed.current.addresses);
        self.require(message, &self.lease_name, RecordType::TXT, observed.raw.lease.clone());
        self.require(message, &self.name, RecordType::A, a);
        self.require(message, &self.name, RecordType::AAAA, aaaa);
    }

    /// The compare-and-swap as one update message.
    fn update(&self, observed: &Observed<Told>, lease: &Lease) -> Message {
        let mut message = self.empty_update();
        self.require_observed(&mut message, observed);
        let [a, aaaa] = by_family(&observed.current.addresses);
        let [new_a, new_aaaa] = by_family(&lease.addresses);
        let new_txt = vec![RData::TXT(TXT::new(lease.to_strings()))];
        let sets = [
            (&self.lease_name, RecordType::TXT, observed.raw.lease.is_empty(), new_txt),
            (&self.name, RecordType::A, a.is_empty(), new_a),
            (&self.name, RecordType::AAAA, aaaa.is_empty(), new_aaaa),
        ];
        for (name, record_type, is_new, new) in sets {
            if !is_new {
                message.add_update(no_data(name, record_type, DNSClass::ANY));
            }
            for data in new {
                message.add_update(Record::from_rdata(name.clone(), lease.ttl, data));
            }
        }
        message
    }

    /// Whether what was read is a wildcard's: then nobody has the name yet, though
    /// the answers bear it. Only the server can tell, by an update that changes
    /// nothing; of what it said was the name's own it is not asked again for a while.
    async fn is_unused(&self, found: Foreign, deadline: Instant) -> Result<bool, Error> {
        let foreign = || self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        if foreign().as_ref().is_some_and(|(known, at)| *known == found && at.elapsed() < BELIEVED) {
            return Ok(false);
        }
        let mut question = self.empty_update();
        self.require_unused(&mut question);
        match self.send(question, deadline).await {
            Ok(()) => Ok(true),
            Err(Failure::Conflict) => {
                *foreign() = Some((found, Instant::now()));
                Ok(false)
            }
            Err(Failure::Unknown(error) | Failure::Refused(error)) => Err(error),
        }
    }

    /// What the answers to the three questions say.
    fn understand(&self, sets: Vec<Vec<RData>>) -> Observed<Told> {
        let mut sets = sets.into_iter();
        let lease = sets.next().unwrap_or_default();
        let addresses = sets.flatten().filter_map(|data| data.ip_addr()).collect();
        // TTLs are not compared: one that somebody edited is right again with the
        // next change, and until then no client goes wrong by it.
        let current = Current { lease: lease_record(&lease), addresses, shape: Shape::Asked };
        Observed { current, raw: Told { lease, unused: false } }
    }

    /// Sends an update; it was carried out if there is no error.
    async fn send(&self, update: Message, deadline: Instant) -> Result<(), Failure> {
        let answers = self.ask(vec![update], deadline).await.map_err(|e| {
            let error = self.error(e.problem);
            if e.sent { Failure::Unknown(error) } else { Failure::Refused(error) }
        })?;
        let [answer] = answers.as_slice() else {
            unreachable!("one answer for each question");
        };
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "not ours to match to the last: the registry of codes grows"
        )]
        match answer.message.response_code {
            ResponseCode::NoError if answer.is_signed => Ok(()),
            ResponseCode::NoError => {
                let problem = Problem::BadAnswer("the answer to an update is not signed".to_owned());
                Err(Failure::Unknown(self.error(problem)))
            }
            ResponseCode::NXRRSet
            | ResponseCode::YXRRSet
            | ResponseCode::NXDomain
            | ResponseCode::YXDomain => Err(Failure::Conflict),
            other => {
                let what =
                    "update this name (`allow-update`, `update-policy`, ACL or grant: A, AAAA and TXT)";
                Err(Failure::Refused(self.error(self.problem_of(other, what))))
            }
        }
    }
}

/// A record without data: "no such set" with the class NONE, "this whole set"
/// with ANY (RFC 2136, sections 2.4 and 2.5).
fn no_data(name: &Name, record_type: RecordType, class: DNSClass) -> Record {
    let mut record = Record::update0(name.clone(), 0, record_type);
    record.dns_class = class;
    record
}

/// The data of the A and of the AAAA records.
fn by_family(addresses: &BTreeSet<IpAddr>) -> [Vec<RData>; 2] {
    let mut sets = [Vec::new(), Vec::new()];
    for address in addresses {
        match address {
            IpAddr::V4(v4) => sets[0].push(RData::A(A(*v4))),
            IpAddr::V6(v6) => sets[1].push(RData::AAAA(AAAA(*v6))),
        }
    }
    sets
}

fn lease_record(data: &[RData]) -> LeaseRecord {
    match data {
        [] => LeaseRecord::Absent,
        [RData::TXT(txt)] => {
            let text = String::from_utf8_lossy(&txt.txt_data.concat()).into_owned();
            text.parse().map_or(LeaseRecord::Unreadable(text), LeaseRecord::Held)
        }
        several => LeaseRecord::Unreadable(format!("{} records", several.len())),
    }
}

/// What was read of a name that nobody has: the write asks for just that.
fn nothing() -> Observed<Told> {
    let current = Current { lease: LeaseRecord::Absent, addresses: BTreeSet::new(), shape: Shape::Asked };
    Observed { current, raw: Told { lease: vec![], unused: true } }
}

/// Whether it could be a wildcard's: a name whose lease a node has written exists.
fn may_be_a_wildcards(current: &Current) -> bool {
    match &current.lease {
        LeaseRecord::Held(_) => false,
        LeaseRecord::Absent => !current.addresses.is_empty(),
        LeaseRecord::Unreadable(_) => true,
    }
}

impl RecordStore for Rfc2136 {
    type Raw = Told;

    async fn read(&self, deadline: Instant) -> Result<Observed<Self::Raw>, Error> {
        let asked = [
            (&self.lease_name, RecordType::TXT),
            (&self.name, RecordType::A),
            (&self.name, RecordType::AAAA),
        ];
        let questions = asked.iter().map(|(name, t)| self.question(name, *t)).collect();
        let answers = self.ask(questions, deadline).await.map_err(|e| self.error(e.problem))?;
        let sets = answers.iter().zip(asked).map(|(answer, (name, t))| self.records(answer, name, t));
        let observed = match sets.collect::<Result<Vec<_>, Problem>>() {
            Ok(sets) => self.understand(sets),
            Err(problem) => {
                let is_alias = matches!(problem, Problem::Alias(_));
                if is_alias && self.is_unused(Foreign::Alias, deadline).await? {
                    return Ok(nothing());
                }
                return Err(self.error(problem));
            }
        };
        let current = &observed.current;
        if may_be_a_wildcards(current) && self.is_unused(Foreign::Records(current.clone()), deadline).await? {
            return Ok(nothing());
        }
        Ok(observed)
    }

    async fn apply(
        &self,
        observed: &Observed<Self::Raw>,
        lease: &Lease,
        deadline: Instant,
    ) -> Result<Applied<Self::Raw>, Failure> {
        self.send(self.update(observed, lease), deadline).await?;
        let current = Current {
            lease: LeaseRecord::Held(lease.clone()),
            addresses: lease.addresses.clone(),
            shape: Shape::Asked,
        };
        let raw = Told { lease: vec![RData::TXT(TXT::new(lease.to_strings()))], unused: false };
        Ok(Applied { observed: Observed { current, raw }, pending: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Owner;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// The alias was removed as asked, and a wildcard still says the same.
    #[tokio::test(start_paused = true)]
    async fn what_was_the_names_own_is_asked_about_again() {
        // Nobody listens there: a question is an error.
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let key = Key::new("vipd.", KeyAlgorithm::HmacSha256, "c2VjcmV0").unwrap();
        let store = Rfc2136::new(closed, "corp.example", "db.corp.example", key).unwrap();
        let is_unused = || store.is_unused(Foreign::Alias, Instant::now() + Duration::from_secs(20));
        assert!(is_unused().await.is_err(), "nothing is known yet");
        *store.foreign.lock().unwrap() = Some((Foreign::Alias, Instant::now()));
        assert!(matches!(is_unused().await, Ok(false)), "it is not asked for each look");
        tokio::time::advance(BELIEVED).await;
        assert!(is_unused().await.is_err());
    }

    /// Whoever sits in between may say yes, but cannot sign it.
    #[tokio::test]
    async fn a_yes_without_a_signature_is_not_believed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let key = Key::new("vipd.", KeyAlgorithm::HmacSha256, "c2VjcmV0").unwrap();
        let store =
            Rfc2136::new(listener.local_addr().unwrap(), "corp.example", "db.corp.example", key).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut question).await.unwrap();
            let id = u16::from_be_bytes([question[0], question[1]]);
            let answer = Message::response(id, OpCode::Update).to_vec().unwrap();
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        });
        let nothing = Current { lease: LeaseRecord::Absent, addresses: BTreeSet::new(), shape: Shape::Asked };
        let observed = Observed { current: nothing, raw: Told::default() };
        let addresses = BTreeSet::from([IpAddr::from([10, 0, 0, 1])]);
        let lease = Lease { epoch: 1, owner: Owner::new("px1").unwrap(), ttl: 5, addresses };
        let deadline = Instant::now() + Duration::from_secs(20);
        let failure = store.apply(&observed, &lease, deadline).await.unwrap_err();
        assert!(matches!(failure, Failure::Unknown(e) if e.to_string().contains("not signed")));
    }
}
