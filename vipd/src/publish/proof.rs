//! Whether every place would take this node's writes, found out without one.

use super::store::{Opening, Store, Where};
use tokio::time::Instant;
use vipd_cloud::Error;
use vipd_core::settings::{Dns, Member};

/// Why a place would not take a write.
#[derive(Debug)]
pub(crate) enum Unproven {
    /// It cannot even be asked: what the settings name is missing or wrong.
    Unopened(String),
    /// What it said.
    Store(Error),
}

/// Proves it for each place of a name's records, by its name in the status.
pub(crate) async fn prove(dns: &Dns, members: &[Member], me: usize) -> Vec<(String, Result<(), Unproven>)> {
    let opening = Opening::new(dns.clone(), members, me);
    let mut told = Vec::new();
    for place in Where::all(dns) {
        let proof = async {
            let by = Instant::now() + place.patience();
            match opening.open(place).await.map_err(Unproven::Unopened)? {
                Store::Rfc2136(publisher) => publisher.store().prove(by).await,
                Store::Route53(publisher) => publisher.store().prove(by).await,
            }
            .map_err(Unproven::Store)
        };
        told.push((place.name(dns), proof.await));
    }
    told
}
