//! One virtual router's state machine (RFC 9568 section 6.4, RFC 3768 section 6.4).
//!
//! ```text
//!                    Startup, priority 255 and able to serve
//!        +--------+---------------------------------+
//!   +--->|  Init  |                                 |
//!   |    +--------+                                 v
//!   |        | Startup     timer: nobody spoke  +--------+
//!   |        v             release heard + wait |        |---+ timer, release or
//!   |    +--------+---------------------------->| Active |   | losing advert heard:
//!   |    | Backup |                             |        |<--+ advertise
//!   |    |        |<----------------------------+--------+
//!   |    +--------+  superior advert, Release, slept |
//!   |        |                                       |
//!   +--------+------------- Shutdown ----------------+
//!
//!   Fault takes any state to Fault; Startup leaves Fault as it leaves Init.
//!
//!   With a quorum lease the way to Active leads through a candidacy, and the
//!   lease's end leads back:
//!
//!            |  would become Active                 |
//!            v                                      |
//!   Backup, candidate --- a majority grants ---> Active
//!            |   ^                                  |
//!            |   |   its timer, once more           | the majority's
//!            v   |                                  | promises are over
//!          Backup <---------------------------------+
//!            an owner is heard
//! ```
//!
//! What is ours and not the RFC's: preemption is off unless asked for, a
//! release by a known node is answered by rank instead of by skew, a release
//! by somebody we do not follow moves no timer, and an owner that slept so
//! long that another may have taken over steps down before it says a word.

mod io;

pub use self::io::{Cause, Event, Heard, Outcome, Owner, Params, Restraint, Who};

use crate::lease::{Answer, Lease};
use crate::settings::VrrpVersion;
use crate::time::Time;
use crate::wire::advert::{PRIORITY_OWNER, PRIORITY_RELEASE};
use crate::wire::peer::State as Word;
use std::time::Duration;

/// Silence of this many intervals (and the skew) makes a backup take over.
const SILENT_INTERVALS: u32 = 3;
/// A losing advert or a release is answered at once, but not more often than this.
const ANSWER_GAP: Duration = Duration::from_millis(5);
/// A backup whose timer runs out this much too late (or an interval, if that
/// is longer) was asleep: it listens again before it judges anybody silent.
const OVERSLEPT: Duration = Duration::from_millis(20);
/// After a sleep, what was queued meanwhile is heard within this time, and
/// after a release what it has overtaken.
const SETTLE: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum State {
    Init,
    Fault,
    Backup {
        /// When to take over.
        down_at: Time,
        /// Whom to take over from.
        owner: Option<Owner>,
        /// The followed owner released the addresses.
        released: bool,
        /// From when on a lower priority is not followed any more.
        preempt_at: Option<Time>,
        /// This node gave ownership up and does not preempt its successor.
        yielded: bool,
        /// It would own, and waits for the lease: why.
        candidate: Option<Cause>,
    },
    Active {
        /// When to advertise next.
        advert_at: Time,
        /// When the last advert went out.
        sent_at: Time,
        /// How long after that another may own: what the last advert promised.
        until_lost: Duration,
    },
}

/// One virtual router's election.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Election {
    params: Params,
    state: State,
    /// The owner's interval, which backups follow (version 3).
    interval: Duration,
    /// Who released it last, and when.
    let_go: Option<(Who, Time)>,
    /// When this backup last woke after its timer had long run out.
    woke_at: Option<Time>,
    /// Whether this node would serve: only then does it preempt, or own from
    /// the start.
    eager: bool,
    /// The addresses are, or may be, somebody else's until then.
    barred: Option<Time>,
    /// What decides whether it may own; nothing does without a quorum.
    lease: Option<Lease>,
}

impl Election {
    /// An election in Init.
    #[must_use]
    pub fn new(params: Params) -> Self {
        let interval = params.interval;
        Self {
            params,
            state: State::Init,
            interval,
            let_go: None,
            woke_at: None,
            eager: true,
            barred: None,
            lease: None,
        }
    }

    /// The same, with a lease that decides whether it may own.
    #[must_use]
    pub fn with_lease(self, lease: Option<Lease>) -> Self {
        Self { lease, ..self }
    }

    /// The lease, where there is one.
    #[must_use]
    pub const fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Whether this backup would own and waits for the lease.
    #[must_use]
    pub const fn is_candidate(&self) -> bool {
        matches!(self.state, State::Backup { candidate: Some(_), .. })
    }

    /// The group was given back by its holder: a candidate asks at once.
    pub fn hurry(&mut self, now: Time) {
        let candidate = self.is_candidate();
        if let Some(lease) = self.lease.as_mut().filter(|_| candidate) {
            lease.hurry(now);
        }
    }

    /// The same election on a clock that shows `now`: for the exploration of
    /// all states, where only differences count. What is only told to people
    /// is forgotten.
    pub fn rebase(&mut self, now: Time, time: impl Fn(Time) -> Time, number: impl Fn(u64) -> u64) {
        match &mut self.state {
            State::Init | State::Fault => {}
            State::Backup { down_at, owner, preempt_at, candidate, released, .. } => {
                *down_at = if candidate.is_some() { now } else { time(*down_at) };
                *preempt_at = preempt_at.map(&time);
                if let Some(owner) = owner {
                    (owner.at, owner.priority) = (now, PRIORITY_OWNER);
                }
                *candidate = candidate.map(|_| Cause::Silence(None));
                *released = false;
            }
            State::Active { advert_at, sent_at, .. } => {
                (*advert_at, *sent_at) = (time(*advert_at), time(*sent_at));
            }
        }
        self.barred = self.barred.map(&time);
        self.woke_at = self.woke_at.map(&time).filter(|at| now - *at < SETTLE);
        self.let_go = self.let_go.filter(|(_, at)| now - *at < SETTLE).map(|(who, at)| (who, time(at)));
        if let Some(lease) = &mut self.lease {
            lease.rebase(now, time, number);
        }
    }

    /// Until when an owner may hold the addresses; nothing ends that without a quorum.
    #[must_use]
    pub fn may_own_until(&self) -> Option<Time> {
        self.lease.as_ref().filter(|l| !l.keeps()).map(|l| l.until().unwrap_or(Time::ZERO))
    }

    /// The addresses are not held here: an election that wants none gives its
    /// promises back. The number up to which requests are withdrawn.
    pub fn give_back(&mut self) -> Option<u64> {
        let wants = self.is_candidate() || matches!(self.state, State::Active { .. });
        self.lease.as_mut().filter(|_| !wants).and_then(Lease::give_back)
    }

    /// The parameters in force.
    #[must_use]
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// Changes the parameters. An owner advertises at once, so that its backups
    /// learn them; its own patience stays what its last advert promised.
    pub fn set_params(&mut self, params: Params, now: Time) {
        self.params = params;
        let pause = self.skew() * 2;
        if let Some(lease) = &mut self.lease {
            lease.set_terms(self.params.interval, pause);
        }
        match &mut self.state {
            State::Active { advert_at, .. } => {
                self.interval = self.params.interval;
                *advert_at = now;
            }
            // It follows its owner's interval.
            State::Backup { owner: Some(_), .. } => {}
            State::Init | State::Fault | State::Backup { owner: None, .. } => {
                self.interval = self.params.interval;
            }
        }
    }

    /// Whether this node has something to serve: only then does it preempt, and
    /// only then does an address owner (priority 255) own from the start.
    pub const fn set_eager(&mut self, eager: bool) {
        self.eager = eager;
    }

    /// Somebody else answers for all the addresses, or may do so unheard: a
    /// backup does not take over before then. `rank` is how long those that come
    /// before it are given: whoever waits for the same end does not wait alone.
    pub fn bar(&mut self, until: Option<Time>, rank: Duration, now: Time) {
        if self.barred.is_some()
            && until.is_none()
            && let State::Backup { down_at, .. } = &mut self.state
        {
            // The timer may have run out meanwhile: it does so now, and no earlier.
            *down_at = (now + rank).max(*down_at);
        }
        self.barred = until.map(|until| until + rank);
    }

    /// What barred it was released: who it was answers for the addresses no more,
    /// so that nobody need be listened for.
    pub fn free(&mut self, rank: Duration, now: Time) {
        if let State::Backup { down_at, owner: None, candidate: None, .. } = &mut self.state {
            *down_at = (now + rank).min(*down_at);
        }
    }

    /// Whether it was barred at the last look.
    #[must_use]
    pub const fn is_barred(&self) -> bool {
        self.barred.is_some()
    }

    /// When a backup takes over.
    fn due(&self, down_at: Time) -> Time {
        self.barred.map_or(down_at, |until| until.max(down_at))
    }

    /// Somebody whom the cluster key does not prove says to own this, and may yet
    /// be a node of ours: a backup does not take over for as long as it hears that.
    pub fn postpone(&mut self, now: Time) {
        let at = now + self.active_down_interval();
        if let State::Backup { down_at, .. } = &mut self.state {
            *down_at = at.max(*down_at);
        }
    }

    /// The state's word.
    #[must_use]
    pub const fn word(&self) -> Word {
        match self.state {
            State::Init => Word::Init,
            State::Fault => Word::Fault,
            State::Backup { .. } => Word::Backup,
            State::Active { .. } => Word::Active,
        }
    }

    /// The owner a backup follows.
    #[must_use]
    pub const fn following(&self) -> Option<Owner> {
        match self.state {
            State::Backup { owner, .. } => owner,
            State::Init | State::Fault | State::Active { .. } => None,
        }
    }

    /// The owner a backup follows, as long as it has not let go or fallen silent.
    #[must_use]
    pub const fn following_owner(&self) -> Option<Owner> {
        match self.state {
            State::Backup {
                released: false, candidate: None | Some(Cause::Preempted(..)), owner, ..
            } => owner,
            State::Init | State::Fault | State::Backup { .. } | State::Active { .. } => None,
        }
    }

    /// What keeps this backup from preempting; `None` unless it follows an
    /// owner of lower priority.
    #[must_use]
    pub fn restraint(&self, now: Time) -> Option<Restraint> {
        let State::Backup { owner: Some(owner), preempt_at, yielded, .. } = &self.state else { return None };
        if owner.priority >= self.params.priority {
            return None;
        }
        Some(match preempt_at {
            _ if self.params.priority == PRIORITY_OWNER && self.eager => Restraint::Nothing,
            _ if self.params.priority == PRIORITY_OWNER => Restraint::NotEager,
            _ if !self.params.preempt => Restraint::Off,
            _ if *yielded => Restraint::Yielded,
            _ if !self.eager => Restraint::NotEager,
            Some(at) if now < *at => Restraint::Delay(*at - now),
            // Without a time it starts to count at the next advert.
            None if !self.params.preempt_delay.is_zero() => Restraint::Delay(self.params.preempt_delay),
            Some(_) | None => Restraint::Nothing,
        })
    }

    /// When [`Event::Timer`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let lease = self.lease.as_ref().and_then(Lease::deadline);
        match self.state {
            State::Init | State::Fault => None,
            State::Backup { candidate: Some(_), .. } => lease,
            State::Backup { down_at, .. } => Some(self.due(down_at)),
            State::Active { advert_at, .. } => lease.into_iter().chain([advert_at]).min(),
        }
    }

    /// Silence after which a backup takes over: three intervals and the skew.
    #[must_use]
    pub fn active_down_interval(&self) -> Duration {
        self.interval * SILENT_INTERVALS + self.skew()
    }

    /// The head start that higher priorities have, exact to the nanosecond.
    #[must_use]
    pub fn skew(&self) -> Duration {
        let of = match self.params.version {
            VrrpVersion::V2 => Duration::from_secs(1),
            VrrpVersion::V3 => self.interval,
        };
        of * (256 - u32::from(self.params.priority)) / 256
    }

    /// An owner silent for longer may have a successor.
    fn longest_sleep(&self) -> Duration {
        (self.params.interval * SILENT_INTERVALS).min(self.params.lease)
    }

    /// Takes an event. An owner that slept too long, or whose lease is over,
    /// steps down first, whatever woke it.
    pub fn handle(&mut self, event: Event, now: Time) -> Outcome {
        let Some(cause) = self.lost(now) else { return self.step(event, now) };
        self.become_backup(now, None, false);
        let disown = Some(cause);
        // Those who hear it need not find out by its silence.
        let release = matches!(cause, Cause::NoMajority(..));
        match event {
            Event::Advert(_) | Event::Shutdown | Event::Fault => {
                Outcome { disown, release, ..self.step(event, now) }
            }
            Event::Startup | Event::Release | Event::Timer | Event::Wake(_) | Event::Answer { .. } => {
                Outcome { disown, release, ..Outcome::default() }
            }
        }
    }

    /// Why an owner is none any more.
    fn lost(&mut self, now: Time) -> Option<Cause> {
        let State::Active { sent_at, until_lost, .. } = self.state else { return None };
        let slept = now - sent_at;
        if slept > until_lost {
            return Some(Cause::Slept(slept));
        }
        let lease = self.lease.as_mut().filter(|l| !l.holds(now))?;
        lease.tick(now);
        (!lease.keeps()).then(|| Cause::NoMajority(lease.promises(now), lease.terms().voters))
    }

    fn step(&mut self, event: Event, now: Time) -> Outcome {
        match (&self.state, event) {
            (State::Init | State::Fault, Event::Startup) => self.start(now),
            (_, Event::Answer { voter, number, answer }) => self.answered(voter, number, answer, now),
            (State::Init, Event::Fault) => {
                self.state = State::Fault;
                Outcome::default()
            }
            (State::Fault, Event::Shutdown) => {
                self.state = State::Init;
                Outcome::default()
            }
            (State::Init | State::Fault, _) => Outcome::default(),
            (State::Backup { .. }, Event::Advert(heard)) => self.backup_hears(heard, now),
            (State::Backup { .. }, Event::Timer) => self.backup_timer(now),
            (State::Active { .. }, Event::Advert(heard)) => self.active_hears(heard, now),
            (State::Active { .. }, Event::Timer) => self.active_timer(now),
            (State::Backup { down_at, candidate, yielded, .. }, Event::Wake(late)) => {
                let (down_at, waits, yielded) = (*down_at, candidate.is_none(), *yielded);
                if late > OVERSLEPT {
                    self.woke_at = Some(now);
                }
                if waits && now - self.due(down_at) > OVERSLEPT.max(self.interval) {
                    self.become_backup(now, None, yielded);
                }
                Outcome::default()
            }
            (State::Active { .. }, Event::Wake(_)) => Outcome::default(),
            (State::Active { .. }, Event::Release) => {
                self.become_backup(now, None, true);
                Outcome { release: true, disown: Some(Cause::GivenUp), ..Outcome::default() }
            }
            (State::Backup { .. } | State::Active { .. }, Event::Startup)
            | (State::Backup { .. }, Event::Release) => Outcome::default(),
            (State::Backup { .. }, Event::Shutdown) => {
                self.state = State::Init;
                Outcome::default()
            }
            (State::Backup { .. }, Event::Fault) => {
                self.state = State::Fault;
                Outcome::default()
            }
            (State::Active { .. }, Event::Shutdown) => {
                self.state = State::Init;
                Outcome { release: true, disown: Some(Cause::Shutdown), ..Outcome::default() }
            }
            (State::Active { .. }, Event::Fault) => {
                self.state = State::Fault;
                Outcome { release: true, disown: Some(Cause::Fault), ..Outcome::default() }
            }
        }
    }

    fn start(&mut self, now: Time) -> Outcome {
        self.interval = self.params.interval;
        if self.params.priority == PRIORITY_OWNER && self.eager {
            return self.become_active(Cause::AddressOwner, now);
        }
        self.become_backup(now, None, false);
        Outcome::default()
    }

    fn become_backup(&mut self, now: Time, owner: Option<Owner>, yielded: bool) {
        let down_at = now + self.active_down_interval();
        self.state =
            State::Backup { down_at, owner, released: false, preempt_at: None, yielded, candidate: None };
    }

    /// Owns, if the lease allows; else it is a candidate from now on.
    fn become_active(&mut self, cause: Cause, now: Time) -> Outcome {
        let Some(lease) = &mut self.lease else { return self.own(cause, now) };
        if lease.holds(now) {
            return self.own(cause, now);
        }
        let preempt = matches!(cause, Cause::Preempted(..) | Cause::AddressOwner);
        let wanted = lease.want(preempt, matches!(cause, Cause::Released(_)), now);
        if !matches!(self.state, State::Backup { .. }) {
            self.become_backup(now, None, false);
        }
        if let State::Backup { candidate, .. } = &mut self.state {
            *candidate = Some(cause);
        }
        Outcome::default().and(wanted)
    }

    /// A voter answered: a candidate may own by now, and an owner no more.
    fn answered(&mut self, voter: usize, number: u64, answer: Answer, now: Time) -> Outcome {
        let Some(lease) = &mut self.lease else { return Outcome::default() };
        let extended = lease.answer(voter, number, answer, now);
        let (holds, keeps) = (lease.holds(now), lease.keeps());
        let count = (lease.promises(now), lease.terms().voters);
        match self.state {
            State::Backup { candidate: Some(cause), .. } if holds => self.own(cause, now),
            State::Active { .. } if !holds && !keeps => {
                // Enough of them have promised it to another: this clock stood still.
                self.become_backup(now, None, false);
                let disown = Some(Cause::NoMajority(count.0, count.1));
                Outcome { release: true, disown, ..Outcome::default() }
            }
            State::Active { .. } => Outcome { extended, ..Outcome::default() },
            State::Init | State::Fault | State::Backup { .. } => Outcome::default(),
        }
    }

    fn own(&mut self, cause: Cause, now: Time) -> Outcome {
        self.interval = self.params.interval;
        let own = Some(cause);
        Outcome { own, ..self.advertise(now) }
    }

    /// Active, having advertised just now.
    fn active(&self, advert_at: Time, sent_at: Time) -> State {
        State::Active { advert_at, sent_at, until_lost: self.longest_sleep() }
    }

    fn backup_hears(&mut self, heard: Heard, now: Time) -> Outcome {
        if heard.priority == PRIORITY_RELEASE {
            return self.backup_hears_release(heard, now);
        }
        let just = |at: Time| now - at < SETTLE;
        let slept = self.woke_at.is_some_and(just);
        if !slept && self.let_go.is_some_and(|(who, at)| who == heard.who && just(at)) {
            // Its release overtook this; by its interval it would soon be silent.
            // After a pause the release may be an old one.
            return Outcome::default();
        }
        let (mine, preempt) = (self.params.priority, self.params.preempt);
        let active_down = self.active_down_interval();
        let State::Backup { owner, preempt_at, yielded, candidate, released, down_at } = &mut self.state
        else {
            return Outcome::default();
        };
        if std::mem::take(released) {
            // It has a successor.
            *down_at = now + active_down;
        }
        let followed = Owner { who: heard.who, priority: heard.priority, at: now };
        if heard.priority >= mine {
            *preempt_at = None;
        } else if self.eager && (mine == PRIORITY_OWNER || (preempt && !*yielded)) {
            let delay = if mine == PRIORITY_OWNER { Duration::ZERO } else { self.params.preempt_delay };
            let at = *preempt_at.get_or_insert(now + delay);
            if now >= at {
                // Not followed: the timer runs out in spite of it.
                *owner = Some(followed);
                if candidate.is_some_and(|cause| !matches!(cause, Cause::Preempted(..))) {
                    // It asks the owner to hand over from now on.
                    *candidate = None;
                }
                return Outcome::default();
            }
        }
        let (yielded, preempt_at) = (*yielded, *preempt_at);
        self.interval = heard.interval;
        let down_at = now + self.active_down_interval();
        let owner = Some(followed);
        self.state = State::Backup { down_at, owner, released: false, preempt_at, yielded, candidate: None };
        Outcome::default()
    }

    fn backup_hears_release(&mut self, heard: Heard, now: Time) -> Outcome {
        self.let_go = Some((heard.who, now));
        let mut wait = heard.wait.unwrap_or_else(|| self.skew());
        if self.woke_at.is_some_and(|at| now - at < SETTLE) {
            // It may have waited in the queue while a successor took over: what
            // that one said is heard first.
            wait = wait.max(SETTLE);
        }
        let State::Backup { down_at, owner, released, .. } = &mut self.state else {
            return Outcome::default();
        };
        if owner.is_some_and(|o| o.who != heard.who) {
            return Outcome::default();
        }
        *owner = Some(Owner { who: heard.who, priority: heard.priority, at: now });
        *released = true;
        *down_at = (now + wait).min(*down_at);
        if wait.is_zero() && self.barred.is_none_or(|until| until <= now) {
            return self.become_active(Cause::Released(heard.who), now);
        }
        Outcome::default()
    }

    fn backup_timer(&mut self, now: Time) -> Outcome {
        let State::Backup { down_at, owner, released, preempt_at, candidate, .. } = &self.state else {
            return Outcome::default();
        };
        if candidate.is_some() {
            return self.candidate_timer(now);
        }
        if now < self.due(*down_at) {
            return Outcome::default();
        }
        let cause = match owner {
            Some(owner) if *released => Cause::Released(owner.who),
            Some(owner) if preempt_at.is_some_and(|at| now >= at) => {
                Cause::Preempted(owner.who, owner.priority, self.params.priority)
            }
            Some(owner) => Cause::Silence(Some((owner.who, now - owner.at))),
            None => Cause::Silence(None),
        };
        self.become_active(cause, now)
    }

    fn candidate_timer(&mut self, now: Time) -> Outcome {
        let Some(lease) = &mut self.lease else { return Outcome::default() };
        if lease.goes_without(now) {
            return self.own(Cause::WithoutMajority, now);
        }
        Outcome::default().and(lease.tick(now))
    }

    fn active_hears(&mut self, heard: Heard, now: Time) -> Outcome {
        let mine = self.params.priority;
        if heard.priority == PRIORITY_RELEASE {
            return self.answer(now);
        }
        if heard.priority > mine || (heard.priority == mine && heard.source_is_greater) {
            self.interval = heard.interval;
            let owner = Owner { who: heard.who, priority: heard.priority, at: now };
            self.become_backup(now, Some(owner), false);
            let disown = Some(Cause::Superior(heard.who, heard.priority, mine));
            return Outcome { disown, ..Outcome::default() };
        }
        self.answer(now)
    }

    /// An owner speaks at once, unless it has just spoken.
    fn answer(&mut self, now: Time) -> Outcome {
        match self.state {
            State::Active { sent_at, .. } if now - sent_at >= ANSWER_GAP => self.advertise(now),
            State::Init | State::Fault | State::Backup { .. } | State::Active { .. } => Outcome::default(),
        }
    }

    fn active_timer(&mut self, now: Time) -> Outcome {
        match self.state {
            State::Active { advert_at, .. } if now >= advert_at => {
                let outcome = self.advertise(now);
                // Keep the rhythm when the timer came a little late.
                let next = advert_at + self.params.interval;
                if next > now {
                    self.state = self.active(next, now);
                }
                outcome
            }
            State::Init | State::Fault | State::Backup { .. } | State::Active { .. } => Outcome::default(),
        }
    }

    fn advertise(&mut self, now: Time) -> Outcome {
        self.state = self.active(now + self.params.interval, now);
        let wanted = self.lease.as_mut().map(|l| l.renew(now)).unwrap_or_default();
        Outcome { advertise: true, ..Outcome::default() }.and(wanted)
    }
}

#[cfg(test)]
mod tests;
