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
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(dnsd.address()).unwrap();
    socket.set_read_timeout(Some(super::PATIENCE)).unwrap();
    socket.send(bytes).unwrap();
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer).unwrap();
    Message::from_vec(&answer[..length]).unwrap()
}

/// Adds addresses with a lease, and checks that the answer grants it.
pub(crate) fn update(dnsd: &Dnsd, addresses: &[&str], lease: u32) {
    let answer = exchange(dnsd, &signed(message(addresses, Some(lease)), now()));
    assert_eq!(answer.response_code.low(), 0);
    let granted = answer.edns.as_ref().and_then(|edns| edns.option(2.into()).cloned());
    assert_eq!(granted, Some(EdnsOption::Unknown(2, lease.to_be_bytes().to_vec())));
    assert!(answer.signature.is_some());
}
