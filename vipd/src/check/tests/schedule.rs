//! When servers are probed, and what a reload does to their checks.

use super::mysql::{log_in, mysql, primary, questions, read};
use super::*;

#[tokio::test]
async fn a_reload_keeps_what_did_not_change() -> Outcome {
    let serve = |mut stream: TcpStream| async move {
        log_in(&mut stream).await?;
        questions(&mut stream, usize::MAX).await
    };
    let (kept, kept_logins) = server(serve).await?;
    let (gone, _) = server(serve).await?;
    let (new, _) = server(serve).await?;
    let check = || mysql(Role::Primary);
    let mut lab = Lab::start(&[pool("a", check(), &[gone, kept])]);
    let mut seen = [false, false];
    while seen != [true, true] {
        seen[lab.report().await?.server] = true;
    }
    lab.update(&[pool("z", CheckKind::Tcp(TcpCheck::default()), &[new]), pool("a", check(), &[kept, new])]);
    let mut seen = [[false, true], [false, false]];
    while seen != [[true; 2]; 2] {
        let report = lab.report().await?;
        if report.generation == lab.checker.generation() {
            assert_ne!(report.address.map(|a| a.port()), Some(gone), "{report:?}");
            if (report.pool, report.server) == (1, 0) {
                assert_eq!(report.address.map(|a| a.port()), Some(kept));
            }
            seen[report.pool][report.server] = true;
        }
    }
    assert_eq!(kept_logins.load(Ordering::SeqCst), 1, "the connection went on");
    Ok(())
}

#[tokio::test]
async fn a_check_that_is_not_wanted_says_goodbye() -> Outcome {
    let (sender, mut received) = mpsc::unbounded_channel();
    let (port, _) = server(move |mut stream| {
        let sender = sender.clone();
        async move {
            log_in(&mut stream).await?;
            questions(&mut stream, 4).await?;
            let (_, last) = read(&mut stream).await?;
            sender.send(last).map_err(std::io::Error::other)
        }
    })
    .await?;
    let mut pools = [pool("a", mysql(Role::Primary), &[port])];
    if let Some(check) = &mut pools[0].check {
        check.interval = Duration::from_secs(3600);
    }
    let mut lab = Lab::start(&pools);
    assert_eq!(lab.report().await?.probe, primary());
    lab.update(&[]);
    assert_eq!(tokio::time::timeout(LIMIT, received.recv()).await?, Some(vec![1]), "COM_QUIT");
    Ok(())
}

/// What a dead server costs: probes come no faster than the interval.
#[tokio::test(start_paused = true)]
async fn probes_of_a_dead_server_do_not_pile_up() -> Outcome {
    let mut dead = pool("a", CheckKind::Tcp(TcpCheck::default()), &[1]);
    if let (Some(check), Some(server)) = (&mut dead.check, dead.servers.first_mut()) {
        check.interval = Duration::from_secs(1);
        server.host = Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let mut lab = Lab::start(&[dead]);
    let start = Instant::now();
    for _ in 0..100 {
        lab.failure().await?;
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(94) && took < Duration::from_secs(525), "{took:?}");
    Ok(())
}
