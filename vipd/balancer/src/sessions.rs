//! The sessions of all workers, listed for people.
//!
//! A worker looks at its own a few at a time and serves its clients in
//! between. So a list is no picture of one moment: who comes or goes meanwhile
//! may be in it or not.

use crate::registry::Registry;
use crate::shared::ServerTally;
use crate::worker::Worker;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Sessions in a list at most: more than anybody reads, and about two
/// megabytes. Those beyond are counted.
pub const LISTED: usize = 10_000;

/// Sessions that a worker looks at before others have their turn: some ten
/// microseconds.
const AT_ONCE: usize = 256;

/// Sessions that are asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Which {
    /// All of them.
    All,
    /// Those that came by the listener of this name; those that want a server
    /// of the pool of this name, or have one.
    Named(String),
    /// Those on a server, or on their way to it.
    Server {
        /// Its pool's name.
        pool: String,
        /// Its name.
        server: String,
    },
    /// Those of a client's address.
    Client(IpAddr),
    /// The one of this number.
    Id(u64),
}

/// How far a session is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SessionState {
    /// It waits for its client's PROXY protocol header.
    Header,
    /// It waits until a server has room.
    Queued,
    /// It is being connected to a server.
    Connecting,
    /// It has a server.
    Relaying,
}

/// A session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionInfo {
    /// Its number; no other session has it for as long as the balancer lives.
    pub id: u64,
    /// Its listener's name.
    pub listener: String,
    /// Its client: by the PROXY protocol header, if there was one.
    pub client: SocketAddr,
    /// The pool and the name of its server, if it has one yet.
    pub server: Option<(String, String)>,
    /// How far it is.
    pub state: SessionState,
    /// Time since it was accepted.
    pub age: Duration,
    /// Time since a byte went through it, or since it was accepted.
    pub idle: Duration,
    /// Bytes delivered to the server.
    pub bytes_in: u64,
    /// Bytes delivered to the client.
    pub bytes_out: u64,
}

/// A list of sessions.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sessions {
    /// At most [`LISTED`], the oldest first.
    pub list: Vec<SessionInfo>,
    /// How many more there are.
    pub left_out: u64,
}

/// What a worker is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) which: Which,
    /// The listeners that a name stands for, by their position in the routes.
    pub(crate) listeners: Vec<usize>,
}

impl Wanted {
    pub(crate) fn is(&self, row: &Row<&Arc<ServerTally>>) -> bool {
        match &self.which {
            Which::All => true,
            Which::Named(name) => {
                self.listeners.contains(&row.listener) || row.server.is_some_and(|s| s.pool == *name)
            }
            Which::Server { pool, server } => {
                row.server.is_some_and(|s| s.pool == *pool && *s.name() == *server)
            }
            Which::Client(client) => row.client.ip().to_canonical() == client.to_canonical(),
            Which::Id(id) => row.id == *id,
        }
    }
}

/// A session as its worker has it; times in milliseconds, `S` stands for a server.
#[derive(Debug)]
pub(crate) struct Row<S> {
    pub(crate) id: u64,
    pub(crate) listener: usize,
    pub(crate) client: SocketAddr,
    pub(crate) server: Option<S>,
    pub(crate) state: SessionState,
    pub(crate) age: u64,
    pub(crate) idle: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// What a worker has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    rows: Vec<Row<Arc<ServerTally>>>,
    left_out: u64,
}

impl Found {
    pub(crate) fn add(&mut self, row: Row<&Arc<ServerTally>>) {
        if self.rows.len() == LISTED {
            self.left_out += 1;
            return;
        }
        let Row { id, listener, client, server, state, age, idle, bytes_in, bytes_out } = row;
        let server = server.cloned();
        self.rows.push(Row { id, listener, client, server, state, age, idle, bytes_in, bytes_out });
    }
}

/// Looks at a worker's sessions, on its thread.
pub(crate) async fn look(worker: Rc<Worker>, wanted: Arc<Wanted>, answer: oneshot::Sender<Found>) {
    let (mut found, mut place) = (Found::default(), 0);
    loop {
        let places = place..place + AT_ONCE;
        let more = Registry::look(&worker.registry.borrow(), places, &wanted, &mut found);
        // Whoever asked may not wait any more.
        if !more || answer.is_closed() {
            break;
        }
        place += AT_ONCE;
        tokio::task::yield_now().await;
    }
    let _ = answer.send(found);
}

/// Puts together what the workers find; `names` are those of the listeners, by
/// their position in the routes. A worker that has ended has no sessions.
pub(crate) async fn gather(answers: Vec<oneshot::Receiver<Found>>, names: Vec<(usize, String)>) -> Sessions {
    let mut sessions = Sessions::default();
    for answer in answers {
        let Ok(Found { rows, left_out }) = answer.await else { continue };
        sessions.left_out += left_out;
        sessions.list.extend(rows.into_iter().map(|row| {
            let name = names.iter().find(|(slot, _)| *slot == row.listener);
            SessionInfo {
                id: row.id,
                listener: name.map_or_else(String::new, |(_, name)| name.clone()),
                client: row.client,
                server: row.server.map(|s| (s.pool.clone(), s.name().to_string())),
                state: row.state,
                age: Duration::from_millis(row.age),
                idle: Duration::from_millis(row.idle),
                bytes_in: row.bytes_in,
                bytes_out: row.bytes_out,
            }
        }));
    }
    sessions.list.sort_unstable_by_key(|s| s.id);
    sessions.left_out += sessions.list.len().saturating_sub(LISTED) as u64;
    sessions.list.truncate(LISTED);
    sessions
}

/// Adds up what the workers have ended.
pub(crate) async fn count(answers: Vec<oneshot::Receiver<u64>>) -> u64 {
    let mut sum = 0;
    for answer in answers {
        sum += answer.await.unwrap_or(0);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn wanted(which: Which) -> Wanted {
        Wanted { which, listeners: vec![] }
    }

    /// Numbers are not used again, and the same for no two workers.
    #[test]
    fn a_number_is_of_one_session() {
        let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let mut numbers = std::collections::BTreeSet::new();
        for worker in 0..3 {
            let mut registry = Registry::new(worker, 3);
            for _ in 0..100 {
                let place = registry.add(0, client, client.ip());
                assert!(numbers.insert(registry.remove(place).expect("it is there").id));
            }
        }
        assert_eq!((numbers.first(), numbers.last()), (Some(&1), Some(&300)));
    }

    #[test]
    fn a_list_is_bounded_and_tells_what_is_missing() {
        let mut registry = Registry::new(0, 1);
        for n in 0..LISTED as u32 + 5 {
            let client = SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + n), 1));
            registry.add(0, client, client.ip());
        }
        let mut found = Found::default();
        let mut looks = 1;
        while registry.look((looks - 1) * AT_ONCE..looks * AT_ONCE, &wanted(Which::All), &mut found) {
            looks += 1;
        }
        assert_eq!(looks, (LISTED + 5).div_ceil(AT_ONCE));
        assert_eq!((found.rows.len(), found.left_out), (LISTED, 5));
        let one = wanted(Which::Client(Ipv4Addr::from_bits(0x0a00_0007).into()));
        assert_eq!(registry.kill(&one), 1);
        assert_eq!(registry.kill(&one), 0, "it is ending already");
        assert_eq!(registry.kill(&wanted(Which::Id(4))), 1);
    }
}
