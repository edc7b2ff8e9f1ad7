//! What checks, time, people and clients' connections do to a server.

use super::*;
use crate::probe::Connections;
use crate::settings::{OnDemote, OnDown};
use std::sync::Arc;

pub(super) const CLIENT: Probe =
    Probe::Answered(Observation { role: None, lag: None, unready: None, connections: None, upstream: None });

fn unready(says: &str) -> Probe {
    Probe::Answered(Observation { unready: Some(says.into()), ..Observation::default() })
}

/// Two servers, of which `change` may have changed the pool.
pub(super) fn two(role: Role, change: impl FnOnce(&mut Pool)) -> PoolsState {
    let mut settings = pool("p", &["db1", "db2"], Some(check(role, None)));
    change(&mut settings);
    PoolsState::new(vec![settings], Time::ZERO)
}

pub(super) fn see(state: &mut PoolsState, key: ServerKey, probe: Probe, at: u64) -> Changes {
    state.observe(key, probe, Checked::at(second(at)), second(at)).unwrap_or_default()
}

pub(super) fn told(changes: &Changes) -> Vec<String> {
    changes.events.iter().map(ToString::to_string).collect()
}

#[test]
fn a_server_that_says_no_is_down_at_once_and_back_by_rise() {
    let mut state = two(Role::Any, |_| ());
    let probes = [CLIENT, unready("donor"), CLIENT, CLIENT, failed(), unready("donor"), failed(), CLIENT];
    assert_eq!(words(&mut state, probes), ["up", "down", "down", "up", "up", "down", "down", "down"]);
    let mut state = two(Role::Any, |_| ());
    see(&mut state, DB1, CLIENT, 0);
    let changes = see(&mut state, DB1, unready("it is a donor"), 1);
    assert_eq!(told(&changes), ["server p/db1: up -> down: it says: it is a donor"]);
    see(&mut state, DB1, CLIENT, 2);
    assert_eq!(reason(&state, DB1).to_string(), "it said: it is a donor; 1 of 2 checks succeeded since");
}

#[test]
fn what_this_host_lacks_is_not_held_against_a_server_and_is_told_once() {
    let mut state = two(Role::Primary, |p| p.on_down = OnDown::Close);
    see(&mut state, DB1, unable(), 0);
    assert_eq!((word(&state, DB1), reason(&state, DB1)), (State::Unknown, Reason::NotChecked));
    see(&mut state, DB1, primary(), 1);
    see(&mut state, DB2, failed(), 1);
    let pools = state.build();
    for at in 2..9 {
        let changes = [see(&mut state, DB1, unable(), at), see(&mut state, DB2, unable(), at)];
        let said = if at > 2 { vec![] } else { vec!["this host cannot check it: too many open files"] };
        for (changes, name) in changes.iter().zip(["db1", "db2"]) {
            let said: Vec<_> = said.iter().map(|text| format!("server p/{name}: {text}")).collect();
            assert_eq!((told(changes), &changes.close), (said, &vec![]));
        }
    }
    assert!(Arc::ptr_eq(&pools, &state.build()));
    assert_eq!((word(&state, DB1), word(&state, DB2)), (State::Up, State::Down));
    let status: Vec<_> = state.status().map(|s| (s.unable.is_some(), s.checks.total)).collect();
    assert_eq!(status, [(true, 1), (true, 1)], "what did not come about is not counted");
    // Failures and successes are counted on where they were.
    assert_eq!(told(&see(&mut state, DB2, replica(0), 9))[0], "server p/db2: this host can check it again");
    assert_eq!(word(&state, DB2), State::Down, "by its role, and not risen yet");
    see(&mut state, DB1, failed(), 9);
    see(&mut state, DB1, unable(), 10);
    see(&mut state, DB1, failed(), 11);
    assert_eq!(word(&state, DB1), State::Up);
    see(&mut state, DB1, failed(), 12);
    assert_eq!(word(&state, DB1), State::Down);
}

#[test]
fn the_room_a_server_has_is_told_after_each_answer() {
    let with = |used, max| {
        let connections = Some(Connections { used, max });
        Probe::Answered(Observation { connections, ..Observation::default() })
    };
    for (used, max, headroom, free) in
        [(0, 100, 0, 100), (40, 100, 10, 50), (95, 100, 10, 0), (200, 100, 0, 0), (0, 5, 10, 0)]
    {
        let mut state = two(Role::Any, |p| p.headroom = headroom);
        let room = [Room { key: DB1, free: Some(free) }];
        assert_eq!(see(&mut state, DB1, with(used, max), 0).rooms, room, "{used} of {max}, {headroom}");
        assert_eq!(see(&mut state, DB1, with(used, max), 1).rooms, room, "each answer is a new count");
        assert_eq!(see(&mut state, DB1, failed(), 2).rooms, []);
        assert_eq!(
            see(&mut state, DB1, CLIENT, 3).rooms,
            [Room { key: DB1, free: None }],
            "not told any more"
        );
        assert_eq!(see(&mut state, DB1, CLIENT, 4).rooms, []);
    }
}

/// A server that has no connection left for its check has none for clients
/// either, but those that have one keep it.
#[test]
fn a_full_server_stays_up_and_has_no_room() {
    let mut pools = vec![pool("p", &["db1"], Some(check(Role::Primary, None)))];
    pools[0].on_down = OnDown::Close;
    let mut state = PoolsState::new(pools, Time::ZERO);
    let connections = Some(Connections { used: 7, max: 9 });
    let role = Some(ObservedRole::Primary);
    see(&mut state, DB1, Probe::Answered(Observation { role, connections, ..Observation::default() }), 0);
    for n in 1..9 {
        let changes = see(&mut state, DB1, Probe::Full("Too many connections".into()), n);
        assert_eq!(changes.rooms, [Room { key: DB1, free: Some(0) }]);
        assert_eq!(changes.close, []);
        assert_eq!(reason(&state, DB1), Reason::Full("Too many connections".into()));
        assert_eq!(word(&state, DB1), State::Up);
    }
    for n in 9..12 {
        see(&mut state, DB1, failed(), n);
    }
    assert_eq!(word(&state, DB1), State::Down, "it does not answer at all");
}

/// Of a limit that nobody asks for any more nothing is held back.
#[test]
fn a_room_is_forgotten_with_what_told_it() {
    let with = |check: Option<Check>| vec![pool("p", &["db1", "db2"], check)];
    let asks = || Some(check(Role::Any, None));
    let mut moved = with(asks());
    moved[0].servers[0].port = 3307;
    let tcp = Check::new(CheckKind::Tcp(TcpCheck::default()));
    for (name, settings, free) in [
        ("another kind of check", with(Some(tcp)), true),
        ("no check", with(None), true),
        ("another place", moved, true),
        ("nothing new", with(asks()), false),
    ] {
        let mut state = PoolsState::new(with(asks()), Time::ZERO);
        let connections = Some(Connections { used: 9, max: 9 });
        let full = Probe::Answered(Observation { connections, ..Observation::default() });
        assert_eq!(see(&mut state, DB1, full, 0).rooms, [Room { key: DB1, free: Some(0) }]);
        let expected: &[Room] = if free { &[Room { key: DB1, free: None }] } else { &[] };
        assert_eq!(state.reconfigure(settings.clone(), second(1)).rooms, expected, "{name}");
        assert_eq!(state.reconfigure(settings, second(2)).rooms, [], "{name}: told once");
    }
    let mut settings = with(asks());
    settings[0].servers[0].host = Host::Name("db1.internal".into());
    let mut state = PoolsState::new(settings, Time::ZERO);
    let place = |n| [IpAddr::from([10, 77, 0, n])];
    state.set_addresses(DB1, &place(31), None, second(0));
    let connections = Some(Connections { used: 9, max: 9 });
    see(&mut state, DB1, Probe::Answered(Observation { connections, ..Observation::default() }), 1);
    let moved = state.set_addresses(DB1, &place(32), None, second(2)).unwrap_or_default();
    assert_eq!(moved.rooms, [Room { key: DB1, free: None }]);
}

#[test]
fn what_goes_down_is_closed_if_the_pool_says_so() {
    for (on_down, probe, failures, closed) in [
        (OnDown::Drain, failed(), 3, vec![]),
        (OnDown::Drain, unready("left its group"), 1, vec![]),
        (OnDown::Close, failed(), 3, vec![Close { key: DB1, why: Why::Down }]),
        (OnDown::Close, unready("left its group"), 1, vec![Close { key: DB1, why: Why::Down }]),
    ] {
        let mut state = two(Role::Any, |p| p.on_down = on_down);
        see(&mut state, DB1, CLIENT, 0);
        let mut last = vec![];
        for n in 0..failures {
            assert_eq!(last, [], "not before it is down");
            last = see(&mut state, DB1, probe.clone(), 1 + n).close;
        }
        assert_eq!(last, closed, "{on_down:?} {probe:?}");
        assert_eq!(see(&mut state, DB1, probe, 9).close, [], "once");
    }
    // Slowness is no reason, and neither is a role.
    let mut lagging = pool("p", &["db1", "db2"], Some(check(Role::Replica, Some(10))));
    lagging.on_down = OnDown::Close;
    let mut state = PoolsState::new(vec![lagging], Time::ZERO);
    for probe in [replica(0), replica(60), unknown_lag(), primary()] {
        assert_eq!(see(&mut state, DB1, probe, 1).close, []);
    }
}

#[test]
fn a_demoted_primary_gets_the_time_that_its_pool_gives() {
    let drain = |p: &mut Pool| p.on_demote = OnDemote::Drain(Duration::from_secs(30));
    let mut state = two(Role::Primary, drain);
    see(&mut state, DB1, primary(), 0);
    assert_eq!(see(&mut state, DB1, replica(0), 10).close, []);
    assert_eq!(state.deadline(), Some(second(40)));
    assert_eq!(state.status().next().and_then(|s| s.close_at), Some(second(40)));
    assert_eq!(state.tick(second(39)).close, []);
    assert_eq!(state.tick(second(40)).close, [Close { key: DB1, why: Why::Demoted }]);
    assert_eq!((state.tick(second(41)).close, state.deadline()), (vec![], None), "once");

    for (what, undo) in [
        ("the role comes back", (|s| drop(see(s, DB1, primary(), 20))) as fn(&mut PoolsState)),
        ("it is closed for maintenance", |s| drop(s.set_admin(DB1, Admin::Maint, second(20)))),
        ("the pool takes any role now", |s| {
            drop(s.reconfigure(vec![pool("p", &["db1"], Some(check(Role::Any, None)))], second(20)));
        }),
    ] {
        let mut state = two(Role::Primary, drain);
        see(&mut state, DB1, primary(), 0);
        see(&mut state, DB1, replica(0), 10);
        undo(&mut state);
        assert_eq!((state.deadline(), state.tick(second(60)).close), (None, vec![]), "{what}");
    }
}

#[test]
fn a_connection_that_fails_counts_once_between_two_checks() {
    let mut state = two(Role::Any, |_| ());
    assert_eq!(state.connect_failed(DB1, 1, second(0)).map(|c| c.hurry), Some(vec![]), "not known yet");
    see(&mut state, DB1, CLIENT, 1);
    state.build();
    let changes = state.connect_failed(DB1, 1, second(1)).unwrap_or_default();
    assert_eq!((changes.hurry, word(&state, DB1)), (vec![DB1], State::Up));
    assert!(
        reason(&state, DB1).to_string().starts_with("1 of 3 checks in a row failed: a client's connection")
    );
    (0..1_000)
        .for_each(|_| assert_eq!(state.connect_failed(DB1, 1, second(1)), None, "one burst is one failure"));
    see(&mut state, DB1, failed(), 2);
    assert_eq!(word(&state, DB1), State::Up);
    state.connect_failed(DB1, 1, second(2));
    assert_eq!(word(&state, DB1), State::Down);
    let checks = state.status().next().map(|s| (s.checks.total, s.checks.failed, s.checks.passive));
    assert_eq!(checks, Some((2, 1, 2)));
    // What was on its way when it went down says nothing new.
    see(&mut state, DB1, CLIENT, 3);
    state.build();
    assert_eq!(state.connect_failed(DB1, 1, second(3)), None);
    see(&mut state, DB1, CLIENT, 4);
    assert_eq!(word(&state, DB1), State::Up);

    let mut active = pool("p", &["db1"], Some(Check { passive: false, ..check(Role::Any, None) }));
    active.retries = 0;
    let mut state = PoolsState::new(vec![active], Time::ZERO);
    see(&mut state, DB1, CLIENT, 1);
    state.build();
    assert_eq!(state.connect_failed(DB1, 1, second(1)), None, "not asked for");
}

#[test]
fn an_unknown_lag_that_holds_is_said() {
    let mut state = one(Role::Replica, Some(10));
    see(&mut state, DB2, replica(0), 0);
    see(&mut state, DB1, replica(0), 0);
    let changes = see(&mut state, DB1, unknown_lag(), 7);
    let held = "its lag is unknown (connecting), and was good when it was last known";
    assert_eq!(told(&changes), [format!("server p/db1: still up: {held}")]);
    assert_eq!(see(&mut state, DB1, unknown_lag(), 8).events, [], "said once");
    assert_eq!(state.status().next().and_then(|s| s.lag_unknown_since), Some(second(7)));
    let changes = see(&mut state, DB1, replica(0), 9);
    assert_eq!(told(&changes), ["server p/db1: still up: its check succeeds"]);
    assert_eq!(state.status().next().and_then(|s| s.lag_unknown_since), None);
}

#[test]
fn writes_follow_a_promotion_within_one_check() {
    // The old primary answers as a replica: at that answer.
    let mut state = two(Role::Primary, |_| ());
    see(&mut state, DB1, primary(), 0);
    see(&mut state, DB2, replica(0), 0);
    see(&mut state, DB2, primary(), 1);
    assert_eq!(picked(&mut state, 0), Ok(DB1), "both are writable: the incumbent stays");
    see(&mut state, DB1, replica(0), 1);
    assert_eq!(picked(&mut state, 0), Ok(DB2));

    // The old primary is dead, and the promotion is seen before or after its first failure.
    for promotion_first in [true, false] {
        let mut state = two(Role::Primary, |_| ());
        see(&mut state, DB1, primary(), 0);
        see(&mut state, DB2, replica(0), 0);
        let mut changes = vec![];
        if promotion_first {
            see(&mut state, DB2, primary(), 1);
            changes.extend(see(&mut state, DB1, failed(), 2).close);
        } else {
            see(&mut state, DB1, failed(), 1);
            changes.extend(see(&mut state, DB2, primary(), 2).close);
        }
        assert_eq!(picked(&mut state, 0), Ok(DB2), "promotion first: {promotion_first}");
        assert_eq!(changes, [Close { key: DB1, why: Why::Superseded }]);
    }
}

#[test]
fn one_lost_check_does_not_move_writes_to_a_server_that_was_writable_all_along() {
    let mut state = two(Role::Primary, |_| ());
    see(&mut state, DB1, primary(), 0);
    see(&mut state, DB2, replica(0), 0);
    see(&mut state, DB2, primary(), 1);
    see(&mut state, DB1, primary(), 2);
    for n in 3..5 {
        see(&mut state, DB1, failed(), n);
        assert_eq!(picked(&mut state, 0), Ok(DB1));
    }
    see(&mut state, DB1, failed(), 5);
    assert_eq!(picked(&mut state, 0), Ok(DB2), "down is down");
}
