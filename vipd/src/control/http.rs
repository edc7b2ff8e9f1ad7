//! The status over HTTP: a page at `/` (for people with curl the status
//! table), `/status.json`, `/lag.json`, `/live`, `/metrics` and `/healthz`.
//!
//! It only reads, and a client can cost little: one request a connection,
//! few connections at a time, little room for headers, and no time to waste.
//! `/live` has no end of its own, so it has fewer places, and a longest life.
//! When all places are taken, the oldest connection that has not even asked
//! gives up its own (`guests`): clients that are slow keep nobody out.

mod guests;
mod live;
mod page;
mod token;

pub use token::{Token, TokenError};

use super::api::StatusDoc;
use super::call::{CallError, Calls};
use super::events::Subscriptions;
use super::{metrics, text};
use guests::{Guests, Visit};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use live::Live;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections served at a time; for one more, one of them is closed.
pub const MAX_CONNECTIONS: usize = 32;

/// Watchers among them, so that there is always room for a scrape.
pub const MAX_WATCHERS: usize = 16;

/// Bytes of a request's line and headers.
const MAX_HEAD: usize = 8192;

/// A connection's whole life.
const LIFE: Duration = Duration::from_secs(10);

/// That of a watcher, which comes again by itself.
const WATCHING: Duration = Duration::from_secs(600);

/// When there are no file descriptors left, they will not be back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// What is sent.
type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the pages are made of.
#[derive(Debug)]
pub struct Web {
    calls: Calls,
    live: Live,
    token: Option<Token>,
    watchers: Arc<Semaphore>,
}

impl Web {
    /// Pages of the daemon that answers `calls`; with a token only for those who know it.
    #[must_use]
    pub fn new(calls: Calls, events: Subscriptions, token: Option<Token>) -> Self {
        Self { calls, live: Live::new(events), token, watchers: Arc::new(Semaphore::new(MAX_WATCHERS)) }
    }
}

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, web: Web) {
    let web = Arc::new(web);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    let fresh = Arc::clone(&web);
    connections.spawn(async move { fresh.live.keep_fresh(&fresh.calls).await });
    let mut guests = Guests::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                while connections.try_join_next().is_some() {}
                if room.available_permits() == 0 {
                    guests.close_one();
                }
                // The semaphore is never closed.
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
                let (web, visit) = (Arc::clone(&web), Arc::new(Visit::default()));
                let visited = Arc::clone(&visit);
                let task = connections.spawn(async move {
                    converse(stream, web, &visited).await;
                    drop(permit);
                });
                guests.add(visit, task);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, web: Arc<Web>, visit: &Visit) {
    let service = service_fn(|request| respond(request, &web, visit));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIFE)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let life = async {
        tokio::time::sleep(LIFE).await;
        if visit.watches() {
            tokio::time::sleep(WATCHING).await;
        }
    };
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "an HTTP connection ended early");
            }
        }
        () = life => tracing::debug!("an HTTP connection was long enough"),
    }
}

async fn respond(request: Request<Incoming>, web: &Web, visit: &Visit) -> Result<Response<Body>, Infallible> {
    visit.asks();
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let path = request.uri().path();
    // Whoever only asks whether vipd lives learns nothing else.
    if path != "/healthz" && web.token.as_ref().is_some_and(|t| !t.opens(request.headers())) {
        return Ok(refused());
    }
    let render: fn(&StatusDoc, &Live) -> Response<Body> = match path {
        "/status.json" => |doc, _| json(doc),
        "/metrics" => |doc, _| page(StatusCode::OK, metrics::CONTENT_TYPE, metrics::render(doc)),
        "/healthz" => |_, _| page(StatusCode::OK, TEXT, "ok\n"),
        "/lag.json" => return Ok(json(&web.live.lag())),
        "/live" => return Ok(watch(web, request.method(), visit)),
        "/" if wants_html(&request) => page::render,
        "/" => |doc, _| page(StatusCode::OK, TEXT, text::status(doc, jiff::Timestamp::now(), false)),
        _ => {
            let known = "not here: /, /status.json, /lag.json, /live, /metrics and /healthz are\n";
            return Ok(page(StatusCode::NOT_FOUND, TEXT, known));
        }
    };
    Ok(match web.calls.status().await {
        Ok(doc) => render(&doc, &web.live),
        Err(error @ (CallError::Stopping | CallError::Timeout)) => {
            page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{error}\n"))
        }
    })
}

/// Browsers ask for HTML by name, curl for anything.
fn wants_html(request: &Request<Incoming>) -> bool {
    let accepts = request.headers().get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    accepts.into_iter().any(|v| v.contains("text/html"))
}

fn refused() -> Response<Body> {
    let text = "this page needs the secret in vipd's [status] token-file, as the password of any user\n";
    let mut response = page(StatusCode::UNAUTHORIZED, TEXT, text);
    let how = HeaderValue::from_static("Basic realm=\"vipd\", charset=\"UTF-8\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, how);
    response
}

fn watch(web: &Web, method: &Method, visit: &Visit) -> Response<Body> {
    let Ok(permit) = Arc::clone(&web.watchers).try_acquire_owned() else {
        let text = format!("{MAX_WATCHERS} pages are watching already: close one\n");
        return page(StatusCode::SERVICE_UNAVAILABLE, TEXT, text);
    };
    if method == Method::HEAD {
        return page(StatusCode::OK, EVENTS, "");
    }
    visit.watch(permit);
    let mut response = page(StatusCode::OK, EVENTS, "");
    *response.body_mut() = web.live.stream();
    response
}

fn json(doc: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(doc) {
        Ok(body) => page(StatusCode::OK, JSON, body),
        Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
