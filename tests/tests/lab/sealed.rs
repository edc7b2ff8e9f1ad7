//! Two vipd with a cluster key: what they say is sealed, and nobody else is believed.

use crate::{Case, Need};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use vipd_tests::lab::{Lab, poll_until};
use vipd_tests::probe::EchoProbe;
use vipd_tests::scene::{Kind, Plan, Scene};

const VIPD: &[Need] = &[Need::Vipd];

pub(crate) const CASES: &[Case] =
    &[Case { name: "sealed::failover_and_switchover", needs: VIPD, run: failover_and_switchover }];

const PATIENCE: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);

fn key(digit: char) -> Option<String> {
    Some(digit.to_string().repeat(64))
}

/// A plan in which both proxies have the same key.
fn plan(interval: Duration) -> Plan {
    Plan { keys: [key('1'), key('1')], ..Plan::new(interval) }
}

fn is_sealed(scene: &Scene, proxy: usize) -> Result<bool> {
    Ok(!scene.vipd(proxy)?.status()?["peers"][0]["link"]["sealed-since"].is_null())
}

fn failover_and_switchover(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, Kind::Vipd, plan(100 * MS))?;
    let probe = EchoProbe::start(&scene.client, Scene::echo(), MS)?;
    probe.wait_for("px1", PATIENCE)?;
    ensure!(is_sealed(&scene, 0)? && is_sealed(&scene, 1)?, "the link is not sealed");
    // The backup's copy of each advert was believed, and the switchover's words.
    let planned = Instant::now();
    scene.vipd(0)?.ctl(&["switchover", "--to", "px2", "--yes"])?;
    probe.wait_for("px2", PATIENCE)?;
    let gap = probe.longest_gap(planned).map_or(Duration::MAX, |g| g.length);
    ensure!(gap < 50 * MS, "no answer for {gap:?} in a planned switchover");
    // The guard's farewell was sealed beforehand.
    let fault = Instant::now();
    scene.daemons[1].process().signal(Signal::SIGKILL)?;
    probe.wait_for("px1", PATIENCE)?;
    let gap = probe.longest_gap(fault).map_or(Duration::MAX, |g| g.length);
    ensure!(gap < 150 * MS, "no answer for {gap:?} after SIGKILL: the guard was not believed");
    lab.addresses().wait_for(Scene::vip(), &["px1"], PATIENCE)?;
    // A new run is believed, and only that.
    scene.restart(1)?;
    scene.vipd(1)?.wait_for_state("backup", PATIENCE)?;
    poll_until("the link is sealed again", PATIENCE, || Ok(is_sealed(&scene, 0)? && is_sealed(&scene, 1)?))?;
    for proxy in [0, 1] {
        let refused = &scene.vipd(proxy)?.status()?["counters"]["adverts-rejected-total"];
        ensure!(refused.as_object().is_none_or(serde_json::Map::is_empty), "refused: {refused}");
    }
    Ok(())
}
