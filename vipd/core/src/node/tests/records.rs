//! The records of the name that leads to the nodes.

use super::*;
use crate::publish::{Records, Wanted};
use crate::settings::{DNS_GROUP, Dns, KeyAlgorithm, Policy, Rfc2136, WhenAllDown};
use std::collections::BTreeSet;

pub(super) const DNS: u8 = 77;

pub(super) fn with_dns(policy: Policy, when_all_down: WhenAllDown) -> Settings {
    let group = VipGroup { addresses: vec![], ..vip(DNS_GROUP, DNS) };
    let dns = Dns {
        name: "db.corp.example.".into(),
        ttl: 5 * SECOND,
        policy,
        when_all_down,
        hold_down: SECOND,
        repair: false,
        public_addresses: vec![],
        election: 0,
        owner: 0,
        rfc2136: None,
        route53: None,
    };
    Settings { vips: vec![group], dns: Some(dns), ..settings() }
}

fn multi() -> Settings {
    with_dns(Policy::Multi, WhenAllDown::LastGood)
}

/// The second node says how it is.
fn px2_says(node: &mut Node, state: State, serving: bool, now: Time) -> Vec<Records> {
    px2_is(node, state, serving, now);
    orders(node, now)
}

pub(super) fn px2_is(node: &mut Node, state: State, serving: bool, now: Time) {
    let report = GroupReport {
        vrid: NonZeroU8::new(DNS).unwrap_or(NonZeroU8::MIN),
        state,
        priority: 150,
        serving,
        deposed: false,
    };
    let message = Message::Hello(Hello { groups: vec![report], digests: vec![1, 2], ..Hello::default() });
    let envelope = Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message };
    node.handle(Input::PeerPacket { source: address(12), ttl: 255, payload: &envelope.write() }, now);
}

pub(super) fn orders(node: &mut Node, now: Time) -> Vec<Records> {
    let records = |output| if let Output::Records(records) = output { Some(records) } else { None };
    obey(node, now).into_iter().filter_map(records).collect()
}

/// Lets time pass as it does for a daemon that runs.
pub(super) fn run_to(node: &mut Node, millis: u64) -> Vec<Records> {
    let mut all = vec![];
    while let Some(due) = node.next_deadline().filter(|due| *due <= at(millis)) {
        node.handle(Input::Tick, due);
        all.extend(orders(node, due));
    }
    all
}

pub(super) fn set(last: &[u8]) -> Option<BTreeSet<IpAddr>> {
    Some(last.iter().map(|n| address(*n)).collect())
}

/// The first node writes, and both are in.
fn writer(settings: Settings) -> Node {
    let mut node = node(settings);
    px2_says(&mut node, State::Backup, true, at(10));
    run_to(&mut node, 3_200);
    px2_says(&mut node, State::Backup, true, at(3_200));
    let ordered = run_to(&mut node, 3_300);
    assert_eq!(ordered, [Records { generation: 3, write: true, wanted: set(&[11, 12]), near: false }]);
    node
}

#[test]
fn whoever_wins_the_election_writes_and_adverts_have_an_address() {
    let mut node = node(multi());
    assert_eq!(px2_says(&mut node, State::Backup, true, at(100)).len(), 1);
    let due = std::iter::repeat_with(|| {
        let due = node.next_deadline().expect("a deadline");
        node.handle(Input::Tick, due);
        due
    });
    let due = due.take_while(|due| *due < at(3_200)).last().expect("a deadline");
    let outputs = obey(&mut node, due + SECOND);
    let advert = outputs.iter().find_map(|o| if let Output::Advert(a) = o { Some(a) } else { None });
    let advert = advert.expect("an advert");
    let parsed = Advert::parse(&advert.bytes, advert.source, advert.destination).expect("a good one");
    assert_eq!(parsed.addresses, [address(11)]);
    let orders: Vec<_> =
        outputs.iter().filter(|o| matches!(o, Output::Records(r) if r.write && !r.near)).collect();
    assert_eq!(orders.len(), 1);
}

#[test]
fn nobody_is_removed_before_its_silence_means_something() {
    let mut node = node(multi());
    let ordered = run_to(&mut node, 3_499);
    assert_eq!(ordered.last().map(|r| (r.write, r.wanted.clone())), Some((true, None)));
    // 3.5 hellos after the start.
    assert_eq!(run_to(&mut node, 3_500).pop().and_then(|r| r.wanted), set(&[11]));
}

#[test]
fn a_peer_that_serves_nobody_or_leaves_or_falls_silent_is_out() {
    for (state, serving) in [(State::Backup, false), (State::Init, true), (State::Fault, true)] {
        let mut node = writer(multi());
        run_to(&mut node, 4_300);
        let ordered = px2_says(&mut node, state, serving, at(4_310));
        assert_eq!(ordered, [Records { generation: 4, write: true, wanted: set(&[11]), near: false }]);
        // Back, but not within the hold-down: until then clients should ask again soon.
        let ordered = px2_says(&mut node, State::Backup, true, at(4_400));
        assert_eq!(ordered, [Records { generation: 5, write: true, wanted: set(&[11]), near: true }]);
        assert_eq!(why(&node, at(4_400)), "a change is near: it waits for the hold-down");
        assert_eq!(run_to(&mut node, 5_309), []);
        let ordered = run_to(&mut node, 5_310);
        assert_eq!(ordered, [Records { generation: 6, write: true, wanted: set(&[11, 12]), near: true }]);
    }
    let mut node = writer(multi());
    run_to(&mut node, 5_500);
    assert_eq!(run_to(&mut node, 6_699), []);
    assert_eq!(run_to(&mut node, 6_700).pop().and_then(|r| r.wanted), set(&[11]));
}

/// The last line of the reasons.
pub(super) fn why(node: &Node, now: Time) -> String {
    node.dns_status(now).and_then(|s| s.why.last().cloned()).unwrap_or_default()
}

#[test]
fn a_peer_that_misses_hellos_has_the_ttl_fall_and_come_back() {
    let mut node = writer(multi());
    let near = |near, generation| [Records { generation, write: true, wanted: set(&[11, 12]), near }];
    // Heard at 3.2 s: one hello is missing, and the next is late.
    assert_eq!(run_to(&mut node, 5_449), []);
    assert_eq!(run_to(&mut node, 5_450), near(true, 4));
    assert_eq!(why(&node, at(5_450)), "a change is near: px2 misses hellos");
    // It speaks again, and loses another: that is one suspicion.
    for millis in (5_500..=9_500).step_by(1_000).chain([12_000]) {
        run_to(&mut node, millis);
        assert_eq!(px2_says(&mut node, State::Backup, true, at(millis)), []);
    }
    assert!(why(&node, at(12_000)).starts_with("a change is near: there was a sign of one"));
    let mut ordered = vec![];
    for millis in (13_000..=23_000).step_by(1_000) {
        ordered.extend(run_to(&mut node, millis).into_iter().map(|o| (millis, o)));
        ordered.extend(px2_says(&mut node, State::Backup, true, at(millis)).into_iter().map(|o| (millis, o)));
    }
    let [back] = near(false, 5);
    // Its last sign was the hello of 12 s, which came when it was late already.
    assert_eq!(ordered, [(22_000, back)]);
    assert_eq!(why(&node, at(23_000)), "px2 is in");
}

#[test]
fn the_last_servers_that_fail_their_checks_have_the_ttl_fall() {
    let server = |n: u8| Server::new(format!("db{n}"), Host::Address(address(20 + n)), 3306);
    let mut pool = Pool::new("db", vec![server(1), server(2)]);
    pool.check = Some(Check { rise: 1, fall: 3, ..Check::new(CheckKind::Tcp(TcpCheck::default())) });
    let mut settings = multi();
    settings.pools = vec![pool];
    settings.listeners = vec![Listener::new("db", Bind { address: None, port: 3306 }, 0)];
    settings.vips[0].track = vec![0];
    let mut node = node(settings);
    let says = |node: &mut Node, server: usize, good: bool, millis: u64| {
        let probe = match good {
            true => Probe::Answered(Observation::default()),
            false => Probe::Failed("refused".into()),
        };
        let server = ServerKey { pool: 0, server };
        node.handle(Input::Probe { server, probe, checked: Checked::at(at(millis)) }, at(millis));
        orders(node, at(millis)).pop().map(|o| (o.wanted, o.near))
    };
    says(&mut node, 0, true, 10);
    says(&mut node, 1, true, 10);
    px2_says(&mut node, State::Backup, true, at(10));
    run_to(&mut node, 3_200);
    px2_says(&mut node, State::Backup, true, at(3_200));
    run_to(&mut node, 4_400);
    assert_eq!(says(&mut node, 0, false, 4_410), None, "the other is good");
    assert_eq!(says(&mut node, 1, false, 4_420), Some((set(&[11, 12]), true)));
    assert!(why(&node, at(4_420)).contains("the last usable servers of a listener fail"));
    for (server, millis) in [(0, 4_430), (1, 4_440), (0, 4_450)] {
        assert_eq!(says(&mut node, server, false, millis), None);
    }
    // Now the last one is down: what was suspected has come.
    assert_eq!(says(&mut node, 1, false, 4_460), Some((set(&[12]), true)));
}

#[test]
fn an_owner_that_falls_silent_is_out_with_the_takeover() {
    let mut settings = multi();
    settings.election.advert_interval = Duration::from_millis(100);
    let mut node = Node::new(settings, 1, 0, at(0));
    let link = Link::Up { interface: LINK, sources: vec![address(12)], mac: None, subnets: vec![] };
    node.handle(Input::Link { group: 0, link }, at(0));
    let vrid = NonZeroU8::new(DNS).unwrap_or(NonZeroU8::MIN);
    let interval = Duration::from_millis(100);
    let addresses = vec![address(11)];
    let advert = Advert { version: VrrpVersion::V3, vrid, priority: 200, interval, addresses };
    let payload = advert.write(address(11), address(12));
    let report = GroupReport { vrid, state: State::Active, priority: 200, serving: true, deposed: false };
    let message = Message::Hello(Hello { groups: vec![report], digests: vec![1, 2], ..Hello::default() });
    let hello = Envelope { cluster: cluster_id("orders"), sender: node_id("px1"), message }.write();
    for millis in 1..=20 {
        run_to(&mut node, millis * 100);
        let now = at(millis * 100);
        let source = address(11);
        node.handle(Input::PeerPacket { source, ttl: 255, payload: &hello }, now);
        let destination = address(12);
        node.handle(Input::Packet { interface: LINK, source, destination, ttl: 255, payload: &payload }, now);
    }
    assert_eq!(node.dns_status(at(2_000)).and_then(|s| s.desired), set(&[11, 12]));
    assert!(run_to(&mut node, 2_340).iter().all(|o| !o.write));
    let ordered = run_to(&mut node, 2_342).pop();
    assert_eq!(ordered.map(|r| (r.write, r.wanted)), Some((true, set(&[12]))));
}

/// Of a node that does not own, hellos alone tell: they follow the adverts.
#[test]
fn another_node_that_falls_silent_is_out_soon_after_an_owner_would_be() {
    // Intervals, when an owner's successor takes over (priority 150), and when another node is out.
    for (interval, owner, other) in [(10, 34, 105), (30, 102, 105), (100, 341, 350), (1_000, 3_414, 3_500)] {
        let mut settings = multi();
        settings.election.advert_interval = Duration::from_millis(interval);
        let mut node = node(settings);
        let heard = 5_000 + interval;
        for millis in (10..=heard).step_by(10) {
            run_to(&mut node, millis);
            px2_says(&mut node, State::Backup, true, at(millis));
        }
        let last = heard / 10 * 10;
        assert_eq!(node.records().and_then(|r| r.wanted.clone()), set(&[11, 12]));
        let still = run_to(&mut node, last + other - 1);
        assert!(still.iter().all(|r| r.write && r.wanted == set(&[11, 12])), "{interval} ms: {still:?}");
        assert_eq!(run_to(&mut node, last + other).pop().and_then(|r| r.wanted), set(&[11]), "{interval} ms");
        assert!(other <= owner + 90, "ten are left for the write");
    }
}

/// A new file is rolled out node by node: for a while two have other rhythms.
#[test]
fn a_peer_with_another_file_may_say_hello_in_another_rhythm() {
    let mut settings = multi();
    settings.election.advert_interval = Duration::from_millis(100);
    settings.digests = vec![("election.advert-interval", 1), ("dns", 3)];
    let mut node = node(settings);
    // `px2_is` tells the digests 1 and 2: its `[dns]` is another one.
    for millis in (10..=5_010).step_by(100) {
        run_to(&mut node, millis);
        px2_says(&mut node, State::Backup, true, at(millis));
    }
    assert_eq!(run_to(&mut node, 8_400).iter().filter(|r| r.wanted == set(&[11])).count(), 0);
    assert_eq!(run_to(&mut node, 8_600).pop().and_then(|r| r.wanted), set(&[11]));
}

#[test]
fn a_planned_switchover_of_the_name_has_the_ttl_fall_first() {
    let named = |policy, servers: bool| {
        let mut settings = with_dns(policy, WhenAllDown::LastGood);
        let rfc2136 = Rfc2136 {
            servers: vec![],
            zone: "corp.example.".into(),
            key_name: "vipd.".into(),
            key_algorithm: KeyAlgorithm::HmacSha256,
            key_file: "/key".into(),
        };
        settings.dns.as_mut().expect("a name").rfc2136 = servers.then_some(rfc2136);
        let mut node = node(settings);
        px2_says(&mut node, State::Backup, true, at(10));
        run_to(&mut node, 3_200);
        px2_says(&mut node, State::Backup, true, at(3_200));
        run_to(&mut node, 4_400);
        node.switchover(DNS_GROUP, None, at(4_400)).expect("it begins");
        node
    };
    let asked = |node: &mut Node, now: Time| {
        let prepare = |o: &Output| match o {
            Output::Peer { bytes, .. } => {
                Envelope::parse(bytes).is_ok_and(|e| matches!(e.message, Message::Prepare { .. }))
            }
            _ => false,
        };
        let outputs = obey(node, now);
        let order = outputs.iter().rev().find_map(|o| match o {
            Output::Records(records) => Some(records.clone()),
            _ => None,
        });
        (outputs.iter().any(prepare), order)
    };
    let mut node = named(Policy::Owner, true);
    let (prepared, order) = asked(&mut node, at(4_400));
    let order = order.expect("an order");
    assert!(!prepared && order.near && order.wanted == set(&[11]), "{order:?}");
    assert!(node.group_status(at(4_400))[0].switching, "whoever waits for it waits on");
    assert!(node.switchover(DNS_GROUP, None, at(4_401)).is_err_and(|e| e.contains("under way already")));
    assert_eq!(why(&node, at(4_401)), "a change is near: the owner is about to change");
    let failed = Err("timed out".to_owned());
    node.handle(Input::Published { generation: order.generation, result: failed }, at(4_410));
    assert!(!asked(&mut node, at(4_410)).0);
    node.handle(Input::Published { generation: order.generation, result: Ok(()) }, at(4_420));
    assert!(asked(&mut node, at(4_420)).0);

    // A server that does not answer holds it up no longer than this.
    let mut node = named(Policy::Owner, true);
    asked(&mut node, at(4_400));
    node.handle(Input::Tick, at(4_899));
    assert!(!asked(&mut node, at(4_899)).0);
    node.handle(Input::Tick, at(4_900));
    assert!(asked(&mut node, at(4_900)).0);

    // Where the records stay as they are, or Route 53 alone has them, there is nothing to wait for.
    for (policy, servers) in [(Policy::Multi, true), (Policy::Owner, false)] {
        let mut node = named(policy, servers);
        assert!(asked(&mut node, at(4_400)).0, "{policy:?}");
    }
}

#[test]
fn maintenance_takes_a_node_out_and_closes_what_old_answers_brought() {
    let mut node = writer(multi());
    run_to(&mut node, 4_400);
    px2_says(&mut node, State::Backup, true, at(4_400));
    node.set_maintenance(true, at(4_400));
    assert_eq!(written(&mut node, 4_400), set(&[12]));
    assert_eq!(closes(&mut node, 4_500, 24_400), [at(19_400)]);
}

/// Orders are carried out; gives what the last one says.
pub(super) fn written(node: &mut Node, millis: u64) -> Wanted {
    let order = orders(node, at(millis)).pop().expect("an order");
    node.handle(Input::Published { generation: order.generation, result: Ok(()) }, at(millis));
    order.wanted
}

/// A server is throttled, or does not answer: clients are still sent here.
#[test]
fn sessions_stay_as_long_as_the_address_is_not_seen_to_be_gone() {
    let mut node = writer(multi());
    run_to(&mut node, 4_400);
    px2_says(&mut node, State::Backup, true, at(4_400));
    node.set_maintenance(true, at(4_400));
    let order = orders(&mut node, at(4_400)).pop().expect("an order");
    assert_eq!(order.wanted, set(&[12]));
    let result = Err("throttled".to_owned());
    node.handle(Input::Published { generation: order.generation, result }, at(4_400));
    node.handle(Input::Published { generation: order.generation - 1, result: Ok(()) }, at(4_400));
    let (closed, last) = closes_after(&mut node, 4_500, 60_000);
    assert_eq!(closed, []);
    // It does not write any more, but looks: the other one has.
    let last = last.unwrap_or(order);
    assert_eq!(last.wanted, set(&[12]));
    node.handle(Input::Published { generation: last.generation, result: Ok(()) }, at(60_000));
    assert_eq!(closes(&mut node, 60_100, 90_000), [at(75_000)]);
}

/// When sessions by the node's own address are closed, as long as the other
/// node serves.
pub(super) fn closes(node: &mut Node, from: u64, until: u64) -> Vec<Time> {
    closes_after(node, from, until).0
}

/// The same, and the last order, which nobody carries out.
fn closes_after(node: &mut Node, from: u64, until: u64) -> (Vec<Time>, Option<Records>) {
    let (mut closed, mut last) = (vec![], None);
    for now in (from..=until).step_by(100).map(at) {
        px2_is(node, State::Active, true, now);
        if node.next_deadline().is_some_and(|due| due <= now) {
            node.handle(Input::Tick, now);
        }
        let own =
            |o: &Output| matches!(o, Output::CloseSessions { addresses } if *addresses == [address(11)]);
        for output in obey(node, now) {
            closed.extend(own(&output).then_some(now));
            if let Output::Records(records) = output {
                last = Some(records);
            }
        }
    }
    (closed, last)
}

#[test]
fn a_node_without_a_server_keeps_its_sessions_until_maintenance() {
    let mut settings = multi();
    settings.pools = vec![Pool::new("db", vec![Server::new("db1", Host::Address(address(21)), 3306)])];
    settings.listeners = vec![Listener::new("db", Bind { address: None, port: 3306 }, 0)];
    settings.vips[0].track = vec![0];
    let mut node = writer(settings);
    run_to(&mut node, 4_400);
    px2_says(&mut node, State::Backup, true, at(4_400));
    let admin = crate::health::Admin::Drain;
    node.set_admin("db", "db1", admin, at(4_400)).expect("a server");
    assert_eq!(written(&mut node, 4_400), set(&[12]));
    assert_eq!(closes(&mut node, 4_500, 40_000), []);
    node.set_maintenance(true, at(40_000));
    assert_eq!(closes(&mut node, 40_100, 60_000), [at(55_000)]);
    // And not when it was taken back.
    node.set_maintenance(false, at(60_000));
    node.set_maintenance(true, at(61_000));
    node.set_maintenance(false, at(62_000));
    assert_eq!(closes(&mut node, 62_100, 90_000), []);
}

#[test]
fn a_writer_that_stops_takes_itself_out_first() {
    let mut node = writer(multi());
    run_to(&mut node, 4_400);
    node.handle(Input::Stop, at(4_400));
    let ordered = orders(&mut node, at(4_400)).pop().expect("an order");
    assert_eq!(ordered.wanted, set(&[12]));
    let state = |node: &Node| node.group_status(at(4_500))[0].state;
    run_to(&mut node, 4_500);
    assert_eq!(state(&node), State::Active, "the store has not answered yet");
    let failed = Err("timed out".to_owned());
    node.handle(Input::Published { generation: ordered.generation, result: failed }, at(4_510));
    node.handle(Input::Published { generation: ordered.generation - 1, result: Ok(()) }, at(4_510));
    assert!(!node.group_status(at(4_510))[0].switching);
    assert_eq!(node.relay_for().map(|r| (r.accept, r.keep)), Some((7 * SECOND, 17 * SECOND)), "not seen");
    node.handle(Input::Published { generation: ordered.generation, result: Ok(()) }, at(4_520));
    assert!(node.group_status(at(4_520))[0].switching);
    orders(&mut node, at(4_520));
    assert_eq!(node.relay_for().map(|r| (r.accept, r.keep)), Some((5 * SECOND, 15 * SECOND)));

    // A store that does not answer keeps nobody from stopping.
    let mut node = writer(multi());
    run_to(&mut node, 4_400);
    node.handle(Input::Stop, at(4_400));
    orders(&mut node, at(4_400));
    run_to(&mut node, 6_399);
    assert!(!node.group_status(at(6_399))[0].switching);
    node.handle(Input::Tick, at(6_400));
    assert!(node.group_status(at(6_400))[0].switching);
    // Nothing to take out where nobody would be left.
    let mut node = writer(multi());
    run_to(&mut node, 4_400);
    px2_says(&mut node, State::Init, true, at(4_400));
    node.handle(Input::Stop, at(5_500));
    assert!(node.group_status(at(5_500))[0].switching);
}

#[test]
fn only_the_owner_is_published_when_the_policy_says_so() {
    let mut node = node(with_dns(Policy::Owner, WhenAllDown::LastGood));
    px2_says(&mut node, State::Backup, true, at(10));
    assert_eq!(run_to(&mut node, 3_300).pop().and_then(|r| r.wanted), set(&[11]));
    let status = node.dns_status(at(3_300)).expect("a name");
    assert_eq!(status.writer.as_deref(), Some("px1"));
    assert_eq!(status.why, ["px1 is in", "px2 is out: it is not the owner"]);
}

#[test]
fn public_addresses_are_published_in_place_of_a_nodes_own() {
    let mut settings = multi();
    let public = vec![IpAddr::from([203, 0, 113, 11])];
    settings.dns.as_mut().expect("a name").public_addresses = vec![(0, public.clone())];
    let mut node = node(settings);
    px2_says(&mut node, State::Backup, true, at(10));
    let ordered = run_to(&mut node, 3_300).pop().and_then(|r| r.wanted);
    assert_eq!(ordered, Some([public[0], address(12)].into()));
    // In maintenance it is out by that address, and sessions by either end.
    px2_says(&mut node, State::Backup, true, at(4_500));
    node.set_maintenance(true, at(4_500));
    assert_eq!(written(&mut node, 4_500), set(&[12]));
    let mut closed = vec![];
    for millis in (4_600..=20_000).step_by(100) {
        px2_is(&mut node, State::Active, true, at(millis));
        node.handle(Input::Tick, at(millis));
        closed.extend(obey(&mut node, at(millis)).into_iter().filter_map(|o| match o {
            Output::CloseSessions { addresses } => Some(addresses),
            _ => None,
        }));
    }
    assert!(closed.contains(&vec![address(11), public[0]]), "{closed:?}");
}

#[test]
fn a_name_that_goes_with_a_reload_leaves_no_deadline() {
    let mut node = writer(multi());
    node.set_maintenance(true, at(4_400));
    orders(&mut node, at(4_400));
    node.reconfigure(settings(), at(4_500));
    assert_eq!(node.dns_status(at(4_500)), None);
    assert_eq!(node.records(), None);
}

#[test]
fn the_election_of_who_writes_is_handed_over_as_any_other() {
    let mut node = Node::new(multi(), 1, 0, at(0));
    let link = Link::Up { interface: LINK, sources: vec![address(12)], mac: None, subnets: vec![] };
    node.handle(Input::Link { group: 0, link }, at(0));
    obey(&mut node, at(0));
    let vrid = NonZeroU8::new(DNS).unwrap_or(NonZeroU8::MIN);
    let message = Message::Prepare { vrid, nonce: 7, to: node_id("px2") };
    let envelope = Envelope { cluster: cluster_id("orders"), sender: node_id("px1"), message };
    node.handle(Input::PeerPacket { source: address(11), ttl: 255, payload: &envelope.write() }, at(1_010));
    let ready = |output: &Output| match output {
        Output::Peer { node: 0, bytes } => {
            Envelope::parse(bytes).is_ok_and(|e| e.message == Message::Ready { vrid, nonce: 7 })
        }
        _ => false,
    };
    assert!(obey(&mut node, at(1_010)).iter().any(ready));
}

/// Whoever is silent as the owner of the name's group is gone at once, also as
/// one who says to own what this node owns.
#[test]
fn a_rival_that_is_gone_is_told_of_no_more() {
    let mut settings = multi();
    settings.vips.push(vip("main", 100));
    let mut node = node(settings);
    let vrid = |n| NonZeroU8::new(n).unwrap_or(NonZeroU8::MIN);
    let owns =
        |n| GroupReport { vrid: vrid(n), state: State::Active, priority: 150, serving: true, deposed: false };
    let hello = Hello { groups: vec![owns(DNS), owns(100)], digests: vec![1, 2], ..Hello::default() };
    let message = Message::Hello(hello);
    let hello = Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message }.write();
    let (source, destination) = (address(12), address(11));
    let payload =
        Advert { vrid: vrid(DNS), addresses: vec![source], ..advert(150) }.write(source, destination);
    for second in 1..=12 {
        run_to(&mut node, second * 1_000);
        peer_says(&mut node, &hello, at(second * 1_000));
        let packet = Input::Packet { interface: LINK, source, destination, ttl: 255, payload: &payload };
        node.handle(packet, at(second * 1_000));
        obey(&mut node, at(second * 1_000));
    }
    let states = |node: &Node, now| node.group_status(at(now)).iter().map(|g| g.state).collect::<Vec<_>>();
    let of_main = |node: &Node, now| node.group_status(at(now)).pop().map(|g| g.why).unwrap_or_default();
    assert_eq!(states(&node, 12_000), [State::Backup, State::Active]);
    assert!(of_main(&node, 12_000).contains("px2 owns it, too"), "{}", of_main(&node, 12_000));
    for millis in [15_400, 30_000] {
        run_to(&mut node, millis);
        assert_eq!(states(&node, millis), [State::Active, State::Active]);
        let why = of_main(&node, millis);
        assert!(!why.contains("px2 owns it"), "{millis} ms: {why}");
    }
}
