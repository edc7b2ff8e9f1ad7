//! Sessions as a table.

use super::{bytes, millis};
use crate::control::api::{SessionDoc, SessionState, SessionsDoc};
use crate::control::table::{self, Cell, Tone};
use std::fmt::Write;

/// A list of sessions, and how many are not in it.
#[must_use]
pub fn sessions(doc: &SessionsDoc, colour: bool) -> String {
    let SessionsDoc { sessions, left_out } = doc;
    if sessions.is_empty() {
        return "No sessions.".to_owned();
    }
    let heads = ["ID", "LISTENER", "CLIENT", "SERVER", "STATE", "AGE", "IDLE", "IN", "OUT"];
    let mut out = String::new();
    table::write(&mut out, &heads, sessions.iter().map(row).collect(), colour);
    if *left_out > 0 {
        let listed = sessions.len();
        let _ = writeln!(
            out,
            "{left_out} more are not shown: a list has {listed} at most. Name a listener, a pool or a server."
        );
    }
    out
}

fn row(session: &SessionDoc) -> Vec<Cell> {
    let tone = match session.state {
        SessionState::Header | SessionState::Queued => Tone::Odd,
        SessionState::Connecting | SessionState::Relaying => Tone::Plain,
    };
    vec![
        Cell::plain(session.id.to_string()),
        Cell::plain(&session.listener),
        Cell::plain(&session.client),
        Cell::plain(server(session).unwrap_or_else(|| "-".to_owned())),
        Cell::new(session.state.to_string(), tone),
        Cell::plain(millis(session.age_ms)),
        Cell::plain(millis(session.idle_ms)),
        Cell::plain(bytes(session.bytes_in)),
        Cell::plain(bytes(session.bytes_out)),
    ]
}

fn server(session: &SessionDoc) -> Option<String> {
    Some(format!("{}/{}", session.pool.as_ref()?, session.server.as_ref()?))
}

/// A session in a sentence, without its end.
#[must_use]
pub fn session(session: &SessionDoc) -> String {
    let SessionDoc { id, client, listener, state, .. } = session;
    let on = server(session).map(|s| format!(" on {s}")).unwrap_or_default();
    let (age, idle) = (millis(session.age_ms), millis(session.idle_ms));
    format!("session {id} of {client} by {listener}{on}: {state}, {age} old, idle for {idle}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doc() -> SessionsDoc {
        let relaying = SessionDoc {
            id: 17,
            listener: "write".into(),
            client: "192.0.2.7:40000".into(),
            pool: Some("primary".into()),
            server: Some("db1".into()),
            state: SessionState::Relaying,
            age_ms: 3_700_000,
            idle_ms: 250,
            bytes_in: 1_200,
            bytes_out: 3_400_000,
        };
        let queued = SessionDoc {
            id: 18,
            pool: None,
            server: None,
            state: SessionState::Queued,
            bytes_in: 0,
            bytes_out: 0,
            ..relaying.clone()
        };
        SessionsDoc { sessions: vec![relaying, queued], left_out: 0 }
    }

    #[test]
    fn a_session_is_a_line() {
        let text = sessions(&doc(), false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "ID  LISTENER  CLIENT           SERVER       STATE     AGE  IDLE   IN      OUT",
                "17  write     192.0.2.7:40000  primary/db1  relaying  1h   250ms  1.2 kB  3.4 MB",
                "18  write     192.0.2.7:40000  -            queued    1h   250ms  0 B     0 B",
            ]
        );
        assert_eq!(sessions(&SessionsDoc::default(), false), "No sessions.");
        let one = session(&doc().sessions[0]);
        assert_eq!(
            one,
            "session 17 of 192.0.2.7:40000 by write on primary/db1: relaying, 1h old, idle for 250ms"
        );
    }

    #[test]
    fn a_list_says_what_is_not_in_it() {
        let text = sessions(&SessionsDoc { left_out: 5, ..doc() }, false);
        assert!(
            text.ends_with(
                "5 more are not shown: a list has 2 at most. Name a listener, a pool or a server.\n"
            )
        );
    }
}
