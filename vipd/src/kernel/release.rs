//! Removes floating addresses without a daemon.

use super::monitor::Monitor;
use super::request::Requester;
use super::table::{Seen, Table};
use super::{KernelError, Leftover, Spot, held, passage, sysctl};
use std::path::Path;

/// What [`release_all`] did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Released {
    /// The addresses that it removed.
    pub removed: Vec<Leftover>,
    /// The addresses that are on record, if none of them is here: this may be
    /// another network namespace than the one they are in. Nothing was changed then.
    pub elsewhere: Vec<Leftover>,
}

/// Removes every address that this program put on an interface and that is
/// still there, and what a planned switchover left in nftables, and gives raised
/// switches their earlier values: for `vipctl release`, when no daemon runs.
///
/// # Errors
///
/// If netlink or the files in the runtime directory cannot be used.
pub async fn release_all(runtime_dir: &Path) -> Result<Released, KernelError> {
    let monitor = Monitor::open()?;
    let table = monitor.dump().await?;
    let held = held::read(runtime_dir)
        .map_err(|source| KernelError::RuntimeDir { path: runtime_dir.to_owned(), source })?;
    let here = |(spot, seen): (Spot, Seen)| {
        let name = table.name(spot.interface).unwrap_or_default().to_owned();
        seen.ours || held.contains(&(name, spot.address))
    };
    if !held.is_empty() && !table.spots().any(here) {
        let elsewhere = held
            .into_iter()
            .map(|(interface, address)| Leftover { interface, address: address.to_string() })
            .collect();
        return Ok(Released { removed: vec![], elsewhere });
    }
    let mut requester = Requester::open().map_err(KernelError::Open)?;
    let removed = remove_leftovers(&table, &mut requester, runtime_dir, |_, seen| seen.ours)?;
    passage::remove_leftovers(None).await;
    Ok(Released { removed, elsewhere: vec![] })
}

/// Removes addresses that the list of held ones names, and what else is said
/// to be left over. That an address bears our tag is not enough for a daemon
/// that starts: it may be that of another, with another runtime directory.
pub(super) fn remove_leftovers(
    table: &Table,
    requester: &mut Requester,
    runtime_dir: &Path,
    is_left_over: impl Fn(&Spot, &Seen) -> bool,
) -> Result<Vec<Leftover>, KernelError> {
    let unusable = |source| KernelError::RuntimeDir { path: runtime_dir.to_owned(), source };
    let held = held::read(runtime_dir).map_err(unusable)?;
    let left_over = |(spot, seen): &(Spot, Seen)| {
        let name = table.name(spot.interface).unwrap_or_default().to_owned();
        is_left_over(spot, seen) || held.contains(&(name, spot.address))
    };
    let spots: Vec<Spot> = table.spots().filter(left_over).map(|(spot, _)| spot).collect();
    requester.delete(&spots).map_err(KernelError::Remove)?;
    sysctl::restore(runtime_dir).map_err(unusable)?;
    held::write(runtime_dir, &held::Held::new()).map_err(unusable)?;
    let leftover = |spot: &Spot| Leftover {
        interface: table.name(spot.interface).unwrap_or_default().to_owned(),
        address: spot.address.to_string(),
    };
    Ok(spots.iter().map(leftover).collect())
}
