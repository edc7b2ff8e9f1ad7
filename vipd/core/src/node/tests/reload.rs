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
        Input::Link { group: 1, link: Link::Up { interface: LINK, sources: vec![address(11)] } },
        at(30),
    );
    node.handle(Input::Tick, at(60_000));
    assert!(node.group_status(at(60_000)).iter().all(|g| g.state == State::Init));
}
