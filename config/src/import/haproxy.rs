//! haproxy.cfg: sections, and what becomes of them.

mod acl;
mod bind;
mod check;
mod proxy;
mod server;
mod words;
mod write;

use super::draft::Table;
use super::ledger::{Ledger, LineId, SectionId};
use proxy::{Proxy, Read, Side};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
pub(super) use write::default_status;

/// What the balancer's files became.
#[derive(Debug, Default)]
pub(super) struct Balanced {
    pub(super) listeners: Vec<Table>,
    /// With the checks behind them.
    pub(super) pools: Vec<Table>,
    pub(super) status: Option<Table>,
}

/// Addresses that are not a server's.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) vips: Vec<IpAddr>,
    pub(super) nodes: Vec<IpAddr>,
}

/// The words that begin a section.
const SECTIONS: [&str; 18] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "resolvers",
    "peers",
    "userlist",
    "mailers",
    "program",
    "cache",
    "http-errors",
    "ring",
    "log-forward",
    "fcgi-app",
    "crt-store",
    "traces",
    "acme",
];

/// Whether this is a file of HAProxy's.
pub(super) fn is_ours(text: &str) -> bool {
    text.lines().any(|l| {
        let mut words = l.split_whitespace();
        let first = words.next().unwrap_or_default();
        ["frontend", "backend", "listen", "defaults", "global"].contains(&first) && !l.contains(['{', ';'])
    })
}

/// A section as it stands in a file.
#[derive(Debug)]
struct Raw {
    kind: String,
    name: String,
    from: Option<String>,
    id: SectionId,
    heading: LineId,
    lines: Vec<Read>,
}

/// Reads the files, all as one configuration.
pub(super) fn read(files: &[(Arc<str>, &str)], known: &Known, ledger: &mut Ledger) -> Balanced {
    let mut sections = Vec::new();
    for (name, text) in files {
        split(name, text, &mut sections, ledger);
    }
    let mut maxconn = None;
    let mut last_defaults: Vec<Read> = Vec::new();
    let mut named: BTreeMap<String, Vec<Read>> = BTreeMap::new();
    let mut proxies: Vec<Proxy> = Vec::new();
    for raw in &sections {
        let inherited = raw.from.as_ref().and_then(|from| named.get(from)).unwrap_or(&last_defaults).clone();
        let side = match raw.kind.as_str() {
            "frontend" => Side::Frontend,
            "backend" => Side::Backend,
            "listen" => Side::Listen,
            "defaults" => {
                ledger.carry(raw.heading);
                // One that names another stands on it.
                let base = if raw.from.is_some() { inherited } else { vec![] };
                last_defaults = base.into_iter().chain(raw.lines.iter().cloned()).collect();
                named.insert(raw.name.clone(), last_defaults.clone());
                continue;
            }
            "global" => {
                maxconn = global(raw, ledger).or(maxconn);
                continue;
            }
            _ => {
                elsewhere(raw, ledger);
                continue;
            }
        };
        proxies.push(Proxy::read(side, &raw.name, (raw.id, raw.heading), (&inherited, &raw.lines), ledger));
    }
    write::tables(proxies, maxconn, known, ledger)
}

/// Splits a text into sections.
fn split(name: &Arc<str>, text: &str, sections: &mut Vec<Raw>, ledger: &mut Ledger) {
    let mut depth = 0_usize;
    for (i, line) in text.lines().enumerate() {
        let words = words::words(line);
        let Some(first) = words.first().cloned() else { continue };
        if SECTIONS.contains(&first.as_str()) {
            let title = words.iter().take(2).cloned().collect::<Vec<_>>().join(" ");
            let id = ledger.section(name, i + 1, &title);
            let heading = ledger.line(name, i + 1, &words, id);
            let from = words.iter().position(|w| w == "from").and_then(|at| words.get(at + 1)).cloned();
            // `listen NAME ADDRESS:PORT` is an old way to bind.
            let short = words.get(2).filter(|w| *w != "from" && !w.starts_with('#')).cloned();
            let mut raw = Raw {
                kind: first,
                name: words.get(1).cloned().unwrap_or_default(),
                from,
                id,
                heading,
                lines: vec![],
            };
            if let Some(place) = short.filter(|_| raw.kind == "listen" || raw.kind == "frontend") {
                raw.lines.push((heading, vec!["bind".into(), place]));
            }
            sections.push(raw);
            continue;
        }
        let Some(section) = sections.last_mut() else {
            let id = ledger.section(name, i + 1, "before the first section");
            let line = ledger.line(name, i + 1, &words, id);
            ledger.lose(line, "it is in no section");
            continue;
        };
        let line = ledger.line(name, i + 1, &words, section.id);
        match first.as_str() {
            ".if" => depth += 1,
            ".endif" => depth = depth.saturating_sub(1),
            _ if depth == 0 && !first.starts_with('.') => {
                section.lines.push((line, words));
                continue;
            }
            _ => {}
        }
        ledger
            .lose(line, "conditions of HAProxy's preprocessor are not followed: keep the branch that counts");
    }
}

/// Reads `global`; its limit of connections, if there is one.
fn global(raw: &Raw, ledger: &mut Ledger) -> Option<(u64, LineId)> {
    ledger.carry(raw.heading);
    let mut maxconn = None;
    for (line, words) in &raw.lines {
        let word = |n: usize| words.get(n).map_or("", String::as_str);
        match word(0) {
            "maxconn" => maxconn = word(1).parse().ok().map(|n: u64| (n, *line)),
            "daemon"
            | "master-worker"
            | "quiet"
            | "zero-warning"
            | "nbthread"
            | "nbproc"
            | "cpu-map"
            | "thread-groups"
            | "cpu-policy"
            | "external-check"
            | "insecure-fork-wanted"
            | "description"
            | "node"
            | "pidfile"
            | "ulimit-n"
            | "spread-checks"
            | "hard-stop-after"
            | "set-dumpable"
            | "expose-experimental-directives" => {
                ledger.remark(*line, "not needed: systemd and vipd see to it");
            }
            "user" | "group" | "chroot" | "uid" | "gid" => {
                ledger.remark(*line, "not needed: the systemd unit confines vipd");
            }
            "log" | "log-send-hostname" | "log-tag" => {
                ledger.lose(*line, "vipd logs to the journal (VIPD_LOG, --log-format)");
            }
            "stats" => ledger.lose(*line, "vipctl and [status] take the place of HAProxy's socket"),
            "maxconnrate" | "maxsessrate" => {
                ledger.lose(*line, "max-rate of a pool and max-rate-per-source of a listener limit rates");
            }
            "lua-load" | "lua-load-per-thread" | "lua-prepend-path" => ledger.lose(*line, "vipd runs no Lua"),
            w if w.starts_with("ssl-")
                || w == "ca-base"
                || w == "crt-base"
                || w == "tune.ssl.default-dh-param" =>
            {
                ledger.lose(*line, "vipd ends no TLS: it relays it as it is");
            }
            w if w.starts_with("tune.") => ledger.lose(*line, "vipd has no such knob"),
            other => ledger.lose(*line, format!("{other} has no counterpart")),
        }
    }
    maxconn
}

/// Sections that are not relayed by.
fn elsewhere(raw: &Raw, ledger: &mut Ledger) {
    let why = match raw.kind.as_str() {
        "resolvers" => {
            ledger.remark(
                raw.heading,
                "names are looked up again and again by the system's resolver, each for as long as its TTL says",
            );
            for (line, words) in &raw.lines {
                match words.first().map(String::as_str) {
                    Some("parse-resolv-conf" | "hold" | "accepted_payload_size") => ledger.carry(*line),
                    Some("nameserver") => {
                        ledger.lose(*line, "vipd asks the servers in /etc/resolv.conf: put it there")
                    }
                    Some(_) | None => ledger.lose(*line, "the options in /etc/resolv.conf say it"),
                }
            }
            return;
        }
        "peers" => "vipd keeps no stick tables: balance = \"source-hash\" agrees between nodes without any",
        "mailers" => "a [[notify]] command can send mail",
        "userlist" => "vipd asks nobody for a password",
        "cache" | "http-errors" | "fcgi-app" => "vipd relays TCP and reads no HTTP",
        "program" => "systemd starts programs",
        "ring" | "log-forward" => "vipd logs to the journal",
        _ => "it has no counterpart",
    };
    ledger.lose(raw.heading, why);
    for (line, _) in &raw.lines {
        ledger.lose(*line, why);
    }
}
