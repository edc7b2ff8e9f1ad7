//! What one voter promised, of every group.

use super::{Answer, Holder, Terms, Voter};
use crate::settings::{ClusterSettings, ElectionSettings};
use crate::time::Time;
use crate::wire::peer::{Ballot, Message, node_id};
use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

/// The promises of a node or witness, at most one a VRID: 255.
#[derive(Clone, Debug)]
pub struct Votes {
    started: Time,
    /// The cluster's lease when it started.
    lease: Duration,
    voters: BTreeMap<NonZeroU8, Voter>,
}

impl Votes {
    /// A voter that starts now.
    #[must_use]
    pub fn new(election: &ElectionSettings, now: Time) -> Self {
        Self { started: now, lease: Terms::length_of(election.advert_interval), voters: BTreeMap::new() }
    }

    /// A node of the cluster asks.
    pub fn request(&mut self, from: usize, ballot: Ballot, lease: Duration, now: Time) -> Answer {
        let new = || Voter::new(self.lease, self.started);
        let voter = self.voters.entry(ballot.vrid).or_insert_with(new);
        voter.request(Holder { node: from, run: ballot.run }, ballot.number, lease, now)
    }

    /// A node gives back.
    pub fn release(&mut self, from: usize, ballot: Ballot) {
        if let Some(voter) = self.voters.get_mut(&ballot.vrid) {
            voter.release(Holder { node: from, run: ballot.run }, ballot.number);
        }
    }

    /// To whom a group is promised.
    #[must_use]
    pub fn promised_to(&self, vrid: NonZeroU8, now: Time) -> Option<Holder> {
        self.voters.get(&vrid).and_then(|v| v.promised_to(now))
    }
}

/// An answer as it is sent.
#[must_use]
pub fn reply(ballot: Ballot, answer: Answer, cluster: &ClusterSettings) -> Message {
    match answer {
        Answer::Granted => Message::Grant(ballot),
        Answer::Refused { holder, left } => {
            let holder = holder.and_then(|n| cluster.nodes.get(n));
            let holder = holder.and_then(|n| NonZeroU32::new(node_id(&n.name)));
            Message::Refuse { ballot, holder, left }
        }
    }
}

/// A refusal as it was received.
#[must_use]
pub fn refusal(holder: Option<NonZeroU32>, left: Duration, cluster: &ClusterSettings) -> Answer {
    let position = |id: NonZeroU32| cluster.nodes.iter().position(|n| node_id(&n.name) == id.get());
    Answer::Refused { holder: holder.and_then(position), left }
}
