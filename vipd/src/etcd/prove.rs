//! Whether each member of etcd would carry out this node's requests, found out
//! without changing anything; for `vipctl doctor`.

use super::client::Client;
use super::{Failure, Settings};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A member that would.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Proof {
    /// Its version, and what it complains of itself (`alarm:NOSPACE`); absent
    /// where it does not tell everybody.
    pub(crate) state: Option<MemberState>,
    /// How long a compare-and-swap took, for which a majority of the members is needed.
    pub(crate) round_trip: Duration,
    /// Whether it still knows what stood in its keys as many revisions ago as
    /// are too many: nobody compacts it, or too seldom.
    pub(crate) hoards: bool,
    /// When its certificate runs out, in seconds since 1970; none without TLS.
    pub(crate) expires: Option<i64>,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(crate) struct MemberState {
    /// Its version: "3.4.23".
    pub(crate) version: String,
    /// What is wrong with it: alarms, no leader.
    pub(crate) errors: Vec<String>,
}

/// Proves it for each endpoint of the settings, by its name there. It should
/// not keep more than `revisions`.
pub(crate) async fn prove(
    settings: &Settings,
    cluster: &str,
    lease: Duration,
    revisions: u64,
) -> Vec<(String, Result<Proof, Failure>)> {
    // Nobody is told of what comes of it.
    let (news, _) = mpsc::channel(1);
    let client = Client::new(settings, cluster, lease, news);
    let mut told = Vec::new();
    for (member, endpoint) in settings.endpoints.iter().enumerate() {
        told.push((endpoint.to_string(), prove_one(&client, member, revisions).await));
    }
    told
}

pub(super) async fn prove_one(client: &Client, member: usize, revisions: u64) -> Result<Proof, Failure> {
    // The first request makes the connection and logs in; the second is measured.
    client.swap_nothing(member).await?;
    let begun = Instant::now();
    client.swap_nothing(member).await?;
    let round_trip = begun.elapsed();
    let expires = client.certificate(member).await?.and_then(|der| expiry(&der));
    let hoards = client.keeps(member, revisions).await?;
    Ok(Proof { state: client.state(member).await.ok(), round_trip, hoards, expires })
}

/// When the first certificate of a file runs out, in seconds since 1970; none
/// if it cannot be read.
pub(crate) fn expiry_of_file(path: &Path) -> Option<i64> {
    expiry(&CertificateDer::from_pem_file(path).ok()?)
}

fn expiry(der: &[u8]) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_when_it_runs_out() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(["e1".to_owned()]).expect("parameters");
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let certificate = params.self_signed(&key).expect("a certificate");
        assert_eq!(expiry(certificate.der()), Some(1_927_843_200));
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), certificate.pem()).expect("ours");
        assert_eq!(expiry_of_file(file.path()), Some(1_927_843_200));
        assert_eq!(expiry_of_file(Path::new("/nowhere")), None);
    }
}
