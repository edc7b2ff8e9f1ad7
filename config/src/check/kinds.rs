//! `[pool.check]`: what belongs to one kind of check, or to some.

use super::election::within;
use super::empty_list;
use super::pool::SHORTEST;
use crate::address::{HostField, HostName};
use crate::choice::Kind;
use crate::report::{At, Problem, Report, quote};
use crate::shape::{OneOrMore, Reported};
use crate::value::{Command, FilePath, Method, Path, Plain, StatusCodes, Text, User};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;
use vipd_core::settings::{
    CheckKind, ExecCheck, Galera, Heartbeat, HttpCheck, MysqlCheck, PostgresCheck, RedisCheck, Role,
    TcpCheck, Tls,
};

const DAY: Duration = Duration::from_secs(86_400);

/// The value of a key, unless it is absent or wrong.
type Key<T> = Option<At<T>>;
/// The same of a key whose absence says something.
type Needed<T> = Result<Option<At<T>>, Reported>;

/// The keys that do not fit every kind.
pub(super) struct Keys {
    pub(super) send: Key<Text>,
    pub(super) expect: Key<Text>,
    pub(super) method: Key<Method>,
    pub(super) path: Key<Path>,
    pub(super) host: Key<HostField>,
    pub(super) status: Key<OneOrMore<StatusCodes>>,
    pub(super) user: Needed<User>,
    pub(super) password_file: Needed<FilePath>,
    pub(super) database: Key<Plain>,
    pub(super) role: Key<Role>,
    pub(super) max_lag: Key<Duration>,
    pub(super) heartbeat: Key<Heartbeat>,
    pub(super) galera: Needed<bool>,
    pub(super) galera_donors: Key<bool>,
    pub(super) group_replication: Key<bool>,
    pub(super) command: Needed<Command>,
    pub(super) tls: Needed<bool>,
    pub(super) tls_verify: Key<bool>,
    pub(super) tls_ca_file: Key<FilePath>,
    pub(super) tls_name: Key<HostName>,
}

const DATABASES: &[Kind] = &[Kind::Mysql, Kind::Postgres, Kind::Redis];
const USERS: &[Kind] = &[Kind::Mysql, Kind::Postgres, Kind::Redis, Kind::Exec];
const TLS: &[Kind] = &[Kind::Http, Kind::Mysql, Kind::Postgres, Kind::Redis];

impl Keys {
    /// What a check of a kind asks; `check` is where it stands.
    pub(super) fn judge(self, kind: Kind, check: &Range<usize>, report: &mut Report<'_>) -> CheckKind {
        self.misfits(kind, report);
        match kind {
            Kind::Tcp => CheckKind::Tcp(self.tcp()),
            Kind::Http => CheckKind::Http(self.http(report)),
            Kind::Mysql => CheckKind::Mysql(self.mysql(check, report)),
            Kind::Postgres => CheckKind::Postgres(self.postgres(check, report)),
            Kind::Redis => CheckKind::Redis(self.redis(report)),
            Kind::Exec => CheckKind::Exec(self.exec(check, report)),
        }
    }

    /// Refuses keys that mean nothing to this kind.
    fn misfits(&self, kind: Kind, report: &mut Report<'_>) {
        fn of<T>(key: &Key<T>) -> Option<&Range<usize>> {
            key.as_ref().map(|at| &at.span)
        }
        fn needed<T>(key: &Needed<T>) -> Option<&Range<usize>> {
            key.as_ref().ok().and_then(of)
        }
        let present: [(_, _, &[Kind]); 20] = [
            ("send", of(&self.send), &[Kind::Tcp]),
            ("expect", of(&self.expect), &[Kind::Tcp, Kind::Http]),
            ("method", of(&self.method), &[Kind::Http]),
            ("path", of(&self.path), &[Kind::Http]),
            ("host", of(&self.host), &[Kind::Http]),
            ("status", of(&self.status), &[Kind::Http]),
            ("user", needed(&self.user), USERS),
            ("password-file", needed(&self.password_file), DATABASES),
            ("database", of(&self.database), &[Kind::Postgres]),
            ("role", of(&self.role), DATABASES),
            ("max-lag", of(&self.max_lag), DATABASES),
            ("heartbeat", of(&self.heartbeat), &[Kind::Mysql]),
            ("galera", needed(&self.galera), &[Kind::Mysql]),
            ("galera-donors", of(&self.galera_donors), &[Kind::Mysql]),
            ("group-replication", of(&self.group_replication), &[Kind::Mysql]),
            ("command", needed(&self.command), &[Kind::Exec]),
            ("tls", needed(&self.tls), TLS),
            ("tls-verify", of(&self.tls_verify), TLS),
            ("tls-ca-file", of(&self.tls_ca_file), TLS),
            ("tls-name", of(&self.tls_name), TLS),
        ];
        for (key, span, kinds) in present {
            let Some(span) = span.filter(|_| !kinds.contains(&kind)) else { continue };
            report.error(
                span,
                Problem::new(format!("{key} does not fit a check of kind {:?}", kind.word()))
                    .hint(format!("it goes with kind = {}", either(kinds))),
            );
        }
    }

    fn tcp(self) -> TcpCheck {
        TcpCheck { send: self.send.map(|s| s.value.0), expect: self.expect.map(|e| e.value.0) }
    }

    fn http(mut self, report: &mut Report<'_>) -> HttpCheck {
        let tls = self.tls(report);
        if let (Some(At { value: Text(_), span }), Some(At { value: Method(method), .. })) =
            (&self.expect, &self.method)
            && method == "HEAD"
        {
            report.error(
                span,
                Problem::new("expect looks into the body, and an answer to HEAD has none")
                    .hint("method = \"GET\" asks for the body too"),
            );
        }
        HttpCheck {
            tls,
            method: self.method.map_or_else(|| "GET".into(), |m| m.value.0),
            path: self.path.map_or_else(|| "/".into(), |p| p.value.0),
            host: self.host.map(|h| h.value.0),
            status: status(self.status, report),
            expect: self.expect.map(|e| e.value.0),
        }
    }

    fn mysql(mut self, check: &Range<usize>, report: &mut Report<'_>) -> MysqlCheck {
        let tls = self.tls(report);
        let galera = self.galera(report);
        let max_lag = self.max_lag(report);
        MysqlCheck {
            user: login(self.user, Kind::Mysql, check, report),
            password_file: password(self.password_file),
            tls,
            role: self.role.map_or(Role::Any, |r| r.value),
            max_lag,
            heartbeat: self.heartbeat.map(|h| h.value),
            galera,
            group_replication: self.group_replication.is_some_and(|g| g.value),
        }
    }

    fn postgres(mut self, check: &Range<usize>, report: &mut Report<'_>) -> PostgresCheck {
        let tls = self.tls(report);
        let max_lag = self.max_lag(report);
        PostgresCheck {
            user: login(self.user, Kind::Postgres, check, report),
            password_file: password(self.password_file),
            database: self.database.map_or_else(|| "postgres".into(), |d| d.value.0),
            tls,
            role: self.role.map_or(Role::Any, |r| r.value),
            max_lag,
        }
    }

    fn redis(mut self, report: &mut Report<'_>) -> RedisCheck {
        let tls = self.tls(report);
        let max_lag = self.max_lag(report);
        if let (Ok(Some(user)), Ok(None)) = (&self.user, &self.password_file) {
            report.error(
                &user.span,
                Problem::new("user without password-file: Redis knows no login without a password")
                    .hint("name the file that holds it, or take the user out"),
            );
        }
        RedisCheck {
            user: self.user.ok().flatten().map(|u| u.value.0),
            password_file: password(self.password_file),
            tls,
            role: self.role.map_or(Role::Any, |r| r.value),
            max_lag,
        }
    }

    fn exec(self, check: &Range<usize>, report: &mut Report<'_>) -> ExecCheck {
        if let Ok(None) = self.command {
            report.error(
                check,
                Problem::new("command is missing: a check of kind \"exec\" runs one")
                    .hint("exit status 0 is success: command = [\"/usr/local/bin/check-db\", \"--fast\"]"),
            );
        }
        let command = self.command.ok().flatten().map(|c| command(c, report)).unwrap_or_default();
        ExecCheck { command, user: self.user.ok().flatten().map(|u| u.value.0) }
    }

    fn max_lag(&self, report: &mut Report<'_>) -> Option<Duration> {
        let At { value, span } = self.max_lag.as_ref()?;
        within("max-lag", *value, SHORTEST, DAY, span, report);
        if self.role.as_ref().is_some_and(|r| r.value == Role::Primary) {
            report.warning(
                span,
                Problem::new(format!("max-lag has no effect with role = {}", quote("primary")))
                    .hint("a primary does not lag; max-lag goes with role = \"replica\" or \"any\""),
            );
        }
        Some(*value)
    }

    fn galera(&self, report: &mut Report<'_>) -> Option<Galera> {
        let on = matches!(&self.galera, Ok(Some(At { value: true, .. })));
        if let Some(At { span, .. }) = &self.galera_donors
            && !on
            && self.galera.is_ok()
        {
            report.error(
                span,
                Problem::new("galera-donors without galera = true: nobody is asked for a Galera state")
                    .hint("galera = true asks for it"),
            );
        }
        if let Some(At { value: true, span }) = &self.group_replication
            && on
        {
            report.error(
                span,
                Problem::new("galera and group-replication exclude each other: no server has both")
                    .hint("Galera is MariaDB's and Percona's, group replication is MySQL's"),
            );
        }
        on.then(|| Galera { donors: self.galera_donors.as_ref().is_some_and(|d| d.value) })
    }

    fn tls(&mut self, report: &mut Report<'_>) -> Option<Tls> {
        let verify = self.tls_verify.take();
        let ca_file = self.tls_ca_file.take();
        let name = self.tls_name.take();
        let on = matches!(&self.tls, Ok(Some(At { value: true, .. })));
        if on {
            let verify = verify.is_none_or(|v| v.value);
            if let Some(At { span, .. }) = ca_file.as_ref().filter(|_| !verify) {
                report.warning(
                    span,
                    Problem::new("tls-ca-file has no effect with tls-verify = false")
                        .hint("take tls-verify out: certificates are verified"),
                );
            }
            return Some(Tls {
                verify,
                ca_file: ca_file.map(|f| f.value.0),
                server_name: name.map(|n| n.value.0),
            });
        }
        let keys = [
            ("tls-verify", verify.map(|v| v.span)),
            ("tls-ca-file", ca_file.map(|f| f.span)),
            ("tls-name", name.map(|n| n.span)),
        ];
        for (key, span) in keys {
            // Nothing follows from a tls that could not be read.
            let Some(span) = span.filter(|_| self.tls.is_ok()) else { continue };
            report.error(
                &span,
                Problem::new(format!("{key} without tls = true: the check does not speak TLS"))
                    .hint("tls = true switches it on"),
            );
        }
        None
    }
}

/// `"mysql", "postgres" or "redis"`.
fn either(kinds: &[Kind]) -> String {
    let words: Vec<_> = kinds.iter().map(|k| format!("{:?}", k.word())).collect();
    match words.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        words => words.concat(),
    }
}

/// Who logs in, where somebody has to.
fn login(user: Needed<User>, kind: Kind, check: &Range<usize>, report: &mut Report<'_>) -> String {
    if let Ok(None) = user {
        report.error(
            check,
            Problem::new(format!("user is missing: a check of kind {:?} logs in", kind.word()))
                .hint("a user of its own with few rights: user = \"vipd\""),
        );
    }
    user.ok().flatten().map(|u| u.value.0).unwrap_or_default()
}

fn password(file: Needed<FilePath>) -> Option<PathBuf> {
    file.ok().flatten().map(|f| f.value.0)
}

/// The status codes that are good; without the key those of success and of
/// redirection, as for HAProxy.
fn status(key: Key<OneOrMore<StatusCodes>>, report: &mut Report<'_>) -> Vec<RangeInclusive<u16>> {
    let Some(At { value, span }) = key else { return vec![200..=399] };
    match value {
        OneOrMore::One(StatusCodes(codes)) => vec![codes],
        OneOrMore::More(list) => {
            let codes = list.open("status", report);
            if codes.is_empty() {
                empty_list("status", &span, report);
            }
            codes.into_iter().flatten().map(|c| c.value.0).collect()
        }
    }
}

/// A program and its arguments.
pub(super) fn command(key: At<Command>, report: &mut Report<'_>) -> Vec<String> {
    let At { value: Command(list), span } = key;
    let words = list.open("command", report);
    match words.first() {
        None => empty_list("command", &span, report),
        Some(Some(At { value, span })) if !value.0.starts_with('/') => {
            report.error(
                span,
                Problem::new(format!("command: {} is not an absolute path", quote(&value.0)))
                    .hint("a daemon searches no PATH: \"/usr/local/bin/...\""),
            );
        }
        Some(_) => {}
    }
    words.into_iter().flatten().map(|w| w.value.0).collect()
}
