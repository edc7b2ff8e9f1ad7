//! What clients' connections do to a server whose checks succeed.

use super::changes::see;
use super::*;
use crate::settings::OnDown;

/// Two servers that answered, of which `change` may have changed the pool.
fn both(change: impl FnOnce(&mut Pool)) -> PoolsState {
    let mut settings = pool("p", &["db1", "db2"], Some(check(Role::Any, None)));
    settings.on_down = OnDown::Close;
    change(&mut settings);
    let mut state = PoolsState::new(vec![settings], Time::ZERO);
    see(&mut state, DB1, primary(), 0);
    see(&mut state, DB2, primary(), 0);
    state.build();
    state
}

/// Connections to it fail at a time, none good in between, these in a row by then.
fn fail(state: &mut PoolsState, key: ServerKey, in_a_row: u32, at: u64) -> Changes {
    state.connect_failed(key, in_a_row, second(at)).unwrap_or_default()
}

/// A second of a server's life, in which its check succeeds.
fn live(state: &mut PoolsState, key: ServerKey, seconds: std::ops::Range<u64>) {
    for at in seconds {
        while state.deadline().is_some_and(|due| due <= second(at)) {
            let due = state.deadline();
            state.tick(second(at));
            assert_ne!(state.deadline(), due, "a deadline that passed is gone");
        }
        see(state, key, primary(), at);
    }
}

#[test]
fn a_server_that_answers_its_checks_and_no_client_is_out_without_harm_to_its_sessions() {
    let mut state = both(|_| ());
    for n in 1..3 {
        assert_eq!((fail(&mut state, DB1, n, n.into()).close, word(&state, DB1)), (vec![], State::Up));
        see(&mut state, DB1, primary(), n.into());
    }
    let changes = fail(&mut state, DB1, 3, 3);
    let expected =
        "server p/db1: up -> down: 3 client connections in a row failed; it takes none for 10s at least";
    assert_eq!(changes.events.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    assert_eq!((changes.close, changes.pools, picked(&mut state, 0)), (vec![], true, Ok(DB2)));
    assert_eq!(state.status().next().map(|s| s.since), Some(second(3)));
    // Its check fails as well: that is what `on-down` is about.
    let closed: Vec<_> = (4..7).flat_map(|at| see(&mut state, DB1, failed(), at).close).collect();
    assert_eq!(closed, [Close { key: DB1, why: Why::Down }]);
}

#[test]
fn a_good_connection_in_between_keeps_it_in() {
    let mut state = both(|_| ());
    for at in 1..20 {
        fail(&mut state, DB1, 1, at);
        fail(&mut state, DB1, 2, at);
        see(&mut state, DB1, primary(), at);
    }
    assert_eq!(word(&state, DB1), State::Up);
}

#[test]
fn a_larger_fall_needs_as_many_and_a_smaller_one_three() {
    for (fall, needed) in [(1, 3), (2, 3), (5, 5)] {
        let mut state = both(|p| p.check = Some(Check { fall, ..check(Role::Any, None) }));
        for n in 1..=needed {
            assert_eq!(word(&state, DB1), State::Up, "fall {fall}, {n}");
            fail(&mut state, DB1, n, 1);
        }
        assert_eq!(word(&state, DB1), State::Down, "fall {fall}");
    }
}

#[test]
fn it_is_in_again_after_its_hold_and_good_checks_and_the_hold_grows() {
    let mut state = both(|_| ());
    fail(&mut state, DB1, 3, 1);
    live(&mut state, DB1, 2..11);
    assert_eq!(word(&state, DB1), State::Down, "checks succeed, but its hold is not over");
    live(&mut state, DB1, 11..12);
    assert_eq!(word(&state, DB1), State::Up);
    assert_eq!(state.status().next().map(|s| s.since), Some(second(11)));
    // The next client fails as well: once is enough, and for longer.
    fail(&mut state, DB1, 1, 12);
    assert_eq!(state.deadline(), Some(second(32)));
    // Without good checks it stays out beyond that.
    live(&mut state, DB1, 13..31);
    see(&mut state, DB1, failed(), 31);
    live(&mut state, DB1, 32..33);
    assert_eq!(word(&state, DB1), State::Down, "one success of two");
    live(&mut state, DB1, 33..34);
    assert_eq!(word(&state, DB1), State::Up);
    // It comes and goes: good ones in between do not make the hold short.
    state.connect_worked(DB1, second(33));
    fail(&mut state, DB1, 1, 34);
    assert_eq!(word(&state, DB1), State::Up, "one may be lost on its way again");
    fail(&mut state, DB1, 3, 35);
    assert_eq!(state.deadline(), Some(second(75)));
    // It worked for longer than that: this is another fault.
    live(&mut state, DB1, 36..200);
    state.connect_worked(DB1, second(199));
    fail(&mut state, DB1, 1, 199);
    fail(&mut state, DB1, 3, 200);
    assert_eq!(state.deadline(), Some(second(210)));
}

#[test]
fn the_last_server_that_is_usable_stays() {
    let mut state = both(|_| ());
    see(&mut state, DB2, replica(0), 1);
    fail(&mut state, DB1, 3, 1);
    assert_eq!(picked(&mut state, 0), Ok(DB2));
    // The other one goes, and this is back at once.
    (2..5).for_each(|at| drop(see(&mut state, DB2, failed(), at)));
    let kept = "3 client connections in a row failed, but no other server of the pool is usable";
    assert_eq!((word(&state, DB1), reason(&state, DB1).to_string()), (State::Up, kept.to_owned()));
    assert_eq!(picked(&mut state, 0), Ok(DB1));
    (5..7).for_each(|at| drop(see(&mut state, DB2, replica(0), at)));
    assert_eq!(picked(&mut state, 0), Ok(DB2));
    // Both refuse clients: rather one that may refuse than none.
    fail(&mut state, DB2, 3, 7);
    assert_eq!((word(&state, DB1), word(&state, DB2)), (State::Up, State::Up));
    // A primary has no other that may take its place.
    let mut state = one(Role::Primary, None);
    see(&mut state, DB1, primary(), 0);
    see(&mut state, DB2, primary(), 0);
    fail(&mut state, DB1, 9, 1);
    assert_eq!((picked(&mut state, 0), word(&state, DB2)), (Ok(DB1), State::Down));
}

#[test]
fn no_session_is_closed_for_what_clients_meet_alone() {
    let mut state = both(|p| p.check = Some(Check { fall: 1, ..check(Role::Any, None) }));
    let changes = fail(&mut state, DB1, 1, 1);
    assert_eq!((changes.close, word(&state, DB1)), (vec![], State::Up), "one is no check that failed");
    assert_eq!(see(&mut state, DB1, failed(), 2).close, [Close { key: DB1, why: Why::Down }]);
    // Nor if the check found the server full, which it is for clients too.
    let mut state = both(|p| p.check = Some(Check { fall: 2, ..check(Role::Any, None) }));
    see(&mut state, DB1, Probe::Full("too many connections".into()), 1);
    assert_eq!((fail(&mut state, DB1, 1, 1).close, word(&state, DB1)), (vec![], State::Up));
}

#[test]
fn what_a_person_asked_and_what_is_new_there_stand_above_it() {
    let mut state = both(|_| ());
    fail(&mut state, DB1, 3, 1);
    state.set_admin(DB1, Admin::Drain, second(2));
    assert_eq!(word(&state, DB1), State::Drain);
    // Whoever says that it is ready need not wait for the hold to end.
    state.set_admin(DB1, Admin::Ready, second(3));
    assert_eq!(word(&state, DB1), State::Up);
    fail(&mut state, DB1, 4, 3);
    assert_eq!((word(&state, DB1), state.deadline()), (State::Down, Some(second(13))));
    // What is at another place was not met by anybody.
    let mut moved = pool("p", &["db1", "db2"], Some(check(Role::Any, None)));
    moved.servers[0].port = 3307;
    state.reconfigure(vec![moved], second(4));
    see(&mut state, DB1, primary(), 5);
    assert_eq!((word(&state, DB1), state.deadline()), (State::Up, None));
}

/// One refused connection says little, and a primary that lives keeps its sessions.
#[test]
fn what_clients_meet_moves_no_primary() {
    let mut state = one(Role::Primary, None);
    see(&mut state, DB1, primary(), 0);
    see(&mut state, DB2, replica(0), 0);
    see(&mut state, DB2, primary(), 1);
    let changes = fail(&mut state, DB1, 1, 1);
    assert_eq!((changes.close, picked(&mut state, 0)), (vec![], Ok(DB1)));
    // A check that fails does.
    let changes = see(&mut state, DB1, failed(), 2);
    assert_eq!(changes.close, [Close { key: DB1, why: Why::Superseded }]);
    assert_eq!(picked(&mut state, 0), Ok(DB2));
}

/// It serves its clients: nothing is left to hold against it.
#[test]
fn the_last_server_that_serves_its_clients_again_stays_when_another_comes_back() {
    let mut state = both(|_| ());
    (1..4).for_each(|at| drop(see(&mut state, DB2, failed(), at)));
    fail(&mut state, DB1, 3, 4);
    assert!(matches!(reason(&state, DB1), Reason::ClientsFail { kept: true, .. }));
    state.connect_worked(DB1, second(5));
    assert!(matches!(reason(&state, DB1), Reason::Failing { .. }), "until its next check");
    (6..8).for_each(|at| drop(see(&mut state, DB2, primary(), at)));
    assert_eq!((word(&state, DB1), word(&state, DB2)), (State::Up, State::Up));
    // One that is out for another is not let in by a connection of before.
    fail(&mut state, DB1, 3, 8);
    state.connect_worked(DB1, second(9));
    assert_eq!(word(&state, DB1), State::Down);
}

#[test]
fn what_clients_met_is_forgotten_when_it_counts_no_more() {
    let passive = |passive| Some(Check { passive, ..check(Role::Any, None) });
    let mut state = both(|_| ());
    fail(&mut state, DB1, 3, 1);
    state.reconfigure(vec![pool("p", &["db1", "db2"], passive(false))], second(2));
    assert_eq!((word(&state, DB1), state.deadline()), (State::Up, None));
    state.reconfigure(vec![pool("p", &["db1", "db2"], passive(true))], second(3));
    assert_eq!(word(&state, DB1), State::Up);
}
