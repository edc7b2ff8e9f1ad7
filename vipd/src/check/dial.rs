//! Connecting to a server that may have several addresses.

use super::Progress;
use crate::words;
use std::io;
use std::net::SocketAddr;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// No address took a connection.
#[derive(Debug, Error)]
#[error("{}", .0.iter().map(|(a, e)| format!("connecting to {a}: {}", words(e))).collect::<Vec<_>>().join("; "))]
pub(crate) struct DialError(Vec<(SocketAddr, io::Error)>);

/// Connects to the first address that takes it, in order. The time left is
/// shared fairly among the addresses left, so that one that does not answer
/// leaves time for the next.
pub(super) async fn dial(
    addresses: &[SocketAddr],
    deadline: Instant,
    progress: &Progress,
) -> Result<(TcpStream, SocketAddr), DialError> {
    let mut failed = DialError(Vec::new());
    for (at, address) in addresses.iter().enumerate() {
        match at {
            0 => progress.set(format!("connecting to {address}")),
            _ => progress.set(format!("connecting to {address} (before that, {failed})")),
        }
        let outcome = match addresses.len() - at {
            // The caller's time limit is the last one's.
            1 => TcpStream::connect(address).await,
            left => {
                let left = u32::try_from(left).unwrap_or(u32::MAX);
                let share = deadline.saturating_duration_since(Instant::now()) / left;
                let connect = tokio::time::timeout(share, TcpStream::connect(address)).await;
                connect.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")))
            }
        };
        match outcome {
            Ok(stream) => return Ok((stream, *address)),
            Err(error) => failed.0.push((*address, error)),
        }
    }
    Err(failed)
}
