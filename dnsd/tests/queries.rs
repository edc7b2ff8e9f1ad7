//! Answers, as dig sees them, and what malformed messages do.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Dnsd, KEY, has};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

const ZONE: &str = "$TTL 60
@ NS ns1
ns1 A 10.77.0.11
db 5 A 10.77.0.11
db 5 A 10.77.0.12
db 5 AAAA fd77::11
www CNAME db
far CNAME db.other.example.
dangling CNAME nope
into CNAME x.sub
ring CNAME round
round CNAME ring
*.wild A 10.1.1.1
sub NS ns.sub
ns.sub A 10.2.2.2
deep.er.down TXT here
";

fn big() -> String {
    let text = "x".repeat(200);
    (0..20).fold(ZONE.to_owned(), |zone, i| zone + &format!("big TXT \"{i} {text}\"\n"))
}

#[test]
fn answers_of_every_kind() {
    if !has(&["dig"], "bind9-dnsutils") {
        return;
    }
    let dnsd = Dnsd::running(&big());
    let status = |words: &str, parts: &[&str]| {
        let said = dnsd.dig(words);
        for part in parts {
            assert!(said.contains(part), "{words}: no {part:?} in\n{said}");
        }
    };
    status(
        "db.corp.example A",
        &["NOERROR", "flags: qr aa;", "ANSWER: 2, AUTHORITY: 0, ADDITIONAL: 1", "udp: 1232"],
    );
    status("DB.Corp.EXAMPLE AAAA", &["DB.Corp.EXAMPLE.\t5\tIN\tAAAA\tfd77::11"]);
    status(
        "db.corp.example MX",
        &[
            "NOERROR",
            "ANSWER: 0, AUTHORITY: 1",
            "corp.example.\t\t5\tIN\tSOA\tns1.corp.example. hostmaster.corp.example.",
        ],
    );
    status("nope.corp.example A", &["NXDOMAIN", "flags: qr aa;", "\t5\tIN\tSOA"]);
    status("down.corp.example A", &["NOERROR", "ANSWER: 0, AUTHORITY: 1"]);
    status("www.corp.example A", &["NOERROR", "ANSWER: 3", "CNAME\tdb.corp.example."]);
    status("www.corp.example MX", &["NOERROR", "ANSWER: 1, AUTHORITY: 1"]);
    status("far.corp.example A", &["NOERROR", "ANSWER: 1, AUTHORITY: 0"]);
    status("dangling.corp.example A", &["NXDOMAIN", "ANSWER: 1, AUTHORITY: 1", "flags: qr aa;"]);
    status("into.corp.example A", &["NOERROR", "flags: qr aa;", "ANSWER: 1, AUTHORITY: 0"]);
    status("ring.corp.example A", &["NOERROR", "ANSWER: 2, AUTHORITY: 0"]);
    status("a.b.wild.corp.example A", &["a.b.wild.corp.example.\t60\tIN\tA\t10.1.1.1"]);
    status(
        "x.sub.corp.example A",
        &[
            "NOERROR",
            "flags: qr;",
            "AUTHORITY: 1, ADDITIONAL: 2",
            "ns.sub.corp.example.\t60\tIN\tA\t10.2.2.2",
        ],
    );
    // Whatever is asked of the cut or below it (RFC 1034, section 4.3.2).
    for words in ["sub NS", "sub ANY", "sub SOA", "sub A", "x.sub NS", "ns.sub A"] {
        let (name, rtype) = words.split_once(' ').unwrap();
        status(
            &format!("+notcp {name}.corp.example {rtype}"),
            &[
                "NOERROR",
                "flags: qr;",
                "ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 2",
                "sub.corp.example.\t60\tIN\tNS\tns.sub.corp.example.",
                "ns.sub.corp.example.\t60\tIN\tA\t10.2.2.2",
            ],
        );
    }
    status("sub.corp.example DS", &["NOERROR", "flags: qr aa;", "ANSWER: 0, AUTHORITY: 1", "SOA"]);
    status("corp.example NS", &["NOERROR", "flags: qr aa;", "ANSWER: 1"]);
    status("+notcp db.corp.example ANY", &["NOERROR", "ANSWER: "]);
    assert!(
        !dnsd.dig("+notcp db.corp.example ANY").contains("ANSWER: 3"),
        "one set stands for all (RFC 8482)"
    );
    status("db.other.example A", &["REFUSED", "flags: qr;"]);
    status("db.corp.example A -c CH", &["REFUSED"]);
    status("+edns=1 +noednsnegotiation db.corp.example A", &["BADVERS"]);
    status("+opcode=4 corp.example SOA", &["NOTIMP"]);
    status("+noedns +ignore big.corp.example TXT", &["flags: qr aa tc;", "ANSWER: 0"]);
    status("+bufsize=4096 +ignore big.corp.example TXT", &["flags: qr aa tc;"]);
    status("big.corp.example TXT", &["ANSWER: 20", "Truncated, retrying in TCP mode"]);
    status("+tcp db.corp.example A", &["ANSWER: 2"]);
    status(&format!("-y {KEY} db.corp.example A"), &["ANSWER: 2", "TSIG"]);
    let wrong = KEY.replace("dGhp", "dGhq");
    status(&format!("-y {wrong} db.corp.example A"), &["NOTAUTH", "BADSIG"]);
    // By chance: one time in 2^39 this fails though all is well.
    let first = |_| dnsd.dig("+short db.corp.example A").lines().next().map(str::to_owned);
    let firsts: std::collections::BTreeSet<_> = (0..40).map(first).collect();
    assert_eq!(firsts.len(), 2, "each address comes first sometimes");
}

#[test]
fn a_client_with_a_cookie_is_not_held_back() {
    if !has(&["dig"], "bind9-dnsutils") {
        return;
    }
    let mut dnsd = Dnsd::new(ZONE, "", "[rate-limit]\nresponses-per-second = 1\nslip = 1\n");
    dnsd.start();
    assert!(dnsd.dig("+cookie=0123456789abcdef db.corp.example A").contains("(good)"));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(dnsd.address()).unwrap();
    socket.set_read_timeout(Some(common::PATIENCE)).unwrap();
    let query = b"\0\x07\0\0\0\x01\0\0\0\0\0\0\x02db\x04corp\x07example\0\0\x01\0\x01";
    let mut answer = [0; 2048];
    let mut truncated = 0;
    for _ in 0..50 {
        socket.send(query).unwrap();
        socket.recv(&mut answer).unwrap();
        truncated += u32::from(answer[2] & 2 != 0);
    }
    assert!(truncated >= 40, "{truncated} of 50 answers were truncated");
    // With a client's cookie: BADCOOKIE, and with the server's one an answer.
    let mut option = b"\0\0\x29\x10\0\0\0\0\0\0\x0c\0\x0a\0\x08clientck".to_vec();
    let ask = |option: &[u8], answer: &mut [u8]| {
        let mut query = query.to_vec();
        query[11] = 1;
        socket.send(&[&query, option].concat()).unwrap();
        socket.recv(answer).unwrap()
    };
    let mut codes = Vec::new();
    let length = (0..3).map(|_| ask(&option, &mut answer)).last().unwrap();
    codes.push(answer[3] & 15);
    assert_eq!(codes, [23 & 15], "the high bits are in the OPT record");
    let both = answer[length - 24..length].to_vec();
    option.truncate(11);
    option[10] = 28;
    option.extend(b"\0\x0a\0\x18");
    option.extend(both);
    for _ in 0..10 {
        ask(&option, &mut answer);
        assert_eq!((answer[2] & 2, answer[3] & 15, answer[7]), (0, 0, 2));
    }
}

/// Messages that were changed at random: the server goes on, whatever they say.
#[test]
fn malformed_messages_do_no_harm() {
    let dnsd = Dnsd::running(ZONE);
    let query: &[u8] =
        b"\0\x07\0\0\0\x01\0\0\0\0\0\x01\x02db\x04corp\x07example\0\0\x01\0\x01\0\0\x29\x10\0\0\0\0\0\0\0";
    let update: &[u8] = b"\0\x07\x28\0\0\x01\0\x01\0\x01\0\x01\x04corp\x07example\0\0\x06\0\x01\
        \x02db\xc0\x0c\0\x01\0\xff\0\0\0\0\0\0\x02db\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x0a\0\0\x01\
        \x04vipd\0\0\xfa\0\xff\0\0\0\0\0\x3d\x0bhmac-sha256\0\0\0\x6b\x01\x65\x92\x01\x2c\0\x20AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\0\x07\0\0\0\0";
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(dnsd.address()).unwrap();
    socket.set_read_timeout(Some(common::PATIENCE)).unwrap();
    // Always the same ones.
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    let mut answer = [0; 2048];
    for round in 0_u16..2000 {
        let mut message = if round % 2 == 0 { query } else { update }.to_vec();
        for (at, byte) in changes.new_tree(&mut runner).unwrap().current() {
            let at = at.index(message.len());
            message[at] = byte;
        }
        let cut = any::<prop::sample::Index>().new_tree(&mut runner).unwrap().current();
        if round % 7 == 0 {
            message.truncate(cut.index(message.len()));
        }
        socket.send(&message).unwrap();
        if round % 50 == 0 {
            // A proper one gets through every time.
            let mut proper = query.to_vec();
            proper[..2].copy_from_slice(&(0x8000 | round).to_be_bytes());
            socket.send(&proper).unwrap();
            while socket.recv(&mut answer).unwrap() < 12 || answer[..2] != proper[..2] {}
            assert_eq!(answer[7], 2, "round {round}");
        }
    }
    let mut stream = TcpStream::connect(dnsd.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"\0\x03abc\0\0").unwrap();
    stream.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(query).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    stream.read_exact(&mut answer[..12]).unwrap();
    assert_eq!(answer[7], 2, "the connection goes on as well");
}

/// No file descriptor is left: connections wait, and are served when there is one.
#[test]
fn the_tcp_listener_outlives_errors_of_accept() {
    let mut dnsd = Dnsd::new(ZONE, "", "");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 28; exec \"$@\"", "sh"]).arg(env!("CARGO_BIN_EXE_dnsd"));
    command.arg("run").arg("--config").arg(dnsd.path("dnsd.toml"));
    let mut program = common::Program::start(&mut command);
    program.wait_for(&["ready"]);
    dnsd.program = Some(program);
    let connections: Vec<_> = (0..28).map(|_| TcpStream::connect(dnsd.address()).unwrap()).collect();
    dnsd.log().wait_for(&["cannot accept a connection"]);
    drop(connections);
    let mut stream = TcpStream::connect(dnsd.address()).unwrap();
    stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
    stream.write_all(b"\0\x1e\0\x07\0\0\0\x01\0\0\0\0\0\0\x04corp\x07example\0\0\x06\0\x01").unwrap();
    let mut answer = [0; 14];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[9], 1, "the SOA record");
}
