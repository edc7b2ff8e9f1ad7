//! Updates with TSIG, one after the other: each is acknowledged from the disk.

use super::servers::{ADDRESS, KEY, SECRET, ZONE};
use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, TSigner};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// No server takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time that each of so many updates takes, in nanoseconds: one replaces the
/// addresses of a name.
///
/// # Errors
/// If a server refuses one or does not answer.
pub fn latencies(count: u16) -> Result<Vec<u64>> {
    let signer = TSigner::new(SECRET.to_vec(), TsigAlgorithm::HmacSha256, Name::from_ascii(KEY)?, 300)?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(ADDRESS)?;
    let mut answer = [0; 4096];
    let mut latencies = Vec::with_capacity(count.into());
    for id in 0..count {
        let message = update(id, &signer)?;
        let begun = Instant::now();
        socket.send(&message)?;
        let length = socket.recv(&mut answer).with_context(|| format!("no answer to update {id}"))?;
        latencies.push(u64::try_from(begun.elapsed().as_nanos())?);
        ensure!(length > 12 && answer[..2] == id.to_be_bytes(), "an answer to something else");
        ensure!(answer[3] & 15 == 0, "update {id} was refused with RCODE {}", answer[3] & 15);
    }
    Ok(latencies)
}

fn update(id: u16, signer: &TSigner) -> Result<Vec<u8>> {
    let name = Name::from_ascii("n0.corp.example.")?;
    let mut message = Message::new(id, MessageType::Query, OpCode::Update);
    message.add_query(Query::query(Name::from_ascii(ZONE)?, RecordType::SOA));
    let mut delete = Record::update0(name.clone(), 0, RecordType::A);
    delete.dns_class = DNSClass::ANY;
    message.add_authority(delete);
    let [high, low] = id.to_be_bytes();
    for first in [10, 11] {
        let data = RData::A(Ipv4Addr::new(first, 200, high, low).into());
        message.add_authority(Record::from_rdata(name.clone(), 5, data));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    message.finalize(signer, now)?;
    Ok(message.to_vec()?)
}
