//! A set of records in the form in which it is sent.

use crate::name;
use hickory_proto::rr::{RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecoder, BinEncodable as _, BinEncoder, NameEncoding, Restrict};
use smallvec::SmallVec;
use std::ops::Range;

/// An owner that is the question's name: a pointer to the byte after the header.
pub const OWNER: [u8; 2] = [0xc0, 12];
/// Bytes of a record before its data: owner, type, class, TTL, length.
const FIXED: usize = 12;
const CLASS_IN: [u8; 2] = [0, 1];
/// Bytes that lie in the set itself: two addresses do. Looking a set up then
/// touches one place in memory less, which is what large zones wait for.
const WITHIN: usize = 40;

/// The records of one name and type.
///
/// They lie one after the other as they are sent, each owned by [`OWNER`], so
/// that an answer is a copy, and a record takes no more room than its bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RrSet {
    rtype: u16,
    wire: SmallVec<[u8; WITHIN]>,
}

impl RrSet {
    /// A set with at least one record; `None` without one.
    pub fn new<D: AsRef<[u8]>>(rtype: u16, ttl: u32, data: impl IntoIterator<Item = D>) -> Option<Self> {
        let mut wire = Vec::new();
        for data in data {
            let data = data.as_ref();
            wire.extend(OWNER);
            wire.extend(rtype.to_be_bytes());
            wire.extend(CLASS_IN);
            wire.extend(ttl.to_be_bytes());
            wire.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
            wire.extend(data);
        }
        (!wire.is_empty()).then(|| Self { rtype, wire: SmallVec::from_slice(&wire) })
    }

    /// A set from the bytes that [`Self::wire`] gave; `None` if they are others.
    #[must_use]
    pub fn from_wire(rtype: u16, wire: &[u8]) -> Option<Self> {
        let set = Self { rtype, wire: SmallVec::from_slice(wire) };
        let whole: usize = set.records().map(<[u8]>::len).sum();
        let own = |record: &[u8]| record[..2] == OWNER && record[2..4] == rtype.to_be_bytes();
        (whole == wire.len() && whole > 0 && set.records().all(own)).then_some(set)
    }

    /// The type.
    #[must_use]
    pub fn rtype(&self) -> u16 {
        self.rtype
    }

    /// All records, one after the other.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Each record, owner included.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.wire;
        std::iter::from_fn(move || {
            let length = rest.get(FIXED - 2..FIXED)?;
            let end = FIXED + usize::from(u16::from_be_bytes([length[0], length[1]]));
            let record = rest.get(..end)?;
            rest = &rest[end..];
            Some(record)
        })
    }

    /// The data of each record.
    pub fn data(&self) -> impl Iterator<Item = &[u8]> {
        self.records().map(|record| &record[FIXED..])
    }

    /// How many records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records().count()
    }

    /// Never: a set without a record is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wire.is_empty()
    }

    /// The TTL, which all records share (RFC 2181, section 5.2).
    #[must_use]
    pub fn ttl(&self) -> u32 {
        self.wire.get(6..10).and_then(|ttl| ttl.try_into().ok()).map_or(0, u32::from_be_bytes)
    }

    /// Appends all records, beginning with the one that `turn` chooses.
    pub fn append_rotated(&self, turn: usize, out: &mut Vec<u8>) {
        // Sets of one record are the most.
        let first =
            self.wire.get(FIXED - 2..FIXED).map_or(0, |l| usize::from(u16::from_be_bytes([l[0], l[1]])));
        if FIXED + first >= self.wire.len() {
            out.extend_from_slice(&self.wire);
            return;
        }
        let skipped: usize = self.records().take(turn % self.len()).map(<[u8]>::len).sum();
        let (end, start) = self.wire.split_at(skipped);
        out.extend_from_slice(start);
        out.extend_from_slice(end);
    }

    /// Whether one of the records has this data.
    #[must_use]
    pub fn contains(&self, data: &[u8]) -> bool {
        self.stored(data).is_some()
    }

    /// The record's data as the set spells it: names in it may differ in case.
    #[must_use]
    pub fn stored(&self, data: &[u8]) -> Option<&[u8]> {
        self.data().find(|own| same(self.rtype, own, data))
    }

    /// Whether it is the same set of data, whatever the order and the TTL.
    #[must_use]
    pub fn same_data(&self, other: &Self) -> bool {
        self.rtype == other.rtype && self.len() == other.len() && other.data().all(|data| self.contains(data))
    }

    /// The set with a record more; the new one's TTL goes for all.
    #[must_use]
    pub fn with(&self, data: &[u8], ttl: u32) -> Option<Self> {
        let new = (!self.contains(data)).then_some(data);
        Self::new(self.rtype, ttl, self.data().chain(new))
    }

    /// The set without a record.
    #[must_use]
    pub fn without(&self, data: &[u8]) -> Option<Self> {
        Self::new(self.rtype, self.ttl(), self.data().filter(|own| !same(self.rtype, own, data)))
    }

    /// The records as hickory has them.
    #[must_use]
    pub fn to_records(&self, owner: &[u8]) -> Vec<Record> {
        let owner = name::to_name(owner);
        let record = |data| Some(Record::from_rdata(owner.clone(), self.ttl(), decode(self.rtype, data)?));
        self.data().filter_map(record).collect()
    }
}

/// Whether two records of a type have the same data. Names in it are compared
/// without regard to case (RFC 2136, section 1.1.1 and RFC 1034, section 3.1).
/// Nothing is parsed: a large set is compared with itself record by record.
fn same(rtype: u16, a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if a == b {
        return true;
    }
    let names = names_in(rtype, a);
    let Some((own, other)) = a.get(names.clone()).zip(b.get(names.clone())) else { return false };
    own.eq_ignore_ascii_case(other)
        && a[..names.start] == b[..names.start]
        && a[names.end..] == b[names.end..]
}

/// Where the names lie in the data of a record; nowhere in types that have none.
fn names_in(rtype: u16, data: &[u8]) -> Range<usize> {
    // A label's length is less than any letter: names are compared in one piece.
    let whole = |start| start..data.len();
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "not ours to match to the last: the registry of types grows"
    )]
    match RecordType::from(rtype) {
        RecordType::NS | RecordType::CNAME | RecordType::PTR => whole(0),
        // Five numbers follow.
        RecordType::SOA => 0..data.len().saturating_sub(20),
        RecordType::MX => whole(2),
        RecordType::SRV => whole(6),
        RecordType::NAPTR => {
            // Order and preference, and three strings.
            let string = |at: usize| at + 1 + data.get(at).map_or(0, |length| usize::from(*length));
            whole(string(string(string(4))))
        }
        // Parameters follow.
        RecordType::SVCB | RecordType::HTTPS => {
            let root = data.get(2..).and_then(|name| name::upwards(name).last());
            2..root.map_or(2, |root| data.len() - root.len() + 1)
        }
        _ => 0..0,
    }
}

/// The data of a record, parsed.
#[must_use]
pub fn decode(rtype: u16, data: &[u8]) -> Option<RData> {
    let length = u16::try_from(data.len()).ok()?;
    RData::read(&mut BinDecoder::new(data), RecordType::from(rtype), Restrict::new(length)).ok()
}

/// The data of a record as it is sent, without compression.
#[must_use]
pub fn encode(data: &RData) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    data.emit(&mut encoder).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(data: &[&[u8]]) -> RrSet {
        RrSet::new(16, 5, data).unwrap()
    }

    #[test]
    fn records_lie_as_they_are_sent() {
        let two = set(&[b"\x01a", b"\x02bc"]);
        assert_eq!(
            two.wire(),
            b"\xc0\x0c\0\x10\0\x01\0\0\0\x05\0\x02\x01a\xc0\x0c\0\x10\0\x01\0\0\0\x05\0\x03\x02bc"
        );
        assert_eq!(two.data().collect::<Vec<_>>(), [b"\x01a".as_slice(), b"\x02bc"]);
        assert_eq!(RrSet::from_wire(16, two.wire()), Some(two.clone()));
        assert_eq!(RrSet::from_wire(16, &two.wire()[..20]), None);
        assert_eq!(RrSet::from_wire(1, two.wire()), None);
        assert_eq!((two.len(), two.ttl()), (2, 5));
        assert_eq!(RrSet::new::<&[u8]>(16, 5, []), None);
    }

    #[test]
    fn sets_are_compared_whole_and_without_order() {
        let two = set(&[b"\x01a", b"\x01b"]);
        assert!(two.same_data(&set(&[b"\x01b", b"\x01a"])));
        assert!(!two.same_data(&set(&[b"\x01a"])), "a part is not the whole");
        assert!(!set(&[b"\x01a"]).same_data(&two));
        assert!(!set(&[b"\x01a"]).same_data(&set(&[b"\x01A"])), "text counts as it is written");
        let upper = RrSet::new(5, 5, [b"\x02DB\x00"]).unwrap();
        assert_eq!(upper.stored(b"\x02db\x00"), Some(b"\x02DB\x00".as_slice()), "names do not");
    }

    #[test]
    fn only_names_differ_in_case() {
        let db: &[u8] = b"\x02dB\x07Example\x00";
        let spelled: &[u8] = b"\x02Db\x07eXAMPLE\x00";
        let others: [(u16, &[u8], &[u8]); 6] = [
            (2, b"", b""),
            (6, b"", b"AAAABBBBCCCCDDDDEEEE"),
            (15, b"\0A", b""),
            (33, b"\0A\0B\0C", b""),
            (35, b"\0A\0B\x01S\x01A\0", b""),
            (64, b"\0A", b"\0\x01\0\x03\x02H2"),
        ];
        for (rtype, before, behind) in others {
            let data = |name: &[u8]| [before, name, behind].concat();
            assert!(same(rtype, &data(db), &data(spelled)), "{rtype}");
            assert!(!same(rtype, &data(db), &data(b"\x02dc\x07example\x00")), "{rtype}");
            let lower = |part: &[u8]| part.to_ascii_lowercase();
            for (other_before, other_behind) in
                [(lower(before), behind.into()), (before.into(), lower(behind))]
            {
                let other = [&other_before[..], db, &other_behind].concat();
                assert_eq!(same(rtype, &data(db), &other), data(db) == other, "{rtype}: numbers and texts");
            }
            // Whatever comes, none of it panics.
            let whole = data(db);
            (0..whole.len()).for_each(|end| {
                assert!(!same(rtype, &whole[..end], &vec![7; end]) || end == 0);
            });
        }
        assert!(!same(16, b"\x01a", b"\x01A") && !same(1, b"abcd", b"ABCD"));
    }

    #[test]
    fn the_first_record_changes_each_time() {
        let three = set(&[b"\x01a", b"\x01b", b"\x01c"]);
        let first = |turn| {
            let mut out = Vec::new();
            three.append_rotated(turn, &mut out);
            RrSet::from_wire(16, &out).unwrap().data().next().unwrap()[1]
        };
        assert_eq!([first(0), first(1), first(2), first(3)], *b"abca");
    }

    #[test]
    fn the_newest_ttl_goes_for_all() {
        let two = set(&[b"\x01a"]).with(b"\x01b", 9).unwrap();
        assert_eq!((two.len(), two.ttl()), (2, 9));
        assert_eq!(two.with(b"\x01b", 7).unwrap().len(), 2);
        assert_eq!(two.without(b"\x01a").unwrap().data().collect::<Vec<_>>(), [b"\x01b"]);
        assert_eq!(set(&[b"\x01a"]).without(b"\x01a"), None);
    }
}
