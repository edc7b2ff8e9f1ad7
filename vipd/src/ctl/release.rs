//! `vipctl release`: what works without a daemon.

use super::Failure;
use crate::control::instance::{ClaimError, Instance};
use crate::kernel::{Leftover, Released};
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
    let released = runtime.block_on(crate::kernel::release_all(runtime_dir)).map_err(|e| refused(&e))?;
    let list = |all: Vec<Leftover>, word: &str| -> Vec<String> {
        all.into_iter().map(|l| format!("{} {word} {}", l.address, l.interface)).collect()
    };
    match released {
        Released::Here(removed) => Ok(list(removed, "from")),
        Released::Elsewhere { namespace, addresses } => Err(Failure::Refused(format!(
            "on record are {}, in another network namespace than this one ({namespace}; `lsns -t net` lists them): \
             run this in that one. If it is gone, so are they, and the next start of vipd forgets them",
            list(addresses, "on").join(", ")
        ))),
    }
}
