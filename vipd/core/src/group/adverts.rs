//! The VRRP packets of a group.

use super::Group;
use crate::node::{Link, Output, Scope, Transmit};
use crate::settings::{Family, Transport};
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
        let Link::Up { interface, sources } = &self.link else { return vec![] };
        let mut adverts = vec![];
        for source in sources {
            let family = Family::of(*source);
            let addresses: Vec<IpAddr> = self.vip.of_family(family).map(|a| a.address()).collect();
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
                adverts.push(Transmit { interface: *interface, source: *source, destination, bytes });
            }
        }
        adverts
    }

    fn destinations(&self, family: Family, scope: &Scope<'_>) -> Vec<IpAddr> {
        match (scope.settings.election.transport, family) {
            (Transport::Multicast, Family::V4) => vec![MULTICAST_V4],
            (Transport::Multicast, Family::V6) => vec![MULTICAST_V6],
            (Transport::Unicast | Transport::Udp, _) => {
                let others = self.vip.nodes.iter().filter(|n| **n != scope.me);
                others.filter_map(|n| scope.settings.cluster.nodes.get(*n)?.address(family)).collect()
            }
        }
    }
}
