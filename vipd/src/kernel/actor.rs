//! The task that owns the addresses.

mod watch;

use super::monitor::{Batch, Monitor};
use super::passage::{self, Passage, Passages};
use super::release::remove_leftovers;
use super::request::{BATCH, Life, Refusal, Request, Requester, deletions, is_gone};
use super::steps::{Placed, Steps, steps};
use super::sysctl::{Switch, Switches};
use super::table::Table;
use super::{
    Forgotten, KernelError, KernelEvent, KernelSettings, LOOPBACK, Leftover, Link, Shared, Spot, held,
};
use crate::net::{clock, is_link_local};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};
use vipd_core::plan::{GroupPlan, Hold};
use vipd_core::settings::{Cidr, Family};
use vipd_core::time::Time;
use watch::Reading;

/// A pause between two attempts to read everything anew.
const RESYNC_PAUSE: Duration = Duration::from_millis(100);

/// The one owner of addresses. Spawn [`KernelActor::run`].
pub struct KernelActor {
    shared: Arc<Shared>,
    events: mpsc::Sender<KernelEvent>,
    requester: Requester,
    monitor: Monitor,
    table: Table,
    groups: BTreeMap<usize, Group>,
    /// Where planned addresses are, and whose they are.
    places: BTreeMap<(u32, IpAddr), usize>,
    /// The addresses of all groups, by the configuration.
    configured: BTreeSet<IpAddr>,
    /// These, and what plans still have.
    floating: BTreeSet<IpAddr>,
    /// Links as they were last told of.
    told: BTreeMap<u32, Link>,
    switches: Switches,
    runtime_dir: PathBuf,
    /// The list of held addresses as last written.
    listed: held::Held,
    /// A plan changed more than lives since the list and the switches were
    /// brought up to date.
    unsettled: bool,
    /// Notifications were lost, or the monitor itself.
    stale: Option<Stale>,
    /// When to read everything anew, the next time that it is needed.
    retry: Instant,
    /// Everything is being read anew.
    reading: Option<Reading>,
    /// What packets of connections of former owners take.
    passages: Passages,
}

/// Why the table of links and addresses cannot be trusted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stale {
    /// The kernel dropped notifications.
    Overrun,
    /// The connection to it broke.
    Closed,
}

/// A group's newest plan that was carried out.
struct Group {
    plan: GroupPlan,
    applied: Time,
    /// `None` if not everything could be deleted: what is there is not known.
    placed: Option<Placed>,
}

impl KernelActor {
    pub(super) async fn new(
        settings: KernelSettings,
        shared: Arc<Shared>,
        events: mpsc::Sender<KernelEvent>,
    ) -> Result<(Self, Vec<Leftover>), KernelError> {
        let KernelSettings { runtime_dir, addresses } = settings;
        let mut requester = Requester::open().map_err(KernelError::Open)?;
        let monitor = Monitor::open()?;
        let table = monitor.dump().await?;
        let floating: BTreeSet<IpAddr> = addresses.into_iter().collect();
        // A link-local address is another one on each link; what is on a group's
        // own goes with its first plan.
        let removed = remove_leftovers(&table, &mut requester, &runtime_dir, |spot, seen| {
            let address = spot.address.address();
            floating.contains(&address) && (seen.ours || !is_link_local(address))
        })?;
        for leftover in &removed {
            info!("removed {} from {}, left there by an earlier run", leftover.address, leftover.interface);
        }
        passage::remove_leftovers(Some(&floating)).await;
        let actor = Self {
            shared,
            events,
            requester,
            monitor,
            table,
            groups: BTreeMap::new(),
            places: BTreeMap::new(),
            configured: floating.clone(),
            floating,
            told: BTreeMap::new(),
            switches: Switches::new(&runtime_dir),
            runtime_dir,
            listed: held::Held::new(),
            unsettled: false,
            stale: None,
            retry: Instant::now(),
            reading: None,
            passages: Passages::new(),
        };
        Ok((actor, removed))
    }

    /// Works until the receiver of its events is dropped.
    pub async fn run(mut self) {
        let all: BTreeSet<u32> = self.table.links().collect();
        self.tell_links(&all).await;
        let shared = Arc::clone(&self.shared);
        let events = self.events.clone();
        loop {
            tokio::select! {
                biased;
                () = events.closed() => return,
                () = shared.news.notified() => self.take_plans().await,
                opened = self.passages.opened(|group, generation| {
                    self.groups.get(&group).is_some_and(|g| g.plan.generation == generation)
                }) => self.tell_opened(opened).await,
                () = tokio::time::sleep_until(self.retry), if self.stale.is_some() && self.reading.is_none() => {
                    self.read_anew();
                }
                // Plans are taken between the parts of a dump, and before what it told is put right.
                dump = watch::dumped(&mut self.reading) => self.take_dump(dump).await,
                batch = self.monitor.next(), if self.stale != Some(Stale::Closed) => match batch {
                    Batch::Messages(notices) => self.hear(notices).await,
                    Batch::Overrun(notices) => {
                        self.hear(notices).await;
                        self.lost_notices(Stale::Overrun);
                    }
                    Batch::Closed => self.lost_notices(Stale::Closed),
                },
            }
        }
    }

    async fn take_plans(&mut self) {
        self.shared.give_sign_of_life();
        let plans = {
            let mut waiting = self.shared.plans.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        for (plan, made) in plans.into_values() {
            let (group, generation) = (plan.group, plan.generation);
            self.passages.forget(group);
            let waited = clock::now() - made;
            if plan.hold != Hold::Absent && waited > plan.lease / 3 {
                warn!(group, generation, ?waited, "a plan of addresses came too late to be carried out");
                self.tell(KernelEvent::Stale { group, generation, waited }).await;
                continue;
            }
            let result = self.apply(plan).await;
            if let Err(reason) = &result {
                warn!(group, generation, "the kernel does not hold the addresses as planned: {reason}");
            } else if let Some(passage) = self.passage(group) {
                self.passages.open(group, generation, passage);
                continue;
            }
            // The shell first: what follows can wait for it, not the reverse.
            self.tell(KernelEvent::Applied { group, generation, result }).await;
        }
        self.passages.start();
        if std::mem::take(&mut self.unsettled) {
            self.settle();
        }
        let forgotten = self.shared.forgotten.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(forgotten) = forgotten {
            self.forget(forgotten).await;
        }
    }

    /// Connections that the former owner has shall live on: their packets come
    /// here from the moment of the announcement.
    fn passage(&self, group: usize) -> Option<Passage> {
        let hands_over = |g: &&Group| g.plan.hold == Hold::Silent && !g.plan.former.is_empty();
        let plan = self.groups.get(&group).filter(hands_over).map(|g| &g.plan)?;
        let link = self.table.link(plan.interface, |a| self.floating.contains(&a))?;
        let on_link = |former| link.addresses.iter().any(|own| own.contains(former));
        let addresses = plan.addresses.iter().map(|a| a.address());
        Passage::new(&link.name, addresses, &plan.former, on_link)
    }

    /// These groups may be taken over.
    async fn tell_opened(&self, opened: Vec<(usize, u64)>) {
        for (group, generation) in opened {
            self.tell(KernelEvent::Applied { group, generation, result: Ok(()) }).await;
        }
    }

    /// What is no floating address any more may be the host's own.
    async fn forget(&mut self, forgotten: Forgotten) {
        for group in forgotten.groups {
            if self.groups.get(&group).is_some_and(|g| g.plan.hold == Hold::Absent) {
                self.groups.remove(&group);
            }
        }
        self.configured = forgotten.configured;
        self.note_floating();
        let all: BTreeSet<u32> = self.table.links().collect();
        self.tell_links(&all).await;
    }

    fn note_floating(&mut self) {
        let planned = self.groups.values().flat_map(|g| g.plan.addresses.iter().map(|a| a.address()));
        self.floating = planned.chain(self.configured.iter().copied()).collect();
    }

    async fn apply(&mut self, plan: GroupPlan) -> Result<(), String> {
        let now = clock::now();
        if self.shared.is_over(&plan, now) {
            return Err("the quorum's lease ended before the plan was carried out".to_owned());
        }
        let before = self.groups.remove(&plan.group);
        let moved = before.as_ref().is_none_or(|b| b.plan.addresses != plan.addresses);
        if moved {
            self.claim(&plan);
        }
        let placed = before.as_ref().and_then(|b| b.placed.as_ref());
        let mut steps = steps(&plan, placed, || self.strays(&plan));
        if plan.hold == Hold::Absent {
            // What is another group's by now is not this one's to delete.
            let elsewhere = |spot: &Spot| {
                let place = self.places.get(&(spot.interface, spot.address.address()));
                place.is_some_and(|group| *group != plan.group)
            };
            steps.delete.retain(|spot| !elsewhere(spot));
        }
        let put = match self.prepare(&plan) {
            Ok(()) => self.put(&plan, &steps).await,
            refused @ Err(_) => refused,
        };
        if let Err(reason) = put {
            // All or nothing: what was there before is there still, and no more.
            let held = |spot: &Spot| placed.is_some_and(|p| p.spots().contains(spot));
            let undo: Vec<Spot> = steps.put.iter().filter(|spot| !held(spot)).copied().collect();
            let undone = self.delete(&undo).await;
            self.groups.extend(before.map(|b| (plan.group, b)));
            self.unsettled = true;
            undone?;
            return Err(reason);
        }
        let result = self.delete(&steps.delete).await;
        let after = result.is_ok().then(|| Placed::of(&plan));
        if after.as_ref() != placed || after.is_none() {
            self.unsettled = true;
            self.places.retain(|_, group| *group != plan.group);
            let spots = after.iter().flat_map(|p| p.spots());
            self.places.extend(spots.map(|s| ((s.interface, s.address.address()), plan.group)));
        }
        self.groups.insert(plan.group, Group { plan, applied: now, placed: after });
        if moved {
            self.note_floating();
        }
        result.map(|_| ())
    }

    /// An address is of one group: the last that planned it. After a reload
    /// groups may have other numbers.
    fn claim(&mut self, plan: &GroupPlan) {
        let claimed: BTreeSet<IpAddr> = plan.addresses.iter().map(|a| a.address()).collect();
        self.floating.extend(&claimed);
        if plan.hold == Hold::Absent {
            return;
        }
        self.places.retain(|(_, address), group| *group == plan.group || !claimed.contains(address));
        for group in self.groups.values_mut() {
            group.plan.addresses.retain(|a| !claimed.contains(&a.address()));
            if let Some(placed) = &mut group.placed {
                *placed = Placed::of(&group.plan);
            }
        }
        self.groups.retain(|_, group| !group.plan.addresses.is_empty());
    }

    /// What is left of a group's lease: nothing when the quorum's is over.
    fn left(&self, group: &Group, now: Time) -> Duration {
        if self.shared.is_over(&group.plan, now) {
            return Duration::ZERO;
        }
        (group.applied + group.plan.lease).since(now)
    }

    /// Every place that holds addresses of a plan.
    fn strays(&self, plan: &GroupPlan) -> Vec<Spot> {
        let planned: BTreeSet<IpAddr> = plan.addresses.iter().map(|a| a.address()).collect();
        let spots = self.table.spots().map(|(spot, _)| spot);
        spots
            .filter(|spot| planned.contains(&spot.address.address()) && spot.is_near(plan.interface))
            .collect()
    }

    /// What must be so before a silent address may be put on the loopback
    /// interface: else it would be answered for all the same.
    fn prepare(&mut self, plan: &GroupPlan) -> Result<(), String> {
        let ipv4 = plan.addresses.iter().any(|a| Family::of(a.address()) == Family::V4);
        if plan.hold != Hold::Silent {
            return Ok(());
        }
        if !self.table.is_up(LOOPBACK) {
            return Err("the loopback interface is down; `ip link set lo up`".into());
        }
        if ipv4 {
            let name = self.name(plan.interface)?;
            self.switches.raise(&name, Switch::ArpIgnore)?;
            self.switches.raise(&name, Switch::ArpAnnounce)?;
        }
        Ok(())
    }

    async fn put(&mut self, plan: &GroupPlan, steps: &Steps) -> Result<(), String> {
        let subnets = self.subnets(plan.interface);
        let put = |spot: &Spot| Request::Put { spot: *spot, life: life(*spot, plan.lease, &subnets) };
        let requests: Vec<_> = steps.put.iter().map(put).collect();
        for spot in &steps.put {
            if self.table.get(*spot).is_some_and(|seen| seen.permanent && !seen.ours) {
                let name = self.name(spot.interface)?;
                warn!("{} on {name} is configured by somebody else too; taken over", spot.address);
            }
        }
        self.delete(&steps.clear).await?;
        self.request(&requests, |_| false).await.map(|_| ())
    }

    /// Gives those that were there.
    async fn delete(&mut self, spots: &[Spot]) -> Result<Vec<Spot>, String> {
        self.request(&deletions(spots), is_gone).await
    }

    /// Carries requests out and gives the addresses of those that were not
    /// refused. Refusals that are not `fine` make one error of the first.
    async fn request(
        &mut self,
        requests: &[Request],
        fine: impl Fn(Errno) -> bool,
    ) -> Result<Vec<Spot>, String> {
        let mut refusals = Vec::new();
        for (number, batch) in requests.chunks(BATCH).enumerate() {
            let refused = self.requester.apply(batch).map_err(|e| format!("netlink: {e}"))?;
            refusals.extend(refused.into_iter().map(|(position, r)| (number * BATCH + position, r)));
            if (number + 1) * BATCH < requests.len() {
                // Many addresses take many milliseconds; adverts go out between.
                tokio::task::yield_now().await;
            }
        }
        let refused: BTreeSet<usize> = refusals.iter().map(|(position, _)| *position).collect();
        let done = requests.iter().enumerate().filter(|(position, _)| !refused.contains(position));
        let done: Vec<Spot> = done.map(|(_, request)| request.spot()).collect();
        let bad: Vec<&(usize, Refusal)> = refusals.iter().filter(|(_, r)| !fine(r.errno)).collect();
        let Some((position, refusal)) = bad.first() else { return Ok(done) };
        let spot = requests.get(*position).ok_or("netlink: an answer to no request")?.spot();
        let name = self.name(spot.interface)?;
        let more = if bad.len() > 1 { format!(" and {} more", bad.len() - 1) } else { String::new() };
        Err(format!("{} on {name}: {refusal}{more}", spot.address))
    }

    fn name(&self, interface: u32) -> Result<String, String> {
        let name = self.table.name(interface).map(ToOwned::to_owned);
        name.ok_or_else(|| format!("there is no interface of index {interface}"))
    }

    /// The subnets of the host's own IPv6 addresses on an interface.
    fn subnets(&self, interface: u32) -> Vec<Cidr> {
        let link = self.table.link(interface, |a| a.is_ipv4() || self.floating.contains(&a));
        link.map(|link| link.addresses).unwrap_or_default()
    }

    /// Brings the list of held addresses and the switches up to date.
    pub(super) fn settle(&mut self) {
        let (mut held, mut switches) = (held::Held::new(), BTreeSet::new());
        for group in self.groups.values() {
            let ipv4 = group.plan.addresses.iter().any(|a| Family::of(a.address()) == Family::V4);
            let name = self.table.name(group.plan.interface).unwrap_or_default();
            match group.plan.hold {
                Hold::Silent if ipv4 => {
                    switches.extend([Switch::ArpIgnore, Switch::ArpAnnounce].map(|s| (name.to_owned(), s)));
                }
                Hold::Owned if ipv4 => {
                    switches.insert((name.to_owned(), Switch::PromoteSecondaries));
                }
                Hold::Absent | Hold::Silent | Hold::Owned => {}
            }
            for spot in group.placed.iter().flat_map(|p| p.spots()) {
                let name = self.table.name(spot.interface).unwrap_or_default();
                held.insert((name.to_owned(), spot.address));
            }
        }
        self.switches.keep(&switches);
        if held != self.listed {
            if let Err(error) = held::write(&self.runtime_dir, &held) {
                warn!("cannot list the held addresses in {}: {error}", self.runtime_dir.display());
            }
            self.listed = held;
        }
    }

    /// A closed channel ends [`KernelActor::run`] at its next turn.
    async fn tell(&self, event: KernelEvent) {
        let _ = self.events.send(event).await;
    }
}

/// The life of an address. An IPv6 address makes no route to its subnet where
/// the host's own address has one: the kernel would give that route the
/// address's end (`modify_prefix_route` in net/ipv6/addrconf.c).
fn life(spot: Spot, lease: Duration, subnets: &[Cidr]) -> Life {
    let address = spot.address.address();
    let covered = address.is_ipv6() && subnets.iter().any(|own| own.contains(address));
    Life::of(lease, spot.interface != LOOPBACK && !covered)
}
