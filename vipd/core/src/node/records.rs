//! The name that leads to the nodes: which of them it should have, by what
//! this node knows of all, and whether this one is to write that.

use super::{Node, Output};
use crate::event::{Event, Kind, Level};
use crate::explain;
use crate::group::{Group, Purpose};
use crate::publish::{CALM_AFTER, Candidate, Publish, Records, Wanted, wanted};
use crate::settings::{Dns, Policy};
use crate::time::Time;
use crate::wire::peer::State;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

/// A stopping node that writes waits this long for its own address to be gone
/// before it lets another write.
const REMOVE_FOR: Duration = Duration::from_secs(2);
/// A stopped node does not see any more when a slow store takes its address out:
/// where that was not seen yet it goes on for this much longer, the time that a
/// write may take with finding out what became of it: to a server, and to Route 53.
const LATE_FOR: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];
/// In which a write that was held back arrives.
const A_MOMENT: Duration = Duration::from_secs(1);
/// A planned switchover of the name waits this long for the answers' TTL to fall.
const LOWER_FOR: Duration = Duration::from_millis(500);
/// Clients keep answers for the TTL, and some for longer: a node that is not
/// in the records any more keeps its sessions for this many TTLs.
const RELAY_TTLS: u32 = 3;

/// A peer that was not heard for this many quarters of a hello interval has
/// missed one hello, and the next is late: it may be gone, and counts as gone
/// after [`SILENT_QUARTERS`](super::SILENT_QUARTERS).
const LATE_QUARTERS: u32 = 9;

/// How long a node that left the records goes on for clients with old answers,
/// from when it stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Relay {
    /// New clients may come for this long.
    pub accept: Duration,
    /// Their sessions are kept for this long, from the same moment.
    pub keep: Duration,
    /// Whether every store was seen without this node.
    pub gone: bool,
}

/// What a node remembers of its name's records.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    publish: Publish,
    /// The newest order that every store has carried out, or holds all the same.
    done: u64,
    /// Until then a peer that was not heard yet may be there all the same.
    pub(super) settling: Option<Time>,
    /// This node stops, and its own address has to go first; until then.
    removing: Option<Time>,
    /// The name goes to the node at this position when the TTL has fallen, and
    /// no later than then.
    moving: Option<(usize, Time)>,
    /// When the first peer is suspected to be gone, unless it is heard before.
    late_at: Option<Time>,
    /// Whether this node should be in the records.
    is_in: bool,
    /// Whether this node was in the records, and should not be any more.
    left: bool,
    /// It is not meant to be there: it left, and that was not for want of a server.
    demoted: bool,
    /// Since it left, every store was seen without it.
    gone: bool,
    /// Its sessions are to be closed, some time after it is gone.
    closing: bool,
    /// They are closed then.
    close_at: Option<Time>,
}

/// Why a node is not in the records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Absence {
    Silent,
    TakesNoPart,
    Fault,
    NoServer,
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "it is not heard",
            Self::TakesNoPart => "it is in maintenance, or starts, or stops",
            Self::Fault => "its interface is down",
            Self::NoServer => "a listener has no usable server there",
        })
    }
}

/// Why a change of the records is near.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sign {
    /// The node at this position misses hellos.
    Late(usize),
    /// The last usable servers of a listener fail their checks on this node.
    Failing,
    /// The owner that [`Policy::Owner`] means is about to be another.
    Switchover,
}

/// The records as users see them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DnsStatus {
    /// The name.
    pub name: String,
    /// What it should have, by this node's view; none to leave what is there.
    pub desired: Wanted,
    /// Whether this node writes.
    pub write: bool,
    /// Who writes, as far as this node knows.
    pub writer: Option<String>,
    /// Why it is so, a line for each node.
    pub why: Vec<String>,
}

impl Publishing {
    pub(super) fn deadline(&self) -> Option<Time> {
        let move_at = self.moving.map(|(_, at)| at);
        let others = [self.settling, self.removing, move_at, self.late_at, self.close_at];
        others.into_iter().chain([self.publish.deadline()]).flatten().min()
    }

    /// Whether the lower TTL is not everywhere yet.
    fn is_lowering(&self) -> bool {
        self.publish.last().is_some_and(|last| last.write && last.near && self.done < last.generation)
    }

    /// Whether every store is as the newest order says, and that is without this node.
    fn is_out(&self, own: &[IpAddr]) -> bool {
        let without = |set: &BTreeSet<IpAddr>| !own.iter().any(|a| set.contains(a));
        let last = self.publish.last().filter(|last| last.wanted.as_ref().is_some_and(without));
        last.is_some_and(|last| self.done >= last.generation)
    }

    /// Whether the newest order is to be waited for: it takes this node out.
    fn is_pending(&self, own: &[IpAddr]) -> bool {
        let Some(last) = self.publish.last() else { return false };
        let removes = |set: &BTreeSet<IpAddr>| !own.iter().any(|a| set.contains(a));
        let ordered = last.write && last.wanted.as_ref().is_some_and(removes);
        self.publish.is_held() || ordered && self.done < last.generation
    }
}

impl Node {
    fn dns_group(&self) -> Option<(&Dns, &Group)> {
        let dns = self.settings.dns.as_ref()?;
        Some((dns, self.group_at(dns.election)?))
    }

    /// The group at a position of the settings.
    fn group_at(&self, position: usize) -> Option<&Group> {
        let vip = self.settings.vips.get(position)?;
        self.groups.iter().find(|g| g.vip.name == vip.name)
    }

    /// Why clients should not be sent to a node, if so.
    fn absence(&self, node: usize, group: &Group) -> Option<Absence> {
        let (state, serving) = if node == self.me {
            (group.election.word(), group.serves())
        } else {
            let peer = self.peers.get(node).filter(|p| p.alive);
            let Some(report) = peer.and_then(|p| p.report(group.vip.vrid)) else {
                return Some(Absence::Silent);
            };
            (report.state, report.serving)
        };
        let leaves = node == self.me && !group.taking_part;
        match state {
            State::Fault => Some(Absence::Fault),
            State::Init => Some(Absence::TakesNoPart),
            State::Backup | State::Active if leaves => Some(Absence::TakesNoPart),
            State::Backup | State::Active if serving => None,
            State::Backup | State::Active => Some(Absence::NoServer),
        }
    }

    /// The node that owns the group at a position: by this node's own part in the
    /// election, and where it has none or hears nobody, by what the others say.
    fn owner_of(&self, position: usize) -> Option<usize> {
        let own = self.group_at(position);
        if own.is_some_and(|g| g.election.word() == State::Active) {
            return Some(self.me);
        }
        match own.and_then(|g| g.election.following()) {
            Some(owner) => match owner.who {
                crate::election::Who::Node(node) => Some(node),
                crate::election::Who::Stranger(_) => None,
            },
            // Where several say so, as while one that has died is not missed yet,
            // nobody is believed: the name would go back and forth.
            None => match self.claimants(self.settings.vips.get(position)?.vrid).as_slice() {
                [claimant] => Some(*claimant),
                [] | [_, _, ..] => None,
            },
        }
    }

    /// The other nodes that say to own a group.
    fn claimants(&self, vrid: NonZeroU8) -> Vec<usize> {
        let owns = |n: &usize| self.peers[*n].report(vrid).is_some_and(|r| r.state == State::Active);
        (0..self.peers.len()).filter(owns).collect()
    }

    /// Whether this node goes out of a name that is the owner's, for another to
    /// come in: who that is nobody may know yet, and this node may not learn before it
    /// has stopped.
    fn gives_the_name_away(&self, dns: &Dns, group: &Group) -> bool {
        let mut others = (0..self.peers.len()).filter(|n| *n != self.me);
        let leaves = self.maintenance || self.stopping.is_some();
        dns.policy == Policy::Owner && leaves && others.any(|n| self.absence(n, group).is_none())
    }

    /// What the records should be; nothing changes while that is not known.
    fn records_wanted(&self, dns: &Dns, group: &Group) -> Wanted {
        let others = (0..self.peers.len()).filter(|n| *n != self.me);
        let all_heard = others.into_iter().all(|n| self.peers[n].alive && self.peers[n].speaks);
        if !group.warm || (self.publishing.settling.is_some() && !all_heard) {
            return None;
        }
        let owner = self.owner_of(dns.owner);
        let nodes = &self.settings.cluster.nodes;
        let candidates: Vec<_> = (0..nodes.len())
            .map(|n| Candidate {
                addresses: dns.addresses_of(n, nodes),
                healthy: self.absence(n, group).is_none(),
                owner: owner == Some(n),
            })
            .collect();
        wanted(dns.policy, dns.when_all_down, &candidates)
    }

    /// When a peer in the records is suspected to be gone.
    fn late_at(&self, node: usize, group: &Group) -> Option<Time> {
        let heard = self.peers[node].heard_at.filter(|_| self.absence(node, group).is_none())?;
        Some(heard + self.interval_of(node) * LATE_QUARTERS / 4)
    }

    /// What tells that the records are about to change, if something does.
    ///
    /// A switchover of the election is none where every node is published: it
    /// moves who writes, and the records stay.
    fn sign(&self, dns: &Dns, group: &Group, now: Time) -> Option<Sign> {
        let others = || (0..self.peers.len()).filter(|n| *n != self.me);
        let late = || others().find(|n| self.late_at(*n, group).is_some_and(|at| at <= now));
        // Who slept has not heard anybody.
        if self.publishing.settling.is_none()
            && let Some(node) = late()
        {
            return Some(Sign::Late(node));
        }
        let pool = |l: &usize| self.settings.listeners.get(*l).map(|l| l.pool);
        let mut tracked = group.vip.track.iter().filter_map(pool);
        if self.absence(self.me, group).is_none() && tracked.any(|p| self.pools.is_failing(p)) {
            return Some(Sign::Failing);
        }
        let moves = self.publishing.moving.is_some()
            || dns.policy == Policy::Owner
                && dns.owner != dns.election
                && self.group_at(dns.owner).is_some_and(Group::in_transition);
        moves.then_some(Sign::Switchover)
    }

    /// Why clients are told to ask again soon, for people.
    fn why_near(&self, dns: &Dns, group: &Group, now: Time) -> Option<String> {
        let publish = &self.publishing.publish;
        publish.last().filter(|l| l.near)?;
        let why = match self.sign(dns, group, now) {
            _ if publish.is_held() => "it waits for the hold-down".to_owned(),
            Some(Sign::Late(node)) => {
                let name = self.settings.cluster.nodes.get(node).map_or("?", |m| m.name.as_str());
                format!("{name} misses hellos")
            }
            Some(Sign::Failing) => "the last usable servers of a listener fail their checks here".to_owned(),
            Some(Sign::Switchover) => "the owner is about to change".to_owned(),
            None => format!("there was a sign of one within the last {}", explain::seconds(CALM_AFTER)),
        };
        Some(format!("a change is near: {why}"))
    }

    /// Looks what the records should be, and orders it if it is time.
    pub(super) fn publish(&mut self, now: Time) {
        self.publishing.settling = self.publishing.settling.filter(|at| *at > now);
        let Some((dns, group)) = self.dns_group() else {
            // A reload may have taken the name away.
            let settling = self.publishing.settling;
            self.publishing = Publishing { settling, ..Publishing::default() };
            return;
        };
        let wanted = self.records_wanted(dns, group);
        let write = group.election.word() == State::Active;
        // Who does not write has nobody to tell.
        let sign = write && self.sign(dns, group, now).is_some();
        let late_at = (0..self.peers.len()).filter(|n| *n != self.me).filter_map(|n| self.late_at(n, group));
        let late_at = late_at.filter(|at| write && *at > now).min();
        let (hold_down, ttl) = (dns.hold_down, dns.ttl);
        let demotes = dns.policy == Policy::Owner || self.maintenance;
        let me = dns.addresses_of(self.me, &self.settings.cluster.nodes).to_vec();
        let is_in = match &wanted {
            Some(set) => Some(me.iter().any(|a| set.contains(a))),
            None => self.gives_the_name_away(dns, group).then_some(false),
        };
        let publishing = &mut self.publishing;
        publishing.late_at = late_at;
        if let Some(is_in) = is_in {
            let was_in = std::mem::replace(&mut publishing.is_in, is_in);
            publishing.left = !is_in && (publishing.left || was_in);
            // Without a usable server it keeps what lives: what does not is the
            // pools' `on-down` to end.
            let demoted = publishing.left && demotes;
            let was_demoted = std::mem::replace(&mut publishing.demoted, demoted);
            if demoted != was_demoted {
                publishing.closing = demoted && self.stopping.is_none();
                publishing.close_at = None;
            }
        }
        let order = publishing.publish.observe(wanted, write, sign, hold_down, now);
        self.out.extend(order.map(Output::Records));
        // A change may be held, or a store slow: as long as clients are sent
        // here their sessions stay.
        publishing.gone = publishing.left && (publishing.gone || publishing.is_out(&me));
        if publishing.gone && std::mem::take(&mut publishing.closing) {
            publishing.close_at = Some(now + ttl * RELAY_TTLS);
        }
        if self.publishing.close_at.is_some_and(|at| at <= now) {
            self.publishing.close_at = None;
            self.close_own_sessions(ttl);
        }
        self.end_removal(now);
        self.end_move(now);
    }

    /// Clients whose answers are this old will not learn of the change by themselves.
    fn close_own_sessions(&mut self, ttl: Duration) {
        let nodes = &self.settings.cluster.nodes;
        let own = nodes.get(self.me).map_or(&[][..], |m| &m.addresses);
        // Behind a NAT sessions are by the former; a host may have the latter itself.
        let public = self.settings.dns.as_ref().map_or(&[][..], |d| d.addresses_of(self.me, nodes));
        let addresses: BTreeSet<IpAddr> = own.iter().chain(public).copied().collect();
        self.out.push_back(Output::CloseSessions { addresses: addresses.into_iter().collect() });
        let waited = explain::seconds(ttl * RELAY_TTLS);
        let message = format!("this node left the records {waited} ago: sessions by its own addresses end");
        self.tell(Event::new(Level::Info, Kind::Dns, message));
    }

    /// A planned switchover of the name itself begins with the answers' TTL:
    /// who asks from now on asks again soon. False if the group is another, or
    /// no server could be told.
    pub(super) fn begin_move(&mut self, group: usize, to: usize, now: Time) -> bool {
        let names = |dns: &Dns| dns.policy == Policy::Owner && dns.owner == dns.election;
        let lowers = |dns: &Dns| names(dns) && dns.rfc2136.is_some();
        let begins = self.dns_group().is_some_and(|(dns, g)| g.id == group && lowers(dns));
        if begins {
            self.publishing.moving = Some((to, now + LOWER_FOR));
        }
        begins
    }

    /// Whether a group is about to be handed over.
    pub(super) fn is_moving(&self, group: usize) -> bool {
        self.publishing.moving.is_some() && self.dns_group().is_some_and(|(_, g)| g.id == group)
    }

    fn end_move(&mut self, now: Time) {
        let Some((to, until)) = self.publishing.moving else { return };
        let Some((_, group)) = self.dns_group() else { return };
        let can = group.election.word() == State::Active && !group.in_transition();
        if can && until > now && self.publishing.is_lowering() {
            return;
        }
        let id = group.id;
        self.publishing.moving = None;
        if can {
            self.with_group(id, now, |group, scope| group.hand_over(Some(to), Purpose::Switchover, scope));
        }
    }

    /// A stopping node that writes first takes itself out of the records.
    pub(super) fn begin_removal(&mut self, now: Time) {
        let writes = self.dns_group().filter(|(_, g)| g.election.word() == State::Active).map(|(_, g)| g.id);
        let Some(id) = writes else { return };
        self.publishing.moving = None;
        self.publishing.removing = Some(now + REMOVE_FOR);
        self.with_group(id, now, |group, _| group.taking_part = false);
    }

    /// The group that is not left yet, because its records are written first.
    pub(super) fn writing_group(&self) -> Option<usize> {
        self.publishing.removing.and_then(|_| self.dns_group()).map(|(_, group)| group.id)
    }

    fn end_removal(&mut self, now: Time) {
        let Some(until) = self.publishing.removing else { return };
        let dns = self.settings.dns.as_ref();
        let own = dns.map_or(&[][..], |d| d.addresses_of(self.me, &self.settings.cluster.nodes));
        if until > now && self.publishing.is_pending(own) {
            return;
        }
        let group = self.dns_group().map(|(_, group)| (group.id, self.successor(group)));
        self.publishing.removing = None;
        if let Some((id, to)) = group {
            self.with_group(id, now, |group, scope| group.leave(to, scope));
        }
    }

    /// Every store has carried out an order or holds what it says, or one of
    /// them could not.
    pub(super) fn published(&mut self, generation: u64, result: Result<(), String>) {
        if result.is_ok() {
            self.publishing.done = self.publishing.done.max(generation);
        }
    }

    /// The records as users see them; none unless the settings have a name.
    #[must_use]
    pub fn dns_status(&self, now: Time) -> Option<DnsStatus> {
        let (dns, group) = self.dns_group()?;
        let desired = self.records_wanted(dns, group);
        let writer = self.owner_of(dns.election);
        let name = |n: usize| self.settings.cluster.nodes.get(n).map_or("?", |m| m.name.as_str());
        let owner = self.owner_of(dns.owner);
        let line = |n: usize| match (self.absence(n, group), dns.policy, owner) {
            (Some(absence), ..) => format!("{} is out: {absence}", name(n)),
            (None, Policy::Owner, None) => format!("{} would serve", name(n)),
            (None, Policy::Owner, Some(owner)) if owner != n => {
                format!("{} is out: it is not the owner", name(n))
            }
            (None, Policy::Owner | Policy::Multi, _) => format!("{} is in", name(n)),
        };
        let mut why: Vec<String> = (0..self.settings.cluster.nodes.len()).map(line).collect();
        if let (Policy::Owner, None, Some(vip)) = (dns.policy, owner, self.settings.vips.get(dns.owner)) {
            why.push(match self.claimants(vip.vrid).as_slice() {
                [] | [_] => format!("no node is known to own {}", vip.name),
                several => {
                    let names: Vec<_> = several.iter().map(|n| name(*n)).collect();
                    format!("{} say to own {}", names.join(" and "), vip.name)
                }
            });
        }
        if desired.is_none() {
            why.push("what is there is left as it is".to_owned());
        }
        why.extend(self.why_near(dns, group, now));
        Some(DnsStatus {
            name: dns.name.clone(),
            desired,
            write: group.election.word() == State::Active,
            writer: writer.map(|n| name(n).to_owned()),
            why,
        })
    }

    /// How long this node, which has stopped, serves clients with old answers;
    /// none if it was never in the records, or is still: then nobody else is there.
    #[must_use]
    pub fn relay_for(&self) -> Option<Relay> {
        let dns = self.settings.dns.as_ref()?;
        let late = LATE_FOR[usize::from(dns.route53.is_some())];
        let gone = self.publishing.gone;
        // Who writes may hold the change back for the time since the one before.
        let late = if gone { Duration::ZERO } else { late.max(dns.hold_down + A_MOMENT) };
        let relay = Relay { accept: dns.ttl + late, keep: dns.ttl * RELAY_TTLS + late, gone };
        self.publishing.left.then_some(relay)
    }

    /// The newest order, for whoever carries it out from now on.
    #[must_use]
    pub const fn records(&self) -> Option<&Records> {
        self.publishing.publish.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    /// The change comes too soon after the one before.
    #[test]
    fn a_node_whose_change_is_held_is_not_out() {
        let mut publishing = Publishing::default();
        let (me, other) = ([IpAddr::from([10, 0, 0, 11])], IpAddr::from([10, 0, 0, 12]));
        let (with, without) = (Some(BTreeSet::from(me)), Some(BTreeSet::from([other])));
        assert!(publishing.publish.observe(with, true, false, HOLD, at(0)).is_some());
        publishing.done = 1;
        publishing.publish.observe(without.clone(), true, false, HOLD, at(1));
        publishing.done = 2;
        assert!(!publishing.is_out(&me), "every store has this node still");
        let order = publishing.publish.observe(without.clone(), true, false, HOLD, at(30)).expect("an order");
        assert!(!publishing.is_out(&me), "nobody has carried it out");
        publishing.done = order.generation;
        assert!(publishing.is_out(&me));
    }
}
