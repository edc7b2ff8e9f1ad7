//! `kind = "tcp"`: the connection is accepted.

use super::Progress;
use super::dial::{DialError, dial};
use std::net::SocketAddr;
use tokio::time::Instant;
use vipd_core::probe::Observation;

/// Connects, and closes in an orderly way.
///
/// HAProxy resets instead, to save the state TIME-WAIT. But a reset that meets
/// the connection in the server's accept queue shows as an error in the log of
/// many a server, at every check; and the state is cheap here: it lies on our
/// side, for a minute, one a probe, and ports do not run short since each
/// server has all of them.
pub(super) async fn probe(
    addresses: &[SocketAddr],
    deadline: Instant,
    progress: &Progress,
) -> Result<(SocketAddr, Observation), DialError> {
    let (stream, address) = dial(addresses, deadline, progress).await?;
    drop(stream);
    Ok((address, Observation::default()))
}
