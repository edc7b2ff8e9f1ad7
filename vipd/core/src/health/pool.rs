//! One pool: its servers judged beside each other.

mod primary;

use super::clients::Clients;
use super::others::{Others, is_source};
use super::server::Server;
use super::shared::Apart;
use super::{Admin, Change, Changes, Close, Demands, Event, Opinion, Reason, State, Why};
use crate::pool::{Pool, ServerKey, ServerState};
use crate::probe::{Checked, Lag, Observation, ObservedRole, Probe};
use crate::settings::{self, Host, OnDemote, OnDown, Role};
use crate::time::Time;
use crate::wire::peer::Word;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(super) struct PoolState {
    pub(super) settings: Arc<settings::Pool>,
    pub(super) demands: Option<Demands>,
    pub(super) servers: Vec<Server>,
    /// In a pool that wants a primary: the last server that was it.
    pub(super) incumbent: Option<usize>,
    /// Counts the changes of that, on all nodes; 0 before the first.
    pub(super) epoch: u32,
    /// Since when it has followed that, or the pool that it took it from has.
    pub(super) followed_at: Time,
    /// It follows another primary than a pool with the same servers.
    pub(super) apart: Option<Apart>,
    /// What other nodes say of its servers.
    pub(super) others: Others,
    /// No primary is chosen before the other nodes have said which they follow.
    pub(super) listens: bool,
    /// No primary is chosen before then, unless each server was checked once:
    /// of two that are writable the first to answer need not be the right one.
    pub(super) survey: Option<Time>,
    /// Pools that are gone and that it came in the place of.
    pub(super) heir_of: Vec<usize>,
    /// Whether another pool came in its place.
    pub(super) has_heir: bool,
    /// Where its sessions may be, as it was told last.
    told: Option<Vec<SocketAddr>>,
    /// The replica that is kept although it lags.
    kept: Option<usize>,
    /// What [`super::PoolsState::build`] made last, and of which states.
    built: Option<(Vec<ServerState>, Arc<Pool>)>,
}

impl PoolState {
    pub(super) fn new(settings: settings::Pool, before: Option<&Self>, now: Time) -> Self {
        // At the daemon's start nothing serves yet, and nothing that is found starts slowly.
        let joins = before.is_some_and(Self::serves);
        let servers = settings.servers.iter().map(|s| {
            let Some(b) = before else { return Server::new(s, &settings, joins, None, now) };
            let named = b.position(&s.name);
            // A name may come, go, or change places with another: what is
            // known is of what is at its place. What was asked is of its name.
            let placed = if s.vanished.is_some() { named } else { b.position_at(s).or(named) };
            let old = placed.map(|i| (&b.servers[i], &b.settings.servers[i], &*b.settings));
            let mut server = Server::new(s, &settings, joins, old, now);
            if let Some(named) = named.and_then(|i| b.servers.get(i)) {
                (server.admin, server.weight) = (named.admin, named.weight);
            }
            server
        });
        let kept = |at: fn(&Self) -> Option<usize>| {
            let b = before?;
            let old = b.settings.servers.get(at(b)?)?;
            let there = |s: &settings::Server| s.vanished.is_none() && s.place() == old.place();
            let named = |s: &settings::Server| s.name == old.name;
            let servers = &settings.servers;
            servers.iter().position(there).or_else(|| servers.iter().position(named))
        };
        Self {
            servers: servers.collect(),
            incumbent: kept(|b| b.incumbent),
            epoch: before.map_or(0, |b| b.epoch),
            followed_at: before.map_or(now, |b| b.followed_at),
            apart: before.and_then(|b| b.apart),
            others: before.map(|b| b.others.clone()).unwrap_or_default(),
            listens: before.is_some_and(|b| b.listens),
            survey: before.and_then(|b| b.survey),
            kept: kept(|b| b.kept),
            demands: settings.check.as_ref().map(Demands::of),
            heir_of: vec![],
            has_heir: false,
            told: None,
            built: None,
            settings: Arc::new(settings),
        }
    }

    fn position(&self, server: &str) -> Option<usize> {
        self.settings.servers.iter().position(|s| s.name == server)
    }

    /// The server that was at a server's place: of several the one of its
    /// name, or one that is no leftover.
    fn position_at(&self, server: &settings::Server) -> Option<usize> {
        let there = self.settings.servers.iter().enumerate().filter(|(_, s)| s.place() == server.place());
        there.min_by_key(|(_, s)| (s.name != server.name, s.vanished.is_some())).map(|(i, _)| i)
    }

    /// Whether they have a server at the same place.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let places = |pool: &Self| -> Vec<SocketAddr> {
            let servers = pool.servers.iter().zip(&pool.settings.servers);
            let at = |(s, settings): (&Server, &settings::Server)| {
                let port = settings.port;
                s.addresses.iter().map(|a| SocketAddr::new(*a, port)).collect::<Vec<_>>()
            };
            servers.flat_map(at).collect()
        };
        let here = places(other);
        self.is_like(&other.settings) || places(self).iter().any(|place| here.contains(place))
    }

    /// Whether some server of these settings is at the place of one of its own.
    pub(super) fn is_like(&self, settings: &settings::Pool) -> bool {
        settings.servers.iter().any(|s| self.position_at(s).is_some())
    }

    pub(super) fn event(&self, key: ServerKey, change: Change) -> Event {
        let server = self.settings.servers[key.server].name.clone();
        Event { key, pool: self.settings.name.clone(), server, change }
    }

    // ---- what comes in --------------------------------------------------------

    pub(super) fn observe(
        &mut self,
        key: ServerKey,
        probe: Probe,
        checked: Checked,
        changes: &mut Changes,
        now: Time,
    ) {
        let (Some(demands), Some(s)) = (self.demands, self.servers.get_mut(key.server)) else { return };
        // The name has moved, or will be heard to have: what answered is not this server.
        if checked.address.is_some_and(|a| !s.addresses.contains(&a)) {
            return;
        }
        let unable = if let Probe::Unable(why) = &probe { Some(why.clone()) } else { None };
        if unable.is_some() != s.unable.is_some() {
            changes.events.push(self.event(key, Change::Unable(unable.clone())));
        }
        let Some(s) = self.servers.get_mut(key.server) else { return };
        s.unable = unable;
        if !s.count(&probe, checked, now) {
            return;
        }
        if let Some(address) = checked.address.filter(|a| s.answered(*a, demands.fall)) {
            changes.events.push(self.event(key, Change::Answers(address)));
        }
        let Some(s) = self.servers.get_mut(key.server) else { return };
        let answered = matches!(probe, Probe::Answered(_) | Probe::Full(_));
        s.clients.checked(matches!(probe, Probe::Answered(Observation { unready: None, .. })));
        let (before, word) = (s.health.role, s.health.word());
        s.health.observe(probe, demands, now);
        let (was, is) = (word, s.health.word());
        changes.words |= was != is;
        if let (true, free @ Some(_)) = (answered, s.room(self.settings.headroom)) {
            s.room_told = true;
            changes.rooms.push(super::Room { key, free });
        }
        let after = s.health.role;
        if self.incumbent == Some(key.server) && was != is && is == Some(Word::Failed) {
            self.ask_replicas(key, changes);
        }
        if let (Some(from), Some(to)) = (before, after)
            && from != to
        {
            changes.events.push(self.event(key, Change::Role { from, to }));
            if demands.role == Role::Primary && to == ObservedRole::Replica {
                self.demoted(key, changes, now);
            }
        }
    }

    /// The primary begins to fail: what the others say of it shall be new.
    fn ask_replicas(&self, key: ServerKey, changes: &mut Changes) {
        let others = (0..self.servers.len()).filter(|s| *s != key.server);
        changes.hurry.extend(others.map(|server| ServerKey { server, ..key }));
    }

    fn demoted(&mut self, key: ServerKey, changes: &mut Changes, now: Time) {
        match self.settings.on_demote {
            OnDemote::Close => changes.close.push(Close { key, why: Why::Demoted }),
            OnDemote::Drain(after) => self.servers[key.server].close_at = Some(now + after),
        }
    }

    pub(super) fn set_admin(&mut self, key: ServerKey, admin: Admin, changes: &mut Changes) {
        let Some(s) = self.servers.get_mut(key.server) else { return };
        if admin == Admin::Maint && s.admin != Admin::Maint {
            changes.close.push(Close { key, why: Why::Maintenance });
            s.close_at = None;
        }
        if admin == Admin::Ready {
            // Whoever has mended what clients met need not wait.
            s.clients = Clients::default();
        }
        s.admin = admin;
    }

    pub(super) fn set_addresses(
        &mut self,
        key: ServerKey,
        addresses: Vec<IpAddr>,
        problem: Option<String>,
        changes: &mut Changes,
        now: Time,
    ) {
        let named = self.settings.servers.get(key.server).is_some_and(|s| matches!(s.host, Host::Name(_)));
        let Some(s) = self.servers.get_mut(key.server).filter(|_| named) else { return };
        s.problem = problem;
        if addresses.is_empty() || s.addresses == addresses {
            return;
        }
        let leaves = s.leaves(&addresses);
        let before = std::mem::replace(&mut s.addresses, addresses.clone());
        if before.is_empty() {
            return;
        }
        if self.demands.is_some() && leaves {
            s.forget(now);
            s.moved = true;
            changes.hurry.push(key);
        }
        changes.events.push(self.event(key, Change::Addresses(addresses)));
    }

    pub(super) fn withdraw(&mut self, key: ServerKey, unfit: &[IpAddr], changes: &mut Changes, now: Time) {
        let named = self.settings.servers.get(key.server).is_some_and(|s| matches!(s.host, Host::Name(_)));
        let Some(s) = self.servers.get_mut(key.server).filter(|_| named) else { return };
        let before = s.addresses.len();
        s.addresses.retain(|a| !unfit.contains(a));
        if s.addresses.len() == before {
            return;
        }
        let left = s.addresses.clone();
        if s.leaves(&left) {
            s.forget(now);
            s.moved = true;
        }
        if !left.is_empty() {
            changes.events.push(self.event(key, Change::Addresses(left)));
        }
    }

    /// When it has more to do than to wait for the next check.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.servers.iter().filter_map(Server::deadline).chain(self.survey).min()
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, at: usize, changes: &mut Changes, now: Time) {
        for (server, s) in self.servers.iter_mut().enumerate() {
            if s.close_at.is_some_and(|at| now >= at) {
                s.close_at = None;
                changes.close.push(Close { key: ServerKey { pool: at, server }, why: Why::Demoted });
            }
        }
    }

    // ---- judgement --------------------------------------------------------------

    /// Judges every server, first by itself, then beside the others.
    pub(super) fn judge(&mut self, at: usize, now: Time, changes: &mut Changes) {
        let rise = self.demands.map_or(0, |d| d.rise);
        self.servers.iter_mut().for_each(|s| s.clients.look(rise, now));
        self.look_at_survey(now);
        let mut reasons: Vec<Reason> = self.servers.iter().map(|s| s.judge(self.demands)).collect();
        self.second_opinions(&mut reasons);
        self.keep_unproven(&mut reasons);
        self.one_primary(at, &mut reasons, now, changes);
        self.keep_freshest(&mut reasons);
        self.spare_clients(&mut reasons);
        for ((s, settings), reason) in self.servers.iter().zip(&self.settings.servers).zip(&mut reasons) {
            if reason.state() == State::Up {
                match (settings.vanished, s.admin) {
                    (Some(why), Admin::Ready | Admin::Drain | Admin::Maint) => {
                        *reason = Reason::Vanished(why);
                    }
                    (None, Admin::Drain) => *reason = Reason::Drained,
                    (None, Admin::Ready | Admin::Maint) => {}
                }
            }
        }
        for (server, reason) in reasons.into_iter().enumerate() {
            let key = ServerKey { pool: at, server };
            let s = &mut self.servers[server];
            // Whoever knows no limit any more holds nothing back by an old one.
            if s.health.connections.is_none() && std::mem::take(&mut s.room_told) {
                changes.rooms.push(super::Room { key, free: None });
            }
            let old = s.become_of(reason, self.settings.slow_start, now);
            let new = &s.reason;
            if new.is_broken() && !old.is_broken() && self.settings.on_down == OnDown::Close {
                s.close_at = None;
                changes.close.push(Close { key, why: Why::Down });
            }
            let new = &self.servers[server].reason;
            if new.news(&old) {
                let change = Change::State { from: old.state(), to: new.state(), reason: new.clone() };
                changes.events.push(self.event(key, change));
            }
        }
        self.only_at_the_primary(at, changes);
    }

    /// What others say of servers that fail their checks here.
    fn second_opinions(&self, reasons: &mut [Reason]) {
        for (i, reason) in reasons.iter_mut().enumerate() {
            let Reason::Failed { error, replicas, .. } = reason else { continue };
            let reach = self.others.who(&self.settings.servers[i].name, |word| word != Word::Failed);
            if reach.is_empty() {
                *replicas = self.opinion_of(i);
            } else {
                *reason = Reason::Unreachable { error: std::mem::take(error), by: reach.join(", ") };
            }
        }
    }

    /// What a server's replicas say of it, those that answer themselves.
    fn opinion_of(&self, source: usize) -> Opinion {
        let mut opinion = Opinion::default();
        let (settings, addresses) = (&self.settings.servers[source], &self.servers[source].addresses);
        for (s, replica) in self.servers.iter().zip(&self.settings.servers) {
            let answers = s.health.word() == Some(Word::Replica);
            let Some(upstream) = s.health.upstream.as_ref().filter(|_| answers) else { continue };
            if is_source(upstream, settings, addresses) {
                let list = if upstream.hears { &mut opinion.hear } else { &mut opinion.deaf };
                list.push(replica.name.clone());
            }
        }
        opinion
    }

    /// When nothing else is usable, keeps what was used until it changed.
    fn keep_unproven(&self, reasons: &mut [Reason]) {
        let takes = |i: usize| self.servers[i].serves(&self.settings.servers[i]);
        if reasons.iter().enumerate().any(|(i, r)| r.state() == State::Up && takes(i)) {
            return;
        }
        for (s, reason) in self.servers.iter().zip(reasons) {
            if let Reason::Unproven { kept } = reason {
                *kept = s.changed.is_some_and(|c| c.used);
            }
        }
    }

    /// When only lagging replicas are left, keeps the freshest: the last that was
    /// in use, until another lags less than four fifths of its lag. So two alike do
    /// not take turns with every check, and none is left for one as old: servers
    /// tell their lag in seconds.
    fn keep_freshest(&mut self, reasons: &mut [Reason]) {
        let takes = |i: usize| self.servers[i].serves(&self.settings.servers[i]);
        let served = reasons.iter().enumerate().any(|(i, r)| r.state() == State::Up && takes(i));
        let lag = |i: usize| match reasons.get(i) {
            Some(Reason::Lagging { lag, .. }) if takes(i) && !served => Some(*lag),
            Some(_) | None => None,
        };
        let in_use = || (0..reasons.len()).find(|i| self.servers[*i].is_up() && lag(*i).is_some());
        let kept = self.kept.filter(|i| lag(*i).is_some()).or_else(in_use).and_then(|i| Some((lag(i)?, i)));
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

    // ---- what goes out ----------------------------------------------------------

    /// Whether some server of its own gets connections.
    pub(super) fn serves(&self) -> bool {
        self.usable().next().is_some()
    }

    /// Its servers that get connections.
    pub(super) fn usable(&self) -> impl Iterator<Item = &Server> {
        let all = self.servers.iter().zip(&self.settings.servers);
        all.filter(|(s, settings)| s.is_up() && s.serves(settings)).map(|(s, _)| s)
    }

    /// Whether [`PoolState::build`] gives what it gave before.
    pub(super) fn is_built(&self) -> bool {
        let same =
            |(s, (state, settings)): (&Server, (&ServerState, &settings::Server))| s.is(state, settings);
        self.built.as_ref().is_some_and(|(states, _)| {
            self.servers.iter().zip(states.iter().zip(&self.settings.servers)).all(same)
        })
    }

    pub(super) fn build(&mut self, generation: u64) -> Arc<Pool> {
        if let Some((_, pool)) = self.built.as_ref().filter(|_| self.is_built()) {
            return Arc::clone(pool);
        }
        let states: Vec<_> =
            self.servers.iter().zip(&self.settings.servers).map(|(s, settings)| s.state(settings)).collect();
        let pool = Arc::new(Pool::new(generation, Arc::clone(&self.settings), &states));
        self.built = Some((states, Arc::clone(&pool)));
        pool
    }
}
