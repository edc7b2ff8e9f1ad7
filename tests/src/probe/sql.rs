//! Applications that write to and read from a database through the floating IP.

use super::answers::Answers;
use crate::lab::process::lock;
use crate::lab::{Host, mariadb};
use anyhow::{Context, Result};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder};
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A statement or a connection that takes longer is given up, as a driver with
/// sensible time-outs does.
const PATIENCE: Duration = Duration::from_millis(300);

/// What an application does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// Inserts a row a turn, and knows which were acknowledged.
    Write,
    /// Reads.
    Read,
}

/// An application: one connection at a time, opened anew when it breaks. An
/// answer's `by` is the server's number, as `db1`.
#[derive(Debug)]
pub struct SqlClient {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    answers: Answers,
    acknowledged: Mutex<Vec<u64>>,
    connections: AtomicU64,
    stop: AtomicBool,
}

impl SqlClient {
    /// Starts one on a host. It stops when dropped.
    #[must_use]
    pub fn start(host: &Host, target: SocketAddr, work: Work, every: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = host.thread(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("cannot start a runtime")?.block_on(run(&own, target, work, every));
            Ok(())
        });
        Self { shared, thread: Some(thread) }
    }

    /// The numbers of the rows whose insertion was acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> Vec<u64> {
        lock(&self.shared.acknowledged).clone()
    }

    /// How many connections it has opened.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Ends it after its current statement.
    ///
    /// # Errors
    /// If it could not even start.
    pub fn stop(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Deref for SqlClient {
    type Target = Answers;

    fn deref(&self) -> &Answers {
        &self.shared.answers
    }
}

impl Drop for SqlClient {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

async fn run(shared: &Shared, target: SocketAddr, work: Work, every: Duration) {
    let options: Opts = OptsBuilder::default()
        .ip_or_hostname(target.ip().to_string())
        .tcp_port(target.port())
        .user(Some(mariadb::APP_USER))
        .pass(Some(mariadb::PASSWORD))
        .db_name(Some("app"))
        .prefer_socket(false)
        .tcp_nodelay(true)
        .into();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut connection: Option<Conn> = None;
    let mut row = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        if connection.is_none() {
            connection =
                tokio::time::timeout(PATIENCE, Conn::new(options.clone())).await.ok().and_then(Result::ok);
            if connection.is_some() {
                shared.connections.fetch_add(1, Ordering::Relaxed);
            }
        }
        let Some(open) = connection.as_mut() else { continue };
        // A row that was not acknowledged may be there or not: never the same number again.
        row += 1;
        match tokio::time::timeout(PATIENCE, turn(open, work, row)).await {
            Ok(Ok(server)) => {
                if work == Work::Write {
                    lock(&shared.acknowledged).push(row);
                }
                shared.answers.push(&format!("db{server}").into());
            }
            Ok(Err(_)) | Err(_) => connection = None,
        }
    }
}

async fn turn(connection: &mut Conn, work: Work, row: u64) -> mysql_async::Result<u32> {
    if work == Work::Write {
        connection.query_drop(format!("INSERT INTO t VALUES ({row}, 'written by the demo')")).await?;
    }
    Ok(connection.query_first("SELECT @@server_id").await?.unwrap_or_default())
}
