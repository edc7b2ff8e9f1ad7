//! Logins over TLS.

use super::super::tls::{Authority, acceptor, trusting};
use super::*;
use crate::check::tls::Client;
use tokio_rustls::TlsAcceptor;

const TLS: u8 = 0x08;

/// The password as a server gets it over TLS when it does not remember it.
async fn full_authentication(mut stream: TcpStream, acceptor: &TlsAcceptor) -> std::io::Result<Vec<u8>> {
    stream.write_all(&greeting("caching_sha2_password")).await?;
    let (sequence, request) = read(&mut stream).await?;
    assert_eq!((sequence, request.len(), request[1] & TLS), (1, 32, TLS), "an SSLRequest, and nothing else");
    let mut stream = acceptor.accept(stream).await?;
    let (sequence, _) = read(&mut stream).await?;
    assert_eq!(sequence, 2);
    stream.write_all(&packet(sequence + 1, &[1, 4])).await?;
    let (sequence, password) = read(&mut stream).await?;
    stream.write_all(&packet(sequence + 1, &OK)).await?;
    Ok(password)
}

fn check(password: &tempfile::NamedTempFile) -> MysqlCheck {
    MysqlCheck { password_file: Some(password.path().to_owned()), ..MysqlCheck::new("vipd") }
}

fn secret() -> std::io::Result<tempfile::NamedTempFile> {
    let mut password = tempfile::NamedTempFile::new()?;
    std::io::Write::write_all(&mut password, b"secret\n")?;
    Ok(password)
}

#[tokio::test]
async fn caching_sha2_password_goes_in_the_clear_inside_tls() -> Outcome {
    let authority = Authority::new("ours")?;
    let acceptor = acceptor(authority.issue(&["127.0.0.1"], |_| {})?)?;
    let (sender, mut received) = mpsc::unbounded_channel();
    let (port, _) = server(move |stream| {
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        async move {
            let password = full_authentication(stream, &acceptor).await?;
            sender.send(password).map_err(std::io::Error::other)
        }
    })
    .await?;
    let password = secret()?;
    let tls = Some(trusting(authority.file.path()));
    let kind = CheckKind::Mysql(MysqlCheck { tls, ..check(&password) });
    let _lab = Lab::start(&[pool("a", kind, &[port])]);
    let received = tokio::time::timeout(LIMIT, received.recv()).await?;
    assert_eq!(received, Some(b"secret\0".to_vec()));
    Ok(())
}

/// What a check makes of a server that does this.
async fn refused<F, S>(serve: F) -> Result<String, Box<dyn std::error::Error>>
where
    F: Fn(TcpStream) -> S + Send + 'static,
    S: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let authority = Authority::new("ours")?;
    let password = secret()?;
    let (port, _) = server(serve).await?;
    let client = Client::new(&trusting(authority.file.path()), "127.0.0.1".to_owned());
    let mut prober = Prober::new(check(&password), Some(client), LIMIT, LIMIT);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let (addresses, progress) = ([address], Progress::default());
    let probe = prober.probe(way(&addresses, Instant::now() + LIMIT), &progress);
    match tokio::time::timeout(LIMIT, probe).await? {
        Ok((_, seen)) => Err(format!("answered: {seen:?}").into()),
        Err(error) => Ok(error.to_string().replace(&address.to_string(), "PEER")),
    }
}

/// It is told nothing of the password, and has no login to count that broke off.
#[tokio::test]
async fn a_server_without_tls_is_refused() -> Outcome {
    let (sender, mut received) = mpsc::unbounded_channel();
    let text = refused(move |mut stream| {
        let sender = sender.clone();
        async move {
            let mut greeting = greeting("mysql_native_password");
            // The second byte of the capabilities, after the version, the
            // connection's number and half of the challenge.
            let at = 4 + b"\x0a8.4.0\0\x07\0\0\0ABCDEFGH\0".len() + 1;
            greeting[at] &= !TLS;
            stream.write_all(&greeting).await?;
            let (sequence, response) = read(&mut stream).await?;
            sender.send(response).map_err(std::io::Error::other)?;
            stream.write_all(&packet(sequence + 1, b"\xff\x15\x04#28000Access denied")).await
        }
    })
    .await?;
    let expected =
        "PEER offers no TLS: give that server a certificate (ssl_cert, ssl_key), or switch tls off";
    assert_eq!(text, expected);
    let response = received.recv().await.ok_or("no login")?;
    assert_eq!(&response[32..], b"vipd\0\0mysql_native_password\0", "an empty answer to the challenge");
    Ok(())
}

/// What somebody slips in before TLS must not count as the server's.
#[tokio::test]
async fn words_in_the_clear_before_tls_are_refused() -> Outcome {
    let text = refused(|mut stream| async move {
        let both = [greeting("mysql_native_password"), packet(2, &OK)].concat();
        stream.write_all(&both).await?;
        read(&mut stream).await.map(drop)
    })
    .await?;
    let expected = "waiting for the greeting of PEER: the answer is not MySQL's protocol \
                    (the server speaks out of turn before TLS)";
    assert_eq!(text, expected);
    Ok(())
}
