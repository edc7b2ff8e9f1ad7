//! Clients through the balancer: servers that die, limits, databases.

use crate::{Case, Need};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use vipd_tests::lab::{Host, Lab, Process, mariadb, poll_until};
use vipd_tests::probe::connect::Summary;
use vipd_tests::probe::sql::Work;
use vipd_tests::probe::{ConnectProbe, SqlClient};
use vipd_tests::scene::{Kind, PROXIES, Plan, Scene, VIP};

const VIPD: &[Need] = &[Need::Vipd];

pub(crate) const CASES: &[Case] = &[
    Case { name: "balancer::server_killed", needs: VIPD, run: server_killed },
    Case { name: "balancer::server_unplugged", needs: VIPD, run: server_unplugged },
    Case { name: "balancer::max_connections", needs: VIPD, run: max_connections },
    Case { name: "balancer::descriptors_run_out", needs: VIPD, run: descriptors_run_out },
    Case { name: "balancer::sessions", needs: VIPD, run: sessions },
    Case { name: "balancer::second_signal_ends_the_drain", needs: VIPD, run: second_signal_ends_the_drain },
    Case { name: "balancer::lost_vip_closes_sessions", needs: VIPD, run: lost_vip_closes_sessions },
    Case { name: "balancer::reload_closes_sessions", needs: VIPD, run: reload_closes_sessions },
    Case { name: "balancer::reload_removes_servers", needs: VIPD, run: reload_removes_servers },
    Case { name: "balancer::mariadb_roles", needs: &[Need::Vipd, Need::Mariadb], run: mariadb_roles },
];

const PATIENCE: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const ADDRESSES: [&str; 3] = ["10.77.0.21", "10.77.0.22", "10.77.0.23"];

fn target(port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(VIP.parse::<IpAddr>()?, port))
}

fn servers_text() -> String {
    let entry = |(n, a): (usize, &&str)| format!("{{ name = \"db{}\", address = \"{a}:3306\" }}", n + 1);
    ADDRESSES.iter().enumerate().map(entry).collect::<Vec<_>>().join(", ")
}

/// A plan with one listener on three servers.
fn plan(listener: &str) -> Plan {
    let mut plan = Plan::new(100 * MS);
    plan.rest = format!(
        "[[listen]]\nname = \"write\"\nbind = \"{VIP}:3306\"\npool = \"servers\"\n{listener}\n\
         [[pool]]\nname = \"servers\"\nservers = [{}]\n\
         [pool.check]\nkind = \"tcp\"\ninterval = \"100ms\"\ntimeout = \"200ms\"\nrise = 1\nfall = 2\n",
        servers_text()
    );
    plan
}

fn hosts(lab: &Lab) -> Result<Vec<Host>> {
    let host = |(n, a): (usize, &&str)| lab.host(&format!("db{}", n + 1), &[&format!("{a}/16")]);
    ADDRESSES.iter().enumerate().map(host).collect()
}

fn serve(host: &Host, address: &str) -> Result<Process> {
    host.tool(&["serve", host.name(), &format!("{address}:3306")])
}

/// The scene, the servers' hosts and the servers, all up.
fn scene(lab: &Lab, listener: &str) -> Result<(Scene, Vec<Host>, Vec<Process>)> {
    let hosts = hosts(lab)?;
    let servers = hosts.iter().zip(ADDRESSES).map(|(h, a)| serve(h, a)).collect::<Result<Vec<_>>>()?;
    let scene = Scene::new(lab, Kind::Vipd, plan(listener))?;
    scene.vipd(0)?.wait_for_servers(&["db1", "db2", "db3"], "up", PATIENCE)?;
    Ok((scene, hosts, servers))
}

/// The servers that answered the attempts since `since`.
fn names(probe: &ConnectProbe, since: Instant) -> BTreeSet<String> {
    probe.attempts(since).iter().filter_map(|a| a.by.as_deref().map(ToOwned::to_owned)).collect()
}

/// A dead server costs no new connection: another one is tried.
fn server_killed(lab: &Lab) -> Result<()> {
    let (scene, hosts, mut servers) = scene(lab, "")?;
    let probe = ConnectProbe::start(&scene.client, target(3306)?, 2 * MS, 3 * SECOND)?;
    let start = Instant::now();
    poll_until("all three serve", PATIENCE, || Ok(names(&probe, start).len() == 3))?;
    servers[1].signal(Signal::SIGKILL)?;
    servers[1].wait(PATIENCE)?;
    let killed = Instant::now();
    scene.vipd(0)?.wait_for_servers(&["db2"], "down", PATIENCE)?;
    let known = Instant::now();
    probe.wait_answered(PATIENCE)?;
    poll_until("many are answered", PATIENCE, || Ok(probe.attempts(known).len() > 100))?;
    ensure!(!names(&probe, known).contains("db2"), "a dead server answers");
    servers[1] = serve(&hosts[1], ADDRESSES[1])?;
    let again = Instant::now();
    poll_until("db2 serves again", PATIENCE, || Ok(names(&probe, again).contains("db2")))?;
    let all = probe.finish(start)?;
    // A session on it at its death is lost with it: those that began at least a moment later are not.
    let later: Vec<_> = all.into_iter().filter(|a| a.at >= killed).collect();
    let summary = Summary::of(&later);
    ensure!(summary.answered > 100 && summary.failed() == 0, "{summary:?}");
    Ok(())
}

/// A server that vanishes without a word costs time, but no new connection.
fn server_unplugged(lab: &Lab) -> Result<()> {
    let (scene, hosts, _servers) = scene(lab, "")?;
    let probe = ConnectProbe::start(&scene.client, target(3306)?, 5 * MS, 8 * SECOND)?;
    probe.wait_answered(PATIENCE)?;
    lab.cut(&hosts[0])?;
    let cut = Instant::now();
    scene.vipd(0)?.wait_for_servers(&["db1"], "down", PATIENCE)?;
    let known = Instant::now();
    poll_until("many are answered", PATIENCE, || Ok(probe.attempts(known).len() > 50))?;
    let summary = Summary::of(&probe.finish(cut + 20 * MS)?);
    ensure!(summary.answered > 50 && summary.failed() == 0, "{summary:?}");
    Ok(())
}

/// The third of two connections waits until one of them ends.
fn max_connections(lab: &Lab) -> Result<()> {
    let (scene, _hosts, _servers) = scene(lab, "max-connections = 2")?;
    let target = target(3306)?;
    scene.client.inside(|| {
        let mut first = Session::open(target)?;
        let mut second = Session::open(target)?;
        first.ask()?;
        second.ask()?;
        let mut third = Session::open(target)?;
        third.set_patience(300 * MS)?;
        let early = third.ask();
        ensure!(early.as_ref().is_err_and(Session::is_timeout), "the third is served: {early:?}");
        drop(first);
        third.set_patience(PATIENCE)?;
        third.listen().context("the third is not served when the first has ended")?;
        second.ask().context("the second suffers")?;
        Ok(())
    })
}

/// More clients than the daemon has descriptors for: those beyond are refused
/// and counted, and the rest of the daemon does not suffer.
fn descriptors_run_out(lab: &Lab) -> Result<()> {
    const DESCRIPTORS: u32 = 600;
    let hosts = hosts(lab)?;
    let _servers = hosts.iter().zip(ADDRESSES).map(|(h, a)| serve(h, a)).collect::<Result<Vec<_>>>()?;
    let plan = Plan { descriptors: Some(DESCRIPTORS), ..plan("") };
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let vipd = scene.vipd(0)?;
    vipd.wait_for_servers(&["db1", "db2", "db3"], "up", PATIENCE)?;
    let (target, began) = (target(3306)?, Instant::now());
    let served = scene.client.inside(|| {
        let sessions: Vec<_> = (0..DESCRIPTORS).filter_map(|_| Session::open(target).ok()).collect();
        let served = |mut session: Session| session.ask().is_ok().then_some(session);
        let mut sessions: Vec<_> = sessions.into_iter().filter_map(served).collect();
        // Each takes two, and some are kept for the rest of the daemon.
        let served = sessions.len();
        ensure!(served > 100 && served < DESCRIPTORS as usize / 2, "{served} are served");
        // Checks, adverts and operators go on while that lasts.
        let checked = || -> Result<u64> {
            let status = vipd.status()?;
            Ok(status["pools"][0]["servers"][0]["check"]["total"].as_u64().unwrap_or_default())
        };
        let before = checked()?;
        poll_until("the servers are checked", PATIENCE, || Ok(checked()? >= before + 10))?;
        vipd.wait_for_servers(&["db1", "db2", "db3"], "up", SECOND)?;
        let going_on = sessions.iter_mut().all(|s| s.ask().is_ok());
        ensure!(going_on, "a session that was served has ended");
        Ok(served)
    })?;
    let status = vipd.status()?;
    let refused = status["listeners"][0]["closed"]["no-resources"].as_u64().unwrap_or_default();
    ensure!(
        refused as usize + served >= DESCRIPTORS as usize,
        "{refused} refused, {served} served: {status}"
    );
    let moves = lab.addresses().changes(Scene::vip(), began);
    ensure!(moves.is_empty(), "the address moved: {moves:?}");
    scene.client.inside(|| {
        poll_until("there is room again", PATIENCE, || {
            Ok(Session::open(target).and_then(|mut s| s.ask()).is_ok())
        })
    })
}

/// A session is listed, killed, and a line in the access log.
fn sessions(lab: &Lab) -> Result<()> {
    let (scene, _hosts, _servers) = scene(lab, "access-log = true")?;
    let (target, vipd) = (target(3306)?, scene.vipd(0)?);
    scene.client.inside(|| {
        let mut session = Session::open(target)?;
        session.ask()?;
        let list: serde_json::Value = serde_json::from_str(&vipd.ctl(&["sessions", "write", "--json"])?)?;
        let client = session.stream.get_ref().local_addr()?.to_string();
        let listed = &list["sessions"][0];
        ensure!(listed["client"] == *client && listed["state"] == "relaying", "{list}");
        let id = listed["id"].to_string();
        ensure!(vipd.ctl(&["sessions", "kill", &id, "--yes"])? == "reset 1 session\n");
        let end = session.ask();
        ensure!(end.is_err(), "it goes on: {end:?}");
        let (_, line) = vipd.process().wait_for_line("cause=killed", PATIENCE)?;
        ensure!(line.contains(&client) && line.contains(&format!("id={id}")), "{line}");
        Ok(())
    })
}

/// A stopping daemon waits for sessions on the host's own address, until it is told again.
fn second_signal_ends_the_drain(lab: &Lab) -> Result<()> {
    let hosts = hosts(lab)?;
    let _server = serve(&hosts[0], ADDRESSES[0])?;
    let mut plan = plan("");
    plan.rest.push_str("[[listen]]\nname = \"any\"\nbind = \":3307\"\npool = \"servers\"\n");
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    scene.vipd(0)?.wait_for_servers(&["db1"], "up", PATIENCE)?;
    let process = scene.daemons[0].process();
    scene.client.inside(|| {
        let mut session = Session::open(SocketAddr::new(PROXIES[0].parse()?, 3307))?;
        session.ask()?;
        process.signal(Signal::SIGTERM)?;
        process.wait_for_line("a second signal ends them", PATIENCE)?;
        session.ask().context("the first signal ended the session")?;
        process.signal(Signal::SIGTERM)?;
        // Without the second it would wait for ten.
        process.wait(5 * SECOND)?;
        let end = session.ask();
        ensure!(end.is_err(), "it goes on: {end:?}");
        Ok(())
    })?;
    process.wait_for_line("told to stop again", SECOND)?;
    Ok(())
}

/// A host that has lost the address keeps no session on it, and the next
/// owner serves.
fn lost_vip_closes_sessions(lab: &Lab) -> Result<()> {
    let (scene, _hosts, _servers) = scene(lab, "")?;
    let target = target(3306)?;
    let sessions = |vipd: usize| Ok(scene.vipd(vipd)?.status()?["listeners"][0]["sessions"].as_u64());
    scene.client.inside(|| {
        let mut session = Session::open(target)?;
        session.ask()?;
        let counted: Result<_> = sessions(0);
        ensure!(counted? == Some(1), "the session is not counted");
        lab.cut(&scene.proxies[0])?;
        lab.addresses().wait_for(Scene::vip(), &["px2"], PATIENCE)?;
        poll_until("px1 has no session any more", PATIENCE, || Ok(sessions(0)? == Some(0)))?;
        Session::open(target)?.ask().context("px2 serves nobody")?;
        Ok(())
    })
}

/// Sessions on an address that a reload takes away are closed; those on the
/// one that stays go on.
fn reload_closes_sessions(lab: &Lab) -> Result<()> {
    const GOES: &str = "10.77.0.101";
    let hosts = hosts(lab)?;
    let _server = serve(&hosts[0], ADDRESSES[0])?;
    let mut plan = plan("");
    plan.groups[0].1.push(format!("{GOES}/16"));
    plan.rest = plan.rest.replace(&format!("bind = \"{VIP}:3306\""), "bind = \":3306\"");
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    scene.vipd(0)?.wait_for_servers(&["db1"], "up", PATIENCE)?;
    scene.client.inside(|| {
        let mut stays = Session::open(target(3306)?)?;
        let mut goes = Session::open(SocketAddr::new(GOES.parse()?, 3306))?;
        stays.ask()?;
        goes.ask()?;
        // It says nothing: the client must hear of the end by itself, and comes again at once.
        goes.set_patience(PATIENCE)?;
        let again = SocketAddr::new(GOES.parse()?, 3306);
        let comes_again = std::thread::spawn(move || {
            let end = goes.listen();
            (end, Session::open(again).and_then(|mut s| s.ask()))
        });
        let mut changed = scene.plan.clone();
        changed.groups[0].1.truncate(1);
        scene.proxies[0].write_file("vipd.toml", &changed.vipd_config())?;
        scene.vipd(0)?.ctl(&["reload"])?;
        lab.addresses().wait_for(GOES.parse()?, &[], PATIENCE)?;
        let Ok((end, again)) = comes_again.join() else { bail!("the client died") };
        ensure!(end.as_ref().is_err_and(|e| !Session::is_timeout(e)), "the session lives: {end:?}");
        ensure!(again.as_ref().is_err_and(|e| !Session::is_timeout(e)), "a new session hangs: {again:?}");
        stays.ask().context("the other session suffers")?;
        poll_until("one session is left", PATIENCE, || {
            Ok(scene.vipd(0)?.status()?["listeners"][0]["sessions"] == 1)
        })
    })
}

/// A server that a reload removes is checked, shown and closed by the rules as
/// long as it has sessions, alone or with its whole pool; one that is back is back.
fn reload_removes_servers(lab: &Lab) -> Result<()> {
    let (scene, hosts, _servers) = scene(lab, "")?;
    let (target, vipd) = (target(3306)?, scene.vipd(0)?);
    let reload = |file: &str| -> Result<()> {
        let config = Plan { rest: file.to_owned(), ..scene.plan.clone() }.vipd_config();
        scene.proxies[0].write_file("vipd.toml", &config)?;
        vipd.ctl(&["reload"]).map(drop)
    };
    let shown = |name: &str| -> Result<Option<serde_json::Value>> {
        let pools = vipd.status()?["pools"].as_array().cloned().unwrap_or_default();
        let servers = pools.iter().flat_map(|p| p["servers"].as_array().cloned().unwrap_or_default());
        Ok(servers.into_iter().find(|s| s["name"] == name))
    };
    let is_checked_on = |name: &str| -> Result<()> {
        let total = || Ok(shown(name)?.and_then(|s| s["check"]["total"].as_u64()));
        let before = total()?.with_context(|| format!("{name} is not shown any more"))?;
        poll_until("it is checked on", PATIENCE, || {
            let after: Result<_> = total();
            Ok(after?.is_some_and(|after| after > before + 2))
        })?;
        let server = shown(name)?.unwrap_or_default();
        let said = server["why"].as_str().unwrap_or_default().contains("removed from the file");
        ensure!(server["state"] == "drain" && server["sessions"] == 1 && said, "{server}");
        Ok(())
    };
    let is_gone = |name: &str| poll_until("it is gone", PATIENCE, || Ok(shown(name)?.is_none()));
    let all = scene.plan.rest.replace("[pool.check]", "on-down = \"close\"\n[pool.check]");
    let server = |n: usize| format!("{{ name = \"db{}\", address = \"{}:3306\" }}", n + 1, ADDRESSES[n]);
    let without_first = all.replace(&format!("{}, ", server(0)), "");
    let without_pool = all.replace("\"servers\"", "\"others\"").replace(&servers_text(), &server(2));
    reload(&all)?;
    scene.client.inside(|| {
        let mut first = Session::on(target, "db1")?;
        let mut second = Session::on(target, "db2")?;
        reload(&without_first)?;
        is_checked_on("db1")?;
        first.ask().context("the session on the removed server suffers")?;
        reload(&without_pool)?;
        is_checked_on("db1")?;
        is_checked_on("db2")?;
        // A session of a listener that is still there.
        ensure!(Session::open(target)?.ask()?.contains("db3"), "the removed pool gets sessions");
        reload(&all)?;
        vipd.wait_for_servers(&["db1", "db2", "db3"], "up", PATIENCE)?;
        drop(Session::on(target, "db1")?);
        reload(&without_pool)?;
        // It dies without a word: only its checks can tell.
        lab.cut(&hosts[0])?;
        let end = first.listen();
        ensure!(end.as_ref().is_err_and(|e| !Session::is_timeout(e)), "the session lives: {end:?}");
        is_gone("db1")?;
        second.ask().context("the other session suffers")?;
        drop(second);
        is_gone("db2")
    })
}

/// Writes go to the primary, reads to replicas, and follow a promotion.
fn mariadb_roles(lab: &Lab) -> Result<()> {
    let hosts = hosts(lab)?;
    let placed: Vec<(&Host, IpAddr)> =
        hosts.iter().zip(ADDRESSES).map(|(h, a)| Ok((h, a.parse()?))).collect::<Result<_>>()?;
    let servers = mariadb::replicated(&placed)?;
    let password = mariadb::password_file(lab)?;
    let pool = |name: &str, role: &str| {
        format!(
            "[[pool]]\nname = \"{name}\"\nservers = [{}]\n[pool.check]\nkind = \"mysql\"\ninterval = \"100ms\"\n\
             timeout = \"1s\"\nrise = 1\nfall = 2\nuser = \"{}\"\npassword-file = {password:?}\n\
             role = \"{role}\"\n",
            servers_text(),
            mariadb::CHECK_USER
        )
    };
    let mut plan = Plan::new(100 * MS);
    plan.rest = format!(
        "[[listen]]\nname = \"write\"\nbind = \"{VIP}:3306\"\npool = \"primary\"\n\
         [[listen]]\nname = \"read\"\nbind = \"{VIP}:3307\"\npool = \"replicas\"\n{}{}",
        pool("primary", "primary"),
        pool("replicas", "replica")
    );
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let mut writer = SqlClient::start(&scene.client, target(3306)?, Work::Write, 5 * MS);
    let reader = SqlClient::start(&scene.client, target(3307)?, Work::Read, 5 * MS);
    writer.wait_for("db1", PATIENCE)?;
    let read = reader.wait_for_any(PATIENCE)?;
    ensure!(&*read.by != "db1", "reads go to the primary");

    // The primary dies; its first replica is promoted, and writes follow.
    servers[0].process().signal(Signal::SIGKILL)?;
    servers[1].promote()?;
    servers[2].sql("STOP SLAVE")?;
    servers[2].follow(ADDRESSES[1].parse()?)?;
    writer.wait_for("db2", PATIENCE)?;
    // Each pool has checks of its own: that of the replicas may hear of it later.
    scene.vipd(0)?.wait_for_servers(&["db2"], "down", PATIENCE)?;
    // A session goes on where it is; new ones go to the replica that is left.
    let later = SqlClient::start(&scene.client, target(3307)?, Work::Read, 5 * MS);
    later.wait_for("db3", PATIENCE)?;
    writer.stop()?;
    ensure!(!writer.acknowledged().is_empty(), "nothing was written");
    Ok(())
}

/// A client's connection, one line at a time.
struct Session {
    stream: BufReader<TcpStream>,
}

impl Session {
    fn open(target: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&target, PATIENCE).context("cannot connect")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// One that this server answers.
    fn on(target: SocketAddr, server: &str) -> Result<Self> {
        for _ in 0..20 {
            let mut session = Self::open(target)?;
            if session.ask()?.contains(server) {
                return Ok(session);
            }
        }
        bail!("{server} answers none of 20 sessions")
    }

    fn set_patience(&self, patience: Duration) -> Result<()> {
        Ok(self.stream.get_ref().set_read_timeout(Some(patience))?)
    }

    fn ask(&mut self) -> Result<String> {
        self.stream.get_mut().write_all(b"hello\n")?;
        self.listen()
    }

    fn listen(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self.stream.read_line(&mut line)?;
        ensure!(length > 0, "the connection was closed");
        Ok(line)
    }

    fn is_timeout(error: &anyhow::Error) -> bool {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        matches!(kind, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }
}
