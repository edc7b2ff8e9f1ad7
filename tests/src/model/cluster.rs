//! One state of the model, and what may happen in it.

use super::play::{Play, calm, take};
use super::search::State;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;
use vipd_core::election::{Election, Event, Heard, Outcome, Params, Who};
use vipd_core::lease::{Answer, Holder, Lease, Request, Terms, Voter};
use vipd_core::settings::VrrpVersion;
use vipd_core::time::Time;
use vipd_core::wire::advert::PRIORITY_RELEASE;

pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// What every clock shows in every state: times are kept relative to it.
pub(super) const NOW: Time = Time::from_nanos(1_000_000_000_000);
/// What lies further back is all the same.
pub(super) const PAST: Duration = Duration::from_secs(8);
/// The number of a run's last request in every state.
pub(super) const NUMBER: u64 = 16;

/// How far the voters' clocks are from the holders'.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Drift {
    /// Holders are slow and voters fast, as far as the bound allows: when the
    /// holder has counted its lease, the promise ends.
    Worst,
    /// All run alike: a promise outlasts the lease by the padding.
    None,
    /// Far beyond the bound: what no lease survives, to see that the search finds it.
    Beyond,
}

impl Drift {
    /// What a voter must be asked for to keep a promise for as long, in steps of true time.
    pub(super) fn asked(self, lease: Duration) -> Duration {
        match self {
            // Times 11/9 it is the lease, to the nanosecond.
            Self::Worst => lease * 9 / 11,
            Self::None => lease,
            Self::Beyond => lease / 3,
        }
    }
}

/// What the search covers.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Hosts that may own.
    pub nodes: usize,
    /// Hosts that only vote.
    pub witnesses: usize,
    /// Whether a lease decides.
    pub quorum: bool,
    /// Whether it is kept in etcd, and not by the nodes and witnesses.
    pub etcd: bool,
    /// How often somebody deletes the key in etcd.
    pub deletions: u8,
    /// Clocks.
    pub drift: Drift,
    /// Length of a step.
    pub step: Duration,
    /// Messages that go astray: such a one arrives at any later time, any
    /// number of times, or never. Every other arrives within its step or is lost.
    pub strays: u8,
    /// Crashes with restart, of nodes and witnesses together.
    pub crashes: u8,
    /// How often a node is stopped for any time (SIGSTOP).
    pub pauses: u8,
    /// Planned switchovers.
    pub switchovers: u8,
    /// Whether it begins with an owner to whom every voter has promised, or
    /// with the start of every daemon.
    pub settled: bool,
    /// Steps of time; without a bound the search goes on until nothing is new.
    pub steps: Option<u8>,
}

impl Bounds {
    /// Two nodes and a witness, clocks at the ends of the drift bound, and no
    /// fault of a host; without an end.
    #[must_use]
    pub const fn smallest() -> Self {
        Self {
            nodes: 2,
            witnesses: 1,
            quorum: true,
            etcd: false,
            deletions: 0,
            drift: Drift::Worst,
            step: Duration::from_secs(1),
            strays: 0,
            crashes: 0,
            pauses: 0,
            switchovers: 0,
            settled: false,
            steps: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Said {
    Advert { priority: u8 },
    Request { run: u32, number: u64 },
    Grant { run: u32, number: u64 },
    Refuse { run: u32, number: u64, holder: Option<usize>, left: Duration },
    Release { run: u32, number: u64 },
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Message {
    from: usize,
    to: usize,
    said: Said,
    stray: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Host {
    /// None on a witness.
    election: Option<Election>,
    voter: Voter,
    run: u32,
    stopped: bool,
    /// Whether it answers for the address; when the guard or the kernel ends
    /// that for a stopped daemon.
    owns_until: Option<Time>,
}

/// A state.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Cluster {
    hosts: Vec<Host>,
    messages: BTreeSet<Message>,
    strays: u8,
    crashes: u8,
    pauses: u8,
    switchovers: u8,
    steps: Option<u8>,
}

/// What happens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// A step of time; timers go off. What has not arrived is lost.
    Step,
    /// A message arrives: its position among those on their way. What is
    /// answered to it arrives, too.
    Arrive(usize),
    /// A request arrives, and the answer is lost.
    ArriveOnly(usize),
    /// A request arrives, and the answer goes astray.
    ArriveStray(usize),
    /// A message goes astray.
    Stray(usize),
    /// A node's processes stand still.
    Stop(usize),
    /// They go on.
    Continue(usize),
    /// A host's daemon dies and starts anew.
    Crash(usize),
    /// An owner hands over.
    HandOver(usize),
}

impl State for Cluster {
    type Action = Action;

    fn owners(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|h| self.hosts[*h].owns_until.is_some()).collect()
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions = vec![];
        actions.extend((self.steps != Some(0)).then_some(Action::Step));
        for (n, message) in self.messages.iter().enumerate() {
            if !self.hosts[message.to].stopped {
                let asks = matches!(message.said, Said::Request { .. });
                if !asks || !self.hosts[message.from].stopped {
                    actions.push(Action::Arrive(n));
                }
                actions.extend(asks.then_some(Action::ArriveOnly(n)));
                actions.extend((asks && self.strays > 0).then_some(Action::ArriveStray(n)));
            }
            if self.strays > 0 && !message.stray {
                actions.push(Action::Stray(n));
            }
        }
        for (n, host) in self.hosts.iter().enumerate() {
            let node = host.election.is_some();
            if host.stopped {
                actions.push(Action::Continue(n));
            } else if node && self.pauses > 0 {
                actions.push(Action::Stop(n));
            }
            if self.crashes > 0 {
                actions.push(Action::Crash(n));
            }
            if node && !host.stopped && host.owns_until.is_some() && self.switchovers > 0 {
                actions.push(Action::HandOver(n));
            }
        }
        actions
    }

    fn after(&self, action: Action, bounds: &Bounds) -> Self {
        let mut next = self.clone();
        match action {
            Action::Step => {
                next.steps = next.steps.map(|left| left - 1);
                next.messages.retain(|m| m.stray);
                next.step(bounds);
            }
            Action::Arrive(n) => {
                let message = take(&mut next.messages, n, |m| m.stray);
                if let Some(answer) = next.arrive(message, bounds) {
                    next.arrive(answer, bounds);
                }
            }
            Action::ArriveOnly(n) => {
                let message = take(&mut next.messages, n, |m| m.stray);
                next.arrive(message, bounds);
            }
            Action::ArriveStray(n) => {
                next.strays -= 1;
                let message = take(&mut next.messages, n, |m| m.stray);
                let answer = next.arrive(message, bounds);
                next.messages.extend(answer.map(|m| Message { stray: true, ..m }));
            }
            Action::Stray(n) => {
                next.strays -= 1;
                let message = take(&mut next.messages, n, |m| m.stray);
                next.messages.insert(Message { stray: true, ..message });
            }
            Action::Stop(n) => {
                next.pauses -= 1;
                next.hosts[n].stopped = true;
            }
            Action::Continue(n) => {
                next.hosts[n].stopped = false;
                next.timers(n, NOW, bounds);
            }
            Action::Crash(n) => next.crash(n, bounds),
            Action::HandOver(n) => {
                next.switchovers -= 1;
                next.happen(n, Event::Release, NOW, bounds);
            }
        }
        next.rebase(Duration::ZERO);
        next
    }

    fn tell(&self, action: Action) -> String {
        match action {
            Action::Step => "a step of time".to_owned(),
            Action::Arrive(n) => self.tell_message(n, ""),
            Action::ArriveOnly(n) => self.tell_message(n, ", and the answer is lost"),
            Action::ArriveStray(n) => self.tell_message(n, ", and the answer goes astray"),
            Action::Stray(n) => self.tell_message(n, "... not yet: this goes astray"),
            Action::Stop(n) => format!("{} is stopped", name(n)),
            Action::Continue(n) => format!("{} goes on", name(n)),
            Action::Crash(n) => format!("{} crashes and starts anew", name(n)),
            Action::HandOver(n) => format!("{} hands over", name(n)),
        }
    }
}

impl Play for Cluster {
    fn election(&mut self, host: usize) -> &mut Option<Election> {
        &mut self.hosts[host].election
    }

    fn follow(&mut self, host: usize, election: &mut Election, outcome: Outcome, now: Time, bounds: &Bounds) {
        if outcome.disown.is_some() {
            self.hosts[host].owns_until = None;
            if outcome.release {
                self.say(host, Said::Advert { priority: PRIORITY_RELEASE }, bounds.nodes);
            }
        }
        if outcome.own.is_some() || self.hosts[host].owns_until.is_some() {
            self.hosts[host].owns_until = Some(match election.lease() {
                Some(lease) => lease.until().unwrap_or(now) + lease.grace(),
                // The kernel's lifetime, renewed with each advert.
                None if outcome.advertise => now + election.params().lease,
                None => self.hosts[host].owns_until.unwrap_or(now),
            });
        }
        if outcome.advertise {
            self.say(host, Said::Advert { priority: election.params().priority }, bounds.nodes);
        }
        let owns = self.hosts[host].owns_until.is_some();
        let free = if owns { None } else { election.give_back() };
        for number in outcome.give_back.into_iter().chain(free) {
            let run = self.hosts[host].run;
            self.hosts[host].voter.release(Holder { node: host, run }, number);
            self.say(host, Said::Release { run, number }, self.hosts.len());
        }
        if let Some(Request { number, lease, preempt: _ }) = outcome.ask {
            let run = self.hosts[host].run;
            self.say(host, Said::Request { run, number }, self.hosts.len());
            let holder = Holder { node: host, run };
            // Its own promise is by its own clock.
            let answer = self.hosts[host].voter.request(holder, number, lease, now);
            let answered = election.handle(Event::Answer { voter: host, number, answer }, now);
            self.follow(host, election, answered, now, bounds);
        }
    }
}

impl Cluster {
    /// The first state.
    pub(super) fn new(bounds: &Bounds) -> Self {
        if !bounds.settled {
            return Self::started(bounds);
        }
        // Everything arrives at once, until there has been an owner for long.
        let calm = calm(bounds);
        let mut cluster = Self::started(&calm);
        for _ in 0..20 {
            cluster = cluster.after(Action::Step, &calm);
            while !cluster.messages.is_empty() {
                cluster = cluster.after(Action::Arrive(0), &calm);
            }
        }
        let Bounds { strays, crashes, pauses, switchovers, steps, .. } = *bounds;
        Self { strays, crashes, pauses, switchovers, steps, ..cluster }
    }

    /// Every daemon starts now.
    fn started(bounds: &Bounds) -> Self {
        let hosts = (0..bounds.nodes + bounds.witnesses).map(|n| Host::new(n, 0, bounds)).collect();
        let Bounds { strays, crashes, pauses, switchovers, steps, .. } = *bounds;
        let mut cluster =
            Self { hosts, messages: BTreeSet::new(), strays, crashes, pauses, switchovers, steps };
        for node in 0..bounds.nodes {
            cluster.happen(node, Event::Startup, NOW, bounds);
        }
        cluster
    }

    fn tell_message(&self, n: usize, more: &str) -> String {
        let Some(m) = self.messages.iter().nth(n) else { return String::new() };
        format!("{} hears {}: {:?}{more}", name(m.to), name(m.from), m.said)
    }

    // ---- what happens -----------------------------------------------------------

    fn step(&mut self, bounds: &Bounds) {
        let end = NOW + bounds.step;
        for host in 0..self.hosts.len() {
            if !self.hosts[host].stopped {
                self.timers(host, end, bounds);
            }
            let h = &mut self.hosts[host];
            h.owns_until = h.owns_until.filter(|until| *until > end);
        }
        self.rebase(bounds.step);
    }

    /// The answer, if there is one.
    fn arrive(&mut self, message: Message, bounds: &Bounds) -> Option<Message> {
        let Message { from, to, said, .. } = message;
        let lease = Terms::length_of(INTERVAL);
        match said {
            Said::Advert { priority } => {
                let release = priority == PRIORITY_RELEASE;
                let wait = release.then(|| Duration::from_millis(250) * u32::from(to > 1));
                let who = Who::Node(from);
                let heard = Heard { who, priority, interval: INTERVAL, source_is_greater: from > to, wait };
                self.happen(to, Event::Advert(heard), NOW, bounds);
            }
            Said::Request { run, number } => {
                let holder = Holder { node: from, run };
                let answer = self.hosts[to].voter.request(holder, number, bounds.drift.asked(lease), NOW);
                let said = match answer {
                    Answer::Granted => Said::Grant { run, number },
                    Answer::Refused { holder, left } => Said::Refuse { run, number, holder, left },
                };
                return Some(Message { from: to, to: from, said, stray: false });
            }
            Said::Grant { run, number } => self.answer(to, from, run, number, Answer::Granted, bounds),
            Said::Refuse { run, number, holder, left } => {
                self.answer(to, from, run, number, Answer::Refused { holder, left }, bounds);
            }
            Said::Release { run, number } => {
                self.hosts[to].voter.release(Holder { node: from, run }, number);
                if let Some(election) = &mut self.hosts[to].election {
                    election.hurry(NOW);
                    self.timers(to, NOW, bounds);
                }
            }
        }
        None
    }

    fn answer(&mut self, to: usize, voter: usize, run: u32, number: u64, answer: Answer, bounds: &Bounds) {
        if self.hosts[to].run == run {
            self.happen(to, Event::Answer { voter, number, answer }, NOW, bounds);
        }
    }

    fn crash(&mut self, host: usize, bounds: &Bounds) {
        self.crashes -= 1;
        let owned = self.hosts[host].owns_until.is_some();
        let run = self.hosts[host].run;
        self.hosts[host] = Host::new(host, run + 1, bounds);
        if owned {
            // The guard deletes the address, and then says so; a power failure
            // is the same, and what it says is lost.
            self.say(host, Said::Advert { priority: PRIORITY_RELEASE }, bounds.nodes);
            if bounds.quorum {
                self.say(host, Said::Release { run, number: u64::MAX }, self.hosts.len());
            }
        }
        self.happen(host, Event::Startup, NOW, bounds);
    }

    fn say(&mut self, from: usize, said: Said, among: usize) {
        for to in (0..among).filter(|to| *to != from) {
            self.send(from, to, said);
        }
    }

    fn send(&mut self, from: usize, to: usize, said: Said) {
        self.messages.insert(Message { from, to, said, stray: false });
    }

    /// Brings the clock back to where it was, and numbers with it.
    fn rebase(&mut self, passed: Duration) {
        let oldest = NOW.before(PAST);
        let time = |at: Time| if at == Time::MAX { at } else { at.before(passed).max(oldest) };
        let last: Vec<(u32, u64)> = self
            .hosts
            .iter()
            .map(|h| (h.run, h.election.as_ref().and_then(Election::lease).map_or(NUMBER, Lease::number)))
            .collect();
        // Of an earlier run only the end of all numbers is of use, or that it is over.
        let number = |node: usize, run: u32, n: u64| match last[node] {
            _ if n == u64::MAX => n,
            (of, newest) if of == run => (n + NUMBER).saturating_sub(newest),
            _ => n,
        };
        // What a number would be compared with must be on its way to the voter.
        let messages = &self.messages;
        let coming = |to: usize, by: Holder, at_most: u64, requests: bool| {
            messages.iter().filter(|m| m.to == to && m.from == by.node).any(|m| match m.said {
                Said::Request { run, number } => requests && run == by.run && number <= at_most,
                Said::Release { run, number } => !requests && run == by.run && number < at_most,
                Said::Advert { .. } | Said::Grant { .. } | Said::Refuse { .. } => false,
            })
        };
        for (node, host) in self.hosts.iter_mut().enumerate() {
            let promised = |by: Holder, n: u64| match coming(node, by, n, false) {
                true => number(by.node, by.run, n),
                // Whatever comes will be newer.
                false => 0,
            };
            let released = |by: Holder, n: u64| coming(node, by, n, true).then(|| number(by.node, by.run, n));
            host.voter.rebase(NOW, time, promised, released);
            host.owns_until = host.owns_until.map(time);
            let run = host.run;
            if let Some(election) = &mut host.election {
                election.rebase(NOW, time, |n| number(node, run, n));
            }
        }
        let of = |m: &Message| {
            let said = match m.said {
                Said::Advert { priority } => Said::Advert { priority },
                Said::Request { run, number: n } => Said::Request { run, number: number(m.from, run, n) },
                Said::Release { run, number: n } => Said::Release { run, number: number(m.from, run, n) },
                Said::Grant { run, number: n } => Said::Grant { run, number: number(m.to, run, n) },
                Said::Refuse { run, number: n, holder, left } => {
                    Said::Refuse { run, number: number(m.to, run, n), holder, left }
                }
            };
            Message { said, ..*m }
        };
        self.messages = self.messages.iter().map(of).collect();
        self.forget();
    }

    /// Answers to earlier runs count for nothing.
    fn forget(&mut self) {
        let hosts = &self.hosts;
        let of_this_run = |m: &Message| match m.said {
            Said::Grant { run, .. } | Said::Refuse { run, .. } => hosts[m.to].run == run,
            Said::Advert { .. } | Said::Request { .. } | Said::Release { .. } => true,
        };
        self.messages.retain(of_this_run);
    }
}

impl Host {
    fn new(host: usize, run: u32, bounds: &Bounds) -> Self {
        let length = Terms::length_of(INTERVAL);
        let election = (host < bounds.nodes).then(|| {
            let terms = Terms {
                voters: bounds.nodes + bounds.witnesses,
                interval: INTERVAL,
                pause: INTERVAL / 2 * (1 + u32::try_from(host).unwrap_or(0)),
                gap: bounds.step,
                keep: false,
                registered: None,
            };
            Election::new(params(host)).with_lease(bounds.quorum.then(|| Lease::new(terms)))
        });
        let voter = Voter::new(bounds.drift.asked(length), NOW);
        Self { election, voter, run, stopped: false, owns_until: None }
    }
}

/// A node's parameters: each comes before the next.
pub(super) fn params(host: usize) -> Params {
    Params {
        priority: 192_u8.saturating_sub(64 * u8::try_from(host).unwrap_or(0)).max(1),
        interval: INTERVAL,
        version: VrrpVersion::V3,
        preempt: false,
        preempt_delay: Duration::ZERO,
        lease: INTERVAL * 3,
    }
}

pub(super) fn name(host: usize) -> String {
    format!("host {}", host + 1)
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            nodes,
            witnesses,
            quorum,
            etcd,
            deletions,
            drift,
            step,
            strays,
            crashes,
            pauses,
            switchovers,
            settled,
            steps,
        } = self;
        let from = if *settled { "an owner" } else { "the start" };
        let steps = steps.map_or("any number".to_owned(), |steps| steps.to_string());
        let lease = match (quorum, etcd) {
            (false, _) => "no quorum".to_owned(),
            (true, false) => "quorum".to_owned(),
            (true, true) => format!("quorum in etcd, {deletions} deletions of its key"),
        };
        write!(
            f,
            "{nodes} nodes, {witnesses} witnesses, {lease}, drift {drift:?}, from {from} on, {steps} of steps of {}/1000 interval, {strays} \
             messages astray, {crashes} crashes, {pauses} stops, {switchovers} switchovers",
            step.as_millis()
        )
    }
}
