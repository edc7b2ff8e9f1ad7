//! The login: TLS if it is wanted, then who we are, then the proof of it.

use super::wire::{Wire, WireError};
use super::{PostgresError, Progress};
use crate::check::stream;
use crate::check::tls;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use std::io;
use std::net::SocketAddr;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vipd_core::settings::PostgresCheck;

/// Why a login failed.
#[derive(Debug, Error)]
pub(crate) enum LoginError {
    #[error("{}", super::plain(.0))]
    Wire(#[from] WireError),
    #[error("the server wants a password: set password-file")]
    NoPassword,
    #[error(
        "the server wants the password in the clear, and it is only sent over TLS: \
         set tls, or have scram-sha-256 in its pg_hba.conf"
    )]
    Clear,
    #[error("the server wants {0}, which checks cannot do: have scram-sha-256 in its pg_hba.conf")]
    Method(&'static str),
    #[error("SCRAM-SHA-256 failed ({0}): what answers may not be the server that it should be")]
    Scram(io::Error),
}

/// Agrees with the server on TLS, if it is wanted.
pub(super) async fn open(
    mut stream: TcpStream,
    tls: Option<&tls::Client>,
    peer: SocketAddr,
    progress: &Progress,
) -> Result<Wire, PostgresError> {
    let mut begun: &[u8] = &[];
    if tls.is_some() {
        progress.set(format!("asking {peer} for TLS"));
        let failed = |e: io::Error| PostgresError::Question { peer, what: "TLS", source: WireError::from(e) };
        let mut request = bytes::BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request).await.map_err(failed)?;
        // One byte and no more: what follows it in the clear would be taken
        // for what follows under TLS.
        match stream.read_u8().await.map_err(failed)? {
            b'S' => {}
            b'N' => return Err(PostgresError::NoTls { peer }),
            // An error, which comes in the clear: its text is of use, nothing else.
            b'E' => begun = b"E",
            other => {
                let why = format!("{other:#04x} for an answer to a request for TLS");
                return Err(PostgresError::Question { peer, what: "TLS", source: WireError::Malformed(why) });
            }
        }
    }
    let tls = tls.filter(|_| begun.is_empty());
    Ok(Wire::new(stream::open(stream, tls, peer, progress).await?, begun))
}

/// Logs in, until the server waits for questions.
#[expect(clippy::wildcard_enum_match_arm, reason = "the protocol has many messages, and few in their place")]
pub(super) async fn login(wire: &mut Wire, check: &PostgresCheck, password: &[u8]) -> Result<(), LoginError> {
    let parameters = [
        ("user", &*check.user),
        ("database", &*check.database),
        ("application_name", "vipd"),
        ("client_encoding", "UTF8"),
    ];
    wire.send(|out| frontend::startup_message(parameters, out)).await?;
    loop {
        match wire.read().await? {
            Message::AuthenticationOk => break,
            Message::AuthenticationCleartextPassword if check.tls.is_none() => return Err(LoginError::Clear),
            Message::AuthenticationCleartextPassword => {
                let password = needed(password)?;
                wire.send(|out| frontend::password_message(password, out)).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(check.user.as_bytes(), needed(password)?, body.salt());
                wire.send(|out| frontend::password_message(hash.as_bytes(), out)).await?;
            }
            Message::AuthenticationSasl(body) => scram(wire, &body, needed(password)?).await?,
            Message::AuthenticationKerberosV5 => return Err(LoginError::Method("Kerberos")),
            Message::AuthenticationGss => return Err(LoginError::Method("GSSAPI")),
            Message::AuthenticationSspi => return Err(LoginError::Method("SSPI")),
            Message::AuthenticationScmCredential => return Err(LoginError::Method("SCM credentials")),
            _ => return Err(WireError::malformed("a message that has no place in a login").into()),
        }
    }
    loop {
        match wire.read().await? {
            Message::BackendKeyData(_) => {}
            Message::ReadyForQuery(_) => return Ok(()),
            _ => return Err(WireError::malformed("a message that has no place after a login").into()),
        }
    }
}

fn needed(password: &[u8]) -> Result<&[u8], LoginError> {
    if password.is_empty() { Err(LoginError::NoPassword) } else { Ok(password) }
}

/// SCRAM-SHA-256 (RFC 7677): each side proves that it knows the password.
async fn scram(wire: &mut Wire, offered: &AuthenticationSaslBody, password: &[u8]) -> Result<(), LoginError> {
    if !offered.mechanisms().any(|m| Ok(m == SCRAM_SHA_256)).map_err(WireError::malformed)? {
        return Err(LoginError::Method("a SASL mechanism other than SCRAM-SHA-256"));
    }
    let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
    wire.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out)).await?;
    let Message::AuthenticationSaslContinue(challenge) = wire.read().await? else {
        return Err(WireError::malformed("SCRAM without a challenge").into());
    };
    // The server chooses how much there is to compute, up to some 50 ms: the
    // other checks must not wait for that.
    let answered = tokio::task::spawn_blocking(move || scram.update(challenge.data()).map(|()| scram));
    let answered = answered.await.unwrap_or_else(|e| Err(io::Error::other(e)));
    let mut scram = answered.map_err(LoginError::Scram)?;
    wire.send(|out| frontend::sasl_response(scram.message(), out)).await?;
    let Message::AuthenticationSaslFinal(proof) = wire.read().await? else {
        return Err(WireError::malformed("SCRAM without the server's proof").into());
    };
    scram.finish(proof.data()).map_err(LoginError::Scram)
}
