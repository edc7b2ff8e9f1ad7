//! What systemd is told (sd_notify(3)). Without systemd all of it does nothing.
//!
//! Telling can wait for systemd to read, so it belongs on the control plane's
//! runtime, never into the daemon's loop.

use super::api::{StatusDoc, VipState};
use super::call::Calls;
use super::table::clean;
use sd_notify::NotifyState;
use std::time::Duration;

/// How often the status line is refreshed when there is no watchdog.
const REFRESH: Duration = Duration::from_secs(10);

/// The daemon is up: addresses may come, listeners are bound.
pub fn ready() {
    tell(&[NotifyState::Ready]);
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

/// Feeds the watchdog and the status line for as long as the daemon's loop
/// answers: a loop that hangs starves the watchdog. Runs until dropped.
pub async fn keep_alive(calls: Calls) {
    let watchdog = sd_notify::watchdog_enabled();
    // Half of it, as sd_watchdog_enabled(3) recommends.
    let period = watchdog.map_or(REFRESH, |w| (w / 2).min(REFRESH));
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match calls.status().await {
            Ok(doc) => tell(&[NotifyState::Status(&summary(&doc)), NotifyState::Watchdog]),
            Err(error) => tracing::warn!(%error, "systemd's watchdog is not fed"),
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

/// The status in one line: `main active, second fault: eth1 has no carrier`.
fn summary(doc: &StatusDoc) -> String {
    let vips = doc.vips.iter().map(|vip| match vip.state {
        VipState::Init | VipState::Backup | VipState::Active => format!("{} {}", vip.name, vip.state),
        VipState::Fault => format!("{} fault: {}", vip.name, vip.why),
    });
    let all = vips.collect::<Vec<_>>().join(", ");
    let maintenance = if doc.maintenance { "in maintenance; " } else { "" };
    // A newline would start another variable.
    clean(&format!("{maintenance}{all}")).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::call;
    use crate::control::text::tests::troubled;
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};

    #[test]
    fn the_status_line_is_one_line() {
        let mut doc = troubled();
        assert_eq!(summary(&doc), "in maintenance; main active, second fault: eth1 has no carrier");
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
        let (calls, mut receiver) = call::channel();
        let answer_once = async {
            let Some(call::Call::Status { reply }) = receiver.recv().await else { panic!("no call") };
            reply.send(troubled()).expect("the caller waits");
            // The loop hangs from here on.
            tokio::time::sleep(Duration::from_secs(600)).await;
        };
        tokio::select! {
            () = keep_alive(calls) => {}
            () = answer_once => {}
        }
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
        let [ready, reloading, stopping, alive] = heard.as_slice() else { panic!("{heard:?}") };
        assert_eq!(ready, "READY=1\n");
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        assert_eq!(stopping, "STOPPING=1\n");
        assert!(
            alive.starts_with("STATUS=in maintenance; main") && alive.ends_with("WATCHDOG=1\n"),
            "{alive}"
        );
        Ok(())
    }
}
