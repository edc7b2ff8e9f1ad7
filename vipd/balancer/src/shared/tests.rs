//! Loads as picks see them.

use super::*;
use std::net::IpAddr;
use std::sync::Barrier;
use vipd_core::pool::{Connection, PickState, ServerState};
use vipd_core::settings::{Balance, Host, Pool, Server};

fn pools(generation: u64, weights: &[u16], limit: Option<u32>) -> Pools {
    let address = IpAddr::from([127, 0, 0, 1]);
    let server = |(i, weight): (usize, &u16)| Server {
        weight: *weight,
        max_connections: limit,
        ..Server::new(format!("db{i}"), Host::Address(address), 3306)
    };
    let servers = weights.iter().enumerate().map(server).collect();
    let pool = Pool { balance: Balance::LeastConnections, ..Pool::new("pool", servers) };
    let state = |weight: &u16| ServerState { usable: true, addresses: vec![address], weight: *weight };
    Pools::new(generation, &[pool], &[weights.iter().map(state).collect()])
}

fn tallies(changes: &Arc<Changes>, count: usize) -> Vec<Arc<ServerTally>> {
    (0..count).map(|i| Arc::new(ServerTally::new("pool", &format!("db{i}"), Arc::clone(changes)))).collect()
}

fn view(pools: Pools, changes: &Arc<Changes>, tallies: Vec<Arc<ServerTally>>) -> View {
    (0..).zip(&tallies).for_each(|(position, tally)| tally.sessions.place(position));
    let (servers, changes) = (vec![tallies], vec![Arc::clone(changes)]);
    View { pools: Arc::new(pools), servers, changes, routes: vec![] }
}

fn pick(view: &View, state: &mut PickState, random: u64) -> Option<ServerKey> {
    let client = IpAddr::from([10, 0, 0, 1]);
    let connection = Connection { client, random, tried: &[] };
    view.pools.pick(0, state, &connection, view).ok().map(|p| p.key)
}

/// Sessions go on while their server's place in the list changes.
#[test]
fn loads_are_followed_through_a_change_of_the_list() {
    const SERVERS: usize = 50;
    let changes = Arc::default();
    let mut list = tallies(&changes, SERVERS);
    let mut state = PickState::default();
    let mut places = Vec::new();
    for generation in 0..4 {
        let view = view(pools(generation, &[1; SERVERS], None), &changes, list.clone());
        for _ in 0..SERVERS {
            let key = pick(&view, &mut state, 1);
            places.extend(key.and_then(|k| view.server(k)).and_then(|t| t.acquire(None)));
        }
        let loads: Vec<_> = view.servers[0].iter().map(|t| t.sessions.get()).collect();
        assert!(loads.windows(2).all(|w| w[0] == w[1]), "{loads:?}");
        // A few end while the view is used, and make room for as many.
        places.drain(..SERVERS / 2);
        for _ in 0..SERVERS / 2 {
            let key = pick(&view, &mut state, 1);
            places.extend(key.and_then(|k| view.server(k)).and_then(|t| t.acquire(None)));
        }
        let loads: Vec<_> = view.servers[0].iter().map(|t| t.sessions.get()).collect();
        assert!(loads.windows(2).all(|w| w[0] == w[1]), "{loads:?}");
        list.reverse();
        list.swap(0, 7);
    }
}

/// Workers that count at the same time lose no count, overfill no server,
/// and each sees in the end what all have done.
#[test]
fn workers_that_count_at_once_agree() {
    const WORKERS: u64 = 4;
    const LIMIT: u32 = 3;
    let weights: Vec<u16> = (0..100).map(|i| i % 7 + 1).collect();
    let changes = Arc::default();
    let view = view(pools(1, &weights, Some(LIMIT)), &changes, tallies(&changes, weights.len()));
    let quiet = Barrier::new(WORKERS as usize);
    let work = &|worker: u64| {
        let mut state = PickState::default();
        let mut places = Vec::new();
        for i in 0..20_000 {
            let Some(key) = pick(&view, &mut state, worker << 40) else {
                places.clear();
                continue;
            };
            let tally = view.server(key).expect("a picked server is there");
            places.extend(tally.acquire(Some(LIMIT)));
            assert!(tally.sessions.get() <= LIMIT);
            if i % 3 == 0 && !places.is_empty() {
                places.swap_remove(i % places.len());
            }
        }
        places.truncate(30);
        quiet.wait();
        let loads: Vec<u32> = view.servers[0].iter().map(|t| t.sessions.get()).collect();
        let open = (0..loads.len()).filter(|i| loads[*i] < LIMIT);
        let least = open.map(|i| f64::from(loads[i] + 1) / f64::from(weights[i])).reduce(f64::min);
        let picked = pick(&view, &mut state, 0).map(|k| k.server);
        let picked = picked.map(|i| f64::from(loads[i] + 1) / f64::from(weights[i]));
        assert_eq!(picked, least);
        quiet.wait();
    };
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || work(worker));
        }
    });
    assert!(view.servers[0].iter().all(|t| t.sessions.get() == 0), "every place was given back");
}
