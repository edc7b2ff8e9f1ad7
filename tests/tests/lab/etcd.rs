//! Two vipd whose quorum is kept in a real etcd: never two owners, whatever
//! is lost.

use crate::{Case, Need};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vipd_tests::lab::etcd::{Certificates, Etcd};
use vipd_tests::lab::vipd::{Vipd, program};
use vipd_tests::lab::{Host, Lab, poll_until};
use vipd_tests::probe::EchoProbe;
use vipd_tests::scene::{Kind, Plan, Scene, write_key};

const NEEDS: &[Need] = &[Need::Vipd, Need::Etcd];

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "etcd::an_owner_cut_from_etcd_lets_go_and_the_other_takes_over",
        needs: NEEDS,
        run: cut_off,
    },
    Case { name: "etcd::an_owner_cut_from_all_is_replaced_after_its_lease", needs: NEEDS, run: cut_from_all },
    Case { name: "etcd::without_etcd_nobody_owns_and_it_says_why", needs: NEEDS, run: lost },
    Case { name: "etcd::one_member_of_three_may_hang_or_die", needs: NEEDS, run: one_of_three },
    Case { name: "etcd::a_frozen_owner_loses_the_address_first", needs: NEEDS, run: frozen },
    Case { name: "etcd::crash_switchover_and_restart_cost_no_lease", needs: NEEDS, run: no_lease },
    Case { name: "etcd::tls_and_login", needs: NEEDS, run: tls_and_login },
    Case { name: "etcd::keep_keeps_without_etcd", needs: NEEDS, run: keep },
    Case { name: "etcd::doctor_looks_at_the_members", needs: NEEDS, run: doctor },
    Case { name: "etcd::a_full_one_is_found_and_its_fix_mends_it", needs: NEEDS, run: full },
    Case { name: "etcd::its_members_are_measured", needs: NEEDS, run: measured },
];

const PATIENCE: Duration = Duration::from_secs(15);
const MS: Duration = Duration::from_millis(1);

struct Stage {
    scene: Scene,
    etcd: Etcd,
    probe: EchoProbe,
}

fn plan(etcd: &Etcd, more: &str) -> Plan {
    let key = "1".repeat(64);
    Plan {
        keys: [Some(key.clone()), Some(key)],
        election: vec!["quorum = \"etcd\"".to_owned()],
        rest: format!("[etcd]\nendpoints = {:?}\n{more}\n", etcd.endpoints()),
        ..Plan::new(100 * MS)
    }
}

/// `px1` owns.
fn stage(lab: &Lab, members: usize, more: &str) -> Result<Stage> {
    let etcd = Etcd::start(lab, members, None)?;
    // As a cluster leaves it that was stopped: a missing key is waited for.
    let free = r#"{"node":"px2","run":1,"request":1,"lease-ms":1000,"released":true}"#;
    etcd.ctl(&["put", "/vipd/lab/51", free])?;
    let scene = Scene::new(lab, Kind::Vipd, plan(&etcd, more))?;
    let probe = EchoProbe::start(&scene.client, Scene::echo(), MS)?;
    probe.wait_for("px1", PATIENCE)?;
    Ok(Stage { scene, etcd, probe })
}

fn never_two(lab: &Lab, since: Instant) -> Result<()> {
    let overlap = lab.addresses().overlap(Scene::vip(), since);
    ensure!(overlap.is_zero(), "two hosts held the address for {overlap:?}");
    Ok(())
}

fn says(stage: &Stage, proxy: usize, words: &[&str]) -> Result<()> {
    let mut last = String::new();
    let said = poll_until(&format!("it says {words:?}"), PATIENCE, || {
        last = stage.scene.vipd(proxy)?.ctl(&["why"])?;
        Ok(words.iter().all(|w| last.contains(w)))
    });
    said.with_context(|| last)
}

fn follows(stage: &Stage, proxy: usize, owner: &str) -> Result<()> {
    poll_until("it follows the owner", PATIENCE, || {
        Ok(stage.scene.vipd(proxy)?.status()?["vips"][0]["owner"] == owner)
    })
}

fn gap_below(stage: &Stage, since: Instant, most: Duration, what: &str) -> Result<()> {
    let gap = stage.probe.longest_gap(since).map_or(Duration::MAX, |g| g.length);
    ensure!(gap < most, "no answer for {gap:?} {what}");
    Ok(())
}

fn cut_off(lab: &Lab) -> Result<()> {
    let stage = stage(lab, 1, "")?;
    says(&stage, 0, &["etcd names px1 as its holder"])?;
    says(&stage, 1, &["etcd names px1 as its holder"])?;
    let fault = Instant::now();
    lab.partition(&stage.scene.proxies[0], stage.etcd.host(0))?;
    stage.probe.wait_for("px2", PATIENCE)?;
    never_two(lab, fault)?;
    // It lets go before its lease ends and says so: the other need not wait for that.
    gap_below(&stage, fault, 300 * MS, "after a withdrawal that was told")?;
    says(&stage, 0, &["etcd has not answered for", "http://10.77.0.31:2379: no answer within"])?;
    lab.heal()?;
    follows(&stage, 0, "px2")?;
    never_two(lab, fault)
}

fn cut_from_all(lab: &Lab) -> Result<()> {
    let stage = stage(lab, 1, "lease = \"1s\"")?;
    let [px1, px2] = &stage.scene.proxies;
    let fault = Instant::now();
    lab.partition(px1, stage.etcd.host(0))?;
    lab.partition(px1, px2)?;
    lab.addresses().wait_for(Scene::vip(), &["px2"], PATIENCE)?;
    never_two(lab, fault)?;
    let healed = Instant::now();
    lab.heal()?;
    follows(&stage, 0, "px2")?;
    never_two(lab, healed)
}

fn lost(lab: &Lab) -> Result<()> {
    let stage = stage(lab, 1, "")?;
    let fault = Instant::now();
    // It keeps its connections and says nothing.
    stage.etcd.process(0).signal(Signal::SIGSTOP)?;
    lab.addresses().wait_for(Scene::vip(), &[], PATIENCE)?;
    says(&stage, 0, &["etcd has not answered for", "http://10.77.0.31:2379: no answer within 1000 ms"])?;
    says(&stage, 1, &["etcd has not answered for"])?;
    stage.etcd.process(0).signal(Signal::SIGCONT)?;
    lab.addresses().wait_for_one(Scene::vip(), PATIENCE)?;
    never_two(lab, fault)?;
    poll_until("it says that etcd is back", PATIENCE, || {
        Ok(!stage.scene.vipd(0)?.ctl(&["why"])?.contains("not answered"))
    })
}

fn one_of_three(lab: &Lab) -> Result<()> {
    // Room for a new leader on a machine that does other things beside.
    let stage = stage(lab, 3, "lease = \"6s\"")?;
    let leader = stage.etcd.leader()?;
    let begun = Instant::now();
    // One hangs, be it the one that is asked; and comes back.
    let other = (leader + 1) % 3;
    stage.etcd.process(other).signal(Signal::SIGSTOP)?;
    std::thread::sleep(3000 * MS);
    stage.etcd.process(other).signal(Signal::SIGCONT)?;
    poll_until("it is back", PATIENCE, || Ok(stage.etcd.leader().is_ok()))?;
    let leader = stage.etcd.leader()?;
    stage.etcd.process(leader).signal(Signal::SIGKILL)?;
    // Longer than the lease: it was renewed under the next leader.
    std::thread::sleep(8000 * MS);
    ensure!(
        lab.addresses().holders(Scene::vip()) == ["px1"],
        "px1 lost the address with one member of three"
    );
    gap_below(&stage, begun, 500 * MS, "with one member of three gone")?;
    never_two(lab, begun)
}

fn frozen(lab: &Lab) -> Result<()> {
    let stage = stage(lab, 1, "lease = \"1s\"")?;
    let fault = Instant::now();
    let daemon = stage.scene.daemons[0].process();
    daemon.signal(Signal::SIGSTOP)?;
    lab.addresses().wait_for(Scene::vip(), &["px2"], PATIENCE)?;
    never_two(lab, fault)?;
    daemon.signal(Signal::SIGCONT)?;
    follows(&stage, 0, "px2")?;
    never_two(lab, fault)
}

fn no_lease(lab: &Lab) -> Result<()> {
    // Whoever waits for the lease's end is seen.
    let mut stage = stage(lab, 1, "lease = \"10s\"")?;
    let planned = Instant::now();
    stage.scene.vipd(0)?.ctl(&["switchover", "--to", "px2", "--yes"])?;
    stage.probe.wait_for("px2", PATIENCE)?;
    gap_below(&stage, planned, 150 * MS, "in a planned switchover")?;
    let fault = Instant::now();
    stage.scene.daemons[1].process().signal(Signal::SIGKILL)?;
    stage.probe.wait_for("px1", PATIENCE)?;
    gap_below(&stage, fault, 400 * MS, "after SIGKILL: the lease was waited for")?;
    // Alone: what it gives back stands in etcd, and its next run need not wait.
    let stopped = Instant::now();
    let daemon = stage.scene.daemons[0].process();
    daemon.signal(Signal::SIGTERM)?;
    daemon.wait(PATIENCE)?;
    ensure!(
        stage.etcd.ctl(&["get", "--prefix", "/vipd/"])?.contains("\"released\":true"),
        "it is not given back"
    );
    stage.scene.restart(0)?;
    stage.probe.wait_for("px1", PATIENCE)?;
    gap_below(&stage, stopped, 5000 * MS, "after a stop and a start")?;
    never_two(lab, planned)
}

fn keep(lab: &Lab) -> Result<()> {
    let etcd = Etcd::start(lab, 1, None)?;
    let mut plan = plan(&etcd, "lease = \"1s\"");
    plan.election.push("on-no-quorum = \"keep\"".to_owned());
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let probe = EchoProbe::start(&scene.client, Scene::echo(), MS)?;
    probe.wait_for("px1", PATIENCE)?;
    let lost = Instant::now();
    etcd.process(0).signal(Signal::SIGKILL)?;
    std::thread::sleep(3000 * MS);
    ensure!(lab.addresses().holders(Scene::vip()) == ["px1"], "it did not keep the address");
    // And a crash moves it, as without a quorum.
    scene.daemons[0].process().signal(Signal::SIGKILL)?;
    probe.wait_for("px2", PATIENCE)?;
    never_two(lab, lost)
}

/// One member with TLS.
fn with_tls(lab: &Lab) -> Result<(Certificates, Etcd)> {
    let certificates = Certificates::make(lab, &["10.77.0.31"])?;
    let etcd = Etcd::start(lab, 1, Some(certificates.clone()))?;
    Ok((certificates, etcd))
}

/// Lets nobody in without a login, and gives vipd's a right.
fn logins(etcd: &Etcd, right: &str) -> Result<()> {
    for arguments in [
        &["user", "add", "root:lab-root"][..],
        &["user", "add", "vipd:lab-secret"],
        &["role", "add", "vipd"],
        &["role", "grant-permission", "vipd", "--prefix=true", right, "/vipd/"],
        &["user", "grant-role", "vipd", "vipd"],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        etcd.ctl(arguments)?;
    }
    Ok(())
}

/// A file that every host of the lab sees.
fn secret(lab: &Lab, name: &str, text: &str, mode: u32) -> Result<PathBuf> {
    let path = PathBuf::from(vipd_tests::lab::init::SCRATCH).join(name);
    std::fs::write(lab.outside(&path), text)?;
    std::fs::set_permissions(lab.outside(&path), std::fs::Permissions::from_mode(mode))?;
    Ok(path)
}

/// The file of a host without a scene, with a cluster key.
fn with_key(host: &Host, plan: &Plan) -> Result<String> {
    let line = format!("[cluster]\nkey-file = {:?}", write_key(host, &"1".repeat(64))?);
    Ok(plan.vipd_config().replacen("[cluster]", &line, 1))
}

/// What the doctor says of etcd on a host where no daemon runs: verdict, text, fix.
fn doctor_says(host: &Host) -> Result<Vec<[String; 3]>> {
    let at = |name: &str| host.dir().join(name).to_string_lossy().into_owned();
    let (file, runtime) = (at("vipd.toml"), at("runtime"));
    let all = ["--runtime-dir", &runtime, "doctor", "--json", "--node", "px1", "--config", &file];
    let output = host.try_run(program("vipctl")?, &all)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found: Vec<serde_json::Value> = serde_json::from_str(&text).with_context(|| text)?;
    let word = |f: &serde_json::Value, key: &str| f[key].as_str().unwrap_or_default().to_owned();
    let of_etcd = found.iter().filter(|f| f["about"] == "etcd");
    Ok(of_etcd.map(|f| ["verdict", "text", "fix"].map(|key| word(f, key))).collect())
}

fn finds(host: &Host, verdict: &str, text: &str, fix: &str) -> Result<()> {
    let found = doctor_says(host)?;
    let is = |[v, t, f]: &[String; 3]| v == verdict && t.contains(text) && f.contains(fix);
    ensure!(found.iter().any(is), "no {verdict} finding with '{text}' and '{fix}': {found:#?}");
    Ok(())
}

/// Each fault of a member is named with what mends it, and that does.
fn doctor(lab: &Lab) -> Result<()> {
    let (certificates, etcd) = with_tls(lab)?;
    let host = lab.host("px1", &["10.77.0.11/16"])?;
    let password = secret(lab, "etcd.password", "lab-secret", 0o600)?;
    let Certificates { ca, client: (cert, key), .. } = &certificates;
    let tls = format!("tls-ca-file = {ca:?}\ntls-cert-file = {cert:?}\ntls-key-file = {key:?}\n");
    let login = format!("user = \"vipd\"\npassword-file = {password:?}\n");
    host.write_file("vipd.toml", &with_key(&host, &plan(&etcd, &format!("{tls}{login}")))?)?;
    let good = "lets this node read and change /vipd/lab/";
    finds(&host, "good", good, "")?;
    finds(&host, "good", "(etcd 3.", "")?;
    finds(&host, "good", "the certificate of https://10.77.0.31:2379 is good for", "")?;
    ensure!(etcd.ctl(&["get", "--prefix", "/vipd"])?.is_empty(), "the doctor has changed something");
    logins(&etcd, "read")?;
    finds(&host, "bad", "permission denied", "role grant-permission ROLE --prefix=true readwrite /vipd/")?;
    let root = "--user=root:lab-root";
    etcd.ctl(&[root, "role", "grant-permission", "vipd", "--prefix=true", "readwrite", "/vipd/"])?;
    finds(&host, "good", good, "")?;
    std::fs::write(lab.outside(&password), "guessed")?;
    finds(&host, "bad", "the login of \"vipd\" failed", "user passwd vipd")?;
    etcd.process(0).signal(Signal::SIGSTOP)?;
    finds(&host, "bad", "no answer within 1000 ms", "endpoint status --cluster")?;
    etcd.process(0).signal(Signal::SIGKILL)?;
    etcd.process(0).wait(PATIENCE)?;
    finds(&host, "bad", "https://10.77.0.31:2379: ", "systemctl status etcd")
}

/// Its database has no room left, because nobody compacts it.
fn full(lab: &Lab) -> Result<()> {
    let etcd = Etcd::start_small(lab, 2 << 20)?;
    let host = lab.host("px1", &["10.77.0.11/16"])?;
    host.write_file("vipd.toml", &with_key(&host, &plan(&etcd, ""))?)?;
    finds(&host, "good", "lets this node read and change /vipd/lab/", "")?;
    // Values of other users fill it as ours would, with time.
    let value = "x".repeat(100_000);
    poll_until("it is full", PATIENCE, || Ok(etcd.ctl(&["put", "other", &value]).is_err()))?;
    finds(&host, "bad", "its database is full (NOSPACE)", "alarm disarm")?;
    let found = doctor_says(&host)?.into_iter().find(|[_, text, _]| text.contains("NOSPACE"));
    let [_, _, fix] = found.context("it was found")?;
    let done = etcd.host(0).try_run("sh", &["-ec", &fix])?;
    ensure!(done.status.success(), "{fix}: {}", String::from_utf8_lossy(&done.stderr));
    finds(&host, "good", "lets this node read and change /vipd/lab/", "")
}

/// What a person watches of it: how fast, how often in vain, and what is left.
fn measured(lab: &Lab) -> Result<()> {
    let stage = stage(lab, 1, "")?;
    let of_member = || -> Result<serde_json::Value> { Ok(stage.scene.vipd(0)?.status()?["etcd"][0].clone()) };
    poll_until("answers are counted", PATIENCE, || {
        let member = of_member()?;
        Ok(member["endpoint"] == "http://10.77.0.31:2379"
            && member["answers"].as_u64() > Some(1)
            && member["round-trip-us"].as_u64() > Some(0)
            && member["problem"].is_null())
    })?;
    let status = stage.scene.vipd(0)?.status()?;
    // By its own word too.
    stage.etcd.ctl(&["endpoint", "health"])?;
    let left = status["vips"][0]["lease-ms"].as_u64();
    ensure!(left.is_some_and(|ms| (1..=2500).contains(&ms)), "of a lease of 3 s {left:?} ms are left");
    ensure!(stage.scene.vipd(1)?.status()?["vips"][0]["lease-ms"].is_null(), "a backup has a lease");
    stage.etcd.process(0).signal(Signal::SIGSTOP)?;
    poll_until("failures are counted", PATIENCE, || {
        let member = of_member()?;
        Ok(member["failures"].as_u64() > Some(0) && member["problem"].is_string())
    })
}

fn tls_and_login(lab: &Lab) -> Result<()> {
    let (certificates, etcd) = with_tls(lab)?;
    logins(&etcd, "readwrite")?;
    let right = secret(lab, "etcd.password", "lab-secret\n", 0o600)?;
    let wrong = secret(lab, "etcd.wrong", "guessed\n", 0o600)?;
    let open = secret(lab, "etcd.open", "lab-secret\n", 0o644)?;
    let text = |password: &PathBuf, ca: &PathBuf, identity: Option<&(PathBuf, PathBuf)>| {
        let own = identity.map(|(cert, key)| format!("tls-cert-file = {cert:?}\ntls-key-file = {key:?}\n"));
        let own = own.unwrap_or_default();
        let login = format!("user = \"vipd\"\npassword-file = {password:?}\n");
        plan(&etcd, &format!("tls-ca-file = {ca:?}\n{own}{login}"))
    };
    let Certificates { ca, other_ca, member, client } = &certificates;
    let host = lab.host("px1", &["10.77.0.11/16"])?;
    let start = |plan: Plan| Vipd::start(&host, &with_key(&host, &plan)?);
    for (config, words) in [
        (text(&wrong, ca, Some(client)), "the login of \"vipd\" failed: authentication failed"),
        (text(&right, other_ca, Some(client)), "the server's certificate"),
        (text(&right, ca, None), "it asks for a certificate of this host"),
        (text(&right, ca, Some(member)), "client certificates without a common name"),
    ] {
        let vipd = start(config)?;
        let mut last = String::new();
        let said = poll_until(words, PATIENCE, || {
            last = vipd.ctl(&["why"]).unwrap_or_default();
            Ok(last.contains(words))
        });
        said.with_context(|| last)?;
        ensure!(lab.addresses().holders(Scene::vip()).is_empty(), "it owns without a lease");
        vipd.process().signal(Signal::SIGTERM)?;
        vipd.process().wait(PATIENCE)?;
    }
    let refused = start(text(&open, ca, Some(client)))?;
    refused.process().wait_for_line("can be read by everybody", PATIENCE)?;
    refused.process().wait(PATIENCE)?;
    let vipd = start(text(&right, ca, Some(client)))?;
    lab.addresses().wait_for(Scene::vip(), &["px1"], PATIENCE)?;
    vipd.process().signal(Signal::SIGTERM)?;
    vipd.process().wait(PATIENCE)?;
    Ok(())
}
