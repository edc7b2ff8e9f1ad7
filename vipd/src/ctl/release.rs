//! `vipctl release`: what works without a daemon.

use super::Failure;
use crate::control::instance::{ClaimError, Instance};
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

/// What the kernel's part of this crate does of it.
fn remove(_runtime_dir: &Path) -> Result<Vec<String>, Failure> {
    // TO BE CONNECTED AT MERGE: block on `crate::kernel::release_all(runtime_dir)`.
    Err(Failure::Refused("this build has no part that changes the kernel's addresses".into()))
}
