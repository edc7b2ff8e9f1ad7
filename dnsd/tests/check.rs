//! `dnsd check`, `dnsd keygen`, metrics.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Dnsd, free_port, text};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

const ZONE: &str = "$TTL 60\n@ NS ns1\nns1 A 10.77.0.11\n";

#[test]
fn check_names_the_place_of_every_error() {
    let dnsd = Dnsd::new(ZONE, "", "");
    let check = || {
        let output = dnsd.command("check").output().unwrap();
        (output.status.code(), text(output))
    };
    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("right (1 zones, 1 keys, 1 addresses)"));
    std::fs::write(dnsd.path("zone"), "$TTL 60\n\nx A 1.2.3\n").unwrap();
    std::fs::write(dnsd.path("vipd.key"), "no").unwrap();
    let (code, said) = check();
    assert_eq!(code, Some(1));
    assert!(said.contains("zone:3: error: ") && said.contains("vipd.key: error: "), "{said}");
    dnsd.configure("negative-tll = \"5s\"", "[rate-limit]\nslip = 101\n");
    let (code, said) = check();
    assert_eq!(code, Some(1));
    assert!(said.contains("dnsd.toml:10:1: error: unknown key \"negative-tll\""), "{said}");
    assert!(
        said.contains("did you mean \"negative-ttl\"?") && said.contains("101 is out of range"),
        "{said}"
    );
}

#[test]
fn keygen_prints_a_key() {
    let output = Command::new(env!("CARGO_BIN_EXE_dnsd")).args(["keygen", "vipd."]).output().unwrap();
    assert!(output.status.success());
    assert!(text(output).contains("key-name = \"vipd.\""));
}

#[test]
fn metrics_and_two_servers_with_one_state() {
    let port = free_port();
    let mut dnsd = Dnsd::new(ZONE, "", &format!("[status]\nhttp = \"127.0.0.1:{port}\"\n"));
    dnsd.start();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("dnsd_zone_names{zone=\"corp.example.\"} 2"), "{said}");
    assert!(said.contains("# TYPE dnsd_requests_total counter"));
    let second = dnsd.command("run").output().unwrap();
    assert!(!second.status.success());
    assert!(text(second).contains("does another dnsd run with it?"));
}
