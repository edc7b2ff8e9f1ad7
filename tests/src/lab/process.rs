//! Processes on test hosts: their output, their signals, their end.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Output lines kept a process; a test that writes more has gone wrong.
const LOG_LINES: usize = 20_000;

/// The lines a process wrote, with the time each arrived.
#[derive(Debug, Default)]
pub(crate) struct Log {
    lines: Mutex<Vec<(Instant, String)>>,
    arrived: Condvar,
}

/// A lock that a panic elsewhere does not take away: the data stays whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Log {
    /// Takes lines from `source` until it ends.
    fn follow(self: &Arc<Self>, source: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                let mut lines = lock(&log.lines);
                if lines.len() < LOG_LINES {
                    lines.push((Instant::now(), text));
                }
                log.arrived.notify_all();
            }
        });
    }

    /// The last `count` lines, each with the seconds since `start`.
    pub(crate) fn tail(&self, start: Instant, count: usize) -> String {
        let lines = lock(&self.lines);
        let mut text = String::new();
        for (at, line) in &lines[lines.len().saturating_sub(count)..] {
            let at = at.saturating_duration_since(start);
            let _ = writeln!(text, "    {:3}.{:06} {line}", at.as_secs(), at.subsec_micros());
        }
        text
    }
}

#[derive(Debug, Default)]
struct End {
    status: Mutex<Option<ExitStatus>>,
    known: Condvar,
}

/// A process on a host. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    stdin: Mutex<Option<ChildStdin>>,
    log: Arc<Log>,
    end: Arc<End>,
}

impl Process {
    pub(crate) fn adopt(name: &str, mut child: Child) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a pid is no i32")?);
        let log = Arc::new(Log::default());
        if let Some(out) = child.stdout.take() {
            log.follow(out);
        }
        if let Some(err) = child.stderr.take() {
            log.follow(err);
        }
        let stdin = Mutex::new(child.stdin.take());
        let end = Arc::new(End::default());
        let ended = Arc::clone(&end);
        std::thread::spawn(move || {
            let status = child.wait();
            *lock(&ended.status) = status.ok();
            ended.known.notify_all();
        });
        Ok(Self { name: name.to_owned(), pid, stdin, log, end })
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The name it was started under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pid, as the test sees it.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        lock(&self.end.status).is_none()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it has ended, or the kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let status = lock(&self.end.status);
        if let Some(status) = *status {
            bail!("{} has ended already ({status})", self.name);
        }
        kill(self.pid, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Sends a signal to it and to every process that descends from it.
    ///
    /// # Errors
    /// If it has ended, or the kernel refuses.
    pub fn signal_tree(&self, signal: Signal) -> Result<()> {
        for pid in self.tree() {
            // A descendant may have ended since it was listed.
            let _ = kill(Pid::from_raw(pid), signal);
        }
        Ok(())
    }

    /// The pids of it and of every process that descends from it.
    #[must_use]
    pub fn tree(&self) -> Vec<i32> {
        let mut found = vec![self.pid()];
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            next += 1;
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            for task in tasks {
                let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
                found.extend(children.split_whitespace().filter_map(|c| c.parse::<i32>().ok()));
            }
        }
        found
    }

    /// CPU time that it and its descendants have used so far.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.tree().into_iter().map(cpu_time_of).sum()
    }

    /// Its memory in KiB: a field of proc(5) `status`, as `VmRSS`. Zero if it
    /// has ended.
    #[must_use]
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// If it does not read any more.
    pub fn write_line(&self, line: &str) -> Result<()> {
        let mut stdin = lock(&self.stdin);
        let Some(pipe) = stdin.as_mut() else { bail!("{} has no standard input", self.name) };
        writeln!(pipe, "{line}").with_context(|| format!("{} does not read its input", self.name))
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// If it has not within `patience`.
    pub fn wait(&self, patience: Duration) -> Result<ExitStatus> {
        let status = lock(&self.end.status);
        let (status, _) = self
            .end
            .known
            .wait_timeout_while(status, patience, |s| s.is_none())
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        status.with_context(|| format!("{} has not ended within {patience:?}", self.name))
    }

    /// The first line of its output that contains `text`, and when it came;
    /// waits for it.
    ///
    /// # Errors
    /// If no such line comes within `patience`.
    pub fn wait_for_line(&self, text: &str, patience: Duration) -> Result<(Instant, String)> {
        let deadline = Instant::now() + patience;
        let mut lines = lock(&self.log.lines);
        let mut seen = 0;
        // Of a process that has ended the last lines may still be on their way.
        let mut ended_before = false;
        loop {
            if let Some(found) = lines[seen..].iter().find(|(_, l)| l.contains(text)) {
                return Ok(found.clone());
            }
            seen = lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if ended_before || left.is_zero() {
                let last = lines.iter().rev().take(5).map(|(_, l)| l.as_str()).collect::<Vec<_>>();
                let how = if ended_before { "ended without saying" } else { "does not say" };
                bail!("{} {how} '{text}' ({patience:?}); its last lines: {last:?}", self.name);
            }
            ended_before = !self.is_running();
            let step = left.min(Duration::from_millis(100));
            let waited = self.log.arrived.wait_timeout(lines, step);
            lines = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Everything it has written so far.
    #[must_use]
    pub fn output(&self) -> Vec<String> {
        lock(&self.log.lines).iter().map(|(_, l)| l.clone()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for pid in self.tree() {
            if self.is_running() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = self.wait(Duration::from_secs(5));
    }
}

/// User and system time of a process, from proc(5) `stat`, fields 14 and 15.
fn cpu_time_of(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in field 2 may hold anything but ends with the last parenthesis.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Duration::from_millis(ticks * 1000 / u64::try_from(per_second).unwrap_or(100))
}
