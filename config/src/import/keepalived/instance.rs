//! `vrrp_instance`.

use super::super::ledger::{Ledger, LineId, SectionId};
use super::tree::Node;
use std::net::IpAddr;

/// A virtual router as one host's file tells it.
#[derive(Clone, Debug, Default)]
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) section: SectionId,
    pub(super) line: LineId,
    pub(super) master: bool,
    /// keepalived's default.
    pub(super) priority: u64,
    pub(super) interface: Option<String>,
    pub(super) vrid: Option<u64>,
    pub(super) version: Option<u64>,
    /// Milliseconds.
    pub(super) advert: u64,
    pub(super) nopreempt: bool,
    /// Milliseconds.
    pub(super) preempt_delay: Option<(u64, LineId)>,
    pub(super) own: Vec<IpAddr>,
    pub(super) peers: Vec<IpAddr>,
    pub(super) unicast: bool,
    /// With prefix length.
    pub(super) addresses: Vec<String>,
    /// Where an address of another interface stands.
    pub(super) scripts: Vec<(String, LineId)>,
    pub(super) hooks: Vec<Hook>,
}

/// A command on a change of state.
#[derive(Clone, Debug)]
pub(super) struct Hook {
    pub(super) keyword: String,
    pub(super) command: Vec<String>,
    pub(super) user: Option<String>,
    pub(super) line: LineId,
}

/// Seconds with a fraction, as milliseconds.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    whole.checked_mul(1000)?.checked_add(digits.parse().ok()?)
}

/// Reads a block.
pub(super) fn read(node: &Node, ledger: &mut Ledger) -> Instance {
    let mut instance = Instance {
        name: node.word(1).to_owned(),
        section: node.section,
        line: node.line,
        priority: 100,
        advert: 1000,
        ..Instance::default()
    };
    ledger.carry(node.line);
    for child in &node.children {
        line(&mut instance, child, ledger);
    }
    instance
}

fn line(instance: &mut Instance, child: &Node, ledger: &mut Ledger) {
    let (line, value) = (child.line, child.word(1));
    match child.word(0) {
        "state" => {
            instance.master = value == "MASTER";
            ledger.remark(line, "no node begins as owner: the order of nodes says who comes first");
        }
        "priority" => {
            instance.priority = value.parse().unwrap_or(100);
            ledger.carry(line);
        }
        "interface" => {
            instance.interface = Some(value.to_owned());
            ledger.carry(line);
        }
        "virtual_router_id" => {
            instance.vrid = value.parse().ok();
            ledger.carry(line);
        }
        "version" => {
            instance.version = value.parse().ok();
            ledger.carry(line);
        }
        "advert_int" => {
            instance.advert = seconds(value).unwrap_or(1000);
            ledger.carry(line);
        }
        "nopreempt" => {
            instance.nopreempt = true;
            ledger.carry(line);
        }
        "preempt" => ledger.carry(line),
        "preempt_delay" => {
            instance.preempt_delay = seconds(value).map(|ms| (ms, line));
            ledger.carry(line);
        }
        "unicast_src_ip" | "mcast_src_ip" => {
            instance.own.extend(value.parse::<IpAddr>());
            ledger.carry(line);
        }
        "unicast_peer" => {
            instance.unicast = true;
            ledger.carry(line);
            for peer in &child.children {
                match peer.word(0).parse() {
                    Ok(address) => {
                        instance.peers.push(address);
                        ledger.carry(peer.line);
                    }
                    Err(_) => ledger.lose(peer.line, "it is no address"),
                }
            }
        }
        "virtual_ipaddress" | "virtual_ipaddress_excluded" => addresses(instance, child, ledger),
        "authentication" => child.lose(
            "vipd sends no plain-text password (RFC 3768 took it out of VRRP) and takes no adverts with one: take it out of keepalived too before hosts join",
            ledger,
        ),
        "track_script" => {
            ledger.carry(line);
            instance.scripts.extend(child.children.iter().map(|c| (c.word(0).to_owned(), c.line)));
        }
        "track_interface" => {
            ledger.carry(line);
            for tracked in &child.children {
                if instance.interface.as_deref() == Some(tracked.word(0)) {
                    ledger.remark(tracked.line, "the interface of a VIP is watched anyway");
                } else {
                    ledger.lose(tracked.line, "only the interface of the VIP itself is watched");
                }
            }
        }
        "track_process" | "track_file" | "track_bfd" => {
            child.lose("a VIP tracks listeners: track = [\"write\"] steps back when its pool has no usable server", ledger);
        }
        "notify_master" | "notify_backup" | "notify_fault" | "notify" | "notify_stop" | "notify_deleted"
        | "notify_master_rx_lower_pri" => {
            let command = child.word(1).split_whitespace().map(str::to_owned).collect();
            let user = child.words.get(2).cloned();
            instance.hooks.push(Hook { keyword: child.word(0).to_owned(), command, user, line });
        }
        other => rest(other, child, ledger),
    }
}

/// What has no key of its own.
fn rest(word: &str, child: &Node, ledger: &mut Ledger) {
    let line = child.line;
    match word {
        "garp_master_delay"
        | "garp_master_repeat"
        | "garp_master_refresh"
        | "garp_master_refresh_repeat"
        | "garp_lower_prio_delay"
        | "garp_lower_prio_repeat"
        | "garp_interval"
        | "gna_interval"
        | "garp_extra_if" => {
            ledger.remark(
                line,
                "a new owner announces its addresses several times, and again and again while it is owner",
            );
        }
        "dont_track_primary"
        | "skip_check_adv_addr"
        | "strict_mode"
        | "checksum_compatibility"
        | "debug"
        | "accept"
        | "promote_secondaries"
        | "native_ipv6"
        | "kernel_rx_buf_size"
        | "check_unicast_src" => {
            ledger.remark(line, "not needed");
        }
        "lvs_sync_daemon_interface" => ledger.lose(line, "vipd's balancer needs no LVS"),
        "use_vmac" | "vmac_xmit_base" | "use_ipvlan" | "vmac_addr" => {
            ledger.lose(line, "vipd announces addresses with the host's own hardware address");
        }
        "no_accept" => ledger.lose(line, "a VIP of vipd answers"),
        "smtp_alert" | "no_smtp_alert" => ledger.lose(line, "a [[notify]] command can send mail"),
        "virtual_routes" | "virtual_rules" => {
            child.lose("vipd moves addresses, not routes: a [[notify]] command can", ledger)
        }
        "unicast_ttl" | "unicast_fault_no_peers" | "ttl" | "min_ttl" | "mcast_dst_ip" => {
            ledger
                .lose(line, "vipd sends with TTL 255 to the nodes or to 224.0.0.18, and takes TTL 255 only");
        }
        other => child.lose(&format!("{other} has no counterpart"), ledger),
    }
}

/// The lines of `virtual_ipaddress`.
fn addresses(instance: &mut Instance, block: &Node, ledger: &mut Ledger) {
    ledger.carry(block.line);
    for child in &block.children {
        // In a block on one line several may stand side by side.
        let several =
            child.words.iter().all(|w| w.split('/').next().is_some_and(|a| a.parse::<IpAddr>().is_ok()));
        let wanted = if several { child.words.as_slice() } else { &child.words[..1] };
        for word in wanted {
            let (address, prefix) = word.split_once('/').map_or((word.as_str(), None), |(a, p)| (a, Some(p)));
            let Ok(ip) = address.parse::<IpAddr>() else {
                ledger.lose(child.line, "it is no address");
                continue;
            };
            let host = if ip.is_ipv4() { "32" } else { "128" };
            let cidr = format!("{ip}/{}", prefix.unwrap_or(host));
            ledger.carry(child.line);
            if !instance.addresses.contains(&cidr) {
                instance.addresses.push(cidr);
            }
        }
        options(instance, child, if several { child.words.len() } else { 1 }, ledger);
    }
}

fn options(instance: &Instance, child: &Node, from: usize, ledger: &mut Ledger) {
    let mut words = child.words.iter().skip(from).map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "dev" => {
                let dev = words.next().unwrap_or_default();
                if instance.interface.as_deref().is_some_and(|i| i != dev) {
                    ledger.note(
                        child.line,
                        format!("dev {dev}: a group of vipd has one interface, and this is another"),
                    );
                }
            }
            "label" | "scope" | "brd" | "broadcast" | "peer" | "metric" => {
                let value = words.next().unwrap_or_default();
                if word == "peer" {
                    ledger.note(child.line, format!("peer {value} has no counterpart"));
                }
            }
            "preferred_lft" | "home" | "-nodad" | "mngtmpaddr" | "noprefixroute" | "autojoin" => {
                if word == "preferred_lft" {
                    words.next();
                }
            }
            other => ledger.note(child.line, format!("{other} has no counterpart")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_of_seconds() {
        let read = ["1", "0.5", "0.25", ".1", "2.0005", "x", ""].map(seconds);
        assert_eq!(read, [Some(1000), Some(500), Some(250), Some(100), Some(2000), None, Some(0)]);
    }
}
