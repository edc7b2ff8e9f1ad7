//! Records in BIND, Knot, PowerDNS and dnsd, as their own answers over UDP tell them.

mod proxy;
mod servers;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use proxy::Fault;
use servers::{KEYS, Kind, Server, ZONE, key};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};
use vipd_cloud::rfc2136::{Key, KeyAlgorithm, PACE, Rfc2136};
use vipd_cloud::{Desired, Drift, Lease, LeaseRecord, Outcome, Owner, Problem, Publisher, RecordStore, Skew};

const NAME: &str = "db.corp.example.";

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let trials = Kind::ALL.iter().flat_map(|kind| {
        macro_rules! case {
            ($case:ident) => {
                trial(*kind, stringify!($case), |kind| run($case(Server::start(kind))))
            };
        }
        [
            case!(creates_changes_and_empties),
            case!(the_ttl_falls_while_a_change_is_near),
            case!(each_algorithm_signs),
            case!(long_leases_are_swapped_too),
            case!(twenty_writers_have_one_winner),
            case!(an_edit_is_told_and_repaired_on_demand),
            case!(a_server_that_lost_everything_gets_the_name_back),
            case!(a_wildcard_is_nobodys_record_of_the_name),
            case!(lost_messages_are_found_out_about),
            case!(a_proof_changes_nothing_and_fails_of_what_a_change_would),
            case!(a_key_that_is_wrong_is_named),
            case!(wrong_clocks_are_named),
            case!(wrong_zones_and_aliases_are_named),
            case!(a_server_that_is_down_is_left_alone),
        ]
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn trial(kind: Kind, case: &str, test: fn(Kind)) -> Trial {
    Trial::ignorable_test(format!("{}::{case}", kind.name()), move || {
        if let Some(reason) = kind.obstacle() {
            // `make test` has installed it: there it is no excuse.
            if std::env::var_os("LAB_NEEDS_ARE_MET").is_some() {
                return Err(Failed::from(reason));
            }
            return Ok(Completion::ignored_with(reason));
        }
        test(kind);
        Ok(Completion::Completed)
    })
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|a| a.parse().unwrap()).collect()
}

fn desired(owner: &str, addresses: &[&str]) -> Desired {
    let owner = Owner::new(owner).unwrap();
    let (may_be_empty, repair, restore) = (false, false, true);
    Desired { addresses: set(addresses), ttl: 5, owner, may_be_empty, repair, restore }
}

fn store(server: SocketAddr, key: Key) -> Rfc2136 {
    Rfc2136::new(server, ZONE, NAME, key).unwrap()
}

fn publisher(store: Rfc2136) -> Publisher<Rfc2136> {
    let place = store.place();
    // The first epoch is 1.
    Publisher::new(store, place, PACE).with_clock(|| UNIX_EPOCH)
}

/// Time enough for a busy machine.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn publish(publisher: &mut Publisher<Rfc2136>, desired: &Desired) -> Outcome {
    publisher.publish(desired, soon(), 0).await.unwrap()
}

fn written(epoch: u64) -> Outcome {
    Outcome::Written { epoch, pending: None }
}

/// What a client is told, and for how many seconds.
async fn resolve(server: &Server, name: &str, record_type: RecordType) -> BTreeSet<(String, u32)> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address).await.unwrap();
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    question.edns = Some(Default::default());
    question.edns.as_mut().unwrap().set_max_payload(4096);
    socket.send(&question.to_vec().unwrap()).await.unwrap();
    let mut answer = [0; 4096];
    let length = timeout(Duration::from_secs(10), socket.recv(&mut answer)).await.unwrap().unwrap();
    let answer = Message::from_vec(&answer[..length]).unwrap();
    answer.answers.iter().map(|r| (r.data.to_string(), r.ttl)).collect()
}

async fn a_records(server: &Server) -> BTreeSet<(String, u32)> {
    resolve(server, NAME, RecordType::A).await
}

fn answers(addresses: &[&str], ttl: u32) -> BTreeSet<(String, u32)> {
    addresses.iter().map(|a| ((*a).to_owned(), ttl)).collect()
}

async fn creates_changes_and_empties(server: Server) {
    let mut px1 = publisher(store(server.address, key(0)));
    let both = desired("px1", &["10.0.0.1", "10.0.0.2", "fd00::1"]);
    assert_eq!(
        px1.check(&both, soon(), 0).await.unwrap(),
        Outcome::Due(Lease {
            epoch: 1,
            owner: Owner::new("px1").unwrap(),
            ttl: 5,
            addresses: both.addresses.clone(),
        })
    );
    assert_eq!(publish(&mut px1, &both).await, written(1));
    assert_eq!(a_records(&server).await, answers(&["10.0.0.1", "10.0.0.2"], 5));
    assert_eq!(resolve(&server, NAME, RecordType::AAAA).await, answers(&["fd00::1"], 5));
    assert_eq!(publish(&mut px1, &both).await, Outcome::InSync);
    assert_eq!(px1.check(&both, soon(), 0).await.unwrap(), Outcome::InSync);

    // Another node takes over, with one address of each family and another TTL.
    let mut px2 = publisher(store(server.address, key(0)));
    let one = Desired { ttl: 9, ..desired("px2", &["10.0.0.2", "fd00::2"]) };
    assert_eq!(publish(&mut px2, &one).await, written(2));
    assert_eq!(a_records(&server).await, answers(&["10.0.0.2"], 9));
    assert_eq!(resolve(&server, NAME, RecordType::AAAA).await, answers(&["fd00::2"], 9));
    let status = px2.status();
    assert_eq!((status.epoch, status.in_sync, &status.error), (Some(2), true, &None));

    // Without a family, and with nothing at all.
    assert_eq!(publish(&mut px2, &desired("px2", &["fd00::2"])).await, written(3));
    assert_eq!(a_records(&server).await, answers(&[], 0));
    assert_eq!(publish(&mut px2, &desired("px2", &[])).await, Outcome::KeepLast);
    assert_eq!(resolve(&server, NAME, RecordType::AAAA).await, answers(&["fd00::2"], 5));
    let empty = Desired { may_be_empty: true, ..desired("px2", &[]) };
    assert_eq!(publish(&mut px2, &empty).await, written(4));
    assert_eq!(resolve(&server, NAME, RecordType::AAAA).await, answers(&[], 0));
    assert_eq!(publish(&mut px2, &one).await, written(5));
    assert_eq!(a_records(&server).await, answers(&["10.0.0.2"], 9));

    // Nothing else in the zone was touched.
    assert_eq!(resolve(&server, "static.corp.example.", RecordType::A).await, answers(&["192.0.2.80"], 60));
    // Its own state is stale now: it hears so, and may then write again.
    assert_eq!(
        publish(&mut px1, &desired("px1", &["10.0.0.1"])).await,
        Outcome::Lost(Lease {
            epoch: 5,
            owner: Owner::new("px2").unwrap(),
            ttl: 9,
            addresses: one.addresses.clone(),
        })
    );
    assert_eq!(a_records(&server).await, answers(&["10.0.0.2"], 9));
    assert_eq!(publish(&mut px1, &desired("px1", &["10.0.0.1"])).await, written(6));
}

/// What a cache holds when the change comes is gone a second later.
async fn the_ttl_falls_while_a_change_is_near(server: Server) {
    let mut px1 = publisher(store(server.address, key(0)));
    let calm = desired("px1", &["10.0.0.1", "10.0.0.2", "fd00::1"]);
    assert_eq!(publish(&mut px1, &calm).await, written(1));
    let near = calm.clone().while_a_change_is_near();
    assert_eq!(publish(&mut px1, &near).await, written(2));
    assert_eq!(a_records(&server).await, answers(&["10.0.0.1", "10.0.0.2"], 1));
    assert_eq!(resolve(&server, NAME, RecordType::AAAA).await, answers(&["fd00::1"], 1));
    assert_eq!(publish(&mut px1, &near).await, Outcome::InSync, "one write a suspicion");

    // It was nothing: the TTL is what it was, and so are the addresses.
    assert_eq!(publish(&mut px1, &calm).await, written(3));
    assert_eq!(a_records(&server).await, answers(&["10.0.0.1", "10.0.0.2"], 5));

    // It was something: whoever is elected writes from what the lease says.
    assert_eq!(publish(&mut px1, &near).await, written(4));
    let mut px2 = publisher(store(server.address, key(0)));
    assert_eq!(publish(&mut px2, &desired("px2", &["10.0.0.2"])).await, written(5));
    assert_eq!(a_records(&server).await, answers(&["10.0.0.2"], 5));
    // What the first one takes back is no more there.
    assert!(matches!(publish(&mut px1, &calm).await, Outcome::Lost(_)));
    assert_eq!(a_records(&server).await, answers(&["10.0.0.2"], 5));
}

async fn each_algorithm_signs(server: Server) {
    for (i, address) in ["10.0.0.1", "10.0.0.2", "10.0.0.3"].into_iter().enumerate() {
        let mut publisher = publisher(store(server.address, key(i)));
        assert_eq!(publish(&mut publisher, &desired("px1", &[address])).await, written(i as u64 + 1));
        assert_eq!(a_records(&server).await, answers(&[address], 5));
    }
}

/// A lease that needs several strings in its TXT record.
async fn long_leases_are_swapped_too(server: Server) {
    let many: Vec<String> = (1..=40).map(|i| format!("2001:db8:1111:2222:3333:4444:5555:{i:x}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut px1 = publisher(store(server.address, key(0)));
    assert_eq!(publish(&mut px1, &desired("px1", &many)).await, written(1));
    let mut px2 = publisher(store(server.address, key(0)));
    assert_eq!(publish(&mut px2, &desired("px2", &many[1..])).await, written(2));
    assert_eq!(resolve(&server, NAME, RecordType::AAAA).await.len(), 39);
}

async fn twenty_writers_have_one_winner(server: Server) {
    let names: Vec<String> = (1..=20).map(|i| format!("px{i}")).collect();
    let mut writers: Vec<_> = names.iter().map(|_| publisher(store(server.address, key(0)))).collect();
    for round in 1..=5 {
        let wanted: Vec<_> =
            (1..=20).map(|i| desired(&names[i - 1], &[&format!("10.{round}.0.{i}")])).collect();
        // All see the same state, and so write on the same.
        for (writer, wanted) in writers.iter_mut().zip(&wanted) {
            let due = writer.check(wanted, soon(), 0).await.unwrap();
            let Outcome::Due(lease) = due else { panic!("{due:?}") };
            assert_eq!(lease.epoch, round);
        }
        let mut writing = tokio::task::JoinSet::new();
        for (i, (mut writer, wanted)) in writers.drain(..).zip(wanted.clone()).enumerate() {
            writing.spawn(async move {
                let outcome = publish(&mut writer, &wanted).await;
                (i, writer, outcome)
            });
        }
        let mut done = writing.join_all().await;
        done.sort_by_key(|(i, ..)| *i);
        let winners: Vec<usize> =
            done.iter().filter(|(_, _, o)| *o == written(round)).map(|(i, ..)| *i).collect();
        let [winner] = winners.as_slice() else {
            panic!("round {round}: {:?}", done.iter().map(|(_, _, o)| o).collect::<Vec<_>>())
        };
        for (_, writer, outcome) in done {
            if let Outcome::Lost(lease) = &outcome {
                assert_eq!(lease.owner.to_string(), names[*winner]);
            } else {
                assert_eq!(outcome, written(round));
            }
            writers.push(writer);
        }
        assert_eq!(a_records(&server).await, answers(&[&format!("10.{round}.0.{}", winner + 1)], 5));
    }
}

async fn an_edit_is_told_and_repaired_on_demand(server: Server) {
    let mut px1 = publisher(store(server.address, key(0)));
    let wanted = desired("px1", &["10.0.0.1", "10.0.0.2"]);
    publish(&mut px1, &wanted).await;
    server.nsupdate("update add db.corp.example. 5 A 192.0.2.9");
    let drift = Drift::Edited {
        written: wanted.addresses.clone(),
        found: set(&["10.0.0.1", "10.0.0.2", "192.0.2.9"]),
    };
    // Not noticed before the write, which the server refuses.
    assert_eq!(publish(&mut px1, &desired("px1", &["10.0.0.1"])).await, Outcome::Drift(drift.clone()));
    assert_eq!(px1.check(&wanted, soon(), 0).await.unwrap(), Outcome::Drift(drift.clone()));
    assert_eq!(px1.status().drift, Some(drift));
    assert!(!px1.status().in_sync);
    assert_eq!(a_records(&server).await, answers(&["10.0.0.1", "10.0.0.2", "192.0.2.9"], 5));

    let repair = Desired { repair: true, ..wanted.clone() };
    assert_eq!(publish(&mut px1, &repair).await, written(2));
    assert_eq!(a_records(&server).await, answers(&["10.0.0.1", "10.0.0.2"], 5));

    // The edit is taken back by the person: no more drift.
    server.nsupdate("update add db.corp.example. 5 A 192.0.2.9");
    assert!(matches!(px1.check(&wanted, soon(), 0).await.unwrap(), Outcome::Drift(_)));
    server.nsupdate("update delete db.corp.example. A 192.0.2.9");
    assert_eq!(publish(&mut px1, &wanted).await, Outcome::InSync);

    // The lease itself.
    server.nsupdate(
        "update delete _vipd.db.corp.example. TXT\nupdate add _vipd.db.corp.example. 5 TXT \"mine\"",
    );
    let outcome = px1.check(&wanted, soon(), 0).await.unwrap();
    assert_eq!(outcome, Outcome::Drift(Drift::LeaseUnreadable("mine".to_owned())));
    server.nsupdate("update delete _vipd.db.corp.example. TXT");
    assert_eq!(publish(&mut px1, &wanted).await, Outcome::Drift(Drift::LeaseRemoved));
    assert_eq!(publish(&mut px1, &repair).await, written(3));
}

/// A wildcard's answers bear the name that was asked for.
async fn a_wildcard_is_nobodys_record_of_the_name(server: Server) {
    let at = |name: &str| publisher(Rfc2136::new(server.address, ZONE, name, key(0)).unwrap());
    // An address and a text, an alias, and what is the name's own below a wildcard.
    for name in ["db.wild.corp.example.", "db.star.corp.example."] {
        let mut px1 = at(name);
        let wanted = desired("px1", &["10.0.0.1"]);
        assert_eq!(resolve(&server, name, RecordType::TXT).await.len(), 1, "{name}");
        px1.store().prove(soon()).await.unwrap();
        let due = px1.check(&wanted, soon(), 0).await.unwrap();
        assert!(matches!(&due, Outcome::Due(lease) if lease.epoch == 1), "{due:?}");
        // Another node may be first, and both began from the same.
        let mut px2 = at(name);
        px2.check(&wanted, soon(), 0).await.unwrap();
        assert_eq!(publish(&mut px1, &wanted).await, written(1), "{name}");
        let other = desired("px2", &["10.0.0.2"]);
        assert!(matches!(publish(&mut px2, &other).await, Outcome::Lost(_)), "{name}");
        assert_eq!(resolve(&server, name, RecordType::A).await, answers(&["10.0.0.1"], 5));
        assert_eq!(publish(&mut px2, &other).await, written(2), "{name}");
        assert_eq!(resolve(&server, name, RecordType::A).await, answers(&["10.0.0.2"], 5));
        assert_eq!(resolve(&server, &format!("x.{name}"), RecordType::A).await, answers(&[], 0), "{name}");
    }
    let mut own = at("own.wild.corp.example.");
    for _ in 0..2 {
        let outcome = publish(&mut own, &desired("px1", &["10.0.0.1"])).await;
        assert_eq!(outcome, Outcome::Drift(Drift::Unclaimed { found: set(&["192.0.2.82"]) }));
    }
}

/// A disk that was lost, or a zone that somebody loaded anew: no address is left
/// that anybody could have meant, and the epoch goes on.
async fn a_server_that_lost_everything_gets_the_name_back(server: Server) {
    let mut px1 = publisher(store(server.address, key(0)));
    let wanted = desired("px1", &["10.0.0.1", "fd00::1"]);
    assert_eq!(publish(&mut px1, &wanted).await, written(1));
    assert_eq!(publish(&mut px1, &desired("px1", &["10.0.0.1"])).await, written(2));
    server.nsupdate(
        "update delete _vipd.db.corp.example. TXT\nupdate delete db.corp.example. A\n\
         update delete db.corp.example. AAAA",
    );
    let due = px1.check(&wanted, soon(), 0).await.unwrap();
    assert!(matches!(&due, Outcome::Due(lease) if lease.epoch == 3), "{due:?}");
    assert_eq!(publish(&mut px1, &wanted).await, written(3));
    assert_eq!(a_records(&server).await, answers(&["10.0.0.1"], 5));
}

async fn lost_messages_are_found_out_about(server: Server) {
    let mut direct = publisher(store(server.address, key(0)));
    let mut epoch = 0;
    for fault in [Fault::SilenceAfter, Fault::CloseAfter] {
        epoch += 1;
        let proxy = proxy::start(server.address, fault).await;
        let mut lossy = publisher(store(proxy, key(0)));
        let wanted = desired("px1", &[&format!("10.0.0.{epoch}")]);
        // Half of this is waited for the answer that does not come.
        let deadline = Instant::now() + Duration::from_secs(4);
        assert_eq!(lossy.publish(&wanted, deadline, 0).await.unwrap(), written(epoch), "{fault:?}");
        assert_eq!(a_records(&server).await, answers(&[&format!("10.0.0.{epoch}")], 5));
    }
    let proxy = proxy::start(server.address, Fault::SilenceBefore).await;
    let mut lossy = publisher(store(proxy, key(0)));
    let wanted = desired("px1", &["10.0.0.9"]);
    let error = lossy.publish(&wanted, Instant::now() + Duration::from_secs(4), 0).await.unwrap_err();
    assert!(matches!(error.problem, Problem::TimedOut), "{error}");
    assert_eq!(a_records(&server).await, answers(&["10.0.0.2"], 5));
    assert!(lossy.status().error.is_some() && lossy.status().paused_until.is_some());
    assert_eq!(publish(&mut direct, &wanted).await, written(3));
}

async fn refusal(store: Rfc2136) -> (Problem, String) {
    let error = publisher(store).publish(&desired("px1", &["10.0.0.1"]), soon(), 0).await.unwrap_err();
    let text = error.to_string();
    (error.problem, text)
}

async fn a_proof_changes_nothing_and_fails_of_what_a_change_would(server: Server) {
    let mut px1 = publisher(store(server.address, key(0)));
    px1.store().prove(soon()).await.unwrap();
    assert_eq!(a_records(&server).await, BTreeSet::new());
    assert_eq!(publish(&mut px1, &desired("px1", &["10.0.0.1", "fd00::1"])).await, written(1));
    let before = resolve(&server, "_vipd.db.corp.example.", RecordType::TXT).await;
    px1.store().prove(soon()).await.unwrap();
    assert_eq!(a_records(&server).await, answers(&["10.0.0.1"], 5));
    assert_eq!(resolve(&server, "_vipd.db.corp.example.", RecordType::TXT).await, before);
    let stranger = store(server.address, key(3)).prove(soon()).await.unwrap_err();
    assert!(matches!(stranger.problem, Problem::Refused { .. } | Problem::BadKey { .. }), "{stranger}");
}

async fn a_key_that_is_wrong_is_named(server: Server) {
    let secret = KEYS[0].2;
    let unknown = Key::new("nobody", KeyAlgorithm::HmacSha256, secret).unwrap();
    let (problem, text) = refusal(store(server.address, unknown)).await;
    // PowerDNS does not say what it dislikes.
    let is_powerdns = matches!(server.kind, Kind::PowerDns);
    assert!(matches!(problem, Problem::BadKey { .. }) || is_powerdns, "{text}");
    assert!(text.contains("nobody.") && text.contains("compare") == is_powerdns, "{text}");

    let wrong = Key::new("vipd", KeyAlgorithm::HmacSha256, KEYS[1].2).unwrap();
    let (problem, text) = refusal(store(server.address, wrong)).await;
    let is_told = match server.kind {
        Kind::Bind | Kind::Knot | Kind::Dnsd => matches!(problem, Problem::BadSignature { .. }),
        Kind::PowerDns => matches!(problem, Problem::BadTsig { .. }),
    };
    assert!(is_told, "{text}");

    // Known, but it may not.
    let (problem, text) = refusal(store(server.address, key(3))).await;
    let is_told = match server.kind {
        Kind::Bind | Kind::PowerDns | Kind::Dnsd => matches!(problem, Problem::Refused { .. }),
        // For Knot, a key that no ACL names is unknown.
        Kind::Knot => matches!(problem, Problem::BadKey { .. }),
    };
    assert!(is_told && text.contains("stranger."), "{text}");
    assert_eq!(a_records(&server).await, answers(&[], 0));
}

async fn wrong_clocks_are_named(server: Server) {
    const OFF: Duration = Duration::from_secs(1000);
    let clocks: [(fn() -> SystemTime, i64); 2] =
        [(|| SystemTime::now() + OFF, -1000), (|| SystemTime::now() - OFF, 1000)];
    for (clock, expected) in clocks {
        let (problem, text) = refusal(store(server.address, key(0)).with_clock(clock)).await;
        match (server.kind, problem) {
            (Kind::PowerDns, Problem::BadTsig { .. }) => assert!(text.contains("clocks"), "{text}"),
            (_, Problem::BadTime { skew: Skew(skew) }) => {
                assert!((expected - 30..=expected + 30).contains(&skew), "{text}");
            }
            (_, _) => panic!("{text}"),
        }
    }
    assert_eq!(a_records(&server).await, answers(&[], 0));
}

async fn wrong_zones_and_aliases_are_named(server: Server) {
    let at = |zone, name| Rfc2136::new(server.address, zone, name, key(0)).unwrap();
    // A zone that the server has not.
    let (problem, text) = refusal(at("other.example.", "db.other.example.")).await;
    assert!(matches!(problem, Problem::NotAuthoritative(_) | Problem::Refused { .. }), "{text}");
    // A name in a subzone that lies elsewhere.
    let (problem, text) = refusal(at(ZONE, "db.sub.corp.example.")).await;
    assert!(matches!(problem, Problem::NotAuthoritative(_)), "{text}");
    let (problem, text) = refusal(at(ZONE, "alias.corp.example.")).await;
    assert!(matches!(problem, Problem::Alias(_)), "{text}");
    // A zone that is wrong by a label.
    let (problem, text) = refusal(at("example.", NAME)).await;
    assert!(
        matches!(problem, Problem::NotAuthoritative(_) | Problem::NotZone(_) | Problem::Refused { .. }),
        "{text}"
    );
    assert!(Rfc2136::new(server.address, "other.example.", NAME, key(0)).is_err());
}

async fn a_server_that_is_down_is_left_alone(server: Server) {
    let mut px1 = publisher(store(server.address, key(0)));
    let wanted = desired("px1", &["10.0.0.1"]);
    publish(&mut px1, &wanted).await;
    let observed = px1.store().read(soon()).await.unwrap();
    assert!(matches!(observed.current.lease, LeaseRecord::Held(_)));
    drop(server);
    let since = Instant::now();
    let error = px1.check(&wanted, soon(), 0).await.unwrap_err();
    assert!(matches!(error.problem, Problem::Unreachable(_)), "{error}");
    let error = px1.publish(&desired("px1", &["10.0.0.2"]), soon(), 0).await.unwrap_err();
    assert!(matches!(error.problem, Problem::Paused { .. }), "{error}");
    // What was known is still told, with what went wrong since when.
    let status = px1.status();
    assert_eq!(status.published, wanted.addresses);
    assert!(status.error.as_ref().is_some_and(|(_, at)| *at >= since));
}
