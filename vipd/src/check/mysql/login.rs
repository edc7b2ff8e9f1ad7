//! The beginning of a conversation: the server's greeting, and a login that
//! is always completed, since servers count logins that are not and then
//! block the host.
//!
//! A password never crosses the network in the clear: it is hashed with the
//! server's challenge, or (the first login of an account with
//! `caching_sha2_password`) sent inside TLS, or without TLS encrypted under
//! the server's public key.

use super::scramble;
use super::wire::{EOF, OK, Reader, ServerError, Wire, WireError, printable};
use thiserror::Error;

const PROTOCOL_VERSION: u8 = 10;
/// `CLIENT_LONG_PASSWORD`, `CLIENT_TRANSACTIONS`, and `CLIENT_MULTI_STATEMENTS`
/// with `CLIENT_MULTI_RESULTS`: several questions in one round trip.
const WANTED: u32 = 0x0000_0001 | 0x0000_2000 | 0x0001_0000 | 0x0002_0000;
/// `CLIENT_SSL`.
const TLS: u32 = 0x0000_0800;
/// `CLIENT_PROTOCOL_41`, `CLIENT_SECURE_CONNECTION` (20-byte challenges) and
/// `CLIENT_PLUGIN_AUTH`: every server since MySQL 5.5.7 and MariaDB 5.5.
const NEEDED: u32 = 0x0000_0200 | 0x0000_8000 | 0x0008_0000;
/// `utf8_general_ci`, which every server knows.
const COLLATION: u8 = 33;
/// The bytes of a challenge without the zero that may follow.
const CHALLENGE: usize = 20;
/// Packets in a login: more are no login but a server gone astray.
const MAX_PACKETS: usize = 8;

const MORE_DATA: u8 = 0x01;
const FAST_AUTH_OK: u8 = 0x03;
const FULL_AUTH: u8 = 0x04;
const WANT_PUBLIC_KEY: u8 = 0x02;

const NATIVE: &[u8] = b"mysql_native_password";
const CACHING_SHA2: &[u8] = b"caching_sha2_password";

/// Why a login failed.
#[derive(Debug, Error)]
pub(crate) enum LoginError {
    /// The conversation failed, or the server said no.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The server wants a way to log in that is not spoken here.
    #[error(
        "the account uses the authentication plugin '{0}', which this check does not speak; \
             give it mysql_native_password or caching_sha2_password"
    )]
    Plugin(String),
    /// The server's public key is of no use.
    #[error("the server's RSA public key for caching_sha2_password cannot be used")]
    PublicKey,
}

/// What a server says of itself at first.
pub(super) struct Greeting {
    /// Its version, as it writes it.
    pub(super) version: String,
    plugin: Vec<u8>,
    challenge: Vec<u8>,
    /// Whether it can do TLS.
    pub(super) tls: bool,
}

/// Reads the greeting; an error packet in its place is an error (too many
/// connections, host blocked).
pub(super) async fn greeting(wire: &mut Wire) -> Result<Greeting, WireError> {
    let packet = wire.read(false).await.map_err(|error| match error {
        // SSH or HTTP at this port make a packet of megabytes, or of number 47.
        WireError::Malformed(_) => WireError::Malformed("no greeting of MySQL or MariaDB"),
        error @ (WireError::Closed | WireError::Io(_) | WireError::Server(_)) => error,
    })?;
    parse_greeting(&packet).ok_or(WireError::Malformed("no greeting of MySQL or MariaDB"))
}

fn parse_greeting(packet: &[u8]) -> Option<Greeting> {
    const CHARSET_AND_STATUS: usize = 3;
    const RESERVED: usize = 10;
    let mut reader = Reader(packet);
    if reader.u8()? != PROTOCOL_VERSION {
        return None;
    }
    let version = printable(reader.until_zero()?);
    reader.bytes(4)?; // the connection's number
    let mut challenge = reader.bytes(8)?.to_vec();
    reader.bytes(1)?;
    let low = u32::from(reader.u16()?);
    reader.bytes(CHARSET_AND_STATUS)?;
    let high = u32::from(reader.u16()?);
    reader.bytes(1 + RESERVED)?;
    let capabilities = low | high << 16;
    if capabilities & NEEDED != NEEDED {
        return None;
    }
    challenge.extend_from_slice(reader.bytes(CHALLENGE - challenge.len())?);
    reader.until_zero()?;
    // Some old servers forget the zero after the plugin's name.
    let plugin = reader.rest();
    let plugin = plugin.strip_suffix(&[0]).unwrap_or(plugin).to_vec();
    Some(Greeting { version, plugin, challenge, tls: capabilities & TLS != 0 })
}

/// Whether the rest of a login goes over TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Over {
    Tcp,
    Tls,
}

/// `SSLRequest`: says that TLS begins with the next byte.
pub(super) async fn request_tls(wire: &mut Wire) -> Result<(), WireError> {
    wire.write(&capabilities(Over::Tls)).await
}

/// Logs in after the greeting.
pub(super) async fn login(
    wire: &mut Wire,
    over: Over,
    greeting: Greeting,
    user: &str,
    password: &[u8],
) -> Result<(), LoginError> {
    let result = attempt(wire, over, greeting, user, password).await;
    if matches!(result, Err(LoginError::Plugin(_) | LoginError::PublicKey)) {
        // An answer that cannot be right: the server denies access, which
        // counts less than a login that is broken off.
        wire.write(&[]).await?;
        wire.read(true).await.map(drop).or_else(|error| match error {
            WireError::Server(_) => Ok(()),
            error @ (WireError::Closed | WireError::Io(_) | WireError::Malformed(_)) => Err(error),
        })?;
    }
    result
}

async fn attempt(
    wire: &mut Wire,
    over: Over,
    greeting: Greeting,
    user: &str,
    password: &[u8],
) -> Result<(), LoginError> {
    let Greeting { version: _, mut plugin, mut challenge, tls: _ } = greeting;
    // A server's default plugin need not be the account's: where it is
    // foreign, offer the commonest and let the server switch.
    if plugin != CACHING_SHA2 {
        plugin = NATIVE.to_vec();
    }
    wire.write(&response(over, user, &plugin, &answer(&plugin, password, &challenge)?)).await?;
    for _ in 0..MAX_PACKETS {
        let packet = wire.read(true).await?;
        let (kind, body) = packet.split_first().ok_or(WireError::Malformed("an empty packet"))?;
        match *kind {
            OK => return Ok(()),
            EOF => {
                (plugin, challenge) = switch(body)?;
                wire.write(&answer(&plugin, password, &challenge)?).await?;
            }
            MORE_DATA if plugin == CACHING_SHA2 => match body {
                [FAST_AUTH_OK] => {}
                [FULL_AUTH] => match over {
                    Over::Tcp => wire.write(&[WANT_PUBLIC_KEY]).await?,
                    Over::Tls => wire.write(&[password, &[0]].concat()).await?,
                },
                key => {
                    let sent = scramble::encrypted(password, &challenge, key).ok_or(LoginError::PublicKey)?;
                    wire.write(&sent).await?;
                }
            },
            _ => return Err(WireError::Malformed("an unexpected packet in the login").into()),
        }
    }
    Err(WireError::Malformed("the login does not end").into())
}

/// The plugin and the challenge that a server asks for instead.
fn switch(body: &[u8]) -> Result<(Vec<u8>, Vec<u8>), LoginError> {
    if body.is_empty() {
        return Err(LoginError::Plugin("mysql_old_password".to_owned()));
    }
    let mut reader = Reader(body);
    let plugin = reader.until_zero().ok_or(WireError::Malformed("a switch of plugins is cut short"))?;
    let challenge = reader.rest();
    Ok((plugin.to_vec(), challenge.strip_suffix(&[0]).unwrap_or(challenge).to_vec()))
}

fn answer(plugin: &[u8], password: &[u8], challenge: &[u8]) -> Result<Vec<u8>, LoginError> {
    match plugin {
        NATIVE => Ok(scramble::native(password, challenge)),
        CACHING_SHA2 => Ok(scramble::caching_sha2(password, challenge)),
        other => Err(LoginError::Plugin(printable(other))),
    }
}

/// The start of `HandshakeResponse41`, and the whole of `SSLRequest`.
fn capabilities(over: Over) -> Vec<u8> {
    const MAX_PACKET: u32 = 1 << 20;
    let tls = match over {
        Over::Tcp => 0,
        Over::Tls => TLS,
    };
    let mut out = (WANTED | NEEDED | tls).to_le_bytes().to_vec();
    out.extend(MAX_PACKET.to_le_bytes());
    out.push(COLLATION);
    out.extend([0; 23]);
    out
}

/// `HandshakeResponse41`.
fn response(over: Over, user: &str, plugin: &[u8], answer: &[u8]) -> Vec<u8> {
    let mut out = capabilities(over);
    out.extend(user.bytes().filter(|b| *b != 0));
    out.push(0);
    // Both answers are shorter than 250 bytes, so one byte tells the length.
    out.push(u8::try_from(answer.len()).unwrap_or_default());
    out.extend_from_slice(answer);
    out.extend_from_slice(plugin);
    out.push(0);
    out
}

impl LoginError {
    /// What the server said, if it said no.
    pub(super) fn server(&self) -> Option<&ServerError> {
        match self {
            Self::Wire(WireError::Server(error)) => Some(error),
            Self::Wire(WireError::Closed | WireError::Io(_) | WireError::Malformed(_))
            | Self::Plugin(_)
            | Self::PublicKey => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The greeting of MariaDB 10.11, with its own challenge.
    fn mariadb() -> Vec<u8> {
        let mut packet = b"\x0a5.5.5-10.11.6-MariaDB\0\x07\0\0\0ABCDEFGH\0".to_vec();
        packet.extend([0xfe, 0xf7, 0x2d, 0x02, 0x00, 0xff, 0x81, 21]);
        packet.extend([0; 10]);
        packet.extend(b"IJKLMNOPQRST\0mysql_native_password\0");
        packet
    }

    #[test]
    fn a_greeting_is_read() {
        let read = parse_greeting(&mariadb()).map(|g| (g.version, g.plugin, g.challenge));
        let challenge = b"ABCDEFGHIJKLMNOPQRST".to_vec();
        assert_eq!(read, Some(("5.5.5-10.11.6-MariaDB".to_owned(), NATIVE.to_vec(), challenge)));
    }

    #[test]
    fn a_greeting_cut_anywhere_or_changed_anywhere_is_no_panic() {
        let whole = mariadb();
        let end_of_challenge = whole.len() - NATIVE.len() - 1;
        for length in 0..end_of_challenge {
            assert!(parse_greeting(&whole[..length]).is_none(), "cut at {length}");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                // Whether it is still a greeting depends on the byte.
                let _: Option<Greeting> = parse_greeting(&changed);
            }
        }
    }

    #[test]
    fn a_clear_text_password_is_never_given() {
        let asked = switch(b"mysql_clear_password\0").and_then(|(plugin, c)| answer(&plugin, b"secret", &c));
        assert!(matches!(asked, Err(LoginError::Plugin(name)) if name == "mysql_clear_password"));
        assert!(matches!(switch(b""), Err(LoginError::Plugin(_))));
    }
}
