//! What systemd is told (sd_notify(3)). Without systemd all of it does nothing.
//!
//! Telling can wait for systemd to read, so it belongs on the control plane's
//! runtime, never into the daemon's loop.

use super::api::{ServerState, StatusDoc, VipState};
use super::call::{ANSWER_TIMEOUT, Calls};
use super::table::clean;
use crate::kernel::KernelHandle;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::time::Instant;

/// How often the status line is refreshed when there is no watchdog.
const REFRESH: Duration = Duration::from_secs(10);

/// How often the first round of checks is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// A server that does not even answer with an error, or whose name is not
/// found, keeps nobody waiting for longer than this: more than what a pool's
/// first choice of a primary takes at most (`FIRST_TURN` and `FIRST_ANSWER` in
/// `vipd/core/src/health/pool/primary.rs`).
const FIRST_ROUND: Duration = Duration::from_secs(5);
/// What a stop may take beyond the time that is asked for: the last hooks, and the end of the process.
const SPARE: Duration = Duration::from_secs(10);
/// systemd grants 71 minutes at a time, and the time of a stop can be hours.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// The daemon is up: addresses may come, listeners are bound.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Waits until every server that is checked has been checked once: whoever is
/// started after vipd finds pools that know their servers.
pub async fn first_round(calls: &Calls) {
    let look = async {
        while !calls.status().await.is_ok_and(|doc| is_judged(&doc)) {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(FIRST_ROUND, look).await.is_err() {
        tracing::info!("not every server has been checked by now; their first checks go on");
    }
}

fn is_judged(doc: &StatusDoc) -> bool {
    let mut servers = doc.pools.iter().flat_map(|pool| &pool.servers);
    servers.all(|server| server.check.is_none_or(|check| check.total > 0))
}

/// The configuration is being read again; [`ready`] follows when it is done.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot read the clock for systemd"),
    }
}

/// The daemon hands over, releases and drains.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Asks for so much time to stop, from now on: systemd kills what takes longer
/// than its unit's `TimeoutStopSec`. Runs until that time is over.
pub async fn take_time(needed: Duration) {
    let end = Instant::now() + needed + SPARE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        tell(&[NotifyState::ExtendTimeoutUsec(u32::try_from(left.as_micros()).unwrap_or(u32::MAX))]);
        tokio::time::sleep(ASK_AGAIN.min(left)).await;
    }
}

/// Feeds the watchdog, where that is all there is to say.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Feeds the watchdog and the status line for as long as the daemon's loop and
/// the owner of the addresses answer: if either hangs, the watchdog starves.
/// Runs until dropped.
pub async fn keep_alive(calls: Calls, kernel: KernelHandle) {
    let watchdog = sd_notify::watchdog_enabled();
    // Half of it, as sd_watchdog_enabled(3) recommends.
    let period = watchdog.map_or(REFRESH, |w| (w / 2).min(REFRESH));
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let doc = match calls.status().await {
            Ok(doc) => doc,
            Err(error) => {
                if watchdog.is_some() {
                    tracing::warn!(%error, "systemd's watchdog is not fed");
                }
                continue;
            }
        };
        // Whoever waits for the kernel's lock on addresses for this long is no use as an owner.
        let alive = tokio::time::timeout(ANSWER_TIMEOUT, kernel.answers()).await;
        if alive == Ok(true) {
            tell(&[NotifyState::Status(&summary(&doc)), NotifyState::Watchdog]);
        } else if watchdog.is_some() {
            tracing::warn!("systemd's watchdog is not fed: the owner of the addresses does not answer");
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

/// The status in one line: `main active, second fault: eth1 has no carrier; 1 of 5 servers down`.
fn summary(doc: &StatusDoc) -> String {
    let vips = doc.vips.iter().map(|vip| match vip.state {
        VipState::Init | VipState::Backup | VipState::Active => format!("{} {}", vip.name, vip.state),
        VipState::Fault => format!("{} fault: {}", vip.name, vip.why),
    });
    let all = vips.collect::<Vec<_>>().join(", ");
    let maintenance = if doc.maintenance { "in maintenance; " } else { "" };
    let servers = || doc.pools.iter().flat_map(|p| &p.servers);
    let down = servers().filter(|s| matches!(s.state, ServerState::Down | ServerState::Unreachable)).count();
    let down =
        if down > 0 { format!("; {down} of {} servers down", servers().count()) } else { String::new() };
    let refused = if doc.config_errors.is_empty() { "" } else { "; the newest configuration was refused" };
    // A newline would start another variable.
    clean(&format!("{maintenance}{all}{down}{refused}")).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::CheckDoc;
    use crate::control::call;
    use crate::control::text::tests::troubled;
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};

    #[test]
    fn the_status_line_is_one_line() {
        let mut doc = troubled();
        assert_eq!(
            summary(&doc),
            "in maintenance; main active, second fault: eth1 has no carrier; 1 of 5 servers down; \
             the newest configuration was refused"
        );
        doc.vips[1].why = "x\nREADY=1".into();
        assert!(!summary(&doc).contains('\n'));
    }

    /// Environment variables belong to a whole process, so this one is a child of the test below.
    #[tokio::test(start_paused = true)]
    #[ignore = "run by systemd_hears_all_of_it"]
    async fn speaker() {
        ready();
        reloading();
        stopping();
        // It is over by itself, after two messages; and more than one message can ask for.
        take_time(Duration::from_secs(55)).await;
        let day = Duration::from_secs(86_400);
        assert!(tokio::time::timeout(ASK_AGAIN * 3 / 2, take_time(day)).await.is_err(), "the day is over");
        let (calls, mut receiver) = call::channel();
        let kernel = KernelHandle::detached();
        let loops = async {
            // The kernel's owner hangs after its first sign of life, the loop after its third answer.
            for turn in 0..3 {
                let Some(call::Call::Status { reply }) = receiver.recv().await else { panic!("no call") };
                reply.send(troubled()).expect("the caller waits");
                if turn == 0 {
                    kernel.live().await;
                }
            }
            tokio::time::sleep(Duration::from_secs(600)).await;
        };
        tokio::select! {
            () = keep_alive(calls, kernel.clone()) => {}
            () = loops => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_round_of_checks_is_waited_for_and_not_for_ever() {
        let (calls, mut receiver) = call::channel();
        let start = Instant::now();
        let mut answers = 0;
        let daemon = async {
            while let Some(call::Call::Status { reply }) = receiver.recv().await {
                let mut doc = troubled();
                answers += 1;
                let check = CheckDoc { total: u64::from(answers > 3), ..CheckDoc::default() };
                doc.pools[0].servers[0].check = Some(check);
                reply.send(doc).expect("the caller waits");
            }
        };
        tokio::select! {
            () = first_round(&calls) => {}
            () = daemon => {}
        }
        assert_eq!(answers, 4, "the fourth look found it checked");
        assert_eq!(start.elapsed(), 3 * LOOK);

        first_round(&calls).await;
        assert_eq!(start.elapsed(), 3 * LOOK + FIRST_ROUND, "nobody answers");
    }

    #[test]
    fn systemd_hears_all_of_it() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["--exact", "control::notify::tests::speaker", "--ignored"])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "4000000")
            .env_remove("WATCHDOG_PID")
            .stdout(Stdio::null())
            .status()?;
        assert!(child.success());
        systemd.set_nonblocking(true)?;
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = systemd.recv(&mut buffer) {
            heard.push(String::from_utf8(buffer[..length].to_vec())?);
        }
        let [ready, reloading, stopping, time @ .., alive] = heard.as_slice() else { panic!("{heard:?}") };
        assert_eq!(ready, "READY=1\n");
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        assert_eq!(stopping, "STOPPING=1\n");
        let most = format!("EXTEND_TIMEOUT_USEC={}\n", u32::MAX);
        assert_eq!(time, ["EXTEND_TIMEOUT_USEC=65000000\n", "EXTEND_TIMEOUT_USEC=5000000\n", &most, &most]);
        assert!(
            alive.starts_with("STATUS=in maintenance; main") && alive.ends_with("WATCHDOG=1\n"),
            "{alive}"
        );
        Ok(())
    }
}
