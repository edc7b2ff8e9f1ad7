//! What each client address has of a listener: sessions, and new ones in a second.
//!
//! Kept only for listeners that limit it. Shards keep workers out of each
//! other's way; an entry without sessions and without a recent one goes when
//! its shard is next used, a second later at the soonest.

use crate::stats::CloseCause;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 16;

/// Addresses that a shard remembers, 65,536 in all (about 3 MB a listener):
/// far more than have sessions at a time, and a flood from more addresses than
/// that is none that a limit for each of them could stop. Those beyond are let
/// in without being counted; the listener's `max-connections` bounds them.
const REMEMBERED: usize = 4096;

/// An IPv4 address, or the network that is one IPv6 customer's (a /64: within
/// it anybody has as many addresses as they like).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Source {
    V4(u32),
    V6(u64),
}

impl Source {
    fn of(client: IpAddr) -> Self {
        match client.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Sources {
    /// `u32::MAX` stands for no limit, in both.
    max: AtomicU32,
    max_rate: AtomicU32,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Source, Entry>,
    /// The second in which it was last rid of what is over.
    swept: u64,
}

#[derive(Debug, Default)]
struct Entry {
    sessions: u32,
    /// The second of the latest, how many came in it, and in the one before.
    second: u64,
    came: u32,
    before: u32,
}

impl Entry {
    fn over(&self, second: u64) -> bool {
        self.sessions == 0 && self.second + 1 < second
    }

    /// Those that came within the last second, taken as even within each
    /// second of the clock (HAProxy's `freq_ctr` does the same).
    fn recent(&mut self, now: u64) -> u64 {
        let second = now / 1_000_000_000;
        if second > self.second {
            self.before = if second == self.second + 1 { self.came } else { 0 };
            self.came = 0;
            self.second = second;
        }
        let left = 1_000 - now / 1_000_000 % 1_000;
        u64::from(self.came) + u64::from(self.before) * left / 1_000
    }
}

impl Sources {
    pub(crate) fn new() -> Self {
        Self {
            max: AtomicU32::new(u32::MAX),
            max_rate: AtomicU32::new(u32::MAX),
            hasher: RandomState::new(),
            shards: Default::default(),
        }
    }

    /// Sessions that are not counted when a limit comes stay uncounted.
    pub(crate) fn set(&self, max: Option<u32>, max_rate: Option<u32>) {
        self.max.store(max.unwrap_or(u32::MAX), Ordering::Relaxed);
        self.max_rate.store(max_rate.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub(crate) fn limited(&self) -> bool {
        self.max.load(Ordering::Relaxed) != u32::MAX || self.max_rate.load(Ordering::Relaxed) != u32::MAX
    }

    fn shard(&self, source: Source) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[self.hasher.hash_one(source) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a new session, or tells why there may be none. `None` if it is
    /// let in uncounted.
    pub(crate) fn enter(&self, client: IpAddr, now: u64) -> Result<Option<Source>, CloseCause> {
        let source = Source::of(client);
        let mut shard = self.shard(source);
        shard.sweep(now);
        if shard.entries.len() >= REMEMBERED && !shard.entries.contains_key(&source) {
            return Ok(None);
        }
        let entry = shard.entries.entry(source).or_default();
        if entry.sessions >= self.max.load(Ordering::Relaxed) {
            return Err(CloseCause::SourceLimit);
        }
        if entry.recent(now) >= self.max_rate.load(Ordering::Relaxed).into() {
            return Err(CloseCause::SourceRate);
        }
        entry.sessions += 1;
        entry.came = entry.came.saturating_add(1);
        Ok(Some(source))
    }

    /// The end of a session that was counted.
    pub(crate) fn leave(&self, source: Source, now: u64) {
        let mut shard = self.shard(source);
        if let Some(entry) = shard.entries.get_mut(&source) {
            entry.sessions = entry.sessions.saturating_sub(1);
        }
        shard.sweep(now);
    }

    /// Addresses that are remembered.
    pub(crate) fn len(&self) -> usize {
        let len = |s: &Mutex<Shard>| s.lock().unwrap_or_else(PoisonError::into_inner).entries.len();
        self.shards.iter().map(len).sum()
    }
}

impl Shard {
    fn sweep(&mut self, now: u64) {
        let second = now / 1_000_000_000;
        if self.swept < second {
            self.swept = second;
            self.entries.retain(|_, e| !e.over(second));
            if self.entries.capacity() > 4 * self.entries.len() {
                self.entries.shrink_to(2 * self.entries.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const SECOND: u64 = 1_000_000_000;

    fn limits(max: Option<u32>, rate: Option<u32>) -> Sources {
        let sources = Sources::new();
        sources.set(max, rate);
        sources
    }

    fn v6(network: u16, host: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host).into()
    }

    #[test]
    fn sessions_of_one_source_are_limited() {
        let sources = limits(Some(2), None);
        assert!(sources.limited() && !Sources::new().limited());
        let one = sources.enter(v6(1, 1), 0).expect("the first");
        sources.enter(v6(1, 2), 0).expect("the second, of the same network");
        assert_eq!(sources.enter(v6(1, 3), 0), Err(CloseCause::SourceLimit));
        sources.enter(v6(2, 1), 0).expect("another network");
        sources.leave(one.expect("counted"), 0);
        sources.enter(v6(1, 3), 0).expect("there is room again");
        // An IPv4 client is the same on a socket of IPv6.
        let v4 = Ipv4Addr::new(192, 0, 2, 1);
        sources.enter(v4.into(), 0).expect("the first");
        sources.enter(v4.to_ipv6_mapped().into(), 0).expect("the second");
        assert_eq!(sources.enter(v4.into(), 0), Err(CloseCause::SourceLimit));
    }

    #[test]
    fn new_sessions_of_one_source_in_a_second_are_limited() {
        let sources = limits(None, Some(10));
        let client = v6(1, 1);
        let came = |now: u64| (0..50).filter(|_| sources.enter(client, now).is_ok()).count();
        assert_eq!(came(5 * SECOND + SECOND / 2), 10);
        // Half of the last clock second still counts, then a tenth, then nothing.
        assert_eq!(came(6 * SECOND + SECOND / 2), 5);
        assert_eq!(came(6 * SECOND + 9 * SECOND / 10), 4);
        assert_eq!(came(9 * SECOND), 10);
        assert_eq!(sources.enter(client, 9 * SECOND), Err(CloseCause::SourceRate));
    }

    #[test]
    fn what_is_over_vanishes_and_memory_is_bounded() {
        let sources = limits(Some(1), Some(1));
        let clients = (0..100_000_u32).map(|n| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n)));
        let entered: Vec<_> = clients.map(|c| sources.enter(c, SECOND).expect("a new one")).collect();
        assert!(sources.len() <= SHARDS * REMEMBERED, "{}", sources.len());
        assert!(entered.iter().any(Option::is_none) && entered.iter().flatten().count() == sources.len());
        entered.iter().flatten().for_each(|s| sources.leave(*s, SECOND));
        assert!(sources.len() > 1000, "they came within this second");
        // So many that each shard is visited.
        let visits = 64 * SHARDS;
        for n in (0..u16::MAX).take(visits) {
            let source = sources.enter(v6(n, 0), 4 * SECOND).expect("a new one");
            sources.leave(source.expect("room for it"), 7 * SECOND);
        }
        assert!(sources.len() <= visits && visits < SHARDS * REMEMBERED / 8, "{}", sources.len());
    }
}
