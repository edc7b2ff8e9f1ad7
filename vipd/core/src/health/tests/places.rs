//! Sessions and what is known belong to a place, whatever the name of the server there.

use super::changes::see;
use super::file::removed;
use super::*;
use crate::settings::{OnDemote, Vanished};
use std::net::SocketAddr;

fn at(last: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::from([10, 77, 0, last]), 3306)
}

/// Where the sessions of the first pool may be, if that was told.
fn only(changes: &Changes) -> Vec<Vec<SocketAddr>> {
    changes.only.iter().filter(|o| o.pool == 0).map(|o| o.places.clone()).collect()
}

#[test]
fn a_primary_that_moves_under_its_name_loses_the_sessions_where_it_was_once_it_answers() {
    let (a, b) = (IpAddr::from([10, 77, 0, 31]), IpAddr::from([10, 77, 0, 32]));
    let mut settings = vec![pool("p", &["db1"], Some(check(Role::Primary, None)))];
    settings[0].servers[0].host = Host::Name("db.internal".into());
    let mut state = PoolsState::new(settings.clone(), Time::ZERO);
    state.set_addresses(DB1, &[a], None, Time::ZERO);
    assert_eq!(only(&see(&mut state, DB1, primary(), 1)), [[at(31)]]);
    assert_eq!(only(&see(&mut state, DB1, primary(), 2)), Vec::<Vec<_>>::new(), "once is enough");
    let moved = state.set_addresses(DB1, &[b], None, second(3)).unwrap_or_default();
    assert_eq!(only(&moved), Vec::<Vec<_>>::new(), "nothing is known of what is there");
    assert_eq!(only(&see(&mut state, DB1, primary(), 4)), [[at(32)]]);
    // By a reload.
    settings[0].servers[0].host = Host::Address(IpAddr::from([10, 77, 0, 33]));
    assert_eq!(state.reconfigure(settings, second(5)).only, []);
    assert_eq!(only(&see(&mut state, DB1, primary(), 6)), [[at(33)]]);
}

#[test]
fn a_demoted_primary_that_drains_loses_its_sessions_when_it_is_writable_beside_another() {
    let mut settings = vec![pool("p", &["db1", "db2"], Some(check(Role::Primary, None)))];
    settings[0].on_demote = OnDemote::Drain(Duration::from_secs(60));
    let mut state = PoolsState::new(settings, Time::ZERO);
    see(&mut state, DB1, primary(), 1);
    assert_eq!(only(&see(&mut state, DB2, replica(0), 1)), [[at(21), at(22)]]);
    see(&mut state, DB1, replica(0), 2);
    assert_eq!(only(&see(&mut state, DB2, primary(), 3)), Vec::<Vec<_>>::new(), "it drains");
    assert_eq!(only(&see(&mut state, DB1, primary(), 4)), [[at(22)]]);
    assert!(state.status().all(|s| s.close_at.is_none()));
}

#[test]
fn a_pool_of_another_name_has_the_primary_and_the_sessions_of_the_one_in_whose_place_it_came() {
    let check = Some(check(Role::Primary, None));
    let mut old = pool("p", &["db1", "db2"], check.clone());
    let new = pool("writes", &["db1", "db2"], check);
    let mut state = PoolsState::new(vec![old.clone()], Time::ZERO);
    see(&mut state, DB1, replica(0), 1);
    see(&mut state, DB2, primary(), 1);
    see(&mut state, DB1, primary(), 2);
    old.servers.iter_mut().for_each(|s| s.vanished = Some(Vanished::File));
    let changes = state.reconfigure(vec![new, old], second(3));
    let expected = Only { pool: 0, before: vec![1], places: vec![at(22)] };
    assert_eq!((changes.only, changes.close), (vec![expected], vec![]), "the incumbent stays");
    assert_eq!(picked(&mut state, 0), Ok(DB2), "without a check in between");
    // The new primary's word counts for the sessions of both.
    state.set_admin(DB2, Admin::Maint, second(4));
    let incumbent = state.status().find(|s| s.incumbent && s.pool.name == "writes").map(|s| s.key);
    assert_eq!(incumbent, Some(DB1));
}

#[test]
fn a_server_of_another_name_has_what_was_known_and_asked_at_its_place() {
    let mut state = PoolsState::new(removed(&["db1", "db2"], &[]), Time::ZERO);
    see(&mut state, DB1, primary(), 1);
    see(&mut state, DB2, replica(0), 1);
    state.set_admin(DB2, Admin::Drain, second(1));
    let changes = state.reconfigure(removed(&["a", "b"], &[]), second(2));
    assert_eq!((picked(&mut state, 0), changes.close), (Ok(DB1), vec![]));
    assert_eq!(state.status().map(|s| s.admin).collect::<Vec<_>>(), [Admin::Ready, Admin::Drain]);
    // Two names change places: what is asked is of the name.
    let mut swapped = removed(&["b", "a"], &[]);
    swapped[0].servers.swap(0, 1);
    let changes = state.reconfigure(swapped, second(3));
    assert_eq!((only(&changes), changes.close), (vec![vec![at(21), at(22)]], vec![]));
    let incumbent = state.status().find(|s| s.incumbent).map(|s| (s.server.name.clone(), s.server.place()));
    assert!(incumbent.is_some_and(|(name, place)| name == "b" && place.1 == 3306));
}

#[test]
fn a_pool_that_comes_to_want_the_primary_keeps_the_sessions_of_one() {
    let mut state = one(Role::Any, None);
    see(&mut state, DB1, primary(), 1);
    assert_eq!(see(&mut state, DB2, primary(), 1).only, []);
    let settings = vec![pool("p", &["db1", "db2"], Some(check(Role::Primary, None)))];
    assert_eq!(only(&state.reconfigure(settings, second(2))), [[at(21)]]);
}

/// An answer, and the address of db1 that gave it.
fn told(state: &mut PoolsState, probe: Probe, last: u8, seconds: u64) -> Changes {
    let address = Some(at(last).ip());
    let checked = Checked { address, ..Checked::at(second(seconds)) };
    state.observe(DB1, probe, checked, second(seconds)).unwrap_or_default()
}

/// A pool whose one server has a name with two addresses.
fn of_two(check: Check) -> PoolsState {
    let mut settings = vec![pool("p", &["db1"], Some(check))];
    settings[0].servers[0].host = Host::Name("db.internal".into());
    let mut state = PoolsState::new(settings, Time::ZERO);
    state.set_addresses(DB1, &[at(31).ip(), at(32).ip()], None, Time::ZERO);
    state
}

fn used(state: &mut PoolsState) -> Vec<SocketAddr> {
    state.build().server(DB1).map(|s| s.addresses().to_vec()).unwrap_or_default()
}

#[test]
fn of_a_names_addresses_sessions_go_to_the_one_that_the_check_speaks_of() {
    let mut state = of_two(check(Role::Primary, None));
    let changes = told(&mut state, primary(), 32, 1);
    assert_eq!(used(&mut state), [at(32)], "what is at the other may be a replica");
    assert_eq!(only(&changes), [[at(32)]]);
    assert_eq!(state.find_at("p", "db1", at(31)), None, "what clients meet there says nothing of it");
    // Once at the other: no session stays where it was, since two must never be written to.
    let changes = told(&mut state, primary(), 31, 2);
    assert_eq!((used(&mut state), only(&changes)), (vec![at(31)], vec![vec![at(31)]]));
    assert_eq!(changes.events.first().map(|e| e.change.clone()), Some(Change::Answers(at(31).ip())));
    assert_eq!(only(&told(&mut state, primary(), 31, 3)), Vec::<Vec<_>>::new());
    // Its name leaves the address that was judged: nothing is known of the rest.
    state.set_addresses(DB1, &[at(32).ip()], None, second(5));
    assert_eq!((reason(&state, DB1), used(&mut state)), (Reason::Unproven { kept: true }, vec![at(32)]));
}

#[test]
fn where_all_take_writes_sessions_stay_until_the_other_address_is_no_accident() {
    let galera = Some(crate::settings::Galera { donors: false });
    let kind = CheckKind::Mysql(MysqlCheck { role: Role::Primary, galera, ..MysqlCheck::new("vipd") });
    let mut state = of_two(Check::new(kind));
    told(&mut state, primary(), 32, 1);
    assert_eq!(only(&told(&mut state, primary(), 31, 2)), [[at(31), at(32)]]);
    assert_eq!(only(&told(&mut state, primary(), 31, 3)), Vec::<Vec<_>>::new());
    assert_eq!(only(&told(&mut state, primary(), 31, 4)), [[at(31)]], "three answers, as `fall`");
}

#[test]
fn an_address_that_is_of_another_role_demotes_nobody() {
    let mut state = of_two(check(Role::Primary, None));
    told(&mut state, primary(), 31, 1);
    let changes = told(&mut state, replica(0), 32, 2);
    assert_eq!(changes.close, [], "it is another server, and the first is not heard of");
    assert_eq!(word(&state, DB1), State::Down);
}

#[test]
fn an_answer_from_where_a_server_is_not_says_nothing_of_it() {
    let mut state = of_two(check(Role::Any, None));
    told(&mut state, primary(), 31, 1);
    state.build();
    let changes = told(
        &mut state,
        Probe::Answered(Observation { unready: Some("x".into()), ..Observation::default() }),
        33,
        2,
    );
    assert_eq!((changes, word(&state, DB1)), (Changes::default(), State::Up));
    assert_eq!(state.status().next().map(|s| s.checks.total), Some(1));
}
