//! What updates did, on disk.
//!
//! One file a zone, which only grows: a header, and frames of entries with
//! checksums. The first entries are what updates had made of the zone when the
//! file was written; the others are updates since. It is rewritten as a whole
//! under another name and put in its place at once, when it has grown too long.
//!
//! A process that is killed, or a host that loses power, can leave the last
//! frame torn. It was not acknowledged then, and is cut off. What lies in
//! records cannot be taken for a frame: each frame's checksums are over its
//! place, too, and over a number that each file draws by chance.

mod entry;

pub use entry::{Entry, sum};

use crate::name;
use crate::replay::Mark;
use crate::update::Leases;
use crate::zone::Zone;
use entry::{Form, decode_all};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// The beginning of the file, with the version of its form.
const MAGIC: &[u8; 8] = b"dnsd\0\0\0\x03";
/// That of the form before: it is read, and written anew in this one.
const SECOND: &[u8; 8] = b"dnsd\0\0\0\x02";
/// [`MAGIC`], the number drawn by chance, the length that the file had when it
/// was put in its place, and a checksum of these.
const HEADER: usize = 8 + 8 + 8 + 4;
/// Length, its checksum, and the content's.
const FRAME: usize = 12;
/// The same in the second form: length and the content's checksum.
const SECOND_FRAME: usize = 8;
/// A snapshot is cut into entries of about this size.
const CHUNK: usize = 1 << 20;
/// What is written at once is never longer, and nothing longer is read: the
/// updates of one batch, each of which can touch a few thousand sets. Tests have
/// less memory.
const MAX_FRAME: usize = if cfg!(test) { 2 << 20 } else { 1 << 30 };
/// The file is rewritten when it has this length and is this many times as
/// long as the snapshot in it.
const REWRITE_FROM: u64 = 4 << 20;
const REWRITE_TIMES: u64 = 4;

/// While a new file is on its way to a slow disk, what is added goes on in memory
/// up to this many bytes; beyond it the new file comes too late and is left.
const SINCE: usize = 16 << 20;

type Salt = [u8; 8];

/// Entries that are acknowledged together: one checksum for all, so that a torn
/// write takes all of them or none. They will lie at byte `at` of the file.
fn put_frame(entries: &[Entry], salt: Salt, at: u64, out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    out.extend([0; FRAME]);
    entries.iter().for_each(|entry| entry.encode(out));
    let content = out.len() - start - FRAME;
    if content > MAX_FRAME {
        let why = format!("{content} bytes at once are more than can be read again ({MAX_FRAME})");
        return Err(io::Error::other(why));
    }
    let length = u32::try_from(content).unwrap_or(u32::MAX).to_be_bytes();
    let sums = [checksum(salt, at, &length), checksum(salt, at, &out[start + FRAME..])];
    for (place, number) in out[start..start + FRAME].chunks_mut(4).zip([length, sums[0], sums[1]]) {
        place.copy_from_slice(&number);
    }
    Ok(())
}

fn checksum(salt: Salt, at: u64, bytes: &[u8]) -> [u8; 4] {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&salt), &at.to_be_bytes());
    crc32c::crc32c_append(sum, bytes).to_be_bytes()
}

/// The frame at a place, and its length. What is no frame is known by the first
/// few bytes: looking for one at every byte takes no more than reading them.
fn frame_at(bytes: &[u8], salt: Salt, at: usize) -> Option<(Vec<Entry>, usize)> {
    let frame = bytes.get(at..at + FRAME)?;
    let place = u64::try_from(at).ok()?;
    if checksum(salt, place, &frame[..4]) != frame[4..8] {
        return None;
    }
    let length = usize::try_from(u32::from_be_bytes(frame[..4].try_into().ok()?)).ok()?;
    let content = bytes.get(at + FRAME..at + FRAME + length).filter(|_| (1..=MAX_FRAME).contains(&length))?;
    if checksum(salt, place, content) != frame[8..] {
        return None;
    }
    Some((decode_all(content, Form::Third)?, FRAME + length))
}

fn second_frame_at(bytes: &[u8], at: usize) -> Option<(Vec<Entry>, usize)> {
    let frame = bytes.get(at..at + SECOND_FRAME)?;
    let length = usize::try_from(u32::from_be_bytes(frame[..4].try_into().ok()?)).ok()?;
    let content = bytes.get(at + SECOND_FRAME..)?.get(..length)?;
    if !(1..=MAX_FRAME).contains(&length) || crc32c::crc32c(content).to_be_bytes() != frame[4..] {
        return None;
    }
    Some((decode_all(content, Form::Second)?, SECOND_FRAME + length))
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
    /// Something is damaged that was on disk once.
    #[error(
        "{}: the entry at byte {at} is damaged, and it was on disk before something else was: the disk lost \
         what it had acknowledged. Restore the file, or move it away: what updates did is lost then, and a running \
         vipd writes its names again, as soon as no address of them is there (one that the zone's file has it \
         reports as drift, and leaves alone without `repair = true`)",
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
    /// None as long as there is none of this form, or once it is not known what
    /// the disk holds of it.
    file: Option<Open>,
    /// The new file that is being written, if one is.
    new: Option<New>,
}

/// A new file, on its way to the disk.
#[derive(Debug)]
struct New {
    thread: JoinHandle<io::Result<Staged>>,
    /// What was added to the former file meanwhile, as it was written together.
    since: Vec<Vec<Entry>>,
    /// About how many bytes that is.
    size: usize,
}

#[derive(Debug)]
struct Open {
    file: File,
    salt: Salt,
    /// What of it is on disk.
    length: u64,
    /// The length at which it is to be written anew.
    due: u64,
}

/// The entries of a journal, and how much of its end was cut off.
pub struct Recovered {
    /// In the order in which they were written.
    pub entries: Vec<Entry>,
    /// Bytes of a torn last entry.
    pub torn: u64,
}

/// A journal that was written anew and does not have the name yet.
#[derive(Debug)]
pub struct Staged(Open);

impl Journal {
    /// Opens a zone's journal. One that is not there, or of the form before,
    /// must be written anew before anything can be added.
    ///
    /// # Errors
    ///
    /// When the system refuses it, or its content cannot be trusted.
    pub fn open(dir: &Path, origin: &[u8]) -> Result<(Self, Recovered), JournalError> {
        let name = name::show(origin).trim_end_matches('.').replace('/', "_");
        let path = dir.join(format!("{name}.journal"));
        let system = |what| {
            let path = path.clone();
            move |source| JournalError::System { path, what, source }
        };
        let holder = File::open(dir).map_err(system("open its directory"))?;
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.map_err(system("read it"))?),
        };
        let scanned = bytes.as_deref().map_or(Ok(Scanned::default()), scan);
        let bytes = bytes.unwrap_or_default();
        let Scanned { entries, good, form } = scanned.map_err(|bad| match bad {
            Bad::Foreign => JournalError::Foreign { path: path.clone() },
            Bad::Damaged(at) => JournalError::Damaged { path: path.clone(), at: at as u64 },
        })?;
        let torn = (bytes.len() - good) as u64;
        let mut file = None;
        if let Some(head) = Head::read(&bytes).filter(|_| form == Form::Third) {
            let open = OpenOptions::new().read(true).write(true).open(&path).map_err(system("open it"))?;
            let length = good as u64;
            if torn > 0 {
                open.set_len(length).and_then(|()| open.sync_all()).map_err(system("cut off its end"))?;
            }
            file = Some(Open { file: open, salt: head.salt, length, due: due(head.snapshot) });
        }
        Ok((Self { path, dir: holder, file, new: None }, Recovered { entries, torn }))
    }

    /// Writes entries and waits until they are on disk. When that fails none
    /// of them counts.
    ///
    /// # Errors
    ///
    /// What the system said, or that it is too much at once.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let Some(Open { file, salt, length, .. }) = &mut self.file else {
            return Err(io::Error::other("the journal must be written anew first"));
        };
        let mut bytes = Vec::new();
        put_frame(entries, *salt, *length, &mut bytes)?;
        if let Err(error) = file.write_all_at(&bytes, *length) {
            // What was on disk still is. Without the rest of this, which takes
            // no room, the next ones can follow.
            if file.set_len(*length).and_then(|()| file.sync_data()).is_err() {
                self.file = None;
            }
            return Err(error);
        }
        if let Err(error) = file.sync_data() {
            // What the disk holds now is not known: after a failed fsync the
            // kernel may have thrown the pages away. Nothing is added to this.
            let _ = file.set_len(*length).and_then(|()| file.sync_data());
            self.file = None;
            return Err(error);
        }
        *length += bytes.len() as u64;
        if let Some(new) = self.new.as_mut().filter(|new| new.size <= SINCE) {
            new.size += bytes.len();
            new.since.push(entries.to_vec());
        }
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
        self.file.as_ref().is_none_or(|open| self.new.is_none() && open.length >= open.due)
    }

    /// Whether a new file is on its way to the disk.
    #[must_use]
    pub fn is_being_rewritten(&self) -> bool {
        self.new.is_some()
    }

    /// Begins to write the zone's state to a new file, on a thread of its own:
    /// what the disk takes its time for, no update waits for. [`Self::settle`]
    /// puts it in the place of this one.
    ///
    /// # Errors
    ///
    /// There is no thread, or no number by chance.
    pub fn begin_rewrite(
        &mut self,
        zone: &Zone,
        leases: &Leases,
        base: u64,
        marks: Vec<Mark>,
    ) -> io::Result<()> {
        self.leave_new();
        let (path, snapshot) = (self.staged(), Snapshot::of(zone, leases, base, marks)?);
        let thread =
            std::thread::Builder::new().name("snapshot".into()).spawn(move || snapshot.write(&path))?;
        self.new = Some(New { thread, since: vec![], size: 0 });
        Ok(())
    }

    /// Puts a new file in the place of this one if it is on disk by now: none if
    /// it is not, or there is none.
    ///
    /// # Errors
    ///
    /// As for [`Self::rewrite`].
    pub fn settle(&mut self) -> Option<io::Result<()>> {
        let New { thread, since, size } = self.new.take_if(|new| new.thread.is_finished())?;
        let written = thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread panicked")));
        let settled = written.and_then(|Staged(mut open)| {
            if size > SINCE {
                return Err(io::Error::other("the disk is too slow for what is added meanwhile"));
            }
            since.iter().try_for_each(|entries| open.add(entries))?;
            open.file.sync_data()?;
            Ok(Staged(open))
        });
        Some(match settled {
            Ok(staged) => self.adopt(staged),
            Err(error) => {
                let _ = std::fs::remove_file(self.staged());
                self.wait_longer();
                Err(error)
            }
        })
    }

    /// Waits for a new file that is on its way, and takes it away.
    fn leave_new(&mut self) {
        if let Some(new) = self.new.take() {
            let _ = new.thread.join();
            let _ = std::fs::remove_file(self.staged());
        }
    }

    /// Not again with each update: there is no room.
    fn wait_longer(&mut self) {
        if let Some(open) = &mut self.file {
            open.due = open.length.saturating_mul(2);
        }
    }

    /// Writes the zone's state to a new file and puts it in the place of this one.
    ///
    /// # Errors
    ///
    /// What the system said. Either file may then be the one that a restart
    /// finds; both say the same, and nothing is added before one is certain.
    pub fn rewrite(&mut self, zone: &Zone, leases: &Leases, base: u64, marks: Vec<Mark>) -> io::Result<()> {
        match self.stage(zone, leases, base, marks) {
            Ok(staged) => self.adopt(staged),
            Err(error) => {
                self.wait_longer();
                Err(error)
            }
        }
    }

    /// Writes a zone's state to a new file beside this one.
    ///
    /// # Errors
    ///
    /// What the system said; nothing has changed then.
    pub fn stage(&mut self, zone: &Zone, leases: &Leases, base: u64, marks: Vec<Mark>) -> io::Result<Staged> {
        self.leave_new();
        Snapshot::of(zone, leases, base, marks)?.write(&self.staged())
    }

    /// Puts a new file in the place of this one.
    ///
    /// # Errors
    ///
    /// As for [`Self::rewrite`].
    pub fn adopt(&mut self, Staged(open): Staged) -> io::Result<()> {
        std::fs::rename(self.staged(), &self.path)?;
        // From here on the former file has no name: what is added to it is lost.
        self.file = None;
        self.dir.sync_all()?;
        self.file = Some(open);
        Ok(())
    }

    /// Takes a new file away that is not to be used.
    pub fn discard(&self, _: Staged) {
        let _ = std::fs::remove_file(self.staged());
    }

    fn staged(&self) -> PathBuf {
        self.path.with_extension("journal.new")
    }
}

fn due(snapshot: u64) -> u64 {
    snapshot.saturating_mul(REWRITE_TIMES).max(REWRITE_FROM)
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.leave_new();
    }
}

impl Open {
    /// Adds entries to a file that nobody reads yet, without waiting for the disk.
    fn add(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut bytes = Vec::new();
        put_frame(entries, self.salt, self.length, &mut bytes)?;
        self.file.write_all_at(&bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// A zone's state, as it is written.
struct Snapshot {
    salt: Salt,
    bytes: Vec<u8>,
}

impl Snapshot {
    fn of(zone: &Zone, leases: &Leases, base: u64, marks: Vec<Mark>) -> io::Result<Self> {
        let mut salt = Salt::default();
        getrandom::fill(&mut salt).map_err(|error| io::Error::other(error.to_string()))?;
        let fresh = || Entry { serial: zone.serial(), base, ..Entry::default() };
        let (mut bytes, mut entry, mut size) = (vec![0; HEADER], fresh(), 0);
        let put = |entry: Entry, bytes: &mut Vec<u8>| put_frame(&[entry], salt, bytes.len() as u64, bytes);
        for (key, set) in zone.changed() {
            size += key.0.len() + set.as_ref().map_or(0, |set| set.wire().len());
            entry.changes.insert(key, set);
            if size > CHUNK {
                put(std::mem::replace(&mut entry, fresh()), &mut bytes)?;
                size = 0;
            }
        }
        entry.leases = leases.clone();
        entry.marks = marks;
        put(entry, &mut bytes)?;
        Head { salt, snapshot: bytes.len() as u64 }.write(&mut bytes[..HEADER]);
        Ok(Self { salt, bytes })
    }

    /// Writes it, and waits until it is on disk.
    fn write(self, path: &Path) -> io::Result<Staged> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let written = file.write_all_at(&self.bytes, 0).and_then(|()| file.sync_all());
        written.inspect_err(|_| {
            let _ = std::fs::remove_file(path);
        })?;
        let length = self.bytes.len() as u64;
        Ok(Staged(Open { file, salt: self.salt, length, due: due(length) }))
    }
}

/// What stands at the beginning of the file.
struct Head {
    salt: Salt,
    snapshot: u64,
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (head, sum) = bytes.get(..HEADER)?.split_at(HEADER - 4);
        let (magic, rest) = head.split_first_chunk::<8>()?;
        let (salt, snapshot) = rest.split_first_chunk::<8>()?;
        let good = magic == MAGIC && crc32c::crc32c(head).to_be_bytes() == sum;
        good.then_some(Self { salt: *salt, snapshot: u64::from_be_bytes(snapshot.try_into().ok()?) })
    }

    fn write(&self, to: &mut [u8]) {
        let head = [MAGIC.as_slice(), &self.salt, &self.snapshot.to_be_bytes()].concat();
        let sum = crc32c::crc32c(&head).to_be_bytes();
        to.copy_from_slice(&[head.as_slice(), &sum].concat());
    }
}

enum Bad {
    Foreign,
    Damaged(usize),
}

#[derive(Default)]
struct Scanned {
    entries: Vec<Entry>,
    /// How many bytes they take.
    good: usize,
    form: Form,
}

/// The good entries of a file.
fn scan(bytes: &[u8]) -> Result<Scanned, Bad> {
    if bytes.starts_with(MAGIC) {
        let head = Head::read(bytes).ok_or(Bad::Damaged(0))?;
        let scanned = frames(bytes, HEADER, Form::Third, |at| frame_at(bytes, head.salt, at))?;
        // All of the snapshot was on disk before the file had its name.
        if (scanned.good as u64) < head.snapshot {
            return Err(Bad::Damaged(scanned.good));
        }
        return Ok(scanned);
    }
    if bytes.starts_with(SECOND) {
        return frames(bytes, SECOND.len(), Form::Second, |at| second_frame_at(bytes, at));
    }
    // A file gets its name when it is whole: one this short has lost something.
    Err(if bytes.len() < MAGIC.len() { Bad::Damaged(0) } else { Bad::Foreign })
}

fn frames(
    bytes: &[u8],
    from: usize,
    form: Form,
    frame_at: impl Fn(usize) -> Option<(Vec<Entry>, usize)>,
) -> Result<Scanned, Bad> {
    let (mut entries, mut good) = (Vec::new(), from);
    while let Some((more, length)) = frame_at(good) {
        entries.extend(more);
        good += length;
    }
    // A torn write is the last thing in the file. One with good ones behind it
    // was whole once.
    if (good + 1..bytes.len()).any(|later| frame_at(later).is_some()) {
        return Err(Bad::Damaged(good));
    }
    Ok(Scanned { entries, good, form })
}

#[cfg(test)]
pub(crate) mod tests;
