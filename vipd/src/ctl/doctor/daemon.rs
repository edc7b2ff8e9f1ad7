//! The running daemon: what it may, what it has, and what it says of itself.

use super::databases::statement;
use super::peers::COUNTED_AS;
use super::{Findings, Verdict};
use crate::control::api::{ServerState, StatusDoc};
use crate::ctl::client::Client;
use vipd_config::Config;

/// What the daemon needs of the kernel (linux/capability.h).
const CAPABILITIES: [(u32, &str); 3] =
    [(10, "CAP_NET_BIND_SERVICE"), (12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")];
/// Beside sessions: sockets, pipes, files.
const SPARE_DESCRIPTORS: u64 = 512;

/// Looks at what the daemon says.
pub(super) fn look(status: &StatusDoc, client: &Client, findings: &mut Findings) {
    let ours = env!("CARGO_PKG_VERSION");
    if status.version == ours {
        findings.good("daemon", format!("vipd {ours} runs as {}", status.node));
    } else {
        let text = format!("vipd {} runs, and {ours} is installed", status.version);
        // It hands its addresses over first.
        findings.fix(Verdict::Warning, "daemon", text, "systemctl restart vipd");
    }
    if status.maintenance {
        let text = format!("{} is in maintenance and takes no VIP", status.node);
        findings.fix(Verdict::Warning, "daemon", text, "vipctl maintenance off");
    }
    for error in &status.config_errors {
        findings.fix(
            Verdict::Bad,
            "configuration",
            format!("the newest was refused: {error}"),
            "vipd check; vipctl reload",
        );
    }
    for rejected in status.counters.adverts_rejected.iter().filter(|r| r.cause != COUNTED_AS) {
        let text = format!(
            "{} adverts of {} were not accepted: {}",
            rejected.count, rejected.sender, rejected.cause
        );
        findings.fix(Verdict::Warning, "adverts", text, "vipctl why");
    }
    capabilities(client, findings);
    servers(status, findings);
}

/// A file of the daemon's process.
fn process(client: &Client, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{}/{file}", client.pid()?)).ok()
}

fn capabilities(client: &Client, findings: &mut Findings) {
    let status = process(client, "status");
    let line = status.as_deref().and_then(|s| s.lines().find_map(|l| l.strip_prefix("CapEff:")));
    let Some(bits) = line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()) else {
        findings.add(Verdict::Unknown, "capabilities", "the daemon's cannot be read");
        return;
    };
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(bit, _)| bits & (1 << bit) == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        findings.good("capabilities", "the daemon has those it needs");
        return;
    }
    let text = format!("the daemon lacks {}", missing.join(", "));
    let fix =
        format!("systemctl edit vipd: AmbientCapabilities={}; systemctl restart vipd", missing.join(" "));
    findings.fix(Verdict::Bad, "capabilities", text, fix);
}

/// Whether the daemon may have as many sessions as the file allows: two descriptors each.
pub(super) fn descriptors(config: &Config, client: &Client, findings: &mut Findings) {
    let Some(limits) = process(client, "limits") else { return };
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
    let Some(soft) = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok())
    else {
        return;
    };
    let sessions: u64 = config.listeners.iter().map(|l| u64::from(l.max_connections)).sum();
    let needed = sessions.saturating_mul(2).saturating_add(SPARE_DESCRIPTORS);
    if needed <= soft {
        findings.good("descriptors", format!("{soft} are enough for {sessions} sessions"));
        return;
    }
    let text = format!(
        "{soft} are not enough for the {sessions} sessions that max-connections allows ({needed} would be)"
    );
    let fix = format!("systemctl edit vipd: LimitNOFILE={needed}; systemctl restart vipd");
    findings.fix(Verdict::Warning, "descriptors", text, fix);
}

/// Whether the checks' users may see what they are asked for: what a database
/// lacks, the check itself says, with the statement that gives it.
fn servers(status: &StatusDoc, findings: &mut Findings) {
    for (pool, server) in status.pools.iter().flat_map(|p| p.servers.iter().map(move |s| (p, s))) {
        let name = format!("{}/{}", pool.name, server.name);
        let why = &server.why;
        if let Some(statement) = statement(why) {
            // The login of this program may have found it already.
            if findings.0.iter().any(|f| f.fix.as_deref() == Some(statement) && f.text.starts_with(&name)) {
                continue;
            }
            findings.fix(Verdict::Bad, "privileges", format!("{name}: {why}"), statement);
            continue;
        }
        match server.state {
            ServerState::Up => findings.good("server", format!("{name} is up")),
            ServerState::Drain | ServerState::Maint => {
                let fix = format!("vipctl server {name} ready");
                findings.fix(Verdict::Warning, "server", format!("{name} is {}", server.state), fix);
            }
            ServerState::Down | ServerState::Unreachable => {
                findings.fix(
                    Verdict::Bad,
                    "server",
                    format!("{name} is {}: {why}", server.state),
                    format!("vipctl why {name}"),
                );
            }
            ServerState::Unknown => {
                findings.add(Verdict::Unknown, "server", format!("{name} was not checked yet"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Finding;
    use super::*;
    use crate::control::text::tests::troubled;

    fn found(status: &StatusDoc) -> Vec<Finding> {
        let mut findings = Findings::default();
        servers(status, &mut findings);
        findings.0
    }

    #[test]
    fn a_privilege_that_is_missing_comes_with_its_statement() {
        let mut status = troubled();
        let server = &mut status.pools[0].servers[0];
        server.why =
            "access denied; type on the primary: GRANT REPLICA MONITOR ON *.* TO 'vipd'@'%'; see the manual"
                .into();
        let found = found(&status);
        let privilege = found.iter().find(|f| f.about == "privileges").expect("it is found");
        assert_eq!(privilege.fix.as_deref(), Some("GRANT REPLICA MONITOR ON *.* TO 'vipd'@'%';"));
    }

    #[test]
    fn a_server_that_is_down_is_wrong() {
        let found = found(&troubled());
        let bad: Vec<&Finding> = found.iter().filter(|f| f.verdict == Verdict::Bad).collect();
        assert!(bad.iter().any(|f| f.text.starts_with("replicas/db3 is down")), "{bad:?}");
    }
}
