//! `kind = "http"`: a request over HTTP/1.1 has a good answer.
//!
//! Each probe makes a connection of its own, since that is what clients do: a
//! server that has stopped to accept may serve a kept connection for long.
//! Redirects are answers like others; nothing is asked elsewhere.

use super::dial::{DialError, Way, dial};
use super::text::{Sample, contains};
use super::tls::{self, TlsError};
use super::{Endpoint, Progress};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::error::Error as _;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use vipd_core::probe::Observation;
use vipd_core::settings::HttpCheck;

/// Of a body no more is read: what is expected comes early, or not at all.
const MAX_BODY: usize = 64 << 10;
/// Of a body that is only to be shown no more is read.
const SHOWN_BODY: usize = 512;
/// Room for the status line and the headers of an answer.
const MAX_HEAD: usize = 16 << 10;

/// Why a probe failed.
#[derive(Debug, Error)]
pub(crate) enum HttpError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{request} cannot be put into HTTP: {source}")]
    Request { request: String, source: hyper::http::Error },
    #[error("{request} at {peer}: {}", explain(.source))]
    Exchange { request: String, peer: SocketAddr, source: hyper::Error },
    #[error("{request} at {peer}: status {status}, wanted {wanted}{}", said(.body))]
    Status { request: String, peer: SocketAddr, status: StatusCode, wanted: String, body: Sample },
    #[error("{request} at {peer}: status {status}, but '{wanted}' is not in its body{}", said(.body))]
    Body { request: String, peer: SocketAddr, status: StatusCode, wanted: Sample, body: Sample },
}

fn said(body: &Sample) -> String {
    if body.is_empty() { ", which is empty".to_owned() } else { format!(": {body}") }
}

/// Hyper's errors, in the words of the other checks.
fn explain(error: &hyper::Error) -> String {
    // What came before anything was asked ends the request: that is no reason, but has one.
    if let Some(reason) = error.source().and_then(|source| source.downcast_ref::<hyper::Error>()) {
        return explain(reason);
    }
    if error.is_parse_too_large() {
        return format!("the server sent more than {MAX_HEAD} bytes of headers, or more than 100 of them");
    }
    if error.is_parse() {
        return format!("the answer is not HTTP/1.1 ({error}); does this port want TLS, or something else?");
    }
    if error.is_incomplete_message() {
        return "the server closed the connection in the middle of its answer".to_owned();
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(source) => crate::words(source),
        None => error.to_string(),
    }
}

/// The check of one server.
pub(super) struct Prober {
    check: HttpCheck,
    tls: Option<tls::Client>,
    host: String,
    /// What is asked, for texts.
    request: String,
}

impl Prober {
    pub(super) fn new(check: HttpCheck, tls: Option<tls::Client>, endpoint: &Endpoint) -> Self {
        let host = check.host.clone();
        let host = host.unwrap_or_else(|| format!("{}:{}", endpoint.host, endpoint.port));
        let request = format!("{} {}", check.method, check.path);
        Self { check, tls, host, request }
    }

    /// Asks the server once.
    pub(super) async fn probe(
        &mut self,
        way: Way<'_>,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), HttpError> {
        let request = self.request()?;
        let (stream, peer) = dial(way, progress).await?;
        match &self.tls {
            None => self.exchange(stream, request, peer, progress).await?,
            Some(tls) => {
                let stream = tls.connect(stream, peer, progress).await?;
                self.exchange(stream, request, peer, progress).await?;
            }
        }
        Ok((peer, Observation::default()))
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, HttpError> {
        Request::builder()
            .method(self.check.method.as_str())
            .uri(self.check.path.as_str())
            .header(HOST, &self.host)
            .header(USER_AGENT, concat!("vipd/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Empty::new())
            .map_err(|source| HttpError::Request { request: self.request.clone(), source })
    }

    async fn exchange<S>(
        &self,
        stream: S,
        request: Request<Empty<Bytes>>,
        peer: SocketAddr,
        progress: &Progress,
    ) -> Result<(), HttpError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |source| HttpError::Exchange { request: self.request.clone(), peer, source };
        progress.set(format!("waiting for the answer of {peer} to {}", self.request));
        let mut builder = http1::Builder::new();
        let handshake = builder.max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(failed)?;
        let judged = async {
            let response = sender.send_request(request).await.map_err(failed)?;
            let (head, body) = response.into_parts();
            let status = head.status;
            progress.set(format!("reading the answer {status} of {peer} to {}", self.request));
            self.judge(status, body, peer).await
        };
        tokio::select! {
            biased;
            result = judged => result,
            // It is this that reads and writes; how it ends is heard above.
            never = async { let _ = connection.await; pending::<Infallible>().await } => match never {},
        }
    }

    async fn judge<B>(&self, status: StatusCode, body: B, peer: SocketAddr) -> Result<(), HttpError>
    where
        B: Body<Data = Bytes, Error = hyper::Error> + Unpin,
    {
        let request = || self.request.clone();
        let failed = |source| HttpError::Exchange { request: request(), peer, source };
        if !self.check.status.iter().any(|range| range.contains(&status.as_u16())) {
            // The status says enough, if the body does not come whole.
            let (body, _) = read(body, SHOWN_BODY, None).await;
            let (wanted, body) = (ranges(&self.check.status), Sample::new(&body));
            return Err(HttpError::Status { request: request(), peer, status, wanted, body });
        }
        let Some(wanted) = &self.check.expect else { return Ok(()) };
        let (body, end) = read(body, MAX_BODY, Some(wanted.as_bytes())).await;
        if contains(&body, wanted.as_bytes()) {
            return Ok(());
        }
        end.map_err(failed)?;
        let (wanted, body) = (Sample::new(wanted.as_bytes()), Sample::new(&body));
        Err(HttpError::Body { request: request(), peer, status, wanted, body })
    }
}

/// The start of a body, up to `most` bytes and to what is looked for, and
/// whether that is all there was to read.
async fn read<B>(mut body: B, most: usize, wanted: Option<&[u8]>) -> (Vec<u8>, Result<(), hyper::Error>)
where
    B: Body<Data = Bytes, Error = hyper::Error> + Unpin,
{
    let mut bytes = Vec::new();
    while bytes.len() < most {
        let data = match body.frame().await {
            None => break,
            Some(Err(error)) => return (bytes, Err(error)),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        let room = most - bytes.len();
        bytes.extend_from_slice(data.get(..room).unwrap_or(&data));
        if wanted.is_some_and(|wanted| contains(&bytes, wanted)) {
            break;
        }
    }
    (bytes, Ok(()))
}

fn ranges(ranges: &[RangeInclusive<u16>]) -> String {
    let text = |range: &RangeInclusive<u16>| match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{}-{}", range.start(), range.end()),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}
