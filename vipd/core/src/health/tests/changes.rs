//! What time, people, names and clients' connections do to a server.

use super::*;
use crate::probe::Connections;
use crate::settings::{OnDemote, OnDown, Vanished};
use std::sync::Arc;

const CLIENT: Probe =
    Probe::Answered(Observation { role: None, lag: None, unready: None, connections: None, upstream: None });

fn unready(says: &str) -> Probe {
    Probe::Answered(Observation { unready: Some(says.into()), ..Observation::default() })
}

/// Two servers, of which `change` may have changed the pool.
fn two(role: Role, change: impl FnOnce(&mut Pool)) -> PoolsState {
    let mut settings = pool("p", &["db1", "db2"], Some(check(role, None)));
    change(&mut settings);
    PoolsState::new(vec![settings], Time::ZERO)
}

pub(super) fn see(state: &mut PoolsState, key: ServerKey, probe: Probe, at: u64) -> Changes {
    state.observe(key, probe, Checked::at(second(at)), second(at)).unwrap_or_default()
}

fn told(changes: &Changes) -> Vec<String> {
    changes.events.iter().map(ToString::to_string).collect()
}

/// Weights of the servers of the first pool, as the balancer gets them.
fn weights(state: &mut PoolsState) -> Vec<u16> {
    let pools = state.build();
    (0..2).map(|server| pools.server(ServerKey { pool: 0, server }).map_or(0, |s| s.weight())).collect()
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
fn a_server_that_comes_back_grows_to_its_weight() {
    let slow = Some(Duration::from_secs(9));
    let mut state = two(Role::Any, |p| p.slow_start = slow);
    see(&mut state, DB1, CLIENT, 0);
    see(&mut state, DB2, CLIENT, 0);
    assert_eq!(weights(&mut state), [10, 10], "the first verdict after the start is no slow start");
    assert_eq!(state.deadline(), None);
    (1..4).for_each(|n| drop(see(&mut state, DB2, failed(), n)));
    (4..6).for_each(|n| drop(see(&mut state, DB2, CLIENT, n)));
    let mut seen = vec![];
    while let Some(at) = state.deadline() {
        seen.push((weights(&mut state)[1], state.status().nth(1).and_then(|s| s.slow_start)));
        assert_eq!(weights(&mut state)[0], 10, "the others keep theirs");
        let before = state.build();
        assert!(state.tick(at).pools && !Arc::ptr_eq(&before, &state.build()), "new pools with each step");
        assert!(state.deadline().is_none_or(|next| next > at));
    }
    let expected: Vec<_> = (1..=9_u8).map(|n| (u16::from(n), Some(n * 10))).collect();
    assert_eq!(seen, expected);
    assert_eq!((weights(&mut state), state.tick(second(60)).pools), (vec![10, 10], false));
}

#[test]
fn a_slow_start_takes_as_long_as_it_should() {
    let mut state = two(Role::Any, |p| p.slow_start = Some(Duration::from_secs(9)));
    see(&mut state, DB1, CLIENT, 0);
    state.set_admin(DB1, Admin::Maint, second(1));
    // Half a step late: the steps of all servers of a pool come at the same time.
    let begin = Time::ZERO + Duration::from_millis(10_500);
    state.set_admin(DB1, Admin::Ready, begin);
    let mut end = begin;
    while let Some(at) = state.deadline() {
        state.tick(at);
        end = at;
    }
    let took = end - begin;
    assert!(took > Duration::from_secs(8) && took <= Duration::from_secs(9), "{took:?}");
    // A sleep over several steps is no reason to climb them one by one.
    state.set_admin(DB1, Admin::Maint, second(30));
    state.set_admin(DB1, Admin::Ready, second(30));
    state.tick(second(35));
    assert_eq!(state.status().next().and_then(|s| s.slow_start), Some(60));
    // It goes down in the middle, and begins anew.
    (35..38).for_each(|n| drop(see(&mut state, DB1, failed(), n)));
    assert_eq!(state.deadline(), None);
    (38..40).for_each(|n| drop(see(&mut state, DB1, CLIENT, n)));
    assert_eq!(state.status().next().and_then(|s| s.slow_start), Some(10));
}

#[test]
fn the_only_server_of_a_pool_is_not_refused_by_its_slow_start() {
    let mut state = two(Role::Any, |p| {
        p.slow_start = Some(Duration::from_secs(30));
        p.servers.truncate(1);
    });
    see(&mut state, DB1, CLIENT, 0);
    state.set_admin(DB1, Admin::Maint, second(1));
    state.set_admin(DB1, Admin::Ready, second(2));
    assert_eq!(state.status().next().and_then(|s| s.slow_start), Some(10));
    assert_eq!(picked(&mut state, 0), Ok(DB1), "of a weight of 1, too");
}

#[test]
fn a_server_that_a_reload_adds_starts_slowly_and_a_shorter_time_is_taken_over() {
    let slow = |p: &mut Pool, seconds| p.slow_start = Some(Duration::from_secs(seconds));
    let mut settings = pool("p", &["db1"], Some(check(Role::Any, None)));
    slow(&mut settings, 900);
    let mut state = PoolsState::new(vec![settings], second(1));
    see(&mut state, DB1, CLIENT, 1);
    let mut settings = pool("p", &["db1", "db2"], Some(check(Role::Any, None)));
    slow(&mut settings, 900);
    state.reconfigure(vec![settings.clone()], second(1_000));
    see(&mut state, DB2, CLIENT, 1_001);
    assert_eq!(weights(&mut state), [10, 1]);
    slow(&mut settings, 9);
    state.reconfigure(vec![settings.clone()], second(1_002));
    assert_eq!(weights(&mut state), [10, 2]);
    settings.slow_start = None;
    state.reconfigure(vec![settings], second(1_003));
    assert_eq!((weights(&mut state), state.deadline()), (vec![10, 10], None));
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
fn a_server_is_withdrawn_from_where_it_cannot_be() {
    let named = |p: &mut Pool| p.servers[0].host = Host::Name("db1.internal".into());
    let mut state = two(Role::Any, named);
    let place = |last| IpAddr::from([10, 77, 0, last]);
    state.set_addresses(DB1, &[place(31), place(100)], None, second(0));
    see(&mut state, DB1, CLIENT, 1);
    see(&mut state, DB2, CLIENT, 1);
    state.build();
    assert_eq!(state.withdraw(DB1, &[place(99)], second(2)), None);
    assert!(state.withdraw(DB1, &[place(100)], second(2)).is_some_and(|c| c.pools));
    assert_eq!((picked(&mut state, 0), word(&state, DB1)), (Ok(DB1), State::Up));
    // The last one known: rather none.
    state.withdraw(DB1, &[place(31)], second(3));
    assert!(matches!(reason(&state, DB1), Reason::Unresolved { .. }));
    assert_eq!(picked(&mut state, 0), Ok(DB2));
    // An address in the file is none that a look-up found.
    let here = state.status().find(|s| s.key == DB2).map(|s| s.addresses.to_vec()).unwrap_or_default();
    assert_eq!(state.withdraw(DB2, &here, second(4)), None);
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

/// Two servers with names, both resolved, the first seen up.
fn named() -> PoolsState {
    let mut settings = pool("p", &["db1", "db2"], Some(check(Role::Any, None)));
    for (server, name) in settings.servers.iter_mut().zip(["db1.internal", "db2.internal"]) {
        server.host = Host::Name(name.into());
    }
    let mut state = PoolsState::new(vec![settings], Time::ZERO);
    resolve(&mut state, DB1, &[1, 2], 0);
    resolve(&mut state, DB2, &[9], 0);
    see(&mut state, DB1, CLIENT, 0);
    state
}

fn resolve(state: &mut PoolsState, key: ServerKey, hosts: &[u8], at: u64) -> Changes {
    let addresses: Vec<IpAddr> = hosts.iter().map(|n| IpAddr::from([10, 77, 1, *n])).collect();
    state.set_addresses(key, &addresses, None, second(at)).unwrap_or_default()
}

#[test]
fn a_name_that_leads_elsewhere_loses_its_verdict() {
    let mut state = named();
    assert_eq!(resolve(&mut state, DB1, &[2, 3], 1).hurry, [], "one address stays: so does the verdict");
    assert_eq!(word(&state, DB1), State::Up);

    // It is all there is: it goes on, and is checked at once.
    assert_eq!(resolve(&mut state, DB1, &[4], 2).hurry, [DB1]);
    assert_eq!(reason(&state, DB1), Reason::Unproven { kept: true });
    assert_eq!(picked(&mut state, 0), Ok(DB1));
    resolve(&mut state, DB1, &[5], 3);
    assert_eq!(reason(&state, DB1), Reason::Unproven { kept: true }, "moved on before it was checked");
    see(&mut state, DB1, failed(), 4);
    assert_eq!(word(&state, DB1), State::Down, "the first result decides");

    // What was down is not down elsewhere, but not up either.
    resolve(&mut state, DB1, &[6], 5);
    assert_eq!(reason(&state, DB1), Reason::Unproven { kept: false });
    see(&mut state, DB1, CLIENT, 6);
    assert_eq!(word(&state, DB1), State::Up);

    // Beside another it waits for its check.
    see(&mut state, DB2, CLIENT, 7);
    resolve(&mut state, DB1, &[7], 8);
    assert_eq!(reason(&state, DB1), Reason::Unproven { kept: false });
    assert_eq!(picked(&mut state, 0), Ok(DB2));
    (9..12).for_each(|n| drop(see(&mut state, DB2, failed(), n)));
    assert_eq!(picked(&mut state, 0), Ok(DB1), "until that is gone, too");
}

#[test]
fn a_check_of_the_former_host_says_nothing_of_the_new_one() {
    for probe in [CLIENT, failed()] {
        let mut state = named();
        resolve(&mut state, DB1, &[4], 10);
        state.observe(DB1, probe.clone(), Checked::at(second(9)), second(11));
        assert_eq!(reason(&state, DB1), Reason::Unproven { kept: true }, "{probe:?} began before");
        let answered = probe == CLIENT;
        state.observe(DB1, probe, Checked::at(second(10)), second(11));
        assert_eq!(word(&state, DB1), if answered { State::Up } else { State::Down });
    }
}

#[test]
fn why_a_name_does_not_resolve_is_kept() {
    let mut state = named();
    state.set_addresses(DB2, &[IpAddr::from([10, 77, 1, 9])], Some("SERVFAIL".into()), second(1));
    assert_eq!(state.status().nth(1).and_then(|s| s.problem.map(str::to_owned)), Some("SERVFAIL".into()));
    assert_eq!(word(&state, DB2), State::Unknown);
    let mut settings = pool("p", &["db1"], None);
    settings.servers[0].host = Host::Name("db9.internal".into());
    let mut state = PoolsState::new(vec![settings], Time::ZERO);
    state.set_addresses(DB1, &[], Some("no such name".into()), second(1));
    assert_eq!(reason(&state, DB1).to_string(), "its name does not resolve: no such name");
}

#[test]
fn a_server_that_vanished_from_its_name_drains_until_it_is_back() {
    let mut state = two(Role::Any, |_| ());
    see(&mut state, DB1, CLIENT, 0);
    see(&mut state, DB2, CLIENT, 0);
    let with = |vanished| {
        let mut settings = pool("p", &["db1", "db2"], Some(check(Role::Any, None)));
        settings.servers[0].vanished = vanished;
        vec![settings]
    };
    let changes = state.reconfigure(with(Some(Vanished::Name)), second(1));
    let text = "server p/db1: up -> drain: its name does not lead to it any more, and goes when its last \
                session has ended";
    assert_eq!(told(&changes), [text]);
    assert_eq!((changes.close, picked(&mut state, 0)), (vec![], Ok(DB2)));
    (1..4).for_each(|n| drop(see(&mut state, DB1, failed(), n)));
    assert_eq!(word(&state, DB1), State::Down);
    state.reconfigure(with(None), second(4));
    (5..7).for_each(|n| drop(see(&mut state, DB1, CLIENT, n)));
    assert_eq!(picked(&mut state, 0), Ok(DB1));
}

/// A pool that wants the primary, of servers of which some were removed from the file.
pub(super) fn removed(names: &[&str], gone: &[&str]) -> Vec<Pool> {
    let mut settings = pool("p", names, Some(check(Role::Primary, None)));
    for server in &mut settings.servers {
        server.vanished = gone.contains(&server.name.as_str()).then_some(Vanished::File);
    }
    vec![settings]
}

#[test]
fn sessions_on_a_server_that_the_file_lost_are_closed_as_those_of_any_other() {
    let closed = |why| vec![Close { key: DB1, why }];
    let start = || {
        let mut state = PoolsState::new(removed(&["db1", "db2"], &[]), Time::ZERO);
        see(&mut state, DB1, primary(), 0);
        see(&mut state, DB2, replica(0), 0);
        let changes = state.reconfigure(removed(&["db1", "db2"], &["db1"]), second(1));
        assert_eq!(changes.close, [], "its sessions go on: nobody else takes writes");
        let text = "removed from the file, and goes when its last session has ended";
        assert_eq!((word(&state, DB1), reason(&state, DB1).to_string()), (State::Drain, text.to_owned()));
        state
    };
    let mut state = start();
    assert_eq!(see(&mut state, DB1, replica(0), 2).close, closed(Why::Demoted));
    let mut state = start();
    assert_eq!(see(&mut state, DB2, primary(), 2).close, closed(Why::Superseded));
    assert_eq!(picked(&mut state, 0), Ok(DB2));
    assert_eq!(see(&mut state, DB1, primary(), 3).close, [], "once");
    let mut state = start();
    assert_eq!(state.reconfigure(removed(&["db1", "db2"], &[]), second(2)).close, []);
    assert_eq!(picked(&mut state, 0), Ok(DB1), "it is back before it was gone");
    see(&mut state, DB2, primary(), 3);
    assert!(matches!(reason(&state, DB2), Reason::Conflict { .. }), "and the one in use");
}

#[test]
fn of_a_pool_that_the_file_lost_the_primary_is_followed_on() {
    let all = ["db1", "db2"];
    let mut state = PoolsState::new(removed(&all, &[]), Time::ZERO);
    see(&mut state, DB1, primary(), 0);
    see(&mut state, DB2, replica(0), 0);
    state.reconfigure(removed(&all, &all), second(1));
    (2..5).for_each(|n| assert_eq!(see(&mut state, DB1, failed(), n).close, []));
    assert_eq!(see(&mut state, DB2, primary(), 5).close, [Close { key: DB1, why: Why::Superseded }]);
    assert!(picked(&mut state, 0).is_err(), "no new sessions");
}

#[test]
fn a_server_with_another_name_keeps_what_runs_on_it() {
    let mut state = PoolsState::new(removed(&["db1"], &[]), Time::ZERO);
    see(&mut state, DB1, primary(), 0);
    let mut settings = removed(&["db1", "new"], &["db1"]);
    settings[0].servers[1].host = settings[0].servers[0].host.clone();
    state.reconfigure(settings, second(1));
    assert_eq!(see(&mut state, DB2, primary(), 2).close, []);
    assert_eq!(picked(&mut state, 0), Ok(DB2));
}

#[test]
fn what_runs_where_a_primary_was_before_is_closed_when_another_takes_over() {
    let with = |last| {
        let mut settings = removed(&["db1", "db2"], &[]);
        settings[0].servers[0].host = Host::Address(IpAddr::from([10, 77, 0, last]));
        settings
    };
    let mut state = PoolsState::new(with(21), Time::ZERO);
    see(&mut state, DB1, primary(), 0);
    see(&mut state, DB2, replica(0), 0);
    // The file says that it is elsewhere, and there it is a replica.
    assert_eq!(state.reconfigure(with(31), second(1)).close, []);
    assert_eq!(see(&mut state, DB1, replica(0), 2).close, []);
    assert_eq!(see(&mut state, DB2, primary(), 3).close, [Close { key: DB1, why: Why::Superseded }]);
}

#[test]
fn what_was_asked_of_a_server_holds_when_it_is_back() {
    let with = |names: &[&str]| vec![pool("p", names, None)];
    let mut state = PoolsState::new(with(&["db1", "db2"]), Time::ZERO);
    state.set_admin(DB2, Admin::Maint, second(1));
    state.set_weight(DB2, Some(7), second(1));
    state.reconfigure(with(&["db1"]), second(2));
    // Another one comes, the pool goes: all of that is nothing to it.
    state.reconfigure(with(&["db1", "db3"]), second(3));
    assert_eq!(word(&state, DB2), State::Up, "this is another");
    state.reconfigure(vec![], second(4));
    state.reconfigure(with(&["db1", "db2"]), second(5));
    let found = state.status().nth(1).map(|s| (s.admin, s.weight, s.reason.state()));
    assert_eq!(found, Some((Admin::Maint, 7, State::Maint)));
    state.set_admin(DB2, Admin::Ready, second(6));
    state.reconfigure(with(&["db1"]), second(7));
    state.reconfigure(with(&["db1", "db2"]), second(8));
    assert_eq!(word(&state, DB2), State::Up, "it was taken back");
}

#[test]
fn wishes_for_servers_that_never_come_back_have_a_bound() {
    let name = |n: usize| format!("read@10.77.0.{n}:3306");
    let with = |n: usize| {
        let mut pool = pool("p", &[&*name(n)], None);
        pool.servers[0].port = u16::try_from(n).unwrap_or_default() + 1;
        vec![pool]
    };
    let mut state = PoolsState::new(with(0), Time::ZERO);
    for n in 1..3_000 {
        state.set_admin(DB1, Admin::Maint, second(1));
        state.reconfigure(with(n), second(1));
    }
    let mut admin = |n: usize| {
        state.reconfigure(with(n), second(2));
        word(&state, DB1)
    };
    assert_eq!((admin(2_500), admin(1)), (State::Maint, State::Up));
}

#[test]
fn nothing_keeps_a_server_that_vanished_and_is_unproven() {
    let with = |gone: &[&str], port| {
        let mut settings = removed(&["db1"], gone);
        settings[0].servers[0].port = port;
        settings
    };
    let mut state = PoolsState::new(with(&[], 3306), Time::ZERO);
    see(&mut state, DB1, primary(), 0);
    state.reconfigure(with(&["db1"], 3307), second(1));
    assert_eq!(word(&state, DB1), State::Drain);
    assert!(picked(&mut state, 0).is_err());
}

#[test]
fn what_is_found_at_the_start_does_not_start_slowly() {
    let slow = |names: &[&str]| {
        vec![Pool {
            slow_start: Some(Duration::from_secs(30)),
            ..pool("p", names, Some(check(Role::Any, None)))
        }]
    };
    let mut state = PoolsState::new(slow(&["entry"]), Time::ZERO);
    state.reconfigure(slow(&["db1", "db2"]), second(1));
    see(&mut state, DB1, CLIENT, 2);
    see(&mut state, DB2, CLIENT, 2);
    assert_eq!(weights(&mut state), [10, 10]);
}

#[test]
fn a_reload_that_changes_every_check_leaves_no_gap() {
    let settings = pool("p", &["db1"], Some(Check::new(CheckKind::Tcp(TcpCheck::default()))));
    let mut state = PoolsState::new(vec![settings], Time::ZERO);
    see(&mut state, DB1, CLIENT, 0);
    state.reconfigure(vec![pool("p", &["db1"], Some(check(Role::Any, None)))], second(1));
    assert_eq!(picked(&mut state, 0), Ok(DB1));
    see(&mut state, DB1, failed(), 2);
    assert_eq!(word(&state, DB1), State::Down);
}

#[test]
fn weights_are_given_at_run_time_and_survive_a_reload() {
    let mut state = two(Role::Any, |_| ());
    see(&mut state, DB1, CLIENT, 0);
    see(&mut state, DB2, CLIENT, 0);
    assert!(state.set_weight(DB1, Some(0), second(1)).is_some_and(|c| c.pools));
    assert_eq!((word(&state, DB1), picked(&mut state, 0)), (State::Up, Ok(DB2)));
    state.set_weight(DB2, Some(256), second(1));
    state.set_admin(DB1, Admin::Drain, second(1));
    let mut changed = pool("p", &["db2", "db1"], Some(check(Role::Any, None)));
    changed.servers.iter_mut().for_each(|s| s.weight = 7);
    state.reconfigure(vec![changed], second(2));
    assert_eq!(weights(&mut state), [2560, 0], "by name");
    assert_eq!(word(&state, DB2), State::Drain);
    state.set_weight(DB1, None, second(3));
    assert_eq!(weights(&mut state), [70, 0]);
    assert_eq!(state.set_weight(DB1, None, second(3)), None);
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
