//! The cluster key: a file that every host has, and what is derived from it.

use data_encoding::HEXLOWER_PERMISSIVE;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{hkdf, hmac};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Bytes of a key.
const LENGTH: usize = 32;
/// More is no key but another file.
const MAX_FILE: u64 = 4096;
/// Users who are neither the owner nor of the group may do nothing.
const OTHERS: u32 = 0o007;
/// Whoever may write the file chooses the key.
const GROUP_WRITES: u32 = 0o020;

/// The cluster key cannot be had.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("reading key-file {}: {}; {}", .path.display(), crate::words(.source), unread(.path, .source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "key-file {} may be used by others (its mode is {mode:03o}): whoever has the key speaks for a node; \
         `chmod 640 {0}`, and make a new key if somebody may have read it", .path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds no key.
    #[error("key-file {} holds no key ({why}): it has one line of 64 hexadecimal digits, as `vipd keygen` prints it", .path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

/// What to do: where the file is there, a new key on one host would part it from the others.
fn unread(path: &Path, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied {
        let path = path.display();
        return format!("vipd's own user has to read it: `chgrp vipd {path} && chmod 640 {path}`");
    }
    "copy it from another node; `vipd keygen` prints a new key".to_owned()
}

/// The secret that all hosts of a cluster share. It is never shown.
#[derive(Clone)]
pub struct ClusterKey(hkdf::Prk);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey")
    }
}

impl ClusterKey {
    /// Reads the key from its file.
    ///
    /// # Errors
    /// [`KeyError`], which names the file and what to do.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & (OTHERS | GROUP_WRITES) != 0 {
            return Err(KeyError::Open { path: path.to_owned(), mode });
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).map_err(unreadable)?;
        let text = String::from_utf8_lossy(&bytes);
        Self::parse(&text).map_err(|why| KeyError::NoKey { path: path.to_owned(), why })
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let line = lines.next().ok_or("it is empty")?;
        if lines.next().is_some() {
            return Err("it has more than one line");
        }
        let bytes = HEXLOWER_PERMISSIVE.decode(line.as_bytes()).map_err(|_| "not hexadecimal digits")?;
        let key: [u8; LENGTH] = bytes.try_into().map_err(|_| "not of the right length")?;
        if key == [0; LENGTH] {
            return Err("it is all zeros");
        }
        Ok(Self::new(&key))
    }

    pub(super) fn new(secret: &[u8; LENGTH]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, b"vipd cluster key 1").extract(secret))
    }

    /// A key for one purpose and the names it is for.
    pub(super) fn derive(&self, purpose: &str, names: &[&str]) -> [u8; LENGTH] {
        let mut info = Vec::new();
        for part in std::iter::once(&purpose).chain(names) {
            // Each with its length: no two lists of names have the same bytes.
            info.extend((part.len() as u64).to_be_bytes());
            info.extend(part.as_bytes());
        }
        let mut key = [0; LENGTH];
        let parts = [&*info];
        // It refuses only more than 255 blocks.
        let done = self.0.expand(&parts, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut key));
        assert!(done.is_ok(), "invariant: HKDF gives one block");
        key
    }

    /// The same, for HMAC-SHA-256.
    pub(super) fn derive_hmac(&self, purpose: &str, names: &[&str]) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.derive(purpose, names))
    }
}

/// A new key as a file holds it.
///
/// # Errors
/// The system has no randomness.
pub fn generate() -> io::Result<String> {
    let mut key = [0; LENGTH];
    SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("the system has no randomness"))?;
    Ok(data_encoding::HEXLOWER.encode(&key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    fn load(text: &str, mode: u32) -> Result<ClusterKey, Box<dyn std::error::Error>> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        std::fs::set_permissions(file.path(), Permissions::from_mode(mode))?;
        Ok(ClusterKey::load(file.path())?)
    }

    fn refusal(text: &str, mode: u32) -> String {
        load(text, mode).map_or_else(|e| e.to_string(), |_| "taken".to_owned())
    }

    #[test]
    fn a_new_key_is_read_and_no_two_are_alike() -> Result<(), Box<dyn std::error::Error>> {
        let (a, b) = (generate()?, generate()?);
        assert_ne!(a, b);
        let read = |text: &str| load(&format!("# the key of orders\n\n {text} \n"), 0o600);
        let derived = |text: &str| Ok::<_, Box<dyn std::error::Error>>(read(text)?.derive("x", &["a", "b"]));
        assert_eq!(derived(&a)?, derived(&a.to_uppercase())?);
        assert_ne!(derived(&a)?, derived(&b)?);
        Ok(())
    }

    #[test]
    fn what_is_derived_differs_by_purpose_and_names() {
        let key = ClusterKey::new(&[7; LENGTH]);
        let all = [
            key.derive("a", &["b", "c"]),
            key.derive("a", &["bc"]),
            key.derive("ab", &["c"]),
            key.derive("a", &["c", "b"]),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(!all[..n].contains(one));
        }
    }

    #[test]
    fn files_that_others_may_use_are_refused_by_name() {
        let key = "11".repeat(LENGTH);
        for mode in [0o600, 0o400, 0o640] {
            assert_eq!(refusal(&key, mode), "taken", "{mode:o}");
        }
        for mode in [0o604, 0o644, 0o660, 0o602, 0o666] {
            let said = refusal(&key, mode);
            assert!(
                said.contains(&format!("its mode is {mode:03o}")) && said.contains("chmod 640 /"),
                "{said}"
            );
        }
    }

    #[test]
    fn what_is_no_key_is_told_apart() {
        for (text, why) in [
            ("", "it is empty"),
            ("# nothing\n", "it is empty"),
            ("zz", "not hexadecimal digits"),
            ("1122", "not of the right length"),
            (&"00".repeat(LENGTH), "all zeros"),
            (&format!("{0}\n{0}", "11".repeat(LENGTH)), "more than one line"),
        ] {
            let said = refusal(text, 0o600);
            assert!(said.contains(why) && said.contains("vipd keygen"), "{said}");
        }
        let missing = ClusterKey::load(Path::new("/nowhere/cluster.key")).map_err(|e| e.to_string());
        assert!(missing.is_err_and(|e| e.starts_with("reading key-file /nowhere/cluster.key: no such file")));
    }
}
