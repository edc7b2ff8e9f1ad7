//! Weights, and how a server that comes back grows to its own.

use super::changes::{CLIENT, see, two};
use super::*;
use std::sync::Arc;

/// Weights of the servers of the first pool, as the balancer gets them.
fn weights(state: &mut PoolsState) -> Vec<u16> {
    let pools = state.build();
    (0..2).map(|server| pools.server(ServerKey { pool: 0, server }).map_or(0, |s| s.weight())).collect()
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
