//! A connection whose conversation is the same in the clear and over TLS.

use super::Progress;
use super::tls::{self, TlsError};
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What a conversation needs of its connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection to `peer`, over TLS if there is a client for it.
pub(super) async fn open(
    stream: TcpStream,
    tls: Option<&tls::Client>,
    peer: SocketAddr,
    progress: &Progress,
) -> Result<Box<dyn Stream>, TlsError> {
    // Without it a question may wait for an acknowledgement; the check works all the same.
    let _: std::io::Result<()> = stream.set_nodelay(true);
    Ok(match tls {
        None => Box::new(stream),
        Some(tls) => Box::new(tls.connect(stream, peer, progress).await?),
    })
}
