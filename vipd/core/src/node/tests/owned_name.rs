//! The records of a name that is the owner's, and that the owner's end or
//! somebody else than the owner writes.

use super::records::{DNS, closes, orders, px2_is, run_to, set, why, with_dns, written};
use super::*;
use crate::publish::Records;
use crate::settings::{DNS_GROUP, Policy, WhenAllDown};

const MAIN: u8 = 100;

/// `config/examples/route53.toml`: who owns the name writes it.
fn named() -> Settings {
    with_dns(Policy::Owner, WhenAllDown::LastGood)
}

/// A name beside a VIP, whose nodes are these: it follows that one's owner.
fn beside(nodes: Vec<usize>) -> Settings {
    let mut settings = named();
    settings.vips.insert(0, VipGroup { nodes, ..vip("main", MAIN) });
    settings.dns.as_mut().expect("a name").election = 1;
    settings
}

/// The first node owns, is in the name and writes.
fn in_the_name() -> Node {
    let mut node = node(named());
    px2_is(&mut node, State::Backup, true, at(10));
    run_to(&mut node, 3_200);
    px2_is(&mut node, State::Backup, true, at(3_200));
    assert_eq!(run_to(&mut node, 3_300).pop().and_then(|r| r.wanted), set(&[11]));
    px2_is(&mut node, State::Backup, true, at(4_400));
    run_to(&mut node, 4_400);
    node
}

/// Another node says how it is in both groups.
fn says(node: &mut Node, who: u8, main: State, dns: State, now: Time) -> Vec<Records> {
    let report = |vrid, state| GroupReport {
        vrid: NonZeroU8::new(vrid).unwrap_or(NonZeroU8::MIN),
        state,
        priority: 150,
        serving: true,
        deposed: false,
    };
    let groups = vec![report(MAIN, main), report(DNS, dns)];
    let message = Message::Hello(Hello { groups, digests: vec![1, 2], ..Hello::default() });
    let envelope = Envelope { cluster: cluster_id("orders"), sender: node_id(&format!("px{who}")), message };
    let source = address(10 + who);
    node.handle(Input::PeerPacket { source, ttl: 255, payload: &envelope.write() }, now);
    orders(node, now)
}

/// Lets time pass until the node has stopped; what was ordered meanwhile. Once it
/// does not own any more, the other says to be this.
fn until_stopped(node: &mut Node, other: State) -> Vec<Records> {
    let mut all = vec![];
    let mut heard = false;
    while let Some(due) = node.next_deadline() {
        assert!(due < at(10_000), "it does not stop");
        node.handle(Input::Tick, due);
        all.extend(orders(node, due));
        if !heard && node.group_status(due).first().is_some_and(|g| g.state == State::Init) {
            heard = true;
            px2_is(node, other, true, due);
            all.extend(orders(node, due));
        }
    }
    all
}

/// SIGTERM of the owner: the other one writes the name, and clients with old
/// answers come for a while.
#[test]
fn an_owner_that_stops_goes_on_for_clients_with_old_answers() {
    let relay = |node: &Node| node.relay_for().map(|r| (r.accept, r.keep, r.gone));
    // It was not seen that the name has the other.
    let mut node = in_the_name();
    node.handle(Input::Stop, at(4_400));
    assert!(node.group_status(at(4_400))[0].switching, "there is nothing to write first");
    assert_eq!(until_stopped(&mut node, State::Backup).into_iter().filter_map(|r| r.wanted).count(), 0);
    assert_eq!(relay(&node), Some((7 * SECOND, 17 * SECOND, false)));
    // It was.
    let mut node = in_the_name();
    node.handle(Input::Stop, at(4_400));
    let order = until_stopped(&mut node, State::Active).pop().expect("an order");
    assert_eq!((order.write, order.wanted), (false, set(&[12])));
    assert_eq!(relay(&node), Some((7 * SECOND, 17 * SECOND, false)));
    let mut node = in_the_name();
    node.handle(Input::Stop, at(4_400));
    while node.group_status(at(4_400))[0].state != State::Init {
        let due = node.next_deadline().expect("it goes on");
        node.handle(Input::Tick, due);
        orders(&mut node, due);
    }
    px2_is(&mut node, State::Active, true, at(4_800));
    assert_eq!(written(&mut node, 4_800), set(&[12]));
    until_stopped(&mut node, State::Active);
    assert_eq!(relay(&node), Some((5 * SECOND, 15 * SECOND, true)));
    // Nobody else is there: the name stays as it is, and there is nobody to wait for.
    let mut node = in_the_name();
    px2_is(&mut node, State::Init, true, at(4_400));
    node.handle(Input::Stop, at(4_400));
    until_stopped(&mut node, State::Init);
    assert_eq!(relay(&node), None);
}

#[test]
fn an_owner_in_maintenance_closes_what_old_answers_brought() {
    let mut node = in_the_name();
    node.set_maintenance(true, at(4_400));
    orders(&mut node, at(4_400));
    run_to(&mut node, 4_800);
    assert_eq!(node.group_status(at(4_800))[0].state, State::Init);
    px2_is(&mut node, State::Active, true, at(4_800));
    assert_eq!(written(&mut node, 4_800), set(&[12]));
    let status = node.dns_status(at(4_800)).expect("a name");
    assert_eq!(status.writer.as_deref(), Some("px2"));
    assert_eq!(status.why, ["px1 is out: it is in maintenance, or starts, or stops", "px2 is in"]);
    assert_eq!(closes(&mut node, 4_900, 30_000), [at(19_800)]);
}

#[test]
fn a_writer_that_is_no_node_of_the_vip_publishes_its_owner() {
    let mut settings = beside(vec![1, 2]);
    let third =
        Member { name: "px3".into(), addresses: vec![address(13)], ..settings.cluster.nodes[0].clone() };
    settings.cluster.nodes.push(third);
    settings.vips[1].nodes = vec![0, 1, 2];
    let mut node = node(settings);
    let (active, backup) = (State::Active, State::Backup);
    let say = |node: &mut Node, px2, px3, millis| {
        run_to(node, millis);
        let first = says(node, 2, px2, backup, at(millis));
        let second = says(node, 3, px3, backup, at(millis));
        let last = run_to(node, millis + 100).pop();
        last.or(second.last().cloned()).or(first.last().cloned()).map(|o| (o.write, o.wanted))
    };
    say(&mut node, active, backup, 10);
    say(&mut node, active, backup, 1_500);
    say(&mut node, active, backup, 3_200);
    let desired = |node: &Node, millis| node.dns_status(at(millis)).and_then(|s| s.desired);
    assert_eq!(desired(&node, 3_300), set(&[12]));
    assert_eq!(node.records().map(|r| (r.write, r.wanted.clone())), Some((true, set(&[12]))));
    assert_eq!(why(&node, at(3_300)), "px3 is out: it is not the owner");
    // Nobody owns it, or two say so: the name stays, and people are told.
    let told =
        |node: &Node, millis| node.dns_status(at(millis)).map(|s| s.why.join("; ")).unwrap_or_default();
    say(&mut node, backup, backup, 4_500);
    assert_eq!(desired(&node, 4_600), None);
    let says = told(&node, 4_600);
    assert!(says.contains("px2 would serve") && says.contains("no node is known to own main"), "{says}");
    say(&mut node, active, active, 4_700);
    assert_eq!(desired(&node, 4_800), None);
    assert!(told(&node, 4_800).contains("px2 and px3 say to own main"), "{}", told(&node, 4_800));
    assert_eq!(say(&mut node, backup, active, 4_900), Some((true, set(&[13]))));
}

#[test]
fn a_writer_whose_own_part_of_the_vip_is_at_fault_publishes_its_owner() {
    let mut node = node(beside(vec![0, 1]));
    says(&mut node, 2, State::Backup, State::Backup, at(10));
    run_to(&mut node, 3_200);
    says(&mut node, 2, State::Backup, State::Backup, at(3_200));
    run_to(&mut node, 3_300);
    assert_eq!(node.records().map(|r| (r.write, r.wanted.clone())), Some((true, set(&[11]))));
    says(&mut node, 2, State::Backup, State::Backup, at(4_400));
    let link = Link::Down { reason: "eth1 has no carrier".into() };
    node.handle(Input::Link { group: 0, link }, at(4_500));
    orders(&mut node, at(4_500));
    let states: Vec<State> = node.group_status(at(4_500)).iter().map(|g| g.state).collect();
    assert_eq!(states, [State::Fault, State::Active], "of {DNS_GROUP} it writes still");
    let ordered = says(&mut node, 2, State::Active, State::Backup, at(4_600)).pop();
    assert_eq!(ordered.map(|o| (o.write, o.wanted)), Some((true, set(&[12]))));
}
