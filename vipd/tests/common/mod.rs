//! A daemon that answers on a real socket and decides nothing.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc::Receiver;
use vipd::control::api::{Moved, Response, SOCKET, SessionsDoc, StatusDoc, Which};
use vipd::control::call::{self, Call, Refusal};
use vipd::control::events::EventLog;
use vipd::control::http::Token;
use vipd::control::instance::Instance;
use vipd::control::{http, server};

/// What the daemon says of itself.
pub(crate) const STATUS: &str = r#"{"cluster":"orders","node":"px1","version":"0.1.0",
 "vips":[{"name":"main","addresses":["192.0.2.100/24"],"state":"active","owner":"px1","priority":200,"since":"2026-11-20T12:00:00Z","why":"px2 let go of it"}],
 "peers":[{"name":"px2","address":"192.0.2.12","state":"backup","last-heard-ms":12,"config-match":true}],
 "listeners":[{"name":"write","bind":"192.0.2.100:3306","sessions":3,"total":120,"bytes-in":1,"bytes-out":2}],
 "pools":[{"name":"primary","servers":[{"name":"db1","address":"192.0.2.21:3306","state":"up","role":"primary","lag-ms":null,"sessions":3,"why":"answers"}]}],
 "dns":[]}"#;

/// Its sessions.
pub(crate) const SESSIONS: &str = r#"{"sessions":[
 {"id":17,"listener":"write","client":"192.0.2.7:40000","pool":"primary","server":"db1","state":"relaying",
  "age-ms":3700000,"idle-ms":250,"bytes-in":1200,"bytes-out":3400000},
 {"id":18,"listener":"write","client":"192.0.2.8:40000","pool":null,"server":null,"state":"queued",
  "age-ms":12,"idle-ms":12,"bytes-in":0,"bytes-out":0}],"left-out":0}"#;

/// Longer than any answer here takes, so that a lost one fails the test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(20);

/// The daemon; it ends when dropped.
pub(crate) struct Fake {
    pub(crate) dir: TempDir,
    pub(crate) http: std::net::SocketAddr,
    log: Option<EventLog>,
    orders: std_mpsc::Receiver<String>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        Self::with(None, status())
    }

    /// With a secret for the pages, and a state of its own.
    pub(crate) fn with(token: Option<Token>, status: StatusDoc) -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let runtime_dir = dir.path().to_owned();
        let (ordered, orders) = std_mpsc::channel();
        let (started, start) = std_mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(daemon(&runtime_dir, &started, &ordered, token, status));
        });
        let (http, log) = start.recv_timeout(PATIENCE).expect("the daemon starts");
        Self { dir, http, log: Some(log), orders, thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }

    pub(crate) fn log(&self) -> &EventLog {
        self.log.as_ref().expect("it runs")
    }

    /// Ends the daemon, and waits until it has.
    pub(crate) fn stop(&mut self) {
        self.log = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic in the daemon");
        }
    }

    /// The orders that came, oldest first.
    pub(crate) fn orders(&self) -> Vec<String> {
        self.orders.try_iter().collect()
    }

    pub(crate) fn connect(&self) -> Talk {
        let stream = UnixStream::connect(self.socket()).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a valid time-out");
        Talk(BufReader::new(stream))
    }

    /// All responses to one line.
    pub(crate) fn ask(&self, line: &[u8]) -> Vec<Response> {
        let mut talk = self.connect();
        talk.send(line);
        std::iter::from_fn(|| talk.next()).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A connection to the daemon.
pub(crate) struct Talk(BufReader<UnixStream>);

impl Talk {
    pub(crate) fn send(&mut self, line: &[u8]) {
        // A daemon that has had enough closes before all is written.
        let _ = self.0.get_mut().write_all(line);
    }

    pub(crate) fn next(&mut self) -> Option<Response> {
        let mut line = Vec::new();
        match self.0.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(Response::from_line(&line).expect("a response")),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("the daemon said nothing: {error}"),
        }
    }
}

async fn daemon(
    runtime_dir: &Path,
    started: &std_mpsc::Sender<(std::net::SocketAddr, EventLog)>,
    ordered: &std_mpsc::Sender<String>,
    token: Option<Token>,
    status: StatusDoc,
) {
    let (calls, receiver) = call::channel();
    let (log, store) = EventLog::new();
    let instance = Instance::claim(runtime_dir).expect("the only daemon here");
    let socket = instance.listen().expect("a free place");
    let http = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = http.local_addr().expect("bound");
    started.send((address, log)).expect("the test waits");
    let web = http::Web::new(calls.clone(), store.subscriptions(), token);
    tokio::select! {
        ended = server::serve(socket, calls, store) => ended.expect("a working socket"),
        () = http::serve(http, web) => {}
        () = decide(receiver, ordered, &status) => {}
    }
}

async fn decide(mut calls: Receiver<Call>, ordered: &std_mpsc::Sender<String>, status: &StatusDoc) {
    // Callers may have gone, and tests need not look at the orders.
    let note = |order: String| ordered.send(order).unwrap_or(());
    while let Some(call) = calls.recv().await {
        match call {
            Call::Status { reply } => drop(reply.send(status.clone())),
            Call::Why { subject, reply } => drop(reply.send(match subject.as_deref() {
                None | Some("main") => Ok("main is here: px2 let go of it\nand nobody else wants it".into()),
                Some(other) => Err(Refusal(format!("there is no VIP and no server {other}"))),
            })),
            Call::Switchover { vip, to, reply } => {
                note(format!("switchover {vip:?} {to:?}"));
                drop(reply.send(match to.as_deref() {
                    Some("px3") => Err(Refusal("px3 was not heard for 4s".into())),
                    to => Ok(vec![Moved {
                        vip: vip.unwrap_or_else(|| "main".into()),
                        from: "px1".into(),
                        owner: to.unwrap_or("px2").into(),
                        took_us: 2_345,
                    }]),
                }));
            }
            Call::Reload { dry_run, reply } => {
                note(format!("reload{}", if dry_run { " dry" } else { "" }));
                drop(reply.send(Err(Refusal("vipd.toml:1:1: error: one\nvipd.toml:2:1: error: two".into()))));
            }
            Call::Maintenance { on, reply } => {
                note(format!("maintenance {on}"));
                drop(reply.send(Ok(format!("maintenance {}", if on { "on" } else { "off" }))));
            }
            Call::Sessions { which, reply } => drop(reply.send(sessions(&which))),
            Call::Kill { which, reply } => {
                note(format!("kill {which:?}"));
                drop(reply.send(sessions(&which).map(|doc| format!("reset {}", doc.sessions.len()))));
            }
            Call::Weight { pool, server, weight, reply } => {
                note(format!("weight {pool}/{server} {weight:?}"));
                drop(reply.send(Ok(format!("{pool}/{server}: weight\nwarning: that was the last"))));
            }
            Call::Server { pool, server, state, reply } => {
                note(format!("server {pool}/{server} {state}"));
                drop(reply.send(Ok(format!("{pool}/{server} is {state}"))));
            }
        }
    }
}

/// Two sessions, of which one is of the server `primary/db1`; none of others.
fn sessions(which: &Which) -> Result<SessionsDoc, Refusal> {
    let mut doc: SessionsDoc = serde_json::from_str(SESSIONS).expect("the document above");
    match which {
        Which::All | Which::Named(_) => {}
        Which::Server { pool, server } if (&**pool, &**server) == ("primary", "db1") => {
            doc.sessions.truncate(1);
        }
        Which::Server { .. } => return Err(Refusal(format!("there is no server {which}"))),
        Which::Client(client) => doc.sessions.retain(|s| s.client.starts_with(&format!("{client}:"))),
        Which::Id(id) => doc.sessions.retain(|s| s.id == *id),
    }
    Ok(doc)
}

pub(crate) fn status() -> StatusDoc {
    serde_json::from_str(STATUS).expect("the document above")
}
