//! Dynamic updates (RFC 2136), judged without any I/O.

use crate::answer::rcode;
use crate::name::{self, Wire};
use crate::tsig::Key;
use crate::zone::rrset::{RrSet, encode};
use crate::zone::{Changes, Zone, newer, next_serial, show_type};
use hickory_proto::op::Message;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use std::collections::{BTreeMap, BTreeSet};

const SOA: u16 = 6;
const NS: u16 = 2;
const CNAME: u16 = 5;
const ANY: u16 = 255;
const DNAME: u16 = 39;
const SIG: u16 = 24;
const RRSIG: u16 = 46;
const NSEC: u16 = 47;
const NSEC3: u16 = 50;
const NSEC3PARAM: u16 = 51;
/// Types of which nobody knows the form (RFC 6895, section 3.1).
const PRIVATE_USE: std::ops::RangeInclusive<u16> = 65280..=65534;
/// Bytes of a set: more would not fit into one answer over TCP with room to spare.
pub const MAX_SET: usize = 32 << 10;
/// Names in a zone: an update that made more is refused.
pub const MAX_NAMES: usize = 1_000_000;

/// A record by its name, type and data.
pub type RecordKey = (Wire, u16, Vec<u8>);
/// Records with their new lease in seconds; `None`: no lease any more.
pub type Leases = BTreeMap<RecordKey, Option<u32>>;

/// Why an update was not done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// The response code.
    pub rcode: u8,
    /// The name that it is about.
    pub name: String,
    /// The reason, for the log.
    pub reason: String,
}

fn refuse<T>(rcode: u8, name: &[u8], reason: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { rcode, name: name::show(name), reason: reason.into() })
}

/// A zone with changes upon it that are not in it yet.
pub struct View<'z> {
    zone: &'z Zone,
    /// Of updates before this one, which wait for the disk.
    pending: &'z Changes,
    /// Of this one.
    changes: Changes,
    serial: u32,
    /// The serial was set ahead.
    moved: bool,
}

impl<'z> View<'z> {
    /// A zone as it will be when what is pending is on disk.
    #[must_use]
    pub fn new(zone: &'z Zone, pending: &'z Changes, serial: u32) -> Self {
        Self { zone, pending, changes: Changes::new(), serial, moved: false }
    }

    fn get(&self, name: &[u8], rtype: u16) -> Option<&RrSet> {
        let key = (name.into(), rtype);
        match self.changes.get(&key).or_else(|| self.pending.get(&key)) {
            Some(set) => set.as_ref(),
            None => self.zone.get(name, rtype),
        }
    }

    /// The types of a name.
    fn types(&self, name: &[u8]) -> Vec<u16> {
        let key = |rtype| (Wire::from(name), rtype);
        let of = |changes: &Changes| {
            changes.range(key(0)..=key(u16::MAX)).map(|((_, rtype), _)| *rtype).collect::<Vec<_>>()
        };
        let mut types: BTreeSet<u16> = self.zone.sets(name).map(RrSet::rtype).collect();
        types.extend(of(self.pending));
        types.extend(of(&self.changes));
        types.into_iter().filter(|rtype| self.get(name, *rtype).is_some()).collect()
    }

    fn set(&mut self, name: &[u8], rtype: u16, set: Option<RrSet>) {
        self.changes.insert((name.into(), rtype), set);
    }

    /// What differs from before, and the serial after it.
    #[must_use]
    pub fn finish(self) -> (Changes, u32) {
        let Self { zone, pending, mut changes, serial, moved } = self;
        changes.retain(|key, set| match pending.get(key) {
            Some(before) => before != set,
            None => zone.get(&key.0, key.1) != set.as_ref(),
        });
        let serial = if changes.is_empty() || moved { serial } else { next_serial(serial) };
        (changes, serial)
    }

    /// Whether a record is there.
    #[must_use]
    pub fn has(&self, (name, rtype, data): &RecordKey) -> bool {
        self.get(name, *rtype).is_some_and(|set| set.contains(data))
    }

    /// Takes records away whose lease ran out.
    pub fn expire(&mut self, (name, rtype, data): &RecordKey) {
        let set = self.get(name, *rtype).and_then(|set| set.without(data));
        self.set(name, *rtype, set);
    }

    /// The records of a set.
    #[must_use]
    pub fn records(&self, name: &[u8], rtype: u16) -> usize {
        self.get(name, rtype).map_or(0, RrSet::len)
    }
}

/// Judges an update and does it upon the view. Gives the leases that it grants
/// or ends.
///
/// # Errors
///
/// The response code and its reason; the view is then of no use any more.
pub fn judge(
    view: &mut View<'_>,
    update: &Message,
    key: &Key,
    lease: Option<u32>,
) -> Result<Leases, Refused> {
    let origin = view.zone.origin().clone();
    for record in &update.authorities {
        prescan(record, &origin)?;
        permit(record, key)?;
    }
    prerequisites(view, &update.answers, &origin)?;
    let mut leases = Leases::new();
    for record in &update.authorities {
        apply(view, record, &origin, lease, &mut leases)?;
    }
    if view.zone.names() + view.pending.len() + view.changes.len() > MAX_NAMES
        && view.changes.values().any(Option::is_some)
    {
        return refuse(rcode::REFUSED, &origin, format!("the zone would have more than {MAX_NAMES} names"));
    }
    Ok(leases)
}

/// Types that are questions only (RFC 2136, section 3.4.1.2).
fn meta(rtype: u16) -> bool {
    // OPT, and TKEY to ANY.
    rtype == 41 || (249..=ANY).contains(&rtype)
}

fn empty(record: &Record) -> bool {
    matches!(record.data, RData::Update0(_))
        || matches!(&record.data, RData::NULL(null) if null.anything.is_empty())
}

fn class(record: &Record) -> DNSClass {
    record.dns_class
}

/// RFC 2136, section 3.4.1.
fn prescan(record: &Record, origin: &[u8]) -> Result<(), Refused> {
    let (name, rtype) = (name::of(&record.name), u16::from(record.record_type()));
    if !name::within(&name, origin) {
        return refuse(rcode::NOTZONE, &name, "it is not in the zone");
    }
    let right = match class(record) {
        DNSClass::IN => !meta(rtype) && !empty(record),
        DNSClass::ANY => record.ttl == 0 && empty(record) && (!meta(rtype) || rtype == ANY),
        DNSClass::NONE => record.ttl == 0 && !meta(rtype),
        DNSClass::CH | DNSClass::HS | DNSClass::OPT(_) | DNSClass::Unknown(_) => false,
    };
    if !right {
        return refuse(rcode::FORMERR, &name, "a record of the update is malformed");
    }
    if class(record) == DNSClass::IN
        && let Some(why) = unserved(rtype)
    {
        let what = show_type(rtype);
        return refuse(rcode::REFUSED, &name, format!("{what} records are not taken: {why}"));
    }
    // A secondary that knows the type would reject the whole zone for data that
    // is not of its form.
    if class(record) == DNSClass::IN
        && matches!(record.record_type(), RecordType::Unknown(_))
        && !PRIVATE_USE.contains(&rtype)
    {
        let what = show_type(rtype);
        return refuse(rcode::REFUSED, &name, format!("the data of {what} cannot be checked by this server"));
    }
    Ok(())
}

/// Types that mean something that this server does not do.
fn unserved(rtype: u16) -> Option<&'static str> {
    match rtype {
        DNAME => Some("this server would not answer names below by it"),
        SIG | RRSIG | NSEC | NSEC3 | NSEC3PARAM => {
            Some("whoever signs a zone makes them itself, and this server does not sign")
        }
        _ => None,
    }
}

/// RFC 2136, section 3.3.
fn permit(record: &Record, key: &Key) -> Result<(), Refused> {
    let (name, rtype) = (name::of(&record.name), u16::from(record.record_type()));
    let wanted = (rtype != ANY).then_some(rtype);
    if key.may(&name, wanted) {
        return Ok(());
    }
    let what = wanted.map_or_else(|| "every type".into(), show_type);
    refuse(rcode::REFUSED, &name, format!("no grant lets this key change {what} there"))
}

/// RFC 2136, section 3.2: sets that must be there are compared whole.
fn prerequisites(view: &View<'_>, records: &[Record], origin: &[u8]) -> Result<(), Refused> {
    let mut wanted: BTreeMap<(Wire, u16), Vec<Vec<u8>>> = BTreeMap::new();
    for record in records {
        let (name, rtype) = (name::of(&record.name), u16::from(record.record_type()));
        if record.ttl != 0 {
            return refuse(rcode::FORMERR, &name, "a prerequisite has a TTL");
        }
        if !name::within(&name, origin) {
            return refuse(rcode::NOTZONE, &name, "a prerequisite is not in the zone");
        }
        let (any, none) = (class(record) == DNSClass::ANY, class(record) == DNSClass::NONE);
        if (any || none) && !empty(record) || meta(rtype) && !(rtype == ANY && (any || none)) {
            return refuse(rcode::FORMERR, &name, "a prerequisite is malformed");
        }
        let there = match rtype {
            ANY => !view.types(&name).is_empty(),
            _ => view.get(&name, rtype).is_some(),
        };
        match (class(record), rtype) {
            (DNSClass::ANY, ANY) if !there => return lost(rcode::NXDOMAIN, &name, "the name is not there"),
            (DNSClass::ANY, _) if !there => return lost(rcode::NXRRSET, &name, "the set is not there"),
            (DNSClass::NONE, ANY) if there => return lost(rcode::YXDOMAIN, &name, "the name is there"),
            (DNSClass::NONE, _) if there => return lost(rcode::YXRRSET, &name, "the set is there"),
            (DNSClass::ANY | DNSClass::NONE, _) => {}
            (DNSClass::IN, _) => match encode(&record.data).filter(|_| !empty(record)) {
                Some(data) => wanted.entry((name, rtype)).or_default().push(data),
                None => return refuse(rcode::FORMERR, &name, "a prerequisite is malformed"),
            },
            _ => return refuse(rcode::FORMERR, &name, "a prerequisite has another class"),
        }
    }
    for ((name, rtype), data) in wanted {
        if !view.get(&name, rtype).is_some_and(|set| is_whole(set, &data)) {
            return lost(rcode::NXRRSET, &name, "the set is another one");
        }
    }
    Ok(())
}

/// Whether these are the data of all records of a set, some perhaps repeated.
/// It ends with the first that is not there: of a set that may be as large as a
/// message, nothing is built that a zone could not hold.
fn is_whole(set: &RrSet, wanted: &[Vec<u8>]) -> bool {
    let stored: Option<BTreeSet<&[u8]>> = wanted.iter().map(|data| set.stored(data)).collect();
    stored.is_some_and(|stored| stored.len() == set.len())
}

/// A prerequisite that does not hold: somebody else was first, as a rule.
fn lost<T>(rcode: u8, name: &[u8], reason: &str) -> Result<T, Refused> {
    refuse(rcode, name, format!("a prerequisite does not hold: {reason}"))
}

/// RFC 2136, section 3.4.2.
fn apply(
    view: &mut View<'_>,
    record: &Record,
    origin: &[u8],
    lease: Option<u32>,
    leases: &mut Leases,
) -> Result<(), Refused> {
    let (name, rtype) = (name::of(&record.name), u16::from(record.record_type()));
    let apex = *name == *origin;
    match class(record) {
        DNSClass::IN => add(view, &name, rtype, record, lease, leases),
        DNSClass::ANY => {
            let types = if rtype == ANY { view.types(&name) } else { vec![rtype] };
            for rtype in types.into_iter().filter(|rtype| !(apex && matches!(*rtype, SOA | NS))) {
                for data in view.get(&name, rtype).into_iter().flat_map(RrSet::data) {
                    leases.insert((name.clone(), rtype, data.to_vec()), None);
                }
                view.set(&name, rtype, None);
            }
            Ok(())
        }
        DNSClass::NONE => {
            let Some(data) = encode(&record.data) else { return Ok(()) };
            let Some(set) = view.get(&name, rtype) else { return Ok(()) };
            let Some(data) = set.stored(&data).map(<[u8]>::to_vec) else { return Ok(()) };
            let rest = set.without(&data);
            if rtype == SOA || (apex && rtype == NS && rest.is_none()) {
                return Ok(());
            }
            leases.insert((name.clone(), rtype, data), None);
            view.set(&name, rtype, rest);
            Ok(())
        }
        // Looked at before.
        DNSClass::CH | DNSClass::HS | DNSClass::OPT(_) | DNSClass::Unknown(_) => {
            refuse(rcode::FORMERR, &name, "a record of the update has another class")
        }
    }
}

fn add(
    view: &mut View<'_>,
    name: &Wire,
    rtype: u16,
    record: &Record,
    lease: Option<u32>,
    leases: &mut Leases,
) -> Result<(), Refused> {
    let Some(data) = encode(&record.data) else {
        return refuse(rcode::FORMERR, name, "a record of the update cannot be encoded");
    };
    // RFC 2181, section 8: a TTL has 31 bits.
    if record.ttl > i32::MAX.unsigned_abs() {
        return refuse(rcode::FORMERR, name, "a record of the update has a TTL beyond 31 bits");
    }
    if rtype == SOA {
        // The record is made from the settings; its serial may be set ahead.
        if let RData::SOA(soa) = &record.data
            && **name == **view.zone.origin()
            && newer(soa.serial, view.serial)
        {
            view.serial = soa.serial;
            view.moved = true;
        }
        return Ok(());
    }
    let others = view.types(name);
    // An alias stands alone: whichever came first stays.
    if rtype == CNAME && others.iter().any(|other| *other != CNAME)
        || rtype != CNAME && others.contains(&CNAME)
    {
        return Ok(());
    }
    let old = view.get(name, rtype);
    // A record that is there stays as it is spelled, and its lease is by that.
    let data = old.and_then(|old| old.stored(&data)).map_or(data, <[u8]>::to_vec);
    let set = match old {
        Some(old) if rtype == CNAME => {
            leases.extend(old.data().map(|gone| ((name.clone(), rtype, gone.to_vec()), None)));
            RrSet::new(rtype, record.ttl, [&data])
        }
        Some(old) => old.with(&data, record.ttl),
        None => RrSet::new(rtype, record.ttl, [&data]),
    };
    // At once, and not when all is done: each record makes the set anew.
    if set.as_ref().is_some_and(|set| set.wire().len() > MAX_SET) {
        let reason = format!("its {} records would take more than {MAX_SET} bytes", show_type(rtype));
        return refuse(rcode::REFUSED, name, reason);
    }
    leases.insert((name.clone(), rtype, data), lease);
    view.set(name, rtype, set);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tsig::tests::key;
    use crate::zone::Soa;
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{CNAME as Alias, NULL, PTR};
    use vipd_config::dnsd::{Grant, Names};

    fn zone() -> Zone {
        let ns = name::from_text("ns1.corp.example.");
        let soa = Soa { contact: ns.clone(), primary: ns, refresh: 1, retry: 1, expire: 1, minimum: 5 };
        Zone::new(name::from_text("corp.example."), soa, 7)
    }

    /// Does an update of one record, and gives the leases.
    fn update(zone: &mut Zone, class: DNSClass, data: RData, lease: Option<u32>) -> Leases {
        let all = Grant { names: Names::Below("corp.example.".into()), types: vec![] };
        let ttl = if class == DNSClass::IN { 5 } else { 0 };
        let mut record = Record::from_rdata(Name::from_ascii("A.corp.example.").unwrap(), ttl, data);
        record.dns_class = class;
        let mut message = Message::response(7, OpCode::Update);
        message.add_authority(record);
        let none = Changes::new();
        let mut view = View::new(zone, &none, zone.serial());
        let leases = judge(&mut view, &message, &key(vec![all]), lease).unwrap();
        let (changes, serial) = view.finish();
        zone.apply(&changes, serial);
        leases
    }

    fn to(name: &str) -> Name {
        Name::from_ascii(name).unwrap()
    }

    #[test]
    fn a_lease_is_of_the_record_as_it_is_spelled_in_the_zone() {
        let mut zone = zone();
        let ptr = |name: &str| RData::PTR(PTR(to(name)));
        let first = update(&mut zone, DNSClass::IN, ptr("Host.example."), Some(30));
        let (record, _) = first.first_key_value().unwrap();
        // Renewed and ended by whoever spells it in another way.
        let renewed = update(&mut zone, DNSClass::IN, ptr("host.EXAMPLE."), Some(60));
        assert_eq!(renewed, Leases::from([(record.clone(), Some(60))]));
        let none = Changes::new();
        assert!(View::new(&zone, &none, 7).has(record));
        let ended = update(&mut zone, DNSClass::NONE, ptr("HOST.example."), None);
        assert_eq!(ended, Leases::from([(record.clone(), None)]));
        assert!(!View::new(&zone, &none, 7).has(record));
    }

    #[test]
    fn types_that_this_server_does_not_serve_are_refused_by_name() {
        let all = Grant { names: Names::Below("corp.example.".into()), types: vec![] };
        let (zone, none) = (zone(), Changes::new());
        for rtype in [DNAME, SIG, RRSIG, NSEC, NSEC3, NSEC3PARAM] {
            let data = RData::Unknown { code: rtype.into(), rdata: NULL::with(vec![0]) };
            let mut message = Message::response(7, OpCode::Update);
            message.add_authority(Record::from_rdata(to("a.corp.example."), 5, data));
            let mut view = View::new(&zone, &none, 7);
            let refused = judge(&mut view, &message, &key(vec![all.clone()]), None).unwrap_err();
            assert_eq!((refused.rcode, &*refused.name), (rcode::REFUSED, "a.corp.example."));
            assert!(refused.reason.starts_with(&show_type(rtype)), "{refused:?}");
        }
    }

    /// So many of them as a message takes, each 250 bytes long, since names in it are pointers.
    fn many(records: u16) -> impl Iterator<Item = RData> {
        let label = "x".repeat(60);
        let tail = format!("{label}.{label}.{label}.corp.example.");
        (0..records).map(move |n| RData::PTR(PTR(to(&format!("n{n}.{tail}")))))
    }

    /// The writer's thread judges one after the other: all others wait for it.
    #[test]
    fn no_update_holds_up_the_others_for_long() {
        let all = Grant { names: Names::Below("corp.example.".into()), types: vec![] };
        let name = to("a.corp.example.");
        let mut large = zone();
        let stored: Vec<_> = many(110).filter_map(|data| encode(&data)).collect();
        large.put(&name::of(&name), 12, RrSet::new(12, 5, &stored));
        let judged = |zone: &Zone, prerequisite: bool| {
            let mut message = Message::response(7, OpCode::Update);
            for data in many(4000) {
                let record = Record::from_rdata(name.clone(), if prerequisite { 0 } else { 5 }, data);
                if prerequisite {
                    message.answers.push(record);
                } else {
                    message.add_authority(record);
                }
            }
            let none = Changes::new();
            let begun = std::time::Instant::now();
            let refused = judge(&mut View::new(zone, &none, 7), &message, &key(vec![all.clone()]), None);
            (refused.unwrap_err().rcode, begun.elapsed())
        };
        for (zone, prerequisite, code) in [
            (&zone(), false, rcode::REFUSED),
            (&large, false, rcode::REFUSED),
            (&zone(), true, rcode::NXRRSET),
            (&large, true, rcode::NXRRSET),
        ] {
            let (rcode, took) = judged(zone, prerequisite);
            assert_eq!(rcode, code);
            assert!(took < std::time::Duration::from_secs(1), "{took:?}");
        }
    }

    #[test]
    fn a_prerequisite_may_say_a_record_twice_but_leave_none_out() {
        let set = RrSet::new(16, 5, [b"\x01a", b"\x01b"]).unwrap();
        let whole = |wanted: &[&[u8]]| is_whole(&set, &wanted.iter().map(|d| d.to_vec()).collect::<Vec<_>>());
        assert!(whole(&[b"\x01b", b"\x01a"]) && whole(&[b"\x01b", b"\x01a", b"\x01b"]));
        assert!(!whole(&[b"\x01a"]) && !whole(&[b"\x01a", b"\x01a"]));
        assert!(!whole(&[b"\x01a", b"\x01b", b"\x01c"]));
    }

    #[test]
    fn the_lease_of_an_alias_ends_when_another_takes_its_place() {
        let mut zone = zone();
        let alias = |name: &str| RData::CNAME(Alias(to(name)));
        let first = update(&mut zone, DNSClass::IN, alias("one.example."), Some(30));
        let (one, _) = first.first_key_value().unwrap();
        let second = update(&mut zone, DNSClass::IN, alias("two.example."), Some(30));
        assert_eq!((second.len(), second.get(one)), (2, Some(&None)));
        assert_eq!(zone.get(&name::from_text("a.corp.example."), CNAME).map(RrSet::len), Some(1));
    }
}
