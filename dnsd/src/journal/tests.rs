use super::*;
use crate::name::from_text;
use crate::zone::Soa;
use proptest::prelude::*;

fn origin() -> Wire {
    from_text("corp.example.")
}

fn entry(serial: u32) -> Entry {
    let name = from_text(&format!("n{}.corp.example.", serial % 5));
    let data = serial.to_be_bytes();
    let set = (!serial.is_multiple_of(7)).then(|| RrSet::new(1, 5, [data])).flatten();
    let lease = (serial.is_multiple_of(2)).then_some(30);
    Entry {
        serial,
        base: 99,
        changes: Changes::from([((name.clone(), 1), set)]),
        leases: Leases::from([((name.clone(), 1, data.to_vec()), lease)]),
        settled: if serial.is_multiple_of(7) { BTreeSet::from([(name, 1)]) } else { BTreeSet::new() },
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("corp.example.journal")
}

fn read(dir: &Path) -> Result<Vec<Entry>, JournalError> {
    Journal::open(dir, &origin()).map(|(_, recovered)| recovered.entries)
}

#[test]
fn what_was_appended_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, recovered) = Journal::open(dir.path(), &origin()).unwrap();
    assert!(recovered.entries.is_empty() && recovered.torn == 0);
    journal.append(&[entry(1), entry(2)]).unwrap();
    journal.append(&[entry(3)]).unwrap();
    drop(journal);
    let (mut journal, recovered) = Journal::open(dir.path(), &origin()).unwrap();
    assert_eq!(recovered.entries, [entry(1), entry(2), entry(3)]);
    journal.append(&[entry(4)]).unwrap();
    assert_eq!(read(dir.path()).unwrap().len(), 4);
    let total = sum(&recovered.entries);
    assert_eq!((total.serial, total.changes.len(), total.leases.len()), (3, 3, 1));
}

/// A kill at any byte: what was written before it is all there, what was not
/// whole is gone, and the file goes on.
#[test]
fn a_file_cut_at_any_byte_keeps_every_whole_entry() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), &origin()).unwrap();
    let mut ends = vec![journal.length];
    for serial in 1..=6 {
        journal.append(&[entry(serial)]).unwrap();
        ends.push(journal.length);
    }
    let whole = std::fs::read(file(dir.path())).unwrap();
    assert_eq!(whole.len() as u64, journal.length);
    for cut in 0..=whole.len() {
        std::fs::write(file(dir.path()), &whole[..cut]).unwrap();
        let (mut journal, recovered) = Journal::open(dir.path(), &origin()).unwrap();
        let kept = ends.iter().filter(|end| **end <= cut as u64).count().saturating_sub(1);
        assert_eq!(recovered.entries.len(), kept, "cut at {cut}");
        assert_eq!(recovered.torn > 0, !ends.contains(&(cut as u64)) && cut > 0, "cut at {cut}");
        journal.append(&[entry(10)]).unwrap();
        let again = read(dir.path()).unwrap();
        assert_eq!((again.len(), again.last()), (kept + 1, Some(&entry(10))), "cut at {cut}");
    }
}

#[test]
fn updates_that_were_written_together_are_kept_or_lost_together() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), &origin()).unwrap();
    journal.append(&[entry(1), entry(2), entry(3)]).unwrap();
    let mut bytes = std::fs::read(file(dir.path())).unwrap();
    // A power loss may leave the end of a write on disk without its beginning.
    bytes[30] ^= 1;
    std::fs::write(file(dir.path()), &bytes).unwrap();
    assert_eq!(read(dir.path()).unwrap(), []);
}

#[test]
fn damage_before_the_end_is_not_taken_for_a_torn_end() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), &origin()).unwrap();
    (1..=3).for_each(|serial| journal.append(&[entry(serial)]).unwrap());
    let mut bytes = std::fs::read(file(dir.path())).unwrap();
    bytes[40] ^= 1;
    std::fs::write(file(dir.path()), &bytes).unwrap();
    assert!(matches!(read(dir.path()), Err(JournalError::Damaged { at: 8, .. })));
    std::fs::write(file(dir.path()), b"something else altogether").unwrap();
    assert!(matches!(read(dir.path()), Err(JournalError::Foreign { .. })));
}

#[test]
fn a_rewritten_journal_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), &origin()).unwrap();
    let soa = Soa { primary: origin(), contact: origin(), refresh: 1, retry: 1, expire: 1, minimum: 1 };
    let mut zone = Zone::new(origin(), soa, 0);
    let entries: Vec<_> = (1..=20).map(entry).collect();
    for entry in &entries {
        journal.append(std::slice::from_ref(entry)).unwrap();
        zone.apply(&entry.changes, entry.serial);
    }
    let total = sum(&entries);
    let before = journal.length;
    journal.rewrite(&zone, &total.leases, 99).unwrap();
    assert!(journal.length < before);
    journal.append(&[entry(21)]).unwrap();
    let again = read(dir.path()).unwrap();
    let mut expected = total;
    // What came and went leaves nothing in a snapshot.
    expected.changes.retain(|_, set| set.is_some());
    assert_eq!(sum(&again[..again.len() - 1]), expected);
    assert_eq!(again.last(), Some(&entry(21)));
}

#[test]
fn after_a_failed_write_nothing_is_added_to_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), &origin()).unwrap();
    journal.append(&[entry(1)]).unwrap();
    journal.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
    assert_eq!(journal.append(&[entry(2)]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert!(journal.wants_rewrite());
    assert!(journal.append(&[entry(3)]).is_err());
    assert_eq!(read(dir.path()).unwrap(), [entry(1)]);
}

/// The new file has the name, and nobody knows whether the disk does: what is
/// written to the former one would be lost.
#[test]
fn after_a_rewrite_that_failed_late_nothing_goes_to_the_former_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), &origin()).unwrap();
    journal.append(&[entry(1)]).unwrap();
    let soa = Soa { primary: origin(), contact: origin(), refresh: 1, retry: 1, expire: 1, minimum: 1 };
    let mut zone = Zone::new(origin(), soa, 0);
    zone.apply(&entry(1).changes, 1);
    // A device that cannot be synced, in place of the directory.
    let held = std::mem::replace(&mut journal.dir, File::open("/dev/null").unwrap());
    assert!(journal.rewrite(&zone, &Leases::new(), 99).is_err());
    assert!(journal.is_broken() && journal.append(&[entry(2)]).is_err());
    journal.dir = held;
    journal.rewrite(&zone, &Leases::new(), 99).unwrap();
    journal.append(&[entry(2)]).unwrap();
    assert_eq!(read(dir.path()).unwrap().last(), Some(&entry(2)));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = scan(&[MAGIC.as_slice(), &bytes].concat());
        let _ = decode_all(&bytes);
    }
}
