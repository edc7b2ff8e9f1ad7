//! A whole node, and what the network and the time bring it.

use super::{CLUSTER, ME, PX2, SUMMED, VRID, an_advert, envelope, hello, put_sum, vip};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;
use std::time::Duration;
use vipd_core::node::{Input, Link, Node, Output, Settings};
use vipd_core::pool::ServerKey;
use vipd_core::probe::{Checked, Observation, ObservedRole, Probe};
use vipd_core::settings::{
    Check, CheckKind, Cidr, ClusterSettings, DNS_GROUP, Dns, ElectionSettings, Host, Member, MysqlCheck,
    OnNoQuorum, Policy, Pool, Quorum, Role, Server, Transport, VipGroup, VrrpVersion, WhenAllDown,
};
use vipd_core::time::Time;
use vipd_core::wire::Claim;
use vipd_core::wire::advert::Advert;
use vipd_core::wire::peer::{self, Ballot, Envelope, Message, State};

const WITNESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 13));
const LINK: u32 = 2;
/// Steps of one play; outputs of one input; ticks at one instant: beyond that
/// something does not end.
const STEPS: usize = 512;
const OUTPUTS: usize = 4_096;
const TICKS: usize = 64;

/// A node of two, and what the network and the time bring it: flags that say
/// how the cluster is, then steps. Every output drains, every deadline lies in
/// the future, what it says can be read, and every reason can be told.
pub fn node(data: &[u8]) {
    let mut bytes = Bytes(data);
    let Some(flags) = bytes.byte() else { return };
    let mut play = Play::new(flags);
    for _ in 0..STEPS {
        let Some(step) = bytes.byte() else { break };
        if play.step(step, &mut bytes).is_none() {
            break;
        }
    }
    play.end();
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A piece with its length in front of it; a shorter one at the end.
    fn piece(&mut self) -> Option<&'a [u8]> {
        let length = (usize::from(self.byte()?) << 8) | usize::from(self.byte()?);
        let (piece, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        Some(piece)
    }
}

/// The steps.
const WAIT: u8 = 0;
const ADVERT: u8 = 1;
const MESSAGE: u8 = 2;
const CLAIM: u8 = 3;
const PROBE: u8 = 4;
const CABLE: u8 = 5;
const MAINTENANCE: u8 = 6;
const STEP_KINDS: u8 = 7;

/// Flags of a message's step: who sent it, and whether cluster and sender in
/// its header are put right.
const FROM_WITNESS: u8 = 1;
const ADDRESSED: u8 = 2;

struct Play {
    node: Node,
    now: Time,
}

impl Play {
    fn new(flags: u8) -> Self {
        let now = Time::ZERO + Duration::from_secs(1);
        let mut play = Self { node: Node::new(settings(flags), 0, 7, now), now };
        play.cable(true);
        play
    }

    /// None at the end of the bytes.
    fn step(&mut self, step: u8, bytes: &mut Bytes<'_>) -> Option<()> {
        match step % STEP_KINDS {
            WAIT => self.wait(Duration::from_millis(1 << (bytes.byte()? % 12))),
            ADVERT => {
                let flags = bytes.byte()?;
                let mut payload = bytes.piece()?.to_vec();
                if flags & SUMMED != 0 {
                    put_sum(&mut payload, PX2, ME);
                }
                let payload = &payload;
                self.input(Input::Packet {
                    interface: LINK,
                    source: PX2,
                    destination: ME,
                    ttl: u8::MAX,
                    payload,
                });
            }
            MESSAGE => {
                let flags = bytes.byte()?;
                let mut payload = bytes.piece()?.to_vec();
                let (source, name) = if flags & FROM_WITNESS == 0 { (PX2, "px2") } else { (WITNESS, "w1") };
                if let (true, Some(header)) = (flags & ADDRESSED != 0, payload.get_mut(8..20)) {
                    header[..8].copy_from_slice(&peer::cluster_id(CLUSTER).to_be_bytes());
                    header[8..].copy_from_slice(&peer::node_id(name).to_be_bytes());
                }
                self.input(Input::PeerPacket { source, ttl: u8::MAX, payload: &payload });
            }
            CLAIM => {
                let (last, mac, answer) = (bytes.byte()?, bytes.byte()?, bytes.byte()?);
                let claim = Claim { address: vip(last), mac: [2, 0, 0, 0, 0, mac], answer: answer & 1 != 0 };
                self.input(Input::Claim { interface: LINK, claim });
            }
            PROBE => {
                let (server, said) = (bytes.byte()?, bytes.byte()?);
                let answered = |role| Probe::Answered(Observation { role, ..Observation::default() });
                let probe = match said % 4 {
                    0 => Probe::Failed("refused".into()),
                    1 => answered(Some(ObservedRole::Primary)),
                    2 => answered(Some(ObservedRole::Replica)),
                    _ => answered(None),
                };
                let server = ServerKey { pool: 0, server: usize::from(server % 2) };
                self.input(Input::Probe { server, probe, checked: Checked::at(self.now) });
            }
            CABLE => {
                let up = bytes.byte()? & 1 != 0;
                self.cable(up);
            }
            _ => {
                let on = bytes.byte()? & 1 != 0;
                self.node.set_maintenance(on, self.now);
                self.drain();
            }
        }
        Some(())
    }

    fn cable(&mut self, up: bool) {
        let groups: Vec<usize> = self.node.groups().map(|(id, _)| id).collect();
        for group in groups {
            let subnets = Cidr::new(ME, 24).into_iter().collect();
            let link = match up {
                true => {
                    Link::Up { interface: LINK, sources: vec![ME], mac: Some([2, 0, 0, 0, 0, 11]), subnets }
                }
                false => Link::Down { reason: "no carrier".into() },
            };
            self.input(Input::Link { group, link });
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        let mut at_once = 0;
        while let Some(due) = self.node.next_deadline().filter(|due| *due <= end) {
            at_once = if due <= self.now { at_once + 1 } else { 0 };
            assert!(at_once < TICKS, "a deadline stays in the past");
            self.now = self.now.max(due);
            self.input(Input::Tick);
        }
        self.now = end;
    }

    fn input(&mut self, input: Input<'_>) {
        self.node.handle(input, self.now);
        self.drain();
    }

    fn drain(&mut self) {
        for _ in 0..OUTPUTS {
            let Some(output) = self.node.next_output() else { return };
            self.obey(output);
        }
        panic!("outputs without end");
    }

    fn obey(&mut self, output: Output) {
        match output {
            Output::Addresses(plan) => {
                let (group, generation) = (plan.group, plan.generation);
                self.node.handle(Input::Applied { group, generation, result: Ok(()) }, self.now);
            }
            Output::Announce(announcement) => {
                self.node.handle(Input::Announced { group: announcement.group }, self.now);
            }
            Output::Peer { node, bytes } => {
                assert!(node != 0 && bytes.len() <= peer::MAX_LENGTH, "to {node}: {} bytes", bytes.len());
                assert!(Envelope::parse(&bytes).is_ok(), "it says what nobody reads");
            }
            Output::Advert(t) => {
                let read = Advert::parse(&t.bytes, t.source, t.destination);
                assert!(read.is_ok(), "it advertises what nobody reads: {read:?}");
            }
            Output::Ask(_)
            | Output::CloseSessions { .. }
            | Output::Pools(_)
            | Output::CloseServer { .. }
            | Output::CloseElsewhere(_)
            | Output::Room { .. }
            | Output::Hurry { .. }
            | Output::Records(_)
            | Output::Register { .. }
            | Output::Extended { .. }
            | Output::Guard(_)
            | Output::Event(_)
            | Output::Forget { .. }
            | Output::Stopped { .. } => {}
        }
    }

    /// What people may ask has an answer.
    fn end(self) {
        let Self { node, now } = self;
        assert!(node.group_status(now).iter().all(|g| !g.why.is_empty() || g.state == State::Backup));
        assert!(node.rejected(now).len() <= 256, "those who send rubbish are counted without bound");
        assert_eq!(node.peers().len(), 2);
        let _ = (node.servers().status().count(), node.disagreeing(0), node.dns_status(now));
    }
}

/// Flags of a play's first byte.
const KEEPS: u8 = 0x10;
const V2: u8 = 0x20;
const NAMED: u8 = 0x40;

fn settings(flags: u8) -> Settings {
    let member =
        |name: &str, address| Member { name: name.to_owned(), addresses: vec![address], priority: None };
    let group = |name: &str, vrid, addresses: Vec<Cidr>| VipGroup {
        name: name.to_owned(),
        addresses,
        interface: None,
        vrid,
        nodes: vec![0, 1],
        track: vec![],
    };
    let second = NonZeroU8::new(52).unwrap_or(VRID);
    let mut vips = vec![
        group("main", VRID, Cidr::new(vip(100), 24).into_iter().collect()),
        group("second", second, Cidr::new(vip(101), 24).into_iter().collect()),
    ];
    let dns = (flags & NAMED != 0).then(|| {
        vips.push(group(DNS_GROUP, NonZeroU8::MAX, vec![]));
        name()
    });
    let (version, interval) = if flags & V2 != 0 { (VrrpVersion::V2, 1_000) } else { (VrrpVersion::V3, 100) };
    let server = |n: u8| Server::new(format!("db{n}"), Host::Address(vip(20 + n)), 3306);
    let kind = CheckKind::Mysql(MysqlCheck { role: Role::Primary, ..MysqlCheck::new("vipd") });
    let check = Some(Check { rise: 1, fall: 2, ..Check::new(kind) });
    Settings {
        cluster: ClusterSettings {
            name: CLUSTER.to_owned(),
            nodes: vec![member("px1", ME), member("px2", PX2)],
            witnesses: vec![member("w1", WITNESS)],
            peer_port: 7112,
        },
        election: ElectionSettings {
            advert_interval: Duration::from_millis(interval),
            version,
            transport: [Transport::Unicast, Transport::Multicast, Transport::Udp, Transport::Unicast]
                [usize::from((flags >> 2) & 3)],
            preempt: flags & 0x80 != 0,
            preempt_delay: Duration::ZERO,
            start_delay: Duration::ZERO,
            lease: Duration::from_secs(3),
            quorum: [Quorum::None, Quorum::Majority, Quorum::Etcd, Quorum::Majority][usize::from(flags & 3)],
            on_no_quorum: if flags & KEEPS != 0 { OnNoQuorum::Keep } else { OnNoQuorum::Withdraw },
            etcd_lease: Duration::from_secs(3),
        },
        vips,
        listeners: vec![],
        pools: vec![Pool { check, ..Pool::new("primary", vec![server(1), server(2)]) }],
        dns,
        digests: vec![("cluster.nodes", 1), ("pool", 2)],
    }
}

fn name() -> Dns {
    Dns {
        name: "db.corp.example.".into(),
        ttl: Duration::from_secs(5),
        policy: Policy::Multi,
        when_all_down: WhenAllDown::LastGood,
        hold_down: Duration::from_secs(1),
        repair: false,
        public_addresses: vec![],
        election: 2,
        owner: 2,
        rfc2136: None,
        route53: None,
    }
}

// ---- to begin with ---------------------------------------------------------------

fn sized(step: u8, flags: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[step, flags, length[0], length[1]], bytes].concat()
}

fn says(message: Message) -> Vec<u8> {
    sized(MESSAGE, ADDRESSED, &envelope("px2", message))
}

fn votes(message: Message) -> Vec<u8> {
    sized(MESSAGE, ADDRESSED | FROM_WITNESS, &envelope("w1", message))
}

fn advertises(priority: u8) -> Vec<u8> {
    let advert = Advert {
        interval: Duration::from_millis(100),
        ..an_advert(VrrpVersion::V3, priority, vec![vip(100)])
    };
    sized(ADVERT, SUMMED, &advert.write(PX2, ME))
}

pub(super) fn plays() -> Vec<(String, Vec<u8>)> {
    let waits = |power| vec![WAIT, power];
    let long = || [waits(11), waits(11), waits(11), waits(11)].concat();
    let grant = |number| Message::Grant(Ballot { vrid: VRID, run: 7, number });
    let probes = |said| vec![PROBE, 0, said, PROBE, 1, 1];
    let takeover = [
        says(Message::Hello(hello(State::Active))),
        advertises(150),
        waits(5),
        vec![CLAIM, 100, 12, 1],
        waits(10),
        says(Message::Hello(hello(State::Backup))),
        long(),
    ];
    let rivals = [
        long(),
        says(Message::Hello(hello(State::Active))),
        waits(9),
        advertises(254),
        advertises(0),
        vec![CLAIM, 100, 99, 0, CABLE, 0],
        waits(8),
        vec![CABLE, 1],
        long(),
    ];
    let voted = [long(), votes(grant(1)), votes(grant(2)), votes(grant(3)), waits(4), says(grant(4)), long()];
    let primaries = [probes(1), long(), says(Message::Hello(hello(State::Active))), probes(0), long()];
    let handed = [
        long(),
        says(Message::Prepare { vrid: VRID, nonce: 7, to: peer::node_id("px1") }),
        says(Message::Ready { vrid: VRID, nonce: 8 }),
        says(Message::Request {
            ballot: Ballot { vrid: VRID, run: 9, number: 1 },
            lease: Duration::from_millis(300),
            preempt: true,
        }),
        vec![MAINTENANCE, 1],
        long(),
        vec![MAINTENANCE, 0],
        long(),
    ];
    let rows = [
        ("takeover", 0, takeover.concat()),
        ("rivals", 0, rivals.concat()),
        ("rivals-multicast", 4, rivals.concat()),
        ("rivals-with-a-name", NAMED | 8, rivals.concat()),
        ("voted", 1, voted.concat()),
        ("etcd-is-silent", 2 | KEEPS, [long(), long(), long()].concat()),
        ("primaries", 0, primaries.concat()),
        ("handed-over", 0, handed.concat()),
        ("handed-over-with-votes", 1 | KEEPS, handed.concat()),
        ("version-2", V2, takeover.concat()),
    ];
    rows.into_iter().map(|(name, flags, steps)| (name.to_owned(), [vec![flags], steps].concat())).collect()
}
