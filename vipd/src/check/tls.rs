//! TLS of a check's connection.
//!
//! Wraps any stream, also one in the middle of a conversation: MySQL and
//! PostgreSQL ask in the clear first. Sessions are never resumed: a server
//! proves who it is at each connection, so that a certificate which has run
//! out is noticed when it does.

use super::Progress;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use vipd_core::settings::Tls;

/// Certificates that refused a server are read anew for the next, since
/// somebody may be replacing them, but not more often than this.
const READ_EVERY: Duration = Duration::from_secs(10);

/// No TLS with this server.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    #[error("reading tls-ca-file {}: {}", .path.display(), crate::words(.source))]
    CaFile { path: PathBuf, source: io::Error },
    #[error("tls-ca-file {} holds no certificates in PEM form: {why}", .path.display())]
    CaForm { path: PathBuf, why: String },
    #[error("{} is of no use as this host's certificate, or its key: {why}", .path.display())]
    Identity { path: PathBuf, why: String },
    #[error("this system trusts no certificates: install the package ca-certificates, or set tls-ca-file")]
    NoRoots,
    #[error("'{0}' is no name that a certificate can have: set tls-name")]
    Name(String),
    #[error("TLS with {peer}: {}", explain(.source, .name, .ca_file.as_deref()))]
    Handshake { peer: SocketAddr, name: String, ca_file: Option<PathBuf>, source: io::Error },
    #[error("this program lacks the TLS versions it needs: {0}")]
    Versions(rustls::Error),
}

impl TlsError {
    /// Whether it is our judgement on a certificate, or something amiss here,
    /// rather than a server with which nobody gets through.
    pub(crate) fn is_ours(&self) -> bool {
        match self {
            Self::CaFile { .. }
            | Self::CaForm { .. }
            | Self::Identity { .. }
            | Self::NoRoots
            | Self::Name(_)
            | Self::Versions(_) => true,
            Self::Handshake { source, .. } => {
                matches!(tls_error(source), Some(rustls::Error::InvalidCertificate(_)))
            }
        }
    }
}

/// Does TLS with one server, as its check's settings say.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    trust: Arc<Trust>,
    name: String,
}

impl Client {
    /// Reads nothing yet.
    ///
    /// `host` is the name or address that the certificate must have, if the
    /// settings name none.
    pub(crate) fn new(tls: &Tls, host: String) -> Self {
        let name = tls.server_name.clone().unwrap_or(host);
        Self { trust: Trust::shared(tls.verify, tls.ca_file.clone(), None), name }
    }

    /// The same, and shows a certificate of this host's, of which the second
    /// file is the key.
    pub(crate) fn with_identity(self, identity: Option<(PathBuf, PathBuf)>) -> Self {
        let trust = Trust::shared(self.trust.verify, self.trust.ca_file.clone(), identity);
        Self { trust, ..self }
    }

    /// Begins TLS on a stream to `peer`.
    ///
    /// The future may be dropped; the stream is lost with it.
    pub(super) async fn connect<S>(
        &self,
        stream: S,
        peer: SocketAddr,
        progress: &Progress,
    ) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        progress.set(format!("beginning TLS with {peer}"));
        self.begin(stream, peer).await
    }

    /// The same, where nobody asks how far it is.
    pub(crate) async fn begin<S>(&self, stream: S, peer: SocketAddr) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = server_name(&self.name)?;
        let config = self.trust.config().await?;
        match TlsConnector::from(config).connect(name, stream).await {
            Ok(stream) => Ok(stream),
            Err(source) => {
                // Or the server refused what is shown it of this host.
                if refused_by_us(&source).is_some() || self.trust.identity.is_some() {
                    self.trust.doubt().await;
                }
                let ca_file = self.trust.ca_file.clone();
                Err(TlsError::Handshake { peer, name: self.name.clone(), ca_file, source })
            }
        }
    }

    /// The server may have refused what it was shown of this host, after the
    /// handshake: the files are read anew for the next.
    pub(crate) async fn doubt(&self) {
        self.trust.doubt().await;
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(ServerName::from(address));
    }
    // Certificates name hosts without the dot of the root.
    let host = name.strip_suffix('.').unwrap_or(name).to_owned();
    ServerName::try_from(host).map_err(|_| TlsError::Name(name.to_owned()))
}

/// What makes a certificate good. Shared by all servers that have the same:
/// the system's certificates alone are a hundred and more.
#[derive(Debug)]
struct Trust {
    verify: bool,
    ca_file: Option<PathBuf>,
    /// What this host shows: the files of a certificate and of its key.
    identity: Option<(PathBuf, PathBuf)>,
    loaded: tokio::sync::Mutex<Option<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    at: Instant,
    config: Arc<ClientConfig>,
}

impl Trust {
    fn shared(verify: bool, ca_file: Option<PathBuf>, identity: Option<(PathBuf, PathBuf)>) -> Arc<Self> {
        /// As many as the settings name; those of older settings go with them.
        static ALL: Mutex<Vec<Weak<Trust>>> = Mutex::new(Vec::new());
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|trust| trust.strong_count() > 0);
        let mut known = all.iter().filter_map(Weak::upgrade);
        let same = |t: &Arc<Self>| t.verify == verify && t.ca_file == ca_file && t.identity == identity;
        if let Some(trust) = known.find(same) {
            return trust;
        }
        let trust = Arc::new(Self { verify, ca_file, identity, loaded: tokio::sync::Mutex::new(None) });
        all.push(Arc::downgrade(&trust));
        trust
    }

    async fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut loaded = self.loaded.lock().await;
        if let Some(loaded) = &*loaded {
            return Ok(Arc::clone(&loaded.config));
        }
        let (verify, ca_file, identity) = (self.verify, self.ca_file.clone(), self.identity.clone());
        let read = tokio::task::spawn_blocking(move || load(verify, ca_file.as_deref(), identity));
        // A thread that ended without a result has panicked, which ends the daemon.
        let config = Arc::new(read.await.unwrap_or(Err(TlsError::NoRoots))?);
        *loaded = Some(Loaded { at: Instant::now(), config: Arc::clone(&config) });
        Ok(config)
    }

    /// The certificates did not do: they are read again, if they may be old.
    async fn doubt(&self) {
        let mut loaded = self.loaded.lock().await;
        if loaded.as_ref().is_some_and(|loaded| loaded.at.elapsed() >= READ_EVERY) {
            *loaded = None;
        }
    }
}

fn load(
    verify: bool,
    ca_file: Option<&Path>,
    identity: Option<(PathBuf, PathBuf)>,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?;
    let builder = if verify {
        let mut roots = RootCertStore::empty();
        match ca_file {
            Some(path) => {
                for certificate in read_ca_file(path)? {
                    let form = |e: rustls::Error| TlsError::CaForm { path: path.into(), why: e.to_string() };
                    roots.add(certificate).map_err(form)?;
                }
            }
            // One that is broken, of so many, is none of ours to mend.
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err(TlsError::NoRoots);
        }
        builder.with_root_certificates(roots)
    } else {
        let any = Arc::new(AnyCertificate(Arc::clone(builder.crypto_provider())));
        builder.dangerous().with_custom_certificate_verifier(any)
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let unusable = |path: &Path, why: &dyn std::fmt::Display| TlsError::Identity {
                path: path.into(),
                why: why.to_string(),
            };
            let chain = CertificateDer::pem_file_iter(&cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let chain = chain.map_err(|e| unusable(&cert, &e))?;
            let private = PrivateKeyDer::from_pem_file(&key).map_err(|e| unusable(&key, &e))?;
            builder.with_client_auth_cert(chain, private).map_err(|e| unusable(&cert, &e))?
        }
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn read_ca_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error| {
        if let pem::Error::Io(source) = error {
            return TlsError::CaFile { path: path.into(), source };
        }
        TlsError::CaForm { path: path.into(), why: error.to_string() }
    };
    let read = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let certificates = read.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if certificates.is_empty() {
        return Err(failed(pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

/// `tls-verify = false`: takes what is shown. The connection is encrypted,
/// against those who listen, not against those who answer in the server's place.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // The signatures are not looked at either: that needs a certificate which
    // can be read, and the ones that MySQL makes for itself are X.509 v1.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What is wrong with a server's certificate, if that is what failed.
fn refused_by_us(error: &io::Error) -> Option<&CertificateError> {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(why)) => Some(why),
        Some(_) | None => None,
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What failed, and what to do about it, for people.
fn explain(error: &io::Error, name: &str, ca_file: Option<&Path>) -> String {
    use rustls::Error as E;
    match tls_error(error) {
        Some(E::InvalidCertificate(why)) => certificate(why, name, ca_file),
        Some(E::InvalidMessage(_)) => {
            "the answer is not TLS; this port may speak in the clear: switch tls off, or name another port"
                .into()
        }
        Some(E::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion))
        | Some(E::PeerIncompatible(_)) => {
            "no version or cipher in common: the server must offer TLS 1.2 or 1.3".into()
        }
        Some(E::AlertReceived(AlertDescription::UnrecognisedName)) => {
            format!("the server has no certificate for '{name}': set tls-name")
        }
        Some(E::AlertReceived(AlertDescription::CertificateRequired)) => {
            "the server wants a certificate of its client, and is shown none".into()
        }
        Some(E::AlertReceived(alert)) => format!("the server broke it off: {alert:?}"),
        Some(other) => other.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection; it may not speak TLS on this port".into()
        }
        None => crate::words(error),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls has a text for each, and adds more")]
fn certificate(why: &CertificateError, name: &str, ca_file: Option<&Path>) -> String {
    use CertificateError as E;
    let date = |time: &UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("@{seconds}"), |t| t.to_string())
    };
    match why {
        E::Expired => "the server's certificate has expired: renew it there".into(),
        E::ExpiredContext { not_after, .. } => {
            format!("the server's certificate expired at {}: renew it there", date(not_after))
        }
        E::NotValidYet => "the server's certificate is not valid yet: compare the clocks".into(),
        E::NotValidYetContext { time, not_before } => format!(
            "the server's certificate is valid from {}, and the clock here says {}: compare the clocks",
            date(not_before),
            date(time),
        ),
        E::UnknownIssuer => match ca_file {
            Some(path) => format!(
                "the server's certificate stems from none in {}: add its CA's certificate there",
                path.display(),
            ),
            None => "the server's certificate stems from no CA that this system trusts: \
                     set tls-ca-file to its CA's certificate"
                .into(),
        },
        E::NotValidForName => {
            format!("the server's certificate is not for '{name}': set tls-name to a name that it has")
        }
        E::NotValidForNameContext { presented, .. } if presented.is_empty() => format!(
            "the server's certificate has no subject alternative name, so it is not for '{name}': \
             issue one that has (a common name does not count)",
        ),
        E::NotValidForNameContext { presented, .. } => {
            // As rustls has them: DnsName("db1.internal").
            let name_of = |name: &String| match name.split_once('(') {
                Some((_, name)) => name.trim_matches(['"', ')']).to_owned(),
                None => name.clone(),
            };
            let names = presented.iter().map(name_of).collect::<Vec<_>>().join(", ");
            format!(
                "the server's certificate is for {names}, not for '{name}': set tls-name to a name it has"
            )
        }
        E::BadSignature => "the signature on the server's certificate is false; an old CA of the same name \
                            may stand in tls-ca-file: put the present one there"
            .into(),
        E::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "the server shows a CA's certificate as its own: issue one with CA:FALSE".into()
        }
        E::Other(other) if other.to_string().contains("UnsupportedCertVersion") => {
            "the server's certificate is X.509 v1: issue one of version 3, with a subject alternative name"
                .into()
        }
        other => other.to_string(),
    }
}
