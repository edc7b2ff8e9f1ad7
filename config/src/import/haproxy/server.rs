//! `server`, `server-template` and `default-server`.

use super::super::ledger::{Ledger, LineId};
use super::words::time;

/// What `server` and `default-server` may say beside the address.
#[derive(Clone, Debug, Default)]
pub(super) struct Params {
    pub(super) check: bool,
    pub(super) inter: Option<u64>,
    pub(super) fast: Option<u64>,
    pub(super) down: Option<u64>,
    pub(super) rise: Option<u64>,
    pub(super) fall: Option<u64>,
    pub(super) port: Option<u64>,
    pub(super) weight: Option<u64>,
    pub(super) backup: bool,
    pub(super) maxconn: Option<u64>,
    pub(super) maxqueue: Option<u64>,
    pub(super) slowstart: Option<u64>,
    pub(super) proxy: Option<&'static str>,
    pub(super) close_on_down: bool,
    pub(super) source: Option<String>,
    pub(super) tls: Tls,
}

/// What is said of TLS.
#[derive(Clone, Debug, Default)]
pub(super) struct Tls {
    /// Connections of clients are wrapped in TLS, which vipd does not do.
    pub(super) relay: bool,
    /// The check speaks it.
    pub(super) check: bool,
    pub(super) no_verify: bool,
    pub(super) ca_file: Option<String>,
    pub(super) name: Option<String>,
}

/// A server of a backend.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) line: LineId,
    pub(super) name: String,
    /// As the new file writes it; without a port if `port` is none.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// `resolve` of the new file.
    pub(super) resolve: Option<&'static str>,
    pub(super) params: Params,
}

/// Reads parameters after the address, on top of those of `default-server`.
pub(super) fn params(words: &[String], params: &mut Params, line: LineId, ledger: &mut Ledger) {
    let mut words = words.iter().map(String::as_str);
    let mut lost: Vec<String> = Vec::new();
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default();
        match word {
            "check" => params.check = true,
            "no-check" => params.check = false,
            "inter" => params.inter = time(value()),
            "fastinter" => params.fast = time(value()),
            "downinter" => params.down = time(value()),
            "rise" => params.rise = value().parse().ok(),
            "fall" => params.fall = value().parse().ok(),
            "port" => params.port = value().parse().ok(),
            "weight" => params.weight = value().parse().ok(),
            "backup" => params.backup = true,
            "no-backup" => params.backup = false,
            "maxconn" => params.maxconn = value().parse().ok().filter(|n| *n > 0),
            "maxqueue" => params.maxqueue = value().parse().ok().filter(|n| *n > 0),
            "slowstart" => params.slowstart = time(value()),
            "send-proxy" => params.proxy = Some("v1"),
            "send-proxy-v2" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => params.proxy = Some("v2"),
            "check-send-proxy" => lost.push("check-send-proxy: vipd's checks speak without a PROXY header; let the server take them without one, or give the check another port".into()),
            "on-marked-down" => match value() {
                "shutdown-sessions" => params.close_on_down = true,
                other => lost.push(format!("on-marked-down {other} is not known")),
            },
            "on-marked-up" => {
                value();
                lost.push("on-marked-up: a server's sessions are not cut because another came back; max-session-age moves them".into());
            }
            "source" => params.source = Some(value().to_owned()),
            "ssl" => params.tls.relay = true,
            "check-ssl" => params.tls.check = true,
            "verify" => params.tls.no_verify = value() == "none",
            "ca-file" => params.tls.ca_file = Some(value().to_owned()),
            "check-sni" | "verifyhost" => params.tls.name = Some(value().to_owned()),
            "sni" | "alpn" | "crt" | "ciphers" | "ciphersuites" | "ssl-min-ver" | "ssl-max-ver" => {
                let value = value();
                lost.push(format!("{word} {value}: vipd relays TLS as it is"));
            }
            // Names are looked up by the system's resolver again and again; these have no counterpart and need none.
            "resolvers" | "init-addr" | "resolve-prefer" | "resolve-opts" | "id" | "observe" | "on-error" | "error-limit" | "pool-max-conn" | "pool-purge-delay" | "pool-low-conn" | "tcp-ut" => {
                value();
            }
            "no-ssl" | "no-check-ssl" | "no-send-proxy" | "no-send-proxy-v2" | "enabled" | "tfo" | "stick" => {}
            "disabled" => lost.push("disabled: `vipctl server POOL/SERVER maint` takes a server out; it is in here".into()),
            "non-stick" => lost.push("non-stick: vipd keeps no table of clients".into()),
            "addr" | "agent-check" | "agent-port" | "agent-inter" | "agent-addr" | "agent-send" | "cookie" | "track" | "namespace" | "redir" | "proto" | "socks4" | "usesrc" | "interface" => {
                let value = if word == "agent-check" { "" } else { value() };
                lost.push(format!("{} has no counterpart", format!("{word} {value}").trim()));
            }
            other => lost.push(format!("{other} is not known to this import")),
        }
    }
    ledger.carry(line);
    for what in lost {
        ledger.note(line, what);
    }
}

/// Splits HAProxy's `address[:port]` into the host as the new file writes it and the port.
///
/// # Errors
/// What it is instead.
pub(super) fn address(text: &str) -> Result<(String, Option<u16>), String> {
    let text = ["ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@"]
        .iter()
        .find_map(|p| text.strip_prefix(p))
        .unwrap_or(text);
    if text.contains('$') {
        return Err("it needs an environment variable: write the address itself".into());
    }
    if text.starts_with('/') || text.contains('@') {
        return Err("it is no TCP address".into());
    }
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':').unwrap_or_default()),
        // In an IPv6 address without brackets HAProxy takes the last colon for the port's.
        None => text.rsplit_once(':').unwrap_or((text, "")),
    };
    if port.starts_with(['+', '-']) {
        return Err("its port is counted from the client's: write the port itself".into());
    }
    let port = match port {
        "" => None,
        port => Some(port.parse::<u16>().ok().filter(|p| *p > 0).ok_or("its port is no port")?),
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Ok((host, port))
}

/// `server NAME ADDRESS ...`; nothing if it has no place in the new file.
pub(super) fn server(
    words: &[String],
    defaults: &Params,
    line: LineId,
    ledger: &mut Ledger,
) -> Option<Server> {
    let (Some(name), Some(at)) = (words.get(1), words.get(2)) else {
        ledger.lose(line, "it has no address");
        return None;
    };
    let (host, port) = match address(at) {
        Ok(split) => split,
        Err(why) => {
            ledger.lose(line, why);
            return None;
        }
    };
    let mut own = defaults.clone();
    params(words.get(3..).unwrap_or_default(), &mut own, line, ledger);
    Some(Server { line, name: name.clone(), host, port, resolve: None, params: own })
}

/// `server-template PREFIX NUMBER NAME[:PORT] ...`: one entry that stands for many.
pub(super) fn template(
    words: &[String],
    defaults: &Params,
    line: LineId,
    ledger: &mut Ledger,
) -> Option<Server> {
    let mut server = {
        let shifted: Vec<String> =
            words.iter().enumerate().filter(|(i, _)| *i != 2).map(|(_, w)| w.clone()).collect();
        server(&shifted, defaults, line, ledger)?
    };
    let srv = server.host.starts_with('_');
    server.resolve = Some(if srv { "srv" } else { "all" });
    let number = words.get(2).map_or("", String::as_str);
    ledger.remark(line, format!("every address of the name becomes a server, not only {number}"));
    Some(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let good = |host: &str, port| Ok((host.to_owned(), port));
        assert_eq!(address("10.0.0.1:3306"), good("10.0.0.1", Some(3306)));
        assert_eq!(address("[fd77::1]:3306"), good("[fd77::1]", Some(3306)));
        assert_eq!(address("fd77::1:3306"), good("[fd77::1]", Some(3306)));
        assert_eq!(address("db1.internal"), good("db1.internal", None));
        assert_eq!(address("ipv4@db1:1"), good("db1", Some(1)));
        for bad in ["unix@/run/x", "/run/x", "${DB}:3306", "10.0.0.1:+100", "db:0", "db:99999"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
