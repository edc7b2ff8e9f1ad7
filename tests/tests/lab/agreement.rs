//! Several proxies before the same databases: what one of them cannot reach,
//! and which of two writable servers they write to.

use crate::{Case, Need};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use vipd_tests::lab::{Host, Lab, mariadb, poll_until};
use vipd_tests::scene::{Kind, Plan, Scene, VIP};

pub(crate) const CASES: &[Case] = &[Case {
    name: "agreement::what_one_proxy_cannot_reach_is_not_down",
    needs: &[Need::Vipd, Need::Mariadb],
    run: one_proxy_cannot_reach_the_primary,
}];

const PATIENCE: Duration = Duration::from_secs(10);
const ADDRESSES: [&str; 3] = ["10.77.0.21", "10.77.0.22", "10.77.0.23"];

fn plan(lab: &Lab) -> Result<Plan> {
    let password = mariadb::password_file(lab)?;
    let entry = |(n, a): (usize, &&str)| format!("{{ name = \"db{}\", address = \"{a}:3306\" }}", n + 1);
    let servers: Vec<String> = ADDRESSES.iter().enumerate().map(entry).collect();
    let mut plan = Plan::new(Duration::from_millis(100));
    plan.rest = format!(
        "[[listen]]\nname = \"write\"\nbind = \"{VIP}:3306\"\npool = \"primary\"\n\
         [[pool]]\nname = \"primary\"\nservers = [{}]\non-down = \"close\"\n\
         [pool.check]\nkind = \"mysql\"\ninterval = \"200ms\"\ntimeout = \"400ms\"\nrise = 1\nfall = 3\n\
         user = \"{}\"\npassword-file = {password:?}\nrole = \"primary\"\n",
        servers.join(", "),
        mariadb::CHECK_USER
    );
    Ok(plan)
}

fn pool(scene: &Scene, proxy: usize) -> Result<Value> {
    Ok(scene.vipd(proxy)?.status()?["pools"][0].clone())
}

/// Waits until a proxy says this of the first server.
fn says(scene: &Scene, proxy: usize, state: &str, why: &str) -> Result<()> {
    let mut last = Value::Null;
    let what = format!("px{} says of db1: {state}, {why}", proxy + 1);
    let said = poll_until(&what, PATIENCE, || {
        last = pool(scene, proxy)?["servers"][0].clone();
        Ok(last["state"] == state && last["why"].as_str().is_some_and(|w| w.contains(why)))
    });
    said.with_context(|| format!("the last it said: {last}"))
}

/// For a while a proxy writes to no server.
fn writes_nowhere(scene: &Scene, proxy: usize) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let pool = pool(scene, proxy)?;
        let servers = pool["servers"].as_array().context("no servers")?;
        let used: Vec<&Value> = servers.iter().filter(|s| s["state"] == "up").collect();
        ensure!(used.is_empty() && pool["incumbent"].is_null(), "px{} writes: {pool}", proxy + 1);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn one_proxy_cannot_reach_the_primary(lab: &Lab) -> Result<()> {
    let hosts: Vec<Host> = (1..=3)
        .zip(ADDRESSES)
        .map(|(n, a)| lab.host(&format!("db{n}"), &[&format!("{a}/16")]))
        .collect::<Result<_>>()?;
    let placed: Vec<(&Host, IpAddr)> =
        hosts.iter().zip(ADDRESSES).map(|(h, a)| Ok((h, a.parse()?))).collect::<Result<_>>()?;
    let servers = mariadb::replicated(&placed)?;
    let mut scene = Scene::new(lab, Kind::Vipd, plan(lab)?)?;
    for proxy in [0, 1] {
        says(&scene, proxy, "up", "its check succeeds")?;
    }
    let target = SocketAddr::new(VIP.parse()?, 3306);
    let client = scene.client.inside(|| TcpStream::connect(target).context("cannot connect"))?;

    // px1 cannot reach it, px2 can: nothing that runs is cut, and nothing else is written to.
    lab.partition(&scene.proxies[0], &hosts[0])?;
    says(&scene, 0, "unreachable", "px2 reaches it")?;
    says(&scene, 1, "up", "unreachable from px1")?;
    ensure!(pool(&scene, 0)?["servers"][0]["sessions"] == 1, "a session was cut");
    servers[1].sql("SET GLOBAL read_only = 0")?;
    poll_until("px2 sees two primaries", PATIENCE, || Ok(pool(&scene, 1)?["conflict"][0] == "db2"))?;
    writes_nowhere(&scene, 0)?;
    ensure!(pool(&scene, 1)?["incumbent"] == "db1", "{}", pool(&scene, 1)?);
    drop(client);

    // Neither does a px1 that is started anew, and sees only the wrong one.
    scene.daemons[0].process().signal(Signal::SIGKILL)?;
    scene.daemons[0].process().wait(PATIENCE)?;
    scene.restart(0)?;
    says(&scene, 0, "unreachable", "px2 reaches it")?;
    writes_nowhere(&scene, 0)?;
    lab.heal()?;
    says(&scene, 0, "up", "its check succeeds")?;
    let agreed = pool(&scene, 0)?;
    ensure!(agreed["incumbent"] == "db1" && agreed["epoch"] == pool(&scene, 1)?["epoch"], "{agreed}");
    servers[1].sql("SET GLOBAL read_only = 1")?;

    // No proxy reaches it, and its replicas do.
    for proxy in &scene.proxies {
        lab.partition(proxy, &hosts[0])?;
    }
    for proxy in [0, 1] {
        says(&scene, proxy, "down", "its replicas still hear it (db2, db3)")?;
    }
    lab.heal()?;
    for proxy in [0, 1] {
        says(&scene, proxy, "up", "its check succeeds")?;
    }
    servers[0].process().signal(Signal::SIGKILL)?;
    for proxy in [0, 1] {
        says(&scene, proxy, "down", "by their own word db2, db3 did not hear it either")?;
    }
    Ok(())
}
