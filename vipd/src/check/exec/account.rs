//! The system's user that runs a command.

use nix::unistd::{Gid, Uid, User, getegid, geteuid, getgrouplist};
use std::ffi::CString;
use thiserror::Error;

/// The user cannot be had.
#[derive(Debug, Error)]
pub(crate) enum AccountError {
    #[error("this system has no user '{0}': create it, or set user to another")]
    Unknown(String),
    #[error("looking up the user '{user}': {source}")]
    Lookup { user: String, source: nix::Error },
}

/// A user with its groups.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) groups: Vec<Gid>,
}

impl Account {
    /// Asks the system, which may ask a directory somewhere: on a thread aside.
    pub(crate) async fn find(user: String) -> Result<Self, AccountError> {
        let name = user.clone();
        let found = tokio::task::spawn_blocking(move || lookup(&name)).await;
        // The thread ends without a result only with the runtime.
        found
            .unwrap_or(Ok(None))
            .map_err(|source| AccountError::Lookup { user: user.clone(), source })?
            .ok_or(AccountError::Unknown(user))
    }

    /// Whether the daemon runs as this user already.
    pub(super) fn is_ours(&self) -> bool {
        !self.uid.is_root() && self.uid == geteuid() && self.gid == getegid()
    }
}

fn lookup(name: &str) -> nix::Result<Option<Account>> {
    let Some(user) = User::from_name(name)? else { return Ok(None) };
    let name = CString::new(name).map_err(|_| nix::Error::EINVAL)?;
    let groups = getgrouplist(&name, user.gid)?;
    Ok(Some(Account { uid: user.uid, gid: user.gid, groups }))
}
