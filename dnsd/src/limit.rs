//! Response rate limiting: a forged source shall not make this server its weapon.
//!
//! Counts equal answers a second to a network, as BIND and Knot do. The table
//! has a fixed size; two answers that fall onto one place push each other out,
//! which errs on the side of answering.

use siphasher::sip::SipHasher13;
use std::hash::Hasher as _;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use tracing::warn;
use vipd_config::dnsd::RateLimit;

/// Places of the table: 12 bytes each, one table a UDP socket.
const PLACES: usize = 1 << 14;

#[derive(Clone, Copy, Default)]
struct Place {
    tag: u32,
    second: u32,
    count: u32,
}

/// Lines a second about refusals that anybody can cause.
const LINES: u32 = 10;

/// Keeps whoever has no key from filling the log.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<(u64, u32)>);

impl Complaints {
    /// Whether there may be one more line in this second, in seconds since 1970.
    /// Tells how many there were not, once the next one begins.
    pub fn may_tell(&self, now: u64) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != now {
            let held = last.1.saturating_sub(LINES);
            if held > 0 {
                warn!(lines = held, "more refusals were not told of");
            }
            *last = (now, 0);
        }
        last.1 = last.1.saturating_add(1);
        last.1 <= LINES
    }
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Send it.
    Send,
    /// Send a truncated one in its place: an honest client comes back over TCP.
    Slip,
    /// Send nothing.
    Drop,
}

/// The counts of one socket.
pub struct Limiter {
    places: Box<[Place]>,
    key: [u8; 16],
}

impl Limiter {
    /// An empty table.
    ///
    /// # Errors
    ///
    /// When the system gives no random bytes.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 16];
        getrandom::fill(&mut key)?;
        Ok(Self { places: vec![Place::default(); PLACES].into(), key })
    }

    /// Counts an answer: `about` is what makes it equal to others.
    pub fn judge(&mut self, limit: &RateLimit, from: IpAddr, about: &[u8], second: u32) -> Verdict {
        if limit.responses_per_second == 0 || limit.exempt.iter().any(|net| net.contains(from)) {
            return Verdict::Send;
        }
        let mut hasher = SipHasher13::new_with_key(&self.key);
        match from {
            IpAddr::V4(v4) => hasher.write(&v4.octets()[..3]),
            IpAddr::V6(v6) => hasher.write(&v6.octets()[..7]),
        }
        hasher.write(about);
        let hash = hasher.finish();
        let index = usize::try_from(hash % PLACES as u64).unwrap_or(0);
        let tag = u32::try_from(hash >> 32).unwrap_or(0);
        let place = &mut self.places[index];
        if (place.tag, place.second) != (tag, second) {
            *place = Place { tag, second, count: 0 };
        }
        place.count = place.count.saturating_add(1);
        match place.count.checked_sub(limit.responses_per_second) {
            None | Some(0) => Verdict::Send,
            Some(above) if limit.slip > 0 && above % limit.slip == 0 => Verdict::Slip,
            Some(_) => Verdict::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vipd_core::settings::Cidr;

    fn limit(exempt: Vec<Cidr>) -> RateLimit {
        RateLimit { responses_per_second: 3, slip: 2, exempt }
    }

    #[test]
    fn ten_complaints_a_second() {
        let complaints = Complaints::default();
        let told = |second| (0..25).filter(|_| complaints.may_tell(second)).count();
        assert_eq!((told(7), told(7), told(8)), (10, 0, 10));
    }

    #[test]
    fn above_the_limit_every_other_answer_is_a_truncated_one() {
        let (mut limiter, limit) = (Limiter::new().unwrap(), limit(vec![]));
        let mut judge =
            |from: &str, about: &[u8], second| limiter.judge(&limit, from.parse().unwrap(), about, second);
        use Verdict::{Drop, Send, Slip};
        let found: Vec<_> = (0..7).map(|i| judge(&format!("192.0.2.{i}"), b"a", 1)).collect();
        assert_eq!(found, [Send, Send, Send, Drop, Slip, Drop, Slip], "one network");
        assert_eq!(judge("192.0.3.1", b"a", 1), Send, "another network");
        assert_eq!(judge("192.0.2.1", b"b", 1), Send, "another answer");
        assert_eq!(judge("192.0.2.1", b"a", 2), Send, "another second");
    }

    #[test]
    fn exempt_networks_have_no_limit() {
        let net = |text: &str, prefix| Cidr::new(text.parse().unwrap(), prefix).unwrap();
        let (mut limiter, limit) = (Limiter::new().unwrap(), limit(vec![net("192.0.2.0", 25), net("::", 0)]));
        let mut last =
            |from: &str| (0..9).map(|_| limiter.judge(&limit, from.parse().unwrap(), b"a", 1)).last();
        assert_eq!(last("192.0.2.1"), Some(Verdict::Send));
        assert_eq!(last("2001:db8::1"), Some(Verdict::Send));
        assert_ne!(last("192.0.2.200"), Some(Verdict::Send));
    }
}
