//! Every kind of fault, at random: in the end one host owns.

use super::*;
use vipd_core::settings::Policy;
use vipd_tests::sim::settings::add_name;

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
