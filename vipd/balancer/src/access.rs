//! The access log: a line for each session that ends, where its listener wants
//! it. The subscriber decides where it goes, and must not wait: the line is
//! told on the worker's thread.

use crate::registry::Traffic;
use crate::session::Session;
use crate::shared::ServerTally;
use crate::stats::CloseCause;
use std::time::Duration;

/// The target by which subscribers tell these lines from the rest of the log.
pub const ACCESS_LOG: &str = "access";

/// How long a session took to get its server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// Time in a pool's queue.
    pub(crate) queued: Duration,
    /// Time until its server was connected, without that; failed attempts included.
    pub(crate) connected: Option<Duration>,
}

/// Tells of a session that ends.
pub(crate) fn tell(session: &Session, id: u64, traffic: Traffic, cause: CloseCause) {
    let Times { queued, connected } = session.times.get();
    let client = session.ends().source;
    let server = session.server();
    let (listener, name) = (session.admission.listener().name(), server.map(ServerTally::name));
    tracing::info!(
        target: ACCESS_LOG,
        id,
        listener = listener.as_str(),
        %client,
        // Who brought the client, if it did not come by itself.
        proxy = (client != session.peer).then(|| tracing::field::display(session.peer)),
        pool = server.map(|s| s.pool.as_str()),
        server = name.as_ref().map(|n| n.as_str()),
        queued_ms = %Millis(queued),
        connect_ms = connected.map(|c| tracing::field::display(Millis(c))),
        duration_ms = %Millis(session.began.elapsed()),
        bytes_in = traffic.bytes_in,
        bytes_out = traffic.bytes_out,
        %cause,
    );
}

/// Milliseconds with three decimals.
struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let us = self.0.as_micros();
        write!(f, "{}.{:03}", us / 1000, us % 1000)
    }
}
