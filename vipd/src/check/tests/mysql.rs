//! `kind = "mysql"`: a server that speaks just enough of the protocol.

mod dialects;
mod renewal;
mod tls;

use super::super::mysql::Prober;
use super::*;
use vipd_core::probe::ObservedRole;
use vipd_core::settings::MysqlCheck;

pub(super) fn mysql(role: Role) -> CheckKind {
    CheckKind::Mysql(MysqlCheck { role, ..MysqlCheck::new("vipd") })
}

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut packet = vec![length[0], length[1], length[2], sequence];
    packet.extend_from_slice(payload);
    packet
}

fn greeting(plugin: &str) -> Vec<u8> {
    let mut payload = b"\x0a8.4.0\0\x07\0\0\0ABCDEFGH\0".to_vec();
    payload.extend([0xff, 0xff, 0x2d, 0x02, 0x00, 0xff, 0xdf, 21]);
    payload.extend([0; 10]);
    payload.extend(b"IJKLMNOPQRST\0");
    payload.extend(plugin.bytes());
    payload.push(0);
    packet(0, &payload)
}

const OK: [u8; 7] = [0, 0, 0, 2, 0, 0, 0];

pub(super) async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await?;
    let length = usize::from(header[0]) | usize::from(header[1]) << 8;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok((header[3], payload))
}

/// The packets of one answer, which announces another one or does not.
fn table(columns: &[&str], rows: &[&[&str]], more: bool) -> Vec<Vec<u8>> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(u8::try_from(text.len()).unwrap_or_default());
        out.extend(text.bytes());
    };
    let end = |more| vec![0xfe, 0, 0, if more { 0x0a } else { 0x02 }, 0];
    let mut packets = vec![vec![u8::try_from(columns.len()).unwrap_or_default()]];
    for column in columns {
        let mut definition = Vec::new();
        ["def", "", "", "", column, ""].iter().for_each(|t| text(&mut definition, t));
        definition.extend([12, 33, 0, 0, 1, 0, 0, 0xfd, 0, 0, 0, 0, 0]);
        packets.push(definition);
    }
    packets.push(end(false));
    for row in rows {
        let mut values = Vec::new();
        row.iter().for_each(|value| text(&mut values, value));
        packets.push(values);
    }
    packets.push(end(more));
    packets
}

async fn send(stream: &mut (impl AsyncWriteExt + Unpin), packets: &[Vec<u8>]) -> std::io::Result<()> {
    let mut out = Vec::new();
    for (sequence, payload) in (1..).zip(packets) {
        out.extend(packet(sequence, payload));
    }
    stream.write_all(&out).await
}

async fn answer(
    stream: &mut (impl AsyncWriteExt + Unpin),
    columns: &[&str],
    rows: &[&[&str]],
) -> std::io::Result<()> {
    send(stream, &table(columns, rows, false)).await
}

/// Plays a MySQL 8.4 after its login: a primary, until `questions` were asked
/// or it hears a goodbye.
pub(super) async fn questions(stream: &mut TcpStream, questions: usize) -> std::io::Result<()> {
    for _ in 0..questions {
        let (_, question) = read(stream).await?;
        if question == [1] {
            return Ok(());
        }
        let question = String::from_utf8_lossy(&question).into_owned();
        if question.contains("SHOW GLOBAL VARIABLES") {
            let rows: [&[&str]; 2] = [&["read_only", "OFF"], &["version", "8.4.0"]];
            answer(stream, &["Variable_name", "Value"], &rows).await?;
        } else if question.contains("SELECT @@global.read_only") {
            answer(stream, &["read_only"], &[&["0"]]).await?;
        } else {
            stream.write_all(&packet(1, &OK)).await?;
        }
    }
    Ok(())
}

/// The login of an account without a password.
pub(super) async fn log_in(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(&greeting("mysql_native_password")).await?;
    let (sequence, _) = read(stream).await?;
    stream.write_all(&packet(sequence + 1, &OK)).await
}

pub(super) fn primary() -> Probe {
    Probe::Answered(Observation { role: Some(ObservedRole::Primary), ..Observation::default() })
}

#[tokio::test]
async fn a_time_out_names_the_step() -> Outcome {
    let (silent, _) = server(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
        Ok(())
    })
    .await?;
    let mut lab = Lab::start(&[hasty(mysql(Role::Any), silent)]);
    let expected = format!("timed out after 150ms while waiting for the greeting of 127.0.0.1:{silent}");
    lab.until_failed(&expected).await?;

    let (stalled, _) = server(|mut stream| async move {
        stream.write_all(&greeting("mysql_native_password")).await?;
        std::future::pending().await
    })
    .await?;
    let mut lab = Lab::start(&[hasty(mysql(Role::Any), stalled)]);
    let expected = format!("timed out after 150ms while logging in to 127.0.0.1:{stalled}");
    lab.until_failed(&expected).await?;

    let (mute, _) = server(|mut stream| async move {
        log_in(&mut stream).await?;
        questions(&mut stream, 3).await?;
        std::future::pending().await
    })
    .await?;
    let mut lab = Lab::start(&[hasty(mysql(Role::Any), mute)]);
    let expected = format!("timed out after 150ms while asking 127.0.0.1:{mute} for its role");
    lab.until_failed(&expected).await
}

#[tokio::test]
async fn a_login_that_is_slow_is_waited_for_not_broken_off() -> Outcome {
    let (gate, opened) = watch::channel(false);
    let (port, logins) = server(move |mut stream| {
        let mut opened = opened.clone();
        async move {
            let _opened = opened.wait_for(|open| *open).await.map(|_| ());
            log_in(&mut stream).await?;
            questions(&mut stream, usize::MAX).await
        }
    })
    .await?;
    let mut lab = Lab::start(&[hasty(mysql(Role::Primary), port)]);
    for _ in 0..4 {
        let text = format!("timed out after 150ms while waiting for the greeting of 127.0.0.1:{port}");
        assert_eq!(lab.failure().await?, text);
    }
    gate.send_replace(true);
    while lab.report().await?.probe != primary() {}
    assert_eq!(logins.load(Ordering::SeqCst), 1, "one connection for all probes");
    Ok(())
}

/// A login may wait for a frozen server for long; that its host is there is asked meanwhile.
#[tokio::test]
async fn a_host_is_asked_whether_it_is_there_while_its_server_is_silent() -> Outcome {
    let (port, _) = server(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
        Ok(())
    })
    .await?;
    let mut lab = Lab::start(&[hasty(mysql(Role::Any), port)]);
    lab.failure().await?;
    // proc_pid_net(5): the timer 2 is that of the keepalive, in hundredths of a second.
    let table = std::fs::read_to_string("/proc/self/net/tcp")?;
    let remote = format!(":{port:04X}");
    let asked_in = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let timer = fields.get(5).filter(|_| fields[2].ends_with(&remote))?;
        u64::from_str_radix(timer.strip_prefix("02:")?, 16).ok()
    });
    assert!(asked_in.is_some_and(|hundredths| hundredths <= 500), "{asked_in:?}\n{table}");
    Ok(())
}

#[tokio::test]
async fn a_kept_connection_that_broke_is_no_failure() -> Outcome {
    // Three questions of the preparation, one of the probe, then it closes.
    let (port, logins) = server(|mut stream| async move {
        log_in(&mut stream).await?;
        questions(&mut stream, 4).await
    })
    .await?;
    let mut lab = Lab::start(&[pool("a", mysql(Role::Primary), &[port])]);
    for _ in 0..3 {
        assert_eq!(lab.report().await?.probe, primary());
    }
    assert!(logins.load(Ordering::SeqCst) >= 3);
    Ok(())
}

#[tokio::test]
async fn what_a_server_says_before_the_login_is_passed_on() -> Outcome {
    let cases: [(&'static [u8], &str); 5] = [
        (
            b"\x17\0\0\0\xff\x10\x04Too many connections",
            "ERROR 1040: Too many connections (all of its max_connections are in use: raise them there, \
             or leave some to others with headroom in the pool)",
        ),
        (
            b"\x13\0\0\0\xff\x69\x04Host is blocked.",
            "ERROR 1129: Host is blocked. (too many logins from this host broke off: type on 127.0.0.1 \
             FLUSH HOSTS, or from MySQL 8.4 on TRUNCATE TABLE performance_schema.host_cache)",
        ),
        (
            b"SSH-2.0-OpenSSH_9.2p1\r\n",
            "the answer is not MySQL's protocol (no greeting of MySQL or MariaDB)",
        ),
        (b"\x01\0\0\0\x0a", "the answer is not MySQL's protocol (no greeting of MySQL or MariaDB)"),
        (b"", "the server closed the connection"),
    ];
    for (bytes, expected) in cases {
        let (port, _) = server(move |mut stream| async move { stream.write_all(bytes).await }).await?;
        let mut lab = Lab::start(&[pool("a", mysql(Role::Any), &[port])]);
        let text = format!("waiting for the greeting of 127.0.0.1:{port}: {expected}");
        // A server that is full lives.
        let full = expected.contains("1040");
        let probe = if full { Probe::Full(text) } else { Probe::Failed(text) };
        assert_eq!(lab.report().await?.probe, probe);
    }
    Ok(())
}

#[tokio::test]
async fn a_reset_in_the_login_is_named() -> Outcome {
    let (port, _) = server(|mut stream| async move {
        stream.write_all(&greeting("caching_sha2_password")).await?;
        read(&mut stream).await?;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))
    })
    .await?;
    let mut lab = Lab::start(&[pool("a", mysql(Role::Any), &[port])]);
    let expected = format!("logging in to 127.0.0.1:{port} as 'vipd': connection reset by peer");
    assert_eq!(lab.failure().await?, expected);
    Ok(())
}

#[tokio::test]
async fn a_refused_account_is_named_without_its_password() -> Outcome {
    let (port, _) = server(|mut stream| async move {
        stream.write_all(&greeting("mysql_native_password")).await?;
        let (sequence, _) = read(&mut stream).await?;
        let text = b"\xff\x15\x04#28000Access denied for user 'vipd'@'px1' (using password: YES)";
        stream.write_all(&packet(sequence + 1, text)).await
    })
    .await?;
    let mut password = tempfile::NamedTempFile::new()?;
    std::io::Write::write_all(&mut password, b"hunter2\n")?;
    let kind = CheckKind::Mysql(MysqlCheck {
        password_file: Some(password.path().to_owned()),
        ..MysqlCheck::new("vipd")
    });
    let mut lab = Lab::start(&[pool("a", kind, &[port])]);
    let text = lab.failure().await?;
    let said = "Access denied for user 'vipd'@'px1' (using password: YES) (ERROR 1045)";
    let hint = "compare user, password-file and tls with that server's account for this host";
    assert_eq!(text, format!("access denied for user 'vipd' at 127.0.0.1:{port}: {said}: {hint}"));
    Ok(())
}

#[tokio::test]
async fn without_its_password_file_no_login_is_begun() -> Outcome {
    let (port, logins) = server(|_| async { Ok(()) }).await?;
    let kind = CheckKind::Mysql(MysqlCheck {
        password_file: Some("/nowhere/password".into()),
        ..MysqlCheck::new("vipd")
    });
    let mut lab = Lab::start(&[pool("a", kind, &[port])]);
    let expected = "reading password-file /nowhere/password: no such file or directory";
    assert_eq!(lab.failure().await?, expected);
    assert_eq!(logins.load(Ordering::SeqCst), 0);
    Ok(())
}

/// The server's side of `caching_sha2_password` when it does not remember
/// the password: it sends its key, and decrypts what comes back.
async fn full_authentication(
    stream: &mut TcpStream,
    key: &rsa::RsaPrivateKey,
    pem: &str,
) -> std::io::Result<Vec<u8>> {
    const CHALLENGE: &[u8] = b"ABCDEFGHIJKLMNOPQRST";
    stream.write_all(&greeting("caching_sha2_password")).await?;
    let (sequence, _) = read(stream).await?;
    stream.write_all(&packet(sequence + 1, &[1, 4])).await?;
    let (sequence, want_key) = read(stream).await?;
    assert_eq!(want_key, [2]);
    stream.write_all(&packet(sequence + 1, &[&[1], pem.as_bytes()].concat())).await?;
    let (sequence, sent) = read(stream).await?;
    let mixed = key.decrypt(rsa::Oaep::new::<sha1::Sha1>(), &sent).map_err(std::io::Error::other)?;
    stream.write_all(&packet(sequence + 1, &OK)).await?;
    Ok(mixed.iter().zip(CHALLENGE.iter().cycle()).map(|(a, b)| a ^ b).collect())
}

#[tokio::test]
async fn caching_sha2_password_needs_no_tls() -> Outcome {
    use rsa::pkcs8::EncodePublicKey;
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 1024)?;
    let pem = key.to_public_key().to_public_key_pem(rsa::pkcs8::LineEnding::LF)?;
    let (sender, mut received) = mpsc::unbounded_channel();
    let (port, _) = server(move |mut stream| {
        let (key, pem, sender) = (key.clone(), pem.clone(), sender.clone());
        async move {
            let password = full_authentication(&mut stream, &key, &pem).await?;
            sender.send(password).map_err(std::io::Error::other)?;
            questions(&mut stream, usize::MAX).await
        }
    })
    .await?;
    let mut password = tempfile::NamedTempFile::new()?;
    std::io::Write::write_all(&mut password, b"a secret that is longer than twenty bytes\n")?;
    let kind = CheckKind::Mysql(MysqlCheck {
        password_file: Some(password.path().to_owned()),
        role: Role::Primary,
        ..MysqlCheck::new("vipd")
    });
    let mut lab = Lab::start(&[pool("a", kind, &[port])]);
    assert_eq!(lab.report().await?.probe, primary());
    assert_eq!(received.recv().await, Some(b"a secret that is longer than twenty bytes\0".to_vec()));
    Ok(())
}

/// Every byte that a server sends is changed in turn: whatever comes of it,
/// the probe ends, and with neither panic nor memory without bound.
#[tokio::test]
async fn a_server_may_send_anything() -> Outcome {
    let (client, mut script) = tokio::io::duplex(1 << 16);
    let mut client = client;
    script.write_all(&greeting("mysql_native_password")).await?;
    script.write_all(&packet(2, &OK)).await?;
    script.write_all(&packet(1, &OK)).await?;
    script.write_all(&packet(1, &OK)).await?;
    let rows: [&[&str]; 2] = [&["read_only", "OFF"], &["version", "8.4.0"]];
    answer(&mut script, &["Variable_name", "Value"], &rows).await?;
    let variables = table(&["read_only", "max_connections"], &[&["0", "151"]], true);
    let status = table(&["Variable_name", "Value"], &[&["Threads_connected", "1"]], false);
    send(&mut script, &[variables, status].concat()).await?;
    drop(script);
    let mut script = Vec::new();
    client.read_to_end(&mut script).await?;

    assert_eq!(played(script.clone()).await?, Ok(Some(ObservedRole::Primary)));
    let mut failed = 0;
    for at in 0..script.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = script.clone();
            changed[at] ^= flip;
            failed += usize::from(played(changed).await?.is_err());
        }
        assert!(played(script[..at].to_vec()).await?.is_err(), "cut at {at}");
    }
    assert!(failed > 100, "{failed}");
    Ok(())
}

/// What a check makes of a server that sends this, and then nothing more.
async fn played(script: Vec<u8>) -> Result<Result<Option<ObservedRole>, String>, Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let serve = async {
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(&script).await?;
        stream.shutdown().await?;
        // A client that hangs up first is no error here.
        let _ = stream.read_to_end(&mut Vec::new()).await;
        std::io::Result::Ok(())
    };
    let check = MysqlCheck { role: Role::Primary, ..MysqlCheck::new("vipd") };
    let probe = async {
        let mut prober = Prober::new(check, None, LIMIT, LIMIT);
        let deadline = Instant::now() + LIMIT;
        prober.probe(way(&[address], deadline), &Progress::default()).await
    };
    let (served, probed) = tokio::time::timeout(LIMIT, async { tokio::join!(serve, probe) }).await?;
    drop(served);
    Ok(probed.map(|(_, seen)| seen.role).map_err(|e| e.to_string()))
}
