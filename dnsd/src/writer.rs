//! The one thread that changes zones.
//!
//! Updates wait in a bounded queue. What is waiting is judged one after the
//! other, each upon what the ones before it did, written to the journal
//! together, and only when it is on disk shown to queries and acknowledged.

use crate::answer::rcode;
use crate::journal::Entry;
use crate::lease;
use crate::message::{EdnsOption, Request, append_edns, begin};
use crate::name;
use crate::replay::{Replay, Seen};
use crate::served::{Served, Serving, Shared};
use crate::state::{self, StateError, ZoneState};
use crate::tsig::{self, Keys, Signed};
use crate::update::{self, Leases, RecordKey, Refused, View};
use crate::zone::{Changes, show_type};
use hickory_proto::op::Message;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tracing::{error, info, warn};
use vipd_config::dnsd;

/// Updates that wait: a second's worth of a slow disk with 64 to a write.
const QUEUE: usize = 1024;
/// Updates that are written together: they share one fsync.
const BATCH: usize = 64;
/// Without a lease that ends sooner, the thread looks up this often.
const IDLE: Duration = Duration::from_secs(60);

/// Where an answer goes.
pub enum Reply {
    /// From this socket to that client.
    Udp(Arc<UdpSocket>, SocketAddr),
    /// To the task that serves the connection.
    Tcp(oneshot::Sender<Vec<u8>>),
}

impl Reply {
    fn send(self, answer: Vec<u8>) {
        match self {
            Self::Udp(socket, client) => {
                // A client that is gone does not want it.
                let _ = socket.send_to(&answer, client);
            }
            Self::Tcp(sender) => {
                let _ = sender.send(answer);
            }
        }
    }
}

enum Job {
    Update { raw: Vec<u8>, signed: Box<Signed>, from: IpAddr, reply: Reply },
    Reload(Box<dnsd::Config>, oneshot::Sender<Result<Arc<Served>, StateError>>, Box<Keys>),
    Stop,
}

/// The way to the writer.
#[derive(Clone)]
pub struct Writer(SyncSender<Job>);

impl Writer {
    /// Hands over an update whose signature is good; `false` when too many wait.
    #[must_use]
    pub fn update(&self, raw: Vec<u8>, signed: Box<Signed>, from: IpAddr, reply: Reply) -> bool {
        match self.0.try_send(Job::Update { raw, signed, from, reply }) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Takes new settings into service.
    ///
    /// # Errors
    ///
    /// When a zone's file or journal is wrong; what was served before goes on.
    pub async fn reload(&self, config: dnsd::Config, keys: Keys) -> Result<Arc<Served>, StateError> {
        let (sender, receiver) = oneshot::channel();
        let gone = || StateError::Dir {
            path: config.state_dir.clone(),
            source: io::Error::other("the writer has stopped"),
        };
        let job = Job::Reload(Box::new(config.clone()), sender, Box::new(keys));
        let queue = self.0.clone();
        // The queue may be full for a moment.
        let sent = tokio::task::spawn_blocking(move || queue.send(job)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return Err(gone());
        }
        receiver.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Ends the thread when what waits is done.
    pub fn stop(&self) {
        let _ = self.0.send(Job::Stop);
    }
}

/// Starts the thread.
///
/// # Errors
///
/// When the system gives none.
pub fn start(
    shared: Arc<Shared>,
    zones: Vec<ZoneState>,
) -> io::Result<(Writer, std::thread::JoinHandle<()>)> {
    let (sender, receiver) = sync_channel(QUEUE);
    let mut thread = Thread { shared, zones, replay: Replay::new(tsig::seconds()) };
    let handle = std::thread::Builder::new().name("writer".into()).spawn(move || thread.run(&receiver))?;
    Ok((Writer(sender), handle))
}

struct Thread {
    shared: Arc<Shared>,
    zones: Vec<ZoneState>,
    replay: Replay,
}

/// An update whose answer waits for the disk.
struct Waiting {
    request: Vec<u8>,
    signed: Signed,
    lease: Option<u32>,
    reply: Reply,
    same: bool,
}

/// What a batch does to one zone.
#[derive(Default)]
struct Batch {
    pending: Changes,
    serial: Option<u32>,
    entries: Vec<Entry>,
    leases: Leases,
    waiting: Vec<Waiting>,
}

impl Thread {
    fn run(&mut self, jobs: &Receiver<Job>) {
        loop {
            let now = Instant::now();
            let next = self.zones.iter().filter_map(|zone| zone.leases.next()).min();
            let wait = next.map_or(IDLE, |next| next.saturating_duration_since(now).min(IDLE));
            let mut job = match jobs.recv_timeout(wait) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut batches: BTreeMap<usize, Batch> = BTreeMap::new();
            let mut last = None;
            for _ in 0..BATCH {
                match job.take().or_else(|| jobs.try_recv().ok()) {
                    Some(Job::Update { raw, signed, from, reply }) => {
                        self.take(raw, *signed, from, reply, &mut batches);
                    }
                    Some(other) => {
                        last = Some(other);
                        break;
                    }
                    None => break,
                }
            }
            batches.into_iter().for_each(|(zone, batch)| self.commit(zone, batch));
            self.expire(Instant::now());
            match last {
                Some(Job::Reload(config, sender, keys)) => {
                    let _ = sender.send(self.reload(&config, *keys));
                }
                Some(Job::Stop) => return,
                Some(Job::Update { .. }) | None => {}
            }
        }
    }

    /// Judges an update; answers it at once unless it must be written.
    fn take(
        &mut self,
        raw: Vec<u8>,
        signed: Signed,
        from: IpAddr,
        reply: Reply,
        batches: &mut BTreeMap<usize, Batch>,
    ) {
        let served = self.shared.served.load_full();
        let Ok(request) = Request::read(&raw) else { return };
        let now = tsig::seconds();
        let mut answer = Vec::new();
        match self.replay.look(&signed, now) {
            Seen::New => {}
            Seen::Waiting => return,
            Seen::Before(code) => {
                begin(&request, false, code, &mut answer);
                return self.send(&request, Some(&signed), None, answer, reply);
            }
            Seen::TooOld(why) => {
                // Anybody can have recorded it.
                if self.shared.complaints.may_tell(now) {
                    warn!(key = signed.key.name, client = %from, "update refused: {why}");
                }
                self.shared.metrics.updates_refused.add();
                begin(&request, false, rcode::NOTAUTH, &mut answer);
                append_plain_edns(&request, None, &mut answer);
                tsig::Refusal::Time { signed, now }.append(&mut answer);
                self.shared.metrics.answer(&answer);
                return reply.send(answer);
            }
        }
        match self.judge(&served, &request, &signed, batches) {
            Ok((zone, lease, same)) => {
                self.replay.remember(&signed, None);
                let waiting = Waiting { request: raw.clone(), signed, lease, reply, same };
                batches.entry(zone).or_default().waiting.push(waiting);
            }
            Err(refused) => {
                self.tell(&refused, &signed, from);
                self.replay.remember(&signed, Some(refused.rcode));
                begin(&request, false, refused.rcode, &mut answer);
                self.send(&request, Some(&signed), None, answer, reply);
            }
        }
    }

    /// Judges an update upon what the batch did so far.
    fn judge(
        &self,
        served: &Served,
        request: &Request<'_>,
        signed: &Signed,
        batches: &mut BTreeMap<usize, Batch>,
    ) -> Result<(usize, Option<u32>, bool), Refused> {
        let refuse =
            |rcode, reason: &str| Refused { rcode, name: name::show(&request.name), reason: reason.into() };
        if request.qtype != 6 {
            return Err(refuse(rcode::FORMERR, "the zone section is no SOA question"));
        }
        let known = served.get(&request.name).filter(|_| request.qclass == 1);
        let index = known.and_then(|serving| self.index(serving));
        let Some((index, state)) = index.and_then(|index| Some((index, self.zones.get(index)?))) else {
            return Err(refuse(rcode::NOTAUTH, "this server has no such zone"));
        };
        let message = Message::from_vec(request.raw)
            .map_err(|error| refuse(rcode::FORMERR, &format!("malformed: {error}")))?;
        let lease = request.edns.and_then(|edns| edns.lease);
        let malformed = || refuse(rcode::FORMERR, "the lease option is malformed");
        let granted = |option| lease::granted(option, &state.serving.settings).ok_or_else(malformed);
        let lease = lease.map(granted).transpose()?;
        let batch = batches.entry(index).or_default();
        let zone = state.serving.zone.read();
        let mut view = View::new(&zone, &batch.pending, batch.serial.unwrap_or(zone.serial()));
        let leases = update::judge(&mut view, &message, &signed.key, lease)?;
        let (changes, serial) = view.finish();
        let news = state.leases.news(&batch.leases, &leases);
        let same = changes.is_empty() && Some(serial) == batch.serial.or(Some(zone.serial()));
        if !(same && news.is_empty()) {
            batch.serial = Some(serial);
            batch.pending.extend(changes.clone());
            batch.entries.push(Entry::new(&zone, serial, state.base, changes, news));
        }
        batch.leases.extend(leases);
        Ok((index, lease, same))
    }

    fn index(&self, serving: &Serving) -> Option<usize> {
        self.zones.iter().position(|state| Arc::ptr_eq(&state.serving.zone, &serving.zone))
    }

    /// Writes what a batch did, shows it, and answers.
    fn commit(&mut self, index: usize, batch: Batch) {
        let Batch { entries, leases, waiting, .. } = batch;
        let written = self.write(index, &entries);
        if written {
            let now = Instant::now();
            if let Some(state) = self.zones.get_mut(index) {
                state.leases.apply(&leases, now);
            }
        }
        for Waiting { request, signed, lease, reply, same } in waiting {
            let code = if written { rcode::NOERROR } else { rcode::SERVFAIL };
            let metrics = &self.shared.metrics;
            match (written, same) {
                (true, false) => metrics.updates.add(),
                (true, true) => metrics.updates_same.add(),
                (false, _) => metrics.updates_failed.add(),
            }
            if written {
                self.replay.remember(&signed, Some(code));
            } else {
                self.replay.forget(&signed);
            }
            let Ok(request) = Request::read(&request) else { continue };
            let mut answer = Vec::new();
            begin(&request, false, code, &mut answer);
            self.send(&request, Some(&signed), lease.filter(|_| written), answer, reply);
        }
        if written {
            self.tidy(index);
        }
    }

    /// Writes entries to the journal and does them upon the zone.
    fn write(&mut self, index: usize, entries: &[Entry]) -> bool {
        let Some(state) = self.zones.get_mut(index) else { return false };
        if entries.is_empty() {
            return true;
        }
        // After a failure there may be room again.
        if state.journal.is_broken() && !self.rewrite(index) {
            return false;
        }
        let Some(state) = self.zones.get_mut(index) else { return false };
        if let Err(error) = state.journal.append(entries) {
            self.shared.metrics.journal_errors.add();
            let zone = &state.serving.settings.name;
            error!(zone, %error, "cannot write the journal: updates are refused, queries are answered");
            state.serving.zone.journal_was_written(Err(error.to_string()));
            return false;
        }
        state.serving.zone.journal_was_written(Ok(()));
        let mut zone = state.serving.zone.write();
        for entry in entries {
            // Others grant leases only.
            if !entry.changes.is_empty() || entry.serial != zone.serial() {
                zone.apply(&entry.changes, entry.serial);
            }
        }
        let serial = zone.serial();
        drop(zone);
        state.serving.zone.serial.send_replace(serial);
        true
    }

    /// Rewrites a journal that has grown long or could not be written.
    fn tidy(&mut self, index: usize) {
        if self.zones.get(index).is_some_and(|state| state.journal.wants_rewrite()) {
            self.rewrite(index);
        }
    }

    fn rewrite(&mut self, index: usize) -> bool {
        let Some(state) = self.zones.get_mut(index) else { return false };
        let written = state.journal.rewrite(&state.serving.zone.read(), &state.leases.all(), state.base);
        let zone = &state.serving.settings.name;
        match &written {
            Ok(()) => {
                info!(zone, "wrote the journal anew");
                state.serving.zone.journal_was_written(Ok(()));
            }
            Err(error) => {
                self.shared.metrics.journal_errors.add();
                warn!(zone, %error, "cannot write the journal anew");
                if state.journal.is_broken() {
                    state.serving.zone.journal_was_written(Err(error.to_string()));
                }
            }
        }
        written.is_ok()
    }

    /// Takes away records whose lease has ended, but not the last of a set
    /// unless the zone says so.
    fn expire(&mut self, now: Instant) {
        for index in 0..self.zones.len() {
            let Some(state) = self.zones.get_mut(index) else { continue };
            let ended = state.leases.ended(now);
            if ended.is_empty() {
                continue;
            }
            let zone = state.serving.zone.read();
            let pending = Changes::new();
            let mut view = View::new(&zone, &pending, zone.serial());
            let mut gone = Leases::new();
            let (mut kept, mut expired) = (Vec::<RecordKey>::new(), Vec::<RecordKey>::new());
            for key in ended.into_iter().take(BATCH) {
                if !view.has(&key) {
                    // Something else took the record away.
                    gone.insert(key, None);
                    continue;
                }
                // The oldest first: the one that was renewed last stays.
                let last = view.records(&key.0, key.1) <= 1;
                if last && !state.serving.settings.expire_last {
                    kept.push(key);
                } else {
                    view.expire(&key);
                    expired.push(key.clone());
                    gone.insert(key, None);
                }
            }
            let (changes, serial) = view.finish();
            let entry = Entry::new(&zone, serial, state.base, changes, gone.clone());
            drop(zone);
            for key in kept {
                let (name, rtype) = (name::show(&key.0), show_type(key.1));
                warn!(name, rtype, "nobody renewed the last record of this set: it stays");
                state.leases.again(&key, now);
            }
            if gone.is_empty() {
                continue;
            }
            for (name, rtype, _) in &expired {
                info!(
                    name = name::show(name),
                    rtype = show_type(*rtype),
                    "a record's lease ended: it is gone"
                );
            }
            if self.write(index, &[entry])
                && let Some(state) = self.zones.get_mut(index)
            {
                expired.iter().for_each(|_| self.shared.metrics.expired.add());
                state.leases.apply(&gone, now);
            } else if let Some(state) = self.zones.get_mut(index) {
                // The disk is full: later.
                gone.keys().for_each(|key| state.leases.again(key, now));
            }
            self.tidy(index);
        }
    }

    fn reload(&mut self, config: &dnsd::Config, keys: Keys) -> Result<Arc<Served>, StateError> {
        // First what can fail without a trace, and then what cannot be taken back.
        for settings in &config.zones {
            crate::zone::file::load(settings)?;
        }
        let mut fresh = Vec::new();
        for settings in config.zones.iter().filter(|s| !self.zones.iter().any(|zone| state::is_of(zone, s))) {
            fresh.push(state::open(Path::new(&config.state_dir), settings, Instant::now())?);
        }
        for state in &mut self.zones {
            if let Some(settings) = config.zones.iter().find(|settings| state::is_of(state, settings)) {
                state::reload(state, settings)?;
            }
        }
        self.zones.retain(|state| config.zones.iter().any(|settings| state::is_of(state, settings)));
        self.zones.extend(fresh);
        let zones = self.zones.iter().map(|state| state.serving.clone());
        let served = Arc::new(Served::new(zones, keys, config.rate_limit.clone()));
        self.shared.served.store(Arc::clone(&served));
        Ok(served)
    }

    fn send(
        &self,
        request: &Request<'_>,
        signed: Option<&Signed>,
        lease: Option<u32>,
        mut answer: Vec<u8>,
        reply: Reply,
    ) {
        append_plain_edns(request, lease, &mut answer);
        if let Some(signed) = signed {
            signed.sign(&mut answer);
        }
        self.shared.metrics.answer(&answer);
        reply.send(answer);
    }

    fn tell(&self, refused: &Refused, signed: &Signed, from: IpAddr) {
        let Refused { rcode, name, reason } = refused;
        let key = &signed.key.name;
        if (rcode::NXDOMAIN..=rcode::NXRRSET).contains(rcode)
            && *rcode != rcode::REFUSED
            && *rcode != rcode::NOTIMP
        {
            self.shared.metrics.updates_lost.add();
            info!(key, name, client = %from, "update not done: {reason}");
        } else {
            self.shared.metrics.updates_refused.add();
            warn!(key, name, client = %from, "update refused: {reason}");
        }
    }
}

fn append_plain_edns(request: &Request<'_>, lease: Option<u32>, answer: &mut Vec<u8>) {
    if let Some(edns) = request.edns {
        let option = lease.map(lease::answer);
        let option = option.as_ref().map(|(code, value)| EdnsOption { code: *code, value });
        append_edns(answer, 0, edns.dnssec_ok, option.as_slice());
    }
}
