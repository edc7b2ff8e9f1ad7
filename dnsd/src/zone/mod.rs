//! What a zone holds, and what it says of a name.

pub mod file;
pub mod history;
pub mod rrset;

use crate::name::{self, Wire};
use hickory_proto::rr::RecordType;
use history::History;
use rrset::RrSet;
use siphasher::sip::SipHasher13;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hasher as _;

const SOA: u16 = 6;
const NS: u16 = 2;
const CNAME: u16 = 5;
const DS: u16 = 43;
/// A name and a type.
pub type Key = (Wire, u16);
/// Sets that are to be, each with its name and type; `None` for one that is to go.
pub type Changes = BTreeMap<Key, Option<RrSet>>;

/// The SOA record but for its serial (RFC 1035, section 3.3.13).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Soa {
    /// MNAME.
    pub primary: Wire,
    /// RNAME.
    pub contact: Wire,
    /// Seconds between a secondary's looks.
    pub refresh: u32,
    /// Seconds after which it looks again when it could not.
    pub retry: u32,
    /// Seconds after which it stops answering.
    pub expire: u32,
    /// TTL of negative answers, and of the record itself.
    pub minimum: u32,
}

/// A name with what it holds.
#[derive(Debug, Default)]
struct Node {
    sets: Box<[RrSet]>,
    /// Names one label below: a name without records exists as long as it has some.
    children: u32,
}

impl Node {
    fn get(&self, rtype: u16) -> Option<&RrSet> {
        self.sets.iter().find(|set| set.rtype() == rtype)
    }
}

/// What a zone says of a name and a type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found<'z> {
    /// This set.
    Set(&'z RrSet),
    /// It is an alias.
    Alias(&'z RrSet),
    /// The name does not exist, but a wildcard covers it, and has this set or alias.
    Wildcard(&'z RrSet),
    /// The name, or one above it, is another server's: its name servers.
    Delegated(&'z [u8], &'z RrSet),
    /// The name has no records of the type.
    NoData,
    /// There is no such name.
    NoName,
}

/// A zone.
#[derive(Debug)]
pub struct Zone {
    origin: Wire,
    nodes: HashMap<Wire, Node>,
    soa: Soa,
    serial: u32,
    /// Delegations and wildcards: where there are none, no name is looked up twice.
    cuts: usize,
    wildcards: usize,
    /// Sets that updates have changed, each with what the file says.
    changed: BTreeMap<Key, Option<RrSet>>,
    /// What changed lately, for IXFR.
    pub history: History,
}

impl Zone {
    /// An empty zone.
    #[must_use]
    pub fn new(origin: Wire, soa: Soa, serial: u32) -> Self {
        let mut zone = Self {
            origin: origin.clone(),
            nodes: HashMap::new(),
            soa,
            serial,
            cuts: 0,
            wildcards: 0,
            changed: BTreeMap::new(),
            history: History::default(),
        };
        zone.nodes.insert(origin, Node::default());
        zone.set_serial(serial);
        zone
    }

    /// The apex.
    #[must_use]
    pub fn origin(&self) -> &Wire {
        &self.origin
    }

    /// The serial of the SOA record.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// How many names there are.
    #[must_use]
    pub fn names(&self) -> usize {
        self.nodes.len()
    }

    /// Sets the serial of the SOA record.
    pub fn set_serial(&mut self, serial: u32) {
        self.serial = serial;
        let Soa { primary, contact, refresh, retry, expire, minimum } = &self.soa;
        let mut data = [&**primary, &**contact].concat();
        for number in [serial, *refresh, *retry, *expire, *minimum] {
            data.extend(number.to_be_bytes());
        }
        let set = RrSet::new(SOA, *minimum, [data]);
        self.put(&self.origin.clone(), SOA, set);
    }

    /// The SOA record as it stands in negative answers (RFC 2308, section 3):
    /// without its owner.
    #[must_use]
    pub fn negative(&self) -> &[u8] {
        let soa = self.nodes.get(&self.origin).and_then(|node| node.get(SOA));
        soa.map(RrSet::wire).and_then(|wire| wire.get(2..)).unwrap_or_default()
    }

    /// The set of a name and type, wildcards and delegations aside.
    #[must_use]
    pub fn get(&self, name: &[u8], rtype: u16) -> Option<&RrSet> {
        self.nodes.get(name)?.get(rtype)
    }

    /// The sets of a name.
    pub fn sets(&self, name: &[u8]) -> impl Iterator<Item = &RrSet> {
        self.nodes.get(name).into_iter().flat_map(|node| node.sets.iter())
    }

    /// Every name with its sets, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Wire, &RrSet)> {
        self.nodes.iter().flat_map(|(name, node)| node.sets.iter().map(move |set| (name, set)))
    }

    /// What the zone says of a name in it (RFC 1034, section 4.3.2).
    #[must_use]
    pub fn find(&self, name: &[u8], rtype: u16) -> Found<'_> {
        if self.cuts > 0
            && let Some((cut, set)) = self.cut(name)
            && !(cut == name && rtype == DS)
        {
            return Found::Delegated(cut, set);
        }
        let Some(node) = self.nodes.get(name) else { return self.find_wildcard(name, rtype) };
        match node.get(rtype) {
            Some(set) => Found::Set(set),
            None => node.get(CNAME).map_or(Found::NoData, Found::Alias),
        }
    }

    /// The highest delegation at a name or above it.
    fn cut(&self, name: &[u8]) -> Option<(&[u8], &RrSet)> {
        let below = name::upwards(name).take_while(|name| **name != *self.origin);
        let cut = |name| self.nodes.get_key_value(name).and_then(|(name, n)| Some((&**name, n.get(NS)?)));
        below.filter_map(cut).last()
    }

    /// RFC 4592, section 3.3.1.
    fn find_wildcard(&self, name: &[u8], rtype: u16) -> Found<'_> {
        if self.wildcards == 0 {
            return Found::NoName;
        }
        let encloser = name::upwards(name).find(|name| self.nodes.contains_key(*name));
        let Some(node) = encloser.and_then(|name| self.nodes.get(&name::wildcard(name))) else {
            return Found::NoName;
        };
        node.get(rtype).or_else(|| node.get(CNAME)).map_or(Found::NoData, Found::Wildcard)
    }

    /// Puts a set in the place of another one.
    pub fn put(&mut self, name: &[u8], rtype: u16, set: Option<RrSet>) {
        let there = self.get(name, rtype).is_some();
        if !there && set.is_none() {
            return;
        }
        self.count_special(name, rtype, there, set.is_some());
        if !self.nodes.contains_key(name) {
            self.grow(name);
        }
        if let Some(node) = self.nodes.get_mut(name) {
            let others = std::mem::take(&mut node.sets).into_vec().into_iter().filter(|s| s.rtype() != rtype);
            node.sets = others.chain(set).collect();
        }
        self.prune(name);
    }

    fn count_special(&mut self, name: &[u8], rtype: u16, there: bool, comes: bool) {
        let step = |count: &mut usize| match (there, comes) {
            (false, true) => *count += 1,
            (true, false) => *count -= 1,
            (true, true) | (false, false) => {}
        };
        if rtype == NS && *name != *self.origin {
            step(&mut self.cuts);
        }
        if name.starts_with(b"\x01*") {
            step(&mut self.wildcards);
        }
    }

    /// Makes a name and those between it and the apex.
    fn grow(&mut self, name: &[u8]) {
        let mut children = 0;
        for name in name::upwards(name) {
            if let Some(node) = self.nodes.get_mut(name) {
                node.children += children;
                return;
            }
            self.nodes.insert(name.into(), Node { children, ..Node::default() });
            children = 1;
        }
    }

    /// Takes away names that hold nothing, from here upwards.
    fn prune(&mut self, name: &[u8]) {
        let mut name = name;
        while *name != *self.origin
            && self.nodes.get(name).is_some_and(|node| node.sets.is_empty() && node.children == 0)
        {
            self.nodes.remove(name);
            let Some(parent) = name::parent(name) else { return };
            if let Some(node) = self.nodes.get_mut(parent) {
                node.children -= 1;
            }
            name = parent;
        }
    }

    /// Applies what an update changed, and remembers it for IXFR.
    pub fn apply(&mut self, changes: &Changes, serial: u32) {
        let before = (self.serial, self.negative().to_vec());
        let mut step = history::Step::new(before.0, serial);
        for ((name, rtype), set) in changes {
            let old = self.get(name, *rtype).cloned();
            step.change(name, old.as_ref(), set.as_ref());
            self.remember(name, *rtype, old, set.as_ref());
            self.put(name, *rtype, set.clone());
        }
        self.set_serial(serial);
        step.soa(&self.origin, &before.1, self.negative());
        self.history.push(step);
    }

    /// Keeps what the file says beside what an update made of it; a set that is
    /// as the file says is the file's again.
    fn remember(&mut self, name: &Wire, rtype: u16, old: Option<RrSet>, new: Option<&RrSet>) {
        let key = (name.clone(), rtype);
        let file = self.changed.entry(key).or_insert(old);
        if file.as_ref() == new {
            self.changed.remove(&(name.clone(), rtype));
        }
    }

    /// Whether a set, or none, is what the file says of a name and type.
    #[must_use]
    pub fn is_of_file(&self, key: &Key, set: Option<&RrSet>) -> bool {
        match self.changed.get(key) {
            Some(file) => file.as_ref() == set,
            None => self.get(&key.0, key.1) == set,
        }
    }

    /// What updates made of the file's records.
    #[must_use]
    pub fn changed(&self) -> Changes {
        let now = |(name, rtype): &Key| self.get(name, *rtype).cloned();
        self.changed.keys().map(|key| (key.clone(), now(key))).collect()
    }

    /// How many sets updates have changed.
    #[must_use]
    pub fn changed_sets(&self) -> usize {
        self.changed.len()
    }

    /// Puts what updates had made of the file's records upon a fresh zone.
    pub fn restore(&mut self, changes: &Changes) {
        for ((name, rtype), set) in changes {
            let file = self.get(name, *rtype).cloned();
            if file != *set {
                self.changed.insert((name.clone(), *rtype), file);
                self.put(name, *rtype, set.clone());
            }
        }
    }

    /// Comes after another zone with the same apex: takes its history over,
    /// and what differs as a step of it.
    pub fn follow(&mut self, before: &Self, serial: u32) {
        let mut step = history::Step::new(before.serial, serial);
        for ((name, rtype), set) in before.difference(self) {
            step.change(&name, before.get(&name, rtype), set.as_ref());
        }
        self.set_serial(serial);
        step.soa(&self.origin, before.negative(), self.negative());
        self.history = before.history.clone();
        self.history.push(step);
    }

    /// A hash of everything but the serial, whatever the order.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut sum = 0_u64;
        let mut add = |parts: [&[u8]; 2]| {
            let mut hasher = SipHasher13::new();
            parts.iter().for_each(|part| hasher.write(part));
            sum = sum.wrapping_add(hasher.finish());
        };
        for (name, set) in self.iter().filter(|(_, set)| set.rtype() != SOA) {
            set.records().for_each(|record| add([name, record]));
        }
        add([&self.soa.primary, &self.soa.contact]);
        let Soa { refresh, retry, expire, minimum, .. } = self.soa;
        [refresh, retry, expire, minimum].iter().for_each(|n| add([b"", &n.to_be_bytes()]));
        sum
    }

    /// What differs from another zone, to get from this one to that one.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Changes {
        let mut changes = Changes::new();
        let all = self.iter().chain(other.iter()).filter(|(_, set)| set.rtype() != SOA);
        for (name, rtype) in all.map(|(name, set)| (name, set.rtype())) {
            let (old, new) = (self.get(name, rtype), other.get(name, rtype));
            if old != new {
                changes.insert((name.clone(), rtype), new.cloned());
            }
        }
        changes
    }
}

/// The serial after another one (RFC 1982); 0 is left out, as some take it for none.
#[must_use]
pub fn next_serial(serial: u32) -> u32 {
    serial.wrapping_add(1).max(1)
}

/// Whether a serial comes after another one (RFC 1982, section 3.2).
#[must_use]
pub fn newer(serial: u32, than: u32) -> bool {
    let distance = serial.wrapping_sub(than);
    distance != 0 && distance < 1 << 31
}

/// A type for people.
#[must_use]
pub fn show_type(rtype: u16) -> String {
    RecordType::from(rtype).to_string()
}

#[cfg(test)]
mod tests;
