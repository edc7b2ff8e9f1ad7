//! The one thread that changes zones.
//!
//! Updates wait in a bounded queue. What is waiting is judged one after the
//! other, each upon what the ones before it did, written to the journal
//! together, and only when it is on disk shown to queries and acknowledged.

#[cfg(test)]
mod tests;
mod upkeep;

use crate::answer::rcode;
use crate::journal::Entry;
use crate::lease;
use crate::message::{EdnsOption, Request, append_edns, begin};
use crate::name;
use crate::replay::{self, Mark, Replay, Seen};
use crate::served::{Served, Serving, Shared};
use crate::state::{self, Loaded, StateError, ZoneState};
use crate::tsig::{self, Keys, Signed};
use crate::update::{self, Leases, Refused, View};
use crate::zone::Changes;
use hickory_proto::op::Message;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
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
/// A batch ends when it is this long: an update of 64 KiB can touch thousands of
/// sets of 32 KiB, and each is written whole.
const BATCH_BYTES: usize = if cfg!(test) { 256 << 10 } else { 16 << 20 };
/// Without a lease that ends sooner, the thread looks up this often.
const IDLE: Duration = Duration::from_secs(60);

/// While a journal is written anew, it looks this often whether the disk has it.
const SETTLE: Duration = Duration::from_millis(20);

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
    /// `at` is when it was handed over.
    Update {
        raw: Vec<u8>,
        signed: Box<Signed>,
        from: IpAddr,
        reply: Reply,
        at: Instant,
    },
    Reload(Box<dnsd::Config>, Vec<Loaded>, oneshot::Sender<Result<Arc<Served>, StateError>>, Box<Keys>),
    Stop,
}

/// The way to the writer.
#[derive(Clone)]
pub struct Writer {
    queue: SyncSender<Job>,
    shared: Arc<Shared>,
}

impl Writer {
    /// Hands over an update whose signature is good; it is refused when too many wait.
    pub fn update(&self, raw: Vec<u8>, signed: Box<Signed>, from: IpAddr, reply: Reply) {
        let (job, why) =
            match self.queue.try_send(Job::Update { raw, signed, from, reply, at: Instant::now() }) {
                Ok(()) => return,
                Err(TrySendError::Full(job)) => (job, "too many updates wait for the disk"),
                Err(TrySendError::Disconnected(job)) => (job, "this server stops"),
            };
        let Job::Update { raw, signed, from, reply, .. } = job else { return };
        let Ok(request) = Request::read(&raw) else { return };
        failed(&self.shared, &request, &signed, from, why);
        let mut answer = Vec::new();
        begin(&request, false, rcode::SERVFAIL, &mut answer);
        send(&self.shared, &request, &signed, None, answer, reply);
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
        let (queue, settings) = (self.queue.clone(), config.clone());
        // Files are read here, where no update waits for it. The queue, too, may
        // be full for a moment.
        let sent = tokio::task::spawn_blocking(move || {
            let loaded = settings.zones.iter().map(state::load).collect::<Result<Vec<_>, StateError>>()?;
            let job = Job::Reload(Box::new(settings), loaded, sender, Box::new(keys));
            Ok::<_, StateError>(queue.send(job).is_ok())
        });
        if !sent.await.unwrap_or(Ok(false))? {
            return Err(gone());
        }
        receiver.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Ends the thread when what waits is done.
    pub fn stop(&self) {
        let _ = self.queue.send(Job::Stop);
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
    let mut thread = Thread { shared: Arc::clone(&shared), zones, elsewhere: Replay::default() };
    let handle = std::thread::Builder::new().name("writer".into()).spawn(move || thread.run(&receiver))?;
    Ok((Writer { queue: sender, shared }, handle))
}

struct Thread {
    shared: Arc<Shared>,
    zones: Vec<ZoneState>,
    /// Updates of zones that are not here: a copy is not told again.
    elsewhere: Replay,
}

/// An update whose answer waits for the disk: also one that did nothing, for a
/// copy of it could do something after a restart.
struct Waiting {
    request: Vec<u8>,
    signed: Signed,
    from: IpAddr,
    reply: Reply,
    verdict: Verdict,
}

/// What an update is answered once it is on disk that it was seen.
#[derive(Clone, Copy)]
enum Verdict {
    /// It changes something.
    Done { lease: Option<u32> },
    /// There was nothing to do.
    Same { lease: Option<u32> },
    /// With this code.
    Refused(u8),
}

/// What a batch does to one zone.
#[derive(Default)]
struct Batch {
    pending: Changes,
    serial: Option<u32>,
    entries: Vec<Entry>,
    /// About what they take on disk.
    size: usize,
    leases: Leases,
    marks: Vec<Mark>,
    waiting: Vec<Waiting>,
}

impl Verdict {
    fn code(self) -> u8 {
        match self {
            Self::Done { .. } | Self::Same { .. } => rcode::NOERROR,
            Self::Refused(code) => code,
        }
    }

    fn lease(self) -> Option<u32> {
        match self {
            Self::Done { lease } | Self::Same { lease } => lease,
            Self::Refused(_) => None,
        }
    }
}

impl Thread {
    fn run(&mut self, jobs: &Receiver<Job>) {
        loop {
            let now = Instant::now();
            let next = self.zones.iter().filter_map(|zone| zone.leases.next()).min();
            let busy = self.zones.iter().any(|zone| zone.journal.is_being_rewritten());
            let idle = if busy { SETTLE } else { IDLE };
            let wait = next.map_or(idle, |next| next.saturating_duration_since(now).min(idle));
            let mut job = match jobs.recv_timeout(wait) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut batches: BTreeMap<usize, Batch> = BTreeMap::new();
            let mut last = None;
            // What was handed over by then is in this batch or in one before.
            let mut until = None;
            for _ in 0..BATCH {
                let looked = Instant::now();
                match job.take().or_else(|| jobs.try_recv().ok()) {
                    Some(Job::Update { raw, signed, from, reply, at }) => {
                        until = Some(at);
                        self.take(raw, *signed, from, reply, &mut batches);
                        if batches.values().any(|batch| batch.size >= BATCH_BYTES) {
                            break;
                        }
                    }
                    Some(other) => {
                        last = Some(other);
                        break;
                    }
                    None => {
                        until = Some(looked);
                        break;
                    }
                }
            }
            batches.into_iter().for_each(|(zone, batch)| self.commit(zone, batch));
            // A renewal may wait in the queue, or have come while this batch was
            // written: what had ended when the last job was handed over, or when nothing
            // waited, nobody renewed.
            if let Some(then) = until {
                self.expire(then);
            }
            self.settle();
            match last {
                Some(Job::Reload(config, loaded, sender, keys)) => {
                    let _ = sender.send(self.reload(&config, loaded, *keys));
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
        let index = self.zone(&served, &request);
        match self.replay(index.as_ref().ok().copied()).look(&signed, now) {
            Seen::New => {}
            Seen::Waiting => return,
            Seen::Before(code) => {
                begin(&request, false, code, &mut answer);
                let index = index.as_ref().ok().filter(|_| code == rcode::NOERROR);
                let granted = index.and_then(|index| self.granted(*index, &request).ok().flatten());
                // It began with the first one.
                let age = u32::try_from(now.saturating_sub(signed.time)).unwrap_or(u32::MAX);
                let lease = granted.and_then(|lease| lease.checked_sub(age)).filter(|left| *left > 0);
                return send(&self.shared, &request, &signed, lease, answer, reply);
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
        let index = match index {
            Ok(index) => index,
            // There is no journal for it, and nothing that a copy could change.
            Err(refused) => {
                self.tell(&refused, &signed, from);
                self.elsewhere.remember(&signed, Some(refused.rcode), now);
                begin(&request, false, refused.rcode, &mut answer);
                return send(&self.shared, &request, &signed, None, answer, reply);
            }
        };
        let batch = batches.entry(index).or_default();
        let verdict = self.judge(index, &request, &signed, batch).unwrap_or_else(|refused| {
            self.tell(&refused, &signed, from);
            Verdict::Refused(refused.rcode)
        });
        batch.marks.push(replay::mark(&signed, verdict.code()));
        self.replay(Some(index)).remember(&signed, None, now);
        batch.waiting.push(Waiting { request: raw, signed, from, reply, verdict });
    }

    /// What is known of the signed updates of a zone.
    fn replay(&mut self, index: Option<usize>) -> &mut Replay {
        match index.and_then(|index| self.zones.get_mut(index)) {
            Some(state) => &mut state.replay,
            None => &mut self.elsewhere,
        }
    }

    /// The zone that an update is about.
    fn zone(&self, served: &Served, request: &Request<'_>) -> Result<usize, Refused> {
        let refuse =
            |rcode, reason: &str| Refused { rcode, name: name::show(&request.name), reason: reason.into() };
        if request.qtype != 6 {
            return Err(refuse(rcode::FORMERR, "the zone section is no SOA question"));
        }
        let known = served.get(&request.name).filter(|_| request.qclass == 1);
        let index = known.and_then(|serving| self.index(serving));
        index.ok_or_else(|| refuse(rcode::NOTAUTH, "this server has no such zone"))
    }

    /// Judges an update upon what the batch did so far.
    fn judge(
        &self,
        index: usize,
        request: &Request<'_>,
        signed: &Signed,
        batch: &mut Batch,
    ) -> Result<Verdict, Refused> {
        let refuse =
            |rcode, reason: &str| Refused { rcode, name: name::show(&request.name), reason: reason.into() };
        let Some(state) = self.zones.get(index) else {
            return Err(refuse(rcode::NOTAUTH, "this server has no such zone"));
        };
        // Before anything is parsed: its prerequisites alone can be 64 KiB.
        if !signed.key.may_update() {
            return Err(refuse(rcode::REFUSED, "this key has no grant"));
        }
        let message = Message::from_vec(request.raw)
            .map_err(|error| refuse(rcode::FORMERR, &format!("malformed: {error}")))?;
        let lease = self.granted(index, request)?;
        let zone = state.serving.zone.read();
        let mut view = View::new(&zone, &batch.pending, batch.serial.unwrap_or(zone.serial()));
        let leases = update::judge(&mut view, &message, &signed.key, lease)?;
        let (changes, serial) = view.finish();
        let news = state.leases.news(&batch.leases, &leases);
        let same = changes.is_empty() && Some(serial) == batch.serial.or(Some(zone.serial()));
        if !(same && news.is_empty()) {
            batch.serial = Some(serial);
            batch.pending.extend(changes.clone());
            let entry = Entry::new(&zone, serial, state.base, changes, news);
            batch.size += entry.size();
            batch.entries.push(entry);
        }
        batch.leases.extend(leases);
        Ok(if same { Verdict::Same { lease } } else { Verdict::Done { lease } })
    }

    /// The lease that an update asks for, as its zone grants it.
    fn granted(&self, index: usize, request: &Request<'_>) -> Result<Option<u32>, Refused> {
        let asked = request.edns.and_then(|edns| edns.lease);
        let Some((option, state)) = asked.zip(self.zones.get(index)) else { return Ok(None) };
        let granted = lease::granted(option, &state.serving.settings);
        let reason = || "the lease option is malformed".to_owned();
        let malformed =
            || Refused { rcode: rcode::FORMERR, name: name::show(&request.name), reason: reason() };
        granted.ok_or_else(malformed).map(Some)
    }

    fn index(&self, serving: &Serving) -> Option<usize> {
        self.zones.iter().position(|state| Arc::ptr_eq(&state.serving.zone, &serving.zone))
    }

    /// Writes what a batch did and that it was seen, shows it, and answers.
    fn commit(&mut self, index: usize, batch: Batch) {
        let Batch { mut entries, leases, marks, waiting, serial, .. } = batch;
        if let Some(state) = self.zones.get(index) {
            let serial = serial.unwrap_or_else(|| state.serving.zone.read().serial());
            entries.push(Entry { serial, base: state.base, marks, ..Entry::default() });
        }
        let written = self.write(index, &entries);
        if written {
            let now = Instant::now();
            if let Some(state) = self.zones.get_mut(index) {
                state.leases.apply(&leases, now);
            }
        }
        for Waiting { request, signed, from, reply, verdict } in waiting {
            let code = if written { verdict.code() } else { rcode::SERVFAIL };
            let Ok(request) = Request::read(&request) else { continue };
            if written {
                self.count(verdict);
                self.replay(Some(index)).remember(&signed, Some(code), tsig::seconds());
            } else {
                // What was refused was told of then.
                if verdict.code() == rcode::NOERROR {
                    failed(&self.shared, &request, &signed, from, "the journal cannot be written");
                }
                self.replay(Some(index)).forget(&signed);
            }
            let mut answer = Vec::new();
            begin(&request, false, code, &mut answer);
            let lease = verdict.lease().filter(|_| written);
            send(&self.shared, &request, &signed, lease, answer, reply);
        }
        if written {
            self.tidy(index);
        }
    }

    fn count(&self, verdict: Verdict) {
        let metrics = &self.shared.metrics;
        match verdict {
            Verdict::Done { .. } => metrics.updates.add(),
            Verdict::Same { .. } => metrics.updates_same.add(),
            // Told and counted when it was refused.
            Verdict::Refused(_) => {}
        }
    }

    /// Writes entries to the journal and does them upon the zone.
    fn write(&mut self, index: usize, entries: &[Entry]) -> bool {
        let Some(state) = self.zones.get_mut(index) else { return false };
        // After a failure there may be room again.
        if state.journal.is_broken() && !self.rewrite(index) {
            return false;
        }
        let Some(state) = self.zones.get_mut(index) else { return false };
        if let Err(error) = state.journal.append(entries) {
            self.shared.metrics.journal_errors.add();
            if state.serving.zone.journal_was_written(Err(error.to_string())) {
                let zone = &state.serving.settings.name;
                error!(zone, %error, "cannot write the journal: updates are refused, queries are answered");
            }
            return false;
        }
        if state.serving.zone.journal_was_written(Ok(())) {
            info!(zone = state.serving.settings.name, "the journal can be written again");
        }
        // Others grant leases, or say what was seen: nobody who reads waits for that.
        let news = |entry: &Entry, serial| !entry.changes.is_empty() || entry.serial != serial;
        let before = state.serving.zone.read().serial();
        if entries.iter().any(|entry| news(entry, before)) {
            let mut zone = state.serving.zone.write();
            for entry in entries {
                if news(entry, zone.serial()) {
                    zone.apply(&entry.changes, entry.serial);
                }
            }
            let serial = zone.serial();
            drop(zone);
            state.serving.zone.serial.send_replace(serial);
        }
        true
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

fn send(
    shared: &Shared,
    request: &Request<'_>,
    signed: &Signed,
    lease: Option<u32>,
    mut answer: Vec<u8>,
    reply: Reply,
) {
    append_plain_edns(request, lease, &mut answer);
    signed.sign(&mut answer);
    shared.metrics.answer(&answer);
    reply.send(answer);
}

/// Counts an update that nothing was wrong with and that was not done all the same,
/// and tells of it: of many, of some each second.
fn failed(shared: &Shared, request: &Request<'_>, signed: &Signed, from: IpAddr, why: &str) {
    shared.metrics.updates_failed.add();
    if shared.failures.may_tell(tsig::seconds()) {
        let (key, name) = (&signed.key.name, name::show(&request.name));
        warn!(key, name, client = %from, "update refused: {why}");
    }
}

fn append_plain_edns(request: &Request<'_>, lease: Option<u32>, answer: &mut Vec<u8>) {
    if let Some(edns) = request.edns {
        let option = lease.map(lease::answer);
        let option = option.as_ref().map(|(code, value)| EdnsOption { code: *code, value });
        append_edns(answer, 0, edns.dnssec_ok, option.as_slice());
    }
}
