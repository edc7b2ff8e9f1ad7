//! Asks the members of the etcd cluster until one answers.

use super::key::{Answer, Foreign, Keys};
use super::member::{Member, Stream};
use super::prove::MemberState;
use super::{Failure, MemberStatus, News, PasswordFile, Settings};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};
use vipd_core::lease::promised_for;
use vipd_core::lease::register::{Operation, Outcome, Sight};

/// A member that has not answered within this part of a lease is left for the
/// next one, though its answer still counts.
const NEXT: u32 = 12;
/// And is given up after this part.
const ATTEMPT: u32 = 3;
/// How long to wait when every member has failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How long to wait for somebody to take away what vipd did not write.
const FOREIGN_PAUSE: Duration = Duration::from_secs(1);
/// A member that was not asked for so long is asked for nothing, so that what
/// is told of each is so now.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// The members, and how to speak with them.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) keys: Keys,
    members: Vec<Member>,
    login: Option<Login>,
    pub(super) lease: Duration,
    /// The member that answered last.
    preferred: AtomicUsize,
    tallies: Vec<Tally>,
    known: Mutex<Known>,
    news: mpsc::Sender<News>,
}

/// What was counted of a member.
#[derive(Debug, Default)]
struct Tally {
    answers: AtomicU64,
    failures: AtomicU64,
    /// Of the last answer, in microseconds; 0 before the first.
    round_trip: AtomicU64,
}

#[derive(Debug)]
struct Login {
    user: String,
    password: PasswordFile,
    token: Mutex<Option<Arc<str>>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Which etcd cluster it is, and when it last answered.
    cluster: Option<(u64, Instant)>,
    /// By member: why it failed last, if it did.
    failing: BTreeMap<usize, String>,
    /// By member: when it was asked last.
    asked: BTreeMap<usize, Instant>,
    /// Why nobody answered the last request that nobody did.
    unanswered: Option<String>,
    /// By group, at most 255: since which revision its key is somebody else's.
    foreign: BTreeMap<NonZeroU8, u64>,
    /// By group: why this node cannot use its key.
    blocked: BTreeMap<NonZeroU8, String>,
    /// What the node was told last.
    told: Option<String>,
}

/// A request.
struct Ask<'a> {
    path: &'static str,
    body: &'a str,
}

impl Client {
    pub(super) fn new(settings: &Settings, cluster: &str, lease: Duration, news: mpsc::Sender<News>) -> Self {
        let login = settings.login.as_ref().map(|(user, file)| Login {
            user: user.clone(),
            password: PasswordFile::new(Some(file.clone())),
            token: Mutex::new(None),
        });
        Self {
            keys: Keys::new(&settings.prefix, cluster),
            members: settings.endpoints.iter().map(|e| Member::new(e.clone(), settings)).collect(),
            login,
            lease,
            preferred: AtomicUsize::new(0),
            tallies: settings.endpoints.iter().map(|_| Tally::default()).collect(),
            known: Mutex::default(),
            news,
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is ordered, however long that takes. It may be done more than
    /// once: of swaps only one comes about.
    pub(super) async fn carry_out(&self, vrid: NonZeroU8, operation: &Operation) -> Outcome {
        let (path, body) = self.keys.request(vrid, operation);
        let ask = Ask { path, body: &body };
        loop {
            match self.until_answered(&ask, |answer| self.keys.outcome(operation, answer)).await {
                Ok(outcome) => {
                    self.tell(|known| drop(known.blocked.remove(&vrid))).await;
                    return outcome;
                }
                Err(foreign) => {
                    self.note_foreign(vrid, &foreign);
                    let why = foreign.to_string();
                    self.tell(|known| drop(known.blocked.insert(vrid, why))).await;
                    sleep(FOREIGN_PAUSE).await;
                }
            }
        }
    }

    /// Every group's key.
    pub(super) async fn range(&self) -> Vec<(NonZeroU8, Sight)> {
        let body = self.keys.range_request();
        let ask = Ask { path: "/v3/kv/range", body: &body };
        let found = self.until_answered(&ask, |answer| Ok(self.keys.sights(answer))).await;
        found.into_iter().filter_map(|(vrid, found)| Some((vrid, self.usable(vrid, found)?))).collect()
    }

    /// A key, unless somebody else has written it: that harms its group alone.
    pub(super) fn usable(&self, vrid: NonZeroU8, found: Result<Sight, Foreign>) -> Option<Sight> {
        match found {
            Ok(sight) => {
                self.known().foreign.remove(&vrid);
                Some(sight)
            }
            Err(foreign) => {
                self.note_foreign(vrid, &foreign);
                None
            }
        }
    }

    /// Tells it once, until it changes.
    fn note_foreign(&self, vrid: NonZeroU8, foreign: &Foreign) {
        if self.known().foreign.insert(vrid, foreign.revision) != Some(foreign.revision) {
            warn!("etcd: {foreign}");
        }
    }

    async fn until_answered<T>(&self, ask: &Ask<'_>, read: impl Fn(Answer) -> Result<T, Failure>) -> T {
        loop {
            if let Some(answer) = self.round(ask, &read).await {
                self.tell(|known| known.unanswered = None).await;
                return answer;
            }
            let why = |known: &mut Known| {
                let all: Vec<String> = known.failing.values().cloned().collect();
                known.unanswered = Some(all.join("; "));
            };
            self.tell(why).await;
            sleep(PAUSE).await;
        }
    }

    /// Notes a change of what is known, and tells the node if its trouble is
    /// another by it.
    async fn tell(&self, change: impl FnOnce(&mut Known)) {
        let trouble = {
            let mut known = self.known();
            change(&mut known);
            let all: Vec<&str> =
                known.unanswered.iter().chain(known.blocked.values()).map(String::as_str).collect();
            let trouble = (!all.is_empty()).then(|| all.join("; "));
            if known.told == trouble {
                return;
            }
            known.told.clone_from(&trouble);
            trouble
        };
        // If nobody takes it, the loop has ended.
        let _ = self.news.send(News::Trouble(trouble)).await;
    }

    /// Asks every member that was not asked for a while.
    pub(super) async fn look_at_idle(&self) {
        let (path, body) = self.keys.read_of_nothing();
        for member in 0..self.members.len() {
            let asked = self.known().asked.get(&member).copied();
            if asked.is_some_and(|at| at.elapsed() < LOOK) {
                continue;
            }
            match self.attempt(member, &Ask { path, body: &body }).await.1 {
                Ok(_) => self.carried_out(member),
                Err(failure) => self.failed(member, &failure),
            }
        }
    }

    /// Asks one member after the other, beginning with the one that answered
    /// last; those before may still answer, too.
    async fn round<T>(&self, ask: &Ask<'_>, read: impl Fn(Answer) -> Result<T, Failure>) -> Option<T> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut rest = (0..self.members.len()).map(|n| (first + n) % self.members.len());
        let mut attempts = FuturesUnordered::new();
        attempts.extend(rest.next().map(|m| self.attempt(m, ask)));
        while !attempts.is_empty() {
            let patience = sleep(self.lease / NEXT);
            tokio::select! {
                biased;
                Some((member, answer)) = attempts.next() => match answer.and_then(&read) {
                    Ok(answer) => {
                        self.answered(member);
                        return Some(answer);
                    }
                    Err(failure) => {
                        self.failed(member, &failure);
                        attempts.extend(rest.next().map(|m| self.attempt(m, ask)));
                    }
                },
                () = patience => attempts.extend(rest.next().map(|m| self.attempt(m, ask))),
            }
        }
        None
    }

    /// Each member, as it was found so far.
    pub(super) fn status(&self) -> Vec<MemberStatus> {
        let known = self.known();
        let members = self.members.iter().zip(&self.tallies).enumerate();
        let status = |(n, (member, tally)): (usize, (&Member, &Tally))| {
            let took = tally.round_trip.load(Ordering::Relaxed);
            MemberStatus {
                endpoint: member.name(),
                answers: tally.answers.load(Ordering::Relaxed),
                failures: tally.failures.load(Ordering::Relaxed),
                round_trip: (took > 0).then(|| Duration::from_micros(took)),
                problem: known.failing.get(&n).cloned(),
            }
        };
        members.map(status).collect()
    }

    fn answered(&self, member: usize) {
        self.preferred.store(member, Ordering::Relaxed);
        self.carried_out(member);
    }

    fn carried_out(&self, member: usize) {
        self.tallies[member].answers.fetch_add(1, Ordering::Relaxed);
        if self.known().failing.remove(&member).is_some() {
            info!("etcd at {} answers again", self.members[member].name());
        }
    }

    fn failed(&self, member: usize, failure: &Failure) {
        let why = format!("{}: {failure}", self.members[member].name());
        self.tallies[member].failures.fetch_add(1, Ordering::Relaxed);
        let before = self.known().failing.insert(member, why.clone());
        if before.as_ref() != Some(&why) {
            warn!("etcd at {why}");
        }
    }

    async fn attempt(&self, member: usize, ask: &Ask<'_>) -> (usize, Result<Answer, Failure>) {
        let (patience, begun) = (self.lease / ATTEMPT, Instant::now());
        self.known().asked.insert(member, begun);
        let answer = timeout(patience, self.ask(member, ask)).await;
        let answer = answer.unwrap_or(Err(Failure::Silent(patience)));
        if answer.is_ok() {
            let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.tallies[member].round_trip.store(took.max(1), Ordering::Relaxed);
        }
        (member, answer)
    }

    async fn ask(&self, member: usize, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let at = &self.members[member];
        let token = self.token(member).await?;
        let bytes = match at.ask(ask.path, token.as_deref(), ask.body).await {
            Err(Failure::Token) => {
                let token = self.renew_token(member, token).await?;
                at.ask(ask.path, token.as_deref(), ask.body).await?
            }
            answer => answer?,
        };
        let answer: Answer = parse(&bytes)?;
        self.same_cluster(answer.header.cluster_id)?;
        Ok(answer)
    }

    /// Has a member carry out a compare-and-swap that changes nothing, however
    /// its keys are: it asks for the rights of one that does.
    pub(super) async fn swap_nothing(&self, member: usize) -> Result<(), Failure> {
        let (path, body) = self.keys.swap_of_nothing();
        self.attempt(member, &Ask { path, body: &body }).await.1.map(drop)
    }

    /// Whether a member still knows what stood in its keys so many revisions ago.
    pub(super) async fn keeps(&self, member: usize, revisions: u64) -> Result<bool, Failure> {
        let (path, body) = self.keys.read_of_nothing();
        let now = self.attempt(member, &Ask { path, body: &body }).await.1?.header.revision;
        let Some(then) = now.checked_sub(revisions).filter(|then| *then > 0) else { return Ok(false) };
        let (path, body) = self.keys.read_of_nothing_at(then);
        match self.attempt(member, &Ask { path, body: &body }).await.1 {
            Ok(_) => Ok(true),
            Err(Failure::Refused(why)) if why.contains("has been compacted") => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// What a member says of itself.
    pub(super) async fn state(&self, member: usize) -> Result<MemberState, Failure> {
        let patience = self.lease / ATTEMPT;
        let token = self.token(member).await?;
        let state = self.members[member].ask("/v3/maintenance/status", token.as_deref(), "{}");
        parse(&timeout(patience, state).await.unwrap_or(Err(Failure::Silent(patience)))?)
    }

    /// The certificate that a member shows; none without TLS.
    pub(super) async fn certificate(&self, member: usize) -> Result<Option<Vec<u8>>, Failure> {
        let patience = self.lease / ATTEMPT;
        let certificate = self.members[member].certificate();
        timeout(patience, certificate).await.unwrap_or(Err(Failure::Silent(patience)))
    }

    /// Begins a watch of every key at a member.
    pub(super) async fn watch(&self, member: usize) -> Result<Stream, Failure> {
        let (at, body) = (&self.members[member], self.keys.watch_request());
        let token = self.token(member).await?;
        match at.stream("/v3/watch", token.as_deref(), &body).await {
            Err(Failure::Token) => {
                let token = self.renew_token(member, token).await?;
                at.stream("/v3/watch", token.as_deref(), &body).await
            }
            stream => stream,
        }
    }

    /// The member that answered last, and the one after another.
    pub(super) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    pub(super) const fn after(&self, member: usize) -> usize {
        (member + 1) % self.members.len()
    }

    /// Who knows another etcd cluster knows other keys: a restored one counts
    /// when the old one has been silent for longer than any lease lasts.
    pub(super) fn same_cluster(&self, id: u64) -> Result<(), Failure> {
        let (mut known, now) = (self.known(), Instant::now());
        match known.cluster {
            Some((other, at)) if other != id && now - at < promised_for(self.lease) => {
                Err(Failure::OtherCluster(id, other))
            }
            Some(_) | None => {
                known.cluster = Some((id, now));
                Ok(())
            }
        }
    }

    async fn token(&self, member: usize) -> Result<Option<Arc<str>>, Failure> {
        let Some(login) = &self.login else { return Ok(None) };
        let token = login.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if token.is_some() {
            return Ok(token);
        }
        self.renew_token(member, None).await
    }

    /// Logs in again, unless somebody has done so meanwhile.
    async fn renew_token(&self, member: usize, old: Option<Arc<str>>) -> Result<Option<Arc<str>>, Failure> {
        /// The answer to a login.
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(default)]
        struct LoggedIn {
            token: String,
        }
        let Some(login) = &self.login else { return Err(Failure::Token) };
        let current = login.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if current != old {
            return Ok(current);
        }
        let password = login.password.read().await?;
        let password = String::from_utf8_lossy(&password);
        let body = serde_json::json!({ "name": login.user, "password": password }).to_string();
        let answer = self.members[member].ask("/v3/auth/authenticate", None, &body).await;
        let token = match answer {
            Ok(bytes) => Some(Arc::from(parse::<LoggedIn>(&bytes)?.token)),
            // Nobody is asked to log in there (yet).
            Err(Failure::Refused(why)) if why == "authentication is not enabled" => None,
            Err(Failure::Refused(why)) => {
                return Err(Failure::Refused(format!("the login of {:?} failed: {why}", login.user)));
            }
            Err(failure) => return Err(failure),
        };
        login.token.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&token);
        Ok(token)
    }
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|e| Failure::Answer(e.to_string()))
}
