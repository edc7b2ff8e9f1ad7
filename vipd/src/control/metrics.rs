//! The status as metrics in Prometheus' text format
//! (prometheus.io/docs/instrumenting/exposition_formats).

use super::api::{EtcdDoc, PoolDoc, Sees, ServerDoc, ServerState, StatusDoc, VipState};
use jiff::Timestamp;
use std::fmt::{Display, Write};

/// The format's media type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of a node.
pub(super) fn render(doc: &StatusDoc) -> String {
    let mut out = Metrics(String::new());
    node(&mut out, doc);
    vips(&mut out, doc);
    peers(&mut out, doc);
    links(&mut out, doc);
    etcd(&mut out, doc);
    listeners(&mut out, doc);
    pools(&mut out, doc);
    servers(&mut out, doc);
    dns(&mut out, doc);
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

    /// A family with a sample for each of `all`; those without a value are left out.
    fn per<'a, T, const N: usize, V: Display>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        all: impl Iterator<Item = ([(&'a str, &'a str); N], T)>,
        value: impl Fn(T) -> Option<V>,
    ) {
        self.family(name, kind, help);
        for (labels, of) in all {
            if let Some(value) = value(of) {
                self.sample(name, &labels, value);
            }
        }
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
    for (cause, count) in &doc.counters.adverts_rejected_total {
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
    link(out, doc);
}

/// Whose the addresses are on the link.
fn link(out: &mut Metrics, doc: &StatusDoc) {
    let vips = || doc.vips.iter().map(|v| ([("vip", &*v.name)], v));
    let help = "Whether another host claims an address that this node owns: not 0 is an alarm.";
    out.per(("vipd_vip_conflict", "gauge", help), vips(), |v| Some(u8::from(!v.conflicts.is_empty())));
    let help = "Claims by other hosts of an address that this node owned.";
    out.per(("vipd_vip_claims_total", "counter", help), vips(), |v| Some(v.claims_total));
    let proofs = || {
        let all = doc.vips.iter().flat_map(|v| v.proofs.iter().map(move |p| (v, p)));
        all.map(|(v, p)| ([("vip", &*v.name), ("seer", &*p.seer)], p))
    };
    let help = "Whether the owner and nobody else answers for the VIP, as the node `seer` sees it.";
    out.per(("vipd_vip_proven", "gauge", help), proofs(), |p| Some(u8::from(p.sees == Sees::Owner)));
    let help = "Time from the owner's first advert to its answer, as the node `seer` sees it.";
    out.per(("vipd_vip_follow_seconds", "gauge", help), proofs(), |p| p.took_us.map(micros));
    let help =
        "Time left of the quorum lease by which this node owns the VIP: 0 where it does without a majority.";
    out.per(("vipd_vip_lease_seconds", "gauge", help), vips(), |v| v.lease_ms.map(seconds));
}

fn peers(out: &mut Metrics, doc: &StatusDoc) {
    let nodes = || doc.peers.iter().map(|p| (&*p.name, p.last_heard_ms, p.config_match));
    let witnesses = || doc.witnesses.iter().map(|w| (&*w.name, w.last_heard_ms, w.config_match));
    let all = || nodes().chain(witnesses()).map(|of| ([("peer", of.0)], of));
    let help = "Time since the node or witness was last heard.";
    out.per(("vipd_peer_last_heard_seconds", "gauge", help), all(), |(_, ms, _)| ms.map(seconds));
    let help = "Whether the node or witness was heard since this one started.";
    out.per(("vipd_peer_heard", "gauge", help), all(), |(_, ms, _)| Some(u8::from(ms.is_some())));
    let help = "Whether the settings that must agree do; of a witness those by which it votes.";
    out.per(("vipd_peer_config_match", "gauge", help), all(), |(_, _, same)| same.map(u8::from));
}

fn links(out: &mut Metrics, doc: &StatusDoc) {
    let all = || doc.peers.iter().map(|p| ([("peer", &*p.name)], p));
    let help = "Whether the node hears this one, by its own word.";
    out.per(("vipd_peer_hears_this", "gauge", help), all(), |p| p.hears_this.map(u8::from));
    let help = "Whether the link to the node is sealed now; absent without a cluster key.";
    out.per(("vipd_peer_link_sealed", "gauge", help), all(), |p| {
        p.link.as_ref().map(|l| u8::from(l.sealed_since.is_some()))
    });
}

/// The members of etcd, where the quorum is kept there.
fn etcd(out: &mut Metrics, doc: &StatusDoc) {
    let all = || doc.etcd.iter().map(|e| ([("endpoint", &*e.endpoint)], e));
    let help = "How long the last request took that the member of etcd carried out.";
    out.per(("vipd_etcd_round_trip_seconds", "gauge", help), all(), |e| e.round_trip_us.map(micros));
    let help = "Requests that the member of etcd carried out.";
    out.per(("vipd_etcd_answers_total", "counter", help), all(), |e| Some(e.answers));
    let help = "Requests that the member of etcd did not carry out.";
    out.per(("vipd_etcd_failures_total", "counter", help), all(), |e| Some(e.failures));
    let help =
        "Whether the member of etcd did not carry out the last request it was sent; absent before the first.";
    let failing = |e: &EtcdDoc| (e.answers + e.failures > 0).then(|| u8::from(e.problem.is_some()));
    out.per(("vipd_etcd_failing", "gauge", help), all(), failing);
}

fn listeners(out: &mut Metrics, doc: &StatusDoc) {
    let all = || doc.listeners.iter().map(|l| ([("listener", &*l.name)], l));
    out.per(("vipd_listener_sessions", "gauge", "Sessions now."), all(), |l| Some(l.sessions));
    let sessions = ("vipd_listener_sessions_total", "counter", "Sessions since the start.");
    out.per(sessions, all(), |l| Some(l.total));
    let help = "Bytes taken from (in) and given to (out) clients since the start.";
    let directions = doc.listeners.iter().flat_map(|l| {
        let label = |direction| [("listener", &*l.name), ("direction", direction)];
        [(label("in"), l.bytes_in), (label("out"), l.bytes_out)]
    });
    out.per(("vipd_listener_bytes_total", "counter", help), directions, Some);
    let help = "Sessions that ended since the start, by cause.";
    let causes = doc.listeners.iter().flat_map(|l| {
        l.closed.iter().map(move |(cause, n)| ([("listener", &*l.name), ("cause", &**cause)], *n))
    });
    out.per(("vipd_listener_closed_total", "counter", help), causes, Some);
    let help = "Connections that could not be accepted, most often for want of descriptors.";
    out.per(("vipd_listener_accept_errors_total", "counter", help), all(), |l| Some(l.accept_errors));
    let help = "Client addresses that are counted; none unless the listener limits them.";
    out.per(("vipd_listener_sources", "gauge", help), all(), |l| Some(l.sources));
}

fn pools(out: &mut Metrics, doc: &StatusDoc) {
    let help = "The server that is written to, of a pool that follows the primary; always 1.";
    let incumbents = doc.pools.iter().filter_map(|p| {
        let incumbent = p.incumbent.as_deref()?;
        Some(([("pool", &*p.name), ("server", incumbent)], 1))
    });
    out.per(("vipd_pool_incumbent", "gauge", help), incumbents, Some);
    let help = "Counts the changes of the primary, on all nodes.";
    let followed = doc.pools.iter().filter(|p| p.epoch > 0).map(|p| ([("pool", &*p.name)], p.epoch));
    out.per(("vipd_pool_epoch", "gauge", help), followed, Some);
    let help = "Nodes that follow another primary than this one: not 0 for long is an alarm.";
    let all = || doc.pools.iter().map(|p| ([("pool", &*p.name)], p));
    out.per(("vipd_pool_disagreeing", "gauge", help), all(), |p| Some(p.disagreeing.len()));
    let help = "Servers that are writable beside the one that is written to: not 0 is an alarm.";
    out.per(("vipd_pool_conflicts", "gauge", help), all(), |p| Some(p.conflict.len()));
    out.per(("vipd_pool_queue", "gauge", "Clients that wait for a server now."), all(), |p| {
        Some(p.queue.waiting)
    });
    let help = "Clients that had to wait for a server since the start.";
    out.per(("vipd_pool_queued_total", "counter", help), all(), |p| Some(p.queue.total));
    let help = "Clients that waited for a server in vain since the start.";
    out.per(("vipd_pool_queue_timeouts_total", "counter", help), all(), |p| Some(p.queue.timeouts));
    let help = "Clients that were refused because the queue was full since the start.";
    out.per(("vipd_pool_queue_full_total", "counter", help), all(), |p| Some(p.queue.full));
    let help = "Sessions on servers of the pool's fallbacks now.";
    out.per(("vipd_pool_fallback_sessions", "gauge", help), all(), |p| Some(p.fallback_sessions));
    let help = "Names of servers that do not resolve as they should: what was known is in use.";
    out.per(("vipd_pool_unresolved_names", "gauge", help), all(), |p| Some(p.unresolved.len()));
}

fn servers(out: &mut Metrics, doc: &StatusDoc) {
    let all = || doc.pools.iter().flat_map(in_pool);
    let help = "Whether the server takes connections.";
    out.per(("vipd_server_up", "gauge", help), all(), |s| Some(u8::from(s.state == ServerState::Up)));
    out.family("vipd_server_state", "gauge", "1 for the state of the server, 0 for the others.");
    for ([pool, server], doc) in all() {
        for state in ServerState::ALL {
            let labels = [pool, server, ("state", &state.to_string())];
            out.sample("vipd_server_state", &labels, u8::from(doc.state == state));
        }
    }
    out.family("vipd_server_role", "gauge", "1 for the role of the server, where its check can tell.");
    for ([pool, server], doc) in all() {
        if let Some(role) = doc.role {
            out.sample("vipd_server_role", &[pool, server, ("role", &role.to_string())], 1);
        }
    }
    let help = "When the server entered its state.";
    out.per(("vipd_server_since_timestamp_seconds", "gauge", help), all(), |s| {
        s.since.map(Timestamp::as_second)
    });
    let help = "Replication lag, where it is known.";
    out.per(("vipd_server_lag_seconds", "gauge", help), all(), |s| s.lag_ms.map(seconds));
    let help = "Weight: that of the file, or what an operator gave it.";
    out.per(("vipd_server_weight", "gauge", help), all(), |s| Some(s.weight));
    let help = "Weight that counts now: 0 where the server takes nothing, less in a slow start.";
    out.per(("vipd_server_effective_weight", "gauge", help), all(), |s| Some(effective(s)));
    server_traffic(out, all);
    checks(out, all);
}

fn in_pool(pool: &PoolDoc) -> impl Iterator<Item = Server<'_>> {
    pool.servers.iter().map(|s| ([("pool", &*pool.name), ("server", &*s.name)], s))
}

/// A server with its labels.
type Server<'a> = ([(&'a str, &'a str); 2], &'a ServerDoc);

fn server_traffic<'a, I: Iterator<Item = Server<'a>>>(out: &mut Metrics, all: impl Fn() -> I) {
    out.per(("vipd_server_sessions", "gauge", "Sessions now."), all(), |s| Some(s.sessions));
    let sessions = ("vipd_server_sessions_total", "counter", "Sessions since the start.");
    out.per(sessions, all(), |s| Some(s.total));
    let help = "Connections to the server that failed.";
    out.per(("vipd_server_connect_errors_total", "counter", help), all(), |s| Some(s.connect_errors));
    let help = "Sessions that the server reset, or in which it stopped answering.";
    out.per(("vipd_server_resets_total", "counter", help), all(), |s| Some(s.resets));
    let help = "Bytes taken from (in) and given to (out) clients by sessions on the server that ended.";
    let directions = all().flat_map(|([pool, server], s)| {
        let label = |direction| [pool, server, ("direction", direction)];
        [(label("in"), s.bytes_in), (label("out"), s.bytes_out)]
    });
    out.per(("vipd_server_bytes_total", "counter", help), directions, Some);
    let help = "Sessions on the server that ended since the start, by cause; causes that did not come about are absent.";
    let causes = all().flat_map(|([pool, server], s)| {
        s.closed.iter().map(move |(cause, n)| ([pool, server, ("cause", &**cause)], *n))
    });
    out.per(("vipd_server_closed_total", "counter", help), causes, Some);
    let help = "Sessions that the server's own limit leaves beside those that it has, where that is known.";
    out.per(("vipd_server_room", "gauge", help), all(), |s| s.room);
    let help = "Connections of everybody by the server's own count, where its check can ask.";
    out.per(("vipd_server_connections_used", "gauge", help), all(), |s| s.connections_used);
    let help = "Connections that the server takes at most, where its check can ask.";
    out.per(("vipd_server_connections_max", "gauge", help), all(), |s| s.connections_max);
}

fn checks<'a, I: Iterator<Item = Server<'a>>>(out: &mut Metrics, all: impl Fn() -> I) {
    let checked = || all().filter_map(|(labels, s)| Some((labels, s.check?)));
    let total = ("vipd_server_checks_total", "counter", "Checks that ended since the start.");
    out.per(total, checked(), |c| Some(c.total));
    let failed = ("vipd_server_check_failures_total", "counter", "Checks that failed since the start.");
    out.per(failed, checked(), |c| Some(c.failed));
    let help = "Connections of clients that failed and were counted like a failed check.";
    out.per(("vipd_server_passive_failures_total", "counter", help), checked(), |c| Some(c.passive));
    let help = "How long the last check took.";
    out.per(("vipd_server_check_duration_seconds", "gauge", help), checked(), |c| {
        (c.total > 0).then(|| micros(c.took_us))
    });
}

fn dns(out: &mut Metrics, doc: &StatusDoc) {
    let names = || doc.dns.iter().map(|d| ([("name", &*d.name)], d));
    let help = "Whether this node is the one that writes the name's records.";
    out.per(("vipd_dns_writer", "gauge", help), names(), |d| {
        Some(u8::from(d.writer.as_ref() == Some(&doc.node)))
    });
    let help = "Addresses that the name should have, by this node's view.";
    out.per(("vipd_dns_desired_addresses", "gauge", help), names(), |d| Some(d.desired.len()));
    let stores = || {
        let of = |d| move |s| (d, s);
        let all = doc.dns.iter().flat_map(move |d| d.stores.iter().map(of(d)));
        all.map(|(d, s)| ([("name", &*d.name), ("place", &*s.place)], s))
    };
    let help = "Addresses that the place had when it was last read or written.";
    out.per(("vipd_dns_published_addresses", "gauge", help), stores(), |s| Some(s.published.len()));
    let help = "Whether the place holds what it should.";
    out.per(("vipd_dns_in_sync", "gauge", help), stores(), |s| Some(u8::from(s.in_sync)));
    let help = "Whether somebody edited the records, and they are left alone.";
    out.per(("vipd_dns_drift", "gauge", help), stores(), |s| Some(u8::from(s.drift.is_some())));
    let help = "Whether the last attempt to read or write failed.";
    out.per(("vipd_dns_error", "gauge", help), stores(), |s| Some(u8::from(s.error.is_some())));
    out.per(("vipd_dns_epoch", "gauge", "The number of the last write, by any node."), stores(), |s| {
        Some(s.epoch)
    });
    let help = "Writes of this node.";
    out.per(("vipd_dns_writes_total", "counter", help), stores(), |s| Some(s.writes));
    let help = "Attempts of this node to read or write that failed.";
    out.per(("vipd_dns_errors_total", "counter", help), stores(), |s| Some(s.errors));
    let help = "How long the place is left alone before the next attempt; 0 while it holds what it should.";
    out.per(("vipd_dns_retry_seconds", "gauge", help), stores(), |s| {
        Some(format!("{}.{:03}", s.retry_ms / 1000, s.retry_ms % 1000))
    });
    let help = "Time from the decision to the acknowledgement of this node's last write.";
    out.per(("vipd_dns_write_duration_seconds", "gauge", help), stores(), |s| {
        s.last_write.as_ref().map(|w| micros(w.acknowledged_us))
    });
}

/// The weight that counts now, in the file's measure.
fn effective(server: &ServerDoc) -> String {
    let percent = match server.state {
        ServerState::Up => u32::from(server.slow_start_percent.unwrap_or(100)),
        ServerState::Down
        | ServerState::Drain
        | ServerState::Maint
        | ServerState::Unknown
        | ServerState::Unreachable => 0,
    };
    let hundredths = u32::from(server.weight).saturating_mul(percent);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Microseconds as seconds.
fn micros(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// Milliseconds as seconds.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod asked;

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
            "vipd_peer_hears_this{peer=\"px2\"} 0",
            "vipd_peer_heard{peer=\"px2\"} 1",
            "vipd_vip_conflict{vip=\"main\"} 1",
            "vipd_vip_conflict{vip=\"second\"} 0",
            "vipd_vip_claims_total{vip=\"main\"} 12",
            "vipd_vip_proven{vip=\"main\",seer=\"px2\"} 1",
            "vipd_vip_follow_seconds{vip=\"main\",seer=\"px2\"} 0.001250",
            "vipd_vip_lease_seconds{vip=\"main\"} 2.400",
            "vipd_etcd_round_trip_seconds{endpoint=\"https://192.0.2.31:2379\"} 0.001875",
            "vipd_etcd_answers_total{endpoint=\"https://192.0.2.31:2379\"} 4321",
            "vipd_etcd_failures_total{endpoint=\"https://192.0.2.31:2379\"} 2",
            "vipd_etcd_failing{endpoint=\"https://192.0.2.31:2379\"} 0",
            "vipd_etcd_failing{endpoint=\"https://192.0.2.32:2379\"} 1",
            "vipd_peer_last_heard_seconds{peer=\"w1\"} 0.400",
            "vipd_peer_config_match{peer=\"w1\"} 0",
            "vipd_maintenance 1",
            "vipd_listener_closed_total{listener=\"write\",cause=\"server-demoted\"} 2",
            "vipd_server_bytes_total{pool=\"replicas\",server=\"db2\",direction=\"out\"} 902",
            "vipd_server_closed_total{pool=\"replicas\",server=\"db2\",cause=\"server-down\"} 3",
            "vipd_pool_incumbent{pool=\"primary\",server=\"db1\"} 1",
            "vipd_pool_conflicts{pool=\"primary\"} 1",
            "vipd_pool_epoch{pool=\"primary\"} 3",
            "vipd_pool_disagreeing{pool=\"primary\"} 1",
            "vipd_pool_conflicts{pool=\"replicas\"} 0",
            "vipd_pool_queue{pool=\"replicas\"} 3",
            "vipd_pool_queued_total{pool=\"replicas\"} 40",
            "vipd_pool_queue_timeouts_total{pool=\"replicas\"} 5",
            "vipd_pool_queue_full_total{pool=\"replicas\"} 6",
            "vipd_pool_fallback_sessions{pool=\"replicas\"} 7",
            "vipd_pool_unresolved_names{pool=\"replicas\"} 0",
            "vipd_server_resets_total{pool=\"replicas\",server=\"db2\"} 8",
            "vipd_server_room{pool=\"replicas\",server=\"db2\"} 61",
            "vipd_listener_sources{listener=\"write\"} 2",
            "vipd_server_state{pool=\"replicas\",server=\"db3\",state=\"down\"} 1",
            "vipd_server_state{pool=\"replicas\",server=\"db3\",state=\"up\"} 0",
            "vipd_server_role{pool=\"primary\",server=\"db1\",role=\"primary\"} 1",
            "vipd_server_since_timestamp_seconds{pool=\"primary\",server=\"db1\"} 1795175400",
            "vipd_server_weight{pool=\"primary\",server=\"db1\"} 100",
            "vipd_server_effective_weight{pool=\"primary\",server=\"db1\"} 100.00",
            "vipd_server_effective_weight{pool=\"replicas\",server=\"db2\"} 40.00",
            "vipd_server_effective_weight{pool=\"replicas\",server=\"db3\"} 0.00",
            "vipd_server_checks_total{pool=\"replicas\",server=\"db2\"} 1000",
            "vipd_server_check_failures_total{pool=\"replicas\",server=\"db2\"} 7",
            "vipd_server_passive_failures_total{pool=\"replicas\",server=\"db2\"} 1",
            "vipd_server_check_duration_seconds{pool=\"replicas\",server=\"db2\"} 0.001234",
            "vipd_server_connections_used{pool=\"replicas\",server=\"db2\"} 90",
            "vipd_server_connections_max{pool=\"replicas\",server=\"db2\"} 151",
            "vipd_dns_writer{name=\"db.corp.example.\"} 1",
            "vipd_dns_in_sync{name=\"db.corp.example.\",place=\"192.0.2.53:53\"} 1",
            "vipd_dns_error{name=\"db.corp.example.\",place=\"route53/Z0123456789\"} 1",
            "vipd_dns_writes_total{name=\"db.corp.example.\",place=\"192.0.2.53:53\"} 3",
            "vipd_dns_retry_seconds{name=\"db.corp.example.\",place=\"route53/Z0123456789\"} 1.500",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("vipd_server_lag_seconds{pool=\"primary\""), "an unknown lag is no number");
    }

    /// An alert has to see a node that never came, too.
    #[test]
    fn a_node_that_was_never_heard_is_told_of() {
        let mut status = troubled();
        status.peers[0].last_heard_ms = None;
        let text = render(&status);
        assert!(text.contains("vipd_peer_heard{peer=\"px2\"} 0\n"), "{text}");
        assert!(!text.contains("vipd_peer_last_heard_seconds{peer=\"px2\"}"), "{text}");
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

    /// A family: its name, labels, kind and meaning.
    pub(super) type Family = (String, std::collections::BTreeSet<String>, String, String);

    /// All that a node has.
    pub(super) fn families() -> Vec<Family> {
        let text = render(&troubled());
        let mut help = ("", "");
        let mut rows: Vec<Family> = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                help = rest.split_once(' ').unwrap_or((rest, ""));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
                rows.push((
                    name.to_owned(),
                    std::collections::BTreeSet::new(),
                    kind.to_owned(),
                    help.1.to_owned(),
                ));
            } else if let (Some(row), Some((_, labels))) = (rows.last_mut(), line.split_once('{')) {
                row.1.extend(
                    labels
                        .split("=\"")
                        .filter_map(|l| l.rsplit([',', '{', '"']).next())
                        .filter(|l| !l.is_empty() && !l.contains(['}', ' ']))
                        .map(str::to_owned),
                );
            }
        }
        rows
    }

    /// The families, as rows of the documents' table.
    fn rows() -> Vec<(String, String)> {
        families()
            .into_iter()
            .map(|(name, labels, kind, help)| {
                let labels: Vec<String> = labels.into_iter().map(|l| format!("`{l}`")).collect();
                let row = format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "));
                (name, row)
            })
            .collect()
    }

    /// `VIPD_BLESS=1` writes the table anew; read the difference before you commit it.
    #[test]
    fn every_metric_is_documented() {
        const START: &str = "| Name | Kind | Labels | Meaning |\n|---|---|---|---|\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let page = std::fs::read_to_string(path).expect("the page");
        let (before, rest) = page.split_once(START).expect("the table's head");
        let end = rest.find("\n\n").map_or(rest.len(), |at| at + 1);
        let table: String = rows().into_iter().map(|(_, row)| row + "\n").collect();
        let wanted = [before, START, &table, &rest[end..]].concat();
        if std::env::var_os("VIPD_BLESS").is_some() {
            std::fs::write(path, &wanted).expect("ours");
        }
        assert_eq!(
            std::fs::read_to_string(path).expect("the page"),
            wanted,
            "VIPD_BLESS=1 writes the table anew"
        );
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        let mut out = Metrics(String::new());
        out.sample("x", &[("a", "q\"b\\c\nd")], 1);
        assert_eq!(out.0, "x{a=\"q\\\"b\\\\c\\nd\"} 1\n");
    }
}
