//! The quorum lease's keys in etcd: carries out what the node orders, and
//! tells it what changes.
//!
//! It talks to the JSON gateway that every etcd since 3.4 serves beside gRPC,
//! on the same port: transactions, linearizable reads, and a watch. The leases
//! of etcd itself are not used: a leader that was replaced while it stood
//! still may renew or revoke them on its own (etcd's issues 12528 and 15247),
//! while the keys are only changed by what a majority of it has agreed to.
//!
//! Everything runs on a thread of its own; no load of other parts delays the
//! renewal of a lease.

mod client;
mod key;
mod member;
pub(crate) mod prove;
#[cfg(test)]
mod tests;
mod watch;

use crate::check::password::{PasswordError, PasswordFile};
use crate::check::tls::TlsError;
use client::Client;
use hyper::StatusCode;
use std::error::Error as _;
use std::io;
use std::num::NonZeroU8;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use vipd_config::Etcd as Settings;
use vipd_core::lease::register::{Operation, Outcome, Sight};

/// What a member says whose database has no room left.
pub(crate) const FULL: &str = "its database is full (NOSPACE): it takes no write until it is compacted and defragmented \
                               and the alarm is disarmed; `vipctl doctor` prints how";

/// Orders and news that may wait: a group has one operation under way, and
/// there are 255 groups.
const WAITING: usize = 1024;

/// What to do with a group's key.
#[derive(Debug)]
pub struct Order {
    /// The group's VRID.
    pub vrid: NonZeroU8,
    /// The operation's number.
    pub number: u64,
    /// What to do.
    pub operation: Operation,
}

/// What the node is told.
#[derive(Debug)]
pub enum News {
    /// An operation has come to something.
    Done {
        /// The group's VRID.
        vrid: NonZeroU8,
        /// The operation's number.
        number: u64,
        /// What it has come to.
        outcome: Outcome,
    },
    /// A key is like this now.
    Changed(NonZeroU8, Sight),
    /// etcd does not answer, by endpoint why; or does so again.
    Trouble(Option<String>),
}

/// A member of etcd, as it was found since the start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MemberStatus {
    /// Its endpoint, as the settings write it.
    pub endpoint: String,
    /// Requests that it carried out.
    pub answers: u64,
    /// Requests that it did not.
    pub failures: u64,
    /// How long the last one that it carried out took.
    pub round_trip: Option<Duration>,
    /// Why it did not carry out the last one.
    pub problem: Option<String>,
}

/// Why a member did not do what it was asked.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error("{}", crate::words(.0))]
    Connect(#[source] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Http(String),
    #[error("no answer within {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("its answer is not etcd's: {0}")]
    Answer(String),
    #[error("the token of the login is of no use any more")]
    Token,
    #[error("{0}")]
    Refused(String),
    #[error("it is of another etcd cluster ({0:x}) than the one that answered before ({1:x})")]
    OtherCluster(u64, u64),
    #[error(transparent)]
    Password(#[from] PasswordError),
}

impl Failure {
    /// What etcd says beside a status that is no success.
    fn refused(status: StatusCode, body: &[u8]) -> Self {
        let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let said = json["error"].as_str().or_else(|| json["message"].as_str()).unwrap_or_default();
        // The gateway itself answers in plain text.
        let plain = String::from_utf8_lossy(body.get(..200).unwrap_or(body));
        let said = if said.is_empty() { plain.trim() } else { said };
        let said = said.strip_prefix("etcdserver: ").unwrap_or(said);
        if status == StatusCode::UNAUTHORIZED
            || said.contains("auth token")
            || said.contains("auth store is old")
        {
            return Self::Token;
        }
        if said.contains("CommonName of client") {
            let why = "with authentication its gateway takes only client certificates without a common name: \
                       put one that has none into tls-cert-file";
            return Self::Refused(why.to_owned());
        }
        Self::Refused(match said {
            _ if status == StatusCode::NOT_FOUND => {
                "there is no /v3 here: etcd 3.4 or newer with its gRPC gateway is needed".to_owned()
            }
            "" => format!("status {status}"),
            "user name is empty" => "it asks for a login: set user and password-file in [etcd]".to_owned(),
            "mvcc: database space exceeded" => FULL.to_owned(),
            "permission denied" => {
                "permission denied: the user's role needs readwrite on the prefix".to_owned()
            }
            said => said.to_owned(),
        })
    }
}

/// Hyper's errors, with what lies behind them.
fn words(error: &hyper::Error) -> String {
    let Some(source) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) else {
        return error.to_string();
    };
    // With TLS 1.3 a server judges its client's certificate after the handshake.
    match source.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => {
            format!(
                "it asks for a certificate of this host, or for another: tls-cert-file in [etcd] ({alert:?})"
            )
        }
        Some(_) | None => crate::words(source),
    }
}

/// The file of a password that everybody may read.
#[derive(Debug, Error)]
#[error("password-file {path} of [etcd] can be read by everybody: chmod o= {path}")]
pub struct Exposed {
    path: String,
}

/// Whether the settings can be used on this host.
///
/// # Errors
/// If the password's file can be read by everybody. One that is missing may
/// come yet, and is told with the first login.
pub fn inspect(settings: &Settings) -> Result<(), Exposed> {
    use std::os::unix::fs::PermissionsExt as _;
    let exposed = |file: &Path| file.metadata().is_ok_and(|m| m.permissions().mode() & 0o007 != 0);
    match &settings.login {
        Some((_, file)) if exposed(file) => Err(Exposed { path: file.display().to_string() }),
        Some(_) | None => Ok(()),
    }
}

/// The way to etcd. Dropping it ends what is under way.
#[derive(Debug)]
pub struct Etcd {
    orders: mpsc::Sender<Order>,
    client: Arc<Client>,
}

impl Etcd {
    /// Starts to watch the keys of a cluster, and to take orders. The lease
    /// says how long an answer is of use.
    ///
    /// # Errors
    /// If the system has no thread or event loop for it.
    pub fn start(
        settings: &Settings,
        cluster: &str,
        lease: Duration,
    ) -> io::Result<(Self, mpsc::Receiver<News>)> {
        let (orders, orders_in) = mpsc::channel(WAITING);
        let (news, news_in) = mpsc::channel(WAITING);
        let client = Arc::new(Client::new(settings, cluster, lease, news.clone()));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("etcd".to_owned());
        let serving = Arc::clone(&client);
        thread.spawn(move || {
            runtime.block_on(serve(serving, orders_in, news));
            runtime.shutdown_background();
        })?;
        Ok((Self { orders, client }, news_in))
    }

    /// Each member, in the order of the settings.
    #[must_use]
    pub fn members(&self) -> Vec<MemberStatus> {
        self.client.status()
    }

    /// Orders something. There is room for what can be under way.
    pub fn order(&self, order: Order) {
        if self.orders.try_send(order).is_err() {
            tracing::error!("an order for etcd is lost: its thread has ended");
        }
    }
}

async fn serve(client: Arc<Client>, mut orders: mpsc::Receiver<Order>, news: mpsc::Sender<News>) {
    tokio::spawn(watch::watch(Arc::clone(&client), news.clone()));
    tokio::spawn({
        let client = Arc::clone(&client);
        async move {
            loop {
                client.look_at_idle().await;
                tokio::time::sleep(client::LOOK).await;
            }
        }
    });
    while let Some(Order { vrid, number, operation }) = orders.recv().await {
        let (client, news) = (Arc::clone(&client), news.clone());
        tokio::spawn(async move {
            let outcome = client.carry_out(vrid, &operation).await;
            // If nobody takes it, the loop has ended.
            let _ = news.send(News::Done { vrid, number, outcome }).await;
        });
    }
}
