//! The cluster under a quorum lease: in every step, at most one host owns.

use super::*;
use vipd_core::settings::OnNoQuorum;

fn random(seed: u64) -> World {
    let mut rng = Rng::new(seed ^ 0x70_7a);
    let intervals = [10, 100, 250, 1000];
    let mut settings = election(Duration::from_millis(intervals[rng.index(4)]));
    settings.preempt = rng.chance(250);
    let (nodes, witnesses) = [(2, 1), (3, 0), (2, 3), (3, 2), (4, 1), (2, 0)][rng.index(6)];
    World::with_quorum(seed, nodes, witnesses, 1 + rng.index(2), settings)
}

fn two_and_a_witness(seed: u64) -> World {
    let mut world = World::with_quorum(seed, 2, 1, 1, election(Duration::from_millis(100)));
    settle(&mut world);
    world
}

fn fault(world: &mut World) -> Fault {
    let witnesses = world.witnesses.len();
    let pause = Duration::from_millis(world.rng.between(1, 4000));
    let all = world.hosts.len() + witnesses;
    let (from, to) = (world.rng.index(all), world.rng.index(all));
    match world.rng.below(8) {
        0 if witnesses > 0 => Fault::KillWitness(world.rng.index(witnesses), pause),
        1 if from != to => Fault::OneWay(from, to),
        2 if from != to => Fault::Cut(from, to),
        3 => Fault::Stall(world.rng.index(world.hosts.len()), pause),
        _ => random_fault(world),
    }
}

#[test]
fn never_two_owners_whatever_happens() {
    for_seeds(random, |world| {
        faults_then_calm(world, 12, fault);
    });
}

#[test]
fn never_two_owners_under_loss_and_refusals() {
    for_seeds(random, |world| {
        faults_under_loss_then_calm(world, 6, fault);
    });
}

/// Plans are renewed every third of the kernel's second, leases of 30 ms with
/// every advert: what somebody deletes in between is put back.
#[test]
fn who_deletes_the_address_makes_no_fault() {
    let fast = |seed| {
        let mut world = World::with_quorum(seed, 2, 1, 1, election(Duration::from_millis(10)));
        settle(&mut world);
        world
    };
    for_seeds(fast, |world| {
        let owner = (0..2).find(|host| world.hosts[*host].answers("vip0")).expect("an owner");
        for _ in 0..5 {
            world.inject(Fault::Delete(owner, 0));
            let pause = Duration::from_millis(world.rng.between(30, 300));
            world.run(pause);
            assert!(world.hosts[owner].answers("vip0"), "{}", world.why(owner, 0));
        }
    });
}

/// What the guard is told is of every group: that is not done for each group's grant.
#[test]
fn the_grants_of_many_groups_are_told_to_the_guard_together() {
    let many = |seed| {
        let mut world = World::with_quorum(seed, 2, 1, 12, election(Duration::from_millis(100)));
        settle(&mut world);
        world
    };
    for_seeds(many, |world| {
        let told = |world: &World| world.hosts.iter().map(|h| h.guard_told).sum::<u64>();
        let before = told(world);
        let (none, two) = watch(world, Duration::from_secs(1));
        assert_eq!((none, two), (Duration::ZERO, Duration::ZERO), "a guard took something away");
        let often = told(world) - before;
        // Ten rounds of grants on either host, each within a quarter of an interval or two.
        assert!(often <= 2 * 10 * 4, "the guards were told {often} times");
    });
}

/// Nothing reaches these from the others, nor the others from these.
fn isolate(world: &mut World, some: &[usize]) {
    for voter in 0..world.hosts.len() + world.witnesses.len() {
        for one in some.iter().filter(|_| !some.contains(&voter)) {
            world.inject(Fault::Cut(*one, voter));
        }
    }
}

#[test]
fn the_majority_has_an_owner_within_a_bounded_time() {
    for_seeds(two_and_a_witness, |world| {
        let owner = world.owners(0)[0];
        isolate(world, &[owner]);
        let (none, _) = watch(world, Duration::from_millis(700));
        assert_eq!(world.owners(0), [1 - owner]);
        // The lease, padded, as the slowest voter counts it; an interval, if the last
        // request arrived and its answers did not; and a round.
        assert!(none <= Duration::from_millis(367 * 10 / 9 - 250 + 100 + 60), "nobody owned for {none:?}");
        world.inject(Fault::Heal);
        settle(world);
        world.check_settled();
    });
}

#[test]
fn without_a_majority_nobody_owns_and_it_says_why() {
    for_seeds(two_and_a_witness, |world| {
        let owner = world.owners(0)[0];
        isolate(world, &[0]);
        isolate(world, &[1]);
        world.run(Duration::from_secs(3));
        assert_eq!(world.owners(0), Vec::<usize>::new());
        let why = world.why(owner, 0);
        assert!(why.contains("no majority") && why.contains("w1 silent for"), "{why}");
    });
}

#[test]
fn keep_keeps_as_plain_vrrp_does() {
    let make = |seed| {
        let mut settings = election(Duration::from_millis(100));
        settings.on_no_quorum = OnNoQuorum::Keep;
        let mut world = World::with_quorum(seed, 2, 1, 1, settings);
        settle(&mut world);
        world
    };
    for_seeds(make, |world| {
        let owners = world.owners(0);
        isolate(world, &[2]);
        world.run(Duration::from_secs(3));
        assert_eq!(world.owners(0), owners, "two of three are left");
        isolate(world, &[0]);
        isolate(world, &[1]);
        world.run(Duration::from_secs(3));
        assert_eq!(world.owners(0), [0, 1]);
        world.inject(Fault::Heal);
        settle(world);
        world.check_settled();
    });
}

#[test]
fn a_planned_switchover_hands_the_promise_over() {
    for_seeds(two_and_a_witness, |world| {
        let owner = world.owners(0)[0];
        world.inject(Fault::Switchover(0));
        let (none, two) = watch(world, Duration::from_secs(1));
        assert_eq!(world.owners(0), [1 - owner]);
        assert!(none <= Duration::from_millis(8), "nobody owned for {none:?}");
        assert_eq!(two, Duration::ZERO);
    });
}

#[test]
fn a_stop_and_a_crash_cost_no_lease() {
    for_seeds(two_and_a_witness, |world| {
        let owner = world.owners(0)[0];
        let fault = if world.rng.chance(500) {
            Fault::Stop(owner, Duration::from_secs(3))
        } else {
            Fault::Kill(owner, Duration::from_secs(3))
        };
        world.inject(fault);
        let (none, two) = watch(world, Duration::from_secs(1));
        assert_eq!(world.owners(0), [1 - owner]);
        assert!(none <= Duration::from_millis(10), "nobody owned for {none:?} after {fault:?}");
        assert_eq!(two, Duration::ZERO);
    });
}

#[test]
fn a_frozen_owner_has_lost_the_address_before_the_next_one_takes_it() {
    for_seeds(two_and_a_witness, |world| {
        let owner = world.owners(0)[0];
        world.inject(Fault::Freeze(owner, Duration::from_secs(5)));
        let (none, two) = watch(world, Duration::from_secs(8));
        assert_eq!((world.owners(0), two), (vec![1 - owner], Duration::ZERO));
        assert!(none <= Duration::from_millis(300), "nobody owned for {none:?}");
    });
}
