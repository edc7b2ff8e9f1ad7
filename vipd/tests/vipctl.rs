//! `vipctl` as it is run, against a daemon that decides nothing.

mod common;

use common::Fake;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use vipd::control::api::{Event, EventDoc, EventKind, Level, Request, SOCKET, SessionsDoc, StatusDoc, Steps};
use vipd::control::instance::Instance;

/// The user without rights.
const NOBODY: u32 = 65534;

/// The exit status and the two outputs.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    /// Asserts the exit status, and that a failure is told in one clear line.
    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", self.out, self.err);
        if code == 0 {
            assert_eq!(self.err, "");
        } else if code != 2 {
            assert!(self.err.starts_with("vipctl: "), "{}", self.err);
        }
        self
    }
}

fn command(runtime_dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vipctl"));
    command.arg("--runtime-dir").arg(runtime_dir).args(args).stdin(Stdio::null());
    command
}

fn vipctl(runtime_dir: &Path, args: &[&str]) -> Ran {
    let output = command(runtime_dir, args).output().expect("vipctl runs");
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

#[test]
fn status_for_people_and_for_programs() {
    let fake = Fake::start();
    let table = vipctl(fake.dir.path(), &["status"]).exits(0).out;
    assert!(table.starts_with("orders on px1, vipd 0.1.0\n"), "{table}");
    assert!(table.contains("px2 let go of it") && !table.contains('\x1b'), "{table}");
    let json = vipctl(fake.dir.path(), &["status", "--json"]).exits(0).out;
    assert_eq!(serde_json::from_str::<StatusDoc>(&json).expect("JSON"), common::status());
}

/// As in the packages, where it is a link.
#[test]
fn the_daemons_program_is_vipctl_under_that_name() {
    let fake = Fake::start();
    let link = fake.dir.path().join("vipctl");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vipd"), &link).expect("a link");
    let run = |args: &[&str]| {
        let output = Command::new(&link).args(args).output().expect("vipctl runs");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(run(&["--version"]), concat!("vipctl ", env!("CARGO_PKG_VERSION"), "\n"));
    let table = run(&["--runtime-dir", &fake.dir.path().display().to_string(), "status"]);
    assert!(table.starts_with("orders on px1, vipd 0.1.0\n"), "{table}");
}

#[test]
fn watch_draws_when_something_happens_and_ends_with_its_reader() {
    let fake = Fake::start();
    let mut child = command(fake.dir.path(), &["status", "--watch", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("vipctl runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    for _ in 0..3 {
        fake.log().push(Event::new(Level::Info, EventKind::Vip, "x"));
        let line = lines.next().expect("another").expect("text");
        assert_eq!(serde_json::from_str::<StatusDoc>(&line).expect("JSON"), common::status());
    }
    drop(lines);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}

#[test]
fn why_of_everything_something_and_nothing() {
    let fake = Fake::start();
    for args in [&["why"][..], &["why", "main"]] {
        let ran = vipctl(fake.dir.path(), args).exits(0);
        assert_eq!(ran.out, "main is here: px2 let go of it\nand nobody else wants it\n");
    }
    let ran = vipctl(fake.dir.path(), &["why", "other"]).exits(1);
    assert_eq!(ran.err, "vipctl: refused: there is no VIP and no server other\n");
}

#[test]
fn a_switchover_tells_its_outcome() {
    let fake = Fake::start();
    let ran = vipctl(fake.dir.path(), &["switchover", "main", "--to", "px2", "--yes"]).exits(0);
    assert_eq!(ran.out, "px2 owns main now: it had it from px1 after 2.345 ms\n");
    let ran = vipctl(fake.dir.path(), &["switchover", "--to", "px3", "--yes"]).exits(1);
    assert_eq!(ran.err, "vipctl: refused: px3 was not heard for 4s\n");
    assert_eq!(fake.orders(), ["switchover Some(\"main\") Some(\"px2\")", "switchover None Some(\"px3\")"]);
}

#[test]
fn orders_that_clients_notice_need_a_yes() {
    let fake = Fake::start();
    let dangerous: [&[&str]; 4] =
        [&["switchover"], &["maintenance", "on"], &["server", "primary/db1", "maint"], &["release"]];
    for args in dangerous {
        let ran = vipctl(fake.dir.path(), args).exits(2);
        assert!(ran.err.contains("add --yes"), "{}", ran.err);
    }
    assert!(fake.orders().is_empty());

    vipctl(fake.dir.path(), &["maintenance", "on", "--yes"]).exits(0);
    vipctl(fake.dir.path(), &["maintenance", "off"]).exits(0);
    let ran = vipctl(fake.dir.path(), &["server", "primary/db1", "maint", "--yes"]).exits(0);
    assert_eq!(ran.out, "primary/db1 is maint\n");
    vipctl(fake.dir.path(), &["server", "primary/db1", "drain"]).exits(0);
    vipctl(fake.dir.path(), &["server", "primary/db1", "ready"]).exits(0);
    let orders = [
        "maintenance true",
        "maintenance false",
        "server primary/db1 maint",
        "server primary/db1 drain",
        "server primary/db1 ready",
    ];
    assert_eq!(fake.orders(), orders);
}

#[test]
fn a_weight_is_given_and_taken_back() {
    let fake = Fake::start();
    let ran = vipctl(fake.dir.path(), &["server", "primary/db1", "weight", "0"]).exits(0);
    assert_eq!(ran.out, "primary/db1: weight\nwarning: that was the last\n");
    vipctl(fake.dir.path(), &["server", "primary/db1", "weight", "auto"]).exits(0);
    assert_eq!(fake.orders(), ["weight primary/db1 Some(0)", "weight primary/db1 None"]);
    for bad in ["257", "much"] {
        vipctl(fake.dir.path(), &["server", "primary/db1", "weight", bad]).exits(2);
    }
    assert!(fake.orders().is_empty());
}

#[test]
fn sessions_for_people_and_for_programs() {
    let fake = Fake::start();
    let table = vipctl(fake.dir.path(), &["sessions"]).exits(0).out;
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("17  write     192.0.2.7:40000  primary/db1  relaying"), "{table}");
    let one = vipctl(fake.dir.path(), &["sessions", "primary/db1"]).exits(0).out;
    assert_eq!(one.lines().count(), 2, "{one}");
    let json = vipctl(fake.dir.path(), &["sessions", "write", "--json"]).exits(0).out;
    let told: SessionsDoc = serde_json::from_str(&json).expect("JSON");
    assert_eq!(told, serde_json::from_str(common::SESSIONS).expect("JSON"));
    let ran = vipctl(fake.dir.path(), &["sessions", "primary/db9"]).exits(1);
    assert_eq!(ran.err, "vipctl: refused: there is no server primary/db9\n");
}

#[test]
fn sessions_are_killed_by_number_server_or_client() {
    let fake = Fake::start();
    let kill = |args: &[&str]| vipctl(fake.dir.path(), &[&["sessions", "kill"], args].concat());
    let ran = kill(&["17", "--yes"]).exits(0);
    assert_eq!(ran.out, "reset 1\n");
    kill(&["--server", "primary/db1", "--yes"]).exits(0);
    kill(&["--client", "192.0.2.8", "--yes"]).exits(0);
    let orders =
        ["kill Id(17)", "kill Server { pool: \"primary\", server: \"db1\" }", "kill Client(192.0.2.8)"];
    assert_eq!(fake.orders(), orders);
    let ran = kill(&["17"]).exits(2);
    assert!(ran.err.contains("add --yes"), "{}", ran.err);
    for wrong in
        [&[][..], &["db1"], &["17", "--client", "192.0.2.8"], &["--server", "db1"], &["--client", "x"]]
    {
        kill(&[wrong, &["--yes"]].concat()).exits(2);
    }
    assert!(fake.orders().is_empty());
}

#[test]
fn a_refused_reload_prints_every_error_on_its_line() {
    let fake = Fake::start();
    let ran = vipctl(fake.dir.path(), &["reload"]).exits(1);
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines[0], "vipctl: refused:");
    assert_eq!(lines[1..], ["vipd.toml:1:1: error: one", "vipd.toml:2:1: error: two"]);
    assert_eq!(fake.orders(), ["reload dry", "reload"], "first what would change, then the change");
    vipctl(fake.dir.path(), &["reload", "--dry-run"]).exits(1);
    assert_eq!(fake.orders(), ["reload dry"]);
}

#[test]
fn events_are_lines_with_the_steps_of_takeovers() {
    let mut fake = Fake::start();
    let mut child = command(fake.dir.path(), &["events", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("vipctl runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let steps =
        Steps { detected_us: Some(1_000), decided_us: 2_000, address_in_us: 3_000, announced_us: 4_000 };
    fake.log().push(Event::new(Level::Info, EventKind::Takeover, "px1 owns main").vip("main").steps(steps));
    let line = lines.next().expect("an event").expect("text");
    assert!(line.contains("info     px1 owns main (detected 1.000 ms, decided 2.000 ms"), "{line}");
    assert!(line.contains("address in 3.000 ms, announced 4.000 ms"), "{line}");

    let json = vipctl(fake.dir.path(), &["events", "--json"]).exits(0).out;
    let doc: EventDoc = serde_json::from_str(json.trim_end()).expect("one object a line");
    assert_eq!(doc.event.steps, Some(steps));

    fake.stop();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8(output.stderr).expect("text"), "vipctl: vipd is stopping\n");
}

#[test]
fn without_a_daemon_one_sentence_and_three() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let absent = vipctl(dir.path(), &["status"]).exits(3);
    assert!(absent.err.contains("no vipd is running") && absent.err.lines().count() == 1, "{}", absent.err);

    drop(UnixListener::bind(dir.path().join(SOCKET)).expect("a place"));
    let dead = vipctl(dir.path(), &["status"]).exits(3);
    assert!(dead.err.contains("ended without cleaning up"), "{}", dead.err);
    vipctl(dir.path(), &["status", "--watch"]).exits(3);
    vipctl(dir.path(), &["events", "--follow"]).exits(3);
    vipctl(dir.path(), &["switchover", "--yes"]).exits(3);
}

#[test]
fn a_daemon_that_hangs_up_is_no_daemon() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let listener = UnixListener::bind(dir.path().join(SOCKET)).expect("a place");
    let thread = std::thread::spawn(move || drop(listener.accept().expect("vipctl comes")));
    let ran = vipctl(dir.path(), &["status"]).exits(3);
    assert!(ran.err.contains("without an answer"), "{}", ran.err);
    thread.join().expect("no panic");
}

/// Answers one client as a daemon does that reads its line as `read`.
fn older_daemon(read: fn(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let listener = UnixListener::bind(dir.path().join(SOCKET)).expect("a place");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("vipctl comes");
        let mut line = Vec::new();
        BufReader::new(&stream).read_until(b'\n', &mut line).expect("a line");
        let answer = Request::from_line(&read(line)).expect_err("it is not understood");
        (&stream).write_all(&answer.to_line().expect("a line")).expect("it reads");
    });
    dir
}

/// Between the update of the package and the restart of the daemon.
#[test]
fn a_newer_vipctl_and_an_older_daemon_have_one_clear_sentence() {
    // Its protocol is an older one.
    let newer = |line: Vec<u8>| {
        let text = String::from_utf8(line).expect("text");
        text.replace("\"v\":1", "\"v\":2").into_bytes()
    };
    let ran = vipctl(older_daemon(newer).path(), &["status"]).exits(1);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert!(ran.err.contains("speaks version 2") && ran.err.contains("restart vipd"), "{}", ran.err);
    // Its protocol is the same, and it does not know the question yet.
    let unknown = |line: Vec<u8>| {
        let text = String::from_utf8(line).expect("text");
        text.replace("\"status\"", "\"of-tomorrow\"").into_bytes()
    };
    let ran = vipctl(older_daemon(unknown).path(), &["status"]).exits(1);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert!(ran.err.contains("does not know what vipctl") && ran.err.contains("restart vipd"), "{}", ran.err);
}

#[test]
fn whoever_may_not_talk_is_told_how_to() {
    if !nix::unistd::geteuid().is_root() {
        return; // The owner of the socket may always talk, and only root can be another.
    }
    let fake = Fake::start();
    // The directory is open, as /run/vipd is; the socket is not.
    std::fs::set_permissions(fake.dir.path(), std::fs::Permissions::from_mode(0o755)).expect("ours");
    let copy = fake.dir.path().join("vipctl");
    std::fs::copy(env!("CARGO_BIN_EXE_vipctl"), &copy).expect("a copy that others may run");
    let output = Command::new(&copy)
        .uid(NOBODY)
        .gid(NOBODY)
        .arg("--runtime-dir")
        .arg(fake.dir.path())
        .arg("status")
        .output()
        .expect("vipctl runs");
    let err = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("use sudo or join that group"), "{err}");
}

/// A file whose VIP is on an interface that no host has.
const NOWHERE: &str = "[cluster]\nname = \"c\"\nnodes = [{ name = \"px1\", address = \"192.0.2.1\" }]\n\
                       [[vip]]\nname = \"main\"\naddresses = [\"192.0.2.100/24\"]\ninterface = \"nowhere0\"\n";

#[test]
fn the_doctor_names_what_is_wrong_and_what_mends_it() {
    let fake = Fake::start();
    let file = fake.dir.path().join("vipd.toml");
    std::fs::write(&file, NOWHERE).expect("ours");
    let file = file.display().to_string();
    let ran = vipctl(fake.dir.path(), &["doctor", "--config", &file, "--node", "px1"]).exits(1);
    for wanted in [
        "good     configuration",
        "this host is px1",
        "main: there is no interface nowhere0",
        "-> ip link show",
        "primary/db1 is up",
    ] {
        assert!(ran.out.contains(wanted), "{wanted} is not in\n{}", ran.out);
    }
    let json =
        vipctl(fake.dir.path(), &["doctor", "--config", &file, "--node", "px1", "--json"]).exits(1).out;
    let findings: Vec<serde_json::Value> = serde_json::from_str(&json).expect("JSON");
    assert!(findings.iter().any(|f| f["verdict"] == "bad" && f["about"] == "interface"), "{json}");
    // The host's own addresses are none of the file's.
    let ran = vipctl(fake.dir.path(), &["doctor", "--config", &file]).exits(1);
    assert!(ran.out.contains("this host is none of the nodes"), "{}", ran.out);
    std::fs::write(&file, "[cluster\n").expect("ours");
    let ran = vipctl(fake.dir.path(), &["doctor", "--config", &file]).exits(1);
    assert!(ran.out.contains("vipd.toml:1:"), "{}", ran.out);
    let none = tempfile::tempdir().expect("a scratch directory");
    let ran = vipctl(none.path(), &["doctor", "--config", &file]).exits(1);
    assert!(
        ran.out.contains("vipd does not run here") && ran.out.contains("systemctl start vipd"),
        "{}",
        ran.out
    );
}

#[test]
fn wrong_usage_is_two() {
    let fake = Fake::start();
    let wrong: [&[&str]; 5] = [
        &[],
        &["dance"],
        &["maintenance"],
        &["server", "db1", "ready"],
        &["server", "primary/db1", "asleep"],
    ];
    for args in wrong {
        vipctl(fake.dir.path(), args).exits(2);
    }
    vipctl(fake.dir.path(), &["--help"]).exits(0);
    vipctl(fake.dir.path(), &["--version"]).exits(0);
}

#[test]
fn release_is_not_for_a_host_with_a_running_daemon() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let _daemon = Instance::claim(dir.path()).expect("the only one");
    let ran = vipctl(dir.path(), &["release", "--yes"]).exits(1);
    assert!(ran.err.contains("vipd is running on this host: use `vipctl switchover`"), "{}", ran.err);
}
