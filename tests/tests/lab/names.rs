//! Servers whose names lead to where the proxies themselves are: connections
//! there would come back for ever.

use crate::pools::Talk;
use crate::{Case, Need};
use anyhow::{Result, ensure};
use std::time::Duration;
use vipd_tests::lab::{Lab, named, poll_until};
use vipd_tests::scene::{Kind, Plan, Scene, VIP};

const NEEDS: &[Need] = &[Need::Vipd, Need::Named];

pub(crate) const CASES: &[Case] = &[
    Case { name: "names::of_the_vip", needs: NEEDS, run: of_the_vip },
    Case { name: "names::of_a_host_that_becomes_a_proxy", needs: NEEDS, run: of_a_host_that_becomes_a_proxy },
];

/// Less than the names live.
const PATIENCE: Duration = Duration::from_secs(15);
const INTERVAL: Duration = Duration::from_millis(100);
const CHECK: &str =
    "[pool.check]\nkind = \"tcp\"\ninterval = \"100ms\"\ntimeout = \"1s\"\nrise = 1\nfall = 2\n";
const NAME_SERVER: &str = "10.77.0.53";

/// A listener at `bind`, a pool of one server found by name, and as its fallback
/// one of all that a name leads to.
fn plan(bind: &str, one: &str, all: &str) -> Plan {
    let mut plan = Plan::new(INTERVAL);
    plan.rest = format!(
        "[[listen]]\nname = \"write\"\nbind = \"{bind}:3306\"\npool = \"single\"\n\
         [[pool]]\nname = \"single\"\nfallback = \"many\"\n\
         servers = [{{ name = \"one\", address = \"{one}:3306\" }}]\n{CHECK}\
         [[pool]]\nname = \"many\"\n\
         servers = [{{ name = \"all\", address = \"{all}:3306\", resolve = \"all\" }}]\n{CHECK}"
    );
    plan
}

/// Nothing is connected there, a person is told, and it serves when its name
/// leads to a server.
fn of_the_vip(lab: &Lab) -> Result<()> {
    let db1 = lab.host("db1", &["10.77.0.21/16"])?;
    let _server = db1.tool(&["serve", "db1", "10.77.0.21:3306"])?;
    let ns1 = lab.host("ns1", &[&format!("{NAME_SERVER}/16")])?;
    let mut bind = named::Named::start(&ns1, NAME_SERVER, &[&format!("db A {VIP}")])?;
    let scene = Scene::new(lab, Kind::Vipd, plan(VIP, "db.internal", "db.internal"))?;
    scene.proxies.iter().try_for_each(|proxy| named::ask(proxy, NAME_SERVER))?;
    let vipd = scene.vipd(0)?;
    for server in ["single/one", "many/all"] {
        poll_until(&format!("{server} is told"), PATIENCE, || {
            Ok(vipd.ctl(&["why", server])?.contains("which is a floating address"))
        })?;
    }
    let events = vipd.ctl(&["events"])?;
    ensure!(events.contains("which is a floating address"), "no alarm: {events}");
    let listener = vipd.status()?["listeners"][0].clone();
    ensure!(listener["total"] == 0, "the proxy has connected itself: {listener}");
    bind.set(&["db A 10.77.0.21"])?;
    vipd.wait_for_servers(&["one", "all@10.77.0.21:3306"], "up", 2 * PATIENCE)?;
    scene.client.inside(|| {
        ensure!(Talk::new()?.by()? == "db1", "somebody else answers");
        Ok(())
    })
}

/// A database's address moves to the proxy and back, and its names are the same
/// all the time, and live for a minute.
fn of_a_host_that_becomes_a_proxy(lab: &Lab) -> Result<()> {
    let hosts = [lab.host("db1", &["10.77.0.21/16"])?, lab.host("db2", &["10.77.0.22/16"])?];
    let _servers = [
        hosts[0].tool(&["serve", "db1", "10.77.0.21:3306"])?,
        hosts[1].tool(&["serve", "db2", "10.77.0.22:3306"])?,
    ];
    let ns1 = lab.host("ns1", &[&format!("{NAME_SERVER}/16")])?;
    let zone = ["one 60 A 10.77.0.22", "all 60 A 10.77.0.21", "all 60 A 10.77.0.22"];
    let _bind = named::Named::start(&ns1, NAME_SERVER, &zone)?;
    let scene = Scene::new(lab, Kind::Vipd, plan("", "one.internal", "all.internal"))?;
    scene.proxies.iter().try_for_each(|proxy| named::ask(proxy, NAME_SERVER))?;
    let vipd = scene.vipd(0)?;
    let all = ["one", "all@10.77.0.21:3306", "all@10.77.0.22:3306"];
    vipd.wait_for_servers(&all, "up", 2 * PATIENCE)?;
    let address = |host: &vipd_tests::lab::Host, verb: &str| {
        host.run("ip", &["addr", verb, "10.77.0.22/16", "dev", "eth0"]).map(drop)
    };
    address(&hosts[1], "del")?;
    address(&scene.proxies[0], "add")?;
    for server in ["single/one", "many/all@10.77.0.22:3306"] {
        poll_until(&format!("{server} is out"), PATIENCE, || {
            // One that vanished and has no sessions is forgotten.
            let why = vipd.try_ctl(&["why", server])?;
            let text = String::from_utf8_lossy(&why.stdout).into_owned();
            Ok(!why.status.success() || text.contains("where listener write listens"))
        })?;
    }
    let events = vipd.ctl(&["events"])?;
    let told = |server: &str| {
        events.lines().any(|l| l.contains(server) && l.contains("10.77.0.22, which is where listener write"))
    };
    ensure!(told("many/all"), "no alarm: {events}");
    scene.client.inside(|| {
        ensure!(Talk::new()?.by()? == "db1", "somebody else answers");
        Ok(())
    })?;
    address(&scene.proxies[0], "del")?;
    address(&hosts[1], "add")?;
    vipd.wait_for_servers(&all, "up", PATIENCE)
}
