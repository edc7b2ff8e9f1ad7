//! Whose a floating address is on the link: duplicates, spoofers, and the
//! proof after a takeover.

use crate::{Case, Need};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use vipd_tests::lab::arp::{ArpWatch, Claimer};
use vipd_tests::lab::{Host, Lab, poll_until};
use vipd_tests::probe::EchoProbe;
use vipd_tests::scene::{Kind, Plan, Scene, VIP};

const VIPD: &[Need] = &[Need::Vipd];

pub(crate) const CASES: &[Case] = &[
    Case { name: "neighbours::a_spoofer_is_named_and_takes_nothing", needs: VIPD, run: spoofer },
    Case { name: "neighbours::a_host_with_the_same_address_is_named", needs: VIPD, run: same_address },
    Case { name: "neighbours::backups_prove_a_takeover", needs: VIPD, run: proof },
    Case { name: "neighbours::a_backup_sees_who_answers_instead", needs: VIPD, run: answers_instead },
    Case { name: "neighbours::no_advert_one_way_is_named", needs: VIPD, run: one_way },
];

const PATIENCE: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const VIP6: &str = "fd77::100";

/// Two vipd with a floating address of each family, in one group.
fn both_families(lab: &Lab) -> Result<Scene> {
    let mut plan = Plan::new(100 * MS);
    plan.groups[0].1.push(format!("{VIP6}/64"));
    plan.both_families = true;
    Scene::new(lab, Kind::Vipd, plan)
}

fn vips() -> Result<[IpAddr; 2]> {
    Ok([VIP.parse()?, VIP6.parse()?])
}

fn show(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

fn vip(scene: &Scene, proxy: usize) -> Result<Value> {
    Ok(scene.vipd(proxy)?.status()?["vips"][0].clone())
}

/// Gratuitous ARP and neighbour advertisements from a third host, as fast as it can.
fn spoofer(lab: &Lab) -> Result<()> {
    let scene = both_families(lab)?;
    let stranger = lab.host("stranger", &["10.77.0.66/16", "fd77::66/64"])?;
    let probe = EchoProbe::start(&scene.client, Scene::echo(), MS)?;
    probe.wait_for("px1", PATIENCE)?;
    let mac = show(stranger.mac()?);
    let watch = ArpWatch::start(&scene.client, &[], SECOND)?;
    for address in vips()? {
        let attacked = Instant::now();
        let claimer = Claimer::new(&stranger, address)?;
        poll_until("it is named", PATIENCE, || {
            claimer.claim()?;
            let why = scene.vipd(0)?.ctl(&["why", "g51"])?;
            Ok(why.contains(&format!("another host ({mac}) claims {address}, too")))
        })?;
        // For longer than any detection, and then an advert's worth of time.
        let until = Instant::now() + 3 * SECOND;
        while Instant::now() < until {
            claimer.claim()?;
            std::thread::sleep(MS);
        }
        let moves = lab.addresses().changes(address, attacked);
        ensure!(moves.is_empty(), "a spoofer moved {address}: {moves:?}");
        let own = scene.proxies[0].mac()?;
        let answers = watch.sightings(address, attacked).iter().filter(|s| s.mac == own).count();
        // Two frames a second for IPv4, one for IPv6; and what it says by itself.
        ensure!((2..40).contains(&answers), "{answers} announcements against the spoofer of {address}");
    }
    scene.vipd(0)?.wait_for_state("active", SECOND)?;
    scene.vipd(1)?.wait_for_state("backup", SECOND)?;
    let status = vip(&scene, 0)?;
    let conflict = &status["conflicts"][0];
    ensure!(conflict["mac"] == mac && conflict["address"] == VIP6, "{status}");
    ensure!(status["claims-total"].as_u64().is_some_and(|n| n > 10), "{status}");
    let person = scene.vipd(0)?.ctl(&["status"])?;
    ensure!(person.contains(&format!("Duplicate in g51: {mac} claims")), "{person}");
    let events = scene.vipd(0)?.ctl(&["events"])?;
    ensure!(events.matches("claims 10.77.0.100, too").count() == 1, "told once a minute: {events}");
    Ok(())
}

/// A host that was given the address by hand, and uses it.
fn same_address(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    let stranger = lab.host("stranger", &["10.77.0.66/16"])?;
    let mac = show(stranger.mac()?);
    stranger.run("ip", &["addr", "add", &format!("{VIP}/16"), "dev", "eth0"])?;
    // Whoever asks from the address claims it.
    let asks = || stranger.run("ip", &["neigh", "flush", "all"]).and_then(|_| ask_from(&stranger, VIP));
    poll_until("it is named", PATIENCE, || {
        asks()?;
        Ok(scene.vipd(0)?.ctl(&["why", "g51"])?.contains(&format!("another host ({mac}) claims {VIP}")))
    })?;
    scene.vipd(0)?.wait_for_state("active", SECOND)?;
    Ok(())
}

/// Makes the kernel ask for a neighbour from an address of the host.
fn ask_from(host: &Host, source: &str) -> Result<()> {
    let source = source.to_owned();
    host.inside(move || {
        let socket = std::net::UdpSocket::bind((source.as_str(), 0)).context("bind")?;
        socket.send_to(&[], ("10.77.0.50", 9)).context("send")?;
        Ok(())
    })
}

/// After a switchover, and after a crash: the backup asks, and the owner shows it.
fn proof(lab: &Lab) -> Result<()> {
    let mut scene = both_families(lab)?;
    for (owner, how) in [(0, "start"), (1, "switchover"), (0, "crash")] {
        match how {
            "start" => {}
            "switchover" => drop(scene.vipd(0)?.ctl(&["switchover", "--to", "px2", "--yes"])?),
            _ => {
                scene.daemons[1].process().signal(Signal::SIGKILL)?;
                scene.daemons[1].process().wait(PATIENCE)?;
                scene.vipd(0)?.wait_for_state("active", PATIENCE)?;
                scene.restart(1)?;
            }
        }
        let backup = 1 - owner;
        let seen = format!("px{} sees this node answer", backup + 1);
        poll_until(&format!("px{} is proven after {how}", owner + 1), PATIENCE, || {
            Ok(scene.vipd(owner)?.ctl(&["why", "g51"])?.contains(&seen))
        })?;
        let status = vip(&scene, owner)?;
        let proof = &status["proofs"][0];
        ensure!(proof["sees"] == "owner" && proof["seer"] == format!("px{}", backup + 1), "{status}");
        let took = proof["took-us"].as_u64().context("no time")?;
        ensure!(took < 1_000_000, "the link took {took} us to follow after {how}");
        let there = scene.vipd(backup)?.ctl(&["why", "g51"])?;
        ensure!(there.contains(&format!("px{} answers for its addresses", owner + 1)), "{there}");
        ensure!(status["conflicts"].is_null() && status["claims-total"] == 0, "{status}");
    }
    Ok(())
}

/// A host answers for the address beside its owner: the backup's question finds it.
fn answers_instead(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    let stranger = lab.host("stranger", &["10.77.0.66/16"])?;
    let mac = show(stranger.mac()?);
    stranger.run("ip", &["addr", "add", &format!("{VIP}/32"), "dev", "lo"])?;
    scene.vipd(0)?.ctl(&["switchover", "--to", "px2", "--yes"])?;
    poll_until("the owner is told", PATIENCE, || {
        let why = scene.vipd(1)?.ctl(&["why", "g51"])?;
        Ok(why.contains(&format!("px1 sees another host ({mac}) answer for {VIP}")))
    })?;
    let there = scene.vipd(0)?.ctl(&["why", "g51"])?;
    ensure!(there.contains(&format!("another host ({mac}) answers for {VIP}")), "{there}");
    ensure!(vip(&scene, 1)?["proofs"][0]["sees"] == "other", "{}", vip(&scene, 1)?);
    scene.vipd(1)?.wait_for_state("active", SECOND)?;
    Ok(())
}

/// Adverts and hellos of px1 do not reach px2, those of px2 reach px1.
fn one_way(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    lab.one_way(&scene.proxies[0], &scene.proxies[1])?;
    poll_until("px1 says that px2 does not hear it", PATIENCE, || {
        Ok(scene.vipd(0)?.ctl(&["why", "g51"])?.contains("px2 does not hear this node, which hears px2"))
    })?;
    ensure!(scene.vipd(0)?.status()?["peers"][0]["hears-this"] == false);
    lab.heal()?;
    poll_until("it is over", PATIENCE, || Ok(scene.vipd(0)?.status()?["peers"][0]["hears-this"] == true))?;
    lab.addresses().wait_for_one(Scene::vip(), PATIENCE)?;
    Ok(())
}
