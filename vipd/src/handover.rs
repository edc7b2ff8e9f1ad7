//! Sockets that listen, from one run of the daemon to the next, by way of
//! systemd's store of descriptors (sd_notify(3), `FDSTORE=1`; the unit's
//! `FileDescriptorStoreMax`). systemd gives them back at a restart, and closes
//! them when the service has stopped for good. Without systemd nothing is kept.
#![allow(unsafe_code)] // a number in the environment becomes a descriptor

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};
use std::io::{self, IoSlice};
use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use tracing::{info, warn};

/// Descriptors of one message; the kernel takes 253 (SCM_MAX_FD).
const AT_ONCE: usize = 64;

/// The sockets that the run before has left; each is closed at an exec.
///
/// # Errors
/// What systemd says of them makes no sense.
pub(crate) fn take() -> io::Result<Vec<TcpListener>> {
    // SAFETY: these descriptors were opened for this process by whoever started
    // it, and this is the only place that takes them, once.
    let own = |fd: RawFd| TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let sockets: Vec<TcpListener> = sd_notify::listen_fds()?.map(own).collect();
    if !sockets.is_empty() {
        // Kept until the next stop leaves them again: a start that fails must
        // not hold clients in a queue that nobody serves.
        tell(b"FDSTOREREMOVE=1\nFDNAME=listen", &[])?;
    }
    Ok(sockets)
}

/// Leaves sockets to the next run, as far as there is somebody to keep them.
pub(crate) fn leave(sockets: &[TcpListener]) {
    for some in sockets.chunks(AT_ONCE) {
        let fds: Vec<RawFd> = some.iter().map(|s| s.as_raw_fd()).collect();
        match tell(b"FDSTORE=1\nFDNAME=listen", &fds) {
            Ok(true) => info!(sockets = fds.len(), "listening sockets are left to the next start"),
            Ok(false) => return,
            Err(error) => {
                warn!(%error, "listening sockets cannot be left: clients may be refused until the next start")
            }
        }
    }
}

/// Tells systemd, with descriptors; false if there is none.
fn tell(text: &[u8], fds: &[RawFd]) -> io::Result<bool> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(false) };
    let address = match path.as_encoded_bytes() {
        [b'@', name @ ..] => UnixAddr::new_abstract(name)?,
        _ => UnixAddr::new(&*path)?,
    };
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let rights = [ControlMessage::ScmRights(fds)];
    let attached: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(text)], attached, MsgFlags::empty(), Some(&address))?;
    Ok(true)
}
