//! Cloud mode: no floating address, a name that leads to the proxies.

use crate::{Case, Need};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::{Duration, Instant};
use vipd_tests::lab::vipd::{Config, Vipd};
use vipd_tests::lab::{Host, Lab, Process, dnsd, poll_until};
use vipd_tests::probe::DnsProbe;

const NEEDS: &[Need] = &[Need::Vipd, Need::Dnsd];

pub(crate) const CASES: &[Case] =
    &[Case { name: "dns::a_killed_proxy_leaves_the_answers", needs: NEEDS, run: killed }];

const MS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(15);
const INTERVAL: Duration = Duration::from_millis(250);
const NS1: &str = "10.77.0.53";
const BOTH: &str = "10.77.0.11 10.77.0.12";

/// A client, two proxies without a floating address, a database, and dnsd.
struct Cloud {
    lab: Lab,
    client: Host,
    ns1: Host,
    dnsd: Process,
    proxies: [Host; 2],
    daemons: [Vipd; 2],
    probe: DnsProbe,
    _server: Process,
}

/// The file of both proxies; `dns` is its `[dns]`.
fn config(dns: &str) -> String {
    let nodes = [("px1", "10.77.0.11"), ("px2", "10.77.0.12")];
    let mut config = Config::new(&nodes, INTERVAL, &[]);
    config.vips.clear();
    config.rest = format!(
        "[[listen]]\nname = \"write\"\nbind = \":3306\"\npool = \"db\"\n\
         [[pool]]\nname = \"db\"\nservers = [\"10.77.0.21:3306\"]\n\
         [pool.check]\nkind = \"tcp\"\ninterval = \"250ms\"\n{dns}"
    );
    config.to_text()
}

impl Cloud {
    /// Sets it up, and waits until both proxies are in the answers.
    fn new(lab: &Lab, more: &str) -> Result<Self> {
        let client = lab.host("client", &["10.77.0.50/16"])?;
        let ns1 = lab.host("ns1", &[&format!("{NS1}/16")])?;
        let server = lab.host("db1", &["10.77.0.21/16"])?;
        let serve = server.tool(&["serve", "db1", "10.77.0.21:3306"])?;
        let dnsd = dnsd::start(&ns1, NS1)?;
        let proxies = [lab.host("px1", &["10.77.0.11/16"])?, lab.host("px2", &["10.77.0.12/16"])?];
        let probe = DnsProbe::start(&client, format!("{NS1}:53").parse()?, dnsd::NAME, 2 * MS)?;
        let text = |host: &Host| Ok::<_, anyhow::Error>(config(&dnsd::settings(host, &[NS1], more)?));
        let first = Vipd::start(&proxies[0], &text(&proxies[0])?)?;
        first.wait_for_state("active", PATIENCE)?;
        let second = Vipd::start(&proxies[1], &text(&proxies[1])?)?;
        second.wait_for_state("backup", PATIENCE)?;
        probe.wait_for(BOTH, PATIENCE)?;
        let daemons = [first, second];
        Ok(Self { lab: lab.clone(), client, ns1, dnsd, proxies, daemons, probe, _server: serve })
    }
}

/// The events of a daemon of a kind, the newest last.
fn events(vipd: &Vipd, kind: &str) -> Result<Vec<Value>> {
    let text = vipd.ctl(&["events", "--json"])?;
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).context("an event is no JSON"));
    let all: Vec<Value> = lines.collect::<Result<_>>()?;
    Ok(all.into_iter().filter(|e| e["kind"] == kind).collect())
}

fn killed(lab: &Lab) -> Result<()> {
    let cloud = Cloud::new(lab, "")?;
    let status = cloud.daemons[1].status()?;
    ensure!(status["dns"][0]["in-sync"] == true && status["dns"][0]["writer"] == "px1", "{status}");
    let fault = Instant::now();
    cloud.lab.cut(&cloud.proxies[0])?;
    let gone = cloud.probe.wait_for("10.77.0.12", PATIENCE)?;
    let took = gone.at - fault;
    // Three adverts and the skew of priority 150, and 100 ms.
    let detection = INTERVAL * 3 + INTERVAL * 106 / 256;
    let stray = cloud.probe.since(fault).into_iter().find(|a| !["10.77.0.12", BOTH].contains(&&*a.by));
    ensure!(stray.is_none(), "an answer that is no set: {stray:?}");
    ensure!(
        took < detection + 100 * MS,
        "gone from the answers after {took:?}, detected after {detection:?}"
    );
    let writes = events(&cloud.daemons[1], "dns")?;
    let steps = writes.iter().rev().find_map(|e| e.get("dns")).context("no event of the write")?;
    let (sent, acknowledged) = (steps["sent-us"].as_u64(), steps["acknowledged-us"].as_u64());
    ensure!(sent <= acknowledged && sent < Some(50_000), "{steps}");
    Ok(())
}
