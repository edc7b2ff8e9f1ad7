//! `[cluster]`.

use super::election::Election;
use super::{Names, empty_list};
use crate::Key;
use crate::address::NodeAddress;
use crate::choice::Unsealed;
use crate::duration::show;
use crate::report::{At, Problem, Report, quote};
use crate::shape::{Field, List, Reported, Table};
use crate::spec::{ClusterSpec, NodeSpec, WitnessSpec};
use crate::value::FilePath;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::ops::Range;
use vipd_core::lease::LONGEST;
use vipd_core::settings::{ClusterSettings, Family, Member, Quorum, Transport};

/// More than this no election, and no person, keeps in view.
const MAX_NODES: usize = 64;
/// Each is asked with every advert.
const MAX_WITNESSES: usize = 8;
/// The UDP port of the peer link when the file names none.
const DEFAULT_PEER_PORT: u16 = 7112;

/// The cluster, and what the rest of the file is held against.
pub(super) struct Cluster {
    pub(super) settings: ClusterSettings,
    pub(super) names: Names,
    /// Every address with the position of its node.
    pub(super) addresses: Vec<(usize, At<IpAddr>)>,
    /// Whether every node and all its addresses could be read.
    pub(super) complete: bool,
    /// Where each node's priority stands.
    pub(super) priorities: Vec<Option<Range<usize>>>,
    /// Where the list of nodes stands.
    pub(super) place: Range<usize>,
    pub(super) key: Option<Key>,
    /// Whether there is a key or none as the settings say.
    key_known: bool,
}

pub(super) fn judge(field: Field<Table<ClusterSpec>>, report: &mut Report<'_>) -> Cluster {
    let missing = "add [cluster] with name and nodes";
    let Ok(At { value, span }) = field.need("[cluster]", missing, &(0..0), report) else {
        return Cluster {
            settings: ClusterSettings {
                name: String::new(),
                nodes: vec![],
                witnesses: vec![],
                peer_port: DEFAULT_PEER_PORT,
            },
            names: Names { what: "node", names: vec![None] },
            addresses: vec![],
            complete: false,
            priorities: vec![],
            place: 0..0,
            key: None,
            key_known: false,
        };
    };
    let ClusterSpec { name, nodes, witnesses, peer_port, key_file, unsealed } = value.open(report);
    let name = name.need("name", "a name of its own for each cluster: name = \"orders\"", &span, report);
    let missing = "the proxy hosts, by preference: nodes = [{ name = \"px1\", address = \"10.77.0.11\" }]";
    let nodes = nodes.need("nodes", missing, &span, report);
    let place = nodes.as_ref().map_or(span, |n| n.span.clone());
    let drafts = match nodes {
        Err(Reported) => vec![Draft::unreadable()],
        Ok(At { value, span }) => {
            let tables = value.open("nodes", report);
            count(tables.len(), &span, report);
            tables.into_iter().map(|t| t.map_or_else(Draft::unreadable, |t| draft(t, report))).collect()
        }
    };
    let witnesses = self::witnesses(witnesses, report);
    let mut cluster = gather(drafts, witnesses, place, report);
    cluster.settings.name = name.map(|n| n.value.0).unwrap_or_default();
    let port = peer_port.ok("peer-port", report).and_then(|p| u16::try_from(p.value.0).ok());
    cluster.settings.peer_port = port.unwrap_or(DEFAULT_PEER_PORT);
    (cluster.key, cluster.key_known) = key(key_file, unsealed, report);
    cluster
}

fn key(file: Field<FilePath>, unsealed: Field<Unsealed>, report: &mut Report<'_>) -> (Option<Key>, bool) {
    let file = file.get("key-file", report);
    let unsealed = unsealed.get("unsealed", report).ok().flatten();
    if let (Ok(None), Some(At { span, .. })) = (&file, &unsealed) {
        report.warning(
            span,
            Problem::new("unsealed has no effect without key-file: nothing is sealed")
                .hint("`vipd keygen` prints a key"),
        );
    }
    let known = file.is_ok();
    let accept_unsealed = match &unsealed {
        Some(At { value: Unsealed::Accept, span }) if matches!(file, Ok(Some(_))) => {
            report.warning(
                span,
                Problem::new(
                    "unsealed = \"accept\" takes what anybody says, as if there were no key, but for votes",
                )
                .hint("take it out as soon as every host has the same key"),
            );
            true
        }
        Some(At { value: Unsealed::Accept, .. }) => true,
        Some(At { value: Unsealed::Refuse, .. }) | None => false,
    };
    let key = file.ok().flatten().map(|At { value, .. }| Key { file: value.0, accept_unsealed });
    (key, known)
}

/// Adverts over UDP are known by their seal alone.
pub(super) fn sealed(cluster: &Cluster, election: &Election, report: &mut Report<'_>) {
    let udp = election.transport_known && election.settings.transport == Transport::Udp;
    if udp && cluster.key_known && cluster.key.is_none() {
        report.error(
            &election.transport_place,
            Problem::new(
                "transport = \"udp\" needs key-file in [cluster]: such adverts may cross routers, so only \
                          a seal says who sent them",
            )
            .hint("`vipd keygen` prints a key: key-file = \"/etc/vipd/cluster.key\", the same on every host"),
        );
    }
}

/// A lease is only as good as the votes: each is known by its seal alone.
pub(super) fn quorum(cluster: &Cluster, election: &Election, report: &mut Report<'_>) {
    let (voters, witnesses) = (cluster.settings.voters().count(), cluster.settings.witnesses.len());
    let place = &election.quorum_place;
    if election.settings.quorum == Quorum::Etcd && cluster.key_known && cluster.key.is_none() {
        let why = "quorum = \"etcd\" needs key-file in [cluster]: without a seal anybody on the network could \
                   say that an owner has let go";
        let hint = "`vipd keygen` prints a key: key-file = \"/etc/vipd/cluster.key\", the same on every host";
        report.error(place, Problem::new(why).hint(hint));
    }
    let interval = election.settings.advert_interval;
    if election.settings.quorum != Quorum::None && election.interval_known && interval * 3 > LONGEST {
        let why = format!("quorum needs an advert-interval of {} at the most", show(LONGEST / 3));
        report.error(
            place,
            Problem::new(why).hint("a lease is three adverts, and no voter promises for longer"),
        );
    }
    match election.settings.quorum {
        Quorum::None | Quorum::Etcd if witnesses > 0 && election.quorum_known => report.warning(
            &cluster.place,
            Problem::new("witnesses have no effect without quorum = \"majority\" in [election]"),
        ),
        Quorum::None | Quorum::Etcd => {}
        Quorum::Majority => {
            if cluster.key_known && cluster.key.is_none() {
                let why = "quorum = \"majority\" needs key-file in [cluster]: without a seal anybody on the \
                           network could vote";
                let hint = "`vipd keygen` prints a key: key-file = \"/etc/vipd/cluster.key\", the same on every \
                            host";
                report.error(place, Problem::new(why).hint(hint));
            }
            if cluster.complete && voters > 0 && voters.is_multiple_of(2) {
                let why = format!(
                    "{voters} voters bear the loss of {}, no more than {} would: add a witness",
                    voters / 2 - 1,
                    voters - 1
                );
                let hint = "witnesses = [{ name = \"w1\", address = \"10.77.0.13\" }] in [cluster]: any small host \
                            that runs `vipd run` with this file";
                report.warning(place, Problem::new(why).hint(hint));
            }
        }
    }
}

fn count(nodes: usize, span: &Range<usize>, report: &mut Report<'_>) {
    if nodes == 0 {
        empty_list("nodes", span, report);
    }
    if nodes > MAX_NODES {
        report.error(
            span,
            Problem::new(format!("{nodes} nodes are too many: a cluster has at most {MAX_NODES}"))
                .hint("clusters are independent of each other: make several"),
        );
    }
}

/// A node as far as it could be read.
struct Draft {
    name: Option<At<String>>,
    addresses: Result<Vec<At<IpAddr>>, Reported>,
    priority: Option<At<NonZeroU8>>,
}

impl Draft {
    fn unreadable() -> Self {
        Self { name: None, addresses: Err(Reported), priority: None }
    }
}

fn draft(table: At<Table<NodeSpec>>, report: &mut Report<'_>) -> Draft {
    let At { value, span } = table;
    let NodeSpec { name, address, addresses, priority } = value.open(report);
    let name = name.need("name", "each node has a name: name = \"px1\"", &span, report).ok();
    let addresses = self::addresses(address, addresses, &span, report);
    let priority = priority.ok("priority", report).and_then(|At { value, span }| {
        let value = u8::try_from(value.0).ok().and_then(NonZeroU8::new)?;
        Some(At { value, span })
    });
    Draft { name: name.map(|At { value, span }| At { value: value.0, span }), addresses, priority }
}

/// Those who vote and never own.
fn witnesses(field: Field<List<Table<WitnessSpec>>>, report: &mut Report<'_>) -> Vec<Draft> {
    let Some(At { value, span }) = field.ok("witnesses", report) else { return vec![] };
    let tables = value.open("witnesses", report);
    if tables.len() > MAX_WITNESSES {
        report.error(
            &span,
            Problem::new(format!(
                "{} witnesses are too many: a cluster has at most {MAX_WITNESSES}",
                tables.len()
            ))
            .hint("one is enough for two nodes: the number of voters should be odd"),
        );
    }
    tables.into_iter().map(|t| t.map_or_else(Draft::unreadable, |t| witness(t, report))).collect()
}

fn witness(table: At<Table<WitnessSpec>>, report: &mut Report<'_>) -> Draft {
    let At { value, span } = table;
    let WitnessSpec { name, address, addresses } = value.open(report);
    let name = name.need("name", "each witness has a name: name = \"w1\"", &span, report).ok();
    let addresses = self::addresses(address, addresses, &span, report);
    Draft { name: name.map(|At { value, span }| At { value: value.0, span }), addresses, priority: None }
}

fn addresses(
    address: Field<NodeAddress>,
    addresses: Field<List<NodeAddress>>,
    span: &Range<usize>,
    report: &mut Report<'_>,
) -> Result<Vec<At<IpAddr>>, Reported> {
    let address = address.get("address", report);
    let addresses = addresses.get("addresses", report);
    match (address, addresses) {
        (Err(Reported), _) | (_, Err(Reported)) => Err(Reported),
        (Ok(Some(one)), Ok(None)) => Ok(vec![At { value: one.value.0, span: one.span }]),
        (Ok(None), Ok(Some(list))) => {
            let several = list.value.open("addresses", report);
            if several.is_empty() {
                empty_list("addresses", &list.span, report);
            }
            one_a_family(several, report)
        }
        (Ok(Some(_)), Ok(Some(list))) => {
            report.error(
                &list.span,
                Problem::new("a node has either address or addresses, not both")
                    .hint("addresses = [\"10.77.0.11\", \"fd77::11\"] holds one of each family"),
            );
            Err(Reported)
        }
        (Ok(None), Ok(None)) => {
            report.error(
                span,
                Problem::new("the node's address is missing")
                    .hint("address = \"10.77.0.11\", or addresses = [\"10.77.0.11\", \"fd77::11\"]"),
            );
            Err(Reported)
        }
    }
}

fn one_a_family(
    addresses: Vec<Option<At<NodeAddress>>>,
    report: &mut Report<'_>,
) -> Result<Vec<At<IpAddr>>, Reported> {
    let mut kept: Vec<At<IpAddr>> = Vec::new();
    let mut complete = !addresses.is_empty();
    for address in addresses {
        let Some(At { value: NodeAddress(value), span }) = address else {
            complete = false;
            continue;
        };
        let family = Family::of(value);
        if let Some(first) = kept.iter().find(|a| Family::of(a.value) == family) {
            let problem =
                Problem::new(format!("the node has two {family} addresses, {} and {value}", first.value))
                    .hint("one of each family: those on which the nodes reach each other");
            report.error(&span, problem);
            complete = false;
        } else {
            kept.push(At { value, span });
        }
    }
    if complete { Ok(kept) } else { Err(Reported) }
}

/// Holds the nodes against each other.
fn gather(
    mut drafts: Vec<Draft>,
    witnesses: Vec<Draft>,
    place: Range<usize>,
    report: &mut Report<'_>,
) -> Cluster {
    let proxies = drafts.len();
    drafts.extend(witnesses);
    // Names and addresses tell all voters apart.
    let mut names = Names::new("node", drafts.iter().map(|d| d.name.clone()).collect(), report);
    let complete = drafts.iter().all(|d| d.addresses.is_ok());
    let mut addresses: Vec<(usize, At<IpAddr>)> = Vec::new();
    let mut priorities: Vec<Option<At<NonZeroU8>>> = Vec::new();
    let mut nodes = Vec::new();
    for (position, draft) in drafts.into_iter().enumerate() {
        let own = draft.addresses.unwrap_or_default();
        for At { value, span } in &own {
            if let Some((other, first)) = addresses.iter().find(|(_, a)| a.value == *value) {
                let (other, line) = (names.show(*other), report.line(&first.span));
                report.error(
                    span,
                    Problem::new(format!("{value} is the address of node {other} already (line {line})"))
                        .hint("a node is found by its own address"),
                );
            }
        }
        if let Some(At { value, span }) = &draft.priority
            && let Some(first) = priorities.iter().flatten().find(|p| p.value == *value)
        {
            let line = report.line(&first.span);
            report.error(
                span,
                Problem::new(format!("priority {value} is taken already (line {line})"))
                    .hint("priorities say who comes first: no two alike"),
            );
        }
        nodes.push(Member {
            name: draft.name.map(|n| n.value).unwrap_or_default(),
            addresses: own.iter().map(|a| a.value).collect(),
            priority: draft.priority.as_ref().map(|p| p.value),
        });
        priorities.push(draft.priority);
        addresses.extend(own.into_iter().map(|a| (position, a)));
    }
    let witnesses = nodes.split_off(proxies);
    names.names.truncate(proxies);
    priorities.truncate(proxies);
    Cluster {
        settings: ClusterSettings { name: String::new(), nodes, witnesses, peer_port: DEFAULT_PEER_PORT },
        names,
        addresses,
        complete,
        priorities: priorities.into_iter().map(|p| p.map(|p| p.span)).collect(),
        place,
        key: None,
        key_known: true,
    }
}

impl Cluster {
    /// Those of the nodes that have no address of a family.
    pub(super) fn without(&self, family: Family, nodes: &[usize]) -> Vec<usize> {
        let none = |n: &&usize| self.settings.nodes.get(**n).is_none_or(|m| m.address(family).is_none());
        nodes.iter().filter(none).copied().collect()
    }

    /// Names of nodes for a sentence.
    pub(super) fn show(&self, nodes: &[usize]) -> String {
        let names = nodes.iter().filter_map(|n| self.settings.nodes.get(*n)).map(|n| quote(&n.name));
        names.collect::<Vec<_>>().join(", ")
    }
}
