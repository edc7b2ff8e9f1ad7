//! Which addresses the other nodes say are theirs, by their adverts.
//!
//! An election decides who owns a VRID. While files differ (a reload that is
//! rolled out, one host after the other, and moves an address to another group)
//! two owners of two VRIDs may have the same address, and no election sees it.
//! So an address that another node advertises under another VRID is withheld
//! here until that node says so no more.
//!
//! Such an advert counts only if it passes what any of that VRID must pass
//! (`packets`); where this file has no such VRID, or not that node in it, that
//! node's hello must say that its file differs. It counts for groups on the
//! interface it came by, and for no longer than a detection: without a cluster
//! key a forged one can do what any forged advert can, and no more.

use super::{HELLO_MAX, Node};
use crate::election::Who;
use crate::group::Group;
use crate::settings::{Family, VipGroup};
use crate::time::Time;
use crate::wire::advert::{Advert, PRIORITY_RELEASE};
use crate::wire::peer::State;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

/// An owner that was silent for so many of its intervals owns no more: the
/// three of a detection and the longest skew.
pub(super) const SILENT_INTERVALS: u32 = 4;
/// The key in which files differ whose owners are silent for another time.
pub(crate) const ADVERT_INTERVAL: &str = "election.advert-interval";
/// The key in which files differ of which one may have no name.
pub(super) const DNS: &str = "dns";
/// After a release the next owner by rank speaks within this time a node.
pub(crate) const RANK: Duration = Duration::from_millis(10);

/// Addresses of a group that another node answers for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Elsewhere {
    /// The node, as a position in the cluster's list.
    pub(crate) node: usize,
    /// The VRID under which it does.
    pub(crate) vrid: NonZeroU8,
    /// It has not been heard to; this node has not listened for long.
    pub(crate) presumed: bool,
    /// It has let go of it.
    pub(crate) released: bool,
    /// It is not believed for longer, unless it says so again.
    pub(crate) until: Time,
}

#[derive(Clone, Debug)]
struct Claim {
    addresses: Vec<IpAddr>,
    priority: u8,
    source: IpAddr,
    /// Where it was heard; a presumed one was not.
    interface: Option<u32>,
    presumed: bool,
    released: bool,
    until: Time,
}

/// What each owner's last advert claimed. Bounded by the VRIDs, the cluster's
/// nodes and the addresses of an advert (255), of which this file may get some by a reload.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(BTreeMap<(NonZeroU8, usize, Family), Claim>);

/// A release is repeated no longer than this.
const RELEASES: Duration = Duration::from_millis(100);

/// How a group has an address by now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    /// The group's priority here.
    pub(crate) priority: u8,
    /// Where it advertises from in the claim's family.
    pub(crate) source: Option<IpAddr>,
}

impl Claim {
    /// Whether more may be said of it: a release is repeated.
    fn counts(&self, now: Time) -> bool {
        let repeats = if self.released { RELEASES } else { Duration::ZERO };
        self.until + repeats > now
    }
}

impl Claims {
    /// Whether a node's adverts under a VRID count by an interface, since one has.
    pub(super) fn has(&self, vrid: NonZeroU8, node: usize, interface: u32, now: Time) -> bool {
        let of_node = Family::ALL.into_iter().filter_map(|family| self.0.get(&(vrid, node, family)));
        of_node.into_iter().any(|claim| claim.interface == Some(interface) && claim.counts(now))
    }

    /// Notes a node's advert, by what it says now.
    fn note(&mut self, key: (NonZeroU8, usize, Family), claim: Claim, nodes: usize, now: Time) {
        self.0.retain(|_, claim| claim.counts(now));
        if claim.priority == PRIORITY_RELEASE {
            if let Some(former) = self.0.get_mut(&key) {
                let ranks = u32::try_from(nodes).unwrap_or(u32::MAX);
                former.until = former.until.min(now + RANK.saturating_mul(ranks));
                former.released = true;
            }
        } else if claim.addresses.is_empty() {
            self.0.remove(&key);
        } else {
            self.0.insert(key, claim);
        }
    }
}

impl Node {
    /// Notes which addresses a node of the cluster advertises, by an advert that
    /// counts, and has the groups look at them.
    pub(super) fn note_claim(
        &mut self,
        node: usize,
        interface: u32,
        source: IpAddr,
        advert: &Advert,
        now: Time,
    ) {
        let addresses = advert.addresses.clone();
        let home = |a: &IpAddr| self.homes.get(a).and_then(|h| self.settings.vips.get(*h));
        let foreign = addresses.iter().filter_map(home).any(|home| is_foreign(advert.vrid, node, home));
        let own = self.settings.election.advert_interval;
        let other = self.peers.get(node).is_some_and(|p| p.differs.contains(&ADVERT_INTERVAL));
        let interval = if other { own.max(advert.interval) } else { own };
        let claim = Claim {
            addresses,
            priority: advert.priority,
            source,
            interface: Some(interface),
            presumed: false,
            released: false,
            until: now + interval.saturating_mul(SILENT_INTERVALS),
        };
        self.claims.note((advert.vrid, node, Family::of(source)), claim, self.peers.len(), now);
        if foreign || self.groups.iter().any(|g| !g.withheld().is_empty()) {
            self.look_at_claims(now);
        }
    }

    /// For how long it is not known yet what others own by files that may differ:
    /// a hello tells that, and after one of a file that does differ (before it an
    /// advert under a VRID that is not in this one counts for nothing) every owner
    /// speaks within an interval. One that says no hello in a hello's time after
    /// the start is away, or runs something else.
    pub(super) fn unsure_for(&self, now: Time) -> Duration {
        let own = self.settings.election.advert_interval;
        let others = self.peers.iter().enumerate().filter(|(node, _)| *node != self.me).map(|(_, p)| p);
        let until = others.filter_map(|peer| match peer.differs_since {
            Some(since) => {
                let other = peer.differs.contains(&ADVERT_INTERVAL);
                let interval = if other { own.max(peer.advert_interval).max(HELLO_MAX) } else { own };
                Some(since + interval)
            }
            None if peer.digests.is_empty() => Some(self.started + HELLO_MAX),
            None => None,
        });
        until.max().map_or(Duration::ZERO, |until| until + RANK - now)
    }

    /// Before a reload: a node that has not listened for a detection time since
    /// it started, or slept, takes it that others have what it does not own.
    pub(super) fn presume_claims(&mut self, now: Time) {
        let until = self.listening_since + self.settings.election.advert_interval * SILENT_INTERVALS;
        if now >= until {
            return;
        }
        for group in self.groups.iter().filter(|g| g.election.word() != State::Active) {
            let followed = group
                .election
                .following()
                .and_then(|o| if let Who::Node(n) = o.who { Some(n) } else { None });
            let other = group.vip.nodes.iter().copied().find(|n| *n != self.me);
            let Some(node) = followed.or(other) else { continue };
            for family in Family::ALL {
                let addresses: Vec<IpAddr> = group.vip.of_family(family).map(|a| a.address()).collect();
                let Some(source) = self.settings.cluster.nodes.get(node).and_then(|n| n.address(family))
                else {
                    continue;
                };
                let claim = Claim {
                    addresses,
                    priority: group.election.params().priority,
                    source,
                    interface: None,
                    presumed: true,
                    released: false,
                    until,
                };
                self.claims.0.entry((group.vip.vrid, node, family)).or_insert(claim);
            }
        }
    }

    /// The addresses that a group has by `vip` and other nodes answer for under
    /// another number, or without being of the group. Of two that both answer for
    /// one, the one with the lower priority or source yields.
    pub(super) fn elsewhere(&self, group: &Group, vip: &VipGroup, now: Time) -> BTreeMap<IpAddr, Elsewhere> {
        let mut elsewhere = BTreeMap::new();
        for ((vrid, node, family), claim) in &self.claims.0 {
            let heard = claim.interface.is_none_or(|i| self.may_hear(group, i));
            if claim.until <= now || !heard || !is_foreign(*vrid, *node, vip) {
                continue;
            }
            for address in vip.addresses.iter().map(|a| a.address()).filter(|a| claim.addresses.contains(a)) {
                let keeps = group.own(address, *family).is_some_and(|own| {
                    claim.presumed || (own.priority, own.source) > (claim.priority, Some(claim.source))
                });
                if !keeps {
                    let Claim { presumed, released, until, .. } = *claim;
                    elsewhere
                        .insert(address, Elsewhere { node: *node, vrid: *vrid, presumed, released, until });
                }
            }
        }
        elsewhere
    }

    /// Every group lets go what is another node's, and takes what is no more.
    pub(super) fn look_at_claims(&mut self, now: Time) {
        let found: Vec<_> = self.groups.iter().map(|g| (g.id, self.elsewhere(g, &g.vip, now))).collect();
        for (id, elsewhere) in found {
            self.with_group(id, now, |g, scope| {
                g.withhold(elsewhere, scope);
            });
        }
    }

    /// When a claim that keeps something from this node ends.
    pub(super) fn claims_deadline(&self) -> Option<Time> {
        self.groups.iter().flat_map(|g| g.withheld().values().map(|e| e.until)).min()
    }
}

/// Whether a group has no part in what a node advertises under a VRID.
fn is_foreign(vrid: NonZeroU8, node: usize, vip: &VipGroup) -> bool {
    vrid != vip.vrid || !vip.nodes.contains(&node)
}

/// Which group of a file has an address.
pub(super) fn homes(vips: &[VipGroup]) -> BTreeMap<IpAddr, usize> {
    let all = vips.iter().enumerate();
    all.flat_map(|(number, vip)| vip.addresses.iter().map(move |a| (a.address(), number))).collect()
}
