//! Who the hosts are, from what the files say of addresses and priorities.

use super::super::draft::{self, Table, list, text};
use super::File;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// A proxy host.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    /// The file that is its own.
    pub(super) file: Option<usize>,
    /// Its address is made up.
    pub(super) invented: bool,
}

/// The hosts in the order of preference of the first instance.
pub(super) fn hosts(files: &[File]) -> Vec<Host> {
    let mut hosts = own(files);
    others(files, &mut hosts);
    while hosts.len() < 2 {
        hosts.push(Host { name: String::new(), addresses: vec![], file: None, invented: true });
    }
    let first = files.iter().find_map(|f| f.instances.first()).map(|i| i.name.clone());
    let place = rank(files, first.as_deref());
    hosts.sort_by_key(|h| place(h.file));
    // Names that the files give come first.
    let mut taken: Vec<String> = vec![];
    for host in hosts.iter_mut().filter(|h| !h.name.is_empty()) {
        host.name = draft::name(&host.name, &mut taken);
    }
    for (n, host) in hosts.iter_mut().enumerate() {
        if host.name.is_empty() {
            let free = (1..).map(|n| format!("px{n}")).find(|name| !taken.contains(name));
            host.name = draft::name(&free.unwrap_or_default(), &mut taken);
        }
        if host.addresses.is_empty() {
            host.invented = true;
            // Documentation's addresses: no host has them.
            let last = u8::try_from(n + 1).unwrap_or(u8::MAX);
            host.addresses.push(Ipv4Addr::new(192, 0, 2, last).into());
        }
    }
    hosts
}

/// A host for each file.
fn own(files: &[File]) -> Vec<Host> {
    let mut hosts: Vec<Host> = Vec::new();
    for (n, file) in files.iter().enumerate() {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in file.instances.iter().flat_map(|i| &i.own) {
            if addresses.iter().all(|a| a.is_ipv4() != address.is_ipv4()) {
                addresses.push(*address);
            }
        }
        let name = file.router_id.clone().unwrap_or_default();
        hosts.push(Host { name, addresses, file: Some(n), invented: false });
    }
    hosts
}

/// Hosts that only other hosts' files name.
fn others(files: &[File], hosts: &mut Vec<Host>) {
    let known: Vec<IpAddr> = hosts.iter().flat_map(|h| h.addresses.clone()).collect();
    let mut named: Vec<IpAddr> = Vec::new();
    for peer in files.iter().flat_map(|f| &f.instances).flat_map(|i| &i.peers) {
        if !known.contains(peer) && !named.contains(peer) {
            named.push(*peer);
        }
    }
    // A file that does not say its own address: it is the one that only the others' files name.
    let silent: Vec<usize> = (0..hosts.len()).filter(|n| hosts[*n].addresses.is_empty()).collect();
    if let ([silent], true) = (silent.as_slice(), files.len() > 1 && named.len() == 1) {
        hosts[*silent].addresses = named;
        return;
    }
    let (four, six): (Vec<IpAddr>, Vec<IpAddr>) = named.into_iter().partition(IpAddr::is_ipv4);
    for n in 0..four.len().max(six.len()) {
        let addresses = four.get(n).into_iter().chain(six.get(n)).copied().collect();
        hosts.push(Host { name: String::new(), addresses, file: None, invented: false });
    }
}

/// Where a host stands among those of an instance; the lower the better.
/// Hosts without a file come after a host that is master, and before one that is not.
fn rank(files: &[File], instance: Option<&str>) -> impl Fn(Option<usize>) -> (u8, u64) {
    let ranks: BTreeMap<usize, (u8, u64)> = files
        .iter()
        .enumerate()
        .map(|(n, file)| {
            let found = file.instances.iter().find(|i| Some(i.name.as_str()) == instance);
            let rank =
                found.map_or((3, 0), |i| (if i.master { 0 } else { 2 }, 255_u64.saturating_sub(i.priority)));
            (n, rank)
        })
        .collect();
    let all_known = ranks.len() > 1;
    move |file| match file.and_then(|n| ranks.get(&n)) {
        Some((_, priority)) if all_known => (0, *priority),
        Some(rank) => *rank,
        None => (1, 0),
    }
}

/// The names of the hosts, best first, for an instance.
pub(super) fn order(hosts: &[Host], files: &[File], instance: &str) -> Vec<String> {
    let place = rank(files, Some(instance));
    let mut hosts: Vec<&Host> = hosts.iter().collect();
    hosts.sort_by_key(|h| place(h.file));
    hosts.into_iter().map(|h| h.name.clone()).collect()
}

/// The priority of each host, if every host has a file that says the same one
/// for all instances, and no two are alike.
fn priorities(hosts: &[Host], files: &[File]) -> Option<Vec<u64>> {
    let mut all = Vec::new();
    for host in hosts {
        let instances = &files.get(host.file?)?.instances;
        let first = instances.first()?.priority;
        if !(1..=254).contains(&first)
            || instances.iter().any(|i| i.priority != first)
            || all.contains(&first)
        {
            return None;
        }
        all.push(first);
    }
    Some(all)
}

/// `[cluster]`.
pub(super) fn cluster(hosts: &[Host], files: &[File]) -> Table {
    let mut table = Table::new("[cluster]", vec![]);
    table.text("name", "imported");
    let priorities = priorities(hosts, files);
    let entry = |(n, host): (usize, &Host)| {
        let mut keys = vec![format!("name = {}", text(&host.name))];
        let shown: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
        keys.push(match shown.as_slice() {
            [one] => format!("address = {}", text(one)),
            several => format!("addresses = {}", list(several.iter().map(String::as_str))),
        });
        if let Some(priority) = priorities.as_ref().and_then(|p| p.get(n)) {
            keys.push(format!("priority = {priority}"));
        }
        format!("{{ {} }}", keys.join(", "))
    };
    let entries: Vec<String> = hosts.iter().enumerate().map(entry).collect();
    table.key("nodes", draft::lines(&entries));
    table.advise("name: a name of its own for each cluster in the network.");
    let invented: Vec<&str> = hosts.iter().filter(|h| h.invented).map(|h| h.name.as_str()).collect();
    if !invented.is_empty() {
        table.advise(format!(
            "TO DO: the files do not say the own address of {}: 192.0.2.x stands for it. Put in the address on which the hosts reach each other (import the keepalived.conf of every host at once to have the order right too).",
            invented.join(" and ")
        ));
    } else if files.len() < hosts.len() && !files.is_empty() {
        table.advise("The order of nodes is the preference. It is guessed from one host's file: import the keepalived.conf of every host at once to be sure.");
    }
    table
}
