//! A worker's sessions, so that they can be found and ended.

use crate::sessions::{Found, Row, SessionState, Wanted};
use crate::shared::{ServerTally, Shared};
use crate::stats::{CloseCause, Tally};
use nix::time::{ClockId, clock_gettime};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// The sessions of a worker. A session's entry is its place in one list: none
/// has an allocation of its own.
#[derive(Debug)]
pub(crate) struct Registry {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    /// The number of the next session, and what lies between two of them: the
    /// workers take turns, so no number comes twice.
    next: u64,
    step: u64,
}

/// A session, as it is found again.
#[derive(Debug)]
pub(crate) struct Entry {
    id: u64,
    /// Its listener's position in the routes.
    listener: usize,
    pub(crate) client: SocketAddr,
    /// The address that was connected to.
    local: IpAddr,
    pub(crate) state: State,
    /// In milliseconds of [`coarse`].
    began: u64,
    traffic: Traffic,
    /// Why the session's task was aborted, if it was.
    cause: Option<CloseCause>,
    pub(crate) task: Option<AbortHandle>,
}

/// How far a session is.
#[derive(Debug)]
pub(crate) enum State {
    /// It waits for a PROXY protocol header.
    Header,
    /// It looks for a server.
    Picking,
    /// It waits until a server has room.
    Queued,
    /// It is being connected to one; `withdrawn` if that must not have sessions any more.
    Connecting { server: Arc<ServerTally>, withdrawn: bool },
    /// It has one, at this place.
    Relaying(Arc<ServerTally>, SocketAddr),
}

/// Which sessions are to end.
#[derive(Clone, Debug)]
pub(crate) enum Closed {
    /// Those of a server's pool at its places, whatever name it had when they
    /// began; those of its name anywhere else, too, if that is meant.
    On { server: Arc<ServerTally>, places: Vec<SocketAddr>, anywhere: bool },
    /// Those of a pool that are not at its primary's places.
    Elsewhere(Elsewhere),
}

/// A pool's sessions, but for those at some places.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Elsewhere {
    /// It, and those in whose place it came.
    pub(crate) pools: Vec<String>,
    /// Those that are gone: of their sessions, what came by its listeners.
    pub(crate) gone: Vec<String>,
    /// The positions of its listeners in the routes.
    pub(crate) listeners: Vec<usize>,
    pub(crate) places: Vec<SocketAddr>,
}

impl Closed {
    /// Whether a session is one of these; at a place that is not known yet, it may be.
    fn has(&self, listener: usize, server: &Arc<ServerTally>, at: Option<&SocketAddr>) -> bool {
        match self {
            Self::On { server: closed, places, anywhere } => {
                if server.pool != closed.pool {
                    return false;
                }
                let there = at.map_or_else(|| Arc::ptr_eq(server, closed), |at| places.contains(at));
                there || (*anywhere && server.name() == closed.name())
            }
            Self::Elsewhere(Elsewhere { pools, gone, listeners, places }) => {
                let inherited = listeners.contains(&listener) && gone.contains(&server.pool);
                (inherited || pools.contains(&server.pool)) && at.is_none_or(|at| !places.contains(at))
            }
        }
    }

    /// Whether this says the same as another.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::On { server: a, places: at, anywhere },
                Self::On { server: b, places: bt, anywhere: too },
            ) => Arc::ptr_eq(a, b) && at == bt && anywhere == too,
            (Self::Elsewhere(a), Self::Elsewhere(b)) => a == b,
            (Self::On { .. }, Self::Elsewhere(_)) | (Self::Elsewhere(_), Self::On { .. }) => false,
        }
    }
}

/// What went through a session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// To the server.
    pub(crate) bytes_in: u64,
    /// To the client.
    pub(crate) bytes_out: u64,
    /// When the latest of it went, in milliseconds of [`coarse`]; 0 before the first.
    spoke: u64,
}

/// What is left of a session that ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remains {
    pub(crate) id: u64,
    pub(crate) cause: Option<CloseCause>,
    pub(crate) traffic: Traffic,
}

impl Registry {
    /// That of one of some workers.
    pub(crate) fn new(worker: usize, workers: usize) -> Self {
        Self { entries: vec![], free: vec![], next: worker as u64 + 1, step: workers as u64 }
    }

    /// The place of a new session.
    pub(crate) fn add(&mut self, listener: usize, client: SocketAddr, local: IpAddr) -> usize {
        let id = self.next;
        self.next += self.step;
        let began = coarse();
        let traffic = Traffic::default();
        let state = State::Picking;
        let entry = Entry { id, listener, client, local, state, began, traffic, cause: None, task: None };
        if let Some(place) = self.free.pop() {
            self.entries[place] = Some(entry);
            return place;
        }
        self.entries.push(Some(entry));
        self.entries.len() - 1
    }

    pub(crate) fn entry(&mut self, place: usize) -> Option<&mut Entry> {
        self.entries.get_mut(place)?.as_mut()
    }

    pub(crate) fn remove(&mut self, place: usize) -> Option<Remains> {
        let Entry { id, cause, traffic, .. } = self.entries.get_mut(place)?.take()?;
        self.free.push(place);
        Some(Remains { id, cause, traffic })
    }

    /// Ends the sessions to these addresses.
    pub(crate) fn close_local(&mut self, addresses: &BTreeSet<IpAddr>) {
        for entry in self.entries.iter_mut().flatten() {
            if addresses.contains(&entry.local) {
                entry.close(CloseCause::AddressLost);
            }
        }
    }

    /// Ends sessions. One that is still being connected looks for a server anew.
    pub(crate) fn close_servers(&mut self, which: &Closed, cause: CloseCause) {
        for entry in self.entries.iter_mut().flatten() {
            match &mut entry.state {
                State::Connecting { server, withdrawn } => {
                    *withdrawn |= which.has(entry.listener, server, None);
                }
                State::Relaying(server, at) if which.has(entry.listener, server, Some(at)) => {
                    entry.close(cause);
                }
                State::Header | State::Picking | State::Queued | State::Relaying(..) => {}
            }
        }
    }

    /// Ends the sessions that an operator wants ended. How many.
    pub(crate) fn kill(&mut self, wanted: &Wanted) -> u64 {
        let mut killed = 0;
        for entry in self.entries.iter_mut().flatten() {
            if entry.cause.is_none() && wanted.is(&entry.row(0)) {
                entry.close(CloseCause::Killed);
                killed += 1;
            }
        }
        killed
    }

    /// Ends all sessions.
    pub(crate) fn close_all(&mut self, cause: CloseCause) {
        self.entries.iter_mut().flatten().for_each(|e| e.close(cause));
    }

    /// Looks at some places; false if those were the last.
    pub(crate) fn look(&self, places: Range<usize>, wanted: &Wanted, found: &mut Found) -> bool {
        let (now, end) = (coarse(), places.end.min(self.entries.len()));
        for entry in self.entries.get(places.start..end).unwrap_or_default().iter().flatten() {
            let row = entry.row(now);
            if wanted.is(&row) {
                found.add(row);
            }
        }
        end < self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.len() == self.free.len()
    }
}

impl Entry {
    /// The task is dropped by its runtime, and [`Session::drop`] does the rest.
    fn close(&mut self, cause: CloseCause) {
        if self.cause.is_none() {
            self.cause = Some(cause);
            if let Some(task) = &self.task {
                task.abort();
            }
        }
    }

    fn row(&self, now: u64) -> Row<&Arc<ServerTally>> {
        let (state, server) = match &self.state {
            State::Header => (SessionState::Header, None),
            State::Picking => (SessionState::Connecting, None),
            State::Queued => (SessionState::Queued, None),
            State::Connecting { server, .. } => (SessionState::Connecting, Some(server)),
            State::Relaying(server, _) => (SessionState::Relaying, Some(server)),
        };
        let Traffic { bytes_in, bytes_out, spoke } = self.traffic;
        Row {
            id: self.id,
            listener: self.listener,
            client: self.client,
            server,
            state,
            age: now.saturating_sub(self.began),
            idle: now.saturating_sub(spoke.max(self.began)),
            bytes_in,
            bytes_out,
        }
    }
}

/// Counts what goes through a session: for its listener, and for itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) tally: &'a Tally,
    pub(crate) registry: &'a RefCell<Registry>,
    pub(crate) place: usize,
}

impl Meter<'_> {
    /// At each wake-up at which bytes went `up` to the server or `down` to the client.
    pub(crate) fn add(&self, up: u64, down: u64) {
        self.tally.bytes_in.add(up);
        self.tally.bytes_out.add(down);
        if let Some(entry) = self.registry.borrow_mut().entry(self.place) {
            if entry.traffic.spoke == 0
                && let State::Relaying(server, at) = &entry.state
            {
                self.shared.worked(server, *at);
            }
            entry.traffic.bytes_in += up;
            entry.traffic.bytes_out += down;
            entry.traffic.spoke = coarse();
        }
    }
}

/// The monotonic clock as of the kernel's last tick (a few milliseconds), in
/// milliseconds: read at each wake-up, it must not cost what the exact one does.
fn coarse() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE);
    now.map_or(0, |t| (t.tv_sec() * 1000 + t.tv_nsec() / 1_000_000).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::PoolTally;

    fn place(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 77, 0, last], 3306))
    }

    fn tally(pool: &str, name: &str) -> Arc<ServerTally> {
        Arc::new(ServerTally::new(&PoolTally::new(pool), name))
    }

    #[test]
    fn what_a_check_found_ends_sessions_at_the_place_that_was_checked() {
        let (now, before) = (tally("p", "db1"), tally("p", "db1"));
        let (other, stranger) = (tally("p", "db2"), tally("q", "db1"));
        let on = |anywhere| Closed::On { server: Arc::clone(&now), places: vec![place(1)], anywhere };
        for (server, at, checked, meant) in [
            (&now, Some(1), true, true),
            (&other, Some(1), true, true),
            // It was at another place under this name, or its name led there.
            (&now, Some(2), false, true),
            (&before, Some(2), false, true),
            (&before, None, false, true),
            (&now, None, true, true),
            (&other, Some(2), false, false),
            (&other, None, false, false),
            (&stranger, Some(1), false, false),
            (&stranger, None, false, false),
        ] {
            let at = at.map(place);
            let has = |anywhere| on(anywhere).has(0, server, at.as_ref());
            assert_eq!((has(false), has(true)), (checked, meant), "{} {at:?}", server.name());
        }
    }

    #[test]
    fn a_pool_of_one_primary_has_sessions_there_and_where_nobody_can_write() {
        let elsewhere = Closed::Elsewhere(Elsewhere {
            pools: vec!["p".into(), "before".into()],
            gone: vec!["gone".into()],
            listeners: vec![1],
            places: vec![place(1), place(2)],
        });
        for (pool, listener, at, ends) in [
            ("p", 0, Some(1), false),
            ("p", 0, Some(2), false),
            ("p", 0, Some(3), true),
            ("p", 0, None, true),
            ("before", 0, Some(3), true),
            ("before", 0, Some(1), false),
            // A pool that is gone counts by the listener, any other not at all.
            ("gone", 0, Some(3), false),
            ("gone", 1, Some(3), true),
            ("gone", 1, Some(1), false),
            ("other", 1, Some(3), false),
        ] {
            let at = at.map(place);
            let has = elsewhere.has(listener, &tally(pool, "db1"), at.as_ref());
            assert_eq!(has, ends, "{pool} by listener {listener} at {at:?}");
        }
    }
}
