//! `[[vip]]`.

use super::cluster::Cluster;
use super::election::Election;
use super::{Names, empty_list};
use crate::report::{At, Problem, Report};
use crate::shape::Reported;
use crate::spec::VipSpec;
use siphasher::sip::SipHasher13;
use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::ops::Range;
use vipd_core::settings::{Cidr, DNS_GROUP, Family, VipGroup, VrrpVersion};

/// VRRP counts the addresses of an advert in 8 bits.
const MAX_ADDRESSES: usize = 255;

/// The groups, and what the rest of the file is held against.
pub(super) struct Vips {
    pub(super) settings: Vec<VipGroup>,
    /// Every address with its group's name for a sentence.
    pub(super) places: Vec<(String, At<Cidr>)>,
}

/// A group before its virtual router has a number.
struct Draft {
    name: Option<At<String>>,
    addresses: Vec<At<Cidr>>,
    /// Whether all of `addresses` could be read.
    complete: bool,
    interface: Result<Option<String>, Reported>,
    vrid: Result<Option<At<NonZeroU8>>, Reported>,
    /// `None` when one could not be told.
    nodes: Option<Vec<usize>>,
    /// Where the group says in which order; the cluster's list when it does not.
    order: Option<Range<usize>>,
    track: Vec<usize>,
    place: Range<usize>,
}

pub(super) fn judge(
    tables: Vec<Option<At<VipSpec>>>,
    cluster: &Cluster,
    election: &Election,
    listeners: &Names,
    report: &mut Report<'_>,
) -> Vips {
    let drafts: Vec<_> = tables.into_iter().flatten().map(|t| draft(t, cluster, listeners, report)).collect();
    Names::new("vip", drafts.iter().map(|d| d.name.clone()).collect(), report);
    in_two_places(&drafts, cluster, report);
    prefixes(&drafts, report);
    for draft in &drafts {
        version(draft, election, report);
        subnets(draft, cluster, report);
        families(draft, cluster, election, report);
    }
    priorities(&drafts, cluster, report);
    let vrids = vrids(&cluster.settings.name, &drafts, report);
    let places = drafts.iter().flat_map(|d| d.addresses.iter().map(|a| (d.show(), a.clone()))).collect();
    let group = |(draft, vrid): (Draft, NonZeroU8)| VipGroup {
        name: draft.name.map(|n| n.value).unwrap_or_default(),
        addresses: draft.addresses.into_iter().map(|a| a.value).collect(),
        interface: draft.interface.ok().flatten(),
        vrid,
        nodes: draft.nodes.unwrap_or_default(),
        track: draft.track,
    };
    Vips { settings: drafts.into_iter().zip(vrids).map(group).collect(), places }
}

fn draft(table: At<VipSpec>, cluster: &Cluster, listeners: &Names, report: &mut Report<'_>) -> Draft {
    let At { value, span: place } = table;
    let VipSpec { name, addresses, interface, vrid, nodes, track } = value;
    let name = name.need("name", "each vip has a name: name = \"main\"", &place, report).ok();
    let missing = "with their prefix length: addresses = [\"10.77.0.100/24\"]";
    let (addresses, complete) = match addresses.need("addresses", missing, &place, report) {
        Err(Reported) => (vec![], false),
        Ok(At { value, span }) => {
            let all = value.open("addresses", report);
            if all.is_empty() {
                empty_list("addresses", &span, report);
            }
            let complete = !all.is_empty() && all.iter().all(Option::is_some);
            let all: Vec<_> = all.into_iter().flatten().collect();
            too_many(&all, &span, report);
            (all, complete)
        }
    };
    let interface = interface.get("interface", report).map(|i| i.map(|i| i.value.0));
    let vrid = vrid.get("vrid", report).map(|vrid| {
        vrid.and_then(|At { value, span }| {
            let value = u8::try_from(value.0).ok().and_then(NonZeroU8::new)?;
            Some(At { value, span })
        })
    });
    let (nodes, order) = match nodes.get("nodes", report) {
        Err(Reported) => (None, None),
        Ok(None) => (Some((0..cluster.settings.nodes.len()).collect()), None),
        Ok(Some(list)) => {
            let span = list.span.clone();
            (cluster.names.find_all("nodes", list, report), Some(span))
        }
    };
    let track = track.ok("track", report).and_then(|list| listeners.find_all("track", list, report));
    Draft {
        name: name.map(|At { value, span }| At { value: value.0, span }),
        addresses,
        complete,
        interface,
        vrid,
        nodes,
        order,
        track: track.unwrap_or_default(),
        place,
    }
}

fn too_many(addresses: &[At<Cidr>], span: &Range<usize>, report: &mut Report<'_>) {
    for family in Family::ALL {
        let count = addresses.iter().filter(|a| Family::of(a.value.address()) == family).count();
        if count > MAX_ADDRESSES {
            report.error(
                span,
                Problem::new(format!(
                    "{count} {family} addresses are too many: an advert holds at most {MAX_ADDRESSES}"
                ))
                .hint("spread them over several [[vip]] groups"),
            );
        }
    }
}

/// An address has one place: a node's own, or once in one group.
fn in_two_places(drafts: &[Draft], cluster: &Cluster, report: &mut Report<'_>) {
    let mut seen: BTreeMap<IpAddr, (&Draft, &At<Cidr>)> = BTreeMap::new();
    for draft in drafts {
        for cidr in &draft.addresses {
            let address = cidr.value.address();
            if let Some((node, own)) = cluster.addresses.iter().find(|(_, own)| own.value == address) {
                let (name, line) = (cluster.names.show(*node), report.line(&own.span));
                report.error(
                    &cidr.span,
                    Problem::new(format!("{address} is the own address of node {name} (line {line})"))
                        .hint("a VIP is an address that no host has for itself"),
                );
            }
            if let Some((group, first)) = seen.get(&address) {
                let line = report.line(&first.span);
                let problem = if std::ptr::eq(*group, draft) {
                    Problem::new(format!("{address} stands twice in this group (line {line})"))
                } else {
                    Problem::new(format!("{address} is in {} already (line {line})", group.show()))
                };
                report.error(&cidr.span, problem.hint("a VIP belongs to one group, once"));
            } else {
                seen.insert(address, (draft, cidr));
            }
        }
    }
}

/// A subnet has one prefix length, so of two that differ one is a mistake.
fn prefixes(drafts: &[Draft], report: &mut Report<'_>) {
    let all = || drafts.iter().flat_map(|d| d.addresses.iter().map(move |a| (d, a)));
    // The length of a single host says nothing of a subnet.
    let subnet = |c: Cidr| c.prefix() < if c.address().is_ipv4() { 32 } else { 128 };
    let interface = |d: &Draft| d.interface.as_ref().ok().cloned().flatten();
    for (draft, short) in all() {
        let same = |(other, long): &(&Draft, &At<Cidr>)| {
            let (short, long) = (short.value, long.value);
            let apart = interface(draft).zip(interface(other)).is_some_and(|(a, b)| a != b);
            short.prefix() < long.prefix()
                && subnet(long)
                && short.contains(long.address())
                && long.contains(short.address())
                && !apart
        };
        let Some((_, long)) = all().find(same) else { continue };
        let line = report.line(&long.span);
        report.warning(
            &short.span,
            Problem::new(format!(
                "{} and {} (line {line}) are in one subnet, with two lengths of its prefix",
                short.value, long.value
            ))
            .hint("the prefix length is that of the subnet, the same for all its addresses"),
        );
    }
}

fn version(draft: &Draft, election: &Election, report: &mut Report<'_>) {
    if !election.version_known || election.settings.version != VrrpVersion::V2 {
        return;
    }
    for cidr in draft.addresses.iter().filter(|c| c.value.address().is_ipv6()) {
        report.error(
            &cidr.span,
            Problem::new(format!(
                "{} cannot float by VRRP version 2, which knows IPv4 only",
                cidr.value.address()
            ))
            .hint("vrrp-version = 3 carries both families"),
        );
    }
}

/// Without an interface in the file, a node finds it by the subnet that its
/// own address and the VIP share.
fn subnets(draft: &Draft, cluster: &Cluster, report: &mut Report<'_>) {
    let (Ok(None), Some(nodes), true) = (&draft.interface, &draft.nodes, cluster.complete && draft.complete)
    else {
        return;
    };
    for cidr in &draft.addresses {
        let family = Family::of(cidr.value.address());
        let other = draft.addresses.iter().any(|a| Family::of(a.value.address()) != family);
        // The group's interface is found by its other family.
        if other && cluster.without(family, nodes).len() == nodes.len() {
            continue;
        }
        // Every interface has a link-local subnet: the other addresses tell which is meant.
        let global = |a: &At<Cidr>| !is_link_local(a.value.address());
        if is_link_local(cidr.value.address()) && draft.addresses.iter().any(global) {
            continue;
        }
        let holds = |n: &&usize| {
            let member = cluster.settings.nodes.get(**n);
            member.is_some_and(|m| m.addresses.iter().any(|a| cidr.value.contains(*a)))
        };
        let outside: Vec<usize> = nodes.iter().filter(|n| !holds(n)).copied().collect();
        if outside.is_empty() {
            continue;
        }
        let missing = if outside.len() == nodes.len() {
            format!("no node has an address in the subnet of {}", cidr.value)
        } else {
            format!("the subnet of {} holds no address of node {}", cidr.value, cluster.show(&outside))
        };
        report.error(
            &cidr.span,
            Problem::new(format!("{missing}, so its interface cannot be found"))
                .hint("name it (interface = \"eth0\"), or correct the address or its prefix length"),
        );
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(six) if six.is_unicast_link_local())
}

/// Unicast adverts of a family go between addresses of that family.
fn families(draft: &Draft, cluster: &Cluster, election: &Election, report: &mut Report<'_>) {
    let unicast = election.transport_known && election.settings.transport.is_to_nodes();
    // Alone, a node has nobody to send adverts to.
    let Some(nodes) = draft.nodes.as_ref().filter(|n| n.len() > 1) else { return };
    if !unicast || !cluster.complete || !draft.complete {
        return;
    }
    let [v4, v6] = Family::ALL;
    for (family, other) in [(v4, v6), (v6, v4)] {
        let Some(first) = draft.addresses.iter().find(|a| Family::of(a.value.address()) == family) else {
            continue;
        };
        let lacking = cluster.without(family, nodes);
        if lacking.is_empty() {
            continue;
        }
        let lack = match lacking.len() {
            1 => format!("node {} has no {family} address", cluster.show(&lacking)),
            _ => format!("nodes {} have no {family} address", cluster.show(&lacking)),
        };
        let hint = "addresses = [\"10.77.0.11\", \"fd77::11\"] gives a node one of each family";
        let rides = draft.addresses.iter().any(|a| Family::of(a.value.address()) == other)
            && cluster.without(other, nodes).is_empty();
        if rides {
            let problem = format!(
                "{lack}: the {family} addresses of {} follow the election over {other}",
                draft.show()
            );
            report.warning(&first.span, Problem::new(problem).hint(hint));
        } else {
            let problem = format!("{lack}, so {} cannot be elected over {family} unicast", draft.show());
            report.error(&first.span, Problem::new(problem).hint(hint));
        }
    }
}

/// Priorities of the file and those that follow from the order must agree on
/// who comes first.
fn priorities(drafts: &[Draft], cluster: &Cluster, report: &mut Report<'_>) {
    let members = &cluster.settings.nodes;
    if members.iter().all(|m| m.priority.is_none()) {
        return;
    }
    for (place, member) in cluster.priorities.iter().zip(members) {
        if let (Some(place), Some(NonZeroU8::MAX)) = (place, member.priority) {
            report.warning(
                place,
                Problem::new("priority 255 is that of an address owner: it takes the address back at once, preempt or not")
                    .hint("254 is the highest for a floating address"),
            );
        }
    }
    for draft in drafts {
        let Some(nodes) = &draft.nodes else { continue };
        let group = stand_in(nodes.clone());
        let of = |n: usize| group.priority(n, members);
        let given = |n: usize| members.get(n).is_some_and(|m| m.priority.is_some());
        let place = draft.order.as_ref().unwrap_or(&cluster.place);
        let pairs = || nodes.iter().enumerate().flat_map(|(i, a)| nodes[i + 1..].iter().map(|b| (*a, *b)));
        let show = |n: usize| cluster.names.show(n);
        // Two that are alike in the file have been refused there.
        if let Some((a, b)) = pairs().find(|(a, b)| of(*a) == of(*b) && !(given(*a) && given(*b))) {
            let priority = of(a).map_or(0, NonZeroU8::get);
            let problem = format!("nodes {} and {} both come to priority {priority}", show(a), show(b));
            let hint = "give each node a priority of its own";
            report.error(place, Problem::new(problem).hint(hint));
        }
        if let Some((a, b)) = pairs().find(|(a, b)| of(*a) < of(*b)) {
            let problem =
                format!("node {} has a higher priority than {}, against the order here", show(b), show(a));
            let hint = "a priority in the file counts before the order; make both say the same";
            report.warning(place, Problem::new(problem).hint(hint));
        }
    }
}

/// A group of these nodes, to ask it for priorities.
fn stand_in(nodes: Vec<usize>) -> VipGroup {
    VipGroup {
        name: String::new(),
        addresses: vec![],
        interface: None,
        vrid: NonZeroU8::MIN,
        nodes,
        track: vec![],
    }
}

/// The number of each group's virtual router: as the file says, else from the
/// names of cluster and group alone, so that no change of another group moves it:
/// a number that moves is another election, which the hosts that still run by the
/// former file do not see. Two that come to the same are refused.
fn vrids(cluster: &str, drafts: &[Draft], report: &mut Report<'_>) -> Vec<NonZeroU8> {
    let mut taken: Vec<(NonZeroU8, &Draft)> = Vec::new();
    for draft in drafts {
        let Ok(Some(vrid)) = &draft.vrid else { continue };
        if let Some((_, first)) = taken.iter().find(|(v, _)| *v == vrid.value) {
            let problem = Problem::new(format!("vrid {} is that of {} already", vrid.value, first.show()));
            let hint = "each group is a virtual router of its own; without vrid its name gives one";
            report.error(&vrid.span, problem.hint(hint));
        }
        taken.push((vrid.value, draft));
    }
    let named = |draft: &Draft| named_vrid(cluster, draft.name.as_ref().map_or("", |n| &n.value));
    // What is proposed is nobody's, also not that of the election of [dns].
    let mut used: Vec<NonZeroU8> = taken.iter().map(|(v, _)| *v).chain(drafts.iter().map(named)).collect();
    used.push(named_vrid(cluster, DNS_GROUP));
    let mut all = Vec::new();
    for draft in drafts {
        let vrid = match &draft.vrid {
            Ok(Some(vrid)) => vrid.value,
            Ok(None) | Err(Reported) => named(draft),
        };
        all.push(vrid);
        if !matches!(draft.vrid, Ok(None)) {
            continue;
        }
        // One without a name, or with another's, has been refused for that.
        let clash = |(v, other): &&(NonZeroU8, &Draft)| *v == vrid && other.called() != draft.called();
        if let Some((_, other)) = taken.iter().find(clash).filter(|_| draft.name.is_some()) {
            let line = report.line(&other.place);
            let whose = format!("{} (line {line})", other.show());
            report.error(&draft.place, same_vrid(&draft.show(), vrid, &whose, &mut used));
        }
        taken.push((vrid, draft));
    }
    all
}

/// That a name comes to a number that another group has, and what to write.
pub(super) fn same_vrid(what: &str, vrid: NonZeroU8, whose: &str, used: &mut Vec<NonZeroU8>) -> Problem {
    let problem =
        Problem::new(format!("{what} comes by its name to vrid {vrid}, which is that of {whose} already"));
    // Not from 1 on: that is what routers and firewalls have.
    let after = (vrid.get()..=u8::MAX).chain(1..vrid.get());
    let free = after.filter_map(NonZeroU8::new).find(|v| !used.contains(v));
    used.extend(free);
    problem.hint(match free {
        Some(free) => format!(
            "write vrid = {free}, which no group here has, in the one that is new, and vrid = {vrid} in the one \
             that runs: another number hands it over"
        ),
        None => "there are 255 numbers and more groups; a group may hold many addresses".into(),
    })
}

/// The number that the names of cluster and group come to. It may never change:
/// hosts of different versions must agree.
pub(super) fn named_vrid(cluster: &str, name: &str) -> NonZeroU8 {
    let mut hasher = SipHasher13::new();
    hasher.write(cluster.as_bytes());
    hasher.write(b"/");
    hasher.write(name.as_bytes());
    let number = u8::try_from(hasher.finish() % 255 + 1).ok();
    number.and_then(NonZeroU8::new).unwrap_or(NonZeroU8::MIN)
}

impl Draft {
    fn called(&self) -> Option<&str> {
        self.name.as_ref().map(|n| n.value.as_str())
    }

    /// The group for a sentence.
    fn show(&self) -> String {
        match &self.name {
            Some(name) => format!("vip {:?}", name.value),
            None => "a vip without a name".into(),
        }
    }
}
