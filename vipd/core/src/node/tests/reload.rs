//! What a reload changes, and what it leaves alone.

use super::*;

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

#[test]
fn a_group_that_a_reload_adds_in_maintenance_takes_no_part() {
    let mut node = node(settings());
    node.set_maintenance(true, at(10));
    let mut more = settings();
    more.vips.push(vip("second", 101));
    node.reconfigure(more, at(20));
    node.handle(
        Input::Link {
            group: 1,
            link: Link::Up { interface: LINK, sources: vec![address(11)], mac: None, subnets: vec![] },
        },
        at(30),
    );
    node.handle(Input::Tick, at(60_000));
    assert!(node.group_status(at(60_000)).iter().all(|g| g.state == State::Init));
}

/// Two groups, both of which the second node owns by its adverts; `moving` is
/// in the first or in the second.
fn rolled_out(moving_in: usize) -> Settings {
    let mut two = settings();
    two.vips.push(vip("second", 101));
    two.vips[moving_in].addresses.extend(Cidr::new(address(150), 24));
    two
}

fn theirs(node: &mut Node, vrid: u8, priority: u8, addresses: &[u8], now: Time) {
    let addresses = addresses.iter().map(|a| address(*a)).collect();
    let vrid = NonZeroU8::new(vrid).unwrap_or(NonZeroU8::MIN);
    let payload = Advert { vrid, addresses, ..advert(priority) }.write(address(12), address(11));
    let (source, destination) = (address(12), address(11));
    node.handle(Input::Packet { interface: LINK, source, destination, ttl: 255, payload: &payload }, now);
}

/// The addresses of a group's newest plan and of its newest advert, if any.
fn told(outputs: &[Output], group: usize, vrid: u8) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let last = |a: &IpAddr| if let IpAddr::V4(a) = a { a.octets()[3] } else { 0 };
    let plan = |o: &Output| if let Output::Addresses(p) = o { Some(p.clone()) } else { None };
    let plan = outputs.iter().filter_map(plan).rfind(|p| p.group == group && p.hold != Hold::Absent);
    let advert = |o: &Output| {
        let Output::Advert(t) = o else { return None };
        Advert::parse(&t.bytes, t.source, t.destination).ok()
    };
    let advert = outputs.iter().filter_map(advert).rfind(|a| a.vrid.get() == vrid);
    (
        plan.map(|p| p.addresses.iter().map(|a| last(&a.address())).collect()),
        advert.map(|a| a.addresses.iter().map(last).collect()),
    )
}

/// The first node owns the second group; its peer owns the first, and the address
/// that the reload moves from the first to the second.
fn receives(now: Time) -> Node {
    let mut node = node(rolled_out(0));
    for before in (0..now.since(Time::ZERO).as_millis()).step_by(500) {
        let before = at(u64::try_from(before).expect("a short time"));
        theirs(&mut node, 100, 250, &[100, 150], before);
        node.handle(Input::Tick, before);
        obey(&mut node, before);
    }
    theirs(&mut node, 100, 250, &[100, 150], now);
    let states: Vec<State> = node.group_status(now).iter().map(|g| g.state).collect();
    assert_eq!(states, [State::Backup, State::Active]);
    node
}

#[test]
fn an_address_that_another_node_still_owns_in_another_group_is_withheld_until_it_says_so_no_more() {
    let now = at(5_000);
    for (ends, word) in
        [(Some(250), "its advert without it"), (Some(0), "its release"), (None, "its silence")]
    {
        let mut node = receives(now);
        node.reconfigure(rolled_out(1), now);
        let outputs = obey(&mut node, now);
        let happened = events(outputs.clone());
        assert_eq!(told(&outputs, 1, 101).1, Some(vec![101]), "nor is it claimed");
        assert!(
            happened.iter().any(|e| e.kind == Kind::Address && e.message.contains("withheld")),
            "{happened:?}"
        );
        let why = node.group_status(now)[1].why.clone();
        assert!(why.contains("10.77.0.150 is withheld here: px2 advertises it under VRID 100"), "{why}");
        // For as long as it is said.
        for later in (5_500..20_000).step_by(500) {
            theirs(&mut node, 100, 250, &[100, 150], at(later));
            node.handle(Input::Tick, at(later));
            let (plan, advert) = told(&drain(&mut node), 1, 101);
            assert!(plan.is_none_or(|p| p == [101]) && advert.is_none_or(|a| a == [101]), "at {later} ms");
        }
        let heard = 19_500;
        let taken = match ends {
            Some(0) => {
                theirs(&mut node, 100, 0, &[100, 150], at(heard));
                heard + 20
            }
            Some(priority) => {
                theirs(&mut node, 100, priority, &[100], at(heard));
                heard
            }
            None => heard + 4_000,
        };
        if taken > heard {
            for waiting in (heard + 500..taken).step_by(500) {
                node.handle(Input::Tick, at(waiting));
            }
            node.handle(Input::Tick, at(taken - 1));
            let plan = told(&drain(&mut node), 1, 101).0;
            assert!(plan.is_none_or(|p| p == [101]), "too early after {word}");
            node.handle(Input::Tick, at(taken));
        }
        assert_eq!(told(&drain(&mut node), 1, 101), (Some(vec![101, 150]), Some(vec![101, 150])), "{word}");
        assert!(!node.group_status(at(taken))[1].why.contains("withheld"));
    }
}

#[test]
fn a_reload_that_is_taken_back_leaves_the_address_where_it_was() {
    let now = at(5_000);
    let mut node = receives(now);
    node.reconfigure(rolled_out(1), now);
    obey(&mut node, now);
    node.reconfigure(rolled_out(0), now);
    obey(&mut node, now);
    assert!(node.group_status(now).iter().all(|g| !g.why.contains("withheld")));
    theirs(&mut node, 100, 250, &[100, 150], at(5_500));
    assert_eq!(told(&drain(&mut node), 1, 101).0, None);
}

/// An owner drops what moves at once; it says so when the kernel has done it,
/// and until then its guard and its adverts have it still.
#[test]
fn who_loses_an_address_claims_it_until_the_kernel_has_deleted_it() {
    let now = at(5_000);
    let mut node = node(rolled_out(0));
    node.handle(Input::Tick, at(3_300));
    obey(&mut node, at(3_300));
    theirs(&mut node, 101, 250, &[101], at(3_400));
    obey(&mut node, at(3_400));
    node.reconfigure(rolled_out(1), now);
    let outputs = drain(&mut node);
    assert_eq!(told(&outputs, 0, 100), (Some(vec![100]), Some(vec![150, 100])));
    let guarded = |outputs: &[Output]| {
        let mut states = outputs.iter().filter_map(|o| if let Output::Guard(g) = o { Some(g) } else { None });
        states.next_back().map(|g| g.addresses.iter().map(|(_, a)| a.address()).collect::<Vec<_>>())
    };
    assert_eq!(guarded(&outputs), Some(vec![address(100), address(150)]));
    let plan = |o: &Output| if let Output::Addresses(p) = o { Some(p.generation) } else { None };
    let generation = outputs.iter().filter_map(plan).max().expect("a plan");
    node.handle(Input::Applied { group: 0, generation, result: Ok(()) }, at(5_001));
    let outputs = drain(&mut node);
    assert_eq!(told(&outputs, 0, 100).1, Some(vec![100]));
    assert_eq!(guarded(&outputs), Some(vec![address(100)]));
}

/// A second reload brings an address that the other owns by a file that this
/// node never had.
#[test]
fn what_others_have_is_known_before_this_nodes_file_has_it() {
    let mut before = settings();
    before.vips.push(vip("second", 101));
    let mut node = node(before);
    for now in (0..5_000).step_by(500) {
        theirs(&mut node, 100, 250, &[100, 150], at(now));
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    node.reconfigure(rolled_out(1), at(4_900));
    let outputs = obey(&mut node, at(4_900));
    assert!(told(&outputs, 1, 101).0.is_none_or(|plan| plan == [101]));
    assert!(node.group_status(at(4_900))[1].why.contains("10.77.0.150 is withheld"));
}

/// After a partition two nodes may both have it: the lesser claim yields.
#[test]
fn of_two_that_both_have_an_address_under_two_numbers_one_yields() {
    for (priority, keeps) in [(250, false), (100, true)] {
        let mut node = owner(settings());
        let mut two = rolled_out(0);
        two.digests = vec![("cluster.nodes", 1), ("pool", 2)];
        node.reconfigure(two, at(3_350));
        obey(&mut node, at(3_350));
        theirs(&mut node, 101, priority, &[101, 150], at(3_400));
        let plan = told(&drain(&mut node), 0, 100).0;
        assert_eq!(plan, (!keeps).then(|| vec![100]), "priority {priority}");
        assert_eq!(node.group_status(at(3_400))[0].state, State::Active);
    }
}

/// Two groups exchange their addresses: whoever has nothing left gives the
/// group to those who run by the other file, and takes nothing of it.
#[test]
fn an_owner_whose_addresses_are_all_elsewhere_gives_the_group_up() {
    let now = at(5_000);
    let mut node = receives(now);
    let mut exchanged = rolled_out(0);
    let theirs_now = std::mem::take(&mut exchanged.vips[1].addresses);
    exchanged.vips[1].addresses = std::mem::replace(&mut exchanged.vips[0].addresses, theirs_now);
    node.reconfigure(exchanged, now);
    obey(&mut node, now);
    assert_eq!(node.group_status(now)[1].state, State::Backup);
    for later in (5_500..20_000).step_by(500) {
        theirs(&mut node, 100, 250, &[100, 150], at(later));
        node.handle(Input::Tick, at(later));
        obey(&mut node, at(later));
        assert_eq!(node.group_status(at(later))[1].state, State::Backup, "at {later} ms");
    }
}

/// It was handed a group before it heard what the others own.
#[test]
fn a_node_that_has_just_started_presumes_that_others_have_what_it_does_not_own() {
    let mut node = node(rolled_out(0));
    peer_says(&mut node, &hello(State::Active, true, vec![1, 2]), at(5));
    theirs(&mut node, 101, 250, &[101], at(10));
    theirs(&mut node, 101, 0, &[101], at(20));
    node.handle(Input::Tick, at(40));
    obey(&mut node, at(40));
    node.reconfigure(rolled_out(1), at(50));
    let outputs = obey(&mut node, at(50));
    assert_eq!(told(&outputs, 1, 101).1, Some(vec![101]));
    assert!(node.group_status(at(50))[1].why.contains("px2 may have it under VRID 100 still"));
    for later in (1_000..4_000).step_by(500) {
        node.handle(Input::Tick, at(later));
        assert!(told(&obey(&mut node, at(later)), 1, 101).1.is_none_or(|a| a == [101]), "at {later} ms");
    }
    node.handle(Input::Tick, at(4_000));
    assert_eq!(told(&drain(&mut node), 1, 101).0, Some(vec![101, 150]));
}

/// A group that goes leaves its number to one that stays: what the others elect
/// by goes on under the other name, with the other addresses.
#[test]
fn a_group_that_gets_the_number_of_one_that_goes_is_itself() {
    let mut two = settings();
    two.vips = vec![vip("web", 100), vip("payments", 101)];
    let mut node = node(two.clone());
    node.handle(Input::Tick, at(3_300));
    obey(&mut node, at(3_300));
    let mut one = two;
    one.vips.remove(0);
    one.vips[0].vrid = NonZeroU8::new(100).expect("a number");
    node.reconfigure(one, at(3_400));
    obey(&mut node, at(3_400));
    for now in (3_400..9_000).step_by(50) {
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    let status = node.group_status(at(9_000));
    assert_eq!(status.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["payments"]);
    assert_eq!((status[0].id, status[0].state), (0, State::Active), "{}", status[0].why);
    assert_eq!(status[0].addresses[0].address(), address(101));
}

/// The VRIDs of the releases among outputs.
fn released(outputs: &[Output]) -> Vec<u8> {
    let release = |o: &Output| match o {
        Output::Advert(t) if t.bytes[2] == 0 => Some(t.bytes[1]),
        _ => None,
    };
    outputs.iter().filter_map(release).collect()
}

/// Obeys, and says as px2 that it is prepared for what it is asked to take.
fn obey_and_be_ready(node: &mut Node, now: Time) -> Vec<Output> {
    let outputs = obey(node, now);
    for output in &outputs {
        if let Output::Peer { bytes, .. } = output
            && let Ok(Envelope { message: Message::Prepare { vrid, nonce, .. }, .. }) = Envelope::parse(bytes)
        {
            let message = Message::Ready { vrid, nonce };
            let ready = Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message };
            peer_says(node, &ready.write(), now);
        }
    }
    outputs
}

/// Another number is another election, which a node with the former file does not
/// see: the old one is handed over to it, and the new one takes nothing before it
/// has let go, too.
#[test]
fn a_group_that_gets_another_number_is_handed_over_and_begins_anew() {
    let mut node = owner(settings());
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(3_400));
    obey(&mut node, at(3_400));
    let mut renumbered = settings();
    renumbered.vips[0].vrid = NonZeroU8::new(50).expect("a number");
    renumbered.digests = vec![("cluster.nodes", 1), ("pool", 3)];
    node.reconfigure(renumbered, at(3_500));
    let link = Link::Up { interface: LINK, sources: vec![address(11)], mac: None, subnets: vec![] };
    node.handle(Input::Link { group: 1, link }, at(3_500));
    let why = node.group_status(at(3_500))[0].why.clone();
    assert!(why.contains("before the reload has let go"), "{why}");
    let mut released_at = None;
    for now in (3_500..10_000).step_by(10) {
        node.handle(Input::Tick, at(now));
        if released(&obey_and_be_ready(&mut node, at(now))).contains(&100) {
            released_at.get_or_insert(now);
        }
        if released_at.is_some() && now % 500 == 0 {
            theirs(&mut node, 100, 150, &[100], at(now));
        }
        let of_new = node.group_status(at(now)).into_iter().find(|g| g.id == 1).map(|g| g.state);
        assert!(matches!(of_new, Some(State::Init | State::Backup)), "{of_new:?} at {now}");
    }
    assert!(released_at.is_some_and(|at| at < 3_600), "{released_at:?}");
    assert_eq!(node.group_status(at(10_000))[0].state, State::Backup);
    // The other is told of the new file, says so, and releases the old number last.
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 3]), at(10_000));
    theirs(&mut node, 100, 150, &[100], at(10_010));
    theirs(&mut node, 100, 0, &[100], at(10_050));
    for now in (10_060..10_100).step_by(10) {
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    let status = &node.group_status(at(10_100))[0];
    assert_eq!(status.state, State::Active, "{}", status.why);
}

/// An operator who corrects his file while what the first edit removed still leaves.
#[test]
fn what_a_later_reload_gives_to_a_group_that_stays_is_no_leaving_ones() {
    let mut two = settings();
    two.vips.push(vip("second", 101));
    let mut node = owner(two.clone());
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(3_350));
    obey(&mut node, at(3_350));
    let mut one = two;
    one.vips.truncate(1);
    node.reconfigure(one.clone(), at(3_400));
    obey(&mut node, at(3_400));
    one.vips[0].addresses.extend(Cidr::new(address(101), 24));
    node.reconfigure(one, at(3_450));
    let (mut holds, mut plans) = ([false; 2], 0);
    for now in (3_450..9_000).step_by(10) {
        node.handle(Input::Tick, at(now));
        loop {
            let outputs = drain(&mut node);
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                let Output::Addresses(plan) = output else { continue };
                plans += 1;
                if let Some(holds) = holds.get_mut(plan.group) {
                    *holds = plan.hold != Hold::Absent
                        && plan.addresses.iter().any(|a| a.address() == address(101));
                }
                let (group, generation) = (plan.group, plan.generation);
                node.handle(Input::Applied { group, generation, result: Ok(()) }, at(now));
            }
        }
        assert_eq!(holds, [true, false], "at {now}");
    }
    assert!(plans > 3, "{plans}");
}

/// The number comes back before the group that had it is gone.
#[test]
fn a_group_that_comes_back_waits_for_what_is_left_of_itself() {
    let mut two = settings();
    two.vips.push(vip("second", 101));
    let mut node = node(two.clone());
    node.handle(Input::Tick, at(3_300));
    obey(&mut node, at(3_300));
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(3_350));
    let mut one = two.clone();
    one.vips.truncate(1);
    node.reconfigure(one, at(3_400));
    obey(&mut node, at(3_400));
    node.reconfigure(two, at(3_450));
    let link = Link::Up { interface: LINK, sources: vec![address(11)], mac: None, subnets: vec![] };
    node.handle(Input::Link { group: 2, link }, at(3_450));
    let mut outputs = vec![];
    let (mut before, mut last) = (true, 0);
    for now in (3_450..9_000).step_by(10) {
        node.handle(Input::Tick, at(now));
        outputs = obey(&mut node, at(now));
        last = if released(&outputs).contains(&101) { now } else { last };
        let states = node.group_status(at(now));
        let old = states.iter().any(|g| g.id == 1);
        let new = states.iter().find(|g| g.id == 2).map(|g| g.state);
        assert!(!old || new == Some(State::Init), "{new:?} beside what is left, at {now}");
        before &= old;
    }
    assert!(!before && last > 0 && last < 4_000, "{last} {outputs:?}");
    assert_eq!(node.group_status(at(9_000))[1].state, State::Active);
}

/// What the kernel holds ends by the lease that it was given.
#[test]
fn a_longer_lease_is_given_at_once() {
    let longer = |settings: &mut Settings| settings.election.lease = 9 * SECOND;
    let slower = |settings: &mut Settings| {
        (settings.election.advert_interval, settings.election.lease) = (3 * SECOND, 9 * SECOND);
    };
    for change in [longer, slower] as [fn(&mut Settings); 2] {
        let mut node = owner(settings());
        let mut changed = settings();
        change(&mut changed);
        node.reconfigure(changed, at(3_350));
        let plans = drain(&mut node)
            .into_iter()
            .filter(|o| matches!(o, Output::Addresses(p) if p.hold == Hold::Owned));
        assert_eq!(plans.count(), 1);
    }
    let mut node = owner(settings());
    let mut same = settings();
    same.election.preempt = true;
    node.reconfigure(same, at(3_350));
    assert!(!drain(&mut node).iter().any(|o| matches!(o, Output::Addresses(_))), "nothing of it changed");
}

#[test]
fn the_interval_changes_without_a_restart_where_there_is_no_etcd() {
    let mut slower = settings();
    (slower.election.advert_interval, slower.election.etcd_lease) = (2 * SECOND, 6 * SECOND);
    assert!(Node::needs_restart(&settings(), &slower).is_empty());
    let etcd = |mut settings: Settings| {
        settings.election.quorum = Quorum::Etcd;
        settings
    };
    assert_eq!(Node::needs_restart(&etcd(settings()), &etcd(slower)), ["etcd.lease"]);
}

/// What a run gave back, voters grant it no more: what it asks for after a
/// reload must be newer.
#[test]
fn a_group_that_one_reload_takes_out_and_a_later_one_puts_back_is_granted_at_once() {
    let mut with = settings();
    with.election.quorum = Quorum::Majority;
    let mut without = with.clone();
    without.vips.clear();
    let mut px2 = Votes::new(&with.election, at(0));
    let mut run = |node: &mut Node, from: u64, to: u64| {
        for now in (from..to).step_by(50).map(at) {
            node.handle(Input::Tick, now);
            for output in obey(node, now) {
                let Output::Peer { bytes, .. } = output else { continue };
                match Envelope::parse(&bytes).map(|e| e.message) {
                    Ok(Message::Request { ballot, lease, .. }) => {
                        let answer = px2.request(0, ballot, lease, now);
                        let message = crate::lease::reply(ballot, answer, &node.settings().cluster);
                        let sender = node_id("px2");
                        let payload = Envelope { cluster: cluster_id("orders"), sender, message }.write();
                        peer_says(node, &payload, now);
                    }
                    Ok(Message::Release(ballot)) => px2.release(0, ballot),
                    _ => {}
                }
            }
        }
    };
    let mut node = node(with.clone());
    run(&mut node, 0, 60_000);
    assert_eq!(node.group_status(at(60_000))[0].state, State::Active);
    node.reconfigure(without, at(60_000));
    run(&mut node, 60_000, 65_000);
    assert!(node.group_status(at(65_000)).is_empty(), "it is gone");
    node.reconfigure(with, at(65_000));
    let link = Link::Up { interface: LINK, sources: vec![address(11)], mac: None, subnets: vec![] };
    node.handle(Input::Link { group: 1, link }, at(65_000));
    // It waits as any backup does, and then needs one round.
    run(&mut node, 65_000, 69_000);
    let status = node.group_status(at(69_000)).remove(0);
    assert_eq!(status.state, State::Active, "{}", status.why);
}
