//! `kind = "http"`.

use super::tls::{Authority, acceptor, trusting};
use super::*;
use vipd_core::settings::{HttpCheck, Tls};

fn http(path: &str) -> HttpCheck {
    HttpCheck {
        tls: None,
        method: "GET".into(),
        path: path.into(),
        host: None,
        status: vec![200..=200],
        expect: None,
    }
}

async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// A server that gives each request the same answer.
async fn answering(answer: &'static str) -> std::io::Result<u16> {
    let serve = move |mut stream: TcpStream| async move {
        head(&mut stream).await?;
        stream.write_all(answer.as_bytes()).await
    };
    Ok(server(serve).await?.0)
}

async fn probed(check: HttpCheck, port: u16) -> Result<Probe, Box<dyn std::error::Error>> {
    Ok(Lab::start(&[pool("a", CheckKind::Http(check), &[port])]).report().await?.probe)
}

async fn failure(check: HttpCheck, port: u16) -> Result<String, Box<dyn std::error::Error>> {
    Lab::start(&[pool("a", CheckKind::Http(check), &[port])]).failure().await
}

fn good() -> Probe {
    Probe::Answered(Observation::default())
}

/// Patroni: 200 at `/primary` of the leader and 503 elsewhere, with a body of JSON.
#[tokio::test]
async fn patroni_is_asked_for_its_role() -> Outcome {
    const LEADER: &str = "HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.6 Python/3.11.2\r\n\
        Content-Type: application/json\r\n\r\n{\"state\": \"running\", \"role\": \"primary\"}";
    const REPLICA: &str = "HTTP/1.0 503 Service Unavailable\r\nContent-Type: application/json\r\n\r\n\
        {\"state\": \"running\", \"role\": \"replica\"}\n";
    let port = answering(LEADER).await?;
    assert_eq!(probed(http("/primary"), port).await?, good());
    let port = answering(REPLICA).await?;
    let text = format!(
        "GET /primary at 127.0.0.1:{port}: status 503 Service Unavailable, wanted 200: \
         {{\"state\": \"running\", \"role\": \"replica\"}}"
    );
    assert_eq!(probed(http("/primary"), port).await?, Probe::Failed(text));
    Ok(())
}

#[tokio::test]
async fn the_request_is_what_was_asked_for() -> Outcome {
    let (sender, mut heads) = mpsc::unbounded_channel();
    let (port, _) = server(move |mut stream| {
        let sender = sender.clone();
        async move {
            sender.send(head(&mut stream).await?).map_err(std::io::Error::other)?;
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await
        }
    })
    .await?;
    let check = HttpCheck { method: "OPTIONS".into(), status: vec![200..=299], ..http("/replica?lag=1MB") };
    assert_eq!(probed(check.clone(), port).await?, good());
    let head = heads.recv().await.ok_or("no request")?;
    assert!(head.starts_with("OPTIONS /replica?lag=1MB HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{head}");
    assert!(head.contains("connection: close\r\n") && head.contains("user-agent: vipd/"), "{head}");

    assert_eq!(probed(HttpCheck { host: Some("db.example".into()), ..check }, port).await?, good());
    let head = loop {
        let head = heads.recv().await.ok_or("no request")?;
        if !head.contains("127.0.0.1") {
            break head;
        }
    };
    assert!(head.contains("host: db.example\r\n"), "{head}");
    Ok(())
}

#[tokio::test]
async fn the_status_decides_and_no_redirect_is_followed() -> Outcome {
    let port = answering("HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n").await?;
    let status = vec![200..=299, 304..=304];
    let text = format!("GET / at 127.0.0.1:{port}: status 302 Found, wanted 200-299, 304, which is empty");
    assert_eq!(probed(HttpCheck { status, ..http("/") }, port).await?, Probe::Failed(text));
    assert_eq!(probed(HttpCheck { status: vec![302..=302], ..http("/") }, port).await?, good());
    Ok(())
}

#[tokio::test]
async fn the_body_must_hold_what_is_expected() -> Outcome {
    let port =
        answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsynce\r\n1\r\nd\r\n0\r\n\r\n")
            .await?;
    let expect = |text: &str| HttpCheck { expect: Some(text.into()), ..http("/") };
    assert_eq!(probed(expect("synced"), port).await?, good(), "over two chunks");
    let text = format!("GET / at 127.0.0.1:{port}: status 200 OK, but 'Synced' is not in its body: synced");
    assert_eq!(probed(expect("Synced"), port).await?, Probe::Failed(text));
    Ok(())
}

#[tokio::test]
async fn a_body_without_end_is_not_read_to_its_end() -> Outcome {
    let (port, _) = server(|mut stream| async move {
        head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        loop {
            stream.write_all(&[b'x'; 4096]).await?;
        }
    })
    .await?;
    let check = HttpCheck { expect: Some("y".into()), ..http("/") };
    let text = failure(check, port).await?;
    assert!(text.contains("'y' is not in its body: xxxx") && text.len() < 300, "{text}");
    Ok(())
}

#[tokio::test]
async fn what_is_no_answer_is_named() -> Outcome {
    let cases = [
        ("SSH-2.0-OpenSSH_9.2p1\r\n", "the answer is not HTTP/1.1 ("),
        ("\x15\x03\x01\x00\x02\x02\x46", "does this port want TLS, or something else?"),
        ("", "the server closed the connection in the middle of its answer"),
        ("HTTP/1.1 200 OK\r\nContent-Le", "the server closed the connection in the middle of its answer"),
    ];
    for (answer, wanted) in cases {
        let port = answering(answer).await?;
        let text = failure(http("/"), port).await?;
        assert!(text.contains(wanted), "{text}");
    }
    let (port, _) = server(|mut stream| async move {
        head(&mut stream).await?;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))
    })
    .await?;
    let text = format!("GET / at 127.0.0.1:{port}: connection reset by peer");
    assert_eq!(probed(http("/"), port).await?, Probe::Failed(text));
    Ok(())
}

#[tokio::test]
async fn a_head_without_end_does_not_fill_the_memory() -> Outcome {
    // It sends before it is asked, or after that; one header without end, or headers without end.
    for (waits, line) in [(false, "x"), (true, "x"), (false, "X: y\r\n"), (true, "X: y\r\n")] {
        let (port, _) = server(move |mut stream| async move {
            if waits {
                head(&mut stream).await?;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await?;
            loop {
                stream.write_all(line.repeat(1000).as_bytes()).await?;
            }
        })
        .await?;
        let text = failure(http("/"), port).await?;
        let told = format!(
            "GET / at 127.0.0.1:{port}: the server sent more than 16384 bytes of headers, or more than 100 of them"
        );
        assert_eq!(text, told, "it waits: {waits}, {line:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_time_out_names_the_step() -> Outcome {
    let (silent, _) = server(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
        Ok(())
    })
    .await?;
    let mut lab = Lab::start(&[hasty(CheckKind::Http(http("/")), silent)]);
    let text = format!("timed out after 150ms while waiting for the answer of 127.0.0.1:{silent} to GET /");
    lab.until_failed(&text).await?;

    let tls = Some(Tls { verify: false, ca_file: None, server_name: None });
    let mut lab = Lab::start(&[hasty(CheckKind::Http(HttpCheck { tls, ..http("/") }), silent)]);
    lab.until_failed(&format!("timed out after 150ms while beginning TLS with 127.0.0.1:{silent}")).await?;

    let (slow, _) = server(|mut stream| async move {
        head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nstop").await?;
        std::future::pending().await
    })
    .await?;
    let mut lab = Lab::start(&[hasty(CheckKind::Http(http("/")), slow)]);
    let text = format!(
        "timed out after 150ms while reading the answer 503 Service Unavailable of 127.0.0.1:{slow} to GET /"
    );
    lab.until_failed(&text).await
}

#[tokio::test]
async fn https_is_http_behind_a_certificate() -> Outcome {
    let authority = Authority::new("ours")?;
    let accept = acceptor(authority.issue(&["127.0.0.1"], |_| {})?)?;
    let (port, _) = server(move |stream| {
        let accept = accept.clone();
        async move {
            let mut stream = accept.accept(stream).await?;
            head(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
            stream.shutdown().await
        }
    })
    .await?;
    let check =
        HttpCheck { tls: Some(trusting(authority.file.path())), expect: Some("ok".into()), ..http("/") };
    assert_eq!(probed(check.clone(), port).await?, good());
    let strange = Authority::new("theirs")?;
    let text = failure(HttpCheck { tls: Some(trusting(strange.file.path())), ..check }, port).await?;
    assert!(text.contains("stems from none in"), "{text}");
    Ok(())
}
