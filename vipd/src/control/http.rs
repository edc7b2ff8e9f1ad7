//! The status over HTTP: `/status.json`, `/metrics`, `/healthz` and, for
//! people with curl, the status table at `/`.
//!
//! It only reads, and a client can cost little: one request a connection,
//! few connections at a time, little room for headers, and no time to waste.

use super::api::StatusDoc;
use super::call::{CallError, Calls};
use super::{metrics, text};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections served at a time; more wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 32;

/// Bytes of a request's line and headers.
const MAX_HEAD: usize = 8192;

/// A connection's whole life.
const LIFE: Duration = Duration::from_secs(10);

/// When there are no file descriptors left, they will not be back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, calls: Calls) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                connections.spawn(async move {
                    converse(stream, calls).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, calls: Calls) {
    let service = service_fn(|request| respond(request, &calls));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIFE)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(LIFE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an HTTP connection ended early"),
        Err(_) => tracing::debug!("an HTTP connection took too long"),
    }
}

async fn respond(request: Request<Incoming>, calls: &Calls) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let render: fn(&StatusDoc) -> Response<Full<Bytes>> = match request.uri().path() {
        "/status.json" => json,
        "/metrics" => |doc| page(StatusCode::OK, metrics::CONTENT_TYPE, metrics::render(doc)),
        "/healthz" => |_| page(StatusCode::OK, TEXT, "ok\n"),
        "/" => |doc| page(StatusCode::OK, TEXT, text::status(doc, jiff::Timestamp::now(), false)),
        _ => {
            let known = "not here: /, /status.json, /metrics and /healthz are\n";
            return Ok(page(StatusCode::NOT_FOUND, TEXT, known));
        }
    };
    Ok(match calls.status().await {
        Ok(doc) => render(&doc),
        Err(error @ (CallError::Stopping | CallError::Timeout)) => {
            page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{error}\n"))
        }
    })
}

fn json(doc: &StatusDoc) -> Response<Full<Bytes>> {
    match serde_json::to_vec(doc) {
        Ok(body) => page(StatusCode::OK, JSON, body),
        Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
