//! What the other proxies, and a primary's own replicas, say of a server that
//! this node's checks do not reach.

use crate::probe::Upstream;
use crate::settings::{self, Host};
use crate::wire::peer::{Among, MAX_VERDICTS, Verdict, Word, server_id};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Words of a node on the servers of a pool that are kept: it has no more
/// servers than that, whatever the node says.
const MAX_WORDS: usize = 4096;

/// The words of other nodes on a pool's servers.
#[derive(Clone, Debug, Default)]
pub(super) struct Others(BTreeMap<usize, Node>);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Node {
    name: String,
    /// By the server's number in messages.
    words: BTreeMap<u32, Word>,
}

impl Others {
    /// Takes a node's newest words, which replace those before on the same
    /// servers and on those of which they are all; true if they differ.
    pub(super) fn hear(
        &mut self,
        node: usize,
        name: &str,
        mut words: BTreeMap<u32, Word>,
        all_of: impl Fn(u32) -> bool,
    ) -> bool {
        for (server, word) in self.0.get(&node).iter().flat_map(|n| &n.words) {
            if !all_of(*server) && words.len() < MAX_WORDS {
                words.entry(*server).or_insert(*word);
            }
        }
        if words.is_empty() {
            return self.forget(node);
        }
        let new = Node { name: name.to_owned(), words };
        self.0.get(&node) != Some(&new) && {
            self.0.insert(node, new);
            true
        }
    }

    /// A node is not heard any more; true if it had said something.
    pub(super) fn forget(&mut self, node: usize) -> bool {
        self.0.remove(&node).is_some()
    }

    /// The names of the nodes that say such a thing of a server.
    pub(super) fn who(&self, server: &str, says: impl Fn(Word) -> bool) -> Vec<&str> {
        let id = server_id(server);
        let word = |n: &&Node| n.words.get(&id).is_some_and(|w| says(*w));
        self.0.values().filter(word).map(|n| n.name.as_str()).collect()
    }

    /// Whether a node says such a thing of a server.
    pub(super) fn says(&self, server: &str, word: Word) -> bool {
        let id = server_id(server);
        self.0.values().any(|n| n.words.get(&id) == Some(&word))
    }
}

/// What a hello says of servers: everything, or, where that is too much, the
/// primaries and the next ones of all, from `next` on.
pub(super) fn by_turns(
    primaries: Vec<Verdict>,
    rest: Vec<Verdict>,
    next: &mut (u32, u32),
) -> (Vec<Verdict>, Among) {
    let urgent = primaries.len().min(MAX_VERDICTS / 2);
    let mut all = primaries;
    all.extend(rest);
    if all.len() <= MAX_VERDICTS {
        *next = (0, 0);
        return (all, Among::default());
    }
    let mut told = all[..urgent].to_vec();
    let number = |v: &Verdict| (v.pool, v.server);
    all.sort_unstable_by_key(number);
    let first = *next;
    let mut left = all.into_iter().filter(|v| number(v) >= first);
    told.extend(left.by_ref().take(MAX_VERDICTS - urgent));
    let last = match left.next() {
        // There was room for some, so the last one told is of these.
        Some(_) => told.last().map_or((u32::MAX, u32::MAX), number),
        None => (u32::MAX, u32::MAX),
    };
    *next = match last {
        (pool, u32::MAX) => (pool.wrapping_add(1), 0),
        (pool, server) => (pool, server + 1),
    };
    (told, Among { first, last })
}

/// What a server's replicas say: whether they still hear it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Opinion {
    /// Replicas that do.
    pub hear: Vec<String>,
    /// Replicas that do not.
    pub deaf: Vec<String>,
}

impl fmt::Display for Opinion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hear, deaf } = self;
        match (hear.as_slice(), deaf.as_slice()) {
            ([], []) => Ok(()),
            ([], deaf) => write!(f, "; by their own word {} did not hear it either", deaf.join(", ")),
            (hear, _) => write!(
                f,
                "; its replicas still hear it ({}): look at the way there from here, and at the check's account",
                hear.join(", ")
            ),
        }
    }
}

/// Whether a replica replicates from a server.
pub(super) fn is_source(upstream: &Upstream, server: &settings::Server, addresses: &[IpAddr]) -> bool {
    let host = upstream.host.trim_start_matches('[').trim_end_matches(']');
    let named = match &server.host {
        Host::Name(name) => name.trim_end_matches('.').eq_ignore_ascii_case(host.trim_end_matches('.')),
        Host::Address(_) => false,
    };
    let there = host.parse::<IpAddr>().is_ok_and(|a| addresses.contains(&a.to_canonical()));
    upstream.port == server.port && (named || there)
}
