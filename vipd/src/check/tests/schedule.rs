//! When servers are probed, and what a reload does to their checks.

use super::mysql::{log_in, mysql, primary, questions, read};
use super::*;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

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

/// A pool of one server that refuses connections.
fn dead(change: impl FnOnce(&mut Check)) -> Pool {
    let mut dead = pool("a", CheckKind::Tcp(TcpCheck::default()), &[1]);
    if let Some(check) = &mut dead.check {
        check.interval = Duration::from_secs(1);
        change(check);
    }
    dead
}

/// What a dead server costs: probes come no faster than the interval, and
/// slower when it has been dead for long.
#[tokio::test(start_paused = true)]
async fn probes_of_a_dead_server_do_not_pile_up() -> Outcome {
    let mut lab = Lab::start(&[dead(|_| {})]);
    let start = Instant::now();
    for (probes, least, most) in [(30, 28, 32), (100, 300, 500)] {
        for _ in 0..probes {
            lab.failure().await?;
        }
        let took = start.elapsed().as_secs();
        assert!((least..=most).contains(&took), "{probes} probes more took until {took} s");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_server_that_failed_a_client_is_probed_at_once_but_not_more_often() -> Outcome {
    let mut lab = Lab::start(&[dead(|check| {
        (check.interval, check.fast_interval) = (Duration::from_secs(15), Some(Duration::from_secs(2)));
    })]);
    lab.failure().await?;
    tokio::time::advance(Duration::from_secs(10)).await;
    // No closer than a second, since the fast interval is longer.
    for (least, most) in [(0, 100), (950, 1_100), (13_000, 16_000)] {
        let start = Instant::now();
        if most < 10_000 {
            for _ in 0..100 {
                lab.checker.hurry("a", "db1");
            }
        }
        lab.failure().await?;
        let took = start.elapsed().as_millis();
        assert!((least..=most).contains(&took), "{took} ms");
    }
    // Nobody is there to hurry.
    lab.checker.hurry("a", "db2");
    lab.checker.hurry("b", "db1");
    Ok(())
}

/// 1,000 servers and 10,000 checks a minute take less than a twentieth of a
/// core: 300 us each, and that in a build that is not optimised.
#[test]
fn a_thousand_servers_cost_little() -> Outcome {
    const SERVERS: u8 = 250;
    const CHECKS: u32 = 5_000;
    let used = |runtime: &tokio::runtime::Runtime| {
        let usage = async { getrusage(UsageWho::RUSAGE_THREAD) };
        let usage = runtime.block_on(usage)?;
        let time = |t: nix::sys::time::TimeVal| {
            Duration::from_micros(u64::try_from(t.num_microseconds()).unwrap_or(0))
        };
        Ok::<_, nix::Error>(time(usage.user_time()) + time(usage.system_time()))
    };
    // The servers have a thread of their own: their cost is not the checks'.
    let listener = std::net::TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    drop(std::thread::spawn(move || listener.incoming().for_each(drop)));
    let pools: Vec<_> = (0..4)
        .map(|at: u8| {
            let mut pool = pool(&format!("p{at}"), CheckKind::Tcp(TcpCheck::default()), &[]);
            let server = |n: u8| {
                Server::new(format!("db{n}"), Host::Address(IpAddr::from([127, 0, at + 1, n + 1])), port)
            };
            pool.servers = (0..SERVERS).map(server).collect();
            if let Some(check) = &mut pool.check {
                check.interval = Duration::from_millis(200);
            }
            pool
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut lab = {
        let _context = runtime.enter();
        Lab::start(&pools)
    };
    let before = used(&runtime)?;
    runtime.block_on(async {
        for _ in 0..CHECKS {
            assert_eq!(lab.report().await?.probe, Probe::Answered(Observation::default()));
        }
        Outcome::Ok(())
    })?;
    let each = (used(&runtime)? - before) / CHECKS;
    eprintln!("{each:?} of CPU time a check");
    assert!(each < Duration::from_micros(300), "{each:?} of CPU time a check");
    Ok(())
}
