//! One direction of a session.
//!
//! A direction that waits owns nothing. It copies through the worker's scratch
//! buffer; once it has moved [`BULK`] bytes in large pieces it splices through
//! a pipe that it borrows while bytes are in flight, until the pieces are small
//! again. Where no pipe is to be had it goes on copying.

use crate::descriptors::Reserve;
use crate::pipe::{Pipe, Pipes};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// The size of a worker's scratch buffer: more than a socket's receive buffer
/// holds most of the time, and small enough to stay in the processor's cache.
pub(crate) const SCRATCH: usize = 64 * 1024;

/// Pieces below this cost less to copy than to splice (docs/performance.md).
const LARGE: usize = 16 * 1024;

/// Bytes in large pieces, one after the other, that make a direction splice.
const BULK: usize = 4 * SCRATCH;

/// Pieces of one direction before other sessions have their turn.
const ROUNDS: usize = 8;

/// Buffers for the unsent that a worker keeps for the next session in need.
const SPARE: usize = 64;

/// A worker's memory for relaying.
#[derive(Debug)]
pub(crate) struct Buffers {
    scratch: RefCell<Box<[u8]>>,
    spare: RefCell<Vec<Vec<u8>>>,
    pipes: Pipes,
}

impl Buffers {
    pub(crate) fn new(reserve: Arc<Reserve>) -> Self {
        let scratch = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
        Self { scratch, spare: RefCell::default(), pipes: Pipes::new(reserve) }
    }

    /// A buffer with what one side said and the other did not take.
    fn lend(&self, unsent: &[u8]) -> Vec<u8> {
        let mut buffer = self.spare.borrow_mut().pop().unwrap_or_default();
        // A few bytes may wait for hours: no more memory than they take.
        buffer.extend_from_slice(unsent);
        buffer
    }

    fn take_back(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

/// The side on which a direction broke.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broken {
    Source,
    Sink,
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    unsent: Unsent,
    /// Bytes that came in large pieces, one after the other, up to [`BULK`].
    bulk: usize,
    /// The source has said everything.
    pub(crate) ended: bool,
    /// And so was the other side told.
    pub(crate) closed: bool,
}

/// What was taken from the source and not by the sink. While there is some,
/// nothing more is read.
#[derive(Debug, Default)]
enum Unsent {
    #[default]
    Nothing,
    /// Of the bytes, `sent` were taken since.
    Bytes {
        bytes: Vec<u8>,
        sent: usize,
    },
    Pipe(Pipe),
}

/// The ends of a direction, and what it works with.
#[derive(Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) source: &'a mut TcpStream,
    pub(crate) sink: &'a mut TcpStream,
    pub(crate) buffers: &'a Buffers,
}

impl Flow {
    /// Moves what can be moved; `taken` grows by what the sink took. Ready when
    /// the source has ended and the sink was told. As the `last` direction it
    /// leaves the telling to the closing of the sockets, which comes next.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut ends: Ends<'_>,
        last: bool,
        taken: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..ROUNDS {
            ready!(self.poll_unsent(cx, &mut ends, taken))?;
            if self.ended {
                if !last {
                    ready!(Pin::new(&mut *ends.sink).poll_shutdown(cx))
                        .map_err(|_: io::Error| Broken::Sink)?;
                }
                self.closed = true;
                return Poll::Ready(Ok(()));
            }
            let pipe = if self.bulk < BULK { None } else { ends.buffers.pipes.lend() };
            let piece = match pipe {
                Some(pipe) => ready!(self.poll_splice(cx, &mut ends, pipe))?,
                None => ready!(self.poll_copy(cx, &mut ends, taken))?,
            };
            self.ended = piece == 0;
            self.bulk = if piece < LARGE { 0 } else { BULK.min(self.bulk + piece) };
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and writes once; resolves to what was read.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        ends: &mut Ends<'_>,
        taken: &mut u64,
    ) -> Poll<Result<usize, Broken>> {
        let mut scratch = ends.buffers.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut *ends.source).poll_read(cx, &mut buffer))
            .map_err(|_: io::Error| Broken::Source)?;
        let read = buffer.filled();
        if read.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let sent = match Pin::new(&mut *ends.sink).poll_write(cx, read) {
            Poll::Ready(Ok(sent)) => sent,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Sink)),
            Poll::Pending => 0,
        };
        *taken += sent as u64;
        if sent < read.len() {
            self.unsent = Unsent::Bytes { bytes: ends.buffers.lend(&read[sent..]), sent: 0 };
        }
        Poll::Ready(Ok(read.len()))
    }

    /// Fills the pipe, and leaves the draining to [`Self::poll_unsent`];
    /// resolves to what was taken.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        ends: &mut Ends<'_>,
        mut pipe: Pipe,
    ) -> Poll<Result<usize, Broken>> {
        let filled = poll_io(cx, ends.source, Side::Source, |source| pipe.fill(source));
        match filled {
            Poll::Ready(Ok(1..)) => self.unsent = Unsent::Pipe(pipe),
            Poll::Ready(Ok(0) | Err(_)) | Poll::Pending => ends.buffers.pipes.take_back(pipe),
        }
        filled
    }

    fn poll_unsent(
        &mut self,
        cx: &mut Context<'_>,
        ends: &mut Ends<'_>,
        taken: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        match &mut self.unsent {
            Unsent::Nothing => return Poll::Ready(Ok(())),
            Unsent::Bytes { bytes, sent } => {
                while *sent < bytes.len() {
                    let n = ready!(Pin::new(&mut *ends.sink).poll_write(cx, &bytes[*sent..]));
                    let n = n.map_err(|_: io::Error| Broken::Sink)?;
                    *sent += n;
                    *taken += n as u64;
                }
            }
            Unsent::Pipe(pipe) => {
                while pipe.held() > 0 {
                    let n = ready!(poll_io(cx, ends.sink, Side::Sink, |sink| pipe.drain(sink)))?;
                    *taken += n as u64;
                }
            }
        }
        self.give_back(ends.buffers);
        Poll::Ready(Ok(()))
    }

    /// Whether the source said something that the sink has not taken.
    pub(crate) const fn holds(&self) -> bool {
        match self.unsent {
            Unsent::Nothing => false,
            Unsent::Bytes { .. } | Unsent::Pipe(_) => true,
        }
    }

    /// Gives back what it borrowed. What had not been sent is lost.
    pub(crate) fn give_back(&mut self, buffers: &Buffers) {
        match std::mem::take(&mut self.unsent) {
            Unsent::Nothing => {}
            Unsent::Bytes { bytes, .. } => buffers.take_back(bytes),
            Unsent::Pipe(pipe) => buffers.pipes.take_back(pipe),
        }
    }
}

/// Which end of a direction a socket is.
#[derive(Clone, Copy, Debug)]
enum Side {
    Source,
    Sink,
}

/// Tries a system call of our own on a tokio socket until it does not answer
/// `EAGAIN`, which must speak of this socket: its readiness is forgotten then.
fn poll_io(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    side: Side,
    mut call: impl FnMut(&TcpStream) -> io::Result<usize>,
) -> Poll<Result<usize, Broken>> {
    let (interest, broken) = match side {
        Side::Source => (Interest::READABLE, Broken::Source),
        Side::Sink => (Interest::WRITABLE, Broken::Sink),
    };
    loop {
        let readiness = match side {
            Side::Source => socket.poll_read_ready(cx),
            Side::Sink => socket.poll_write_ready(cx),
        };
        ready!(readiness).map_err(|_| broken)?;
        match socket.try_io(interest, || call(socket)) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            other => return Poll::Ready(other.map_err(|_| broken)),
        }
    }
}

#[cfg(test)]
mod tests;
