//! What others do to addresses and links, and what is put right of it.

use super::{Group, KernelActor, RESYNC_PAUSE, Stale, life};
use crate::kernel::monitor::{Monitor, Notice};
use crate::kernel::request::Request;
use crate::kernel::steps::Placed;
use crate::kernel::sysctl::Switch;
use crate::kernel::table::{News, Seen, Table};
use crate::kernel::{KernelError, KernelEvent, Spot};
use crate::net::clock;
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use vipd_core::plan::Hold;
use vipd_core::settings::Cidr;

/// Notifications that are kept while a dump is read: some megabytes, and as many
/// as would overrun the socket's buffer. If there are more, another dump follows.
const HEARD: usize = 10_000;

impl KernelActor {
    /// Takes notifications in, and puts right what they tell of.
    pub(super) async fn observe(&mut self, notices: Vec<Notice>) {
        let (mut lost, mut strays) = (BTreeSet::new(), BTreeSet::new());
        let (mut touched, mut demoted) = (BTreeSet::new(), BTreeSet::new());
        for (message, port) in notices {
            match self.table.take(&message) {
                None => {}
                Some(News::Link(index)) => {
                    touched.insert(index);
                }
                Some(News::Renamed(index, old)) => {
                    touched.insert(index);
                    self.renamed(index, &old);
                }
                Some(News::LinkGone(index, name)) => {
                    self.told.remove(&index);
                    self.tell(KernelEvent::LinkRemoved { index, name }).await;
                }
                Some(News::AddressGone(spot)) => {
                    touched.insert(spot.interface);
                    lost.insert(spot);
                }
                Some(News::Address(spot, seen)) => {
                    touched.insert(spot.interface);
                    if self.floating.contains(&spot.address.address()) {
                        // An echo of our own request is no news.
                        strays.extend((port != self.requester.port()).then_some(spot));
                    } else if seen.secondary {
                        demoted.insert(spot);
                    }
                }
            }
        }
        self.put_right(&lost, &strays).await;
        self.reseat(&demoted);
        self.tell_links(&touched).await;
    }

    /// Switches and lists go by names.
    fn renamed(&mut self, index: u32, old: &str) {
        let new = self.table.name(index).unwrap_or_default();
        info!("{old} is called {new} now");
        self.switches.rename(old, new);
        self.settle();
    }

    /// Puts back what is missing and removes what is too much. In whose place an
    /// IPv6 address with another prefix length was, that one is back only then.
    async fn put_right(&mut self, lost: &BTreeSet<Spot>, strays: &BTreeSet<Spot>) {
        self.restore(lost).await;
        let evicted = self.evict(strays).await;
        self.restore(&evicted).await;
    }

    /// Puts back what somebody deleted.
    async fn restore(&mut self, lost: &BTreeSet<Spot>) {
        let mut of_group: BTreeMap<usize, Vec<Spot>> = BTreeMap::new();
        for spot in lost {
            if let Some(group) = self.places.get(&(spot.interface, spot.address.address())) {
                of_group.entry(*group).or_default().push(*spot);
            }
        }
        for (number, spots) in of_group {
            let Some(interface) = spots.first().map(|s| s.interface) else { continue };
            if !self.monitor.is_up(interface).await {
                // The kernel itself deletes the IPv6 addresses of an interface that is
                // set down, before it says that it is.
                continue;
            }
            if let Some(event) = self.restore_group(number, &spots).await {
                self.tell(event).await;
            }
        }
    }

    async fn restore_group(&mut self, number: usize, lost: &[Spot]) -> Option<KernelEvent> {
        let group = self.groups.get(&number)?;
        // By address: an IPv6 address may have had another prefix length.
        let lost = |spot: &&Spot| {
            let same =
                |l: &Spot| l.interface == spot.interface && l.address.address() == spot.address.address();
            lost.iter().any(same) && self.table.get(**spot).is_none()
        };
        let planned = group.placed.iter().flat_map(|placed| placed.spots());
        let spots: Vec<Spot> = planned.filter(lost).copied().collect();
        let addresses = |spots: &[Spot]| spots.iter().map(|s| s.address).collect::<Vec<Cidr>>();
        if spots.is_empty() {
            return None;
        }
        let left = self.left(group, clock::now());
        if left.is_zero() {
            let reason = "the lease ran out before it was renewed".to_owned();
            self.give_up(number);
            return Some(KernelEvent::Lost { group: number, addresses: addresses(&spots), reason });
        }
        let subnets = self.subnets(group.plan.interface);
        let put_back = |spot: &Spot| Request::PutBack { spot: *spot, life: life(*spot, left, &subnets) };
        let requests: Vec<_> = spots.iter().map(put_back).collect();
        // Back already: the news was older than our last request.
        match self.request(&requests, |errno| errno == Errno::EEXIST).await {
            Ok(back) if back.is_empty() => None,
            Ok(back) => Some(KernelEvent::Restored { group: number, addresses: addresses(&back) }),
            Err(reason) => {
                self.give_up(number);
                Some(KernelEvent::Lost { group: number, addresses: addresses(&spots), reason })
            }
        }
    }

    /// Forgets where a group is: nothing is put back until its next plan.
    fn give_up(&mut self, number: usize) {
        self.places.retain(|_, group| *group != number);
        if let Some(group) = self.groups.get_mut(&number) {
            group.placed = None;
        }
    }

    /// Deletes what somebody put where no plan has it: it would outlive the plan.
    /// Gives what it deleted.
    async fn evict(&mut self, strays: &BTreeSet<Spot>) -> BTreeSet<Spot> {
        let mut evicted: BTreeMap<usize, Vec<Spot>> = BTreeMap::new();
        for spot in strays {
            let Some(group) = self.intruded(spot) else { continue };
            match self.delete(&[*spot]).await {
                Ok(gone) if gone.is_empty() => {}
                Ok(_) => evicted.entry(group).or_default().push(*spot),
                Err(reason) => warn!("somebody put a floating address here: {reason}"),
            }
        }
        for (group, spots) in &evicted {
            let name = |spot: &Spot| self.name(spot.interface).unwrap_or_else(|_| spot.interface.to_string());
            let copies: Vec<_> = spots.iter().map(|spot| (name(spot), spot.address)).collect();
            debug!(group, ?copies, "somebody put floating addresses here; removed");
            self.tell(KernelEvent::Evicted { group: *group, copies }).await;
        }
        evicted.into_values().flatten().collect()
    }

    /// The group whose address is in a place where the group does not have it; what
    /// a group holds goes before what another may not hold.
    fn intruded(&self, spot: &Spot) -> Option<usize> {
        let address = spot.address.address();
        let has = |group: &&Group| {
            let plan = &group.plan;
            spot.is_near(plan.interface) && plan.addresses.iter().any(|a| a.address() == address)
        };
        let of_place = self.places.get(&(spot.interface, address)).and_then(|group| self.groups.get(group));
        let held = || self.groups.values().filter(|g| g.plan.hold != Hold::Absent).find(has);
        let group = of_place.or_else(held).or_else(|| self.groups.values().find(has))?;
        // By the plan, where it is not known what was placed.
        let planned = match &group.placed {
            Some(placed) => placed.spots().contains(spot),
            None => Placed::of(&group.plan).spots().contains(spot),
        };
        (!planned).then_some(group.plan.group)
    }

    /// The host's own address came back to a subnet in which a floating one
    /// had become the first: the host would use that as its source. Putting
    /// the floating ones anew makes the own address the first again.
    fn reseat(&mut self, own: &BTreeSet<Spot>) {
        for own in own {
            let before_own = |(spot, seen): &(Spot, Seen)| {
                spot.interface == own.interface
                    && spot.address.prefix() == own.address.prefix()
                    && own.address.contains(spot.address.address())
                    && self.places.contains_key(&(spot.interface, spot.address.address()))
                    && !seen.secondary
            };
            if !self.table.spots().any(|s| before_own(&s)) || !self.can_reseat(own.interface) {
                continue;
            }
            let now = clock::now();
            let mut requests = Vec::new();
            for ((interface, address), group) in &self.places {
                let Some(group) = self.groups.get(group) else { continue };
                let left = self.left(group, now);
                // What is over is no more to be put anywhere.
                let same = *interface == own.interface && own.address.contains(*address) && !left.is_zero();
                let spots = group.placed.iter().flat_map(|p| p.spots());
                let spot =
                    spots.copied().find(|s| s.interface == *interface && s.address.address() == *address);
                if let (true, Some(spot)) = (same, spot) {
                    requests.push(Request::Delete { spot });
                    requests.push(Request::Put { spot, life: life(spot, left, &[]) });
                }
            }
            info!(
                "{} is the first of its subnet again, before {} floating ones",
                own.address,
                requests.len() / 2
            );
            if let Err(error) = self.requester.apply(&requests) {
                warn!("cannot put floating addresses behind {}: {error}", own.address);
            }
        }
    }

    fn can_reseat(&self, interface: u32) -> bool {
        let name = self.table.name(interface).unwrap_or_default();
        // Without it the own address would go with the floating one.
        Switch::PromoteSecondaries.is_on(name).unwrap_or(false)
    }

    pub(super) async fn tell_links(&mut self, touched: &BTreeSet<u32>) {
        let mut news = Vec::new();
        for index in touched {
            let Some(link) = self.table.link(*index, |a| self.floating.contains(&a)) else { continue };
            if self.told.get(index) != Some(&link) {
                debug!(?link, "link");
                self.told.insert(*index, link.clone());
                news.push(link);
            }
        }
        if !news.is_empty() {
            self.tell(KernelEvent::Links(news)).await;
        }
    }

    /// What is told after a loss is not believed before a dump has ended: it may be
    /// older than what was lost. From then on all of it is told in order, and is
    /// kept for the table that is being read.
    pub(super) async fn hear(&mut self, notices: Vec<Notice>) {
        match &mut self.reading {
            Some(reading) if reading.first || !reading.complete => reading.disturbed = true,
            Some(reading) => {
                reading.note(&notices);
                self.observe(notices).await;
            }
            None if self.stale.is_some() => {}
            None => self.observe(notices).await,
        }
    }

    /// Only a dump helps. It begins at once, unless the last one did just now: in
    /// a flood of notifications plans have their turn.
    pub(super) fn lost_notices(&mut self, why: Stale) {
        self.stale = Some(why);
        if let Some(reading) = &mut self.reading {
            (reading.complete, reading.disturbed) = (false, true);
        }
        if why == Stale::Closed {
            self.reading = None;
        }
    }

    /// Begins to read everything anew.
    pub(super) fn read_anew(&mut self) {
        self.retry = Instant::now() + RESYNC_PAUSE;
        if self.stale == Some(Stale::Closed) {
            match Monitor::open() {
                Ok(monitor) => self.monitor = monitor,
                Err(error) => return warn!("{error}; trying again"),
            }
            self.stale = Some(Stale::Overrun);
        }
        self.reading = Some(Reading::begin(&self.monitor, true));
    }

    /// Takes what was read, and puts right what differs from the plans.
    pub(super) async fn take_dump(&mut self, dump: Result<Table, KernelError>) {
        let Some(reading) = self.reading.take() else { return };
        let mut table = match dump {
            Ok(table) => table,
            Err(error) => return warn!("{error}; trying again"),
        };
        if reading.first && (self.monitor.discard() || reading.disturbed) {
            // Among that is what was told before the loss: taken for news it would undo
            // what the dump says.
            self.reading = Some(Reading::begin(&self.monitor, false));
            return;
        }
        // In a flood that does not end this one counts as it is, until the next.
        if reading.complete {
            self.stale = None;
            for (message, _) in &reading.heard {
                table.take(message);
            }
        }
        self.adopt(table).await;
    }

    async fn adopt(&mut self, table: Table) {
        let gone: Vec<u32> = self.table.links().filter(|index| table.name(*index).is_none()).collect();
        for index in gone {
            self.told.remove(&index);
            let name = self.table.name(index).unwrap_or_default().to_owned();
            self.tell(KernelEvent::LinkRemoved { index, name }).await;
        }
        let before = std::mem::replace(&mut self.table, table);
        for index in before.links() {
            let (old, new) = (before.name(index).unwrap_or_default(), self.table.name(index));
            if new.is_some_and(|new| new != old) {
                self.renamed(index, old);
            }
        }
        let planned = self.groups.values().filter_map(|g| g.placed.as_ref()).flat_map(|p| p.spots());
        let lost = planned.filter(|spot| self.table.get(**spot).is_none()).copied().collect();
        let floating = |spot: &Spot| self.floating.contains(&spot.address.address());
        let strays = self.table.spots().map(|(spot, _)| spot).filter(floating).collect();
        let secondary = self.table.spots().filter(|(spot, seen)| seen.secondary && !floating(spot));
        let demoted = secondary.map(|(spot, _)| spot).collect();
        let all = self.table.links().collect();
        self.put_right(&lost, &strays).await;
        self.reseat(&demoted);
        self.tell_links(&all).await;
    }
}

/// A dump under way, while plans and notifications are taken.
pub(super) struct Reading {
    dump: Pin<Box<dyn Future<Output = Result<Table, KernelError>> + Send + Sync>>,
    /// Since notifications were lost.
    first: bool,
    /// There were notifications since it began.
    disturbed: bool,
    /// After the first: what was notified, in order, which the dump may have missed.
    heard: Vec<Notice>,
    /// That is all of it.
    complete: bool,
}

impl Reading {
    fn begin(monitor: &Monitor, first: bool) -> Self {
        Self { dump: Box::pin(monitor.dump()), first, disturbed: false, heard: vec![], complete: true }
    }

    fn note(&mut self, notices: &[Notice]) {
        if self.heard.len() + notices.len() > HEARD {
            self.complete = false;
            return;
        }
        self.heard.extend_from_slice(notices);
    }
}

/// What was read, when it is; never, while nothing is.
pub(super) async fn dumped(reading: &mut Option<Reading>) -> Result<Table, KernelError> {
    match reading {
        Some(reading) => reading.dump.as_mut().await,
        None => std::future::pending().await,
    }
}
