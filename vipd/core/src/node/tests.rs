#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks at some outputs and lets the others pass")]

mod agreement;
mod claims;
mod handover;
mod neighbours;
mod owned_name;
mod owning;
mod packets;
mod records;
mod reload;
mod servers;

use super::*;
use crate::event::Kind;
use crate::plan::Hold;
use crate::pool::ServerKey;
use crate::probe::{Checked, Observation, Probe};
use crate::rejects::Reject;
use crate::settings::{
    Bind, Check, CheckKind, Cidr, Host, Member, OnNoQuorum, Quorum, Server, TcpCheck, Transport, VrrpVersion,
};
use crate::wire::advert::Advert;
use crate::wire::peer::{GroupReport, Hello, State, cluster_id, node_id};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;

const SECOND: Duration = Duration::from_secs(1);
const LINK: u32 = 2;

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, last))
}

fn at(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

fn vip(name: &str, last: u8) -> VipGroup {
    VipGroup {
        name: name.into(),
        addresses: Cidr::new(address(last), 24).into_iter().collect(),
        interface: None,
        vrid: NonZeroU8::new(last).unwrap_or(NonZeroU8::MIN),
        nodes: vec![0, 1],
        track: vec![],
    }
}

fn settings() -> Settings {
    let member = |n: u8| Member { name: format!("px{n}"), addresses: vec![address(10 + n)], priority: None };
    Settings {
        cluster: ClusterSettings {
            name: "orders".into(),
            nodes: vec![member(1), member(2)],
            witnesses: vec![],
            peer_port: 7112,
        },
        election: ElectionSettings {
            advert_interval: SECOND,
            version: VrrpVersion::V3,
            transport: Transport::Unicast,
            preempt: false,
            preempt_delay: Duration::ZERO,
            start_delay: Duration::ZERO,
            lease: 3 * SECOND,
            quorum: Quorum::None,
            on_no_quorum: OnNoQuorum::Withdraw,
            etcd_lease: Duration::from_secs(3),
        },
        vips: vec![vip("main", 100)],
        listeners: vec![],
        pools: vec![],
        dns: None,
        digests: vec![("cluster.nodes", 1), ("pool", 2)],
    }
}

/// The first node, started at 0 s, its interface up.
fn node(settings: Settings) -> Node {
    let mut node = Node::new(settings, 0, 0, at(0));
    let groups: Vec<usize> = node.groups().map(|(id, _)| id).collect();
    for group in groups {
        node.handle(
            Input::Link {
                group,
                link: Link::Up { interface: LINK, sources: vec![address(11)], mac: None, subnets: vec![] },
            },
            at(0),
        );
    }
    drain(&mut node);
    node
}

fn drain(node: &mut Node) -> Vec<Output> {
    std::iter::from_fn(|| node.next_output()).collect()
}

/// Lets the node take over, and its kernel obey.
fn owner(settings: Settings) -> Node {
    owner_at(settings, 3_300)
}

fn owner_at(settings: Settings, millis: u64) -> Node {
    let mut node = node(settings);
    let now = at(millis);
    node.handle(Input::Tick, now);
    obey(&mut node, now);
    assert_eq!(node.group_status(now)[0].state, State::Active);
    node
}

/// Acknowledges every plan; gives the other outputs.
fn obey(node: &mut Node, now: Time) -> Vec<Output> {
    let mut others = vec![];
    loop {
        let outputs = drain(node);
        if outputs.is_empty() {
            return others;
        }
        for output in outputs {
            match output {
                Output::Addresses(plan) => {
                    let (group, generation) = (plan.group, plan.generation);
                    node.handle(Input::Applied { group, generation, result: Ok(()) }, now);
                }
                Output::Announce(announcement) => {
                    node.handle(Input::Announced { group: announcement.group }, now);
                    others.push(Output::Announce(announcement));
                }
                output => others.push(output),
            }
        }
    }
}

fn hello(state: State, serving: bool, digests: Vec<u32>) -> Vec<u8> {
    let vrid = NonZeroU8::new(100).unwrap_or(NonZeroU8::MIN);
    let groups = vec![GroupReport { vrid, state, priority: 150, serving, deposed: false }];
    let message = Message::Hello(Hello { groups, digests, ..Hello::default() });
    Envelope { cluster: cluster_id("orders"), sender: node_id("px2"), message }.write()
}

fn peer_says(node: &mut Node, payload: &[u8], now: Time) {
    node.handle(Input::PeerPacket { source: address(12), ttl: 255, payload }, now);
}

fn hear(node: &mut Node, interface: u32, advert: &Advert, now: Time) {
    let (source, destination) = (address(12), address(11));
    let payload = advert.write(source, destination);
    node.handle(Input::Packet { interface, source, destination, ttl: 255, payload: &payload }, now);
}

fn events(outputs: Vec<Output>) -> Vec<Event> {
    let event = |output| if let Output::Event(event) = output { Some(event) } else { None };
    outputs.into_iter().filter_map(event).collect()
}

fn advert(priority: u8) -> Advert {
    Advert {
        version: VrrpVersion::V3,
        vrid: NonZeroU8::new(100).unwrap_or(NonZeroU8::MIN),
        priority,
        interval: SECOND,
        addresses: vec![address(100)],
    }
}

/// A pool of one checked server, and a listener that the group tracks.
fn tracked() -> Settings {
    let server = Server::new("db1", Host::Address(address(21)), 3306);
    let check = Check { rise: 1, fall: 1, ..Check::new(CheckKind::Tcp(TcpCheck::default())) };
    let pool = Pool { check: Some(check), ..Pool::new("primary", vec![server]) };
    let bind = Bind { address: Some(address(100)), port: 3306 };
    let listener = Listener::new("write", bind, 0);
    let mut settings = settings();
    settings.vips[0].track = vec![0];
    settings.listeners = vec![listener];
    settings.pools = vec![pool];
    settings
}
