//! Pools as demanding users have them: more clients than descriptors, two
//! writable servers, servers found by SRV records, a source of IPv6, a firewall
//! that refuses clients only, replicas that lag.

use crate::{Case, Need};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use vipd_tests::lab::advert::Listener;
use vipd_tests::lab::{Host, Lab, Process, mariadb, named, poll_until};
use vipd_tests::probe::SqlClient;
use vipd_tests::probe::sql::Work;
use vipd_tests::scene::{Kind, Plan, Scene, VIP};

pub(crate) const CASES: &[Case] = &[
    Case { name: "pools::twenty_thousand_clients", needs: &[Need::Vipd], run: twenty_thousand_clients },
    Case {
        name: "pools::two_writable_servers",
        needs: &[Need::Vipd, Need::Mariadb],
        run: two_writable_servers,
    },
    Case { name: "pools::srv_records", needs: &[Need::Vipd, Need::Named], run: srv_records },
    Case { name: "pools::source_of_ipv6", needs: &[Need::Vipd], run: source_of_ipv6 },
    Case { name: "pools::clients_refused", needs: &[Need::Vipd], run: clients_refused },
    Case { name: "pools::lagging_replicas", needs: &[Need::Vipd, Need::Mariadb], run: lagging_replicas },
];

const PATIENCE: Duration = Duration::from_secs(15);
const MS: Duration = Duration::from_millis(1);
const ADDRESSES: [&str; 3] = ["10.77.0.21", "10.77.0.22", "10.77.0.23"];

fn hosts(lab: &Lab) -> Result<Vec<Host>> {
    let host = |(n, a): (usize, &&str)| lab.host(&format!("db{}", n + 1), &[&format!("{a}/16")]);
    ADDRESSES.iter().enumerate().map(host).collect()
}

fn servers() -> String {
    let entry = |(n, a): (usize, &&str)| format!("{{ name = \"db{}\", address = \"{a}:3306\" }}", n + 1);
    ADDRESSES.iter().enumerate().map(entry).collect::<Vec<_>>().join(", ")
}

fn vip() -> Result<SocketAddr> {
    Ok(SocketAddr::new(VIP.parse()?, 3306))
}

/// Twice as many clients as the daemon has descriptors for: those beyond are
/// refused and counted, operators are answered, servers checked, and adverts
/// keep their rhythm.
fn twenty_thousand_clients(lab: &Lab) -> Result<()> {
    const CLIENTS: usize = 20_000;
    /// What the machines give a process.
    const DESCRIPTORS: u32 = 20_000;
    let hosts = hosts(lab)?;
    let greet = |(host, address): (&Host, &str)| host.tool(&["greet", &format!("{address}:3306")]);
    let _servers = hosts.iter().zip(ADDRESSES).map(greet).collect::<Result<Vec<Process>>>()?;
    let mut plan = Plan { descriptors: Some(DESCRIPTORS), ..Plan::new(250 * MS) };
    plan.rest = format!(
        "[[listen]]\nname = \"write\"\nbind = \"{VIP}:3306\"\npool = \"servers\"\nmax-connections = 30000\n\
         [[pool]]\nname = \"servers\"\nservers = [{}]\n[pool.check]\nkind = \"tcp\"\ninterval = \"1s\"\n\
         timeout = \"1s\"\n",
        servers()
    );
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let vipd = scene.vipd(0)?;
    vipd.wait_for_servers(&["db1", "db2", "db3"], "up", PATIENCE)?;
    scene.client.sysctl("net/ipv4/ip_local_port_range", "10000 65000")?;
    let adverts = Listener::start(&scene.proxies[1])?;
    let began = Instant::now();
    let target = vip()?.to_string();
    let half = (CLIENTS / 2).to_string();
    let mut greeted = 0;
    let mut crowds = Vec::new();
    for _ in 0..2 {
        let mut tool = Command::new(vipd_tests::lab::tool_path()?);
        let crowd = scene.client.spawn("crowd", tool.args(["crowd", &target, &half]))?;
        let (_, line) = crowd.wait_for_line("greeted ", Duration::from_secs(120))?;
        greeted += line.rsplit(' ').next().context("no number")?.parse::<usize>()?;
        crowds.push(crowd);
    }
    // All is held now. What the daemon does beside sessions goes on.
    let checked = || -> Result<u64> {
        let status = vipd.status()?;
        Ok(status["pools"][0]["servers"][0]["check"]["total"].as_u64().unwrap_or_default())
    };
    let before = checked()?;
    poll_until("the servers are checked", PATIENCE, || Ok(checked()? >= before + 3))?;
    let asked = Instant::now();
    let status = vipd.status()?;
    ensure!(asked.elapsed() < Duration::from_secs(2), "an operator waits for {:?}", asked.elapsed());
    let listener = &status["listeners"][0];
    let refused = listener["closed"]["no-resources"].as_u64().unwrap_or_default() as usize;
    ensure!(greeted > 9_000 && greeted < 10_000, "{greeted} are served: {listener}");
    ensure!(refused + greeted >= CLIENTS, "{refused} refused and {greeted} served of {CLIENTS}: {listener}");
    ensure!(listener["sessions"].as_u64() == Some(greeted as u64), "{greeted} are served: {listener}");
    let moves = lab.addresses().changes(Scene::vip(), began);
    ensure!(moves.is_empty(), "the address moved: {moves:?}");
    let times: Vec<Instant> = adverts.heard(began).iter().map(|seen| seen.at).collect();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    let expected = began.elapsed().as_millis() / 250;
    ensure!(times.len() as u128 + 4 >= expected, "{} adverts of {expected}", times.len());
    ensure!(longest < 500 * MS, "no advert for {longest:?}, they come every 250 ms");
    drop(crowds);
    scene.client.inside(|| {
        poll_until("there is room again", PATIENCE, || {
            let greeted = |mut s: TcpStream| s.read(&mut [0]).is_ok_and(|n| n == 1);
            Ok(TcpStream::connect(vip()?).is_ok_and(greeted))
        })
    })
}

/// Both proxies follow the same one of two writable servers, also one that has
/// just started and would choose another by itself; an alarm names both.
fn two_writable_servers(lab: &Lab) -> Result<()> {
    let hosts = hosts(lab)?;
    let placed: Vec<(&Host, IpAddr)> =
        hosts.iter().zip(ADDRESSES).map(|(h, a)| Ok((h, a.parse()?))).collect::<Result<_>>()?;
    let databases = mariadb::replicated(&placed)?;
    let password = mariadb::password_file(lab)?;
    let mut plan = Plan::new(100 * MS);
    plan.rest = format!(
        "[[listen]]\nname = \"write\"\nbind = \"{VIP}:3306\"\npool = \"primary\"\n[[pool]]\nname = \"primary\"\n\
         servers = [{}]\n[pool.check]\nkind = \"mysql\"\ninterval = \"100ms\"\ntimeout = \"1s\"\nrise = 1\nfall = 2\n\
         user = \"{}\"\npassword-file = {password:?}\nrole = \"primary\"\n",
        servers(),
        mariadb::CHECK_USER
    );
    let mut scene = Scene::new(lab, Kind::Vipd, plan)?;
    let writer = SqlClient::start(&scene.client, vip()?, Work::Write, 5 * MS);
    writer.wait_for("db1", PATIENCE)?;
    // db3 becomes the primary, and then db1 is made writable beside it.
    databases[0].sql("SET GLOBAL read_only = 1")?;
    databases[2].promote()?;
    writer.wait_for("db3", PATIENCE)?;
    databases[0].sql("SET GLOBAL read_only = 0")?;
    let agrees = |scene: &Scene, proxy: usize| {
        poll_until(&format!("px{} follows db3", proxy + 1), PATIENCE, || {
            let pools = scene.vipd(proxy)?.status()?["pools"].clone();
            let server = |n: usize| pools[0]["servers"][n].clone();
            let why = server(0)["why"].as_str().unwrap_or_default().to_owned();
            Ok(server(2)["state"] == "up"
                && server(0)["state"] == "down"
                && why.contains("db3 is also writable"))
        })
    };
    agrees(&scene, 0)?;
    agrees(&scene, 1)?;
    for proxy in 0..2 {
        let events = scene.vipd(proxy)?.ctl(&["events"])?;
        let alarm = events.lines().any(|l| l.contains("primary/db1") && l.contains("conflict: db3"));
        ensure!(alarm, "no alarm on px{}: {events}", proxy + 1);
    }
    // One that starts sees both, and db1 stands first in its file.
    scene.daemons[1].process().signal(nix::sys::signal::Signal::SIGKILL)?;
    scene.daemons[1].process().wait(PATIENCE)?;
    scene.restart(1)?;
    agrees(&scene, 1)?;
    let now = Instant::now();
    let wrote = writer.acknowledged().len();
    poll_until("writes go on", PATIENCE, || Ok(writer.acknowledged().len() > wrote + 20))?;
    ensure!(now.elapsed() < PATIENCE, "they do not");
    let rows =
        |n: usize| -> Result<u64> { Ok(databases[n].sql("SELECT COUNT(*) FROM app.t")?.trim().parse()?) };
    let (split, before) = (rows(0)?, rows(2)?);
    ensure!(before > split, "db3 has {before} rows, db1 {split}");
    poll_until("db3 gets them", PATIENCE, || Ok(rows(2)? > before))?;
    ensure!(rows(0)? == split, "db1 is written to");
    Ok(())
}

/// Servers by the SRV records of a real name server: ranks and ports count, one
/// that vanishes drains, and a name server that is gone takes none with it.
fn srv_records(lab: &Lab) -> Result<()> {
    let hosts = hosts(lab)?;
    let names = ["db1", "db2", "db3"];
    let serve =
        |(host, address): (&Host, &str)| host.tool(&["serve", host.name(), &format!("{address}:3307")]);
    let _servers = hosts.iter().zip(ADDRESSES).map(serve).collect::<Result<Vec<Process>>>()?;
    let ns1 = lab.host("ns1", &["10.77.0.53/16"])?;
    let hosts_records: Vec<String> = names.iter().zip(ADDRESSES).map(|(n, a)| format!("{n} A {a}")).collect();
    let srv = |rank: u8, name: &str| format!("_mysql._tcp SRV {rank} 10 3307 {name}");
    let zone = |own: &[String]| -> Vec<String> { hosts_records.iter().chain(own).cloned().collect() };
    let all = zone(&[srv(10, "db1"), srv(10, "db2"), srv(20, "db3")]);
    let mut bind = named::Named::start(&ns1, "10.77.0.53", &texts(&all))?;
    let mut plan = Plan::new(100 * MS);
    plan.rest = format!(
        "[[listen]]\nname = \"write\"\nbind = \"{VIP}:3306\"\npool = \"servers\"\n[[pool]]\nname = \"servers\"\n\
         balance = \"round-robin\"\n\
         servers = [{{ name = \"db\", address = \"_mysql._tcp.internal\", resolve = \"srv\" }}]\n\
         [pool.check]\nkind = \"tcp\"\ninterval = \"100ms\"\ntimeout = \"1s\"\nrise = 1\nfall = 2\n"
    );
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    scene.proxies.iter().try_for_each(|proxy| named::ask(proxy, "10.77.0.53"))?;
    let vipd = scene.vipd(0)?;
    let found = |n: usize| format!("db@db{n}.internal:3307");
    vipd.wait_for_servers(&[&found(1), &found(2), &found(3)], "up", PATIENCE)?;
    let state = |n: usize| -> Result<String> {
        let pools = vipd.status()?["pools"].clone();
        let mut servers = pools[0]["servers"].as_array().cloned().unwrap_or_default().into_iter();
        let server = servers.find(|s| s["name"] == found(n));
        Ok(server.map_or_else(|| "gone".into(), |s| s["state"].as_str().unwrap_or_default().to_owned()))
    };
    scene.client.inside(|| {
        let mut sessions: Vec<Talk> = (0..4).map(|_| Talk::new()).collect::<Result<_>>()?;
        let by: Vec<String> = sessions.iter_mut().map(Talk::by).collect::<Result<_>>()?;
        ensure!(by.iter().all(|b| b == "db1" || b == "db2"), "the lowest rank serves: {by:?}");
        ensure!(by.contains(&"db1".into()) && by.contains(&"db2".into()), "both of it: {by:?}");
        // db1 leaves the records: it drains, and goes with its last session.
        bind.set(&texts(&zone(&[srv(10, "db2"), srv(20, "db3")])))?;
        poll_until("db1 drains", PATIENCE, || Ok(state(1)? == "drain"))?;
        ensure!(Talk::new()?.by()? == "db2", "a server that vanished gets sessions");
        for (session, by) in sessions.iter_mut().zip(&by) {
            ensure!(session.by()? == *by, "a session has moved");
        }
        let mut stays: Vec<Talk> =
            sessions.into_iter().zip(&by).filter(|(_, b)| *b == "db2").map(|(s, _)| s).collect();
        poll_until("db1 is gone", PATIENCE, || Ok(state(1)? == "gone"))?;
        // The name server goes: what was known stays, and a person is told.
        bind.process().signal(nix::sys::signal::Signal::SIGKILL)?;
        poll_until("it is told", PATIENCE, || {
            Ok(vipd.ctl(&["why", "servers"])?.contains("the name servers do not answer"))
        })?;
        ensure!(state(2)? == "up" && state(3)? == "up", "servers go with their name server");
        stays.iter_mut().try_for_each(|s| s.by().map(drop))?;
        ensure!(Talk::new()?.by()? == "db2", "new sessions suffer");
        Ok(())
    })
}

fn texts(records: &[String]) -> Vec<&str> {
    records.iter().map(String::as_str).collect()
}

/// With `source = "vip"` a server of IPv6 is connected from the floating
/// address of IPv6, which the kernel would not choose by itself.
fn source_of_ipv6(lab: &Lab) -> Result<()> {
    const VIP6: &str = "fd77::100";
    let db = lab.host("db1", &["10.77.0.21/16", "fd77::21/64"])?;
    let server = db.inside(|| Ok(TcpListener::bind("[fd77::21]:3306")?))?;
    server.set_nonblocking(true)?;
    let mut plan = Plan { both_families: true, ..Plan::new(100 * MS) };
    plan.groups[0].1.push(format!("{VIP6}/64"));
    plan.rest = "[[listen]]\nname = \"write\"\nbind = \":3306\"\npool = \"vip\"\n\
         [[listen]]\nname = \"auto\"\nbind = \":3307\"\npool = \"auto\"\n\
         [[pool]]\nname = \"vip\"\nservers = [\"[fd77::21]:3306\"]\nsource = \"vip\"\n\
         [[pool]]\nname = \"auto\"\nservers = [\"[fd77::21]:3306\"]\n"
        .to_owned();
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let vip6: IpAddr = VIP6.parse()?;
    lab.addresses().wait_for(vip6, &["px1"], PATIENCE)?;
    let own: IpAddr = "fd77::11".parse()?;
    for (through, port, expected) in [
        (vip6, 3306, vip6),
        (vip6, 3307, own),
        // A client of IPv4: there is no floating address of its server's family that it came by.
        (VIP.parse()?, 3306, own),
    ] {
        let client = scene.client.inside(|| {
            let client = TcpStream::connect_timeout(&SocketAddr::new(through, port), PATIENCE)?;
            client.set_read_timeout(Some(PATIENCE))?;
            Ok(client)
        });
        let mut accepted = None;
        poll_until("the server is connected", PATIENCE, || {
            accepted = server.accept().ok();
            Ok(accepted.is_some())
        })?;
        let (mut at_server, from) = accepted.context("no connection")?;
        ensure!(from.ip() == expected, "through {through}:{port} the server sees {from}");
        at_server.write_all(b"!")?;
        ensure!(client?.read(&mut [0])? == 1, "nothing comes back");
    }
    Ok(())
}

/// A firewall that lets a server's checks pass and refuses its clients: it is
/// out for new sessions, its own go on though `on-down` is "close", no client
/// notices, and it is back when the firewall is gone.
fn clients_refused(lab: &Lab) -> Result<()> {
    let hosts = hosts(lab)?;
    let serve =
        |(host, address): (&Host, &str)| host.tool(&["serve", host.name(), &format!("{address}:3306")]);
    let _servers = hosts.iter().zip(ADDRESSES).map(serve).collect::<Result<Vec<Process>>>()?;
    let greet = |(host, address): (&Host, &str)| host.tool(&["greet", &format!("{address}:3308")]);
    let _checked = hosts.iter().zip(ADDRESSES).map(greet).collect::<Result<Vec<Process>>>()?;
    let mut plan = Plan::new(100 * MS);
    plan.rest = format!(
        "[[listen]]\nname = \"write\"\nbind = \"{VIP}:3306\"\npool = \"servers\"\n[[pool]]\nname = \"servers\"\n\
         balance = \"round-robin\"\non-down = \"close\"\nservers = [{}]\n[pool.check]\nkind = \"tcp\"\n\
         port = 3308\ninterval = \"100ms\"\ntimeout = \"1s\"\nrise = 2\nfall = 2\n",
        servers()
    );
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let vipd = scene.vipd(0)?;
    vipd.wait_for_servers(&["db1", "db2", "db3"], "up", PATIENCE)?;
    scene.client.inside(|| {
        let mut sessions: Vec<Talk> = (0..6).map(|_| Talk::new()).collect::<Result<_>>()?;
        let by: Vec<String> = sessions.iter_mut().map(Talk::by).collect::<Result<_>>()?;
        let of_db1 = by.iter().position(|b| b == "db1").context("db1 has no session")?;
        let refuse = "add table inet fw; add chain inet fw input { type filter hook input priority 0; }; \
                      add rule inet fw input tcp dport 3306 tcp flags & (syn | ack) == syn reject with tcp reset";
        hosts[0].run("nft", &[refuse])?;
        poll_until("db1 is out", PATIENCE, || {
            ensure!(Talk::new()?.by()? != "db1", "the firewall lets clients pass");
            Ok(vipd.ctl(&["why", "servers/db1"])?.contains("down because"))
        })?;
        let why = vipd.ctl(&["why", "servers/db1"])?;
        ensure!(why.contains("client connections in a row failed; it takes none for 10s"), "{why}");
        ensure!(sessions[of_db1].by()? == "db1", "a session that worked was closed");
        hosts[0].run("nft", &["delete table inet fw"])?;
        poll_until("db1 serves again", 2 * PATIENCE, || Ok(Talk::new()?.by()? == "db1"))?;
        ensure!(sessions[of_db1].by()? == "db1", "a session that worked was closed");
        Ok(())
    })
}

/// New reads leave a replica that lags, and what runs on it goes on; when all
/// lag the last in use is kept, and when none is left the primary is read from.
fn lagging_replicas(lab: &Lab) -> Result<()> {
    let hosts = hosts(lab)?;
    let placed: Vec<(&Host, IpAddr)> =
        hosts.iter().zip(ADDRESSES).map(|(h, a)| Ok((h, a.parse()?))).collect::<Result<_>>()?;
    let databases = mariadb::replicated(&placed)?;
    let password = mariadb::password_file(lab)?;
    let pool = |name: &str, keys: &str, check: &str| {
        format!(
            "[[pool]]\nname = \"{name}\"\nservers = [{}]\n{keys}\n[pool.check]\nkind = \"mysql\"\n\
             interval = \"100ms\"\ntimeout = \"1s\"\nrise = 1\nfall = 2\nuser = \"{}\"\n\
             password-file = {password:?}\n{check}\n",
            servers(),
            mariadb::CHECK_USER
        )
    };
    let mut plan = Plan::new(100 * MS);
    plan.rest = format!(
        "[[listen]]\nname = \"write\"\nbind = \"{VIP}:3306\"\npool = \"primary\"\n\
         [[listen]]\nname = \"read\"\nbind = \"{VIP}:3307\"\npool = \"replicas\"\n{}{}",
        pool("primary", "", "role = \"primary\""),
        pool("replicas", "fallback = \"primary\"", "role = \"replica\"\nmax-lag = \"1s\"")
    );
    let scene = Scene::new(lab, Kind::Vipd, plan)?;
    let reads = SocketAddr::new(VIP.parse()?, 3307);
    let reader = || SqlClient::start(&scene.client, reads, Work::Read, 5 * MS);
    // What is written meanwhile is what a replica lags by.
    let writer = SqlClient::start(&scene.client, vip()?, Work::Write, 5 * MS);
    writer.wait_for("db1", PATIENCE)?;
    let runs = reader();
    let on = runs.wait_for_any(PATIENCE)?.by.to_string();
    let (lags, fresh) = if on == "db2" { (1, 2) } else { (2, 1) };
    let name = |n: usize| format!("db{}", n + 1);
    ensure!(on == name(lags), "{on} is read from, and no replica");
    let delay =
        |n: usize| databases[n].sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 600; START SLAVE").map(drop);
    let is = |n: usize, why: &str| {
        poll_until(&format!("{}: {why}", name(n)), PATIENCE, || {
            Ok(scene.vipd(0)?.ctl(&["why", &format!("replicas/{}", name(n))])?.contains(why))
        })
    };
    // Both lag by seconds that differ by less than a second or two: that is no
    // reason to leave the one that was fresh the longer.
    delay(lags)?;
    is(lags, "down because it lags")?;
    for _ in 0..3 {
        let later = reader();
        let read = later.wait_for_any(PATIENCE)?;
        ensure!(*read.by == *name(fresh), "a new session is on {}, which lags", read.by);
    }
    delay(fresh)?;
    is(fresh, "but no server of the pool is fresher")?;
    reader().wait_for(&name(fresh), PATIENCE)?;
    ensure!(runs.connections() == 1, "a session was cut because its replica lags");
    databases[fresh].process().signal(nix::sys::signal::Signal::SIGKILL)?;
    is(lags, "but no server of the pool is fresher")?;
    reader().wait_for(&name(lags), PATIENCE)?;
    ensure!(runs.connections() == 1, "a session was cut because its replica lags");
    databases[lags].process().signal(nix::sys::signal::Signal::SIGKILL)?;
    reader().wait_for("db1", PATIENCE).map(drop)
}

/// A session with a stand-in server.
pub(crate) struct Talk(std::io::BufReader<TcpStream>);

impl Talk {
    pub(crate) fn new() -> Result<Self> {
        let stream = TcpStream::connect_timeout(&vip()?, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(std::io::BufReader::new(stream)))
    }

    /// The name of the server that answers.
    pub(crate) fn by(&mut self) -> Result<String> {
        use std::io::BufRead as _;

        self.0.get_mut().write_all(b"hello\n")?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line.split(' ').next().unwrap_or_default().to_owned())
    }
}
