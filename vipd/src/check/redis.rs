//! `kind = "redis"`: role and silence of the primary of Redis.

use super::{Progress, tls};
use std::net::SocketAddr;
use thiserror::Error;
use tokio::time::Instant;
use vipd_core::probe::Observation;
use vipd_core::settings::RedisCheck;

/// Why a probe failed.
#[derive(Debug, Error)]
pub(crate) enum RedisError {
    #[error("this version of vipd cannot ask Redis yet")]
    Missing,
}

/// The check of one server.
pub(super) struct Prober;

impl Prober {
    pub(super) fn new(_: RedisCheck, _: Option<tls::Client>) -> Self {
        Self
    }

    /// Asks the server once, over the kept connection if there is one.
    pub(super) async fn probe(
        &mut self,
        _: &[SocketAddr],
        _: Instant,
        _: &Progress,
    ) -> Result<(SocketAddr, Observation), RedisError> {
        Err(RedisError::Missing)
    }

    /// Says goodbye to the server.
    pub(super) async fn close(self) {}
}
