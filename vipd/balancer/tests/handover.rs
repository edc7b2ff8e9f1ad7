//! The end of one daemon and the beginning of the next.

mod common;

use common::{
    PATIENCE, address, ask, assert_closed, assert_reset, balancer, connect, connect_to, echo, serving,
};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;
use vipd_balancer::{Balancer, CloseCause};
use vipd_core::settings::{Bind, Listener};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

fn on(address: SocketAddr) -> Listener {
    Listener { bind: Bind { address: Some(address.ip()), port: address.port() }, ..common::listener("main") }
}

#[test]
fn whoever_connects_in_between_is_served_by_the_next() {
    let server = echo();
    let first = balancer(&[server]);
    let address = address(&first);
    let kept = runtime().block_on(first.listening()).expect("workers answer");
    assert_eq!(kept.len(), 2, "a socket for each worker");
    runtime().block_on(first.drain(PATIENCE)).expect("workers answer");
    drop(first);

    // Nobody serves, and nobody is refused.
    let mut between: Vec<_> = (0..8).map(|_| connect_to(address)).collect();
    between.iter_mut().for_each(|client| client.write_all(b"ping").expect("is taken"));

    let pools = common::build(&[common::pool("pool", &[server])]);
    let next = Balancer::start_with(&[on(address)], pools, Some(2), kept).expect("starts");
    for client in &mut between {
        let mut answer = [0; 4];
        client.read_exact(&mut answer).expect("an answer");
    }
    ask(&mut connect(&next));
}

/// A listener that is not in the new file is closed.
#[test]
fn what_nobody_wants_is_closed() {
    let server = echo();
    let first = balancer(&[server]);
    let address = address(&first);
    let kept = runtime().block_on(first.listening()).expect("workers answer");
    drop(first);
    let pools = common::build(&[common::pool("pool", &[server])]);
    let other = Balancer::start_with(&[common::listener("other")], pools, Some(2), kept).expect("starts");
    common::until("nobody listens", || std::net::TcpStream::connect(address).is_err());
    ask(&mut connect(&other));
}

#[test]
fn sessions_end_where_nothing_is_under_way() {
    // Answers the first word at once, and the second one when it is told to.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
    let server = serving(move |mut stream| {
        let mut word = [0; 4];
        while stream.read_exact(&mut word).is_ok() {
            if &word == b"slow" {
                let _ = wait.lock().map(|wait| wait.recv_timeout(PATIENCE));
            }
            if stream.write_all(&word).is_err() {
                break;
            }
        }
    });
    let balancer = balancer(&[server]);
    let (mut idle, mut busy) = (connect(&balancer), connect(&balancer));
    ask(&mut idle);
    ask(&mut busy);
    busy.write_all(b"slow").expect("is taken");
    common::until("it is relayed", || common::stats(&balancer).bytes_in == 12);
    let drained = runtime().block_on(async {
        let drain = balancer.drain_at_rest(PATIENCE);
        let clients = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            while balancer.sessions() > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Its query goes on for as long as it takes.
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(balancer.sessions(), 1, "a query that runs is not cut");
            go.send(()).expect("the server waits");
        };
        tokio::join!(drain, clients).0
    });
    assert_eq!(drained.expect("workers answer"), 0, "nobody had to be cut off");
    let mut answer = [0; 4];
    busy.read_exact(&mut answer).expect("its answer came before the end");
    assert_reset(&mut idle);
    assert_closed(&balancer, CloseCause::Stopped, 2);
}
