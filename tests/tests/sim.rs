//! The cluster under seeded faults. A failing seed is printed with its log;
//! `SIM_SEED=n` runs only that one, `SIM_SEEDS=n` that many.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use vipd_core::settings::{Policy, Transport};
use vipd_tests::sim::settings::{add_name, election, moving_address};
use vipd_tests::sim::{Fault, Rng, World};

const DEFAULT_SEEDS: u64 = 256;
/// Seeds beyond these that once failed.
const KEPT: [u64; 3] = [364, 1313, 2245];

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    match number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SIM_SEEDS").unwrap_or(DEFAULT_SEEDS)).chain(KEPT).collect(),
    }
}

/// Runs `scenario` for every seed, and tells the seed and the log of one that fails.
fn for_seeds(make: impl Fn(u64) -> World, scenario: impl Fn(&mut World)) {
    for seed in seeds() {
        let mut world = make(seed);
        let outcome = catch_unwind(AssertUnwindSafe(|| scenario(&mut world)));
        if let Err(panic) = outcome {
            let from = world.log.len().saturating_sub(80);
            eprintln!("seed {seed} fails (SIM_SEED={seed} runs it alone):");
            for line in &world.log[from..] {
                eprintln!("  {line}");
            }
            std::panic::resume_unwind(panic);
        }
    }
}

fn random_world(seed: u64) -> World {
    let mut rng = Rng::new(seed ^ 0x51ed);
    let intervals = [10, 100, 250, 1000];
    let mut settings = election(Duration::from_millis(intervals[rng.index(4)]));
    settings.preempt = rng.chance(250);
    if rng.chance(300) {
        settings.transport = Transport::Multicast;
    }
    let (nodes, groups) = (2 + rng.index(3), 1 + rng.index(2));
    World::new(seed, nodes, groups, settings)
}

fn settle(world: &mut World) {
    let interval = world.settings.election.advert_interval;
    world.run(interval * 12 + Duration::from_secs(8));
}

fn random_fault(world: &mut World) -> Fault {
    let host = world.rng.index(world.hosts.len());
    let other = (host + 1 + world.rng.index(world.hosts.len() - 1)) % world.hosts.len();
    let group = world.rng.index(world.settings.vips.len());
    let pause = Duration::from_millis(world.rng.between(1, 6000));
    let next = (group + 1) % world.settings.vips.len();
    match world.rng.below(19) {
        0 => Fault::Kill(host, pause),
        1 => Fault::PowerOff(host, pause),
        2 | 3 => Fault::Freeze(host, pause),
        4 => Fault::OneWay(host, other),
        5 => Fault::Cut(host, other),
        6 => Fault::Heal,
        7 => Fault::Carrier(host, false),
        8 => Fault::Carrier(host, true),
        9 => Fault::Stop(host, pause),
        10 => Fault::Switchover(group),
        11 => Fault::Maintenance(host, world.rng.chance(300)),
        12 => Fault::Reorder(group),
        13 => Fault::Readdress(group),
        14..=16 => Fault::Move(group),
        17 if next != group => Fault::Exchange(group, next),
        _ => Fault::Delete(host, group),
    }
}

/// Ends every fault that does not end by itself.
fn repair(world: &mut World) {
    world.loss = 0;
    world.refusals = 0;
    world.inject(Fault::Heal);
    for host in 0..world.hosts.len() {
        world.inject(Fault::Carrier(host, true));
        world.inject(Fault::Maintenance(host, false));
    }
    world.run(Duration::from_secs(7));
    for host in 0..world.hosts.len() {
        world.inject(Fault::Maintenance(host, false));
    }
}

/// So many faults after one another, then repairs: one owner in the end.
fn faults_then_calm(world: &mut World, faults: usize, mut draw: impl FnMut(&mut World) -> Fault) {
    settle(world);
    world.check_settled();
    for _ in 0..faults {
        let fault = draw(world);
        world.inject(fault);
        let pause = Duration::from_millis(world.rng.between(0, 3000));
        world.run(pause);
    }
    repair(world);
    settle(world);
    world.check_settled();
}

/// The same while packets are lost and the kernel refuses.
fn faults_under_loss_then_calm(world: &mut World, faults: usize, mut draw: impl FnMut(&mut World) -> Fault) {
    world.loss = world.rng.between(10, 300);
    world.refusals = world.rng.between(0, 200);
    settle(world);
    for _ in 0..faults {
        let fault = draw(world);
        world.inject(fault);
        world.run(Duration::from_secs(2));
    }
    repair(world);
    settle(world);
    world.check_settled();
}

#[test]
fn one_owner_after_every_kind_of_fault() {
    for_seeds(random_world, |world| {
        faults_then_calm(world, 12, random_fault);
    });
}

#[test]
fn one_owner_after_loss_and_refusals() {
    for_seeds(random_world, |world| {
        faults_under_loss_then_calm(world, 4, random_fault);
    });
}

/// The hosts without a floating address, behind a name.
fn random_cloud(seed: u64) -> World {
    let mut rng = Rng::new(seed ^ 0xc10d);
    let mut settings = election(Duration::from_millis([100, 250, 1000][rng.index(3)]));
    settings.preempt = rng.chance(250);
    let mut world = World::new(seed, 2 + rng.index(2), 0, settings);
    let policy = if rng.chance(500) { Policy::Multi } else { Policy::Owner };
    let hold_down = Duration::from_millis(rng.between(0, 3000));
    add_name(&mut world.settings, policy, hold_down);
    world
}

#[test]
fn a_name_has_the_nodes_that_serve_after_every_kind_of_fault() {
    for_seeds(random_cloud, |world| {
        settle(world);
        world.check_settled();
        for _ in 0..10 {
            let mut fault = random_fault(world);
            // Without an address there is nothing to delete or to add.
            if let Fault::Delete(host, _) = fault {
                fault = Fault::Carrier(host, true);
            } else if let Fault::Readdress(group) = fault {
                fault = Fault::Switchover(group);
            }
            world.inject(fault);
            let pause = Duration::from_millis(world.rng.between(0, 3000));
            world.run(pause);
        }
        repair(world);
        settle(world);
        world.check_settled();
    });
}

fn calm(seed: u64) -> World {
    let mut world = World::new(seed, 3, 1, election(Duration::from_secs(1)));
    settle(&mut world);
    world
}

#[test]
fn the_preferred_node_owns_at_first() {
    for_seeds(calm, |world| {
        world.check_settled();
        assert_eq!(world.owners(0), [0]);
    });
}

/// Runs for a while; how long nobody answered, and how long two did.
fn watch(world: &mut World, duration: Duration) -> (Duration, Duration) {
    (world.unowned, world.doubly_owned) = (Duration::ZERO, Duration::ZERO);
    world.run(duration);
    (world.unowned, world.doubly_owned)
}

#[test]
fn a_planned_switchover_takes_moments_and_never_has_two_owners() {
    for_seeds(calm, |world| {
        world.inject(Fault::Switchover(0));
        let (none, two) = watch(world, Duration::from_secs(2));
        assert_eq!(world.owners(0), [1]);
        assert!(none <= Duration::from_millis(3), "nobody owned for {none:?}");
        assert_eq!(two, Duration::ZERO);
        settle(world);
        world.check_settled();
        assert_eq!(world.owners(0), [1]);
    });
}

#[test]
fn reloads_move_nothing_and_close_what_goes() {
    for_seeds(calm, |world| {
        for _ in 0..4 {
            let fault = if world.rng.chance(500) { Fault::Reorder(0) } else { Fault::Readdress(0) };
            world.inject(fault);
            // The next may come before this one has reached every host.
            let pause = Duration::from_millis(world.rng.between(50, 1500));
            let (none, two) = watch(world, pause);
            assert_eq!((none, two), (Duration::ZERO, Duration::ZERO), "{fault:?}");
        }
        settle(world);
        world.check_settled();
        assert_eq!(world.owners(0), [0], "no preemption");
    });
}

/// Two groups, each of which another node owns. While the file is rolled out,
/// the address that it moves is never on both.
#[test]
fn an_address_that_a_reload_moves_to_another_owners_group_is_never_on_two_nodes() {
    let pair = |seed| {
        let mut world =
            World::new(seed, 2 + usize::from(seed % 2 == 1), 2, election(Duration::from_millis(100)));
        world.inject(Fault::Move(0));
        settle(&mut world);
        world.overlap_bound = Duration::from_millis(1);
        world
    };
    for_seeds(pair, |world| {
        for group in [1, 0, 1, 0] {
            let (from, to) = (world.owners(1 - group), world.owners(group));
            assert!(from.len() == 1 && to.len() == 1 && from != to, "{from:?} and {to:?}");
            world.inject(Fault::Move(group));
            let pause = Duration::from_millis(world.rng.between(50, 1500));
            world.run(pause);
            if world.rng.chance(500) {
                // Every host has the file; the new owner has been told by the old one.
                world.run(Duration::from_millis(1010));
                assert_eq!(world.answering(moving_address()), to);
            }
        }
        settle(world);
        world.check_settled();
    });
}

#[test]
fn an_orderly_stop_hands_over_in_moments() {
    for_seeds(calm, |world| {
        world.inject(Fault::Stop(0, Duration::from_secs(3)));
        let (none, two) = watch(world, Duration::from_secs(2));
        assert_eq!(world.owners(0), [1]);
        assert!(none <= Duration::from_millis(3), "nobody owned for {none:?}");
        assert_eq!(two, Duration::ZERO);
        // It comes back and takes nothing: no second outage.
        settle(world);
        assert_eq!(world.owners(0), [1]);
    });
}

#[test]
fn a_killed_daemon_costs_moments() {
    for_seeds(calm, |world| {
        world.inject(Fault::Kill(0, Duration::from_secs(3)));
        let (none, two) = watch(world, Duration::from_secs(2));
        assert_eq!(world.owners(0), [1]);
        assert!(none <= Duration::from_millis(5), "nobody owned for {none:?}");
        assert_eq!(two, Duration::ZERO);
    });
}

#[test]
fn a_frozen_owner_loses_the_address_about_when_its_backup_takes_it() {
    for_seeds(calm, |world| {
        let wait = Duration::from_millis(world.rng.below(1000));
        world.run(wait);
        world.inject(Fault::Freeze(0, Duration::from_secs(10)));
        let (none, two) = watch(world, Duration::from_secs(9));
        assert_eq!(world.owners(0), [1]);
        assert!(none <= Duration::from_secs(1), "nobody owned for {none:?}");
        assert!(two <= Duration::from_millis(500), "two owned for {two:?}");
        let (_, two) = watch(world, Duration::from_secs(5));
        assert_eq!((world.owners(0), two), (vec![1], Duration::ZERO), "the frozen node thawed");
    });
}

/// What hosts say of each other's answers once all is calm.
fn why_of(world: &World, host: usize) -> String {
    world.why(host, 0)
}

#[test]
fn backups_see_the_owner_answer_after_every_takeover() {
    for_seeds(calm, |world| {
        for _ in 0..2 {
            let fault = match world.rng.below(3) {
                0 => Fault::Switchover(0),
                1 => Fault::Kill(world.owners(0)[0], Duration::from_secs(1)),
                _ => Fault::PowerOff(world.owners(0)[0], Duration::from_secs(1)),
            };
            world.inject(fault);
            // A frozen or dead host is back by then, and has said hello.
            world.run(Duration::from_secs(12));
            let owner = world.owners(0)[0];
            let (here, there) = (why_of(world, owner), why_of(world, (owner + 1) % 3));
            for backup in (0..3).filter(|h| *h != owner) {
                let seen = format!("px{} sees this node answer, 0.0", backup + 1);
                assert!(here.contains(&seen), "px{}: {here}", owner + 1);
            }
            assert!(there.contains(&format!("px{} answers for its addresses", owner + 1)), "{there}");
            assert!(!here.contains("claims"), "{here}");
        }
    });
}

#[test]
fn who_claims_an_address_is_named_and_takes_nothing() {
    for_seeds(calm, |world| {
        let owner = world.owners(0)[0];
        let vip = world.settings.vips[0].addresses[0].address();
        world.squatted.insert(vip);
        let announced = world.log.len();
        for _ in 0..200 {
            world.spoof(vip);
            let pause = Duration::from_millis(world.rng.between(1, 40));
            let (none, _) = watch(world, pause);
            assert_eq!(none, Duration::ZERO, "the owner lets go");
        }
        assert_eq!(world.owners(0), [owner]);
        let why = why_of(world, owner);
        assert!(why.contains(&format!("another host (02:00:00:00:ee:ee) claims {vip}")), "{why}");
        let told = world.log[announced..].iter().filter(|l| l.contains("claims") && l.contains(": vip0"));
        assert_eq!(told.count(), 1, "once a minute");
        // A takeover while it answers: the backups see two, and say so.
        world.inject(Fault::Switchover(0));
        world.run(Duration::from_secs(15));
        let owner = world.owners(0)[0];
        let seen = format!("see another host (02:00:00:00:ee:ee) answer for {vip}").replace("see ", "sees ");
        assert!(why_of(world, owner).contains(&seen), "{}", why_of(world, owner));
        world.squatted.clear();
        world.run(Duration::from_secs(130));
        let why = why_of(world, owner);
        assert!(!why.contains("claims") && !why.contains("not only"), "{why}");
        assert_eq!(why.matches("sees this node answer").count(), 2, "{why}");
    });
}

#[test]
fn a_cut_of_one_direction_is_named() {
    for_seeds(calm, |world| {
        let owner = world.owners(0)[0];
        let other = (owner + 1) % 3;
        // Nothing from the owner reaches it any more: both own, and each has a reason.
        world.inject(Fault::OneWay(owner, other));
        world.run(Duration::from_secs(15));
        let deaf = format!("px{} does not hear this node", other + 1);
        assert!(world.log.iter().any(|l| l.contains(&format!("{owner}: {deaf}"))), "nobody is told");
        world.inject(Fault::Heal);
        world.run(Duration::from_secs(10));
        let again = format!("{owner}: px{} hears this node again", other + 1);
        assert!(world.log.iter().any(|l| l.contains(&again)));
        world.check_settled();
    });
}

#[test]
fn a_lost_release_is_said_again() {
    let pair = |seed| {
        let mut world = World::new(seed, 2, 1, election(Duration::from_secs(1)));
        settle(&mut world);
        world
    };
    for_seeds(pair, |world| {
        world.loss = 300;
        world.inject(Fault::Switchover(0));
        world.run(Duration::from_millis(400));
        world.loss = 0;
        world.run(Duration::from_millis(600));
        assert!(!world.owners(0).is_empty(), "the release was lost and never repeated");
        settle(world);
        world.check_settled();
    });
}

/// The cluster under a quorum lease: in every step, at most one host owns.
mod quorum {
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
            assert!(
                none <= Duration::from_millis(367 * 10 / 9 - 250 + 100 + 60),
                "nobody owned for {none:?}"
            );
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
}

/// The quorum kept in etcd: in every step, at most one host owns.
mod etcd {
    use super::*;
    use vipd_core::settings::OnNoQuorum;

    fn random(seed: u64) -> World {
        let mut rng = Rng::new(seed ^ 0xe7_cd);
        let intervals = [10, 100, 250, 1000];
        let mut settings = election(Duration::from_millis(intervals[rng.index(4)]));
        settings.preempt = rng.chance(250);
        World::with_etcd(seed, 2 + rng.index(3), 1 + rng.index(2), settings)
    }

    fn two(seed: u64) -> World {
        let mut world = World::with_etcd(seed, 2, 1, election(Duration::from_millis(100)));
        settle(&mut world);
        world
    }

    fn fault(world: &mut World) -> Fault {
        let pause = Duration::from_millis(world.rng.between(1, 6000));
        let (etcd, host) = (world.etcd_place(), world.rng.index(world.hosts.len()));
        match world.rng.below(9) {
            0 => Fault::EtcdDown(pause),
            1 => Fault::Cut(host, etcd),
            2 => Fault::OneWay(host, etcd),
            3 => Fault::OneWay(etcd, host),
            4 => Fault::Stall(host, pause),
            5 if world.rng.chance(300) => Fault::DeleteKey(world.rng.index(world.settings.vips.len())),
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

    /// The padded lease on the slowest clock, from the last renewal; less the
    /// shortest time for which the old owner still holds it; and a round.
    const HANDED_ON: Duration = Duration::from_millis(3667 * 10 / 9 - 2500 * 10 / 11 + 250);

    #[test]
    fn an_owner_cut_from_etcd_hands_over_before_its_lease_ends() {
        for_seeds(two, |world| {
            let owner = world.owners(0)[0];
            world.inject(Fault::Cut(owner, world.etcd_place()));
            let (none, two) = watch(world, Duration::from_secs(6));
            assert_eq!((world.owners(0), two), (vec![1 - owner], Duration::ZERO));
            // Its word reaches the other, which need not wait; unless an advert of the same
            // moment overtakes it: then for three adverts.
            assert!(none <= Duration::from_millis(420), "nobody owned for {none:?}");
            world.inject(Fault::Heal);
            settle(world);
            world.check_settled();
        });
    }

    #[test]
    fn a_host_without_power_is_replaced_when_its_lease_is_over() {
        for_seeds(two, |world| {
            let owner = world.owners(0)[0];
            world.inject(Fault::PowerOff(owner, Duration::from_secs(20)));
            let (none, two) = watch(world, Duration::from_secs(6));
            assert_eq!((world.owners(0), two), (vec![1 - owner], Duration::ZERO));
            assert!(none <= Duration::from_millis(3667 * 10 / 9 + 250), "nobody owned for {none:?}");
        });
    }

    #[test]
    fn an_owner_cut_from_everything_is_replaced_when_its_lease_is_over() {
        for_seeds(two, |world| {
            let owner = world.owners(0)[0];
            world.inject(Fault::Cut(owner, world.etcd_place()));
            world.inject(Fault::Cut(owner, 1 - owner));
            let (none, two) = watch(world, Duration::from_secs(6));
            assert_eq!((world.owners(0), two), (vec![1 - owner], Duration::ZERO));
            assert!(none <= HANDED_ON, "nobody owned for {none:?}");
        });
    }

    #[test]
    fn a_short_silence_of_etcd_costs_nothing_and_a_long_one_leaves_nobody() {
        for_seeds(two, |world| {
            let owner = world.owners(0)[0];
            // Its client asks again within a second, and its clock may be the fastest.
            world.inject(Fault::EtcdDown(Duration::from_millis(900)));
            let (none, two) = watch(world, Duration::from_secs(4));
            assert_eq!((world.owners(0), none, two), (vec![owner], Duration::ZERO, Duration::ZERO));
            world.inject(Fault::EtcdDown(Duration::from_secs(10)));
            world.run(Duration::from_secs(9));
            assert_eq!(world.owners(0), Vec::<usize>::new());
            let why = world.why(owner, 0);
            assert!(why.contains("etcd names"), "{why}");
            settle(world);
            world.check_settled();
        });
    }

    #[test]
    fn keep_keeps_as_plain_vrrp_does() {
        let make = |seed| {
            let mut settings = election(Duration::from_millis(100));
            settings.on_no_quorum = OnNoQuorum::Keep;
            let mut world = World::with_etcd(seed, 2, 1, settings);
            settle(&mut world);
            world
        };
        for_seeds(make, |world| {
            let owners = world.owners(0);
            world.inject(Fault::EtcdDown(Duration::from_secs(8)));
            world.run(Duration::from_secs(7));
            assert_eq!(world.owners(0), owners);
            settle(world);
            world.check_settled();
        });
    }

    #[test]
    fn a_planned_switchover_hands_the_lease_over() {
        for_seeds(two, |world| {
            let owner = world.owners(0)[0];
            world.inject(Fault::Switchover(0));
            let (none, two) = watch(world, Duration::from_secs(1));
            assert_eq!((world.owners(0), two), (vec![1 - owner], Duration::ZERO));
            // Three round trips to etcd: read, lose against what the other writes, write.
            assert!(none <= Duration::from_millis(40), "nobody owned for {none:?}");
        });
    }

    #[test]
    fn a_stop_and_a_crash_cost_no_lease() {
        for_seeds(two, |world| {
            let owner = world.owners(0)[0];
            let fault = if world.rng.chance(500) {
                Fault::Stop(owner, Duration::from_secs(3))
            } else {
                Fault::Kill(owner, Duration::from_secs(3))
            };
            world.inject(fault);
            let (none, two) = watch(world, Duration::from_secs(1));
            assert_eq!((world.owners(0), two), (vec![1 - owner], Duration::ZERO));
            assert!(none <= Duration::from_millis(40), "nobody owned for {none:?} after {fault:?}");
        });
    }

    #[test]
    fn a_frozen_owner_has_lost_the_address_before_the_next_one_takes_it() {
        for_seeds(two, |world| {
            let owner = world.owners(0)[0];
            world.inject(Fault::Freeze(owner, Duration::from_secs(9)));
            let (none, two) = watch(world, Duration::from_secs(15));
            assert_eq!((world.owners(0), two), (vec![1 - owner], Duration::ZERO));
            assert!(none <= Duration::from_millis(3667 * 10 / 9), "nobody owned for {none:?}");
        });
    }
}
