//! When interfaces or addresses of the host change: which group is where, and
//! the sockets there.

use super::Shell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use tracing::warn;
use vipd_core::node::{Input, Link};
use vipd_core::settings::{Family, Transport, VipGroup};

impl Shell {
    /// Looks for every group's interface anew; the node notes what changed.
    pub(super) fn relink(&mut self) {
        self.sift_again();
        if self.interfaces.is_empty() {
            // A host has one at least: the kernel's list is still to come.
            return;
        }
        self.resolver.host_has(self.interfaces.addresses().collect());
        self.open_peer_sockets();
        let (settings, me) = (self.node.settings(), self.node.me());
        let links: Vec<(usize, Link)> =
            self.node.groups().map(|(id, vip)| (id, self.interfaces.link(vip, settings, me))).collect();
        self.watch_claims(&links);
        for (group, link) in links {
            let link = self.open_advert_sockets(link);
            self.handle(Input::Link { group, link });
        }
    }

    /// Watches who else claims the groups' addresses where those are.
    fn watch_claims(&mut self, links: &[(usize, Link)]) {
        let mut wanted: BTreeMap<(u32, Family), BTreeSet<IpAddr>> = BTreeMap::new();
        let groups: BTreeMap<usize, &VipGroup> = self.node.groups().collect();
        for (group, link) in links {
            let (Link::Up { interface, mac: Some(_), .. }, Some(vip)) = (link, groups.get(group)) else {
                continue;
            };
            for address in vip.addresses.iter().map(|a| a.address()) {
                wanted.entry((*interface, Family::of(address))).or_default().insert(address);
            }
        }
        if let Err(error) = self.sockets.watch_claims(&wanted) {
            warn!(%error, "cannot hear who else claims a floating address: a duplicate is not named");
        }
    }

    fn open_advert_sockets(&mut self, link: Link) -> Link {
        let Link::Up { interface, sources, .. } = &link else { return link };
        if self.node.settings().election.transport == Transport::Udp {
            return link;
        }
        for source in sources {
            if let Err(error) = self.sockets.open_advert(*interface, Family::of(*source)) {
                let reason = format!("cannot open the socket for adverts: {error}");
                return Link::Down { reason };
            }
        }
        link
    }

    /// Opens the peer sockets of this node's addresses that the host has by now.
    fn open_peer_sockets(&mut self) {
        let cluster = &self.node.settings().cluster;
        let Some(me) = cluster.nodes.get(self.node.me()) else { return };
        for address in &me.addresses {
            if !self.interfaces.addresses().any(|a| a == *address) {
                continue;
            }
            let local = SocketAddr::new(*address, cluster.peer_port);
            if let Err(error) = self.sockets.open_peer(local) {
                warn!(%local, %error, "cannot open the peer port: switchovers will not be seamless");
            }
        }
    }
}
