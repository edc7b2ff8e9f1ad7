//! The sealed link to one node: handshakes, sessions, and when to begin anew.
//!
//! ```text
//!   this node                        the other
//!   attempt ───── ask (serial) ────► pending      either may ask, both at once included
//!   current ◄──── answer ─────────── pending
//!   current ───── data ────────────► current      only now does the other use it:
//!   previous                         previous     a replayed question changes nothing
//! ```
//! It reads no clock and has no socket: datagrams and the time go in,
//! datagrams and opened messages come out.

use super::advert::Proven;
use super::bucket::Bucket;
use super::frame::{self, Handshake};
use super::key::ClusterKey;
use super::session::{self, Closed, Pair, Serial, Session, Word};
use ring::hmac;
use snow::HandshakeState;
use std::collections::VecDeque;
use std::time::Duration;
use vipd_core::rejects::Reject;
use vipd_core::time::Time;
use vipd_core::wire::peer;

/// A session is replaced after this long, or so many messages: what one key
/// protects is bounded.
const REKEY_AFTER: Duration = Duration::from_secs(120);
const REKEY_AFTER_MESSAGES: u64 = 1 << 24;
/// Who answered the last handshake leaves the next to who asked for it, for this long.
const REKEY_GRACE: Duration = Duration::from_secs(15);
/// A session that could not be replaced ends.
const EXPIRES_AFTER: Duration = Duration::from_secs(900);
/// Nodes say hello once a second or more often: one that says nothing for so
/// long is gone, or has forgotten the session.
const SILENCE: Duration = Duration::from_secs(3);
/// A question is repeated after this, then after twice as long, up to the second;
/// and at once when there is reason to ([`Link::hurry`]).
const FIRST_REPEAT: Duration = Duration::from_millis(50);
const LAST_REPEAT: Duration = Duration::from_secs(1);
/// A question that nobody answers is replaced by a new one.
const ATTEMPT_FOR: Duration = Duration::from_secs(10);
/// An answered question whose asker never spoke is forgotten.
const PENDING_FOR: Duration = Duration::from_secs(20);
/// Messages that wait for a session, and for how long: a hello and the
/// questions of a switchover; what is older is repeated by whoever said it.
const WAITING: usize = 8;
const WAITS_FOR: Duration = Duration::from_secs(1);

/// Handshakes that are answered, a second and at once: each costs two
/// calculations on the curve.
const NEWER: (u32, u32) = (4, 8);
/// Those that may be replays: a node that has lost its state sends such, too.
const DOUBTFUL: (u32, u32) = (2, 4);
/// Repeats of the last question: no more than its answer again.
const REPEATED: (u32, u32) = (20, 20);

/// Who is at the ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    pub(super) cluster: &'a str,
    pub(super) own: &'a str,
    pub(super) other: &'a str,
}

/// What came of a datagram.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Opened {
    /// It was about the link itself.
    Nothing,
    /// A message of the other node.
    Message(Vec<u8>),
    /// It counts for nothing.
    Refused(Reject),
}

/// A question on its way.
struct Attempt {
    state: HandshakeState,
    index: u32,
    datagram: Vec<u8>,
    begun: Time,
    next: Time,
    pause: Duration,
}

/// The last question and its answer: a repeated one costs no handshake.
struct Answered {
    question: Vec<u8>,
    answer: Vec<u8>,
}

/// The link to one node.
pub(super) struct Link {
    own_id: u32,
    other_id: u32,
    pair: Pair,
    check_out: hmac::Key,
    check_in: hmac::Key,
    /// This node's run, its handshakes and its adverts so far.
    pub(super) word: Word,
    next_index: u32,
    attempt: Option<Attempt>,
    current: Option<Session>,
    previous: Option<Session>,
    /// Answered and not yet used: what is surely new, and what may be a replay,
    /// apart, so that the one cannot push out the other.
    newer: Option<Session>,
    doubtful: Option<Session>,
    answered: Option<Answered>,
    /// The other's newest handshake that was proven.
    known: Option<Serial>,
    /// Its adverts before that.
    floor: u64,
    buckets: [Bucket; 3],
    waiting: VecDeque<(Time, Vec<u8>)>,
    heard_at: Option<Time>,
    up_since: Option<Time>,
    pub(super) out: VecDeque<Vec<u8>>,
}

impl Link {
    pub(super) fn new(key: &ClusterKey, ends: Ends<'_>, epoch: u32) -> Self {
        let Ends { cluster, own, other } = ends;
        let [first, second] = if own < other { [own, other] } else { [other, own] };
        let prologue = |asks: &str, answers: &str| {
            let names = [cluster, asks, answers];
            let mut bytes = vec![frame::VERSION];
            for name in names {
                bytes.extend((name.len() as u64).to_be_bytes());
                bytes.extend(name.as_bytes());
            }
            bytes
        };
        let secret = key.derive("peer link", &[cluster, first, second]);
        Self {
            own_id: peer::node_id(own),
            other_id: peer::node_id(other),
            pair: Pair { secret, ours: prologue(own, other), theirs: prologue(other, own) },
            check_out: key.derive_hmac("handshake check", &[cluster, own, other]),
            check_in: key.derive_hmac("handshake check", &[cluster, other, own]),
            word: Word { serial: Serial { epoch, number: 0 }, adverts: 0 },
            // Datagrams for an earlier run mean no session of this one.
            next_index: epoch.rotate_left(16),
            attempt: None,
            current: None,
            previous: None,
            newer: None,
            doubtful: None,
            answered: None,
            known: None,
            floor: 0,
            buckets: [NEWER, DOUBTFUL, REPEATED].map(Bucket::new),
            waiting: VecDeque::new(),
            heard_at: None,
            up_since: None,
            out: VecDeque::new(),
        }
    }

    /// The other's run, once it has proven which.
    pub(super) fn proven(&self, now: Time) -> Option<Proven> {
        self.known.map(|known| Proven { epoch: known.epoch, floor: self.floor, up: self.is_up(now) })
    }

    /// Whether the other has proven in this run that it has the same key.
    pub(super) const fn is_proven(&self) -> bool {
        self.known.is_some()
    }

    /// Since when the link works; `None` while it does not.
    pub(super) fn up_since(&self, now: Time) -> Option<Time> {
        self.up_since.filter(|_| self.is_up(now))
    }

    fn is_up(&self, now: Time) -> bool {
        self.current.is_some() && !self.is_silent(now)
    }

    fn is_silent(&self, now: Time) -> bool {
        self.heard_at.is_none_or(|at| now - at >= SILENCE)
    }

    // ---- out ------------------------------------------------------------------

    /// Sends a message, now or as soon as there is a session.
    pub(super) fn send(&mut self, message: &[u8], now: Time) {
        if self.current.is_none() {
            if self.waiting.len() == WAITING {
                self.waiting.pop_front();
            }
            self.waiting.push_back((now, message.to_vec()));
            return;
        }
        self.seal(message);
        self.tick(now);
    }

    fn seal(&mut self, message: &[u8]) {
        let sealed = self.current.as_mut().map(|session| session.seal(message));
        // It fails only for messages too long for a datagram.
        self.out.extend(sealed.and_then(Result::ok));
    }

    /// A sealed message that somebody else sends, or nobody.
    pub(super) fn seal_for_later(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        self.current.as_mut()?.seal(message).ok()
    }

    fn send_waiting(&mut self, now: Time) {
        let waiting = std::mem::take(&mut self.waiting);
        for (at, message) in waiting {
            if now - at < WAITS_FOR {
                self.seal(&message);
            }
        }
    }

    // ---- time -----------------------------------------------------------------

    /// When [`Link::tick`] has something to do.
    pub(super) fn deadline(&self) -> Time {
        match (&self.attempt, &self.current) {
            (Some(attempt), _) => attempt.next,
            (None, None) => Time::ZERO,
            (None, Some(session)) => self.stale_at(session),
        }
    }

    /// When a session is to be replaced.
    fn stale_at(&self, session: &Session) -> Time {
        if session.sent >= REKEY_AFTER_MESSAGES {
            return Time::ZERO;
        }
        let grace = if session.ours { Duration::ZERO } else { REKEY_GRACE };
        let heard = self.heard_at.unwrap_or(session.begun).max(session.begun);
        (session.begun + REKEY_AFTER + grace).min(heard + SILENCE)
    }

    /// Asks for a session, or again, when it is time.
    pub(super) fn tick(&mut self, now: Time) {
        let over = |session: &mut Session, after| now - session.begun >= after;
        self.newer.take_if(|s| over(s, PENDING_FOR));
        self.doubtful.take_if(|s| over(s, PENDING_FOR));
        self.previous.take_if(|s| over(s, EXPIRES_AFTER));
        self.current.take_if(|s| over(s, EXPIRES_AFTER));
        if self.deadline() > now {
            return;
        }
        self.attempt.take_if(|a| now - a.begun >= ATTEMPT_FOR);
        if self.attempt.is_none() {
            self.attempt = self.new_attempt(now).ok();
        }
        if let Some(attempt) = &mut self.attempt {
            self.out.push_back(attempt.datagram.clone());
            attempt.next = now + attempt.pause;
            attempt.pause = (attempt.pause * 2).min(LAST_REPEAT);
        }
    }

    /// The way there may be open again: what waits for an answer is asked anew now.
    pub(super) const fn hurry(&mut self, now: Time) {
        if let Some(attempt) = &mut self.attempt {
            (attempt.next, attempt.pause) = (now, FIRST_REPEAT);
        }
    }

    /// The other was heard beside this link. It may not hear this node: then
    /// questions become as seldom as they were before the next is hurried.
    pub(super) fn is_there(&mut self, now: Time) {
        if self.attempt.as_ref().is_some_and(|a| a.pause == LAST_REPEAT) {
            self.hurry(now);
        }
    }

    fn new_attempt(&mut self, now: Time) -> Result<Attempt, snow::Error> {
        let index = self.new_index();
        self.word.serial.number += 1;
        let mut state = self.pair.initiator()?;
        let noise = session::write(&mut state, &self.word.to_bytes())?;
        let datagram = frame::ask(self.own_id, index, &noise, &self.check_out);
        Ok(Attempt { state, index, datagram, begun: now, next: now, pause: FIRST_REPEAT })
    }

    fn new_index(&mut self) -> u32 {
        self.next_index = self.next_index.wrapping_add(1);
        self.next_index
    }

    // ---- in -------------------------------------------------------------------

    /// The other asks for a session.
    pub(super) fn asked(&mut self, datagram: &[u8], ask: &Handshake<'_>, now: Time) -> Opened {
        if ask.party != self.other_id {
            return Opened::Refused(Reject::NodeName);
        }
        if !ask.is_of(&self.check_in) {
            return Opened::Refused(Reject::WrongKey);
        }
        let [newer, doubtful, repeated] = &mut self.buckets;
        if let Some(answered) = self.answered.as_ref().filter(|a| a.question == datagram) {
            if repeated.take(now) {
                self.out.push_back(answered.answer.clone());
            }
            return Opened::Nothing;
        }
        let Ok(mut state) = self.pair.responder() else { return Opened::Nothing };
        let Some(word) = session::read(&mut state, ask.noise).and_then(Word::from_bytes) else {
            return Opened::Refused(Reject::WrongKey);
        };
        let serial = word.serial;
        let is_newer = self.known.is_some_and(|known| serial > known);
        if self.known.is_some_and(|known| serial.epoch == known.epoch && !is_newer) {
            return Opened::Refused(Reject::Replay);
        }
        let bucket = if is_newer { newer } else { doubtful };
        if !bucket.take(now) {
            return Opened::Refused(Reject::TooOften);
        }
        // Fails only if the system has no randomness; the other asks again.
        let _ = self.answer(state, datagram, ask.index, word, is_newer, now);
        Opened::Nothing
    }

    fn answer(
        &mut self,
        mut state: HandshakeState,
        question: &[u8],
        remote: u32,
        word: Word,
        is_newer: bool,
        now: Time,
    ) -> Result<(), snow::Error> {
        let local = self.new_index();
        // A question of this node that is on its way is not over.
        let over = self.word.serial.number - u64::from(self.attempt.is_some());
        let word_so_far = Word { serial: Serial { number: over, ..self.word.serial }, ..self.word };
        let noise = session::write(&mut state, &word_so_far.to_bytes())?;
        let answer = frame::answer(remote, local, &noise, &self.check_out);
        let session = Session::new(state, (local, remote), word, now)?;
        *if is_newer { &mut self.newer } else { &mut self.doubtful } = Some(session);
        self.out.push_back(answer.clone());
        self.answered = Some(Answered { question: question.to_vec(), answer });
        Ok(())
    }

    /// The other answers a question.
    pub(super) fn answered(&mut self, answer: &Handshake<'_>, now: Time) -> Opened {
        if !answer.is_of(&self.check_in) {
            return Opened::Refused(Reject::WrongKey);
        }
        let Some(mut attempt) = self.attempt.take_if(|a| a.index == answer.party) else {
            // A second copy, or too late.
            return Opened::Nothing;
        };
        let word = session::read(&mut attempt.state, answer.noise).and_then(Word::from_bytes);
        let Some(word) = word else {
            self.attempt = Some(attempt);
            return Opened::Refused(Reject::WrongKey);
        };
        if let Ok(session) = Session::new(attempt.state, (attempt.index, answer.index), word, now) {
            self.heard(now);
            self.promote(session, now);
        }
        Opened::Nothing
    }

    fn heard(&mut self, now: Time) {
        if self.is_silent(now) {
            self.up_since = Some(now);
        }
        self.heard_at = Some(now);
    }

    /// A session that both ends have proven is used from now on.
    fn promote(&mut self, session: Session, now: Time) {
        let Word { serial, adverts } = session.word;
        let restarted = self.known.is_none_or(|known| known.epoch != serial.epoch);
        if restarted {
            self.up_since = Some(now);
            (self.known, self.floor) = (Some(serial), 0);
        }
        self.known = self.known.max(Some(serial));
        self.floor = self.floor.max(adverts);
        // Whoever asked has what it asked for.
        self.attempt = None;
        let ours = session.ours;
        let former = self.current.replace(session);
        // A run that is over says nothing more.
        self.previous = former.filter(|_| !restarted);
        let empty = self.waiting.is_empty();
        self.send_waiting(now);
        if ours && empty {
            // The other may use the session only after it was used.
            self.seal(&[]);
        }
    }

    /// A sealed message.
    pub(super) fn data(&mut self, to: u32, number: u64, sealed: &[u8], now: Time) -> Opened {
        let sessions = [&mut self.current, &mut self.previous, &mut self.newer, &mut self.doubtful];
        let Some(slot) = sessions.into_iter().find(|s| s.as_ref().is_some_and(|s| s.local == to)) else {
            // Of a session before a restart of this node: the other hears of it soon.
            return Opened::Nothing;
        };
        let Some(session) = slot else { return Opened::Nothing };
        let message = match session.open(number, sealed) {
            Ok(message) => message,
            Err(Closed::Replay) => return Opened::Refused(Reject::Replay),
            Err(Closed::Forged) => return Opened::Refused(Reject::Forged),
        };
        self.heard(now);
        let newer = self.newer.take_if(|s| s.local == to);
        if let Some(session) = newer.or_else(|| self.doubtful.take_if(|s| s.local == to)) {
            self.promote(session, now);
        }
        if message.is_empty() { Opened::Nothing } else { Opened::Message(message) }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("known", &self.known)
            .field("up_since", &self.up_since)
            .finish_non_exhaustive()
    }
}
