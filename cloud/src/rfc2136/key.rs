//! The key that signs updates (TSIG, RFC 8945).

use data_encoding::BASE64;
use hickory_proto::rr::TSigner;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use std::fmt;
use thiserror::Error;
use vipd_core::settings::KeyAlgorithm;

use crate::names::{self, BadName};

/// By how much the clocks may differ, in seconds (RFC 8945, section 10).
const FUDGE: u16 = 300;

/// A key that cannot be used.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum BadKey {
    /// The name is none.
    #[error("the key's name: {0}")]
    Name(#[from] BadName),
    /// The program's library has no such hash.
    #[error("this program cannot sign with {}", .0.name())]
    Algorithm(KeyAlgorithm),
    /// Not base64, or nothing.
    #[error("the secret is not base64, as `dnsd keygen`, tsig-keygen and keymgr print it")]
    Secret,
}

/// A key that signs updates.
#[derive(Clone)]
pub struct Key {
    pub(super) signer: TSigner,
    algorithm: KeyAlgorithm,
}

impl Key {
    /// A key with the secret in base64; white space around it does not matter.
    ///
    /// # Errors
    /// The name is no domain name, or the secret no base64.
    pub fn new(name: &str, algorithm: KeyAlgorithm, secret: &str) -> Result<Self, BadKey> {
        let secret = BASE64.decode(secret.trim().as_bytes()).map_err(|_| BadKey::Secret)?;
        if secret.is_empty() {
            return Err(BadKey::Secret);
        }
        let hmac = match algorithm {
            KeyAlgorithm::HmacSha256 => TsigAlgorithm::HmacSha256,
            KeyAlgorithm::HmacSha384 => TsigAlgorithm::HmacSha384,
            KeyAlgorithm::HmacSha512 => TsigAlgorithm::HmacSha512,
        };
        let name = names::parse(name)?;
        let signer = TSigner::new(secret, hmac, name, FUDGE).map_err(|_| BadKey::Algorithm(algorithm))?;
        Ok(Self { signer, algorithm })
    }

    pub(super) fn name(&self) -> String {
        self.signer.signer_name().to_string()
    }

    pub(super) fn algorithm(&self) -> KeyAlgorithm {
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
        let key = Key::new("vipd.", KeyAlgorithm::HmacSha384, " c2VjcmV0\n").unwrap();
        assert_eq!(format!("{key:?}"), "Key(vipd. hmac-sha384)");
        assert_eq!(key.signer.key(), b"secret");
        assert_eq!(Key::new("vipd.", KeyAlgorithm::HmacSha256, "?").unwrap_err(), BadKey::Secret);
        assert_eq!(Key::new("vipd.", KeyAlgorithm::HmacSha256, "").unwrap_err(), BadKey::Secret);
        assert!(matches!(Key::new("a..b", KeyAlgorithm::HmacSha256, "c2VjcmV0"), Err(BadKey::Name(_))));
    }
}
