//! In a pool that wants the primary: which server that is.

use super::PoolState;
use crate::health::server::Server;
use crate::health::{Admin, Change, Changes, Close, Only, Reason, State, Why};
use crate::pool::ServerKey;
use crate::probe::ObservedRole;
use crate::settings::{self, Resolve, Role};
use crate::time::Time;
use crate::wire::peer::Word;
use std::net::SocketAddr;
use std::time::Duration;

/// A check's first turn comes within a second (`vipd/src/check/pace`), and its
/// report within a moment after its time-out.
const FIRST_TURN: Duration = Duration::from_millis(1_250);

/// A check may take longer than this, but holds no first choice up for it. With
/// [`FIRST_TURN`] it is less than what systemd waits for the first round
/// (`FIRST_ROUND` in `vipd/src/control/notify.rs`): who starts after vipd finds
/// a primary.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

impl PoolState {
    /// Chooses no primary before each server could be checked once.
    pub(in crate::health) fn survey(&mut self, now: Time) {
        let wants_one = self.demands.is_some_and(|d| d.role == Role::Primary && !d.clustered);
        let known = self.incumbent.is_some() || self.servers.iter().any(Server::is_told);
        if let Some(check) = self.settings.check.as_ref().filter(|_| wants_one && !known) {
            self.survey = Some(now + FIRST_TURN + check.timeout.min(FIRST_ANSWER));
        }
    }

    /// Ends that when there is nothing to wait for any more.
    pub(super) fn look_at_survey(&mut self, now: Time) {
        let seen = |(s, settings): (&Server, &settings::Server)| {
            // One that stands for many is not checked itself.
            let is_one = settings.resolve == Resolve::One;
            s.is_told() || s.admin == Admin::Maint || settings.vanished.is_some() || !is_one
        };
        let all = self.incumbent.is_some() || self.servers.iter().zip(&self.settings.servers).all(seen);
        self.survey = self.survey.filter(|until| now < *until && !all);
    }

    /// Of several writable servers in a pool that wants one, the incumbent
    /// stays, even drained: what still runs on it writes. It is replaced when
    /// it is no primary any more, does not answer, is in maintenance, or has
    /// vanished and another is there. Of a pool that is gone as a whole, one of
    /// those that vanished is followed: there may be sessions on each.
    pub(super) fn one_primary(
        &mut self,
        at: usize,
        reasons: &mut [Reason],
        now: Time,
        changes: &mut Changes,
    ) {
        let Some(demands) = self.demands.filter(|d| d.role == Role::Primary) else { return };
        let writable = |r: &Reason| r.state() == State::Up;
        let vanished = |i: usize| self.settings.servers[i].vanished.is_some();
        let some_stays = (0..reasons.len()).any(|i| writable(&reasons[i]) && !vanished(i));
        let candidate = |i: &usize| reasons.get(*i).is_some_and(writable) && !(some_stays && vanished(*i));
        let elsewhere = |i: usize| reasons.get(i).is_some_and(|r| self.is_primary_elsewhere(i, r));
        let next = match self.incumbent {
            None if self.listens || self.survey.is_some() => None,
            // Where every server takes writes, no other is wrong.
            Some(incumbent) if !demands.clustered && elsewhere(incumbent) => None,
            Some(incumbent) if candidate(&incumbent) => self.promoted_since(incumbent, reasons, candidate),
            Some(_) | None => self.choose(at, (0..reasons.len()).filter(candidate).collect(), changes),
        };
        if let Some(next) = next {
            self.follow(at, next, self.epoch.saturating_add(1), now, changes);
        }
        let Some(incumbent) = self.incumbent else {
            let waiting = reasons.iter_mut().filter(|r| writable(r));
            waiting.for_each(|r| *r = Reason::Undecided);
            return;
        };
        for (i, reason) in reasons.iter_mut().enumerate() {
            if i != incumbent && writable(reason) && self.settings.servers[i].vanished.is_none() {
                let incumbent = self.settings.servers[incumbent].name.clone();
                *reason = match demands.clustered {
                    true => Reason::Standby { of: incumbent },
                    false => Reason::Conflict { with: incumbent },
                };
            }
        }
    }

    /// Of several writable servers, none of which is in use, the one that most
    /// replicas replicate from; of those rather one whose last check said so;
    /// else the first. A person is told which and why.
    fn choose(&self, at: usize, candidates: Vec<usize>, changes: &mut Changes) -> Option<usize> {
        let replicas = |i: usize| self.opinion_of(i).hear;
        // Whoever fails, or was not asked where it is now, may not be writable.
        let said = |i: usize| self.servers[i].said_primary();
        let worth = |i: usize| (replicas(i).len(), said(i));
        let best = candidates.iter().map(|i| worth(*i)).max()?;
        let chosen = *candidates.iter().find(|i| worth(**i) == best)?;
        let most = best.0;
        let anywhere = self.demands.is_some_and(|d| d.clustered);
        let sure = candidates.iter().all(|i| said(*i));
        if candidates.len() > 1 && !anywhere && sure {
            let name = |i: &usize| self.settings.servers[*i].name.clone();
            let equal = |i: &&usize| **i != chosen && replicas(**i).len() == most;
            let change = Change::Chosen {
                among: candidates.iter().map(name).collect(),
                replicas: replicas(chosen),
                equals: candidates.iter().filter(equal).map(name).collect(),
            };
            changes.events.push(self.event(ServerKey { pool: at, server: chosen }, change));
        }
        Some(chosen)
    }

    /// The server that was promoted after the incumbent answered for the last
    /// time, if that fails its checks: no two were seen to be writable at the
    /// same time, so writes need not wait until it has failed `fall` of them.
    /// What clients met is no such failure: it would move a living primary.
    fn promoted_since(
        &self,
        incumbent: usize,
        reasons: &[Reason],
        candidate: impl Fn(&usize) -> bool,
    ) -> Option<usize> {
        let old = &self.servers[incumbent];
        let since = |i: &usize| {
            let promoted = self.servers[*i].health.promoted_at;
            candidate(i) && promoted.is_some() && promoted > old.health.answered_at
        };
        if !old.check_failed {
            return None;
        }
        (0..reasons.len()).find(|i| *i != incumbent && since(i))
    }

    /// Another server is the primary from now on, or the first one is.
    fn follow(&mut self, at: usize, server: usize, epoch: u32, since: Time, changes: &mut Changes) {
        self.epoch = epoch;
        self.followed_at = since;
        changes.words = true;
        if let Some(old) = self.incumbent.replace(server) {
            self.superseded(ServerKey { pool: at, server: old }, server, changes);
        }
    }

    /// Takes the word of another node for which server is the primary, if that
    /// can be written to by what is known here. If it cannot be seen from here,
    /// and is the primary by another's checks, nothing is written from here:
    /// rather no writer than two. `since` is when it began to be followed.
    pub(in crate::health) fn adopt(
        &mut self,
        at: usize,
        server: usize,
        epoch: u32,
        since: Time,
        changes: &mut Changes,
    ) {
        let Some(s) = self.servers.get(server) else { return };
        let beside = matches!(s.reason, Reason::Conflict { .. } | Reason::Standby { .. });
        let unseen = self.is_primary_elsewhere(server, &s.reason);
        if self.incumbent == Some(server) {
            self.epoch = epoch.max(self.epoch);
        } else if beside || unseen || self.incumbent.is_none() {
            // One of an earlier release has none.
            self.follow(at, server, epoch.max(self.epoch).max(1), since, changes);
        }
    }

    /// Another one is the primary now.
    fn superseded(&mut self, key: ServerKey, by: usize, changes: &mut Changes) {
        let Some(s) = self.servers.get(key.server) else { return };
        // A reload that gives a server another name takes nothing from its sessions.
        let port = |i: usize| self.settings.servers[i].port;
        let renamed = port(key.server) == port(by) && s.addresses == self.servers[by].addresses;
        // One that was demoted has been closed for that already, but not what
        // runs where it was before.
        let written_to = s.health.role == Some(ObservedRole::Primary) || s.moved;
        if !renamed && s.admin != Admin::Maint && written_to {
            self.servers[key.server].moved = false;
            changes.close.push(Close { key, why: Why::Superseded });
        }
    }

    /// Whether a server that cannot be judged from here is the primary by
    /// another node's checks: to choose another one would split the writes.
    fn is_primary_elsewhere(&self, server: usize, reason: &Reason) -> bool {
        let unseen = match reason {
            Reason::Unreachable { .. }
            | Reason::NotChecked
            | Reason::Unresolved { .. }
            | Reason::Unproven { .. }
            | Reason::RoleUnknown
            | Reason::Failing { .. }
            | Reason::Full(_)
            | Reason::Undecided => true,
            Reason::NoCheck
            | Reason::Healthy
            | Reason::Failed { .. }
            | Reason::Unready { .. }
            | Reason::WrongRole { .. }
            | Reason::NotReplicating
            | Reason::LagUnknown(_)
            | Reason::LagHeld(_)
            | Reason::Lagging { .. }
            | Reason::Freshest { .. }
            | Reason::ClientsFail { .. }
            | Reason::Conflict { .. }
            | Reason::Vanished(_)
            | Reason::Standby { .. }
            | Reason::Drained
            | Reason::Maintenance => false,
        };
        unseen && self.others.says(&self.settings.servers[server].name, Word::Primary)
    }

    /// Of the sessions of a pool that wants the primary, those at the place of
    /// the incumbent stay once it has proven itself there, and those on servers
    /// that are read-only; all others may write elsewhere. It holds for
    /// whatever a reload or a look-up made of names and places.
    pub(super) fn only_at_the_primary(&mut self, at: usize, changes: &mut Changes) {
        let follows = self.demands.is_some_and(|d| d.role == Role::Primary) && !self.has_heir;
        let proven = |i: &usize| self.servers.get(*i).is_some_and(Server::is_proven_primary);
        let Some(incumbent) = self.incumbent.filter(|i| follows && proven(i)) else { return };
        let anywhere = self.demands.is_some_and(|d| d.clustered);
        let mut places = vec![];
        for (i, (s, settings)) in self.servers.iter_mut().zip(&self.settings.servers).enumerate() {
            if s.health.role == Some(ObservedRole::Primary) {
                // It is in use again, or loses its sessions now.
                s.close_at = None;
            }
            if i == incumbent || s.health.role == Some(ObservedRole::Replica) {
                places.extend(s.homes(anywhere).map(|a| SocketAddr::new(a, settings.port)));
            }
        }
        places.sort_unstable();
        places.dedup();
        if self.told.as_ref() != Some(&places) {
            changes.only.push(Only { pool: at, before: self.heir_of.clone(), places: places.clone() });
            self.told = Some(places);
        }
    }
}
