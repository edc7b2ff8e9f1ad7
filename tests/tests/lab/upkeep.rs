//! What vipd does to stay right: addresses put back and cleared away, reloads,
//! and adverts that are none.

use crate::{Case, Need};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use vipd_tests::forge::Template;
use vipd_tests::lab::arp::ArpWatch;
use vipd_tests::lab::vipd::Vipd;
use vipd_tests::lab::{Lab, advert, poll_until};
use vipd_tests::probe::EchoProbe;
use vipd_tests::scene::{Kind, PROXIES, Plan, Scene, VIP};

const VIPD: &[Need] = &[Need::Vipd];

pub(crate) const CASES: &[Case] = &[
    Case { name: "upkeep::deleted_vip_is_back", needs: VIPD, run: deleted_vip_is_back },
    Case { name: "upkeep::new_mac_is_announced", needs: VIPD, run: new_mac_is_announced },
    Case { name: "upkeep::start_clears_what_is_left", needs: VIPD, run: start_clears_what_is_left },
    Case { name: "upkeep::stop_leaves_no_vip", needs: VIPD, run: stop_leaves_no_vip },
    Case { name: "upkeep::reload_touches_only_the_change", needs: VIPD, run: reload_touches_only_the_change },
    Case { name: "upkeep::reload_moves_an_address", needs: VIPD, run: reload_moves_an_address },
    Case { name: "upkeep::reload_of_the_interval", needs: VIPD, run: reload_of_the_interval },
    Case { name: "upkeep::reload_of_the_number", needs: VIPD, run: reload_of_the_number },
    Case { name: "upkeep::version_changes_host_by_host", needs: VIPD, run: version_changes_host_by_host },
    Case { name: "upkeep::stray_vip_is_evicted", needs: VIPD, run: stray_vip_is_evicted },
    Case { name: "upkeep::dropped_vip_is_the_hosts_own", needs: VIPD, run: dropped_vip_is_the_hosts_own },
    Case { name: "upkeep::bad_reload_changes_nothing", needs: VIPD, run: bad_reload_changes_nothing },
    Case { name: "upkeep::bad_adverts_change_nothing", needs: VIPD, run: bad_adverts_change_nothing },
    Case { name: "upkeep::status_has_the_shape", needs: VIPD, run: status_has_the_shape },
    Case { name: "upkeep::bad_file_refuses_start", needs: VIPD, run: bad_file_refuses_start },
];

const PATIENCE: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn deleted_vip_is_back(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    for _ in 0..5 {
        let deleted = Instant::now();
        scene.proxies[0].run("ip", &["addr", "del", &format!("{VIP}/16"), "dev", "eth0"])?;
        poll_until("the address went and came back", PATIENCE, || {
            Ok(lab.addresses().changes(Scene::vip(), deleted).len() >= 2)
        })?;
        let changes = lab.addresses().changes(Scene::vip(), deleted);
        let away = changes[1].at.saturating_duration_since(changes[0].at);
        ensure!(changes.iter().all(|c| &*c.host == "px1"), "{changes:?}");
        ensure!(away < 50 * MS, "the address was away for {away:?}");
    }
    Ok(())
}

/// Clients know the new Ethernet address of the owner's interface at once.
fn new_mac_is_announced(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    let watch = ArpWatch::start(&scene.client, &[], SECOND)?;
    let changed = Instant::now();
    let mac = [2, 0, 0, 0, 0x77, 0x11];
    scene.proxies[0].run("ip", &["link", "set", "eth0", "address", "02:00:00:00:77:11"])?;
    let burst = || watch.sightings(Scene::vip(), changed).iter().filter(|s| s.mac == mac).count();
    // Both forms, at once and three times more in the first half second.
    poll_until("the new Ethernet address is announced", SECOND, || Ok(burst() >= 6))?;
    Ok(())
}

/// An address that an earlier run left behind goes when vipd starts as backup.
fn start_clears_what_is_left(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    let second = scene.daemons[1].process();
    second.signal_tree(Signal::SIGKILL)?;
    second.wait(PATIENCE)?;
    let address = format!("{VIP}/16");
    scene.proxies[1].run("ip", &["addr", "add", &address, "dev", "eth0"])?;
    lab.addresses().wait_for(Scene::vip(), &["px1", "px2"], PATIENCE)?;
    scene.restart(1)?;
    scene.vipd(1)?.wait_for_state("backup", PATIENCE)?;
    lab.addresses().wait_for(Scene::vip(), &["px1"], SECOND)?;
    Ok(())
}

fn stop_leaves_no_vip(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    for (number, left) in [(1, vec!["px1"]), (0, vec![])] {
        let process = scene.daemons[number].process();
        process.signal(Signal::SIGTERM)?;
        process.wait(PATIENCE)?;
        lab.addresses().wait_for(Scene::vip(), &left, SECOND)?;
        lab.addresses().wait_for_silence_to_end(Scene::vip(), SECOND)?;
    }
    Ok(())
}

fn reload_touches_only_the_change(lab: &Lab) -> Result<()> {
    let mut plan = Plan::new(100 * MS);
    plan.groups.push((52, vec!["10.77.0.101/16".to_owned()]));
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let probe = EchoProbe::start(&scene.client, Scene::echo(), MS)?;
    probe.wait_for("px1", PATIENCE)?;
    let reloaded = Instant::now();
    let mut changed = scene.plan.clone();
    changed.groups[1].1 = vec!["10.77.0.102/16".to_owned()];
    for number in [0, 1] {
        scene.proxies[number].write_file("vipd.toml", &changed.vipd_config())?;
        scene.vipd(number)?.ctl(&["reload"])?;
    }
    lab.addresses().wait_for("10.77.0.102".parse()?, &["px1"], PATIENCE)?;
    lab.addresses().wait_for("10.77.0.101".parse()?, &[], PATIENCE)?;
    let moves = lab.addresses().changes(Scene::vip(), reloaded);
    ensure!(moves.is_empty(), "the group that did not change moved: {moves:?}");
    let gap = probe.longest_gap(reloaded).context("no answer")?;
    ensure!(gap.length < 50 * MS, "the reload cost {:?}", gap.length);
    Ok(())
}

/// A reload moves an address to a group that the other node owns: it is never
/// on both, whichever is told first, and what waits says why.
fn reload_moves_an_address(lab: &Lab) -> Result<()> {
    let moving: Ipv4Addr = "10.77.0.150".parse()?;
    let mut plan = Plan::new(100 * MS);
    plan.groups[0].1.push(format!("{moving}/16"));
    plan.groups.push((52, vec!["10.77.0.101/16".to_owned()]));
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    scene.vipd(1)?.wait_for_state("backup", PATIENCE)?;
    let groups = scene.vipd(0)?.status()?["vips"].as_array().cloned().unwrap_or_default();
    let second = groups[1]["name"].as_str().context("no name")?.to_owned();
    scene.vipd(0)?.ctl(&["switchover", &second, "--yes"])?;
    lab.addresses().wait_for("10.77.0.101".parse()?, &["px2"], PATIENCE)?;
    lab.addresses().wait_for(moving.into(), &["px1"], PATIENCE)?;
    let began = Instant::now();
    let here = scene.plan.clone();
    let mut there = here.clone();
    let address = there.groups[0].1.pop().context("no address")?;
    there.groups[1].1.push(address);
    let reload = |number: usize, plan: &Plan| -> Result<()> {
        scene.proxies[number].write_file("vipd.toml", &plan.vipd_config())?;
        scene.vipd(number)?.ctl(&["reload"]).map(drop)
    };
    // Who is to have it is told first, and waits for longer than a detection.
    reload(1, &there)?;
    let why = scene.vipd(1)?.ctl(&["why", &second])?;
    ensure!(why.contains("10.77.0.150 is withheld here: px1"), "{why}");
    std::thread::sleep(SECOND);
    lab.addresses().wait_for(moving.into(), &["px1"], Duration::ZERO)?;
    reload(0, &there)?;
    lab.addresses().wait_for(moving.into(), &["px2"], SECOND)?;
    let why = scene.vipd(1)?.ctl(&["why", &second])?;
    ensure!(!why.contains("withheld"), "{why}");
    // And back, the present owner first: nobody has it, and then the other.
    reload(1, &here)?;
    lab.addresses().wait_for(moving.into(), &[], SECOND)?;
    reload(0, &here)?;
    lab.addresses().wait_for(moving.into(), &["px1"], SECOND)?;
    // Told first, and a node that starts while the other has the old file.
    reload(1, &there)?;
    reload(0, &there)?;
    lab.addresses().wait_for(moving.into(), &["px2"], SECOND)?;
    let both = lab.addresses().overlap(moving.into(), began);
    ensure!(both.is_zero(), "two held it for {both:?}");
    Ok(())
}

/// A virtual router gets another number, the owner's first: it hands over to the
/// node that has the old one still, and takes the address back when that is told, too.
fn reload_of_the_number(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    let probe = EchoProbe::start(&scene.client, Scene::echo(), MS)?;
    probe.wait_for("px1", PATIENCE)?;
    let began = Instant::now();
    let mut changed = scene.plan.clone();
    changed.groups[0].0 = 61;
    for (number, then) in [(0, "px2"), (1, "px1")] {
        scene.proxies[number].write_file("vipd.toml", &changed.vipd_config())?;
        scene.vipd(number)?.ctl(&["reload"])?;
        probe.wait_for(then, PATIENCE)?;
        // Longer than the first takes to let go, and then to listen.
        std::thread::sleep(2 * SECOND);
        lab.addresses().wait_for(Scene::vip(), &[then], Duration::ZERO)?;
    }
    let both = lab.addresses().overlap(Scene::vip(), began);
    ensure!(both.is_zero(), "two held it for {both:?}");
    let gap = probe.longest_gap(began).context("no answer")?;
    ensure!(gap.length < 200 * MS, "the new number cost {:?}", gap.length);
    Ok(())
}

/// An owner that is told a shorter interval goes on owning.
fn reload_of_the_interval(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(SECOND))?;
    let reloaded = Instant::now();
    for interval in [100 * MS, 20 * MS, SECOND, 2 * SECOND] {
        let changed = Plan { interval, ..scene.plan.clone() };
        for number in [0, 1] {
            scene.proxies[number].write_file("vipd.toml", &changed.vipd_config())?;
            scene.vipd(number)?.ctl(&["reload"])?;
        }
        // Any doubt about who owns would show within a few intervals, and a lease that
        // is not renewed within a few seconds.
        std::thread::sleep(3 * SECOND);
    }
    let moves = lab.addresses().changes(Scene::vip(), reloaded);
    ensure!(moves.is_empty(), "{moves:?}");
    Ok(())
}

/// As docs/migration.md says: from version 2 to 3, to other intervals, and back, by
/// restarts of one host after the other.
fn version_changes_host_by_host(lab: &Lab) -> Result<()> {
    let in_version = |version: u8, interval| Plan {
        election: vec![format!("vrrp-version = {version}")],
        ..Plan::new(interval)
    };
    let mut scene = Scene::new(lab, Kind::Vipd, in_version(2, SECOND))?;
    lab.addresses().wait_for(Scene::vip(), &["px1"], PATIENCE)?;
    for plan in [in_version(3, 100 * MS), in_version(2, 2 * SECOND)] {
        scene.plan = plan;
        for (host, other) in [(0, "px2"), (1, "px1")] {
            let process = scene.daemons[host].process();
            process.signal(Signal::SIGTERM)?;
            process.wait(PATIENCE)?;
            lab.addresses().wait_for(Scene::vip(), &[other], PATIENCE)?;
            scene.restart(host)?;
            // Longer than a detection by either's interval: by the shorter one the node
            // that starts would have taken the owner for silent.
            std::thread::sleep(8 * SECOND);
            let holders = lab.addresses().holders(Scene::vip());
            ensure!(holders == [other], "{holders:?} with {:?}", scene.plan.election);
        }
    }
    Ok(())
}

/// A VIP that somebody puts on the backup goes again: two would answer for it.
fn stray_vip_is_evicted(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    let added = Instant::now();
    scene.proxies[1].run("ip", &["addr", "add", &format!("{VIP}/16"), "dev", "eth0"])?;
    poll_until("the address came to px2 and went", PATIENCE, || {
        Ok(lab.addresses().changes(Scene::vip(), added).len() >= 2)
    })?;
    lab.addresses().wait_for(Scene::vip(), &["px1"], SECOND)?;
    let stray = lab.addresses().overlap(Scene::vip(), added);
    ensure!(stray < 50 * MS, "two held it for {stray:?}");
    Ok(())
}

/// What a reload drops may be given to the host as any other address.
fn dropped_vip_is_the_hosts_own(lab: &Lab) -> Result<()> {
    let mut plan = Plan::new(100 * MS);
    plan.groups.push((52, vec!["10.77.0.101/16".to_owned()]));
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let dropped = "10.77.0.101".parse()?;
    lab.addresses().wait_for(dropped, &["px1"], PATIENCE)?;
    let mut changed = scene.plan.clone();
    changed.groups.truncate(1);
    for number in [0, 1] {
        scene.proxies[number].write_file("vipd.toml", &changed.vipd_config())?;
        scene.vipd(number)?.ctl(&["reload"])?;
    }
    lab.addresses().wait_for(dropped, &[], PATIENCE)?;
    lab.addresses().wait_for_silence_to_end(dropped, PATIENCE)?;
    // The groups are forgotten once the kernel has answered for them.
    poll_until("the address stays", PATIENCE, || {
        let _ = scene.proxies[1].run("ip", &["addr", "add", "10.77.0.101/16", "dev", "eth0"]);
        let added = Instant::now();
        std::thread::sleep(100 * MS);
        Ok(lab.addresses().changes(dropped, added).iter().all(|c| c.present)
            && lab.addresses().holders(dropped) == ["px2"])
    })
}

fn bad_reload_changes_nothing(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    let reloaded = Instant::now();
    let broken = scene.plan.vipd_config().replace("advert-interval", "advert-intervall");
    scene.proxies[0].write_file("vipd.toml", &broken)?;
    let answer = scene.vipd(0)?.try_ctl(&["reload"])?;
    ensure!(answer.status.code() == Some(1), "a broken file is taken: {answer:?}");
    let said =
        String::from_utf8_lossy(&answer.stderr).into_owned() + &String::from_utf8_lossy(&answer.stdout);
    ensure!(said.contains("vipd.toml:") && said.contains("advert-interval"), "no help in: {said}");
    scene.vipd(0)?.wait_for_state("active", PATIENCE)?;
    let moves = lab.addresses().changes(Scene::vip(), reloaded);
    ensure!(moves.is_empty(), "{moves:?}");
    Ok(())
}

/// Malformed, truncated, forged: counted, told, and without any effect.
fn bad_adverts_change_nothing(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    let stranger = lab.host("stranger", &["10.77.0.66/16"])?;
    let vip: Ipv4Addr = VIP.parse()?;
    let addresses = [vip];
    for (target, other) in [(0, 1), (1, 0)] {
        let sender = advert::Sender::new(&stranger, scene.proxies[target].mac()?)?;
        let template = Template {
            source: PROXIES[other].parse()?,
            destination: PROXIES[target].parse()?,
            vrid: 51,
            centiseconds: 10,
            addresses: &addresses,
        };
        let mut packets = template.bad();
        // Sound adverts, but of a stranger's cluster: with its addresses, and with ours.
        let elsewhere = [Ipv4Addr::new(10, 77, 0, 200)];
        for (name, theirs) in [("another cluster", &elsewhere), ("another cluster, our address", &addresses)]
        {
            let foreign = Template { source: [10, 77, 0, 66].into(), addresses: theirs, ..template };
            for priority in [254, 0] {
                packets.push((name, foreign.packet(255, &foreign.advert(priority))));
            }
        }
        for (name, packet) in packets {
            let attacked = Instant::now();
            sender.send(&packet)?;
            // Longer than the skew after a farewell: the soonest effect of one.
            std::thread::sleep(60 * MS);
            let moves = lab.addresses().changes(Scene::vip(), attacked);
            ensure!(moves.is_empty(), "'{name}' sent to px{} moved the address: {moves:?}", target + 1);
        }
    }
    scene.vipd(0)?.wait_for_state("active", SECOND)?;
    scene.vipd(1)?.wait_for_state("backup", SECOND)?;
    for number in [0, 1] {
        let why = scene.vipd(number)?.ctl(&["why", "g51"])?;
        let told = ["checksum", "TTL"].iter().all(|cause| why.to_lowercase().contains(&cause.to_lowercase()));
        ensure!(told && why.contains("10.77.0.66"), "the bad adverts are not told of: {why}");
    }
    Ok(())
}

fn status_has_the_shape(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    let status = scene.vipd(0)?.status()?;
    ensure!(status["cluster"] == "lab" && status["node"] == "px1", "{status}");
    ensure!(status["version"].is_string(), "{status}");
    let vip = &status["vips"][0];
    ensure!(vip["name"] == "g51" && vip["state"] == "active" && vip["owner"] == "px1", "{status}");
    ensure!(vip["addresses"][0] == format!("{VIP}/16") && vip["priority"] == 200, "{status}");
    ensure!(vip["since"].is_string() && vip["why"].as_str().is_some_and(|w| !w.is_empty()), "{status}");
    let peer = &status["peers"][0];
    ensure!(peer["name"] == "px2" && peer["address"] == PROXIES[1], "{status}");
    ensure!(peer["state"] == "backup" && peer["last-heard-ms"].is_u64(), "{status}");
    ensure!(peer["config-match"] == true, "{status}");
    for list in ["listeners", "pools"] {
        ensure!(status[list].is_array(), "{list}: {status}");
    }
    let person = scene.vipd(0)?.ctl(&["status"])?;
    let says = |word: &str| person.split_whitespace().any(|w| w == word);
    ensure!(says("g51") && says("active") && person.contains(VIP), "{person}");
    Ok(())
}

fn bad_file_refuses_start(lab: &Lab) -> Result<()> {
    let host = lab.host("px1", &["10.77.0.11/16"])?;
    let text = Plan::new(100 * MS).vipd_config();
    let broken = text.replace("advert-interval", "advert-intervall").replace("[[vip]]", "[[vip]]\nvird = 51");
    let vipd = Vipd::start(&host, &broken)?;
    let status = vipd.process().wait(PATIENCE)?;
    ensure!(status.code() == Some(1), "vipd ends with {status}");
    for wrong in ["advert-intervall", "vird"] {
        vipd.process().wait_for_line(wrong, SECOND).context("not every error is told")?;
    }
    Ok(())
}
