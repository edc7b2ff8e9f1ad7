//! What the servers behind a node make it say and do.

use super::*;
use crate::health::{Admin, Why};
use crate::probe::Connections;
use crate::settings::{CheckKind, MysqlCheck, OnDemote, Role};
use crate::wire::peer::Incumbent;
use std::net::SocketAddr;

const DB1: ServerKey = ServerKey { pool: 0, server: 0 };
const DB2: ServerKey = ServerKey { pool: 0, server: 1 };

/// A pool of two servers, of which `change` may have changed the settings.
fn two(role: Role, change: impl FnOnce(&mut Pool)) -> Node {
    let server = |n: u8| Server::new(format!("db{n}"), Host::Address(address(20 + n)), 3306);
    let mut pool = Pool::new("primary", vec![server(1), server(2)]);
    let kind = CheckKind::Mysql(MysqlCheck { role, ..MysqlCheck::new("vipd") });
    pool.check = Some(Check { rise: 1, fall: 2, ..Check::new(kind) });
    change(&mut pool);
    let mut settings = settings();
    settings.pools = vec![pool];
    let mut node = node(settings);
    // Else it would wait for the other's word on who is primary.
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(0));
    drain(&mut node);
    node
}

fn says(node: &mut Node, server: ServerKey, observation: Observation, now: Time) -> Vec<Output> {
    node.handle(Input::Probe { server, probe: Probe::Answered(observation), checked: Checked::at(now) }, now);
    drain(node)
}

fn role(role: crate::probe::ObservedRole) -> Observation {
    Observation { role: Some(role), ..Observation::default() }
}

fn fails(node: &mut Node, server: ServerKey, now: Time) -> Vec<Output> {
    let probe = Probe::Failed("refused".into());
    node.handle(Input::Probe { server, probe, checked: Checked::at(now) }, now);
    drain(node)
}

/// Ticks whenever it is due, and gives the times at which `wanted` came out.
fn when(node: &mut Node, until: Time, wanted: fn(&Output) -> bool) -> Vec<Time> {
    let mut times = vec![];
    while let Some(now) = node.next_deadline().filter(|at| *at <= until) {
        node.handle(Input::Tick, now);
        times.extend(obey(node, now).iter().filter(|o| wanted(o)).map(|_| now));
    }
    times
}

#[test]
fn the_last_usable_server_is_not_taken_out_silently() {
    let warning =
        Ok(Some("that was the last usable server of pool primary: its connections are refused".into()));
    for take_out in [
        (|node: &mut Node, server: &str| node.set_admin("primary", server, Admin::Drain, at(9)))
            as fn(&mut Node, &str) -> Result<Option<String>, String>,
        |node, server| node.set_admin("primary", server, Admin::Maint, at(9)),
        |node, server| node.set_weight("primary", server, Some(0), at(9)),
    ] {
        let mut node = two(Role::Any, |_| ());
        says(&mut node, DB1, Observation::default(), at(1));
        says(&mut node, DB2, Observation::default(), at(2));
        assert_eq!(take_out(&mut node, "db1"), Ok(None), "another is left");
        assert_eq!(take_out(&mut node, "db2"), warning);
        assert_eq!(take_out(&mut node, "db2"), Ok(None), "it was out already");
        let why = take_out(&mut node, "db9").expect_err("refused");
        assert!(why.contains("has the servers db1, db2"), "{why}");
    }
}

/// What runs on the primary writes: no other server takes over beside it.
#[test]
fn who_drains_the_primary_hears_that_writes_wait_for_it_and_what_to_do() {
    use crate::probe::ObservedRole::{Primary, Replica};
    type Order = fn(&mut Node) -> Result<Option<String>, String>;
    let orders: [Order; 2] = [
        |node| node.set_admin("primary", "db1", Admin::Drain, at(9)),
        |node| node.set_weight("primary", "db1", Some(0), at(9)),
    ];
    let usable = |node: &mut Node| node.pools.build().serves(0);
    for (second, next) in [
        (Replica, "let the next server that is writable take over"),
        (Primary, "let db2, which is writable too, take over"),
    ] {
        for order in orders {
            let mut node = two(Role::Primary, |_| ());
            says(&mut node, DB1, role(Primary), at(1));
            says(&mut node, DB2, role(second), at(2));
            let told = order(&mut node).expect("it is there").expect("a warning");
            for said in [
                "db1 stays the primary of pool primary",
                "its connections are refused until db1 takes new ones again, is read-only or does not answer",
                next,
                "vipctl server primary/db1 maint (it closes the sessions on db1)",
            ] {
                assert!(told.contains(said), "`{said}` is not in: {told}");
            }
            assert!(!usable(&mut node));
            // It is as it was said.
            assert_eq!(node.set_admin("primary", "db1", Admin::Maint, at(10)), Ok(None));
            assert_eq!(usable(&mut node), second == Primary, "maint lets the other take over");
            says(&mut node, DB2, role(Primary), at(11));
            assert!(usable(&mut node));
        }
    }
    // Until it is read-only.
    let mut node = two(Role::Primary, |_| ());
    says(&mut node, DB1, role(Primary), at(1));
    says(&mut node, DB2, role(Primary), at(2));
    assert!(node.set_admin("primary", "db1", Admin::Drain, at(3)).is_ok_and(|told| told.is_some()));
    says(&mut node, DB1, role(Replica), at(4));
    assert!(usable(&mut node));
}

#[test]
fn the_fallback_is_named_when_it_takes_over() {
    let server = |name: &str| Server::new(name, Host::Address(address(30)), 3306);
    let mut settings = settings();
    settings.pools = vec![
        Pool { fallback: Some(1), ..Pool::new("replicas", vec![server("r1")]) },
        Pool::new("primary", vec![server("db1")]),
    ];
    let mut node = node(settings);
    let told = node.set_admin("replicas", "r1", Admin::Drain, at(1));
    let expected =
        "that was the last usable server of pool replicas: its connections go to its fallback primary";
    assert_eq!(told, Ok(Some(expected.into())));
}

/// Workers tell pools apart by their generation: two that differ never share one.
#[test]
fn pools_that_were_shown_beforehand_have_a_generation_of_their_own() {
    let mut node = two(Role::Any, |_| ());
    says(&mut node, DB1, Observation::default(), at(1));
    let mut settings = node.settings().clone();
    settings.pools[0].servers[0].weight = 7;
    let shown = node.preview_pools(&settings.pools, at(2));
    node.reconfigure(settings, at(2));
    let built = |o: &Output| if let Output::Pools(pools) = o { Some(pools.generation()) } else { None };
    let built: Vec<_> = drain(&mut node).iter().filter_map(built).collect();
    assert!(!built.is_empty() && !built.contains(&shown.generation()), "{built:?}");
    // A file that was shown and not taken uses its own up, too.
    let settings = node.settings().clone();
    let shown = node.preview_pools(&settings.pools, at(3)).generation();
    let next = node.preview_pools(&settings.pools, at(3)).generation();
    assert!(next > shown, "{next} after {shown}");
}

#[test]
fn what_a_server_tells_and_what_clients_meet_goes_to_the_balancer_and_the_checks() {
    let mut node = two(Role::Any, |p| p.headroom = 10);
    let connections = Some(Connections { used: 40, max: 100 });
    let outputs = says(&mut node, DB1, Observation { connections, ..Observation::default() }, at(1));
    let rooms: Vec<_> = outputs
        .iter()
        .filter_map(|o| if let Output::Room { server, free } = o { Some((*server, *free)) } else { None })
        .collect();
    assert_eq!(rooms, [(DB1, Some(50))]);
    let (db1, db2) = (SocketAddr::new(address(21), 3306), SocketAddr::new(address(22), 3306));
    // What was met where its name does not lead (any more) says nothing of it.
    let elsewhere = Input::ConnectFailed { pool: "primary", server: "db1", place: db2, in_a_row: 9 };
    node.handle(elsewhere, at(2));
    assert!(drain(&mut node).is_empty());
    for _ in 0..100 {
        for (pool, place) in [("primary", db1), ("gone", db1), ("primary", db2)] {
            node.handle(Input::ConnectFailed { pool, server: "db1", place, in_a_row: 1 }, at(2));
        }
    }
    let hurried = |o: &Output| matches!(o, Output::Hurry { server: DB1 });
    assert_eq!(drain(&mut node).iter().filter(|o| hurried(o)).count(), 1);
    // With one failed check it is enough for `fall`.
    let told = events(fails(&mut node, DB1, at(3)));
    assert!(told.iter().any(|e| e.message.contains("db1: up -> down")), "{told:?}");
}

#[test]
fn a_server_that_this_host_cannot_check_keeps_its_state_and_a_person_is_told() {
    let mut node = two(Role::Any, |_| ());
    says(&mut node, DB1, Observation::default(), at(1));
    let mut unable = |now| {
        let probe = Probe::Unable("too many open files".into());
        node.handle(Input::Probe { server: DB1, probe, checked: Checked::at(now) }, now);
        drain(&mut node)
    };
    let outputs = unable(at(2));
    assert!(!outputs.iter().any(|o| matches!(o, Output::Pools(_) | Output::CloseServer { .. })));
    let told: Vec<_> = events(outputs).into_iter().map(|e| (e.level, e.message)).collect();
    let text = "server primary/db1: this host cannot check it: too many open files";
    assert_eq!(told, [(Level::Warn, text.to_owned())]);
    assert_eq!(events(unable(at(3))), []);
}

#[test]
fn a_slow_start_is_a_row_of_deadlines() {
    let mut node = two(Role::Any, |p| p.slow_start = Some(9 * SECOND));
    says(&mut node, DB1, Observation::default(), at(1));
    says(&mut node, DB2, Observation::default(), at(1));
    let pools = |o: &Output| matches!(o, Output::Pools(_));
    assert_eq!(when(&mut node, at(5_000), pools), [], "not at the start");
    fails(&mut node, DB2, at(6_000));
    fails(&mut node, DB2, at(7_000));
    says(&mut node, DB2, Observation::default(), at(8_000));
    let expected: Vec<Time> = (9..=17).map(|s| at(s * 1_000)).collect();
    assert_eq!(when(&mut node, at(60_000), pools), expected);
}

#[test]
fn sessions_on_a_demoted_primary_end_when_their_time_is_over() {
    use crate::probe::ObservedRole::{Primary, Replica};
    let mut node = two(Role::Primary, |p| p.on_demote = OnDemote::Drain(30 * SECOND));
    says(&mut node, DB1, role(Primary), at(1));
    says(&mut node, DB1, role(Replica), at(2_000));
    let close = |o: &Output| matches!(o, Output::CloseServer { server: DB1, why: Why::Demoted });
    assert_eq!(when(&mut node, at(90_000), close), [at(32_000)]);
}

#[test]
fn two_writable_servers_raise_an_alarm_that_names_both() {
    use crate::probe::ObservedRole::Primary;
    let mut node = two(Role::Primary, |_| ());
    says(&mut node, DB2, role(Primary), at(1));
    says(&mut node, DB1, role(crate::probe::ObservedRole::Replica), at(1));
    let told = events(says(&mut node, DB1, role(Primary), at(2)));
    let alarm = told.iter().find(|e| e.message.contains("conflict")).expect("an alarm");
    assert_eq!(alarm.level, Level::Warn);
    assert!(alarm.message.contains("db1") && alarm.message.contains("db2"), "{}", alarm.message);
    let incumbents: Vec<_> = node.servers().status().filter(|s| s.incumbent).map(|s| s.key).collect();
    assert_eq!(incumbents, [DB2]);
}

#[test]
fn two_nodes_follow_the_same_of_two_writable_servers() {
    use crate::probe::ObservedRole::Primary;
    let incumbents = |name: &str| {
        vec![Incumbent { pool: peer::pool_id("primary"), server: peer::server_id(name), epoch: 0 }]
    };
    let hello = |state, incumbents| {
        let vrid = NonZeroU8::new(100).unwrap_or(NonZeroU8::MIN);
        let groups = vec![GroupReport { vrid, state, priority: 150, serving: true, deposed: false }];
        let message = Message::Hello(Hello { groups, digests: vec![1, 2], incumbents, ..Hello::default() });
        Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message }.write()
    };
    let follows = |node: &Node| {
        let incumbent = node.servers().status().find(|s| s.incumbent);
        incumbent.map(|s| s.server.name.clone()).unwrap_or_default()
    };
    for (state, theirs, both_writable, expected) in [
        (State::Active, "db2", true, "db2"),
        (State::Backup, "db2", true, "db1"),
        (State::Active, "db2", false, "db1"),
        (State::Active, "db1", true, "db1"),
        (State::Active, "db9", true, "db1"),
    ] {
        let mut node = two(Role::Primary, |_| ());
        says(&mut node, DB1, role(Primary), at(1));
        if both_writable {
            says(&mut node, DB2, role(Primary), at(2));
        }
        peer_says(&mut node, &hello(state, incumbents(theirs)), at(3));
        assert_eq!(follows(&node), expected, "{state:?} says {theirs}, {both_writable}");
        let close = |o: &Output| matches!(o, Output::CloseServer { server: DB1, why: Why::Superseded });
        let closed = drain(&mut node).iter().any(close);
        assert_eq!(closed, expected == "db2", "what was written to is closed");
    }
    // What this node owns and follows counts more, if it comes before the other.
    let mut node = two(Role::Primary, |_| ());
    says(&mut node, DB1, role(Primary), at(1));
    says(&mut node, DB2, role(Primary), at(2));
    node.handle(Input::Tick, at(3_300));
    obey(&mut node, at(3_300));
    assert_eq!(node.group_status(at(3_300))[0].state, State::Active);
    peer_says(&mut node, &hello(State::Active, incumbents("db2")), at(3_400));
    assert_eq!(follows(&node), "db1");
    // And it says which it follows.
    node.handle(Input::Tick, at(9_000));
    let told = drain(&mut node).into_iter().any(|o| {
        let Output::Peer { bytes, .. } = o else { return false };
        let message = Envelope::parse(&bytes).map(|e| e.message);
        let expected = Incumbent { epoch: 1, ..incumbents("db1")[0] };
        matches!(message, Ok(Message::Hello(Hello { incumbents: told, .. })) if told == [expected])
    });
    assert!(told);
}
