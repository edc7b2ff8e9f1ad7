//! TLS: what is taken, what is refused, and in which words.

use super::super::tls::Client;
use super::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use tokio::io::{DuplexStream, duplex};
use tokio_rustls::TlsAcceptor;
use vipd_core::settings::Tls;

/// A certificate authority with its certificate in a file.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) file: tempfile::NamedTempFile,
}

pub(super) struct Identity(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

impl Authority {
    pub(super) fn new(name: &str) -> Fallible<Self> {
        let mut params = CertificateParams::new(vec![])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(params.self_signed(&key)?.pem().as_bytes())?;
        Ok(Self { issuer: Issuer::new(params, key), file })
    }

    pub(super) fn issue(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Fallible<Identity> {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())?;
        change(&mut params);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der())?))
    }
}

pub(super) fn acceptor(Identity(chain, key): Identity) -> Fallible<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

pub(super) fn trusting(file: &Path) -> Tls {
    Tls { verify: true, ca_file: Some(file.to_owned()), server_name: None }
}

fn named(name: &str) -> String {
    name.to_owned()
}

fn peer() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 3306))
}

/// What the client makes of a server that does this.
async fn begin<S>(client: &Client, serve: impl FnOnce(DuplexStream) -> S) -> Result<(), String>
where
    S: Future<Output = std::io::Result<()>>,
{
    let (ours, theirs) = duplex(1 << 14);
    let progress = Progress::default();
    let begun = async {
        let mut stream = client.connect(ours, peer(), &progress).await.map_err(|e| e.to_string())?;
        assert_eq!(progress.get(), "beginning TLS with 192.0.2.1:3306");
        let mut said = String::new();
        stream.read_to_string(&mut said).await.map_err(|e| e.to_string())?;
        assert_eq!(said, "welcome");
        Ok(())
    };
    // How the server fares with a client that hangs up is nothing to us.
    tokio::join!(begun, serve(theirs)).0
}

async fn against(client: &Client, identity: Identity) -> Fallible<Result<(), String>> {
    let acceptor = acceptor(identity)?;
    let serve = |stream| async move {
        let mut stream = acceptor.accept(stream).await?;
        stream.write_all(b"welcome").await?;
        stream.shutdown().await
    };
    Ok(begin(client, serve).await)
}

#[tokio::test]
async fn a_good_certificate_is_taken_for_its_names() -> Outcome {
    let authority = Authority::new("ours")?;
    let tls = trusting(authority.file.path());
    let issue = || authority.issue(&["db1.internal", "192.0.2.1", "2001:db8::1"], |_| {});
    let hosts = [named("db1.internal"), named("db1.internal."), named("192.0.2.1"), named("2001:db8::1")];
    for host in hosts {
        assert_eq!(against(&Client::new(&tls, host.clone()), issue()?).await?, Ok(()), "{host}");
    }
    let tls = Tls { server_name: Some("db1.internal".into()), ..tls };
    assert_eq!(against(&Client::new(&tls, named("elsewhere")), issue()?).await?, Ok(()));
    Ok(())
}

#[tokio::test]
async fn a_bad_certificate_is_refused_with_what_to_do() -> Outcome {
    let authority = Authority::new("ours")?;
    let strange = Authority::new("theirs")?;
    let file = authority.file.path();
    let client = Client::new(&trusting(file), named("db1"));
    let past = |p: &mut CertificateParams| p.not_after = rcgen::date_time_ymd(2021, 3, 4);
    let future = |p: &mut CertificateParams| p.not_before = rcgen::date_time_ymd(2999, 1, 1);
    let only_common_name = |p: &mut CertificateParams| p.distinguished_name.push(DnType::CommonName, "db1");
    let ca = |p: &mut CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let cases = [
        (authority.issue(&["db1"], past)?, "expired at 2021-03-04T00:00:00Z: renew it there"),
        (authority.issue(&["db1"], future)?, "is valid from 2999-01-01T00:00:00Z, and the clock here says 2"),
        (authority.issue(&["db2", "192.0.2.2"], |_| {})?, "for db2, 192.0.2.2, not for 'db1': set tls-name"),
        (authority.issue(&[], only_common_name)?, "has no subject alternative name"),
        (strange.issue(&["db1"], |_| {})?, "stems from none in /"),
        (authority.issue(&["db1"], ca)?, "shows a CA's certificate as its own"),
    ];
    for (identity, wanted) in cases {
        let Err(text) = against(&client, identity).await? else { return Err(wanted.into()) };
        assert!(text.starts_with("TLS with 192.0.2.1:3306: the server"), "{text}");
        assert!(text.contains(wanted), "{text}\nwanted: {wanted}");
    }
    let system = Client::new(&Tls { verify: true, ca_file: None, server_name: None }, named("db1"));
    let Err(text) = against(&system, authority.issue(&["db1"], |_| {})?).await? else {
        return Err("the system trusts a test".into());
    };
    assert!(text.contains("set tls-ca-file") || text.contains("ca-certificates"), "{text}");
    Ok(())
}

#[tokio::test]
async fn without_verification_anything_is_taken() -> Outcome {
    let strange = Authority::new("theirs")?;
    let client = Client::new(&Tls { verify: false, ca_file: None, server_name: None }, named("db1"));
    let past = |p: &mut CertificateParams| p.not_after = rcgen::date_time_ymd(2021, 3, 4);
    let ca = |p: &mut CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for identity in [strange.issue(&["other"], past)?, strange.issue(&[], ca)?] {
        assert_eq!(against(&client, identity).await?, Ok(()));
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_tls_is_named() -> Outcome {
    let client = Client::new(&Tls { verify: false, ca_file: None, server_name: None }, named("db1"));
    let says = |bytes: &'static [u8]| {
        move |mut stream: DuplexStream| async move {
            stream.write_all(bytes).await?;
            // Until the client has hung up.
            stream.read_to_end(&mut Vec::new()).await.map(drop)
        }
    };
    // A fatal alert: no protocol version in common.
    let old = begin(&client, says(b"\x15\x03\x01\x00\x02\x02\x46")).await;
    let clear = begin(&client, says(b"HTTP/1.1 400 Bad Request\r\n\r\n")).await;
    let closed = begin(&client, |stream| async move {
        drop(stream);
        Ok(())
    })
    .await;
    let texts = [old, clear, closed].map(|result| result.err().unwrap_or_default());
    let wanted = ["no version or cipher in common", "the answer is not TLS", "closed the connection"];
    for (text, wanted) in texts.iter().zip(wanted) {
        assert!(text.starts_with("TLS with 192.0.2.1:3306: ") && text.contains(wanted), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn faults_of_the_settings_are_named_before_anything_is_sent() -> Outcome {
    let mut other = tempfile::NamedTempFile::new()?;
    other.write_all(b"no certificate\n")?;
    let missing = trusting(Path::new("/nowhere/ca.pem"));
    let cases = [
        (missing.clone(), "db1", "reading tls-ca-file /nowhere/ca.pem: no such file or directory"),
        (trusting(other.path()), "db1", "holds no certificates in PEM form"),
        (missing, "no name", "'no name' is no name that a certificate can have: set tls-name"),
    ];
    for (tls, name, wanted) in cases {
        let client = Client::new(&tls, named(name));
        let silent = |stream: DuplexStream| async move {
            drop(stream);
            Ok(())
        };
        let text = begin(&client, silent).await.err().unwrap_or_default();
        assert!(text.contains(wanted), "{text}");
    }
    Ok(())
}

/// Somebody puts the right certificate there: no reload is needed.
#[tokio::test(start_paused = true)]
async fn a_ca_file_that_did_not_do_is_read_again() -> Outcome {
    let (old, new) = (Authority::new("old")?, Authority::new("new")?);
    let client = Client::new(&trusting(old.file.path()), named("db1"));
    assert_eq!(against(&client, old.issue(&["db1"], |_| {})?).await?, Ok(()));
    std::fs::copy(new.file.path(), old.file.path())?;
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(against(&client, new.issue(&["db1"], |_| {})?).await?.is_err(), "the old one is still in use");
    assert_eq!(against(&client, new.issue(&["db1"], |_| {})?).await?, Ok(()));
    Ok(())
}
