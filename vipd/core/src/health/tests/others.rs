//! What other nodes and replicas say, and what it changes.

use super::changes::see;
use super::*;
use crate::probe::Upstream;
use crate::settings::OnDown;
use crate::wire::peer::{Among, Incumbent, MAX_VERDICTS, Verdict, Word, pool_id, server_id};

/// Three servers of a pool that wants the primary and closes what is down.
fn three() -> PoolsState {
    let mut settings = pool("p", &["db1", "db2", "db3"], Some(check(Role::Primary, None)));
    settings.on_down = OnDown::Close;
    PoolsState::new(vec![settings], Time::ZERO)
}

fn verdict(server: &str, word: Word) -> Verdict {
    Verdict { pool: pool_id("p"), server: server_id(server), word }
}

fn px2_says(state: &mut PoolsState, verdicts: &[Verdict], at: u64) -> Changes {
    state.hear(1, "px2", verdicts, Among::default(), second(at))
}

/// What its next hello says, where one holds everything.
fn told(state: &PoolsState, at: u64) -> Vec<Verdict> {
    let (verdicts, among) = state.verdicts(&mut (0, 0), second(at));
    assert_eq!(among, Among::default());
    verdicts
}

fn incumbent(state: &PoolsState) -> Option<String> {
    state.status().find(|s| s.incumbent).map(|s| s.server.name.clone())
}

fn fail(state: &mut PoolsState, key: ServerKey, at: u64) -> Changes {
    let mut all = Changes::default();
    for n in 0..3 {
        all.extend(see(state, key, failed(), at + n));
    }
    all
}

#[test]
fn a_server_that_another_node_reaches_is_unreachable_from_here_and_not_down() {
    let mut state = three();
    see(&mut state, DB1, primary(), 1);
    px2_says(&mut state, &[verdict("db1", Word::Primary)], 1);
    let changes = fail(&mut state, DB1, 2);
    assert_eq!(changes.close, [], "what runs on it goes on");
    let told: Vec<_> = changes.events.iter().map(ToString::to_string).collect();
    let why = "unreachable from this node, its check failed: connection refused; px2 reaches it";
    assert_eq!(told, [format!("server p/db1: up -> unreachable: {why}")]);
    assert!(!state.serves(0), "no connection goes there from here");
    // Now nobody does.
    let changes = px2_says(&mut state, &[verdict("db1", Word::Failed)], 9);
    assert_eq!(word(&state, DB1), State::Down);
    assert_eq!(changes.close, [Close { key: DB1, why: Why::Down }]);
    let from: Vec<_> = state.status().next().map(|s| s.fails_from).unwrap_or_default();
    assert_eq!(from, ["px2"]);
}

#[test]
fn a_node_that_is_gone_reaches_nothing() {
    let mut state = three();
    see(&mut state, DB1, primary(), 1);
    px2_says(&mut state, &[verdict("db1", Word::Primary)], 1);
    fail(&mut state, DB1, 2);
    let changes = state.forget(1, second(9));
    assert_eq!(word(&state, DB1), State::Down);
    assert_eq!(changes.close, [Close { key: DB1, why: Why::Down }]);
    assert_eq!(state.forget(1, second(9)), Changes::default());
}

#[test]
fn a_primary_that_only_this_node_cannot_see_keeps_the_writes() {
    for (theirs, expected, words) in [
        (Some(Word::Primary), None, ["unreachable", "down"]),
        // It was demoted, or nobody sees it: whoever is writable takes over.
        (Some(Word::Replica), Some("db2"), ["unreachable", "up"]),
        (Some(Word::Failed), Some("db2"), ["down", "up"]),
        (None, Some("db2"), ["down", "up"]),
    ] {
        let mut state = three();
        see(&mut state, DB1, primary(), 1);
        see(&mut state, DB2, replica(0), 1);
        if let Some(word) = theirs {
            px2_says(&mut state, &[verdict("db1", word)], 1);
        }
        fail(&mut state, DB1, 2);
        see(&mut state, DB2, primary(), 9);
        assert_eq!(incumbent(&state).as_deref(), expected, "{theirs:?}");
        assert_eq!([DB1, DB2].map(|key| word(&state, key).as_str()), words, "{theirs:?}");
        // A reload forgets none of it.
        let mut settings = pool("p", &["db1", "db2", "db3"], Some(check(Role::Primary, None)));
        settings.retries = 9;
        state.reconfigure(vec![settings], second(10));
        assert_eq!(incumbent(&state).as_deref(), expected, "{theirs:?}, reloaded");
    }
}

/// Its last check may be older than the promotion: the next one decides.
#[test]
fn a_promoted_server_waits_until_no_node_sees_the_old_primary_any_more() {
    let mut state = three();
    see(&mut state, DB1, primary(), 1);
    see(&mut state, DB2, replica(0), 1);
    px2_says(&mut state, &[verdict("db1", Word::Primary)], 1);
    see(&mut state, DB1, failed(), 2);
    see(&mut state, DB2, primary(), 3);
    assert_eq!(incumbent(&state).as_deref(), Some("db1"), "px2 still sees it");
    let changes = px2_says(&mut state, &[verdict("db1", Word::Failed)], 4);
    assert_eq!(incumbent(&state).as_deref(), Some("db2"));
    assert_eq!(changes.close, [Close { key: DB1, why: Why::Superseded }]);
}

#[test]
fn a_node_that_starts_chooses_no_primary_before_it_has_heard_the_others() {
    let mut state = three();
    state.listen();
    see(&mut state, DB2, primary(), 1);
    assert_eq!((incumbent(&state), word(&state, DB2)), (None, State::Unknown));
    // They follow one that it cannot see: what it sees is the wrong one.
    let theirs = Incumbent { pool: pool_id("p"), server: server_id("db1"), epoch: 7 };
    px2_says(&mut state, &[verdict("db1", Word::Primary)], 2);
    state.adopt(theirs, second(2));
    state.decide(second(2));
    assert_eq!((incumbent(&state), word(&state, DB2)), (None, State::Down));
    assert!(matches!(reason(&state, DB2), Reason::Conflict { with } if with == "db1"));
    fail(&mut state, DB1, 3);
    assert_eq!((word(&state, DB1), word(&state, DB2)), (State::Unreachable, State::Down));
    see(&mut state, DB1, primary(), 7);
    see(&mut state, DB1, primary(), 8);
    assert_eq!((incumbent(&state).as_deref(), state.epoch(0)), (Some("db1"), 7));

    // Nobody is there: it chooses by what it sees.
    let mut alone = three();
    alone.listen();
    see(&mut alone, DB2, primary(), 1);
    let changes = alone.decide(second(4));
    assert!(changes.pools);
    assert_eq!((incumbent(&alone).as_deref(), alone.epoch(0)), (Some("db2"), 1));
    assert_eq!(alone.decide(second(5)), Changes::default());
}

#[test]
fn each_change_of_the_primary_has_an_epoch() {
    let mut state = three();
    see(&mut state, DB1, primary(), 1);
    see(&mut state, DB2, replica(0), 1);
    assert_eq!(state.epoch(0), 1);
    see(&mut state, DB1, primary(), 2);
    assert_eq!(state.epoch(0), 1);
    see(&mut state, DB1, replica(0), 3);
    see(&mut state, DB2, primary(), 3);
    assert_eq!((incumbent(&state).as_deref(), state.epoch(0)), (Some("db2"), 2));
    let word = |server: &str, epoch| Incumbent { pool: pool_id("p"), server: server_id(server), epoch };
    state.adopt(word("db2", 9), second(4));
    assert_eq!(state.epoch(0), 9, "the same, and more is known");
    assert_eq!(state.incumbents().collect::<Vec<_>>(), [word("db2", 9)]);
    // What this node sees as a replica it does not write to, whoever says so.
    state.adopt(word("db1", 10), second(4));
    assert_eq!((incumbent(&state).as_deref(), state.epoch(0)), (Some("db2"), 9));
}

fn follows(host: &str, hears: bool) -> Probe {
    let upstream = Some(Upstream { host: host.into(), port: 3306, hears });
    let role = Some(ObservedRole::Replica);
    Probe::Answered(Observation { role, upstream, ..Observation::default() })
}

#[test]
fn before_a_primary_is_dead_its_replicas_are_asked() {
    const DB3: ServerKey = ServerKey { pool: 0, server: 2 };
    let failed = "its check failed: connection refused";
    let fault = "look at the way there from here, and at the check's account";
    for (db2, db3, says, closed) in [
        (
            follows("10.77.0.21", false),
            follows("10.77.0.21", false),
            format!("{failed}; by their own word db2, db3 did not hear it either"),
            true,
        ),
        (
            follows("10.77.0.21", true),
            follows("10.77.0.21", false),
            format!("{failed}; its replicas still hear it (db2): {fault}"),
            false,
        ),
        // Of another source, or not asked: that says nothing.
        (follows("10.77.0.99", true), replica(0), failed.to_owned(), true),
    ] {
        let mut state = three();
        see(&mut state, DB1, primary(), 1);
        for (key, probe) in [(DB2, db2), (DB3, db3)] {
            see(&mut state, key, probe, 1);
        }
        let changes = see(&mut state, DB1, super::failed(), 2);
        assert_eq!(changes.hurry, [DB2, DB3], "they are asked now");
        let changes = fail(&mut state, DB1, 3);
        assert_eq!((word(&state, DB1), reason(&state, DB1).to_string()), (State::Down, says.clone()));
        assert_eq!(!changes.close.is_empty(), closed, "{says}");
        // They give up hope: now it is dead.
        let mut last = see(&mut state, DB2, follows("10.77.0.21", false), 9);
        last.extend(see(&mut state, DB3, follows("10.77.0.21", false), 9));
        assert_eq!(last.close.is_empty(), closed, "{says}");
    }
}

#[test]
fn other_nodes_are_told_of_primaries_and_of_what_somebody_cannot_reach() {
    let mut state = three();
    see(&mut state, DB1, primary(), 1);
    see(&mut state, DB2, replica(0), 1);
    assert_eq!(told(&state, 5), [verdict("db1", Word::Primary)]);
    let changes = px2_says(&mut state, &[verdict("db2", Word::Failed)], 2);
    assert!(changes.words, "px2 waits for the answer");
    assert_eq!(told(&state, 5), [verdict("db1", Word::Primary), verdict("db2", Word::Replica)]);
    assert!(see(&mut state, DB2, failed(), 3).words);
    assert!(!see(&mut state, DB2, failed(), 4).words, "that is no news");
    px2_says(&mut state, &[], 5);
    assert_eq!(told(&state, 5), [verdict("db1", Word::Primary), verdict("db2", Word::Failed)]);
    // What it saw long ago it does not vouch for.
    see(&mut state, DB2, primary(), 6);
    let words = |state: &PoolsState, at| told(state, at).iter().map(|v| v.word).collect::<Vec<_>>();
    assert_eq!(words(&state, 7), [Word::Primary]);
    assert_eq!(words(&state, 60), []);
    fail(&mut state, DB1, 60);
    assert_eq!(words(&state, 90), [Word::Failed]);
}

#[test]
fn what_another_node_cannot_reach_any_more_is_looked_at_from_here() {
    let mut state = three();
    see(&mut state, DB1, primary(), 1);
    let says = |state: &mut PoolsState, word| px2_says(state, &[verdict("db1", word)], 2).hurry;
    assert_eq!(says(&mut state, Word::Primary), []);
    assert_eq!(says(&mut state, Word::Failed), [DB1]);
    assert_eq!(says(&mut state, Word::Failed), []);
}

fn replicates_from(upstream: [u8; 4]) -> Probe {
    let upstream = Upstream { host: IpAddr::from(upstream).to_string(), port: 3306, hears: true };
    let lag = Some(Lag::Known(Duration::ZERO));
    let role = Some(ObservedRole::Replica);
    Probe::Answered(Observation { role, lag, upstream: Some(upstream), ..Observation::default() })
}

fn chosen(changes: &Changes) -> Option<String> {
    let choice = |e: &&Event| matches!(e.change, Change::Chosen { .. });
    changes.events.iter().find(choice).map(ToString::to_string)
}

#[test]
fn of_two_writable_servers_at_a_start_the_one_with_replicas_is_the_primary() {
    // Whoever answers first, it is not chosen before all were asked.
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0]] {
        let mut state = three();
        state.survey(Time::ZERO);
        let mut last = Changes::default();
        for (n, server) in order.into_iter().enumerate() {
            let probe = if server == 2 { replicates_from([10, 77, 0, 22]) } else { primary() };
            assert_eq!(incumbent(&state), None, "{order:?}");
            last = see(&mut state, ServerKey { pool: 0, server }, probe, n as u64 / 2);
        }
        assert_eq!(incumbent(&state).as_deref(), Some("db2"), "{order:?}");
        let told = "server p/db2: of the writable servers db1, db2 it takes the writes, since db3 replicates from it";
        assert_eq!(chosen(&last).as_deref(), Some(told));
        assert!(matches!(reason(&state, DB1), Reason::Conflict { with } if with == "db2"));
    }
    // Nobody says so: the first in the file, with a warning.
    let mut state = three();
    state.survey(Time::ZERO);
    see(&mut state, DB2, primary(), 0);
    see(&mut state, DB1, primary(), 0);
    let changes = fail(&mut state, ServerKey { pool: 0, server: 2 }, 0);
    assert_eq!(incumbent(&state).as_deref(), Some("db1"));
    assert!(chosen(&changes).is_some_and(|c| c.contains("it is the first in the file")), "{changes:?}");
}

#[test]
fn the_warning_of_a_first_choice_says_what_is_so() {
    let key = |server| ServerKey { server, ..DB1 };
    // As many replicas follow the other.
    let mut state = PoolsState::new(
        vec![pool("p", &["db1", "db2", "db3", "db4"], Some(check(Role::Primary, None)))],
        Time::ZERO,
    );
    state.survey(Time::ZERO);
    let mut last = Changes::default();
    let replicas = [replicates_from([10, 77, 0, 21]), replicates_from([10, 77, 0, 22])];
    for (server, probe) in [primary(), primary()].into_iter().chain(replicas).enumerate() {
        last = see(&mut state, key(server), probe, 1);
    }
    let told = "server p/db1: of the writable servers db1, db2 it takes the writes, since it is the first in \
                the file, and as many replicas follow db2; make sure that it is the right one";
    assert_eq!(chosen(&last).as_deref(), Some(told));
    // One of them fails: it may not be writable, so the other is the better choice.
    let mut state = three();
    state.listen();
    see(&mut state, DB1, primary(), 1);
    see(&mut state, DB1, failed(), 2);
    see(&mut state, DB2, primary(), 3);
    let changes = state.decide(second(4));
    assert_eq!((incumbent(&state).as_deref(), chosen(&changes)), (Some("db2"), None), "{changes:?}");
}

#[test]
fn a_first_choice_that_gives_way_to_another_pools_primary_is_no_news() {
    let of = |name, servers: &[&str]| pool(name, servers, Some(check(Role::Primary, None)));
    let pools = vec![of("app", &["db1", "db2"]), of("batch", &["db1", "db2", "db3"])];
    let mut state = PoolsState::new(pools, Time::ZERO);
    state.survey(Time::ZERO);
    see(&mut state, key(0, 0), primary(), 1);
    assert!(chosen(&see(&mut state, key(0, 1), primary(), 1)).is_some());
    see(&mut state, key(1, 0), primary(), 2);
    see(&mut state, key(1, 1), primary(), 2);
    let changes = see(&mut state, key(1, 2), replicates_from([10, 77, 0, 22]), 2);
    assert_eq!((incumbents(&state), chosen(&changes)), (vec![(0, 0), (1, 0)], None));
}

#[test]
fn a_server_whose_check_hangs_holds_the_first_choice_up_no_longer_than_it_may() {
    let mut state = three();
    state.survey(Time::ZERO);
    see(&mut state, DB2, primary(), 1);
    assert_eq!((incumbent(&state), word(&state, DB2)), (None, State::Unknown));
    let until = state.deadline().expect("it waits");
    assert!(until <= second(3), "a second for the first turn, one for its time-out: {until:?}");
    let changes = state.tick(until);
    assert!(changes.pools && chosen(&changes).is_none(), "{changes:?}");
    assert_eq!((incumbent(&state).as_deref(), state.deadline()), (Some("db2"), None));
    // It may take as long as the file allows, but nobody waits for that.
    let mut slow = pool("p", &["db1", "db2"], Some(check(Role::Primary, None)));
    slow.check.as_mut().expect("a check").timeout = Duration::from_secs(3_600);
    let mut patient = PoolsState::new(vec![slow], Time::ZERO);
    patient.survey(Time::ZERO);
    see(&mut patient, DB2, primary(), 1);
    assert_eq!(incumbent(&patient), None);
    let until = patient.deadline().expect("it waits");
    assert!(until < second(4), "two seconds for its answer: {until:?}");
    patient.tick(until);
    assert_eq!(incumbent(&patient).as_deref(), Some("db2"));
    // A single one is waited for by nobody.
    let mut alone = PoolsState::new(vec![pool("p", &["db1"], Some(check(Role::Primary, None)))], Time::ZERO);
    alone.survey(Time::ZERO);
    see(&mut alone, DB1, primary(), 0);
    assert_eq!((incumbent(&alone).as_deref(), alone.deadline()), (Some("db1"), None));
}

/// A pool for each of two listeners of the same two servers.
fn two_pools() -> PoolsState {
    let of = |name| pool(name, &["db1", "db2"], Some(check(Role::Primary, None)));
    PoolsState::new(vec![of("app"), of("batch")], Time::ZERO)
}

fn key(pool: usize, server: usize) -> ServerKey {
    ServerKey { pool, server }
}

fn incumbents(state: &PoolsState) -> Vec<(usize, usize)> {
    state.status().filter(|s| s.incumbent).map(|s| (s.key.pool, s.key.server)).collect()
}

#[test]
fn two_pools_of_the_same_servers_follow_the_same_primary() {
    let mut state = two_pools();
    see(&mut state, key(0, 0), primary(), 1);
    see(&mut state, key(1, 1), primary(), 1);
    assert_eq!(incumbents(&state), [(0, 0), (1, 1)], "neither has seen the other's");
    let changes = see(&mut state, key(1, 0), primary(), 2);
    assert_eq!(incumbents(&state), [(0, 0), (1, 0)], "of the same epoch the first pool's");
    assert_eq!(changes.close, [Close { key: key(1, 1), why: Why::Superseded }]);
    // The second sees a change first: it decides, once the first has seen that its own is gone.
    let changes = fail(&mut state, key(1, 0), 3);
    assert_eq!((incumbents(&state), state.epoch(1)), (vec![(0, 0), (1, 1)], 2));
    assert!(changes.hurry.contains(&key(0, 0)), "its last word may be older: {changes:?}");
    see(&mut state, key(0, 1), primary(), 6);
    assert_eq!(incumbents(&state), [(0, 0), (1, 1)], "it is well by its last check");
    see(&mut state, key(0, 0), failed(), 7);
    assert_eq!((incumbents(&state), state.epoch(0)), (vec![(0, 1), (1, 1)], 2));
}

/// Its account there was locked, say. Once it may ask again, it comes back.
#[test]
fn a_pool_whose_checks_fail_alone_takes_no_primary_from_another() {
    let mut state = two_pools();
    see(&mut state, key(0, 0), primary(), 1);
    see(&mut state, key(1, 0), primary(), 2);
    see(&mut state, key(0, 1), primary(), 2);
    see(&mut state, key(1, 1), primary(), 2);
    fail(&mut state, key(1, 0), 3);
    let mut told = vec![];
    for at in 6..20 {
        for (server, probe) in [(key(0, 0), primary()), (key(0, 1), primary()), (key(1, 0), failed())] {
            let changes = see(&mut state, server, probe, at);
            assert_eq!(changes.close, [], "{at}");
            told.extend(changes.events.into_iter().filter(|e| matches!(e.change, Change::Apart { .. })));
        }
    }
    assert_eq!(incumbents(&state), [(0, 0), (1, 1)]);
    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
    let words = "server batch/db2: it takes the writes of its pool, and db1 those of pool app";
    assert!(told.len() == 1 && told[0].starts_with(words), "{told:?}");
    let mut changes = see(&mut state, key(1, 0), primary(), 20);
    changes.extend(see(&mut state, key(1, 0), primary(), 21));
    assert_eq!(changes.close, [Close { key: key(1, 1), why: Why::Superseded }]);
    assert_eq!((incumbents(&state), state.epoch(0), state.epoch(1)), (vec![(0, 0), (1, 0)], 1, 3));
}

#[test]
fn a_pool_that_lacks_the_primary_of_another_takes_no_writes_from_it() {
    let check = Some(check(Role::Primary, None));
    let mut few = pool("c", &["db2"], check.clone());
    few.servers[0].host = Host::Address(IpAddr::from([10, 77, 0, 22]));
    let mut state = PoolsState::new(vec![few, pool("a", &["db1", "db2"], check)], Time::ZERO);
    see(&mut state, key(1, 0), primary(), 1);
    see(&mut state, key(1, 1), replica(0), 1);
    // By accident db2 takes writes.
    see(&mut state, key(1, 1), primary(), 2);
    let changes = see(&mut state, key(0, 0), primary(), 3);
    assert_eq!((incumbents(&state), changes.close), (vec![(0, 0), (1, 0)], vec![]));
}

#[test]
fn of_two_first_choices_the_older_stays_whatever_the_order_in_the_file() {
    let mut state = two_pools();
    see(&mut state, key(1, 1), primary(), 1);
    see(&mut state, key(1, 0), primary(), 2);
    see(&mut state, key(0, 0), primary(), 3);
    assert_eq!(incumbents(&state), [(0, 0), (1, 1)], "it has not seen the other's");
    let changes = see(&mut state, key(0, 1), primary(), 4);
    assert_eq!(incumbents(&state), [(0, 1), (1, 1)]);
    assert_eq!(changes.close, [Close { key: key(0, 0), why: Why::Superseded }]);
}

#[test]
fn pools_that_cannot_agree_on_the_primary_say_so_once() {
    let mut state = two_pools();
    see(&mut state, key(0, 0), primary(), 1);
    see(&mut state, key(1, 1), primary(), 1);
    let mut told = vec![];
    for at in 2..20 {
        for (server, probe) in [(key(1, 0), failed()), (key(1, 1), primary()), (key(0, 0), primary())] {
            let events = see(&mut state, server, probe, at).events;
            told.extend(events.into_iter().filter(|e| matches!(e.change, Change::Apart { .. })));
        }
    }
    assert_eq!(incumbents(&state), [(0, 0), (1, 1)]);
    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    let words = "server batch/db2: it takes the writes of its pool, and db1 those of pool app";
    assert!(told[0].starts_with(words), "{told:?}");
}

/// More than a hello holds: a switch has failed, and half of the servers with it.
#[test]
fn what_is_said_of_many_servers_is_told_by_turns_and_nothing_of_it_is_left_out() {
    let names: Vec<String> = (0..200).map(|n| format!("db{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let new = || PoolsState::new(vec![pool("p", &names, Some(check(Role::Any, None)))], Time::ZERO);
    let (mut px1, mut px2, mut next) = (new(), new(), (0, 0));
    let key = |server| ServerKey { server, ..DB1 };
    let hello = |px1: &mut PoolsState, px2: &PoolsState, next: &mut (u32, u32), at| {
        let (verdicts, among) = px2.verdicts(next, second(at));
        assert!(verdicts.len() <= MAX_VERDICTS, "{}", verdicts.len());
        px1.hear(1, "px2", &verdicts, among, second(at));
        px1.status().filter(|s| s.fails_from.contains(&"px2")).count()
    };
    for server in 0..200 {
        see(&mut px2, key(server), failed(), 1);
    }
    let heard: Vec<usize> = (0..4).map(|_| hello(&mut px1, &px2, &mut next, 2)).collect();
    assert_eq!(heard, [64, 128, 192, 200]);
    // A few come back while it goes on: what is old is replaced in its turn.
    for server in 0..10 {
        see(&mut px2, key(server), primary(), 3);
    }
    let heard: Vec<usize> = (0..3).map(|_| hello(&mut px1, &px2, &mut next, 4)).collect();
    assert_eq!(heard.last(), Some(&190));
    for server in 10..200 {
        see(&mut px2, key(server), primary(), 5);
    }
    hello(&mut px1, &px2, &mut next, 6);
    assert_eq!(hello(&mut px1, &px2, &mut next, 6), 0, "they fit into one again");
}
