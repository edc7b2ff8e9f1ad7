//! What a takeover costs, and who owns after it.

use super::*;

#[test]
fn the_preferred_node_owns_at_first() {
    for_seeds(calm, |world| {
        world.check_settled();
        assert_eq!(world.owners(0), [0]);
    });
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
