//! The middle of a session: bytes from each side to the other.
//!
//! A session that is waiting owns no buffer. What was read lies in the
//! worker's scratch buffer until it is written, within one poll; only what the
//! other side does not take at once is copied aside, and while it waits nothing
//! more is read from the side it came from. Bulk is spliced (`flow`, `pipe`).
//!
//! For one request and its answer that makes two reads, two writes and two
//! wake-ups: tokio's sockets forget their readiness after a read that did not
//! fill the buffer, so no read ends in `EAGAIN`.

pub(crate) use crate::flow::Buffers;
use crate::flow::{Broken, Ends, Flow};
use crate::patience::Patience;
use crate::registry::Meter;
use crate::stats::CloseCause;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::TcpStream;

/// A session's two connections while they are relayed. Resolves to the cause of its end.
#[derive(Debug)]
pub(crate) struct Relay<'a> {
    pub(crate) client: &'a mut TcpStream,
    pub(crate) server: &'a mut TcpStream,
    pub(crate) flows: Flows,
    pub(crate) patience: Patience<'a>,
    pub(crate) buffers: &'a Buffers,
    pub(crate) meter: Meter<'a>,
}

/// Both directions.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    /// From the client to the server.
    up: Flow,
    /// From the server to the client.
    down: Flow,
    /// Who ended first.
    first: Option<CloseCause>,
}

impl Flows {
    /// Whether something was said that the other side has not taken.
    pub(crate) const fn hold(&self) -> bool {
        self.up.holds() || self.down.holds()
    }
}

impl Future for Relay<'_> {
    type Output = CloseCause;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseCause> {
        let this = self.get_mut();
        let Flows { up, down, first } = &mut this.flows;
        let (mut taken_up, mut taken_down) = (0, 0);
        let (client, server, buffers) = (&mut *this.client, &mut *this.server, this.buffers);
        let ends = Ends { source: &mut *client, sink: &mut *server, buffers };
        let polled_up = up.poll(cx, ends, down.closed, &mut taken_up);
        let ends = Ends { source: server, sink: client, buffers };
        let polled_down = down.poll(cx, ends, up.closed, &mut taken_down);
        if taken_up + taken_down > 0 {
            this.meter.add(taken_up, taken_down);
        }
        let broken = match (polled_up, polled_down) {
            (Poll::Ready(Err(Broken::Source)), _) | (_, Poll::Ready(Err(Broken::Sink))) => {
                Some(CloseCause::ClientError)
            }
            (Poll::Ready(Err(Broken::Sink)), _) | (_, Poll::Ready(Err(Broken::Source))) => {
                Some(CloseCause::ServerError)
            }
            (Poll::Pending | Poll::Ready(Ok(())), Poll::Pending | Poll::Ready(Ok(()))) => None,
        };
        if let Some(cause) = broken {
            return Poll::Ready(cause);
        }
        if up.ended {
            first.get_or_insert(CloseCause::ClientClosed);
        } else if down.ended {
            first.get_or_insert(CloseCause::ServerClosed);
        }
        if up.closed && down.closed {
            return Poll::Ready(first.unwrap_or(CloseCause::ClientClosed));
        }
        let (half_closed, held) = (first.is_some(), this.flows.hold());
        let ends = (&*this.client, &*this.server);
        this.patience.poll((taken_up, taken_down), (half_closed, held), ends, cx)
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        for flow in [&mut self.flows.up, &mut self.flows.down] {
            flow.give_back(self.buffers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarm::Alarms;
    use crate::bind::Tcp;
    use crate::patience::{HALF_CLOSED, Limits};
    use crate::registry::Registry;
    use crate::shared::Shared;
    use crate::stats::Tally;
    use std::cell::RefCell;
    use std::io;
    use std::sync::Arc;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    async fn pair() -> io::Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
        Ok((near?, far?.0))
    }

    /// A client that is gone and a server that hangs: the session ends, without
    /// any idle time-out being configured.
    #[tokio::test(start_paused = true)]
    async fn a_half_closed_session_does_not_stay_for_ever() -> io::Result<()> {
        let (mut far_client, mut client) = pair().await?;
        let (_silent_server, mut server) = pair().await?;
        far_client.shutdown().await?;
        let (buffers, tally) = (Buffers::new(Arc::default()), Tally::default());
        let shared = Shared::new(tokio::sync::mpsc::channel(1).0);
        let registry = RefCell::new(Registry::new(0, 1));
        let alarms = Alarms::default();
        let tcp = Tcp { keepalive: HALF_CLOSED, user_timeout: None };
        let began = Instant::now();
        let relay = Relay {
            client: &mut client,
            server: &mut server,
            flows: Flows::default(),
            patience: Patience::new(Limits::default(), tcp, &alarms),
            buffers: &buffers,
            meter: Meter { shared: &shared, tally: &tally, registry: &registry, place: 0 },
        };
        let ended = tokio::select! {
            cause = relay => Some(cause),
            () = alarms.ring() => None,
        };
        assert_eq!(ended, Some(CloseCause::IdleTimeout));
        assert!(began.elapsed() >= HALF_CLOSED);
        Ok(())
    }
}
