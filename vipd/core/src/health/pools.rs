//! The state of all servers of all pools, and what its changes ask for.

use super::asked::{Asked, Wish};
use super::others::by_turns;
use super::pool::PoolState;
use super::shared::align;
use super::{Admin, Changes, Checks, Reason};
use crate::pool::{Pools, ServerKey};
use crate::probe::{Checked, Connections, Lag, ObservedRole, Probe};
use crate::settings::{self, Role};
use crate::time::Time;
use crate::wire::peer::{self, Among, Incumbent, Verdict, Word};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

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
    /// Where it is now: of a name with several addresses the one at which its
    /// check was answered.
    pub addresses: &'a [IpAddr],
    /// Why the latest look-up of its name failed, if it did.
    pub problem: Option<&'a str>,
    /// Its role, if its check told.
    pub role: Option<ObservedRole>,
    /// Its lag as of its last answer.
    pub lag: Option<&'a Lag>,
    /// Since when its lag has not been known.
    pub lag_unknown_since: Option<Time>,
    /// The connections it told of in its last answer.
    pub connections: Option<Connections>,
    /// Its weight: that of the settings, or what a person gave it.
    pub weight: u16,
    /// Whether a person gave it its weight.
    pub weight_given: bool,
    /// Hundredths of its weight that it has during a slow start.
    pub slow_start: Option<u8>,
    /// When the sessions on it are closed: it was demoted.
    pub close_at: Option<Time>,
    /// What was counted of its checks.
    pub checks: Checks,
    /// What this host lacked to check it the last time: all that is told here
    /// is as it was before.
    pub unable: Option<&'a str>,
    /// Whether it is the primary that its pool follows.
    pub incumbent: bool,
    /// Nodes whose checks of it fail.
    pub fails_from: Vec<&'a str>,
}

/// The state of all servers of all pools.
#[derive(Clone, Debug, Default)]
pub struct PoolsState {
    pools: Vec<PoolState>,
    asked: Asked,
    generation: u64,
    built: Arc<Pools>,
}

impl PoolsState {
    /// All servers at their start: unknown, but for those without a check.
    #[must_use]
    pub fn new(pools: Vec<settings::Pool>, now: Time) -> Self {
        let mut state = Self::default();
        state.reconfigure(pools, now);
        state
    }

    /// Takes the result of a check. `None` when nothing changed but numbers. One
    /// from an address that is none of the server's now says nothing of it.
    pub fn observe(&mut self, key: ServerKey, probe: Probe, checked: Checked, now: Time) -> Option<Changes> {
        self.change(key.pool, now, |pool, changes| pool.observe(key, probe, checked, changes, now))
    }

    /// A client's connection to a server failed, as the last of so many in a
    /// row with no good one in between.
    pub fn connect_failed(&mut self, key: ServerKey, in_a_row: u32, now: Time) -> Option<Changes> {
        self.change(key.pool, now, |pool, changes| pool.connect_failed(key, in_a_row, changes, now))
    }

    /// A client's connection to a server is good, the first after one that failed.
    pub fn connect_worked(&mut self, key: ServerKey, now: Time) -> Option<Changes> {
        self.change(key.pool, now, |pool, _| pool.connect_worked(key, now))
    }

    /// Takes a person's wish.
    pub fn set_admin(&mut self, key: ServerKey, admin: Admin, now: Time) -> Option<Changes> {
        self.change(key.pool, now, |pool, changes| pool.set_admin(key, admin, changes))
    }

    /// Takes the weight that a person gives a server; that of the settings when absent.
    pub fn set_weight(&mut self, key: ServerKey, weight: Option<u16>, now: Time) -> Option<Changes> {
        self.change(key.pool, now, |pool, _| {
            if let Some(s) = pool.servers.get_mut(key.server) {
                s.weight = weight;
            }
        })
    }

    /// Takes what a server's name was resolved to, or why it was not. An empty
    /// answer changes no address, and neither does any for a server that has an
    /// address instead of a name.
    ///
    /// What is known of the server's health stays if the address does at which
    /// its check was answered: a name with several must not become unproven
    /// whenever one comes or goes. Without it, what is there is another host:
    /// [`Reason::Unproven`].
    pub fn set_addresses(
        &mut self,
        key: ServerKey,
        addresses: &[IpAddr],
        problem: Option<String>,
        now: Time,
    ) -> Option<Changes> {
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        addresses.dedup();
        self.change(key.pool, now, |pool, changes| {
            pool.set_addresses(key, addresses, problem, changes, now);
        })
    }

    /// Takes addresses from a server that has a name, where it cannot be: with
    /// none left it is [`Reason::Unresolved`].
    pub fn withdraw(&mut self, key: ServerKey, unfit: &[IpAddr], now: Time) -> Option<Changes> {
        self.change(key.pool, now, |pool, changes| pool.withdraw(key, unfit, changes, now))
    }

    /// Takes new settings. A server of the same pool and name keeps what is
    /// known of it: its health if it is at the same place and has the same kind
    /// of check, its addresses if it has the same host, what was asked of it in
    /// any case, even if it was gone in between. One of a new name has what is
    /// known and was asked of the server that was at its place, in a new pool
    /// too, if that came in the place of one that is gone: it wants the same
    /// role, and has a server at the same place.
    pub fn reconfigure(&mut self, pools: Vec<settings::Pool>, now: Time) -> Changes {
        let old = std::mem::take(&mut self.pools);
        let living: Vec<String> = pools.iter().filter(|p| !p.is_gone()).map(|p| p.name.clone()).collect();
        self.pools = pools
            .into_iter()
            .map(|p| {
                let gone = |o: &&PoolState| !living.contains(&o.settings.name);
                let alike = |o: &&PoolState| o.settings.role() == p.role() && o.is_like(&p);
                let before = old.iter().find(|o| o.settings.name == p.name);
                let before = before.or_else(|| old.iter().filter(gone).find(alike));
                PoolState::new(p, before, now)
            })
            .collect();
        self.remember(&old);
        self.find_heirs();
        let mut changes = Changes { pools: true, ..Changes::default() };
        for (i, pool) in self.pools.iter_mut().enumerate() {
            pool.judge(i, now, &mut changes);
        }
        for at in 0..self.pools.len() {
            align(&mut self.pools, at, &mut changes, now);
        }
        changes
    }

    /// Finds the pools in whose place others came: one primary is followed for
    /// the sessions of both.
    fn find_heirs(&mut self) {
        for gone in 0..self.pools.len() {
            let pool = &self.pools[gone];
            if !pool.settings.is_gone() || pool.settings.role() == Role::Replica {
                continue;
            }
            let comes = |p: &PoolState| !p.settings.is_gone() && p.settings.role() == Role::Primary;
            if let Some(heir) = self.pools.iter().position(|p| comes(p) && p.meets(pool)) {
                self.pools[heir].heir_of.push(gone);
                self.pools[gone].has_heir = true;
            }
        }
    }

    /// Pools that wanted the primary, that the file has no more, and in whose
    /// place none came that has a server at the same place: their sessions go
    /// on, unless a listener tells whose they are now.
    pub fn orphans(&self) -> impl Iterator<Item = &settings::Pool> {
        let orphan =
            |p: &&PoolState| p.settings.is_gone() && p.settings.role() == Role::Primary && !p.has_heir;
        self.pools.iter().filter(orphan).map(|p| &*p.settings)
    }

    /// Keeps what was asked of servers that are not there any more, and gives
    /// it to those that are there again.
    fn remember(&mut self, old: &[PoolState]) {
        for pool in old {
            for (server, settings) in pool.servers.iter().zip(&pool.settings.servers) {
                let wish = Wish::of(&pool.settings.name, &settings.name, server);
                if let Some(wish) = wish.filter(|w| self.find(&w.pool, &w.server).is_none()) {
                    self.asked.keep(wish);
                }
            }
        }
        let mut asked = std::mem::take(&mut self.asked);
        asked.recall(|wish| {
            let key = self.find(&wish.pool, &wish.server);
            let server = key.and_then(|key| self.pools[key.pool].servers.get_mut(key.server));
            server.map(|server| wish.give(server)).is_some()
        });
        self.asked = asked;
    }

    /// The primaries that pools follow now.
    pub fn incumbents(&self) -> impl Iterator<Item = Incumbent> + '_ {
        self.pools.iter().filter_map(|pool| {
            let server = pool.incumbent.filter(|i| pool.servers[*i].is_writable())?;
            let server = peer::server_id(&pool.settings.servers.get(server)?.name);
            Some(Incumbent { pool: peer::pool_id(&pool.settings.name), server, epoch: pool.epoch })
        })
    }

    /// How often the primary of a pool has changed, by its number in messages.
    #[must_use]
    pub fn epoch_of(&self, pool: u32) -> Option<u32> {
        self.pools.iter().find(|p| peer::pool_id(&p.settings.name) == pool).map(|p| p.epoch)
    }

    /// How often the primary of a pool has changed, by its position.
    #[must_use]
    pub fn epoch(&self, pool: usize) -> u32 {
        self.pools.get(pool).map_or(0, |p| p.epoch)
    }

    /// Pools of which nothing is known yet choose no primary before each of their
    /// servers was checked once, or could have been.
    pub fn survey(&mut self, now: Time) {
        for pool in &mut self.pools {
            pool.survey(now);
        }
    }

    /// Until further notice no pool chooses a primary: other nodes may follow one.
    pub fn listen(&mut self) {
        for pool in &mut self.pools {
            pool.listens = true;
        }
    }

    /// The other nodes have said which primaries they follow, or are not there.
    pub fn decide(&mut self, now: Time) -> Changes {
        self.each(now, |_, pool| std::mem::replace(&mut pool.listens, false))
    }

    /// Takes what another node's checks say of servers, all of it.
    pub fn hear(
        &mut self,
        node: usize,
        name: &str,
        verdicts: &[Verdict],
        among: Among,
        now: Time,
    ) -> Changes {
        let mut hurry = vec![];
        let mut changes = self.each(now, |at, pool| {
            let id = peer::pool_id(&pool.settings.name);
            let of = verdicts.iter().filter(|v| v.pool == id).map(|v| (v.server, v.word));
            let before = pool.others.clone();
            let heard = pool.others.hear(node, name, of.collect(), |server| among.holds(id, server));
            // What it cannot reach any more is looked at from here, too: it waits for that.
            let new = |s: &settings::Server| {
                pool.others.says(&s.name, Word::Failed) && !before.says(&s.name, Word::Failed)
            };
            let servers = pool.settings.servers.iter().enumerate().filter(|(_, s)| heard && new(s));
            hurry.extend(servers.map(|(server, _)| ServerKey { pool: at, server }));
            heard
        });
        changes.hurry.extend(hurry);
        changes
    }

    /// Another node is not heard any more: what it said counts for nothing.
    pub fn forget(&mut self, node: usize, now: Time) -> Changes {
        self.each(now, |_, pool| pool.others.forget(node))
    }

    /// Judges the pools anew that `changed` changes.
    fn each(&mut self, now: Time, mut changed: impl FnMut(usize, &mut PoolState) -> bool) -> Changes {
        let mut all = Changes::default();
        for at in 0..self.pools.len() {
            let pool = &mut self.pools[at];
            if changed(at, pool) {
                let mut changes = Changes { words: true, ..Changes::default() };
                pool.judge(at, now, &mut changes);
                changes.pools = !pool.is_built();
                all.extend(changes);
                align(&mut self.pools, at, &mut all, now);
            }
        }
        all
    }

    /// What this node's checks say of servers that matter to others, as the next
    /// hello tells it: the primaries, and whatever some node cannot reach; by
    /// turns, from the server with the number `next` on, where that is more than
    /// a hello holds.
    #[must_use]
    pub fn verdicts(&self, next: &mut (u32, u32), now: Time) -> (Vec<Verdict>, Among) {
        let (mut first, mut rest) = (vec![], vec![]);
        for pool in &self.pools {
            let Some(check) = &pool.settings.check else { continue };
            let id = peer::pool_id(&pool.settings.name);
            for (i, (s, settings)) in pool.servers.iter().zip(&pool.settings.servers).enumerate() {
                let Some(word) = s.word(check, now) else { continue };
                let disputed = || word == Word::Failed || pool.others.says(&settings.name, Word::Failed);
                let verdict = || Verdict { pool: id, server: peer::server_id(&settings.name), word };
                if pool.incumbent == Some(i) {
                    first.push(verdict());
                } else if disputed() {
                    rest.push(verdict());
                }
            }
        }
        by_turns(first, rest, next)
    }

    /// Follows the primary that another node follows, if it can be written to
    /// by what is known here.
    pub fn adopt(&mut self, incumbent: Incumbent, now: Time) -> Option<Changes> {
        let at = self.pools.iter().position(|p| peer::pool_id(&p.settings.name) == incumbent.pool)?;
        let mut servers = self.pools[at].settings.servers.iter();
        let server = servers.position(|s| peer::server_id(&s.name) == incumbent.server)?;
        self.change(at, now, |pool, changes| pool.adopt(at, server, incumbent.epoch, now, changes))
    }

    /// When [`PoolsState::tick`] is due: the next step of a slow start, the end
    /// of a wait for each server's first check, of what a demoted primary's sessions were given, or of the time for which
    /// a server is out that clients could not connect to.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.pools.iter().filter_map(PoolState::deadline).min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Time) -> Changes {
        let mut all = Changes::default();
        for at in 0..self.pools.len() {
            if self.pools[at].deadline().is_some_and(|at| now >= at) {
                let changed = self.change(at, now, |pool, changes| pool.tick(at, changes, now));
                all.extend(changed.unwrap_or_default());
            }
        }
        all
    }

    /// The pools as of now; the same value as before if nothing changed.
    pub fn build(&mut self) -> Arc<Pools> {
        let next = self.generation + 1;
        let shared: Vec<_> = self.pools.iter_mut().map(|p| p.build(next)).collect();
        let same = self.built.generation() > 0
            && shared.len() == self.built.pools().len()
            && shared.iter().zip(self.built.pools()).all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            self.generation = next;
            self.built = Arc::new(Pools::of(next, shared));
        }
        Arc::clone(&self.built)
    }

    /// The next build has a greater generation than this: another one has it.
    pub(crate) fn skip_to(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
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
                    addresses: s.places(),
                    problem: s.problem.as_deref(),
                    role: s.health.role,
                    lag: s.health.lag.as_ref(),
                    lag_unknown_since: s.health.lag_unknown_since,
                    connections: s.health.connections,
                    weight: s.weight(settings),
                    weight_given: s.weight.is_some(),
                    slow_start: s.slow_start(),
                    close_at: s.close_at,
                    checks: s.checks,
                    unable: s.unable.as_deref(),
                    incumbent: pool.incumbent == Some(j) && s.is_writable(),
                    fails_from: pool.others.who(&settings.name, |word| word == Word::Failed),
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

    /// The server of these names, if it is at this place and not only its name.
    #[must_use]
    pub fn find_at(&self, pool: &str, server: &str, place: SocketAddr) -> Option<ServerKey> {
        let key = self.find(pool, server)?;
        let pool = &self.pools[key.pool];
        let (s, settings) = (pool.servers.get(key.server)?, pool.settings.servers.get(key.server)?);
        (settings.port == place.port() && s.places().contains(&place.ip())).then_some(key)
    }

    /// Whether some server of the pool itself gets connections.
    #[must_use]
    pub fn serves(&self, pool: usize) -> bool {
        self.pools.get(pool).is_some_and(PoolState::serves)
    }

    /// Whether every server that the pool and its fallbacks have left fails its
    /// checks, though not yet often enough to be down.
    #[must_use]
    pub fn is_failing(&self, pool: usize) -> bool {
        let mut next = Some(pool);
        let mut left = false;
        // Chains of checked settings have an end.
        for _ in 0..self.pools.len() {
            let Some(state) = next.and_then(|at| self.pools.get(at)) else { break };
            for server in state.usable() {
                if !matches!(server.reason, Reason::Failing { .. }) {
                    return false;
                }
                left = true;
            }
            next = state.settings.fallback;
        }
        left
    }

    /// Runs `input` on a pool and judges it anew.
    fn change(
        &mut self,
        at: usize,
        now: Time,
        input: impl FnOnce(&mut PoolState, &mut Changes),
    ) -> Option<Changes> {
        let pool = self.pools.get_mut(at)?;
        let mut changes = Changes::default();
        input(pool, &mut changes);
        pool.judge(at, now, &mut changes);
        changes.pools = !pool.is_built();
        align(&mut self.pools, at, &mut changes, now);
        (!changes.is_empty()).then_some(changes)
    }
}
