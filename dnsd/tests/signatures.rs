//! Signed updates whose time is wrong, or that come twice.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Dnsd;
use common::leased::{cut_bytes, exchange, exchange_bytes, message, now, signed, signer};
use hickory_proto::op::Message;
use hickory_proto::rr::DNSClass;
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::tsig::TsigError;

const ZONE: &str = "$TTL 60\n@ NS ns1\nns1 A 10.77.0.11\n";

#[test]
fn a_wrong_clock_is_told_by_how_much() {
    let mut dnsd = Dnsd::running(ZONE);
    let time = now() - 1000;
    let answer = exchange(&dnsd, &signed(message(&["10.0.0.1"], None), time));
    assert_eq!(answer.response_code.low(), 9, "NOTAUTH");
    let tsig = &answer.signature.as_ref().unwrap().data;
    assert_eq!((tsig.error, tsig.time), (Some(TsigError::BadTime), time));
    let server = tsig.other.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    assert!(server.abs_diff(now()) < 60 && !tsig.mac.is_empty(), "the server's time, signed");
    dnsd.log().wait_for(&["update refused", "clock is 100", "s behind", "key=\"vipd.\""]);
    exchange(&dnsd, &signed(message(&["10.0.0.1"], None), now() + 2000));
    dnsd.log().wait_for(&["ahead of"]);
}

#[test]
fn a_copy_of_an_update_does_nothing_and_is_answered_the_same() {
    let dnsd = Dnsd::running(ZONE);
    let update = signed(message(&["10.0.0.1"], None), now());
    assert_eq!(exchange(&dnsd, &update).response_code.low(), 0);
    let serial = dnsd_serial(&dnsd);
    // It goes by another way; then the copy comes.
    let gone = deletes(message(&["10.0.0.1"], None));
    assert_eq!(exchange(&dnsd, &signed(gone, now())).response_code.low(), 0);
    let answer = exchange(&dnsd, &update);
    assert_eq!(answer.response_code.low(), 0, "a client whose answer was lost gets it");
    assert_eq!(dnsd_serial(&dnsd), serial + 1, "and it did nothing");
}

/// A client whose answer was lost has to learn for how long its records are there.
#[test]
fn a_copy_of_a_leased_update_is_told_its_lease() {
    let dnsd = Dnsd::running(ZONE);
    let update = signed(message(&["10.0.0.1"], Some(40)), now());
    let lease = |answer: Message| {
        assert_eq!(answer.response_code.low(), 0);
        answer.edns.as_ref().and_then(|edns| edns.option(2.into()).cloned())
    };
    let first = lease(exchange(&dnsd, &update));
    assert_eq!(first, Some(EdnsOption::Unknown(2, 40_u32.to_be_bytes().to_vec())));
    assert_eq!(lease(exchange(&dnsd, &update)), first);
}

/// What nobody knows of may be a copy: of a server that lost its state.
#[test]
fn what_was_signed_before_the_first_start_is_refused() {
    let before = signed(message(&["10.0.0.2"], None), now() - 5);
    let mut dnsd = Dnsd::running(ZONE);
    let answer = exchange(&dnsd, &before);
    assert_eq!(answer.response_code.low(), 9);
    assert_eq!(answer.signature.unwrap().data.error, Some(TsigError::BadTime));
    dnsd.log().wait_for(&["it may be a copy"]);
}

fn deletes(mut update: Message) -> Message {
    update.authorities.iter_mut().for_each(|record| {
        record.dns_class = DNSClass::NONE;
        record.ttl = 0;
    });
    update
}

/// Whoever recorded updates sends them again after a restart: those that did
/// something, those that had nothing to do then, those that were refused, and
/// those of a client whose clock is ahead.
#[test]
fn a_restart_forgets_no_update_that_was_seen() {
    let mut dnsd = Dnsd::running(ZONE);
    let add = |address, ahead| signed(message(&[address], None), now() + ahead);
    // It wants a record to be there that is not.
    let mut wants = message(&["10.0.0.9"], None);
    let mut wanted = message(&["10.0.0.7"], None).authorities.remove(0);
    wanted.ttl = 0;
    wants.answers.push(wanted);
    let recorded = [
        (add("10.0.0.1", 0), 0),
        (add("10.0.0.2", 250), 0),
        (add("10.0.0.1", 1), 0),
        (signed(wants, now()), 8),
    ];
    let codes = |dnsd: &Dnsd| {
        recorded.iter().map(|(update, _)| exchange(dnsd, update).response_code.low()).collect::<Vec<_>>()
    };
    let expected: Vec<_> = recorded.iter().map(|(_, code)| *code).collect();
    assert_eq!(codes(&dnsd), expected);
    // All is undone, and what the last one wanted is there: each could do something.
    let gone = deletes(message(&["10.0.0.1", "10.0.0.2"], None));
    assert_eq!(exchange(&dnsd, &signed(gone, now())).response_code.low(), 0);
    assert_eq!(exchange(&dnsd, &add("10.0.0.7", 0)).response_code.low(), 0);
    let serial = dnsd_serial(&dnsd);
    for _ in 0..2 {
        dnsd.kill();
        dnsd.start();
        assert_eq!(codes(&dnsd), expected, "each gets the answer that it got");
        assert_eq!(dnsd_serial(&dnsd), serial, "and does nothing");
    }
    // Who is honest goes on, also in the same second and with the same clock.
    assert_eq!(exchange(&dnsd, &add("10.0.0.3", 0)).response_code.low(), 0);
    assert_eq!(exchange(&dnsd, &add("10.0.0.4", 250)).response_code.low(), 0);
    assert_eq!(dnsd_serial(&dnsd), serial + 2);
}

/// Its clock is behind by less than is allowed: a restart is nothing to it.
#[test]
fn a_client_whose_clock_is_behind_is_not_locked_out_by_a_restart() {
    const BEHIND: u64 = 2;
    let mut dnsd = Dnsd::running(ZONE);
    let update = |dnsd: &Dnsd, last: u8| {
        let address = format!("10.0.0.{last}");
        exchange(dnsd, &signed(message(&[&address], None), now() - BEHIND)).response_code.low()
    };
    // Of what was before the very first start nothing is known.
    let end = std::time::Instant::now() + common::PATIENCE;
    while update(&dnsd, 1) != 0 {
        assert!(std::time::Instant::now() < end, "its clock has passed the start by now");
    }
    for last in 2..4 {
        dnsd.kill();
        dnsd.start();
        assert_eq!(update(&dnsd, last), 0, "the {last}th");
    }
}

/// RFC 8945, sections 5.2.2.1 and 5.2.4.
#[test]
fn a_signature_that_was_cut_is_refused_and_one_of_no_length_is_malformed() {
    let mut dnsd = Dnsd::running(ZONE);
    let serial = dnsd_serial(&dnsd);
    let update = message(&["10.0.0.1"], None).to_vec().unwrap();
    for (length, code) in [(0, 1), (9, 1), (15, 1), (16, 9), (31, 9), (33, 1)] {
        let answer = exchange(&dnsd, &cut_bytes(&update, now(), length));
        assert_eq!(answer.response_code.low(), code, "{length} bytes");
        let tsig = answer.signature.as_ref().map(|tsig| (tsig.data.error, tsig.data.mac.len()));
        let cut = Some((Some(TsigError::BadTrunc), 32));
        assert_eq!(tsig, cut.filter(|_| code == 9), "{length} bytes: told with a signature");
    }
    dnsd.log().wait_for(&["has 16 bytes, which are too few (BADTRUNC)"]);
    // The beginning of a wrong one is no more than a wrong one.
    let mut wrong = cut_bytes(&update, now(), 16);
    let last = wrong.len() - 7;
    wrong[last] ^= 1;
    let answer = exchange(&dnsd, &wrong);
    assert_eq!(answer.signature.unwrap().data.error, Some(TsigError::BadSig));
    assert_eq!(dnsd_serial(&dnsd), serial);
    assert_eq!(exchange(&dnsd, &cut_bytes(&update, now(), 32)).response_code.low(), 0);
}

/// A secondary that forwards an update gives it an ID of its own.
#[test]
fn a_forwarded_update_is_answered_with_a_signature_that_counts() {
    let dnsd = Dnsd::running(ZONE);
    let mut forwarded = signed(message(&["10.0.0.1"], None), now());
    let mac = Message::from_vec(&forwarded).unwrap().signature().unwrap().data.mac.clone();
    forwarded[..2].copy_from_slice(b"\x77\x77");
    let answer = exchange_bytes(&dnsd, &forwarded);
    assert_eq!((&answer[..2], answer[3] & 15), (b"\x77\x77".as_slice(), 0));
    signer().verify_message_byte(&answer, Some(&mac), true).unwrap();
}

/// Key names and the names in an update may be spelled in any case.
#[test]
fn a_key_is_the_same_in_upper_case() {
    let dnsd = Dnsd::running(ZONE);
    let mut update = signed(message(&["10.0.0.1"], None), now());
    let at = update.windows(6).rposition(|bytes| bytes == b"\x04vipd\0").unwrap();
    update[at + 1..at + 5].make_ascii_uppercase();
    assert_eq!(exchange(&dnsd, &update).response_code.low(), 0);
}

fn dnsd_serial(dnsd: &Dnsd) -> u32 {
    let query = b"\0\x09\0\0\0\x01\0\0\0\0\0\0\x04corp\x07example\0\0\x06\0\x01";
    let answer = exchange(dnsd, query);
    let hickory_proto::rr::RData::SOA(soa) = &answer.answers[0].data else { panic!("{answer}") };
    soa.serial
}
