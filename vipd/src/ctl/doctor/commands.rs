//! Commands that the configuration names: whether vipd may become the user that
//! runs each, and whether that one may run it.

use super::sight::Sight;
use super::{Findings, Verdict};
use crate::check::exec::account::whose;
use nix::unistd::{Uid, User};
use std::path::Path;
use vipd_config::Config;
use vipd_core::settings::CheckKind;

const ABOUT: &str = "commands";

/// A command, and where it is named.
struct Named<'a> {
    place: String,
    program: &'a Path,
    user: Option<&'a str>,
}

/// Looks at every command of the configuration; as root, who sees what others may.
pub(super) fn look(config: &Config, sight: &Sight, findings: &mut Findings) {
    if Uid::effective().is_root() {
        named(config).iter().for_each(|command| judge(command, sight, findings));
    }
}

fn named(config: &Config) -> Vec<Named<'_>> {
    let hooks = config.notify.iter().map(|h| (format!("[[notify]] {}", h.name), &h.command, &h.user));
    let checks = config.pools.iter().filter_map(|pool| match &pool.check.as_ref()?.kind {
        CheckKind::Exec(exec) => Some((format!("the check of {}", pool.name), &exec.command, &exec.user)),
        CheckKind::Tcp(_)
        | CheckKind::Http(_)
        | CheckKind::Mysql(_)
        | CheckKind::Postgres(_)
        | CheckKind::Redis(_) => None,
    });
    let named = hooks.chain(checks).filter_map(|(place, command, user)| {
        Some(Named { place, program: Path::new(command.first()?), user: user.as_deref() })
    });
    named.collect()
}

fn judge(command: &Named<'_>, sight: &Sight, findings: &mut Findings) {
    let Named { place, program, user } = command;
    let shown = program.display();
    // Without a daemon and a unit it is not known who it will be.
    let Some(daemon) = &sight.reader else { return };
    let runs_it = match whose(*user, Uid::from_raw(daemon.uid)) {
        None => daemon.clone(),
        Some(name) => match User::from_name(name) {
            Ok(Some(user)) => super::sight::Reader::of(&user),
            Ok(None) => {
                let text = format!("{place}: this system has no user '{name}'");
                return findings.fix(Verdict::Bad, ABOUT, text, "correct user in the file, or take it out");
            }
            Err(_) => return,
        },
    };
    if runs_it.uid != daemon.uid && !sight.may_change_user {
        let name = user.unwrap_or("nobody");
        let text = format!("{place}: vipd runs as uid {} and may not become '{name}'", daemon.uid);
        let fix =
            "take user out: vipd's own user runs it then; or grant it, see docs/install.md, The service";
        return findings.fix(Verdict::Bad, ABOUT, text, fix);
    }
    if let Err(error) = std::fs::metadata(program) {
        let text = format!("{place}: {shown}: {}", crate::words(&error));
        return findings.fix(Verdict::Bad, ABOUT, text, "correct command in the file");
    }
    if sight.may("-x", &runs_it, program) == Some(false) {
        let text = format!("{place}: uid {} may not execute {shown}", runs_it.uid);
        return findings.fix(Verdict::Bad, ABOUT, text, format!("namei -l {shown}; chmod a+rx {shown}"));
    }
    if let Some(why) = sight.hidden("-x", &runs_it, program) {
        let text = format!("{place}: {shown} is hidden from the service: {why}");
        return findings.fix(Verdict::Bad, ABOUT, text, "put it into /usr/local/bin, say, and name that");
    }
    findings.good(ABOUT, format!("{place}: uid {} may execute {shown}", runs_it.uid));
}

#[cfg(test)]
mod tests {
    use super::super::sight::Reader;
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    /// A service that may become nobody else, and its own user.
    fn packaged() -> Sight {
        let reader = Reader { uid: 65533, gid: 65533, groups: Some(String::new()) };
        Sight { reader: Some(reader), ..Sight::default() }
    }

    fn judged(sight: &Sight, program: &Path, user: Option<&str>) -> super::super::Finding {
        let mut findings = Findings::default();
        judge(&Named { place: "[[notify]] chat".into(), program, user }, sight, &mut findings);
        findings.0.remove(0)
    }

    #[test]
    fn a_user_that_the_service_may_not_become_is_told() {
        let program = Path::new("/bin/true");
        let found = judged(&packaged(), program, Some("nobody"));
        assert_eq!(found.verdict, Verdict::Bad, "{found:?}");
        assert!(found.text.contains("may not become 'nobody'"), "{found:?}");
        let found = judged(&packaged(), program, Some("no-such-user-here"));
        assert!(found.text.contains("has no user"), "{found:?}");
        if Uid::effective().is_root() {
            assert_eq!(judged(&packaged(), program, None).verdict, Verdict::Good);
            let granted = Sight { may_change_user: true, ..packaged() };
            assert_eq!(judged(&granted, program, Some("nobody")).verdict, Verdict::Good);
        }
    }

    #[test]
    fn a_program_that_its_user_may_not_execute_is_told() {
        if !Uid::effective().is_root() {
            return; // Only root can ask for another.
        }
        let dir = tempfile::tempdir().expect("a scratch directory");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("ours");
        let program = dir.path().join("hook");
        assert!(judged(&packaged(), &program, None).text.contains("no such file"), "not there");
        fs::write(&program, "#!/bin/sh\n").expect("ours");
        fs::set_permissions(&program, Permissions::from_mode(0o700)).expect("ours");
        assert!(judged(&packaged(), &program, None).text.contains("may not execute"), "root's alone");
        fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("ours");
        assert_eq!(judged(&packaged(), &program, None).verdict, Verdict::Good);
    }
}
