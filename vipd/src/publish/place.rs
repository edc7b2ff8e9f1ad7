//! The task that keeps one place as the newest order says.

use super::store::{FOLLOW_EVERY, FOLLOW_FOR, Opening, Store, Where, chance};
use super::{Answer, Order};
use crate::control::api::{DnsSteps, DnsStoreDoc, Event, EventKind, Level};
use crate::control::events::EventLog;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};
use vipd_cloud::route53::Following;
use vipd_cloud::{Desired, Error, Outcome, Problem};
use vipd_core::publish::{Records, Wanted};

/// A key file that is missing or wrong is read again this often.
const OPEN_AGAIN: Duration = Duration::from_secs(5);
/// Who lost to another writer and is elected still tries again after this, and
/// then after twice as long each time: two that cannot hear each other shall
/// not take turns for every client to see.
const LOST_FIRST: Duration = Duration::from_secs(5);
const LOST_LONGEST: Duration = Duration::from_secs(60);
/// Two that cannot hear each other both succeed in turns, each of which takes
/// the longest pause and the other's look: only after more turns than one
/// without a loss is it over.
const PEACE_TURNS: u32 = 3;

fn peace(place: Where) -> Duration {
    (LOST_LONGEST + place.look_every()) * PEACE_TURNS
}

pub(super) struct Place {
    pub(super) opening: Arc<Opening>,
    pub(super) place: Where,
    pub(super) position: usize,
    pub(super) start: u64,
    pub(super) orders: watch::Receiver<Option<Order>>,
    pub(super) told: watch::Sender<DnsStoreDoc>,
    pub(super) events: EventLog,
    pub(super) answers: mpsc::Sender<Answer>,
}

/// What is remembered between attempts.
#[derive(Default)]
struct Memory {
    /// The order that was carried out or attempted last.
    generation: u64,
    /// Attempts that lost to another writer, with none that did for [`peace`].
    lost: u32,
    /// When the last one did.
    lost_at: Option<Instant>,
    /// What the last order wanted, and whether this node was to write it.
    sought: Option<(bool, Wanted)>,
    /// This node was elected to write, and has not read the place since: until
    /// then another one wrote.
    unread: bool,
    /// A change that not everybody answers by yet.
    pending: Option<Pending>,
    /// The server does not take the key: the file may have a new one by now.
    bad_key: bool,
    /// What was complained of last: each complaint is told once.
    complaint: Option<String>,
}

/// A change that is followed.
struct Pending {
    /// Its pace and its end are of the change, however often something else comes between.
    following: Following,
    ordered: Instant,
}

impl Memory {
    /// Takes up an order. What was lost before it wanted something else, or this
    /// node was elected, was no fight; that a change is near changes nothing.
    fn take_up(&mut self, records: &Records) {
        if records.write && self.sought.as_ref().is_none_or(|(wrote, _)| !wrote) {
            self.unread = true;
        }
        let sought = Some((records.write, records.wanted.clone()));
        if self.sought != sought {
            self.lost = 0;
            self.sought = sought;
        }
    }
}

impl Place {
    /// Works until it is aborted, or nobody gives orders any more.
    pub(super) async fn keep(mut self) {
        let mut memory = Memory::default();
        let mut store = loop {
            match self.opening.open(self.place).await {
                Ok(store) => break store,
                Err(why) => {
                    self.told.send_modify(|doc| doc.error = Some(why.clone()));
                    self.complain(&mut memory, Level::Error, &why);
                    tokio::time::sleep(OPEN_AGAIN).await;
                }
            }
        };
        loop {
            if std::mem::take(&mut memory.bad_key)
                && let Ok(anew) = self.opening.open(self.place).await
            {
                store = anew;
            }
            let order = self.orders.borrow_and_update().clone();
            let again = match order {
                Some(order) => self.attempt(&mut store, &order, &mut memory).await,
                None => Instant::now() + self.place.look_every(),
            };
            let change = memory.pending.as_mut().map(|p| &mut p.following);
            tokio::select! {
                changed = self.orders.changed() => if changed.is_err() {
                    return;
                },
                () = sleep_until(again) => {}
                known = store.follow(change) => self.everywhere(&mut memory, known.map_err(|e| e.to_string())),
            }
        }
    }

    /// Does what an order asks for; gives the time for the next look.
    async fn attempt(&self, store: &mut Store, order: &Order, memory: &mut Memory) -> Instant {
        let desired = match self.opening.desired(self.place, &order.records) {
            Ok(desired) => desired,
            Err(why) => {
                self.complain(memory, Level::Error, &why);
                return Instant::now() + self.place.look_every();
            }
        };
        memory.take_up(&order.records);
        let new = order.records.generation != memory.generation;
        memory.generation = order.records.generation;
        let Some(outcome) = self.ask(store, order, &desired, new, memory.unread).await else {
            return Instant::now();
        };
        memory.unread = memory.unread && outcome.is_err();
        self.note(store, outcome.as_ref().ok());
        let again = match outcome {
            Ok(outcome) => self.succeeded(store, order, &desired, outcome, memory),
            // An order came during the pause after an error, which was told.
            Err(Error { problem: Problem::Paused { wait, .. }, .. }) => return Instant::now() + wait,
            Err(error) => {
                memory.bad_key = is_about_the_key(&error.problem);
                self.told.send_modify(|doc| doc.errors += 1);
                let why = error.problem.to_string();
                self.complain(memory, Level::Error, &why);
                self.answer(order, Err(why));
                let paused = store.status().paused_until.filter(|_| !memory.bad_key);
                paused.unwrap_or_else(|| Instant::now() + OPEN_AGAIN)
            }
        };
        let wait = again.saturating_duration_since(Instant::now()).as_millis();
        let wait = u64::try_from(wait).unwrap_or(u64::MAX);
        self.told.send_modify(|doc| doc.retry_ms = if doc.in_sync { 0 } else { wait });
        again
    }

    /// Writes what is due, or looks; none if another order came during the look:
    /// that changes nothing, and the order shall not wait for it.
    async fn ask(
        &self,
        store: &mut Store,
        order: &Order,
        desired: &Desired,
        new: bool,
        unread: bool,
    ) -> Option<Result<Outcome, Error>> {
        let by = Instant::now() + self.place.patience();
        if order.records.write && new {
            let outcome = store.publish(desired, by).await;
            // A write from what was seen last is refused if that is no more so; that
            // there is nothing to write is said only of what was read.
            if !(unread && matches!(outcome, Ok(Outcome::InSync | Outcome::KeepLast))) {
                return Some(outcome);
            }
        }
        let mut orders = self.orders.clone();
        let look = async {
            match order.records.write {
                // What somebody has edited meanwhile is seen only by reading.
                true => store.check(desired, by).await,
                false => self.look(store, order, desired, by).await,
            }
        };
        let looked = tokio::select! {
            biased;
            looked = look => looked,
            Ok(()) = orders.changed() => return None,
        };
        match looked {
            Ok(Outcome::Due(_)) if order.records.write => Some(store.publish(desired, by).await),
            looked => Some(looked),
        }
    }

    /// Looks for a node that does not write: whether a change is near is for
    /// the one to judge that does, so both TTLs are right.
    async fn look(
        &self,
        store: &mut Store,
        order: &Order,
        desired: &Desired,
        by: Instant,
    ) -> Result<Outcome, Error> {
        let near = self.opening.desired(self.place, &Records { near: true, ..order.records.clone() });
        let found = store.check(desired, by).await;
        match other_ttl(&found, desired, near.ok()) {
            Some(near) => store.check(&near, by).await,
            None => found,
        }
    }

    fn succeeded(
        &self,
        store: &Store,
        order: &Order,
        desired: &Desired,
        outcome: Outcome,
        memory: &mut Memory,
    ) -> Instant {
        let now = Instant::now();
        let mut again = now + jittered(self.place.look_every());
        match outcome {
            Outcome::InSync | Outcome::KeepLast => self.recovered(order, memory),
            Outcome::Written { epoch, pending } => {
                memory.pending = pending.map(|change| Pending {
                    following: Following::new(&change, FOLLOW_EVERY, now + FOLLOW_FOR),
                    ordered: order.decided,
                });
                self.recovered(order, memory);
                self.written(store, order, desired, epoch, now);
            }
            Outcome::Drift(drift) => {
                let why = drift.to_string();
                self.complain(memory, Level::Warning, &why);
                self.answer(order, Err(why));
            }
            // A node that does not write only looks; the one that does is about to.
            Outcome::Due(_) => again = now + jittered(self.place.look_soon()),
            Outcome::Lost(lease) if order.records.write => {
                memory.lost += 1;
                memory.lost_at = Some(now);
                if memory.lost == 1 {
                    // It wrote before this node was elected.
                    again = now;
                } else {
                    let doubled = LOST_FIRST.saturating_mul(1 << (memory.lost - 2).min(8));
                    again = now + jittered(doubled.min(LOST_LONGEST));
                    let why = format!(
                        "{} writes too, and wrote {} as epoch {}: it does not hear this node, or this one not it",
                        lease.owner,
                        list(&lease.addresses),
                        lease.epoch
                    );
                    self.complain(memory, Level::Warning, &why);
                }
            }
            // Somebody who was elected has written: that is what to start from,
            // and the next look says whether it is right.
            Outcome::Lost(_) => {
                memory.lost += 1;
                if memory.lost == 1 {
                    again = now;
                } else {
                    again = now + jittered(self.place.look_soon());
                }
            }
        }
        again
    }

    /// Tells the status what the store holds by now.
    fn note(&self, store: &Store, outcome: Option<&Outcome>) {
        let status = store.status();
        self.told.send_modify(|doc| {
            // With a key that was read anew nothing is known yet: the last is kept.
            if status.error.is_none() || status.epoch.is_some() {
                doc.published = status.published.iter().map(ToString::to_string).collect();
                doc.epoch = status.epoch.unwrap_or(0);
            }
            let fits = |o: &Outcome| match o {
                Outcome::InSync | Outcome::KeepLast | Outcome::Written { .. } => true,
                Outcome::Due(_) | Outcome::Drift(_) | Outcome::Lost(_) => false,
            };
            doc.in_sync = outcome.is_some_and(fits);
            doc.drift = status.drift.as_ref().map(ToString::to_string);
            doc.error = status.error.as_ref().map(|(text, _)| text.clone());
        });
    }

    fn recovered(&self, order: &Order, memory: &mut Memory) {
        if memory.lost_at.is_none_or(|at| at.elapsed() >= peace(self.place)) {
            memory.lost = 0;
        }
        if memory.complaint.take().is_some() {
            self.tell(Event::new(Level::Info, EventKind::Dns, self.sentence("is as it should be again")));
        }
        self.answer(order, Ok(()));
    }

    fn written(&self, store: &Store, order: &Order, desired: &Desired, epoch: u64, now: Instant) {
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let sent = store.status().sent_at.unwrap_or(now).saturating_duration_since(order.decided);
        let acknowledged = now.saturating_duration_since(order.decided);
        let steps = DnsSteps {
            place: self.place.name(&self.opening.dns),
            epoch,
            sent_us: micros(sent),
            acknowledged_us: micros(acknowledged),
        };
        self.told.send_modify(|doc| {
            doc.writes += 1;
            doc.last_write = Some(steps.clone());
        });
        let millis = |d: Duration| format!("{}.{} ms", d.as_millis(), d.subsec_micros() / 100 % 10);
        let message = self.sentence(&format!(
            "has {} now (epoch {epoch}, TTL {} s): sent {} after the decision, acknowledged after {}",
            list(&desired.addresses),
            desired.ttl,
            millis(sent),
            millis(acknowledged)
        ));
        self.tell(Event { dns: Some(steps), ..Event::new(Level::Info, EventKind::Dns, message) });
        if store.status().was_gone {
            let message = self.sentence("was gone, lease and all: written again");
            self.tell(Event::new(Level::Warning, EventKind::Dns, message));
        }
    }

    /// Every server of Route 53 knows the last change, or nobody can tell.
    fn everywhere(&self, memory: &mut Memory, known: Result<(), String>) {
        let Some(Pending { ordered, .. }) = memory.pending.take() else { return };
        match known {
            Ok(()) => {
                let took = Instant::now().saturating_duration_since(ordered).as_secs();
                let text = format!("answers by the last change everywhere, {took} s after the decision");
                self.tell(Event::new(Level::Info, EventKind::Dns, self.sentence(&text)));
            }
            Err(why) => {
                let text =
                    format!("has the last change, but whether all of its servers know it is not: {why}");
                self.tell(Event::new(Level::Warning, EventKind::Dns, self.sentence(&text)));
            }
        }
    }

    /// That a place is as the order says is news of a node that only looks, too:
    /// its own address may be gone.
    fn answer(&self, order: &Order, result: Result<(), String>) {
        if order.records.write || result.is_ok() {
            let (start, place, generation) = (self.start, self.position, order.records.generation);
            // A full queue is one that the shell reads soon; the next look answers again.
            let _ = self.answers.try_send(Answer { start, place, generation, result });
        }
    }

    /// Tells of what is wrong, once until it changes.
    fn complain(&self, memory: &mut Memory, level: Level, why: &str) {
        if memory.complaint.as_deref() == Some(why) {
            return;
        }
        memory.complaint = Some(why.to_owned());
        self.tell(Event::new(level, EventKind::Dns, self.sentence(&format!("is not kept: {why}"))));
    }

    fn sentence(&self, rest: &str) -> String {
        format!("{} at {} {rest}", self.opening.dns.name, self.place.name(&self.opening.dns))
    }

    fn tell(&self, event: Event) {
        match event.level {
            Level::Info => info!(kind = ?EventKind::Dns, "{}", event.message),
            Level::Warning | Level::Error => warn!(kind = ?EventKind::Dns, "{}", event.message),
        }
        self.events.push(event);
    }
}

/// What to look for too, where what was found is not what was looked for: the
/// same with the TTL of a change that is near, where that is another.
fn other_ttl(found: &Result<Outcome, Error>, desired: &Desired, near: Option<Desired>) -> Option<Desired> {
    let due = matches!(found, Ok(Outcome::Due(_)));
    near.filter(|near| due && near.ttl != desired.ttl)
}

/// Whether a server refuses what the key file said.
fn is_about_the_key(problem: &Problem) -> bool {
    matches!(problem, Problem::BadKey { .. } | Problem::BadSignature { .. } | Problem::BadTsig { .. })
}

/// Up to a quarter less, by chance.
fn jittered(time: Duration) -> Duration {
    time - time / 4 * u32::from(chance()) / (u32::from(u16::MAX) + 1)
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    match addresses.is_empty() {
        true => "no address".to_owned(),
        false => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_set_or_an_election_ends_a_fight() {
        let mut memory = Memory::default();
        let order = Records { generation: 1, write: true, wanted: Some(BTreeSet::new()), near: false };
        let mut lost_after = |order: &Records| {
            memory.lost = 3;
            memory.take_up(order);
            memory.lost
        };
        assert_eq!(lost_after(&order), 0);
        let near = Records { generation: 2, near: true, ..order };
        assert_eq!(lost_after(&near), 3, "only the TTL is another");
        let other = Records { generation: 3, wanted: None, ..near };
        assert_eq!(lost_after(&other), 0);
        let looks = Records { generation: 4, write: false, ..other };
        assert_eq!(lost_after(&looks), 0);
        assert_eq!(lost_after(&Records { generation: 5, write: true, ..looks }), 0);
    }

    fn wanted(ttl: u32) -> Desired {
        let addresses = BTreeSet::from([IpAddr::from([10, 77, 0, 11])]);
        let owner = vipd_cloud::Owner::new("px2").expect("a name");
        Desired { addresses, ttl, owner, may_be_empty: false, repair: false, restore: true }
    }

    fn due() -> Outcome {
        let desired = wanted(5);
        let Desired { addresses, ttl, owner, .. } = desired;
        Outcome::Due(vipd_cloud::Lease { epoch: 2, owner, ttl, addresses })
    }

    /// A place whose writer has lowered the TTL, or not, is as it should be for a node that only looks.
    #[test]
    fn both_ttls_are_right_for_a_node_that_looks() {
        let (far, near) = (wanted(5), wanted(1));
        let next = |found, near| other_ttl(&found, &far, near).map(|desired| desired.ttl);
        assert_eq!(next(Ok(due()), Some(near.clone())), Some(1), "the other TTL is looked for");
        assert_eq!(next(Ok(Outcome::InSync), Some(near.clone())), None, "found at once");
        let failed = Err(Error { place: "there".into(), problem: Problem::TimedOut });
        assert_eq!(next(failed, Some(near)), None, "and not asked again when it fails");
        // Where the TTL does not fall there is one question.
        assert_eq!(next(Ok(due()), Some(far.clone())), None);
        assert_eq!(next(Ok(due()), None), None);
    }

    /// That its own address is gone a node learns by looking; what keeps another
    /// from writing is not for it to report.
    #[tokio::test]
    async fn a_node_that_looks_reports_what_is_so_and_nothing_that_failed() {
        let text = include_str!("../../../config/examples/cloud.toml");
        let settings = vipd_config::Config::parse(text, "cloud.toml").expect("a good file");
        let settings = crate::shell::settings(settings);
        let dns = settings.dns.clone().expect("a name");
        let opening = Arc::new(Opening::new(dns, &settings.cluster.nodes, 1));
        let place = Where::Server(([10, 77, 0, 11], 53).into());
        let (answers, mut told) = mpsc::channel(4);
        let (events, _store) = EventLog::new();
        let (state, orders) = (watch::channel(place.unread(&opening.dns)).0, watch::channel(None).1);
        let place = Place { opening, place, position: 1, start: 3, orders, told: state, events, answers };
        let order = |write| Order {
            records: Records { generation: 7, write, wanted: None, near: false },
            decided: Instant::now(),
        };
        place.answer(&order(false), Err("refused".to_owned()));
        assert!(told.try_recv().is_err());
        place.answer(&order(false), Ok(()));
        let answer = told.try_recv().expect("an answer");
        assert_eq!((answer.start, answer.place, answer.generation, answer.result), (3, 1, 7, Ok(())));
        place.answer(&order(true), Err("refused".to_owned()));
        assert_eq!(told.try_recv().expect("an answer").result, Err("refused".to_owned()));
    }

    /// Each waits for the longest pause, and then for its own look that says it lost.
    #[test]
    fn two_that_win_in_turns_are_at_no_peace() {
        for place in [Where::Route53, Where::Server(([10, 77, 0, 11], 53).into())] {
            assert!(peace(place) > (LOST_LONGEST + place.look_every()) * 2, "{place:?}");
        }
    }
}
