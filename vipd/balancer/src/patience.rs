//! What happens to a session by time alone.
//!
//! * Idle: a session in which nobody spoke for the listener's `idle-timeout`
//!   ends, unless the client spoke last: then the server is at work, and a
//!   query may take hours. (A server that died is found by TCP keepalive.)
//!   Nor is one idle in which something waits to be taken: who reads a large
//!   result may pause.
//! * Stalled: one in which a side has taken nothing for the listener's
//!   `stall-timeout` of what waits for it ends: it reads no more, and holds the
//!   other side's connection.
//! * Age: a session older than the listener's `max-session-age` ends at its
//!   next pause, one older than `max-busy-session-age` whatever runs in it.
//! * Half-closed: what follows the end of one side is bounded.
//! * Followed: a reload's limits count for sessions that run, too, and so does
//!   what it says of silent peers, within [`LOOK`].
//! * Settled: the server's connection gets its keepalive only when it has
//!   lived for a second. Most short ones end before, and save the calls.

use crate::alarm::{Alarm, Alarms};
use crate::bind::{self, Tcp};
use crate::shared::Shared;
use crate::stats::CloseCause;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use vipd_core::settings::Listener;

/// Once one side has said everything, the other may be silent for this long:
/// a client that is gone and a server that hangs must not stay for ever.
pub(crate) const HALF_CLOSED: Duration = Duration::from_secs(60);

/// A silence after the server's last word that ends a session which is too old.
const PAUSE: Duration = Duration::from_secs(1);

/// The life of a session after which it is none of the short ones.
const SETTLED: Duration = Duration::from_secs(1);

/// How long a session goes on by the limits of before a reload. Each look wakes
/// the session once.
const LOOK: Duration = Duration::from_secs(60);

/// The limits of a session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) idle: Option<Duration>,
    pub(crate) age: Option<Duration>,
    pub(crate) busy_age: Option<Duration>,
    pub(crate) stall: Option<Duration>,
}

impl Limits {
    pub(crate) fn of(listener: &Listener) -> Self {
        let Listener {
            idle_timeout: idle, max_session_age: age, max_busy_session_age, stall_timeout, ..
        } = listener;
        Self { idle: *idle, age: *age, busy_age: *max_busy_session_age, stall: *stall_timeout }
    }

    /// With nine to eleven tenths of the ages, so that sessions which began
    /// together do not end together.
    pub(crate) fn spread(self, random: u64) -> Self {
        let spread = |age| spread(age, random);
        Self { age: self.age.map(spread), busy_age: self.busy_age.map(spread), ..self }
    }
}

fn spread(age: Duration, random: u64) -> Duration {
    let thousandths = u32::try_from(900 + random % 201).unwrap_or(1000);
    (age / 1000).saturating_mul(thousandths)
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Spoke {
    Nobody,
    Client,
    Server,
}

/// A session's time, watched. The alarm is not touched when somebody speaks:
/// when it rings, one looks at the time of that.
#[derive(Debug)]
pub(crate) struct Patience<'a> {
    limits: Limits,
    began: Instant,
    last: Instant,
    spoke: Spoke,
    half_closed: bool,
    /// Something was said that the other side has not taken.
    held: bool,
    follows: Option<Follows<'a>>,
    /// What the client's connection has, and the server's once that is settled.
    tcp: Tcp,
    settled: bool,
    alarms: &'a Alarms,
    alarm: Option<Alarm<'a>>,
}

/// Where a session finds the limits that count now.
#[derive(Clone, Copy, Debug)]
struct Follows<'a> {
    shared: &'a Shared,
    /// Of its listener.
    slot: usize,
    /// The same all its life, so that its age has one end.
    random: u64,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(limits: Limits, tcp: Tcp, alarms: &'a Alarms) -> Self {
        let now = Instant::now();
        let mut patience = Self {
            limits,
            began: now,
            last: now,
            spoke: Spoke::Nobody,
            half_closed: false,
            held: false,
            follows: None,
            tcp,
            settled: false,
            alarms,
            alarm: None,
        };
        patience.set(now);
        patience
    }

    /// By the limits of a listener as they are and become, ages
    /// [spread](Limits::spread) by `random`; by the given ones if it has none.
    pub(crate) fn following(mut self, shared: &'a Shared, slot: usize, random: u64) -> Self {
        let now = self.began;
        self.follows = Some(Follows { shared, slot, random });
        self.follow(now);
        self.set(now);
        self
    }

    /// Takes the limits that count now, and gives what both connections are to have.
    fn follow(&mut self, now: Instant) -> Option<Tcp> {
        let Follows { shared, slot, random } = self.follows?;
        let route = shared.view.load().route(slot)?;
        // Until now nobody noted who spoke when, but for what is held.
        if !self.limited() && !self.held {
            self.last = now;
        }
        self.limits = route.limits.spread(random);
        Some(route.tcp)
    }

    /// Gives both connections what they are to have. It fails only if one is
    /// over, which its end will tell.
    fn keep(&mut self, tcp: Tcp, (client, server): (&TcpStream, &TcpStream), now: Instant) {
        let changed = tcp != self.tcp;
        let settles = !self.settled && self.began + SETTLED <= now;
        self.tcp = tcp;
        self.settled |= settles;
        if changed {
            let _ = bind::keep(&client.into(), tcp);
        }
        if settles || changed && self.settled {
            let _ = bind::keep(&server.into(), tcp);
        }
    }

    /// Whether it matters when somebody spoke.
    fn limited(&self) -> bool {
        self.half_closed || self.limits.idle.is_some() || self.limits.age.is_some()
    }

    /// Whether neither side has said anything.
    pub(crate) fn silent(&self) -> bool {
        self.spoke == Spoke::Nobody
    }

    /// To be called at each wake-up, with the bytes that went `up` to the
    /// server and `down` to the client in it, whether one side has ended, whether
    /// anything is `held` that a side has not taken, and the client's and the server's
    /// connection. Ready with the cause when the
    /// session's time is over.
    pub(crate) fn poll(
        &mut self,
        (up, down): (u64, u64),
        (half_closed, held): (bool, bool),
        ends: (&TcpStream, &TcpStream),
        cx: &mut Context<'_>,
    ) -> Poll<CloseCause> {
        // Of both at once, the client counts: better a session that idles a
        // little longer than a query that is cut off.
        match (up, down) {
            (0, 0) => {}
            (0, _) => self.spoke = Spoke::Server,
            (_, _) => self.spoke = Spoke::Client,
        }
        let moved = up + down > 0 || half_closed != self.half_closed || held != self.held;
        if (half_closed || held || self.limited()) && moved {
            self.last = Instant::now();
        }
        self.held = held;
        if half_closed != self.half_closed {
            self.half_closed = half_closed;
            self.set(self.last);
        }
        while let Some(alarm) = &mut self.alarm {
            ready!(Pin::new(alarm).poll(cx));
            let now = Instant::now();
            let tcp = self.follow(now).unwrap_or(self.tcp);
            if let Some(cause) = self.over(now) {
                return Poll::Ready(cause);
            }
            self.keep(tcp, ends, now);
            self.set(now);
        }
        Poll::Pending
    }

    /// When to look again.
    fn set(&mut self, now: Instant) {
        let settled = (!self.settled).then(|| self.began + SETTLED);
        let ends = self.ends(now).into_iter().flatten().map(|(at, _)| at);
        let look = self.follows.map(|_| now + LOOK);
        // What is held may be so from the next moment on: who looks after as
        // long finds it before its time, and nothing is set when it begins.
        let stall = self.limits.stall.filter(|_| !self.held).map(|stall| now + stall);
        self.alarm = ends.chain(settled).chain(look).chain(stall).min().map(|at| self.alarms.at(at));
    }

    fn over(&self, now: Instant) -> Option<CloseCause> {
        self.ends(now).into_iter().flatten().find(|(at, _)| *at <= now).map(|(_, cause)| cause)
    }

    /// When the session ends if nobody speaks, by each limit. One that does not
    /// count while the server is at work, or a side has yet to take what was
    /// said, is put off from `now` on. Half-closed is bounded all the same: a
    /// side that hangs and never reads would stay for ever.
    fn ends(&self, now: Instant) -> [Option<(Instant, CloseCause)>; 5] {
        let since = if self.held || self.spoke == Spoke::Client { now } else { self.last };
        let Limits { idle, age, busy_age, stall } = self.limits;
        [
            stall.filter(|_| self.held).map(|stall| (self.last + stall, CloseCause::StallTimeout)),
            idle.map(|idle| (since + idle, CloseCause::IdleTimeout)),
            age.map(|age| ((since + PAUSE).max(self.began + age), CloseCause::SessionAge)),
            busy_age.map(|age| (self.began + age, CloseCause::SessionAge)),
            self.half_closed.then(|| (self.last + HALF_CLOSED, CloseCause::IdleTimeout)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::{Route, View};
    use std::future::poll_fn;
    use std::sync::Arc;
    use tokio::net::TcpListener;
    use tokio::time::{sleep, timeout};

    const IDLE: Duration = Duration::from_secs(600);
    const AGE: Duration = Duration::from_secs(3600);
    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    fn tcp() -> Tcp {
        Tcp { keepalive: Duration::from_secs(7), user_timeout: Some(Duration::from_secs(9)) }
    }

    async fn stream() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects")
    }

    /// The cause and the time of the end, if it comes within some hours.
    async fn end(patience: &mut Patience<'_>, alarms: &Alarms, server: &TcpStream) -> Option<CloseCause> {
        let half_closed = patience.half_closed;
        let over = poll_fn(|cx| patience.poll((0, 0), (half_closed, patience.held), (server, server), cx));
        tokio::select! {
            over = timeout(5 * HOUR, over) => over.ok(),
            () = alarms.ring() => None,
        }
    }

    fn say(patience: &mut Patience<'_>, server: &TcpStream, words: (u64, u64)) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(patience.poll(words, (false, false), (server, server), &mut cx).is_pending());
    }

    fn about(began: Instant, expected: Duration) {
        let late = began.elapsed().checked_sub(expected);
        assert!(late.is_some_and(|l| l < SECOND), "{:?} for {expected:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_not_idle_while_the_server_is_at_work() {
        let (alarms, server) = (Alarms::default(), stream().await);
        let limits = Limits { idle: Some(IDLE), ..Limits::default() };
        let mut patience = Patience::new(limits, tcp(), &alarms);
        say(&mut patience, &server, (1, 0));
        assert_eq!(end(&mut patience, &alarms, &server).await, None, "a query of hours");
        say(&mut patience, &server, (0, 1));
        let began = Instant::now();
        assert_eq!(end(&mut patience, &alarms, &server).await, Some(CloseCause::IdleTimeout));
        about(began, IDLE);
        // Nor is one in which nobody has spoken yet at work.
        let mut silent = Patience::new(limits, tcp(), &alarms);
        let began = Instant::now();
        assert_eq!(end(&mut silent, &alarms, &server).await, Some(CloseCause::IdleTimeout));
        about(began, IDLE);
        assert!(silent.silent() && !patience.silent());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_at_work_while_its_client_has_yet_to_take_what_was_said() {
        let (alarms, server) = (Alarms::default(), stream().await);
        let limits = Limits { idle: Some(IDLE), age: Some(AGE), ..Limits::default() };
        let mut patience = Patience::new(limits, tcp(), &alarms);
        let say = |patience: &mut Patience<'_>, words, held| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(patience.poll(words, (false, held), (&server, &server), &mut cx).is_pending());
        };
        say(&mut patience, (1, 0), false);
        say(&mut patience, (0, 1), true);
        assert_eq!(end(&mut patience, &alarms, &server).await, None, "a client that pauses for hours");
        say(&mut patience, (0, 1), false);
        let began = Instant::now();
        assert_eq!(end(&mut patience, &alarms, &server).await, Some(CloseCause::SessionAge));
        about(began, PAUSE);
        // What has ended is bounded, whoever does not read.
        let mut patience = Patience::new(Limits::default(), tcp(), &alarms);
        patience.held = true;
        patience.half_closed = true;
        patience.set(Instant::now());
        let began = Instant::now();
        assert_eq!(end(&mut patience, &alarms, &server).await, Some(CloseCause::IdleTimeout));
        about(began, HALF_CLOSED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_in_which_a_side_takes_nothing_any_more() {
        let (alarms, server) = (Alarms::default(), stream().await);
        let shared = Shared::new(tokio::sync::mpsc::channel(1).0);
        let limits = Limits { stall: Some(HOUR), idle: Some(IDLE), ..Limits::default() };
        for limits in [limits, Limits { idle: None, ..limits }] {
            let routes = vec![Some(Route { pool: 0, limits, tcp: tcp() })];
            shared.view.store(Arc::new(View { routes, ..View::default() }));
            let mut patience = Patience::new(limits, tcp(), &alarms).following(&shared, 0, 7);
            let say = |patience: &mut Patience<'_>, words, held| {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                assert!(patience.poll(words, (false, held), (&server, &server), &mut cx).is_pending());
            };
            say(&mut patience, (1, 0), false);
            sleep(7 * SECOND).await;
            say(&mut patience, (0, 1), true);
            let began = Instant::now();
            let paused = poll_fn(|cx| patience.poll((0, 0), (false, true), (&server, &server), cx));
            tokio::select! {
                over = timeout(HOUR - SECOND, paused) => assert!(over.is_err(), "{over:?}"),
                () = alarms.ring() => {}
            }
            // It takes a little, and stops again.
            say(&mut patience, (0, 1), true);
            let again = Instant::now();
            assert_eq!(end(&mut patience, &alarms, &server).await, Some(CloseCause::StallTimeout));
            about(again, HOUR);
            about(began, 2 * HOUR - SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_session_ends_at_its_next_pause_and_a_busy_one_when_that_is_wanted() {
        let (alarms, server) = (Alarms::default(), stream().await);
        let limits = Limits { age: Some(AGE), ..Limits::default() };
        let began = Instant::now();
        let mut quiet = Patience::new(limits, tcp(), &alarms);
        say(&mut quiet, &server, (1, 0));
        say(&mut quiet, &server, (0, 1));
        assert_eq!(end(&mut quiet, &alarms, &server).await, Some(CloseCause::SessionAge));
        about(began, AGE);

        let mut working = Patience::new(limits, tcp(), &alarms);
        say(&mut working, &server, (1, 0));
        assert_eq!(end(&mut working, &alarms, &server).await, None, "a query of hours");
        drop(working);
        let began_again = Instant::now();
        let limits = Limits { busy_age: Some(3 * AGE), ..limits };
        let mut working = Patience::new(limits, tcp(), &alarms);
        say(&mut working, &server, (1, 0));
        assert_eq!(end(&mut working, &alarms, &server).await, Some(CloseCause::SessionAge));
        about(began_again, 3 * AGE);
        let limits = Limits { busy_age: None, ..limits };

        let began = Instant::now();
        let mut answered = Patience::new(limits, tcp(), &alarms);
        say(&mut answered, &server, (1, 0));
        sleep(AGE + HOUR / 2).await;
        say(&mut answered, &server, (0, 1));
        assert_eq!(end(&mut answered, &alarms, &server).await, Some(CloseCause::SessionAge));
        about(began, AGE + HOUR / 2 + PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_session_takes_a_reloads_limits() {
        let (alarms, server) = (Alarms::default(), stream().await);
        let shared = Shared::new(tokio::sync::mpsc::channel(1).0);
        let store = |limits| {
            let routes = vec![Some(Route { pool: 0, limits, tcp: tcp() })];
            shared.view.store(Arc::new(View { routes, ..View::default() }));
        };
        let (idle, none) = (Limits { idle: Some(IDLE), ..Limits::default() }, Limits::default());
        let aged = Limits { age: Some(AGE), ..Limits::default() };
        let busy = Limits { busy_age: Some(AGE), ..Limits::default() };
        for (name, before, after, expected) in [
            ("none to idle", none, idle, Some((CloseCause::IdleTimeout, HOUR + IDLE, HOUR + IDLE + LOOK))),
            ("idle to none", idle, none, None),
            ("none to age", none, aged, Some((CloseCause::SessionAge, HOUR, HOUR * 11 / 10 + LOOK))),
            ("none to busy age", none, busy, Some((CloseCause::SessionAge, HOUR, HOUR * 11 / 10 + LOOK))),
        ] {
            store(before);
            let began = Instant::now();
            let mut patience = Patience::new(none, tcp(), &alarms).following(&shared, 0, 7);
            let reload = async {
                sleep(if before.idle.is_some() { IDLE / 2 } else { HOUR }).await;
                store(after);
                std::future::pending::<()>().await;
            };
            let ended = tokio::select! {
                ended = end(&mut patience, &alarms, &server) => ended,
                () = reload => None,
            };
            assert_eq!(ended, expected.map(|(cause, ..)| cause), "{name}");
            if let Some((_, least, most)) = expected {
                let took = began.elapsed();
                assert!(least <= took && took <= most + 2 * SECOND, "{name}: {took:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reloads_word_on_silent_peers_reaches_both_connections_of_a_running_session() {
        let alarms = Alarms::default();
        let (client, server) = (stream().await, stream().await);
        let shared = Shared::new(tokio::sync::mpsc::channel(1).0);
        let store = |tcp| {
            let routes = vec![Some(Route { pool: 0, limits: Limits::default(), tcp })];
            shared.view.store(Arc::new(View { routes, ..View::default() }));
        };
        let has = |stream: &TcpStream| {
            let socket = socket2::SockRef::from(stream);
            let time = socket.keepalive().expect("a socket").then(|| socket.tcp_keepalive_time());
            (time.map(|t| t.expect("a socket")), socket.tcp_user_timeout().expect("a socket"))
        };
        store(tcp());
        let mut patience = Patience::new(Limits::default(), tcp(), &alarms).following(&shared, 0, 7);
        let session = poll_fn(|cx| patience.poll((0, 0), (false, false), (&client, &server), cx));
        let reload = async {
            sleep(2 * SECOND).await;
            assert_eq!(has(&client), (None, None), "it has what its listener gave it");
            assert_eq!(has(&server), (Some(tcp().keepalive), tcp().user_timeout));
            let tcp = Tcp { keepalive: 3 * SECOND, user_timeout: Some(5 * SECOND) };
            store(tcp);
            sleep(LOOK + SECOND).await;
            for stream in [&client, &server] {
                assert_eq!(has(stream), (Some(tcp.keepalive), tcp.user_timeout));
            }
        };
        tokio::select! {
            ended = session => panic!("{ended}"),
            () = alarms.ring() => {}
            () = reload => {}
        }
    }

    #[test]
    fn ages_are_spread_by_a_tenth() {
        let (age, busy_age) = (Some(1000 * SECOND), Some(2000 * SECOND));
        let limits = Limits { age, busy_age, ..Limits::default() };
        let all: Vec<_> = (0..10_000).map(|n| limits.spread(n * 7919)).collect();
        let ages = |of: fn(&Limits) -> Option<Duration>| {
            (all.iter().filter_map(of).min(), all.iter().filter_map(of).max())
        };
        assert_eq!(ages(|l| l.age), (Some(900 * SECOND), Some(1100 * SECOND)));
        assert_eq!(ages(|l| l.busy_age), (Some(1800 * SECOND), Some(2200 * SECOND)));
        assert_eq!(spread(Duration::MAX, 200), Duration::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_lives_gets_its_keepalive() {
        let (alarms, server) = (Alarms::default(), stream().await);
        let mut patience = Patience::new(Limits::default(), tcp(), &alarms);
        say(&mut patience, &server, (1, 0));
        assert!(!socket2::SockRef::from(&server).keepalive().expect("a socket"));
        assert_eq!(end(&mut patience, &alarms, &server).await, None);
        let socket = socket2::SockRef::from(&server);
        assert_eq!(socket.tcp_keepalive_time().expect("a socket"), tcp().keepalive);
        assert_eq!(socket.tcp_user_timeout().expect("a socket"), tcp().user_timeout);
        assert!(socket.keepalive().expect("a socket"));
    }
}
