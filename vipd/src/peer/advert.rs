//! The seal on adverts: who sent one, in which run, and that it is not a copy.
//!
//! ```text
//! VRRP advert | sender, 4 bytes | epoch, 4 bytes | number, 8 bytes | HMAC, 12 bytes
//! ```
//! The seal follows the advert and the IP header tells its length, so the advert itself is as RFC 9568
//! has it; 28 bytes behind it are what keepalived's own HMAC takes, and who
//! does not know seals ignores them. The HMAC is over the IP source and
//! destination, too: a copy for another node is worth nothing.
//!
//! Numbers only rise within a run of the sender (its epoch). A receiver takes
//! an epoch when the peer link has proven it, or, while there is no link (a
//! firewall may drop it), when it is later than all that it knows of. The crash
//! guard's farewells have numbers of their own, above all others: after them
//! the run is over.

use super::key::ClusterKey;
use ring::hmac;
use std::collections::BTreeMap;
use std::net::IpAddr;
use vipd_core::rejects::Reject;
use vipd_core::settings::Family;
use vipd_core::wire::peer;

/// HMAC-SHA-256 cut to 96 bits (RFC 2104 section 5; RFC 4868 cuts to 128, which
/// would be longer than what others ignore).
const TAG: usize = 12;
/// Bytes of a seal.
pub const SEAL: usize = 4 + 4 + 8 + TAG;
/// Where the guard's numbers begin.
const FAREWELLS: u64 = 1 << 63;

/// What is known of a sender's adverts.
#[derive(Debug)]
struct Sender {
    id: u32,
    key: hmac::Key,
    epoch: Option<u32>,
    /// The newest number of each virtual router and family: at most 510.
    newest: BTreeMap<(u8, Family), u64>,
}

/// Seals and opens the adverts of a cluster.
#[derive(Debug)]
pub(super) struct Adverts {
    me: usize,
    epoch: u32,
    number: u64,
    /// One for each member, in the cluster's order.
    senders: Vec<Sender>,
}

/// What the peer link knows of a sender's run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Proven {
    /// The run that was proven last.
    pub(super) epoch: u32,
    /// The link works now.
    pub(super) up: bool,
}

impl Adverts {
    pub(super) fn new<'a>(
        key: &ClusterKey,
        cluster: &str,
        names: impl Iterator<Item = &'a str>,
        me: usize,
        epoch: u32,
    ) -> Self {
        let sender = |name| Sender {
            id: peer::node_id(name),
            key: key.derive_hmac("advert", &[cluster, name]),
            epoch: None,
            newest: BTreeMap::new(),
        };
        Self { me, epoch, number: 0, senders: names.map(sender).collect() }
    }

    /// An advert with its seal.
    pub(super) fn seal(&mut self, source: IpAddr, destination: IpAddr, advert: &[u8]) -> Vec<u8> {
        self.number += 1;
        self.seal_as(self.number, source, destination, advert)
    }

    /// The guard's farewell of this position in its list: the same each time,
    /// for only one of those prepared is ever sent.
    pub(super) fn seal_farewell(
        &self,
        position: usize,
        source: IpAddr,
        destination: IpAddr,
        advert: &[u8],
    ) -> Vec<u8> {
        self.seal_as(FAREWELLS + position as u64, source, destination, advert)
    }

    fn seal_as(&self, number: u64, source: IpAddr, destination: IpAddr, advert: &[u8]) -> Vec<u8> {
        let Some(me) = self.senders.get(self.me) else { return advert.to_vec() };
        let mut bytes = Vec::with_capacity(advert.len() + SEAL);
        bytes.extend(advert);
        bytes.extend(me.id.to_be_bytes());
        bytes.extend(self.epoch.to_be_bytes());
        bytes.extend(number.to_be_bytes());
        let tag = tag(&me.key, source, destination, &bytes);
        bytes.extend(tag.as_ref().iter().take(TAG));
        bytes
    }

    /// The advert behind a good seal. `proven` says what the link knows of a member.
    pub(super) fn open<'a>(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        bytes: &'a [u8],
        proven: impl FnOnce(usize) -> Option<Proven>,
    ) -> Result<&'a [u8], Reject> {
        let (covered, given) = bytes.split_last_chunk::<TAG>().ok_or(Reject::Unsealed)?;
        let (rest, number) = covered.split_last_chunk().ok_or(Reject::Unsealed)?;
        let (rest, epoch) = rest.split_last_chunk().ok_or(Reject::Unsealed)?;
        let (advert, id) = rest.split_last_chunk().ok_or(Reject::Unsealed)?;
        let (number, epoch, id) =
            (u64::from_be_bytes(*number), u32::from_be_bytes(*epoch), u32::from_be_bytes(*id));
        let position = self.senders.iter().position(|s| s.id == id).ok_or(Reject::Unsealed)?;
        let sender = &mut self.senders[position];
        let own = tag(&sender.key, source, destination, covered);
        let same = own.as_ref().iter().zip(given).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0;
        if !same {
            return Err(Reject::WrongKey);
        }
        if position == self.me {
            // Sent back by the network: whoever judges adverts has a word for it.
            return Ok(advert);
        }
        let vrid = *advert.get(1).ok_or(Reject::Unsealed)?;
        sender.enter(epoch, proven(position))?;
        let newest = sender.newest.entry((vrid, Family::of(source))).or_default();
        if number <= *newest {
            return Err(Reject::Replay);
        }
        *newest = number;
        Ok(advert)
    }
}

impl Sender {
    /// Takes an advert's epoch for the sender's current one, or refuses it.
    fn enter(&mut self, epoch: u32, proven: Option<Proven>) -> Result<(), Reject> {
        let latest = proven.map(|p| p.epoch);
        let good = match proven {
            Some(Proven { epoch: proven, up: true }) => epoch == proven,
            Some(Proven { up: false, .. }) | None => {
                self.epoch.max(latest).is_none_or(|known| epoch >= known)
            }
        };
        if !good {
            return Err(Reject::OldRun);
        }
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            self.newest.clear();
        }
        Ok(())
    }
}

fn tag(key: &hmac::Key, source: IpAddr, destination: IpAddr, bytes: &[u8]) -> hmac::Tag {
    let sixteen = |address: IpAddr| match address {
        IpAddr::V4(four) => four.to_ipv6_mapped().octets(),
        IpAddr::V6(six) => six.octets(),
    };
    let mut context = hmac::Context::with_key(key);
    context.update(&sixteen(source));
    context.update(&sixteen(destination));
    context.update(bytes);
    context.sign()
}
