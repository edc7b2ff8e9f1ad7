//! Two vipd with a cluster key: what they say is sealed, and nobody else is believed.

use crate::{Case, Need};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use vipd_tests::forge::Template;
use vipd_tests::lab::record::{Recorder, replay};
use vipd_tests::lab::vipd::Vipd;
use vipd_tests::lab::{Host, Lab, advert, poll_until};
use vipd_tests::probe::EchoProbe;
use vipd_tests::scene::{Kind, PROXIES, Plan, Scene, VIP, write_key};

const VIPD: &[Need] = &[Need::Vipd];

pub(crate) const CASES: &[Case] = &[
    Case { name: "sealed::failover_and_switchover", needs: VIPD, run: failover_and_switchover },
    Case { name: "sealed::over_udp_where_vrrp_is_dropped", needs: VIPD, run: over_udp_where_vrrp_is_dropped },
    Case { name: "sealed::over_multicast", needs: VIPD, run: over_multicast },
    Case { name: "sealed::other_key_is_named", needs: VIPD, run: other_key_is_named },
    Case { name: "sealed::copies_do_no_harm", needs: VIPD, run: copies_do_no_harm },
    Case { name: "sealed::unsealed_is_refused", needs: VIPD, run: unsealed_is_refused },
    Case {
        name: "sealed::a_key_is_brought_in_host_by_host",
        needs: VIPD,
        run: a_key_is_brought_in_host_by_host,
    },
];

const PATIENCE: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);

fn key(digit: char) -> Option<String> {
    Some(digit.to_string().repeat(64))
}

/// A plan in which both proxies have the same key.
fn plan(interval: Duration) -> Plan {
    Plan { keys: [key('1'), key('1')], ..Plan::new(interval) }
}

fn is_sealed(vipd: &Vipd) -> Result<bool> {
    Ok(!vipd.status()?["peers"][0]["link"]["sealed-since"].is_null())
}

fn both_sealed(scene: &Scene) -> Result<()> {
    poll_until(
        "the link is sealed",
        PATIENCE,
        || Ok(is_sealed(scene.vipd(0)?)? && is_sealed(scene.vipd(1)?)?),
    )
}

/// How often each cause was a reason not to accept a packet.
fn refused(vipd: &Vipd, cause: &str) -> Result<u64> {
    Ok(vipd.status()?["counters"]["adverts-rejected-total"][cause].as_u64().unwrap_or(0))
}

fn nothing_was_refused(scene: &Scene) -> Result<()> {
    for proxy in [0, 1] {
        let refused = &scene.vipd(proxy)?.status()?["counters"]["adverts-rejected-total"];
        ensure!(
            refused.as_object().is_none_or(serde_json::Map::is_empty),
            "px{}: refused {refused}",
            proxy + 1
        );
    }
    Ok(())
}

/// A planned switchover and back by a crash, each as fast as without a key.
fn there_and_back(lab: &Lab, scene: &mut Scene) -> Result<()> {
    let probe = EchoProbe::start(&scene.client, Scene::echo(), MS)?;
    probe.wait_for("px1", PATIENCE)?;
    both_sealed(scene)?;
    // The next owner was prepared: over the link.
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
    // A new run is believed.
    scene.restart(1)?;
    scene.vipd(1)?.wait_for_state("backup", PATIENCE)?;
    both_sealed(scene)?;
    nothing_was_refused(scene)
}

fn failover_and_switchover(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, Kind::Vipd, plan(100 * MS))?;
    there_and_back(lab, &mut scene)
}

fn over_multicast(lab: &Lab) -> Result<()> {
    let mut plan = plan(100 * MS);
    plan.election.push("transport = \"multicast\"".to_owned());
    plan.groups[0].1.push("fd77::100/64".to_owned());
    plan.both_families = true;
    let mut scene = Scene::new(lab, Kind::Vipd, plan)?;
    there_and_back(lab, &mut scene)
}

/// As clouds do.
fn drop_vrrp(host: &Host) -> Result<()> {
    let rules = "table inet cloud {\n chain in { type filter hook input priority 0; meta l4proto 112 counter drop; }\n \
                 chain out { type filter hook output priority 0; meta l4proto 112 counter drop; }\n}\n";
    let path = host.write_file("cloud.nft", rules)?;
    host.run("nft", &["-f", &path.to_string_lossy()])?;
    Ok(())
}

fn over_udp_where_vrrp_is_dropped(lab: &Lab) -> Result<()> {
    let mut plan = plan(100 * MS);
    plan.election.push("transport = \"udp\"".to_owned());
    let mut scene = Scene::new(lab, Kind::Vipd, plan)?;
    scene.proxies.iter().try_for_each(drop_vrrp)?;
    there_and_back(lab, &mut scene)?;
    // A cut is noticed as with VRRP: the silence is that of the adverts.
    let probe = EchoProbe::start(&scene.client, Scene::echo(), MS)?;
    probe.wait_for("px1", PATIENCE)?;
    let fault = Instant::now();
    lab.cut(&scene.proxies[0])?;
    probe.wait_for("px2", PATIENCE)?;
    let gap = probe.longest_gap(fault).map_or(Duration::MAX, |g| g.length);
    ensure!(gap < 500 * MS, "no answer for {gap:?}");
    let counted = scene.proxies[1].run("nft", &["list", "table", "inet", "cloud"])?;
    let sent = counted.lines().filter(|l| l.contains("counter packets") && !l.contains("packets 0 ")).count();
    ensure!(sent == 0, "something was sent as protocol 112: {counted}");
    Ok(())
}

/// Two hosts that were given different keys: both say so, and the second does
/// not take what the first has.
fn other_key_is_named(lab: &Lab) -> Result<()> {
    let plan = Plan { keys: [key('1'), key('2')], ..Plan::new(100 * MS) };
    let mut started = vec![];
    for (n, name) in ["px1", "px2"].into_iter().enumerate() {
        let host = lab.host(name, &[&format!("{}/16", PROXIES[n])])?;
        let file = write_key(&host, plan.keys[n].as_deref().unwrap_or_default())?;
        let line = format!("[cluster]\nkey-file = {file:?}");
        started.push(Vipd::start(&host, &plan.vipd_config().replacen("[cluster]", &line, 1))?);
        lab.addresses().wait_for(Scene::vip(), &["px1"], PATIENCE)?;
    }
    for (n, other) in [(0, "px2"), (1, "px1")] {
        let said = format!("{other} speaks with another cluster key");
        poll_until("the other key is named", PATIENCE, || {
            Ok(started[n].status()?["peers"][0]["link"]["problem"] == said.as_str())
        })?;
        let why = started[n].ctl(&["why"])?;
        ensure!(why.contains(&said) && why.contains("(wrong-key)"), "{why}");
        let person = started[n].ctl(&["status"])?;
        ensure!(person.contains(&said), "{person}");
    }
    // Many times the silence after which a backup takes over.
    std::thread::sleep(2 * Duration::from_secs(1));
    lab.addresses().wait_for(Scene::vip(), &["px1"], MS)?;
    started[1].wait_for_state("backup", MS * 100)?;
    // Once the owner is really gone, the second serves.
    started[0].process().signal(Signal::SIGTERM)?;
    lab.addresses().wait_for(Scene::vip(), &["px2"], PATIENCE)?;
    Ok(())
}

/// Everything that was said is said again: the owner's adverts, its releases,
/// the crash guard's farewell, handshakes and messages.
fn copies_do_no_harm(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, Kind::Vipd, plan(100 * MS))?;
    let addresses: Vec<Ipv4Addr> = PROXIES.iter().map(|a| a.parse()).collect::<Result<_, _>>()?;
    let recorder = Recorder::start(&scene.proxies[1], &addresses)?;
    there_and_back(lab, &mut scene)?;
    poll_until("enough is recorded", PATIENCE, || Ok(recorder.packets().len() > 30))?;
    let recorded = recorder.packets();
    drop(recorder);
    let releases = recorded.iter().filter(|p| p[9] == 112 && p.get(22) == Some(&0)).count();
    ensure!(releases > 0, "of {} packets none is a release", recorded.len());
    let eve = lab.host("eve", &["10.77.0.66/16"])?;
    let hosts = [(addresses[0], &scene.proxies[0]), (addresses[1], &scene.proxies[1])];
    let attacked = Instant::now();
    for _ in 0..3 {
        replay(&eve, &recorded, &hosts)?;
    }
    poll_until("the copies were noticed", PATIENCE, || {
        Ok(refused(scene.vipd(0)?, "old-run")? > 0 && refused(scene.vipd(1)?, "replay")? > 0)
    })?;
    // A node that starts while copies come: what it hears is no owner's word.
    scene.daemons[1].process().signal(Signal::SIGTERM)?;
    scene.daemons[1].process().wait(PATIENCE)?;
    scene.restart(1)?;
    for _ in 0..10 {
        replay(&eve, &recorded, &[(addresses[0], &scene.proxies[0]), (addresses[1], &scene.proxies[1])])?;
        std::thread::sleep(50 * MS);
    }
    scene.vipd(1)?.wait_for_state("backup", PATIENCE)?;
    both_sealed(&scene)?;
    let moves = lab.addresses().changes(Scene::vip(), attacked);
    ensure!(moves.is_empty(), "copies moved the address: {moves:?}");
    scene.vipd(0)?.wait_for_peers(PATIENCE)?;
    Ok(())
}

/// Adverts that would count without a key.
fn unsealed_is_refused(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, plan(100 * MS))?;
    both_sealed(&scene)?;
    let eve = lab.host("eve", &["10.77.0.66/16"])?;
    let vip: Ipv4Addr = VIP.parse()?;
    let attacked = Instant::now();
    for (target, other, priority) in [(0, 1, 254), (1, 0, 0), (1, 0, 254)] {
        let sender = advert::Sender::new(&eve, scene.proxies[target].mac()?)?;
        let (source, destination) = (PROXIES[other].parse()?, PROXIES[target].parse()?);
        let template = Template { source, destination, vrid: 51, centiseconds: 10, addresses: &[vip] };
        let before = refused(scene.vipd(target)?, "unsealed")?;
        sender.send(&template.packet(255, &template.advert(priority)))?;
        poll_until("it is refused", PATIENCE, || Ok(refused(scene.vipd(target)?, "unsealed")? > before))?;
    }
    std::thread::sleep(500 * MS);
    let moves = lab.addresses().changes(Scene::vip(), attacked);
    ensure!(moves.is_empty(), "an advert without a seal moved the address: {moves:?}");
    let why = scene.vipd(1)?.ctl(&["why", "g51"])?;
    ensure!(why.contains("px1 speaks without a seal"), "{why}");
    Ok(())
}

/// A cluster without a key gets one without an outage: each host in its turn.
fn a_key_is_brought_in_host_by_host(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    let start = Instant::now();
    scene.plan.keys = [key('1'), key('1')];
    scene.plan.cluster.push("unsealed = \"accept\"".to_owned());
    for proxy in [1, 0] {
        let other = 1 - proxy;
        if scene.vipd(proxy)?.status()?["vips"][0]["state"] == "active" {
            let to = format!("px{}", other + 1);
            poll_until("the other is there", PATIENCE, || {
                Ok(scene.vipd(proxy)?.try_ctl(&["switchover", "--to", &to, "--yes"])?.status.success())
            })?;
        }
        scene.daemons[proxy].process().signal(Signal::SIGTERM)?;
        scene.daemons[proxy].process().wait(PATIENCE)?;
        scene.restart(proxy)?;
        scene.vipd(proxy)?.wait_for_state("backup", PATIENCE)?;
    }
    both_sealed(&scene)?;
    // Now that both have it, nothing else counts.
    for vipd in [scene.vipd(0)?, scene.vipd(1)?] {
        let path = vipd.host().dir().join("vipd.toml");
        let text = std::fs::read_to_string(lab.outside(&path))?.replace("unsealed = \"accept\"", "");
        vipd.host().write_file("vipd.toml", &text)?;
        vipd.ctl(&["reload"])?;
    }
    let twice = lab.addresses().changes(Scene::vip(), start);
    scene.vipd(0)?.wait_for_state("backup", PATIENCE)?;
    scene.vipd(1)?.wait_for_state("active", PATIENCE)?;
    ensure!(!twice.is_empty(), "the address never moved");
    nothing_was_refused(&scene)
}
