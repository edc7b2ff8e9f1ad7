//! What another file does to servers and pools.

use super::changes::{CLIENT, see};
use super::*;
use crate::settings::Vanished;

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
fn a_reload_that_changes_every_check_leaves_no_gap() {
    let settings = pool("p", &["db1"], Some(Check::new(CheckKind::Tcp(TcpCheck::default()))));
    let mut state = PoolsState::new(vec![settings], Time::ZERO);
    see(&mut state, DB1, CLIENT, 0);
    state.reconfigure(vec![pool("p", &["db1"], Some(check(Role::Any, None)))], second(1));
    assert_eq!(picked(&mut state, 0), Ok(DB1));
    see(&mut state, DB1, failed(), 2);
    assert_eq!(word(&state, DB1), State::Down);
}
