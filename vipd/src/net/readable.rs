//! The one place where a descriptor of ours is handed to tokio's reactor,
//! which has no safe way to take one.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// A descriptor whose readiness to be read can be awaited.
#[derive(Debug)]
pub(crate) struct Readable<T: Owner>(AsyncFd<Inner<T>>);

/// Types that own one descriptor, keep it open and the same until they are
/// dropped, and give no way to change that through a shared reference.
pub(crate) trait Owner: AsFd {}

impl Owner for nix::sys::timerfd::TimerFd {}
impl Owner for socket2::Socket {}
impl Owner for std::os::fd::OwnedFd {}

/// A ready [`Readable`]: its readiness must be cleared after reading all.
pub(crate) struct Ready<'a, T: Owner>(AsyncFdReadyGuard<'a, Inner<T>>);

#[derive(Debug)]
struct Inner<T>(T);

impl<T: Owner> AsRawFd for Inner<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl<T: Owner> Readable<T> {
    /// Registers a non-blocking descriptor with the caller's runtime.
    pub(crate) fn new(owner: T) -> io::Result<Self> {
        // SAFETY: `Owner` promises one open descriptor for as long as `owner`
        // lives; it is moved into `AsyncFd`, which deregisters before dropping
        // it, and nothing here hands out more than a shared reference.
        let fd = unsafe { AsyncFd::register_with_interest(Inner(owner), Interest::READABLE) }?;
        Ok(Self(fd))
    }

    /// The owner of the descriptor.
    pub(crate) fn get(&self) -> &T {
        &self.0.get_ref().0
    }

    /// Waits until there may be something to read.
    pub(crate) async fn ready(&self) -> io::Result<Ready<'_, T>> {
        Ok(Ready(self.0.readable().await?))
    }

    /// Waits until `read` no longer says `WouldBlock`, and gives its result.
    pub(crate) async fn read<R>(&self, mut read: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        loop {
            let mut ready = self.ready().await?;
            if let Ok(result) = ready.0.try_io(|fd| read(&fd.get_ref().0)) {
                return result;
            }
        }
    }
}

impl<T: Owner> Ready<'_, T> {
    /// Says that all was read.
    pub(crate) fn clear(&mut self) {
        self.0.clear_ready();
    }
}
