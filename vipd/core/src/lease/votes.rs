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
    /// The cluster's lease when it started: what it promised in a former run
    /// is over after that.
    lease: Duration,
    /// The longest that it promises: the longest by any file of this run. After
    /// a restart it would not know of one that its file does not tell it of.
    longest: Duration,
    voters: BTreeMap<NonZeroU8, Voter>,
}

impl Votes {
    /// A voter that starts now.
    #[must_use]
    pub fn new(election: &ElectionSettings, now: Time) -> Self {
        let lease = Terms::length_of(election.advert_interval);
        Self { started: now, lease, longest: lease, voters: BTreeMap::new() }
    }

    /// The file has changed.
    pub fn reload(&mut self, election: &ElectionSettings) {
        self.longest = self.longest.max(Terms::length_of(election.advert_interval));
    }

    /// A node of the cluster asks. A lease that is longer than this voter's own
    /// file has it is promised to nobody: the files differ, and it says so by
    /// its hello.
    pub fn request(&mut self, from: usize, ballot: Ballot, lease: Duration, now: Time) -> Answer {
        if lease > self.longest {
            return Answer::Refused { holder: None, left: self.longest };
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{OnNoQuorum, Quorum, Transport, VrrpVersion};

    const SECOND: Duration = Duration::from_secs(1);

    fn election(interval: Duration) -> ElectionSettings {
        ElectionSettings {
            advert_interval: interval,
            version: VrrpVersion::V3,
            transport: Transport::Unicast,
            preempt: false,
            preempt_delay: Duration::ZERO,
            start_delay: Duration::ZERO,
            lease: interval * 3,
            quorum: Quorum::Majority,
            on_no_quorum: OnNoQuorum::Withdraw,
            etcd_lease: interval * 3,
        }
    }

    /// A voter that crashes waits, after its start, for as long as its file's
    /// lease lasts: a longer promise would be forgotten while it still counts.
    #[test]
    fn a_lease_longer_than_the_voters_own_file_has_it_is_promised_to_nobody() {
        let now = Time::ZERO + SECOND * 60;
        let ballot = |number| Ballot { vrid: NonZeroU8::MIN, run: 7, number };
        let mut votes = Votes::new(&election(SECOND), Time::ZERO);
        let longer = SECOND * 3 + Duration::from_millis(1);
        let refused = Answer::Refused { holder: None, left: SECOND * 3 };
        assert_eq!(votes.request(0, ballot(1), longer, now), refused);
        assert_eq!(votes.promised_to(NonZeroU8::MIN, now), None);
        assert_eq!(votes.request(0, ballot(2), SECOND * 3, now), Answer::Granted);
        // Its own file gets a longer one, too, and then the old one again: an
        // owner that has not been told yet keeps its own.
        votes.reload(&election(SECOND * 2));
        assert_eq!(votes.request(0, ballot(3), longer, now), Answer::Granted);
        votes.reload(&election(SECOND));
        assert_eq!(votes.request(0, ballot(4), longer, now), Answer::Granted);
    }
}
