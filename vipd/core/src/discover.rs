//! Which servers there are: those of the file, those that its names lead to,
//! and those that go.
//!
//! An entry of the file may stand for as many servers as its name has addresses
//! or SRV records. [`expand`] puts the servers that were found in its place.
//! Until anything was found the entry itself stays, and is unresolved.
//!
//! A server that vanished from its name or from the file drains: it stays,
//! without new connections but checked as before, for as long as the caller says
//! that it has sessions. So does a pool that vanished from the file: what runs
//! on its servers must still hear that a primary is none any more.

use crate::settings::{Host, Pool, Resolve, Server, Vanished};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// An entry that stands for many servers: its pool's name and its own.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Entry {
    /// The pool.
    pub pool: String,
    /// The entry.
    pub server: String,
}

impl Entry {
    /// Whether a server of its pool stems from it, or stands for it until any is found.
    fn gave(&self, server: &str) -> bool {
        server.strip_prefix(&*self.server).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
    }
}

/// What is asked of an entry's name: another question has other answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question {
    /// The name.
    pub host: Host,
    /// The port of its addresses.
    pub port: u16,
    /// What it stands for.
    pub resolve: Resolve,
}

impl Question {
    /// That of an entry's settings.
    #[must_use]
    pub fn of(entry: &Server) -> Self {
        Self { host: entry.host.clone(), port: entry.port, resolve: entry.resolve }
    }
}

/// A place where a name leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// An address, or the name in an SRV record.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// Its rank (RFC 2782: "priority"): those that are not of the lowest are
    /// backup servers. 0 of an address.
    pub rank: u16,
    /// Its share beside the others of its rank. 0 of an address.
    pub share: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What is known of all entries.
#[derive(Clone, Debug, Default)]
pub struct Found {
    entries: BTreeMap<Entry, Targets>,
    /// Of entries whose latest look-up failed: why.
    problems: BTreeMap<Entry, String>,
    /// Servers that the file has no more, each with its pool as it was last.
    /// Sessions bound their number, which descriptors bound.
    removed: Vec<Pool>,
}

#[derive(Clone, Debug)]
struct Targets {
    question: Question,
    now: Vec<Target>,
    /// Those that were there before and have sessions.
    vanished: Vec<Target>,
}

impl Found {
    /// Takes what a look-up found; true if that changes anything. An empty
    /// answer changes nothing: the last good targets are kept. Nor does the
    /// answer to another question than the file's.
    pub fn set(&mut self, entry: &Entry, question: &Question, targets: Vec<Target>) -> bool {
        let new = || Targets { question: question.clone(), now: vec![], vanished: vec![] };
        let known = self.entries.entry(entry.clone()).or_insert_with(new);
        if targets.is_empty() || targets == known.now || known.question != *question {
            return false;
        }
        let place = |t: &Target| (t.host.clone(), t.port);
        let here: Vec<_> = targets.iter().map(place).collect();
        known.vanished.retain(|t| !here.contains(&place(t)));
        let before = std::mem::replace(&mut known.now, targets);
        known.vanished.extend(before.into_iter().filter(|t| !here.contains(&place(t))));
        true
    }

    /// Leaves those targets to vanish that can be no server's; true if there are any.
    pub fn withdraw(&mut self, entry: &Entry, fits: impl Fn(&Target) -> bool) -> bool {
        let Some(known) = self.entries.get_mut(entry) else { return false };
        let (stay, go) = std::mem::take(&mut known.now).into_iter().partition::<Vec<_>, _>(fits);
        known.now = stay;
        let some = !go.is_empty();
        known.vanished.extend(go);
        some
    }

    /// Takes what was wrong with an entry's latest look-up, if anything was.
    pub fn set_problem(&mut self, entry: &Entry, problem: Option<String>) {
        match problem {
            Some(problem) => self.problems.insert(entry.clone(), problem),
            None => self.problems.remove(entry),
        };
    }

    /// What was wrong with the latest look-up of the entry that this server is
    /// or stems from.
    #[must_use]
    pub fn problem_of(&self, pool: &str, server: &str) -> Option<&str> {
        let (_, problem) = self.problems.iter().find(|(e, _)| e.pool == pool && e.gave(server))?;
        Some(problem)
    }

    /// The entries of a pool with whose latest look-up something was wrong.
    pub fn problems_in<'a>(&'a self, pool: &'a str) -> impl Iterator<Item = &'a str> {
        self.problems.keys().filter(move |e| e.pool == pool).map(|e| &*e.server)
    }

    /// Whether any server has vanished and is kept for its sessions.
    #[must_use]
    pub fn has_vanished(&self) -> bool {
        !self.removed.is_empty() || self.entries.values().any(|t| !t.vanished.is_empty())
    }

    /// Forgets the vanished servers that have no sessions, as `in_use` (asked
    /// with pool and server name) tells; true if there were any.
    pub fn forget_vanished(&mut self, in_use: impl Fn(&str, &str) -> bool) -> bool {
        let mut forgotten = false;
        for (entry, targets) in &mut self.entries {
            let before = targets.vanished.len();
            targets.vanished.retain(|t| in_use(&entry.pool, &name(&entry.server, t)));
            forgotten |= targets.vanished.len() != before;
        }
        for pool in &mut self.removed {
            let before = pool.servers.len();
            pool.servers.retain(|s| in_use(&pool.name, &s.name));
            forgotten |= pool.servers.len() != before;
        }
        self.removed.retain(|pool| !pool.servers.is_empty());
        forgotten
    }

    /// What is known once the file has these pools, while those of `in_use`
    /// (which [`expand`] gave) may have sessions: what is in none of them any
    /// more has vanished, and so has what an entry's name led to that has
    /// another name now.
    #[must_use]
    pub fn follow(&self, file: &[Pool], in_use: &[Pool]) -> Self {
        let wanted: BTreeSet<Entry> = entries(file).map(|(entry, _)| entry).collect();
        let mut next = Self { removed: vec![], ..self.clone() };
        next.entries.retain(|entry, _| wanted.contains(entry));
        next.problems.retain(|entry, _| wanted.contains(entry));
        for (entry, server) in entries(file) {
            let question = Question::of(server);
            if let Some(known) = next.entries.get_mut(&entry).filter(|known| known.question != question) {
                known.question = question;
                known.vanished.append(&mut known.now);
                next.problems.remove(&entry);
            }
        }
        let left = expand(file, &next);
        let left: BTreeSet<(&str, &str)> =
            left.iter().flat_map(|p| p.servers.iter().map(|s| (&*p.name, &*s.name))).collect();
        for pool in in_use {
            let gone = pool.servers.iter().filter(|s| !left.contains(&(&*pool.name, &*s.name)));
            let gone = gone.map(|s| Server { vanished: Some(Vanished::File), ..s.clone() });
            let servers: Vec<_> = gone.collect();
            if !servers.is_empty() {
                // What a fallback is a position in has changed, and nobody comes to need it.
                next.removed.push(Pool { servers, fallback: None, ..pool.clone() });
            }
        }
        next
    }

    /// The entry that a server stems from.
    #[must_use]
    pub fn entry_of(&self, pool: &str, server: &str) -> Option<&Entry> {
        self.entries.keys().find(|e| e.pool == pool && e.gave(server))
    }
}

/// The entries of pools that stand for many servers, with their settings.
pub fn entries(pools: &[Pool]) -> impl Iterator<Item = (Entry, &Server)> {
    pools.iter().flat_map(|pool| {
        let many = pool.servers.iter().filter(|s| s.resolve == Resolve::All || s.resolve == Resolve::Srv);
        many.map(|s| (Entry { pool: pool.name.clone(), server: s.name.clone() }, s))
    })
}

/// The pools with the servers that were found in the place of their entries,
/// and with those that go. Pools that go as a whole come last.
#[must_use]
pub fn expand(pools: &[Pool], found: &Found) -> Vec<Pool> {
    let removed = |name: &str| found.removed.iter().find(|p| p.name == name).map(|p| p.servers.clone());
    let whole = found.removed.iter().filter(|gone| pools.iter().all(|p| p.name != gone.name));
    pools
        .iter()
        .map(|pool| {
            let servers = pool.servers.iter().flat_map(|s| {
                let entry = Entry { pool: pool.name.clone(), server: s.name.clone() };
                match (s.resolve, found.entries.get(&entry)) {
                    (Resolve::All | Resolve::Srv, Some(targets)) => servers_of(s, targets),
                    (Resolve::One | Resolve::All | Resolve::Srv, _) => vec![s.clone()],
                }
            });
            let servers = servers.chain(removed(&pool.name).unwrap_or_default()).collect();
            Pool { servers, ..pool.clone() }
        })
        .chain(whole.cloned())
        .collect()
}

fn servers_of(entry: &Server, targets: &Targets) -> Vec<Server> {
    let first = targets.now.iter().map(|t| t.rank).min().unwrap_or(0);
    // The target of an SRV record has a name of its own.
    let found_at = match (&entry.host, entry.resolve) {
        (Host::Name(name), Resolve::All) => Some(name.clone()),
        (Host::Name(_), Resolve::One | Resolve::Srv) | (Host::Address(_), _) => None,
    };
    let server = |t: &Target, vanished: bool| Server {
        found_at: found_at.clone(),
        host: t.host.clone(),
        port: t.port,
        name: name(&entry.name, t),
        weight: weight(entry.weight, t, &targets.now),
        backup: entry.backup || t.rank > first,
        resolve: Resolve::One,
        vanished: vanished.then_some(Vanished::Name),
        ..entry.clone()
    };
    let unresolved = targets.now.is_empty().then(|| entry.clone());
    let now = unresolved.into_iter().chain(targets.now.iter().map(|t| server(t, false)));
    now.chain(targets.vanished.iter().map(|t| server(t, true))).collect()
}

/// `read@10.77.0.31:3306`
fn name(entry: &str, target: &Target) -> String {
    format!("{entry}@{target}")
}

/// The greatest share of a rank has the entry's weight, a smaller one its part
/// of it, and none has nothing (RFC 2782: a share of 0 is a very small one).
fn weight(entry: u16, target: &Target, all: &[Target]) -> u16 {
    let greatest = all.iter().filter(|t| t.rank == target.rank).map(|t| t.share).max().unwrap_or(0);
    if greatest == 0 || entry == 0 {
        return entry;
    }
    let part = u32::from(entry) * u32::from(target.share) / u32::from(greatest);
    u16::try_from(part).unwrap_or(entry).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn entry() -> Entry {
        Entry { pool: "replicas".into(), server: "read".into() }
    }

    fn pools(resolve: Resolve) -> Vec<Pool> {
        let many = Server {
            weight: 100,
            resolve,
            max_connections: Some(7),
            ..Server::new("read", Host::Name("replicas.internal".into()), 3306)
        };
        let one = Server::new("db1", Host::Name("db1.internal".into()), 3306);
        vec![Pool::new("replicas", vec![one, many])]
    }

    fn asks(resolve: Resolve) -> Question {
        Question { host: Host::Name("replicas.internal".into()), port: 3306, resolve }
    }

    fn at(last: u8) -> Target {
        Target { host: Host::Address(IpAddr::from([10, 77, 0, last])), port: 3306, rank: 0, share: 0 }
    }

    fn show(pools: &[Pool], found: &Found) -> Vec<String> {
        let servers = expand(pools, found).remove(0).servers;
        let show = |s: &Server| {
            let mark = match (s.resolve, s.vanished) {
                (_, Some(Vanished::Name)) => " vanished",
                (_, Some(Vanished::File)) => " removed",
                (Resolve::One, None) => "",
                (Resolve::All | Resolve::Srv, None) => " unresolved",
            };
            format!("{} {}{}{mark}", s.name, s.weight, if s.backup { " backup" } else { "" })
        };
        servers.iter().map(show).collect()
    }

    #[test]
    fn an_address_is_a_server_and_one_that_vanished_drains_for_its_sessions() {
        let (pools, mut found) = (pools(Resolve::All), Found::default());
        assert_eq!(show(&pools, &found), ["db1 100", "read 100 unresolved"]);
        assert!(found.set(&entry(), &asks(Resolve::All), vec![at(31), at(32)]));
        assert!(!found.set(&entry(), &asks(Resolve::All), vec![at(31), at(32)]), "nothing new");
        assert_eq!(show(&pools, &found), ["db1 100", "read@10.77.0.31:3306 100", "read@10.77.0.32:3306 100"]);
        let first = &expand(&pools, &found)[0].servers[1];
        assert_eq!((first.max_connections, first.found_at.as_deref()), (Some(7), Some("replicas.internal")));
        assert!(!found.set(&entry(), &asks(Resolve::All), vec![]), "the last good ones are kept");
        assert!(found.set(&entry(), &asks(Resolve::All), vec![at(32), at(33)]));
        let drained = [
            "db1 100",
            "read@10.77.0.32:3306 100",
            "read@10.77.0.33:3306 100",
            "read@10.77.0.31:3306 100 vanished",
        ];
        assert_eq!(show(&pools, &found), drained);
        assert!(
            !found.forget_vanished(|pool, server| (pool, server) == ("replicas", "read@10.77.0.31:3306"))
        );
        assert!(found.has_vanished() && found.forget_vanished(|_, _| false));
        assert!(!found.has_vanished());
        assert!(
            found.set(&entry(), &asks(Resolve::All), vec![at(33)])
                && found.set(&entry(), &asks(Resolve::All), vec![at(32), at(33)])
        );
        assert!(!found.has_vanished(), "it is back");
    }

    #[test]
    fn srv_records_give_ranks_shares_and_ports() {
        let (pools, mut found) = (pools(Resolve::Srv), Found::default());
        let target =
            |name: &str, rank, share| Target { host: Host::Name(name.into()), port: 3307, rank, share };
        found.set(
            &entry(),
            &asks(Resolve::Srv),
            vec![target("a", 10, 60), target("b", 10, 20), target("c", 20, 0), target("d", 10, 0)],
        );
        assert_eq!(
            show(&pools, &found),
            ["db1 100", "read@a:3307 100", "read@b:3307 33", "read@c:3307 100 backup", "read@d:3307 1"]
        );
        assert_eq!(expand(&pools, &found)[0].servers[1].found_at, None, "it has a name of its own");
        assert_eq!(found.entry_of("replicas", "read@a:3307"), Some(&entry()));
        assert_eq!(found.entry_of("replicas", "reader@a:3307"), None);
        assert_eq!(show(&pools, &found.follow(&[], &[])), ["db1 100", "read 100 unresolved"]);
    }

    #[test]
    fn what_is_wrong_with_a_name_is_known_of_its_servers() {
        let mut found = Found::default();
        found.set_problem(&entry(), Some("NXDOMAIN".into()));
        for (pool, server, expected) in [
            ("replicas", "read", Some("NXDOMAIN")),
            ("replicas", "read@10.77.0.31:3306", Some("NXDOMAIN")),
            ("replicas", "reader", None),
            ("others", "read", None),
        ] {
            assert_eq!(found.problem_of(pool, server), expected, "{pool}/{server}");
        }
        assert_eq!(found.problems_in("replicas").collect::<Vec<_>>(), ["read"]);
        let gone = found.follow(&[], &[]);
        found.set_problem(&entry(), None);
        assert_eq!((gone.problems_in("replicas").count(), found.problems_in("replicas").count()), (0, 0));
    }

    #[test]
    fn what_the_file_loses_stays_for_its_sessions() {
        let (file, mut found) = (pools(Resolve::All), Found::default());
        found.set(&entry(), &asks(Resolve::All), vec![at(31), at(32)]);
        found.set(&entry(), &asks(Resolve::All), vec![at(32)]);
        let in_use = expand(&file, &found);
        // Without the entry.
        let mut less = file.clone();
        less[0].servers.truncate(1);
        let mut found = found.follow(&less, &in_use);
        let expected = ["db1 100", "read@10.77.0.32:3306 100 removed", "read@10.77.0.31:3306 100 removed"];
        assert_eq!(show(&less, &found), expected);
        assert!(found.has_vanished());
        assert!(found.forget_vanished(|_, server| server == "read@10.77.0.31:3306"));
        assert_eq!(show(&less, &found), ["db1 100", "read@10.77.0.31:3306 100 removed"]);
        // Without the pool: it comes after those of the file, which have positions.
        let in_use = expand(&less, &found);
        let other = vec![Pool::new("other", vec![])];
        let found = found.follow(&other, &in_use);
        let names: Vec<_> = expand(&other, &found).into_iter().map(|p| (p.name, p.servers.len())).collect();
        assert_eq!(names, [("other".to_owned(), 0), ("replicas".to_owned(), 2)]);
        // And with it again, before it has gone.
        let mut found = found.follow(&less, &expand(&other, &found));
        assert_eq!(show(&less, &found), ["db1 100", "read@10.77.0.31:3306 100 removed"]);
        assert!(found.forget_vanished(|_, _| false) && !found.has_vanished());
        assert_eq!(show(&less, &found), ["db1 100"]);
    }

    #[test]
    fn an_entry_that_gets_another_name_leaves_what_the_old_one_led_to() {
        let (mut file, mut found) = (pools(Resolve::All), Found::default());
        found.set(&entry(), &asks(Resolve::All), vec![at(31)]);
        found.set_problem(&entry(), Some("NXDOMAIN".into()));
        let in_use = expand(&file, &found);
        file[0].servers[1].host = Host::Name("others.internal".into());
        let mut found = found.follow(&file, &in_use);
        let drains = "read@10.77.0.31:3306 100 vanished";
        assert_eq!(show(&file, &found), ["db1 100", "read 100 unresolved", drains]);
        assert_eq!(found.problems_in("replicas").count(), 0, "that was the old one's");
        // An answer to the old question comes late.
        assert!(!found.set(&entry(), &asks(Resolve::All), vec![at(31)]));
        let question = Question::of(&file[0].servers[1]);
        assert!(found.set(&entry(), &question, vec![at(32)]));
        assert_eq!(show(&file, &found), ["db1 100", "read@10.77.0.32:3306 100", drains]);
        assert!(found.forget_vanished(|_, _| false));
        assert_eq!(show(&file, &found.follow(&file, &[])), ["db1 100", "read@10.77.0.32:3306 100"]);
    }

    #[test]
    fn what_can_be_no_server_any_more_drains_even_if_it_is_the_last() {
        let (file, mut found) = (pools(Resolve::All), Found::default());
        found.set(&entry(), &asks(Resolve::All), vec![at(31), at(100)]);
        assert!(found.withdraw(&entry(), |t| *t != at(100)) && !found.withdraw(&entry(), |t| *t != at(100)));
        let gone = "read@10.77.0.100:3306 100 vanished";
        assert_eq!(show(&file, &found), ["db1 100", "read@10.77.0.31:3306 100", gone]);
        assert!(found.withdraw(&entry(), |_| false) && found.forget_vanished(|_, s| s.contains("100")));
        assert_eq!(show(&file, &found), ["db1 100", "read 100 unresolved", gone]);
    }
}
