//! One VIP group on this node: its election, its hold on the addresses, its
//! announcements, and the steps of a planned switchover.
//!
//! ```text
//! owner:       Asking --ready--> Silencing --acknowledged--> Lingering --> (nothing)
//!              |  nobody answers: back to owning, or on without asking when stopping
//! next owner:  Preparing --acknowledged--> Prepared --release--> (owns)
//! ```
//! The owner goes silent before it releases and the next one answers only
//! after the release, so two never answer for an address; both take packets
//! for it all the while, so none falls into a gap.

use crate::election::{Cause, Election, Event as Happening, Heard, Outcome, Params, Who};
use crate::event::{Event, Kind, Level, Steps};
use crate::explain;
use crate::node::{Announcement, GroupStatus, Link, Output, Scope, Settings, Transmit};
use crate::plan::{GroupPlan, Hold};
use crate::settings::{Cidr, ElectionSettings, Family, Transport, VipGroup, VrrpVersion};
use crate::time::Time;
use crate::wire::advert::{Advert, PRIORITY_RELEASE};
use crate::wire::peer::{GroupReport, Message, State};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Where multicast adverts go (RFC 9568 section 5.1).
const MULTICAST_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
const MULTICAST_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12));

/// When addresses are announced, counted from the takeover: a burst, repeats
/// for what missed it, and then a slow refresh for what forgot.
const ANNOUNCE_AT: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(3),
    Duration::from_secs(5),
    Duration::from_secs(7),
    Duration::from_secs(10),
];
const ANNOUNCE_REFRESH: Duration = Duration::from_secs(60);

/// The next owner is asked again this often, until it answers.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// A switchover is given up, and a stopping node goes on alone, after this.
const ASK_FOR: Duration = Duration::from_millis(300);
/// An owner that was asked to go silent by the kernel and got no answer goes on after this.
const SILENCE_FOR: Duration = Duration::from_millis(200);
/// The next owner keeps itself prepared for this long.
const PREPARED_FOR: Duration = Duration::from_secs(1);
/// The former owner takes packets that are on their way for this long.
const LINGER_FOR: Duration = Duration::from_millis(500);
/// A release is repeated while nobody has answered it: one packet may be lost.
const RELEASE_AGAIN: Duration = Duration::from_millis(5);
const RELEASES: u8 = 8;
/// After a refusal by the kernel, this node takes part again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Why a group is handed over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// The operator asked for it.
    Switchover,
    /// No tracked listener has a server here, and another node is better off.
    StepBack,
    /// This node stops, or is in maintenance, or has the group no longer.
    Leave,
}

/// Where a planned switchover stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Transition {
    None,
    Asking { to: usize, nonce: u32, again_at: Time, until: Time, purpose: Purpose },
    Silencing { until: Time, purpose: Purpose },
    Lingering { until: Time, release_at: Option<Time>, releases: u8 },
    Preparing { from: usize, nonce: u32, until: Time },
    Prepared { from: usize, nonce: u32, until: Time },
}

#[derive(Clone, Copy, Debug)]
struct Announcing {
    since: Time,
    next: usize,
    at: Time,
}

/// One VIP group on this node.
#[derive(Debug)]
pub(crate) struct Group {
    /// Its number, which stays the same over reloads.
    pub(crate) id: usize,
    pub(crate) vip: VipGroup,
    pub(crate) election: Election,
    pub(crate) link: Link,
    /// The interface of the last link that was up: what it holds is deleted there.
    interface: Option<u32>,
    pub(crate) hold: Hold,
    /// Grows with every plan.
    generation: u64,
    /// The first plan of the present hold.
    hold_generation: u64,
    /// The kernel has acknowledged the present hold.
    confirmed: bool,
    renewed_at: Time,
    announcing: Option<Announcing>,
    transition: Transition,
    /// Another node than this one is to own next, until then.
    other_is_next: Option<Time>,
    /// Whether this node may take part: not stopping, not in maintenance.
    pub(crate) taking_part: bool,
    /// Whether every tracked listener has a usable server.
    pub(crate) serving: bool,
    retry_at: Option<Time>,
    /// Not before then is another node asked to take over because it is better off.
    step_back_at: Time,
    /// Why the state is what it is.
    pub(crate) cause: Option<Cause>,
    pub(crate) fault: Option<String>,
    pub(crate) since: Time,
    pub(crate) steps: Option<Steps>,
    takeover: Option<Takeover>,
}

/// A takeover under way.
#[derive(Clone, Copy, Debug)]
struct Takeover {
    /// The former owner's last sign of life.
    sign: Time,
    detected: Time,
    decided: Time,
    address_in: Option<Time>,
}

impl Takeover {
    /// `heard_at` is when the owner that was followed last spoke, `due` when
    /// its silence was long enough.
    fn begin(cause: Cause, heard_at: Option<Time>, due: Option<Time>, now: Time) -> Self {
        let (sign, detected) = match (cause, heard_at) {
            (Cause::Silence(_) | Cause::Preempted(..), Some(at)) => (at, due.unwrap_or(now)),
            // Only a release that was waited for was noted before now.
            (Cause::Released(_), Some(at)) if due.is_some_and(|due| due <= now) => (at, at),
            (
                Cause::AddressOwner
                | Cause::Silence(_)
                | Cause::Released(_)
                | Cause::Preempted(..)
                | Cause::Superior(..)
                | Cause::Slept(_)
                | Cause::GivenUp
                | Cause::Fault
                | Cause::Shutdown,
                _,
            ) => (now, now),
        };
        Self { sign, detected, decided: now, address_in: None }
    }
}

impl Group {
    pub(crate) fn new(id: usize, vip: VipGroup, params: Params, now: Time) -> Self {
        Self {
            id,
            vip,
            election: Election::new(params),
            link: Link::Unknown,
            interface: None,
            hold: Hold::Absent,
            generation: 0,
            hold_generation: 0,
            confirmed: true,
            renewed_at: now,
            announcing: None,
            transition: Transition::None,
            other_is_next: None,
            taking_part: true,
            serving: true,
            retry_at: None,
            step_back_at: now,
            cause: None,
            fault: None,
            since: now,
            steps: None,
            takeover: None,
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
            Transition::Lingering { until, release_at, .. } => {
                Some(release_at.map_or(until, |at| at.min(until)))
            }
        };
        let announce = self.announcing.map(|a| a.at);
        [self.election.deadline(), transition, announce, self.retry_at].into_iter().flatten().min()
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
        if self.retry_at.is_some_and(|at| at <= scope.now) {
            self.retry_at = None;
            self.fault = None;
            self.start_if_able(scope);
        }
    }

    fn tick_transition(&mut self, scope: &mut Scope<'_>) {
        match self.transition {
            Transition::Asking { until, purpose, to, .. } if until <= scope.now => match purpose {
                Purpose::Leave => self.silence(purpose, scope),
                Purpose::Switchover | Purpose::StepBack => {
                    self.transition = Transition::None;
                    self.step_back_at = scope.now + RETRY_AFTER;
                    let message = format!(
                        "{} stays here: {} did not answer within {} ms",
                        self.vip.name,
                        scope.name(to),
                        ASK_FOR.as_millis()
                    );
                    scope.event(self.event(Level::Warn, Kind::Switchover, message).of_peer(scope.name(to)));
                }
            },
            Transition::Asking { again_at, to, nonce, .. } if again_at <= scope.now => {
                self.ask(to, nonce, scope);
                if let Transition::Asking { again_at, .. } = &mut self.transition {
                    *again_at = scope.now + ASK_EVERY;
                }
            }
            Transition::Silencing { until, purpose, .. } if until <= scope.now => {
                self.released(purpose, scope);
            }
            Transition::Lingering { until, .. } if until <= scope.now => self.end_lingering(scope),
            Transition::Lingering { release_at: Some(at), .. } if at <= scope.now => {
                self.release_again(scope);
            }
            Transition::Preparing { until, .. } | Transition::Prepared { until, .. }
                if until <= scope.now =>
            {
                self.transition = Transition::None;
                self.plan(Hold::Absent, scope);
            }
            Transition::None
            | Transition::Asking { .. }
            | Transition::Silencing { .. }
            | Transition::Lingering { .. }
            | Transition::Preparing { .. }
            | Transition::Prepared { .. } => {}
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
        let after = self.election.word();
        if before != after {
            self.since = scope.now;
            if outcome.own.is_none() && outcome.disown.is_none() {
                self.cause = None;
            }
            self.tell_state(before, scope);
            scope.hello_soon = true;
        }
    }

    fn carry_out(&mut self, outcome: Outcome, scope: &mut Scope<'_>) {
        if let Some(cause) = outcome.disown {
            self.cause = Some(cause);
            self.announcing = None;
            self.takeover = None;
            if outcome.release {
                self.transmit(PRIORITY_RELEASE, scope);
            }
            if cause != Cause::GivenUp {
                self.transition = Transition::None;
                self.close_sessions(scope);
                self.plan(Hold::Absent, scope);
            }
        }
        if let Some(cause) = outcome.own {
            self.cause = Some(cause);
            self.transition = Transition::None;
            self.other_is_next = None;
            self.plan(Hold::Owned, scope);
        }
        if outcome.advertise {
            self.transmit(self.election.params().priority, scope);
            self.renew_if_due(scope);
        }
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
        if heard.priority == PRIORITY_RELEASE {
            heard.wait = self.wait_after(heard.who, scope);
        }
        let was_following = self.election.following().map(|o| o.who);
        self.happen(Happening::Advert(heard), scope);
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

    /// How long to wait after a release by `who`: by rank among the known
    /// nodes, and the RFC's skew (`None`) for strangers.
    fn wait_after(&self, who: Who, scope: &Scope<'_>) -> Option<Duration> {
        let Who::Node(sender) = who else { return None };
        if let Transition::Prepared { from, .. } | Transition::Preparing { from, .. } = self.transition
            && from == sender
        {
            return Some(Duration::ZERO);
        }
        let rank = self.vip.nodes.iter().filter(|n| **n != sender).position(|n| *n == scope.me)?;
        let behind = usize::from(self.other_is_next.is_some_and(|until| scope.now < until));
        let rank = u32::try_from(rank + behind).unwrap_or(u32::MAX);
        Some(Duration::from_millis(10).saturating_mul(rank))
    }

    /// The interface came, went or changed.
    pub(crate) fn set_link(&mut self, link: Link, scope: &mut Scope<'_>) {
        if self.link == link {
            return;
        }
        self.link = link;
        match &self.link {
            Link::Unknown => {}
            Link::Down { reason } => {
                self.fault = Some(reason.clone());
                self.retry_at = None;
                self.transition = Transition::None;
                self.happen(Happening::Fault, scope);
                if self.hold != Hold::Absent {
                    self.plan(Hold::Absent, scope);
                }
            }
            Link::Up { interface, .. } => {
                let moved = self.interface.replace(*interface).is_some_and(|was| was != *interface);
                self.fault = None;
                if moved && self.hold != Hold::Absent {
                    self.plan(self.hold, scope);
                }
                self.start_if_able(scope);
            }
        }
    }

    pub(crate) fn start_if_able(&mut self, scope: &mut Scope<'_>) {
        let up = matches!(self.link, Link::Up { .. });
        if up && self.taking_part && self.retry_at.is_none() {
            self.happen(Happening::Startup, scope);
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
        scope.event(self.event(level, Kind::VipState, message));
    }

    // ---- the kernel ---------------------------------------------------

    /// Asks for a hold; of several only the newest counts.
    pub(crate) fn plan(&mut self, hold: Hold, scope: &mut Scope<'_>) {
        self.hold = hold;
        self.confirmed = false;
        self.hold_generation = self.generation + 1;
        self.emit_plan(scope);
        scope.guard_changed = true;
    }

    fn emit_plan(&mut self, scope: &mut Scope<'_>) {
        let Some(interface) = self.interface else {
            // Nothing was ever held.
            self.confirmed = true;
            return;
        };
        self.generation += 1;
        self.renewed_at = scope.now;
        scope.out.push_back(Output::Addresses(GroupPlan {
            group: self.id,
            generation: self.generation,
            interface,
            addresses: self.vip.addresses.clone(),
            hold: self.hold,
            lease: self.election.params().lease,
        }));
    }

    /// The kernel's answer to a plan.
    pub(crate) fn applied(&mut self, generation: u64, result: Result<(), String>, scope: &mut Scope<'_>) {
        if generation < self.hold_generation {
            return;
        }
        match (self.hold, result) {
            (_, Ok(())) => {
                if !std::mem::replace(&mut self.confirmed, true) {
                    self.hold_confirmed(scope);
                }
            }
            (Hold::Owned, Err(reason)) => self.refused(&reason, scope),
            (Hold::Silent, Err(reason)) => self.cannot_be_silent(&reason, scope),
            (Hold::Absent, Err(reason)) => {
                let message = format!("{}: the kernel would not delete it: {reason}", self.vip.name);
                scope.event(self.event(Level::Error, Kind::AddressRefused, message));
                self.confirmed = true;
                self.hold_confirmed(scope);
            }
        }
    }

    fn hold_confirmed(&mut self, scope: &mut Scope<'_>) {
        match self.hold {
            Hold::Owned => {
                if let Some(takeover) = &mut self.takeover {
                    takeover.address_in = Some(scope.now);
                }
                self.announce(Announcing { since: scope.now, next: 0, at: scope.now }, scope);
            }
            Hold::Silent | Hold::Absent => match self.transition {
                Transition::Silencing { purpose, .. } => self.released(purpose, scope),
                Transition::Preparing { from, nonce, until } if self.hold == Hold::Silent => {
                    self.transition = Transition::Prepared { from, nonce, until };
                    self.ready(from, nonce, scope);
                }
                Transition::None
                | Transition::Asking { .. }
                | Transition::Lingering { .. }
                | Transition::Preparing { .. }
                | Transition::Prepared { .. } => {}
            },
        }
    }

    /// A refusal is a fault with a reason and a release, never a silent half-owner.
    fn refused(&mut self, reason: &str, scope: &mut Scope<'_>) {
        let message = format!("{}: the kernel refused an address: {reason}", self.vip.name);
        scope.event(self.event(Level::Error, Kind::AddressRefused, message.clone()));
        self.fault = Some(message);
        self.retry_at = Some(scope.now + RETRY_AFTER);
        self.happen(Happening::Fault, scope);
    }

    fn cannot_be_silent(&mut self, reason: &str, scope: &mut Scope<'_>) {
        let message =
            format!("{}: cannot hold it silently, so there is a short gap: {reason}", self.vip.name);
        scope.event(self.event(Level::Warn, Kind::Switchover, message));
        match self.transition {
            Transition::Silencing { .. } => {
                self.close_sessions(scope);
                self.plan(Hold::Absent, scope);
            }
            Transition::Preparing { from, nonce, until } => {
                // The address goes in after the release instead.
                self.plan(Hold::Absent, scope);
                self.transition = Transition::Prepared { from, nonce, until };
                self.ready(from, nonce, scope);
            }
            Transition::None
            | Transition::Asking { .. }
            | Transition::Lingering { .. }
            | Transition::Prepared { .. } => self.plan(Hold::Absent, scope),
        }
    }

    /// Somebody deleted an address, and the kernel actor put it back.
    pub(crate) fn restored(&mut self, addresses: &[IpAddr], scope: &mut Scope<'_>) {
        let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("{}: somebody deleted {list}; it is back", self.vip.name);
        scope.event(self.event(Level::Warn, Kind::AddressRestored, message));
        if self.hold == Hold::Owned && self.confirmed {
            self.announce(Announcing { since: scope.now, next: 0, at: scope.now }, scope);
        }
    }

    fn announce(&mut self, announcing: Announcing, scope: &mut Scope<'_>) {
        let Link::Up { interface, .. } = self.link else { return };
        if self.hold != Hold::Owned || !self.confirmed {
            return;
        }
        let next = announcing.next + 1;
        let at = match ANNOUNCE_AT.get(next) {
            Some(after) => (announcing.since + *after).max(scope.now + Duration::from_millis(1)),
            None => scope.now + ANNOUNCE_REFRESH,
        };
        self.announcing = Some(Announcing { next, at, ..announcing });
        let addresses = self.vip.addresses.iter().map(|a| a.address()).collect();
        scope.out.push_back(Output::Announce(Announcement { group: self.id, interface, addresses }));
    }

    /// The first announcement was sent: the takeover is complete.
    pub(crate) fn announced(&mut self, scope: &mut Scope<'_>) {
        let Some(takeover) = self.takeover.take() else { return };
        let steps = Steps {
            detected: takeover.detected - takeover.sign,
            decided: takeover.decided - takeover.sign,
            address_in: takeover.address_in.unwrap_or(scope.now) - takeover.sign,
            announced: scope.now - takeover.sign,
        };
        self.steps = Some(steps);
        let message = format!("{} is here: {}", self.vip.name, explain::change(self, scope));
        let event = Event { steps: Some(steps), ..self.event(Level::Info, Kind::Failover, message) };
        scope.event(event);
    }

    fn close_sessions(&self, scope: &mut Scope<'_>) {
        let addresses = self.vip.addresses.iter().map(|a| a.address()).collect();
        scope.out.push_back(Output::CloseSessions { addresses });
    }

    // ---- a planned switchover: the owner's side -------------------------

    /// Whether a switchover of this group is under way here.
    pub(crate) fn in_transition(&self) -> bool {
        self.transition != Transition::None
    }

    /// Whether this node owns, serves nothing, and may ask another to take over.
    pub(crate) fn would_step_back(&self, now: Time) -> bool {
        let owns = self.election.word() == State::Active && !self.in_transition();
        owns && !self.serving && now >= self.step_back_at
    }

    /// Whether the kernel holds nothing of this group any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.hold == Hold::Absent && self.confirmed && !self.in_transition()
    }

    /// Hands the group over to `to`, or to whoever takes it.
    pub(crate) fn hand_over(&mut self, to: Option<usize>, purpose: Purpose, scope: &mut Scope<'_>) {
        let Some(to) = to else { return self.silence(purpose, scope) };
        let nonce = scope.nonce();
        let (again_at, until) = (scope.now + ASK_EVERY, scope.now + ASK_FOR);
        self.transition = Transition::Asking { to, nonce, again_at, until, purpose };
        self.ask(to, nonce, scope);
    }

    /// Takes part no longer: hands over what it owns, and leaves the election.
    pub(crate) fn leave(&mut self, to: Option<usize>, scope: &mut Scope<'_>) {
        self.taking_part = false;
        match self.election.word() {
            State::Active => self.hand_over(to, Purpose::Leave, scope),
            State::Init | State::Backup | State::Fault => {
                self.happen(Happening::Shutdown, scope);
                if !matches!(self.transition, Transition::Lingering { .. }) && self.hold != Hold::Absent {
                    self.transition = Transition::None;
                    self.plan(Hold::Absent, scope);
                }
            }
        }
    }

    /// Asks the next owner to prepare, and tells the others who it is.
    fn ask(&self, to: usize, nonce: u32, scope: &mut Scope<'_>) {
        let message = Message::Prepare { vrid: self.vip.vrid, nonce, to: scope.id_of(to) };
        let me = scope.me;
        for node in self.vip.nodes.iter().filter(|n| **n != me) {
            scope.send(*node, message.clone());
        }
    }

    /// The next owner holds the addresses.
    pub(crate) fn peer_ready(&mut self, from: usize, answer: u32, scope: &mut Scope<'_>) {
        match self.transition {
            Transition::Asking { to, nonce, purpose, .. } if to == from && nonce == answer => {
                self.silence(purpose, scope);
            }
            Transition::None
            | Transition::Asking { .. }
            | Transition::Silencing { .. }
            | Transition::Lingering { .. }
            | Transition::Preparing { .. }
            | Transition::Prepared { .. } => {}
        }
    }

    fn silence(&mut self, purpose: Purpose, scope: &mut Scope<'_>) {
        self.announcing = None;
        self.transition = Transition::Silencing { until: scope.now + SILENCE_FOR, purpose };
        self.plan(Hold::Silent, scope);
    }

    /// This node answers for the addresses no more: say so, and linger.
    fn released(&mut self, purpose: Purpose, scope: &mut Scope<'_>) {
        self.happen(Happening::Release, scope);
        if self.election.word() != State::Backup || self.cause != Some(Cause::GivenUp) {
            // It had lost the election meanwhile.
            return;
        }
        let (until, release_at) = (scope.now + LINGER_FOR, Some(scope.now + RELEASE_AGAIN));
        self.transition = Transition::Lingering { until, release_at, releases: 1 };
        scope.guard_changed = true;
        if purpose == Purpose::Leave {
            // A node that leaves does not take over again.
            self.happen(Happening::Shutdown, scope);
        }
    }

    fn release_again(&mut self, scope: &mut Scope<'_>) {
        let now = scope.now;
        if let Transition::Lingering { release_at, releases, .. } = &mut self.transition {
            *releases += 1;
            *release_at = (*releases < RELEASES).then_some(now + RELEASE_AGAIN);
            self.transmit(PRIORITY_RELEASE, scope);
        }
    }

    fn end_lingering(&mut self, scope: &mut Scope<'_>) {
        self.transition = Transition::None;
        self.close_sessions(scope);
        self.plan(Hold::Absent, scope);
    }

    // ---- a planned switchover: the next owner's side --------------------

    /// The owner asks this node, or another, to be the next owner.
    pub(crate) fn asked_to_prepare(&mut self, from: usize, nonce: u32, me: bool, scope: &mut Scope<'_>) {
        let followed = self.election.following().is_some_and(|o| o.who == Who::Node(from));
        if self.election.word() != State::Backup || !followed || !self.taking_part {
            return;
        }
        if !me {
            self.other_is_next = Some(scope.now + PREPARED_FOR);
            return;
        }
        match self.transition {
            Transition::Prepared { nonce: known, from: asker, .. } if known == nonce && asker == from => {
                self.ready(from, nonce, scope);
            }
            Transition::Preparing { nonce: known, .. } if known == nonce => {}
            Transition::None
            | Transition::Preparing { .. }
            | Transition::Prepared { .. }
            | Transition::Asking { .. }
            | Transition::Silencing { .. }
            | Transition::Lingering { .. } => {
                let until = scope.now + PREPARED_FOR;
                self.transition = Transition::Preparing { from, nonce, until };
                self.plan(Hold::Silent, scope);
            }
        }
    }

    fn ready(&self, to: usize, nonce: u32, scope: &mut Scope<'_>) {
        scope.send(to, Message::Ready { vrid: self.vip.vrid, nonce });
    }

    // ---- packets --------------------------------------------------------

    /// Sends an advert of a priority on every family that carries the group.
    fn transmit(&self, priority: u8, scope: &mut Scope<'_>) {
        let adverts = self.adverts(priority, scope);
        scope.out.extend(adverts.into_iter().map(Output::Advert));
    }

    /// The packets that release the group, for the crash guard; none unless it is owned.
    pub(crate) fn farewells(&self, scope: &Scope<'_>) -> Vec<Transmit> {
        match self.election.word() {
            State::Active => self.adverts(PRIORITY_RELEASE, scope),
            State::Init | State::Backup | State::Fault => vec![],
        }
    }

    fn adverts(&self, priority: u8, scope: &Scope<'_>) -> Vec<Transmit> {
        let Link::Up { interface, sources } = &self.link else { return vec![] };
        let mut adverts = vec![];
        for source in sources {
            let family = Family::of(*source);
            let addresses: Vec<IpAddr> = self.vip.of_family(family).map(|a| a.address()).collect();
            if addresses.is_empty() {
                continue;
            }
            let advert = Advert {
                version: scope.settings.election.version,
                vrid: self.vip.vrid,
                priority,
                interval: self.election.params().interval,
                addresses,
            };
            for destination in self.destinations(family, scope) {
                let bytes = advert.write(*source, destination);
                adverts.push(Transmit { interface: *interface, source: *source, destination, bytes });
            }
        }
        adverts
    }

    fn destinations(&self, family: Family, scope: &Scope<'_>) -> Vec<IpAddr> {
        match (scope.settings.election.transport, family) {
            (Transport::Multicast, Family::V4) => vec![MULTICAST_V4],
            (Transport::Multicast, Family::V6) => vec![MULTICAST_V6],
            (Transport::Unicast, _) => {
                let others = self.vip.nodes.iter().filter(|n| **n != scope.me);
                others.filter_map(|n| scope.settings.cluster.nodes.get(*n)?.address(family)).collect()
            }
        }
    }

    /// Whether the group runs on an interface.
    pub(crate) fn is_on(&self, index: u32) -> bool {
        matches!(self.link, Link::Up { interface, .. } if interface == index)
    }

    /// This node's own address of a family to advertise from.
    pub(crate) fn source(&self, family: Family) -> Option<IpAddr> {
        match &self.link {
            Link::Up { sources, .. } => sources.iter().copied().find(|s| Family::of(*s) == family),
            Link::Unknown | Link::Down { .. } => None,
        }
    }

    /// The addresses that would stay behind if the program died now.
    pub(crate) fn held(&self) -> Vec<(u32, Cidr)> {
        match (self.hold, self.interface) {
            (Hold::Absent, _) | (_, None) => vec![],
            (Hold::Silent | Hold::Owned, Some(interface)) => {
                self.vip.addresses.iter().map(|a| (interface, *a)).collect()
            }
        }
    }

    /// The group as peers are told of it.
    pub(crate) fn report(&self) -> GroupReport {
        GroupReport {
            vrid: self.vip.vrid,
            state: self.election.word(),
            priority: self.election.params().priority,
            serving: self.serving,
        }
    }

    /// The group as users see it.
    pub(crate) fn status(&self, scope: &Scope<'_>) -> GroupStatus {
        let state = self.election.word();
        let owner = match state {
            State::Active => Some(scope.name(scope.me).to_owned()),
            State::Init | State::Backup | State::Fault => {
                self.election.following().map(|o| explain::who(o.who, scope))
            }
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
            steps: self.steps,
        }
    }

    fn event(&self, level: Level, kind: Kind, message: impl Into<String>) -> Event {
        Event::new(level, kind, message).of_vip(&self.vip.name)
    }

    /// Takes over changed settings without touching what did not change.
    pub(crate) fn reconfigure(&mut self, vip: VipGroup, params: Params, scope: &mut Scope<'_>) {
        if *self.election.params() != params {
            self.election.set_params(params);
        }
        let moved = self.vip.addresses != vip.addresses;
        self.vip = vip;
        if moved && self.hold != Hold::Absent {
            self.plan(self.hold, scope);
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
