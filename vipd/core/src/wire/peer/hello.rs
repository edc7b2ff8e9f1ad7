//! "I am here", and all that a node tells of itself with it.
//!
//! ```text
//! count, (vrid, state, priority, flags) each; count, 4 bytes of digest each;
//! count, 16 bytes of address each (IPv4 mapped);
//! -- absent in earlier releases:
//! count, (pool of 4 bytes, server of 4 bytes) each;
//! -- absent in earlier releases:
//! run of 4 bytes;
//! -- absent in earlier releases:
//! an epoch of 4 bytes for each of the primaries above;
//! count, 4 bytes of a node that is heard each; count, 6 bytes of Ethernet address each;
//! count, (vrid, seen, address, 0, owner of 4 bytes, Ethernet address of 6 bytes, 2 x 0,
//!         microseconds of 4 bytes) each;
//! count, (pool of 4 bytes, server of 4 bytes, word, 3 x 0) each;
//! -- absent where these are all:
//! pool and server, pool and server: of the servers from the one to the other these are all
//! ```

use super::{GroupReport, Malformed, Reader, State};
use crate::wire::Mac;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU8;
use std::time::Duration;

const MAX_DIGESTS: usize = 16;
/// Addresses that a hello tells; a host advertises from two an interface.
pub const MAX_SOURCES: usize = 32;
/// Primaries that a hello tells; a cluster has a pool for each, seldom more than a few.
pub const MAX_INCUMBENTS: usize = 64;
/// Nodes that a hello says it hears: all of a cluster.
const MAX_HEARD: usize = 64;
/// Interfaces with groups: of a host with more, the others' answers are named by no node.
pub const MAX_MACS: usize = 16;
/// Takeovers that a hello tells of; of more, the next ones with each hello.
pub const MAX_SIGHTINGS: usize = 32;
/// Servers in dispute that a hello tells of; of more, the next ones with each hello.
pub const MAX_VERDICTS: usize = 64;
/// Everything that a hello may hold, with its nine counts and the run.
pub(super) const MAX_BODY: usize = 8
    + 255 * 4
    + MAX_DIGESTS * 4
    + MAX_SOURCES * 16
    + MAX_INCUMBENTS * 12
    + 4
    + MAX_HEARD * 4
    + MAX_MACS * 6
    + MAX_SIGHTINGS * 20
    + MAX_VERDICTS * 12
    + 16;

/// "I am here": sent at a steady rhythm and at every change.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hello {
    /// The sender's groups.
    pub groups: Vec<GroupReport>,
    /// Digests of the settings that must agree, in the configuration's order of keys.
    pub digests: Vec<u32>,
    /// The addresses it advertises from, at most [`MAX_SOURCES`].
    pub sources: Vec<IpAddr>,
    /// The primaries that its pools follow, at most [`MAX_INCUMBENTS`].
    pub incumbents: Vec<Incumbent>,
    /// Tells the sender's runs apart; 0 from a release that does not say.
    pub run: u32,
    /// [`super::node_id`] of the nodes that it hears; absent from a release that does not say.
    pub hears: Option<Vec<u32>>,
    /// The Ethernet addresses that it answers with, at most [`MAX_MACS`].
    pub macs: Vec<Mac>,
    /// Who answers for other nodes' groups as it sees it, at most [`MAX_SIGHTINGS`].
    pub sightings: Vec<Sighting>,
    /// What it thinks of servers that some node cannot reach, and of the
    /// primaries, at most [`MAX_VERDICTS`].
    pub verdicts: Vec<Verdict>,
    /// The servers of which those verdicts are all.
    pub among: Among,
}

/// Servers by their pool's number and their own, from the first to the last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Among {
    /// [`super::pool_id`] and [`super::server_id`].
    pub first: (u32, u32),
    /// The same, included.
    pub last: (u32, u32),
}

impl Default for Among {
    /// All there are.
    fn default() -> Self {
        Self { first: (0, 0), last: (u32::MAX, u32::MAX) }
    }
}

impl Among {
    /// Whether a server of a pool is one of them.
    #[must_use]
    pub fn holds(&self, pool: u32, server: u32) -> bool {
        (self.first..=self.last).contains(&(pool, server))
    }
}

/// The server that a pool follows as its primary.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Incumbent {
    /// [`super::pool_id`] of the pool.
    pub pool: u32,
    /// [`super::server_id`] of the server.
    pub server: u32,
    /// Counts the changes of that pool's primary: who says the greater one knows more.
    pub epoch: u32,
}

/// Who answers ARP or neighbour discovery for a group, asked after a takeover.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sighting {
    /// The group.
    pub vrid: NonZeroU8,
    /// [`super::node_id`] of the node that took it over.
    pub owner: u32,
    /// The address asked for, as a position in the group's list.
    pub address: u8,
    /// Who answered.
    pub seen: Seen,
    /// From the owner's first advert to the answer, in microseconds.
    pub took: Duration,
}

/// Who answers for an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seen {
    /// Nobody, although asked several times.
    Nobody,
    /// Whoever has this Ethernet address.
    By(Mac),
}

/// What a node's own checks say of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// [`super::pool_id`] of the pool.
    pub pool: u32,
    /// [`super::server_id`] of the server.
    pub server: u32,
    /// What they say.
    pub word: Word,
}

/// What a check said the last time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Word {
    /// It failed.
    Failed,
    /// It was answered, by one without a role.
    Answers,
    /// It was answered by a primary.
    Primary,
    /// It was answered by a replica.
    Replica,
}

impl Word {
    /// All words.
    pub const ALL: [Self; 4] = [Self::Failed, Self::Answers, Self::Primary, Self::Replica];

    const fn code(self) -> u8 {
        match self {
            Self::Failed => 0,
            Self::Answers => 1,
            Self::Primary => 2,
            Self::Replica => 3,
        }
    }
}

/// Writes a list's count and its items, no more than `most`.
fn list<T>(bytes: &mut Vec<u8>, items: &[T], most: usize, mut each: impl FnMut(&mut Vec<u8>, &T)) {
    let items = &items[..items.len().min(most)];
    bytes.push(u8::try_from(items.len()).unwrap_or(u8::MAX));
    for item in items {
        each(bytes, item);
    }
}

impl Hello {
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        list(bytes, &self.groups, usize::from(u8::MAX), |bytes, g| {
            let flags = u8::from(g.serving) | u8::from(g.deposed) << 1;
            bytes.extend([g.vrid.get(), g.state.code(), g.priority, flags]);
        });
        list(bytes, &self.digests, MAX_DIGESTS, |bytes, digest| bytes.extend(digest.to_be_bytes()));
        list(bytes, &self.sources, MAX_SOURCES, |bytes, source| {
            let six = match source {
                IpAddr::V4(four) => four.to_ipv6_mapped(),
                IpAddr::V6(six) => *six,
            };
            bytes.extend(six.octets());
        });
        list(bytes, &self.incumbents, MAX_INCUMBENTS, |bytes, i| {
            bytes.extend(i.pool.to_be_bytes());
            bytes.extend(i.server.to_be_bytes());
        });
        bytes.extend(self.run.to_be_bytes());
        let Some(hears) = &self.hears else { return };
        for incumbent in self.incumbents.iter().take(MAX_INCUMBENTS) {
            bytes.extend(incumbent.epoch.to_be_bytes());
        }
        list(bytes, hears, MAX_HEARD, |bytes, node| bytes.extend(node.to_be_bytes()));
        list(bytes, &self.macs, MAX_MACS, |bytes, mac| bytes.extend(mac));
        list(bytes, &self.sightings, MAX_SIGHTINGS, |bytes, s| {
            let (seen, mac) = match s.seen {
                Seen::Nobody => (0, [0; 6]),
                Seen::By(mac) => (1, mac),
            };
            bytes.extend([s.vrid.get(), seen, s.address, 0]);
            bytes.extend(s.owner.to_be_bytes());
            bytes.extend(mac);
            bytes.extend([0, 0]);
            bytes.extend(u32::try_from(s.took.as_micros()).unwrap_or(u32::MAX).to_be_bytes());
        });
        list(bytes, &self.verdicts, MAX_VERDICTS, |bytes, v| {
            bytes.extend(v.pool.to_be_bytes());
            bytes.extend(v.server.to_be_bytes());
            bytes.extend([v.word.code(), 0, 0, 0]);
        });
        let Among { first, last } = self.among;
        if self.among != Among::default() {
            for number in [first.0, first.1, last.0, last.1] {
                bytes.extend(number.to_be_bytes());
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut hello = Self {
            groups: reader.list(usize::from(u8::MAX), read_group)?,
            digests: reader.list(MAX_DIGESTS, |r| Ok(u32::from_be_bytes(r.take()?)))?,
            sources: reader
                .list(MAX_SOURCES, |r| Ok(IpAddr::V6(Ipv6Addr::from(r.take::<16>()?)).to_canonical()))?,
            ..Self::default()
        };
        if reader.is_empty() {
            return Ok(hello);
        }
        hello.incumbents = reader.list(MAX_INCUMBENTS, |r| {
            let (pool, server) = (u32::from_be_bytes(r.take()?), u32::from_be_bytes(r.take()?));
            Ok(Incumbent { pool, server, epoch: 0 })
        })?;
        if reader.is_empty() {
            return Ok(hello);
        }
        hello.run = u32::from_be_bytes(reader.take()?);
        if reader.is_empty() {
            return Ok(hello);
        }
        for incumbent in &mut hello.incumbents {
            incumbent.epoch = u32::from_be_bytes(reader.take()?);
        }
        hello.hears = Some(reader.list(MAX_HEARD, |r| Ok(u32::from_be_bytes(r.take()?)))?);
        hello.macs = reader.list(MAX_MACS, Reader::take)?;
        hello.sightings = reader.list(MAX_SIGHTINGS, read_sighting)?;
        hello.verdicts = reader.list(MAX_VERDICTS, read_verdict)?;
        if reader.is_empty() {
            return Ok(hello);
        }
        let mut number = || Ok(u32::from_be_bytes(reader.take()?));
        hello.among = Among { first: (number()?, number()?), last: (number()?, number()?) };
        Ok(hello)
    }
}

fn read_group(reader: &mut Reader<'_>) -> Result<GroupReport, Malformed> {
    let [vrid, state, priority, flags] = reader.take()?;
    let vrid = NonZeroU8::new(vrid).ok_or(Malformed::Garbage)?;
    let state = State::ALL.into_iter().find(|s| s.code() == state).ok_or(Malformed::Garbage)?;
    Ok(GroupReport { vrid, state, priority, serving: flags & 1 != 0, deposed: flags & 2 != 0 })
}

fn read_sighting(reader: &mut Reader<'_>) -> Result<Sighting, Malformed> {
    let [vrid, seen, address, _] = reader.take()?;
    let vrid = NonZeroU8::new(vrid).ok_or(Malformed::Garbage)?;
    let owner = u32::from_be_bytes(reader.take()?);
    let mac: Mac = reader.take()?;
    let [_, _] = reader.take()?;
    let took = Duration::from_micros(u32::from_be_bytes(reader.take()?).into());
    let seen = match seen {
        0 => Seen::Nobody,
        1 => Seen::By(mac),
        _ => return Err(Malformed::Garbage),
    };
    Ok(Sighting { vrid, owner, address, seen, took })
}

fn read_verdict(reader: &mut Reader<'_>) -> Result<Verdict, Malformed> {
    let (pool, server) = (u32::from_be_bytes(reader.take()?), u32::from_be_bytes(reader.take()?));
    let [word, _, _, _] = reader.take()?;
    let word = Word::ALL.into_iter().find(|w| w.code() == word).ok_or(Malformed::Garbage)?;
    Ok(Verdict { pool, server, word })
}

impl Reader<'_> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A list with its count, of no more than `most` items.
    fn list<T>(
        &mut self,
        most: usize,
        mut each: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let [count] = self.take()?;
        if usize::from(count) > most {
            return Err(Malformed::Garbage);
        }
        (0..count).map(|_| each(self)).collect()
    }
}
