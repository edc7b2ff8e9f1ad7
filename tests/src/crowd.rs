//! Thousands of clients that say nothing, and a server that has patience with them.

use anyhow::{Context, Result};
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Nothing that works takes as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Greets whoever connects with one byte, and keeps the connection. One thread
/// serves all: those that have ended are let go when others come.
///
/// # Errors
/// If it cannot listen.
pub fn serve(bind: SocketAddr, ready: impl FnOnce()) -> Result<()> {
    use std::io::Write as _;

    let socket = socket2::Socket::new(socket2::Domain::for_address(bind), socket2::Type::STREAM, None)
        .context("cannot open a socket")?;
    socket.set_reuse_address(true).context("cannot set SO_REUSEADDR")?;
    socket.bind(&bind.into()).with_context(|| format!("cannot bind {bind}"))?;
    socket.listen(4096).with_context(|| format!("cannot listen on {bind}"))?;
    ready();
    let mut guests: Vec<TcpStream> = Vec::new();
    for guest in TcpListener::from(socket).incoming() {
        let Ok(mut guest) = guest else { continue };
        if guest.write_all(b"!").is_ok() && guest.set_nonblocking(true).is_ok() {
            guests.push(guest);
        }
        if guests.len().is_multiple_of(512) {
            let stays = |mut guest: &TcpStream| {
                guest.read(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
            };
            guests.retain(stays);
        }
    }
    Ok(())
}

/// Connects so many clients, each of which waits for its server's greeting or
/// its own refusal; says how many were `greeted`, and keeps those until the end
/// of standard input.
///
/// # Errors
/// If a client is neither served nor refused in time.
pub fn come(target: SocketAddr, clients: usize, mut say: impl FnMut(&str)) -> Result<()> {
    let mut greeted = Vec::new();
    for _ in 0..clients {
        let Ok(mut stream) = TcpStream::connect_timeout(&target, PATIENCE) else { continue };
        stream.set_read_timeout(Some(PATIENCE)).context("cannot set a time-out")?;
        // It ends with a reset: the server would not answer a goodbye.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).context("cannot set SO_LINGER")?;
        match stream.read(&mut [0]) {
            Ok(1..) => greeted.push(stream),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                anyhow::bail!("a client is neither served nor refused within {PATIENCE:?}")
            }
            // Refused.
            Ok(0) | Err(_) => {}
        }
    }
    say(&format!("greeted {}", greeted.len()));
    // Of whoever started it only the end is heard.
    let _ = std::io::stdin().read(&mut [0]);
    Ok(())
}
