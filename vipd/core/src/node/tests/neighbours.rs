//! Whose the addresses are on the link, and who is not heard.

use super::*;
use crate::wire::peer::{Ballot, Seen, Sighting};
use crate::wire::{Claim, Mac};

const OWN: Mac = [2, 0, 0, 0, 0, 11];
const PX2: Mac = [2, 0, 0, 0, 0, 12];
const STRANGER: Mac = [2, 0, 0, 0, 0xee, 0xee];

fn vrid() -> NonZeroU8 {
    NonZeroU8::new(100).unwrap_or(NonZeroU8::MIN)
}

fn link(subnet: u8) -> Link {
    let subnets = Cidr::new(IpAddr::V4(Ipv4Addr::new(10, subnet, 0, 11)), 24).into_iter().collect();
    Link::Up { interface: LINK, sources: vec![address(11)], mac: Some(OWN), subnets }
}

/// The first node, on Ethernet.
fn on_ethernet(settings: Settings, subnet: u8) -> Node {
    let mut node = Node::new(settings, 0, 0, at(0));
    node.handle(Input::Link { group: 0, link: link(subnet) }, at(0));
    drain(&mut node);
    node
}

fn owning() -> Node {
    let mut node = on_ethernet(settings(), 77);
    node.handle(Input::Tick, at(3_300));
    obey(&mut node, at(3_300));
    assert_eq!(node.group_status(at(3_300))[0].state, State::Active);
    node
}

fn claims(node: &mut Node, address: IpAddr, mac: Mac, answer: bool, now: Time) -> Vec<Output> {
    run(node, now);
    node.handle(Input::Claim { interface: LINK, claim: Claim { address, mac, answer } }, now);
    drain(node)
}

fn announced(outputs: &[Output]) -> usize {
    outputs.iter().filter(|o| matches!(o, Output::Announce(_))).count()
}

fn px2_says(node: &mut Node, hello: Hello, now: Time) {
    let hello = Hello { digests: vec![1, 2], hears: hello.hears.or(Some(vec![node_id("px1")])), ..hello };
    let message = Message::Hello(hello);
    run(node, now);
    peer_says(
        node,
        &Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message }.write(),
        now,
    );
}

fn px2_advertises(node: &mut Node, now: Time) {
    let (source, destination) = (address(12), address(11));
    let payload = advert(150).write(source, destination);
    run(node, now);
    node.handle(Input::Packet { interface: LINK, source, destination, ttl: 255, payload: &payload }, now);
}

/// Ticks whenever it is due; gives what came out and when.
fn run(node: &mut Node, until: Time) -> Vec<(Time, Output)> {
    let mut all = vec![];
    while let Some(now) = node.next_deadline().filter(|at| *at <= until) {
        node.handle(Input::Tick, now);
        all.extend(obey(node, now).into_iter().map(|o| (now, o)));
    }
    all
}

#[test]
fn an_owner_names_who_claims_its_address_and_keeps_it() {
    let mut node = owning();
    px2_says(&mut node, Hello { macs: vec![PX2], ..Hello::default() }, at(3_310));
    drain(&mut node);
    // A flood of two seconds, of many made-up hosts.
    let (mut told, mut answers) = (vec![], 0);
    for n in 0..2_000_u64 {
        let [_, .., c, d] = n.to_be_bytes();
        let outputs = claims(&mut node, address(100), [6, 0, 0, 0, c, d], n % 2 == 0, at(4_000 + n));
        assert!(!outputs.iter().any(|o| matches!(o, Output::Addresses(_) | Output::CloseSessions { .. })));
        answers += announced(&outputs);
        told.extend(events(outputs));
    }
    assert_eq!(answers, 2, "announced again once a second");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].level, told[0].kind), (Level::Error, Kind::Address));
    let status = node.group_status(at(6_000)).remove(0);
    assert_eq!((status.state, status.claims, status.conflicts.len()), (State::Active, 2_000, 4));
    // One that is a node is named.
    let outputs = claims(&mut node, address(100), PX2, false, at(20_000));
    let told = events(outputs);
    assert_eq!(told[0].peer.as_deref(), Some("px2"));
    assert!(told[0].message.contains("px2 (02:00:00:00:00:0c) claims 10.77.0.100, too"), "{told:?}");
    let why = node.group_status(at(20_100)).remove(0).why;
    assert!(why.contains("px2 (02:00:00:00:00:0c) claims 10.77.0.100") && why.contains("1 claim,"), "{why}");
    // It ends by itself.
    let ended = run(&mut node, at(90_000));
    let told = |o: &Output| matches!(o, Output::Event(e) if e.message.contains("nobody else claims"));
    assert_eq!(ended.iter().filter(|(_, o)| told(o)).count(), 1);
    assert_eq!(node.group_status(at(90_000))[0].conflicts, []);
}

#[test]
fn what_is_not_a_conflict_is_none() {
    for (address, mac, interface) in
        [(address(100), OWN, LINK), (address(99), STRANGER, LINK), (address(100), STRANGER, LINK + 1)]
    {
        let mut node = owning();
        let claim = Claim { address, mac, answer: false };
        node.handle(Input::Claim { interface, claim }, at(4_000));
        assert!(drain(&mut node).is_empty(), "{address} {mac:?} {interface}");
        assert_eq!(node.group_status(at(4_000))[0].claims, 0);
    }
    // A backup has nothing to defend.
    let mut node = on_ethernet(settings(), 77);
    assert!(claims(&mut node, address(100), STRANGER, false, at(1)).is_empty());
}

/// A backup that follows `px2`, which took over at 1 s; what it asks is in the outputs.
fn backup(settings: Settings, subnet: u8) -> Node {
    let mut node = on_ethernet(settings, subnet);
    px2_says(&mut node, Hello { macs: vec![PX2], ..Hello::default() }, at(900));
    px2_advertises(&mut node, at(1_000));
    drain(&mut node);
    node
}

fn asked(outputs: &[(Time, Output)]) -> Vec<Time> {
    let ask = |o: &Output| matches!(o, Output::Ask(i) if i.addresses == [address(100)]);
    outputs.iter().filter(|(_, o)| ask(o)).map(|(at, _)| *at).collect()
}

fn sightings(outputs: &[(Time, Output)]) -> Vec<Sighting> {
    let told = |o: &Output| match o {
        Output::Peer { bytes, .. } => match Envelope::parse(bytes).map(|e| e.message) {
            Ok(Message::Hello(hello)) => hello.sightings,
            _ => vec![],
        },
        _ => vec![],
    };
    outputs.iter().flat_map(|(_, o)| told(o)).collect()
}

#[test]
fn a_backup_asks_who_answers_after_a_takeover_and_tells_the_owner() {
    let mut node = backup(settings(), 77);
    assert_eq!(asked(&run(&mut node, at(1_001))), [at(1_001)]);
    claims(&mut node, address(100), PX2, true, at(1_002));
    let outputs = run(&mut node, at(2_500));
    assert_eq!(asked(&outputs), [], "nothing more is to be asked");
    let took = Duration::from_millis(2);
    let expected = Sighting { vrid: vrid(), owner: node_id("px2"), address: 0, seen: Seen::By(PX2), took };
    assert_eq!(sightings(&outputs).first(), Some(&expected));
    let why = node.group_status(at(2_500)).remove(0).why;
    assert!(why.contains("px2 answers for its addresses, 0.002 s after its first advert"), "{why}");
}

#[test]
fn a_backup_names_who_answers_instead_and_when_nobody_does() {
    // The former owner answers still, and stops after a while.
    let mut node = backup(settings(), 77);
    run(&mut node, at(1_001));
    let outputs = claims(&mut node, address(100), STRANGER, true, at(1_002));
    let outputs: Vec<_> = outputs.into_iter().map(|o| (at(1_002), o)).collect();
    assert_eq!(sightings(&outputs).first().map(|s| s.seen), Some(Seen::By(STRANGER)), "told at once");
    let told = events(outputs.into_iter().map(|(_, o)| o).collect());
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].message.contains("another host (02:00:00:00:ee:ee) answers for 10.77.0.100"), "{told:?}");
    let outputs = run(&mut node, at(1_100));
    assert!(asked(&outputs).len() >= 2, "it asks on");
    claims(&mut node, address(100), PX2, true, at(1_101));
    let told: Vec<Event> = run(&mut node, at(2_000)).into_iter().flat_map(|(_, o)| events(vec![o])).collect();
    let good = "main: px2 answers for its addresses, 0.10 s after its first advert";
    assert!(told.iter().any(|e| e.level == Level::Info && e.message == good), "{told:?}");

    let mut node = backup(settings(), 77);
    for second in 2..12 {
        run(&mut node, at(second * 1_000 - 100));
        px2_advertises(&mut node, at(second * 1_000));
    }
    let why = node.group_status(at(11_000)).remove(0).why;
    assert!(why.contains("nobody answers for 10.77.0.100, which px2 owns"), "{why}");
}

#[test]
fn where_a_router_lies_between_nobody_is_asked() {
    let mut node = backup(settings(), 88);
    assert_eq!(asked(&run(&mut node, at(3_000))), []);
    // By UDP an advert may come from anywhere: the owner must be of the subnet.
    let mut routed = settings();
    routed.election.transport = Transport::Udp;
    routed.cluster.nodes[1].addresses = vec![IpAddr::V4(Ipv4Addr::new(10, 99, 0, 12))];
    let mut node = on_ethernet(routed, 77);
    let source = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 12));
    let payload = advert(150).write(source, address(11));
    let packet =
        Input::Packet { interface: 0, source, destination: address(11), ttl: 255, payload: &payload };
    node.handle(packet, at(1_000));
    assert_eq!(node.group_status(at(1_000))[0].owner.as_deref(), Some("px2"));
    assert_eq!(asked(&run(&mut node, at(3_000))), []);
}

#[test]
fn an_owner_that_is_not_seen_announces_again_and_says_so() {
    let mut node = owning();
    let sighting = |seen| {
        let took = Duration::from_micros(900);
        Hello {
            sightings: vec![Sighting { vrid: vrid(), owner: node_id("px1"), address: 0, seen, took }],
            ..Hello::default()
        }
    };
    let mut see = |seen, now| {
        px2_says(&mut node, sighting(seen), at(now));
        let outputs = drain(&mut node);
        let announced = announced(&outputs);
        (
            announced,
            events(outputs).into_iter().filter(|e| e.kind == Kind::Address).map(|e| e.message).collect(),
        )
    };
    let other: Vec<String> = vec![
        "main: px2 sees another host (02:00:00:00:ee:ee) answer for 10.77.0.100, and not only this node"
            .into(),
    ];
    assert_eq!(see(Seen::By(STRANGER), 4_000), (1, other));
    assert_eq!(see(Seen::By(STRANGER), 4_100), (0, vec![]), "once a second, told once");
    assert_eq!(
        see(Seen::Nobody, 5_200),
        (1, vec!["main: px2 gets no answer for 10.77.0.100 from this node".into()])
    );
    let good: Vec<String> = vec!["main: px2 sees this node answer, 0.000 s after its first advert".into()];
    assert_eq!(see(Seen::By(OWN), 6_300), (0, good));
    // What was seen of another owner is none of this one's.
    let mut stale = sighting(Seen::Nobody);
    stale.sightings[0].owner = node_id("px3");
    px2_says(&mut node, stale, at(9_000));
    assert!(node.group_status(at(9_000))[0].why.contains("px2 sees this node answer"));
}

#[test]
fn a_node_that_does_not_hear_this_one_is_named() {
    let mut node = owning();
    let deaf = |hears: &[&str]| Hello {
        hears: Some(hears.iter().map(|n| node_id(n)).collect()),
        ..Hello::default()
    };
    let mut told = vec![];
    for n in 0..8 {
        px2_says(&mut node, deaf(&[]), at(4_000 + n * 1_000));
        told.extend(events(drain(&mut node)).into_iter().filter(|e| e.kind == Kind::Peer));
    }
    let named: Vec<_> = told.iter().filter(|e| e.message.contains("px2 does not hear this node")).collect();
    assert_eq!(named.len(), 1, "{told:?}");
    assert!(node.peers()[1].is_deaf());
    px2_says(&mut node, deaf(&["px1"]), at(13_000));
    assert!(events(drain(&mut node)).iter().any(|e| e.message == "px2 hears this node again"));
    assert!(!node.peers()[1].is_deaf());
}

/// Two owned while they did not hear each other. The other's clients would send
/// to its Ethernet address until the slow refresh.
#[test]
fn whoever_followed_another_owner_is_told_at_once() {
    let mut node = owning();
    run(&mut node, at(20_000));
    let count =
        |outputs: &[(Time, Output)]| outputs.iter().filter(|(_, o)| matches!(o, Output::Announce(_))).count();
    // It hears the other's adverts: a burst as at a takeover, and no other for each.
    px2_advertises(&mut node, at(20_100));
    assert_eq!(announced(&obey(&mut node, at(20_100))), 1);
    px2_advertises(&mut node, at(20_200));
    assert!(obey(&mut node, at(20_200)).iter().all(|o| !matches!(o, Output::Announce(_))));
    // Two of the ten more were before that.
    assert_eq!(count(&run(&mut node, at(31_000))), 7);
    // The other heard this one first, and says so once it has given way.
    let gave_way = |deposed| {
        let report =
            GroupReport { vrid: vrid(), state: State::Backup, priority: 150, serving: true, deposed };
        Hello { groups: vec![report], ..Hello::default() }
    };
    let mut after = |deposed, now| {
        px2_says(&mut node, gave_way(deposed), now);
        announced(&obey(&mut node, now))
    };
    let told =
        [after(true, at(32_000)), after(true, at(34_000)), after(false, at(36_000)), after(true, at(50_000))];
    assert_eq!(told, [1, 0, 0, 1]);
}

/// It says so in a few hellos, and then no more.
#[test]
fn who_gave_way_says_so() {
    let mut node = owning();
    let source_is_greater = advert(250);
    run(&mut node, at(5_000));
    hear(&mut node, LINK, &source_is_greater, at(5_000));
    let mut said = vec![];
    let mut outputs: Vec<(Time, Output)> =
        obey(&mut node, at(5_000)).into_iter().map(|o| (at(5_000), o)).collect();
    for now in (5_500..12_000).step_by(500) {
        outputs.extend(run(&mut node, at(now)));
        hear(&mut node, LINK, &advert(250), at(now));
    }
    for (now, output) in outputs {
        let Output::Peer { bytes, .. } = output else { continue };
        let Ok(Envelope { message: Message::Hello(hello), .. }) = Envelope::parse(&bytes) else { continue };
        said.push((now, hello.groups[0].deposed));
    }
    assert!(said.iter().filter(|(_, deposed)| *deposed).count() >= 2, "{said:?}");
    assert!(said.iter().all(|(now, deposed)| *deposed == (*now < at(8_000))), "{said:?}");
}

/// In maintenance or with a fault it follows nobody, and still knows who owns;
/// and whom it would take over from is no owner any more.
#[test]
fn the_owner_is_named_by_who_does_not_follow_it() {
    let mut node = owning();
    let group = node.group_status(at(3_400))[0].id;
    let owner = |node: &Node, now| node.group_status(now).remove(0).owner;
    node.handle(Input::Link { group, link: Link::Down { reason: "no carrier".into() } }, at(3_400));
    obey(&mut node, at(3_400));
    assert_eq!(owner(&node, at(3_400)), None);
    peer_says(&mut node, &hello(State::Active, true, vec![1, 2]), at(3_500));
    assert_eq!(owner(&node, at(3_500)).as_deref(), Some("px2"));
    run(&mut node, at(20_000));
    assert_eq!(owner(&node, at(20_000)), None, "it has said nothing for long");

    let mut settings = settings();
    settings.election.quorum = Quorum::Majority;
    let mut node = on_ethernet(settings, 77);
    px2_advertises(&mut node, at(1_000));
    assert_eq!(owner(&node, at(1_000)).as_deref(), Some("px2"));
    run(&mut node, at(60_000));
    let status = node.group_status(at(60_000)).remove(0);
    assert_eq!((status.state, status.owner), (State::Backup, None), "{}", status.why);
}

#[test]
fn another_owner_whose_adverts_are_dropped_is_named() {
    let mut node = owning();
    let active = || {
        let report =
            GroupReport { vrid: vrid(), state: State::Active, priority: 150, serving: true, deposed: false };
        Hello { groups: vec![report], ..Hello::default() }
    };
    let mut told = vec![];
    for n in 0..8 {
        px2_says(&mut node, active(), at(4_000 + n * 1_000));
        told.extend(events(drain(&mut node)));
    }
    let rival =
        "main: px2 owns it, too, by its own word: its adverts do not come here (is IP protocol 112 dropped?";
    assert_eq!(told.iter().filter(|e| e.message.starts_with(rival)).count(), 1, "{told:?}");
    px2_advertises(&mut node, at(11_900));
    let why = node.group_status(at(12_000)).remove(0).why;
    assert!(why.contains("its adverts come here, so this node's do not get there"), "{why}");
    px2_says(&mut node, Hello::default(), at(12_100));
    assert!(!node.group_status(at(12_200))[0].why.contains("owns it, too"));
}

#[test]
fn a_silent_voter_is_told_of_before_it_is_missed() {
    let mut settings = settings();
    settings.election.quorum = Quorum::Majority;
    settings.cluster.witnesses =
        vec![Member { name: "w1".into(), addresses: vec![address(13)], priority: None }];
    let mut node = on_ethernet(settings, 77);
    let mut told = vec![];
    // px2 grants every request; the witness is silent until the 30th second.
    for n in 1..500_u64 {
        let now = at(n * 100);
        node.handle(Input::Tick, now);
        for output in obey(&mut node, now) {
            if let Output::Event(event) = &output {
                told.push((n / 10, event.message.clone()));
            }
            let Output::Peer { node: to, bytes } = output else { continue };
            let Ok(Message::Request { ballot, .. }) = Envelope::parse(&bytes).map(|e| e.message) else {
                continue;
            };
            if to == 2 && n < 300 {
                continue;
            }
            grants(&mut node, to, ballot, now);
            told.extend(events(obey(&mut node, now)).into_iter().map(|e| (n / 10, e.message)));
        }
    }
    let of = |text: &str| told.iter().filter(|(_, m)| m.contains(text)).map(|(s, _)| *s).collect::<Vec<_>>();
    let silent = of("w1 does not vote: 2 of 3 voters are left, and 2 are needed");
    assert_eq!(silent.len(), 1, "{told:?}");
    assert_eq!(of("w1 votes again"), [30], "{told:?}");
    assert_eq!(node.group_status(at(50_000))[0].state, State::Active);
}

/// It answers, and is as good as silent.
#[test]
fn a_voter_that_always_refuses_does_not_vote_and_says_why() {
    let mut settings = settings();
    settings.election.quorum = Quorum::Majority;
    settings.cluster.witnesses =
        vec![Member { name: "w1".into(), addresses: vec![address(13)], priority: None }];
    let mut node = on_ethernet(settings, 77);
    let mut told = vec![];
    for n in 1..200_u64 {
        let now = at(n * 100);
        node.handle(Input::Tick, now);
        for output in obey(&mut node, now) {
            if let Output::Event(event) = &output {
                told.push(event.message.clone());
            }
            let Output::Peer { node: to, bytes } = output else { continue };
            let Ok(Message::Request { ballot, .. }) = Envelope::parse(&bytes).map(|e| e.message) else {
                continue;
            };
            if to == 2 {
                let left = Duration::from_millis(300);
                says(&mut node, to, Message::Refuse { ballot, holder: None, left }, now);
            } else {
                grants(&mut node, to, ballot, now);
            }
            told.extend(events(obey(&mut node, now)).into_iter().map(|e| e.message));
        }
    }
    let of: Vec<_> = told.iter().filter(|m| m.contains("w1 does not vote: 2 of 3 voters are left")).collect();
    assert_eq!(of.len(), 1, "{told:?}");
    assert!(of[0].contains("(w1 refuses for 0.30 s: it has just started"), "{of:?}");
    assert_eq!(node.group_status(at(20_000))[0].state, State::Active);
}

/// After a crash the others take the election of `[dns]` over as fast as an
/// address; and there is nothing of it that a guard could delete.
#[test]
fn votes_for_an_election_without_addresses_are_given_back_by_the_guard() {
    let mut settings = settings();
    settings.election.quorum = Quorum::Majority;
    settings.cluster.witnesses =
        vec![Member { name: "w1".into(), addresses: vec![address(13)], priority: None }];
    settings.vips[0].addresses.clear();
    let mut node = on_ethernet(settings, 77);
    let mut guard = None;
    for n in 1..100_u64 {
        let now = at(n * 100);
        node.handle(Input::Tick, now);
        for output in obey(&mut node, now) {
            if let Output::Guard(state) = &output {
                guard = Some(state.clone());
            }
            let Output::Peer { node: to, bytes } = output else { continue };
            if let Ok(Message::Request { ballot, .. }) = Envelope::parse(&bytes).map(|e| e.message) {
                grants(&mut node, to, ballot, now);
                for output in obey(&mut node, now) {
                    guard = if let Output::Guard(state) = output { Some(state) } else { guard };
                }
            }
        }
    }
    assert_eq!(node.group_status(at(10_000))[0].state, State::Active);
    let guard = guard.expect("the guard was told");
    let voters: Vec<usize> = guard.releases.iter().map(|(voter, _)| *voter).collect();
    assert_eq!(voters, [1, 2]);
    assert_eq!(guard.watched, []);
}

#[test]
fn a_witness_that_votes_by_another_file_is_named() {
    let mut settings = settings();
    settings.election.quorum = Quorum::Majority;
    settings.digests = vec![("cluster.nodes", 1), ("pool", 2), ("election.advert-interval", 3)];
    settings.cluster.witnesses =
        vec![Member { name: "w1".into(), addresses: vec![address(13)], priority: None }];
    let mut node = on_ethernet(settings.clone(), 77);
    let hello = |node: &mut Node, digests: &[u32], millis| {
        let message = Message::Hello(Hello { digests: digests.to_vec(), ..Hello::default() });
        let payload = Envelope { cluster: cluster_id("orders"), sender: node_id("w1"), message }.write();
        node.handle(Input::PeerPacket { source: address(13), ttl: 255, payload: &payload }, at(millis));
        events(obey(node, at(millis))).into_iter().map(|e| e.message).collect::<Vec<_>>()
    };
    assert!(hello(&mut node, &[], 1_000).is_empty(), "one of a release that does not say");
    // It has not read a change of the pools, which are nothing to it.
    assert!(hello(&mut node, &[1, 9, 3], 2_000).is_empty());
    let other = "w1 votes by other settings than this node's: election.advert-interval; give it the same file and \
                 restart it";
    assert_eq!(hello(&mut node, &[1, 9, 8], 3_000), [other]);
    assert!(hello(&mut node, &[1, 9, 8], 4_000).is_empty(), "once");
    assert_eq!(node.witnesses()[0].differs, ["election.advert-interval"]);
    // A reload here may be what it wants for.
    settings.digests[2].1 = 8;
    node.reconfigure(settings, at(5_000));
    let told: Vec<String> = events(obey(&mut node, at(5_000))).into_iter().map(|e| e.message).collect();
    assert!(told.iter().any(|m| m == "w1 votes by the same settings again"), "{told:?}");
}

fn grants(node: &mut Node, voter: usize, ballot: Ballot, now: Time) {
    says(node, voter, Message::Grant(ballot), now);
}

fn says(node: &mut Node, voter: usize, message: Message, now: Time) {
    let (name, last) = if voter == 1 { ("px2", 12) } else { ("w1", 13) };
    let payload = Envelope { cluster: cluster_id("orders"), sender: node_id(name), message }.write();
    node.handle(Input::PeerPacket { source: address(last), ttl: 255, payload: &payload }, now);
}

/// With etcd there is one voter, and it is none of the nodes.
#[test]
fn with_etcd_no_node_is_named_for_not_voting() {
    let mut settings = settings();
    settings.election.quorum = Quorum::Etcd;
    settings.election.on_no_quorum = OnNoQuorum::Keep;
    let mut node = Node::new(settings, 1, 1, at(0));
    let link = Link::Up { interface: LINK, sources: vec![address(12)], mac: Some(PX2), subnets: vec![] };
    node.handle(Input::Link { group: 0, link }, at(0));
    node.handle(Input::RegisterTrouble { why: Some("http://e1:2379: refused".into()) }, at(100));
    let told: Vec<Event> =
        run(&mut node, at(60_000)).into_iter().flat_map(|(_, o)| events(vec![o])).collect();
    let status = node.group_status(at(60_000)).remove(0);
    assert_eq!(status.state, State::Active, "{}", status.why);
    assert!(!told.iter().any(|e| e.message.contains("does not vote")), "{told:?}");
    let why = status.why;
    assert!(why.contains("etcd has not answered for 59.90 s: http://e1:2379: refused"), "{why}");
    assert!(!why.contains("px1"), "{why}");
}

#[test]
fn what_is_seen_of_more_groups_than_a_hello_holds_is_told_by_turns() {
    let groups = 100..140_u8;
    let mut settings = settings();
    settings.vips = groups.clone().map(|n| vip(&format!("g{n}"), n)).collect();
    let mut node = Node::new(settings, 0, 0, at(0));
    let ids: Vec<usize> = node.groups().map(|(id, _)| id).collect();
    for group in ids {
        node.handle(Input::Link { group, link: link(77) }, at(0));
    }
    px2_says(&mut node, Hello { macs: vec![PX2], ..Hello::default() }, at(900));
    let (source, destination) = (address(12), address(11));
    for n in groups.clone() {
        let vrid = NonZeroU8::new(n).unwrap_or(NonZeroU8::MIN);
        let payload = Advert { vrid, addresses: vec![address(n)], ..advert(150) }.write(source, destination);
        let packet = Input::Packet { interface: LINK, source, destination, ttl: 255, payload: &payload };
        node.handle(packet, at(1_000));
    }
    run(&mut node, at(1_001));
    for n in groups.clone() {
        claims(&mut node, address(n), PX2, true, at(1_002));
    }
    let told: Vec<Vec<NonZeroU8>> = run(&mut node, at(3_500))
        .into_iter()
        .map(|output| sightings(&[output]).iter().map(|s| s.vrid).collect::<Vec<_>>())
        .filter(|told| !told.is_empty())
        .collect();
    assert!(told.len() >= 3 && told.iter().all(|t| t.len() <= peer::MAX_SIGHTINGS), "{told:?}");
    for two in told.windows(2).filter(|two| two[0].len() == peer::MAX_SIGHTINGS) {
        let all: std::collections::BTreeSet<_> = two.concat().into_iter().collect();
        assert_eq!(all.len(), groups.len(), "two hellos tell of all groups: {two:?}");
    }
}
