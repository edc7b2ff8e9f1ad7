//! `kind = "tcp"`.

use super::super::tcp::Prober;
use super::*;

#[tokio::test]
async fn tcp_tells_open_from_closed() -> Outcome {
    let (open, _) = server(|_| async { Ok(()) }).await?;
    // Bound, never listening: connections are refused, and nobody else gets it.
    let closed = tokio::net::TcpSocket::new_v4()?;
    closed.bind("127.0.0.1:0".parse()?)?;
    let port = closed.local_addr()?.port();
    let mut lab = Lab::start(&[pool("a", CheckKind::Tcp(TcpCheck::default()), &[open, port])]);
    let mut seen = [false, false];
    while seen != [true, true] {
        let report = lab.report().await?;
        let expected = match report.server {
            0 => Probe::Answered(Observation::default()),
            _ => Probe::Failed(format!("connecting to 127.0.0.1:{port}: connection refused")),
        };
        assert_eq!(report.probe, expected);
        seen[report.server] = true;
    }
    Ok(())
}

#[tokio::test]
async fn an_address_that_does_not_answer_leaves_time_for_the_next() -> Outcome {
    // A backlog that is full: further connections get no answer.
    let full = tokio::net::TcpSocket::new_v4()?;
    full.bind("127.0.0.2:0".parse()?)?;
    let dead = full.local_addr()?;
    let listener = full.listen(0)?;
    let _first = TcpStream::connect(dead).await?;
    let alive = TcpListener::bind(("127.0.0.3", 0)).await?;
    let addresses = [dead, alive.local_addr()?];
    let deadline = Instant::now() + Duration::from_millis(600);
    let probe =
        Prober::new(TcpCheck::default()).probe(way(&addresses, deadline), &Progress::default()).await?;
    assert_eq!(probe.0, addresses[1]);
    assert!(Instant::now() < deadline);
    drop(listener);
    Ok(())
}

/// A server that takes nobody who does not begin with this.
async fn insists(header: &'static [u8]) -> Result<u16, std::io::Error> {
    let serve = move |mut stream: TcpStream| async move {
        let mut said = vec![0; header.len()];
        stream.read_exact(&mut said).await?;
        if said == header {
            stream.write_all(b"welcome").await?;
        }
        stream.read_to_end(&mut Vec::new()).await.map(drop)
    };
    Ok(server(serve).await?.0)
}

#[tokio::test]
async fn a_server_that_wants_the_proxy_protocol_is_told_that_it_is_a_check() -> Outcome {
    const V1: &[u8] = b"PROXY UNKNOWN\r\n";
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    for (version, header) in [(ProxyProtocol::V1, V1), (ProxyProtocol::V2, V2)] {
        let port = insists(header).await?;
        let pool = pool("a", says(None, Some("welcome")), &[port]);
        let pool = Pool { proxy_protocol: Some(version), ..pool };
        assert_eq!(Lab::start(&[pool]).report().await?.probe, good());
    }
    // What listens beside the server does not want it.
    let (port, _) = server(|mut stream| async move {
        stream.write_all(b"welcome").await?;
        let mut said = vec![];
        stream.read_to_end(&mut said).await?;
        assert_eq!(said, b"", "a header");
        Ok(())
    })
    .await?;
    let mut pool = pool("a", says(None, Some("welcome")), &[1]);
    pool.proxy_protocol = Some(ProxyProtocol::V2);
    if let Some(check) = &mut pool.check {
        check.port = Some(port);
    }
    assert_eq!(Lab::start(&[pool]).report().await?.probe, good());
    Ok(())
}

fn says(send: Option<&str>, expect: Option<&str>) -> CheckKind {
    CheckKind::Tcp(TcpCheck { send: send.map(Into::into), expect: expect.map(Into::into) })
}

fn good() -> Probe {
    Probe::Answered(Observation::default())
}

#[tokio::test]
async fn a_banner_or_an_answer_is_expected() -> Outcome {
    let (banner, _) = server(|mut stream| async move {
        // In pieces, as a network may deliver it.
        stream.write_all(b"220 mail.exa").await?;
        tokio::task::yield_now().await;
        stream.write_all(b"mple ESMTP\r\n").await
    })
    .await?;
    let report = Lab::start(&[pool("a", says(None, Some("example ESMTP")), &[banner])]).report().await?;
    assert_eq!(report.probe, good());

    let (echo, _) = server(|mut stream| async move {
        let mut said = [0; 6];
        stream.read_exact(&mut said).await?;
        stream.write_all(if &said == b"PING\r\n" { b"+PONG\r\n" } else { b"-ERR\r\n\0" }).await
    })
    .await?;
    for (send, probe) in [
        ("PING\r\n", good()),
        (
            "PINGED",
            Probe::Failed(format!(
                "127.0.0.1:{echo} closed the connection and had not said '+PONG', but '-ERR'"
            )),
        ),
    ] {
        let report = Lab::start(&[pool("a", says(Some(send), Some("+PONG")), &[echo])]).report().await?;
        assert_eq!(report.probe, probe);
    }
    let report = Lab::start(&[pool("a", says(Some("QUIT\r\n"), None), &[echo])]).report().await?;
    assert_eq!(report.probe, good(), "no answer is waited for");
    Ok(())
}

#[tokio::test]
async fn what_is_not_said_is_named() -> Outcome {
    let (mute, _) = server(|mut stream| async move { stream.shutdown().await }).await?;
    let text = format!("127.0.0.1:{mute} closed the connection and had not said 'hello', but nothing");
    assert_eq!(Lab::start(&[pool("a", says(None, Some("hello")), &[mute])]).failure().await?, text);

    let (endless, _) = server(|mut stream| async move {
        loop {
            stream.write_all(&[b'x'; 1024]).await?;
        }
    })
    .await?;
    let text = Lab::start(&[pool("a", says(None, Some("hello")), &[endless])]).failure().await?;
    let wanted = format!("127.0.0.1:{endless} has not said 'hello' in 16384 bytes, but 'xxxx");
    assert!(text.starts_with(&wanted) && text.len() < 250, "{text}");

    let (reset, _) =
        server(|stream| async move { socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)) })
            .await?;
    let text = Lab::start(&[pool("a", says(None, Some("hello")), &[reset])]).failure().await?;
    assert_eq!(text, format!("talking to 127.0.0.1:{reset}: connection reset by peer"));
    Ok(())
}

#[tokio::test]
async fn a_server_that_accepts_and_never_speaks_times_out() -> Outcome {
    let (silent, _) = server(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
        Ok(())
    })
    .await?;
    let mut lab = Lab::start(&[hasty(says(None, Some("+OK")), silent)]);
    let text =
        format!("timed out after 150ms while waiting for '+OK' of 127.0.0.1:{silent}, which said nothing");
    lab.until_failed(&text).await?;

    let (stuck, _) = server(|mut stream| async move {
        stream.write_all(b"+LOADING\r\n").await?;
        std::future::pending().await
    })
    .await?;
    let mut lab = Lab::start(&[hasty(says(None, Some("+OK")), stuck)]);
    let text =
        format!("timed out after 150ms while waiting for '+OK' of 127.0.0.1:{stuck}, which said '+LOADING'");
    lab.until_failed(&text).await
}

#[tokio::test]
async fn the_port_of_the_check_is_asked() -> Outcome {
    let (port, asked) = server(|_| async { Ok(()) }).await?;
    let mut pools = [pool("a", says(None, None), &[1])];
    if let Some(check) = &mut pools[0].check {
        check.port = Some(port);
    }
    let report = Lab::start(&pools).report().await?;
    assert_eq!((report.probe, report.address.map(|a| a.port())), (good(), Some(port)));
    assert!(asked.load(Ordering::SeqCst) >= 1);
    Ok(())
}

#[tokio::test]
async fn a_check_comes_from_where_clients_do_if_this_host_is_there() -> Outcome {
    for (check_source, expected) in [
        (None, "127.0.0.1"),
        (Some("127.0.0.5".parse()?), "127.0.0.5"),
        // This host has it not.
        (Some("192.0.2.1".parse()?), "127.0.0.1"),
        (Some("fd77::1".parse()?), "127.0.0.1"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let pool = pool("a", CheckKind::Tcp(TcpCheck::default()), &[port]);
        let _lab = Lab::start(&[Pool { check_source, ..pool }]);
        let (_, peer) = tokio::time::timeout(LIMIT, listener.accept()).await??;
        assert_eq!(peer.ip().to_string(), expected, "{check_source:?}");
    }
    Ok(())
}
