//! What people asked of servers that come and go: one in maintenance shall not
//! be in service because its name led elsewhere for a minute.

use super::{Admin, server::Server};
use std::collections::VecDeque;

/// Wishes that are kept for servers that are not there. A person speaks of a
/// few servers; where a program does so for names that lead elsewhere every
/// day, the oldest are of no use any more.
const KEPT: usize = 1_000;

#[derive(Clone, Debug, Default)]
pub(super) struct Asked(VecDeque<Wish>);

/// What was asked of a server that is not there.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) pool: String,
    pub(super) server: String,
    admin: Admin,
    weight: Option<u16>,
}

impl Wish {
    /// What was asked of a server, if anything was.
    pub(super) fn of(pool: &str, name: &str, server: &Server) -> Option<Self> {
        let Server { admin, weight, .. } = *server;
        let asked = admin != Admin::Ready || weight.is_some();
        asked.then(|| Self { pool: pool.to_owned(), server: name.to_owned(), admin, weight })
    }

    pub(super) fn give(&self, server: &mut Server) {
        (server.admin, server.weight) = (self.admin, self.weight);
    }
}

impl Asked {
    /// A server goes.
    pub(super) fn keep(&mut self, wish: Wish) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(wish);
    }

    /// Servers came: forgets the wishes that one of them was given.
    pub(super) fn recall(&mut self, mut given: impl FnMut(&Wish) -> bool) {
        self.0.retain(|wish| !given(wish));
    }
}
