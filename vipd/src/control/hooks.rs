//! `[[notify]]`: commands that are run when something happens.
//!
//! They run in order, one after the other, beside everything else: the loop
//! only puts the event into its bounded queue, as for any follower. If
//! commands take longer than events come, the oldest events are left out, and
//! the log says how many.

use super::api::{EventDoc, EventKind, VipState};
use super::events::{Subscription, Subscriptions};
use crate::check::exec::account::{Account, AccountError};
use crate::check::exec::process::Process;
use crate::check::exec::{PATH, explain};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::process::{Command, ExitStatus, Stdio};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tracing::{debug, warn};
use vipd_config::{Notify, On};

/// What a command wrote beyond this is dropped.
const MAX_OUTPUT: usize = 64 << 10;

/// Who the commands are told that they run for.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The cluster.
    pub cluster: String,
    /// This node.
    pub node: String,
}

/// What a command reads from its standard input.
#[derive(Serialize)]
struct Facts<'a> {
    cluster: &'a str,
    node: &'a str,
    #[serde(flatten)]
    event: &'a EventDoc,
}

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error("it has no program")]
    NoProgram,
    #[error("cannot run {program}: {}", explain(.source))]
    Start { program: String, source: io::Error },
    #[error("it took longer than {0:?} and was killed")]
    Timeout(std::time::Duration),
    #[error("{status}, and it said: {said}")]
    Status { status: ExitStatus, said: String },
}

/// Runs the commands of the newest settings, for the events from now on, until
/// no more will come. `done` is told the number of each event that is seen to.
pub fn run(
    events: &Subscriptions,
    hooks: watch::Receiver<Vec<Notify>>,
    origin: Origin,
    done: watch::Sender<u64>,
) -> impl Future<Output = ()> + Send + use<> {
    let Subscription { live, .. } = events.subscribe(u64::MAX);
    async move {
        let Some(mut live) = live else { return };
        loop {
            match live.recv().await {
                Ok(event) => {
                    each(&event, &hooks, &origin).await;
                    done.send_replace(event.seq);
                }
                Err(RecvError::Lagged(missed)) => {
                    warn!(missed, "events came faster than [[notify]] commands ran: these were left out");
                }
                Err(RecvError::Closed) => return,
            }
        }
    }
}

async fn each(event: &EventDoc, hooks: &watch::Receiver<Vec<Notify>>, origin: &Origin) {
    let wanted: Vec<Notify> = {
        let hooks = hooks.borrow();
        hooks.iter().filter(|h| h.on.iter().any(|on| fits(*on, event))).cloned().collect()
    };
    for hook in wanted {
        match one(&hook, event, origin).await {
            Ok(()) => debug!(hook = hook.name, seq = event.seq, "a [[notify]] command has run"),
            Err(error) => warn!(hook = hook.name, %error, "a [[notify]] command failed"),
        }
    }
}

/// Whether an event is what a hook waits for.
fn fits(on: On, event: &EventDoc) -> bool {
    let state = |wanted| event.event.kind == EventKind::Vip && event.event.state == Some(wanted);
    let kind = |wanted| event.event.kind == wanted;
    match on {
        On::Active => state(VipState::Active),
        On::Backup => state(VipState::Backup),
        On::Fault => state(VipState::Fault),
        On::Init => state(VipState::Init),
        On::Takeover => kind(EventKind::Takeover),
        On::Switchover => kind(EventKind::Switchover),
        On::Address => kind(EventKind::Address),
        On::Peer => kind(EventKind::Peer),
        On::Server => kind(EventKind::Server),
        On::Config => kind(EventKind::Config),
        On::Maintenance => kind(EventKind::Maintenance),
    }
}

async fn one(hook: &Notify, event: &EventDoc, origin: &Origin) -> Result<(), HookError> {
    let work = async {
        let account = Account::find(hook.user.as_deref()).await?;
        let (program, arguments) = hook.command.split_first().ok_or(HookError::NoProgram)?;
        let start = |source| HookError::Start { program: program.clone(), source };
        let input = facts(event, origin).map_err(start)?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/").env_clear().env("PATH", PATH);
        for (name, value) in environment(hook, event, origin) {
            command.env(name, value);
        }
        let mut process = Process::start(command, Stdio::from(input), account).map_err(start)?;
        let mut output = Vec::new();
        let status = loop {
            if let Some(status) = process.next(&mut output).await.map_err(start)? {
                break status;
            }
            output.truncate(MAX_OUTPUT);
        };
        if status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output);
        let said = said.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("nothing");
        Err(HookError::Status { status, said: super::clean(said.trim()).chars().take(200).collect() })
    };
    // Dropped, it kills the command and what that started.
    tokio::time::timeout(hook.timeout, work).await.unwrap_or(Err(HookError::Timeout(hook.timeout)))
}

/// The facts as a file that can be read from its beginning: writing it blocks on nobody.
fn facts(event: &EventDoc, origin: &Origin) -> io::Result<File> {
    let fd = memfd_create("facts", MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(fd);
    let facts = Facts { cluster: &origin.cluster, node: &origin.node, event };
    serde_json::to_writer(&mut file, &facts)?;
    file.write_all(b"\n")?;
    file.rewind()?;
    Ok(file)
}

/// The facts as variables; those that an event does not have are absent.
fn environment(hook: &Notify, doc: &EventDoc, origin: &Origin) -> Vec<(&'static str, String)> {
    let event = &doc.event;
    // Words as in JSON.
    let word = |value: serde_json::Result<serde_json::Value>| {
        value.ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let mut all = vec![
        ("VIPD_HOOK", hook.name.clone()),
        ("VIPD_CLUSTER", origin.cluster.clone()),
        ("VIPD_NODE", origin.node.clone()),
        ("VIPD_EVENT", word(serde_json::to_value(event.kind))),
        ("VIPD_LEVEL", event.level.to_string()),
        ("VIPD_TIME", format!("{:.3}", doc.time)),
        ("VIPD_SEQ", doc.seq.to_string()),
        // An environment holds no zero byte.
        ("VIPD_MESSAGE", event.message.replace('\0', "")),
    ];
    let optional = [
        ("VIPD_VIP", event.vip.clone()),
        ("VIPD_STATE", event.state.map(|s| s.to_string())),
        ("VIPD_POOL", event.pool.clone()),
        ("VIPD_SERVER", event.server.clone()),
        ("VIPD_PEER", event.peer.clone()),
    ];
    all.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    all
}

#[cfg(test)]
mod tests {
    use super::super::api::{Event, Level};
    use super::super::events::EventLog;
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::time::Duration;

    fn vip(state: VipState) -> Event {
        let mut event = Event::new(Level::Info, EventKind::Vip, format!("main is {state}")).vip("main");
        event.state = Some(state);
        event
    }

    fn hook(dir: &Path, name: &str, script: &str, on: &[On]) -> Notify {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("ours");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|u| u.name);
        Notify {
            name: name.to_owned(),
            command: vec![path.display().to_string(), "argument".into()],
            on: on.to_vec(),
            user,
            timeout: Duration::from_secs(20),
        }
    }

    /// Lets hooks hear events, and waits until all have run.
    async fn hear(hooks: Vec<Notify>, events: Vec<Event>) {
        let (log, mut store) = EventLog::new();
        let (_newest, hooks) = watch::channel(hooks);
        let origin = Origin { cluster: "orders".into(), node: "px1".into() };
        let (done, mut seen) = watch::channel(0);
        let last = u64::try_from(events.len()).expect("a few");
        let runner = tokio::spawn(run(&store.subscriptions(), hooks, origin, done));
        for event in events {
            log.push(event);
        }
        drop(log);
        store.collect().await;
        drop(store);
        // The sender may have gone by the time it is looked at, with the last number in it.
        let _ = seen.wait_for(|n| *n == last).await;
        runner.await.expect("it ends with the events");
        assert_eq!(*seen.borrow(), last);
    }

    #[tokio::test]
    async fn commands_run_in_order_with_the_facts() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let out = dir.path().join("out");
        let script = format!(
            "echo \"$1 $VIPD_HOOK $VIPD_EVENT $VIPD_VIP $VIPD_STATE $VIPD_CLUSTER $VIPD_NODE\" >> {0}; cat >> {0}",
            out.display()
        );
        let hooks = vec![
            hook(dir.path(), "one", &script, &On::STATES),
            hook(dir.path(), "two", &script, &[On::Backup]),
        ];
        let events = vec![vip(VipState::Active), vip(VipState::Init), vip(VipState::Backup)];
        hear(hooks, events).await;
        let text = std::fs::read_to_string(out).expect("they ran");
        let told: Vec<&str> = text.lines().filter(|l| !l.starts_with('{')).collect();
        let wanted = [
            "argument one vip main active orders px1",
            "argument one vip main backup orders px1",
            "argument two vip main backup orders px1",
        ];
        assert_eq!(told, wanted);
        let json: Vec<serde_json::Value> = text
            .lines()
            .filter(|l| l.starts_with('{'))
            .map(|l| serde_json::from_str(l).expect("JSON"))
            .collect();
        assert_eq!(json.len(), 3);
        assert_eq!(json[0]["state"], "active");
        assert_eq!(json[0]["node"], "px1");
        assert_eq!(json[0]["message"], "main is active");
    }

    #[tokio::test]
    async fn a_command_that_hangs_or_fails_keeps_no_other_from_running() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let out = dir.path().join("out");
        let mut slow = hook(dir.path(), "slow", "sleep 1000 & sleep 1000", &[On::Active]);
        slow.timeout = Duration::from_millis(50);
        let failing = hook(dir.path(), "failing", "echo no >&2; exit 3", &[On::Active]);
        let mut absent = hook(dir.path(), "absent", "", &[On::Active]);
        absent.command = vec!["/nowhere/at-all".into()];
        let good = hook(dir.path(), "good", &format!("echo done > {}", out.display()), &[On::Active]);
        hear(vec![slow, failing, absent, good], vec![vip(VipState::Active)]).await;
        assert_eq!(std::fs::read_to_string(out).expect("it ran"), "done\n");
    }
}
