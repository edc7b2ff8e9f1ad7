//! The client's end of the control socket.

use crate::control::api::{Request, Response, SOCKET};
use crate::control::call::{ANSWER_TIMEOUT, ORDER_TIMEOUT};
use socket2::{Domain, SockAddr, Socket, Type};
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The daemon speaks of its own time-outs before the client gives up.
const MARGIN: Duration = Duration::from_secs(2);

/// Bytes of a response's line: a status of thousands of servers has room.
const MAX_RESPONSE: u64 = 64 << 20;

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error("no vipd is running on this host, or it is a witness: there is no {}", .0.display())]
    Absent(PathBuf),
    /// There is a socket that nobody serves.
    #[error(
        "no vipd is running on this host: nobody answers at {}, it ended without cleaning up",
        .0.display()
    )]
    Dead(PathBuf),
    /// The socket is for others.
    #[error(
        "you may not talk to vipd: {} is for root and its own group, so use sudo or join that group",
        .0.display()
    )]
    Forbidden(PathBuf),
    /// It accepts connections, but does not speak.
    #[error("vipd does not answer: it may be stopped (SIGSTOP) or stuck, see its process and its log")]
    Silent,
    /// It closed the connection.
    #[error("vipd ended the connection without an answer: it may just have stopped, see its log")]
    Closed,
    /// It speaks otherwise.
    #[error("vipd's answer is not understood: use the vipctl that came with it")]
    Strange(#[source] serde_json::Error),
    /// Anything else.
    #[error("cannot talk to vipd at {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// Where the daemon is.
#[derive(Debug)]
pub(super) struct Client {
    path: PathBuf,
}

/// What came from the daemon.
pub(super) enum Next {
    /// A response.
    Response(Box<Response>),
    /// Nothing in the given time.
    Quiet,
    /// Its end of the connection is closed.
    End,
}

impl Client {
    pub(super) fn new(runtime_dir: &Path) -> Self {
        Self { path: runtime_dir.join(SOCKET) }
    }

    /// Puts a request.
    pub(super) fn open(&self, request: &Request) -> Result<Conversation, ClientError> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "only these have a sentence of their own")]
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => ClientError::Absent(self.path.clone()),
            io::ErrorKind::ConnectionRefused => ClientError::Dead(self.path.clone()),
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(self.path.clone()),
            // A full queue: connections are not taken any more.
            io::ErrorKind::WouldBlock => ClientError::Silent,
            _ => ClientError::Io(self.path.clone(), error),
        };
        let line = request.to_line().map_err(ClientError::Strange)?;
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            socket.connect(&SockAddr::unix(&self.path)?)?;
            Ok(UnixStream::from(OwnedFd::from(socket)))
        };
        let mut stream = connect().map_err(failed)?;
        match stream.write_all(&line) {
            // A daemon that answers before it has read all is still heard.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let patience = if request.is_order() { ORDER_TIMEOUT } else { ANSWER_TIMEOUT };
        Ok(Conversation {
            path: self.path.clone(),
            stream: BufReader::new(stream),
            line: Vec::new(),
            patience: patience.saturating_add(MARGIN),
        })
    }

    /// The daemon's process, if it runs.
    pub(super) fn pid(&self) -> Option<i32> {
        let stream = UnixStream::connect(&self.path).ok()?;
        let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
        Some(peer.pid())
    }

    /// What an option of the daemon's command line says, if the daemon runs.
    pub(super) fn option(&self, name: &str) -> Option<OsString> {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid()?)).ok()?;
        let words = line.split(|byte| *byte == 0).map(OsStr::from_bytes);
        named(words, name).map(OsStr::to_owned)
    }

    /// Where the daemon that runs was started: paths of its command line may begin there.
    pub(super) fn cwd(&self) -> PathBuf {
        let process = self.pid().map(|pid| format!("/proc/{pid}/cwd"));
        process.and_then(|link| std::fs::read_link(link).ok()).unwrap_or_default()
    }

    /// Puts a request that has one response.
    pub(super) fn ask(&self, request: &Request) -> Result<Response, ClientError> {
        let mut conversation = self.open(request)?;
        let patience = conversation.patience();
        match conversation.next(Some(patience))? {
            Next::Response(response) => Ok(*response),
            Next::Quiet => Err(ClientError::Silent),
            Next::End => Err(ClientError::Closed),
        }
    }
}

/// What an option says among these words.
fn named<'w>(mut words: impl Iterator<Item = &'w OsStr>, name: &str) -> Option<&'w OsStr> {
    loop {
        let word = words.next()?.as_bytes();
        if word == name.as_bytes() {
            return words.next();
        }
        if let Some(value) = word.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")) {
            return Some(OsStr::from_bytes(value));
        }
    }
}

/// A request that was put, and its responses.
pub(super) struct Conversation {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    /// The part of a line that has come.
    line: Vec<u8>,
    patience: Duration,
}

impl Conversation {
    /// A daemon that says nothing for this long will not say anything.
    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }

    /// The next response, or none within `limit`; without a limit it waits for ever.
    pub(super) fn next(&mut self, limit: Option<Duration>) -> Result<Next, ClientError> {
        let io = |error| ClientError::Io(self.path.clone(), error);
        // Zero would mean for ever.
        let limit = limit.map(|l| l.max(Duration::from_millis(1)));
        self.stream.get_ref().set_read_timeout(limit).map_err(io)?;
        match (&mut self.stream).take(MAX_RESPONSE).read_until(b'\n', &mut self.line) {
            Ok(0) => Ok(Next::End),
            Ok(_) if self.line.last() == Some(&b'\n') => {
                let response = Response::from_line(&self.line).map_err(ClientError::Strange);
                self.line.clear();
                Ok(Next::Response(Box::new(response?)))
            }
            // The daemon ended in the middle of a line.
            Ok(_) => Ok(Next::End),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Next::Quiet),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Next::End),
            Err(error) => Err(io(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_file_stands_in_the_command_line() {
        let named = |line: &str| named(line.split(' ').map(OsStr::new), "--config").map(OsStr::to_owned);
        assert_eq!(named("vipd run --config a.toml --node px1"), Some("a.toml".into()));
        assert_eq!(named("vipd run --node px1 --config=/b/a.toml"), Some("/b/a.toml".into()));
        assert_eq!(named("vipd run --node px1"), None);
        assert_eq!(named("vipd run --config"), None);
    }
}
