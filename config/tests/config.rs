//! What a good file means: defaults, numbers that are derived, which node a
//! host is, and the digests that nodes compare.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;
use vipd_config::Config;
use vipd_core::settings::{
    Balance, Bind, Check, CheckKind, Cidr, ExecCheck, Family, Galera, Heartbeat, Host, HttpCheck, Listener,
    MysqlCheck, OnDemote, OnDown, Pool, PostgresCheck, ProxyProtocol, RedisCheck, Resolve, Role, Server,
    Source, TcpCheck, Tls, Transport, VrrpVersion,
};

type Outcome = Result<(), Box<dyn Error>>;

const HEAD: &str = r#"
[cluster]
name = "orders"
nodes = [{ name = "px1", address = "10.77.0.11" }, { name = "px2", address = "10.77.0.12" }]
"#;

fn parse(text: &str) -> Result<Config, Box<dyn Error>> {
    Ok(Config::parse(text, "f")?)
}

/// A file with `HEAD`, a VIP and more.
fn with(more: &str) -> Result<Config, Box<dyn Error>> {
    parse(&format!("{HEAD}[[vip]]\nname = \"main\"\naddresses = [\"10.77.0.100/24\"]\n{more}"))
}

fn cidr(text: &str) -> Result<Cidr, Box<dyn Error>> {
    let (address, prefix) = text.split_once('/').ok_or(text)?;
    Ok(Cidr::new(address.parse()?, prefix.parse()?).ok_or(text)?)
}

fn example(name: &str) -> Result<Config, Box<dyn Error>> {
    Ok(Config::load(format!("{}/examples/{name}.toml", env!("CARGO_MANIFEST_DIR")))?)
}

#[test]
fn a_minimal_file_has_these_defaults() -> Outcome {
    let config = example("minimal")?;
    assert_eq!(config.cluster.name, "orders");
    assert_eq!(config.cluster.peer_port, 7112);
    assert_eq!(config.cluster.nodes.len(), 2);
    assert_eq!(config.cluster.nodes[0].priority, None);
    let election = &config.election;
    assert_eq!(election.advert_interval, Duration::from_millis(250));
    assert_eq!(election.version, VrrpVersion::V3);
    assert_eq!(election.transport, Transport::Unicast);
    assert!(!election.preempt);
    assert_eq!(election.preempt_delay, Duration::ZERO);
    assert_eq!(election.lease, Duration::from_secs(1));
    let [vip] = config.vips.as_slice() else { return Err("one vip".into()) };
    assert_eq!(Some(vip.addresses.clone()), Cidr::new("10.77.0.100".parse()?, 24).map(|c| vec![c]));
    assert_eq!((vip.interface.as_deref(), &vip.nodes[..], &vip.track[..]), (None, &[0, 1][..], &[][..]));
    let [listener] = config.listeners.as_slice() else { return Err("one listener".into()) };
    assert_eq!(listener.bind, Bind { address: Some("10.77.0.100".parse()?), port: 3306 });
    assert_eq!(*listener, Listener::new("db", listener.bind, 0));
    let [pool] = config.pools.as_slice() else { return Err("one pool".into()) };
    assert_eq!(*pool, Pool::new("db", pool.servers.clone()));
    let [server, _] = pool.servers.as_slice() else { return Err("two servers".into()) };
    assert_eq!(*server, Server::new("10.77.0.21", Host::Address("10.77.0.21".parse()?), 3306));
    assert_eq!(config.status, None);
    Ok(())
}

#[test]
fn every_key_reaches_the_settings() -> Outcome {
    let config = example("mysql")?;
    assert_eq!(config.vips[0].track, [0]);
    assert_eq!(config.listeners[1].idle_timeout, Some(Duration::from_secs(8 * 3600)));
    assert_eq!(config.listeners[1].max_connections, 4000);
    assert_eq!(config.listeners[1].pool, 1);
    assert_eq!(config.pools[1].balance, Balance::LeastConnections);
    assert_eq!(config.pools[1].fallback, Some(0));
    assert_eq!(config.pools[0].connect_timeout, Duration::from_secs(1));
    let [db1, db2, db3] = config.pools[1].servers.as_slice() else { return Err("three servers".into()) };
    assert_eq!((db1.name.as_str(), &db1.host), ("db1.internal", &Host::Name("db1.internal".into())));
    assert_eq!((db2.name.as_str(), db2.weight, db2.max_connections), ("db2", 200, Some(1000)));
    assert!(db3.backup && !db2.backup);
    let kind = CheckKind::Mysql(MysqlCheck {
        password_file: Some("/etc/vipd/mysql.password".into()),
        role: Role::Primary,
        ..MysqlCheck::new("vipd")
    });
    let half = Duration::from_millis(500);
    let fast_interval = Some(Duration::from_millis(100));
    let check = Check { interval: half, timeout: half, fast_interval, ..Check::new(kind) };
    assert_eq!(config.pools[0].check, Some(check), "a check is not longer than its interval by default");
    let Some(CheckKind::Mysql(replica)) = config.pools[1].check.as_ref().map(|c| &c.kind) else {
        return Err("a mysql check".into());
    };
    assert_eq!((replica.role, replica.max_lag), (Role::Replica, Some(Duration::from_secs(10))));
    assert_eq!(config.status.map(|s| s.http), Some("127.0.0.1:9112".parse()?));

    let config = example("active-active")?;
    assert!(config.election.preempt);
    assert_eq!(config.election.preempt_delay, Duration::from_secs(30));
    assert_eq!(config.vips[1].nodes, [1, 0]);
    assert_eq!(config.listeners[0].bind, Bind { address: None, port: 443 });
    assert_eq!(config.pools[0].retries, 2);
    let timeout = config.pools[0].check.as_ref().map(|c| (c.timeout, c.rise, c.fall));
    assert_eq!(timeout, Some((Duration::from_millis(150), 2, 3)));

    let config = example("ipv6")?;
    assert_eq!(config.cluster.nodes[0].address(Family::V6), Some("fd77::11".parse()?));
    assert_eq!(config.vips[0].vrid.get(), 51);
    assert_eq!(config.vips[0].of_family(Family::V6).count(), 1);
    assert_eq!(config.pools[0].servers[0].name, "[fd77::21]");

    let config = example("keepalived")?;
    let election = &config.election;
    assert_eq!((election.version, election.transport), (VrrpVersion::V2, Transport::Multicast));
    assert_eq!(election.lease, Duration::from_secs(3));
    assert_eq!(config.cluster.nodes[1].priority.map(|p| p.get()), Some(100));
    assert_eq!(config.vips[0].interface.as_deref(), Some("eth0"));
    Ok(())
}

#[test]
fn every_key_of_a_listener_reaches_the_settings() -> Outcome {
    let config = parse(include_str!("all-keys.toml"))?;
    assert_eq!(config.warnings, []);
    let bind = Bind { address: None, port: 3306 };
    let wanted = Listener {
        max_connections: 4000,
        max_per_source: Some(11),
        max_rate_per_source: Some(12),
        idle_timeout: Some(Duration::from_secs(13)),
        max_session_age: Some(Duration::from_secs(14)),
        tcp_keepalive: Duration::from_secs(15),
        tcp_user_timeout: Duration::from_millis(1600),
        accept_proxy: ["10.0.0.0/8", "10.77.0.5/32", "fd77::/64", "fd78::1/128", "0.0.0.0/1"]
            .into_iter()
            .map(cidr)
            .collect::<Result<_, _>>()?,
        access_log: true,
        ..Listener::new("db", bind, 0)
    };
    assert_eq!(config.listeners, [wanted]);
    Ok(())
}

#[test]
fn every_key_of_a_pool_reaches_the_settings() -> Outcome {
    let config = parse(include_str!("all-keys.toml"))?;
    let named = |name: &str| Host::Name(name.into());
    let servers = vec![
        Server {
            max_rate: Some(33),
            ..Server::new("10.77.0.21", Host::Address("10.77.0.21".parse()?), 3306)
        },
        Server {
            max_rate: Some(7),
            max_connections: Some(8),
            weight: 9,
            backup: true,
            ..Server::new("db2", named("db2.internal"), 3306)
        },
        Server {
            max_rate: Some(33),
            resolve: Resolve::All,
            ..Server::new("db.internal", named("db.internal"), 3306)
        },
        Server {
            max_rate: Some(33),
            resolve: Resolve::Srv,
            ..Server::new("srv", named("_mysql._tcp.db.internal"), 0)
        },
    ];
    let wanted = Pool {
        balance: Balance::First,
        fallback: Some(1),
        fallback_max_connections: Some(21),
        connect_timeout: Duration::from_millis(2200),
        retries: 2,
        queue: 24,
        queue_timeout: Duration::from_secs(25),
        slow_start: Some(Duration::from_secs(26)),
        headroom: 27,
        source: Source::Address("10.77.0.100".parse()?),
        proxy_protocol: Some(ProxyProtocol::V2),
        on_down: OnDown::Close,
        on_demote: OnDemote::Drain(Duration::from_secs(31)),
        check: config.pools[0].check.clone(),
        ..Pool::new("db", servers)
    };
    assert_eq!(config.pools[0], wanted);
    assert_eq!(config.pools[1].proxy_protocol, Some(ProxyProtocol::V1));
    assert_eq!(config.pools[1].source, Source::Vip);
    Ok(())
}

#[test]
fn every_key_of_a_check_reaches_the_settings() -> Outcome {
    let config = parse(include_str!("all-keys.toml"))?;
    let tls = |ca_file: Option<&str>, name: Option<&str>, verify| {
        Some(Tls { verify, ca_file: ca_file.map(Into::into), server_name: name.map(Into::into) })
    };
    let password_file = Some("/etc/vipd/password".into());
    let max_lag = Some(Duration::from_secs(51));
    let mysql = CheckKind::Mysql(MysqlCheck {
        password_file: password_file.clone(),
        tls: tls(Some("/etc/vipd/ca.pem"), Some("db.internal"), true),
        role: Role::Replica,
        max_lag,
        heartbeat: Some(Heartbeat {
            schema: "percona".into(),
            table: "heartbeat".into(),
            column: "ts".into(),
        }),
        galera: Some(Galera { donors: true }),
        ..MysqlCheck::new("vipd")
    });
    let check = Check {
        port: Some(3307),
        interval: Duration::from_secs(2),
        fast_interval: Some(Duration::from_millis(10)),
        down_interval: Some(Duration::from_secs(10)),
        timeout: Duration::from_millis(1500),
        rise: 4,
        fall: 5,
        passive: false,
        ..Check::new(mysql)
    };
    assert_eq!(config.pools[0].check, Some(check));
    let kinds: Vec<_> = config.pools[1..].iter().filter_map(|p| p.check.clone().map(|c| c.kind)).collect();
    let wanted = [
        CheckKind::Tcp(TcpCheck { send: Some("PING\r\n".into()), expect: Some("PONG".into()) }),
        CheckKind::Http(HttpCheck {
            tls: tls(None, None, false),
            method: "OPTIONS".into(),
            path: "/health?deep=1".into(),
            host: Some("db.internal:8008".into()),
            status: vec![200..=200, 300..=399],
            expect: Some("running".into()),
        }),
        CheckKind::Postgres(PostgresCheck {
            user: "pg".into(),
            password_file: password_file.clone(),
            database: "orders".into(),
            tls: tls(None, Some("10.77.0.21"), true),
            role: Role::Any,
            max_lag,
        }),
        CheckKind::Redis(RedisCheck {
            user: Some("vipd".into()),
            password_file,
            tls: tls(None, None, true),
            role: Role::Replica,
            max_lag,
        }),
        CheckKind::Exec(ExecCheck {
            command: vec!["/bin/check".into(), "a".into(), "b".into()],
            user: Some("check".into()),
        }),
        CheckKind::Mysql(MysqlCheck { group_replication: true, ..MysqlCheck::new("vipd") }),
    ];
    assert_eq!(kinds, wanted);
    Ok(())
}

#[test]
fn checks_have_these_defaults() -> Outcome {
    let kind = |keys: &str| -> Result<_, Box<dyn Error>> {
        let config = with(&format!(
            "[[listen]]\nname = \"db\"\nbind = \":1\"\npool = \"db\"\n[[pool]]\nname = \"db\"\n\
             servers = [\"db:2\"]\n[pool.check]\n{keys}\n"
        ))?;
        assert_eq!(config.warnings, [], "{keys}");
        let check = config.pools[0].check.clone().ok_or("a check")?;
        assert_eq!(check, Check::new(check.kind.clone()), "{keys}");
        Ok(check.kind)
    };
    assert_eq!(kind("kind = \"tcp\"")?, CheckKind::Tcp(TcpCheck::default()));
    // A banner is waited for without a word.
    let banner = TcpCheck { send: None, expect: Some("SSH-".into()) };
    assert_eq!(kind("kind = \"tcp\"\nexpect = \"SSH-\"")?, CheckKind::Tcp(banner));
    let http = HttpCheck {
        tls: None,
        method: "GET".into(),
        path: "/".into(),
        host: None,
        status: vec![200..=399],
        expect: None,
    };
    assert_eq!(kind("kind = \"http\"")?, CheckKind::Http(http.clone()));
    for status in ["204", "[204]", "\"204-204\""] {
        let wanted = HttpCheck { status: vec![204..=204], ..http.clone() };
        assert_eq!(kind(&format!("kind = \"http\"\nstatus = {status}"))?, CheckKind::Http(wanted));
    }
    let postgres = PostgresCheck {
        user: "vipd".into(),
        password_file: None,
        database: "postgres".into(),
        tls: None,
        role: Role::Any,
        max_lag: None,
    };
    assert_eq!(kind("kind = \"postgres\"\nuser = \"vipd\"")?, CheckKind::Postgres(postgres));
    let redis = RedisCheck { user: None, password_file: None, tls: None, role: Role::Any, max_lag: None };
    assert_eq!(kind("kind = \"redis\"")?, CheckKind::Redis(redis));
    let galera = MysqlCheck { galera: Some(Galera { donors: false }), ..MysqlCheck::new("vipd") };
    assert_eq!(kind("kind = \"mysql\"\nuser = \"vipd\"\ngalera = true")?, CheckKind::Mysql(galera));
    let exec = ExecCheck { command: vec!["/bin/true".into()], user: None };
    assert_eq!(kind("kind = \"exec\"\ncommand = [\"/bin/true\"]")?, CheckKind::Exec(exec));
    Ok(())
}

#[test]
fn the_interval_s_default_and_the_lease_follow_the_version_and_the_interval() -> Outcome {
    let election = |keys: &str| with(&format!("[election]\n{keys}\n")).map(|c| c.election);
    assert_eq!(election("vrrp-version = 2")?.advert_interval, Duration::from_secs(1));
    for (interval, lease) in [("10ms", 1), ("330ms", 1), ("670ms", 2), ("1s", 3), ("40.95s", 122)] {
        let election = election(&format!("advert-interval = {interval:?}\nlease = \"auto\""))?;
        assert_eq!(election.lease, Duration::from_secs(lease), "{interval}");
    }
    let config = with("[election]\nadvert-interval = \"1s\"\nlease = \"2s\"")?;
    assert_eq!((config.election.lease, config.warnings.len()), (Duration::from_secs(2), 0));
    Ok(())
}

#[test]
fn a_vrid_that_is_not_given_is_derived_and_free() -> Outcome {
    let vrids = |text: &str| -> Result<Vec<u8>, Box<dyn Error>> {
        Ok(parse(&format!("{HEAD}{text}"))?.vips.iter().map(|v| v.vrid.get()).collect())
    };
    let vip = |name: &str, host: u8, more: &str| {
        format!("[[vip]]\nname = {name:?}\naddresses = [\"10.77.0.{host}/24\"]\n{more}\n")
    };
    let [chosen] = vrids(&vip("main", 100, ""))?[..] else { return Err("one".into()) };
    // Hosts of different versions must agree: this number may never change.
    assert_eq!(chosen, 135);
    // Numbers that the file gives come first, wherever they stand.
    let both = vrids(&(vip("main", 100, "") + &vip("other", 101, &format!("vrid = {chosen}"))))?;
    assert_eq!(both, [chosen + 1, chosen]);
    // A group added at the end moves no other; all 255 find a place.
    let mut text = String::new();
    let mut before: Vec<u8> = vec![];
    for i in 0..255 {
        let (net, host) = (1 + i / 200, 1 + i % 200);
        text += &format!("[[vip]]\nname = \"v{i}\"\naddresses = [\"10.77.{net}.{host}/16\"]\n");
        if i % 60 == 0 || i == 254 {
            let now = vrids(&text)?;
            assert!(now.starts_with(&before), "{before:?} {now:?}");
            before = now;
        }
    }
    before.sort_unstable();
    assert_eq!(before, (1..=255).collect::<Vec<u8>>());
    Ok(())
}

#[test]
fn a_server_without_a_name_is_called_by_what_tells_it_apart() -> Outcome {
    let config = with(
        r#"
[[listen]]
name = "db"
bind = ":3306"
pool = "db"
[[pool]]
name = "db"
servers = ["DB1:3306", "db1:3307", "db2:3306", { name = "db2", address = "10.77.0.22:3306" }, "10.77.0.23:1"]
"#,
    )?;
    let names: Vec<_> = config.pools[0].servers.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["db1", "db1:3307", "db2:3306", "db2", "10.77.0.23"]);
    Ok(())
}

#[test]
fn a_host_is_the_node_whose_address_it_has() -> Outcome {
    let config = example("ipv6")?;
    let find = |addresses: &[&str]| -> Result<_, Box<dyn Error>> {
        let addresses = addresses.iter().map(|a| a.parse()).collect::<Result<Vec<IpAddr>, _>>()?;
        Ok(config.find_node(&addresses).map_err(|e| e.to_string()))
    };
    assert_eq!(find(&["127.0.0.1", "10.77.0.12"])?, Ok(1));
    assert_eq!(find(&["fd77::13", "10.77.0.13", "10.77.0.100"])?, Ok(2), "both addresses of one node");
    assert_eq!(
        find(&["127.0.0.1"])?,
        Err("this host is none of the nodes in [cluster]: it has none of their addresses \
             (px1 10.77.0.11 fd77::11, px2 10.77.0.12 fd77::12, px3 10.77.0.13 fd77::13); \
             give it one of them, add it to nodes, or say which it is with --node"
            .into())
    );
    assert_eq!(
        find(&["10.77.0.11", "fd77::13"])?,
        Err("this host has the addresses of several nodes in [cluster] \
             (px1 10.77.0.11 fd77::11, px3 10.77.0.13 fd77::13); say which it is with --node"
            .into())
    );
    assert_eq!(config.node_named("px3"), Ok(2));
    let error = |name| config.node_named(name).map_err(|e| e.to_string());
    assert_eq!(error("xp3"), Err("there is no node \"xp3\" in [cluster]; did you mean \"px3\"?".into()));
    assert_eq!(
        error("db-host"),
        Err("there is no node \"db-host\" in [cluster]; there is \"px1\", \"px2\" and \"px3\"".into())
    );
    Ok(())
}

/// The keys whose digests differ between two files.
fn differing(a: &Config, b: &Config) -> Vec<&'static str> {
    let pairs = a.digests().into_iter().zip(b.digests());
    pairs.filter(|(a, b)| a != b).map(|((key, _), _)| key).collect()
}

#[test]
fn digests_name_the_key_that_differs() -> Outcome {
    let text = include_str!("digests.toml");
    let config = parse(text)?;
    let keys: Vec<_> = config.digests().into_iter().map(|(key, _)| key).collect();
    assert_eq!(
        keys,
        [
            "cluster.nodes",
            "election.advert-interval",
            "election.vrrp-version",
            "election.transport",
            "election.preempt",
            "vip",
            "listen",
            "pool"
        ]
    );
    let election = |line: &str| format!("{text}\n[election]\n{line}\n");
    for (changed, key) in [
        (text.replace("10.77.0.12", "10.77.0.13"), "cluster.nodes"),
        (text.replace("10.77.0.12\" }", "10.77.0.12\", priority = 9 }"), "cluster.nodes"),
        (election("advert-interval = \"260ms\""), "election.advert-interval"),
        (election("transport = \"multicast\""), "election.transport"),
        (election("preempt = true"), "election.preempt"),
        (text.replace("10.77.0.100/24", "10.77.0.100/25"), "vip"),
        (text.replace("[\"write\"] ", "[\"read\"]"), "vip"),
        (text.replace("\"8h\"", "\"7h\""), "listen"),
        (text.replace("weight = 200", "weight = 201"), "pool"),
        (text.replace("backup = true", "backup = false"), "pool"),
        (text.replace("\"10s\"", "\"11s\""), "pool"),
        (text.replace("fallback = \"primary\"", ""), "pool"),
        (text.replace("user = \"vipd\"", "user = \"check\""), "pool"),
    ] {
        assert_eq!(differing(&config, &parse(&changed)?), [key]);
    }
    let changed = election("vrrp-version = 2\nadvert-interval = \"1s\"");
    assert_eq!(differing(&config, &parse(&changed)?), ["election.advert-interval", "election.vrrp-version"]);
    Ok(())
}

/// Each setting of listeners and pools is in a digest, unless hosts may differ in it.
#[test]
fn digests_see_every_setting_of_the_balancer() -> Outcome {
    let text = include_str!("all-keys.toml");
    let config = parse(text)?;
    let section = |i: usize| text[..i].rfind("\n[").map_or("", |start| &text[start + 1..i]);
    let mut seen = 0;
    for (line, _) in text.match_indices('\n').filter(|(i, _)| text[i + 1..].starts_with(char::is_alphabetic))
    {
        let rest = &text[line + 1..];
        let rest = &rest[..rest.find('\n').unwrap_or(rest.len())];
        let section = section(line);
        let key = match section.get(..5) {
            Some("[[lis") => "listen",
            Some("[[poo" | "[pool") => "pool",
            Some(_) | None => continue,
        };
        let required =
            ["name", "bind", "pool", "servers", "kind", "fallback", "user", "command", "tls", "galera"];
        let (name, _) = rest.split_once(" = ").ok_or(rest)?;
        if required.contains(&name) {
            continue;
        }
        // Without the line its default counts, which is another; a file may
        // lie elsewhere on another host.
        let file = ["password-file", "tls-ca-file"].contains(&name);
        let line_then = if file { rest.replace("/vipd/", "/ssl/") } else { String::new() };
        let then = format!("{}{line_then}{}", &text[..=line], &text[line + 1 + rest.len()..]);
        let wanted = if file { vec![] } else { vec![key] };
        assert_eq!(differing(&config, &parse(&then)?), wanted, "{section}: {rest}");
        seen += 1;
    }
    assert!(seen > 50, "{seen}");
    for (from, to) in [
        ("max-rate = 7 ", "max-rate = 8 "),
        ("resolve = \"srv\"", "resolve = \"srv\", max-rate = 9"),
        ("db.internal:3306\", resolve = \"all\"", "db.internal:3306\", resolve = \"one\""),
        ("command = [\"/bin/check\", \"a\", \"b\"]", "command = [\"/bin/check\", \"a\\\",\\\"b\"]"),
        ("user = \"pg\"", "user = \"pg2\""),
        ("on-demote = { drain = \"31s\" }", "on-demote = { drain = \"32s\" }"),
        ("\ntls = true\ntls-verify = false\n", "\n"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        assert_eq!(differing(&config, &parse(&changed)?), ["pool"], "{from}");
    }
    Ok(())
}

/// A file that names no newer setting, or names it with its default, has the
/// digests it had before there was such a setting.
#[test]
fn digests_do_not_see_defaults() -> Outcome {
    let text = include_str!("digests.toml");
    let config = parse(text)?;
    let same = text
        .replacen(
            "[[pool]]",
            "tcp-keepalive = \"30s\"\ntcp-user-timeout = \"30s\"\naccess-log = false\n[[pool]]",
            1,
        )
        .replacen(
            "[pool.check]",
            "queue = 1000\nqueue-timeout = \"5s\"\nheadroom = 0\nsource = \"auto\"\nproxy-protocol = \"off\"\n\
             on-down = \"drain\"\non-demote = \"close\"\n[pool.check]\npassive = true\ngalera = false\n\
             group-replication = false\ntls = false",
            1,
        )
        .replacen("backup = true", "backup = true, resolve = \"one\"", 1);
    assert_ne!(same, text);
    assert_eq!(differing(&config, &parse(&same)?), [""; 0]);
    Ok(())
}

#[test]
fn digests_do_not_see_what_means_nothing() -> Outcome {
    let text = include_str!("digests.toml");
    let config = parse(text)?;
    for same in [
        text.replace("# MySQL", "# PostgreSQL"),
        text.replace("\"1s\"", "\"1000ms\""),
        text.replace("/etc/vipd/mysql.password", "/root/mysql.password"),
        text.replace("[status]\nhttp = \"127.0.0.1:9112\"", ""),
        text.replace("name = \"main\"", "name = \"main\"\ninterface = \"eth0\""),
        format!("{text}\n[election]\nadvert-interval = \"250ms\"\ntransport = \"unicast\"\n"),
    ] {
        assert_ne!(same, text);
        assert_eq!(differing(&config, &parse(&same)?), [""; 0]);
    }
    // Pools and listeners in another order are the same pools and listeners.
    let a = "[[listen]]\nname = \"a\"\nbind = \":1\"\npool = \"x\"\n[[pool]]\nname = \"x\"\nservers = [\"h:1\"]\n";
    let b = "[[listen]]\nname = \"b\"\nbind = \":2\"\npool = \"y\"\n[[pool]]\nname = \"y\"\nservers = [\"h:2\"]\n";
    let (ab, ba) = (with(&format!("{a}{b}"))?, with(&format!("{b}{a}"))?);
    assert_ne!(ab.pools, ba.pools);
    assert_eq!(differing(&ab, &ba), [""; 0]);
    Ok(())
}

/// Nodes of different versions compare them: a digest may never change.
#[test]
fn digests_are_the_same_for_ever() -> Outcome {
    let digests: Vec<u32> =
        parse(include_str!("digests.toml"))?.digests().into_iter().map(|(_, d)| d).collect();
    assert_eq!(
        digests,
        [2349193344, 2770451638, 350597619, 2235627884, 1229831814, 411847385, 1207289346, 4165919800]
    );
    Ok(())
}

#[test]
fn a_file_that_cannot_be_read_is_one_error() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("vipd.toml");
    let shown = path.display();
    let error = |e: Result<Config, vipd_config::Errors>| e.map_err(|e| e.to_string());
    assert_eq!(
        error(Config::load(&path)),
        Err(format!("{shown}: error: cannot read the file: No such file or directory (os error 2)"))
    );
    std::fs::write(&path, b"[cluster]\nname = \"\xff\"\n")?;
    assert_eq!(
        error(Config::load(&path)),
        Err(format!("{shown}:2:9: error: the file is not UTF-8 from here on"))
    );
    std::fs::write(&path, include_str!("../examples/minimal.toml"))?;
    assert_eq!(Config::load(&path)?.cluster.name, "orders");
    Ok(())
}

#[test]
fn addresses_of_a_family_that_no_node_has_follow_the_other() -> Outcome {
    // The interface is found by the other family too.
    let config = parse(&format!(
        "{HEAD}[[vip]]\nname = \"main\"\naddresses = [\"10.77.0.100/24\", \"fd77::100/64\"]\n"
    ))?;
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert!(
        config.warnings[0].to_string().starts_with("f:7:32: warning: nodes \"px1\", \"px2\" have no IPv6")
    );
    // Multicast needs no address of a node.
    let config = parse(&format!(
        "{HEAD}[election]\ntransport = \"multicast\"\n[[vip]]\nname = \"main\"\n\
         addresses = [\"fd77::100/64\"]\ninterface = \"eth0\"\n"
    ))?;
    assert_eq!(config.warnings, []);
    Ok(())
}

/// What a later version will add may be said already where it changes nothing.
#[test]
fn a_later_key_may_say_what_this_version_does() {
    let text = |quorum: &str| {
        format!(
            r#"
            [cluster]
            name = "orders"
            nodes = [{{ name = "px1", address = "10.77.0.11" }}, {{ name = "px2", address = "10.77.0.12" }}]
            [election]
            quorum = "{quorum}"
            [[vip]]
            name = "main"
            addresses = ["10.77.0.100/24"]
            "#
        )
    };
    assert!(Config::parse(&text("none"), "f").is_ok());
    let refused = Config::parse(&text("majority"), "f").expect_err("not built yet").to_string();
    assert!(refused.contains("quorum in [election] is not supported by this version"), "{refused}");
}

#[test]
fn a_listener_beside_its_vip_is_warned_of() {
    let text = r#"
        [cluster]
        name = "orders"
        nodes = [{ name = "px1", address = "10.77.0.11" }, { name = "px2", address = "10.77.0.12" }]
        [[vip]]
        name = "main"
        addresses = ["10.77.0.100/24"]
        [[listen]]
        name = "db"
        bind = "10.77.0.110:3306"
        pool = "db"
        [[pool]]
        name = "db"
        servers = ["10.77.0.21:3306"]
        "#;
    let warnings = Config::parse(text, "f").expect("right").warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].to_string().contains("10.77.0.110 is neither a VIP nor a node's"), "{warnings:?}");
}
