//! One VIP group on this node: its election, its hold on the addresses, its
//! announcements, and the steps of a planned switchover.

mod addresses;
mod adverts;
mod handover;
mod link;
mod neighbours;
pub(crate) mod quorum;
mod warnings;
mod withheld;

pub(crate) use handover::Purpose;

use addresses::Meddling;
use handover::Transition;
use neighbours::Neighbours;
use warnings::Warnings;

use crate::election::{Cause, Election, Event as Happening, Heard, Outcome, Params, Who};
use crate::event::{Event, Kind, Level, Steps};
use crate::explain;
use crate::lease::Lease;
use crate::node::{Elsewhere, GroupStatus, Link, Scope, Settings};
use crate::peers::Peer;
use crate::plan::Hold;
use crate::settings::{Cidr, ElectionSettings, VipGroup, VrrpVersion};
use crate::time::Time;
use crate::wire::advert::{Advert, PRIORITY_RELEASE};
use crate::wire::peer::{GroupReport, State};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// An owner that gave way to another says so for this long: a few hellos.
const DEPOSED_FOR: Duration = Duration::from_secs(3);
/// After a refusal by the kernel, this node takes part again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
struct Announcing {
    since: Time,
    next: usize,
    at: Time,
}

/// Addresses that a reload took from the group. They stay until then, so that
/// the kernel can tell their clients that their sessions are closed.
#[derive(Clone, Debug)]
struct Parting {
    addresses: Vec<Cidr>,
    until: Time,
}

/// One VIP group on this node.
#[derive(Debug)]
pub(crate) struct Group {
    /// Its number, which stays the same over reloads.
    pub(crate) id: usize,
    pub(crate) vip: VipGroup,
    pub(crate) election: Election,
    pub(crate) link: Link,
    /// Since when it is up; from the daemon's start where it was then.
    up_since: Option<Time>,
    /// The interface of the last link that was up: what it holds is deleted there.
    interface: Option<u32>,
    pub(crate) hold: Hold,
    /// Grows with every plan.
    generation: u64,
    /// The newest plan replaces one that came too late.
    again: bool,
    /// The last renewal failed, and was told of.
    renewal_refused: bool,
    /// When to ask the kernel again for what it refused.
    again_at: Option<Time>,
    /// The first plan of the present hold.
    hold_generation: u64,
    /// The kernel has acknowledged the present hold.
    confirmed: bool,
    renewed_at: Time,
    /// When the newest plan that the kernel acknowledged was made: the lease
    /// that it holds is no older.
    leased_at: Time,
    announcing: Option<Announcing>,
    /// What somebody deleted and was put back.
    restored: Meddling,
    /// What somebody put here and was removed.
    evicted: Meddling,
    /// The kernel refused the addresses, the last time they were to be here: this
    /// node takes them from nobody who has them until it has had them again.
    pub(crate) refused: bool,
    parting: Option<Parting>,
    /// Addresses that are not taken: another node answers for them.
    withheld: BTreeMap<IpAddr, Elsewhere>,
    /// Who says to own it without proof, and until when that counts.
    postponed: Option<(Who, Time)>,
    /// What the kernel was last asked to hold.
    asked: Vec<Cidr>,
    /// What it was asked to hold before, and has not said since that it is gone.
    going: Vec<Cidr>,
    /// The plan without them.
    going_generation: u64,
    /// What a reload gave to other groups of this node: the releases of this
    /// one, which the reload ended, tell of them still.
    given: Vec<Cidr>,
    transition: Transition,
    /// Who is asked for the packets of its connections while this node prepares to own.
    former: Option<usize>,
    /// It let go while it had no link; until then the others wait for its silence.
    unsaid_until: Option<Time>,
    /// Another node than this one is to own next, until then.
    other_is_next: Option<Time>,
    /// Groups that leave and have its number or its addresses: it starts when
    /// they are gone.
    pub(crate) waits_for: BTreeSet<usize>,
    /// Whether this node may take part: not stopping, not in maintenance.
    pub(crate) taking_part: bool,
    /// Whether every tracked listener has a usable server.
    pub(crate) serving: bool,
    /// Whether the servers' checks have told what there is to serve from.
    pub(crate) warm: bool,
    retry_at: Option<Time>,
    /// Not before then is another node asked to take over because it is better off.
    step_back_at: Time,
    /// Why the state is what it is.
    pub(crate) cause: Option<Cause>,
    pub(crate) fault: Option<String>,
    pub(crate) since: Time,
    pub(crate) steps: Option<Steps>,
    takeover: Option<Takeover>,
    neighbours: Neighbours,
    warnings: Warnings,
}

/// A takeover under way.
#[derive(Clone, Copy, Debug)]
struct Takeover {
    /// The former owner's last sign of life.
    sign: Time,
    detected: Option<Time>,
    decided: Time,
    address_in: Option<Time>,
}

impl Takeover {
    /// `heard_at` is when the owner that was followed last spoke, `due` when
    /// its silence was long enough.
    fn begin(cause: Cause, heard_at: Option<Time>, due: Option<Time>, now: Time) -> Self {
        let (sign, detected) = match (cause, heard_at) {
            (Cause::Silence(_) | Cause::Preempted(..), Some(at)) => (at, Some(due.unwrap_or(now))),
            // Only a release that was waited for was noted before now.
            (Cause::Released(_), Some(at)) if due.is_some_and(|due| due <= now) => (at, Some(at)),
            (Cause::AddressOwner | Cause::Silence(_), _) => (now, None),
            (
                Cause::Released(_)
                | Cause::Preempted(..)
                | Cause::Superior(..)
                | Cause::Slept(_)
                | Cause::NoMajority(..)
                | Cause::WithoutMajority
                | Cause::GivenUp
                | Cause::Fault
                | Cause::Shutdown,
                _,
            ) => (now, Some(now)),
        };
        Self { sign, detected, decided: now, address_in: None }
    }
}

impl Group {
    pub(crate) fn new(id: usize, vip: VipGroup, params: Params, lease: Option<Lease>, now: Time) -> Self {
        Self {
            id,
            vip,
            election: Election::new(params).with_lease(lease),
            link: Link::Unknown,
            up_since: None,
            interface: None,
            hold: Hold::Absent,
            generation: 0,
            again: false,
            renewal_refused: false,
            again_at: None,
            hold_generation: 0,
            confirmed: true,
            renewed_at: now,
            leased_at: now,
            announcing: None,
            restored: Meddling::default(),
            evicted: Meddling::default(),
            refused: false,
            parting: None,
            withheld: BTreeMap::new(),
            postponed: None,
            asked: vec![],
            going: vec![],
            going_generation: 0,
            given: vec![],
            transition: Transition::None,
            former: None,
            unsaid_until: None,
            other_is_next: None,
            waits_for: BTreeSet::new(),
            taking_part: true,
            serving: true,
            warm: false,
            retry_at: None,
            step_back_at: now,
            cause: None,
            fault: None,
            since: now,
            steps: None,
            takeover: None,
            neighbours: Neighbours::default(),
            warnings: Warnings::default(),
        }
    }

    /// The earliest time at which [`Group::tick`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let transition = match self.transition {
            Transition::None => None,
            Transition::Asking { again_at, until, .. } => Some(again_at.min(until)),
            Transition::Silencing { until, .. }
            | Transition::Preparing { until, .. }
            | Transition::Prepared { until, .. } => Some(until),
            Transition::Lingering { until, close_at, release_at, .. } => {
                [Some(until), close_at, release_at].into_iter().flatten().min()
            }
        };
        let announce = self.announcing.map(|a| a.at);
        let part = self.parting.as_ref().map(|p| p.until);
        let neighbours = self.neighbours_deadline();
        let all = [
            self.election.deadline(),
            transition,
            announce,
            part,
            self.restored.deadline(),
            self.evicted.deadline(),
            self.retry_at,
            self.again_at,
            neighbours,
        ];
        all.into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, scope: &mut Scope<'_>) {
        if self.election.deadline().is_some_and(|at| at <= scope.now) {
            self.happen(Happening::Timer, scope);
        }
        self.tick_transition(scope);
        if let Some(announcing) = self.announcing.filter(|a| a.at <= scope.now) {
            self.announce(announcing, scope);
        }
        if self.restored.is_due(scope.now) {
            self.tell_restored(scope);
        }
        if self.evicted.is_due(scope.now) {
            self.tell_evicted(scope);
        }
        if self.parting.as_ref().is_some_and(|p| p.until <= scope.now) {
            self.parting = None;
            self.emit_plan(scope);
            scope.guard_changed = true;
        }
        self.tick_neighbours(scope);
        if self.again_at.is_some_and(|at| at <= scope.now) {
            self.ask_again(scope);
        }
        if self.retry_at.is_some_and(|at| at <= scope.now) {
            self.retry_at = None;
            self.fault = None;
            self.start_if_able(scope);
        }
    }

    // ---- the election -------------------------------------------------

    /// Hands an event to the election and does what it asks for.
    pub(crate) fn happen(&mut self, event: Happening, scope: &mut Scope<'_>) {
        let before = self.election.word();
        let following = self.election.following();
        let due = self.election.deadline();
        let outcome = self.election.handle(event, scope.now);
        if let Some(cause) = outcome.own {
            self.takeover = Some(Takeover::begin(cause, following.map(|o| o.at), due, scope.now));
        }
        self.carry_out(outcome, scope);
        if before == State::Active && self.election.word() == State::Backup && !self.taking_part {
            // It lost what it was about to hand over; it does not stand by for it.
            if event != Happening::Release {
                self.election.handle(Happening::Shutdown, scope.now);
            }
        }
        let after = self.election.word();
        if before != after {
            self.since = scope.now;
            if outcome.own.is_none() && outcome.disown.is_none() {
                self.cause = None;
            }
            self.tell_state(before, scope);
            scope.hello_soon = true;
        }
        self.look_at_owner(scope);
        self.watch_voters(scope);
        if let Some(number) = outcome.give_back {
            self.tell_given_back(number, scope);
        }
        self.give_back(scope);
        if let Some(request) = outcome.ask {
            self.ask_voters(request, scope);
        }
    }

    fn carry_out(&mut self, outcome: Outcome, scope: &mut Scope<'_>) {
        if let Some(cause) = outcome.disown {
            self.cause = Some(cause);
            self.announcing = None;
            self.takeover = None;
            if cause == Cause::GivenUp {
                self.transmit(PRIORITY_RELEASE, scope);
            } else {
                if outcome.release {
                    // Nobody is told that the addresses are free before they are.
                    self.unsaid_until = Some(scope.now + self.election.active_down_interval());
                }
                self.transition = Transition::None;
                self.close_sessions(scope);
                self.plan(Hold::Absent, scope);
            }
        }
        if let Some(cause) = outcome.own {
            self.note_node_gone(cause, scope);
            self.cause = Some(cause);
            self.transition = Transition::None;
            self.unsaid_until = None;
            self.other_is_next = None;
            self.forget_proofs();
            self.plan(Hold::Owned, scope);
        }
        if outcome.advertise {
            self.transmit(self.election.params().priority, scope);
        }
        // Every advert renews a kernel's lease that the quorum's outlasts; a longer one what extends that.
        let until = scope.now + self.election.params().lease;
        let covered = self.election.may_own_until().is_none_or(|may_own| may_own >= until);
        if outcome.extended || outcome.advertise && covered {
            self.renew_if_due(scope);
            scope.guard_may_wait |= outcome.extended;
            self.tell_extended(scope);
        }
    }

    /// Who fell silent as owner, or let go without having asked this node to
    /// be next, is not there: clients shall not be sent to it for as long as a
    /// peer's silence takes otherwise. Only a group for its election's sake
    /// is read that way; of others the addresses say where clients go.
    fn note_node_gone(&self, cause: Cause, scope: &mut Scope<'_>) {
        let asked = |by| matches!(self.transition, Transition::Preparing { from, .. } | Transition::Prepared { from, .. } if from == by);
        let gone = match cause {
            Cause::Silence(Some((Who::Node(node), _))) => Some(node),
            Cause::Released(Who::Node(node)) if !asked(node) => Some(node),
            Cause::Silence(_)
            | Cause::Released(_)
            | Cause::AddressOwner
            | Cause::Preempted(..)
            | Cause::Superior(..)
            | Cause::Slept(_)
            | Cause::NoMajority(..)
            | Cause::WithoutMajority
            | Cause::GivenUp
            | Cause::Fault
            | Cause::Shutdown => None,
        };
        scope.gone = gone.filter(|_| self.vip.addresses.is_empty()).or(scope.gone);
    }

    /// Renews the kernel's lease in step with the adverts, so that a frozen
    /// owner's addresses end when its backups expect it.
    fn renew_if_due(&mut self, scope: &mut Scope<'_>) {
        let params = self.election.params();
        let early = params.lease / 3;
        let due = early.saturating_sub(params.interval / 2);
        if self.hold == Hold::Owned && scope.now - self.renewed_at >= due {
            self.emit_plan(scope);
        }
    }

    /// An advert for this group that passed every check.
    pub(crate) fn hear(&mut self, mut heard: Heard, scope: &mut Scope<'_>) {
        self.note_advert(&heard, scope.now);
        if heard.priority == PRIORITY_RELEASE {
            heard.wait = self.wait_after(heard.who, scope);
        }
        let was_following = self.election.following().map(|o| o.who);
        let owned = self.election.word() == State::Active;
        self.election.set_eager(self.is_eager());
        self.happen(Happening::Advert(heard), scope);
        if owned && self.election.word() == State::Active && heard.priority != PRIORITY_RELEASE {
            // Two owned: the other's clients have its Ethernet address.
            self.announce_to_theirs(scope);
        }
        self.bar(scope);
        // The successor speaks: no release needs repeating.
        if heard.priority != PRIORITY_RELEASE
            && let Transition::Lingering { release_at, .. } = &mut self.transition
        {
            *release_at = None;
        }
        let follows = self.election.following().map(|o| o.who);
        if follows.is_some() && follows != was_following {
            self.since = scope.now;
        }
    }

    fn tell_state(&self, before: State, scope: &mut Scope<'_>) {
        let after = self.election.word();
        let why = explain::change(self, scope);
        let level = match after {
            State::Fault => Level::Error,
            State::Init | State::Backup | State::Active => Level::Info,
        };
        let message = format!("{}: {} -> {}: {why}", self.vip.name, before.as_str(), after.as_str());
        scope.event(Event { state: Some(after), ..self.event(level, Kind::Vip, message) });
    }

    /// Somebody whom the cluster key does not prove says to own this group.
    pub(crate) fn postpone(&mut self, who: Who, now: Time) {
        self.election.postpone(now);
        self.postponed = Some((who, now + self.election.active_down_interval()));
    }

    /// Who keeps a backup from taking over without having proven its key.
    pub(crate) fn postponed_by(&self, now: Time) -> Option<Who> {
        self.postponed.filter(|(_, until)| *until > now && self.election.word() == State::Backup).map(|p| p.0)
    }

    /// The addresses that would stay behind if the program died now.
    pub(crate) fn held(&self) -> Vec<(u32, Cidr)> {
        let Some(interface) = self.interface else { return vec![] };
        self.asked.iter().chain(&self.going).map(|a| (interface, *a)).collect()
    }

    /// Whether it would serve, if it owned.
    pub(crate) const fn serves(&self) -> bool {
        self.is_eager() && self.taking_part
    }

    /// The group as peers are told of it.
    pub(crate) fn report(&self, now: Time) -> GroupReport {
        let state = self.election.word();
        let gave_way = state == State::Backup && matches!(self.cause, Some(Cause::Superior(..)));
        GroupReport {
            vrid: self.vip.vrid,
            state,
            priority: self.election.params().priority,
            serving: self.serves(),
            deposed: gave_way && now - self.since < DEPOSED_FOR,
        }
    }

    /// The group as users see it.
    pub(crate) fn status(&self, scope: &Scope<'_>) -> GroupStatus {
        let state = self.election.word();
        let owner = match state {
            State::Active => Some(scope.name(scope.me).to_owned()),
            State::Init | State::Backup | State::Fault => self.owner_elsewhere(scope),
        };
        GroupStatus {
            id: self.id,
            name: self.vip.name.clone(),
            addresses: self.vip.addresses.clone(),
            state,
            owner,
            priority: self.election.params().priority,
            since: scope.now - self.since,
            why: explain::standing(self, scope),
            switching: self.in_transition(),
            steps: self.steps,
            conflicts: self.conflicts(scope).collect(),
            claims: self.claims(),
            proofs: self.proofs(scope),
            lease_left: self.lease_left(scope.now),
        }
    }

    /// Who owns, as far as this node knows: whom it follows, or who says so.
    fn owner_elsewhere(&self, scope: &Scope<'_>) -> Option<String> {
        let followed = self.election.following_owner().map(|o| explain::who(o.who, scope));
        let owns =
            |peer: &Peer| peer.alive && peer.report(self.vip.vrid).is_some_and(|r| r.state == State::Active);
        followed.or_else(|| Some(scope.name(scope.peers.iter().position(owns)?).to_owned()))
    }

    fn event(&self, level: Level, kind: Kind, message: impl Into<String>) -> Event {
        Event::new(level, kind, message).of_vip(&self.vip.name)
    }

    /// Takes over changed settings, of the same VRID, without touching what did
    /// not change.
    pub(crate) fn reconfigure(
        &mut self,
        vip: VipGroup,
        params: Params,
        elsewhere: BTreeMap<IpAddr, Elsewhere>,
        scope: &mut Scope<'_>,
    ) {
        let of_lease = |p: &Params| (p.lease, p.interval);
        let renews_otherwise = of_lease(self.election.params()) != of_lease(&params);
        if *self.election.params() != params {
            self.election.set_params(params, scope.now);
        }
        let moved = self.vip.addresses != vip.addresses;
        let stays = |a: IpAddr| vip.addresses.iter().any(|new| new.address() == a);
        self.part_from(|a| !stays(a), scope);
        self.vip = vip;
        if moved {
            // What was asked for and seen is of other addresses.
            self.forget_proofs();
        }
        scope.guard_changed = true;
        if !self.withhold(elsewhere, scope) && moved {
            self.plan_others(scope);
        } else if renews_otherwise && self.hold == Hold::Owned {
            // The kernel counts by what it was given, which may end before it is
            // renewed by the new rhythm.
            self.emit_plan(scope);
        }
    }
}

/// The election's parameters of a node in a group; none if it is not of the group.
pub(crate) fn params(vip: &VipGroup, me: usize, settings: &Settings) -> Option<Params> {
    let election = &settings.election;
    Some(Params {
        priority: vip.priority(me, &settings.cluster.nodes)?.get(),
        interval: election.advert_interval,
        version: election.version,
        preempt: election.preempt,
        preempt_delay: election.preempt_delay,
        lease: election.lease,
    })
}

/// Whether an advert's interval rules it out (RFC 3768 section 7.1).
pub(crate) fn interval_disagrees(advert: &Advert, election: &ElectionSettings) -> bool {
    advert.version == VrrpVersion::V2 && advert.interval != election.advert_interval
}
