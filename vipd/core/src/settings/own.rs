//! Where the proxies themselves are: what no server is. The file's check
//! refuses servers that it has there by address; names may come to lead there
//! at any time.

use super::{Bind, ClusterSettings, Listener, Pool, VipGroup};
use crate::node::Settings;
use std::net::{IpAddr, SocketAddr};

/// The places of the proxies.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Own {
    /// Floating addresses, each with its group's name.
    vips: Vec<(IpAddr, String)>,
    /// The nodes' addresses.
    nodes: Vec<IpAddr>,
    listeners: Vec<Serving>,
}

/// A listener, and the pools that it serves from: its own, and the fallbacks of that.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Serving {
    name: String,
    bind: Bind,
    pools: Vec<String>,
}

impl Own {
    /// Those of these settings.
    #[must_use]
    pub fn of(cluster: &ClusterSettings, vips: &[VipGroup], listeners: &[Listener], pools: &[Pool]) -> Self {
        let chain = |first: usize| {
            let next = |at: &usize| pools.get(*at)?.fallback;
            // Chains of checked settings have an end.
            let chain = std::iter::successors(Some(first), next).take(pools.len());
            chain.filter_map(|at| pools.get(at)).map(|p| p.name.clone()).collect()
        };
        Self {
            vips: vips
                .iter()
                .flat_map(|vip| vip.addresses.iter().map(|a| (a.address(), vip.name.clone())))
                .collect(),
            nodes: cluster.nodes.iter().flat_map(|n| n.addresses.clone()).collect(),
            listeners: listeners
                .iter()
                .map(|l| Serving { name: l.name.clone(), bind: l.bind, pools: chain(l.pool) })
                .collect(),
        }
    }

    /// What is at a place, if no server of a pool can be there; `local` tells
    /// that the address is one of this host.
    #[must_use]
    pub fn at(&self, pool: &str, place: SocketAddr, local: bool) -> Option<String> {
        let ip = place.ip().to_canonical();
        if let Some((_, vip)) = self.vips.iter().find(|(vip, _)| *vip == ip) {
            return Some(format!("a floating address, of VIP {vip}"));
        }
        let ours = local || ip.is_loopback() || self.nodes.contains(&ip);
        let here = |bind: &Bind| {
            let address = match bind.address {
                None => ours,
                Some(any) if any.is_unspecified() => ours && any.is_ipv4() == ip.is_ipv4(),
                Some(address) => address == ip,
            };
            address && bind.port == place.port()
        };
        let serves = |l: &&Serving| here(&l.bind) && l.pools.iter().any(|p| p == pool);
        let listener = self.listeners.iter().find(serves)?;
        Some(format!(
            "where listener {} listens (port {}): connections would come back for ever",
            listener.name,
            place.port()
        ))
    }
}

impl Settings {
    /// Where the proxies themselves are.
    #[must_use]
    pub fn own(&self) -> Own {
        Own::of(&self.cluster, &self.vips, &self.listeners, &self.pools)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Cidr, Member};
    use std::num::NonZeroU8;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 77, 0, last])
    }

    fn own() -> Own {
        let member = |n: u8| Member { name: format!("px{n}"), addresses: vec![ip(10 + n)], priority: None };
        let cluster = ClusterSettings {
            name: "orders".into(),
            nodes: vec![member(1), member(2)],
            witnesses: vec![],
            peer_port: 7112,
        };
        let vip = VipGroup {
            name: "main".into(),
            addresses: Cidr::new(ip(100), 24).into_iter().collect(),
            interface: None,
            vrid: NonZeroU8::MIN,
            nodes: vec![0, 1],
            track: vec![],
        };
        let reads = Pool { fallback: Some(1), ..Pool::new("reads", vec![]) };
        let pools = [reads, Pool::new("writes", vec![]), Pool::new("other", vec![])];
        let any = Listener::new("any", Bind { address: None, port: 3306 }, 0);
        let one = Listener::new("one", Bind { address: Some(ip(50)), port: 3307 }, 1);
        Own::of(&cluster, &[vip], &[any, one], &pools)
    }

    #[test]
    fn no_server_is_where_its_own_listener_is() {
        let own = own();
        let is = |pool: &str, ip: IpAddr, port, local| own.at(pool, SocketAddr::new(ip, port), local);
        let any = "where listener any listens (port 3306): connections would come back for ever";
        let v6 = IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]);
        for (pool, address, port, local, expected) in [
            ("reads", ip(100), 9, false, Some("a floating address, of VIP main")),
            ("reads", ip(11), 3306, false, Some(any)),
            ("writes", ip(12), 3306, false, Some(any)),
            ("reads", IpAddr::from([127, 0, 0, 1]), 3306, false, Some(any)),
            ("reads", v6, 3306, false, Some(any)),
            ("reads", ip(60), 3306, true, Some(any)),
            // Another port, another host, another pool's listener.
            ("reads", ip(11), 3307, false, None),
            ("reads", ip(60), 3306, false, None),
            ("other", ip(11), 3306, false, None),
            ("reads", ip(50), 3307, true, None),
        ] {
            assert_eq!(is(pool, address, port, local).as_deref(), expected, "{pool} {address}:{port}");
        }
        assert!(is("writes", ip(50), 3307, false).is_some_and(|why| why.contains("listener one")));
        assert_eq!(Own::default().at("reads", SocketAddr::new(ip(11), 3306), true), None);
    }
}
