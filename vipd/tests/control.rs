//! The control socket and the HTTP page, from outside.

mod common;

use common::Fake;
use std::io::{Read, Write};
use std::net::TcpStream;
use vipd::control::api::{ErrorCode, Event, EventKind, Level, Request, Response, StatusDoc};
use vipd::control::events::KEPT;
use vipd::control::server::{MAX_FOLLOWERS, MAX_LINE};

fn line(request: &Request) -> Vec<u8> {
    request.to_line().expect("a request")
}

fn event(message: &str) -> Event {
    Event::new(Level::Info, EventKind::Vip, message).vip("main")
}

fn code(response: &Response) -> Option<ErrorCode> {
    match response {
        Response::Error { code, .. } => Some(*code),
        Response::Status { .. }
        | Response::Why { .. }
        | Response::Switched { .. }
        | Response::Sessions(_)
        | Response::Done { .. }
        | Response::Event { .. }
        | Response::End {}
        | Response::Refused { .. } => None,
    }
}

#[test]
fn one_request_has_one_response() {
    let fake = Fake::start();
    let responses = fake.ask(&line(&Request::Status {}));
    assert_eq!(responses, [Response::Status { status: Box::new(common::status()) }]);
    let refused = fake.ask(&line(&Request::Why { subject: Some("nothing".into()) }));
    assert_eq!(refused, [Response::Refused { reason: "there is no VIP and no server nothing".into() }]);
}

#[test]
fn a_follower_hears_what_was_and_what_comes() {
    let mut fake = Fake::start();
    fake.log().push(event("one"));
    fake.log().push(event("two"));
    let mut follower = fake.connect();
    follower.send(&line(&Request::Events { follow: true, since: Some(1) }));
    let message = |response: Option<Response>| match response {
        Some(Response::Event { event }) => event.event.message,
        other => panic!("{other:?}"),
    };
    assert_eq!(message(follower.next()), "two");
    fake.log().push(event("three"));
    assert_eq!(message(follower.next()), "three");
    fake.stop();
    let end = follower.next().expect("a last word");
    assert_eq!(code(&end), Some(ErrorCode::Stopping));
    assert_eq!(follower.next(), None);
    assert!(!fake.socket().exists(), "the socket goes with the daemon");
}

#[test]
fn events_without_following_end() {
    let fake = Fake::start();
    for _ in 0..KEPT + 1 {
        fake.log().push(event("x"));
    }
    // When a follower has seen the last of them, all are kept.
    let mut follower = fake.connect();
    follower.send(&line(&Request::Events { follow: true, since: None }));
    let is_last = |r: &Response| matches!(r, Response::Event { event } if event.seq == KEPT as u64 + 1);
    while !is_last(&follower.next().expect("an event")) {}
    let responses = fake.ask(&line(&Request::Events { follow: false, since: None }));
    assert_eq!(responses.len(), KEPT + 1);
    assert_eq!(responses.last(), Some(&Response::End {}));
}

#[test]
fn a_follower_that_does_not_read_is_cut_off_and_told() {
    let fake = Fake::start();
    let mut slow = fake.connect();
    slow.send(&line(&Request::Events { follow: true, since: Some(u64::MAX) }));
    let mut quick = fake.connect();
    quick.send(&line(&Request::Events { follow: true, since: None }));
    let text = "x".repeat(10_000);
    let mut last_of_quick = 0;
    for _ in 0..40 {
        for _ in 0..100 {
            fake.log().push(event(&text));
        }
        last_of_quick += 100;
        loop {
            match quick.next() {
                Some(Response::Event { event }) if event.seq == last_of_quick => break,
                Some(Response::Event { .. }) => {}
                other => panic!("the quick one suffers: {other:?}"),
            }
        }
    }
    let last = std::iter::from_fn(|| slow.next()).last().expect("something");
    assert_eq!(code(&last), Some(ErrorCode::Lagged), "{last:?}");
}

#[test]
fn an_endless_line_costs_no_memory() {
    let fake = Fake::start();
    let long = vec![b' '; usize::try_from(MAX_LINE).expect("small") * 64];
    let responses = fake.ask(&long);
    assert_eq!(responses.iter().map(code).collect::<Vec<_>>(), [Some(ErrorCode::TooLong)]);
    assert_eq!(fake.ask(&line(&Request::Status {})).len(), 1, "others are served");
}

#[test]
fn garbage_is_answered_in_words() {
    let fake = Fake::start();
    let cases: [&[u8]; 4] = [b"\x00\xff\xfe\n", b"{\n", b"GET / HTTP/1.1\r\n", b"[[[[[[\n"];
    for case in cases {
        let responses = fake.ask(case);
        assert_eq!(responses.iter().map(code).collect::<Vec<_>>(), [Some(ErrorCode::Malformed)]);
    }
    let newer = fake.ask(b"{\"v\":99,\"request\":\"status\"}\n");
    assert_eq!(newer.iter().map(code).collect::<Vec<_>>(), [Some(ErrorCode::Version)]);
    assert!(fake.orders().is_empty());
}

#[test]
fn two_hundred_clients_at_once_are_all_served() {
    let fake = Fake::start();
    let mut clients: Vec<_> = (0..200).map(|_| fake.connect()).collect();
    // The first connections are open and silent while the last one speaks.
    for client in clients.iter_mut().rev() {
        client.send(&line(&Request::Status {}));
    }
    for client in &mut clients {
        assert!(matches!(client.next(), Some(Response::Status { .. })));
    }
}

#[test]
fn followers_leave_room_for_orders() {
    let fake = Fake::start();
    fake.log().push(event("one"));
    let follow = line(&Request::Events { follow: true, since: None });
    let mut followers: Vec<_> = (0..200).map(|_| fake.connect()).collect();
    let mut served = 0;
    for follower in &mut followers {
        follower.send(&follow);
        match follower.next() {
            Some(Response::Event { .. }) => served += 1,
            Some(other) => assert_eq!(code(&other), Some(ErrorCode::Busy)),
            None => panic!("no answer"),
        }
    }
    assert_eq!(served, MAX_FOLLOWERS);
    let order = Request::Maintenance { on: true };
    assert_eq!(fake.ask(&line(&order)), [Response::Done { message: "maintenance on".into() }]);
    assert_eq!(fake.orders(), ["maintenance true"]);
}

/// The head and the body of the answer to a request over HTTP.
fn get(fake: &Fake, request: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(fake.http).expect("it listens");
    // The server may close before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

#[test]
fn the_status_over_http() {
    let fake = Fake::start();
    let (head, body) = get(&fake, b"GET /status.json HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("application/json"), "{head}");
    assert_eq!(serde_json::from_str::<StatusDoc>(&body).expect("the document"), common::status());

    let (head, body) = get(&fake, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.contains("version=0.0.4"), "{head}");
    assert!(body.contains("vipd_vip_state{vip=\"main\",state=\"active\"} 1\n"), "{body}");

    let (head, body) = get(&fake, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && body == "ok\n", "{head}\n{body}");

    let (_, body) = get(&fake, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(body.starts_with("orders on px1, vipd 0.1.0\n"), "{body}");

    let (head, body) = get(&fake, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head}\n{body}");
}

#[test]
fn what_is_not_there_is_said_so() {
    let fake = Fake::start();
    let status = |request: &[u8]| get(&fake, request).0.lines().next().unwrap_or("").to_owned();
    assert_eq!(status(b"GET /status.html HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 404 Not Found");
    assert_eq!(status(b"POST /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(status(b"\x16\x03\x01\x02\x00\x01\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    let mut long = b"GET /healthz HTTP/1.1\r\nX: ".to_vec();
    long.resize(100_000, b'x');
    // Its answer may be lost in the reset that the unread rest causes.
    let refused = status(&long);
    assert!(["", "HTTP/1.1 431 Request Header Fields Too Large"].contains(&&*refused), "{refused}");
    assert_eq!(status(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 200 OK");
}
