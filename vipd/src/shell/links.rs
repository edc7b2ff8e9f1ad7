//! Which interface carries which group, and from which of this host's own
//! addresses it advertises there.

use crate::net::is_link_local;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use vipd_core::node::{Link, Settings};
use vipd_core::settings::{Cidr, Family, Transport, VipGroup, VrrpVersion};
use vipd_core::wire::Mac;

/// An interface as the kernel described it last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// This host's own addresses on it.
    pub addresses: Vec<Cidr>,
}

/// The interfaces, by the kernel's index.
#[derive(Debug, Default)]
pub struct Interfaces(BTreeMap<u32, Interface>);

impl Interfaces {
    /// Takes the newest description of an interface; true if it is up, and was
    /// otherwise before.
    pub fn set(&mut self, index: u32, interface: Interface) -> bool {
        let up = interface.up;
        let before = self.0.insert(index, interface);
        up && before.as_ref() != self.0.get(&index)
    }

    /// The interface is gone.
    pub fn remove(&mut self, index: u32) {
        self.0.remove(&index);
    }

    /// Whether nothing is known of any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An interface's Ethernet address.
    #[must_use]
    pub fn mac(&self, index: u32) -> Option<Mac> {
        self.0.get(&index).and_then(|i| i.mac)
    }

    /// An own IPv6 address of an interface to ask neighbours from: of its link if it has one.
    #[must_use]
    pub fn asker(&self, index: u32) -> Option<Ipv6Addr> {
        let addresses = self.0.get(&index).into_iter().flat_map(|i| &i.addresses);
        let six = addresses.filter_map(|a| match a.address() {
            IpAddr::V6(six) => Some(six),
            IpAddr::V4(_) => None,
        });
        six.min_by_key(|a| !a.is_unicast_link_local())
    }

    /// All own addresses of the host.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.values().flat_map(|i| i.addresses.iter().map(|a| a.address()))
    }

    /// The link of a group, as seen by the node at position `me`.
    #[must_use]
    pub fn link(&self, vip: &VipGroup, settings: &Settings, me: usize) -> Link {
        let (index, interface) = match self.find(vip, settings, me) {
            Ok(found) => found,
            Err(reason) => return Link::Down { reason },
        };
        if !interface.up {
            return Link::Down { reason: format!("{} has no carrier or is down", interface.name) };
        }
        let seat = Seat { all: self, interface, vip, settings, me };
        let (mut sources, mut lacking) = (vec![], None);
        for family in Family::ALL.into_iter().filter(|f| seat.carries(*f)) {
            match seat.source(family) {
                Some(source) => sources.push(source),
                None if seat.must_carry(family) => {
                    lacking = lacking.or_else(|| Some(seat.no_source(family)));
                }
                None => {}
            }
        }
        if let Some(reason) = lacking {
            return match sources.is_empty() {
                true => Link::Down { reason },
                false => Link::Partial { reason, interface: index, sources },
            };
        }
        if sources.is_empty() {
            let family = if vip.of_family(Family::V4).next().is_some() { Family::V4 } else { Family::V6 };
            return Link::Down { reason: seat.no_source(family) };
        }
        let (mac, subnets) = (interface.mac, interface.addresses.clone());
        Link::Up { interface: index, sources, mac, subnets }
    }

    /// The interface of a group: the one that is named, else the one whose
    /// subnet holds one of its addresses, else the one with this node's own address.
    fn find(&self, vip: &VipGroup, settings: &Settings, me: usize) -> Result<(u32, &Interface), String> {
        if let Some(name) = &vip.interface {
            return self.one(|i| i.name == *name).ok_or_else(|| format!("there is no interface {name}"));
        }
        let global: Vec<&Cidr> = vip.addresses.iter().filter(|a| !is_link_local(a.address())).collect();
        let holds = |i: &Interface| {
            // A link-local address is in the subnet of every interface.
            global.iter().any(|vip| i.addresses.iter().any(|a| a.contains(vip.address())))
        };
        let node = settings.cluster.nodes.get(me);
        let is_mine = |i: &Interface| {
            i.addresses.iter().any(|a| node.is_some_and(|n| n.addresses.contains(&a.address())))
        };
        // Of several in the subnet, the one that carries the node's address.
        self.one(|i| holds(i) && is_mine(i))
            .or_else(|| self.one(holds))
            .or_else(|| self.one(is_mine))
            .ok_or_else(|| {
                let own = own_addresses(settings, me);
                let Some(first) = vip.addresses.first() else {
                    return format!("no interface has {own} (yet)");
                };
                format!(
                    "no interface has {own} (yet), and none is in the subnet of {first}: give the host that \
                     address, or name an interface with `interface`"
                )
            })
    }

    fn one(&self, is_it: impl Fn(&Interface) -> bool) -> Option<(u32, &Interface)> {
        self.0.iter().find(|(_, i)| is_it(i)).map(|(index, i)| (*index, i))
    }
}

/// A group at its interface.
#[derive(Clone, Copy)]
struct Seat<'a> {
    all: &'a Interfaces,
    interface: &'a Interface,
    vip: &'a VipGroup,
    settings: &'a Settings,
    me: usize,
}

impl Seat<'_> {
    /// This node's address of a family by the file.
    fn of_file(&self, family: Family) -> Option<IpAddr> {
        self.settings.cluster.nodes.get(self.me).and_then(|n| n.address(family))
    }

    /// Whether a group is advertised over a family: that of its addresses; every
    /// one that the version knows where only the election counts.
    fn carries(&self, family: Family) -> bool {
        match (self.vip.addresses.is_empty(), self.settings.election.version, family) {
            (false, _, _) => self.vip.of_family(family).next().is_some(),
            (true, VrrpVersion::V2, Family::V6) => false,
            (true, VrrpVersion::V2, Family::V4) | (true, VrrpVersion::V3, _) => true,
        }
    }

    /// Whether a group cannot go without a family: it has addresses of it, and the
    /// others expect to hear of them. A virtual router that is held and not
    /// advertised would be taken by another.
    fn must_carry(&self, family: Family) -> bool {
        let heard = match self.settings.election.transport {
            Transport::Multicast => true,
            Transport::Unicast | Transport::Udp => self.of_file(family).is_some(),
        };
        heard && self.vip.of_family(family).next().is_some()
    }

    /// The address to advertise from: at unicast the node's own from the file,
    /// as the peers expect it; at multicast the interface's, and link-local for
    /// IPv6 (RFC 9568 section 5.1.2.1).
    fn source(&self, family: Family) -> Option<IpAddr> {
        let of_file = self.of_file(family);
        let mine = || self.interface.addresses.iter().map(|a| a.address());
        let here = of_file.filter(|own| mine().any(|a| a == *own));
        let is_vip = |address: &IpAddr| self.vip.addresses.iter().any(|v| v.address() == *address);
        let mut on_link = mine().filter(|a| !is_vip(a));
        match (self.settings.election.transport, family) {
            (Transport::Unicast, _) => here,
            // The way to the others need not be the interface of the addresses.
            (Transport::Udp, _) => of_file.filter(|own| self.all.addresses().any(|a| a == *own)),
            (Transport::Multicast, Family::V4) => here.or_else(|| on_link.find(IpAddr::is_ipv4)),
            (Transport::Multicast, Family::V6) => on_link.find(|a| is_link_local(*a)),
        }
    }

    /// Why a group cannot be advertised over a family.
    fn no_source(&self, family: Family) -> String {
        let Self { all, interface, vip, settings, me } = *self;
        let own = self.of_file(family);
        let wanted = match (settings.election.transport, own, family) {
            (Transport::Unicast | Transport::Udp, Some(own), _) => {
                let node = settings.cluster.nodes.get(me).map_or("", |n| n.name.as_str());
                format!("{own} of node {node}")
            }
            (Transport::Unicast | Transport::Udp, None, _) => own_addresses(settings, me),
            (Transport::Multicast, _, Family::V4) => "an IPv4 address of its own".to_owned(),
            (Transport::Multicast, _, Family::V6) => "a link-local IPv6 address".to_owned(),
        };
        let name = match settings.election.transport {
            Transport::Unicast | Transport::Multicast => interface.name.as_str(),
            Transport::Udp => "this host",
        };
        let other = all.one(|i| own.is_some_and(|own| i.addresses.iter().any(|a| a.address() == own)));
        match (settings.election.transport, other) {
            (Transport::Unicast, Some((_, other))) => format!(
                "{name} does not have {wanted}, from which {} would be advertised, but {} has: by \
                 `transport = \"unicast\"` an address can only be where the node's own is; use \"multicast\" or \
                 \"udp\", or nodes' addresses of that network",
                vip.name, other.name
            ),
            (Transport::Unicast | Transport::Multicast | Transport::Udp, _) => {
                format!("{name} does not have {wanted} (yet), from which {} would be advertised", vip.name)
            }
        }
    }
}

fn own_addresses(settings: &Settings, me: usize) -> String {
    settings.cluster.nodes.get(me).map_or_else(String::new, |n| {
        let list: Vec<String> = n.addresses.iter().map(ToString::to_string).collect();
        format!("{} of node {}", list.join(" or "), n.name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU8;

    fn cidr(text: &str) -> Cidr {
        let (address, prefix) = text.split_once('/').expect("a prefix");
        Cidr::new(address.parse().expect("an address"), prefix.parse().expect("a number")).expect("a subnet")
    }

    fn vip(addresses: &[&str], interface: Option<&str>) -> VipGroup {
        VipGroup {
            name: "main".into(),
            addresses: addresses.iter().map(|a| cidr(a)).collect(),
            interface: interface.map(Into::into),
            vrid: NonZeroU8::MIN,
            nodes: vec![0],
            track: vec![],
        }
    }

    fn settings(transport: Transport, own: &[&str]) -> Settings {
        let mut settings = crate::shell::orders::tests::settings();
        settings.cluster.nodes.truncate(1);
        settings.cluster.nodes[0].addresses = own.iter().map(|a| a.parse().expect("an address")).collect();
        settings.election.transport = transport;
        Settings { vips: vec![], ..settings }
    }

    fn host() -> Interfaces {
        let mut all = Interfaces::default();
        let interface = |name: &str, addresses: &[&str]| Interface {
            name: name.into(),
            mac: None,
            up: true,
            addresses: addresses.iter().map(|a| cidr(a)).collect(),
        };
        all.set(1, interface("lo", &["127.0.0.1/8"]));
        all.set(2, interface("eth0", &["10.77.0.11/24", "fd77::11/64", "fe80::11/64"]));
        all.set(3, interface("eth1", &["10.88.0.11/24"]));
        all
    }

    fn up(interface: u32, sources: &[&str]) -> Link {
        let sources = sources.iter().map(|s| s.parse().expect("an address")).collect();
        let subnets = host().0[&interface].addresses.clone();
        Link::Up { interface, sources, mac: None, subnets }
    }

    #[test]
    fn neighbours_are_asked_from_the_link_local_address() {
        assert_eq!(host().asker(2).map(|a| a.to_string()).as_deref(), Some("fe80::11"));
        assert_eq!(host().asker(3), None);
    }

    #[test]
    fn an_interface_is_found_by_subnet_or_by_name() {
        let unicast = settings(Transport::Unicast, &["10.77.0.11"]);
        let link = host().link(&vip(&["10.77.0.100/24"], None), &unicast, 0);
        assert_eq!(link, up(2, &["10.77.0.11"]));
        let multicast = settings(Transport::Multicast, &["10.77.0.11"]);
        let link = host().link(&vip(&["10.99.0.100/24"], Some("eth1")), &multicast, 0);
        assert_eq!(link, up(3, &["10.88.0.11"]));
    }

    #[test]
    fn ipv6_multicast_is_sent_from_the_link_local_address() {
        let both = vip(&["10.77.0.100/24", "fd77::100/64"], None);
        let multicast = settings(Transport::Multicast, &["10.77.0.11"]);
        assert_eq!(host().link(&both, &multicast, 0), up(2, &["10.77.0.11", "fe80::11"]));
        let unicast = settings(Transport::Unicast, &["10.77.0.11", "fd77::11"]);
        assert_eq!(host().link(&both, &unicast, 0), up(2, &["10.77.0.11", "fd77::11"]));
    }

    /// One family of two that is held and not advertised would be another's to take.
    #[test]
    fn a_group_of_both_families_needs_both_to_be_advertised_from() {
        let both = vip(&["10.77.0.100/24", "fd77::100/64"], None);
        for (transport, own) in [
            (Transport::Unicast, &["10.77.0.11", "fd77::99"]),
            (Transport::Unicast, &["10.77.0.99", "fd77::11"]),
            (Transport::Udp, &["10.77.0.11", "fd77::99"]),
        ] {
            let Link::Partial { reason, interface, sources } =
                host().link(&both, &settings(transport, own), 0)
            else {
                panic!("{transport:?} {own:?}");
            };
            let left = own.iter().filter(|a| !a.ends_with("99")).map(|a| a.parse().expect("an address"));
            assert_eq!((interface, sources), (2, left.collect::<Vec<IpAddr>>()));
            assert!(reason.contains(".99 of") || reason.contains("::99 of"), "{reason}");
        }
        let one = settings(Transport::Unicast, &["10.77.0.11"]);
        assert_eq!(host().link(&both, &one, 0), up(2, &["10.77.0.11"]), "the file gives no other");
        // An address of another interface will do, one that is nowhere will not.
        let elsewhere = vip(&["10.88.0.100/24"], Some("eth1"));
        let link = host().link(&elsewhere, &settings(Transport::Udp, &["10.77.0.11"]), 0);
        assert_eq!(link, up(3, &["10.77.0.11"]));
        let Link::Down { reason } = host().link(&elsewhere, &settings(Transport::Udp, &["10.77.0.99"]), 0)
        else {
            panic!("it would be owner and mute");
        };
        assert!(reason.starts_with("this host does not have 10.77.0.99 of node px1 (yet)"), "{reason}");
        let Link::Down { reason } =
            host().link(&elsewhere, &settings(Transport::Unicast, &["10.77.0.11"]), 0)
        else {
            panic!("nobody would hear it");
        };
        assert!(reason.contains("but eth0 has") && reason.contains("multicast"), "{reason}");
    }

    #[test]
    fn what_is_missing_is_said() {
        let reason =
            |vip: &VipGroup, own: &str| match host().link(vip, &settings(Transport::Unicast, &[own]), 0) {
                Link::Down { reason } => reason,
                up @ (Link::Unknown | Link::Partial { .. } | Link::Up { .. }) => panic!("{up:?}"),
            };
        assert_eq!(
            reason(&vip(&["10.77.0.100/24"], Some("eth7")), "10.77.0.11"),
            "there is no interface eth7"
        );
        assert!(reason(&vip(&["10.77.0.100/24"], None), "10.77.0.12").contains("10.77.0.12 of node px1"));
        let nowhere = reason(&vip(&["192.0.2.1/24"], None), "198.51.100.1");
        let expected =
            "no interface has 198.51.100.1 of node px1 (yet), and none is in the subnet of 192.0.2.1/24";
        assert!(nowhere.starts_with(expected) && nowhere.contains("`interface`"), "{nowhere}");
        let mut down = host();
        let mut eth0 = down.0[&2].clone();
        eth0.up = false;
        down.set(2, eth0);
        let link =
            down.link(&vip(&["10.77.0.100/24"], None), &settings(Transport::Unicast, &["10.77.0.11"]), 0);
        assert_eq!(link, Link::Down { reason: "eth0 has no carrier or is down".into() });
    }
}
