//! The daemons of the simulation: what they are told, what they ask for, and the
//! kernels that obey them.

use super::*;

impl World {
    /// Starts a host's daemon; what an earlier run left is deleted first.
    pub fn start(&mut self, host: usize) {
        self.note(format!("{host} starts"));
        let seed = u32::try_from(self.rng.below(1 << 30)).unwrap_or(0);
        let file = self.file(host).clone();
        let node = Node::new(file, host, seed, self.shown(host));
        let h = &mut self.hosts[host];
        h.names = names(&node);
        h.starts += 1;
        h.node = Some(node);
        h.power = Power::Running;
        h.kernel.clear();
        h.applied.clear();
        h.leases.clear();
        h.open.clear();
        h.sessions.clear();
        h.ordered = None;
        if self.settings.dns.is_some() {
            let start = self.hosts[host].starts;
            self.schedule(LOOK_EVERY, Due::Look { host, start });
        }
        if self.settings.election.quorum == Quorum::Etcd {
            let start = self.hosts[host].starts;
            self.watch_etcd(host, start);
        }
        self.tell_links(host);
    }

    pub(super) fn tell_links(&mut self, host: usize) {
        let groups: Vec<usize> =
            self.hosts[host].node.iter().flat_map(Node::groups).map(|(id, _)| id).collect();
        for group in groups {
            let link = if self.hosts[host].carrier {
                Link::Up {
                    interface: INTERFACE,
                    sources: vec![Self::address(host)],
                    mac: Some(Self::mac(host)),
                    subnets: Cidr::new(Self::address(host), 24).into_iter().collect(),
                }
            } else {
                Link::Down { reason: "eth0 has no carrier".to_owned() }
            };
            self.input(host, Input::Link { group, link });
        }
    }

    pub(in crate::sim) fn input(&mut self, host: usize, input: Input<'_>) {
        let now = self.shown(host);
        if !self.hosts[host].runs() {
            return;
        }
        if let Some(node) = &mut self.hosts[host].node {
            node.handle(input, now);
        }
        self.drain(host);
    }

    pub(super) fn drain(&mut self, host: usize) {
        let start = self.hosts[host].starts;
        while let Some(output) = self.hosts[host].node.as_mut().and_then(Node::next_output) {
            match output {
                Output::Advert(transmit) => self.send(host, transmit),
                Output::Peer { node, bytes } => self.send_peer(host, node, bytes),
                Output::Addresses(plan) => {
                    let after = Duration::from_micros(self.rng.between(20, 400));
                    if plan.hold != Hold::Absent {
                        self.hosts[host]
                            .open
                            .extend(plan.addresses.iter().map(|a| (a.address(), plan.group)));
                    }
                    match plan.until {
                        Some(until) => self.hosts[host].leases.insert(plan.group, until),
                        None => self.hosts[host].leases.remove(&plan.group),
                    };
                    self.schedule(after, Due::Apply { host, start, plan });
                }
                Output::Extended { group, until, watch } => {
                    if let Some(lease) = self.hosts[host].leases.get_mut(&group) {
                        *lease = until;
                    }
                    let watched = &mut self.hosts[host].guard.watched;
                    if let Some(new) = watch {
                        let old = watched.iter_mut().filter(|old| old.addresses == new.addresses);
                        old.for_each(|old| old.until = new.until);
                    }
                }
                Output::Announce(announcement) => {
                    let held = self.hosts[host].kernel.get(&announcement.group);
                    let owned = held.is_some_and(|h| h.hold == Hold::Owned);
                    assert!(owned, "host {host} announces what its kernel does not hold");
                    for address in announcement.addresses {
                        let claim = Claim { address, mac: Self::mac(host), answer: false };
                        self.claim(host, claim);
                    }
                    let (group, now) = (announcement.group, self.shown(host));
                    if let Some(node) = &mut self.hosts[host].node {
                        node.handle(Input::Announced { group }, now);
                    }
                }
                Output::Register { vrid, number, operation } => {
                    self.ask_etcd(host, vrid, number, operation);
                }
                Output::Ask(inquiry) => self.ask(host, &inquiry.addresses),
                Output::Guard(state) => {
                    self.hosts[host].guard = state;
                    self.hosts[host].guard_told += 1;
                }
                Output::Event(event) => self.note(format!("{host}: {}", event.message)),
                Output::Forget { .. } => {}
                Output::Stopped { .. } => {
                    self.note(format!("{host} has stopped"));
                    assert!(
                        self.hosts[host].kernel.is_empty(),
                        "host {host} stopped and still holds addresses"
                    );
                    self.hosts[host].guard = vipd_core::node::GuardState::default();
                    self.hosts[host].node = None;
                    let until = self.now + Duration::from_secs(3);
                    self.hosts[host].power = Power::Dead(until);
                    return;
                }
                Output::CloseSessions { addresses } => {
                    self.hosts[host].sessions.retain(|a| !addresses.contains(a));
                    self.hosts[host].open.retain(|a, _| !addresses.contains(a));
                }
                Output::Records(records) => self.order(host, start, records),
                Output::Pools(_)
                | Output::CloseElsewhere(_)
                | Output::CloseServer { .. }
                | Output::Room { .. }
                | Output::Hurry { .. } => {}
            }
        }
    }

    /// An order for the store of records, which must be one that may be given.
    fn order(&mut self, host: usize, start: u32, records: Records) {
        let Some(set) = records.wanted.clone().filter(|_| records.write) else { return };
        let Some(dns) = &self.settings.dns else { unreachable!("records without a name") };
        assert!(
            !set.is_empty() || dns.when_all_down == WhenAllDown::Empty,
            "host {host} empties the name against its policy"
        );
        assert!(
            dns.policy == Policy::Multi || set.len() <= 1,
            "host {host} publishes {set:?}, not one owner"
        );
        let hold_down = dns.hold_down;
        let ordered = &mut self.hosts[host].ordered;
        if ordered.as_ref().is_none_or(|(before, _)| *before != set) {
            let since = ordered.replace((set.clone(), self.now)).map(|(_, at)| self.now - at);
            assert!(since.is_none_or(|s| s >= hold_down), "host {host} changes the records after {since:?}");
        }
        self.note(format!("{host} orders the records {set:?}"));
        let after = Duration::from_micros(self.rng.between(100, 5000));
        self.schedule(after, Due::Store { host, start, records });
    }

    pub(super) fn apply(&mut self, host: usize, start: u32, plan: &GroupPlan) {
        let stale = self.hosts[host].applied.get(&plan.group).is_some_and(|g| *g > plan.generation);
        if self.hosts[host].starts != start || stale || matches!(self.hosts[host].power, Power::Dead(_)) {
            return;
        }
        if let Power::Frozen(until) = self.hosts[host].power {
            // The kernel actor is of the same process.
            let after = (until - self.now) + Duration::from_nanos(1);
            return self.schedule(after, Due::Apply { host, start, plan: plan.clone() });
        }
        let over = plan.hold == Hold::Owned && self.hosts[host].is_over(plan.group, self.now);
        let refused = over || plan.hold != Hold::Absent && self.rng.chance(self.refusals);
        if !refused {
            self.hosts[host].apply(plan, self.now);
        }
        let (group, generation) = (plan.group, plan.generation);
        self.schedule(Duration::from_micros(50), Due::Applied { host, start, group, generation, refused });
    }

    pub(super) fn start_witness(&mut self, witness: usize) {
        self.note(format!("witness {witness} starts"));
        let (cluster, me) = (self.settings.cluster.clone(), self.hosts.len() + witness);
        let w = &mut self.witnesses[witness];
        let now = w.clock.show(self.now);
        w.witness = Some(Witness::new(cluster, &self.settings.election, &self.settings.digests, me, now));
        w.power = Power::Running;
    }

    /// A datagram for a witness, and its answer.
    pub(super) fn ask_witness(&mut self, witness: usize, from: usize, bytes: &[u8]) {
        let w = &mut self.witnesses[witness];
        let now = w.clock.show(self.now);
        let Some(voter) = &mut w.witness else { return };
        match voter.packet(Self::address(from), 255, bytes, now) {
            Ok(Some((to, bytes))) => self.send_peer(self.hosts.len() + witness, to, bytes),
            Ok(None) => {}
            Err(cause) => panic!("a witness rejects a message of node {from}: {cause}"),
        }
    }

    pub(super) fn owns(&self, host: usize, group: usize) -> bool {
        let name = self.name(group);
        self.status(host).iter().any(|g| g.name == name && g.state == State::Active)
    }

    /// Why a group is in the state it is in, as a host tells it.
    #[must_use]
    pub fn why(&self, host: usize, group: usize) -> String {
        let name = self.name(group);
        self.status(host).into_iter().find(|g| g.name == name).map(|g| g.why).unwrap_or_default()
    }

    /// What a host tells of every group; what leaves comes last.
    pub(super) fn status(&self, host: usize) -> Vec<GroupStatus> {
        let node = self.hosts[host].node.as_ref();
        node.map(|n| n.group_status(self.shown(host))).unwrap_or_default()
    }

    /// A host is told of its new file: if it is not asleep, it takes it over.
    pub(super) fn reload_host(&mut self, host: usize) {
        let now = self.shown(host);
        let file = self.settings.clone();
        self.hosts[host].file = Some(file.clone());
        if let Some(after) = self.asleep(host) {
            return self.schedule(after, Due::Reload { host });
        }
        let h = &mut self.hosts[host];
        let Some(node) = &mut h.node else { return };
        if !Node::needs_restart(node.settings(), &file).is_empty() {
            return;
        }
        node.reconfigure(file, now);
        let names = names(node);
        h.names.extend(names);
        self.note(format!("{host} has reloaded"));
        // What is new has no interface yet.
        self.tell_links(host);
        self.drain(host);
    }

    /// The file that a host has.
    fn file(&self, host: usize) -> &Settings {
        self.hosts[host].file.as_ref().unwrap_or(&self.settings)
    }
}

/// The names of a node's groups, by their numbers in inputs and outputs.
fn names(node: &Node) -> BTreeMap<usize, String> {
    node.groups().map(|(id, vip)| (id, vip.name.clone())).collect()
}
