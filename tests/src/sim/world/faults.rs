//! What goes wrong in the simulation, and how.

use super::*;

/// All hosts are told at about the same time.
const SOON: By = By::Reload(Duration::from_secs(1));

/// How a host takes over a new file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum By {
    /// It reloads, some time within this one.
    Reload(Duration),
    /// It is stopped, at least this time after the one before and at most twice
    /// that, and starts again.
    Restart(Duration),
}

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
    /// A group's virtual router gets another number, on one host after the other.
    Renumber(usize, By),
    /// The same: a group is not in the file any more, unless it is the last.
    Remove(usize, By),
    /// The same: a group that was removed is there again.
    Return(By),
    /// The same: another interval between adverts.
    Interval(Duration, By),
    /// The same, by restarts at least this time apart: the other version of VRRP.
    Version(Duration),
    /// etcd answers nobody for a while.
    EtcdDown(Duration),
    /// Somebody deletes a group's key in etcd.
    DeleteKey(usize),
}

impl World {
    /// Makes something go wrong.
    pub fn inject(&mut self, fault: Fault) {
        self.note(format!("{fault:?}"));
        let before = self.settings.clone();
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
                let name = self.name(group);
                let id = self.hosts[host].names.iter().rfind(|(_, n)| *n == name).map(|(id, _)| *id);
                let held = id.and_then(|id| Some((id, self.hosts[host].kernel.get(&id)?)));
                if let Some((group, held)) = held.filter(|_| self.hosts[host].runs()) {
                    let addresses = held.addresses.iter().map(|a| a.address()).collect();
                    self.schedule(Duration::from_millis(1), Due::Restored { host, group, addresses });
                }
            }
            Fault::Reorder(group) => {
                self.settings.vips[group].nodes.rotate_left(1);
                self.roll_out(&before, SOON);
            }
            Fault::Readdress(group) => {
                // Wherever an exchange has brought it.
                let second = second_address(self.name(group));
                let had: usize = self.settings.vips.iter().map(|v| v.addresses.len()).sum();
                self.take_from_all(second);
                let has: usize = self.settings.vips.iter().map(|v| v.addresses.len()).sum();
                if had == has {
                    self.settings.vips[group].addresses.push(second);
                }
                self.roll_out(&before, SOON);
            }
            Fault::Move(group) => {
                let moving = moving_address();
                self.take_from_all(moving);
                self.settings.vips[group].addresses.push(moving);
                self.roll_out(&before, SOON);
            }
            Fault::Exchange(a, b) => {
                let theirs = std::mem::take(&mut self.settings.vips[b].addresses);
                let ours = std::mem::replace(&mut self.settings.vips[a].addresses, theirs);
                self.settings.vips[b].addresses = ours;
                self.roll_out(&before, SOON);
            }
            Fault::Renumber(group, by) => {
                let all = || self.settings.vips.iter().chain(&self.removed);
                let free = (100..=u8::MAX).filter_map(NonZeroU8::new);
                let free = free.filter(|v| all().all(|vip| vip.vrid != *v)).nth(self.free % 8);
                self.free += 1;
                if let Some(free) = free {
                    self.settings.vips[group].vrid = free;
                    self.roll_out(&before, by);
                }
            }
            Fault::Remove(group, by) if self.settings.vips.len() > 1 => {
                let removed = self.settings.vips.remove(group);
                self.removed.push(removed);
                self.roll_out(&before, by);
            }
            Fault::Return(by) => {
                let back = self.removed.pop();
                self.settings.vips.extend(back);
                self.roll_out(&before, by);
            }
            Fault::Interval(interval, by) => {
                let election = &mut self.settings.election;
                let lease = Duration::from_secs((interval * 3).as_secs().max(1));
                (election.advert_interval, election.lease) = (interval, lease);
                // By the longest that any host may run by.
                self.overlap_bound = self.overlap_bound.max(overlap_bound(interval));
                self.roll_out(&before, by);
            }
            Fault::Version(apart) => {
                let version = &mut self.settings.election.version;
                *version = match version {
                    VrrpVersion::V2 => VrrpVersion::V3,
                    VrrpVersion::V3 => VrrpVersion::V2,
                };
                self.roll_out(&before, By::Restart(apart));
            }
            Fault::EtcdDown(pause) => self.etcd.down_until = self.now + pause,
            Fault::DeleteKey(group) => {
                let vrid = self.settings.vips[group].vrid;
                self.etcd.delete(vrid);
                self.tell_watchers(vrid);
            }
            Fault::Kill(..) | Fault::Freeze(..) | Fault::Stall(..) | Fault::Remove(..) => {}
        }
    }

    fn take_from_all(&mut self, address: Cidr) {
        for vip in self.settings.vips.iter_mut().chain(&mut self.removed) {
            vip.addresses.retain(|a| *a != address);
        }
    }

    /// The newest file is another; each host keeps what it has until it is its turn.
    fn roll_out(&mut self, before: &Settings, by: By) {
        self.settings.digests = digests(&self.settings);
        self.addresses.extend(self.settings.vips.iter().flat_map(|v| v.addresses.clone()));
        for host in &mut self.hosts {
            host.file.get_or_insert_with(|| before.clone());
        }
        let below = |rng: &mut Rng, time: Duration| {
            Duration::from_millis(rng.below(u64::try_from(time.as_millis()).unwrap_or(0)))
        };
        let count = self.hosts.len();
        match by {
            By::Reload(within) => {
                for host in 0..count {
                    let after = below(&mut self.rng, within);
                    self.schedule(after, Due::Reload { host });
                }
            }
            By::Restart(apart) => {
                let (first, mut after) = (self.rng.index(count), Duration::ZERO);
                for host in (first..count).chain(0..first) {
                    after += apart + below(&mut self.rng, apart);
                    self.schedule(after, Due::Restart { host });
                }
            }
        }
    }

    fn switchover(&mut self, group: usize) {
        let name = self.name(group).to_owned();
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
