//! Tells secondaries that a zone has changed (RFC 1996).

use crate::message::{HEADER, Section, count};
use crate::name::Wire;
use crate::served::{Serving, Shared};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;
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
    let from = own.iter().map(SocketAddr::ip).find(|own| own.is_ipv4() == to.is_ipv4());
    while serial.changed().await.is_ok() {
        let newest = *serial.borrow_and_update();
        let zone = &serving.settings.name;
        let told = tokio::select! {
            told = until_answered(&serving.zone.origin, from, to) => told,
            // A newer one makes this one pointless.
            Ok(()) = async { serial.clone().changed().await } => continue,
        };
        match told {
            Ok(true) => {
                shared.metrics.notifies.add();
                debug!(zone, serial = newest, secondary = %to, "NOTIFY was answered");
            }
            Ok(false) => {
                shared.metrics.notifies_lost.add();
                warn!(zone, serial = newest, secondary = %to, "NOTIFY was not answered: it will look by itself");
            }
            Err(error) => {
                shared.metrics.notifies_lost.add();
                warn!(zone, serial = newest, secondary = %to, %error, "cannot send NOTIFY");
            }
        }
    }
}

async fn until_answered(origin: &Wire, from: Option<IpAddr>, to: SocketAddr) -> io::Result<bool> {
    let any =
        if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((from.unwrap_or(any), 0)).await?;
    socket.connect(to).await?;
    let message = message(origin)?;
    let mut answer = [0; 512];
    for wait in WAITS {
        // Nobody may listen there yet: the error of the time before.
        if let Err(error) = socket.send(&message).await
            && error.kind() != io::ErrorKind::ConnectionRefused
        {
            return Err(error);
        }
        let answered = async {
            loop {
                match socket.recv(&mut answer).await {
                    Ok(length)
                        if length >= HEADER && answer[..2] == message[..2] && answer[2] & 0x80 != 0 =>
                    {
                        return;
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(wait).await,
                }
            }
        };
        if timeout(wait, answered).await.is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// QR 0, opcode 4, AA; the question is the zone's SOA record.
fn message(origin: &Wire) -> io::Result<Vec<u8>> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
    let mut message = [&id[..], &[0x24, 0, 0, 1, 0, 0, 0, 0, 0, 0], origin, &[0, 6, 0, 1]].concat();
    count(&mut message, Section::Answer, 0);
    Ok(message)
}
