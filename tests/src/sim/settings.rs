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
    let mut settings = Settings {
        cluster: ClusterSettings {
            name: "orders".into(),
            nodes: members.collect(),
            witnesses: vec![],
            peer_port: 7112,
        },
        digests: vec![],
        vips,
        election,
        listeners: vec![],
        pools: vec![],
        dns: None,
    };
    settings.digests = digests(&settings);
    settings
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
pub(super) fn second_address(group: &str) -> Cidr {
    let number = group.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<u8>();
    vip(150 + number.unwrap_or(0) % 40)
}

/// The address that reloads move between groups.
#[must_use]
pub fn moving_address() -> Cidr {
    vip(199)
}

/// What nodes compare to see that their files differ.
pub(super) fn digests(settings: &Settings) -> Vec<(&'static str, u32)> {
    let Settings { election, vips, .. } = settings;
    let vip = |v: &VipGroup| format!("{} {:?} {} {:?};", v.name, v.addresses, v.vrid, v.nodes);
    let text = [
        ("election.advert-interval", format!("{:?}", election.advert_interval)),
        ("election.vrrp-version", format!("{:?}", election.version)),
        ("vip", vips.iter().map(vip).collect()),
    ];
    let hash = |text: String| {
        text.into_bytes().into_iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
    };
    text.into_iter().map(|(key, text)| (key, hash(text))).collect()
}

fn vip(last: u8) -> Cidr {
    let address = IpAddr::V4(Ipv4Addr::new(10, 77, 0, last));
    Cidr::new(address, 24).unwrap_or_else(|| unreachable!("24 is a length"))
}
