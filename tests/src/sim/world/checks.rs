//! What must hold at every moment of the simulation, and when it is settled.

use super::*;

impl World {
    /// The hosts that answer for a group.
    #[must_use]
    pub fn owners(&self, group: usize) -> Vec<usize> {
        // Without an address it is the election's word that counts.
        let Some(vip) = self.settings.vips.get(group) else { return vec![] };
        let owns = |h: &usize| match vip.addresses.is_empty() {
            true => self.hosts[*h].runs() && self.owns(*h, group),
            false => self.hosts[*h].answers(&vip.name),
        };
        (0..self.hosts.len()).filter(owns).collect()
    }

    /// The hosts that answer for an address, in whatever group they have it.
    #[must_use]
    pub fn answering(&self, address: Cidr) -> Vec<usize> {
        (0..self.hosts.len()).filter(|h| self.hosts[*h].answers_for(address)).collect()
    }

    /// The invariants that hold at every step.
    pub(super) fn check(&mut self) {
        for group in 0..self.settings.vips.len() {
            let mut owners = self.owners(group);
            // With another number it is another group, of the same name.
            owners.retain(|host| self.has_number(*host, group));
            self.quorate(&owners, &format!("group {group}"));
            let clash = self.clash(&owners);
            self.bound(Shared::Group(self.name(group).to_owned()), clash);
        }
        // Files may differ in which group has an address.
        for address in self.addresses.clone() {
            let clash = self.clash(&self.answering(address));
            self.bound(Shared::Address(address), clash);
        }
    }

    /// Whether a group has the newest file's number in a host's file.
    fn has_number(&self, host: usize, group: usize) -> bool {
        let Some(vip) = self.settings.vips.get(group) else { return false };
        self.file(host).vips.iter().any(|v| v.name == vip.name && v.vrid == vip.vrid)
    }

    /// With a quorum no two ever own the same, whether they can hear each other or not.
    fn quorate(&self, owners: &[usize], what: &str) {
        let election = &self.settings.election;
        let strict = election.quorum != Quorum::None && election.on_no_quorum == OnNoQuorum::Withdraw;
        assert!(!strict || owners.len() < 2, "{}: hosts {owners:?} both own {what}", self.now);
    }

    /// Those of some hosts that run, if two of them can hear each other.
    fn clash(&self, owners: &[usize]) -> Option<Vec<usize>> {
        let hear = |a: usize, b: usize| !self.cuts.contains(&(a, b)) && !self.cuts.contains(&(b, a));
        let running: Vec<usize> = owners.iter().copied().filter(|h| self.hosts[*h].runs()).collect();
        running.iter().any(|a| running.iter().any(|b| a != b && hear(*a, *b))).then_some(running)
    }

    /// Two owners do not last.
    fn bound(&mut self, what: Shared, clash: Option<Vec<usize>>) {
        let Some(hosts) = clash else {
            self.overlap_since.remove(&what);
            return;
        };
        let since = *self.overlap_since.entry(what.clone()).or_insert(self.now);
        let lasted = self.now - since;
        self.longest_overlap = self.longest_overlap.max(lasted);
        assert!(
            self.loss > 0 || lasted <= self.overlap_bound,
            "{}: hosts {hosts:?} both own {what:?} for {lasted:?}",
            self.now
        );
    }

    /// The name has the nodes that serve, or the one that owns.
    fn check_records(&self) {
        let Some(dns) = &self.settings.dns else { return };
        let serves = |h: &usize| {
            let host = &self.hosts[*h];
            host.runs() && host.carrier && host.node.as_ref().is_some_and(|n| !n.maintenance())
        };
        let able: Vec<usize> = (0..self.hosts.len()).filter(serves).collect();
        let meant = match dns.policy {
            Policy::Multi => able,
            Policy::Owner => able.into_iter().filter(|h| self.owns(*h, dns.owner)).collect(),
        };
        let expected: BTreeSet<IpAddr> = meant.into_iter().map(Self::address).collect();
        assert!(expected.is_empty() || self.records == expected, "the name has {:?}", self.records);
    }

    /// What holds once nothing has gone wrong for a while: every group has
    /// one owner among the hosts that can have one, and nobody else holds it.
    pub fn check_settled(&self) {
        self.check_records();
        for group in 0..self.settings.vips.len() {
            let able: Vec<usize> = (0..self.hosts.len())
                .filter(|h| self.hosts[*h].runs() && self.hosts[*h].carrier)
                .filter(|h| self.hosts[*h].node.as_ref().is_some_and(|n| !n.maintenance()))
                .collect();
            let owners = self.owners(group);
            assert_eq!(
                owners.len(),
                usize::from(!able.is_empty()),
                "owners of group {group}: {owners:?}, able: {able:?}"
            );
            let name = self.name(group);
            for host in &able {
                let state = self.status(*host).iter().find(|g| g.name == name).map(|g| g.state);
                let stands_by = matches!(state, Some(State::Backup | State::Active));
                assert!(stands_by, "host {host} can take group {group} and is in {state:?}");
            }
            for (index, host) in self.hosts.iter().enumerate() {
                for held in host.held(name) {
                    assert!(owners.contains(&index), "host {index} holds {name} and does not own it");
                    let why = self.why(index, group);
                    assert_eq!(held.addresses, self.settings.vips[group].addresses, "of {name}: {why:?}");
                }
            }
        }
        self.check_nothing_is_left();
    }

    /// Nobody holds what the file has no more.
    fn check_nothing_is_left(&self) {
        let known: BTreeSet<Cidr> = self.settings.vips.iter().flat_map(|v| v.addresses.clone()).collect();
        for (index, host) in self.hosts.iter().enumerate() {
            let held: BTreeSet<Cidr> = host.kernel.values().flat_map(|h| h.addresses.clone()).collect();
            assert!(held.is_subset(&known), "host {index} holds {held:?}, and the file has {known:?}");
        }
    }
}
