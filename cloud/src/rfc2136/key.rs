//! The key that signs updates (TSIG, RFC 8945).

use data_encoding::BASE64;
use hickory_proto::rr::TSigner;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

use crate::names::{self, BadName};

/// By how much the clocks may differ, in seconds (RFC 8945, section 10).
const FUDGE: u16 = 300;

/// How a key signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Algorithm {
    /// hmac-sha256
    HmacSha256,
    /// hmac-sha384
    HmacSha384,
    /// hmac-sha512
    HmacSha512,
}

impl Algorithm {
    /// The name that RFC 8945 gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha384 => "hmac-sha384",
            Self::HmacSha512 => "hmac-sha512",
        }
    }
}

impl FromStr for Algorithm {
    type Err = BadKey;

    fn from_str(name: &str) -> Result<Self, BadKey> {
        [Self::HmacSha256, Self::HmacSha384, Self::HmacSha512]
            .into_iter()
            .find(|a| a.name() == name.trim_end_matches('.').to_ascii_lowercase())
            .ok_or_else(|| BadKey::Algorithm(name.to_owned()))
    }
}

/// A key that cannot be used.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum BadKey {
    /// The name is none.
    #[error("the key's name: {0}")]
    Name(#[from] BadName),
    /// Not an algorithm of ours.
    #[error("{0:?} is not one of hmac-sha256, hmac-sha384 and hmac-sha512")]
    Algorithm(String),
    /// Not base64, or nothing.
    #[error("the secret is not base64, as `dnsd keygen`, tsig-keygen and keymgr print it")]
    Secret,
}

/// A key that signs updates.
#[derive(Clone)]
pub struct Key {
    pub(super) signer: TSigner,
    algorithm: Algorithm,
}

impl Key {
    /// A key with the secret in base64; white space around it does not matter.
    ///
    /// # Errors
    /// The name is no domain name, or the secret no base64.
    pub fn new(name: &str, algorithm: Algorithm, secret: &str) -> Result<Self, BadKey> {
        let secret = BASE64.decode(secret.trim().as_bytes()).map_err(|_| BadKey::Secret)?;
        if secret.is_empty() {
            return Err(BadKey::Secret);
        }
        let hmac = match algorithm {
            Algorithm::HmacSha256 => TsigAlgorithm::HmacSha256,
            Algorithm::HmacSha384 => TsigAlgorithm::HmacSha384,
            Algorithm::HmacSha512 => TsigAlgorithm::HmacSha512,
        };
        let name = names::parse(name)?;
        let signer = TSigner::new(secret, hmac, name, FUDGE)
            .map_err(|_| BadKey::Algorithm(algorithm.name().to_owned()))?;
        Ok(Self { signer, algorithm })
    }

    pub(super) fn name(&self) -> String {
        self.signer.signer_name().to_string()
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the secret.
        write!(f, "Key({} {})", self.name(), self.algorithm.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_and_keep_their_secret() {
        let key = Key::new("vipd.", Algorithm::HmacSha384, " c2VjcmV0\n").unwrap();
        assert_eq!(format!("{key:?}"), "Key(vipd. hmac-sha384)");
        assert_eq!(key.signer.key(), b"secret");
        assert_eq!(Key::new("vipd.", Algorithm::HmacSha256, "?").unwrap_err(), BadKey::Secret);
        assert_eq!(Key::new("vipd.", Algorithm::HmacSha256, "").unwrap_err(), BadKey::Secret);
        assert!(matches!(Key::new("a..b", Algorithm::HmacSha256, "c2VjcmV0"), Err(BadKey::Name(_))));
    }

    #[test]
    fn algorithms_are_read_as_bind_and_knot_write_them() {
        assert_eq!("HMAC-SHA512".parse(), Ok(Algorithm::HmacSha512));
        assert_eq!("hmac-sha256.".parse(), Ok(Algorithm::HmacSha256));
        assert_eq!("hmac-md5".parse::<Algorithm>(), Err(BadKey::Algorithm("hmac-md5".to_owned())));
    }
}
