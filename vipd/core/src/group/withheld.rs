//! Addresses that are this group's by this node's file and another node's by
//! its own: they are not taken, and not advertised, for as long as that lasts.

use super::Group;
use crate::event::{Kind, Level};
use crate::explain;
use crate::node::{Elsewhere, Output, Own, Scope};
use crate::plan::Hold;
use crate::settings::{Cidr, Family};
use crate::wire::peer::State;
use std::collections::BTreeMap;
use std::net::IpAddr;

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

    /// Takes note of what other nodes answer for. True if the kernel was told
    /// to hold something else.
    pub(crate) fn withhold(&mut self, elsewhere: BTreeMap<IpAddr, Elsewhere>, scope: &mut Scope<'_>) -> bool {
        let before = std::mem::replace(&mut self.withheld, elsewhere);
        let until = self.withheld.values().map(|e| e.until).min();
        self.election.bar(until.filter(|_| self.holds_nothing()), scope.now);
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
