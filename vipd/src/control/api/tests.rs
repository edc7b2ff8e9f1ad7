use super::*;
use serde_json::{Value, json};

/// The example of the interface's page, with the fields added since at their defaults.
const CONTRACT: &str = r#"{"cluster":"orders","node":"px1","version":"0.1.0",
 "vips":[{"name":"main","addresses":["10.77.0.100/24"],"state":"active","owner":"px1","priority":200,"since":"2026-11-20T12:00:00Z","why":"..."}],
 "peers":[{"name":"px2","address":"10.77.0.12","state":"backup","last-heard-ms":12,"config-match":true}],
 "listeners":[{"name":"write","bind":"10.77.0.100:3306","sessions":3,"total":120,"bytes-in":1,"bytes-out":2}],
 "pools":[{"name":"primary","servers":[{"name":"db1","address":"10.77.0.21:3306","state":"up","role":"primary","lag-ms":null,"sessions":3,"why":"..."}]}],
 "dns":[{"name":"db.corp.example.","desired":["10.77.0.11"],"published":["10.77.0.11"],"in-sync":true,"epoch":7}]}"#;

fn line_of(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// Adds fields to an object.
fn add(to: &mut Value, fields: Value) {
    if let (Value::Object(to), Value::Object(fields)) = (to, fields) {
        to.extend(fields);
    }
}

#[test]
fn the_status_document_keeps_its_published_shape() -> Result<(), serde_json::Error> {
    let doc: StatusDoc = serde_json::from_str(CONTRACT)?;
    let mut expected: Value = serde_json::from_str(CONTRACT)?;
    add(&mut expected["dns"][0], json!({"writer": null, "why": [], "stores": []}));
    expected["maintenance"] = json!(false);
    expected["config-errors"] = json!([]);
    expected["counters"] = json!({"adverts-rejected": [], "adverts-rejected-total": {}});
    add(
        &mut expected["listeners"][0],
        json!({"closed": {}, "accept-errors": 0, "sources": 0, "removed": false}),
    );
    add(&mut expected["vips"][0], json!({"claims-total": 0}));
    add(&mut expected["pools"][0], json!({"incumbent": null, "conflict": [], "epoch": 0}));
    let queue = json!({"waiting": 0, "total": 0, "timeouts": 0, "full": 0});
    add(&mut expected["pools"][0], json!({"queue": queue, "fallback-sessions": 0, "unresolved": []}));
    let server = json!({
        "since": null, "weight": 0, "weight-given": false, "slow-start-percent": null, "check": null,
        "connections-used": null, "connections-max": null, "total": 0, "connect-errors": 0, "resets": 0,
        "bytes-in": 0, "bytes-out": 0, "closed": {}, "room": null,
    });
    add(&mut expected["pools"][0]["servers"][0], server);
    assert_eq!(serde_json::to_value(&doc)?, expected);
    Ok(())
}

#[test]
fn every_request_survives_its_line() -> Result<(), Box<dyn std::error::Error>> {
    let named = || Some("main".to_owned());
    let requests = [
        Request::Status {},
        Request::Why { subject: None },
        Request::Why { subject: named() },
        Request::Switchover { vip: named(), to: Some("px2".into()) },
        Request::Events { follow: true, since: Some(u64::MAX) },
        Request::Reload { dry_run: false },
        Request::Reload { dry_run: true },
        Request::Maintenance { on: true },
        Request::Server { pool: "p".into(), server: "s".into(), state: ServerOrder::Drain },
        Request::Weight { pool: "p".into(), server: "s".into(), weight: None },
        Request::Weight { pool: "p".into(), server: "s".into(), weight: Some(256) },
    ];
    for request in requests {
        let line = request.to_line()?;
        assert_eq!(line.last(), Some(&b'\n'));
        assert_eq!(Request::from_line(&line), Ok(request));
    }
    Ok(())
}

#[test]
fn a_newer_client_is_told_in_one_sentence() {
    // What else the line holds does not matter: it is of a protocol that is not known here.
    let answer = Request::from_line(&line_of(&json!({"v": VERSION + 1, "request": "teleport", "x": []})));
    let Err(Response::Error { code: ErrorCode::Version, message }) = answer else {
        panic!("{answer:?}");
    };
    assert!(message.contains(&format!("version {}", VERSION + 1)), "{message}");
    assert!(message.contains(env!("CARGO_PKG_VERSION")) && !message.contains('\n'), "{message}");
}

#[test]
fn what_is_no_request_is_refused() {
    let cases = [
        json!({"request": "status"}),
        json!({"v": "1", "request": "status"}),
        json!({"v": 1}),
        json!({"v": 1, "request": "teleport"}),
        json!({"v": 1, "request": "status", "verbose": true}),
        json!({"v": 1, "request": "maintenance"}),
        json!({"v": 1, "request": "server", "pool": "p", "server": "s", "state": "asleep"}),
        json!([1, 2]),
        json!("status"),
    ];
    for case in cases {
        let answer = Request::from_line(&line_of(&case));
        assert!(
            matches!(answer, Err(Response::Error { code: ErrorCode::Malformed, .. })),
            "{case}: {answer:?}"
        );
    }
    assert!(Request::from_line(b"\xff\xfe").is_err());
    assert!(Request::from_line(b"").is_err());
}

#[test]
fn an_event_has_milliseconds_and_only_the_names_it_is_about() -> Result<(), Box<dyn std::error::Error>> {
    let steps = Steps { detected_us: Some(1), decided_us: 2, address_in_us: 3, announced_us: 4 };
    let doc = EventDoc {
        seq: 7,
        time: "2026-11-20T12:00:00.12Z".parse()?,
        event: Event::new(Level::Info, EventKind::Takeover, "px1 took over").vip("main").steps(steps),
    };
    let value = serde_json::to_value(&doc)?;
    let expected = json!({
        "seq": 7, "time": "2026-11-20T12:00:00.120Z", "level": "info", "kind": "takeover", "vip": "main",
        "message": "px1 took over",
        "steps": {"detected-us": 1, "decided-us": 2, "address-in-us": 3, "announced-us": 4},
    });
    assert_eq!(value, expected);
    assert_eq!(serde_json::from_value::<EventDoc>(value)?, doc);
    Ok(())
}

#[test]
fn kinds_and_codes_of_a_newer_daemon_are_read() -> Result<(), serde_json::Error> {
    assert_eq!(serde_json::from_value::<EventKind>(json!("comet"))?, EventKind::Other);
    assert_eq!(serde_json::from_value::<ErrorCode>(json!("comet"))?, ErrorCode::Other);
    Ok(())
}
