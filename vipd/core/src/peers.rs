//! What is known of the other nodes, from their hellos and adverts.

use crate::time::Time;
use crate::wire::Mac;
use crate::wire::peer::{GroupReport, Incumbent, State};
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

/// What is wrong with a node that two hosts run as.
pub const TWINS: &str = "two hosts run as this node, with its name and address: stop one of them";
/// A hello that was overtaken on its way during a restart looks like two returns.
const RETURNS: u32 = 3;
/// After so long without a sign of the second host there is one again.
const TWINS_FOR: Duration = Duration::from_secs(60);

/// What this node knows of another.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// When it last said anything.
    pub heard_at: Option<Time>,
    /// When its last advert came that counted: hellos may come where adverts do not.
    pub advert_at: Option<Time>,
    /// Whether it counts as being there.
    pub alive: bool,
    /// Its groups, by its last hello.
    pub reports: Vec<GroupReport>,
    /// Where it advertises from, by its last hello: link-local addresses, for IPv6 multicast.
    pub sources: Vec<IpAddr>,
    /// The keys in which its settings differ from this node's.
    pub differs: Vec<&'static str>,
    /// Since which hello its settings have differed; of a difference that a reload
    /// here made nothing need be heard: what it owns was heard before.
    pub differs_since: Option<Time>,
    /// A digest for each key that must agree, by its last hello.
    pub digests: Vec<u32>,
    /// Whether it has ever said hello: a host that runs something else does not.
    pub speaks: bool,
    /// How often it advertises, by its last advert.
    pub advert_interval: Duration,
    /// Its run, by its last hello, and the one before.
    runs: [u32; 2],
    /// When it last came back to the run before, as only two hosts do, and how
    /// often since there was a pause of [`TWINS_FOR`].
    returned: Option<(Time, u32)>,
    /// The Ethernet addresses it answers with, by its last hello.
    pub macs: Vec<Mac>,
    /// Since when it has said that it does not hear this node, and whether
    /// somebody was told.
    deaf: Option<(Time, bool)>,
    /// Whether it said that it does.
    hears: Option<bool>,
    /// The primaries that its pools follow, by its last hello.
    pub incumbents: Vec<Incumbent>,
}

/// What this node knows of a witness beside its votes.
#[derive(Clone, Debug, Default)]
pub struct WitnessFile {
    /// When it last said hello.
    pub heard_at: Option<Time>,
    /// A digest for each key that must agree; empty before its first hello, and
    /// from a release that does not say.
    pub digests: Vec<u32>,
    /// The keys by which it votes in which its file differs from this node's.
    pub differs: Vec<&'static str>,
}

impl Peer {
    /// Its report of a group.
    #[must_use]
    pub fn report(&self, vrid: NonZeroU8) -> Option<GroupReport> {
        self.reports.iter().copied().find(|r| r.vrid == vrid)
    }

    /// Whether it could take the group over now.
    #[must_use]
    pub fn can_take(&self, vrid: NonZeroU8) -> bool {
        self.alive && self.report(vrid).is_some_and(|r| r.state == State::Backup)
    }

    /// Whether it is better off than a node whose tracked listeners have no server.
    #[must_use]
    pub fn serves(&self, vrid: NonZeroU8) -> bool {
        self.alive && self.report(vrid).is_some_and(|r| r.serving)
    }

    /// Whether its adverts alone tell that it is there: its hellos do not
    /// arrive, or it runs something else that says none.
    #[must_use]
    pub fn only_advertises(&self) -> bool {
        self.reports.is_empty()
    }

    /// Notes a sign of life; true if the peer was not there before.
    pub fn hear(&mut self, now: Time) -> bool {
        self.heard_at = Some(now);
        !std::mem::replace(&mut self.alive, true)
    }

    /// Notes the run that a hello came from; true if two hosts are found to
    /// run as this node. A restart begins a new run and never returns to the
    /// one before.
    pub fn hear_run(&mut self, run: u32, now: Time) -> bool {
        let [current, former] = self.runs;
        if run == 0 || run == current {
            return false;
        }
        self.runs = [run, current];
        if run != former {
            return false;
        }
        let before = self.returned.filter(|(at, _)| now - *at < TWINS_FOR).map_or(0, |(_, times)| times);
        self.returned = Some((now, before.saturating_add(1)));
        before.saturating_add(1) == RETURNS
    }

    /// Whether two hosts run as this node.
    #[must_use]
    pub fn has_twin(&self, now: Time) -> bool {
        self.returned.is_some_and(|(at, times)| times >= RETURNS && now - at < TWINS_FOR)
    }

    /// Notes whether it says that it hears this node. Gives news for people:
    /// true if it does not for longer than `patience`, false if it does again.
    pub fn hear_hears(&mut self, hears: Option<bool>, now: Time, patience: Duration) -> Option<bool> {
        self.hears = hears;
        if hears != Some(false) {
            return self.deaf.take().filter(|(_, told)| *told).map(|_| false);
        }
        let (since, told) = self.deaf.get_or_insert((now, false));
        let news = !*told && now - *since >= patience;
        *told |= news;
        news.then_some(true)
    }

    /// Whether it has not heard this node for long, by its own word.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        self.alive && self.deaf.is_some_and(|(_, told)| told)
    }

    /// Whether it hears this node, by its last hello; absent where it does not say.
    #[must_use]
    pub fn hears(&self) -> Option<bool> {
        self.hears.filter(|_| self.alive)
    }

    /// Notes the time; true if the peer is gone now.
    pub fn watch(&mut self, now: Time, patience: Duration) -> bool {
        let silent = self.heard_at.is_none_or(|at| now - at >= patience);
        if silent && self.alive {
            self.lose();
            return true;
        }
        false
    }

    /// It is gone, until it is heard again.
    pub(crate) fn lose(&mut self) {
        self.alive = false;
        self.reports.clear();
        self.deaf = None;
    }

    /// When [`Peer::watch`] has something to say.
    #[must_use]
    pub fn deadline(&self, patience: Duration) -> Option<Time> {
        self.heard_at.filter(|_| self.alive).map(|at| at + patience)
    }
}
