//! What nodes tell each other beside VRRP: small UDP datagrams on the peer port.
//!
//! VRRP's backups are silent, and its owners know nothing of them. These
//! messages say who is there and prepare a planned switchover; ownership
//! itself moves only by adverts, so that a network that drops them costs
//! comfort and never safety.
//!
//! ```text
//! "VIPD" | version 1 | kind | 0 0 | cluster, 8 bytes | sender, 4 bytes | body
//! hello    kind 1: see [`hello`]
//! prepare  kind 2: vrid, 3 x 0, nonce of 4 bytes, next owner of 4 bytes
//! ready    kind 3: vrid, 3 x 0, nonce of 4 bytes
//! request  kind 4: vrid, vote version 1, flags, 0, run of 4 bytes, number of 8 bytes, lease in milliseconds of 4 bytes
//! grant    kind 5: vrid, vote version 1, 0, 0, run, number
//! refuse   kind 6: vrid, vote version 1, 0, 0, run, number, holder of 4 bytes (0: none), milliseconds left of 4 bytes
//! release  kind 7: vrid, vote version 1, 0, 0, run, number
//! ```
//! Kinds 4 to 7 are the quorum lease's ([`crate::lease`]).
//! Numbers are big-endian; nodes are named by a hash of their name, so that
//! files that differ between hosts cannot make one node pass for another.

pub mod hello;

pub use hello::{
    Among, Hello, Incumbent, MAX_INCUMBENTS, MAX_SIGHTINGS, MAX_SOURCES, MAX_VERDICTS, Seen, Sighting,
    Verdict, Word,
};

use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

const MAGIC: [u8; 4] = *b"VIPD";
const VERSION: u8 = 1;
/// The version of datagrams that are sealed with the cluster key; the core never sees what is in them.
pub const SEALED_VERSION: u8 = 2;
/// Of the messages of the quorum lease.
const VOTE_VERSION: u8 = 1;
const HEADER: usize = 20;
/// Longest message: everything that a hello may hold.
pub const MAX_LENGTH: usize = HEADER + hello::MAX_BODY;

/// A cluster's number in messages: a hash of its name.
#[must_use]
pub fn cluster_id(name: &str) -> u64 {
    hash("cluster", name)
}

/// A node's number in messages: a hash of its name.
#[must_use]
pub fn node_id(name: &str) -> u32 {
    u32::try_from(hash("node", name) >> 32).unwrap_or(0)
}

/// A pool's number in messages: a hash of its name.
#[must_use]
pub fn pool_id(name: &str) -> u32 {
    u32::try_from(hash("pool", name) >> 32).unwrap_or(0)
}

/// A server's number in messages: a hash of its name.
#[must_use]
pub fn server_id(name: &str) -> u32 {
    u32::try_from(hash("server", name) >> 32).unwrap_or(0)
}

fn hash(kind: &str, name: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x7669_7064, 0x7065_6572);
    hasher.write(kind.as_bytes());
    hasher.write(name.as_bytes());
    hasher.finish()
}

/// A message and who sent it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Envelope {
    /// [`cluster_id`] of the sender's cluster.
    pub cluster: u64,
    /// [`node_id`] of the sender.
    pub sender: u32,
    /// What it says.
    pub message: Message,
}

/// What a node says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// "I am here": sent at a steady rhythm and at every change.
    Hello(Hello),
    /// "Hold the group's addresses silently: you are to own them next."
    Prepare {
        /// The group.
        vrid: NonZeroU8,
        /// Ties the answer to the question.
        nonce: u32,
        /// [`node_id`] of the next owner; the others wait a rank longer.
        to: u32,
    },
    /// "I hold them."
    Ready {
        /// The group.
        vrid: NonZeroU8,
        /// The question's.
        nonce: u32,
    },
    /// "Promise me the group."
    Request {
        /// Of which group, in which run.
        ballot: Ballot,
        /// For how long: whole milliseconds.
        lease: Duration,
        /// The sender wants it from a living owner of lower priority.
        preempt: bool,
    },
    /// "I do", in answer to a request.
    Grant(Ballot),
    /// "I cannot", in answer to a request.
    Refuse {
        /// The request's.
        ballot: Ballot,
        /// [`node_id`] of the node that has the promise, if one has.
        holder: Option<NonZeroU32>,
        /// For how long still: whole milliseconds.
        left: Duration,
    },
    /// "I own nothing by requests up to this one."
    Release(Ballot),
}

/// A request of a run of a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ballot {
    /// The group.
    pub vrid: NonZeroU8,
    /// The asking node's run.
    pub run: u32,
    /// The request's number in that run.
    pub number: u64,
}

/// A group as its node sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GroupReport {
    /// The group.
    pub vrid: NonZeroU8,
    /// The node's state in it.
    pub state: State,
    /// The node's priority in it.
    pub priority: u8,
    /// Whether every listener that the group tracks has a usable server.
    pub serving: bool,
    /// It owned until now, and gave way to another owner: its clients must learn
    /// that one's Ethernet address.
    pub deposed: bool,
}

/// A virtual router's state, as users see it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum State {
    /// Not taking part (yet, or any more).
    Init,
    /// Following an owner.
    Backup,
    /// Owning the addresses.
    Active,
    /// Unable to take part.
    Fault,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Init, Self::Backup, Self::Active, Self::Fault];

    /// The state's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Active => "active",
            Self::Fault => "fault",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Init => 0,
            Self::Backup => 1,
            Self::Active => 2,
            Self::Fault => 3,
        }
    }
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, thiserror::Error)]
pub enum Malformed {
    /// Not a message of vipd's, or cut short.
    #[error("peer-garbage")]
    Garbage,
    /// A version this program does not speak, and which.
    #[error("peer-version")]
    Version(u8),
    /// It is sealed, and this node has no key.
    #[error("peer-sealed")]
    Sealed,
}

impl Message {
    /// Whether it is of the quorum lease, by which hosts may own.
    #[must_use]
    pub const fn is_vote(&self) -> bool {
        match self {
            Self::Request { .. } | Self::Grant(_) | Self::Refuse { .. } | Self::Release(_) => true,
            Self::Hello(_) | Self::Prepare { .. } | Self::Ready { .. } => false,
        }
    }
}

impl Envelope {
    /// Writes the message.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let kind = match self.message {
            Message::Hello(_) => 1,
            Message::Prepare { .. } => 2,
            Message::Ready { .. } => 3,
            Message::Request { .. } => 4,
            Message::Grant(_) => 5,
            Message::Refuse { .. } => 6,
            Message::Release(_) => 7,
        };
        let mut bytes = Vec::with_capacity(MAX_LENGTH);
        bytes.extend(MAGIC);
        bytes.extend([VERSION, kind, 0, 0]);
        bytes.extend(self.cluster.to_be_bytes());
        bytes.extend(self.sender.to_be_bytes());
        match &self.message {
            Message::Hello(hello) => hello.write(&mut bytes),
            Message::Prepare { vrid, nonce, to } => {
                bytes.extend([vrid.get(), 0, 0, 0]);
                bytes.extend(nonce.to_be_bytes());
                bytes.extend(to.to_be_bytes());
            }
            Message::Ready { vrid, nonce } => {
                bytes.extend([vrid.get(), 0, 0, 0]);
                bytes.extend(nonce.to_be_bytes());
            }
            Message::Request { ballot, lease, preempt } => {
                write_ballot(&mut bytes, *ballot, u8::from(*preempt));
                bytes.extend(millis(*lease).to_be_bytes());
            }
            Message::Grant(ballot) | Message::Release(ballot) => write_ballot(&mut bytes, *ballot, 0),
            Message::Refuse { ballot, holder, left } => {
                write_ballot(&mut bytes, *ballot, 0);
                bytes.extend(holder.map_or(0, NonZeroU32::get).to_be_bytes());
                bytes.extend(millis(*left).to_be_bytes());
            }
        }
        bytes
    }

    /// Reads a message; what follows it is ignored, so that later versions may add to it.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        if reader.take::<4>()? != MAGIC {
            return Err(Malformed::Garbage);
        }
        let [version, kind, _, _] = reader.take::<4>()?;
        match version {
            VERSION => {}
            SEALED_VERSION => return Err(Malformed::Sealed),
            other => return Err(Malformed::Version(other)),
        }
        let cluster = u64::from_be_bytes(reader.take()?);
        let sender = u32::from_be_bytes(reader.take()?);
        let message = match kind {
            1 => Message::Hello(Hello::read(&mut reader)?),
            2 => Message::Prepare {
                vrid: reader.vrid()?,
                nonce: u32::from_be_bytes(reader.take()?),
                to: u32::from_be_bytes(reader.take()?),
            },
            3 => Message::Ready { vrid: reader.vrid()?, nonce: u32::from_be_bytes(reader.take()?) },
            4 => {
                let (ballot, flags) = reader.ballot()?;
                Message::Request { ballot, lease: reader.millis()?, preempt: flags & 1 != 0 }
            }
            5 => Message::Grant(reader.ballot()?.0),
            6 => Message::Refuse {
                ballot: reader.ballot()?.0,
                holder: NonZeroU32::new(u32::from_be_bytes(reader.take()?)),
                left: reader.millis()?,
            },
            7 => Message::Release(reader.ballot()?.0),
            _ => return Err(Malformed::Garbage),
        };
        Ok(Self { cluster, sender, message })
    }
}

fn write_ballot(bytes: &mut Vec<u8>, ballot: Ballot, flags: u8) {
    bytes.extend([ballot.vrid.get(), VOTE_VERSION, flags, 0]);
    bytes.extend(ballot.run.to_be_bytes());
    bytes.extend(ballot.number.to_be_bytes());
}

/// Whole milliseconds, rounded up.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// Reads fixed pieces from the front of bytes.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed::Garbage)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A ballot and its flags.
    fn ballot(&mut self) -> Result<(Ballot, u8), Malformed> {
        let [vrid, version, flags, _] = self.take()?;
        let vrid = NonZeroU8::new(vrid).ok_or(Malformed::Garbage)?;
        if version != VOTE_VERSION {
            return Err(Malformed::Version(version));
        }
        let run = u32::from_be_bytes(self.take()?);
        Ok((Ballot { vrid, run, number: u64::from_be_bytes(self.take()?) }, flags))
    }

    fn millis(&mut self) -> Result<Duration, Malformed> {
        Ok(Duration::from_millis(u32::from_be_bytes(self.take()?).into()))
    }

    fn vrid(&mut self) -> Result<NonZeroU8, Malformed> {
        let [vrid, _, _, _] = self.take()?;
        NonZeroU8::new(vrid).ok_or(Malformed::Garbage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv6Addr};

    fn messages() -> Vec<Message> {
        let vrid = NonZeroU8::MAX;
        let ballot = Ballot { vrid, run: 7, number: u64::MAX };
        let groups = State::ALL
            .into_iter()
            .map(|state| GroupReport {
                vrid,
                state,
                priority: 200,
                serving: state == State::Active,
                deposed: state == State::Backup,
            })
            .collect();
        vec![
            Message::Hello(Hello {
                groups,
                digests: vec![1, u32::MAX],
                sources: vec![IpAddr::from([10, 77, 0, 11]), IpAddr::V6(Ipv6Addr::LOCALHOST)],
                incumbents: [7, 0]
                    .map(|epoch| Incumbent { pool: pool_id("primary"), server: server_id("db1"), epoch })
                    .to_vec(),
                run: u32::MAX,
                hears: Some(vec![node_id("px2")]),
                macs: vec![[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
                sightings: vec![
                    Sighting {
                        vrid,
                        owner: node_id("px2"),
                        address: 3,
                        seen: Seen::By([2, 0, 0, 0, 0, 9]),
                        took: Duration::from_micros(1_500),
                    },
                    Sighting { vrid, owner: 1, address: 0, seen: Seen::Nobody, took: Duration::ZERO },
                ],
                verdicts: Word::ALL.map(|word| Verdict { pool: 1, server: 2, word }).to_vec(),
                among: Among::default(),
            }),
            Message::Hello(Hello { run: 9, hears: Some(vec![]), ..Hello::default() }),
            Message::Prepare { vrid, nonce: 7, to: node_id("px2") },
            Message::Ready { vrid, nonce: 7 },
            Message::Request { ballot, lease: Duration::from_millis(750), preempt: true },
            Message::Grant(ballot),
            Message::Refuse { ballot, holder: NonZeroU32::new(3), left: Duration::from_millis(9) },
            Message::Refuse { ballot, holder: None, left: Duration::ZERO },
            Message::Release(ballot),
        ]
    }

    #[test]
    fn what_is_written_is_read_and_nothing_shorter() {
        for message in messages() {
            let sent = Envelope { cluster: cluster_id("orders"), sender: node_id("px1"), message };
            let bytes = sent.write();
            assert!(bytes.len() <= MAX_LENGTH);
            assert_eq!(Envelope::parse(&bytes), Ok(sent));
            let mut ends = 0;
            for shorter in 0..bytes.len() {
                let Ok(read) = Envelope::parse(&bytes[..shorter]) else { continue };
                // A hello of an earlier release: it ends before what later ones added.
                let Message::Hello(hello) = &read.message else { panic!("{shorter} of {}", bytes.len()) };
                assert_eq!(hello.hears, None, "{shorter} of {}", bytes.len());
                ends += 1;
            }
            assert!(ends == 0 || ends == 3, "{ends} ends");
        }
    }

    #[test]
    fn a_hello_says_of_which_servers_its_verdicts_are_all() {
        let verdicts = vec![Verdict { pool: 1, server: 2, word: Word::Failed }];
        let hello =
            |among| Hello { hears: Some(vec![]), verdicts: verdicts.clone(), among, ..Hello::default() };
        let envelope = |hello| Envelope { cluster: 1, sender: 2, message: Message::Hello(hello) };
        let some = Among { first: (1, 2), last: (1, u32::MAX) };
        assert!(some.holds(1, 2) && some.holds(1, 3) && !some.holds(1, 1) && !some.holds(2, 0));
        let part = envelope(hello(some));
        assert_eq!(Envelope::parse(&part.write()).as_ref(), Ok(&part));
        // A release before that takes it for all there are, as it always was.
        let all = envelope(hello(Among::default()));
        let bytes = part.write();
        assert_eq!(all.write(), bytes[..bytes.len() - 16]);
        assert_eq!(Envelope::parse(&all.write()), Ok(all));
    }

    #[test]
    fn a_later_version_is_told_apart_from_garbage() {
        let message = Message::Ready { vrid: NonZeroU8::MIN, nonce: 0 };
        let mut bytes = Envelope { cluster: 1, sender: 2, message }.write();
        bytes[4] = 3;
        assert_eq!(Envelope::parse(&bytes), Err(Malformed::Version(3)));
        bytes[4] = SEALED_VERSION;
        assert_eq!(Envelope::parse(&bytes), Err(Malformed::Sealed));
        bytes[0] = 0;
        assert_eq!(Envelope::parse(&bytes), Err(Malformed::Garbage));
    }

    #[test]
    fn numbers_are_the_same_in_every_build() {
        assert_eq!(node_id("px1"), node_id("px1"));
        assert_ne!(node_id("px1"), node_id("px2"));
        assert_ne!(cluster_id("orders"), cluster_id("order"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), real in any::<bool>()) {
            if real && bytes.len() > 5 {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4] = VERSION;
                bytes[5] %= 8;
            }
            let _ = Envelope::parse(&bytes);
        }
    }
}
