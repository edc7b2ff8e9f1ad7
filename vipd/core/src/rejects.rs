//! Packets that were not accepted: counted by cause and sender, told once a
//! minute for each, never a change of state.

use crate::time::Time;
use crate::wire::{advert, peer};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// A cause and sender is told of once in this time.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Pairs of cause and sender that are kept, so that a flood of forged senders
/// costs neither memory nor log: beyond that, a sender takes the place of one
/// that has been quiet for [`TELL_EVERY`], and all others share one entry a cause.
const MAX_PAIRS: usize = 128;
/// A sender that was silent for so long is forgotten; its packets stay counted by cause.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// Why a packet was not accepted.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Reject {
    /// The bytes are no advert.
    Advert(advert::Malformed),
    /// The bytes are no peer message.
    Peer(peer::Malformed),
    /// The TTL or hop limit is not 255: it may have come through a router.
    Ttl,
    /// A virtual router that is not configured here.
    UnknownVrid,
    /// A node of ours advertises an address of this group under another VRID.
    OtherVrid,
    /// An advert in the other version.
    VersionMismatch,
    /// A version 2 advert with another interval (RFC 3768 section 7.1).
    IntervalMismatch,
    /// The sender is not in the list of nodes.
    UnknownSender,
    /// Another cluster's advert or message.
    ForeignCluster,
    /// This node's own address, used by somebody else.
    OwnAddress,
    /// A node's name from an address that is not that node's.
    NodeName,
    /// Sealed with another cluster key, or not sealed by a node at all.
    WrongKey,
    /// Not sealed, where a cluster key is set.
    Unsealed,
    /// A copy of what was said before.
    Replay,
    /// An advert of a run of its sender that is over.
    OldRun,
    /// A release of a node whose run the peer link has not proven.
    Unproven,
    /// Changed on its way.
    Forged,
    /// More handshakes than a node needs.
    TooOften,
}

impl Reject {
    /// The cause's word, as in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Advert(malformed) => match malformed {
                advert::Malformed::Truncated => "truncated",
                advert::Malformed::Oversized => "oversized",
                advert::Malformed::Version => "unknown-version",
                advert::Malformed::Type => "unknown-type",
                advert::Malformed::VridZero => "vrid-zero",
                advert::Malformed::CountZero => "no-address",
                advert::Malformed::IntervalZero => "interval-zero",
                advert::Malformed::Authentication => "authentication",
                advert::Malformed::Checksum => "wrong-checksum",
            },
            Self::Peer(malformed) => match malformed {
                peer::Malformed::Garbage => "peer-garbage",
                peer::Malformed::Version(_) => "peer-version",
                peer::Malformed::Sealed => "peer-sealed",
            },
            Self::Ttl => "ttl",
            Self::UnknownVrid => "unknown-vrid",
            Self::OtherVrid => "other-vrid",
            Self::VersionMismatch => "version-mismatch",
            Self::IntervalMismatch => "interval-mismatch",
            Self::UnknownSender => "unknown-sender",
            Self::ForeignCluster => "foreign-cluster",
            Self::OwnAddress => "own-address",
            Self::NodeName => "node-name",
            Self::WrongKey => "wrong-key",
            Self::Unsealed => "unsealed",
            Self::Replay => "replay",
            Self::OldRun => "old-run",
            Self::Unproven => "unproven",
            Self::Forged => "forged",
            Self::TooOften => "too-often",
        }
    }

    /// What it means and what to do, for the log.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Advert(_) => "it is damaged or forged",
            Self::Peer(peer::Malformed::Garbage) => "something else uses the peer port",
            Self::Peer(peer::Malformed::Version(_)) => "that host runs a newer vipd: upgrade this one",
            Self::Peer(peer::Malformed::Sealed) => {
                "it seals what it says with a cluster key: give this host the same `key-file`"
            }
            Self::Ttl => {
                "its TTL is not 255, so it may come from another link (keepalived over IPv6 unicast needs \
                 `unicast_ttl 255`)"
            }
            Self::UnknownVrid => {
                "no VIP on the interface it came by has this VRID: another cluster, files that differ, or a wrong \
                 `interface`"
            }
            Self::OtherVrid => {
                "it advertises an address of ours under another VRID: the files differ, or it is forged"
            }
            Self::VersionMismatch => {
                "it speaks the other `vrrp-version`, and may not hear this node: give both the same"
            }
            Self::IntervalMismatch => {
                "VRRPv2 wants the same `advert-interval` of every router: it may not count this node's adverts"
            }
            Self::UnknownSender => {
                "it is not in `[cluster] nodes`: add it, or give one cluster another `vrid`"
            }
            Self::ForeignCluster => "another cluster uses this VRID or port: give one of them another",
            Self::OwnAddress => {
                "another host uses this host's address, or the network sends this host's packets back"
            }
            Self::NodeName => "another host runs under this node's name",
            Self::WrongKey => "it speaks with another cluster key: give every host the same `key-file`",
            Self::Unsealed => "it has no `key-file`: give it this host's, or it is forged",
            Self::Replay | Self::OldRun => {
                "a copy of what was said before, or it came too late: two hosts run as that node, a host was frozen, \
                 or somebody sends copies; it is not taken"
            }
            Self::Unproven => {
                "a release counts only while the sealed link works: is the UDP port `peer-port` open both ways?"
            }
            Self::Forged => "somebody or something changes packets on their way; they do no harm",
            Self::TooOften => {
                "a node asks for sessions again and again, or somebody in its name; they are not answered"
            }
        }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        if let Self::Peer(peer::Malformed::Version(version)) = self {
            write!(f, " {version}")?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    count: u64,
    told_at: Time,
    last: Time,
}

/// One line of the count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rejected {
    /// The cause.
    pub cause: Reject,
    /// The sender; absent where too many senders share an entry.
    pub sender: Option<IpAddr>,
    /// Packets so far.
    pub count: u64,
    /// How long ago the last one came.
    pub ago: Duration,
}

/// The counts.
#[derive(Clone, Debug, Default)]
pub struct Rejects {
    senders: BTreeMap<(Reject, Option<IpAddr>), Entry>,
    /// By cause, since the start.
    totals: BTreeMap<&'static str, u64>,
}

impl Rejects {
    /// Counts a packet. Returns the count if it is time to tell somebody.
    pub fn count(&mut self, cause: Reject, sender: IpAddr, now: Time) -> Option<Rejected> {
        *self.totals.entry(cause.as_str()).or_default() += 1;
        let known = self.senders.contains_key(&(cause, Some(sender)));
        if !known {
            self.senders.retain(|_, entry| now - entry.last < FORGET_AFTER);
        }
        let sender = (known || self.make_room(now)).then_some(sender);
        let mut first = false;
        let entry = self.senders.entry((cause, sender)).or_insert_with(|| {
            first = true;
            Entry { count: 0, told_at: now, last: now }
        });
        entry.count += 1;
        entry.last = now;
        if first || now - entry.told_at >= TELL_EVERY {
            entry.told_at = now;
            return Some(Rejected { cause, sender, count: entry.count, ago: Duration::ZERO });
        }
        None
    }

    /// Whether one more sender can have an entry of its own. What was counted
    /// for the one that makes room stays counted by cause, and nowhere else: the
    /// entry of those that share is of the packets that had no other.
    fn make_room(&mut self, now: Time) -> bool {
        let own = || self.senders.iter().filter(|((_, sender), _)| sender.is_some());
        if own().count() < MAX_PAIRS {
            return true;
        }
        let oldest = own().min_by_key(|(_, entry)| entry.last).map(|(key, entry)| (*key, entry.last));
        let Some((key, _)) = oldest.filter(|(_, last)| now - *last >= TELL_EVERY) else {
            return false;
        };
        self.senders.remove(&key);
        true
    }

    /// The counts of the last hour's senders, those with the most packets first.
    #[must_use]
    pub fn list(&self, now: Time) -> Vec<Rejected> {
        let senders = self.senders.iter().map(|((cause, sender), entry)| Rejected {
            cause: *cause,
            sender: *sender,
            count: entry.count,
            ago: now - entry.last,
        });
        let mut list: Vec<_> = senders.filter(|r| r.ago < FORGET_AFTER).collect();
        list.sort_by_key(|r| std::cmp::Reverse(r.count));
        list
    }

    /// The counts by cause since the start.
    #[must_use]
    pub const fn totals(&self) -> &BTreeMap<&'static str, u64> {
        &self.totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_cause_and_sender_is_told_of_once_a_minute() {
        let mut rejects = Rejects::default();
        let sender = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let at = |s| Time::ZERO + Duration::from_secs(s);
        let mut told = |cause, seconds| rejects.count(cause, sender, at(seconds)).map(|r| r.count);
        assert_eq!(told(Reject::Ttl, 0), Some(1));
        assert_eq!(told(Reject::Ttl, 59), None);
        assert_eq!(told(Reject::UnknownVrid, 59), Some(1));
        assert_eq!(told(Reject::Ttl, 60), Some(3));
        let list = rejects.list(at(61));
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].count, list[0].ago), (3, Duration::from_secs(1)));
    }

    #[test]
    fn a_flood_of_senders_costs_neither_memory_nor_log() {
        let mut rejects = Rejects::default();
        let sender = |n| IpAddr::V4(Ipv4Addr::from_bits(n));
        let told = (0..100_000).filter_map(|n| rejects.count(Reject::Ttl, sender(n), Time::ZERO)).last();
        let last = told.expect("the first of those that share");
        assert_eq!((last.sender, last.count), (None, 1));
        assert_eq!(rejects.senders.len(), MAX_PAIRS + 1);
        assert_eq!(rejects.list(Time::ZERO).iter().map(|r| r.count).sum::<u64>(), 100_000);
    }

    #[test]
    fn a_sender_is_forgotten_after_an_hour_and_its_packets_are_not() {
        let mut rejects = Rejects::default();
        let sender = |n| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n));
        let at = |s| Time::ZERO + Duration::from_secs(s);
        rejects.count(Reject::Ttl, sender(1), at(0));
        for n in 1..4 {
            rejects.count(Reject::Ttl, sender(2), at(n));
        }
        let senders = |rejects: &Rejects, now| rejects.list(now).iter().map(|r| r.sender).collect::<Vec<_>>();
        assert_eq!(senders(&rejects, at(3599)), [Some(sender(2)), Some(sender(1))], "the most first");
        assert_eq!(senders(&rejects, at(3600)), [Some(sender(2))]);
        rejects.count(Reject::Ttl, sender(3), at(3700));
        assert_eq!(rejects.senders.len(), 1, "room for others");
        assert_eq!(rejects.totals().get("ttl"), Some(&5));
    }

    #[test]
    fn after_a_flood_a_sender_is_told_apart_again() {
        let mut rejects = Rejects::default();
        let sender = |n| IpAddr::V4(Ipv4Addr::from_bits(n));
        for n in 0..1_000 {
            rejects.count(Reject::Ttl, sender(n), Time::ZERO);
        }
        let later = Time::ZERO + TELL_EVERY;
        for n in 2_000..2_200 {
            rejects.count(Reject::UnknownVrid, sender(n), later);
        }
        let own: Vec<_> = rejects.list(later).into_iter().filter(|r| r.sender.is_some()).collect();
        assert!(own.iter().all(|r| r.cause == Reject::UnknownVrid), "the oldest made room");
        assert_eq!(own.len(), MAX_PAIRS);
        // What was counted stays counted, by cause; and once.
        assert_eq!(rejects.totals().get("ttl"), Some(&1_000));
        let ttl: Vec<_> = rejects.list(later).into_iter().filter(|r| r.cause == Reject::Ttl).collect();
        let shared = 1_000 - u64::try_from(MAX_PAIRS).expect("a small number");
        assert_eq!(ttl.iter().map(|r| (r.sender, r.count)).collect::<Vec<_>>(), [(None, shared)]);
    }
}
