//! Removes floating addresses without a daemon.

use super::monitor::Monitor;
use super::request::Requester;
use super::table::{Seen, Table};
use super::{KernelError, Leftover, Spot, held, passage, sysctl};
use std::path::Path;
use vipd_core::settings::Cidr;

/// What [`release_all`] did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Released {
    /// It removed these addresses, and whatever else was left.
    Here(Vec<Leftover>),
    /// Nothing: what is on record is in another network namespace.
    Elsewhere {
        /// The namespace's name, as `lsns -t net` and `readlink /proc/PID/ns/net` have it.
        namespace: String,
        /// The addresses on record.
        addresses: Vec<Leftover>,
    },
}

/// Removes every address that this program put on an interface and that is
/// still there, and what a planned switchover left in nftables, and gives raised
/// switches their earlier values: for `vipctl release`, when no daemon runs.
/// The addresses themselves may have ended long since.
///
/// # Errors
///
/// If netlink or the files in the runtime directory cannot be used.
pub async fn release_all(runtime_dir: &Path) -> Result<Released, KernelError> {
    let unusable = |source| KernelError::RuntimeDir { path: runtime_dir.to_owned(), source };
    if let Some(namespace) = held::elsewhere(runtime_dir).map_err(unusable)? {
        let leftover =
            |(interface, address): (String, Cidr)| Leftover { interface, address: address.to_string() };
        let addresses = held::read(runtime_dir).map_err(unusable)?.into_iter().map(leftover).collect();
        return Ok(Released::Elsewhere { namespace, addresses });
    }
    let table = Monitor::open()?.dump().await?;
    let mut requester = Requester::open().map_err(KernelError::Open)?;
    let removed = remove_leftovers(&table, &mut requester, runtime_dir, |_, seen| seen.ours)?;
    passage::remove_leftovers(None).await;
    Ok(Released::Here(removed))
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
    held::forget(runtime_dir).map_err(unusable)?;
    let leftover = |spot: &Spot| Leftover {
        interface: table.name(spot.interface).unwrap_or_default().to_owned(),
        address: spot.address.to_string(),
    };
    Ok(spots.iter().map(leftover).collect())
}
