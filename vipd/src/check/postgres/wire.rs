//! Messages of PostgreSQL's protocol 3.0, whole and of limited size.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol.html>.

use crate::check::stream::Stream;
use crate::check::text::Sample;
use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::{ErrorResponseBody, Header, Message};
use postgres_protocol::message::frontend;
use std::{fmt, io};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The longest message taken: what a check is told has a few hundred bytes.
const MAX_MESSAGE: usize = 64 << 10;
/// Read at a time.
const CHUNK: usize = 1 << 10;

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
    #[error("the answer is not PostgreSQL's protocol ({0}); is this its port?")]
    Malformed(String),
    /// The server answered with an error.
    #[error(transparent)]
    Server(ServerError),
}

impl WireError {
    pub(super) fn malformed(why: impl fmt::Display) -> Self {
        Self::Malformed(why.to_string())
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) {
            return Self::Closed;
        }
        Self::Io(error)
    }
}

/// An `ErrorResponse`.
#[derive(Clone, Debug, Default, Error, Eq, PartialEq)]
#[error("{message} (SQLSTATE {code})")]
pub(crate) struct ServerError {
    /// The five characters of its SQLSTATE.
    pub(super) code: String,
    /// The text, in the server's language, safe to print.
    pub(super) message: String,
    /// The function in the server's source that raised it: what tells errors
    /// of one code apart in every language.
    pub(super) routine: String,
    /// Whether the session ended with it.
    pub(super) fatal: bool,
}

impl ServerError {
    fn parse(body: &ErrorResponseBody) -> io::Result<Self> {
        let mut error = Self::default();
        let mut fields = body.fields();
        while let Some(field) = fields.next()? {
            let text = Sample::new(field.value_bytes()).to_string();
            match field.type_() {
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'R' => error.routine = text,
                b'V' => error.fatal = matches!(&*text, "FATAL" | "PANIC"),
                _ => {}
            }
        }
        Ok(error)
    }
}

/// A connection.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    input: BytesMut,
    output: BytesMut,
}

impl Wire {
    /// `begun`: what was read of the server's first message already.
    pub(super) fn new(stream: Box<dyn Stream>, begun: &[u8]) -> Self {
        Self { stream, input: BytesMut::from(begun), output: BytesMut::new() }
    }

    /// The next message that is an answer; an error is an error.
    pub(super) async fn read(&mut self) -> Result<Message, WireError> {
        loop {
            let header = Header::parse(&self.input).map_err(WireError::malformed)?;
            // Before anything is set aside for it.
            if header.is_some_and(|h| usize::try_from(h.len()).is_ok_and(|len| len > MAX_MESSAGE)) {
                return Err(WireError::malformed("a message is too long"));
            }
            match Message::parse(&mut self.input).map_err(WireError::malformed)? {
                Some(Message::ErrorResponse(body)) => {
                    let error = ServerError::parse(&body).map_err(WireError::malformed)?;
                    return Err(WireError::Server(error));
                }
                // They may come at any time.
                Some(
                    Message::NoticeResponse(_)
                    | Message::NotificationResponse(_)
                    | Message::ParameterStatus(_),
                ) => continue,
                Some(message) => return Ok(message),
                None => {}
            }
            self.input.reserve(CHUNK);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(WireError::Closed);
            }
        }
    }

    /// Sends what `build` puts together.
    pub(super) async fn send(
        &mut self,
        build: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), WireError> {
        self.output.clear();
        build(&mut self.output).map_err(WireError::malformed)?;
        self.stream.write_all(&self.output).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Asks, and reads the whole answer: the texts of its one row.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the protocol has many messages, and few in their place"
    )]
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Option<String>>, WireError> {
        self.send(|out| frontend::query(sql, out)).await?;
        let mut row = None;
        loop {
            match self.read().await? {
                Message::DataRow(body) if row.is_none() => {
                    let text = |at: std::ops::Range<usize>| {
                        String::from_utf8_lossy(body.buffer().get(at).unwrap_or_default()).into_owned()
                    };
                    let values = body.ranges().map(|at| Ok(at.map(text))).collect::<Vec<_>>();
                    row = Some(values.map_err(WireError::malformed)?);
                }
                Message::RowDescription(_) | Message::CommandComplete(_) => {}
                Message::ReadyForQuery(_) => return row.ok_or(WireError::malformed("no row")),
                _ => return Err(WireError::malformed("a message that is no answer to a question")),
            }
        }
    }

    /// Says goodbye.
    pub(super) async fn quit(mut self) {
        // The server closes in any case; nothing is left to be done about an error.
        let terminate = |out: &mut BytesMut| {
            frontend::terminate(out);
            Ok(())
        };
        let _: Result<(), WireError> = self.send(terminate).await;
        let _: io::Result<()> = self.stream.shutdown().await;
    }
}
