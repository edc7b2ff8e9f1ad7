//! What the writer does beside updates: journals that grow, leases that end,
//! reloads.

use super::{BATCH, Thread};
use crate::journal::Entry;
use crate::name;
use crate::served::Served;
use crate::state::{self, Loaded, Prepared, StateError, ZoneState};
use crate::tsig::{self, Keys};
use crate::update::{Leases, RecordKey, View};
use crate::zone::{Changes, show_type};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tracing::{info, warn};
use vipd_config::dnsd;

impl Thread {
    /// Rewrites a journal that could not be written; begins to rewrite one that
    /// has grown long, for which nothing has to wait.
    pub(super) fn tidy(&mut self, index: usize) {
        let Some(state) = self.zones.get_mut(index).filter(|state| state.journal.wants_rewrite()) else {
            return;
        };
        if state.journal.is_broken() {
            self.rewrite(index);
            return;
        }
        let marks = state.replay.marks(tsig::seconds());
        let zone = state.serving.zone.read();
        let begun = state.journal.begin_rewrite(&zone, &state.leases.all(), state.base, marks);
        drop(zone);
        if begun.is_err() {
            self.rewritten(index, &begun);
        }
    }

    /// Takes up new journals that are on disk by now.
    pub(super) fn settle(&mut self) {
        for index in 0..self.zones.len() {
            if let Some(settled) = self.zones.get_mut(index).and_then(|state| state.journal.settle()) {
                self.rewritten(index, &settled);
            }
        }
    }

    pub(super) fn rewrite(&mut self, index: usize) -> bool {
        let Some(state) = self.zones.get_mut(index) else { return false };
        let marks = state.replay.marks(tsig::seconds());
        let zone = &state.serving.zone;
        let written = state.journal.rewrite(&zone.read(), &state.leases.all(), state.base, marks);
        self.rewritten(index, &written);
        written.is_ok()
    }

    /// Tells of a journal that was written anew, or could not be.
    fn rewritten(&self, index: usize, written: &io::Result<()>) {
        let Some(state) = self.zones.get(index) else { return };
        let (zone, name) = (&state.serving.zone, &state.serving.settings.name);
        match written {
            Ok(()) => {
                info!(zone = name, "wrote the journal anew");
                zone.journal_was_written(Ok(()));
            }
            Err(error) => {
                self.shared.metrics.journal_errors.add();
                let news = !state.journal.is_broken() || zone.journal_was_written(Err(error.to_string()));
                if news {
                    warn!(zone = name, %error, "cannot write the journal anew");
                }
            }
        }
    }

    /// Takes away records whose lease has ended, but not the last of a set
    /// unless the zone says so.
    pub(super) fn expire(&mut self, now: Instant) {
        for index in 0..self.zones.len() {
            let Some(state) = self.zones.get_mut(index) else { continue };
            let ended = state.leases.ended(now);
            if ended.is_empty() {
                continue;
            }
            let zone = state.serving.zone.read();
            let pending = Changes::new();
            let mut view = View::new(&zone, &pending, zone.serial());
            let mut gone = Leases::new();
            let (mut kept, mut expired) = (Vec::<RecordKey>::new(), Vec::<RecordKey>::new());
            for key in ended.into_iter().take(BATCH) {
                if !view.has(&key) {
                    // Something else took the record away.
                    gone.insert(key, None);
                    continue;
                }
                // The oldest first: the one that was renewed last stays.
                let last = view.records(&key.0, key.1) <= 1;
                if last && !state.serving.settings.expire_last {
                    kept.push(key);
                } else {
                    view.expire(&key);
                    expired.push(key.clone());
                    gone.insert(key, None);
                }
            }
            let (changes, serial) = view.finish();
            let entry = Entry::new(&zone, serial, state.base, changes, gone.clone());
            drop(zone);
            for key in kept {
                let (name, rtype) = (name::show(&key.0), show_type(key.1));
                warn!(name, rtype, "nobody renewed the last record of this set: it stays");
                state.leases.again(&key, now);
            }
            if gone.is_empty() {
                continue;
            }
            if self.write(index, &[entry])
                && let Some(state) = self.zones.get_mut(index)
            {
                for (name, rtype, _) in &expired {
                    let (name, rtype) = (name::show(name), show_type(*rtype));
                    info!(name, rtype, "a record's lease ended: it is gone");
                    self.shared.metrics.expired.add();
                }
                state.leases.apply(&gone, now);
            } else if let Some(state) = self.zones.get_mut(index) {
                // The disk is full: later.
                gone.keys().for_each(|key| state.leases.again(key, now));
            }
            self.tidy(index);
        }
    }

    /// All zones or none: what can fail is done before anything is served.
    pub(super) fn reload(
        &mut self,
        config: &dnsd::Config,
        loaded: Vec<Loaded>,
        keys: Keys,
    ) -> Result<Arc<Served>, StateError> {
        let mut prepared = Vec::new();
        let fresh = match self.prepare(config, loaded, &mut prepared) {
            Ok(fresh) => fresh,
            Err(error) => {
                for (index, prepared) in prepared {
                    if let Some(state) = self.zones.get(index) {
                        state::discard(state, prepared);
                    }
                }
                return Err(error);
            }
        };
        for (index, prepared) in prepared {
            if let Some(state) = self.zones.get_mut(index) {
                state::take(state, prepared);
            }
        }
        self.zones.retain(|state| config.zones.iter().any(|settings| state::is_of(state, settings)));
        self.zones.extend(fresh);
        let zones = self.zones.iter().map(|state| state.serving.clone());
        let served = Arc::new(Served::new(zones, keys, config.rate_limit.clone()));
        self.shared.served.store(Arc::clone(&served));
        Ok(served)
    }

    /// What the zones will be, by their place; gives those that are new.
    fn prepare(
        &mut self,
        config: &dnsd::Config,
        loaded: Vec<Loaded>,
        prepared: &mut Vec<(usize, Prepared)>,
    ) -> Result<Vec<ZoneState>, StateError> {
        let mut new = Vec::new();
        for (settings, loaded) in config.zones.iter().zip(loaded) {
            match self.zones.iter_mut().enumerate().find(|(_, zone)| state::is_of(zone, settings)) {
                Some((index, zone)) => {
                    prepared.push((index, state::prepare(zone, settings, loaded)?));
                }
                None => new.push((settings, loaded)),
            }
        }
        let open =
            |(settings, loaded)| state::open(Path::new(&config.state_dir), settings, loaded, Instant::now());
        new.into_iter().map(open).collect()
    }
}
