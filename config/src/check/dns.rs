//! `[dns]`.

use super::Names;
use super::cluster::Cluster;
use super::election::within;
use super::listen::Listeners;
use super::vip::{Vips, named_vrid, same_vrid};
use crate::address::{NodeAddress, Socket};
use crate::dnsd::DnsName;
use crate::duration::show;
use crate::report::{At, Problem, Report, quote};
use crate::shape::{Field, List, Table};
use crate::spec::{DnsSpec, HealthCheckSpec, PublicAddressesSpec, Rfc2136Spec, Route53Spec};
use crate::value::Number;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use vipd_core::settings::{
    DNS_GROUP, Dns, Family, KeyAlgorithm, Policy, RecordForm, Rfc2136, Route53, VipGroup, WhenAllDown,
};

const SECOND: Duration = Duration::from_secs(1);
/// Longer answers outlive any failover.
const MAX_TTL: Duration = Duration::from_secs(3_600);
const MAX_HOLD_DOWN: Duration = Duration::from_secs(600);
/// A node's name stands in the lease beside the records.
const MAX_OWNER: usize = 63;
/// Route 53 answers with no more than these of a multivalue set.
const MAX_MULTIVALUE: usize = 8;

/// Judges the table, and adds the election of who writes to the groups.
pub(super) fn judge(
    field: Field<Table<DnsSpec>>,
    cluster: &Cluster,
    listeners: &Listeners,
    vips: &mut Vips,
    report: &mut Report<'_>,
) -> Option<Dns> {
    let At { value, span } = field.ok("[dns]", report)?;
    let spec = value.open(report);
    let name = spec.name.need("name", "the name of the service: \"db.corp.example.\"", &span, report);
    let name = name.map(|At { value: DnsName(value), span }| At { value, span }).ok();
    let ttl = ttl(spec.ttl, report);
    let policy = spec.policy.or("policy", Policy::Multi, report);
    let hold_down = spec.hold_down.ok("hold-down", report);
    if let Some(At { value, span }) = &hold_down {
        within("hold-down", *value, Duration::ZERO, MAX_HOLD_DOWN, span, report);
    }
    let track = match spec.track.get("track", report) {
        Ok(Some(list)) => listeners.names.find_all("track", list, report).unwrap_or_default(),
        Ok(None) | Err(_) => (0..listeners.settings.len()).collect(),
    };
    let owner = spec.vip.ok("vip", report).and_then(|At { value, span }| {
        let wanted = At { value: value.0, span };
        if policy == Policy::Multi {
            let problem =
                Problem::new("vip has no effect: policy is \"multi\", every healthy node is published");
            report.warning(&wanted.span, problem.hint("policy = \"owner\" publishes the VIP's owner"));
        }
        let known = vips.settings.iter().map(|v| Some(At { value: v.name.clone(), span: 0..0 })).collect();
        Names { what: "vip", names: known }.find("vip", &wanted, report)
    });
    let rfc2136 = spec.rfc2136.ok("[dns.rfc2136]", report);
    let route53 = spec.route53.ok("[dns.route53]", report);
    if rfc2136.is_none() && route53.is_none() {
        let problem = Problem::new("there is no place for the records of [dns]");
        report.error(
            &span,
            problem.hint("[dns.rfc2136] is a server that takes updates, such as dnsd; [dns.route53] is AWS"),
        );
    }
    let rfc2136 = rfc2136.map(|table| self::rfc2136(table, name.as_ref(), report));
    let route53 = route53.map(|table| self::route53(table, cluster, report));
    nodes(cluster, &span, report);
    let public_addresses = public_addresses(spec.public_addresses, cluster, report);
    reachable(cluster, listeners, &public_addresses, &span, report);
    let owner = owner.or((!vips.settings.is_empty()).then_some(0));
    let election = add_election(cluster, track, spec.vrid, vips, &span, report);
    Some(Dns {
        name: name.map(|n| n.value).unwrap_or_default(),
        ttl,
        policy,
        when_all_down: spec.when_all_down.or("when-all-down", WhenAllDown::LastGood, report),
        hold_down: hold_down.map_or(SECOND, |h| h.value),
        repair: spec.repair.or("repair", false, report),
        public_addresses,
        election,
        owner: owner.unwrap_or(election),
        rfc2136,
        route53,
    })
}

/// DNS counts whole seconds.
fn ttl(field: Field<Duration>, report: &mut Report<'_>) -> Duration {
    let Some(At { value, span }) = field.ok("ttl", report) else { return SECOND * 5 };
    within("ttl", value, SECOND, MAX_TTL, &span, report);
    if value.subsec_nanos() != 0 && value > SECOND {
        let problem = Problem::new(format!("ttl: {} is not a number of whole seconds", show(value)));
        report.error(&span, problem.hint("DNS counts in seconds: \"5s\""));
    }
    value
}

/// The election of who writes is a group without addresses.
fn add_election(
    cluster: &Cluster,
    track: Vec<usize>,
    vrid: Field<Number<1, 255>>,
    vips: &mut Vips,
    span: &Range<usize>,
    report: &mut Report<'_>,
) -> usize {
    if vips.settings.iter().any(|v| v.name == DNS_GROUP) {
        let problem =
            Problem::new(format!("the name {DNS_GROUP:?} of a [[vip]] is that of the election of [dns]"));
        report.error(span, problem.hint("give the [[vip]] another name"));
    }
    let given = vrid.ok("vrid", report);
    let named = named_vrid(&cluster.settings.name, DNS_GROUP);
    let number = given.as_ref().and_then(|given| u8::try_from(given.value.0).ok()).and_then(NonZeroU8::new);
    let vrid = number.unwrap_or(named);
    // One of the same name has been refused for that.
    if let Some(other) = vips.settings.iter().find(|v| v.vrid == vrid && v.name != DNS_GROUP) {
        let whose = format!("vip {:?}", other.name);
        let mut used: Vec<_> = vips.settings.iter().map(|v| v.vrid).collect();
        match &given {
            Some(given) => {
                let problem = Problem::new(format!("vrid {vrid} is that of {whose} already"));
                let hint = "the election of [dns] is a virtual router of its own";
                report.error(&given.span, problem.hint(hint));
            }
            None => report.error(span, same_vrid("the election of [dns]", vrid, &whose, &mut used)),
        }
    }
    vips.settings.push(VipGroup {
        name: DNS_GROUP.to_owned(),
        addresses: vec![],
        interface: None,
        vrid,
        nodes: (0..cluster.settings.nodes.len()).collect(),
        track,
    });
    vips.settings.len() - 1
}

fn nodes(cluster: &Cluster, span: &Range<usize>, report: &mut Report<'_>) {
    let all: Vec<usize> = (0..cluster.settings.nodes.len()).collect();
    if let Some(long) = cluster.settings.nodes.iter().find(|n| n.name.len() > MAX_OWNER) {
        let problem = Problem::new(format!("the name of node {} is too long for [dns]", quote(&long.name)));
        report.error(
            span,
            problem.hint(format!("it stands beside the records: {MAX_OWNER} characters at most")),
        );
    }
    let common = Family::ALL.into_iter().any(|f| cluster.without(f, &all).is_empty());
    if cluster.complete && !common {
        let problem =
            Problem::new("the nodes have no address family in common, so they cannot elect who writes");
        report.error(span, problem.hint("give each node in [cluster] an address of the same family"));
    }
}

/// The name leads to the nodes' own addresses: somebody has to listen there.
fn reachable(
    cluster: &Cluster,
    listeners: &Listeners,
    public: &[(usize, Vec<IpAddr>)],
    span: &Range<usize>,
    report: &mut Report<'_>,
) {
    let own = |bind: &vipd_core::settings::Bind| match bind.address {
        None => true,
        Some(address) => {
            address.is_unspecified()
                || cluster.addresses.iter().any(|(_, a)| a.value == address)
                || public.iter().any(|(_, list)| list.contains(&address))
        }
    };
    let binds = &listeners.binds;
    if cluster.complete && !binds.is_empty() && !binds.iter().any(|(_, b)| own(&b.value)) {
        let port = binds.first().map_or(0, |(_, b)| b.value.port);
        report.warning(
            span,
            Problem::new("[dns] leads clients to the nodes' own addresses, and no listener listens there")
                .hint(format!("bind = \":{port}\" listens on every address")),
        );
    }
}

/// What clients reach the nodes by, where that is not what the nodes reach each other by.
fn public_addresses(
    field: Field<List<Table<PublicAddressesSpec>>>,
    cluster: &Cluster,
    report: &mut Report<'_>,
) -> Vec<(usize, Vec<IpAddr>)> {
    let Some(At { value, span: place }) = field.ok("public-addresses", report) else { return vec![] };
    let tables = value.open("public-addresses", report);
    let complete = cluster.complete && !tables.is_empty() && tables.iter().all(Option::is_some);
    if tables.is_empty() {
        super::empty_list("public-addresses", &place, report);
    }
    let mut all: Vec<(usize, Vec<IpAddr>)> = Vec::new();
    for At { value, span } in tables.into_iter().flatten() {
        let PublicAddressesSpec { node, addresses } = value.open(report);
        let node = node.need("node", "whose they are: node = \"px1\"", &span, report).ok();
        let missing = "by which clients reach it: addresses = [\"203.0.113.11\"]";
        let list = addresses.need("addresses", missing, &span, report).ok();
        let (Some(node), Some(list)) = (node, list) else { continue };
        let wanted = At { value: node.value.0, span: node.span };
        let Some(position) = cluster.names.find("node", &wanted, report) else { continue };
        if all.iter().any(|(n, _)| *n == position) {
            let problem = format!("public-addresses: node {} has some already", quote(&wanted.value));
            report.error(&wanted.span, Problem::new(problem).hint("one list for each node"));
        }
        let several = list.value.open("addresses", report);
        if several.is_empty() {
            super::empty_list("addresses", &list.span, report);
        }
        let mut own = Vec::new();
        for At { value: NodeAddress(address), span } in several.into_iter().flatten() {
            if own.contains(&address) || all.iter().any(|(_, known)| known.contains(&address)) {
                let problem = format!("public-addresses: {address} stands here twice");
                let hint = "an address leads to one node, or it would stay in the records when that is out";
                report.error(&span, Problem::new(problem).hint(hint));
            }
            own.push(address);
        }
        all.push((position, own));
    }
    let without: Vec<usize> =
        (0..cluster.settings.nodes.len()).filter(|n| all.iter().all(|(known, _)| known != n)).collect();
    if complete && !without.is_empty() && !all.is_empty() {
        let problem = format!(
            "public-addresses: {} has none, so what stands in [cluster] is published of it",
            cluster.show(&without)
        );
        report.warning(&place, Problem::new(problem).hint("give every node its own"));
    }
    all.sort();
    all
}

fn rfc2136(table: At<Table<Rfc2136Spec>>, name: Option<&At<String>>, report: &mut Report<'_>) -> Rfc2136 {
    let At { value, span } = table;
    let Rfc2136Spec { servers, zone, key_name, key_algorithm, key_file } = value.open(report);
    let missing = "the primaries of the zone: servers = [\"10.77.0.11:53\"]";
    let servers = servers.need("servers", missing, &span, report).ok();
    let servers = servers.map(|list| self::servers(list, report)).unwrap_or_default();
    let zone =
        zone.need("zone", "the zone that holds the name: zone = \"corp.example.\"", &span, report).ok();
    if let (Some(At { value: name, span }), Some(At { value: DnsName(zone), .. })) = (name, &zone)
        && name != zone
        && !name.ends_with(&format!(".{zone}"))
    {
        let problem = Problem::new(format!("name: {} does not lie in the zone {}", quote(name), quote(zone)));
        report.error(span, problem.hint(format!("a name that ends with \".{zone}\"")));
    }
    let missing = "the key's name, the same on both sides: key-name = \"vipd.\"";
    let key_name = key_name.need("key-name", missing, &span, report);
    let missing =
        "the file with the key's secret: key-file = \"/etc/vipd/tsig.key\"; `dnsd keygen` prints one";
    let key_file = key_file.need("key-file", missing, &span, report);
    Rfc2136 {
        servers,
        zone: zone.map(|z| z.value.0).unwrap_or_default(),
        key_name: key_name.map(|k| k.value.0).unwrap_or_default(),
        key_algorithm: key_algorithm.or("key-algorithm", KeyAlgorithm::HmacSha256, report),
        key_file: key_file.map_or_else(|_| PathBuf::new(), |f| f.value.0),
    }
}

fn servers(list: At<List<Socket>>, report: &mut Report<'_>) -> Vec<SocketAddr> {
    let At { value, span } = list;
    let all = value.open("servers", report);
    if all.is_empty() {
        super::empty_list("servers", &span, report);
    }
    let mut servers: Vec<SocketAddr> = Vec::new();
    for At { value: Socket(server), span } in all.into_iter().flatten() {
        if servers.contains(&server) {
            report.error(&span, Problem::new(format!("servers: {server} stands here twice")));
        } else if server.ip().is_unspecified() {
            let problem = Problem::new(format!("servers: {server} is no address of a server"));
            report.error(&span, problem.hint("the address that the primary listens on"));
        } else {
            servers.push(server);
        }
    }
    servers
}

fn route53(table: At<Table<Route53Spec>>, cluster: &Cluster, report: &mut Report<'_>) -> Route53 {
    let At { value, span } = table;
    let Route53Spec { zone_id, records, health_checks, endpoint_url } = value.open(report);
    let zone_id = zone_id.need("zone-id", "the hosted zone's id: zone-id = \"Z0123456789\"", &span, report);
    let records = records.or("records", RecordForm::Multivalue, report);
    let nodes = cluster.settings.nodes.len();
    if records == RecordForm::Multivalue && nodes > MAX_MULTIVALUE {
        let problem = Problem::new(format!("{nodes} nodes: Route 53 answers with {MAX_MULTIVALUE} of them"));
        report.warning(&span, problem.hint("records = \"simple\" answers with all"));
    }
    let health_checks = health_checks.ok("health-checks", report);
    if let (Some(At { span, .. }), RecordForm::Simple) = (&health_checks, records) {
        let problem = Problem::new("health-checks: a simple record has none");
        report.error(span, problem.hint("records = \"multivalue\" has one for each node"));
    }
    let mut checks: Vec<(usize, String)> = Vec::new();
    let tables = health_checks.map(|list| list.value.open("health-checks", report)).unwrap_or_default();
    for At { value, span } in tables.into_iter().flatten() {
        let HealthCheckSpec { node, id } = value.open(report);
        let node = node.need("node", "whom it checks: node = \"px1\"", &span, report).ok();
        let id = id.need("id", "the health check's id: id = \"abcdef11-2222-...\"", &span, report).ok();
        let (Some(node), Some(id)) = (node, id) else { continue };
        let wanted = At { value: node.value.0, span: node.span };
        let Some(position) = cluster.names.find("node", &wanted, report) else { continue };
        if checks.iter().any(|(n, _)| *n == position) {
            let problem = format!("health-checks: node {} has one already", quote(&wanted.value));
            report.error(&wanted.span, Problem::new(problem));
        }
        checks.push((position, id.value.0));
    }
    Route53 {
        zone_id: zone_id.map(|z| z.value.0).unwrap_or_default(),
        records,
        health_checks: checks,
        endpoint_url: endpoint_url.ok("endpoint-url", report).map(|u| u.value.0),
    }
}
