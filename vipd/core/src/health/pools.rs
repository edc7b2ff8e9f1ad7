//! The state of all servers of all pools, and what its changes ask for.

use super::{Demands, Health, Reason, State};
use crate::pool::{Pool, Pools, ServerKey, ServerState};
use crate::probe::{Lag, ObservedRole, Probe};
use crate::settings::{self, Host, Role};
use crate::time::Time;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// What a person asked of a server.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Admin {
    /// To do its work.
    #[default]
    Ready,
    /// To take no new connections; those it has go on.
    Drain,
    /// To be out of service: its sessions are closed.
    Maint,
}

/// What followed from an input. Nothing of it is done yet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// What a person should be told, in order.
    pub events: Vec<Event>,
    /// Servers whose sessions must be closed, once the new pools are in use.
    pub close: Vec<Close>,
    /// Whether [`PoolsState::build`] gives new pools.
    pub pools: bool,
}

/// Something that happened to a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// The server.
    pub key: ServerKey,
    /// Its pool's name.
    pub pool: String,
    /// Its name.
    pub server: String,
    /// What happened.
    pub change: Change,
}

/// What happened to a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Its state changed, or the reason for it.
    State {
        /// The state it was in.
        from: State,
        /// The state it is in.
        to: State,
        /// Why.
        reason: Reason,
    },
    /// Its role changed.
    Role {
        /// The role it had.
        from: ObservedRole,
        /// The role it has.
        to: ObservedRole,
    },
    /// Its name leads elsewhere.
    Addresses(Vec<IpAddr>),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server {}/{}: ", self.pool, self.server)?;
        match &self.change {
            Change::State { from, to, reason } if from == to => write!(f, "still {to}: {reason}"),
            Change::State { from, to, reason } => write!(f, "{from} -> {to}: {reason}"),
            Change::Role { from, to } => write!(f, "was {from}, is {to}"),
            Change::Addresses(addresses) => write!(f, "its name leads to {addresses:?} now"),
        }
    }
}

/// A server whose sessions must be closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Close {
    /// The server.
    pub key: ServerKey,
    /// Why.
    pub why: Why,
}

/// Why the sessions of a server must be closed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Why {
    /// It was the primary, and is a replica now.
    Demoted,
    /// It was the primary and stopped answering, and another server is the
    /// primary now.
    Superseded,
    /// It was taken out of service.
    Maintenance,
}

/// One server's line of the status.
#[derive(Clone, Debug)]
pub struct ServerStatus<'a> {
    /// The server.
    pub key: ServerKey,
    /// Its pool's settings.
    pub pool: &'a settings::Pool,
    /// Its settings.
    pub server: &'a settings::Server,
    /// Its state's reason, which has the [`Reason::state`].
    pub reason: &'a Reason,
    /// When its state's word became this one.
    pub since: Time,
    /// What was asked of it.
    pub admin: Admin,
    /// Its addresses now.
    pub addresses: &'a [IpAddr],
    /// Its role, if its check told.
    pub role: Option<ObservedRole>,
    /// Its lag as of its last answer.
    pub lag: Option<&'a Lag>,
}

/// The state of all servers of all pools.
#[derive(Clone, Debug, Default)]
pub struct PoolsState {
    pools: Vec<PoolState>,
    generation: u64,
    built: Arc<Pools>,
}

#[derive(Clone, Debug)]
struct PoolState {
    settings: Arc<settings::Pool>,
    demands: Option<Demands>,
    servers: Vec<Server>,
    /// In a pool that wants a primary: the last server that was it.
    incumbent: Option<usize>,
    /// The replica that is kept although it lags.
    kept: Option<usize>,
    /// What [`PoolsState::build`] made last, and of which states.
    built: Option<(Vec<ServerState>, Arc<Pool>)>,
}

#[derive(Clone, Debug)]
struct Server {
    addresses: Vec<IpAddr>,
    admin: Admin,
    health: Health,
    reason: Reason,
    since: Time,
}

impl PoolsState {
    /// All servers at their start: unknown, but for those without a check.
    #[must_use]
    pub fn new(pools: Vec<settings::Pool>, now: Time) -> Self {
        let mut state = Self::default();
        state.reconfigure(pools, now);
        state
    }

    /// Takes the result of a check. `None` when nothing changed but numbers.
    pub fn observe(&mut self, key: ServerKey, probe: Probe, now: Time) -> Option<Changes> {
        self.change(key, now, |pool, server, changes| {
            let (Some(demands), Some(s)) = (pool.demands, pool.servers.get_mut(server)) else { return };
            let before = s.health.role;
            s.health.observe(probe, demands);
            if let (Some(from), Some(to)) = (before, s.health.role)
                && from != to
            {
                changes.events.push(pool.event(key, Change::Role { from, to }));
                if demands.role == Role::Primary && to == ObservedRole::Replica {
                    changes.close.push(Close { key, why: Why::Demoted });
                }
            }
        })
    }

    /// Takes a person's wish.
    pub fn set_admin(&mut self, key: ServerKey, admin: Admin, now: Time) -> Option<Changes> {
        self.change(key, now, |pool, server, changes| {
            let Some(s) = pool.servers.get_mut(server) else { return };
            if admin == Admin::Maint && s.admin != Admin::Maint {
                changes.close.push(Close { key, why: Why::Maintenance });
            }
            s.admin = admin;
        })
    }

    /// Takes what a server's name was resolved to. An empty answer changes
    /// nothing, and neither does it for a server that has an address instead
    /// of a name. What is known of the server's health stays: a name whose
    /// answers rotate must not make it unknown again and again, and a new
    /// place is judged by the next check.
    pub fn set_addresses(&mut self, key: ServerKey, addresses: &[IpAddr], now: Time) -> Option<Changes> {
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        addresses.dedup();
        self.change(key, now, |pool, server, changes| {
            let named = pool.settings.servers.get(server).is_some_and(|s| matches!(s.host, Host::Name(_)));
            let Some(s) = pool.servers.get_mut(server) else { return };
            if !named || addresses.is_empty() || s.addresses == addresses {
                return;
            }
            let moved = !s.addresses.is_empty();
            s.addresses.clone_from(&addresses);
            if moved {
                changes.events.push(pool.event(key, Change::Addresses(addresses)));
            }
        })
    }

    /// Takes new settings. A server of the same pool and name keeps what is
    /// known of it: its health if it is at the same place and has the same kind
    /// of check, its addresses if it has the same host, what was asked of it in any case.
    pub fn reconfigure(&mut self, pools: Vec<settings::Pool>, now: Time) -> Changes {
        let old = std::mem::take(&mut self.pools);
        self.pools = pools
            .into_iter()
            .map(|p| {
                let before = old.iter().find(|o| o.settings.name == p.name);
                PoolState::new(p, before, now)
            })
            .collect();
        let mut changes = Changes { pools: true, ..Changes::default() };
        for (i, pool) in self.pools.iter_mut().enumerate() {
            pool.judge(i, now, &mut changes);
        }
        changes
    }

    /// The pools as of now; the same value as before if nothing changed.
    pub fn build(&mut self) -> Arc<Pools> {
        let next = self.generation + 1;
        let shared: Vec<_> = self.pools.iter_mut().map(|p| p.build(next)).collect();
        let same = self.generation > 0
            && shared.len() == self.built.pools().len()
            && shared.iter().zip(self.built.pools()).all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            self.generation = next;
            self.built = Arc::new(Pools::of(next, shared));
        }
        Arc::clone(&self.built)
    }

    /// The servers of all pools, in the order of the settings.
    pub fn status(&self) -> impl Iterator<Item = ServerStatus<'_>> {
        self.pools.iter().enumerate().flat_map(|(i, pool)| {
            pool.servers.iter().zip(&pool.settings.servers).enumerate().map(move |(j, (s, settings))| {
                ServerStatus {
                    key: ServerKey { pool: i, server: j },
                    pool: &pool.settings,
                    server: settings,
                    reason: &s.reason,
                    since: s.since,
                    admin: s.admin,
                    addresses: &s.addresses,
                    role: s.health.role,
                    lag: s.health.lag.as_ref(),
                }
            })
        })
    }

    /// The server of these names.
    #[must_use]
    pub fn find(&self, pool: &str, server: &str) -> Option<ServerKey> {
        let at = self.pools.iter().position(|p| p.settings.name == pool)?;
        let server = self.pools[at].settings.servers.iter().position(|s| s.name == server)?;
        Some(ServerKey { pool: at, server })
    }

    /// Runs `input` on a server's pool and judges the pool anew.
    fn change(
        &mut self,
        key: ServerKey,
        now: Time,
        input: impl FnOnce(&mut PoolState, usize, &mut Changes),
    ) -> Option<Changes> {
        let pool = self.pools.get_mut(key.pool)?;
        let mut changes = Changes::default();
        input(pool, key.server, &mut changes);
        pool.judge(key.pool, now, &mut changes);
        changes.pools = pool.built.as_ref().is_none_or(|(states, _)| *states != pool.states());
        let nothing = changes.events.is_empty() && changes.close.is_empty() && !changes.pools;
        (!nothing).then_some(changes)
    }
}

impl PoolState {
    fn new(settings: settings::Pool, before: Option<&Self>, now: Time) -> Self {
        let servers = settings.servers.iter().map(|s| {
            let old = before.and_then(|b| Some((b, b.position(&s.name)?)));
            Server::new(
                s,
                &settings,
                old.map(|(b, i)| (&b.servers[i], &b.settings.servers[i], &*b.settings)),
                now,
            )
        });
        let kept = |at: fn(&Self) -> Option<usize>| {
            let b = before?;
            let name = &b.settings.servers.get(at(b)?)?.name;
            settings.servers.iter().position(|s| s.name == *name)
        };
        Self {
            servers: servers.collect(),
            incumbent: kept(|b| b.incumbent),
            kept: kept(|b| b.kept),
            demands: settings.check.as_ref().map(Demands::of),
            built: None,
            settings: Arc::new(settings),
        }
    }

    fn position(&self, server: &str) -> Option<usize> {
        self.settings.servers.iter().position(|s| s.name == server)
    }

    fn event(&self, key: ServerKey, change: Change) -> Event {
        let server = self.settings.servers[key.server].name.clone();
        Event { key, pool: self.settings.name.clone(), server, change }
    }

    /// Judges every server, first by itself, then beside the others.
    fn judge(&mut self, at: usize, now: Time, changes: &mut Changes) {
        let mut reasons: Vec<Reason> = self.servers.iter().map(|s| s.judge(self.demands)).collect();
        self.one_primary(at, &mut reasons, changes);
        self.keep_freshest(&mut reasons);
        for (s, reason) in self.servers.iter().zip(&mut reasons) {
            if s.admin == Admin::Drain && reason.state() == State::Up {
                *reason = Reason::Drained;
            }
        }
        for (i, reason) in reasons.into_iter().enumerate() {
            let old = std::mem::replace(&mut self.servers[i].reason, reason);
            let new = &self.servers[i].reason;
            if new.news(&old) {
                let (from, to) = (old.state(), new.state());
                let change = Change::State { from, to, reason: new.clone() };
                changes.events.push(self.event(ServerKey { pool: at, server: i }, change));
                if from != to {
                    self.servers[i].since = now;
                }
            }
        }
    }

    /// Of several writable servers in a pool that wants one, the incumbent
    /// stays, even drained: what still runs on it writes. It is replaced when
    /// it is no primary any more, does not answer, or is in maintenance.
    fn one_primary(&mut self, at: usize, reasons: &mut [Reason], changes: &mut Changes) {
        if self.demands.is_none_or(|d| d.role != Role::Primary) {
            return;
        }
        let writable = |r: &Reason| r.state() == State::Up;
        let stays = self.incumbent.is_some_and(|i| reasons.get(i).is_some_and(writable));
        if let (false, Some(next)) = (stays, reasons.iter().position(writable))
            && let Some(server) = self.incumbent.replace(next)
            && self.servers[server].admin != Admin::Maint
            // One that was demoted has been closed for that already.
            && self.servers[server].health.role == Some(ObservedRole::Primary)
        {
            changes.close.push(Close { key: ServerKey { pool: at, server }, why: Why::Superseded });
        }
        let Some(incumbent) = self.incumbent else { return };
        for (i, reason) in reasons.iter_mut().enumerate() {
            if i != incumbent && writable(reason) {
                *reason = Reason::Conflict { with: self.settings.servers[incumbent].name.clone() };
            }
        }
    }

    /// When only lagging replicas are left, keeps the freshest. It stays until
    /// another lags less than four fifths of its lag, so that two alike do not
    /// take turns with every check.
    fn keep_freshest(&mut self, reasons: &mut [Reason]) {
        let takes = |i: usize| self.servers[i].admin == Admin::Ready && self.settings.servers[i].weight > 0;
        let served = reasons.iter().enumerate().any(|(i, r)| r.state() == State::Up && takes(i));
        let lag = |i: usize| match reasons.get(i) {
            Some(Reason::Lagging { lag, .. }) if takes(i) && !served => Some(*lag),
            Some(_) | None => None,
        };
        let kept = self.kept.and_then(|i| Some((lag(i)?, i)));
        // A lag nobody knows now may keep a server, but does not choose one.
        let known = |i: &usize| matches!(self.servers[*i].health.lag, Some(Lag::Known(_)));
        let freshest = (0..reasons.len()).filter(known).filter_map(|i| Some((lag(i)?, i))).min();
        let choice = match (kept, freshest) {
            (Some(kept), Some(other)) if other.0 >= kept.0 / 5 * 4 => Some(kept),
            (kept, None) => kept,
            (Some(_) | None, other @ Some(_)) => other,
        };
        self.kept = choice.map(|(_, i)| i);
        if let Some(i) = self.kept
            && let Reason::Lagging { lag, max } = reasons[i]
        {
            reasons[i] = Reason::Freshest { lag, max };
        }
    }

    fn states(&self) -> Vec<ServerState> {
        let of = |(s, settings): (&Server, &settings::Server)| ServerState {
            usable: s.reason.state() == State::Up,
            addresses: s.addresses.clone(),
            weight: settings.weight,
        };
        self.servers.iter().zip(&self.settings.servers).map(of).collect()
    }

    fn build(&mut self, generation: u64) -> Arc<Pool> {
        let states = self.states();
        match &self.built {
            Some((before, pool)) if *before == states => Arc::clone(pool),
            Some(_) | None => {
                let pool = Arc::new(Pool::new(generation, Arc::clone(&self.settings), &states));
                self.built = Some((states, Arc::clone(&pool)));
                pool
            }
        }
    }
}

impl Server {
    fn new(
        settings: &settings::Server,
        pool: &settings::Pool,
        before: Option<(&Self, &settings::Server, &settings::Pool)>,
        now: Time,
    ) -> Self {
        let addresses = match &settings.host {
            Host::Address(address) => vec![*address],
            Host::Name(_) => vec![],
        };
        let reason = match (&settings.host, &pool.check) {
            (Host::Name(_), _) => Reason::Unresolved,
            (Host::Address(_), None) => Reason::NoCheck,
            (Host::Address(_), Some(_)) => Reason::NotChecked,
        };
        let fresh = Self { addresses, admin: Admin::Ready, health: Health::default(), reason, since: now };
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
        }
        if old_settings.host != settings.host || old_settings.port != settings.port || !same_check {
            kept.health = fresh.health;
        }
        if let Some(check) = &pool.check {
            kept.health.judge_freshness(Demands::of(check));
        }
        kept
    }

    fn judge(&self, demands: Option<Demands>) -> Reason {
        if self.admin == Admin::Maint {
            return Reason::Maintenance;
        }
        if self.addresses.is_empty() {
            return Reason::Unresolved;
        }
        demands.map_or(Reason::NoCheck, |d| self.health.judge(d))
    }
}
