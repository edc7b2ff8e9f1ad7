//! The servers behind this node: what their checks say, and whom it concerns.

use super::{Node, Output};
use crate::event::{Event, Kind, Level};
use crate::health::{Admin, Change, Changes, PoolsState, Reason, State};
use crate::peers::Peer;
use crate::pool::{Pools, ServerKey};
use crate::settings::{Member, Pool};
use crate::time::Time;
use crate::wire::peer::{Incumbent, State as Word, pool_id, server_id};
use std::sync::Arc;
use std::time::Duration;

/// Other nodes hear within this time what a check said: with every check, a
/// thousand servers that fail at once would be a thousand messages.
const WORDS_WITHIN: Duration = Duration::from_millis(50);

impl Node {
    /// Asks something of a server: to work, to drain, to be out of service.
    /// Gives a warning if its pool has no usable server left by that.
    ///
    /// # Errors
    /// There is no such server; the text lists what there is.
    pub fn set_admin(
        &mut self,
        pool: &str,
        server: &str,
        admin: Admin,
        now: Time,
    ) -> Result<Option<String>, String> {
        self.order(pool, server, now, |pools, key| pools.set_admin(key, admin, now))
    }

    /// Gives a server a weight until the program ends, or that of the settings
    /// again. Gives a warning if its pool has no usable server left by that.
    ///
    /// # Errors
    /// There is no such server; the text lists what there is.
    pub fn set_weight(
        &mut self,
        pool: &str,
        server: &str,
        weight: Option<u16>,
        now: Time,
    ) -> Result<Option<String>, String> {
        self.order(pool, server, now, |pools, key| pools.set_weight(key, weight, now))
    }

    fn order(
        &mut self,
        pool: &str,
        server: &str,
        now: Time,
        order: impl FnOnce(&mut PoolsState, ServerKey) -> Option<Changes>,
    ) -> Result<Option<String>, String> {
        let key = self.pools.find(pool, server).ok_or_else(|| self.no_such_server(pool))?;
        let served = self.pools.serves(key.pool);
        let changes = order(&mut self.pools, key);
        self.servers_changed(changes, now);
        self.settle(now);
        let emptied = served && !self.pools.serves(key.pool);
        Ok(emptied.then(|| self.nothing_left(key)))
    }

    /// What becomes of the connections of a pool whose last usable server was taken out.
    fn nothing_left(&mut self, key: ServerKey) -> String {
        let goes = self.pools.build().serves(key.pool);
        let settings = &self.settings.pools[key.pool];
        let fallback = settings.fallback.and_then(|f| self.settings.pools.get(f)).filter(|_| goes);
        let then = match fallback {
            Some(fallback) => format!("its connections go to its fallback {}", fallback.name),
            None => "its connections are refused".to_owned(),
        };
        let pool = &settings.name;
        let of_pool = || self.pools.status().filter(|s| s.key.pool == key.pool);
        let Some(server) = of_pool().find(|s| s.key == key && s.incumbent).map(|s| &s.server.name) else {
            return format!("that was the last usable server of pool {pool}: {then}");
        };
        let beside = |r: &Reason| matches!(r, Reason::Conflict { .. } | Reason::Standby { .. });
        let next = match of_pool().find(|s| beside(s.reason)) {
            Some(other) => format!("{}, which is writable too,", other.server.name),
            None => "the next server that is writable".to_owned(),
        };
        format!(
            "{server} stays the primary of pool {pool}, since what runs on it writes: {then} until {server} \
             takes new ones again, is read-only or does not answer; to let {next} take over at once: \
             vipctl server {pool}/{server} maint (it closes the sessions on {server})"
        )
    }

    fn no_such_server(&self, pool: &str) -> String {
        let list =
            |of: &mut dyn Iterator<Item = &String>| of.map(String::as_str).collect::<Vec<_>>().join(", ");
        match self.settings.pools.iter().find(|p| p.name == pool) {
            Some(found) => {
                format!("pool {pool} has the servers {}", list(&mut found.servers.iter().map(|s| &s.name)))
            }
            None => format!(
                "there is no pool `{pool}`; there is {}",
                list(&mut self.settings.pools.iter().map(|p| &p.name))
            ),
        }
    }

    /// The state of every server.
    #[must_use]
    pub const fn servers(&self) -> &PoolsState {
        &self.pools
    }

    /// The pools as they would be with other settings, of a generation of their own.
    #[must_use]
    pub fn preview_pools(&mut self, pools: &[Pool], now: Time) -> Arc<Pools> {
        let mut preview = self.pools.clone();
        preview.reconfigure(pools.to_vec(), now);
        let built = preview.build();
        self.pools.skip_to(built.generation());
        built
    }

    /// Passes on what followed from a probe, a look-up or a command.
    pub(super) fn servers_changed(&mut self, changes: Option<Changes>, now: Time) {
        let Some(changes) = changes else { return };
        for event in changes.events {
            let level = match &event.change {
                Change::State { reason, .. } if !reason.is_trouble() => Level::Info,
                Change::Addresses(_) | Change::Answers(_) | Change::Unable(None) => Level::Info,
                Change::State { .. }
                | Change::Role { .. }
                | Change::Chosen { .. }
                | Change::Apart { .. }
                | Change::Unable(Some(_)) => Level::Warn,
            };
            let told = Event::new(level, Kind::Server, event.to_string());
            self.tell(Event { server: Some((event.pool, event.server)), ..told });
        }
        if changes.pools {
            self.pools_changed(now);
        }
        if changes.words {
            self.hello_at = self.hello_at.min(now + WORDS_WITHIN);
        }
        self.warm_up(now);
        for room in changes.rooms {
            self.out.push_back(Output::Room { server: room.key, free: room.free });
        }
        for server in changes.hurry {
            self.out.push_back(Output::Hurry { server });
        }
        for only in changes.only {
            self.out.push_back(Output::CloseElsewhere(only));
        }
        for close in changes.close {
            self.out.push_back(Output::CloseServer { server: close.key, why: close.why });
        }
    }

    /// Two nodes that see two writable servers must not write to both: what the
    /// owner of an address follows counts; of two owners, or of two that are none,
    /// who knows of more changes, and then the first by preference. A node of an
    /// earlier release knows nothing of changes (`epochs`), and takes the word of
    /// owners before it by preference: so it is with the two of them.
    pub(super) fn agree(&mut self, from: usize, incumbents: Vec<Incumbent>, epochs: bool, now: Time) {
        let here = self.groups.iter().any(|g| g.election.word() == Word::Active);
        let there = self.peers[from].reports.iter().any(|r| r.state == Word::Active);
        for incumbent in &incumbents {
            let ours = self.pools.epoch_of(incumbent.pool).unwrap_or(0);
            let knows_more = (incumbent.epoch, self.me) > (ours, from);
            let counts = match (there, here) {
                (true, false) => true,
                (false, true) => false,
                (true, true) if epochs => knows_more,
                (true, true) => self.me > from,
                (false, false) => epochs && knows_more && !self.an_owner_follows(incumbent.pool),
            };
            if counts {
                let changes = self.pools.adopt(*incumbent, now);
                self.servers_changed(changes, now);
            }
        }
        self.peers[from].incumbents = incumbents;
    }

    /// Whether a node that owns an address says which primary of a pool it follows:
    /// that counts, and what others say does not.
    fn an_owner_follows(&self, pool: u32) -> bool {
        let owns = |p: &&Peer| p.alive && p.reports.iter().any(|r| r.state == Word::Active);
        self.peers.iter().filter(owns).any(|p| p.incumbents.iter().any(|i| i.pool == pool))
    }

    /// Lets the pools choose their primaries once the other nodes have said
    /// which they follow, or are not there: a node that was restarted may see
    /// only one of two, and the wrong one.
    pub(super) fn decide(&mut self, now: Time) {
        let Some(at) = self.decide_at else { return };
        let mut others = self.peers.iter().enumerate().filter(|(n, _)| *n != self.me);
        if now < at && !others.all(|(_, p)| p.speaks) {
            return;
        }
        self.decide_at = None;
        let changes = self.pools.decide(now);
        self.servers_changed(Some(changes), now);
    }

    /// The nodes that follow other primaries of a pool than this one, and which.
    #[must_use]
    pub fn disagreeing(&self, pool: usize) -> Vec<(String, String)> {
        let Some(settings) = self.settings.pools.get(pool) else { return vec![] };
        let own = self.pools.incumbents().find(|i| i.pool == pool_id(&settings.name));
        let nodes = self.settings.cluster.nodes.iter().zip(&self.peers).filter(|(_, p)| p.alive);
        let theirs = |(node, peer): (&'_ Member, &Peer)| {
            let their = peer.incumbents.iter().find(|i| i.pool == pool_id(&settings.name))?;
            if own.is_none_or(|own| own.server == their.server) {
                return None;
            }
            let server = settings.servers.iter().find(|s| server_id(&s.name) == their.server)?;
            Some((node.name.clone(), server.name.clone()))
        };
        nodes.filter_map(theirs).collect()
    }

    /// Looks whether every server has been judged once: until then another node
    /// is the better owner.
    pub(super) fn warm_up(&mut self, now: Time) {
        let Some(at) = self.warm_at else { return };
        let unknown = self.pools.status().any(|s| s.reason.state() == State::Unknown);
        if unknown && now < at {
            return;
        }
        self.warm_at = None;
        for group in &mut self.groups {
            group.warm = true;
        }
        if self.stopping.is_none() {
            self.say_hello(now);
        }
    }

    /// Hands out the pools as they are now, and looks whether the listeners
    /// that groups track are served.
    pub(super) fn pools_changed(&mut self, now: Time) {
        let pools = self.pools.build();
        let listeners = &self.settings.listeners;
        let mut news = false;
        for group in &mut self.groups {
            let served = |l: &usize| listeners.get(*l).is_some_and(|l| pools.serves(l.pool));
            let serving = group.vip.track.iter().all(served);
            news |= std::mem::replace(&mut group.serving, serving) != serving;
        }
        self.out.push_back(Output::Pools(pools));
        if news && self.stopping.is_none() {
            self.say_hello(now);
            self.step_back(now);
        }
    }

    /// The pool and server of a key, by name.
    #[must_use]
    pub fn server_name(&self, key: ServerKey) -> Option<(&str, &str)> {
        let pool = self.settings.pools.get(key.pool)?;
        Some((&pool.name, &pool.servers.get(key.server)?.name))
    }
}
