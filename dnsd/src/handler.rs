//! The zone as hickory-server asks it.
//!
//! hickory's [`Catalog`] puts the answer together from what this handler says:
//! aliases, wildcards, ANY. It is asked with what was read of the zone at one
//! moment, so that no answer is made of two states of it.
//! What needs none of that is answered from prepared records, see
//! [`crate::answer`]; a test holds the two against each other. Updates and
//! transfers do not go through the catalog: it has no place for a lease in the
//! answer, for the server's time in BADTIME, or for a second message.

use crate::name::{self, Wire};
use crate::zone::{Found, Zone};
use async_trait::async_trait;
use futures_util::FutureExt as _;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{LowerName, RData, Record, RecordType, TSigResponseContext};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler as _, RequestInfo, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{
    AuthLookup, AxfrPolicy, Catalog, LookupControlFlow, LookupError, LookupOptions, LookupRecords,
    MessageResponse, ZoneHandler, ZoneType,
};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// Aliases that are followed within the zone.
const MAX_ALIASES: usize = 8;
/// RFC 8482: one set stands for all.
const ANY: RecordType = RecordType::ANY;

/// How the way from a question to its records ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// With records.
    Records,
    /// The last name has no records of the type.
    NoData,
    /// The last name is not there.
    NoName,
    /// The last name is another server's.
    Elsewhere,
}

/// What a zone says of a name, aliases followed.
struct Way {
    records: Vec<Record>,
    end: End,
}

/// Goes the way from a question to its records. Each set on it begins with the
/// record that `turn` chooses.
fn follow(zone: &Zone, asked: &[u8], rtype: RecordType, turn: usize) -> Way {
    let mut way = Way { records: vec![], end: End::Elsewhere };
    let mut name: Wire = asked.into();
    for _ in 0..MAX_ALIASES {
        let seen = |record: &Record| name::of(&record.name) == name;
        if !name::within(&name, zone.origin()) || way.records.iter().any(seen) {
            return way;
        }
        let mut found = zone.find(&name, rtype.into());
        if rtype == ANY && matches!(found, Found::NoData | Found::Alias(_)) {
            found = zone.sets(&name).next().map_or(Found::NoData, Found::Set);
        }
        let set = match found {
            Found::Set(set) | Found::Alias(set) | Found::Wildcard(set) => set,
            // Behind an alias: whoever asks goes on from there.
            Found::Delegated(..) => return way,
            Found::NoData => {
                way.end = End::NoData;
                return way;
            }
            Found::NoName => {
                way.end = End::NoName;
                return way;
            }
        };
        let mut records = set.to_records(&name);
        let first = turn % records.len().max(1);
        records.rotate_left(first);
        let target = match records.first().map(|record| &record.data) {
            Some(RData::CNAME(target)) if !matches!(rtype, RecordType::CNAME | ANY) => Some(name::of(target)),
            _ => None,
        };
        way.records.extend(records);
        match target {
            Some(target) => name = target,
            None => {
                way.end = End::Records;
                return way;
            }
        }
    }
    way
}

/// What a zone says of one question, read at one moment.
pub(crate) struct Said {
    origin: LowerName,
    way: Way,
    soa: Vec<Record>,
}

impl Said {
    /// Of a name and a type; several records begin with the one that `turn` chooses.
    pub(crate) fn of(zone: &Zone, asked: &[u8], rtype: RecordType, turn: usize) -> Self {
        let soa = zone.get(zone.origin(), RecordType::SOA.into());
        Self {
            origin: LowerName::new(&name::to_name(zone.origin())),
            way: follow(zone, asked, rtype, turn),
            soa: soa.map(|set| set.to_records(zone.origin())).unwrap_or_default(),
        }
    }

    /// How the way to the records ended.
    pub(crate) fn end(&self) -> End {
        self.way.end
    }

    /// There is something to be said beside how it ended.
    pub(crate) fn has_records(&self) -> bool {
        !self.way.records.is_empty()
    }
}

#[async_trait]
impl ZoneHandler for Said {
    fn zone_type(&self) -> ZoneType {
        ZoneType::Primary
    }

    fn axfr_policy(&self) -> AxfrPolicy {
        AxfrPolicy::Deny
    }

    fn origin(&self) -> &LowerName {
        &self.origin
    }

    /// What stands beside the answer: the SOA record.
    async fn lookup(
        &self,
        _name: &LowerName,
        rtype: RecordType,
        _request: Option<&RequestInfo<'_>>,
        _options: LookupOptions,
    ) -> LookupControlFlow<AuthLookup> {
        if rtype != RecordType::SOA {
            return LookupControlFlow::Break(Err(LookupError::NameExists));
        }
        LookupControlFlow::Break(Ok(AuthLookup::answers(LookupRecords::Section(self.soa.clone()), None)))
    }

    async fn search(
        &self,
        _request: &Request,
        _options: LookupOptions,
    ) -> (LookupControlFlow<AuthLookup>, Option<TSigResponseContext>) {
        let found = match self.way.end {
            End::NoData if !self.has_records() => Err(LookupError::NameExists),
            End::NoName if !self.has_records() => Err(ResponseCode::NXDomain.into()),
            End::Records | End::NoData | End::NoName | End::Elsewhere => {
                Ok(AuthLookup::answers(LookupRecords::Section(self.way.records.clone()), None))
            }
        };
        (LookupControlFlow::Break(found), None)
    }

    async fn nsec_records(
        &self,
        _name: &LowerName,
        _options: LookupOptions,
    ) -> LookupControlFlow<AuthLookup> {
        LookupControlFlow::Break(Ok(AuthLookup::Empty))
    }
}

/// Where an answer of the catalog is written to.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

#[async_trait]
impl ResponseHandler for Sink {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::with_capacity(512);
        let info = response.destructive_emit(&mut BinEncoder::new(&mut bytes))?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        Ok(info)
    }
}

/// Has hickory's catalog answer a plain question without EDNS by what the zone
/// says of it; `None` if it could not.
pub(crate) fn ask(said: &Arc<Said>, question: Vec<u8>) -> Option<Vec<u8>> {
    let mut catalog = Catalog::new();
    catalog.upsert(said.origin.clone(), vec![Arc::clone(said) as Arc<dyn ZoneHandler>]);
    // Nothing of ours looks at the source.
    let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let request = Request::from_bytes(question, nobody, Protocol::Tcp).ok()?;
    let sink = Sink::default();
    // The handler waits for nothing, so neither does the catalog.
    catalog.handle_request::<_, TokioTime>(&request, sink.clone()).now_or_never()?;
    let answer = std::mem::take(&mut *sink.0.lock().unwrap_or_else(PoisonError::into_inner));
    (!answer.is_empty()).then_some(answer)
}
