//! The secret of a status page that others can reach.

use data_encoding::BASE64;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A shorter one can be guessed; a longer one is some other file.
const LENGTH: std::ops::RangeInclusive<usize> = 16..=256;

/// The secret's digest: comparing digests tells nothing of where two texts differ.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error(
        "[status] token-file = {path:?}: {}; `openssl rand -base64 24 | install -m 640 -g vipd /dev/stdin {}` writes \
         one that vipd may read", crate::words(.source), .path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// What is in it is no secret.
    #[error(
        "[status] token-file = {0:?}: a secret has 16 to 256 characters without blanks: `openssl rand -base64 24` prints one"
    )]
    Shape(PathBuf),
}

impl Token {
    /// Reads the secret: the file's text without blanks around it.
    ///
    /// # Errors
    /// The file cannot be read, or holds no secret.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TokenError::Read { path: path.to_owned(), source })?;
        Self::new(text.trim()).ok_or_else(|| TokenError::Shape(path.to_owned()))
    }

    /// A secret, if it is one.
    #[must_use]
    pub fn new(secret: &str) -> Option<Self> {
        let plain = secret.bytes().all(|b| b.is_ascii_graphic());
        (LENGTH.contains(&secret.len()) && plain).then(|| Self(Sha256::digest(secret).into()))
    }

    /// Whether a request shows it: as a bearer, or as the password of any user.
    pub(super) fn opens(&self, headers: &HeaderMap) -> bool {
        let Some(shown) = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()) else { return false };
        let Some((scheme, rest)) = shown.split_once(' ') else { return false };
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => self.is(rest.trim().as_bytes()),
            "basic" => {
                let Ok(pair) = BASE64.decode(rest.trim().as_bytes()) else { return false };
                let colon = pair.iter().position(|b| *b == b':');
                colon.and_then(|at| pair.get(at.saturating_add(1)..)).is_some_and(|secret| self.is(secret))
            }
            _ => false,
        }
    }

    fn is(&self, secret: &[u8]) -> bool {
        self.0 == <[u8; 32]>::from(Sha256::digest(secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opens(header: &str) -> bool {
        let token = Token::new("correct-horse-battery").expect("long enough");
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, header.parse().expect("a header's value"));
        token.opens(&headers)
    }

    #[test]
    fn the_secret_and_nothing_else_opens() {
        assert!(opens("Bearer correct-horse-battery"));
        assert!(opens("bearer  correct-horse-battery"));
        assert!(opens(&format!("Basic {}", BASE64.encode(b"any:correct-horse-battery"))));
        assert!(opens(&format!("Basic {}", BASE64.encode(b":correct-horse-battery"))));
        for wrong in
            ["", "Bearer", "Bearer ", "Bearer correct-horse", "correct-horse-battery", "Digest x", "Basic !"]
        {
            assert!(!opens(wrong), "{wrong}");
        }
        assert!(!opens(&format!("Basic {}", BASE64.encode(b"correct-horse-battery"))));
    }

    #[test]
    fn a_secret_has_a_length() {
        assert!(Token::new("short").is_none());
        assert!(Token::new("sixteen letters!").is_none(), "a blank");
        assert!(Token::new(&"x".repeat(257)).is_none());
        let dir = tempfile::tempdir().expect("a scratch directory");
        let path = dir.path().join("token");
        assert!(Token::read(&path).expect_err("absent").to_string().contains("openssl rand"));
        std::fs::write(&path, "0123456789abcdef\n").expect("ours");
        assert!(Token::read(&path).is_ok());
    }
}
