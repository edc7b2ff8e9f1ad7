//! BIND and Knot's tools as secondaries: whole transfers, steps, NOTIFY.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Dnsd, KEY, Program, SECRET, dig, free_port, has, serial, text};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// Enough names for a transfer of many messages.
fn zone() -> String {
    let head = "$TTL 60\n@ NS ns1\nns1 A 10.77.0.11\ndb 5 A 10.77.0.11\n".to_owned();
    (0..3000).fold(head, |zone, i| zone + &format!("n{i} A 10.0.{}.{}\n", i / 250, i % 250))
}

struct Bind {
    port: u16,
    program: Program,
    _dir: tempfile::TempDir,
}

fn bind(primary: u16, port: u16) -> Bind {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().display();
    let config = format!(
        r#"options {{ directory "{home}"; pid-file none; session-keyfile "{home}/s"; managed-keys-directory "{home}";
  listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; notify no; dnssec-validation no; }};
controls {{ }};
key "vipd." {{ algorithm hmac-sha256; secret "{SECRET}"; }};
zone "corp.example" {{ type secondary; file "{home}/copy"; masterfile-format text;
  primaries {{ 127.0.0.1 port {primary} key "vipd."; }}; }};
"#
    );
    std::fs::write(dir.path().join("named.conf"), config).unwrap();
    let mut command = Command::new("/usr/sbin/named");
    command.arg("-g").arg("-c").arg(dir.path().join("named.conf"));
    let mut program = Program::start(&mut command);
    program.wait_for(&["running"]);
    Bind { port, program, _dir: dir }
}

#[test]
fn bind_follows_by_notify_and_steps() {
    if !has(&["dig", "nsupdate"], "bind9-dnsutils") || !has(&["named"], "bind9") {
        return;
    }
    let secondary = free_port();
    let mut dnsd = Dnsd::new(&zone(), &format!("notify = [\"127.0.0.1:{secondary}\"]"), "");
    dnsd.start();
    let mut bind = bind(dnsd.port, secondary);
    bind.program.wait_for(&["corp.example/IN", "transferred serial", "TSIG 'vipd'"]);
    bind.program.wait_for(&["Transfer completed", "3005 records"]);
    assert_eq!(serial(bind.port), dnsd.serial());
    assert!(dig(bind.port, "n2999.corp.example A").contains("10.0.11.249"));
    for round in 1..=3 {
        dnsd.update(&format!(
            "update delete db.corp.example. A\nupdate add db.corp.example. 5 A 10.5.0.{round}"
        ));
        let wanted = dnsd.serial();
        bind.program.wait_for(&["corp.example/IN", &format!("transferred serial {wanted}")]);
        assert_eq!(dig(bind.port, "+short db.corp.example A").trim(), format!("10.5.0.{round}"));
        // SOA, old SOA, old address, new SOA, new address, SOA.
        bind.program.wait_for(&["Transfer completed: 1 messages, 6 records"]);
    }
    dnsd.kill();
    dnsd.start();
    dnsd.update("update delete db.corp.example. A\nupdate add db.corp.example. 5 A 10.5.0.9");
    let wanted = dnsd.serial();
    bind.program.wait_for(&["corp.example/IN", &format!("transferred serial {wanted}")]);
    bind.program.wait_for(&["Transfer completed: 1 messages, 6 records"]);
    let mut here: Vec<_> = transfer(dnsd.port, "AXFR");
    assert!(here.len() > 3000);
    // The file holds what this server sends.
    here.retain(|line| line.contains("10.5.0."));
    assert_eq!(here.len(), 1);
}

/// The same with Knot.
#[test]
fn knot_follows_by_notify_and_steps() {
    if !has(&["dig", "nsupdate"], "bind9-dnsutils") || !has(&["knotd"], "knot") {
        return;
    }
    let secondary = free_port();
    let mut dnsd = Dnsd::new(&zone(), &format!("notify = [\"127.0.0.1:{secondary}\"]"), "");
    dnsd.start();
    let dir = tempfile::tempdir().unwrap();
    let (home, primary) = (dir.path().display(), dnsd.port);
    let config = format!(
        "server:\n  listen: 127.0.0.1@{secondary}\n  rundir: {home}\n  udp-workers: 1\n  tcp-workers: 1\n\
         log:\n  - target: stderr\n    any: info\ndatabase:\n  storage: {home}\n\
         key:\n  - id: vipd.\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
         remote:\n  - id: primary\n    address: 127.0.0.1@{primary}\n    key: vipd.\n\
         acl:\n  - id: told\n    address: 127.0.0.1\n    action: notify\n\
         zone:\n  - domain: corp.example.\n    storage: {home}\n    master: primary\n    acl: told\n"
    );
    std::fs::write(dir.path().join("knot.conf"), config).unwrap();
    let mut command = Command::new("/usr/sbin/knotd");
    let mut knot = Program::start(command.arg("-c").arg(dir.path().join("knot.conf")));
    knot.wait_for(&["AXFR, incoming", "finished"]);
    knot.wait_for(&["zone updated", &dnsd.serial().to_string()]);
    assert!(dig(secondary, "n2999.corp.example A").contains("10.0.11.249"));
    for round in 1..=3 {
        if round == 3 {
            dnsd.kill();
            dnsd.start();
        }
        dnsd.update(&format!(
            "update delete db.corp.example. A\nupdate add db.corp.example. 5 A 10.5.0.{round}"
        ));
        knot.wait_for(&["IXFR, incoming", "finished"]);
        knot.wait_for(&["zone updated", &dnsd.serial().to_string()]);
        assert_eq!(dig(secondary, "+short db.corp.example A").trim(), format!("10.5.0.{round}"));
        assert_eq!(serial(secondary), dnsd.serial());
    }
}

fn transfer(port: u16, kind: &str) -> Vec<String> {
    dig(port, &format!("+noall +answer -y {KEY} corp.example {kind}")).lines().map(str::to_owned).collect()
}

#[test]
fn who_may_transfer() {
    if !has(&["dig", "nsupdate"], "bind9-dnsutils") {
        return;
    }
    let mut dnsd = Dnsd::running(&zone());
    assert!(dnsd.dig("corp.example AXFR").contains("Transfer failed"));
    dnsd.log().wait_for(&["transfer refused: allow-transfer lists neither"]);
    assert!(dnsd.dig(&format!("-y {} corp.example AXFR", KEY.replace("dGhp", "dGhq"))).contains("failed"));
    dnsd.log().wait_for(&["transfer refused", "BADSIG"]);
    assert!(dnsd.dig("other.example AXFR").contains("failed"));
    dnsd.log().wait_for(&["transfer refused", "no such zone"]);
    let whole = transfer(dnsd.port, "AXFR");
    assert_eq!(whole.len(), 3000 + 5);
    assert!(whole[0].contains("SOA") && whole.last() == whole.first());
    let serial = dnsd.serial();
    dnsd.update("update add db.corp.example. 5 A 10.5.0.1");
    assert_eq!(
        transfer(dnsd.port, &format!("IXFR={serial}")).len(),
        5,
        "three SOA records to go, one address"
    );
    assert_eq!(transfer(dnsd.port, &format!("IXFR={}", serial + 1)).len(), 1, "nothing new");
    assert!(transfer(dnsd.port, &format!("IXFR={}", serial - 1)).len() > 3000, "too old: the whole zone");
}

/// A request for a whole zone.
const AXFR: &[u8] = b"\0\x1e\0\x07\0\0\0\x01\0\0\0\0\0\0\x04corp\x07example\0\0\xfc\0\x01";
/// For the steps since this serial.
fn ixfr(since: u32) -> Vec<u8> {
    let question = b"\0\x07\0\0\0\x01\0\0\0\x01\0\0\x04corp\x07example\0\0\xfb\0\x01";
    let soa = b"\xc0\x0c\0\x06\0\x01\0\0\0\0\0\x16\0\0";
    let message = [&question[..], soa, &since.to_be_bytes(), &[0; 16]].concat();
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), &message[..]].concat()
}

/// Asks from an address of loopback, and has room for next to nothing.
fn ask_from(from: [u8; 4], dnsd: &Dnsd, request: &[u8]) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&dnsd.address().into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(request).unwrap();
    stream
}

/// The length of the answer and the four bytes of its header, if it comes in time.
fn begins(stream: &mut TcpStream, patience: Duration) -> Option<[u8; 6]> {
    let mut begin = [0; 6];
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.read_exact(&mut begin).ok().map(|()| begin)
}

/// With a zone of more than the kernel keeps for both ends of a connection,
/// which these may transfer.
fn with_large_zone(allowed: &str) -> Dnsd {
    let text = "y".repeat(250);
    let records = |i| (0..120).fold(String::new(), |zone, n| zone + &format!("n{i} TXT \"{n} {text}\"\n"));
    let zone =
        (0..400).fold("$TTL 60\n@ NS ns1\nns1 A 10.77.0.11\n".to_owned(), |zone, i| zone + &records(i));
    let mut dnsd = Dnsd::new(&zone, "", "");
    let config = std::fs::read_to_string(dnsd.path("dnsd.toml")).unwrap();
    let config = config.replace("allow-transfer = [\"vipd.\"]", &format!("allow-transfer = [\"{allowed}\"]"));
    std::fs::write(dnsd.path("dnsd.toml"), config).unwrap();
    dnsd.start();
    dnsd
}

/// Whoever takes a transfer slowly has the whole zone held for it: of these there
/// are four at a time, until they are sent.
#[test]
fn a_transfer_that_is_not_taken_keeps_its_place() {
    let dnsd = with_large_zone("127.0.0.0/8");
    let ask = || ask_from([127, 0, 0, 1], &dnsd, AXFR);
    let mut slow: Vec<_> = (0..4).map(|_| ask()).collect();
    assert!(slow.iter_mut().all(|stream| begins(stream, common::PATIENCE).is_some()));
    let mut fifth = ask();
    assert!(begins(&mut fifth, Duration::from_millis(500)).is_none(), "it waits");
    slow.pop();
    assert!(begins(&mut fifth, common::PATIENCE).is_some(), "now there is a place");
}

/// All places are taken, and none becomes free.
#[test]
fn whoever_has_nothing_to_transfer_waits_for_no_place() {
    if !has(&["dig"], "bind9-dnsutils") {
        return;
    }
    let mut dnsd = with_large_zone("127.0.0.1/32");
    let ask = |request: &[u8]| ask_from([127, 0, 0, 1], &dnsd, request);
    let mut slow: Vec<_> = (0..4).map(|_| ask(AXFR)).collect();
    assert!(slow.iter_mut().all(|stream| begins(stream, common::PATIENCE).is_some()));
    // One more that may, and waits while the others are answered.
    let mut fifth = ask(AXFR);
    let code = |begin: Option<[u8; 6]>| begin.map(|begin| begin[5] & 15);
    let mut stranger = ask_from([127, 0, 0, 2], &dnsd, AXFR);
    assert_eq!(code(begins(&mut stranger, common::PATIENCE)), Some(5), "REFUSED");
    let mut current = ask(&ixfr(dnsd.serial()));
    let answer = begins(&mut current, common::PATIENCE);
    assert_eq!(code(answer), Some(0));
    assert!(answer.is_some_and(|begin| begin[0] == 0), "a SOA record alone");
    assert!(begins(&mut fifth, Duration::from_millis(1)).is_none(), "it was there before them");
    // And is not left without an answer.
    assert_eq!(code(begins(&mut fifth, common::PATIENCE)), Some(2), "SERVFAIL");
    dnsd.log().wait_for(&["transfer refused: as many as there may be"]);
}

#[test]
fn knots_tools_understand_it_too() {
    if !has(&["kdig", "knsupdate"], "knot-dnsutils") {
        return;
    }
    let dnsd = Dnsd::running(&zone());
    let port = dnsd.port.to_string();
    let kdig = |words: &[&str]| {
        text(Command::new("kdig").args(["@127.0.0.1", "-p", &port, "-y", KEY]).args(words).output().unwrap())
    };
    let whole = kdig(&["corp.example", "AXFR"]);
    assert!(
        whole.contains("3006 records") || whole.contains("3005 records"),
        "{}",
        &whole[whole.len() - 500..]
    );
    assert!(!whole.contains("WARNING"), "every message's signature counts");
    let script = dnsd.path("script");
    let lines = format!(
        "server 127.0.0.1 {port}\nzone corp.example.\nupdate add db.corp.example. 5 A 10.6.0.1\nsend\n"
    );
    std::fs::write(&script, lines).unwrap();
    let said = Command::new("knsupdate").args(["-y", KEY]).arg(&script).output().unwrap();
    assert!(said.status.success(), "{}", text(said));
    assert!(kdig(&["+short", "db.corp.example", "A"]).contains("10.6.0.1"));
}
