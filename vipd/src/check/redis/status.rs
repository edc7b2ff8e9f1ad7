//! What `INFO` means.

use std::time::Duration;
use vipd_core::probe::{Connections, Lag, Observation, ObservedRole};

/// The sections of `INFO` that are asked for, each with a command of its own:
/// servers before version 7 take no more than one at a time.
pub(super) const SECTIONS: [&str; 3] = ["replication", "clients", "persistence"];

/// Fields of `INFO`, `name:value` a line.
pub(super) struct Info(pub(super) String);

impl Info {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.get(name)?.parse().ok()
    }

    fn is_on(&self, name: &str) -> bool {
        self.number(name).is_some_and(|n| n != 0)
    }

    /// What a server says of itself; or its role, if that is none that a pool can want.
    pub(super) fn observe(&self) -> Result<Observation, String> {
        let role = match self.get("role") {
            // The latter is KeyDB's word for one of several that take writes.
            Some("master" | "active-replica") => ObservedRole::Primary,
            Some("slave" | "replica") => ObservedRole::Replica,
            Some(other) => return Err(other.to_owned()),
            None => return Err(String::new()),
        };
        let lag = match role {
            ObservedRole::Primary => None,
            ObservedRole::Replica => Some(self.lag()),
        };
        let connections = self.connections();
        Ok(Observation { role: Some(role), lag, unready: self.unready(), connections, upstream: None })
    }

    fn lag(&self) -> Lag {
        if self.get("master_link_status") == Some("up") {
            return match self.number("master_last_io_seconds_ago") {
                Some(seconds) => Lag::Known(Duration::from_secs(u64::from(seconds))),
                None => Lag::Unknown("it does not tell when it last heard of its primary".to_owned()),
            };
        }
        let of = |name| self.get(name).unwrap_or("?");
        let since = match self.number("master_link_down_since_seconds") {
            Some(seconds) => format!("for {:?}", Duration::from_secs(u64::from(seconds))),
            None => "since it started".to_owned(),
        };
        let primary = format!("{}:{}", of("master_host"), of("master_port"));
        Lag::Unknown(format!("its link to its primary {primary} is down {since}"))
    }

    fn unready(&self) -> Option<String> {
        if self.is_on("loading") {
            let done = self.get("loading_loaded_perc").map(|percent| format!(", {percent} % of it so far"));
            return Some(format!("it loads its data{}", done.unwrap_or_default()));
        }
        self.is_on("master_sync_in_progress").then(|| "it copies all data from its primary".to_owned())
    }

    /// All that `maxclients` limits: clients, replicas, and a cluster's links.
    fn connections(&self) -> Option<Connections> {
        let max = self.number("maxclients")?;
        let others = ["connected_slaves", "cluster_connections"].map(|name| self.number(name).unwrap_or(0));
        let used = others.into_iter().fold(self.number("connected_clients")?, u32::saturating_add);
        Some(Connections { used, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(fields: &[&str]) -> Result<Observation, String> {
        Info(format!("# Replication\r\n{}\r\n", fields.join("\r\n"))).observe()
    }

    fn lag(fields: &[&str]) -> Option<Lag> {
        seen(&[&["role:slave"], fields].concat()).ok()?.lag
    }

    #[test]
    fn every_role_is_known_or_named() {
        use ObservedRole::{Primary, Replica};
        for (role, expected) in
            [("master", Primary), ("active-replica", Primary), ("slave", Replica), ("replica", Replica)]
        {
            let seen = seen(&[&format!("role:{role}")]).map(|o| o.role);
            assert_eq!(seen, Ok(Some(expected)), "{role}");
        }
        assert_eq!(seen(&["role:sentinel"]), Err("sentinel".to_owned()));
        assert_eq!(seen(&["xrole:master"]), Err(String::new()));
    }

    #[test]
    fn a_lag_that_nobody_knows_is_never_zero() {
        let unknown = |text: &str| Some(Lag::Unknown(text.to_owned()));
        let up = "master_link_status:up";
        assert_eq!(lag(&[up, "master_last_io_seconds_ago:7"]), Some(Lag::Known(Duration::from_secs(7))));
        let silent = unknown("it does not tell when it last heard of its primary");
        assert_eq!(lag(&[up, "master_last_io_seconds_ago:-1"]), silent);
        assert_eq!(lag(&[up]), silent);
        let primary = ["master_link_status:down", "master_host:10.77.0.21", "master_port:6379"];
        let since = |seconds| [&primary[..], &[seconds]].concat();
        assert_eq!(
            lag(&since("master_link_down_since_seconds:40")),
            unknown("its link to its primary 10.77.0.21:6379 is down for 40s")
        );
        assert_eq!(
            lag(&since("master_link_down_since_seconds:-1")),
            unknown("its link to its primary 10.77.0.21:6379 is down since it started")
        );
        assert_eq!(lag(&[]), unknown("its link to its primary ?:? is down since it started"));
    }

    #[test]
    fn one_that_has_not_all_its_data_is_not_ready() {
        let unready = |fields: &[&str]| {
            seen(&[&["role:slave"], fields].concat()).ok().and_then(|o| o.unready).unwrap_or_default()
        };
        assert_eq!(unready(&["loading:0", "master_sync_in_progress:0"]), "");
        assert_eq!(
            unready(&["loading:1", "loading_loaded_perc:12.50"]),
            "it loads its data, 12.50 % of it so far"
        );
        assert_eq!(unready(&["loading:1"]), "it loads its data");
        assert_eq!(unready(&["master_sync_in_progress:1"]), "it copies all data from its primary");
    }

    #[test]
    fn all_that_counts_towards_maxclients_is_counted() {
        let of =
            |fields: &[&str]| seen(&[&["role:master"], fields].concat()).ok().and_then(|o| o.connections);
        let fields = ["connected_clients:5", "connected_slaves:2", "cluster_connections:3", "maxclients:100"];
        assert_eq!(of(&fields), Some(Connections { used: 10, max: 100 }));
        assert_eq!(of(&fields[..3]), None, "old versions do not tell");
        assert_eq!(of(&["maxclients:100", "connected_clients:-5"]), None);
    }
}
