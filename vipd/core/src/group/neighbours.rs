//! Whose the group's addresses are on the link.
//!
//! An owner hears who else claims an address. It says so and announces the
//! address again, and that is all: whoever can send a frame could otherwise
//! take the addresses away.
//!
//! A backup that sees a new owner asks who answers, and tells the owner by the
//! peer link. Where that is not the owner, the owner announces again.

use super::Group;
use crate::election::Who;
use crate::event::{Event, Kind, Level};
use crate::explain;
use crate::node::{Announcement, ConflictStatus, Inquiry, Link, Output, Proof, ProofStatus, Scope};
use crate::plan::Hold;
use crate::settings::{Cidr, Transport};
use crate::time::Time;
use crate::wire::peer::{Seen, Sighting, State};
use crate::wire::{Claim, Mac};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// A conflict of which nothing was seen for so long is over.
const CONFLICT_FOR: Duration = Duration::from_secs(60);
/// Others that claim the group's addresses are told apart up to so many:
/// whoever makes up Ethernet addresses shall cost no memory.
const CONFLICTS: usize = 4;
/// A conflict is told of again after this, one with another host after the second.
const TELL_EVERY: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(10)];
/// An address is announced against a claim no more often: two hosts that
/// answer each other at once would flood the link (RFC 5227 section 2.4).
const DEFEND_EVERY: Duration = Duration::from_secs(1);
/// Addresses of a group that a backup asks for: all move together.
const SAMPLE: usize = 8;
/// Backups that ask, by rank: more would say the same.
const ASKERS: usize = 3;
/// When a backup asks, counted from the new owner's first advert.
const ASK_AT: [Duration; 9] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
/// Nobody answers if nobody has after so many questions: two seconds.
const PATIENT: usize = 6;
/// After that it asks anew this often, for a second host that came later.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// What is known of whose the group's addresses are.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours {
    /// Others that claimed an address while this node owned it.
    conflicts: Vec<Conflict>,
    /// Claims of others since the start.
    claims: u64,
    told: Option<(Time, Mac)>,
    defended_at: Option<Time>,
    watch: Option<Watch>,
    /// What backups see while this node owns.
    proofs: BTreeMap<usize, Proof>,
}

#[derive(Clone, Copy, Debug)]
struct Conflict {
    mac: Mac,
    address: IpAddr,
    last: Time,
    count: u64,
}

/// A backup's look at a new owner.
#[derive(Clone, Debug)]
struct Watch {
    owner: usize,
    since: Time,
    cycle_at: Time,
    /// Questions in this cycle.
    asked: usize,
    /// When to ask, or look at the answers.
    next: Time,
    sample: Vec<IpAddr>,
    /// Addresses that the owner answered for since the last doubt.
    answered: BTreeSet<IpAddr>,
    /// The last answer of the owner that was waited for.
    complete: Option<(Time, Mac)>,
    /// Another one answered since the last question.
    doubt: bool,
    proof: Option<Proof>,
}

impl Watch {
    fn new(owner: usize, sample: Vec<IpAddr>, now: Time) -> Self {
        Self {
            owner,
            since: now,
            cycle_at: now,
            asked: 0,
            next: now + ASK_AT[0],
            sample,
            answered: BTreeSet::new(),
            complete: None,
            doubt: false,
            proof: None,
        }
    }

    /// Takes an answer; says what is known by it at once.
    fn hear(&mut self, claim: Claim, macs: &[Mac], now: Time) -> Option<Proof> {
        let Claim { address, mac, answer: _ } = claim;
        if !self.sample.contains(&address) {
            return None;
        }
        // A node that does not tell its addresses is believed.
        if !macs.is_empty() && !macs.contains(&mac) {
            self.doubt = true;
            return Some(Proof::Other { address, mac });
        }
        self.answered.insert(address);
        if self.answered.len() == self.sample.len() && self.complete.is_none() {
            self.complete = Some((now, mac));
        }
        None
    }

    /// The time of an answer is over: what is known by then. A second host
    /// would have answered, too.
    fn conclude(&mut self) -> Option<Proof> {
        if std::mem::take(&mut self.doubt) {
            self.answered.clear();
            self.complete = None;
            return None;
        }
        if let Some((at, mac)) = self.complete {
            return Some(Proof::Owner { mac, took: at - self.since });
        }
        let missing = self.sample.iter().find(|a| !self.answered.contains(a))?;
        (self.asked >= PATIENT).then_some(Proof::Nobody { address: *missing })
    }

    /// The addresses to ask for now, if any; sets when to look next.
    fn ask(&mut self, now: Time) -> Vec<IpAddr> {
        if self.asked == ASK_AT.len() || self.complete.is_some() {
            // The next cycle.
            self.answered.clear();
            self.complete = None;
            self.asked = 0;
            self.cycle_at = now + ASK_AGAIN;
            self.next = self.cycle_at + ASK_AT[0];
            return vec![];
        }
        self.asked += 1;
        self.next = match ASK_AT.get(self.asked) {
            Some(at) => (self.cycle_at + *at).max(now + ASK_AT[0]),
            None => now + ASK_AT[self.asked - 1],
        };
        self.sample.iter().filter(|a| !self.answered.contains(a)).copied().collect()
    }
}

impl Group {
    /// This node's Ethernet address on the group's interface.
    pub(crate) const fn mac(&self) -> Option<Mac> {
        match self.link {
            Link::Up { mac, .. } => mac,
            Link::Unknown | Link::Down { .. } | Link::Partial { .. } => None,
        }
    }

    /// When [`Group::tick_neighbours`] has something to do.
    pub(super) fn neighbours_deadline(&self) -> Option<Time> {
        let watch = self.neighbours.watch.as_ref().map(|w| w.next);
        let over = self.neighbours.conflicts.iter().map(|c| c.last + CONFLICT_FOR).min();
        [watch, over].into_iter().flatten().min()
    }

    pub(super) fn tick_neighbours(&mut self, scope: &mut Scope<'_>) {
        self.end_conflicts(scope);
        let Some(mut watch) = self.neighbours.watch.take_if(|w| w.next <= scope.now) else { return };
        let known = watch.conclude();
        let addresses = watch.ask(scope.now);
        if let (Link::Up { interface, .. }, false) = (&self.link, addresses.is_empty()) {
            scope.out.push_back(Output::Ask(Inquiry { interface: *interface, addresses }));
        }
        self.conclude(&mut watch, known, scope);
        self.neighbours.watch = Some(watch);
    }

    /// Looks whether another node owns than before, which is then to be proven.
    pub(super) fn look_at_owner(&mut self, scope: &Scope<'_>) {
        let owner = self.election.following().and_then(|o| match o.who {
            Who::Node(node) => Some(node),
            Who::Stranger(_) => None,
        });
        if owner == self.neighbours.watch.as_ref().map(|w| w.owner) {
            return;
        }
        self.neighbours.watch = owner.and_then(|owner| {
            let sample = self.provable(owner, scope);
            let asks = !sample.is_empty() && self.is_asker(owner, scope);
            asks.then(|| Watch::new(owner, sample, scope.now))
        });
    }

    /// This node owns from now on: whatever was seen is of another owner.
    pub(super) fn forget_proofs(&mut self) {
        self.neighbours.watch = None;
        self.neighbours.proofs.clear();
    }

    /// What a node that is gone saw.
    pub(super) fn forget_proof_of(&mut self, node: usize) {
        self.neighbours.proofs.remove(&node);
    }

    /// Addresses that an owner must answer for on this node's link: where a
    /// router lies between, nobody does, and nothing is wrong.
    fn provable(&self, owner: usize, scope: &Scope<'_>) -> Vec<IpAddr> {
        let Link::Up { subnets, .. } = &self.link else { return vec![] };
        // Other adverts than those of UDP cannot have come through a router.
        let routed = scope.settings.election.transport == Transport::Udp;
        let theirs = scope.settings.cluster.nodes.get(owner).map(|n| &n.addresses);
        let near = |a: &IpAddr| {
            let of_owner = |s: &Cidr| theirs.is_some_and(|t| t.iter().any(|a| s.contains(*a)));
            subnets.iter().any(|s| s.contains(*a) && (!routed || of_owner(s)))
        };
        self.available().map(|a| a.address()).filter(near).take(SAMPLE).collect()
    }

    fn is_asker(&self, owner: usize, scope: &Scope<'_>) -> bool {
        let ranking = self.vip.ranking(&scope.settings.cluster.nodes);
        ranking.into_iter().filter(|n| *n != owner).take(ASKERS).any(|n| n == scope.me)
    }

    // ---- what is heard ------------------------------------------------------

    /// Somebody says that one of the group's addresses is theirs.
    pub(crate) fn claimed(&mut self, claim: Claim, scope: &mut Scope<'_>) {
        if self.mac() == Some(claim.mac) {
            return;
        }
        match self.election.word() {
            State::Active => {
                let owned = self.hold == Hold::Owned && self.confirmed;
                if owned && self.available().any(|a| a.address() == claim.address) {
                    self.note_conflict(claim, scope);
                }
            }
            State::Backup if claim.answer => {
                let Some(mut watch) = self.neighbours.watch.take() else { return };
                let macs = scope.peers.get(watch.owner).map_or(&[][..], |p| &p.macs);
                let known = watch.hear(claim, macs, scope.now);
                self.conclude(&mut watch, known, scope);
                self.neighbours.watch = Some(watch);
            }
            State::Backup | State::Init | State::Fault => {}
        }
    }

    fn note_conflict(&mut self, claim: Claim, scope: &mut Scope<'_>) {
        let Claim { address, mac, answer: _ } = claim;
        let known = &mut self.neighbours;
        known.claims = known.claims.saturating_add(1);
        let before = known.conflicts.iter().position(|c| c.mac == mac);
        let count = before.map_or(0, |at| known.conflicts.remove(at).count).saturating_add(1);
        if known.conflicts.len() == CONFLICTS {
            // The one that was quiet for longest.
            known.conflicts.remove(0);
        }
        known.conflicts.push(Conflict { mac, address, last: scope.now, count });
        let tell = known.told.is_none_or(|(at, told)| scope.now - at >= TELL_EVERY[usize::from(told != mac)]);
        if tell {
            self.neighbours.told = Some((scope.now, mac));
            let message = format!("{}: {}", self.vip.name, explain::conflict(address, mac, scope));
            let event = self.event(Level::Error, Kind::Address, message);
            scope.event(named(event, mac, scope));
        }
        self.defend(vec![address], scope);
    }

    fn end_conflicts(&mut self, scope: &mut Scope<'_>) {
        let over = |c: &mut Conflict| scope.now - c.last >= CONFLICT_FOR;
        let ended: Vec<Conflict> = self.neighbours.conflicts.extract_if(.., over).collect();
        let Some(last) = ended.last().filter(|_| self.neighbours.conflicts.is_empty()) else { return };
        self.neighbours.told = None;
        let message = format!("{}: nobody else claims {} any more", self.vip.name, last.address);
        scope.event(self.event(Level::Info, Kind::Address, message));
    }

    /// Announces addresses again because somebody believes, or wants others to
    /// believe, that they are elsewhere.
    fn defend(&mut self, addresses: Vec<IpAddr>, scope: &mut Scope<'_>) {
        let Link::Up { interface, .. } = self.link else { return };
        let lately = self.neighbours.defended_at.is_some_and(|at| scope.now - at < DEFEND_EVERY);
        if lately || self.hold != Hold::Owned || !self.confirmed {
            return;
        }
        self.neighbours.defended_at = Some(scope.now);
        scope.out.push_back(Output::Announce(Announcement { group: self.id, interface, addresses }));
    }

    // ---- proof after a takeover -----------------------------------------------

    /// As a backup: something is known of who answers.
    fn conclude(&self, watch: &mut Watch, known: Option<Proof>, scope: &mut Scope<'_>) {
        let Some(known) = known else { return };
        if known.is_like(watch.proof) {
            return;
        }
        let first = watch.proof.replace(known).is_none();
        scope.hello_soon = true;
        let good = matches!(known, Proof::Owner { .. });
        if first && good {
            // As it should be: the owner tells.
            return;
        }
        let level = if good { Level::Info } else { Level::Warn };
        let owner = scope.name(watch.owner).to_owned();
        let message = format!("{}: {}", self.vip.name, explain::proof(known, &owner, scope));
        scope.event(self.event(level, Kind::Address, message).of_peer(&owner));
    }

    /// What this node, a backup, has seen, for the owner.
    pub(crate) fn sighting(&self, scope: &Scope<'_>) -> Option<Sighting> {
        let watch = self.neighbours.watch.as_ref()?;
        let place = |address: IpAddr| {
            let at = self.vip.addresses.iter().position(|a| a.address() == address);
            at.and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
        };
        let (address, seen, took) = match watch.proof? {
            Proof::Owner { mac, took } => (0, Seen::By(mac), took),
            Proof::Other { address, mac } => (place(address), Seen::By(mac), Duration::ZERO),
            Proof::Nobody { address } => (place(address), Seen::Nobody, Duration::ZERO),
        };
        Some(Sighting { vrid: self.vip.vrid, owner: scope.id_of(watch.owner), address, seen, took })
    }

    /// As an owner: what a backup has seen.
    pub(crate) fn hear_sighting(&mut self, from: usize, sighting: Sighting, scope: &mut Scope<'_>) {
        let mine = self.election.word() == State::Active && sighting.owner == scope.id_of(scope.me);
        let Some(own) = self.mac().filter(|_| mine) else { return };
        let address = self.vip.addresses.get(usize::from(sighting.address)).or(self.vip.addresses.first());
        let Some(address) = address.map(|a| a.address()) else { return };
        let proof = match sighting.seen {
            Seen::Nobody => Proof::Nobody { address },
            Seen::By(mac) if mac == own => Proof::Owner { mac, took: sighting.took },
            Seen::By(mac) => Proof::Other { address, mac },
        };
        let news = !proof.is_like(self.neighbours.proofs.insert(from, proof));
        let good = matches!(proof, Proof::Owner { .. });
        if news {
            let level = if good { Level::Info } else { Level::Warn };
            let who = scope.name(from).to_owned();
            let message = format!("{}: {}", self.vip.name, explain::seen_by(&who, proof, scope));
            scope.event(self.event(level, Kind::Address, message).of_peer(&who));
        }
        if !good {
            let all = self.available().map(|a| a.address()).collect();
            self.defend(all, scope);
        }
    }

    // ---- for people -------------------------------------------------------------

    /// Others that claim an address of the group now.
    pub(crate) fn conflicts<'a>(&'a self, scope: &'a Scope<'_>) -> impl Iterator<Item = ConflictStatus> + 'a {
        let lasts = |c: &&Conflict| scope.now - c.last < CONFLICT_FOR;
        let all = self.neighbours.conflicts.iter().filter(lasts).rev();
        all.map(|c| ConflictStatus {
            address: c.address,
            mac: c.mac,
            node: scope.node_of(c.mac).map(|n| scope.name(n).to_owned()),
            count: c.count,
            ago: scope.now - c.last,
        })
    }

    /// Claims of others since the start.
    pub(super) const fn claims(&self) -> u64 {
        self.neighbours.claims
    }

    /// Who answers for the addresses: as backups of this node see it, or as
    /// this node sees its owner.
    pub(crate) fn proofs(&self, scope: &Scope<'_>) -> Vec<ProofStatus> {
        let told = self.neighbours.proofs.iter().map(|(node, proof)| (*node, *proof));
        let own = self.neighbours.watch.iter().filter_map(|w| Some((scope.me, w.proof?)));
        let told = told.filter(|_| self.election.word() == State::Active);
        told.chain(own)
            .map(|(seer, proof)| ProofStatus { seer: scope.name(seer).to_owned(), proof })
            .collect()
    }

    /// The owner that this backup looks at, and what it has seen.
    pub(crate) fn seen_of_owner(&self) -> Option<(usize, Proof)> {
        self.neighbours.watch.as_ref().and_then(|w| Some((w.owner, w.proof?)))
    }

    /// What backups see while this node owns.
    pub(crate) const fn seen_by_backups(&self) -> &BTreeMap<usize, Proof> {
        &self.neighbours.proofs
    }
}

/// With the node whose Ethernet address it is.
fn named(event: Event, mac: Mac, scope: &Scope<'_>) -> Event {
    match scope.node_of(mac) {
        Some(node) => event.of_peer(scope.name(node)),
        None => event,
    }
}
