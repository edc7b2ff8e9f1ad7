//! `frontend`, `backend` and `listen`: what their lines say.

use super::super::ledger::{Ledger, LineId, SectionId};
use super::acl::{Acls, Condition, rate_period};
use super::bind::{self, Bind};
use super::check::Checks;
use super::server::{self, Params, Server};
use super::words::time;

/// The kind of a section that relays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    Frontend,
    Backend,
    Listen,
}

impl Side {
    pub(super) fn front(self) -> bool {
        matches!(self, Self::Frontend | Self::Listen)
    }

    pub(super) fn back(self) -> bool {
        matches!(self, Self::Backend | Self::Listen)
    }
}

/// A line with its words.
pub(super) type Read = (LineId, Vec<String>);

/// A value with the line that gives it.
type From<T> = Option<(T, LineId)>;

/// A proxy, as far as it was understood.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    pub(super) side: Side,
    pub(super) name: String,
    pub(super) section: SectionId,
    pub(super) binds: Vec<Bind>,
    pub(super) backend: From<String>,
    pub(super) maxconn: From<u64>,
    pub(super) per_source: From<u64>,
    pub(super) rate_per_source: From<u64>,
    rate_period: Option<u64>,
    pub(super) proxies: Vec<String>,
    /// Backend that steps in, and the one it steps in for.
    pub(super) fallbacks: Vec<(String, String, LineId)>,
    pub(super) log: bool,
    pub(super) stats: bool,
    pub(super) client: From<u64>,
    pub(super) server_timeout: From<u64>,
    pub(super) tunnel: From<u64>,
    pub(super) connect: From<u64>,
    pub(super) queue: From<u64>,
    pub(super) retries: From<u64>,
    pub(super) balance: Option<&'static str>,
    pub(super) source: From<String>,
    pub(super) checks: Checks,
    pub(super) servers: Vec<Server>,
    pub(super) defaults: Params,
    acls: Acls,
}

const HTTP: &str = "vipd relays TCP and reads no HTTP";

impl Proxy {
    /// Reads the lines of the defaults that hold for it, then its own.
    pub(super) fn read(
        side: Side,
        name: &str,
        (section, heading): (SectionId, LineId),
        (inherited, own): (&[Read], &[Read]),
        ledger: &mut Ledger,
    ) -> Self {
        let mut proxy = Self {
            side,
            name: name.to_owned(),
            section,
            binds: vec![],
            backend: None,
            maxconn: None,
            per_source: None,
            rate_per_source: None,
            rate_period: None,
            proxies: vec![],
            fallbacks: vec![],
            log: false,
            stats: false,
            client: None,
            server_timeout: None,
            tunnel: None,
            connect: None,
            queue: None,
            retries: None,
            balance: None,
            source: None,
            checks: Checks::default(),
            servers: vec![],
            defaults: Params::default(),
            acls: Acls::default(),
        };
        ledger.carry(heading);
        for (line, words) in inherited.iter().chain(own) {
            match words.first().map(String::as_str) {
                Some("acl") => proxy.acls.add(words, *line),
                Some("stick-table") => proxy.rate_period = rate_period(words).or(proxy.rate_period),
                Some(_) | None => {}
            }
        }
        for (line, words) in inherited.iter().chain(own) {
            proxy.line(*line, words, ledger);
        }
        proxy
    }

    fn line(&mut self, line: LineId, words: &[String], ledger: &mut Ledger) {
        let word = |n: usize| words.get(n).map_or("", String::as_str);
        match word(0) {
            "option" | "no" => self.option(line, words, ledger),
            "timeout" => self.timeout(line, words, ledger),
            "bind" | "default_backend" | "use_backend" | "maxconn" | "tcp-request" | "stick-table"
            | "stick" | "stats" | "monitor-uri" => self.front(line, words, ledger),
            "server" | "server-template" | "default-server" | "balance" | "hash-type" | "retries"
            | "source" | "tcp-check" | "http-check" | "external-check" | "fullconn" | "retry-on" => {
                self.back(line, words, ledger);
            }
            "mode" => match word(1) {
                "tcp" => ledger.carry(line),
                _ => ledger.remark(line, "vipd relays these connections as TCP, and reads no HTTP"),
            },
            "log" | "log-format" | "log-tag" | "log-format-sd" | "error-log-format" => {
                ledger.lose(
                    line,
                    "vipd logs to the journal in a format of its own; access-log = true for a line a session",
                );
            }
            // Known when a condition uses it.
            "acl" => ledger
                .lose(line, "vipd decides by servers' health and by the client's address, not by content"),
            "disabled" => ledger.lose(line, "vipd has no listener that is switched off: take it out"),
            "description" | "id" | "enabled" | "grace" => ledger.carry(line),
            "bind-process" | "backlog" => ledger.remark(line, "not needed: vipd has a worker on each core"),
            "errorfile"
            | "errorfiles"
            | "errorloc"
            | "http-request"
            | "http-response"
            | "http-after-response"
            | "http-reuse"
            | "cookie"
            | "capture"
            | "compression"
            | "redirect"
            | "reqadd"
            | "rspadd"
            | "dynamic-cookie-key"
            | "unique-id-format"
            | "unique-id-header"
            | "http-error"
            | "filter"
            | "rate-limit"
            | "max-keep-alive-queue" => {
                ledger.lose(line, HTTP);
            }
            "email-alert" => ledger.lose(line, "a [[notify]] command can send mail"),
            "use-server" => ledger.lose(line, "vipd chooses servers by health, role and weight"),
            "tcp-response" => ledger.lose(line, "vipd does not look into connections"),
            other => ledger.lose(line, format!("{other} is not known to this import")),
        }
    }

    fn option(&mut self, line: LineId, words: &[String], ledger: &mut Ledger) {
        let off = words.first().is_some_and(|w| w == "no");
        let words = if off { words.get(1..).unwrap_or_default() } else { words };
        if self.checks_option(words, line, ledger) {
            return;
        }
        match words.get(1).map_or("", String::as_str) {
            "tcplog" | "httplog" if self.side.front() => {
                self.log = !off;
                ledger.remark(line, "a line in the log for each session, in vipd's own format");
            }
            "tcplog" | "httplog" => {}
            "redispatch" => ledger.remark(line, "each retry goes to another server"),
            "tcpka" | "clitcpka" | "srvtcpka" if !off => {
                ledger.remark(line, "on by default, on both sides: tcp-keepalive")
            }
            // What vipd does anyway, or what only tunes HAProxy.
            "dontlognull"
            | "log-health-checks"
            | "dontlog-normal"
            | "logasap"
            | "splice-auto"
            | "splice-request"
            | "splice-response"
            | "tcp-smart-accept"
            | "tcp-smart-connect"
            | "log-separate-errors"
            | "persist" => {
                ledger.carry(line);
            }
            "allbackups" => ledger.remark(line, "backup servers of a pool share the connections"),
            "transparent"
            | "nolinger"
            | "abortonclose"
            | "independent-streams"
            | "tcpka"
            | "clitcpka"
            | "srvtcpka"
            | "contstats"
            | "socket-stats"
            | "checkcache"
            | "originalto"
            | "srvtcpka-cnt" => {
                ledger.lose(line, "this option has no counterpart");
            }
            "forwardfor"
            | "http-server-close"
            | "httpclose"
            | "http-keep-alive"
            | "forceclose"
            | "http_proxy"
            | "http-ignore-probes"
            | "http-use-htx"
            | "http-buffer-request"
            | "http-no-delay"
            | "prefer-last-server"
            | "http-pretend-keepalive"
            | "http-tunnel"
            | "accept-invalid-http-request"
            | "accept-invalid-http-response"
            | "disable-h2-upgrade" => ledger.lose(line, HTTP),
            other => ledger.lose(line, format!("option {other} is not known to this import")),
        }
    }

    fn checks_option(&mut self, words: &[String], line: LineId, ledger: &mut Ledger) -> bool {
        if self.side.back() {
            return self.checks.option(words, line, ledger);
        }
        // A frontend inherits it from the defaults, and does nothing with it.
        words.get(1).is_some_and(|w| w.ends_with("chk") || w.ends_with("-check"))
    }

    fn timeout(&mut self, line: LineId, words: &[String], ledger: &mut Ledger) {
        let Some(ms) = words.get(2).and_then(|w| time(w)) else {
            ledger.lose(line, "this is no time");
            return;
        };
        let (front, back) = (self.side.front(), self.side.back());
        match words.get(1).map_or("", String::as_str) {
            "connect" if back => self.connect = Some((ms, line)),
            "queue" if back => self.queue = Some((ms, line)),
            "check" if back => {
                self.checks.timeout = Some(ms);
                ledger.carry(line);
            }
            "server" if back => self.server_timeout = Some((ms, line)),
            "client" if front => self.client = Some((ms, line)),
            "tunnel" => self.tunnel = Some((ms, line)),
            "client-fin" | "server-fin" => {
                ledger.lose(
                    line,
                    "a session of which one side has ended is closed when nobody has spoken for a minute",
                );
            }
            "http-request" | "http-keep-alive" | "tarpit" => ledger.lose(line, HTTP),
            "connect" | "queue" | "check" | "server" | "client" => {}
            other => ledger.lose(line, format!("timeout {other} is not known to this import")),
        }
    }

    fn front(&mut self, line: LineId, words: &[String], ledger: &mut Ledger) {
        if !self.side.front() {
            match words.first().map(String::as_str) {
                Some("stick-table" | "stick") => self.stick(line, words, ledger),
                Some("stats") => ledger.lose(line, "the page of vipd is in [status]"),
                // Inherited from the defaults, of no use here.
                Some(_) | None => {}
            }
            return;
        }
        let word = |n: usize| words.get(n).map_or("", String::as_str);
        match word(0) {
            "bind" => self.binds.extend(bind::binds(words, line, ledger)),
            "default_backend" => {
                self.backend = Some((word(1).to_owned(), line));
                ledger.carry(line);
            }
            "use_backend" => self.use_backend(line, words, ledger),
            "maxconn" => {
                self.maxconn = word(1).parse().ok().map(|n: u64| (n, line));
                ledger.carry(line);
            }
            "stick-table" | "stick" => self.stick(line, words, ledger),
            "stats" => self.stats(line, words, ledger),
            "monitor-uri" => ledger.lose(line, "/healthz of [status] answers"),
            _ => self.tcp_request(line, words, ledger),
        }
    }

    fn use_backend(&mut self, line: LineId, words: &[String], ledger: &mut Ledger) {
        let name = words.get(1).cloned().unwrap_or_default();
        match (words.get(2).map(String::as_str), self.acls.condition(words)) {
            (None, _) => {
                self.backend = Some((name, line));
                ledger.carry(line);
            }
            (Some(_), Some((Condition::NoServer(of), acls))) => {
                self.fallbacks.push((name, of, line));
                acls.into_iter().for_each(|acl| ledger.carry(acl));
            }
            (Some(_), _) => {
                ledger.lose(
                    line,
                    "vipd does not look into connections: give each kind of client a port of its own",
                );
            }
        }
    }

    fn stick(&mut self, line: LineId, words: &[String], ledger: &mut Ledger) {
        let by_source = words.iter().any(|w| w == "src");
        match words.first().map(String::as_str) {
            Some("stick") if by_source => {
                self.balance = Some("source-hash");
                ledger.remark(
                    line,
                    "a client stays with its server by balance = \"source-hash\", which needs no table",
                );
            }
            Some("stick") => ledger.lose(line, "clients are told apart by their address only"),
            // Only counts, which the limits that use it carry; or it is what `stick on` needs.
            Some(_) | None => ledger.remark(line, "vipd counts connections by client address by itself"),
        }
    }

    fn stats(&mut self, line: LineId, words: &[String], ledger: &mut Ledger) {
        self.stats = true;
        match words.get(1).map_or("", String::as_str) {
            "enable" | "uri" | "hide-version" | "show-legends" | "show-node" | "refresh" | "realm"
            | "show-desc" => {
                ledger.remark(line, "vipd's page, under / of [status]");
            }
            "auth" => ledger.lose(line, "[status] listens on loopback; elsewhere it wants token-file"),
            "admin" | "http-request" => ledger.lose(line, "vipd's page only shows; vipctl gives orders"),
            other => ledger.lose(line, format!("stats {other} has no counterpart")),
        }
    }

    fn tcp_request(&mut self, line: LineId, words: &[String], ledger: &mut Ledger) {
        let word = |n: usize| words.get(n).map_or("", String::as_str);
        if word(0) != "tcp-request" {
            return;
        }
        if word(2).starts_with("track-sc") && word(3) == "src" || word(1) == "inspect-delay" {
            ledger.remark(line, "not needed: vipd counts connections by client address by itself");
            return;
        }
        let condition = self.acls.condition(words);
        let used = match (word(2), condition) {
            ("reject", Some((Condition::Connections(n), acls))) => {
                self.per_source = Some((n.saturating_sub(1).max(1), line));
                acls
            }
            ("reject", Some((Condition::Rate(n), acls))) => {
                let period = self.rate_period.unwrap_or(1000);
                let rate = (n.saturating_mul(1000) / period).max(1);
                self.rate_per_source = Some((rate, line));
                ledger.note(line, format!("a rate over {period} ms there, over a second here"));
                acls
            }
            ("expect-proxy", Some((Condition::Source(networks), acls))) => {
                self.proxies.extend(networks);
                acls
            }
            (action, _) => {
                let why = match action {
                    "accept" | "reject" => "who may connect is a matter for the firewall (nftables)",
                    _ => "vipd does not look into connections",
                };
                ledger.lose(line, why);
                return;
            }
        };
        ledger.carry(line);
        used.into_iter().for_each(|acl| ledger.carry(acl));
    }

    fn back(&mut self, line: LineId, words: &[String], ledger: &mut Ledger) {
        if !self.side.back() {
            return;
        }
        let word = |n: usize| words.get(n).map_or("", String::as_str);
        match word(0) {
            "server" => self.servers.extend(server::server(words, &self.defaults, line, ledger)),
            "server-template" => self.servers.extend(server::template(words, &self.defaults, line, ledger)),
            "default-server" => {
                server::params(words.get(1..).unwrap_or_default(), &mut self.defaults, line, ledger);
            }
            "balance" => self.balance(line, word(1), ledger),
            "hash-type" if word(1) == "consistent" => ledger.carry(line),
            "hash-type" => ledger.remark(line, "vipd's hash is always consistent"),
            "retries" => {
                self.retries = word(1).parse().ok().map(|n: u64| (n.min(100), line));
                ledger.carry(line);
            }
            "source" => {
                self.source = Some((word(1).to_owned(), line));
                ledger.carry(line);
                if words.len() > 2 {
                    ledger.note(line, "vipd does not take clients' addresses for its own: proxy-protocol tells them to the servers");
                }
            }
            "tcp-check" => self.checks.tcp_check(words, line, ledger),
            "http-check" => self.checks.http_check(words, line, ledger),
            "external-check" => self.checks.external(words, line, ledger),
            "fullconn" => ledger.lose(
                line,
                "vipd has no limits that follow the load; max-connections of a server is one that stands",
            ),
            _ => ledger.lose(line, HTTP),
        }
    }

    fn balance(&mut self, line: LineId, word: &str, ledger: &mut Ledger) {
        self.balance = Some(match word.split_once('(').map_or(word, |(name, _)| name) {
            "roundrobin" | "static-rr" => "round-robin",
            "leastconn" => "least-connections",
            "source" => "source-hash",
            "random" => "random-two",
            "first" => "first",
            other => {
                ledger.lose(
                    line,
                    format!("balance {other} needs a look into connections: round-robin instead"),
                );
                return;
            }
        });
        ledger.carry(line);
    }
}
