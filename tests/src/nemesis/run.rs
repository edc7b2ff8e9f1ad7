//! Carries a schedule out in a lab of its own.

use super::schedule::{Fault, Layout, Schedule, Step};
use super::verdict::{Verdict, doubles};
use crate::lab::etcd::Etcd;
use crate::lab::vipd::{self, Vipd, program};
use crate::lab::{Host, Lab, Process};
use crate::probe::EchoProbe;
use crate::scene::{ECHO_PORT, Scene, VIP, write_key};
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The voters' own addresses.
const ADDRESSES: [&str; 3] = ["10.77.0.11", "10.77.0.12", "10.77.0.13"];
/// How long a cluster may take to an owner, beside its adverts.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the quorum is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// The nodes and witnesses vote.
    Majority,
    /// There is none.
    None,
    /// In etcd, on a host of its own or in the place of the witness.
    Etcd,
}

impl Mode {
    /// As the settings have it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Majority => "majority",
            Self::None => "none",
            Self::Etcd => "etcd",
        }
    }

    /// How long a lease lasts; faults are as long in proportion to it.
    fn lease(self, interval: Duration) -> Duration {
        match self {
            Self::Majority | Self::None => interval * 3,
            Self::Etcd => (interval * 3).max(Duration::from_secs(1)),
        }
    }

    /// The schedule of a seed: where etcd keeps the quorum it is struck, too.
    #[must_use]
    pub fn schedule(self, seed: u64) -> Schedule {
        match self {
            Self::Majority | Self::None => Schedule::draw(seed),
            Self::Etcd => Schedule::draw(seed).against_etcd(),
        }
    }

    /// The schedule, stretched as the lease is longer.
    fn stretch(self, schedule: &Schedule) -> Schedule {
        let (lease, usual) = (self.lease(schedule.interval), schedule.interval * 3);
        let factor = u32::try_from(lease.as_millis() / usual.as_millis().max(1)).unwrap_or(1).max(1);
        let step = |s: &Step| Step { at: s.at * factor, lasts: s.lasts * factor, ..*s };
        Schedule { steps: schedule.steps.iter().map(step).collect(), ..schedule.clone() }
    }
}

/// A cluster under attack.
pub(super) struct Cluster {
    pub(super) lab: Lab,
    pub(super) hosts: Vec<Host>,
    /// Each voter's, also one that has ended.
    pub(super) daemons: Vec<Option<Vipd>>,
    pub(super) probe: EchoProbe,
    /// In the place of the witness, if there would be one; else on hosts of its own.
    etcd: Option<Etcd>,
    /// Voters whose daemons faults have ended, once a fault.
    ended: Vec<usize>,
    layout: Layout,
    config: String,
    _echoes: Vec<Process>,
    /// Commands of the operator that may still run.
    commands: Vec<Process>,
}

impl Cluster {
    /// Starts all daemons and waits until one owns and answers the client.
    pub(super) fn start(
        lab: &Lab,
        layout: Layout,
        interval: Duration,
        groups: u8,
        mode: Mode,
    ) -> Result<Self> {
        let voters = layout.voters();
        let nodes: Vec<(&str, &str)> = voters.into_iter().zip(ADDRESSES).take(layout.proxies()).collect();
        let mut config = vipd::Config::new(&nodes, interval, &[&format!("{VIP}/16")]);
        let more = (1..groups).map(|n| (format!("g{n}"), 51 + n, vec![format!("10.77.1.{n}/16")]));
        config.vips.extend(more);
        if layout == Layout::TwoAndWitness && mode != Mode::Etcd {
            let [.., witness] = ADDRESSES;
            config.cluster.push(format!("witnesses = [{{ name = \"w1\", address = \"{witness}\" }}]"));
        }
        config.election.push(format!("quorum = \"{}\"", mode.word()));
        let client = lab.host("client", &["10.77.0.50/16"])?;
        let make = |(name, own): (&str, &str)| lab.host(name, &[&format!("{own}/16")]);
        let mut hosts: Vec<Host> = voters.into_iter().zip(ADDRESSES).map(make).collect::<Result<_>>()?;
        let etcd = match (mode, layout) {
            (Mode::Majority | Mode::None, _) => None,
            (Mode::Etcd, Layout::TwoAndWitness) => {
                let [.., place] = ADDRESSES;
                Some(Etcd::start_on(vec![(hosts[2].clone(), place.to_owned())], None)?)
            }
            (Mode::Etcd, Layout::Three) => Some(Etcd::start(lab, layout.etcd().len(), None)?),
        };
        if let Some(etcd) = &etcd {
            if hosts.len() == layout.etcd().start {
                hosts.extend((0..layout.etcd().len()).map(|member| etcd.host(member).clone()));
            }
            let lease = mode.lease(interval).as_millis();
            config.rest = format!("[etcd]\nendpoints = {:?}\nlease = \"{lease}ms\"\n", etcd.endpoints());
        }
        let port = ECHO_PORT.to_string();
        let echo = |h: &Host| h.tool(&["echo", h.name(), &port]);
        let echoes = hosts.iter().take(layout.proxies()).map(echo).collect::<Result<_>>()?;
        let mut cluster = Self {
            lab: lab.clone(),
            daemons: (0..hosts.len()).map(|_| None).collect(),
            probe: EchoProbe::start(&client, Scene::echo(), Duration::from_millis(1))?,
            hosts,
            etcd,
            ended: Vec::new(),
            layout,
            config: config.to_text(),
            _echoes: echoes,
            commands: Vec::new(),
        };
        for voter in [0, 2, 1].into_iter().filter(|v| !cluster.is_etcd(*v)).collect::<Vec<_>>() {
            cluster.launch(voter)?;
        }
        lab.addresses().wait_for_one(Scene::vip(), PATIENCE + interval * 8)?;
        cluster.probe.wait_for_any(PATIENCE)?;
        for proxy in 0..layout.proxies() {
            cluster.sees_an_owner(proxy)?;
        }
        Ok(cluster)
    }

    fn sees_an_owner(&self, proxy: usize) -> Result<()> {
        let Some(daemon) = &self.daemons[proxy] else { return Ok(()) };
        crate::lab::poll_until("a proxy follows the owner", PATIENCE, || {
            let status = daemon.status().unwrap_or_default();
            Ok(status["vips"][0]["owner"].is_string())
        })
    }

    /// Whether etcd runs there, and no vipd.
    fn is_etcd(&self, host: usize) -> bool {
        self.etcd.is_some() && self.layout.etcd().contains(&host)
    }

    /// Which of its members.
    fn member(&self, host: usize) -> usize {
        host - self.layout.etcd().start
    }

    pub(super) fn launch(&mut self, voter: usize) -> Result<()> {
        if self.is_etcd(voter) {
            let member = self.member(voter);
            return self.etcd.as_mut().map_or(Ok(()), |etcd| etcd.restart(member));
        }
        let host = &self.hosts[voter];
        let line = format!("[cluster]\nkey-file = {:?}", write_key(host, &"1".repeat(64))?);
        self.daemons[voter] = Some(Vipd::start(host, &self.config.replacen("[cluster]", &line, 1))?);
        Ok(())
    }

    pub(super) fn process(&self, voter: usize) -> Option<&Process> {
        let etcd = self.etcd.as_ref().filter(|_| self.is_etcd(voter));
        let etcd = etcd.map(|e| e.process(self.member(voter)));
        etcd.or_else(|| self.daemons[voter].as_ref().map(Vipd::process)).filter(|p| p.is_running())
    }

    fn signal(&self, voter: usize, signal: Signal) {
        // Another fault may have ended it: then there is nothing to do.
        let _ = self.process(voter).map(|p| p.signal(signal));
    }

    fn begin(&mut self, fault: Fault) -> Result<()> {
        match fault {
            // The switch is told of all of them together.
            Fault::Partition(..) | Fault::Isolate(_) | Fault::OneWay(..) | Fault::Loss(..) => Ok(()),
            Fault::LinkFlap(voter) => self.lab.cut(&self.hosts[voter]),
            Fault::Kill(voter) => {
                self.ended.push(voter);
                self.signal(voter, Signal::SIGKILL);
                Ok(())
            }
            Fault::Restart(voter) => {
                self.ended.push(voter);
                self.signal(voter, Signal::SIGTERM);
                Ok(())
            }
            Fault::Freeze(voter) => {
                self.signal(voter, Signal::SIGSTOP);
                Ok(())
            }
            Fault::FreezeAll(voter) => self.process(voter).map_or(Ok(()), |p| p.signal_tree(Signal::SIGSTOP)),
            Fault::DeleteVip(proxy) => {
                // Where it is not there is nothing to delete.
                self.hosts[proxy].try_run("ip", &["addr", "del", &format!("{VIP}/16"), "dev", "eth0"])?;
                Ok(())
            }
            Fault::Switchover(proxy) => {
                let mut command = Command::new(program("vipctl")?);
                command.arg("--runtime-dir").arg(self.hosts[proxy].dir().join("runtime"));
                command.args(["switchover", "main", "--yes"]);
                self.commands.push(self.hosts[proxy].spawn("vipctl", &mut command)?);
                Ok(())
            }
        }
    }

    fn end(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Partition(..) | Fault::Isolate(_) | Fault::OneWay(..) | Fault::Loss(..) => Ok(()),
            Fault::LinkFlap(voter) => self.lab.mend(&self.hosts[voter]),
            Fault::Kill(voter) => self.bring_back(voter, Signal::SIGKILL),
            Fault::Restart(voter) => self.bring_back(voter, Signal::SIGTERM),
            Fault::Freeze(voter) | Fault::FreezeAll(voter) => {
                self.process(voter).map_or(Ok(()), |p| p.signal_tree(Signal::SIGCONT))
            }
            Fault::DeleteVip(_) | Fault::Switchover(_) => Ok(()),
        }
    }

    /// Starts a daemon that was ended again, when the old one is gone. One that
    /// another fault's end has brought back already is left alone.
    fn bring_back(&mut self, voter: usize, ended_by: Signal) -> Result<()> {
        let still = self.ended.iter().filter(|v| **v == voter).count();
        if let Some(first) = self.ended.iter().position(|v| *v == voter) {
            self.ended.remove(first);
        }
        if still > 1 {
            return Ok(());
        }
        if let Some(process) = self.process(voter) {
            // One that is frozen has its SIGTERM still before it.
            self.signal(voter, Signal::SIGCONT);
            if process.wait(Duration::from_secs(3)).is_err() {
                // Its guard lives and withdraws.
                self.signal(voter, Signal::SIGKILL);
                process.wait(PATIENCE).with_context(|| format!("{ended_by} did not end it"))?;
            }
        }
        self.launch(voter)
    }

    fn filter(&self, faults: &[Fault]) -> Result<()> {
        let names = self.layout.hosts();
        let mut drops = Vec::new();
        for fault in faults {
            match *fault {
                Fault::Partition(a, b) => drops.extend([(a, b, 100), (b, a, 100)]),
                Fault::OneWay(a, b) => drops.push((a, b, 100)),
                Fault::Loss(a, b, share) => drops.extend([(a, b, share), (b, a, share)]),
                Fault::Isolate(a) => {
                    let others = (0..names.len()).filter(|b| *b != a);
                    drops.extend(others.flat_map(|b| [(a, b, 100), (b, a, 100)]));
                }
                Fault::LinkFlap(_)
                | Fault::Kill(_)
                | Fault::Restart(_)
                | Fault::Freeze(_)
                | Fault::FreezeAll(_)
                | Fault::DeleteVip(_)
                | Fault::Switchover(_) => {}
            }
        }
        let drops: Vec<_> = drops.into_iter().map(|(a, b, share)| (names[a], names[b], share)).collect();
        self.lab.filter(&drops)
    }

    /// Carries the faults out, each at its time, or as soon as those before it
    /// let it; gives the times at which they were.
    fn attack(&mut self, schedule: &Schedule, start: Instant) -> Result<Vec<Step>> {
        let begin = schedule.steps.iter().enumerate().map(|(n, s)| (s.at, true, n));
        let end = schedule.steps.iter().enumerate().map(|(n, s)| (s.at + s.lasts, false, n));
        let mut moments: Vec<(Duration, bool, usize)> = begin.chain(end).collect();
        moments.sort_by_key(|(at, ..)| *at);
        let mut done = schedule.steps.clone();
        let mut active: Vec<Fault> = Vec::new();
        for (at, begins, number) in moments {
            let fault = schedule.steps[number].fault;
            sleep((start + at).saturating_duration_since(Instant::now()));
            if begins {
                done[number].at = start.elapsed();
                active.push(fault);
            } else if let Some(first) = active.iter().position(|f| *f == fault) {
                active.remove(first);
            }
            if matches!(fault, Fault::Partition(..) | Fault::Isolate(_) | Fault::OneWay(..) | Fault::Loss(..))
            {
                self.filter(&active)?;
            }
            if begins {
                self.begin(fault)?;
            } else {
                self.end(fault)?;
                done[number].lasts = start.elapsed().saturating_sub(done[number].at);
            }
        }
        Ok(done)
    }
}

/// Runs a schedule in a mode; where leases are longer, so are the faults.
///
/// # Errors
/// If the lab or a daemon cannot be started, or a fault cannot be made.
pub fn run(schedule: &Schedule, mode: Mode) -> Result<(Verdict, Lab)> {
    let lab = Lab::new()?;
    let schedule = &mode.stretch(schedule);
    let mut cluster = Cluster::start(&lab, schedule.layout, schedule.interval, 1, mode)
        .with_context(|| format!("the cluster does not start\n{}", lab.report()))?;
    let _ = cluster.probe.take_lateness();
    let start = Instant::now();
    let done = Schedule { steps: cluster.attack(schedule, start)?, ..schedule.clone() };
    // Every fault is over: one owner comes back, and stays alone.
    let settle = PATIENCE + schedule.interval * 10;
    let one = lab.addresses().wait_for_one(Scene::vip(), settle);
    sleep(schedule.interval * 8);
    let owner = one.and_then(|_| lab.addresses().wait_for_one(Scene::vip(), settle)).ok();
    if owner.is_some() {
        // Its gap counts, however long it is.
        let _ = cluster.probe.wait_for_any(PATIENCE);
    }
    let end = Instant::now();
    let late = cluster.probe.take_lateness();
    let outage = cluster.probe.longest_gap(start).map_or(Duration::ZERO, |g| g.length);
    let since = start.checked_sub(Duration::from_secs(60)).unwrap_or(start);
    let changes = lab.addresses().changes(Scene::vip(), since);
    let verdict = Verdict { doubles: doubles(&changes, start, end, &done), outage, late, owner };
    Ok((verdict, lab))
}
