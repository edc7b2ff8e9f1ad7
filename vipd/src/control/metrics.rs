//! The status as metrics in Prometheus' text format
//! (prometheus.io/docs/instrumenting/exposition_formats).

use super::api::{ServerState, StatusDoc, VipState};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// The format's media type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of a node.
pub(super) fn render(doc: &StatusDoc) -> String {
    let mut out = Metrics(String::new());
    node(&mut out, doc);
    vips(&mut out, doc);
    peers(&mut out, doc);
    listeners(&mut out, doc);
    servers(&mut out, doc);
    out.0
}

struct Metrics(String);

impl Metrics {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{}\"", escape(text));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

/// The escapes that a label's value may hold.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn node(out: &mut Metrics, doc: &StatusDoc) {
    out.family("vipd_info", "gauge", "The node and its version; always 1.");
    let labels = [("cluster", &*doc.cluster), ("node", &*doc.node), ("version", &*doc.version)];
    out.sample("vipd_info", &labels, 1);
    out.family("vipd_maintenance", "gauge", "Whether the node is out of the election by an operator's word.");
    out.sample("vipd_maintenance", &[], u8::from(doc.maintenance));
    out.family(
        "vipd_config_errors",
        "gauge",
        "Errors in the newest configuration, for which it was refused.",
    );
    out.sample("vipd_config_errors", &[], doc.config_errors.len());

    out.family(
        "vipd_advert_rejected_total",
        "counter",
        "Adverts and messages of nodes that were not accepted, by cause.",
    );
    let mut causes: BTreeMap<&str, u64> = BTreeMap::new();
    for rejected in &doc.counters.adverts_rejected {
        let count = causes.entry(&rejected.cause).or_default();
        *count = count.saturating_add(rejected.count);
    }
    for (cause, count) in causes {
        out.sample("vipd_advert_rejected_total", &[("cause", cause)], count);
    }
}

fn vips(out: &mut Metrics, doc: &StatusDoc) {
    out.family(
        "vipd_vip_state",
        "gauge",
        "1 for the state this node has in the VIP's election, 0 for the others.",
    );
    for vip in &doc.vips {
        for state in VipState::ALL {
            let labels = [("vip", &*vip.name), ("state", &state.to_string())];
            out.sample("vipd_vip_state", &labels, u8::from(vip.state == state));
        }
    }
    out.family("vipd_vip_priority", "gauge", "This node's priority in the VIP's election.");
    for vip in &doc.vips {
        out.sample("vipd_vip_priority", &[("vip", &vip.name)], vip.priority);
    }
    out.family("vipd_vip_since_timestamp_seconds", "gauge", "When this node entered its state.");
    for vip in &doc.vips {
        out.sample("vipd_vip_since_timestamp_seconds", &[("vip", &vip.name)], vip.since.as_second());
    }
}

fn peers(out: &mut Metrics, doc: &StatusDoc) {
    out.family("vipd_peer_last_heard_seconds", "gauge", "Time since the node was last heard.");
    for peer in &doc.peers {
        if let Some(ms) = peer.last_heard_ms {
            out.sample("vipd_peer_last_heard_seconds", &[("peer", &peer.name)], seconds(ms));
        }
    }
    out.family("vipd_peer_config_match", "gauge", "Whether the settings that must agree do.");
    for peer in &doc.peers {
        if let Some(same) = peer.config_match {
            out.sample("vipd_peer_config_match", &[("peer", &peer.name)], u8::from(same));
        }
    }
}

fn listeners(out: &mut Metrics, doc: &StatusDoc) {
    out.family("vipd_listener_sessions", "gauge", "Sessions now.");
    for listener in &doc.listeners {
        out.sample("vipd_listener_sessions", &[("listener", &listener.name)], listener.sessions);
    }
    out.family("vipd_listener_sessions_total", "counter", "Sessions since the start.");
    for listener in &doc.listeners {
        out.sample("vipd_listener_sessions_total", &[("listener", &listener.name)], listener.total);
    }
    out.family(
        "vipd_listener_bytes_total",
        "counter",
        "Bytes taken from (in) and given to (out) clients since the start.",
    );
    for listener in &doc.listeners {
        for (direction, bytes) in [("in", listener.bytes_in), ("out", listener.bytes_out)] {
            let labels = [("listener", &*listener.name), ("direction", direction)];
            out.sample("vipd_listener_bytes_total", &labels, bytes);
        }
    }
}

fn servers(out: &mut Metrics, doc: &StatusDoc) {
    let servers = || doc.pools.iter().flat_map(|p| p.servers.iter().map(move |s| (&*p.name, s)));
    out.family("vipd_server_up", "gauge", "Whether the server takes connections.");
    for (pool, server) in servers() {
        let labels = [("pool", pool), ("server", &server.name)];
        out.sample("vipd_server_up", &labels, u8::from(server.state == ServerState::Up));
    }
    out.family("vipd_server_sessions", "gauge", "Sessions now.");
    for (pool, server) in servers() {
        out.sample("vipd_server_sessions", &[("pool", pool), ("server", &server.name)], server.sessions);
    }
    out.family("vipd_server_lag_seconds", "gauge", "Replication lag, where it is known.");
    for (pool, server) in servers() {
        if let Some(ms) = server.lag_ms {
            out.sample("vipd_server_lag_seconds", &[("pool", pool), ("server", &server.name)], seconds(ms));
        }
    }
}

/// Milliseconds as seconds.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::text::tests::troubled;

    #[test]
    fn the_metrics_of_a_node() {
        let text = render(&troubled());
        for line in [
            "vipd_vip_state{vip=\"main\",state=\"active\"} 1",
            "vipd_vip_state{vip=\"main\",state=\"backup\"} 0",
            "vipd_advert_rejected_total{cause=\"checksum\"} 7",
            "vipd_listener_sessions{listener=\"write\"} 3",
            "vipd_listener_bytes_total{listener=\"write\",direction=\"out\"} 43210987",
            "vipd_server_up{pool=\"primary\",server=\"db1\"} 1",
            "vipd_server_up{pool=\"replicas\",server=\"db3\"} 0",
            "vipd_server_lag_seconds{pool=\"replicas\",server=\"db2\"} 0.120",
            "vipd_peer_last_heard_seconds{peer=\"px2\"} 0.012",
            "vipd_maintenance 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("vipd_server_lag_seconds{pool=\"primary\""), "an unknown lag is no number");
    }

    #[test]
    fn every_sample_stands_under_its_family() {
        let text = render(&troubled());
        let mut family = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap_or("");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next();
                assert_eq!(name, Some(family), "{line}");
            }
        }
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        let mut out = Metrics(String::new());
        out.sample("x", &[("a", "q\"b\\c\nd")], 1);
        assert_eq!(out.0, "x{a=\"q\\\"b\\\\c\\nd\"} 1\n");
    }
}
