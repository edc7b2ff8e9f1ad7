//! The strict fake of Route 53 as a process of the lab: the API that the real
//! SDK talks to, and a DNS server that answers by what it holds.

#[allow(dead_code, reason = "the tests of `cloud`, whose file it is, use more of it")]
#[path = "../../cloud/tests/route53/fake.rs"]
mod fake;

use anyhow::{Context, Result};
use fake::Fake;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};

/// The hosted zone's id.
pub const ZONE_ID: &str = fake::ZONE_ID;
/// The port of the API.
pub const API_PORT: u16 = 4566;
/// What a process needs to be let in.
pub const CREDENTIALS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "AKIDTEST"), ("AWS_SECRET_ACCESS_KEY", "secret")];
/// After this a change is known everywhere, as far as the API tells.
const PROPAGATION: Duration = Duration::from_secs(2);
/// Of an account, as AWS has it.
const REQUESTS_PER_SECOND: u32 = 5;

/// Serves the API and DNS on an address.
///
/// # Errors
/// If a port cannot be bound.
pub fn serve(address: IpAddr, ready: impl FnOnce()) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot make a runtime")?.block_on(async {
        let listener = TcpListener::bind((address, API_PORT)).await.context("cannot bind the API's port")?;
        let fake = Fake::start_on(listener);
        {
            let mut state = fake.state();
            state.limit = Some(REQUESTS_PER_SECOND);
            state.propagation = PROPAGATION;
        }
        let socket = UdpSocket::bind((address, 53)).await.context("cannot bind the port of DNS")?;
        ready();
        let mut buffer = [0; 512];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.context("cannot read questions")?;
            let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
            let bytes = answer(&fake, &query).to_vec().context("cannot write an answer")?;
            // A client that is gone misses its answer.
            let _ = socket.send_to(&bytes, client).await;
        }
    })
}

/// All addresses of the name, of one record or of many.
fn answer(fake: &Fake, query: &Message) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.authoritative = true;
    let Some(asked) = query.queries.first() else { return answer };
    answer.add_query(asked.clone());
    let sets = fake.state().at(&asked.name().to_string());
    if sets.is_empty() {
        answer.metadata.response_code = ResponseCode::NXDomain;
    }
    let of_type = |set: &&fake::Set| asked.query_type() == RecordType::A && set.record_type == "A";
    for set in sets.iter().filter(of_type) {
        for address in set.values.iter().filter_map(|v| v.parse::<Ipv4Addr>().ok()) {
            answer.add_answer(Record::from_rdata(asked.name().clone(), set.ttl, RData::A(A(address))));
        }
    }
    answer
}
