//! The peer link: everything nodes tell each other, sealed with the cluster key.
//!
//! * [`key`]: the key's file, and what is derived from it.
//! * [`epoch`]: the number of this run.
//! * `link`: handshakes and sessions with one node (Noise, by snow).
//! * `advert`: the seal on adverts.
//! * `frame`: the datagrams.
//!
//! No cryptography is made here: Noise is snow's, hashes are ring's. The core
//! gets opened messages and never learns a key.

mod advert;
mod bucket;
pub mod epoch;
mod frame;
pub mod key;
mod link;
mod session;
#[cfg(test)]
mod tests;
mod window;

use crate::net::is_link_local;
use advert::Adverts;
pub use advert::SEAL;
pub(crate) use bucket::Bucket;
use frame::{Frame, Unreadable};
use key::ClusterKey;
use link::{Ends, Link, Opened};
use std::net::IpAddr;
use std::time::Duration;
use vipd_core::rejects::Reject;
use vipd_core::time::Time;
use vipd_core::wire::peer::{self, Envelope, Malformed};

/// What seals the link, for people.
pub const CIPHER: &str = session::PATTERN;

/// Bytes that a sealed datagram has more than what it carries.
pub const OVERHEAD: usize = 64;

/// A node or witness of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Party {
    /// Its name.
    pub name: String,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
}

/// What came of a packet.
#[derive(Debug, Eq, PartialEq)]
pub enum Received {
    /// It was about a link itself.
    Nothing,
    /// The datagram itself is a message, without a seal.
    Plain,
    /// A message of another node, as the core reads it.
    Message(Vec<u8>),
    /// An advert that came by the peer port.
    Advert(Vec<u8>),
    /// It counts for nothing.
    Refused(Reject),
    /// An advert that came by the peer port counts for nothing.
    RefusedAdvert(Reject, Vec<u8>),
}

/// A link as users see it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LinkStatus {
    /// How long it has been sealed; absent while there is no link.
    pub sealed_for: Option<Duration>,
    /// What went wrong last, in a sentence, and how long ago.
    pub problem: Option<(String, Duration)>,
}

/// What is known of one party.
#[derive(Debug)]
struct Known {
    party: Party,
    /// Absent for this node itself.
    link: Option<Link>,
    problem: Option<(Reject, Time)>,
}

/// The links to all other nodes, and the seal on adverts.
#[derive(Debug)]
pub struct Links {
    parties: Vec<Known>,
    adverts: Adverts,
    /// Messages and adverts without a seal count, too: while a key is brought in.
    accept_unsealed: bool,
}

impl Links {
    /// Links that are still to be made. `me` is this node's place among the
    /// parties, `epoch` the number of this run ([`epoch::begin`]).
    #[must_use]
    pub fn new(
        key: &ClusterKey,
        cluster: &str,
        parties: Vec<Party>,
        me: usize,
        epoch: u32,
        accept_unsealed: bool,
    ) -> Self {
        let adverts = Adverts::new(key, cluster, parties.iter().map(|p| p.name.as_str()), me, epoch);
        let own = parties.get(me).map(|p| p.name.clone()).unwrap_or_default();
        let known = parties.into_iter().enumerate().map(|(n, party)| {
            let ends = Ends { cluster, own: &own, other: &party.name };
            Known { link: (n != me).then(|| Link::new(key, ends, epoch)), party, problem: None }
        });
        Self { parties: known.collect(), adverts, accept_unsealed }
    }

    /// When [`Links::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.links().map(Link::deadline).min().unwrap_or(Time::MAX)
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        self.parties.iter().filter_map(|k| k.link.as_ref())
    }

    /// Asks for sessions where it is time.
    pub fn tick(&mut self, now: Time) {
        let sent = self.adverts.sent();
        for link in self.parties.iter_mut().filter_map(|k| k.link.as_mut()) {
            link.word.adverts = sent;
            if link.deadline() <= now {
                link.tick(now);
            }
        }
    }

    /// The network may be back: an interface came up, or somebody is heard again.
    /// Whoever is asked for a session is asked now.
    pub fn hurry(&mut self, now: Time) {
        for link in self.parties.iter_mut().filter_map(|k| k.link.as_mut()) {
            link.hurry(now);
        }
    }

    /// The next datagram to send, with the place of whom it is for.
    pub fn next_datagram(&mut self) -> Option<(usize, Vec<u8>)> {
        let parties = self.parties.iter_mut().enumerate();
        parties.filter_map(|(n, k)| Some((n, k.link.as_mut()?.out.pop_front()?))).next()
    }

    /// Whether a datagram from there may be a party's: all others are dropped unread.
    #[must_use]
    pub fn knows(&self, source: IpAddr) -> bool {
        self.party_at(source).is_some()
    }

    /// Whether the party there has not proven yet, in this run, that it has the
    /// same key. A link-local address may be any party's; others that nobody has
    /// are strangers', who have nothing to prove.
    #[must_use]
    pub fn is_unproven(&self, source: IpAddr) -> bool {
        let unproven = |known: &Known| known.link.as_ref().is_some_and(|link| !link.is_proven());
        match self.party_at(source).and_then(|party| self.parties.get(party)) {
            Some(known) => unproven(known),
            None => is_link_local(source) && self.parties.iter().any(unproven),
        }
    }

    /// Whether what is not sealed counts, too.
    pub fn set_accept_unsealed(&mut self, accept: bool) {
        self.accept_unsealed = accept;
    }

    /// The link to a party, which knows what a handshake tells.
    fn link(&mut self, party: usize) -> Option<&mut Link> {
        let link = self.parties.get_mut(party)?.link.as_mut()?;
        link.word.adverts = self.adverts.sent();
        Some(link)
    }

    fn party_at(&self, source: IpAddr) -> Option<usize> {
        self.parties.iter().position(|k| k.party.addresses.contains(&source))
    }

    // ---- messages ---------------------------------------------------------------

    /// Whether a party has no key yet, or another, and is spoken to without a
    /// seal for as long as that is accepted.
    #[must_use]
    pub fn speaks_plainly(&self, party: usize, now: Time) -> bool {
        let link = self.parties.get(party).and_then(|k| k.link.as_ref());
        self.accept_unsealed && link.is_some_and(|link| link.up_since(now).is_none())
    }

    /// Seals a message, or keeps it for a moment until there is a session.
    pub fn send(&mut self, party: usize, message: &[u8], now: Time) {
        if let Some(link) = self.link(party) {
            link.send(message, now);
        }
    }

    /// A message as it would be sent now, for the crash guard, which has no
    /// key; none while there is no session.
    pub fn seal_for_later(&mut self, party: usize, message: &[u8], now: Time) -> Option<Vec<u8>> {
        let link = self.parties.get_mut(party)?.link.as_mut()?;
        link.up_since(now)?;
        link.seal_for_later(message)
    }

    /// Opens a datagram of the peer port that arrived at `own`, an address of this node.
    pub fn receive(&mut self, source: IpAddr, own: IpAddr, datagram: &[u8], now: Time) -> Received {
        let Some(party) = self.party_at(source) else { return Received::Refused(Reject::UnknownSender) };
        let Some(link) = self.link(party) else { return Received::Refused(Reject::OwnAddress) };
        let was_up = link.up_since(now).is_some();
        let opened = match Frame::parse(datagram) {
            Ok(Frame::Ask(ask)) => link.asked(datagram, &ask, now),
            Ok(Frame::Answer(answer)) => link.answered(&answer, now),
            Ok(Frame::Data { to, number, sealed }) => link.data(to, number, sealed, now),
            Ok(Frame::Advert(advert)) => {
                return match self.open_advert(source, own, advert, now) {
                    Ok(advert) => Received::Advert(advert),
                    Err(cause) => Received::RefusedAdvert(cause, advert.to_vec()),
                };
            }
            // Two owners are what forged votes would make: those count sealed only.
            Err(Unreadable::Plain) if self.accept_unsealed && !is_vote(datagram) => return Received::Plain,
            Err(Unreadable::Plain) => Opened::Refused(Reject::Unsealed),
            Err(Unreadable::Version(version)) => Opened::Refused(Reject::Peer(Malformed::Version(version))),
            Err(Unreadable::Garbage) => Opened::Refused(Reject::Peer(Malformed::Garbage)),
        };
        if !was_up && self.link(party).is_some_and(|link| link.up_since(now).is_some()) {
            self.hurry(now);
        }
        match opened {
            Opened::Nothing => Received::Nothing,
            Opened::Message(message) => Received::Message(message),
            Opened::Refused(cause) => Received::Refused(self.note(party, cause, now)),
        }
    }

    fn note(&mut self, party: usize, cause: Reject, now: Time) -> Reject {
        if let Some(known) = self.parties.get_mut(party) {
            known.problem = Some((cause, now));
        }
        cause
    }

    // ---- adverts ------------------------------------------------------------------

    /// An advert with its seal.
    pub fn seal_advert(&mut self, source: IpAddr, destination: IpAddr, advert: &[u8]) -> Vec<u8> {
        self.adverts.seal(source, destination, advert)
    }

    /// The datagram that carries a sealed advert where protocol 112 is dropped.
    #[must_use]
    pub fn advert_datagram(sealed: &[u8]) -> Vec<u8> {
        frame::advert(sealed)
    }

    /// A farewell for the crash guard, by its position among all.
    #[must_use]
    pub fn seal_farewell(
        &self,
        position: usize,
        source: IpAddr,
        destination: IpAddr,
        advert: &[u8],
    ) -> Vec<u8> {
        self.adverts.seal_farewell(position, source, destination, advert)
    }

    /// The advert behind a seal.
    ///
    /// # Errors
    /// Why it counts for nothing.
    pub fn open_advert(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        bytes: &[u8],
        now: Time,
    ) -> Result<Vec<u8>, Reject> {
        let parties = &self.parties;
        let proven = |party: usize| parties.get(party)?.link.as_ref()?.proven(now);
        let opened = self.adverts.open(source, destination, bytes, proven);
        let party = self.party_at(source);
        let cause = match opened {
            Ok(advert) => {
                if let Some(link) = party.and_then(|party| self.parties.get_mut(party)?.link.as_mut()) {
                    link.is_there(now);
                }
                return Ok(advert.to_vec());
            }
            Err(cause) => cause,
        };
        // Without a key to be judged by, an advert is as it would be without ours.
        if self.accept_unsealed && (cause == Reject::Unsealed || cause == Reject::WrongKey) {
            return Ok(bytes.to_vec());
        }
        Err(party.map_or(cause, |party| self.note(party, cause, now)))
    }

    // ---- for people -----------------------------------------------------------------

    /// The link to a party.
    #[must_use]
    pub fn status(&self, party: usize, now: Time) -> LinkStatus {
        let Some(known) = self.parties.get(party) else { return LinkStatus::default() };
        let since = known.link.as_ref().and_then(|link| link.up_since(now));
        LinkStatus {
            sealed_for: since.map(|at| now - at),
            problem: known.problem.map(|(cause, at)| (problem(&known.party.name, cause), now - at)),
        }
    }
}

fn is_vote(datagram: &[u8]) -> bool {
    Envelope::parse(datagram).is_ok_and(|envelope| envelope.message.is_vote())
}

/// What a peer does wrong, in a sentence about it.
fn problem(name: &str, cause: Reject) -> String {
    match cause {
        Reject::WrongKey => format!("{name} speaks with another cluster key"),
        Reject::Unsealed => format!("{name} speaks without a seal: it has no key-file"),
        Reject::Replay | Reject::OldRun => format!(
            "copies of what {name} said arrive, or it came too late: two hosts run as {name}, a host was frozen, or \
             somebody sends copies"
        ),
        Reject::Unproven => format!("{name} releases what it owned, and the link to it does not work"),
        Reject::Forged => format!("somebody sends changed messages in the name of {name}"),
        Reject::TooOften => format!("{name}, or somebody in its name, asks for sessions too often"),
        Reject::NodeName => format!("another name speaks from the address of {name}"),
        Reject::Peer(Malformed::Version(version)) => {
            format!("{name} speaks version {version} of the peer link, this host {}", peer::SEALED_VERSION)
        }
        Reject::Peer(Malformed::Garbage | Malformed::Sealed)
        | Reject::Advert(_)
        | Reject::Ttl
        | Reject::UnknownVrid
        | Reject::OtherVrid
        | Reject::VersionMismatch
        | Reject::IntervalMismatch
        | Reject::UnknownSender
        | Reject::ForeignCluster
        | Reject::OwnAddress => format!("{name} sent what does not count ({cause}): {}", cause.advice()),
    }
}
