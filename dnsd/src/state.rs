//! From settings and disk to what is served, at the start and at a reload.

use crate::journal::{self, Entry, Journal, JournalError, Recovered, Staged};
use crate::lease::Table;
use crate::name;
use crate::replay::Mark;
use crate::served::{ServedZone, Serving};
use crate::tsig;
use crate::zone::file::{self, FileError};
use crate::zone::{Zone, newer, next_serial};
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
    /// Signed updates that its journal remembers, until they are taken from here.
    pub marks: Vec<Mark>,
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

/// Reads a zone's file and its journal.
///
/// # Errors
///
/// When one of them is wrong.
pub fn open(dir: &Path, settings: &dnsd::Zone, now: Instant) -> Result<ZoneState, StateError> {
    let mut zone = file::load(settings)?;
    let base = zone.digest();
    let (mut journal, Recovered { entries, torn }) = Journal::open(dir, zone.origin())?;
    if torn > 0 {
        warn!(zone = settings.name, bytes = torn, "cut off the journal's torn end: it was not acknowledged");
    }
    let total = journal::sum(&entries);
    let (from_file, name) = (zone.serial(), settings.name.clone());
    let fresh = entries.is_empty();
    // With nothing known, the time is ahead of any serial that was given out before.
    let kept = if fresh { u32::try_from(tsig::seconds() & 0xffff_ffff).unwrap_or(1) } else { total.serial };
    let same = !fresh && total.base == base;
    let serial = if same {
        replay(&mut zone, &entries, base);
        total.serial
    } else {
        zone.restore(&total.changes);
        let next = if fresh { kept } else { next_serial(kept) };
        if newer(from_file, next) { from_file } else { next }
    };
    zone.set_serial(serial);
    let mut marks: Vec<Mark> = entries.into_iter().flat_map(|entry| entry.marks).collect();
    let mut written = Ok(());
    if journal.is_broken() {
        // Updates that were signed before may have been seen, and nothing knows of them.
        marks.push(Mark::Since { key: None, time: tsig::seconds() });
        written = journal.rewrite(&zone, &total.leases, base, marks.clone());
    } else if !same {
        zone.history.clear();
        written = journal.append(&[Entry { serial, base, ..Entry::default() }]);
    }
    info!(zone = name, serial, names = zone.names(), changed = zone.changed_sets(), "serving");
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
    Ok(ZoneState { serving, journal, leases, base, marks })
}

fn no_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Does again what the journal says. Its beginning is a snapshot; the updates
/// behind it, upon the same file, can be given to secondaries step by step.
fn replay(zone: &mut Zone, entries: &[Entry], base: u64) {
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

/// Reads a zone's file again; what updates did stays. `marks` are for its journal.
///
/// # Errors
///
/// When the file is wrong, or there is no room for a new journal; nothing is changed then.
pub fn prepare(state: &ZoneState, settings: &dnsd::Zone, marks: Vec<Mark>) -> Result<Prepared, StateError> {
    let mut fresh = file::load(settings)?;
    let base = fresh.digest();
    let settings = Arc::new(settings.clone());
    if base == state.base {
        return Ok(Prepared { settings, anew: None });
    }
    let old = state.serving.zone.read();
    fresh.restore(&old.changed());
    let next = next_serial(old.serial());
    let serial = if newer(fresh.serial(), next) { fresh.serial() } else { next };
    fresh.follow(&old, serial);
    drop(old);
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
    *state.serving.zone.write() = fresh;
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
mod tests {
    use super::*;
    use crate::journal::tests::second_form;
    use crate::zone::Changes;
    use crate::zone::rrset::RrSet;
    use std::time::Duration;

    #[test]
    fn what_a_dnsd_of_before_kept_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let settings = dnsd::Zone {
            name: "corp.example.".into(),
            primary_ns: "ns1.corp.example.".into(),
            contact: "hostmaster.corp.example.".into(),
            negative_ttl: 5,
            file: None,
            allow_transfer: vec![],
            notify: vec![],
            min_lease: Duration::from_secs(30),
            max_lease: Duration::from_secs(30),
            expire_last: false,
        };
        let (name, set) = (name::from_text("db.corp.example."), RrSet::new(1, 5, [[10, 0, 0, 1]]));
        let base = file::load(&settings).unwrap().digest();
        let changes = Changes::from([((name.clone(), 1), set.clone())]);
        let entries = [Entry { serial: 7, base, changes, ..Entry::default() }];
        let path = dir.path().join("corp.example.journal");
        std::fs::write(&path, second_form(&entries)).unwrap();
        let before = tsig::seconds();
        for _ in 0..2 {
            let state = open(dir.path(), &settings, Instant::now()).unwrap();
            assert!(!state.journal.is_broken() && state.serving.zone.journal_error().is_none());
            let zone = state.serving.zone.read();
            assert_eq!((zone.serial(), zone.get(&name, 1)), (7, set.as_ref()));
            // Which updates it has seen is not known, and the next start knows that, too.
            let [Mark::Since { key: None, time }] = state.marks[..] else { panic!("{:?}", state.marks) };
            assert!((before..=tsig::seconds()).contains(&time));
        }
        assert!(std::fs::read(&path).unwrap().starts_with(b"dnsd\0\0\0\x03"));
    }
}
