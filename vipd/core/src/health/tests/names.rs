//! What look-ups of names do to a server.

use super::changes::{CLIENT, see, told, two};
use super::*;
use crate::settings::Vanished;

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
