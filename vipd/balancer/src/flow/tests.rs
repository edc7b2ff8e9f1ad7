//! Both paths, byte by byte.

use super::*;
use bytes::{both, long};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::TcpStream as StdStream;
use std::thread;
use std::time::Duration;
use tokio::net::TcpListener;

#[path = "../../tests/common/bytes.rs"]
mod bytes;

/// A connection: what the relay has of it, and what its peer has.
async fn pair() -> (TcpStream, StdStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let far = StdStream::connect(address).expect("connects");
    far.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    (listener.accept().await.expect("a client").0, far)
}

/// A session in the small: its sockets, and what it has borrowed.
struct Relayed<'a> {
    client: TcpStream,
    server: TcpStream,
    up: Flow,
    down: Flow,
    buffers: &'a Buffers,
}

impl<'a> Relayed<'a> {
    fn new(client: TcpStream, server: TcpStream, buffers: &'a Buffers) -> Self {
        Self { client, server, up: Flow::default(), down: Flow::default(), buffers }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Self { client, server, up, down, buffers } = self;
        let ends = Ends { source: &mut *client, sink: &mut *server, buffers };
        let polled = [up.poll(cx, ends, down.closed, &mut 0), {
            let ends = Ends { source: server, sink: client, buffers };
            down.poll(cx, ends, up.closed, &mut 0)
        }];
        let broken = polled.into_iter().find(|p| matches!(p, Poll::Ready(Err(_))));
        broken.unwrap_or(if up.closed && down.closed { Poll::Ready(Ok(())) } else { Poll::Pending })
    }

    /// Until both sides have ended.
    async fn run(mut self) -> Result<(), Broken> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Until `done`, which is asked now and then as no event tells of it.
    async fn run_until(&mut self, mut done: impl FnMut(&Buffers) -> bool) {
        while !done(self.buffers) {
            let a_little = tokio::time::sleep(Duration::from_millis(1));
            tokio::select! {
                end = poll_fn(|cx| self.poll(cx)) => panic!("it ended: {end:?}"),
                () = a_little => {}
            }
        }
    }
}

impl Drop for Relayed<'_> {
    fn drop(&mut self) {
        self.up.give_back(self.buffers);
        self.down.give_back(self.buffers);
    }
}

/// A long transfer both ways, of which one goes on when the other has ended.
async fn transfer(buffers: &Buffers) {
    let ((client, far_client), (server, far_server)) = (pair().await, pair().await);
    let (up, down) = ((33, long()), (77, long() + 1));
    let peers = [
        thread::spawn(move || both(&far_client, up, down)),
        thread::spawn(move || both(&far_server, down, up)),
    ];
    Relayed::new(client, server, buffers).run().await.expect("no side breaks");
    peers.into_iter().for_each(|p| p.join().expect("every byte arrives"));
}

#[tokio::test]
async fn spliced_bytes_arrive_once_and_in_order() {
    let buffers = Buffers::new(Arc::default());
    transfer(&buffers).await;
    let (lent, spare) = buffers.pipes.counts();
    assert_eq!(lent, 0);
    assert!((1..=2).contains(&spare), "{spare} pipes were made for two directions");
}

#[tokio::test]
async fn without_a_pipe_bulk_is_copied_once_and_in_order() {
    let buffers = Buffers::new(Arc::default());
    let taken: Vec<Pipe> = std::iter::from_fn(|| buffers.pipes.lend()).collect();
    transfer(&buffers).await;
    assert_eq!(buffers.pipes.counts(), (taken.len(), 0));
}

#[tokio::test]
async fn requests_and_answers_need_no_pipe() {
    let buffers = Buffers::new(Arc::default());
    let ((client, mut far_client), (server, mut far_server)) = (pair().await, pair().await);
    let peers = thread::spawn(move || {
        let mut message = [0; 15_000];
        for _ in 0..100 {
            far_client.write_all(&message).expect("is taken");
            far_server.read_exact(&mut message).expect("a request");
            far_server.write_all(&message).expect("is taken");
            far_client.read_exact(&mut message).expect("an answer");
        }
    });
    Relayed::new(client, server, &buffers).run().await.expect("no side breaks");
    peers.join().expect("all is answered");
    assert_eq!(buffers.pipes.counts(), (0, 0));
}

#[tokio::test]
async fn a_pipe_is_lent_only_while_bytes_are_in_flight() {
    let buffers = Buffers::new(Arc::default());
    let ((client, mut far_client), (server, mut far_server)) = (pair().await, pair().await);
    let mut relayed = Relayed::new(client, server, &buffers);
    // Nobody reads: the bytes stay where they are.
    far_server.set_nonblocking(true).expect("a socket");
    let block = vec![1; 1 << 20];
    let mut said = 0;
    while buffers.pipes.counts().0 == 0 {
        said += far_server.write(&block).unwrap_or(0);
        let once = poll_fn(|cx| Poll::Ready(relayed.poll(cx))).await;
        assert!(once.is_pending(), "{once:?}");
        tokio::task::yield_now().await;
    }
    let reader = thread::spawn(move || {
        let mut heard = vec![0; said];
        far_client.read_exact(&mut heard).expect("all of it");
        (heard.iter().all(|b| *b == 1), far_client)
    });
    relayed.run_until(|_| reader.is_finished()).await;
    assert!(reader.join().expect("all of it").0);
    assert_eq!(buffers.pipes.counts(), (0, 1), "the session is open, and owns nothing");
}

#[tokio::test]
async fn what_a_reset_client_left_in_a_pipe_reaches_nobody() {
    let buffers = Buffers::new(Arc::default());
    let ((client, far_client), (server, far_server)) = (pair().await, pair().await);
    let flood = thread::spawn(move || {
        let block = [1; 65536];
        while (&far_server).write_all(&block).is_ok() {}
    });
    let mut relayed = Relayed::new(client, server, &buffers);
    far_client.set_nonblocking(true).expect("a socket");
    let mut heard = vec![0; 1 << 20];
    let stuck = |b: &Buffers| {
        let stuck = b.pipes.counts().0 == 1;
        // If the client takes nothing from the start, what it holds up may be a copy.
        if !stuck {
            let _ = (&far_client).read(&mut heard);
        }
        stuck
    };
    relayed.run_until(stuck).await;
    socket2::SockRef::from(&far_client).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(far_client);
    relayed.run().await.expect_err("the client is gone");
    assert_eq!(buffers.pipes.counts(), (0, 0));
    flood.join().expect("it ends");
}

/// A client that stops reading after a small answer may stay for an hour, and
/// so may a thousand of them.
#[test]
fn what_waits_takes_no_more_memory_than_it_is_long() {
    let buffers = Buffers::new(Arc::default());
    let buffer = buffers.lend(&[7; 100]);
    assert!(buffer.len() == 100 && buffer.capacity() < 1_000, "{}", buffer.capacity());
}
