//! `vipd run`: puts the parts together, and takes them apart again.
//!
//! Threads: this one runs the shell; `aux` runs checks, look-ups and the
//! control plane; the balancer has workers of its own.

use crate::check::Checker;
use crate::cli::Run;
use crate::control::api::{Event, EventKind, Level};
use crate::control::call::{self, Calls};
use crate::control::events::{EventLog, EventStore};
use crate::control::http::{Token, TokenError, Web};
use crate::control::instance::{ClaimError, Instance, Socket};
use crate::control::{hooks, http, notify, server};
use crate::etcd::{self, Etcd, News};
use crate::guard::Guard;
use crate::kernel::{self, KernelError, KernelEvent, KernelHandle, KernelSettings, Leftover};
use crate::log;
use crate::net::clock;
use crate::peer::key::{ClusterKey, KeyError};
use crate::peer::{Links, Party, epoch};
use crate::publish::{self, Publishing};
use crate::resolve::{Discovery, Resolver};
use crate::shell::{self, Left, Parts};
use crate::witness;
use nix::unistd::Uid;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};
use vipd_balancer::{Balancer, Gate};
use vipd_config::{Config, Errors, Key, NodeError, Notify, Status};
use vipd_core::node::{Node, Relay, Settings};
use vipd_core::settings::Member;
use vipd_core::witness::Witness;

/// Checks and look-ups that may wait for the shell, which takes one in microseconds.
const REPORTS: usize = 1024;
/// The last commands of `[[notify]]` may take this long after a stop.
const HOOKS_FOR: Duration = Duration::from_secs(5);
/// Sessions that are not of a VIP may go on for this long after a stop.
const DRAIN_FOR: Duration = Duration::from_secs(10);

/// Why the daemon cannot run, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(#[from] Errors),
    /// The cluster key cannot be had.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// This host is none of the nodes.
    #[error("{0}")]
    Node(#[from] NodeError),
    /// The process may not do what it must.
    #[error(
        "vipd needs {0} and does not have it: start it as root, or with `AmbientCapabilities=CAP_NET_ADMIN \
         CAP_NET_RAW CAP_NET_BIND_SERVICE` in its systemd unit, or `setcap \
         cap_net_admin,cap_net_raw,cap_net_bind_service+ep` on its file"
    )]
    Capability(&'static str),
    /// There is no place for another daemon.
    #[error("{0}")]
    Claim(#[from] ClaimError),
    /// A listener cannot be bound.
    #[error("{0}")]
    Balancer(#[from] vipd_balancer::Error),
    /// The status address cannot be bound.
    #[error("[status] http = \"{address}\": {source}; {}", hint(source))]
    Status {
        /// The address.
        address: SocketAddr,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// The password of etcd is no secret.
    #[error("{0}")]
    Etcd(#[from] etcd::Exposed),
    /// The status page's secret is missing.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// The kernel's addresses cannot be managed.
    #[error("{0}")]
    Kernel(#[from] KernelError),
    /// The system refused something.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The error.
        #[source]
        source: io::Error,
    },
}

/// What may be wrong with an address that cannot be bound.
fn hint(error: &io::Error) -> &'static str {
    let kind = error.kind();
    if kind == io::ErrorKind::AddrInUse {
        "is another program using the port?"
    } else if kind == io::ErrorKind::AddrNotAvailable {
        "no interface of this host has the address"
    } else if kind == io::ErrorKind::PermissionDenied {
        "a port below 1024 wants CAP_NET_BIND_SERVICE"
    } else {
        "see bind(2)"
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// What a start takes from this host, and is refused without.
struct Needs {
    key: Option<ClusterKey>,
    token: Option<Token>,
    role: Role,
}

/// What this host is, as a position in the file.
enum Role {
    Node(usize),
    Witness(usize),
}

impl Needs {
    fn find(config: &Config, run: &Run) -> Result<Self, Error> {
        let key = config.key.as_ref().map(|key| ClusterKey::load(&key.file)).transpose()?;
        let local = local_addresses()?;
        let witness = match &run.node {
            Some(name) => config.witness_named(name),
            None => config.find_witness(&local),
        };
        if let Some(me) = witness {
            return Ok(Self { key, token: None, role: Role::Witness(me) });
        }
        let me = match &run.node {
            Some(name) => config.node_named(name)?,
            None => config.find_node(&local)?,
        };
        if let Some(settings) = &config.etcd {
            etcd::inspect(settings)?;
        }
        let token_file = config.status.as_ref().and_then(|s| s.token_file.as_deref());
        Ok(Self { key, token: token_file.map(Token::read).transpose()?, role: Role::Node(me) })
    }
}

/// Says whether [`run`] would start, and starts nothing.
///
/// # Errors
/// Why it would not.
pub fn would_run(run: &Run) -> Result<(), Error> {
    let config = Config::load(&run.config.path)?;
    Needs::find(&config, run).map(drop)
}

/// Runs until it is told to stop.
///
/// # Errors
/// Why it cannot start, or had to end.
pub fn run(run: &Run) -> Result<(), Error> {
    let config = Config::load(&run.config.path)?;
    let _log = log::open(run.log_format).map_err(system("open the log"))?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let Needs { key, token, role } = Needs::find(&config, run)?;
    if key.is_none() {
        warn!(
            "no key-file in [cluster]: whoever is on the network can speak for a node; `vipd keygen` prints a key"
        );
    }
    let me = match role {
        Role::Node(me) => me,
        Role::Witness(me) => return vote(&config, me, key.as_ref(), run),
    };
    capabilities()?;
    vipd_balancer::raise_descriptor_limit().map_err(system("raise the limit of descriptors"))?;
    // Before any thread, and before the lock that a child would share.
    let guard = Guard::spawn(&run.runtime_dir).map_err(system("start the crash guard"))?;
    guard.on_panic();
    let instance = Instance::claim(&run.runtime_dir)?;
    let socket = instance.listen()?;
    let run_number = key.as_ref().map(|_| epoch::begin(&run.state_dir));
    let links = (config.key.clone(), key.map(|key| links(&config, &key, me, run_number.unwrap_or(0))));
    let pages = Pages { status: config.status.clone(), token, notify: config.notify.clone() };
    let etcd = config.etcd.clone();
    let node = Node::new(shell::settings(config), me, epoch::run(run_number), clock::now());
    let result = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("make the event loop"))
        .and_then(|runtime| runtime.block_on(serve(node, (links, etcd), guard, socket, pages, run)));
    drop(instance);
    result
}

/// This host is a witness: it starts nothing but what votes need.
fn vote(config: &Config, me: usize, key: Option<&ClusterKey>, run: &Run) -> Result<(), Error> {
    let own = config.cluster.voter(me).cloned().unwrap_or_else(|| unreachable!("the witness was found"));
    let links = key.map(|key| links(config, key, me, epoch::begin(&run.state_dir)));
    let witness = Witness::new(config.cluster.clone(), &config.election, &config.digests(), me, clock::now());
    witness::announce(&witness, &own.name);
    let runtime =
        Builder::new_current_thread().enable_all().build().map_err(system("make the event loop"))?;
    runtime
        .block_on(async {
            notify::ready();
            let ended = witness::run(witness, links, own.addresses).await;
            notify::stopping();
            ended
        })
        .map_err(system("run the event loop"))
}

/// The sealed links to the other nodes.
fn links(config: &Config, key: &ClusterKey, me: usize, run_number: u32) -> Links {
    let cluster = &config.cluster;
    let party = |m: &Member| Party { name: m.name.clone(), addresses: m.addresses.clone() };
    let parties = cluster.voters().map(party).collect();
    let accept_unsealed = config.key.as_ref().is_some_and(|k| k.accept_unsealed);
    Links::new(key, &cluster.name, parties, me, run_number, accept_unsealed)
}

/// What operators see, and have run.
struct Pages {
    status: Option<Status>,
    token: Option<Token>,
    notify: Vec<Notify>,
}

/// Events, kept where that is possible.
fn event_log(state_dir: &Path) -> (EventLog, EventStore) {
    EventLog::kept_in(state_dir).unwrap_or_else(|error| {
        let dir = state_dir.display();
        warn!(%error, %dir, "events are not kept across a restart: --state-dir names a directory that can be written");
        EventLog::new()
    })
}

async fn serve(
    mut node: Node,
    (links, etcd): ((Option<Key>, Option<Links>), Option<vipd_config::Etcd>),
    guard: Guard,
    socket: Socket,
    Pages { status, token, notify }: Pages,
    run: &Run,
) -> Result<(), Error> {
    let settings = node.settings().clone();
    let name = settings.cluster.nodes.get(node.me()).map(|n| n.name.clone()).unwrap_or_default();
    let (events, store) = event_log(&run.state_dir);
    let (calls, calls_in) = call::channel();
    let aux = Aux::start()?;
    let http = status.as_ref().map(|s| listen(s.http, &aux.handle)).transpose()?;
    let pools = node.preview_pools(&settings.pools, clock::now());
    let (balancer, gate) = Balancer::start_unjudged(&settings.listeners, pools, None)?;
    let addresses = settings.vips.iter().flat_map(|v| v.addresses.iter().map(|a| a.address())).collect();
    let kernel = KernelSettings { runtime_dir: run.runtime_dir.clone(), addresses };
    let (kernel, kernel_events, leftovers) = start_kernel(kernel).await?;
    let (reports, reports_in) = mpsc::channel(REPORTS);
    let (found, found_in) = mpsc::channel(REPORTS);
    let own = settings.own();
    let resolver = Resolver::start(aux.handle.clone(), &settings.pools, own, found);
    let (discovered, discovered_in) = mpsc::channel(REPORTS);
    let discovery = Discovery::start(aux.handle.clone(), &settings.pools, discovered);
    let checker = Checker::start(aux.handle.clone(), &settings.pools, &resolver, reports);
    let (answers, answers_in) = mpsc::channel(publish::ANSWERS);
    let publishing = Publishing::start(aux.handle.clone(), &settings, node.me(), events.clone(), answers);
    let etcd = etcd.map(|etcd| start_etcd(etcd, &settings)).transpose()?;
    let origin = hooks::Origin { cluster: settings.cluster.name.clone(), node: name.clone() };
    let (hooks, newest_hooks) = watch::channel(notify);
    let (seen_to, mut hooks_done) = watch::channel(0);
    aux.handle.spawn(hooks::run(&store.subscriptions(), newest_hooks, origin, seen_to));
    // Everything is bound by now: operators and systemd may come.
    aux.handle.spawn(control(socket, (http, token), calls, store, (kernel.clone(), gate)));
    let version = env!("CARGO_PKG_VERSION");
    info!(node = name, cluster = settings.cluster.name, version, "vipd starts");
    events.push(Event::new(Level::Info, EventKind::Start, format!("vipd {version} starts on {name}")));
    for leftover in leftovers {
        let message =
            format!("removed {} from {}, left by an earlier run", leftover.address, leftover.interface);
        events.push(Event::new(Level::Warning, EventKind::Address, message));
    }
    let parts = Parts {
        node,
        kernel: (kernel, kernel_events),
        links,
        etcd,
        guard,
        balancer,
        checker: (checker, reports_in),
        resolver: (resolver, found_in),
        discovery: (settings.pools, discovery, discovered_in),
        publishing: (publishing, answers_in),
        calls: calls_in,
        events: events.clone(),
        aux: aux.handle.clone(),
        config: run.config.path.clone(),
        status,
        hooks,
    };
    let Left { balancer, relay } = shell::run(parts).await.map_err(system("run the event loop"))?;
    events.push(Event::new(Level::Info, EventKind::Stop, "everything is handed over and released"));
    let drain_for = match relay {
        Some(relay) => {
            aux.handle.spawn(notify::take_time(relay.keep));
            relay_on(&balancer, relay, &events).await?
        }
        None => DRAIN_FOR,
    };
    let again = told_again()?;
    let sessions = balancer.sessions();
    if sessions > 0 {
        info!(sessions, "waits {} s at most for sessions; a second signal ends them", drain_for.as_secs());
    }
    let left = tokio::select! {
        left = balancer.drain(drain_for) => left?,
        () = again => {
            info!(sessions = balancer.sessions(), "told to stop again: what is left is closed at once");
            balancer.drain(Duration::ZERO).await?
        }
    };
    if left > 0 {
        warn!(left, "sessions were still open and are closed");
    }
    // The last commands: an operator may be told by them that this node lets go.
    let last = events.last();
    let _ = tokio::time::timeout(HOOKS_FOR, hooks_done.wait_for(|seq| *seq >= last)).await;
    info!("vipd stops");
    drop(events);
    aux.stop();
    Ok(())
}

/// Serves clients that come by old answers of DNS; gives the time that their
/// sessions have left. A second signal ends it.
async fn relay_on(balancer: &Balancer, relay: Relay, events: &EventLog) -> Result<Duration, Error> {
    let message = farewell(&relay);
    info!(sessions = balancer.sessions(), "{message}");
    events.push(Event::new(Level::Info, EventKind::Dns, message));
    tokio::select! {
        () = tokio::time::sleep(relay.accept) => Ok(relay.keep.saturating_sub(relay.accept)),
        () = told_again()? => {
            info!(sessions = balancer.sessions(), "told to stop again: nobody is waited for any more");
            Ok(Duration::ZERO)
        }
    }
}

/// What a node tells that goes on for clients with old answers.
fn farewell(relay: &Relay) -> String {
    let whether = match relay.gone {
        true => "is out of the records",
        false => "was not seen to be out of the records everywhere before it stopped",
    };
    let (accept, keep) = (relay.accept.as_secs(), relay.keep.as_secs());
    format!("this node {whether}: new clients may come for {accept} s, sessions are kept for {keep} s")
}

/// Resolves at the next SIGTERM or SIGINT.
fn told_again() -> Result<impl Future<Output = ()>, Error> {
    let what = "wait for signals";
    let mut terminate = signal(SignalKind::terminate()).map_err(system(what))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system(what))?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The way to where the quorum is kept.
fn start_etcd(
    etcd: vipd_config::Etcd,
    settings: &Settings,
) -> Result<(vipd_config::Etcd, Etcd, mpsc::Receiver<News>), Error> {
    let (cluster, lease) = (&settings.cluster.name, settings.election.etcd_lease);
    let (way, news) = Etcd::start(&etcd, cluster, lease).map_err(system("start a thread"))?;
    Ok((etcd, way, news))
}

type KernelParts = (KernelHandle, mpsc::Receiver<KernelEvent>, Vec<Leftover>);

/// Starts the owner of the addresses on a thread of its own: the kernel's lock
/// on them may be held by somebody else, and adverts shall not wait for it.
async fn start_kernel(settings: KernelSettings) -> Result<KernelParts, Error> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(system("make an event loop"))?;
    let (started, parts) = oneshot::channel();
    let work = move || {
        shell::come_first();
        runtime.block_on(async {
            match kernel::start(settings).await {
                Ok((handle, actor, events, leftovers)) => {
                    if started.send(Ok((handle, events, leftovers))).is_ok() {
                        actor.run().await;
                    }
                }
                // Nobody waits any more if this fails.
                Err(error) => drop(started.send(Err(error))),
            }
        });
    };
    let thread = std::thread::Builder::new().name("kernel".to_owned()).spawn(work);
    thread.map_err(system("start a thread"))?;
    let ended = |_| Error::System { what: "talk to the kernel", source: io::ErrorKind::BrokenPipe.into() };
    Ok(parts.await.map_err(ended)??)
}

/// The control plane, until the events end.
async fn control(
    socket: Socket,
    (http, token): (Option<std::net::TcpListener>, Option<Token>),
    calls: Calls,
    store: EventStore,
    (kernel, gate): (KernelHandle, Gate),
) {
    let alive = tokio::spawn({
        let calls = calls.clone();
        async move {
            notify::first_round(&calls).await;
            gate.open();
            notify::ready();
            notify::keep_alive(calls, kernel).await;
        }
    });
    let pages = http.and_then(|l| tokio::net::TcpListener::from_std(l).ok());
    let pages = pages.map(|listener| {
        let web = Web::new(calls.clone(), store.subscriptions(), token);
        tokio::spawn(http::serve(listener, web))
    });
    if let Err(error) = server::serve(socket, calls, store).await {
        warn!(%error, "the control socket does not work");
    }
    notify::stopping();
    alive.abort();
    if let Some(pages) = pages {
        pages.abort();
    }
}

/// The thread of everything that may take its time.
struct Aux {
    handle: Handle,
    end: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Aux {
    fn start() -> Result<Self, Error> {
        let what = "start a thread";
        let runtime = Builder::new_current_thread().enable_all().build().map_err(system(what))?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("aux".to_owned())
            .spawn(move || {
                // Both a word and a lost sender end it.
                let _ = runtime.block_on(ended);
                runtime.shutdown_timeout(Duration::from_millis(100));
            })
            .map_err(system(what))?;
        Ok(Self { handle, end, thread })
    }

    fn stop(self) {
        let _ = self.end.send(());
        let _ = self.thread.join();
    }
}

fn listen(address: SocketAddr, aux: &Handle) -> Result<std::net::TcpListener, Error> {
    let _context = aux.enter();
    let listener = std::net::TcpListener::bind(address);
    listener
        .and_then(|l| l.set_nonblocking(true).map(|()| l))
        .map_err(|source| Error::Status { address, source })
}

/// All addresses of this host.
fn local_addresses() -> Result<Vec<IpAddr>, Error> {
    let all = nix::ifaddrs::getifaddrs()
        .map_err(|e| Error::System { what: "list this host's addresses", source: e.into() })?;
    let ip = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        address
            .as_sockaddr_in()
            .map(|a| IpAddr::V4(a.ip()))
            .or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    Ok(all.filter_map(ip).collect())
}

/// What the daemon must be allowed to do; asked early, so that the answer is one sentence.
fn capabilities() -> Result<(), Error> {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    const CAP_NET_RAW: u64 = 1 << 13;
    let status = std::fs::read_to_string("/proc/self/status").map_err(system("read /proc/self/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let held = line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok());
    let held = held.unwrap_or(if Uid::effective().is_root() { u64::MAX } else { 0 });
    match (held & CAP_NET_ADMIN != 0, held & CAP_NET_RAW != 0) {
        (true, true) => Ok(()),
        (false, _) => Err(Error::Capability("CAP_NET_ADMIN (to add addresses)")),
        (true, false) => Err(Error::Capability("CAP_NET_RAW (to send adverts and gratuitous ARP)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever reads the log at night must not believe what nobody has seen.
    #[test]
    fn a_node_says_that_it_is_out_of_the_records_only_if_it_was_seen() {
        let (accept, keep) = (Duration::from_secs(7), Duration::from_secs(17));
        let told = farewell(&Relay { accept, keep, gone: true });
        let wanted =
            "this node is out of the records: new clients may come for 7 s, sessions are kept for 17 s";
        assert_eq!(told, wanted);
        let told = farewell(&Relay { accept, keep, gone: false });
        assert!(!told.contains("is out") && told.contains("was not seen to be out"), "{told}");
    }
}
