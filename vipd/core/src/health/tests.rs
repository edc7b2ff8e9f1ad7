//! Tables of what follows from what.

mod changes;
mod clients;
mod file;
mod names;
mod others;
mod places;
mod slow_start;

use super::*;
use crate::pool::{Connection, NoServer, PickState, ServerKey};
use crate::probe::Checked;
use crate::settings::{Balance, CheckKind, Host, MysqlCheck, Pool, Server, TcpCheck};
use crate::time::Time;
use proptest::prelude::*;
use std::net::IpAddr;

const DB1: ServerKey = ServerKey { pool: 0, server: 0 };
const DB2: ServerKey = ServerKey { pool: 0, server: 1 };
const OTHER: ServerKey = ServerKey { pool: 1, server: 0 };

fn pool(name: &str, servers: &[&str], check: Option<Check>) -> Pool {
    let server = |(i, name): (usize, &&str)| {
        let host = Host::Address(IpAddr::from([10, 77, 0, 21 + i as u8]));
        Server { weight: 1, ..Server::new(*name, host, 3306) }
    };
    let servers = servers.iter().enumerate().map(server).collect();
    Pool { balance: Balance::First, check, retries: 2, ..Pool::new(name, servers) }
}

fn check(role: Role, max_lag: Option<u64>) -> Check {
    let max_lag = max_lag.map(Duration::from_secs);
    let kind = CheckKind::Mysql(MysqlCheck { role, max_lag, ..MysqlCheck::new("vipd") });
    Check::new(kind)
}

fn one(role: Role, max_lag: Option<u64>) -> PoolsState {
    PoolsState::new(vec![pool("p", &["db1", "db2"], Some(check(role, max_lag)))], Time::ZERO)
}

fn answer(role: ObservedRole, lag: Option<Lag>) -> Probe {
    Probe::Answered(Observation { role: Some(role), lag, ..Observation::default() })
}

fn primary() -> Probe {
    answer(ObservedRole::Primary, None)
}

fn replica(lag: u64) -> Probe {
    answer(ObservedRole::Replica, Some(Lag::Known(Duration::from_secs(lag))))
}

fn unknown_lag() -> Probe {
    answer(ObservedRole::Replica, Some(Lag::Unknown("connecting".into())))
}

fn failed() -> Probe {
    Probe::Failed("connection refused".into())
}

fn unable() -> Probe {
    Probe::Unable("too many open files".into())
}

fn second(n: u64) -> Time {
    Time::ZERO + Duration::from_secs(n)
}

fn reason(state: &PoolsState, key: ServerKey) -> Reason {
    state.status().find(|s| s.key == key).map_or(Reason::NotChecked, |s| s.reason.clone())
}

fn word(state: &PoolsState, key: ServerKey) -> State {
    reason(state, key).state()
}

/// The words after each of a server's probes.
fn words(state: &mut PoolsState, probes: impl IntoIterator<Item = Probe>) -> Vec<&'static str> {
    let mut observe = |p| {
        state.observe(DB1, p, Checked::at(Time::ZERO), Time::ZERO);
        word(state, DB1).as_str()
    };
    probes.into_iter().map(&mut observe).collect()
}

fn picked(state: &mut PoolsState, pool: usize) -> Result<ServerKey, NoServer> {
    let connection = Connection { client: IpAddr::from([10, 0, 0, 1]), random: 0, tried: &[] };
    state.build().pick(pool, &mut PickState::default(), &connection, &|_: ServerKey| 0).map(|p| p.key)
}

#[test]
fn every_answer_has_its_transition() {
    let up =
        |failures| Answers::Up { failures, error: if failures == 0 { "" } else { "e" }.into(), full: false };
    let full = || Answers::Up { failures: 1, error: "e".into(), full: true };
    let refusal = || Probe::Full("e".into());
    let down = |successes| Answers::Down { successes, cause: Cause::Failed("e".into()) };
    let success = || Probe::Answered(Observation::default());
    let failure = || Probe::Failed("e".into());
    let demands = Demands { fall: 3, ..Demands::of(&check(Role::Any, None)) };
    for (from, probe, to) in [
        (Answers::Unknown, success(), up(0)),
        (Answers::Unknown, failure(), down(0)),
        (up(0), success(), up(0)),
        (up(2), success(), up(0)),
        (up(0), failure(), up(1)),
        (up(1), failure(), up(2)),
        (up(2), failure(), down(0)),
        (down(0), failure(), down(0)),
        (down(1), failure(), down(0)),
        (down(0), success(), down(1)),
        (down(1), success(), up(0)),
        (Answers::Unknown, refusal(), down(0)),
        (down(1), refusal(), down(0)),
        (up(0), refusal(), full()),
        (up(2), refusal(), full()),
        (full(), refusal(), full()),
        (full(), failure(), up(2)),
        (full(), success(), up(0)),
        (Answers::Unknown, unable(), Answers::Unknown),
        (up(0), unable(), up(0)),
        (up(2), unable(), up(2)),
        (down(1), unable(), down(1)),
    ] {
        let mut answers = from.clone();
        answers.count(&probe, demands);
        assert_eq!(answers, to, "{from:?} and {probe:?}");
    }
}

#[test]
fn every_role_has_its_verdict() {
    use ObservedRole::{Primary, Replica};
    let some = Some(Lag::Known(Duration::ZERO));
    for (wanted, has, lag, expected) in [
        (Role::Primary, Some(Primary), None, "up: its check succeeds"),
        (Role::Primary, Some(Primary), some.clone(), "up: its check succeeds"),
        (Role::Primary, Some(Replica), some.clone(), "down: it is a replica, its pool wants a primary"),
        (Role::Primary, None, None, "down: its check cannot tell its role"),
        (Role::Replica, Some(Primary), None, "down: it is a primary, its pool wants a replica"),
        (Role::Replica, Some(Replica), some.clone(), "up: its check succeeds"),
        (Role::Replica, Some(Replica), None, "down: it is read-only, but does not replicate"),
        (Role::Replica, None, None, "down: its check cannot tell its role"),
        (Role::Any, Some(Primary), None, "up: its check succeeds"),
        (Role::Any, Some(Replica), None, "up: its check succeeds"),
        (Role::Any, None, None, "up: its check succeeds"),
    ] {
        let mut state = one(wanted, None);
        state.observe(
            DB1,
            Probe::Answered(Observation { role: has, lag, ..Observation::default() }),
            Checked::at(Time::ZERO),
            Time::ZERO,
        );
        let reason = reason(&state, DB1);
        assert_eq!(format!("{}: {reason}", reason.state()), expected, "{wanted:?} of {has:?}");
    }
}

/// A member's cluster keeps it up to date; what tells a lag all the same counts.
#[test]
fn a_member_of_a_cluster_needs_no_channel() {
    let galera = Some(crate::settings::Galera { donors: false });
    let of = |role, max_lag| MysqlCheck { role, max_lag, ..MysqlCheck::new("vipd") };
    for max_lag in [None, Some(Duration::from_secs(10))] {
        for role in [Role::Replica, Role::Any] {
            let group = MysqlCheck { group_replication: true, ..of(role, max_lag) };
            let galera = MysqlCheck { galera, ..of(role, max_lag) };
            for check in [group, galera].map(|kind| Check::new(CheckKind::Mysql(kind))) {
                let mut state = PoolsState::new(vec![pool("p", &["db1", "db2"], Some(check))], Time::ZERO);
                let member = || answer(ObservedRole::Replica, None);
                state.observe(DB2, member(), Checked::at(Time::ZERO), Time::ZERO);
                // For a while it has a channel of its own, which lags, and then is not known to.
                let lags = if max_lag.is_some() { "down" } else { "up" };
                let seen = words(&mut state, [member(), replica(60), unknown_lag(), member()]);
                assert_eq!(seen, ["up", lags, lags, "up"], "{role:?} {max_lag:?}");
                assert_eq!(reason(&state, DB1), Reason::Healthy);
            }
        }
    }
}

#[test]
fn rise_and_fall_are_counted_and_told() {
    let mut state = one(Role::Any, None);
    let got = words(&mut state, [primary(), failed(), failed(), failed(), primary(), primary()]);
    assert_eq!(got, ["up", "up", "up", "down", "down", "up"]);
    state.observe(DB1, failed(), Checked::at(Time::ZERO), Time::ZERO);
    assert_eq!(reason(&state, DB1).to_string(), "1 of 3 checks in a row failed: connection refused");
    let mut state = one(Role::Any, None);
    words(&mut state, [failed(), primary()]);
    let told = "its check failed: connection refused; 1 of 2 succeeded since";
    assert_eq!(reason(&state, DB1).to_string(), told);
}

#[test]
fn nothing_is_used_before_it_answered() {
    let mut state = one(Role::Any, None);
    assert_eq!(word(&state, DB1), State::Unknown);
    assert_eq!(picked(&mut state, 0), Err(NoServer::NoneUsable));
    let changes = state.observe(DB1, primary(), Checked::at(second(1)), second(1)).unwrap_or_default();
    assert!(changes.pools);
    assert_eq!(
        changes.events.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["server p/db1: unknown -> up: its check succeeds"]
    );
    assert_eq!(picked(&mut state, 0), Ok(DB1));
    assert_eq!(
        state.observe(DB1, primary(), Checked::at(second(2)), second(2)),
        None,
        "no news is no change"
    );
    assert_eq!(state.status().next().map(|s| s.since), Some(second(1)));
}

#[test]
fn a_pool_without_check_is_up() {
    let mut state = PoolsState::new(vec![pool("p", &["db1"], None)], Time::ZERO);
    assert_eq!(word(&state, DB1), State::Up);
    assert_eq!(picked(&mut state, 0), Ok(DB1));
}

#[test]
fn lag_has_hysteresis_and_the_unknown_holds() {
    let lag = |n| if n == 99 { unknown_lag() } else { replica(n) };
    // db2 is fresh throughout, so that nothing has to be kept.
    let run = |lags: &[u64]| {
        let mut state = one(Role::Replica, Some(10));
        state.observe(DB2, replica(0), Checked::at(Time::ZERO), Time::ZERO);
        words(&mut state, lags.iter().map(|n| lag(*n)))
    };
    assert_eq!(run(&[10, 11, 10, 9, 8, 9, 10]), ["up", "down", "down", "down", "up", "up", "up"]);
    assert_eq!(run(&[99, 9]), ["down", "up"], "unknown from the start");
    assert_eq!(run(&[0, 99, 99, 11, 99, 8, 99]), ["up", "up", "up", "down", "down", "up", "up"]);
    let mut state = one(Role::Replica, Some(10));
    state.observe(DB2, replica(0), Checked::at(Time::ZERO), Time::ZERO);
    let returned = words(
        &mut state,
        [replica(0), failed(), failed(), failed(), unknown_lag(), unknown_lag(), unknown_lag(), replica(0)],
    );
    assert_eq!(
        returned,
        ["up", "up", "up", "down", "down", "down", "down", "up"],
        "unknown re-enables nothing"
    );
    let lagging = state.observe(DB1, replica(60), Checked::at(Time::ZERO), Time::ZERO).unwrap_or_default();
    assert_eq!(lagging.close, [], "lag closes no sessions");
}

#[test]
fn a_role_that_is_not_told_is_held() {
    let mut state = one(Role::Replica, Some(10));
    state.observe(DB2, replica(0), Checked::at(Time::ZERO), Time::ZERO);
    let nothing = || Probe::Answered(Observation::default());
    assert_eq!(
        words(&mut state, [replica(0), nothing(), primary(), nothing()]),
        ["up", "up", "down", "down"]
    );
}

#[test]
fn the_freshest_is_kept_and_then_the_fallback() {
    let mut readers = pool("p", &["db1", "db2"], Some(check(Role::Replica, Some(10))));
    readers.fallback = Some(1);
    let mut state = PoolsState::new(vec![readers, pool("q", &["db1"], None)], Time::ZERO);
    state.observe(DB1, replica(0), Checked::at(Time::ZERO), Time::ZERO);
    state.observe(DB2, replica(0), Checked::at(Time::ZERO), Time::ZERO);
    state.observe(DB1, replica(100), Checked::at(Time::ZERO), Time::ZERO);
    assert_eq!(word(&state, DB1), State::Down, "db2 is fresh");
    let changes = state.observe(DB2, replica(50), Checked::at(Time::ZERO), Time::ZERO).unwrap_or_default();
    let told = "server p/db2: still up: it lags 50s, max-lag is 10s, but no server of the pool is fresher";
    assert_eq!(changes.events.iter().map(ToString::to_string).collect::<Vec<_>>(), [told]);
    assert_eq!(picked(&mut state, 0), Ok(DB2), "before the fallback");
    state.observe(DB1, replica(45), Checked::at(Time::ZERO), Time::ZERO);
    assert_eq!(picked(&mut state, 0), Ok(DB2), "a little fresher is no reason to move");
    state.observe(DB1, replica(39), Checked::at(Time::ZERO), Time::ZERO);
    assert_eq!(picked(&mut state, 0), Ok(DB1), "much fresher is");
    state.observe(DB1, unknown_lag(), Checked::at(Time::ZERO), Time::ZERO);
    assert_eq!(picked(&mut state, 0), Ok(DB1), "unknown holds");
    for key in [DB1, DB2] {
        (0..3).for_each(|_| drop(state.observe(key, failed(), Checked::at(Time::ZERO), Time::ZERO)));
    }
    assert_eq!(picked(&mut state, 0), Ok(OTHER), "the last resort");
}

/// Servers tell their lag in seconds: of two that tell the same, the one that
/// began to lag last is the fresher one.
#[test]
fn of_two_that_lag_alike_the_last_in_use_is_kept() {
    let mut state = one(Role::Replica, Some(10));
    state.observe(DB1, replica(0), Checked::at(Time::ZERO), Time::ZERO);
    state.observe(DB2, replica(0), Checked::at(Time::ZERO), Time::ZERO);
    state.observe(DB1, replica(11), Checked::at(Time::ZERO), Time::ZERO);
    assert_eq!(picked(&mut state, 0), Ok(DB2));
    state.observe(DB2, replica(11), Checked::at(Time::ZERO), Time::ZERO);
    assert_eq!(picked(&mut state, 0), Ok(DB2), "db1 is no fresher");
    state.observe(DB1, replica(12), Checked::at(Time::ZERO), Time::ZERO);
    state.observe(DB2, replica(12), Checked::at(Time::ZERO), Time::ZERO);
    assert_eq!(picked(&mut state, 0), Ok(DB2));
    // One that was in use and is far behind by now is left for a fresher one.
    state.observe(DB2, replica(0), Checked::at(Time::ZERO), Time::ZERO);
    state.observe(DB2, replica(100), Checked::at(Time::ZERO), Time::ZERO);
    assert_eq!(picked(&mut state, 0), Ok(DB1));
}

#[test]
fn a_demoted_primary_is_left_at_once_and_its_sessions_closed() {
    let mut state = one(Role::Primary, None);
    state.observe(DB1, primary(), Checked::at(second(0)), second(0));
    state.observe(DB2, replica(0), Checked::at(second(0)), second(0));
    assert_eq!(picked(&mut state, 0), Ok(DB1));
    let changes = state.observe(DB1, replica(0), Checked::at(second(1)), second(1)).unwrap_or_default();
    assert_eq!(changes.close, [Close { key: DB1, why: Why::Demoted }]);
    assert_eq!(
        changes.events.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "server p/db1: was a primary, is a replica",
            "server p/db1: up -> down: it is a replica, its pool wants a primary"
        ]
    );
    assert_eq!(picked(&mut state, 0), Err(NoServer::NoneUsable));
    let changes = state.observe(DB2, primary(), Checked::at(second(2)), second(2)).unwrap_or_default();
    assert_eq!(changes.close, [], "it was closed already");
    assert_eq!(picked(&mut state, 0), Ok(DB2));
}

#[test]
fn of_two_writable_servers_the_incumbent_stays() {
    let mut state = one(Role::Primary, None);
    state.observe(DB2, primary(), Checked::at(Time::ZERO), Time::ZERO);
    let changes = state.observe(DB1, primary(), Checked::at(Time::ZERO), Time::ZERO).unwrap_or_default();
    let told = "server p/db1: unknown -> down: conflict: db2 is also writable, and is the one in use";
    assert_eq!(changes.events.iter().map(ToString::to_string).collect::<Vec<_>>(), [told]);
    assert_eq!(picked(&mut state, 0), Ok(DB2));

    // Drained, it still is the one that is written to; in maintenance it is not.
    state.set_admin(DB2, Admin::Drain, Time::ZERO);
    assert_eq!(picked(&mut state, 0), Err(NoServer::NoneUsable));
    let changes = state.set_admin(DB2, Admin::Maint, Time::ZERO).unwrap_or_default();
    assert_eq!(changes.close, [Close { key: DB2, why: Why::Maintenance }]);
    assert_eq!(picked(&mut state, 0), Ok(DB1));
    state.set_admin(DB2, Admin::Ready, Time::ZERO);
    assert_eq!(reason(&state, DB2), Reason::Conflict { with: "db1".into() });
}

/// In a Galera cluster all are writable, and that is no conflict.
#[test]
fn of_a_cluster_that_writes_anywhere_one_writes_and_the_others_stand_by() {
    let galera = Some(crate::settings::Galera { donors: false });
    let kind = CheckKind::Mysql(MysqlCheck { role: Role::Primary, galera, ..MysqlCheck::new("vipd") });
    let mut state = PoolsState::new(vec![pool("p", &["db1", "db2"], Some(Check::new(kind)))], Time::ZERO);
    state.observe(DB1, primary(), Checked::at(Time::ZERO), Time::ZERO);
    state.observe(DB2, primary(), Checked::at(Time::ZERO), Time::ZERO);
    assert_eq!(reason(&state, DB2), Reason::Standby { of: "db1".into() });
    assert!(!reason(&state, DB2).is_trouble());
    let unready = Observation {
        role: Some(ObservedRole::Primary),
        unready: Some("wsrep_ready is OFF".into()),
        ..Observation::default()
    };
    state.observe(DB1, Probe::Answered(unready), Checked::at(second(1)), second(1));
    assert_eq!(picked(&mut state, 0), Ok(DB2));
    // The writer does not flip back when the first one returns.
    (2..5).for_each(|n| drop(state.observe(DB1, primary(), Checked::at(second(n)), second(n))));
    assert_eq!(picked(&mut state, 0), Ok(DB2));
    assert_eq!(reason(&state, DB1), Reason::Standby { of: "db2".into() });
}

#[test]
fn a_silent_primary_keeps_its_sessions_until_it_is_superseded() {
    let mut state = one(Role::Primary, None);
    state.observe(DB1, primary(), Checked::at(Time::ZERO), Time::ZERO);
    state.observe(DB2, replica(0), Checked::at(Time::ZERO), Time::ZERO);
    for n in 0..3 {
        let changes = state.observe(DB1, failed(), Checked::at(Time::ZERO), Time::ZERO).unwrap_or_default();
        assert_eq!(changes.close, [], "failure {n}");
    }
    let changes = state.observe(DB2, primary(), Checked::at(Time::ZERO), Time::ZERO).unwrap_or_default();
    assert_eq!(changes.close, [Close { key: DB1, why: Why::Superseded }]);
    // It comes back writable, and does not flip the writer back.
    (0..2).for_each(|_| drop(state.observe(DB1, primary(), Checked::at(Time::ZERO), Time::ZERO)));
    assert_eq!(picked(&mut state, 0), Ok(DB2));
    assert_eq!(reason(&state, DB1), Reason::Conflict { with: "db2".into() });
}

#[test]
fn administration_stands_above_health() {
    for (admin, probe, expected) in [
        (Admin::Ready, primary(), State::Up),
        (Admin::Ready, failed(), State::Down),
        (Admin::Drain, primary(), State::Drain),
        (Admin::Drain, failed(), State::Down),
        (Admin::Maint, primary(), State::Maint),
        (Admin::Maint, failed(), State::Maint),
    ] {
        let mut state = one(Role::Any, None);
        state.set_admin(DB1, admin, Time::ZERO);
        state.observe(DB1, probe.clone(), Checked::at(Time::ZERO), Time::ZERO);
        assert_eq!(word(&state, DB1), expected, "{admin:?} {probe:?}");
        assert_eq!(picked(&mut state, 0).is_ok(), expected == State::Up);
    }
    let mut state = one(Role::Any, None);
    assert_eq!(state.set_admin(DB1, Admin::Ready, Time::ZERO).map(|c| c.events.len()), Some(0));
    state.build();
    assert_eq!(state.set_admin(DB1, Admin::Ready, Time::ZERO), None, "asked twice");
}

#[test]
fn names_are_resolved_and_the_last_good_answer_stays() {
    let mut settings = pool("p", &["db1"], None);
    settings.servers[0].host = Host::Name("db1.internal".into());
    let mut state = PoolsState::new(vec![settings], Time::ZERO);
    assert_eq!(reason(&state, DB1), Reason::Unresolved { problem: None });
    state.build();
    assert_eq!(state.set_addresses(DB1, &[], None, Time::ZERO), None);
    let (a, b) = (IpAddr::from([10, 77, 0, 1]), IpAddr::from([10, 77, 0, 2]));
    assert!(state.set_addresses(DB1, &[b, a, b], None, Time::ZERO).is_some_and(|c| c.pools));
    assert_eq!(picked(&mut state, 0), Ok(DB1));
    assert_eq!(state.set_addresses(DB1, &[a, b], None, Time::ZERO), None, "the same, in another order");
    assert_eq!(state.set_addresses(DB1, &[], None, Time::ZERO), None);
    let moved = state.set_addresses(DB1, &[b], None, Time::ZERO).unwrap_or_default();
    assert_eq!(moved.events.first().map(|e| e.change.clone()), Some(Change::Addresses(vec![b])));
    assert_eq!(state.build().server(DB1).map(|s| s.addresses().len()), Some(1));
}

#[test]
fn a_reload_keeps_what_it_does_not_change() {
    let settings = pool("p", &["db1", "db2"], Some(check(Role::Any, None)));
    let mut state = PoolsState::new(vec![settings.clone()], Time::ZERO);
    state.observe(DB1, primary(), Checked::at(second(1)), second(1));
    state.observe(DB2, replica(20), Checked::at(second(1)), second(1));
    state.set_admin(DB2, Admin::Drain, second(1));
    // The order changes, a pool comes in front, db2 goes to another port, db1 must be a primary.
    let mut changed = settings.clone();
    changed.check = Some(check(Role::Primary, None));
    changed.servers.reverse();
    changed.servers[0].port = 3307;
    let changes = state.reconfigure(vec![pool("new", &["x"], None), changed], second(2));
    assert!(changes.pools);
    let (db2, db1) = (ServerKey { pool: 1, server: 0 }, ServerKey { pool: 1, server: 1 });
    assert_eq!(word(&state, db1), State::Up);
    assert_eq!(state.status().find(|s| s.key == db1).map(|s| s.since), Some(second(1)));
    assert_eq!(word(&state, db2), State::Unknown, "what is at another port is another server");
    assert_eq!(state.status().find(|s| s.key == db2).map(|s| s.admin), Some(Admin::Drain));
    assert_eq!(state.find("p", "db1"), Some(db1));
    assert_eq!(state.find("p", "db9"), None);
    assert_eq!(picked(&mut state, 1), Ok(db1));

    // Another limit is applied to what is known already.
    let mut state = PoolsState::new(vec![settings.clone()], Time::ZERO);
    state.observe(DB1, replica(20), Checked::at(Time::ZERO), Time::ZERO);
    state.observe(DB2, replica(0), Checked::at(Time::ZERO), Time::ZERO);
    let limited = pool("p", &["db1", "db2"], Some(check(Role::Any, Some(10))));
    state.reconfigure(vec![limited], Time::ZERO);
    assert_eq!((word(&state, DB1), word(&state, DB2)), (State::Down, State::Up));
}

#[test]
fn pools_are_built_anew_only_when_they_changed() {
    let settings = vec![pool("p", &["db1", "db2"], Some(check(Role::Any, None))), pool("q", &["x"], None)];
    let mut state = PoolsState::new(settings, Time::ZERO);
    let first = state.build();
    assert!(std::sync::Arc::ptr_eq(&first, &state.build()));
    state.observe(DB1, failed(), Checked::at(Time::ZERO), Time::ZERO);
    assert!(std::sync::Arc::ptr_eq(&first, &state.build()), "unusable before and after");
    state.observe(DB2, primary(), Checked::at(Time::ZERO), Time::ZERO);
    let second = state.build();
    assert!(second.generation() > first.generation());
    assert!(std::sync::Arc::ptr_eq(&first.pools()[1], &second.pools()[1]));
}

fn any_probe() -> impl Strategy<Value = Probe> {
    prop_oneof![
        Just(failed()),
        Just(primary()),
        (0_u64..30).prop_map(replica),
        Just(unknown_lag()),
        Just(unable()),
        Just(Probe::Answered(Observation::default())),
    ]
}

fn any_role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Primary), Just(Role::Replica), Just(Role::Any)]
}

proptest! {
    /// Whatever the checks say: no split writes, no replica enabled by a lag
    /// that nobody knows, and no pool emptied by slowness alone.
    #[test]
    fn what_always_holds(
        role in any_role(),
        max_lag in prop::option::of(Just(10_u64)),
        steps in prop::collection::vec((0_usize..3, any_probe()), 1..60),
    ) {
        let settings = pool("p", &["db1", "db2", "db3"], Some(check(role, max_lag)));
        let mut state = PoolsState::new(vec![settings], Time::ZERO);
        for (server, probe) in steps {
            let key = ServerKey { pool: 0, server };
            let before = word(&state, key);
            let lag_unknown = probe == unknown_lag();
            let changes = state.observe(key, probe, Checked::at(Time::ZERO), Time::ZERO);
            let after = word(&state, key);
            let up = state.status().filter(|s| s.reason.state() == State::Up).count();
            let slow = state
                .status()
                .filter(|s| matches!((s.reason, s.lag), (Reason::Lagging { .. }, Some(Lag::Known(_)))))
                .count();
            prop_assert!(role != Role::Primary || up <= 1, "split writes");
            prop_assert!(up > 0 || slow == 0, "empty because of slowness alone");
            if lag_unknown && max_lag.is_some() && role == Role::Replica {
                prop_assert!(before == State::Up || after != State::Up, "enabled by an unknown lag");
            }
            // New pools are announced exactly when there are some.
            let served = picked(&mut state, 0).is_ok();
            prop_assert_eq!(served, up > 0);
            if before != after {
                prop_assert!(changes.is_some_and(|c| c.pools || before != State::Up && after != State::Up));
            }
        }
    }

    /// Whatever checks, clients and people do: a word is as old as it is told
    /// to be, and clients' connections that fail empty no pool.
    #[test]
    fn a_word_has_its_own_since_and_clients_empty_no_pool(
        role in any_role(),
        steps in prop::collection::vec((0_usize..3, any_step(), 0_u64..15), 1..80),
    ) {
        let settings = pool("p", &["db1", "db2", "db3"], Some(check(role, None)));
        let mut state = PoolsState::new(vec![settings], Time::ZERO);
        let mut now = Time::ZERO;
        for (server, step, seconds) in steps {
            now += Duration::from_secs(seconds);
            let key = ServerKey { pool: 0, server };
            let before: Vec<_> = state.status().map(|s| (s.reason.state(), s.since)).collect();
            match step.clone() {
                Step::Probe(probe) => drop(state.observe(key, probe, Checked::at(now), now)),
                Step::Client(in_a_row) => drop(state.connect_failed(key, in_a_row, now)),
                Step::Admin(admin) => drop(state.set_admin(key, admin, now)),
                Step::Tick => drop(state.tick(now)),
            }
            for (status, (word, since)) in state.status().zip(&before) {
                let expected = if status.reason.state() == *word { *since } else { now };
                prop_assert_eq!(status.since, expected, "{:?} after {:?}", status.reason, &step);
            }
            if state.status().any(|s| matches!(s.reason, Reason::ClientsFail { kept: false, .. })) {
                prop_assert!(picked(&mut state, 0).is_ok(), "empty because of clients");
            }
            if matches!(step, Step::Tick) {
                prop_assert!(state.deadline().is_none_or(|due| due > now), "a deadline in the past");
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Probe(Probe),
    Client(u32),
    Admin(Admin),
    Tick,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any_probe().prop_map(Step::Probe),
        4 => (1_u32..6).prop_map(Step::Client),
        1 => prop_oneof![Just(Admin::Ready), Just(Admin::Drain), Just(Admin::Maint)].prop_map(Step::Admin),
        1 => Just(Step::Tick),
    ]
}
