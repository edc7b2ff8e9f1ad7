//! Records in Route 53: the real SDK against a strict fake, over HTTP.

mod fake;
mod imds;
mod moto;

use fake::{BatchError, Fake, Fault, HEALTH_CHECK, ZONE_ID};
use imds::Instance;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use moto::Moto;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, ExitCode};
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::{Instant, timeout};
use vipd_cloud::route53::{Following, Form, Member, PACE, Route53};
use vipd_cloud::{Desired, Drift, Outcome, Owner, Problem, Publisher, Skew};

const NAME: &str = "db.corp.example.";
const LEASE: &str = "_vipd.db.corp.example.";
/// Says that a process is to publish to this endpoint, and to tell the outcome.
const PUBLISH_TO: &str = "VIPD_TEST_PUBLISH_TO";
/// Says that a process has its credentials.
const CREDENTIALS_ARE_SET: &str = "VIPD_TEST_CREDENTIALS_ARE_SET";

fn main() -> ExitCode {
    if let Ok(endpoint) = std::env::var(PUBLISH_TO) {
        run(publish_and_tell(endpoint));
        return ExitCode::SUCCESS;
    }
    // Credentials come by the SDK's own chain, which reads the environment.
    if std::env::var_os(CREDENTIALS_ARE_SET).is_none() {
        let mut command = itself();
        command.env("AWS_ACCESS_KEY_ID", "AKIDTEST").env("AWS_SECRET_ACCESS_KEY", "secret");
        command.env(CREDENTIALS_ARE_SET, "yes").args(std::env::args_os().skip(1));
        let code = command.status().unwrap().code().unwrap_or(1);
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    macro_rules! case {
        ($case:ident) => {
            Trial::test(stringify!($case), || {
                run($case());
                Ok(())
            })
        };
    }
    macro_rules! with_moto {
        ($case:ident) => {
            Trial::ignorable_test(stringify!($case), || {
                if let Some(reason) = moto::obstacle() {
                    // `make test` has installed it: there it is no excuse.
                    if std::env::var_os("LAB_NEEDS_ARE_MET").is_some() {
                        return Err(Failed::from(reason));
                    }
                    return Ok(Completion::ignored_with(reason));
                }
                run($case());
                Ok(Completion::Completed)
            })
        };
    }
    let trials = vec![
        case!(creates_changes_and_empties),
        case!(multivalue_records_have_an_identifier_for_each_node),
        case!(other_settings_build_the_records_anew),
        case!(names_between_are_passed_over),
        case!(twenty_writers_have_one_winner),
        case!(edits_are_told_and_repaired_on_demand),
        case!(lost_messages_are_found_out_about),
        case!(changes_are_followed_until_they_are_in_sync),
        case!(throttling_opens_the_circuit),
        case!(refusals_tell_what_to_do),
        case!(a_proof_changes_nothing_and_fails_of_what_a_change_would),
        case!(wrong_clocks_are_named),
        case!(the_instances_role_gives_credentials),
        case!(missing_credentials_are_explained),
        with_moto!(motos_metadata_gives_the_roles_credentials),
        with_moto!(another_role_is_assumed_from_the_instances),
        with_moto!(a_web_identity_becomes_a_session),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// This program without anything of AWS in its environment.
fn itself() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    command
}

async fn publish_and_tell(endpoint: String) {
    let store = Route53::new(ZONE_ID, NAME, Form::Simple, Some(&endpoint)).await.unwrap();
    // What the daemon may have: the reason must be found within it.
    let deadline = Instant::now() + Duration::from_secs(8);
    let told = match publisher(store).publish(&desired("px1", &["10.0.0.1"]), deadline, 0).await {
        Ok(outcome) => format!("{outcome:?}"),
        Err(e) => e.to_string(),
    };
    std::io::stdout().write_all(told.as_bytes()).unwrap();
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|a| a.parse().unwrap()).collect()
}

fn desired(owner: &str, addresses: &[&str]) -> Desired {
    let owner = Owner::new(owner).unwrap();
    let (may_be_empty, repair, restore) = (false, false, false);
    Desired { addresses: set(addresses), ttl: 5, owner, may_be_empty, repair, restore }
}

async fn store(fake: &Fake, form: Form) -> Route53 {
    Route53::new(ZONE_ID, NAME, form, Some(&fake.url())).await.unwrap()
}

fn publisher(store: Route53) -> Publisher<Route53> {
    let place = store.place();
    // The first epoch is 1.
    Publisher::new(store, place, PACE).with_clock(|| UNIX_EPOCH)
}

async fn simple(fake: &Fake) -> Publisher<Route53> {
    publisher(store(fake, Form::Simple).await)
}

/// Time enough for a busy machine.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

async fn publish(publisher: &mut Publisher<Route53>, desired: &Desired) -> Outcome {
    publisher.publish(desired, soon(), 0).await.unwrap()
}

fn written(epoch: u64) -> Outcome {
    Outcome::Written { epoch, pending: None }
}

/// Type, identifier, TTL and values of a name's sets.
fn at(fake: &Fake, name: &str) -> Vec<(String, String, u32, Vec<String>)> {
    let sets = fake.state().at(name);
    let each = sets.into_iter().map(|s| {
        (s.record_type, s.identifier.unwrap_or_default(), s.ttl, s.values.into_iter().collect::<Vec<_>>())
    });
    each.collect()
}

fn record(
    record_type: &str,
    identifier: &str,
    ttl: u32,
    values: &[&str],
) -> (String, String, u32, Vec<String>) {
    let values = values.iter().map(|v| (*v).to_owned()).collect();
    (record_type.to_owned(), identifier.to_owned(), ttl, values)
}

async fn creates_changes_and_empties() {
    let fake = Fake::start().await;
    let mut px1 = simple(&fake).await;
    let both = desired("px1", &["10.0.0.1", "10.0.0.2", "fd00::1"]);
    assert!(matches!(px1.check(&both, soon(), 0).await.unwrap(), Outcome::Due(_)));
    assert_eq!(publish(&mut px1, &both).await, written(1));
    assert_eq!(
        at(&fake, NAME),
        [record("A", "", 5, &["10.0.0.1", "10.0.0.2"]), record("AAAA", "", 5, &["fd00::1"])]
    );
    let lease = at(&fake, LEASE).pop().unwrap();
    let text = "\"epoch=1 owner=px1 ttl=5 set=10.0.0.1,10.0.0.2,fd00::1 form=";
    assert!(lease.3.len() == 1 && lease.3[0].starts_with(text), "{lease:?}");
    assert_eq!(lease, record("TXT", "", 5, &[&lease.3[0]]));

    // No change, no request.
    let before = fake.state().requests.len();
    assert_eq!(publish(&mut px1, &both).await, Outcome::InSync);
    assert_eq!(fake.state().requests.len(), before);
    // A change starts from what is known: one request.
    assert_eq!(publish(&mut px1, &desired("px1", &["10.0.0.1"])).await, written(2));
    assert_eq!(fake.state().requests.split_off(before), ["ChangeResourceRecordSets"]);
    assert_eq!(at(&fake, NAME), [record("A", "", 5, &["10.0.0.1"])]);

    let mut px2 = simple(&fake).await;
    let other = Desired { ttl: 9, ..desired("px2", &["fd00::2"]) };
    assert_eq!(publish(&mut px2, &other).await, written(3));
    assert_eq!(at(&fake, NAME), [record("AAAA", "", 9, &["fd00::2"])]);
    assert!(matches!(publish(&mut px1, &desired("px1", &["10.0.0.2"])).await, Outcome::Lost(_)));
    assert_eq!(publish(&mut px2, &desired("px2", &[])).await, Outcome::KeepLast);
    let empty = Desired { may_be_empty: true, ..desired("px2", &[]) };
    assert_eq!(publish(&mut px2, &empty).await, written(4));
    assert_eq!(at(&fake, NAME), []);
    assert_eq!(publish(&mut px2, &other).await, written(5));
    assert_eq!(px2.status().epoch, Some(5));
}

fn members() -> Form {
    members_checked_by(Some(HEALTH_CHECK))
}

fn members_checked_by(px2: Option<&str>) -> Form {
    let member = |name: &str, addresses: &[&str], health_check: Option<&str>| Member {
        name: name.to_owned(),
        addresses: set(addresses),
        health_check: health_check.map(str::to_owned),
    };
    Form::Multivalue(vec![
        member("px1", &["10.0.0.1", "fd00::1"], None),
        member("px2", &["10.0.0.2", "fd00::2"], px2),
    ])
}

async fn multivalue_records_have_an_identifier_for_each_node() {
    let fake = Fake::start().await;
    let mut px1 = publisher(store(&fake, members()).await);
    let all = desired("px1", &["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"]);
    assert_eq!(publish(&mut px1, &all).await, written(1));
    assert_eq!(
        at(&fake, NAME),
        [
            record("A", "10.0.0.3", 5, &["10.0.0.3"]),
            record("A", "px1", 5, &["10.0.0.1"]),
            record("A", "px2", 5, &["10.0.0.2"]),
            record("AAAA", "px1", 5, &["fd00::1"]),
            record("AAAA", "px2", 5, &["fd00::2"]),
        ]
    );
    let checked = fake.state().at(NAME).into_iter().filter(|s| s.health_check.is_some());
    assert_eq!(checked.map(|s| s.identifier.unwrap()).collect::<Vec<_>>(), ["px2", "px2"]);

    // A node that is gone is removed by another, which starts by reading.
    let mut px2 = publisher(store(&fake, members()).await);
    assert_eq!(publish(&mut px2, &desired("px2", &["10.0.0.2", "fd00::2"])).await, written(2));
    assert_eq!(
        at(&fake, NAME),
        [record("A", "px2", 5, &["10.0.0.2"]), record("AAAA", "px2", 5, &["fd00::2"])]
    );
}

/// `records` and `health-checks` are changed in the file, by a reload or a restart:
/// what is there is what vipd wrote, and nobody's edit.
async fn other_settings_build_the_records_anew() {
    let fake = Fake::start().await;
    let wanted = desired("px1", &["10.0.0.1", "10.0.0.2"]);
    let checked = |fake: &Fake| {
        let sets = fake.state().at(NAME).into_iter();
        sets.filter_map(|s| Some((s.identifier?, s.health_check?))).collect::<Vec<_>>()
    };
    assert_eq!(publish(&mut publisher(store(&fake, members()).await), &wanted).await, written(1));
    assert_eq!(checked(&fake), [("px2".to_owned(), HEALTH_CHECK.to_owned())]);
    let unchecked = || members_checked_by(None);
    assert_eq!(publish(&mut publisher(store(&fake, unchecked()).await), &wanted).await, written(2));
    assert_eq!(checked(&fake), []);
    assert_eq!(publish(&mut simple(&fake).await, &wanted).await, written(3));
    assert_eq!(at(&fake, NAME), [record("A", "", 5, &["10.0.0.1", "10.0.0.2"])]);
    let mut px1 = publisher(store(&fake, members()).await);
    assert_eq!(publish(&mut px1, &wanted).await, written(4));
    // Another node with these settings has nothing to do.
    assert_eq!(publish(&mut publisher(store(&fake, members()).await), &wanted).await, Outcome::InSync);

    // A person has taken a health check away. That is an edit, also by other settings.
    fake.state().sets.values_mut().for_each(|s| s.health_check = None);
    assert_eq!(px1.check(&wanted, soon(), 0).await.unwrap(), Outcome::Drift(Drift::Rebuilt));
    let mut other = simple(&fake).await;
    assert_eq!(publish(&mut other, &wanted).await, Outcome::Drift(Drift::Rebuilt));
    assert_eq!(checked(&fake), []);
    let repair = Desired { repair: true, ..wanted };
    assert_eq!(publish(&mut px1, &repair).await, written(5));
    assert_eq!(checked(&fake), [("px2".to_owned(), HEALTH_CHECK.to_owned())]);
}

/// The lease's name does not follow its name when others sort between.
async fn names_between_are_passed_over() {
    let fake = Fake::start().await;
    for i in 0..250 {
        fake.state().put(&format!("{i}.db.corp.example."), "A", 60, &["192.0.2.1"]);
    }
    fake.state().put("a.corp.example.", "A", 60, &["192.0.2.1"]);
    let mut px1 = simple(&fake).await;
    assert_eq!(publish(&mut px1, &desired("px1", &["10.0.0.1"])).await, written(1));
    let mut px2 = simple(&fake).await;
    assert_eq!(publish(&mut px2, &desired("px2", &["10.0.0.2"])).await, written(2));
    // And more records than a page has.
    let many: Vec<String> = (0..150).map(|i| format!("10.1.0.{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut px3 = publisher(store(&fake, members()).await);
    let wanted = Desired { repair: true, ..desired("px3", &many) };
    assert_eq!(publish(&mut px3, &wanted).await, written(3));
    let mut px4 = publisher(store(&fake, members()).await);
    assert_eq!(publish(&mut px4, &desired("px4", &many)).await, Outcome::InSync);
    assert_eq!(fake.state().at("7.db.corp.example.").len(), 1);
}

async fn twenty_writers_have_one_winner() {
    let fake = Fake::start().await;
    for round in 1..=3 {
        fake.state().batch_error = if round == 2 { BatchError::Documented } else { BatchError::Wrapped };
        let mut writing = tokio::task::JoinSet::new();
        let ready = std::sync::Arc::new(tokio::sync::Barrier::new(20));
        for i in 1..=20 {
            let (fake, ready) = (fake.clone(), std::sync::Arc::clone(&ready));
            writing.spawn(async move {
                let mut writer = simple(&fake).await;
                let wanted = desired(&format!("px{i}"), &[&format!("10.0.{round}.{i}")]);
                assert!(matches!(writer.check(&wanted, soon(), 0).await.unwrap(), Outcome::Due(_)));
                ready.wait().await;
                publish(&mut writer, &wanted).await
            });
        }
        let outcomes = writing.join_all().await;
        let won = outcomes.iter().filter(|o| **o == written(round)).count();
        let lost = outcomes.iter().filter(|o| matches!(o, Outcome::Lost(l) if l.epoch == round)).count();
        assert_eq!((won, lost), (1, 19), "{outcomes:?}");
    }
}

async fn edits_are_told_and_repaired_on_demand() {
    let fake = Fake::start().await;
    let mut px1 = simple(&fake).await;
    let wanted = desired("px1", &["10.0.0.1", "10.0.0.2"]);
    publish(&mut px1, &wanted).await;
    fake.state().put(NAME, "A", 5, &["192.0.2.9"]);
    let drift = Drift::Edited { written: wanted.addresses.clone(), found: set(&["192.0.2.9"]) };
    // Not noticed before the write, which the fake refuses.
    assert_eq!(publish(&mut px1, &desired("px1", &["10.0.0.1"])).await, Outcome::Drift(drift.clone()));
    assert_eq!(px1.check(&wanted, soon(), 0).await.unwrap(), Outcome::Drift(drift));
    assert_eq!(at(&fake, NAME), [record("A", "", 5, &["192.0.2.9"])]);
    let repair = Desired { repair: true, ..wanted.clone() };
    assert_eq!(publish(&mut px1, &repair).await, written(2));
    assert_eq!(at(&fake, NAME), [record("A", "", 5, &["10.0.0.1", "10.0.0.2"])]);
    // Only the TTL.
    fake.state().put(NAME, "A", 300, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(px1.check(&wanted, soon(), 0).await.unwrap(), Outcome::Drift(Drift::Rebuilt));
    // A change is made all the same, from the exact state.
    assert_eq!(publish(&mut px1, &desired("px1", &["10.0.0.1"])).await, written(3));
    assert_eq!(at(&fake, NAME), [record("A", "", 5, &["10.0.0.1"])]);

    // All of it was removed: that was a person.
    fake.state().sets.clear();
    assert_eq!(px1.check(&wanted, soon(), 0).await.unwrap(), Outcome::Drift(Drift::Gone));

    // Records from before vipd, and a name that is an alias.
    fake.state().put(NAME, "A", 60, &["192.0.2.9"]);
    let mut px2 = simple(&fake).await;
    let found = set(&["192.0.2.9"]);
    assert_eq!(publish(&mut px2, &wanted).await, Outcome::Drift(Drift::Unclaimed { found }));
    assert_eq!(publish(&mut px2, &repair).await, written(1));
    fake.state().sets.clear();
    fake.state().put(NAME, "CNAME", 60, &["db.example.net."]);
    let error = simple(&fake).await.publish(&wanted, soon(), 0).await.unwrap_err();
    assert!(matches!(error.problem, Problem::Alias(_)), "{error}");
}

async fn lost_messages_are_found_out_about() {
    let fake = Fake::start().await;
    let mut px1 = simple(&fake).await;
    let mut epoch = 0;
    for fault in [Fault::LoseReply, Fault::SilentReply, Fault::InternalError] {
        epoch += 1;
        fake.state().faults.push_back(fault);
        let address = format!("10.0.0.{epoch}");
        let deadline = Instant::now() + Duration::from_secs(6);
        let outcome = px1.publish(&desired("px1", &[&address]), deadline, 0).await.unwrap();
        assert_eq!(outcome, written(epoch), "{fault:?}");
        assert_eq!(at(&fake, NAME), [record("A", "", 5, &[&address])]);
    }
    fake.state().faults.push_back(Fault::LoseRequest);
    let wanted = desired("px1", &["10.0.0.9"]);
    let error = px1.publish(&wanted, soon(), 0).await.unwrap_err();
    assert!(matches!(error.problem, Problem::Unreachable(_)), "{error}");
    assert_eq!(at(&fake, NAME), [record("A", "", 5, &["10.0.0.3"])]);
    let pause = px1.status().paused_until.unwrap();
    tokio::time::sleep_until(pause).await;
    assert_eq!(publish(&mut px1, &wanted).await, written(4));
}

async fn changes_are_followed_until_they_are_in_sync() {
    let fake = Fake::start().await;
    fake.state().propagation = Duration::from_millis(300);
    let mut px1 = simple(&fake).await;
    let since = Instant::now();
    let outcome = publish(&mut px1, &desired("px1", &["10.0.0.1"])).await;
    let Outcome::Written { epoch: 1, pending: Some(change) } = outcome else { panic!("{outcome:?}") };
    let every = Duration::from_millis(50);
    let following = |time| Following::new(&change, every, Instant::now() + time);
    let error = px1.store().follow(&mut following(every / 2)).await.unwrap_err();
    assert!(matches!(error.problem, Problem::TimedOut), "{error}");
    px1.store().follow(&mut following(Duration::from_secs(30))).await.unwrap();
    assert!(since.elapsed() >= Duration::from_millis(300));

    // What says nothing of the change ends nothing, and is asked half as often each time.
    let since = Instant::now();
    let faults = [Fault::LoseRequest, Fault::PriorRequest, Fault::InternalError];
    fake.state().faults.extend(faults);
    px1.store().follow(&mut following(Duration::from_secs(30))).await.unwrap();
    assert!(since.elapsed() >= every * (2 + 4 + 8), "{:?}", since.elapsed());
    fake.state().faults.push_back(Fault::PriorRequest);
    let error = px1.store().follow(&mut following(every / 2)).await.unwrap_err();
    assert!(matches!(error.problem, Problem::Throttled(_)), "{error}");

    // Whoever follows does other things in between: neither the pace nor the deadline begins anew.
    fake.state().propagation = Duration::from_secs(600);
    let outcome = publish(&mut px1, &desired("px1", &["10.0.0.2"])).await;
    let Outcome::Written { pending: Some(change), .. } = outcome else { panic!("{outcome:?}") };
    fake.state().faults.extend([Fault::PriorRequest, Fault::PriorRequest, Fault::PriorRequest]);
    let (since, sent) = (Instant::now(), fake.state().requests.len());
    let mut followed = Following::new(&change, every, since + every * 20);
    let mut turns = 0;
    let known = loop {
        turns += 1;
        if let Ok(known) = timeout(every / 5, px1.store().follow(&mut followed)).await {
            break known;
        }
    };
    assert!(known.is_err(), "it is not in sync before the deadline");
    assert!(since.elapsed() >= every * 19, "{:?}", since.elapsed());
    // Pauses of 2, 4 and 8, and then of 1 until the deadline; fewer if an answer came late.
    let asked = fake.state().requests.len() - sent;
    assert!(asked <= 21, "asked {asked} times in {turns} turns");
    assert!(asked < turns, "a question in each of {turns} turns");
}

async fn throttling_opens_the_circuit() {
    let fake = Fake::start().await;
    fake.state().limit = Some(5);
    let mut px1 = simple(&fake).await;
    for i in 1..=4 {
        assert_eq!(publish(&mut px1, &desired("px1", &[&format!("10.0.0.{i}")])).await, written(i));
    }
    let wanted = desired("px1", &["10.0.0.9"]);
    let error = px1.publish(&wanted, soon(), 0).await.unwrap_err();
    assert!(matches!(&error.problem, Problem::Throttled(code) if code == "Throttling"), "{error}");
    assert!(error.to_string().contains("account"), "{error}");
    let sent = fake.state().requests.len();
    let error = px1.publish(&wanted, soon(), 0).await.unwrap_err();
    assert!(matches!(error.problem, Problem::Paused { failures: 1, .. }), "{error}");
    assert_eq!(fake.state().requests.len(), sent);
    fake.state().limit = None;

    tokio::time::sleep_until(px1.status().paused_until.unwrap()).await;
    fake.state().faults.push_back(Fault::PriorRequest);
    let error = px1.publish(&wanted, soon(), 0).await.unwrap_err();
    assert!(
        matches!(&error.problem, Problem::Throttled(code) if code == "PriorRequestNotComplete"),
        "{error}"
    );
    assert!(px1.status().error.is_some());
    tokio::time::sleep_until(px1.status().paused_until.unwrap()).await;
    assert_eq!(publish(&mut px1, &wanted).await, written(5));
    assert_eq!((&px1.status().error, px1.status().paused_until), (&None, None));
}

async fn a_proof_changes_nothing_and_fails_of_what_a_change_would() {
    let fake = Fake::start().await;
    let mut px1 = simple(&fake).await;
    px1.store().prove(soon()).await.unwrap();
    assert_eq!(fake.state().requests, ["ListResourceRecordSets", "ChangeResourceRecordSets", "GetChange"]);
    assert_eq!(publish(&mut px1, &desired("px1", &["10.0.0.1"])).await, written(1));
    px1.store().prove(soon()).await.unwrap();
    // What it swaps is what it was.
    assert_eq!(publish(&mut px1, &desired("px1", &["10.0.0.2"])).await, written(2));
    let several = Form::Multivalue(vec![]);
    store(&fake, several).await.prove(soon()).await.unwrap();
    for action in ["ListResourceRecordSets", "ChangeResourceRecordSets", "GetChange"] {
        fake.state().denied = Some(action);
        let error = px1.store().prove(soon()).await.unwrap_err();
        let Problem::AccessDenied { action: asked, .. } = &error.problem else { panic!("{error}") };
        assert_eq!(*asked, format!("route53:{action}"));
    }
    fake.state().denied = None;
    let outside = Route53::new(ZONE_ID, "db.example.net", Form::Simple, Some(&fake.url())).await.unwrap();
    let error = outside.prove(soon()).await.unwrap_err();
    assert!(error.to_string().contains("not permitted in zone"), "{error}");
}

async fn refusals_tell_what_to_do() {
    let fake = Fake::start().await;
    let wanted = desired("px1", &["10.0.0.1"]);
    for action in ["ListResourceRecordSets", "ChangeResourceRecordSets"] {
        fake.state().denied = Some(action);
        let error = simple(&fake).await.publish(&wanted, soon(), 0).await.unwrap_err();
        assert!(matches!(error.problem, Problem::AccessDenied { .. }), "{error}");
        let text = error.to_string();
        for part in [action, "_vipd", "conditions", ZONE_ID, "assumed-role/vipd"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    fake.state().denied = None;

    let elsewhere = Route53::new("Z999", NAME, Form::Simple, Some(&fake.url())).await.unwrap();
    let error = publisher(elsewhere).publish(&wanted, soon(), 0).await.unwrap_err();
    assert!(matches!(error.problem, Problem::NoSuchHostedZone), "{error}");
    assert!(error.to_string().contains("zone-id"), "{error}");

    let outside = Route53::new(ZONE_ID, "db.example.net", Form::Simple, Some(&fake.url())).await.unwrap();
    let error = publisher(outside).publish(&wanted, soon(), 0).await.unwrap_err();
    assert!(error.to_string().contains("not permitted in zone"), "{error}");

    fake.state().credentials.0 = "SOMEBODY".to_owned();
    let error = simple(&fake).await.publish(&wanted, soon(), 0).await.unwrap_err();
    assert!(matches!(error.problem, Problem::BadCredentials { .. }), "{error}");

    // Nobody listens there.
    let nobody = Route53::new(ZONE_ID, NAME, Form::Simple, Some("http://127.0.0.1:1")).await.unwrap();
    let error = publisher(nobody).publish(&wanted, soon(), 0).await.unwrap_err();
    assert!(matches!(error.problem, Problem::Unreachable(_)), "{error}");
    assert_eq!(at(&fake, NAME), []);
}

async fn wrong_clocks_are_named() {
    let fake = Fake::start().await;
    // The fake refuses in two ways, as AWS does.
    for clock in [-1000, 1000] {
        fake.state().clock = clock;
        let error = simple(&fake).await.publish(&desired("px1", &["10.0.0.1"]), soon(), 0).await.unwrap_err();
        let text = error.to_string();
        let Problem::ClockSkew { skew: Skew(skew), .. } = error.problem else { panic!("{text}") };
        assert!((clock - 30..=clock + 30).contains(&skew), "{text}");
        assert!(text.contains(if clock < 0 { "behind" } else { "ahead" }) && text.contains("NTP"), "{text}");
    }
}

/// What a process tells that has no credentials but those of an instance.
async fn told_on(instance: Option<Instance>, fake: &Fake) -> String {
    let imds = match instance {
        Some(instance) => imds::start(instance).await,
        None => "http://127.0.0.1:1".to_owned(),
    };
    let mut command = itself();
    command.env(PUBLISH_TO, fake.url()).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn the_instances_role_gives_credentials() {
    let fake = Fake::start().await;
    fake.state().credentials = ("ASIAROLE".to_owned(), Some(imds::SESSION_TOKEN.to_owned()));
    let told = told_on(Some(Instance::WithRole), &fake).await;
    assert_eq!(told.trim(), "Written { epoch: 1, pending: None }");
    assert_eq!(at(&fake, NAME), [record("A", "", 5, &["10.0.0.1"])]);
}

async fn missing_credentials_are_explained() {
    let fake = Fake::start().await;
    let (without_role, broken, too_far, elsewhere) = tokio::join!(
        told_on(Some(Instance::WithoutRole), &fake),
        told_on(Some(Instance::BrokenRole), &fake),
        told_on(Some(Instance::TooFar), &fake),
        told_on(None, &fake),
    );
    let cases: [(String, &[&str]); 4] = [
        (
            without_role,
            &["no credentials: IMDS at http://127.0.0.1:", "answered 404; is an instance profile attached?"],
        ),
        (broken, &["no credentials", "the role vipd"]),
        (too_far, &["no credentials", "hop limit must be 2"]),
        (elsewhere, &["no credentials", "cannot be reached", "AWS_ACCESS_KEY_ID"]),
    ];
    for (told, parts) in cases {
        for part in parts {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
    assert_eq!(fake.state().requests, [""; 0]);
}

async fn told_with(environment: Vec<(&'static str, String)>, fake: &Fake) -> String {
    let mut command = itself();
    command.env(PUBLISH_TO, fake.url()).envs(environment);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn motos_metadata_gives_the_roles_credentials() {
    let (fake, moto) = (Fake::start().await, Moto::start());
    let (key, token) = moto::ROLE;
    fake.state().credentials = (key.to_owned(), Some(token.to_owned()));
    let told = told_with(vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", moto.metadata_url().await)], &fake).await;
    assert_eq!(told.trim(), "Written { epoch: 1, pending: None }");
    assert_eq!(fake.state().signed_by, key);
}

/// A zone of another account: the instance's role may assume one that may write there.
async fn another_role_is_assumed_from_the_instances() {
    let (fake, moto) = (Fake::start().await, Moto::start());
    fake.state().any_session = true;
    let config = tempfile::NamedTempFile::new().unwrap();
    let profile = "[default]\nrole_arn = arn:aws:iam::123456789012:role/dns\n\
                   credential_source = Ec2InstanceMetadata\n";
    std::fs::write(config.path(), profile).unwrap();
    let environment = vec![
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", moto.metadata_url().await),
        ("AWS_ENDPOINT_URL_STS", moto.url()),
        ("AWS_CONFIG_FILE", config.path().display().to_string()),
    ];
    let told = told_with(environment, &fake).await;
    assert_eq!(told.trim(), "Written { epoch: 1, pending: None }");
    assert!(fake.state().signed_by.starts_with("ASIA"), "a session of STS, not the instance's own keys");
}

/// In Kubernetes: a token in a file, and no keys anywhere.
async fn a_web_identity_becomes_a_session() {
    let (fake, moto) = (Fake::start().await, Moto::start());
    fake.state().any_session = true;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "a token of the cluster's issuer").unwrap();
    let environment = vec![
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1".to_owned()),
        ("AWS_ENDPOINT_URL_STS", moto.url()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/dns".to_owned()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.path().display().to_string()),
    ];
    let told = told_with(environment, &fake).await;
    assert_eq!(told.trim(), "Written { epoch: 1, pending: None }");
    assert!(fake.state().signed_by.starts_with("ASIA"));
}
