//! What is asked of servers that cannot be had here, and what is made of
//! their answers.

use super::*;
use vipd_core::health::PoolsState;
use vipd_core::pool::ServerKey;
use vipd_core::probe::{Checked, Connections, Lag};
use vipd_core::settings::{Galera, Heartbeat};

/// What a server says to a question.
#[derive(Clone, Copy)]
enum Reply {
    Rows(&'static [&'static str], &'static [&'static [&'static str]]),
    Error(u16, &'static str),
}

use Reply::{Error, Rows};

/// A statement is answered by the first line whose words are in it.
type Script = &'static [(&'static str, Reply)];

/// Answers the statements of one question in turn, up to the first error.
async fn converse(stream: &mut TcpStream, script: Script, asked: &mpsc::UnboundedSender<String>) -> Outcome {
    loop {
        let (_, question) = read(stream).await?;
        let question = String::from_utf8(question.get(1..).unwrap_or_default().to_vec())?;
        asked.send(question.clone())?;
        if question.starts_with("SET ") {
            stream.write_all(&packet(1, &OK)).await?;
            continue;
        }
        let statements: Vec<_> = question.split("; ").collect();
        let mut packets = Vec::new();
        for (at, statement) in statements.iter().enumerate() {
            let reply = script.iter().find(|(words, _)| statement.contains(words)).map(|(_, reply)| *reply);
            match reply.unwrap_or(Error(1064, "You have an error in your SQL syntax")) {
                Rows(columns, rows) => packets.extend(table(columns, rows, at + 1 < statements.len())),
                Error(code, text) => {
                    let [low, high] = code.to_le_bytes();
                    packets.push([&[0xff, low, high], b"#HY000".as_slice(), text.as_bytes()].concat());
                    break;
                }
            }
        }
        send(stream, &packets).await?;
    }
}

/// What a check makes of a server that answers so, and the questions of a
/// probe over a connection that is already there.
async fn seen(check: MysqlCheck, script: Script) -> Result<(Probe, Vec<String>), Box<dyn std::error::Error>> {
    let (sender, mut asked) = mpsc::unbounded_channel();
    let (port, _) = server(move |mut stream| {
        let sender = sender.clone();
        async move {
            log_in(&mut stream).await?;
            // It ends when the check hangs up.
            let _ended = converse(&mut stream, script, &sender).await.map_err(|e| e.to_string());
            Ok(())
        }
    })
    .await?;
    let mut prober = Prober::new(check, None, LIMIT, LIMIT);
    let (address, progress) = (SocketAddr::from(([127, 0, 0, 1], port)), Progress::default());
    let mut probe = async || {
        let deadline = Instant::now() + LIMIT;
        match tokio::time::timeout(LIMIT, prober.probe(way(&[address], deadline), &progress)).await? {
            Ok((_, seen)) => Ok(Probe::Answered(seen)),
            Err(error) => Ok(Probe::Failed(error.to_string().replace(&address.to_string(), "PEER"))),
        }
    };
    let first: Result<Probe, tokio::time::error::Elapsed> = probe().await;
    while asked.try_recv().is_ok() {}
    let second = probe().await?;
    assert_eq!(first?, second);
    let mut questions = Vec::new();
    while let Ok(question) = asked.try_recv() {
        questions.push(question);
    }
    Ok((second, questions))
}

fn replica() -> MysqlCheck {
    MysqlCheck { role: Role::Replica, ..MysqlCheck::new("vipd") }
}

fn lag(seconds: u64, connections: Option<Connections>) -> Probe {
    Probe::Answered(Observation {
        role: Some(ObservedRole::Replica),
        lag: Some(Lag::Known(Duration::from_secs(seconds))),
        connections,
        ..Observation::default()
    })
}

fn unready(probe: Probe) -> Option<String> {
    match probe {
        Probe::Answered(seen) => seen.unready,
        Probe::Failed(_) | Probe::Full(_) | Probe::Unable(_) => None,
    }
}

const VARIABLES: &[&str] = &["Variable_name", "Value"];
const CHANNELS: &[&str] =
    &["Replica_IO_Running", "Replica_SQL_Running", "Seconds_Behind_Source", "Channel_Name"];

#[tokio::test]
async fn mysql_8_4_is_asked_in_two_round_trips() -> Outcome {
    let script: Script = &[
        (
            "SHOW GLOBAL VARIABLES",
            Rows(
                VARIABLES,
                &[
                    &["read_only", "ON"],
                    &["super_read_only", "ON"],
                    &["max_connections", "151"],
                    &["version", "8.4.3"],
                ],
            ),
        ),
        (
            "SELECT @@global",
            Rows(&["read_only", "super_read_only", "max_connections"], &[&["1", "1", "151"]]),
        ),
        ("SHOW GLOBAL STATUS", Rows(VARIABLES, &[&["Threads_connected", "12"]])),
        (
            "SHOW REPLICA STATUS",
            Rows(
                CHANNELS,
                &[&["Yes", "Yes", "3", "a"], &["Yes", "Yes", "40", "b"], &["Yes", "Yes", "5", "c"]],
            ),
        ),
    ];
    let (probe, asked) = seen(replica(), script).await?;
    assert_eq!(probe, lag(40, Some(Connections { used: 12, max: 151 })));
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[1], "SHOW REPLICA STATUS");
    Ok(())
}

const OLD_VARIABLES: Reply = Rows(VARIABLES, &[&["read_only", "ON"], &["version", "8.0.21"]]);

#[tokio::test]
async fn what_was_not_understood_is_not_asked_again() -> Outcome {
    const COLUMNS: &[&str] =
        &["Slave_IO_Running", "Slave_SQL_Running", "Seconds_Behind_Master", "Channel_Name"];
    let script: Script = &[
        ("SHOW GLOBAL VARIABLES", OLD_VARIABLES),
        ("SELECT @@global", Rows(&["read_only"], &[&["1"]])),
        ("SHOW GLOBAL STATUS", Rows(VARIABLES, &[])),
        ("SHOW SLAVE STATUS", Rows(COLUMNS, &[&["Yes", "Yes", "7", ""]])),
    ];
    let (probe, asked) = seen(replica(), script).await?;
    assert_eq!(probe, lag(7, None));
    assert_eq!(asked.last().map(String::as_str), Some("SHOW SLAVE STATUS"));
    assert_eq!(asked.len(), 2, "{asked:?}");
    Ok(())
}

#[tokio::test]
async fn a_missing_privilege_is_named_with_its_grant() -> Outcome {
    let script: Script = &[
        ("SHOW GLOBAL VARIABLES", OLD_VARIABLES),
        ("SELECT @@global", Rows(&["read_only"], &[&["1"]])),
        ("SHOW GLOBAL STATUS", Rows(VARIABLES, &[])),
        ("SHOW REPLICA STATUS", Error(1227, "Access denied; you need REPLICATION CLIENT")),
        ("SELECT MEMBER_ID", Error(1142, "SELECT command denied to user")),
        ("CURRENT_USER", Rows(&["CURRENT_USER()"], &[&["vipd@10.%"]])),
    ];
    let (probe, _) = seen(replica(), script).await?;
    let text = "user 'vipd' may not ask PEER for its replication status (ERROR 1227: Access denied; \
                you need REPLICATION CLIENT); type there: GRANT REPLICATION CLIENT ON *.* TO 'vipd'@'10.%';";
    assert_eq!(probe, Probe::Failed(text.to_owned()));
    let (probe, _) = seen(MysqlCheck { group_replication: true, ..replica() }, script).await?;
    let text = "user 'vipd' may not ask PEER for its group (ERROR 1142: SELECT command denied to user); type \
                there: GRANT SELECT ON performance_schema.replication_group_members TO 'vipd'@'10.%';";
    assert_eq!(probe, Probe::Failed(text.to_owned()));
    Ok(())
}

const MEMBER: (&str, Reply) = (
    "SHOW GLOBAL VARIABLES",
    Rows(VARIABLES, &[&["read_only", "ON"], &["server_uuid", "u2"], &["version", "8.0.36"]]),
);
const MEMBER_SAYS: (&str, Reply) = ("SELECT @@global", Rows(&["read_only", "server_uuid"], &[&["1", "u2"]]));
const NO_STATUS: (&str, Reply) = ("SHOW GLOBAL STATUS", Rows(VARIABLES, &[]));
const ID_STATE: &[&str] = &["MEMBER_ID", "MEMBER_STATE"];

#[tokio::test]
async fn a_member_must_be_online_in_a_majority() -> Outcome {
    let check = MysqlCheck { group_replication: true, ..replica() };
    let script: Script = &[
        MEMBER,
        MEMBER_SAYS,
        NO_STATUS,
        ("SELECT MEMBER_ID", Rows(ID_STATE, &[&["u1", "ONLINE"], &["u2", "ONLINE"], &["u3", "UNREACHABLE"]])),
        ("SHOW REPLICA STATUS", Rows(CHANNELS, &[&["No", "Yes", "0", "group_replication_recovery"]])),
    ];
    let (probe, asked) = seen(check.clone(), script).await?;
    let well = Observation { role: Some(ObservedRole::Replica), ..Observation::default() };
    assert_eq!(probe, Probe::Answered(well), "the group keeps it up to date, no channel of its own");
    assert_eq!(asked.len(), 2, "{asked:?}");

    let script: Script = &[
        MEMBER,
        MEMBER_SAYS,
        NO_STATUS,
        (
            "SELECT MEMBER_ID",
            Rows(ID_STATE, &[&["u1", "UNREACHABLE"], &["u2", "ONLINE"], &["u3", "UNREACHABLE"]]),
        ),
    ];
    let (probe, _) = seen(check.clone(), script).await?;
    let lost = "no majority of the group: 1 of 3 members ONLINE or RECOVERING";
    assert_eq!(unready(probe).as_deref(), Some(lost));

    let script: Script = &[
        ("SHOW GLOBAL VARIABLES", Rows(VARIABLES, &[&["read_only", "OFF"], &["version", "11.4.2-MariaDB"]])),
        ("SELECT @@global", Rows(&["read_only"], &[&["0"]])),
        NO_STATUS,
    ];
    let (probe, _) = seen(check, script).await?;
    assert!(unready(probe).is_some_and(|why| why.contains("MariaDB has no group replication")));
    Ok(())
}

/// What a pool with this check makes of a server that answers so: its word and the reason.
async fn verdict(check: MysqlCheck, script: Script) -> Result<String, Box<dyn std::error::Error>> {
    let (probe, _) = seen(check.clone(), script).await?;
    let mut state = PoolsState::new(vec![pool("a", CheckKind::Mysql(check), &[3306])], Time::ZERO);
    state.observe(ServerKey { pool: 0, server: 0 }, probe, Checked::at(Time::ZERO), Time::ZERO);
    let status = state.status().next().ok_or("no server")?;
    Ok(format!("{}: {}", status.reason.state(), status.reason))
}

/// From the answers to the verdict: read-only members are what a pool of
/// replicas is made of, with `max-lag` and without.
#[tokio::test]
async fn a_read_only_member_is_used_without_a_channel() -> Outcome {
    const ONLINE: (&str, Reply) =
        ("SELECT MEMBER_ID", Rows(ID_STATE, &[&["u1", "ONLINE"], &["u2", "ONLINE"], &["u3", "ONLINE"]]));
    const GROUP: Script = &[
        MEMBER,
        MEMBER_SAYS,
        NO_STATUS,
        ONLINE,
        ("SHOW REPLICA STATUS", Rows(CHANNELS, &[&["No", "Yes", "0", "group_replication_recovery"]])),
        ("heartbeat", Rows(&["age"], &[])),
    ];
    const CHANNEL: Script = &[
        MEMBER,
        MEMBER_SAYS,
        NO_STATUS,
        ONLINE,
        ("SHOW REPLICA STATUS", Rows(CHANNELS, &[&["Yes", "Yes", "60", "from elsewhere"]])),
    ];
    const GALERA: Script = &[
        (
            "SHOW GLOBAL VARIABLES",
            Rows(
                VARIABLES,
                &[
                    &["read_only", "ON"],
                    &["wsrep_provider", "/usr/lib/galera/libgalera_smm.so"],
                    &["wsrep_desync", "OFF"],
                    &["wsrep_reject_queries", "NONE"],
                    &["version", "10.11.6-MariaDB"],
                ],
            ),
        ),
        (
            "SELECT @@global",
            Rows(
                &["read_only", "wsrep_provider", "wsrep_desync", "wsrep_reject_queries"],
                &[&["1", "/usr/lib/galera/libgalera_smm.so", "0", "NONE"]],
            ),
        ),
        (
            "SHOW GLOBAL STATUS",
            Rows(
                VARIABLES,
                &[&["wsrep_cluster_status", "Primary"], &["wsrep_ready", "ON"], &["wsrep_local_state", "4"]],
            ),
        ),
        ("SHOW ALL SLAVES STATUS", Rows(&["Slave_IO_Running"], &[])),
    ];
    const ALONE: Script = &[MEMBER, MEMBER_SAYS, NO_STATUS, ("SHOW REPLICA STATUS", Rows(CHANNELS, &[]))];
    let well = "up: its check succeeds";
    let limit = Some(Duration::from_secs(10));
    for (role, max_lag) in
        [(Role::Replica, None), (Role::Replica, limit), (Role::Any, None), (Role::Any, limit)]
    {
        let check = MysqlCheck { role, max_lag, ..MysqlCheck::new("vipd") };
        let group = MysqlCheck { group_replication: true, ..check.clone() };
        let galera = MysqlCheck { galera: Some(Galera { donors: false }), ..check.clone() };
        assert_eq!(verdict(group.clone(), GROUP).await?, well, "{role:?} {max_lag:?}");
        assert_eq!(verdict(galera, GALERA).await?, well, "{role:?} {max_lag:?}");
        // What tells a lag all the same is heeded, and who is no member needs one that is known.
        let Some(_) = max_lag else { continue };
        let lags = verdict(group.clone(), CHANNEL).await?;
        assert!(lags.contains("it lags 60s, max-lag is 10s"), "{lags}");
        let heartbeat = Heartbeat { schema: "d".into(), table: "heartbeat".into(), column: "at".into() };
        let unknown = verdict(MysqlCheck { heartbeat: Some(heartbeat), ..group }, GROUP).await?;
        assert_eq!(unknown, "down: its lag is unknown: the heartbeat table holds no time");
        let alone = "down: its lag is unknown: read-only, but no replication is configured";
        assert_eq!(verdict(check, ALONE).await?, alone);
    }
    Ok(())
}

#[tokio::test]
async fn percona_in_maintenance_says_so() -> Outcome {
    let script: Script = &[
        (
            "SHOW GLOBAL VARIABLES",
            Rows(
                VARIABLES,
                &[
                    &["read_only", "OFF"],
                    &["wsrep_provider", "/usr/lib/galera4/libgalera_smm.so"],
                    &["wsrep_desync", "OFF"],
                    &["wsrep_reject_queries", "NONE"],
                    &["pxc_maint_mode", "MAINTENANCE"],
                    &["version", "8.0.36-28.1"],
                ],
            ),
        ),
        (
            "SELECT @@global",
            Rows(
                &["read_only", "wsrep_provider", "wsrep_desync", "wsrep_reject_queries", "pxc_maint_mode"],
                &[&["0", "/usr/lib/galera4/libgalera_smm.so", "0", "NONE", "MAINTENANCE"]],
            ),
        ),
        (
            "SHOW GLOBAL STATUS",
            Rows(
                VARIABLES,
                &[
                    &["wsrep_cluster_status", "Primary"],
                    &["wsrep_ready", "ON"],
                    &["wsrep_local_state", "4"],
                    &["wsrep_local_state_comment", "Synced"],
                ],
            ),
        ),
    ];
    let check = MysqlCheck { galera: Some(Galera { donors: false }), ..MysqlCheck::new("vipd") };
    let (probe, asked) = seen(check, script).await?;
    assert_eq!(unready(probe).as_deref(), Some("pxc_maint_mode is MAINTENANCE"));
    assert_eq!(asked.len(), 1, "{asked:?}");
    Ok(())
}

/// Error 1047 is the server's word on itself, not a check that failed.
#[tokio::test]
async fn a_server_that_refuses_all_queries_is_unready() -> Outcome {
    let script: Script = &[
        ("SHOW GLOBAL VARIABLES", OLD_VARIABLES),
        ("SELECT @@global", Error(1047, "WSREP has not yet prepared node for application use")),
    ];
    let (probe, _) = seen(replica(), script).await?;
    let why = "ERROR 1047: WSREP has not yet prepared node for application use";
    assert_eq!(unready(probe).as_deref(), Some(why));
    Ok(())
}
