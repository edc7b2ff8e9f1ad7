//! Zone transfers out: whole (RFC 5936) and step by step (RFC 1995).

use crate::answer::rcode;
use crate::message::{Request, Section, append_edns, begin, count};
use crate::name;
use crate::served::{Served, Serving, Shared};
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

/// A transfer that is allowed, and that has something in it.
pub struct Granted {
    serving: Serving,
    signed: Option<Signed>,
    /// The serial that the client has, if it asks for the steps since.
    since: Option<u32>,
}

/// Judges a request for a transfer, which takes next to no time and holds
/// nothing: whoever may not have the zone takes nobody's place.
///
/// # Errors
///
/// The whole answer, if there is nothing to transfer: the client may not have
/// the zone, or has it as it is.
pub fn admit(
    shared: &Shared,
    served: &Served,
    request: &Request<'_>,
    from: IpAddr,
) -> Result<Granted, Vec<u8>> {
    let signed = match request.tsig_at.map(|_| served.keys.verify(request, tsig::seconds())) {
        None => None,
        Some(Ok(signed)) => Some(signed),
        Some(Err(refusal)) => {
            complain(shared, &refusal.key(), request, from, &refusal.to_string());
            let mut answer = error(request, refusal.rcode());
            refusal.append(&mut answer);
            return Err(answer);
        }
    };
    let (serving, since) = judge(served, request, signed.as_ref(), from).map_err(|(code, reason)| {
        let key = signed.as_ref().map_or("-", |signed| &signed.key.name);
        complain(shared, key, request, from, reason);
        sign_one(error(request, code), signed.as_ref())
    })?;
    let zone = serving.zone.read();
    if since.is_some_and(|serial| !newer(zone.serial(), serial)) {
        let mut messages = Messages::new(request, zone.origin());
        messages.record(zone.origin(), zone.negative());
        shared.metrics.ixfr.add();
        return Err(sign_one(messages.done.concat(), signed.as_ref()));
    }
    drop(zone);
    Ok(Granted { serving, signed, since })
}

/// Puts the messages of a transfer together, one or several.
#[must_use]
pub fn answer(shared: &Shared, request: &Request<'_>, granted: &Granted, from: IpAddr) -> Vec<Vec<u8>> {
    let Granted { serving, signed, since } = granted;
    if since.is_some() { &shared.metrics.ixfr } else { &shared.metrics.axfr }.add();
    let zone = serving.zone.read();
    let mut messages = Messages::new(request, zone.origin());
    match since.and_then(|serial| zone.history.since(serial)) {
        Some(steps) => {
            messages.record(zone.origin(), zone.negative());
            for step in &steps {
                step.removed.iter().chain(&step.added).for_each(|record| messages.whole(record));
            }
            messages.record(zone.origin(), zone.negative());
        }
        None => whole(&zone, &mut messages),
    }
    info!(zone = serving.settings.name, serial = zone.serial(), client = %from, from = ?since, "transfer");
    let messages = messages.done;
    drop(zone);
    sign(messages, signed.as_ref())
}

/// The answer to a transfer that is allowed, and that there is no place for.
#[must_use]
pub fn no_place(shared: &Shared, request: &Request<'_>, granted: &Granted, from: IpAddr) -> Vec<u8> {
    let signed = granted.signed.as_ref();
    let key = signed.map_or("-", |signed| &signed.key.name);
    complain(shared, key, request, from, "as many as there may be at a time were under way all the while");
    sign_one(error(request, rcode::SERVFAIL), signed)
}

fn complain(shared: &Shared, key: &str, request: &Request<'_>, from: IpAddr, reason: &str) {
    shared.metrics.transfers_refused.add();
    if shared.complaints.may_tell(tsig::seconds()) {
        warn!(key, zone = name::show(&request.name), client = %from, "transfer refused: {reason}");
    }
}

/// The zone, and the serial that the client has if it asks for steps.
fn judge(
    served: &Served,
    request: &Request<'_>,
    signed: Option<&Signed>,
    from: IpAddr,
) -> Result<(Serving, Option<u32>), (u8, &'static str)> {
    let known = served.get(&request.name).filter(|_| request.qclass == 1);
    let serving = known.ok_or((rcode::NOTAUTH, "this server has no such zone"))?;
    if !serving.may_transfer(signed.map(|signed| signed.key.name.as_str()), from) {
        return Err((rcode::REFUSED, "allow-transfer lists neither the key nor the address"));
    }
    let since = match request.qtype {
        IXFR => Some(request.ixfr_serial().ok_or((rcode::FORMERR, "the IXFR query has no serial"))?),
        _ => None,
    };
    Ok((serving.clone(), since))
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

fn sign_one(mut message: Vec<u8>, signed: Option<&Signed>) -> Vec<u8> {
    if let Some(signed) = signed {
        signed.sign(&mut message);
    }
    message
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
