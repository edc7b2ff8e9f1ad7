//! Primaries that a reload leaves with their sessions and without an heir: of
//! what the file says now nothing tells that it is the same database. They are
//! not closed for that, but a person must know.

use vipd_balancer::ServerStats;
use vipd_core::explain::count;
use vipd_core::node::{Node, Settings};
use vipd_core::settings::{Bind, Listener, Pool, Role};

/// What a person is to be told after a reload, by the settings before it and
/// the sessions that there are now.
pub(super) fn warnings(before: &Settings, node: &Node, stats: &[ServerStats]) -> Vec<String> {
    let now = node.settings();
    let known = |p: &Pool| before.pools.iter().any(|b| b.name == p.name && !b.is_gone());
    let new: Vec<&Pool> =
        now.pools.iter().filter(|p| p.role() == Role::Primary && !p.is_gone() && !known(p)).collect();
    let Some(heir) = new.first() else { return vec![] };
    // The balancer closes sessions by their listener, once the new primary has proven itself.
    let inherited = |pool: &Pool| {
        let of = |settings: &Settings, at: usize| settings.pools.get(at).map(|p| p.name.clone());
        let old = before.listeners.iter().filter(|l| of(before, l.pool).as_ref() == Some(&pool.name));
        // The one at its address, or else of its name, unless that has another's address.
        let at = |list: &[Listener], bind: Bind| list.iter().position(|l| l.bind == bind);
        let named = |l: &Listener| {
            let same = |n: &&Listener| n.name == l.name && at(&before.listeners, n.bind).is_none();
            now.listeners.iter().find(same)
        };
        let same =
            |l: &Listener| at(&now.listeners, l.bind).map(|at| &now.listeners[at]).or_else(|| named(l));
        let wants = |at: usize| now.pools.get(at).is_some_and(|p| p.role() == Role::Primary);
        old.filter_map(same).any(|l| wants(l.pool))
    };
    let orphans = node.servers().orphans().filter(|p| !inherited(p));
    orphans
        .filter_map(|pool| {
            let has = |s: &&ServerStats| s.pool == pool.name && s.sessions > 0;
            let servers: Vec<&ServerStats> = stats.iter().filter(has).collect();
            let sessions = servers.iter().map(|s| u64::from(s.sessions)).sum();
            let end = servers.iter().map(|s| format!("vipctl sessions kill --server {}/{}", s.pool, s.server));
            (sessions > 0).then(|| {
                format!(
                    "pool {} is gone, and nothing tells that {} came in its place (they have no server and no \
                     listener in common): {} of it go on. If {} has the same data, end them, or there are writes \
                     in two places: {}",
                    pool.name,
                    heir.name,
                    count(sessions, "session"),
                    heir.name,
                    end.collect::<Vec<_>>().join("; ")
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use vipd_core::discover::{Found, expand};
    use vipd_core::settings::{Check, CheckKind, Host, MysqlCheck, Server};
    use vipd_core::time::Time;

    fn settings(pool: &str, listener: &str, port: u16, last: u8) -> Settings {
        let server = Server::new("db1", Host::Address(IpAddr::from([10, 77, 0, last])), 3306);
        let check = MysqlCheck { role: Role::Primary, ..MysqlCheck::new("vipd") };
        let check = Some(Check::new(CheckKind::Mysql(check)));
        Settings {
            pools: vec![Pool { check, ..Pool::new(pool, vec![server]) }],
            listeners: vec![Listener::new(listener, Bind { address: None, port }, 0)],
            ..crate::shell::orders::tests::settings()
        }
    }

    fn stats(pool: &str, sessions: u32) -> ServerStats {
        ServerStats { pool: pool.into(), server: "db1".into(), sessions, total: 9, ..ServerStats::default() }
    }

    /// What is told after a reload from one file to another.
    fn told(before: &Settings, mut after: Settings, sessions: u32) -> Vec<String> {
        let mut node = Node::new(before.clone(), 0, 0, Time::ZERO);
        after.pools = expand(&after.pools, &Found::default().follow(&after.pools, &before.pools));
        node.reconfigure(after, Time::ZERO);
        warnings(before, &node, &[stats("primary", sessions)])
    }

    #[test]
    fn sessions_of_a_primary_without_an_heir_are_told() {
        let before = settings("primary", "write", 3306, 21);
        let text = "pool primary is gone, and nothing tells that orders came in its place (they have no server and \
                    no listener in common): 2 sessions of it go on. If orders has the same data, end them, or there \
                    are writes in two places: vipctl sessions kill --server primary/db1";
        assert_eq!(told(&before, settings("orders", "app", 3307, 31), 2), [text]);
        for (what, after, sessions) in [
            ("no sessions", settings("orders", "app", 3307, 31), 0),
            ("the place", settings("orders", "app", 3307, 21), 2),
            ("the listener's name", settings("orders", "write", 3307, 31), 2),
            ("the listener's address", settings("orders", "app", 3306, 31), 2),
            ("the pool", settings("primary", "app", 3307, 31), 2),
            ("nothing new", Settings { pools: vec![], listeners: vec![], ..before.clone() }, 2),
        ] {
            assert_eq!(told(&before, after, sessions), Vec::<String>::new(), "{what}");
        }
    }
}
