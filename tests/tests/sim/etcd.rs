//! The quorum kept in etcd: in every step, at most one host owns.

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
