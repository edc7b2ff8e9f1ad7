//! A worker that hangs (a test binary of its own: what it hangs in is the
//! process's log).

mod common;

use common::*;
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use vipd_balancer::{Balancer, CloseCause, Error, Which};
use vipd_core::health::Why;
use vipd_core::pool::ServerKey;
use vipd_core::settings::Listener;

/// A log that takes a worker's first line only when it is told to.
#[derive(Clone)]
struct Gate {
    reached: Sender<()>,
    open: Arc<Mutex<Receiver<()>>>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if std::thread::current().name().is_some_and(|name| name.starts_with("balancer-")) {
            let _ = self.reached.send(());
            let _ = self.open.lock().expect("no panic").recv();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_a_hung_worker_was_told_to_close_it_closes_when_it_can() {
    let ((reached, at_gate), (open, opened)) = (channel(), channel());
    let gate = Gate { reached, open: Arc::new(Mutex::new(opened)) };
    let info = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::INFO);
    info.with_writer(move || gate.clone()).init();

    let loud = Listener { access_log: true, ..listener("main") };
    let balancer = Balancer::start(&[loud], build(&[pool("pool", &[echo()])]), Some(1)).expect("starts");
    let (mut first, mut second) = (connect(&balancer), connect(&balancer));
    ask(&mut first);
    ask(&mut second);
    drop(first);
    at_gate.recv_timeout(PATIENCE).expect("the worker logs");
    while balancer.list(Which::All).is_ok() {}
    let told = balancer.close_server(ServerKey { pool: 0, server: 0 }, Why::Demoted);
    assert!(matches!(told, Err(Error::Stalled { worker: 0 })), "{told:?}");
    drop(open);
    assert_reset(&mut second);
    until("it is counted", || stats(&balancer).closed(CloseCause::ServerDemoted) == 1);
    let told = balancer.close_server(ServerKey { pool: 0, server: 0 }, Why::Demoted);
    assert!(told.is_ok(), "{told:?}");
}
