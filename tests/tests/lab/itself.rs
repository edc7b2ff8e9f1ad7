//! The lab does what the other tests take for granted.

use crate::{Case, Need};
use anyhow::{Context, Result, ensure};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vipd_tests::lab::arp::ArpWatch;
use vipd_tests::lab::{Host, Lab, mariadb, poll_until, tool_path};
use vipd_tests::probe::{ConnectProbe, EchoProbe, connect};

pub(crate) const CASES: &[Case] = &[
    Case { name: "itself::hosts_reach_each_other", needs: &[], run: hosts_reach_each_other },
    Case { name: "itself::cut_and_mend", needs: &[], run: cut_and_mend },
    Case { name: "itself::one_way_and_partition", needs: &[], run: one_way_and_partition },
    Case { name: "itself::addresses_are_followed", needs: &[], run: addresses_are_followed },
    Case { name: "itself::answers_are_told_apart", needs: &[], run: answers_are_told_apart },
    Case { name: "itself::connections_are_judged", needs: &[], run: connections_are_judged },
    Case { name: "itself::nothing_stays_after_sigkill", needs: &[], run: nothing_stays_after_sigkill },
    Case { name: "itself::mariadb_replicates", needs: &[Need::Mariadb], run: mariadb_replicates },
];

const PATIENCE: Duration = Duration::from_secs(5);
const MS: Duration = Duration::from_millis(1);

fn pair(lab: &Lab) -> Result<(Host, Host)> {
    let a = lab.host("a", &["10.77.0.1/24", "fd77::1/64"])?;
    let b = lab.host("b", &["10.77.0.2/24", "fd77::2/64"])?;
    Ok((a, b))
}

fn hosts_reach_each_other(lab: &Lab) -> Result<()> {
    let (a, b) = pair(lab)?;
    let _echo = b.tool(&["echo", "b", "7"])?;
    for target in ["10.77.0.2:7", "[fd77::2]:7"] {
        let probe = EchoProbe::start(&a, target.parse()?, MS)?;
        probe.wait_for("b", PATIENCE).with_context(|| target)?;
    }
    Ok(())
}

fn cut_and_mend(lab: &Lab) -> Result<()> {
    let (a, b) = pair(lab)?;
    let _echo = b.tool(&["echo", "b", "7"])?;
    let probe = EchoProbe::start(&a, "10.77.0.2:7".parse()?, MS)?;
    probe.wait_for("b", PATIENCE)?;
    lab.cut(&b)?;
    let carrier = || b.run("cat", &["/sys/class/net/eth0/carrier"]);
    ensure!(carrier()?.trim() == "0", "a host without its cable has a carrier");
    let cut = Instant::now();
    ensure!(probe.wait_for_any(100 * MS).is_err(), "answers come through a cable that is out");
    lab.mend(&b)?;
    probe.wait_for("b", PATIENCE)?;
    let gap = probe.longest_gap(cut).context("no gap")?;
    ensure!(gap.length >= 100 * MS, "the outage of 100 ms was seen as {:?}", gap.length);
    Ok(())
}

fn one_way_and_partition(lab: &Lab) -> Result<()> {
    let (a, b) = pair(lab)?;
    let third = lab.host("third", &["10.77.0.3/24"])?;
    let _echo = b.tool(&["echo", "b", "7"])?;
    // Known neighbours: what is cut is then the datagram itself.
    let probe = EchoProbe::start(&a, "10.77.0.2:7".parse()?, MS)?;
    probe.wait_for("b", PATIENCE)?;
    let other = EchoProbe::start(&third, "10.77.0.2:7".parse()?, MS)?;
    other.wait_for("b", PATIENCE)?;
    for way in [(&a, &b), (&b, &a)] {
        lab.one_way(way.0, way.1)?;
        ensure!(probe.wait_for_any(100 * MS).is_err(), "answers come through a one-way cut");
        other.wait_for("b", PATIENCE).context("a one-way cut harms a third host")?;
        lab.heal()?;
        probe.wait_for("b", PATIENCE)?;
    }
    lab.partition(&a, &b)?;
    ensure!(probe.wait_for_any(100 * MS).is_err(), "answers come through a partition");
    other.wait_for("b", PATIENCE).context("a partition harms a third host")?;
    Ok(())
}

fn addresses_are_followed(lab: &Lab) -> Result<()> {
    let (a, b) = pair(lab)?;
    let start = Instant::now();
    for vip in ["10.77.0.100/24", "fd77::100/64"] {
        let address: IpAddr = vip.split_once('/').context("a prefix")?.0.parse()?;
        a.run("ip", &["addr", "add", vip, "dev", "eth0", "nodad"])?;
        lab.addresses().wait_for(address, &["a"], PATIENCE)?;
        b.run("ip", &["addr", "add", vip, "dev", "eth0", "nodad"])?;
        lab.addresses().wait_for(address, &["a", "b"], PATIENCE)?;
        a.run("ip", &["addr", "del", vip, "dev", "eth0"])?;
        lab.addresses().wait_for(address, &["b"], PATIENCE)?;
        let overlap = lab.addresses().overlap(address, start);
        ensure!(!overlap.is_zero() && overlap < start.elapsed(), "two held {vip} for {overlap:?}");
    }
    Ok(())
}

fn answers_are_told_apart(lab: &Lab) -> Result<()> {
    let (a, b) = pair(lab)?;
    let third = lab.host("third", &["10.77.0.3/24", "fd77::3/64"])?;
    for vip in ["10.77.0.100/24", "fd77::100/64"] {
        let address: IpAddr = vip.split_once('/').context("a prefix")?.0.parse()?;
        let watch = ArpWatch::start(&third, &[address], MS)?;
        let start = Instant::now();
        a.run("ip", &["addr", "add", vip, "dev", "eth0", "nodad"])?;
        poll_until("a answers", PATIENCE, || Ok(watch.answerers(address, start).len() == 1))?;
        ensure!(watch.double(address, start).is_zero(), "one host answers twice");
        b.run("ip", &["addr", "add", vip, "dev", "eth0", "nodad"])?;
        poll_until("a and b answer", PATIENCE, || Ok(watch.answerers(address, start).len() == 2))?;
        let answerers = watch.answerers(address, start);
        ensure!(answerers.contains_key(&a.mac()?) && answerers.contains_key(&b.mac()?), "{answerers:?}");
        poll_until("both at once", PATIENCE, || Ok(!watch.double(address, start).is_zero()))?;
    }
    Ok(())
}

fn connections_are_judged(lab: &Lab) -> Result<()> {
    let (a, b) = pair(lab)?;
    let target = "10.77.0.2:3306".parse()?;
    let probe = ConnectProbe::start(&a, target, MS, 500 * MS)?;
    let start = Instant::now();
    poll_until("a closed port refuses", PATIENCE, || {
        Ok(connect::Summary::of(&probe.attempts(start)).refused > 10)
    })?;
    let server = b.tool(&["serve", "db1", "10.77.0.2:3306"])?;
    let answered = probe.wait_answered(PATIENCE)?;
    ensure!(answered.by.as_deref() == Some("db1"), "{answered:?}");
    let up = Instant::now();
    poll_until("connections are answered", PATIENCE, || Ok(probe.attempts(up).len() > 300))?;
    drop(server);
    lab.cut(&b)?;
    let cut = Instant::now();
    poll_until("connections time out", PATIENCE, || Ok(connect::Summary::of(&probe.attempts(cut)).lost > 0))?;
    let all = probe.finish(start)?;
    let healthy: Vec<_> = all.into_iter().filter(|a| a.at >= up && a.at + 100 * MS < cut).collect();
    let summary = connect::Summary::of(&healthy);
    ensure!(summary.answered > 50 && summary.lost == 0, "{summary:?}");
    Ok(())
}

/// A test that is killed takes its lab with it, daemonised processes too.
fn nothing_stays_after_sigkill(_: &Lab) -> Result<()> {
    let mut test = Command::new(tool_path()?)
        .arg("linger")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a lab to kill")?;
    let mut line = String::new();
    let out = test.stdout.take().context("it has an output")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)?;
    let pids: Vec<&str> = line.split_whitespace().collect();
    ensure!(pids.len() == 2, "expected the pids of the lab's init and of a daemon, not '{line}'");
    let alive = |pid: &&str| {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    ensure!(pids.iter().all(alive), "the lab to kill is not up");
    test.kill()?;
    test.wait()?;
    poll_until("everything in the lab has ended", PATIENCE, || Ok(!pids.iter().any(alive)))
}

fn mariadb_replicates(lab: &Lab) -> Result<()> {
    let (a, b) = pair(lab)?;
    let (first, second) = ("10.77.0.1".parse()?, "10.77.0.2".parse()?);
    let servers = mariadb::replicated(&[(&a, first), (&b, second)])?;
    servers[0].sql("INSERT INTO app.t VALUES (1, 'one')")?;
    poll_until("a row is replicated", PATIENCE, || Ok(servers[1].sql("SELECT note FROM app.t")? == "one\n"))?;
    let password = format!("-p{}", mariadb::PASSWORD);
    let insert = "INSERT INTO app.t VALUES (2, 'two')";
    let as_app = ["--no-defaults", "-h", "10.77.0.2", "-u", mariadb::APP_USER, &password, "-e", insert];
    let refused = a.try_run("mariadb", &as_app)?;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(error.contains("--read-only"), "a replica takes writes, or fails otherwise: {error}");
    servers[1].promote()?;
    a.run("mariadb", &as_app)?;
    Ok(())
}
