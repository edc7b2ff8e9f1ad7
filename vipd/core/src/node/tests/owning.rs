//! Taking the addresses, holding them, and letting them go.

use super::*;

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

/// Clients would send to the interface's old Ethernet address until the slow refresh.
#[test]
fn another_ethernet_address_is_announced_at_once() {
    let mut node = owner(settings());
    let announced = |node: &mut Node, now: Time| {
        let outputs = obey(node, now);
        outputs.iter().filter(|o| matches!(o, Output::Announce(_))).count()
    };
    for now in (3_400..20_000).step_by(100) {
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    let link = |mac, subnets| {
        let link = Link::Up { interface: LINK, sources: vec![address(11)], mac: Some(mac), subnets };
        Input::Link { group: 0, link }
    };
    node.handle(link([2, 0, 0, 0, 0, 1], vec![]), at(20_000));
    assert_eq!(announced(&mut node, at(20_000)), 0, "the first to be told");
    let subnet = Cidr::new(address(0), 24).expect("a subnet");
    node.handle(link([2, 0, 0, 0, 0, 1], vec![subnet]), at(20_000));
    assert_eq!(announced(&mut node, at(20_000)), 0, "the same");
    node.handle(link([2, 0, 0, 0, 0, 2], vec![subnet]), at(20_000));
    assert_eq!(announced(&mut node, at(20_000)), 1);
    let mut more = 0;
    for now in (20_000..31_000).step_by(10) {
        node.handle(Input::Tick, at(now));
        more += announced(&mut node, at(now));
    }
    assert_eq!(more, 9, "the burst of a takeover");
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
    // Nobody is told that it is free before it is.
    let outputs = drain(&mut node);
    let released = |o: &&Output| matches!(o, Output::Advert(t) if t.bytes[2] == 0);
    assert_eq!(outputs.iter().filter(released).count(), 0);
    let plan = |o: &Output| if let Output::Addresses(p) = o { Some(p.generation) } else { None };
    let generation = outputs.iter().filter_map(plan).next_back().expect("a plan to delete it");
    node.handle(Input::Applied { group: 0, generation, result: Ok(()) }, at(3_302));
    assert_eq!(drain(&mut node).iter().filter(released).count(), 1);
    // An address that comes to the interface is not what it waits for.
    let sources = vec![address(11), address(12)];
    let link = Link::Up { interface: LINK, sources, mac: None, subnets: vec![] };
    node.handle(Input::Link { group: 0, link }, at(4_000));
    let status = &node.group_status(at(4_000))[0];
    assert!(status.state == State::Fault && status.why.contains("no buffer"), "{}", status.why);
    // It takes part again by itself.
    let retry = at(8_400);
    node.handle(Input::Tick, retry);
    assert_eq!(node.group_status(retry)[0].state, State::Backup);
}

/// Two hosts that boot together behind slow switch ports own when they hear each other.
#[test]
fn a_start_delay_ends_with_the_last_hello() {
    let mut settings = settings();
    settings.election.start_delay = 30 * SECOND;
    let alone = node(settings.clone());
    let mut with_peer = node(settings);
    assert_eq!(alone.group_status(at(0))[0].state, State::Backup);
    let owns_at = |mut node: Node| {
        (0..40_000).step_by(10).find(|now| {
            node.handle(Input::Tick, at(*now));
            obey(&mut node, at(*now));
            node.group_status(at(*now))[0].state == State::Active
        })
    };
    assert_eq!(owns_at(alone), Some(30_000));
    peer_says(&mut with_peer, &hello(State::Backup, true, vec![1, 2]), at(0));
    assert!(owns_at(with_peer).is_some_and(|at| at < 4_000));
}

/// Link down, so that nobody heard it let go; one family's address comes back first.
#[test]
fn a_link_that_comes_back_in_part_carries_the_release() {
    let mut node = owner(settings());
    node.handle(Input::Link { group: 0, link: Link::Down { reason: "no carrier".into() } }, at(3_400));
    obey(&mut node, at(3_400));
    let reason = "no own address of IPv6".into();
    let link = Link::Partial { reason, interface: LINK, sources: vec![address(11)] };
    node.handle(Input::Link { group: 0, link }, at(3_600));
    let released = |o: &&Output| matches!(o, Output::Advert(t) if t.bytes[2] == 0);
    assert_eq!(obey(&mut node, at(3_600)).iter().filter(released).count(), 1);
}

/// Its port has been open for long: whatever else begins anew is no start.
#[test]
fn a_start_delay_counts_from_the_start_and_the_link_alone() {
    let mut settings = settings();
    settings.election.start_delay = 30 * SECOND;
    let mut node = owner_at(settings.clone(), 30_000);
    let owns_after = |node: &mut Node, from: u64| {
        (from..from + 60_000).step_by(10).find(|now| {
            node.handle(Input::Tick, at(*now));
            obey(node, at(*now));
            node.group_status(at(*now))[0].state == State::Active
        })
    };
    node.set_maintenance(true, at(40_000));
    obey(&mut node, at(40_000));
    for now in (40_000..50_000).step_by(10) {
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    node.set_maintenance(false, at(50_000));
    assert!(owns_after(&mut node, 50_000).is_some_and(|at| at < 55_000));
    let link = |link| Input::Link { group: 0, link };
    node.handle(link(Link::Down { reason: "no carrier".into() }), at(60_000));
    obey(&mut node, at(60_000));
    let up = || Link::Up { interface: LINK, sources: vec![address(11)], mac: None, subnets: vec![] };
    node.handle(link(up()), at(61_000));
    let why = node.group_status(at(61_000)).remove(0).why;
    assert_eq!(why, "listening for an owner for another 30.00 s (start-delay)");
    assert_eq!(owns_after(&mut node, 61_000), Some(91_000));
    // A reload ends it.
    node.handle(link(Link::Down { reason: "no carrier".into() }), at(100_000));
    obey(&mut node, at(100_000));
    node.handle(link(up()), at(101_000));
    settings.election.start_delay = SECOND;
    node.reconfigure(settings, at(102_000));
    assert!(owns_after(&mut node, 102_000).is_some_and(|at| at < 106_000));
}

/// The last plan of a node, and whether it told of anything.
fn planned(node: &mut Node) -> (Option<crate::plan::GroupPlan>, usize) {
    let outputs = drain(node);
    let told = outputs.iter().filter(|o| matches!(o, Output::Event(_))).count();
    let plan = |o| if let Output::Addresses(p) = o { Some(p) } else { None };
    (outputs.into_iter().filter_map(plan).next_back(), told)
}

/// The kernel holds the address by what it was given before.
#[test]
fn one_renewal_that_fails_is_no_fault() {
    let mut node = owner(settings());
    let mut now = at(3_300);
    let renewal = |node: &mut Node, now: &mut Time| loop {
        *now = node.next_deadline().expect("adverts");
        node.handle(Input::Tick, *now);
        if let Some(plan) = planned(node).0 {
            break plan.generation;
        }
    };
    let refused = |generation| Input::Applied { group: 0, generation, result: Err("no memory".into()) };
    let first = renewal(&mut node, &mut now);
    node.handle(refused(first), now);
    assert_eq!(planned(&mut node), (None, 1), "it is told");
    assert_eq!(node.group_status(now)[0].state, State::Active);
    let (second, refused_at) = (renewal(&mut node, &mut now), now);
    assert!(now - at(3_300) <= 3 * SECOND, "before the lease is over");
    node.handle(Input::Applied { group: 0, generation: second, result: Ok(()) }, now);
    // Refused for longer than the lease allows, it is a fault.
    while node.group_status(now)[0].state == State::Active && now - refused_at < 4 * SECOND {
        let generation = renewal(&mut node, &mut now);
        node.handle(refused(generation), now);
        planned(&mut node);
    }
    assert_eq!(node.group_status(now)[0].state, State::Fault);
    assert!(now - refused_at < 3 * SECOND, "before the kernel ends it");
}

/// What the kernel would not delete is there: nobody is told that it is free, a
/// stop is not clean, and it is tried again.
#[test]
fn what_the_kernel_would_not_delete_is_deleted_again() {
    let mut node = owner(settings());
    node.handle(Input::Link { group: 0, link: Link::Down { reason: "no carrier".into() } }, at(3_400));
    let refused = |generation| Input::Applied { group: 0, generation, result: Err("not permitted".into()) };
    let (plan, _) = planned(&mut node);
    node.handle(refused(plan.expect("a plan to delete it").generation), at(3_401));
    assert_eq!(planned(&mut node).1, 1, "it is told");
    let again = (3_402..20_000).find_map(|now| {
        node.handle(Input::Tick, at(now));
        planned(&mut node).0.map(|plan| (now, plan.generation))
    });
    let (now, generation) = again.expect("another attempt");
    assert_eq!(now, 3_501);
    node.handle(refused(generation), at(now));
    assert_eq!(planned(&mut node).1, 0, "it is told once");
    node.handle(Input::Stop, at(now));
    let stopped = |node: &mut Node| {
        let clean = |o| if let Output::Stopped { clean } = o { Some(clean) } else { None };
        drain(node).into_iter().find_map(clean)
    };
    assert_eq!(stopped(&mut node), None);
    node.handle(Input::Tick, at(60_000));
    assert_eq!(stopped(&mut node), Some(false));
}

/// A node that stood still for a moment is not to be out for long.
#[test]
fn a_plan_that_came_too_late_is_made_again_once() {
    let mut node = node(settings());
    node.handle(Input::Tick, at(3_300));
    let plan = |outputs: Vec<Output>| {
        let plan = |o| if let Output::Addresses(p) = o { Some(p) } else { None };
        outputs.into_iter().filter_map(plan).next_back()
    };
    let first = plan(drain(&mut node)).expect("a plan");
    let stale = |p: &crate::plan::GroupPlan| Input::Stale {
        group: p.group,
        generation: p.generation,
        waited: Duration::from_millis(1_200),
    };
    node.handle(stale(&first), at(3_400));
    assert_eq!(node.group_status(at(3_400))[0].state, State::Active);
    let second = plan(drain(&mut node)).expect("another plan");
    assert!(second.generation > first.generation && second.hold == Hold::Owned);
    // It says nothing of the newer one.
    node.handle(stale(&first), at(3_401));
    assert!(plan(drain(&mut node)).is_none());
    node.handle(stale(&second), at(3_500));
    let status = &node.group_status(at(3_500))[0];
    assert_eq!(status.state, State::Fault);
    assert!(status.why.contains("plans wait for 1.20 s"), "{}", status.why);
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
    for (me, own, taken_up_at) in [(0, 11, 1_510), (1, 12, 1_500)] {
        let mut node = Node::new(against_the_order(), me, 0, at(0));
        let link = Link::Up { interface: LINK, sources: vec![address(own)], mac: None, subnets: vec![] };
        node.handle(Input::Link { group: 0, link }, at(0));
        for (priority, now) in [(30, 1_000), (0, 1_500)] {
            node.handle(Input::Tick, at(now));
            let (source, destination) = (address(13), address(own));
            let payload = advert(priority).write(source, destination);
            let packet = Input::Packet { interface: LINK, source, destination, ttl: 255, payload: &payload };
            node.handle(packet, at(now));
        }
        node.handle(Input::Tick, at(taken_up_at - 1));
        let state = |node: &Node| node.group_status(at(1_500))[0].state;
        let waits = if taken_up_at == 1_500 { State::Active } else { State::Backup };
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
        let groups =
            vec![GroupReport { vrid, state: State::Backup, priority: 20, serving: true, deposed: false }];
        let message = Message::Hello(Hello { groups, digests: vec![1, 2], ..Hello::default() });
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
                Input::Probe { server: ServerKey { pool: 0, server: 0 }, probe, checked: Checked::at(at(0)) },
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

    // What was decided by a priority is told with that priority, also after a reload.
    let mut taker = node(preempt(settings(), Duration::ZERO));
    let payload = advert(150).write(address(12), address(11));
    for now in [1_000, 2_000] {
        let (source, destination) = (address(12), address(11));
        let packet = Input::Packet { interface: LINK, source, destination, ttl: 255, payload: &payload };
        taker.handle(packet, at(now));
    }
    for now in (2_000..6_000).step_by(100) {
        taker.handle(Input::Tick, at(now));
        obey(&mut taker, at(now));
    }
    let mut less = preempt(settings(), Duration::ZERO);
    less.vips[0].nodes = vec![1, 0];
    taker.reconfigure(less, at(6_000));
    let told = &taker.group_status(at(6_000))[0];
    assert_eq!((told.priority, told.why.as_str()), (150, "preempted px2 (priority 150 < 200)"));

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
fn an_owner_under_another_number_is_not_taken_over_from() {
    let mut node = node(settings());
    peer_says(&mut node, &hello(State::Active, true, vec![1, 9]), at(100));
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
    node.handle(Input::Tick, at(23_500));
    assert_eq!(node.group_status(at(23_500))[0].state, State::Active);
}

/// Nobody heard the owner let go, so all would wait for its silence.
#[test]
fn a_link_that_is_back_at_once_carries_the_release() {
    let releases = |outputs: &[Output]| {
        outputs.iter().filter(|o| matches!(o, Output::Advert(t) if t.bytes[2] == 0)).count()
    };
    let down = || Link::Down { reason: "eth0 has no carrier".into() };
    let up = || Link::Up { interface: LINK, sources: vec![address(11)], mac: None, subnets: vec![] };
    for kernel_first in [true, false] {
        let mut node = owner(settings());
        node.handle(Input::Link { group: 0, link: down() }, at(3_400));
        let plan = |o: &Output| if let Output::Addresses(p) = o { Some(p.generation) } else { None };
        let outputs = drain(&mut node);
        let generation = outputs.iter().filter_map(plan).next_back().expect("a plan to delete it");
        assert_eq!(releases(&outputs), 0);
        let gone = || Input::Applied { group: 0, generation, result: Ok(()) };
        if kernel_first {
            node.handle(gone(), at(3_401));
        }
        node.handle(Input::Link { group: 0, link: up() }, at(3_402));
        // Never while the kernel may still answer for it.
        assert_eq!(releases(&drain(&mut node)), usize::from(kernel_first));
        if !kernel_first {
            node.handle(gone(), at(3_403));
            assert_eq!(releases(&drain(&mut node)), 1);
        }
        // One packet may be lost.
        let mut repeated = 0;
        for now in 3_404..4_000 {
            node.handle(Input::Tick, at(now));
            repeated += releases(&obey(&mut node, at(now)));
        }
        assert_eq!((repeated, node.group_status(at(4_000))[0].state), (7, State::Backup));
    }
    // By then the others have taken over.
    let mut late = owner(settings());
    late.handle(Input::Link { group: 0, link: down() }, at(3_400));
    obey(&mut late, at(3_400));
    late.handle(Input::Link { group: 0, link: up() }, at(7_000));
    assert_eq!(releases(&drain(&mut late)), 0);
}

#[test]
fn what_somebody_does_to_addresses_in_a_loop_is_told_of_once_a_second() {
    let input = |deleted| match deleted {
        true => Input::Restored { group: 0, addresses: vec![address(100)] },
        false => Input::Evicted { group: 0, copies: vec!["10.77.0.100/32 on eth1".into()] },
    };
    for (deleted, what) in [
        (true, "somebody deleted 10.77.0.100{}; it is back"),
        (false, "somebody put 10.77.0.100/32 on eth1{} beside what is held; that copy is removed"),
    ] {
        let mut node = owner(settings());
        let (mut told, mut announced) = (vec![], 0);
        for now in (3_400..7_400).step_by(10) {
            if now < 5_400 {
                node.handle(input(deleted), at(now));
            }
            node.handle(Input::Tick, at(now));
            let outputs = obey(&mut node, at(now));
            announced += outputs.iter().filter(|o| matches!(o, Output::Announce(_))).count();
            told.extend(events(outputs).into_iter().filter(|e| e.kind == Kind::Address).map(|e| e.message));
        }
        let times = |times: &str| format!("main: {}", what.replace("{}", times));
        assert_eq!(told, [times(""), times(" (100 times)"), times(" (99 times)")]);
        assert!(announced < 30, "{announced} announcements");
    }
}

/// It would cut the healthy owner's sessions every time, and never own.
#[test]
fn a_node_whose_kernel_refuses_preempts_nobody() {
    let mut settings = settings();
    settings.election.preempt = true;
    let mut node = owner(settings);
    let generation = u64::MAX;
    node.handle(Input::Applied { group: 0, generation, result: Err("IPv6 is off".into()) }, at(5_000));
    for now in (5_500..60_000).step_by(500) {
        hear(&mut node, LINK, &advert(150), at(now));
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    let status = &node.group_status(at(60_000))[0];
    assert_eq!(status.state, State::Backup);
    assert!(status.why.contains("the kernel refused the address here the last time"), "{}", status.why);
    // Nobody else has it: then it tries, and once it has it, it preempts as before.
    for now in (60_000..65_000).step_by(100) {
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    assert_eq!(node.group_status(at(65_000))[0].state, State::Active);
    hear(&mut node, LINK, &advert(250), at(65_000));
    obey(&mut node, at(65_000));
    for now in (65_500..80_000).step_by(500) {
        hear(&mut node, LINK, &advert(150), at(now));
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    assert_eq!(node.group_status(at(80_000))[0].state, State::Active);
}

/// The own address of one family is gone. By the other the rest of the cluster
/// hears at once that the group is free, once it is.
#[test]
fn what_is_left_of_a_link_carries_the_release() {
    let six = |text: &str| text.parse::<IpAddr>().expect("an address");
    let mut both = settings();
    for (member, own) in both.cluster.nodes.iter_mut().zip(["fd77::11", "fd77::12"]) {
        member.addresses.push(six(own));
    }
    both.vips[0].addresses.extend(Cidr::new(six("fd77::100"), 64));
    for (left, gone) in [(address(11), six("fd77::11")), (six("fd77::11"), address(11))] {
        let mut node = Node::new(both.clone(), 0, 0, at(0));
        let link = Link::Up { interface: LINK, sources: vec![left, gone], mac: None, subnets: vec![] };
        node.handle(Input::Link { group: 0, link }, at(0));
        node.handle(Input::Tick, at(3_300));
        obey(&mut node, at(3_300));
        assert_eq!(node.group_status(at(3_300))[0].state, State::Active);
        let reason = format!("this host does not have {gone}");
        let link = Link::Partial { reason: reason.clone(), interface: LINK, sources: vec![left] };
        node.handle(Input::Link { group: 0, link }, at(3_400));
        let outputs = drain(&mut node);
        let releases = |outputs: &[Output]| {
            let release = |o: &Output| match o {
                Output::Advert(t) if t.bytes[2] == 0 => Some(t.source),
                _ => None,
            };
            outputs.iter().filter_map(release).collect::<Vec<_>>()
        };
        assert!(releases(&outputs).is_empty(), "the kernel may still answer for it");
        let plan = |o: &Output| if let Output::Addresses(p) = o { Some(p.clone()) } else { None };
        let plan = outputs.iter().filter_map(plan).next_back().expect("a plan");
        assert_eq!(plan.hold, Hold::Absent);
        node.handle(Input::Applied { group: 0, generation: plan.generation, result: Ok(()) }, at(3_401));
        assert_eq!(releases(&drain(&mut node)), [left]);
        let status = &node.group_status(at(3_401))[0];
        assert_eq!((status.state, status.why.as_str()), (State::Fault, reason.as_str()));
    }
}

/// Of priority 255, too: it is no exception.
#[test]
fn an_address_owner_that_cannot_serve_leaves_the_address_where_it_is() {
    let first = |mut settings: Settings| {
        settings.cluster.nodes[0].priority = NonZeroU8::new(255);
        settings
    };
    let serves = |outputs: Vec<Output>| {
        let hello = |o| if let Output::Peer { bytes, .. } = o { Envelope::parse(&bytes).ok() } else { None };
        let report =
            |e: Envelope| if let Message::Hello(h) = e.message { Some(h.groups[0].serving) } else { None };
        outputs.into_iter().filter_map(hello).filter_map(report).next_back()
    };
    // The kernel refuses it.
    let mut node = node(first(settings()));
    assert_eq!(node.group_status(at(0))[0].state, State::Active);
    let refused = Err("IPv6 is off".to_owned());
    node.handle(Input::Applied { group: 0, generation: u64::MAX, result: refused }, at(100));
    let mut said = None;
    for now in (500..60_000).step_by(500) {
        hear(&mut node, LINK, &advert(150), at(now));
        node.handle(Input::Tick, at(now));
        said = serves(obey(&mut node, at(now))).or(said);
        assert_ne!(node.group_status(at(now))[0].state, State::Active, "at {now}");
    }
    let status = &node.group_status(at(60_000))[0];
    assert!(status.why.contains("the kernel refused the address here the last time"), "{}", status.why);
    assert_eq!(said, Some(false), "nobody hands over to it for what it serves");

    // It does not know its servers yet; none can be used; one can.
    let mut node = self::node(first(tracked()));
    let probe = |node: &mut Node, probe, now| {
        let server = ServerKey { pool: 0, server: 0 };
        node.handle(Input::Probe { server, probe, checked: Checked::at(at(now)) }, at(now));
    };
    for (from, until, state) in
        [(0, 3_000, State::Backup), (3_000, 20_000, State::Backup), (20_000, 24_000, State::Active)]
    {
        match from {
            0 => {}
            3_000 => probe(&mut node, Probe::Failed("refused".into()), from),
            _ => probe(&mut node, Probe::Answered(Observation::default()), from),
        }
        for now in (from..until).step_by(500) {
            hear(&mut node, LINK, &advert(150), at(now));
            node.handle(Input::Tick, at(now));
            obey(&mut node, at(now));
        }
        assert_eq!(node.group_status(at(until))[0].state, state, "at {until}");
    }
}

#[test]
fn an_address_owner_is_not_switched_over() {
    let mut settings = settings();
    settings.cluster.nodes[0].priority = NonZeroU8::new(255);
    let mut node = node(settings);
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(10));
    let refused = node.switchover("main", None, at(20));
    let why = refused.expect_err("it would come back");
    assert!(why.contains("255") && why.contains("vipctl maintenance on"), "{why}");
}
