//! What is served: every zone, the keys, the settings; swapped whole at a reload.

use crate::cookie::Cookies;
use crate::limit::Complaints;
use crate::metrics::Metrics;
use crate::name::{self, Wire};
use crate::tsig::Keys;
use crate::zone::Zone;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use vipd_config::dnsd::{self, Peer, RateLimit};

/// How long a writer asks before it stands in the queue, where it would hold up queries.
const ASK_FOR: Duration = Duration::from_millis(200);

/// A zone that is served. Only the writer's thread changes it.
pub struct ServedZone {
    /// The apex.
    pub origin: Wire,
    zone: RwLock<Zone>,
    /// The newest serial, for those who tell the secondaries.
    pub serial: watch::Sender<u32>,
    /// Why the last write to the journal failed.
    journal_error: ArcSwapOption<String>,
}

impl ServedZone {
    /// Takes a zone into service.
    #[must_use]
    pub fn new(zone: Zone) -> Arc<Self> {
        let (serial, _) = watch::channel(zone.serial());
        let origin = zone.origin().clone();
        Arc::new(Self { origin, zone: RwLock::new(zone), serial, journal_error: ArcSwapOption::empty() })
    }

    /// The zone, to read.
    pub fn read(&self) -> RwLockReadGuard<'_, Zone> {
        // A panic ends the process in release; a zone is never half changed.
        self.zone.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why updates are refused, if they are: the journal cannot be written.
    #[must_use]
    pub fn journal_error(&self) -> Option<String> {
        self.journal_error.load().as_deref().cloned()
    }

    /// Says how the last write to the journal went; whether that is news, so
    /// that it is logged once.
    pub fn journal_was_written(&self, result: Result<(), String>) -> bool {
        let now = result.err();
        let before = self.journal_error.swap(now.clone().map(Arc::new));
        before.as_deref() != now.as_ref()
    }

    /// The zone, to change.
    pub fn write(&self) -> RwLockWriteGuard<'_, Zone> {
        // Someone who waits in the lock's queue holds up the readers behind:
        // queries would wait for a transfer that is read. So this asks first.
        let begun = Instant::now();
        while begun.elapsed() < ASK_FOR {
            if let Ok(zone) = self.zone.try_write() {
                return zone;
            }
            std::thread::yield_now();
        }
        self.zone.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A zone with its settings.
#[derive(Clone)]
pub struct Serving {
    /// The zone.
    pub zone: Arc<ServedZone>,
    /// Its settings.
    pub settings: Arc<dnsd::Zone>,
}

impl Serving {
    /// Whether somebody may transfer the zone: by the key that signed, or from where.
    #[must_use]
    pub fn may_transfer(&self, key: Option<&str>, from: IpAddr) -> bool {
        self.settings.allow_transfer.iter().any(|peer| match peer {
            Peer::Key(name) => key == Some(name),
            Peer::Network(network) => network.contains(from),
        })
    }
}

/// Everything that an answer depends on.
pub struct Served {
    zones: HashMap<Wire, Serving>,
    /// Who may sign.
    pub keys: Keys,
    /// `[rate-limit]`.
    pub rate_limit: RateLimit,
}

impl Served {
    /// Puts zones into service.
    #[must_use]
    pub fn new(zones: impl IntoIterator<Item = Serving>, keys: Keys, rate_limit: RateLimit) -> Self {
        let zones: HashMap<_, _> =
            zones.into_iter().map(|serving| (serving.zone.origin.clone(), serving)).collect();
        Self { zones, keys, rate_limit }
    }

    /// The zone that a name is in: the deepest of several.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&Serving> {
        name::upwards(name).find_map(|name| self.zones.get(name))
    }

    /// The zone with exactly this apex.
    #[must_use]
    pub fn get(&self, origin: &[u8]) -> Option<&Serving> {
        self.zones.get(origin)
    }

    /// Every zone, by name.
    #[must_use]
    pub fn zones(&self) -> Vec<&Serving> {
        let mut zones: Vec<_> = self.zones.values().collect();
        zones.sort_by(|a, b| a.zone.origin.cmp(&b.zone.origin));
        zones
    }
}

/// What all threads share.
pub struct Shared {
    /// What is served now.
    pub served: ArcSwap<Served>,
    /// DNS cookies.
    pub cookies: Cookies,
    /// Counters.
    pub metrics: Metrics,
    /// Lines about what anybody can cause.
    pub complaints: Complaints,
    /// The same of updates with a good signature that were not done for this server's own sake.
    pub failures: Complaints,
    /// The addresses that are served.
    pub listen: ArcSwap<Vec<SocketAddr>>,
    reload_error: ArcSwapOption<String>,
}

impl Shared {
    /// What threads share from the start.
    #[must_use]
    pub fn new(served: Served, cookies: Cookies) -> Self {
        Self {
            served: ArcSwap::from_pointee(served),
            cookies,
            metrics: Metrics::default(),
            complaints: Complaints::default(),
            failures: Complaints::default(),
            listen: ArcSwap::default(),
            reload_error: ArcSwapOption::empty(),
        }
    }

    /// Why the last reload was not done, if so.
    #[must_use]
    pub fn reload_error(&self) -> Option<String> {
        self.reload_error.load().as_deref().cloned()
    }

    /// Says how the last reload went.
    pub fn was_reloaded(&self, result: Result<(), String>) {
        self.reload_error.store(result.err().map(Arc::new));
    }
}
