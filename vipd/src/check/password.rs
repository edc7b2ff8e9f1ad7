//! The password, read anew for each login, so that it can be changed without
//! a reload.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use thiserror::Error;

/// More is no password but another file.
const MAX_LENGTH: u64 = 4096;

/// The password cannot be had.
#[derive(Debug, Error)]
pub(crate) enum PasswordError {
    #[error("reading password-file {}: {}", .path.display(), crate::words(.source))]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("password-file {} is longer than {MAX_LENGTH} bytes: this is no password", .path.display())]
    TooLong { path: PathBuf },
}

/// Files that everybody may read, and that this was said of: several checks
/// may share a file.
static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Where the password is.
#[derive(Debug)]
pub(crate) struct PasswordFile {
    path: Option<PathBuf>,
}

impl PasswordFile {
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        Self { path }
    }

    /// The password; empty without a file.
    pub(crate) async fn read(&self) -> Result<Vec<u8>, PasswordError> {
        let Some(path) = self.path.clone() else { return Ok(Vec::new()) };
        let read = {
            let path = path.clone();
            // A file system that hangs must not hold up the other checks.
            tokio::task::spawn_blocking(move || load(&path)).await
        };
        let (mut password, mode) = match read.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(read) => read,
            Err(source) => return Err(PasswordError::Unreadable { path, source }),
        };
        if password.len() as u64 > MAX_LENGTH {
            return Err(PasswordError::TooLong { path });
        }
        let first_time = || WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        if mode & 0o004 != 0 && first_time() {
            tracing::warn!(path = %path.display(), "password-file can be read by everybody; chmod o-r it");
        }
        if password.ends_with(b"\n") {
            password.pop();
            if password.ends_with(b"\r") {
                password.pop();
            }
        }
        Ok(password)
    }
}

fn load(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    let mut password = Vec::new();
    file.take(MAX_LENGTH + 1).read_to_end(&mut password)?;
    Ok((password, mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(content: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), content)?;
        Ok(PasswordFile::new(Some(file.path().to_owned())).read().await?)
    }

    #[tokio::test]
    async fn one_newline_is_not_of_the_password() -> Result<(), Box<dyn std::error::Error>> {
        assert_eq!(read(b"secret\n").await?, b"secret");
        assert_eq!(read(b"secret\r\n").await?, b"secret");
        assert_eq!(read(b" secret\n\n").await?, b" secret\n");
        assert_eq!(read(b"secret").await?, b"secret");
        assert_eq!(PasswordFile::new(None).read().await?, b"");
        Ok(())
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_named_with_the_cause() {
        let missing = PasswordFile::new(Some("/nowhere/mysql.password".into())).read().await;
        let text = missing.map_err(|e| e.to_string());
        assert_eq!(
            text,
            Err("reading password-file /nowhere/mysql.password: no such file or directory".to_owned())
        );
        let endless = PasswordFile::new(Some("/dev/zero".into())).read().await.map_err(|e| e.to_string());
        assert!(endless.is_err_and(|e| e.contains("longer than 4096")));
    }
}
