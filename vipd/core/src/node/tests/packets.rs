//! What arrives from the network.

use super::*;

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
    let rows: [(&[u8], u8, u8, &str); 7] = [
        (&good, 12, 254, "ttl"),
        (&good[..9], 12, 255, "truncated"),
        (&good, 66, 255, "wrong-checksum"),
        (&other_vrid, 12, 255, "other-vrid"),
        (&unknown_vrid, 12, 255, "unknown-vrid"),
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

/// A cluster that changes its version or its interval, one node restarted after the
/// other, has one owner all the time.
#[test]
fn a_nodes_advert_of_another_version_or_interval_counts() {
    let v2 = |interval| Advert { version: VrrpVersion::V2, interval, ..advert(254) };
    for (version, theirs) in [
        (VrrpVersion::V3, v2(SECOND)),
        (VrrpVersion::V2, advert(254)),
        (VrrpVersion::V2, v2(2 * SECOND)),
        (VrrpVersion::V3, v2(2 * SECOND)),
    ] {
        let mut settings = settings();
        settings.election.version = version;
        let mut node = owner(settings);
        hear(&mut node, LINK, &theirs, at(3_400));
        assert_eq!(node.group_status(at(3_400))[0].state, State::Backup, "{version:?} {theirs:?}");
        // A node that says no hello may not hear this one: that is told.
        assert_eq!(node.rejected(at(3_400)).len(), 1);
        // And its owner is not taken for silent between two of its adverts.
        let patience = 3 * u64::try_from(theirs.interval.as_millis()).unwrap_or(u64::MAX);
        node.handle(Input::Tick, at(3_399 + patience));
        assert_eq!(node.group_status(at(3_399 + patience))[0].state, State::Backup);
        node.handle(Input::Tick, at(4_500 + patience));
        assert_eq!(node.group_status(at(4_500 + patience))[0].state, State::Active);
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
    let message = Message::Hello(Hello::default());
    let foreign = Envelope { cluster: cluster_id("other"), sender: node_id("px2"), message }.write();
    let message = Message::Hello(Hello::default());
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
fn a_peer_with_other_settings_is_named_with_the_key() {
    let mut node = node(settings());
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 99]), at(1));
    assert_eq!(node.peers()[1].differs, ["pool"]);
    let told = events(drain(&mut node));
    assert!(told.iter().any(|e| e.kind == Kind::Peer && e.message.contains("pool")), "{told:?}");
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(2));
    assert!(node.peers()[1].differs.is_empty());
}

#[test]
fn a_link_local_source_that_a_peer_told_of_is_that_peer() {
    let six = |text: &str| text.parse::<IpAddr>().expect("an address");
    let mut both = settings();
    both.election.transport = Transport::Multicast;
    both.vips[0].addresses.extend(Cidr::new(six("fd77::100"), 64));
    let mut node = Node::new(both, 0, 0, at(0));
    let sources = vec![address(11), six("fe80::11")];
    node.handle(
        Input::Link { group: 0, link: Link::Up { interface: LINK, sources, mac: None, subnets: vec![] } },
        at(0),
    );
    let vrid = NonZeroU8::new(100).unwrap_or(NonZeroU8::MIN);
    let report = GroupReport { vrid, state: State::Active, priority: 150, serving: true, deposed: false };
    let sources = vec![address(12), six("fe80::12")];
    let message =
        Message::Hello(Hello { groups: vec![report], digests: vec![1, 2], sources, ..Hello::default() });
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
fn two_hosts_that_run_as_one_node_are_named_and_a_restart_is_not() {
    let hello = |run: u32| {
        let message = Message::Hello(Hello { digests: vec![1, 2], run, ..Hello::default() });
        Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message }.write()
    };
    // Two restarts, and one packet that was overtaken on its way.
    let rows: [(&[u32], bool); 4] = [
        (&[5, 5, 6, 6, 7], false),
        (&[5, 6, 5, 6, 7, 7], false),
        (&[0, 5, 0, 5, 0], false),
        (&[5, 6, 5, 6, 5, 6], true),
    ];
    for (runs, twins) in rows {
        let mut node = node(settings());
        let mut told = vec![];
        for (second, run) in (0..).zip(runs) {
            peer_says(&mut node, &hello(*run), at(second * 1_000));
            told.extend(events(drain(&mut node)));
        }
        let named = told.iter().filter(|e| e.message.contains("two hosts run as this node")).count();
        assert_eq!(named, usize::from(twins), "{runs:?}");
        assert_eq!(node.peers()[1].has_twin(at(6_000)), twins, "{runs:?}");
        assert!(!node.peers()[1].has_twin(at(70_000)), "it is over");
    }
}

/// keepalived says no hellos: between its adverts it is not silent.
#[test]
fn a_peer_that_only_advertises_is_silent_when_its_adverts_are() {
    let mut node = node(settings());
    let payload = Advert { interval: 10 * SECOND, ..advert(150) }.write(address(12), address(11));
    let mut told = vec![];
    for now in (0..100_000).step_by(100) {
        node.handle(Input::Tick, at(now));
        if now % 10_000 == 0 && now <= 60_000 {
            let (source, destination) = (address(12), address(11));
            let packet = Input::Packet { interface: LINK, source, destination, ttl: 255, payload: &payload };
            node.handle(packet, at(now));
        }
        let of_peers = events(drain(&mut node)).into_iter().filter(|e| e.kind == Kind::Peer);
        told.extend(of_peers.map(|e| (now, e.message)));
    }
    let expected = [(0, "px2 is there".to_owned()), (95_000, "px2 is silent for 35.00 s".to_owned())];
    assert_eq!(told, expected);
}

/// Two own it, each by its own word: whether the other's adverts come here is
/// judged by its interval, not by this node's.
#[test]
fn the_adverts_of_a_slower_rival_do_come_here() {
    let mut node = owner(settings());
    let slow = Advert { interval: 10 * SECOND, ..advert(150) };
    for now in (4_000..22_900).step_by(100) {
        if now % 10_000 == 4_000 {
            hear(&mut node, LINK, &slow, at(now));
        }
        if now % 1_000 == 0 {
            peer_says(&mut node, &hello(State::Active, true, vec![1, 2]), at(now));
        }
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    let why = node.group_status(at(22_900))[0].why.clone();
    assert!(why.contains("px2 owns it, too") && why.contains("its adverts come here"), "{why}");
}
