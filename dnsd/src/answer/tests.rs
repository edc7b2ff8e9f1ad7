use super::*;
use crate::cookie::Cookies;
use crate::handler;
use crate::name::from_text;
use crate::served::ServedZone;
use crate::tsig::Keys;
use crate::zone::Soa;
use crate::zone::rrset::RrSet;
use hickory_proto::op::Message;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use vipd_config::dnsd;

fn settings() -> dnsd::Zone {
    dnsd::Zone {
        name: "corp.example.".into(),
        primary_ns: "ns1.corp.example.".into(),
        contact: "hostmaster.corp.example.".into(),
        negative_ttl: 5,
        file: None,
        allow_transfer: vec![],
        notify: vec![],
        min_lease: Duration::from_secs(30),
        max_lease: Duration::from_secs(30),
        expire_last: false,
    }
}

pub(crate) fn shared(names: &[(String, u16, u8)]) -> Shared {
    let name = from_text("ns1.corp.example.");
    let soa = Soa { contact: name.clone(), primary: name, refresh: 1, retry: 1, expire: 1, minimum: 5 };
    let mut zone = Zone::new(from_text("corp.example."), soa, 7);
    for (name, rtype, data) in names {
        let name = from_text(&format!("{name}.corp.example."));
        let data: Vec<u8> = match rtype {
            1 => vec![10, 0, 0, *data],
            5 => [&[2, b'a' + data % 4, b'a' + data % 3], &*from_text("corp.example.")].concat(),
            _ => vec![1, *data],
        };
        let old = zone.get(&name, *rtype).cloned();
        let alias = zone.get(&name, 5).is_some() || (*rtype == 5 && zone.sets(&name).next().is_some());
        let set = match old {
            Some(old) if *rtype != 5 => old.with(&data, 5),
            _ => RrSet::new(*rtype, 5, [data]),
        };
        if !alias {
            zone.put(&name, *rtype, set);
        }
    }
    let serving = Serving { zone: ServedZone::new(zone), settings: Arc::new(settings()) };
    let limit = dnsd::RateLimit { responses_per_second: 0, slip: 0, exempt: vec![] };
    Shared::new(Served::new([serving], Keys::default(), limit), Cookies::new().unwrap())
}

fn question(name: &str, rtype: u16) -> Vec<u8> {
    let head = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&head[..], &from_text(name), &rtype.to_be_bytes(), &[0, 1]].concat()
}

/// What can be compared: the sections, sorted.
fn essence(message: &[u8]) -> (u8, bool, Vec<Vec<String>>) {
    let message = Message::from_vec(message).unwrap();
    let sections = [&message.answers, &message.authorities, &message.additionals];
    let sorted = |records: &Vec<hickory_proto::rr::Record>| {
        let mut lines: Vec<_> = records.iter().map(|record| format!("{record:?}").to_lowercase()).collect();
        lines.sort();
        lines
    };
    (message.response_code.low(), message.authoritative, sections.map(sorted).into())
}

fn label() -> impl Strategy<Value = String> {
    proptest::collection::vec("[a-d]{2}", 1..4).prop_map(|labels| labels.join("."))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// What is copied from prepared records is what hickory's catalog puts together.
    #[test]
    fn prepared_answers_are_hickorys_answers(
        names in proptest::collection::vec((label(), prop_oneof![Just(1_u16), Just(16), Just(5)], any::<u8>()), 0..30),
        asked in proptest::collection::vec((label(), prop_oneof![Just(1_u16), Just(16), Just(28), Just(5)]), 1..20),
    ) {
        let shared = shared(&names);
        let served = shared.served.load_full();
        let mut answerer = Answerer::new().unwrap();
        let source = Source { address: "192.0.2.1".parse().unwrap(), udp: false, now: 1 };
        for (name, rtype) in asked.iter().chain(names.iter().map(|(n, t, _)| (n.clone(), *t)).collect::<Vec<_>>().iter()) {
            let question = question(&format!("{name}.corp.example."), *rtype);
            let mut out = Vec::new();
            let outcome = answerer.answer(&shared, &served, &question, source, &mut out);
            assert!(matches!(outcome, Outcome::Answer));
            let (code, authoritative, ours) = essence(&out);
            let asked = from_text(&format!("{name}.corp.example."));
            let said = Said::of(&served.find(&asked).unwrap().zone.read(), &asked, (*rtype).into(), 0);
            let catalog = handler::ask(&Arc::new(said), question).unwrap();
            let (their_code, their_authority, theirs) = essence(&catalog);
            prop_assert_eq!(authoritative, their_authority);
            if ours[0].iter().any(|record| record.contains("cname")) {
                // Behind an alias this server adds what hickory leaves out (RFC 6604, RFC 2308).
                prop_assert_eq!(&ours[0], &theirs[0]);
            } else {
                prop_assert_eq!((code, ours), (their_code, theirs), "{} {}", name, rtype);
            }
        }
    }

    #[test]
    fn no_message_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let shared = shared(&[("db".into(), 1, 1)]);
        let served = shared.served.load_full();
        let source = Source { address: "192.0.2.1".parse().unwrap(), udp: true, now: 1 };
        Answerer::new().unwrap().answer(&shared, &served, &bytes, source, &mut Vec::new());
    }
}

#[test]
fn an_answer_is_never_larger_than_the_client_takes() {
    let names: Vec<_> = (0..100).map(|i| ("db".to_owned(), 1, i)).collect();
    let shared = shared(&names);
    let served = shared.served.load_full();
    let mut answerer = Answerer::new().unwrap();
    let mut out = Vec::new();
    for size in [0_u16, 512, 600, 1232, 4096, 65535] {
        let mut query = question("db.corp.example.", 1);
        query[11] = 1;
        query.extend([0, 0, 41]);
        query.extend(size.to_be_bytes());
        query.extend([0; 6]);
        let mut source = Source { address: "192.0.2.1".parse().unwrap(), udp: true, now: 1 };
        answerer.answer(&shared, &served, &query, source, &mut out);
        assert!(out.len() <= usize::from(size).clamp(512, 1232), "{size}: {}", out.len());
        assert_eq!(out[2] & 2, 2, "{size}: TC");
        source.udp = false;
        answerer.answer(&shared, &served, &query, source, &mut out);
        assert_eq!(out[7], 100);
    }
}

/// An answer's code and the data of its addresses, in their order.
fn addresses(shared: &Shared, answerer: &mut Answerer, name: &str) -> (u8, Vec<u8>) {
    let source = Source { address: "192.0.2.1".parse().unwrap(), udp: false, now: 1 };
    let mut out = Vec::new();
    answerer.answer(shared, &shared.served.load(), &question(name, 1), source, &mut out);
    let answer = Message::from_vec(&out).unwrap();
    let last = |record: &hickory_proto::rr::Record| match record.data.ip_addr()? {
        IpAddr::V4(v4) => Some(v4.octets()[3]),
        IpAddr::V6(_) => None,
    };
    (answer.response_code.low(), answer.answers.iter().filter_map(last).collect())
}

#[test]
fn sets_behind_an_alias_and_a_wildcard_are_rotated_too() {
    let of = |name: &str| (1..4).map(|i| (name.to_owned(), 1, i)).collect::<Vec<_>>();
    let names = [of("db"), of("*.wild")].concat();
    let shared = shared(&names);
    // `alias` leads to `db`, and so does all below `both`.
    let db = from_text("db.corp.example.");
    for alias in ["alias.corp.example.", "*.both.corp.example."] {
        let served = shared.served.load();
        served.zones()[0].zone.write().put(&from_text(alias), 5, RrSet::new(5, 5, [&db]));
    }
    let mut answerer = Answerer::new().unwrap();
    for name in ["db", "alias", "x.wild", "x.both"] {
        let mut first = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let (code, mut all) = addresses(&shared, &mut answerer, &format!("{name}.corp.example."));
            first.insert(all[0]);
            all.sort_unstable();
            assert_eq!((code, all), (0, vec![1, 2, 3]), "{name}");
        }
        assert_eq!(first.len(), 3, "{name}: each of them comes first now and then");
    }
}

/// The alias' target comes and goes while it is asked for.
#[test]
fn code_and_records_of_an_answer_are_of_one_moment() {
    let shared = shared(&[("db".into(), 1, 1)]);
    let (alias, db) = (from_text("alias.corp.example."), from_text("db.corp.example."));
    let zone = Arc::clone(&shared.served.load().zones()[0].zone);
    zone.write().put(&alias, 5, RrSet::new(5, 5, [&db]));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                zone.write().put(&db, 1, None);
                zone.write().put(&db, 1, RrSet::new(1, 5, [[10, 0, 0, 1]]));
            }
        });
        let mut answerer = Answerer::new().unwrap();
        let answers: Vec<_> =
            (0..20_000).map(|_| addresses(&shared, &mut answerer, "alias.corp.example.")).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let wrong = answers.iter().find(|(code, all)| (*code == 0) == all.is_empty());
        assert_eq!(wrong, None);
    });
}

/// Names below a wildcard or a delegation are as many as one likes: without end
/// there would be answers that none was before.
#[test]
fn made_up_names_count_as_one_for_the_rate_limit() {
    let shared = shared(&[("*.wild".into(), 1, 1), ("db".into(), 1, 1), ("x.db".into(), 1, 1)]);
    let served = shared.served.load_full();
    let zones: Vec<_> = served.zones().into_iter().cloned().collect();
    let limit = dnsd::RateLimit { responses_per_second: 3, slip: 0, exempt: vec![] };
    let served = Served::new(zones, Keys::default(), limit);
    let mut answerer = Answerer::new().unwrap();
    let mut answered = |names: &mut dyn Iterator<Item = String>, rtype, now| {
        let source = Source { address: "192.0.2.1".parse().unwrap(), udp: true, now };
        let ask = |name: String| {
            let question = question(&format!("{name}.corp.example."), rtype);
            answerer.answer(&shared, &served, &question, source, &mut Vec::new())
        };
        names.map(ask).filter(|outcome| matches!(outcome, Outcome::Answer)).count()
    };
    assert_eq!(answered(&mut (0..20).map(|i| format!("n{i}.wild")), 1, 1), 3);
    assert_eq!(answered(&mut (0..20).map(|i| format!("n{i}.wild")), 255, 2), 3);
    assert_eq!(answered(&mut (0..20).map(|i| format!("n{i}")), 1, 3), 3);
    assert_eq!(answered(&mut ["db", "x.db"].into_iter().cycle().take(20).map(String::from), 1, 4), 6);
}

/// A client's own half of a cookie is eight bytes of anybody's making.
#[test]
fn a_cookie_that_this_server_did_not_make_buys_no_more_answers() {
    let shared = shared(&[("db".into(), 1, 1)]);
    let served = shared.served.load_full();
    let zones: Vec<_> = served.zones().into_iter().cloned().collect();
    let limit = dnsd::RateLimit { responses_per_second: 3, slip: 2, exempt: vec![] };
    let served = Served::new(zones, Keys::default(), limit);
    let mut answerer = Answerer::new().unwrap();
    let source = Source { address: "192.0.2.1".parse().unwrap(), udp: true, now: 1 };
    let mut ask = |cookie: &[u8]| {
        let mut query = question("db.corp.example.", 1);
        query[11] = 1;
        let option = u8::try_from(cookie.len()).unwrap();
        query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, option + 4, 0, 10, 0, option]);
        query.extend(cookie);
        let mut out = Vec::new();
        let outcome = answerer.answer(&shared, &served, &query, source, &mut out);
        matches!(outcome, Outcome::Answer).then(|| Message::from_vec(&out).unwrap())
    };
    let codes: Vec<_> = (0..9).map(|_| ask(b"forgers!").map(|m| u16::from(m.response_code))).collect();
    let bad = Some(rcode::BADCOOKIE);
    assert_eq!(codes, [Some(0), Some(0), Some(0), None, bad, None, bad, None, bad]);
    // What the client does with it: it is answered at once.
    ask(b"forgers!");
    let refused = ask(b"forgers!").unwrap();
    let edns = refused.edns.unwrap();
    let Some(EdnsOption::Unknown(_, cookie)) = edns.option(EdnsCode::Cookie) else { panic!("{edns:?}") };
    assert_eq!(ask(cookie).unwrap().answers.len(), 1);
}

/// The writer's queue has an end: it is for those who have a key.
#[test]
fn an_update_that_nobody_signed_does_not_get_to_the_writer() {
    let shared = shared(&[("db".into(), 1, 1)]);
    let served = shared.served.load_full();
    let mut answerer = Answerer::new().unwrap();
    let mut update = question("corp.example.", 6);
    update[2] = 0x28;
    let mut forged = update.clone();
    forged[11] = 1;
    forged.extend(b"\x04vipd\0\0\xfa\0\xff\0\0\0\0\0\x3d\x0bhmac-sha256\0\0\0\x6b\x01\x65\x92\x01\x2c\0\x20");
    forged.extend(b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\x12\x34\0\0\0\0");
    let mut out = Vec::new();
    for (bytes, code) in [(&update, rcode::REFUSED), (&forged, rcode::NOTAUTH)] {
        for udp in [true, false] {
            let source = Source { address: "192.0.2.1".parse().unwrap(), udp, now: 1 };
            let outcome = answerer.answer(&shared, &served, bytes, source, &mut out);
            assert!(matches!(outcome, Outcome::Answer), "{outcome:?}");
            assert_eq!((out[2] >> 3 & 15, out[3] & 15), (5, code));
        }
    }
    assert_eq!(shared.metrics.updates_refused.get(), 4);
}
