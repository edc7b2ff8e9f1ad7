//! Fuzz targets: bytes as the network may bring them, and what must hold
//! whatever they are. A target panics where it does not.
//!
//! `make fuzz` has libFuzzer look for such bytes (`tests/fuzz`, which takes in
//! this file as it is: nothing but the core is used here). `make test` runs the
//! targets on the corpus, and on a few thousand mutations of it.

mod play;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;
use std::time::Duration;
use vipd_core::settings::VrrpVersion;
use vipd_core::wire::PROTOCOL;
use vipd_core::wire::advert::Advert;
use vipd_core::wire::peer::{
    self, Among, Ballot, Envelope, GroupReport, Hello, Incumbent, Message, Seen, Sighting, State, Verdict,
    Word,
};

pub use play::node;

/// A function of bytes, and bytes to begin with.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its directory in the corpus.
    pub name: &'static str,
    /// Panics if something does not hold.
    pub run: fn(&[u8]),
    /// What the corpus has in any case, by name.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// All targets.
pub const TARGETS: [Target; 3] = [
    Target { name: "advert", run: advert, seeds: adverts },
    Target { name: "message", run: message, seeds: messages },
    Target { name: "node", run: node, seeds: play::plays },
];

const CLUSTER: &str = "orders";
const ME: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 11));
const PX2: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 12));
const VRID: NonZeroU8 = NonZeroU8::new(51).unwrap();

// ---- adverts --------------------------------------------------------------------

/// Flags of an advert's first byte: its family, and whether its checksum is put
/// right, which nobody would guess.
const IPV6: u8 = 1;
const SUMMED: u8 = 2;

/// An advert: flags, then the payload of an IP packet. What is read is written
/// so that it is read as the same.
pub fn advert(data: &[u8]) {
    let Some((flags, payload)) = data.split_first() else { return };
    let (source, destination) = match flags & IPV6 {
        0 => (PX2, ME),
        _ => (IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let mut payload = payload.to_vec();
    if flags & SUMMED != 0 {
        put_sum(&mut payload, source, destination);
    }
    if let Ok(advert) = Advert::parse(&payload, source, destination) {
        let written = advert.write(source, destination);
        assert_eq!(Advert::parse(&written, source, destination), Ok(advert));
    }
}

/// Puts the checksum of a whole payload right (RFC 9568 section 5.2.8).
fn put_sum(payload: &mut [u8], source: IpAddr, destination: IpAddr) {
    let Some(field) = payload.get_mut(6..8) else { return };
    field.fill(0);
    let mut covered = vec![];
    if let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, destination) {
        covered.extend(source.octets());
        covered.extend(destination.octets());
        covered.extend([0, PROTOCOL]);
        covered.extend(u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
    }
    covered.extend(&*payload);
    let word = |pair: &[u8]| (u64::from(pair[0]) << 8) | u64::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u64 = covered.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap_or(0);
    payload[6..8].copy_from_slice(&sum.to_be_bytes());
}

fn an_advert(version: VrrpVersion, priority: u8, addresses: Vec<IpAddr>) -> Advert {
    Advert { version, vrid: VRID, priority, interval: Duration::from_secs(1), addresses }
}

fn vip(last: u8) -> IpAddr {
    IpAddr::from([10, 77, 0, last])
}

fn adverts() -> Vec<(String, Vec<u8>)> {
    let six = |last| IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last));
    let rows = [
        ("v3", 0, an_advert(VrrpVersion::V3, 150, vec![vip(100)])),
        ("v3-release", 0, an_advert(VrrpVersion::V3, 0, vec![vip(100), vip(101)])),
        ("v3-many", 0, an_advert(VrrpVersion::V3, 255, (1..=60).map(vip).collect())),
        ("v3-ipv6", IPV6, an_advert(VrrpVersion::V3, 150, vec![six(1), six(2)])),
        ("v2", 0, an_advert(VrrpVersion::V2, 150, vec![vip(100)])),
    ];
    let of = |(name, flags, advert): (&str, u8, Advert)| {
        let (source, destination) = if flags & IPV6 == 0 { (PX2, ME) } else { (six(1), six(2)) };
        let bytes = [vec![flags | SUMMED], advert.write(source, destination)].concat();
        (name.to_owned(), bytes)
    };
    rows.into_iter().map(of).collect()
}

// ---- messages -------------------------------------------------------------------

/// A message of the peer link: what is read is written so that it is read as
/// the same, and is no longer than the longest.
pub fn message(data: &[u8]) {
    let Ok(envelope) = Envelope::parse(data) else { return };
    let written = envelope.write();
    assert!(written.len() <= peer::MAX_LENGTH, "{} bytes", written.len());
    assert_eq!(Envelope::parse(&written), Ok(envelope));
}

fn envelope(sender: &str, message: Message) -> Vec<u8> {
    Envelope { cluster: peer::cluster_id(CLUSTER), sender: peer::node_id(sender), message }.write()
}

fn hello(state: State) -> Hello {
    let report = |vrid, state| GroupReport { vrid, state, priority: 150, serving: true, deposed: false };
    let (pool, server) = (peer::pool_id("primary"), peer::server_id("db2"));
    Hello {
        groups: vec![report(VRID, state), report(NonZeroU8::MAX, State::Backup)],
        digests: vec![1, 2],
        sources: vec![PX2, IpAddr::V6(Ipv6Addr::LOCALHOST)],
        incumbents: vec![Incumbent { pool, server, epoch: 3 }],
        run: 9,
        hears: Some(vec![peer::node_id("px1")]),
        macs: vec![[2, 0, 0, 0, 0, 12]],
        sightings: vec![
            Sighting {
                vrid: VRID,
                owner: peer::node_id("px1"),
                address: 0,
                seen: Seen::By([2, 0, 0, 0, 0, 11]),
                took: Duration::from_micros(900),
            },
            Sighting { vrid: VRID, owner: 1, address: 9, seen: Seen::Nobody, took: Duration::ZERO },
        ],
        verdicts: Word::ALL.map(|word| Verdict { pool, server, word }).to_vec(),
        among: Among::default(),
    }
}

fn messages() -> Vec<(String, Vec<u8>)> {
    let ballot = Ballot { vrid: VRID, run: 9, number: 7 };
    let old =
        Hello { hears: None, macs: vec![], sightings: vec![], verdicts: vec![], ..hello(State::Active) };
    let rows = [
        ("hello", Message::Hello(hello(State::Active))),
        ("hello-of-an-earlier-release", Message::Hello(old)),
        ("hello-of-a-witness", Message::Hello(Hello::default())),
        ("prepare", Message::Prepare { vrid: VRID, nonce: 7, to: peer::node_id("px1") }),
        ("ready", Message::Ready { vrid: VRID, nonce: 7 }),
        ("request", Message::Request { ballot, lease: Duration::from_millis(300), preempt: true }),
        ("grant", Message::Grant(ballot)),
        ("refuse", Message::Refuse { ballot, holder: None, left: Duration::from_millis(9) }),
        ("release", Message::Release(Ballot { number: u64::MAX, ..ballot })),
    ];
    rows.into_iter().map(|(name, message)| (name.to_owned(), envelope("px2", message))).collect()
}
