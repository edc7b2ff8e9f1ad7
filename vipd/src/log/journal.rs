//! The journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): each line
//! of the log, which comes as JSON, becomes an entry with fields, so that
//! `journalctl VIPD_VIP=main` finds what is about a VIP.

use serde_json::{Map, Value};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// A longer value is cut: a datagram has no room for it.
const MAX_VALUE: usize = 32 << 10;

/// The journal as a place to write lines to.
#[derive(Debug)]
pub(super) struct Journal(UnixDatagram);

impl Journal {
    /// Connects to the journal.
    pub(super) fn open() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET)?;
        Ok(Self(socket))
    }

    /// Whether standard error is the journal: systemd says which file that is.
    pub(super) fn is_stderr() -> bool {
        let Ok(told) = std::env::var("JOURNAL_STREAM") else { return false };
        let stderr = std::fs::metadata("/proc/self/fd/2");
        stderr.is_ok_and(|m| told == format!("{}:{}", m.dev(), m.ino()))
    }
}

impl Write for Journal {
    /// Takes whole lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        for line in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            self.0.send(&entry(line))?;
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line as an entry.
fn entry(line: &[u8]) -> Vec<u8> {
    let mut entry = Vec::new();
    let Ok(mut fields) = serde_json::from_slice::<Map<String, Value>>(line) else {
        field(&mut entry, "MESSAGE", &String::from_utf8_lossy(line));
        field(&mut entry, "PRIORITY", "4");
        field(&mut entry, "SYSLOG_IDENTIFIER", "vipd");
        return entry;
    };
    let take = |fields: &mut Map<String, Value>, name: &str| {
        fields.remove(name).map(|v| text(&v)).unwrap_or_default()
    };
    let level = take(&mut fields, "level");
    // The journal stamps entries itself.
    fields.remove("timestamp");
    let mut message = take(&mut fields, "message");
    if message.is_empty() {
        // The access log's lines are fields only.
        let said: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
        message = said.join(" ");
    }
    field(&mut entry, "MESSAGE", &message);
    // syslog(3)'s numbers.
    let priority = match level.as_str() {
        "ERROR" => "3",
        "WARN" => "4",
        "INFO" => "6",
        _ => "7",
    };
    field(&mut entry, "PRIORITY", priority);
    field(&mut entry, "SYSLOG_IDENTIFIER", "vipd");
    for (name, value) in &fields {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let name: String = name.chars().take(50).map(plain).collect();
        field(&mut entry, &format!("VIPD_{name}"), &text(value));
    }
    entry
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    let end = value.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_VALUE).last().unwrap_or(0);
    let value = if value.len() > MAX_VALUE { value.get(..end).unwrap_or_default() } else { value };
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        // A value of several lines has its length before it.
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_fields() {
        let line = br#"{"timestamp":"2026-11-21T09:14:15Z","level":"WARN","kind":"Vip","vip":"main","message":"main: gone","target":"vipd::shell","n":5}"#;
        let entry = String::from_utf8(entry(line)).expect("text");
        let fields: Vec<&str> = entry.lines().collect();
        let wanted = [
            "MESSAGE=main: gone",
            "PRIORITY=4",
            "SYSLOG_IDENTIFIER=vipd",
            "VIPD_KIND=Vip",
            "VIPD_N=5",
            "VIPD_TARGET=vipd::shell",
            "VIPD_VIP=main",
        ];
        assert_eq!(fields, wanted);
    }

    #[test]
    fn several_lines_have_their_length_before_them() {
        let told = entry(br#"{"level":"ERROR","message":"one\ntwo"}"#);
        assert!(told.starts_with(b"MESSAGE\n\x07\0\0\0\0\0\0\0one\ntwo\nPRIORITY=3\n"), "{told:?}");
        assert!(entry(b"no JSON").starts_with(b"MESSAGE=no JSON\nPRIORITY=4\n"));
    }

    #[test]
    fn the_access_log_has_a_message_too() {
        let told = entry(br#"{"level":"INFO","cause":"client-closed","id":17,"target":"access"}"#);
        assert!(told.starts_with(b"MESSAGE=cause=client-closed id=17 target=access\n"), "{told:?}");
    }
}
