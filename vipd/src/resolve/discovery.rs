//! Names that stand for many servers: their addresses or SRV records, again
//! and again.
//!
//! One task an entry of the file. It looks up at the pace of the time to live,
//! and earlier on request; only news are sent. What they mean is
//! [`vipd_core::discover`]'s to say.

use super::system::{Answer, Services, System};
use super::{BELIEVED, EARLY_EVERY, RETRY, TTL_BOUNDS};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use vipd_core::discover::{Entry, Question, Target, entries};
use vipd_core::settings::{Family, Host, Pool, Resolve};

/// What a look-up of an entry found, or why it failed; sent when it changes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Discovered {
    /// The entry.
    pub entry: Entry,
    /// What was asked: by now the file may have another name there.
    pub question: Question,
    /// Where its name leads, in a stable order; nowhere if nobody knows.
    pub targets: Vec<Target>,
    /// Why nobody knows, or what was left out.
    pub problem: Option<String>,
}

/// Looks up all entries; ends when it is dropped.
#[derive(Debug)]
pub struct Discovery {
    runtime: Handle,
    events: mpsc::Sender<Discovered>,
    system: Arc<System>,
    tasks: HashMap<Entry, Task>,
}

/// A running look-up; it ends when it is dropped.
#[derive(Debug)]
struct Task {
    /// All that the look-up depends on: one that differs is another look-up.
    question: Question,
    again: Arc<Notify>,
    _end: oneshot::Sender<()>,
}

impl Discovery {
    /// Starts to look up the entries of `pools`, as the file has them, on
    /// `runtime`. What is found goes to `events`.
    #[must_use]
    pub fn start(runtime: Handle, pools: &[Pool], events: mpsc::Sender<Discovered>) -> Self {
        Self::with_system(runtime, pools, events, System::default())
    }

    pub(super) fn with_system(
        runtime: Handle,
        pools: &[Pool],
        events: mpsc::Sender<Discovered>,
        system: System,
    ) -> Self {
        let mut discovery = Self { runtime, events, system: Arc::new(system), tasks: HashMap::new() };
        discovery.update(pools);
        discovery
    }

    /// Takes over changed settings. Look-ups that stay go on.
    pub fn update(&mut self, pools: &[Pool]) {
        let mut before = std::mem::take(&mut self.tasks);
        for (entry, server) in entries(pools) {
            let question = Question::of(server);
            let task = match before.remove(&entry).filter(|t| t.question == question) {
                Some(task) => task,
                None => self.spawn(entry.clone(), question),
            };
            self.tasks.insert(entry, task);
        }
    }

    fn spawn(&self, entry: Entry, question: Question) -> Task {
        let again = Arc::new(Notify::new());
        let (end, ended) = oneshot::channel::<()>();
        let run = Run {
            entry,
            question: question.clone(),
            system: Arc::clone(&self.system),
            again: Arc::clone(&again),
            events: self.events.clone(),
        };
        // Ends by itself when the sender of `ended` is dropped.
        drop(self.runtime.spawn(async move {
            tokio::select! {
                () = run.lookups() => {}
                _ = ended => {}
            }
        }));
        Task { question, again, _end: end }
    }

    /// Asks for a look-up before the time to live is over, since a server that
    /// it found does not answer. Does nothing if there was one just now.
    pub fn refresh(&self, entry: &Entry) {
        if let Some(task) = self.tasks.get(entry) {
            task.again.notify_one();
        }
    }
}

struct Run {
    entry: Entry,
    question: Question,
    system: Arc<System>,
    again: Arc<Notify>,
    events: mpsc::Sender<Discovered>,
}

impl Run {
    /// Looks up until nobody takes what is found.
    async fn lookups(&self) {
        let mut known = None;
        let mut good = Vec::new();
        let (mut failures, mut doubts) = (0_usize, 0_usize);
        loop {
            let start = Instant::now();
            let (mut found, ttl) = self.find().await;
            let lost = lost_family(&good, &found.targets);
            doubts = if lost.is_empty() { 0 } else { doubts + 1 };
            let doubted = doubts.checked_sub(1).filter(|_| doubts < BELIEVED);
            if doubted.is_some() {
                // In the order that they had, so that they are no news.
                let at = if good.first() == lost.first() { 0 } else { found.targets.len() };
                found.targets.splice(at..at, lost);
            }
            let wait = if found.targets.is_empty() {
                let [.., longest] = RETRY;
                failures += 1;
                RETRY.get(failures - 1).copied().unwrap_or(longest)
            } else {
                failures = 0;
                good.clone_from(&found.targets);
                let soon = doubted.and_then(|d| RETRY.get(d)).copied();
                soon.unwrap_or(ttl).clamp(TTL_BOUNDS.0, TTL_BOUNDS.1)
            };
            if known.as_ref() != Some(&found) {
                known = Some(found.clone());
                if self.events.send(found).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(start + wait) => {}
                () = async {
                    self.again.notified().await;
                    tokio::time::sleep_until(start + EARLY_EVERY).await;
                } => {}
            }
        }
    }

    async fn find(&self) -> (Discovered, Duration) {
        let Question { host, port, resolve } = &self.question;
        let name = host.to_string();
        let (found, left_out, ttl) = match resolve {
            Resolve::Srv => {
                let Services { targets, left_out, ttl } = self.system.find_srv(&name).await;
                (targets, left_out, ttl)
            }
            Resolve::One | Resolve::All => {
                let found = self.system.find(&name).await;
                let (first, second) = (found.of(found.order[0]), found.of(found.order[1]));
                (addresses(first, second, *port), found.left_out.clone(), found.ttl)
            }
        };
        let (targets, problem) = match found {
            Ok(targets) => (targets, left_out),
            Err(problem) => (vec![], Some(left_out.unwrap_or(problem))),
        };
        (Discovered { entry: self.entry.clone(), question: self.question.clone(), targets, problem }, ttl)
    }
}

/// The known addresses of a family of which a look-up found none, while it
/// found some of the other: that a name has lost it is believed when
/// [`BELIEVED`] look-ups in a row say so. Names (of SRV records) have no family.
fn lost_family(known: &[Target], found: &[Target]) -> Vec<Target> {
    let family = |target: &Target| match &target.host {
        Host::Address(address) => Some(Family::of(*address)),
        Host::Name(_) => None,
    };
    let lost = |target: &&Target| {
        let here = family(target);
        here.is_some() && !found.is_empty() && found.iter().all(|f| family(f) != here)
    };
    known.iter().filter(lost).cloned().collect()
}

/// All addresses of a name. A family that could not be asked makes the whole
/// unknown: its servers would seem to have vanished.
fn addresses(first: &Answer, second: &Answer, port: u16) -> Result<Vec<Target>, String> {
    let mut targets = Vec::new();
    let mut nothing = String::new();
    for answer in [first, second] {
        match answer {
            Answer::Addresses(found) => {
                let target =
                    |a: &std::net::IpAddr| Target { host: Host::Address(*a), port, rank: 0, share: 0 };
                targets.extend(found.iter().map(target));
            }
            Answer::Nothing(reason) => nothing.clone_from(reason),
            Answer::Failed(reason) => return Err(reason.clone()),
        }
    }
    if targets.is_empty() { Err(nothing) } else { Ok(targets) }
}
