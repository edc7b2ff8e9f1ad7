//! What an entry says, and its bytes.

use crate::name::Wire;
use crate::replay::{Mac, Mark};
use crate::update::{Leases, RecordKey};
use crate::zone::rrset::RrSet;
use crate::zone::{Changes, Key, Zone};
use std::collections::BTreeSet;

/// What one entry says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Entry {
    /// The serial afterwards.
    pub serial: u32,
    /// A hash of the settings and the file that this is upon.
    pub base: u64,
    /// The sets as they are now.
    pub changes: Changes,
    /// Leases that were granted, in seconds, or ended.
    pub leases: Leases,
    /// Of the changes, those after which a set is as the file says: it is the
    /// file's again, also when that changes.
    pub settled: BTreeSet<Key>,
    /// Signed updates that were seen.
    pub marks: Vec<Mark>,
}

/// How the bytes of an entry are to be read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Form {
    /// Without marks.
    Second,
    /// With them.
    #[default]
    Third,
}

/// Bytes of [`Mark`]s: which of them it is.
const SEEN: u8 = 0;
const SINCE: u8 = 1;
const SINCE_ALL: u8 = 2;

impl Entry {
    /// What an update upon a zone did.
    #[must_use]
    pub fn new(zone: &Zone, serial: u32, base: u64, changes: Changes, leases: Leases) -> Self {
        let of_file = changes.iter().filter(|(key, set)| zone.is_of_file(key, set.as_ref()));
        let settled = of_file.map(|(key, _)| key.clone()).collect();
        Self { serial, base, changes, leases, settled, marks: vec![] }
    }

    /// About how many bytes it takes: its sets are whole, however little of them changed.
    #[must_use]
    pub fn size(&self) -> usize {
        let sets = self.changes.iter();
        let sets = sets.map(|(key, set)| key.0.len() + set.as_ref().map_or(0, |set| set.wire().len()));
        let leases = self.leases.keys().map(|(name, _, data)| name.len() + data.len());
        sets.chain(leases).sum()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.serial.to_be_bytes());
        out.extend(self.base.to_be_bytes());
        put_length(out, self.changes.len());
        for ((name, rtype), set) in &self.changes {
            out.extend(name.iter());
            out.extend(rtype.to_be_bytes());
            put_bytes(out, set.as_ref().map(RrSet::wire).unwrap_or_default());
        }
        put_length(out, self.leases.len());
        for ((name, rtype, data), lease) in &self.leases {
            out.extend(name.iter());
            out.extend(rtype.to_be_bytes());
            put_bytes(out, data);
            out.extend(lease.unwrap_or(0).to_be_bytes());
        }
        put_length(out, self.settled.len());
        for (name, rtype) in &self.settled {
            out.extend(name.iter());
            out.extend(rtype.to_be_bytes());
        }
        put_length(out, self.marks.len());
        self.marks.iter().for_each(|mark| put_mark(out, mark));
    }

    fn decode(rest: &mut Rest<'_>, form: Form) -> Option<Self> {
        let mut entry = Self { serial: rest.u32()?, base: rest.u64()?, ..Self::default() };
        for _ in 0..rest.u32()? {
            let (name, rtype) = (rest.name()?, rest.u16()?);
            let wire = rest.bytes()?;
            let set = if wire.is_empty() { None } else { Some(RrSet::from_wire(rtype, wire)?) };
            entry.changes.insert((name, rtype), set);
        }
        for _ in 0..rest.u32()? {
            let key: RecordKey = (rest.name()?, rest.u16()?, rest.bytes()?.to_vec());
            let lease = rest.u32()?;
            entry.leases.insert(key, (lease > 0).then_some(lease));
        }
        for _ in 0..rest.u32()? {
            entry.settled.insert((rest.name()?, rest.u16()?));
        }
        if form == Form::Third {
            for _ in 0..rest.u32()? {
                entry.marks.push(rest.mark()?);
            }
        }
        Some(entry)
    }
}

/// The entries of a frame; `None` if the bytes are others.
pub(super) fn decode_all(content: &[u8], form: Form) -> Option<Vec<Entry>> {
    let (mut rest, mut entries) = (Rest(content), Vec::new());
    while !rest.0.is_empty() {
        entries.push(Entry::decode(&mut rest, form)?);
    }
    Some(entries)
}

fn put_mark(out: &mut Vec<u8>, mark: &Mark) {
    match mark {
        Mark::Seen { key, time, mac, code } => {
            out.push(SEEN);
            put_bytes(out, key.as_bytes());
            out.extend(time.to_be_bytes());
            out.extend(mac);
            out.push(*code);
        }
        Mark::Since { key: Some(key), time } => {
            out.push(SINCE);
            put_bytes(out, key.as_bytes());
            out.extend(time.to_be_bytes());
        }
        Mark::Since { key: None, time } => {
            out.push(SINCE_ALL);
            out.extend(time.to_be_bytes());
        }
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend(bytes);
}

/// What is left to decode.
struct Rest<'c>(&'c [u8]);

impl<'c> Rest<'c> {
    fn take(&mut self, length: usize) -> Option<&'c [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    fn bytes(&mut self) -> Option<&'c [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }

    fn text(&mut self) -> Option<String> {
        std::str::from_utf8(self.bytes()?).ok().map(str::to_owned)
    }

    fn name(&mut self) -> Option<Wire> {
        let mut length = 0;
        loop {
            let label = *self.0.get(length)?;
            length += 1 + usize::from(label);
            if label == 0 {
                break;
            }
        }
        self.take(length).map(Wire::from)
    }

    fn mark(&mut self) -> Option<Mark> {
        match self.u8()? {
            SEEN => {
                let (key, time) = (self.text()?, self.u64()?);
                let mac: Mac = self.take(size_of::<Mac>())?.try_into().ok()?;
                Some(Mark::Seen { key, time, mac, code: self.u8()? })
            }
            SINCE => Some(Mark::Since { key: Some(self.text()?), time: self.u64()? }),
            SINCE_ALL => Some(Mark::Since { key: None, time: self.u64()? }),
            _ => None,
        }
    }
}

/// What a journal says in the end: sets, leases, serial and base.
#[must_use]
pub fn sum(entries: &[Entry]) -> Entry {
    let mut total = Entry::default();
    for entry in entries {
        (total.serial, total.base) = (entry.serial, entry.base);
        total.changes.extend(entry.changes.clone());
        for key in &entry.settled {
            total.changes.remove(key);
        }
        total.leases.extend(entry.leases.clone());
    }
    total.leases.retain(|_, lease| lease.is_some());
    total
}
