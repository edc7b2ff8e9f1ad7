//! `virtual_server`: LVS services become listeners with pools.

use super::super::draft::{self, Table, list, text};
use super::super::ledger::Ledger;
use super::Floating;
use super::tree::Node;
use std::net::IpAddr;

/// keepalived's checkers ask this often unless `delay_loop` says otherwise.
const DELAY: u64 = 60;

/// Reads a service.
pub(super) fn service(node: &Node, vips: &[IpAddr], floating: &mut Floating, ledger: &mut Ledger) {
    let (Ok(address), Ok(port)) = (node.word(1).parse::<IpAddr>(), node.word(2).parse::<u16>()) else {
        node.lose(
            "write each address and port as a [[listen]]: marks and groups have no counterpart",
            ledger,
        );
        return;
    };
    if node.children.iter().any(|c| c.word(0) == "protocol" && c.word(1) != "TCP") {
        node.lose("vipd relays TCP", ledger);
        return;
    }
    let place = if address.is_ipv6() { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    let name = draft::name(&format!("lvs-{port}-{}", floating.listeners.len() + 1), &mut vec![]);
    let mut pool = Table::new("[[pool]]", vec![node.section]);
    pool.text("name", &name);
    let mut interval = DELAY;
    let mut servers: Vec<String> = Vec::new();
    let mut check: Option<Table> = None;
    ledger.remark(node.line, "vipd relays instead of routing: servers see the proxy's address, and need no VIP on lo; proxy-protocol tells them the client's");
    for child in &node.children {
        match child.word(0) {
            "delay_loop" => {
                interval = child.word(1).parse().unwrap_or(DELAY);
                ledger.carry(child.line);
            }
            "lb_algo" | "lvs_sched" => {
                let balance = match child.word(1) {
                    "lc" | "wlc" | "sed" | "nq" | "lblc" | "lblcr" => "least-connections",
                    "sh" | "mh" | "dh" => "source-hash",
                    _ => "round-robin",
                };
                pool.text("balance", balance);
                ledger.carry(child.line);
            }
            "persistence_timeout" => {
                ledger.lose(child.line, "balance = \"source-hash\" keeps a client with its server")
            }
            "lb_kind" | "lvs_method" | "protocol" => ledger.carry(child.line),
            "real_server" | "sorry_server" => {
                let backup = child.word(0) == "sorry_server";
                if let Some(entry) = real(child, backup, vips, ledger) {
                    servers.push(entry);
                    check = check.or_else(|| checker(child, ledger));
                }
            }
            other => child.lose(&format!("{other} has no counterpart"), ledger),
        }
    }
    if servers.is_empty() {
        ledger.lose_section(node.section, "it has no server that could be carried over");
        return;
    }
    pool.key("servers", draft::lines(&servers));
    let mut listener = Table::new("[[listen]]", vec![node.section]);
    listener.text("name", &name);
    listener.text("bind", &place);
    listener.text("pool", &name);
    floating.listeners.push(listener);
    floating.pools.push(pool);
    if let Some(mut check) = check {
        check.duration("interval", interval.clamp(1, 3600) * 1000);
        floating.pools.push(check);
    }
}

/// A server as a table in one line.
fn real(node: &Node, backup: bool, vips: &[IpAddr], ledger: &mut Ledger) -> Option<String> {
    let (Ok(address), Ok(port)) = (node.word(1).parse::<IpAddr>(), node.word(2).parse::<u16>()) else {
        node.lose("it is no address with a port", ledger);
        return None;
    };
    if vips.contains(&address) {
        node.lose("it is on a VIP, which leads to whichever node owns it", ledger);
        return None;
    }
    ledger.carry(node.line);
    let address = if address.is_ipv6() { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    let mut keys = vec![format!("address = {}", text(&address))];
    for child in &node.children {
        match child.word(0) {
            "weight" => {
                let weight: u64 = child.word(1).parse().unwrap_or(1);
                keys.push(format!("weight = {}", weight.min(256)));
                ledger.carry(child.line);
            }
            "uthreshold" => {
                keys.push(format!("max-connections = {}", child.word(1).parse::<u64>().unwrap_or(1).max(1)));
                ledger.carry(child.line);
            }
            "TCP_CHECK" | "HTTP_GET" | "SSL_GET" | "MISC_CHECK" => {}
            w if w.starts_with("notify") => {
                ledger.lose(child.line, "a [[notify]] command hears of servers too")
            }
            "inhibit_on_failure" => {
                ledger.remark(child.line, "sessions of a server that is down go on: on-down = \"drain\"")
            }
            other => child.lose(&format!("{other} has no counterpart"), ledger),
        }
    }
    if backup {
        keys.push("backup = true".into());
    }
    Some(format!("{{ {} }}", keys.join(", ")))
}

/// The check of a server, which becomes that of its pool; those of the others count as the same.
fn checker(server: &Node, ledger: &mut Ledger) -> Option<Table> {
    let mut table = Table::new("[pool.check]", vec![]);
    for child in &server.children {
        match child.word(0) {
            "TCP_CHECK" => table.text("kind", "tcp"),
            "HTTP_GET" | "SSL_GET" => {
                table.text("kind", "http");
                let url = child.children.iter().find(|c| c.word(0) == "url");
                let say = |key: &str| url.and_then(|u| u.children.iter().find(|c| c.word(0) == key));
                if let Some(path) = say("path") {
                    table.text("path", path.word(1));
                }
                if let Some(status) = say("status_code").filter(|s| s.word(1).parse::<u16>().is_ok()) {
                    table.key("status", status.word(1));
                }
                if child.word(0) == "SSL_GET" {
                    table.yes("tls");
                    table.key("tls-verify", "false");
                }
            }
            "MISC_CHECK" => {
                let path =
                    child.children.iter().find(|c| c.word(0) == "misc_path").map(|c| c.words[1..].join(" "));
                let command: Vec<String> = path?.split_whitespace().map(str::to_owned).collect();
                if !command.first()?.starts_with('/') {
                    child.lose("vipd runs a program by its absolute path", ledger);
                    return None;
                }
                table.text("kind", "exec");
                table.key("command", list(command.iter().map(String::as_str)));
                ledger.note(
                    child.line,
                    "it finds the server in VIPD_ADDRESS and VIPD_PORT, and runs as vipd's own user",
                );
            }
            _ => continue,
        }
        child.carry(ledger);
        return Some(table);
    }
    None
}
