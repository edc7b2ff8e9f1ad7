//! Several proxies before the same databases: whatever each of them can see,
//! and whichever of them is restarted, in the end all write to one.

use super::*;
use crate::health::{self, ServerStatus};
use crate::probe::ObservedRole;
use crate::settings::{MysqlCheck, Role};
use crate::wire::peer::{Incumbent, pool_id, server_id};
use std::collections::BTreeSet;

const PROXIES: usize = 3;
const SERVERS: usize = 3;
/// Every proxy checks every server, and all say hello, once in this time.
const ROUND: u64 = 1_000;

/// The proxies, and how the databases really are.
struct Site {
    nodes: Vec<Node>,
    writable: BTreeSet<usize>,
    dead: BTreeSet<usize>,
    /// Proxies that cannot reach a server.
    cut: BTreeSet<(usize, usize)>,
    now: u64,
    random: u64,
}

fn site() -> Settings {
    let member = |n: u8| Member { name: format!("px{n}"), addresses: vec![address(10 + n)], priority: None };
    let server = |n: u8| Server::new(format!("db{n}"), Host::Address(address(20 + n)), 3306);
    let kind = CheckKind::Mysql(MysqlCheck { role: Role::Primary, ..MysqlCheck::new("vipd") });
    let check = Some(Check { rise: 1, fall: 2, ..Check::new(kind) });
    let mut settings = settings();
    settings.cluster.nodes = vec![member(1), member(2), member(3)];
    settings.vips[0].nodes = vec![0, 1, 2];
    settings.pools = vec![Pool { check, ..Pool::new("primary", vec![server(1), server(2), server(3)]) }];
    settings
}

fn start(me: usize, now: u64) -> Node {
    let mut node = Node::new(site(), me, 7, at(now));
    let own = address(11 + u8::try_from(me).unwrap_or(0));
    let link = Link::Up { interface: LINK, sources: vec![own], mac: None, subnets: vec![] };
    node.handle(Input::Link { group: 0, link }, at(now));
    node
}

impl Site {
    fn new(seed: u64) -> Self {
        let nodes = (0..PROXIES).map(|n| start(n, 0)).collect();
        let (dead, cut) = (BTreeSet::new(), BTreeSet::new());
        Self { nodes, writable: [0].into(), dead, cut, now: 0, random: seed }
    }

    fn draw(&mut self, below: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 33).unwrap_or(0) % below
    }

    /// Delivers what the proxies say, until they are silent.
    fn talk(&mut self) {
        loop {
            let mut said = vec![];
            for (from, node) in self.nodes.iter_mut().enumerate() {
                for output in obey(node, at(self.now)) {
                    match output {
                        Output::Peer { node, bytes } => said.push((from, node, None, bytes)),
                        Output::Advert(t) => {
                            let to = (0..PROXIES).find(|n| t.destination == own(*n)).unwrap_or(from);
                            said.push((from, to, Some(t.destination), t.bytes));
                        }
                        _ => {}
                    }
                }
            }
            if said.is_empty() {
                return;
            }
            for (from, to, advert, payload) in said {
                let (source, payload) = (own(from), &payload[..]);
                let input = match advert {
                    None => Input::PeerPacket { source, ttl: 255, payload },
                    Some(destination) => {
                        Input::Packet { interface: LINK, source, destination, ttl: 255, payload }
                    }
                };
                self.nodes[to].handle(input, at(self.now));
            }
        }
    }

    /// A round of checks in any order, with what is said meanwhile.
    fn round(&mut self) {
        let mut checks: Vec<(usize, usize)> =
            (0..PROXIES).flat_map(|n| (0..SERVERS).map(move |s| (n, s))).collect();
        let end = self.now + ROUND;
        while !checks.is_empty() {
            let (node, server) = checks.swap_remove(self.draw(checks.len()));
            self.now += ROUND / 10;
            self.tick();
            let probe = if self.dead.contains(&server) || self.cut.contains(&(node, server)) {
                Probe::Failed("refused".into())
            } else {
                let role = match self.writable.contains(&server) {
                    true => ObservedRole::Primary,
                    false => ObservedRole::Replica,
                };
                Probe::Answered(Observation { role: Some(role), ..Observation::default() })
            };
            let server = ServerKey { pool: 0, server };
            self.nodes[node]
                .handle(Input::Probe { server, probe, checked: Checked::at(at(self.now)) }, at(self.now));
            self.talk();
        }
        self.now = end.max(self.now);
    }

    fn tick(&mut self) {
        for node in &mut self.nodes {
            if node.next_deadline().is_some_and(|due| due <= at(self.now)) {
                node.handle(Input::Tick, at(self.now));
            }
        }
        self.talk();
    }

    /// Where each proxy sends writes, if it does.
    fn targets(&self) -> Vec<Option<usize>> {
        let is_up = |s: &ServerStatus<'_>| s.reason.state() == health::State::Up;
        self.nodes.iter().map(|n| n.servers().status().find(is_up).map(|s| s.key.server)).collect()
    }

    fn something_happens(&mut self) {
        let (node, server) = (self.draw(PROXIES), self.draw(SERVERS));
        match self.draw(9) {
            0 => self.cut.extend([(node, server)]),
            1 => self.cut.clear(),
            // A failover: the old primary dies, and another is promoted.
            2 => {
                self.dead = std::mem::take(&mut self.writable);
                self.writable = [(0..SERVERS).find(|s| !self.dead.contains(s)).unwrap_or(server)].into();
            }
            3 => {
                self.writable = [server].into();
                self.dead.remove(&server);
            }
            // Somebody promotes a second one, or comes back as it was.
            4 => self.writable.extend([server]),
            5 => self.dead.clear(),
            6 => self.dead.extend([server]),
            _ => self.nodes[node] = start(node, self.now),
        }
    }
}

fn own(node: usize) -> IpAddr {
    address(11 + u8::try_from(node).unwrap_or(0))
}

#[test]
fn in_the_end_all_proxies_write_to_one_server() {
    for seed in 0..300 {
        let mut site = Site::new(seed);
        let mut story = vec![];
        for step in 0..25 {
            site.something_happens();
            for _ in 0..site.draw(3) {
                site.round();
            }
            let calm = step % 5 == 4;
            story.push(format!("dead {:?}, writable {:?}, cut {:?}", site.dead, site.writable, site.cut));
            if calm {
                for _ in 0..6 {
                    site.round();
                }
                let targets: BTreeSet<usize> = site.targets().into_iter().flatten().collect();
                assert!(targets.len() <= 1, "seed {seed}: {:?}\n{}", site.targets(), story.join("\n"));
                let seen =
                    |s: &usize| !site.dead.contains(s) && (0..PROXIES).any(|n| !site.cut.contains(&(n, *s)));
                let some = site.writable.iter().any(seen);
                assert_eq!(
                    !targets.is_empty(),
                    some,
                    "seed {seed}: {:?}\n{}",
                    site.targets(),
                    story.join("\n")
                );
            }
        }
    }
}

#[test]
fn a_restarted_proxy_that_sees_only_the_wrong_one_of_two_does_not_write_to_it() {
    let mut site = Site::new(1);
    site.round();
    site.round();
    assert_eq!(site.targets(), [Some(0); PROXIES]);
    site.writable.extend([1]);
    site.cut.extend([(2, 0)]);
    site.nodes[2] = start(2, site.now);
    for _ in 0..6 {
        site.round();
        assert_eq!(site.targets(), [Some(0), Some(0), None]);
    }
    let why: Vec<String> = site.nodes[2].servers().status().map(|s| s.reason.to_string()).collect();
    assert!(
        why[0].starts_with("unreachable from this node") && why[0].ends_with("px1, px2 reaches it"),
        "{why:?}"
    );
    assert_eq!(why[1], "conflict: db1 is also writable, and is the one in use");
    // The others tell from where it cannot be reached.
    let from: Vec<&str> = site.nodes[0].servers().status().next().map(|s| s.fails_from).unwrap_or_default();
    assert_eq!(from, ["px3"]);
    assert_eq!(site.nodes[0].disagreeing(0), []);
}

/// The server that this node writes to once another owner has said which it
/// follows; both servers are writable, and this node chose the first.
fn follows_after(me: usize, from: usize, epoch: Option<u32>) -> Option<usize> {
    let mut node = start(me, 0);
    while let Some(due) = node.next_deadline().filter(|due| *due <= at(5_000)) {
        node.handle(Input::Tick, due);
        obey(&mut node, due);
    }
    assert_eq!(node.group_status(at(5_000))[0].state, State::Active);
    for server in [0, 1].map(|server| ServerKey { pool: 0, server }) {
        let probe =
            Probe::Answered(Observation { role: Some(ObservedRole::Primary), ..Observation::default() });
        node.handle(Input::Probe { server, probe, checked: Checked::at(at(5_000)) }, at(5_000));
    }
    let follows = Incumbent { pool: pool_id("primary"), server: server_id("db2"), epoch: epoch.unwrap_or(0) };
    let owns = GroupReport {
        vrid: NonZeroU8::MIN,
        state: State::Active,
        priority: 150,
        serving: true,
        deposed: false,
    };
    // A hello of an earlier release ends before what it hears, and the epochs.
    let hears = epoch.map(|_| vec![]);
    let message =
        Message::Hello(Hello { groups: vec![owns], incumbents: vec![follows], hears, ..Hello::default() });
    let sender = node_id(&format!("px{}", from + 1));
    let payload = Envelope { cluster: cluster_id("orders"), sender, message }.write();
    node.handle(Input::PeerPacket { source: own(from), ttl: 255, payload: &payload }, at(5_100));
    let is_up = |s: &ServerStatus<'_>| s.reason.state() == health::State::Up;
    node.servers().status().find(is_up).map(|s| s.key.server)
}

/// Both own an address, so that both count: an earlier release always follows
/// the one before it, and tells no epoch.
#[test]
fn two_owners_of_two_releases_follow_the_first_of_them() {
    for (me, from, epoch, expected) in [
        (1, 0, None, 1),
        (0, 1, None, 0),
        // Of the same release who knows of more changes, and then the first.
        (0, 1, Some(2), 1),
        (0, 1, Some(1), 0),
        (1, 0, Some(1), 1),
    ] {
        assert_eq!(follows_after(me, from, epoch), Some(expected), "{me} hears {from}, epoch {epoch:?}");
    }
}
