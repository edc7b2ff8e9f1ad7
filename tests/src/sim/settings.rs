//! What the simulated hosts run by.

use super::World;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;
use std::time::Duration;
use vipd_core::node::Settings;
use vipd_core::settings::{
    Cidr, ClusterSettings, DNS_GROUP, Dns, ElectionSettings, Member, OnNoQuorum, Policy, Quorum, Transport,
    VipGroup, VrrpVersion, WhenAllDown,
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
    let vips: Vec<VipGroup> = vips.collect();
    Settings {
        cluster: ClusterSettings {
            name: "orders".into(),
            nodes: members.collect(),
            witnesses: vec![],
            peer_port: 7112,
        },
        digests: vec![digest(&vips)],
        vips,
        election,
        listeners: vec![],
        pools: vec![],
        dns: None,
    }
}

/// A name that leads to the hosts, with an election of its own: the last of the groups.
pub fn add_name(settings: &mut Settings, policy: Policy, hold_down: Duration) {
    let election = settings.vips.len();
    settings.vips.push(VipGroup {
        name: DNS_GROUP.to_owned(),
        addresses: vec![],
        interface: None,
        vrid: NonZeroU8::MAX,
        nodes: (0..settings.cluster.nodes.len()).collect(),
        track: vec![],
    });
    settings.dns = Some(Dns {
        name: "db.corp.example.".into(),
        ttl: Duration::from_secs(5),
        policy,
        when_all_down: WhenAllDown::LastGood,
        hold_down,
        repair: false,
        public_addresses: vec![],
        election,
        owner: election,
        rfc2136: None,
        route53: None,
    });
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
        start_delay: Duration::ZERO,
        lease: Duration::from_secs((interval * 3).as_secs().max(1)),
        quorum: Quorum::None,
        on_no_quorum: OnNoQuorum::Withdraw,
        etcd_lease: Duration::from_secs(3),
    }
}

/// The address that a group has by turns, as reloads add and remove it.
pub(super) fn second_address(group: usize) -> Cidr {
    vip(150 + u8::try_from(group).unwrap_or(0))
}

/// The address that reloads move between groups.
#[must_use]
pub fn moving_address() -> Cidr {
    vip(199)
}

/// What nodes compare to see that their files differ.
pub(super) fn digest(vips: &[VipGroup]) -> (&'static str, u32) {
    let mut digest: u32 = 0;
    for byte in vips.iter().flat_map(|v| format!("{} {:?} {:?};", v.name, v.addresses, v.nodes).into_bytes())
    {
        digest = digest.wrapping_mul(31).wrapping_add(u32::from(byte));
    }
    ("vip", digest)
}

fn vip(last: u8) -> Cidr {
    let address = IpAddr::V4(Ipv4Addr::new(10, 77, 0, last));
    Cidr::new(address, 24).unwrap_or_else(|| unreachable!("24 is a length"))
}
