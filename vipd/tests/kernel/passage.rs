//! Groups that are to be taken over: packets of the former owner's connections
//! are passed on to it, by a program that nobody else waits for.

use super::*;

/// Whether there is `nft`; says so if not.
fn nft() -> bool {
    let there = output("nft --version").is_ok();
    assert!(there || std::env::var_os("LAB_NEEDS_ARE_MET").is_none(), "nft is missing (package nftables)");
    if !there {
        eprintln!("skipped: nft is missing (package nftables)");
    }
    there
}

fn tables() -> Result<Vec<String>, String> {
    let listed = output("nft list tables netdev")?;
    Ok(listed.lines().filter_map(|l| l.strip_prefix("table netdev ").map(str::to_owned)).collect())
}

/// A group of one address, `10.9.1.GROUP`.
fn plan(group: u8, generation: u64, hold: Hold) -> GroupPlan {
    GroupPlan {
        group: group.into(),
        generation,
        interface: index(HERE),
        addresses: vec![cidr(&format!("10.9.1.{group}/24"))],
        hold,
        lease: LEASE,
        until: None,
        former: if hold == Hold::Silent { vec!["10.9.0.2".parse().expect("an address")] } else { vec![] },
    }
}

impl Rig {
    /// The next answers to plans, in order: groups and generations.
    async fn answers(&mut self, count: usize) -> Result<Vec<(usize, u64)>, String> {
        let mut all = Vec::new();
        while all.len() < count {
            let answer = self.event(|event| match event {
                KernelEvent::Applied { group, generation, result } => {
                    Some(result.map(|()| (group, generation)))
                }
                KernelEvent::Stale { group, waited, .. } => {
                    Some(Err(format!("{group} waited for {waited:?}")))
                }
                _ => None,
            });
            all.push(answer.await?);
        }
        Ok(all)
    }
}

#[test]
fn only_groups_that_are_taken_over_wait_for_the_program() {
    lab(|_net| async move {
        if !nft() {
            return Ok(());
        }
        let mut rig = Rig::start(&[]).await?;
        rig.link(|_| true).await;
        for group in 1..=40 {
            rig.handle.submit(plan(group, 1, Hold::Silent));
        }
        // After them in every order.
        rig.handle.submit(plan(41, 1, Hold::Owned));
        rig.handle.submit(plan(42, 1, Hold::Absent));
        assert_eq!(rig.answers(2).await?, [(41, 1), (42, 1)]);
        assert_eq!(rig.answers(40).await?.len(), 40);
        assert_eq!(tables()?.len(), 1, "all by one run");
        let rules = output("nft list ruleset")?;
        assert!(rules.contains("10.9.1.40 timeout 500ms") && rules.contains(": 10.9.0.2"), "{rules}");
        Ok(())
    });
}

#[test]
fn a_plan_that_a_newer_one_replaced_meanwhile_is_not_answered() {
    lab(|_net| async move {
        if !nft() {
            return Ok(());
        }
        let mut rig = Rig::start(&[]).await?;
        rig.link(|_| true).await;
        rig.handle.submit(plan(1, 1, Hold::Silent));
        rig.handle.submit(plan(2, 1, Hold::Owned));
        // The program runs when this is answered.
        assert_eq!(rig.answers(1).await?, [(2, 1)]);
        rig.handle.submit(plan(1, 2, Hold::Absent));
        rig.handle.submit(plan(3, 1, Hold::Silent));
        assert_eq!(rig.answers(2).await?, [(1, 2), (3, 1)]);
        Ok(())
    });
}

#[test]
fn a_group_that_owns_by_now_is_left_out_and_the_others_are_passed_on() {
    lab(|_net| async move {
        if !nft() {
            return Ok(());
        }
        let mut rig = Rig::start(&[]).await?;
        rig.link(|_| true).await;
        rig.handle.submit(plan(1, 1, Hold::Silent));
        rig.handle.submit(plan(2, 1, Hold::Silent));
        rig.handle.submit(plan(3, 1, Hold::Owned));
        // The program runs when this is answered.
        assert_eq!(rig.answers(1).await?, [(3, 1)]);
        rig.handle.submit(plan(1, 2, Hold::Owned));
        assert_eq!(rig.answers(2).await?, [(1, 2), (2, 1)]);
        // Well before it would end by itself.
        let start = Instant::now();
        loop {
            let rules = output("nft list ruleset")?;
            let kept = rules.contains("10.9.1.2 timeout 500ms");
            assert!(kept || start.elapsed() > Duration::from_millis(400), "{rules}");
            if kept && !rules.contains("10.9.1.1 timeout 500ms") {
                return Ok(());
            }
            assert!(start.elapsed() < Duration::from_millis(400), "{rules}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn what_was_opened_is_removed_also_when_another_is_opened_meanwhile() {
    lab(|_net| async move {
        if !nft() {
            return Ok(());
        }
        let mut rig = Rig::start(&[]).await?;
        for generation in 1..=3 {
            rig.handle.submit(plan(1, generation, Hold::Silent));
            assert_eq!(rig.answers(1).await?, [(1, generation)]);
        }
        assert!(!tables()?.is_empty());
        // Nobody plans any more, and the owner of the addresses ends.
        rig.crash().await;
        while !tables()?.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    });
}

#[test]
fn tables_that_an_earlier_run_left_are_removed() {
    lab(|_net| async move {
        if !nft() {
            return Ok(());
        }
        let left = ["vipd_10.9.0.100_7", "vipd_fd09__100_1", "vipd_10.9.0.10_1", "mine"];
        for table in left {
            sh(&format!("nft add table netdev {table}"))?;
        }
        let rig = Rig::start(&[V4, V6]).await?;
        assert_eq!(tables()?, ["vipd_10.9.0.10_1", "mine"], "another's may be another vipd's");
        let dir = rig.crash().await;
        kernel::release_all(dir.path()).await?;
        assert_eq!(tables()?, ["mine"]);
        Ok(())
    });
}
