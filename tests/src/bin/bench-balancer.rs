//! `make bench-balancer`: what a connection, a request and a gigabyte cost a
//! proxy, with vipd, HAProxy and nginx side by side in the same run.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a table on the terminal is its result")]

use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use vipd_tests::lab::{self, Host, Lab, mariadb, poll_until};
use vipd_tests::relay_bench::load::{Load, Work};
use vipd_tests::relay_bench::proxies::{Check, FRONT, HAPROXY_USER, Kind, Proxy, pin};

/// Before it counts: buffers have grown and caches are warm.
const WARM_UP: Duration = Duration::from_millis(700);
/// The address of the host that all is on.
const HOST: &str = "10.77.0.11";
/// Several servers, so that a proxy does not run out of ports towards one.
const SERVERS: u16 = 4;
const IDLE: usize = 5_000;
/// 10,000 checks a minute.
const CHECKED: u16 = 1_000;
const CHECK_EVERY: Duration = Duration::from_secs(6);
/// What these may cost vipd, in hundredths of a percent of a core.
const CHECKS_COST: u64 = 500;

/// Compares what vipd, HAProxy and nginx cost.
#[derive(Parser)]
struct Arguments {
    /// Rounds; in each, every case is measured with every proxy in turn.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds each measurement lasts.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Only the cases whose names contain this: ask-64, ask-1000, connect, bulk, idle, checks, mysql-check.
    #[arg(long)]
    only: Option<String>,
    /// Only this proxy: haproxy, nginx, vipd.
    #[arg(long)]
    proxy: Option<String>,
}

/// How a value is written, and which direction of it is good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Unit {
    /// Nanoseconds, written as microseconds.
    Micros,
    /// A thousandth of a second of CPU a gigabyte, written as seconds.
    CpuPerGb,
    /// Of memory.
    Bytes,
    /// A ten-thousandth of a core, written in percent.
    Core,
    /// Of something; more is better.
    PerSecond,
    /// Megabits a second, written as gigabits; more is better.
    Rate,
}

impl Unit {
    fn text(self, value: u64) -> String {
        match self {
            Self::Micros => format!("{}.{:02} us", value / 1000, value % 1000 / 10),
            Self::CpuPerGb => format!("{}.{:03} s", value / 1000, value % 1000),
            Self::Bytes => format!("{value} B"),
            Self::Core => format!("{}.{:02} %", value / 100, value % 100),
            Self::PerSecond => format!("{value} /s"),
            Self::Rate => format!("{}.{} Gb/s", value / 1000, value % 1000 / 100),
        }
    }

    const fn more_is_better(self) -> bool {
        match self {
            Self::PerSecond | Self::Rate => true,
            Self::Micros | Self::CpuPerGb | Self::Bytes | Self::Core => false,
        }
    }
}

/// What was measured: its name, its unit, its value.
type Measured = Vec<(&'static str, Unit, u64)>;

struct Case {
    name: &'static str,
    title: &'static str,
    run: fn(Kind, &Host, Duration) -> Result<Measured>,
    skips: &'static [Kind],
}

const CASES: &[Case] = &[
    Case { name: "ask-64", title: "200 B and back, 64 connections", run: ask::<64>, skips: &[] },
    Case { name: "ask-1000", title: "200 B and back, 1,000 connections", run: ask::<1000>, skips: &[] },
    Case { name: "connect", title: "connect, 200 B and back, close; 64 at a time", run: connect, skips: &[] },
    Case { name: "bulk", title: "bulk one way, 8 connections", run: bulk, skips: &[] },
    Case { name: "idle", title: "5,000 idle sessions", run: idle, skips: &[] },
    Case {
        name: "checks",
        title: "10,000 checks a minute of 1,000 servers",
        run: checks,
        // nginx's own does not check, and splicing has no part in it.
        skips: &[Kind::Nginx, Kind::HaproxySplice],
    },
    Case {
        name: "mysql-check",
        title: "connect to a MariaDB with a MySQL check, its greeting, close; 64 at a time",
        run: mysql_check,
        skips: &[Kind::Nginx, Kind::HaproxySplice],
    },
];

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// All values of one line of the table, by proxy.
#[derive(Debug)]
struct Row {
    case: &'static str,
    metric: &'static str,
    unit: Unit,
    values: BTreeMap<Kind, Vec<u64>>,
}

fn run(arguments: &Arguments) -> Result<()> {
    lab::become_root()?;
    if let Some(reason) = lab::obstacle() {
        anyhow::bail!("no test hosts can be made here: {reason}");
    }
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores >= 2, "a proxy and its load need a core each, and here is {cores}");
    let wanted = |k: &&Kind| {
        arguments.proxy.as_deref().is_none_or(|p| k.name().to_lowercase().contains(&p.to_lowercase()))
    };
    let kinds: Vec<Kind> = Kind::ALL.iter().filter(wanted).copied().collect();
    for kind in &kinds {
        eprintln!("{}: {}", kind.name(), kind.version()?);
    }
    let cases: Vec<&Case> =
        CASES.iter().filter(|c| arguments.only.as_deref().is_none_or(|o| c.name.contains(o))).collect();
    let mut rows: Vec<Row> = Vec::new();
    for round in 0..arguments.rounds {
        for case in &cases {
            // Nobody is always the first.
            let mut kinds: Vec<Kind> = kinds.iter().filter(|k| !case.skips.contains(k)).copied().collect();
            let first = round as usize % kinds.len().max(1);
            kinds.rotate_left(first);
            for kind in kinds {
                let measured = measure(case, kind, Duration::from_secs(arguments.seconds))
                    .with_context(|| format!("{} with {}", case.name, kind.name()))?;
                let text: Vec<_> = measured.iter().map(|(m, u, v)| format!("{m} {}", u.text(*v))).collect();
                let of = format!("{}/{}", round + 1, arguments.rounds);
                eprintln!("{of} {}, {}: {}", case.name, kind.name(), text.join(", "));
                for (metric, unit, value) in measured {
                    row(&mut rows, case.title, metric, unit).values.entry(kind).or_default().push(value);
                }
            }
        }
    }
    print(&rows, &kinds, arguments);
    // The table tells of the others beside HAProxy; this limit is one by itself.
    for row in rows.iter().filter(|row| row.unit == Unit::Core) {
        let cost = row.values.get(&Kind::Vipd).and_then(|v| median(v)).unwrap_or(0);
        let (is, may) = (row.unit.text(cost), row.unit.text(CHECKS_COST));
        ensure!(cost < CHECKS_COST, "missed: {} cost {is} of a core, and may cost {may}", row.case);
    }
    Ok(())
}

fn row<'a>(rows: &'a mut Vec<Row>, case: &'static str, metric: &'static str, unit: Unit) -> &'a mut Row {
    let at = rows.iter().position(|r| (r.case, r.metric) == (case, metric)).unwrap_or_else(|| {
        rows.push(Row { case, metric, unit, values: BTreeMap::new() });
        rows.len() - 1
    });
    &mut rows[at]
}

fn measure(case: &Case, kind: Kind, time: Duration) -> Result<Measured> {
    let lab = Lab::new()?;
    // A host of its own: its ports and their remains are of this measurement only.
    let host = lab.host("bench", &[&format!("{HOST}/24")])?;
    host.sysctl("net/ipv4/ip_local_port_range", "10000 65000")?;
    (case.run)(kind, &host, time).inspect_err(|_| eprintln!("{}", lab.report()))
}

fn servers() -> Vec<SocketAddr> {
    (4001..4001 + SERVERS).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
}

/// Values of a load that has come to its pace.
struct Pace {
    cpu: u64,
    elapsed: Duration,
    done: vipd_tests::relay_bench::load::Done,
}

impl Pace {
    fn measure(kind: Kind, host: &Host, work: Work, clients: usize, time: Duration) -> Result<Self> {
        host.inside(|| {
            pin(0)?;
            let load = Load::new(work, FRONT, &servers())?;
            let proxy = Proxy::start(kind, host, &servers(), None)?;
            Self::of(load, &proxy, clients, time)
        })
    }

    fn of(mut load: Load, proxy: &Proxy, clients: usize, time: Duration) -> Result<Self> {
        load.connect(clients)?;
        load.run(WARM_UP)?;
        let (cpu, began) = (proxy.cpu()?, Instant::now());
        let done = load.run(time)?;
        Ok(Self { cpu: proxy.cpu()? - cpu, elapsed: began.elapsed(), done })
    }

    fn requests(mut self, each: &'static str, rate: &'static str) -> Result<Measured> {
        let answers = self.done.answers;
        ensure!(answers > 100, "only {answers} answers came");
        self.done.latencies.sort_unstable();
        let p99 = self.done.latencies[self.done.latencies.len() * 99 / 100];
        let millis = u64::try_from(self.elapsed.as_millis())?;
        Ok(vec![
            (each, Unit::Micros, self.cpu / answers),
            (rate, Unit::PerSecond, answers * 1000 / millis),
            ("p99 latency", Unit::Micros, p99),
        ])
    }
}

fn ask<const CLIENTS: usize>(kind: Kind, host: &Host, time: Duration) -> Result<Measured> {
    Pace::measure(kind, host, Work::Ask, CLIENTS, time)?.requests("CPU a request", "requests")
}

fn connect(kind: Kind, host: &Host, time: Duration) -> Result<Measured> {
    Pace::measure(kind, host, Work::Connect, 64, time)?.requests("CPU a connection", "connections")
}

fn bulk(kind: Kind, host: &Host, time: Duration) -> Result<Measured> {
    let pace = Pace::measure(kind, host, Work::Read, 8, time)?;
    let bytes = pace.done.bytes;
    ensure!(bytes > 1_000_000, "only {bytes} bytes came");
    let micros = u64::try_from(pace.elapsed.as_micros())?;
    Ok(vec![
        // Nanoseconds a byte are seconds a gigabyte.
        ("CPU a GB", Unit::CpuPerGb, pace.cpu * 1000 / bytes),
        ("throughput", Unit::Rate, bytes * 8 / micros),
    ])
}

fn idle(kind: Kind, host: &Host, _: Duration) -> Result<Measured> {
    host.inside(|| {
        pin(0)?;
        let mut load = Load::new(Work::Rest, FRONT, &servers())?;
        let proxy = Proxy::start(kind, host, &servers(), None)?;
        let before = proxy.memory()?;
        load.connect(IDLE)?;
        load.until(IDLE as u64)?;
        let grown = proxy.memory()?.saturating_sub(before);
        Ok(vec![("memory a session", Unit::Bytes, grown / IDLE as u64)])
    })
}

fn checks(kind: Kind, host: &Host, time: Duration) -> Result<Measured> {
    let servers: Vec<SocketAddr> = (0..CHECKED)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            SocketAddr::from(([127, 1, high, low], 4001))
        })
        .collect();
    host.inside(|| {
        pin(0)?;
        // One socket serves them all.
        let mut load = Load::new(Work::Ask, FRONT, &[SocketAddr::from(([0, 0, 0, 0], 4001))])?;
        let proxy = Proxy::start(kind, host, &servers, Some(&Check::Connect { every: CHECK_EVERY }))?;
        load.run(CHECK_EVERY + WARM_UP)?;
        let (cpu, began, accepted) = (proxy.cpu()?, Instant::now(), load.accepted());
        load.run(CHECK_EVERY.max(time))?;
        let micros = u64::try_from(began.elapsed().as_micros())?;
        let a_minute = (load.accepted() - accepted) * 60_000_000 / micros;
        // HAProxy resets before the handshake is complete: its servers never hear of it.
        ensure!(kind != Kind::Vipd || a_minute > 9_000, "only {a_minute} checks a minute");
        Ok(vec![("CPU", Unit::Core, (proxy.cpu()? - cpu) * 10 / micros)])
    })
}

/// What an ordinary check costs new connections: it knows the server's own
/// limit, and must not become a brake.
fn mysql_check(kind: Kind, host: &Host, time: Duration) -> Result<Measured> {
    host.inside(|| {
        pin(0)?;
        let address: IpAddr = HOST.parse()?;
        let server = mariadb::replicated(&[(host, address)])?.remove(0);
        // Who closes after the greeting is an aborted connection, and a line in the log.
        server.sql(&format!("SET GLOBAL log_warnings = 0; CREATE USER {HAPROXY_USER}@'%'"))?;
        let password = host.write_file("mysql.password", mariadb::PASSWORD)?;
        let check = Check::Mysql { every: Duration::from_secs(1), password };
        let servers = [SocketAddr::new(address, mariadb::PORT)];
        let proxy = Proxy::start(kind, host, &servers, Some(&check))?;
        let greets =
            || Ok(TcpStream::connect(FRONT).is_ok_and(|mut s| s.read(&mut [0]).is_ok_and(|n| n == 1)));
        poll_until("the server greets through the proxy", Duration::from_secs(10), greets)?;
        let load = Load::new(Work::Greeting, FRONT, &[])?;
        Pace::of(load, &proxy, 64, time)?.requests("CPU a connection", "connections")
    })
}

fn median(values: &[u64]) -> Option<u64> {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// Median, and the least and the greatest.
fn spread(unit: Unit, values: &[u64]) -> String {
    match (median(values), values.iter().min(), values.iter().max()) {
        (Some(median), Some(least), Some(most)) if least < most => {
            format!("{} ({} .. {})", unit.text(median), unit.text(*least), unit.text(*most))
        }
        (Some(median), _, _) => unit.text(median),
        (None, _, _) => "-".to_owned(),
    }
}

/// vipd's part of what the better HAProxy needs, in thousandths: below 1000 vipd is better.
fn ratio(row: &Row) -> Option<u64> {
    let of = |kind: Kind| row.values.get(&kind).and_then(|v| median(v));
    let haproxy = [of(Kind::Haproxy), of(Kind::HaproxySplice)].into_iter().flatten();
    let vipd = of(Kind::Vipd)?;
    let (part, whole) =
        if row.unit.more_is_better() { (haproxy.max()?, vipd) } else { (vipd, haproxy.min()?) };
    (part * 1000).checked_div(whole)
}

fn print(rows: &[Row], kinds: &[Kind], arguments: &Arguments) {
    println!("\nMedian (least .. greatest) of {} rounds of {} s.", arguments.rounds, arguments.seconds);
    println!("Each proxy alone on a core; clients and servers together on another.");
    println!(
        "Ratio: vipd's cost over that of the better HAProxy (for rates the other way round): less is better.\n"
    );
    let names: Vec<_> = kinds.iter().map(|k| k.name()).collect();
    println!("| case | measured | {} | ratio | <= 1 | <= 0.85 |", names.join(" | "));
    println!("|---|---|{}---|---|---|", "---|".repeat(kinds.len()));
    let mut last = "";
    for row in rows {
        let case = if row.case == last { "" } else { row.case };
        last = row.case;
        let cells: Vec<_> = kinds
            .iter()
            .map(|k| spread(row.unit, row.values.get(k).map_or(&[][..], Vec::as_slice)))
            .collect();
        let verdict = ratio(row).map_or_else(
            || "- | - | -".to_owned(),
            |r| {
                let yes = |limit: u64| if r <= limit { "yes" } else { "no" };
                format!("{}.{:02} | {} | {}", r / 1000, r % 1000 / 10, yes(1000), yes(850))
            },
        );
        println!("| {case} | {} | {} | {verdict} |", row.metric, cells.join(" | "));
    }
}
