//! The quorum lease of a group: requests go out, promises come in, and what
//! is owned by them goes back.

use super::{Group, Purpose};
use crate::election::Event as Happening;
use crate::event::{Kind, Level};
use crate::explain;
use crate::lease::register::Step;
use crate::lease::{ASK_GAP, Answer, Lease, Request, Terms};
use crate::node::{Output, Scope, Settings};
use crate::plan::Hold;
use crate::settings::{OnNoQuorum, Quorum, VipGroup};
use crate::time::Time;
use crate::wire::peer::{Ballot, Message, State};
use std::time::Duration;

/// A lease of which nothing is held, where the settings ask for one; `reloads`
/// are those of this run so far.
pub(crate) fn lease(settings: &Settings, reloads: u64) -> Option<Lease> {
    let election = &settings.election;
    let (voters, registered) = match election.quorum {
        Quorum::None => return None,
        Quorum::Majority => (settings.cluster.voters().count(), None),
        Quorum::Etcd => (1, Some(election.etcd_lease)),
    };
    let terms = Terms {
        voters,
        interval: election.advert_interval,
        pause: election.advert_interval,
        gap: ASK_GAP,
        keep: election.on_no_quorum == OnNoQuorum::Keep,
        registered,
    };
    Some(Lease::new(terms).of_reload(reloads))
}

impl Group {
    /// Asks every voter, this node's own included.
    pub(super) fn ask_voters(&mut self, request: Request, scope: &mut Scope<'_>) {
        let Request { number, lease, preempt } = request;
        let ballot = Ballot { vrid: self.vip.vrid, run: scope.run, number };
        let request = Message::Request { ballot, lease, preempt };
        if scope.settings.election.quorum == Quorum::Etcd {
            if preempt {
                // The owner is told, who hands over.
                scope.send_voters(&request);
            }
            let step = scope.registers.take(self.vip.vrid, number, lease, scope.now);
            return self.registered(step, scope);
        }
        scope.send_voters(&request);
        let answer = scope.votes.request(scope.me, ballot, lease, scope.now);
        self.answered(scope.me, number, answer, scope);
    }

    /// A voter answers.
    pub(crate) fn answered(&mut self, voter: usize, number: u64, answer: Answer, scope: &mut Scope<'_>) {
        self.happen(Happening::Answer { voter, number, answer }, scope);
    }

    /// Does what the group's key in etcd asks for.
    pub(crate) fn registered(&mut self, step: Step, scope: &mut Scope<'_>) {
        let Step { operation, answer, opened } = step;
        if let Some((number, operation)) = operation {
            scope.out.push_back(Output::Register { vrid: self.vip.vrid, number, operation });
        }
        if let Some((number, answer)) = answer {
            // There it is the one voter.
            self.answered(0, number, answer, scope);
        }
        if opened {
            self.given_back(scope);
        }
    }

    /// A holder gave the group back, and this node may want it.
    pub(crate) fn given_back(&mut self, scope: &mut Scope<'_>) {
        self.election.hurry(scope.now);
    }

    /// Gives the promises back once nothing is owned by them: the kernel has said so.
    pub(super) fn give_back(&mut self, scope: &mut Scope<'_>) {
        if self.hold == Hold::Owned || !self.confirmed {
            return;
        }
        if let Some(number) = self.election.give_back() {
            self.tell_given_back(number, scope);
        }
    }

    pub(super) fn tell_given_back(&self, number: u64, scope: &mut Scope<'_>) {
        let ballot = Ballot { vrid: self.vip.vrid, run: scope.run, number };
        scope.votes.release(scope.me, ballot);
        scope.send_voters(&Message::Release(ballot));
        if scope.settings.election.quorum == Quorum::Etcd {
            let step = scope.registers.give_back(self.vip.vrid, number, scope.now);
            if let Some((number, operation)) = step.operation {
                scope.out.push_back(Output::Register { vrid: self.vip.vrid, number, operation });
            }
        }
    }

    /// Plans are seldom renewed where adverts are fast. What somebody deletes
    /// between two is put back as long as the lease lasts by now.
    pub(super) fn tell_extended(&self, scope: &mut Scope<'_>) {
        if let Some(until) = self.may_own_until().filter(|_| !self.asked.is_empty()) {
            scope.out.push_back(Output::Extended { group: self.id, until, watch: self.watched() });
        }
    }

    /// What the guard tells every other voter when this process is gone and
    /// its addresses are deleted: of this run no request counts any more.
    pub(crate) fn last_releases(&self, scope: &Scope<'_>) -> Vec<(usize, Vec<u8>)> {
        // The election of `[dns]` owns without an address.
        let owns = self.hold == Hold::Owned || !self.held().is_empty();
        if self.election.lease().is_none() || !owns {
            return vec![];
        }
        let ballot = Ballot { vrid: self.vip.vrid, run: scope.run, number: u64::MAX };
        let bytes = scope.envelope(Message::Release(ballot));
        let voters = 0..scope.settings.cluster.voters().count();
        voters.filter(|v| *v != scope.me).map(|v| (v, bytes.clone())).collect()
    }

    /// What is left of the lease by which this node owns.
    pub(super) fn lease_left(&self, now: Time) -> Option<Duration> {
        let lease = self.election.lease().filter(|_| self.election.word() == State::Active)?;
        Some(lease.until().map_or(Duration::ZERO, |until| until - now))
    }

    /// What etcd says of the group, for people; none where it is not asked.
    pub(crate) fn told_by_etcd(&self, scope: &Scope<'_>) -> Option<String> {
        if scope.settings.election.quorum != Quorum::Etcd {
            return None;
        }
        let (registers, now) = (&scope.registers, scope.now);
        let mut told = match registers.seen(self.vip.vrid) {
            None => "etcd names no holder".to_owned(),
            Some((record, since)) => {
                let (node, ago) = (&record.node, explain::seconds(now - since));
                match (record.number, record.released) {
                    (0, _) => format!(
                        "there was no key in etcd {ago} ago: {node} made it, and nobody takes it for as long as \
                         an owner before may hold it"
                    ),
                    (_, true) => format!("etcd names no holder ({node} gave it back {ago} ago)"),
                    (_, false) => format!("etcd names {node} as its holder (renewed {ago} ago)"),
                }
            }
        };
        let silence = match (registers.trouble(), registers.answered_at()) {
            (Some(trouble), at) => {
                let since = at.unwrap_or(trouble.since).min(trouble.since);
                Some(format!(
                    "; etcd has not answered for {}: {}",
                    explain::seconds(now - since),
                    trouble.why
                ))
            }
            (None, None) => Some("; etcd has not answered yet".to_owned()),
            (None, Some(_)) => None,
        };
        told.extend(silence);
        Some(told)
    }

    /// A node of higher priority wants the group: it gets it as in a planned switchover.
    pub(crate) fn asked_to_yield(&mut self, to: usize, scope: &mut Scope<'_>) {
        let nodes = &scope.settings.cluster.nodes;
        let before = |vip: &VipGroup| vip.priority(to, nodes) > vip.priority(scope.me, nodes);
        let free = self.election.word() == State::Active && !self.in_transition();
        if !free || !before(&self.vip) || scope.now < self.step_back_at {
            return;
        }
        let name = scope.name(to).to_owned();
        let message =
            format!("{} goes to {name}, which comes before this node and preempts it", self.vip.name);
        scope.event(self.event(Level::Info, Kind::Switchover, message).of_peer(&name));
        self.hand_over(Some(to), Purpose::Switchover, scope);
    }
}
