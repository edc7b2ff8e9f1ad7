//! What updates did, on disk.
//!
//! One file a zone, which only grows: frames of length, checksum and entries.
//! The first entries are what updates had made of the zone when the file was
//! written; the others are updates since. It is rewritten as a whole under
//! another name and put in its place at once, when it has grown too long.
//!
//! A process that is killed, or a host that loses power, can leave the last
//! frame torn. It was not acknowledged then, and is cut off.

use crate::name::{self, Wire};
use crate::update::{Leases, RecordKey};
use crate::zone::rrset::RrSet;
use crate::zone::{Changes, Key, Zone};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// The beginning of the file, with the version of its form.
const MAGIC: &[u8; 8] = b"dnsd\0\0\0\x02";
/// Length and checksum.
const FRAME: usize = 8;
/// A snapshot is cut into entries of about this size.
const CHUNK: usize = 1 << 20;
/// What is written at once is never longer: the updates of one batch, each of
/// which can touch a few thousand sets.
const MAX_FRAME: usize = 1 << 30;
/// The file is rewritten when it has this length and is this many times as
/// long as the snapshot in it.
const REWRITE_FROM: u64 = 4 << 20;
const REWRITE_TIMES: u64 = 4;

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
}

impl Entry {
    /// What an update upon a zone did.
    #[must_use]
    pub fn new(zone: &Zone, serial: u32, base: u64, changes: Changes, leases: Leases) -> Self {
        let of_file = changes.iter().filter(|(key, set)| zone.is_of_file(key, set.as_ref()));
        let settled = of_file.map(|(key, _)| key.clone()).collect();
        Self { serial, base, changes, leases, settled }
    }

    fn encode(&self, out: &mut Vec<u8>) {
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
    }

    fn decode(rest: &mut Rest<'_>) -> Option<Self> {
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
        Some(entry)
    }
}

/// Entries that are acknowledged together: one checksum for all, so that a torn
/// write takes all of them or none.
fn put_frame(entries: &[Entry], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; FRAME]);
    entries.iter().for_each(|entry| entry.encode(out));
    let content = out.len() - start - FRAME;
    let sum = crc32c::crc32c(&out[start + FRAME..]);
    out[start..start + 4].copy_from_slice(&u32::try_from(content).unwrap_or(u32::MAX).to_be_bytes());
    out[start + 4..start + FRAME].copy_from_slice(&sum.to_be_bytes());
}

fn frame_at(bytes: &[u8], at: usize) -> Option<(Vec<Entry>, usize)> {
    let frame = bytes.get(at..at + FRAME)?;
    let length = usize::try_from(u32::from_be_bytes(frame[..4].try_into().ok()?)).ok()?;
    if length == 0 || length > MAX_FRAME {
        return None;
    }
    let content = bytes.get(at + FRAME..at + FRAME + length)?;
    if crc32c::crc32c(content).to_be_bytes() != frame[4..] {
        return None;
    }
    Some((decode_all(content)?, FRAME + length))
}

fn decode_all(content: &[u8]) -> Option<Vec<Entry>> {
    let (mut rest, mut entries) = (Rest(content), Vec::new());
    while !rest.0.is_empty() {
        entries.push(Entry::decode(&mut rest)?);
    }
    Some(entries)
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
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused something.
    #[error("{}: cannot {what}: {source}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// It is another program's file, or of another version.
    #[error(
        "{}: this is no journal of this version of dnsd; move it away and what updates did is lost",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Something before its end is damaged.
    #[error(
        "{}: the entry at byte {at} is damaged, and good ones follow it: the disk lost what it had \
         acknowledged. Restore the file, or move it away and what updates did is lost",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the entry begins.
        at: u64,
    },
}

/// A zone's journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// The directory, kept open: when it must be written there may be no
    /// descriptor left.
    dir: File,
    /// None once it is not known what the disk holds of it.
    file: Option<File>,
    length: u64,
    snapshot: u64,
}

/// The entries of a journal, and how much of its end was cut off.
pub struct Recovered {
    /// In the order in which they were written.
    pub entries: Vec<Entry>,
    /// Bytes of a torn last entry.
    pub torn: u64,
}

impl Journal {
    /// Opens a zone's journal; makes it if it is not there.
    ///
    /// # Errors
    ///
    /// When the system refuses it, or its content cannot be trusted.
    pub fn open(dir: &Path, origin: &[u8]) -> Result<(Self, Recovered), JournalError> {
        let name = name::show(origin).trim_end_matches('.').replace('/', "_");
        let path = dir.join(format!("{name}.journal"));
        let fail = |what| move |source| (what, source);
        let system = |(what, source): (&'static str, io::Error)| JournalError::System {
            path: path.clone(),
            what,
            source,
        };
        let holder = File::open(dir).map_err(fail("open its directory")).map_err(system)?;
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(fail("open it"))
            .map_err(system)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fail("read it")).map_err(system)?;
        let (entries, good) = scan(&bytes).map_err(|bad| match bad {
            Bad::Foreign => JournalError::Foreign { path: path.clone() },
            Bad::Damaged(at) => JournalError::Damaged { path: path.clone(), at },
        })?;
        let torn = bytes.len() as u64 - good;
        if torn > 0 {
            file.set_len(good)
                .and_then(|()| file.sync_all())
                .map_err(fail("cut off its end"))
                .map_err(system)?;
        }
        if good == 0 {
            file.write_all(MAGIC).and_then(|()| file.sync_all()).map_err(fail("begin it")).map_err(system)?;
        }
        // Also of a file that is there: who began it may have been killed before this.
        holder.sync_all().map_err(fail("write its directory")).map_err(system)?;
        let length = good.max(MAGIC.len() as u64);
        let journal = Self { path, dir: holder, file: Some(file), length, snapshot: length };
        Ok((journal, Recovered { entries, torn }))
    }

    /// Writes entries and waits until they are on disk. When that fails none
    /// of them counts, and the next ones begin with a new file.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut bytes = Vec::new();
        put_frame(entries, &mut bytes);
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("the journal could not be written before"));
        };
        if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data()) {
            // What the disk holds now is not known: after a failed fsync the
            // kernel may have thrown the pages away. Nothing is added to this.
            let _ = file.set_len(self.length);
            let _ = file.sync_data();
            self.file = None;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Whether nothing can be added before it is written anew.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.file.is_none()
    }

    /// Whether it must or should be written anew.
    #[must_use]
    pub fn wants_rewrite(&self) -> bool {
        let long = self.length >= REWRITE_FROM && self.length / REWRITE_TIMES >= self.snapshot;
        self.is_broken() || long
    }

    /// Writes the zone's state to a new file and puts it in the place of this one.
    ///
    /// # Errors
    ///
    /// What the system said. Either file may then be the one that a restart
    /// finds; both say the same, and nothing is added before one is certain.
    pub fn rewrite(&mut self, zone: &Zone, leases: &Leases, base: u64) -> io::Result<()> {
        let new = self.path.with_extension("journal.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
        let written = write_snapshot(&mut file, zone, leases, base);
        let length = written.inspect_err(|_| {
            let _ = std::fs::remove_file(&new);
        })?;
        std::fs::rename(&new, &self.path)?;
        // From here on the former file has no name: what is added to it is lost.
        self.file = None;
        self.dir.sync_all()?;
        (self.file, self.length, self.snapshot) = (Some(file), length, length);
        Ok(())
    }
}

fn write_snapshot(file: &mut File, zone: &Zone, leases: &Leases, base: u64) -> io::Result<u64> {
    let fresh = || Entry { serial: zone.serial(), base, ..Entry::default() };
    let (mut bytes, mut entry, mut size) = (MAGIC.to_vec(), fresh(), 0);
    for (key, set) in zone.changed() {
        size += key.0.len() + set.as_ref().map_or(0, |set| set.wire().len());
        entry.changes.insert(key, set);
        if size > CHUNK {
            put_frame(&[std::mem::replace(&mut entry, fresh())], &mut bytes);
            size = 0;
        }
    }
    entry.leases = leases.clone();
    put_frame(&[entry], &mut bytes);
    file.write_all(&bytes)?;
    file.sync_all()?;
    Ok(bytes.len() as u64)
}

enum Bad {
    Foreign,
    Damaged(u64),
}

/// The good entries, and how many bytes they take.
fn scan(bytes: &[u8]) -> Result<(Vec<Entry>, u64), Bad> {
    if bytes.len() < MAGIC.len() {
        return if MAGIC.starts_with(bytes) { Ok((vec![], 0)) } else { Err(Bad::Foreign) };
    }
    if !bytes.starts_with(MAGIC) {
        return Err(Bad::Foreign);
    }
    let (mut entries, mut at) = (Vec::new(), MAGIC.len());
    while at < bytes.len() {
        let Some((more, length)) = frame_at(bytes, at) else { break };
        entries.extend(more);
        at += length;
    }
    // A torn write is the last thing in the file. One with good ones behind it
    // was whole once.
    if (at + 1..bytes.len()).any(|later| frame_at(bytes, later).is_some()) {
        return Err(Bad::Damaged(at as u64));
    }
    Ok((entries, at as u64))
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

#[cfg(test)]
mod tests;
