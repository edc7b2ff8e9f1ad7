//! The interface of a group: what it means that it comes or goes, and when the
//! group takes part.

use super::Group;
use super::handover::Transition;
use crate::election::Event as Happening;
use crate::node::{Link, Scope};
use crate::plan::Hold;
use crate::settings::Family;
use crate::wire::peer::State;
use std::net::IpAddr;

impl Group {
    /// The interface came, went or changed.
    pub(crate) fn set_link(&mut self, link: Link, scope: &mut Scope<'_>) {
        if self.link == link {
            return;
        }
        let mac = self.mac();
        self.up_since = match (&self.link, &link) {
            (_, Link::Unknown | Link::Down { .. } | Link::Partial { .. }) => None,
            (Link::Up { .. }, Link::Up { .. }) => self.up_since,
            // A group that a reload brings finds its interface as it was.
            (Link::Unknown, Link::Up { .. }) => Some(scope.started),
            (Link::Down { .. } | Link::Partial { .. }, Link::Up { .. }) => Some(scope.now),
        };
        self.link = link;
        match &self.link {
            Link::Unknown => {}
            Link::Down { reason } | Link::Partial { reason, .. } => {
                self.fault = Some(reason.clone());
                self.retry_at = None;
                self.transition = Transition::None;
                if self.election.word() == State::Active {
                    self.unsaid_until = Some(scope.now + self.election.active_down_interval());
                }
                self.happen(Happening::Fault, scope);
                if self.hold != Hold::Absent {
                    self.close_sessions(scope);
                    self.plan(Hold::Absent, scope);
                }
                // One that comes back in part carries a release.
                self.release_late(scope);
            }
            Link::Up { interface, .. } => {
                let before = self.interface.replace(*interface);
                if self.retry_at.is_none() {
                    // What the kernel refused is not to be had by a change of the link.
                    self.fault = None;
                }
                scope.guard_changed = true;
                if before != Some(*interface) {
                    // Also of what it does not hold: somebody else may have put it there.
                    self.plan(self.hold, scope);
                } else if mac.is_some() && self.mac() != mac {
                    self.new_mac(scope);
                }
                self.start_if_able(scope);
                self.release_late(scope);
            }
        }
    }

    pub(crate) fn start_if_able(&mut self, scope: &mut Scope<'_>) {
        let up = matches!(self.link, Link::Up { .. });
        if up && self.taking_part && self.retry_at.is_none() && !self.waits() {
            self.election.set_eager(self.is_eager());
            self.happen(Happening::Startup, scope);
            self.bar(scope);
        }
    }

    /// Whether this node, if it owned, would serve.
    pub(super) const fn is_eager(&self) -> bool {
        self.warm && self.serving && !self.refused
    }

    /// Whether it waits for what had its number or addresses before a reload.
    pub(crate) fn waits(&self) -> bool {
        !self.waits_for.is_empty()
    }

    /// A group that leaves is gone: a group that waited for it, and for no other, starts.
    pub(crate) fn wait_no_more_for(&mut self, gone: usize, scope: &mut Scope<'_>) {
        if self.waits_for.remove(&gone) {
            self.start_if_able(scope);
        }
    }

    /// Whether the group runs on an interface.
    pub(crate) fn is_on(&self, index: u32) -> bool {
        matches!(self.link, Link::Up { interface, .. } if interface == index)
    }

    /// Whether the group's interface is not known, or down.
    pub(crate) const fn has_no_link(&self) -> bool {
        matches!(self.link, Link::Unknown | Link::Down { .. } | Link::Partial { .. })
    }

    /// What adverts can be sent by and from: of a link that is good for nothing
    /// else a release, still.
    pub(super) fn voice(&self) -> Option<(u32, &[IpAddr])> {
        match &self.link {
            Link::Up { interface, sources, .. } | Link::Partial { interface, sources, .. } => {
                Some((*interface, sources))
            }
            Link::Unknown | Link::Down { .. } => None,
        }
    }

    /// This node's own address of a family to advertise from.
    pub(crate) fn source(&self, family: Family) -> Option<IpAddr> {
        self.voice()?.1.iter().copied().find(|s| Family::of(*s) == family)
    }
}
