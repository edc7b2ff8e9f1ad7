//! What runs, for people (`/`) and for programs (`/status.json`).

use crate::served::{Serving, Shared};
use serde::Serialize;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// What `/status.json` holds. Keys are added, never renamed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Of dnsd.
    version: &'static str,
    /// The addresses that are served, in order.
    listen: Vec<SocketAddr>,
    /// Why the last reload was not done, and what was served before goes on.
    reload_error: Option<String>,
    /// By name.
    zones: Vec<Zone>,
}

/// A zone of [`Status`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Zone {
    name: String,
    serial: u32,
    names: usize,
    /// Record sets that are not as the file says, because of updates.
    changed_sets: usize,
    /// Why updates are refused: the last write to the journal failed.
    journal_error: Option<String>,
}

impl Zone {
    fn new(serving: &Serving) -> Self {
        let zone = serving.zone.read();
        Self {
            name: serving.settings.name.clone(),
            serial: zone.serial(),
            names: zone.names(),
            changed_sets: zone.changed_sets(),
            journal_error: serving.zone.journal_error(),
        }
    }
}

impl Status {
    /// As it is now.
    #[must_use]
    pub fn new(shared: &Shared) -> Self {
        let served = shared.served.load();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            listen: shared.listen.load().to_vec(),
            reload_error: shared.reload_error(),
            zones: served.zones().into_iter().map(Zone::new).collect(),
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let listen: Vec<_> = self.listen.iter().map(SocketAddr::to_string).collect();
        let mut text = format!("dnsd {} on {}\n", self.version, listen.join(", "));
        if let Some(error) = &self.reload_error {
            let _ = writeln!(text, "the last reload was not done, what was served before goes on: {error}");
        }
        let width = self.zones.iter().map(|zone| zone.name.len()).max().unwrap_or(0).max("zone".len());
        let _ =
            writeln!(text, "\n{:width$}  {:>10}  {:>8}  {:>12}", "zone", "serial", "names", "changed sets");
        for Zone { name, serial, names, changed_sets, journal_error } in &self.zones {
            let _ = writeln!(text, "{name:width$}  {serial:>10}  {names:>8}  {changed_sets:>12}");
            if let Some(error) = journal_error {
                let _ = writeln!(text, "  updates are refused, its journal cannot be written: {error}");
            }
        }
        text
    }
}
