//! The tallies of servers. A tally is of a place in a pool, as `max-connections`
//! and a server's own limit are: when a reload gives the server there another
//! name, its sessions are that name's from then on. The place of a server with
//! a name is where that leads: while one of its addresses stays it is the same,
//! and when none does, what is there is counted anew. Two pools have a tally
//! each, also of the same place.

use crate::shared::{PoolTally, ServerTally};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use vipd_core::settings::{Host, Server};

/// Those of all servers that are configured, and of those that were and have
/// sessions; by pool.
#[derive(Debug, Default)]
pub(crate) struct Tallies(HashMap<String, Vec<Known>>);

/// A tally, and the place that it is of.
#[derive(Debug)]
struct Known {
    at: Vec<SocketAddr>,
    /// What the file says of it, for as long as nobody knows where that leads.
    named: (Host, u16),
    tally: Arc<ServerTally>,
}

/// Those of a pool as it was, each until a server of the pool as it is has it.
struct Before {
    known: Vec<Option<Known>>,
    at: HashMap<SocketAddr, Vec<usize>>,
    named: HashMap<(Host, u16), Vec<usize>>,
}

impl Before {
    fn new(known: Vec<Known>) -> Self {
        let (mut at, mut named) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (i, known) in known.iter().enumerate() {
            known.at.iter().for_each(|a| at.entry(*a).or_default().push(i));
            named.entry(known.named.clone()).or_default().push(i);
        }
        Self { known: known.into_iter().map(Some).collect(), at, named }
    }

    /// That of a server's place, if it has the server's name or may have another.
    fn take(&mut self, server: &Server, at: &[SocketAddr], any_name: bool) -> Option<Arc<ServerTally>> {
        let named = self.named.get(&(server.host.clone(), server.port)).into_iter().flatten();
        let unplaced =
            |i: &&usize| self.known[**i].as_ref().is_some_and(|k| at.is_empty() || k.at.is_empty());
        let there = at.iter().filter_map(|a| self.at.get(a)).flatten();
        let fits = |i: &&usize| {
            let known = self.known[**i].as_ref();
            known.is_some_and(|k| any_name || *k.tally.name() == server.name)
        };
        // Those that servers had come before those that are left over.
        let found = there.chain(named.filter(unplaced)).filter(fits).copied().min()?;
        self.known[found].take().map(|known| known.tally)
    }
}

impl Tallies {
    /// Those of a pool's servers, each of which is at some addresses, in their order.
    pub(crate) fn of(
        &mut self,
        pool: &PoolTally,
        servers: &[(&Server, &[SocketAddr])],
    ) -> Vec<Arc<ServerTally>> {
        let mut before = Before::new(self.0.remove(&pool.name).unwrap_or_default());
        let mut found = vec![None; servers.len()];
        // What only has another name now is no server that vanished.
        for (vanished, any_name) in [(false, false), (false, true), (true, false)] {
            for ((server, at), found) in servers.iter().zip(&mut found) {
                if found.is_none() && server.vanished.is_some() == vanished {
                    *found = before.take(server, at, any_name);
                }
            }
        }
        let mut known = Vec::with_capacity(servers.len());
        let all = (0..).zip(servers).zip(found).map(|((position, (server, at)), found)| {
            let tally = found.unwrap_or_else(|| Arc::new(ServerTally::new(pool, &server.name)));
            tally.call(&server.name);
            tally.rate.set(server.max_rate);
            tally.sessions.place(position);
            let named = (server.host.clone(), server.port);
            known.push(Known { at: at.to_vec(), named, tally: Arc::clone(&tally) });
            tally
        });
        let all = all.collect();
        known.extend(before.known.into_iter().flatten());
        self.0.insert(pool.name.clone(), known);
        all
    }

    /// Forgets those that nobody has any more.
    pub(crate) fn forget_unused(&mut self) {
        self.0.retain(|_, known| {
            known.retain(|k| Arc::strong_count(&k.tally) > 1);
            !known.is_empty()
        });
    }

    /// The sessions where a server was and is no more, by pool and the name
    /// that it had there; `now` are the tallies of all servers as they are.
    pub(crate) fn former(&self, now: &[Vec<Arc<ServerTally>>]) -> HashMap<(String, String), u32> {
        let now: HashSet<_> = now.iter().flatten().map(Arc::as_ptr).collect();
        let mut former = HashMap::new();
        let all = self.0.values().flatten().map(|k| &k.tally);
        for tally in all.filter(|t| !now.contains(&Arc::as_ptr(t))) {
            *former.entry((tally.pool.clone(), tally.name().to_string())).or_default() +=
                tally.sessions.get();
        }
        former
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use vipd_core::settings::Vanished;

    fn server(name: &str, last: u8) -> Server {
        Server::new(name, Host::Address(IpAddr::from([10, 77, 0, last])), 3306)
    }

    /// The tallies of servers with addresses.
    fn of<'a>(
        tallies: &mut Tallies,
        pool: &PoolTally,
        servers: impl IntoIterator<Item = &'a Server>,
    ) -> Vec<Arc<ServerTally>> {
        let servers: Vec<_> = servers.into_iter().map(|s| (s, at(s))).collect();
        let servers: Vec<_> = servers.iter().map(|(s, at)| (*s, at.as_slice())).collect();
        tallies.of(pool, &servers)
    }

    fn at(server: &Server) -> Vec<SocketAddr> {
        match server.host {
            Host::Address(address) => vec![SocketAddr::new(address, server.port)],
            Host::Name(_) => vec![],
        }
    }

    fn same(a: &Arc<ServerTally>, b: &Arc<ServerTally>) -> bool {
        Arc::ptr_eq(a, b)
    }

    #[test]
    fn a_tally_is_of_a_place_whatever_the_name_there() {
        let (pool, mut tallies) = (PoolTally::new("p"), Tallies::default());
        let first = of(&mut tallies, &pool, &[server("db1", 21), server("db2", 22)]);
        assert!(first[1].sessions.take(9));
        // Two names change places.
        let swapped = of(&mut tallies, &pool, &[server("db1", 22), server("db2", 21)]);
        assert!(same(&swapped[0], &first[1]) && same(&swapped[1], &first[0]));
        assert_eq!((&**first[1].name(), first[1].sessions.get()), ("db1", 1));
        // Another name, and what is left of the old one, which comes first or last.
        let gone = Server { vanished: Some(Vanished::File), ..server("db1", 22) };
        for servers in [[server("a", 22), gone.clone()], [gone, server("a", 22)]] {
            let renamed = of(&mut tallies, &pool, &servers);
            let (a, gone) = if servers[0].name == "a" { (0, 1) } else { (1, 0) };
            assert!(same(&renamed[a], &first[1]) && !same(&renamed[gone], &first[1]));
            assert_eq!(renamed[gone].sessions.get(), 0, "nothing keeps it");
        }
    }

    #[test]
    fn a_server_that_went_to_another_place_counts_anew_and_what_is_left_is_known() {
        let (pool, mut tallies) = (PoolTally::new("p"), Tallies::default());
        let before = of(&mut tallies, &pool, &[server("db1", 21)]);
        assert!(before[0].sessions.take(9));
        let now = vec![of(&mut tallies, &pool, &[server("db1", 22)])];
        assert_eq!((now[0][0].sessions.get(), before[0].sessions.get()), (0, 1));
        tallies.forget_unused();
        let key = ("p".to_owned(), "db1".to_owned());
        assert_eq!(tallies.former(&now).get(&key), Some(&1));
        // One that vanished keeps its own, and has it when it is back.
        let gone = Server { vanished: Some(Vanished::Name), ..server("db1", 22) };
        assert!(same(&of(&mut tallies, &pool, &[gone])[0], &now[0][0]));
        assert!(same(&of(&mut tallies, &pool, &[server("db1", 22)])[0], &now[0][0]));
        drop(before);
        tallies.forget_unused();
        assert_eq!(tallies.former(&now).get(&key), None);
    }

    #[test]
    fn a_name_is_at_the_place_where_it_leads() {
        let place = |last: u8| SocketAddr::from(([10, 77, 0, last], 3306));
        let db1 = Server::new("db1", Host::Name("db1.internal".into()), 3306);
        let (p, q) = (PoolTally::new("p"), PoolTally::new("q"));
        let mut tallies = Tallies::default();
        let mut leads = |pool: &PoolTally, server: &Server, to: &[u8]| {
            let at: Vec<_> = to.iter().map(|last| place(*last)).collect();
            tallies.of(pool, &[(server, &at)]).remove(0)
        };
        // Not resolved yet, resolved, and with an address more or less.
        let first = leads(&p, &db1, &[]);
        for to in [&[21][..], &[21, 22], &[22], &[22, 21]] {
            assert!(same(&leads(&p, &db1, to), &first), "{to:?}");
        }
        assert!(first.sessions.take(1), "one that it has from now on");
        // Another pool that has the same name counts for itself.
        assert!(!same(&leads(&q, &db1, &[22]), &first));
        // It leads elsewhere: what is there is counted anew, until it is back.
        let moved = leads(&p, &db1, &[23]);
        assert_eq!((moved.sessions.get(), first.sessions.get()), (0, 1));
        assert!(same(&leads(&p, &db1, &[21]), &first));
        // The file has the address instead of the name, under another name even.
        assert!(same(&leads(&p, &server("db1", 21), &[21]), &first));
        assert!(same(&leads(&p, &server("a", 21), &[21]), &first));
        assert_eq!(**first.name(), *"a");
    }

    /// Two names that change places, by their records alone.
    #[test]
    fn names_that_change_places_take_no_count_along() {
        let place = |last: u8| vec![SocketAddr::from(([10, 77, 0, last], 3306))];
        let named = |name: &str| Server::new(name, Host::Name(format!("{name}.internal")), 3306);
        let (a, b) = (named("a"), named("b"));
        let (pool, mut tallies) = (PoolTally::new("p"), Tallies::default());
        let (at, other) = (place(21), place(22));
        let before = tallies.of(&pool, &[(&a, &at), (&b, &other)]);
        let after = tallies.of(&pool, &[(&a, &other), (&b, &at)]);
        assert!(same(&after[0], &before[1]) && same(&after[1], &before[0]));
    }
}
