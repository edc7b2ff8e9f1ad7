//! Update leases (RFC 9664): records that somebody must renew.
//!
//! Time is the monotonic clock's. The journal knows how long a lease is and
//! not when it ends: after a restart each one runs from the beginning, since
//! nobody could renew it while the server was away.

use crate::message::OPTION_LEASE;
use crate::update::{Leases, RecordKey};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use vipd_config::dnsd;

/// The lease that a request asks for, in seconds, within the zone's bounds;
/// `None` when the option has neither 4 nor 8 bytes (RFC 9664, section 4).
#[must_use]
pub fn granted(option: &[u8], settings: &dnsd::Zone) -> Option<u32> {
    let (4 | 8, Some(lease)) = (option.len(), option.first_chunk::<4>()) else { return None };
    let asked = Duration::from_secs(u32::from_be_bytes(*lease).into());
    let granted = asked.clamp(settings.min_lease, settings.max_lease.max(settings.min_lease));
    Some(u32::try_from(granted.as_secs()).unwrap_or(u32::MAX))
}

/// What the answer says (RFC 9664, section 4.1): the option in its short form.
#[must_use]
pub fn answer(lease: u32) -> (u16, [u8; 4]) {
    (OPTION_LEASE, lease.to_be_bytes())
}

/// The leases of a zone, each with its length and its end.
#[derive(Debug, Default)]
pub struct Table {
    leases: BTreeMap<RecordKey, (u32, Instant)>,
    ends: BTreeSet<(Instant, RecordKey)>,
}

impl Table {
    /// From a journal: each lease begins now.
    #[must_use]
    pub fn new(leases: &Leases, now: Instant) -> Self {
        let mut table = Self::default();
        table.apply(leases, now);
        table
    }

    /// Grants, renews and ends leases.
    pub fn apply(&mut self, leases: &Leases, now: Instant) {
        for (key, lease) in leases {
            if let Some((_, end)) = self.leases.remove(key) {
                self.ends.remove(&(end, key.clone()));
            }
            if let Some(lease) = *lease {
                let end = now + Duration::from_secs(lease.into());
                self.leases.insert(key.clone(), (lease, end));
                self.ends.insert((end, key.clone()));
            }
        }
    }

    /// What differs from what is known, by this table or by `pending` upon it:
    /// the rest need not be written.
    #[must_use]
    pub fn news(&self, pending: &Leases, leases: &Leases) -> Leases {
        let own = |key: &RecordKey| self.leases.get(key).map(|(lease, _)| *lease);
        let known = |key: &RecordKey| pending.get(key).copied().unwrap_or_else(|| own(key));
        leases.iter().filter(|(key, lease)| known(key) != **lease).map(|(k, l)| (k.clone(), *l)).collect()
    }

    /// When the next lease ends.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// The leases that have ended, the oldest first.
    #[must_use]
    pub fn ended(&self, now: Instant) -> Vec<RecordKey> {
        self.ends.iter().take_while(|(end, _)| *end <= now).map(|(_, key)| key.clone()).collect()
    }

    /// All of them, with their length.
    #[must_use]
    pub fn all(&self) -> Leases {
        self.leases.iter().map(|(key, (lease, _))| (key.clone(), Some(*lease))).collect()
    }

    /// Lets a lease begin again that ended and whose record stays.
    pub fn again(&mut self, key: &RecordKey, now: Instant) {
        if let Some((lease, _)) = self.leases.get(key) {
            let lease = Some(*lease);
            self.apply(&Leases::from([(key.clone(), lease)]), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::from_text;

    fn key(data: u8) -> RecordKey {
        (from_text("db.corp.example."), 1, vec![10, 0, 0, data])
    }

    #[test]
    fn leases_end_in_their_order_and_can_be_renewed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let granted = Leases::from([(key(1), Some(30)), (key(2), Some(40))]);
        let mut table = Table::new(&granted, start);
        assert_eq!((table.next(), table.ended(at(29)).len()), (Some(at(30)), 0));
        assert_eq!(table.ended(at(30)), [key(1)]);
        table.apply(&Leases::from([(key(1), Some(30))]), at(20));
        assert_eq!(table.next(), Some(at(40)));
        assert_eq!(table.ended(at(60)), [key(2), key(1)]);
        let none = Leases::new();
        assert!(table.news(&none, &granted).is_empty(), "a renewal of the same length is no news");
        assert_eq!(table.news(&none, &Leases::from([(key(1), None), (key(3), None)])).len(), 1);
        // An update before it, written together with it, has ended one and granted another.
        let pending = Leases::from([(key(1), None), (key(3), Some(30))]);
        assert_eq!(table.news(&pending, &granted), Leases::from([(key(1), Some(30))]));
        let ends = Leases::from([(key(1), None), (key(3), None)]);
        assert_eq!(table.news(&pending, &ends), Leases::from([(key(3), None)]));
        table.apply(&Leases::from([(key(2), None)]), at(20));
        assert_eq!(table.all().len(), 1);
        table.again(&key(1), at(60));
        assert_eq!(table.next(), Some(at(90)));
    }
}
