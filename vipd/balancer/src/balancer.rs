//! The handle on all workers.

use crate::patience::Limits;
use crate::registry::{Closed, Elsewhere};
use crate::sessions::{self, Sessions, Wanted, Which};
use crate::shared::{ListenerShared, PoolTally, Route, ServerTally, Shared, View};
use crate::stats::{ServerStats, Stats};
use crate::tallies::Tallies;
use crate::worker::{self, Command, Listening, Owed};
use crate::{Error, Met, bind};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use vipd_core::health::{Only, Why};
use vipd_core::pool::{Pools, ServerKey};
use vipd_core::settings::{Listener, Role};

/// Commands that may wait for a worker. A worker carries one out in
/// microseconds (a walk over its sessions), and they come no faster than
/// servers and addresses change: a full queue means a worker that hangs.
pub(crate) const COMMANDS: usize = 1024;

/// Failed connections that nobody was told of yet: those of a few servers for
/// seconds, which nobody who listens needs.
const MET: usize = 256;

/// The running balancer. Its methods return at once, unless they say otherwise,
/// and may be called from any thread. Dropped, it resets all sessions and joins its workers.
#[derive(Debug)]
pub struct Balancer {
    shared: Arc<Shared>,
    workers: Vec<Handle>,
    control: Mutex<Control>,
    met: Mutex<Option<mpsc::Receiver<Met>>>,
}

/// What keeps clients waiting until the servers' first checks are done.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Shared>);

impl Gate {
    /// All servers have a verdict: clients of a pool without one are told so.
    pub fn open(&self) {
        self.0.set_judged(true);
    }
}

#[derive(Debug)]
struct Handle {
    commands: mpsc::Sender<Command>,
    owed: Arc<Owed>,
    thread: Option<JoinHandle<()>>,
}

/// What only the handle knows.
#[derive(Debug, Default)]
struct Control {
    listeners: Vec<Active>,
    /// Removed, but not without sessions yet.
    retired: Vec<Active>,
    pools: BTreeMap<String, Arc<PoolTally>>,
    servers: Tallies,
    slots: usize,
    numbers: u64,
}

/// A listener as it was last configured.
#[derive(Clone, Debug)]
struct Active {
    settings: Listener,
    shared: Arc<ListenerShared>,
    /// The name of its pool, which outlives a change of its position.
    pool: String,
    /// The number of its sockets.
    number: u64,
    addresses: Vec<SocketAddr>,
}

impl Balancer {
    /// Binds all listeners and starts `workers` threads (one at least), by
    /// default as many as there are processors.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] when an address cannot be had, [`Error::Worker`] when a
    /// thread cannot be had. Nothing is left of the others then.
    pub fn start(listeners: &[Listener], pools: Arc<Pools>, workers: Option<usize>) -> Result<Self, Error> {
        Self::start_as(listeners, pools, workers, true)
    }

    /// Likewise, before the servers' first checks: clients of a pool that has no
    /// usable server wait to be accepted, until it has one or the gate is opened.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub fn start_unjudged(
        listeners: &[Listener],
        pools: Arc<Pools>,
        workers: Option<usize>,
    ) -> Result<(Self, Gate), Error> {
        let balancer = Self::start_as(listeners, pools, workers, false)?;
        let gate = Gate(Arc::clone(&balancer.shared));
        Ok((balancer, gate))
    }

    fn start_as(
        listeners: &[Listener],
        pools: Arc<Pools>,
        workers: Option<usize>,
        judged: bool,
    ) -> Result<Self, Error> {
        let workers = workers
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
            .max(1);
        let (met, told) = mpsc::channel(MET);
        let shared = Arc::new(Shared::new(met));
        shared.set_judged(judged);
        let met = Mutex::new(Some(told));
        let mut balancer = Self { shared, workers: vec![], control: Mutex::default(), met };
        for index in 0..workers {
            let handle =
                balancer.spawn(index, workers).map_err(|source| Error::Worker { worker: index, source })?;
            balancer.workers.push(handle);
        }
        balancer.reconfigure(listeners, pools)?;
        Ok(balancer)
    }

    fn spawn(&self, index: usize, workers: usize) -> std::io::Result<Handle> {
        let (commands, received) = mpsc::channel(COMMANDS);
        let shared = Arc::clone(&self.shared);
        let owed = Arc::new(Owed::default());
        let owes = Arc::clone(&owed);
        let (told, made) = std::sync::mpsc::channel();
        let thread =
            std::thread::Builder::new().name(format!("balancer-{index}")).spawn(
                move || match worker::runtime() {
                    Ok(runtime) => {
                        let _ = told.send(Ok(()));
                        worker::run(&runtime, (index, workers), shared, received, &owes);
                    }
                    Err(e) => {
                        let _ = told.send(Err(e));
                    }
                },
            )?;
        made.recv().unwrap_or_else(|_| Err(std::io::Error::other("its thread ended")))?;
        Ok(Handle { commands, owed, thread: Some(thread) })
    }

    /// Puts new pools in use: each connection from now on is made by them.
    pub fn set_pools(&self, pools: Arc<Pools>) {
        let mut control = self.control();
        self.swap(&mut control, pools);
    }

    /// Tells how many sessions a server may have beside those that it has now,
    /// until it is told again, by its position in the pools that are in use:
    /// what its own limit leaves. Above that it counts as full, and clients wait
    /// until a session ends; without a number nothing is held back.
    pub fn set_room(&self, server: ServerKey, free: Option<u32>) {
        let view = self.shared.view.load();
        if let Some(tally) = view.server(server) {
            tally.sessions.set_room(free);
            self.shared.freed(&tally.pool);
        }
    }

    /// Where it is told what clients meet at servers, from the start on; `None`
    /// if somebody else took it. Of a server's connections that failed ten a
    /// second are told at most; when the channel is full they are lost.
    pub fn met(&self) -> Option<mpsc::Receiver<Met>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes a new list of listeners, and the pools that it refers to. What
    /// listens at an address goes on to, whatever its name is by then: clients
    /// in its sockets' queues wait on, and it keeps its sessions and numbers. A
    /// listener at another address has those of its name, unless another one
    /// has them now. Those of a removed one go on until they end.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] when a new address cannot be had: nothing was changed
    /// then. [`Error::Stalled`] likewise.
    pub fn reconfigure(&self, listeners: &[Listener], pools: Arc<Pools>) -> Result<(), Error> {
        let mut control = self.control();
        let mut add: Vec<Vec<Listening>> = self.workers.iter().map(|_| vec![]).collect();
        let mut tune = vec![];
        let (mut slots, mut numbers) = (control.slots, control.numbers);
        let mut next = Vec::with_capacity(listeners.len());
        let kept = control.kept(listeners);
        for (settings, here) in listeners.iter().zip(&kept) {
            let pool = pools.pools().get(settings.pool).map_or_else(String::new, |p| p.name().to_owned());
            if let Some(old) = here {
                tune.push((old.number, settings.into()));
                next.push(Active { settings: settings.clone(), pool, ..Active::clone(old) });
                continue;
            }
            let ours = control.listeners.iter().any(|l| l.settings.bind.port == settings.bind.port)
                || next.iter().any(|l: &Active| l.settings.bind.port == settings.bind.port);
            let sockets = bind::listen(settings, self.workers.len(), ours)?;
            // One that went to another address, or was removed and is back.
            let taken = |l: &&Active| kept.iter().flatten().any(|k| Arc::ptr_eq(&k.shared, &l.shared));
            let all = control.listeners.iter().chain(&control.retired);
            let old = all.filter(|l| !taken(l)).find(|l| l.settings.name == settings.name);
            let shared = old.map(|o| Arc::clone(&o.shared)).unwrap_or_else(|| {
                slots += 1;
                let max = settings.max_connections;
                Arc::new(ListenerShared::new(&settings.name, slots - 1, max, self.workers.len()))
            });
            let addresses = local_addresses(sockets.first());
            for (add, sockets) in add.iter_mut().zip(sockets) {
                add.push(Listening { number: numbers, listener: Arc::clone(&shared), sockets });
            }
            next.push(Active { settings: settings.clone(), shared, pool, number: numbers, addresses });
            numbers += 1;
        }
        let numbers_kept: Vec<u64> = kept.iter().flatten().map(|l| l.number).collect();
        let remove: Vec<u64> =
            control.listeners.iter().map(|l| l.number).filter(|n| !numbers_kept.contains(n)).collect();
        let permits = self.permits()?;

        control.slots = slots;
        control.numbers = numbers;
        control.replace(next);
        for Active { shared, settings, .. } in &control.listeners {
            shared.follow(settings);
        }
        self.swap(&mut control, pools);
        for (permit, add) in permits.into_iter().zip(add) {
            permit.send(Command::Listen { add, remove: remove.clone(), tune: tune.clone() });
        }
        Ok(())
    }

    fn swap(&self, control: &mut Control, pools: Arc<Pools>) {
        let view = control.view(pools);
        self.shared.descriptors.follow(view.servers.iter().map(Vec::len).sum());
        self.shared.set_view(view);
        // Those of pools that are gone, too: they have to look elsewhere.
        control.pools.values().for_each(|p| p.queue.call_first());
    }

    /// Resets the sessions whose clients connected to one of these addresses,
    /// so that the clients notice at once, and those that come again before the
    /// address is gone: within a second, or until [`open_local`](Self::open_local).
    ///
    /// The kernel sends the reset only while the address is still this node's:
    /// call this before the address goes, if there is time. (If there is none,
    /// the new owner's kernel resets the clients at their next word.)
    ///
    /// # Errors
    ///
    /// [`Error::Stalled`] when a worker hangs; the others close theirs, and it
    /// does as soon as it can.
    pub fn close_local(&self, addresses: &[IpAddr]) -> Result<(), Error> {
        self.shared.leave(addresses);
        self.owe(|owed| owed.close_local(addresses))
    }

    /// Those of these addresses that were closed stay, or are back. Nothing is
    /// asked of `addresses` while none is closed.
    pub fn open_local(&self, addresses: impl FnOnce() -> Vec<IpAddr>) {
        self.shared.stay(addresses);
    }

    /// Resets the sessions on a server, by its position in the pools that are
    /// in use. Put pools in use that do not use it before: else it gets new ones.
    ///
    /// # Errors
    ///
    /// [`Error::Stalled`] when a worker hangs; the others close theirs, and it
    /// does as soon as it can.
    pub fn close_server(&self, server: ServerKey, why: Why) -> Result<(), Error> {
        let view = self.shared.view.load();
        match view.server(server) {
            Some(tally) => {
                let places = view.pools.server(server).map_or(vec![], |s| s.addresses().to_vec());
                // What a person takes out, or nobody may write to any more, is meant wherever it
                // runs; what a check has found is of the place that was checked.
                let anywhere = match why {
                    Why::Maintenance | Why::Superseded => true,
                    Why::Demoted | Why::Down => false,
                };
                let which = Closed::On { server: Arc::clone(tally), places, anywhere };
                self.owe(|owed| owed.close_servers(&which, why.into()))
            }
            None => Ok(()),
        }
    }

    /// Resets the sessions of a pool that are not where its primary is. Those
    /// of pools that are gone are among them if it came in their place, by
    /// `only` or by the listener.
    ///
    /// # Errors
    ///
    /// [`Error::Stalled`] as for [`close_server`](Self::close_server).
    pub fn close_elsewhere(&self, only: &Only) -> Result<(), Error> {
        let view = self.shared.view.load();
        let pools = view.pools.pools();
        let name = |p: &usize| pools.get(*p).map(|p| p.name().to_owned());
        let routed = |slot: &usize| view.route(*slot).is_some_and(|r| r.pool == only.pool);
        // What is read from replicas by design is nobody's write.
        let gone = pools.iter().filter(|p| p.settings().is_gone() && p.settings().role() != Role::Replica);
        let which = Closed::Elsewhere(Elsewhere {
            pools: std::iter::once(&only.pool).chain(&only.before).filter_map(name).collect(),
            gone: gone.map(|p| p.name().to_owned()).collect(),
            listeners: (0..view.routes.len()).filter(routed).collect(),
            places: only.places.clone(),
        });
        self.owe(|owed| owed.close_servers(&which, Why::Superseded.into()))
    }

    /// Adds to what every worker owes, and wakes those that have to be told.
    fn owe(&self, add: impl Fn(&Owed) -> bool) -> Result<(), Error> {
        let mut result = Ok(());
        for (worker, handle) in self.workers.iter().enumerate() {
            // A queue that is full wakes it as well.
            if add(&handle.owed) && handle.commands.try_send(Command::Close).is_err() {
                tracing::error!(worker, "a worker of the balancer does not take commands");
                result = Err(Error::Stalled { worker });
            }
        }
        result
    }

    /// Lists sessions, at most [`crate::LISTED`]. The workers have been asked
    /// when this returns; wait for their answer wherever you can.
    ///
    /// # Errors
    ///
    /// [`Error::Stalled`] when a worker hangs.
    pub fn list(&self, which: Which) -> Result<impl Future<Output = Sessions> + Send + use<>, Error> {
        let (wanted, names) = self.wanted(which);
        let answers = self.ask(|answer| Command::List(Arc::clone(&wanted), answer))?;
        Ok(sessions::gather(answers, names))
    }

    /// Resets sessions, and resolves to their number. The workers have been
    /// told when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Stalled`] when a worker hangs; the others end theirs.
    pub fn kill(&self, which: Which) -> Result<impl Future<Output = u64> + Send + use<>, Error> {
        let (wanted, _) = self.wanted(which);
        let answers = self.ask(|answer| Command::Kill(Arc::clone(&wanted), answer))?;
        Ok(sessions::count(answers))
    }

    /// What the workers need to know of sessions that are asked for, and the
    /// listeners' names.
    fn wanted(&self, which: Which) -> (Arc<Wanted>, Vec<(usize, String)>) {
        let control = self.control();
        let all = || control.listeners.iter().chain(&control.retired);
        let means = |l: &&Active| matches!(&which, Which::Named(n) if *n == *l.shared.name() || *n == l.pool);
        let listeners = all().filter(means).map(|l| l.shared.slot).collect();
        let names = all().map(|l| (l.shared.slot, l.shared.name().to_string())).collect();
        (Arc::new(Wanted { which, listeners }), names)
    }

    /// Stops accepting. Sessions go on; clients that are connected but not
    /// accepted yet still get one.
    ///
    /// # Errors
    ///
    /// [`Error::Stalled`] when a worker hangs; the others have stopped.
    pub fn stop_accepting(&self) -> Result<(), Error> {
        self.control().listeners.iter_mut().for_each(|l| l.addresses.clear());
        self.tell(|| Command::StopAccepting)
    }

    /// Stops accepting, waits until all sessions have ended or `limit` has
    /// passed, and resets those that are left. Resolves to their number.
    ///
    /// # Errors
    ///
    /// [`Error::Stalled`] when a worker hangs.
    pub async fn drain(&self, limit: Duration) -> Result<u32, Error> {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.stop_accepting()?;
        let ended = async {
            loop {
                let mut ended = std::pin::pin!(self.shared.ended.notified());
                ended.as_mut().enable();
                if self.sessions() == 0 {
                    return;
                }
                ended.await;
            }
        };
        if tokio::time::timeout(limit, ended).await.is_ok() {
            return Ok(0);
        }
        let left = self.sessions();
        self.tell(|| Command::CloseAll)?;
        Ok(left)
    }

    /// The number of sessions now.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        self.shared.sessions.load(Ordering::SeqCst)
    }

    /// The numbers as of now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut control = self.control();
        control.retired.retain(|l| l.shared.sessions() > 0);
        let active = control.listeners.iter().map(|l| {
            let mut stats = l.shared.stats();
            stats.addresses.clone_from(&l.addresses);
            stats
        });
        let listeners = active.chain(control.retired.iter().map(|l| l.shared.stats())).collect();
        let view = self.shared.view.load();
        let pools = view.tallies.iter().map(|p| p.stats()).collect();
        let now = self.shared.now();
        let former = control.servers.former(&view.servers);
        let stats = |s: &Arc<ServerTally>| {
            let stats = s.stats(now);
            let former = former.get(&(stats.pool.clone(), stats.server.clone())).copied().unwrap_or(0);
            ServerStats { former, ..stats }
        };
        let servers = view.servers.iter().flatten().map(stats).collect();
        Stats { listeners, pools, servers }
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        // Nothing that holds the lock can panic half-way through a change.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn permits(&self) -> Result<Vec<mpsc::Permit<'_, Command>>, Error> {
        self.workers
            .iter()
            .enumerate()
            .map(|(worker, w)| w.commands.try_reserve().map_err(|_| Error::Stalled { worker }))
            .collect()
    }

    /// Asks every worker.
    fn ask<T>(
        &self,
        command: impl Fn(oneshot::Sender<T>) -> Command,
    ) -> Result<Vec<oneshot::Receiver<T>>, Error> {
        let mut answers = Vec::with_capacity(self.workers.len());
        self.tell(|| {
            let (answer, answered) = oneshot::channel();
            answers.push(answered);
            command(answer)
        })?;
        Ok(answers)
    }

    fn tell(&self, mut command: impl FnMut() -> Command) -> Result<(), Error> {
        let mut result = Ok(());
        for (worker, handle) in self.workers.iter().enumerate() {
            if handle.commands.try_send(command()).is_err() {
                tracing::error!(worker, "a worker of the balancer does not take commands");
                result = Err(Error::Stalled { worker });
            }
        }
        result
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            // A worker ends by this word, or when it has carried out what came before it.
            let _ = worker.commands.try_send(Command::Stop);
            let (closed, _) = mpsc::channel(1);
            worker.commands = closed;
        }
        for thread in self.workers.iter_mut().filter_map(|w| w.thread.take()) {
            let _ = thread.join();
        }
    }
}

impl Control {
    /// For each of these listeners the one that listens at its address now. An
    /// address without a port is nobody else's.
    fn kept(&self, listeners: &[Listener]) -> Vec<Option<&Active>> {
        let mut kept: Vec<Option<&Active>> = Vec::with_capacity(listeners.len());
        for settings in listeners {
            let free = |l: &&Active| !kept.iter().flatten().any(|k| k.number == l.number);
            let same = |l: &&Active| settings.bind.port != 0 || l.settings.name == settings.name;
            let there = self.listeners.iter().filter(|l| l.settings.bind == settings.bind);
            let found = there.filter(free).find(same);
            kept.push(found);
        }
        kept
    }

    /// Makes `next` the list of listeners, and remembers those that are not in
    /// it any more: they have sessions, or clients in their queues that get one.
    fn replace(&mut self, next: Vec<Active>) {
        let old = std::mem::replace(&mut self.listeners, next);
        let listeners = &self.listeners;
        let here = |o: &Active| listeners.iter().any(|l| Arc::ptr_eq(&l.shared, &o.shared));
        self.retired.retain(|l| l.shared.sessions() > 0 && !here(l));
        self.retired.extend(old.into_iter().filter(|o| !here(o)));
    }

    fn view(&mut self, pools: Arc<Pools>) -> View {
        let mut servers = Vec::with_capacity(pools.pools().len());
        let mut tallies = Vec::with_capacity(pools.pools().len());
        for pool in pools.pools() {
            let tally = self.pools.entry(pool.name().to_owned());
            let tally = Arc::clone(tally.or_insert_with(|| Arc::new(PoolTally::new(pool.name()))));
            let places = pool.servers().iter().map(vipd_core::pool::Server::addresses);
            let placed: Vec<_> = pool.settings().servers.iter().zip(places).collect();
            let of_pool = self.servers.of(&tally, &placed);
            of_pool.iter().enumerate().for_each(|(at, t)| t.set_usable(pool.uses(at)));
            servers.push(of_pool);
            tallies.push(tally);
        }
        let rated = servers.iter().map(|s| s.iter().any(|t| t.rate.limited())).collect();
        // Those of removed servers stay as long as they have sessions, those of pools as long as
        // somebody waits or a server of theirs is left.
        self.servers.forget_unused();
        self.pools.retain(|_, tally| {
            let left = Arc::strong_count(&tally.changes) > 1;
            Arc::strong_count(tally) > 1 || tally.queue.waiting() > 0 || left
        });
        let mut routes = vec![None; self.slots];
        for listener in self.retired.iter().chain(&self.listeners) {
            let pool = pools.pools().iter().position(|p| p.name() == listener.pool);
            let route = |pool| Route {
                pool,
                limits: Limits::of(&listener.settings),
                tcp: (&listener.settings).into(),
            };
            routes[listener.shared.slot] = pool.map(route);
        }
        View { pools, servers, tallies, routes, rated }
    }
}

fn local_addresses(sockets: Option<&Vec<TcpListener>>) -> Vec<SocketAddr> {
    sockets.into_iter().flatten().filter_map(|s| s.local_addr().ok()).collect()
}
