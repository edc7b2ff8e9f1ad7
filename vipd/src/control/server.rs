//! The control socket's server: one request a connection, one response or many.
//!
//! A client can cost little: the length of its line, the number of
//! connections served at a time and the time each may take are bounded. More
//! clients wait in the kernel's queue until others are done, which they are in
//! bounded time; followers of events, which stay, have a limit of their own.

use super::api::{ErrorCode, MAX_WEIGHT, Request, Response};
use super::call::{ANSWER_TIMEOUT, Call, CallError, Calls, ORDER_TIMEOUT, Refusal};
use super::events::{EventStore, Subscription, Subscriptions};
use super::instance::Socket;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// Bytes of a request's line, its newline included.
pub const MAX_LINE: u64 = 4096;

/// Connections served at a time.
pub const MAX_CONNECTIONS: usize = 64;

/// Followers of events among them, so that there is always room for an order.
pub const MAX_FOLLOWERS: usize = 32;

/// A client must have sent its line by then.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A client must have taken a line by then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for the last words to clients at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// When there are no file descriptors left, they will not be back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection needs.
#[derive(Clone)]
struct Shared {
    calls: Calls,
    events: Subscriptions,
    followers: Arc<Semaphore>,
}

/// Serves the control socket until the last [`super::events::EventLog`] is
/// gone; followers are told so. Dropping the future ends it at once.
///
/// # Errors
/// The socket cannot be handed to the runtime.
pub async fn serve(socket: Socket, calls: Calls, mut events: EventStore) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
    let shared =
        Shared { calls, events: events.subscriptions(), followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)) };
    let mut connections = JoinSet::new();
    tokio::select! {
        () = events.collect() => {}
        () = accept(&listener, &shared, &mut connections) => {}
    }
    // Nobody is to find a socket that is no longer served.
    drop((socket, listener));
    let _ = tokio::time::timeout(FAREWELL, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

async fn accept(listener: &UnixListener, shared: &Shared, connections: &mut JoinSet<()>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(converse(stream, shared.clone(), permit));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, shared: Shared, _permit: OwnedSemaphorePermit) {
    let uid = stream.peer_cred().map(|c| c.uid()).ok();
    let (read, write) = stream.into_split();
    let mut connection = Connection { read: BufReader::new(read), write };
    // An error means that the client has gone or does not read: nobody is left to tell.
    if let Err(error) = connection.serve(&shared, uid).await {
        tracing::debug!(%error, "a control connection ended early");
    }
}

struct Connection {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Connection {
    async fn serve(&mut self, shared: &Shared, uid: Option<u32>) -> io::Result<()> {
        match self.request().await? {
            Some(Ok(request)) => self.answer(shared, request, uid).await,
            Some(Err(response)) => self.send(&response).await,
            None => Ok(()),
        }
    }

    /// What the client asks; the response that says why it is no request;
    /// nothing, if it left without a word.
    async fn request(&mut self) -> io::Result<Option<Result<Request, Response>>> {
        let line = match tokio::time::timeout(READ_TIMEOUT, self.line()).await {
            Ok(Ok(line)) => line,
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                return Ok(Some(Err(failure(ErrorCode::Timeout, "no request came in time"))));
            }
        };
        if line.is_empty() {
            return Ok(None);
        }
        if line.len() as u64 > MAX_LINE {
            let message = format!("the request is longer than {MAX_LINE} bytes");
            return Ok(Some(Err(failure(ErrorCode::TooLong, message))));
        }
        Ok(Some(Request::from_line(&line)))
    }

    async fn answer(&mut self, shared: &Shared, request: Request, uid: Option<u32>) -> io::Result<()> {
        if request.is_order() {
            tracing::info!(uid, ?request, "order on the control socket");
        }
        let calls = &shared.calls;
        let done = |message| Response::Done { message };
        let response = match request {
            Request::Events { follow, since } => return self.events(shared, follow, since).await,
            Request::Status {} => {
                plain(calls.status().await, |status| Response::Status { status: Box::new(status) })
            }
            Request::Why { subject } => {
                let answer = calls.ask(ANSWER_TIMEOUT, |reply| Call::Why { subject, reply }).await;
                judged(answer, |text| Response::Why { text })
            }
            Request::Switchover { vip, to } => {
                let answer = calls.ask(ORDER_TIMEOUT, |reply| Call::Switchover { vip, to, reply }).await;
                judged(answer, |moves| Response::Switched { moves })
            }
            Request::Reload { dry_run } => {
                let call = |reply| Call::Reload { dry_run, reply };
                judged(calls.ask(ORDER_TIMEOUT, call).await, done)
            }
            Request::Maintenance { on } => {
                judged(calls.ask(ORDER_TIMEOUT, |reply| Call::Maintenance { on, reply }).await, done)
            }
            Request::Server { pool, server, state } => {
                let call = |reply| Call::Server { pool, server, state, reply };
                judged(calls.ask(ANSWER_TIMEOUT, call).await, done)
            }
            Request::Sessions { which } => {
                let answer = calls.ask(ANSWER_TIMEOUT, |reply| Call::Sessions { which, reply }).await;
                judged(answer, Response::Sessions)
            }
            Request::Kill { which } => {
                judged(calls.ask(ANSWER_TIMEOUT, |reply| Call::Kill { which, reply }).await, done)
            }
            Request::Weight { weight: Some(weight), .. } if weight > MAX_WEIGHT => {
                failure(ErrorCode::Malformed, format!("a weight is 0 to {MAX_WEIGHT}, not {weight}"))
            }
            Request::Weight { pool, server, weight } => {
                let call = |reply| Call::Weight { pool, server, weight, reply };
                judged(calls.ask(ANSWER_TIMEOUT, call).await, done)
            }
        };
        self.send(&response).await
    }

    /// A line and its end, or one byte more than a line may have, or what came before the stream's end.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        (&mut self.read).take(MAX_LINE.saturating_add(1)).read_until(b'\n', &mut line).await?;
        Ok(line)
    }

    async fn send(&mut self, response: &Response) -> io::Result<()> {
        let line = response.to_line()?;
        tokio::time::timeout(WRITE_TIMEOUT, self.write.write_all(&line))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the client does not read"))?
    }

    async fn events(&mut self, shared: &Shared, follow: bool, since: Option<u64>) -> io::Result<()> {
        let _place = match (follow, Arc::clone(&shared.followers).try_acquire_owned()) {
            (false, _) => None,
            (true, Ok(place)) => Some(place),
            (true, Err(_)) => {
                let message = format!("{MAX_FOLLOWERS} clients follow the events already: end one of them");
                return self.send(&failure(ErrorCode::Busy, message)).await;
            }
        };
        let Subscription { kept, live } = shared.events.subscribe(since.unwrap_or(0));
        for event in kept {
            self.send(&Response::Event { event: Box::new(event.as_ref().clone()) }).await?;
        }
        if !follow {
            return self.send(&Response::End {}).await;
        }
        if let Some(mut live) = live {
            loop {
                tokio::select! {
                    // A follower says nothing more: whatever can be read is its end.
                    gone = self.read.fill_buf() => return gone.map(|_| ()),
                    event = live.recv() => match event {
                        Ok(event) => {
                            self.send(&Response::Event { event: Box::new(event.as_ref().clone()) }).await?;
                        }
                        Err(RecvError::Lagged(missed)) => {
                            let message = format!("{missed} events were missed: read them faster");
                            return self.send(&failure(ErrorCode::Lagged, message)).await;
                        }
                        Err(RecvError::Closed) => break,
                    },
                }
            }
        }
        self.send(&failure(ErrorCode::Stopping, CallError::Stopping.to_string())).await
    }
}

/// The response to a question that cannot be refused.
fn plain<T>(answer: Result<T, CallError>, response: impl FnOnce(T) -> Response) -> Response {
    match answer {
        Ok(answer) => response(answer),
        Err(CallError::Stopping) => failure(ErrorCode::Stopping, CallError::Stopping.to_string()),
        Err(CallError::Timeout) => failure(ErrorCode::Timeout, CallError::Timeout.to_string()),
    }
}

/// The response to one that can.
fn judged<T>(
    answer: Result<Result<T, Refusal>, CallError>,
    response: impl FnOnce(T) -> Response,
) -> Response {
    plain(answer, |judgement| match judgement {
        Ok(answer) => response(answer),
        Err(Refusal(reason)) => Response::Refused { reason },
    })
}

fn failure(code: ErrorCode, message: impl Into<String>) -> Response {
    Response::Error { code, message: message.into() }
}
