//! Files: whether vipd's own user may read those that the configuration names,
//! which root's `vipd check` does not show; and the room where events are kept.

use super::sight::Sight;
use super::{Findings, Verdict};
use crate::peer::key::{ClusterKey, KeyError};
use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use vipd_config::Config;
use vipd_core::settings::{Check, CheckKind, Tls};

const ABOUT: &str = "files";
/// The file that has rules of its own.
const CLUSTER_KEY: &str = "key-file";
/// Where it keeps events, unless told otherwise.
const STATE_DIR: &str = "/var/lib/vipd";
/// A thousand events and the number of a run, written anew, with room to spare.
const ROOM: u64 = 1 << 20;

/// A file that the configuration names.
struct Named<'a> {
    key: &'static str,
    path: &'a Path,
    /// Whether it is nobody else's business.
    secret: bool,
}

/// Looks at every file that the configuration names, and at the state directory.
pub(super) fn look(config: &Config, sight: &Sight, state_dir: Option<&Path>, findings: &mut Findings) {
    each(&named(config), sight, findings);
    room(state_dir.unwrap_or(Path::new(STATE_DIR)), findings);
}

/// Looks at the cluster key alone: a witness has nothing else.
pub(super) fn look_at_key(config: &Config, sight: &Sight, findings: &mut Findings) {
    let key: Vec<_> = named(config).into_iter().filter(|file| file.key == CLUSTER_KEY).collect();
    each(&key, sight, findings);
}

fn each(files: &[Named<'_>], sight: &Sight, findings: &mut Findings) {
    if !Uid::effective().is_root() {
        if !files.is_empty() {
            let text = "whether vipd may read its keys and passwords is for root to see";
            findings.fix(Verdict::Unknown, ABOUT, text, "sudo vipctl doctor");
        }
        return;
    }
    for file in files {
        if file.key == CLUSTER_KEY
            && let Err(error @ (KeyError::Open { .. } | KeyError::NoKey { .. })) = ClusterKey::load(file.path)
        {
            let path = file.path.display();
            let fix = if matches!(error, KeyError::Open { .. }) {
                format!("chmod 640 {path}")
            } else {
                format!("copy {path} from another node")
            };
            findings.fix(Verdict::Bad, ABOUT, error.to_string(), fix);
            continue;
        }
        judge(file, sight, findings);
    }
}

/// Each file once, by the first key that names it.
fn named(config: &Config) -> Vec<Named<'_>> {
    let mut all = vec![(CLUSTER_KEY, config.key.as_ref().map(|k| &k.file), true)];
    for check in config.pools.iter().filter_map(|p| p.check.as_ref()) {
        let (password, tls) = of_check(check);
        all.push(("password-file", password, true));
        all.push(("tls-ca-file", tls.and_then(|t| t.ca_file.as_ref()), false));
    }
    let rfc2136 = config.dns.as_ref().and_then(|d| d.rfc2136.as_ref());
    all.push(("[dns.rfc2136] key-file", rfc2136.map(|r| &r.key_file), true));
    all.push(("token-file", config.status.as_ref().and_then(|s| s.token_file.as_ref()), true));
    if let Some(etcd) = &config.etcd {
        all.push(("[etcd] password-file", etcd.login.as_ref().map(|(_, file)| file), true));
        all.push(("[etcd] tls-ca-file", etcd.ca_file.as_ref(), false));
        all.push(("[etcd] tls-cert-file", etcd.identity.as_ref().map(|(cert, _)| cert), false));
        all.push(("[etcd] tls-key-file", etcd.identity.as_ref().map(|(_, key)| key), true));
    }
    let mut files: Vec<Named<'_>> = Vec::new();
    for (key, path, secret) in all {
        let Some(path) = path else { continue };
        if !files.iter().any(|f| f.path == path) {
            files.push(Named { key, path, secret });
        }
    }
    files
}

fn of_check(check: &Check) -> (Option<&PathBuf>, Option<&Tls>) {
    match &check.kind {
        CheckKind::Tcp(_) | CheckKind::Exec(_) => (None, None),
        CheckKind::Http(http) => (None, http.tls.as_ref()),
        CheckKind::Mysql(mysql) => (mysql.password_file.as_ref(), mysql.tls.as_ref()),
        CheckKind::Postgres(postgres) => (postgres.password_file.as_ref(), postgres.tls.as_ref()),
        CheckKind::Redis(redis) => (redis.password_file.as_ref(), redis.tls.as_ref()),
    }
}

fn judge(file: &Named<'_>, sight: &Sight, findings: &mut Findings) {
    let (key, path) = (file.key, file.path.display());
    let found = match fs::metadata(file.path) {
        Ok(found) => found,
        Err(error) => {
            let fix = if key == CLUSTER_KEY {
                format!(
                    "copy it from another node, or, on one of them: vipd keygen | install -m 640 -g vipd /dev/stdin {path}"
                )
            } else {
                format!("install -m 640 -g vipd /dev/stdin {path}")
            };
            return findings.fix(Verdict::Bad, ABOUT, format!("{key} {path}: {}", crate::words(&error)), fix);
        }
    };
    let mode = found.mode() & 0o777;
    if let Some(reader) = &sight.reader
        && sight.may("-r", reader, file.path) == Some(false)
    {
        let by_mode = mode & 0o004 != 0 || (found.gid() == reader.gid && mode & 0o040 != 0);
        let (why, fix) = if by_mode {
            ("a directory above it is closed to it".to_owned(), format!("namei -l {path}"))
        } else {
            (format!("its mode is {mode:03o}"), format!("chgrp vipd {path} && chmod 640 {path}"))
        };
        let text = format!("{key} {path}: vipd's own user (uid {}) may not read it: {why}", reader.uid);
        return findings.fix(Verdict::Bad, ABOUT, text, fix);
    }
    if let Some(reader) = &sight.reader
        && let Some(why) = sight.hidden("-r", reader, file.path)
    {
        let text = format!("{key} {path}: hidden from vipd's service: {why}");
        return findings.fix(Verdict::Bad, ABOUT, text, format!("mv {path} /etc/vipd/, and name it there"));
    }
    if file.secret && mode & 0o004 != 0 {
        let text = format!("{key} {path}: everybody on this host may read it");
        return findings.fix(Verdict::Warning, ABOUT, text, format!("chmod o-rwx {path}"));
    }
    findings.good(ABOUT, format!("{key} {path}: vipd may read it"));
}

/// Where nothing can be written, events are lost with the daemon, and a start has nowhere to note its number.
fn room(dir: &Path, findings: &mut Findings) {
    // Before the first start it is not there.
    let Ok(system) = statvfs(dir) else { return };
    let left = system.blocks_available().saturating_mul(system.fragment_size());
    let full = system.files() > 0 && system.files_available() == 0;
    let shown = dir.display();
    if left >= ROOM && !full {
        return findings.good("state", format!("{shown} has room"));
    }
    let what = if full { "no inode".to_owned() } else { format!("{} kB", left / 1000) };
    let text = format!(
        "{shown} has {what} left: events do not outlive the daemon, and a start cannot note its number"
    );
    findings.fix(Verdict::Bad, "state", text, format!("df -h {shown}; df -i {shown}"));
}

#[cfg(test)]
mod tests {
    use super::super::sight::Reader;
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    /// The user without rights.
    const NOBODY: u32 = 65534;

    fn judged(path: &Path, mode: u32) -> Vec<super::super::Finding> {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("ours");
        let mut findings = Findings::default();
        let reader = Reader { uid: NOBODY, gid: NOBODY, groups: Some(String::new()) };
        let sight = Sight { reader: Some(reader), ..Sight::default() };
        judge(&Named { key: "password-file", path, secret: true }, &sight, &mut findings);
        findings.0
    }

    #[test]
    fn a_file_that_vipd_may_not_read_is_named_with_what_mends_it() {
        if !Uid::effective().is_root() {
            return; // Only root can ask for another.
        }
        let dir = tempfile::tempdir().expect("a scratch directory");
        let path = dir.path().join("secret");
        fs::write(&path, "x").expect("ours");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("ours");
        let closed = judged(&path, 0o644);
        assert_eq!(closed[0].verdict, Verdict::Bad, "{closed:?}");
        assert_eq!(closed[0].fix, Some(format!("namei -l {}", path.display())));
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("ours");
        let closed = judged(&path, 0o600);
        assert_eq!(closed[0].verdict, Verdict::Bad, "{closed:?}");
        assert!(closed[0].text.contains("its mode is 600"), "{closed:?}");
        assert!(closed[0].fix.as_ref().is_some_and(|f| f.starts_with("chgrp vipd ")), "{closed:?}");
        assert_eq!(judged(&path, 0o644)[0].verdict, Verdict::Warning);
        std::os::unix::fs::chown(&path, None, Some(NOBODY)).expect("root");
        assert_eq!(judged(&path, 0o640)[0].verdict, Verdict::Good);
    }

    #[test]
    fn every_file_of_every_key_is_looked_at_once() {
        let text = include_str!("../../../../config/tests/all-keys.toml");
        let config = Config::parse(text, "all-keys.toml").expect("right");
        let files = named(&config);
        for key in ["password-file", "tls-ca-file", "token-file"] {
            assert!(files.iter().any(|f| f.key == key), "{key}");
        }
        let paths: std::collections::BTreeSet<_> = files.iter().map(|f| f.path).collect();
        assert_eq!(paths.len(), files.len());
    }

    #[test]
    fn a_full_disk_is_told() {
        let mut findings = Findings::default();
        room(Path::new("/proc"), &mut findings);
        assert_eq!(findings.0[0].verdict, Verdict::Bad, "{findings:?}");
        assert!(findings.0[0].text.contains("0 kB left"), "{findings:?}");
        room(Path::new("/nowhere"), &mut findings);
        assert_eq!(findings.0.len(), 1);
    }
}
