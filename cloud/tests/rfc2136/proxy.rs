//! A proxy between vipd and a server that loses messages.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of updates; questions pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// The server carries the update out, its answer never comes.
    SilenceAfter,
    /// The server carries the update out, the connection closes without its answer.
    CloseAfter,
    /// The server never sees the update.
    SilenceBefore,
}

/// Starts a proxy in this runtime.
pub(crate) async fn start(server: SocketAddr, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, server, fault));
        }
    });
    address
}

async fn serve(mut client: TcpStream, server: SocketAddr, fault: Fault) {
    let mut server = TcpStream::connect(server).await.unwrap();
    while let Some(question) = message(&mut client).await {
        // The opcode: bits 1 to 4 of the third byte of the header.
        let is_update = question[4] >> 3 & 15 == 5;
        if is_update && fault == Fault::SilenceBefore {
            std::future::pending::<()>().await;
        }
        server.write_all(&question).await.unwrap();
        let answer = message(&mut server).await.unwrap();
        match fault {
            Fault::CloseAfter if is_update => return,
            Fault::SilenceAfter if is_update => std::future::pending().await,
            Fault::CloseAfter | Fault::SilenceAfter | Fault::SilenceBefore => {}
        }
        if client.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// A message with its length before it.
async fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = stream.read_u16().await.ok()?;
    let mut bytes = vec![0; 2 + usize::from(length)];
    bytes[..2].copy_from_slice(&length.to_be_bytes());
    stream.read_exact(&mut bytes[2..]).await.ok()?;
    Some(bytes)
}
