//! A compare-and-swap that swaps nothing.

use super::{Rfc2136, Told};
use crate::error::{Error, Problem};
use crate::store::{Failure, Observed, RecordStore as _};
use hickory_proto::op::{Message, UpdateMessage as _};
use hickory_proto::rr::rdata::{A, AAAA, TXT};
use hickory_proto::rr::{DNSClass, RData, Record};
use std::net::{Ipv4Addr, Ipv6Addr};
use tokio::time::Instant;

/// Somebody may write between the look and the deed; hardly so often.
const ATTEMPTS: usize = 5;
/// No node writes it: a lease begins otherwise.
const TEXT: &str = "vipd doctor";

impl Rfc2136 {
    /// Proves that the key may read and change the name's records, and
    /// changes nothing: records are deleted that are never there, under the
    /// prerequisites of a real change.
    ///
    /// # Errors
    /// What a real change would fail of.
    pub async fn prove(&self, deadline: Instant) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let observed = self.read(deadline).await?;
            match self.send(self.nothing(&observed), deadline).await {
                Ok(()) => return Ok(()),
                Err(Failure::Conflict) => {}
                Err(Failure::Unknown(error) | Failure::Refused(error)) => return Err(error),
            }
        }
        Err(self.error(Problem::Contended))
    }

    fn nothing(&self, observed: &Observed<Told>) -> Message {
        // Addresses that no node can have.
        let never = [
            (&self.lease_name, RData::TXT(TXT::new(vec![TEXT.to_owned()]))),
            (&self.name, RData::A(A(Ipv4Addr::UNSPECIFIED))),
            (&self.name, RData::AAAA(AAAA(Ipv6Addr::UNSPECIFIED))),
        ];
        let mut message = self.empty_update();
        self.require_observed(&mut message, observed);
        for (name, never) in never {
            // RFC 2136, section 3.4.2.4: a record that is not there is ignored.
            let mut delete = Record::from_rdata(name.clone(), 0, never);
            delete.dns_class = DNSClass::NONE;
            message.add_update(delete);
        }
        message
    }
}
