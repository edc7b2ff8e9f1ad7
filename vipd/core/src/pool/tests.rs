//! Properties of picking.

mod many;

use super::*;
use crate::settings::{Host, Pool as Settings, Server as ServerSettings};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn server(i: usize, weight: u16) -> ServerSettings {
    let host = Host::Address(IpAddr::from([10, 77, 0, 1]));
    ServerSettings { weight, ..ServerSettings::new(format!("db{i}"), host, 3306) }
}

fn pool(balance: Balance, servers: Vec<ServerSettings>) -> Settings {
    Settings { balance, retries: 2, ..Settings::new("pool", servers) }
}

fn weighted(balance: Balance, weights: &[u16]) -> Settings {
    pool(balance, weights.iter().enumerate().map(|(i, w)| server(i, *w)).collect())
}

fn state(position: usize, usable: bool, weight: u16) -> ServerState {
    let address = IpAddr::from([10, 77, (position >> 8) as u8, position as u8]);
    ServerState { usable, addresses: vec![address], weight }
}

/// Pools in which all servers but `down` are usable.
fn pools(generation: u64, settings: &[Settings], down: &[ServerKey]) -> Pools {
    let states: Vec<Vec<_>> = settings
        .iter()
        .enumerate()
        .map(|(pool, s)| {
            let of = |(server, s): (usize, &ServerSettings)| {
                state(server, !down.contains(&ServerKey { pool, server }), s.weight)
            };
            s.servers.iter().enumerate().map(of).collect()
        })
        .collect();
    Pools::new(generation, settings, &states)
}

fn key(pool: usize, server: usize) -> ServerKey {
    ServerKey { pool, server }
}

/// Loads of servers without sessions.
fn idle(_: ServerKey) -> u32 {
    0
}

/// A stream of numbers that is the same each time.
fn numbers() -> impl Iterator<Item = u64> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    })
}

fn client(i: u32) -> IpAddr {
    IpAddr::from(i.to_be_bytes())
}

fn from(client: IpAddr, random: u64) -> Connection<'static> {
    Connection { client, random, tried: &[] }
}

/// The servers of `n` picks from pool 0.
fn servers(pools: &Pools, state: &mut PickState, n: usize) -> Vec<usize> {
    let pick = |random| pools.pick(0, state, &from(client(1), random), &idle).map_or(99, |p| p.key.server);
    numbers().take(n).map(pick).collect()
}

#[test]
fn round_robin_is_smooth() {
    let pools = pools(1, &[weighted(Balance::RoundRobin, &[5, 1, 1])], &[]);
    let picked = servers(&pools, &mut PickState::default(), 70);
    for seven in picked.windows(7) {
        let count = |server| seven.iter().filter(|s| **s == server).count();
        assert_eq!([count(0), count(1), count(2)], [5, 1, 1], "{seven:?}");
    }
    assert!(picked.windows(4).all(|w| w != [0; 4]), "{picked:?}");
}

#[test]
fn workers_start_at_different_places() {
    let pools = pools(1, &[weighted(Balance::RoundRobin, &[1; 8])], &[]);
    let firsts: BTreeSet<_> = numbers()
        .take(64)
        .map(|r| pools.pick(0, &mut PickState::default(), &from(client(1), r), &idle).map(|p| p.key.server))
        .filter_map(Result::ok)
        .collect();
    assert!(firsts.len() > 4, "{firsts:?}");
}

#[test]
fn a_swap_of_another_pool_does_not_disturb_the_turns() {
    let settings = [weighted(Balance::RoundRobin, &[1; 4]), weighted(Balance::First, &[1, 1])];
    let before = pools(1, &settings, &[]);
    let swapped = Pools::of(
        2,
        vec![
            Arc::clone(&before.pools[0]),
            Arc::new(Pool::new(2, Arc::new(settings[1].clone()), &[state(0, true, 1)])),
        ],
    );
    let mut state = PickState::default();
    let mut seen = servers(&before, &mut state, 2);
    seen.extend(servers(&swapped, &mut state, 2));
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3]);
}

#[test]
fn least_connections_goes_by_weight_and_ties_take_turns() {
    let settings = [weighted(Balance::LeastConnections, &[100, 100, 200])];
    let pools = pools(1, &settings, &[]);
    let mut state = PickState::default();
    let mut load = [0_u32; 3];
    for random in numbers().take(400) {
        let picked = pools.pick(0, &mut state, &from(client(1), random), &|k: ServerKey| load[k.server]);
        load[picked.map_or(0, |p| p.key.server)] += 1;
    }
    assert_eq!(load, [100, 100, 200]);
    let even = self::pools(2, &[weighted(Balance::LeastConnections, &[1; 4])], &[]);
    let mut seen = servers(&even, &mut PickState::default(), 4);
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3]);
}

#[test]
fn random_two_avoids_the_loaded_and_heeds_weights() {
    let pools = pools(1, &[weighted(Balance::RandomTwo, &[1, 1, 2, 4])], &[]);
    let mut state = PickState::default();
    let mut seen = [0_u32; 4];
    for random in numbers().take(10_000) {
        let load = |k: ServerKey| if k.server == 0 { 1000 } else { 0 };
        let picked = pools.pick(0, &mut state, &from(client(1), random), &load);
        seen[picked.map_or(0, |p| p.key.server)] += 1;
    }
    assert_eq!(seen[0], 0, "of two the loaded one is never taken");
    assert!(seen[1] < seen[2] && seen[2] < seen[3], "{seen:?}");
}

#[test]
fn first_fills_the_first() {
    let mut settings = weighted(Balance::First, &[1, 1, 1]);
    settings.servers[0].max_connections = Some(2);
    let pools = pools(1, &[settings], &[]);
    let mut state = PickState::default();
    let mut load = [0_u32; 3];
    for random in numbers().take(5) {
        let picked = pools.pick(0, &mut state, &from(client(1), random), &|k: ServerKey| load[k.server]);
        load[picked.map_or(0, |p| p.key.server)] += 1;
    }
    assert_eq!(load, [2, 3, 0]);
}

#[test]
fn source_hash_follows_the_weights() {
    let pools = pools(1, &[weighted(Balance::SourceHash, &[100, 100, 200])], &[]);
    let mut state = PickState::default();
    let mut seen = [0_u32; 3];
    for i in 0..20_000 {
        let picked = pools.pick(0, &mut state, &from(client(i), 0), &idle);
        seen[picked.map_or(0, |p| p.key.server)] += 1;
    }
    for (seen, expected) in seen.iter().zip([5_000_u32, 5_000, 10_000]) {
        assert!(seen.abs_diff(expected) < 300, "{seen} of {expected}");
    }
}

#[test]
fn the_same_client_on_either_family_is_hashed_alike() {
    let pools = pools(1, &[weighted(Balance::SourceHash, &[1; 7])], &[]);
    for i in 0..100 {
        let mapped = std::net::Ipv4Addr::from_bits(i).to_ipv6_mapped();
        let pick = |a| pools.pick(0, &mut PickState::default(), &from(a, 0), &idle);
        assert_eq!(pick(client(i)), pick(IpAddr::V6(mapped)));
    }
}

#[test]
fn steps_are_taken_in_order() {
    let mut main = weighted(Balance::RoundRobin, &[1, 1]);
    main.servers[1].backup = true;
    main.fallback = Some(1);
    let settings = [main, weighted(Balance::RoundRobin, &[1])];
    let pick = |down: &[ServerKey], tried: &[ServerKey]| {
        let connection = Connection { client: client(1), random: 0, tried };
        pools(1, &settings, down).pick(0, &mut PickState::default(), &connection, &idle).map(|p| p.key)
    };
    assert_eq!(pick(&[], &[]), Ok(key(0, 0)));
    assert_eq!(pick(&[key(0, 0)], &[]), Ok(key(0, 1)), "the backup");
    assert_eq!(pick(&[key(0, 0), key(0, 1)], &[]), Ok(key(1, 0)), "the fallback");
    assert_eq!(pick(&[key(0, 0), key(0, 1), key(1, 0)], &[]), Err(NoServer::NoneUsable));
    assert_eq!(pick(&[], &[key(0, 0)]), Ok(key(0, 1)), "a retry");
    assert_eq!(pick(&[], &[key(0, 0), key(0, 1)]), Ok(key(1, 0)), "a second retry");
    assert_eq!(pick(&[], &[key(0, 0), key(0, 1), key(1, 0)]), Err(NoServer::AllTried));
}

#[test]
fn a_full_server_opens_no_way_to_the_backup() {
    let mut main = weighted(Balance::RoundRobin, &[1, 1]);
    main.servers[0].max_connections = Some(1);
    main.servers[1].backup = true;
    let pools = pools(1, &[main], &[]);
    let pick = |load| {
        pools.pick(0, &mut PickState::default(), &from(client(1), 0), &|_: ServerKey| load).map(|p| p.key)
    };
    assert_eq!(pick(0), Ok(key(0, 0)));
    assert_eq!(pick(1), Err(NoServer::Full));
}

#[test]
fn neither_weightless_nor_unresolved_servers_take_connections() {
    let settings = [weighted(Balance::RoundRobin, &[0, 1, 1])];
    let unresolved = ServerState { addresses: vec![], ..state(1, true, 1) };
    let pools = Pools::new(1, &settings, &[vec![state(0, true, 0), unresolved, state(2, true, 1)]]);
    assert_eq!(servers(&pools, &mut PickState::default(), 3), [2, 2, 2]);
    assert!(!pools.pools[0].uses(0) && !pools.pools[0].uses(1) && pools.pools[0].uses(2));
}

#[test]
fn a_given_source_leaves_out_addresses_of_the_other_family() {
    let (v4, v6) = (IpAddr::from([10, 77, 0, 21]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0x21]));
    let given = |source: IpAddr| Source::Address(source);
    for (source, addresses, reached) in [
        (given(v4), vec![v4, v6], vec![v4]),
        (given(v6), vec![v4, v6], vec![v6]),
        (given(v4), vec![v6], vec![v6]),
        (Source::Auto, vec![v4, v6], vec![v4, v6]),
        (Source::Vip, vec![v4, v6], vec![v4, v6]),
    ] {
        let settings = Settings { source, ..weighted(Balance::RoundRobin, &[1]) };
        let state = ServerState { usable: true, addresses, weight: 1 };
        let pools = Pools::new(1, &[settings], &[vec![state]]);
        let at = |a: &IpAddr| SocketAddr::new(*a, pools.pools()[0].settings().servers[0].port);
        let reached: Vec<_> = reached.iter().map(at).collect();
        assert_eq!(pools.pools()[0].servers()[0].addresses(), reached, "{source:?}");
        let mut picks = PickState::default();
        for random in numbers().take(50) {
            let picked = pools.pick(0, &mut picks, &from(client(1), random), &idle).expect("one");
            assert!(reached.contains(&picked.address), "{source:?}: {}", picked.address);
        }
    }
}

#[test]
fn a_circle_of_fallbacks_ends() {
    let mut a = weighted(Balance::First, &[1]);
    a.fallback = Some(0);
    let pools = pools(1, &[a], &[key(0, 0)]);
    assert!(!pools.serves(0));
    assert!(!pools.serves(7), "a pool that is not there");
}

fn any_balance() -> impl Strategy<Value = Balance> {
    prop_oneof![
        Just(Balance::RoundRobin),
        Just(Balance::LeastConnections),
        Just(Balance::SourceHash),
        Just(Balance::RandomTwo),
        Just(Balance::First),
    ]
}

/// Servers of a pool, at most: enough for more than one block of loads.
const SERVERS: usize = 40;

prop_compose! {
    fn any_pool(position: usize)(
        balance in any_balance(),
        servers in prop::collection::vec((0_u16..=256, any::<bool>(), prop::option::of(0_u32..3)), 1..SERVERS),
        falls_back in any::<bool>(),
    ) -> Settings {
        let servers = servers.into_iter().enumerate().map(|(i, (weight, backup, max_connections))| {
            ServerSettings { backup, max_connections, ..server(i, weight) }
        });
        let mut pool = pool(balance, servers.collect());
        pool.fallback = (falls_back && position > 0).then(|| position - 1);
        pool
    }
}

fn any_pools() -> impl Strategy<Value = Vec<Settings>> {
    (any_pool(0), any_pool(1), any_pool(2)).prop_map(|(a, b, c)| vec![a, b, c])
}

proptest! {
    /// Over one cycle each server has exactly its weight's share, wherever the
    /// cycle was entered; and over any stretch its share but for a few picks:
    /// one of its class, one of its own, and its part of one of each class.
    #[test]
    fn round_robin_is_exact_over_a_cycle(
        weights in prop::collection::vec(1_u16..=256, 1..12),
        skip in 0_usize..50,
        stretch in any::<prop::sample::Index>(),
    ) {
        let pools = pools(1, &[weighted(Balance::RoundRobin, &weights)], &[]);
        let mut state = PickState::default();
        servers(&pools, &mut state, skip);
        let cycle: usize = weights.iter().map(|w| usize::from(*w)).sum();
        let picked = servers(&pools, &mut state, cycle);
        let stretch = stretch.index(cycle);
        let classes = weights.iter().collect::<BTreeSet<_>>().len();
        for (server, weight) in weights.iter().map(|w| usize::from(*w)).enumerate() {
            let count = |n: usize| picked[..n].iter().filter(|s| **s == server).count();
            prop_assert_eq!(count(cycle), weight);
            let apart = (count(stretch) * cycle).abs_diff(stretch * weight);
            prop_assert!(apart <= 2 * cycle + classes * weight, "{apart} of {cycle}");
        }
    }

    /// What went on before a change of weights goes on after it, so that no
    /// number of changes keeps a server from its share.
    #[test]
    fn round_robin_stays_fair_through_changes(
        changes in prop::collection::vec(prop::collection::vec(0_u16..4, 6), 1..40),
        each in 1_usize..5,
    ) {
        let mut state = PickState::default();
        let mut seen = [0_usize; 8];
        for (generation, change) in (0..).zip(changes.iter().cycle().take(2_000)) {
            // Two servers whose class is the same throughout, beside six that start slowly.
            let weights = [[300, 300].as_slice(), &change.iter().map(|w| w + 1).collect::<Vec<_>>()].concat();
            let pools = pools(generation, &[weighted(Balance::RoundRobin, &weights)], &[]);
            for s in servers(&pools, &mut state, each) {
                seen[s] += 1;
            }
        }
        prop_assert!(seen[0].abs_diff(seen[1]) <= 1, "{seen:?}");
    }

    /// When a server goes, nobody moves but its own clients.
    #[test]
    fn source_hash_is_consistent(
        weights in prop::collection::vec(1_u16..=256, 2..12),
        gone in any::<prop::sample::Index>(),
        clients in prop::collection::vec(any::<u32>(), 1..200),
    ) {
        let settings = [weighted(Balance::SourceHash, &weights)];
        let gone = gone.index(weights.len());
        let (all, fewer) = (pools(1, &settings, &[]), pools(2, &settings, &[key(0, gone)]));
        let mut state = PickState::default();
        for c in clients {
            let mut at = |pools: &Pools| pools.pick(0, &mut state, &from(client(c), 0), &idle).map(|p| p.key.server);
            let (before, after) = (at(&all), at(&fewer));
            prop_assert!(before == Ok(gone) || before == after, "{before:?} {after:?}");
            prop_assert_ne!(after, Ok(gone));
        }
    }

    /// Invariant 6, and what a retry needs: as long as the pool or its
    /// fallbacks have a server that is usable, not tried and not full in a step
    /// that is reached, there is an answer, and the answer is such a server.
    #[test]
    fn a_pool_that_serves_never_refuses(
        settings in any_pools(),
        down in prop::collection::vec((0_usize..3, 0_usize..SERVERS), 0..3 * SERVERS),
        tried in prop::collection::vec((0_usize..3, 0_usize..SERVERS), 0..SERVERS),
        loads in prop::collection::vec(0_u32..4, 3 * SERVERS),
        randoms in prop::collection::vec(any::<u64>(), 1..20),
    ) {
        let keys = |v: Vec<(usize, usize)>| v.into_iter().map(|(p, s)| key(p, s)).collect::<Vec<_>>();
        let (down, tried) = (keys(down), keys(tried));
        let pools = pools(1, &settings, &down);
        let load = |k: ServerKey| loads[k.pool * SERVERS + k.server];
        let full = |k: ServerKey| settings[k.pool].servers[k.server].max_connections.is_some_and(|m| load(k) >= m);
        // The model: walk the steps, and stop at the first with an untried server.
        let model = |start: usize| {
            let mut at = Some(start);
            let mut any = false;
            while let Some(p) = at {
                for backup in [false, true] {
                    let usable = (0..settings[p].servers.len()).map(|s| key(p, s)).filter(|k| {
                        let s = &settings[p].servers[k.server];
                        s.backup == backup && s.weight > 0 && !down.contains(k)
                    }).collect::<Vec<_>>();
                    any |= !usable.is_empty();
                    let untried: Vec<_> = usable.into_iter().filter(|k| !tried.contains(k)).collect();
                    if !untried.is_empty() {
                        let free: Vec<_> = untried.into_iter().filter(|k| !full(*k)).collect();
                        return if free.is_empty() { Err(NoServer::Full) } else { Ok(free) };
                    }
                }
                at = settings[p].fallback;
            }
            Err(if any { NoServer::AllTried } else { NoServer::NoneUsable })
        };
        let mut state = PickState::default();
        for random in randoms {
            for pool in 0..settings.len() {
                let connection = Connection { client: client(random as u32), random, tried: &tried };
                let picked = pools.pick(pool, &mut state, &connection, &load).map(|p| p.key);
                match (picked, model(pool)) {
                    (Ok(picked), Ok(free)) => prop_assert!(free.contains(&picked), "{picked:?} not of {free:?}"),
                    (picked, model) => prop_assert_eq!(picked.err(), model.err()),
                }
                if tried.is_empty() && pools.serves(pool) {
                    prop_assert_ne!(picked, Err(NoServer::NoneUsable));
                    prop_assert_ne!(picked, Err(NoServer::AllTried));
                }
            }
        }
    }

    /// A state that follows from pools to pools, as a worker's does.
    #[test]
    fn a_state_follows_any_pools(all in prop::collection::vec((any_pools(), any::<u64>()), 1..8)) {
        let mut state = PickState::default();
        for (generation, (settings, random)) in (0..).zip(&all) {
            let count = 1 + usize::try_from(random % 3).unwrap_or(0);
            let pools = pools(generation, &settings[..count], &[]);
            for pool in 0..4 {
                let picked = pools.pick(pool, &mut state, &from(client(1), *random), &idle);
                prop_assert!(pool < count || picked == Err(NoServer::NoneUsable));
            }
        }
    }
}
