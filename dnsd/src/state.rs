//! From settings and disk to what is served, at the start and at a reload.

use crate::journal::{self, Entry, Journal, JournalError, Recovered, Staged};
use crate::lease::Table;
use crate::name;
use crate::replay::{Mark, Replay};
use crate::served::{ServedZone, Serving};
use crate::tsig;
use crate::zone::file::{self, FileError};
use crate::zone::{Changes, Zone, newer, next_serial};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tracing::{error, info, warn};
use vipd_config::dnsd;

/// Why a zone cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Its file is wrong.
    #[error("{0}")]
    File(#[from] FileError),
    /// Its journal cannot be used.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// Its journal cannot be written.
    #[error("zone {zone}: cannot write its journal: {source}")]
    Write {
        /// The zone.
        zone: String,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// The directory of the journals cannot be used.
    #[error("state-dir {}: {source}", path.display())]
    Dir {
        /// The directory.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
}

/// What the writer knows of a zone beside what is served.
pub struct ZoneState {
    /// The zone.
    pub serving: Serving,
    /// Its journal.
    pub journal: Journal,
    /// Its leases.
    pub leases: Table,
    /// A hash of what settings and file say.
    pub base: u64,
    /// Signed updates that its journal remembers.
    pub replay: Replay,
}

/// What settings and file say of a zone, read before anything waits for it.
pub struct Loaded {
    zone: Zone,
    base: u64,
}

/// Reads a zone's file.
///
/// # Errors
///
/// When it is wrong.
pub fn load(settings: &dnsd::Zone) -> Result<Loaded, StateError> {
    let zone = file::load(settings)?;
    Ok(Loaded { base: zone.digest(), zone })
}

/// Takes the directory of the journals for this process alone.
///
/// # Errors
///
/// When it cannot be made or locked: another dnsd uses it.
pub fn claim(dir: &Path) -> Result<nix::fcntl::Flock<std::fs::File>, StateError> {
    let fail = |source| StateError::Dir { path: dir.into(), source };
    std::fs::create_dir_all(dir).map_err(fail)?;
    let lock = std::fs::File::create(dir.join("lock")).map_err(fail)?;
    nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock)
        .map_err(|(_, errno)| fail(io::Error::other(format!("{errno}: does another dnsd run with it?"))))
}

/// Reads a zone's journal, and does what it says upon what the file says.
///
/// # Errors
///
/// When it is damaged or cannot be written.
pub fn open(
    dir: &Path,
    settings: &dnsd::Zone,
    loaded: Loaded,
    now: Instant,
) -> Result<ZoneState, StateError> {
    let Loaded { mut zone, base } = loaded;
    let (mut journal, Recovered { entries, torn }) = Journal::open(dir, zone.origin())?;
    if torn > 0 {
        warn!(zone = settings.name, bytes = torn, "cut off the journal's torn end: it was not acknowledged");
    }
    let total = journal::sum(&entries);
    let (from_file, name) = (zone.serial(), settings.name.clone());
    let fresh = entries.is_empty();
    // With nothing known, the time is ahead of serials that were given out
    // before, unless they had run ahead of it: as those of a file can that are dates.
    let clock = tsig::seconds();
    let time = u32::try_from(clock & 0xffff_ffff).unwrap_or(1);
    let kept = if fresh { time } else { total.serial };
    if fresh && from_file != 0 && newer(from_file, kept) {
        error!(
            zone = name,
            serial = from_file,
            "there is no journal of this zone in {}, and the serial in its file is ahead of the clock (in seconds \
             since 1970), so nobody knows which serials were given out. If the zone was served before, \
             secondaries may have a newer one and keep what they have: raise the serial in the file above \
             theirs and send SIGHUP, or have them transfer the zone anew (rndc retransfer, knotc zone-retransfer)",
            dir.display()
        );
    }
    let same = !fresh && total.base == base;
    let serial = if same {
        redo(&mut zone, &entries, base);
        let serial = later(from_file, total.serial);
        if serial != total.serial {
            zone.apply(&Changes::new(), serial);
        }
        serial
    } else {
        zone.restore(&total.changes);
        // On a full disk it cannot be noted, and the next start would give it
        // out again: by the clock, each of them has a later one.
        let next = if fresh { kept } else { later(time, next_serial(kept)) };
        let serial = later(from_file, next);
        zone.set_serial(serial);
        serial
    };
    let mut replay = Replay::default();
    let late = replay.restore(entries.into_iter().flat_map(|entry| entry.marks), clock);
    let mut written = Ok(());
    if journal.is_broken() || late {
        if journal.is_broken() {
            // Updates that were signed before may have been seen, and nothing knows of them.
            replay.restore([Mark::Since { key: None, time: clock }], clock);
        }
        written = journal.rewrite(&zone, &total.leases, base, replay.marks(clock));
    } else if !same || serial != total.serial {
        // What the file was made equal to is the file's from now on.
        let of_file = total.changes.iter().filter(|(key, set)| zone.is_of_file(key, set.as_ref()));
        let settled = of_file.map(|(key, _)| key.clone()).collect();
        written = journal.append(&[Entry { serial, base, settled, ..Entry::default() }]);
    }
    info!(
        zone = name,
        serial = zone.serial(),
        names = zone.names(),
        changed = zone.changed_sets(),
        "serving"
    );
    let served = ServedZone::new(zone);
    match written {
        Ok(()) => {}
        // What is known can be answered, and there will be room again.
        Err(error) if no_room(&error) => {
            error!(zone = name, %error, "cannot write the journal: updates are refused, queries are answered");
            served.journal_was_written(Err(error.to_string()));
        }
        Err(source) => return Err(StateError::Write { zone: name, source }),
    }
    let leases = Table::new(&total.leases, now);
    let serving = Serving { zone: served, settings: Arc::new(settings.clone()) };
    Ok(ZoneState { serving, journal, leases, base, replay })
}

/// A serial that a person wrote into the file, or the clock's, if it comes after
/// the zone's; a file need not have one.
fn later(proposed: u32, serial: u32) -> u32 {
    if proposed != 0 && newer(proposed, serial) { proposed } else { serial }
}

fn no_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Does again what the journal says. Its beginning is a snapshot; the updates
/// behind it, upon the same file, can be given to secondaries step by step.
fn redo(zone: &mut Zone, entries: &[Entry], base: u64) {
    let first = entries.iter().rposition(|entry| entry.base != base).map_or(0, |last| last + 1);
    let before = journal::sum(&entries[..first]);
    zone.restore(&before.changes);
    zone.set_serial(0);
    for entry in &entries[first..] {
        // Parts of a snapshot have the same serial.
        if newer(entry.serial, zone.serial()) && zone.serial() != 0 && !entry.changes.is_empty() {
            zone.apply(&entry.changes, entry.serial);
        } else {
            zone.restore(&entry.changes);
            zone.set_serial(entry.serial);
        }
    }
}

/// What a zone will be after its settings or its file changed, on disk already
/// but for the name.
pub struct Prepared {
    settings: Arc<dnsd::Zone>,
    /// None if only the settings changed.
    anew: Option<(Zone, u64, Staged)>,
}

/// Takes up what a zone's file says now; what updates did stays.
///
/// # Errors
///
/// When there is no room for a new journal; nothing is changed then.
pub fn prepare(state: &mut ZoneState, settings: &dnsd::Zone, loaded: Loaded) -> Result<Prepared, StateError> {
    let Loaded { zone: mut fresh, base } = loaded;
    let settings = Arc::new(settings.clone());
    let old = state.serving.zone.read();
    // The serial alone is no part of what the file says, but secondaries go by it.
    if base == state.base && later(fresh.serial(), old.serial()) == old.serial() {
        drop(old);
        return Ok(Prepared { settings, anew: None });
    }
    fresh.restore(&old.changed());
    let serial = later(fresh.serial(), next_serial(old.serial()));
    fresh.follow(&old, serial);
    drop(old);
    let marks = state.replay.marks(tsig::seconds());
    let staged = state.journal.stage(&fresh, &state.leases.all(), base, marks);
    let staged = staged.map_err(|source| StateError::Write { zone: settings.name.clone(), source })?;
    Ok(Prepared { settings, anew: Some((fresh, base, staged)) })
}

/// Serves what was prepared.
pub fn take(state: &mut ZoneState, prepared: Prepared) {
    let Prepared { settings, anew } = prepared;
    state.serving.settings = settings;
    let Some((fresh, base, staged)) = anew else { return };
    let (zone, serial) = (&state.serving.settings.name, fresh.serial());
    let adopted = state.journal.adopt(staged);
    if let Err(error) = &adopted {
        // The former one goes on if it still can: its entries say what updates did.
        error!(zone, %error, "cannot put the new journal in its place");
    }
    state.serving.zone.journal_was_written(adopted.map_err(|error| error.to_string()));
    state.base = base;
    info!(zone, serial, names = fresh.names(), "the file's records changed");
    let before = std::mem::replace(&mut *state.serving.zone.write(), fresh);
    // Queries need not wait until a large zone is taken apart.
    drop(before);
    state.serving.zone.serial.send_replace(serial);
}

/// Leaves a zone as it is.
pub fn discard(state: &ZoneState, prepared: Prepared) {
    if let Some((_, _, staged)) = prepared.anew {
        state.journal.discard(staged);
    }
}

/// A zone's name as the configuration has it, to compare.
#[must_use]
pub fn is_of(state: &ZoneState, settings: &dnsd::Zone) -> bool {
    *state.serving.zone.origin == *name::from_text(&settings.name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::journal::tests::second_form;
    use crate::zone::rrset::RrSet;
    use std::collections::BTreeMap;
    use std::time::Duration;

    pub(crate) fn settings(file: Option<&Path>) -> dnsd::Zone {
        dnsd::Zone {
            name: "corp.example.".into(),
            primary_ns: "ns1.corp.example.".into(),
            contact: "hostmaster.corp.example.".into(),
            negative_ttl: 5,
            file: file.map(Path::to_path_buf),
            allow_transfer: vec![],
            notify: vec![],
            min_lease: Duration::from_secs(30),
            max_lease: Duration::from_secs(30),
            expire_last: false,
        }
    }

    pub(crate) fn opened(dir: &Path, settings: &dnsd::Zone) -> ZoneState {
        open(dir, settings, load(settings).unwrap(), Instant::now()).unwrap()
    }

    /// A file with this serial and address of `db`.
    fn write(path: &Path, serial: u32, address: u8) {
        let text =
            format!("$TTL 60\n@ SOA ns1 hostmaster {serial} 60 60 60 5\n@ NS ns1\ndb 5 A 10.0.0.{address}\n");
        std::fs::write(path, text).unwrap();
    }

    /// What is served of `db`, and the serial.
    fn served(state: &ZoneState) -> (u32, Option<RrSet>) {
        let zone = state.serving.zone.read();
        (zone.serial(), zone.get(&name::from_text("db.corp.example."), 1).cloned())
    }

    fn address(last: u8) -> Option<RrSet> {
        RrSet::new(1, 5, [[10, 0, 0, last]])
    }

    /// A person made the file say what updates had done: from then on it is the file's.
    #[test]
    fn a_set_that_the_file_was_made_equal_to_is_the_files_also_after_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("zone");
        let settings = settings(Some(&file));
        write(&file, 1, 1);
        let mut state = opened(dir.path(), &settings);
        let changes = Changes::from([((name::from_text("db.corp.example."), 1), address(2))]);
        let entry = Entry::new(
            &state.serving.zone.read(),
            served(&state).0 + 1,
            state.base,
            changes,
            BTreeMap::new(),
        );
        state.journal.append(&[entry]).unwrap();
        for (in_file, expected) in [(1, 2), (3, 2), (2, 2), (2, 2), (4, 4)] {
            drop(state);
            write(&file, 1, in_file);
            state = opened(dir.path(), &settings);
            assert_eq!(served(&state).1, address(expected), "the file says {in_file}");
        }
    }

    #[test]
    fn a_serial_in_the_file_that_comes_after_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("zone");
        let settings = settings(Some(&file));
        write(&file, 2_026_112_001, 1);
        let mut state = opened(dir.path(), &settings);
        assert_eq!(served(&state).0, 2_026_112_001);
        // By a reload, by a restart, and there again at the next one.
        write(&file, 2_026_112_005, 1);
        let prepared = prepare(&mut state, &settings, load(&settings).unwrap()).unwrap();
        take(&mut state, prepared);
        assert_eq!(served(&state).0, 2_026_112_005);
        assert_eq!(*state.serving.zone.serial.borrow(), 2_026_112_005, "secondaries are told");
        write(&file, 2_026_112_009, 1);
        for _ in 0..2 {
            drop(state);
            state = opened(dir.path(), &settings);
            assert_eq!(served(&state), (2_026_112_009, address(1)));
        }
        write(&file, 7, 1);
        let prepared = prepare(&mut state, &settings, load(&settings).unwrap()).unwrap();
        assert!(prepared.anew.is_none(), "one that comes before changes nothing");
        take(&mut state, prepared);
        assert_eq!(served(&state).0, 2_026_112_009);
    }

    /// The clock was ahead at the first start.
    #[test]
    fn a_time_that_is_yet_to_come_is_not_found_again_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(None);
        let mut state = opened(dir.path(), &settings);
        let later = tsig::seconds() + 10_000;
        let marks = vec![Mark::Since { key: None, time: later }];
        let serving = &state.serving.zone;
        state.journal.rewrite(&serving.read(), &BTreeMap::new(), state.base, marks).unwrap();
        drop(state);
        opened(dir.path(), &settings);
        let (_, found) = Journal::open(dir.path(), &name::from_text("corp.example.")).unwrap();
        let marks: Vec<_> = found.entries.into_iter().flat_map(|entry| entry.marks).collect();
        let [Mark::Since { key: None, time }] = marks[..] else { panic!("{marks:?}") };
        assert!(time <= tsig::seconds());
    }

    #[test]
    fn what_a_dnsd_of_before_kept_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(None);
        let (name, set) = (name::from_text("db.corp.example."), RrSet::new(1, 5, [[10, 0, 0, 1]]));
        let base = load(&settings).unwrap().base;
        let changes = Changes::from([((name.clone(), 1), set.clone())]);
        let entries = [Entry { serial: 7, base, changes, ..Entry::default() }];
        let path = dir.path().join("corp.example.journal");
        std::fs::write(&path, second_form(&entries)).unwrap();
        let before = tsig::seconds();
        for _ in 0..2 {
            let mut state = opened(dir.path(), &settings);
            assert!(!state.journal.is_broken() && state.serving.zone.journal_error().is_none());
            let zone = state.serving.zone.read();
            assert_eq!((zone.serial(), zone.get(&name, 1)), (7, set.as_ref()));
            drop(zone);
            // Which updates it has seen is not known, and the next start knows that, too.
            let marks = state.replay.marks(tsig::seconds());
            let [Mark::Since { key: None, time }] = marks[..] else { panic!("{marks:?}") };
            assert!((before..=tsig::seconds()).contains(&time));
        }
        assert!(std::fs::read(&path).unwrap().starts_with(b"dnsd\0\0\0\x03"));
    }
}
