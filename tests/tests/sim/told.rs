//! What people are told of the link: who answers, who claims, who does not hear.

use super::*;

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
