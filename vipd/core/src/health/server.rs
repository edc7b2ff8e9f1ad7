//! One server: what is known and asked of it, judged by itself.

use super::clients::Clients;
use super::{Admin, Demands, Health, Reason, State};
use crate::pool::ServerState;
use crate::probe::{Checked, Connections, ObservedRole, Probe};
use crate::settings::{self, Check, Host, Role};
use crate::time::Time;
use crate::wire::peer::Word;
use std::net::IpAddr;
use std::time::Duration;

/// Steps of a slow start beyond the first: from one tenth of the weight to all of it.
const STEPS: u64 = 9;
/// The weight of a server in full service is this many times that of its
/// settings, so that a tenth of a weight of 1 is a weight too.
pub(super) const FULL: u16 = 10;

/// What was counted of a server's checks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Checks {
    /// Checks that ended.
    pub total: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Connections of clients that failed and were counted like a check.
    pub passive: u64,
    /// How long the last check took.
    pub took: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Server {
    /// All those of its name.
    pub(super) addresses: Vec<IpAddr>,
    judged: Option<Judged>,
    /// Why its name does not resolve now.
    pub(super) problem: Option<String>,
    pub(super) admin: Admin,
    /// A weight that a person gave it.
    pub(super) weight: Option<u16>,
    pub(super) health: Health,
    pub(super) checks: Checks,
    /// When its last check that came about ended.
    checked_at: Option<Time>,
    pub(super) reason: Reason,
    pub(super) since: Time,
    /// Sessions on it are closed then: it was demoted.
    pub(super) close_at: Option<Time>,
    /// It changed then, and nothing is known of it since.
    pub(super) changed: Option<Changed>,
    /// Sessions on it may be at a place where it is no more, and nothing is
    /// known of what is there.
    pub(super) moved: bool,
    /// Whether the balancer was told of its own limit's room.
    pub(super) room_told: bool,
    /// A connection that failed was counted since its last check.
    pub(super) passive_counted: bool,
    /// Whether its last check failed, whatever its clients met.
    pub(super) check_failed: bool,
    /// What its clients' connections say of it.
    pub(super) clients: Clients,
    /// What this host lacked to check it the last time.
    pub(super) unable: Option<String>,
    /// Whether it comes up slowly: not the first time after the daemon's start.
    slowly: bool,
    ramp: Option<Ramp>,
}

/// The address at which a server's check was answered last: what is known of it
/// is of that one, and of no other that its name has.
#[derive(Clone, Copy, Debug)]
struct Judged {
    address: IpAddr,
    /// Answers there in a row.
    answers: u32,
    /// The one before, until as many answers as failures take a server down: a
    /// packet that was lost on the way there costs no session.
    before: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Changed {
    at: Time,
    /// Whether it was usable before.
    pub(super) used: bool,
}

/// A slow start under way.
#[derive(Clone, Copy, Debug)]
struct Ramp {
    began: Time,
    /// Tenths of its weight that it has now.
    tenths: u16,
    /// When it gets the next.
    next: Time,
}

impl Server {
    pub(super) fn new(
        settings: &settings::Server,
        pool: &settings::Pool,
        joins: bool,
        before: Option<(&Self, &settings::Server, &settings::Pool)>,
        now: Time,
    ) -> Self {
        let addresses = match &settings.host {
            Host::Address(address) => vec![*address],
            Host::Name(_) => vec![],
        };
        let reason = match (&settings.host, &pool.check) {
            (Host::Name(_), _) => Reason::Unresolved { problem: None },
            (Host::Address(_), None) => Reason::NoCheck,
            (Host::Address(_), Some(_)) => Reason::NotChecked,
        };
        let fresh = Self {
            addresses,
            judged: None,
            problem: None,
            admin: Admin::Ready,
            weight: None,
            health: Health::default(),
            checks: Checks::default(),
            checked_at: None,
            reason,
            since: now,
            close_at: None,
            changed: None,
            moved: false,
            room_told: false,
            passive_counted: false,
            check_failed: false,
            clients: Clients::default(),
            unable: None,
            slowly: joins,
            ramp: None,
        };
        let Some((old, old_settings, old_pool)) = before else { return fresh };
        let mut kept = old.clone();
        // Other limits are applied to what is known; other questions need new answers.
        let same_check = match (&old_pool.check, &pool.check) {
            (Some(a), Some(b)) => std::mem::discriminant(&a.kind) == std::mem::discriminant(&b.kind),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if old_settings.host != settings.host {
            kept.addresses = fresh.addresses;
            kept.problem = None;
        }
        let moved = old_settings.host != settings.host || old_settings.port != settings.port;
        kept.moved |= moved;
        if moved || !same_check {
            kept.forget(now);
        }
        if pool.check.is_none() {
            kept.unable = None;
            kept.judged = None;
        }
        let demands = pool.check.as_ref().map(Demands::of);
        if let Some(demands) = demands {
            kept.health.judge_freshness(demands);
        }
        if demands.is_none_or(|d| d.role != Role::Primary) {
            kept.close_at = None;
        }
        if demands.is_none_or(|d| !d.passive) {
            // Nobody asks any more what clients meet.
            kept.clients = Clients::default();
        }
        kept
    }

    /// What was known is not of what is there now.
    pub(super) fn forget(&mut self, now: Time) {
        let used = self.is_writable() || self.changed.is_some_and(|c| c.used);
        self.health = Health::default();
        self.judged = None;
        self.clients = Clients::default();
        self.check_failed = false;
        self.changed = Some(Changed { at: now, used });
        self.close_at = None;
    }

    /// Where it is: the address that its check speaks of, or all that its name
    /// has where no check has told.
    pub(super) fn places(&self) -> &[IpAddr] {
        self.judged.as_ref().map_or(&self.addresses, |judged| std::slice::from_ref(&judged.address))
    }

    /// Where its sessions may stay: there, and where all servers take writes for
    /// a while where it was before. Otherwise two would be written to.
    pub(super) fn homes(&self, anywhere: bool) -> impl Iterator<Item = IpAddr> {
        let before = self.judged.and_then(|judged| judged.before).filter(|_| anywhere);
        self.places().iter().copied().chain(before)
    }

    /// Whether what is known of it is of none of these addresses.
    pub(super) fn leaves(&self, addresses: &[IpAddr]) -> bool {
        self.places().iter().all(|a| !addresses.contains(a))
    }

    /// Its check was answered at this address; true if at another one before.
    /// Whether it answers is counted on, but what it said was of the other.
    pub(super) fn answered(&mut self, address: IpAddr, fall: u32) -> bool {
        if let Some(judged) = self.judged.as_mut().filter(|judged| judged.address == address) {
            judged.answers = judged.answers.saturating_add(1);
            judged.before = judged.before.filter(|_| judged.answers < fall);
            return false;
        }
        let before = self.judged.map(|judged| judged.address);
        let stays = before.filter(|a| fall > 1 && self.addresses.contains(a));
        self.judged = Some(Judged { address, answers: 1, before: stays });
        if before.is_some() {
            let answers = std::mem::take(&mut self.health.answers);
            self.health = Health { answers, ..Health::default() };
            self.clients = Clients::default();
            self.moved = true;
        }
        before.is_some()
    }

    /// Counts a check; false if it says nothing of what is there now: it began
    /// before the server changed, or did not come about.
    pub(super) fn count(&mut self, probe: &Probe, checked: Checked, now: Time) -> bool {
        if matches!(probe, Probe::Unable(_)) {
            return false;
        }
        self.checks.total = self.checks.total.wrapping_add(1);
        self.checks.took = checked.took;
        self.checked_at = Some(now);
        let failed = matches!(probe, Probe::Failed(_) | Probe::Full(_));
        self.checks.failed = self.checks.failed.wrapping_add(failed.into());
        if self.changed.is_some_and(|c| checked.began < c.at) {
            return false;
        }
        self.changed = None;
        self.passive_counted = false;
        self.check_failed = failed;
        true
    }

    pub(super) fn judge(&self, demands: Option<Demands>) -> Reason {
        if self.admin == Admin::Maint {
            return Reason::Maintenance;
        }
        if self.addresses.is_empty() {
            return Reason::Unresolved { problem: self.problem.clone() };
        }
        match demands {
            None => Reason::NoCheck,
            Some(_) if self.changed.is_some() => Reason::Unproven { kept: false },
            Some(demands) => self.health.judge(demands),
        }
    }

    /// Takes its new reason, and the slow start that may begin or end with it.
    pub(super) fn become_of(&mut self, reason: Reason, slow: Option<Duration>, now: Time) -> Reason {
        let old = std::mem::replace(&mut self.reason, reason);
        let (from, to) = (old.state(), self.reason.state());
        if from != to {
            self.since = now;
        }
        let up = to == State::Up;
        match slow {
            Some(slow) if up && from != State::Up && self.slowly => {
                self.ramp = Some(Ramp { began: now, tenths: 1, next: now });
                self.climb(slow, now);
            }
            Some(slow) if up => self.climb(slow, now),
            Some(_) | None => self.ramp = None,
        }
        self.slowly |= to != State::Unknown;
        old
    }

    /// Every server of a pool gets its next tenth at the same instants of the
    /// clock: new pools are built [`STEPS`] times in a slow start, however many
    /// servers come up.
    fn climb(&mut self, slow: Duration, now: Time) {
        let step = step(slow);
        let here = now.as_nanos() / step;
        self.ramp = self.ramp.and_then(|ramp| {
            let steps = here.saturating_sub(ramp.began.as_nanos() / step).min(STEPS);
            let next = Time::from_nanos(here.saturating_add(1).saturating_mul(step));
            let tenths = u16::try_from(steps).unwrap_or(FULL) + 1;
            (steps < STEPS).then_some(Ramp { tenths, next, ..ramp })
        });
    }

    /// When it has more to do than to wait for its next check.
    pub(super) fn deadline(&self) -> Option<Time> {
        [self.ramp.map(|r| r.next), self.close_at, self.clients.deadline()].into_iter().flatten().min()
    }

    /// Hundredths of its weight that it has during a slow start.
    pub(super) fn slow_start(&self) -> Option<u8> {
        self.ramp.map(|r| u8::try_from(r.tenths).unwrap_or(10) * 10)
    }

    /// Its weight, but for a slow start.
    pub(super) fn weight(&self, settings: &settings::Server) -> u16 {
        self.weight.unwrap_or(settings.weight)
    }

    /// Whether it is one that gets connections once it is up.
    pub(super) fn serves(&self, settings: &settings::Server) -> bool {
        self.admin == Admin::Ready && settings.vanished.is_none() && self.weight(settings) > 0
    }

    /// Whether `state` is its state for the balancer.
    pub(super) fn is(&self, state: &ServerState, settings: &settings::Server) -> bool {
        let ServerState { usable, addresses, weight } = state;
        *usable == self.is_up() && *addresses == self.places() && *weight == self.share(settings)
    }

    pub(super) fn state(&self, settings: &settings::Server) -> ServerState {
        let addresses = self.places().to_vec();
        ServerState { usable: self.is_up(), addresses, weight: self.share(settings) }
    }

    fn share(&self, settings: &settings::Server) -> u16 {
        self.weight(settings).saturating_mul(self.ramp.map_or(FULL, |r| r.tenths))
    }

    /// What its last check says of what is there now, for other nodes: nothing
    /// if that was too long ago. A node whose checks have stopped shall not hold
    /// others to what it once saw.
    pub(super) fn word(&self, check: &Check, now: Time) -> Option<Word> {
        let patience = (check.interval + check.timeout) * 3;
        let fresh = self.checked_at.is_some_and(|at| now - at <= patience);
        let failed = |word: &Word| *word == Word::Failed;
        self.health.word().filter(|word| self.changed.is_none() && (fresh || failed(word)))
    }

    /// Whether a check of it has ended since the start, be it that it could not be asked.
    pub(super) fn is_told(&self) -> bool {
        self.checks.total > 0 || self.unable.is_some()
    }

    pub(super) fn is_up(&self) -> bool {
        self.reason.state() == State::Up
    }

    /// Whether it is up, or would be but for a person's wish that its sessions run out.
    pub(super) fn is_writable(&self) -> bool {
        matches!(self.reason.state(), State::Up | State::Drain)
    }

    /// Whether it said, where it is now, that it is the primary.
    pub(super) fn is_proven_primary(&self) -> bool {
        self.is_writable() && self.changed.is_none() && self.health.role == Some(ObservedRole::Primary)
    }

    /// Whether its last check told that it is the primary, where it is now.
    pub(super) fn said_primary(&self) -> bool {
        self.changed.is_none() && !self.check_failed && self.health.role == Some(ObservedRole::Primary)
    }

    /// Whether it did, and is writable.
    pub(super) fn is_settled(&self) -> bool {
        self.is_writable() && self.said_primary()
    }

    /// Sessions it may have beside those that it has until its next check, if it told.
    pub(super) fn room(&self, headroom: u32) -> Option<u32> {
        let Connections { used, max } = self.health.connections?;
        Some(max.saturating_sub(headroom).saturating_sub(used))
    }
}

/// The nanoseconds of a step of a slow start.
fn step(slow: Duration) -> u64 {
    u64::try_from(slow.as_nanos() / u128::from(STEPS)).unwrap_or(u64::MAX).max(1)
}
