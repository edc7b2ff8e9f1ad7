//! The VRRP packets of a group.

use super::Group;
use crate::node::{Output, Scope, Transmit};
use crate::settings::{Cidr, Family, Transport};
use crate::wire::advert::{Advert, PRIORITY_RELEASE};
use crate::wire::peer::State;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where multicast adverts go (RFC 9568 section 5.1).
const MULTICAST_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
const MULTICAST_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12));

impl Group {
    /// Sends an advert of a priority on every family that carries the group.
    pub(super) fn transmit(&self, priority: u8, scope: &mut Scope<'_>) {
        let adverts = self.adverts(priority, scope);
        scope.out.extend(adverts.into_iter().map(Output::Advert));
    }

    /// The packets that release the group, for the crash guard; none unless it is owned.
    pub(crate) fn farewells(&self, scope: &Scope<'_>) -> Vec<Transmit> {
        match self.election.word() {
            State::Active => self.adverts(PRIORITY_RELEASE, scope),
            State::Init | State::Backup | State::Fault => vec![],
        }
    }

    fn adverts(&self, priority: u8, scope: &Scope<'_>) -> Vec<Transmit> {
        let Some((interface, sources)) = self.voice() else { return vec![] };
        let mut adverts = vec![];
        for source in sources {
            let family = Family::of(*source);
            let mut addresses = self.spoken_of(priority);
            addresses.retain(|a| Family::of(*a) == family);
            // While a reload exchanges them there may be twice as many as fit.
            addresses.truncate(usize::from(u8::MAX));
            if self.vip.addresses.is_empty() {
                // An advert names one address at least (RFC 9568 erratum 8299).
                addresses.push(*source);
            }
            if addresses.is_empty() {
                continue;
            }
            let advert = Advert {
                version: scope.settings.election.version,
                vrid: self.vip.vrid,
                priority,
                interval: self.election.params().interval,
                addresses,
            };
            for destination in self.destinations(family, scope) {
                let bytes = advert.write(*source, destination);
                adverts.push(Transmit { interface, source: *source, destination, bytes });
            }
        }
        adverts
    }

    /// An owner claims what it has and what the kernel may still hold, for a
    /// while on purpose: by another file that may be another group's. A release
    /// tells of everything that was the group's.
    fn spoken_of(&self, priority: u8) -> Vec<IpAddr> {
        let all: Vec<Cidr> = if priority == PRIORITY_RELEASE {
            self.vip.addresses.iter().chain(&self.given).copied().collect()
        } else {
            let parting = self.parting.iter().flat_map(|p| p.addresses.iter().copied());
            self.going.iter().copied().chain(self.available()).chain(parting).collect()
        };
        all.iter().map(|a| a.address()).collect()
    }

    /// Not only the nodes of the group: another group's owner has to know who
    /// answers for an address that a reload moves.
    fn destinations(&self, family: Family, scope: &Scope<'_>) -> Vec<IpAddr> {
        match (scope.settings.election.transport, family) {
            (Transport::Multicast, Family::V4) => vec![MULTICAST_V4],
            (Transport::Multicast, Family::V6) => vec![MULTICAST_V6],
            (Transport::Unicast | Transport::Udp, _) => {
                let nodes = scope.settings.cluster.nodes.iter().enumerate();
                let others = nodes.filter(|(number, _)| *number != scope.me);
                others.filter_map(|(_, node)| node.address(family)).collect()
            }
        }
    }
}
