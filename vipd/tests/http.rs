//! The status over HTTP: its secret, its stream, and what a client may cost.

mod common;

use common::Fake;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use vipd::control::api::{Event, EventKind, Level};
use vipd::control::http::{MAX_CONNECTIONS, MAX_WATCHERS, Token};

const SECRET: &str = "correct-horse-battery";
/// Longer than any answer here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn connect(fake: &Fake) -> TcpStream {
    let stream = TcpStream::connect(fake.http).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a valid time-out");
    stream
}

fn get(fake: &Fake, path: &str, headers: &str) -> (String, String) {
    let mut stream = connect(fake);
    let _ = stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

/// A watcher that has been sent the history.
fn watch(fake: &Fake) -> BufReader<TcpStream> {
    let mut stream = connect(fake);
    stream.write_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut reader = BufReader::new(stream);
    until(&mut reader, "event: history");
    reader
}

fn until(reader: &mut impl BufRead, wanted: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(
            reader.read_line(&mut line).expect("a line in time"),
            0,
            "the stream ended before {wanted}"
        );
        if line.starts_with(wanted) {
            return line;
        }
    }
}

#[test]
fn a_secret_keeps_the_pages_from_others() {
    let fake = Fake::with(Token::new(SECRET), common::status());
    for path in ["/", "/status.json", "/metrics", "/lag.json", "/live", "/other"] {
        let (head, body) = get(&fake, path, "");
        assert!(head.starts_with("HTTP/1.1 401"), "{path}: {head}");
        assert!(
            head.contains("www-authenticate: Basic") && !body.contains("orders"),
            "{path}: {head}\n{body}"
        );
        let (head, _) = get(&fake, path, "Authorization: Bearer wrong-horse-battery\r\n");
        assert!(head.starts_with("HTTP/1.1 401"), "{path}: {head}");
    }
    let (head, _) = get(&fake, "/metrics", &format!("Authorization: Bearer {SECRET}\r\n"));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    // base64 of "any:" and the secret.
    let basic = "Authorization: Basic YW55OmNvcnJlY3QtaG9yc2UtYmF0dGVyeQ==\r\n";
    assert!(get(&fake, "/status.json", basic).0.starts_with("HTTP/1.1 200"));
    assert_eq!(get(&fake, "/healthz", "").1, "ok\n", "whether vipd lives is no secret");
}

#[test]
fn browsers_get_the_page_with_the_state_in_it() {
    let mut status = common::status();
    status.vips[0].why = "</script><script>alert(1)</script>".into();
    let fake = Fake::with(None, status);
    let (head, body) = get(&fake, "/", "Accept: text/html,*/*;q=0.8\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/html"), "{head}");
    for wanted in
        ["default-src 'none'", "script-src 'sha256-", "frame-ancestors 'none'", "nosniff", "no-store"]
    {
        assert!(head.contains(wanted), "{wanted} is not in {head}");
    }
    assert!(!head.contains("unsafe-inline"), "{head}");
    assert!(body.len() < 100_000, "{} bytes", body.len());
    assert!(body.contains("\"cluster\":\"orders\""), "the state is in the page");
    assert!(!body.contains("<script>alert"), "what is in the state cannot become markup");
}

#[test]
fn a_watcher_hears_what_happens_and_of_the_end() {
    let mut fake = Fake::start();
    fake.log().push(Event::new(Level::Info, EventKind::Start, "before"));
    let mut watcher = watch(&fake);
    fake.log().push(Event::new(Level::Warning, EventKind::Peer, "px2 is not heard").peer("px2"));
    until(&mut watcher, "event: happened");
    assert!(until(&mut watcher, "data: ").contains("px2 is not heard"));
    until(&mut watcher, "event: status");
    assert!(until(&mut watcher, "data: ").contains("\"cluster\":\"orders\""));
    fake.stop();
    let mut rest = Vec::new();
    // An end, one way or another.
    let _ = watcher.read_to_end(&mut rest);
}

#[test]
fn watchers_leave_room_for_others() {
    let fake = Fake::start();
    let watchers: Vec<_> = (0..MAX_WATCHERS).map(|_| watch(&fake)).collect();
    let (head, body) = get(&fake, "/live", "");
    assert!(head.starts_with("HTTP/1.1 503") && body.contains("close one"), "{head}\n{body}");
    assert!(get(&fake, "/metrics", "").0.starts_with("HTTP/1.1 200"), "there is always room for a scrape");
    drop(watchers);
    // Their places come back as the server notices that they have gone.
    loop {
        fake.log().push(Event::new(Level::Info, EventKind::Vip, "x"));
        let mut stream = connect(&fake);
        stream.write_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        if line.starts_with("HTTP/1.1 200") {
            break;
        }
    }
}

/// Whether the server has closed it.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a valid time-out");
    !matches!(stream.read(&mut [0; 1]), Err(e) if e.kind() == ErrorKind::WouldBlock)
}

#[test]
fn slow_clients_keep_nobody_out() {
    let fake = Fake::start();
    let began = Instant::now();
    let mut watching: Vec<_> = (0..MAX_WATCHERS).map(|_| watch(&fake)).collect();
    // Some say nothing, others say it slowly.
    let silent = || connect(&fake);
    let slow = |n: usize| {
        let mut stream = silent();
        if n.is_multiple_of(2) {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ").expect("sent");
        }
        stream
    };
    let mut slow: Vec<_> = (MAX_WATCHERS..MAX_CONNECTIONS).map(slow).collect();
    for closed in 1..4 {
        let (head, _) = get(&fake, "/healthz", "");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        // The oldest that has not asked has given up its place, and no other.
        let ended: Vec<_> = slow.iter_mut().map(is_closed).collect();
        let expected: Vec<_> = (0..slow.len()).map(|n| n < closed).collect();
        assert_eq!(ended, expected);
        slow.push(silent());
    }
    assert!(began.elapsed() < Duration::from_secs(9), "that was the end of their time");
    fake.log().push(Event::new(Level::Info, EventKind::Vip, "x"));
    watching.iter_mut().for_each(|w| drop(until(w, "event: happened")));
}

#[test]
fn connections_that_say_nothing_are_closed() {
    let fake = Fake::start();
    let mut silent = connect(&fake);
    let mut rest = Vec::new();
    assert!(silent.read_to_end(&mut rest).is_ok_and(|n| n == 0), "{rest:?}");
}

/// A small generator with a seed of its own, so that a failure can be run again.
fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Whatever is sent, the server answers the next one.
#[test]
fn no_bytes_harm_the_server() {
    const PIECES: [&str; 20] = [
        "GET ",
        "HEAD ",
        "POST ",
        "/ ",
        "/live ",
        "/status.json ",
        "HTTP/1.1\r\n",
        "HTTP/9\r\n",
        "Host: x\r\n",
        "\r\n",
        "\r\n\r\n",
        "Content-Length: 99999999999\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Authorization: Basic ====\r\n",
        "Accept: text/html\r\n",
        "\0\0",
        "\u{ff}",
        "%",
        "?a=b#c",
        "Upgrade: h2c\r\nConnection: upgrade\r\n",
    ];
    let fake = Fake::with(Token::new(SECRET), common::status());
    for start in 1..200_u64 {
        let mut seed = start.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut bytes = Vec::new();
        for _ in 0..random(&mut seed) % 12 {
            let n = random(&mut seed);
            match n % 5 {
                0 => bytes.extend((0..n % 300).map(|i| (n >> (i % 56)) as u8)),
                1 => bytes.resize(bytes.len() + (n % 20_000) as usize, b'a'),
                _ => bytes.extend_from_slice(PIECES[(n / 5) as usize % PIECES.len()].as_bytes()),
            }
        }
        let mut stream = connect(&fake);
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.take(1 << 20).read_to_end(&mut rest);
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1."),
            "seed {start}: {:?}",
            String::from_utf8_lossy(&rest)
        );
        assert!(!String::from_utf8_lossy(&rest).contains("orders"), "seed {start}: told without the secret");
    }
    assert_eq!(get(&fake, "/healthz", "").1, "ok\n");
}
