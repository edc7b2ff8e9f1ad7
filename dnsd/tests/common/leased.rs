//! An update with a lease (RFC 9664), as a client with hickory sends it.

use super::{Dnsd, SECRET};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::{Name, RData, Record, RecordType, TSigner};
use std::net::UdpSocket;
use std::time::SystemTime;

pub(crate) fn signer() -> TSigner {
    let secret = data_encoding::BASE64.decode(SECRET.as_bytes()).unwrap();
    TSigner::new(secret, TsigAlgorithm::HmacSha256, Name::from_ascii("vipd.").unwrap(), 300).unwrap()
}

/// An update that adds addresses to `leased.dyn`.
pub(crate) fn message(addresses: &[&str], lease: Option<u32>) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Update);
    message.add_query(Query::query(Name::from_ascii("corp.example.").unwrap(), RecordType::SOA));
    for address in addresses {
        let name = Name::from_ascii("leased.dyn.corp.example.").unwrap();
        message.add_authority(Record::from_rdata(name, 5, RData::A(address.parse().unwrap())));
    }
    if let Some(lease) = lease {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        edns.options_mut().insert(EdnsOption::Unknown(2, lease.to_be_bytes().to_vec()));
        message.set_edns(edns);
    }
    message
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn signed(mut message: Message, time: u64) -> Vec<u8> {
    message.finalize(&signer(), time).unwrap();
    message.to_vec().unwrap()
}

pub(crate) fn exchange(dnsd: &Dnsd, bytes: &[u8]) -> Message {
    Message::from_vec(&exchange_bytes(dnsd, bytes)).unwrap()
}

pub(crate) fn exchange_bytes(dnsd: &Dnsd, bytes: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(dnsd.address()).unwrap();
    socket.set_read_timeout(Some(super::PATIENCE)).unwrap();
    socket.send(bytes).unwrap();
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer).unwrap();
    answer[..length].to_vec()
}

/// Adds addresses with a lease, and checks that the answer grants it.
pub(crate) fn update(dnsd: &Dnsd, addresses: &[&str], lease: u32) {
    let answer = exchange(dnsd, &signed(message(addresses, Some(lease)), now()));
    assert_eq!(answer.response_code.low(), 0);
    let granted = answer.edns.as_ref().and_then(|edns| edns.option(2.into()).cloned());
    assert_eq!(granted, Some(EdnsOption::Unknown(2, lease.to_be_bytes().to_vec())));
    assert!(answer.signature.is_some());
}

/// Any bytes with a good signature behind them (RFC 8945, section 4.3).
pub(crate) fn signed_bytes(message: &[u8], time: u64) -> Vec<u8> {
    cut_bytes(message, time, 32)
}

/// The same with so many bytes of the signature; more are zeros.
pub(crate) fn cut_bytes(message: &[u8], time: u64, length: u16) -> Vec<u8> {
    const ALGORITHM: &[u8] = b"\x0bhmac-sha256\0";
    let key = b"\x04vipd\0";
    let when = &time.to_be_bytes()[2..];
    let variables = [&key[..], b"\0\xff\0\0\0\0", ALGORITHM, when, b"\x01\x2c\0\0\0\0"].concat();
    let mut mac = signer().sign(&[message, &variables].concat()).unwrap();
    mac.resize(length.into(), 0);
    let data =
        [ALGORITHM, when, b"\x01\x2c", &length.to_be_bytes(), &mac, &message[..2], b"\0\0\0\0"].concat();
    let length = u16::try_from(data.len()).unwrap().to_be_bytes();
    let mut whole = [message, key, b"\0\xfa\0\xff\0\0\0\0", &length, &data].concat();
    let additional = u16::from_be_bytes([whole[10], whole[11]]).wrapping_add(1);
    whole[10..12].copy_from_slice(&additional.to_be_bytes());
    whole
}
