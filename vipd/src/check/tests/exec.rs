//! `kind = "exec"`.

use super::*;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::{User, geteuid, mkfifo};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tokio::net::unix::pipe;
use vipd_core::settings::ExecCheck;

/// A command as `nobody`, or as ourselves where we may not change that.
fn exec(command: &[&str]) -> CheckKind {
    let ours = || User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
    let user = if geteuid().is_root() { None } else { ours() };
    CheckKind::Exec(ExecCheck { command: command.iter().map(|&word| word.to_owned()).collect(), user })
}

fn script(text: &str) -> CheckKind {
    exec(&["/bin/sh", "-c", text])
}

async fn probed(kind: CheckKind) -> Result<Probe, Box<dyn std::error::Error>> {
    Ok(Lab::start(&[pool("a", kind, &[5432])]).report().await?.probe)
}

async fn failure(kind: CheckKind) -> Result<String, Box<dyn std::error::Error>> {
    Lab::start(&[pool("a", kind, &[5432])]).failure().await
}

/// A directory in which any user may write.
fn open_directory() -> std::io::Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777))?;
    Ok(directory)
}

/// A pipe by name: it ends when the last process that holds it does.
fn lifeline(directory: &Path) -> Result<(PathBuf, pipe::Receiver), Box<dyn std::error::Error>> {
    let path = directory.join("lifeline");
    mkfifo(&path, Mode::from_bits_truncate(0o600))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    let receiver = pipe::OpenOptions::new().open_receiver(&path)?;
    Ok((path, receiver))
}

/// What is written to a lifeline by those who then end.
async fn last_words(mut lifeline: pipe::Receiver) -> Result<String, Box<dyn std::error::Error>> {
    let mut said = String::new();
    // Before its first writer it is at its end, too.
    while said.is_empty() {
        lifeline.readable().await?;
        tokio::time::timeout(LIMIT, lifeline.read_to_string(&mut said)).await??;
        tokio::task::yield_now().await;
    }
    Ok(said)
}

#[tokio::test]
async fn the_status_decides() -> Outcome {
    let address = SocketAddr::from(([127, 0, 0, 1], 5432));
    let report = Lab::start(&[pool("a", exec(&["/bin/true"]), &[5432])]).report().await?;
    assert_eq!((report.probe, report.address), (Probe::Answered(Observation::default()), Some(address)));

    let loud = script("echo asking; echo 'lag is 40 s' >&2; echo; exit 3");
    assert_eq!(failure(loud).await?, "/bin/sh ended with status 3: lag is 40 s");
    assert_eq!(failure(exec(&["/bin/false"])).await?, "/bin/false ended with status 1 and said nothing");
    assert_eq!(failure(script("kill -SEGV $$")).await?, "/bin/sh was killed by SIGSEGV and said nothing");
    Ok(())
}

#[tokio::test]
async fn arguments_are_not_read_by_a_shell() -> Outcome {
    let kind = exec(&["/bin/sh", "-c", "echo \"$1\"; exit 1", "sh", "$(id) ; *"]);
    assert_eq!(failure(kind).await?, "/bin/sh ended with status 1: $(id) ; *");
    Ok(())
}

#[tokio::test]
async fn the_environment_is_ours() -> Outcome {
    let directory = open_directory()?;
    let file = directory.path().join("environment");
    let text = format!("tr '\\0' '\\n' </proc/$$/environ | sort >{}", file.display());
    assert_eq!(probed(script(&text)).await?, Probe::Answered(Observation::default()));
    let expected = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
        VIPD_ADDRESS=127.0.0.1\nVIPD_POOL=a\nVIPD_PORT=5432\nVIPD_SERVER=db5432\n";
    assert_eq!(std::fs::read_to_string(file)?, expected);
    Ok(())
}

#[tokio::test]
async fn no_descriptor_and_no_privilege_is_handed_on() -> Outcome {
    let directory = open_directory()?;
    let path = |name: &str| directory.path().join(name);
    // As one that whoever started the daemon has left open.
    let left = std::fs::File::open("/dev/null")?;
    let number = fcntl(&left, FcntlArg::F_DUPFD(200))?;
    let text = format!(
        "ls /proc/$$/fd >{}; id -u >{}; id -G >>{1}; grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/$$/status >{}",
        path("fds").display(),
        path("ids").display(),
        path("caps").display(),
    );
    assert_eq!(probed(script(&text)).await?, Probe::Answered(Observation::default()));
    let held = std::fs::read_to_string(path("fds"))?;
    // The shell has one more, for itself.
    assert!(held.lines().count() <= 4 && !held.contains(&number.to_string()), "{held}");
    if geteuid().is_root() {
        let nobody = User::from_name("nobody")?.ok_or("no user nobody")?;
        let expected = format!("{}\n{}\n", nobody.uid, nobody.gid);
        assert_eq!(std::fs::read_to_string(path("ids"))?, expected, "no groups but its own");
        let caps = std::fs::read_to_string(path("caps"))?;
        let held = |line: &&str| !line.ends_with("\t0000000000000000");
        assert_eq!(caps.lines().filter(held).collect::<Vec<_>>(), Vec::<&str>::new());
    }
    nix::unistd::close(number)?;
    Ok(())
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_its_children_and_reaped() -> Outcome {
    let directory = open_directory()?;
    let (path, lifeline) = lifeline(directory.path())?;
    let text = format!("exec 3>{}; echo $$ >&3; echo asking; sleep 1000 & sleep 1000", path.display());
    let mut pools = [hasty(script(&text), 5432)];
    if let Some(check) = &mut pools[0].check {
        check.interval = Duration::from_secs(3600);
        check.timeout = Duration::from_secs(1);
    }
    let mut lab = Lab::start(&pools);
    assert_eq!(lab.failure().await?, "timed out after 1s while running /bin/sh: asking");
    let leader = PathBuf::from(format!("/proc/{}", last_words(lifeline).await?.trim()));
    let reaped = async {
        while leader.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    Ok(tokio::time::timeout(LIMIT, reaped).await?)
}

#[tokio::test]
async fn what_a_command_leaves_behind_ends_with_it() -> Outcome {
    let directory = open_directory()?;
    let (path, lifeline) = lifeline(directory.path())?;
    let text = format!("exec 3>{}; echo here >&3; sleep 1000 & exit 0", path.display());
    let mut pools = [pool("a", script(&text), &[5432])];
    if let Some(check) = &mut pools[0].check {
        check.interval = Duration::from_secs(3600);
    }
    let mut lab = Lab::start(&pools);
    assert_eq!(lab.report().await?.probe, Probe::Answered(Observation::default()));
    assert_eq!(last_words(lifeline).await?, "here\n");
    Ok(())
}

#[tokio::test]
async fn a_command_that_is_no_longer_wanted_is_killed() -> Outcome {
    let directory = open_directory()?;
    let (path, lifeline) = lifeline(directory.path())?;
    let text = format!("exec 3>{}; echo here >&3; sleep 1000", path.display());
    let mut lab = Lab::start(&[pool("a", script(&text), &[5432])]);
    lifeline.readable().await?;
    lab.update(&[]);
    assert_eq!(last_words(lifeline).await?, "here\n");
    Ok(())
}

#[tokio::test]
async fn endless_output_is_not_collected() -> Outcome {
    let text = "/usr/bin/yes wrote more than 65536 bytes; make it quieter";
    assert_eq!(failure(exec(&["/usr/bin/yes"])).await?, text);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_run_is_named() -> Outcome {
    let directory = open_directory()?;
    let plain = directory.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n")?;
    let plain = plain.to_str().ok_or("not UTF-8")?;
    let text = failure(exec(&["/nowhere/check"])).await?;
    assert!(text.starts_with("running /nowhere/check as '"), "{text}");
    assert!(
        text.ends_with(
            "': no such file or directory; is it there, and the interpreter that its first line names?"
        ),
        "{text}"
    );
    let text = failure(exec(&[plain])).await?;
    assert!(
        text.ends_with(
            "permission denied; may that user execute it, and enter all the directories above it?"
        ),
        "{text}"
    );
    let stranger = ExecCheck { command: vec!["/bin/true".into()], user: Some("no-such-user".into()) };
    let text = failure(CheckKind::Exec(stranger)).await?;
    assert_eq!(text, "this system has no user 'no-such-user': create it, or set user to another");
    Ok(())
}

#[test]
fn a_user_that_may_not_be_taken_is_named() {
    let error = super::super::exec::ExecError::Start {
        program: "/usr/bin/check".into(),
        user: "nobody".into(),
        source: std::io::Error::from_raw_os_error(nix::libc::EPERM),
    };
    let text = "running /usr/bin/check as 'nobody': operation not permitted; \
        to become another user vipd must be root, or have CAP_SETUID and CAP_SETGID; without user it runs as vipd's own";
    assert_eq!(error.to_string(), text);
}
