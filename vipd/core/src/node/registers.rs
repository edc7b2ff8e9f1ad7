//! The groups' keys in etcd: what comes of them, and whether it answers.

use super::Node;
use crate::event::{Event, Kind, Level};
use crate::explain;
use crate::lease::register::Step;
use crate::node::Output;
use crate::time::Time;
use std::num::NonZeroU8;

impl Node {
    /// Does what a group's key asks for. Of a group that is gone there may be
    /// something to give back still.
    pub(super) fn registered(&mut self, vrid: NonZeroU8, step: Step, now: Time) {
        if self.groups.iter().chain(&self.leaving).any(|g| g.vip.vrid == vrid) {
            return self.with_vrid(vrid, now, |group, scope| group.registered(step, scope));
        }
        if let Some((number, operation)) = step.operation {
            self.out.push_back(Output::Register { vrid, number, operation });
        }
    }

    /// etcd does not answer, or does so again.
    pub(super) fn register_trouble(&mut self, why: Option<String>, now: Time) {
        let before = self.registers.trouble().map(|t| t.since);
        self.registers.set_trouble(why, now);
        match (before, self.registers.trouble()) {
            (None, Some(trouble)) => {
                let message = format!("etcd does not answer: {}", trouble.why);
                self.tell(Event::new(Level::Warn, Kind::Peer, message));
            }
            (Some(since), None) => {
                let message = format!("etcd answers again, after {}", explain::seconds(now - since));
                self.tell(Event::new(Level::Info, Kind::Peer, message));
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }
}
