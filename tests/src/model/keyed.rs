//! A cluster whose quorum is kept in etcd: the same election and lease, and in
//! the voters' place a key that changes by compare-and-swap.
//!
//! etcd itself is one step: what a majority of it has agreed to. On the way
//! there and back anything may happen to an operation: it is lost and repeated,
//! carried out twice, late, or when nobody waits for it any more; its answer is
//! lost or late. A watch tells a node of the key as it is, or never.

mod rebase;

use super::cluster::{Bounds, INTERVAL, NOW, name, params};
use super::play::{Play, calm, take};
use super::search::State;
use std::collections::BTreeSet;
use std::num::NonZeroU8;
use std::time::Duration;
use vipd_core::election::{Election, Event, Heard, Outcome, Who};
use vipd_core::lease::register::{self, Operation, Record, Registers, Sight, Step};
use vipd_core::lease::{Lease, Request, Terms};
use vipd_core::time::Time;
use vipd_core::wire::advert::PRIORITY_RELEASE;

const VRID: NonZeroU8 = NonZeroU8::MIN;
/// The lease in etcd, in steps of time as that of the voters.
const LEASE: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Said {
    /// To another node.
    Advert { to: usize, priority: u8 },
    /// To another node.
    Release { to: usize, run: u32, number: u64 },
    /// To etcd: an operation of the node's run.
    Ask { run: u32, id: u64, operation: Operation },
    /// By etcd, to the node.
    Answer { run: u32, id: u64, outcome: register::Outcome },
}

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Message {
    /// Who said it, or asked for it.
    node: usize,
    said: Said,
    stray: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Host {
    election: Option<Election>,
    registers: Registers,
    run: u32,
    stopped: bool,
    owns_until: Option<Time>,
}

/// A state.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Keyed {
    hosts: Vec<Host>,
    /// The last revision that was given, and the key.
    revision: u64,
    key: Option<(u64, Record)>,
    messages: BTreeSet<Message>,
    /// Somebody has deleted the key: of that news may be late, too.
    deleted: bool,
    deletions: u8,
    strays: u8,
    crashes: u8,
    pauses: u8,
    switchovers: u8,
    steps: Option<u8>,
}

/// What happens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// A step of time; timers go off. What has not arrived is lost, and what etcd did not answer is asked again.
    Step,
    /// A message arrives, and etcd's answer to it, if it is asked.
    Arrive(usize),
    /// etcd is asked, and its answer is lost.
    ArriveOnly(usize),
    /// etcd is asked, and its answer goes astray.
    ArriveStray(usize),
    /// A message goes astray: it arrives at any later time, any number of times.
    Stray(usize),
    /// The watch of a node tells how the key is now.
    News(usize),
    /// The watch of a node tells that the key was deleted, which may be long ago.
    OldNews(usize),
    /// Somebody deletes the key.
    Delete,
    /// A node's processes stand still.
    Stop(usize),
    /// They go on.
    Continue(usize),
    /// A host's daemon dies and starts anew.
    Crash(usize),
    /// An owner hands over.
    HandOver(usize),
}

impl State for Keyed {
    type Action = Action;

    fn owners(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|h| self.hosts[*h].owns_until.is_some()).collect()
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions = vec![];
        actions.extend((self.steps != Some(0)).then_some(Action::Step));
        for (n, message) in self.messages.iter().enumerate() {
            let asks = matches!(message.said, Said::Ask { .. });
            if !self.hosts[message.receiver()].stopped {
                actions.push(Action::Arrive(n));
            }
            actions.extend(asks.then_some(Action::ArriveOnly(n)));
            actions.extend((asks && self.strays > 0).then_some(Action::ArriveStray(n)));
            if self.strays > 0 && !message.stray {
                actions.push(Action::Stray(n));
            }
        }
        actions.extend((self.deletions > 0 && self.key.is_some()).then_some(Action::Delete));
        for (n, host) in self.hosts.iter().enumerate() {
            match host.stopped {
                true => actions.push(Action::Continue(n)),
                false => {
                    actions.push(Action::News(n));
                    actions.extend(self.deleted.then_some(Action::OldNews(n)));
                    actions.extend((self.pauses > 0).then_some(Action::Stop(n)));
                    let owns = host.owns_until.is_some();
                    actions.extend((owns && self.switchovers > 0).then_some(Action::HandOver(n)));
                }
            }
            actions.extend((self.crashes > 0).then_some(Action::Crash(n)));
        }
        actions
    }

    fn after(&self, action: Action, bounds: &Bounds) -> Self {
        let mut next = self.clone();
        let mut passed = Duration::ZERO;
        match action {
            Action::Step => {
                next.steps = next.steps.map(|left| left - 1);
                next.messages.retain(|m| m.stray);
                next.step(bounds);
                passed = bounds.step;
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
            Action::News(n) => {
                let sight = next.sight();
                next.news(n, sight, bounds);
            }
            Action::OldNews(n) => next.news(n, Sight { revision: 0, record: None }, bounds),
            Action::Delete => {
                next.deletions -= 1;
                (next.key, next.deleted) = (None, true);
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
        next.rebase(passed);
        next
    }

    fn tell(&self, action: Action) -> String {
        match action {
            Action::Step => "a step of time".to_owned(),
            Action::Arrive(n) => self.tell_message(n, ""),
            Action::ArriveOnly(n) => self.tell_message(n, ", and the answer is lost"),
            Action::ArriveStray(n) => self.tell_message(n, ", and the answer goes astray"),
            Action::Stray(n) => self.tell_message(n, "... not yet: this goes astray"),
            Action::News(n) => format!("{} is told of the key: {:?}", name(n), self.key),
            Action::OldNews(n) => format!("{} is told that the key was deleted", name(n)),
            Action::Delete => "somebody deletes the key".to_owned(),
            Action::Stop(n) => format!("{} is stopped", name(n)),
            Action::Continue(n) => format!("{} goes on", name(n)),
            Action::Crash(n) => format!("{} crashes and starts anew", name(n)),
            Action::HandOver(n) => format!("{} hands over", name(n)),
        }
    }
}

impl Message {
    /// Which node it, or the answer to it, is for.
    const fn receiver(&self) -> usize {
        match &self.said {
            Said::Advert { to, .. } | Said::Release { to, .. } => *to,
            Said::Ask { .. } | Said::Answer { .. } => self.node,
        }
    }
}

impl Play for Keyed {
    fn election(&mut self, host: usize) -> &mut Option<Election> {
        &mut self.hosts[host].election
    }

    fn follow(&mut self, host: usize, election: &mut Election, outcome: Outcome, now: Time, bounds: &Bounds) {
        if outcome.disown.is_some() {
            self.hosts[host].owns_until = None;
            if outcome.release {
                self.say(host, bounds, |to| Said::Advert { to, priority: PRIORITY_RELEASE });
            }
        }
        if outcome.own.is_some() || self.hosts[host].owns_until.is_some() {
            let until =
                election.lease().map(|lease| lease.until().unwrap_or(now) + lease.grace()).unwrap_or(now);
            self.hosts[host].owns_until = Some(until);
        }
        if outcome.advertise {
            let priority = election.params().priority;
            self.say(host, bounds, |to| Said::Advert { to, priority });
        }
        let owns = self.hosts[host].owns_until.is_some();
        let free = if owns { None } else { election.give_back() };
        for number in outcome.give_back.into_iter().chain(free) {
            let run = self.hosts[host].run;
            self.say(host, bounds, |to| Said::Release { to, run, number });
            let step = self.hosts[host].registers.give_back(VRID, number, now);
            self.registered_with(host, election, step, now, bounds);
        }
        if let Some(Request { number, lease, preempt: _ }) = outcome.ask {
            // Others count 11/9 of what is written: in steps of true time.
            let step = self.hosts[host].registers.take(VRID, number, bounds.drift.asked(lease), now);
            self.registered_with(host, election, step, now, bounds);
        }
    }
}

impl Keyed {
    pub(super) fn new(bounds: &Bounds) -> Self {
        if !bounds.settled {
            return Self::started(bounds);
        }
        // Everything arrives at once, until there has been an owner for long.
        let calm = calm(bounds);
        let mut state = Self::started(&calm);
        for _ in 0..20 {
            state = state.after(Action::Step, &calm);
            while !state.messages.is_empty() {
                state = state.after(Action::Arrive(0), &calm);
            }
            for node in 0..bounds.nodes {
                state = state.after(Action::News(node), &calm);
            }
        }
        let Bounds { deletions, strays, crashes, pauses, switchovers, steps, .. } = *bounds;
        Self { deletions, strays, crashes, pauses, switchovers, steps, ..state }
    }

    /// Every daemon starts now, and there is no key.
    fn started(bounds: &Bounds) -> Self {
        let Bounds { deletions, strays, crashes, pauses, switchovers, steps, .. } = *bounds;
        let mut state = Self {
            hosts: (0..bounds.nodes).map(|n| Host::new(n, 0, bounds)).collect(),
            revision: 0,
            key: None,
            messages: BTreeSet::new(),
            deleted: false,
            deletions,
            strays,
            crashes,
            pauses,
            switchovers,
            steps,
        };
        for node in 0..bounds.nodes {
            state.happen(node, Event::Startup, NOW, bounds);
        }
        state.rebase(Duration::ZERO);
        state
    }

    fn tell_message(&self, n: usize, more: &str) -> String {
        let Some(m) = self.messages.iter().nth(n) else { return String::new() };
        match &m.said {
            Said::Ask { operation, .. } => format!("etcd is asked by {}: {operation:?}{more}", name(m.node)),
            Said::Answer { outcome, .. } => format!("etcd answers {}: {outcome:?}{more}", name(m.node)),
            Said::Advert { to, .. } | Said::Release { to, .. } => {
                format!("{} hears {}: {:?}{more}", name(*to), name(m.node), m.said)
            }
        }
    }

    // ---- what happens -----------------------------------------------------------

    fn step(&mut self, bounds: &Bounds) {
        let end = NOW + bounds.step;
        for host in 0..self.hosts.len() {
            if !self.hosts[host].stopped {
                self.timers(host, end, bounds);
                // The client asks until it is answered.
                let h = &self.hosts[host];
                if let Some((id, operation)) = h.registers.flying(VRID) {
                    let said = Said::Ask { run: h.run, id, operation: operation.clone() };
                    self.messages.insert(Message { node: host, said, stray: false });
                }
            }
            let h = &mut self.hosts[host];
            h.owns_until = h.owns_until.filter(|until| *until > end);
        }
    }

    fn sight(&self) -> Sight {
        match &self.key {
            None => Sight { revision: 0, record: None },
            Some((revision, record)) => Sight { revision: *revision, record: Some(record.clone()) },
        }
    }

    fn carry_out(&mut self, operation: &Operation) -> register::Outcome {
        let sight = self.sight();
        match operation {
            Operation::Swap { expected, record } if *expected == sight.revision => {
                self.revision += 1;
                self.key = Some((self.revision, record.clone()));
                register::Outcome::Swapped(self.revision)
            }
            Operation::Swap { .. } | Operation::Read => register::Outcome::Seen(sight),
        }
    }

    /// The answer, if there is one.
    fn arrive(&mut self, message: Message, bounds: &Bounds) -> Option<Message> {
        let Message { node, said, .. } = message;
        match said {
            Said::Advert { to, priority } => {
                let release = priority == PRIORITY_RELEASE;
                let wait = release.then(|| Duration::from_millis(250) * u32::from(to > 1));
                let who = Who::Node(node);
                let heard = Heard { who, priority, interval: INTERVAL, source_is_greater: node > to, wait };
                self.happen(to, Event::Advert(heard), NOW, bounds);
            }
            Said::Release { to, run, number } => {
                let host = &mut self.hosts[to];
                host.registers.released(VRID, &node_name(node), run, number);
                if let Some(election) = &mut host.election {
                    election.hurry(NOW);
                }
                self.timers(to, NOW, bounds);
            }
            Said::Ask { run, id, operation } => {
                let outcome = self.carry_out(&operation);
                return Some(Message { node, said: Said::Answer { run, id, outcome }, stray: false });
            }
            Said::Answer { run, id, outcome } if self.hosts[node].run == run => {
                let step = self.hosts[node].registers.answered(VRID, id, outcome, NOW);
                self.registered(node, step, bounds);
            }
            // To a run that is over.
            Said::Answer { .. } => {}
        }
        None
    }

    fn news(&mut self, host: usize, sight: Sight, bounds: &Bounds) {
        let step = self.hosts[host].registers.news(VRID, sight, NOW);
        self.registered(host, step, bounds);
    }

    /// What a node does by what it knows of the key.
    fn registered(&mut self, host: usize, step: Step, bounds: &Bounds) {
        let Some(mut election) = self.hosts[host].election.take() else { return };
        self.registered_with(host, &mut election, step, NOW, bounds);
        self.hosts[host].election = Some(election);
        self.timers(host, NOW, bounds);
    }

    fn registered_with(
        &mut self,
        host: usize,
        election: &mut Election,
        step: Step,
        now: Time,
        bounds: &Bounds,
    ) {
        let Step { operation, answer, opened } = step;
        if let Some((id, operation)) = operation {
            let said = Said::Ask { run: self.hosts[host].run, id, operation };
            self.messages.insert(Message { node: host, said, stray: false });
        }
        if let Some((number, answer)) = answer {
            let late = election.deadline().map_or(Duration::ZERO, |at| now - at);
            for event in [Event::Wake(late), Event::Answer { voter: 0, number, answer }] {
                let outcome = election.handle(event, now);
                self.follow(host, election, outcome, now, bounds);
            }
        }
        if opened {
            election.hurry(now);
        }
    }

    fn crash(&mut self, host: usize, bounds: &Bounds) {
        self.crashes -= 1;
        let (owned, run) = (self.hosts[host].owns_until.is_some(), self.hosts[host].run);
        self.hosts[host] = Host::new(host, run + 1, bounds);
        if owned {
            self.say(host, bounds, |to| Said::Advert { to, priority: PRIORITY_RELEASE });
            self.say(host, bounds, |to| Said::Release { to, run, number: u64::MAX });
        }
        self.happen(host, Event::Startup, NOW, bounds);
    }

    fn say(&mut self, node: usize, bounds: &Bounds, said: impl Fn(usize) -> Said) {
        let others = (0..bounds.nodes).filter(|to| *to != node);
        self.messages.extend(others.map(|to| Message { node, said: said(to), stray: false }));
    }
}

impl Host {
    fn new(host: usize, run: u32, bounds: &Bounds) -> Self {
        let terms = Terms {
            voters: 1,
            interval: INTERVAL,
            pause: INTERVAL / 2 * (1 + u32::try_from(host).unwrap_or(0)),
            gap: bounds.step,
            keep: false,
            registered: Some(LEASE),
        };
        let election = Election::new(params(host)).with_lease(Some(Lease::new(terms)));
        let names = (0..bounds.nodes).map(node_name).collect();
        let registers = Registers::new(node_name(host), run, names);
        Self { election: Some(election), registers, run, stopped: false, owns_until: None }
    }
}

fn node_name(node: usize) -> String {
    format!("px{}", node + 1)
}
