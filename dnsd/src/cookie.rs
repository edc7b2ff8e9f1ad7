//! DNS cookies (RFC 7873) in the form that servers agree on (RFC 9018).

use siphasher::sip::SipHasher24;
use std::hash::Hasher as _;
use std::net::IpAddr;

/// Bytes of a client's cookie.
const CLIENT: usize = 8;
/// Bytes of both cookies.
pub const BOTH: usize = 24;
/// How long a cookie is good, and how far its time may be ahead (RFC 9018, section 4.3).
const AGE: u32 = 3600;
const AHEAD: u32 = 300;

/// Makes and knows cookies.
#[derive(Debug)]
pub struct Cookies {
    secret: [u8; 16],
}

impl Cookies {
    /// With a secret of this process: a client whose cookie is of another one gets a new one.
    ///
    /// # Errors
    ///
    /// When the system gives no random bytes.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret)?;
        Ok(Self { secret })
    }

    /// The cookie to send back.
    #[must_use]
    pub fn make(&self, client: &[u8], from: IpAddr, now: u32) -> [u8; BOTH] {
        let mut cookie = [0; BOTH];
        cookie[..CLIENT].copy_from_slice(&client[..CLIENT]);
        cookie[CLIENT] = 1;
        cookie[12..16].copy_from_slice(&now.to_be_bytes());
        let hash = self.hash(&cookie[..16], from);
        cookie[16..].copy_from_slice(&hash);
        cookie
    }

    /// Whether a cookie is one that this client was given lately.
    #[must_use]
    pub fn known(&self, cookie: &[u8], from: IpAddr, now: u32) -> bool {
        let (Some(head), Some(hash)) = (cookie.get(..16), cookie.get(16..BOTH)) else { return false };
        let made = u32::from_be_bytes([head[12], head[13], head[14], head[15]]);
        let age = now.wrapping_sub(made);
        cookie.len() == BOTH
            && head[CLIENT] == 1
            && (age <= AGE || age.wrapping_neg() <= AHEAD)
            && self.hash(head, from) == *hash
    }

    /// RFC 9018, section 4.4: SipHash-2-4 of cookie and address.
    fn hash(&self, head: &[u8], from: IpAddr) -> [u8; 8] {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(head);
        match from {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        hasher.finish().to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9018, appendix A.1 and A.2.
    #[test]
    fn the_rfcs_own_cookie() {
        let secret = data_encoding::HEXLOWER.decode(b"e5e973e5a6b2a43f48e7dc849e37bfcf").unwrap();
        let cookies = Cookies { secret: secret.try_into().unwrap() };
        let client = data_encoding::HEXLOWER.decode(b"2464c4abcf10c957").unwrap();
        let from = "198.51.100.100".parse().unwrap();
        let cookie = cookies.make(&client, from, 1_559_731_985);
        assert_eq!(
            data_encoding::HEXLOWER.encode(&cookie),
            "2464c4abcf10c957010000005cf79f111f8130c3eee29480"
        );
        assert!(cookies.known(&cookie, from, 1_559_734_385));
        assert!(!cookies.known(&cookie, from, 1_559_731_985 + AGE + 1), "too old");
        assert!(
            !cookies.known(&cookie, "198.51.100.101".parse().unwrap(), 1_559_731_985),
            "another client's"
        );
        assert!(!cookies.known(&cookie[..16], from, 1_559_731_985));
    }
}
