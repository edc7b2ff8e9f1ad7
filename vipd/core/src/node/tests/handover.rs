//! Planned switchovers, stepping back, maintenance.

use super::*;

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
fn an_owner_without_servers_steps_back_only_if_another_has_some() {
    let prepares = |outputs: &[Output]| {
        let prepare = |o: &&Output| matches!(o, Output::Peer { bytes, .. } if bytes[5] == 2);
        outputs.iter().filter(prepare).count()
    };
    let key = ServerKey { pool: 0, server: 0 };
    let up = || Input::Probe {
        server: key,
        probe: Probe::Answered(Observation::default()),
        checked: Checked::at(at(0)),
    };
    let down =
        || Input::Probe { server: key, probe: Probe::Failed("refused".into()), checked: Checked::at(at(0)) };
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
    peer_says(&mut cold, &hello(State::Active, true, vec![1, 2]), at(5));
    assert!(!prepares(&mut cold, at(10)));
    let probe = Probe::Failed("refused".into());
    cold.handle(
        Input::Probe { server: ServerKey { pool: 0, server: 0 }, probe, checked: Checked::at(at(10)) },
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
fn the_next_owner_is_told_who_has_connections() {
    let vrid = NonZeroU8::new(100).unwrap_or(NonZeroU8::MIN);
    let message = Message::Prepare { vrid, nonce: 7, to: node_id("px1") };
    let prepare = Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message }.write();
    let mut next = node(settings());
    peer_says(&mut next, &hello(State::Active, true, vec![1, 2]), at(5));
    peer_says(&mut next, &prepare, at(10));
    let plan = |output| if let Output::Addresses(plan) = output { Some(plan) } else { None };
    let plans: Vec<_> = drain(&mut next).into_iter().filter_map(plan).collect();
    let [plan] = &plans[..] else { panic!("{plans:?}") };
    assert_eq!((plan.hold, &plan.former[..]), (Hold::Silent, &[address(12)][..]));
}

#[test]
fn maintenance_that_ends_before_anybody_is_ready_leaves_the_owner() {
    let mut node = owner(settings());
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(3_400));
    node.set_maintenance(true, at(3_400));
    node.set_maintenance(false, at(3_410));
    for now in (3_420..5_000).step_by(10) {
        node.handle(Input::Tick, at(now));
        obey(&mut node, at(now));
    }
    assert_eq!(node.group_status(at(5_000))[0].state, State::Active);
}

#[test]
fn maintenance_that_would_leave_nobody_is_told_of() {
    let mut node = owner(settings());
    assert!(node.maintenance_obstacle().is_some_and(|why| why.contains("px2 does not answer")));
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(3_400));
    assert_eq!(node.maintenance_obstacle(), None);
}

/// Both nodes are sent into maintenance at once: the owner's successor leaves while it is asked.
#[test]
fn maintenance_is_called_off_when_the_only_successor_leaves() {
    let mut node = owner(settings());
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(3_400));
    node.set_maintenance(true, at(3_400));
    peer_says(&mut node, &hello(State::Init, true, vec![1, 2]), at(3_401));
    let mut told = vec![];
    for now in (3_400..8_000).step_by(10) {
        node.handle(Input::Tick, at(now));
        told.extend(events(obey(&mut node, at(now))));
        assert_eq!(node.group_status(at(now))[0].state, State::Active, "at {now} ms");
    }
    assert!(!node.maintenance());
    let why = "maintenance is called off: no other node can take main";
    assert!(told.iter().any(|e| e.message.starts_with(why)), "{told:?}");
}

/// It is asked to own again while it lingers, and then it is not needed: its old sessions end first.
#[test]
fn sessions_are_closed_when_a_preparation_after_a_release_runs_out() {
    let vrid = NonZeroU8::new(100).unwrap_or(NonZeroU8::MIN);
    let of_px2 =
        |message| Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message }.write();
    let mut node = owner(settings());
    peer_says(&mut node, &hello(State::Backup, true, vec![1, 2]), at(3_400));
    node.switchover("main", None, at(3_400)).expect("begins");
    for output in obey(&mut node, at(3_400)) {
        if let Output::Peer { bytes, .. } = output
            && let Ok(Envelope { message: Message::Prepare { vrid, nonce, .. }, .. }) =
                Envelope::parse(&bytes)
        {
            peer_says(&mut node, &of_px2(Message::Ready { vrid, nonce }), at(3_410));
        }
    }
    obey(&mut node, at(3_410));
    assert_eq!(node.group_status(at(3_410))[0].state, State::Backup, "it has let go and lingers");
    let prepare = of_px2(Message::Prepare { vrid, nonce: 7, to: node_id("px1") });
    peer_says(&mut node, &prepare, at(3_500));
    let (mut closed_at, mut absent_at) = (None, None);
    for now in 3_500..5_000 {
        node.handle(Input::Tick, at(now));
        for output in drain(&mut node) {
            match output {
                Output::CloseSessions { .. } => closed_at = Some(now),
                Output::Addresses(plan) => {
                    if plan.hold == Hold::Absent {
                        absent_at = Some(now);
                    }
                    assert!(plan.former.is_empty(), "the connections from before are its own");
                    let (group, generation) = (plan.group, plan.generation);
                    node.handle(Input::Applied { group, generation, result: Ok(()) }, at(now));
                }
                _ => {}
            }
        }
    }
    // The kernel sends their resets only while it has the address.
    assert_eq!((closed_at, absent_at), (Some(4_500), Some(4_600)));
}

/// The kernel says nothing: its lifetimes end up to a tenth late, and before
/// that nobody is told that the addresses are free.
#[test]
fn who_leaves_without_the_kernels_word_waits_until_the_lifetime_is_surely_over() {
    let mut settings = settings();
    settings.election.lease = SECOND;
    let mut node = owner(settings);
    node.handle(Input::Stop, at(3_400));
    let is_release = |o: &Output| matches!(o, Output::Advert(packet) if packet.bytes.get(2) == Some(&0));
    let first = (3_400..7_000).find(|now| {
        node.handle(Input::Tick, at(*now));
        drain(&mut node).iter().any(is_release)
    });
    assert_eq!(first, Some(4_600));
}
