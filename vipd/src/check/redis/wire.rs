//! Redis' protocol, version 2: commands and replies of limited size.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use crate::check::stream::Stream;
use crate::check::text::Sample;
use std::io;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// The longest line taken.
const MAX_LINE: u64 = 4 << 10;
/// The longest text taken: `INFO replication` has a line for each replica.
const MAX_TEXT: u64 = 256 << 10;

/// Why a conversation failed.
#[derive(Debug, Error)]
pub(crate) enum WireError {
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The connection broke.
    #[error("{}", crate::words(.0))]
    Io(#[source] io::Error),
    /// The bytes make no sense.
    #[error("the answer is not Redis' protocol ('{0}'); is this its port?")]
    Malformed(Sample),
    /// The server answered with an error.
    #[error("{0}")]
    Server(Sample),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) {
            return Self::Closed;
        }
        Self::Io(error)
    }
}

/// A connection.
pub(super) struct Wire {
    io: BufReader<Box<dyn Stream>>,
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { io: BufReader::with_capacity(1 << 10, stream) }
    }

    /// Sends commands, all at once.
    pub(super) async fn send(&mut self, commands: &[&[&[u8]]]) -> Result<(), WireError> {
        let mut out = Vec::new();
        for command in commands {
            out.extend(format!("*{}\r\n", command.len()).into_bytes());
            for argument in *command {
                out.extend(format!("${}\r\n", argument.len()).into_bytes());
                out.extend_from_slice(argument);
                out.extend(b"\r\n");
            }
        }
        let sent = async {
            self.io.write_all(&out).await?;
            self.io.flush().await
        };
        let Err(error) = sent.await else { return Ok(()) };
        // Who takes no connection says why, unasked, and hangs up.
        match self.reply().await {
            Err(refusal @ WireError::Server(_)) => Err(refusal),
            Ok(_) | Err(WireError::Closed | WireError::Io(_) | WireError::Malformed(_)) => Err(error.into()),
        }
    }

    /// The next reply, a text; an error is an error.
    pub(super) async fn reply(&mut self) -> Result<String, WireError> {
        let mut line = Vec::new();
        (&mut self.io).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(WireError::Closed);
        }
        let malformed = || WireError::Malformed(Sample::new(&line));
        let (kind, rest) = line.split_first().ok_or_else(malformed)?;
        let rest = rest.strip_suffix(b"\r\n").ok_or_else(malformed)?;
        match kind {
            b'+' => Ok(String::from_utf8_lossy(rest).into_owned()),
            b'-' => Err(WireError::Server(Sample::new(rest))),
            b'$' => {
                let length = std::str::from_utf8(rest).ok().and_then(|text| text.parse::<u64>().ok());
                let length = length.filter(|length| *length <= MAX_TEXT).ok_or_else(malformed)?;
                let mut text = Vec::new();
                (&mut self.io).take(length + 2).read_to_end(&mut text).await?;
                match text.strip_suffix(b"\r\n") {
                    Some(text) if text.len() as u64 == length => {
                        Ok(String::from_utf8_lossy(text).into_owned())
                    }
                    Some(_) | None if (text.len() as u64) < length + 2 => Err(WireError::Closed),
                    Some(_) | None => Err(malformed()),
                }
            }
            _ => Err(malformed()),
        }
    }

    /// Says goodbye, without waiting for the answer.
    pub(super) async fn quit(mut self) {
        // The server closes in any case; nothing is left to be done about an error.
        let _: io::Result<()> = self.io.shutdown().await;
    }
}
