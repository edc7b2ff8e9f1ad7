//! `make bench-failover`: what a failover costs a client, with vipd and with
//! keepalived side by side in the same lab.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a table on the terminal is its result")]

use anyhow::{Context, Result, ensure};
use clap::Parser;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use vipd_tests::lab::arp::ArpWatch;
use vipd_tests::lab::{self, Lab, poll_until};
use vipd_tests::probe::connect::Summary;
use vipd_tests::probe::{ConnectProbe, EchoProbe, millis_text};
use vipd_tests::scene::{ECHO_PORT, Kind, Plan, Scene};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// A state that has not ended after this long counts as one that stays.
const FOR_GOOD: Duration = Duration::from_secs(10);

/// Compares failover times of vipd and keepalived.
#[derive(Parser)]
struct Arguments {
    /// Runs of each case and daemon.
    #[arg(long, default_value_t = 10)]
    runs: u32,
    /// Only the cases whose names contain this.
    #[arg(long)]
    only: Option<String>,
    /// Only this daemon: vipd or keepalived.
    #[arg(long)]
    daemon: Option<String>,
}

/// A measured value.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Value {
    Time(Duration),
    Count(usize),
    /// Thousandths of a core.
    Millicores(u64),
    /// Longer than anybody waits.
    ForGood,
}

impl Value {
    fn text(self) -> String {
        match self {
            Self::Time(time) => millis_text(time),
            Self::Count(count) => count.to_string(),
            Self::Millicores(share) => format!("{}.{} %", share / 10, share % 10),
            Self::ForGood => format!("> {} s", FOR_GOOD.as_secs()),
        }
    }
}

type Measured = Vec<(&'static str, Value)>;

/// A case of the benchmark.
struct Case {
    name: &'static str,
    /// What the issue demands of vipd, for the reader.
    target: &'static str,
    plan: fn() -> Plan,
    run: fn(&Scene, Duration) -> Result<Measured>,
    vipd_only: bool,
    /// The runs of so many asked for: more where the point between two adverts is
    /// most of what is measured, fewer where each is an average of seconds already.
    runs: fn(u32) -> u32,
}

const CASES: &[Case] = &[
    Case {
        name: "link cut, 10 ms adverts",
        target: "<= keepalived",
        plan: fast,
        run: link_cut,
        vipd_only: false,
        runs: |asked| asked * 5,
    },
    Case {
        name: "link cut, 1 s adverts",
        target: "<= keepalived",
        plan: slow,
        run: link_cut,
        vipd_only: false,
        runs: |asked| asked,
    },
    Case {
        name: "SIGTERM, 1 s adverts",
        target: "<= 10 ms",
        plan: slow,
        run: sigterm,
        vipd_only: false,
        runs: |asked| asked,
    },
    Case {
        name: "SIGKILL, 1 s adverts",
        target: "<= 20 ms, 1 owner",
        plan: slow,
        run: sigkill,
        vipd_only: false,
        runs: |asked| asked,
    },
    Case {
        name: "SIGSTOP, 1 s adverts",
        target: "one owner <= 4 s, two <= 500 ms",
        plan: slow,
        run: sigstop,
        vipd_only: false,
        runs: |asked| asked,
    },
    Case {
        name: "planned switchover, 1 s adverts",
        target: "<= 5 ms, none refused, <= 50 ms",
        plan: balanced,
        run: switchover,
        vipd_only: true,
        runs: |asked| asked,
    },
    Case {
        name: "200 VIPs in one group, SIGTERM",
        target: "<= 100 ms",
        plan: many_addresses,
        run: takeover_of_many,
        vipd_only: false,
        runs: |asked| asked,
    },
    Case {
        name: "64 groups, 100 ms adverts",
        target: "< 5 % of a core",
        plan: many_groups,
        run: cpu_share,
        vipd_only: false,
        runs: |asked| asked.min(3),
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

fn run(arguments: &Arguments) -> Result<()> {
    lab::become_root()?;
    if let Some(reason) = lab::obstacle() {
        anyhow::bail!("no test hosts can be made here: {reason}");
    }
    let mut kinds = vec![Kind::Keepalived, Kind::Vipd];
    kinds.retain(|k| arguments.daemon.as_deref().is_none_or(|d| d == k.name()));
    kinds.retain(|kind| {
        let obstacle = kind.obstacle();
        if let Some(reason) = &obstacle {
            eprintln!("without {}: {reason}", kind.name());
        }
        obstacle.is_none()
    });
    let wanted = |c: &&Case| arguments.only.as_deref().is_none_or(|o| c.name.contains(o));
    let mut rows = Vec::new();
    let mut failed = 0;
    for case in CASES.iter().filter(wanted) {
        let (of_case, failed_of_case) = measure(case, &kinds, (case.runs)(arguments.runs));
        rows.extend(of_case);
        failed += failed_of_case;
    }
    print_table(&rows);
    ensure!(failed == 0, "{failed} runs failed; see above");
    Ok(())
}

/// A line of the table.
struct Row {
    case: &'static str,
    runs: u32,
    metric: &'static str,
    target: &'static str,
    cells: BTreeMap<&'static str, String>,
}

/// Runs a case, the daemons in turn; also tells how many runs failed.
fn measure(case: &Case, kinds: &[Kind], runs: u32) -> (Vec<Row>, u32) {
    let mut values: BTreeMap<&'static str, BTreeMap<&'static str, Vec<Value>>> = BTreeMap::new();
    let mut order: Vec<&'static str> = Vec::new();
    let mut failed = 0;
    for run in 0..runs {
        for kind in kinds.iter().filter(|k| !case.vipd_only || **k == Kind::Vipd) {
            let mut result = run_once(case, *kind, run, runs);
            // A run that the machine's other work spoilt says nothing.
            for _ in 0..3 {
                if result.as_ref().is_err_and(|e| e.is::<TooBusy>()) {
                    result = run_once(case, *kind, run, runs);
                }
            }
            match result {
                Ok(measured) => {
                    let text: Vec<String> =
                        measured.iter().map(|(m, v)| format!("{m} {}", v.text())).collect();
                    eprintln!("{}, {} {}/{runs}: {}", case.name, kind.name(), run + 1, text.join(", "));
                    for (metric, value) in measured {
                        if !order.contains(&metric) {
                            order.push(metric);
                        }
                        values.entry(metric).or_default().entry(kind.name()).or_default().push(value);
                    }
                }
                Err(e) => {
                    failed += 1;
                    eprintln!("{}, {} {}/{runs}: failed: {e:#}", case.name, kind.name(), run + 1);
                }
            }
        }
    }
    let row = |metric: &'static str| Row {
        case: case.name,
        runs,
        metric,
        target: if order.first() == Some(&metric) { case.target } else { "" },
        cells: values[metric].iter().map(|(kind, values)| (*kind, spread(values))).collect(),
    };
    (order.iter().map(|m| row(m)).collect(), failed)
}

fn run_once(case: &Case, kind: Kind, run: u32, runs: u32) -> Result<Measured> {
    let lab = Lab::new()?;
    let result = (|| {
        let scene = Scene::new(&lab, kind, (case.plan)())?;
        // The fault falls at another point between two adverts each time.
        let phase = scene.plan.interval * (2 * run + 1) / (2 * runs.max(1));
        (case.run)(&scene, phase)
    })();
    result.inspect_err(|_| eprintln!("{}", lab.report()))
}

/// Median, and the least and the greatest.
fn spread(values: &[Value]) -> String {
    let mut values = values.to_vec();
    values.sort_unstable();
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return "-".to_owned() };
    let middle = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    let median = match middle {
        (Value::Time(a), Value::Time(b)) => Value::Time((a + b) / 2),
        (Value::Time(_) | Value::Count(_) | Value::Millicores(_) | Value::ForGood, upper) => upper,
    };
    if first == last {
        median.text()
    } else {
        format!("{} ({} .. {})", median.text(), first.text(), last.text())
    }
}

fn print_table(rows: &[Row]) {
    println!("\nMedian (least .. greatest) of the runs; time without an answer as a client sees it");
    println!("that asks every millisecond. VRRPv3, unicast, priorities 200 and 150.\n");
    println!("| case | runs | measured | keepalived | vipd | wanted of vipd |");
    println!("|---|---|---|---|---|---|");
    let mut last = "";
    for row in rows {
        let (case, runs) =
            if row.case == last { ("", String::new()) } else { (row.case, row.runs.to_string()) };
        last = row.case;
        let cell = |kind: Kind| row.cells.get(kind.name()).map_or("-", String::as_str);
        let (keepalived, vipd) = (cell(Kind::Keepalived), cell(Kind::Vipd));
        println!("| {case} | {runs} | {} | {keepalived} | {vipd} | {} |", row.metric, row.target);
    }
}

fn fast() -> Plan {
    Plan::new(10 * MS)
}

fn slow() -> Plan {
    Plan::new(SECOND)
}

fn balanced() -> Plan {
    let mut plan = Plan::new(SECOND);
    plan.rest = "[[listen]]\nname = \"write\"\nbind = \"10.77.0.100:3306\"\npool = \"primary\"\n\n\
                 [[pool]]\nname = \"primary\"\n\
                 servers = [{ name = \"db1\", address = \"10.77.0.21:3306\" }]\n"
        .to_owned();
    plan
}

fn many_addresses() -> Plan {
    let mut plan = slow();
    plan.groups = vec![(51, (1..=200).map(|n| format!("10.77.1.{n}/16")).collect())];
    plan
}

fn many_groups() -> Plan {
    let mut plan = Plan::new(100 * MS);
    plan.groups = (1..=64).map(|n| (n, vec![format!("10.77.1.{n}/16")])).collect();
    plan
}

/// A client that asks the floating IP, and is answered by `px1`.
fn steady_client(scene: &Scene, phase: Duration) -> Result<EchoProbe> {
    let probe = EchoProbe::start(&scene.client, Scene::echo(), MS)?;
    probe.wait_for("px1", 5 * SECOND)?;
    // A steady state for an advert or two, then the point in between.
    std::thread::sleep(scene.plan.interval + phase);
    let _ = probe.take_lateness();
    Ok(probe)
}

/// The probe itself was late by so much that its times say nothing.
#[derive(Debug)]
struct TooBusy(Duration);

impl std::fmt::Display for TooBusy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the machine is too busy: the probe was {} late", millis_text(self.0))
    }
}

impl std::error::Error for TooBusy {}

/// The longest time without an answer since `since`, unless the probe itself
/// was too late to tell.
fn outage(probe: &EchoProbe, since: Instant) -> Result<Value> {
    let gap = probe.longest_gap(since).context("no answer at all")?;
    let late = probe.take_lateness();
    if late > 5 * MS && late * 4 > gap.length {
        return Err(TooBusy(late).into());
    }
    Ok(Value::Time(gap.length))
}

fn link_cut(scene: &Scene, phase: Duration) -> Result<Measured> {
    let probe = steady_client(scene, phase)?;
    let fault = Instant::now();
    scene.lab.cut(&scene.proxies[0])?;
    probe.wait_for("px2", FOR_GOOD)?;
    Ok(vec![("no answer", outage(&probe, fault)?)])
}

fn sigterm(scene: &Scene, phase: Duration) -> Result<Measured> {
    let probe = steady_client(scene, phase)?;
    let fault = Instant::now();
    scene.daemons[0].process().signal(Signal::SIGTERM)?;
    probe.wait_for("px2", FOR_GOOD)?;
    // The old owner's end is part of it.
    scene.daemons[0].process().wait(FOR_GOOD)?;
    Ok(vec![("no answer", outage(&probe, fault)?)])
}

/// keepalived is two processes that die together; vipd's guard is made to
/// survive its daemon.
fn sigkill(scene: &Scene, phase: Duration) -> Result<Measured> {
    let probe = steady_client(scene, phase)?;
    let watch = ArpWatch::start(&scene.client, &[Scene::vip()], 2 * MS)?;
    let fault = Instant::now();
    match &scene.daemons[0] {
        vipd_tests::scene::Daemon::Keepalived(process) => process.signal_tree(Signal::SIGKILL)?,
        vipd_tests::scene::Daemon::Vipd(vipd) => vipd.process().signal(Signal::SIGKILL)?,
    }
    let moved = probe.wait_for("px2", FOR_GOOD)?;
    let until_moved = moved.at.saturating_duration_since(fault);
    let gone = poll_until("one owner", 5 * SECOND, || Ok(owners(scene, &watch) == 1));
    let double = if gone.is_ok() { Value::Time(double_time(scene, &watch, fault)) } else { Value::ForGood };
    Ok(vec![
        ("no answer", outage(&probe, fault)?),
        ("until the backup answers", Value::Time(until_moved)),
        ("two owners for", double),
        ("owners 5 s later", Value::Count(owners(scene, &watch))),
    ])
}

fn sigstop(scene: &Scene, phase: Duration) -> Result<Measured> {
    let probe = steady_client(scene, phase)?;
    let watch = ArpWatch::start(&scene.client, &[Scene::vip()], 2 * MS)?;
    let fault = Instant::now();
    scene.daemons[0].process().signal_tree(Signal::SIGSTOP)?;
    let settled = scene.lab.addresses().wait_for(Scene::vip(), &["px2"], FOR_GOOD);
    let double = double_time(scene, &watch, fault);
    let values = match settled {
        Ok(at) => [Value::Time(at.saturating_duration_since(fault)), Value::Time(double)],
        Err(_) => [Value::ForGood, Value::ForGood],
    };
    let no_answer = outage(&probe, fault)?;
    Ok(vec![("until one owner again", values[0]), ("two owners for", values[1]), ("no answer", no_answer)])
}

/// How many hosts hold the floating IP and answer for it just now.
fn owners(scene: &Scene, watch: &ArpWatch) -> usize {
    let now = Instant::now();
    std::thread::sleep(50 * MS);
    let answering = watch.answerers(Scene::vip(), now).len();
    answering.max(scene.lab.addresses().holders(Scene::vip()).len())
}

/// How long two hosts answered for the floating IP, or held it while one of
/// them answered.
fn double_time(scene: &Scene, watch: &ArpWatch, since: Instant) -> Duration {
    watch.double(Scene::vip(), since).max(scene.lab.addresses().overlap(Scene::vip(), since))
}

fn switchover(scene: &Scene, phase: Duration) -> Result<Measured> {
    let server = scene.lab.host("db1", &["10.77.0.21/16"])?;
    let _serve = server.tool(&["serve", "db1", "10.77.0.21:3306"])?;
    let target = "10.77.0.100:3306".parse()?;
    let connections = ConnectProbe::start(&scene.client, target, MS, 3 * SECOND)?;
    connections.wait_answered(5 * SECOND)?;
    let probe = steady_client(scene, phase)?;
    let fault = Instant::now();
    scene.vipd(0)?.ctl(&["switchover", "g51", "--yes"])?;
    probe.wait_for("px2", FOR_GOOD)?;
    scene.lab.addresses().wait_for(Scene::vip(), &["px2"], FOR_GOOD)?;
    let no_answer = outage(&probe, fault)?;
    let summary = Summary::of(&connections.finish(fault - 100 * MS)?);
    Ok(vec![
        ("no answer", no_answer),
        ("connections tried", Value::Count(summary.attempts)),
        ("not answered", Value::Count(summary.failed())),
        ("slowest connection", Value::Time(Duration::from_micros(summary.slowest_us))),
    ])
}

fn takeover_of_many(scene: &Scene, phase: Duration) -> Result<Measured> {
    let addresses: Vec<IpAddr> = (1..=200).map(|n| IpAddr::from([10, 77, 1, n])).collect();
    let watch = ArpWatch::start(&scene.client, &[], SECOND)?;
    let last_address = addresses.last().copied().context("200 addresses")?;
    let probe = EchoProbe::start(&scene.client, SocketAddr::new(last_address, ECHO_PORT), MS)?;
    probe.wait_for("px1", 5 * SECOND)?;
    std::thread::sleep(scene.plan.interval + phase);
    let fault = Instant::now();
    scene.daemons[0].process().signal(Signal::SIGTERM)?;
    let taker = scene.proxies[1].mac()?;
    poll_until("all 200 addresses are announced", FOR_GOOD, || {
        Ok(watch.announced(taker, fault).len() == addresses.len())
    })?;
    let announced = watch.announced(taker, fault);
    let first = announced.values().min().context("none announced")?;
    let last = announced.values().max().context("none announced")?;
    let held = addresses.iter().filter_map(|a| {
        let changes = scene.lab.addresses().changes(*a, fault);
        changes.iter().find(|c| c.present && &*c.host == "px2").map(|c| c.at)
    });
    let first_held = held.min().context("none held")?;
    // An address that comes and goes again would show by then.
    std::thread::sleep(SECOND * 3 / 2);
    probe.wait_for("px2", FOR_GOOD)?;
    Ok(vec![
        (
            "first address in to last announced",
            Value::Time(last.saturating_duration_since(first_held.min(*first))),
        ),
        ("SIGTERM to last announced", Value::Time(last.saturating_duration_since(fault))),
        ("no answer of the last address", outage(&probe, fault)?),
        ("held by the new owner", Value::Count(scene.lab.addresses().count(&addresses, "px2"))),
    ])
}

fn cpu_share(scene: &Scene, _phase: Duration) -> Result<Measured> {
    let processes = [scene.daemons[0].process(), scene.daemons[1].process()];
    std::thread::sleep(SECOND);
    let start = Instant::now();
    let before = processes.map(lab::Process::cpu_time);
    std::thread::sleep(FOR_GOOD);
    let after = processes.map(lab::Process::cpu_time);
    let share = |n: usize| {
        let used = after[n].saturating_sub(before[n]).as_micros() * 1000 / start.elapsed().as_micros();
        Value::Millicores(u64::try_from(used).unwrap_or(u64::MAX))
    };
    Ok(vec![("owner", share(0)), ("backup", share(1))])
}
