use super::*;

const INTERVAL: Duration = Duration::from_millis(100);
const LEASE: Duration = Duration::from_millis(300);
const ANOTHER: Holder = Holder { node: 1, run: 7 };
const ONE: Holder = Holder { node: 0, run: 7 };

fn at(millis: u64) -> Time {
    Time::from_nanos(millis * 1_000_000)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const PROMISED: Duration = Duration::from_nanos(366_666_667);

#[test]
fn a_promise_outlives_the_lease_by_any_drift_in_the_bound() {
    for lease in [ms(30), ms(750), Duration::from_nanos(30_000_001), LONGEST] {
        // The slowest holder and the fastest voter: 9/10 and 11/10 of the true time.
        let true_time = |own: Duration, tenths: u32| own.as_nanos() * 10 / u128::from(tenths);
        assert!(true_time(promised_for(lease), 11) >= true_time(lease, 9), "{lease:?}");
    }
}

/// Entered at 1 s: mute since then, free, promised to [`ONE`] by request 5.
fn voter(state: &str) -> Voter {
    let mut voter = Voter::new(LEASE, if state == "mute" { at(1000) } else { at(0) });
    if state == "promised" {
        assert_eq!(voter.request(ONE, 5, LEASE, at(1000)), Answer::Granted);
    }
    voter
}

/// (state, event, answer to the event, to whom it is promised then), one row a pair.
#[test]
fn a_voters_transition_table() {
    let refused = |holder, left| Some(Answer::Refused { holder, left });
    let granted = Some(Answer::Granted);
    let request = |holder, number| move |v: &mut Voter| Some(v.request(holder, number, LEASE, at(1000)));
    let release = |holder, number| {
        move |v: &mut Voter| {
            v.release(holder, number);
            None
        }
    };
    type Event = Box<dyn Fn(&mut Voter) -> Option<Answer>>;
    let rows: Vec<(&str, Event, Option<Answer>, Option<Holder>)> = vec![
        ("mute", Box::new(request(ONE, 6)), refused(None, PROMISED), None),
        ("mute", Box::new(release(ONE, 6)), None, None),
        ("free", Box::new(request(ONE, 6)), granted, Some(ONE)),
        ("free", Box::new(release(ONE, 6)), None, None),
        ("promised", Box::new(request(ONE, 6)), granted, Some(ONE)),
        // Overtaken on its way, or doubled.
        ("promised", Box::new(request(ONE, 4)), granted, Some(ONE)),
        ("promised", Box::new(request(ANOTHER, 1)), refused(Some(0), PROMISED), Some(ONE)),
        // The same node, started anew: its former run may still hold the addresses.
        ("promised", Box::new(request(Holder { run: 8, ..ONE }, 1)), refused(Some(0), PROMISED), Some(ONE)),
        ("promised", Box::new(release(ONE, 5)), None, None),
        // An old one, which a later request has overtaken.
        ("promised", Box::new(release(ONE, 4)), None, Some(ONE)),
        ("promised", Box::new(release(ANOTHER, 9)), None, Some(ONE)),
        ("promised", Box::new(release(Holder { run: 6, ..ONE }, 9)), None, Some(ONE)),
    ];
    for (row, (state, event, answer, promised)) in rows.into_iter().enumerate() {
        let mut voter = voter(state);
        assert_eq!(event(&mut voter), answer, "row {row}, {state}");
        assert_eq!(voter.promised_to(at(1000)), promised, "row {row}, {state}");
    }
}

#[test]
fn a_promise_ends_by_the_voters_clock_and_never_earlier_for_an_old_request() {
    let mut voter = voter("promised");
    assert_eq!(voter.request(ONE, 4, ms(30), at(1001)), Answer::Granted, "a shorter lease");
    let end = at(1000) + PROMISED;
    assert_eq!(voter.promised_to(end.before(Duration::from_nanos(1))), Some(ONE));
    assert_eq!(voter.promised_to(end), None);
    assert_eq!(voter.request(ANOTHER, 1, LEASE, end), Answer::Granted);
}

#[test]
fn a_request_that_was_withdrawn_binds_nobody() {
    let mut voter = voter("promised");
    voter.release(ONE, 6);
    assert_eq!(voter.request(ONE, 6, LEASE, at(1000)), Answer::Refused { holder: None, left: ms(0) });
    assert_eq!(voter.request(ONE, 7, LEASE, at(1000)), Answer::Granted);
}

fn lease() -> Lease {
    Lease::new(Terms {
        voters: 3,
        interval: INTERVAL,
        pause: ms(40),
        gap: ASK_GAP,
        keep: false,
        registered: None,
    })
}

/// Entered at 0 s.
fn lease_in(state: &str) -> Lease {
    let mut lease = lease();
    if state != "idle" {
        lease.want(false, false, at(0));
    }
    if state == "held" {
        lease.answer(0, 1, Answer::Granted, at(0));
        assert!(lease.answer(1, 1, Answer::Granted, at(3)));
    }
    lease
}

/// (state, event, asks, gives back, holds the lease then), one row a pair.
#[test]
fn a_leases_transition_table() {
    let refuse = Answer::Refused { holder: Some(1), left: ms(100) };
    type Event = Box<dyn Fn(&mut Lease) -> Wanted>;
    let want = || Box::new(|l: &mut Lease| l.want(false, false, at(1))) as Event;
    let renew = || Box::new(|l: &mut Lease| l.renew(at(1))) as Event;
    let grant = |voter| {
        Box::new(move |l: &mut Lease| {
            l.answer(voter, 1, Answer::Granted, at(1));
            Wanted::default()
        }) as Event
    };
    let refused = |voter| {
        Box::new(move |l: &mut Lease| {
            l.answer(voter, 1, refuse, at(1));
            Wanted::default()
        }) as Event
    };
    let timer = |millis| Box::new(move |l: &mut Lease| l.tick(at(millis))) as Event;
    let back = || Box::new(|l: &mut Lease| Wanted { ask: None, give_back: l.give_back() }) as Event;
    let (no, yes) = (false, true);
    let rows: Vec<(&str, Event, bool, Option<u64>, bool)> = vec![
        ("idle", want(), yes, None, no),
        ("idle", renew(), yes, None, no),
        ("idle", grant(1), no, None, no),
        ("idle", refused(1), no, None, no),
        ("idle", timer(1), no, None, no),
        ("idle", back(), no, None, no),
        // Within two milliseconds of the last request.
        ("asking", want(), no, None, no),
        ("asking", renew(), yes, None, no),
        ("asking", grant(1), no, None, no),
        ("asking", refused(1), no, None, no),
        ("asking", timer(1), no, None, no),
        // The round is over without a majority.
        ("asking", timer(50), no, Some(1), no),
        ("asking", back(), no, Some(1), no),
        ("held", renew(), yes, None, yes),
        ("held", grant(2), no, None, yes),
        ("held", refused(2), no, None, yes),
        ("held", timer(249), no, None, yes),
        ("held", timer(250), no, None, no),
        ("held", back(), no, Some(1), no),
    ];
    for (row, (state, event, asks, back, holds)) in rows.into_iter().enumerate() {
        let mut lease = lease_in(state);
        let wanted = event(&mut lease);
        assert_eq!((wanted.ask.is_some(), wanted.give_back), (asks, back), "row {row}, {state}");
        assert_eq!(lease.until().is_some() && lease.state == State::Held, holds, "row {row}, {state}");
    }
}

#[test]
fn the_lease_counts_from_the_majoritys_oldest_request() {
    let mut lease = lease_in("held");
    assert_eq!(lease.until(), Some(at(250)));
    lease.renew(at(100));
    lease.answer(0, 2, Answer::Granted, at(100));
    assert_eq!(lease.until(), Some(at(250)), "one voter is no majority");
    lease.renew(at(200));
    assert!(lease.answer(2, 2, Answer::Granted, at(201)), "a late answer counts from its request");
    assert_eq!(lease.until(), Some(at(350)));
    assert!(!lease.answer(2, 9, Answer::Granted, at(201)), "nobody asked that");
}

#[test]
fn voters_that_promised_it_to_another_end_the_lease_at_once() {
    // This node's clock stood still: a paused virtual machine.
    let mut lease = lease_in("held");
    let refuse = Answer::Refused { holder: Some(1), left: ms(100) };
    lease.renew(at(100));
    lease.answer(0, 2, Answer::Granted, at(100));
    lease.answer(1, 2, refuse, at(101));
    assert!(!lease.holds(at(101)));
}

#[test]
fn a_refusal_that_was_overtaken_counts_for_nothing() {
    let mut lease = lease_in("held");
    lease.renew(at(100));
    lease.renew(at(110));
    for voter in 0..2 {
        lease.answer(voter, 3, Answer::Granted, at(111));
    }
    lease.answer(1, 2, Answer::Refused { holder: None, left: ms(5) }, at(112));
    assert_eq!(lease.until(), Some(at(360)));
}

#[test]
fn a_voter_is_asked_again_when_it_may_be_free() {
    let mut lease = lease_in("asking");
    lease.answer(1, 1, Answer::Refused { holder: Some(2), left: ms(20) }, at(1));
    assert_eq!(lease.deadline(), Some(at(21)));
    assert!(lease.tick(at(21)).ask.is_some());
    // Not within this round: after it.
    lease.answer(1, 2, Answer::Refused { holder: Some(2), left: ms(120) }, at(22));
    assert_eq!(lease.tick(at(50)).give_back, Some(2));
    assert_eq!(lease.deadline(), Some(at(90)));
}

#[test]
fn a_longer_interval_lengthens_no_promise_that_was_given() {
    let mut lease = lease_in("held");
    lease.set_terms(INTERVAL * 2, ms(40));
    assert!(lease.until() <= Some(at(250)), "{:?}", lease.until());
    let mut lease = lease_in("held");
    lease.set_terms(INTERVAL / 2, ms(40));
    assert!(lease.until() <= Some(at(250)), "{:?}", lease.until());
}

#[test]
fn a_register_is_written_as_often_as_it_is_said() {
    for interval in [ms(10), ms(250), ms(1_000)] {
        let registered = Some(ms(3_000));
        let terms = Terms { voters: 1, interval, pause: interval, gap: ASK_GAP, keep: false, registered };
        let mut lease = Lease::new(terms);
        let (minute, mut writes) = (60_000, 0);
        for now in (0..minute).step_by(10).map(at) {
            let advert = now.as_nanos() % u64::try_from(interval.as_nanos()).expect("short") == 0;
            let asked = advert.then(|| lease.renew(now).ask).flatten();
            if let Some(request) = asked {
                writes += 1;
                lease.answer(0, request.number, Answer::Granted, now);
            }
        }
        let most = minute / u64::try_from(renewed_every(interval, ms(3_000)).as_millis()).expect("short");
        assert_eq!(writes, most, "{interval:?}");
    }
}

#[test]
fn two_majorities_share_a_voter() {
    for voters in 1..=72 {
        let majority =
            Terms { voters, interval: INTERVAL, pause: ms(1), gap: ASK_GAP, keep: false, registered: None }
                .majority();
        assert!(2 * majority > voters && majority <= voters, "{voters}");
    }
}

/// A group that is put back while what it was before still lets go.
#[test]
fn what_an_earlier_lease_of_a_run_gives_back_frees_nothing_of_a_later_one() {
    let ready = at(0) + promised_for(LEASE);
    let (mut earlier, mut later) = (lease().of_reload(1), lease().of_reload(2));
    let mut voter = Voter::new(LEASE, at(0));
    let mut ask = |lease: &mut Lease, now| {
        let request = lease.want(false, false, now).ask.expect("a request");
        (request.number, voter.request(ONE, request.number, LEASE, now))
    };
    let (_, first) = ask(&mut earlier, ready);
    let (_, second) = ask(&mut later, ready + ms(1));
    assert_eq!((first, second), (Answer::Granted, Answer::Granted));
    earlier.renew(ready + ms(2));
    let back = earlier.give_back().expect("it has asked");
    voter.release(ONE, back);
    assert_eq!(voter.promised_to(ready + ms(3)), Some(ONE));
    assert_eq!(later.give_back().map(|number| number > back), Some(true));
    assert_eq!(lease().of_reload(3).give_back(), None, "it has asked for nothing");
}
