//! Tells secondaries that a zone has changed (RFC 1996).

use crate::answer::rcode;
use crate::message::{HEADER, Section, count};
use crate::name::Wire;
use crate::served::{Serving, Shared};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, warn};

/// How long an answer is waited for, each time.
const WAITS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];

/// Tells one secondary of each change of a zone, the newest only. Runs until
/// dropped. `own` are this server's addresses: secondaries know it by them.
pub async fn tell(shared: Arc<Shared>, serving: Serving, to: SocketAddr, own: Vec<SocketAddr>) {
    let mut serial = serving.zone.serial.subscribe();
    // It may have changed while this server was away.
    serial.mark_changed();
    // When the tries began to which there was no answer yet.
    let mut since = None;
    let from = source(&own, to);
    while serial.changed().await.is_ok() {
        let newest = *serial.borrow_and_update();
        let zone = &serving.settings.name;
        let begun = *since.get_or_insert_with(Instant::now);
        let told = tokio::select! {
            told = until_answered(&serving.zone.origin, from, to) => told,
            // A newer one makes this one pointless, but a zone that keeps changing
            // shall not hide a secondary that is gone.
            Ok(()) = async { serial.clone().changed().await } => {
                if begun.elapsed() < WAITS.iter().sum::<Duration>() {
                    continue;
                }
                Err(io::Error::other("no change of the zone since then was acknowledged"))
            }
        };
        since = None;
        match told {
            Ok(()) => {
                shared.metrics.notifies.add();
                debug!(zone, serial = newest, secondary = %to, "NOTIFY was answered");
            }
            Err(error) => {
                shared.metrics.notifies_lost.add();
                warn!(
                    zone, serial = newest, secondary = %to, %error,
                    "NOTIFY was not answered: it will look by itself"
                );
            }
        }
    }
}

/// The address that a secondary knows this server by: nobody else is reached
/// from a loopback address.
fn source(own: &[SocketAddr], to: SocketAddr) -> Option<IpAddr> {
    let fits = |own: &IpAddr| own.is_ipv4() == to.is_ipv4() && (to.ip().is_loopback() || !own.is_loopback());
    own.iter().map(SocketAddr::ip).find(fits)
}

/// Asks again and again, whatever went wrong: a route that is not there yet is
/// no other case than a secondary that is not. Gives the last time's error.
async fn until_answered(origin: &Wire, from: Option<IpAddr>, to: SocketAddr) -> io::Result<()> {
    let message = message(origin)?;
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for wait in WAITS {
        let next = Instant::now() + wait;
        match timeout_at(next, ask(&message, from, to)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => {
                last = error;
                sleep_until(next).await;
            }
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Sends it once and waits for the answer.
async fn ask(message: &[u8], from: Option<IpAddr>, to: SocketAddr) -> io::Result<()> {
    let socket = socket(from, to).await?;
    socket.send(message).await?;
    let mut answer = [0; 512];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length >= HEADER && answer[..2] == message[..2] && answer[2] & 0x80 != 0 {
            return match answer[3] & 0x0f {
                rcode::NOERROR => Ok(()),
                rcode::REFUSED => Err("REFUSED: is this address among its primaries?".to_owned()),
                rcode::NOTAUTH => Err("NOTAUTH: does it have this zone?".to_owned()),
                code => Err(format!("with response code {code}")),
            }
            .map_err(|what| io::Error::other(format!("it answered {what}")));
        }
    }
}

/// From the address that it shall come from; if that cannot be (the host may
/// have lost it), from any.
async fn socket(from: Option<IpAddr>, to: SocketAddr) -> io::Result<UdpSocket> {
    let any =
        if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let bound = async |from: IpAddr| {
        let socket = UdpSocket::bind((from, 0)).await?;
        socket.connect(to).await?;
        io::Result::Ok(socket)
    };
    match from {
        Some(from) => match bound(from).await {
            Ok(socket) => Ok(socket),
            Err(_) => bound(any).await,
        },
        None => bound(any).await,
    }
}

/// QR 0, opcode 4, AA; the question is the zone's SOA record.
fn message(origin: &Wire) -> io::Result<Vec<u8>> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
    let mut message = [&id[..], &[0x24, 0, 0, 1, 0, 0, 0, 0, 0, 0], origin, &[0, 6, 0, 1]].concat();
    count(&mut message, Section::Answer, 0);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::Cookies;
    use crate::name::from_text;
    use crate::served::Served;
    use crate::state::tests::{opened, settings};
    use crate::tsig::Keys;
    use vipd_config::dnsd::RateLimit;

    #[test]
    fn nobody_else_is_told_from_a_loopback_address() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let own = ["127.0.0.1:53", "[::1]:53", "10.77.0.11:53", "10.77.0.12:53"].map(at);
        let from = |to: &str| source(&own, at(to)).map(|from| from.to_string());
        assert_eq!(from("10.77.0.40:53").as_deref(), Some("10.77.0.11"));
        assert_eq!(from("127.0.0.1:5353").as_deref(), Some("127.0.0.1"));
        assert_eq!(from("[fd77::40]:53"), None, "the kernel chooses");
        assert_eq!(from("[::1]:5353").as_deref(), Some("::1"));
    }

    /// Answers the n-th NOTIFY that comes.
    async fn secondary(socket: UdpSocket, nth: usize) {
        let mut message = [0; 512];
        for _ in 1..nth {
            socket.recv_from(&mut message).await.unwrap();
        }
        let (length, from) = socket.recv_from(&mut message).await.unwrap();
        message[2] |= 0x80;
        socket.send_to(&message[..length], from).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_that_this_host_does_not_have_is_done_without() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = socket.local_addr().unwrap();
        let from = Some("192.0.2.1".parse().unwrap());
        let (origin, answered) = (from_text("corp.example."), tokio::spawn(secondary(socket, 1)));
        until_answered(&origin, from, to).await.unwrap();
        answered.await.unwrap();
    }

    /// Nobody may send there: no packet leaves, and it is tried as often as anywhere.
    #[tokio::test(start_paused = true)]
    async fn an_error_is_a_try_without_an_answer() {
        let begun = Instant::now();
        let to = "255.255.255.255:53".parse().unwrap();
        let error = until_answered(&from_text("corp.example."), None, to).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(begun.elapsed(), WAITS.iter().sum::<Duration>());
    }

    /// A secondary that has another address for its primary says so, and changes nothing.
    #[tokio::test]
    async fn a_refusal_is_no_acknowledgement() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = socket.local_addr().unwrap();
        let refusing = tokio::spawn(async move {
            let mut message = [0; 512];
            let (length, from) = socket.recv_from(&mut message).await.unwrap();
            message[2] |= 0x80;
            message[3] |= rcode::REFUSED;
            socket.send_to(&message[..length], from).await.unwrap();
        });
        let message = message(&from_text("corp.example.")).unwrap();
        let error = ask(&message, None, to).await.unwrap_err().to_string();
        assert!(error.contains("REFUSED: is this address among its primaries?"), "{error}");
        refusing.await.unwrap();
    }

    /// Each change ends the tries for the one before.
    #[tokio::test(start_paused = true)]
    async fn a_dead_secondary_is_counted_also_while_the_zone_keeps_changing() {
        let dir = tempfile::tempdir().unwrap();
        let serving = opened(dir.path(), &settings(None)).serving;
        let limit = RateLimit { responses_per_second: 0, slip: 0, exempt: vec![] };
        let served = Served::new([serving.clone()], Keys::default(), limit);
        let shared = Arc::new(Shared::new(served, Cookies::new().unwrap()));
        // Nobody may send there.
        let to = "255.255.255.255:53".parse().unwrap();
        let telling = tokio::spawn(tell(shared.clone(), serving.clone(), to, vec![]));
        let patience: Duration = WAITS.iter().sum();
        let mut lost = Vec::new();
        for _ in 0..13 {
            tokio::time::sleep(patience / 6).await;
            serving.zone.serial.send_modify(|serial| *serial += 1);
            lost.push(shared.metrics.notifies_lost.get());
        }
        assert_eq!((lost[5], lost[6], lost[12]), (0, 1, 2), "{lost:?}");
        telling.abort();
    }

    #[tokio::test]
    async fn what_is_not_answered_is_said_again() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = socket.local_addr().unwrap();
        let (origin, answered) = (from_text("corp.example."), tokio::spawn(secondary(socket, 2)));
        until_answered(&origin, None, to).await.unwrap();
        answered.await.unwrap();
    }
}
