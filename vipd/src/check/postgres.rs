//! `kind = "postgres"`: role and replication lag of PostgreSQL.

use super::{Progress, tls};
use std::net::SocketAddr;
use thiserror::Error;
use tokio::time::Instant;
use vipd_core::probe::Observation;
use vipd_core::settings::PostgresCheck;

/// Why a probe failed.
#[derive(Debug, Error)]
pub(crate) enum PostgresError {
    #[error("this version of vipd cannot ask PostgreSQL yet")]
    Missing,
}

/// The check of one server.
pub(super) struct Prober;

impl Prober {
    pub(super) fn new(_: PostgresCheck, _: Option<tls::Client>) -> Self {
        Self
    }

    /// Asks the server once, over the kept connection if there is one.
    pub(super) async fn probe(
        &mut self,
        _: &[SocketAddr],
        _: Instant,
        _: &Progress,
    ) -> Result<(SocketAddr, Observation), PostgresError> {
        Err(PostgresError::Missing)
    }

    /// Says goodbye to the server.
    pub(super) async fn close(self) {}
}
