//! What an operator has of vipd: commands on events, the history, a broken
//! file that is told of, and a doctor that finds what is really wrong.

use crate::{Case, Need};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};
use vipd_tests::lab::{Host, Lab, dnsd, mariadb, poll_until};
use vipd_tests::probe::EchoProbe;
use vipd_tests::scene::{Kind, PROXIES, Plan, Scene};
use vipd_tests::stand_in::CLOCK_MARK;

const VIPD: &[Need] = &[Need::Vipd];

pub(crate) const CASES: &[Case] = &[
    Case { name: "operators::notify_tells_of_a_failover", needs: VIPD, run: notify_tells_of_a_failover },
    Case { name: "operators::history_outlives_a_kill", needs: VIPD, run: history_outlives_a_kill },
    Case {
        name: "operators::a_broken_file_is_told_until_it_is_right",
        needs: VIPD,
        run: broken_file_is_told,
    },
    Case { name: "operators::doctor_names_a_dropped_direction", needs: VIPD, run: dropped_on_the_host },
    Case { name: "operators::doctor_names_a_drop_between_hosts", needs: VIPD, run: dropped_between },
    Case { name: "operators::doctor_looks_at_multicast_too", needs: VIPD, run: multicast_is_dropped },
    Case { name: "operators::doctor_proves_a_direction_with_a_key", needs: VIPD, run: proven_with_a_key },
    Case { name: "operators::doctor_compares_clocks", needs: VIPD, run: doctor_compares_clocks },
    Case {
        name: "operators::doctor_names_the_missing_grant",
        needs: &[Need::Vipd, Need::Mariadb],
        run: doctor_names_the_missing_grant,
    },
    Case {
        name: "operators::doctor_proves_the_records",
        needs: &[Need::Vipd, Need::Dnsd],
        run: doctor_proves_the_records,
    },
];

const PATIENCE: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);

/// Both commands run for each event, the one that hangs first; no takeover waits for them.
fn notify_tells_of_a_failover(lab: &Lab) -> Result<()> {
    let script = "#!/bin/sh\ntold=/run/told-$VIPD_NODE\n\
                  echo \"$1 $VIPD_HOOK $VIPD_EVENT $VIPD_VIP $VIPD_STATE $VIPD_CLUSTER\" >> $told\n\
                  cat >> $told\n";
    for (name, text) in [("hook", script), ("hanging", "#!/bin/sh\nsleep 1000 & sleep 1000\n")] {
        // The same file on every host names the same program.
        let path = lab.outside(&Path::new("/run").join(name));
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    }
    let mut plan = Plan::new(100 * MS);
    plan.rest =
        "[[notify]]\nname = \"hanging\"\ncommand = [\"/run/hanging\"]\nuser = \"root\"\ntimeout = \"1s\"\n\
                 [[notify]]\nname = \"chat\"\ncommand = [\"/run/hook\", \"argument\"]\nuser = \"root\"\n"
            .to_owned();
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let probe = EchoProbe::start(&scene.client, Scene::echo(), MS)?;
    probe.wait_for("px1", PATIENCE)?;
    let fault = Instant::now();
    lab.cut(&scene.proxies[0])?;
    probe.wait_for("px2", PATIENCE)?;
    let gap = probe.longest_gap(fault).context("no answer")?.length;
    ensure!(gap < 500 * MS, "the takeover took {gap:?} beside a command that hangs");
    let told = |node: &str| {
        std::fs::read_to_string(lab.outside(Path::new(&format!("/run/told-{node}")))).unwrap_or_default()
    };
    let states = |node: &str| -> Vec<String> {
        told(node).lines().filter(|l| l.starts_with("argument")).map(str::to_owned).collect()
    };
    let line = |state: &str| format!("argument chat vip g51 {state} lab");
    poll_until("px2's command is told that it owns", PATIENCE, || {
        Ok(states("px2").contains(&line("active")))
    })?;
    poll_until(
        "px1's command is told of the fault",
        PATIENCE,
        || Ok(states("px1").contains(&line("fault"))),
    )?;
    ensure!(states("px2") == [line("backup"), line("active")], "in order, each once: {}", told("px2"));
    for fact in told("px2").lines().filter(|l| l.starts_with('{')) {
        let fact: Value = serde_json::from_str(fact).context("standard input is one object a line")?;
        ensure!(fact["node"] == "px2" && fact["cluster"] == "lab" && fact["vip"] == "g51", "{fact}");
    }
    scene.daemons[1].process().wait_for_line("took longer than 1s and was killed", PATIENCE)?;
    Ok(())
}

fn events(scene: &Scene, proxy: usize) -> Result<Vec<Value>> {
    let text = scene.vipd(proxy)?.ctl(&["events", "--json"])?;
    text.lines().map(|l| serde_json::from_str(l).context("an event is one object a line")).collect()
}

/// What happened before a kill is told after it, and numbered on.
fn history_outlives_a_kill(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    poll_until("the takeover is told", PATIENCE, || {
        Ok(events(&scene, 0)?.iter().any(|e| e["kind"] == "takeover"))
    })?;
    let before = events(&scene, 0)?;
    // Beside the loop a thread writes the file: its last line may be on its way.
    let last = before.last().context("events")?["seq"].clone();
    let file = lab.outside(&scene.proxies[0].dir().join("state/events.jsonl"));
    poll_until("the history is on disk", PATIENCE, || {
        Ok(std::fs::read_to_string(&file)?.contains(&format!("\"seq\":{last}")))
    })?;
    let process = scene.daemons[0].process();
    process.signal_tree(Signal::SIGKILL)?;
    process.wait(PATIENCE)?;
    scene.restart(0)?;
    scene.vipd(0)?.wait_for_state("backup", PATIENCE)?;
    let after = events(&scene, 0)?;
    ensure!(after.starts_with(&before), "{before:?} was, {after:?} is");
    let numbers: Vec<u64> = after.iter().filter_map(|e| e["seq"].as_u64()).collect();
    ensure!(numbers.len() == after.len() && numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    let starts = after.iter().filter(|e| e["kind"] == "start").count();
    ensure!(starts == 2, "{starts} starts");
    let takeover = after.iter().find(|e| e["kind"] == "takeover").context("the takeover")?;
    ensure!(takeover["steps"]["announced-us"].is_u64(), "with its time line: {takeover}");
    Ok(())
}

fn broken_file_is_told(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    let (good, vipd) = (scene.plan.vipd_config(), scene.vipd(0)?);
    let broken = good.replace("advert-interval", "advert-intervall");
    scene.proxies[0].write_file("vipd.toml", &broken)?;
    vipd.process().signal(Signal::SIGHUP)?;
    let told = || -> Result<bool> {
        let errors = vipd.status()?["config-errors"].as_array().cloned().unwrap_or_default();
        Ok(errors
            .iter()
            .any(|e| e.as_str().is_some_and(|e| e.contains("vipd.toml:") && e.contains("advert-intervall"))))
    };
    poll_until("the error is told", PATIENCE, told)?;
    // Also after another attempt, in the table, and by the doctor.
    ensure!(!vipd.try_ctl(&["reload"])?.status.success(), "it is taken");
    ensure!(told()?, "the error is forgotten while the file is wrong");
    let table = vipd.ctl(&["status"])?;
    ensure!(
        table.contains("The newest configuration was refused") && table.contains("advert-intervall"),
        "{table}"
    );
    let (_, found) = doctor(&scene, 0)?;
    ensure!(found.iter().any(|f| f.bad("configuration", "the newest was refused")), "{found:?}");
    scene.proxies[0].write_file("vipd.toml", &good)?;
    ensure!(told()?, "a file that is right is not in force before a reload");
    vipd.ctl(&["reload"])?;
    ensure!(!told()? && !vipd.ctl(&["status"])?.contains("refused"), "it is told of still");
    Ok(())
}

/// A finding of the doctor's.
#[derive(Debug)]
struct Finding {
    verdict: String,
    about: String,
    text: String,
    fix: String,
}

impl Finding {
    fn is(&self, verdict: &str, about: &str, text: &str) -> bool {
        self.verdict == verdict && self.about == about && self.text.contains(text)
    }

    fn bad(&self, about: &str, text: &str) -> bool {
        self.is("bad", about, text)
    }
}

/// What the doctor finds on a proxy, and its exit status.
fn doctor(scene: &Scene, proxy: usize) -> Result<(Option<i32>, Vec<Finding>)> {
    let host = &scene.proxies[proxy];
    // It finds the file by the daemon of the runtime directory.
    let output = scene.vipd(proxy)?.try_ctl(&["doctor", "--json", "--node", host.name()])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let list: Vec<Value> =
        serde_json::from_str(&text).with_context(|| format!("no list of findings: {text}"))?;
    let word = |f: &Value, key: &str| f[key].as_str().unwrap_or_default().to_owned();
    let finding = |f: &Value| Finding {
        verdict: word(f, "verdict"),
        about: word(f, "about"),
        text: word(f, "text"),
        fix: word(f, "fix"),
    };
    Ok((output.status.code(), list.iter().map(finding).collect()))
}

/// The same, once it finds this of IP protocol 112: what came last before a
/// drop counts for some seconds.
fn doctor_says(scene: &Scene, proxy: usize, text: &str) -> Result<(Option<i32>, Vec<Finding>)> {
    let mut told = (None, Vec::new());
    let found = poll_until("the missing direction is named", PATIENCE, || {
        told = doctor(scene, proxy)?;
        Ok(told.1.iter().any(|f| f.bad("protocol 112", text)))
    });
    found.with_context(|| format!("{:#?}", told.1))?;
    Ok(told)
}

fn find<'a>(found: &'a [Finding], about: &str, text: &str) -> Result<&'a Finding> {
    found
        .iter()
        .find(|f| f.bad(about, text))
        .with_context(|| format!("no bad {about} with '{text}': {found:#?}"))
}

fn nft(host: &Host, rules: &str) -> Result<()> {
    let table = "add table inet filter; \
                 add chain inet filter input { type filter hook input priority 0; }; \
                 add chain inet filter output { type filter hook output priority 0; }";
    host.run("nft", &[&format!("{table}; {rules}")]).map(drop)
}

/// One direction is dropped by a host's own firewall, at any of its ends: it is
/// named with the rule, and what the doctor says mends it.
fn dropped_on_the_host(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    let [px1, px2] = &scene.proxies;
    let from_px1 = format!("add rule inet filter input ip saddr {} ip protocol 112 drop", PROXIES[0]);
    nft(px2, &from_px1)?;
    scene.vipd(1)?.wait_for_state("active", PATIENCE)?;
    let dropped_in = "from px1 (10.77.0.11): the firewall of px2 drops it on its way in";
    let (status, found) = doctor_says(&scene, 1, dropped_in)?;
    let missing = find(&found, "protocol 112", dropped_in)?;
    ensure!(status == Some(1) && missing.text.contains("ip saddr 10.77.0.11"), "{missing:?}");
    ensure!(
        !found.iter().any(|f| f.bad("protocol 112", "to px1")),
        "the other direction is open: {found:#?}"
    );
    px2.run("sh", &["-c", &missing.fix])?;
    lab.addresses().wait_for_one(Scene::vip(), PATIENCE)?;
    scene.vipd(1)?.wait_for_state("backup", PATIENCE)?;
    let (_, found) = doctor(&scene, 1)?;
    ensure!(
        found.iter().any(|f| f.is("good", "protocol 112", "from px1: its last advert came")),
        "{found:#?}"
    );
    // On its way out, on the sender's own host.
    nft(px2, "add rule inet filter output meta l4proto 112 drop")?;
    let dropped_out = "to px1 (10.77.0.11): the firewall of this host drops it on its way out";
    let (_, found) = doctor_says(&scene, 1, dropped_out)?;
    let missing = find(&found, "protocol 112", dropped_out)?;
    ensure!(missing.text.contains("in the chain output of the nftables table inet filter"), "{missing:?}");
    px2.run("sh", &["-c", &missing.fix])?;
    // The backup's probe arrives at the owner, which tells of it; then it does not.
    poll_until("px1 has px2's probe", PATIENCE, || {
        doctor(&scene, 1)?;
        Ok(doctor(&scene, 0)?.1.iter().any(|f| f.is("good", "protocol 112", "from px2: a probe came")))
    })?;
    nft(px1, "add rule inet filter input ip protocol vrrp reject")?;
    doctor_says(&scene, 0, "from px2 (10.77.0.12): the firewall of px1 drops it on its way in")?;
    Ok(())
}

/// A firewall between the hosts, which nobody can list, is told by what does not come.
fn dropped_between(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    lab.drop_vrrp(&scene.proxies[0], &scene.proxies[1])?;
    scene.vipd(1)?.wait_for_state("active", PATIENCE)?;
    doctor_says(&scene, 1, "on the way from px1 to px2")?;
    let (_, found) = doctor(&scene, 0)?;
    ensure!(
        found.iter().any(|f| f.is("good", "protocol 112", "from px2: its last advert came")),
        "{found:#?}"
    );
    ensure!(!found.iter().any(|f| f.bad("protocol 112", "")), "the other direction is open: {found:#?}");
    Ok(())
}

/// The importer writes `multicast` for a plain keepalived: both directions are told there, too.
fn multicast_is_dropped(lab: &Lab) -> Result<()> {
    let mut plan = Plan::new(100 * MS);
    plan.election.push("transport = \"multicast\"".to_owned());
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let [px1, px2] = &scene.proxies;
    // Its hello comes before its next advert.
    poll_until("px2 has px1's advert", PATIENCE, || {
        Ok(scene.vipd(1)?.status()?["peers"][0]["last-advert-ms"].is_u64())
    })?;
    let (_, found) = doctor(&scene, 1)?;
    ensure!(
        found.iter().any(|f| f.is("good", "protocol 112", "from px1: its last advert came")),
        "{found:#?}"
    );
    // The backup's probe to the group arrives at the owner; its own vipd does not get it.
    poll_until("px1 has px2's probe", PATIENCE, || {
        doctor(&scene, 1)?;
        Ok(doctor(&scene, 0)?.1.iter().any(|f| f.is("good", "protocol 112", "from px2: a probe came")))
    })?;
    let own = scene.vipd(1)?.status()?["counters"]["adverts-rejected"].to_string();
    ensure!(!own.contains(PROXIES[1]), "px2 counts its own: {own}");
    nft(px2, "add rule inet filter output ip daddr 224.0.0.18 ip protocol 112 drop")?;
    let out = "to the others (224.0.0.18, by ";
    let (_, found) = doctor_says(&scene, 1, out)?;
    let missing = find(&found, "protocol 112", out)?;
    ensure!(missing.text.contains("the firewall of this host drops it on its way out"), "{missing:?}");
    px2.run("sh", &["-c", &missing.fix])?;
    let (_, found) = doctor(&scene, 1)?;
    ensure!(found.iter().any(|f| f.is("good", "protocol 112", "sent to the others")), "{found:#?}");
    // The owner's adverts are dropped where nobody can list it: px2 owns, too.
    lab.drop_vrrp(px1, px2)?;
    scene.vipd(1)?.wait_for_state("active", PATIENCE)?;
    doctor_says(&scene, 1, "a switch does not pass the group on")?;
    Ok(())
}

/// Its probes are no adverts: where adverts are sealed they are counted as what they are, too.
fn proven_with_a_key(lab: &Lab) -> Result<()> {
    let key = || Some("1".repeat(64));
    let scene = Scene::new(lab, Kind::Vipd, Plan { keys: [key(), key()], ..Plan::new(100 * MS) })?;
    scene.vipd(0)?.wait_for_state("active", PATIENCE)?;
    doctor(&scene, 1)?;
    poll_until("px1 has px2's probe", PATIENCE, || {
        Ok(doctor(&scene, 0)?.1.iter().any(|f| f.is("good", "protocol 112", "from px2: a probe came")))
    })?;
    let refused = &scene.vipd(0)?.status()?["counters"]["adverts-rejected-total"];
    ensure!(refused["unsealed"].as_u64().unwrap_or(0) == 0, "a probe is no advert without a seal: {refused}");
    Ok(())
}

fn doctor_compares_clocks(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, Kind::Vipd, Plan::new(100 * MS))?;
    let (_, found) = doctor(&scene, 0)?;
    ensure!(found.iter().any(|f| f.is("good", "clock", "px2's is 0.0")), "{found:#?}");
    // In the place of the kernel's answers, which are right, come others.
    let px2 = &scene.proxies[1];
    nft(
        px2,
        &format!("add rule inet filter output icmp type timestamp-reply meta mark != {CLOCK_MARK} drop"),
    )?;
    let (_, found) = doctor(&scene, 0)?;
    ensure!(found.iter().any(|f| f.is("unknown", "clock", "does not answer ICMP timestamps")), "{found:#?}");
    let _clock = px2.tool(&["clock", "400000"])?;
    let (status, found) = doctor(&scene, 0)?;
    let off = find(&found, "clock", "s ahead of this host's")?;
    ensure!(status == Some(1) && off.fix.contains("timedatectl set-ntp true"), "{off:?}");
    ensure!(off.text.starts_with("px2's is 400.") || off.text.starts_with("px2's is 399.9"), "{off:?}");
    Ok(())
}

/// A privilege that is missing on the primary, where nothing needs it yet.
fn doctor_names_the_missing_grant(lab: &Lab) -> Result<()> {
    let db1 = lab.host("db1", &["10.77.0.21/16"])?;
    let db2 = lab.host("db2", &["10.77.0.22/16"])?;
    let servers = mariadb::replicated(&[(&db1, "10.77.0.21".parse()?), (&db2, "10.77.0.22".parse()?)])?;
    let revoke =
        format!("SET sql_log_bin = 0; REVOKE REPLICA MONITOR ON *.* FROM {}@'%'", mariadb::CHECK_USER);
    servers[0].sql(&revoke)?;
    let password = mariadb::password_file(lab)?;
    let mut plan = Plan::new(100 * MS);
    plan.rest = format!(
        "[[listen]]\nname = \"read\"\nbind = \"10.77.0.100:3307\"\npool = \"replicas\"\n\
         [[pool]]\nname = \"replicas\"\nservers = [{{ name = \"db1\", address = \"10.77.0.21:3306\" }}, \
         {{ name = \"db2\", address = \"10.77.0.22:3306\" }}]\n\
         [pool.check]\nkind = \"mysql\"\ninterval = \"250ms\"\ntimeout = \"2s\"\nuser = \"{}\"\n\
         password-file = {password:?}\nrole = \"replica\"\nmax-lag = \"10s\"\n",
        mariadb::CHECK_USER
    );
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let (status, found) = doctor(&scene, 0)?;
    let missing = find(&found, "privileges", "replicas/db1")?;
    ensure!(status == Some(1) && missing.fix == "GRANT REPLICA MONITOR ON *.* TO 'vipd'@'%';", "{missing:?}");
    ensure!(found.iter().any(|f| f.is("good", "login", "replicas/db2")), "{found:#?}");
    servers[0].sql(&format!("SET sql_log_bin = 0; {}", missing.fix))?;
    let (_, found) = doctor(&scene, 0)?;
    ensure!(found.iter().any(|f| f.is("good", "login", "replicas/db1")), "{found:#?}");
    // And an account that is refused.
    std::fs::write(lab.outside(&password), "wrong")?;
    let (_, found) = doctor(&scene, 0)?;
    let refused = find(&found, "login", "replicas/db1")?;
    ensure!(
        refused.fix.contains("'vipd'@'10.77.0.11'") || refused.fix.contains("'vipd'@'px1'"),
        "{refused:?}"
    );
    Ok(())
}

fn doctor_proves_the_records(lab: &Lab) -> Result<()> {
    let ns1 = lab.host("ns1", &["10.77.0.53/16"])?;
    let _dnsd = dnsd::start(&ns1, "10.77.0.53")?;
    let key = lab.outside(Path::new("/run/tsig.key"));
    std::fs::write(&key, dnsd::SECRET)?;
    let mut plan = Plan::new(100 * MS);
    plan.rest = format!(
        "[dns]\nname = \"{}\"\nttl = \"1s\"\n[dns.rfc2136]\nservers = [\"10.77.0.53:53\"]\nzone = \"{}\"\n\
         key-name = \"vipd.\"\nkey-file = \"/run/tsig.key\"\n",
        dnsd::NAME,
        dnsd::ZONE
    );
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let in_sync = || Ok(scene.vipd(0)?.status()?["dns"][0]["in-sync"] == true);
    poll_until("the records are written", PATIENCE, in_sync)?;
    for proxy in [0, 1] {
        let (_, found) = doctor(&scene, proxy)?;
        ensure!(found.iter().any(|f| f.is("good", "records", "10.77.0.53:53 lets this node")), "{found:#?}");
    }
    // Another secret; then a name that nobody granted.
    std::fs::write(&key, "YW5vdGhlciBzZWNyZXQsIGJ1dCBhcyBsb25nIGFzIG9uZQ==")?;
    let (status, found) = doctor(&scene, 0)?;
    let wrong = find(&found, "records", "BADSIG")?;
    ensure!(status == Some(1) && wrong.fix.starts_with("dnsd keygen vipd."), "{wrong:?}");
    std::fs::write(&key, dnsd::SECRET)?;
    let other = scene.plan.vipd_config().replace(dnsd::NAME, "other.corp.example.");
    scene.proxies[0].write_file("vipd.toml", &other)?;
    let (_, found) = doctor(&scene, 0)?;
    let refused = find(&found, "records", "refused")?;
    ensure!(refused.fix.contains("grant = [{ name = \"other.corp.example.\""), "{refused:?}");
    Ok(())
}
