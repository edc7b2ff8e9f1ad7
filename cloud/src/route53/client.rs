//! The SDK's client, and why it has no credentials if it has none.

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::imds::client::Client as Imds;
use aws_config::imds::client::error::ImdsError;
use aws_config::meta::region::RegionProviderChain;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, environment::EnvironmentVariableRegionProvider};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future::ProvideCredentials as ProvideFuture};
use aws_sdk_route53::Client;
use aws_sdk_route53::config::SharedHttpClient;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use std::time::Duration;
use tokio::time::timeout;

/// Where the metadata service is, if the SDK is not told otherwise.
const IMDS_ENDPOINT: &str = "http://169.254.169.254";
const IMDS_ENDPOINT_VARIABLE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
/// It runs on the same machine: what takes longer does not come.
const IMDS_PATIENCE: Duration = Duration::from_secs(1);
/// The chain would ask the metadata service for longer than anybody waits.
const CREDENTIALS_PATIENCE: Duration = Duration::from_secs(3);
/// Route 53 is one service for the whole partition; in China and GovCloud
/// `AWS_REGION` says which.
const DEFAULT_REGION: &str = "us-east-1";

fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

/// A client with the SDK's default credential chain. It tries each request
/// once: the store's breaker decides when to come back.
pub(super) async fn connect(endpoint_url: Option<&str>) -> Client {
    let region =
        || RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new()).or_else(DEFAULT_REGION);
    let config = ProviderConfig::without_region().with_http_client(http_client());
    // STS is asked in it. By itself the chain would look for one at the metadata service.
    let credentials = DefaultCredentialsChain::builder().configure(config).region(region()).build().await;
    let loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client())
        .credentials_provider(Impatient(credentials))
        .retry_config(RetryConfig::disabled())
        .region(region());
    let loader = match endpoint_url {
        Some(url) => loader.endpoint_url(url),
        None => loader,
    };
    Client::new(&loader.load().await)
}

/// The default chain, with an error of credentials when it takes too long.
#[derive(Debug)]
struct Impatient(DefaultCredentialsChain);

impl ProvideCredentials for Impatient {
    fn provide_credentials<'a>(&'a self) -> ProvideFuture<'a>
    where
        Self: 'a,
    {
        ProvideFuture::new(async {
            let asked = timeout(CREDENTIALS_PATIENCE, self.0.provide_credentials()).await;
            asked.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(CREDENTIALS_PATIENCE)))
        })
    }
}

/// Why the last link of the credential chain, the instance's role, gives none.
/// The chain itself forgets it.
pub(super) async fn why_no_credentials(chain: &str) -> String {
    let endpoint = std::env::var(IMDS_ENDPOINT_VARIABLE).unwrap_or_else(|_| IMDS_ENDPOINT.to_owned());
    let config = ProviderConfig::without_region().with_http_client(http_client());
    let imds = Imds::builder()
        .configure(&config)
        .max_attempts(1)
        // Who does not connect is told from who does not answer.
        .connect_timeout(IMDS_PATIENCE / 2)
        .read_timeout(IMDS_PATIENCE * 2)
        .operation_attempt_timeout(IMDS_PATIENCE)
        .operation_timeout(IMDS_PATIENCE * 2)
        .build();
    match imds.get("/latest/meta-data/iam/security-credentials/").await {
        Err(ImdsError::ErrorResponse(answer)) if answer.response().status().as_u16() == 404 => {
            format!("IMDS at {endpoint} answered 404; is an instance profile attached? ({chain})")
        }
        Err(ImdsError::ErrorResponse(answer)) => {
            format!("IMDS at {endpoint} answered {} ({chain})", answer.response().status())
        }
        Err(ImdsError::FailedToLoadToken(e)) if e.is_dispatch_failure() => format!(
            "IMDS at {endpoint} cannot be reached: this is no EC2 instance, or its metadata service is off; \
             elsewhere set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile ({chain})"
        ),
        Err(ImdsError::FailedToLoadToken(_) | ImdsError::IoError(_)) => format!(
            "IMDS at {endpoint} gave no IMDSv2 token within {} s: inside a container the instance's hop limit must be 2 \
             (aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2) ({chain})",
            IMDS_PATIENCE.as_secs()
        ),
        Err(e) => format!("IMDS at {endpoint}: {e} ({chain})"),
        Ok(role) => format!(
            "IMDS at {endpoint} names the role {}, but its credentials do not load: does the role still exist, \
             and may EC2 assume it? ({chain})",
            role.as_ref().trim()
        ),
    }
}
