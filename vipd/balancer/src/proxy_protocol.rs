//! The PROXY protocol, versions 1 and 2 (HAProxy, `doc/proxy-protocol.txt`):
//! who the client is, said before its first byte.

use crate::alarm::Alarms;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::{self, FromStr};
use std::time::Duration;
use tokio::net::TcpStream;
use vipd_core::settings::ProxyProtocol;

/// A header that is not complete by then is not waited for.
const COMPLETE_WITHIN: Duration = Duration::from_secs(5);
/// A version 1 header is one line, at most this long with its end.
const MAX_V1: usize = 107;
/// Of a version 2 header, with additions (TLVs) that are skipped. What is in
/// use has a few hundred bytes; this bounds what a stranger can make us read.
const MAX_V2: usize = 4_096;
/// Before a version 2 header's addresses: signature, command, family, length.
const FIXED_V2: usize = 16;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A client's connection, as seen by whoever accepted it first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ends {
    /// The client.
    pub(crate) source: SocketAddr,
    /// What it connected to.
    pub(crate) destination: SocketAddr,
}

/// Why a header was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("it is no PROXY protocol header: {0}")]
    Malformed(&'static str),
    #[error("the client closed in the middle of it")]
    Closed,
    #[error("it was not complete within {COMPLETE_WITHIN:?}")]
    Late,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The header of a connection that is the proxy's own, as that of a check: it
/// tells of no client.
#[must_use]
pub const fn header_of_own(version: ProxyProtocol) -> &'static [u8] {
    match version {
        ProxyProtocol::V1 => b"PROXY UNKNOWN\r\n",
        // LOCAL, of no family.
        ProxyProtocol::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

/// The header that tells a server of a client.
pub(crate) fn header(version: ProxyProtocol, ends: Ends) -> Vec<u8> {
    // A client that came over an IPv4-mapped address is an IPv4 client.
    let (source, destination) = (canonical(ends.source), canonical(ends.destination));
    match version {
        ProxyProtocol::V1 => match (source.is_ipv4(), destination.is_ipv4()) {
            (true, true) | (false, false) => {
                let family = if source.is_ipv4() { 4 } else { 6 };
                let (from, to) = (source.ip(), destination.ip());
                format!("PROXY TCP{family} {from} {to} {} {}\r\n", source.port(), destination.port())
                    .into_bytes()
            }
            (true, false) | (false, true) => b"PROXY UNKNOWN\r\n".to_vec(),
        },
        ProxyProtocol::V2 => {
            let mut bytes = SIGNATURE.to_vec();
            match (source.ip(), destination.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    bytes.extend([0x21, 0x11, 0, 12]);
                    bytes.extend(from.octets());
                    bytes.extend(to.octets());
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    bytes.extend([0x21, 0x21, 0, 36]);
                    bytes.extend(from.octets());
                    bytes.extend(to.octets());
                }
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                    // PROXY without an address: the server takes the connection as it is.
                    bytes.extend([0x21, 0, 0, 0]);
                    return bytes;
                }
            }
            bytes.extend(source.port().to_be_bytes());
            bytes.extend(destination.port().to_be_bytes());
            bytes
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Reads a client's header and not a byte more. `None` if it says nothing of
/// the client (a health check of the proxy, an unknown family).
///
/// # Errors
///
/// [`HeaderError`]; the connection is of no use then.
pub(crate) async fn accept(client: &TcpStream, alarms: &Alarms) -> Result<Option<Ends>, HeaderError> {
    alarms.within(COMPLETE_WITHIN, read(client)).await.ok_or(HeaderError::Late)?
}

async fn read(client: &TcpStream) -> Result<Option<Ends>, HeaderError> {
    let mut header = vec![0; MAX_V1];
    let mut length = 0;
    loop {
        // What is looked at and belongs to the header is taken: the loop waits
        // for the next byte each time, it does not spin over the same ones.
        let more = client.peek(&mut header[length..]).await?;
        if more == 0 {
            return Err(HeaderError::Closed);
        }
        let end = end(&header[..length + more])?;
        let take = end.map_or(more, |end| more.min(end - length));
        let mut taken = 0;
        while taken < take {
            match client.try_read(&mut header[length + taken..length + take]) {
                Ok(0) => return Err(HeaderError::Closed),
                Ok(n) => taken += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => client.readable().await?,
                Err(error) => return Err(error.into()),
            }
        }
        length += take;
        match end {
            Some(end) if end == length => return parse(&header[..length]),
            Some(end) => header.resize(end, 0),
            None => {}
        }
    }
}

/// The length of the header that begins so, once it can be told.
fn end(bytes: &[u8]) -> Result<Option<usize>, HeaderError> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        let Some(fixed) = bytes.get(..FIXED_V2) else { return Ok(None) };
        if fixed[12] >> 4 != 2 {
            return Err(HeaderError::Malformed("its version is neither 1 nor 2"));
        }
        let length = FIXED_V2 + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        if length > MAX_V2 {
            return Err(HeaderError::Malformed("it is too long"));
        }
        return Ok(Some(length));
    }
    if begins(b"PROXY ") {
        return match bytes.iter().position(|b| *b == b'\n') {
            Some(at) => Ok(Some(at + 1)),
            None if bytes.len() >= MAX_V1 => Err(HeaderError::Malformed("its line has no end")),
            None => Ok(None),
        };
    }
    Err(HeaderError::Malformed("it begins otherwise"))
}

/// What a whole header says.
fn parse(header: &[u8]) -> Result<Option<Ends>, HeaderError> {
    if header.starts_with(SIGNATURE) { parse_v2(header) } else { parse_v1(header) }
}

fn parse_v1(line: &[u8]) -> Result<Option<Ends>, HeaderError> {
    let malformed = HeaderError::Malformed;
    let line = line.strip_suffix(b"\r\n").ok_or(malformed("its line does not end with CR LF"))?;
    let line = str::from_utf8(line).map_err(|_| malformed("it is not text"))?;
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let (Some(from), Some(to), Some(from_port), Some(to_port), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return Err(malformed("it has too few or too many words"));
    };
    let address = |text: &str| -> Result<IpAddr, HeaderError> {
        let parsed = match family {
            Some("TCP4") => text.parse().map(IpAddr::V4),
            Some("TCP6") => text.parse().map(IpAddr::V6),
            Some(_) | None => return Err(malformed("its family is not TCP4, TCP6 or UNKNOWN")),
        };
        parsed.map_err(|_| malformed("an address is none of its family"))
    };
    let port = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        u16::from_str(text).ok().filter(|_| digits).ok_or(malformed("a port is no port"))
    };
    Ok(Some(Ends {
        source: SocketAddr::new(address(from)?, port(from_port)?),
        destination: SocketAddr::new(address(to)?, port(to_port)?),
    }))
}

fn parse_v2(header: &[u8]) -> Result<Option<Ends>, HeaderError> {
    let malformed = HeaderError::Malformed("it is cut off");
    let (Some(command), Some(family)) = (header.get(12), header.get(13)) else { return Err(malformed) };
    let addresses = header.get(FIXED_V2..).unwrap_or_default();
    match (command & 0xf, family) {
        (0, _) => Ok(None),
        (1, 0x11) => {
            let (from, rest) = addresses.split_first_chunk::<4>().ok_or(malformed)?;
            ends(IpAddr::from(*from), rest, |rest| {
                rest.split_first_chunk::<4>().map(|(a, r)| (IpAddr::from(*a), r))
            })
        }
        (1, 0x21) => {
            let (from, rest) = addresses.split_first_chunk::<16>().ok_or(malformed)?;
            ends(IpAddr::from(*from), rest, |rest| {
                rest.split_first_chunk::<16>().map(|(a, r)| (IpAddr::from(*a), r))
            })
        }
        // UDP and Unix sockets: taken as it is, as for a family that is not told.
        (1, _) => Ok(None),
        _ => Err(HeaderError::Malformed("its command is unknown")),
    }
}

/// The second address and both ports, after the first address.
fn ends(
    from: IpAddr,
    rest: &[u8],
    address: impl Fn(&[u8]) -> Option<(IpAddr, &[u8])>,
) -> Result<Option<Ends>, HeaderError> {
    let Some((to, [a, b, c, d, ..])) = address(rest) else {
        return Err(HeaderError::Malformed("it is cut off"));
    };
    Ok(Some(Ends {
        source: SocketAddr::new(from, u16::from_be_bytes([*a, *b])),
        destination: SocketAddr::new(to, u16::from_be_bytes([*c, *d])),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn pair(source: &str, destination: &str) -> Result<Ends, Box<dyn std::error::Error>> {
        Ok(Ends { source: source.parse()?, destination: destination.parse()? })
    }

    #[test]
    fn what_is_written_is_read() -> Outcome {
        let all =
            [pair("192.0.2.1:40000", "10.77.0.100:3306")?, pair("[2001:db8::1]:40000", "[fd77::100]:3306")?];
        for ends in all {
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let bytes = header(version, ends);
                assert_eq!(end(&bytes)?, Some(bytes.len()));
                assert_eq!(parse(&bytes)?, Some(ends));
                // Cut off anywhere it is not yet a header, and never something else.
                for cut in 1..bytes.len() {
                    assert!(end(&bytes[..cut])?.is_none_or(|e| e > cut), "{cut}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() -> Outcome {
        let ends = pair("192.0.2.1:40000", "10.77.0.100:3306")?;
        assert_eq!(header(ProxyProtocol::V1, ends), b"PROXY TCP4 192.0.2.1 10.77.0.100 40000 3306\r\n");
        let v2 = header(ProxyProtocol::V2, ends);
        assert_eq!(v2[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        assert_eq!(v2[16..], [192, 0, 2, 1, 10, 77, 0, 100, 0x9c, 0x40, 0x0c, 0xea]);
        let mapped = pair("[::ffff:192.0.2.1]:40000", "[::ffff:10.77.0.100]:3306")?;
        assert_eq!(header(ProxyProtocol::V2, mapped), v2);
        let mixed = pair("192.0.2.1:1", "[fd77::1]:2")?;
        assert_eq!(header(ProxyProtocol::V1, mixed), b"PROXY UNKNOWN\r\n");
        assert_eq!(parse(&header(ProxyProtocol::V2, mixed))?, None);
        Ok(())
    }

    #[test]
    fn additions_are_skipped_and_checks_of_the_proxy_say_nothing() -> Outcome {
        let ends = pair("192.0.2.1:40000", "10.77.0.100:3306")?;
        let mut with_tlv = header(ProxyProtocol::V2, ends);
        with_tlv[15] += 5;
        with_tlv.extend([0x04, 0, 2, 0, 0]);
        assert_eq!(end(&with_tlv)?, Some(with_tlv.len()));
        assert_eq!(parse(&with_tlv)?, Some(ends));
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let own = header_of_own(version);
            assert_eq!((end(own)?, parse(own)?), (Some(own.len()), None));
        }
        assert_eq!(parse(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n")?, None);
        Ok(())
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 100]].concat();
        let begins: [&[u8]; 5] = [
            b"GET / HTTP/1.1\r\n",
            b"PROXZ",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            &long,
        ];
        for bytes in begins {
            assert!(end(bytes).is_err(), "{bytes:?}");
        }
        let whole: [&[u8]; 9] = [
            b"PROXY TCP4 192.0.2.1 10.77.0.100 40000 3306\n",
            b"PROXY TCP4 192.0.2.1 10.77.0.100 40000\r\n",
            b"PROXY TCP4 192.0.2.1 10.77.0.100 40000 3306 7\r\n",
            b"PROXY TCP4 fd77::1 10.77.0.100 40000 3306\r\n",
            b"PROXY TCP4 192.0.2.1 10.77.0.100 70000 3306\r\n",
            b"PROXY TCP4 192.0.2.1 10.77.0.100 +1 3306\r\n",
            b"PROXY UDP4 192.0.2.1 10.77.0.100 40000 3306\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\x01\x02\x03\x04",
            b"\r\n\r\n\0\r\nQUIT\n\x25\x11\0\0",
        ];
        for bytes in whole {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }

    async fn connected() -> io::Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
        Ok((client?, accepted?.0))
    }

    #[tokio::test]
    async fn the_header_is_taken_and_not_a_byte_more() -> Outcome {
        let ends = pair("192.0.2.1:40000", "10.77.0.100:3306")?;
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            // At once, and byte by byte.
            for chunk in [usize::MAX, 1] {
                let (mut client, mut accepted) = connected().await?;
                client.set_nodelay(true)?;
                let bytes = [header(version, ends), b"first words".to_vec()].concat();
                let send = async {
                    for part in bytes.chunks(chunk.min(bytes.len())) {
                        client.write_all(part).await?;
                        tokio::task::yield_now().await;
                    }
                    client.shutdown().await
                };
                let receive = async {
                    let told = accept(&accepted, &Alarms::default()).await;
                    let mut rest = Vec::new();
                    accepted.read_to_end(&mut rest).await?;
                    io::Result::Ok((told, rest))
                };
                let (sent, received) = tokio::join!(send, receive);
                sent?;
                let (told, rest) = received?;
                assert_eq!((told?, rest.as_slice()), (Some(ends), b"first words".as_slice()));
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn half_a_header_is_waited_for_and_given_up() -> Outcome {
        let (mut client, accepted) = connected().await?;
        client.write_all(b"PROXY TCP4 192.0").await?;
        client.shutdown().await?;
        let alarms = Alarms::default();
        assert!(matches!(accept(&accepted, &alarms).await, Err(HeaderError::Closed)));
        let (mut client, accepted) = connected().await?;
        client.write_all(b"PROXY TCP4 192.0").await?;
        tokio::time::pause();
        let told = tokio::select! {
            told = accept(&accepted, &alarms) => Some(told),
            () = alarms.ring() => None,
        };
        assert!(matches!(told, Some(Err(HeaderError::Late))));
        Ok(())
    }
}
