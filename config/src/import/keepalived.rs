//! keepalived.conf: virtual routers to VIP groups.

mod hosts;
mod instance;
mod lvs;
mod tree;

use super::draft::{self, Table, list};
use super::haproxy::Known;
use super::ledger::{Ledger, LineId, SectionId};
use hosts::Host;
use instance::{Hook, Instance};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use tree::Node;

/// What the files became.
#[derive(Debug, Default)]
pub(super) struct Floating {
    pub(super) cluster: Table,
    pub(super) election: Table,
    pub(super) vips: Vec<Table>,
    pub(super) notify: Vec<Table>,
    /// What those run, by keyword, command and user.
    pub(super) hooks: BTreeSet<(String, Vec<String>, Option<String>)>,
    /// LVS services, as listeners and pools.
    pub(super) listeners: Vec<Table>,
    pub(super) pools: Vec<Table>,
}

/// One host's file.
#[derive(Debug, Default)]
pub(super) struct File {
    router_id: Option<String>,
    version: Option<u64>,
    /// In milliseconds.
    startup_delay: Option<u64>,
    /// Who runs commands that name nobody.
    script_user: Option<String>,
    instances: Vec<Instance>,
    /// Groups that move together, by the names of their instances.
    together: Vec<(Vec<String>, LineId)>,
    scripts: BTreeMap<String, String>,
    script_nodes: Vec<Node>,
    services: Vec<Node>,
}

/// Whether this is a file of keepalived's.
pub(super) fn is_ours(text: &str) -> bool {
    let words = [
        "vrrp_instance",
        "global_defs",
        "vrrp_script",
        "virtual_server",
        "vrrp_sync_group",
        "static_ipaddress",
    ];
    text.lines()
        .any(|l| l.split([' ', '\t', '{']).find(|w| !w.is_empty()).is_some_and(|w| words.contains(&w)))
}

/// Reads the files, one a host.
pub(super) fn read(texts: &[(Arc<str>, &str)], ledger: &mut Ledger) -> (Floating, Known) {
    let files: Vec<File> =
        texts.iter().map(|(name, text)| file(&tree::parse(name, text, ledger), ledger)).collect();
    let hosts = hosts::hosts(&files);
    let mut floating = Floating { cluster: hosts::cluster(&hosts, &files), ..Floating::default() };
    let groups = groups(&files, ledger);
    floating.election = election(&files, &groups, ledger);
    let mut names = Vec::new();
    for group in &groups {
        vip(group, &hosts, &files, &mut names, &mut floating, ledger);
    }
    scripts(&files, ledger);
    let vips: Vec<IpAddr> =
        groups.iter().flat_map(|g| &g.addresses).filter_map(|a| a.split('/').next()?.parse().ok()).collect();
    for node in files.iter().take(1).flat_map(|f| &f.services) {
        lvs::service(node, &vips, &mut floating, ledger);
    }
    for node in files.iter().skip(1).flat_map(|f| &f.services) {
        node.carry(ledger);
    }
    let nodes = hosts.iter().flat_map(|h| h.addresses.clone()).collect();
    (floating, Known { vips, nodes })
}

fn file(nodes: &[Node], ledger: &mut Ledger) -> File {
    let mut file = File::default();
    for node in nodes {
        match node.word(0) {
            "global_defs" => globals(node, &mut file, ledger),
            "vrrp_instance" => file.instances.push(instance::read(node, ledger)),
            "vrrp_sync_group" => {
                let names = node.block("group").flat_map(|c| c.words.clone()).collect();
                file.together.push((names, node.line));
                for child in &node.children {
                    match child.word(0) {
                        "group" => child.carry(ledger),
                        w if w.starts_with("notify") => ledger.lose(
                            child.line,
                            "name it in the vrrp_instance: a [[notify]] command hears of each VIP",
                        ),
                        _ => child.lose("it has no counterpart", ledger),
                    }
                }
            }
            "vrrp_script" => {
                let script = node.children.iter().find(|c| c.word(0) == "script");
                let command = script.map(|s| s.words.iter().skip(1).cloned().collect::<Vec<_>>().join(" "));
                file.scripts.insert(node.word(1).to_owned(), command.unwrap_or_default());
                file.script_nodes.push(node.clone());
            }
            "virtual_server" => file.services.push(node.clone()),
            "static_ipaddress" | "static_routes" | "static_rules" => {
                node.lose("addresses and routes that do not float are the network's own configuration (networkd, ifupdown)", ledger);
            }
            "virtual_server_group" => node.lose("write each address and port as a [[listen]]", ledger),
            "include" => node.lose("name the included file on the command line too", ledger),
            w if w.starts_with('@') => node.lose(
                "conditions on the host's name are not followed: import each host's file as it is there",
                ledger,
            ),
            _ => node.lose("it has no counterpart", ledger),
        }
    }
    // Wherever in the file it stands.
    for hook in file.instances.iter_mut().flat_map(|i| &mut i.hooks) {
        hook.user = hook.user.take().or_else(|| file.script_user.clone());
    }
    file
}

fn globals(node: &Node, file: &mut File, ledger: &mut Ledger) {
    ledger.carry(node.line);
    for child in &node.children {
        match child.word(0) {
            "router_id" => {
                file.router_id = Some(child.word(1).to_owned());
                ledger.carry(child.line);
            }
            "vrrp_version" => {
                file.version = child.word(1).parse().ok();
                ledger.carry(child.line);
            }
            "vrrp_startup_delay" => {
                file.startup_delay = instance::seconds(child.word(1));
                ledger.carry(child.line);
            }
            "script_user" => {
                file.script_user = Some(child.word(1).to_owned());
                ledger.remark(child.line, "it stands as user in each [[notify]]");
            }
            "enable_script_security" | "max_auto_priority" | "vrrp_rt_priority" | "vrrp_priority" => {
                ledger.remark(child.line, "not needed: vipd's unit says it");
            }
            w if w.starts_with("vrrp_garp") || w == "vrrp_skip_check_adv_addr" || w == "vrrp_strict" => {
                ledger
                    .remark(child.line, "not needed: announcements are repeated, and the VIP always answers");
            }
            "notification_email"
            | "notification_email_from"
            | "smtp_server"
            | "smtp_connect_timeout"
            | "smtp_alert" => {
                child.lose("a [[notify]] command can send mail", ledger);
            }
            other => child.lose(&format!("{other} has no counterpart"), ledger),
        }
    }
}

/// Instances that become one group.
#[derive(Clone, Debug)]
struct Group {
    name: String,
    members: Vec<Instance>,
    addresses: Vec<String>,
    sections: Vec<SectionId>,
}

/// Puts instances together: the same one of several hosts, and those of a sync group.
fn groups(files: &[File], ledger: &mut Ledger) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for instance in files.iter().flat_map(|f| &f.instances) {
        let same = |g: &&mut Group| {
            g.members.iter().any(|m| {
                m.name == instance.name
                    || (m.vrid.is_some() && m.vrid == instance.vrid && m.interface == instance.interface)
            })
        };
        match groups.iter_mut().find(same) {
            Some(group) => {
                for address in &instance.addresses {
                    if !group.addresses.contains(address) {
                        if group.members.iter().all(|m| m.name == instance.name) {
                            ledger.note(instance.line, format!("{address} is not in the other host's file"));
                        }
                        group.addresses.push(address.clone());
                    }
                }
                group.sections.push(instance.section);
                group.members.push(instance.clone());
            }
            None => groups.push(Group {
                name: instance.name.clone(),
                addresses: instance.addresses.clone(),
                sections: vec![instance.section],
                members: vec![instance.clone()],
            }),
        }
    }
    for (names, line) in files.iter().flat_map(|f| &f.together) {
        together(names, *line, &mut groups, ledger);
    }
    groups
}

/// Merges the groups of a sync group if they share an interface.
fn together(names: &[String], line: LineId, groups: &mut Vec<Group>, ledger: &mut Ledger) {
    let (mut wanted, rest): (Vec<Group>, Vec<Group>) =
        groups.drain(..).partition(|g| g.members.iter().any(|m| names.contains(&m.name)));
    *groups = rest;
    let interfaces: BTreeSet<_> =
        wanted.iter().flat_map(|g| &g.members).map(|m| m.interface.clone()).collect();
    if interfaces.len() > 1 {
        ledger.lose(
            line,
            "its instances are on several interfaces, and a [[vip]] has one: these groups move apart",
        );
        groups.extend(wanted);
        return;
    }
    ledger.carry(line);
    if wanted.len() < 2 {
        groups.extend(wanted);
        return;
    }
    let mut first = wanted.remove(0);
    let vrids: BTreeSet<_> =
        first.members.iter().chain(wanted.iter().flat_map(|g| &g.members)).filter_map(|m| m.vrid).collect();
    for group in wanted {
        for member in &group.members {
            ledger.note(member.line, format!("one group with {}: they move together", first.name));
        }
        first.addresses.extend(group.addresses);
        first.sections.extend(group.sections);
        first.members.extend(group.members);
    }
    if vrids.len() > 1 {
        ledger.note(line, "one group has one virtual_router_id: the first counts. Hosts that still run keepalived cannot join this one: change all at once");
    }
    groups.push(first);
}

fn election(files: &[File], groups: &[Group], ledger: &mut Ledger) -> Table {
    let mut table = Table::new("[election]", vec![]);
    let all = || groups.iter().flat_map(|g| &g.members);
    let Some(first) = all().next() else { return table };
    let six = groups.iter().flat_map(|g| &g.addresses).any(|a| a.contains(':'));
    let said = files.iter().find_map(|f| f.version).or(first.version);
    let fine = all().any(|m| m.advert % 1000 != 0);
    let version = if six || fine { 3 } else { said.unwrap_or(2) };
    table.number("vrrp-version", version);
    table.text("transport", if first.unicast { "unicast" } else { "multicast" });
    let advert = all().map(|m| m.advert).min().unwrap_or(1000).clamp(10, 40_950) / 10 * 10;
    table.duration("advert-interval", advert);
    let mut odd = |differs: &dyn Fn(&Instance) -> bool, what: &str| {
        for member in all().filter(|m| differs(m)) {
            ledger.note(
                member.line,
                format!("{what} is one for the whole cluster: that of {} counts", first.name),
            );
        }
    };
    odd(&|m| m.unicast != first.unicast, "transport");
    odd(&|m| m.advert != advert, "advert-interval");
    odd(&|m| m.nopreempt != first.nopreempt && files.len() == 1, "preempt");
    let preempt = all().all(|m| !m.nopreempt);
    table.key("preempt", preempt.to_string());
    if let Some((ms, _)) = all().find_map(|m| m.preempt_delay).filter(|_| preempt) {
        table.duration("preempt-delay", ms.min(86_400_000));
    }
    if let Some(ms) = files.iter().filter_map(|f| f.startup_delay).max() {
        table.duration("start-delay", ms.min(600_000));
    }
    if version == 2 {
        table.advise("As keepalived spoke it, so that hosts can join one by one. When every host runs vipd: vrrp-version = 3 and advert-interval = \"250ms\" fail over in under a second.");
    }
    if six && said.is_none_or(|v| v != 3) {
        table.advise(
            "IPv6 needs VRRP version 3; the IPv4 instances spoke version 2, so change all hosts at once.",
        );
    }
    table
}

fn vip(
    group: &Group,
    hosts: &[Host],
    files: &[File],
    names: &mut Vec<String>,
    floating: &mut Floating,
    ledger: &mut Ledger,
) {
    let Some(first) = group.members.first() else { return };
    if group.addresses.is_empty() {
        for section in &group.sections {
            ledger.lose_section(*section, "it has no address");
        }
        return;
    }
    let mut table = Table::new("[[vip]]", group.sections.clone());
    let name = draft::name(&group.name, names);
    table.text("name", &name);
    table.key("addresses", list(group.addresses.iter().map(String::as_str)));
    if let Some(interface) = &first.interface {
        table.text("interface", interface);
    }
    if let Some(vrid) = first.vrid.filter(|v| (1..=255).contains(v)) {
        table.number("vrid", vrid);
    }
    let order = hosts::order(hosts, files, &first.name);
    if order.iter().ne(hosts.iter().map(|h| &h.name)) {
        table.key("nodes", list(order.iter().map(String::as_str)));
    }
    if group.addresses.iter().any(|a| a.ends_with("/32") || a.ends_with("/128")) {
        table.advise("keepalived gives an address without a prefix length the whole one (/32); vipd does the same, and the subnet's own length is the usual one: \"10.77.0.100/24\".");
    }
    let known: BTreeMap<&str, &str> =
        files.iter().flat_map(|f| &f.scripts).map(|(n, c)| (n.as_str(), c.as_str())).collect();
    for (script, line) in group.members.iter().flat_map(|m| &m.scripts) {
        match known.get(script.as_str()) {
            Some(command) if watches_haproxy(command) => {
                ledger.remark(*line, "not needed: the balancer is part of vipd; track = [...] steps back when a pool has no usable server");
            }
            Some(_) | None => ledger.lose(*line, "vipd checks servers itself: track = [\"LISTENER\"] steps back when its pool has no usable server; [pool.check] kind = \"exec\" runs a command"),
        }
    }
    for hook in group.members.iter().flat_map(|m| &m.hooks) {
        if let Some(table) = notify(hook, &name, floating.notify.len(), ledger) {
            let same = (hook.keyword.clone(), hook.command.clone(), hook.user.clone());
            if floating.hooks.insert(same) {
                floating.notify.push(table);
            } else {
                // Every host has the same file, and each hook hears of every VIP.
                ledger.note(hook.line, "one [[notify]] stands for all lines like it");
            }
        }
    }
    floating.vips.push(table);
}

/// A command on a change of state.
fn notify(hook: &Hook, vip: &str, number: usize, ledger: &mut Ledger) -> Option<Table> {
    if !hook.command.first().is_some_and(|c| c.starts_with('/')) {
        ledger.lose(hook.line, "vipd runs a program by its absolute path");
        return None;
    }
    let on: &[&str] = match hook.keyword.as_str() {
        "notify_master" => &["active"],
        "notify_backup" => &["backup"],
        "notify_fault" => &["fault"],
        "notify_stop" => &["init"],
        "notify" => &["active", "backup", "fault"],
        _ => {
            ledger.lose(hook.line, "vipd has no such event");
            return None;
        }
    };
    let mut table = Table::new("[[notify]]", vec![]);
    table.text("name", &format!("{vip}-{}", number + 1));
    table.key("command", list(hook.command.iter().map(String::as_str)));
    table.key("on", list(on.iter().copied()));
    if let Some(user) = &hook.user {
        table.text("user", user);
        ledger.note(hook.line, "systemd's unit must let vipd become that user: docs/install.md, The service");
    }
    let told = if hook.keyword == "notify" {
        "it is not given GROUP, NAME and STATE as arguments, but VIPD_VIP and VIPD_STATE in its environment"
    } else {
        "it hears of every VIP: VIPD_VIP in its environment says which"
    };
    ledger.remark(hook.line, told);
    if hook.user.is_none() {
        ledger.note(hook.line, "it runs as vipd's own user unless user says otherwise");
    }
    Some(table)
}

/// Whether a script only looks whether HAProxy runs.
fn watches_haproxy(command: &str) -> bool {
    let looks = ["killall -0", "kill -0", "pidof", "pgrep", "systemctl", "service", "check"];
    command.contains("haproxy") && looks.iter().any(|l| command.contains(l))
}

fn scripts(files: &[File], ledger: &mut Ledger) {
    for node in files.iter().flat_map(|f| &f.script_nodes) {
        let watches = files.iter().any(|f| f.scripts.get(node.word(1)).is_some_and(|c| watches_haproxy(c)));
        if watches {
            node.carry(ledger);
            ledger.note(node.line, "not needed: the balancer is part of vipd");
        } else {
            node.lose("vipd checks servers itself; [pool.check] kind = \"exec\" runs a command", ledger);
        }
    }
}
