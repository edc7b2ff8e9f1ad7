//! What the kernel has, as its notifications tell it.

use super::{Link, Spot, TAG};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeMap;
use std::net::IpAddr;
use vipd_core::settings::Cidr;
use vipd_core::wire::Mac;

/// Links, and the addresses on each.
#[derive(Debug, Default)]
pub(super) struct Table {
    links: BTreeMap<u32, Record>,
    addresses: BTreeMap<u32, BTreeMap<Cidr, Seen>>,
}

#[derive(Debug, Default)]
struct Record {
    name: String,
    mac: Option<Mac>,
    up: bool,
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    /// It bears our tag.
    pub(super) ours: bool,
    /// Another address of its subnet came first (IPv4).
    pub(super) secondary: bool,
    /// It has no end.
    pub(super) permanent: bool,
    /// It can be sent from.
    usable: bool,
}

/// What a notification changed.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum News {
    /// A link.
    Link(u32),
    /// A link that has another name, with its old one.
    Renamed(u32, String),
    /// A link that is gone, with its name.
    LinkGone(u32, String),
    /// An address that is there.
    Address(Spot, Seen),
    /// An address that is gone.
    AddressGone(Spot),
}

impl Table {
    /// Takes a notification in.
    pub(super) fn take(&mut self, message: &RouteNetlinkMessage) -> Option<News> {
        if let RouteNetlinkMessage::NewLink(link) = message {
            return self.take_link(link);
        }
        if let RouteNetlinkMessage::DelLink(link) = message {
            // The same message with another family tells that a bridge lost a port.
            if link.header.interface_family != AddressFamily::Unspec {
                return None;
            }
            self.addresses.remove(&link.header.index);
            let gone = self.links.remove(&link.header.index)?;
            return Some(News::LinkGone(link.header.index, gone.name));
        }
        if let RouteNetlinkMessage::NewAddress(address) = message {
            let (spot, seen) = read(address)?;
            self.addresses.entry(spot.interface).or_default().insert(spot.address, seen);
            return Some(News::Address(spot, seen));
        }
        if let RouteNetlinkMessage::DelAddress(address) = message {
            let (spot, _) = read(address)?;
            self.addresses.entry(spot.interface).or_default().remove(&spot.address);
            return Some(News::AddressGone(spot));
        }
        None
    }

    fn take_link(&mut self, link: &LinkMessage) -> Option<News> {
        if link.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let record = self.links.entry(link.header.index).or_default();
        record.up = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        let before = record.name.clone();
        // Not every notification tells everything.
        for attribute in &link.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                record.name.clone_from(name);
            } else if let LinkAttribute::Address(bytes) = attribute {
                let mac = Mac::try_from(bytes.as_slice()).ok();
                record.mac = mac.filter(|mac| *mac != Mac::default());
            }
        }
        let renamed = !before.is_empty() && record.name != before;
        let index = link.header.index;
        Some(if renamed { News::Renamed(index, before) } else { News::Link(index) })
    }

    /// The name of a link.
    pub(super) fn name(&self, interface: u32) -> Option<&str> {
        self.links.get(&interface).map(|link| link.name.as_str())
    }

    /// Whether a link is switched on and has a carrier.
    pub(super) fn is_up(&self, interface: u32) -> bool {
        self.links.get(&interface).is_some_and(|link| link.up)
    }

    /// The indices of all links.
    pub(super) fn links(&self) -> impl Iterator<Item = u32> + '_ {
        self.links.keys().copied()
    }

    /// Every address.
    pub(super) fn spots(&self) -> impl Iterator<Item = (Spot, Seen)> + '_ {
        self.addresses.iter().flat_map(|(interface, addresses)| {
            addresses.iter().map(|(address, seen)| (Spot { interface: *interface, address: *address }, *seen))
        })
    }

    /// What is known of an address.
    pub(super) fn get(&self, spot: Spot) -> Option<Seen> {
        self.addresses.get(&spot.interface)?.get(&spot.address).copied()
    }

    /// A link, with the addresses that are not floating.
    pub(super) fn link(&self, interface: u32, floating: impl Fn(IpAddr) -> bool) -> Option<Link> {
        let record = self.links.get(&interface)?;
        let own = self.addresses.get(&interface).into_iter().flatten();
        let own = own.filter(|(address, seen)| seen.usable && !seen.ours && !floating(address.address()));
        let addresses = own.map(|(address, _)| *address).collect();
        let Record { name, mac, up } = record;
        Some(Link { index: interface, name: name.clone(), mac: *mac, up: *up, addresses })
    }
}

/// The address in a message: the local one where it has two ends.
pub(super) fn read(message: &AddressMessage) -> Option<(Spot, Seen)> {
    let (mut local, mut address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let mut ours = false;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(a) = attribute {
            local = Some(*a);
        } else if let AddressAttribute::Address(a) = attribute {
            address = Some(*a);
        } else if let AddressAttribute::Flags(f) = attribute {
            flags = *f;
        } else if let AddressAttribute::Protocol(p) = attribute {
            ours = *p == AddressProtocol::Other(TAG);
        }
    }
    let address = Cidr::new(local.or(address)?, message.header.prefix_len)?;
    let spot = Spot { interface: message.header.index, address };
    let seen = Seen {
        ours,
        secondary: flags.contains(AddressFlags::Secondary),
        permanent: flags.contains(AddressFlags::Permanent),
        usable: !flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
    };
    Some((spot, seen))
}
