//! What a good file means: defaults, numbers that are derived, which node a
//! host is, and the digests that nodes compare.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;
use vipd_config::Config;
use vipd_core::settings::{
    Balance, Bind, Check, CheckKind, Cidr, Family, Host, Listener, MysqlCheck, OnNoQuorum, Pool, Quorum,
    Role, Server, Transport, VrrpVersion,
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
    assert_eq!(election.start_delay, Duration::ZERO);
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
    assert_eq!(config.election.start_delay, Duration::from_secs(45));
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
fn a_vrid_that_is_not_given_comes_from_the_name_alone() -> Outcome {
    let vrids = |text: &str| -> Result<Vec<u8>, Box<dyn Error>> {
        Ok(parse(&format!("{HEAD}{text}"))?.vips.iter().map(|v| v.vrid.get()).collect())
    };
    let vip = |name: &str, host: u8, more: &str| {
        format!("[[vip]]\nname = {name:?}\naddresses = [\"10.77.0.{host}/24\"]\n{more}\n")
    };
    let [chosen] = vrids(&vip("main", 100, ""))?[..] else { return Err("one".into()) };
    // Hosts of different versions must agree: this number may never change.
    assert_eq!(chosen, 135);
    // No other group moves it: whoever has its number is refused, with a way out
    // that is one, wherever they stand.
    let pairs = (0..40).flat_map(|a| (0..a).map(move |b| (format!("v{b}"), format!("v{a}"))));
    let mut refused = 0;
    for (a, b) in pairs {
        let both = vip(&a, 100, "") + &vip(&b, 101, "");
        let alone = [vrids(&vip(&a, 100, ""))?[0], vrids(&vip(&b, 101, ""))?[0]];
        match vrids(&both) {
            Ok(both) => assert_eq!(both, alone),
            Err(error) => {
                assert_eq!(alone[0], alone[1]);
                let text = error.to_string();
                let (_, advice) = text.split_once("write ").ok_or("a way out")?;
                let advice = advice.split(",").next().unwrap_or_default();
                assert_eq!(vrids(&(vip(&a, 100, "") + &vip(&b, 101, advice)))?[0], alone[0], "{advice}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "of 780 pairs some come to the same number");
    let given = vip("main", 100, "") + &vip("other", 101, &format!("vrid = {chosen}"));
    let text = vrids(&given).err().ok_or("two have it")?.to_string();
    assert!(
        text.contains("vip \"main\" comes by its name to vrid 135, which is that of vip \"other\" (line"),
        "{text}"
    );
    Ok(())
}

#[test]
fn the_election_of_dns_has_a_number_of_its_own() -> Outcome {
    let file = |vip: &str, dns: &str| {
        format!(
            "{HEAD}[[vip]]\nname = \"main\"\naddresses = [\"10.77.0.100/24\"]\n{vip}\n[dns]\n\
             name = \"db.corp.example.\"\n{dns}\n[dns.route53]\nzone-id = \"Z0123456789ABCDEFGHIJ\"\n"
        )
    };
    let number = |text: &str| -> Result<u8, Box<dyn Error>> {
        Ok(parse(text)?.vips.last().map_or(0, |v| v.vrid.get()))
    };
    let named = number(&file("", ""))?;
    assert_eq!(number(&file("", "vrid = 77"))?, 77);
    let same = format!("vrid = {named}");
    let text = number(&file(&same, "")).err().ok_or("two have it")?.to_string();
    assert!(
        text.contains("the election of [dns] comes by its name to vrid") && text.contains("write vrid = "),
        "{text}"
    );
    assert_eq!(number(&file(&same, "vrid = 1"))?, 1);
    let text = number(&file("vrid = 77", "vrid = 77")).err().ok_or("two have it")?.to_string();
    assert!(text.contains("vrid 77 is that of vip \"main\" already"), "{text}");
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

#[test]
fn a_witness_votes_and_is_no_node() -> Outcome {
    let text = r#"
        [cluster]
        name = "orders"
        nodes = [{ name = "px1", address = "10.77.0.11" }, { name = "px2", address = "10.77.0.12" }]
        witnesses = [{ name = "w1", address = "10.77.0.13" }]
        key-file = "/etc/vipd/cluster.key"
        [election]
        quorum = "majority"
        on-no-quorum = "keep"
        [[vip]]
        name = "main"
        addresses = ["10.77.0.100/24"]
    "#;
    let config = parse(text)?;
    assert_eq!(config.warnings, []);
    assert_eq!((config.election.quorum, config.election.on_no_quorum), (Quorum::Majority, OnNoQuorum::Keep));
    assert_eq!(config.find_witness(&["10.77.0.13".parse()?]), Some(2));
    assert_eq!(config.witness_named("w1"), Some(2));
    assert_eq!(config.find_witness(&["10.77.0.11".parse()?]), None);
    assert_eq!(config.vips[0].nodes, [0, 1]);
    assert_eq!(config.cluster.voters().count(), 3);
    Ok(())
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
