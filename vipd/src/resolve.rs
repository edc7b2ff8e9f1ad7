//! Names of servers to addresses, again and again.
//!
//! One task for a name at a port of a pool, however many servers are there: the
//! proxies may be at one of its ports and not at another. A name is looked up in
//! `/etc/hosts` and then in the DNS (`/etc/resolv.conf`); both files are read
//! anew when they change. It is looked up again when its time to live is over,
//! and earlier on request, when a connection or a check has failed. A lookup
//! that fails keeps what was known; nothing ever becomes empty. Addresses at
//! which the proxies themselves are ([`Own`]) are left out, and told.
//!
//! Runs on the runtime given to [`Resolver::start`], which must not be the
//! election's.

mod discovery;
mod system;

pub use discovery::{Discovered, Discovery};

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
pub(crate) use system::left_out;
use system::{Answer, Found, System, local};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use vipd_core::settings::{Family, Host, Own, Pool, Resolve};

/// Bounds of the time until a name is looked up again, whatever its time to live.
const TTL_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Lookups on request are no closer to each other than this: a dead server
/// fails a check a second, for days.
const EARLY_EVERY: Duration = Duration::from_secs(2);
/// Times until a failed lookup is repeated; the last one stays.
const RETRY: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
];
/// Look-ups in a row, a second and then two apart, that say a name has lost
/// all its addresses of one family, until that is believed. A name server
/// that says so for a moment would cost a primary its sessions there; one that
/// cannot be asked says nothing at all.
const BELIEVED: usize = 3;

/// What is known of a server's name; sent when it changes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resolved {
    /// The generation of the settings in which `pool` and `server` are
    /// positions; one of an older generation waited in the queue during a
    /// reload and is to be dropped (it is sent again).
    pub generation: u64,
    /// The pool, as a position in the list of pools.
    pub pool: usize,
    /// The server, as a position in the pool.
    pub server: usize,
    /// Its addresses, the preferred one first: IPv4 before IPv6 on a host
    /// that has IPv4. Those last known if the latest lookup failed; empty only
    /// if none ever succeeded, or all that was known is `unfit` now.
    pub addresses: Arc<[IpAddr]>,
    /// Addresses that were known and where the proxies themselves are now:
    /// nobody may keep them.
    pub unfit: Arc<[IpAddr]>,
    /// Why the latest lookup failed, if it did, or what was left out of its answer.
    pub problem: Option<Arc<str>>,
}

/// Looks up the names of all servers; ends when it is dropped.
#[derive(Debug)]
pub struct Resolver {
    runtime: Handle,
    events: mpsc::Sender<Resolved>,
    system: Arc<System>,
    names: HashMap<Asked, Task>,
    own: Arc<Own>,
    generation: u64,
    /// The host's own addresses, as it was told of them last.
    local: Vec<IpAddr>,
    /// How often they changed.
    moves: u64,
}

/// What is looked up. Where the proxies are is a matter of the pool and the port.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Asked {
    name: String,
    pool: String,
    port: u16,
}

impl Asked {
    /// What is at an address, if no server can be there.
    fn own_at(&self, address: IpAddr, own: &Own, local: &[IpAddr]) -> Option<String> {
        own.at(&self.pool, SocketAddr::new(address, self.port), local.contains(&address))
    }
}

/// The servers that have a name, as positions of pools and in them.
#[derive(Clone, Debug, Default)]
struct Places {
    generation: u64,
    servers: Vec<(usize, usize)>,
    own: Arc<Own>,
    /// How often the host's own addresses changed.
    moves: u64,
}

/// The task of a name; it ends when `places` is dropped.
#[derive(Debug)]
struct Task {
    places: watch::Sender<Places>,
    known: watch::Receiver<Known>,
    again: Arc<Notify>,
}

/// What is known of a name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Known {
    addresses: Arc<[IpAddr]>,
    /// Those that were known and are the proxies' own places now.
    unfit: Arc<[IpAddr]>,
    problem: Option<Arc<str>>,
}

impl Known {
    /// Without the addresses that are the proxies' own by now.
    fn sift(&self, is_own: impl Fn(IpAddr) -> bool) -> Self {
        let known = self.addresses.iter().chain(&*self.unfit).copied();
        let unfit = known.filter(|a| is_own(*a)).collect();
        let addresses = self.addresses.iter().copied().filter(|a| !is_own(*a)).collect();
        Self { addresses, unfit, problem: self.problem.clone() }
    }
}

/// A host's addresses as they are known at any time.
#[derive(Clone, Debug)]
pub struct Lookup {
    host: Host,
    known: watch::Receiver<Known>,
    again: Option<Arc<Notify>>,
}

impl Lookup {
    /// The addresses, preferred first, never empty; waits for the end of the
    /// first lookup.
    ///
    /// # Errors
    ///
    /// Why the name does not resolve, if it never did.
    pub async fn addresses(&mut self) -> Result<Arc<[IpAddr]>, String> {
        loop {
            let known = self.known.borrow_and_update().clone();
            if !known.addresses.is_empty() {
                return Ok(known.addresses);
            }
            if let Some(problem) = known.problem {
                return Err(format!("{} does not resolve: {problem}", self.host));
            }
            if self.known.changed().await.is_err() {
                return Err(format!("{} is not looked up any more", self.host));
            }
        }
    }

    /// Whether the first lookup has ended.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        *self.known.borrow() != Known::default()
    }

    /// Asks for a lookup before the time to live is over, since the address
    /// does not seem to be right. Does nothing if there was one just now.
    pub fn refresh(&self) {
        if let Some(again) = &self.again {
            again.notify_one();
        }
    }
}

impl Resolver {
    /// Starts to look up the names of all servers of `pools`, on `runtime`,
    /// none of which is at a place of our `own`. What is found goes to `events`.
    #[must_use]
    pub fn start(runtime: Handle, pools: &[Pool], own: Own, events: mpsc::Sender<Resolved>) -> Self {
        Self::with_system(runtime, pools, own, events, System::default())
    }

    fn with_system(
        runtime: Handle,
        pools: &[Pool],
        own: Own,
        events: mpsc::Sender<Resolved>,
        system: System,
    ) -> Self {
        let (system, own) = (Arc::new(system), Arc::new(own));
        let mut resolver = Self {
            runtime,
            events,
            system,
            names: HashMap::new(),
            own,
            generation: 0,
            local: vec![],
            moves: 0,
        };
        resolver.apply(pools);
        resolver
    }

    /// Takes over changed settings: names that stay keep what is known of
    /// them, which is sent again under the new generation, which is returned.
    pub fn update(&mut self, pools: &[Pool], own: Own) -> u64 {
        self.generation += 1;
        self.own = Arc::new(own);
        self.apply(pools);
        self.generation
    }

    /// Takes note of the host's own addresses, in a stable order: what they make a
    /// place of the proxies is left out at once, and what they were is looked up.
    pub fn host_has(&mut self, local: Vec<IpAddr>) {
        if self.local == local {
            return;
        }
        self.local = local;
        self.moves += 1;
        for task in self.names.values() {
            task.places.send_modify(|places| places.moves = self.moves);
        }
    }

    /// The generation of the settings, as in [`Resolved::generation`]; starts at 0.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The addresses of a host that servers of a pool have at a port. One whose
    /// name none has there is looked up no more.
    #[must_use]
    pub fn lookup(&self, pool: &str, host: &Host, port: u16) -> Lookup {
        let asked = |name: &str| Asked { name: name.to_owned(), pool: pool.to_owned(), port };
        let (known, again) = match host {
            Host::Address(address) => (Known { addresses: [*address].into(), ..Known::default() }, None),
            Host::Name(name) => match self.names.get(&asked(name)) {
                Some(task) => {
                    let again = Some(Arc::clone(&task.again));
                    return Lookup { host: host.clone(), known: task.known.clone(), again };
                }
                None => (Known::default(), None),
            },
        };
        // The value stays readable without its sender.
        Lookup { host: host.clone(), known: watch::channel(known).1, again }
    }

    fn apply(&mut self, pools: &[Pool]) {
        let mut wanted: HashMap<Asked, Vec<(usize, usize)>> = HashMap::new();
        for (pool_at, pool) in pools.iter().enumerate() {
            for (server_at, server) in pool.servers.iter().enumerate() {
                match (&server.host, server.resolve) {
                    (Host::Name(name), Resolve::One) => {
                        let (name, pool, port) = (name.clone(), pool.name.clone(), server.port);
                        let servers = wanted.entry(Asked { name, pool, port }).or_default();
                        servers.push((pool_at, server_at));
                    }
                    // An entry that stands for many is `discovery`'s.
                    (Host::Name(_), Resolve::All | Resolve::Srv) | (Host::Address(_), _) => {}
                }
            }
        }
        self.names.retain(|asked, _| wanted.contains_key(asked));
        for (asked, servers) in wanted {
            let (own, moves) = (Arc::clone(&self.own), self.moves);
            let places = Places { generation: self.generation, servers, own, moves };
            match self.names.entry(asked.clone()) {
                Entry::Occupied(task) => {
                    task.get().places.send_replace(places);
                }
                Entry::Vacant(vacant) => {
                    let (known_sender, known) = watch::channel(Known::default());
                    let (places, places_receiver) = watch::channel(places);
                    let again = Arc::new(Notify::new());
                    let run = Run {
                        asked,
                        system: Arc::clone(&self.system),
                        places: places_receiver,
                        known: known_sender,
                        again: Arc::clone(&again),
                        events: self.events.clone(),
                    };
                    // Ends by itself when the sender of `places` is dropped.
                    drop(self.runtime.spawn(run.run()));
                    vacant.insert(Task { places, known, again });
                }
            }
        }
    }
}

/// The task of one name.
struct Run {
    asked: Asked,
    system: Arc<System>,
    places: watch::Receiver<Places>,
    known: watch::Sender<Known>,
    again: Arc<Notify>,
    events: mpsc::Sender<Resolved>,
}

impl Run {
    async fn run(mut self) {
        let mut wanted = self.places.clone();
        tokio::select! {
            () = self.lookups() => {}
            () = async { while wanted.changed().await.is_ok() {} } => {}
        }
    }

    /// Looks the name up until nobody takes what is found.
    async fn lookups(&mut self) {
        let (mut failures, mut doubts) = (0, 0);
        loop {
            let start = Instant::now();
            let found = self.system.find(&self.asked.name).await;
            let Places { own, moves, .. } = self.places.borrow().clone();
            let local = local();
            let own_at = |address| self.asked.own_at(address, &own, &local);
            let found = found.sift(own_at);
            let before = self.known.borrow().clone();
            let kept = before.sift(|address| own_at(address).is_some());
            doubts = if loses_family(&found, &kept) { doubts + 1 } else { 0 };
            let known = merge(&found, &kept, doubts >= BELIEVED);
            let wait = match (&known.problem, found.ttl) {
                (None, ttl) => {
                    failures = 0;
                    let doubted = doubts.checked_sub(1).filter(|_| doubts < BELIEVED);
                    let soon = doubted.and_then(|d| RETRY.get(d)).copied();
                    soon.unwrap_or(ttl).clamp(TTL_BOUNDS.0, TTL_BOUNDS.1)
                }
                (Some(_), _) => {
                    let [.., longest] = RETRY;
                    failures += 1;
                    RETRY.get(failures - 1).copied().unwrap_or(longest)
                }
            };
            if known != before {
                self.tell(&before, &known);
                self.known.send_replace(known);
                if self.send().await.is_err() {
                    return;
                }
            }
            if self.rest((&own, moves), start, Instant::now() + wait).await.is_err() {
                return;
            }
        }
    }

    /// Waits until the next lookup is due, and sends again what is known when
    /// the servers' positions change. When the proxies' own places do, which
    /// addresses fit is to be found out anew, at once. When the host's own
    /// addresses do, those that do not fit any more go at once, and which fit
    /// again is found out by a lookup on request.
    async fn rest(
        &mut self,
        (own, mut moves): (&Own, u64),
        start: Instant,
        mut due: Instant,
    ) -> Result<(), Gone> {
        while *self.places.borrow().own == *own {
            let now = self.places.borrow().moves;
            if std::mem::replace(&mut moves, now) != now {
                self.leave_out();
                due = due.min(start + EARLY_EVERY);
                self.send().await?;
            }
            let again = Arc::clone(&self.again);
            tokio::select! {
                () = tokio::time::sleep_until(due) => return Ok(()),
                () = async {
                    again.notified().await;
                    tokio::time::sleep_until(start + EARLY_EVERY).await;
                } => return Ok(()),
                changed = self.places.changed() => changed.map_err(|_| Gone)?,
            }
            self.send().await?;
        }
        Ok(())
    }

    /// Takes addresses from what is known that are places of the proxies by now.
    fn leave_out(&mut self) {
        let (local, own) = (local(), Arc::clone(&self.places.borrow().own));
        let before = self.known.borrow().clone();
        let known = before.sift(|address| self.asked.own_at(address, &own, &local).is_some());
        if known != before {
            self.tell(&before, &known);
            self.known.send_replace(known);
        }
    }

    /// Logs a change.
    fn tell(&self, before: &Known, known: &Known) {
        if known.addresses != before.addresses {
            tracing::info!(name = self.asked.name, addresses = ?known.addresses, "server name resolved");
        }
        match (&before.problem, &known.problem) {
            (None, None) => {}
            (before, Some(problem)) if before.as_ref() != Some(problem) => {
                let kept = if known.addresses.is_empty() { "none" } else { "kept" };
                tracing::warn!(name = self.asked.name, problem = %problem, addresses = kept, "server name does not resolve");
            }
            (Some(_), Some(_)) | (None, Some(_)) => {}
            (Some(_), None) => tracing::info!(name = self.asked.name, "server name resolves again"),
        }
    }

    async fn send(&mut self) -> Result<(), Gone> {
        let known = self.known.borrow().clone();
        if known == Known::default() {
            return Ok(());
        }
        let Places { generation, servers, own: _, moves: _ } = self.places.borrow_and_update().clone();
        for (pool, server) in servers {
            let Known { addresses, unfit, problem } = known.clone();
            let resolved = Resolved { generation, pool, server, addresses, unfit, problem };
            self.events.send(resolved).await.map_err(|_| Gone)?;
        }
        Ok(())
    }
}

/// Nobody wants to know any more.
struct Gone;

/// The addresses of a family that were known.
fn of(before: &Known, family: Family) -> impl Iterator<Item = IpAddr> {
    before.addresses.iter().copied().filter(move |a| Family::of(*a) == family)
}

/// Whether a lookup found addresses of one family, and that there are none of
/// the other any more.
fn loses_family(found: &Found, before: &Known) -> bool {
    let lost = |family| matches!(found.of(family), Answer::Nothing(_)) && of(before, family).next().is_some();
    let has = |family: &Family| matches!(found.of(*family), Answer::Addresses(_));
    found.order.iter().any(has) && found.order.iter().any(|family| lost(*family))
}

/// What is known after a lookup: of a family whose lookup failed, what was
/// known before; of a name that has nothing any more, too. Likewise of a family
/// that a name has lost, unless that is believed.
fn merge(found: &Found, before: &Known, believed: bool) -> Known {
    let mut addresses = Vec::new();
    let mut problem = None;
    let mut any = false;
    for family in found.order {
        let answer = found.of(family);
        let old = of(before, family);
        match answer {
            Answer::Addresses(new) => {
                any = true;
                addresses.extend(new.iter().copied());
            }
            Answer::Nothing(reason) => {
                // A failure says more than the lack of the other family.
                problem.get_or_insert_with(|| Arc::from(reason.as_str()));
                if !believed {
                    addresses.extend(old);
                }
            }
            Answer::Failed(reason) => {
                problem = Some(Arc::from(reason.as_str()));
                addresses.extend(old);
            }
        }
    }
    let left_out = found.left_out.as_deref().map(Arc::from);
    if any {
        return Known { addresses: addresses.into(), problem: left_out, ..before.clone() };
    }
    Known { problem: left_out.or(problem), ..before.clone() }
}

#[cfg(test)]
mod tests;
