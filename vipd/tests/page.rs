//! The status page in a real browser: headless Chromium.
//!
//! `VIPD_SHOTS=DIR` keeps its pictures, to be looked at.

mod common;

use common::Fake;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use vipd::control::api::{Event, EventKind, Level, StatusDoc, Steps, VipState};

/// A cluster in which something is wrong everywhere.
const TROUBLED: &str = include_str!("common/troubled.json");

/// Chromium, or why this test is skipped.
fn chromium() -> Option<PathBuf> {
    let found = ["/usr/bin/chromium", "/usr/bin/chromium-browser"]
        .map(PathBuf::from)
        .into_iter()
        .find(|p| p.exists());
    if found.is_none() {
        assert!(
            std::env::var_os("LAB_NEEDS_ARE_MET").is_none(),
            "Debian's package chromium is not installed"
        );
        eprintln!("skipped: there is no Chromium (Debian's package chromium)");
    }
    found
}

fn browse(chromium: &Path, home: &Path, args: &[&str], url: &str) -> String {
    let output = Command::new(chromium)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ])
        .args([
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
            "--enable-logging=stderr",
        ])
        .arg(format!("--user-data-dir={}", home.display()))
        .env("HOME", home)
        .args(args)
        .arg(url)
        .stdin(Stdio::null())
        .output()
        .expect("Chromium runs");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{err}");
    for trouble in ["Content Security Policy", "Uncaught", "Refused to"] {
        assert!(!err.contains(trouble), "the page's own script or style was refused, or failed:\n{err}");
    }
    String::from_utf8(output.stdout).expect("text")
}

fn happened(fake: &Fake) {
    let log = fake.log();
    log.push(Event::new(Level::Info, EventKind::Start, "vipd 0.1.0 starts on px1"));
    log.push(Event::new(Level::Warning, EventKind::Peer, "px2 is not heard any more").peer("px2"));
    let steps = Steps {
        detected_us: Some(752_000),
        decided_us: 753_120,
        address_in_us: 753_900,
        announced_us: 754_020,
    };
    let mut takeover =
        Event::new(Level::Info, EventKind::Takeover, "px1 owns main: px2 was silent for 752 ms").vip("main");
    takeover.state = Some(VipState::Active);
    log.push(takeover.steps(steps));
    log.push(
        Event::new(Level::Error, EventKind::Server, "replicas/db3 is down: connection refused")
            .server("replicas", "db3"),
    );
}

#[test]
fn the_page_shows_the_state_without_a_complaint_of_the_browser() {
    let Some(chromium) = chromium() else { return };
    let status: StatusDoc = serde_json::from_str(TROUBLED).expect("the document");
    let fake = Fake::with(None, status);
    happened(&fake);
    let home = tempfile::tempdir().expect("a scratch directory");
    let url = format!("http://{}/", fake.http);
    let dom = browse(&chromium, home.path(), &["--dump-dom"], &url);
    for wanted in [
        "<h1 id=\"cluster\">orders</h1>",
        "px1 owns it",
        "px1 (this node)",
        "Conflict in primary",
        ">px2</th>",
        "px1 owns main: px2 was silent for 752 ms",
        "Time line: detected 752 ms",
        "vipd.toml:12:3",
    ] {
        assert!(dom.contains(wanted), "{wanted} is not in\n{dom}");
    }
    let history = dom.split("<ol>").nth(1).and_then(|rest| rest.split("</ol>").next()).expect("the list");
    assert!(history.contains("starts on px1") && !history.contains("replicas/db3 is down"), "{history}");
}

/// The page as it is served, with an hour's lag in it: a file, because nobody waits for an hour.
fn with_lag(fake: &Fake, home: &Path) -> PathBuf {
    let mut stream = std::net::TcpStream::connect(fake.http).expect("it listens");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the page");
    let (_, page) = answer.split_once("\r\n\r\n").expect("a body");
    let points = |server: &str, high: u64| {
        let lag = (0..300_u64).map(|n| match n {
            100..120 => "null".to_owned(),
            _ => (n * n % 400 + if n > 220 { high * (n - 220) } else { 0 }).to_string(),
        });
        let lag: Vec<String> = lag.collect();
        format!("{{\"pool\":\"replicas\",\"server\":\"{server}\",\"lag-ms\":[{}]}}", lag.join(","))
    };
    let series = format!("\"series\":[{},{}]", points("db2", 0), points("db3", 180));
    let at = page.find("\"series\":[").expect("the lag");
    let end = page[at..].find("]}").map(|e| at + e + 1).filter(|_| page[at..].starts_with("\"series\":[]"));
    let end = end.unwrap_or_else(|| at + page[at..].find("]}]").expect("its end") + 3);
    let path = home.join("page.html");
    std::fs::write(&path, [&page[..at], &series, &page[end..]].concat()).expect("ours");
    path
}

#[test]
fn the_page_has_a_picture_at_every_width_and_in_every_light() {
    let Some(chromium) = chromium() else { return };
    let status: StatusDoc = serde_json::from_str(TROUBLED).expect("the document");
    let fake = Fake::with(None, status);
    happened(&fake);
    let home = tempfile::tempdir().expect("a scratch directory");
    let page = with_lag(&fake, home.path());
    let kept = std::env::var_os("VIPD_SHOTS").map(PathBuf::from);
    let shots = kept.as_deref().unwrap_or(home.path());
    for (name, size) in [("phone", "390,2600"), ("desktop", "1280,1900")] {
        for (light, setting) in [("light", 1), ("dark", 0)] {
            let file = shots.join(format!("{name}-{light}.png"));
            let args = [
                format!("--window-size={size}"),
                format!("--blink-settings=preferredColorScheme={setting}"),
                format!("--screenshot={}", file.display()),
            ];
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            browse(&chromium, home.path(), &args, &format!("file://{}", page.display()));
            let bytes = std::fs::metadata(&file).expect("a picture").len();
            assert!(bytes > 10_000, "{name} {light}: {bytes} bytes are an empty page");
        }
    }
}
