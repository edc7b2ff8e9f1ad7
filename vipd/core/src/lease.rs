//! The quorum lease: who may own a VIP group, and until when.
//!
//! Every node and every witness is a voter. A voter promises a group to one
//! holder at a time, for a while that it measures by its own clock. A node may
//! own only while a majority of promises to it provably hold, and any two
//! majorities share a voter: so no two nodes may own at once.
//!
//! No clock is compared with another. The holder counts a lease from the
//! moment at which it *sent* the request that the promise answers; the voter
//! counts from when the request *arrived*, which is later, and adds what two
//! clocks may drift apart ([`promised_for`]). A message may be lost, late,
//! doubled or overtaken: at worst a promise lasts longer than it need.
//!
//! What terms do elsewhere, telling an old message from a new one, is done by
//! the [`Holder`] (a *run* of a node: a restart makes another) and the number
//! of its request, which only grows. A release frees a promise only if it
//! names its run and a number not below it.
//!
//! A voter keeps nothing on disk. One that starts may have promised something
//! in its former run, so it promises nothing until that must be over.

pub mod register;
mod votes;

pub use votes::{Votes, refusal, reply};

use crate::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// A lease lasts so many intervals: as long as backups wait before they take
/// an owner for silent.
const INTERVALS: u32 = 3;
/// The owner begins to withdraw this part of a lease before its end: the
/// kernel, or the guard in a frozen daemon's place, needs a moment.
const ALLOWANCE: u32 = 6;
/// The longest lease that a voter promises: three of the longest interval.
pub const LONGEST: Duration = Duration::from_millis(3 * 40_950);
/// Requests whose answers still count. An owner sends one an interval, of
/// which three are of use, and seldom some more when it answers losing adverts.
const OPEN_REQUESTS: usize = 64;
/// A candidate asks no more often than this.
pub const ASK_GAP: Duration = Duration::from_millis(2);
/// So many times in a lease, at the most, a register is written for an owner
/// whose adverts come faster.
const WRITES: u32 = 15;
/// Numbers that the leases of one reload may use: at the shortest interval
/// enough for three centuries, and as many reloads of one run as anybody makes.
const NUMBERS: u64 = 1 << 40;
/// After a release, voters that refuse are asked again at once so many times:
/// the release is on its way to them.
const HURRIES: u8 = 4;

/// How long a voter keeps a promise of a lease, by its own clock.
///
/// Clocks may run up to a tenth too fast or too slow (chrony, left to itself,
/// slews by a twelfth): the slowest holder's lease then lasts 10/9 of its
/// length, for which the fastest voter counts 11/9.
#[must_use]
pub fn promised_for(lease: Duration) -> Duration {
    // Rounded up by a nanosecond at least.
    lease + lease * 2 / 9 + Duration::from_nanos(1)
}

/// How often an owner writes a register, which keeps what stood in it: with
/// every advert, but not more often than [`WRITES`] times a lease.
#[must_use]
pub fn renewed_every(interval: Duration, lease: Duration) -> Duration {
    interval.max(lease / WRITES)
}

/// One run of a node.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Holder {
    /// The node, as a position in the cluster's list.
    pub node: usize,
    /// Tells its runs apart.
    pub run: u32,
}

/// What a candidate or owner asks of every voter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Request {
    /// Grows with every request of a run.
    pub number: u64,
    /// For how long, by the holder's clock.
    pub lease: Duration,
    /// Whether the asker wants the group from a living owner of lower priority.
    pub preempt: bool,
}

/// What a voter answers.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Answer {
    /// It promises the group to the asker and to nobody else for the time being.
    Granted,
    /// It does not.
    Refused {
        /// The node to which it is promised; none if the voter has just
        /// started, or the request was withdrawn since.
        holder: Option<usize>,
        /// How long that is still so, by the voter's clock.
        left: Duration,
    },
}

// ---- the voter's side -------------------------------------------------------

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Promise {
    holder: Holder,
    /// The newest request it answers.
    number: u64,
    until: Time,
}

/// A voter's promise of one group.
///
/// ```text
///            the time of a former run's promises is over
///   +------+                  +------+   request     +----------+
///   | Mute | ---------------> | Free | ------------> | Promised |---+ request of the
///   +------+                  |      | <------------ |          |<--+ same holder
///      |                      +------+  release, or  +----------+
///      +-- request: refused             time is over     |
///                                                        +-- request of another: refused
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Voter {
    /// It promises nothing before.
    mute_until: Time,
    promise: Option<Promise>,
    /// The last release: older requests of that run may still be on their way.
    released: Option<(Holder, u64)>,
}

impl Voter {
    /// A voter that starts now, and does not know what it promised before;
    /// `lease` is the cluster's.
    #[must_use]
    pub fn new(lease: Duration, now: Time) -> Self {
        Self { mute_until: now + promised_for(lease), promise: None, released: None }
    }

    /// Answers a request.
    pub fn request(&mut self, holder: Holder, number: u64, lease: Duration, now: Time) -> Answer {
        if now < self.mute_until {
            return Answer::Refused { holder: None, left: self.mute_until - now };
        }
        if self.released.is_some_and(|(by, last)| by == holder && number <= last) {
            return Answer::Refused { holder: None, left: Duration::ZERO };
        }
        let (mut until, mut newest) = (now + promised_for(lease.min(LONGEST)), number);
        if let Some(promise) = self.promise.filter(|p| now < p.until) {
            if promise.holder != holder {
                let holder = Some(promise.holder.node);
                return Answer::Refused { holder, left: promise.until - now };
            }
            // A request that was overtaken shortens nothing.
            (until, newest) = (until.max(promise.until), newest.max(promise.number));
        }
        self.promise = Some(Promise { holder, number: newest, until });
        Answer::Granted
    }

    /// A holder gives back what it was promised up to a request: it owns
    /// nothing by it any more.
    pub fn release(&mut self, holder: Holder, number: u64) {
        if self.promise.is_some_and(|p| p.holder == holder && p.number <= number) {
            self.promise = None;
        }
        match &mut self.released {
            Some((by, last)) if *by == holder => *last = number.max(*last),
            Some(_) | None => self.released = Some((holder, number)),
        }
    }

    /// The same promise on a clock that shows `now`: for the exploration of
    /// all states, where only differences count. `promised` and `released` give
    /// the new numbers of the promise's and the last release's requests, or
    /// none where the release is of no use any more. What is over is forgotten.
    pub fn rebase(
        &mut self,
        now: Time,
        time: impl Fn(Time) -> Time,
        promised: impl Fn(Holder, u64) -> u64,
        released: impl Fn(Holder, u64) -> Option<u64>,
    ) {
        self.mute_until = time(self.mute_until).max(now);
        self.promise = self.promise.filter(|p| time(p.until) > now);
        if let Some(promise) = &mut self.promise {
            promise.until = time(promise.until);
            promise.number = promised(promise.holder, promise.number);
        }
        self.released = self.released.and_then(|(by, last)| Some((by, released(by, last)?)));
    }

    /// To whom the group is promised.
    #[must_use]
    pub fn promised_to(&self, now: Time) -> Option<Holder> {
        self.promise.filter(|p| now < p.until).map(|p| p.holder)
    }
}

// ---- the holder's side ------------------------------------------------------

/// What a lease runs by.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Terms {
    /// Nodes and witnesses, this node included.
    pub voters: usize,
    /// Time between two adverts, at which the lease is renewed.
    pub interval: Duration,
    /// How long to leave the votes to others after a round without a
    /// majority; it differs between nodes.
    pub pause: Duration,
    /// A candidate asks no more often than this: [`ASK_GAP`].
    pub gap: Duration,
    /// Whether to own without a majority where nobody else is heard of: plain VRRP.
    pub keep: bool,
    /// How long a lease lasts where the one voter is a [`register`]; three
    /// intervals when absent.
    pub registered: Option<Duration>,
}

impl Terms {
    /// How long a promise is good for, from the request on, by the holder's clock.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.registered.unwrap_or_else(|| Self::length_of(self.interval))
    }

    /// The same, of an interval.
    #[must_use]
    pub fn length_of(interval: Duration) -> Duration {
        interval * INTERVALS
    }

    /// How long a round of requests may take: an answer that comes later than
    /// half an interval would not keep an owner either. With one voter nobody
    /// waits for the votes that this node cannot use.
    fn round(&self) -> Duration {
        self.registered.map_or(self.interval / 2, |lease| lease - lease / ALLOWANCE)
    }

    /// A register is not written more often than this.
    fn rhythm(&self) -> Duration {
        self.registered.map_or(Duration::ZERO, |lease| lease / WRITES)
    }

    /// The smallest number of voters of which no two sets are disjoint.
    #[must_use]
    pub const fn majority(&self) -> usize {
        self.voters / 2 + 1
    }
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum State {
    Idle,
    Asking {
        since: Time,
        /// When to ask again.
        ask_at: Time,
        /// When this round ends.
        round_until: Time,
        /// When a voter that refuses may be free.
        free_at: Option<Time>,
        /// The holder has given it back, and who still refuses has not heard it
        /// yet: how often to ask such again at once.
        hurry: u8,
    },
    Held,
}

/// A voter's last word.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Word {
    /// What it said.
    pub answer: Answer,
    /// When.
    pub at: Time,
}

/// What a lease wants done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Wanted {
    /// Ask every voter.
    pub ask: Option<Request>,
    /// Tell every voter that requests up to this number are withdrawn.
    pub give_back: Option<u64>,
}

/// One group's lease on this node.
///
/// ```text
///   +------+      want: ask        +--------+   a majority grants   +------+
///   | Idle | --------------------> | Asking |---------------------> | Held |---+ renew: ask
///   |      |                       |        |---+ round over:       |      |<--+
///   |      | <-------------------- |        |<--+ give back, ask    |      |
///   +------+   give back           +--------+     after a pause     +------+
///      ^                                                               |
///      +------- the majority's time is over; refused; give back -------+
/// ```
/// Held ends by this node's own clock, before any promise of its majority does.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Lease {
    terms: Terms,
    state: State,
    /// Of the last request.
    number: u64,
    /// Requests up to this one are withdrawn.
    withdrawn: u64,
    preempt: bool,
    /// When the last request was sent.
    asked_at: Option<Time>,
    /// Requests that may still be answered: number, and until when this node
    /// may own by the answers.
    open: VecDeque<(u64, Time)>,
    /// By voter: the latest of the requests that it granted.
    granted: Vec<Option<Time>>,
    /// By voter: its last word.
    words: Vec<Option<Word>>,
}

impl Lease {
    /// No lease yet.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        let voters = terms.voters;
        Self {
            terms,
            state: State::Idle,
            number: 0,
            withdrawn: 0,
            preempt: false,
            asked_at: None,
            open: VecDeque::new(),
            granted: vec![None; voters],
            words: vec![None; voters],
        }
    }

    /// Of a run's so many-th reload. What its other leases of the group have
    /// asked for, and may yet give back, has lower numbers: a voter tells the
    /// requests of a group that was taken out and put back from those before.
    #[must_use]
    pub const fn of_reload(mut self, reloads: u64) -> Self {
        self.number = reloads.wrapping_mul(NUMBERS);
        self.withdrawn = self.number;
        self
    }

    /// What it runs by.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Takes over a changed interval; promises keep the length they were asked with.
    pub const fn set_terms(&mut self, interval: Duration, pause: Duration) {
        (self.terms.interval, self.terms.pause) = (interval, pause);
    }

    /// When a majority's promises are over for this node: it must have
    /// withdrawn its addresses a moment later.
    #[must_use]
    pub fn until(&self) -> Option<Time> {
        let mut ends: Vec<Time> = self.granted.iter().copied().flatten().collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        ends.get(self.terms.majority() - 1).copied()
    }

    /// Until when a voter's latest promise lets this node own; none if it has made none.
    #[must_use]
    pub fn promised_until(&self, voter: usize) -> Option<Time> {
        self.granted.get(voter).copied().flatten()
    }

    /// How long after [`Lease::until`] the guard waits for this process to
    /// withdraw, before it does so in its place.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.terms.length() / ALLOWANCE / 2
    }

    /// Whether this node may own.
    #[must_use]
    pub fn holds(&self, now: Time) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// Whether a candidate owns without a majority: the settings say so, and
    /// for longer than any promise lasts no voter has named another holder.
    #[must_use]
    pub fn goes_without(&self, now: Time) -> bool {
        match self.state {
            State::Asking { since, .. } if self.terms.keep => {
                let patience = promised_for(self.terms.length());
                let taken = |w: &Word| matches!(w.answer, Answer::Refused { holder: Some(_), .. });
                now - since >= patience && !self.words.iter().flatten().any(|w| w.at >= since && taken(w))
            }
            State::Idle | State::Asking { .. } | State::Held => false,
        }
    }

    /// Whether an owner may stay without a majority.
    #[must_use]
    pub const fn keeps(&self) -> bool {
        self.terms.keep
    }

    /// When [`Lease::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Idle => None,
            State::Asking { ask_at, round_until, .. } => Some(ask_at.min(round_until)),
            State::Held => self.until(),
        }
    }

    /// A candidate wants the group; one that asks already begins a new round.
    /// `released` says that its holder gave it back just now.
    pub fn want(&mut self, preempt: bool, released: bool, now: Time) -> Wanted {
        self.preempt = preempt;
        let ask_at = self.may_ask_at(now);
        let round_until = ask_at + self.terms.round();
        let hurry = if released { HURRIES } else { 0 };
        self.state = State::Asking { since: now, ask_at, round_until, free_at: None, hurry };
        self.tick(now)
    }

    /// The holder gave the group back: a round begins now.
    pub fn hurry(&mut self, now: Time) {
        let (start, round) = (self.may_ask_at(now), self.terms.round());
        if let State::Asking { ask_at, round_until, hurry, .. } = &mut self.state {
            (*ask_at, *round_until, *hurry) = (start, start + round, HURRIES);
        }
    }

    /// Whatever arrives, and however often, this node does not flood the voters.
    fn may_ask_at(&self, now: Time) -> Time {
        self.asked_at.map_or(now, |at| now.max(at + self.terms.gap))
    }

    /// The owner advertises: with every advert the lease is renewed.
    pub fn renew(&mut self, now: Time) -> Wanted {
        self.preempt = false;
        if !self.holds(now) {
            self.state = State::Idle;
        }
        if self.asked_at.is_some_and(|at| now < at + self.terms.rhythm()) {
            return Wanted::default();
        }
        self.ask(now)
    }

    fn ask(&mut self, now: Time) -> Wanted {
        self.number += 1;
        self.asked_at = Some(now);
        if self.open.len() == OPEN_REQUESTS {
            self.open.pop_front();
        }
        let lease = self.terms.length();
        self.open.push_back((self.number, now + (lease - lease / ALLOWANCE)));
        let ask = Some(Request { number: self.number, lease, preempt: self.preempt });
        Wanted { ask, give_back: None }
    }

    /// A voter answers; true if the lease lasts longer now.
    pub fn answer(&mut self, voter: usize, number: u64, answer: Answer, now: Time) -> bool {
        let Some(word) = self.words.get_mut(voter) else { return false };
        *word = Some(Word { answer, at: now });
        if number <= self.withdrawn {
            return false;
        }
        let Some(end) = self.open.iter().find(|(n, _)| *n == number).map(|(_, end)| *end) else {
            return false;
        };
        let before = self.until();
        match answer {
            Answer::Granted => self.granted[voter] = self.granted[voter].max(Some(end)),
            // What it granted after that counts still.
            Answer::Refused { left, .. } => {
                self.granted[voter] = self.granted[voter].filter(|granted| *granted > end);
                self.refused(left, now);
            }
        }
        let until = self.until().filter(|until| now < *until);
        match (self.state, until) {
            (State::Asking { .. } | State::Idle, Some(_)) => self.state = State::Held,
            (State::Held, None) => self.state = State::Idle,
            (State::Asking { .. } | State::Idle, None) | (State::Held, Some(_)) => {}
        }
        until > before
    }

    /// A voter is not free: it is asked again as soon as it may be.
    fn refused(&mut self, left: Duration, now: Time) {
        let gap = self.terms.gap;
        if let State::Asking { ask_at, round_until, free_at, hurry, .. } = &mut self.state {
            let free = now + if *hurry > 0 { gap } else { left.max(gap) };
            *free_at = Some(free_at.map_or(free, |at| at.min(free)));
            if free < *round_until {
                *ask_at = free.min(*ask_at);
            }
        }
    }

    /// Does what is due: ends what is over, asks again.
    pub fn tick(&mut self, now: Time) -> Wanted {
        match self.state {
            State::Held if !self.holds(now) => {
                self.state = State::Idle;
                Wanted::default()
            }
            State::Asking { round_until, since, free_at, .. } if round_until <= now => {
                // Others may have the votes that this node cannot use.
                let give_back = self.withdraw();
                let pause = now + self.terms.pause;
                let ask_at = free_at.map_or(pause, |at| at.max(now + self.terms.gap).min(pause));
                let round_until = ask_at + self.terms.round();
                self.state = State::Asking { since, ask_at, round_until, free_at: None, hurry: 0 };
                Wanted { ask: None, give_back }
            }
            State::Asking { ask_at, since, round_until, hurry, .. } if ask_at <= now => {
                let (ask_at, free_at, hurry) = (round_until, None, hurry.saturating_sub(1));
                self.state = State::Asking { since, ask_at, round_until, free_at, hurry };
                self.ask(now)
            }
            State::Idle | State::Asking { .. } | State::Held => Wanted::default(),
        }
    }

    /// This node owns nothing by this lease, and wants nothing: the voters
    /// are free at once.
    pub fn give_back(&mut self) -> Option<u64> {
        self.state = State::Idle;
        self.withdraw()
    }

    /// The last number given back.
    #[must_use]
    pub const fn withdrawn(&self) -> u64 {
        self.withdrawn
    }

    fn withdraw(&mut self) -> Option<u64> {
        self.open.clear();
        self.granted.fill(None);
        (self.withdrawn < self.number).then(|| {
            self.withdrawn = self.number;
            self.number
        })
    }

    /// The same lease on a clock that shows `now`, with other numbers: as
    /// [`Voter::rebase`]. What is only told to people is forgotten, too.
    pub fn rebase(&mut self, now: Time, time: impl Fn(Time) -> Time, number: impl Fn(u64) -> u64) {
        // Of what is withdrawn nothing is open: only whether it is all is of use.
        let rest = u64::from(self.withdrawn < self.number);
        self.number = number(self.number);
        self.withdrawn = self.number - rest;
        for (of, end) in &mut self.open {
            (*of, *end) = (number(*of), time(*end));
        }
        self.open.retain(|(_, end)| *end > now);
        for end in &mut self.granted {
            *end = end.map(&time).filter(|end| *end > now);
        }
        if let State::Asking { since, ask_at, round_until, free_at, hurry: _ } = &mut self.state {
            (*ask_at, *round_until) = (time(*ask_at), time(*round_until));
            *free_at = free_at.map(|at| time(at).max(now));
            // It counts only where an owner may do without a majority.
            *since = if self.terms.keep { time(*since) } else { now };
        }
        let gap = self.terms.gap;
        self.asked_at = self.asked_at.map(&time).filter(|at| *at + gap > now);
        self.words.fill(None);
    }

    /// The number of the last request.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// How many voters' promises hold now.
    #[must_use]
    pub fn promises(&self, now: Time) -> usize {
        self.granted.iter().flatten().filter(|end| now < **end).count()
    }

    /// Each voter's last word.
    #[must_use]
    pub fn words(&self) -> &[Option<Word>] {
        &self.words
    }
}

#[cfg(test)]
mod tests;
