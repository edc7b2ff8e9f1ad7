//! What a good file means for listeners, pools and checks.

use std::error::Error;
use std::time::Duration;
use vipd_config::Config;
use vipd_core::settings::{
    Balance, Bind, Check, CheckKind, Cidr, ExecCheck, Galera, Heartbeat, Host, HttpCheck, Listener,
    MysqlCheck, OnDemote, OnDown, Pool, PostgresCheck, ProxyProtocol, RedisCheck, Resolve, Role, Server,
    Source, TcpCheck, Tls,
};

type Outcome = Result<(), Box<dyn Error>>;

fn all_keys() -> Result<Config, Box<dyn Error>> {
    Ok(Config::parse(include_str!("all-keys.toml"), "f")?)
}

fn cidr(text: &str) -> Result<Cidr, Box<dyn Error>> {
    let (address, prefix) = text.split_once('/').ok_or(text)?;
    Ok(Cidr::new(address.parse()?, prefix.parse()?).ok_or(text)?)
}

#[test]
fn every_key_of_a_listener_reaches_the_settings() -> Outcome {
    let config = all_keys()?;
    // What a max-lag is for, a replica, is never demoted.
    let warnings: Vec<_> = config.warnings.iter().map(|w| w.message.as_str()).collect();
    assert_eq!(warnings, ["on-demote has no effect: it is about primaries that become replicas"]);
    let bind = Bind { address: None, port: 3306 };
    let wanted = Listener {
        max_connections: 4000,
        max_per_source: Some(11),
        max_rate_per_source: Some(12),
        idle_timeout: Some(Duration::from_secs(13)),
        max_session_age: Some(Duration::from_secs(14)),
        max_busy_session_age: Some(Duration::from_millis(14_500)),
        stall_timeout: None,
        tcp_keepalive: Duration::from_secs(15),
        tcp_user_timeout: Some(Duration::from_millis(1600)),
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
    let config = all_keys()?;
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
fn checks_come_from_a_given_address_that_does_not_float() -> Outcome {
    let text = include_str!("all-keys.toml");
    let given = text.replace("source = \"10.77.0.100\"", "source = \"10.77.0.99\"");
    for (text, expected) in [(given.as_str(), Some("10.77.0.99".parse()?)), (text, None)] {
        let config = Config::parse(text, "f")?;
        let found = [0, 1].map(|pool| config.pools[pool].check_source);
        assert_eq!(found, [expected, None], "{:?}, {:?}", config.pools[0].source, config.pools[1].source);
    }
    Ok(())
}

#[test]
fn every_key_of_a_check_reaches_the_settings() -> Outcome {
    let config = all_keys()?;
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
        let config = Config::parse(
            &format!(
                "[cluster]\nname = \"c\"\nnodes = [{{ name = \"px1\", address = \"10.77.0.11\" }}]\n[[listen]]\nname = \"db\"\nbind = \":1\"\npool = \"db\"\n[[pool]]\nname = \"db\"\n\
             servers = [\"db:2\"]\n[pool.check]\n{keys}\n"
            ),
            "f",
        )?;
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
