//! One daemon a host: a lock, and the socket, in the runtime directory.

use super::api::SOCKET;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The lock's file; it holds the daemon's process id, for people.
const LOCK: &str = "vipd.lock";

/// Whoever may open the file can lock it.
const LOCK_MODE: u32 = 0o600;
/// Digits of the largest process id there can be, so that each takes the place of any other.
const PID_WIDTH: usize = 10;

/// Root and the daemon's group may give orders.
const SOCKET_MODE: u32 = 0o660;

/// Why this host has no place for another daemon.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// One is running.
    #[error("another vipd is running on this host{}: stop it first, or use another --runtime-dir", pid(.0))]
    Taken(Option<u32>),
    /// Something else listens on the socket.
    #[error(
        "{} is answered by another process, which does not hold vipd's lock: end it, or use another --runtime-dir",
        .0.display()
    )]
    Answered(PathBuf),
    /// The socket's place is taken by something that is no socket.
    #[error("{} is not a socket: remove it", .0.display())]
    InTheWay(PathBuf),
    /// The file system said no.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
}

fn pid(pid: &Option<u32>) -> String {
    pid.map(|p| format!(" (process {p})")).unwrap_or_default()
}

/// The right to be this host's one daemon, as long as it lives.
///
/// A process forked while this exists shares the lock: fork the crash guard before.
#[derive(Debug)]
pub struct Instance {
    runtime_dir: PathBuf,
    /// The kernel lets go of it whatever way the process ends.
    _lock: Flock<File>,
}

impl Instance {
    /// Takes the lock; makes the directory if it is not there.
    ///
    /// # Errors
    /// Another daemon has it, or the directory is not usable.
    pub fn claim(runtime_dir: &Path) -> Result<Self, ClaimError> {
        let failed = |what: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| ClaimError::Io { what, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(runtime_dir)
            .map_err(failed("create", runtime_dir))?;
        let path = runtime_dir.join(LOCK);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(LOCK_MODE)
            .open(&path)
            .map_err(failed("open", &path))?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(file, error)| {
            if error == Errno::EWOULDBLOCK {
                ClaimError::Taken(read_pid(file))
            } else {
                failed("lock", &path)(error.into())
            }
        })?;
        // In one write, as long as any before: a crash guard that looks just now
        // finds one claimant or the other, and never none.
        let pid = format!("{:<PID_WIDTH$}\n", std::process::id());
        let length = pid.len() as u64;
        lock.write_all(pid.as_bytes()).and_then(|()| lock.set_len(length)).map_err(failed("write", &path))?;
        Ok(Self { runtime_dir: runtime_dir.to_owned(), _lock: lock })
    }

    /// The process that claimed a runtime directory last, dead or alive; `None`
    /// if none has.
    #[must_use]
    pub fn claimant(runtime_dir: &Path) -> Option<u32> {
        File::open(runtime_dir.join(LOCK)).ok().and_then(read_pid)
    }

    /// Opens the control socket, in the place of one that a dead daemon left.
    ///
    /// # Errors
    /// Something else is in its place, or the directory is not writable.
    pub fn listen(&self) -> Result<Socket, ClaimError> {
        let path = self.runtime_dir.join(SOCKET);
        match fs::symlink_metadata(&path) {
            Ok(found) if !found.file_type().is_socket() => return Err(ClaimError::InTheWay(path)),
            Ok(_) if UnixStream::connect(&path).is_ok() => return Err(ClaimError::Answered(path)),
            Ok(_) | Err(_) => {}
        }
        // Made under another name, so that nobody meets it before its mode is set.
        let fresh = self.runtime_dir.join(format!("{SOCKET}.new"));
        let open = || {
            match fs::remove_file(&fresh) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
            let listener = UnixListener::bind(&fresh)?;
            fs::set_permissions(&fresh, Permissions::from_mode(SOCKET_MODE))?;
            listener.set_nonblocking(true)?;
            fs::rename(&fresh, &path)?;
            Ok(listener)
        };
        match open() {
            Ok(listener) => Ok(Socket { listener, path }),
            Err(source) => Err(ClaimError::Io { what: "open", path, source }),
        }
    }
}

fn read_pid(file: File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The control socket; its file goes with it.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_daemon_is_not_pushed_aside() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let here = dir.path().join("run");
        let first = Instance::claim(&here)?;
        let refused = Instance::claim(&here).expect_err("two daemons").to_string();
        assert!(refused.contains(&format!("(process {})", std::process::id())), "{refused}");
        assert_eq!(Instance::claimant(&here), Some(std::process::id()));
        assert_eq!(Instance::claimant(dir.path()), None);
        drop(first);
        Instance::claim(&here)?;
        Ok(())
    }

    #[test]
    fn the_socket_of_a_dead_daemon_is_replaced() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join(SOCKET);
        // A listener that is closed leaves its file, as a killed daemon does.
        drop(UnixListener::bind(&path)?);
        fs::write(dir.path().join(LOCK), "4194303\n")?;

        let instance = Instance::claim(dir.path())?;
        let socket = instance.listen()?;
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, SOCKET_MODE);
        UnixStream::connect(&path)?;
        drop(socket);
        assert!(!path.exists(), "the socket's file goes with it");
        Ok(())
    }

    #[test]
    fn what_is_not_ours_is_left_alone() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join(SOCKET);
        let instance = Instance::claim(dir.path())?;

        let other = UnixListener::bind(&path)?;
        assert!(matches!(instance.listen(), Err(ClaimError::Answered(_))));
        drop(other);
        fs::remove_file(&path)?;

        fs::write(&path, "precious")?;
        assert!(matches!(instance.listen(), Err(ClaimError::InTheWay(_))));
        assert_eq!(fs::read_to_string(&path)?, "precious");
        Ok(())
    }
}
