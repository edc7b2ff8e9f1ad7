//! `dnsd check`, `dnsd keygen`, metrics.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Dnsd, free_port, get, text};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

const ZONE: &str = "$TTL 60\n@ NS ns1\nns1 A 10.77.0.11\n";

#[test]
fn check_names_the_place_of_every_error() {
    let dnsd = Dnsd::new(ZONE, "", "");
    let check = || {
        let output = dnsd.command("check").output().unwrap();
        (output.status.code(), text(output))
    };
    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("right (1 zones, 1 keys, 1 addresses)") && !said.contains("warning"), "{said}");
    std::fs::set_permissions(dnsd.path("vipd.key"), Permissions::from_mode(0o644)).unwrap();
    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("may be used by others (its mode is 644)") && said.contains("chmod 640"), "{said}");
    std::fs::write(dnsd.path("zone"), "$TTL 60\n\nx A 1.2.3\n").unwrap();
    std::fs::write(dnsd.path("vipd.key"), "no").unwrap();
    let (code, said) = check();
    assert_eq!(code, Some(1));
    assert!(said.contains("zone:3: error: ") && said.contains("vipd.key: error: "), "{said}");
    dnsd.configure("negative-tll = \"5s\"", "[rate-limit]\nslip = 101\n");
    let (code, said) = check();
    assert_eq!(code, Some(1));
    assert!(said.contains("dnsd.toml:10:1: error: unknown key \"negative-tll\""), "{said}");
    assert!(
        said.contains("did you mean \"negative-ttl\"?") && said.contains("101 is out of range"),
        "{said}"
    );
}

#[test]
fn keygen_prints_a_key() {
    let output = Command::new(env!("CARGO_BIN_EXE_dnsd")).args(["keygen", "vipd."]).output().unwrap();
    assert!(output.status.success());
    assert!(text(output).contains("key-name = \"vipd.\""));
}

/// What it prints is what works: the secret, the lines for dnsd, and the proof.
#[test]
fn keygens_lines_work_as_they_are_printed() {
    if !common::has(&["nsupdate"], "bind9-dnsutils") {
        return;
    }
    for hash in ["hmac-sha256", "hmac-sha384", "hmac-sha512"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dnsd"));
        let printed = text(command.args(["keygen", "proof.", "--algorithm", hash]).output().unwrap());
        let mut dnsd = Dnsd::new(ZONE, "", "");
        // Only the places are others.
        let file = dnsd.path("proof.key").display().to_string();
        let here = printed.replace("/etc/dnsd/proof.key", &file);
        let here = here.replace("10.77.0.11 53", &format!("127.0.0.1 {}", dnsd.port));
        std::fs::write(&file, here.lines().nth(2).unwrap()).unwrap();
        let (_, lines) = here.split_once("# /etc/dnsd/dnsd.toml\n").unwrap();
        let (lines, rest) = lines.split_once("# /etc/vipd/vipd.toml\n").unwrap();
        dnsd.configure("", lines);
        dnsd.start();
        let proof = rest.lines().last().unwrap();
        let output = Command::new("sh").args(["-c", proof]).output().unwrap();
        let done = output.status.success();
        let said = text(output);
        assert!(done && said.contains("opcode: UPDATE, status: NOERROR"), "{proof}\n{said}");
        dnsd.log().signal("-TERM");
        assert!(!dnsd.log().all_lines().iter().any(|line| line.contains("refused")));
    }
}

#[test]
fn status_and_metrics_tell_what_is_served_and_of_a_reload_that_was_not_done() {
    let port = free_port();
    let mut dnsd = Dnsd::new(ZONE, "", &format!("[status]\nhttp = \"127.0.0.1:{port}\"\n"));
    dnsd.start();
    let metrics = get(port, "/metrics");
    for line in [
        "dnsd_zone_names{zone=\"corp.example.\"} 2\n",
        "# TYPE dnsd_requests_total counter\n",
        "dnsd_config_last_reload_successful 1\n",
        "dnsd_zone_journal_writable{zone=\"corp.example.\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let status = || {
        let said = get(port, "/status.json");
        serde_json::from_str::<serde_json::Value>(said.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    let first = status();
    assert_eq!(first["listen"][0], format!("127.0.0.1:{}", dnsd.port));
    assert_eq!(first["zones"][0]["name"], "corp.example.");
    assert_eq!(first["zones"][0]["names"], 2);
    assert!(first["reload-error"].is_null() && first["zones"][0]["journal-error"].is_null());
    assert!(get(port, "/").contains("corp.example."));
    assert!(get(port, "/nothing").contains("404"));
    // A wrong file: what was served goes on, and it says so.
    std::fs::write(dnsd.path("zone"), "$TTL 60\nx A 1.2.3\n").unwrap();
    dnsd.log().signal("-HUP");
    dnsd.log().wait_for(&["not reloaded"]);
    let error = status()["reload-error"].as_str().unwrap().to_owned();
    assert!(error.contains("zone:2: error: "), "{error}");
    assert!(get(port, "/metrics").contains("dnsd_config_last_reload_successful 0\n"));
    assert!(get(port, "/").contains("the last reload was not done"));
    std::fs::write(dnsd.path("zone"), ZONE).unwrap();
    dnsd.log().signal("-HUP");
    dnsd.log().wait_for(&["reloaded"]);
    assert!(status()["reload-error"].is_null());
}

#[test]
fn two_servers_do_not_share_a_state() {
    let dnsd = Dnsd::running(ZONE);
    let second = dnsd.command("run").output().unwrap();
    assert!(!second.status.success());
    assert!(text(second).contains("does another dnsd run with it?"));
}
