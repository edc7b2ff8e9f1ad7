//! `kind = "redis"`: servers that are none, or not at their best.

use super::*;
use vipd_core::probe::ObservedRole;
use vipd_core::settings::RedisCheck;

fn redis() -> CheckKind {
    CheckKind::Redis(RedisCheck {
        user: None,
        password_file: None,
        tls: None,
        role: Role::Any,
        max_lag: None,
    })
}

fn asking(text: &str) -> Probe {
    Probe::Failed(format!("asking PEER for its role: {text}"))
}

#[tokio::test]
async fn what_is_no_redis_is_named() -> Outcome {
    let nonsense =
        |said: &str| asking(&format!("the answer is not Redis' protocol ('{said}'); is this its port?"));
    let cases: [(&[u8], &str); 7] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"+OK\n", "+OK"),
        (b"$99999999999\r\n", "$99999999999"),
        (b"$-1\r\n", "$-1"),
        (b"$3\r\nabcde\r\n", "$3"),
        (b"*1\r\n$2\r\nok\r\n", "*1"),
        (b"\r\n", ""),
    ];
    for (bytes, said_) in cases {
        assert_eq!(said(redis(), bytes).await?, nonsense(said_));
    }
    let endless = vec![b'+'; 8 << 10].leak();
    let Probe::Failed(text) = said(redis(), endless).await? else { return Err("taken".into()) };
    assert!(text.contains("not Redis' protocol") && text.len() < 300, "{text}");
    Ok(())
}

#[tokio::test]
async fn refusals_come_with_what_to_do() -> Outcome {
    for (bytes, text) in [
        (
            &b"-DENIED Redis is running in protected mode because protected mode is enabled and no password\r\n"[..],
            "DENIED: it runs in protected mode and takes nobody from elsewhere; \
             give it a password (requirepass), or set protected-mode no",
        ),
        (b"-BUSY Redis is busy\r\n", "BUSY Redis is busy; a script blocks it: end it with SCRIPT KILL"),
        (b"-ERR unknown command 'INFO'\r\n", "ERR unknown command 'INFO'"),
        (
            b"$15\r\nrole:sentinel\r\n\r\n$0\r\n\r\n$0\r\n\r\n+PONG\r\n",
            "it is 'sentinel'; only a server that holds data can be in a pool",
        ),
    ] {
        assert_eq!(said(redis(), bytes).await?, asking(text));
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_refuses_commands_for_now_is_not_ready() -> Outcome {
    let unready = |text: &str, role| {
        Probe::Answered(Observation { role, unready: Some(text.into()), ..Observation::default() })
    };
    let loading = b"-LOADING Redis is loading the dataset in memory\r\n".repeat(4).leak();
    assert_eq!(said(redis(), loading).await?, unready("it loads its data", None));
    let half = b"$11\r\nrole:master\r\n$9\r\nloading:1\r\n$0\r\n\r\n-LOADING wait\r\n";
    // The lines of the sections must not run together.
    let primary = Some(ObservedRole::Primary);
    assert_eq!(said(redis(), half).await?, unready("it loads its data", primary));
    Ok(())
}

#[tokio::test]
async fn silence_and_resets_are_told_with_the_step() -> Outcome {
    let (silent, _) = server(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
        Ok(())
    })
    .await?;
    let text = format!("timed out after 150ms while asking 127.0.0.1:{silent} for its role");
    Lab::start(&[hasty(redis(), silent)]).until_failed(&text).await?;
    for (reset, text) in [(true, "connection reset by peer"), (false, "the server closed the connection")] {
        let port = hangs_up(reset).await?;
        let mut lab = Lab::start(&[pool("a", redis(), &[port])]);
        assert_eq!(lab.failure().await?, format!("asking 127.0.0.1:{port} for its role: {text}"));
    }
    Ok(())
}

fn full() -> Probe {
    let why = "ERR max number of clients reached; all of its maxclients are in use";
    Probe::Full(format!("asking PEER for its role: {why}"))
}

#[tokio::test]
async fn a_full_server_is_full_and_not_dead() -> Outcome {
    assert_eq!(said(redis(), b"-ERR max number of clients reached\r\n").await?, full());
    Ok(())
}

/// The first client is served, all others find it full or their password wrong.
#[tokio::test]
async fn a_check_that_cannot_log_in_anew_asks_over_what_it_has() -> Outcome {
    const ANSWER: &[u8] = b"$13\r\nrole:master\r\n\r\n$0\r\n\r\n$0\r\n\r\n+PONG\r\n";
    for refusal in ["-ERR max number of clients reached\r\n", "-WRONGPASS invalid username-password pair\r\n"]
    {
        let first = AtomicUsize::new(0);
        let serve = move |mut stream: TcpStream| {
            let is_first = first.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if !is_first {
                    stream.write_all(refusal.as_bytes()).await?;
                    return stream.read_to_end(&mut Vec::new()).await.map(drop);
                }
                while stream.read(&mut [0; 512]).await? > 0 {
                    stream.write_all(ANSWER).await?;
                }
                Ok(())
            }
        };
        let again = refusal.contains("max number");
        stays_with_what_it_has(redis(), again, serve).await?;
    }
    Ok(())
}
