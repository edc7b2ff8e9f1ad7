//! What the kernel holds of a group, and what the link is told of it.

use super::handover::{CLOSE_BEFORE, Transition};
use super::{Announcing, Group, Parting, RETRY_AFTER};
use crate::election::Event as Happening;
use crate::event::{Event, Kind, Level, Steps};
use crate::explain;
use crate::node::{Announcement, Link, Output, Scope, Watch};
use crate::plan::{GroupPlan, Hold};
use crate::settings::Cidr;
use crate::time::Time;
use crate::wire::peer::State;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// When addresses are announced, counted from the takeover: a burst, repeats
/// for what missed it, and then a slow refresh for what forgot.
const ANNOUNCE_AT: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(3),
    Duration::from_secs(5),
    Duration::from_secs(7),
    Duration::from_secs(10),
];
const ANNOUNCE_REFRESH: Duration = Duration::from_secs(60);
/// A renewal or a deletion that the kernel refused is asked for again after this.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// What somebody else deletes is put back at once, what they put here removed;
/// of either one is told this often.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What somebody else does to a group's addresses, maybe in a loop.
#[derive(Clone, Debug, Default)]
pub(super) struct Meddling {
    /// How often to each, since it was told of, a moment ago; bounded by the
    /// group's addresses, and for copies by the places of this host.
    times: BTreeMap<String, u64>,
    /// Until then it is only counted.
    tell_at: Option<Time>,
}

impl Meddling {
    /// Whether to tell of it now.
    fn note<T: ToString>(&mut self, what: &[T]) -> bool {
        for one in what {
            *self.times.entry(one.to_string()).or_insert(0) += 1;
        }
        self.tell_at.is_none()
    }

    pub(super) fn is_due(&self, now: Time) -> bool {
        self.tell_at.is_some_and(|at| at <= now)
    }

    pub(super) const fn deadline(&self) -> Option<Time> {
        self.tell_at
    }

    /// What was done, with how often, for people, if there is anything to tell.
    fn told(&mut self, now: Time) -> Option<String> {
        let all = std::mem::take(&mut self.times);
        self.tell_at = (!all.is_empty()).then_some(now + TELL_EVERY);
        let once = |(what, times): (&String, &u64)| match times {
            1 => what.clone(),
            _ => format!("{what} ({})", explain::count(*times, "time")),
        };
        (!all.is_empty()).then(|| all.iter().map(once).collect::<Vec<_>>().join(", "))
    }
}

impl Group {
    /// Asks for a hold; of several only the newest counts.
    pub(crate) fn plan(&mut self, hold: Hold, scope: &mut Scope<'_>) {
        self.hold = hold;
        self.parting = self.parting.take().filter(|_| hold == Hold::Owned);
        self.confirmed = false;
        (self.announcing, self.again_at) = (None, None);
        self.hold_generation = self.generation + 1;
        self.emit_plan(scope);
        scope.guard_changed = true;
    }

    pub(super) fn may_own_until(&self) -> Option<Time> {
        self.election.may_own_until().filter(|_| self.hold == Hold::Owned)
    }

    /// When the guard deletes what is owned, if this process does not.
    pub(crate) fn watched(&self) -> Option<Watch> {
        let lease = self.election.lease()?;
        // Also of what the kernel has not let go of yet.
        let held = self.hold == Hold::Owned || !self.confirmed;
        let until =
            self.election.may_own_until().filter(|until| held && *until > Time::ZERO)? + lease.grace();
        let addresses = self.held();
        (!addresses.is_empty()).then_some(Watch { until, addresses })
    }

    pub(super) fn emit_plan(&mut self, scope: &mut Scope<'_>) {
        let Some(interface) = self.interface else {
            // Nothing was ever held.
            self.confirmed = true;
            return;
        };
        self.generation += 1;
        self.renewed_at = scope.now;
        let asked = if self.hold == Hold::Absent { vec![] } else { self.planned() };
        let before = std::mem::replace(&mut self.asked, asked);
        let gone = |a: &Cidr| !self.asked.contains(a);
        if before.iter().any(gone) {
            self.going_generation = self.generation;
        }
        self.going.extend(before);
        self.going.retain(gone);
        scope.out.push_back(Output::Addresses(GroupPlan {
            group: self.id,
            generation: self.generation,
            interface,
            addresses: self.planned(),
            hold: self.hold,
            lease: self.election.params().lease,
            until: self.may_own_until(),
            former: self.former_addresses(scope),
        }));
    }

    /// Where packets of connections go that the next owner does not know, while it prepares.
    fn former_addresses(&self, scope: &Scope<'_>) -> Vec<IpAddr> {
        let prepares = matches!(self.transition, Transition::Preparing { .. });
        let former = self.former.filter(|_| prepares);
        former.and_then(|n| scope.settings.cluster.nodes.get(n)).map_or(vec![], |n| n.addresses.clone())
    }

    /// The group has other addresses from now on.
    pub(super) fn plan_others(&mut self, scope: &mut Scope<'_>) {
        self.plan(self.hold, scope);
        if self.hold == Hold::Owned && self.election.word() == State::Active {
            // Whoever's file still has them in another group does not take them.
            self.transmit(self.election.params().priority, scope);
        }
    }

    /// The kernel's answer to a plan.
    pub(crate) fn applied(&mut self, generation: u64, result: Result<(), String>, scope: &mut Scope<'_>) {
        if generation < self.hold_generation {
            return;
        }
        match (self.hold, result) {
            (_, Ok(())) => {
                (self.again, self.renewal_refused, self.again_at) = (false, false, None);
                if generation == self.generation {
                    self.leased_at = self.renewed_at;
                }
                self.note_gone(generation, scope);
                if !std::mem::replace(&mut self.confirmed, true) {
                    scope.guard_changed = true;
                    self.hold_confirmed(scope);
                }
                self.give_back(scope);
            }
            (Hold::Owned, Err(reason)) if self.renewal_can_wait(scope.now) => {
                self.renew_again(&reason, scope);
            }
            (Hold::Owned, Err(reason)) => self.refused(&reason, scope),
            (Hold::Silent, Err(reason)) => self.cannot_be_silent(&reason, scope),
            (Hold::Absent, Err(reason)) => {
                // Nobody is told that it is free: its lease ends, or the next attempt does.
                let again = self.again_at.replace(scope.now + ASK_AGAIN);
                if again.is_none() {
                    let message = format!("{}: the kernel would not delete it: {reason}", self.vip.name);
                    scope.event(self.event(Level::Error, Kind::Address, message));
                }
            }
        }
    }

    /// A plan came too late for the kernel: this process, or the kernel's side of
    /// it, stood still. What is still wanted is asked for again, once; then it is
    /// a refusal.
    pub(crate) fn stale(&mut self, generation: u64, waited: Duration, scope: &mut Scope<'_>) {
        if generation < self.generation || self.hold == Hold::Absent {
            return;
        }
        if std::mem::replace(&mut self.again, true) {
            self.again = false;
            let reason = format!("plans wait for {} and longer", explain::seconds(waited));
            return self.applied(generation, Err(reason), scope);
        }
        self.emit_plan(scope);
    }

    /// Whether the quorum still gives it to this node, and the kernel holds it by
    /// an earlier acknowledgement with time for another attempt.
    fn renewal_can_wait(&self, now: Time) -> bool {
        let may_own = self.may_own_until().is_none_or(|until| until > now);
        may_own && self.confirmed && now - self.leased_at < self.election.params().lease / 2
    }

    /// One renewal failed: that is no reason yet to cut its clients.
    fn renew_again(&mut self, reason: &str, scope: &mut Scope<'_>) {
        self.again_at = Some(scope.now + ASK_AGAIN);
        if !std::mem::replace(&mut self.renewal_refused, true) {
            let message =
                format!("{}: the kernel would not renew it, it is tried again: {reason}", self.vip.name);
            scope.event(self.event(Level::Warn, Kind::Address, message));
        }
    }

    /// Asks the kernel again for what it refused.
    pub(super) fn ask_again(&mut self, scope: &mut Scope<'_>) {
        // Kept while it is deleted, so that refusals in a row are told of once.
        self.again_at = (self.hold == Hold::Absent).then_some(scope.now + ASK_AGAIN);
        self.emit_plan(scope);
    }

    /// The kernel has deleted what a plan left out.
    fn note_gone(&mut self, generation: u64, scope: &mut Scope<'_>) {
        if self.going.is_empty() || generation < self.going_generation {
            return;
        }
        self.going.clear();
        scope.guard_changed = true;
        if self.hold == Hold::Owned && self.election.word() == State::Active {
            // Another group's owner may wait for it.
            self.transmit(self.election.params().priority, scope);
        }
    }

    pub(super) fn hold_confirmed(&mut self, scope: &mut Scope<'_>) {
        match self.hold {
            Hold::Owned => {
                self.refused = false;
                if let Some(takeover) = &mut self.takeover {
                    takeover.address_in = Some(scope.now);
                }
                self.announce_anew(scope);
            }
            Hold::Silent | Hold::Absent => match self.transition {
                Transition::None => self.release_late(scope),
                Transition::Silencing { .. } => self.released(scope),
                Transition::Preparing { from, nonce, until } if self.hold == Hold::Silent => {
                    self.transition = Transition::Prepared { from, nonce, until };
                    self.ready(from, nonce, scope);
                }
                Transition::Asking { .. }
                | Transition::Lingering { .. }
                | Transition::Preparing { .. }
                | Transition::Prepared { .. } => {}
            },
        }
    }

    /// A refusal is a fault with a reason and a release, never a silent half-owner.
    fn refused(&mut self, reason: &str, scope: &mut Scope<'_>) {
        let message = format!("{}: the kernel refused an address: {reason}", self.vip.name);
        scope.event(self.event(Level::Error, Kind::Address, message.clone()));
        self.fault = Some(message);
        self.retry_at = Some(scope.now + RETRY_AFTER);
        self.refused = true;
        self.happen(Happening::Fault, scope);
    }

    fn cannot_be_silent(&mut self, reason: &str, scope: &mut Scope<'_>) {
        let message =
            format!("{}: cannot hold it silently, so there is a short gap: {reason}", self.vip.name);
        scope.event(self.event(Level::Warn, Kind::Switchover, message));
        match self.transition {
            Transition::Silencing { .. } => {
                self.close_sessions(scope);
                self.plan(Hold::Absent, scope);
            }
            Transition::Preparing { from, nonce, until } => {
                // The address goes in after the release instead.
                self.plan(Hold::Absent, scope);
                self.transition = Transition::Prepared { from, nonce, until };
                self.ready(from, nonce, scope);
            }
            Transition::None
            | Transition::Asking { .. }
            | Transition::Lingering { .. }
            | Transition::Prepared { .. } => self.plan(Hold::Absent, scope),
        }
    }

    /// Planned addresses are gone: as if the kernel had refused them.
    pub(crate) fn lost(&mut self, reason: &str, scope: &mut Scope<'_>) {
        match self.hold {
            Hold::Owned => self.refused(reason, scope),
            Hold::Silent => self.cannot_be_silent(reason, scope),
            Hold::Absent => {}
        }
    }

    /// Somebody put addresses here where they would outlive the plan.
    pub(crate) fn evicted(&mut self, copies: &[String], scope: &mut Scope<'_>) {
        if self.evicted.note(copies) {
            self.tell_evicted(scope);
        }
    }

    pub(super) fn tell_evicted(&mut self, scope: &mut Scope<'_>) {
        let Some(all) = self.evicted.told(scope.now) else { return };
        let message = match self.hold {
            Hold::Absent => format!("{}: somebody put {all} here; it is removed", self.vip.name),
            Hold::Silent | Hold::Owned => {
                format!("{}: somebody put {all} beside what is held; that copy is removed", self.vip.name)
            }
        };
        scope.event(self.event(Level::Warn, Kind::Address, message));
    }

    /// Somebody deleted an address, and the kernel actor put it back. Whoever
    /// does so in a loop is told of, and announced against, once in a while.
    pub(crate) fn restored(&mut self, addresses: &[IpAddr], scope: &mut Scope<'_>) {
        if self.restored.note(addresses) {
            self.tell_restored(scope);
        }
    }

    pub(super) fn tell_restored(&mut self, scope: &mut Scope<'_>) {
        let Some(all) = self.restored.told(scope.now) else { return };
        let message = format!("{}: somebody deleted {all}; it is back", self.vip.name);
        scope.event(self.event(Level::Warn, Kind::Address, message));
        self.announce_anew(scope);
    }

    /// The interface has another Ethernet address: clients would send to the old one.
    pub(crate) fn new_mac(&mut self, scope: &mut Scope<'_>) {
        if self.hold == Hold::Owned && self.confirmed {
            let name = &self.vip.name;
            let message = format!("{name}: its interface has another Ethernet address; it is announced anew");
            scope.event(self.event(Level::Info, Kind::Address, message));
            self.announce_anew(scope);
        }
    }

    /// Another owned this too, until now or still: its clients have its Ethernet
    /// address. A burst that has just begun is enough.
    pub(crate) fn announce_to_theirs(&mut self, scope: &mut Scope<'_>) {
        if self.announcing.is_none_or(|a| scope.now - a.since >= TELL_EVERY) {
            self.announce_anew(scope);
        }
    }

    /// The whole burst, as at a takeover.
    fn announce_anew(&mut self, scope: &mut Scope<'_>) {
        self.announce(Announcing { since: scope.now, next: 0, at: scope.now }, scope);
    }

    pub(super) fn announce(&mut self, announcing: Announcing, scope: &mut Scope<'_>) {
        let Link::Up { interface, .. } = self.link else { return };
        if self.hold != Hold::Owned || !self.confirmed {
            return;
        }
        if scope.now - self.leased_at > self.election.params().lease {
            // This node slept, and the kernel may have ended the lease.
            return self.plan(Hold::Owned, scope);
        }
        let next = announcing.next + 1;
        let at = match ANNOUNCE_AT.get(next) {
            Some(after) => (announcing.since + *after).max(scope.now + Duration::from_millis(1)),
            None => scope.now + ANNOUNCE_REFRESH,
        };
        self.announcing = Some(Announcing { next, at, ..announcing });
        let addresses = self.available().map(|a| a.address()).collect();
        scope.out.push_back(Output::Announce(Announcement { group: self.id, interface, addresses }));
    }

    /// The first announcement was sent: the takeover is complete.
    pub(crate) fn announced(&mut self, scope: &mut Scope<'_>) {
        let Some(takeover) = self.takeover.take() else { return };
        let steps = Steps {
            detected: takeover.detected.map(|at| at - takeover.sign),
            decided: takeover.decided - takeover.sign,
            address_in: takeover.address_in.unwrap_or(scope.now) - takeover.sign,
            announced: scope.now - takeover.sign,
        };
        self.steps = Some(steps);
        let message = format!("{} is here: {}", self.vip.name, explain::change(self, scope));
        let event = Event { steps: Some(steps), ..self.event(Level::Info, Kind::Takeover, message) };
        scope.event(event);
    }

    pub(super) fn close_sessions(&self, scope: &mut Scope<'_>) {
        let addresses = self.available().map(|a| a.address()).collect();
        scope.out.push_back(Output::CloseSessions { addresses });
    }

    /// What the kernel is to hold.
    pub(super) fn planned(&self) -> Vec<Cidr> {
        if self.hold == Hold::Absent {
            return self.vip.addresses.clone();
        }
        let parting = self.parting.iter().flat_map(|p| p.addresses.iter().copied());
        self.available().chain(parting).collect()
    }

    /// A reload has ended this group and gives addresses to others of this node:
    /// those need not hold them, so this one keeps them no longer than it says.
    pub(crate) fn give(&mut self, to_others: impl Fn(IpAddr) -> bool, scope: &mut Scope<'_>) {
        let given = self.vip.addresses.iter().filter(|a| to_others(a.address())).copied();
        let before = self.given.len();
        self.given.extend(given);
        self.part_from(to_others, scope);
        if self.given.len() > before && self.hold != Hold::Absent {
            self.plan(self.hold, scope);
        }
    }

    /// A reload takes addresses from this group: their sessions are closed at
    /// once, and an owner keeps them until the clients know. What another group
    /// has from now on is that one's at once.
    pub(crate) fn part_from(&mut self, goes: impl Fn(IpAddr) -> bool, scope: &mut Scope<'_>) {
        let gone: Vec<Cidr> = self.vip.addresses.extract_if(.., |a| goes(a.address())).collect();
        if !gone.is_empty() && self.hold != Hold::Absent {
            let addresses = gone.iter().map(|a| a.address()).collect();
            scope.out.push_back(Output::CloseSessions { addresses });
        }
        let mut addresses = self.parting.take().map(|p| p.addresses).unwrap_or_default();
        addresses.extend(gone);
        let floating = |a: &Cidr| {
            let mut all = scope.settings.vips.iter().flat_map(|v| &v.addresses);
            all.any(|other| other.address() == a.address())
        };
        addresses.retain(|a| !floating(a));
        if self.hold == Hold::Owned && !addresses.is_empty() {
            self.parting = Some(Parting { addresses, until: scope.now + CLOSE_BEFORE });
        }
    }
}
