//! Updates that are nonsense and signed well: what a faulty program with a good
//! key sends gets past the signature, and must not get further.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::leased::{message, now, signed_bytes};
use common::{Dnsd, PATIENCE, has};
use hickory_proto::rr::{DNSClass, Name, RData, Record};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::net::UdpSocket;

const ZONE: &str = "$TTL 60\n@ NS ns1\nns1 A 10.77.0.11\ndb 5 A 10.77.0.11\nx.dyn TXT here\n";
const ROUNDS: u16 = 600;

/// An update with prerequisites, deletions of each form, additions and a lease.
fn update() -> Vec<u8> {
    let mut update = message(&["10.0.0.1", "10.0.0.2"], Some(3600));
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let address = RData::A("10.77.0.11".parse().unwrap());
    update.answers.push(Record::from_rdata(name("db.corp.example."), 0, address));
    let mut one =
        Record::from_rdata(name("leased.dyn.corp.example."), 0, RData::A("10.0.0.1".parse().unwrap()));
    one.dns_class = DNSClass::NONE;
    update.add_authority(one);
    let mut all = Record::update0(name("x.dyn.corp.example."), 0, hickory_proto::rr::RecordType::ANY);
    all.dns_class = DNSClass::ANY;
    update.add_authority(all);
    let text = hickory_proto::rr::rdata::TXT::new(vec!["words".into(), "more".into()]);
    update.add_authority(Record::from_rdata(name("t.dyn.corp.example."), 9, RData::TXT(text)));
    update.to_vec().unwrap()
}

#[test]
fn signed_nonsense_does_no_harm_and_the_journal_has_it_as_it_was_done() {
    if !has(&["dig"], "bind9-dnsutils") {
        return;
    }
    let mut dnsd = Dnsd::new(ZONE, "", "");
    dnsd.start();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(dnsd.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let update = update();
    // Always the same ones.
    let mut runner =
        TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]));
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let (mut answer, mut codes) = ([0; 4096], std::collections::BTreeMap::<u8, u32>::new());
    for id in 0..ROUNDS {
        let mut nonsense = update.clone();
        nonsense[..2].copy_from_slice(&id.to_be_bytes());
        for (at, byte) in changes.new_tree(&mut runner).unwrap().current() {
            // Behind the header: it stays an update.
            let at = 12 + at.index(nonsense.len() - 12);
            nonsense[at] = byte;
        }
        socket.send(&signed_bytes(&nonsense, now())).unwrap();
        let length = socket.recv(&mut answer).unwrap();
        assert!(length >= 12 && answer[..2] == id.to_be_bytes(), "round {id}");
        *codes.entry(answer[3] & 15).or_default() += 1;
    }
    // Some are done, some malformed, some refused: all ways were gone.
    assert!([0, 1, 5].iter().all(|code| codes.contains_key(code)), "{codes:?}");
    // A secondary understands the whole zone, and a restart changes nothing.
    let transfer = |dnsd: &Dnsd| {
        let said = dnsd.dig(&format!("+onesoa +noall +answer -y {} corp.example AXFR", common::KEY));
        let mut records: Vec<_> =
            said.lines().filter(|line| !line.contains("TSIG")).map(str::to_owned).collect();
        records.sort();
        assert!(records.len() > 4 && !said.contains("bad packet"), "{said}");
        records
    };
    let before = transfer(&dnsd);
    dnsd.kill();
    dnsd.start();
    assert_eq!(transfer(&dnsd), before);
}
