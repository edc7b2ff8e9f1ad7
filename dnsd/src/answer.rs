//! From a query to its answer.
//!
//! Most answers are a set of one name, or that there is none. They are copied
//! together from the bytes that the zone holds, and so are referrals. The rest
//! (aliases, wildcards, ANY) is put together by hickory's catalog.

use crate::handler::{self, End, Said};
use crate::limit::{Limiter, Verdict};
use crate::message::{
    EdnsOption, HEADER, Malformed, OPTION_COOKIE, Opcode, Request, Section, append_edns, begin, count,
};
use crate::name;
use crate::served::{Served, Serving, Shared};
use crate::tsig::Signed;
use crate::zone::rrset::{OWNER, RrSet};
use crate::zone::{Found, Zone};
use hickory_proto::rr::RecordType;
use std::net::IpAddr;
use std::sync::Arc;
use tracing::{debug, warn};

/// Response codes (RFC 1035, section 4.1.1; RFC 2136, section 2.2).
pub mod rcode {
    /// No error.
    pub const NOERROR: u8 = 0;
    /// Malformed.
    pub const FORMERR: u8 = 1;
    /// This server's trouble.
    pub const SERVFAIL: u8 = 2;
    /// No such name.
    pub const NXDOMAIN: u8 = 3;
    /// Not known here.
    pub const NOTIMP: u8 = 4;
    /// Not allowed.
    pub const REFUSED: u8 = 5;
    /// A name is there that should not.
    pub const YXDOMAIN: u8 = 6;
    /// A set is there that should not.
    pub const YXRRSET: u8 = 7;
    /// A set is not there that should.
    pub const NXRRSET: u8 = 8;
    /// Not this server's zone, or not this key's.
    pub const NOTAUTH: u8 = 9;
    /// A name that is not in the zone.
    pub const NOTZONE: u8 = 10;
    /// EDNS of another version.
    pub const BADVERS: u16 = 16;
    /// The cookie is missing or old.
    pub const BADCOOKIE: u16 = 23;
}

/// A and AAAA.
const ADDRESSES: [u16; 2] = [1, 28];
const ANY: u16 = 255;
const IXFR: u16 = 251;
const AXFR: u16 = 252;
/// The OPT record with a cookie in it.
const EDNS_ROOM: usize = 11 + 4 + crate::cookie::BOTH;

/// Where a request came from and how.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The client.
    pub address: IpAddr,
    /// Over UDP: answers have a size, and rates.
    pub udp: bool,
    /// Seconds since 1970.
    pub now: u64,
}

/// What is to be done with a request.
#[derive(Debug)]
pub enum Outcome {
    /// Send what was written.
    Answer,
    /// Send nothing.
    Silence,
    /// It is an update that a key signed: the writer answers it.
    Update(Box<Signed>),
    /// It is a transfer: over TCP only.
    Transfer,
}

/// What one thread needs beside what it shares: nobody else looks at it.
pub struct Answerer {
    limiter: Limiter,
    /// Chooses the record that comes first. A plain count would not do: who asks
    /// for A and AAAA in turn would see every other number only.
    random: u64,
    /// The last answer would have been the same for any other name.
    made_up: bool,
}

impl Answerer {
    /// For a thread.
    ///
    /// # Errors
    ///
    /// When the system gives no random bytes.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed)?;
        Ok(Self { limiter: Limiter::new()?, random: u64::from_le_bytes(seed), made_up: false })
    }

    /// Answers a message into `out`.
    pub fn answer(
        &mut self,
        shared: &Shared,
        served: &Served,
        raw: &[u8],
        source: Source,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let outcome = match Request::read(raw) {
            Ok(request) => self.request(shared, served, &request, source, out),
            Err(Malformed::NoRequest) => {
                shared.metrics.malformed.add();
                Outcome::Silence
            }
            Err(Malformed::FormErr) => {
                shared.metrics.malformed.add();
                header_only(raw, rcode::FORMERR, out);
                self.limited(shared, served, source, b"\x01", Outcome::Answer)
            }
        };
        if matches!(outcome, Outcome::Answer) {
            shared.metrics.answer(out);
        }
        outcome
    }

    fn request(
        &mut self,
        shared: &Shared,
        served: &Served,
        request: &Request<'_>,
        source: Source,
        out: &mut Vec<u8>,
    ) -> Outcome {
        match request.opcode {
            Opcode::Query => {}
            Opcode::Update => return self.update(shared, served, request, source, out),
            Opcode::Other => {
                header_only(request.raw, rcode::NOTIMP, out);
                return self.limited(shared, served, source, b"\x04", Outcome::Answer);
            }
        }
        if matches!(request.qtype, AXFR | IXFR) && !source.udp {
            return Outcome::Transfer;
        }
        let signed = match request.tsig_at.map(|_| served.keys.verify(request, source.now)) {
            None => None,
            Some(Ok(signed)) => Some(signed),
            Some(Err(refusal)) => {
                debug!(client = %source.address, key = refusal.key(), "a query's signature: {refusal}");
                begin(request, false, refusal.rcode(), out);
                refusal.append(out);
                return self.limited(shared, served, source, b"\x09", Outcome::Answer);
            }
        };
        let now = u32::try_from(source.now & 0xffff_ffff).unwrap_or(0);
        let cookie = request.edns.and_then(|edns| edns.cookie);
        let known = cookie.is_some_and(|cookie| shared.cookies.known(cookie, source.address, now));
        let mut extended = self.respond(served, request, signed.as_ref(), source, out);
        if source.udp && !known && signed.is_none() {
            match self.judge(served, request, source, out) {
                Verdict::Send => {}
                Verdict::Slip if cookie.is_some() => {
                    // Who gets this comes back with a cookie that a forger does not
                    // know (RFC 7873, section 5.2.3). A forger can send one of his
                    // own making: it buys no more answers than none.
                    shared.metrics.limited.add();
                    begin(request, false, low(rcode::BADCOOKIE), out);
                    extended = rcode::BADCOOKIE;
                }
                Verdict::Slip => {
                    shared.metrics.limited.add();
                    truncate(request, out);
                }
                Verdict::Drop => {
                    shared.metrics.limited.add();
                    return Outcome::Silence;
                }
            }
        }
        if let Some(edns) = request.edns {
            let cookie = cookie.map(|client| shared.cookies.make(client, source.address, now));
            let option = cookie.as_ref().map(|cookie| EdnsOption { code: OPTION_COOKIE, value: cookie });
            append_edns(out, extended, edns.dnssec_ok, option.as_slice());
        }
        if let Some(signed) = signed {
            signed.sign(out);
        }
        Outcome::Answer
    }

    /// An update is the writer's, if a key has signed it: whoever has none shall
    /// not fill the queue before those who have.
    fn update(
        &mut self,
        shared: &Shared,
        served: &Served,
        request: &Request<'_>,
        source: Source,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let refusal = match request.tsig_at.map(|_| served.keys.verify(request, source.now)) {
            Some(Ok(signed)) => return Outcome::Update(Box::new(signed)),
            Some(Err(refusal)) => Some(refusal),
            None => None,
        };
        shared.metrics.updates_refused.add();
        if shared.complaints.may_tell(source.now) {
            let (key, reason) = match &refusal {
                Some(refusal) => (refusal.key(), refusal.to_string()),
                None => ("-".into(), "it is not signed".into()),
            };
            let name = name::show(&request.name);
            warn!(key, name, client = %source.address, "update refused: {reason}");
        }
        let code = refusal.as_ref().map_or(rcode::REFUSED, |refusal| refusal.rcode());
        begin(request, false, code, out);
        if let Some(edns) = request.edns {
            append_edns(out, 0, edns.dnssec_ok, &[]);
        }
        if let Some(refusal) = refusal {
            refusal.append(out);
        }
        self.limited(shared, served, source, &[code], Outcome::Answer)
    }

    /// Writes the answer but for what is at its end; gives the response code in full.
    fn respond(
        &mut self,
        served: &Served,
        request: &Request<'_>,
        signed: Option<&Signed>,
        source: Source,
        out: &mut Vec<u8>,
    ) -> u16 {
        if request.edns.is_some_and(|edns| edns.version > 0) {
            begin(request, false, low(rcode::BADVERS), out);
            return rcode::BADVERS;
        }
        self.made_up = false;
        let serving = served.find(&request.name).filter(|_| request.qclass == 1);
        let Some(serving) = serving else {
            begin(request, false, rcode::REFUSED, out);
            return rcode::REFUSED.into();
        };
        let most = if source.udp { request.udp_size() } else { usize::from(u16::MAX) };
        let room = most
            .saturating_sub(if request.edns.is_some() { EDNS_ROOM } else { 0 })
            .saturating_sub(signed.map_or(0, Signed::room));
        let code = match request.qtype {
            AXFR => {
                begin(request, false, rcode::FORMERR, out); // over UDP (RFC 5936, section 4.2)
                rcode::FORMERR
            }
            IXFR => {
                // The SOA record alone: the client comes back over TCP if it is newer
                // (RFC 1995, section 2).
                let zone = serving.zone.read();
                begin(request, true, rcode::NOERROR, out);
                append_soa(request, &zone, Section::Answer, out);
                rcode::NOERROR
            }
            _ => self.query(serving, request, out),
        };
        if out.len() > room {
            truncate(request, out);
        }
        code.into()
    }

    /// A number that says which record of a set comes first.
    fn turn(&mut self) -> usize {
        // Knuth's linear congruential generator; its high bits are good.
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 33).unwrap_or(0)
    }

    fn query(&mut self, serving: &Serving, request: &Request<'_>, out: &mut Vec<u8>) -> u8 {
        let zone = serving.zone.read();
        match zone.find(&request.name, request.qtype) {
            Found::Delegated(cut, servers) => {
                self.made_up = true;
                refer(request, &zone, cut, servers, out);
                rcode::NOERROR
            }
            Found::Set(_) | Found::Alias(_) | Found::Wildcard(_) | Found::NoData | Found::NoName
                if request.qtype == ANY =>
            {
                self.made_up = true;
                by_catalog(&zone, request, self.turn(), out)
            }
            Found::Set(set) => {
                begin(request, true, rcode::NOERROR, out);
                set.append_rotated(self.turn(), out);
                count(out, Section::Answer, set.len());
                rcode::NOERROR
            }
            Found::NoData => {
                begin(request, true, rcode::NOERROR, out);
                append_soa(request, &zone, Section::Authority, out);
                rcode::NOERROR
            }
            Found::NoName => {
                begin(request, true, rcode::NXDOMAIN, out);
                append_soa(request, &zone, Section::Authority, out);
                rcode::NXDOMAIN
            }
            found @ (Found::Alias(_) | Found::Wildcard(_)) => {
                self.made_up = matches!(found, Found::Wildcard(_));
                by_catalog(&zone, request, self.turn(), out)
            }
        }
    }

    fn judge(&mut self, served: &Served, request: &Request<'_>, source: Source, out: &[u8]) -> Verdict {
        let code = out.get(3).map_or(0, |flags| flags & 0x0f);
        let second = u32::try_from(source.now & 0xffff_ffff).unwrap_or(0);
        let limit = &served.rate_limit;
        if code == rcode::NOERROR && !self.made_up {
            return self.limiter.judge(limit, source.address, &request.name, second);
        }
        // Made-up names are as many as one likes: they count as one.
        self.limiter.judge(limit, source.address, &[code], second)
    }

    /// For answers that have nothing of the question in them.
    fn limited(
        &mut self,
        shared: &Shared,
        served: &Served,
        source: Source,
        about: &[u8],
        outcome: Outcome,
    ) -> Outcome {
        let second = u32::try_from(source.now & 0xffff_ffff).unwrap_or(0);
        if source.udp
            && self.limiter.judge(&served.rate_limit, source.address, about, second) != Verdict::Send
        {
            shared.metrics.limited.add();
            return Outcome::Silence;
        }
        outcome
    }
}

fn low(code: u16) -> u8 {
    code.to_be_bytes()[1] & 0x0f
}

/// The SOA record, whose owner is the end of the question's name.
fn append_soa(request: &Request<'_>, zone: &Zone, section: Section, out: &mut Vec<u8>) {
    let at = HEADER + request.name.len().saturating_sub(zone.origin().len());
    out.extend((0xc000 | u16::try_from(at).unwrap_or(0)).to_be_bytes());
    out.extend(zone.negative());
    count(out, section, 1);
}

/// To the name servers of a zone below, whatever is asked about it: they stand in
/// the authority section of an answer without authority, their addresses beside
/// (RFC 1034, section 4.3.2, step 3b).
fn refer(request: &Request<'_>, zone: &Zone, cut: &[u8], servers: &RrSet, out: &mut Vec<u8>) {
    begin(request, false, rcode::NOERROR, out);
    // The cut is the end of the question's name.
    let at = HEADER + request.name.len().saturating_sub(cut.len());
    let owner = (0xc000 | u16::try_from(at).unwrap_or(0)).to_be_bytes();
    append_records(&owner, servers, Section::Authority, out);
    for server in servers.data() {
        let server = server.to_ascii_lowercase();
        for set in ADDRESSES.iter().filter_map(|rtype| zone.get(&server, *rtype)) {
            append_records(&server, set, Section::Additional, out);
        }
    }
}

fn append_records(owner: &[u8], set: &RrSet, section: Section, out: &mut Vec<u8>) {
    for record in set.records() {
        out.extend(owner);
        out.extend(&record[OWNER.len()..]);
    }
    count(out, section, set.len());
}

/// Nothing but the question, and TC.
fn truncate(request: &Request<'_>, out: &mut Vec<u8>) {
    begin(request, out.get(2).is_some_and(|flags| flags & 4 != 0), 0, out);
    out[2] |= 2;
}

/// An answer to what could not be read: its header, with a response code.
fn header_only(raw: &[u8], code: u8, out: &mut Vec<u8>) {
    out.clear();
    out.extend(&raw[..2]);
    out.extend([0x80 | (raw[2] & 0x79), code, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/// The answer of hickory's catalog, put right where it is not.
fn by_catalog(zone: &Zone, request: &Request<'_>, turn: usize, out: &mut Vec<u8>) -> u8 {
    let said = Arc::new(Said::of(zone, &request.name, RecordType::from(request.qtype), turn));
    let mut question = request.raw[..request.question_end].to_vec();
    question[6..HEADER].fill(0);
    let Some(answer) = handler::ask(&said, question) else {
        begin(request, false, rcode::SERVFAIL, out);
        return rcode::SERVFAIL;
    };
    *out = answer;
    let code = match said.end() {
        End::Records | End::NoData | End::Elsewhere => rcode::NOERROR,
        // Also of an alias to a name that is not there (RFC 6604, section 3).
        End::NoName => rcode::NXDOMAIN,
    };
    if said.has_records() && matches!(said.end(), End::NoData | End::NoName) {
        // hickory adds none behind an alias. Additional records do not stand in such answers.
        out.extend(zone.origin().iter());
        out.extend(zone.negative());
        count(out, Section::Authority, 1);
    }
    out[3] = code;
    code
}

#[cfg(test)]
mod tests;
