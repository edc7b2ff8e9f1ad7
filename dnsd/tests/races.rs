//! Compare-and-swaps that race: of fifty that start from the same state exactly
//! one is done. `DNSD_RACES=1000` for as many rounds.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::leased::{now, signer};
use common::{Dnsd, PATIENCE};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};

const RACERS: u16 = 50;
const ROUNDS: u32 = 30;
/// The set should not be there, or is another one.
const YXRRSET: u8 = 7;
const NXRRSET: u8 = 8;

/// Half of them over TCP: other threads of the server take those.
enum Way {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Way {
    fn new(dnsd: &Dnsd, racer: u16) -> Self {
        if racer.is_multiple_of(2) {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(dnsd.address()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            return Self::Udp(socket);
        }
        let stream = TcpStream::connect(dnsd.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::Tcp(stream)
    }

    fn send(&mut self, message: &[u8]) {
        match self {
            Self::Udp(socket) => drop(socket.send(message).unwrap()),
            Self::Tcp(stream) => {
                let length = u16::try_from(message.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length, message].concat()).unwrap();
            }
        }
    }

    fn answer(&mut self) -> Vec<u8> {
        let mut answer = vec![0; 4096];
        let length = match self {
            Self::Udp(socket) => socket.recv(&mut answer).unwrap(),
            Self::Tcp(stream) => {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let length = usize::from(u16::from_be_bytes(length));
                stream.read_exact(&mut answer[..length]).unwrap();
                length
            }
        };
        answer.truncate(length);
        answer
    }
}

/// Replaces lease and address, if the lease is that of the round before.
fn swap(round: u32, winner: Option<u16>, racer: u16) -> Vec<u8> {
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let (lease, db) = (name("_vipd.db.corp.example."), name("db.corp.example."));
    let text = |round: u32, racer: u16| RData::TXT(TXT::new(vec![format!("epoch={round} owner=px{racer}")]));
    let mut message = Message::new(racer, MessageType::Query, OpCode::Update);
    message.add_query(Query::query(name("corp.example."), RecordType::SOA));
    let of = |name: &Name, rtype, class| {
        let mut record = Record::update0(name.clone(), 0, rtype);
        record.dns_class = class;
        record
    };
    message.answers.push(match winner {
        None => of(&lease, RecordType::TXT, DNSClass::NONE),
        Some(winner) => Record::from_rdata(lease.clone(), 0, text(round - 1, winner)),
    });
    message.add_authority(of(&lease, RecordType::TXT, DNSClass::ANY));
    message.add_authority(Record::from_rdata(lease, 5, text(round, racer)));
    message.add_authority(of(&db, RecordType::A, DNSClass::ANY));
    let [high, low] = u16::try_from(round).unwrap().to_be_bytes();
    let address = RData::A(Ipv4Addr::new(10, high, low, u8::try_from(racer).unwrap()).into());
    message.add_authority(Record::from_rdata(db, 5, address));
    message.finalize(&signer(), now()).unwrap();
    message.to_vec().unwrap()
}

#[test]
fn of_fifty_that_race_exactly_one_wins() {
    let rounds = std::env::var("DNSD_RACES").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let dnsd = Dnsd::running("$TTL 60\n@ NS ns1\nns1 A 10.77.0.11\n");
    let mut ways: Vec<_> = (0..RACERS).map(|racer| Way::new(&dnsd, racer)).collect();
    let query = b"\0\x09\0\0\0\x01\0\0\0\0\0\0\x02db\x04corp\x07example\0\0\x01\0\x01";
    let mut winner = None;
    for round in 1..=rounds {
        let messages: Vec<_> = (0..RACERS).map(|racer| swap(round, winner, racer)).collect();
        // Nobody is always the first.
        let first = round as usize % ways.len();
        for racer in (0..ways.len()).map(|n| (n + first) % messages.len()) {
            ways[racer].send(&messages[racer]);
        }
        let codes: Vec<_> = ways.iter_mut().map(|way| way.answer()[3] & 15).collect();
        let won: Vec<_> = (0..RACERS).filter(|racer| codes[usize::from(*racer)] == 0).collect();
        assert_eq!(won.len(), 1, "round {round}: {codes:?}");
        let lost = if winner.is_none() { YXRRSET } else { NXRRSET };
        assert_eq!(codes.iter().filter(|code| **code == lost).count(), 49, "round {round}: {codes:?}");
        winner = won.first().copied();
        ways[0].send(query);
        let answer = Message::from_vec(&ways[0].answer()).unwrap();
        let [record] = answer.answers.as_slice() else { panic!("round {round}: {answer}") };
        let RData::A(address) = record.data else { panic!("{record}") };
        assert_eq!(u16::from(address.octets()[3]), won[0], "round {round}: the winner's address");
    }
}
