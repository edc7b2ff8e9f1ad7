//! A worker's sessions, so that they can be found and ended.

use crate::shared::ServerTally;
use crate::stats::CloseCause;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// The sessions of a worker, so that they can be found and ended.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
}

/// A session, as it is found again.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The address that the client connected to.
    local: IpAddr,
    pub(crate) state: State,
    /// Why the session's task was aborted, if it was.
    cause: Option<CloseCause>,
    pub(crate) task: Option<AbortHandle>,
}

/// How far a session is.
#[derive(Debug)]
pub(crate) enum State {
    /// It looks for a server, or waits until one has room.
    Picking,
    /// It is being connected to one; `withdrawn` if that must not have sessions any more.
    Connecting { server: Arc<ServerTally>, withdrawn: bool },
    /// It has one.
    Relaying(Arc<ServerTally>),
}

impl Registry {
    pub(crate) fn add(&mut self, local: IpAddr) -> usize {
        let entry = Entry { local, state: State::Picking, cause: None, task: None };
        if let Some(id) = self.free.pop() {
            self.entries[id] = Some(entry);
            return id;
        }
        self.entries.push(Some(entry));
        self.entries.len() - 1
    }

    pub(crate) fn entry(&mut self, id: usize) -> Option<&mut Entry> {
        self.entries.get_mut(id)?.as_mut()
    }

    pub(crate) fn remove(&mut self, id: usize) -> Option<CloseCause> {
        let entry = self.entries.get_mut(id)?.take()?;
        self.free.push(id);
        entry.cause
    }

    /// Ends the sessions to these addresses.
    pub(crate) fn close_local(&mut self, addresses: &[IpAddr]) {
        for entry in self.entries.iter_mut().flatten() {
            if addresses.contains(&entry.local) {
                entry.close(CloseCause::AddressLost);
            }
        }
    }

    /// Ends the sessions on a server. One that is still being connected goes elsewhere.
    pub(crate) fn close_server(&mut self, gone: &Arc<ServerTally>) {
        for entry in self.entries.iter_mut().flatten() {
            match &mut entry.state {
                State::Connecting { server, withdrawn } if Arc::ptr_eq(server, gone) => *withdrawn = true,
                State::Relaying(server) if Arc::ptr_eq(server, gone) => {
                    entry.close(CloseCause::ServerWithdrawn);
                }
                State::Picking | State::Connecting { .. } | State::Relaying(_) => {}
            }
        }
    }

    /// Ends all sessions.
    pub(crate) fn close_all(&mut self, cause: CloseCause) {
        self.entries.iter_mut().flatten().for_each(|e| e.close(cause));
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
}
