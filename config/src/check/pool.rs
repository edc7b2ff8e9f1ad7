//! `[[pool]]`, its servers and its check.

use super::cluster::Cluster;
use super::election::within;
use super::listen::Listeners;
use super::{Names, empty_list};
use crate::address::Endpoint;
use crate::duration::show;
use crate::report::{At, Problem, Report, quote};
use crate::shape::{Field, List, Reported, Table};
use crate::spec::{CheckSpec, PoolSpec, ServerEntry, ServerSpec};
use crate::value::{FilePath, Kind, Number, User};
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;
use vipd_core::settings::{
    Balance, Check, CheckKind, Host, MysqlCheck, Pool, Role, Server, TcpCheck, VipGroup,
};

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(600);
const DEFAULT_RETRIES: u32 = 3;
const DEFAULT_WEIGHT: u32 = 100;
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
/// Of a check, unless its interval is shorter.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;
const SHORTEST: Duration = Duration::from_millis(1);
/// More often than this is an attack.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The pools, and what the rest of the file is held against.
pub(super) struct Pools {
    pub(super) settings: Vec<Pool>,
    pub(super) names: Names,
    /// Where each pool stands, with the fallback it names, if that is known.
    places: Vec<(Range<usize>, Option<At<usize>>)>,
    /// Where the servers of each pool stand.
    servers: Vec<Vec<Range<usize>>>,
}

pub(super) fn judge(tables: Vec<Option<At<PoolSpec>>>, report: &mut Report<'_>) -> Pools {
    let mut names = Vec::new();
    let mut fallbacks = Vec::new();
    let mut pools = Pools {
        settings: vec![],
        names: Names { what: "pool", names: vec![] },
        places: vec![],
        servers: vec![],
    };
    for table in tables {
        // One that could not be read has been reported; its position is kept.
        let draft = table.map_or_else(PoolDraft::unreadable, |t| draft(t, report));
        names.push(draft.name);
        fallbacks.push(draft.fallback);
        pools.settings.push(draft.pool);
        pools.places.push((draft.place, None));
        pools.servers.push(draft.servers);
    }
    pools.names = Names::new("pool", names, report);
    for (i, fallback) in fallbacks.into_iter().enumerate() {
        let Some(wanted) = fallback else { continue };
        let found = pools.names.find("fallback", &wanted, report);
        pools.places[i].1 = found.map(|value| At { value, span: wanted.span });
        pools.settings[i].fallback = found;
    }
    circles(&pools, report);
    pools
}

/// A pool before names are looked up.
struct PoolDraft {
    name: Option<At<String>>,
    fallback: Option<At<String>>,
    pool: Pool,
    place: Range<usize>,
    servers: Vec<Range<usize>>,
}

impl PoolDraft {
    fn unreadable() -> Self {
        Self { name: None, fallback: None, pool: Pool::new("", vec![]), place: 0..0, servers: vec![] }
    }
}

fn draft(table: At<PoolSpec>, report: &mut Report<'_>) -> PoolDraft {
    let At { value, span: place } = table;
    let PoolSpec { name, balance, servers, fallback, connect_timeout, retries, check } = value;
    let name = name.need("name", "each pool has a name: name = \"primary\"", &place, report).ok();
    let name = name.map(|At { value, span }| At { value: value.0, span });
    let fallback = fallback.ok("fallback", report).map(|At { value, span }| At { value: value.0, span });
    let (list, servers) = self::servers(servers, &place, report);
    let bounds = SHORTEST..=MAX_CONNECT_TIMEOUT;
    let connect_timeout =
        bounded(connect_timeout, "connect-timeout", DEFAULT_CONNECT_TIMEOUT, bounds, report);
    let pool = Pool {
        balance: balance.or("balance", Balance::RoundRobin, report),
        check: check.ok("check", report).and_then(|c| self::check(c, report)),
        connect_timeout,
        retries: retries.or("retries", Number(DEFAULT_RETRIES), report).0,
        ..Pool::new(name.as_ref().map(|n| n.value.clone()).unwrap_or_default(), list)
    };
    PoolDraft { name, fallback, pool, place, servers }
}

/// A duration within bounds, or its default.
fn bounded(
    field: Field<Duration>,
    key: &str,
    default: Duration,
    bounds: std::ops::RangeInclusive<Duration>,
    report: &mut Report<'_>,
) -> Duration {
    let Some(At { value, span }) = field.ok(key, report) else { return default };
    within(key, value, *bounds.start(), *bounds.end(), &span, report);
    value
}

/// Refuses fallbacks that come back to where they started, each circle once.
fn circles(pools: &Pools, report: &mut Report<'_>) {
    let mut done = vec![false; pools.places.len()];
    for start in 0..pools.places.len() {
        let mut path = vec![start];
        let mut here = start;
        while !done[here]
            && let Some(next) = pools.settings[here].fallback
        {
            if let Some(entry) = path.iter().position(|p| *p == next) {
                circle(pools, &path[entry..], report);
                break;
            }
            path.push(next);
            here = next;
        }
        for pool in path {
            done[pool] = true;
        }
    }
}

fn circle(pools: &Pools, path: &[usize], report: &mut Report<'_>) {
    // The first of the file stands for the circle.
    let Some(start) = (0..path.len()).min_by_key(|i| path[*i]) else { return };
    let Some(At { span, .. }) = &pools.places[path[start]].1 else { return };
    let problem = match path {
        [only] => Problem::new(format!("fallback: pool {} falls back to itself", pools.names.show(*only))),
        _ => {
            let round = path[start..].iter().chain(&path[..=start]).map(|p| pools.names.show(*p));
            let round = round.collect::<Vec<_>>().join(" -> ");
            Problem::new(format!("fallback: the pools fall back in a circle: {round}"))
        }
    };
    report.error(span, problem.hint("a chain of fallbacks has an end"));
}

/// Warns of pools that no listener reaches.
pub(super) fn unused(pools: &Pools, listeners: &Listeners, report: &mut Report<'_>) {
    if listeners.pools.iter().any(Option::is_none) {
        return;
    }
    let mut reached = vec![false; pools.settings.len()];
    for pool in listeners.pools.iter().flatten() {
        for p in chain(pools, *pool) {
            reached[p] = true;
        }
    }
    for (i, (place, _)) in pools.places.iter().enumerate().filter(|(i, _)| !reached[*i]) {
        report.warning(
            place,
            Problem::new(format!("pool {} is used by no listener", pools.names.show(i)))
                .hint("name it as the pool of a [[listen]] or as the fallback of a pool"),
        );
    }
}

/// A pool with those it falls back to.
fn chain(pools: &Pools, start: usize) -> Vec<usize> {
    let mut chain = vec![start];
    let mut here = start;
    while let Some(next) = pools.settings.get(here).and_then(|p| p.fallback)
        && !chain.contains(&next)
    {
        chain.push(next);
        here = next;
    }
    chain
}

/// Refuses servers that are the very listener they serve.
pub(super) fn loops(
    pools: &Pools,
    listeners: &Listeners,
    cluster: &Cluster,
    vips: &[VipGroup],
    report: &mut Report<'_>,
) {
    let ours = |a: IpAddr| {
        a.is_loopback()
            || cluster.addresses.iter().any(|(_, own)| own.value == a)
            || vips.iter().any(|v| v.addresses.iter().any(|c| c.address() == a))
    };
    for (position, bind) in &listeners.binds {
        let Some(Some(pool)) = listeners.pools.get(*position) else { continue };
        for p in chain(pools, *pool) {
            for (server, span) in pools.settings[p].servers.iter().zip(&pools.servers[p]) {
                let Host::Address(address) = server.host else { continue };
                let same = match bind.value.address {
                    None => ours(address),
                    Some(b) if b.is_unspecified() => b.is_ipv4() == address.is_ipv4() && ours(address),
                    Some(b) => b == address,
                };
                if same && server.port == bind.value.port {
                    let (name, line) = (listeners.names.show(*position), report.line(&bind.span));
                    report.error(
                        span,
                        Problem::new(format!(
                            "{}:{} is where listener {name} listens (line {line}): connections would come back for ever",
                            server.host, server.port
                        ))
                        .hint("a server's own address and port, not those of the proxies"),
                    );
                }
            }
        }
    }
}

/// The servers of the pool at `pool`, each with its place.
fn servers(
    field: Field<List<ServerEntry>>,
    pool: &Range<usize>,
    report: &mut Report<'_>,
) -> (Vec<Server>, Vec<Range<usize>>) {
    let missing = "each with its port: servers = [\"db1.internal:3306\", \"db2.internal:3306\"]";
    let Ok(At { value, span }) = field.need("servers", missing, pool, report) else {
        return (vec![], vec![]);
    };
    let entries = value.open("servers", report);
    if entries.is_empty() {
        empty_list("servers", &span, report);
    }
    let drafts: Vec<_> = entries.into_iter().flatten().filter_map(|e| server(e, report)).collect();
    let names = server_names(&drafts, report);
    let mut servers: Vec<Server> = Vec::new();
    let mut places: Vec<Range<usize>> = Vec::new();
    for (draft, name) in drafts.into_iter().zip(names) {
        let Endpoint { host, port } = draft.address.value;
        let twin = servers.iter().zip(&places).find(|(s, _)| s.host == host && s.port == port);
        if let Some((_, first)) = twin {
            let line = report.line(first);
            report.error(
                &draft.address.span,
                Problem::new(format!("{host}:{port} is a server of this pool already (line {line})"))
                    .hint("a weight gives a server a greater share"),
            );
        }
        servers.push(Server {
            weight: u16::try_from(draft.weight).unwrap_or(u16::MAX),
            max_connections: draft.max_connections,
            backup: draft.backup,
            ..Server::new(name, host, port)
        });
        places.push(draft.address.span);
    }
    if !servers.is_empty() && servers.iter().all(|s| s.weight == 0) {
        report.warning(
            &span,
            Problem::new("every server of the pool has weight 0: none takes connections")
                .hint("weights go from 1 to 256; 0 is for a server that is being taken out"),
        );
    }
    (servers, places)
}

struct Draft {
    name: Option<At<String>>,
    address: At<Endpoint>,
    weight: u32,
    max_connections: Option<u32>,
    backup: bool,
}

/// A server, unless its address could not be read.
fn server(entry: At<ServerEntry>, report: &mut Report<'_>) -> Option<Draft> {
    let At { value, span } = entry;
    match value {
        ServerEntry::Short(endpoint) => Some(Draft {
            name: None,
            address: At { value: endpoint, span },
            weight: DEFAULT_WEIGHT,
            max_connections: None,
            backup: false,
        }),
        ServerEntry::Long(table) => {
            let ServerSpec { name, address, weight, max_connections, backup } = table.open(report);
            let name = name.ok("name", report).map(|At { value, span }| At { value: value.0, span });
            let weight = weight.or("weight", Number(DEFAULT_WEIGHT), report).0;
            let max_connections = max_connections.ok("max-connections", report).map(|m| m.value.0);
            let backup = backup.or("backup", false, report);
            let missing = "address = \"db1.internal:3306\"";
            let address = address.need("address", missing, &span, report).ok()?;
            Some(Draft { name, address, weight, max_connections, backup })
        }
    }
}

/// A server without a name is called by its host, or by host and port where
/// that name is taken; names that the file gives come first.
fn server_names(drafts: &[Draft], report: &mut Report<'_>) -> Vec<String> {
    let given = drafts.iter().filter_map(|d| d.name.clone());
    let mut taken: Vec<String> = given.clone().map(|n| n.value).collect();
    Names::new("server", given.map(Some).collect(), report);
    let mut names = Vec::new();
    for draft in drafts {
        let Endpoint { host, port } = &draft.address.value;
        let name = match &draft.name {
            Some(name) => name.value.clone(),
            None => {
                let host = host.to_string();
                let name = if taken.contains(&host) { format!("{host}:{port}") } else { host };
                taken.push(name.clone());
                name
            }
        };
        names.push(name);
    }
    names
}

fn check(table: At<Table<CheckSpec>>, report: &mut Report<'_>) -> Option<Check> {
    let At { value, span } = table;
    let CheckSpec { kind, interval, timeout, rise, fall, user, password_file, role, max_lag } =
        value.open(report);
    let missing = "kind = \"tcp\" connects, kind = \"mysql\" logs in and asks";
    let kind = kind.need("kind", missing, &span, report).ok().map(|k| k.value);
    let (interval, timeout) = times(interval, timeout, report);
    let login = Login {
        user: user.get("user", report),
        password_file: password_file.ok("password-file", report),
        role: role.ok("role", report),
        max_lag: max_lag.ok("max-lag", report),
    };
    let rise = rise.or("rise", Number(DEFAULT_RISE), report).0;
    let fall = fall.or("fall", Number(DEFAULT_FALL), report).0;
    let kind = match kind? {
        Kind::Tcp => {
            login.refuse(report);
            CheckKind::Tcp(TcpCheck::default())
        }
        Kind::Mysql => CheckKind::Mysql(login.mysql(&span, report)),
    };
    Some(Check { interval, timeout, rise, fall, ..Check::new(kind) })
}

/// Interval and timeout of a check.
fn times(
    interval: Field<Duration>,
    timeout: Field<Duration>,
    report: &mut Report<'_>,
) -> (Duration, Duration) {
    let interval = bounded(interval, "interval", DEFAULT_INTERVAL, MIN_INTERVAL..=HOUR, report);
    let Some(At { value, span }) = timeout.ok("timeout", report) else {
        return (interval, DEFAULT_TIMEOUT.min(interval));
    };
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
    (interval, value)
}

/// The keys of a check that logs in.
struct Login {
    user: Result<Option<At<User>>, Reported>,
    password_file: Option<At<FilePath>>,
    role: Option<At<Role>>,
    max_lag: Option<At<Duration>>,
}

impl Login {
    /// They mean nothing to a check that only connects.
    fn refuse(self, report: &mut Report<'_>) {
        let present = [
            ("user", self.user.ok().flatten().map(|a| a.span)),
            ("password-file", self.password_file.map(|a| a.span)),
            ("role", self.role.map(|a| a.span)),
            ("max-lag", self.max_lag.map(|a| a.span)),
        ];
        for (key, span) in present {
            let Some(span) = span else { continue };
            let problem = format!("{key} does not fit a check of kind \"tcp\", which only connects");
            report.error(&span, Problem::new(problem).hint("kind = \"mysql\" logs in and asks"));
        }
    }

    fn mysql(self, check: &Range<usize>, report: &mut Report<'_>) -> MysqlCheck {
        if let Ok(None) = self.user {
            report.error(
                check,
                Problem::new("user is missing: a check of kind \"mysql\" logs in")
                    .hint("a user of its own with few rights: user = \"vipd\""),
            );
        }
        MysqlCheck {
            password_file: self.password_file.map(|p| p.value.0),
            role: self.role.as_ref().map_or(Role::Any, |r| r.value),
            max_lag: max_lag(self.max_lag, self.role.as_ref(), report),
            ..MysqlCheck::new(self.user.ok().flatten().map(|u| u.value.0).unwrap_or_default())
        }
    }
}

fn max_lag(
    max_lag: Option<At<Duration>>,
    role: Option<&At<Role>>,
    report: &mut Report<'_>,
) -> Option<Duration> {
    let At { value, span } = max_lag?;
    within("max-lag", value, SHORTEST, DAY, &span, report);
    if role.is_some_and(|r| r.value == Role::Primary) {
        report.warning(
            &span,
            Problem::new(format!("max-lag has no effect with role = {}", quote("primary")))
                .hint("a primary does not lag; max-lag goes with role = \"replica\" or \"any\""),
        );
    }
    Some(value)
}
