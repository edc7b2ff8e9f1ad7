//! The alerts in `packaging/prometheus`, by Prometheus' own tool; the example
//! of a hook, by its shell.

use std::path::Path;
use std::process::{Command, Stdio};

fn packaging() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging"))
}

#[test]
fn every_alert_is_told_when_it_should_be() {
    if !Path::new("/usr/bin/promtool").exists() {
        assert!(
            std::env::var_os("LAB_NEEDS_ARE_MET").is_none(),
            "Debian's package prometheus is not installed"
        );
        eprintln!("skipped: there is no promtool (Debian's package prometheus)");
        return;
    }
    for args in [["check", "rules", "vipd.rules.yml"], ["test", "rules", "vipd.test.yml"]] {
        let output = Command::new("promtool").args(args).current_dir(packaging().join("prometheus")).output();
        let output = output.expect("promtool runs");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    }
    let rules = include_str!("../../packaging/prometheus/vipd.rules.yml");
    let tests = include_str!("../../packaging/prometheus/vipd.test.yml");
    for name in rules.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} has no test");
    }
}

/// Prometheus reads what the dashboard asks.
#[test]
fn every_query_of_the_dashboard_is_one() {
    if !Path::new("/usr/bin/promtool").exists() {
        assert!(
            std::env::var_os("LAB_NEEDS_ARE_MET").is_none(),
            "Debian's package prometheus is not installed"
        );
        eprintln!("skipped: there is no promtool (Debian's package prometheus)");
        return;
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../packaging/grafana/vipd.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let queries = panels.iter().flat_map(|p| p["targets"].as_array().into_iter().flatten());
    let rules: Vec<_> = queries
        .enumerate()
        .map(|(n, query)| serde_json::json!({ "record": format!("panel:{n}"), "expr": query["expr"] }))
        .collect();
    assert!(rules.len() > 10, "{}", rules.len());
    // YAML's older brother.
    let file = tempfile::NamedTempFile::with_suffix(".yml").expect("a file");
    let rules = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(file.path(), rules.to_string()).expect("ours");
    let output = Command::new("promtool").args(["check", "rules"]).arg(file.path()).output();
    let output = output.expect("promtool runs");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_example_of_a_hook_runs() {
    let mut child = Command::new(packaging().join("notify/vip-changed"))
        .env_clear()
        .envs([("PATH", "/usr/bin:/bin"), ("VIP_CHANGED_URL_FILE", "/nowhere"), ("VIPD_HOOK", "x")])
        .envs([
            ("VIPD_EVENT", "vip"),
            ("VIPD_VIP", "main"),
            ("VIPD_STATE", "active"),
            ("VIPD_MESSAGE", "main: moved"),
        ])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdin.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
