//! Asking before something that clients may notice.

use super::args::Consent;
use super::{Failure, client::Client, unexpected};
use crate::control::api::{Request, Response, ServerState, StatusDoc, VipState};
use crate::control::clean;
use std::io::{self, BufRead, IsTerminal, Write};

/// Asks unless told not to; `what` says what will happen, and is only worked
/// out when somebody is there to read it.
pub(super) fn ask(
    consent: Consent,
    command: &str,
    what: impl FnOnce() -> Result<String, Failure>,
) -> Result<(), Failure> {
    if consent.yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::Usage(format!(
            "`vipctl {command}` asks before it acts, and there is no terminal to ask on: add --yes"
        )));
    }
    question(&what()?, &mut io::stdin().lock(), &mut io::stderr().lock())
}

fn question(what: &str, answers: &mut impl BufRead, out: &mut impl Write) -> Result<(), Failure> {
    write!(out, "{}\nGo on? [y/N] ", clean(what)).and_then(|()| out.flush()).map_err(Failure::Output)?;
    let mut answer = String::new();
    answers.read_line(&mut answer).map_err(Failure::Output)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::Declined) }
}

/// The state of the daemon that is about to get an order.
pub(super) fn status(client: &Client) -> Result<StatusDoc, Failure> {
    let response = client.ask(&Request::Status {})?;
    let Response::Status { status } = response else { return Err(unexpected(response)) };
    Ok(*status)
}

/// What a switchover will do.
pub(super) fn of_switchover(doc: &StatusDoc, vip: Option<&str>, to: Option<&str>) -> String {
    let moving: Vec<String> = doc
        .vips
        .iter()
        .filter(|v| vip.map_or(v.state == VipState::Active, |name| v.name == name))
        .map(|v| format!("{} ({})", v.name, v.addresses.join(", ")))
        .collect();
    let moving = if moving.is_empty() { vip.unwrap_or("nothing").to_owned() } else { moving.join(" and ") };
    let taker = to.unwrap_or("the next node by preference");
    format!("This moves {moving} to {taker}.\n{SESSIONS}")
}

/// What `maintenance on` will do.
pub(super) fn of_maintenance(doc: &StatusDoc) -> String {
    let owned: Vec<&str> =
        doc.vips.iter().filter(|v| v.state == VipState::Active).map(|v| &*v.name).collect();
    let node = &doc.node;
    if owned.is_empty() {
        return format!("{node} owns no VIP now, and will take none until `vipctl maintenance off`.");
    }
    let owned = owned.join(", ");
    format!("{node} hands over {owned}, and takes no VIP until `vipctl maintenance off`.\n{SESSIONS}")
}

const SESSIONS: &str =
    "Connections that run through it are closed; clients that connect again reach the new owner.";

/// What `server POOL/SERVER maint` will do.
pub(super) fn of_maint(doc: &StatusDoc, pool: &str, server: &str) -> String {
    let servers = || doc.pools.iter().filter(|p| p.name == pool).flat_map(|p| &p.servers);
    let others = servers().filter(|s| s.name != server && s.state == ServerState::Up).count();
    let sessions = servers().find(|s| s.name == server).map_or(0, |s| s.sessions);
    format!(
        "{pool}/{server} gets no connections, and its {sessions} sessions are closed.\n\
         Other servers of {pool} that are up: {others}."
    )
}

/// What `release` will do.
pub(super) const OF_RELEASE: &str =
    "This removes from this host every floating address that an earlier vipd left.";

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(answer: &str) -> (bool, String) {
        let mut shown = Vec::new();
        let agreed = question("This moves main.", &mut answer.as_bytes(), &mut shown).is_ok();
        (agreed, String::from_utf8(shown).expect("text"))
    }

    #[test]
    fn only_a_yes_is_a_yes() {
        for yes in ["y\n", "Y\n", "yes\n", " y \n"] {
            assert!(answered(yes).0, "{yes:?}");
        }
        for no in ["", "\n", "n\n", "nyes\n", "what?\n"] {
            assert!(!answered(no).0, "{no:?}");
        }
        assert_eq!(answered("").1, "This moves main.\nGo on? [y/N] ");
    }

    #[test]
    fn what_will_happen_is_said_with_names() {
        let doc = crate::control::text::tests::troubled();
        let text = of_switchover(&doc, None, None);
        assert!(
            text.starts_with("This moves main (192.0.2.100/24) to the next node by preference."),
            "{text}"
        );
        let text = of_switchover(&doc, Some("main"), Some("px2"));
        assert!(text.starts_with("This moves main (192.0.2.100/24) to px2."), "{text}");
        let text = of_maintenance(&doc);
        assert!(text.starts_with("px1 hands over main, and takes no VIP"), "{text}");
        let text = of_maint(&doc, "primary", "db1");
        assert!(text.contains("its 3 sessions") && text.ends_with("that are up: 0."), "{text}");
        let text = of_maint(&doc, "replicas", "db3");
        assert!(text.contains("its 0 sessions") && text.ends_with("that are up: 1."), "{text}");
    }
}
