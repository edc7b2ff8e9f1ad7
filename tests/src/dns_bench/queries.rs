//! Queries by dnsperf: as many as it can ask, and a steady number.

use super::servers::{ADDRESS, Server};
use crate::lab::{Host, Process};
use crate::sim::rng::Rng;
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Sockets that dnsperf asks from, and questions that it waits for at most.
const CLIENTS: &str = "16";
const OUTSTANDING: &str = "200";
/// Questions of the file, which dnsperf repeats.
const QUESTIONS: u32 = 400_000;
/// Every tenth name is not there.
const MISSING: u64 = 10;

/// Writes dnsperf's file for a zone of so many names; always the same one.
///
/// # Errors
/// If it cannot be written.
pub fn write_questions(path: &Path, names: u32) -> Result<()> {
    let mut rng = Rng::new(u64::from(names));
    let mut text = String::new();
    for _ in 0..QUESTIONS {
        let label = if rng.below(MISSING) == 0 { "no" } else { "n" };
        let _ = writeln!(text, "{label}{}.corp.example A", rng.below(names.into()));
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What a run has shown.
#[derive(Clone, Copy, Debug)]
pub struct Paced {
    /// CPU time of the server a query, in nanoseconds.
    pub cpu: u64,
    /// Answers a second.
    pub rate: u64,
    /// 99 of 100 answers came within this, in nanoseconds; of runs with a steady rate.
    pub p99: u64,
}

/// Asks for some time: `rate` questions a second, or as many as dnsperf can.
///
/// # Errors
/// If dnsperf fails, or the answers are not what they should be.
pub fn ask(host: &Host, server: &Server, file: &Path, time: Duration, rate: Option<u32>) -> Result<Paced> {
    let mut command = Command::new("dnsperf");
    command.args(["-s", &ADDRESS.ip().to_string(), "-p", &ADDRESS.port().to_string()]);
    command
        .args(["-c", CLIENTS, "-q", OUTSTANDING, "-l", &time.as_secs().max(1).to_string(), "-d"])
        .arg(file);
    let each = file.with_extension("each");
    if let Some(rate) = rate {
        command.args(["-Q", &rate.to_string(), "-v"]);
    }
    // A line for each answer is too much for the lab's log of a process.
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$@\" >\"$0\""]).arg(&each).arg(command.get_program()).args(command.get_args());
    let cpu = server.cpu()?;
    let dnsperf: Process = host.spawn("dnsperf", &mut shell)?;
    let status = dnsperf.wait(time + Duration::from_secs(30))?;
    let cpu = server.cpu()? - cpu;
    ensure!(status.success(), "dnsperf: {status}: {:?}", dnsperf.output());
    let text = std::fs::read_to_string(&each).context("cannot read what dnsperf wrote")?;
    read(&text, cpu).with_context(|| format!("dnsperf said: {}", tail(&text)))
}

fn read(text: &str, cpu: u64) -> Result<Paced> {
    let field = |name: &str| {
        let line = text.lines().rev().find_map(|line| line.trim().strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()).with_context(|| format!("no '{name}'"))
    };
    let (sent, completed): (u64, u64) =
        (field("Queries sent:")?.parse()?, field("Queries completed:")?.parse()?);
    ensure!(completed > 100 && completed * 100 >= sent * 99, "{completed} of {sent} answers came");
    let codes = text.lines().rev().find(|line| line.contains("Response codes:")).context("no codes")?;
    let share = |code: &str| {
        let rest = codes.split_once(code).and_then(|(_, rest)| rest.split_whitespace().next());
        rest.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1000 / completed
    };
    let (there, missing) = (share("NOERROR "), share("NXDOMAIN "));
    ensure!(there > 880 && (80..120).contains(&missing), "wrong answers: {codes}");
    let mut latencies = text
        .lines()
        .filter(|line| line.starts_with("> "))
        .filter_map(|line| micros(line.rsplit(' ').next()?))
        .collect::<Vec<_>>();
    latencies.sort_unstable();
    let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(0) * 1000;
    let rate = field("Queries per second:")?.split('.').next().unwrap_or_default().parse()?;
    Ok(Paced { cpu: cpu / completed, rate, p99 })
}

/// `0.001234`, in seconds with six digits.
fn micros(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * 1_000_000 + fraction.get(..6)?.parse::<u64>().ok()?)
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("> ")).collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "> NOERROR n1.corp.example A 0.000100\n> NXDOMAIN no1.corp.example A 1.000002\n\
        Statistics:\n\n  Queries sent:         1000\n  Queries completed:    1000 (100.00%)\n\
        Response codes:       NOERROR 900 (90.00%), NXDOMAIN 100 (10.00%)\n  Queries per second:   451.385754\n";

    #[test]
    fn dnsperf_is_understood() {
        let paced = read(SAID, 5_000_000).unwrap();
        assert_eq!((paced.cpu, paced.rate, paced.p99), (5000, 451, 1_000_002_000));
        assert!(read(&SAID.replace("NOERROR 900", "SERVFAIL 900"), 1).is_err(), "wrong answers");
        assert!(read(&SAID.replace("completed:    1000", "completed:    900"), 1).is_err(), "lost ones");
    }
}
