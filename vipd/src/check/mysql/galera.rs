//! What a Galera node says of itself (MariaDB, Percona XtraDB Cluster,
//! Codership's MySQL). Pure.
//!
//! Source: <https://galeracluster.com/library/documentation/galera-status-variables.html>.

use super::facts::Facts;
use vipd_core::settings::Galera;

/// Values of `wsrep_local_state`.
const DONOR: &str = "2";
const SYNCED: &str = "4";

/// Why a node should not be used, in the words of the first variable that
/// says so; `None` if it is well.
///
/// A node that is not asked for its Galera state is looked at for one thing
/// only: whether it refuses every query (error 1047).
pub(super) fn unready(facts: &Facts, asked: Option<Galera>) -> Option<String> {
    let provider = facts.get("wsrep_provider").filter(|p| !p.is_empty() && !p.eq_ignore_ascii_case("none"));
    match (provider, asked) {
        (None, Some(_)) => {
            let provider = facts.get("wsrep_provider").unwrap_or("no such variable");
            Some(format!("no Galera node, and galera = true asks for one (wsrep_provider: {provider})"))
        }
        (Some(_), Some(galera)) => state(facts, galera),
        (Some(_), None) if facts.is_on("wsrep_dirty_reads") => None,
        (Some(_), None) => facts.get("wsrep_ready").and_then(|_| must_be(facts, "wsrep_ready", "ON")),
        (None, None) => None,
    }
}

fn state(facts: &Facts, galera: Galera) -> Option<String> {
    must_be(facts, "wsrep_cluster_status", "Primary")
        .or_else(|| must_be(facts, "wsrep_ready", "ON"))
        // Before the state, which is that of a donor in a node that was desynced.
        .or_else(|| facts.is_on("wsrep_desync").then(|| "wsrep_desync is ON".to_owned()))
        .or_else(|| match facts.get("wsrep_local_state") {
            Some(SYNCED) => None,
            Some(DONOR) if galera.donors => None,
            Some(state) => {
                let comment = facts.get("wsrep_local_state_comment").unwrap_or_default();
                Some(format!("wsrep_local_state is {state} ({comment})"))
            }
            None => Some("it does not tell its wsrep_local_state".to_owned()),
        })
        .or_else(|| must_be(facts, "wsrep_reject_queries", "NONE"))
        // Percona's alone.
        .or_else(|| facts.get("pxc_maint_mode").and_then(|_| must_be(facts, "pxc_maint_mode", "DISABLED")))
}

fn must_be(facts: &Facts, name: &str, good: &str) -> Option<String> {
    match facts.get(name) {
        Some(value) if value.eq_ignore_ascii_case(good) => None,
        Some(value) => Some(format!("{name} is {value}")),
        None => Some(format!("it does not tell its {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: [(&str, &str); 8] = [
        ("wsrep_provider", "/usr/lib/galera/libgalera_smm.so"),
        ("wsrep_cluster_status", "Primary"),
        ("wsrep_ready", "ON"),
        ("wsrep_local_state", "4"),
        ("wsrep_local_state_comment", "Synced"),
        ("wsrep_desync", "0"),
        ("wsrep_reject_queries", "NONE"),
        ("pxc_maint_mode", "DISABLED"),
    ];

    fn says(name: &str, value: &str, asked: Option<Galera>) -> Option<String> {
        let pairs = WELL.map(|(n, v)| if n == name { (n, value) } else { (n, v) });
        unready(&Facts::from(pairs), asked)
    }

    #[test]
    fn each_state_but_synced_is_named() {
        let strict = Some(Galera { donors: false });
        let lenient = Some(Galera { donors: true });
        assert_eq!(says("", "", strict), None);
        let cases = [
            ("wsrep_cluster_status", "non-Primary", "wsrep_cluster_status is non-Primary"),
            ("wsrep_cluster_status", "Disconnected", "wsrep_cluster_status is Disconnected"),
            ("wsrep_ready", "OFF", "wsrep_ready is OFF"),
            ("wsrep_local_state", "1", "wsrep_local_state is 1 (Synced)"),
            ("wsrep_local_state", "3", "wsrep_local_state is 3 (Synced)"),
            ("wsrep_desync", "1", "wsrep_desync is ON"),
            ("wsrep_reject_queries", "ALL_KILL", "wsrep_reject_queries is ALL_KILL"),
            ("pxc_maint_mode", "SHUTDOWN", "pxc_maint_mode is SHUTDOWN"),
            ("pxc_maint_mode", "MAINTENANCE", "pxc_maint_mode is MAINTENANCE"),
        ];
        for (name, value, expected) in cases {
            assert_eq!(says(name, value, strict).as_deref(), Some(expected));
            assert_eq!(says(name, value, lenient).as_deref(), Some(expected));
        }
        let donor = says("wsrep_local_state", "2", strict);
        assert_eq!(donor.as_deref(), Some("wsrep_local_state is 2 (Synced)"));
        assert_eq!(says("wsrep_local_state", "2", lenient), None);
    }

    #[test]
    fn maintenance_is_asked_where_it_exists_and_the_rest_must_be_told() {
        let asked = Some(Galera { donors: false });
        let without = |name: &str| {
            let pairs = WELL.map(|(n, v)| if n == name { ("other", v) } else { (n, v) });
            unready(&Facts::from(pairs), asked)
        };
        assert_eq!(without("pxc_maint_mode"), None);
        for name in ["wsrep_cluster_status", "wsrep_ready", "wsrep_local_state", "wsrep_reject_queries"] {
            assert_eq!(without(name), Some(format!("it does not tell its {name}")));
        }
        let text = "no Galera node, and galera = true asks for one (wsrep_provider: ";
        assert_eq!(without("wsrep_provider"), Some(format!("{text}no such variable)")));
        assert_eq!(says("wsrep_provider", "none", asked), Some(format!("{text}none)")));
    }

    #[test]
    fn who_does_not_ask_learns_only_that_queries_are_refused() {
        assert_eq!(says("wsrep_local_state", "2", None), None);
        assert_eq!(says("wsrep_ready", "OFF", None).as_deref(), Some("wsrep_ready is OFF"));
        assert_eq!(unready(&Facts::from([("wsrep_provider", "none"), ("wsrep_ready", "OFF")]), None), None);
        let dirty =
            [("wsrep_provider", "/lib/galera.so"), ("wsrep_ready", "OFF"), ("wsrep_dirty_reads", "1")];
        assert_eq!(unready(&Facts::from(dirty), None), None);
    }
}
