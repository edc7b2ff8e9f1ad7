//! What another node's adverts say of addresses that this file has elsewhere.

use super::*;
use proptest::prelude::*;

/// A group that is ours, one that has no part of this node, and one on another interface.
fn three() -> Settings {
    let mut three = settings();
    let others = VipGroup { nodes: vec![1], ..vip("others", 52) };
    three.vips.extend([others, vip("apart", 53)]);
    three
}

fn started(active: bool) -> Node {
    let mut node = Node::new(three(), 0, 0, at(0));
    for (group, interface) in [(0, LINK), (1, LINK + 1)] {
        let link = Link::Up { interface, sources: vec![address(11)], mac: None, subnets: vec![] };
        node.handle(Input::Link { group, link }, at(0));
    }
    for now in (0..5_000).step_by(500) {
        if !active {
            hear(&mut node, LINK, &advert(250), at(now));
        }
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    node
}

/// Its outputs over the next minutes but for what is said of rejected packets;
/// everything is obeyed.
fn future(node: &mut Node) -> String {
    let told = |o: &Output| !matches!(o, Output::Event(e) if e.kind == Kind::Advert);
    let mut all = String::new();
    for now in (5_000..200_000).step_by(1_000) {
        node.handle(Input::Tick, at(now));
        let outputs: Vec<Output> = obey(node, at(now)).into_iter().filter(told).collect();
        all.push_str(&format!("{now}: {outputs:?} {:?}\n", node.group_status(at(now))));
    }
    all
}

fn forged() -> impl Strategy<Value = (Advert, u32)> {
    let addresses = proptest::sample::subsequence(vec![100, 52, 53, 150], 1..=4);
    let versions = proptest::sample::select(vec![VrrpVersion::V2, VrrpVersion::V3]);
    let vrids = proptest::sample::select(vec![1_u8, 52, 53, 100]);
    (versions, vrids, any::<u8>(), 1_u64..=40, addresses, 1_u32..5).prop_map(
        |(version, vrid, priority, seconds, addresses, interface)| {
            let advert = Advert {
                version,
                vrid: NonZeroU8::new(vrid).unwrap_or(NonZeroU8::MIN),
                priority,
                interval: SECOND * u32::try_from(seconds).unwrap_or(1),
                addresses: addresses.into_iter().map(address).collect(),
            };
            (advert, interface)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is counted as not accepted changes nothing, not even later; and what
    /// comes by another interface or under a number that nobody has, by another file.
    #[test]
    fn an_advert_that_is_rejected_never_changes_state(
        (advert, interface) in forged(), active: bool, differs: bool,
    ) {
        let [mut with, mut without] = [(); 2].map(|()| {
            let mut node = started(active);
            peer_says(&mut node, &hello(State::Backup, true, vec![1, if differs { 9 } else { 2 }]), at(4_600));
            obey(&mut node, at(4_600));
            node
        });
        hear(&mut with, interface, &advert, at(4_700));
        without.handle(Input::Announced { group: 99 }, at(4_700));
        let rejected = !with.rejected_totals().is_empty();
        prop_assert!(rejected || advert.vrid.get() != 1 || differs);
        if rejected {
            prop_assert_eq!(future(&mut with), future(&mut without));
        }
    }
}

/// A claim lasts as long as a detection takes here, whatever interval it names,
/// and is of groups on the interface that it came by.
#[test]
fn a_claim_is_bounded_by_this_nodes_own_interval_and_interface() {
    let withheld = |node: &Node, group: usize, now| {
        let status = node.group_status(now);
        status[group].why.contains("withheld")
    };
    let claim = |vrid: u8, last: u8, seconds: u32| Advert {
        vrid: NonZeroU8::new(vrid).unwrap_or(NonZeroU8::MIN),
        interval: SECOND * seconds,
        addresses: vec![address(last)],
        ..advert(250)
    };
    let mut node = started(true);
    hear(&mut node, LINK, &claim(52, 100, 40), at(4_700));
    assert!(withheld(&node, 0, at(4_700)));
    node.handle(Input::Tick, at(8_700));
    assert!(!withheld(&node, 0, at(8_700)));

    let mut node = started(true);
    hear(&mut node, LINK, &claim(52, 53, 1), at(4_700));
    assert!(!withheld(&node, 1, at(4_700)), "it is on another interface");
    hear(&mut node, LINK + 1, &claim(52, 53, 1), at(4_700));
    assert!(withheld(&node, 1, at(4_700)));
}

/// Under a VRID that this file has not, only a node whose file differs has anything.
#[test]
fn an_unknown_number_counts_if_the_other_file_is_said_to_differ() {
    for (digest, counts) in [(2, false), (9, true)] {
        let mut node = started(false);
        peer_says(&mut node, &hello(State::Backup, true, vec![1, digest]), at(4_600));
        let moved = Advert { vrid: NonZeroU8::MIN, ..advert(250) };
        hear(&mut node, LINK, &moved, at(4_700));
        let why = node.group_status(at(4_700))[0].why.clone();
        assert_eq!(why.contains("withheld"), counts, "{why}");
        assert_eq!(node.rejected_totals().is_empty(), counts);
    }
}

/// Of those that have not proven their key only a node of the group, on its
/// interface, keeps a backup from taking over; and `why` says who does.
#[test]
fn a_takeover_is_postponed_by_a_node_of_the_group_on_its_interface_only() {
    for (vrid, source, interface, postpones) in
        [(100, 12, LINK, true), (100, 12, LINK + 1, false), (52, 12, LINK, false), (53, 12, LINK, false)]
    {
        let mut node = started(false);
        for now in (5_000..20_000).step_by(500) {
            let owns = NonZeroU8::new(vrid);
            let (source, interface) = (address(source), Some(interface));
            let refused = Input::Refused { source, cause: Reject::WrongKey, owns, interface };
            node.handle(refused, at(now));
            node.handle(Input::Tick, at(now));
            obey(&mut node, at(now));
        }
        let status = &node.group_status(at(20_000))[0];
        assert_eq!(status.state == State::Backup, postpones, "{}", status.why);
        assert_eq!(status.why.contains("postponed: px2 advertises it"), postpones, "{}", status.why);
    }
}

/// A node that has just started does not know what the others own by a file that
/// may differ: a release is answered, and a hand-over agreed to, when each has
/// said that its file is the same, or must have spoken.
#[test]
fn a_node_that_has_just_started_answers_a_release_when_it_knows_the_others_files() {
    for (digests, from) in [(None, 1_010), (Some(vec![1, 9]), 5_160), (Some(vec![1, 2]), 200)] {
        let mut settings = three();
        settings.election.advert_interval = SECOND * 5;
        let mut node = Node::new(settings, 0, 0, at(0));
        let link = Link::Up { interface: LINK, sources: vec![address(11)], mac: None, subnets: vec![] };
        node.handle(Input::Link { group: 0, link }, at(0));
        obey(&mut node, at(0));
        let said = |priority| Advert { interval: SECOND * 5, ..advert(priority) };
        hear(&mut node, LINK, &said(250), at(100));
        if let Some(digests) = digests {
            peer_says(&mut node, &hello(State::Active, true, digests), at(150));
        }
        hear(&mut node, LINK, &said(0), at(200));
        obey(&mut node, at(200));
        for now in (200..=from).step_by(10) {
            node.handle(Input::Tick, at(now));
            obey(&mut node, at(now));
            let status = &node.group_status(at(now))[0];
            assert_eq!(status.state == State::Active, now >= from, "at {now}: {}", status.why);
            assert!(now >= from || status.why.starts_with("px2 released it"), "{}", status.why);
        }
    }
}

/// Whoever never said hello (keepalived says none) is waited for after the start,
/// and not again after each pause.
#[test]
fn after_a_pause_nobody_is_waited_for_who_was_never_heard() {
    let mut node = node(settings());
    for now in (0..5_000).step_by(500) {
        hear(&mut node, LINK, &advert(250), at(now));
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    node.handle(Input::Tick, at(12_000));
    hear(&mut node, LINK, &advert(250), at(12_000));
    assert_eq!(node.group_status(at(12_000))[0].state, State::Backup);
    hear(&mut node, LINK, &advert(0), at(12_100));
    obey(&mut node, at(12_100));
    assert_eq!(node.group_status(at(12_100))[0].state, State::Active);
}

/// A node that starts with a shorter interval than the owner's would not hear one
/// advert before it takes over.
#[test]
fn a_node_that_starts_waits_for_the_advert_of_an_owner_of_another_interval() {
    let fast = || {
        let mut fast = settings();
        fast.election.advert_interval = Duration::from_millis(10);
        fast.election.lease = SECOND;
        fast.digests = vec![("election.advert-interval", 1), ("pool", 2)];
        fast
    };
    let owns_at = |hellos: std::ops::Range<u64>, digests: [u32; 2], heard: Option<u64>| {
        let mut node = node(fast());
        (0..60_000).step_by(10).find(|now| {
            if hellos.contains(now) && now % 500 == 0 {
                peer_says(&mut node, &hello(State::Active, true, digests.to_vec()), at(*now));
            }
            if heard == Some(*now) {
                hear(&mut node, LINK, &Advert { interval: 5 * SECOND, ..advert(150) }, at(*now));
            }
            node.handle(Input::Tick, at(*now));
            obey(&mut node, at(*now));
            node.group_status(at(*now))[0].state == State::Active
        })
    };
    // Nobody says anything; somebody with the same file says hello, and is heard at once.
    assert_eq!(owns_at(0..0, [0, 0], None), Some(1_010));
    assert_eq!(owns_at(500..501, [1, 2], None), Some(500));
    // The owner has another interval: for as long as it says that it owns, and then
    // for as long as its advert says.
    assert_eq!(owns_at(500..3_001, [9, 2], None), Some(3_000 + 3_500));
    assert_eq!(owns_at(500..40_000, [9, 2], None), Some(39_500 + 3_500));
    assert_eq!(owns_at(500..3_001, [9, 2], Some(4_000)), Some(4_000 + 15_000 + 1_100));
}
