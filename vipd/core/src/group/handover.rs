//! A planned switchover: make before break.
//!
//! ```text
//! owner:       Asking --ready--> Silencing --acknowledged--> Lingering --> (nothing)
//!              |  nobody answers: back to owning, or on without asking when stopping
//! next owner:  Preparing --acknowledged--> Prepared --release--> (owns)
//! ```
//! The owner goes silent before it releases and the next one answers only
//! after the release, so two never answer for an address; both take packets
//! for it all the while, so none falls into a gap.

use super::{Group, RETRY_AFTER};
use crate::election::{Cause, Event as Happening, Who};
use crate::event::{Kind, Level};
use crate::lease::Lease;
use crate::node::{RANK, Scope};
use crate::plan::Hold;
use crate::time::Time;
use crate::wire::advert::PRIORITY_RELEASE;
use crate::wire::peer::{Message, State};
use std::time::Duration;

/// The next owner is asked again this often, until it answers.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// A switchover is given up, and a stopping node goes on alone, after this.
const ASK_FOR: Duration = Duration::from_millis(300);
/// By a reload, with long intervals, after this.
const HAND_OVER_AT_MOST: Duration = Duration::from_secs(3);
/// An owner that was asked to go silent by the kernel and got no answer goes on after this.
const SILENCE_FOR: Duration = Duration::from_millis(200);
/// The next owner keeps itself prepared for this long.
const PREPARED_FOR: Duration = Duration::from_secs(1);
/// The former owner takes packets that are on their way for this long.
const LINGER_FOR: Duration = Duration::from_millis(500);
/// Its sessions are closed this long before: the kernel sends their resets only
/// while the address is there.
pub(super) const CLOSE_BEFORE: Duration = Duration::from_millis(100);
/// A release is repeated while nobody has answered it: one packet may be lost.
const RELEASE_AGAIN: Duration = Duration::from_millis(5);
const RELEASES: u8 = 8;

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
pub(super) enum Transition {
    None,
    Asking { to: usize, nonce: u32, again_at: Time, until: Time, purpose: Purpose },
    Silencing { until: Time, purpose: Purpose },
    Lingering { until: Time, close_at: Option<Time>, release_at: Option<Time>, releases: u8 },
    Preparing { from: usize, nonce: u32, until: Time },
    Prepared { from: usize, nonce: u32, until: Time },
}

/// When the kernel has ended what it holds by a lease, whatever it answers: its
/// lifetimes end up to a tenth late. A node that stops does not wait for longer
/// than [`crate::node`] lets it, and leaves the addresses to the guard.
fn lease_ends_within(lease: Duration) -> Duration {
    lease + lease / 10 + Duration::from_millis(100)
}

impl Group {
    pub(super) fn tick_transition(&mut self, scope: &mut Scope<'_>) {
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
            Transition::Silencing { until, purpose } if until <= scope.now => match purpose {
                // By now the kernel has ended the lifetime, if it does nothing else.
                Purpose::Leave => self.released(scope),
                Purpose::Switchover | Purpose::StepBack => self.own_on(scope),
            },
            Transition::Lingering { until, close_at, .. } if until <= scope.now => {
                if close_at.is_some() {
                    self.close_sessions(scope);
                }
                self.end_lingering(scope);
            }
            Transition::Lingering { close_at: Some(at), .. } if at <= scope.now => {
                if let Transition::Lingering { close_at, .. } = &mut self.transition {
                    *close_at = None;
                }
                self.close_sessions(scope);
            }
            Transition::Lingering { release_at: Some(at), .. } if at <= scope.now => {
                self.release_again(scope);
            }
            Transition::Preparing { until, .. } | Transition::Prepared { until, .. }
                if until <= scope.now =>
            {
                // What it owned shortly before may have sessions still.
                self.close_sessions(scope);
                self.linger(CLOSE_BEFORE, None, scope);
            }
            Transition::None
            | Transition::Asking { .. }
            | Transition::Silencing { .. }
            | Transition::Lingering { .. }
            | Transition::Preparing { .. }
            | Transition::Prepared { .. } => {}
        }
    }

    /// How long to wait after a release by `who`: by rank among the known
    /// nodes, and the RFC's skew (`None`) for strangers. One that has just
    /// started hears first what the others own by their files.
    pub(super) fn wait_after(&self, who: Who, scope: &Scope<'_>) -> Option<Duration> {
        let Who::Node(sender) = who else { return None };
        if let Transition::Prepared { from, until, .. } | Transition::Preparing { from, until, .. } =
            self.transition
            && from == sender
            && scope.now < until
        {
            return Some(scope.unsure_for);
        }
        let ranking = self.vip.ranking(&scope.settings.cluster.nodes);
        let rank = ranking.iter().filter(|n| **n != sender).position(|n| *n == scope.me)?;
        let behind = usize::from(self.other_is_next.is_some_and(|until| scope.now < until));
        let rank = u32::try_from(rank + behind).unwrap_or(u32::MAX);
        // Who waits for one end does not wait alone.
        Some(scope.unsure_for + RANK.saturating_mul(rank))
    }

    // ---- the owner's side -------------------------------------------------

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
                    self.close_sessions(scope);
                    self.linger(CLOSE_BEFORE, None, scope);
                }
            }
        }
    }

    /// The same by a reload. Whoever is told that this node's file differs is not
    /// ready before each owner has spoken: it is asked once it knows that, and for
    /// as long.
    pub(crate) fn leave_by_reload(&mut self, to: Option<usize>, scope: &mut Scope<'_>) {
        let Some(to) = to.filter(|_| self.election.word() == State::Active) else {
            return self.leave(to, scope);
        };
        self.taking_part = false;
        let (nonce, purpose) = (scope.nonce(), Purpose::Leave);
        let spoken = self.election.params().interval + RANK * 4;
        let until = scope.now + spoken.clamp(ASK_FOR, HAND_OVER_AT_MOST);
        self.transition = Transition::Asking { to, nonce, again_at: scope.now + ASK_EVERY, until, purpose };
    }

    /// Whether it leaves, and owns until the next owner answers.
    pub(crate) const fn asks_to_leave(&self) -> bool {
        matches!(self.transition, Transition::Asking { purpose: Purpose::Leave, .. })
    }

    /// It does not leave after all.
    pub(crate) const fn ask_no_more(&mut self) {
        if self.asks_to_leave() {
            self.transition = Transition::None;
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

    /// Why an owner would go silent now; `None` if it does already.
    pub(super) const fn leaving_for(&self) -> Option<Purpose> {
        match self.transition {
            Transition::None | Transition::Preparing { .. } | Transition::Prepared { .. } => {
                Some(Purpose::Switchover)
            }
            Transition::Asking { purpose, .. } => Some(purpose),
            Transition::Silencing { .. } | Transition::Lingering { .. } => None,
        }
    }

    pub(super) fn silence(&mut self, purpose: Purpose, scope: &mut Scope<'_>) {
        self.announcing = None;
        let patience = match purpose {
            Purpose::Leave => lease_ends_within(self.election.params().lease),
            Purpose::Switchover | Purpose::StepBack => SILENCE_FOR,
        };
        self.transition = Transition::Silencing { until: scope.now + patience, purpose };
        self.plan(Hold::Silent, scope);
    }

    /// The kernel does not answer: nobody is told that the addresses are free.
    fn own_on(&mut self, scope: &mut Scope<'_>) {
        self.transition = Transition::None;
        self.step_back_at = scope.now + RETRY_AFTER;
        let message = format!(
            "{} stays here: the kernel did not silence it within {} ms",
            self.vip.name,
            SILENCE_FOR.as_millis()
        );
        scope.event(self.event(Level::Warn, Kind::Switchover, message));
        self.plan(Hold::Owned, scope);
    }

    /// This node answers for the addresses no more: say so, and linger.
    pub(super) fn released(&mut self, scope: &mut Scope<'_>) {
        self.happen(Happening::Release, scope);
        if self.election.word() != State::Backup || self.cause != Some(Cause::GivenUp) {
            // It had lost the election meanwhile.
            return;
        }
        let (until, release_at) = (scope.now + LINGER_FOR, Some(scope.now + RELEASE_AGAIN));
        let close_at = Some(until.before(CLOSE_BEFORE));
        self.transition = Transition::Lingering { until, close_at, release_at, releases: 1 };
        scope.guard_changed = true;
        if !self.taking_part {
            // A node that leaves does not take over again.
            self.happen(Happening::Shutdown, scope);
        }
    }

    /// Keeps what the kernel holds for a while, and repeats the release from then on.
    fn linger(&mut self, length: Duration, release_at: Option<Time>, scope: &Scope<'_>) {
        let until = scope.now + length;
        self.transition = Transition::Lingering { until, close_at: None, release_at, releases: 1 };
    }

    /// The link went while this node owned, so that nobody heard it let go: as
    /// soon as there is an address to say it from, and the kernel holds nothing
    /// any more, it says so.
    pub(super) fn release_late(&mut self, scope: &mut Scope<'_>) {
        let due = self.unsaid_until.is_some_and(|until| scope.now < until);
        if !due || self.voice().is_none() || self.hold != Hold::Absent || !self.confirmed {
            return;
        }
        self.unsaid_until = None;
        self.say_released(scope);
        self.linger(LINGER_FOR, Some(scope.now + RELEASE_AGAIN), scope);
    }

    fn release_again(&mut self, scope: &mut Scope<'_>) {
        let now = scope.now;
        if let Transition::Lingering { release_at, releases, .. } = &mut self.transition {
            *releases += 1;
            *release_at = (*releases < RELEASES).then_some(now + RELEASE_AGAIN);
            self.say_released(scope);
        }
    }

    fn say_released(&self, scope: &mut Scope<'_>) {
        self.transmit(PRIORITY_RELEASE, scope);
        if let Some(number) = self.election.lease().map(Lease::withdrawn) {
            self.tell_given_back(number, scope);
        }
    }

    fn end_lingering(&mut self, scope: &mut Scope<'_>) {
        self.transition = Transition::None;
        self.plan(Hold::Absent, scope);
    }

    // ---- the next owner's side ---------------------------------------------

    /// The owner asks this node, or another, to be the next owner.
    pub(crate) fn asked_to_prepare(&mut self, from: usize, nonce: u32, me: bool, scope: &mut Scope<'_>) {
        // A node that has just started may not have heard an advert yet.
        let followed = self.election.following().is_none_or(|o| o.who == Who::Node(from));
        if self.election.word() != State::Backup || !followed || !self.taking_part {
            return;
        }
        if !me {
            self.other_is_next = Some(scope.now + PREPARED_FOR);
            return;
        }
        if !self.warm || self.holds_nothing() || !scope.unsure_for.is_zero() {
            // It would have nothing to serve from, or is not free to; the owner asks again.
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
                self.former = match self.transition {
                    // Its own connections go on here: to the other they are strangers.
                    Transition::Lingering { .. } => None,
                    Transition::Preparing { .. } | Transition::Prepared { .. } => {
                        self.former.filter(|former| *former == from)
                    }
                    Transition::None | Transition::Asking { .. } | Transition::Silencing { .. } => Some(from),
                };
                self.transition = Transition::Preparing { from, nonce, until };
                self.plan(Hold::Silent, scope);
            }
        }
    }

    pub(super) fn ready(&self, to: usize, nonce: u32, scope: &mut Scope<'_>) {
        scope.send(to, Message::Ready { vrid: self.vip.vrid, nonce });
    }
}
