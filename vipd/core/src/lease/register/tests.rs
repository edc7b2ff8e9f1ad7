use super::*;

const LEASE: Duration = Duration::from_secs(3);
/// 11/9 of it, as a voter keeps a promise.
const WAIT: Duration = Duration::from_nanos(3_666_666_667);
const VRID: NonZeroU8 = NonZeroU8::MIN;

fn at(millis: u64) -> Time {
    Time::from_nanos(millis * 1_000_000)
}

fn registers(node: &str, run: u32) -> Registers {
    Registers::new(node.to_owned(), run, vec!["px1".to_owned(), "px2".to_owned()])
}

fn record(node: &str, run: u32, number: u64) -> Record {
    Record { node: node.to_owned(), run, number, lease: LEASE, released: false }
}

fn sight(revision: u64, record: Record) -> Sight {
    Sight { revision, record: Some(record) }
}

fn swap(expected: u64, record: Record) -> Operation {
    Operation::Swap { expected, record }
}

/// px1, run 7, which has seen the key at 1 s.
fn having_seen(seen: Sight) -> Registers {
    let mut registers = registers("px1", 7);
    registers.news(VRID, seen, at(1000));
    registers
}

/// (what stands in the key, what asking for it at 1.5 s begins), one row a case.
#[test]
fn what_stands_in_the_key_decides_what_is_done() {
    let mine = || record("px1", 7, 9);
    let rows = [
        ("no key", Sight { revision: 0, record: None }, swap(0, record("px1", 7, 0))),
        ("another's", sight(5, record("px2", 1, 1)), Operation::Read),
        ("an earlier run's", sight(5, record("px1", 6, 1)), Operation::Read),
        ("given back", sight(5, Record { released: true, ..record("px2", 1, 1) }), swap(5, mine())),
        ("this run's", sight(5, record("px1", 7, 8)), swap(5, mine())),
    ];
    for (case, seen, operation) in rows {
        let mut registers = having_seen(seen);
        assert_eq!(registers.take(VRID, 9, LEASE, at(1500)).operation, Some((1, operation)), "{case}");
    }
    // Nothing is known: it is looked at first.
    let step = registers("px1", 7).take(VRID, 9, LEASE, at(1500));
    assert_eq!(step.operation, Some((1, Operation::Read)));
}

#[test]
fn anothers_key_is_waited_for_from_when_its_revision_was_seen() {
    let theirs = sight(5, record("px2", 1, 1));
    let mut registers = having_seen(theirs.clone());
    registers.take(VRID, 9, LEASE, at(1500));
    let step = registers.answered(VRID, 1, Outcome::Seen(theirs.clone()), at(1501));
    let left = WAIT - Duration::from_millis(501);
    assert_eq!(step.answer, Some((9, Answer::Refused { holder: Some(1), left })));
    // It is renewed: the wait begins anew.
    registers.news(VRID, sight(6, record("px2", 1, 2)), at(2000));
    let end = at(2000) + WAIT;
    let step = registers.take(VRID, 10, LEASE, end.before(Duration::from_nanos(1)));
    assert_eq!(step.operation, Some((2, Operation::Read)));
    let same = Outcome::Seen(sight(6, record("px2", 1, 2)));
    let step = registers.answered(VRID, 2, same, end);
    assert_eq!(step.operation, Some((3, swap(6, record("px1", 7, 10)))), "its time is over");
}

#[test]
fn a_holder_with_a_longer_lease_is_waited_for_as_long_as_it_says_but_not_for_ever() {
    let mut registers = having_seen(sight(5, Record { lease: LEASE * 2, ..record("px2", 1, 1) }));
    let step = registers.take(VRID, 9, LEASE, at(1000) + WAIT);
    assert_eq!(step.operation, Some((1, Operation::Read)));
    let mut registers = having_seen(sight(5, Record { lease: Duration::MAX, ..record("px2", 1, 1) }));
    let step = registers.take(VRID, 9, LEASE, at(1000) + promised_for(LONGEST));
    assert_eq!(step.operation, Some((1, swap(5, record("px1", 7, 9)))));
}

#[test]
fn a_swap_that_finds_another_revision_is_no_grant() {
    let mut registers = having_seen(sight(5, Record { released: true, ..record("px2", 1, 1) }));
    registers.take(VRID, 9, LEASE, at(1500));
    let step = registers.answered(VRID, 1, Outcome::Seen(sight(6, record("px2", 2, 1))), at(1503));
    assert_eq!(step.answer, Some((9, Answer::Refused { holder: Some(1), left: WAIT })));
    assert_eq!(step.operation, None);
}

#[test]
fn a_swap_whose_answer_was_lost_is_granted_by_what_it_wrote() {
    let mut registers = having_seen(sight(5, record("px1", 7, 8)));
    registers.take(VRID, 9, LEASE, at(1500));
    // It was repeated, and finds what it wrote itself.
    let step = registers.answered(VRID, 1, Outcome::Seen(sight(6, record("px1", 7, 9))), at(1503));
    assert_eq!(step, Step { answer: Some((9, Answer::Granted)), ..Step::default() });
}

#[test]
fn one_operation_at_a_time_and_then_the_newest_request() {
    let mut registers = having_seen(sight(5, record("px1", 7, 8)));
    registers.take(VRID, 9, LEASE, at(1500));
    assert_eq!(registers.take(VRID, 10, LEASE, at(1700)), Step::default());
    assert_eq!(registers.take(VRID, 11, LEASE, at(1900)), Step::default());
    let step = registers.answered(VRID, 1, Outcome::Swapped(6), at(2000));
    assert_eq!(step.answer, Some((9, Answer::Granted)));
    assert_eq!(step.operation, Some((2, swap(6, record("px1", 7, 11)))));
    assert_eq!(registers.answered(VRID, 1, Outcome::Swapped(7), at(2001)), Step::default(), "twice");
}

#[test]
fn what_is_given_back_is_written_so_also_if_a_swap_was_under_way() {
    let mut registers = having_seen(sight(5, record("px1", 7, 8)));
    let back = |number| Record { released: true, ..record("px1", 7, number) };
    assert_eq!(registers.give_back(VRID, 8, at(1500)).operation, Some((1, swap(5, back(8)))));
    assert!(!registers.is_idle(at(1500)));
    registers.answered(VRID, 1, Outcome::Swapped(6), at(1501));
    assert!(registers.is_idle(at(1501)));
    registers.take(VRID, 9, LEASE, at(1502));
    assert_eq!(registers.give_back(VRID, 9, at(1503)), Step::default(), "the swap is under way");
    let step = registers.answered(VRID, 2, Outcome::Swapped(7), at(1504));
    assert_eq!(step.operation, Some((3, swap(7, back(9)))));
    // A later request is not what was given back.
    registers.take(VRID, 10, LEASE, at(1505));
    let step = registers.answered(VRID, 3, Outcome::Swapped(8), at(1506));
    assert_eq!(step.operation, Some((4, swap(8, record("px1", 7, 10)))));
}

#[test]
fn what_another_says_to_have_given_back_is_free_at_once() {
    let rows = [
        ("its request", (1, 4), true),
        ("a later one", (1, 5), true),
        ("the end of its run", (1, u64::MAX), true),
        ("an older one", (1, 3), false),
        ("one of another run", (2, 4), false),
    ];
    for (case, (run, number), free) in rows {
        let mut registers = having_seen(sight(5, record("px2", 1, 4)));
        registers.released(VRID, "px2", run, number);
        let step = registers.take(VRID, 9, LEASE, at(1500));
        let swaps = matches!(step.operation, Some((_, Operation::Swap { .. })));
        assert_eq!(swaps, free, "{case}");
    }
}

#[test]
fn news_that_free_the_group_are_told_and_older_ones_than_what_was_read_count_for_nothing() {
    let mut registers = having_seen(sight(5, record("px2", 1, 4)));
    assert!(!registers.news(VRID, sight(6, record("px2", 1, 5)), at(1500)).opened);
    let back = Record { released: true, ..record("px2", 1, 5) };
    assert!(registers.news(VRID, sight(7, back), at(1600)).opened);
    registers.news(VRID, sight(6, record("px2", 1, 5)), at(1700));
    assert_eq!(registers.seen(VRID).map(|(r, _)| r.released), Some(true));
}

/// Somebody has deleted the key, perhaps under its holder.
#[test]
fn a_key_that_is_not_there_is_claimed_and_waited_for_like_anothers() {
    let mut registers = having_seen(Sight { revision: 0, record: None });
    registers.take(VRID, 9, LEASE, at(1500));
    let step = registers.answered(VRID, 1, Outcome::Swapped(6), at(1501));
    assert_eq!(step.answer, Some((9, Answer::Refused { holder: Some(0), left: WAIT })));
    // Neither does its maker give a claim back, nor does anybody's word free it.
    assert_eq!(registers.give_back(VRID, 9, at(1502)), Step::default());
    assert!(registers.is_idle(at(1502)));
    let mut other = having_seen(sight(6, record("px2", 1, 0)));
    other.released(VRID, "px2", 1, u64::MAX);
    assert_eq!(other.take(VRID, 1, LEASE, at(1500)).operation, Some((1, Operation::Read)));
    let end = at(1501) + WAIT;
    let step = registers.take(VRID, 10, LEASE, end.before(Duration::from_nanos(1)));
    assert_eq!(step.operation, Some((2, Operation::Read)));
    let step = registers.answered(VRID, 2, Outcome::Seen(sight(6, record("px1", 7, 0))), end);
    assert_eq!(step.operation, Some((3, swap(6, record("px1", 7, 10)))));
}
