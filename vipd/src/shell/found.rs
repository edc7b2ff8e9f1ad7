//! Servers that are found by name: what look-ups say becomes settings.

use super::{NAME_PROBLEM, Shell};
use crate::control::api::{Event, EventKind, Level};
use crate::net::clock;
use crate::resolve::{Discovered, Discovery, left_out};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tracing::{error, info};
use vipd_core::discover::{self, Target, expand};
use vipd_core::node::Settings;
use vipd_core::settings::{Host, Listener, Pool};
use vipd_core::time::Time;

/// The pools as the file has them, and what their entries stand for now.
#[derive(Debug)]
pub(super) struct Found {
    file: Vec<Pool>,
    targets: discover::Found,
    discovery: Discovery,
    /// When it is looked whether sessions are left on servers that vanished.
    look_at: Time,
}

/// Between two looks for sessions on servers that vanished. A worker that had
/// picked such a server has its session there by then.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Found {
    pub(super) fn new(file: Vec<Pool>, discovery: Discovery) -> Self {
        Self { file, targets: discover::Found::default(), discovery, look_at: Time::ZERO }
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
    }
}

impl Shell {
    pub(super) fn discovered(&mut self, found: Discovered) {
        let Discovered { entry, targets, problem } = found;
        let discover::Entry { pool, server } = &entry;
        let (targets, unfit) = self.without_own(pool, targets);
        let problem = problem.into_iter().chain(left_out(&unfit)).reduce(|a, b| format!("{a}; {b}"));
        if let Some(problem) = &problem {
            let message = format!("{pool}/{server}: {NAME_PROBLEM}: {problem}");
            error!(kind = ?EventKind::Server, "{message}");
            self.events.push(Event::new(Level::Warning, EventKind::Server, message).server(pool, server));
        }
        self.found.targets.set_problem(&entry, problem);
        let list = targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if self.found.targets.set(&entry, targets) {
            let message = format!("{pool}/{server} stands for {list} now");
            info!(kind = ?EventKind::Server, "{message}");
            self.events.push(Event::new(Level::Info, EventKind::Server, message).server(pool, server));
            self.replace_servers();
        }
    }

    /// What a name leads to, and of that where the proxies themselves are,
    /// with what is there: connections would come back for ever.
    fn without_own(&self, pool: &str, targets: Vec<Target>) -> (Vec<Target>, Vec<(IpAddr, String)>) {
        let (own, mut unfit) = (self.node.settings().own(), vec![]);
        let mut is_server = |target: &Target| {
            // Where a name leads that an SRV record told, the resolver finds out.
            let Host::Address(address) = target.host else { return true };
            let local = self.interfaces.addresses().any(|a| a == address);
            let there = own.at(pool, SocketAddr::new(address, target.port), local);
            let fits = there.is_none();
            unfit.extend(there.map(|what| (address, what)));
            fits
        };
        let servers = targets.into_iter().filter(|t| is_server(t)).collect();
        (servers, unfit)
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
