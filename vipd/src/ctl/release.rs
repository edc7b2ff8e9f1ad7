//! `vipctl release`: what works without a daemon.

use super::Failure;
use crate::control::instance::{ClaimError, Instance};
use crate::kernel::Released;
use std::path::Path;

/// Removes every address that an earlier vipd left on this host, and says which.
///
/// The daemon's place is held meanwhile: none can start between the look and the deed.
pub(super) fn release(runtime_dir: &Path) -> Result<Vec<String>, Failure> {
    let _instance = Instance::claim(runtime_dir).map_err(|error| match error {
        ClaimError::Taken(_) => Failure::Running,
        ClaimError::Answered(_) | ClaimError::InTheWay(_) | ClaimError::Io { .. } => Failure::Claim(error),
    })?;
    remove(runtime_dir)
}

fn remove(runtime_dir: &Path) -> Result<Vec<String>, Failure> {
    let refused = |e: &dyn std::fmt::Display| Failure::Refused(e.to_string());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| refused(&e))?;
    let Released { removed, elsewhere } =
        runtime.block_on(crate::kernel::release_all(runtime_dir)).map_err(|e| refused(&e))?;
    if !elsewhere.is_empty() {
        let list: Vec<_> = elsewhere.iter().map(|l| format!("{} on {}", l.address, l.interface)).collect();
        return Err(Failure::Refused(format!(
            "on record are {}, and none of them is in this network namespace: run this in the one that vipd ran \
             in; should they have run out there by themselves, the next vipd forgets them when it starts",
            list.join(", ")
        )));
    }
    Ok(removed.into_iter().map(|l| format!("{} from {}", l.address, l.interface)).collect())
}
