//! What vipd sees of the file system, and may do there: root's own eyes show
//! neither its user's rights nor what its unit hides.

use super::unit::Unit;
use crate::ctl::client::Client;
use nix::unistd::User;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The user of the package's service.
const USER: &str = "vipd";
/// CAP_SETGID and CAP_SETUID (linux/capability.h).
const CHANGE_USER: u64 = 1 << 6 | 1 << 7;

/// Who reads, or runs something.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Its groups, by number; those that the system knows of when absent.
    pub(super) groups: Option<String>,
}

impl Reader {
    pub(super) fn of(user: &User) -> Self {
        Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), groups: None }
    }
}

/// The daemon's sight.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// The user of the daemon that runs, or of the one that systemd would start;
    /// none where neither is here.
    pub(super) reader: Option<Reader>,
    pub(super) may_change_user: bool,
    /// The process that has the daemon's view, if it runs.
    pub(super) pid: Option<i32>,
    pub(super) unit: Option<Unit>,
}

impl Sight {
    pub(super) fn find(client: &Client, unit: Option<Unit>) -> Self {
        let pid = client.pid();
        let status = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
        let Some(status) = status else {
            let name = unit.as_ref().map_or(Some(USER), |unit| unit.user.as_deref()).unwrap_or("root");
            let user = User::from_name(name).ok().flatten();
            let may_change_user = unit.as_ref().is_none_or(Unit::may_change_user);
            return Self { reader: user.as_ref().map(Reader::of), may_change_user, pid: None, unit };
        };
        let line = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        let first = |name| line(name)?.split_whitespace().next()?.parse().ok();
        let groups = line("Groups:").unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(",");
        let reader =
            first("Uid:").zip(first("Gid:")).map(|(uid, gid)| Reader { uid, gid, groups: Some(groups) });
        let capabilities = line("CapEff:").and_then(|bits| u64::from_str_radix(bits, 16).ok()).unwrap_or(0);
        Self { reader, may_change_user: capabilities & CHANGE_USER == CHANGE_USER, pid, unit }
    }

    /// Whether somebody may read (`-r`) or execute (`-x`) a file, by the system's
    /// own word; none if that cannot be had.
    pub(super) fn may(&self, what: &str, reader: &Reader, path: &Path) -> Option<bool> {
        asked(Command::new("setpriv"), what, reader, path)
    }

    /// What hides a file from the daemon that somebody may read or execute here.
    pub(super) fn hidden(&self, what: &str, reader: &Reader, path: &Path) -> Option<String> {
        let by_unit = self.unit.as_ref().and_then(|unit| unit.hides(path)).map(str::to_owned);
        let Some(pid) = self.pid else { return by_unit };
        // The daemon that runs may have been started otherwise than by the unit, or before it changed.
        let mut within = Command::new("nsenter");
        within.arg(format!("--target={pid}")).args(["--mount", "--", "setpriv"]);
        (asked(within, what, reader, path) == Some(false))
            .then(|| by_unit.unwrap_or_else(|| "it has a file system of its own".to_owned()))
    }
}

/// Has a program that changes users try.
fn asked(mut test: Command, what: &str, reader: &Reader, path: &Path) -> Option<bool> {
    test.arg(format!("--reuid={}", reader.uid)).arg(format!("--regid={}", reader.gid));
    match reader.groups.as_deref() {
        None => test.arg("--init-groups"),
        Some("") => test.arg("--clear-groups"),
        Some(groups) => test.arg(format!("--groups={groups}")),
    };
    // A status could be that of a program on the way.
    test.args(["sh", "-c", "if test \"$1\" \"$2\"; then echo yes; else echo no; fi", "sh", what]).arg(path);
    let said = test.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?.stdout;
    match said.as_slice() {
        b"yes\n" => Some(true),
        b"no\n" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Uid;
    use std::process::Child;

    /// A process with its own `/tmp`, as a service with PrivateTmp has one.
    struct Elsewhere(Child);

    impl Drop for Elsewhere {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_file_that_the_service_is_not_shown_is_hidden_from_it() {
        if !Uid::effective().is_root() {
            return; // Only root makes a view of its own.
        }
        let dir = tempfile::tempdir().expect("a scratch directory");
        let path = dir.path().join("key");
        fs::write(&path, "x").expect("ours");
        let script = format!("mount -t tmpfs none {} && echo done && exec sleep 600", dir.path().display());
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "--propagation", "private", "sh", "-c", &script]).stdout(Stdio::piped());
        let mut elsewhere = Elsewhere(shell.spawn().expect("unshare"));
        let out = elsewhere.0.stdout.take().expect("piped");
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
        assert_eq!(line, "done\n", "this machine mounts nothing");
        let root = Reader { uid: 0, gid: 0, groups: Some(String::new()) };
        let pid = i32::try_from(elsewhere.0.id()).ok();
        let sight = Sight { pid, ..Sight::default() };
        assert_eq!(sight.may("-r", &root, &path), Some(true));
        assert!(sight.hidden("-r", &root, &path).is_some_and(|why| why.contains("its own")));
        assert_eq!(sight.hidden("-r", &root, Path::new("/etc/passwd")), None);
    }
}
