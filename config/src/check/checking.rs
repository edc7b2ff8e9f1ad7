//! `[pool.check]`: what every kind of check has.

use super::election::within;
use super::kinds::Keys;
use super::pool::{SHORTEST, bounded, optional};
use crate::duration::show;
use crate::report::{At, Problem, Report};
use crate::shape::{Field, Reported, Table};
use crate::spec::CheckSpec;
use crate::value::Number;
use std::ops::RangeInclusive;
use std::time::Duration;
use vipd_core::settings::{Check, CheckKind, TcpCheck};

const HOUR: Duration = Duration::from_secs(3_600);
/// More often than every 10 ms is an attack.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=HOUR;

/// A check, unless its kind could not be told.
pub(super) fn judge(table: At<Table<CheckSpec>>, report: &mut Report<'_>) -> Result<Check, Reported> {
    let At { value, span } = table;
    let spec = value.open(report);
    let missing =
        "\"tcp\" connects, \"http\" asks for a page, \"mysql\", \"postgres\" and \"redis\" log in and ask";
    let kind = spec.kind.need("kind", missing, &span, report).map(|k| k.value);
    let port = spec.port.ok("port", report).and_then(|p| u16::try_from(p.value.0).ok());
    // Defaults are the same for every kind.
    let defaults = Check::new(CheckKind::Tcp(TcpCheck::default()));
    let interval = bounded(spec.interval, "interval", defaults.interval, INTERVALS, report);
    let fast_interval = fast(spec.fast_interval, interval, report);
    let down_interval = optional(spec.down_interval, "down-interval", INTERVALS, report);
    let timeout = timeout(spec.timeout, defaults.timeout, interval, report);
    let rise = spec.rise.or("rise", Number(defaults.rise), report).0;
    let fall = spec.fall.or("fall", Number(defaults.fall), report).0;
    let passive = spec.passive.or("passive", defaults.passive, report);
    let keys = Keys {
        send: spec.send.ok("send", report),
        expect: spec.expect.ok("expect", report),
        method: spec.method.ok("method", report),
        path: spec.path.ok("path", report),
        host: spec.host.ok("host", report),
        status: spec.status.ok("status", report),
        user: spec.user.get("user", report),
        password_file: spec.password_file.get("password-file", report),
        database: spec.database.ok("database", report),
        role: spec.role.ok("role", report),
        max_lag: spec.max_lag.ok("max-lag", report),
        heartbeat: spec.heartbeat.ok("heartbeat", report),
        galera: spec.galera.get("galera", report),
        galera_donors: spec.galera_donors.ok("galera-donors", report),
        group_replication: spec.group_replication.ok("group-replication", report),
        command: spec.command.get("command", report),
        tls: spec.tls.get("tls", report),
        tls_verify: spec.tls_verify.ok("tls-verify", report),
        tls_ca_file: spec.tls_ca_file.ok("tls-ca-file", report),
        tls_name: spec.tls_name.ok("tls-name", report),
    };
    let kind = keys.judge(kind?, &span, report);
    Ok(Check { kind, port, interval, fast_interval, down_interval, timeout, rise, fall, passive })
}

fn fast(field: Field<Duration>, interval: Duration, report: &mut Report<'_>) -> Option<Duration> {
    let At { value, span } = field.ok("fast-interval", report)?;
    within("fast-interval", value, *INTERVALS.start(), *INTERVALS.end(), &span, report);
    if value > interval {
        let problem = format!("fast-interval ({}) is longer than interval ({})", show(value), show(interval));
        let hint =
            "it is for the time in which a verdict changes; down-interval is for servers that are down";
        report.warning(&span, Problem::new(problem).hint(hint));
    }
    Some(value)
}

/// A check never overlaps itself, so `fast-interval` may be shorter than this.
fn timeout(
    field: Field<Duration>,
    default: Duration,
    interval: Duration,
    report: &mut Report<'_>,
) -> Duration {
    let Some(At { value, span }) = field.ok("timeout", report) else { return default.min(interval) };
    within("timeout", value, SHORTEST, HOUR, &span, report);
    if value > interval {
        let problem = format!(
            "a check may take longer ({}) than the time to the next ({})",
            show(value),
            show(interval)
        );
        let hint = "a server that does not answer is found out later than \"interval\" and \"fall\" suggest";
        report.warning(&span, Problem::new(problem).hint(hint));
    }
    value
}
