//! What a quorum costs: failover gaps beside those without, and a witness.

use super::run::{Cluster, Mode};
use super::schedule::Layout;
use crate::lab::{Host, Lab, Process};
use crate::scene::Scene;
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Groups of the busy witness: as many leases as 100 clusters of one group.
const GROUPS: u8 = 100;

/// A failover: what happens to the owner, and the time between adverts.
type Case = (&'static str, Duration, fn(&Lab, &Cluster, usize) -> Result<()>);

const CASES: [Case; 4] = [
    ("link cut, 10 ms adverts", Duration::from_millis(10), |lab, c, owner| lab.cut(&c.hosts[owner])),
    ("link cut, 100 ms adverts", Duration::from_millis(100), |lab, c, owner| lab.cut(&c.hosts[owner])),
    ("SIGKILL, 1 s adverts", SECOND, |_, c, owner| {
        c.process(owner).context("the owner runs")?.signal(Signal::SIGKILL)
    }),
    ("SIGSTOP with guard, 1 s adverts", SECOND, |_, c, owner| {
        c.process(owner).context("the owner runs")?.signal_tree(Signal::SIGSTOP)
    }),
];

/// What was measured, as a table.
#[derive(Clone, Debug)]
pub struct Figures(String);

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Measures failover gaps, `runs` times each, of the cases whose names contain
/// `only`.
///
/// # Errors
/// If a lab cannot be made or a failover does not come about.
pub fn gaps(runs: usize, only: Option<&str>) -> Result<Figures> {
    let mut text = format!("median (least .. greatest) of {runs} runs, as a client sees it\n\n");
    let _ = writeln!(
        text,
        "| no answer after | quorum = \"none\" | quorum = \"majority\" | times |\n|---|---|---|---|"
    );
    for case in CASES.into_iter().filter(|(name, ..)| only.is_none_or(|only| name.contains(only))) {
        // By turns, so that what else the machine does falls on both.
        let (mut without, mut with) = (vec![], vec![]);
        for run in 0..runs {
            without.push(gap(case, Mode::None, run, runs)?);
            with.push(gap(case, Mode::Majority, run, runs)?);
        }
        let (without, with) = (spread(without), spread(with));
        let hundredths = with.0.as_micros() * 100 / without.0.as_micros().max(1);
        let times = format!("{}.{:02}", hundredths / 100, hundredths % 100);
        let _ = writeln!(text, "| {} | {} | {} | {times} |", case.0, without.1, with.1);
    }
    Ok(Figures(text))
}

/// Measures what a witness costs, watched for so long at each load.
#[must_use]
pub fn witnesses(watched: Duration) -> Figures {
    let mut text = format!(
        "a witness's own process, watched for {watched:.0?} at each load; {GROUPS} groups are the leases of as many \
         clusters of one group\n\n| load | votes/s | CPU of a core | CPU a vote | memory of its own (RssAnon) | \
         resident (VmRSS) |\n|---|---|---|---|---|---|\n"
    );
    for (groups, ms) in [(1, 10), (1, 100), (GROUPS, 100), (GROUPS, 1000)] {
        let load = format!("{} of {ms} ms adverts", vipd_core::explain::count(groups.into(), "group"));
        // A machine too slow for so many is no reason to hide the rest.
        let _ = match witness(groups, MS * ms, watched) {
            Ok(row) => writeln!(text, "| {load} | {row} |"),
            Err(e) => writeln!(text, "| {load} | not measured: {} |", e.root_cause()),
        };
    }
    Figures(text)
}

fn gap(case: Case, mode: Mode, run: usize, runs: usize) -> Result<Duration> {
    let (name, interval, fault) = case;
    let lab = Lab::new()?;
    let measured: Result<Duration> = (|| {
        let cluster = Cluster::start(&lab, Layout::TwoAndWitness, interval, 1, mode)?;
        let first = lab.addresses().wait_for_one(Scene::vip(), SECOND)?;
        let (owner, other) = if first == "px1" { (0, "px2") } else { (1, "px1") };
        // The fault falls at another point between two adverts each time.
        let phase = interval * u32::try_from(2 * run + 1)? / u32::try_from(2 * runs.max(1))?;
        sleep(interval * 2 + phase);
        let start = Instant::now();
        fault(&lab, &cluster, owner)?;
        cluster.probe.wait_for(other, 10 * SECOND)?;
        Ok(cluster.probe.longest_gap(start).context("no answer")?.length)
    })();
    measured.with_context(|| format!("{name}\n{}", lab.report()))
}

/// The median, and all as text.
fn spread(mut gaps: Vec<Duration>) -> (Duration, String) {
    gaps.sort_unstable();
    let (Some(least), Some(most)) = (gaps.first(), gaps.last()) else { return Default::default() };
    let median = gaps[gaps.len() / 2];
    (median, format!("{median:.1?} ({least:.1?} .. {most:.1?})"))
}

/// A witness at its work: what it sends are votes, but for a hello a second to
/// each node.
fn witness(groups: u8, interval: Duration, watched: Duration) -> Result<String> {
    let lab = Lab::new()?;
    let cluster = Cluster::start(&lab, Layout::TwoAndWitness, interval, groups, Mode::Majority)
        .with_context(|| format!("{groups} groups do not start"))?;
    let process: &Process = cluster.process(2).context("the witness runs")?;
    // Who owns nothing yet asks otherwise than who renews.
    for group in 1..groups {
        lab.addresses().wait_for_one(IpAddr::from([10, 77, 1, group]), 30 * SECOND)?;
    }
    sleep(SECOND);
    let (start, before, sent) = (Instant::now(), process.cpu_time(), sent(&cluster.hosts[2])?);
    sleep(watched);
    let used = process.cpu_time().saturating_sub(before).as_micros();
    let votes = u128::from(self::sent(&cluster.hosts[2])? - sent);
    let took = start.elapsed().as_micros();
    let hellos = 2 * took / 1_000_000;
    let votes = votes.saturating_sub(hellos);
    let per_mille = used * 1000 / took;
    let (own, all) = (process.memory_kib("RssAnon"), process.memory_kib("VmRSS"));
    Ok(format!(
        "{} | {}.{} % | {} us | {own} KiB | {all} KiB",
        votes * 1_000_000 / took,
        per_mille / 10,
        per_mille % 10,
        used / votes.max(1)
    ))
}

/// Datagrams that a host has sent so far (RFC 4113, `udpOutDatagrams`).
fn sent(host: &Host) -> Result<u64> {
    let output = host.try_run("cat", &["/proc/net/snmp"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = rows.next().zip(rows.next()).context("the kernel counts no datagrams")?;
    let mut columns = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = columns.find(|(name, _)| *name == "OutDatagrams").context("nor those that are sent")?;
    Ok(value.parse()?)
}
