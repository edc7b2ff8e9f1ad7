//! What the simulated hosts run by.

use super::World;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;
use std::time::Duration;
use vipd_core::node::Settings;
use vipd_core::settings::{
    Cidr, ClusterSettings, ElectionSettings, Member, OnNoQuorum, Quorum, Transport, VipGroup, VrrpVersion,
};

pub(super) fn settings(nodes: usize, groups: usize, election: ElectionSettings) -> Settings {
    let members = (0..nodes).map(|n| Member {
        name: format!("px{}", n + 1),
        addresses: vec![World::address(n)],
        priority: None,
    });
    let vips = (0..groups).map(|g| {
        let number = u8::try_from(g).unwrap_or(0);
        VipGroup {
            name: format!("vip{g}"),
            addresses: vec![vip(100 + number)],
            interface: None,
            vrid: NonZeroU8::new(51 + number).unwrap_or(NonZeroU8::MIN),
            // Each group prefers another node: active/active.
            nodes: (0..nodes).map(|n| (n + g) % nodes).collect(),
            track: vec![],
        }
    });
    Settings {
        cluster: ClusterSettings {
            name: "orders".into(),
            nodes: members.collect(),
            witnesses: vec![],
            peer_port: 7112,
        },
        vips: vips.collect(),
        election,
        listeners: vec![],
        pools: vec![],
        digests: vec![("election", 1)],
    }
}

/// `[election]` with an interval, all else as the daemon defaults it.
#[must_use]
pub fn election(interval: Duration) -> ElectionSettings {
    ElectionSettings {
        advert_interval: interval,
        version: VrrpVersion::V3,
        transport: Transport::Unicast,
        preempt: false,
        preempt_delay: Duration::ZERO,
        lease: Duration::from_secs((interval * 3).as_secs().max(1)),
        quorum: Quorum::None,
        on_no_quorum: OnNoQuorum::Withdraw,
    }
}

/// The address that a group has by turns, as reloads add and remove it.
pub(super) fn second_address(group: usize) -> Cidr {
    vip(150 + u8::try_from(group).unwrap_or(0))
}

fn vip(last: u8) -> Cidr {
    let address = IpAddr::V4(Ipv4Addr::new(10, 77, 0, last));
    Cidr::new(address, 24).unwrap_or_else(|| unreachable!("24 is a length"))
}
