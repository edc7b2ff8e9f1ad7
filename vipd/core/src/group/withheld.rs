//! Addresses that are this group's by this node's file and another node's by
//! its own: they are not taken, and not advertised, for as long as that lasts.

use super::Group;
use crate::event::{Kind, Level};
use crate::explain;
use crate::node::{ADVERT_INTERVAL, Elsewhere, Output, Own, PATIENCE_AT_MOST, RANK, Scope};
use crate::peers::Peer;
use crate::plan::Hold;
use crate::settings::{Cidr, Family};
use crate::time::Time;
use crate::wire::peer::{GroupReport, State};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

impl Group {
    /// The addresses that are not taken, and where they are.
    pub(crate) const fn withheld(&self) -> &BTreeMap<IpAddr, Elsewhere> {
        &self.withheld
    }

    /// The addresses that this group may have.
    pub(super) fn available(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.vip.addresses.iter().copied().filter(|a| !self.withheld.contains_key(&a.address()))
    }

    /// Whether owning this group would mean nothing: every address is withheld.
    /// Where only the election counts there is none to withhold.
    pub(crate) fn holds_nothing(&self) -> bool {
        !self.vip.addresses.is_empty() && self.available().next().is_none()
    }

    /// How this group has an address, if this node answers for it.
    pub(crate) fn own(&self, address: IpAddr, family: Family) -> Option<Own> {
        let asked = self.hold == Hold::Owned && self.asked.iter().any(|a| a.address() == address);
        let priority = self.election.params().priority;
        asked.then(|| Own { priority, source: self.source(family) })
    }

    /// A backup does not take over while all of its addresses are elsewhere, nor,
    /// before it has heard an owner, while there may be one that it cannot have
    /// heard yet.
    pub(super) fn bar(&mut self, scope: &Scope<'_>) {
        let withheld = self.withheld.values().map(|e| e.until).min().filter(|_| self.holds_nothing());
        let unheard = self.election.following().is_none().then(|| self.listens_until(scope)).flatten();
        let until = withheld.into_iter().chain(unheard).max();
        if until.is_none() && !self.election.is_barred() {
            return;
        }
        let rank = self.rank(scope);
        self.election.bar(until, rank, scope.now);
    }

    /// How long those that come before this node are given where all wait for one end.
    fn rank(&self, scope: &Scope<'_>) -> Duration {
        let ranking = self.vip.ranking(&scope.settings.cluster.nodes);
        let before = ranking.iter().position(|n| *n == scope.me).and_then(|n| u32::try_from(n).ok());
        RANK.saturating_mul(before.unwrap_or(u32::MAX))
    }

    /// Three of this node's intervals are no time to listen for where nobody has
    /// told yet by what files they run, nor where a node says to own the group
    /// and has another interval, which its next advert will tell.
    fn listens_until(&self, scope: &Scope<'_>) -> Option<Time> {
        let unsure = (!scope.unsure_for.is_zero()).then(|| scope.now + scope.unsure_for);
        let active = |r: &GroupReport| r.state == State::Active;
        // By a file that differs it may own the addresses under another number.
        let owns = |peer: &&Peer| {
            peer.report(self.vip.vrid).as_ref().is_some_and(active)
                || peer.advert_at.is_none() && peer.reports.iter().any(active)
        };
        let other_interval = |peer: &&Peer| peer.alive && peer.differs.contains(&ADVERT_INTERVAL);
        let slow = scope.peers.iter().filter(other_interval).filter(owns);
        let until = slow.filter_map(|peer| Some(peer.heard_at? + PATIENCE_AT_MOST));
        until.chain(unsure).chain(self.starts_until(scope)).max()
    }

    /// How long `start-delay` keeps this node listening: until every other node
    /// of the group says hello, and none that it owns.
    pub(crate) fn starts_until(&self, scope: &Scope<'_>) -> Option<Time> {
        let until = self.up_since? + scope.settings.election.start_delay;
        let unheard = |node: &usize| {
            let report = scope.peers.get(*node).filter(|p| p.alive).and_then(|p| p.report(self.vip.vrid));
            report.is_none_or(|r| r.state == State::Active)
        };
        let mut others = self.vip.nodes.iter().filter(|n| **n != scope.me);
        (scope.now < until && others.any(unheard)).then_some(until)
    }

    /// Takes note of what other nodes answer for. True if the kernel was told
    /// to hold something else.
    pub(crate) fn withhold(&mut self, elsewhere: BTreeMap<IpAddr, Elsewhere>, scope: &mut Scope<'_>) -> bool {
        let nothing = self.holds_nothing();
        let before = std::mem::replace(&mut self.withheld, elsewhere);
        self.bar(scope);
        if nothing && self.withheld.is_empty() && before.values().all(|e| e.released) {
            let rank = self.rank(scope);
            self.election.free(rank, scope.now);
        }
        if self.hold == Hold::Absent {
            return false;
        }
        let new = |a: &IpAddr| !before.contains_key(a);
        let come: Vec<IpAddr> = self.withheld.keys().copied().filter(new).collect();
        let ended = |a: &IpAddr| {
            !self.withheld.contains_key(a) && self.vip.addresses.iter().any(|v| v.address() == *a)
        };
        let gone: Vec<IpAddr> = before.keys().copied().filter(ended).collect();
        self.tell_withheld(&come, &gone, scope);
        if self.holds_nothing() && self.election.word() == State::Active {
            // Whoever still runs by the file in which this group has addresses
            // can serve them.
            let Some(purpose) = self.leaving_for() else { return false };
            self.silence(purpose, scope);
            return true;
        }
        let changes = !come.is_empty() || !gone.is_empty();
        if changes {
            self.plan_others(scope);
        }
        changes
    }

    fn tell_withheld(&self, come: &[IpAddr], gone: &[IpAddr], scope: &mut Scope<'_>) {
        let held = |a: &&IpAddr| self.asked.iter().any(|asked| asked.address() == **a);
        let lost: Vec<IpAddr> = come.iter().filter(held).copied().collect();
        if self.hold == Hold::Owned && !lost.is_empty() {
            scope.out.push_back(Output::CloseSessions { addresses: lost });
        }
        for address in come {
            let Some(elsewhere) = self.withheld.get(address) else { continue };
            let message = format!("{}: {}", self.vip.name, explain::withheld(*address, elsewhere, scope));
            let event = self.event(Level::Warn, Kind::Address, message);
            scope.event(event.of_peer(scope.name(elsewhere.node)));
        }
        for address in gone {
            let message = format!("{}: {address} is withheld no longer", self.vip.name);
            scope.event(self.event(Level::Info, Kind::Address, message));
        }
    }
}
