//! `kind = "postgres"`: servers that are none, or not at their best.

use super::*;
use vipd_core::probe::{Connections, Lag, ObservedRole};
use vipd_core::settings::{PostgresCheck, Tls};

fn postgres(tls: bool) -> CheckKind {
    CheckKind::Postgres(PostgresCheck {
        user: "vipd".into(),
        password_file: None,
        database: "postgres".into(),
        tls: tls.then_some(Tls { verify: false, ca_file: None, server_name: None }),
        role: Role::Any,
        max_lag: None,
    })
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes();
    [&[tag], &length[..], body].concat()
}

fn error(code: &str, text: &str) -> &'static [u8] {
    message(b'E', format!("VFATAL\0C{code}\0M{text}\0Rhere\0\0").as_bytes()).leak()
}

fn row(values: &[&str]) -> Vec<u8> {
    let count = u16::try_from(values.len()).unwrap_or(u16::MAX).to_be_bytes();
    let value = |text: &&str| {
        [&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes(), text.as_bytes()].concat()
    };
    message(b'D', &[count.to_vec(), values.iter().flat_map(value).collect()].concat())
}

const READY: &[u8] = b"Z\0\0\0\x05I";

/// A login without a password, and the answer to the question after it.
fn welcome(answer: &[u8]) -> &'static [u8] {
    let parameter = message(b'S', b"server_version\x0015.9\0");
    let key = message(b'K', &[7; 8]);
    [&message(b'R', &[0; 4]), &parameter, &key, READY, answer, READY].concat().leak()
}

fn primary() -> Vec<u8> {
    [row(&["f", "4", "97"]), message(b'C', b"SELECT 1\0")].concat()
}

fn failed(text: &str) -> Probe {
    Probe::Failed(text.to_owned())
}

fn login(text: &str) -> Probe {
    failed(&format!("logging in to PEER as 'vipd': {text}"))
}

fn unready(text: &str) -> Probe {
    Probe::Answered(Observation { unready: Some(text.into()), ..Observation::default() })
}

#[tokio::test]
async fn a_server_that_takes_nobody_now_is_not_ready() -> Outcome {
    for code in ["57P01", "57P02", "57P03"] {
        let seen = said(postgres(false), error(code, "it starts\nup ")).await?;
        assert_eq!(seen, unready("it starts up"), "{code}");
    }
    let text = "too many clients (SQLSTATE 53300); \
        all connections that it has for such roles are in use: raise its max_connections";
    let full = Probe::Full(format!("logging in to PEER as 'vipd': {text}"));
    assert_eq!(said(postgres(false), error("53300", "too many clients")).await?, full);
    Ok(())
}

/// The first client is served, all others find it full or their password wrong.
#[tokio::test]
async fn a_check_that_cannot_log_in_anew_asks_over_what_it_has() -> Outcome {
    for code in ["53300", "28P01", "28000", "42501", "3D000", "55000"] {
        let again = code == "53300";
        stays_with_what_it_has(postgres(false), again, serve_first(error(code, "not you"))).await?;
    }
    Ok(())
}

/// What an earlier connection has told of the replay bounds the lag.
#[tokio::test]
async fn a_new_login_makes_no_replica_old() -> Outcome {
    const AN_HOUR: &str = "3600000";
    let replica = |received| {
        let values = ["t", "4", "97", "100", received, AN_HOUR, "7", "streaming"];
        [row(&values), message(b'C', b"SELECT 1\0")].concat()
    };
    let connections = AtomicUsize::new(0);
    let (port, taken) = server(move |mut stream: TcpStream| {
        // Its primary was idle for an hour, and writes by the second login.
        let received = if connections.fetch_add(1, Ordering::SeqCst) == 0 { "100" } else { "140" };
        let welcomed = welcome(&replica(received));
        async move {
            let (login, answer) = welcomed.split_at(welcome(&[]).len() - READY.len());
            if stream.read(&mut [0; 512]).await? > 0 {
                stream.write_all(login).await?;
            }
            while stream.read(&mut [0; 512]).await? > 0 {
                stream.write_all(answer).await?;
            }
            Ok(())
        }
    })
    .await?;
    let CheckKind::Postgres(check) = postgres(false) else { return Err("another kind".into()) };
    let kind = CheckKind::Postgres(PostgresCheck { role: Role::Replica, ..check });
    let mut lab = Lab::start(&[pool("a", kind, &[port])]);
    let lag = |probe: Probe| if let Probe::Answered(seen) = probe { seen.lag } else { None };
    assert_eq!(lag(lab.report().await?.probe), Some(Lag::Known(Duration::ZERO)));
    lab.checker.hurry("a", &format!("db{port}"));
    while taken.load(Ordering::SeqCst) < 2 {
        lab.report().await?;
    }
    let after = lag(lab.report().await?.probe);
    assert!(matches!(after, Some(Lag::Known(lag)) if lag < LIMIT), "{after:?}");
    Ok(())
}

/// A server that says this to all but its first client.
fn serve_first(
    refusal: &'static [u8],
) -> impl Fn(TcpStream) -> std::pin::Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>> + Send {
    let first = Arc::new(AtomicUsize::new(0));
    move |mut stream: TcpStream| {
        let is_first = first.fetch_add(1, Ordering::SeqCst) == 0;
        Box::pin(async move {
            if !is_first {
                stream.write_all(refusal).await?;
                return stream.read_to_end(&mut Vec::new()).await.map(drop);
            }
            let welcomed = welcome(&primary());
            let (login, answer) = welcomed.split_at(welcome(&[]).len() - READY.len());
            if stream.read(&mut [0; 512]).await? > 0 {
                stream.write_all(login).await?;
            }
            while stream.read(&mut [0; 512]).await? > 0 {
                stream.write_all(answer).await?;
            }
            Ok(())
        })
    }
}

#[tokio::test]
async fn what_is_no_postgres_is_named() -> Outcome {
    let nonsense =
        |why: &str| login(&format!("the answer is not PostgreSQL's protocol ({why}); is this its port?"));
    let cases: [(&[u8], Probe); 8] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", nonsense("a message is too long")),
        (b"J\0\0\0\x0a8.4.0\0", nonsense("unknown message tag `74`")),
        (b"R\xff\xff\xff\xff", nonsense("invalid message length: header length < 4")),
        (b"R\0\0\0\x01", nonsense("invalid message length: header length < 4")),
        (b"D\0\0\0\x06\0\0", nonsense("a message that has no place in a login")),
        (
            b"R\0\0\0\x08\0\0\0\x07",
            login("the server wants GSSAPI, which checks cannot do: have scram-sha-256 in its pg_hba.conf"),
        ),
        (
            b"R\0\0\0\x08\0\0\0\x03",
            login(
                "the server wants the password in the clear, and it is only sent over TLS: set tls, or have scram-sha-256 in its pg_hba.conf",
            ),
        ),
        (b"R\0\0\0\x0c\0\0\0\x05salt", login("the server wants a password: set password-file")),
    ];
    for (bytes, expected) in cases {
        assert_eq!(said(postgres(false), bytes).await?, expected);
    }
    Ok(())
}

#[tokio::test]
async fn answers_that_make_no_sense_are_none() -> Outcome {
    let asking = "asking PEER for its role: the answer is not PostgreSQL's protocol";
    let seen = said(postgres(false), welcome(&primary())).await?;
    let connections = Some(Connections { used: 4, max: 97 });
    let role = Some(ObservedRole::Primary);
    assert_eq!(seen, Probe::Answered(Observation { role, connections, ..Observation::default() }));
    for answer in [
        vec![],
        row(&["f"]),
        row(&["x", "4", "97"]),
        row(&["f", "-4", "97"]),
        message(b'D', b"\0\x01\x7f\xff\xff\xfff"),
        message(b'D', b"\0\x02\0\0\0\x01f"),
        message(b'G', b"\0\0\0"),
        message(b'R', &[0; 4]),
    ] {
        let Probe::Failed(text) = said(postgres(false), welcome(&answer)).await? else {
            return Err(format!("taken: {answer:?}").into());
        };
        assert!(text.starts_with(asking), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn tls_that_is_not_to_be_had_is_named() -> Outcome {
    let text = "PEER has no TLS: set ssl = on there, or switch tls off here";
    assert_eq!(said(postgres(true), b"N").await?, failed(text));
    let Probe::Failed(text) = said(postgres(true), b"HTTP/1.1 400").await? else {
        return Err("taken".into());
    };
    assert!(text.starts_with("asking PEER for TLS: the answer is not PostgreSQL's protocol (0x48"), "{text}");
    // Said before there is TLS, in the place of an answer about it.
    let Probe::Full(text) = said(postgres(true), error("53300", "full")).await? else {
        return Err("taken".into());
    };
    assert!(text.contains("full (SQLSTATE 53300); all connections"), "{text}");
    // What is put behind the answer, in the clear, does not get in.
    let Probe::Failed(text) = said(postgres(true), [b"S", welcome(&primary())].concat().leak()).await? else {
        return Err("taken".into());
    };
    assert!(text.contains("the answer is not TLS"), "{text}");
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
    let (clear, tls) = (hasty(postgres(false), silent), hasty(postgres(true), silent));
    let text = |step: &str| format!("timed out after 150ms while {step} 127.0.0.1:{silent}");
    Lab::start(&[clear]).until_failed(&text("logging in to")).await?;
    let asking = format!("timed out after 150ms while asking 127.0.0.1:{silent} for TLS");
    Lab::start(&[tls]).until_failed(&asking).await?;
    for (reset, text) in [(true, "connection reset by peer"), (false, "the server closed the connection")] {
        let port = hangs_up(reset).await?;
        let mut lab = Lab::start(&[pool("a", postgres(false), &[port])]);
        assert_eq!(lab.failure().await?, format!("logging in to 127.0.0.1:{port} as 'vipd': {text}"));
    }
    Ok(())
}
