//! What a choice of server costs, for each way of balancing, with few servers
//! and with many, of equal and of mixed weights: `make bench-pick`.
//!
//! One step is what a worker does for one session of the pool: it picks a
//! server, counts the session there, and takes away one that began earlier.

use divan::{Bencher, black_box};
use std::fmt;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use vipd_core::pool::{Changes, Connection, Loads, PickState, Pools, ServerKey, ServerState};
use vipd_core::settings::{Balance, Host, Pool, Server};

/// What one choice among a thousand servers may cost, alone on its core.
const LIMIT: Duration = Duration::from_nanos(200);

fn main() -> ExitCode {
    divan::main();
    // As a test it only runs.
    if !std::env::args().any(|a| a == "--bench") {
        return ExitCode::SUCCESS;
    }
    let missed = missed();
    missed.iter().for_each(|line| eprintln!("missed: {line}"));
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The ways of balancing by which a choice among a thousand servers, each with
/// room, costs more than it may: the median of some samples.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn missed() -> Vec<String> {
    const STEPS: u32 = 4000;
    let ways = [
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::SourceHash,
        Balance::RandomTwo,
        Balance::First,
    ];
    let cases = CASES.into_iter().filter(|c| c.servers == 1000 && !matches!(c.weights, Weights::MostlyFull));
    let all = cases.flat_map(|case| ways.map(|balance| (balance, case)));
    let median = |(balance, case)| {
        let mut step = stepper(balance, case, 0);
        let mut sample = || {
            let start = Instant::now();
            for _ in 0..STEPS {
                black_box(step());
            }
            start.elapsed() / STEPS
        };
        let mut samples: Vec<_> = (0..51).map(|_| sample()).collect();
        samples.sort_unstable();
        (balance, case, samples[samples.len() / 2])
    };
    let over = all.map(median).filter(|(.., took)| *took > LIMIT);
    over.map(|(balance, case, took)| format!("{balance:?}, {case}: {took:?} a choice, not {LIMIT:?}"))
        .collect()
}

const CASES: [Case; 5] = [
    Case { servers: 3, weights: Weights::Equal },
    Case { servers: 3, weights: Weights::Mixed },
    Case { servers: 1000, weights: Weights::Equal },
    Case { servers: 1000, weights: Weights::Mixed },
    Case { servers: 1000, weights: Weights::MostlyFull },
];

#[derive(Clone, Copy)]
struct Case {
    servers: usize,
    weights: Weights,
}

#[derive(Clone, Copy)]
enum Weights {
    Equal,
    /// 1 to 256.
    Mixed,
    /// Equal, but only one server in twenty has room.
    MostlyFull,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = match self.weights {
            Weights::Equal => "equal weights",
            Weights::Mixed => "mixed weights",
            Weights::MostlyFull => "equal, most full",
        };
        write!(f, "{} servers, {weights}", self.servers)
    }
}

#[divan::bench(args = CASES, sample_count = 50, sample_size = 4000)]
fn round_robin(bencher: Bencher<'_, '_>, case: Case) {
    sessions(bencher, Balance::RoundRobin, case, 0);
}

#[divan::bench(args = CASES, sample_count = 50, sample_size = 4000)]
fn least_connections(bencher: Bencher<'_, '_>, case: Case) {
    sessions(bencher, Balance::LeastConnections, case, 0);
}

/// As with many workers: between two picks of this one, eight sessions of
/// others begin and eight end.
#[divan::bench(args = CASES, sample_count = 50, sample_size = 4000)]
fn least_connections_among_others(bencher: Bencher<'_, '_>, case: Case) {
    sessions(bencher, Balance::LeastConnections, case, 8);
}

#[divan::bench(args = CASES, sample_count = 50, sample_size = 4000)]
fn source_hash(bencher: Bencher<'_, '_>, case: Case) {
    sessions(bencher, Balance::SourceHash, case, 0);
}

#[divan::bench(args = CASES, sample_count = 50, sample_size = 4000)]
fn random_two(bencher: Bencher<'_, '_>, case: Case) {
    sessions(bencher, Balance::RandomTwo, case, 0);
}

#[divan::bench(args = CASES, sample_count = 50, sample_size = 4000)]
fn first(bencher: Bencher<'_, '_>, case: Case) {
    sessions(bencher, Balance::First, case, 0);
}

/// New pools, as after each change of a server's health or weight, and the
/// first pick from them.
#[divan::bench(args = [
    Balance::RoundRobin,
    Balance::LeastConnections,
    Balance::SourceHash,
    Balance::RandomTwo,
    Balance::First,
])]
fn rebuild_1000_servers_mixed_weights(bencher: Bencher<'_, '_>, balance: Balance) {
    let (settings, states) = pool(balance, Case { servers: 1000, weights: Weights::Mixed });
    let (mut state, mut generation, loads) = (PickState::default(), 0, Counts::new(1000));
    bencher.bench_local(|| {
        generation += 1;
        let pools = Pools::new(generation, black_box(&settings), &states);
        (pools.pick(0, &mut state, &from(generation), &loads), pools)
    });
}

/// Sessions, counted as the balancer does it.
struct Counts {
    sessions: Vec<AtomicU32>,
    changes: Changes,
}

impl Counts {
    fn new(servers: usize) -> Self {
        Self { sessions: (0..servers).map(|_| AtomicU32::new(0)).collect(), changes: Changes::default() }
    }

    fn begin(&self, server: usize) {
        self.sessions[server].fetch_add(1, Ordering::SeqCst);
        self.changes.note(server as u32);
    }

    fn end(&self, server: usize) {
        self.sessions[server].fetch_sub(1, Ordering::SeqCst);
        self.changes.note(server as u32);
    }
}

impl Loads for Counts {
    fn load(&self, server: ServerKey) -> u32 {
        self.sessions[server.server].load(Ordering::Relaxed)
    }

    fn changes(&self, _pool: usize) -> Option<&Changes> {
        Some(&self.changes)
    }
}

fn pool(balance: Balance, case: Case) -> (Vec<Pool>, Vec<Vec<ServerState>>) {
    let address = IpAddr::from([127, 0, 0, 1]);
    let server = |i: usize| {
        let host = Host::Address(address);
        let (weight, max_connections) = match case.weights {
            Weights::Equal => (100, None),
            Weights::Mixed => ((i * 37 % 256 + 1) as u16, None),
            Weights::MostlyFull => (100, Some(if i % 20 == 19 { u32::MAX - 1 } else { 0 })),
        };
        Server { weight, max_connections, ..Server::new(format!("db{i}"), host, 3306) }
    };
    let servers: Vec<_> = (0..case.servers).map(server).collect();
    let state = |s: &Server| ServerState { usable: true, addresses: vec![address], weight: s.weight };
    let states = servers.iter().map(state).collect();
    (vec![Pool { balance, ..Pool::new("pool", servers) }], vec![states])
}

fn from(random: u64) -> Connection<'static> {
    Connection { client: IpAddr::from((random as u32).to_be_bytes()), random, tried: &[] }
}

fn sessions(bencher: Bencher<'_, '_>, balance: Balance, case: Case, others: usize) {
    bencher.bench_local(stepper(balance, case, others));
}

/// Two sessions a server, of which the oldest ends when a new one begins; and
/// of others as many as are told.
fn stepper(balance: Balance, case: Case, others: usize) -> impl FnMut() -> Option<usize> {
    let (settings, states) = pool(balance, case);
    let pools = Pools::new(1, &settings, &states);
    let (counts, mut state) = (Counts::new(case.servers), PickState::default());
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut alive = vec![None; 2 * case.servers];
    let mut others: Vec<usize> = vec![0; others];
    for server in &others {
        counts.begin(*server);
    }
    let mut oldest = 0;
    let mut step = move || {
        for server in &mut others {
            counts.end(*server);
            *server = (next() >> 32) as usize % case.servers;
            counts.begin(*server);
        }
        let picked = pools.pick(0, &mut state, &from(next()), &counts).ok().map(|p| p.key.server);
        if let Some(server) = picked {
            counts.begin(server);
        }
        if let Some(server) = std::mem::replace(&mut alive[oldest], picked) {
            counts.end(server);
        }
        oldest = if oldest + 1 == alive.len() { 0 } else { oldest + 1 };
        picked
    };
    for _ in 0..2 * case.servers {
        step();
    }
    step
}
