//! What clients' connections say of a server, beside its checks, which may
//! succeed where clients are refused: a firewall, a full queue, another port.
//!
//! ```text
//!   in  ── so many connections in a row failed, none good in between ─▶ out
//!   out ── its hold is over, and `rise` checks in a row succeeded ────▶ in
//!   out ── it was used all the same, and a connection was good ───────▶ in
//! ```
//!
//! One that is in again is out with the first connection that fails, until one
//! was good.
//!
//! This is about new connections and nothing else: it ends no session, makes
//! no other server the primary, and never takes the last server of a pool that
//! is usable. The hold doubles when the server is out again without having
//! worked in between, so that it does not come and go with every check.

use super::pool::PoolState;
use super::{Changes, Demands, Reason, State};
use crate::pool::ServerKey;
use crate::probe::Probe;
use crate::time::Time;
use std::time::Duration;

/// With a smaller `fall` as many failed connections as this are needed: a
/// single one may have been lost on its way.
const LEAST: u32 = 3;
/// The first hold, unless `rise` checks take longer.
const FIRST_HOLD: Duration = Duration::from_secs(10);
/// The longest.
const LONGEST_HOLD: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Default)]
pub(super) struct Clients {
    /// Connections in a row that failed, as it was told last.
    failed: u32,
    /// Whether one was good since it was out.
    good: bool,
    out: Option<Out>,
    /// How long it was held out the last time, and when it was in again.
    hold: Duration,
    back_at: Time,
}

#[derive(Clone, Copy, Debug)]
struct Out {
    /// The end of its hold, until that has come.
    until: Option<Time>,
    /// Checks in a row that succeeded since.
    successes: u32,
}

impl Clients {
    /// A connection failed, as the last of so many in a row.
    pub(super) fn failed(&mut self, in_a_row: u32, demands: Demands, now: Time) {
        self.good |= in_a_row <= self.failed;
        self.failed = in_a_row;
        let on_trial = !self.hold.is_zero() && !self.good;
        let enough = if on_trial { 1 } else { demands.fall.max(LEAST) };
        if self.out.is_some() || in_a_row < enough {
            return;
        }
        let worked = std::mem::take(&mut self.good) && now - self.back_at >= self.hold;
        let first = FIRST_HOLD.max(demands.interval.saturating_mul(demands.rise)).min(LONGEST_HOLD);
        let again = self.hold.saturating_mul(2).min(LONGEST_HOLD);
        self.hold = if worked { first } else { again.max(first) };
        self.out = Some(Out { until: Some(now + self.hold), successes: 0 });
    }

    /// A connection was good.
    fn worked(&mut self) {
        self.good = true;
        self.failed = 0;
    }

    /// It is in again.
    fn let_in(&mut self, now: Time) {
        self.out = None;
        self.back_at = now;
        // Whoever counts begins anew with a server that becomes usable.
        self.failed = 0;
    }

    /// A check ended, and succeeded or not.
    pub(super) fn checked(&mut self, success: bool) {
        if let Some(out) = &mut self.out {
            out.successes = if success { out.successes.saturating_add(1) } else { 0 };
        }
    }

    /// Lets it in again if it is time.
    pub(super) fn look(&mut self, rise: u32, now: Time) {
        let Some(out) = &mut self.out else { return };
        out.until = out.until.filter(|until| now < *until);
        if out.until.is_none() && out.successes >= rise {
            self.let_in(now);
        }
    }

    /// When it has to be looked at.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.out?.until
    }

    /// While it is out: how many connections in a row failed, and its hold.
    pub(super) fn out(&self) -> Option<(u32, Duration)> {
        self.out.map(|_| (self.failed, self.hold))
    }
}

impl PoolState {
    /// Notes how many connections in a row failed, and counts one of them like
    /// a check that did, once until the next check. One to a server that is not
    /// up says nothing new.
    pub(super) fn connect_failed(&mut self, key: ServerKey, in_a_row: u32, changes: &mut Changes, now: Time) {
        let Some(demands) = self.demands.filter(|d| d.passive) else { return };
        let Some(s) = self.servers.get_mut(key.server).filter(|s| s.is_up()) else { return };
        s.clients.failed(in_a_row, demands, now);
        if std::mem::replace(&mut s.passive_counted, true) {
            return;
        }
        s.checks.passive = s.checks.passive.wrapping_add(1);
        if s.changed.is_none() && s.health.answers.heeds_clients(demands.fall) {
            let word = s.health.word();
            s.health.observe(Probe::Failed("a client's connection to it failed".into()), demands, now);
            changes.words |= word != s.health.word();
        }
        changes.hurry.push(key);
    }

    /// Notes that a connection was good: one that was used although clients'
    /// connections failed needs no hold any more.
    pub(super) fn connect_worked(&mut self, key: ServerKey, now: Time) {
        let Some(s) = self.servers.get_mut(key.server) else { return };
        s.clients.worked();
        if matches!(s.reason, Reason::ClientsFail { kept: true, .. }) {
            s.clients.let_in(now);
        }
    }

    /// Takes those out to which clients' connections fail, as long as that
    /// leaves the pool a server: what clients meet empties no pool.
    pub(super) fn spare_clients(&self, reasons: &mut [Reason]) {
        let takes = |i: usize, r: &Reason| {
            r.state() == State::Up && self.servers[i].serves(&self.settings.servers[i])
        };
        let out = |i: usize| self.servers[i].clients.out();
        let left = reasons.iter().enumerate().any(|(i, r)| takes(i, r) && out(i).is_none());
        for (i, reason) in reasons.iter_mut().enumerate().filter(|(i, r)| takes(*i, r)) {
            if let Some((in_a_row, hold)) = out(i) {
                *reason = Reason::ClientsFail { in_a_row, hold, kept: !left };
            }
        }
    }
}
