//! Signed updates whose time is wrong, or that come twice.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Dnsd;
use common::leased::{cut_bytes, exchange, exchange_bytes, message, now, signed, signer};
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
    let mut dnsd = Dnsd::running(ZONE);
    let update = signed(message(&["10.0.0.1"], None), now());
    assert_eq!(exchange(&dnsd, &update).response_code.low(), 0);
    let serial = dnsd_serial(&dnsd);
    // It goes by another way; then the copy comes.
    let mut gone = message(&["10.0.0.1"], None);
    gone.authorities[0].dns_class = hickory_proto::rr::DNSClass::NONE;
    gone.authorities[0].ttl = 0;
    assert_eq!(exchange(&dnsd, &signed(gone, now())).response_code.low(), 0);
    let answer = exchange(&dnsd, &update);
    assert_eq!(answer.response_code.low(), 0, "a client whose answer was lost gets it");
    assert_eq!(dnsd_serial(&dnsd), serial + 1, "and it did nothing");
    // After a restart nothing is remembered: what was signed before is too old.
    let old = signed(message(&["10.0.0.2"], None), now() - 5);
    dnsd.kill();
    dnsd.start();
    let answer = exchange(&dnsd, &old);
    assert_eq!(answer.response_code.low(), 9);
    assert_eq!(answer.signature.unwrap().data.error, Some(TsigError::BadTime));
    dnsd.log().wait_for(&["it may be a copy"]);
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
    let mac = hickory_proto::op::Message::from_vec(&forwarded).unwrap().signature().unwrap().data.mac.clone();
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
