//! Pipes, through which the kernel moves bytes from one socket to another
//! without copying them (splice(2)).
//!
//! Two traps lie here. `EAGAIN` from a splice may mean that the socket has
//! nothing or that the pipe is full, and a pipe is full when its slots are, at
//! whatever number of bytes. So a pipe is filled only when it is empty, and
//! drained only when it is not: what `EAGAIN` speaks of is then the socket.

use crate::descriptors::Reserve;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The size of a pipe: 64 pages, each of which may hold no more than one
/// packet's bytes where packets come from a network.
const SIZE: i32 = 256 * 1024;

/// What a pipe has at least. An unprivileged user whose pipes take more than
/// `fs.pipe-user-pages-soft` (64 MB) gets pipes of a page or two, which cost
/// more than copying does.
const LEAST: i32 = 64 * 1024;

/// Pipes of a worker: more directions than this are rarely in full flow on one
/// core, and those that are copy. It is 64 descriptors and at most 8 MB.
const MOST: usize = 32;

/// A pipe between two sockets.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    fn new(reserve: &Reserve) -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        if reserve.holds(&read) || reserve.holds(&write) {
            return Err(Errno::EMFILE.into());
        }
        // Beyond the soft limit it stays as it is, and its size tells.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(SIZE));
        if fcntl(&write, FcntlArg::F_GETPIPE_SZ)? < LEAST {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Self { read, write, held: 0 })
    }

    /// The bytes in it.
    pub(crate) const fn held(&self) -> usize {
        self.held
    }

    /// Takes what the socket has, into an empty pipe; 0 is the socket's end.
    pub(crate) fn fill(&mut self, source: &impl AsFd) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "EAGAIN would be ambiguous");
        self.held = splice(source, None, &self.write, None, SIZE.unsigned_abs() as usize, FLAGS)?;
        Ok(self.held)
    }

    /// Gives the socket what it takes, of a pipe that holds something.
    pub(crate) fn drain(&mut self, sink: &impl AsFd) -> io::Result<usize> {
        debug_assert_ne!(self.held, 0, "EAGAIN would be ambiguous");
        let sent = splice(&self.read, None, sink, None, self.held, FLAGS)?;
        self.held -= sent;
        Ok(sent)
    }
}

const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_MOVE.union(SpliceFFlags::SPLICE_F_NONBLOCK);

/// A worker's pipes: lent to whoever has bytes in flight.
#[derive(Debug)]
pub(crate) struct Pipes {
    reserve: Arc<Reserve>,
    spare: RefCell<Vec<Pipe>>,
    lent: Cell<usize>,
}

impl Pipes {
    pub(crate) fn new(reserve: Arc<Reserve>) -> Self {
        Self { reserve, spare: RefCell::default(), lent: Cell::new(0) }
    }

    /// An empty pipe, unless all are lent or none can be had.
    pub(crate) fn lend(&self) -> Option<Pipe> {
        if self.lent.get() == MOST {
            return None;
        }
        let spare = self.spare.borrow_mut().pop();
        let pipe = match spare.map_or_else(|| Pipe::new(&self.reserve), Ok) {
            Ok(pipe) => pipe,
            Err(error) => {
                tracing::debug!(%error, "no pipe to splice through; copying goes on");
                return None;
            }
        };
        self.lent.set(self.lent.get() + 1);
        Some(pipe)
    }

    /// What is still in it is of a session that has ended, and goes with it.
    pub(crate) fn take_back(&self, pipe: Pipe) {
        self.lent.set(self.lent.get() - 1);
        if pipe.held == 0 {
            self.spare.borrow_mut().push(pipe);
        }
    }

    /// How many are lent, and how many are not.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.lent.get(), self.spare.borrow().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn no_more_than_a_workers_share_is_lent() {
        let pipes = Pipes::new(Arc::default());
        let lent: Vec<Pipe> = std::iter::from_fn(|| pipes.lend()).collect();
        assert_eq!(lent.len(), MOST);
        lent.into_iter().for_each(|p| pipes.take_back(p));
        assert_eq!(pipes.counts(), (0, MOST));
        assert!(pipes.lend().is_some());
    }

    #[test]
    fn the_last_descriptors_are_left_to_others() {
        let pipes = Pipes::new(Arc::new(Reserve::from_descriptor(0)));
        assert!(pipes.lend().is_none());
        assert_eq!(pipes.counts(), (0, 0));
    }

    #[test]
    fn what_an_ended_session_left_reaches_nobody() -> io::Result<()> {
        let pipes = Pipes::new(Arc::default());
        let (mut near, far) = UnixStream::pair()?;
        near.write_all(b"secret")?;
        let mut pipe = pipes.lend().ok_or(io::ErrorKind::OutOfMemory)?;
        assert_eq!(pipe.fill(&far)?, 6);
        pipes.take_back(pipe);
        assert_eq!(pipes.counts(), (0, 0));
        assert_eq!(pipes.lend().map(|p| p.held()), Some(0));
        Ok(())
    }

    #[test]
    fn bytes_pass_in_order() -> io::Result<()> {
        let mut pipe = Pipe::new(&Reserve::default())?;
        let (mut client, from_client) = UnixStream::pair()?;
        let (to_server, mut server) = UnixStream::pair()?;
        from_client.set_nonblocking(true)?;
        let empty = pipe.fill(&from_client).map_err(|e| e.kind());
        assert_eq!(empty, Err(io::ErrorKind::WouldBlock));
        client.write_all(b"what is asked")?;
        assert_eq!((pipe.fill(&from_client)?, pipe.drain(&to_server)?), (13, 13));
        let mut heard = [0; 13];
        server.read_exact(&mut heard)?;
        assert_eq!(&heard, b"what is asked");
        drop(client);
        assert_eq!(pipe.fill(&from_client)?, 0);
        Ok(())
    }
}
