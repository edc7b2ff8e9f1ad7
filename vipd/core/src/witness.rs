//! A host that votes and never owns: the third voice of a two-host site.
//!
//! It answers requests and says hello; it has no election, no address and no
//! balancer. [`Witness::packet`] takes a datagram and gives the answer.

use crate::lease::{self, Votes};
use crate::rejects::Reject;
use crate::settings::{ClusterSettings, ElectionSettings};
use crate::time::Time;
use crate::wire::peer::{self, Envelope, Hello, Message};
use std::net::IpAddr;

/// A witness of a cluster.
#[derive(Clone, Debug)]
pub struct Witness {
    cluster: ClusterSettings,
    /// Its position among the voters.
    me: usize,
    /// Of its file, as a node's ([`crate::node::Settings::digests`]).
    digests: Vec<u32>,
    votes: Votes,
}

impl Witness {
    /// A witness that starts now. `me` is its position among the cluster's
    /// voters, where the nodes come first; `digests` are its file's, by which
    /// the nodes see whether it votes by the same one.
    #[must_use]
    pub fn new(
        cluster: ClusterSettings,
        election: &ElectionSettings,
        digests: &[(&'static str, u32)],
        me: usize,
        now: Time,
    ) -> Self {
        let digests = digests.iter().map(|(_, digest)| *digest).collect();
        Self { votes: Votes::new(election, now), cluster, me, digests }
    }

    /// A datagram arrived on the peer port: whom to answer, and what.
    ///
    /// # Errors
    /// Why it counts for nothing.
    pub fn packet(
        &mut self,
        source: IpAddr,
        ttl: u8,
        payload: &[u8],
        now: Time,
    ) -> Result<Option<(usize, Vec<u8>)>, Reject> {
        if ttl != crate::node::TTL {
            return Err(Reject::Ttl);
        }
        let Envelope { cluster, sender, message } = Envelope::parse(payload).map_err(Reject::Peer)?;
        if cluster != peer::cluster_id(&self.cluster.name) {
            return Err(Reject::ForeignCluster);
        }
        let nodes = &self.cluster.nodes;
        let from = nodes.iter().position(|n| n.addresses.contains(&source)).ok_or(Reject::UnknownSender)?;
        if sender != peer::node_id(&nodes[from].name) {
            return Err(Reject::NodeName);
        }
        let answer = match message {
            Message::Request { ballot, lease, preempt: _ } => {
                let answer = self.votes.request(from, ballot, lease, now);
                Some(lease::reply(ballot, answer, &self.cluster))
            }
            Message::Release(ballot) => {
                self.votes.release(from, ballot);
                None
            }
            // Between nodes, or about votes that this host did not ask for.
            Message::Hello(_)
            | Message::Prepare { .. }
            | Message::Ready { .. }
            | Message::Grant(_)
            | Message::Refuse { .. } => None,
        };
        Ok(answer.map(|message| (from, self.envelope(message))))
    }

    /// "I am here", for every node.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        self.envelope(Message::Hello(Hello { digests: self.digests.clone(), ..Hello::default() }))
    }

    fn envelope(&self, message: Message) -> Vec<u8> {
        let name = self.cluster.voter(self.me).map_or("?", |w| w.name.as_str());
        let cluster = peer::cluster_id(&self.cluster.name);
        Envelope { cluster, sender: peer::node_id(name), message }.write()
    }

    /// The cluster it votes in.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterSettings {
        &self.cluster
    }
}
