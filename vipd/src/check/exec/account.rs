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

/// Who runs a command that names nobody, where the daemon is root: what anybody
/// may change shall not run as root.
const NOBODY: &str = "nobody";

/// A user with its groups.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// How it is named to people.
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) groups: Vec<Gid>,
}

impl Account {
    /// The user that runs a command: the one that is named, or else the daemon's
    /// own, which a service that may become nobody else can always have.
    ///
    /// Asks the system, which may ask a directory somewhere: on a thread aside.
    pub(crate) async fn find(named: Option<&str>) -> Result<Self, AccountError> {
        let Some(user) = whose(named, geteuid()).map(str::to_owned) else { return Ok(Self::own()) };
        let name = user.clone();
        let found = tokio::task::spawn_blocking(move || lookup(&name)).await;
        // The thread ends without a result only with the runtime.
        found
            .unwrap_or(Ok(None))
            .map_err(|source| AccountError::Lookup { user: user.clone(), source })?
            .ok_or(AccountError::Unknown(user))
    }

    /// The daemon's own: nothing of it has to change.
    fn own() -> Self {
        let name = std::env::var("USER").unwrap_or_else(|_| geteuid().to_string());
        Self { name, uid: geteuid(), gid: getegid(), groups: vec![] }
    }

    /// Whether the daemon runs as this user already.
    pub(super) fn is_ours(&self) -> bool {
        !self.uid.is_root() && self.uid == geteuid() && self.gid == getegid()
    }
}

/// The name to look up, for a daemon of this user; none where nothing has to change.
pub(crate) fn whose(named: Option<&str>, daemon: Uid) -> Option<&str> {
    named.or_else(|| daemon.is_root().then_some(NOBODY))
}

fn lookup(name: &str) -> nix::Result<Option<Account>> {
    let Some(user) = User::from_name(name)? else { return Ok(None) };
    let name = CString::new(name).map_err(|_| nix::Error::EINVAL)?;
    let groups = getgrouplist(&name, user.gid)?;
    Ok(Some(Account { name: user.name, uid: user.uid, gid: user.gid, groups }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that may become nobody else runs commands that name nobody.
    #[test]
    fn a_command_that_names_nobody_runs_as_the_daemon_unless_that_is_root() {
        let (root, service) = (Uid::from_raw(0), Uid::from_raw(977));
        assert_eq!(whose(None, service), None, "nothing changes");
        assert_eq!(whose(None, root), Some("nobody"));
        assert_eq!(whose(Some("reader"), service), Some("reader"));
        assert_eq!(whose(Some("reader"), root), Some("reader"));
    }
}
