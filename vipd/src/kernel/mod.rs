//! The one owner of the kernel's addresses: makes [`GroupPlan`]s so, keeps
//! them so, and tells of links.
//!
//! ```text
//!              plans: the newest of each group        events, bounded
//!   shell ───────────────► KernelHandle ──► KernelActor ──────────────► shell
//!                                             │     ▲
//!                       requests, many at once│     │ notifications, dumps
//!                              (`request`)    ▼     │ (`monitor`, rtnetlink)
//!                                             the kernel
//! ```
//!
//! Every address is put with a life: the kernel itself takes it away when this
//! process no longer renews it. An address that somebody else deletes is put
//! back at once, unless its lease is over by then: a process that was frozen
//! must not bring back what another node may own now.

mod actor;
mod held;
mod monitor;
mod passage;
mod release;
pub(crate) mod request;
mod steps;
mod sysctl;
mod table;

pub use actor::KernelActor;
pub use held::forget as forget_held;
pub use release::{Released, release_all};
pub use sysctl::restore as restore_switches;

use crate::net::{clock, is_link_local};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use vipd_core::plan::{GroupPlan, Hold};
use vipd_core::settings::Cidr;
use vipd_core::time::Time;
use vipd_core::wire::Mac;

/// The tag (IFA_PROTO) of our addresses: VRRP's IP protocol number.
pub const TAG: u8 = 112;

/// The index of the loopback interface, in every network namespace
/// (`LOOPBACK_IFINDEX` in the kernel's include/net/flow.h).
pub const LOOPBACK: u32 = 1;

/// Events that may wait for the shell. It drains them in every turn; should it
/// stall, the actor waits, and plans keep replacing each other meanwhile.
pub const EVENT_BOUND: usize = 1024;

/// An address on an interface.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Spot {
    /// The kernel's index of the interface.
    pub interface: u32,
    /// The address, with the prefix it has there.
    pub address: Cidr,
}

impl Spot {
    /// Whether it counts where the same address is on an interface: anywhere,
    /// but for link-local addresses, which are others on each link.
    fn is_near(&self, interface: u32) -> bool {
        self.interface == interface || self.interface == LOOPBACK || !is_link_local(self.address.address())
    }
}

/// What the actor needs to know before it starts.
#[derive(Clone, Debug)]
pub struct KernelSettings {
    /// Where the lists of held addresses and raised switches are kept.
    pub runtime_dir: PathBuf,
    /// Every address of every VIP group: at start none of them is held.
    pub addresses: Vec<IpAddr>,
}

/// What happened in the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KernelEvent {
    /// A plan was carried out, or not. A plan that a newer one replaced while
    /// it waited is never answered.
    Applied {
        /// The plan's group.
        group: usize,
        /// The plan's generation.
        generation: u64,
        /// Acknowledged by the kernel, or why it was refused; then
        /// some of it may be done nevertheless: plan [`Absent`] next.
        ///
        /// [`Absent`]: vipd_core::plan::Hold::Absent
        result: Result<(), String>,
    },
    /// A plan was not carried out: it waited for so long that its lease may be
    /// another node's by now. If it still holds, plan again.
    Stale {
        /// The plan's group.
        group: usize,
        /// The plan's generation.
        generation: u64,
        /// How long it waited.
        waited: Duration,
    },
    /// Somebody deleted addresses that a plan holds; they are back.
    Restored {
        /// The group.
        group: usize,
        /// The addresses.
        addresses: Vec<Cidr>,
    },
    /// Addresses that a plan holds are gone, and could not be put back.
    Lost {
        /// The group.
        group: usize,
        /// The addresses.
        addresses: Vec<Cidr>,
        /// Why.
        reason: String,
    },
    /// Somebody put the group's addresses here where its plan does not have them:
    /// anywhere, if it says not to hold them, or else at another place or with
    /// another prefix length than it has them. They are gone again from there.
    Evicted {
        /// The group.
        group: usize,
        /// The interface of each, and the address as it was there.
        copies: Vec<(String, Cidr)>,
    },
    /// Interfaces that are there, or have changed. The first such event tells
    /// of all.
    Links(Vec<Link>),
    /// An interface is gone.
    LinkRemoved {
        /// The index it had.
        index: u32,
        /// The name it had.
        name: String,
    },
}

/// An interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    /// The kernel's index of it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// It is switched on and has a carrier.
    pub up: bool,
    /// The host's own addresses on it that can be sent from, in order: no
    /// floating ones, none that duplicate address detection still holds or
    /// has refused.
    pub addresses: Vec<Cidr>,
}

/// An address that was found and removed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Leftover {
    /// The name of the interface.
    pub interface: String,
    /// The address and its prefix.
    pub address: String,
}

/// What went wrong with netlink itself, not with one request.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The sockets could not be opened.
    #[error("cannot open a netlink socket to the kernel: {0}")]
    Open(#[source] io::Error),
    /// The kernel's lists could not be read.
    #[error("cannot list the kernel's links and addresses: {0}")]
    Dump(#[source] rtnetlink::Error),
    /// An address could not be removed.
    #[error(
        "cannot remove addresses of an earlier run: {0}; CAP_NET_ADMIN is needed (run as root, or grant it)"
    )]
    Remove(#[source] io::Error),
    /// A file of the runtime directory.
    #[error("cannot use the runtime directory {path}: {source}")]
    RuntimeDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Takes plans, from any thread.
#[derive(Clone, Debug)]
pub struct KernelHandle(Arc<Shared>);

/// Plans that wait, with the time of their making.
#[derive(Debug, Default)]
struct Shared {
    plans: Mutex<BTreeMap<usize, (GroupPlan, Time)>>,
    /// Until when a group may be put there by now: at first what its newest plan
    /// says. Of as many groups as have plans with an end.
    leases: Mutex<BTreeMap<usize, Time>>,
    /// Groups that are no more, and the addresses that are configured still.
    forgotten: Mutex<Option<Forgotten>>,
    /// Who waits for a sign of life: one, the watchdog.
    asked: Mutex<Option<oneshot::Sender<()>>>,
    news: Notify,
}

#[derive(Debug)]
struct Forgotten {
    groups: Vec<usize>,
    configured: BTreeSet<IpAddr>,
}

impl Shared {
    fn leases(&self) -> MutexGuard<'_, BTreeMap<usize, Time>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another node may own a plan's addresses by now.
    fn is_over(&self, plan: &GroupPlan, now: Time) -> bool {
        let Some(until) = plan.until.filter(|_| plan.hold == Hold::Owned) else { return false };
        let by_now = self.leases().get(&plan.group).map_or(until, |extended| until.max(*extended));
        by_now <= now
    }

    fn give_sign_of_life(&self) {
        if let Some(asked) = self.asked.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Whoever asked may have given up.
            let _ = asked.send(());
        }
    }
}

impl KernelHandle {
    /// A handle without an owner behind it.
    #[cfg(test)]
    pub(crate) fn detached() -> Self {
        Self(Arc::default())
    }

    /// Gives a sign of life, once it is asked for, in the owner's place.
    #[cfg(test)]
    pub(crate) async fn live(&self) {
        self.0.news.notified().await;
        self.0.give_sign_of_life();
    }

    /// Hands a plan over. It replaces one of the same group that still waits.
    ///
    /// A plan that holds addresses is good for a third of its lease, the time
    /// after which it would be renewed anyway: one that is older when its turn
    /// comes, because the process stood still, is refused.
    pub fn submit(&self, plan: GroupPlan) {
        match plan.until {
            Some(until) => self.0.leases().insert(plan.group, until),
            None => self.0.leases().remove(&plan.group),
        };
        let mut plans = self.0.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.insert(plan.group, (plan, clock::now()));
        drop(plans);
        self.0.news.notify_one();
    }

    /// The quorum's lease of a group lasts until then by now: what its plan
    /// holds may be put back so long. Nothing is asked of the kernel.
    pub fn extend(&self, group: usize, until: Time) {
        if let Some(lease) = self.0.leases().get_mut(&group) {
            *lease = until;
        }
    }

    /// Waits until the owner of the addresses takes its next turn; false if
    /// there is none any more, or somebody else asks meanwhile.
    pub async fn answers(&self) -> bool {
        let (sign, life) = oneshot::channel();
        *self.0.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(sign);
        self.0.news.notify_one();
        life.await.is_ok()
    }

    /// The settings have changed: a group may be no more, and of all addresses
    /// only those `configured` (and those that plans hold) are floating ones.
    /// What is not is the host's own business again.
    pub fn forget(&self, group: Option<usize>, configured: BTreeSet<IpAddr>) {
        let mut forgotten = self.0.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        let mut groups = forgotten.take().map(|f| f.groups).unwrap_or_default();
        if let Some(group) = group {
            self.0.leases().remove(&group);
        }
        groups.extend(group);
        *forgotten = Some(Forgotten { groups, configured });
        drop(forgotten);
        self.0.news.notify_one();
    }
}

/// Reads what the kernel has, removes what an earlier run or anybody else left
/// of the floating addresses, and gives the parts: where plans go, the actor
/// to spawn, its events ([`KernelEvent::Links`] with every interface first),
/// and what was removed.
///
/// # Errors
///
/// If netlink cannot be used, or an address not be removed.
pub async fn start(
    settings: KernelSettings,
) -> Result<(KernelHandle, KernelActor, mpsc::Receiver<KernelEvent>, Vec<Leftover>), KernelError> {
    let shared = Arc::new(Shared::default());
    let (sender, events) = mpsc::channel(EVENT_BOUND);
    let (actor, removed) = KernelActor::new(settings, Arc::clone(&shared), sender).await?;
    Ok((KernelHandle(shared), actor, events, removed))
}
