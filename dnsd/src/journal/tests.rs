use super::*;
use crate::name::{Wire, from_text};
use crate::zone::rrset::RrSet;
use crate::zone::{Changes, Soa};
use proptest::prelude::*;
use std::collections::BTreeSet;

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
        marks: vec![
            Mark::Seen { key: "vipd.".into(), time: 1000 + u64::from(serial), mac: [7; 16], code: 8 },
            Mark::Since { key: serial.is_multiple_of(2).then(|| "vipd.".into()), time: 900 },
        ],
    }
}

fn zone() -> Zone {
    let soa = Soa { primary: origin(), contact: origin(), refresh: 1, retry: 1, expire: 1, minimum: 1 };
    Zone::new(origin(), soa, 0)
}

/// A journal of nothing so far.
fn fresh(dir: &Path) -> Journal {
    let (mut journal, recovered) = Journal::open(dir, &origin()).unwrap();
    assert!(recovered.entries.is_empty() && recovered.torn == 0);
    assert!(journal.append(&[entry(1)]).is_err(), "first it must be there");
    journal.rewrite(&zone(), &Leases::new(), 99, vec![]).unwrap();
    journal
}

fn length(journal: &Journal) -> u64 {
    journal.file.as_ref().unwrap().length
}

fn file(dir: &Path) -> PathBuf {
    dir.join("corp.example.journal")
}

fn read(dir: &Path) -> Result<Vec<Entry>, JournalError> {
    Journal::open(dir, &origin()).map(|(_, recovered)| recovered.entries)
}

/// What was appended: before it stands what the file began with.
fn appended(dir: &Path) -> Vec<Entry> {
    read(dir).unwrap().split_off(1)
}

#[test]
fn what_was_appended_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = fresh(dir.path());
    journal.append(&[entry(1), entry(2)]).unwrap();
    journal.append(&[entry(3)]).unwrap();
    drop(journal);
    let (mut journal, recovered) = Journal::open(dir.path(), &origin()).unwrap();
    assert_eq!(recovered.entries[1..], [entry(1), entry(2), entry(3)]);
    journal.append(&[entry(4)]).unwrap();
    assert_eq!(appended(dir.path()).len(), 4);
    let total = sum(&recovered.entries);
    assert_eq!((total.serial, total.changes.len(), total.leases.len()), (3, 3, 1));
}

/// A kill at any byte: what was written before it is all there, what was not
/// whole is gone, and the file goes on.
#[test]
fn a_file_cut_at_any_byte_keeps_every_whole_entry() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = fresh(dir.path());
    let mut ends = vec![length(&journal)];
    for serial in 1..=6 {
        journal.append(&[entry(serial)]).unwrap();
        ends.push(length(&journal));
    }
    let whole = std::fs::read(file(dir.path())).unwrap();
    assert_eq!(whole.len() as u64, length(&journal));
    for cut in 0..=whole.len() {
        std::fs::write(file(dir.path()), &whole[..cut]).unwrap();
        let opened = Journal::open(dir.path(), &origin());
        if (cut as u64) < ends[0] {
            // It was whole before it had the name.
            assert!(matches!(opened, Err(JournalError::Damaged { .. })), "cut at {cut}");
            continue;
        }
        let (mut journal, recovered) = opened.unwrap();
        let kept = ends.iter().filter(|end| **end <= cut as u64).count();
        assert_eq!(recovered.entries.len(), kept, "cut at {cut}");
        assert_eq!(recovered.torn > 0, !ends.contains(&(cut as u64)), "cut at {cut}");
        journal.append(&[entry(10)]).unwrap();
        let again = read(dir.path()).unwrap();
        assert_eq!((again.len(), again.last()), (kept + 1, Some(&entry(10))), "cut at {cut}");
    }
}

#[test]
fn updates_that_were_written_together_are_kept_or_lost_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = fresh(dir.path());
    let begin = usize::try_from(length(&journal)).unwrap();
    journal.append(&[entry(1), entry(2), entry(3)]).unwrap();
    let mut bytes = std::fs::read(file(dir.path())).unwrap();
    // A power loss may leave the end of a write on disk without its beginning.
    bytes[begin + 30] ^= 1;
    std::fs::write(file(dir.path()), &bytes).unwrap();
    assert_eq!(appended(dir.path()), []);
}

#[test]
fn damage_before_the_end_is_not_taken_for_a_torn_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = fresh(dir.path());
    let begin = length(&journal);
    (1..=3).for_each(|serial| journal.append(&[entry(serial)]).unwrap());
    let good = std::fs::read(file(dir.path())).unwrap();
    // In a length, a checksum, the content.
    for place in [0, 5, 9, 40] {
        let mut bytes = good.clone();
        bytes[usize::try_from(begin).unwrap() + place] ^= 1;
        std::fs::write(file(dir.path()), &bytes).unwrap();
        let error = read(dir.path()).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { at, .. } if at == begin), "{place}: {error}");
    }
    // In what the file began with, though nothing good follows.
    std::fs::write(file(dir.path()), &good[..usize::try_from(begin).unwrap() - 1]).unwrap();
    assert!(matches!(read(dir.path()), Err(JournalError::Damaged { .. })));
    std::fs::write(file(dir.path()), b"something else altogether").unwrap();
    assert!(matches!(read(dir.path()), Err(JournalError::Foreign { .. })));
}

/// An entry with this text.
fn with_text(text: &[u8]) -> Entry {
    let chunks = text.chunks(255).flat_map(|part| {
        let length = u8::try_from(part.len()).unwrap();
        [&[length][..], part].concat()
    });
    let set = RrSet::new(16, 5, [chunks.collect::<Vec<_>>()]);
    Entry { serial: 9, changes: Changes::from([((origin(), 16), set)]), ..Entry::default() }
}

/// Whoever may write a TXT record writes a frame into it, as well as anybody can
/// who does not see the file: that is no good entry behind a torn one.
#[test]
fn a_text_that_looks_like_an_entry_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = fresh(dir.path());
    journal.append(&[entry(1)]).unwrap();
    // Those of this file at every place but their own, and those of another one at any.
    let own = std::fs::read(file(dir.path())).unwrap();
    let mut texts = vec![own[HEADER..].to_vec()];
    let mut second = vec![];
    entry(2).encode(&mut second);
    let head = [u32::try_from(second.len()).unwrap().to_be_bytes(), crc32c::crc32c(&second).to_be_bytes()];
    texts.push([head.concat(), second].concat());
    for at in 0..200 {
        let mut frame = vec![];
        put_frame(&[entry(3)], [0; 8], length(&journal) + at, &mut frame).unwrap();
        texts.push(frame);
    }
    for text in texts {
        std::fs::write(file(dir.path()), &own).unwrap();
        let (mut journal, _) = Journal::open(dir.path(), &origin()).unwrap();
        journal.append(&[with_text(&text)]).unwrap();
        let whole = std::fs::read(file(dir.path())).unwrap();
        std::fs::write(file(dir.path()), &whole[..whole.len() - 1]).unwrap();
        let (_, recovered) = Journal::open(dir.path(), &origin()).unwrap();
        assert_eq!((recovered.entries.len(), recovered.torn > 0), (2, true));
    }
}

/// A file as a dnsd of before wrote it; its entries have no marks.
pub(crate) fn second_form(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = SECOND.to_vec();
    for entry in entries {
        let mut content = vec![];
        entry.encode(&mut content);
        // Not even their number was there.
        content.truncate(content.len() - 4);
        bytes.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
        bytes.extend(crc32c::crc32c(&content).to_be_bytes());
        bytes.extend(content);
    }
    bytes
}

#[test]
fn a_journal_of_the_second_form_is_read_and_then_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let without = |serial| Entry { marks: vec![], ..entry(serial) };
    let mut bytes = second_form(&[without(1), without(2)]);
    bytes.extend(b"torn");
    std::fs::write(file(dir.path()), &bytes).unwrap();
    let (mut journal, recovered) = Journal::open(dir.path(), &origin()).unwrap();
    assert_eq!((recovered.entries, recovered.torn), (vec![without(1), without(2)], 4));
    assert!(journal.is_broken() && journal.append(&[entry(3)]).is_err());
    assert_eq!(std::fs::read(file(dir.path())).unwrap(), bytes, "as long as there is no other");
    journal.rewrite(&zone(), &Leases::new(), 99, vec![]).unwrap();
    journal.append(&[entry(3)]).unwrap();
    assert_eq!(appended(dir.path()), [entry(3)]);
    std::fs::write(file(dir.path()), SECOND).unwrap();
    assert_eq!(read(dir.path()).unwrap(), []);
    for cut in 0..SECOND.len() {
        std::fs::write(file(dir.path()), &SECOND[..cut]).unwrap();
        let error = read(dir.path()).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { at: 0, .. }), "cut at {cut}: {error}");
    }
}

/// It would be taken for a torn end, and with it everything behind.
#[test]
fn what_could_not_be_read_again_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = fresh(dir.path());
    journal.append(&[entry(1)]).unwrap();
    let before = std::fs::read(file(dir.path())).unwrap();
    let entries = vec![with_text(&[b'x'; 60_000]); MAX_FRAME / 60_000 + 1];
    assert!(entries[0].size() > 60_000);
    let error = journal.append(&entries).unwrap_err();
    assert!(error.to_string().contains("at once"), "{error}");
    assert_eq!(std::fs::read(file(dir.path())).unwrap(), before);
    journal.append(&entries[..MAX_FRAME / 61_000]).unwrap();
    journal.append(&[entry(2)]).unwrap();
    assert_eq!(appended(dir.path()).len(), 2 + MAX_FRAME / 61_000);
}

#[test]
fn a_rewritten_journal_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = fresh(dir.path());
    let mut zone = zone();
    let entries: Vec<_> = (1..=20).map(entry).collect();
    for entry in &entries {
        journal.append(std::slice::from_ref(entry)).unwrap();
        zone.apply(&entry.changes, entry.serial);
    }
    let total = sum(&entries);
    let before = length(&journal);
    let marks: Vec<_> = entries.iter().flat_map(|entry| entry.marks.clone()).collect();
    journal.rewrite(&zone, &total.leases, 99, marks.clone()).unwrap();
    assert!(length(&journal) < before);
    journal.append(&[entry(21)]).unwrap();
    let again = read(dir.path()).unwrap();
    let mut expected = total;
    // What came and went leaves nothing in a snapshot.
    expected.changes.retain(|_, set| set.is_some());
    assert_eq!(sum(&again[..again.len() - 1]), expected);
    assert_eq!(again.last(), Some(&entry(21)));
    assert_eq!(again.iter().flat_map(|entry| entry.marks.clone()).take(40).collect::<Vec<_>>(), marks);
}

/// What cannot be cut off again is not added to.
#[test]
fn after_a_failed_write_nothing_is_added_to_a_file_that_nobody_knows() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = fresh(dir.path());
    journal.append(&[entry(1)]).unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    journal.file.as_mut().unwrap().file = full;
    assert_eq!(journal.append(&[entry(2)]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert!(journal.is_broken() && journal.wants_rewrite());
    assert!(journal.append(&[entry(3)]).is_err());
    assert_eq!(appended(dir.path()), [entry(1)]);
}

/// Nor with each update that follows.
#[test]
fn a_journal_that_has_grown_is_not_tried_to_be_written_anew_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = fresh(dir.path());
    journal.file.as_mut().unwrap().due = 0;
    assert!(journal.wants_rewrite());
    // No file can be made there.
    std::fs::create_dir(journal.staged()).unwrap();
    assert!(journal.rewrite(&zone(), &Leases::new(), 99, vec![]).is_err());
    assert!(!journal.is_broken() && !journal.wants_rewrite());
    while !journal.wants_rewrite() {
        journal.append(&[entry(1)]).unwrap();
    }
    std::fs::remove_dir(journal.staged()).unwrap();
    journal.rewrite(&zone(), &Leases::new(), 99, vec![]).unwrap();
    assert!(!journal.wants_rewrite());
}

fn settled(journal: &mut Journal) -> io::Result<()> {
    let began = std::time::Instant::now();
    loop {
        if let Some(settled) = journal.settle() {
            return settled;
        }
        assert!(began.elapsed().as_secs() < 30, "it is never written");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// A disk that takes for ever: a pipe that nobody reads cannot even be opened.
#[test]
fn no_update_waits_for_a_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = fresh(dir.path());
    nix::unistd::mkfifo(&journal.staged(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    journal.file.as_mut().unwrap().due = 0;
    journal.begin_rewrite(&zone(), &Leases::new(), 99, vec![]).unwrap();
    journal.append(&[entry(1)]).unwrap();
    journal.append(&[entry(2)]).unwrap();
    assert!(journal.settle().is_none() && journal.is_being_rewritten());
    assert!(!journal.wants_rewrite(), "one is enough");
    // It cannot be written in the end, and nothing is lost.
    let reader = File::open(journal.staged()).unwrap();
    assert!(settled(&mut journal).is_err());
    drop(reader);
    assert!(!journal.is_broken() && !journal.wants_rewrite());
    journal.append(&[entry(3)]).unwrap();
    assert_eq!(appended(dir.path()), [entry(1), entry(2), entry(3)]);
}

#[test]
fn what_is_added_meanwhile_is_in_the_new_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = fresh(dir.path());
    let mut zone = zone();
    journal.append(&[entry(1)]).unwrap();
    zone.apply(&entry(1).changes, 1);
    journal.begin_rewrite(&zone, &Leases::new(), 99, vec![]).unwrap();
    journal.append(&[entry(2), entry(3)]).unwrap();
    journal.append(&[entry(4)]).unwrap();
    let before = length(&journal);
    settled(&mut journal).unwrap();
    assert!(!journal.staged().exists() && before != length(&journal));
    journal.append(&[entry(5)]).unwrap();
    let found = read(dir.path()).unwrap();
    assert_eq!((found[0].serial, found[0].changes.len()), (1, 1), "the snapshot");
    assert_eq!(found[1..], [entry(2), entry(3), entry(4), entry(5)]);
}

/// A reload writes a file of its own; what was on its way is no more.
#[test]
fn a_new_file_that_is_overtaken_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = fresh(dir.path());
    journal.begin_rewrite(&zone(), &Leases::new(), 99, vec![]).unwrap();
    journal.append(&[entry(1)]).unwrap();
    let mut later = zone();
    later.apply(&entry(1).changes, 1);
    let staged = journal.stage(&later, &Leases::new(), 100, vec![]).unwrap();
    journal.adopt(staged).unwrap();
    assert!(journal.settle().is_none());
    journal.append(&[entry(2)]).unwrap();
    let found = read(dir.path()).unwrap();
    assert_eq!((found[0].base, found.len(), &found[1]), (100, 2, &entry(2)));
    // Nor does it stay when the server ends.
    journal.begin_rewrite(&later, &Leases::new(), 100, vec![]).unwrap();
    let new = journal.staged();
    drop(journal);
    assert!(!new.exists());
}

/// The new file has the name, and nobody knows whether the disk does: what is
/// written to the former one would be lost.
#[test]
fn after_a_rewrite_that_failed_late_nothing_goes_to_the_former_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = fresh(dir.path());
    journal.append(&[entry(1)]).unwrap();
    let mut zone = zone();
    zone.apply(&entry(1).changes, 1);
    // A device that cannot be synced, in place of the directory.
    let held = std::mem::replace(&mut journal.dir, File::open("/dev/null").unwrap());
    assert!(journal.rewrite(&zone, &Leases::new(), 99, vec![]).is_err());
    assert!(journal.is_broken() && journal.append(&[entry(2)]).is_err());
    journal.dir = held;
    journal.rewrite(&zone, &Leases::new(), 99, vec![]).unwrap();
    journal.append(&[entry(2)]).unwrap();
    assert_eq!(read(dir.path()).unwrap().last(), Some(&entry(2)));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut head = [0; HEADER];
        Head { salt: [1; 8], snapshot: 0 }.write(&mut head);
        for before in [head.as_slice(), MAGIC, SECOND, &[]] {
            let _ = scan(&[before, &bytes].concat());
        }
        for form in [Form::Second, Form::Third] {
            let _ = decode_all(&bytes, form);
        }
    }
}
