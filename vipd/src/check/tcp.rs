//! `kind = "tcp"`: the connection is accepted, and says what it should.

use super::Progress;
use super::dial::{DialError, Way, dial};
use super::text::{Sample, contains};
use std::io;
use std::net::SocketAddr;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vipd_core::probe::Observation;
use vipd_core::settings::TcpCheck;

/// Of an answer no more is read: what is expected comes early, or not at all.
const MAX_ANSWER: usize = 16 << 10;

/// Why a probe failed.
#[derive(Debug, Error)]
pub(crate) enum TcpError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("talking to {peer}: {}", crate::words(.source))]
    Io { peer: SocketAddr, source: io::Error },
    #[error("{peer} closed the connection and had not said '{wanted}', {said}")]
    Closed { peer: SocketAddr, wanted: Sample, said: Said },
    #[error("{peer} has not said '{wanted}' in {MAX_ANSWER} bytes, {said}")]
    Unexpected { peer: SocketAddr, wanted: Sample, said: Said },
}

/// What came instead.
#[derive(Debug)]
pub(crate) struct Said(Sample);

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.is_empty() {
            true => f.write_str("but nothing"),
            false => write!(f, "but '{}'", self.0),
        }
    }
}

/// The check of one server.
pub(super) struct Prober {
    check: TcpCheck,
}

impl Prober {
    pub(super) fn new(check: TcpCheck) -> Self {
        Self { check }
    }

    /// Connects, says and hears what the settings ask for, and closes in an
    /// orderly way.
    ///
    /// HAProxy resets instead, to save the state TIME-WAIT. But a reset that
    /// meets the connection in the server's accept queue shows as an error in
    /// the log of many a server, at every check; and the state is cheap here:
    /// it lies on our side, for a minute, one a probe, and ports do not run
    /// short since each server has all of them.
    pub(super) async fn probe(
        &mut self,
        way: Way<'_>,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), TcpError> {
        let (mut stream, peer) = dial(way, progress).await?;
        let failed = |source| TcpError::Io { peer, source };
        if let Some(send) = &self.check.send {
            progress.set(format!("sending to {peer}"));
            stream.write_all(send.as_bytes()).await.map_err(failed)?;
        }
        if let Some(wanted) = &self.check.expect {
            expect(&mut stream, peer, wanted, progress).await?;
        }
        Ok((peer, Observation::default()))
    }
}

async fn expect(
    stream: &mut TcpStream,
    peer: SocketAddr,
    wanted: &str,
    progress: &Progress,
) -> Result<(), TcpError> {
    let text = Sample::new(wanted.as_bytes());
    progress.set(format!("waiting for '{text}' of {peer}, which said nothing"));
    let mut answer = Vec::new();
    while answer.len() < MAX_ANSWER {
        let room = MAX_ANSWER - answer.len();
        let read = stream.take(room as u64).read_buf(&mut answer).await;
        let count = read.map_err(|source| TcpError::Io { peer, source })?;
        if contains(&answer, wanted.as_bytes()) {
            return Ok(());
        }
        let said = Sample::new(&answer);
        if count == 0 {
            return Err(TcpError::Closed { peer, wanted: text, said: Said(said) });
        }
        progress.set(format!("waiting for '{text}' of {peer}, which said '{said}'"));
    }
    Err(TcpError::Unexpected { peer, wanted: text, said: Said(Sample::new(&answer)) })
}
