//! What a server says of itself: variables and status, by MySQL's names. Pure.

use super::wire::Row;
use std::collections::BTreeMap;
use vipd_core::probe::{Connections, ObservedRole};

/// The variables that say whether a server takes writes: `super_read_only`
/// is MySQL's, `innodb_read_only` is on in Aurora's readers.
const READ_ONLY: [&str; 3] = ["read_only", "super_read_only", "innodb_read_only"];

/// The global variables that are asked for, where a server has them.
const VARIABLES: [&str; 10] = [
    "read_only",
    "super_read_only",
    "innodb_read_only",
    "max_connections",
    "server_uuid",
    "wsrep_provider",
    "wsrep_desync",
    "wsrep_reject_queries",
    "wsrep_dirty_reads",
    "pxc_maint_mode",
];

/// What is asked for of the status. `SHOW STATUS` needs no privilege, and a
/// Galera node answers it whatever its state.
const STATUS: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Threads_connected', \
    'wsrep_cluster_status', 'wsrep_ready', 'wsrep_local_state', 'wsrep_local_state_comment')";

/// Asks which of the variables a server has, and for its version.
pub(super) fn which() -> String {
    let names = VARIABLES.map(|name| format!("'{name}'")).join(", ");
    format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names}, 'version')")
}

/// Asks for those of the variables that are `known`, and for the status, in
/// one round trip; `None` for a server without `read_only`. Variables by
/// `SELECT`, which costs a server less than `SHOW VARIABLES` does.
pub(super) fn question(known: &Facts) -> Option<String> {
    known.get("read_only")?;
    let asked = VARIABLES.iter().filter(|name| known.get(name).is_some());
    let asked: Vec<_> = asked.map(|name| format!("@@global.{name} AS {name}")).collect();
    Some(format!("SELECT {}; {STATUS}", asked.join(", ")))
}

/// Values by their names.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts(BTreeMap<String, String>);

impl Facts {
    /// From rows of a name and a value, as `SHOW VARIABLES` and `SHOW STATUS`
    /// give them.
    pub(super) fn named(rows: &[Row]) -> Self {
        let pair = |row: &Row| {
            let name = row.get(&["Variable_name"])??;
            Some((name.to_ascii_lowercase(), row.get(&["Value"])??.to_owned()))
        };
        Self(rows.iter().filter_map(pair).collect())
    }

    /// From the answers to [`question`]. A gateway may answer the first part only.
    pub(super) fn of(variables: &Row, status: &[Row]) -> Self {
        let mut facts = Self::named(status);
        let cells = variables.cells().map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        facts.0.extend(cells);
        facts
    }

    /// A value, by its name in small letters.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether a variable is on; one that is not there is off.
    pub(super) fn is_on(&self, name: &str) -> bool {
        // Newer servers know more words for on than one (MariaDB 12: read_only).
        self.get(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("off"))
    }

    /// Read-only if any of the variables for that is on.
    pub(super) fn role(&self) -> ObservedRole {
        match READ_ONLY.iter().any(|name| self.is_on(name)) {
            true => ObservedRole::Replica,
            false => ObservedRole::Primary,
        }
    }

    /// The connections, if the server tells both figures.
    pub(super) fn connections(&self) -> Option<Connections> {
        let number = |name| self.get(name)?.parse().ok();
        Some(Connections { used: number("threads_connected")?, max: number("max_connections")? })
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Facts {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_has_is_asked_for() {
        let known = Facts::from([("read_only", "OFF"), ("max_connections", "151"), ("version", "8.4.0")]);
        let asked = question(&known);
        let expected =
            "SELECT @@global.read_only AS read_only, @@global.max_connections AS max_connections; SHOW";
        assert!(asked.as_ref().is_some_and(|a| a.starts_with(expected)), "{asked:?}");
        assert_eq!(question(&Facts::from([("version", "8.4.0")])), None);
        for name in READ_ONLY {
            assert!(VARIABLES.contains(&name));
        }
    }

    #[test]
    fn any_kind_of_read_only_makes_a_replica() {
        let role = |pairs: [(&str, &str); 3]| Facts::from(pairs).role();
        let off = [("read_only", "0"), ("super_read_only", "OFF"), ("innodb_read_only", "0")];
        assert_eq!(role(off), ObservedRole::Primary);
        for at in 0..off.len() {
            for on in ["1", "ON", "NO_LOCK"] {
                let mut pairs = off;
                pairs[at].1 = on;
                assert_eq!(role(pairs), ObservedRole::Replica, "{pairs:?}");
            }
        }
    }

    #[test]
    fn connections_need_both_figures() {
        let variables = Row::new(&[("read_only", Some("0")), ("max_connections", Some("151"))]);
        let status = [Row::new(&[("Variable_name", Some("Threads_connected")), ("Value", Some("7"))])];
        let connections = Facts::of(&variables, &status).connections();
        assert_eq!(connections, Some(Connections { used: 7, max: 151 }));
        assert_eq!(Facts::of(&variables, &[]).connections(), None);
    }
}
