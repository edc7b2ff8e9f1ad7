use super::*;
use crate::cookie::Cookies;
use crate::lease::Table;
use crate::name::from_text;
use crate::state::tests::{opened, settings};
use crate::tsig::Key;
use crate::tsig::tests::{key, signed};
use std::path::Path;
use vipd_config::dnsd::{Config, Grant, Names, RateLimit};

const TXT: u16 = 16;

/// A writer's thread that is not started, of a zone in a directory.
fn thread(dir: &Path) -> Thread {
    let state = opened(dir, &settings(None));
    let limit = RateLimit { responses_per_second: 0, slip: 0, exempt: vec![] };
    let served = Served::new([state.serving.clone()], Keys::default(), limit);
    let shared = Arc::new(Shared::new(served, Cookies::new().unwrap()));
    Thread { shared, zones: vec![state], elsewhere: Replay::default() }
}

fn writing() -> Arc<Key> {
    Arc::new(key(vec![Grant { names: Names::Below("corp.example.".into()), types: vec![] }]))
}

/// An update that adds a text to each of some names.
fn update(names: &[&str], text: &[u8]) -> Vec<u8> {
    let count = u8::try_from(names.len()).unwrap();
    let mut raw = [&[0, 1, 0x28, 0, 0, 1, 0, 0, 0, count, 0, 0][..], &from_text("corp.example.")].concat();
    raw.extend([0, 6, 0, 1]);
    let data: Vec<u8> =
        text.chunks(255).flat_map(|part| [&[u8::try_from(part.len()).unwrap()][..], part].concat()).collect();
    for name in names {
        raw.extend(&*from_text(&format!("{name}.corp.example.")));
        raw.extend(TXT.to_be_bytes());
        raw.extend([0, 1, 0, 0, 0, 5]);
        raw.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        raw.extend(&data);
    }
    raw
}

/// Hands all over before the thread runs, so that they are one batch if they can be.
fn run(thread: &mut Thread, updates: Vec<(Vec<u8>, Signed)>) -> Vec<u8> {
    run_at(thread, updates, Instant::now())
}

/// The same, handed over at some time.
fn run_at(thread: &mut Thread, updates: Vec<(Vec<u8>, Signed)>, at: Instant) -> Vec<u8> {
    let (sender, receiver) = sync_channel(QUEUE);
    let mut answers = Vec::new();
    for (raw, signed) in updates {
        let (reply, answer) = oneshot::channel();
        let from = "127.0.0.1".parse().unwrap();
        let job = Job::Update { raw, signed: Box::new(signed), from, reply: Reply::Tcp(reply), at };
        sender.send(job).unwrap();
        answers.push(answer);
    }
    sender.send(Job::Stop).unwrap();
    thread.run(&receiver);
    if let Ok(job) = receiver.try_recv() {
        drop(job);
        panic!("it stopped before the queue's end");
    }
    answers.into_iter().map(|mut answer| answer.try_recv().unwrap()[3] & 15).collect()
}

/// Each has two sets of nearly 32 KiB in it: all together are more than can be read again.
#[test]
fn a_batch_of_large_sets_is_written_in_parts_that_can_be_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut thread = thread(dir.path());
    let (key, now) = (writing(), tsig::seconds());
    let large = (update(&["a", "b"], &[b'x'; 28_000]), signed(&key, now, b"large"));
    let one = |i: u8| (update(&["a", "b"], &[i; 20]), signed(&key, now, &[i; 16]));
    let updates: Vec<_> = std::iter::once(large).chain((1..=63).map(one)).collect();
    assert_eq!(updates.len(), BATCH);
    assert_eq!(run(&mut thread, updates), [rcode::NOERROR; BATCH]);
    let count = |state: &ZoneState| {
        let zone = state.serving.zone.read();
        ["a", "b"].map(|name| zone.get(&from_text(&format!("{name}.corp.example.")), TXT).unwrap().len())
    };
    assert_eq!(count(&thread.zones[0]), [64, 64]);
    drop(thread);
    assert_eq!(count(&opened(dir.path(), &settings(None))), [64, 64], "and after a restart");
}

/// A slow disk has made a queue, and the renewal is not in its first batch. When
/// there is nothing of it, the lease ends though the queue is never empty.
#[test]
fn a_lease_does_not_end_while_its_renewal_waits() {
    let dir = tempfile::tempdir().unwrap();
    let mut thread = thread(dir.path());
    let (key, now) = (writing(), tsig::seconds());
    let leased = |text: &[u8], mac: &[u8]| {
        let mut raw = update(&["a"], text);
        // OPT with a lease of 30 s.
        raw[11] = 1;
        raw.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 8, 0, 2, 0, 4, 0, 0, 0, 30]);
        (raw, signed(&key, now, mac))
    };
    let granted = vec![leased(b"one", b"first"), leased(b"two", b"second")];
    assert_eq!(run(&mut thread, granted), [rcode::NOERROR; 2]);
    // They ended a moment ago, and what waits was there before.
    let leases = thread.zones[0].leases.all();
    assert_eq!(leases.len(), 2);
    let ended = Instant::now() - Duration::from_secs(1);
    thread.zones[0].leases = Table::new(&leases, ended - Duration::from_secs(30));
    let other = |i: usize| (update(&["b"], b"x"), signed(&key, now, &i.to_be_bytes()));
    let mut waiting: Vec<_> = (0..BATCH).map(other).collect();
    waiting.extend([leased(b"one", b"third"), leased(b"two", b"fourth")]);
    let codes = run_at(&mut thread, waiting, ended - Duration::from_secs(1));
    assert!(codes.iter().all(|code| *code == rcode::NOERROR));
    assert_eq!(thread.shared.metrics.expired.get(), 0, "both were renewed in time");
    assert!(thread.zones[0].leases.ended(Instant::now()).is_empty());
    // The next job waits behind each batch.
    thread.zones[0].leases = Table::new(&leases, ended - Duration::from_secs(30));
    let busy = vec![(update(&["b"], b"y"), signed(&key, now, b"busy"))];
    assert_eq!(run_at(&mut thread, busy, Instant::now()), [rcode::NOERROR]);
    assert_eq!(thread.shared.metrics.expired.get(), 1, "all but the last of the set");
}

/// It says nothing that takes a grant, and would have all of its prerequisites looked at.
#[test]
fn a_key_without_a_grant_gets_no_prerequisite_judged() {
    let dir = tempfile::tempdir().unwrap();
    let mut thread = thread(dir.path());
    let now = tsig::seconds();
    // "The zone's apex is not in use", which is wrong, and nothing to be done.
    let mut raw = update(&[], b"");
    raw[7] = 1;
    raw.extend([0xc0, 12, 0, 255, 0, 254, 0, 0, 0, 0, 0, 0]);
    let by = |key: Arc<Key>, mac: &[u8]| (raw.clone(), signed(&key, now, mac));
    let codes = run(&mut thread, vec![by(writing(), b"one"), by(Arc::new(key(vec![])), b"two")]);
    assert_eq!(codes, [rcode::YXDOMAIN, rcode::REFUSED]);
}

/// What the new zone's journal does not know is no matter of the other one's.
#[test]
fn a_zone_that_comes_with_a_reload_locks_nobody_out_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut thread = thread(dir.path());
    let (key, now) = (writing(), tsig::seconds());
    // It began long ago.
    thread.zones[0].replay = Replay::default();
    let behind = |mac: &[u8]| (update(&["a"], mac), signed(&key, now - 20, mac));
    assert_eq!(run(&mut thread, vec![behind(b"one")]), [rcode::NOERROR]);
    let other = dnsd::Zone { name: "other.example.".into(), ..settings(None) };
    let config = config(dir.path(), vec![settings(None), other]);
    let loaded = config.zones.iter().map(|settings| state::load(settings).unwrap()).collect();
    thread.reload(&config, loaded, Keys::default()).unwrap();
    assert_eq!(thread.zones.len(), 2);
    assert_eq!(run(&mut thread, vec![behind(b"two"), behind(b"one")]), [rcode::NOERROR; 2]);
    let texts =
        thread.zones[0].serving.zone.read().get(&from_text("a.corp.example."), TXT).map(|set| set.len());
    assert_eq!(texts, Some(2), "a copy did nothing");
    // In the new one nothing is known of what was signed before.
    let mut foreign = update(&[], b"");
    foreign.splice(12..12 + from_text("corp.example.").len(), from_text("other.example.").iter().copied());
    assert_eq!(run(&mut thread, vec![(foreign, signed(&key, now - 20, b"foreign"))]), [rcode::NOTAUTH]);
}

fn config(dir: &Path, zones: Vec<dnsd::Zone>) -> Config {
    Config {
        listen: vec![],
        state_dir: dir.into(),
        zones,
        keys: vec![],
        rate_limit: RateLimit { responses_per_second: 0, slip: 0, exempt: vec![] },
        status: None,
        warnings: vec![],
    }
}

/// The disk is slow, and no more updates may wait.
#[test]
fn an_update_for_which_there_is_no_room_is_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Arc::clone(&thread(dir.path()).shared);
    let (queue, receiver) = sync_channel(1);
    let writer = Writer { queue, shared: Arc::clone(&shared) };
    let (key, now) = (writing(), tsig::seconds());
    let hand_over = |mac: &[u8]| {
        let (reply, mut answer) = oneshot::channel();
        let from = "127.0.0.1".parse().unwrap();
        writer.update(update(&["a"], b"x"), Box::new(signed(&key, now, mac)), from, Reply::Tcp(reply));
        answer.try_recv().ok()
    };
    assert_eq!(hand_over(b"waits"), None);
    let answer = hand_over(b"too many").unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.response_code.low(), rcode::SERVFAIL);
    assert!(answer.signature.is_some(), "whoever asked can tell whose answer it is");
    let count = || (shared.metrics.updates_failed.get(), shared.metrics.servfail.get());
    assert_eq!(count(), (1, 1));
    drop(receiver);
    assert!(hand_over(b"too late").is_some());
    assert_eq!(count(), (2, 2));
}

/// A large file takes a while, and updates wait for this thread.
#[test]
fn a_reload_reads_files_before_it_comes_to_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (sender, receiver) = sync_channel(1);
    let shared = Arc::clone(&thread(dir.path()).shared);
    let writer = Writer { queue: sender, shared };
    let absent = settings(Some(&dir.path().join("absent")));
    let error = runtime.block_on(writer.reload(config(dir.path(), vec![absent]), Keys::default())).err();
    assert!(matches!(error, Some(StateError::File(_))), "{error:?}");
    assert!(receiver.try_recv().is_err(), "it was not told of it");
}
