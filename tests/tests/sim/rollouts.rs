//! A new file that comes to one host after the other.

use super::*;
use vipd_tests::sim::settings::moving_address;

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
        settle(&mut world);
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

/// By reloads at about the same time, over some seconds, or by restarts.
fn by(world: &mut World) -> By {
    match world.rng.below(4) {
        0 => By::Reload(Duration::from_millis(50)),
        1 | 2 => By::Reload(Duration::from_secs(8)),
        _ => By::Restart(Duration::from_millis(world.rng.between(500, 2500))),
    }
}

/// Every host has the newest file, and is there.
fn rolled_out(world: &mut World) {
    repair(world);
    world.run(Duration::from_secs(20));
    settle(world);
    world.check_settled();
}

fn several_groups(seed: u64) -> World {
    let mut world = random_world(seed);
    let (nodes, election) = (world.hosts.len(), world.settings.election.clone());
    world = World::new(seed, nodes, 2 + world.rng.index(2), election);
    world
}

#[test]
fn groups_that_come_and_go_and_change_their_numbers_have_one_owner() {
    for_seeds(several_groups, |world| {
        settle(world);
        for _ in 0..12 {
            let group = world.rng.index(world.settings.vips.len());
            let by = by(world);
            let fault = match world.rng.below(8) {
                0 | 1 => Fault::Renumber(group, by),
                2 => Fault::Remove(group, by),
                3 | 4 => Fault::Return(by),
                _ => random_fault(world),
            };
            world.inject(fault);
            let pause = Duration::from_millis(world.rng.between(0, 4000));
            world.run(pause);
        }
        rolled_out(world);
    });
}

#[test]
fn a_group_whose_number_changes_in_peace_moves_without_a_gap() {
    for_seeds(calm, |world| {
        for _ in 0..3 {
            let by = match world.rng.below(2) {
                0 => By::Reload(Duration::from_secs(8)),
                _ => By::Restart(Duration::from_secs(6)),
            };
            world.inject(Fault::Renumber(0, by));
            let (none, two) = watch(world, Duration::from_secs(45));
            // Two that wait for different things may be done at once: a round trip.
            assert_eq!(two, Duration::ZERO, "{by:?}");
            assert!(none < Duration::from_millis(100), "nobody owned for {none:?} by {by:?}");
            world.check_settled();
        }
    });
}

#[test]
fn an_interval_that_is_rolled_out_has_one_owner() {
    for_seeds(random_world, |world| {
        settle(world);
        for _ in 0..10 {
            let interval = Duration::from_millis([10, 100, 250, 1000, 2000][world.rng.index(5)]);
            let by = by(world);
            let fault = match world.rng.below(3) {
                0 => Fault::Interval(interval, by),
                _ => random_fault(world),
            };
            world.inject(fault);
            let pause = Duration::from_millis(world.rng.between(0, 4000));
            world.run(pause);
        }
        rolled_out(world);
    });
}

#[test]
fn an_interval_that_is_rolled_out_in_peace_moves_nothing() {
    for_seeds(calm, |world| {
        for millis in [100, 10, 2000, 250, 1000] {
            let within = Duration::from_secs([1, 8][world.rng.index(2)]);
            world.inject(Fault::Interval(Duration::from_millis(millis), By::Reload(within)));
            let (none, two) = watch(world, Duration::from_secs(12));
            assert_eq!((none, two), (Duration::ZERO, Duration::ZERO), "{millis} ms");
            assert_eq!(world.owners(0), [0], "{millis} ms");
        }
    });
}

/// A host that restarts with a shorter interval hears nothing of the owner for a while.
#[test]
fn an_interval_that_is_rolled_out_by_restarts_never_has_two_owners() {
    for_seeds(calm, |world| {
        for millis in [10, 2000, 100, 1000] {
            let interval = Duration::from_millis(millis);
            world.inject(Fault::Interval(interval, By::Restart(Duration::from_secs(6))));
            let (none, two) = watch(world, Duration::from_secs(45));
            assert_eq!(two, Duration::ZERO, "{millis} ms");
            assert!(none < Duration::from_millis(100), "nobody owned for {none:?} at {millis} ms");
            world.check_settled();
        }
    });
}

fn whole_seconds(seed: u64) -> World {
    let mut rng = Rng::new(seed ^ 0x3768);
    let mut settings = election(Duration::from_secs(1 + rng.below(2)));
    settings.preempt = rng.chance(250);
    World::new(seed, 2 + rng.index(3), 1 + rng.index(2), settings)
}

#[test]
fn a_version_that_is_rolled_out_has_one_owner() {
    for_seeds(whole_seconds, |world| {
        settle(world);
        for _ in 0..10 {
            let fault = match world.rng.below(4) {
                0 => Fault::Version(Duration::from_millis(world.rng.between(500, 4000))),
                _ => random_fault(world),
            };
            world.inject(fault);
            let pause = Duration::from_millis(world.rng.between(0, 4000));
            world.run(pause);
        }
        rolled_out(world);
    });
}

#[test]
fn a_version_that_is_rolled_out_in_peace_never_has_two_owners() {
    for_seeds(calm, |world| {
        for _ in 0..2 {
            world.inject(Fault::Version(Duration::from_secs(6)));
            let (none, two) = watch(world, Duration::from_secs(45));
            assert_eq!(two, Duration::ZERO);
            assert!(none < Duration::from_millis(100), "nobody owned for {none:?}");
            world.check_settled();
        }
    });
}
