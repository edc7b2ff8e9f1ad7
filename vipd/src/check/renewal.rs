//! A complete new login, beside the connection that is kept.
//!
//! What is kept says nothing of whether others get in: a MySQL server may have
//! blocked this host, a PostgreSQL server that shuts down waits for those who
//! are there, a server that has stopped to accept serves the rest. So from time
//! to time ([`super::pace`]), and whenever clients could not connect, a check
//! logs in anew. The new connection is kept from then on and the old one ended
//! with a goodbye. A login that fails is a check that failed, and what was kept
//! is given up: a shutdown may be waiting for its end.
//!
//! Not so where nobody but the check is kept out: its password was changed
//! there first, its certificates have expired, a privilege is gone, the server
//! is full. Then it goes on over what it has, since clients get in as before, and
//! tries again only now and then: servers lock accounts that fail to log in, and
//! block hosts that break a handshake off.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// A check that is kept out logs in anew after this: three attempts in half an
/// hour where an account is locked by so many, and sixteen hours until a host is
/// blocked by `max_connect_errors` of 100.
const KEPT_OUT_FOR: Duration = Duration::from_secs(600);

/// Whether the next probe is to log in anew, and how the last such login ended.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    due: bool,
    /// Only the check is kept out, which was told: no login before then.
    kept_out_until: Option<Instant>,
}

impl Renewal {
    /// Lets the next probe log in anew.
    pub(super) fn ask(&mut self) {
        self.due = self.kept_out_until.is_none_or(|until| until <= Instant::now());
    }

    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// It is logged in anew.
    pub(super) fn done(&mut self) {
        *self = Self::default();
    }

    /// The server is full: the check goes on over its connection.
    pub(super) fn full(&mut self) {
        self.due = false;
    }

    /// Nobody but the check is kept out: it goes on over its connection to `kept`.
    pub(super) fn kept_out(&mut self, kept: SocketAddr, error: &dyn Error) {
        self.due = false;
        if self.kept_out_until.replace(Instant::now() + KEPT_OUT_FOR).is_none() {
            tracing::warn!(
                %kept, %error,
                "a new login of a check failed by its own fault; it goes on over the connection that it has, \
                 and will fail when that ends"
            );
        }
    }
}
