//! Cloud mode: no floating address, a name that leads to the proxies.

use crate::{Case, Need};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};
use vipd_tests::lab::vipd::{Config, Vipd};
use vipd_tests::lab::{Host, Lab, Process, dnsd, poll_until};
use vipd_tests::probe::{DnsProbe, Resolver};
use vipd_tests::route53;
use vipd_tests::scene::write_key;

const NEEDS: &[Need] = &[Need::Vipd, Need::Dnsd];
const EDITS: &[Need] = &[Need::Vipd, Need::Dnsd, Need::Nsupdate];

pub(crate) const CASES: &[Case] = &[
    Case { name: "dns::a_dead_proxy_leaves_the_answers", needs: NEEDS, run: dead },
    Case { name: "dns::a_killed_proxy_leaves_route_53", needs: &[Need::Vipd], run: killed_on_route53 },
    Case { name: "dns::a_dnsd_that_was_away_is_caught_up", needs: NEEDS, run: dnsd_restarts },
    Case { name: "dns::a_dnsd_that_lost_its_journal_gets_the_name_back", needs: NEEDS, run: dnsd_forgets },
    Case { name: "dns::another_proxy_that_dies_leaves_the_answers", needs: NEEDS, run: another },
    Case { name: "dns::another_proxy_dies_with_fast_adverts", needs: NEEDS, run: another_of_fast_adverts },
    Case { name: "dns::a_key_that_was_changed_is_read_again", needs: NEEDS, run: new_key },
    Case { name: "dns::a_switchover_of_the_name_has_the_ttl_fall_first", needs: NEEDS, run: switched },
    Case { name: "dns::an_edit_is_reported_and_repaired_on_request", needs: EDITS, run: edited },
    Case { name: "dns::maintenance_relays_and_then_closes", needs: NEEDS, run: maintenance },
    Case { name: "dns::the_ttl_falls_while_a_change_is_near", needs: NEEDS, run: near },
    Case { name: "dns::a_stop_leaves_the_answers_first", needs: NEEDS, run: stopped },
    Case { name: "dns::an_owner_that_stops_relays_for_old_answers", needs: NEEDS, run: owner_stopped },
    Case { name: "dns::two_writers_that_do_not_hear_each_other_calm_down", needs: NEEDS, run: split },
];

const MS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(15);
const INTERVAL: Duration = Duration::from_millis(250);
const NS1: &str = "10.77.0.53";
const PX1: &str = "10.77.0.11";
const PX2: &str = "10.77.0.12";
const BOTH: &str = "10.77.0.11 10.77.0.12";

/// A client, two proxies without a floating address, a database, and dnsd.
struct Cloud {
    lab: Lab,
    client: Host,
    ns1: Host,
    /// dnsd, or the fake of Route 53.
    dns: Process,
    proxies: [Host; 2],
    daemons: [Vipd; 2],
    probe: DnsProbe,
    _server: Process,
}

/// The file of both proxies; `dns` is its `[dns]`.
fn config(dns: &str) -> String {
    config_with(dns, INTERVAL)
}

fn config_with(dns: &str, interval: Duration) -> String {
    let nodes = [("px1", "10.77.0.11"), ("px2", "10.77.0.12")];
    let mut config = Config::new(&nodes, interval, &[]);
    config.vips.clear();
    config.rest = format!(
        "[[listen]]\nname = \"write\"\nbind = \":3306\"\npool = \"db\"\n\
         [[pool]]\nname = \"db\"\nservers = [\"10.77.0.21:3306\"]\n\
         [pool.check]\nkind = \"tcp\"\ninterval = \"250ms\"\n{dns}"
    );
    config.to_text()
}

impl Cloud {
    /// Sets it up with dnsd, and waits until both proxies are in the answers.
    fn new(lab: &Lab, more: &str) -> Result<Self> {
        Self::with_settings(lab, |host| dnsd::settings(host, &[NS1], more))
    }

    /// With this interval of adverts, and no pause between changes.
    fn with_interval(lab: &Lab, interval: Duration) -> Result<Self> {
        let ns1 = lab.host("ns1", &[&format!("{NS1}/16")])?;
        let dnsd = dnsd::start(&ns1, NS1)?;
        Self::with(lab, ns1, dnsd, &[], |host| {
            Ok(config_with(&dnsd::settings(host, &[NS1], "hold-down = \"0s\"")?, interval))
        })
    }

    fn with_settings(lab: &Lab, settings: impl Fn(&Host) -> Result<String>) -> Result<Self> {
        let ns1 = lab.host("ns1", &[&format!("{NS1}/16")])?;
        let dnsd = dnsd::start(&ns1, NS1)?;
        Self::with(lab, ns1, dnsd, &[], |host| Ok(config(&settings(host)?)))
    }

    fn with(
        lab: &Lab,
        ns1: Host,
        dns: Process,
        environment: &[(&str, &str)],
        settings: impl Fn(&Host) -> Result<String>,
    ) -> Result<Self> {
        Self::published(lab, ns1, dns, environment, BOTH, settings)
    }

    /// Sets it up, and waits until the answers are these.
    fn published(
        lab: &Lab,
        ns1: Host,
        dns: Process,
        environment: &[(&str, &str)],
        answers: &str,
        settings: impl Fn(&Host) -> Result<String>,
    ) -> Result<Self> {
        let client = lab.host("client", &["10.77.0.50/16"])?;
        let server = lab.host("db1", &["10.77.0.21/16"])?;
        let serve = server.tool(&["serve", "db1", "10.77.0.21:3306"])?;
        let proxies = [lab.host("px1", &["10.77.0.11/16"])?, lab.host("px2", &["10.77.0.12/16"])?];
        let probe = DnsProbe::start(&client, format!("{NS1}:53").parse()?, dnsd::NAME, 2 * MS)?;
        let start = |host: &Host| Vipd::start_with_env(host, &settings(host)?, environment);
        let first = start(&proxies[0])?;
        first.wait_for_state("active", PATIENCE)?;
        let second = start(&proxies[1])?;
        second.wait_for_state("backup", PATIENCE)?;
        probe.wait_for(answers, PATIENCE)?;
        let daemons = [first, second];
        let cloud = Self { lab: lab.clone(), client, ns1, dns, proxies, daemons, probe, _server: serve };
        for daemon in &cloud.daemons {
            wait_for_sync(daemon)?;
        }
        Ok(cloud)
    }

    /// A session of the client by way of a proxy's own address.
    fn session(&self, proxy: &'static str) -> Result<BufReader<TcpStream>> {
        let stream = self.client.inside(|| {
            let stream =
                TcpStream::connect((proxy, 3306)).with_context(|| format!("cannot connect to {proxy}"))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })?;
        let mut session = BufReader::new(stream);
        ask(&mut session).with_context(|| format!("no answer by {proxy}"))?;
        Ok(session)
    }
}

/// A line to the database and its answer; an error once the session has ended.
fn ask(session: &mut BufReader<TcpStream>) -> Result<()> {
    session.get_mut().write_all(b"hello\n")?;
    let mut line = String::new();
    session.read_line(&mut line)?;
    ensure!(line.starts_with("db1"), "the session has ended: {line:?}");
    Ok(())
}

/// When the session is closed by the proxy, asking it now and then.
fn wait_for_end(session: &mut BufReader<TcpStream>) -> Result<Instant> {
    let deadline = Instant::now() + PATIENCE;
    session.get_ref().set_read_timeout(Some(20 * MS))?;
    loop {
        ensure!(Instant::now() < deadline, "the session is still open");
        let mut line = String::new();
        match session.read_line(&mut line) {
            Ok(0) => return Ok(Instant::now()),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(Instant::now()),
            Err(e) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&e.kind()) => {}
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn wait_for_sync(vipd: &Vipd) -> Result<()> {
    poll_until(&format!("{} sees the records in sync", vipd.host().name()), PATIENCE, || {
        Ok(vipd.status()?["dns"][0]["in-sync"] == true)
    })
}

/// The events of a daemon of a kind, the newest last.
fn events(vipd: &Vipd, kind: &str) -> Result<Vec<Value>> {
    let text = vipd.ctl(&["events", "--json"])?;
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).context("an event is no JSON"));
    let all: Vec<Value> = lines.collect::<Result<_>>()?;
    Ok(all.into_iter().filter(|e| e["kind"] == kind).collect())
}

/// Three adverts and the skew of priority 150.
const DETECTION: Duration = Duration::from_micros(250_000 * 3 + 250_000 * 106 / 256);

/// The steps of a node's last write to a place.
fn last_write(vipd: &Vipd) -> Result<(u64, u64)> {
    let all = events(vipd, "dns")?;
    let steps = all.iter().rev().find_map(|e| e.get("dns")).context("no event of a write")?;
    let step = |name: &str| steps[name].as_u64().with_context(|| format!("{name} is no number: {steps}"));
    Ok((step("sent-us")?, step("acknowledged-us")?))
}

/// The power of the proxy that writes goes off.
fn dead(lab: &Lab) -> Result<()> {
    let cloud = Cloud::new(lab, "")?;
    let status = cloud.daemons[1].status()?;
    ensure!(status["dns"][0]["writer"] == "px1" && status["dns"][0]["published"][1] == PX2, "{status}");
    let fault = Instant::now();
    cloud.lab.cut(&cloud.proxies[0])?;
    let gone = cloud.probe.wait_for(PX2, PATIENCE)?;
    let took = gone.at - fault;
    let stray = cloud.probe.since(fault).into_iter().find(|a| ![PX2, BOTH].contains(&&*a.by));
    ensure!(stray.is_none(), "an answer that is no set: {stray:?}");
    ensure!(
        took < DETECTION + 100 * MS,
        "gone from the answers after {took:?}, detected after {DETECTION:?}"
    );
    let (sent, acknowledged) = last_write(&cloud.daemons[1])?;
    ensure!(sent <= acknowledged && acknowledged < 100_000, "sent {sent} us, acknowledged {acknowledged} us");
    // Back, it is in the answers again, and takes nothing over.
    cloud.lab.mend(&cloud.proxies[0])?;
    cloud.probe.wait_for(BOTH, PATIENCE)?;
    ensure!(cloud.daemons[1].status()?["dns"][0]["writer"] == "px2", "px1 took over again");
    let why = cloud.daemons[1].ctl(&["why", "db.corp.example"])?;
    ensure!(why.contains("px2 writes; px1 is in; px2 is in"), "{why}");
    Ok(())
}

/// The power of the proxy that does not write goes off: no advert of it is
/// missed, and still it is gone as soon as one that owns would be.
fn another_dies(lab: &Lab, interval: Duration) -> Result<()> {
    let cloud = Cloud::with_interval(lab, interval)?;
    // A writer that has just started takes nobody out yet; once it has, it does.
    cloud.lab.cut(&cloud.proxies[1])?;
    cloud.probe.wait_for(PX1, PATIENCE)?;
    cloud.lab.mend(&cloud.proxies[1])?;
    cloud.probe.wait_for(BOTH, PATIENCE)?;
    let fault = Instant::now();
    cloud.lab.cut(&cloud.proxies[1])?;
    let gone = cloud.probe.wait_for(PX1, PATIENCE)?;
    let (took, detection) = (gone.at - fault, interval * 3 + interval * 106 / 256);
    let (sent, acknowledged) = last_write(&cloud.daemons[0])?;
    let steps = format!(
        "adverts every {interval:?}: gone after {took:?}, an owner's death would show after {detection:?}; \
         sent {sent} us after the decision, acknowledged {acknowledged} us"
    );
    eprintln!("{steps}");
    ensure!(took < detection + 100 * MS && acknowledged < 100_000, "{steps}");
    cloud.daemons[0].process().wait_for_line("px2 is silent for", PATIENCE)?;
    cloud.lab.mend(&cloud.proxies[1])?;
    cloud.probe.wait_for(BOTH, PATIENCE)?;
    Ok(())
}

fn another(lab: &Lab) -> Result<()> {
    another_dies(lab, INTERVAL)
}

fn another_of_fast_adverts(lab: &Lab) -> Result<()> {
    another_dies(lab, 50 * MS)
}

/// The server has a new key, and the file gets it while vipd runs.
fn new_key(lab: &Lab) -> Result<()> {
    let mut cloud = Cloud::new(lab, "")?;
    let new = "YSBuZXcgc2VjcmV0LCBhbmQgYXMgbG9uZyBhcyBvbmU=";
    cloud.dns.signal(Signal::SIGTERM)?;
    cloud.dns.wait(PATIENCE)?;
    cloud.dns = dnsd::start_with(&cloud.ns1, NS1, new)?;
    cloud.daemons[0].process().wait_for_line("BADSIG", PATIENCE)?;
    let status = cloud.daemons[0].status()?;
    ensure!(
        status["dns"][0]["stores"][0]["error"].as_str().is_some_and(|e| e.contains("BADSIG")),
        "{status}"
    );
    // The records are there all the same, and so are the sessions' ways.
    cloud.session(PX1)?;
    for proxy in &cloud.proxies {
        proxy.write_file("tsig.key", new)?;
    }
    cloud.daemons[0].process().wait_for_line("is as it should be again", PATIENCE)?;
    for daemon in &cloud.daemons {
        wait_for_sync(daemon)?;
    }
    // It writes with it, too.
    cloud.daemons[1].ctl(&["maintenance", "on", "--yes"])?;
    cloud.probe.wait_for(PX1, PATIENCE)?;
    Ok(())
}

/// `policy = "owner"`: the name itself is handed over.
fn switched(lab: &Lab) -> Result<()> {
    let ns1 = lab.host("ns1", &[&format!("{NS1}/16")])?;
    let dnsd = dnsd::start(&ns1, NS1)?;
    let cloud = Cloud::published(lab, ns1, dnsd, &[], PX1, |host| {
        let text = dnsd::settings(host, &[NS1], "policy = \"owner\"")?;
        Ok(config(&text.replacen("ttl = \"1s\"", "ttl = \"5s\"", 1)))
    })?;
    let before = Instant::now();
    cloud.daemons[0].ctl(&["switchover", "dns", "--yes"])?;
    let moved = cloud.probe.wait_for(PX2, PATIENCE)?;
    ensure!(moved.at - before < 1_500 * MS, "the name moved after {:?}", moved.at - before);
    // First px1 has told everybody to ask again soon, then px2 wrote.
    let lines = events(&cloud.daemons[0], "dns")?;
    let low =
        lines.iter().filter_map(|e| e["message"].as_str()).rev().find(|m| m.contains("has 10.77.0.11 now"));
    ensure!(low.is_some_and(|m| m.contains("TTL 1 s")), "{lines:?}");
    cloud.daemons[1].process().wait_for_line("has 10.77.0.12 now", PATIENCE)?;
    Ok(())
}

fn killed_on_route53(lab: &Lab) -> Result<()> {
    let ns1 = lab.host("ns1", &[&format!("{NS1}/16")])?;
    let fake = ns1.tool(&["route53", NS1])?;
    let dns = format!(
        "[dns]\nname = \"{}\"\nttl = \"1s\"\n[dns.route53]\nzone-id = \"{}\"\nendpoint-url = \"http://{NS1}:{}\"\n",
        dnsd::NAME,
        route53::ZONE_ID,
        route53::API_PORT
    );
    // Clouds drop VRRP's protocol.
    let cloud = Cloud::with(lab, ns1, fake, &route53::CREDENTIALS, |host| {
        let cluster = format!("[cluster]\nkey-file = {:?}", write_key(host, &"1".repeat(64))?);
        let text = config(&dns).replacen("[cluster]", &cluster, 1);
        Ok(text.replacen("[election]", "[election]\ntransport = \"udp\"", 1))
    })?;
    cloud.daemons[0].process().wait_for_line("answers by the last change everywhere", PATIENCE)?;
    let fault = Instant::now();
    cloud.daemons[0].process().signal(Signal::SIGKILL)?;
    let gone = cloud.probe.wait_for(PX2, PATIENCE)?;
    let took = gone.at - fault;
    let stray = cloud.probe.since(fault).into_iter().find(|a| ![PX2, BOTH].contains(&&*a.by));
    ensure!(stray.is_none(), "an answer that is no set: {stray:?}");
    ensure!(took < DETECTION + 200 * MS, "gone from the answers after {took:?}");
    let (sent, acknowledged) = last_write(&cloud.daemons[1])?;
    ensure!(sent < 50_000, "sent {sent} us after the decision, acknowledged {acknowledged} us");
    cloud.daemons[1].process().wait_for_line("answers by the last change everywhere", PATIENCE)?;
    Ok(())
}

fn dnsd_restarts(lab: &Lab) -> Result<()> {
    let mut cloud = Cloud::new(lab, "")?;
    cloud.dns.signal(Signal::SIGKILL)?;
    cloud.dns.wait(PATIENCE)?;
    cloud.lab.cut(&cloud.proxies[0])?;
    cloud.daemons[1].wait_for_state("active", PATIENCE)?;
    poll_until("the error is told", PATIENCE, || {
        let status = cloud.daemons[1].status()?;
        let store = &status["dns"][0]["stores"][0];
        Ok(store["in-sync"] == false
            && store["error"].as_str().is_some_and(|e| e.contains("cannot be reached")))
    })?;
    // The proxy serves all the same.
    cloud.session(PX2)?;
    cloud.dns = dnsd::start(&cloud.ns1, NS1)?;
    cloud.probe.wait_for(PX2, PATIENCE)?;
    wait_for_sync(&cloud.daemons[1])?;
    cloud.daemons[1].process().wait_for_line("is as it should be again", PATIENCE)?;
    Ok(())
}

/// The disk of the server is gone, and no proxy is started again.
fn dnsd_forgets(lab: &Lab) -> Result<()> {
    let mut cloud = Cloud::new(lab, "")?;
    let epoch = |cloud: &Cloud| -> Result<u64> {
        Ok(cloud.daemons[0].status()?["dns"][0]["epoch"].as_u64().unwrap_or(0))
    };
    let before = epoch(&cloud)?;
    cloud.dns.signal(Signal::SIGKILL)?;
    cloud.dns.wait(PATIENCE)?;
    cloud.ns1.run("rm", &["-r", &cloud.ns1.dir().join("state").to_string_lossy()])?;
    cloud.dns = dnsd::start(&cloud.ns1, NS1)?;
    poll_until("it is written again, and no epoch is used twice", PATIENCE, || {
        Ok(before > 0 && epoch(&cloud)? > before)
    })?;
    cloud.daemons[0].process().wait_for_line("was gone, lease and all: written again", PATIENCE)?;
    cloud.probe.wait_for(BOTH, PATIENCE)?;
    wait_for_sync(&cloud.daemons[0])
}

/// Somebody changes the records by hand.
fn edit(host: &Host, address: &str) -> Result<()> {
    let script = format!(
        "server {NS1} 53\nzone {}\nupdate delete {name} A\nupdate add {name} 1 A {address}\nsend\n",
        dnsd::ZONE,
        name = dnsd::NAME
    );
    let file = host.write_file("edit", &script)?;
    let key = format!("hmac-sha256:vipd.:{}", dnsd::SECRET);
    host.run("nsupdate", &["-y", &key, &file.to_string_lossy()])?;
    Ok(())
}

fn edited(lab: &Lab) -> Result<()> {
    let cloud = Cloud::new(lab, "")?;
    edit(&cloud.client, "10.77.0.99")?;
    cloud.probe.wait_for("10.77.0.99", PATIENCE)?;
    cloud.daemons[0].process().wait_for_line("the records were edited", PATIENCE)?;
    let status = cloud.daemons[0].status()?;
    ensure!(status["dns"][0]["in-sync"] == false, "{status}");
    ensure!(status["dns"][0]["published"][0] == "10.77.0.99", "{status}");
    // They are left alone until the file says otherwise.
    for (host, daemon) in cloud.proxies.iter().zip(&cloud.daemons) {
        let text = config(&dnsd::settings(host, &[NS1], "repair = true")?);
        host.write_file("vipd.toml", &text)?;
        daemon.ctl(&["reload"])?;
    }
    cloud.probe.wait_for(BOTH, PATIENCE)?;
    wait_for_sync(&cloud.daemons[0])
}

fn maintenance(lab: &Lab) -> Result<()> {
    let cloud = Cloud::new(lab, "")?;
    let mut session = cloud.session(PX1)?;
    let began = Instant::now();
    cloud.daemons[0].ctl(&["maintenance", "on", "--yes"])?;
    cloud.probe.wait_for(PX2, PATIENCE)?;
    // Clients with old answers still come, and are served.
    ask(&mut session)?;
    cloud.session(PX1)?;
    let ended = wait_for_end(&mut session)?;
    // Three times the TTL of one second.
    let kept = ended - began;
    ensure!(kept >= Duration::from_secs(3) && kept < Duration::from_secs(5), "closed after {kept:?}");
    cloud.daemons[0].ctl(&["maintenance", "off", "--yes"])?;
    cloud.probe.wait_for(BOTH, PATIENCE)?;
    Ok(())
}

fn near(lab: &Lab) -> Result<()> {
    let cloud = Cloud::with_settings(lab, |host| {
        let text = dnsd::settings(host, &[NS1], "hold-down = \"3s\"")?;
        Ok(text.replacen("ttl = \"1s\"", "ttl = \"5s\"", 1))
    })?;
    let resolver = Resolver::new(&cloud.client, format!("{NS1}:53").parse()?, dnsd::NAME)?;
    let wait_for = |count: usize, ttl: u32| {
        poll_until(&format!("the answer is of {count} addresses with a TTL of {ttl} s"), PATIENCE, || {
            Ok(resolver.ask_with_ttl().is_ok_and(|(addresses, t)| addresses.len() == count && t == ttl))
        })
    };
    // The start was calm, or has calmed down.
    wait_for(2, 5)?;
    cloud.daemons[1].ctl(&["maintenance", "on", "--yes"])?;
    wait_for(1, 5)?;
    // It waits for the hold-down to come back: until then clients ask often.
    cloud.daemons[1].ctl(&["maintenance", "off", "--yes"])?;
    wait_for(1, 1)?;
    let why = cloud.daemons[0].ctl(&["why", "db.corp.example"])?;
    ensure!(why.contains("a change is near: it waits for the hold-down"), "{why}");
    wait_for(2, 1)?;
    // Who does not write does not take that for a fault.
    wait_for_sync(&cloud.daemons[1])?;
    wait_for(2, 5)?;
    wait_for_sync(&cloud.daemons[1])
}

fn stopped(lab: &Lab) -> Result<()> {
    stops(lab, "", BOTH)
}

/// `policy = "owner"`: there is nobody to take out before another owns.
fn owner_stopped(lab: &Lab) -> Result<()> {
    stops(lab, "policy = \"owner\"", PX1)
}

fn stops(lab: &Lab, policy: &str, answers: &str) -> Result<()> {
    let systemd =
        UnixDatagram::bind(lab.outside(Path::new("/run/notify"))).context("cannot stand in for systemd")?;
    systemd.set_read_timeout(Some(PATIENCE))?;
    let ns1 = lab.host("ns1", &[&format!("{NS1}/16")])?;
    let dnsd = dnsd::start(&ns1, NS1)?;
    let environment = [("NOTIFY_SOCKET", "/run/notify")];
    let cloud = Cloud::published(lab, ns1, dnsd, &environment, answers, |host| {
        Ok(config(&dnsd::settings(host, &[NS1], policy)?))
    })?;
    let mut session = cloud.session(PX1)?;
    let began = Instant::now();
    cloud.daemons[0].process().signal(Signal::SIGTERM)?;
    let gone = cloud.probe.wait_for(PX2, PATIENCE)?;
    // px2 came into the answers a moment ago: the hold-down of one second counts.
    ensure!(gone.at - began < 1_200 * MS, "gone from the answers after {:?}", gone.at - began);
    // It is px1 itself that wrote that; or px2, which owns.
    let (writer, unseen) = if answers == BOTH { (0, 0) } else { (1, 2) };
    cloud.daemons[writer].process().wait_for_line("has 10.77.0.12 now", PATIENCE)?;
    ask(&mut session)?;
    cloud.session(PX1)?;
    cloud.daemons[1].wait_for_state("active", PATIENCE)?;
    // systemd hears how long this takes before it loses its patience: three TTLs, and ten seconds more.
    let mut buffer = [0; 4096];
    let asked = std::iter::repeat_with(|| {
        systemd.recv(&mut buffer).map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
    })
    .find(|said| !matches!(said, Ok(said) if !said.starts_with("EXTEND_")))
    .context("nothing is said")??;
    let asked = asked.trim_end().strip_prefix("EXTEND_TIMEOUT_USEC=").unwrap_or_default();
    let asked = asked.parse().map(Duration::from_micros).with_context(|| format!("no time: '{asked}'"))?;
    // And two more where it was not seen that it is out.
    ensure!((Duration::from_secs(12)..=Duration::from_secs(13 + unseen)).contains(&asked), "{asked:?}");
    let ended = wait_for_end(&mut session)?;
    ensure!(ended - began >= Duration::from_secs(3), "closed after {:?}", ended - began);
    let status = cloud.daemons[0].process().wait(PATIENCE)?;
    ensure!(status.success(), "vipd ends with {status}");
    Ok(())
}

/// What the answers were since then, each with how long it stayed.
fn turns(cloud: &Cloud, since: Instant) -> Vec<(String, Duration)> {
    let mut turns: Vec<(String, Instant, Instant)> = vec![];
    for answer in cloud.probe.since(since) {
        match turns.last_mut() {
            Some((by, _, last)) if **by == *answer.by => *last = answer.at,
            Some(_) | None => turns.push((answer.by.to_string(), answer.at, answer.at)),
        }
    }
    turns.into_iter().map(|(by, first, last)| (by, last - first)).collect()
}

/// Both reach the server, and not each other: each one finds the other's records
/// there and puts its own in their place, but after a longer time each time.
fn split(lab: &Lab) -> Result<()> {
    const CALM: Duration = Duration::from_secs(15);
    let cloud = Cloud::new(lab, "")?;
    let fault = Instant::now();
    lab.partition(&cloud.proxies[0], &cloud.proxies[1])?;
    // Long enough for what waits 5, 10 and 20 seconds, and looks every 5.
    poll_until("the answers stay as they are", Duration::from_secs(150), || {
        Ok(turns(&cloud, fault).last().is_some_and(|(_, stayed)| *stayed >= CALM))
    })?;
    let turns = turns(&cloud, fault);
    let stray = turns.iter().find(|(by, _)| ![PX1, PX2, BOTH].contains(&&**by));
    ensure!(stray.is_none(), "an answer that is no set of those who serve: {stray:?}");
    // The first is of before, the last one lasts.
    let fought = turns.get(1..turns.len() - 1).unwrap_or_default();
    ensure!((4..=14).contains(&fought.len()), "they took {} turns: {turns:?}", fought.len());
    let (early, late) = fought.split_at(fought.len() / 2);
    let sum = |turns: &[(String, Duration)]| turns.iter().map(|(_, stayed)| *stayed).sum::<Duration>();
    ensure!(sum(late) > sum(early), "they do not wait longer: {turns:?}");
    // Whoever is on call hears of it from both.
    for daemon in &cloud.daemons {
        let told = events(daemon, "dns")?;
        let alarm = told.iter().find(|e| {
            e["level"] == "warning"
                && e["message"].as_str().is_some_and(|m| m.contains("writes too, and wrote"))
        });
        ensure!(alarm.is_some(), "{} says nothing: {told:?}", daemon.host().name());
    }
    lab.heal()?;
    cloud.probe.wait_for(BOTH, PATIENCE)?;
    wait_for_sync(&cloud.daemons[0])
}
