//! The sockets of TCP (RFC 7766).

use crate::answer::{Answerer, Outcome, Source};
use crate::message::Request;
use crate::served::{Served, Shared};
use crate::transfer;
use crate::tsig;
use crate::writer::{Reply, Writer};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::timeout;
use tracing::{debug, warn};

/// Connections served at a time on an address; more wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 256;
/// Connections of one client: of IPv6, of one network of 64 bits, for a host has
/// as many addresses as it likes there. Those count, too, that a client has
/// closed a moment ago: twenty that change the records at once need more than 32.
pub const MAX_PER_CLIENT: usize = 64;
/// Transfers at a time: each holds up to the whole zone in its messages until they are sent.
const MAX_TRANSFERS: usize = 4;
/// A connection without a request is closed after this.
const IDLE: Duration = Duration::from_secs(10);
/// The same while fewer than a quarter of the places are free: those who hold
/// connections for nothing shall not keep the updates out.
const IDLE_WHEN_FULL: Duration = Duration::from_secs(1);
/// A client that does not take a message within this is left.
const WRITE: Duration = Duration::from_secs(30);
/// The same of an answer of one message while few places are free, as for [`IDLE_WHEN_FULL`].
const WRITE_WHEN_FULL: Duration = Duration::from_secs(1);
/// Who waits longer than this for a place among the transfers is told to come again.
const TRANSFER_WAIT: Duration = Duration::from_secs(10);
/// What waits in the kernel's queue.
const BACKLOG: i32 = 512;
/// When there are no file descriptors left, they will not be back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds the listener of an address.
///
/// # Errors
///
/// When the system refuses it.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What the connections of an address share.
pub struct Server {
    shared: Arc<Shared>,
    writer: Writer,
    answerer: Mutex<Answerer>,
    clients: Mutex<HashMap<IpAddr, usize>>,
    room: Arc<Semaphore>,
    transfers: Semaphore,
}

impl Server {
    /// For an address.
    #[must_use]
    pub fn new(shared: Arc<Shared>, writer: Writer, answerer: Answerer) -> Self {
        Self {
            shared,
            writer,
            answerer: Mutex::new(answerer),
            clients: Mutex::default(),
            room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            transfers: Semaphore::new(MAX_TRANSFERS),
        }
    }

    /// Serves until the future is dropped. No error of accept(2) ends it.
    pub async fn serve(self, listener: TcpListener) {
        let server = Arc::new(self);
        let mut connections = tokio::task::JoinSet::new();
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&server.room).acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, client)) => {
                    let mut guest = Guest::enter(&server, client.ip());
                    if guest.is_none() {
                        // Some of them may be closed, and their tasks not know it yet.
                        tokio::task::yield_now().await;
                        guest = Guest::enter(&server, client.ip());
                    }
                    let Some(guest) = guest else {
                        debug!(%client, "too many connections of one client");
                        continue;
                    };
                    connections.spawn(async move {
                        if let Err(error) = guest.converse(stream).await {
                            debug!(%client, %error, "a connection ended early");
                        }
                        drop(permit);
                    });
                }
                // The client went away while it waited: the next one.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Fewer than a quarter of the places are free.
    fn is_nearly_full(&self) -> bool {
        self.room.available_permits() < MAX_CONNECTIONS / 4
    }

    /// How long a connection may be without a request.
    fn idle(&self) -> Duration {
        if self.is_nearly_full() { IDLE_WHEN_FULL } else { IDLE }
    }

    /// How long a client may take for each of so many messages.
    fn write(&self, messages: usize) -> Duration {
        if messages == 1 && self.is_nearly_full() { WRITE_WHEN_FULL } else { WRITE }
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client has its connections counted by.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => IpAddr::from(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

/// A connection, counted for its client as long as it is there.
struct Guest {
    server: Arc<Server>,
    client: IpAddr,
}

/// The answers to a request, and the right to hold a whole zone until they are sent.
type Answers<'s> = (Vec<Vec<u8>>, Option<SemaphorePermit<'s>>);

impl Drop for Guest {
    fn drop(&mut self) {
        let mut clients = self.server.clients();
        let network = network(self.client);
        if let Some(count) = clients.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&network);
            }
        }
    }
}

impl Guest {
    fn enter(server: &Arc<Server>, client: IpAddr) -> Option<Self> {
        let mut clients = server.clients();
        let count = clients.entry(network(client)).or_default();
        if *count >= MAX_PER_CLIENT {
            return None;
        }
        *count += 1;
        drop(clients);
        Some(Self { server: Arc::clone(server), client })
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        let _ = stream.set_nodelay(true);
        let mut message = Vec::new();
        loop {
            let read = timeout(self.server.idle(), read_message(&mut stream, &mut message)).await;
            if !matches!(read, Ok(Ok(true))) {
                return read.unwrap_or(Ok(false)).map(drop);
            }
            self.server.shared.metrics.tcp.add();
            let (answers, _permit) = self.answers(&message).await;
            let patience = self.server.write(answers.len());
            for answer in answers {
                timeout(patience, write_message(&mut stream, &answer)).await??;
            }
        }
    }

    async fn answers(&self, raw: &[u8]) -> Answers<'_> {
        let Server { shared, writer, answerer, .. } = &*self.server;
        let served = shared.served.load_full();
        let source = Source { address: self.client, udp: false, now: tsig::seconds() };
        let mut out = Vec::new();
        let outcome = answerer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .answer(shared, &served, raw, source, &mut out);
        match outcome {
            Outcome::Answer => (vec![out], None),
            Outcome::Silence => (vec![], None),
            Outcome::Update(signed) => {
                let (sender, receiver) = oneshot::channel();
                writer.update(raw.to_vec(), signed, self.client, Reply::Tcp(sender));
                (receiver.await.into_iter().collect(), None)
            }
            Outcome::Transfer => self.transfer(raw, &served).await,
        }
    }

    /// Only who may have the zone, and does not have it yet, takes one of the
    /// few places.
    async fn transfer(&self, raw: &[u8], served: &Served) -> Answers<'_> {
        let Server { shared, transfers, .. } = &*self.server;
        let client = self.client;
        let Ok(request) = Request::read(raw) else { return (vec![], None) };
        let granted = match transfer::admit(shared, served, &request, client) {
            Ok(granted) => granted,
            Err(answer) => return (vec![answer], None),
        };
        // The semaphore is never closed.
        let Ok(Ok(permit)) = timeout(TRANSFER_WAIT, transfers.acquire()).await else {
            return (vec![transfer::no_place(shared, &request, &granted, client)], None);
        };
        let (raw, shared) = (raw.to_vec(), Arc::clone(shared));
        // A large zone takes its time, and other connections shall not wait for it.
        let work = move || match Request::read(&raw) {
            Ok(request) => transfer::answer(&shared, &request, &granted, client),
            Err(_) => vec![],
        };
        let messages = tokio::task::spawn_blocking(work).await.unwrap_or_default();
        // A few steps are held as easily as any answer.
        let permit = (messages.len() > 1).then_some(permit);
        (messages, permit)
    }
}

/// Reads a message into `message`; `false` at the end of the stream.
async fn read_message(stream: &mut TcpStream, message: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; 2];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(false);
    }
    stream.read_exact(&mut length[1..]).await?;
    message.resize(u16::from_be_bytes(length).into(), 0);
    stream.read_exact(message).await?;
    Ok(true)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length =
        u16::try_from(message.len()).map_err(|_| io::Error::other("an answer of more than 64 KiB"))?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_does_not_get_more_connections_by_more_addresses_of_its_own() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
