//! A host that only votes: it has no VIP to look at, and no control socket to ask.

use super::sight::Sight;
use super::unit::Unit;
use super::{Findings, Verdict, files, host};
use crate::ctl::client::Client;
use vipd_config::Config;

/// The witness that this host is, if it is one.
pub(super) fn name<'c>(config: &'c Config, wanted: Option<&str>) -> Option<&'c str> {
    let position = match wanted {
        Some(name) => config.witness_named(name),
        None => config.find_witness(&host::addresses()),
    };
    config.cluster.voter(position?).map(|voter| voter.name.as_str())
}

/// Looks at what a vote takes.
pub(super) fn look(
    config: &Config,
    name: &str,
    client: &Client,
    unit: Option<Unit>,
    findings: &mut Findings,
) {
    let text =
        format!("this host is the witness {name}: it votes, and has no VIP, listener or control socket");
    findings.good("node", text);
    match unit.as_ref().map(|unit| unit.active) {
        Some(true) => findings.good("daemon", "vipd.service runs"),
        Some(false) => {
            let text = "vipd.service does not run: this witness does not vote";
            findings.fix(Verdict::Bad, "daemon", text, "systemctl start vipd; journalctl -u vipd");
        }
        None => {
            let text =
                "systemd has no vipd.service here: whether the witness votes, `vipctl why` on a node tells";
            findings.add(Verdict::Unknown, "daemon", text);
        }
    }
    files::look_at_key(config, &Sight::find(client, unit), findings);
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
[cluster]
name = "orders"
key-file = "/nonexistent/cluster.key"
nodes = [{ name = "px1", address = "192.0.2.11" }, { name = "px2", address = "192.0.2.12" }]
witnesses = [{ name = "w1", address = "192.0.2.13" }]
[election]
quorum = "majority"
[[vip]]
name = "main"
addresses = ["192.0.2.100/24"]
"#;

    #[test]
    fn a_witness_is_no_node_that_is_missing_in_the_file() {
        let config = Config::parse(CONFIG, "vipd.toml").expect("a good file");
        assert_eq!(name(&config, Some("w1")), Some("w1"));
        assert_eq!(name(&config, Some("px1")), None);
        assert_eq!(name(&config, None), None, "no address of this host");
        let mut findings = Findings::default();
        let client = Client::new(std::path::Path::new("/nonexistent"));
        let stopped = Unit { active: false, ..Unit::default() };
        look(&config, "w1", &client, Some(stopped), &mut findings);
        let found = |about: &str| findings.0.iter().find(|f| f.about == about).map(|f| (f.verdict, &*f.text));
        assert!(matches!(found("node"), Some((Verdict::Good, text)) if text.contains("the witness w1")));
        assert!(matches!(found("daemon"), Some((Verdict::Bad, text)) if text.contains("does not vote")));
        assert!(found("files").is_some(), "{findings:?}");
    }
}
