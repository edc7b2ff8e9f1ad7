//! MySQL's client/server protocol, as far as a check needs it: packets, and
//! questions with rows for an answer.
//!
//! A server's bytes are taken apart with bounds checked and sizes limited:
//! whatever answers at a server's port, the daemon neither panics nor grows.
//! Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>.

use std::io;
use std::sync::Arc;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// The longest packet taken: a replica's GTID sets fit many times over.
const MAX_PACKET: usize = 1 << 20;
/// The most columns taken: `SHOW ALL SLAVES STATUS` has about 60.
const MAX_COLUMNS: u64 = 512;
/// The most rows taken: MySQL allows 256 replication channels.
const MAX_ROWS: usize = 1024;
/// The most bytes of all rows of an answer together.
const MAX_ANSWER: usize = 4 << 20;
/// The most answers taken to one text: no text of ours has more statements.
const MAX_ANSWERS: usize = 8;
/// The most characters of a server's message that are shown.
const MAX_MESSAGE: usize = 300;

const COM_QUIT: u8 = 0x01;
const COM_QUERY: u8 = 0x03;
/// First bytes of an answer.
pub(super) const OK: u8 = 0x00;
const LOCAL_INFILE: u8 = 0xfb;
pub(super) const EOF: u8 = 0xfe;
pub(super) const ERR: u8 = 0xff;

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
    #[error("the answer is not MySQL's protocol ({0})")]
    Malformed(&'static str),
    /// The server answered with an error.
    #[error("ERROR {}: {}", .0.code, .0.message)]
    Server(ServerError),
}

/// An error packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ServerError {
    /// The number, as in MySQL's error reference.
    pub(crate) code: u16,
    /// The text, safe to print.
    pub(crate) message: String,
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) {
            return Self::Closed;
        }
        Self::Io(error)
    }
}

/// A row of an answer; its columns are asked for by name.
#[derive(Clone, Debug)]
pub(super) struct Row {
    columns: Arc<[String]>,
    values: Vec<Option<String>>,
}

impl Row {
    /// A row made by hand, as tests need it.
    #[cfg(test)]
    pub(super) fn new(cells: &[(&str, Option<&str>)]) -> Self {
        Self {
            columns: cells.iter().map(|(name, _)| (*name).to_owned()).collect(),
            values: cells.iter().map(|(_, value)| value.map(str::to_owned)).collect(),
        }
    }

    /// The value of the first of `names` that is a column: `None` without
    /// such a column, `Some(None)` for NULL.
    pub(super) fn get(&self, names: &[&str]) -> Option<Option<&str>> {
        let at = names.iter().find_map(|n| self.columns.iter().position(|c| c.eq_ignore_ascii_case(n)))?;
        Some(self.values.get(at)?.as_deref())
    }

    /// The columns that are not NULL, with their values.
    pub(super) fn cells(&self) -> impl Iterator<Item = (&str, &str)> {
        let cells = self.columns.iter().zip(&self.values);
        cells.filter_map(|(column, value)| Some((column.as_str(), value.as_deref()?)))
    }

    /// All values, in order.
    pub(super) fn values(&self) -> impl Iterator<Item = Option<&str>> {
        self.values.iter().map(Option::as_deref)
    }
}

/// What a conversation runs over: TCP, or TLS on it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection, with the number the next packet must have.
pub(super) struct Wire {
    io: BufReader<Box<dyn Stream>>,
    sequence: u8,
}

impl Wire {
    pub(super) fn new(stream: impl Stream + 'static) -> Self {
        Self::resume(stream, 0)
    }

    /// Goes on with a conversation over another stream.
    pub(super) fn resume(stream: impl Stream + 'static, sequence: u8) -> Self {
        Self { io: BufReader::new(Box::new(stream)), sequence }
    }

    /// The stream, to put TLS on top of it, and the number of the next packet.
    ///
    /// What came in the clear and was not read is an error: it would be taken
    /// for something that came through TLS.
    pub(super) fn into_stream(self) -> Result<(Box<dyn Stream>, u8), WireError> {
        match self.io.buffer() {
            [] => Ok((self.io.into_inner(), self.sequence)),
            _ => Err(WireError::Malformed("the server speaks out of turn before TLS")),
        }
    }

    /// The next packet; an error packet is an error.
    ///
    /// `capable`: whether our capabilities are known to the server, since an
    /// error packet has an SQL state only then.
    pub(super) async fn read(&mut self, capable: bool) -> Result<Vec<u8>, WireError> {
        let mut header = [0; 4];
        self.io.read_exact(&mut header).await?;
        let [a, b, c, sequence] = header;
        let length = u32::from_le_bytes([a, b, c, 0]) as usize;
        if length > MAX_PACKET {
            return Err(WireError::Malformed("a packet is too long"));
        }
        if sequence != self.sequence {
            return Err(WireError::Malformed("packets are out of order"));
        }
        self.sequence = self.sequence.wrapping_add(1);
        let mut payload = Vec::new();
        (&mut self.io).take(length as u64).read_to_end(&mut payload).await?;
        if payload.len() < length {
            return Err(WireError::Closed);
        }
        if payload.first() == Some(&ERR) {
            let error = server_error(payload.get(1..).unwrap_or_default(), capable);
            return Err(error.map_or(WireError::Malformed("an error packet is cut short"), WireError::Server));
        }
        Ok(payload)
    }

    /// Sends a packet.
    pub(super) async fn write(&mut self, payload: &[u8]) -> Result<(), WireError> {
        let length = u32::try_from(payload.len()).ok().filter(|l| *l < 0x00ff_ffff);
        let Some([a, b, c, _]) = length.map(u32::to_le_bytes) else {
            return Err(WireError::Malformed("our packet is too long"));
        };
        let mut packet = vec![a, b, c, self.sequence];
        packet.extend_from_slice(payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.io.write_all(&packet).await?;
        // TLS holds back what is not a whole record.
        self.io.flush().await?;
        Ok(())
    }

    async fn command(&mut self, command: u8, argument: &str) -> Result<(), WireError> {
        self.sequence = 0;
        let mut payload = vec![command];
        payload.extend_from_slice(argument.as_bytes());
        self.write(&payload).await
    }

    /// Says goodbye, so that the server counts no aborted client.
    pub(super) async fn quit(mut self) {
        // The server closes in any case; nothing is left to be done about an error.
        let _: Result<(), WireError> = self.command(COM_QUIT, "").await;
        let _: io::Result<()> = self.io.shutdown().await;
    }

    /// Asks, and reads the whole answer; a statement without rows gives none.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Row>, WireError> {
        Ok(self.queries(sql).await?.into_iter().next().unwrap_or_default())
    }

    /// Asks several questions, parted by semicolons, in one round trip; the
    /// first one that fails is the last one that is answered.
    pub(super) async fn queries(&mut self, sql: &str) -> Result<Vec<Vec<Row>>, WireError> {
        self.command(COM_QUERY, sql).await?;
        let mut answers = Vec::new();
        loop {
            let (rows, more) = self.answer().await?;
            answers.push(rows);
            if !more {
                return Ok(answers);
            }
            if answers.len() == MAX_ANSWERS {
                return Err(WireError::Malformed("the answers have no end"));
            }
        }
    }

    /// One answer, and whether another one follows.
    async fn answer(&mut self) -> Result<(Vec<Row>, bool), WireError> {
        let head = self.read(true).await?;
        let count = match head.first() {
            // Statements of ours that give no rows stand alone.
            Some(&OK) => return Ok((Vec::new(), false)),
            Some(&LOCAL_INFILE) => return Err(WireError::Malformed("the server asks for a file")),
            Some(_) => Reader(&head).length().filter(|n| (1..=MAX_COLUMNS).contains(n)),
            None => None,
        };
        let count = count.ok_or(WireError::Malformed("a number of columns makes no sense"))?;
        let mut columns = Vec::new();
        for _ in 0..count {
            let definition = self.read(true).await?;
            columns.push(column(&definition).ok_or(WireError::Malformed("a column is cut short"))?);
        }
        if !is_eof(&self.read(true).await?) {
            return Err(WireError::Malformed("the columns have no end"));
        }
        self.rows(columns.into()).await
    }

    async fn rows(&mut self, columns: Arc<[String]>) -> Result<(Vec<Row>, bool), WireError> {
        let mut rows = Vec::new();
        let mut size = 0;
        loop {
            let packet = self.read(true).await?;
            if is_eof(&packet) {
                return Ok((rows, announces_more(&packet)));
            }
            size += packet.len();
            if rows.len() == MAX_ROWS || size > MAX_ANSWER {
                return Err(WireError::Malformed("the answer is too long"));
            }
            let mut reader = Reader(&packet);
            let values: Option<Vec<_>> = columns.iter().map(|_| reader.value()).collect();
            let values = values.ok_or(WireError::Malformed("a row is cut short"))?;
            rows.push(Row { columns: Arc::clone(&columns), values });
        }
    }
}

fn is_eof(packet: &[u8]) -> bool {
    packet.first() == Some(&EOF) && packet.len() < 9
}

/// Whether the end of an answer says that another one follows
/// (`SERVER_MORE_RESULTS_EXISTS`).
fn announces_more(eof: &[u8]) -> bool {
    const MORE_RESULTS: u16 = 0x0008;
    let mut reader = Reader(eof);
    let status = reader.bytes(3).and_then(|_| reader.u16());
    status.is_some_and(|status| status & MORE_RESULTS != 0)
}

/// A column's name: the fifth text of its definition.
fn column(definition: &[u8]) -> Option<String> {
    let mut reader = Reader(definition);
    for _ in 0..4 {
        reader.text()?;
    }
    reader.text().map(printable)
}

fn server_error(payload: &[u8], capable: bool) -> Option<ServerError> {
    let mut reader = Reader(payload);
    let code = reader.u16()?;
    let rest = reader.rest();
    // '#' and the five characters of the SQL state.
    let message =
        if capable && rest.first() == Some(&b'#') { rest.get(6..).unwrap_or_default() } else { rest };
    Some(ServerError { code, message: printable(message) })
}

/// A server's text, safe for a log: one line, not too long.
pub(super) fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut out: String = shown.take(MAX_MESSAGE).collect();
    if text.chars().nth(MAX_MESSAGE).is_some() {
        out.push_str("...");
    }
    out
}

/// Takes fields off the front of a packet; `None` where it is too short.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes(2)?.try_into().ok()?))
    }

    /// Bytes up to a zero, which is taken too.
    pub(super) fn until_zero(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|b| *b == 0)?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Some(text)
    }

    /// A length-encoded integer.
    fn length(&mut self) -> Option<u64> {
        let width = match self.u8()? {
            small @ 0..=0xfa => return Some(u64::from(small)),
            0xfc => 2,
            0xfd => 3,
            0xfe => 8,
            LOCAL_INFILE | ERR => return None,
        };
        let bytes = self.bytes(width)?;
        Some(bytes.iter().rev().fold(0, |sum, b| (sum << 8) | u64::from(*b)))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.length()?).ok()?;
        self.bytes(length)
    }

    /// A value of a row; NULL is `Some(None)`.
    fn value(&mut self) -> Option<Option<String>> {
        const NULL: u8 = 0xfb;
        if self.0.first() == Some(&NULL) {
            self.bytes(1)?;
            return Some(None);
        }
        Some(Some(String::from_utf8_lossy(self.text()?).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_never_reads_past_the_end() {
        for bytes in [&[][..], &[0xfc], &[0xfc, 1], &[0xfe, 1, 2, 3], &[0xff], &[0xfb], &[5, 1, 2]] {
            assert_eq!(Reader(bytes).text(), None, "{bytes:?}");
        }
        assert_eq!(Reader(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).text(), None);
        assert_eq!(Reader(b"ab").until_zero(), None);
    }

    #[test]
    fn lengths_have_four_widths() {
        assert_eq!(Reader(&[0xfa]).length(), Some(250));
        assert_eq!(Reader(&[0xfc, 0x34, 0x12]).length(), Some(0x1234));
        assert_eq!(Reader(&[0xfd, 1, 2, 3]).length(), Some(0x03_0201));
        assert_eq!(Reader(&[0xfe, 1, 0, 0, 0, 0, 0, 0, 0]).length(), Some(1));
        assert_eq!(Reader(&[0xfb]).value(), Some(None));
        assert_eq!(Reader(&[2, b'O', b'N']).value(), Some(Some("ON".to_owned())));
    }

    #[test]
    fn a_servers_text_is_one_short_line() {
        assert_eq!(printable(b"a\nb\x1b[31m"), "a b [31m");
        let long = printable(&[b'x'; 5000]);
        assert_eq!(long.len(), MAX_MESSAGE + 3);
    }

    #[test]
    fn an_error_has_a_state_only_after_the_handshake() {
        let after = server_error(b"\x15\x04#28000Access denied", true);
        assert_eq!(after, Some(ServerError { code: 1045, message: "Access denied".to_owned() }));
        let before = server_error(b"\x10\x04Too many connections", false);
        assert_eq!(before, Some(ServerError { code: 1040, message: "Too many connections".to_owned() }));
        assert_eq!(server_error(b"\x10", true), None);
    }
}
