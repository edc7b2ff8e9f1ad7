//! `[cluster]`, `[election]` and `[[vip]]`.

use super::{Cidr, Family};
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

/// A proxy host, in the order of `[cluster] nodes`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Its own addresses, at least one, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// Its VRRP priority when the file gives one; else it follows from the order.
    pub priority: Option<NonZeroU8>,
}

impl Member {
    /// Its address of a family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| Family::of(*a) == family)
    }
}

/// The VRRP version that is sent; both are understood by neither side of the
/// other, so it is one for the whole cluster.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum VrrpVersion {
    /// RFC 3768: IPv4 only, intervals of whole seconds.
    V2,
    /// RFC 9568.
    V3,
}

/// How adverts travel.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Transport {
    /// IP protocol 112, to each other node's own address.
    Unicast,
    /// IP protocol 112, to 224.0.0.18 and ff02::12.
    Multicast,
    /// UDP, sealed, on the peer port to each other node's own address: for
    /// networks that drop IP protocol 112.
    Udp,
}

impl Transport {
    /// Whether each other node is told at its own address.
    #[must_use]
    pub const fn is_to_nodes(self) -> bool {
        match self {
            Self::Unicast | Self::Udp => true,
            Self::Multicast => false,
        }
    }
}

/// What a node needs beside winning the election, to own.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Quorum {
    /// Nothing: plain VRRP.
    None,
    /// The promises of a majority of nodes and witnesses.
    Majority,
    /// Its name in a key of an etcd cluster.
    Etcd,
}

/// What an owner does that the quorum does not give the addresses to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OnNoQuorum {
    /// It gives them up: rather no owner than two.
    Withdraw,
    /// It keeps them, as plain VRRP does: rather two owners than none.
    Keep,
}

/// `[election]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ElectionSettings {
    /// Time between two adverts of an owner: 10 ms to 40.95 s in steps of
    /// 10 ms (v3), whole seconds (v2).
    pub advert_interval: Duration,
    /// The version on the wire.
    pub version: VrrpVersion,
    /// How adverts travel.
    pub transport: Transport,
    /// Whether a node of higher priority takes the address from a living owner.
    pub preempt: bool,
    /// How long such a node waits before it does.
    pub preempt_delay: Duration,
    /// How long a node whose interface comes up listens at least before it takes
    /// addresses that nobody advertises.
    pub start_delay: Duration,
    /// The life the kernel gives to a floating address without renewal: whole
    /// seconds, one or more.
    pub lease: Duration,
    /// What an owner needs beside winning the election.
    pub quorum: Quorum,
    /// What becomes of an owner without it.
    pub on_no_quorum: OnNoQuorum,
    /// How long a lease that is kept in etcd lasts, by its holder's clock.
    pub etcd_lease: Duration,
}

/// `[[vip]]`: addresses that live on one node at a time, and move together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VipGroup {
    /// Its name, unique among the groups.
    pub name: String,
    /// Its addresses, at most 255 a family; none where only the election counts.
    pub addresses: Vec<Cidr>,
    /// The interface, when the file names one; else it is found by subnet.
    pub interface: Option<String>,
    /// The virtual router's number, of both families alike; unique among the groups.
    pub vrid: NonZeroU8,
    /// Who may own it: positions in [`ClusterSettings::nodes`], by preference.
    pub nodes: Vec<usize>,
    /// Listeners that must have a usable server, as positions in the list of
    /// listeners; else the owner steps back if another node is better off.
    pub track: Vec<usize>,
}

impl VipGroup {
    /// The group's addresses of a family.
    pub fn of_family(&self, family: Family) -> impl Iterator<Item = Cidr> + '_ {
        self.addresses.iter().copied().filter(move |a| Family::of(a.address()) == family)
    }

    /// The priority of the node at `position` in [`ClusterSettings::nodes`],
    /// or `None` if it is not of this group.
    ///
    /// The first of the group has 200 and each next one 50 less, in smaller
    /// steps where there are more than four; a priority that the file gives
    /// for the node stands above that.
    #[must_use]
    pub fn priority(&self, position: usize, nodes: &[Member]) -> Option<NonZeroU8> {
        let rank = self.nodes.iter().position(|n| *n == position)?;
        if let Some(given) = nodes.get(position).and_then(|n| n.priority) {
            return Some(given);
        }
        let steps = self.nodes.len().saturating_sub(1).max(1);
        let step = (199 / steps).clamp(1, 50);
        let below = u8::try_from(rank.saturating_mul(step)).unwrap_or(u8::MAX);
        NonZeroU8::new(200_u8.saturating_sub(below).max(1))
    }

    /// The group's nodes by priority, the highest first: who comes next.
    #[must_use]
    pub fn ranking(&self, nodes: &[Member]) -> Vec<usize> {
        let mut ranking = self.nodes.clone();
        ranking.sort_by_key(|n| std::cmp::Reverse(self.priority(*n, nodes)));
        ranking
    }
}

/// `[cluster]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterSettings {
    /// The cluster's name; two clusters never mix.
    pub name: String,
    /// The proxy hosts, by preference; at most 64.
    pub nodes: Vec<Member>,
    /// Hosts that vote and never own; at most 8.
    pub witnesses: Vec<Member>,
    /// The UDP port on which nodes tell each other their state.
    pub peer_port: u16,
}

impl ClusterSettings {
    /// Who votes: the nodes, then the witnesses. A position in the list of
    /// nodes is the same in this one.
    pub fn voters(&self) -> impl Iterator<Item = &Member> + '_ {
        self.nodes.iter().chain(&self.witnesses)
    }

    /// The voter at a position.
    #[must_use]
    pub fn voter(&self, position: usize) -> Option<&Member> {
        self.voters().nth(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_follow_the_order() {
        let group = |n: usize| VipGroup {
            name: "main".into(),
            addresses: vec![],
            interface: None,
            vrid: NonZeroU8::MIN,
            nodes: (0..n).collect(),
            track: vec![],
        };
        let of = |n: usize| {
            (0..n).map(|i| group(n).priority(i, &[]).map_or(0, NonZeroU8::get)).collect::<Vec<_>>()
        };
        assert_eq!(of(1), [200]);
        assert_eq!(of(2), [200, 150]);
        assert_eq!(of(4), [200, 150, 100, 50]);
        assert_eq!(of(5), [200, 151, 102, 53, 4]);
        let many = of(64);
        assert!(many.windows(2).all(|w| w[0] > w[1]), "{many:?}");
        assert_eq!(group(2).priority(2, &[]), None);

        let member = |priority| Member { name: String::new(), addresses: vec![], priority };
        let given = [None, NonZeroU8::new(10), NonZeroU8::new(220)].map(member);
        assert_eq!(group(3).ranking(&given), [2, 0, 1]);
        assert_eq!(group(3).ranking(&[]), [0, 1, 2]);
    }
}
