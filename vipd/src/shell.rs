//! The one loop that drives the node: the sole caller of [`Node`].
//!
//! Packets, the kernel's answers, checks, operators and the clock come in;
//! every output is carried out before the next input is taken. The loop runs
//! on a thread and a current-thread runtime of its own, so that no load of the
//! balancer delays an advert.

pub mod calls;
mod found;
pub mod links;
pub mod orders;
mod orphans;
mod relink;
mod reload;
mod sealing;
pub mod sockets;
pub mod status;

use crate::check::{Checker, Report};
use crate::control::api::{self, DnsStoreDoc, EventKind};
use crate::control::call::Call;
use crate::control::events::EventLog;
use crate::etcd::{Etcd, News, Order};
use crate::guard::Guard;
use crate::kernel::{self, KernelEvent, KernelHandle};
use crate::net::{Announcer, Timer, clock};
use crate::peer::Links;
use crate::publish::{Answer, Publishing};
use crate::resolve::{Discovered, Discovery, Resolved, Resolver};
use found::Found;
use links::{Interface, Interfaces};
use orders::{Maintenance, Switchover};
use reload::Loaded;
use sockets::{IN_A_ROW, Sockets};
use status::Known;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};
use vipd_balancer::{Balancer, Met, Outcome, Stats};
use vipd_config::{Config, Key, Notify, Status};
use vipd_core::event::{Event, Level};
use vipd_core::node::{Announcement, Input, Inquiry, Node, Output, Relay, Settings};
use vipd_core::plan::{GroupPlan, Hold};
use vipd_core::pool::ServerKey;
use vipd_core::probe::{Checked, Probe};
use vipd_core::settings::Pool;

/// So many turns of the readers may pass before a verdict that nobody spoke: a
/// thousand packets wait no longer than some milliseconds, flood or not.
const TURNS_BEFORE_A_VERDICT: usize = 16;
/// The nice value of threads that adverts depend on.
const ADVERTS_FIRST: i32 = -15;

/// Of a name that leads somewhere, be it by what was known before.
const NAME_PROBLEM: &str = "its name does not resolve as it should (what is good of it is in use)";

/// What the loop is made of.
#[derive(Debug)]
pub struct Parts {
    /// The decisions.
    pub node: Node,
    /// The rtnetlink owner, and what it tells.
    pub kernel: (KernelHandle, mpsc::Receiver<KernelEvent>),
    /// The cluster key as the file has it, and the sealed links to the other nodes.
    pub links: (Option<Key>, Option<Links>),
    /// `[etcd]`, the way there, and what it tells.
    pub etcd: Option<(vipd_config::Etcd, Etcd, mpsc::Receiver<News>)>,
    /// The crash guard.
    pub guard: Guard,
    /// The data path.
    pub balancer: Balancer,
    /// The checks, and what they report.
    pub checker: (Checker, mpsc::Receiver<Report>),
    /// The names of servers, and what was found.
    pub resolver: (Resolver, mpsc::Receiver<Resolved>),
    /// Names that stand for many servers: the pools as the file has them, the
    /// look-ups, and what they find.
    pub discovery: (Vec<Pool>, Discovery, mpsc::Receiver<Discovered>),
    /// The places of the name's records, and what they answer.
    pub publishing: (Publishing, mpsc::Receiver<Answer>),
    /// What operators ask.
    pub calls: mpsc::Receiver<Call>,
    /// What people are told.
    pub events: EventLog,
    /// Where files are read.
    pub aux: Handle,
    /// The configuration file.
    pub config: PathBuf,
    /// Where the status is served.
    pub status: Option<Status>,
    /// Commands that are run when something happens.
    pub hooks: watch::Sender<Vec<Notify>>,
}

/// What is left when the loop has ended.
#[derive(Debug)]
pub struct Left {
    /// The data path, which serves still.
    pub balancer: Balancer,
    /// How long clients may come by answers that they got before.
    pub relay: Option<Relay>,
}

/// The loop's state.
struct Shell {
    node: Node,
    key: Option<Key>,
    sealing: Option<Links>,
    etcd: Option<(vipd_config::Etcd, Etcd)>,
    kernel: KernelHandle,
    guard: Guard,
    balancer: Balancer,
    checker: Checker,
    resolver: Resolver,
    found: Found,
    publishing: Publishing,
    events: EventLog,
    aux: Handle,
    config: PathBuf,
    status: Option<Status>,
    hooks: watch::Sender<Vec<Notify>>,
    /// The text of the file that is in force.
    in_force: String,
    config_errors: Vec<String>,
    interfaces: Interfaces,
    sockets: Sockets,
    announcers: BTreeMap<u32, Announcer>,
    switchovers: Vec<Switchover>,
    maintenances: Vec<Maintenance>,
    loaded: mpsc::Sender<Loaded>,
    /// Reloads that were asked for, and the last of them that was tried.
    reloads: (u64, u64),
    /// Everything is released; whether the kernel has said so.
    stopped: Option<bool>,
}

/// Runs until a signal asks for the end and everything is handed over; gives
/// back what is to be ended after that. The guard is dismissed, or at work on
/// what the kernel would not release.
///
/// # Errors
/// The system has no timer or no signals for the loop.
pub async fn run(parts: Parts) -> io::Result<Left> {
    let (packets, mut packets_in) = mpsc::channel(sockets::WAITING);
    // What a few reloads have read waits for its turn; whoever asks for more waits too.
    let (loaded, mut loaded_in) = mpsc::channel(4);
    let (kernel, mut kernel_in) = parts.kernel;
    let (checker, mut reports) = parts.checker;
    let (resolver, mut resolved) = parts.resolver;
    let (file, discovery, mut discovered) = parts.discovery;
    let (publishing, mut answers) = parts.publishing;
    let mut calls = parts.calls;
    let (etcd, mut news) = parts.etcd.map(|(settings, etcd, news)| ((settings, etcd), news)).unzip();
    let transport = parts.node.settings().election.transport;
    let members = parts.node.settings().cluster.voters().flat_map(|n| n.addresses.clone()).collect();
    let in_force = std::fs::read_to_string(&parts.config).unwrap_or_default();
    let mut shell = Shell {
        node: parts.node,
        key: parts.links.0,
        sealing: parts.links.1,
        etcd,
        kernel,
        guard: parts.guard,
        balancer: parts.balancer,
        checker,
        resolver,
        found: Found::new(file, discovery),
        publishing,
        events: parts.events,
        aux: parts.aux,
        config: parts.config,
        status: parts.status,
        hooks: parts.hooks,
        in_force,
        config_errors: vec![],
        interfaces: Interfaces::default(),
        sockets: Sockets::new(transport, members, packets),
        announcers: BTreeMap::new(),
        switchovers: vec![],
        maintenances: vec![],
        loaded,
        reloads: (0, 0),
        stopped: None,
    };
    come_first();
    let (mut terminate, mut interrupt, mut hangup) = signals()?;
    let mut timer = Timer::new()?;
    let mut met = shell.balancer.met();
    shell.drain();
    let mut in_a_row = 0;
    while shell.stopped.is_none() {
        let deadline = shell.deadline();
        let (packets_turn, before) = (in_a_row < IN_A_ROW, in_a_row);
        in_a_row = 0;
        tokio::select! {
            biased;
            Some(packet) = packets_in.recv(), if packets_turn => {
                in_a_row = before + 1;
                shell.packet(&packet);
            }
            Some(event) = kernel_in.recv() => shell.kernel_event(event),
            Some(news) = next_of(&mut news) => shell.news(news),
            _ = terminate.recv() => shell.handle(Input::Stop),
            _ = interrupt.recv() => shell.handle(Input::Stop),
            due = timer.sleep_until(deadline) => {
                due?;
                // Packets that wait in the sockets come before the verdict that nobody spoke.
                for _ in 0..TURNS_BEFORE_A_VERDICT {
                    tokio::task::yield_now().await;
                    let waiting = packets_in.len();
                    for _ in 0..waiting {
                        let Ok(packet) = packets_in.try_recv() else { break };
                        shell.packet(&packet);
                    }
                    if waiting < IN_A_ROW {
                        break;
                    }
                }
                shell.due();
                shell.forget_vanished();
            }
            // Before what checks found there: it counts for where a server is.
            Some(found) = resolved.recv() => shell.resolved(&found),
            Some(report) = reports.recv() => shell.report(report),
            Some(found) = discovered.recv() => shell.discovered(found),
            Some(answer) = answers.recv() => shell.published(answer),
            Some(call) = calls.recv() => shell.call(call),
            Some(met) = next_of(&mut met) => {
                let Met { pool, server, place, outcome } = &met;
                let place = *place;
                shell.handle(match *outcome {
                    Outcome::Failed { in_a_row, .. } => Input::ConnectFailed { pool, server, place, in_a_row },
                    Outcome::Good => Input::ConnectWorked { pool, server, place },
                });
            }
            Some(loaded) = loaded_in.recv() => shell.reloaded(loaded),
            _ = hangup.recv() => shell.reload(None, false),
            // Nobody else wants the turn that the packets left.
            () = std::future::ready(()), if !packets_turn => {}
        }
        shell.look_at_orders();
    }
    Ok(shell.leave(kernel_in))
}

async fn next_of<T>(receiver: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    receiver.as_mut()?.recv().await
}

/// Puts this thread before busy workers, which shall not delay an advert.
/// Without the right to it, the scheduler's fairness has to do.
pub fn come_first() {
    let _ = rustix::process::setpriority_process(None, ADVERTS_FIRST);
}

fn signals() -> io::Result<(Signal, Signal, Signal)> {
    Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?))
}

impl Shell {
    /// The end: everything is handed over and released, or left to the guard.
    fn leave(self, kernel: mpsc::Receiver<KernelEvent>) -> Left {
        let relay = self.node.relay_for();
        if self.stopped == Some(true) {
            self.guard.goodbye();
            return Left { relay, balancer: self.balancer };
        }
        warn!("the kernel did not confirm that the addresses are gone: the guard looks after them");
        let addresses: Vec<IpAddr> = addresses(self.node.settings()).into_iter().collect();
        stalled(self.balancer.close_local(&addresses));
        // Without its listener the addresses' owner here ends: it would put back what the guard deletes.
        drop(kernel);
        // Now: other sessions may go on for long.
        self.guard.take_over();
        Left { relay, balancer: self.balancer }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.node.handle(input, clock::now());
        self.drain();
    }

    /// Carries out every output.
    fn drain(&mut self) {
        while let Some(output) = self.node.next_output() {
            match output {
                Output::Advert(packet) => self.send_advert(packet),
                Output::Peer { node, bytes } => self.send_message(node, &bytes),
                Output::Addresses(plan) => {
                    if plan.hold != Hold::Absent {
                        self.open_listeners(&plan);
                    }
                    self.kernel.submit(plan);
                }
                Output::Extended { group, until, watch } => {
                    self.kernel.extend(group, until);
                    watch.iter().for_each(|watch| self.guard.extend(watch));
                }
                Output::Announce(announcement) => self.announce(&announcement),
                Output::Ask(inquiry) => self.ask(&inquiry),
                Output::CloseSessions { addresses } => {
                    stalled(self.balancer.close_local(&addresses));
                }
                Output::Pools(pools) => self.balancer.set_pools(pools),
                Output::CloseElsewhere(only) => stalled(self.balancer.close_elsewhere(&only)),
                Output::CloseServer { server, why } => stalled(self.balancer.close_server(server, why)),
                Output::Room { server, free } => self.balancer.set_room(server, free),
                Output::Hurry { server } => {
                    if let Some((pool, server)) = self.node.server_name(server) {
                        self.checker.hurry(pool, server);
                    }
                }
                Output::Records(records) => self.publishing.order(records),
                Output::Register { vrid, number, operation } => {
                    if let Some((_, etcd)) = &self.etcd {
                        etcd.order(Order { vrid, number, operation });
                    }
                }
                Output::Guard(state) => self.tell_guard(state),
                Output::Event(event) => self.tell(event),
                Output::Forget { group } => self.kernel.forget(Some(group), addresses(self.node.settings())),
                Output::Stopped { clean } => self.stopped = Some(clean),
            }
        }
    }

    /// Clients may come to a plan's addresses again, but for those that part.
    fn open_listeners(&self, plan: &GroupPlan) {
        self.balancer.open_local(|| {
            let floating = addresses(self.node.settings());
            plan.addresses.iter().map(|a| a.address()).filter(|a| floating.contains(a)).collect()
        });
    }

    /// Announces addresses, and tells the node when it is done.
    fn announce(&mut self, announcement: &Announcement) {
        if let Some(announcer) = self.announcer(announcement.interface) {
            let done = announcer.announce(&announcement.addresses);
            if let Some(error) = done.error {
                warn!(%error, unsent = done.unsent.len(), "some announcements were not sent; they are repeated");
            }
        }
        // An interface without Ethernet addresses has nobody to be told.
        self.node.handle(Input::Announced { group: announcement.group }, clock::now());
    }

    /// Asks who has addresses. A question that is not sent is asked again.
    fn ask(&mut self, inquiry: &Inquiry) {
        let own = self.interfaces.asker(inquiry.interface);
        let asked = self.announcer(inquiry.interface).map(|a| a.ask(&inquiry.addresses, own));
        if let Some(Err(error)) = asked {
            debug!(%error, "cannot ask who has an address");
        }
    }

    /// What speaks ARP and neighbour discovery on an interface, if that has an Ethernet address.
    fn announcer(&mut self, interface: u32) -> Option<&Announcer> {
        let mac = self.interfaces.mac(interface)?;
        if self.announcers.get(&interface).is_none_or(|a| a.mac() != mac) {
            match Announcer::open(interface, mac) {
                Ok(announcer) => {
                    self.announcers.insert(interface, announcer);
                }
                Err(error) => warn!(%error, "cannot announce addresses"),
            }
        }
        self.announcers.get(&interface)
    }

    fn tell(&self, event: Event) {
        let Event { kind, vip, peer, message, .. } = &event;
        let (vip, peer) = (vip.as_deref(), peer.as_deref());
        match event.level {
            Level::Info => info!(?kind, vip, peer, "{message}"),
            Level::Warn => warn!(?kind, vip, peer, "{message}"),
            Level::Error => error!(?kind, vip, peer, "{message}"),
        }
        self.events.push(event.into());
    }

    // ---- what comes in ------------------------------------------------------

    fn kernel_event(&mut self, event: KernelEvent) {
        match event {
            KernelEvent::Applied { group, generation, result } => {
                self.handle(Input::Applied { group, generation, result });
            }
            KernelEvent::Stale { group, generation, waited } => {
                self.handle(Input::Stale { group, generation, waited });
            }
            KernelEvent::Restored { group, addresses } => {
                let addresses = addresses.iter().map(|a| a.address()).collect();
                self.handle(Input::Restored { group, addresses });
            }
            KernelEvent::Lost { group, reason, .. } => self.handle(Input::Lost { group, reason }),
            KernelEvent::Evicted { group, copies } => {
                let copies =
                    copies.iter().map(|(interface, address)| format!("{address} on {interface}")).collect();
                self.handle(Input::Evicted { group, copies });
            }
            KernelEvent::Links(links) => {
                let mut came_up = false;
                for kernel::Link { index, name, mac, up, addresses } in links {
                    came_up |= self.interfaces.set(index, Interface { name, mac, up, addresses });
                }
                self.relink();
                if let Some(links) = self.sealing.as_mut().filter(|_| came_up) {
                    links.hurry(clock::now());
                }
            }
            KernelEvent::LinkRemoved { index, name: _ } => {
                self.interfaces.remove(index);
                self.sockets.close(index);
                self.announcers.remove(&index);
                self.relink();
            }
        }
    }

    fn news(&mut self, news: News) {
        self.handle(match news {
            News::Done { vrid, number, outcome } => Input::Registered { vrid, number, outcome },
            News::Changed(vrid, sight) => Input::RegisterNews { vrid, sight },
            News::Trouble(why) => Input::RegisterTrouble { why },
        });
    }

    fn report(&mut self, report: Report) {
        if report.generation == self.checker.generation() {
            let server = ServerKey { pool: report.pool, server: report.server };
            if let (Probe::Failed(_), Some((pool, server))) = (&report.probe, self.node.server_name(server)) {
                self.look_up_again(pool, server);
            }
            let Report { probe, address, began, took, .. } = report;
            let checked = Checked { began, took, address: address.map(|a| a.ip()) };
            self.handle(Input::Probe { server, probe, checked });
        }
    }

    fn resolved(&mut self, found: &Resolved) {
        if found.generation == self.resolver.generation() {
            if let Some(problem) = &found.problem {
                self.tell_unresolved(found, problem);
            }
            let server = ServerKey { pool: found.pool, server: found.server };
            let problem = found.problem.as_deref().map(str::to_owned);
            let (addresses, unfit) = (found.addresses.to_vec(), found.unfit.to_vec());
            self.handle(Input::Resolved { server, addresses, unfit, problem });
        }
    }

    fn published(&mut self, answer: Answer) {
        if let Some((generation, result)) = self.publishing.answered(answer) {
            self.handle(Input::Published { generation, result });
        }
    }

    fn tell_unresolved(&self, found: &Resolved, problem: &str) {
        let server = ServerKey { pool: found.pool, server: found.server };
        let Some((pool, server)) = self.node.server_name(server) else { return };
        let what = if found.addresses.is_empty() { "its name does not resolve" } else { NAME_PROBLEM };
        let message = format!("server {pool}/{server}: {what}: {problem}");
        self.events
            .push(api::Event::new(api::Level::Warning, EventKind::Server, message).server(pool, server));
    }

    // ---- operators ------------------------------------------------------------

    fn call(&mut self, call: Call) {
        let now = clock::now();
        // An answer that nobody waits for any more is dropped.
        match call {
            Call::Status { reply } => {
                let (stats, stores) = (self.balancer.stats(), self.publishing.states());
                let _ = reply.send(status::document(&self.known(&stats, &stores, now)));
            }
            Call::Why { subject, reply } => {
                let (stats, stores) = (self.balancer.stats(), self.publishing.states());
                let _ = reply.send(calls::why(&self.known(&stats, &stores, now), subject.as_deref()));
            }
            Call::Switchover { vip, to, reply } => {
                let begun = Switchover::begin(&mut self.node, vip, to.as_deref(), reply, now);
                self.switchovers.extend(begun);
            }
            Call::Reload { dry_run, reply } => self.reload(Some(reply), dry_run),
            Call::Maintenance { on: true, reply } => {
                let begun = Maintenance::begin(&mut self.node, reply, now);
                self.maintenances.extend(begun);
            }
            Call::Maintenance { on: false, reply } => {
                self.node.set_maintenance(false, now);
                let _ = reply.send(Ok("this node takes part again".to_owned()));
            }
            Call::Server { pool, server, state, reply } => {
                let _ = reply.send(calls::server(&mut self.node, &pool, &server, state, now));
            }
            Call::Sessions { which, reply } => calls::sessions(&self.balancer, &self.aux, which, reply),
            Call::Kill { which, reply } => calls::kill(&self.balancer, &self.aux, which, reply),
            Call::Weight { pool, server, weight, reply } => {
                let _ = reply.send(calls::weight(&mut self.node, &pool, &server, weight, now));
            }
        }
        self.drain();
    }

    fn known<'a>(
        &'a self,
        stats: &'a Stats,
        stores: &'a [DnsStoreDoc],
        now: vipd_core::time::Time,
    ) -> Known<'a> {
        Known {
            node: &self.node,
            stats,
            found: self.found.targets(),
            stores,
            links: self.sealing.as_ref(),
            etcd: self.etcd.as_ref().map(|(_, etcd)| etcd),
            config_errors: &self.config_errors,
            now,
        }
    }

    fn look_at_orders(&mut self) {
        if self.switchovers.is_empty() && self.maintenances.is_empty() {
            return;
        }
        let now = clock::now();
        let waiting = std::mem::take(&mut self.switchovers);
        self.switchovers = waiting.into_iter().filter_map(|s| s.look(&self.node, now)).collect();
        let waiting = std::mem::take(&mut self.maintenances);
        self.maintenances = waiting.into_iter().filter_map(|m| m.look(&self.node, now)).collect();
    }
}

/// A worker that hangs cannot close its sessions; the others have.
fn stalled(result: Result<(), vipd_balancer::Error>) {
    if let Err(error) = result {
        error!(%error, "sessions may stay open");
    }
}

/// Every floating address of the settings.
fn addresses(settings: &Settings) -> BTreeSet<IpAddr> {
    settings.vips.iter().flat_map(|v| v.addresses.iter().map(|a| a.address())).collect()
}

/// A configuration as the core takes it.
#[must_use]
pub fn settings(config: Config) -> Settings {
    let digests = config.digests();
    Settings {
        cluster: config.cluster,
        election: config.election,
        vips: config.vips,
        listeners: config.listeners,
        pools: config.pools,
        dns: config.dns,
        digests,
    }
}
