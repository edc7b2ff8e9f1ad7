//! The tallies of servers. A tally is of a place, as `max-connections` and a
//! server's own limit are: when a reload gives the server there another name,
//! its sessions are that name's from then on.

use crate::shared::{PoolTally, ServerTally};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use vipd_core::settings::{Host, Server};

/// Those of all servers that are configured, and of those that were and have sessions.
#[derive(Debug, Default)]
pub(crate) struct Tallies(HashMap<Place, Vec<Arc<ServerTally>>>);

/// A pool's name, and the place of one of its servers.
type Place = (String, Host, u16);

impl Tallies {
    /// Those of a pool's servers, in their order.
    pub(crate) fn of(&mut self, pool: &PoolTally, servers: &[Server]) -> Vec<Arc<ServerTally>> {
        let mut found = vec![None; servers.len()];
        let mut find = |vanished: bool, any_name: bool| {
            for (server, found) in servers.iter().zip(&mut found) {
                if found.is_none() && server.vanished.is_some() == vanished {
                    *found = self.take(pool, server, any_name);
                }
            }
        };
        // What only has another name now is no server that vanished.
        find(false, false);
        find(false, true);
        find(true, false);
        let all = (0..).zip(servers).zip(found).map(|((position, server), found)| {
            let tally = found.unwrap_or_else(|| Arc::new(ServerTally::new(pool, &server.name)));
            tally.call(&server.name);
            tally.rate.set(server.max_rate);
            tally.sessions.place(position);
            self.0.entry(place(pool, server)).or_default().push(Arc::clone(&tally));
            tally
        });
        all.collect()
    }

    /// That of a server's place, if it has the server's name or may have another.
    fn take(&mut self, pool: &PoolTally, server: &Server, any_name: bool) -> Option<Arc<ServerTally>> {
        let there = self.0.get_mut(&place(pool, server))?;
        let at = there.iter().position(|t| any_name || *t.name() == server.name)?;
        Some(there.swap_remove(at))
    }

    /// Forgets those that nobody has any more.
    pub(crate) fn forget_unused(&mut self) {
        self.0.retain(|_, there| {
            there.retain(|tally| Arc::strong_count(tally) > 1);
            !there.is_empty()
        });
    }

    /// The sessions where a server was and is no more, by pool and the name
    /// that it had there; `now` are the tallies of all servers as they are.
    pub(crate) fn former(&self, now: &[Vec<Arc<ServerTally>>]) -> HashMap<(String, String), u32> {
        let now: HashSet<_> = now.iter().flatten().map(Arc::as_ptr).collect();
        let mut former = HashMap::new();
        for tally in self.0.values().flatten().filter(|t| !now.contains(&Arc::as_ptr(t))) {
            *former.entry((tally.pool.clone(), tally.name().to_string())).or_default() +=
                tally.sessions.get();
        }
        former
    }
}

fn place(pool: &PoolTally, server: &Server) -> Place {
    (pool.name.clone(), server.host.clone(), server.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use vipd_core::settings::Vanished;

    fn server(name: &str, last: u8) -> Server {
        Server::new(name, Host::Address(IpAddr::from([10, 77, 0, last])), 3306)
    }

    fn same(a: &Arc<ServerTally>, b: &Arc<ServerTally>) -> bool {
        Arc::ptr_eq(a, b)
    }

    #[test]
    fn a_tally_is_of_a_place_whatever_the_name_there() {
        let (pool, mut tallies) = (PoolTally::new("p"), Tallies::default());
        let first = tallies.of(&pool, &[server("db1", 21), server("db2", 22)]);
        assert!(first[1].sessions.take(9));
        // Two names change places.
        let swapped = tallies.of(&pool, &[server("db1", 22), server("db2", 21)]);
        assert!(same(&swapped[0], &first[1]) && same(&swapped[1], &first[0]));
        assert_eq!((&**first[1].name(), first[1].sessions.get()), ("db1", 1));
        // Another name, and what is left of the old one, which comes first or last.
        let gone = Server { vanished: Some(Vanished::File), ..server("db1", 22) };
        for servers in [[server("a", 22), gone.clone()], [gone, server("a", 22)]] {
            let renamed = tallies.of(&pool, &servers);
            let (a, gone) = if servers[0].name == "a" { (0, 1) } else { (1, 0) };
            assert!(same(&renamed[a], &first[1]) && !same(&renamed[gone], &first[1]));
            assert_eq!(renamed[gone].sessions.get(), 0, "nothing keeps it");
        }
    }

    #[test]
    fn a_server_that_went_to_another_place_counts_anew_and_what_is_left_is_known() {
        let (pool, mut tallies) = (PoolTally::new("p"), Tallies::default());
        let before = tallies.of(&pool, &[server("db1", 21)]);
        assert!(before[0].sessions.take(9));
        let now = vec![tallies.of(&pool, &[server("db1", 22)])];
        assert_eq!((now[0][0].sessions.get(), before[0].sessions.get()), (0, 1));
        tallies.forget_unused();
        let key = ("p".to_owned(), "db1".to_owned());
        assert_eq!(tallies.former(&now).get(&key), Some(&1));
        // One that vanished keeps its own, and has it when it is back.
        let gone = Server { vanished: Some(Vanished::Name), ..server("db1", 22) };
        assert!(same(&tallies.of(&pool, &[gone])[0], &now[0][0]));
        assert!(same(&tallies.of(&pool, &[server("db1", 22)])[0], &now[0][0]));
        drop(before);
        tallies.forget_unused();
        assert_eq!(tallies.former(&now).get(&key), None);
    }
}
