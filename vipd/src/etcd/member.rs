//! One member of the etcd cluster: HTTP/1.1 connections to its JSON gateway.

use super::Failure;
use crate::check::tls;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::net::TcpStream;
use vipd_config::{Etcd, EtcdEndpoint};
use vipd_core::settings::{Host, Tls};

/// An answer about one key, or all of a cluster's, is far below this.
const MAX_ANSWER: usize = 1 << 20;
/// Connections that are kept; more were only needed for a moment.
const KEPT: usize = 8;

type Sender = SendRequest<Full<Bytes>>;

/// A member, and the connections to it that wait for their next request.
#[derive(Debug)]
pub(super) struct Member {
    endpoint: EtcdEndpoint,
    tls: Option<tls::Client>,
    idle: Mutex<Vec<Sender>>,
}

/// An answer that goes on: it ends with the connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) body: Incoming,
    _connection: Sender,
}

impl Member {
    pub(super) fn new(endpoint: EtcdEndpoint, etcd: &Etcd) -> Self {
        let host = match &endpoint.host {
            Host::Address(address) => address.to_string(),
            Host::Name(name) => name.clone(),
        };
        let settings =
            Tls { verify: true, ca_file: etcd.ca_file.clone(), server_name: etcd.tls_name.clone() };
        let tls =
            endpoint.tls.then(|| tls::Client::new(&settings, host).with_identity(etcd.identity.clone()));
        Self { endpoint, tls, idle: Mutex::new(Vec::new()) }
    }

    /// As the settings write it.
    pub(super) fn name(&self) -> String {
        self.endpoint.to_string()
    }

    /// Asks once, and reads the whole answer, if it is one.
    pub(super) async fn ask(&self, path: &str, token: Option<&str>, body: &str) -> Result<Bytes, Failure> {
        let (mut response, sender) = self.send(path, token, body).await?;
        let status = response.status();
        let whole = Limited::new(response.body_mut(), MAX_ANSWER).collect().await;
        let bytes = whole.map_err(|e| Failure::Answer(e.to_string()))?.to_bytes();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT && !sender.is_closed() {
            idle.push(sender);
        }
        if status.is_success() { Ok(bytes) } else { Err(Failure::refused(status, &bytes)) }
    }

    /// Asks for an answer that goes on.
    pub(super) async fn stream(
        &self,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> Result<Stream, Failure> {
        let (response, sender) = self.send(path, token, body).await?;
        let status = response.status();
        let body = response.into_body();
        if !status.is_success() {
            let whole = Limited::new(body, MAX_ANSWER).collect().await;
            let bytes = whole.map_err(|e| Failure::Answer(e.to_string()))?.to_bytes();
            return Err(Failure::refused(status, &bytes));
        }
        Ok(Stream { body, _connection: sender })
    }

    async fn send(
        &self,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> Result<(Response<Incoming>, Sender), Failure> {
        // One that was kept may have been closed at the other end: then a new one is tried.
        while let Some(mut sender) = self.kept() {
            if let Ok(response) = sender.send_request(self.request(path, token, body)?).await {
                return Ok((response, sender));
            }
        }
        let mut sender = self.connect().await?;
        match sender.send_request(self.request(path, token, body)?).await {
            Ok(response) => Ok((response, sender)),
            Err(error) => {
                if let Some(tls) = &self.tls {
                    tls.doubt().await;
                }
                Err(Failure::Http(super::words(&error)))
            }
        }
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        idle.pop()
    }

    /// The certificate that it shows on a new connection; none without TLS.
    pub(super) async fn certificate(&self) -> Result<Option<Vec<u8>>, Failure> {
        let Some(tls) = &self.tls else { return Ok(None) };
        let (stream, peer) = self.dial().await?;
        let stream = tls.begin(stream, peer).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        Ok(shown.map(|certificate| certificate.to_vec()))
    }

    async fn dial(&self) -> Result<(TcpStream, SocketAddr), Failure> {
        let stream = match &self.endpoint.host {
            Host::Address(address) => TcpStream::connect((*address, self.endpoint.port)).await,
            Host::Name(name) => TcpStream::connect((name.as_str(), self.endpoint.port)).await,
        };
        let stream = stream.map_err(Failure::Connect)?;
        let peer = stream.peer_addr().map_err(Failure::Connect)?;
        Ok((stream, peer))
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        let (stream, peer) = self.dial().await?;
        // A lease is renewed by small requests, each of which is waited for.
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        match &self.tls {
            None => handshake(TokioIo::new(stream)).await,
            Some(tls) => handshake(TokioIo::new(tls.begin(stream, peer).await?)).await,
        }
    }

    fn request(&self, path: &str, token: Option<&str>, body: &str) -> Result<Request<Full<Bytes>>, Failure> {
        let host = format!("{}:{}", self.endpoint.host, self.endpoint.port);
        let request = Request::post(path).header(HOST, host).header(CONTENT_TYPE, "application/json");
        let request = match token {
            Some(token) => request.header(AUTHORIZATION, token),
            None => request,
        };
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        request.body(body).map_err(|e| Failure::Http(e.to_string()))
    }
}

async fn handshake<S>(stream: TokioIo<S>) -> Result<Sender, Failure>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(stream).await.map_err(|e| Failure::Http(super::words(&e)))?;
    // It reads and writes until the sender is dropped; how it ends is heard there.
    tokio::spawn(connection);
    Ok(sender)
}
