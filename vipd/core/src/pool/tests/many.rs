//! Pools of many servers, whose loads are followed through an index.

use super::*;
use std::cell::Cell;

/// Loads of which the changes are noted, as a balancer does it.
struct Counted {
    loads: Vec<Cell<u32>>,
    changes: Changes,
    /// Loads read so far.
    reads: Cell<usize>,
}

impl Counted {
    fn new(servers: usize) -> Self {
        Self { loads: vec![Cell::new(0); servers], changes: Changes::default(), reads: Cell::new(0) }
    }

    fn set(&self, server: usize, load: u32) {
        self.loads[server].set(load);
        self.changes.note(u32::try_from(server).unwrap_or(u32::MAX));
    }
}

impl Loads for Counted {
    fn load(&self, key: ServerKey) -> u32 {
        self.reads.set(self.reads.get() + 1);
        self.loads[key.server].get()
    }

    fn changes(&self, _pool: usize) -> Option<&Changes> {
        Some(&self.changes)
    }
}

const ALL: [Balance; 5] =
    [Balance::RoundRobin, Balance::LeastConnections, Balance::SourceHash, Balance::RandomTwo, Balance::First];

#[test]
fn a_pick_reads_few_of_a_thousand_loads() {
    for balance in ALL {
        let mut settings = weighted(balance, &[1; 1000]);
        settings.servers.iter_mut().for_each(|s| s.max_connections = Some(2));
        let pools = pools(1, &[settings], &[]);
        let (loads, mut state) = (Counted::new(1000), PickState::default());
        let mut pick = |random: u64| {
            let before = loads.reads.get();
            let picked = pools.pick(0, &mut state, &from(client(random as u32), random), &loads);
            let Ok(picked) = picked else { panic!("{balance:?} refuses: {picked:?}") };
            loads.set(picked.key.server, loads.load(picked.key) + 1);
            loads.reads.get() - before
        };
        // Until all are full.
        let reads: usize = numbers().take(2000).map(&mut pick).sum();
        assert!(reads < 2000 * 16, "{balance:?} reads {reads} loads");
        let full = pools.pick(0, &mut state, &from(client(1), 1), &loads);
        assert_eq!(full, Err(NoServer::Full), "{balance:?}");
    }
}

#[test]
fn source_hash_spreads_clients_over_a_thousand() {
    let pools = pools(1, &[weighted(Balance::SourceHash, &[100; 1000])], &[]);
    let mut state = PickState::default();
    let mut seen = [0_u32; 1000];
    for i in 0..500_000 {
        let picked = pools.pick(0, &mut state, &from(client(i), 0), &idle);
        seen[picked.map_or(0, |p| p.key.server)] += 1;
    }
    // 18 of a hundred is the standard deviation; of a thousand draws one in
    // three hundred is beyond three of them, and none beyond five.
    let within = |hundredths: u32| seen.iter().filter(|s| s.abs_diff(500) <= 5 * hundredths).count();
    assert!(within(18) > 620, "{} within one standard deviation", within(18));
    assert!(within(54) > 985, "{} within three", within(54));
    assert_eq!(within(95), 1000, "{:?} {:?}", seen.iter().min(), seen.iter().max());
}

proptest! {
    /// Whatever changes between two picks, the least loaded for its weight is taken.
    #[test]
    fn least_connections_is_the_least(
        servers in prop::collection::vec((1_u16..=256, prop::option::of(1_u32..9)), 1..70),
        changes in prop::collection::vec(
            (prop::collection::vec((any::<prop::sample::Index>(), 0_u32..9), 0..90), 0_usize..3), 1..40),
    ) {
        let count = servers.len();
        let mut settings = weighted(Balance::LeastConnections, &servers.iter().map(|s| s.0).collect::<Vec<_>>());
        for (server, (_, limit)) in settings.servers.iter_mut().zip(&servers) {
            server.max_connections = *limit;
        }
        let pools = pools(1, &[settings], &[]);
        let (loads, mut state) = (Counted::new(count), PickState::default());
        for (changes, tries) in changes {
            let changes = changes.iter().map(|(server, load)| (server.index(count), *load));
            changes.clone().for_each(|(server, load)| loads.set(server, load));
            let tried: Vec<_> = changes.take(tries).map(|(server, _)| key(0, server)).collect();
            let next = |s: usize| u64::from(loads.loads[s].get()) + 1;
            let open = |s: &usize| {
                !tried.contains(&key(0, *s)) && servers[*s].1.is_none_or(|limit| next(*s) <= limit.into())
            };
            let lighter = |a: usize, b: usize| {
                next(a) * u64::from(servers[b].0) < next(b) * u64::from(servers[a].0)
            };
            let connection = Connection { tried: &tried, ..from(client(1), 0) };
            match pools.pick(0, &mut state, &connection, &loads) {
                Ok(picked) => {
                    let picked = picked.key.server;
                    prop_assert!(open(&picked));
                    prop_assert!(!(0..count).filter(open).any(|s| lighter(s, picked)), "{picked}");
                    loads.set(picked, loads.loads[picked].get() + 1);
                }
                Err(why) => {
                    prop_assert!(!(0..count).any(|s| open(&s)));
                    let all = (0..count).all(|s| tried.contains(&key(0, s)));
                    prop_assert_eq!(why, if all { NoServer::AllTried } else { NoServer::Full });
                }
            }
        }
    }

    /// A pool of full servers says so, and the one that gets room is found.
    #[test]
    fn full_servers_are_full_and_the_free_one_is_found(
        limits in prop::collection::vec(1_u32..5, 1..70),
        free in any::<prop::sample::Index>(),
        random in any::<u64>(),
    ) {
        let free = free.index(limits.len());
        for balance in ALL {
            let mut settings = weighted(balance, &vec![1; limits.len()]);
            for (server, limit) in settings.servers.iter_mut().zip(&limits) {
                server.max_connections = Some(*limit);
            }
            // A fallback is for those who have no usable server, not for the full.
            settings.fallback = Some(1);
            let pools = pools(1, &[settings, weighted(balance, &[1])], &[]);
            let (loads, mut state) = (Counted::new(limits.len()), PickState::default());
            for (server, limit) in limits.iter().enumerate() {
                loads.set(server, *limit);
            }
            let mut pick = || {
                let connection = from(client(random as u32), random);
                pools.pick(0, &mut state, &connection, &loads).map(|p| p.key)
            };
            prop_assert_eq!(pick(), Err(NoServer::Full));
            loads.set(free, limits[free] - 1);
            prop_assert_eq!(pick(), Ok(key(0, free)));
            loads.set(free, limits[free]);
            prop_assert_eq!(pick(), Err(NoServer::Full));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Also from the file: whoever is not in the list any more moves its own
    /// clients only, wherever it stood, and the order of the rest is nothing.
    #[test]
    fn source_hash_is_consistent_whatever_the_list(
        weights in prop::collection::vec(1_u16..=256, 2..60),
        gone in any::<prop::sample::Index>(),
        lighter in any::<prop::sample::Index>(),
        clients in prop::collection::vec(any::<u32>(), 100),
    ) {
        let settings = weighted(Balance::SourceHash, &weights);
        let gone = settings.servers[gone.index(weights.len())].name.clone();
        let lighter = settings.servers[lighter.index(weights.len())].name.clone();
        let mut fewer = settings.clone();
        fewer.servers.retain(|s| s.name != gone);
        fewer.servers.reverse();
        let mut less = settings.clone();
        less.servers.iter_mut().filter(|s| s.name == lighter).for_each(|s| s.weight = s.weight.div_ceil(2));
        let [all, fewer, less] = [settings, fewer, less].map(|s| pools(1, &[s], &[]));
        let at = |pools: &Pools, c: u32| {
            let picked = pools.pick(0, &mut PickState::default(), &from(client(c), 0), &idle);
            picked.ok().and_then(|p| pools.server(p.key)).map(|s| s.name().to_owned())
        };
        for c in clients {
            let before = at(&all, c);
            let after = at(&fewer, c);
            prop_assert!(before.as_ref() == Some(&gone) || before == after, "{before:?} {after:?}");
            let after = at(&less, c);
            prop_assert!(before.as_ref() == Some(&lighter) || before == after, "{before:?} {after:?}");
        }
    }
}
