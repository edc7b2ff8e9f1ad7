//! What goes wrong in the simulation, and how.

use super::*;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// SIGKILL of the daemon; the guard cleans up. Started again later.
    Kill(usize, Duration),
    /// The host loses power: no guard, no address. Started again later.
    PowerOff(usize, Duration),
    /// The daemon does not run for a while.
    Freeze(usize, Duration),
    /// The whole host does not run for a while, and answers nothing.
    Stall(usize, Duration),
    /// A witness is started anew after a while.
    KillWitness(usize, Duration),
    /// Nothing from the first reaches the second.
    OneWay(usize, usize),
    /// Neither reaches the other.
    Cut(usize, usize),
    /// Every path is whole again.
    Heal,
    /// The cable is pulled, or put in.
    Carrier(usize, bool),
    /// An orderly stop; started again later.
    Stop(usize, Duration),
    /// A planned switchover of a group, by whoever owns it.
    Switchover(usize),
    /// Maintenance on or off.
    Maintenance(usize, bool),
    /// Somebody deletes a group's addresses on a host.
    Delete(usize, usize),
    /// A reload on every host, one after the other: a group prefers other nodes.
    Reorder(usize),
    /// The same: a group gets a second address, or loses it.
    Readdress(usize),
    /// The same: an address that may be in another group is in this one now.
    Move(usize),
    /// The same: two groups exchange all their addresses.
    Exchange(usize, usize),
    /// etcd answers nobody for a while.
    EtcdDown(Duration),
    /// Somebody deletes a group's key in etcd.
    DeleteKey(usize),
}

impl World {
    /// Makes something go wrong.
    pub fn inject(&mut self, fault: Fault) {
        self.note(format!("{fault:?}"));
        match fault {
            Fault::Kill(host, down) if self.hosts[host].node.is_some() => {
                self.hosts[host].node = None;
                self.hosts[host].power = Power::Dead(self.now + down);
                self.schedule(Duration::from_millis(1), Due::Guard { host });
            }
            Fault::PowerOff(host, down) => {
                self.hosts[host].node = None;
                self.hosts[host].kernel.clear();
                self.hosts[host].guard = vipd_core::node::GuardState::default();
                self.hosts[host].power = Power::Dead(self.now + down);
            }
            Fault::KillWitness(witness, down) => {
                self.witnesses[witness].witness = None;
                self.witnesses[witness].power = Power::Dead(self.now + down);
            }
            Fault::Stall(host, pause) if self.hosts[host].power == Power::Running => {
                self.hosts[host].power = Power::Stalled(self.now + pause);
            }
            Fault::Freeze(host, pause) if self.hosts[host].power == Power::Running => {
                self.hosts[host].power = Power::Frozen(self.now + pause);
            }
            Fault::OneWay(from, to) => {
                self.cuts.insert((from, to));
            }
            Fault::Cut(a, b) => self.cuts.extend([(a, b), (b, a)]),
            Fault::Heal => self.cuts.clear(),
            Fault::Carrier(host, on) => {
                self.hosts[host].carrier = on;
                self.tell_links(host);
            }
            Fault::Stop(host, _) => self.input(host, Input::Stop),
            Fault::Switchover(group) => self.switchover(group),
            Fault::Maintenance(host, on) => {
                let now = self.shown(host);
                if self.hosts[host].runs()
                    && let Some(node) = &mut self.hosts[host].node
                {
                    node.set_maintenance(on, now);
                    self.drain(host);
                }
            }
            Fault::Delete(host, group) => {
                // The kernel actor puts back what is planned.
                if self.hosts[host].runs() && self.hosts[host].kernel.contains_key(&group) {
                    self.schedule(Duration::from_millis(1), Due::Restored { host, group });
                }
            }
            Fault::Reorder(group) => {
                self.settings.vips[group].nodes.rotate_left(1);
                self.reload();
            }
            Fault::Readdress(group) => {
                // Wherever an exchange has brought it.
                let second = second_address(group);
                let had: usize = self.settings.vips.iter().map(|v| v.addresses.len()).sum();
                self.take_from_all(second);
                let has: usize = self.settings.vips.iter().map(|v| v.addresses.len()).sum();
                if had == has {
                    self.settings.vips[group].addresses.push(second);
                }
                self.reload();
            }
            Fault::Move(group) => {
                let moving = moving_address();
                self.take_from_all(moving);
                self.settings.vips[group].addresses.push(moving);
                self.reload();
            }
            Fault::Exchange(a, b) => {
                let theirs = std::mem::take(&mut self.settings.vips[b].addresses);
                let ours = std::mem::replace(&mut self.settings.vips[a].addresses, theirs);
                self.settings.vips[b].addresses = ours;
                self.reload();
            }
            Fault::EtcdDown(pause) => self.etcd.down_until = self.now + pause,
            Fault::DeleteKey(group) => {
                let vrid = self.settings.vips[group].vrid;
                self.etcd.delete(vrid);
                self.tell_watchers(vrid);
            }
            Fault::Kill(..) | Fault::Freeze(..) | Fault::Stall(..) => {}
        }
    }

    fn take_from_all(&mut self, address: Cidr) {
        for vip in &mut self.settings.vips {
            vip.addresses.retain(|a| *a != address);
        }
    }

    /// The file has changed; the hosts are told within a second.
    fn reload(&mut self) {
        self.settings.digests = vec![digest(&self.settings.vips)];
        self.addresses.extend(self.settings.vips.iter().flat_map(|v| v.addresses.clone()));
        for host in 0..self.hosts.len() {
            let start = self.hosts[host].starts;
            let after = Duration::from_millis(self.rng.below(1000));
            self.schedule(after, Due::Reload { host, start });
        }
    }

    fn switchover(&mut self, group: usize) {
        let name = self.settings.vips[group].name.clone();
        for host in 0..self.hosts.len() {
            let now = self.shown(host);
            if self.hosts[host].runs() && self.owns(host, group) {
                if let Some(node) = &mut self.hosts[host].node {
                    let _ = node.switchover(&name, None, now);
                }
                self.drain(host);
            }
        }
    }
}
