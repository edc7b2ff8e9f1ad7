//! `vipd import`: files of keepalived and HAProxy to a `vipd.toml`.
//!
//! What has a counterpart is carried over; every other line stands in the new
//! file as a comment, with its place and the reason. The outcome is judged as
//! `vipd check` would.

mod draft;
mod haproxy;
mod keepalived;
mod ledger;

use crate::{Config, Errors};
use draft::Table;
use haproxy::Balanced;
use keepalived::Floating;
use ledger::Ledger;
use std::sync::Arc;

/// What became of the files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Import {
    /// The new file.
    pub text: String,
    /// Lines carried over: what they say is in the new file, or vipd does it anyway.
    pub carried: usize,
    /// Lines that say something; comments and closing braces do not.
    pub lines: usize,
    /// What `vipd check` still finds wrong with the new file.
    pub errors: Option<Errors>,
}

/// Why files cannot be carried over.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ImportError {
    /// It is neither of keepalived's nor of HAProxy's.
    #[error(
        "{0}: neither a keepalived.conf (no vrrp_instance) nor an haproxy.cfg (no frontend, backend or listen)"
    )]
    Stranger(String),
}

/// Carries over the texts of files, each with its name for comments. Files of
/// HAProxy count as one configuration, each of keepalived as one host's.
///
/// # Errors
/// A file is of neither.
pub fn import(files: &[(String, String)]) -> Result<Import, ImportError> {
    let mut ledger = Ledger::default();
    let (mut routers, mut balancers) = (vec![], vec![]);
    for (name, text) in files {
        let file: (Arc<str>, &str) = (Arc::from(name.as_str()), text.as_str());
        if keepalived::is_ours(text) {
            routers.push(file);
        } else if haproxy::is_ours(text) {
            balancers.push(file);
        } else {
            return Err(ImportError::Stranger(name.clone()));
        }
    }
    let (floating, known) = keepalived::read(&routers, &mut ledger);
    let balanced = haproxy::read(&balancers, &known, &mut ledger);
    ledger.close();
    let (carried, lines) = ledger.sum();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let title = vec![
        format!("Made by `vipd import` from {}.", names.join(", ")),
        format!(
            "{carried} of {lines} lines are carried over. Read the comments: each tells a line that is not, or something to know about one that is."
        ),
    ];
    let text = draft::render(&title, &tables(floating, balanced), &ledger);
    let errors = Config::parse(&text, "vipd.toml").err();
    Ok(Import { text, carried, lines, errors })
}

/// The tables in the order of the documentation.
fn tables(floating: Floating, balanced: Balanced) -> Vec<Table> {
    let Floating { cluster, election, vips, notify, hooks: _, listeners, pools } = floating;
    let mut tables = vec![cluster];
    tables.extend(Some(election).filter(|t| !t.is_empty()));
    tables.extend(vips);
    tables.extend(listeners);
    tables.extend(balanced.listeners);
    tables.extend(pools);
    tables.extend(balanced.pools);
    tables.extend(notify);
    tables.push(balanced.status.unwrap_or_else(haproxy::default_status));
    tables
}
