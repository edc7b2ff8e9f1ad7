//! `dnsd run`: puts the parts together, and takes them apart again.
//!
//! Threads: one a UDP socket, the writer, and this one, which runs TCP, HTTP,
//! NOTIFY and signals.

use crate::answer::Answerer;
use crate::cookie::Cookies;
use crate::served::{Served, Shared};
use crate::state::{self, StateError};
use crate::tsig::{Key, KeyError, Keys};
use crate::writer::{self, Writer};
use crate::{http, log, notify, tcp, udp};
use sd_notify::NotifyState;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{error, info, warn};
use vipd_config::Errors;
use vipd_config::dnsd::Config;

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(#[from] Errors),
    /// A key's secret is wrong.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// A zone cannot be served.
    #[error("{0}")]
    State(#[from] StateError),
    /// An address cannot be bound.
    #[error(
        "listen: {address}: {source}; does this host have the address, does another program use the port, \
         and may this user bind it (CAP_NET_BIND_SERVICE)?"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// The metrics' address cannot be bound.
    #[error("[status] http = \"{address}\": {source}; is another program using the port?")]
    Status {
        /// The address.
        address: SocketAddr,
        /// The error.
        #[source]
        source: io::Error,
    },
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

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}

fn random(error: getrandom::Error) -> Error {
    Error::System { what: "get random bytes", source: io::Error::other(error.to_string()) }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// When something that is needed cannot be had.
pub fn run(path: &Path) -> Result<(), Error> {
    log::open();
    let config = Config::load(path)?;
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    config.keys.iter().filter_map(Key::exposed).for_each(|warning| warn!("{warning}"));
    let keys = Keys::load(&config.keys)?;
    let lock = state::claim(&config.state_dir)?;
    let now = Instant::now();
    let open = |settings| state::open(&config.state_dir, settings, state::load(settings)?, now);
    let zones = config.zones.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let serving = zones.iter().map(|state| state.serving.clone()).collect::<Vec<_>>();
    let served = Served::new(serving, keys, config.rate_limit.clone());
    let shared = Arc::new(Shared::new(served, Cookies::new().map_err(random)?));
    let (writer, thread) =
        writer::start(Arc::clone(&shared), zones).map_err(system("start the writer's thread"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the runtime"))?;
    let daemon = Daemon {
        shared,
        writer: writer.clone(),
        listeners: HashMap::new(),
        notifies: JoinSet::new(),
        http: JoinSet::new(),
    };
    let result = runtime.block_on(daemon.run(config, path));
    writer.stop();
    if thread.join().is_err() {
        error!("the writer's thread panicked");
    }
    drop(lock);
    result
}

/// What serves one address.
struct Listener {
    stop: Arc<AtomicBool>,
    tcp: tokio::task::JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tcp.abort();
    }
}

struct Daemon {
    shared: Arc<Shared>,
    writer: Writer,
    listeners: HashMap<SocketAddr, Listener>,
    notifies: JoinSet<()>,
    http: JoinSet<()>,
}

impl Daemon {
    async fn run(mut self, config: Config, path: &Path) -> Result<(), Error> {
        let mut terminate = signal(SignalKind::terminate()).map_err(system("wait for SIGTERM"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("wait for SIGINT"))?;
        let mut hangup = signal(SignalKind::hangup()).map_err(system("wait for SIGHUP"))?;
        let metrics = self.bind_status(&config, None).await?;
        self.listen(&config.listen)?;
        self.attend(&config, metrics);
        let mut config = config;
        info!(addresses = config.listen.len(), zones = config.zones.len(), "ready");
        told(&[NotifyState::Ready]);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    if let Ok(now) = NotifyState::monotonic_usec_now() {
                        told(&[NotifyState::Reloading, now]);
                    }
                    match self.reload(&config, path).await {
                        Ok(new) => config = new,
                        Err(error) => {
                            self.shared.was_reloaded(Err(error.to_string()));
                            error!("not reloaded, what was served before goes on: {error}");
                        }
                    }
                    told(&[NotifyState::Ready]);
                }
            }
        }
        info!("stopping");
        told(&[NotifyState::Stopping]);
        Ok(())
    }

    async fn reload(&mut self, old: &Config, path: &Path) -> Result<Config, Error> {
        let new = Config::load(path)?;
        new.warnings.iter().for_each(|warning| warn!("{warning}"));
        new.keys.iter().filter_map(Key::exposed).for_each(|warning| warn!("{warning}"));
        if new.state_dir != old.state_dir {
            warn!("state-dir changed: that takes a restart");
        }
        let new = Config { state_dir: old.state_dir.clone(), ..new };
        let keys = Keys::load(&new.keys)?;
        let metrics = self.bind_status(&new, Some(old)).await?;
        self.listen(&new.listen)?;
        if let Err(error) = self.writer.reload(new.clone(), keys).await {
            self.listeners.retain(|address, _| old.listen.contains(address));
            return Err(error.into());
        }
        self.listeners.retain(|address, _| new.listen.contains(address));
        self.attend(&new, metrics);
        self.shared.was_reloaded(Ok(()));
        info!(addresses = new.listen.len(), zones = new.zones.len(), "reloaded");
        Ok(new)
    }

    /// The address of the metrics, if it is a new one.
    async fn bind_status(&self, new: &Config, old: Option<&Config>) -> Result<Option<TcpListener>, Error> {
        let address = new.status.filter(|address| old.and_then(|old| old.status) != Some(*address));
        let Some(address) = address else { return Ok(None) };
        let bound = TcpListener::bind(address).await;
        bound.map(Some).map_err(|source| Error::Status { address, source })
    }

    /// Starts what runs beside the answers: NOTIFY, metrics.
    fn attend(&mut self, config: &Config, metrics: Option<TcpListener>) {
        self.shared.listen.store(Arc::new(config.listen.clone()));
        self.notifies.abort_all();
        for serving in self.shared.served.load().zones() {
            for secondary in &serving.settings.notify {
                let own = config.listen.clone();
                self.notifies.spawn(notify::tell(Arc::clone(&self.shared), serving.clone(), *secondary, own));
            }
        }
        if metrics.is_some() || config.status.is_none() {
            self.http.abort_all();
        }
        if let Some(listener) = metrics {
            self.http.spawn(http::serve(listener, Arc::clone(&self.shared)));
        }
    }

    /// Serves the addresses that are not served yet; all or none of them.
    fn listen(&mut self, addresses: &[SocketAddr]) -> Result<(), Error> {
        let mut fresh = Vec::new();
        for address in addresses.iter().filter(|address| !self.listeners.contains_key(address)) {
            let listener = self.listener(*address)?;
            fresh.push((*address, listener));
        }
        self.listeners.extend(fresh);
        Ok(())
    }

    fn listener(&self, address: SocketAddr) -> Result<Listener, Error> {
        let bind = |source| Error::Bind { address, source };
        let listener = tcp::bind(address).map_err(bind)?;
        let socket = Arc::new(udp::bind(address).map_err(bind)?);
        let answerer = Answerer::new().map_err(random)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, writer, stopped) = (Arc::clone(&self.shared), self.writer.clone(), Arc::clone(&stop));
        std::thread::Builder::new()
            .name("udp".into())
            .spawn(move || udp::serve(&socket, &shared, &writer, answerer, &stopped))
            .map_err(system("start a thread"))?;
        let answerer = Answerer::new().map_err(random)?;
        let server = tcp::Server::new(Arc::clone(&self.shared), self.writer.clone(), answerer);
        Ok(Listener { stop, tcp: tokio::spawn(server.serve(listener)) })
    }
}

/// Tells systemd; without it this does nothing.
fn told(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot tell systemd");
    }
}
