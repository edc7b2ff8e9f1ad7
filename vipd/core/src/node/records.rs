//! The name that leads to the nodes: which of them it should have, by what
//! this node knows of all, and whether this one is to write that.

use super::{Node, Output};
use crate::event::{Event, Kind, Level};
use crate::explain;
use crate::group::Group;
use crate::publish::{Candidate, Publish, Records, Wanted, wanted};
use crate::settings::{Dns, Policy};
use crate::time::Time;
use crate::wire::peer::State;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// A stopping node that writes waits this long for its own address to be gone
/// before it lets another write.
const REMOVE_FOR: Duration = Duration::from_secs(2);
/// Clients keep answers for the TTL, and some for longer: a node that is not
/// in the records any more keeps its sessions for this many TTLs.
const RELAY_TTLS: u32 = 3;

/// How long a node that left the records goes on for clients with old answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Relay {
    /// New clients may come for this long.
    pub accept: Duration,
    /// Their sessions are kept for this long, from the same moment.
    pub keep: Duration,
}

/// What a node remembers of its name's records.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    publish: Publish,
    /// The newest order that every store has carried out.
    done: u64,
    /// Until then a peer that was not heard yet may be there all the same.
    pub(super) settling: Option<Time>,
    /// This node stops, and its own address has to go first; until then.
    removing: Option<Time>,
    /// Whether this node should be in the records.
    is_in: bool,
    /// Whether this node was in the records, and should not be any more.
    left: bool,
    /// It is not meant any more: its sessions are closed then.
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
        [self.publish.deadline(), self.settling, self.removing, self.close_at].into_iter().flatten().min()
    }

    /// Whether the newest order is to be waited for: it takes this node out.
    fn is_pending(&self, own: &[IpAddr]) -> bool {
        let Some(last) = self.publish.last() else { return false };
        let removes = |set: &BTreeSet<IpAddr>| !own.iter().any(|a| set.contains(a));
        let ordered = last.write && last.wanted.as_ref().is_some_and(removes);
        self.publish.deadline().is_some() || ordered && self.done < last.generation
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
            (group.election.word(), group.report().serving)
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

    /// The node that owns what [`Policy::Owner`] asks for.
    fn dns_owner(&self, dns: &Dns) -> Option<usize> {
        let group = self.group_at(dns.owner)?;
        match group.election.word() {
            State::Active => Some(self.me),
            State::Init | State::Backup | State::Fault => match group.election.following()?.who {
                crate::election::Who::Node(node) => Some(node),
                crate::election::Who::Stranger(_) => None,
            },
        }
    }

    /// What the records should be; nothing changes while that is not known.
    fn records_wanted(&self, dns: &Dns, group: &Group) -> Wanted {
        let others = (0..self.peers.len()).filter(|n| *n != self.me);
        let all_heard = others.into_iter().all(|n| self.peers[n].alive && self.peers[n].speaks);
        if !group.warm || (self.publishing.settling.is_some() && !all_heard) {
            return None;
        }
        let owner = self.dns_owner(dns);
        let nodes = self.settings.cluster.nodes.iter().enumerate();
        let candidates: Vec<_> = nodes
            .map(|(n, member)| Candidate {
                addresses: &member.addresses,
                healthy: self.absence(n, group).is_none(),
                owner: owner == Some(n),
            })
            .collect();
        wanted(dns.policy, dns.when_all_down, &candidates)
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
        let (hold_down, ttl) = (dns.hold_down, dns.ttl);
        let demotes = dns.policy == Policy::Owner || self.maintenance;
        let me = self.settings.cluster.nodes.get(self.me).map_or(&[][..], |m| &m.addresses);
        let publishing = &mut self.publishing;
        if let Some(set) = &wanted {
            let is_in = me.iter().any(|a| set.contains(a));
            let was_in = std::mem::replace(&mut publishing.is_in, is_in);
            publishing.left = !is_in && (publishing.left || was_in);
            if is_in {
                publishing.close_at = None;
            } else if was_in && demotes && self.stopping.is_none() {
                publishing.close_at = Some(now + ttl * RELAY_TTLS);
            }
        }
        let order = publishing.publish.observe(wanted, write, hold_down, now);
        self.out.extend(order.map(Output::Records));
        if self.publishing.close_at.is_some_and(|at| at <= now) {
            self.publishing.close_at = None;
            self.close_own_sessions(ttl);
        }
        self.end_removal(now);
    }

    /// Clients whose answers are this old will not learn of the change by themselves.
    fn close_own_sessions(&mut self, ttl: Duration) {
        let own = self.settings.cluster.nodes.get(self.me).map(|m| m.addresses.clone());
        self.out.push_back(Output::CloseSessions { addresses: own.unwrap_or_default() });
        let waited = explain::seconds(ttl * RELAY_TTLS);
        let message = format!("this node left the records {waited} ago: sessions by its own addresses end");
        self.tell(Event::new(Level::Info, Kind::Dns, message));
    }

    /// A stopping node that writes first takes itself out of the records.
    pub(super) fn begin_removal(&mut self, now: Time) {
        let writes = self.dns_group().filter(|(_, g)| g.election.word() == State::Active).map(|(_, g)| g.id);
        let Some(id) = writes else { return };
        self.publishing.removing = Some(now + REMOVE_FOR);
        self.with_group(id, now, |group, _| group.taking_part = false);
    }

    /// The group that is not left yet, because its records are written first.
    pub(super) fn writing_group(&self) -> Option<usize> {
        self.publishing.removing.and_then(|_| self.dns_group()).map(|(_, group)| group.id)
    }

    fn end_removal(&mut self, now: Time) {
        let Some(until) = self.publishing.removing else { return };
        let own = self.settings.cluster.nodes.get(self.me).map_or(&[][..], |m| &m.addresses);
        if until > now && self.publishing.is_pending(own) {
            return;
        }
        let group = self.dns_group().map(|(_, group)| (group.id, self.successor(group)));
        self.publishing.removing = None;
        if let Some((id, to)) = group {
            self.with_group(id, now, |group, scope| group.leave(to, scope));
        }
    }

    /// Every store has carried out an order, or one of them has not.
    pub(super) fn published(&mut self, generation: u64, result: Result<(), String>) {
        if result.is_ok() {
            self.publishing.done = self.publishing.done.max(generation);
        }
    }

    /// The records as users see them; none unless the settings have a name.
    #[must_use]
    pub fn dns_status(&self) -> Option<DnsStatus> {
        let (dns, group) = self.dns_group()?;
        let desired = self.records_wanted(dns, group);
        let writer = match group.election.word() {
            State::Active => Some(self.me),
            State::Init | State::Backup | State::Fault => {
                let nodes = &self.settings.cluster.nodes;
                (0..nodes.len()).find(|n| {
                    let who = group.election.following().map(|o| o.who);
                    who == Some(crate::election::Who::Node(*n))
                })
            }
        };
        let name = |n: usize| self.settings.cluster.nodes.get(n).map_or("?", |m| m.name.as_str());
        let owner = self.dns_owner(dns);
        let line = |n: usize| match (self.absence(n, group), dns.policy) {
            (Some(absence), _) => format!("{} is out: {absence}", name(n)),
            (None, Policy::Owner) if owner != Some(n) => format!("{} is out: it is not the owner", name(n)),
            (None, Policy::Owner | Policy::Multi) => format!("{} is in", name(n)),
        };
        let mut why: Vec<String> = (0..self.settings.cluster.nodes.len()).map(line).collect();
        if desired.is_none() {
            why.push("what is there is left as it is".to_owned());
        }
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
        self.publishing.left.then(|| Relay { accept: dns.ttl, keep: dns.ttl * RELAY_TTLS })
    }

    /// The newest order, for whoever carries it out from now on.
    #[must_use]
    pub const fn records(&self) -> Option<&Records> {
        self.publishing.publish.last()
    }
}
