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
    let probe = Prober::new(TcpCheck::default()).probe(&addresses, deadline, &Progress::default()).await?;
    assert_eq!(probe.0, addresses[1]);
    assert!(Instant::now() < deadline);
    drop(listener);
    Ok(())
}
