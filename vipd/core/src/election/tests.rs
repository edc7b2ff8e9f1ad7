use super::*;
use std::collections::BTreeSet;

const SECOND: Duration = Duration::from_secs(1);
const PEER: Who = Who::Node(1);

fn params(priority: u8) -> Params {
    Params {
        priority,
        interval: SECOND,
        version: VrrpVersion::V3,
        preempt: false,
        preempt_delay: Duration::ZERO,
        lease: 3 * SECOND,
    }
}

fn heard(priority: u8) -> Heard {
    Heard { who: PEER, priority, interval: SECOND, source_is_greater: false, wait: None }
}

fn at(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

/// An election of priority 150 in each state, entered at 0 s.
fn in_state(word: Word) -> Election {
    let mut election = Election::new(params(150));
    match word {
        Word::Init => {}
        Word::Fault => {
            election.handle(Event::Fault, at(0));
        }
        Word::Backup => {
            election.handle(Event::Startup, at(0));
        }
        Word::Active => {
            election.handle(Event::Startup, at(0));
            let due = election.deadline().unwrap_or_default();
            election.handle(Event::Timer, due);
            // Shift to 0 s, so that every state is entered at the same time.
            election.state = election.active(at(1000), at(0));
        }
    }
    assert_eq!(election.word(), word);
    election
}

/// (state, event, state after, advertise, release, own, disown), one row a pair.
#[test]
fn transition_table() {
    use Word::{Active, Backup, Fault, Init};
    let advert = |p| Event::Advert(heard(p));
    let equal_and_greater = Event::Advert(Heard { source_is_greater: true, ..heard(150) });
    let release_now = Event::Advert(Heard { wait: Some(Duration::ZERO), ..heard(0) });
    let none = Outcome::default();
    let advertise = Outcome { advertise: true, ..none };
    let own = |cause| Outcome { advertise: true, own: Some(cause), ..none };
    let give = |release, cause| Outcome { release, disown: Some(cause), ..none };
    let rows = [
        (Init, Event::Wake(Duration::ZERO), Init, none),
        (Init, Event::Startup, Backup, none),
        (Init, Event::Shutdown, Init, none),
        (Init, Event::Fault, Fault, none),
        (Init, Event::Release, Init, none),
        (Init, advert(200), Init, none),
        (Init, advert(0), Init, none),
        (Init, Event::Timer, Init, none),
        (Fault, Event::Wake(Duration::ZERO), Fault, none),
        (Fault, Event::Startup, Backup, none),
        (Fault, Event::Shutdown, Init, none),
        (Fault, Event::Fault, Fault, none),
        (Fault, Event::Release, Fault, none),
        (Fault, advert(200), Fault, none),
        (Fault, advert(0), Fault, none),
        (Fault, Event::Timer, Fault, none),
        (Backup, Event::Wake(Duration::ZERO), Backup, none),
        (Backup, Event::Startup, Backup, none),
        (Backup, Event::Shutdown, Init, none),
        (Backup, Event::Fault, Fault, none),
        (Backup, Event::Release, Backup, none),
        (Backup, advert(200), Backup, none),
        (Backup, advert(100), Backup, none),
        (Backup, equal_and_greater, Backup, none),
        (Backup, advert(0), Backup, none),
        (Backup, release_now, Active, own(Cause::Released(PEER))),
        (Backup, Event::Timer, Backup, none),
        (Active, Event::Wake(Duration::ZERO), Active, none),
        (Active, Event::Startup, Active, none),
        (Active, Event::Shutdown, Init, give(true, Cause::Shutdown)),
        (Active, Event::Fault, Fault, give(true, Cause::Fault)),
        (Active, Event::Release, Backup, give(true, Cause::GivenUp)),
        (Active, advert(200), Backup, give(false, Cause::Superior(PEER, 200, 150))),
        (Active, advert(100), Active, advertise),
        (Active, advert(150), Active, advertise),
        (Active, equal_and_greater, Backup, give(false, Cause::Superior(PEER, 150, 150))),
        (Active, advert(0), Active, advertise),
        (Active, Event::Timer, Active, none),
    ];
    // Every event but a voter's answer, which the next table has; a release is one of its own.
    let kind = |event: &Event| match event {
        Event::Startup => 0,
        Event::Shutdown => 1,
        Event::Fault => 2,
        Event::Release => 3,
        Event::Advert(heard) if heard.priority == 0 => 4,
        Event::Advert(_) => 5,
        Event::Timer => 6,
        Event::Wake(_) => 7,
        Event::Answer { .. } => 8,
    };
    let all: BTreeSet<u8> = rows.iter().map(|(_, event, ..)| kind(event)).collect();
    assert_eq!(all, (0..8).collect(), "every event");
    for state in Word::ALL {
        let of_state: BTreeSet<u8> = rows.iter().filter(|r| r.0 == state).map(|(_, e, ..)| kind(e)).collect();
        assert_eq!(of_state, all, "{}", state.as_str());
    }
    for (from, event, to, outcome) in rows {
        let mut election = in_state(from);
        assert_eq!(election.handle(event, at(500)), outcome, "{from:?} {event:?}");
        assert_eq!(election.word(), to, "{from:?} {event:?}");
        if let Some(deadline) = election.deadline() {
            assert!(deadline > at(500), "{from:?} {event:?}: a deadline lies in the future");
        }
    }
}

/// The same with a lease of three voters: (state, event, state after, owns, asks, candidate).
#[test]
fn transition_table_with_a_lease() {
    use crate::lease::{ASK_GAP, Answer, Lease, Terms};
    let lease = || {
        let (interval, pause) = (SECOND, SECOND);
        Some(Lease::new(Terms { voters: 3, interval, pause, gap: ASK_GAP, keep: false, registered: None }))
    };
    let granted = |voter, number| Event::Answer { voter, number, answer: Answer::Granted };
    let refused = |voter, number| {
        let answer = Answer::Refused { holder: Some(1), left: SECOND };
        Event::Answer { voter, number, answer }
    };
    // A candidate since 4 s, who has its own vote; an owner since then.
    let backup = || {
        let mut election = Election::new(params(128)).with_lease(lease());
        election.handle(Event::Startup, at(500));
        election
    };
    let candidate = || {
        let mut election = backup();
        assert!(election.handle(Event::Timer, at(4000)).ask.is_some());
        election.handle(granted(0, 1), at(4000));
        election
    };
    let active = || {
        let mut election = candidate();
        assert!(election.handle(granted(1, 1), at(4000)).own.is_some());
        election.handle(granted(0, 2), at(4000));
        election.handle(granted(1, 2), at(4000));
        election
    };
    let advert = |p| Event::Advert(heard(p));
    let release_now = Event::Advert(Heard { wait: Some(Duration::ZERO), ..heard(0) });
    type Row = (Election, Event, u64, Word, bool, bool, bool);
    let (no, yes) = (false, true);
    let rows: Vec<Row> = vec![
        (backup(), Event::Timer, 4000, Word::Backup, no, yes, yes),
        (backup(), release_now, 1000, Word::Backup, no, yes, yes),
        (backup(), granted(1, 1), 1000, Word::Backup, no, no, no),
        (candidate(), granted(1, 1), 4001, Word::Active, yes, yes, no),
        (candidate(), refused(1, 1), 4001, Word::Backup, no, no, yes),
        (candidate(), granted(1, 9), 4001, Word::Backup, no, no, yes),
        (candidate(), Event::Timer, 4001, Word::Backup, no, no, yes),
        (candidate(), advert(200), 4001, Word::Backup, no, no, no),
        (candidate(), advert(100), 4001, Word::Backup, no, no, no),
        (candidate(), Event::Shutdown, 4001, Word::Init, no, no, no),
        (candidate(), Event::Fault, 4001, Word::Fault, no, no, no),
        (candidate(), Event::Startup, 4001, Word::Backup, no, no, yes),
        (candidate(), Event::Release, 4001, Word::Backup, no, no, yes),
        (candidate(), Event::Wake(SECOND), 9000, Word::Backup, no, no, yes),
        (active(), granted(2, 2), 4001, Word::Active, no, no, no),
        (active(), refused(2, 2), 4001, Word::Active, no, no, no),
        // Two of three refuse what they granted: this clock stood still.
        (active(), refused(1, 2), 4001, Word::Backup, no, no, no),
        (active(), Event::Timer, 5000, Word::Active, no, yes, no),
        (active(), Event::Timer, 6500, Word::Backup, no, no, no),
        (active(), Event::Wake(Duration::ZERO), 6500, Word::Backup, no, no, no),
        (active(), advert(100), 6500, Word::Backup, no, no, no),
        (active(), Event::Fault, 6500, Word::Fault, no, no, no),
    ];
    for (row, (mut election, event, now, word, owns, asks, candidate)) in rows.into_iter().enumerate() {
        let outcome = election.handle(event, at(now));
        assert_eq!((outcome.own.is_some(), outcome.ask.is_some()), (owns, asks), "row {row}: {event:?}");
        assert_eq!((election.word(), election.is_candidate()), (word, candidate), "row {row}: {event:?}");
        assert_eq!(
            election.give_back().is_some(),
            row > 6 && !owns && !candidate && word != Word::Active,
            "row {row}"
        );
    }
}

#[test]
fn the_skew_is_exact() {
    let skew = |priority, interval, version| {
        Election::new(Params { priority, interval, version, ..params(1) }).skew()
    };
    let ms = Duration::from_millis;
    assert_eq!(skew(200, SECOND, VrrpVersion::V3), Duration::from_nanos(218_750_000));
    assert_eq!(skew(254, ms(10), VrrpVersion::V3), Duration::from_nanos(78_125));
    assert_eq!(skew(255, ms(10), VrrpVersion::V3), Duration::from_nanos(39_062));
    assert_eq!(skew(1, ms(40_950), VrrpVersion::V3), Duration::from_nanos(40_790_039_062));
    assert_eq!(skew(100, SECOND * 5, VrrpVersion::V2), Duration::from_nanos(609_375_000));
    for priority in 1..255 {
        let step = skew(priority, ms(10), VrrpVersion::V3) - skew(priority + 1, ms(10), VrrpVersion::V3);
        assert!(
            step >= Duration::from_micros(39),
            "priorities {priority} and {} are staggered",
            priority + 1
        );
    }
}

#[test]
fn silence_makes_a_backup_take_over_at_the_right_time() {
    let mut election = in_state(Word::Backup);
    election.handle(Event::Advert(heard(200)), at(100));
    let due = at(100) + 3 * SECOND + election.skew();
    assert_eq!(election.deadline(), Some(due));
    assert_eq!(election.handle(Event::Timer, due.before(Duration::from_nanos(1))), Outcome::default());
    let silence = Cause::Silence(Some((PEER, due - at(100))));
    assert_eq!(election.handle(Event::Timer, due).own, Some(silence));
}

#[test]
fn the_owners_interval_is_learned() {
    let slow = Event::Advert(Heard { interval: 10 * SECOND, ..heard(200) });
    for version in [VrrpVersion::V2, VrrpVersion::V3] {
        let mut election = Election::new(Params { version, ..params(150) });
        election.handle(Event::Startup, at(0));
        election.handle(slow, at(0));
        assert!(election.deadline() > Some(at(30_000)), "{version:?}");
    }
}

#[test]
fn a_release_waits_by_rank_or_by_skew() {
    let ms = Duration::from_millis;
    let mut second = in_state(Word::Backup);
    second.handle(Event::Advert(heard(200)), at(0));
    second.handle(Event::Advert(Heard { wait: Some(ms(10)), ..heard(0) }), at(50));
    assert_eq!(second.deadline(), Some(at(60)));
    assert_eq!(second.handle(Event::Timer, at(60)).own, Some(Cause::Released(PEER)));
    let mut stranger = in_state(Word::Backup);
    stranger.handle(Event::Advert(heard(0)), at(50));
    assert_eq!(stranger.deadline(), Some(at(50) + stranger.skew()));
}

#[test]
fn a_release_by_somebody_else_moves_no_timer() {
    let mut election = in_state(Word::Backup);
    election.handle(Event::Advert(heard(200)), at(0));
    let before = election.deadline();
    let other = Heard { who: Who::Node(2), wait: Some(Duration::ZERO), ..heard(0) };
    assert_eq!(election.handle(Event::Advert(other), at(50)), Outcome::default());
    assert_eq!(election.deadline(), before);
}

#[test]
fn preemption_is_off_unless_asked_for() {
    let preempted_at = |preempt, priority, delay| {
        let mut election =
            Election::new(Params { preempt, priority, preempt_delay: delay, ..params(priority) });
        election.handle(Event::Startup, at(0));
        (1..200).map(|n| at(n * 100)).find(|now| {
            election.handle(Event::Advert(heard(100)), *now);
            election.handle(Event::Timer, *now).own.is_some()
        })
    };
    assert_eq!(preempted_at(false, 200, Duration::ZERO), None);
    assert_eq!(preempted_at(true, 200, Duration::ZERO), Some(at(3300)));
    // 5 s after the first advert, and then a whole silence as the RFC has it.
    assert_eq!(preempted_at(true, 200, 5 * SECOND), Some(at(8300)));
    assert_eq!(preempted_at(true, 90, Duration::ZERO), None);
}

#[test]
fn the_address_owner_owns_at_once_and_always_preempts() {
    let mut election = Election::new(params(255));
    assert_eq!(election.handle(Event::Startup, at(0)).own, Some(Cause::AddressOwner));
    election.handle(Event::Release, at(1));
    election.handle(Event::Advert(heard(254)), at(2));
    let due = election.deadline().unwrap_or_default();
    assert_eq!(election.handle(Event::Timer, due).own, Some(Cause::Preempted(PEER, 254, 255)));
}

#[test]
fn who_gave_ownership_up_does_not_preempt_the_successor() {
    let mut election = Election::new(Params { preempt: true, ..params(200) });
    election.handle(Event::Startup, at(0));
    let due = election.deadline().unwrap_or_default();
    election.handle(Event::Timer, due);
    election.handle(Event::Release, due);
    let mut now = due;
    for _ in 0..100 {
        now += Duration::from_millis(500);
        election.handle(Event::Advert(heard(150)), now);
        assert_eq!(election.handle(Event::Timer, now), Outcome::default());
    }
    // Once the successor is gone, it takes over as always.
    let due = election.deadline().unwrap_or_default();
    assert!(election.handle(Event::Timer, due).own.is_some());
}

/// A stall is no reason to undo a planned switchover.
#[test]
fn who_gave_ownership_up_does_not_preempt_after_a_stall() {
    let mut election = Election::new(Params { preempt: true, ..params(200) });
    election.handle(Event::Startup, at(0));
    let due = election.deadline().unwrap_or_default();
    election.handle(Event::Timer, due);
    election.handle(Event::Release, due);
    let mut now = due + 10 * SECOND;
    election.handle(Event::Wake(5 * SECOND), now);
    for _ in 0..100 {
        now += Duration::from_millis(500);
        election.handle(Event::Advert(heard(150)), now);
        assert_eq!(election.handle(Event::Timer, now), Outcome::default());
    }
}

/// Forged releases are answered by no more packets than any others.
#[test]
fn a_flood_of_releases_is_answered_now_and_then() {
    let mut election = in_state(Word::Active);
    let answers = (1..=1_000_u64).filter(|n| {
        let now = Time::ZERO + Duration::from_micros(n * 100);
        election.handle(Event::Advert(heard(0)), now).advertise
    });
    assert_eq!(answers.count(), 20, "in 100 ms");
}

#[test]
fn an_owner_that_slept_steps_down_before_it_speaks() {
    for event in [Event::Timer, Event::Release, Event::Startup] {
        let mut election = in_state(Word::Active);
        let outcome = election.handle(event, at(3_001));
        let slept = Cause::Slept(Duration::from_millis(3_001));
        assert_eq!(outcome, Outcome { disown: Some(slept), ..Outcome::default() });
        assert_eq!(election.word(), Word::Backup);
    }
    let mut election = in_state(Word::Active);
    let outcome = election.handle(Event::Advert(heard(100)), at(3_001));
    assert!(!outcome.advertise && outcome.disown.is_some());
    assert_eq!(election.following().map(|o| o.priority), Some(100));
}

#[test]
fn adverts_keep_their_rhythm_when_the_timer_is_late() {
    let mut election = in_state(Word::Active);
    assert!(election.handle(Event::Timer, at(1_040)).advertise);
    assert_eq!(election.deadline(), Some(at(2_000)));
    assert!(election.handle(Event::Timer, at(3_900)).advertise);
    assert_eq!(election.deadline(), Some(at(4_900)));
}

#[test]
fn losing_adverts_are_answered_at_once_but_not_without_bound() {
    let mut election = in_state(Word::Active);
    assert!(election.handle(Event::Advert(heard(100)), at(500)).advertise);
    assert!(!election.handle(Event::Advert(heard(100)), at(501)).advertise);
    assert!(election.handle(Event::Advert(heard(100)), at(505)).advertise);
}

#[test]
fn a_backup_that_overslept_listens_before_it_takes_over() {
    let mut election = in_state(Word::Backup);
    election.handle(Event::Advert(heard(200)), at(0));
    let woke = at(60_000);
    assert_eq!(election.handle(Event::Wake(56 * SECOND), woke), Outcome::default());
    assert_eq!(election.handle(Event::Timer, woke), Outcome::default());
    // A release that waited in the queue may be an old one.
    let release = Heard { wait: Some(Duration::ZERO), ..heard(0) };
    assert_eq!(election.handle(Event::Advert(release), woke), Outcome::default());
    assert_eq!(election.handle(Event::Advert(heard(100)), woke), Outcome::default());
    assert_eq!(election.deadline(), Some(woke + election.active_down_interval()));
    // If nobody speaks for it, the release was a real one, and is heeded soon.
    let mut alone = in_state(Word::Backup);
    alone.handle(Event::Advert(heard(200)), at(0));
    alone.handle(Event::Wake(2 * SECOND), at(2_000));
    alone.handle(Event::Advert(release), at(2_000));
    assert_eq!(alone.deadline(), Some(at(2_020)));
    // A timer that is a little late is no sleep.
    let mut prompt = in_state(Word::Backup);
    let late = prompt.deadline().unwrap_or_default() + Duration::from_millis(900);
    prompt.handle(Event::Wake(Duration::from_millis(900)), late);
    assert!(prompt.handle(Event::Timer, late).own.is_some());
}

#[test]
fn a_shorter_interval_does_not_throw_the_owner_out() {
    let mut election = in_state(Word::Active);
    let shorter = Params { interval: Duration::from_millis(40), lease: SECOND, ..params(150) };
    election.set_params(shorter, at(700));
    assert_eq!(election.handle(Event::Wake(Duration::ZERO), at(700)), Outcome::default());
    assert!(election.handle(Event::Timer, at(700)).advertise, "the backups learn it at once");
    assert_eq!(election.deadline(), Some(at(740)));
    // From now on the new promise counts.
    assert!(election.handle(Event::Timer, at(830)).disown.is_some());
}

#[test]
fn a_node_that_has_nothing_to_serve_does_not_preempt() {
    let mut election = Election::new(Params { preempt: true, ..params(200) });
    election.set_eager(false);
    election.handle(Event::Startup, at(0));
    let taken = |election: &mut Election, from: u64| {
        (0..100).map(|n| at(from + n * 100)).any(|now| {
            election.handle(Event::Advert(heard(100)), now);
            election.handle(Event::Timer, now).own.is_some()
        })
    };
    assert!(!taken(&mut election, 100));
    election.set_eager(true);
    assert!(taken(&mut election, 20_000));
}

/// Whom the owner handed over to is no owner that released: preempted, if at
/// all, as any other, and said so.
#[test]
fn the_successor_of_an_owner_is_preempted_as_itself() {
    let mut election = Election::new(Params { preempt: true, ..params(150) });
    election.handle(Event::Startup, at(0));
    election.handle(Event::Advert(heard(200)), at(100));
    let release = Heard { wait: Some(Duration::from_millis(20)), ..heard(0) };
    election.handle(Event::Advert(release), at(200));
    let successor = Heard { who: Who::Node(2), ..heard(100) };
    election.handle(Event::Advert(successor), at(205));
    assert_eq!(election.handle(Event::Timer, at(220)).own, None);
    let due = election.deadline().unwrap_or_default();
    assert_eq!(due, at(205) + election.active_down_interval());
    let cause = Some(Cause::Preempted(Who::Node(2), 100, 150));
    assert_eq!(election.handle(Event::Timer, due).own, cause);
}
