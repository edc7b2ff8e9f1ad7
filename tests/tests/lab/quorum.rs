//! Two vipd and a witness: never two owners, whatever is cut.

use crate::{Case, Need};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use vipd_tests::lab::vipd::Vipd;
use vipd_tests::lab::{Host, Lab, poll_until};
use vipd_tests::probe::EchoProbe;
use vipd_tests::scene::{Kind, Plan, Scene, write_key};

const VIPD: &[Need] = &[Need::Vipd];

pub(crate) const CASES: &[Case] = &[
    Case { name: "quorum::an_owner_that_is_cut_off_withdraws_first", needs: VIPD, run: cut_off },
    Case { name: "quorum::nobody_owns_without_a_majority", needs: VIPD, run: no_majority },
    Case { name: "quorum::a_frozen_owner_loses_the_address_first", needs: VIPD, run: frozen },
    Case { name: "quorum::a_deleted_address_is_put_back_at_fast_adverts", needs: VIPD, run: deleted },
    Case { name: "quorum::crash_and_switchover_cost_no_lease", needs: VIPD, run: crash_and_switchover },
    Case { name: "quorum::a_witness_with_another_file_is_named", needs: VIPD, run: another_file },
    Case { name: "quorum::a_witness_is_small", needs: VIPD, run: a_witness_is_small },
];

const PATIENCE: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);

struct Three {
    scene: Scene,
    witness: Host,
    voter: Vipd,
    /// The witness's.
    file: String,
    probe: EchoProbe,
}

/// `px1` owns, `px2` and `w1` vote for it.
fn three(lab: &Lab, interval: Duration) -> Result<Three> {
    let key = "1".repeat(64);
    let plan = Plan {
        keys: [Some(key.clone()), Some(key.clone())],
        cluster: vec!["witnesses = [{ name = \"w1\", address = \"10.77.0.13\" }]".to_owned()],
        election: vec!["quorum = \"majority\"".to_owned()],
        ..Plan::new(interval)
    };
    let witness = lab.host("w1", &["10.77.0.13/16"])?;
    let line = format!("[cluster]\nkey-file = {:?}", write_key(&witness, &key)?);
    let file = plan.vipd_config().replacen("[cluster]", &line, 1);
    let voter = Vipd::start(&witness, &file)?;
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let probe = EchoProbe::start(&scene.client, Scene::echo(), MS)?;
    probe.wait_for("px1", PATIENCE)?;
    Ok(Three { scene, witness, voter, file, probe })
}

fn never_two(lab: &Lab, since: Instant) -> Result<()> {
    let overlap = lab.addresses().overlap(Scene::vip(), since);
    ensure!(overlap.is_zero(), "two hosts held the address for {overlap:?}");
    Ok(())
}

fn cut_off(lab: &Lab) -> Result<()> {
    let three = three(lab, 100 * MS)?;
    let [px1, px2] = &three.scene.proxies;
    let fault = Instant::now();
    lab.partition(px1, px2)?;
    lab.partition(px1, &three.witness)?;
    lab.addresses().wait_for(Scene::vip(), &["px2"], PATIENCE)?;
    never_two(lab, fault)?;
    poll_until("px1 says why", PATIENCE, || Ok(three.scene.vipd(0)?.ctl(&["why"])?.contains("no majority")))?;
    let healed = Instant::now();
    lab.heal()?;
    poll_until("px1 follows px2", PATIENCE, || {
        Ok(three.scene.vipd(0)?.status()?["vips"][0]["owner"] == "px2")
    })?;
    never_two(lab, healed)
}

fn no_majority(lab: &Lab) -> Result<()> {
    let three = three(lab, 100 * MS)?;
    let [px1, px2] = &three.scene.proxies;
    lab.partition(px1, px2)?;
    lab.partition(px1, &three.witness)?;
    lab.partition(px2, &three.witness)?;
    lab.addresses().wait_for(Scene::vip(), &[], PATIENCE)?;
    poll_until("px1 says why", PATIENCE, || {
        let why = three.scene.vipd(0)?.ctl(&["why"])?;
        Ok(why.contains("no majority") && why.contains("px2 silent") && why.contains("w1 silent"))
    })?;
    lab.heal()?;
    lab.addresses().wait_for_one(Scene::vip(), PATIENCE)?;
    Ok(())
}

fn frozen(lab: &Lab) -> Result<()> {
    // A lease well below the kernel's second: it is the guard that is tested.
    let three = three(lab, 50 * MS)?;
    // px2 has just started, and votes only when a former run's promises must be over.
    std::thread::sleep(500 * MS);
    let fault = Instant::now();
    let daemon = three.scene.daemons[0].process();
    daemon.signal(Signal::SIGSTOP)?;
    lab.addresses().wait_for(Scene::vip(), &["px2"], PATIENCE)?;
    never_two(lab, fault)?;
    daemon.signal(Signal::SIGCONT)?;
    poll_until("px1 follows px2", PATIENCE, || {
        Ok(three.scene.vipd(0)?.status()?["vips"][0]["owner"] == "px2")
    })?;
    never_two(lab, fault)?;
    let gap = three.probe.longest_gap(fault).map_or(Duration::MAX, |g| g.length);
    ensure!(gap < 500 * MS, "no answer for {gap:?}: the kernel's second was waited for");
    Ok(())
}

/// A lease of 150 ms, of which plans tell each 300 ms: of ten who delete the
/// address some do so when the last plan's is over. The simulation has shorter
/// ones, which a machine with other work does not keep up with.
fn deleted(lab: &Lab) -> Result<()> {
    let three = three(lab, 50 * MS)?;
    let [px1, _] = &three.scene.proxies;
    for _ in 0..10 {
        // At whatever time between two renewals.
        std::thread::sleep(130 * MS);
        let fault = Instant::now();
        px1.run("ip", &["address", "delete", &format!("{}/16", Scene::vip()), "dev", "eth0"])?;
        three.probe.wait_for("px1", PATIENCE)?;
        let gap = three.probe.longest_gap(fault).map_or(Duration::ZERO, |g| g.length);
        ensure!(gap < 300 * MS, "no answer for {gap:?} after the address was deleted");
        let vip = three.scene.vipd(0)?.status()?["vips"][0].clone();
        ensure!(vip["state"] == "active", "{vip}");
    }
    Ok(())
}

fn crash_and_switchover(lab: &Lab) -> Result<()> {
    // A lease of three seconds: whoever waits for its end is seen.
    let three = three(lab, 1000 * MS)?;
    poll_until(
        "px2 votes",
        PATIENCE,
        || Ok(three.scene.vipd(1)?.status()?["peers"][0]["state"] == "active"),
    )?;
    // It has just started, and votes only when a former run's promises must be over.
    std::thread::sleep(4000 * MS);
    let planned = Instant::now();
    three.scene.vipd(0)?.ctl(&["switchover", "--to", "px2", "--yes"])?;
    three.probe.wait_for("px2", PATIENCE)?;
    let gap = three.probe.longest_gap(planned).map_or(Duration::MAX, |g| g.length);
    ensure!(gap < 100 * MS, "no answer for {gap:?} in a planned switchover");
    let fault = Instant::now();
    three.scene.daemons[1].process().signal(Signal::SIGKILL)?;
    three.probe.wait_for("px1", PATIENCE)?;
    let gap = three.probe.longest_gap(fault).map_or(Duration::MAX, |g| g.length);
    ensure!(gap < 300 * MS, "no answer for {gap:?} after SIGKILL: the lease was waited for");
    Ok(())
}

/// A witness that was started with an older file, of faster adverts: it would
/// forget, with a crash, what it promised for longer than that says.
fn another_file(lab: &Lab) -> Result<()> {
    let mut three = three(lab, 100 * MS)?;
    three.voter.process().signal(Signal::SIGTERM)?;
    three.voter.process().wait(PATIENCE)?;
    ensure!(three.file.contains("\"100ms\""), "{}", three.file);
    three.voter = Vipd::start(&three.witness, &three.file.replace("\"100ms\"", "\"50ms\""))?;
    poll_until("the witness's file is compared", PATIENCE, || {
        let w1 = three.scene.vipd(0)?.status()?["witnesses"][0].clone();
        Ok(w1["config-match"] == false
            && w1["config-differs"] == serde_json::json!(["election.advert-interval"]))
    })?;
    let shown = three.scene.vipd(0)?.ctl(&["status"])?;
    ensure!(shown.contains("differs: election.advert-interval"), "{shown}");
    // Its promise is not to be had: with px2 away there is no majority.
    let [px1, px2] = &three.scene.proxies;
    lab.partition(px1, px2)?;
    lab.addresses().wait_for(Scene::vip(), &[], PATIENCE)?;
    lab.heal()?;
    lab.addresses().wait_for_one(Scene::vip(), PATIENCE)?;
    Ok(())
}

fn a_witness_is_small(lab: &Lab) -> Result<()> {
    let three = three(lab, 50 * MS)?;
    std::thread::sleep(1000 * MS);
    let status = std::fs::read_to_string(format!("/proc/{}/status", three.voter.process().pid()))?;
    let field = |name: &str| -> Option<u64> {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name))?
            .trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    // What is its own; the program's text is shared with whoever runs it, and may be paged out.
    let own = field("RssAnon");
    ensure!(own.is_some_and(|kb| kb < 5000), "a witness takes {own:?} kB\n{status}");
    Ok(())
}
