//! What `vipd` says when it cannot do what it should.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use vipd::control::instance::Instance;
use vipd::daemon::Error;
use vipd_config::chain;

#[test]
fn a_file_that_cannot_be_read_is_told_with_the_cause() {
    let output = Command::new(env!("CARGO_BIN_EXE_vipd")).args(["import", "/none"]).output();
    let output = output.expect("vipd runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(said, "cannot read /none: No such file or directory (os error 2)\n");
}

#[test]
fn a_runtime_directory_that_cannot_be_is_told_with_the_cause() {
    let refused = Instance::claim(Path::new("/proc/x/y")).expect_err("no directory can be there");
    let said = chain(&Error::from(refused));
    assert!(said.starts_with("cannot create /proc/x/y: ") && said.contains("os error"), "{said}");
}

/// systemd starts a witness as it does a node, and kills what does not feed its watchdog.
#[test]
fn a_witness_is_ready_and_feeds_the_watchdog() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let key = Command::new(env!("CARGO_BIN_EXE_vipd")).arg("keygen").output().expect("a key");
    std::fs::write(path("cluster.key"), key.stdout).expect("a file");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path("cluster.key"), private).expect("a mode");
    let config = format!(
        "[cluster]\nname = \"orders\"\nkey-file = {:?}\npeer-port = 17112\n\
         nodes = [{{ name = \"px1\", address = \"127.77.0.11\" }}, {{ name = \"px2\", address = \"127.77.0.12\" }}]\n\
         witnesses = [{{ name = \"w1\", address = \"127.77.0.13\" }}]\n[election]\nquorum = \"majority\"\n\
         [[vip]]\nname = \"main\"\naddresses = [\"10.77.0.100/24\"]\ninterface = \"eth0\"\n",
        path("cluster.key")
    );
    std::fs::write(path("vipd.toml"), config).expect("a file");
    let systemd = UnixDatagram::bind(path("notify")).expect("a socket");
    systemd.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    let mut witness = Command::new(env!("CARGO_BIN_EXE_vipd"))
        .args(["run", "--node", "w1"])
        .arg("--config")
        .arg(path("vipd.toml"))
        .arg("--runtime-dir")
        .arg(path("run"))
        .arg("--state-dir")
        .arg(path("state"))
        .env("NOTIFY_SOCKET", path("notify"))
        .env("WATCHDOG_USEC", "30000000")
        .spawn()
        .expect("vipd runs");
    let hear = || {
        let mut buffer = [0; 4096];
        let length = systemd.recv(&mut buffer).map_err(|e| e.to_string())?;
        Ok::<_, String>(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let mut heard = vec![hear(), hear()];
    let own = nix::unistd::Pid::from_raw(i32::try_from(witness.id()).expect("a number"));
    nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGHUP).expect("it is there");
    heard.push(hear());
    witness.kill().and_then(|()| witness.wait()).expect("it ends");
    assert_eq!(heard, ["READY=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n"].map(|line| Ok(line.to_owned())));
}

/// What the packages ask before they restart what runs: more than `vipd check`, which judges any host's file.
#[test]
fn a_check_of_the_start_refuses_what_the_start_would() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, text: &str, mode: u32| {
        std::fs::write(path(name), text).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path(name), mode).expect("a mode");
    };
    let config = format!(
        "[cluster]\nname = \"orders\"\nkey-file = {:?}\n\
         nodes = [{{ name = \"px1\", address = \"127.77.0.11\" }}, {{ name = \"px2\", address = \"127.77.0.12\" }}]\n\
         [status]\nhttp = \"10.77.0.11:9112\"\ntoken-file = {:?}\n\
         [[vip]]\nname = \"main\"\naddresses = [\"10.77.0.100/24\"]\ninterface = \"eth0\"\n",
        path("cluster.key"),
        path("token")
    );
    write("vipd.toml", &config, 0o644);
    let judge = |options: &[&str]| {
        let mut vipd = Command::new(env!("CARGO_BIN_EXE_vipd"));
        vipd.args(options).arg("--config").arg(path("vipd.toml"));
        if options.contains(&"run") {
            vipd.arg("--runtime-dir").arg(path("run")).arg("--state-dir").arg(path("state"));
        }
        let output = vipd.output().expect("vipd runs");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
        (output.status.success(), said)
    };
    let start = |node: &str| judge(&["run", "--check", "--node", node]);
    let refused = |node: &str, why: &str| {
        let (good, said) = start(node);
        assert!(!good && said.contains(why), "not refused for '{why}': {said}");
    };
    assert!(judge(&["check"]).0, "a file is judged where its key is not");
    refused("px1", "cluster.key");
    write("cluster.key", &"1".repeat(64), 0o644);
    refused("px1", "may be used by others");
    write("cluster.key", &"1".repeat(64), 0o600);
    refused("px1", "token");
    write("token", "short", 0o600);
    refused("px1", "16 to 256 characters");
    write("token", "of-sixteen-chars", 0o600);
    refused("px3", "px3");
    let (good, said) = start("px1");
    assert!(good && said.ends_with("vipd would start by it\n"), "{said}");
    assert!(!path("run").exists() && !path("state").exists(), "something was started");
}
