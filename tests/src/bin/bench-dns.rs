//! `make bench-dns`: what a query, a name and an update cost a DNS server, with
//! dnsd, BIND, Knot and PowerDNS side by side in the same run.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a table on the terminal is its result")]

use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use vipd_tests::dns_bench::queries::{ask, write_questions};
use vipd_tests::dns_bench::servers::{Kind, Server};
use vipd_tests::dns_bench::updates;
use vipd_tests::lab::{self, Host, Lab};

/// Before it counts: every thread has run and caches are warm.
const WARM_UP: Duration = Duration::from_secs(2);
/// Names of the zones.
const FEW: u32 = 100;
const MANY: u32 = 100_000;
/// Questions a second of a load that no server is busy with.
const STEADY: u32 = 20_000;
/// Updates of a measurement.
const UPDATES: u16 = 200;

/// Compares what dnsd, BIND, Knot and PowerDNS cost.
#[derive(Parser)]
struct Arguments {
    /// Rounds; in each, every case is measured with every server in turn.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds each measurement lasts.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Only the cases whose names contain this: few, many, update.
    #[arg(long)]
    only: Option<String>,
    /// Only this server: bind, knot, powerdns, dnsd.
    #[arg(long)]
    server: Option<String>,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Unit {
    /// Nanoseconds, written as microseconds.
    Micros,
    /// Of memory.
    Bytes,
    /// Of something; more is better.
    PerSecond,
}

impl Unit {
    fn text(self, value: u64) -> String {
        match self {
            Self::Micros => format!("{}.{:02} us", value / 1000, value % 1000 / 10),
            Self::Bytes => format!("{value} B"),
            Self::PerSecond => format!("{value} /s"),
        }
    }
}

/// What was measured: its name, its unit, its value.
type Measured = Vec<(&'static str, Unit, u64)>;

/// Where measurements are made.
struct Place {
    host: Host,
    /// On a disk: what is said of updates is about its fsync.
    dir: PathBuf,
    time: Duration,
}

struct Case {
    name: &'static str,
    title: &'static str,
    run: fn(Kind, &Place) -> Result<Measured>,
    skips: &'static [Kind],
}

const CASES: &[Case] = &[
    Case { name: "few", title: "zone of 100 names", run: few, skips: &[] },
    Case { name: "many", title: "zone of 100,000 names", run: many, skips: &[] },
    Case {
        name: "update",
        title: "UPDATE with TSIG, on disk",
        run: update,
        // Its backend of zone files takes none.
        skips: &[Kind::PowerDns],
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

/// All values of one line of the table, by server.
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
    ensure!(cores >= 2, "a server and its load need a core each, and here is {cores}");
    let wanted = |k: &&Kind| arguments.server.as_deref().is_none_or(|s| k.name().eq_ignore_ascii_case(s));
    let kinds: Vec<Kind> = Kind::ALL.iter().filter(wanted).copied().collect();
    for kind in &kinds {
        eprintln!("{}: {}", kind.name(), kind.version()?);
    }
    // Beside this program: not in a file system of memory, as /tmp may be. What
    // a run that was killed has left is wiped by the next.
    let dir = std::env::current_exe()?.with_file_name("bench-dns.files");
    let result = rounds(arguments, &kinds, &dir);
    let _ = std::fs::remove_dir_all(&dir);
    print(&result?, &kinds, arguments);
    Ok(())
}

fn rounds(arguments: &Arguments, kinds: &[Kind], dir: &Path) -> Result<Vec<Row>> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for names in [FEW, MANY] {
        write_questions(&questions(dir, names), names)?;
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
                let measured = measure(case, kind, dir, Duration::from_secs(arguments.seconds))
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
    Ok(rows)
}

fn questions(dir: &Path, names: u32) -> PathBuf {
    dir.join(format!("questions-{names}"))
}

fn row<'a>(rows: &'a mut Vec<Row>, case: &'static str, metric: &'static str, unit: Unit) -> &'a mut Row {
    let at = rows.iter().position(|r| (r.case, r.metric) == (case, metric)).unwrap_or_else(|| {
        rows.push(Row { case, metric, unit, values: BTreeMap::new() });
        rows.len() - 1
    });
    &mut rows[at]
}

fn measure(case: &Case, kind: Kind, dir: &Path, time: Duration) -> Result<Measured> {
    let lab = Lab::new()?;
    // A host of its own: its ports and their remains are of this measurement only.
    let host = lab.host("bench", &["10.77.0.11/24"])?;
    let place = Place { host, dir: dir.into(), time };
    (case.run)(kind, &place).inspect_err(|_| eprintln!("{}", lab.report()))
}

impl Place {
    fn start(&self, kind: Kind, names: u32) -> Result<Server> {
        Server::start(kind, &self.host, &self.dir.join("server"), names)
    }

    fn queries(&self, server: &Server, names: u32) -> Result<Measured> {
        let file = questions(&self.dir, names);
        ask(&self.host, server, &file, WARM_UP, None)?;
        let most = ask(&self.host, server, &file, self.time, None)?;
        let steady = ask(&self.host, server, &file, self.time, Some(STEADY))?;
        Ok(vec![
            ("CPU a query", Unit::Micros, most.cpu),
            ("answers", Unit::PerSecond, most.rate),
            ("CPU a query at 20,000 /s", Unit::Micros, steady.cpu),
            ("p99 latency at 20,000 /s", Unit::Micros, steady.p99),
        ])
    }
}

fn few(kind: Kind, place: &Place) -> Result<Measured> {
    place.queries(&place.start(kind, FEW)?, FEW)
}

fn many(kind: Kind, place: &Place) -> Result<Measured> {
    let before = place.start(kind, FEW)?.memory()?;
    let server = place.start(kind, MANY)?;
    let grown = server.memory()?.saturating_sub(before);
    let mut measured = place.queries(&server, MANY)?;
    measured.push(("memory a name", Unit::Bytes, grown / u64::from(MANY - FEW)));
    Ok(measured)
}

fn update(kind: Kind, place: &Place) -> Result<Measured> {
    let _server = place.start(kind, FEW)?;
    let mut latencies = place.host.inside(|| updates::latencies(UPDATES))?;
    latencies.sort_unstable();
    let at = |part: usize| latencies[latencies.len() * part / 100];
    Ok(vec![("latency", Unit::Micros, at(50)), ("p99 latency", Unit::Micros, at(99))])
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

/// dnsd's part of what another needs, in hundredths: below 1.00 dnsd is better.
fn ratio(row: &Row, other: Kind) -> String {
    let of = |kind: Kind| row.values.get(&kind).and_then(|v| median(v));
    let (Some(dnsd), Some(other)) = (of(Kind::Dnsd), of(other)) else { return "-".to_owned() };
    let (part, whole) = match row.unit {
        Unit::PerSecond => (other, dnsd),
        Unit::Micros | Unit::Bytes => (dnsd, other),
    };
    (part * 100).checked_div(whole).map_or("-".to_owned(), |r| format!("{}.{:02}", r / 100, r % 100))
}

fn print(rows: &[Row], kinds: &[Kind], arguments: &Arguments) {
    println!("\nMedian (least .. greatest) of {} rounds of {} s.", arguments.rounds, arguments.seconds);
    println!("Each server alone on a core; dnsperf on another. Every tenth name asked for is not there.");
    println!(
        "Over BIND, Knot, PowerDNS: dnsd's cost over theirs (for rates the other way round): less is better.\n"
    );
    let others: Vec<Kind> = kinds.iter().filter(|k| **k != Kind::Dnsd).copied().collect();
    let names = kinds.iter().map(|k| k.name().to_owned());
    let head: Vec<_> = names.chain(others.iter().map(|k| format!("over {}", k.name()))).collect();
    println!("| case | measured | {} |", head.join(" | "));
    println!("|---|---|{}", "---|".repeat(head.len()));
    let mut last = "";
    for row in rows {
        let case = if row.case == last { "" } else { row.case };
        last = row.case;
        let values = |kind: &Kind| row.values.get(kind).map_or(&[][..], Vec::as_slice);
        let cells = kinds.iter().map(|k| spread(row.unit, values(k)));
        let cells: Vec<_> = cells.chain(others.iter().map(|k| ratio(row, *k))).collect();
        println!("| {case} | {} | {} |", row.metric, cells.join(" | "));
    }
}
