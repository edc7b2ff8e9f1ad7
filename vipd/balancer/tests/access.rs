//! The access log (a test binary of its own: the subscriber is the process's).

mod common;

use common::*;
use std::io::Write;
use std::sync::{Arc, Mutex};
use vipd_balancer::ACCESS_LOG;
use vipd_core::settings::{Cidr, Listener};

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().expect("no panic").clone();
        String::from_utf8(bytes).expect("text").lines().map(ToOwned::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn each_session_is_a_line_where_that_is_wanted() {
    let log = Log::default();
    let writer = log.clone();
    let info = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::INFO);
    info.without_time().with_ansi(false).with_writer(move || writer.clone()).init();
    let logged = |n| {
        until("it is logged", || log.lines().len() == n);
        log.lines().pop().expect("a line")
    };

    let proxies = Cidr::new(loopback(9), 32).into_iter().collect();
    let loud = Listener { access_log: true, accept_proxy: proxies, ..listener("main") };
    let pool = pool("pool", &[echo()]);
    let balancer = start(&loud, &pool);
    let mut client = connect(&balancer);
    ask(&mut client);
    let address = client.local_addr().expect("an address");
    drop(client);
    let line = logged(1);
    assert!(line.trim_start().starts_with(&format!("INFO {ACCESS_LOG}: ")), "{line}");
    let words = ["listener=\"main\"", "pool=\"pool\"", "server=\"db1\"", "bytes_in=4", "bytes_out=4"];
    for word in words.into_iter().chain([&*format!("client={address}"), "cause=client-closed", "id="]) {
        assert!(line.split(' ').any(|w| w.starts_with(word)), "{word} is not in {line}");
    }
    let number = |key: &str| {
        let word = line.split(' ').find_map(|w| w.strip_prefix(key));
        word.and_then(|w| w.parse::<f64>().ok()).unwrap_or_else(|| panic!("{key} is no number in {line}"))
    };
    assert!(number("connect_ms=") > 0.0 && number("connect_ms=") <= number("duration_ms="), "{line}");
    assert!(number("queued_ms=") == 0.0, "{line}");

    // Who the header speaks of, and who brought it.
    let mut proxied = connect_from(&balancer, 9);
    proxied.write_all(b"PROXY TCP4 198.51.100.7 192.0.2.100 4711 3306\r\n").expect("is taken");
    ask(&mut proxied);
    reset(proxied);
    let line = logged(2);
    assert!(line.contains("client=198.51.100.7:4711 proxy=127.0.0.9:"), "{line}");
    assert!(line.contains("cause=client-error"), "{line}");

    // One that never had a server.
    let unusable = build(&[vipd_core::settings::Pool { servers: vec![], ..pool.clone() }]);
    balancer.set_pools(unusable);
    assert_reset(&mut connect(&balancer));
    let line = logged(3);
    assert!(
        line.contains("cause=no-server") && !line.contains("server=\"") && !line.contains("connect_ms"),
        "{line}"
    );

    // Quiet again.
    let quiet = Listener { access_log: false, ..loud };
    balancer.reconfigure(&[quiet], build(&[pool])).expect("nothing to bind");
    ask(&mut connect(&balancer));
    until("all sessions ended", || balancer.sessions() == 0);
    assert_eq!(log.lines().len(), 3);
}
