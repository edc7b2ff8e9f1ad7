//! The middle of a session: bytes from each side to the other.
//!
//! A session that is waiting owns no buffer. What was read lies in the
//! worker's scratch buffer until it is written, within one poll; only what the
//! other side does not take at once is copied aside, and while it waits nothing
//! more is read from the side it came from.
//!
//! For one request and its answer that makes two reads, two writes and two
//! wake-ups: tokio's sockets forget their readiness after a read that did not
//! fill the buffer, so no read ends in `EAGAIN`.

use crate::patience::Patience;
use crate::registry::Meter;
use crate::stats::CloseCause;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The size of a worker's scratch buffer: more than a socket's receive buffer
/// holds most of the time, and small enough to stay in the processor's cache.
pub(crate) const SCRATCH: usize = 64 * 1024;

/// Reads of one direction before other sessions have their turn.
const ROUNDS: usize = 8;

/// Buffers for the unsent that a worker keeps for the next session in need.
const SPARE: usize = 64;

/// A worker's memory for relaying.
#[derive(Debug)]
pub(crate) struct Buffers {
    scratch: RefCell<Box<[u8]>>,
    spare: RefCell<Vec<Vec<u8>>>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()), spare: RefCell::default() }
    }
}

impl Buffers {
    fn lend(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(SCRATCH))
    }

    fn take_back(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if buffer.capacity() > 0 && spare.len() < SPARE {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

/// A session's two connections while they are relayed. Resolves to the cause of its end.
#[derive(Debug)]
pub(crate) struct Relay<'a, 'p> {
    pub(crate) client: &'a mut TcpStream,
    pub(crate) server: &'a mut TcpStream,
    pub(crate) flows: Flows,
    pub(crate) patience: &'a mut Patience<'p>,
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

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    /// What was read and not taken by the other side; of it, `sent` bytes were taken since.
    unsent: Vec<u8>,
    sent: usize,
    /// The source has said everything.
    ended: bool,
    /// And so was the other side told.
    closed: bool,
}

/// The side on which a direction broke.
#[derive(Clone, Copy, Debug)]
enum Broken {
    Source,
    Sink,
}

impl Future for Relay<'_, '_> {
    type Output = CloseCause;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseCause> {
        let this = self.get_mut();
        let Flows { up, down, first } = &mut this.flows;
        let (mut taken_up, mut taken_down) = (0, 0);
        let polled_up = up.poll(cx, this.client, this.server, this.buffers, down.closed, &mut taken_up);
        let polled_down = down.poll(cx, this.server, this.client, this.buffers, up.closed, &mut taken_down);
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
        this.patience.poll((taken_up, taken_down), first.is_some(), this.server, cx)
    }
}

impl Drop for Relay<'_, '_> {
    fn drop(&mut self) {
        for flow in [&mut self.flows.up, &mut self.flows.down] {
            self.buffers.take_back(std::mem::take(&mut flow.unsent));
        }
    }
}

impl Flow {
    /// Moves what can be moved; `taken` grows by what the sink took. Ready when
    /// the source has ended and the sink was told. As the `last` direction it
    /// leaves the telling to the closing of the sockets, which comes next.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        sink: &mut TcpStream,
        buffers: &Buffers,
        last: bool,
        taken: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = buffers.scratch.borrow_mut();
        for _ in 0..ROUNDS {
            ready!(self.poll_unsent(cx, sink, buffers, taken))?;
            if self.ended {
                if !last {
                    ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(|_: io::Error| Broken::Sink)?;
                }
                self.closed = true;
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut *source).poll_read(cx, &mut buffer))
                .map_err(|_: io::Error| Broken::Source)?;
            let read = buffer.filled();
            if read.is_empty() {
                self.ended = true;
                continue;
            }
            let sent = match Pin::new(&mut *sink).poll_write(cx, read) {
                Poll::Ready(Ok(sent)) => sent,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Sink)),
                Poll::Pending => 0,
            };
            *taken += sent as u64;
            if sent < read.len() {
                self.unsent = buffers.lend();
                self.unsent.extend_from_slice(&read[sent..]);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_unsent(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut TcpStream,
        buffers: &Buffers,
        taken: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        while self.sent < self.unsent.len() {
            let sent = ready!(Pin::new(&mut *sink).poll_write(cx, &self.unsent[self.sent..]));
            let sent = sent.map_err(|_: io::Error| Broken::Sink)?;
            self.sent += sent;
            *taken += sent as u64;
        }
        if self.sent > 0 {
            self.sent = 0;
            buffers.take_back(std::mem::take(&mut self.unsent));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarm::Alarms;
    use crate::bind::Tcp;
    use crate::patience::{HALF_CLOSED, Limits};
    use crate::registry::Registry;
    use crate::stats::Tally;
    use std::cell::RefCell;
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
        let (buffers, tally) = (Buffers::default(), Tally::default());
        let registry = RefCell::new(Registry::new(0, 1));
        let alarms = Alarms::default();
        let tcp = Tcp { keepalive: HALF_CLOSED, user_timeout: HALF_CLOSED };
        let began = Instant::now();
        let relay = Relay {
            client: &mut client,
            server: &mut server,
            flows: Flows::default(),
            patience: &mut Patience::new(Limits::default(), tcp, &alarms),
            buffers: &buffers,
            meter: Meter { tally: &tally, registry: &registry, place: 0 },
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
