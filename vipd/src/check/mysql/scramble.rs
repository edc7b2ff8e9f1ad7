//! What a client answers to a server's challenge instead of its password.

use rsa::pkcs8::DecodePublicKey;
use sha1::{Digest, Sha1};
use sha2::Sha256;

/// `mysql_native_password`: SHA1(password) XOR SHA1(challenge, SHA1(SHA1(password))).
pub(super) fn native(password: &[u8], challenge: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = Sha1::digest(password);
    let mask = Sha1::new().chain_update(challenge).chain_update(Sha1::digest(once)).finalize();
    once.iter().zip(mask).map(|(a, b)| a ^ b).collect()
}

/// `caching_sha2_password`: SHA256(password) XOR SHA256(SHA256(SHA256(password)), challenge).
pub(super) fn caching_sha2(password: &[u8], challenge: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = Sha256::digest(password);
    let mask = Sha256::new().chain_update(Sha256::digest(once)).chain_update(challenge).finalize();
    once.iter().zip(mask).map(|(a, b)| a ^ b).collect()
}

/// The password for a server that does not remember its hash: ended by a
/// zero, mixed with the challenge, encrypted with RSA-OAEP (SHA-1) under the
/// public key (PEM) that the server sent.
///
/// `None` if the key is no RSA key, or too short for the password.
pub(super) fn encrypted(password: &[u8], challenge: &[u8], pem: &[u8]) -> Option<Vec<u8>> {
    let key = rsa::RsaPublicKey::from_public_key_pem(std::str::from_utf8(pem).ok()?.trim()).ok()?;
    let ended = password.iter().chain([&0]);
    let mixed: Vec<u8> = ended.zip(challenge.iter().cycle()).map(|(a, b)| a ^ b).collect();
    // An empty challenge ends the mix at once: nothing of the password remains.
    if mixed.len() <= password.len() {
        return None;
    }
    key.encrypt(&mut rsa::rand_core::OsRng, rsa::Oaep::new::<Sha1>(), &mixed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsa::pkcs8::EncodePublicKey;

    const NATIVE: &str = "b32bb3a583e1340c0a1108d58b1be49781ad8c2f";
    const SHA2: &str = "746ebe205d56a0707acb3e796e834e0dd7b1d61743b26bd5202c7a623230c7c9";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    // The expected values were computed with Python's hashlib from the
    // formulas of the protocol's manual.
    #[test]
    fn challenges_are_answered() {
        let challenge: Vec<u8> = (1..=20).collect();
        assert_eq!(hex(&native(b"secret", &challenge)), NATIVE);
        assert_eq!(hex(&caching_sha2(b"secret", &challenge)), SHA2);
        assert!(native(b"", &challenge).is_empty() && caching_sha2(b"", &challenge).is_empty());
    }

    #[test]
    fn only_the_keys_owner_reads_the_password() -> Result<(), Box<dyn std::error::Error>> {
        let challenge: Vec<u8> = (1..=20).collect();
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 1024)?;
        let pem = key.to_public_key().to_public_key_pem(rsa::pkcs8::LineEnding::LF)?;
        let password = b"a password longer than the challenge";
        let sent = encrypted(password, &challenge, pem.as_bytes()).ok_or("not encrypted")?;
        let mixed = key.decrypt(rsa::Oaep::new::<Sha1>(), &sent)?;
        let plain: Vec<u8> = mixed.iter().zip(challenge.iter().cycle()).map(|(a, b)| a ^ b).collect();
        assert_eq!(plain.split_last(), Some((&0, &password[..])));
        Ok(())
    }

    #[test]
    fn a_bad_key_is_refused() {
        let challenge = [1; 20];
        for key in [&b""[..], b"\xff\xfe", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"] {
            assert_eq!(encrypted(b"secret", &challenge, key), None);
        }
    }
}
