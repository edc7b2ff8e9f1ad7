//! Servers that are found by name: what look-ups say becomes settings.

use super::{NAME_PROBLEM, Shell};
use crate::control::api::{Event, EventKind, Level};
use crate::net::clock;
use crate::resolve::{Discovered, Discovery, left_out};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tracing::{error, info};
use vipd_core::discover::{self, Entry, Question, Target, expand};
use vipd_core::node::Settings;
use vipd_core::settings::{Host, Listener, Own, Pool};
use vipd_core::time::Time;

/// The pools as the file has them, and what their entries stand for now.
#[derive(Debug)]
pub(super) struct Found {
    file: Vec<Pool>,
    targets: discover::Found,
    discovery: Discovery,
    /// What was heard last of each entry, of which some may be no server's.
    heard: BTreeMap<Entry, Discovered>,
    /// When it is looked whether sessions are left on servers that vanished.
    look_at: Time,
}

/// What is new of an entry.
#[derive(Debug, Default)]
struct Sifted {
    /// What is wrong with what was found, unless that was known.
    problem: Option<String>,
    /// What it stands for now, if that is new.
    stands_for: Option<String>,
    /// Whether its servers are others.
    changed: bool,
}

/// Between two looks for sessions on servers that vanished. A worker that had
/// picked such a server has its session there by then.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Found {
    pub(super) fn new(file: Vec<Pool>, discovery: Discovery) -> Self {
        Self {
            file,
            targets: discover::Found::default(),
            discovery,
            heard: BTreeMap::new(),
            look_at: Time::ZERO,
        }
    }

    /// What all entries stand for now.
    pub(super) const fn targets(&self) -> &discover::Found {
        &self.targets
    }

    /// What another file's entries stand for, while these pools are in use.
    pub(super) fn follow(&self, file: &[Pool], in_use: &[Pool]) -> discover::Found {
        self.targets.follow(file, in_use)
    }

    /// Takes another file over, with what [`Found::follow`] gave.
    pub(super) fn update(&mut self, file: Vec<Pool>, targets: discover::Found) {
        self.discovery.update(&file);
        self.targets = targets;
        self.file = file;
        let heard = std::mem::take(&mut self.heard);
        self.heard = heard.into_iter().filter(|(_, found)| self.asks(found)).collect();
    }

    /// Whether the file still asks what this answers.
    fn asks(&self, found: &Discovered) -> bool {
        let Discovered { entry, question, .. } = found;
        discover::entries(&self.file).any(|(e, server)| e == *entry && Question::of(server) == *question)
    }

    /// Takes what was heard of an entry, and of that not where the proxies
    /// themselves are, with what is there: connections would come back for ever.
    fn sift(&mut self, entry: &Entry, own: &Own, local: &[IpAddr]) -> Sifted {
        let Some(Discovered { question, targets, problem, .. }) = self.heard.get(entry).cloned() else {
            return Sifted::default();
        };
        let there = |target: &Target| {
            // Where a name leads that an SRV record told, the resolver finds out.
            let Host::Address(address) = target.host else { return None };
            let place = SocketAddr::new(address, target.port);
            Some((address, own.at(&entry.pool, place, local.contains(&address))?))
        };
        let unfit: Vec<_> = targets.iter().filter_map(there).collect();
        let targets: Vec<_> = targets.into_iter().filter(|t| there(t).is_none()).collect();
        let problem = problem.into_iter().chain(left_out(&unfit)).reduce(|a, b| format!("{a}; {b}"));
        let known = self.targets.problem_of(&entry.pool, &entry.server);
        let news = problem.clone().filter(|p| known != Some(p.as_str()));
        self.targets.set_problem(entry, problem);
        let withdrawn = self.targets.withdraw(entry, |t| there(t).is_none());
        let list = targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let set = self.targets.set(entry, &question, targets);
        Sifted { problem: news, stands_for: set.then_some(list), changed: set || withdrawn }
    }
}

impl Shell {
    pub(super) fn discovered(&mut self, found: Discovered) {
        // One of before a reload may have waited in the queue.
        if self.found.asks(&found) {
            let entry = found.entry.clone();
            self.found.heard.insert(entry.clone(), found);
            if self.sift(&entry) {
                self.replace_servers();
            }
        }
    }

    /// Looks again which of what was found are places of the proxies themselves:
    /// their settings, or this host's addresses, may have changed.
    pub(super) fn sift_again(&mut self) {
        let entries: Vec<_> = self.found.heard.keys().cloned().collect();
        let changed = entries.iter().filter(|entry| self.sift(entry)).count();
        if changed > 0 {
            self.replace_servers();
        }
    }

    /// Takes what was heard of an entry, and tells what is new. True if that
    /// changes its servers.
    fn sift(&mut self, entry: &Entry) -> bool {
        let local: Vec<IpAddr> = self.interfaces.addresses().collect();
        let own = self.node.settings().own();
        let Sifted { problem, stands_for, changed } = self.found.sift(entry, &own, &local);
        let Entry { pool, server } = entry;
        if let Some(problem) = problem {
            let message = format!("{pool}/{server}: {NAME_PROBLEM}: {problem}");
            error!(kind = ?EventKind::Server, "{message}");
            self.events.push(Event::new(Level::Warning, EventKind::Server, message).server(pool, server));
        }
        if let Some(list) = stands_for {
            let message = format!("{pool}/{server} stands for {list} now");
            info!(kind = ?EventKind::Server, "{message}");
            self.events.push(Event::new(Level::Info, EventKind::Server, message).server(pool, server));
        }
        changed
    }

    /// A server that was found by name does not answer: its name may lead elsewhere by now.
    pub(super) fn look_up_again(&self, pool: &str, server: &str) {
        if let Some(entry) = self.found.targets.entry_of(pool, server) {
            self.found.discovery.refresh(entry);
        }
    }

    /// Takes those out that vanished from their names or the file, once their
    /// sessions have ended. To be called whenever time has passed.
    pub(super) fn forget_vanished(&mut self) {
        let now = clock::now();
        if !self.found.targets.has_vanished() || now < self.found.look_at {
            return;
        }
        self.found.look_at = now + LOOK_EVERY;
        let stats = self.balancer.stats();
        let in_use = |pool: &str, server: &str| {
            stats.servers.iter().any(|s| s.pool == pool && s.server == server && s.sessions > 0)
        };
        if self.found.targets.forget_vanished(in_use) {
            self.replace_servers();
        }
    }

    /// Puts the servers that are known now in use.
    fn replace_servers(&mut self) {
        let pools = expand(&self.found.file, &self.found.targets);
        let settings = Settings { pools, ..self.node.settings().clone() };
        if let Err(error) = self.put_in_use(settings) {
            error!(%error, "the servers stay as they were");
        }
    }

    /// Puts settings in use, all of them or none.
    pub(super) fn put_in_use(&mut self, new: Settings) -> Result<(), String> {
        // At one instant: a slow start's step in between would make two of one.
        let now = clock::now();
        let pools = self.node.preview_pools(&new.pools, now);
        let listeners: &[Listener] = &new.listeners;
        self.balancer.reconfigure(listeners, pools).map_err(|e| e.to_string())?;
        self.resolver.update(&new.pools, new.own());
        self.checker.update(&new.pools, &self.resolver);
        self.node.reconfigure(new, now);
        self.found.look_at = now + LOOK_EVERY;
        self.drain();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;
    use vipd_core::settings::{Bind, Cidr, ClusterSettings, Resolve, Server, VipGroup};

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 77, 0, last])
    }

    /// A VIP at this address, and a listener of the pool on all addresses of this host.
    fn own(vip: u8, pools: &[Pool]) -> Own {
        let cluster =
            ClusterSettings { name: "orders".into(), nodes: vec![], witnesses: vec![], peer_port: 7112 };
        let vip = VipGroup {
            name: "main".into(),
            addresses: Cidr::new(address(vip), 24).into_iter().collect(),
            interface: None,
            vrid: std::num::NonZeroU8::MIN,
            nodes: vec![],
            track: vec![],
        };
        let listener = Listener::new("write", Bind { address: None, port: 3306 }, 0);
        Own::of(&cluster, &[vip], &[listener], pools)
    }

    /// A reload, or an address of this host that is known only now, makes a
    /// server's place one of the proxies, and another reload takes that back:
    /// the name's records are the same all the time.
    #[tokio::test]
    async fn what_was_found_is_sifted_again_when_the_proxies_places_change() {
        let host = Host::Name("read.internal".into());
        let server = Server { resolve: Resolve::All, ..Server::new("read", host, 3306) };
        let file = vec![Pool::new("p", vec![server.clone()])];
        let discovery = Discovery::start(tokio::runtime::Handle::current(), &[], mpsc::channel(1).0);
        let mut found = Found::new(file.clone(), discovery);
        let entry = Entry { pool: "p".into(), server: "read".into() };
        let target = |last| Target { host: Host::Address(address(last)), port: 3306, rank: 0, share: 0 };
        let question = Question::of(&server);
        let targets = vec![target(31), target(100)];
        let heard = Discovered { entry: entry.clone(), question, targets, problem: None };
        assert!(found.asks(&heard));
        found.heard.insert(entry.clone(), heard);
        for (vip, local, expected, problems) in [
            (99, vec![], vec![31, 100], 0),
            (100, vec![], vec![31], 1),
            (99, vec![], vec![31, 100], 0),
            (99, vec![address(31)], vec![100], 1),
            (100, vec![address(31)], vec![], 1),
            (99, vec![], vec![31, 100], 0),
        ] {
            let own = own(vip, &file);
            let sifted = found.sift(&entry, &own, &local);
            assert!(sifted.changed, "{vip} {local:?}");
            assert_eq!(sifted.problem.iter().count(), problems, "{vip} {local:?}");
            let again = found.sift(&entry, &own, &local);
            assert!(!again.changed && again.problem.is_none(), "{again:?}: told once");
            let servers = expand(&file, &found.targets).remove(0).servers;
            let used: Vec<_> = servers.into_iter().filter(|s| s.vanished.is_none()).map(|s| s.host).collect();
            let expected: Vec<_> = expected.into_iter().map(|last| Host::Address(address(last))).collect();
            let none = [Host::Name("read.internal".into())];
            assert_eq!(used, if expected.is_empty() { &none[..] } else { &expected[..] });
        }
        // The file asks something else: an answer that waited is another's.
        let mut other = file.clone();
        other[0].servers[0].port = 3307;
        let targets = found.follow(&other, &[]);
        let late = found.heard.get(&entry).cloned().expect("it was heard");
        found.update(other, targets);
        assert!(found.heard.is_empty() && !found.asks(&late));
    }
}
