//! How HAProxy checks servers, as `[pool.check]`.

use super::super::draft::{Table, list};
use super::super::ledger::{Ledger, LineId};
use super::server::{Server, Tls};

/// What a backend says about checks.
#[derive(Clone, Debug, Default)]
pub(super) struct Checks {
    kind: Kind,
    /// The lines that say it; carried when a server is checked.
    lines: Vec<LineId>,
    pub(super) timeout: Option<u64>,
    tcp: Tcp,
    http: Http,
    command: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Kind {
    #[default]
    Connect,
    Tcp,
    Http,
    Mysql,
    Postgres,
    Redis,
    Exec,
}

#[derive(Clone, Debug, Default)]
struct Tcp {
    user: Option<String>,
    send: Vec<(String, LineId)>,
    expect: Vec<(String, LineId)>,
    port: Option<u64>,
    tls: bool,
}

#[derive(Clone, Debug, Default)]
struct Http {
    method: Option<String>,
    path: Option<String>,
    host: Option<String>,
    status: Option<String>,
    expect: Option<String>,
}

impl Checks {
    /// `option X`, if it is about checks.
    pub(super) fn option(&mut self, words: &[String], line: LineId, ledger: &mut Ledger) -> bool {
        let word = |n: usize| words.get(n).map(String::as_str);
        let kind = match word(1) {
            Some("tcp-check") => Kind::Tcp,
            Some("httpchk") => Kind::Http,
            Some("mysql-check") => Kind::Mysql,
            Some("pgsql-check") => Kind::Postgres,
            Some("redis-check") => Kind::Redis,
            Some("external-check") => Kind::Exec,
            Some(other @ ("ssl-hello-chk" | "smtpchk" | "ldap-check" | "spop-check")) => {
                self.kind = Kind::Connect;
                ledger.lose(line, format!("{other} has no counterpart: the check only connects"));
                return true;
            }
            Some(_) | None => return false,
        };
        self.kind = kind;
        self.lines.push(line);
        if let Kind::Mysql | Kind::Postgres = kind {
            self.tcp.user = (word(2) == Some("user")).then(|| word(3).unwrap_or_default().to_owned());
        }
        if kind == Kind::Http {
            self.httpchk(&words[2..], line, ledger);
        }
        true
    }

    /// `option httpchk [METHOD] URI [VERSION and fields]`.
    fn httpchk(&mut self, words: &[String], line: LineId, ledger: &mut Ledger) {
        let (method, rest) = match words {
            [] => return,
            [uri] => (None, [uri.clone()].to_vec()),
            [method, rest @ ..] => (Some(method.clone()), rest.to_vec()),
        };
        self.http.method = method;
        self.http.path = rest.first().cloned();
        let Some(version) = rest.get(1) else { return };
        for field in version.split("\r\n").skip(1).filter(|f| !f.is_empty()) {
            match field.split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("host") => {
                    self.http.host = Some(value.trim().to_owned());
                }
                Some((name, _)) => ledger.note(line, format!("the field {name} is not sent by vipd's check")),
                None => {}
            }
        }
    }

    /// `tcp-check ...`.
    pub(super) fn tcp_check(&mut self, words: &[String], line: LineId, ledger: &mut Ledger) {
        let word = |n: usize| words.get(n).map_or("", String::as_str);
        match (word(1), word(2)) {
            ("connect", _) => {
                let mut rest = words.iter().skip(2).map(String::as_str);
                while let Some(option) = rest.next() {
                    match option {
                        "port" => self.tcp.port = rest.next().and_then(|p| p.parse().ok()),
                        "ssl" => self.tcp.tls = true,
                        "default" | "linger" => {}
                        other => ledger.note(line, format!("{other} has no counterpart")),
                    }
                }
                self.lines.push(line);
            }
            ("send", text) => self.tcp.send.push((text.to_owned(), line)),
            ("expect", "string") => self.tcp.expect.push((word(3).to_owned(), line)),
            ("expect", kind) => {
                ledger.lose(line, format!("vipd looks for a text as it stands, not for {kind}; kind = \"exec\" runs a command that can"));
            }
            ("comment", _) => ledger.carry(line),
            (what, _) => ledger.lose(
                line,
                format!("tcp-check {what} has no counterpart; kind = \"exec\" runs a command that can"),
            ),
        }
    }

    /// `http-check ...`.
    pub(super) fn http_check(&mut self, words: &[String], line: LineId, ledger: &mut Ledger) {
        let word = |n: usize| words.get(n).map_or("", String::as_str);
        let mut rest = words.iter().skip(2).map(String::as_str);
        match word(1) {
            "send" => {
                while let Some(key) = rest.next() {
                    match key {
                        "meth" => self.http.method = rest.next().map(str::to_owned),
                        "uri" => self.http.path = rest.next().map(str::to_owned),
                        "ver" => {
                            rest.next();
                        }
                        "hdr" => match (rest.next(), rest.next()) {
                            (Some(name), value) if name.eq_ignore_ascii_case("host") => {
                                self.http.host = value.map(str::to_owned);
                            }
                            (name, _) => ledger.note(
                                line,
                                format!("the field {} is not sent by vipd's check", name.unwrap_or_default()),
                            ),
                        },
                        other => ledger.note(line, format!("{other} has no counterpart")),
                    }
                }
                self.lines.push(line);
            }
            "expect" => match rest.next().unwrap_or_default() {
                "status" => match codes(rest.next().unwrap_or_default()) {
                    Some(codes) => {
                        self.http.status = Some(codes);
                        self.lines.push(line);
                    }
                    None => ledger.lose(line, "these are no status codes"),
                },
                "string" => {
                    self.http.expect = rest.next().map(str::to_owned);
                    self.lines.push(line);
                }
                "rstatus" => match classes(rest.next().unwrap_or_default()) {
                    Some(codes) => {
                        self.http.status = Some(codes);
                        self.lines.push(line);
                    }
                    None => ledger.lose(
                        line,
                        "vipd takes codes and ranges, no regular expression: status = [200, \"300-399\"]",
                    ),
                },
                other => ledger.lose(line, format!("expect {other} has no counterpart")),
            },
            "connect" => {
                let mut rest = rest;
                while let Some(option) = rest.next() {
                    match option {
                        "port" => self.tcp.port = rest.next().and_then(|p| p.parse().ok()),
                        "ssl" => self.tcp.tls = true,
                        "default" | "linger" => {}
                        other => ledger.note(line, format!("{other} has no counterpart")),
                    }
                }
                self.lines.push(line);
            }
            "comment" => ledger.carry(line),
            what => ledger.lose(line, format!("http-check {what} has no counterpart")),
        }
    }

    /// `external-check ...`.
    pub(super) fn external(&mut self, words: &[String], line: LineId, ledger: &mut Ledger) {
        let command = words.get(2).filter(|_| words.get(1).is_some_and(|w| w == "command"));
        match command {
            Some(command) if command.starts_with('/') => {
                self.command = Some(command.clone());
                self.lines.push(line);
                ledger.note(line, "it finds the server in VIPD_ADDRESS and VIPD_PORT, not in its arguments, and runs as vipd's own user");
            }
            Some(_) => ledger.lose(line, "vipd runs a program by its absolute path"),
            None => ledger.lose(line, "a check of vipd has a PATH of its own"),
        }
    }

    /// The table, if any server is checked.
    pub(super) fn table(&self, servers: &[Server], ledger: &mut Ledger) -> Option<Table> {
        let Some(first) = servers.iter().find(|s| s.params.check) else {
            for line in self.all_lines() {
                ledger.lose(line, "no server of it has `check`");
            }
            return None;
        };
        for server in servers.iter().filter(|s| !s.params.check) {
            ledger.note(server.line, "this server had no `check`; vipd checks all servers of a pool");
        }
        for line in &self.lines {
            ledger.carry(*line);
        }
        let mut table = Table::new("[pool.check]", vec![]);
        self.kind(&mut table, &first.params.tls, ledger);
        self.times(&mut table, first, servers, ledger);
        Some(table)
    }

    fn all_lines(&self) -> Vec<LineId> {
        let said = self.tcp.send.iter().chain(&self.tcp.expect).map(|(_, line)| *line);
        self.lines.iter().copied().chain(said).collect()
    }

    fn kind(&self, table: &mut Table, tls: &Tls, ledger: &mut Ledger) {
        match self.kind {
            Kind::Connect => table.text("kind", "tcp"),
            Kind::Tcp => {
                if self.redis_role(table, ledger) {
                    return;
                }
                table.text("kind", "tcp");
                self.dialogue(table, ledger);
            }
            Kind::Http => {
                table.text("kind", "http");
                // HAProxy asks with OPTIONS when nothing is said.
                table.text("method", self.http.method.as_deref().unwrap_or("OPTIONS"));
                table.text("path", self.http.path.as_deref().unwrap_or("/"));
                if let Some(host) = &self.http.host {
                    table.text("host", host);
                }
                if let Some(status) = &self.http.status {
                    table.key("status", status.clone());
                }
                if let Some(expect) = &self.http.expect {
                    table.text("expect", expect);
                }
                self.tls(table, tls);
            }
            Kind::Mysql => {
                self.login(table, "mysql");
                table.advise("vipd logs in completely and can tell the role and the lag: role = \"primary\" or role = \"replica\" with max-lag = \"10s\" here keeps writes on the primary and readers off a replica that is behind (GRANT REPLICATION CLIENT, or REPLICA MONITOR in MariaDB; `vipctl doctor` says what is missing). With a password: password-file = \"/etc/vipd/mysql.password\".");
            }
            Kind::Postgres => {
                self.login(table, "postgres");
                table.advise("vipd logs in completely and can tell the role and the lag: role = \"primary\" or role = \"replica\". With a password: password-file = \"/etc/vipd/postgres.password\".");
            }
            Kind::Redis => {
                table.text("kind", "redis");
                table.advise("vipd can tell the role: role = \"primary\". With a password: password-file = \"/etc/vipd/redis.password\".");
            }
            Kind::Exec => match &self.command {
                Some(command) => {
                    table.text("kind", "exec");
                    table.key("command", list([command.as_str()]));
                }
                None => table.text("kind", "tcp"),
            },
        }
    }

    fn login(&self, table: &mut Table, kind: &str) {
        table.text("kind", kind);
        match &self.tcp.user {
            Some(user) if !user.is_empty() => table.text("user", user),
            Some(_) | None => {
                table.text("user", "vipd");
                table.advise("The old check did not log in, so a server could count its connections as faults (max_connect_errors). Create this user.");
            }
        }
    }

    /// The usual dialogue that asks Redis for its role.
    fn redis_role(&self, table: &mut Table, ledger: &mut Ledger) -> bool {
        let expected = self.tcp.expect.iter().find_map(|(text, _)| match text.as_str() {
            "role:master" => Some("primary"),
            "role:slave" | "role:replica" => Some("replica"),
            _ => None,
        });
        let Some(role) = expected else { return false };
        table.text("kind", "redis");
        let password = self.tcp.send.iter().find(|(text, _)| text.to_ascii_lowercase().starts_with("auth "));
        if let Some((_, line)) = password {
            table.text("password-file", "/etc/vipd/redis.password");
            ledger.note(*line, "put the password into /etc/vipd/redis.password, readable by vipd only");
        }
        table.text("role", role);
        for line in self.all_lines() {
            ledger.carry(line);
        }
        true
    }

    /// One thing said, one expected.
    fn dialogue(&self, table: &mut Table, ledger: &mut Ledger) {
        for (key, said) in [("send", &self.tcp.send), ("expect", &self.tcp.expect)] {
            let mut said = said.iter();
            if let Some((text, line)) = said.next().filter(|(text, _)| !text.is_empty()) {
                table.text(key, text);
                ledger.carry(*line);
            }
            for (_, line) in said {
                ledger.lose(*line, format!("a check of kind \"tcp\" has one {key}; kind = \"exec\" runs a command that can do more"));
            }
        }
    }

    fn tls(&self, table: &mut Table, tls: &Tls) {
        if !(tls.check || self.tcp.tls || tls.relay) {
            return;
        }
        table.yes("tls");
        if tls.no_verify {
            table.key("tls-verify", "false");
        } else if let Some(file) = tls.ca_file.as_ref().filter(|f| f.starts_with('/')) {
            table.text("tls-ca-file", file);
        }
        if let Some(name) = &tls.name {
            table.text("tls-name", name);
        }
    }

    fn times(&self, table: &mut Table, first: &Server, servers: &[Server], ledger: &mut Ledger) {
        let params = &first.params;
        let mine = |p: &super::server::Params| (p.inter, p.fast, p.down, p.rise, p.fall, p.port);
        for server in servers.iter().filter(|s| s.params.check && mine(&s.params) != mine(params)) {
            ledger.note(server.line, format!("a pool has one check: that of {} counts", first.name));
        }
        if let Some(port) = params.port.or(self.tcp.port).filter(|p| (1..=65_535).contains(p)) {
            table.number("port", port);
        }
        // HAProxy's default; vipd's own is 1 s.
        let inter = params.inter.unwrap_or(2000).clamp(10, 3_600_000);
        table.duration("interval", inter);
        for (key, value) in [("fast-interval", params.fast), ("down-interval", params.down)] {
            if let Some(ms) = value {
                table.duration(key, ms.clamp(10, 3_600_000));
            }
        }
        if let Some(timeout) = self.timeout {
            if timeout > inter {
                shorten(table, timeout, inter);
            } else {
                table.duration("timeout", timeout.max(1));
            }
        }
        for (key, value) in [("rise", params.rise), ("fall", params.fall)] {
            if let Some(n) = value.filter(|n| (1..=1000).contains(n)) {
                table.number(key, n);
            }
        }
    }
}

/// A check that may take longer than the time to the next finds faults late.
fn shorten(table: &mut Table, timeout: u64, inter: u64) {
    table.duration("timeout", inter);
    table.advise(format!("The old time-out of checks was {timeout} ms, longer than their interval: a check ends before the next."));
}

/// `200`, `200-299` or a list of these, as TOML.
fn codes(text: &str) -> Option<String> {
    let one = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let code = |t: &str| t.parse::<u16>().ok().filter(|c| (100..=599).contains(c));
        let (first, last) = (code(first)?, code(last)?);
        Some(if first == last { first.to_string() } else { format!("\"{first}-{last}\"") })
    };
    let parts: Option<Vec<String>> = text.split(',').map(|p| one(p.trim())).collect();
    parts
        .filter(|p| !p.is_empty())
        .map(|p| if p.len() == 1 { p.concat() } else { format!("[{}]", p.join(", ")) })
}

/// Regular expressions that name whole classes of codes, which are what people write.
fn classes(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let plain = text.trim_start_matches('^').trim_end_matches('$');
    let any = ["[0-9][0-9]", "[0-9]{2}", "\\d\\d", "\\d{2}", "..", ""];
    let class = |body: &str| any.iter().any(|a| body.ends_with(a) && body.len() >= a.len());
    let heads = plain.trim_start_matches('(').split(')').next().unwrap_or(plain);
    let head = |h: &str| matches!(h, "2" | "3" | "4" | "5");
    match plain {
        p if p.starts_with('(') && class(p) && heads.split('|').all(head) => {
            let classes: Vec<String> = heads.split('|').map(|h| format!("\"{h}00-{h}99\"")).collect();
            Some(format!("[{}]", classes.join(", ")))
        }
        p if p.starts_with(['2', '3', '4', '5'])
            && (digits.len() == 1 || p.contains("[0-9]"))
            && any.contains(&&p[1..]) =>
        {
            Some(format!("\"{0}00-{0}99\"", &p[..1]))
        }
        p => codes(p),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes() {
        assert_eq!(codes("200").as_deref(), Some("200"));
        assert_eq!(codes("200,300-399").as_deref(), Some("[200, \"300-399\"]"));
        assert_eq!(codes("2x"), None);
        assert_eq!(classes("^2").as_deref(), Some("\"200-299\""));
        assert_eq!(classes("(2|3)[0-9][0-9]").as_deref(), Some("[\"200-299\", \"300-399\"]"));
        assert_eq!(classes("2[0-9][0-9]").as_deref(), Some("\"200-299\""));
        assert_eq!(classes("^(200|204)$"), None);
        assert_eq!(classes("").as_deref(), None);
    }
}
