use super::super::api::{
    CheckDoc, ConflictDoc, Counters, EtcdDoc, Event, EventKind, LinkDoc, ListenerDoc, PeerDoc, PoolDoc,
    ProofDoc, QueueDoc, Sees, ServerDoc, ServerRole, StatusDoc, VipDoc, WitnessDoc,
};
use super::*;

fn at(time: &str) -> Timestamp {
    time.parse().expect("a time")
}

/// Ten minutes after everything in the documents below.
fn now() -> Timestamp {
    at("2026-11-20T12:10:00Z")
}

fn server_doc(name: &str, state: ServerState, role: Option<ServerRole>, why: &str) -> ServerDoc {
    ServerDoc {
        name: name.into(),
        address: format!("192.0.2.{}:3306", name.len() * 7),
        state,
        role,
        lag_ms: None,
        sessions: 0,
        why: why.into(),
        since: Some(at("2026-11-20T11:50:00Z")),
        weight: 100,
        weight_given: false,
        slow_start_percent: None,
        check: None,
        connections_used: None,
        connections_max: None,
        total: 0,
        connect_errors: 0,
        resets: 0,
        bytes_in: 0,
        bytes_out: 0,
        closed: std::collections::BTreeMap::new(),
        room: None,
    }
}

fn pool_doc(name: &str, server: ServerDoc, incumbent: Option<&str>) -> PoolDoc {
    let incumbent = incumbent.map(str::to_owned);
    PoolDoc {
        name: name.into(),
        servers: vec![server],
        incumbent,
        conflict: vec![],
        epoch: 0,
        disagreeing: vec![],
        queue: QueueDoc::default(),
        fallback_sessions: 0,
        unresolved: vec![],
    }
}

/// A node as it should be.
fn healthy() -> StatusDoc {
    let mut db1 = server_doc("db1", ServerState::Up, Some(ServerRole::Primary), "answers, and takes writes");
    db1.sessions = 3;
    let mut db2 = server_doc("db2", ServerState::Up, Some(ServerRole::Replica), "answers");
    db2.lag_ms = Some(120);
    db2.check = Some(CheckDoc { total: 1000, failed: 7, passive: 1, took_us: 1234 });
    (db2.connections_used, db2.connections_max) = (Some(90), Some(151));
    (db2.resets, db2.room) = (8, Some(61));
    (db2.bytes_in, db2.bytes_out) = (901, 902);
    db2.closed.insert("server-down".into(), 3);
    let mut replicas = pool_doc("replicas", db2, None);
    replicas.queue = QueueDoc { waiting: 0, total: 40, timeouts: 5, full: 6 };
    replicas.fallback_sessions = 7;
    StatusDoc {
        cluster: "orders".into(),
        node: "px1".into(),
        version: "0.1.0".into(),
        maintenance: false,
        vips: vec![VipDoc {
            name: "main".into(),
            addresses: vec!["192.0.2.100/24".into()],
            state: VipState::Active,
            owner: Some("px1".into()),
            priority: 200,
            since: at("2026-11-20T12:07:00Z"),
            why: "px2 let go of it".into(),
            steps: Some(Steps {
                detected_us: Some(3_031_245),
                decided_us: 3_031_250,
                address_in_us: 3_031_601,
                announced_us: 3_031_755,
            }),
            conflicts: vec![],
            claims_total: 0,
            proofs: vec![ProofDoc {
                seer: "px2".into(),
                sees: Sees::Owner,
                address: None,
                mac: Some("02:00:00:00:00:0b".into()),
                took_us: Some(1_250),
            }],
            lease_ms: Some(2_400),
        }],
        peers: vec![PeerDoc {
            name: "px2".into(),
            address: "192.0.2.12".into(),
            state: PeerState::Backup,
            last_heard_ms: Some(12),
            last_advert_ms: None,
            config_match: Some(true),
            config_differs: vec![],
            hears_this: Some(true),
            link: Some(LinkDoc {
                sealed_since: Some(at("2026-11-20T12:00:00Z")),
                cipher: "Noise".into(),
                problem: None,
                problem_ago_ms: None,
            }),
        }],
        witnesses: vec![WitnessDoc {
            name: "w1".into(),
            address: "192.0.2.13".into(),
            last_heard_ms: Some(400),
            config_match: Some(true),
            config_differs: vec![],
        }],
        listeners: vec![ListenerDoc {
            name: "write".into(),
            bind: "192.0.2.100:3306".into(),
            removed: false,
            sessions: 3,
            total: 120,
            bytes_in: 1234,
            bytes_out: 43_210_987,
            closed: [("client-closed".to_owned(), 115), ("server-demoted".to_owned(), 2)].into(),
            accept_errors: 0,
            sources: 2,
        }],
        pools: vec![pool_doc("primary", db1, Some("db1")), replicas],
        dns: vec![],
        etcd: vec![EtcdDoc {
            endpoint: "https://192.0.2.31:2379".into(),
            answers: 4_321,
            failures: 2,
            round_trip_us: Some(1_875),
            problem: None,
        }],
        config_errors: vec![],
        counters: Counters::default(),
    }
}

/// One with something wrong everywhere.
pub(crate) fn troubled() -> StatusDoc {
    let mut doc = healthy();
    doc.maintenance = true;
    doc.config_errors = vec!["/etc/vipd/vipd.toml:3:1: error: unknown key `nods`".into()];
    doc.dns.push(DnsDoc {
        name: "db.corp.example.".into(),
        desired: vec!["192.0.2.11".into()],
        published: vec!["192.0.2.11".into(), "192.0.2.12".into()],
        in_sync: false,
        epoch: 7,
        writer: Some("px1".into()),
        why: vec!["px1 is in".into(), "px2 is out: it is not heard".into()],
        stores: vec![
            DnsStoreDoc {
                place: "192.0.2.53:53".into(),
                published: vec!["192.0.2.11".into()],
                in_sync: true,
                epoch: 7,
                writes: 3,
                errors: 1,
                ..DnsStoreDoc::default()
            },
            DnsStoreDoc {
                place: "route53/Z0123456789".into(),
                published: vec!["192.0.2.11".into(), "192.0.2.12".into()],
                epoch: 6,
                error: Some("throttled".into()),
                retry_ms: 1500,
                ..DnsStoreDoc::default()
            },
        ],
    });
    doc.vips.push(VipDoc {
        name: "second".into(),
        addresses: (1..=200).map(|i| format!("198.51.100.{i}/24")).collect(),
        state: VipState::Fault,
        owner: None,
        priority: 150,
        since: at("2026-11-18T12:10:00Z"),
        why: "eth1 has no carrier".into(),
        steps: None,
        conflicts: vec![],
        claims_total: 0,
        proofs: vec![],
        lease_ms: None,
    });
    doc.vips[0].conflicts.push(ConflictDoc {
        address: "192.0.2.100".into(),
        mac: "02:00:00:00:ee:ee".into(),
        node: None,
        count: 12,
        ago_ms: 300,
    });
    doc.vips[0].claims_total = 12;
    doc.peers[0].hears_this = Some(false);
    doc.peers[0].config_match = Some(false);
    doc.peers[0].config_differs = vec!["election.advert-interval".into(), "vip.main.vrid".into()];
    doc.peers.push(PeerDoc {
        name: "px3".into(),
        address: "192.0.2.13".into(),
        state: PeerState::Unknown,
        last_heard_ms: None,
        last_advert_ms: None,
        config_match: None,
        config_differs: vec![],
        hears_this: None,
        link: Some(LinkDoc {
            sealed_since: None,
            cipher: "Noise".into(),
            problem: Some("px3 speaks with another cluster key".into()),
            problem_ago_ms: Some(900),
        }),
    });
    doc.witnesses[0].config_match = Some(false);
    doc.witnesses[0].config_differs = vec!["election.quorum".into()];
    doc.etcd.push(EtcdDoc {
        endpoint: "https://192.0.2.32:2379".into(),
        failures: 7,
        problem: Some("https://192.0.2.32:2379: connection refused".into()),
        ..EtcdDoc::default()
    });
    doc.etcd.push(EtcdDoc { endpoint: "https://192.0.2.33:2379".into(), ..EtcdDoc::default() });
    let bad = "the server said \"\x1b[31mno\r\n\x07\" and closed";
    doc.pools[1].queue.waiting = 3;
    doc.pools[1].servers.extend([
        server_doc("db3", ServerState::Down, None, bad),
        server_doc("db4-long", ServerState::Drain, None, "by an operator's word"),
        server_doc("db5", ServerState::Unknown, None, "not checked yet"),
    ]);
    doc.pools[0].conflict = vec!["db2".into()];
    doc.pools[0].epoch = 3;
    doc.pools[0].disagreeing = vec!["px2: db2".into()];
    doc.pools[1].servers[0].slow_start_percent = Some(40);
    doc.pools[1].servers[1].weight_given = true;
    let rejected = |cause: &str, sender: &str, count| Rejected {
        cause: cause.into(),
        sender: sender.into(),
        count,
        ago_ms: 3_000,
    };
    doc.counters.adverts_rejected_total = [("checksum".to_owned(), 7), ("unknown-vrid".to_owned(), 1)].into();
    doc.counters.adverts_rejected = vec![
        rejected("checksum", "192.0.2.66", 4),
        rejected("checksum", "192.0.2.67", 3),
        rejected("unknown-vrid", "192.0.2.66", 1),
    ];
    doc
}

/// Compares with the file, or writes it when `UPDATE_GOLDEN` is set.
fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control/text").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("writable source tree");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, kept, "differs from {}; UPDATE_GOLDEN=1 rewrites it", path.display());
}

#[test]
fn a_healthy_node() {
    golden("healthy.txt", &status(&healthy(), now(), false));
}

#[test]
fn a_troubled_node() {
    golden("troubled.txt", &status(&troubled(), now(), false));
}

#[test]
fn colours_change_nothing_but_colours() {
    let coloured = status(&troubled(), now(), true);
    golden("coloured.txt", &coloured);
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').expect("only SGR sequences").1;
    }
    plain.push_str(rest);
    assert_eq!(plain, status(&troubled(), now(), false));
}

#[test]
fn nothing_a_server_says_reaches_the_terminal_as_a_command() {
    let text = status(&troubled(), now(), false);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    let mut event = doc_of(Event::new(Level::Error, EventKind::Server, "said \x1b[2J\nforged line"));
    event.seq = 1;
    assert!(!self::event(&event, false).contains(char::is_control));
}

fn doc_of(event: Event) -> EventDoc {
    EventDoc { seq: 1, time: now(), event }
}

#[test]
fn an_event_is_one_line() {
    let plain = doc_of(Event::new(Level::Warning, EventKind::Server, "primary/db1 is down: refused"));
    assert_eq!(event(&plain, false), "2026-11-20T12:10:00.000Z  warning  primary/db1 is down: refused");
    let steps =
        Steps { detected_us: Some(10), decided_us: 1_020, address_in_us: 12_030, announced_us: 3_012_040 };
    let takeover = doc_of(Event::new(Level::Info, EventKind::Takeover, "px1 owns main now").steps(steps));
    assert_eq!(
        event(&takeover, false),
        "2026-11-20T12:10:00.000Z  info     px1 owns main now (detected 0.010 ms, decided 1.020 ms, \
         address in 12.030 ms, announced 3012.040 ms after the last sign of the owner)"
    );
}

#[test]
fn the_first_takeover_begins_with_the_start() {
    let steps = Steps { detected_us: None, decided_us: 0, address_in_us: 1_030, announced_us: 2_040 };
    let start = "start, decided 0.000 ms, address in 1.030 ms, announced 2.040 ms after it";
    assert_eq!(self::steps(steps), start);
}

#[test]
fn a_flood_of_senders_is_a_few_rows() {
    let rejected = |n: u64| Rejected {
        cause: "ttl".into(),
        sender: format!("192.0.2.{n}"),
        count: 100 - n,
        ago_ms: n * 1_000,
    };
    let mut doc = healthy();
    doc.counters.adverts_rejected = (1..=50).map(rejected).collect();
    let text = status(&doc, now(), false);
    assert!(text.contains("192.0.2.5 ") && !text.contains("192.0.2.6 "), "{text}");
    let rest: u64 = (6..=50).map(|n| 100 - n).sum();
    assert!(text.contains("various") && text.contains(&format!("45 others  {rest}   6s ago")), "{text}");
}

#[test]
fn numbers_are_short_and_whole() {
    let shown: Vec<String> = [0, 999, 1000, 59_999, 60_000, 3_600_000, 86_400_000].map(millis).into();
    assert_eq!(shown, ["0ms", "999ms", "1s", "59s", "1m", "1h", "1d"]);
    let shown: Vec<String> = [0, 999, 1000, 1_999, 999_999, 1_000_000, u64::MAX].map(bytes).into();
    assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "1.9 kB", "999.9 kB", "1.0 MB", "18446744.0 TB"]);
    assert_eq!(ago(now(), at("2026-11-20T13:00:00Z")), "0s ago", "a clock that was set back");
}
