#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks at some outputs and lets the others pass")]

mod records;
mod servers;

use super::*;
use crate::event::Kind;
use crate::plan::Hold;
use crate::probe::Observation;
use crate::settings::{Bind, Check, CheckKind, Host, Member, Server, TcpCheck, Transport, VrrpVersion};
use crate::wire::advert::Advert;
use crate::wire::peer::{GroupReport, cluster_id, node_id};
use std::net::Ipv4Addr;
use std::num::NonZeroU8;

const SECOND: Duration = Duration::from_secs(1);
const LINK: u32 = 2;

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, last))
}

fn at(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

fn vip(name: &str, last: u8) -> VipGroup {
    VipGroup {
        name: name.into(),
        addresses: Cidr::new(address(last), 24).into_iter().collect(),
        interface: None,
        vrid: NonZeroU8::new(last).unwrap_or(NonZeroU8::MIN),
        nodes: vec![0, 1],
        track: vec![],
    }
}

fn settings() -> Settings {
    let member = |n: u8| Member { name: format!("px{n}"), addresses: vec![address(10 + n)], priority: None };
    Settings {
        cluster: ClusterSettings {
            name: "orders".into(),
            nodes: vec![member(1), member(2)],
            peer_port: 7112,
        },
        election: ElectionSettings {
            advert_interval: SECOND,
            version: VrrpVersion::V3,
            transport: Transport::Unicast,
            preempt: false,
            preempt_delay: Duration::ZERO,
            lease: 3 * SECOND,
        },
        vips: vec![vip("main", 100)],
        listeners: vec![],
        pools: vec![],
        dns: None,
        digests: vec![("cluster.nodes", 1), ("pool", 2)],
    }
}

/// The first node, started at 0 s, its interface up.
fn node(settings: Settings) -> Node {
    let mut node = Node::new(settings, 0, 0, at(0));
    let groups: Vec<usize> = node.groups().map(|(id, _)| id).collect();
    for group in groups {
        node.handle(
            Input::Link { group, link: Link::Up { interface: LINK, sources: vec![address(11)] } },
            at(0),
        );
    }
    drain(&mut node);
    node
}

fn drain(node: &mut Node) -> Vec<Output> {
    std::iter::from_fn(|| node.next_output()).collect()
}

/// Lets the node take over, and its kernel obey.
fn owner(settings: Settings) -> Node {
    let mut node = node(settings);
    let now = at(3_300);
    node.handle(Input::Tick, now);
    obey(&mut node, now);
    assert_eq!(node.group_status(now)[0].state, State::Active);
    node
}

/// Acknowledges every plan; gives the other outputs.
fn obey(node: &mut Node, now: Time) -> Vec<Output> {
    let mut others = vec![];
    loop {
        let outputs = drain(node);
        if outputs.is_empty() {
            return others;
        }
        for output in outputs {
            match output {
                Output::Addresses(plan) => {
                    let (group, generation) = (plan.group, plan.generation);
                    node.handle(Input::Applied { group, generation, result: Ok(()) }, now);
                }
                Output::Announce(announcement) => {
                    node.handle(Input::Announced { group: announcement.group }, now);
                    others.push(Output::Announce(announcement));
                }
                output => others.push(output),
            }
        }
    }
}

fn hello(state: State, serving: bool, digests: Vec<u32>) -> Vec<u8> {
    let vrid = NonZeroU8::new(100).unwrap_or(NonZeroU8::MIN);
    let groups = vec![GroupReport { vrid, state, priority: 150, serving }];
    let message = Message::Hello { groups, digests, sources: vec![], incumbents: vec![] };
    Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message }.write()
}

fn peer_says(node: &mut Node, payload: &[u8], now: Time) {
    node.handle(Input::PeerPacket { source: address(12), ttl: 255, payload }, now);
}

fn events(outputs: Vec<Output>) -> Vec<Event> {
    let event = |output| if let Output::Event(event) = output { Some(event) } else { None };
    outputs.into_iter().filter_map(event).collect()
}

fn advert(priority: u8) -> Advert {
    Advert {
        version: VrrpVersion::V3,
        vrid: NonZeroU8::new(100).unwrap_or(NonZeroU8::MIN),
        priority,
        interval: SECOND,
        addresses: vec![address(100)],
    }
}

/// The guard looks after addresses until the kernel has said that they are gone.
#[test]
fn the_guard_holds_what_is_not_deleted_yet() {
    let mut node = owner(settings());
    let down = Link::Down { reason: "eth0 has no carrier".into() };
    let group = node.group_status(at(3_400))[0].id;
    node.handle(Input::Link { group, link: down }, at(3_400));
    let outputs = drain(&mut node);
    let guard = |outputs: &[Output]| {
        let mut states = outputs.iter().filter_map(|o| if let Output::Guard(g) = o { Some(g) } else { None });
        states.next_back().map(|g| g.addresses.len())
    };
    assert_eq!(guard(&outputs), Some(1));
    let mut plans = outputs.iter().filter_map(|o| if let Output::Addresses(p) = o { Some(p) } else { None });
    let absent = plans.next_back().filter(|p| p.hold == Hold::Absent).expect("a plan to delete them");
    let gone = Input::Applied { group, generation: absent.generation, result: Ok(()) };
    node.handle(gone, at(3_401));
    assert_eq!(guard(&drain(&mut node)), Some(0));
}

#[test]
fn packets_that_prove_nothing_are_counted_and_change_nothing() {
    let good = advert(254).write(address(12), address(11));
    let with = |change: fn(&mut Advert)| {
        let mut changed = advert(254);
        change(&mut changed);
        changed.write(address(12), address(11))
    };
    let other_vrid = with(|a| a.vrid = NonZeroU8::MIN);
    let unknown_vrid = with(|a| {
        a.vrid = NonZeroU8::MIN;
        a.addresses = vec![address(200)];
    });
    let v2 = with(|a| a.version = VrrpVersion::V2);
    let rows: [(&[u8], u8, u8, &str); 8] = [
        (&good, 12, 254, "ttl"),
        (&good[..9], 12, 255, "truncated"),
        (&good, 66, 255, "wrong-checksum"),
        (&other_vrid, 12, 255, "other-vrid"),
        (&unknown_vrid, 12, 255, "unknown-vrid"),
        (&v2, 12, 255, "version-mismatch"),
        (&advert(254).write(address(66), address(11)), 66, 255, "unknown-sender"),
        (&advert(254).write(address(11), address(11)), 11, 255, "own-address"),
    ];
    for (payload, source, ttl, cause) in rows {
        let mut node = owner(settings());
        let now = at(3_400);
        let (source, destination) = (address(source), address(11));
        node.handle(Input::Packet { interface: LINK, source, destination, ttl, payload }, now);
        assert_eq!(node.group_status(now)[0].state, State::Active, "{cause}");
        let rejected = node.rejected(now);
        assert_eq!(rejected.iter().map(|r| r.cause.as_str()).collect::<Vec<_>>(), [cause]);
        let told = events(drain(&mut node));
        assert!(told.iter().any(|e| e.kind == Kind::Advert && e.message.contains(cause)), "{told:?}");
    }
}

#[test]
fn a_strangers_advert_counts_at_multicast_if_it_is_of_our_addresses() {
    let mut multicast = settings();
    multicast.election.transport = Transport::Multicast;
    let group = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
    for (their_vip, state, cause) in
        [(address(100), State::Backup, None), (address(200), State::Active, Some("foreign-cluster"))]
    {
        let mut node = owner(multicast.clone());
        let theirs = Advert { addresses: vec![their_vip], ..advert(254) };
        let payload = theirs.write(address(66), group);
        let packet = Input::Packet {
            interface: LINK,
            source: address(66),
            destination: group,
            ttl: 255,
            payload: &payload,
        };
        node.handle(packet, at(3_400));
        assert_eq!(node.group_status(at(3_400))[0].state, state);
        assert_eq!(node.rejected(at(3_400)).first().map(|r| r.cause.as_str()), cause);
    }
}

#[test]
fn peer_messages_are_taken_from_known_nodes_of_this_cluster_only() {
    let good = hello(State::Backup, true, vec![1, 2]);
    let mut newer = good.clone();
    newer[4] = 9;
    let message = Message::Hello { groups: vec![], digests: vec![], sources: vec![], incumbents: vec![] };
    let foreign = Envelope { cluster: cluster_id("other"), sender: node_id("px2"), message }.write();
    let message = Message::Hello { groups: vec![], digests: vec![], sources: vec![], incumbents: vec![] };
    let impostor = Envelope { cluster: cluster_id("orders"), sender: node_id("px1"), message }.write();
    let rows: [(&[u8], u8, u8, &str); 6] = [
        (&good, 12, 64, "ttl"),
        (&good, 66, 255, "unknown-sender"),
        (b"hello", 12, 255, "peer-garbage"),
        (&newer, 12, 255, "peer-version"),
        (&foreign, 12, 255, "foreign-cluster"),
        (&impostor, 12, 255, "node-name"),
    ];
    for (payload, source, ttl, cause) in rows {
        let mut node = node(settings());
        node.handle(Input::PeerPacket { source: address(source), ttl, payload }, at(1));
        assert_eq!(node.rejected(at(1)).first().map(|r| r.cause.as_str()), Some(cause));
        assert!(!node.peers()[1].alive, "{cause}");
    }
    let mut node = node(settings());
    peer_says(&mut node, &good, at(1));
    assert!(node.peers()[1].alive);
}

#[test]
fn nothing_is_announced_before_the_kernel_has_it() {
    let mut node = node(settings());
    node.handle(Input::Tick, at(3_300));
    let outputs = drain(&mut node);
    let plan = outputs.iter().find_map(|o| if let Output::Addresses(p) = o { Some(p.clone()) } else { None });
    let plan = plan.expect("a plan");
    assert_eq!(plan.hold, Hold::Owned);
    assert!(outputs.iter().any(|o| matches!(o, Output::Advert(_))), "backups are told at once");
    assert!(!outputs.iter().any(|o| matches!(o, Output::Announce(_))));
    // An answer to an older plan says nothing of this one.
    let (group, generation) = (plan.group, plan.generation);
    node.handle(Input::Applied { group, generation: generation - 1, result: Ok(()) }, at(3_301));
    assert!(!drain(&mut node).iter().any(|o| matches!(o, Output::Announce(_))));
    node.handle(Input::Applied { group, generation, result: Ok(()) }, at(3_302));
    assert!(drain(&mut node).iter().any(|o| matches!(o, Output::Announce(_))));
    node.handle(Input::Announced { group }, at(3_303));
    let steps = events(drain(&mut node)).into_iter().find_map(|e| e.steps).expect("the takeover's steps");
    assert!(steps.decided <= steps.address_in && steps.address_in < steps.announced, "{steps:?}");
}

#[test]
fn a_refusal_of_the_kernel_is_a_fault_and_a_release() {
    let mut node = node(settings());
    node.handle(Input::Tick, at(3_300));
    drain(&mut node);
    node.handle(Input::Applied { group: 0, generation: 2, result: Err("no buffer".into()) }, at(3_301));
    let status = &node.group_status(at(3_301))[0];
    assert_eq!(status.state, State::Fault);
    assert!(status.why.contains("no buffer"), "{}", status.why);
    let releases = drain(&mut node).into_iter().filter(|o| matches!(o, Output::Advert(t) if t.bytes[2] == 0));
    assert_eq!(releases.count(), 1);
    // It takes part again by itself.
    let retry = at(8_400);
    node.handle(Input::Tick, retry);
    assert_eq!(node.group_status(retry)[0].state, State::Backup);
}

#[test]
fn a_switchover_that_cannot_be_is_refused_with_its_reason() {
    let now = at(3_400);
    let mut node = owner(settings());
    let mut refused = |vip: &str, to: Option<&str>| node.switchover(vip, to, now).expect_err("refused");
    assert!(refused("mian", None).contains("there is main"));
    assert!(refused("main", Some("px9")).contains("its nodes are px1, px2"));
    assert!(refused("main", Some("px1")).contains("on px1 already"));
    assert!(refused("main", None).contains("px2 does not answer"));
    peer_says(&mut node, &hello(State::Fault, true, vec![1, 2]), now);
    assert!(node.switchover("main", None, now).expect_err("refused").contains("state fault"));
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), now);
    assert_eq!(node.switchover("main", None, now), Ok("px2".to_owned()));
    assert!(node.switchover("main", None, now).expect_err("refused").contains("under way"));
}

#[test]
fn a_switchover_that_nobody_answers_leaves_everything_as_it_was() {
    let mut node = owner(settings());
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(3_400));
    node.switchover("main", None, at(3_400)).expect("begins");
    obey(&mut node, at(3_400));
    node.handle(Input::Tick, at(3_700));
    let told = events(obey(&mut node, at(3_700)));
    assert!(told.iter().any(|e| e.message.contains("px2 did not answer")), "{told:?}");
    let status = &node.group_status(at(3_700))[0];
    assert_eq!((status.state, status.switching), (State::Active, false));
}

#[test]
fn a_peer_with_other_settings_is_named_with_the_key() {
    let mut node = node(settings());
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 99]), at(1));
    assert_eq!(node.peers()[1].differs, ["pool"]);
    let told = events(drain(&mut node));
    assert!(told.iter().any(|e| e.kind == Kind::Peer && e.message.contains("pool")), "{told:?}");
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(2));
    assert!(node.peers()[1].differs.is_empty());
}

/// A pool of one checked server, and a listener that the group tracks.
fn tracked() -> Settings {
    let server = Server::new("db1", Host::Address(address(21)), 3306);
    let check = Check { rise: 1, fall: 1, ..Check::new(CheckKind::Tcp(TcpCheck::default())) };
    let pool = Pool { check: Some(check), ..Pool::new("primary", vec![server]) };
    let bind = Bind { address: Some(address(100)), port: 3306 };
    let listener = Listener::new("write", bind, 0);
    let mut settings = settings();
    settings.vips[0].track = vec![0];
    settings.listeners = vec![listener];
    settings.pools = vec![pool];
    settings
}

#[test]
fn an_owner_without_servers_steps_back_only_if_another_has_some() {
    let prepares = |outputs: &[Output]| {
        let prepare = |o: &&Output| matches!(o, Output::Peer { bytes, .. } if bytes[5] == 2);
        outputs.iter().filter(prepare).count()
    };
    let key = ServerKey { pool: 0, server: 0 };
    let up =
        || Input::Probe { server: key, probe: Probe::Answered(Observation::default()), took: Duration::ZERO };
    let down = || Input::Probe { server: key, probe: Probe::Failed("refused".into()), took: Duration::ZERO };
    let mut node = node(tracked());
    node.handle(up(), at(1));
    node.handle(Input::Tick, at(3_300));
    obey(&mut node, at(3_300));
    // Nobody is better off: the address stays where it is.
    peer_says(&mut node, &hello(State::Backup, false, vec![1, 2]), at(3_400));
    node.handle(down(), at(3_500));
    assert_eq!(prepares(&obey(&mut node, at(3_500))), 0);
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(3_600));
    assert_eq!(prepares(&obey(&mut node, at(3_600))), 1);
}

#[test]
fn a_reload_touches_only_what_changed() {
    let now = at(3_500);
    let mut two = settings();
    two.vips.push(vip("second", 101));
    let mut node = node(two.clone());
    node.handle(Input::Tick, at(3_300));
    obey(&mut node, at(3_300));
    let mut changed = two.clone();
    changed.vips[1].addresses = Cidr::new(address(102), 24).into_iter().collect();
    changed.vips.push(vip("third", 103));
    node.reconfigure(changed, now);
    let plans = |outputs: Vec<Output>| -> Vec<(usize, Hold, IpAddr)> {
        let plan = |o| if let Output::Addresses(p) = o { Some(p) } else { None };
        let plans = outputs.into_iter().filter_map(plan);
        plans.map(|p| (p.group, p.hold, p.addresses[0].address())).collect()
    };
    assert_eq!(plans(drain(&mut node)), [(1, Hold::Owned, address(102))]);
    assert_eq!(node.groups().map(|(id, _)| id).collect::<Vec<_>>(), [0, 1, 2]);
    // A group that is gone is released and its addresses are deleted.
    let mut fewer = two;
    fewer.vips.truncate(1);
    node.reconfigure(fewer, now);
    let first = plans(drain(&mut node));
    assert_eq!(first, [(1, Hold::Silent, address(102))]);
    let mut other = settings();
    other.cluster.name = "other".into();
    assert_eq!(Node::needs_restart(node.settings(), &other), ["cluster"]);
}

/// The addresses whose sessions are closed, and how many plans came before that.
fn closed(outputs: &[Output]) -> Option<(&[IpAddr], usize)> {
    let position = outputs.iter().position(|o| matches!(o, Output::CloseSessions { .. }))?;
    let Output::CloseSessions { addresses } = &outputs[position] else { return None };
    let plans = outputs[..position].iter().filter(|o| matches!(o, Output::Addresses(_))).count();
    Some((addresses, plans))
}

#[test]
fn sessions_on_an_address_that_a_reload_takes_away_are_closed_first() {
    let mut two = settings();
    two.vips[0].addresses.extend(Cidr::new(address(101), 24));
    two.vips.push(vip("second", 110));
    let now = at(3_400);

    // The address goes altogether, when its clients know; another prefix length
    // is no other address.
    let mut node = owner(two.clone());
    let mut fewer = two.clone();
    fewer.vips[0].addresses = Cidr::new(address(100), 32).into_iter().collect();
    node.reconfigure(fewer, now);
    let planned = |outputs: &[Output]| -> Vec<IpAddr> {
        let plan = |o: &Output| if let Output::Addresses(p) = o { Some(p.clone()) } else { None };
        let last = outputs.iter().filter_map(plan).rfind(|p| p.group == 0).expect("a plan");
        last.addresses.iter().map(|a| a.address()).collect()
    };
    let outputs = drain(&mut node);
    assert_eq!(closed(&outputs), Some((&[address(101)][..], 0)));
    assert_eq!(planned(&outputs), [address(100), address(101)]);
    assert_eq!(node.group_status(now)[0].addresses.len(), 1);
    node.handle(Input::Tick, at(3_500));
    assert_eq!(planned(&drain(&mut node)), [address(100)]);

    // It moves to another group.
    let mut node = owner(two.clone());
    let mut moved = two.clone();
    moved.vips[0].addresses.truncate(1);
    moved.vips[1].addresses.extend(Cidr::new(address(101), 24));
    node.reconfigure(moved, now);
    assert_eq!(closed(&drain(&mut node)), Some((&[address(101)][..], 0)));

    // Its group goes; one that stays has the address from now on.
    let mut node = owner(two.clone());
    let mut merged = two.clone();
    merged.vips[1].addresses.extend(Cidr::new(address(101), 24));
    merged.vips.remove(0);
    node.reconfigure(merged, now);
    let outputs = drain(&mut node);
    assert_eq!(closed(&outputs), Some((&[address(101)][..], 0)));
    let plan = |group| {
        let plan = |o: &Output| if let Output::Addresses(p) = o { Some(p.clone()) } else { None };
        outputs.iter().filter_map(plan).find(|p| p.group == group).expect("a plan")
    };
    assert_eq!(plan(0).addresses.len(), 1, "the leaving group would take it from the other");
    assert_eq!(plan(1).addresses.len(), 2);

    // Its group goes, and the address with it.
    let mut node = owner(two.clone());
    let mut without = two;
    without.vips.remove(0);
    node.reconfigure(without, now);
    let mut outputs = vec![];
    for now in (3_400..10_000).step_by(10) {
        node.handle(Input::Tick, at(now));
        outputs.extend(obey(&mut node, at(now)));
    }
    assert_eq!(closed(&outputs), Some((&[address(100), address(101)][..], 0)));

    // A backup holds nothing that anybody could be connected to.
    let mut node = self::node(settings());
    let mut other = settings();
    other.vips[0].addresses = Cidr::new(address(102), 24).into_iter().collect();
    node.reconfigure(other, at(10));
    assert_eq!(closed(&drain(&mut node)), None);
}

/// Three nodes, of which the last has the highest priority.
fn against_the_order() -> Settings {
    let mut settings = settings();
    settings.cluster.nodes.push(Member { name: "px3".into(), addresses: vec![address(13)], priority: None });
    settings.vips[0].nodes = vec![0, 1, 2];
    for (member, priority) in settings.cluster.nodes.iter_mut().zip([10, 20, 30]) {
        member.priority = NonZeroU8::new(priority);
    }
    settings
}

#[test]
fn a_release_is_taken_up_by_priority_also_against_the_order_of_the_file() {
    for (me, own, taken_up_at) in [(0, 11, 1_010), (1, 12, 1_000)] {
        let mut node = Node::new(against_the_order(), me, 0, at(0));
        let link = Link::Up { interface: LINK, sources: vec![address(own)] };
        node.handle(Input::Link { group: 0, link }, at(0));
        for (priority, now) in [(30, 500), (0, 1_000)] {
            let (source, destination) = (address(13), address(own));
            let payload = advert(priority).write(source, destination);
            let packet = Input::Packet { interface: LINK, source, destination, ttl: 255, payload: &payload };
            node.handle(packet, at(now));
        }
        node.handle(Input::Tick, at(taken_up_at - 1));
        let state = |node: &Node| node.group_status(at(1_000))[0].state;
        let waits = if taken_up_at == 1_000 { State::Active } else { State::Backup };
        assert_eq!(state(&node), waits, "px{}", me + 1);
        node.handle(Input::Tick, at(taken_up_at));
        assert_eq!(state(&node), State::Active, "px{}", me + 1);
    }
    // And the first to be asked to prepare is the next by priority.
    let mut settings = against_the_order();
    settings.cluster.nodes[0].priority = NonZeroU8::new(200);
    let mut node = owner(settings);
    for (sender, last) in [("px2", 12), ("px3", 13)] {
        let vrid = NonZeroU8::new(100).unwrap_or(NonZeroU8::MIN);
        let groups = vec![GroupReport { vrid, state: State::Backup, priority: 20, serving: true }];
        let message = Message::Hello { groups, digests: vec![1, 2], sources: vec![], incumbents: vec![] };
        let payload = Envelope { cluster: cluster_id("orders"), sender: node_id(sender), message }.write();
        node.handle(Input::PeerPacket { source: address(last), ttl: 255, payload: &payload }, at(3_400));
    }
    assert_eq!(node.switchover("main", None, at(3_400)), Ok("px3".to_owned()));
}

#[test]
fn why_tells_what_keeps_a_node_from_preempting() {
    let why = |settings: Settings, probe: Option<Probe>, heard: &[u64]| {
        let mut node = node(settings);
        if let Some(probe) = probe {
            node.handle(
                Input::Probe { server: ServerKey { pool: 0, server: 0 }, probe, took: Duration::ZERO },
                at(1),
            );
        }
        let payload = advert(150).write(address(12), address(11));
        for now in heard {
            let (source, destination) = (address(12), address(11));
            let packet = Input::Packet { interface: LINK, source, destination, ttl: 255, payload: &payload };
            node.handle(packet, at(*now));
        }
        node.group_status(at(heard[heard.len() - 1] + 100))[0].why.clone()
    };
    let up = || Some(Probe::Answered(Observation::default()));
    let down = || Some(Probe::Failed("refused".into()));
    let preempt = |mut settings: Settings, delay| {
        (settings.election.preempt, settings.election.preempt_delay) = (true, delay);
        settings
    };
    let rows = [
        (settings(), None, "150 < 200, but no preemption"),
        (preempt(settings(), 30 * SECOND), None, "150 < 200; this node preempts it in 28.90 s"),
        (preempt(settings(), Duration::ZERO), None, "150 < 200; this node is taking over"),
        (
            preempt(tracked(), 30 * SECOND),
            None,
            "150 < 200, but not every server has been checked from here yet",
        ),
        (
            preempt(tracked(), 30 * SECOND),
            down(),
            "150 < 200, but a listener it tracks has no usable server here",
        ),
        (preempt(tracked(), 30 * SECOND), up(), "150 < 200; this node preempts it in 28.90 s"),
    ];
    for (settings, probe, expected) in rows {
        let told = why(settings, probe, &[1_000, 2_000]);
        assert!(told.contains(expected), "{told:?}, not {expected:?}");
    }

    // After a switchover it does not take back what it gave.
    let mut node = owner(preempt(settings(), Duration::ZERO));
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(3_400));
    node.switchover("main", None, at(3_400)).expect("begins");
    for now in (3_400..4_400).step_by(10) {
        node.handle(Input::Tick, at(now));
        for output in obey(&mut node, at(now)) {
            if let Output::Peer { bytes, .. } = output
                && let Ok(Envelope { message: Message::Prepare { vrid, nonce, .. }, .. }) =
                    Envelope::parse(&bytes)
            {
                let message = Message::Ready { vrid, nonce };
                let ready = Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message };
                peer_says(&mut node, &ready.write(), at(now));
            }
        }
    }
    let payload = advert(150).write(address(12), address(11));
    let (source, destination) = (address(12), address(11));
    node.handle(
        Input::Packet { interface: LINK, source, destination, ttl: 255, payload: &payload },
        at(4_400),
    );
    let told = &node.group_status(at(4_400))[0].why;
    assert!(told.contains("150 < 200, but this node handed over to it on purpose"), "{told}");
}

#[test]
fn maintenance_hands_over_and_takes_nothing() {
    let mut node = owner(settings());
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(3_400));
    node.set_maintenance(true, at(3_400));
    let asked = drain(&mut node).iter().any(|o| matches!(o, Output::Peer { bytes, .. } if bytes[5] == 2));
    assert!(asked, "the next owner is asked first");
    for now in (3_400..30_000).step_by(50) {
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    assert_eq!(node.group_status(at(30_000))[0].state, State::Init);
    node.set_maintenance(false, at(30_000));
    assert_eq!(node.group_status(at(30_000))[0].state, State::Backup);
}

#[test]
fn a_node_that_has_not_judged_its_servers_is_not_ready_to_own() {
    let vrid = NonZeroU8::new(100).unwrap_or(NonZeroU8::MIN);
    let message = Message::Prepare { vrid, nonce: 7, to: node_id("px1") };
    let prepare = Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message }.write();
    let prepares = |node: &mut Node, now| {
        peer_says(node, &prepare, now);
        let silent = |o: &Output| matches!(o, Output::Addresses(p) if p.hold == Hold::Silent);
        drain(node).iter().any(silent)
    };
    let mut cold = node(tracked());
    assert!(!prepares(&mut cold, at(10)));
    let probe = Probe::Failed("refused".into());
    cold.handle(
        Input::Probe { server: ServerKey { pool: 0, server: 0 }, probe, took: Duration::ZERO },
        at(20),
    );
    assert!(prepares(&mut cold, at(30)), "a server that is down is known, too");
    // A name that never resolves is not waited for without end.
    let mut patient = node(tracked());
    patient.handle(Input::PeerPacket { source: address(12), ttl: 255, payload: &prepare }, at(10));
    let payload = advert(150).write(address(12), address(11));
    for now in (1_000..=5_000).step_by(500) {
        let (source, destination) = (address(12), address(11));
        patient.handle(
            Input::Packet { interface: LINK, source, destination, ttl: 255, payload: &payload },
            at(now),
        );
        patient.handle(Input::Tick, at(now));
    }
    drain(&mut patient);
    assert!(prepares(&mut patient, at(5_010)));
}

#[test]
fn an_owner_under_another_number_is_not_taken_over_from() {
    let mut node = node(settings());
    let theirs = Advert { vrid: NonZeroU8::MIN, ..advert(150) };
    let payload = theirs.write(address(12), address(11));
    for now in (500..20_000).step_by(500) {
        let (source, destination) = (address(12), address(11));
        node.handle(
            Input::Packet { interface: LINK, source, destination, ttl: 255, payload: &payload },
            at(now),
        );
        node.handle(Input::Tick, at(now));
    }
    assert_eq!(node.group_status(at(20_000))[0].state, State::Backup);
    // Once it is gone, this node takes over as always.
    node.handle(Input::Tick, at(23_000));
    assert_eq!(node.group_status(at(23_000))[0].state, State::Active);
}

#[test]
fn maintenance_that_ends_during_the_hand_over_leaves_a_backup() {
    let mut node = owner(settings());
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(3_400));
    node.set_maintenance(true, at(3_400));
    node.set_maintenance(false, at(3_410));
    for now in (3_420..5_000).step_by(10) {
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    assert_eq!(node.group_status(at(5_000))[0].state, State::Backup);
}

#[test]
fn a_group_that_a_reload_adds_in_maintenance_takes_no_part() {
    let mut node = node(settings());
    node.set_maintenance(true, at(10));
    let mut more = settings();
    more.vips.push(vip("second", 101));
    node.reconfigure(more, at(20));
    node.handle(
        Input::Link { group: 1, link: Link::Up { interface: LINK, sources: vec![address(11)] } },
        at(30),
    );
    node.handle(Input::Tick, at(60_000));
    assert!(node.group_status(at(60_000)).iter().all(|g| g.state == State::Init));
}

#[test]
fn a_link_local_source_that_a_peer_told_of_is_that_peer() {
    let six = |text: &str| text.parse::<IpAddr>().expect("an address");
    let mut both = settings();
    both.election.transport = Transport::Multicast;
    both.vips[0].addresses.extend(Cidr::new(six("fd77::100"), 64));
    let mut node = Node::new(both, 0, 0, at(0));
    let sources = vec![address(11), six("fe80::11")];
    node.handle(Input::Link { group: 0, link: Link::Up { interface: LINK, sources } }, at(0));
    let vrid = NonZeroU8::new(100).unwrap_or(NonZeroU8::MIN);
    let report = GroupReport { vrid, state: State::Active, priority: 150, serving: true };
    let sources = vec![address(12), six("fe80::12")];
    let message = Message::Hello { groups: vec![report], digests: vec![1, 2], sources, incumbents: vec![] };
    let told = Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message }.write();
    peer_says(&mut node, &told, at(10));
    let theirs = Advert { addresses: vec![six("fd77::100")], ..advert(150) };
    let group = six("ff02::12");
    let payload = theirs.write(six("fe80::12"), group);
    let packet = Input::Packet {
        interface: LINK,
        source: six("fe80::12"),
        destination: group,
        ttl: 255,
        payload: &payload,
    };
    node.handle(packet, at(20));
    assert_eq!(node.group_status(at(20))[0].owner.as_deref(), Some("px2"));
}

#[test]
fn maintenance_that_would_leave_nobody_is_told_of() {
    let mut node = owner(settings());
    assert!(node.maintenance_obstacle().is_some_and(|why| why.contains("px2 does not answer")));
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(3_400));
    assert_eq!(node.maintenance_obstacle(), None);
}
