//! Checks on a host that has no file descriptor left.
//!
//! A test program of its own: the limit is the process's.

mod databases;

use databases::{Checks, Outcome};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use vipd_core::probe::Probe;
use vipd_core::settings::{CheckKind, ExecCheck, TcpCheck};

#[tokio::test]
async fn a_host_without_descriptors_says_nothing_of_its_servers() -> Outcome {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let exec = ExecCheck { command: vec!["/bin/true".into()], user: None };
    let cases = [
        (CheckKind::Tcp(TcpCheck::default()), format!("connecting to 127.0.0.1:{port}: too many open files")),
        (CheckKind::Exec(exec), "running /bin/true as 'nobody': too many open files".to_owned()),
    ];
    for (kind, text) in cases {
        let mut checks = Checks::start();
        checks.check(kind, &[port], None);
        let answered = |probe: &Probe| matches!(probe, Probe::Answered(_));
        let seen = checks.until(0, answered).await?;
        assert_eq!(seen.len(), 1, "{seen:?}");
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        // None below those that are open can be had: they are in use or filled up.
        setrlimit(Resource::RLIMIT_NOFILE, 200.min(soft), hard)?;
        let mut held = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            held.push(file);
        }
        let unable = checks.until(0, |probe| matches!(probe, Probe::Unable(_))).await;
        drop(held);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        let seen = unable?;
        assert_eq!(seen.last(), Some(&Probe::Unable(text)));
        assert!(!seen.iter().any(|probe| matches!(probe, Probe::Failed(_))), "{seen:?}");
        checks.until(0, answered).await?;
    }
    Ok(())
}
