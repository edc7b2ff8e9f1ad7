//! An instance's metadata service, version 2.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use tokio::net::TcpListener;

/// The session token of the role's credentials.
pub(crate) const SESSION_TOKEN: &str = "role-session-token";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Instance {
    /// It has a role.
    WithRole,
    /// It has none.
    WithoutRole,
    /// The role cannot be assumed.
    BrokenRole,
    /// Its token does not come: the hop limit is too low for a container.
    TooFar,
}

/// Starts one in this runtime, and returns its URL.
pub(crate) async fn start(instance: Instance) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request| respond(request, instance));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    url
}

async fn respond(
    request: Request<Incoming>,
    instance: Instance,
) -> Result<Response<Full<Bytes>>, Infallible> {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let is_session = request.headers().get("x-aws-ec2-metadata-token").is_some_and(|t| t == "imds-token");
    let expiration = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(6);
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::PUT, "/latest/api/token") => {
            if instance == Instance::TooFar {
                std::future::pending::<()>().await;
            }
            (200, "imds-token".to_owned())
        }
        (_, _) if !is_session => (401, String::new()),
        (&Method::GET, ROLES) if instance != Instance::WithoutRole => (200, "vipd".to_owned()),
        (&Method::GET, path) if path == format!("{ROLES}vipd") => match instance {
            Instance::WithRole => (
                200,
                format!(
                    "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"ASIAROLE\",\"SecretAccessKey\":\"secret\",\
                     \"Token\":\"{SESSION_TOKEN}\",\"Expiration\":\"{expiration:.0}\"}}"
                ),
            ),
            Instance::BrokenRole | Instance::WithoutRole | Instance::TooFar => (
                200,
                "{\"Code\":\"AssumeRoleUnauthorizedAccess\",\"Message\":\"EC2 cannot assume the role vipd.\"}".to_owned(),
            ),
        },
        (_, _) => (404, String::new()),
    };
    let builder = Response::builder().status(status).header("x-aws-ec2-metadata-token-ttl-seconds", "21600");
    Ok(builder.body(Full::from(body)).unwrap())
}
