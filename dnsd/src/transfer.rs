//! Zone transfers out: whole (RFC 5936) and step by step (RFC 1995).

use crate::answer::rcode;
use crate::message::{Request, Section, append_edns, begin, count};
use crate::name;
use crate::served::{Served, Shared};
use crate::tsig::{self, Signed};
use crate::zone::{Zone, newer};
use std::net::IpAddr;
use tracing::{info, warn};

const IXFR: u16 = 251;
const SOA: u16 = 6;
/// Bytes of records in one message: the offsets of pointers go this far.
const CHUNK: usize = 16 << 10;
/// An owner that is the apex: the question's name.
const APEX: [u8; 2] = [0xc0, 12];

/// Answers a request for a transfer with one message or several.
pub fn answer(shared: &Shared, served: &Served, request: &Request<'_>, from: IpAddr) -> Vec<Vec<u8>> {
    let signed = match request.tsig_at.map(|_| served.keys.verify(request, tsig::seconds())) {
        None => None,
        Some(Ok(signed)) => Some(signed),
        Some(Err(refusal)) => {
            complain(shared, &refusal.key(), request, from, &refusal.to_string());
            let mut answer = error(request, refusal.rcode());
            refusal.append(&mut answer);
            return vec![answer];
        }
    };
    let messages = match judge(served, request, signed.as_ref(), from) {
        Ok(messages) => {
            if request.qtype == IXFR { &shared.metrics.ixfr } else { &shared.metrics.axfr }.add();
            messages
        }
        Err((code, reason)) => {
            let key = signed.as_ref().map_or("-", |signed| &signed.key.name);
            complain(shared, key, request, from, reason);
            vec![error(request, code)]
        }
    };
    sign(messages, signed.as_ref())
}

fn complain(shared: &Shared, key: &str, request: &Request<'_>, from: IpAddr, reason: &str) {
    shared.metrics.transfers_refused.add();
    if shared.complaints.may_tell(tsig::seconds()) {
        warn!(key, zone = name::show(&request.name), client = %from, "transfer refused: {reason}");
    }
}

fn judge(
    served: &Served,
    request: &Request<'_>,
    signed: Option<&Signed>,
    from: IpAddr,
) -> Result<Vec<Vec<u8>>, (u8, &'static str)> {
    let known = served.get(&request.name).filter(|_| request.qclass == 1);
    let serving = known.ok_or((rcode::NOTAUTH, "this server has no such zone"))?;
    if !serving.may_transfer(signed.map(|signed| signed.key.name.as_str()), from) {
        return Err((rcode::REFUSED, "allow-transfer lists neither the key nor the address"));
    }
    let zone = serving.zone.read();
    let mut messages = Messages::new(request, zone.origin());
    let since = match request.qtype {
        IXFR => Some(request.ixfr_serial().ok_or((rcode::FORMERR, "the IXFR query has no serial"))?),
        _ => None,
    };
    match since.map(|serial| (serial, zone.history.since(serial))) {
        Some((serial, _)) if !newer(zone.serial(), serial) => messages.record(zone.origin(), zone.negative()),
        Some((_, Some(steps))) => {
            messages.record(zone.origin(), zone.negative());
            for step in &steps {
                step.removed.iter().chain(&step.added).for_each(|record| messages.whole(record));
            }
            messages.record(zone.origin(), zone.negative());
        }
        Some((_, None)) | None => whole(&zone, &mut messages),
    }
    info!(zone = serving.settings.name, serial = zone.serial(), client = %from, from = ?since, "transfer");
    Ok(messages.done)
}

fn whole(zone: &Zone, messages: &mut Messages<'_>) {
    messages.record(zone.origin(), zone.negative());
    for (owner, set) in zone.iter().filter(|(_, set)| set.rtype() != SOA) {
        set.records().for_each(|record| messages.record(owner, &record[2..]));
    }
    messages.record(zone.origin(), zone.negative());
}

/// Cuts records into messages.
struct Messages<'r> {
    request: &'r Request<'r>,
    origin: &'r [u8],
    done: Vec<Vec<u8>>,
}

impl<'r> Messages<'r> {
    fn new(request: &'r Request<'r>, origin: &'r [u8]) -> Self {
        Self { request, origin, done: vec![] }
    }

    /// A record as steps hold it: with its whole owner.
    fn whole(&mut self, record: &[u8]) {
        let above = name::upwards(record).take_while(|rest| rest.first().is_some_and(|label| *label > 0));
        let owner = above.map(|rest| 1 + usize::from(rest[0])).sum::<usize>() + 1;
        let (owner, rest) = record.split_at(owner.min(record.len()));
        self.record(owner, rest);
    }

    fn record(&mut self, owner: &[u8], rest: &[u8]) {
        let size = owner.len() + rest.len();
        if self.done.last().is_none_or(|message| message.len() + size > CHUNK) {
            let mut message = Vec::with_capacity(CHUNK);
            begin(self.request, true, rcode::NOERROR, &mut message);
            self.done.push(message);
        }
        let Some(message) = self.done.last_mut() else { return };
        match owner.strip_suffix(self.origin) {
            Some(labels) => {
                message.extend(labels);
                message.extend(APEX);
            }
            None => message.extend(owner),
        }
        message.extend(rest);
        count(message, Section::Answer, 1);
    }
}

fn error(request: &Request<'_>, code: u8) -> Vec<u8> {
    let mut answer = Vec::new();
    begin(request, false, code, &mut answer);
    if let Some(edns) = request.edns {
        append_edns(&mut answer, 0, edns.dnssec_ok, &[]);
    }
    answer
}

/// Every message is signed: the first over the request, each other over the one before.
fn sign(mut messages: Vec<Vec<u8>>, signed: Option<&Signed>) -> Vec<Vec<u8>> {
    let Some(signed) = signed else { return messages };
    let mut last: Option<Vec<u8>> = None;
    for message in &mut messages {
        last = Some(match last {
            None => signed.sign(message),
            Some(mac) => signed.sign_next(message, &mac),
        });
    }
    messages
}
