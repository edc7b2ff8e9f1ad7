//! The kinds of check, each in a file of its own.

use super::dial::{Obstacle, Way};
use super::{Progress, Target, exec, http, mysql, postgres, redis, tcp, tls};
use std::net::SocketAddr;
use vipd_core::probe::Observation;
use vipd_core::settings::{CheckKind, Tls};

/// A kind of check at work, with what it keeps from one probe to the next.
pub(super) enum Prober {
    Tcp(tcp::Prober),
    Http(Box<http::Prober>),
    Mysql(Box<mysql::Prober>),
    Postgres(Box<postgres::Prober>),
    Redis(Box<redis::Prober>),
    Exec(Box<exec::Prober>),
}

impl Prober {
    pub(super) fn new(Target { endpoint, check, .. }: &Target) -> Self {
        let tls = |tls: &Option<Tls>| tls.as_ref().map(|tls| tls::Client::new(tls, endpoint.certified()));
        match &check.kind {
            CheckKind::Tcp(kind) => Self::Tcp(tcp::Prober::new(kind.clone())),
            CheckKind::Http(kind) => {
                Self::Http(Box::new(http::Prober::new(kind.clone(), tls(&kind.tls), endpoint)))
            }
            CheckKind::Mysql(kind) => {
                let tls = tls(&kind.tls);
                Self::Mysql(Box::new(mysql::Prober::new(kind.clone(), tls, check.interval, check.timeout)))
            }
            CheckKind::Postgres(kind) => {
                Self::Postgres(Box::new(postgres::Prober::new(kind.clone(), tls(&kind.tls))))
            }
            CheckKind::Redis(kind) => Self::Redis(Box::new(redis::Prober::new(kind.clone(), tls(&kind.tls)))),
            CheckKind::Exec(kind) => Self::Exec(Box::new(exec::Prober::new(kind.clone(), endpoint.clone()))),
        }
    }

    /// Asks the server once. The future may be dropped at any point, at the
    /// end of the time limit.
    pub(super) async fn probe(
        &mut self,
        way: Way<'_>,
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), Obstacle> {
        // In boxes: the task of a server is as large as the largest of these,
        // and most servers wait most of the time.
        Ok(match self {
            Self::Tcp(tcp) => tcp.probe(way, progress).await?,
            Self::Http(http) => Box::pin(http.probe(way, progress)).await?,
            Self::Mysql(mysql) => Box::pin(mysql.probe(way, progress)).await?,
            Self::Postgres(postgres) => Box::pin(postgres.probe(way, progress)).await?,
            Self::Redis(redis) => Box::pin(redis.probe(way, progress)).await?,
            Self::Exec(exec) => Box::pin(exec.probe(way.addresses, progress)).await?,
        })
    }

    /// Lets the next probe connect anew: whether others can is not heard over
    /// what was connected before.
    pub(super) fn renew(&mut self) {
        match self {
            // They do so each time.
            Self::Tcp(_) | Self::Http(_) | Self::Exec(_) => {}
            Self::Mysql(mysql) => mysql.renew(),
            Self::Postgres(postgres) => postgres.renew(),
            Self::Redis(redis) => redis.renew(),
        }
    }

    /// Gives back what is kept.
    pub(super) async fn close(self) {
        match self {
            // Nothing outlives a probe of theirs.
            Self::Tcp(_) | Self::Http(_) | Self::Exec(_) => {}
            Self::Mysql(mysql) => mysql.close().await,
            Self::Postgres(postgres) => postgres.close().await,
            Self::Redis(redis) => redis.close().await,
        }
    }
}
