//! Two nodes and a network that does what networks do.

use super::*;
use crate::peer::advert::SEAL;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use vipd_core::wire::peer::{Ballot, Message, cluster_id, node_id};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));

fn address(node: usize) -> IpAddr {
    IpAddr::from([10, 77, 0, 11 + u8::try_from(node).unwrap_or(0)])
}

fn links(key: u8, me: usize, epoch: u32) -> Links {
    let key = ClusterKey::new(&[key; 32]);
    let party = |n: usize| Party { name: format!("px{}", n + 1), addresses: vec![address(n)] };
    Links::new(&key, "orders", vec![party(0), party(1), party(2)], me, epoch, false)
}

/// Two of three nodes; the third never answers.
struct Pair {
    nodes: [Links; 2],
    now: Time,
    /// Everything that was sent: from whom, and the bytes.
    wire: Vec<(usize, Vec<u8>)>,
    /// What each node was told.
    heard: [Vec<Vec<u8>>; 2],
    refused: [Vec<Reject>; 2],
}

impl Pair {
    fn new() -> Self {
        Self::of(links(1, 0, 1), links(1, 1, 1))
    }

    fn of(a: Links, b: Links) -> Self {
        Self {
            nodes: [a, b],
            now: Time::ZERO + SECOND * 1000,
            wire: vec![],
            heard: [vec![], vec![]],
            refused: [vec![], vec![]],
        }
    }

    /// What a node has to say to the other, in order; the third gets nothing.
    fn said(&mut self, node: usize) -> Vec<Vec<u8>> {
        let mut said = vec![];
        while let Some((to, bytes)) = self.nodes[node].next_datagram() {
            if to < 2 {
                self.wire.push((node, bytes.clone()));
                said.push(bytes);
            }
        }
        said
    }

    fn deliver(&mut self, to: usize, bytes: &[u8]) -> Received {
        let received = self.nodes[to].receive(address(1 - to), address(to), bytes, self.now);
        match &received {
            Received::Message(message) => self.heard[to].push(message.clone()),
            Received::Refused(cause) | Received::RefusedAdvert(cause, _) => self.refused[to].push(*cause),
            Received::Nothing | Received::Plain | Received::Advert(_) => {}
        }
        received
    }

    /// Lets the time pass; `lost` says of each datagram whether it arrives.
    fn run(&mut self, time: Duration, mut lost: impl FnMut(&[u8]) -> bool) {
        let end = self.now + time;
        while self.now < end {
            for node in [0, 1] {
                self.nodes[node].tick(self.now);
                for bytes in self.said(node) {
                    if !lost(&bytes) {
                        self.deliver(1 - node, &bytes);
                    }
                }
            }
            self.now += MS * 10;
        }
    }

    fn send(&mut self, from: usize, message: &[u8]) {
        self.nodes[from].send(1 - from, message, self.now);
    }

    fn is_up(&self) -> bool {
        let up = |node: usize| self.nodes[node].status(1 - node, self.now).sealed_for.is_some();
        up(0) && up(1)
    }

    /// Both say hello every quarter of a second.
    fn talk(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / 250 {
            self.send(0, b"hello");
            self.send(1, b"hello");
            self.run(MS * 250, |_| false);
        }
    }

    fn problem(&self, node: usize) -> String {
        let status = self.nodes[node].status(1 - node, self.now);
        status.problem.map(|(text, _)| text).unwrap_or_default()
    }
}

#[test]
fn the_first_messages_arrive_after_one_handshake_and_nothing_is_readable() {
    let mut pair = Pair::new();
    pair.send(0, b"a secret word");
    pair.run(MS * 50, |_| false);
    assert_eq!(pair.heard[1], [b"a secret word"]);
    assert!(pair.is_up());
    let before = pair.wire.len();
    pair.send(1, b"a secret word");
    pair.run(MS * 10, |_| false);
    assert_eq!(pair.heard[0], [b"a secret word"]);
    assert_eq!(pair.wire.len(), before + 1, "no round trip before a message");
    assert!(pair.wire.iter().all(|(_, bytes)| !bytes.windows(6).any(|w| w == b"secret")));
    assert_eq!(pair.refused, [vec![], vec![]], "both asked at once");
}

#[test]
fn each_lost_packet_of_the_handshake_is_made_up_for() {
    for lost in 0..6 {
        let mut pair = Pair::new();
        let mut number = 0;
        pair.send(0, b"hello");
        pair.run(MS * 400, |_| {
            number += 1;
            number - 1 == lost
        });
        pair.send(1, b"hello");
        pair.talk(SECOND);
        assert!(pair.is_up(), "without datagram {lost}");
        assert!(!pair.heard[0].is_empty() && !pair.heard[1].is_empty(), "without datagram {lost}");
    }
}

#[test]
fn keys_are_replaced_while_messages_go_on() {
    let mut pair = Pair::new();
    pair.talk(SECOND * 400);
    let asked = pair.wire.iter().filter(|(_, bytes)| bytes[5] == 1).count();
    assert!((4..=8).contains(&asked), "{asked} handshakes in 400 s");
    let sent = 400 * 4;
    assert_eq!((pair.heard[0].len(), pair.heard[1].len()), (sent, sent), "none was lost over it");
    assert_eq!(pair.refused, [vec![], vec![]]);
}

#[test]
fn a_restarted_node_is_heard_again_at_once_and_its_former_run_no_more() {
    let mut pair = Pair::new();
    pair.talk(SECOND);
    let recorded = pair.wire.clone();
    pair.nodes[0] = links(1, 0, 2);
    let heard = pair.heard[1].len();
    pair.send(0, b"I am new");
    pair.run(MS * 50, |_| false);
    assert_eq!(pair.heard[1][heard..], [b"I am new"]);
    assert!(pair.is_up());
    let heard = pair.heard.clone();
    for (from, bytes) in &recorded {
        pair.deliver(1 - from, bytes);
        pair.run(MS * 10, |_| false);
    }
    assert_eq!(pair.heard, heard, "a copy was taken for a message");
    pair.talk(SECOND);
    assert!(pair.is_up());
    assert!(pair.heard[0].len() > heard[0].len() && pair.heard[1].len() > heard[1].len());
}

#[test]
fn a_node_that_lost_its_state_is_heard_again() {
    let mut pair = Pair::of(links(1, 0, 7), links(1, 1, 1));
    pair.talk(SECOND);
    pair.nodes[0] = links(1, 0, 1);
    pair.talk(SECOND);
    assert!(pair.is_up());
    let proven = pair.nodes[1].parties[0].link.as_ref().and_then(|l| l.proven(pair.now));
    assert_eq!(proven.map(|p| (p.epoch, p.up)), Some((1, true)));
}

#[test]
fn an_unanswered_silence_ends_in_a_new_session() {
    let mut pair = Pair::new();
    pair.talk(SECOND);
    for _ in 0..40 {
        pair.send(0, b"hello");
        pair.send(1, b"hello");
        pair.run(MS * 250, |_| true);
    }
    assert!(!pair.is_up());
    pair.talk(SECOND * 2);
    assert!(pair.is_up());
}

#[test]
fn a_link_that_may_be_back_is_tried_at_once() {
    for (case, is_up) in [("nothing", false), ("an interface comes up", true), ("an advert is heard", true)] {
        let mut pair = Pair::new();
        // Asked for the last time at 4.55 s, and by itself a second later.
        pair.run(MS * 4_600, |_| true);
        match case {
            "an interface comes up" => pair.nodes[0].hurry(pair.now),
            "an advert is heard" => {
                let sealed = pair.nodes[0].seal_advert(address(0), GROUP, &advert(1));
                assert_eq!(open(&mut pair, &sealed), Ok(advert(1)));
            }
            _ => {}
        }
        pair.run(MS * 30, |_| false);
        assert_eq!(pair.is_up(), is_up, "{case}");
    }
}

#[test]
fn who_hears_one_node_again_tries_the_others_at_once() {
    let mut pair = Pair::new();
    pair.run(MS * 4_600, |_| true);
    pair.nodes[1].hurry(pair.now);
    pair.nodes[1].tick(pair.now);
    for from in [1, 0, 1] {
        for bytes in pair.said(from) {
            pair.deliver(1 - from, &bytes);
        }
    }
    pair.nodes[0].tick(pair.now);
    let to_third = std::iter::from_fn(|| pair.nodes[0].next_datagram()).filter(|(to, _)| *to == 2);
    assert_eq!(to_third.count(), 1);
}

/// Adverts get here and nothing gets there.
#[test]
fn a_node_that_is_heard_and_does_not_answer_is_not_flooded() {
    let mut pair = Pair::new();
    for _ in 0..1_000 {
        let sealed = pair.nodes[0].seal_advert(address(0), GROUP, &advert(1));
        assert_eq!(open(&mut pair, &sealed), Ok(advert(1)));
        pair.run(MS * 10, |_| true);
    }
    let asked = pair.wire.iter().filter(|(from, bytes)| *from == 1 && bytes[5] == 1).count();
    assert!((20..100).contains(&asked), "{asked} questions in ten seconds");
}

#[test]
fn every_copy_is_refused_and_changes_nothing() {
    let mut pair = Pair::new();
    pair.talk(SECOND * 3);
    let (recorded, heard) = (pair.wire.clone(), pair.heard.clone());
    for round in 0..50 {
        for (from, bytes) in &recorded {
            pair.deliver(1 - from, bytes);
            if round == 0 {
                // To the one that sent it, too.
                pair.deliver(*from, bytes);
            }
        }
        pair.run(MS * 10, |_| false);
    }
    assert_eq!(pair.heard, heard);
    assert!(pair.refused[0].contains(&Reject::Replay) && pair.refused[1].contains(&Reject::Replay));
    assert_eq!(
        pair.problem(0),
        "copies of what px2 said arrive, or it came too late: two hosts run as px2, a host was frozen, or somebody sends \
         copies"
    );
    pair.talk(SECOND);
    assert_eq!(pair.heard[0].len(), heard[0].len() + 4);
}

#[test]
fn a_changed_byte_is_refused_wherever_it_is() {
    let mut pair = Pair::new();
    pair.send(0, b"hello");
    let mut known = vec![];
    // Each datagram of a whole conversation, changed in each byte before it arrives as it is.
    for _ in 0..6 {
        for node in [0, 1] {
            pair.nodes[node].tick(pair.now);
            for bytes in pair.said(node) {
                for at in 0..bytes.len() {
                    let mut changed = bytes.clone();
                    changed[at] ^= 0x40;
                    let came = pair.deliver(1 - node, &changed);
                    assert!(!matches!(came, Received::Message(_) | Received::Advert(_)), "byte {at}");
                }
                for length in 0..bytes.len() {
                    let came = pair.deliver(1 - node, &bytes[..length]);
                    assert!(!matches!(came, Received::Message(_) | Received::Advert(_)), "{length} bytes");
                }
                known.push(bytes[5]);
                pair.deliver(1 - node, &bytes);
            }
        }
        pair.send(1, b"hello");
    }
    assert!([1, 2, 3].iter().all(|kind| known.contains(kind)), "{known:?}");
    assert!(pair.is_up());
    assert!(pair.heard[0].iter().chain(&pair.heard[1]).all(|m| m == b"hello"));
    assert!(!pair.heard[0].is_empty() && !pair.heard[1].is_empty());
}

#[test]
fn another_key_a_missing_seal_and_another_version_are_named() {
    let mut pair = Pair::of(links(1, 0, 1), links(2, 1, 1));
    pair.run(SECOND, |_| false);
    assert!(!pair.is_up());
    assert_eq!(pair.problem(0), "px2 speaks with another cluster key");
    assert_eq!(pair.problem(1), "px1 speaks with another cluster key");
    let message = Message::Ready { vrid: std::num::NonZeroU8::MIN, nonce: 0 };
    let plain = Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message }.write();
    assert_eq!(pair.deliver(0, &plain), Received::Refused(Reject::Unsealed));
    assert_eq!(pair.problem(0), "px2 speaks without a seal: it has no key-file");
    let mut newer = frame::advert(b"");
    newer[4] = 9;
    assert_eq!(pair.deliver(0, &newer), Received::Refused(Reject::Peer(Malformed::Version(9))));
    assert_eq!(pair.problem(0), "px2 speaks version 9 of the peer link, this host 2");
    pair.nodes[0].accept_unsealed = true;
    assert_eq!(pair.deliver(0, &plain), Received::Plain);
}

/// While a key is brought in anybody may speak, but nobody may make two owners.
#[test]
fn without_a_seal_nobody_votes_even_where_it_is_accepted() {
    let mut pair = Pair::of(links(1, 0, 1), links(2, 1, 1));
    pair.nodes[0].accept_unsealed = true;
    let ballot = Ballot { vrid: std::num::NonZeroU8::MIN, run: 7, number: u64::MAX };
    let (lease, left) = (SECOND, SECOND);
    for message in [
        Message::Request { ballot, lease, preempt: false },
        Message::Grant(ballot),
        Message::Refuse { ballot, holder: None, left },
        Message::Release(ballot),
    ] {
        let plain = Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message }.write();
        assert_eq!(pair.deliver(0, &plain), Received::Refused(Reject::Unsealed));
    }
}

#[test]
fn a_cluster_of_another_name_has_other_keys() {
    let key = ClusterKey::new(&[1; 32]);
    let party = |n: usize| Party { name: format!("px{}", n + 1), addresses: vec![address(n)] };
    let other = Links::new(&key, "stock", vec![party(0), party(1)], 1, 1, false);
    let mut pair = Pair::of(links(1, 0, 1), other);
    pair.run(SECOND, |_| false);
    assert!(!pair.is_up() && pair.problem(0).contains("another cluster key"));
}

#[test]
fn a_flood_of_handshakes_costs_little_and_stops_nobody() {
    let mut pair = Pair::new();
    pair.talk(SECOND * 130);
    let asks: Vec<Vec<u8>> =
        pair.wire.iter().filter(|(from, b)| *from == 0 && b[5] == 1).map(|(_, b)| b.clone()).collect();
    // The other has just started: it knows of no handshake before.
    pair.nodes[1] = links(1, 1, 2);
    let mut answers = 0;
    for n in 0..20_000_u32 {
        let mut forged = asks[0].clone();
        forged[20..24].copy_from_slice(&n.to_be_bytes());
        assert_eq!(pair.deliver(1, &forged), Received::Refused(Reject::WrongKey));
        pair.deliver(1, &asks[n as usize % asks.len()]);
        answers += pair.said(1).len();
    }
    assert!(answers < 100, "{answers} answers to a flood at one instant");
    pair.talk(SECOND * 4);
    assert!(pair.is_up());
    assert_eq!(
        pair.nodes[1].receive([192, 0, 2, 1].into(), address(1), &asks[0], pair.now),
        Received::Refused(Reject::UnknownSender)
    );
}

#[test]
fn what_waits_is_bounded_and_what_is_old_is_not_sent() {
    let mut pair = Pair::new();
    for n in 0..100_u8 {
        pair.send(0, &[n]);
    }
    pair.run(MS * 50, |_| false);
    assert_eq!(pair.heard[1], (92..100).map(|n| vec![n]).collect::<Vec<_>>());
    let mut late = Pair::new();
    late.send(0, b"old");
    late.run(SECOND * 2, |_| true);
    late.run(SECOND * 2, |_| false);
    assert!(late.is_up() && late.heard[1].is_empty());
}

// ---- adverts --------------------------------------------------------------------

fn advert(vrid: u8) -> Vec<u8> {
    vec![0x31, vrid, 200, 1, 0, 100, 0, 0, 10, 77, 0, 100]
}

/// Node 1 opens what node 0 sealed.
fn open(pair: &mut Pair, bytes: &[u8]) -> Result<Vec<u8>, Reject> {
    let now = pair.now;
    pair.nodes[1].open_advert(address(0), GROUP, bytes, now)
}

#[test]
fn an_advert_counts_once_and_in_order() {
    let mut pair = Pair::new();
    pair.talk(SECOND);
    let mut seal = |vrid| pair.nodes[0].seal_advert(address(0), GROUP, &advert(vrid));
    let [first, other, second] = [seal(1), seal(2), seal(1)];
    assert_eq!(first.len(), advert(1).len() + SEAL);
    assert_eq!(open(&mut pair, &first), Ok(advert(1)));
    assert_eq!(open(&mut pair, &first), Err(Reject::Replay));
    assert_eq!(open(&mut pair, &second), Ok(advert(1)));
    assert_eq!(open(&mut pair, &first), Err(Reject::Replay));
    assert_eq!(open(&mut pair, &other), Ok(advert(2)), "another group's is not late");
    let now = pair.now;
    let third = pair.nodes[0].seal_advert(address(0), GROUP, &advert(1));
    let elsewhere = pair.nodes[1].open_advert(address(0), address(1), &third, now);
    assert_eq!(elsewhere, Err(Reject::WrongKey), "it was for others");
    assert_eq!(pair.nodes[1].open_advert(address(2), GROUP, &third, now), Err(Reject::WrongKey));
    for at in 0..third.len() {
        let mut changed = third.clone();
        changed[at] ^= 1;
        assert!(open(&mut pair, &changed).is_err(), "byte {at}");
        assert!(open(&mut pair, &third[..at]).is_err(), "{at} bytes");
    }
    assert_eq!(open(&mut pair, &third), Ok(advert(1)));
    assert_eq!(open(&mut pair, &advert(1)), Err(Reject::Unsealed));
    let padded = [advert(1), vec![0; 46]].concat();
    assert_eq!(open(&mut pair, &padded), Err(Reject::Unsealed));
}

#[test]
fn adverts_of_a_former_run_are_refused() {
    let mut pair = Pair::new();
    pair.talk(SECOND);
    let recorded: Vec<_> = (0..5).map(|_| pair.nodes[0].seal_advert(address(0), GROUP, &advert(1))).collect();
    pair.nodes[0] = links(1, 0, 2);
    pair.talk(SECOND);
    assert_eq!(open(&mut pair, &recorded[0]), Err(Reject::OldRun));
    let new = pair.nodes[0].seal_advert(address(0), GROUP, &advert(1));
    assert_eq!(open(&mut pair, &new), Ok(advert(1)));
    // The node is gone, and the link with it: its former runs stay over.
    pair.now += SECOND * 60;
    assert_eq!(open(&mut pair, &recorded[1]), Err(Reject::OldRun));
    assert_eq!(open(&mut pair, &new), Err(Reject::Replay));
    let mut release = advert(1);
    release[2] = 0;
    let bytes = pair.nodes[0].seal_advert(address(0), GROUP, &release);
    assert_eq!(open(&mut pair, &bytes), Err(Reject::Unproven), "it might be a copy");
    // A later run counts even where the peer port is closed.
    let mut later = links(1, 0, 3);
    let bytes = later.seal_advert(address(0), GROUP, &advert(1));
    assert_eq!(open(&mut pair, &bytes), Ok(advert(1)));
}

#[test]
fn a_receiver_that_starts_anew_takes_no_copy_of_the_current_run() {
    let mut pair = Pair::new();
    pair.talk(SECOND);
    let recorded = pair.nodes[0].seal_advert(address(0), GROUP, &advert(1));
    assert_eq!(open(&mut pair, &recorded), Ok(advert(1)));
    pair.nodes[1] = links(1, 1, 2);
    pair.talk(SECOND);
    assert_eq!(open(&mut pair, &recorded), Err(Reject::Replay));
    let next = pair.nodes[0].seal_advert(address(0), GROUP, &advert(1));
    assert_eq!(open(&mut pair, &next), Ok(advert(1)));
}

#[test]
fn after_a_farewell_its_run_is_over_for_the_group() {
    let mut pair = Pair::new();
    pair.talk(SECOND);
    let farewells: Vec<_> =
        (0..2).map(|n| pair.nodes[0].seal_farewell(n, address(0), GROUP, &advert(1))).collect();
    assert_eq!(farewells[0], pair.nodes[0].seal_farewell(0, address(0), GROUP, &advert(1)), "prepared twice");
    let last = pair.nodes[0].seal_advert(address(0), GROUP, &advert(1));
    assert_eq!(open(&mut pair, &farewells[0]), Ok(advert(1)));
    assert_eq!(open(&mut pair, &last), Err(Reject::Replay), "a copy cannot bring the owner back");
    assert_eq!(open(&mut pair, &farewells[0]), Err(Reject::Replay));
}

#[test]
fn an_advert_rides_in_a_datagram() {
    let mut pair = Pair::new();
    pair.talk(SECOND);
    let sealed = pair.nodes[0].seal_advert(address(0), address(1), &advert(1));
    let datagram = Links::advert_datagram(&sealed);
    assert_eq!(pair.deliver(1, &datagram), Received::Advert(advert(1)));
    assert_eq!(pair.deliver(1, &datagram), Received::RefusedAdvert(Reject::Replay, sealed));
}

/// Whoever is no node has nothing to prove, and can keep nobody from taking over.
#[test]
fn only_a_nodes_address_or_a_link_local_one_may_be_an_unproven_nodes() {
    let mut pair = Pair::new();
    let local = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 9]);
    let strange = IpAddr::from([203, 0, 113, 9]);
    let unproven = |pair: &Pair| [address(0), local, strange].map(|a| pair.nodes[1].is_unproven(a));
    assert_eq!(unproven(&pair), [true, true, false]);
    pair.talk(SECOND);
    assert_eq!(unproven(&pair), [false, true, false], "the third party has not proven itself");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_network_does_messages_arrive_once_and_it_recovers(
        fates in proptest::collection::vec(0_u8..8, 40..120),
        restarts in proptest::collection::vec(0_usize..40, 0..3),
    ) {
        let mut pair = Pair::new();
        let mut delayed: Vec<(usize, Vec<u8>)> = vec![];
        let mut epoch = 1;
        for (step, fate) in fates.iter().enumerate() {
            if restarts.contains(&step) {
                epoch += 1;
                pair.nodes[0] = links(1, 0, epoch);
            }
            let number = u32::try_from(step).unwrap_or(0).to_be_bytes();
            pair.send(step % 2, &number);
            pair.nodes[0].tick(pair.now);
            pair.nodes[1].tick(pair.now);
            for node in [0, 1] {
                for bytes in pair.said(node) {
                    match fate {
                        0 | 1 => {}
                        2 => delayed.push((1 - node, bytes)),
                        3 => {
                            pair.deliver(1 - node, &bytes);
                            pair.deliver(1 - node, &bytes);
                        }
                        4 => {
                            pair.deliver(1 - node, &bytes);
                            for (to, late) in std::mem::take(&mut delayed).into_iter().rev() {
                                pair.deliver(to, &late);
                            }
                        }
                        _ => { pair.deliver(1 - node, &bytes); }
                    }
                }
            }
            pair.now += MS * 20;
        }
        for heard in &pair.heard {
            let mut once = heard.clone();
            once.sort();
            once.dedup();
            prop_assert_eq!(once.len(), heard.len(), "a message arrived twice");
        }
        pair.talk(SECOND * 6);
        prop_assert!(pair.is_up());
        let heard = pair.heard[0].len();
        pair.talk(SECOND);
        prop_assert_eq!(pair.heard[0].len(), heard + 4);
    }

    #[test]
    fn no_datagram_panics_or_is_believed(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..6) {
        let mut pair = Pair::new();
        pair.run(MS * 50, |_| false);
        if bytes.len() >= 8 {
            bytes[..8].copy_from_slice(&[b'V', b'I', b'P', b'D', 2, kind, 0, 0]);
        }
        let came = pair.deliver(1, &bytes);
        prop_assert!(!matches!(came, Received::Message(_) | Received::Advert(_)));
        prop_assert!(open(&mut pair, &bytes).is_err());
    }
}
