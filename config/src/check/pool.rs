//! `[[pool]]`.

use super::election::within;
use super::{Names, checking, servers};
use crate::report::{At, Problem, Report};
use crate::shape::{Field, Reported};
use crate::spec::{DemoteEntry, DemoteSpec, PoolSpec};
use crate::value::{Count, Number};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;
use vipd_core::settings::{CheckKind, Host, OnDemote, Pool, Role, Server, Source};

pub(super) const SHORTEST: Duration = Duration::from_millis(1);
const TEN_MINUTES: Duration = Duration::from_secs(600);
const DAY: Duration = Duration::from_secs(86_400);

/// The pools, and what the rest of the file is held against.
pub(super) struct Pools {
    pub(super) settings: Vec<Pool>,
    pub(super) names: Names,
    /// Where each pool stands, with the fallback it names, if that is known.
    pub(super) places: Vec<(Range<usize>, Option<At<usize>>)>,
    /// Where the servers of each pool stand.
    pub(super) servers: Vec<Vec<Range<usize>>>,
    /// Where the source address of each pool stands, if it is one.
    pub(super) sources: Vec<Option<Range<usize>>>,
}

pub(super) fn judge(tables: Vec<Option<At<PoolSpec>>>, report: &mut Report<'_>) -> Pools {
    let mut names = Vec::new();
    let mut fallbacks = Vec::new();
    let mut pools = Pools {
        settings: vec![],
        names: Names { what: "pool", names: vec![] },
        places: vec![],
        servers: vec![],
        sources: vec![],
    };
    for table in tables {
        // One that could not be read has been reported; its position is kept.
        let draft = table.map_or_else(Draft::unreadable, |t| draft(t, report));
        names.push(draft.name);
        fallbacks.push(draft.fallback);
        pools.settings.push(draft.pool);
        pools.places.push((draft.place, None));
        pools.servers.push(draft.servers);
        pools.sources.push(draft.source);
    }
    pools.names = Names::new("pool", names, report);
    for (i, fallback) in fallbacks.into_iter().enumerate() {
        let Some(wanted) = fallback else { continue };
        let found = pools.names.find("fallback", &wanted, report);
        pools.places[i].1 = found.map(|value| At { value, span: wanted.span });
        pools.settings[i].fallback = found;
    }
    pools
}

/// A pool before names are looked up.
struct Draft {
    name: Option<At<String>>,
    fallback: Option<At<String>>,
    pool: Pool,
    place: Range<usize>,
    servers: Vec<Range<usize>>,
    source: Option<Range<usize>>,
}

impl Draft {
    fn unreadable() -> Self {
        Self {
            name: None,
            fallback: None,
            pool: Pool::new("", vec![]),
            place: 0..0,
            servers: vec![],
            source: None,
        }
    }
}

fn draft(table: At<PoolSpec>, report: &mut Report<'_>) -> Draft {
    let At { value: spec, span: place } = table;
    let name = spec.name.need("name", "each pool has a name: name = \"primary\"", &place, report).ok();
    let name = name.map(|At { value, span }| At { value: value.0, span });
    let max_rate = spec.max_rate.ok("max-rate", report).map(|m| m.value.0);
    let (list, servers) = servers::judge(spec.servers, max_rate, &place, report);
    let source = spec.source.ok("source", report);
    if let Some(source) = &source {
        one_family(source, &list, report);
    }
    let check =
        spec.check.get("check", report).and_then(|c| c.map(|c| checking::judge(c, report)).transpose());
    let headroom = spec.headroom.ok("headroom", report);
    let on_demote = spec.on_demote.ok("on-demote", report);
    if let Ok(check) = &check {
        let kind = check.as_ref().map(|c| &c.kind);
        idle_keys(kind, headroom.as_ref(), on_demote.as_ref(), report);
    }
    let defaults = Pool::new(name.as_ref().map(|n| n.value.clone()).unwrap_or_default(), list);
    let connect = SHORTEST..=TEN_MINUTES;
    let fallback = spec.fallback.get("fallback", report);
    let shared = fallback_share(spec.fallback_max_connections, &fallback, report);
    let fallback = fallback.ok().flatten().map(|At { value, span }| At { value: value.0, span });
    let (queue, queue_timeout) = queue(spec.queue, spec.queue_timeout, &defaults, report);
    let slow_start = spec.slow_start.ok("slow-start", report);
    if let Some(At { value, span }) = &slow_start {
        within("slow-start", *value, SHORTEST, DAY, span, report);
    }
    let pool = Pool {
        balance: spec.balance.or("balance", defaults.balance, report),
        fallback_max_connections: shared,
        check: check.ok().flatten(),
        connect_timeout: bounded(
            spec.connect_timeout,
            "connect-timeout",
            defaults.connect_timeout,
            connect,
            report,
        ),
        retries: spec.retries.or("retries", Number(defaults.retries), report).0,
        queue,
        queue_timeout,
        slow_start: slow_start.map(|s| s.value),
        headroom: headroom.map_or(defaults.headroom, |h| h.value.0),
        source: source.as_ref().map_or(defaults.source, |s| s.value),
        proxy_protocol: spec.proxy_protocol.or("proxy-protocol", defaults.proxy_protocol, report),
        on_down: spec.on_down.or("on-down", defaults.on_down, report),
        on_demote: demote(on_demote, defaults.on_demote, report),
        ..defaults
    };
    let source = source.filter(|s| matches!(s.value, Source::Address(_))).map(|s| s.span);
    Draft { name, fallback, pool, place, servers, source }
}

/// A duration within bounds, or its default.
pub(super) fn bounded(
    field: Field<Duration>,
    key: &str,
    default: Duration,
    bounds: RangeInclusive<Duration>,
    report: &mut Report<'_>,
) -> Duration {
    optional(field, key, bounds, report).unwrap_or(default)
}

/// A duration within bounds, if the key is there.
pub(super) fn optional(
    field: Field<Duration>,
    key: &str,
    bounds: RangeInclusive<Duration>,
    report: &mut Report<'_>,
) -> Option<Duration> {
    let At { value, span } = field.ok(key, report)?;
    within(key, value, *bounds.start(), *bounds.end(), &span, report);
    Some(value)
}

fn fallback_share<T>(
    field: Field<Count>,
    fallback: &Result<Option<T>, Reported>,
    report: &mut Report<'_>,
) -> Option<u32> {
    let At { value, span } = field.ok("fallback-max-connections", report)?;
    if let Ok(None) = fallback {
        report.error(
            &span,
            Problem::new("fallback-max-connections without fallback: there is nobody to spare")
                .hint("name the pool that steps in: fallback = \"primary\""),
        );
    }
    Some(value.0)
}

fn queue(
    length: Field<Number<0, 1_000_000>>,
    timeout: Field<Duration>,
    defaults: &Pool,
    report: &mut Report<'_>,
) -> (u32, Duration) {
    let Number(length) = length.or("queue", Number(defaults.queue), report);
    let Some(At { value, span }) = timeout.ok("queue-timeout", report) else {
        return (length, defaults.queue_timeout);
    };
    within("queue-timeout", value, SHORTEST, TEN_MINUTES, &span, report);
    if length == 0 {
        report.warning(
            &span,
            Problem::new("queue-timeout has no effect with queue = 0")
                .hint("queue says how many clients may wait; 0 refuses them at once"),
        );
    }
    (length, value)
}

fn demote(entry: Option<At<DemoteEntry>>, default: OnDemote, report: &mut Report<'_>) -> OnDemote {
    let Some(At { value, span }) = entry else { return default };
    match value {
        DemoteEntry::Close => OnDemote::Close,
        DemoteEntry::Drain(table) => {
            let DemoteSpec { drain } = table.open(report);
            let missing = "how long its sessions may go on: on-demote = { drain = \"30s\" }";
            match drain.need("drain", missing, &span, report) {
                Ok(At { value, span }) => {
                    within("drain", value, SHORTEST, DAY, &span, report);
                    OnDemote::Drain(value)
                }
                Err(Reported) => default,
            }
        }
    }
}

/// Warns of keys that need a check which the pool does not have.
fn idle_keys(
    kind: Option<&CheckKind>,
    headroom: Option<&At<Number<0, 1_000_000>>>,
    on_demote: Option<&At<DemoteEntry>>,
    report: &mut Report<'_>,
) {
    let reads_limit = match kind {
        Some(CheckKind::Mysql(_) | CheckKind::Postgres(_) | CheckKind::Redis(_)) => true,
        Some(CheckKind::Tcp(_) | CheckKind::Http(_) | CheckKind::Exec(_)) | None => false,
    };
    if let Some(At { value: Number(1..), span }) = headroom
        && !reads_limit
    {
        report.warning(
            span,
            Problem::new("headroom has no effect without a check that can read a server's own limit").hint(
                "kind = \"mysql\", \"postgres\" or \"redis\" can; max-connections of a server needs none",
            ),
        );
    }
    if let Some(At { span, .. }) = on_demote
        && kind.is_none_or(|k| k.role() != Role::Primary)
    {
        report.warning(
            span,
            Problem::new("on-demote has no effect: it is about primaries that become replicas")
                .hint("only a [pool.check] with role = \"primary\" tells of them"),
        );
    }
}

/// A connection has both its ends in one family.
fn one_family(source: &At<Source>, servers: &[Server], report: &mut Report<'_>) {
    let Source::Address(from) = source.value else { return };
    let other = |s: &&Server| matches!(s.host, Host::Address(to) if to.is_ipv4() != from.is_ipv4());
    if let Some(server) = servers.iter().find(other) {
        report.error(
            &source.span,
            Problem::new(format!("source: server {} cannot be reached from {from}", server.host))
                .hint("both are of one family, IPv4 or IPv6; \"vip\" finds the address of the right one"),
        );
    }
}
