//! The load: clients, and the servers that answer them, in one loop on one
//! thread, so that next to nothing is spent on anything but system calls.

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A request, and its answer.
pub const MESSAGE: usize = 200;
/// What a server of bulk offers to its socket at once.
const BLOCK: usize = 256 * 1024;
/// More than one wake-up brings at the most connections that are measured.
const EVENTS: usize = 512;
/// Nothing that works takes as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the clients do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// Each sends a request, waits for its answer, and sends the next.
    Ask,
    /// Each connects, sends a request, waits for its answer, closes, and connects anew.
    Connect,
    /// Each sends a request, takes its answer, and is silent from then on.
    Rest,
    /// Each reads what its server sends without end.
    Read,
    /// Each connects, takes the first word of its server, closes, and connects anew.
    Greeting,
}

/// What was done in a while.
#[derive(Debug, Default)]
pub struct Done {
    /// Answers that arrived whole.
    pub answers: u64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Time from each request (for [`Work::Connect`] and [`Work::Greeting`]: from
    /// its connect) to its answer, in nanoseconds.
    pub latencies: Vec<u64>,
}

/// One end of a connection.
#[derive(Debug)]
struct End {
    stream: TcpStream,
    client: bool,
    /// Bytes of the answer that are still to come.
    due: usize,
    began: Instant,
}

/// Clients and servers.
#[derive(Debug)]
pub struct Load {
    epoll: Epoll,
    work: Work,
    proxy: SocketAddr,
    /// The servers' sockets; their positions are their events' numbers.
    servers: Vec<TcpListener>,
    /// Connections; their positions after those of the servers are their events' numbers.
    ends: Vec<Option<End>>,
    free: Vec<usize>,
    block: Vec<u8>,
    done: Done,
    accepted: u64,
}

impl Load {
    /// Servers at these places, for clients of `proxy`.
    ///
    /// # Errors
    /// If a place cannot be had.
    pub fn new(work: Work, proxy: SocketAddr, servers: &[SocketAddr]) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll")?;
        let servers = servers.iter().map(|a| listen(*a)).collect::<Result<Vec<_>>>()?;
        for (number, server) in (0..).zip(&servers) {
            epoll
                .add(server, EpollEvent::new(EpollFlags::EPOLLIN, number))
                .context("cannot watch a server")?;
        }
        let (ends, free, done) = (Vec::new(), Vec::new(), Done::default());
        Ok(Self { epoll, work, proxy, servers, ends, free, block: vec![7; BLOCK], done, accepted: 0 })
    }

    /// Connects this many clients, and lets each do its work.
    ///
    /// # Errors
    /// If the proxy does not take them.
    pub fn connect(&mut self, clients: usize) -> Result<()> {
        for n in 0..clients {
            self.start_client()?;
            // The proxy's queue holds a few thousand; nobody waits for more than some.
            if n % 64 == 63 {
                self.turn()?;
            }
        }
        Ok(())
    }

    /// Goes on for `time`, and tells what was done in it.
    ///
    /// # Errors
    /// If a connection fails.
    pub fn run(&mut self, time: Duration) -> Result<Done> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn()?;
        }
        Ok(std::mem::take(&mut self.done))
    }

    /// Connections that the servers have accepted so far.
    #[must_use]
    pub const fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Goes on until this many answers have arrived since the start.
    ///
    /// # Errors
    /// If a connection fails, or they do not arrive in time.
    pub fn until(&mut self, answers: u64) -> Result<()> {
        let began = Instant::now();
        while self.done.answers < answers {
            self.turn()?;
            ensure!(began.elapsed() < PATIENCE, "{} of {answers} answers arrived", self.done.answers);
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.epoll.wait(&mut events, EpollTimeout::from(10_u8)).context("cannot wait")?;
        for event in &events[..count] {
            let number = usize::try_from(event.data()).context("not a number of ours")?;
            match number.checked_sub(self.servers.len()) {
                None => self.accept(number)?,
                Some(at) => self.serve(at, event.events()).with_context(|| format!("{:?}", self.work))?,
            }
        }
        Ok(())
    }

    fn accept(&mut self, server: usize) -> Result<()> {
        let (stream, _) = self.servers[server].accept().context("a server cannot accept")?;
        self.accepted += 1;
        let mut flags = EpollFlags::EPOLLIN;
        if self.work == Work::Read {
            stream.set_nonblocking(true)?;
            flags |= EpollFlags::EPOLLOUT;
        }
        self.add(End { stream, client: false, due: 0, began: Instant::now() }, flags)
    }

    /// A blocking connect does not wait on loopback, and needs one system call.
    fn start_client(&mut self) -> Result<()> {
        let began = Instant::now();
        let mut stream = TcpStream::connect(self.proxy).context("cannot connect to the proxy")?;
        match self.work {
            Work::Ask | Work::Connect | Work::Rest => stream.write_all(&self.block[..MESSAGE])?,
            Work::Read | Work::Greeting => {}
        }
        self.add(End { stream, client: true, due: MESSAGE, began }, EpollFlags::EPOLLIN)
    }

    fn add(&mut self, end: End, flags: EpollFlags) -> Result<()> {
        let at = self.free.pop().unwrap_or_else(|| {
            self.ends.push(None);
            self.ends.len() - 1
        });
        let number = u64::try_from(self.servers.len() + at)?;
        self.epoll.add(&end.stream, EpollEvent::new(flags, number)).context("cannot watch a connection")?;
        self.ends[at] = Some(end);
        Ok(())
    }

    fn end(&mut self, at: usize) {
        self.ends[at] = None;
        self.free.push(at);
    }

    fn serve(&mut self, at: usize, flags: EpollFlags) -> Result<()> {
        let Some(end) = self.ends[at].as_mut() else { return Ok(()) };
        if end.client {
            return self.client(at);
        }
        if flags.contains(EpollFlags::EPOLLIN) {
            let read = end.stream.read(&mut self.block).unwrap_or(0);
            if read == 0 {
                self.end(at);
                return Ok(());
            }
            end.stream.write_all(&self.block[..read]).context("a server cannot answer")?;
        } else if flags.contains(EpollFlags::EPOLLOUT) {
            match end.stream.write(&self.block) {
                Err(e) if e.kind() != ErrorKind::WouldBlock => self.end(at),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn client(&mut self, at: usize) -> Result<()> {
        let Some(end) = self.ends[at].as_mut() else { return Ok(()) };
        let read = match self.work {
            // Bytes that nobody looks at need not be copied (tcp(7): MSG_TRUNC).
            Work::Read => discard(&end.stream)?,
            Work::Ask | Work::Connect | Work::Rest => end.stream.read(&mut self.block[..MESSAGE])?,
            Work::Greeting => end.stream.read(&mut self.block)?,
        };
        ensure!(read > 0, "the proxy closed a connection");
        self.done.bytes += read as u64;
        if self.work == Work::Read {
            return Ok(());
        }
        end.due = end.due.saturating_sub(read);
        // A greeting is short, and comes as one.
        if end.due > 0 && self.work != Work::Greeting {
            return Ok(());
        }
        let now = Instant::now();
        self.done.answers += 1;
        self.done.latencies.push(u64::try_from(now.duration_since(end.began).as_nanos())?);
        match self.work {
            Work::Connect | Work::Greeting => {
                self.end(at);
                return self.start_client();
            }
            Work::Rest => return Ok(()),
            Work::Ask | Work::Read => {}
        }
        (end.due, end.began) = (MESSAGE, now);
        end.stream.write_all(&self.block[..MESSAGE]).context("a client cannot send")
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into()).with_context(|| format!("cannot listen on {address}"))?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn discard(stream: &TcpStream) -> Result<usize> {
    use nix::sys::socket::{MsgFlags, recv};
    use std::os::fd::AsRawFd;
    // The kernel writes nothing into the buffer; its length is what is thrown away.
    let mut buffer = [0; BLOCK];
    Ok(recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?)
}
