//! What a person should know before it does harm: another owner, and whose
//! adverts do not arrive; voters that are silent.

use super::Group;
use crate::election::{Heard, Who};
use crate::event::{Kind, Level};
use crate::explain;
use crate::lease::Lease;
use crate::node::Scope;
use crate::settings::Quorum;
use crate::time::Time;
use crate::wire::peer::State;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What was warned of.
#[derive(Clone, Debug, Default)]
pub(super) struct Warnings {
    /// Nodes that own this group, too, by their own word: since when, and
    /// whether it was told.
    rivals: BTreeMap<usize, (Time, bool)>,
    /// When each node's last advert came, and the interval that it named.
    adverts: BTreeMap<usize, (Time, Duration)>,
    /// Voters that were told to be silent.
    silent: BTreeSet<usize>,
}

impl Group {
    /// A node says on the peer link what it is in this group. Two owners that
    /// hear each other's adverts are one again within a moment.
    pub(crate) fn hear_state(
        &mut self,
        from: usize,
        state: State,
        patience: Duration,
        scope: &mut Scope<'_>,
    ) {
        self.bar(scope);
        let both = self.election.word() == State::Active && state == State::Active;
        if !both {
            self.warnings.rivals.remove(&from);
            return;
        }
        let (since, told) = self.warnings.rivals.entry(from).or_insert((scope.now, false));
        if *told || scope.now - *since < patience {
            return;
        }
        *told = true;
        let message = format!("{}: {}", self.vip.name, explain::rival(self, from, scope));
        let event = self.event(Level::Error, Kind::Vip, message);
        scope.event(event.of_peer(scope.name(from)));
    }

    /// Nodes that own this group, too, and whose adverts do not come here.
    pub(crate) fn rivals(&self) -> impl Iterator<Item = usize> + '_ {
        let told = self.warnings.rivals.iter().filter(|(_, (_, told))| *told);
        told.map(|(node, _)| *node).filter(|_| self.election.word() == State::Active)
    }

    /// An advert of a node came.
    pub(super) fn note_advert(&mut self, heard: &Heard, now: Time) {
        if let Who::Node(node) = heard.who {
            self.warnings.adverts.insert(node, (now, heard.interval));
        }
    }

    /// Whether adverts of a node come here, at its own interval.
    pub(crate) fn hears_adverts(&self, node: usize, now: Time) -> bool {
        let last = self.warnings.adverts.get(&node);
        last.is_some_and(|(at, interval)| now - *at < *interval * 4)
    }

    /// A node is gone.
    pub(crate) fn forget_node(&mut self, node: usize) {
        self.forget_proof_of(node);
        self.warnings.rivals.remove(&node);
    }

    /// While it owns by the promises of a majority: warns of each voter that
    /// is silent, though its promise is not needed yet.
    pub(super) fn watch_voters(&mut self, scope: &mut Scope<'_>) {
        // Of etcd, which is the only voter there, the node tells once for all groups.
        let votes = self.election.word() == State::Active && scope.settings.election.quorum != Quorum::Etcd;
        let Some(lease) = self.election.lease().filter(|_| votes) else {
            self.warnings.silent.clear();
            return;
        };
        let length = lease.terms().length();
        if scope.now - self.since < length * 2 {
            // It has just asked for the first time.
            return;
        }
        let silent = silent(lease, scope, length);
        let (voters, majority) = (lease.terms().voters, lease.terms().majority());
        let before = std::mem::replace(&mut self.warnings.silent, silent.clone());
        for voter in silent.difference(&before) {
            let left = voters - silent.len();
            let name = scope.settings.cluster.voter(*voter).map_or("?", |v| v.name.as_str());
            let refuses = explain::refuses(lease, *voter, scope).map(|why| format!(" ({name} {why})"));
            let message = format!(
                "{}: {name} does not vote: {left} of {voters} voters are left, and {majority} are needed to own it{}",
                self.vip.name,
                refuses.unwrap_or_default()
            );
            scope.event(self.event(Level::Warn, Kind::Vip, message).of_peer(name));
        }
        for voter in before.difference(&silent) {
            let name = scope.settings.cluster.voter(*voter).map_or("?", |v| v.name.as_str());
            let message = format!("{}: {name} votes again", self.vip.name);
            scope.event(self.event(Level::Info, Kind::Vip, message).of_peer(name));
        }
    }
}

/// The other voters that have not answered for two leases, or have refused for
/// as long without naming another holder.
fn silent(lease: &Lease, scope: &Scope<'_>, length: Duration) -> BTreeSet<usize> {
    let words = lease.words().iter().enumerate();
    // A promise counts for a lease.
    let lasts = |voter| lease.promised_until(voter).is_none_or(|until| scope.now - until >= length);
    let refuses = |voter| explain::refuses(lease, voter, scope).is_some() && lasts(voter);
    let quiet = words
        .filter(|(voter, word)| refuses(*voter) || word.is_none_or(|word| scope.now - word.at >= length * 2));
    quiet.map(|(voter, _)| voter).filter(|v| *v != scope.me).collect()
}
